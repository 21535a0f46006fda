"""What a run tells beside accuracy: what changed on dev, pass@k every few iterations, what was kept before."""

import json
from pathlib import Path
from typing import Any

import pytest

from builders import counts, measurement, summary
from selftaught.config.loading import load_config
from selftaught.engines.scripted import ScriptedEngine
from selftaught.methods.metrics import rate
from selftaught.records.errors import EngineError
from selftaught.records.measurements import Changes, IterationSummary
from selftaught.records.samples import ModelRef
from selftaught.report.run_tables import Run, passes_table, progress_table
from selftaught.runs.lines import read_lines
from selftaught.runs.reading import read_measurements, read_passes, read_summaries
from selftaught.runs.store import RunStore
from selftaught.stages.sampling import passes_of_run
from selftaught.tracking.points import counted, counts_row, iteration_row, measured_row, work_of
from selftaught.tracking.text import facts_of
from toy import folder_bytes, run_toy, toy_config, toy_problem, toy_task

DEV = tuple(toy_problem(word, "easy") for word in ("gnu", "hare", "ibis", "newt"))
"""All are asked in each iteration; what is solved is below."""
SOLVED = {0: {"gnu"}, 1: {"gnu", "hare", "ibis", "newt"}, 2: {"newt"}, 3: {"newt"}}


def learning(model: ModelRef) -> ScriptedEngine:
    """A model that solves every training problem, and of dev what its iteration does; sampled at a temperature, it
    solves the others in one of two samples."""

    def reply(prompt: str, seed: int) -> str:
        word = prompt.rpartition("Q: ")[2].partition(" ")[0]
        is_dev = word in {problem.id for problem in DEV}
        solved = not is_dev or word in SOLVED[model.iteration] or seed % 2 == 0
        return f" <r>count {word}</r>\n{len(word) + (not solved)}"

    return ScriptedEngine(reply)


def run_learning(folder: Path, **settings: Any) -> None:
    config = toy_config("star-no-rationalization", loop__max_iterations=3, loop__patience=9, **settings)
    run_toy(folder, config=config, task=toy_task(dev=DEV), open_engine=learning)


def test_gained_and_lost_are_against_the_iteration_before_and_against_the_base(tmp_path: Path) -> None:
    run_learning(tmp_path)
    first, second, third = (s.dev_changes for s in read_summaries(tmp_path))
    dev = {m.iteration: m.correct for m in read_measurements(tmp_path) if m.split == "dev"}
    assert first["previous"] == first["base"]
    assert second["previous"].n == 4
    assert third["base"].gained - third["base"].lost == dev[3] - dev[0]
    assert second["previous"].gained - second["previous"].lost == dev[2] - dev[1]


@pytest.mark.parametrize(("every", "measured"), [(1, [0, 1, 2, 3]), (2, [0, 2, 1]), (9, [0, 1])])
def test_passes_are_measured_of_the_base_every_few_iterations_and_of_the_best(
    every: int, measured: list[int], tmp_path: Path
) -> None:
    run_learning(tmp_path, pass_at_k__samples=4, pass_at_k__every=every)
    passes = read_passes(tmp_path)
    assert [m.iteration for m in passes] == measured
    assert {(m.num_samples, m.temperature, m.n, m.split) for m in passes} == {(4, 0.7, 4, "dev")}
    assert all(list(m.pass_at_k) == ["1", "2", "4"] for m in passes)
    assert [s.passes for s in read_summaries(tmp_path)] == [
        next((m for m in passes if m.iteration == n and n % every == 0), None) for n in (1, 2, 3)
    ]
    assert all(m.num_samples == 1 for m in read_measurements(tmp_path)), "accuracy is that of greedy completions"


def test_without_the_setting_no_passes_are_measured(tmp_path: Path) -> None:
    run_learning(tmp_path)
    assert not (tmp_path / "passes.jsonl").exists()
    assert not list((tmp_path / "samples").glob("*passes*"))


