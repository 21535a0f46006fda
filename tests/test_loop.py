"""The loop with a scripted model: what it samples and keeps, when it stops, and that a stopped run can be resumed."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selftaught.engines.scripted import ScriptedEngine
from selftaught.methods.table import METHODS
from selftaught.records.errors import (
    EngineError,
    Interrupted,
    RefusedError,
    StoreError,
)
from selftaught.records.events import Event, SplitMeasured
from selftaught.records.samples import ModelRef, TokenScores
from selftaught.records.training import Checkpoint, StepMetrics, Training
from selftaught.runs.reading import read_measurements, read_summaries
from selftaught.stages.weight_proof import NOISE_BFLOAT16
from selftaught.training.none import NullTrainer
from tiny_models import make_adapters
from toy import DEV, TEST, TRAIN, folder_bytes, reply, run_toy, toy_config, toy_problem, toy_task

GOLDEN = Path(__file__).parent / "golden" / "run"


def examples(run_dir: Path, iteration: int = 1) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run_dir / "examples" / f"{iteration:03d}.jsonl").read_text().splitlines()]


def sampled(engine: ScriptedEngine) -> list[str]:
    """The words of the problems that were sampled, in order, with a * if the prompt had a hint."""
    questions = [request.prompt.rpartition("Q: ")[2].partition("\nA:")[0] for request in engine.requests]
    return [q.split()[0] + ("*" if "(answer" in q else "") for q in questions]


def test_one_iteration_writes_the_golden_files(tmp_path: Path) -> None:
    run_toy(tmp_path, config=toy_config(loop__max_iterations=1))
    got = folder_bytes(tmp_path, "samples", "examples", "left_out", "prompts.jsonl")
    if os.environ.get("UPDATE_GOLDEN"):
        for name, content in got.items():
            (GOLDEN / name).parent.mkdir(parents=True, exist_ok=True)
            (GOLDEN / name).write_bytes(content)
    assert got == folder_bytes(GOLDEN, "samples", "examples", "left_out", "prompts.jsonl")


def test_failed_problems_and_no_others_get_hints(tmp_path: Path) -> None:
    engines: list[ScriptedEngine] = []
    run_toy(tmp_path, config=toy_config(loop__max_iterations=1), engines=engines)
    assert sampled(engines[0]) == ["gnu", "hare", *[p.id for p in TRAIN], "bear*", "cat*", "dingo*"]


def test_examples_have_correct_answers_and_their_prompts_neither_hint_nor_few_shot_examples(tmp_path: Path) -> None:
    run_toy(tmp_path, config=toy_config(loop__max_iterations=1))
    assert [(e["problem_id"], e["source"]) for e in examples(tmp_path)] == [
        ("ant", "rationale"),
        ("bear", "rationalization"),
        ("eel", "rationale"),
        ("fox", "rationale"),
    ]
    assert [e["prompt"] for e in examples(tmp_path)][1] == "Q: bear hinted\nA:"
    assert examples(tmp_path)[1]["completion"] == " <r>count bear</r>\n4"


def test_the_step_check_leaves_out_a_correct_answer_with_wrong_reasoning(tmp_path: Path) -> None:
    run_toy(tmp_path, config=toy_config(loop__max_iterations=1, selection__require=("answer", "steps")))
    assert "fox" not in [e["problem_id"] for e in examples(tmp_path)]
    (summary,) = read_summaries(tmp_path)
    assert summary.left_out["wrong steps"] == 1
    assert summary.rationale.false_positive == 1


def test_kept_and_left_out_add_up_to_everything_that_was_sampled(tmp_path: Path) -> None:
    run_toy(tmp_path)
    for s in read_summaries(tmp_path):
        assert s.examples + sum(s.left_out.values()) == s.rationale.samples + s.rationalization.samples


def test_the_base_model_and_fine_tuned_ones_get_the_configured_numbers_of_few_shot_examples(tmp_path: Path) -> None:
    engines: list[ScriptedEngine] = []
    run_toy(tmp_path, engines=engines)
    assert all(r.prompt.count("Q: ") == 3 for r in engines[0].requests)
    assert all(r.prompt.count("Q: ") == 1 for r in engines[1].requests)


def test_few_shot_examples_are_rehearsed_with_and_without_hints(tmp_path: Path) -> None:
    run_toy(tmp_path, config=toy_config(loop__max_iterations=1, training__num_rehearsed=2))
    rehearsed = [e for e in examples(tmp_path) if e["source"] == "rehearsed"]
    assert [(e["problem_id"], "(answer" in str(e["prompt"])) for e in rehearsed] == [
        ("lemur", False),
        ("lemur", True),
        ("mole", False),
        ("mole", True),
    ]


def test_a_method_without_hints_rehearses_without_them(tmp_path: Path) -> None:
    run_toy(tmp_path, config=toy_config("star-no-rationalization", loop__max_iterations=1, training__num_rehearsed=2))
    assert not any("(answer" in str(e["prompt"]) for e in examples(tmp_path))


def test_test_problems_are_sampled_only_after_every_iteration_is_finished(tmp_path: Path) -> None:
    finished_iterations: list[int] = []

    def watching(prompt: str, seed: int) -> str:
        word = prompt.rpartition("Q: ")[2].split()[0]
        if word in {p.id for p in TEST}:
            finished_iterations.append(len(read_summaries(tmp_path)))
        return reply(prompt, seed)

    run_toy(tmp_path, reply=watching)
    assert finished_iterations
    assert set(finished_iterations) == {2}


def test_every_problem_of_extrapolation_is_measured_for_the_base_model_and_the_best_one(tmp_path: Path) -> None:
    outcome = run_toy(tmp_path, task=toy_task(extrapolation=(toy_problem("newt", "easy"), toy_problem("owl", "never"))))
    assert [(m.n, m.correct) for m in outcome.measured["extrapolation"]] == [(2, 1)]


def test_dev_problems_never_reach_the_training_files(tmp_path: Path) -> None:
    run_toy(tmp_path)
    text = "".join(content.decode() for content in folder_bytes(tmp_path, "examples").values())
    assert not any(p.id in text for p in (*DEV, *TEST))


def test_of_models_with_equal_accuracy_the_earliest_is_best_even_if_it_is_the_base_model(tmp_path: Path) -> None:
    outcome = run_toy(tmp_path)
    assert outcome.best == 0
    assert [s.dev.accuracy for s in outcome.summaries] == [0.5, 0.5]


def test_the_loop_stops_after_patience_iterations_without_a_rise_on_dev(tmp_path: Path) -> None:
    outcome = run_toy(tmp_path, config=toy_config(loop__max_iterations=9, loop__patience=2))
    assert len(outcome.summaries) == 2


def test_accumulating_trains_on_earlier_iterations_too(tmp_path: Path) -> None:
    def forgetful(prompt: str, seed: int) -> str:
        # Only the base model has few-shot examples in its prompts; fine-tuned models forget `ant`.
        question = prompt.rpartition("Q: ")[2]
        return " <r>count</r>\n99" if question.startswith("ant") and prompt.count("Q: ") == 1 else reply(prompt, seed)

    run_toy(tmp_path / "a", config=toy_config("star-accumulate", rationalization__hints="none"), reply=forgetful)
    run_toy(tmp_path / "b", config=toy_config("star", rationalization__hints="none"), reply=forgetful)
    assert "ant" in {e["problem_id"] for e in examples(tmp_path / "a", 2)}
    assert "ant" not in {e["problem_id"] for e in examples(tmp_path / "b", 2)}


def test_unsolved_first_chooses_no_solved_problem_while_there_are_others(tmp_path: Path) -> None:
    engines: list[ScriptedEngine] = []
    config = toy_config(
        "star-no-rationalization", task__choose="unsolved-first", task__problems_per_iteration=3, loop__max_iterations=3
    )
    run_toy(tmp_path, config=config, engines=engines)
    train = {p.id for p in TRAIN}
    first, second = ({w for w in sampled(engine) if w in train} for engine in engines[:2])
    solved = first & {"ant", "eel", "fox"}
    assert solved
    assert not second & solved


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"custom", "rft", "rest-em"}))
def test_every_method_runs_to_its_result(tmp_path: Path, method: str) -> None:
    outcome = run_toy(tmp_path, config=toy_config(method))
    assert len(outcome.summaries) == 2
    assert outcome.measured["test"][0].n == len(TEST)


@pytest.mark.parametrize("method", ["rft", "rest-em"])
def test_methods_with_many_samples_run_to_their_result(tmp_path: Path, method: str) -> None:
    outcome = run_toy(tmp_path, config=toy_config(method, sampling__num_samples=4), chunk=3)
    summary = outcome.summaries[0]
    assert summary.rationale.samples == 4 * len(TRAIN)
    # Of four equal texts per solved problem one is kept; RFT adds the six human solutions.
    assert summary.examples_by_source == {"rationale": 3} | ({"human": 6} if method == "rft" else {})


def test_rft_trains_on_human_solutions_first_and_then_from_the_base_model(tmp_path: Path) -> None:
    run_toy(tmp_path, config=toy_config("rft", sampling__num_samples=2))
    assert {e["source"] for e in examples(tmp_path, 0)} == {"human"}
    assert json.loads((tmp_path / "checkpoints" / "001" / "checkpoint.json").read_text())["started_from"] == "scripted"


def test_continuing_starts_from_the_previous_model(tmp_path: Path) -> None:
    run_toy(tmp_path, config=toy_config("star-continue"))
    started = [
        json.loads((tmp_path / f"checkpoints/00{n}/checkpoint.json").read_text())["started_from"] for n in (1, 2)
    ]
    assert started[0] == "scripted"
    assert started[1].endswith("checkpoints/001")


def test_direct_trains_on_answers_alone_and_samples_nothing(tmp_path: Path) -> None:
    outcome = run_toy(tmp_path, config=toy_config("direct"))
    assert [e["completion"] for e in examples(tmp_path)] == [f" {p.answer}" for p in TRAIN]
    assert outcome.summaries[0].rationale.samples == 0


def test_a_run_stopped_after_any_chunk_resumes_to_the_same_files(tmp_path: Path) -> None:
    names = ("samples", "examples", "left_out", "prompts.jsonl")
    run_toy(tmp_path / "undisturbed")
    undisturbed = folder_bytes(tmp_path / "undisturbed", *names)
    for stop_after in range(12):
        folder = tmp_path / f"stopped-{stop_after}"
        calls = 0

        def should_stop(limit: int = stop_after) -> bool:
            nonlocal calls
            calls += 1
            return calls > limit

        with pytest.raises(Interrupted, match="run --resume"):
            run_toy(folder, should_stop=should_stop)
        run_toy(folder)
        assert folder_bytes(folder, *names) == undisturbed
        assert len(read_summaries(folder)) == 2
        assert len(read_measurements(folder)) == len(read_measurements(tmp_path / "undisturbed"))


def test_a_finished_run_started_again_samples_nothing(tmp_path: Path) -> None:
    run_toy(tmp_path)
    engines: list[ScriptedEngine] = []
    run_toy(tmp_path, engines=engines)
    assert not any(engine.requests for engine in engines)


def test_nothing_accepted_is_refused_with_the_reasons(tmp_path: Path) -> None:
    task = toy_task(train=(toy_problem("cat", "never"), toy_problem("dingo", "mute")))
    with pytest.raises(RefusedError, match="no sample was accepted \\(2 incorrect, 2 unparseable\\)"):
        run_toy(tmp_path, task=task)


def test_an_iteration_that_accepts_nothing_ends_a_run_after_an_earlier_one(tmp_path: Path) -> None:
    def tired(prompt: str, seed: int) -> str:
        # Correct with few-shot examples (the base model), incorrect without (the fine-tuned one).
        return reply(prompt, seed) if prompt.count("Q: ") > 1 else " <r>tired</r>\n99"

    outcome = run_toy(tmp_path, reply=tired)
    assert [s.iteration for s in outcome.summaries] == [1]
    assert outcome.measured["test"][0].n == len(TEST)


def test_a_stage_file_of_another_run_is_refused(tmp_path: Path) -> None:
    run_toy(tmp_path, config=toy_config(loop__max_iterations=1))
    (tmp_path / "iterations.jsonl").unlink()
    shuffled = toy_task(train=tuple(reversed(TRAIN)))
    with pytest.raises(StoreError, match="not this run's"):
        run_toy(tmp_path, config=toy_config(loop__max_iterations=1), task=shuffled)


class Incomplete(ScriptedEngine):
    """Leaves out its last completion."""

    def sample(self, requests, params):  # type: ignore[no-untyped-def]
        return iter(list(super().sample(requests, params))[:-1])


def test_an_engine_that_leaves_a_request_unanswered_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="left 1 of 2 requests unanswered"):
        run_toy(tmp_path, open_engine=lambda model: Incomplete(reply))


class ScoredTrainer(NullTrainer):
    """Claims that the new weights give every probe token a log-probability of -1."""

    def fine_tune(self, training: Training, on_step: Callable[[StepMetrics], None]) -> Checkpoint:
        checkpoint = super().fine_tune(training, on_step)
        new = tuple((-1.0,) * len(row.old_logprobs) for row in checkpoint.probe)
        return dataclasses.replace(checkpoint, new_logprobs=new)


class Scored(ScriptedEngine):
    """Scores every token of every completion with one number."""

    def __init__(self, logprob: float) -> None:
        super().__init__(reply)
        self.logprob = logprob

    def score(self, requests, completions):  # type: ignore[no-untyped-def]
        return [TokenScores(token_ids=(0,) * len(c), logprobs=(self.logprob,) * len(c)) for c in completions]


def test_an_engine_that_still_serves_the_old_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="does not serve the new weights"):
        run_toy(tmp_path, trainer=ScoredTrainer(), open_engine=lambda model: Scored(-3.0))


def test_an_engine_in_bfloat16_is_not_refused_for_a_difference_that_its_rounding_can_make(tmp_path: Path) -> None:
    """Then the files are compared; a larger difference is refused, with float32 as the next step."""
    run_toy(
        tmp_path / "small",
        config=toy_config(loop__max_iterations=1),
        trainer=ScoredTrainer(),
        open_engine=lambda model: Scored(-1.2),
        noise=NOISE_BFLOAT16,
    )
    with pytest.raises(RefusedError, match=r"does not serve the new weights.*model\.dtype=float32"):
        run_toy(
            tmp_path / "large",
            trainer=ScoredTrainer(),
            open_engine=lambda model: Scored(-3.0),
            noise=NOISE_BFLOAT16,
        )


def test_an_engine_that_serves_the_new_weights_passes(tmp_path: Path) -> None:
    run_toy(
        tmp_path,
        config=toy_config(loop__max_iterations=1),
        trainer=ScoredTrainer(),
        open_engine=lambda model: Scored(-3.0 if model.iteration == 0 else -1.05),
    )
    assert len(read_summaries(tmp_path)) == 1


class Served(Scored):
    """An external server that serves one iteration's weights for every model; each iteration has its own number."""

    def __init__(self, iteration: int, serves: str = "") -> None:
        super().__init__(-3.0 + iteration)
        self.serves = serves
        self.address = "http://somewhere"


