"""The rows that a comparison may have: named settings of the one loop. Pure.

A row is a line in a literal table: a named method (methods/table.py), and what the row sets beyond it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from selftaught.methods.table import METHODS, NO_HINTS, STAR
from selftaught.records.sections import Value


@dataclass(frozen=True, slots=True)
class Row:
    explanation: str
    """What the row is, in a sentence."""
    method: str
    settings: Mapping[str, Value] = field(default_factory=dict)
    """Over those of the method."""
    iterations: int | None = None
    """0 measures the base model alone, 1 is a single training; None is as many as the config has."""
    control_of: str = ""
    """For a control: the claim that it puts to the test, in a clause."""

    @property
    def meaning(self) -> str:
        """What the row is, and for a control why it is there."""
        return (
            f"{self.explanation}; control for the claim that {self.control_of}" if self.control_of else self.explanation
        )

    @property
    def continues(self) -> bool:
        """Whether its method trains on from the model before."""
        return {**METHODS[self.method].knobs, **self.settings}.get("training.start_from") == "previous"

    @property
    def fixed(self) -> frozenset[str]:
        """The settings that the row decides."""
        return frozenset({*METHODS[self.method].knobs, *self.settings})


ROWS: Mapping[str, Row] = MappingProxyType(
    {
        "few-shot-direct": Row(
            "the base model, few-shot examples with bare answers in the prompt; trains nothing",
            "direct",
            iterations=0,
        ),
        "few-shot-cot": Row(
            "the base model, few-shot examples with rationales in the prompt; trains nothing",
            "star",
            iterations=0,
        ),
        "direct": Row(
            "fine-tuned on the questions and bare answers of all training problems",
            "direct",
            {"task.problems_per_iteration": "all"},
            iterations=1,
        ),
        "human-solutions": Row(
            "fine-tuned on the human solutions of all training problems that have one",
            "custom",
            {
                **STAR,
                **NO_HINTS,
                "sampling.num_samples": 0,
                "training.human_solutions": True,
                "task.problems_per_iteration": "all",
            },
            iterations=1,
        ),
        "rft": Row(
            "rejection-sampling fine-tuning: many samples of the problems of one iteration, trained on with the human "
            "solutions of these",
            "rft",
            iterations=1,
        ),
        "rest-em": Row("several samples of each problem, the correct ones kept, no hints", "rest-em"),
        "star-no-rationalization": Row("star without hints", "star-no-rationalization"),
        "star": Row("one greedy sample of each problem, and one with the answer as a hint for the failed ones", "star"),
        "star-checked": Row("star; a hinted rationale must also pass the task's step check", "star-checked"),
        "star-accumulate": Row("star; trains on everything accepted so far", "star-accumulate"),
        "star-continue": Row("star; each training goes on from the model of the one before", "star-continue"),
        "adastar": Row("samples the problems that are due; each training goes on from the model before", "adastar"),
        "retry": Row(
            "star; the failed problems are sampled again at a temperature, without a hint",
            "retry",
            control_of="a hint brings more than a second try",
        ),
        "hint-shuffled": Row(
            "star; the hint is another problem's answer, and what ends on the reference answer is kept",
            "hint-shuffled",
            control_of="a correct hint brings more than a wrong one",
        ),
        "hint-text": Row(
            "star; the hint is random text",
            "hint-text",
            control_of="a hint brings more than a longer prompt",
        ),
        "random-matched": Row(
            "star; of the samples that state an answer, as many as star keeps are drawn, correct or not",
            "random-matched",
            control_of="correct answers are better to train on than as many others",
        ),
        "unfiltered": Row(
            "star; every sample that states an answer is kept, correct or not",
            "unfiltered",
            control_of="keeping only correct answers helps",
        ),
        "seeds-only": Row(
            "trained on the rehearsed few-shot examples alone",
            "seeds-only",
            iterations=1,
            control_of="the model learns from its own samples",
        ),
    }
)
