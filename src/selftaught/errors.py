"""The errors a user can act on.

    SelftaughtError
      + ConfigError      a setting is unknown, out of range or contradicts another
      + ModelError       a model folder is missing, broken or of an unsupported kind
      + StoreError       the run folder cannot be read or written
      + EngineError      drawing completions failed
      + VerifierError    a user's verifier failed instead of giving a verdict
      + TrainingError    fine-tuning failed or would not do what was asked
      + WorkerDied         a further process of the run ended in the middle of its work
      + RefusedError     an invariant broke; going on would give silently wrong results
        + NothingAccepted  an iteration has nothing to train on
      + Interrupted      the user asked to stop; everything finished is saved

Every message says what, got, expected and the next step, on one line. The command line prints it and exits with
`exit_code`; anything that is not a SelftaughtError is our own mistake and keeps its traceback (exit code 1).
"""


def one_line(text: object) -> str:
    """Text from anywhere as one whole line, in which a control character is seen and does nothing.

    An error that says nothing is named by its type.
    """
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
    """An engine could not draw or score completions."""


class VerifierError(SelftaughtError, RuntimeError):
    """A user's verifier raised, returned no verdict, or its process died."""


class TrainingError(SelftaughtError, RuntimeError):
    """Fine-tuning cannot start, or its loss is not finite."""


class WorkerDied(SelftaughtError, RuntimeError):
    """A further process of a run ended in the middle of its work."""


class RefusedError(SelftaughtError, RuntimeError):
    """A cheap invariant is broken; the run stops because the result would be silently wrong."""


class NothingAccepted(RefusedError):
    """An iteration accepted no sample and has no other rows, so there is nothing to train on."""


class Interrupted(SelftaughtError):
    """Ctrl-C: what was finished is on disk, and the message says how to carry on."""

    exit_code = 130
