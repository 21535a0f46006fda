"""A speed counts only if the outputs are right: greedy completions beside those of `generate` in float32."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.runner import RivalFailed
from benchmarks.session import Session

Completions = Sequence[Mapping[str, Any]]

TIE = 1e-4
"""Logits: below this gap between the two likeliest tokens, either is a right greedy choice in float32."""


def compare(
    here: Session, job: dict[str, Any], timed: Mapping[str, Completions], tell: Callable[[str], None]
) -> dict[str, Any]:
    """What a sample of the questions gives in float32 by us and by `generate`, and how near the timed outputs are.

    For each completion of ours in float32 that differs, the gap between the two likeliest tokens where it first
    differs says whether it is a tie or an error.
    """
    try:
        tell("outputs: generate in float32")
        reference = here.run("generate", {**job, "dtype": "float32"}, "reference")["completions"]
        tell("outputs: selftaught in float32")
        settings = {**job["settings"], "model.dtype": "float32"}
        ours = here.run("ours", {**job, "settings": settings}, "ours-float32")["completions"]
        gaps = _gaps(here, job, reference, ours)
    except RivalFailed as error:
        return {"not compared": str(error)}
    return {
        "float32": {**agreement(reference, ours), "gaps_where_first_different": gaps},
        "float32 verdict": verdict(gaps),
        **{f"{name} as timed": agreement(reference, found[: len(reference)]) for name, found in timed.items()},
    }


def verdict(gaps: Sequence[float]) -> str:
    worse = [gap for gap in gaps if gap >= TIE]
    if worse:
        return f"WRONG: {len(worse)} completions differ where the two likeliest tokens are up to {max(worse):.2g} apart"
    return f"equal up to {len(gaps)} ties below {TIE}"


def agreement(reference: Completions, found: Completions) -> dict[str, float]:
    """How many completions are the same, and the mean share of a completion's tokens before the first difference."""
    pairs = list(zip(reference, found, strict=True))
    same = [is_same(r, f) for r, f in pairs]
    before = [
        1.0 if equal else common_length(r["ids"], f["ids"]) / max(1, len(r["ids"]))
        for equal, (r, f) in zip(same, pairs, strict=True)
    ]
    return {"n": len(pairs), "identical": sum(same), "mean_common_prefix": round(sum(before) / len(pairs), 4)}


def is_same(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    """Same tokens, or the same text: a rival may count the stop string's tokens, or decode a first space away."""
    return bool(left["ids"] == right["ids"] or left["text"] == right["text"])


def common_length(left: Sequence[int], right: Sequence[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def _gaps(here: Session, job: Mapping[str, Any], reference: Completions, ours: Completions) -> list[float]:
    contexts = [
        (prompt, r["ids"][: common_length(r["ids"], f["ids"])])
        for prompt, r, f in zip(job["prompts"], reference, ours, strict=True)
        if not is_same(r, f)
    ]
    if not contexts:
        return []
    found = here.run("reference", {**job, "contexts": contexts, "held_out": []}, "gaps")
    return [round(gap, 8) for gap in found["gaps"]]
