"""Each method keeps and leaves out the samples that cases/methods.json lists, which were determined by hand."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from builders import LEAST, few_shot_example, json_case, problem, problems
from selftaught.config.loading import config_from_values, flat_values
from selftaught.engines.scripted import ScriptedEngine
from selftaught.methods.table import METHODS
from selftaught.records.problems import CheckResult, Problem
from selftaught.records.samples import ModelRef
from toy import run_toy, toy_config, toy_task

CASES = json_case("methods.json")

MAX_NEW_TOKENS = 60

# By the letters of docs/design.md, section 1: (b) samples and temperature, (c) hints, (d) accept, (e) duplicates and
# cap, (f) training set, (g) start. "this": this iteration's samples; "human": with human solutions.
KNOB_TABLE = {
    "star": (1, 0.0, "failed", "answer", "answer", "text", None, "this", "base"),
    "star-checked": (1, 0.0, "failed", "answer", "answer+steps", "text", None, "this", "base"),
    "star-no-rationalization": (1, 0.0, "none", "answer", "answer", "text", None, "this", "base"),
    "star-accumulate": (1, 0.0, "failed", "answer", "answer", "text", None, "all", "base"),
    "star-continue": (1, 0.0, "failed", "answer", "answer", "text", None, "this", "previous"),
    "adastar": (1, 1.0, "failed", "answer", "answer", "text", None, "this", "previous"),
    "rft": (100, 0.7, "none", "answer", "answer", "normalized-text", None, "human + this", "base"),
    "rest-em": (32, 0.7, "none", "answer", "answer", "text", 10, "this", "base"),
    "direct": (0, 0.0, "none", "answer", "answer", "text", None, "this", "base"),
    "seeds-only": (0, 0.0, "none", "answer", "answer", "text", None, "this", "base"),
    "retry": (1, 0.0, "failed", "answer", "answer", "text", None, "this", "base"),
    "hint-shuffled": (1, 0.0, "failed", "answer", "answer", "text", None, "this", "base"),
    "hint-text": (1, 0.0, "failed", "answer", "answer", "text", None, "this", "base"),
    "random-matched": (1, 0.0, "failed", "answer", "answer", "text", None, "this", "base"),
    "unfiltered": (1, 0.0, "failed", "parseable", "parseable", "text", None, "this", "base"),
}

KNOBS = {
    "sampling.num_samples",
    "sampling.temperature",
    "sampling.top_p",
    "sampling.top_k",
    "rationalization.hints",
    "rationalization.shows",
    "selection.require",
    "selection.require_hinted",
    "selection.unique_by",
    "selection.max_per_problem",
    "selection.keep",
    "training.window",
    "training.human_solutions",
    "training.target",
    "training.start_from",
    "training.sft_first",
}


ANSWERS = {"a": "3", "b": "4", "c": "5", "d": "6"}
WRONG = "9"


def completion(scripted: str, answer: str, hint: str = "") -> str:
    reasoning, _, outcome = scripted.partition(" ")
    if scripted == "none":
        return " <r>I wonder"
    if scripted == "long":
        return f" <r>r1</r>\n{answer}\n" + "and so on " * MAX_NEW_TOKENS
    stated = {"ok": answer, "hint": hint}.get(outcome, WRONG)
    return f" <r>{reasoning}</r>\n{stated}"


def kind_of_prompt(hint: str, answer: str) -> str:
    """In the script's words, by what the prompt shows beside the question."""
    if not hint:
        return "rationale"
    if hint == answer:
        return "rationalization"
    return "wrong hint" if hint in ANSWERS.values() else "text hint"


def engine_for(model: ModelRef, sampled: list[str]) -> ScriptedEngine:
    """A model whose k-th completion of a prompt is entry k of the script; it adds the problems to `sampled`."""
    iteration = str(model.iteration + 1)
    times: dict[str, int] = defaultdict(int)

    def reply(prompt: str, seed: int) -> str:
        question = prompt.rpartition("Q: ")[2]
        name = question[len("what is ")]
        if name in "vt":  # dev and test
            return completion("r1 bad", "3")
        hint, answer = question.partition("(answer: ")[2].partition(")")[0], ANSWERS[name]
        kind = kind_of_prompt(hint, answer)
        sampled.append(f"{name}{'*' if hint else ''}/{iteration}")
        entries = CASES["script"][iteration][kind][name]
        k, times[prompt] = times[prompt], times[prompt] + 1
        return completion(entries[min(k, len(entries) - 1)], answer, hint)

    return ScriptedEngine(reply)


