"""Check that the engine serves the newly trained weights. Pure: log-probabilities in, a sentence out.

An engine that still serves old weights looks like a model that learns slowly, which can cost weeks (docs/design.md,
section 6), so every new checkpoint is checked before it is used.
"""

from collections.abc import Sequence

from selftaught.machine.devices import NumberType

NOISE = 0.02
"""Mean difference of log-probabilities (nats) below which this check cannot distinguish two sets of weights. It is more
than another batch shape or program changes on the most sensitive tokens of a small model in float32."""
NOISE_BFLOAT16 = 0.3
"""The same for an engine in bfloat16. Measured with SmolLM2-135M on human solutions of GSM8K: the log-probabilities of
the same weights in float32 and in bfloat16 differ by 0.13 nats on the tenth of the tokens that differ most."""


def noise_of(dtype: NumberType | None) -> float:
    """The limit for an engine that computes in a number type; None if that is not known."""
    return NOISE_BFLOAT16 if dtype == "bfloat16" else NOISE


class CannotTell(ValueError):
    """Log-probabilities cannot distinguish the old weights from the new ones."""


def serves_old_weights(
    engine: Sequence[Sequence[float]],
    *,
    new: Sequence[Sequence[float]],
    old: Sequence[Sequence[float]],
    noise: float = NOISE,
) -> str | None:
    """Compare an engine's log-probabilities of the probe with those of the new and of the old weights.

    Compares only the tenth of the tokens where old and new differ most. Returns the problem, or None if the engine is
    nearer to the new weights. Raises CannotTell if old and new differ by less than `noise` (nats) even there, or if
    there are no tokens; then the caller must compare the files instead.
    """
    if not _flat(new):
        raise CannotTell("the trainer scored no tokens of the probe")
    lengths = [[len(row) for row in rows] for rows in (engine, new, old)]
    if lengths[0] != lengths[1] or lengths[1] != lengths[2]:
        return f"it scored {lengths[0]} tokens of the probe, the trainer {lengths[1]}, the engine before {lengths[2]}"
    rows = list(zip(_flat(engine), _flat(new), _flat(old), strict=True))
    rows.sort(key=lambda row: abs(row[1] - row[2]), reverse=True)
    rows = rows[: max(1, len(rows) // 10)]
    gap = sum(abs(n - o) for _, n, o in rows) / len(rows)
    if gap < noise:
        raise CannotTell(f"old and new weights differ by {gap:.4f} nats, less than {noise}")
    to_new = sum(abs(e - n) for e, n, _ in rows) / len(rows)
    to_old = sum(abs(e - o) for e, _, o in rows) / len(rows)
    if to_new < to_old:
        return None
    return (
        f"on the {len(rows)} tokens where old and new weights differ most (by {gap:.3f} nats), the engine is "
        f"{to_old:.3f} from the old ones and {to_new:.3f} from the new ones"
    )


def _flat(rows: Sequence[Sequence[float]]) -> list[float]:
    return [value for row in rows for value in row]