class ServedTrainer(NullTrainer):
    """Claims that the weights of iteration n give every probe token a log-probability of n - 3."""

    def fine_tune(self, training: Training, on_step: Callable[[StepMetrics], None]) -> Checkpoint:
        checkpoint = super().fine_tune(training, on_step)
        new = tuple((-3.0 + checkpoint.iteration,) * len(row.old_logprobs) for row in checkpoint.probe)
        return dataclasses.replace(checkpoint, new_logprobs=new)


def served(run_dir: Path, iteration: int, **changes: Any) -> None:
    """Resume a run of two iterations while a server serves the weights of one iteration."""
    run_toy(run_dir, **{"trainer": ServedTrainer(), "open_engine": lambda model: Served(iteration), **changes})


def test_a_server_samples_nothing_until_it_serves_the_weights_that_are_due(tmp_path: Path) -> None:
    again = r"; restart the server on .*{} and run the same command again"
    wrong = "the server does not serve the weights of iteration {}: .*"
    for serves, due in ((0, 1), (0, 1), (1, 2), (0, 2), (1, 2)):
        with pytest.raises(RefusedError, match=wrong.format(due) + again.format(f"checkpoints/00{due}")):
            served(tmp_path, serves)
    assert not list((tmp_path / "samples").glob("002-dev*"))
    with pytest.raises(RefusedError, match="does not serve the base model's weights: .*" + again.format("scripted")):
        served(tmp_path, 2)
    served(tmp_path, 0)
    assert (tmp_path / "samples" / "000-test.jsonl").exists()


