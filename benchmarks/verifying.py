"""How long the verifiers that run in the process itself take for hostile texts of a megabyte.

    python -m benchmarks.verifying

Every piece of `PIECES` is repeated to a megabyte; each verifier gets that text by itself, behind an answer marker and
before one. Prints, for every verifier, the most CPU milliseconds and the piece that took them, and then a JSON line.
The tests use the same pieces (tests/test_verifiers.py), with a bound that only work that grows faster than linearly can
reach.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from benchmarks.machine import commit, processor, versions
from selftaught.grading.verifiers import make_verifier
from selftaught.records.problems import Problem, Verifier

MARKER = "####"
IN_PROCESS = ("numeric", "choice", "exact")
"""Verifiers without a process of their own that could be killed."""
CHOICES = ("bank", "library", "new york", "new york city", "a dog")
SHORT_PIECES = (
    *("####", "#### 5", "the answer is", "The Answer Is: ", "\\boxed{", "\\frac{", "\\text{", "\\(", "\\)"),
    *("{", "}", "$", "%", "1", "9", "1,000", "1e9", "x 10^", "10^{", "½", "٣", "²", ",", ".", "/", "-", "–", "=", "e"),
    *(" or ", " and ", "bank", "new york", " city", "(A)", "B.", "A", "the ", "a ", "\nQ: ", "Q:"),
    *(" ", "\n", "\r\n", "\t", "\u2028", "\x00", "é日", "İ", "ſ", "\ud7ff", "*", '"'),
)
"""Pieces of completions, and of texts that are meant to be slow."""
PIECES = (*SHORT_PIECES, "5 or ", "bank or ", "\\boxed{5} ", "1,", "a " * 30, "Q:\n", "5 5 ", " = 5", "x^")


@dataclass(frozen=True, slots=True, kw_only=True)
class Slowest:
    verifier: str
    cpu_ms: float
    piece: str


def long_texts(piece: str, size: int = 1_000_000) -> Iterator[str]:
    """About `size` characters of the piece: by themselves, behind an answer marker, and before one."""
    text = piece * (size // len(piece))
    yield from (text, f"{MARKER} {text}", f"so {text}\n{MARKER} 5")


def cpu_s(verify: Verifier, text: str, problem: Problem) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    verify(text, problem)
    return time.process_time() - start


def slowest_of(name: str, *, repeat: int) -> Slowest:
    """The text on which this verifier takes longest; of several calls the fastest counts."""
    verify = make_verifier(name, marker=MARKER, next_question=("Q:",))
    problem = Problem(id="1", question="", answer="A" if name == "choice" else "1", choices=CHOICES)
    times = {
        piece: max(min(cpu_s(verify, text, problem) for _ in range(repeat)) for text in long_texts(piece))
        for piece in PIECES
    }
    worst = max(times, key=times.__getitem__)
    return Slowest(verifier=name, cpu_ms=round(1000 * times[worst], 1), piece=worst)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, help="calls per text; the fastest counts")
    rows = [slowest_of(name, repeat=parser.parse_args().repeat) for name in IN_PROCESS]
    for row in rows:
        print(f"{row.verifier:<8} {row.cpu_ms:>7.1f} ms for a megabyte of {row.piece!r}, the slowest of {len(PIECES)}")
    facts = {"benchmark": "verifying", "device": processor(), "versions": versions(), **commit()}
    print(json.dumps({**facts, "slowest": [asdict(row) for row in rows]}))


if __name__ == "__main__":
    main()
