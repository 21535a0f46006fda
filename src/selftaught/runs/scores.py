"""scores/ in the run folder: log-probabilities of the tokens of samples, where `selftaught score` has stored them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from selftaught.records.samples import Kind
from selftaught.runs.lines import as_store_error, dump, read_lines, sync_dir

SCORES = "scores"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSample:
    """A line of scores/<iteration>-<stage>.jsonl: a sample's tokens under the weights that generated it."""

    problem_id: str
    iteration: int
    kind: Kind
    index: int
    tokens: tuple[str, ...]
    """Their texts, which joined are the completion; of an end token the empty text. A character that several tokens
    share stands with the last of them."""
    logprobs: tuple[float, ...]
    """Nats at temperature 1, of each token."""
    gap: float | None = None
    """Of a sample with a hint: by how many nats a token, on average, the hint makes it likelier than the prompt of the
    first attempt does, under the same weights. None without a hint, and where that prompt is not known."""


def scores_path(run_dir: Path, iteration: int, stage: str) -> Path:
    return run_dir / SCORES / f"{iteration:03d}-{stage}.jsonl"


def read_scores(path: Path) -> Iterable[ScoredSample]:
    """Those of a file; none if there is no file. Raises StoreError for a damaged one."""
    return read_lines(ScoredSample, path)


def write_scores(path: Path, scored: Iterable[ScoredSample]) -> int:
    """Write a file in one step, and return how many lines it has. Raises StoreError if it cannot be written."""
    temporary, count = path.with_suffix(".tmp"), 0
    with as_store_error(path, "write"):
        path.parent.mkdir(exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                for line in scored:
                    file.write(dump(ScoredSample, line))
                    count += 1
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_dir(path.parent)
    return count
