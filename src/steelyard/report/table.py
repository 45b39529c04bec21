"""A table of text, as sections and charts hand it to the template."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table: column names, rows of text, and how many rows were left out."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    hidden: int = 0