def has_no_r3(problem: Problem, completion: str) -> CheckResult:
    passed = "r3" not in completion
    return CheckResult(passed=passed, share=float(passed), detail="" if passed else "r3")


def run_method(folder: Path, method: str, *, validation_share: float = 0.0) -> list[str]:
    """Run a method on the script with one rehearsed few-shot example; returns the sampled problems, in order."""
    sampled: list[str] = []
    config = toy_config(
        method,
        sampling__max_new_tokens=MAX_NEW_TOKENS,
        training__num_rehearsed=1,
        training__validation_share=validation_share,
        loop__patience=9,
    )
    task = toy_task(
        train=tuple(problem(id, answer=answer, rationale="by a human") for id, answer in ANSWERS.items()),
        dev=problems("v"),
        test=(problem("t"),),
        few_shot=(few_shot_example("s1"), few_shot_example("s2")),
        check_steps=has_no_r3 if method == "star-checked" else None,
    )
    run_toy(folder, config=config, task=task, chunk=64, open_engine=lambda model: engine_for(model, sampled))
    return sampled


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def spelled_out(items: list[str]) -> list[str]:
    """'d/1/rationale/0-2 truncated' as three items."""
    spelled = []
    for item in items:
        before, _, rest = item.rpartition("/")
        numbers, _, reason = rest.partition(" ")
        first, _, last = numbers.partition("-")
        spelled += [f"{before}/{k} {reason}".strip() for k in range(int(first), int(last or first) + 1)]
    return spelled


def finished(folder: Path) -> dict[str, dict[str, Any]]:
    """What each iteration of a run kept, left out and started from, as in the cases."""
    iterations = {}
    for path in sorted((folder / "examples").iterdir()):
        started_from = json.loads((folder / "checkpoints" / path.stem / "checkpoint.json").read_text())["started_from"]
        iterations[str(int(path.stem))] = {
            "kept": [f"{e['source']} {e['problem_id']}/{e['iteration']}/{e['index']}" for e in lines(path)],
            "left_out": [
                f"{i['problem_id']}/{i['iteration']}/{i['kind']}/{i['index']} {i['reason']}"
                for i in lines(folder / "left_out" / path.name)
            ],
            "started_from": "base" if started_from == "scripted" else str(Path(started_from).relative_to(folder)),
        }
    return iterations


@pytest.mark.parametrize("method", METHODS)
def test_every_iteration_keeps_and_leaves_out_the_listed_samples(method: str, tmp_path: Path) -> None:
    run_method(tmp_path, method)
    expected = {
        n: {**case, "kept": spelled_out(case["kept"]), "left_out": spelled_out(case["left_out"])}
        for n, case in CASES["expected"][method].items()
    }
    assert finished(tmp_path) == expected


@pytest.mark.parametrize("method", METHODS)
def test_no_training_problem_is_trained_on_with_its_hint(method: str, tmp_path: Path) -> None:
    run_method(tmp_path, method)
    for path in (tmp_path / "examples").iterdir():
        hinted = [(e["source"], e["problem_id"]) for e in lines(path) if "(answer" in e["prompt"]]
        assert set(hinted) <= {("rehearsed", "s1")}


@pytest.mark.parametrize("method", METHODS)
def test_kept_and_left_out_add_up_to_what_was_sampled(method: str, tmp_path: Path) -> None:
    run_method(tmp_path, method)
    stages = [path for path in (tmp_path / "samples").iterdir() if path.stem.split("-")[1].startswith("rational")]
    sampled = Counter(str(s["iteration"]) for path in stages for s in lines(path))
    total = 0
    for n, case in finished(tmp_path).items():
        total = sampled[n] + (total if method == "star-accumulate" else 0)
        assert sum(item.startswith("rational") for item in case["kept"]) + len(case["left_out"]) == total


@pytest.mark.parametrize("method", ["star", "rest-em", "rft"])
def test_a_problem_held_out_for_validation_is_not_trained_on_in_any_form(method: str, tmp_path: Path) -> None:
    run_method(tmp_path, method, validation_share=0.5)
    held_out = {i["problem_id"] for i in lines(tmp_path / "left_out" / "001.jsonl") if "held out" in i["reason"]}
    assert held_out
    assert not held_out & {e["problem_id"] for e in lines(tmp_path / "examples" / "001.jsonl")}


