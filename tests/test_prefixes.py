"""Which prompts share a run of what they begin with."""

from hypothesis import assume, given
from hypothesis import strategies as st

from selftaught.engines.local.prefixes import (
    GROUP_AT_LEAST,
    SHARED_AT_LEAST,
    prefix_groups,
    shared_length,
)

heads = st.lists(st.integers(0, 2), max_size=40)
tails = st.lists(st.integers(0, 2), min_size=1, max_size=5)
"""Few kinds of tokens and few heads, so that prompts often begin alike, are equal, or are the start of another."""


@st.composite
def prompt_lists(draw: st.DrawFn) -> list[list[int]]:
    starts = draw(st.lists(heads, min_size=1, max_size=4))
    starts += [[*a, *b] for a in starts for b in starts[:2]]
    pairs = draw(st.lists(st.tuples(st.sampled_from(starts), tails), max_size=70))
    return [[*head, *tail] for head, tail in pairs]


def common(prompts: list[list[int]]) -> int:
    """Number of tokens that all begin with, compared one by one."""
    number = 0
    while all(len(p) > number and p[number] == prompts[0][number] for p in prompts):
        number += 1
    return number


@given(prompts=prompt_lists())
def test_every_prompt_is_in_exactly_one_group_and_the_order_is_kept(prompts: list[list[int]]) -> None:
    groups = prefix_groups(prompts)
    assert sorted(i for group in groups for i in group) == list(range(len(prompts)))
    assert all(group == sorted(group) and group for group in groups)
    assert groups == sorted(groups)


@given(prompts=prompt_lists())
def test_all_prompts_of_a_group_begin_with_what_it_shares_and_go_on(prompts: list[list[int]]) -> None:
    for group in prefix_groups(prompts):
        members = [prompts[i] for i in group]
        shared = shared_length(members)
        assert len({tuple(member[:shared]) for member in members}) == 1
        assert min(len(member) for member in members) > shared
        assert shared == 0 or shared >= SHARED_AT_LEAST


@given(prompts=prompt_lists())
def test_as_much_is_shared_as_can_be(prompts: list[list[int]]) -> None:
    assume(len(prompts) > 1)
    most = min(common(prompts), min(map(len, prompts)) - 1)
    assert shared_length(prompts) == (most if most >= SHARED_AT_LEAST else 0)


@given(prompts=prompt_lists())
def test_a_split_gives_every_part_enough_prompts_and_a_longer_prefix(prompts: list[list[int]]) -> None:
    groups = prefix_groups(prompts)
    if len(groups) > 1:
        assert min(map(len, groups)) >= GROUP_AT_LEAST
        least = min(shared_length([prompts[i] for i in group]) for group in groups)
        assert least >= common(prompts) + SHARED_AT_LEAST


@given(
    head=st.lists(st.integers(0, 9), max_size=30),
    kinds=st.lists(st.booleans(), min_size=2 * GROUP_AT_LEAST, max_size=80),
    tail=st.lists(st.integers(0, 9), min_size=1, max_size=4),
)
def test_prompts_with_and_without_a_hint_are_two_groups(head: list[int], kinds: list[bool], tail: list[int]) -> None:
    counts = [kinds.count(kind) for kind in (False, True)]
    assume(min(counts) >= GROUP_AT_LEAST)
    middle = {False: [10] * SHARED_AT_LEAST, True: [11] * SHARED_AT_LEAST}
    prompts = [[*head, *middle[kind], *tail] for kind in kinds]
    expected = [[i for i, kind in enumerate(kinds) if kind is which] for which in (False, True)]
    assert prefix_groups(prompts) == sorted(expected)


def test_one_kind_with_too_few_prompts_stays_with_the_other() -> None:
    def prompts(hinted: int) -> list[list[int]]:
        return [[*[i < hinted] * SHARED_AT_LEAST, i] for i in range(60)]

    few, enough = prompts(GROUP_AT_LEAST - 1), prompts(GROUP_AT_LEAST)
    assert prefix_groups(few) == [list(range(60))]
    assert prefix_groups(enough) == [list(range(GROUP_AT_LEAST)), list(range(GROUP_AT_LEAST, 60))]


def test_groups_may_be_split_more_than_once() -> None:
    prompts = [[*[i % 2] * 20, *[i % 4] * 20, i] for i in range(4 * GROUP_AT_LEAST)]
    groups = prefix_groups(prompts)
    assert groups == [list(range(start, len(prompts), 4)) for start in range(4)]
    assert [shared_length([prompts[i] for i in group]) for group in groups] == [40] * 4


def test_a_single_prompt_and_none_share_nothing() -> None:
    assert prefix_groups([]) == []
    assert prefix_groups([[1] * 50]) == [[0]]
    assert shared_length([[1] * 50]) == 0


def test_equal_prompts_share_all_but_their_last_token() -> None:
    prompts = [[*range(30)]] * 40
    assert prefix_groups(prompts) == [list(range(40))]
    assert shared_length(prompts) == 29


def test_a_prompt_that_others_go_on_from_keeps_a_token_of_its_own() -> None:
    prompts = [[*range(n)] for n in (40, 20, 30)]
    assert shared_length(prompts) == 19
    assert shared_length([[*range(SHARED_AT_LEAST)], [*range(50)]]) == 0
