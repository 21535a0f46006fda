"""`selftaught predict`: answers and rationales of a model for a file of new questions, as the model's run measures it.

Sampled in chunks that are saved one by one, so that a killed command carries on, and with the bytes of an undisturbed
one. What the rows have for an answer is kept apart from what the model and the verifier see.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selftaught.commands.evaluate import AskedSampling, find_target, opened_engine
from selftaught.commands.prediction_job import Job, job_of, refuse_long_questions
from selftaught.commands.run_json import versions
from selftaught.config.loading import differences
from selftaught.config.resolving import Resolved, carried_on, resolve
from selftaught.engines.engine import Engine, ServedEngine
from selftaught.grading.judging import verify
from selftaught.grading.references import failing_references
from selftaught.methods.metrics import majority_prediction, rate, rate_text, votes_of
from selftaught.methods.plan import planned_samples
from selftaught.records.errors import ConfigError, EngineError, Interrupted, RefusedError, StoreError, VerifierError
from selftaught.records.measurements import Rate
from selftaught.records.predictions import Drawn, Prediction
from selftaught.records.problems import LABELS, Problem, Verdict, by_id
from selftaught.records.samples import Sample
from selftaught.runs.prediction_file import PredictionFile, check_out
from selftaught.stages.sampling import Sampling, generate_chunk
from selftaught.tasks.rows.files import SUFFIXES, read_rows
from selftaught.tasks.settings import RowsConfig
from selftaught.tasks.splits import key_of_problem

FORMAT = 1
"""Of OUT.about.json."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Predicted:
    """What is in a finished output, counted by rows."""

    out: Path
    rows: int
    unparseable: int
    """Rows without a prediction."""
    truncated: int
    """Rows whose completion (with several, the one that is shown) reached the limit on new tokens."""
    known: int
    """Rows that ask what the model was trained on, or what its prompt shows."""
    measured: Rate | None
    """Of the rows that have a reference answer; None if none has."""


