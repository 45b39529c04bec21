"""Does a method say the same about a model trained again, and something else about one that learned nothing?"""

from collections.abc import Sequence

import numpy as np

from steelyard.errors import SettingError
from steelyard.maths.chance import Chance, permutations
from steelyard.maths.power import Comparison, paired
from steelyard.maths.ranks import midranks, sort_columns
from steelyard.problem import Problem
from steelyard.records import Evidence, Scores
from steelyard.records.evidence import Verdict
from steelyard.run import generator
from steelyard.verify.design import LEVEL, aligned, beyond_random, listed
from steelyard.verify.retrieval import provenance_of

_RANDOM = 199
_FEWEST = 2


def seed_stability(problem: Problem, sets: Sequence[Scores]) -> Evidence:
    """Rank agreement of scores of one method over models that differ in nothing but the seed.

    The estimate is Spearman's correlation of the scores of a query under two seeds, averaged over pairs of seeds and
    over queries. Its interval is Student's over the queries. The random control permutes the rows of one of two sets:
    scores that are drawn anew for every model agree by chance alone. Scores that are the same under every seed do not
    depend on the model, and their stability says nothing.

    High agreement does not make scores right: scores that ignore the model agree perfectly. Low agreement makes them
    useless for one model at a time: average them over several seeds, or train a model that depends less on its seed,
    such as by :func:`steelyard.learners.torch_averaging.averaged`.

    Cost: no fit here; whoever made the sets trained one model each.

    Args:
        problem: Training examples and queries.
        sets: Scores of the same examples and queries under different seeds; at least two.

    Returns:
        Evidence in correlation at 95 %; the table has one row per pair of seeds. Confirmed if the interval lies above 0
        and p is at most .05, refuted if it ends at or below 0, else inconclusive.

    Raises:
        SettingError: If there are fewer than two sets, or a set is constant for every query.
        DataError: If a set is about other examples.

    Source: rank agreement of attributions over seeds as in Madhyastha & Jain (2019), "On Model Stability as a Function
    of Random Seed"; interval and control are ours.
    """
    if len(sets) < _FEWEST:
        raise SettingError(
            f"seed_stability: {len(sets)} sets of scores.", fix="give scores of models of at least two seeds."
        )
    ranked = _unit_ranks(problem, sets, "seed_stability")
    pairs = [(a, b) for a in range(len(sets)) for b in range(a)]
    each = np.array([(ranked[a] * ranked[b]).sum(axis=0) for a, b in pairs])  # [pair, query]
    draw = generator(problem.seed, "verification", "seed_stability")
    orders = permutations(len(problem.train), draw)[1:]
    # One pair stands for all: a mean over pairs would vary less, so that this control is on the safe side.
    random = Chance(np.array([(ranked[1][order] * ranked[0]).sum(axis=0).mean() for order in orders]))
    found = paired(each.mean(axis=0), level=LEVEL)
    p_value, same = random.p_value(found.estimate), bool(np.ptp(np.stack(ranked), axis=0).max() == 0)
    low, high = random.interval(LEVEL)
    return Evidence(
        metric="seed_stability",
        subject=sets[0].method,
        estimate=found.estimate,
        interval=(max(-1.0, found.low), min(1.0, found.high)),
        level=LEVEL,
        unit="rank correlation over seeds",
        better="higher",
        control={"estimate": random.mean, "low": low, "high": high},
        p_value=p_value,
        verdict="inconclusive" if same else _verdict(found, p_value),
        power=_stable(each.shape[1], high, same=same),
        table={
            "seeds": [f"{a} and {b}" for a, b in pairs],
            "correlation": listed(each.mean(axis=1)),
        },
        provenance=provenance_of(
            sets[0],
            given={"by": "seed_stability", "sets": len(sets)},
            resolved={"pairs": len(pairs), "random_scores": len(random.draws)},
        ),
    )


def model_randomisation(problem: Problem, scores: Scores, again: Scores, untaught: Scores) -> Evidence:
    """Do scores depend on what the model has learned? Agreement with a retrained model beyond an untaught one.

    The source asks that scores of a model with random weights correlate little with those of the real one. Random
    scores pass that test perfectly, so it is set beside a second model that learned the same from another seed: the
    estimate is the correlation with the scores of the retrained model minus that with the untaught one, averaged over
    the queries. Scores that ignore the model, and random ones, get 0.

    Cost: no fit here; see :func:`seed_stability`.

    Args:
        problem: Training examples and queries.
        scores: Of the model that is explained.
        again: By the same method, of a model trained on the same examples with another seed.
        untaught: By the same method, of a model with random weights, or trained on shuffled labels.

    Returns:
        Evidence in correlation at 95 %; ``control`` holds random scores and, as ``untaught`` and ``retrained``, both
        correlations. Confirmed if the interval lies above 0 and p is at most .05, refuted if it ends at or below 0.

    Raises:
        SettingError: If all scores are constant.
        DataError: If a set is about other examples.

    Source: Bareeva et al. (2024), "Quanda", model randomisation, after Hanawa et al. (2021) and Adebayo et al. (2018);
    the retrained model as the other side of the comparison is ours.
    """
    own, other, nothing = _unit_ranks(problem, (scores, again, untaught), "model_randomisation")
    taught, left = (own * other).sum(axis=0), (own * nothing).sum(axis=0)
    draw = generator(problem.seed, "verification", "model_randomisation")
    orders = permutations(len(problem.train), draw)[1:]
    contrast = other - nothing
    random = Chance(np.array([(own[order] * contrast).sum(axis=0).mean() for order in orders]))
    found = paired(taught - left, level=LEVEL)
    p_value = random.p_value(found.estimate)
    low, high = random.interval(LEVEL)
    return Evidence(
        metric="model_randomisation",
        subject=scores.method,
        estimate=found.estimate,
        interval=(found.low, found.high),
        level=LEVEL,
        unit="rank correlation, retrained minus untaught",
        better="higher",
        control={
            "estimate": random.mean,
            "low": low,
            "high": high,
            "retrained": float(taught.mean()),
            "untaught": float(left.mean()),
        },
        p_value=p_value,
        verdict=_verdict(found, p_value),
        power=f"With {own.shape[1]} queries, a difference above {high:.2g} is told from chance.",
        table={
            "query": list(range(1, len(taught) + 1)),
            "retrained": listed(taught),
            "untaught": listed(left),
        },
        provenance=provenance_of(
            scores,
            given={"by": "model_randomisation"},
            resolved={
                "random_scores": len(random.draws),
                "untaught": untaught.provenance.seeds.get("problem"),
            },
        ),
    )


