"""Which tokens stand for a range of characters, and the part of a query that is measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from steelyard.errors import DataError
from steelyard.records import Examples

Span = tuple[int, int]

SPAN = "span"
"""Column that says which part of a query is measured."""


@dataclass(frozen=True, eq=False)
class Marked:
    """The text of a query and where its tokens stand in it.

    Attributes:
        text: All of it.
        places: First character of each token and the one after its last.
        parts: Character ranges that the loss counts; None: all of it.
        inside: Whether characters are counted from the start of the first part, the completion.
    """

    text: str
    places: Int[np.ndarray, "token 2"]
    parts: tuple[Span, ...] | None
    inside: bool


def within(places: Int[np.ndarray, "token 2"], parts: Sequence[Span]) -> Bool[np.ndarray, " token"]:
    """Tokens that share a character with one of the parts: one that straddles its start belongs to it."""
    begin, end = places[:, 0], places[:, 1]
    inside = [(end > start) & (begin < stop) & (end > begin) for start, stop in parts]
    return np.logical_or.reduce(inside) if inside else np.zeros(len(places), dtype=bool)


def measured_tokens(examples: Examples, queries: Sequence[Marked]) -> Bool[np.ndarray, " token"]:
    """The tokens that the column ``span`` names, all queries one after another.

    A span is a piece of the completion (or of the text, or of what the assistant says), or its first character
    and the one after its last.

    Raises:
        DataError: If a span is not in the tokens of its query; names the query.
    """
    found: list[np.ndarray] = []
    for i, (query, span) in enumerate(zip(queries, list(np.asarray(examples.column(SPAN)[:])), strict=True)):
        place = _place(span, query)
        inside = np.zeros(len(query.places), dtype=bool) if place is None else within(query.places, [place])
        inside[:1] = False  # nothing comes before the first token to predict it from
        if not inside.any():
            raise DataError(
                f"{examples.source}: example {str(examples.ids[i])!r}: the span {span!r} is not in the tokens of its "
                "text.",
                fix="give a piece of the completion (or of the text), or [first, last + 1] characters of it.",
            )
        found.append(inside)
    return np.concatenate(found)


def _place(span: Any, query: Marked) -> Span | None:
    if isinstance(span, str):
        areas = query.parts or ((0, len(query.text)),)
        starts = [query.text.find(span, a, min(b, len(query.text))) for a, b in areas]
        start = next((found for found in starts if found >= 0), -1)
        return (start, start + len(span)) if span and start >= 0 else None
    values = np.asarray(span)
    if values.shape != (2,) or values.dtype.kind not in "iuf":
        return None
    offset = query.parts[0][0] if query.inside and query.parts else 0
    start, stop = int(values[0]) + offset, int(values[1]) + offset
    return (start, stop) if offset <= start < stop <= len(query.text) else None
