"""Plans depend only on the seed and on what is solved, and the schedules are the published ones."""

from collections import Counter
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import problem, problems, sample, samples_of
from selftaught.methods.plan import (
    best_iteration,
    choose_problems,
    has_plateaued,
    planned_samples,
    problems_to_hint,
    solved_ids,
    spread_over_classes,
    steps_for,
)
from selftaught.records.problems import Problem, Verdict
from selftaught.records.samples import PlannedSample, Sample
from selftaught.tasks.settings import Choice
from selftaught.training.row_order import row_order
from selftaught.training.sft_config import SftConfig

TRAIN = problems(*(f"p{i:03d}" for i in range(100)))

CHOICES = get_args(Choice)

PAPER_STEPS = [40, 48, 57, 69, 82, 99, 119, 143, 171, 206, 247, 297, 356, 427, 513, 616]
"""Zelikman et al. 2022, section 4.1: 16 iterations."""

accuracies = st.lists(st.integers(0, 10).map(lambda tenth: tenth / 10), min_size=1, max_size=12)


def chosen(
    how: str, number: int | str, *, solved: set[str] | None = None, seed: int = 0, iteration: int = 1
) -> list[Problem]:
    return choose_problems(
        TRAIN,
        how=how,  # type: ignore[arg-type]
        number=number,  # type: ignore[arg-type]
        solved=solved or set(),
        seed=seed,
        iteration=iteration,
    )


def hinted(samples: list[Sample]) -> list[Problem]:
    return problems_to_hint(TRAIN, solved_ids(samples))


@pytest.mark.parametrize("how", CHOICES)
@pytest.mark.parametrize("number", ["all", 100, 101])
def test_all_problems_are_chosen_if_no_fewer_are_wanted(how: str, number: int | str) -> None:
    assert chosen(how, number) == list(TRAIN)


@given(
    st.sampled_from(CHOICES),
    st.integers(1, 99),
    st.sets(st.sampled_from([p.id for p in TRAIN])),
    st.integers(0, 2**32),
    st.integers(1, 50),
)
def test_the_wanted_number_of_different_problems_is_chosen_in_their_order(
    how: str, number: int, solved: set[str], seed: int, iteration: int
) -> None:
    ids = [p.id for p in chosen(how, number, solved=solved, seed=seed, iteration=iteration)]
    assert len(ids) == len(set(ids)) == number
    assert ids == sorted(ids)


@given(st.integers(1, 99), st.sets(st.sampled_from([p.id for p in TRAIN])), st.integers(0, 2**32))
def test_unsolved_first_chooses_a_solved_problem_only_when_no_unsolved_one_is_left(
    number: int, solved: set[str], seed: int
) -> None:
    ids = {p.id for p in chosen("unsolved-first", number, solved=solved, seed=seed)}
    unsolved = {p.id for p in TRAIN} - solved
    assert ids <= unsolved or ids >= unsolved


@given(st.text("xyz", min_size=1, max_size=30), st.integers(1, 30), st.integers(0, 2**32))
def test_random_per_class_chooses_equally_many_of_every_class_that_has_enough(
    classes: str, number: int, seed: int
) -> None:
    train = [problem(f"{i:02d}", class_name=name) for i, name in enumerate(classes)]
    problems = choose_problems(train, how="random-per-class", number=number, solved=set(), seed=seed, iteration=1)
    assert len(problems) == min(number, len(train))
    available, chosen = Counter(classes), Counter(p.class_name for p in problems)
    assert all(chosen[c] == available[c] or chosen[c] >= max(chosen.values()) - 1 for c in available)


def test_random_per_class_chooses_every_problem_of_a_class_equally_often() -> None:
    train = [problem(f"{i:02d}", class_name="small" if i < 10 else "large") for i in range(50)]
    times = Counter(
        p.id
        for n in range(400)
        for p in choose_problems(train, how="random-per-class", number=10, solved=set(), seed=0, iteration=n)
    )
    small, large = [times[p.id] for p in train[:10]], [times[p.id] for p in train[10:]]
    assert sum(small) == sum(large) == 2000
    assert 140 < min(small) <= max(small) < 260  # 200 expected
    assert 25 < min(large) <= max(large) < 80  # 50 expected


def test_random_does_not_depend_on_what_is_solved() -> None:
    assert chosen("random", 50, solved={p.id for p in TRAIN[:50]}) == chosen("random", 50)


