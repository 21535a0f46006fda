"""The methods of the STaR family, each as the values of the settings by which they differ (its knobs).

The letters are those of the knobs in docs/design.md, section 1. A method fixes the knobs that it lists; `custom` lists
none.
"""

from collections.abc import Mapping
from types import MappingProxyType

Value = str | int | float | bool | None
"""The value of a setting; None for one that is left out."""

# Zelikman et al. 2022 (arXiv 2203.14465), Algorithm 1: one greedy sample per problem, one with a hint for each failed
# problem, and fine-tuning from the base model on this iteration's samples.
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
        # The training set is everything accepted so far.
        "star-accumulate": {**STAR, "training.window": "all"},
        # Each iteration trains the model of the one before ("STaR-Acc" in arXiv 2505.16322).
        "star-continue": {**STAR, "training.start_from": "previous"},
        # Yuan et al. 2023 (arXiv 2308.01825): fine-tune on the human solutions, sample 100 completions at temperature
        # 0.7 from that model, once, then train the base model on the human and the distinct sampled solutions. The
        # paper calls two solutions the same if they have the same list of equations: that is `--set
        # selection.unique_by=equations`, for tasks that have equations. Every task has a text, compared here with white
        # space and case folded. Of duplicates the first is kept; the paper keeps the one least like the others.
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
        # Control: the same number of steps on the few-shot examples alone.
        "seeds-only": {**STAR, **NO_HINTS, "sampling.num_samples": 0},
        "custom": {},
    }
)
