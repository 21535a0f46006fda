"""The stage that trains: fine-tune, prove the probe, publish the checkpoint."""

from collections.abc import Callable, Sequence

from selftaught.methods.plan import choose_problems, spread_over_classes, steps_for
from selftaught.methods.training_set import TrainingSet, examples_from_solutions, without_rationales
from selftaught.models.shape import shape_of
from selftaught.models.weights import num_parameters
from selftaught.prompts.rendering import prompt_sha256, render_completion, render_prompt
from selftaught.records.errors import RefusedError, StoreError
from selftaught.records.events import ModelTrained, Note, StageBegan, StepTaken
from selftaught.records.samples import ModelRef, Request
from selftaught.records.seeds import seed_for
from selftaught.records.training import Checkpoint, ProbeRow, StepMetrics, Training, TrainingExample, TrainingPlan
from selftaught.runs.reading import StoredPrompts
from selftaught.runs.store import free_bytes
from selftaught.stages.lineage import Models
from selftaught.stages.setup import Setup, raise_if_stopped

PROBE_ROWS = 8
DEV_LOSS_PROBLEMS = 200
OTHER_FILES_BYTES = 16 << 20
"""Of a checkpoint beside its weights: mostly the tokenizer."""


def fine_tune(setup: Setup, models: Models, n: int, training_set: TrainingSet) -> Checkpoint:
    """Train M_n from the base model (or from M_{n-1}, by config); after a kill, the training begins again."""
    examples = training_set.examples
    steps = steps_for(n, setup.config.training, num_examples=len(examples))
    return _train(setup, models, n, examples, training_set.validation, steps=steps)


def fine_tune_on_solutions(setup: Setup, models: Models) -> None:
    """Train the model that RFT samples from: the base model, fine-tuned on the human solutions before iteration 1."""
    config, task = setup.config, setup.task
    problems = choose_problems(
        task.train,
        how=config.task.choose,
        number=config.task.problems_per_iteration,
        solved=frozenset(),
        seed=config.seed,
        iteration=1,
    )
    solved = [p for p in problems if p.rationale]
    if not solved:
        raise RefusedError(f"training.sft_first needs human solutions, and task {task.name!r} has none in train")
    examples = examples_from_solutions(solved, task.prompt_format, iteration=0)
    _train(setup, models, 0, examples, (), steps=steps_for(1, config.training, num_examples=len(examples)))


def _train(
    setup: Setup,
    models: Models,
    n: int,
    examples: Sequence[TrainingExample],
    validation: Sequence[TrainingExample],
    *,
    steps: int,
) -> Checkpoint:
    config, store = setup.config, setup.store
    examples_sha256 = store.write_examples(n, examples)
    finished = store.checkpoint(n)
    if finished is not None and finished.examples_sha256 == examples_sha256:
        return finished
    if finished is not None:
        raise StoreError(
            f"{store.checkpoint_dir(n)} was trained on other examples than this version selects from the same samples; "
            "finish the run with the version that began it (run.json), or start a new one"
        )
    start = models.before(n) if config.training.start_from == "previous" and n > 0 else setup.base
    needed = _checkpoint_bytes(setup)
    if (free := free_bytes(store.dir)) < needed:
        raise StoreError(
            f"the next checkpoint needs about {needed >> 20} MiB, {store.dir} has {free >> 20} MiB free; free some "
            "space and run the same command again"
        )
    before = models.before(n) if n else setup.base
    _check_prompts(setup, models, before, examples)
    plan = TrainingPlan(
        iteration=n,
        steps=steps,
        seed=seed_for(config.seed, n, "training"),
        examples_sha256=examples_sha256,
        probe=_probe(models, before, [*examples, *validation]),
        dev=_dev_answers(setup),
    )
    is_first = not models.tokens  # this process has done nothing yet
    models.close()  # the trainer gets the memory
    setup.tell(StageBegan(iteration=n, stage="train", total=steps))
    with models.working("loading"):
        trainer = setup.open_trainer()
    with models.working("training"), store.new_checkpoint(n) as temporary:
        training = Training(examples=examples, validation=validation, start=start, out_dir=temporary, plan=plan)
        checkpoint = trainer.fine_tune(training, _step_teller(setup, n, steps, is_first=is_first))
        store.publish_checkpoint(temporary, checkpoint)
    models.tokens += checkpoint.train.tokens
    for note in checkpoint.train.notes:
        setup.tell(Note(text=note))
    setup.tell(ModelTrained(checkpoint=checkpoint))
    raise_if_stopped(setup)
    return checkpoint


