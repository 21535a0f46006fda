"""A comparison's table for people: for a terminal, Markdown, and LaTeX in the layout of the paper's Tables 1 and 2.

All rates are in percent, all numbers but counts and p-values are means over the seeds of a row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selftaught.comparison.plan import At, Cell
from selftaught.comparison.results import Accuracy, Against, RowResult, Table
from selftaught.comparison.rows import ROWS
from selftaught.comparison.statistics import Discordant
from selftaught.config.public import public_values
from selftaught.records.errors import one_line
from selftaught.report.cells import DASH, md, table
from selftaught.runs.shared_chunks import Saving

ONE_SEED = "$^\\dagger$"
"""In LaTeX, where other rows have several."""
UNLIKE = 0.1
"""Difference in loss tokens, as a share, from which the table says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What is said of a comparison beside its table."""

    task: str
    model: str
    at: At
    steps: int
    """Planned between the base model and the last model of every row, at equal steps."""
    batch_size: int
    missing: Mapping[Cell, str]
    """Cells without a result -> why they failed, or nothing."""
    saving: Saving
    generated: int
    """Tokens of all completions of all finished cells, shared ones in each that has them."""

    @property
    def saved_share(self) -> float:
        return self.saving.saved / self.generated if self.generated else 0.0


def parts(found: Table) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, header and rows of each part of the table."""
    return [
        ("Accuracy on test", *_accuracies(found)),
        *(
            (f"Difference to {found.against} in points, {which}", *_differences(found, which))
            for which in (("selected", "last") if any(row.against for row in found.rows) else ())
        ),
        ("What came of the selected model", *_outcomes(found, "selected")),
        ("What came of the last model", *_outcomes(found, "last")),
        ("What the whole run took", *_costs(found)),
    ]


def notes(found: Table, about: About) -> list[str]:
    """What the table cannot say by itself, in sentences, and the cells that it lacks."""
    return [*cautions(found, about), *missing_lines(about.missing)]


def cautions(found: Table, about: About) -> list[str]:
    """What has to be known of the rows that are there. Names nothing of this machine, as they may be handed on."""
    lines = [
        f"{about.task} with {about.model}: n = {found.problems} test problems, {found.train} training problems.",
        f"At equal steps: {about.steps} optimizer steps from the base model to the last model of every row that trains."
        if about.at == "equal-steps"
        else "Each row with its own schedule of steps (--at paper).",
        "Selected is the model that is best on dev, last that of the last iteration, whatever it is like on dev.",
    ]
    if single := [row.row for row in found.rows if len(row.seeds) == 1]:
        lines.append(f"A single seed, so nothing is known of its spread: {', '.join(single)}.")
    for row in found.rows:
        if ROWS[row.row].iterations == 0 and not row.num_shots:
            lines.append(f"{row.row} has no few-shot examples in its prompts, because sampling.num_shots is 0.")
        if own := public_values(row.own_settings):
            lines.append(f"{row.row} was given {', '.join(f'{key} = {value}' for key, value in own.items())}.")
    lines += unseen_lines(found, about)
    lines += _without_differences(found)
    if about.at == "equal-steps":
        for row in found.rows:
            if row.last_iterations != (0,) * len(row.seeds) and row.last_steps != about.steps:
                lines.append(f"{row.row} has {row.last_steps:g} steps to its last model, not {about.steps}.")
    lines += loss_token_lines(found, about)
    if about.saving.saved:
        lines.append(
            f"Sharing saves up to {about.saving.saved} of {about.generated} tokens ({about.saved_share:.1%}): samples "
            "of the base model that rows have in common are generated once by runs one after the other; runs at the "
            "same time may generate some of them again."
        )
    return lines


def _without_differences(found: Table) -> list[str]:
    """A sentence for the rows that the tables of differences lack."""
    others = [row.row for row in found.rows if row.row != found.against and row.against is None]
    if not others:
        return []
    if not found.against:
        return ["No differences: the row that the others are compared with (--against) has no finished cell."]
    return [f"Not compared with {found.against}, for they have no seed in common: {', '.join(others)}."]


def unseen_lines(found: Table, about: About) -> list[str]:
    """A sentence for every row whose last training has more problems to train on than its steps have rows."""
    lines = []
    for row in found.rows:
        trainings = max(1, max(row.last_iterations)) if ROWS[row.row].continues else 1
        problems, steps = (row.last_unhinted + row.last_hinted) * found.train, row.last_steps / trainings
        if problems > steps * about.batch_size:
            lines.append(
                f"{row.row} had {_count(problems)} problems to train its last model on, and {steps:g} steps of "
                f"{about.batch_size} rows see at most {_count(steps * about.batch_size)}."
            )
    return lines


