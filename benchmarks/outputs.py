"""A speed counts only if the outputs are correct: compare greedy completions with those of `generate` in float32."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.runner import RivalFailed
from benchmarks.session import Session

Completions = Sequence[Mapping[str, Any]]

TIE = 1e-4
"""Logits: if the gap between the two likeliest tokens is smaller, either is a correct greedy choice in float32."""


def compare(
    here: Session, job: dict[str, Any], timed: Mapping[str, Completions], log: Callable[[str], None]
) -> dict[str, Any]:
    """Compare selftaught with `generate` on some of the questions in float32, and the timed outputs with `generate`.

    For each of our completions in float32 that differs, the gap between the two likeliest tokens at the first
    difference says whether it is a tie or an error.
    """
    try:
        log("outputs: generate in float32")
        reference = here.run("generate", {**job, "dtype": "float32"}, "reference")["completions"]
        log("outputs: selftaught in float32")
        settings = {**job["settings"], "model.dtype": "float32"}
        ours = here.run("ours", {**job, "settings": settings}, "ours-float32")["completions"]
        gaps = _gaps(here, job, reference, ours)
    except RivalFailed as error:
        return {"not compared": str(error)}
    return {
        "float32": {**agreement(reference, ours), "gaps_where_first_different": gaps},
        "float32 verdict": verdict(gaps),
        **{f"{name} as timed": agreement(reference, rows[: len(reference)]) for name, rows in timed.items()},
    }


def verdict(gaps: Sequence[float]) -> str:
    worse = [gap for gap in gaps if gap >= TIE]
    if worse:
        return f"WRONG: {len(worse)} completions differ where the two likeliest tokens are up to {max(worse):.2g} apart"
    return f"equal up to {len(gaps)} ties below {TIE}"


def agreement(reference: Completions, completions: Completions) -> dict[str, float]:
    """How many completions are the same, and the mean share of a completion's tokens before the first difference."""
    pairs = list(zip(reference, completions, strict=True))
    same = [is_same(r, c) for r, c in pairs]
    before = [
        1.0 if equal else common_length(r["ids"], c["ids"]) / max(1, len(r["ids"]))
        for equal, (r, c) in zip(same, pairs, strict=True)
    ]
    return {"n": len(pairs), "identical": sum(same), "mean_common_prefix": round(sum(before) / len(pairs), 4)}


def is_same(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Same tokens, or the same text: a rival may count the tokens of the stop string, or lose a first space."""
    return bool(left["ids"] == right["ids"] or left["text"] == right["text"])


def common_length(left: Sequence[int], right: Sequence[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def _gaps(here: Session, job: Mapping[str, Any], reference: Completions, ours: Completions) -> list[float]:
    contexts = [
        (prompt, r["ids"][: common_length(r["ids"], c["ids"])])
        for prompt, r, c in zip(job["prompts"], reference, ours, strict=True)
        if not is_same(r, c)
    ]
    if not contexts:
        return []
    result = here.run("reference", {**job, "contexts": contexts, "held_out": []}, "gaps")
    return [round(gap, 8) for gap in result["gaps"]]