def test_passes_are_of_at_most_so_many_problems(tmp_path: Path) -> None:
    run_learning(tmp_path, pass_at_k__samples=2, pass_at_k__problems=3)
    assert {m.n for m in read_passes(tmp_path)} == {3}


def test_measuring_passes_changes_nothing_else(tmp_path: Path) -> None:
    run_learning(tmp_path / "a", pass_at_k__samples=4, pass_at_k__every=1)
    run_learning(tmp_path / "b")
    names = ("examples", "left_out", "evaluations.jsonl")
    assert folder_bytes(tmp_path / "a", *names) == folder_bytes(tmp_path / "b", *names)


def test_a_run_that_dies_while_passes_are_measured_ends_as_one_that_does_not(tmp_path: Path) -> None:
    settings = {"pass_at_k__samples": 3, "pass_at_k__every": 2}
    run_learning(tmp_path / "whole", **settings)
    for dies_at in range(1, 60, 7):
        folder, left = tmp_path / str(dies_at), [dies_at]

        def dying(model: ModelRef, left: list[int] = left) -> ScriptedEngine:
            engine = learning(model)

            def reply(prompt: str, seed: int) -> str:
                left[0] -= 1
                if left[0] == 0:
                    raise EngineError("killed")
                return engine.reply(prompt, seed)

            return ScriptedEngine(reply)

        config = toy_config("star-no-rationalization", loop__max_iterations=3, loop__patience=9, **settings)
        with pytest.raises(EngineError):
            run_toy(folder, config=config, task=toy_task(dev=DEV), open_engine=dying)
        run_learning(folder, **settings)
        names = ("samples", "examples", "left_out", "passes.jsonl", "evaluations.jsonl")
        assert folder_bytes(folder, *names) == folder_bytes(tmp_path / "whole", *names)


def test_a_torn_line_of_passes_is_cut_and_measured_again(tmp_path: Path) -> None:
    run_learning(tmp_path, pass_at_k__samples=2)
    path = tmp_path / "passes.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    run_learning(tmp_path, pass_at_k__samples=2)
    assert path.read_bytes() == whole


def test_problems_that_were_kept_before_are_counted(tmp_path: Path) -> None:
    run_learning(tmp_path)
    first, second, _ = read_summaries(tmp_path)
    assert first.kept_before is None
    assert second.kept_before == rate(6, 6)


def test_samples_of_earlier_iterations_that_are_trained_on_again_are_not_new_ones(tmp_path: Path) -> None:
    config = toy_config("star-accumulate", loop__max_iterations=2, loop__patience=9)
    run_toy(tmp_path, config=config, task=toy_task(dev=DEV), open_engine=learning)
    assert read_summaries(tmp_path)[1].kept_before == rate(0, 0), "all of iteration 2 are duplicates"


def test_a_problem_of_which_only_the_human_solution_is_trained_on_was_not_kept(tmp_path: Path) -> None:
    run_toy(tmp_path, config=toy_config("custom", training__human_solutions=True, loop__max_iterations=1))
    with RunStore(tmp_path) as store:
        assert store.trained_on(1) == {"ant", "eel", "fox", "bear"}
        assert store.trained_on(2) == set()


def test_a_line_of_an_older_version_is_read(tmp_path: Path) -> None:
    run_learning(tmp_path)
    path = tmp_path / "iterations.jsonl"
    old = []
    for line in map(json.loads, path.read_text().splitlines()):
        for key in ("dev_changes", "passes", "kept_before"):
            del line[key]
        for kind in ("rationale", "rationalization"):
            for key in ("ended", "complete_tokens", "solved", "solutions", "lucky"):
                del line[kind][key]
        old.append(line)
    path.write_text("".join(json.dumps(line) + "\n" for line in old))
    (one, *_) = read_lines(IterationSummary, path)
    assert (one.rationale.mean_tokens, one.rationale.solutions_per_problem, one.dev_changes) == (None, None, {})
    run = Run(name="old", about={}, summaries=(one,), measured={}, result=None)
    assert progress_table(run) == ""
    assert passes_table(run) == ""
    assert not any("against" in fact or "ended" in fact for fact in facts_of(one))


