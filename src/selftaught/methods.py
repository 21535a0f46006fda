"""The methods of the STaR family as settings of the loop's knobs, and nothing else.

Letters are the knobs of docs/design.md section 1. A method fixes the knobs it names; `custom` fixes none.
"""

from collections.abc import Mapping
from types import MappingProxyType

Value = str | int | float | bool | None
"""Of a setting; None is one that is left out."""

# Zelikman et al. 2022 (arXiv 2203.14465), Algorithm 1: one greedy sample per problem, one hinted retry of a failed
# one, fine-tuning restarts from the base model on this iteration's rationales.
STAR: Mapping[str, Value] = MappingProxyType(
    {
        "sampling.num_samples": 1,  # (b)
        "sampling.temperature": 0.0,
        "sampling.top_p": 1.0,
        "sampling.top_k": None,
        "rationalization.hints": "failed",  # (c)
        "selection.accept": "answer",  # (d)
        "selection.unique_by": "text",  # (e)
        "selection.max_per_problem": None,
        "training.window": "iteration",  # (f)
        "training.human_solutions": False,
        "training.target": "rationale",
        "training.start_from": "base",  # (g)
        "training.sft_first": False,
    }
)

NO_HINTS: Mapping[str, Value] = {"rationalization.hints": "none"}

METHODS: Mapping[str, Mapping[str, Value]] = MappingProxyType(
    {
        "star": STAR,
        # The ablation of section 4.3 of the paper.
        "star-no-rationalization": {**STAR, **NO_HINTS},
        # Training set = everything accepted so far.
        "star-accumulate": {**STAR, "training.window": "all"},
        # Each iteration trains on from the last one ("STaR-Acc" in arXiv 2505.16322).
        "star-continue": {**STAR, "training.start_from": "previous"},
        # Yuan et al. 2023 (arXiv 2308.01825): fine-tune on human solutions, sample 100 at 0.7 from that model, once,
        # then train the base on human and distinct sampled solutions. Their key of distinctness is the list of
        # equations, `--set selection.unique_by=equations` where the task has one; what every task has is the text, with
        # white space and case folded. Of duplicates the first stays, not the one least like the others.
        "rft": {
            **STAR,
            **NO_HINTS,
            "sampling.num_samples": 100,
            "sampling.temperature": 0.7,
            "selection.unique_by": "normalized-text",
            "training.human_solutions": True,
            "training.sft_first": True,
            "loop.max_iterations": 1,
        },
        # Singh et al. 2023 (arXiv 2312.06585): 32 samples at 0.7 with top-k 40, at most 10 kept per problem.
        "rest-em": {
            **STAR,
            **NO_HINTS,
            "sampling.num_samples": 32,
            "sampling.temperature": 0.7,
            "sampling.top_k": 40,
            "selection.max_per_problem": 10,
        },
        # Baseline of the paper: question -> answer, no rationale anywhere.
        "direct": {**STAR, **NO_HINTS, "sampling.num_samples": 0, "training.target": "answer"},
        # Control: the same number of steps on the worked examples alone.
        "seeds-only": {**STAR, **NO_HINTS, "sampling.num_samples": 0},
        "custom": {},
    }
)