def predict(
    name: str,
    file: str,
    asked: AskedSampling,
    *,
    out: Path | None = None,
    question_key: str | None = None,
    note: Tell = lambda line: None,
) -> Predicted:
    """Write a prediction for every row of a file, or carry on where a killed command ended.

    `name` is what `find_target` takes; a model outside a run answers as the task that `asked` names, or without one as
    a task `own` without few-shot examples. `out` is FILE's name with `.predictions.jsonl` by default. `note` is told
    how the columns are read, and the progress. Raises SelftaughtError for whatever cannot be read, asked or written;
    what was saved before stays.
    """
    _check_file(file)
    path = out or Path(file).with_suffix(".predictions.jsonl")
    check_out(path)
    if os.path.exists(path) and os.path.samefile(path, file):
        raise ConfigError(f"-o {path} is the file of the questions; give another name")
    # A shipped model answers in the form of its own task alone.
    task = asked.task_name or (None if name.startswith("builtin:") else "own")
    job = job_of(find_target(name, task=task), file, asked, question_key)
    for line in job.questions.reading:
        note(line)
    with PredictionFile(path, job.columns()) as output:
        resolved = _held(job, output) or _begin(job, output)
        chunk = max(1, resolved.chunk_completions // job.num_samples)
        done, total = output.saved(job.questions.ids, chunk), len(job.questions.ids)
        if done == total:
            note(f"{path}: the predictions for all {total} rows are there; nothing is left to do")
        else:
            _generate(job, resolved, output, done, chunk, note)
        if output.lacks_table:
            output.write_table()
        return _counted(job, output, note)


def predicted_text(predicted: Predicted) -> str:
    """The result for a person to read."""
    counts = [f"{predicted.rows} row{'s' * (predicted.rows != 1)}"]
    for count, what in (
        (predicted.unparseable, "without a prediction (no answer can be read)"),
        (predicted.truncated, "truncated"),
        (predicted.known, "that the model was trained on or that its prompt shows"),
    ):
        counts += [f"{count} {what}"] if count else []
    lines = [f"{predicted.out}: {', '.join(counts)}"]
    if predicted.measured is not None:
        lines.append(f"accuracy of the rows that have an answer: {rate_text(predicted.measured)}")
    return "\n".join(lines)


def predicted_json(predicted: Predicted) -> dict[str, Any]:
    """The same, ready for JSON."""
    names = ("rows", "unparseable", "truncated", "known")
    values: dict[str, Any] = {"out": str(predicted.out), **{name: getattr(predicted, name) for name in names}}
    if (m := predicted.measured) is not None:
        values |= {"n": m.n, "correct": m.correct, "accuracy": m.accuracy, "interval": list(m.interval)}
    return values


def _check_file(file: str) -> None:
    """Raise ConfigError if there is no such file: before a model is looked at, which may take long."""
    if os.path.isfile(file):
        return
    if os.path.isdir(file) or Path(file).suffix.lower() in SUFFIXES:
        read_rows(file)  # raises, and names a file that may be meant
    raise ConfigError(f"{file}: no such file; expected a file of questions ({', '.join(SUFFIXES)})")


def _begin(job: Job, output: PredictionFile) -> Resolved:
    resolved = resolve(job.config, job.target.model, job.chat)
    output.begin(
        {
            "format": FORMAT,
            **job.made_from(),
            "model": job.target.model.path,
            "resolved": resolved.model_dump(mode="json"),
            "versions": versions(job.config),
        }
    )
    return resolved


def _held(job: Job, output: PredictionFile) -> Resolved | None:
    """What was resolved when the output was begun; None for a new one. Refuses an output of something else."""
    about = output.about
    if about is None:
        return None
    if about.get("format") != FORMAT or not all(isinstance(about.get(key), dict) for key in ("config", "resolved")):
        raise StoreError(f"{output.out}: what it was made from cannot be read; give another name with -o")
    now = job.made_from()
    changed = differences(about["config"], now["config"])
    for key, what in (
        ("columns", f"other columns ({about.get('columns')})"),
        ("data_sha256", "other few-shot examples or training data"),
        ("weights_sha256", "the weights of another model"),
        ("input_sha256", "other questions (the file was changed)"),
    ):
        if about.get(key) != now[key]:
            changed.insert(0, what)
    if changed:
        raise StoreError(
            f"{output.out} was made from something else: {'; '.join(changed)}; give another name with -o, or move it "
            "away"
        )
    return carried_on(about["resolved"], job.config, f"{output.out}.about.json")


def _generate(job: Job, resolved: Resolved, output: PredictionFile, done: int, chunk: int, note: Tell) -> None:
    """Sample and save what is left after `done` rows."""
    problems, total = job.questions.problems, len(job.questions.problems)
    refuse_long_questions(job, done)
    if done:
        note(f"{done} of {total} rows are on disk, {total - done} are left to do")
    sampling = Sampling(
        task=job.task,
        problems=by_id(problems),
        model=job.target.model,
        spec=job.spec,
        iteration=job.target.iteration,
        run_seed=job.config.seed,
    )
    try:
        with opened_engine(resolved, job.config, job.target.model) as engine:
            if isinstance(engine, ServedEngine):
                note(f"predicted: by what {engine.address} serves; the server names {engine.serves!r}")
            while done < total:
                began, part = time.monotonic(), problems[done : done + chunk]
                samples = _sampled(job, engine, sampling, part)
                output.append(list(_predictions(job, part, samples)))
                done += len(part)
                tokens = sum(sample.num_tokens for sample in samples)
                note(f"{done} of {total} rows  {tokens / max(time.monotonic() - began, 1e-9):.0f} tokens/s")
    except KeyboardInterrupt as error:
        raise Interrupted(
            f"stopped; {done} of {total} rows are saved in {output.lines}, the same command carries on"
        ) from error


def _sampled(job: Job, engine: Engine, sampling: Sampling, problems: Sequence[Problem]) -> list[Sample]:
    """The completions of a chunk; an error names its rows."""
    planned = tuple(planned_samples(problems, kind="evaluation", num_samples=job.num_samples))
    try:
        samples = generate_chunk(engine, sampling, planned)
    except (EngineError, RefusedError) as error:
        places = f"{job.place(problems[0])} to {job.place(problems[-1])}"
        raise type(error)(f"{places}: {error} (the rows before are saved)") from error
    except VerifierError as error:
        raise VerifierError(f"{error} (of a new question, the problem's answer is empty)") from error
    if getattr(job.config.task, "verifier", None) == "python":
        _refuse_bare_verdicts(job, sampling, samples)
    return samples


def _refuse_bare_verdicts(job: Job, sampling: Sampling, samples: Sequence[Sample]) -> None:
    """Raise VerifierError for a user's function that returns verdicts alone, which say nothing of a new question."""
    for sample in samples:
        if sample.prediction == sample.verdict:
            raise VerifierError(
                f"{job.place(sampling.problems[sample.problem_id])}: task.verifier_function returned a verdict without "
                "a prediction, which says nothing of a new question; let it return both, such as (False, '42')"
            )


def _predictions(job: Job, problems: Sequence[Problem], samples: Sequence[Sample]) -> Iterator[Prediction]:
    """One prediction per problem, of its K samples, which follow each other."""
    k = job.num_samples
    for number, problem in enumerate(problems):
        drawn = samples[number * k : (number + 1) * k]
        winner, votes = majority_prediction(drawn), votes_of(drawn)
        shown = next(sample for sample in drawn if sample.prediction == winner)
        yield Prediction(
            id=job.questions.ids[int(problem.id) - 1],
            question=problem.question,
            prediction=winner,
            choice=_choice(problem, winner),
            share=votes[winner] / k if winner is not None else 0.0,
            votes=votes,
            completion=shown.completion,
            finish_reason=shown.finish_reason,
            completions=tuple(
                Drawn(prediction=s.prediction, completion=s.completion, finish_reason=s.finish_reason) for s in drawn
            ),
        )


def _choice(problem: Problem, label: str | None) -> str | None:
    position = LABELS.find(label) if label and problem.choices else -1
    return problem.choices[position] if 0 <= position < len(problem.choices) else None


def _counted(job: Job, output: PredictionFile, note: Tell) -> Predicted:
    answered = _with_answers(job, note)
    opens_thought = job.chat is not None and job.chat.opens_thought
    unparseable = truncated = correct = 0
    for problem, saved in zip(job.questions.problems, output.read(), strict=True):
        unparseable += saved.prediction is None
        truncated += saved.finish_reason == "length"
        if problem.id in answered:
            verification = verify(
                job.task.verifier, answered[problem.id], saved.completion, opens_thought=opens_thought
            )
            correct += verification.verdict is Verdict.CORRECT
    if 2 * unparseable > len(job.questions.problems) and isinstance(job.config.task, RowsConfig):
        note(
            "most rows have no prediction, because their completions do not state the answer where it is expected; "
            "few-shot examples show a model how (task.prompt_file), and --set task.extraction=lenient reads other "
            "places, too"
        )
    return Predicted(
        out=output.out,
        rows=len(job.questions.problems),
        unparseable=unparseable,
        truncated=truncated,
        known=_num_known(job),
        measured=rate(correct, len(answered)) if answered else None,
    )


def _with_answers(job: Job, note: Tell) -> dict[str, Problem]:
    """The problems that can be measured: those with a reference answer that its own verifier accepts."""
    answers = job.questions.answers
    answered = {p.id: replace(p, answer=answers[p.id]) for p in job.questions.problems if p.id in answers}
    failing = list(failing_references(job.task, answered.values()))
    for problem, _ in failing:
        del answered[problem.id]
    if failing:
        problem, reason = failing[0]
        note(f"{len(failing)} answers are not used to measure, such as {job.place(problem)}: {reason}")
    return answered


def _num_known(job: Job) -> int:
    key_of, task = key_of_problem(job.task), job.task
    is_trained = job.target.model.checkpoint is not None
    known = {key_of(problem) for problem in (*job.spec.few_shot, *task.seen, *(task.train if is_trained else ()))}
    return sum(key_of(problem) in known for problem in job.questions.problems)
