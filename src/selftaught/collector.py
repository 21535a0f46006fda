"""What a long stage has drawn, kept out of the way of Python's garbage collector.

The collector's full passes walk through every record alive, and there are more passes the more records there are, so
that without this a stage of 100,000 samples takes more than ten times as long as one of 10,000.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PORTION = 10_000
"""Records that make it worth a pass of the collector to set them aside; most stages have fewer."""


@contextmanager
def setting_aside() -> Iterator[Callable[[int], None]]:
    """Yields a function that is told how many records stay alive until the end of the block.

    Whenever there are another PORTION of them, it collects what has become garbage and sets aside all that is alive,
    so that no record is walked through twice. Nothing is done where the collector is off or something is set aside
    already: whoever did that knows better.
    """
    seen = 0
    is_ours = gc.isenabled() and not gc.get_freeze_count()

    def set_aside(number: int) -> None:
        nonlocal seen
        if is_ours and number >= seen + PORTION:
            seen = number
            gc.collect()
            gc.freeze()

    try:
        yield set_aside
    finally:
        if seen:
            gc.unfreeze()
