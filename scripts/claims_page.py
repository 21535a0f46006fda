#!/usr/bin/env python3
"""docs/claims.md: its tables follow from docs/results/compare-NAME.json, its sentences are written by hand.

`claims_page` fills the blocks between `<!-- compare-NAME:start -->` and `<!-- compare-NAME:end -->` (tables and plots),
the same with `compare-NAME-claims` (what may be said of each claim), with `-classes` (which class of problems is
learned when), `-rounds` (what the iterations after the first bring), `-tries` (what a row has to train on) and
`-passes` (pass@k). scripts/make_docs.py and scripts/record_comparison.py use it.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from claims_rounds import rounds, rounds_table, tries_table
from claims_verdicts import p_text, says, verdict, with_tokens
from selftaught.commands.compare_table import Finished
from selftaught.comparison.cells import OnTest, Result
from selftaught.comparison.plan import Cell
from selftaught.comparison.results import DEFAULT_AGAINST, Table, table_of
from selftaught.comparison.statistics import Difference, paired_difference
from selftaught.comparison.texts import About, notes, parts
from selftaught.report.cells import DASH, md, table
from selftaught.runs.lines import adapter_of
from selftaught.runs.shared_chunks import Saving

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
HALF = 0.5
"""The share of a class's dev problems from which it is taken as learned."""


@dataclass(frozen=True, slots=True)
class Claim:
    text: str
    row: str
    """That `star` is compared with."""
    favours_row: bool = False
    """Whether the claim is that this row is better than `star`."""


