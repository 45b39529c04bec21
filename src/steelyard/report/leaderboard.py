"""The leaderboard as tables, and as one HTML file that loads nothing and runs nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steelyard.records import Evidence, Leaderboard
from steelyard.records.files import write_whole
from steelyard.records.leaderboard import Cell, Standing
from steelyard.report.figure import Figure, figure, ranked_intervals
from steelyard.report.shell import filled
from steelyard.report.table import Table
from steelyard.report.wording import clean_line, interval, metric, number, several

if TYPE_CHECKING:
    import polars as pl

_SIGNS = {"confirmed": "✓", "refuted": "✗", "inconclusive": "?"}


def frame(board: Leaderboard) -> "pl.DataFrame":
    """One row per cell: what was found, or why nothing was.

    Returns:
        Columns ``task``, ``method``, ``metric``, ``estimate``, ``low``, ``high``, ``unit``, ``control``, ``p_value``,
        ``verdict``, ``fits``, ``seconds`` (of the verification) and ``problem``. Failed cells have nulls, never
        numbers.
    """
    import polars as pl

    texts = ("task", "method", "metric", "unit", "verdict", "problem")
    names = ("estimate", "low", "high", "control", "p_value", "seconds")
    schema = {name: pl.String for name in texts} | {name: pl.Float64 for name in names} | {"fits": pl.Int64}
    rows = [
        {"task": cell.task, "method": cell.method, "metric": cell.metric, "problem": cell.problem}
        | _facts(cell.evidence)
        for cell in board.cells
    ]
    order = ("task", "method", "metric", "estimate", "low", "high", "unit", "control", "p_value", "verdict")
    return pl.DataFrame(rows, schema=schema).select(*order, "fits", "seconds", "problem")


def tables(board: Leaderboard) -> tuple[Table, ...]:
    """The standings, then every task with its metrics, then what it cost and what failed."""
    return (
        standings(board),
        *(by_task(board, task) for task in board.tasks),
        costs(board),
        *([failures(board)] if any(cell.evidence is None for cell in board.cells) else []),
    )


def standings(board: Leaderboard) -> Table:
    """Methods by their rating over all tasks."""
    head = ("Method", "Role", "Elo", "95 %", *map(_name, board.tasks), "Games", "Failed")
    by_name = {task: {s.method: s for s in found} for task, found in board.leagues.items()}
    rows = tuple(
        (
            _name(s.method),
            s.role,
            _rating(s.rating) if s.games else "–",
            f"{_rating(s.low)} to {_rating(s.high)}" if s.games else "–",
            *(_on(by_name[task].get(s.method)) for task in board.tasks),
            f"{s.games}",
            f"{s.failures}",
        )
        for s in board.standings
    )
    return Table("Elo over all tasks, and on each", head, rows)


def by_task(board: Leaderboard, task: str) -> Table:
    """Every method on one task: estimates by metric, best rating first."""
    found = {(cell.method, cell.metric): cell for cell in board.cells if cell.task == task}
    spent = {one.method: one.cost.seconds for one in board.scored if one.task == task}
    head = ("Method", "Elo", *map(metric, board.metrics), "Scoring")
    rows = tuple(
        (
            _name(s.method),
            _on(s),
            *(_cell(found.get((s.method, name))) for name in board.metrics),
            f"{number(spent.get(s.method, 0.0), 2)} s",
        )
        for s in board.leagues[task]
    )
    facts = ", ".join(f"{name} {clean_line(value, limit=60)}" for name, value in board.tasks[task].items())
    return Table(f"{_name(task)}: {facts}", head, rows)


def costs(board: Leaderboard) -> Table:
    """What every cell took beyond what other cells had made before."""
    rows: list[tuple[str, ...]] = [
        (_name(one.task), _name(one.method), "scoring", *_cost(one.cost.fits, one.cost.seconds))
        for one in board.scored
    ]
    rows += [
        (
            _name(cell.task),
            _name(cell.method),
            metric(cell.metric),
            *_cost(cell.evidence.provenance.cost.fits, cell.evidence.provenance.cost.seconds),
        )
        for cell in board.cells
        if cell.evidence is not None
    ]
    whole = board.provenance.cost
    rows.append(("Everything", "", "", *_cost(whole.fits, whole.seconds)))
    head = ("Task", "Method", "For", "Fits", "Seconds")
    return Table(
        "Cost of each cell; fits that methods share count where they were made first", head, tuple(rows)
    )


def failures(board: Leaderboard) -> Table:
    """Cells without a number and why: those that failed first, then those that do not apply."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for c in sorted(board.cells, key=lambda cell: not cell.applies):
        if c.evidence is None:
            what = "failed" if c.applies else "does not apply"
            key = (
                _name(c.task),
                _name(c.method),
                what,
                clean_line(c.problem, limit=400),
                clean_line(c.fix, limit=300),
            )
            groups.setdefault(key, []).append(metric(c.metric))
    rows = tuple((*key[:3], ", ".join(metrics), *key[3:]) for key, metrics in groups.items())
    return Table("Cells without a number", ("Task", "Method", "", "Metrics", "Why", "What to do"), rows)


