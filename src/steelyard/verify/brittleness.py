"""Brittleness: how few of a query's strongest proponents must go until its prediction flips."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from steelyard.collect import pace
from steelyard.errors import FitError, SettingError
from steelyard.maths.chance import share_interval
from steelyard.maths.power import Comparison, minimum_detectable, one_against_many, paired
from steelyard.problem import HasVariants, Problem, require
from steelyard.records import Cost, Evidence, Scores
from steelyard.records.evidence import Verdict
from steelyard.records.top import extremes
from steelyard.run import Run, generator, in_memory
from steelyard.verify.design import LEVEL, aligned, beyond_random, finish, gains, listed, start

_FEWEST = 3


def brittleness(  # noqa: PLR0913 - three about what is removed, two about noise; all named
    problem: Problem,
    scores: Scores,
    *,
    queries: int = 8,
    shares: Sequence[float] = (0.01, 0.02, 0.05, 0.1, 0.2),
    seeds: int = 1,
    controls: int = 8,
    run: Run | None = None,
) -> Evidence:
    """How often removing a query's strongest proponents flips its prediction, beside removing random examples.

    For some queries that the model answers correctly, ever more of each one's own proponents are removed and the
    learner is refitted, until its label no longer leads all others (the mean lead over the seeds falls below 0). Random
    chains of nested sets, which all queries and methods share, stand beside. The estimate is the share of removals,
    over queries and sizes, at or before which the prediction has flipped: the sooner, the larger. With sizes that
    double from one to the next it falls by the same amount whenever twice as many examples are needed. The table gives
    the smallest number of examples for each query.

    Whether this is more than chance is asked of the lead that queries lose, which is finer than flips: is the mean loss
    a further draw from that of the random chains? Confirmed also needs more flips than random removals make.

    Cost: seeds · (1 + sizes · (queries + controls)) fits; the first and the controls are shared by all methods.

    Args:
        problem: Learner that predicts classes, training examples, queries.
        scores: One column per query, in any unit: only their order counts.
        queries: How many to ask about, at most; chosen at random among those answered correctly.
        shares: Of the training examples, to be removed; ascending, each above 0 and at most .5.
        seeds: Training seeds per removal, paired.
        controls: Random chains.
        run: Where fits are kept; in memory if None.

    Returns:
        Evidence in flips between 0 and 1, at 95 %: Student's interval over the queries.

    Raises:
        SettingError: If ``shares``, ``queries`` or ``controls`` has no meaning.
        DataError: If the scores are about other examples.
        CapabilityError: If the learner cannot be asked for the lead of the correct class.
        FitError: If too few fits succeeded, or fewer than two queries are answered correctly.

    Source: Ilyas et al. (2022), "Datamodels", data supports, and the counterfactual evaluation of Bae et al. (2024),
    "Training Data Attribution via Approximate Unrolled Differentiation". Deviations: the area over a grid of sizes
    instead of one smallest number, which need not exist; random chains and the test are ours.
    """
    run = run or in_memory()
    total, sizes = len(problem.train), _sizes(problem, shares, queries, controls)
    scores, asked = aligned(problem, scores, asked="brittleness"), _leading(problem)
    predicted = seeds * (1 + len(sizes) * (min(queries, len(problem.query)) + controls))
    pace.predict(asked, run, Cost(fits=predicted))
    bench = start(asked, seeds, run)
    chosen = _answered(bench.full.mean(axis=0), asked, queries)
    best = extremes(scores.blocks(), sizes[-1], highest=True).rows[:, chosen]
    draw = generator(problem.seed, "verification", "brittleness")
    chains = [*best.T, *(draw.permutation(total)[: sizes[-1]] for _ in range(controls))]
    masks = np.ones((len(chains) * len(sizes), total))
    for row, (chain, size) in zip(masks, ((c, s) for c in chains for s in sizes), strict=True):
        row[chain[:size]] = 0.0
    changes, note = gains(bench, masks)
    lost = -changes.mean(axis=1).reshape(len(chains), len(sizes), -1)[:, :, chosen]
    found = _compare(lost, bench.full.mean(axis=0)[chosen])
    low, high = found.interval()
    unit = asked.learner.measurement.unit
    return Evidence(
        metric="brittleness",
        subject=scores.method,
        estimate=found.estimate,
        interval=(low, high),
        level=LEVEL,
        unit="share of removals that flip",
        better="higher",
        control={"estimate": found.random_flips, "lead_lost": found.lead.estimate},
        p_value=found.lead.p_value,
        verdict=found.verdict(),
        power=_power(found, unit, sizes),
        table=_table(found, np.asarray(problem.query.ids)[chosen], sizes),
        provenance=finish(
            bench,
            given={
                "by": "brittleness",
                "queries": queries,
                "shares": list(shares),
                "seeds": seeds,
                "controls": controls,
            },
            resolved={"sizes": sizes, "queries": len(found.flips), "controls_used": found.controls},
            notes=[note],
            predicted=predicted,
        ),
    )


@dataclass(frozen=True, eq=False)
class _Found:
    """What removals did.

    Attributes:
        used: ``int64[" used"]`` Positions among the chosen queries of those whose removals could all be fitted.
        flips: ``bool["used size"]`` Whether the query had flipped at or before that size.
        random: ``bool["control used size"]`` The same for random chains.
        lead: Mean lead lost beside that of random chains.
    """

    used: np.ndarray
    flips: np.ndarray
    random: np.ndarray
    lead: Comparison

    @property
    def estimate(self) -> float:
        return float(self.flips.mean())

    @property
    def random_flips(self) -> float:
        return float(self.random.mean())

    @property
    def controls(self) -> int:
        return len(self.random)

    def interval(self) -> tuple[float, float]:
        """Over the queries; where all are alike, what so many queries leave open."""
        each = self.flips.mean(axis=1)
        if np.ptp(each) == 0 and each[0] in (0.0, 1.0):
            return share_interval(int(each.sum()), len(each), level=LEVEL)
        spread = paired(each, level=LEVEL)
        return max(0.0, spread.low), min(1.0, spread.high)

    def verdict(self) -> Verdict:
        found = beyond_random(self.lead.low, self.lead.high)
        if self.lead.p_value > 1 - LEVEL and self.lead.standard_error == 0:
            return "inconclusive"
        if found == "confirmed" and self.estimate <= self.random_flips:
            return "inconclusive"
        return found


def _sizes(problem: Problem, shares: Sequence[float], queries: int, controls: int) -> list[int]:
    total = len(problem.train)
    bad = [share for share in shares if not 0 < share <= 0.5]
    if bad or not shares or queries < 2 or controls < _FEWEST:
        raise SettingError(
            f"brittleness: shares={list(shares)}, queries={queries}, controls={controls}.",
            fix=f"give shares above 0 and up to .5, at least two queries and {_FEWEST} random chains.",
        )
    return sorted({max(1, round(share * total)) for share in shares})


def _leading(problem: Problem) -> Problem:
    """The problem that asks for the lead of the correct class over all others."""
    if problem.learner.measurement.name == "lead":
        return problem
    learner = require(problem.learner, HasVariants, method="brittleness", instead="verify.qld").measuring(
        "lead"
    )
    return Problem(learner, problem.train, problem.query, seed=problem.seed)


def _answered(lead: Float[np.ndarray, " query"], problem: Problem, count: int) -> Int[np.ndarray, " chosen"]:
    order = generator(problem.seed, "verification", "brittleness", "queries").permutation(len(lead))
    chosen = np.sort(order[lead[order] > 0][:count])
    if len(chosen) < 2:
        raise FitError(
            f"brittleness: {int((lead > 0).sum())} of {len(lead)} queries are answered correctly.",
            fix="ask about queries that the model gets right: only these can flip.",
        )
    return chosen


def _compare(lost: Float[np.ndarray, "chain size chosen"], full: Float[np.ndarray, " chosen"]) -> _Found:
    """The first chains belong to the chosen queries, one each; the others are random."""
    count = len(full)
    own = np.stack([lost[q, :, q] for q in range(count)])
    used = np.flatnonzero(np.isfinite(own).all(axis=1))
    others = lost[count:][:, :, used].transpose(0, 2, 1)
    others = others[np.isfinite(others).all(axis=(1, 2))]
    if len(used) < 2 or len(others) < _FEWEST:
        raise FitError(
            f"brittleness: the removals of {len(used)} of {count} queries and {len(others)} of {len(lost) - count} "
            "random chains could be fitted.",
            fix="remove fewer examples, or repair the recipe.",
        )
    lead = one_against_many(float(own[used].mean()), others.mean(axis=(1, 2)), level=LEVEL)
    return _Found(used, _flipped(own[used], full[used]), _flipped(others, full[used]), lead)


def _flipped(lost: np.ndarray, full: np.ndarray) -> Bool[np.ndarray, "..."]:
    return np.logical_or.accumulate(full[:, None] - lost < 0, axis=-1)


def _power(found: _Found, unit: str, sizes: list[int]) -> str:
    if found.lead.standard_error == 0:
        return "The random chains all came out the same: noise cannot be measured; use a finer measurement."
    seen = minimum_detectable(found.lead.standard_error, found.lead.freedom, level=LEVEL)
    text = (
        f"With {found.controls} random chains this sees a loss of lead above {seen:.2g} {unit} at 80 % power"
    )
    if not found.flips.any():
        return f"{text}. No removal of up to {sizes[-1]} examples flips anything: remove more."
    needed = _smallest(found.flips, sizes)
    flipped = [size for size in needed if size is not None]
    return (
        f"{text}. {len(flipped)} of {len(needed)} predictions flip, half of these by removing "
        f"{int(np.median(flipped))} examples or fewer."
    )


def _smallest(flips: Bool[np.ndarray, "query size"], sizes: list[int]) -> list[int | None]:
    return [sizes[int(row.argmax())] if row.any() else None for row in flips]


def _table(found: _Found, names: np.ndarray, sizes: list[int]) -> dict[str, list[Any]]:
    return {
        "query_id": listed(names[found.used]),
        "smallest": list(_smallest(found.flips, sizes)),
        "flips": listed(found.flips.mean(axis=1)),
        "random_flips": listed(found.random.mean(axis=(0, 2))),
    }