CLAIMS = (
    Claim("the model learns from its own samples", "seeds-only"),
    Claim("hints help", "star-no-rationalization"),
    Claim("rationales beat direct answers", "direct"),
    Claim("own rationales beat human solutions", "human-solutions"),
    Claim("a correct hint beats a wrong one", "hint-shuffled"),
    Claim("a correct hint beats a longer prompt", "hint-text"),
    Claim("a hint beats a second try at a temperature", "retry"),
    Claim("choosing by the answer beats choosing at random", "random-matched"),
    Claim("choosing by the answer beats keeping everything", "unfiltered"),
    Claim("the step check helps", "star-checked", favours_row=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """The content of a record."""

    finished: Finished
    cells: Mapping[Cell, Mapping[str, Any]]
    """Of every finished cell, what its record has beside its result: machine, versions, iterations."""


def claims_page(page: str) -> str:
    """The page with its blocks written anew. Raises ValueError for a start of a block without its end."""
    for block in re.findall(r"<!-- (compare-[a-z0-9-]+):start -->", page):
        start, end = f"<!-- {block}:start -->", f"<!-- {block}:end -->"
        if page.count(start) != 1 or page.count(end) != 1:
            raise ValueError(f"docs/claims.md needs the marks {start} and {end}, each once")
        before, after = page.partition(start)[0], page.partition(end)[2]
        page = f"{before}{start}\n{text_of_block(block)}\n{end}{after}"
    return page


def text_of_block(block: str) -> str:
    name, kind = next(((block.removesuffix(kind), kind) for kind in TABLES if block.endswith(kind)), (block, ""))
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return f"Nothing is recorded yet in docs/results/{path.name}."
    recorded = read_record(json.loads(path.read_text(encoding="utf-8")))
    return TABLES[kind](recorded) if kind else tables(recorded, name)


def read_record(content: Mapping[str, Any]) -> Recorded:
    """The results of a record, as `selftaught compare` has them. Raises StoreError for cells that were run unlike."""
    results = []
    for text, cell in content["cells"].items():
        values = {
            **cell["result"],
            "cell": {"row": cell_of(text).row, "seed": cell_of(text).seed},
            "problems": content["problems"],
        }
        for which in ("base", "selected", "last"):
            values[which] = {**values[which], "solved": [digit == "1" for digit in values[which]["solved"]]}
        results.append(adapter_of(Result).validate_python(values))
    sharing = content["sharing"]
    about = About(
        task=content["task"],
        model=content["model"],
        at=content["at"],
        steps=content["planned_steps"],
        batch_size=content["config"]["training.batch_size"],
        missing={cell_of(text): reason for text, reason in content["missing"].items()},
        saving=Saving(used=sharing["shared"], saved=sharing["saved"]),
        generated=sharing["generated"],
    )
    return Recorded(
        finished=Finished(results=tuple(results), own=content["rows"], about=about),
        cells={
            cell_of(text): {key: value for key, value in cell.items() if key != "result"}
            for text, cell in content["cells"].items()
        },
    )


def cell_of(text: str) -> Cell:
    """Of `ROW:SEED`."""
    row, _, seed = text.rpartition(":")
    return Cell(row, int(seed))


def tables(recorded: Recorded, name: str) -> str:
    """The notes, all parts of the table and the two plots."""
    finished = recorded.finished
    found = table_of(finished.results, own=finished.own)
    blocks = ["\n".join(f"- {md(line)}" for line in (*notes(found, finished.about), *made_with(recorded)))]
    for title, header, rows in parts(found):
        blocks += [f"### {md(title)}", table([md(h) for h in header], [[md(cell) for cell in row] for row in rows])]
    for what, ending in (("iterations", "iteration"), ("tokens", "tokens that were spent")):
        blocks.append(f"![accuracy on dev against {ending}](results/{name}-{what}.svg)")
    return "\n\n".join(blocks)


def made_with(recorded: Recorded) -> Iterator[str]:
    """On what machines, when, and with which versions the cells were run."""
    by_machine: dict[str, list[str]] = {}
    for cell in recorded.cells.values():
        by_machine.setdefault(cell["machine"], []).append(cell["started"][:10])
    for machine, dates in by_machine.items():
        when = min(dates) if min(dates) == max(dates) else f"{min(dates)} to {max(dates)}"
        yield f"Machine: {machine}, {when}, {len(dates)} cells."
    versions = {
        name: {cell["versions"].get(name) for cell in recorded.cells.values()} for name in ("torch", "transformers")
    }
    if recorded.cells:
        named = (f"{name} {', '.join(sorted(map(str, those)))}" for name, those in versions.items())
        yield f"Versions: {'; '.join(named)}."


def claims_table(recorded: Recorded) -> str:
    """What the differences to `star` say of each claim whose row is there."""
    finished = recorded.finished
    found = table_of(finished.results, own=finished.own)
    header = [
        "claim",
        "star beside",
        "seeds",
        "selected, points",
        "p (Holm)",
        "last, points",
        "p (Holm)",
        "smallest shown, last",
        "loss tokens, × star",
    ]
    lines = (*_learning(finished.results), *_going_round(recorded), *_claims(found))
    return table([*header, "verdict"], [list(map(md, cells)) for cells in lines])


def _learning(results: Sequence[Result]) -> Iterator[list[str]]:
    """`star` against the base model with its prompts: the one claim that needs no other row."""
    star = [result for result in results if result.cell.row == DEFAULT_AGAINST]
    if star:
        base = [result.base.solved for result in star]
        both = [paired_difference([m.solved for m in of], base) for of in _models(star)]
        seeds = ", ".join(str(result.cell.seed) for result in star)
        figures, both_say = _figures([(found, found.p) for found in both], 1)
        yield ["star beats its base model", "base model", seeds, *figures, DASH, verdict(*both_say)]


def _models(results: Sequence[Result]) -> tuple[list[OnTest], list[OnTest]]:
    return [result.selected for result in results], [result.last for result in results]


def _going_round(recorded: Recorded) -> Iterator[list[str]]:
    """The line of `star` in `rounds_table`, in the columns of the claims: the best model stands for the selected."""
    for of in rounds(recorded.cells):
        if of.row == DEFAULT_AGAINST:
            seeds = ", ".join(map(str, of.seeds))
            cells = [of.best_gain.text, of.best_gain.p_cell, of.last_gain.text, of.last_gain.p_cell]
            beside = "its own iteration 1, on dev"
            yield ["going round helps beyond the first round", beside, seeds, *cells, DASH, DASH, of.verdict]


def _claims(found: Table) -> Iterator[list[str]]:
    by_name = {row.row: row for row in found.rows}
    of_star = by_name[found.against].last_loss_tokens if found.against else None
    for claim in CLAIMS:
        row = by_name.get(claim.row)
        if row is not None and row.against is not None and row.last_against is not None:
            # In the table a difference is row minus `star`; here the side that the claim favours comes first.
            sign = 1 if claim.favours_row else -1
            both = [(against.difference, against.p_holm) for against in (row.against, row.last_against)]
            figures, both_say = _figures(both, sign)
            if not any(row.selected_iterations):
                figures[0] += ", its base model"
            ratio = row.last_loss_tokens / of_star if row.last_loss_tokens and of_star else None
            seeds = ", ".join(map(str, row.against.seeds))
            tokens = DASH if ratio is None else f"{ratio:.2f}"
            yield [claim.text, claim.row, seeds, *figures, tokens, with_tokens(verdict(*both_say), ratio)]


def _figures(both: Sequence[tuple[Difference, float]], sign: int) -> tuple[list[str], list[int]]:
    """The columns of two differences with their p, of the selected models and of the last ones, and what each says."""
    cells, both_say = [], []
    for found, p in both:
        # Adding 0.0 makes 0.0 of -0.0.
        points = 100 * sign * found.difference + 0.0
        low, high = sorted(100 * sign * end + 0.0 for end in found.interval)
        # An interval without a width would say that nothing else is possible.
        cells.append(f"{points:+.1f} [{low:+.1f}, {high:+.1f}]" if low < high else f"{points:+.1f}, the same answers")
        cells.append(p_text(p))
        both_say.append(says(points, p))
    return [*cells, f"{100 * both[-1][0].smallest:.1f}"], both_say


def classes_table(recorded: Recorded) -> str:
    """The first iteration after which half of a class's dev problems are solved, by row and seed."""
    iterated = {cell: of for cell, of in recorded.cells.items() if len(of["iterations"]) > 1}
    names = list(dict.fromkeys(name for of in iterated.values() for name in of["iterations"][0]["dev"]["by_class"]))
    rows = [
        [
            md(cell.row),
            str(cell.seed),
            str(len(of["iterations"]) - 1),
            *(_learned(of["iterations"], name) for name in names),
        ]
        for cell, of in iterated.items()
    ]
    return table(["row", "seed", "iterations", *(f"class {md(name)}" for name in names)], rows)


def _learned(iterations: Sequence[Mapping[str, Any]], name: str) -> str:
    """`iteration (accuracy of the last)`, a dash where no iteration comes to half."""
    shares = [correct / n for correct, n in (item["dev"]["by_class"][name] for item in iterations)]
    first = next((str(i) for i, share in enumerate(shares) if share >= HALF), DASH)
    return f"{first} ({shares[-1]:.2f})"


def passes_table(recorded: Recorded) -> str:
    """pass@k of the base model and of the selected one, by row and seed."""
    results = [result for result in recorded.finished.results if result.passes]
    ks = sorted({int(k) for result in results for of in result.passes.values() for k in of.pass_at_k})
    rows = [
        [
            md(result.cell.row),
            str(result.cell.seed),
            str(result.selected.iteration),
            *(_risen(result, str(k)) for k in ks),
        ]
        for result in results
    ]
    return table(["row", "seed", "selected iteration", *(f"pass@{k} %" for k in ks)], rows)


def _risen(result: Result, k: str) -> str:
    base, selected = (result.passes[i].pass_at_k[k] for i in (0, result.selected.iteration))
    return f"{100 * base:.1f} → {100 * selected:.1f}"


TABLES: dict[str, Callable[[Recorded], str]] = {
    "-claims": claims_table,
    "-classes": classes_table,
    "-rounds": lambda recorded: rounds_table(recorded.cells),
    "-tries": lambda recorded: tries_table(recorded.cells),
    "-passes": passes_table,
}
"""How a block's name ends -> its table."""
