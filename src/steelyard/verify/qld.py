"""QLD, query loss difference: how much worse queries become when trained without their strongest proponents."""

import numpy as np
from jaxtyping import Float, Int

from steelyard.collect import pace
from steelyard.errors import FitError, SettingError
from steelyard.maths.power import Comparison, minimum_detectable, one_against_many
from steelyard.problem import Problem
from steelyard.records import Cost, Evidence, Scores
from steelyard.records.top import extremes
from steelyard.run import Run, generator, in_memory
from steelyard.verify.design import LEVEL, aligned, beyond_random, finish, gains, listed, start

_FEWEST = 2


def qld(
    problem: Problem,
    scores: Scores,
    *,
    share: float = 0.1,
    seeds: int = 1,
    controls: int = 8,
    run: Run | None = None,
) -> Evidence:
    """Query loss difference after retraining without every query's strongest proponents, beside random removals.

    A share of the training examples is removed at once: the first proponent of every query, then the second of
    every query and so on, until there are enough. The learner is refitted without them once per seed; likewise
    without random sets of the same size, which all methods share: a further method costs ``seeds`` fits.

    The verdict asks whether this removal is a further random one: with m random sets the statistic has m - 1 degrees
    of freedom, so that few controls give a wide interval, and an effect has to be large to be confirmed.

    Cost: seeds · (1 + 1 + controls) fits.

    Args:
        problem: Learner, training examples, queries.
        scores: One column per query, in any unit: only their order counts.
        share: Of the training examples, to be removed; above 0 and at most .5.
        seeds: Training seeds per arm, paired across arms.
        controls: Random sets.
        run: Where fits are kept; in memory if None.

    Returns:
        Evidence at 95 % in the unit of the measurement; positive = without the proponents the queries are worse.
        ``control`` is the mean over random sets; the table has one row per query.

    Raises:
        SettingError: If ``share`` or ``controls`` has no meaning.
        DataError: If the scores are about other examples.
        FitError: If a fit without the proponents, or all but one of the random ones, failed.

    Source: the removal of top-k examples of Ilyas et al. (2022), "Datamodels", section 4.1, for all queries at
    once; control sets and test are ours.
    """
    run = run or in_memory()
    total = len(problem.train)
    count = max(1, round(share * total))
    if not 0 < share <= 0.5 or controls < _FEWEST:
        raise SettingError(
            f"qld: share={share}, controls={controls}.",
            fix=f"give a share above 0 and up to .5, and at least {_FEWEST} random sets.",
        )
    removed = _strongest(aligned(problem, scores, asked="qld"), count)
    pace.predict(problem, run, Cost(fits=seeds * (2 + controls)))
    bench = start(problem, seeds, run)
    masks = np.ones((1 + controls, total))
    masks[0, removed] = 0.0
    draw = generator(problem.seed, "verification", "qld")
    for row in masks[1:]:
        row[draw.choice(total, count, replace=False)] = 0.0
    improved, note = gains(bench, masks)
    worse = -improved.mean(axis=1)  # NaN where any seed failed
    found, kept = _compared(worse)
    unit = problem.learner.measurement.unit
    random = float(kept.mean())
    return Evidence(
        metric="qld",
        subject=scores.method,
        estimate=random + found.estimate,
        interval=(random + found.low, random + found.high),
        level=LEVEL,
        unit=unit,
        better="higher",
        control={"estimate": random},
        p_value=found.p_value,
        verdict=beyond_random(found.low, found.high),
        power=_power(found, len(kept), unit),
        table={
            "query_id": listed(problem.query.ids),
            "without_proponents": listed(worse[0]),
            "without_random": listed(kept.mean(axis=0)),
        },
        provenance=finish(
            bench,
            given={"by": "qld", "share": share, "seeds": seeds, "controls": controls},
            resolved={"removed": count, "controls_used": len(kept)},
            notes=[note],
            predicted=seeds * (2 + controls),
        ),
    )


def _strongest(scores: Scores, count: int) -> Int[np.ndarray, " removed"]:
    """Rows of the strongest proponents of all queries, taken in turn, each once."""
    ranked = extremes(scores.blocks(), count, highest=True).rows  # [rank, query]
    flat = ranked.ravel()
    _, first = np.unique(flat, return_index=True)
    return flat[np.sort(first)[:count]]


def _compared(
    worse: Float[np.ndarray, "arm query"],
) -> tuple[Comparison, Float[np.ndarray, "control query"]]:
    """The first arm against the others that could be fitted."""
    whole = np.asarray(np.isfinite(worse).all(axis=1))
    kept = worse[1:][whole[1:]]
    if not whole[0] or len(kept) < _FEWEST:
        raise FitError(
            f"qld: the fit without the proponents {'succeeded' if whole[0] else 'failed'}, and {len(kept)} of "
            f"{len(worse) - 1} random ones succeeded.",
            fix="remove fewer examples, or repair the recipe.",
        )
    return one_against_many(float(worse[0].mean()), kept.mean(axis=1), level=LEVEL), kept


def _power(found: Comparison, controls: int, unit: str) -> str:
    if found.standard_error == 0:
        return "The random sets all came out the same: noise cannot be measured; use a finer measurement."
    seen = minimum_detectable(found.standard_error, found.freedom, level=LEVEL)
    return f"With {controls} random sets this sees {seen:.2g} {unit} beyond them at 80 % power."