class AdapterTrainer(ServedTrainer):
    """Trains nothing: each model is the same adapters."""

    def __init__(self, adapters: Path) -> None:
        self._adapters = adapters

    def fine_tune(self, training: Training, on_step: Callable[[StepMetrics], None]) -> Checkpoint:
        shutil.copytree(self._adapters, training.out_dir, dirs_exist_ok=True)
        return super().fine_tune(dataclasses.replace(training, start=ModelRef(path="scripted")), on_step)


def test_a_server_of_a_run_with_adapters_is_to_serve_the_merged_folder_which_is_removed_after_that(
    tiny: Path, tmp_path: Path
) -> None:
    trainer, run_dir = AdapterTrainer(make_adapters(tiny, tmp_path / "adapters")), tmp_path / "run"
    for due in (1, 2):
        with pytest.raises(RefusedError, match=rf"restart the server on .*served/00{due} and run the same"):
            served(run_dir, due - 1, trainer=trainer)
        assert [path.name for path in (run_dir / "served").iterdir()] == [f"00{due}"]
        assert (run_dir / "served" / f"00{due}" / "model.safetensors").exists()
    with pytest.raises(RefusedError, match="does not serve the base model's weights"):
        served(run_dir, 2, trainer=trainer)
    served(run_dir, 0, trainer=trainer)
    assert not (run_dir / "served").exists()


