"""Class-wise Shapley (Schoch, Xu & Ji 2022): what an example does for its own class, less so for the others."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from steelyard.collect import coalitions
from steelyard.collect.games import Game, Rules
from steelyard.collect.players import classes_of, players_of
from steelyard.errors import CapabilityError, SettingError
from steelyard.maths.semivalues import permutation_contributions
from steelyard.maths.tallies import Tally, tally
from steelyard.problem import Problem
from steelyard.records import Cost, Scores, Uncertainty
from steelyard.run import Run, in_memory
from steelyard.score.driver import MethodCard, begin, make_scores
from steelyard.score.sampling import Effort, Sampler, estimate
from steelyard.score.semivalues import Draws


@dataclass(frozen=True)
class ClassWiseShapley:
    r"""Shapley value of every training example among those of its class, in random surroundings of the other classes.

    .. math:: u_c(S) = a_c(S)\, e^{a_{-c}(S)},

    with :math:`a_c` the share of all queries that are of class c and right, :math:`a_{-c}` that of the other classes.
    The value is the Shapley value of this game among the examples of class c, averaged over surroundings: random
    halves of the examples of all other classes.

    Cost: ``fits`` fits; one round of all classes takes n + classes.

    Args:
        fits: Budget.
        precision: Stop once the standard errors of all values are at most this.
        seconds: Stop after so long; 0: never.
        seeds: Training seeds to average over, in turns.
        nobody: Accuracy after training on nothing; ``"auto"``: what chance gives.
        smallest: Coalitions of fewer examples are not trained; they are worth as much as nobody.

    Source: Schoch, Xu & Ji (2022), "CS-Shapley: Class-wise Shapley Values for Data Valuation in Classification".
    Deviations: no truncation; values are not rescaled to add up to the accuracy of each class.
    """

    fits: int = 2000
    precision: float | int = 0.0
    seconds: float | int = 0.0
    seeds: int = 1
    nobody: float | int | str = "auto"
    smallest: int = 1
    card: ClassVar[MethodCard] = MethodCard(
        paper="Schoch, Xu & Ji 2022, CS-Shapley: Class-wise Shapley Values for Data Valuation in Classification",
        needs="refits, accuracy as the measurement",
        cost="the fits you give; n + classes per round",
        good_for="examples that harm their own class",
    )

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise SettingError(f"ClassWiseShapley: seeds={self.seeds}.", fix="give at least one seed.")

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """One value per training example in accuracy; positive helps.

        Raises:
            CapabilityError: If the measurement is not accuracy, or labels are no classes.
            SettingError: If the budget is too small; the error says what would do.
            NumericsError: If outcomes never differ.
        """
        run = run or in_memory()
        started = begin(self, problem, run)
        players = players_of(problem.train)
        game = Game(problem, run, players, Rules(self.fits, self.nobody, self.smallest))
        table = _Classes.of(problem, players.owner)
        draws = Draws(problem.seed, self.seeds)

        def draw(units: range) -> Tally:
            return _round(game, table, draws, units)

        sampler = Sampler(len(players) + table.count, draw)
        effort = Effort(self.fits, self.precision, self.seconds)
        found = estimate(sampler, game, effort, run, method="ClassWiseShapley")
        game.check_varied()
        if note := game.note():
            run.note(note)
        values, errors = players.rows(found.values), players.rows(found.errors)
        scores = make_scores(
            self,
            problem,
            values,
            run,
            unit="accuracy",
            axis="example",
            query_ids=("all queries",),
            suspect="low",
            resolved={
                "classes": table.count,
                "fits": game.spent,
                "rounds": found.units,
                "stopped by": found.stopped,
            },
            started=started,
        )
        freedom = max(1, found.units - 1)
        return replace(scores, uncertainty=Uncertainty(errors, errors[:, 0], freedom)).check_finite()

    def predict(self, problem: Problem) -> Cost:
        """The budget."""
        return Cost(fits=self.fits)


@dataclass(frozen=True, eq=False)
class _Classes:
    """Classes of players and queries.

    Attributes:
        player: ``int[" player"]``
        query: ``int[" query"]`` -1 for a label that no player has.
        count: Classes among the players.
    """

    player: np.ndarray
    query: np.ndarray
    count: int

    @classmethod
    def of(cls, problem: Problem, owner: np.ndarray) -> "_Classes":
        codes = classes_of(problem.train)
        asked = problem.learner.measurement
        if codes is None or asked.name != "accuracy":
            raise CapabilityError(
                f"ClassWiseShapley counts right answers per class, but the measurement is {asked.name!r}"
                + (" and labels are no classes." if codes is None else "."),
                fix='measure accuracy: Sklearn(..., measurement="accuracy") (on the command line: --utility '
                "accuracy); or use data_shapley.",
            )
        present = np.flatnonzero(owner >= 0)
        player = np.empty(len(present), dtype=np.int64)
        player[owner[present]] = codes[present]
        names = np.unique(np.asarray(problem.train.labels()).astype(str))
        labels = np.asarray(problem.query.labels()).astype(str)
        place = np.minimum(np.searchsorted(names, labels), len(names) - 1)
        used, player = np.unique(player, return_inverse=True)
        code = np.full(len(names), -1)
        code[used] = np.arange(len(used))
        return cls(player, np.where(names[place] == labels, code[place], -1), len(used))


def _round(game: Game, table: _Classes, draws: Draws, units: range) -> Tally:
    """One value per player and unit: each class in turn, in surroundings of its own."""
    count = len(game.players)
    samples = np.empty((len(units), count, 1))
    orders = coalitions.permutations(draws.seed, count, units, kind="permutation", strata=1)[:, 0]
    around = coalitions.independent(draws.seed, count, units, probability=0.5)
    for number in range(table.count):
        own = np.flatnonzero(table.player == number)
        # The order of one class within an order of all is uniform; so is a subset of the others within one of all.
        order = np.stack([row[table.player[row] == number] for row in orders])
        joined = np.zeros((len(units), len(own) + 1, count), dtype=bool)
        joined[:] = (around & (table.player != number))[:, None]
        for step in range(len(own)):
            joined[np.arange(len(units)), step + 1 :, order[:, step]] = True
        chains = _utility(game, table, number, joined, draws.of(units))
        local = np.searchsorted(own, order)
        samples[:, own] = permutation_contributions(local, chains[:, :, None], np.ones(len(own)))
    return tally(samples)


def _utility(
    game: Game, table: _Classes, number: int, joined: np.ndarray, seeds: np.ndarray
) -> Float[np.ndarray, "unit step"]:
    units, steps, count = joined.shape
    masks = joined.reshape(-1, count)
    some = masks.any(axis=1)
    played = np.tile(game.nobody(), (len(masks), 1))
    played[some] = game.play(masks[some], np.repeat(seeds, steps)[some])
    own = np.where(table.query == number, played, 0.0).mean(axis=1)
    other = np.where(table.query != number, played, 0.0).mean(axis=1)
    return (own * np.exp(other)).reshape(units, steps)
