"""What a page has room for: which queries, which examples of a plan, which proponents and opponents."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from steelyard.records import Examples, Report, Scores
from steelyard.records.top import extremes
from steelyard.report.showing import MEASURED


@dataclass(frozen=True)
class View:
    """How much of a report its page shows, and how examples are drawn.

    Attributes:
        queries: How many queries.
        examples: How many proponents and how many opponents of each.
        plan: How many examples of each plan, and of the most suspect ones.
        show: How examples are drawn; ``"auto"`` decides by the columns.
    """

    queries: int = 12
    examples: int = 5
    plan: int = 24
    show: Literal["auto", "image", "text", "row"] = "auto"


@dataclass(frozen=True)
class Neighbours:
    """The strongest training examples of one query, strongest first, as pairs of id and score.

    Attributes:
        query: Id of the query.
        proponents: Those with the highest positive scores.
        opponents: Those with the lowest negative scores; for ``unit="rank"``, the least similar ones.
    """

    query: str
    proponents: tuple[tuple[str, float], ...]
    opponents: tuple[tuple[str, float], ...]


def shown_pairs(scores: Scores, query: Examples, view: View | None = None) -> list[tuple[str, str]]:
    """Ids of training example and query of every pair that a page shows.

    Args:
        scores: The scores asked for.
        query: The queries, as the report will have them.
        view: How much the page shows.
    """
    view = view or View()
    queries, _ = _chosen(scores, query, view.queries)
    return [
        (example, near.query)
        for near in neighbours(scores, queries, view.examples)
        for example, _ in (*near.proponents, *near.opponents)
    ]


def chosen_queries(report: Report, count: int) -> tuple[tuple[str, ...], str]:
    """The queries to show, and how they were chosen, in words.

    The worst measured ones where the queries carry what was measured (see ``annotate``), else the first.
    """
    return _chosen(report.scores[0], report.query, count)


def _chosen(scores: Scores, examples: Examples, count: int) -> tuple[tuple[str, ...], str]:
    if scores.axis == "example":
        return (), ""
    known = [str(i) for i in scores.query_ids]
    shown = min(count, len(known))
    if MEASURED not in examples.columns:
        return tuple(known[:shown]), f"{shown} of {len(known):,}, in the order given"
    among = set(known)
    at = [i for i, query in enumerate(examples.ids) if str(query) in among]
    values = np.asarray(examples.column(MEASURED)[:], dtype=np.float64)[at]
    worst = np.argsort(-values if scores.measurement.lower_is_better else values, kind="stable")[:shown]
    side = "highest" if scores.measurement.lower_is_better else "lowest"
    name = scores.measurement.name.replace("_", " ")
    return (
        tuple(str(examples.ids[at[i]]) for i in worst),
        f"{shown} of {len(known):,}, those with the {side} measured {name}",
    )


def neighbours(scores: Scores, queries: tuple[str, ...], count: int) -> tuple[Neighbours, ...]:
    """The strongest proponents and opponents of the queries.

    Where scores have a sign, only those of the right sign: a query without harmful examples shows none.
    """
    if not queries:
        return ()
    position = {str(query): j for j, query in enumerate(scores.query_ids)}
    columns = np.array([position[query] for query in queries])
    count = min(count, len(scores.train_ids))
    sides = [
        extremes(((start, block[:, columns]) for start, block in scores.blocks()), count, highest=highest)
        for highest in (True, False)
    ]

    def side(found: int, j: int, sign: float) -> tuple[tuple[str, float], ...]:
        pairs = zip(sides[found].rows[:, j], sides[found].values[:, j], strict=True)
        return tuple(
            (str(scores.train_ids[i]), float(v)) for i, v in pairs if scores.unit == "rank" or v * sign > 0
        )

    return tuple(Neighbours(query, side(0, j, 1.0), side(1, j, -1.0)) for j, query in enumerate(queries))


def suspects(scores: Scores, count: int) -> tuple[tuple[str, float], ...]:
    """The most suspect training examples with their per-example score, most suspect first."""
    values = scores.per_example()
    harm = values if scores.suspect == "high" else -values
    order = np.argsort(-harm, kind="stable")[:count]
    return tuple((str(scores.train_ids[i]), float(values[i])) for i in order)


def shown_ids(report: Report, view: View) -> tuple[list[str], list[str]]:
    """Ids of the training examples and of the queries that a page with this view shows, in order of mention."""
    queries, _ = chosen_queries(report, view.queries)
    trains = [str(i) for plan in report.plans for i in plan.ids[: view.plan]]
    if not report.plans:
        trains += [example for example, _ in suspects(report.scores[0], view.plan)]
    for near in neighbours(report.scores[0], queries, view.examples):
        trains += [example for example, _ in (*near.proponents, *near.opponents)]
    return list(dict.fromkeys(trains)), list(queries)
