"""The tables of the index beside a run folder, and how a line of the folder becomes a row.

A row holds what the page filters by and where the line stands; the line itself is read from its file. The text that is
searched is in an FTS5 table without content, of three-letter pieces, so that any part of a word is found.
"""

import sqlite3
from pathlib import Path

from selftaught.records.problems import StoredProblem
from selftaught.records.samples import Sample
from selftaught.report.web.selection import Filters, searched_text

VERSION = "2"
"""Of the tables; an index of another version is made anew."""

TABLES = tuple("""
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE files (name TEXT PRIMARY KEY, size INTEGER, mtime INTEGER, last TEXT);
CREATE TABLE samples (
    number INTEGER PRIMARY KEY, problem_id TEXT, iteration INTEGER, stage TEXT, kind TEXT, position INTEGER,
    verdict TEXT, class_name TEXT, kept INTEGER, reason TEXT, source TEXT, checks TEXT, start INTEGER
);
CREATE INDEX samples_by_problem ON samples (problem_id, iteration, kind, position);
CREATE INDEX samples_for_grid ON samples (problem_id, stage, iteration, position, verdict);
CREATE TABLE examples (problem_id TEXT, trained INTEGER, start INTEGER);
CREATE INDEX examples_by_problem ON examples (problem_id);
CREATE TABLE scores (problem_id TEXT, file TEXT, start INTEGER);
CREATE INDEX scores_by_problem ON scores (problem_id);
CREATE VIRTUAL TABLE texts USING fts5 (text, content='', tokenize='trigram', detail='full')
""".strip().split(";\n"))  # fmt: skip
DROPPING = tuple(
    f"DROP TABLE IF EXISTS {name}" for name in ("about", "files", "samples", "examples", "scores", "texts")
)


def connected(path: Path) -> sqlite3.Connection:
    """A connection that any thread may use, one at a time, and that begins no transaction by itself."""
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=60)
    connection.executescript("PRAGMA synchronous = OFF; PRAGMA cache_size = -65536;")  # what a crash loses is made anew
    return connection


def add_sample(connection: sqlite3.Connection, sample: Sample, stage: str, start: int, problem: StoredProblem) -> None:
    checks = "".join(f"\n{name}:{'passed' if result.passed else 'failed'}\n" for name, result in sample.checks.items())
    cursor = connection.execute(
        "INSERT INTO samples (problem_id, iteration, stage, kind, position, verdict, class_name, checks, start) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(sample.problem_id, sample.iteration, stage, sample.kind, sample.index),
            *(str(sample.verdict), problem.class_name, checks, start),
        ),
    )
    text = searched_text(sample.completion, sample.prediction, problem.question, problem.answer, problem.id)
    connection.execute("INSERT INTO texts (rowid, text) VALUES (?, ?)", (cursor.lastrowid, text))


def condition(filters: Filters) -> tuple[str, list[str | int]]:
    """The filters as a condition on `samples`, with its values."""
    parts, values = ["1"], list[str | int]()
    columns = {"problem": "problem_id"}
    for name in ("problem", "iteration", "stage", "kind", "verdict", "class_name", "kept", "reason", "source"):
        if (value := getattr(filters, name)) is not None:
            parts.append(f"{columns.get(name, name)} = ?")
            values.append(int(value) if isinstance(value, bool) else value)
    if filters.check is not None:
        name, passed = filters.check
        parts.append("instr(checks, ?) > 0")
        values.append(f"\n{name}:{'passed' if passed else 'failed'}\n")
    if filters.searched_for is not None:
        parts.append("number IN (SELECT rowid FROM texts WHERE texts MATCH ?)")
        values.append('"' + filters.searched_for.replace('"', '""') + '"')
    return " AND ".join(parts), values