def test_a_server_that_serves_later_weights_is_refused(tmp_path: Path) -> None:
    """They are nearer to the wanted weights than to the ones before, but they are not the wanted ones."""
    with pytest.raises(RefusedError, match="weights of iteration 1"):
        served(tmp_path, 0)
    with pytest.raises(RefusedError, match="weights of iteration 2"):
        served(tmp_path, 1)
    (tmp_path / "samples" / "001-dev.jsonl").unlink()  # iteration 1 must be measured again
    (tmp_path / "iterations.jsonl").unlink()
    with pytest.raises(RefusedError, match="weights of iteration 1"):
        served(tmp_path, 2)


def test_weights_that_hardly_changed_are_identified_by_the_name_that_the_server_gives(tmp_path: Path) -> None:
    """Below noise only the name decides: it must be the folder of the checkpoint, or a file in it."""

    def run_with(name: Any) -> None:
        run_toy(
            tmp_path,
            config=toy_config(loop__max_iterations=1),
            trainer=ScoredTrainer(),  # -1, as `Served(2)` scores every model
            open_engine=lambda model: Served(2, serves=str(name) if model.iteration else "scripted"),
        )

    for name in ("", "m", tmp_path / "checkpoints", tmp_path / "checkpoints" / "0010"):
        with pytest.raises(RefusedError, match=r"differ by 0\.0000 nats"):
            run_with(name)
    run_with(tmp_path / "checkpoints" / "001" / "model.gguf")


