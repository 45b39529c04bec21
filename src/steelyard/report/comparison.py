"""A comparison of systems as tables, and as one HTML file that loads nothing and runs nothing."""

from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.records import Comparison
from steelyard.records.comparison import Row
from steelyard.records.files import write_whole
from steelyard.report.figure import Figure, Numbers, data, figure, ranked_intervals
from steelyard.report.shell import filled
from steelyard.report.svg import FOR
from steelyard.report.table import Table
from steelyard.report.wording import clean_line, interval, number, several

if TYPE_CHECKING:
    import polars as pl

_WORDS = {"confirmed": "beats random", "refuted": "worse than random", "inconclusive": "not told apart"}
_POINTS = 60  # of a course: more cannot be told apart in the drawing


def frame(found: Comparison) -> "pl.DataFrame":
    """One row per system and task: its effect and cost, or why there is none.

    Returns:
        Columns ``task``, ``system``, ``role``, ``effect``, ``low``, ``high``, ``unit``, ``p_value``, ``verdict``,
        ``measured``, ``plan``, ``effective`` (number of examples), ``fits``, ``gradients``, ``seconds`` (of making the
        plan), ``notes`` and ``problem``.
    """
    import polars as pl

    texts = ("task", "system", "role", "unit", "verdict", "plan", "notes", "problem")
    names = ("effect", "low", "high", "p_value", "measured", "effective", "gradients", "seconds")
    schema = {name: pl.String for name in texts} | {name: pl.Float64 for name in names} | {"fits": pl.Int64}
    rows = [
        {
            "task": row.task,
            "system": row.system,
            "role": row.role,
            "unit": found.tasks[row.task]["unit"],
            "plan": row.does,
            "notes": "; ".join(row.notes),
            "problem": row.problem,
            "effective": float(row.effective),
            "fits": row.cost.fits,
            "gradients": float(row.cost.gradients),
            "seconds": float(row.cost.seconds),
            **_effect(row),
        }
        for row in found.rows
    ]
    order = ("task", "system", "role", "effect", "low", "high", "unit", "p_value", "verdict", "measured")
    last = ("plan", "effective", "fits", "gradients", "seconds", "notes", "problem")
    return pl.DataFrame(rows, schema=schema).select(*order, *last)


def by_task(found: Comparison, task: str) -> Table:
    """Every system on one task, best effect first; random is always among them."""
    facts = found.tasks[task]
    head = (
        "System",
        f"Effect ({facts['unit']})",
        "95 %",
        "p",
        "Verdict",
        str(facts["measurement"]).capitalize(),
        "Effective examples",
        "Fits",
        "Gradients",
        "Seconds",
    )
    rows = tuple(
        (
            _name(row.system),
            number(row.effect.estimate),
            interval(row.effect.low, row.effect.high, 2),
            "–" if row.system == "random" else number(row.effect.p_value, 2),
            "random" if row.system == "random" else _WORDS[row.effect.verdict],
            number(row.effect.measured),
            number(row.effective),
            f"{row.cost.fits:,}",
            f"{row.cost.gradients:,.0f}",
            number(row.cost.seconds, 2),
        )
        for row in _ranked(found, task)
        if row.effect is not None
    )
    told = ", ".join(
        f"{name} {clean_line(value, limit=60)}" for name, value in facts.items() if name != "weight"
    )
    return Table(f"{_name(task)}: {told}", head, rows)


def plans(found: Comparison) -> Table:
    """What every plan does, and what is to be known about it."""
    rows = tuple(
        (
            _name(row.task),
            _name(row.system),
            clean_line(row.does, limit=200),
            clean_line("; ".join(row.notes), limit=500),
        )
        for row in found.rows
        if row.effect is not None
    )
    return Table("What every plan does", ("Task", "System", "Plan", "Notes"), rows)


def failures(found: Comparison) -> Table:
    """Systems without an effect and why: those that failed first, then those that do not apply."""
    rows = tuple(
        (
            _name(row.task),
            _name(row.system),
            "failed" if row.applies else "does not apply",
            clean_line(row.problem, limit=400),
            clean_line(row.fix, limit=300),
        )
        for row in sorted(found.rows, key=lambda row: not row.applies)
        if row.effect is None
    )
    return Table("Systems without an effect", ("Task", "System", "", "Why", "What to do"), rows)


def html(found: Comparison, *, path: str | Path = "comparison.html") -> Path:
    """Write the comparison as one HTML file that holds everything, without script or link.

    Returns:
        The path.
    """
    return write_whole(path, render(found))


def render(found: Comparison) -> str:
    """The page as text; the same comparison gives the same page, byte for byte."""
    missing = any(row.effect is None for row in found.rows)
    return filled(
        "comparison.html.j2",
        title=clean_line(found.title, limit=200),
        says=in_words(found),
        tasks=[(by_task(found, task), charts(found, task)) for task in found.tasks],
        costs=plans(found),
        failures=failures(found) if missing else None,
        notes=[clean_line(note, limit=400) for note in found.provenance.notes],
        provenance=_provenance(found),
        measured="",
    )


