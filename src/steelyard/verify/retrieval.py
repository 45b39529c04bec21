"""Do the strongest proponents include what is known to be behind a query? Precision, recall, ranks; no fits.

One evidence for every check that asks whether known training examples rank high: the query's class, subclass,
source or shortcut, and planted facts. Each differs only in what is known, and in what is counted.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from steelyard.errors import DataError, SettingError
from steelyard.maths.chance import Chance, permutations, places
from steelyard.maths.power import minimum_detectable, paired
from steelyard.problem import Problem
from steelyard.records import Evidence, Provenance, Scores
from steelyard.records.provenance import versions
from steelyard.run import generator
from steelyard.verify.design import LEVEL, beyond_random, listed

Measure = Literal["precision", "recall", "reciprocal_rank", "average_precision"]

_COLUMNS = 64
_PHRASES = {
    "precision": "precision at {top}",
    "recall": "recall at {top}",
    "reciprocal_rank": "mean reciprocal rank",
    "average_precision": "average precision",
}


@dataclass(frozen=True, eq=False)
class Known:
    """What is known to be behind the queries.

    Attributes:
        queries: Positions of the queries about which something is known.
        rows: For each of them, positions of the training examples behind it; at least one.
        pool: Positions of the training examples that the rows of each query could be confused with; None: all.
        what: In words, for the unit: ``"topic"``.
        note: What was left out; empty if nothing was.
    """

    queries: np.ndarray
    rows: tuple[np.ndarray, ...]
    what: str
    pool: tuple[np.ndarray, ...] | None = None
    note: str = ""


def known(
    problem: Problem, relevant: Sequence[np.ndarray], *, what: str, pool: Sequence[np.ndarray] | None = None
) -> Known:
    """What is known, without the queries behind which no training example stands.

    Args:
        problem: For errors.
        relevant: For every query, positions of the training examples behind it.
        what: In words.
        pool: For every query, the training examples to tell these from; None: all.

    Raises:
        SettingError: If fewer than two queries are left.
    """
    total = len(problem.train)
    pools = [np.arange(total)] * len(relevant) if pool is None else list(pool)
    kept = [q for q, rows in enumerate(relevant) if 0 < len(rows) < len(pools[q])]
    if len(kept) < 2:
        raise SettingError(
            f"{what}: {len(kept)} of {len(relevant)} queries have some training examples behind them, and not all.",
            fix="name a column in which at least two queries agree with some training examples.",
        )
    missing = len(relevant) - len(kept)
    note = (
        f"{missing} of {len(relevant)} queries left out: nothing is known to be behind them"
        if missing
        else ""
    )
    return Known(
        np.array(kept, dtype=np.int64),
        tuple(np.asarray(relevant[q], dtype=np.int64) for q in kept),
        what,
        None if pool is None else tuple(np.asarray(pools[q], dtype=np.int64) for q in kept),
        note,
    )


def retrieval(  # noqa: PLR0913 - what is known, what is counted and under which name, all named
    problem: Problem,
    scores: Scores,
    behind: Known,
    *,
    metric: str,
    measure: Measure,
    top: int = 1,
    given: Mapping[str, Any] | None = None,
) -> Evidence:
    """How high the training examples that are known to be behind a query rank among its proponents.

    The interval is Student's over the queries, of the difference from chance, shifted by chance: it says how the
    estimate may change with other queries. The p-value is exact for random scores: the same statistic after permuting
    the training examples among the rows of the score matrix, everything else kept. An interval over queries alone
    would call it signal when one lucky example leads every query's list.

    Cost: no fit; one sort per query.

    Args:
        problem: Training examples and queries.
        scores: Aligned with the problem.
        behind: What is known.
        metric: Name of the evidence.
        measure: What is counted for each query.
        top: Proponents looked at, for precision and recall.
        given: Further settings, for the provenance.

    Returns:
        Evidence in the measure, at 95 %. Confirmed if p is at most .05 and the interval lies above chance; refuted if
        it ends at or below chance; else inconclusive.

    Raises:
        SettingError: If ``top`` is out of range.
    """
    total = len(problem.train)
    if not 1 <= top < total:
        raise SettingError(
            f"{metric}: top={top} of {total} training examples.",
            fix="give at least one proponent, and fewer than there are examples.",
        )
    values = _values(problem, scores, behind, measure, top)
    chance = _by_chance(values, behind, measure, top=top, total=total)
    random, base = Chance(values[1:].mean(axis=1)), float(chance.mean())
    gap = paired(values[0] - chance, level=LEVEL)
    estimate, p_value = base + gap.estimate, random.p_value(float(values[0].mean()))
    low, high = random.interval(LEVEL)
    verdict = beyond_random(gap.low, gap.high)
    if verdict == "confirmed" and p_value > 1 - LEVEL:
        verdict = "inconclusive"
    seen = max(minimum_detectable(gap.standard_error, gap.freedom, level=LEVEL), high - base)
    names = np.asarray(problem.query.ids)[behind.queries]
    phrase = _PHRASES[measure].format(top=top)
    return Evidence(
        metric=metric,
        subject=scores.method,
        estimate=estimate,
        interval=(max(0.0, base + gap.low), min(1.0, base + gap.high)),
        level=LEVEL,
        unit=f"{phrase} in {behind.what}",
        better="higher",
        control={"estimate": base, "low": low, "high": high},
        p_value=p_value,
        verdict=verdict,
        power=f"With {len(names)} queries this sees {seen:.2g} above chance at 80 % power.",
        table={
            "query_id": listed(names),
            measure: listed(values[0]),
            "chance": listed(chance),
            "known": [len(rows) for rows in behind.rows],
        },
        provenance=provenance_of(
            scores,
            given={"by": metric, "top": top, **(given or {})},
            resolved={"queries": len(names), "random_scores": len(random.draws)},
            note=behind.note,
        ),
    )


def provenance_of(
    scores: Scores, *, given: Mapping[str, Any], resolved: Mapping[str, Any], note: str = ""
) -> Provenance:
    """Provenance of evidence that needed no fit."""
    return replace(
        Provenance(given=given, resolved=resolved, notes=(note,) if note else ()),
        versions=versions(),
        checksums={"train": scores.train_checksum, "query": scores.query_checksum},
        seeds=dict(scores.provenance.seeds),
    )


def _values(
    problem: Problem, scores: Scores, behind: Known, measure: Measure, top: int
) -> Float[np.ndarray, "order query"]:
    """The measure of every query: in the first row for the scores, in the others for permuted ones."""
    draw = generator(problem.seed, "verification", "retrieval", behind.what)
    orders = permutations(len(problem.train), draw)
    found = np.empty((len(orders), len(behind.queries)))
    for place, column in enumerate(_columns(scores, behind.queries)):
        ranks, rows = places(column, draw), behind.rows[place]
        pool = None if behind.pool is None else behind.pool[place]
        ranked = ranks[orders[:, rows]] if pool is None else _within(ranks, orders, rows, pool)
        found[:, place] = _measured(ranked, measure, top)
    return found


def _columns(scores: Scores, queries: np.ndarray) -> Iterator[np.ndarray]:
    # A few columns at a time: the matrix may be a file that is stored row by row.
    for start in range(0, len(queries), _COLUMNS):
        block = np.asarray(scores.values[:, queries[start : start + _COLUMNS]], dtype=np.float64)
        yield from block.T


def _within(
    ranks: np.ndarray, orders: np.ndarray, rows: np.ndarray, pool: np.ndarray
) -> Int[np.ndarray, "order known"]:
    """Ranks among the pool alone."""
    among = np.sort(ranks[orders[:, pool]], axis=1)
    offset = np.arange(len(orders))[:, None] * (len(ranks) + 1)
    places_in = np.searchsorted((among + offset).ravel(), ranks[orders[:, rows]] + offset)
    return places_in - np.arange(len(orders))[:, None] * len(pool) + 1


def _measured(
    ranked: Int[np.ndarray, "order known"], measure: Measure, top: int
) -> Float[np.ndarray, " order"]:
    if measure == "precision":
        return (ranked <= top).sum(axis=1) / top
    if measure == "recall":
        return (ranked <= top).sum(axis=1) / ranked.shape[1]
    if measure == "reciprocal_rank":
        return 1.0 / ranked.min(axis=1)
    return (np.arange(1, ranked.shape[1] + 1) / np.sort(ranked, axis=1)).mean(axis=1)


def _by_chance(
    values: np.ndarray, behind: Known, measure: Measure, *, top: int, total: int
) -> Float[np.ndarray, " query"]:
    """Expectation of every query's measure under random scores: exact where it is simple, else the mean of draws."""
    pools = np.array([total] * len(behind.rows) if behind.pool is None else [len(p) for p in behind.pool])
    if measure == "precision":
        return np.array([len(rows) for rows in behind.rows]) / pools
    if measure == "recall":
        return np.minimum(1.0, top / pools)
    return values[1:].mean(axis=0)


