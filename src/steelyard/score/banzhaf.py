"""Data Banzhaf (Wang & Jia 2023) by maximum sample reuse: every fit says something about every example."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from steelyard.collect import coalitions
from steelyard.collect.games import Game, Rules
from steelyard.collect.players import players_of
from steelyard.errors import SettingError
from steelyard.maths.tallies import Tally, difference_of_means, merge, tally_where
from steelyard.problem import Problem
from steelyard.records import Cost, Scores
from steelyard.run import Run, in_memory
from steelyard.score.driver import MethodCard, begin
from steelyard.score.sampling import Effort, Sampler, estimate, value_scores, with_mean
from steelyard.score.semivalues import Draws

_LEAST = 32  # below that, some example is likely to be always in or always out
Sides = tuple[Tally, Tally]


@dataclass(frozen=True)
class Banzhaf:
    r"""Banzhaf value of every training example, for every query.

    .. math:: \phi_i = E\left[u(S) \mid i \in S\right] - E\left[u(S) \mid i \notin S\right]

    over coalitions that every example joins with probability 1/2. It is the semivalue whose ranking stands the most
    noise in the utility. Values do not add up to the whole gain. The estimate is the mean utility with the example
    minus the mean without it, over all fits; the standard error is Welch's for the difference of these two means.

    Cost: ``fits`` fits of half the training set, whatever n is.

    Args:
        fits: Budget.
        precision: Stop once the standard errors of all values (means over the queries) are at most this.
        seconds: Stop after so long; 0: never.
        seeds: Training seeds to average over, in turns.
        groups: Value the groups that this column names, instead of examples.

    Example:
        >>> Banzhaf(fits=500)
        Banzhaf(fits=500, precision=0.0, seconds=0.0, seeds=1, groups='')

    Source: Wang & Jia (2023), "Data Banzhaf: A Robust Data Valuation Framework for Machine Learning", the estimator by
    maximum sample reuse. Deviation: per query as well as for their mean.
    """

    fits: int = 1000
    precision: float | int = 0.0
    seconds: float | int = 0.0
    seeds: int = 1
    groups: str = ""
    card: ClassVar[MethodCard] = MethodCard(
        paper="Wang & Jia 2023, Data Banzhaf: A Robust Data Valuation Framework for Machine Learning",
        needs="refits",
        cost="the fits you give, of half the data",
        good_for="values of many examples from few fits, and of learners whose training is noisy",
    )

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise SettingError(f"Banzhaf: seeds={self.seeds}.", fix="give at least one seed.")

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Values in the unit of the measurement; positive helps.

        Raises:
            SettingError: If the budget is too small; the error says what would do.
            NumericsError: If outcomes never differ, or too many fits fail.
        """
        run = run or in_memory()
        started = begin(self, problem, run)
        game = Game(problem, run, players_of(problem.train, self.groups), Rules(self.fits))
        draws = Draws(problem.seed, self.seeds)

        def draw(units: range) -> Sides:
            masks = coalitions.independent(draws.seed, len(game.players), units, probability=0.5)
            return sides(masks, with_mean(game.play_some(masks, draws.of(units))))

        sampler = Sampler(1, draw, least=_LEAST)
        effort = Effort(self.fits, self.precision, self.seconds)
        found = estimate(
            sampler,
            game,
            effort,
            run,
            method="Banzhaf",
            finish=lambda both: difference_of_means(*both),
            combine=_add,
        )
        return value_scores(self, problem, run, game, found, started=started, freedom=max(1, found.units - 2))

    def predict(self, problem: Problem) -> Cost:
        """The budget."""
        return Cost(fits=self.fits)


def sides(masks: np.ndarray, utilities: np.ndarray) -> Sides:
    """Tallies of the utilities with each player and without."""
    return tally_where(masks, utilities), tally_where(~masks, utilities)


def _add(first: Sides, second: Sides) -> Sides:
    return merge(first[0], second[0]), merge(first[1], second[1])
