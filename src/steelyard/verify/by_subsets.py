"""Linear datamodeling score: do the scores predict how queries come out after training on random subsets?"""

import functools

import numpy as np
from jaxtyping import Float

from steelyard.collect import pace
from steelyard.collect.designs import random_subsets
from steelyard.collect.fits import outcomes
from steelyard.errors import FitError, SettingError
from steelyard.problem import Problem
from steelyard.records import Cost, Evidence, Scores
from steelyard.run import Run, generator, in_memory
from steelyard.verify.correlation import RANDOM, correlate
from steelyard.verify.design import LEVEL, Bench, aligned, finish

_FEWEST = 8
_FLOPS = 4e11
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
        the interval ends below 0 or lies within ±.1 without being confirmed, unless the outcomes are mostly
        training noise; else inconclusive.

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
    flops = 2.0 * masks.size * scores.values.shape[1]
    found = correlate(
        problem,
        measured,
        functools.partial(_predicted, problem, scores, masks),
        metric="lds",
        count=int(np.clip(_FLOPS / flops, 19, RANDOM)),
    )
    left_out = [one for one in (note, *found.notes(len(problem.query))) if one]
    bench = Bench(problem, run, tuple(range(seeds)), np.zeros((0, 0)), False, notes, before)
    return Evidence(
        metric="lds",
        subject=scores.method,
        estimate=found.estimate,
        interval=(found.low, found.high),
        level=LEVEL,
        unit="correlation",
        better="higher",
        control=found.control(),
        p_value=found.p_value,
        verdict=found.verdict,
        power=found.power(len(fitted), "subsets", seeds),
        table=found.table(problem, measured.mean(axis=1)),
        provenance=finish(
            bench,
            given={"by": "lds", "subsets": subsets, "fraction": fraction, "seeds": seeds},
            resolved={
                "subsets_used": len(fitted),
                "subset_size": int(masks[0].sum()),
                "queries_used": int(np.isfinite(found.per_query).sum()),
                "random_scores": len(found.random.draws),
            },
            notes=left_out,
            predicted=subsets * seeds,
        ),
    )


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


def _predicted(
    problem: Problem, scores: Scores, masks: Float[np.ndarray, "fit train"], count: int
) -> Float[np.ndarray, "order fit query"]:
    """Predictions of the scores, and of as many permutations of their rows."""
    draw = generator(problem.seed, "verification", "lds", "random scores")
    orders = [np.arange(masks.shape[1]), *(draw.permutation(masks.shape[1]) for _ in range(count))]
    return _predictions(scores, masks, orders)


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
