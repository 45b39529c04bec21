"""Pictures of verification: what was found, always beside its random control."""

from collections.abc import Sequence
from typing import Any

from steelyard.records import Evidence, Report
from steelyard.report.about import about_method, baseline_of, label
from steelyard.report.figure import Figure, Numbers, data, diagonal, figure
from steelyard.report.svg import AGAINST, CONTROL, FOR, RULE
from steelyard.report.wording import clean_line, interval, metric, number, several

_STEP = 18
_COMPARED = ("lds", "mislabel_auc", "removal_curve", "retain_curve")
_CURVES = ("removal_curve", "retain_curve")
_TITLES = {
    "lds": "Linear datamodelling score",
    "removal_curve": "Removing more and more examples",
    "calibration": "Predicted against measured change",
    "mislabel_auc": "Telling wrong labels from right ones",
    "qld": "Training without the strongest proponents",
    "loo": "Leaving single examples out",
    "brittleness": "Predictions flipped by few removals",
    "targeted_edit": "Wrong labels for the strongest proponents",
    "poison": "Wrong labels for what helps",
    "fix_labels": "Right labels for what is suspect",
    "retain_curve": "Training on more and more examples",
    "tail_patch": "One step on the strongest proponents",
}


def metric_title(name: str) -> str:
    """A metric's name as the title of a chart."""
    return _TITLES.get(name) or metric(name)


def of_evidence(report: Report) -> tuple[Figure, ...]:
    """Every picture of the evidence: the plan among random plans, curves, then estimates side by side."""
    drawn: list[Figure] = []
    for i, e in enumerate(about_method(report)):
        if e.metric == "retraining" and {"arm", "improvement"} <= e.table.keys():
            drawn.append(arms(e, key=f"arms-{i}"))
        elif e.metric in _CURVES and {"fraction", "harmful", "helpful", "random"} <= e.table.keys():
            drawn.append(removal(e, key=f"removal-{i}"))
        elif e.metric == "calibration" and {"predicted", "measured"} <= e.table.keys():
            drawn.append(calibration(e, key=f"calibration-{i}"))
    for kind in dict.fromkeys(e.metric for e in report.evidence):
        same = [e for e in report.evidence if e.metric == kind]
        plain = kind not in ("retraining", "calibration", *_CURVES)
        if plain or (kind in _COMPARED and len(same) > 1):
            names = _distinct([_name(e, report) for e in same])
            drawn.append(intervals(same, names, key=f"interval-{len(drawn)}"))
    return tuple(drawn)


def arms(evidence: Evidence, *, key: str) -> Figure:
    """The plan among random plans of equal size: each one's mean improvement on training with everything."""
    import altair as alt

    sums: dict[str, list[float]] = {}
    for arm, gain in zip(evidence.table["arm"], evidence.table["improvement"], strict=True):
        if gain is not None and arm != "full":
            sums.setdefault(str(arm), []).append(float(gain))
    means = {arm: sum(gains) / len(gains) for arm, gains in sums.items()}
    points = [
        {"kind": "the plan" if arm == "plan" else "random plans", "gain": gain} for arm, gain in means.items()
    ]
    kinds = ["the plan", "random plans"]
    unit = clean_line(evidence.unit, limit=40)
    marks = (
        alt.Chart(data(points))
        .mark_point(filled=True, size=90, opacity=0.85)
        .encode(
            x=alt.X("gain:Q", title=f"improvement on training with everything ({unit})"),
            y=alt.Y("kind:N", title=None, sort=kinds),
            color=alt.Color("kind:N", legend=None).scale(domain=kinds, range=[FOR, CONTROL]),
            shape=alt.Shape("kind:N", legend=None).scale(domain=kinds, range=["circle", "diamond"]),
        )
    )
    zero = alt.Chart(data([{"at": 0.0}])).mark_rule(color=CONTROL, strokeDash=[4, 3]).encode(x="at:Q")
    rest = [gain for arm, gain in means.items() if arm != "plan"]
    beaten = sum(means.get("plan", float("nan")) > gain for gain in rest)
    says = (
        f"The plan improves the queries by {number(means.get('plan'))} {unit} on average over the seeds; it is better "
        f"than {beaten} of {several(len(rest), 'random plan')}."
    )
    rows = tuple((clean_line(arm), number(gain)) for arm, gain in means.items())
    drawing = alt.layer(zero, marks).properties(height=90)
    return figure(
        drawing,
        key=key,
        title=f"Retraining: {clean_line(evidence.subject, limit=80)}",
        says=says,
        numbers=Numbers(("arm", "improvement"), rows),
    )


