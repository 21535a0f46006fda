"""The stages that sample: what a method asks for, and what a measurement needs; each does only what is missing."""

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Literal

from selftaught.methods.method import Draw, Method
from selftaught.methods.metrics import Conditions, count_for, measure
from selftaught.methods.plan import planned_samples, spread_over_classes
from selftaught.records.errors import RefusedError, StoreError
from selftaught.records.events import ChunkSaved, SampleMade, SplitMeasured, StageBegan, StageEnded
from selftaught.records.measurements import Measurement
from selftaught.records.problems import Problem, Verdict, by_id
from selftaught.records.samples import Kind, ModelRef, PlannedSample, Sample
from selftaught.runs.parts import Part, Parts
from selftaught.runs.stage_file import StageFile
from selftaught.stages.lineage import Models
from selftaught.stages.sampling import (
    Sampling,
    SamplingSpec,
    generate_chunk,
    measured_problems,
    sample_seed,
    sampling_spec,
)
from selftaught.stages.setup import Setup, is_stopped, raise_if_stopped
from selftaught.stages.summary import Clock
from selftaught.stages.workers.dispatch import Dispatcher
from selftaught.stages.workers.in_order import in_order, part_of
from selftaught.stages.workers.protocol import ChunkJob, FinishedChunk


def sample_iteration(setup: Setup, models: Models, n: int, method: Method, clock: Clock) -> list[Sample]:
    """Everything that iteration n samples to train on, chunk by chunk, as the method asks for it.

    Chunks that are on disk are read instead of generated; the method is told of them in the same way.
    """
    model = models.before(n)
    stages: dict[str, Stage] = {}
    samples: list[Sample] = []
    stage: Stage | None = None
    method.begin(n)
    while (draw := method.next_samples(setup.chunk)) is not None:
        if stage is None or stage.kind != draw.kind:
            if stage is not None:
                stage.end_round()
                clock.lap(stage.name)
            if draw.kind not in stages:
                stages[draw.kind] = _stage(setup, models, model, n, draw.kind)
            stage = stages[draw.kind]
            stage.begin_round(draw.total)
        for chunk in stage.chunks(_draws(method, draw, setup.chunk)):
            method.add(chunk)
            samples += chunk
    if stage is not None:
        stage.end_round()
        clock.lap(stage.name)
    for finished in stages.values():
        finished.end()
    return samples


def _draws(method: Method, draw: Draw, limit: int) -> Iterator[tuple[PlannedSample, ...]]:
    """A draw, and then those that do not depend on its samples."""
    drawn = len(draw.planned)
    yield draw.planned
    while draw.total is not None and drawn < draw.total:
        following = method.next_samples(limit)
        if following is None or (following.kind, following.total) != (draw.kind, draw.total):
            raise RefusedError(
                f"the method said that it draws {draw.total} samples of kind {draw.kind!r} in this iteration, and drew "
                f"{drawn}; a method that decides as it goes gives total=None (Draw in methods/method.py)"
            )
        drawn += len(following.planned)
        yield following.planned


def recall(setup: Setup, method: Method, iterations: Iterable[int]) -> None:
    """Rebuild the state of a method from the samples of finished iterations, if it remembers any."""
    if not method.remembers:
        return
    for n in iterations:
        files: dict[str, StageFile] = {}
        method.begin(n)
        while (draw := method.next_samples(setup.chunk)) is not None:
            file = files.setdefault(draw.kind, StageFile(setup.store.samples_path(n, draw.kind)))
            samples = file.read(draw.planned, [sample_seed(setup.config.seed, n, plan) for plan in draw.planned])
            if samples is None:
                raise StoreError(f"{file.path}: samples of a finished iteration are missing; restore the file")
            method.add(samples)


def samples_before(setup: Setup, n: int) -> Iterator[Sample]:
    """The samples of all iterations before n that were made to train on, read one at a time."""
    for k in range(1, n):
        for kind in ("rationale", "rationalization"):
            yield from setup.store.samples(k, kind)


def measure_split(setup: Setup, models: Models, model: ModelRef, split: str) -> Measurement:
    """Measure a model's greedy accuracy on a split, and record it in evaluations.jsonl."""
    problems = measured_problems(setup.config, setup.task, split)
    measurement = _measure(setup, models, model, problems, split=split, stage_name=split)
    setup.store.append_measurement(measurement)
    setup.tell(SplitMeasured(measurement=measurement))
    return measurement


