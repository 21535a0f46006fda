"""The index beside a run folder, RUN.view.sqlite: it finds samples quickly, and may be deleted at any time.

It is never the truth. Before each use the sizes and times of the folder's files are compared with those that it was
made from: what has been appended is added, and after any other change it is made anew.
"""

import hashlib
import sqlite3
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from selftaught.records.errors import StoreError
from selftaught.records.samples import Sample
from selftaught.records.training import TrainingExample
from selftaught.report.web.facts import (
    Fate,
    example_values,
    fates_of,
    problem_values,
    sample_values,
    stage_of,
    states_of,
)
from selftaught.report.web.index_files import has_next_line, hash_before, is_ours, lines_from, place_for, stamp_of
from selftaught.report.web.schema import DROPPING, TABLES, VERSION, add_sample, condition, connected
from selftaught.report.web.selection import Filters
from selftaught.runs.lines import as_store_error, parsed
from selftaught.runs.reading import PROBLEMS, PROMPTS, StoredProblems, StoredPrompts, read_problems, read_run_json
from selftaught.runs.scores import SCORES, ScoredSample

R = TypeVar("R")

_COLUMNS = "stage, iteration, start, kept, reason, source"
Stale = Literal["", "grown", "changed", "empty"]

FOLDERS = ("samples", "examples", "left_out", SCORES)
FACETS = ("iteration", "stage", "kind", "verdict", "reason", "source", "class_name")