def cardinality(problem: Problem, scores: Scores, *, top: int = 10) -> Evidence:
    """Do different queries have different proponents? Distinct examples among all top proponents, as a share.

    A sanity check that scores can only fail: random scores name the most distinct examples of all, so that many of them
    prove nothing, but few say that the same examples lead every query's list, whatever is asked. Refuted where the
    queries together name no more than three times as many distinct examples as a single one does, although random
    scores would name over twice that; else inconclusive.

    Cost: no fit; one pass over the scores.

    Args:
        problem: Training examples and queries.
        scores: One column per query.
        top: Proponents per query.

    Returns:
        Evidence as a share of queries · top, with the exact interval over random scores as control.

    Raises:
        SettingError: If ``top`` is out of range or there are fewer than two queries.
        DataError: If the scores are about other examples.

    Source: Bareeva et al. (2024), "Quanda", top-k cardinality, after Barshan et al. (2020). Deviation: never
    confirmed, because random scores are the best at it.
    """
    total, queries = len(problem.train), len(problem.query)
    if not 1 <= top < total or queries < 2:
        raise SettingError(
            f"cardinality: top={top} of {total} training examples, {queries} queries.",
            fix="give at least one proponent, fewer than there are examples, and at least two queries.",
        )
    scores = aligned(problem, scores, asked="cardinality")
    leading = np.argpartition(-np.asarray(scores.values, dtype=np.float64), top - 1, axis=0)[:top]
    count = len(np.unique(leading))
    draw = generator(problem.seed, "verification", "cardinality")
    picks = (
        len(np.unique([draw.choice(total, top, replace=False) for _ in range(queries)]))
        for _ in range(_RANDOM)
    )
    random = Chance(np.fromiter(picks, dtype=np.float64) / (queries * top))
    low, high = random.interval(LEVEL)
    estimate = count / (queries * top)
    spread = _resampled(leading, draw)
    same = count <= 3 * top and random.mean * queries > 6
    return Evidence(
        metric="cardinality",
        subject=scores.method,
        estimate=estimate,
        interval=(min(estimate, spread[0]), max(estimate, spread[1])),
        level=LEVEL,
        unit=f"distinct share of top {top}",
        better="higher",
        control={"estimate": random.mean, "low": low, "high": high},
        p_value=None,
        verdict="refuted" if same else "inconclusive",
        power="This check can only fail scores: random ones name the most distinct examples of all.",
        table={"distinct": [count], "at_most": [queries * top], "top": [top]},
        provenance=provenance_of(
            scores, given={"by": "cardinality", "top": top}, resolved={"random_scores": len(random.draws)}
        ),
    )


def _verdict(found: Comparison, p_value: float) -> Verdict:
    verdict = beyond_random(found.low, found.high)
    return "inconclusive" if verdict == "confirmed" and p_value > 1 - LEVEL else verdict


def _stable(queries: int, border: float, *, same: bool) -> str:
    if same:
        return (
            "The scores are the same under every seed: they do not depend on the model, so this says nothing."
        )
    return f"With {queries} queries, agreement above {border:.2g} is told from chance."


def _unit_ranks(problem: Problem, sets: Sequence[Scores], asked: str) -> list[np.ndarray]:
    """Centred midranks of length 1 in every column, so that products are Spearman's correlations.

    Columns that are constant in one of the sets are left out of all.
    """
    found: list[np.ndarray] = []
    for scores in sets:
        values = np.asarray(aligned(problem, scores, asked=asked).values, dtype=np.float64)
        ranks = midranks(sort_columns(values))
        found.append(ranks - ranks.mean(axis=0))
    lengths = np.stack([np.sqrt((ranks**2).sum(axis=0)) for ranks in found])
    used = np.asarray((lengths > 0).all(axis=0))
    if used.sum() < _FEWEST:
        raise SettingError(
            f"{asked}: {int(used.sum())} of {len(used)} queries have scores that differ between training examples.",
            fix="give at least two such queries, or choose a measurement that varies.",
        )
    return [
        (ranks / np.where(length > 0, length, 1.0))[:, used]
        for ranks, length in zip(found, lengths, strict=True)
    ]


def _resampled(leading: np.ndarray, draw: np.random.Generator) -> tuple[float, float]:
    """Interval over the queries. Drawing some of them twice loses distinct examples, so half of them are left out."""
    queries = leading.shape[1]
    half = max(1, queries // 2)
    shares = [
        len(np.unique(leading[:, draw.permutation(queries)[:half]])) / (half * len(leading))
        for _ in range(_RANDOM)
    ]
    spread = 1.96 * float(np.std(shares)) * (half / queries) ** 0.5
    whole = len(np.unique(leading)) / leading.size
    return max(0.0, whole - spread), min(1.0, whole + spread)
