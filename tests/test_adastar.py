"""AdaSTaR draws, stops and remembers as worked out by hand in cases/adastar.json, whatever the size of its chunks."""

from collections.abc import Callable
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import json_case, problems, sample
from selftaught.methods.adastar import AdaStar, Standing
from selftaught.records.errors import StoreError
from selftaught.records.events import ChunkSaved, Event
from selftaught.records.problems import Verdict
from selftaught.records.samples import PlannedSample, Sample
from selftaught.records.seeds import seed_for
from selftaught.tracking.listeners import Recorder
from toy import folder_bytes, run_toy, toy_config, toy_problem, toy_task

CASES = json_case("adastar.json")
IDS = [f"p{k}" for k in range(6)]

Outcome = Callable[[int, PlannedSample], bool]
"""Whether a sample of an iteration is correct."""


def method_of(*, samples: int = 1, hints: str = "failed", batch_size: int = 2) -> AdaStar:
    config = toy_config(
        "adastar",
        sampling__num_samples=samples,
        rationalization__hints=hints,
        training__steps_first_iteration=2,
        training__steps_growth=1.0,
        training__batch_size=batch_size,
    )
    return AdaStar(config, toy_task(train=problems(*IDS)))


BY_TIE = dict(zip("123456", sorted(IDS, key=lambda id: seed_for(0, "adastar", id)), strict=True))
NAME = {id: name for name, id in BY_TIE.items()}


def made(method: AdaStar, iteration: int, outcome: Outcome, limit: int) -> tuple[list[str], list[Sample]]:
    """Run the sampling of an iteration; returns the draws, with * for a hint, and the samples."""
    draws, samples = [], []
    method.begin(iteration)
    while (draw := method.next_samples(limit)) is not None:
        star = "*" if draw.kind == "rationalization" else ""
        draws.append(" ".join(NAME[plan.problem_id] + star for plan in draw.planned))
        chunk = [
            sample(
                plan.problem_id,
                iteration=iteration,
                kind=plan.kind,
                index=plan.index,
                completion=f"{plan.kind} {plan.index}",
                verdict=Verdict.CORRECT if outcome(iteration, plan) else Verdict.INCORRECT,
            )
            for plan in draw.planned
        ]
        method.add(chunk)
        samples += chunk
    return draws, samples


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_cases_worked_out_by_hand(case: dict[str, Any]) -> None:
    method = method_of(samples=case["samples"], hints=case["hints"])
    for n, expected in enumerate(case["iterations"], start=1):

        def outcome(iteration: int, plan: PlannedSample, expected: dict[str, Any] = expected) -> bool:
            which = "correct" if plan.kind == "rationale" else "correct_with_hint"
            return NAME[plan.problem_id] in expected[which]

        draws, samples = made(method, n, outcome, case["limit"])
        assert draws == expected["draws"]
        assert " ".join(NAME[p.id] for p in method.problems) == expected["visited"]
        left_out = method.training_set(samples, []).left_out if any(s.verdict == "correct" for s in samples) else ()
        beyond = sorted(NAME[item.problem_id] for item in left_out if item.reason == "beyond the batch")
        assert " ".join(beyond) == expected["beyond"]
        assert {NAME[id]: [s.last_sampled, s.win_rate] for id, s in method.standing.items()} == expected["standing"]


def one_by_one(outcomes: dict[tuple[int, str], bool], iterations: int, batch: int) -> dict[str, Standing]:
    """Algorithm 1 of the paper, one problem after the other, for one attempt and a hint; the standings at the end."""
    standing = {id: Standing(0, 0.0) for id in IDS}
    for n in range(1, iterations + 1):
        heap = sorted(IDS, key=lambda id: (standing[id].last_sampled, standing[id].win_rate, NAME[id]))
        accepted, visited = 0, {}
        for id in heap:
            if accepted >= batch:
                break
            attempts = [outcomes[n, id]]
            if not attempts[0]:
                attempts.append(outcomes[n, id + "*"])
            visited[id] = attempts
            accepted += sum(attempts)
        m = len(visited)
        alpha = Fraction(sum(any(a) for a in visited.values()), m)
        for id in heap[: floor(m * alpha**2)]:
            standing[id] = Standing(n, sum(visited[id]) / len(visited[id]))
    return standing


