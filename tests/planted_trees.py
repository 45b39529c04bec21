"""Boosted trees whose splits are drawn, not searched: refits then change leaves alone, and every answer is known.

Leaves are computed with plain loops, one leaf after the other, apart from everything in the package but the objectives.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from steelyard.problem import Problem
from steelyard.records import Examples, Measurement
from steelyard.trees.forest import Forest, leaves, raw_scores
from steelyard.trees.objectives import Objective
from tests.problems import examples, inputs

LOSS = Measurement("loss", "nats", lower_is_better=True)


@dataclass(frozen=True, eq=False)
class Model:
    """Planted trees with leaf values."""

    forest: Forest
    seed: int


@dataclass(frozen=True)
class Planted:
    """Trees of depth 2 on three columns, with fixed random splits.

    Attributes:
        kind: Objective.
        outputs: Raw scores.
        rounds: Rounds of one tree per raw score.
        rule: How leaves follow from examples.
        steps: How many steps of the rule.
        skew: Where thresholds lie, in deviations: far out, leaves are unequal.
    """

    kind: Any = "squared"
    outputs: int = 1
    rounds: int = 5
    rate: float = 0.4
    l1: float = 0.0
    l2: float = 0.3
    limit: float = 0.0
    rule: Any = "newton"
    steps: int = 1
    scale: float = 1.0
    skew: float = 0.0
    measurement: Measurement = LOSS

    @property
    def objective(self) -> Objective:
        return Objective(self.kind, self.outputs, scale=self.scale)

    def check(self, train: Examples, query: Examples) -> tuple[str, ...]:
        return ()

    def fit(self, data: Examples, weights: np.ndarray | None = None, seed: int = 0) -> Model:
        given = data.weights() if weights is None else data.weights() * weights
        return Model(self.filled(leaves(self.shape(), inputs(data)), self.labels(data), given), seed)

    def explained(self, data: Examples, seed: int = 0) -> Model:
        return self.fit(data, seed=seed)

    def filled(self, numbers: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Forest:
        """The forest with values, leaf by leaf."""
        forest = self.shape()
        raw = np.tile(forest.base, (len(labels), 1))
        for number in range(self.rounds):
            trees = [t for t in range(forest.trees) if forest.round[t] == number]
            found = {t: np.zeros(4) for t in trees}
            inner = raw.copy()
            for _ in range(self.steps):
                more = {t: self.stepped(t, trees, numbers, (inner, labels, weights)) for t in trees}
                for t in trees:
                    found[t] += more[t]
                    inner[:, forest.output[t]] += more[t][numbers[:, t]]
            for t in trees:
                forest.values[4 * t : 4 * t + 4] = self.rate * found[t]
                raw[:, forest.output[t]] += self.rate * found[t][numbers[:, t]]
        return forest

    def stepped(self, tree: int, trees: list[int], numbers: np.ndarray, inside: Any) -> np.ndarray:
        raw, labels, weights = inside
        found, k = np.zeros(4), tree % self.outputs
        for leaf in range(4):
            here = (numbers[:, tree] == leaf) & (weights > 0)
            if not here.any():
                continue
            w = weights[here]
            g = w @ self.objective.gradient(raw[here], labels[here])
            if self.rule == "newton matrix":
                h = np.einsum("r,rij->ij", w, self.objective.jacobian(raw[here], labels[here]))
                found[leaf] = -np.linalg.solve(h + self.l2 * np.eye(self.outputs), g)[k]
                continue
            h = (
                w.sum()
                if self.rule == "gradient"
                else (w @ self.objective.hessian(raw[here], labels[here]))[k]
            )
            step = -np.sign(g[k]) * max(abs(g[k]) - self.l1, 0.0) / (h + self.l2)
            found[leaf] = np.clip(step, -self.limit, self.limit) if self.limit else step
        return found

    def measure(self, fitted: Model, queries: Examples) -> np.ndarray:
        return self.answers(fitted, queries, raw_scores(fitted.forest, self.leaves(fitted, queries)))

    def loss(self, fitted: Model, data: Examples) -> np.ndarray:
        return self.objective.loss(raw_scores(fitted.forest, self.leaves(fitted, data)), self.labels(data))

    def settings(self) -> Mapping[str, Any]:
        return asdict(self)

    def fingerprint(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()

    def forest(self, fitted: Model) -> Forest:
        return fitted.forest

    def leaves(self, fitted: Model, data: Examples) -> np.ndarray:
        return leaves(fitted.forest, inputs(data))

    def targets(self, fitted: Model, data: Examples) -> np.ndarray:
        return self.labels(data)

    def leaf_weights(self, fitted: Model, data: Examples) -> np.ndarray:
        return data.weights()

    def sensitivity(self, fitted: Model, queries: Examples, raw: np.ndarray) -> np.ndarray:
        sign = 1.0 if self.measurement.lower_is_better else -1.0
        return sign * self.objective.gradient(raw, self.labels(queries))

    def answers(self, fitted: Model, queries: Examples, raw: np.ndarray) -> np.ndarray:
        sign = 1.0 if self.measurement.lower_is_better else -1.0
        return sign * self.objective.loss(raw, self.labels(queries))

    def leaf_notes(self, fitted: Model) -> tuple[str, ...]:
        return ()

    def embed(self, fitted: Model, data: Examples) -> np.ndarray:
        return inputs(data).astype(np.float32)

    def labels(self, data: Examples) -> np.ndarray:
        return np.asarray(data.labels(), dtype=np.float64)

    def shape(self) -> Forest:
        """The splits, with values of 0."""
        draw = np.random.default_rng(5)
        trees = self.rounds * self.outputs
        together = self.rule == "newton matrix"
        feature, threshold = np.zeros((trees, 3), int), np.zeros((trees, 3))
        for tree in range(trees):
            if together and tree % self.outputs:
                feature[tree], threshold[tree] = feature[tree - 1], threshold[tree - 1]
            else:
                feature[tree], threshold[tree] = draw.integers(0, 3, 3), draw.normal(self.skew, 0.4, 3)
        nodes, at = 7 * trees, 7 * np.arange(trees)[:, None]
        inner, none = np.full((trees, 4), -1), np.zeros((trees, 4))
        return Forest(
            feature=np.concatenate([feature, inner], axis=1).ravel(),
            threshold=np.concatenate([threshold, none], axis=1).ravel(),
            left=np.concatenate([at + [1, 3, 5], inner], axis=1).ravel(),
            right=np.concatenate([at + [2, 4, 6], inner], axis=1).ravel(),
            missing=np.zeros(nodes, int),
            missing_left=np.zeros(nodes, bool),
            category=np.full(nodes, -1),
            categories=np.zeros((0, 1), bool),
            leaf=np.tile([-1, -1, -1, 0, 1, 2, 3], trees),
            starts=7 * np.arange(trees + 1),
            output=np.arange(trees) % self.outputs,
            round=np.arange(trees) // self.outputs,
            values=np.zeros(4 * trees),
            leaf_starts=4 * np.arange(trees + 1),
            base=np.linspace(0.1, 0.3, self.outputs),
            objective=self.objective,
            shrinkage=np.full(trees, self.rate),
            l1=self.l1,
            l2=np.full(4 * trees, self.l2),
            max_delta_step=self.limit,
            leaf_rule=self.rule,
            leaf_steps=self.steps,
            covers=np.zeros(4 * trees),
            cover_kind="unknown",
            single=False,
            row_share=1.0,
            column_share=1.0,
            library="planted",
        )


def planted_problem(
    learner: Planted,
    train: int = 26,
    query: int = 5,
    *,
    weighted: bool = False,
    copy: tuple[int, int] = (7, 3),
) -> Problem:
    """Rows with labels that the trees can partly learn; one row is a copy of another, class 0 is the most frequent."""
    to, of = copy
    draw = np.random.default_rng(3)
    x = draw.normal(size=(train + query, 3))
    x[to] = x[of]
    noise = draw.normal(size=len(x))
    if learner.kind == "softmax":
        y = np.digitize(x[:, 0] + 0.7 * noise, [0.3, 1.2][: learner.outputs - 1]).astype(np.float64)
    elif learner.kind == "logistic":
        y = (x[:, 0] + 0.7 * noise > 0.6).astype(np.float64)
    else:
        y = x[:, 0] + 0.3 * noise
        y = np.round(np.exp(0.5 * y)) if learner.kind == "poisson" else y
    y[to] = y[of]
    rows = examples(x[:train], y[:train], "t")
    if weighted:
        weights = draw.uniform(0.2, 2.5, train)
        weights[5] = 0.0
        weights[to] = weights[of]
        rows = rows.with_column("weight", weights, "w")
    return Problem(learner, rows, examples(x[train:], y[train:], "q"))


def gain(learner: Planted) -> Planted:
    """The same learner, measured by minus the loss: higher is better."""
    return replace(learner, measurement=Measurement("gain", "nats", lower_is_better=False))
