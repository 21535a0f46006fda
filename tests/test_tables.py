"""A table is uncut at every width: fewer columns, or another layout, never a cut number or word."""

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from selftaught.report.tables import fitting, table_text, wrapped

WIDTHS = st.integers(20, 200)
numbers = st.one_of(
    st.integers(0, 10**9).map(str),
    st.tuples(st.integers(0, 99_999), st.integers(1, 99_999)).map("{0[0]}/{0[1]}".format),
    st.floats(0, 1).map("{0:.2f} [0.10, 0.93]".format),
    st.sampled_from(["–", "0.097→0.095", "日本 3", "12/–"]),
)
names = st.sampled_from(["iter", "1", "false +", "a class", "Precalculus", "Counting & Probability", "整数", "dev"])


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[list[str]]]:
    columns = draw(st.integers(1, 14))
    rows = draw(st.lists(st.lists(numbers, min_size=columns, max_size=columns), min_size=1, max_size=4))
    return draw(st.lists(names, min_size=columns, max_size=columns)), rows


def words(text: str) -> list[str]:
    return sorted(text.split())


@given(tables(), WIDTHS)
def test_every_number_and_word_is_uncut_at_any_width(table: tuple[list[str], list[list[str]]], width: int) -> None:
    header, rows = table
    text = table_text(header, rows, width)
    printed = words(text)
    for cell in (cell for row in rows for cell in row):
        for word in cell.split():
            assert word in printed
    assert {word for name in header for word in name.split()} <= set(printed)
    assert set(printed) == {word for cell in (*header, *(c for row in rows for c in row)) for word in cell.split()}


@given(tables(), WIDTHS)
def test_no_line_is_wider_than_the_terminal_unless_one_word_is(
    table: tuple[list[str], list[list[str]]], width: int
) -> None:
    for line in table_text(*table, width).splitlines():
        assert cell_len(line) <= width or len(line.split()) == 1


@given(tables(), WIDTHS)
def test_every_cell_stands_under_its_own_name(table: tuple[list[str], list[list[str]]], width: int) -> None:
    """In every part, by the place of its first character; row by row, on the line that begins with its name."""
    header, rows = (
        [f"h{i}" for i in range(len(table[0]))],
        [[f"r{r}c{c}" for c in range(len(table[0]))] for r in (0, 1)],
    )
    text = table_text(header, rows, width)
    blocks = [block.splitlines() for block in text.split("\n\n")]
    cells = set()
    for first, *others in blocks:
        for name in first.split():
            at = first.index(name)
            for r, line in enumerate(others):
                cell = line[at:].split()[0]
                assert cell == f"r{r}c{name[1:]}"
                cells.add(cell)
    assert cells == {cell for row in rows for cell in row}


def test_a_table_that_fits_is_one_table() -> None:
    assert table_text(["a", "b"], [["1", "22"], ["333", "4"]], 20) == "a    b\n1    22\n333  4"


def test_a_table_of_any_width_is_never_divided() -> None:
    header = [f"column {i}" for i in range(40)]
    assert len(table_text(header, [["1"] * 40], None).splitlines()) == 2


def test_columns_that_do_not_fit_follow_below_with_the_first_one_again() -> None:
    text = table_text(["iter", "correct", "hints"], [["0", "1041/2000", "–"], ["1", "1200/2000", "3/800"]], 20)
    assert text == "iter  correct\n0     1041/2000\n1     1200/2000\n\niter  hints\n0     –\n1     3/800"


def test_where_two_columns_do_not_fit_each_cell_is_a_line() -> None:
    text = table_text(["iter", "dev"], [["0", "0.20 [0.06, 0.51]"]], 20)
    assert text == "iter 0\n  dev 0.20 [0.06,\n    0.51]"


@given(st.text("ab 0.\n", max_size=200), WIDTHS)
def test_wrapping_loses_nothing_and_moves_nothing(text: str, width: int) -> None:
    assert wrapped(text, width, indent="  ").split() == text.split()
    assert wrapped(text, None) == text


@given(st.lists(numbers, min_size=1, max_size=6), WIDTHS, st.randoms())
def test_a_line_is_made_of_uncut_pieces_in_their_order(pieces: list[str], width: int, random: object) -> None:
    order = list(range(len(pieces)))
    random.shuffle(order)  # type: ignore[attr-defined]
    line = fitting(pieces, order, width)
    assert cell_len(line) <= width
    left = line
    for piece in pieces:
        if left.startswith(piece):
            left = left[len(piece) :].removeprefix("  ")
    assert left == ""