def loss_token_lines(found: Table, about: About) -> list[str]:
    """At equal steps, a sentence for the rows whose last models had other numbers of tokens with loss behind them, and
    one for those whose selected models had, which may have fewer steps, too."""
    if about.at != "equal-steps":
        return []
    trained = [row for row in found.rows if any(row.last_iterations)]
    last = _unlike({row.row: row.last_loss_tokens for row in trained}, found.against)
    selected = _unlike({row.row: row.loss_tokens for row in trained}, found.against)
    lines = []
    if last:
        lines.append(
            "Equal steps, and not equal tokens with loss: behind the last model, in multiples of those of "
            f"{found.against}, {', '.join(last)}."
        )
    if selected:
        lines.append(
            "Behind the selected model, which may be an earlier one or the base model, the tokens with loss are, in "
            f"multiples of those of {found.against}, {', '.join(selected)}."
        )
    return lines


def _unlike(tokens: Mapping[str, float | None], against: str) -> list[str]:
    """The rows that have other numbers of tokens than one of them, each with its multiple."""
    reference = tokens.get(against)
    if not reference:
        return []
    shares = {row: n / reference for row, n in tokens.items() if row != against and n is not None}
    return [f"{row} {share:.2f}" for row, share in shares.items() if abs(share - 1) > UNLIKE]


def missing_lines(missing: Mapping[Cell, str]) -> list[str]:
    """One sentence for the cells that have not finished, and one for each that failed."""
    open_cells = [str(cell) for cell, reason in missing.items() if not reason]
    lines = [f"Not in the table, because unfinished: {', '.join(open_cells)}."] if open_cells else []
    return lines + [f"Not in the table: {cell} failed: {reason}" for cell, reason in missing.items() if reason]


def markdown(found: Table, about: About, *, plots: Sequence[str]) -> str:
    """The page; `plots` are the paths of pictures, relative to it."""
    blocks = [f"# Comparison on {md(about.task)}", "\n".join(f"- {md(line)}" for line in notes(found, about))]
    for title, header, rows in parts(found):
        blocks += [f"## {md(title)}", table([md(h) for h in header], [[md(cell) for cell in row] for row in rows])]
    blocks += [f"![{plot}]({plot})" for plot in plots]
    explained = [f"- **{md(row.row)}**: {md(ROWS[row.row].meaning)}" for row in found.rows]
    return "\n\n".join([*blocks, "## Rows", "\n".join(explained)]) + "\n"


def latex(found: Table, about: About) -> str:
    """A table in the layout of Tables 1 and 2 of Zelikman et al. 2022: approach, accuracy, train data used."""
    steps = "at equal steps" if about.at == "equal-steps" else "each row with its own schedule"
    several, single = (any((len(row.seeds) > 1) == is_several for row in found.rows) for is_several in (True, False))
    body: list[str] = []
    for is_control in (False, True):
        of_kind = [row for row in found.rows if bool(ROWS[row.row].control_of) == is_control]
        if of_kind and body:
            body.append("\\midrule")
        body += [_latex_row(row, is_marked=several and len(row.seeds) == 1) for row in of_kind]
    spread = "mean $\\pm$ standard deviation over seeds; " if several else ""
    one = f" {ONE_SEED} A single seed." if several and single else ""
    unlike = "".join(f" {tex(line)}" for line in loss_token_lines(found, about))
    # Why a cell failed may name this machine, and a source is handed on with its comments.
    lacking = [f"Not in the table: {', '.join(map(str, about.missing))}."] if about.missing else []
    lines = [
        "% Needs \\usepackage{booktabs}.",
        *(f"% {one_line(line)}" for line in (*cautions(found, about), *lacking)),
        "\\begin{table}",
        "\\centering",
        f"\\caption{{Test accuracy and train data used on {tex(about.task)}, in percent, {steps}: {spread}in brackets "
        f"the 95\\,\\% interval over $n = {found.problems}$ test problems. Selected: best on dev; last: last "
        f"iteration.{one}{unlike}}}",
        "\\footnotesize",
        "\\setlength{\\tabcolsep}{3pt}",
        "\\begin{tabular}{lrlrrlr}",
        "\\toprule",
        " & \\multicolumn{3}{c}{Selected} & \\multicolumn{3}{c}{Last} \\\\",
        "Approach" + 2 * " & \\multicolumn{2}{c}{Accuracy} & Train" + " \\\\",
        "\\midrule",
        *body,
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def tex(text: str) -> str:
    """Any text as LaTeX shows it unchanged."""
    return "".join(_TEX.get(c, c) for c in text if c.isprintable())


_TEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "\\": "\\textbackslash{}",
}