def html(board: Leaderboard, *, path: str | Path = "leaderboard.html") -> Path:
    """Write the leaderboard as one HTML file that holds everything, without script or link.

    Returns:
        The path.
    """
    return write_whole(path, render(board))


def render(board: Leaderboard) -> str:
    """The page as text; the same leaderboard gives the same page, byte for byte."""
    missing = any(cell.evidence is None for cell in board.cells)
    return filled(
        "leaderboard.html.j2",
        title=clean_line(board.title, limit=200),
        says=in_words(board),
        charts=(ratings_chart(board.standings),) if any(s.games for s in board.standings) else (),
        standings=standings(board),
        tasks=[by_task(board, task) for task in board.tasks],
        costs=costs(board),
        failures=failures(board) if missing else None,
        notes=[clean_line(note, limit=400) for note in board.provenance.notes],
        provenance=_provenance(board),
        measured="",
    )


def in_words(board: Leaderboard) -> str:
    """The answer in a few sentences; a lead within the intervals is called that."""
    played = [s for s in board.standings if s.games]
    if not played:
        return "No cell has a number: see what failed."
    best, failed = played[0], _failed(board)
    text = (
        f"{_name(best.method)} has the highest rating, {_rating(best.rating)} "
        f"({_rating(best.low)} to {_rating(best.high)}), over {several(len(board.tasks), 'task')} and "
        f"{several(len(board.metrics), 'metric')}."
    )
    level = [_name(s.method) for s in played[1:] if s.high >= best.low]
    if level:
        text += f" Its interval overlaps with {', '.join(level[:4])}" + (
            f" and {len(level) - 4} more." if len(level) > 4 else "."
        )
    if best.role == "baseline":
        text += " It is a baseline: no method asked for does better."
    below = [_name(s.method) for s in played if s.role == "method" and _below_random(s, played)]
    if below:
        text += f" Rated below random scores: {', '.join(below)}."
    return text + (f" {several(len(failed), 'cell')} failed." if failed else "")


def ratings_chart(found: Sequence[Standing]) -> Figure:
    """Ratings with their intervals, best first; baselines in another colour and shape."""
    shown = [s for s in found if s.games]
    points = [
        {"name": _name(s.method), "kind": s.role, "rating": s.rating, "low": s.low, "high": s.high}
        for s in shown
    ]
    drawing, numbers = ranked_intervals(
        points, ("method", "baseline"), value="rating", title="Elo rating", shown=_rating
    )
    says = f"{_name(shown[0].method)} stands first with {_rating(shown[0].rating)}; 1500 is the mean of all."
    return figure(drawing, key="ratings", title="Ratings over all tasks", says=says, numbers=numbers)


def _below_random(standing: Standing, played: Sequence[Standing]) -> bool:
    random = next((s for s in played if s.method == "random"), None)
    return random is not None and standing.rating < random.rating


def _failed(board: Leaderboard) -> list[Cell]:
    return [cell for cell in board.cells if cell.evidence is None and cell.applies]


def _facts(evidence: Evidence | None) -> dict[str, object]:
    if evidence is None:
        return {}
    return {
        "estimate": evidence.estimate,
        "low": evidence.interval[0],
        "high": evidence.interval[1],
        "unit": evidence.unit,
        "control": evidence.control.get("estimate"),
        "p_value": evidence.p_value,
        "verdict": evidence.verdict,
        "fits": evidence.provenance.cost.fits,
        "seconds": float(evidence.provenance.cost.seconds),
    }


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    if cell.evidence is None:
        return "failed" if cell.applies else "–"
    found = cell.evidence
    return f"{_SIGNS[found.verdict]} {number(found.estimate)} ({interval(*found.interval, 2)})"


def _on(standing: Standing | None) -> str:
    return _rating(standing.rating) if standing is not None and standing.games else "–"


def _rating(value: float) -> str:
    return f"{value:.0f}"


def _cost(fits: int, seconds: float | int) -> tuple[str, str]:
    return f"{fits:,}", number(seconds, 2)


def _name(text: str) -> str:
    return clean_line(text, limit=60)


def _provenance(board: Leaderboard) -> list[tuple[str, list[tuple[str, str]]]]:
    found = board.provenance
    given = [(_name(name), clean_line(value, limit=300)) for name, value in found.given["methods"].items()]
    given += [
        (f"metric {name}", clean_line(settings or "defaults", limit=300))
        for entry in found.given["metrics"]
        for name, settings in entry.items()
    ]
    rest = (found.versions, found.seeds, found.checksums)
    names = ("Versions", "Seeds", "Checksums")
    groups = [
        (n, [(_name(k), clean_line(v, limit=80)) for k, v in g.items()])
        for n, g in zip(names, rest, strict=True)
    ]
    return [("Methods and metrics as given", given), *groups]
