"""What the loss of a worker means: another one in its place, none there any more, or the end of the run."""

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from selftaught.records.errors import WorkerDied
from selftaught.stages.workers.protocol import Lost, Refused

ALIKE = 3
"""So many workers that fail at the same work with the same words show that every worker would."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the section [cluster] allows."""

    workers: int
    chunk_timeout: float
    """Seconds."""
    max_losses: int
    any_machine: bool = False


class WorkerFault(Exception):
    """A mistake of this program, or of a library, that workers have met; the text has the traceback of the last one."""


class Losses:
    """The workers that a start of the run has lost."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.number = 0
        self.was_ready = False
        """Whether any worker has been ready in this start."""
        self._alike = Counter[tuple[object, str]]()

    def add(self, loss: Lost | Refused, work: object, *, was_opening: bool) -> Literal["replace", "avoid"] | Exception:
        """Count a loss. `replace`: another worker may start in its place. `avoid`: one there would be lost again. Else
        what the run ends with.

        `work` is what the worker failed at, a task or a model that it opened. What refuses the first workers of a start
        would refuse all; once others have been ready, it is a matter of the machine.
        """
        self.number += 1
        is_of_its_place = was_opening and self.was_ready
        if isinstance(loss, Refused) and was_opening and not self.was_ready:
            return error_of(loss, why_of(loss))
        count = 0
        if isinstance(loss, Refused) or loss.traceback:
            self._alike[work, why_of(loss)] += 1
            count = self._alike[work, why_of(loss)]
        if count >= ALIKE and not is_of_its_place:
            return error_of(loss, f"{count} workers have failed at the same work in the same way: {why_of(loss)}")
        most = self._limits.max_losses
        if not self.was_ready:
            most = min(most, self._limits.workers)  # what never worked does not work the twentieth time
        if self.number > most:
            return self._too_many(loss)
        return "avoid" if is_of_its_place and (isinstance(loss, Refused) or count >= ALIKE) else "replace"

    def _too_many(self, loss: Lost | Refused) -> Exception:
        known = f"cluster.max_losses = {self._limits.max_losses}"
        number = f"{self.number} workers were lost, more than {known}" if self.was_ready else "no worker could start"
        text = f"{number}; the last one: {located(loss)}"
        if isinstance(loss, Lost) and loss.traceback:
            return error_of(loss, text)
        return WorkerDied(f"{text}; what was finished is saved, and the same command carries on")


def why_of(loss: Lost | Refused) -> str:
    """The same for all that fail alike, wherever they are."""
    return loss.why if isinstance(loss, Lost) else str(loss.error)


def located(loss: Lost | Refused) -> str:
    """Where a worker was lost, if not on this machine, and why."""
    where, why = f"node {loss.node}: ", why_of(loss)
    return why if not loss.node or why.startswith(where) else f"{where}{why}"


def error_of(loss: Lost | Refused, text: str) -> Exception:
    """What a run ends with if it does so for the reason of this loss."""
    if isinstance(loss, Refused):
        return type(loss.error)(located(loss))
    return WorkerFault(f"{text}; what was finished is saved. In the last of them:\n{loss.traceback}")
