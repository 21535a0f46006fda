"""Tables on a terminal of any width: where room is short there are fewer columns, but no number or word is cut."""

from collections.abc import Iterator, Sequence

from rich.cells import cell_len

GAP = 2
INDENT = 2


def table_text(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> str:
    """A table of one-line cells within a width; no cell is cut.

    A table that is too wide is divided into several, one below the other, each with the first column. Where not even
    two columns fit, every cell has a line of its own, row by row. A single word that is wider than the terminal is not
    cut either.
    """
    columns = [[cell_len(cells[i]) for cells in (header, *rows)] for i in range(len(header))]
    widths = [max(column) for column in columns]
    if width is not None and len(header) > 1 and widths[0] + GAP + max(widths[1:]) > width:
        return "\n".join(line for row in rows for line in _stacked(header, row, width))
    blocks = ["\n".join(_block(header, rows, widths, part)) for part in _parts(widths, width)]
    return "\n\n".join(blocks)


def wrapped(text: str, width: int | None, *, indent: str = "") -> str:
    """Text with the lines that are too wide broken between words; the continuation lines are indented."""
    if width is None:
        return text
    return "\n".join(part for line in text.split("\n") for part in _broken(line, width, indent))


def fitting(pieces: Sequence[str], order: Sequence[int], width: int) -> str:
    """As many of the pieces as fit on one line, uncut and in their places; `order` lists the most important first."""
    chosen: list[int] = []
    for index in order:
        candidate = _joined(pieces, [*chosen, index])
        if pieces[index] and cell_len(candidate) <= width:
            chosen.append(index)
    return _joined(pieces, chosen)


def _joined(pieces: Sequence[str], chosen: Sequence[int]) -> str:
    return (" " * GAP).join(pieces[index] for index in sorted(chosen))


def _parts(widths: Sequence[int], width: int | None) -> Iterator[list[int]]:
    """Columns that fit beside each other, the first one in every part."""
    part, used = [0], widths[0] if widths else 0
    for index in range(1, len(widths)):
        if width is not None and used + GAP + widths[index] > width:
            yield part
            part, used = [0], widths[0]
        part.append(index)
        used += GAP + widths[index]
    yield part


def _block(
    header: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int], part: Sequence[int]
) -> Iterator[str]:
    for cells in (header, *rows):
        padded = (cells[i] + " " * (widths[i] - cell_len(cells[i])) for i in part)
        yield (" " * GAP).join(padded).rstrip()


def _stacked(header: Sequence[str], row: Sequence[str], width: int) -> Iterator[str]:
    for index, (name, cell) in enumerate(zip(header, row, strict=True)):
        indent = " " * INDENT if index else ""
        yield from _broken(f"{indent}{name} {cell}".rstrip(), width, indent + " " * INDENT)


def _broken(line: str, width: int, indent: str) -> Iterator[str]:
    """A line in parts that fit, broken at spaces."""
    if cell_len(line) <= width:
        yield line
        return
    current = line[: len(line) - len(line.lstrip(" "))]
    is_empty = True
    for word in line.split():
        if not is_empty and cell_len(current) + 1 + cell_len(word) > width:
            yield current
            current, is_empty = indent, True
        current += word if is_empty else f" {word}"
        is_empty = False
    yield current
