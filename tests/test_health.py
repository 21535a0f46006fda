"""Whatever a user should look at after an iteration has a warning, and nothing else has one."""

from typing import Any

import pytest

from builders import counts, measurement
from selftaught.methods.health import Iteration, warnings_for
from selftaught.methods.metrics import rate

NO_HINTS = counts(samples=0, correct=0, incorrect=0)


def warnings(**given: Any) -> tuple[str, ...]:
    """The warnings of an iteration that differs from a healthy one as given."""
    return warnings_for(
        Iteration(
            **{
                "rationale": counts(),
                "rationalization": counts(samples=40, correct=10, incorrect=30),
                "examples_by_source": {"rationale": 60, "rationalization": 10, "rehearsed": 20},
                "batch_size": 8,
                "dev": measurement(60),
                "dev_before": measurement(50),
                **given,
            }
        )
    )


def test_a_healthy_iteration_has_no_warnings() -> None:
    assert warnings() == ()


@pytest.mark.parametrize("stage", ["rationale", "rationalization"])
@pytest.mark.parametrize(("truncated", "warned"), [(5, False), (6, True)])
def test_more_than_5_percent_truncated_is_warned_of(stage: str, truncated: int, warned: bool) -> None:
    lines = warnings(**{stage: counts(truncated=truncated)})
    expected = f"{truncated} of 100 {stage} completions were truncated; raise sampling.max_new_tokens"
    assert lines == ((expected,) if warned else ())


@pytest.mark.parametrize("stage", ["rationale", "rationalization"])
@pytest.mark.parametrize(("unparseable", "warned"), [(10, False), (11, True)])
def test_more_than_10_percent_unparseable_is_warned_of(stage: str, unparseable: int, warned: bool) -> None:
    lines = warnings(**{stage: counts(unparseable=unparseable)})
    assert len(lines) == warned
    assert not warned or lines[0].startswith(f"11 of 100 {stage} completions state no answer; raise sampling.num_shots")


def test_hints_that_are_never_accepted_are_warned_of() -> None:
    lines = warnings(rationalization=counts(samples=40, correct=0, incorrect=40))
    assert len(lines) == 1
    assert lines[0].startswith("none of 40 completions with a hint gave the hint's answer: hints have no effect; ")


@pytest.mark.parametrize(("wrong", "warned"), [(1, False), (2, True), (None, False)])
def test_copied_hints_are_warned_of_unless_the_steps_are_required(wrong: int | None, warned: bool) -> None:
    hinted = counts(samples=40, correct=10, incorrect=30, false_positive=wrong)
    lines = warnings(rationalization=hinted)
    assert len(lines) == warned
    assert not warned or lines[0].startswith("2 of 10 hinted completions with the right answer fail the step check")
    assert warnings(rationalization=hinted, require_hinted=("answer", "steps")) == ()


def test_no_hints_are_no_failed_hints() -> None:
    assert warnings(rationalization=NO_HINTS) == ()


@pytest.mark.parametrize(("rationales", "warned"), [(8, False), (7, True)])
def test_fewer_kept_rationales_than_a_batch_are_warned_of(rationales: int, warned: bool) -> None:
    lines = warnings(examples_by_source={"rationale": rationales - 2, "rationalization": 2, "rehearsed": 50})
    assert lines == (
        (
            "only 7 sampled rationales were kept, fewer than one batch of 8; raise task.problems_per_iteration, or "
            "lower training.batch_size",
        )
        if warned
        else ()
    )


def test_a_baseline_that_samples_nothing_lacks_no_rationales() -> None:
    assert warnings(rationale=NO_HINTS, rationalization=NO_HINTS, examples_by_source={"answer": 100}) == ()


def test_a_fall_of_dev_accuracy_outside_the_interval_is_warned_of() -> None:
    """39/100 has the interval [0.300, 0.488]: 0.49 lies outside, 0.48 inside."""
    lines = warnings(dev=measurement(39), dev_before=measurement(49))
    (line,) = lines
    assert line.startswith("dev accuracy fell from 0.490 to 0.390, outside the interval; lower training.learning_rate")
    assert warnings(dev=measurement(39), dev_before=measurement(48)) == ()


def test_a_rise_of_dev_accuracy_is_no_fall() -> None:
    assert warnings(dev=measurement(90), dev_before=measurement(10)) == ()