def measure_passes(setup: Setup, models: Models, model: ModelRef) -> Measurement | None:
    """Measure pass@k on dev, if the config asks for it, and record it in passes.jsonl."""
    settings = setup.config.pass_at_k
    if not settings.samples:
        return None
    problems = spread_over_classes(measured_problems(setup.config, setup.task, "dev"), settings.problems)
    measurement = _measure(
        setup,
        models,
        model,
        problems,
        split="dev",
        stage_name="passes",
        num_samples=settings.samples,
        temperature=settings.temperature,
    )
    setup.store.append_passes(measurement)
    setup.tell(SplitMeasured(measurement=measurement))
    return measurement


def _measure(
    setup: Setup,
    models: Models,
    model: ModelRef,
    problems: Sequence[Problem],
    *,
    split: str,
    stage_name: str,
    num_samples: int = 1,
    temperature: float = 0.0,
) -> Measurement:
    spec = _spec(setup, model, temperature=temperature)
    sampling = _sampling(setup, model, model.iteration, problems, spec)
    stage = Stage(setup, models, stage_name, "evaluation", sampling)
    stage.begin_round(len(problems) * num_samples)
    planned = planned_samples(problems, kind="evaluation", num_samples=num_samples)
    samples: list[Sample] = []
    for chunk in stage.chunks(iter(lambda: tuple(islice(planned, setup.chunk)), ())):
        samples += chunk
    stage.end_round()
    stage.end()
    return measure(
        problems,
        samples,
        Conditions(
            task=setup.task.name,
            split=split,
            iteration=model.iteration,
            num_shots=len(spec.few_shot),
            temperature=temperature,
            has_step_check=setup.task.check_steps is not None,
        ),
    )


