"""Pictures of the scores: how they are spread, how concentrated, and what they find."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

from steelyard.maths.ranks import detection_curve
from steelyard.records import Report
from steelyard.report.about import label, scores_of
from steelyard.report.figure import Figure, Numbers, data, diagonal, figure
from steelyard.report.svg import AGAINST, FOR, INK
from steelyard.report.wording import clean_line, number, percent

_BINS = 30
_POINTS = 60
_INKS = [FOR, AGAINST, INK]
_DASHES = [[1, 0], [6, 3], [2, 2]]


def of_scores(report: Report) -> tuple[Figure, ...]:
    """Every picture of the scores asked for: two of their spread, one per known fact."""
    scores = report.scores[0]
    values = scores.per_example()
    unit = "mean rank, scaled to [−1, 1]" if scores.unit == "rank" else clean_line(scores.unit, limit=40)
    drawn = [distribution(values, unit=unit, signed=scores.suspect == "low")]
    if scores.unit != "rank":
        drawn.append(concentration(values))
    for name, ids in report.truth.items():
        known = np.isin(scores.train_ids, np.array(ids, dtype=str))
        if known.any():
            drawn.append(recovery(_compared(report), known, name=clean_line(name, limit=40)))
    return tuple(drawn)


def _compared(report: Report) -> dict[str, np.ndarray]:
    # What the plans were made from, what was asked for, and the cheapest rival: harm by label, three at most.
    found = [*(scores_of(plan, report) for plan in report.plans), report.scores[0]]
    found += [scores for scores in report.scores if scores.name == "Loss"]
    named = {clean_line(label(scores, report), limit=24): scores for scores in found}
    return {name: scores.harm() for name, scores in list(named.items())[:3]}


def distribution(values: Float[np.ndarray, " train"], *, unit: str, signed: bool) -> Figure:
    """Histogram of per-example scores.

    Args:
        values: Per-example scores.
        unit: Their unit, for the axis.
        signed: Whether negative scores mean harm, and so are drawn in the colour of harm.
    """
    import altair as alt

    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    # An edge at zero, so that no bar mixes the two signs.
    width = (high - low) / _BINS
    edges = np.arange(np.floor(low / width), np.ceil(high / width) + 1) * width
    counts, edges = np.histogram(values, bins=edges)
    bars = [
        {
            "from": float(a),
            "to": float(b),
            "count": int(n),
            "ink": AGAINST if signed and (a + b) / 2 < 0 else FOR,
        }
        for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
    drawing = (
        alt.Chart(data(bars))
        .mark_bar(binSpacing=1)
        .encode(
            x=alt.X("from:Q", title=f"score per example ({unit})").bin("binned"),
            x2="to:Q",
            y=alt.Y("count:Q", title="examples"),
            color=alt.Color("ink:N", scale=None),
        )
    )
    says = (
        f"{len(values):,} scores from {number(low)} to {number(high)}, median {number(float(np.median(values)))}; "
        f"{percent(float((values < 0).mean()))} are negative."
    )
    rows = tuple((number(b["from"]), number(b["to"]), f"{b['count']:,}") for b in bars)
    numbers = Numbers(("from", "to", "examples"), rows)
    return figure(drawing, key="spread", title="How the scores are spread", says=says, numbers=numbers)


def concentration(values: Float[np.ndarray, " train"]) -> Figure:
    """Which share of all absolute score the strongest examples hold."""
    strength = np.sort(np.abs(values))[::-1]
    shares = np.concatenate([[0.0], np.cumsum(strength) / (float(strength.sum()) or 1.0)])
    at = _even(len(values))
    tenth = float(shares[round(len(values) / 10)])
    says = f"The strongest tenth of the examples holds {percent(tenth)} of the total absolute score."
    return _curves(
        {"scores": [(i / len(values), float(shares[i])) for i in at]},
        axes=("strongest examples, share of all", "share of absolute score"),
        key="concentration",
        title="How concentrated they are",
        says=says,
    )


def recovery(
    harms: Mapping[str, Float[np.ndarray, " train"]], known: Bool[np.ndarray, " train"], *, name: str
) -> Figure:
    """Which share of the examples with a known fault is found when the most suspect are looked at first.

    Args:
        harms: Per method, up to three: higher is more suspect.
        known: Whether the fault is known to be there.
        name: Name of the fault.
    """
    at = np.array(_even(len(known)))
    tenth = np.array([round(len(known) / 10)])
    shares = [f"{percent(float(detection_curve(h, known, tenth)[0]))} by {m}" for m, h in harms.items()]
    curves = {
        method: [
            (int(i) / len(known), float(y)) for i, y in zip(at, detection_curve(harm, known, at), strict=True)
        ]
        for method, harm in harms.items()
    }
    return _curves(
        curves,
        axes=("examples looked at, most suspect first", f"{name} found"),
        key=f"recovery-{name}",
        title=f"Finding the {name} examples",
        says=f"In the most suspect tenth are {', '.join(shares)}; by chance 10\u00a0%.",
    )


def _curves(
    curves: Mapping[str, list[tuple[float, float]]], *, axes: tuple[str, str], key: str, title: str, says: str
) -> Figure:
    import altair as alt

    names = list(curves)
    values = [{"x": x, "y": y, "of": name} for name, points in curves.items() for x, y in points]
    legend = None if len(names) == 1 else alt.Legend(orient="top", title=None, symbolType="stroke")
    line = (
        alt.Chart(data(values))
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("x:Q", title=axes[0]).axis(format="%"),
            y=alt.Y("y:Q", title=axes[1]).axis(format="%"),
            color=alt.Color("of:N", legend=legend).scale(domain=names, range=_INKS[: len(names)]),
            strokeDash=alt.StrokeDash("of:N", legend=None).scale(domain=names, range=_DASHES[: len(names)]),
        )
    )
    rows = tuple((name, percent(x, 1), percent(y, 1)) for name, points in curves.items() for x, y in points)
    numbers = Numbers(("by", *axes), rows)
    return figure(alt.layer(diagonal(), line), key=key, title=title, says=says, numbers=numbers)


def _even(count: int) -> list[int]:
    return sorted({round(i * count / _POINTS) for i in range(_POINTS + 1)})
