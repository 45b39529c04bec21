"""Labels that are changed: what wrong ones on the strongest examples destroy, what right ones on suspects repair.

Three measures of Brophy, Hammoudeh & Lowd (2023), "Adapting and Evaluating Influence-Estimation Methods for
Gradient-Boosted Decision Trees", for any learner; official code: github.com/jjbrophy47/tree_influence. The random sets
beside them and the tests are ours.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from steelyard.collect import pace
from steelyard.collect.players import classes_of
from steelyard.errors import DataError, FitError, SettingError
from steelyard.maths.power import Comparison, minimum_detectable, one_against_many
from steelyard.problem import Problem
from steelyard.records import Cost, Evidence, Scores
from steelyard.run import Run, generator, in_memory
from steelyard.verify.design import LEVEL, Bench, aligned, beyond_random, finish, gains, listed, start

_FEWEST = 3


def targeted_edit(  # noqa: PLR0913 - two about what is edited, two about noise; all named
    problem: Problem,
    scores: Scores,
    *,
    queries: int = 8,
    share: float = 0.05,
    seeds: int = 1,
    controls: int = 8,
    run: Run | None = None,
) -> Evidence:
    """How much worse a query becomes when its strongest proponents are given a wrong label for it, beside random ones.

    For each of some queries its strongest proponents, among the training examples whose label is not that label
    already, are all given one other label: another class, or where labels are numbers the quartile on the other side
    of the median. The learner is refitted, and that query is measured. Random sets drawn from the same examples are
    given the same label; queries with the same other label share them.

    The verdict asks whether the mean over the queries is one further draw from the random sets' means. A random set is
    shared by queries, whose own sets differ, so that the test errs on the side of caution.

    Cost: seeds · (1 + queries + labels · controls) fits, where labels counts the different other labels.

    Args:
        problem: Learner, training examples, queries; both with labels.
        scores: One column per query, in any unit: only their order counts.
        queries: How many to ask about, at most; drawn at random.
        share: Of the training examples, to be edited for a query; above 0 and at most .5.
        seeds: Training seeds per edit, paired.
        controls: Random sets per label.
        run: Where fits are kept; in memory if None.

    Returns:
        Evidence at 95 % in the unit of the measurement; positive = with its proponents edited a query is worse.
        ``control`` is the mean over random sets; the table has one row per query.

    Raises:
        SettingError: If a setting has no meaning, or all labels are the same.
        DataError: If the scores are about other examples.
        FitError: If too few fits succeeded.

    Source: the targeted edit of Brophy et al. (2023). Deviations: all sampled queries, not only those that are
    answered correctly; another class at random, not the second most probable one (with two classes the same); of
    numbers the quartile across the median, not one half and one and a half of the median; one share, not steps of it;
    examples that have the other label already are left out on both sides, so that knowing the class is not enough.
    """
    run = run or in_memory()
    settings = _Settings("targeted_edit", share, seeds, controls, queries)
    size = settings.size(problem)
    scores = aligned(problem, scores, asked="targeted_edit")
    draw = generator(problem.seed, "verification", "targeted_edit")
    chosen = np.sort(draw.permutation(len(problem.query))[:queries])
    labels = problem.train.labels()
    classes = classes_of(problem.train) is not None
    wanted = _other(labels, problem.query.labels()[chosen], draw, classes=classes)
    values, back = np.unique(wanted, return_inverse=True)
    pools = [np.flatnonzero(labels != value) for value in values]
    settings.check_pools(pools, size)
    edits = [
        (pool[np.argsort(-np.asarray(scores.values)[pool, q], kind="stable")[:size]], value)
        for q, value, pool in zip(chosen, wanted, (pools[k] for k in back), strict=True)
    ]
    edits += [
        (draw.choice(pool, size, replace=False), value)
        for value, pool in zip(values, pools, strict=True)
        for _ in range(controls)
    ]
    predicted = seeds * (1 + len(edits))
    pace.predict(problem, run, Cost(fits=predicted))
    bench = start(problem, seeds, run)
    improved, note = _after(bench, [_edited(labels, rows, value) for rows, value in edits])
    worse = -improved.mean(axis=1)[:, chosen]  # NaN where any seed failed
    count = len(chosen)
    own = np.diagonal(worse[:count])
    random = worse[count:].reshape(len(values), controls, count)[back, :, np.arange(count)].T
    found = settings.compared(own, random)
    table = {
        "query_id": listed(np.asarray(problem.query.ids)[chosen]),
        "label_given": listed(wanted),
        "edited": listed(own),
        "random": listed(np.nanmean(random, axis=0)),
    }
    return settings.evidence(bench, scores, found, table, note=note, predicted=predicted)


def poison(
    problem: Problem,
    scores: Scores,
    *,
    share: float = 0.05,
    seeds: int = 1,
    controls: int = 8,
    run: Run | None = None,
) -> Evidence:
    """How much worse the queries become when the most helpful examples get wrong labels, beside random ones.

    The examples that the scores call most helpful for all queries are given labels other than their own at random:
    another class, or where labels are numbers one between the lowest and the highest. Random sets of the same size are
    spoilt alike, and shared by all methods. The verdict asks whether this set is one further random one.

    Cost: seeds · (2 + controls) fits.

    Args:
        problem: Learner, training examples, queries.
        scores: Per query or per example, in any unit: only their order counts.
        share: Of the training examples, to be spoilt; above 0 and at most .5.
        seeds: Training seeds per arm, paired.
        controls: Random sets.
        run: Where fits are kept; in memory if None.

    Returns:
        Evidence at 95 % in the unit of the measurement; positive = with the helpful ones spoilt the queries are worse.
        ``control`` is the mean over random sets; the table has one row per query.

    Raises:
        SettingError: If a setting has no meaning, or all labels are the same.
        DataError: If the scores are about other examples.
        FitError: If too few fits succeeded.

    Source: the poisoning of Brophy et al. (2023). Deviation: only labels are spoilt, which exists for every kind of
    data; the authors also replace the features by their means.
    """
    run = run or in_memory()
    settings = _Settings("poison", share, seeds, controls)
    size = settings.size(problem)
    order = np.argsort(_harm(problem, scores, "poison"), kind="stable")
    draw = generator(problem.seed, "verification", "poison")
    labels, total = problem.train.labels(), len(problem.train)
    sets = [order[:size], *(draw.choice(total, size, replace=False) for _ in range(controls))]
    classes = classes_of(problem.train) is not None
    own = generator(
        problem.seed, "verification", "poison", "scores"
    )  # all methods share the random sets' labels
    draws = [own, *([draw] * controls)]
    spoilt = [
        _edited(labels, rows, _wrong(labels, rows, source, classes=classes))
        for rows, source in zip(sets, draws, strict=True)
    ]
    return _judged(problem, scores, settings, spoilt, run, sign=-1.0)


def fix_labels(  # noqa: PLR0913 - one about the truth, one about what is fixed, two about noise; all named
    problem: Problem,
    scores: Scores,
    *,
    column: str,
    share: float = 0.1,
    seeds: int = 1,
    controls: int = 8,
    run: Run | None = None,
) -> Evidence:
    """How much better the queries become when the most suspect examples get their right labels, beside random ones.

    The examples that the scores call most harmful are looked at, and those whose label is wrong get the right one.
    Random sets of the same size are looked at likewise, and shared by all methods. The verdict asks whether this set is
    one further random one. It is the consequence of what ``mislabel_auc`` counts: not every wrong label matters.

    Cost: seeds · (2 + controls) fits.

    Args:
        problem: Learner, training examples, queries.
        scores: Per query or per example, in any unit: only their order counts.
        column: Of the training examples: the right label of every one.
        share: Of the training examples, to be looked at; above 0 and at most .5.
        seeds: Training seeds per arm, paired.
        controls: Random sets.
        run: Where fits are kept; in memory if None.

    Returns:
        Evidence at 95 % in the unit of the measurement; positive = with the suspects' labels right the queries are
        better. ``control`` is the mean over random sets; the table has one row per query.

    Raises:
        SettingError: If a setting has no meaning.
        DataError: If the scores are about other examples, the column is missing or of another type than the labels, or
            no label is wrong.
        FitError: If too few fits succeeded.

    Source: the fixing of labels of Brophy et al. (2023). Deviation: one share, not a curve.
    """
    run = run or in_memory()
    settings = _Settings("fix_labels", share, seeds, controls)
    size = settings.size(problem)
    labels, right = problem.train.labels(), _right(problem, column)
    order = np.argsort(-_harm(problem, scores, "fix_labels"), kind="stable")
    draw = generator(problem.seed, "verification", "fix_labels")
    sets = [order[:size], *(draw.choice(len(labels), size, replace=False) for _ in range(controls))]
    fixed = [_edited(labels, rows, right[rows]) for rows in sets]
    return _judged(problem, scores, settings, fixed, run, sign=1.0)


@dataclass(frozen=True)
class _Settings:
    """What was asked for."""

    metric: str
    share: float
    seeds: int
    controls: int
    queries: int | None = None

    def size(self, problem: Problem) -> int:
        """How many labels change in an arm."""
        few = self.queries is not None and self.queries < 2
        if not 0 < self.share <= 0.5 or self.controls < _FEWEST or few:
            raise SettingError(
                f"{self.metric}: share={self.share}, controls={self.controls}"
                f"{'' if self.queries is None else f', queries={self.queries}'}.",
                fix=f"give a share above 0 and up to .5, at least {_FEWEST} random sets"
                f"{'' if self.queries is None else ' and two queries'}.",
            )
        if len(np.unique(problem.train.labels())) < 2:
            raise SettingError(
                f"{self.metric}: all training examples have the same label.",
                fix="give examples of two labels.",
            )
        return max(1, round(self.share * len(problem.train)))

    def check_pools(self, pools: Sequence[np.ndarray], size: int) -> None:
        """Refuse edits of more examples than there are to edit."""
        least = min(len(pool) for pool in pools)
        if least < size:
            raise SettingError(
                f"{self.metric}: {size} labels are to be changed, and only {least} examples have another one.",
                fix="give a smaller share.",
            )

    def compared(self, own: np.ndarray, random: np.ndarray) -> tuple[Comparison, float, int]:
        """The own arm against the random ones that could be fitted: their comparison, mean and number."""
        kept = random[np.isfinite(random).all(axis=1)].mean(axis=1)
        if not np.isfinite(own).all() or len(kept) < _FEWEST:
            raise FitError(
                f"{self.metric}: {int(np.isfinite(own).sum())} of {len(own)} fits by the scores and {len(kept)} of "
                f"{len(random)} random ones succeeded.",
                fix="change fewer labels, or repair the recipe.",
            )
        return one_against_many(float(own.mean()), kept, level=LEVEL), float(kept.mean()), len(kept)

    def evidence(  # noqa: PLR0913 - one argument per fact
        self,
        bench: Bench,
        scores: Scores,
        result: tuple[Comparison, float, int],
        table: dict[str, list[Any]],
        *,
        note: str,
        predicted: int,
    ) -> Evidence:
        """What was found, as a record."""
        found, random, controls = result
        unit = bench.problem.learner.measurement.unit
        given = {"by": self.metric, "share": self.share, "seeds": self.seeds, "controls": self.controls}
        asked = {} if self.queries is None else {"queries": self.queries}
        return Evidence(
            metric=self.metric,
            subject=scores.method,
            estimate=random + found.estimate,
            interval=(random + found.low, random + found.high),
            level=LEVEL,
            unit=unit,
            better="higher",
            control={"estimate": random},
            p_value=found.p_value,
            # Without visible noise the interval has no width and says nothing.
            verdict=beyond_random(found.low, found.high) if found.standard_error > 0 else "inconclusive",
            power=_power(found, controls, unit),
            table=table,
            provenance=finish(
                bench,
                given=given | asked,
                resolved={"changed": self.size(bench.problem), "controls_used": controls},
                notes=[note],
                predicted=predicted,
            ),
        )


def _judged(  # noqa: PLR0913 - one argument per fact
    problem: Problem, scores: Scores, settings: _Settings, arms: list[np.ndarray], run: Run, *, sign: float
) -> Evidence:
    """The first arm against the others, over all queries."""
    predicted = settings.seeds * (1 + len(arms))
    pace.predict(problem, run, Cost(fits=predicted))
    bench = start(problem, settings.seeds, run)
    improved, note = _after(bench, arms)
    effect = sign * improved.mean(axis=1)
    table = {
        "query_id": listed(problem.query.ids),
        "by_scores": listed(effect[0]),
        "random": listed(np.nanmean(effect[1:], axis=0)),
    }
    found = settings.compared(effect[0], effect[1:])
    return settings.evidence(bench, scores, found, table, note=note, predicted=predicted)


def _after(bench: Bench, arms: list[np.ndarray]) -> tuple[Float[np.ndarray, "arm seed query"], str]:
    """Gain of every query after training on each set of labels; and a note on failures."""
    problem, train = bench.problem, bench.problem.train
    rows: list[np.ndarray] = []
    notes: list[str] = []
    for labels in arms:
        digest = hashlib.blake2b(f"{train.checksum}|{labels.tolist()}".encode(), digest_size=16).hexdigest()
        changed = train.with_column(train.label or "label", labels, digest)
        values, note = gains(
            bench,
            np.ones((1, len(train))),
            Problem(problem.learner, changed, problem.query, seed=problem.seed),
        )
        rows.append(values[0])
        notes.append(note)
    return np.stack(rows), "; ".join(dict.fromkeys(note for note in notes if note))


def _edited(labels: np.ndarray, rows: Int[np.ndarray, " row"], values: Any) -> Shaped[np.ndarray, " train"]:
    changed = labels.copy()
    changed[rows] = values
    return changed


def _other(labels: np.ndarray, own: np.ndarray, draw: np.random.Generator, *, classes: bool) -> np.ndarray:
    """For every query a label that is wrong for it."""
    if not classes:
        low, middle, high = np.quantile(labels, (0.25, 0.5, 0.75))
        return np.where(own > middle, low, high).astype(np.result_type(labels, np.float64))
    known = np.unique(labels)
    return np.array([draw.choice(known[known != label]) for label in own], dtype=labels.dtype)


def _wrong(labels: np.ndarray, rows: np.ndarray, draw: np.random.Generator, *, classes: bool) -> np.ndarray:
    """For every one of these training examples a label other than its own."""
    if not classes:
        return draw.uniform(labels.min(), labels.max(), size=len(rows))
    known = np.unique(labels)
    return np.array([draw.choice(known[known != label]) for label in labels[rows]], dtype=labels.dtype)


def _right(problem: Problem, column: str) -> np.ndarray:
    labels, right = problem.train.labels(), np.asarray(problem.train.column(column)[:])
    if (labels.dtype.kind in "OUST") != (right.dtype.kind in "OUST") or right.shape != labels.shape:
        raise DataError(
            f"{problem.train.source}: column {column!r} ({right.dtype}) does not hold labels like those of "
            f"{problem.train.label!r} ({labels.dtype}).",
            fix="name the column that has the right label of every training example.",
        )
    if bool((labels == right).all()):
        raise DataError(
            f"{problem.train.source}: by column {column!r} no label is wrong, so that there is nothing to fix.",
            fix="verify this on training examples with known wrong labels.",
        )
    return right


def _harm(problem: Problem, scores: Scores, metric: str) -> Float[np.ndarray, " train"]:
    if scores.axis == "pair":
        return aligned(problem, scores, asked=metric).harm()
    scores.check_finite()
    harm = np.empty(len(problem.train))
    harm[problem.train.positions(scores.train_ids)] = scores.harm()
    return harm


def _power(found: Comparison, controls: int, unit: str) -> str:
    if found.standard_error == 0:
        return "The random sets all came out the same: noise cannot be measured; use a finer measurement."
    seen = minimum_detectable(found.standard_error, found.freedom, level=LEVEL)
    return f"With {controls} random sets this sees {seen:.2g} {unit} beyond them at 80 % power."