@given(
    st.fixed_dictionaries({(n, id + star): st.booleans() for n in (1, 2, 3) for id in IDS for star in ("", "*")}),
    st.integers(1, 9),
    st.integers(1, 4),
)
def test_chunks_of_any_size_leave_the_standings_of_the_paper_s_one_by_one_algorithm(
    outcomes: dict[tuple[int, str], bool], limit: int, batch_size: int
) -> None:
    method = method_of(batch_size=batch_size)
    for n in (1, 2, 3):
        made(
            method,
            n,
            lambda n, plan: outcomes[n, plan.problem_id + ("*" if plan.kind == "rationalization" else "")],
            limit,
        )
    assert method.standing == one_by_one(outcomes, 3, 2 * batch_size)


def test_every_sample_is_trained_on_or_left_out_with_a_reason() -> None:
    method = method_of()
    _, samples = made(method, 1, lambda n, plan: NAME[plan.problem_id] in "12356", 64)
    chosen = method.training_set(samples, [])
    assert len(chosen.examples) + len(chosen.validation) + len(chosen.left_out) == len(samples)
    assert [item.reason for item in chosen.left_out].count("beyond the batch") == 1


def test_the_batch_grows_with_the_steps_of_the_schedule() -> None:
    config = toy_config("adastar", training__steps_first_iteration=40, training__batch_size=8)
    method = AdaStar(config, toy_task(train=problems(*(f"q{k}" for k in range(1000)))))
    sizes = []
    for n in (1, 2, 3):
        method.begin(n)
        size = 0
        while (draw := method.next_samples(64)) is not None:
            method.add([sample(plan.problem_id, iteration=n) for plan in draw.planned])
            size += len(draw.planned)
        sizes.append(size)
    assert sizes == [320, 384, 456], "int(40 * 1.2^(n-1)) * 8, as in the paper"


class Killed(BaseException):
    """Ends a run as a kill does: nothing after it is written."""


def test_a_run_that_ends_after_any_chunk_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    words = [toy_problem(f"{letter}{skill}", skill) for letter in "abcd" for skill in ("easy", "hinted", "never")]
    config = toy_config(
        "adastar",
        loop__max_iterations=3,
        loop__patience=3,
        training__steps_first_iteration=1,
        training__batch_size=4,
    )
    how: dict[str, Any] = {"config": config, "task": toy_task(train=tuple(words)), "chunk": 3}
    chunks = Recorder()
    run_toy(tmp_path / "undisturbed", tell=chunks.tell, **how)
    number = sum(isinstance(event, ChunkSaved) for event in chunks.events)
    assert number > 12
    for last in range(1, number):
        left = last

        def tell(event: Event) -> None:
            nonlocal left
            left -= isinstance(event, ChunkSaved)
            if not left:
                raise Killed

        with pytest.raises(Killed):
            run_toy(tmp_path / str(last), tell=tell, **how)
        run_toy(tmp_path / str(last), **how)
        names = ("samples", "examples", "left_out")
        assert folder_bytes(tmp_path / str(last), *names) == folder_bytes(tmp_path / "undisturbed", *names)


def test_a_finished_iteration_whose_samples_are_gone_is_refused(tmp_path: Path) -> None:
    config = toy_config("adastar", loop__max_iterations=1)
    run_toy(tmp_path, config=config)
    path = tmp_path / "samples" / "001-rationale.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    longer = toy_config("adastar", loop__max_iterations=2)
    with pytest.raises(StoreError, match=r"001-rationale.jsonl: samples of a finished iteration are missing"):
        run_toy(tmp_path, config=longer)
