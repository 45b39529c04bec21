"""From a method to a record: shards of training rows, each kept in the run folder, and complete provenance.

A method says what it prepares once and how it scores a slice of training rows. Everything around that is
here and only here: checks, predicted cost, resumable shards, blocks of queries, finite check, provenance.
"""

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from steelyard.collect import pace
from steelyard.errors import NumericsError, SettingError, ShapeError
from steelyard.problem import Problem
from steelyard.records import Cost, Provenance, Scores
from steelyard.records.provenance import versions
from steelyard.records.top import Extremes, extremes, merge, top_frame
from steelyard.run import Run, in_memory
from steelyard.score.method import HoldsQueries as HoldsQueries
from steelyard.score.method import Method as Method
from steelyard.score.method import MethodCard as MethodCard
from steelyard.score.method import Multiplies as Multiplies
from steelyard.score.method import PairMethod as PairMethod
from steelyard.score.method import Predicts as Predicts
from steelyard.score.method import Resolves as Resolves

if TYPE_CHECKING:
    import polars as pl

_SHARD_BYTES = 32 * 2**20
_MIN_ROWS = 64
_KEPT_ROWS = 256
_KEPT_SHARDS = 32
_QUERY_BLOCK = _SHARD_BYTES // (4 * _MIN_ROWS)


@dataclass(frozen=True)
class Started:
    """Where the run stood when a method began: its cost is the difference.

    Attributes:
        cost: The run's cost meter before the method.
        notes: What the learner's checks handled.
        predicted: Predicted cost, where the method predicts.
    """

    cost: Cost
    notes: tuple[str, ...] = ()
    predicted: Cost | None = None


def begin(method: object, problem: Problem, run: Run) -> Started:
    """Check the problem and tell the predicted cost, before any work.

    Raises:
        SteelyardError: Whatever the learner's checks find.
    """
    notes = problem.learner.check(problem.train, problem.query)
    predicted = None
    if isinstance(method, Predicts):
        values = 4 * len(problem.train) * len(problem.query)
        asked = method.predict(problem)
        # Shards and the assembled matrix; in memory, the matrix alone.
        kept = 0 if run.folder is None else 2 * values
        products = method.products(problem) if isinstance(method, Multiplies) else None
        predicted = pace.predict(
            problem, run, replace(asked, disk_bytes=kept, peak_bytes=values), products=products
        )
    return Started(run.cost, notes, predicted)


def score_pairs(
    method: PairMethod, problem: Problem, run: Run | None = None, *, shard: int | None = None
) -> Scores:
    """Scores of every training example for every query, shard by shard.

    Each shard of training rows is kept in the run folder as it is finished; after a kill, the same call
    continues with the first shard that is missing and gives the same bits, because the bounds of the shards
    depend on the number of rows and queries alone. If there are more queries than ``HoldsQueries`` or 131,072
    allow, the method prepares once per block of queries; what it keeps about the training side through
    ``run.keep`` is not repeated in a run folder, and is repeated once per block without one.

    Cost: that of the method, plus one write and one read of the score matrix in a run folder.

    Args:
        method: What to score with.
        problem: Learner, training examples, queries.
        run: Where shards are kept; nowhere if None.
        shard: Training rows per shard; chosen from 32 MiB of scores if None.

    Raises:
        NumericsError: If a score is not finite, naming example and query.
        ShapeError: If the method returns another number of rows or queries than it was asked for.
    """
    run = run or in_memory()
    started = begin(method, problem, run)
    shape = (len(problem.train), len(problem.query))
    values: np.ndarray | None = None
    resolved: dict[str, Any] = {}
    blocks = _query_blocks(method, problem)
    with run.progress(type(method).__name__, shape[0] * len(blocks)) as progress:
        for columns in blocks:
            work = _Work(method, _with_queries(problem, columns), run)
            for rows, part, kept in work.shards(shard):
                if values is None:
                    values = run.matrix(f"{work.key}/values", shape, part.dtype)
                values[rows, columns] = part
                progress.advance(len(part), kept=kept)
            resolved |= work.resolved()
    return make_scores(
        method,
        problem,
        np.zeros(shape) if values is None else values,
        run,
        unit=method.unit(problem),
        resolved=resolved,
        started=started,
    ).check_finite()