def in_words(found: Comparison) -> str:
    """The answer in a few sentences: what beats random on which task, and what does not."""
    parts: list[str] = []
    for task in found.tasks:
        rows = [row for row in _ranked(found, task) if row.role == "system" and row.effect is not None]
        said = {
            verdict: [_name(r.system) for r in rows if r.effect and r.effect.verdict == verdict]
            for verdict in _WORDS
        }
        text = f"On {_name(task)}, "
        better = ", ".join(said["confirmed"])
        text += (
            f"{better} {'beats' if len(said['confirmed']) == 1 else 'beat'} random"
            if better
            else "nothing beats random"
        )
        if said["inconclusive"]:
            text += f"; not told apart from random: {', '.join(said['inconclusive'])}"
        if said["refuted"]:
            text += f"; worse than random: {', '.join(said['refuted'])}"
        parts.append(text + ".")
    failed = sum(row.effect is None and row.applies for row in found.rows)
    return " ".join(parts) + (f" {several(failed, 'plan')} failed." if failed else "")


def charts(found: Comparison, task: str) -> tuple[Figure, ...]:
    """Effects with their intervals, and whatever moved while a plan was made."""
    courses = [row for row in found.rows if row.task == task and row.course]
    return (_effects(found, task), *(_course(row) for row in courses))


def _effects(found: Comparison, task: str) -> Figure:
    rows = [row for row in _ranked(found, task) if row.effect is not None]
    points = [
        {
            "name": _name(r.system),
            "kind": r.role,
            "effect": r.effect.estimate,
            "low": r.effect.low,
            "high": r.effect.high,
        }
        for r in rows
        if r.effect is not None
    ]
    unit = found.tasks[task]["unit"]
    title = f"better than random ({unit})"
    drawing, numbers = ranked_intervals(points, ("system", "control"), value="effect", title=title, zero=True)
    best = points[0]
    says = f"{best['name']} has the largest effect, {number(best['effect'])} {unit}; 0 is random."
    return figure(drawing, key=f"effects-{task}", title=f"{_name(task)}: effects", says=says, numbers=numbers)


def _course(row: Row) -> Figure:
    import altair as alt

    length = len(next(iter(row.course.values())))
    shown = sorted({round(k * (length - 1) / max(1, _POINTS - 1)) for k in range(_POINTS)})
    points = [
        {"name": _name(name), "step": step, "weight": values[step]}
        for name, values in row.course.items()
        for step in shown
        if step < length
    ]
    drawing = (
        alt.Chart(data(points))
        .mark_line(color=FOR, strokeWidth=1.5)
        .encode(
            x=alt.X("step:Q", title="step"),
            y=alt.Y("weight:Q", title="weight"),
            row=alt.Row("name:N", title=None).header(labelAngle=0, labelAlign="left", labelLimit=120),
        )
        .properties(height=40)
    )
    last = sorted(((values[-1], name) for name, values in row.course.items()), reverse=True)
    numbers = Numbers(
        ("source", "first", "last"),
        tuple((_name(name), number(row.course[name][0]), number(value)) for value, name in last),
    )
    says = f"{_name(last[0][1])} ends with the largest weight, {number(last[0][0])}."
    title = f"{_name(row.system)}: weights through training"
    return figure(drawing, key=f"course-{row.task}-{row.system}", title=title, says=says, numbers=numbers)


def _ranked(found: Comparison, task: str) -> list[Row]:
    rows = [row for row in found.rows if row.task == task]
    return sorted(rows, key=lambda row: -row.effect.estimate if row.effect is not None else float("inf"))


def _effect(row: Row) -> dict[str, object]:
    if row.effect is None:
        return {}
    effect = row.effect
    return {
        "effect": effect.estimate,
        "low": effect.low,
        "high": effect.high,
        "p_value": effect.p_value,
        "verdict": effect.verdict,
        "measured": effect.measured,
    }


def _name(text: str) -> str:
    return clean_line(text, limit=60)


def _provenance(found: Comparison) -> list[tuple[str, list[tuple[str, str]]]]:
    made = found.provenance
    given = [(_name(name), clean_line(value, limit=300)) for name, value in made.given["systems"].items()]
    given += [(name, clean_line(value)) for name, value in made.given.items() if name != "systems"]
    rest = {"Versions": made.versions, "Seeds": made.seeds, "Checksums": made.checksums}
    groups = [(n, [(_name(k), clean_line(v, limit=80)) for k, v in g.items()]) for n, g in rest.items()]
    return [("Systems and terms as given", given), *groups]
