"""Leave-one-out correlation: do the scores order single examples as retraining without each of them does?"""

import numpy as np

from steelyard.collect import pace
from steelyard.errors import FitError, SettingError
from steelyard.problem import Problem
from steelyard.records import Cost, Evidence, Scores
from steelyard.run import Run, generator, in_memory
from steelyard.verify.correlation import correlate
from steelyard.verify.design import LEVEL, aligned, finish, gains, start

_FEWEST = 8


def loo(
    problem: Problem,
    scores: Scores,
    *,
    examples: int = 64,
    seeds: int = 3,
    run: Run | None = None,
) -> Evidence:
    """Rank correlation of scores with real leave-one-out effects.

    A random sample of the training examples is left out one by one; each fit has the seed, the initialisation and the
    batch order of the fit of everything that it is compared with. The effect on a query is how much worse it gets,
    averaged over the seeds. The estimate is Spearman's correlation over the sample between scores and effects, averaged
    over the queries.

    The effect of one example is small beside training noise: with two or more seeds the evidence says how much of what
    was measured is the examples' own, and agreement with noise refutes nothing. Leaving out an example also changes the
    batches of all others, which several seeds average out.

    Cost: seeds · (examples + 1) fits, shared by all methods; none of them is a fit that scoring saw.

    Args:
        problem: Learner, training examples, queries.
        scores: One column per query, in any unit: only their order counts.
        examples: Training examples to leave out, one at a time; all if there are no more.
        seeds: Training seeds, paired.
        run: Where fits are kept; in memory if None.

    Returns:
        Evidence in correlation, at 95 %; ``control`` holds random scores (rows permuted among the sample) and the
        ceiling. Verdict as for :func:`steelyard.verify.lds`.

    Raises:
        SettingError: If fewer than 8 examples are left out, or the scores are per example.
        DataError: If the scores are about other examples.
        FitError: If fewer than 8 could be left out, or every effect is the same.

    Source: Koh & Liang (2017), section 4.1; pairing, interval, exact control and ceiling are ours.
    """
    run = run or in_memory()
    total = len(problem.train)
    count = min(examples, total)
    if count < _FEWEST:
        raise SettingError(
            f"loo: examples={examples} of {total} training examples.",
            fix=f"leave out at least {_FEWEST} examples, one at a time.",
        )
    scores = aligned(problem, scores, asked="loo")
    pace.predict(problem, run, Cost(fits=seeds * (count + 1)))
    bench = start(problem, seeds, run)
    rows = generator(problem.seed, "verification", "loo").permutation(total)[:count]
    masks = np.ones((count, total))
    masks[np.arange(count), rows] = 0.0
    changes, note = gains(bench, masks)
    fitted = np.isfinite(changes).all(axis=(1, 2))
    if fitted.sum() < _FEWEST:
        raise FitError(
            f"loo: only {int(fitted.sum())} of {count} examples could be left out. {note}",
            fix="make the recipe robust against missing examples.",
        )
    measured, rows = -changes[fitted], rows[fitted]
    chosen = np.asarray(scores.values[np.sort(rows)], dtype=np.float64)[np.argsort(np.argsort(rows))]

    def predict(random: int) -> np.ndarray:
        draw = generator(problem.seed, "verification", "loo", "random scores")
        return np.stack([chosen, *(chosen[draw.permutation(len(chosen))] for _ in range(random))])

    found = correlate(problem, measured, predict, metric="loo")
    return Evidence(
        metric="loo",
        subject=scores.method,
        estimate=found.estimate,
        interval=(found.low, found.high),
        level=LEVEL,
        unit="correlation",
        better="higher",
        control=found.control(),
        p_value=found.p_value,
        verdict=found.verdict,
        power=found.power(len(rows), "examples left out", len(bench.seeds)),
        table=found.table(problem, measured.mean(axis=1)),
        provenance=finish(
            bench,
            given={"by": "loo", "examples": examples, "seeds": seeds},
            resolved={"left_out": len(rows), "seeds": len(bench.seeds)},
            notes=[note, *found.notes(len(problem.query))],
            predicted=seeds * (count + 1),
        ),
    )
