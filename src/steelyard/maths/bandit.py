r"""Which arm of a bandit to pull next: upper confidence bounds, with arms that share what they learn.

Source: Auer, Cesa-Bianchi & Fischer (2002), "Finite-time Analysis of the Multiarmed Bandit Problem" (UCB1); Zhang et
al. (2025), "Harnessing Diversity for Important Data Selection in Pretraining Large Language Models", whose cluster
score it is, and whose published code lets near clusters share a reward.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float

from steelyard.errors import ShapeError


@dataclass(eq=False)
class Arms:
    """What is known about every arm so far.

    Attributes:
        likeness: How far a reward of one arm counts for another: 1 on the diagonal, between 0 and 1 elsewhere.
        pulls: Number of pulls of every arm, those of others counted by likeness.
        rewards: Their sum, likewise.
    """

    likeness: Float[np.ndarray, "arm arm"]
    pulls: Float[np.ndarray, " arm"] = field(init=False)
    rewards: Float[np.ndarray, " arm"] = field(init=False)

    def __post_init__(self) -> None:
        likeness = self.likeness
        if not (np.diag(likeness) == 1).all() or likeness.min() < 0 or likeness.max() > 1:
            raise ShapeError(
                "Arms: likeness has a diagonal other than 1, or values outside 0 to 1.",
                fix="give np.eye(count) for arms that share nothing.",
            )
        self.pulls, self.rewards = np.zeros(len(likeness)), np.zeros(len(likeness))

    def learn(self, arm: int, reward: float) -> None:
        """Take note of a pull."""
        self.pulls += self.likeness[arm]
        self.rewards += self.likeness[arm] * reward

    def means(self) -> Float[np.ndarray, " arm"]:
        """Mean reward of every arm; 0 where nothing is known."""
        return np.where(self.pulls > 0, self.rewards / np.where(self.pulls > 0, self.pulls, 1.0), 0.0)

    def bounds(self, exploration: float) -> Float[np.ndarray, " arm"]:
        r""":math:`\bar r_i + c \sqrt{2 \ln \sum_j T_j / T_i}`; infinite where an arm was never pulled.

        Args:
            exploration: c, in units of the reward. At 1, with rewards between 0 and 1 and arms that share nothing, this
                is UCB1, whose regret after n pulls is at most
                :math:`8 \sum_i \ln n / \Delta_i + (1 + \pi^2 / 3) \sum_i \Delta_i` (Auer et al.).
        """
        total = max(1.0, float(self.pulls.sum()))
        known = np.where(self.pulls > 0, self.pulls, 1.0)
        widths = np.sqrt(2 * np.log(total) / known)
        return np.where(self.pulls > 0, self.means() + exploration * widths, np.inf)

    def best(self, open_arms: Bool[np.ndarray, " arm"], count: int, exploration: float) -> np.ndarray:
        """The open arms with the highest bounds, best first, at most so many; equal ones in their order."""
        order = np.argsort(-np.where(open_arms, self.bounds(exploration), -np.inf), kind="stable")
        return order[: min(count, int(open_arms.sum()))]
