"""The errors a user can act on.

    SelftaughtError
      + ConfigError      a setting is unknown, out of range or contradicts another
      + ModelError       a model folder is missing, broken or of an unsupported kind
      + StoreError       the run folder cannot be read or written
      + EngineError      generating or scoring completions failed
      + VerifierError    a user's verifier failed instead of giving a verdict
      + TrainingError    fine-tuning cannot start or its loss is not finite
      + WorkerDied       a worker of the run ended in the middle of its work
      + HubError         the Hugging Face hub cannot be reached, or takes nothing from this user
      + RefusedError     an invariant is broken, so that the result would be wrong without a sign of it
        + NothingAccepted  an iteration has nothing to train on
      + Interrupted      the user stopped the run; everything finished is saved
        + Suspended        a scheduler's SIGTERM or the time limit did, for a later start to carry on

Every message says on one line what is wrong, what was given, what is expected and what to do next. The command line
prints it and exits with `exit_code`. Any other exception is a mistake of this program: it keeps its traceback and exits
with 1.
"""


def one_line(text: object) -> str:
    """Any text on one line, with control characters escaped; an error without a message gives its type."""
    line = " ".join(part for line in str(text).splitlines() if (part := line.strip()))
    if not line and isinstance(text, BaseException):
        return type(text).__name__
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


class SelftaughtError(Exception):
    """Something the user can fix. `str(error)` is one line."""

    exit_code = 2


class ConfigError(SelftaughtError, ValueError):
    """A setting is unknown, has the wrong type, is out of range or contradicts another one."""


class ModelError(SelftaughtError, ValueError):
    """A model is missing, broken, or of a kind that an engine does not support."""


class StoreError(SelftaughtError, OSError):
    """The run folder cannot be read or written, or belongs to another run."""


class EngineError(SelftaughtError, RuntimeError):
    """An engine could not generate or score completions."""


class VerifierError(SelftaughtError, RuntimeError):
    """A user's verifier raised, returned no verdict, or its process died."""


class TrainingError(SelftaughtError, RuntimeError):
    """Fine-tuning cannot start, or its loss is not finite."""


class WorkerDied(SelftaughtError, RuntimeError):
    """A worker of a run ended in the middle of its work."""

    how: str = ""
    """How its process ended, in words; empty if that is not known."""


class HubError(SelftaughtError, RuntimeError):
    """The Hugging Face hub cannot be reached, knows no such token, or does not let its owner write there."""


class RefusedError(SelftaughtError, RuntimeError):
    """An invariant is broken; the run stops because its result would be wrong without a sign of it."""


class NothingAccepted(RefusedError):
    """An iteration accepted no sample and has no other examples, so there is nothing to train on."""


class Interrupted(SelftaughtError):
    """Ctrl-C: everything finished is on disk, and the message says how to carry on."""

    exit_code = 130


class Suspended(Interrupted):
    """SIGTERM, or the end of the run's time: as `Interrupted`, and a scheduler is to start the same command again."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again later