@pytest.mark.parametrize("how", CHOICES)
def test_every_iteration_and_every_run_seed_chooses_anew(how: str) -> None:
    choices = [chosen(how, 50, seed=seed, iteration=iteration) for seed in (0, 1) for iteration in (1, 2)]
    assert all(one != other for i, one in enumerate(choices) for other in choices[:i])
    assert chosen(how, 50, seed=1, iteration=2) == choices[-1]


@pytest.mark.parametrize("how", CHOICES)
def test_every_problem_is_chosen_about_equally_often(how: str) -> None:
    times = Counter(p.id for iteration in range(400) for p in chosen(how, 20, iteration=iteration))
    assert len(times) == 100
    assert min(times.values()) > 45  # 80 expected
    assert max(times.values()) < 115


def test_spreading_takes_the_first_problems_of_each_class_in_turn() -> None:
    classes = ["x"] * 4 + ["y"] * 3 + ["z"]
    given_problems = [problem(str(i), class_name=name) for i, name in enumerate(classes)]
    ids = {number: [p.id for p in spread_over_classes(given_problems, number)] for number in range(1, 9)}
    assert ids == {
        1: ["0"],
        2: ["0", "4"],
        3: ["0", "4", "7"],
        4: ["0", "1", "4", "7"],
        5: ["0", "1", "4", "5", "7"],
        6: ["0", "1", "2", "4", "5", "7"],
        7: ["0", "1", "2", "4", "5", "6", "7"],
        8: list("01234567"),
    }


@given(st.lists(st.sampled_from("xyz"), max_size=30), st.integers(1, 30))
def test_spreading_takes_equally_many_of_every_class_that_has_enough(classes: list[str], number: int) -> None:
    given_problems = [problem(f"{i:02d}", class_name=name) for i, name in enumerate(classes)]
    spread = spread_over_classes(given_problems, number)
    assert len(spread) == min(number, len(given_problems))
    assert [p.id for p in spread] == sorted({p.id for p in spread})
    available, chosen = Counter(classes), Counter(p.class_name for p in spread)
    assert all(chosen[c] == available[c] or chosen[c] >= max(chosen.values()) - 1 for c in available)


def test_samples_are_planned_problem_by_problem_and_index_by_index() -> None:
    assert list(planned_samples(problems("b", "a"), kind="rationale", num_samples=2)) == [
        PlannedSample(problem_id="b", kind="rationale", index=0),
        PlannedSample(problem_id="b", kind="rationale", index=1),
        PlannedSample(problem_id="a", kind="rationale", index=0),
        PlannedSample(problem_id="a", kind="rationale", index=1),
    ]


def test_no_samples_per_problem_means_that_none_is_planned() -> None:
    assert list(planned_samples(TRAIN, kind="rationale", num_samples=0)) == []


@given(st.integers(0, 20), st.integers(0, 20))
def test_every_sample_is_planned_exactly_once(num_problems: int, num_samples: int) -> None:
    planned = list(planned_samples(TRAIN[:num_problems], kind="evaluation", num_samples=num_samples))
    assert len(planned) == len(set(planned)) == num_problems * num_samples


def test_a_problem_is_solved_by_a_correct_answer_without_a_hint_only() -> None:
    samples = [
        *samples_of("a", "iic"),
        *samples_of("b", "iu"),
        *samples_of("c", "c", kind="rationalization"),
        *samples_of("d", "c", kind="evaluation"),
    ]
    assert solved_ids(samples) == {"a"}


verdict_lists = st.dictionaries(st.sampled_from([p.id for p in TRAIN]), st.text("ciu", min_size=1, max_size=3))


@given(verdict_lists)
def test_every_failed_problem_is_hinted_once_in_order_and_no_solved_one(verdicts: dict[str, str]) -> None:
    samples = [s for name, letters in verdicts.items() for s in samples_of(name, letters)]
    assert hinted(samples) == [p for p in TRAIN if "c" not in verdicts.get(p.id, "")]


def test_a_hinted_success_does_not_count_as_solved_when_hints_are_planned() -> None:
    samples = [sample("p000", verdict=Verdict.INCORRECT), sample("p000", kind="rationalization")]
    assert "p000" in {p.id for p in hinted(samples)}


def steps(n: int, *, first: int = 40, growth: float = 1.2, max_epochs: float = 1e3, num_examples: int = 10**6) -> int:
    training = SftConfig(
        steps_first_iteration=first, steps_growth=growth, max_epochs=max_epochs, batch_size=8, learning_rate=1e-5
    )
    return steps_for(n, training, num_examples=num_examples)