class Index:
    """Finds samples of one run. Safe to use from several threads; each call sees what the folder holds at its time."""

    def __init__(self, run_dir: Path) -> None:
        """Opens nothing yet. Raises StoreError if the folder is not a run folder."""
        read_run_json(run_dir)
        self._dir = run_dir
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._problems: StoredProblems | None = None
        self._prompts: tuple[int, StoredPrompts] | None = None
        self._made_of: Mapping[str, str] = {}
        self._kept: dict[str, tuple[int, Any]] = {}
        self._found: tuple[int, Filters, Sequence[int]] | None = None
        self.path = place_for(run_dir)
        self.version = 0
        """Another number whenever something new was taken in."""

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def refresh(self) -> None:
        """Take in what the folder holds now. Raises StoreError for a damaged file, and if no index can be written."""
        with self._lock:
            self._refreshed()

    def count(self, filters: Filters) -> int:
        return len(self.numbers(filters))

    def samples(self, filters: Filters, *, offset: int = 0, limit: int | None = None) -> list[dict[str, Any]]:
        """Samples with their problem's question and answer, in the order of files; a `limit` of None is all."""
        numbers = self.numbers(filters)[offset : None if limit is None else offset + limit]
        with self._lock:
            connection = self._current()
            rows = (connection.execute(f"SELECT {_COLUMNS} FROM samples WHERE number = ?", [n]) for n in numbers)
            return [self._sample(row) for found in rows for row in found.fetchall()]

    def numbers(self, filters: Filters) -> Sequence[int]:
        """Which samples are meant, for `at`; what was asked for last is kept, since its next page is asked for next."""
        with self._lock:
            connection = self._refreshed()
            if self._found is None or self._found[:2] != (self.version, filters):
                where, values = condition(filters)
                rows = connection.execute(f"SELECT number FROM samples WHERE {where} ORDER BY number", values)
                self._found = self.version, filters, array("q", (row[0] for row in rows))
            return self._found[2]

    def at(self, numbers: Iterable[int]) -> Iterator[dict[str, Any]]:
        """The samples of some numbers, each with its complete prompt; one is in memory at a time."""
        for number in numbers:
            with self._lock:
                row = self._current().execute(f"SELECT {_COLUMNS} FROM samples WHERE number = ?", [number]).fetchone()
                if row is None:
                    continue
                sample = self._sample(row)
                stored = self._stored_prompts()
                prompt = stored[sample["prompt_sha256"]].text if sample["prompt_sha256"] in stored else None
            yield {**sample, "prompt": prompt}

    def problem(self, id: str) -> dict[str, Any] | None:
        """Everything about a problem: its samples, the rows trained on, prompts and scores; None without such one."""
        with self._lock:
            connection = self._refreshed()
            problems = self._stored_problems()
            if id not in problems:
                return None
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM samples WHERE problem_id = ? ORDER BY number", [id]
            ).fetchall()
            samples = [self._sample(row) for row in rows]
            examples = [
                example_values(self._line(TrainingExample, f"examples/{trained:03d}.jsonl", start), trained)
                for trained, start in connection.execute(
                    "SELECT trained, start FROM examples WHERE problem_id = ? ORDER BY trained, start", [id]
                ).fetchall()
            ]
            scores = [
                self._line(ScoredSample, file, start)
                for file, start in connection.execute(
                    "SELECT file, start FROM scores WHERE problem_id = ?", [id]
                ).fetchall()
            ]
            return {
                "problem": problem_values(problems[id]),
                "samples": samples,
                "examples": examples,
                "prompts": self._prompts_of({sample["prompt_sha256"] for sample in samples}),
                "scores": [
                    {"key": [s.problem_id, s.iteration, s.kind, s.index], "tokens": s.tokens, "logprobs": s.logprobs}
                    for s in scores
                ],
            }

    def facets(self) -> dict[str, list[Any]]:
        """The values that filters can have."""
        with self._lock:
            return cast(dict[str, list[Any]], self._once("facets", self._facets))

    def grid(self) -> list[dict[str, Any]]:
        """As `facts.states_of`."""
        with self._lock:
            return cast(list[dict[str, Any]], self._once("grid", self._grid))

    def _once(self, name: str, make: Callable[[sqlite3.Connection], Any]) -> Any:
        """What is made of all samples, made again only after something was taken in."""
        connection = self._refreshed()
        if name not in self._kept or self._kept[name][0] != self.version:
            self._kept[name] = self.version, make(connection)
        return self._kept[name][1]

    def _facets(self, connection: sqlite3.Connection) -> dict[str, list[Any]]:
        values = {
            ("class" if name == "class_name" else name): sorted(
                row[0] for row in connection.execute(f"SELECT DISTINCT {name} FROM samples WHERE {name} IS NOT NULL")
            )
            for name in FACETS
        }
        checks = {
            line.rpartition(":")[0]
            for row in connection.execute("SELECT DISTINCT checks FROM samples")
            for line in row[0].split("\n")
            if line
        }
        return {**values, "check": sorted(checks)}

    def _grid(self, connection: sqlite3.Connection) -> list[dict[str, Any]]:
        solved = connection.execute(
            "SELECT problem_id, stage, iteration, verdict = 'correct' FROM samples INDEXED BY samples_for_grid "
            "WHERE stage IN ('rationale', 'rationalization') OR position = 0"
        ).fetchall()
        iterations = max((row[2] for row in solved), default=0)
        return states_of(read_problems(self._dir), solved, iterations)

    def _sample(self, row: tuple[Any, ...]) -> dict[str, Any]:
        stage, iteration, start, kept, reason, source = row
        sample = self._line(Sample, f"samples/{iteration:03d}-{stage}.jsonl", start)
        fate = None if kept is None else Fate(kept=bool(kept), reason=reason, source=source)
        problem = self._stored_problems()[sample.problem_id]
        asked = {"question": problem.question, "answer": problem.answer, "class_name": problem.class_name}
        return {**sample_values(sample, stage, fate), **asked}

    def _line(self, kind: type[R], file: str, start: int) -> R:
        path = self._dir / file
        with as_store_error(path, "read"), open(path, "rb") as opened:
            opened.seek(start)
            line = opened.readline()
        return next(parsed(kind, [line], path))

    def _stored_problems(self) -> StoredProblems:
        self._problems = self._problems or StoredProblems(self._dir)
        return self._problems

    def _stored_prompts(self) -> StoredPrompts:
        path = self._dir / PROMPTS
        size = path.stat().st_size if path.exists() else 0
        if self._prompts is None or self._prompts[0] != size:
            self._prompts = size, StoredPrompts(self._dir)
        return self._prompts[1]

    def _prompts_of(self, wanted: set[str]) -> dict[str, dict[str, str | None]]:
        """As `page_data.prompt_texts`."""
        stored, found = self._stored_prompts(), dict[str, dict[str, str | None]]()
        for sha256 in wanted:
            if sha256 in stored:
                record = stored.record(sha256)
                found[sha256] = {"prefix": record.prefix, "text": record.text}
                if record.prefix is not None:
                    found[record.prefix] = {"prefix": None, "text": stored[record.prefix].text}
        return found

    def _refreshed(self) -> sqlite3.Connection:
        """The index, with all that the folder holds now."""
        try:
            return self._current()
        except sqlite3.DatabaseError:
            self._drop()  # what a crash has left, or another program; the folder is the truth
        try:
            return self._current()
        except sqlite3.Error as error:
            raise StoreError(f"cannot write the index {self.path}: {error}; free some space, or delete it") from error

    def _current(self) -> sqlite3.Connection:
        identity = self._identity()
        if self._connection is not None and identity != self._made_of:
            self._drop()
        if self._connection is None:
            if not is_ours(self.path, identity):
                self._drop()
            self._connection, self._made_of = connected(self.path), identity
        if stale := self._stale(self._connection):
            self._update(self._connection, identity, stale)
        return self._connection

    def _update(self, connection: sqlite3.Connection, identity: Mapping[str, str], stale: str) -> None:
        """Take in what is new. Another viewer of the run may be about to do the same, so that it is looked at again."""
        connection.execute("BEGIN IMMEDIATE")
        try:
            if (stale := self._stale(connection)) == "changed":
                for statement in DROPPING:
                    connection.execute(statement)
            if stale in ("changed", "empty"):
                for statement in TABLES:
                    connection.execute(statement)
                connection.executemany("INSERT INTO about VALUES (?, ?)", identity.items())
            if stale:
                self._take_in(connection)
                self.version += 1
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _drop(self) -> None:
        self.close()
        self._problems = self._prompts = None
        with as_store_error(self.path, "write"):
            self.path.unlink(missing_ok=True)

    def _identity(self) -> dict[str, str]:
        """What an index belongs to."""
        with as_store_error(self._dir, "read"):
            about = (self._dir / "run.json").read_bytes()
        about += str(self._dir.resolve()).encode("utf-8", "surrogateescape")
        problems = stamp_of(self._dir / PROBLEMS)
        return {"version": VERSION, "run": hashlib.sha256(about).hexdigest(), "problems": str(problems)}

    def _files(self) -> dict[str, Path]:
        paths = [path for folder in FOLDERS for path in sorted((self._dir / folder).glob("*.jsonl"))]
        return {f"{path.parent.name}/{path.name}": path for path in paths}

    def _stale(self, connection: sqlite3.Connection) -> Stale:
        """Whether the folder holds what the index does not: "" if not, "grown" if what is new can be added."""
        if connection.execute("SELECT name FROM sqlite_master WHERE name = 'files'").fetchone() is None:
            return "empty"
        known = {row[0]: row[1:] for row in connection.execute("SELECT name, size, mtime, last FROM files")}
        files = self._files()
        stale: Stale = ""
        if known.keys() - files.keys():
            return "changed"
        for name, path in files.items():
            size, mtime, last = known.get(name, (0, 0, ""))
            stamp = stamp_of(path)
            if stamp == (size, mtime):
                continue
            if name in known and not (
                name.startswith("samples/") and stamp[0] > size and hash_before(path, size) == last
            ):
                return "changed"
            if name not in known or has_next_line(path, size):
                stale = "grown"
        return stale

    def _take_in(self, connection: sqlite3.Connection) -> None:
        known = {row[0]: row[1:] for row in connection.execute("SELECT name, size, mtime FROM files")}
        for name, path in self._files().items():
            stamp, (size, mtime) = stamp_of(path), known.get(name, (0, 0))
            if name in known and stamp == (size, mtime):
                continue
            end = self._take_in_file(connection, path, size)
            row = (name, end, stamp[1] if end == stamp[0] else 0, hash_before(path, end))
            connection.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", row)

    def _take_in_file(self, connection: sqlite3.Connection, path: Path, start: int) -> int:
        """Take in the complete lines from `start` on, and return where they end."""
        folder, end = path.parent.name, start
        if folder == "samples":
            problems, stage = self._stored_problems(), stage_of(path)
            problem_of = lru_cache(maxsize=4096)(problems.__getitem__)
            for place, line in lines_from(path, start):
                sample = next(parsed(Sample, [line], path))
                if sample.problem_id not in problems:
                    raise StoreError(f"{path}: problem {sample.problem_id!r} is not in {PROBLEMS}; restore the file")
                add_sample(connection, sample, stage, place, problem_of(sample.problem_id))
                end = place + len(line)
            if stage in ("rationale", "rationalization"):
                self._decide(connection, int(path.stem.partition("-")[0]))
        elif folder == "left_out":
            end = sum((len(line) for _, line in lines_from(path, start)), start)
            self._decide(connection, int(path.stem))
        elif folder == "examples":
            for place, line in lines_from(path, start):
                example = next(parsed(TrainingExample, [line], path))
                if example.source != "rehearsed":
                    row = (example.problem_id, int(path.stem), place)
                    connection.execute("INSERT INTO examples VALUES (?, ?, ?)", row)
                end = place + len(line)
            self._decide(connection, int(path.stem))
        else:
            for place, line in lines_from(path, start):
                scored = next(parsed(ScoredSample, [line], path))
                place_of = (scored.problem_id, f"{SCORES}/{path.name}", place)
                connection.execute("INSERT INTO scores VALUES (?, ?, ?)", place_of)
                end = place + len(line)
        return end

    def _decide(self, connection: sqlite3.Connection, iteration: int) -> None:
        """Write down what the iteration made of its samples."""
        connection.executemany(
            "UPDATE samples SET kept = ?, reason = ?, source = ? "
            "WHERE iteration = ? AND kind = ? AND problem_id = ? AND position = ?",
            (
                (int(fate.kept), fate.reason, fate.source, iteration, kind, problem, position)
                for (problem, kind, position), fate in fates_of(self._dir, iteration).items()
            ),
        )