def score_examples(
    method: PairMethod,
    problem: Problem,
    run: Run | None = None,
    *,
    about: str = "self",
    suspect: Literal["low", "high"] = "high",
    shard: int | None = None,
) -> Scores:
    """Scores of every training example by itself, in resumable shards.

    Args:
        method: Its ``score`` returns one column.
        problem: Learner and training examples; the queries only matter to methods that read them.
        run: Where shards are kept; nowhere if None.
        about: What the one column is about: ``"self"``, ``"all queries"``.
        suspect: Which end of the scores points at harmful or atypical examples.
        shard: Training rows per shard; chosen from 32 MiB of scores if None.

    Raises:
        NumericsError: If a score is not finite, naming the example.
        ShapeError: If the method returns anything but one column.
    """
    run = run or in_memory()
    started = begin(method, problem, run)
    work = _Work(method, problem, run, columns=1)
    parts: list[np.ndarray] = []
    with run.progress(type(method).__name__, len(problem.train)) as progress:
        for _, part, kept in work.shards(shard):
            parts.append(part)
            progress.advance(len(part), kept=kept)
    return make_scores(
        method,
        problem,
        np.concatenate(parts),
        run,
        unit=method.unit(problem),
        axis="example",
        query_ids=(about,),
        suspect=suspect,
        resolved=work.resolved(),
        started=started,
    ).check_finite()


def best_of(method: PairMethod, problem: Problem, k: int, run: Run | None = None) -> "pl.DataFrame":
    """The k strongest proponents and opponents of every query, without the matrix of scores.

    Memory holds one shard and 2 k rows per query; a run folder keeps the 2 k rows of every shard, so that a
    killed call resumes.

    Args:
        method: What to score with.
        problem: Learner, training examples, queries.
        k: How many of each side per query; fewer come back if there are fewer training examples.
        run: Where the best rows of each shard are kept; nowhere if None.

    Returns:
        The same table as ``Scores.top(k)``.

    Raises:
        SettingError: If ``k`` is not positive.
        NumericsError: If a score is not finite, naming example and query.
    """
    if k < 1:
        raise SettingError(f"best_of: k is {k}.", fix="ask for at least one example per query.")
    run = run or in_memory()
    begin(method, problem, run)
    work = _Work(method, problem, run)
    nothing = (0, len(problem.query))
    high = low = Extremes(np.zeros(nothing, dtype=np.int64), np.zeros(nothing, dtype=np.float32))
    with run.progress(type(method).__name__, len(problem.train)) as progress:
        for rows in work.bounds():
            key = f"{work.key}/best-{k}-{rows.start:010d}"
            kept = run.has(key)
            ends = run.keep(key, functools.partial(work.best, rows, k))
            top, bottom = (Extremes(ends[f"{end}_rows"], ends[f"{end}_values"]) for end in ("high", "low"))
            high, low = merge(high, top, k, highest=True), merge(low, bottom, k, highest=False)
            progress.advance(rows.stop - rows.start, kept=kept)
    return top_frame(problem.train.ids, problem.query.ids, proponents=high, opponents=low)


def make_scores(  # noqa: PLR0913 - one argument per fact that a record needs beyond method and problem
    method: object,
    problem: Problem,
    values: Float[np.ndarray, "train column"],
    run: Run,
    *,
    unit: str,
    axis: Literal["pair", "example"] = "pair",
    query_ids: Sequence[str] | np.ndarray | None = None,
    train_ids: np.ndarray | None = None,
    suspect: Literal["low", "high"] = "low",
    resolved: Mapping[str, Any] | None = None,
    started: Started | None = None,
) -> Scores:
    """Values with ids, unit, direction and complete provenance.

    Args:
        method: A frozen dataclass: its fields are recorded as given, its repr names the scores.
        problem: What was scored.
        values: Positive = removing the training example makes the measurement worse.
        run: Whose notes and cost are recorded.
        unit: Unit of the values, or ``"rank"``.
        axis: ``"pair"`` for train by query, ``"example"`` for one column about each training example.
        query_ids: Names of the columns, where they are not the queries.
        train_ids: Names of the rows, where they are not the training examples but groups of them.
        suspect: Which end of a per-example score is suspect.
        resolved: What every ``"auto"`` became.
        started: What :func:`begin` returned, so that the cost is this method's alone; else the run's so far.
    """
    given = settings_of(method)
    seeds = {"problem": problem.seed}
    if isinstance(given.get("seed"), int):
        seeds["method"] = given["seed"]
    started = started or Started(Cost())
    return Scores(
        values=values,
        train_ids=problem.train.ids if train_ids is None else train_ids,
        query_ids=problem.query.ids if query_ids is None else np.asarray(query_ids, dtype=str),
        method=repr(method),
        unit=unit,
        measurement=problem.learner.measurement,
        axis=axis,
        suspect=suspect,
        train_checksum=problem.train.checksum,
        query_checksum=problem.query.checksum,
        provenance=Provenance(
            given=given,
            resolved=dict(resolved or {}),
            versions=versions(),
            seeds=seeds,
            checksums=problem.checksums(),
            notes=tuple(dict.fromkeys((*started.notes, *run.notes))),
            cost=_difference(run.cost, started.cost),
            predicted=started.predicted,
        ),
    )


