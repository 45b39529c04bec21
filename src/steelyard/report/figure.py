"""The one look of all charts: size, type, colours; and the table that goes with each drawing."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steelyard.report.svg import CONTROL, FAINT, INK, RULE, draw

if TYPE_CHECKING:
    import altair as alt

WIDTH, HEIGHT = 330, 170  # of the plotting area: legible on a phone without a second drawing


@dataclass(frozen=True)
class Figure:
    """A drawing and its numbers.

    Attributes:
        title: What is shown.
        says: What is to be seen in it, in words.
        svg: The drawing: an ``svg`` element.
        head: Names of the columns of ``rows``.
        rows: The same numbers as text.
    """

    title: str
    says: str
    svg: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Numbers:
    """The numbers of a drawing, as text."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def figure(
    chart: "alt.Chart | alt.LayerChart | alt.FacetChart", *, key: str, title: str, says: str, numbers: Numbers
) -> Figure:
    """A chart drawn in the look of the report.

    Args:
        chart: The chart, with its own height if it needs one.
        key: Unique in the page.
        title: What is shown.
        says: What is to be seen in it, in words.
        numbers: What is drawn, as a table.
    """
    import altair as alt

    if chart.height is alt.Undefined:
        chart = chart.properties(height=HEIGHT)
    styled = (
        chart.properties(width=WIDTH)
        .configure(
            background="transparent",
            font="sans-serif",
            padding={"left": 14, "right": 8, "top": 5, "bottom": 5},
        )
        .configure_axis(
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
            labelColor=FAINT,
            titleColor=INK,
            gridColor=RULE,
            domainColor=RULE,
            tickColor=RULE,
            tickCount=5,
            labelLimit=150,
            labelOverlap=True,
            labelSeparation=6,
            labelFlush=False,
        )
        .configure_view(stroke=None)
        .configure_legend(labelFontSize=12, labelColor=INK, labelLimit=220)
    )
    safe = "".join(c if c.isalnum() and c.isascii() else "-" for c in key)
    drawn = draw(styled, key=f"chart-{safe}", title=title, description=says)
    return Figure(title, says, drawn, numbers.head, numbers.rows)


def data(points: Sequence[Mapping[str, Any]]) -> "alt.Data":
    """Rows of a chart; those with a number that is not finite are left out, because JSON cannot hold it."""
    import altair as alt

    return alt.Data(values=[dict(row) for row in points if all(map(_drawable, row.values()))])


def _drawable(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def diagonal(low: float = 0.0, high: float = 1.0) -> "alt.Chart":
    """The line of equal x and y, dashed: chance, or a perfect prediction."""
    import altair as alt

    ends = [{"a": low, "b": low}, {"a": high, "b": high}]
    line = alt.Chart(data(ends)).mark_line(color=CONTROL, strokeDash=[4, 3], strokeWidth=1.5)
    return line.encode(x="a:Q", y="b:Q")