@pytest.mark.parametrize(("correct", "warned"), [(97, False), (98, True), (100, True)])
def test_a_dev_set_near_its_ceiling_is_warned_of(correct: int, warned: bool) -> None:
    lines = warnings(dev=measurement(correct))
    assert len(lines) == warned
    assert not warned or "can hardly show further progress; raise task.dev_problems" in lines[0]


def test_several_warnings_come_together_one_line_each() -> None:
    lines = warnings(
        rationale=counts(truncated=50, unparseable=50),
        examples_by_source={},
        dev=measurement(10),
        dev_before=measurement(90),
    )
    assert len(lines) == 4
    assert not any("\n" in line for line in lines)


@pytest.mark.parametrize("shows", ["shuffled", "text", "nothing"])
def test_a_control_whose_hints_have_no_effect_is_as_it_should_be(shows: str) -> None:
    assert warnings(rationalization=counts(samples=40, correct=0, incorrect=40), shows=shows) == ()


@pytest.mark.parametrize("shows", ["shuffled", "text", "nothing"])
def test_a_second_attempt_that_was_shown_no_answer_copies_none(shows: str) -> None:
    wrong = counts(samples=40, correct=10, incorrect=30, false_positive=5)
    (line,) = warnings(rationalization=wrong, shows=shows)
    assert line == (
        "5 of 10 second attempts with the right answer fail the step check, and the model learns from them; add "
        "'steps' to selection.require_hinted"
    )
    assert warnings(rationalization=wrong, shows=shows, require_hinted=("answer", "steps")) == ()


@pytest.mark.parametrize(("now", "warned"), [(50, False), (49, True)])
def test_completions_that_become_half_as_long_are_warned_of(now: int, warned: bool) -> None:
    lines = warnings(rationale=counts(complete_tokens=100 * now), first=counts(complete_tokens=100 * 100))
    assert len(lines) == warned
    assert not warned or lines[0].startswith("completions without a hint have 49 tokens on average, 100 in the first")


def test_truncated_completions_have_no_part_in_the_mean_length() -> None:
    cut = counts(samples=100, truncated=4, complete_tokens=96 * 60)
    assert warnings(rationale=cut, first=counts(complete_tokens=100 * 100)) == ()


def test_lengths_that_an_older_version_did_not_count_are_not_compared() -> None:
    assert warnings(rationale=counts(complete_tokens=100), first=counts()) == ()


@pytest.mark.parametrize(("before", "n", "warned"), [(95, 100, True), (94, 100, False), (19, 19, False)])
def test_kept_problems_that_nearly_all_were_kept_before_are_warned_of(before: int, n: int, warned: bool) -> None:
    lines = warnings(kept_before=rate(before, n))
    assert len(lines) == warned
    assert not warned or lines[0].startswith("95 of 100 problems with kept samples had some in earlier iterations")


@pytest.mark.parametrize(("solved", "warned"), [(0.5, False), (0.4, True)])
def test_a_fall_of_pass_at_k_from_its_best_outside_the_interval_is_warned_of(solved: float, warned: bool) -> None:
    """40/100 has the interval [0.309, 0.498], 50/100 [0.404, 0.596]."""

    def passes(iteration: int, share: float) -> Any:
        return measurement(iteration=iteration, num_samples=4, pass_at_k={"1": 0.3, "4": share})

    lines = warnings(passes=passes(6, solved), passes_before=[passes(0, 0.52), passes(3, 0.45)])
    assert len(lines) == warned
    assert not warned or lines[0].startswith(
        "pass@4 on dev fell from 0.520 (iteration 0) to 0.400, outside the interval"
    )


@pytest.mark.parametrize(
    ("hinted", "unhinted", "given", "warned"),
    [
        (8, 99, {}, True),
        (9, 99, {}, False),
        (8, 79, {}, False),
        (8, 99, {"require_hinted": ("answer", "no-leak")}, False),
        (8, 99, {"shows": "text"}, False),
    ],
)
def test_leaks_are_warned_of_where_hints_make_them(
    hinted: int, unhinted: int, given: dict[str, Any], warned: bool
) -> None:
    lines = warnings(
        rationale=counts(checks={"leak": rate(unhinted, 100)}),
        rationalization=counts(samples=40, correct=10, incorrect=30, checks={"leak": rate(hinted, 10)}),
        **given,
    )
    assert len(lines) == warned
    assert not warned or lines[0].startswith("2 of 10 hinted completions with the right answer give it away")
