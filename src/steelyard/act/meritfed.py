"""MeritFed / MeritOpt (Moskvoretskii et al. 2024, arXiv:2406.12564; code: github.com/VityaVitalich/MeritOpt).

Source: "Low-Resource Machine Translation through the Lens of Personalized Federated Learning". Every step of training
follows a weighted mean of one gradient per source; the weights move by mirror descent along the gradient of the
target's loss after the step, so that they can be read as what each source is worth at that moment.

Deviations: training goes on from the explained model by plain gradient steps, where the published code has Adam as
well; the target's gradient is over all its queries, not over a validation batch; what comes out is a plan that draws
examples of each source in proportion to its mean weight, where the paper uses the model that was trained on the way.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from steelyard.act.flyt import softmax
from steelyard.act.system import (
    LEAST_EFFECTIVE,
    SystemCard,
    check_settings,
    effective,
    planned,
    sources_of,
    spread,
    target_signal,
)
from steelyard.collect.fits import explained
from steelyard.errors import DataError
from steelyard.problem import Problem
from steelyard.records import Plan
from steelyard.run import Run, generator


@dataclass(frozen=True)
class MeritFed:
    r"""Learn weights of sources along a training, and draw the budget by them.

    With a gradient :math:`g_k` per source and weights w, a step leads to
    :math:`\theta^+ = \theta - \eta \sum_k w_k g_k`, and the weights to

    .. math:: w_k \leftarrow w_k \exp(-\gamma \, \partial L(\theta^+) / \partial w_k) / Z, \qquad
              \partial L / \partial w_k = -\eta \, g_k \cdot \nabla L(\theta^+).

    The plan records every weight at every step, and the report of a comparison draws them.

    Cost: steps · (sources · batch + 2 q · inner) gradients, and the explained model.

    Args:
        column: Column of the training examples that names the source of each.
        steps: Of training.
        batch: Examples of each source per step.
        rate: Step of the mirror descent, in units of the largest difference of derivatives seen at the first step.
        inner: Steps of mirror descent per step of training.
    """

    column: str = "source"
    steps: int = 60
    batch: int = 32
    rate: float | int = 0.2
    inner: int = 1
    card: ClassVar[SystemCard] = SystemCard(
        paper="Moskvoretskii et al. 2024, Low-Resource Machine Translation through the Lens of Personalized Federated "
        "Learning",
        code="github.com/VityaVitalich/MeritOpt",
        needs="a network; a column of sources",
        cost="1 fit, steps x (sources x batch + q x inner) gradients",
        good_for="how much of each source a target needs, with weights that can be read",
    )

    def __post_init__(self) -> None:
        check_settings(
            self,
            hold=min(self.steps, self.batch, self.inner) >= 1 and self.rate > 0,
            fix="give at least one of each, and a rate above 0.",
        )

    def __call__(self, problem: Problem, budget: int, seed: int, run: Run) -> Plan:
        """A plan to keep ``budget`` examples.

        Raises:
            SettingError: If there is no such column, or a single source.
            DataError: If a source has a single example.
            CapabilityError: If the learner is no network's.
        """
        names, number = sources_of(problem, self.column, who="MeritFed")
        counts = np.bincount(number)
        if counts.min() < 2:
            raise DataError(
                f"MeritFed: source {str(names[counts.argmin()])!r} has a single example, so that its weight would be "
                "that example's.",
                fix="merge small sources.",
            )
        from steelyard.collect.sandbox import Sandbox  # torch, for those who have it

        note = target_signal(problem, run, seed=seed, who="MeritFed")
        box = Sandbox(problem, explained(problem, run), run, method="MeritFed")
        with box.put_back():
            path = self.path(box, problem, number, generator(seed, "meritfed"))
        weights = path.mean(axis=0)
        weights, collapsed = spread(weights, LEAST_EFFECTIVE * len(names))
        chosen = drawn(weights, number, budget, problem.train.ids, generator(seed, "meritfed draw"))
        kept = np.bincount(number[chosen > 0], minlength=len(names))
        return planned(
            problem,
            chosen,
            lambda row: f"of source {names[number[row]]}, whose mean weight is {weights[number[row]]:.3f}",
            system=self,
            run=run,
            seed=seed,
            resolved={
                "course": {str(name): path[:, k].tolist() for k, name in enumerate(names)},
                "sources": {str(name): int(kept[k]) for k, name in enumerate(names)},
                "effective sources": effective(weights),
            },
            notes=(note, collapsed),
        )

    def path(
        self, box: Any, problem: Problem, number: np.ndarray, draw: np.random.Generator
    ) -> Float[np.ndarray, "step source"]:
        """The weights at every step; the network in the sandbox goes on training by them."""
        by_id = np.argsort(problem.train.ids, kind="stable")
        members = [by_id[number[by_id] == k] for k in range(int(number.max()) + 1)]
        weights = np.full(len(members), 1.0 / len(members))
        lr = float(dict(problem.learner.settings()).get("lr", 0.01) or 0.01)
        found, unit = [], 0.0
        for _ in range(self.steps):
            rows = [draw.choice(own, min(self.batch, len(own)), replace=False) for own in members]
            downs = [box.gradient(problem.train.take(np.sort(one))) for one in rows]
            for _ in range(self.inner):
                slope = slopes(box, problem, downs, weights, lr)
                unit = unit or float(np.ptp(slope)) or 1.0
                weights = softmax(np.log(weights) - self.rate * slope / unit)
            box.move(sum(w * g for w, g in zip(weights.tolist(), downs, strict=True)), -lr)
            found.append(weights)
        return np.stack(found)


def slopes(
    box: Any, problem: Problem, downs: list[Any], weights: Float[np.ndarray, " source"], lr: float
) -> Float[np.ndarray, " source"]:
    """Derivative of how bad the target is after a step, by the weights of the sources in it."""
    with box.put_back():
        box.move(sum(w * g for w, g in zip(weights.tolist(), downs, strict=True)), -lr)
        toward = box.target(problem.query)
    return np.array([-lr * float(g @ toward) for g in downs])


def drawn(
    weights: Float[np.ndarray, " source"],
    number: np.ndarray,
    budget: int,
    ids: np.ndarray,
    draw: np.random.Generator,
) -> Float[np.ndarray, " example"]:
    """1 for ``budget`` examples, of each source as many as its weight says and it has; what is missing goes on."""
    sizes = np.bincount(number, minlength=len(weights))
    take = np.zeros(len(weights), dtype=np.int64)
    while take.sum() < budget:
        room = take < sizes
        share = np.where(room, weights, 0.0)
        share = share if share.sum() > 0 else room.astype(np.float64)
        wanted = share / share.sum() * (budget - take.sum())
        more = np.minimum(np.floor(wanted).astype(np.int64), sizes - take)
        if not more.any():
            more[np.argmax(np.where(room, wanted, -1.0))] = 1
        take += more
    chosen = np.zeros(len(number))
    by_id = np.argsort(ids, kind="stable")
    for k, count in enumerate(take):
        own = by_id[number[by_id] == k]
        chosen[draw.choice(own, count, replace=False)] = 1.0
    return chosen
