"""Datamodels (Ilyas et al. 2022) and average marginal effects (Lin et al. 2022): linear models of many fits.

Both regress what each query measured after every fit on who took part in it. They differ in how coalitions are drawn:
with one probability (datamodels), or with several, which makes the weights effects averaged over sizes of the
training set (AME).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from steelyard.collect import coalitions
from steelyard.collect.games import Game, Rules
from steelyard.collect.players import players_of
from steelyard.errors import NumericsError, SettingError
from steelyard.maths.knockoffs import knockoff_filter, knockoff_wins
from steelyard.maths.regression import FOLDS, Kind, LinearModels, linear_models
from steelyard.problem import Problem
from steelyard.records import Cost, Scores
from steelyard.run import Run, in_memory
from steelyard.run.seeds import generator
from steelyard.score.driver import MethodCard, Started, begin
from steelyard.score.sampling import Effort, Estimate, Sampler, gather, value_scores, with_mean
from steelyard.score.semivalues import Draws

_LEAST = 4 * FOLDS
Rows = tuple[np.ndarray, np.ndarray]
Select = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Datamodels:
    r"""Weight of every training example in a linear model that predicts each query from who took part in the training.

    .. math:: u_q(S) \approx \theta_{0q} + \sum_{i \in S} \theta_{iq},

    fitted to random subsets for every query, with a penalty chosen on held-out fits. Removing example i is predicted
    to make query q worse by its weight, and the weights of several examples add up. The correlation of predictions
    with outcomes of fits that were held out is in the record: below about 0.3, weights say little, and more fits are
    needed. A penalty pulls weights towards 0, which standard errors do not contain.

    Cost: ``fits`` fits; then for ridge six singular value decompositions of a fits x n matrix for all queries
    together, for lasso 78 coordinate descents per query.

    Args:
        regression: ``"ridge"``: all weights, with standard errors; ``"lasso"``: few weights, with rough standard
            errors (leaving out a fifth of the fits at a time).
        fraction: Probability that an example takes part in a fit.
        fits: Budget.
        seconds: Stop after so long; 0: never.
        seeds: Training seeds to average over, in turns.
        groups: Weights of the groups that this column names, instead of examples.

    Example:
        >>> Datamodels(regression="lasso").fits
        1000

    Source: Ilyas et al. (2022), "Datamodels: Predicting Predictions from Training Data". Deviations: every example
    takes part independently instead of subsets of one size, so that fits are shared with ``Banzhaf``; the outcome is
    the learner's own measurement, not always the margin; ridge is offered and the default.
    """

    regression: Kind = "ridge"
    fraction: float = 0.5
    fits: int = 1000
    seconds: float | int = 0.0
    seeds: int = 1
    groups: str = ""
    card: ClassVar[MethodCard] = MethodCard(
        paper="Ilyas et al. 2022, Datamodels: Predicting Predictions from Training Data",
        needs="refits",
        cost="the fits you give; about as many as examples, or more",
        good_for="predicting what removing many examples at once does to each query; selection for a target",
    )

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1 or self.seeds < 1:
            raise SettingError(
                f"Datamodels: fraction={self.fraction}, seeds={self.seeds}.",
                fix="give a fraction above 0 and below 1, and at least one seed.",
            )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Weights in the unit of the measurement; positive helps.

        Raises:
            SettingError: If the budget is too small; the error says what would do.
            NumericsError: If outcomes never differ, or too many fits fail.
        """
        run = run or in_memory()
        started = begin(self, problem, run)
        game = Game(problem, run, players_of(problem.train, self.groups), Rules(self.fits))
        draws = Draws(problem.seed, self.seeds)

        def draw(units: range) -> Rows:
            masks = coalitions.independent(draws.seed, len(game.players), units, probability=self.fraction)
            return masks.astype(np.float64), game.play_some(masks, draws.of(units))

        return _regressed(self, problem, run, game, draw, started=started, scale=1.0)

    def predict(self, problem: Problem) -> Cost:
        """The budget."""
        return Cost(fits=self.fits)


