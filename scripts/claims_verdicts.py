"""What two differences, of the selected models and of the last ones, say of a claim, in words."""

from selftaught.comparison.texts import UNLIKE

LEVEL = 0.05


def p_text(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def says(points: float, p: float) -> int:
    return 0 if p >= LEVEL or not points else 1 if points > 0 else -1


def verdict(first: int, last: int, *, name: str = "selected") -> str:
    """In words, of what the selected models (or those of another name) and the last ones say."""
    if first == last:
        return {1: "holds", -1: "does not hold: the reverse does", 0: "cannot be said"}[first]
    if first * last < 0:
        return f"{name} and last disagree"
    one = name if first else "last"
    return f"{'holds' if first + last > 0 else 'the reverse holds'} for the {one} model alone"


def with_tokens(said: str, ratio: float | None) -> str:
    """A verdict, with what the row has of `star`'s loss tokens if that is another number than about as many."""
    if ratio is None or abs(ratio - 1) <= UNLIKE:
        return said
    return f"{said} at equal steps; {ratio:.2f} of the loss tokens"
