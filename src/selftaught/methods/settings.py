"""The sections that say how a method samples and selects, and when the loop ends."""

from typing import Annotated, Literal, Protocol

from pydantic import Field

from selftaught.records.sections import Count, OrAll, Positive, Section
from selftaught.tasks.settings import TaskConfig
from selftaught.training.settings import TrainingConfig

Requirement = Literal["answer", "parseable", "steps", "no-leak"]
"""What a sample may have to pass: the verdict on its answer, that it states any answer, the task's exact check of its
steps, or the check for leaks."""

Requirements = Annotated[tuple[Requirement, ...], Field(strict=False)]  # TOML and JSON know no tuples

Shows = Literal["answer", "nothing", "shuffled", "text"]
"""What a failed problem is shown when it is sampled again; all but `answer` are controls."""

Keep = Literal["accepted", "random-matched"]

UniqueBy = Literal["none", "text", "normalized-text", "equations"]


class SamplingConfig(Section):
    num_samples: Count = Field(
        1,
        description="Completions per problem without a hint, K; with 0 nothing is sampled to train on (the baselines).",
    )
    temperature: float = Field(0.0, ge=0.0, le=5.0, description="0 is greedy.")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="Nucleus: the smallest set of tokens with this probability.")
    top_k: Positive | None = Field(None, description="Only the k likeliest tokens; absent is no limit.")
    max_new_tokens: Positive = Field(
        256, description="Limit on the tokens of a completion; one that reaches it is truncated."
    )
    num_shots: Count = Field(10, description="Few-shot examples in the prompts of the base model.")
    num_shots_fine_tuned: Count | None = Field(
        None,
        description="Few-shot examples in the prompts of a fine-tuned model (iteration 2 on, and its measurements); absent is as many as `num_shots`.",
    )

    def num_shots_for(self, *, fine_tuned: bool) -> int:
        """Few-shot examples in the prompts of the base model, or of a fine-tuned one."""
        number = self.num_shots_fine_tuned if fine_tuned else None
        return self.num_shots if number is None else number


class RationalizationConfig(Section):
    hints: Literal["none", "failed"] = Field(
        "failed", description="Whether problems without a correct answer are sampled again with the answer as a hint."
    )
    shows: Shows = Field(
        "answer",
        description="What the hint is: the `answer`, or a control in its place: `nothing` (sampled again without a hint), `shuffled` (another problem's answer), `text` (random letters). Graded by the reference answer in any case.",
    )
    temperature: float = Field(0.0, ge=0.0, le=5.0, description="0 is greedy.")

    @property
    def gives_hints(self) -> bool:
        """Whether any prompt has a hint."""
        return self.hints != "none" and self.shows != "nothing"


class SelectionConfig(Section):
    require: Requirements = Field(
        ("answer",),
        description="What a sample without a hint must pass: `answer` (it is correct), `parseable` (it states an answer), `steps` (the task's exact step check), `no-leak` (its reasoning does not give the answer away; docs/verifiers.md); an empty list keeps whatever was not truncated.",
    )
    require_hinted: Requirements = Field(
        ("answer",),
        description="The same for a sample with a hint. A model that sees the answer often copies it under steps that do not lead to it, which `steps` and, for any task, `no-leak` find.",
    )
    unique_by: UniqueBy = Field(
        "text",
        description="Duplicates within a problem: `none` removed, same `text`, `normalized-text` (white space and case folded), or `equations` (the same list of equations, as in RFT; for tasks that have them).",
    )
    max_per_problem: Positive | None = Field(None, description="Samples kept per problem; absent is no cap.")
    keep: Keep = Field(
        "accepted",
        description="Which samples are kept: those that pass, or, as a control, `random-matched`: as many as pass, drawn at random from all that state an answer.",
    )


class PassAtKConfig(Section):
    samples: Count = Field(
        0,
        description="Completions per dev problem, K, for pass@1 to pass@K (Chen et al. 2021); 0 measures none. The base model and the best one are measured, too.",
    )
    temperature: float = Field(0.7, gt=0.0, le=5.0, description="Of these completions.")
    every: Positive = Field(3, description="Iterations from one such measurement to the next.")
    problems: OrAll = Field(100, description="Dev problems that are measured so, spread over classes.")


class LoopConfig(Section):
    max_iterations: Count = Field(
        8, description="Upper limit on the iterations of the loop; 0 measures the base model and trains nothing."
    )
    patience: Positive = Field(3, description="Stop after this many iterations without a new best on dev.")
    test_last: bool = Field(
        False,
        description="Measure the model of the last iteration on test too, beside the best one on dev: what the method does without that choice.",
    )


class Knobs(Protocol):
    """What a method reads of a run's settings."""

    @property
    def seed(self) -> int: ...
    @property
    def task(self) -> TaskConfig: ...
    @property
    def sampling(self) -> SamplingConfig: ...
    @property
    def rationalization(self) -> RationalizationConfig: ...
    @property
    def selection(self) -> SelectionConfig: ...
    @property
    def training(self) -> TrainingConfig: ...
