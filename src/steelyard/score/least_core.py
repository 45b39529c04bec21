"""Least core (Yan & Procaccia 2021): shares of the whole gain with which no coalition would rather be alone."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from steelyard.collect import coalitions
from steelyard.collect.games import Game, Rules
from steelyard.collect.players import players_of
from steelyard.errors import SettingError
from steelyard.maths.least_core import Shares, least_core
from steelyard.problem import Problem
from steelyard.records import Cost, Scores, Uncertainty
from steelyard.run import Run, in_memory
from steelyard.score.driver import MethodCard, begin, make_scores
from steelyard.score.sampling import Effort, Sampler, gather
from steelyard.score.semivalues import Draws

_PARTS = 5
_LEAST = 4 * _PARTS
Rows = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class LeastCore:
    r"""Share of every training example in what training on all of them gains, averaged over the queries.

    Shares add up to u(everybody) - u(nobody). They are those for which the largest deficit
    :math:`u(S) - u(\emptyset) - \sum_{i \in S} x_i` of any drawn coalition S is smallest, at least 0, and among these
    the most equal ones. The record says how large that deficit is, and which share of coalitions that were held out
    would be short by more. Standard errors come from leaving out a fifth of the coalitions at a time; they are rough,
    because shares are corners of a polytope.

    Cost: ``fits`` fits, then six linear programmes with as many constraints. Made for groups and small data: with
    fewer coalitions than players most shares stay equal.

    Args:
        fits: Budget.
        seconds: Stop after so long; 0: never.
        seeds: Training seeds to average over, in turns.
        groups: Shares of the groups that this column names, instead of examples.
        nobody: Measurement after training on nothing; ``"auto"``: what chance gives.
        smallest: Coalitions of fewer players are not trained; they are worth as much as nobody.

    Source: Yan & Procaccia (2021), "If You Like Shapley Then You'll Love the Core", with uniformly drawn coalitions.
    """

    fits: int = 1000
    seconds: float | int = 0.0
    seeds: int = 1
    groups: str = ""
    nobody: float | int | str = "auto"
    smallest: int = 1
    card: ClassVar[MethodCard] = MethodCard(
        paper="Yan & Procaccia 2021, If You Like Shapley Then You'll Love the Core",
        needs="refits",
        cost="the fits you give, and linear programmes",
        good_for="paying groups that could walk away with their data",
    )

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise SettingError(f"LeastCore: seeds={self.seeds}.", fix="give at least one seed.")

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """One share per training example or group in the unit of the measurement; positive helps.

        Raises:
            SettingError: If the budget is too small; the error says what would do.
            NumericsError: If outcomes never differ, or a solver fails.
        """
        run = run or in_memory()
        started = begin(self, problem, run)
        rules = Rules(self.fits, self.nobody, self.smallest)
        game = Game(problem, run, players_of(problem.train, self.groups), rules)
        draws = Draws(problem.seed, self.seeds)
        nobody = float(game.nobody().mean())
        total = float(game.everybody(self.seeds).mean()) - nobody

        def draw(units: range) -> Rows:
            masks = coalitions.independent(draws.seed, len(game.players), units, probability=0.5)
            return masks, game.play_some(masks, draws.of(units)).mean(axis=1) - nobody

        effort = Effort(self.fits, seconds=self.seconds)
        gathered = gather(
            Sampler(1, draw, least=_LEAST), game, effort, run, method="LeastCore", combine=_stack
        )
        game.check_varied()
        if note := game.note():
            run.note(note)
        masks, gains = gathered.state
        known = np.isfinite(gains)
        shares, errors, facts = _solve(masks[known], gains[known], total)
        values = game.players.rows(shares.values[:, None])
        spread = game.players.rows(errors[:, None])
        scores = make_scores(
            self,
            problem,
            values,
            run,
            unit=problem.learner.measurement.unit,
            axis="example",
            query_ids=("all queries",),
            train_ids=game.players.shown,
            suspect="low",
            resolved={
                "players": len(game.players),
                "fits": game.spent,
                "stopped by": gathered.stopped,
                **facts,
            },
            started=started,
        )
        return replace(scores, uncertainty=Uncertainty(spread, spread[:, 0], _PARTS - 1)).check_finite()

    def predict(self, problem: Problem) -> Cost:
        """The budget."""
        return Cost(fits=self.fits)


def _solve(masks: np.ndarray, gains: np.ndarray, total: float) -> tuple[Shares, np.ndarray, dict[str, Any]]:
    """Shares from all coalitions, their jackknife errors, and how they serve coalitions that were held out."""
    whole = least_core(masks, gains, total)
    part = np.arange(len(gains)) % _PARTS
    without = [least_core(masks[part != number], gains[part != number], total) for number in range(_PARTS)]
    values = np.stack([found.values for found in without])
    errors = np.sqrt(np.square(values - values.mean(axis=0)).sum(axis=0) * (_PARTS - 1) / _PARTS)
    short = [
        gains[part == number] - masks[part == number] @ found.values > found.deficit + 1e-9 * abs(total)
        for number, found in enumerate(without)
    ]
    facts = {
        "deficit": whole.deficit,
        "share of held-out coalitions short by more": float(np.mean(np.concatenate(short))),
        "gain of everybody": total,
    }
    return whole, errors, facts


def _stack(first: Rows, second: Rows) -> Rows:
    return np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]])
