"""Removal and retain curves: the queries without, or with nothing but, the most helpful and most harmful examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from steelyard.collect import pace
from steelyard.errors import FitError, SettingError
from steelyard.maths.power import Comparison, minimum_detectable, one_against_many, student
from steelyard.problem import Problem
from steelyard.records import Cost, Evidence, Scores
from steelyard.records.evidence import Verdict
from steelyard.run import Run, generator, in_memory
from steelyard.verify.design import LEVEL, Bench, aligned, finish, gains, listed, start

_FEWEST = 3


def removal_curve(
    problem: Problem,
    scores: Scores,
    *,
    fractions: Sequence[float] = (0.01, 0.02, 0.05, 0.1),
    seeds: int = 3,
    controls: int = 6,
    run: Run | None = None,
) -> Evidence:
    r"""Gap between dropping the most harmful and the most helpful examples, beside dropping random ones.

    At each fraction the learner is refitted without the examples that the scores call most harmful (the
    queries should improve), without those they call most helpful (the queries should get worse), and along
    ``controls`` random rankings. The estimate is the area between both curves divided by the largest
    fraction: the mean gap over fractions from 0, in the unit of the measurement. Areas use the trapezoid rule
    from (0, 0).

    Under the null hypothesis the ranking is one of the random ones, and both of its ends are random chains of
    nested sets. A chain's area has variance :math:`s^2`, estimated from the m random chains; it holds the
    variance between subsets as well as training noise. The two ends are disjoint, hence correlated by
    :math:`-f/(1-f)` for the largest fraction f where effects add up, so that the gap, whose mean is 0, has

    .. math:: t = \frac{gap}{s \sqrt{2 / (1 - f)}}, \qquad m - 1 \text{ degrees of freedom.}

    Cost: seeds · (1 + fractions · (2 + controls)) fits; a deterministic learner needs one seed.

    Args:
        problem: Learner, training examples, queries.
        scores: Per query or per example, in any unit: only their order counts.
        fractions: Shares of the training examples to drop, each at most .5.
        seeds: Training seeds per arm, paired across arms.
        controls: Random rankings, shared by all methods.
        run: Where fits are kept; in memory if None.

    Returns:
        Evidence at 95 %; positive = the scores tell harmful from helpful examples. The table has one row per
        fraction: mean gains against the full training set of ``harmful``, ``helpful`` and ``random``, with
        the prediction interval of one further random chain.

    Raises:
        SettingError: If a fraction is outside (0, .5] or there are fewer than 3 controls.
        DataError: If the scores are about other training examples.
        FitError: If too many fits failed.

    Source: removal curves of Ghorbani & Zou (2019), section 4, and Ilyas et al. (2022), section 4.1; the
    control chains, normalisation and test are ours.
    """
    design = _Design("removal_curve", tuple(fractions), seeds, controls, keep=False)
    return _compare(problem, scores, design, run or in_memory())


def retain_curve(
    problem: Problem,
    scores: Scores,
    *,
    fractions: Sequence[float] = (0.1, 0.2, 0.4),
    seeds: int = 3,
    controls: int = 6,
    run: Run | None = None,
) -> Evidence:
    r"""Gap between training on nothing but the most helpful and nothing but the most harmful examples.

    At each fraction the learner is fitted on only the examples that the scores call most helpful, on only those they
    call most harmful, and on as many along ``controls`` random rankings. The estimate is how much better the queries
    are with the helpful ones, averaged over the fractions. The test is that of :func:`removal_curve`: under the null
    hypothesis both ends are random chains of nested sets.

    What helps beside everything else need not be what a model should learn alone: near copies of one example may all be
    called helpful. A curve that falls behind random ones shows scores to be a poor rule for selecting data.

    Cost: seeds · (1 + fractions · (2 + controls)) fits; a deterministic learner needs one seed.

    Args:
        problem: Learner, training examples, queries.
        scores: Per query or per example, in any unit: only their order counts.
        fractions: Shares of the training examples to keep, each at most .5.
        seeds: Training seeds per arm, paired across arms.
        controls: Random rankings, shared by all methods.
        run: Where fits are kept; in memory if None.

    Returns:
        Evidence at 95 %; positive = the scores tell what to train on. The table is that of :func:`removal_curve`, with
        ``kept`` in place of ``removed``.

    Raises:
        SettingError: If a fraction is outside (0, .5] or there are fewer than 3 controls.
        DataError: If the scores are about other training examples.
        FitError: If too many fits failed; small fractions may lose a class.

    Source: as for :func:`removal_curve`.
    """
    design = _Design("retain_curve", tuple(fractions), seeds, controls, keep=True)
    return _compare(problem, scores, design, run or in_memory())


@dataclass(frozen=True)
class _Design:
    """What is asked: drop or keep both ends of the ranking."""

    metric: str
    fractions: tuple[float, ...]
    seeds: int
    controls: int
    keep: bool

    def masks(self, rankings: list[np.ndarray], sizes: list[int]) -> Float[np.ndarray, "arm train"]:
        """Rankings one after the other, each at every size."""
        total = len(rankings[0])
        found = np.full((len(rankings) * len(sizes), total), 0.0 if self.keep else 1.0)
        for row, (ranking, size) in zip(found, ((r, s) for r in rankings for s in sizes), strict=True):
            row[ranking[:size]] = 1.0 if self.keep else 0.0
        return found


def _compare(problem: Problem, scores: Scores, design: _Design, run: Run) -> Evidence:
    total = len(problem.train)
    sizes = _sizes(total, design)
    if design.controls < _FEWEST:
        raise SettingError(
            f"{design.metric}: controls={design.controls}.", fix=f"give at least {_FEWEST} random rankings."
        )
    harm = _harm(problem, scores, design.metric)
    predicted = design.seeds * (1 + len(sizes) * (2 + design.controls))
    pace.predict(problem, run, Cost(fits=predicted))
    bench = start(problem, design.seeds, run)
    draw = generator(problem.seed, "verification", "removal")
    order = np.lexsort((problem.train.ids.astype(str), -harm))
    rankings = [order, order[::-1], *(draw.permutation(total) for _ in range(design.controls))]
    values, note = gains(bench, design.masks(rankings, sizes))
    chains = values.mean(axis=2).reshape(len(rankings), len(sizes), len(bench.seeds))
    curves = _curves(chains, design)
    found = _gap(curves, np.array(sizes) / total, keep=design.keep)
    half = (found.high - found.low) / 2
    unit = problem.learner.measurement.unit
    given = {"fractions": list(design.fractions), "seeds": design.seeds, "controls": design.controls}
    done = "kept" if design.keep else "removed"
    return Evidence(
        metric=design.metric,
        subject=scores.method,
        estimate=found.estimate,
        interval=(found.low, found.high),
        level=LEVEL,
        unit=unit,
        better="higher",
        control={"estimate": 0.0, "low": -half, "high": half},
        p_value=found.p_value,
        verdict=_verdict(found),
        power=_power(found, bench, len(curves.random), unit),
        table=_table(curves, sizes, total, done),
        provenance=finish(
            bench,
            given={"by": design.metric, **given},
            resolved={done: sizes, "seeds": len(bench.seeds), "controls_used": len(curves.random)},
            notes=[note],
            predicted=predicted,
        ),
    )


@dataclass(frozen=True, eq=False)
class _Curves:
    """Mean gain over queries and seeds, per fraction.

    Attributes:
        harmful: ``float64[" fraction"]`` After dropping the most harmful.
        helpful: ``float64[" fraction"]`` After dropping the most helpful.
        random: ``float64["control fraction"]`` After dropping along random rankings.
    """

    harmful: np.ndarray
    helpful: np.ndarray
    random: np.ndarray


def _sizes(total: int, design: _Design) -> list[int]:
    fractions = design.fractions
    wrong = [fraction for fraction in fractions if not 0 < fraction <= 0.5]
    if wrong or not fractions:
        raise SettingError(
            f"{design.metric}: fractions={list(fractions)}.",
            fix="give fractions above 0 and up to .5; beyond that, both ends of the ranking overlap.",
        )
    sizes = sorted({max(1, round(fraction * total)) for fraction in fractions})
    if 2 * sizes[-1] > total:
        raise SettingError(
            f"{design.metric}: {sizes[-1]} of {total} examples at each end overlap.",
            fix="give smaller fractions or more training examples.",
        )
    return sizes


def _harm(problem: Problem, scores: Scores, metric: str) -> np.ndarray:
    """``float64[" train"]`` Suspicion per training example of the problem, higher = drop first."""
    if scores.axis == "pair":
        return aligned(problem, scores, asked=metric).harm()
    scores.check_finite()
    harm = np.empty(len(problem.train))
    harm[problem.train.positions(scores.train_ids)] = scores.harm()
    return harm


def _curves(chains: Float[np.ndarray, "ranking fraction seed"], design: _Design) -> _Curves:
    """Means over the seeds that both scored chains have, and the random chains that have all of those."""
    seeds = np.isfinite(chains[:2]).all(axis=(0, 1))
    kept = chains[:, :, seeds]
    whole = np.isfinite(kept[2:]).all(axis=(1, 2))
    if not seeds.any() or whole.sum() < _FEWEST:
        raise FitError(
            f"{design.metric}: {np.count_nonzero(seeds)} of {chains.shape[2]} seeds and "
            f"{np.count_nonzero(whole)} of {design.controls} random rankings could be trained at every fraction.",
            fix=f"give {'larger' if design.keep else 'smaller'} fractions, or repair the recipe.",
        )
    means = kept.mean(axis=2)
    return _Curves(harmful=means[0], helpful=means[1], random=means[2:][whole])


def _gap(curves: _Curves, fractions: Float[np.ndarray, " fraction"], *, keep: bool) -> Comparison:
    steps = np.diff(fractions, prepend=0.0)

    def area(curve: np.ndarray) -> float:
        if keep:
            return float(curve.mean())
        return float(steps @ (curve + np.concatenate([[0.0], curve[:-1]])) / 2 / fractions[-1])

    chains = np.array([area(curve) for curve in curves.random])
    error = float(chains.std(ddof=1)) * float(2 / (1 - fractions[-1])) ** 0.5
    gap = area(curves.harmful) - area(curves.helpful)
    return student(-gap if keep else gap, error, len(chains) - 1, level=LEVEL)


def _verdict(found: Comparison) -> Verdict:
    if found.p_value > 1 - LEVEL:
        return "inconclusive"
    return "confirmed" if found.estimate > 0 else "refuted"


def _power(found: Comparison, bench: Bench, controls: int, unit: str) -> str:
    if found.standard_error == 0:
        return "The random rankings all came out the same: noise cannot be measured; use a finer measurement."
    seen = minimum_detectable(found.standard_error, found.freedom, level=LEVEL)
    count = len(bench.seeds)
    return (
        f"With {count} seed{'s' if count > 1 else ''} and {controls} random rankings this design sees gaps "
        f"above {seen:.4g} {unit} at 80 % power; more rankings, seeds or queries would see smaller ones."
    )


def _table(curves: _Curves, sizes: list[int], total: int, done: str) -> dict[str, list[Any]]:
    bands = [
        one_against_many(float(column.mean()), np.ascontiguousarray(column), level=LEVEL)
        for column in curves.random.T
    ]
    return {
        "fraction": [size / total for size in sizes],
        done: list(sizes),
        "harmful": listed(curves.harmful),
        "helpful": listed(curves.helpful),
        "random": listed(curves.random.mean(axis=0)),
        "random_low": listed(
            mean + band.low for mean, band in zip(curves.random.mean(axis=0), bands, strict=True)
        ),
        "random_high": listed(
            mean + band.high for mean, band in zip(curves.random.mean(axis=0), bands, strict=True)
        ),
    }
