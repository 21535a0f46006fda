"""The stages of an iteration: choose problems, sample, select, fine-tune, measure; each does only what is missing."""

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice

from selftaught.config.settings import RunConfig
from selftaught.engines.engine import Engine
from selftaught.machine.command_lines import command
from selftaught.methods.metrics import measure
from selftaught.methods.plan import (
    choose_problems,
    planned_samples,
    problems_to_hint,
    solved_ids,
    spread_over_classes,
    steps_for,
)
from selftaught.methods.selection import (
    Selection,
    examples_from_samples,
    examples_from_solutions,
    rehearsed_examples,
    select,
)
from selftaught.models.weights import expected_checkpoint_bytes
from selftaught.prompts.rendering import render_completion, render_prompt
from selftaught.records.errors import (
    Interrupted,
    NothingAccepted,
    RefusedError,
    StoreError,
)
from selftaught.records.measurements import Measurement
from selftaught.records.problems import Problem, Task, by_id
from selftaught.records.samples import (
    Kind,
    ModelRef,
    Request,
    Sample,
)
from selftaught.records.seeds import seed_for
from selftaught.records.training import (
    Checkpoint,
    ProbeRow,
    StepMetrics,
    TrainingExample,
    TrainingPlan,
)
from selftaught.runs.store import free_bytes
from selftaught.stages.lineage import Models
from selftaught.stages.sampling import (
    SamplingSpec,
    generate_in_chunks,
    measured_problems,
    sample_seed,
    sampling_spec,
    without_rationales,
)
from selftaught.stages.setup import Setup
from selftaught.training.settings import TrainingConfig

PROBE_ROWS = 8
DEV_LOSS_PROBLEMS = 200


def chosen_problems(setup: Setup, n: int) -> list[Problem]:
    """The training problems of iteration n."""
    task = setup.config.task
    solved = (
        solved_ids(s for k in range(1, n) for s in setup.store.samples(k, "rationale"))
        if task.choose == "unsolved-first"
        else set()
    )
    return choose_problems(
        setup.task.train,
        how=task.choose,
        number=task.problems_per_iteration,
        solved=solved,
        seed=setup.config.seed,
        iteration=n,
    )


def failed_problems(setup: Setup, n: int, problems: Sequence[Problem], rationales: Sequence[Sample]) -> list[Problem]:
    """The problems without a correct answer, which get a hint; none for a method without hints."""
    if setup.config.rationalization.hints == "none":
        return []
    return problems_to_hint(problems, rationales)


def select_and_write_left_out(setup: Setup, n: int, samples: Sequence[Sample]) -> Selection:
    """Select among this iteration's samples, and earlier ones if the training window includes them.

    Writes the samples that are left out, with their reasons, to left_out/<n>.jsonl.
    """
    config = setup.config
    earlier: list[Sample] = []
    if config.training.window == "all":
        stages = ("rationale", "rationalization")
        earlier = [s for k in range(1, n) for stage in stages for s in setup.store.samples(k, stage)]
    selection = select(
        [*earlier, *samples],
        accept=config.selection.accept,
        unique_by=config.selection.unique_by,
        max_per_problem=config.selection.max_per_problem,
        validation_share=config.training.validation_share,
        seed=config.seed,
        never_held_out={p.id for p in setup.task.few_shot[: config.training.num_rehearsed]},
        solution_key=setup.task.solution_key,
    )
    setup.store.write_left_out(n, selection.left_out)
    return selection


def training_examples(
    config: RunConfig, task: Task, n: int, selection: Selection, problems: Sequence[Problem]
) -> list[TrainingExample]:
    """What iteration n trains on: accepted samples, human solutions by config, and the rehearsed few-shot examples.

    The only prompts with a hint are those of rehearsed few-shot examples (`rehearsed_examples`).
    """
    training, fmt = config.training, task.prompt_format
    rehearsed = task.few_shot[: training.num_rehearsed]
    held_out = {s.problem_id for s in selection.held_out}
    others = [p for p in problems if p.id not in held_out]
    if training.target == "answer":
        rehearsed, others = without_rationales(rehearsed), list(without_rationales(others))
    examples = examples_from_samples(selection.kept, by_id(task.train), fmt)
    if training.target == "answer":
        examples += examples_from_solutions(others, fmt, iteration=n)
    elif training.human_solutions:
        examples += examples_from_solutions([p for p in others if p.rationale], fmt, iteration=n)
    with_hints = config.rationalization.hints != "none"
    examples += rehearsed_examples(rehearsed, fmt, with_hints=with_hints, iteration=n)
    if not examples:
        counts = Counter(i.reason for i in selection.left_out).most_common()
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts)
        raise NothingAccepted(
            f"iteration {n}: no sample was accepted ({reasons or 'none was generated'}), so there is nothing to train "
            "on; look at `selftaught show`, raise sampling.num_shots, set training.num_rehearsed, or use a stronger "
            "model"
        )
    return examples