def test_a_server_that_cannot_score_is_refused_before_it_generates(tmp_path: Path) -> None:
    class WithoutScores(Served):
        def score(self, requests, completions):  # type: ignore[no-untyped-def]
            raise EngineError("cannot score")

    with pytest.raises(EngineError, match="cannot score"):
        run_toy(tmp_path, open_engine=lambda model: WithoutScores(0))
    assert not list((tmp_path / "samples").iterdir())


def test_below_noise_the_weight_files_are_compared(tmp_path: Path) -> None:
    class Damaging(NullTrainer):
        def fine_tune(self, training: Training, on_step: Callable[[StepMetrics], None]) -> Checkpoint:
            checkpoint = super().fine_tune(training, on_step)
            (training.out_dir / "model.safetensors").write_bytes(b"other weights")
            return dataclasses.replace(checkpoint, sha256="0" * 64)

    with pytest.raises(RefusedError, match="hash to"):
        run_toy(tmp_path, trainer=Damaging())


def test_a_disk_too_full_for_the_next_checkpoint_is_refused_before_training(
    adder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("selftaught.stages.train.free_bytes", lambda folder: 18 << 20)
    with pytest.raises(StoreError, match=r"the next checkpoint needs about 18 MiB, .* has 18 MiB free"):
        run_toy(tmp_path / "run", base=ModelRef(path=str(adder)))
    assert not (tmp_path / "run" / "iterations.jsonl").exists()


def test_long_garbage_is_unparseable_and_changes_nothing_else(tmp_path: Path) -> None:
    def garbage(prompt: str, seed: int) -> str:
        question = prompt.rpartition("Q: ")[2]
        return "\x00\x1b[31m<r>ü\u2028" * 10_000 if question.startswith("bear") else reply(prompt, seed)

    config = toy_config(loop__max_iterations=1, sampling__max_new_tokens=200_000)
    run_toy(tmp_path, config=config, reply=garbage)
    (summary,) = read_summaries(tmp_path)
    assert summary.rationale.unparseable == 2
    assert {e["problem_id"] for e in examples(tmp_path)} == {"ant", "eel", "fox"}
    run_toy(tmp_path, config=config, reply=garbage)


def test_the_last_model_is_measured_on_test_too_where_the_config_says_so(tmp_path: Path) -> None:
    outcome = run_toy(tmp_path / "both", config=toy_config(loop__test_last=True, loop__patience=9))
    assert (outcome.best, outcome.last.iteration if outcome.last else None) == (0, 2)
    assert (tmp_path / "both" / "samples" / "002-test.jsonl").exists()
    alone = run_toy(tmp_path / "alone", config=toy_config(loop__patience=9))
    assert alone.last is None
    assert not (tmp_path / "alone" / "samples" / "002-test.jsonl").exists()


def test_the_last_model_is_measured_once_where_it_is_the_best(tmp_path: Path) -> None:
    def better_when_trained(prompt: str, seed: int) -> str:
        few_shot = prompt.count("Q: ") > 1  # of the base model
        return reply(prompt.replace("never", "easy") if not few_shot else prompt, seed)

    told: list[Event] = []
    config = toy_config(loop__test_last=True, loop__max_iterations=1)
    outcome = run_toy(tmp_path, config=config, reply=better_when_trained, tell=told.append)
    assert (outcome.best, outcome.last) == (1, outcome.measured["test"][-1])
    tested = [e.measurement.iteration for e in told if isinstance(e, SplitMeasured) and e.measurement.split == "test"]
    assert tested == [0, 1]


def test_no_iterations_measure_the_base_model_alone(tmp_path: Path) -> None:
    outcome = run_toy(tmp_path, config=toy_config(loop__max_iterations=0, loop__test_last=True))
    assert (outcome.best, outcome.summaries, len(outcome.measured["test"])) == (0, (), 1)
    assert outcome.last == outcome.measured["test"][0]
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["000-dev.jsonl", "000-test.jsonl"]