class Stage:
    """A stage that samples: its file, and what is told of it while it grows.

    `name` is that of the file: `rationale`, `rationalization`, a split, or `passes`.
    """

    def __init__(self, setup: Setup, models: Models, name: str, kind: Kind, sampling: Sampling) -> None:
        self.name, self.kind, self.sampling = name, kind, sampling
        self.file = StageFile(setup.store.samples_path(sampling.iteration, name))
        self._setup, self._models = setup, models
        self._parts = Parts(self.file.path)
        self._chunks = 0
        """On disk so far."""
        self._round: list[Sample] = []
        self._total: int | None = None
        self._is_told = False
        self._tokens = 0
        self._began = 0.0

    def begin_round(self, total: int | None) -> None:
        """`total` is the number of samples that the stage will have; None if that is decided as it goes."""
        self._round, self._total, self._is_told, self._tokens = [], total, False, 0

    def chunks(self, plans: Iterable[tuple[PlannedSample, ...]]) -> Iterator[list[Sample]]:
        """The next chunks of the stage, in the order of the plans: from disk, or made and saved.

        A run that samples by itself takes a plan when the chunk before is saved; one with workers, when one of them
        can take it.
        """
        plans = iter(plans)
        for planned in plans:
            samples = self.file.read(planned, [self.sampling.seed(plan) for plan in planned])
            if samples is None:
                self._tell_beginning()
                for made in self._made(chain([planned], plans)):
                    self._round += made
                    yield made
                return
            self._chunks += 1
            self._round += samples
            yield samples

    def end_round(self) -> None:
        self._tell_beginning()
        self._setup.tell(
            StageEnded(
                iteration=self.sampling.iteration,
                stage=self.name,
                kind=self.kind,
                counts=count_for(self._setup.task, self._round),
                tokens=self._tokens,
                seconds=time.monotonic() - self._began,
            )
        )

    def end(self) -> None:
        """The stage has no more chunks."""
        self.file.end()
        self._parts.end()

    def _made(self, plans: Iterable[tuple[PlannedSample, ...]]) -> Iterator[list[Sample]]:
        workers = self._models.workers(self.sampling.model)
        if workers is not None:
            yield from self._made_by(workers, plans)
            return
        for planned in plans:
            found = part_of(self._job(planned, self._chunks), self.sampling, self._parts)
            yield self._generate(planned) if found is None else self._save_part(*found)

    def _generate(self, planned: Sequence[PlannedSample]) -> list[Sample]:
        setup = self._setup
        reused_before = setup.shared.reused if setup.shared else 0
        samples = generate_chunk(
            self._models.engine(self.sampling.model),
            self.sampling,
            planned,
            on_prompts=setup.store.append_prompts,
            on_sample=lambda sample: setup.tell(SampleMade(sample=sample)),
            shared=setup.shared,
        )
        self.file.append(samples)
        reused = setup.shared.reused - reused_before if setup.shared else 0
        self._count_tokens(sum(s.num_tokens for s in samples) - reused)
        self._tell_saved(samples)
        raise_if_stopped(setup)
        return samples

    def _made_by(self, workers: Dispatcher, plans: Iterable[tuple[PlannedSample, ...]]) -> Iterator[list[Sample]]:
        setup = self._setup
        workers.start(self.sampling.model)

        def tell(chunk: FinishedChunk, samples: Sequence[Sample]) -> None:
            for sample in samples:
                setup.tell(SampleMade(sample=sample))
            self._count_tokens(chunk.tokens)
            if setup.shared is not None and chunk.use is not None:
                setup.shared.note(chunk.use)

        finished = in_order(
            (self._job(planned, number) for number, planned in enumerate(plans, start=self._chunks)),
            workers,
            self.sampling,
            self._parts,
            on_finished=tell,
            should_stop=lambda: is_stopped(setup),
        )
        for part, samples in finished:
            yield self._save_part(part, samples)
        raise_if_stopped(setup)

    def _save_part(self, part: Part, samples: list[Sample]) -> list[Sample]:
        self._setup.store.append_rendered_prompts(part.prompts)
        self.file.append_lines(part.lines)
        self._tell_saved(samples)
        return samples

    def _job(self, planned: Sequence[PlannedSample], number: int) -> ChunkJob:
        sampling = self.sampling
        return ChunkJob(
            number=number,
            stage=self.name,
            kind=self.kind,
            iteration=sampling.iteration,
            model=sampling.model,
            planned=tuple(planned),
            temperature=sampling.spec.params.temperature,
            num_shots=len(sampling.spec.few_shot),
        )

    def _count_tokens(self, tokens: int) -> None:
        self._tokens += tokens
        self._models.tokens += tokens

    def _tell_saved(self, samples: Sequence[Sample]) -> None:
        sampling, is_first = self.sampling, not self._chunks
        self._chunks += 1
        problem = sampling.problems[samples[0].problem_id]
        self._setup.tell(
            ChunkSaved(
                iteration=sampling.iteration,
                stage=self.name,
                samples=len(samples),
                first=samples[0],
                prompt=sampling.spec.prompt(self._setup.task, problem),
                problem=problem,
                is_first=is_first,
            )
        )

    def _tell_beginning(self) -> None:
        """Once in a round, when it is known how many of its samples are on disk."""
        if self._is_told:
            return
        self._is_told, self._began = True, time.monotonic()
        self._setup.tell(
            StageBegan(
                iteration=self.sampling.iteration,
                stage=self.name,
                total=self._total,
                done=len(self._round),
                correct=sum(s.verdict is Verdict.CORRECT for s in self._round),
            )
        )


def _stage(
    setup: Setup, models: Models, model: ModelRef, n: int, kind: Literal["rationale", "rationalization"]
) -> Stage:
    """The stage of iteration n that samples training problems, or the failed ones again."""
    config, again = setup.config, kind == "rationalization"
    temperature = config.rationalization.temperature if again else config.sampling.temperature
    spec = _spec(setup, model, temperature=temperature, again=again, iteration=n)
    return Stage(setup, models, kind, kind, _sampling(setup, model, n, setup.task.train, spec))


def _sampling(setup: Setup, model: ModelRef, n: int, problems: Sequence[Problem], spec: SamplingSpec) -> Sampling:
    return Sampling(
        task=setup.task, problems=by_id(problems), model=model, spec=spec, iteration=n, run_seed=setup.config.seed
    )


def _spec(
    setup: Setup, model: ModelRef, *, temperature: float, again: bool = False, iteration: int = 1
) -> SamplingSpec:
    num_shots = setup.config.sampling.num_shots_for(fine_tuned=model.path != setup.base.path)
    return sampling_spec(
        setup.config, setup.task, num_shots=num_shots, temperature=temperature, again=again, iteration=iteration
    )