def validation_examples(setup: Setup, selection: Selection) -> list[TrainingExample]:
    """The held-out samples as training examples."""
    return examples_from_samples(selection.held_out, by_id(setup.task.train), setup.task.prompt_format)


def fine_tune(
    setup: Setup,
    models: Models,
    n: int,
    examples: Sequence[TrainingExample],
    validation: Sequence[TrainingExample],
) -> Checkpoint:
    """Train M_n from the base model (or from M_{n-1}, by config); after a kill, the training begins again."""
    training = setup.config.training
    examples_sha256 = setup.store.write_examples(n, examples)
    return _train(
        setup, models, n, examples, validation, steps=_steps(training, n, examples), examples_sha256=examples_sha256
    )


def _steps(training: TrainingConfig, n: int, examples: Sequence[TrainingExample]) -> int:
    return steps_for(
        n,
        first=training.steps_first_iteration,
        growth=training.steps_growth,
        max_epochs=training.max_epochs,
        num_examples=len(examples),
        batch_size=training.batch_size,
    )


def fine_tune_on_solutions(setup: Setup, models: Models) -> None:
    """Train the model that RFT samples from: the base model, fine-tuned on the human solutions before iteration 1."""
    training = setup.config.training
    solved = [p for p in chosen_problems(setup, 1) if p.rationale]
    if not solved:
        raise RefusedError(f"training.sft_first needs human solutions, and task {setup.task.name!r} has none in train")
    examples = examples_from_solutions(solved, setup.task.prompt_format, iteration=0)
    examples_sha256 = setup.store.write_examples(0, examples)
    _train(setup, models, 0, examples, [], steps=_steps(training, 1, examples), examples_sha256=examples_sha256)


def _train(
    setup: Setup,
    models: Models,
    n: int,
    examples: Sequence[TrainingExample],
    validation: Sequence[TrainingExample],
    *,
    steps: int,
    examples_sha256: str,
) -> Checkpoint:
    config, store = setup.config, setup.store
    finished = store.checkpoint(n)
    if finished is not None and finished.examples_sha256 == examples_sha256:
        return finished
    if finished is not None:
        raise StoreError(
            f"{store.checkpoint_dir(n)} was trained on other examples than this version selects from the same samples; "
            "finish the run with the version that began it (run.json), or start a new one"
        )
    start = models.before(n) if config.training.start_from == "previous" and n > 0 else setup.base
    needed = expected_checkpoint_bytes(start)
    if (free := free_bytes(store.dir)) < needed:
        raise StoreError(
            f"the next checkpoint needs about {needed >> 20} MiB, {store.dir} has {free >> 20} MiB free; free some "
            "space and run the same command again"
        )
    plan = TrainingPlan(
        iteration=n,
        steps=steps,
        seed=seed_for(config.seed, n, "training"),
        examples_sha256=examples_sha256,
        probe=_probe(models.engine(models.before(n) if n else setup.base), [*examples, *validation]),
        dev=_dev_answers(setup),
    )
    models.close()  # the trainer gets the memory
    setup.progress.stage(n, "train", steps)
    temporary = store.new_checkpoint_dir(n)
    with models.working("loading"):
        trainer = setup.open_trainer()
    with models.working("training"):
        checkpoint = trainer.fine_tune(
            examples,
            validation=validation,
            start=start,
            out_dir=temporary,
            plan=plan,
            on_step=_step_recorder(setup, n, steps),
        )
    store.publish_checkpoint(temporary, checkpoint)
    models.tokens += checkpoint.train.tokens
    for note in checkpoint.train.notes:
        setup.progress.note(note)
    setup.progress.trained(n, checkpoint)
    return checkpoint


def sample_stage(
    setup: Setup, models: Models, model: ModelRef, n: int, kind: Kind, problems: Sequence[Problem], *, hint: bool
) -> list[Sample]:
    """All samples of one stage of iteration n; those that are not on disk yet are made and saved, chunk by chunk."""
    config = setup.config
    num_samples = 1 if hint else config.sampling.num_samples
    temperature = config.rationalization.temperature if hint else config.sampling.temperature
    spec = _spec(setup, model, temperature=temperature, hint=hint)
    return _sample(setup, models, model, n, kind, problems, spec=spec, kind=kind, num_samples=num_samples)


