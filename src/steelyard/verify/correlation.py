"""Rank correlation of predictions with the outcomes of fits: interval, exact random control, noise ceiling.

Shared by the linear datamodeling score, whose outcomes are of random subsets, and by leave-one-out, whose outcomes
are of single removals.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from steelyard.errors import FitError
from steelyard.maths.chance import Chance
from steelyard.maths.power import components
from steelyard.maths.ranks import fisher_interval, spearman, spearman_bootstrap
from steelyard.problem import Problem
from steelyard.records.evidence import Verdict
from steelyard.run import generator
from steelyard.verify.design import LEVEL, listed

RANDOM = 199
NEGLIGIBLE = 0.1
_LEAST_RELIABLE = 0.5
_DRAWS = 1000
_COLUMNS = 20_000


@dataclass(frozen=True, eq=False)
class Correlated:
    """All numbers of one correlation.

    Attributes:
        per_query: ``float64[" query"]`` NaN where predictions or outcomes are constant.
        estimate: Mean over the other queries.
        low: Lower end of its interval.
        high: Upper end.
        deviation: Standard deviation of the bootstrap.
        random: The same mean for permuted scores.
        ceiling: What perfect predictions would reach, from seed noise; None with one seed.
    """

    per_query: np.ndarray
    estimate: float
    low: float
    high: float
    deviation: float
    random: Chance
    ceiling: float | None

    @property
    def p_value(self) -> float:
        """One-sided, exact for random scores."""
        return self.random.p_value(self.estimate)

    @property
    def verdict(self) -> Verdict:
        """Refuted only where outcomes are more than noise: agreement with noise says nothing against scores."""
        if self.low > 0 and self.p_value <= 1 - LEVEL:
            return "confirmed"
        if self.ceiling is not None and self.ceiling < _LEAST_RELIABLE:
            return "inconclusive"
        if self.high < 0 or (self.low > -NEGLIGIBLE and self.high < NEGLIGIBLE):
            return "refuted"
        return "inconclusive"

    def control(self) -> dict[str, float]:
        """Mean and central interval of random scores, and the ceiling where it is known."""
        low, high = self.random.interval(LEVEL)
        found = {"estimate": self.random.mean, "low": low, "high": high}
        return found if self.ceiling is None else {**found, "ceiling": self.ceiling}

    def notes(self, queries: int) -> list[str]:
        """What was left out."""
        constant = int(np.isnan(self.per_query).sum())
        found = (
            [f"{constant} of {queries} queries left out: constant outcomes or predictions"]
            if constant
            else []
        )
        if len(self.random.draws) < RANDOM:
            found.append(
                f"{len(self.random.draws)} random score matrices instead of {RANDOM}, because of their size"
            )
        return found

    def table(self, problem: Problem, outcome: Float[np.ndarray, "item query"]) -> dict[str, list[object]]:
        """One row per query."""
        return {
            "query_id": [str(name) for name in problem.query.ids],
            "correlation": listed(self.per_query),
            "outcome_deviation": listed(outcome.std(axis=0, ddof=1)),
        }

    def power(self, items: int, noun: str, seeds: int) -> str:
        """What this design could have seen.

        Confirmed needs both: above 95 % of random scores, and an interval above 0. The further .84 standard errors
        make that happen in 80 % of repetitions.
        """
        needs = max(1.645 * float(self.random.draws.std(ddof=1)), 1.96 * self.deviation)
        seen = needs + 0.84 * self.deviation
        text = f"With {items} {noun} this design sees correlations above {seen:.2g} at 80 % power"
        if 0 < self.estimate < seen:
            needed = int(np.ceil(items * (2.8 * self.deviation / self.estimate) ** 2))
            text += f"; to settle one as large as observed you would need about {max(needed, items):,} {noun}"
        if seeds == 1:
            return f"{text}. With one fit for each, training noise lowers the score by an unknown amount."
        if self.ceiling is None:
            return f"{text}."
        text = f"{text}. With {seeds} seeds for each, perfect scores would reach about {self.ceiling:.2g}."
        if self.ceiling < _LEAST_RELIABLE:
            text += " The outcomes are mostly training noise: use more seeds."
        return text


def correlate(
    problem: Problem,
    measured: Float[np.ndarray, "item seed query"],
    predict: Callable[[int], Float[np.ndarray, "order item query"]],
    *,
    metric: str,
    count: int = RANDOM,
) -> Correlated:
    """Spearman's correlation over the items, averaged over the queries that are not constant.

    The interval is a bootstrap that resamples the items and, independently, the queries, on Fisher's z scale.

    Args:
        problem: For its seed.
        measured: What happened, turned so that predictions should rise with it.
        predict: Predictions for so many random scores, those of the scores themselves first.
        metric: Names the streams, and stands in errors.
        count: Random scores.

    Raises:
        FitError: If outcomes or predictions are constant for every query.
    """
    outcome, predicted = measured.mean(axis=1), predict(count)
    per_query = spearman(predicted[0], outcome)
    usable = np.isfinite(per_query)
    if not usable.any():
        raise FitError(
            f"{metric}: the {problem.learner.measurement.name} of every query is the same after training on any "
            f"subset, or all scores are equal.",
            fix="choose a measurement that varies, such as the loss instead of the accuracy.",
        )
    draws = spearman_bootstrap(
        predicted[0][:, usable],
        outcome[:, usable],
        draws=_DRAWS,
        generator=generator(problem.seed, "verification", metric, "bootstrap"),
    )
    estimate = float(per_query[usable].mean())
    low, high = fisher_interval(estimate, draws, level=LEVEL)
    return Correlated(
        per_query=per_query,
        estimate=estimate,
        low=low,
        high=high,
        deviation=float(draws.std(ddof=1)),
        random=Chance(_means(predicted[1:], outcome)),
        ceiling=_ceiling(measured),
    )


def _means(
    predicted: Float[np.ndarray, "order item query"], outcome: Float[np.ndarray, "item query"]
) -> Float[np.ndarray, " order"]:
    """Mean over the queries that are not constant, for each set of predictions; 0 if all are."""
    orders, items, queries = predicted.shape
    found = np.zeros(orders)
    step = max(1, _COLUMNS // queries)
    for low in range(0, orders, step):
        part = predicted[low : low + step]
        side_by_side = part.transpose(1, 0, 2).reshape(items, -1)
        each = spearman(side_by_side, np.tile(outcome, (1, len(part)))).reshape(len(part), queries)
        usable = np.isfinite(each)
        found[low : low + step] = np.where(usable, each, 0.0).sum(axis=1) / np.maximum(1, usable.sum(axis=1))
    return found


def _ceiling(measured: Float[np.ndarray, "item seed query"]) -> float | None:
    """Correlation that perfect predictions of the expected outcome would reach, from seed noise; or None."""
    seeds = measured.shape[1]
    if seeds == 1:
        return None
    shares = np.array(
        [components(measured[:, :, q]).reliability(seeds) for q in range(measured.shape[2])], dtype=np.float64
    )
    shares = shares[np.isfinite(shares)]
    return float(np.sqrt(shares).mean()) if len(shares) else None
