"""All methods on all tasks by all metrics, cell by cell, with ratings; what fails is shown, never a number."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from steelyard.errors import CapabilityError, SettingError, SteelyardError
from steelyard.flow.metrics import METRICS, applies, metric_of, settings_from, with_column
from steelyard.flow.scoring import baseline_names
from steelyard.flow.tasks import Task, checksums_of, facts_of, packed, since, slug, unpacked, within
from steelyard.maths.elo import Ratings, elo, meta_elo
from steelyard.records import Cost, Evidence, Leaderboard, Provenance, Scores
from steelyard.records.leaderboard import Cell, Scored, Standing
from steelyard.records.provenance import versions
from steelyard.run import Run, generator, in_memory
from steelyard.score import by_name
from steelyard.score.method import Method


@dataclass(frozen=True)
class Asked:
    """A metric with its settings.

    Attributes:
        metric: Its name.
        settings: Setting to text or plain value.
    """

    metric: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def leaderboard(
    tasks: Sequence[Task],
    methods: Mapping[str, Method],
    metrics: Sequence[Asked],
    *,
    title: str = "Leaderboard of attribution methods",
    seed: int = 0,
    run: Run | None = None,
) -> Leaderboard:
    """Score every task by every method, verify every score by every metric, and rate the methods.

    The baselines that a task admits (random, loss, class similarity, BM25, embeddings) are always beside. Every
    finished cell is kept: a killed call goes on with the first one that is missing. An error of ours fails its own
    cell, which then has no number and does not count; a killed call that goes on tries it again. What a learner does
    not offer is told apart: such a cell does not apply.

    Ratings: on each task every metric is a game in which all pairs of methods meet, and an estimate that is better by
    more than one standard error of the difference wins: see :mod:`steelyard.maths.elo`. The intervals cover which
    metrics were played and how surely each estimate is known.

    Cost: tasks · methods scores, and the fits of the metrics, of which most are shared by all methods.

    Args:
        tasks: What to compare on.
        methods: Label to method.
        metrics: What to compare by.
        title: Headline.
        seed: Of the ratings' random orders and draws.
        run: Where finished cells are kept; nowhere if None.

    Raises:
        SettingError: If there is no task or metric, or names repeat, or a metric or setting does not exist.
    """
    run = run or in_memory()
    _check(tasks, metrics)
    cells: list[Cell] = []
    scored: list[Scored] = []
    entries = [(task, _players(task, methods)) for task in tasks]
    total = sum(len(players) for _, players in entries) * len(metrics)
    with run.progress("leaderboard", total, unit="cells") as progress:
        for task, players in entries:
            with within(run, task) as inner:
                for name, method in players.items():
                    found, what = _row(task, name, method, metrics, inner)
                    cells += found
                    scored.append(what)
                    progress.advance(len(metrics))
    names = list(dict.fromkeys(cell.method for cell in cells))
    baselines = frozenset(names).difference(methods)
    leagues = {task.name: _rated(task.name, names, metrics, cells, seed) for task in tasks}
    overall = meta_elo(list(leagues.values()), np.array([task.weight for task in tasks], dtype=np.float64))
    return Leaderboard(
        title=title,
        tasks=facts_of(tasks),
        metrics=tuple(dict.fromkeys(one.metric for one in metrics)),
        standings=_standings(overall, names, baselines, cells),
        leagues={
            name: _standings(ratings, names, baselines, [c for c in cells if c.task == name])
            for name, ratings in leagues.items()
        },
        cells=tuple(cells),
        scored=tuple(scored),
        provenance=Provenance(
            given={
                "methods": {name: repr(method) for name, method in methods.items()},
                "metrics": [{one.metric: dict(one.settings)} for one in metrics],
            },
            versions=versions(),
            seeds={"ratings": seed} | {f"task {task.name}": task.problem.seed for task in tasks},
            checksums=checksums_of(tasks),
            notes=run.notes,
            cost=run.cost,
        ),
    )


def merit(evidence: Evidence) -> tuple[float, float]:
    """How good an estimate is, higher being better, and its standard error.

    A slope of predictions is best at 1, not as high as possible.
    """
    error = (evidence.interval[1] - evidence.interval[0]) / (2 * 1.96)
    if evidence.metric == "calibration":
        return -abs(evidence.estimate - 1), error
    return (evidence.estimate if evidence.better == "higher" else -evidence.estimate), error


def _check(tasks: Sequence[Task], metrics: Sequence[Asked]) -> None:
    names = [task.name for task in tasks]
    if not tasks or not metrics or len(set(names)) < len(names):
        raise SettingError(
            f"leaderboard: tasks {names}, metrics {[one.metric for one in metrics]}.",
            fix="give at least one metric, and one task or several with different names.",
        )
    for one in metrics:
        settings_from(one.metric, one.settings)


def _players(task: Task, methods: Mapping[str, Method]) -> dict[str, Method]:
    """Methods by label: the baselines that the task admits, then those asked for."""
    beside = {name: by_name(name) for name in baseline_names(task.problem)}
    known = set(methods.values())
    return {name: method for name, method in beside.items() if method not in known} | dict(methods)


def _row(
    task: Task, name: str, method: Method, metrics: Sequence[Asked], run: Run
) -> tuple[list[Cell], Scored]:
    """All cells of one method on one task."""
    before = run.cost
    try:
        scores = method(task.problem, run)
    except SteelyardError as error:
        return [_empty(task, name, one, error) for one in metrics], Scored(task.name, name, Cost())
    spent = since(before, run.cost)
    cost = Cost(**unpacked(run.keep(f"{_key(task, name)}/scoring", lambda: packed(asdict(spent)))))
    return [_cell(task, name, scores, one, run) for one in metrics], Scored(
        task.name, name, cost, repr(method)
    )


def _cell(task: Task, name: str, scores: Scores, asked: Asked, run: Run) -> Cell:
    if not applies(asked.metric, scores):
        problem = "gives one number per example, none per query"
        return Cell(task.name, name, asked.metric, None, problem, applies=False)
    try:
        settings = settings_from(asked.metric, asked.settings)
        settings = with_column(asked.metric, settings, task.truth)
    except SettingError as error:
        return Cell(task.name, name, asked.metric, None, error.problem, error.fix, applies=False)
    key = f"{_key(task, name)}/{slug(asked.metric, json.dumps(settings, sort_keys=True, default=str))}"

    def compute() -> dict[str, np.ndarray]:
        found = METRICS[asked.metric].ask(task.problem, scores, settings, run)
        return packed(asdict(found))

    try:
        values = unpacked(run.keep(key, compute))
    except SteelyardError as error:
        return _empty(task, name, asked, error)
    return Cell(task.name, name, asked.metric, Evidence.from_json(values))


def _empty(task: Task, name: str, asked: Asked, error: SteelyardError) -> Cell:
    applies = not isinstance(error, CapabilityError)
    return Cell(task.name, name, asked.metric, None, error.problem, error.fix, applies)


def _rated(task: str, names: list[str], metrics: Sequence[Asked], cells: list[Cell], seed: int) -> Ratings:
    """Ratings on one task: one game per metric whose estimate says who is better."""
    games = [name for name in dict.fromkeys(one.metric for one in metrics) if metric_of(name).rated]
    values = np.full((len(games), len(names)), np.nan)
    errors = np.zeros_like(values)
    for cell in cells:
        if cell.task == task and cell.evidence is not None and cell.metric in games:
            place = games.index(cell.metric), names.index(cell.method)
            values[place], errors[place] = merit(cell.evidence)
    return elo(values, errors, draw=generator(seed, "leaderboard", task))


def _standings(
    ratings: Ratings, names: list[str], baselines: frozenset[str], cells: Sequence[Cell]
) -> tuple[Standing, ...]:
    found = [
        Standing(
            name,
            "baseline" if name in baselines else "method",
            float(ratings.estimate[place]),
            float(ratings.low[place]),
            float(ratings.high[place]),
            sum(c.method == name and c.evidence is not None and metric_of(c.metric).rated for c in cells),
            sum(c.method == name and c.evidence is None and c.applies for c in cells),
        )
        for place, name in enumerate(names)
    ]
    # Who played no game stands at the start by definition, which says nothing.
    return tuple(sorted((s for s in found if s.games or s.failures), key=lambda s: (s.games == 0, -s.rating)))


def _key(task: Task, name: str) -> str:
    facts = json.dumps([task.problem.checksums(), task.problem.seed, dict(task.truth)], sort_keys=True)
    return f"leaderboard/{slug(task.name, facts)}/{slug(name, name)}"
