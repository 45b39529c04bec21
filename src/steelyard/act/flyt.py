"""FLYT and soft cap sampling (Shechter & Carmon 2025, arXiv:2503.08805; code: github.com/formll/FLYT).

A scoring model is taught by the target: its weights of a batch are used for a step of training, and the gradient of the
target's loss after that step says which weights should have been higher.

Deviations: the scoring model is linear, in what the explained model's last layer reads and how it errs, or for M-FLYT
in ranks by other scores, where the paper trains CLIP's towers. Its steps are of one length, along the gradient. The
reference model starts as the explained model and takes plain steps at the learning rate of the recipe. Features are
standardised.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from steelyard.act.system import LEAST_EFFECTIVE, SystemCard, planned, spread, target_signal
from steelyard.collect.describing import describe
from steelyard.collect.fits import explained
from steelyard.errors import SettingError
from steelyard.maths.soft_cap import soft_cap
from steelyard.problem import Problem
from steelyard.records import Plan
from steelyard.run import Run, generator

Features = Float[np.ndarray, "example feature"]
_PAPER = "Shechter & Carmon 2025, Filter Like You Test: Data-Driven Data Filtering for CLIP Pretraining"
_CODE = "github.com/formll/FLYT"


@dataclass(frozen=True)
class Lessons:
    """How the scoring model is taught.

    Attributes:
        steps: Batches.
        batch: Examples in each.
        rate: Length of a step of the scoring model.
        penalty: Of soft cap sampling: what a draw takes off an example's score; 0.15 as in the paper.

    Raises:
        SettingError: If a value has no meaning.
    """

    steps: int = 60
    batch: int = 128
    rate: float | int = 0.2
    penalty: float | int = 0.15

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 2 or not self.rate > 0 or self.penalty < 0:
            raise SettingError(
                f"FLYT: steps={self.steps}, batch={self.batch}, rate={self.rate}, penalty={self.penalty}.",
                fix="give at least one step of two examples, a rate above 0 and a penalty of 0 or more.",
            )


@dataclass(frozen=True)
class FLYT:
    """Learn weights of examples from the target's gradients, and draw the budget by soft cap sampling.

    Cost: steps · (5 batch + q) gradients, an embedding of every example, and the explained model.

    Args:
        steps: Batches that the scoring model learns from.
        batch: Examples in each.
        rate: Length of a step of the scoring model.
        penalty: Of soft cap sampling; larger repeats less.
    """

    steps: int = 60
    batch: int = 128
    rate: float | int = 0.2
    penalty: float | int = 0.15
    card: ClassVar[SystemCard] = SystemCard(
        paper=_PAPER,
        code=_CODE,
        needs="a network with embeddings",
        cost="1 fit, steps x (5 batch + q) gradients",
        good_for="weights learned from the target, that generalise to examples never looked at",
    )

    def __post_init__(self) -> None:
        self._lessons()

    def __call__(self, problem: Problem, budget: int, seed: int, run: Run) -> Plan:
        """A plan whose weights count how often an example was drawn, ``budget`` in all.

        Raises:
            CapabilityError: If the learner is no network with embeddings.
        """
        features = describe(problem, explained(problem, run), problem.train, method="FLYT")
        run.spend(gradients=2 / 3 * len(problem.train))
        return by_lessons(problem, features, self._lessons(), budget, run, system=self, seed=seed)

    def _lessons(self) -> Lessons:
        return Lessons(self.steps, self.batch, self.rate, self.penalty)


def by_lessons(  # noqa: PLR0913 - problem, features, lessons, budget, and for whom
    problem: Problem,
    features: Features,
    lessons: Lessons,
    budget: int,
    run: Run,
    *,
    system: Any,
    seed: int,
    names: tuple[str, ...] = (),
) -> Plan:
    """Teach a linear scoring model on the features, and draw the budget by its scores.

    Args:
        problem: Learner, training examples, target.
        features: Of every training example.
        lessons: How it is taught.
        budget: Examples to draw.
        run: Whose meter counts.
        system: Whose plan it is.
        seed: Of batches and draws.
        names: Of the features, whose weights the plan then records.
    """
    from steelyard.collect.sandbox import Sandbox  # torch, for those who have it

    who = type(system).__name__
    note = target_signal(problem, run, seed=seed, who=who)
    box = Sandbox(problem, explained(problem, run), run, method=who)
    scale = features.std(axis=0)
    ready = (features - features.mean(axis=0)) / np.where(scale > 0, scale, 1.0)
    with box.put_back():
        taught = teach(box, problem, ready, lessons, generator(seed, "flyt"))
    scores = ready @ taught
    chances = np.exp(scores - scores.max())
    chances, collapsed = spread(chances, LEAST_EFFECTIVE * budget)
    with np.errstate(divide="ignore"):
        logs = np.log(chances)
    counts = soft_cap(
        logs,
        budget,
        penalty=lessons.penalty,
        at_once=max(1, budget // 10),
        draw=generator(seed, "soft cap"),
    )
    rank = np.argsort(np.argsort(-scores)) + 1
    resolved = {"weights": dict(zip(names, taught.tolist(), strict=True))} if names else {}
    return planned(
        problem,
        counts.astype(np.float64),
        lambda row: f"drawn {counts[row]} times; rank {rank[row]} of {len(counts)} by learned score",
        system=system,
        run=run,
        seed=seed,
        resolved=resolved,
        notes=(note, collapsed),
    )


def teach(
    box: Any, problem: Problem, features: Features, lessons: Lessons, draw: np.random.Generator
) -> Float[np.ndarray, " feature"]:
    """Weights of a linear scoring model; the network in the sandbox goes on training by them."""
    weights = np.zeros(features.shape[1])
    rate = float(dict(problem.learner.settings()).get("lr", 0.01) or 0.01)
    by_id = np.argsort(problem.train.ids, kind="stable")
    size = min(lessons.batch, len(by_id))
    for _ in range(lessons.steps):
        rows = by_id[draw.choice(len(by_id), size, replace=False)]
        batch = problem.train.take(rows)
        shares = softmax(features[rows] @ weights)
        wanted = desired(box, batch, problem.query, shares, rate)
        slope = features[rows].T @ (shares * (wanted - shares @ wanted))
        length = float(np.linalg.norm(slope))
        weights -= lessons.rate * slope / (length if length > 0 else 1.0)
    return weights


def desired(
    box: Any, batch: Any, target: Any, shares: Float[np.ndarray, " example"], rate: float
) -> Float[np.ndarray, " example"]:
    r"""Derivative of how bad the target is after one weighted step, by the weights of the step; the step is taken.

    With the step :math:`\theta^+ = \theta - \eta \sum_i w_i g_i` that is
    :math:`-\eta \, g_i(\theta) \cdot \nabla L(\theta^+)`.
    """
    down = box.gradient(batch, shares)
    with box.put_back():
        box.move(down, -rate)
        toward = box.target(target)
    found = -rate * box.along(batch, toward)
    box.move(down, -rate)
    return found


def softmax(scores: Float[np.ndarray, " item"]) -> Float[np.ndarray, " item"]:
    """Positive shares that sum to 1."""
    found = np.exp(scores - scores.max())
    return found / found.sum()