def test_the_steps_are_the_published_ones() -> None:
    planned = [steps(n) for n in range(1, 17)]
    assert planned == PAPER_STEPS
    assert sum(planned) == 3490
    assert steps(30) == 7912


def test_with_few_examples_the_epochs_limit_the_steps() -> None:
    assert [steps(n, max_epochs=3.0, num_examples=54) for n in (1, 2, 8)] == [21, 21, 21]
    assert [steps(n, max_epochs=0.5, num_examples=800) for n in range(1, 5)] == [40, 48, 50, 50]
    assert steps(5000, growth=10.0, max_epochs=1.0, num_examples=80) == 10  # though 10^4999 is no float


def test_without_growth_every_iteration_has_the_same_steps() -> None:
    assert {steps(n, first=7, growth=1.0) for n in range(1, 30)} == {7}


@given(st.integers(1, 40), st.integers(1, 500), st.floats(1, 3), st.floats(0.01, 100), st.integers(1, 5000))
def test_there_is_always_a_step_and_never_fewer_than_the_iteration_before(
    n: int, first: int, growth: float, max_epochs: float, num_examples: int
) -> None:
    now, after = (
        steps(i, first=first, growth=growth, max_epochs=max_epochs, num_examples=num_examples) for i in (n, n + 1)
    )
    assert 1 <= now <= after
    assert (after - 1) * 8 < max_epochs * num_examples  # all steps but the last are within the epochs


@given(st.integers(1, 30), st.integers(0, 200), st.integers(0, 2**32))
def test_every_row_is_used_equally_often_or_once_more(rows: int, places: int, seed: int) -> None:
    order = row_order(rows, num_places=places, seed=seed)
    times = Counter(order)
    assert len(order) == places
    assert {times[row] for row in range(rows)} <= {places // rows, places // rows + 1}
    assert set(times) <= set(range(rows))


@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 2**32))
def test_every_epoch_has_every_row(rows: int, epochs: int, seed: int) -> None:
    order = row_order(rows, num_places=rows * epochs, seed=seed)
    assert all(sorted(order[e * rows : (e + 1) * rows]) == list(range(rows)) for e in range(epochs))


@given(st.integers(1, 30), st.integers(0, 100), st.integers(0, 100), st.integers(0, 2**32))
def test_a_shorter_training_uses_the_first_rows_of_a_longer_one(rows: int, a: int, b: int, seed: int) -> None:
    longer = row_order(rows, num_places=a + b, seed=seed)
    assert row_order(rows, num_places=a, seed=seed) == longer[:a]


def test_epochs_and_seeds_differ_in_their_order() -> None:
    order = row_order(50, num_places=100, seed=0)
    assert order[:50] != order[50:] != list(range(50))
    assert row_order(50, num_places=50, seed=1) != order[:50]


def test_an_order_of_no_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        row_order(0, num_places=4, seed=0)


def test_ties_for_the_best_iteration_go_to_the_earlier() -> None:
    assert best_iteration([0.2, 0.5, 0.5, 0.1]) == 1
    assert best_iteration([0.5, 0.5]) == 0  # the base model is position 0


@given(accuracies)
def test_the_best_iteration_is_the_first_of_the_highest(rates: list[float]) -> None:
    assert best_iteration(rates) == rates.index(max(rates))


@pytest.mark.parametrize(
    ("rates", "patience", "expected"),
    [
        ([0.5], 1, False),  # only the base model
        ([0.5, 0.5], 1, True),  # a tie is no rise
        ([0.5, 0.4], 1, True),
        ([0.5, 0.51], 1, False),
        ([0.5, 0.4, 0.6], 2, False),  # one of the last two rose
        ([0.5, 0.6, 0.6, 0.6], 2, True),
        ([0.5, 0.6, 0.6, 0.6], 3, False),
        ([0.5, 0.6, 0.3, 0.5], 2, True),  # rising again, but below the best
        ([0.5, 0.4], 2, False),  # too early to say
    ],
)
def test_a_plateau_is_patience_iterations_without_a_rise(rates: list[float], patience: int, expected: bool) -> None:
    assert has_plateaued(rates, patience=patience) is expected


@given(accuracies, st.integers(1, 6))
def test_a_new_best_among_the_last_iterations_is_no_plateau(rates: list[float], patience: int) -> None:
    recent = best_iteration(rates) > len(rates) - 1 - patience
    assert has_plateaued(rates, patience=patience) == (len(rates) > patience and not recent)
