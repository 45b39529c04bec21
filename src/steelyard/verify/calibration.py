"""Calibration: does removing a group change the queries by as much as the sum of its scores says?"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from steelyard.collect import pace
from steelyard.collect.designs import groups_along
from steelyard.errors import FitError, SettingError
from steelyard.maths.power import Comparison, minimum_detectable, student
from steelyard.problem import Problem
from steelyard.records import Cost, Evidence, Scores
from steelyard.records.evidence import Verdict
from steelyard.run import Run, generator, in_memory
from steelyard.verify.design import LEVEL, aligned, finish, gains, listed, start

_FEWEST = 5
_CALIBRATED = (0.8, 1.25)


def calibration(
    problem: Problem,
    scores: Scores,
    *,
    groups: int = 20,
    fraction: float = 0.02,
    seeds: int = 3,
    run: Run | None = None,
) -> Evidence:
    """Slope of measured on predicted change when groups of training examples are removed.

    Predicted: the sum of a group's scores, averaged over the queries. Measured: how much worse the mean query
    measurement is after training without the group than after training on everything, averaged over paired
    seeds. The groups are disjoint and drawn along the ranking of the scores, so that predictions differ.
    Slope and intercept are least squares with Student's interval on ``groups`` - 2 degrees of freedom.

    A slope of 1 and an intercept of 0 say that the scores are what their unit claims. Below 1: they promise
    too much. A slope of 0 is what random scores give: their groups are random ones, so that the test of a
    slope of 0 holds its level.

    Cost: seeds · (groups + 1) fits; a deterministic learner needs one seed.

    Args:
        problem: Learner, training examples, queries.
        scores: One column per query, in the unit of the measurement.
        groups: Number of groups.
        fraction: Share of the training examples in each group; at most 1 / ``groups``.
        seeds: Training seeds per group, paired with those of the full training set.
        run: Where fits are kept; in memory if None.

    Returns:
        Evidence of the slope (no unit) at 95 %; ``control`` holds a random score's slope of 0, and the
        intercept and correlation found. Confirmed: the interval lies above 0 and meets [.8, 1.25]. Refuted:
        it misses [.8, 1.25]. Else inconclusive.

    Raises:
        SettingError: If the scores are ranks or per example, or the groups are too few or too large.
        DataError: If the scores are about other examples or queries.
        FitError: If fewer than 5 groups could be fitted, or all predictions are equal.
    """
    run = run or in_memory()
    scores, size = _checked(problem, scores, groups, fraction)
    predicted_fits = seeds * (groups + 1)
    pace.predict(problem, run, Cost(fits=predicted_fits))
    bench = start(problem, seeds, run)
    mean = scores.per_example()
    draw = generator(problem.seed, "verification", "calibration", scores.method)
    masks = groups_along(mean, groups, size=size, draw=draw)
    values, note = gains(bench, masks)
    measured = -values.mean(axis=2)
    used = np.isfinite(measured).all(axis=1)
    predicted = (1.0 - masks) @ mean
    if used.sum() < _FEWEST or np.ptp(predicted[used]) == 0:
        raise FitError(
            f"calibration: {int(used.sum())} of {groups} groups could be trained, and the predictions of "
            f"those span {float(np.ptp(predicted[used])) if used.any() else 0:.3g}. {note}",
            fix=f"at least {_FEWEST} groups with different predictions are needed: more or smaller groups.",
        )
    line = _regress(predicted[used], measured[used].mean(axis=1))
    half = (line.slope.high - line.slope.low) / 2
    return Evidence(
        metric="calibration",
        subject=scores.method,
        estimate=line.slope.estimate,
        interval=(line.slope.low, line.slope.high),
        level=LEVEL,
        unit="slope",
        better="higher",
        control={
            "estimate": 0.0,
            "low": -half,
            "high": half,
            "intercept": line.intercept.estimate,
            "intercept_low": line.intercept.low,
            "intercept_high": line.intercept.high,
            "correlation": line.correlation,
        },
        p_value=line.slope.p_value,
        verdict=_verdict(line.slope),
        power=_power(line, int(used.sum())),
        table={
            "group": list(range(1, groups + 1)),
            "size": listed((1.0 - masks).sum(axis=1).astype(np.int64)),
            "predicted": listed(predicted),
            "measured": listed(measured.mean(axis=1)),
            "seed_deviation": listed(_deviation(measured)),
        },
        provenance=finish(
            bench,
            given={"by": "calibration", "groups": groups, "fraction": fraction, "seeds": seeds},
            resolved={"group_size": size, "groups_used": int(used.sum()), "seeds": len(bench.seeds)},
            notes=[note],
            predicted=predicted_fits,
        ),
    )


@dataclass(frozen=True)
class _Line:
    """Least squares: slope and intercept with intervals, correlation, and their residual deviation."""

    slope: Comparison
    intercept: Comparison
    correlation: float
    residual: float


def _checked(problem: Problem, scores: Scores, groups: int, fraction: float) -> tuple[Scores, int]:
    unit = problem.learner.measurement.unit
    if scores.unit == "rank":
        raise SettingError(
            f"calibration: {scores.name} gives similarities (unit='rank'), which predict no amount.",
            fix="use verify.lds or verify.removal_curve, which only read their order.",
        )
    scores = aligned(problem, scores, asked="calibration")
    if scores.unit != unit:
        raise SettingError(
            f"calibration: scores in {scores.unit!r}, but the measurement is in {unit!r}.",
            fix="verify scores with the measurement that they were made for.",
        )
    total = len(problem.train)
    size = max(1, round(fraction * total))
    if groups < _FEWEST or not fraction > 0 or size > total // groups:
        raise SettingError(
            f"calibration: {groups} groups of {size} examples (fraction={fraction}) out of {total}.",
            fix=f"give at least {_FEWEST} groups, and a fraction of at most 1 / groups.",
        )
    return scores, size


def _regress(x: Float[np.ndarray, " group"], y: Float[np.ndarray, " group"]) -> _Line:
    count = len(x)
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
    intercept = float(y.mean() - slope * x.mean())
    residual = float((((y - intercept - slope * x) ** 2).sum() / (count - 2)) ** 0.5)
    deviation = float(((y - y.mean()) ** 2).sum()) ** 0.5
    return _Line(
        slope=student(slope, residual / spread**0.5, count - 2, level=LEVEL),
        intercept=student(
            intercept, residual * (1 / count + float(x.mean()) ** 2 / spread) ** 0.5, count - 2, level=LEVEL
        ),
        correlation=slope * spread**0.5 / deviation if deviation > 0 else float("nan"),
        residual=residual,
    )


def _verdict(slope: Comparison) -> Verdict:
    low, high = _CALIBRATED
    if slope.high < low or slope.low > high:
        return "refuted"
    return "confirmed" if slope.low > 0 else "inconclusive"


def _power(line: _Line, groups: int) -> str:
    seen = minimum_detectable(line.slope.standard_error, line.slope.freedom, level=LEVEL)
    text = f"With {groups} groups this design tells a slope of {seen:.2g} from 0 at 80 % power"
    slope = line.slope
    if slope.high < _CALIBRATED[0] and slope.low > 0:
        return (
            f"{text}. The scores point the right way but promise {1 / slope.estimate:.2g} times what happens."
        )
    if slope.low > _CALIBRATED[1]:
        return (
            f"{text}. The scores point the right way but promise only 1/{slope.estimate:.2g} of what happens."
        )
    return f"{text}; more seeds or larger groups would narrow the interval."


def _deviation(measured: Float[np.ndarray, "group seed"]) -> np.ndarray:
    if measured.shape[1] == 1:
        return np.full(len(measured), np.nan)
    return measured.std(axis=1, ddof=1)
