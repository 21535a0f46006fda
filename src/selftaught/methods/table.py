"""The methods of the STaR family by name.

Most are the standard method with other values of the settings by which they differ (its knobs). The letters are those
of the knobs in docs/design.md, section 1. A method fixes the knobs that it lists; `custom` lists none.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from selftaught.methods.adastar import AdaStar
from selftaught.methods.method import Method, StandardMethod
from selftaught.methods.settings import Knobs
from selftaught.records.problems import Task
from selftaught.records.sections import Value


@dataclass(frozen=True, slots=True)
class NamedMethod:
    knobs: Mapping[str, Value]
    """The settings that the method fixes."""
    make: Callable[[Knobs, Task], Method] = StandardMethod


# Zelikman et al. 2022 (arXiv 2203.14465), Algorithm 1: one greedy sample per problem, one with a hint for each failed
# problem, and fine-tuning from the base model on this iteration's samples.
STAR: Mapping[str, Value] = MappingProxyType(
    {
        "sampling.num_samples": 1,  # (b)
        "sampling.temperature": 0.0,
        "sampling.top_p": 1.0,
        "sampling.top_k": None,
        "rationalization.hints": "failed",  # (c)
        "rationalization.shows": "answer",
        "selection.require": ("answer",),  # (d)
        "selection.require_hinted": ("answer",),
        "selection.unique_by": "text",  # (e)
        "selection.max_per_problem": None,
        "selection.keep": "accepted",
        "training.window": "iteration",  # (f)
        "training.human_solutions": False,
        "training.target": "rationale",
        "training.start_from": "base",  # (g)
        "training.sft_first": False,
    }
)

NO_HINTS: Mapping[str, Value] = {"rationalization.hints": "none"}

METHODS: Mapping[str, NamedMethod] = MappingProxyType(
    {
        "star": NamedMethod(STAR),
        # A hinted rationale must pass the task's step check too: of 184 that a model of 0.5 billion parameters wrote on
        # GSM8K and that ended on the answer, 165 copied it under steps that do not lead there.
        "star-checked": NamedMethod({**STAR, "selection.require_hinted": ("answer", "steps")}),
        # The ablation of section 4.3 of the paper.
        "star-no-rationalization": NamedMethod({**STAR, **NO_HINTS}),
        # The training set is everything accepted so far.
        "star-accumulate": NamedMethod({**STAR, "training.window": "all"}),
        # Each iteration trains the model of the one before ("STaR-Acc" in arXiv 2505.16322).
        "star-continue": NamedMethod({**STAR, "training.start_from": "previous"}),
        # Koh et al. 2025 (arXiv 2505.16322), section 4: continues from the model before, samples at temperature 1.
        "adastar": NamedMethod(
            {
                **STAR,
                "sampling.temperature": 1.0,
                "sampling.top_p": 0.9,
                "rationalization.temperature": 1.0,
                "training.start_from": "previous",
                "task.choose": "random",  # the method has an order of its own
                "task.problems_per_iteration": "all",
            },
            AdaStar,
        ),
        # Yuan et al. 2023 (arXiv 2308.01825): fine-tune on the human solutions, sample 100 completions at temperature
        # 0.7 from that model, once, then train the base model on the human and the distinct sampled solutions. The
        # paper calls two solutions the same if they have the same list of equations: that is `--set
        # selection.unique_by=equations`, for tasks that have equations. Every task has a text, compared here with white
        # space and case folded. Of duplicates the first is kept; the paper keeps the one least like the others.
        "rft": NamedMethod(
            {
                **STAR,
                **NO_HINTS,
                "sampling.num_samples": 100,
                "sampling.temperature": 0.7,
                "selection.unique_by": "normalized-text",
                "training.human_solutions": True,
                "training.sft_first": True,
                "loop.max_iterations": 1,
            }
        ),
        # Singh et al. 2023 (arXiv 2312.06585): 32 samples at 0.7 with top-k 40, at most 10 kept per problem.
        "rest-em": NamedMethod(
            {
                **STAR,
                **NO_HINTS,
                "sampling.num_samples": 32,
                "sampling.temperature": 0.7,
                "sampling.top_k": 40,
                "selection.max_per_problem": 10,
            }
        ),
        # Baseline of the paper: question -> answer, no rationale anywhere.
        "direct": NamedMethod({**STAR, **NO_HINTS, "sampling.num_samples": 0, "training.target": "answer"}),
        # Control: the same number of steps on the few-shot examples alone.
        "seeds-only": NamedMethod({**STAR, **NO_HINTS, "sampling.num_samples": 0}),
        # Controls of what a hint does: each shows failed problems something else than their answer, and is graded by
        # the answer all the same. In a self-published study (Qwen3-1.7B, MATH-500, three seeds) a wrong hint, gibberish
        # and a bare second try brought most of what the answer as a hint did.
        # No hint, sampled at the higher of the two temperatures of the paper's own ablation (section 5).
        "retry": NamedMethod({**STAR, "rationalization.shows": "nothing", "rationalization.temperature": 0.7}),
        "hint-shuffled": NamedMethod({**STAR, "rationalization.shows": "shuffled"}),
        "hint-text": NamedMethod({**STAR, "rationalization.shows": "text"}),
        # Controls of the filter: the samples are drawn as in `star`, the verdict has no part in what is kept.
        "random-matched": NamedMethod({**STAR, "selection.keep": "random-matched"}),
        "unfiltered": NamedMethod(
            {**STAR, "selection.require": ("parseable",), "selection.require_hinted": ("parseable",)}
        ),
        "custom": NamedMethod({}),
    }
)
