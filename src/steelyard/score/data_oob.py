"""Data-OOB (Kwon & Zou 2023): how well models do on each training example that were trained without it."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from scipy.sparse import csr_array

from steelyard.collect import coalitions
from steelyard.collect.fits import outcomes
from steelyard.collect.players import Players, players_of
from steelyard.errors import NumericsError, SettingError
from steelyard.maths.tallies import Tally, merge, tally
from steelyard.problem import Problem
from steelyard.records import Cost, Scores, Uncertainty
from steelyard.run import Run, in_memory
from steelyard.score.driver import MethodCard, begin, make_scores
from steelyard.score.sampling import Effort, Sampler, finish_mean, gather

_LEAST = 8


@dataclass(frozen=True)
class DataOOB:
    r"""Mean measurement of every training example, over bootstrap samples of the training set that it is not in.

    .. math:: \psi_i = \frac{\sum_b 1(w_{bi} = 0)\, T(y_i, f_b(x_i))}{\sum_b 1(w_{bi} = 0)},

    with T the learner's measurement, turned so that higher is better: minus the loss, the margin, or whether the
    label is predicted (``accuracy``, as in the paper). Low values are suspect: models that have not seen the example
    contradict its label. It needs no queries, and says how the example fits the others, not how much it helps. The
    standard error says how other bootstrap samples would change the value. With ``groups`` whole groups are drawn, and
    the value of a group is the mean over its examples, by models that saw none of them.

    Cost: ``fits`` fits. An example or group is out of the bag in about 37 % of them.

    Args:
        fits: Bootstrap samples.
        seconds: Stop after so long; 0: never.
        seeds: Training seeds to average over, in turns.
        groups: Values of the groups that this column names, instead of examples.

    Example:
        >>> DataOOB(fits=50)
        DataOOB(fits=50, seconds=0.0, seeds=1, groups='')

    Source: Kwon & Zou (2023), "Data-OOB: Out-of-bag Estimate as a Simple and Efficient Data Value". Deviation: any
    learner and measurement, through bootstrap counts as weights, instead of decision trees and accuracy.
    """

    fits: int = 200
    seconds: float | int = 0.0
    seeds: int = 1
    groups: str = ""
    card: ClassVar[MethodCard] = MethodCard(
        paper="Kwon & Zou 2023, Data-OOB: Out-of-bag Estimate as a Simple and Efficient Data Value",
        needs="refits",
        cost="the fits you give; 50 to 200 do",
        good_for="mislabelled examples, with any learner and without queries",
    )

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise SettingError(f"DataOOB: seeds={self.seeds}.", fix="give at least one seed.")

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """One value per training example or group in the unit of the measurement; low is suspect.

        Raises:
            SettingError: If the budget is too small; the error says what would do.
            NumericsError: If an example or group was never out of the bag, or nearly all fits failed.
        """
        run = run or in_memory()
        started = begin(self, problem, run)
        bags = _Bags(problem, run, self.seeds, players_of(problem.train, self.groups))
        sampler = Sampler(1, bags.draw, least=_LEAST)
        effort = Effort(self.fits, seconds=self.seconds)
        gathered = gather(sampler, bags, effort, run, method="DataOOB", combine=merge)
        values, errors = (bags.players.rows(part) for part in finish_mean(gathered.state))
        if bags.failed:
            run.note(
                f"{bags.failed} of {bags.spent} fits failed and are left out; the first because: {bags.said}"
            )
        missing = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(missing):
            raise NumericsError(
                f"DataOOB: {len(missing)} of {len(values)} were in all {bags.spent - bags.failed} bags that could be "
                f"fitted, the first is {str(bags.players.shown[missing[0]])!r}.",
                fix="raise fits=; with 50 or more, none is in every bag.",
            )
        count = gathered.state.count
        facts = {
            "fits": bags.spent,
            "stopped by": gathered.stopped,
            "fits without the example, least": int(count.min()),
            "fits without the example, mean": float(count.mean()),
            "utility": problem.learner.measurement.name,
        }
        scores = make_scores(
            self,
            problem,
            values,
            run,
            unit=problem.learner.measurement.unit,
            axis="example",
            query_ids=("out of bag",),
            train_ids=bags.players.shown if self.groups else None,
            suspect="low",
            resolved=facts,
            started=started,
        )
        freedom = max(1, int(count.min()) - 1)
        return replace(scores, uncertainty=Uncertainty(errors, errors[:, 0], freedom)).check_finite()

    def predict(self, problem: Problem) -> Cost:
        """The bootstrap samples."""
        return Cost(fits=self.fits)


class _Bags:
    """Fits on bootstrap samples, measured on every training example; it counts them."""

    def __init__(self, problem: Problem, run: Run, seeds: int, players: Players) -> None:
        self.players = players
        self.spent: int = 0
        self.failed: int = 0
        self.said = ""
        self._run, self._seeds = run, seeds
        self._sign = -1.0 if problem.learner.measurement.lower_is_better else 1.0
        self._problem = Problem(problem.learner, problem.train, problem.train, seed=problem.seed)

    def draw(self, units: range) -> Tally:
        """Mean outcomes of players that are not in the bag; in-bag outcomes are no samples."""
        bags = coalitions.bags(self._problem.seed, len(self.players), units)
        owner = self.players.owner
        weightings: Float[np.ndarray, "bag train"] = bags[:, owner] * (owner >= 0)
        seeds = (np.arange(units.start, units.stop) % self._seeds).tolist()
        found = outcomes(self._problem, weightings, seeds, self._run, purpose="scoring")
        self.spent += len(bags)
        self.failed += int(found.failed.sum())
        self.said = self.said or next((message for message in found.messages if message), "")
        present = np.flatnonzero(owner >= 0)
        share = 1.0 / np.bincount(owner[present])[owner[present]]
        member = csr_array((share, (np.arange(len(present)), owner[present])))
        samples = np.asarray(self._sign * found.values[:, present] @ member)
        return tally(np.where(bags == 0, samples, np.nan)[:, :, None])
