"""What processes of a run compute with, as text: on another machine the same training gives other weights.

The ranks are compared here; the workers that sample have a platform of their own (stages/workers/dispatch.py), because
they may be on other machines than the ranks.
"""

from collections.abc import Callable, Mapping

from selftaught.machine.devices import Device, hardware
from selftaught.machine.versions import library_versions
from selftaught.records.errors import RefusedError


def platform_of(device: Device) -> str:
    """What decides the numbers that this process computes, as one text; equal machines give equal ones.

    Raises ConfigError if the device is not there.
    """
    return as_text({**hardware(device), **library_versions()})


def as_text(facts: Mapping[str, object]) -> str:
    """What decides numbers, by name, in the form that run.json keeps and that is compared."""
    return ", ".join(f"{name} {value}" for name, value in facts.items())


class TrainingPlatform:
    """What the ranks that trained first for a run had, and all later ones must have."""

    def __init__(self, first: str | None = None, keep: Callable[[str], None] = lambda platform: None) -> None:
        """`first` is that of an earlier start; without one, `keep` is told that of this start's first training."""
        self._first, self._keep = first, keep

    def admit(self, platforms: Mapping[str, str], *, any_machine: bool) -> None:
        """Let ranks train; `platforms` are by the words for each rank, rank 0 first. `any_machine` lets all of them.

        Raises RefusedError if they would not compute what the first ones did, or not the same as each other.
        """
        rank_0, platform = next(iter(platforms.items()))
        for rank, other in () if any_machine else platforms.items():
            if self._first is not None and other != self._first:
                raise RefusedError(
                    f"{rank} has {other}, and the ranks that trained first for this run had {self._first}: they would "
                    "not compute the same numbers; carry on where there are machines like the first ones, or set "
                    "cluster.any_machine=true, with which the run no longer repeats itself byte for byte; the samples "
                    "are kept"
                )
            if other != platform:
                raise RefusedError(
                    f"{rank} has {other}, and {rank_0} {platform}: they would not compute the same numbers; train on "
                    "GPUs and nodes that are alike, or set cluster.any_machine=true, with which the run no longer "
                    "repeats itself byte for byte; the samples are kept"
                )
        if self._first is None:
            self._first = platform
            self._keep(platform)