def _latex_row(row: RowResult, *, is_marked: bool) -> str:
    cells = [tex(row.row) + (ONE_SEED if is_marked else "")]
    for accuracy, used in (
        (row.selected, row.unhinted + row.hinted),
        (row.last, row.last_unhinted + row.last_hinted),
    ):
        sd = "" if accuracy.sd is None else f" $\\pm$ {_percent(accuracy.sd)}"
        cells += [f"{_percent(accuracy.mean)}{sd}", _interval(accuracy.interval), _percent(used)]
    return " & ".join(cells) + " \\\\"


def _accuracies(found: Table) -> tuple[list[str], list[list[str]]]:
    of_each = ["95 %", "by seed", "train used %"]
    rows = [
        [
            row.row,
            ", ".join(map(str, row.seeds)),
            *_accuracy(row.selected),
            _percent(row.unhinted + row.hinted),
            ", ".join(map(str, row.selected_iterations)),
            *_accuracy(row.last),
            _percent(row.last_unhinted + row.last_hinted),
        ]
        for row in found.rows
    ]
    return ["row", "seeds", "selected %", *of_each, "iteration", "last %", *of_each], rows


def _differences(found: Table, which: str) -> tuple[list[str], list[list[str]]]:
    header = ["row", "seeds", which, "95 %", "gained, lost by seed", "McNemar p by seed", "p", "p (Holm)"]
    rows = []
    for row in found.rows:
        against = row.against if which == "selected" else row.last_against
        if against is not None:
            rows.append([row.row, ", ".join(map(str, against.seeds)), *_against(against)])
    return [*header, "smallest shown"], rows


def _outcomes(found: Table, which: str) -> tuple[list[str], list[list[str]]]:
    header = ["row", "train used %, first + second attempt", "gained, lost against base", "false positives", "steps"]
    rows = []
    for row in found.rows:
        if which == "selected":
            used, against_base, steps, tokens = (row.unhinted, row.hinted), row.against_base, row.steps, row.loss_tokens
            wrong, correct = row.false_positive, row.correct
        else:
            used, against_base = (row.last_unhinted, row.last_hinted), row.last_against_base
            steps, tokens = row.last_steps, row.last_loss_tokens
            wrong, correct = row.last_false_positive, row.last_correct
        rows.append(
            [
                row.row,
                " + ".join(map(_percent, used)),
                _gained_lost(against_base),
                DASH if wrong is None else f"{wrong}/{correct}",
                f"{steps:g}",
                _count(tokens),
            ]
        )
    return [*header, "loss tokens"], rows


def _costs(found: Table) -> tuple[list[str], list[list[str]]]:
    """pass@k is there where the config has it measured."""
    header = ["row", "steps", "tokens generated", "tokens trained", "FLOPs", "hours"]
    passes = [row.passes for row in found.rows if row.passes is not None]
    if passes:
        of = f"k = {passes[0].k}, T = {passes[0].temperature:g}, n = {passes[0].n}"
        header.append(f"pass@k on dev %, base → selected ({of})")
    rows = [
        [
            row.row,
            f"{row.all_steps:g}",
            _count(row.generated),
            _count(row.trained),
            DASH if row.flops is None else f"{row.flops:.2g}",
            f"{row.hours:.2f}",
            *([_passes(row)] if passes else []),
        ]
        for row in found.rows
    ]
    return header, rows


def _passes(row: RowResult) -> str:
    return DASH if row.passes is None else f"{_percent(row.passes.base)} → {_percent(row.passes.result)}"


def _accuracy(accuracy: Accuracy) -> list[str]:
    sd = "" if accuracy.sd is None else f" ± {_percent(accuracy.sd)}"
    by_seed = ", ".join(map(_percent, accuracy.by_seed)) if len(accuracy.by_seed) > 1 else DASH
    return [f"{_percent(accuracy.mean)}{sd}", _interval(accuracy.interval), by_seed]


def _against(against: Against) -> list[str]:
    found = against.difference
    return [
        f"{100 * found.difference:+.1f}",
        "[{:+.1f}, {:+.1f}]".format(*(100 * end for end in found.interval)),
        _gained_lost(against.by_seed),
        ", ".join(_p(one.p) for one in against.by_seed),
        _p(found.p),
        _p(against.p_holm),
        _percent(found.smallest),
    ]


def _gained_lost(by_seed: Sequence[Discordant]) -> str:
    return ", ".join(f"+{one.gained} −{one.lost}" for one in by_seed)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _interval(interval: tuple[float, float]) -> str:
    return "[{}, {}]".format(*map(_percent, interval))


def _p(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _count(number: float | None) -> str:
    return DASH if number is None else f"{number:,.0f}".replace(",", " ")