def same_value(problem: Problem, column: str) -> list[np.ndarray]:
    """For every query, the training examples with the same value in a column of both sides.

    Raises:
        DataError: If a side lacks the column.
    """
    theirs = np.asarray(problem.train.column(column)[:]).astype(str)
    wanted = np.asarray(problem.query.column(column)[:]).astype(str)
    groups = {value: np.flatnonzero(theirs == value) for value in np.unique(wanted)}
    return [groups[value] for value in wanted]


def linked(problem: Problem, column: str) -> list[np.ndarray]:
    """For every query, the training examples that a column of the queries points at.

    An entry is the id of a training example, several ids (a list, or text with commas or spaces between them), or the
    value that training examples have in their column of the same name.

    Raises:
        DataError: If the queries lack the column, or the entries are no ids and training examples lack it too.
    """
    entries = problem.query.column(column)[:]
    place = {str(name): row for row, name in enumerate(problem.train.ids)}
    split = [_names(entry) for entry in entries]
    if any(name in place for names in split for name in names):
        return [
            np.unique([place[name] for name in names if name in place]).astype(np.int64) for names in split
        ]
    if column not in problem.train.columns:
        raise DataError(
            f"{problem.query.source}: column {column!r} holds no id of a training example, and the training examples "
            f"({problem.train.source}) have no column of that name.",
            fix="write ids of training examples into the queries' column, or give both sides a column of groups.",
        )
    return same_value(problem, column)


def _names(entry: Any) -> list[str]:
    if isinstance(entry, list | tuple | np.ndarray):
        return [str(one) for one in entry]
    text = str(entry)
    return [text, *(part for part in text.replace(",", " ").split() if part != text)]
