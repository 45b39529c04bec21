"""Designs of refits: which examples each fit sees. Random subsets, random plans, groups along a ranking."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from steelyard.errors import SettingError
from steelyard.problem import Problem
from steelyard.records import Examples, Plan, Provenance
from steelyard.run.seeds import generator


def random_subsets(
    problem: Problem, count: int, *, fraction: float | int, name: str
) -> Float[np.ndarray, "fit train"]:
    """Weightings of random subsets of equal size, 1 for present and 0 for absent.

    Args:
        problem: Its seed and number of training examples.
        count: How many subsets.
        fraction: Share of the training examples in each, rounded to the nearest whole number.
        name: Stream of the draw; two uses with different names share nothing.

    Raises:
        SettingError: If subsets of this fraction would be empty or complete.
    """
    total = len(problem.train)
    size = round(fraction * total)
    if not 0 < size < total:
        raise SettingError(
            f"fraction={fraction} of {total} training examples gives subsets of {size}.",
            fix="choose a fraction that leaves at least one example in and one out.",
        )
    draw = generator(problem.seed, "subsets", name)
    weightings = np.zeros((count, total))
    for row in weightings:
        row[draw.choice(total, size=size, replace=False)] = 1.0
    return weightings


def random_like(plan: Plan, train: Examples, seed: int) -> Plan:
    """A plan that does the same to as many examples, chosen at random: the control of a plan.

    ``"drop"`` and ``"keep"`` name other examples. ``"weigh"`` gives the same weights to others.
    ``"relabel"`` gives as many random examples a label other than their own, drawn from the distribution of
    the plan's proposals, or from all labels where no proposal differs from the example's own.

    Args:
        plan: The plan to imitate; its examples may be drawn again.
        train: The training set of the plan.
        seed: Another seed, another random plan.

    Returns:
        A plan for the same training set, with the seed in its provenance.

    Raises:
        DataError: If ``plan`` was made for another training set.
    """
    draw = generator(seed, "random plan")
    train.positions(plan.ids)
    rows = np.sort(draw.choice(len(train), size=len(plan), replace=False))
    chosen = replace(
        plan,
        ids=train.ids[rows],
        reasons=("chosen at random, as a control",) * len(rows),
        provenance=Provenance(
            given={"by": "random_like", "action": plan.action}, seeds={"random plan": seed}
        ),
    )
    if plan.action == "weigh" and plan.weights is not None:
        return replace(chosen, weights=draw.permutation(plan.weights))
    if plan.action == "relabel" and plan.labels is not None:
        own = train.labels()[rows]
        return replace(chosen, labels=_other_labels(own, plan.labels, train.labels(), draw), previous=own)
    return chosen


def _other_labels(
    own: np.ndarray, proposals: np.ndarray, known: np.ndarray, draw: np.random.Generator
) -> np.ndarray:
    labels = own.copy().astype(np.result_type(own, proposals))
    for i, label in enumerate(own):
        choices = proposals[proposals != label]
        if not len(choices):
            choices = known[known != label]
        if len(choices):
            labels[i] = draw.choice(choices)
    return labels


def groups_along(
    ranking: Float[np.ndarray, " train"], count: int, *, size: int, draw: np.random.Generator
) -> Float[np.ndarray, "fit train"]:
    """Weightings that each leave out one group; the groups are disjoint and span the ranking from end to end.

    The training examples are cut into ``count`` consecutive blocks of the ranking, ties in random order, and
    each group is drawn at random from its block. Random groups would all have nearly the same sum of scores,
    and the slope of measured on predicted changes would be all noise.

    Args:
        ranking: One number per training example.
        count: Number of groups.
        size: Examples per group, at most the size of the smallest block.
        draw: Source of randomness.
    """
    order = np.lexsort((draw.random(len(ranking)), ranking))
    weightings = np.ones((count, len(ranking)))
    for row, block in zip(weightings, np.array_split(order, count), strict=True):
        row[draw.choice(block, size=min(size, len(block)), replace=False)] = 0.0
    return weightings
