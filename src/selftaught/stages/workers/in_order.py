"""Chunks in the order of the plan, from workers that finish them in any order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from selftaught.records.errors import RefusedError, StoreError
from selftaught.records.samples import Sample
from selftaught.runs.lines import parsed
from selftaught.runs.parts import Part, Parts
from selftaught.stages.sampling import Sampling
from selftaught.stages.workers.dispatch import Dispatcher
from selftaught.stages.workers.protocol import ChunkJob, FinishedChunk


def in_order(
    jobs: Iterable[ChunkJob],
    dispatcher: Dispatcher,
    sampling: Sampling,
    parts: Parts,
    *,
    on_finished: Callable[[FinishedChunk, Sequence[Sample]], None],
    should_stop: Callable[[], bool],
) -> Iterator[tuple[Part, list[Sample]]]:
    """Have every chunk made that is not among the parts, and give all in the order of the jobs.

    A chunk that is finished before its turn waits among the parts. Jobs are drawn when a worker can take one.
    `on_finished` is told each chunk as soon as it comes. Ends early, with everything that is finished among the parts,
    when `should_stop` says so. Raises RefusedError for a chunk that is not what its job asks for.
    """
    pending: deque[ChunkJob] = deque()
    kept: set[int] = set()
    """Numbers of the parts that are whole and this run's."""

    def missing() -> Iterator[ChunkJob]:
        for job in jobs:
            pending.append(job)
            if part_of(job, sampling, parts) is None:
                yield job
            else:
                kept.add(job.number)

    def whose_turn_it_is() -> Iterator[tuple[Part, list[Sample]]]:
        while pending and pending[0].number in kept:
            job = pending.popleft()
            found = part_of(job, sampling, parts)
            if found is None:
                raise StoreError(
                    f"{parts.folder}: chunk {job.number} is gone; leave the folder alone while a run is on"
                )
            yield found
            parts.remove(job.number)

    for job, chunk in dispatcher.finished(missing(), should_stop=should_stop):
        assert isinstance(job, ChunkJob)
        assert isinstance(chunk, FinishedChunk)
        samples = _checked(job, chunk, sampling, parts)
        part = Part(lines=chunk.lines, prompts=chunk.prompts)
        on_finished(chunk, samples)
        if job is pending[0]:
            pending.popleft()
            yield part, samples
        else:
            parts.write(job.number, part)
            kept.add(job.number)
        yield from whose_turn_it_is()
    yield from whose_turn_it_is()


def part_of(job: ChunkJob, sampling: Sampling, parts: Parts) -> tuple[Part, list[Sample]] | None:
    """The chunk of a job, if an earlier start of the run or this one has left it among the parts."""
    part = parts.read(job.number)
    if part is None:
        return None
    try:
        samples = list(parsed(Sample, part.lines, parts.folder))
    except StoreError:
        return None  # damaged: it is made again
    return (part, samples) if _difference(job, part, samples, sampling) is None else None


def _checked(job: ChunkJob, chunk: FinishedChunk, sampling: Sampling, parts: Parts) -> list[Sample]:
    samples = list(parsed(Sample, chunk.lines, parts.folder))
    part = Part(lines=chunk.lines, prompts=chunk.prompts)
    if (difference := _difference(job, part, samples, sampling)) is not None:
        raise RefusedError(
            f"chunk {job.number} of {job.stage} came back with {difference}; every worker must run this version of "
            "selftaught on this run folder"
        )
    return samples


def _difference(job: ChunkJob, part: Part, samples: Sequence[Sample], sampling: Sampling) -> str | None:
    """What is not as the job asks for; None if all is."""
    if len(samples) != len(job.planned):
        return f"{len(samples)} samples where {len(job.planned)} are planned"
    prompts = {record.sha256 for record in part.prompts.own}
    weights = job.model.sha256[:16] if job.model.sha256 else None
    for sample, planned in zip(samples, job.planned, strict=True):
        got = (sample.problem_id, sample.kind, sample.index, sample.iteration, sample.seed)
        expected = (planned.problem_id, planned.kind, planned.index, job.iteration, sampling.seed(planned))
        if got != expected:
            return f"{got} where {expected} is planned"
        if (sample.weights_sha256, sample.checkpoint) != (weights, job.model.checkpoint):
            return f"a sample of the weights {sample.weights_sha256} where {weights} are asked"
        if sample.prompt_sha256 not in prompts:
            return f"a sample without its prompt ({sample.prompt_sha256})"
    return None
