"""Records that are set aside are not walked through again, and are back with the collector afterwards."""

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from selftaught import collector
from selftaught.collector import PORTION, setting_aside


class Node:
    """May hold itself, so that only the collector can free it."""

    held: "Node"


@contextmanager
def walked() -> Iterator[list[int]]:
    """How many objects each full pass of the collector leaves in its hands."""
    sizes: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 2:
            sizes.append(len(gc.get_objects()))

    gc.callbacks.append(note)
    try:
        yield sizes
    finally:
        gc.callbacks.remove(note)


def test_a_portion_is_walked_through_once_and_then_set_aside() -> None:
    alive: list[list[Node]] = []
    with walked() as sizes, setting_aside() as set_aside:
        for portion in range(1, 4):
            alive.append([Node() for _ in range(PORTION)])
            set_aside(portion * PORTION)
            assert gc.get_freeze_count() > portion * PORTION
    assert gc.get_freeze_count() == 0
    assert max(sizes[1:]) < 2 * PORTION  # the first pass is over all that Python and the tests hold
    assert sum(len(nodes) for nodes in alive) == 3 * PORTION


def test_what_becomes_garbage_before_it_is_set_aside_is_freed() -> None:
    with setting_aside() as set_aside:
        node = Node()
        node.held = node
        gone = weakref.ref(node)
        del node
        set_aside(PORTION)
        assert gone() is None


def test_what_was_set_aside_and_becomes_garbage_is_freed_afterwards() -> None:
    node = Node()
    node.held = node
    gone = weakref.ref(node)
    with setting_aside() as set_aside:
        set_aside(PORTION)
        del node
        gc.collect()
        assert gone() is not None
    gc.collect()
    assert gone() is None


def test_a_short_stage_costs_no_pass() -> None:
    gc.collect()
    with walked() as sizes, setting_aside() as set_aside:
        set_aside(PORTION - 1)
    assert sizes == []


def test_an_error_in_the_block_gives_everything_back() -> None:
    def break_off() -> None:
        with setting_aside() as set_aside:
            set_aside(PORTION)
            raise KeyError

    with pytest.raises(KeyError):
        break_off()
    assert gc.get_freeze_count() == 0


def test_whoever_has_frozen_something_or_switched_the_collector_off_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collector, "PORTION", 1)
    gc.disable()
    try:
        with setting_aside() as set_aside:
            set_aside(5)
            assert gc.get_freeze_count() == 0
    finally:
        gc.enable()
    gc.freeze()
    frozen = gc.get_freeze_count()
    try:
        with setting_aside() as set_aside:
            set_aside(5)
        assert gc.get_freeze_count() > frozen // 2  # thawing would have made it 0
    finally:
        gc.unfreeze()
