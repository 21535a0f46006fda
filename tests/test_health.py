"""Whatever a user should look at after an iteration has a warning, and nothing else has one."""

from typing import Any

import pytest

from builders import counts, measurement
from selftaught.methods.health import warnings_for

NO_HINTS = counts(samples=0, correct=0, incorrect=0)


def warnings(**given: Any) -> tuple[str, ...]:
    """The warnings of an iteration that differs from a healthy one as given."""
    return warnings_for(
        **{
            "rationale": counts(),
            "rationalization": counts(samples=40, correct=10, incorrect=30),
            "steps_required": False,
            "examples_by_source": {"rationale": 60, "rationalization": 10, "rehearsed": 20},
            "batch_size": 8,
            "dev": measurement(60),
            "dev_before": measurement(50),
            **given,
        }
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
    assert not warned or lines[0].startswith(f"11 of 100 {stage} completions state no answer; look at ")


def test_hints_that_are_never_accepted_are_warned_of() -> None:
    lines = warnings(rationalization=counts(samples=40, correct=0, incorrect=40))
    assert lines == ("none of 40 completions with a hint gave the hint's answer; hints have no effect",)


@pytest.mark.parametrize(("wrong", "warned"), [(1, False), (2, True), (None, False)])
def test_copied_hints_are_warned_of_unless_the_steps_are_required(wrong: int | None, warned: bool) -> None:
    hinted = counts(samples=40, correct=10, incorrect=30, false_positive=wrong)
    lines = warnings(rationalization=hinted)
    assert len(lines) == warned
    assert not warned or lines[0].startswith("2 of 10 hinted completions with the right answer fail the step check")
    assert warnings(rationalization=hinted, steps_required=True) == ()


def test_no_hints_are_no_failed_hints() -> None:
    assert warnings(rationalization=NO_HINTS) == ()


@pytest.mark.parametrize(("rationales", "warned"), [(8, False), (7, True)])
def test_fewer_kept_rationales_than_a_batch_are_warned_of(rationales: int, warned: bool) -> None:
    lines = warnings(examples_by_source={"rationale": rationales - 2, "rationalization": 2, "rehearsed": 50})
    assert lines == (("only 7 sampled rationales were kept, fewer than one batch of 8",) if warned else ())


def test_a_baseline_that_samples_nothing_lacks_no_rationales() -> None:
    assert warnings(rationale=NO_HINTS, rationalization=NO_HINTS, examples_by_source={"answer": 100}) == ()


def test_a_fall_of_dev_accuracy_outside_the_interval_is_warned_of() -> None:
    """39/100 has the interval [0.300, 0.488]: 0.49 lies outside, 0.48 inside."""
    lines = warnings(dev=measurement(39), dev_before=measurement(49))
    assert lines == ("dev accuracy fell from 0.490 to 0.390, outside the interval",)
    assert warnings(dev=measurement(39), dev_before=measurement(48)) == ()


def test_a_rise_of_dev_accuracy_is_no_fall() -> None:
    assert warnings(dev=measurement(90), dev_before=measurement(10)) == ()


@pytest.mark.parametrize(("correct", "warned"), [(97, False), (98, True), (100, True)])
def test_a_dev_set_near_its_ceiling_is_warned_of(correct: int, warned: bool) -> None:
    lines = warnings(dev=measurement(correct))
    assert len(lines) == warned
    assert not warned or "can hardly show further progress" in lines[0]


def test_several_warnings_come_together_one_line_each() -> None:
    lines = warnings(
        rationale=counts(truncated=50, unparseable=50),
        examples_by_source={},
        dev=measurement(10),
        dev_before=measurement(90),
    )
    assert len(lines) == 4
    assert not any("\n" in line for line in lines)
