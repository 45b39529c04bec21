"""Power before the experiment: how many fits it takes to see an effect, from a few pilot fits.

The pilot's fits for ``lds`` and ``loo`` are the first ones of the verification itself, which reads them again if it is
given the same run.

Source for why: Card et al. (2020), "With Little Power Comes Great Responsibility". The formulas are those of the tests
in this folder.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Float

from steelyard.collect import pace
from steelyard.collect.designs import random_subsets
from steelyard.collect.fits import outcomes
from steelyard.errors import FitError, SettingError
from steelyard.maths.power import Components, components, minimum_detectable
from steelyard.maths.ranks import midranks, sort_columns
from steelyard.problem import Problem
from steelyard.records import Cost, Scores
from steelyard.run import Run, generator, in_memory
from steelyard.verify.design import LEVEL, aligned, gains, start

_ARMS = 6
_SEEDS = 2
_MOST = 100_000
_LEAST = 8
_SPREAD = 256


@dataclass(frozen=True)
class Forecast:
    """What a verification will need.

    Attributes:
        metric: Its name.
        effect: What is to be seen, in ``unit``.
        unit: Unit of the effect.
        fits: Fits with which it is seen in 80 % of repetitions at the 5 % level; None if no number is enough.
        design: These fits in words.
        pilot: Fits that this forecast took; they count towards ``fits``.
        says: All of it in one sentence.
    """

    metric: str
    effect: float
    unit: str
    fits: int | None
    design: str
    pilot: int
    says: str


def forecast(
    problem: Problem,
    scores: Scores,
    *,
    metric: str,
    effect: float | None = None,
    run: Run | None = None,
) -> Forecast:
    """How many fits a verification needs to see an effect, from a pilot of some dozen.

    ``"lds"`` and ``"loo"``: the effect is a correlation as endless repetitions of the fits would show it; training
    noise lowers what is seen, which is reckoned with. ``"qld"``, ``"retraining"``, ``"removal_curve"`` and
    ``"retain_curve"``: it is a difference from random sets in the unit of the measurement.

    Cost: 12 or 14 fits.

    Args:
        problem: Learner, training examples, queries.
        scores: What will be verified.
        metric: One of ``FORECAST``.
        effect: What must be seen. If None: a correlation of .2; or twice what one fit differs by between random sets.
        run: Where fits are kept, best that of the verification; in memory if None.

    Raises:
        SettingError: If the metric needs no fits or cannot be forecast, or the effect is not positive.
        FitError: If too many fits of the pilot failed.
    """
    if metric not in FORECAST:
        raise SettingError(
            f"there is no forecast for {metric!r}.", fix=f"it is offered for {', '.join(FORECAST)}."
        )
    if effect is not None and not effect > 0:
        raise SettingError(f"forecast: effect={effect}.", fix="give a positive effect.")
    return FORECAST[metric](problem, scores, effect, run or in_memory())


def _lds(problem: Problem, scores: Scores, effect: float | None, run: Run) -> Forecast:
    masks = random_subsets(problem, _ARMS, fraction=0.5, name="verification/lds")
    pace.predict(problem, run, Cost(fits=_ARMS * _SEEDS))
    found = outcomes(
        problem,
        np.repeat(masks, _SEEDS, axis=0),
        list(range(_SEEDS)) * len(masks),
        run,
        purpose="verification",
    )
    table = found.values.reshape(_ARMS, _SEEDS, -1)
    pair = aligned(problem, scores, asked="forecast")
    many = random_subsets(problem, _SPREAD, fraction=0.5, name="verification/forecast")
    predicted = sum(many[:, at : at + len(block)] @ block.astype(np.float64) for at, block in pair.blocks())
    return _correlation(
        "lds", table, np.asarray(predicted), effect or 0.2, total=len(problem.train), left_out=False
    )


def _loo(problem: Problem, scores: Scores, effect: float | None, run: Run) -> Forecast:
    total = len(problem.train)
    pace.predict(problem, run, Cost(fits=(1 + _ARMS) * _SEEDS))
    bench = start(problem, _SEEDS, run)
    rows = generator(problem.seed, "verification", "loo").permutation(total)[:_ARMS]
    masks = np.ones((len(rows), total))
    masks[np.arange(len(rows)), rows] = 0.0
    table, _ = gains(bench, masks)
    pair = aligned(problem, scores, asked="forecast")
    return _correlation(
        "loo", table, np.asarray(pair.values, dtype=np.float64), effect or 0.2, total=total, left_out=True
    )


def _sets(metric: str, size: float, *, keep: bool = False) -> Callable[..., Forecast]:
    """The forecast of a comparison with random sets of that share of the training examples."""

    def ask(problem: Problem, scores: Scores, effect: float | None, run: Run) -> Forecast:
        total = len(problem.train)
        pace.predict(problem, run, Cost(fits=(1 + _ARMS) * _SEEDS))
        bench = start(problem, _SEEDS, run)
        draw = generator(problem.seed, "verification", "forecast", metric)
        masks = np.full((_ARMS, total), 0.0 if keep else 1.0)
        for row in masks:
            row[draw.choice(total, max(1, round(size * total)), replace=False)] = 1.0 if keep else 0.0
        values, _ = gains(bench, masks)
        return _difference(metric, values.mean(axis=2), effect, problem.learner.measurement.unit)

    return ask


FORECAST: Mapping[str, Callable[[Problem, Scores, float | None, Run], Forecast]] = MappingProxyType(
    {
        "lds": _lds,
        "loo": _loo,
        "qld": _sets("qld", 0.1),
        "retraining": _sets("retraining", 0.05),
        "removal_curve": _sets("removal_curve", 0.1),
        "retain_curve": _sets("retain_curve", 0.4, keep=True),
    }
)
"""Metrics whose fits can be counted before."""


def _correlation(  # noqa: PLR0913 - what was measured, what is predicted, and how fits are counted
    metric: str,
    table: Float[np.ndarray, "arm seed query"],
    predicted: Float[np.ndarray, "item query"],
    effect: float,
    *,
    total: int,
    left_out: bool,
) -> Forecast:
    noun, extra, most = ("examples", 1, total) if left_out else ("subsets", 0, _MOST)
    whole = np.isfinite(table).all(axis=(1, 2))
    if whole.sum() < 3:
        raise FitError(
            f"forecast of {metric}: {int(whole.sum())} of {len(table)} pilot designs could be trained.",
            fix="repair the recipe first.",
        )
    kept = table[whole]
    inflation = _together(kept.mean(axis=1), predicted)
    seeds = kept.shape[1]
    parts = [components(kept[:, :, q]) for q in range(kept.shape[2])]
    options = [(s, _reached(parts, s)) for s in ((1, 2, 3, 5, 8, 12, 20) if seeds > 1 else (1,))]
    designs = [
        (s * (items + extra), items, s)
        for s, ceiling in options
        if ceiling > 0
        and (
            items := _items(effect * ceiling, inflation, queries=kept.shape[2], total=total, single=left_out)
        )
        <= most
    ]
    pilot = len(table) * seeds + extra * seeds
    if not designs:
        return Forecast(
            metric,
            effect,
            "correlation",
            None,
            "",
            pilot,
            f"{metric}: after a pilot of {pilot} fits, no number of fits would show a correlation of {effect:.2g}: it "
            f"drowns in training noise, or in what random scores of {total} examples reach by luck. Ask for a larger "
            "effect, or verify more queries.",
        )
    fits, items, s = min(designs)
    noise = dict(options)[s]
    return Forecast(
        metric,
        effect,
        "correlation",
        fits,
        f"{items} {noun} with {_seeds(s)}",
        pilot,
        f"{metric}: this needs {fits:,} fits ({items} {noun} with {_seeds(s)} each) to see a correlation of "
        f"{effect:.2g} in 80 % of repetitions; perfect scores would reach about {noise:.2g}. The pilot took {pilot}.",
    )


def _difference(
    metric: str, table: Float[np.ndarray, "arm seed"], effect: float | None, unit: str
) -> Forecast:
    kept = table[np.isfinite(table).all(axis=1)]
    if len(kept) < 3:
        raise FitError(
            f"forecast of {metric}: {len(kept)} of {len(table)} random sets could be trained.",
            fix="repair the recipe first.",
        )
    parts = components(kept)
    wanted = effect if effect is not None else 2 * parts.of_mean(1) ** 0.5
    pilot = table.size + table.shape[1]
    if wanted == 0:
        raise FitError(
            f"forecast of {metric}: random sets all come out the same, so that noise cannot be measured.",
            fix="choose a finer measurement, such as the loss.",
        )
    designs = [
        (s * (controls + 2), controls, s)
        for controls in (3, 4, 6, 8, 12, 16, 24, 40)
        for s in (1, 2, 3, 5, 8, 12, 20, 40)
        if _seen(parts, controls, s) <= wanted
    ]
    if not designs:
        says = (
            f"{metric}: no design of up to {40 * 42:,} fits would see a difference of {wanted:.3g} {unit} from random "
            f"sets, which themselves differ by {parts.between**0.5:.2g}. The pilot took {pilot} fits."
        )
        return Forecast(metric, wanted, unit, None, "", pilot, says)
    fits, controls, s = min(designs)
    steps = {"removal_curve": 4, "retain_curve": 3}.get(metric, 1)
    fits = s * (1 + steps * (controls + (2 if steps > 1 else 1)))
    design = f"{controls} random sets with {_seeds(s)}"
    return Forecast(
        metric,
        wanted,
        unit,
        fits,
        design,
        pilot,
        f"{metric}: this needs {fits:,} fits ({design} each) to see a difference of {wanted:.3g} {unit} from random "
        f"sets in 80 % of repetitions. The pilot took {pilot}.",
    )


def _seen(parts: Components, controls: int, seeds: int) -> float:
    error = (parts.of_mean(seeds) * (1 + 1 / controls)) ** 0.5
    return minimum_detectable(error, controls - 1, level=LEVEL)


def _items(effect: float, inflation: float, *, queries: int, total: int, single: bool) -> int:
    """Subsets or examples with which a correlation is confirmed in 80 % of repetitions; beyond ``_MOST`` if none.

    Confirmed needs both: an interval above 0, and more than 95 % of permuted scores reach. Those vary for two reasons:
    the fits, which more of them average out, and how so many random scores happen to lie to the truth, which stays.
    Where single examples are left out, there is one fit per score, and the second is the first. The interval resamples
    queries beside fits, which counts what a query and a fit do together three times instead of once.
    """
    items = np.arange(_LEAST, _MOST + 1)
    noise = np.sqrt(inflation / items)
    luck = noise if single else np.sqrt(inflation * (1 / items + 1 / total))
    width = np.sqrt((inflation + 2 / queries) / items)
    enough = np.maximum(1.96 * width, 1.645 * luck) + 0.84 * noise <= effect
    return int(items[enough.argmax()]) if enough.any() else _MOST + 1


def _reached(parts: list[Components], seeds: int) -> float:
    """Mean over the queries of the correlation that perfect predictions would reach."""
    shares = np.array([part.reliability(seeds) for part in parts])
    shares = shares[np.isfinite(shares)]
    return float(np.sqrt(shares).mean()) if len(shares) else 0.0


def _together(outcome: Float[np.ndarray, "arm query"], predicted: Float[np.ndarray, "item query"]) -> float:
    """Variance of the mean correlation over queries, relative to that of one query: 1 if all queries move together.

    Random correlations of two queries correlate by the product of how their outcomes and their predictions do.
    """
    both = _rank_correlation(outcome) * _rank_correlation(predicted)
    return float(np.clip(both.mean(), 1 / len(both), 1.0))


def _rank_correlation(values: np.ndarray) -> Float[np.ndarray, "query query"]:
    ranks = midranks(sort_columns(values))
    ranks = ranks - ranks.mean(axis=0)
    length = np.sqrt((ranks**2).sum(axis=0))
    ranks = ranks / np.where(length > 0, length, 1.0)
    return ranks.T @ ranks


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"