@dataclass(frozen=True)
class AME:
    r"""Average marginal effect of every training example: what adding it does, over training sets of several sizes.

    A probability p is drawn for every fit, and every example takes part with it. The effect is the regression weight
    on 1/p where the example takes part and -1/(1-p) where it does not, which is uncorrelated between examples. With
    few examples that matter, lasso finds them with far fewer fits than there are examples. With p uniform on (0, 1)
    the effect is the Shapley value; the few probabilities of the default stay away from the ends, where fits say
    little.

    With ``fdr`` above 0, knock-offs say whose effect is not chance: every coalition is drawn a second time with its
    probability but not trained, and an example is selected for a query if its weight beats that of its second draw so
    clearly that at most that share of all selected is expected to be wrong. Effects that are not selected become 0;
    their standard errors stay. No linear model is assumed. Either nothing or at least 1 / fdr examples are selected for
    a query, so that fewer effects than that cannot be told. The record names those selected for the mean over the
    queries, and how many each query has.

    Cost: ``fits`` fits and that of the regression, as for ``Datamodels``; with ``fdr`` a second regression on twice as
    many features.

    Args:
        regression: ``"lasso"`` or ``"ridge"``.
        probabilities: Of taking part; one is drawn for every fit.
        fits: Budget.
        seconds: Stop after so long; 0: never.
        seeds: Training seeds to average over, in turns.
        groups: Effects of the groups that this column names, instead of examples.
        fdr: Share of false ones among the selected, such as 0.1; 0: no selection.

    Source: Lin et al. (2022), "Measuring the Effect of Training Data on Deep Learning Predictions via Randomized
    Experiments"; its false positive control is by model-X knock-offs, see ``maths/knockoffs.py``. Deviations: penalty
    chosen per query by five folds; effects of both signs are selected, every query and their mean apart; no hierarchy
    of sources.
    """

    regression: Kind = "lasso"
    probabilities: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    fits: int = 1000
    seconds: float | int = 0.0
    seeds: int = 1
    groups: str = ""
    fdr: float | int = 0.0
    card: ClassVar[MethodCard] = MethodCard(
        paper="Lin et al. 2022, Measuring the Effect of Training Data on Deep Learning Predictions",
        needs="refits",
        cost="the fits you give",
        good_for="finding the few examples or sources that matter, with few fits",
    )

    def __post_init__(self) -> None:
        if not self.probabilities or not all(0 < p < 1 for p in self.probabilities) or self.seeds < 1:
            raise SettingError(
                f"AME: probabilities={self.probabilities}, seeds={self.seeds}.",
                fix="give probabilities above 0 and below 1, such as 0.2,0.4,0.6,0.8, and at least one seed.",
            )
        if not 0 <= self.fdr < 1:
            raise SettingError(f"AME: fdr={self.fdr}.", fix="give 0 (no selection), or a share such as 0.1.")

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Effects in the unit of the measurement; positive helps.

        Raises:
            SettingError: If the budget is too small; the error says what would do.
            NumericsError: If outcomes never differ, or too many fits fail.
        """
        run = run or in_memory()
        started = begin(self, problem, run)
        game = Game(problem, run, players_of(problem.train, self.groups), Rules(self.fits))
        draws = Draws(problem.seed, self.seeds)
        levels = np.array(self.probabilities, dtype=np.float64)
        variance = float(np.mean(1.0 / (levels * (1.0 - levels))))
        players, among = len(game.players), tuple(self.probabilities)

        def draw(units: range) -> Rows:
            masks, p = coalitions.mixed(draws.seed, players, units, probabilities=among)
            return _centred(masks, p), game.play_some(masks, draws.of(units))

        def select(features: np.ndarray, utilities: np.ndarray, known: np.ndarray) -> np.ndarray:
            rows = range(len(known))
            _, p = coalitions.mixed(draws.seed, players, rows, probabilities=among)
            copies = _centred(coalitions.copies(draws.seed, rows, p, players=players), p)[known]
            tie = generator(draws.seed, "knockoffs")
            wins = knockoff_wins(features, copies, utilities, kind=self.regression, draw=tie)
            return knockoff_filter(wins, rate=float(self.fdr))

        # A feature has mean 0 and this variance, so the effect is its covariance with the outcome.
        return _regressed(
            self,
            problem,
            run,
            game,
            draw,
            started=started,
            scale=variance,
            select=select if self.fdr else None,
        )

    def predict(self, problem: Problem) -> Cost:
        """The budget."""
        return Cost(fits=self.fits)


def _centred(masks: np.ndarray, p: np.ndarray) -> Float[np.ndarray, "coalition player"]:
    """Features of mean 0 that are not correlated between players."""
    return np.where(masks, 1.0 / p[:, None], -1.0 / (1.0 - p[:, None]))


def _regressed(  # noqa: PLR0913 - what both classes have at hand
    method: Datamodels | AME,
    problem: Problem,
    run: Run,
    game: Game,
    draw: Any,
    *,
    started: Started,
    scale: float,
    select: Select | None = None,
) -> Scores:
    name = type(method).__name__
    effort = Effort(method.fits, seconds=method.seconds)
    gathered = gather(Sampler(1, draw, least=_LEAST), game, effort, run, method=name, combine=_stack)
    features, utilities = gathered.state
    known = np.isfinite(utilities).all(axis=1)
    if known.sum() < _LEAST:
        raise NumericsError(
            f"{name}: only {int(known.sum())} of {len(known)} fits have an outcome. {game.note()}",
            fix="make the fits succeed on random subsets: give larger ones, or more examples of each class.",
        )
    game.check_varied()
    found = linear_models(features[known], with_mean(utilities[known]), kind=method.regression)
    if found.unconverged:
        run.note(f"{name}: {found.unconverged} lasso fits did not reach their tolerance")
    weights, facts = _exact_mean(found), _facts(found)
    if select is not None:
        chosen = select(features[known], with_mean(utilities[known]), known)
        weights = np.where(chosen, weights, 0.0)
        facts |= _selection(chosen, game)
        if not chosen.any():
            run.note(
                f"{name}: no effect stands out from its knock-off; more fits, or a larger fdr=, may show some"
            )
    estimate = Estimate(scale * weights, scale * found.errors, gathered.units, gathered.stopped)
    freedom = max(1, int(known.sum()) - 1) if method.regression == "ridge" else FOLDS - 1
    return value_scores(
        method, problem, run, game, estimate, started=started, freedom=freedom, resolved=facts
    )


def _exact_mean(found: LinearModels) -> Float[np.ndarray, "feature column"]:
    """Weights with the mean over queries in the last column: that of the columns, whose penalties differ."""
    return with_mean(found.weights[:, :-1])


def _facts(found: LinearModels) -> dict[str, Any]:
    correlation = found.correlation[:-1]
    known = correlation[np.isfinite(correlation)]
    return {
        "out-of-sample correlation, median over queries": float(np.median(known)) if len(known) else None,
        "out-of-sample correlation of the mean over queries": _number(found.correlation[-1]),
        "penalty, median over queries": float(np.median(found.penalties[:-1])),
        "out-of-sample correlation by query": [_number(value) for value in correlation],
    }


def _selection(chosen: np.ndarray, game: Game) -> dict[str, Any]:
    return {
        "selected for the mean over queries": game.players.names[chosen[:, -1]].tolist(),
        "selected, by query": chosen[:, :-1].sum(axis=0).tolist(),
    }


def _number(value: float | np.floating) -> float | None:
    return float(value) if np.isfinite(value) else None


def _stack(first: Rows, second: Rows) -> Rows:
    return np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]])
