"""PRESENCE (Thakkar et al. 2023, arXiv:2311.00913): self-influence weights micro-batches, in two stages of a training.

Source: "Self-Influence Guided Data Reweighting for Language Model Pre-training"; no code of theirs was consulted.
Deviations: self-influence is over all trained parameters, on a logarithmic scale and standardised within the batch, so
that one temperature serves every model; factors have a largest value.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from steelyard.act.system import SystemCard, check_settings, planned
from steelyard.problem import HasReweighing, Learner, Problem, require
from steelyard.records import Plan
from steelyard.run import Run, generator


@dataclass(frozen=True)
class PRESENCE:
    """Random examples, whose micro-batches are weighed by their self-influence while the model is trained on them.

    High self-influence weighs more in the first stage (novelty) and less in the second (noise). No target is looked at,
    and nothing is chosen: what changes is the training, through ``Torch.reweighing``.

    Cost: nothing before the training, whose every step then takes a backward pass more per micro-batch.

    Args:
        switch: Share of the steps after which the second stage begins; 0 has only the second, 1 only the first.
        micro: Examples per micro-batch.
        temperature: Of the softmax over standardised self-influence.
        cap: Largest factor of a micro-batch.
    """

    switch: float | int = 0.5
    micro: int = 4
    temperature: float | int = 1.0
    cap: float | int = 4.0
    card: ClassVar[SystemCard] = SystemCard(
        paper="Thakkar et al. 2023, Self-Influence Guided Data Reweighting for Language Model Pre-training",
        code="not consulted",
        needs="a network that is trained here",
        cost="nothing before the training, which takes about twice as long",
        good_for="noisy data without a target",
    )

    def __post_init__(self) -> None:
        check_settings(
            self,
            hold=0 <= self.switch <= 1 and self.micro >= 1 and self.temperature > 0 and self.cap >= 1,
            fix="give a share, at least one example, a temperature above 0 and a cap of 1 or more.",
        )

    def __call__(self, problem: Problem, budget: int, seed: int, run: Run) -> Plan:
        """A plan to keep ``budget`` random examples."""
        by_id = np.argsort(problem.train.ids, kind="stable")
        weights = np.zeros(len(by_id))
        weights[by_id[generator(seed, "presence").choice(len(by_id), budget, replace=False)]] = 1.0
        return planned(
            problem,
            weights,
            lambda row: "chosen at random; weighed in training",
            system=self,
            run=run,
            seed=seed,
        )

    def learner(self, problem: Problem, budget: int) -> Learner:
        """The problem's learner, weighing micro-batches.

        Raises:
            CapabilityError: If its training has no steps that can be reached.
        """
        found = require(
            problem.learner, HasReweighing, method="PRESENCE", instead="self_influence with clean"
        )
        from steelyard.learners.torch_presence import TwoStages  # torch, for those who have it

        return found.reweighing(
            TwoStages(float(self.switch), self.micro, float(self.temperature), float(self.cap))
        )