def removal(evidence: Evidence, *, key: str) -> Figure:
    """Improvement of the queries as the most harmful, most helpful or random examples are dropped, or alone are kept.

    Dropping nothing changes nothing, so that those curves begin at 0; training on nothing has no value.
    """
    import altair as alt

    table = evidence.table
    done, zero = ("dropped", (0.0,)) if evidence.metric == "removal_curve" else ("kept", ())
    sides = {f"most {side} {done}": side for side in ("harmful", "helpful")} | {f"random {done}": "random"}
    points = [
        {"part": float(part), "gain": float(gain), "what": what}
        for what, column in sides.items()
        for part, gain in zip((*zero, *table["fraction"]), (*zero, *table[column]), strict=True)
        if gain is not None
    ]
    unit = clean_line(evidence.unit, limit=40)
    domain = list(sides)
    x = alt.X("part:Q", title=f"share of training examples {done}").axis(format="%")
    y = alt.Y("gain:Q", title=f"improvement ({unit})")
    layers: list[alt.Chart] = []
    if {"random_low", "random_high"} <= table.keys():
        band = [
            {"part": float(part), "low": float(low), "high": float(high)}
            for part, low, high in zip(
                (*zero, *table["fraction"]),
                (*zero, *table["random_low"]),
                (*zero, *table["random_high"]),
                strict=True,
            )
            if low is not None and high is not None
        ]
        shade = alt.Chart(data(band)).mark_area(color=RULE, opacity=0.8)
        layers.append(shade.encode(x=x, y=alt.Y("low:Q", title=f"improvement ({unit})"), y2="high:Q"))
    lines = alt.Chart(data(points)).encode(
        x=x,
        y=y,
        color=alt.Color("what:N", title=None)
        .scale(domain=domain, range=[AGAINST, FOR, CONTROL])
        .legend(orient="top", direction="vertical", symbolType="stroke"),
        strokeDash=alt.StrokeDash("what:N", legend=None).scale(domain=domain, range=[[1, 0], [6, 3], [2, 2]]),
    )
    layers.append(lines.mark_line(strokeWidth=2, point=False))
    says = (
        f"The mean gap between harmful and helpful examples {done} is {number(evidence.estimate)} {unit} "
        f"({interval(*evidence.interval)})."
    )
    rows = tuple(
        (f"{float(part):.1%}", *(number(table[column][i]) for column in sides.values()))
        for i, part in enumerate(table["fraction"])
    )
    numbers = Numbers((done, *sides), rows)
    return figure(
        alt.layer(*layers), key=key, title=metric_title(evidence.metric), says=says, numbers=numbers
    )


def calibration(evidence: Evidence, *, key: str) -> Figure:
    """Measured against predicted change of the queries, one point per group of examples that was removed."""
    import altair as alt

    pairs = [
        (float(x), float(y))
        for x, y in zip(evidence.table["predicted"], evidence.table["measured"], strict=True)
        if x is not None and y is not None
    ]
    flat = [value for pair in pairs for value in pair] or [0.0]
    intercept = evidence.control.get("intercept", 0.0)
    ends = [min((x for x, _ in pairs), default=0.0), max((x for x, _ in pairs), default=1.0)]
    fitted = [{"x": x, "y": intercept + evidence.estimate * x} for x in ends]
    dots = alt.Chart(data([{"x": x, "y": y} for x, y in pairs])).mark_point(color=FOR, filled=True, size=45)
    line = alt.Chart(data(fitted)).mark_line(color=FOR, strokeWidth=1.5).encode(x="x:Q", y="y:Q")
    layers = alt.layer(
        diagonal(min(flat), max(flat)),
        line,
        dots.encode(x=alt.X("x:Q", title="predicted change"), y=alt.Y("y:Q", title="measured change")),
    )
    says = (
        f"Slope {number(evidence.estimate)} ({interval(*evidence.interval)}) over {several(len(pairs), 'group')}; "
        "on the dashed line, predictions have the right size."
    )
    rows = tuple((number(x), number(y)) for x, y in pairs)
    numbers = Numbers(("predicted", "measured"), rows)
    return figure(layers, key=key, title=metric_title("calibration"), says=says, numbers=numbers)


def intervals(evidence: Sequence[Evidence], names: Sequence[str], *, key: str) -> Figure:
    """Estimates of one metric side by side, each with its interval and its random control."""
    import altair as alt

    kinds = ["estimate", "random control"]
    points: list[dict[str, Any]] = []
    for one, name in zip(evidence, names, strict=True):
        points.append(_point(name, "estimate", one.estimate, *one.interval))
        if "estimate" in one.control:
            value = one.control["estimate"]
            points.append(
                _point(name, kinds[1], value, one.control.get("low", value), one.control.get("high", value))
            )
    unit = clean_line(evidence[0].unit, limit=40)
    color = alt.Color("kind:N", title=None).scale(domain=kinds, range=[FOR, CONTROL])
    base = alt.Chart(data(points)).encode(
        y=alt.Y("name:N", title=None, sort=list(names)),
        yOffset=alt.YOffset("kind:N").scale(domain=kinds),
        color=color.legend(orient="top", direction="horizontal"),
    )
    shape = alt.Shape("kind:N", title=None).scale(domain=kinds, range=["circle", "diamond"])
    drawing = alt.layer(
        base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=unit), x2="high:Q"),
        base.mark_point(filled=True, opacity=1, size=70).encode(x="value:Q", shape=shape),
    ).properties(height=alt.Step(_STEP))
    best = max(
        range(len(evidence)),
        key=lambda i: evidence[i].estimate * (1 if evidence[i].better == "higher" else -1),
    )
    found = f"{number(evidence[best].estimate)} ({interval(*evidence[best].interval)})"
    says = f"{names[best]} has the best estimate, {found}."
    rows = tuple((p["name"], p["kind"], number(p["value"]), interval(p["low"], p["high"])) for p in points)
    numbers = Numbers(("of", "what", unit, "interval"), rows)
    return figure(drawing, key=key, title=metric_title(evidence[0].metric), says=says, numbers=numbers)


def _name(evidence: Evidence, report: Report) -> str:
    other = baseline_of(evidence, report)
    if other is not None:
        return clean_line(label(other, report), limit=24)
    if evidence.metric in _COMPARED and report.scores:
        return clean_line(label(report.scores[0], report), limit=24)
    return clean_line(evidence.subject, limit=24)


def _distinct(names: list[str]) -> list[str]:
    # Equal names would be drawn on one line as if they were one estimate.
    return [
        name if (n := names[:i].count(name)) == 0 else f"{name} ({n + 1})" for i, name in enumerate(names)
    ]


def _point(name: str, kind: str, value: float, low: float, high: float) -> dict[str, Any]:
    return {"name": name, "kind": kind, "value": value, "low": low, "high": high}
