"""Tables as text: aligned, without colour or box drawing, so that they paste into a paper."""

import re
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.run.progress import printable

if TYPE_CHECKING:
    import polars as pl

_GAP = 2
_NARROWEST = 12
_PIECES = re.compile(r"[^(,=]+[(,=]*|[(,=]+")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, width: int | None = None) -> str:
    """Rows under a head, columns aligned, numbers to the right; cells are wrapped to fit the terminal.

    Args:
        head: Names of the columns.
        rows: Cells; control characters in them are shown, not sent.
        width: Characters per line; that of the terminal if None.
    """
    cells = [[printable(str(cell)) for cell in row] for row in (head, *rows)]
    widths = _widths(cells, width or shutil.get_terminal_size((120, 24)).columns)
    right = [all(_is_number(row[i]) for row in cells[1:]) and len(cells) > 1 for i in range(len(head))]
    lines: list[str] = []
    for number, row in enumerate(cells):
        wrapped = [_wrapped(cell, size) for cell, size in zip(row, widths, strict=True)]
        for level in range(max(map(len, wrapped))):
            parts = [part[level] if level < len(part) else "" for part in wrapped]
            fitted = [
                part.rjust(size) if left else part.ljust(size)
                for part, size, left in zip(parts, widths, right, strict=True)
            ]
            lines.append((" " * _GAP).join(fitted).rstrip())
        if number == 0:
            lines.append((" " * _GAP).join("-" * size for size in widths))
    return "\n".join(lines)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table; bars in cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(printable(str(cell)).replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def write_csv(frame: "pl.DataFrame", path: Path) -> None:
    """Write a table; texts that a spreadsheet would run as a formula get an apostrophe in front."""
    import polars as pl

    texts = pl.col(pl.String)
    starts = texts.str.contains(r"^[=+\-@\t\r]")
    frame.with_columns(pl.when(starts).then(pl.lit("'") + texts).otherwise(texts).name.keep()).write_csv(path)


def number(value: float | None) -> str:
    """Four significant digits; nothing for an unknown number."""
    return "" if value is None else f"{value:.4g}"


def _widths(cells: Sequence[Sequence[str]], width: int) -> list[int]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    room = width - _GAP * (len(widths) - 1)
    # Heads are wrapped before cells are.
    columns = list(zip(*cells, strict=True))
    needed = [max(map(len, [*column[0].split(), *column[1:]]), default=0) for column in columns]
    while sum(widths) > room and widths != needed:
        spare = [size - least for size, least in zip(widths, needed, strict=True)]
        widths[spare.index(max(spare))] -= 1
    # Then the widest column gives way first, down to a width at which words still fit.
    while sum(widths) > room and max(widths) > _NARROWEST:
        widths[widths.index(max(widths))] -= 1
    return widths


def _wrapped(cell: str, size: int) -> list[str]:
    """Lines of a cell; the name of a method with its settings is broken between them, not within a word."""
    lines: list[str] = []
    for line in textwrap.wrap(cell, size, break_long_words=False) or [""]:
        begun = ""
        for piece in _PIECES.findall(line) if len(line) > size else [line]:
            if begun and len(begun) + len(piece) > size:
                lines += textwrap.wrap(begun, size)
                begun = ""
            begun += piece
        lines += textwrap.wrap(begun, size) or [""]
    return lines


def _is_number(cell: str) -> bool:
    stripped = cell.replace("\u2212", "-").replace(",", "").rstrip("%").strip()
    if stripped in ("", "\u2013"):
        return True
    try:
        float(stripped)
    except ValueError:
        return False
    return True
