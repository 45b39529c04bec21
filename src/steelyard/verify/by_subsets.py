"""Linear datamodeling score: do the scores predict how queries come out after training on random subsets?"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from steelyard.collect import pace
from steelyard.collect.designs import random_subsets
from steelyard.collect.fits import outcomes
from steelyard.errors import FitError, SettingError
from steelyard.maths.power import components
from steelyard.maths.ranks import fisher_interval, spearman, spearman_bootstrap
from steelyard.problem import Problem
from steelyard.records import Cost, Evidence, Scores
from steelyard.records.evidence import Verdict
from steelyard.run import Run, generator, in_memory
from steelyard.verify.design import LEVEL, Bench, aligned, finish, listed

_DRAWS = 1000
_RANDOM = 199
_FEWEST = 8
_NEGLIGIBLE = 0.1
_FLOPS = 4e11
_COLUMNS = 20_000
_BLOCK_BYTES = 64 * 2**20


def lds(
    problem: Problem,
    scores: Scores,
    *,
    subsets: int = 64,
    fraction: float = 0.5,
    seeds: int = 1,
    run: Run | None = None,
) -> Evidence:
    r"""Linear datamodeling score with interval, random control and noise ceiling.

    For random subsets S of the training examples, the prediction for query q is the sum of the scores of the
    examples in S; the outcome is the measurement of q after training on S, turned so that higher is better
    and averaged over the seeds. The score of q is Spearman's correlation of both over the subsets, and the
    LDS its mean over the queries whose outcomes and predictions are not constant.

    The subsets and training seeds come from the streams of verification: no method ever sees these fits.

    The interval is a bootstrap that resamples the subsets and, independently, the queries, on Fisher's z scale;
    the subsets dominate, because all queries share them. The random control is the same score after
    permuting the training examples among the rows of the score matrix, with everything else kept. Random
    scores are exchangeable under these permutations, so that the p-value (one-sided, 199 permutations) is
    exact. Permuting *outcomes* instead would not do: a fixed set of random scores correlates a little with
    the truth by luck, the same way in every subset, and more subsets would make that luck look significant.

    Cost: subsets · seeds fits.

    Args:
        problem: Learner, training examples, queries.
        scores: One column per query, in any unit. Similarities (``unit="rank"``) are summed as they are.
        subsets: Number of random subsets.
        fraction: Share of the training examples in each subset.
        seeds: Fits per subset. Two or more let the evidence say how high perfect scores could reach.
        run: Where fits are kept; in memory if None.

    Returns:
        Evidence in correlation, at 95 %. ``control`` holds mean and central 95 % of random scores, and with
        two or more seeds the ceiling. Confirmed if the interval lies above 0 and p is at most .05; refuted if
        the interval ends below 0 or lies within ±.1 without being confirmed; else inconclusive.

    Raises:
        SettingError: If there are fewer than 8 subsets, or the scores are per example.
        DataError: If the scores are about other examples or queries.
        FitError: If fewer than 8 subsets could be fitted, or every query's outcome is constant.

    Source: Park et al. (2023), "TRAK", definition 2.3, with our sign: scores are removal effects, hence
    outcomes are goodness. Interval, exact control and ceiling are ours.
    """
    run = run or in_memory()
    if subsets < _FEWEST or seeds < 1:
        raise SettingError(
            f"lds: subsets={subsets}, seeds={seeds}.",
            fix=f"give at least {_FEWEST} subsets and one seed each.",
        )
    scores = aligned(problem, scores, asked="lds")
    masks = random_subsets(problem, subsets, fraction=fraction, name="verification/lds")
    before, notes = run.cost, problem.learner.check(problem.train, problem.query)
    pace.predict(problem, run, Cost(fits=subsets * seeds))
    measured, note = _measure(problem, masks, seeds, run)
    fitted = np.flatnonzero(np.isfinite(measured).all(axis=(1, 2)))
    if len(fitted) < _FEWEST:
        raise FitError(
            f"lds: only {len(fitted)} of {subsets} subsets could be fitted. {note}",
            fix="give a larger fraction, or repair the recipe.",
        )
    masks, measured = masks[fitted], measured[fitted]
    found = _correlate(problem, scores, masks, measured)
    left_out = [one for one in (note, *found.notes(len(problem.query))) if one]
    bench = Bench(problem, run, tuple(range(seeds)), np.zeros((0, 0)), False, notes, before)
    verdict = _verdict(found)
    control = {
        "estimate": float(found.random.mean()),
        "low": float(np.quantile(found.random, 0.5 - LEVEL / 2)),
        "high": float(np.quantile(found.random, 0.5 + LEVEL / 2)),
    }
    if found.ceiling is not None:
        control["ceiling"] = found.ceiling
    return Evidence(
        metric="lds",
        subject=scores.method,
        estimate=found.estimate,
        interval=(found.low, found.high),
        level=LEVEL,
        unit="correlation",
        better="higher",
        control=control,
        p_value=found.p_value,
        verdict=verdict,
        power=_power(found, len(fitted), seeds),
        table={
            "query_id": [str(name) for name in problem.query.ids],
            "correlation": listed(found.per_query),
            "outcome_deviation": listed(measured.mean(axis=1).std(axis=0, ddof=1)),
        },
        provenance=finish(
            bench,
            given={"by": "lds", "subsets": subsets, "fraction": fraction, "seeds": seeds},
            resolved={
                "subsets_used": len(fitted),
                "subset_size": int(masks[0].sum()),
                "queries_used": int(np.isfinite(found.per_query).sum()),
                "random_scores": len(found.random),
            },
            notes=left_out,
            predicted=subsets * seeds,
        ),
    )


@dataclass(frozen=True, eq=False)
class _Found:
    """All numbers of one LDS."""

    per_query: np.ndarray
    estimate: float
    low: float
    high: float
    deviation: float
    random: np.ndarray
    ceiling: float | None

    @property
    def p_value(self) -> float:
        return float((1 + np.count_nonzero(self.random >= self.estimate)) / (len(self.random) + 1))

    def notes(self, queries: int) -> list[str]:
        """What was left out."""
        constant = int(np.isnan(self.per_query).sum())
        found = (
            [f"{constant} of {queries} queries left out: constant outcomes or predictions"]
            if constant
            else []
        )
        if len(self.random) < _RANDOM:
            found.append(
                f"{len(self.random)} random score matrices instead of {_RANDOM}, because of their size"
            )
        return found


def _measure(
    problem: Problem, masks: Float[np.ndarray, "fit train"], seeds: int, run: Run
) -> tuple[Float[np.ndarray, "fit seed query"], str]:
    found = outcomes(
        problem,
        np.repeat(masks, seeds, axis=0),
        list(range(seeds)) * len(masks),
        run,
        purpose="verification",
    )
    sign = -1.0 if problem.learner.measurement.lower_is_better else 1.0
    return sign * found.values.reshape(len(masks), seeds, -1), found.note()


def _correlate(problem: Problem, scores: Scores, masks: np.ndarray, measured: np.ndarray) -> _Found:
    outcome = measured.mean(axis=1)
    flops = 2.0 * masks.size * scores.values.shape[1]
    count = int(np.clip(_FLOPS / flops, 19, _RANDOM))
    draw = generator(problem.seed, "verification", "lds", "random scores")
    orders = [np.arange(masks.shape[1]), *(draw.permutation(masks.shape[1]) for _ in range(count))]
    predicted = _predictions(scores, masks, orders)
    per_query = spearman(predicted[0], outcome)
    known = np.isfinite(per_query)
    if not known.any():
        raise FitError(
            f"lds: the {problem.learner.measurement.name} of every query is the same after training on any "
            f"subset, or all scores are equal.",
            fix="choose a measurement that varies, such as the loss instead of the accuracy.",
        )
    draws = spearman_bootstrap(
        predicted[0][:, known],
        outcome[:, known],
        draws=_DRAWS,
        generator=generator(problem.seed, "verification", "lds", "bootstrap"),
    )
    estimate = float(per_query[known].mean())
    low, high = fisher_interval(estimate, draws, level=LEVEL)
    return _Found(
        per_query=per_query,
        estimate=estimate,
        low=low,
        high=high,
        deviation=float(draws.std(ddof=1)),
        random=_means(predicted[1:], outcome),
        ceiling=_ceiling(measured),
    )


def _means(
    predicted: Float[np.ndarray, "order fit query"], outcome: Float[np.ndarray, "fit query"]
) -> Float[np.ndarray, " order"]:
    """LDS of each set of predictions: the mean over the queries that are not constant; 0 if all are."""
    orders, fits, queries = predicted.shape
    found = np.zeros(orders)
    step = max(1, _COLUMNS // queries)
    for low in range(0, orders, step):
        part = predicted[low : low + step]
        side_by_side = part.transpose(1, 0, 2).reshape(fits, -1)
        each = spearman(side_by_side, np.tile(outcome, (1, len(part)))).reshape(len(part), queries)
        known = np.isfinite(each)
        found[low : low + step] = np.where(known, each, 0.0).sum(axis=1) / np.maximum(1, known.sum(axis=1))
    return found


def _predictions(
    scores: Scores, masks: Float[np.ndarray, "fit train"], orders: list[np.ndarray]
) -> Float[np.ndarray, "order fit query"]:
    """Sums of scores per subset, for several assignments of score rows to training examples.

    Column i of the permuted masks meets row i of the scores, so that the matrix of scores is read once, in
    blocks, however large it is.
    """
    fits, queries = len(masks), scores.values.shape[1]
    total = np.zeros((len(orders) * fits, queries))
    step = max(1, _BLOCK_BYTES // (8 * len(orders) * fits))
    for start, block in scores.blocks():
        for low in range(0, len(block), step):
            rows = slice(start + low, start + min(low + step, len(block)))
            present = np.concatenate([masks[:, order[rows]] for order in orders])
            total += present @ block[low : low + step].astype(np.float64)
    return total.reshape(len(orders), fits, queries)


def _ceiling(measured: Float[np.ndarray, "fit seed query"]) -> float | None:
    """Correlation that perfect predictions of the expected outcome would reach, from seed noise; or None."""
    seeds = measured.shape[1]
    if seeds == 1:
        return None
    shares = np.array(
        [components(measured[:, :, q]).reliability(seeds) for q in range(measured.shape[2])], dtype=np.float64
    )
    shares = shares[np.isfinite(shares)]
    return float(np.sqrt(shares).mean()) if len(shares) else None


def _verdict(found: _Found) -> Verdict:
    if found.low > 0 and found.p_value <= 1 - LEVEL:
        return "confirmed"
    if found.high < 0 or (found.low > -_NEGLIGIBLE and found.high < _NEGLIGIBLE):
        return "refuted"
    return "inconclusive"


def _power(found: _Found, subsets: int, seeds: int) -> str:
    # Confirmed needs both: above 95 % of random scores, and an interval above 0. The further .84 standard
    # errors make that happen in 80 % of repetitions.
    needs = max(1.645 * float(found.random.std(ddof=1)), 1.96 * found.deviation)
    seen = needs + 0.84 * found.deviation
    text = f"With {subsets} subsets this design sees correlations above {seen:.2g} at 80 % power"
    if 0 < found.estimate < seen:
        needed = int(np.ceil(subsets * (2.8 * found.deviation / found.estimate) ** 2))
        text += f"; to settle one as large as observed you would need about {max(needed, subsets):,} subsets"
    if seeds == 1:
        return f"{text}. With one fit per subset, training noise lowers the score by an unknown amount."
    if found.ceiling is None:
        return f"{text}."
    return f"{text}. With {seeds} seeds per subset, perfect scores would reach about {found.ceiling:.2g}."