def _checkpoint_bytes(setup: Setup) -> int:
    """Upper estimate of a checkpoint's size: weights in float32, and a tokenizer."""
    path, trust = setup.base.path, setup.config.model.trust_remote_code
    of_weights = setup.config.training.checkpoint_bytes(
        num_parameters(setup.base) or 0, lambda: shape_of(path, trust_remote_code=trust), "float32"
    )
    return of_weights + OTHER_FILES_BYTES


def _check_prompts(setup: Setup, models: Models, model: ModelRef, examples: Sequence[TrainingExample]) -> None:
    """Raise RefusedError if a prompt that was sampled from is not trained on as the same token ids."""
    stored = StoredPrompts(setup.store.dir)
    asked = [example for example in examples if prompt_sha256(example.prompt) in stored]
    for example, now in zip(asked, models.render(model, [e.prompt for e in asked]) or (), strict=False):
        if (then := stored[prompt_sha256(example.prompt)].ids) != now.ids:
            raise RefusedError(
                f"the prompt of problem {example.problem_id!r} was sampled from as other token ids than it would be "
                f"trained on ({then}, now {now.ids}): the tokenizer or its template was changed; restore the files of "
                "the model, or start a new run"
            )


def _probe(models: Models, model: ModelRef, examples: Sequence[TrainingExample]) -> tuple[ProbeRow, ...]:
    """The first few examples with their log-probabilities under the weights of a model, which is not trained yet."""
    rows = examples[:PROBE_ROWS]
    scores = models.score(model, [Request(prompt=e.prompt, seed=0) for e in rows], [e.completion for e in rows])
    return tuple(
        ProbeRow(prompt=e.prompt, completion=e.completion, old_logprobs=s.logprobs)
        for e, s in zip(rows, scores, strict=True)
    )


def _dev_answers(setup: Setup) -> tuple[TrainingExample, ...]:
    """Reference answers of dev; a human solution is given, so that the loss is over the answer alone."""
    answers = []
    for problem in spread_over_classes(setup.task.dev, DEV_LOSS_PROBLEMS):
        if setup.config.training.target == "answer":
            (problem,) = without_rationales([problem])
        completion = render_completion(setup.task.prompt_format, problem)
        start = completion.rfind(problem.answer)
        answers.append(
            TrainingExample(
                problem_id=problem.id,
                prompt=render_prompt(setup.task.prompt_format, problem, hint=False),
                given=completion[:start],
                completion=completion[start:],
                completion_ids=None,
                source="answer",
                iteration=0,
            )
        )
    return tuple(answers)


def _step_teller(setup: Setup, n: int, steps: int, *, is_first: bool) -> Callable[[StepMetrics], None]:
    """What tells the steps of a training, and stops it; `is_first` if nothing was done before it since the start."""

    def on_step(metrics: StepMetrics) -> None:
        setup.tell(StepTaken(iteration=n, steps=steps, metrics=metrics))
        if metrics.step < steps:  # after the last one the model is saved first
            lost = f" at step {metrics.step} of {steps} of the training of iteration {n}, which will begin again"
            more = " (this start did nothing else: give it more time than a whole training takes)" if is_first else ""
            raise_if_stopped(setup, lost=lost + more)

    return on_step
