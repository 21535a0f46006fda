"""Which rows go through the model together: nothing lost, nothing over the budget, the largest first."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selftaught.training.batches import group_by_length, plan_batches

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=40)


@st.composite
def plans(draw: st.DrawFn) -> dict[str, object]:
    lengths = draw(LENGTHS)
    batch_size = draw(st.integers(1, 12))
    steps = draw(st.integers(1, 6))
    order = draw(st.lists(st.integers(0, len(lengths) - 1), min_size=steps * batch_size, max_size=steps * batch_size))
    return {
        "lengths": lengths,
        "order": order,
        "batch_size": batch_size,
        "max_tokens": draw(st.integers(1, 4000)),
        "padded": draw(st.booleans()),
        "at_least": draw(st.integers(1, 3)),
    }


def cost(rows: tuple[int, ...], lengths: list[int], padded: bool) -> int:
    of_rows = [lengths[i] for i in rows]
    return max(of_rows) * len(of_rows) if padded else sum(of_rows)


@given(plans())
def test_every_step_holds_the_rows_that_the_order_assigns_to_it(plan: dict) -> None:  # type: ignore[type-arg]
    batches = plan_batches(**plan)
    size, order = plan["batch_size"], plan["order"]
    expected = sorted(tuple(sorted(order[i : i + size])) for i in range(0, len(order), size))
    assert sorted(tuple(sorted(i for rows in step for i in rows)) for step in batches.steps) == expected
    assert [sum(plan["lengths"][i] for rows in step for i in rows) for step in batches.steps] == list(batches.tokens)


@given(plans())
def test_all_steps_have_as_many_micro_batches_none_empty_and_none_over_the_budget(
    plan: dict,  # type: ignore[type-arg]
) -> None:
    batches = plan_batches(**plan)
    assert {len(step) for step in batches.steps} == {batches.per_step}
    assert batches.per_step >= min(plan["at_least"], plan["batch_size"])
    assert all(batches.flat)
    over = [p for p in batches.flat if cost(p, plan["lengths"], plan["padded"]) > plan["max_tokens"]]
    assert all(len(rows) == 1 for rows in over)


@given(plans())
def test_fewer_micro_batches_would_break_the_budget(plan: dict) -> None:  # type: ignore[type-arg]
    batches = plan_batches(**plan)
    fewer = batches.per_step - 1
    if fewer < max(1, plan["at_least"]):
        return
    again = plan_batches(**{**plan, "at_least": fewer, "max_tokens": 10**9})
    assert again.per_step == fewer
    assert any(cost(rows, plan["lengths"], plan["padded"]) > plan["max_tokens"] for rows in again.flat)


@given(plans())
def test_the_largest_micro_batch_of_the_training_comes_first(plan: dict) -> None:  # type: ignore[type-arg]
    batches = plan_batches(**plan)
    costs = [cost(rows, plan["lengths"], plan["padded"]) for rows in batches.flat]
    assert costs[0] == max(costs)


@given(plans())
def test_the_other_steps_keep_their_order(plan: dict) -> None:  # type: ignore[type-arg]
    batches = plan_batches(**plan)
    size, order = plan["batch_size"], plan["order"]
    given_steps = [sorted(order[i : i + size]) for i in range(0, len(order), size)]
    ran = [sorted(i for rows in step for i in rows) for step in batches.steps]
    given_steps.remove(ran[0])
    assert ran[1:] == given_steps


def test_packed_micro_batches_are_even_in_tokens_and_padded_ones_in_length() -> None:
    lengths, order = [10, 100, 11, 101, 12, 102], [0, 1, 2, 3, 4, 5]
    even = plan_batches(lengths, order, batch_size=6, max_tokens=170)
    assert [sorted(lengths[i] for i in rows) for rows in even.flat] == [[10, 102], [11, 101], [12, 100]]
    similar = plan_batches(lengths, order, batch_size=6, max_tokens=306, padded=True)
    assert [sorted(lengths[i] for i in rows) for rows in similar.flat] == [[100, 101, 102], [10, 11, 12]]


def test_rows_that_fill_no_step_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="5 rows do not fill steps of 4"):
        plan_batches([3] * 5, range(5), batch_size=4, max_tokens=100)


@given(LENGTHS, st.floats(0, 1))
def test_groups_of_similar_length_hold_every_row_once_and_waste_little(lengths: list[int], waste: float) -> None:
    groups = group_by_length(lengths, waste=waste)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        area = sum(lengths[i] ** 2 for i in group)
        assert max(lengths[i] for i in group) ** 2 * len(group) <= (1 + waste) * area + 1e-6
    assert all(lengths[a[0]] >= lengths[b[0]] for a, b in pairwise(groups))