TOLD = summary(
    2,
    rationale=counts(samples=100, correct=60, ended=90, complete_tokens=1000, solved=40, solutions=50, lucky=6.0),
    dev_changes={"previous": Changes(n=100, gained=7, lost=3), "base": Changes(n=100, gained=20, lost=1)},
    kept_before=rate(30, 40),
    passes=measurement(iteration=2, num_samples=4, pass_at_k={"1": 0.3, "4": 0.5}),
)


def test_an_iteration_is_told_in_one_line_with_its_figures() -> None:
    assert facts_of(TOLD) == [
        "dev +7 -3 against previous",
        "dev +20 -1 against base",
        "rationalization - rationale -0.350",
        "1.25 solutions per problem",
        "10 tokens when complete",
        "0.90 ended by the end token",
        "0.10 of the correct by luck",
        "0.75 of the kept problems kept before",
    ]


def test_the_report_has_the_figures_of_an_iteration_with_their_counts() -> None:
    run = Run(
        name="r", about={}, summaries=(TOLD,), measured={}, result=None, passes=(TOLD.passes,) if TOLD.passes else ()
    )
    row = progress_table(run).splitlines()[-1]
    for cell in (
        "60/100 0.600 [",
        "10/40 0.250 [",
        "-0.350",
        "+7 −3 of 100",
        "1.25",
        "10.0",
        "90/100",
        "6.0/60",
        "30/40",
    ):
        assert f"{cell}" in row
    assert "0.300 | 0.500 | 50/100 0.500 [" in passes_table(run)


def test_a_tracker_gets_the_figures_on_the_axis_of_iterations() -> None:
    values = {
        **counts_row(2, "rationale", TOLD.rationale).values,
        **iteration_row(TOLD, work_of(None, is_low_rank=False)).values,
    }
    assert values["rationale/solutions_per_problem"] == 1.25
    assert values["rationale/ended"] == 0.9
    assert values["rationale/lucky"] == 0.1
    assert values["rationalization/solve_rate_gap"] == pytest.approx(-0.35)
    assert (values["dev/gained_previous"], values["dev/lost_base"]) == (7, 1)
    assert values["selection/kept_before"] == 0.75
    assert TOLD.passes is not None
    row = measured_row(TOLD.passes)
    assert (row.key, row.values["passes/pass@4"]) == ("measured/passes/2", 0.5)


def test_rounds_of_a_stage_add_up_in_every_figure() -> None:
    both = counted(TOLD.rationale, TOLD.rationale)
    assert (both.ended, both.complete_tokens, both.solved, both.solutions, both.lucky) == (180, 2000, 80, 100, 12.0)
    assert counted(TOLD.rationale, counts()).solutions is None, "an older version did not count them"


def test_no_temperature_is_refused_because_all_samples_would_be_one() -> None:
    with pytest.raises(Exception, match=r"pass_at_k\.temperature = 0"):
        load_config("gsm8k", ["pass_at_k.samples=4", "pass_at_k.temperature=0"])


@pytest.mark.parametrize(("every", "models"), [(1, 5), (2, 3), (9, 2)])
def test_what_passes_cost_is_known_before_the_start(every: int, models: int) -> None:
    """Of the base model, of every so many of 3 iterations, and of the best one."""
    given = toy_config(loop__max_iterations=3, pass_at_k__samples=4, pass_at_k__every=every, pass_at_k__problems=3)
    assert passes_of_run(given, toy_task(dev=DEV)) == models * 3 * 4
    assert passes_of_run(toy_config(), toy_task(dev=DEV)) == 0
