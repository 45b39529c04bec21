"""RS2, repeated sampling of random subsets (Okanovic et al. 2024): a new random subset in every epoch.

Source: Okanovic et al. (2024), "Repeated Random Sampling for Minimizing the Time-to-Accuracy of Learning" (no code was
consulted). Without replacement, epochs of k of n examples one after the other are ordinary passes over everything, cut
short: a training of E epochs on k examples becomes one of E k / n epochs on all n. That is how it is done here, rounded
to whole epochs, of which there is at least one.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from steelyard.act.ranking import size_of
from steelyard.act.system import SystemCard, planned
from steelyard.problem import HasShorterTraining, Learner, Problem, require
from steelyard.records import Plan
from steelyard.run import Run


@dataclass(frozen=True)
class RS2:
    """Train on everything for a share of the epochs: as many steps as a subset has, and no example left out.

    The control that a fixed subset has to beat to be worth choosing: it costs nothing to choose.

    Cost: none.
    """

    card: ClassVar[SystemCard] = SystemCard(
        paper="Okanovic et al. 2024, Repeated Random Sampling for Minimizing the Time-to-Accuracy of Learning",
        code="not consulted",
        needs="a network that is trained by epochs",
        cost="nothing",
        good_for="the control that a chosen subset has to beat",
        spends="passes",
    )

    def __call__(self, problem: Problem, budget: int, seed: int, run: Run) -> Plan:
        """A plan that keeps every example."""
        return planned(
            problem, np.ones(len(problem.train)), lambda row: "all are seen", system=self, run=run, seed=seed
        )

    def learner(self, problem: Problem, budget: int) -> Learner:
        """The problem's learner with a share of its epochs.

        Raises:
            CapabilityError: If its training has no epochs.
            SettingError: If the budget is not between 1 and the number of examples.
        """
        size_of(len(problem.train), fraction=None, count=budget, action="RS2")
        learner = require(problem.learner, HasShorterTraining, method="RS2", instead="a random subset")
        return learner.shortened(budget / len(problem.train))
