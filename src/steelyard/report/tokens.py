"""Scores taken apart, as the page shows them: tokens marked by what they did, parts of a network in a table."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from steelyard.records import PartScores, Report, TokenScores
from steelyard.report.table import Table
from steelyard.report.wording import clean, clean_line, number, percent, several, signed

_LEVELS = 4
_FAINTEST = 0.08  # of the largest value of the query; what is below is not marked
_SHOWN = 24
_CHARACTERS = 1200


@dataclass(frozen=True)
class Piece:
    """A stretch of text with one mark.

    Attributes:
        text: Cleaned, to be escaped by the template.
        mark: Class names such as ``"helps l3"``; empty where nothing is marked.
        says: What the mark means, for pointing devices.
    """

    text: str
    mark: str = ""
    says: str = ""


def tokens_of(report: Report) -> TokenScores | None:
    """The first scores by token of the report, if it has any."""
    return next((split for split in report.splits if isinstance(split, TokenScores)), None)


def largest(report: Report, query: str, examples: Iterable[str]) -> float:
    """The largest absolute value of a token among some examples of one query: what full colour stands for."""
    found = tokens_of(report)
    if found is None:
        return 0.0
    pairs = (found.of(example, query) for example in examples)
    return max((float(np.abs(pair[0]).max(initial=0.0)) for pair in pairs if pair is not None), default=0.0)


def highlighted(report: Report, query: str, example: str, size: float) -> tuple[Piece, ...]:
    """The text of a training example in pieces, each marked by the sign and size of its value.

    Characters that no token stands for are not marked; tokens that share characters, as the bytes of one
    character do, are added up.

    Args:
        report: With scores by token, or the result is empty.
        query: Id of the query.
        example: Id of the training example.
        size: The value of full colour.
    """
    found = tokens_of(report)
    pair = None if found is None else found.of(example, query)
    if found is None or pair is None or example not in found.texts:
        return ()
    values, spans = pair
    text = found.texts[example]
    pieces: list[Piece] = []
    end = 0
    for start, stop, value in _merged(values, spans):
        if end >= _CHARACTERS:
            break
        if start > end:
            pieces.append(Piece(clean(text[end:start])))
        pieces.append(_piece(text[start:stop], value, size))
        end = stop
    left = len(text) - end
    if 0 < left <= _CHARACTERS // 10:
        pieces.append(Piece(clean(text[end:])))
    elif left > 0:
        pieces.append(Piece(f" … {left:,} more characters"))
    return tuple(pieces)


def _merged(
    values: Float[np.ndarray, " token"], spans: Int[np.ndarray, "token 2"]
) -> list[tuple[int, int, float]]:
    """Stretches of characters with the sum of the values of the tokens that stand for them, in order."""
    merged: list[tuple[int, int, float]] = []
    for (start, stop), value in zip(spans.tolist(), values.tolist(), strict=True):
        if stop <= start:  # a special token stands for no characters
            continue
        if merged and start < merged[-1][1]:
            first, last, before = merged[-1]
            merged[-1] = (first, max(last, stop), before + value)
        else:
            merged.append((start, stop, value))
    return merged


def _piece(text: str, value: float, size: float) -> Piece:
    share = abs(value) / size if size else 0.0
    if share < _FAINTEST:
        return Piece(clean(text))
    level = min(_LEVELS, max(1, math.ceil(share * _LEVELS)))
    return Piece(clean(text), f"{'helps' if value > 0 else 'harms'} l{level}", signed(value))


def legend(report: Report) -> tuple[str, str] | None:
    """What marked tokens mean: the word for positive and for negative; None where no tokens are marked."""
    found = tokens_of(report)
    if found is None:
        return None
    if found.unit == "rank":
        return "makes the example more similar to the query", "less similar"
    worse = "lower" if found.measurement.lower_is_better else "higher"
    name = clean_line(found.measurement.name.replace("_", " "), limit=60)
    return f"learning at this token made the {name} of the query {worse}, which helps", "harms"


def part_tables(report: Report) -> tuple[Table, ...]:
    """One table per split by parts of the network: what each did over the pairs that are shown."""
    return tuple(_part_table(split) for split in report.splits if isinstance(split, PartScores))


def _part_table(split: PartScores) -> Table:
    names = [*split.parts, "everything else"]
    values = np.concatenate([split.values, split.rest[:, None]], axis=1)
    helped, harmed = np.maximum(values, 0).sum(axis=0), np.minimum(values, 0).sum(axis=0)
    size = helped - harmed
    order = np.argsort(-size, kind="stable")
    order = order[size[order] > 0]
    total = float(size.sum()) or 1.0
    rows = tuple(
        (
            clean_line(names[i], limit=100),
            percent(float(size[i]) / total, 1),
            signed(float(helped[i])),
            number(float(harmed[i])),
        )
        for i in order[:_SHOWN]
    )
    caption = (
        f"By {split.by}, summed over {several(len(split), 'pair')} shown: {clean_line(split.method, limit=120)} in "
        f"{clean_line(split.unit, limit=40)}"
    )
    head = (split.by.capitalize(), "Share of all", "Helped", "Harmed")
    return Table(caption, head, rows, hidden=max(0, len(order) - _SHOWN))