def measure_split(setup: Setup, models: Models, model: ModelRef, split: str) -> Measurement:
    """Measure a model's greedy accuracy on a split, and record it in evaluations.jsonl."""
    problems = measured_problems(setup.config, setup.task, split)
    spec = _spec(setup, model, temperature=0.0, hint=False)
    samples = _sample(setup, models, model, model.iteration, split, problems, spec=spec, kind="evaluation")
    measurement = measure(
        problems,
        samples,
        task=setup.task.name,
        split=split,
        iteration=model.iteration,
        num_shots=len(spec.few_shot),
        temperature=0.0,
        has_step_check=setup.task.check_steps is not None,
    )
    setup.store.append_measurement(measurement)
    setup.progress.measured(measurement)
    return measurement


def _sample(
    setup: Setup,
    models: Models,
    model: ModelRef,
    n: int,
    stage: str,
    problems: Sequence[Problem],
    *,
    spec: SamplingSpec,
    kind: Kind,
    num_samples: int = 1,
) -> list[Sample]:
    planned = planned_samples(problems, kind=kind, num_samples=num_samples)
    total = len(problems) * num_samples
    path = setup.store.samples_path(n, stage)
    samples = setup.store.finished_chunks(path, planned=total, chunk=setup.chunk)
    for s, expected in zip(samples, islice(planned, len(samples)), strict=True):
        seed = sample_seed(setup.config.seed, n, expected)
        if (s.problem_id, s.kind, s.index, s.seed) != (expected.problem_id, expected.kind, expected.index, seed):
            raise StoreError(
                f"{path}: holds {s.problem_id!r} (seed {s.seed}) where {expected.problem_id!r} (seed {seed}) is "
                "planned; the file is not this run's"
            )
    setup.progress.stage(n, stage, total, samples)
    problem_by_id = by_id(problems)
    for chunk in generate_in_chunks(
        lambda: models.engine(model),
        model,
        setup.task,
        problem_by_id,
        planned,  # only the rest: the samples on disk have been taken from it
        spec=spec,
        iteration=n,
        run_seed=setup.config.seed,
        chunk=setup.chunk,
        on_prompts=setup.store.append_prompts,
        on_sample=setup.progress.sample,
    ):
        setup.store.append_samples(path, chunk)
        models.tokens += sum(s.num_tokens for s in chunk)
        if not samples:
            problem = problem_by_id[chunk[0].problem_id]
            setup.progress.show(spec.prompt(setup.task, problem), problem, chunk[0])
        samples += chunk
        raise_if_stopped(setup)
    setup.progress.stage_done(n, stage, samples)
    return samples


def _spec(setup: Setup, model: ModelRef, *, temperature: float, hint: bool) -> SamplingSpec:
    num_shots = setup.config.sampling.num_shots_for(fine_tuned=model.path != setup.base.path)
    return sampling_spec(setup.config, setup.task, num_shots=num_shots, temperature=temperature, hint=hint)


def _probe(engine: Engine, examples: Sequence[TrainingExample]) -> tuple[ProbeRow, ...]:
    """The first few examples with their log-probabilities under the weights that the engine serves now."""
    rows = examples[:PROBE_ROWS]
    scores = engine.score([Request(prompt=e.prompt, seed=0) for e in rows], [e.completion for e in rows])
    return tuple(
        ProbeRow(prompt=e.prompt, completion=e.completion, old_logprobs=s.logprobs)
        for e, s in zip(rows, scores, strict=True)
    )


def _dev_answers(setup: Setup) -> tuple[TrainingExample, ...]:
    """Reference answers of dev; a human solution goes into the prompt, so that the loss is over the answer alone."""
    answers = []
    for problem in spread_over_classes(setup.task.dev, DEV_LOSS_PROBLEMS):
        if setup.config.training.target == "answer":
            (problem,) = without_rationales([problem])
        completion = render_completion(setup.task.prompt_format, problem)
        start = completion.rfind(problem.answer)
        prompt = render_prompt(setup.task.prompt_format, problem, hint=False) + completion[:start]
        answers.append(
            TrainingExample(
                problem_id=problem.id,
                prompt=prompt,
                completion=completion[start:],
                completion_ids=None,
                source="answer",
                iteration=0,
            )
        )
    return tuple(answers)


def _step_recorder(setup: Setup, n: int, steps: int) -> Callable[[StepMetrics], None]:
    every = setup.config.tracking.log_every_steps

    def on_step(metrics: StepMetrics) -> None:
        if metrics.step == 1 or metrics.step == steps or metrics.step % every == 0:
            setup.store.append_metrics(n, metrics)
        setup.progress.step(metrics)
        raise_if_stopped(setup)

    return on_step


def raise_if_stopped(setup: Setup) -> None:
    """Raise Interrupted if the user has stopped the run."""
    if setup.should_stop():
        raise Interrupted(
            f"stopped; what is finished is saved. Carry on with: {command('run', '--resume', setup.store.dir)}"
        )
