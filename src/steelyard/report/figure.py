"""The one look of all charts: size, type, colours; and the table that goes with each drawing."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steelyard.report.svg import CONTROL, FAINT, FOR, INK, RULE, draw
from steelyard.report.wording import number

if TYPE_CHECKING:
    import altair as alt

WIDTH, HEIGHT = 330, 170  # of the plotting area: legible on a phone without a second drawing
_STEP = 22  # of a name's line


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


def ranked_intervals(
    points: Sequence[Mapping[str, Any]],
    kinds: tuple[str, str],
    *,
    value: str,
    title: str,
    shown: Callable[[float], str] = number,
    zero: bool = False,
) -> tuple["alt.LayerChart | alt.FacetChart", Numbers]:
    """Who stands where: one line per name with its interval, in the order given.

    Args:
        points: Each with ``name``, ``kind``, ``low``, ``high`` and the value.
        kinds: What is asked about, and what it is compared with: in another colour and shape.
        value: Name of the value.
        title: Of the axis.
        shown: How numbers are written.
        zero: Draw a line at 0.

    Returns:
        The drawing and its table.
    """
    import altair as alt

    base = alt.Chart(data(list(points))).encode(
        y=alt.Y("name:N", title=None, sort=[p["name"] for p in points]),
        color=alt.Color("kind:N", title=None)
        .scale(domain=kinds, range=[FOR, CONTROL])
        .legend(orient="top", direction="horizontal"),
    )
    shape = alt.Shape("kind:N", title=None).scale(domain=kinds, range=["circle", "diamond"])
    layers = [
        base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=title).scale(zero=zero), x2="high:Q"),
        base.mark_point(filled=True, opacity=1, size=70).encode(
            x=alt.X(f"{value}:Q", title=title).scale(zero=zero), shape=shape
        ),
    ]
    if zero:
        line = alt.Chart(data([{"zero": 0.0}]))
        layers.insert(0, line.mark_rule(color=CONTROL, strokeDash=[4, 3]).encode(x="zero:Q"))
    rows = tuple((p["name"], shown(p[value]), f"{shown(p['low'])} to {shown(p['high'])}") for p in points)
    return alt.layer(*layers).properties(height=alt.Step(_STEP)), Numbers((kinds[0], value, "95 %"), rows)
