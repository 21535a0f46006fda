"""`selftaught score`: the log-probability of each token of a run's samples, under the weights that generated them.

Prompt and completion are the ids that the run folder holds, so that nothing is encoded again. That the weights are the
right ones is proven twice: by their hash, and by the sums, which the engine stored when it sampled.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selftaught.models.weights import model_in_folder, resolve_model
from selftaught.records.errors import ConfigError, RefusedError, StoreError
from selftaught.records.samples import ModelRef, Sample
from selftaught.runs.lines import read_lines
from selftaught.runs.reading import StoredPrompts, read_run_json
from selftaught.runs.scores import ScoredSample, read_scores, scores_path, write_scores

if TYPE_CHECKING:
    from selftaught.models.tokens import Codec

TOLERANCE = {"float32": 0.02, "bfloat16": 0.3}
"""Nats by which a token's mean may differ from what the engine stored, by the number type; as for the proof of new
weights."""
BATCH = 64
"""Samples that are scored at a time."""
HINTED = "rationalization"
"""The stage whose prompts have a hint."""
WINDOW = 12
"""Tokens that are decoded besides a new one, so that a character of several tokens is whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What was written for one stage of one iteration."""

    path: Path
    samples: int
    without_ids: int
    """Samples whose token ids the run folder does not hold."""


def score(
    run_dir: Path, *, iteration: int | None = None, stage: str | None = None, note: Callable[[str], None]
) -> list[Scored]:
    """Write scores/<iteration>-<stage>.jsonl for every stage, or those asked for; what is there already stays.

    A stage whose weights are gone is told to `note` and left out. Raises StoreError for a folder that is not a run
    folder, ConfigError if it has no such samples, RefusedError for weights that are not those which sampled.
    """
    about = read_run_json(run_dir)
    files = [path for path in sorted((run_dir / "samples").glob("*.jsonl")) if _is_meant(path, iteration, stage)]
    if not files:
        held = ", ".join(path.stem for path in sorted((run_dir / "samples").glob("*.jsonl"))) or "none"
        raise ConfigError(f"{run_dir} has no such samples; it has {held}")
    written, without_weights = [], []
    prompts, models = StoredPrompts(run_dir), _Models(run_dir, about)
    for path in files:
        number, _, name = path.stem.partition("-")
        out = scores_path(run_dir, int(number), name)
        samples = list(read_lines(Sample, path))
        if not samples or len(list(read_scores(out))) == len(samples):
            continue
        if models.folder(samples[0].checkpoint) is None:
            without_weights.append(path.stem)
            continue
        known = [s for s in samples if s.token_ids is not None and _ids_of(prompts, s) is not None]
        if not known:
            raise RefusedError(f"{path}: its engine stored no token ids, and without them no token can be scored")
        lines = _scored(models, known, prompts, _first_prompts(run_dir, int(number), prompts) if name == HINTED else {})
        count = write_scores(out, lines)
        written.append(Scored(path=out, samples=count, without_ids=len(samples) - count))
        note(
            f"{out}: {count} samples" + (f", {len(samples) - count} without token ids" if count < len(samples) else "")
        )
        if gaps := [line.gap for line in read_scores(out) if line.gap is not None]:
            note(gap_text(gaps))
    if without_weights:
        note(
            f"not scored, because their weights were deleted (training.keep_weights = all keeps them): "
            f"{', '.join(without_weights)}"
        )
    return written


def gap_text(gaps: Sequence[float]) -> str:
    """The distribution of how much likelier a hint makes the completions that were sampled with it; one at least."""
    ordered = sorted(gaps)
    tenth, half, most = (ordered[int(share * (len(ordered) - 1))] for share in (0.1, 0.5, 0.9))
    return (
        f"the hint makes a token likelier by {sum(gaps) / len(gaps):+.3f} nats on average over {len(gaps)} "
        f"completions; of these, a tenth has less than {tenth:+.3f}, half less than {half:+.3f}, a tenth more than "
        f"{most:+.3f}"
    )


def _first_prompts(run_dir: Path, iteration: int, prompts: StoredPrompts) -> dict[str, tuple[int, ...]]:
    """By problem, the ids of the prompt of its first attempt in an iteration, which has no hint."""
    path = run_dir / "samples" / f"{iteration:03d}-rationale.jsonl"
    return {s.problem_id: ids for s in read_lines(Sample, path) if (ids := _ids_of(prompts, s)) is not None}


def _is_meant(path: Path, iteration: int | None, stage: str | None) -> bool:
    number, _, name = path.stem.partition("-")
    return (iteration is None or int(number) == iteration) and (stage is None or name == stage)


def _ids_of(prompts: StoredPrompts, sample: Sample) -> tuple[int, ...] | None:
    return prompts[sample.prompt_sha256].ids if sample.prompt_sha256 in prompts else None


class _Models:
    """The models of a run, of which one is loaded at a time."""

    def __init__(self, run_dir: Path, about: dict[str, Any]) -> None:
        self._dir = run_dir
        self._about = about
        self._loaded: tuple[str, Any, Codec] | None = None

    def folder(self, checkpoint: int | None) -> Path | None:
        """Of a checkpoint, or of the base model; None for weights that were deleted."""
        if checkpoint is None:
            return Path(resolve_model(str(self._about["config"]["model.path"])).path)
        folder = self._dir / "checkpoints" / f"{checkpoint:03d}"
        return folder if any(folder.glob("*.safetensors")) else None

    def load(self, sample: Sample) -> tuple[Any, "Codec", str]:
        """Model, codec and number type for a sample. Raises RefusedError for weights of another hash."""
        import torch

        from selftaught.models.loading import load_model
        from selftaught.models.tokens import Codec

        folder, dtype = self.folder(sample.checkpoint), str(self._about["resolved"]["dtype"])
        assert folder is not None
        if self._loaded is None or self._loaded[0] != str(folder):
            self._loaded = None
            _refuse_other_weights(model_in_folder(folder), sample)
            trusted = bool(self._about["config"].get("model.trust_remote_code"))
            model = load_model(str(folder), dtype=getattr(torch, dtype), trust_remote_code=trusted)
            model.eval().to(_device())
            self._loaded = str(folder), model, Codec(str(folder), trust_remote_code=trusted)
        return self._loaded[1], self._loaded[2], dtype


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _refuse_other_weights(model: ModelRef, sample: Sample) -> None:
    if sample.weights_sha256 is not None and not (model.sha256 or "").startswith(sample.weights_sha256):
        raise RefusedError(
            f"{model.path} has other weights ({(model.sha256 or '')[:16]}) than those which sampled iteration "
            f"{sample.iteration} ({sample.weights_sha256}); restore them"
        )


def _scored(
    models: _Models, samples: Sequence[Sample], prompts: StoredPrompts, unhinted: Mapping[str, tuple[int, ...]]
) -> Iterator[ScoredSample]:
    """`unhinted` has, for problems that were shown a hint, the prompt without it."""
    import torch

    from selftaught.models.scoring import completion_logprobs

    for start in range(0, len(samples), BATCH):
        batch = samples[start : start + BATCH]
        model, codec, dtype = models.load(batch[0])
        rows = [(_ids_of(prompts, s) or (), _generated(s)) for s in batch]
        known = [i for i, s in enumerate(batch) if s.problem_id in unhinted and rows[i][1]]
        plain = [(unhinted[batch[i].problem_id], rows[i][1]) for i in known]
        device = next(model.parameters()).device
        with torch.inference_mode():
            logprobs = completion_logprobs(model, rows, device=device)
            without_hint = dict(zip(known, completion_logprobs(model, plain, device=device), strict=True))
        gaps = {i: (sum(logprobs[i]) - sum(values)) / len(values) for i, values in without_hint.items()}
        for i, (sample, values) in enumerate(zip(batch, logprobs, strict=True)):
            _refuse_other_sum(sample, values, dtype)
            texts = token_texts(codec.decode, sample.token_ids or (), sample.completion)
            yield ScoredSample(
                problem_id=sample.problem_id,
                iteration=sample.iteration,
                kind=sample.kind,
                index=sample.index,
                tokens=(*texts, *([""] if sample.end_id is not None else [])),
                logprobs=tuple(round(value, 4) for value in values),
                gap=round(gaps[i], 4) if i in gaps else None,
            )


def _generated(sample: Sample) -> tuple[int, ...]:
    return (*(sample.token_ids or ()), *(() if sample.end_id is None else (sample.end_id,)))


def _refuse_other_sum(sample: Sample, values: Sequence[float], dtype: str) -> None:
    """Compare with the sum that the engine stored; of a completion that was cut, it counts tokens that are gone."""
    if sample.logprob is None or sample.num_tokens != len(values) or not values:
        return
    if abs(sum(values) - sample.logprob) > TOLERANCE.get(dtype, 0.3) * len(values):
        raise RefusedError(
            f"iteration {sample.iteration}, problem {sample.problem_id}, {sample.kind} {sample.index}: its tokens have "
            f"the log-probability {sum(values):.3f} now, and had {sample.logprob:.3f} when they were sampled; other "
            "weights, or another version of a library"
        )


def token_texts(decode: Callable[[Sequence[int]], str], ids: Sequence[int], text: str) -> tuple[str, ...]:
    """The text of each token, so that joined they are `text`. A character that several tokens share is the last one's.

    Raises StoreError if the ids are not those of the text.
    """
    texts: list[str] = []
    told = place = 0  # ids[:told] have their text, which is text[:place]
    piece = ""
    for k in range(1, len(ids) + 1):
        begin = max(0, told - WINDOW)
        piece = decode(ids[begin:k])[len(decode(ids[begin:told])) :]
        if piece and text.startswith(piece, place):
            texts.append(piece)
            told, place = k, place + len(piece)
        else:
            texts.append("")  # a part of a character
    if place < len(text):
        if not texts or piece != text[place:]:
            raise StoreError(
                f"the ids {list(ids[:8])} … decode to another text than {text[:40]!r}; was the tokenizer changed?"
            )
        texts[-1] = piece
    return tuple(texts)