def settings_of(method: object) -> dict[str, Any]:
    """The fields of a method as plain JSON values.

    Raises:
        SettingError: If the method is not a dataclass.
    """
    if not is_dataclass(method):
        raise SettingError(
            f"{type(method).__name__} is not a dataclass, so its settings cannot be recorded.",
            fix="write the method as a frozen dataclass whose fields are its settings.",
        )
    return {item.name: _plain(getattr(method, item.name)) for item in fields(method)}


class _Work:
    """One method at one block of queries, prepared only when the first missing shard asks for it."""

    def __init__(self, method: PairMethod, problem: Problem, run: Run, *, columns: int | None = None) -> None:
        self._method, self._problem, self._run = method, problem, run
        self._columns = len(problem.query) if columns is None else columns
        self._state = functools.cache(functools.partial(method.prepare, problem, run))
        facts = json.dumps([repr(method), problem.checksums(), problem.seed], sort_keys=True)
        self.key = f"score/{type(method).__name__}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"

    def bounds(self, size: int | None = None) -> list[slice]:
        """Slices of training rows; they depend on the number of rows and columns, never on what is kept."""
        total = len(self._problem.train)
        if size is None:
            size = max(_MIN_ROWS, _SHARD_BYTES // (4 * max(1, self._columns)))
            if self._run.folder is not None:
                size = min(size, max(_KEPT_ROWS, -(-total // _KEPT_SHARDS)))
        return [slice(start, min(start + size, total)) for start in range(0, total, size)]

    def shards(self, size: int | None = None) -> Iterator[tuple[slice, np.ndarray, bool]]:
        """Every slice of rows, its ``float["row column"]`` scores, and whether they had been kept."""
        for rows in self.bounds(size):
            key = f"{self.key}/shard-{rows.start:010d}-{rows.stop:010d}"
            kept = self._run.has(key)
            yield rows, self._run.keep(key, functools.partial(self._shard, rows))["values"], kept

    def best(self, rows: slice, k: int) -> dict[str, np.ndarray]:
        """Both ends of one shard, with row positions in the whole training set."""
        values = self._shard(rows)["values"]
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            i, j = bad[0]
            example, query = self._problem.train.ids[rows.start + i], self._problem.query.ids[j]
            raise NumericsError(
                f"{self._method!r}: the score of training example {str(example)!r} for query {str(query)!r} "
                f"is {values[i, j]}.",
                fix="look at this example and query for extreme values, raise the damping, or use float64.",
            )
        block = [(rows.start, values)]
        high, low = extremes(block, k, highest=True), extremes(block, k, highest=False)
        ends = {"high_rows": high.rows, "high_values": high.values}
        return ends | {"low_rows": low.rows, "low_values": low.values}

    def resolved(self) -> Mapping[str, Any]:
        """What every ``"auto"`` became; kept, so that a finished run is read again without preparing."""
        method = self._method
        if not isinstance(method, Resolves):
            return {}

        def compute() -> dict[str, np.ndarray]:
            text = json.dumps(_plain(method.resolved(self._state())))
            return {"json": np.frombuffer(text.encode(), dtype=np.uint8)}

        return json.loads(np.asarray(self._run.keep(f"{self.key}/resolved", compute)["json"]).tobytes())

    def _shard(self, rows: slice) -> dict[str, np.ndarray]:
        values = np.asarray(self._method.score(self._problem, self._state(), rows))
        expected = (rows.stop - rows.start, self._columns)
        if values.shape != expected:
            raise ShapeError(
                f"{self._method!r}: scores of training rows {rows.start} to {rows.stop} have shape "
                f"{values.shape}, expected {expected}.",
                fix="return one row per training row and one column per query from score().",
            )
        return {"values": values}


def _query_blocks(method: PairMethod, problem: Problem) -> list[slice]:
    size = (
        min(method.queries_at_once(problem), _QUERY_BLOCK)
        if isinstance(method, HoldsQueries)
        else _QUERY_BLOCK
    )
    total = len(problem.query)
    return [slice(start, min(start + max(1, size), total)) for start in range(0, total, max(1, size))]


def _with_queries(problem: Problem, columns: slice) -> Problem:
    if columns.stop - columns.start == len(problem.query):
        return problem
    return Problem(problem.learner, problem.train, problem.query.take(columns), seed=problem.seed)


def _difference(after: Cost, before: Cost) -> Cost:
    return Cost(
        gradients=after.gradients - before.gradients,
        fits=after.fits - before.fits,
        seconds=after.seconds - before.seconds,
        peak_bytes=after.peak_bytes,
        disk_bytes=after.disk_bytes - before.disk_bytes,
    )


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return repr(value)