def test_star_gives_every_failed_problem_one_hint_and_no_other_problem_any(tmp_path: Path) -> None:
    """A correct answer in a truncated completion is not kept, but its problem has not failed."""
    assert run_method(tmp_path, "star") == [
        "a/1",
        "b/1",
        "c/1",
        "d/1",
        "b*/1",
        "c*/1",
        "a/2",
        "b/2",
        "c/2",
        "d/2",
        "d*/2",
    ]


@pytest.mark.parametrize("method", ["star-no-rationalization", "rft", "rest-em"])
def test_a_method_without_hints_gives_none(method: str, tmp_path: Path) -> None:
    assert not [item for item in run_method(tmp_path, method) if "*" in item]


@pytest.mark.parametrize("method", ["direct", "seeds-only"])
def test_a_baseline_samples_nothing_to_train_on(method: str, tmp_path: Path) -> None:
    assert run_method(tmp_path, method) == []


def test_rft_trains_on_human_solutions_first_and_then_for_one_iteration(tmp_path: Path) -> None:
    run_method(tmp_path, "rft")
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["000", "001"]


def test_the_direct_baseline_trains_on_answers_alone(tmp_path: Path) -> None:
    run_method(tmp_path, "direct")
    assert {e["completion"] for e in lines(tmp_path / "examples" / "001.jsonl")} == {" 3", " 4", " 5", " 6"}


@pytest.mark.parametrize("method", KNOB_TABLE)
def test_the_knobs_are_those_of_the_published_table(method: str) -> None:
    knobs = METHODS[method].knobs
    training_set = {"iteration": "this", "all": "all"}[str(knobs["training.window"])]
    row = (
        knobs["sampling.num_samples"],
        knobs["sampling.temperature"],
        knobs["rationalization.hints"],
        "+".join(knobs["selection.require"]),
        "+".join(knobs["selection.require_hinted"]),
        knobs["selection.unique_by"],
        knobs["selection.max_per_problem"],
        f"human + {training_set}" if knobs["training.human_solutions"] else training_set,
        knobs["training.start_from"],
    )
    assert row == KNOB_TABLE[method]


def test_the_table_has_every_method_but_custom() -> None:
    assert set(METHODS) == {*KNOB_TABLE, "custom"} == set(CASES["expected"])


def test_each_method_differs_from_star_in_its_own_knobs() -> None:
    differences = {
        name: {key: value for key, value in named.knobs.items() if value != METHODS["star"].knobs.get(key)}
        for name, named in METHODS.items()
    }
    assert differences["rest-em"]["sampling.top_k"] == 40
    assert differences["rft"]["training.sft_first"] is True
    assert differences["rft"]["loop.max_iterations"] == 1
    assert differences["direct"]["training.target"] == "answer"
    assert differences["star-no-rationalization"] == {"rationalization.hints": "none"}
    assert differences["star-accumulate"] == {"training.window": "all"}
    assert differences["star-continue"] == {"training.start_from": "previous"}
    assert differences["star-checked"] == {"selection.require_hinted": ("answer", "steps")}
    assert differences["retry"] == {"rationalization.shows": "nothing", "rationalization.temperature": 0.7}
    assert differences["hint-shuffled"] == {"rationalization.shows": "shuffled"}
    assert differences["hint-text"] == {"rationalization.shows": "text"}
    assert differences["random-matched"] == {"selection.keep": "random-matched"}
    anything = ("parseable",)
    assert differences["unfiltered"] == {"selection.require": anything, "selection.require_hinted": anything}
    assert differences["seeds-only"] == {"rationalization.hints": "none", "sampling.num_samples": 0}


@pytest.mark.parametrize("method", KNOB_TABLE)
def test_a_method_fixes_every_knob(method: str) -> None:
    own = {"loop.max_iterations", "task.choose", "task.problems_per_iteration", "rationalization.temperature"}
    assert set(METHODS[method].knobs) - own == KNOBS


def test_custom_fixes_nothing_and_its_defaults_are_stars() -> None:
    assert METHODS["custom"].knobs == {}
    defaults = flat_values(config_from_values(LEAST))
    assert {key: defaults[key] for key in METHODS["star"].knobs} == dict(METHODS["star"].knobs)
