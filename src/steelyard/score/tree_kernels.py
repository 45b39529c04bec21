"""TREX and TreeSim: examples that fall into a query's leaves (Brophy et al. 2023; Brophy & Lowd 2020).

Sources: Brophy, Hammoudeh & Lowd (2023), "Adapting and Evaluating Influence-Estimation Methods for Gradient-Boosted
Decision Trees", and the authors' ``jjbrophy47/tree_influence``; Yeh et al. (2018), "Representer Point Selection for
Explaining Deep Neural Networks".

Both see a row as the list of its leaves, each counting ``1 / (training examples in the leaf)``: the weighted leaf path,
which the source found best. The kernel of two rows is the sum of squares of that over the leaves that they share.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import scipy.sparse as sp
from jaxtyping import Bool, Float, Int

from steelyard.collect.leaves import INSTEAD, Leaves, leaves_of
from steelyard.errors import CapabilityError, SettingError
from steelyard.maths.leaves import blocks, shared, spread
from steelyard.maths.representers import Representers, representers
from steelyard.problem import Problem
from steelyard.records import Cost, Scores
from steelyard.run import Run
from steelyard.score.driver import MethodCard, score_examples, score_pairs
from steelyard.score.own_queries import OWN_AT_ONCE, OwnQueries
from steelyard.trees.forest import raw_scores

_FORWARD = 1 / 3
_SURROGATES = {
    "squared": "squared", "absolute": "squared", "huber": "squared", "pseudo_huber": "squared", "quantile": "squared",
    "logistic": "logistic", "softmax": "softmax",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Paths:
    """Both sides as leaves, numbered over all trees.

    Attributes:
        leaves: The model.
        train: Leaves of the training examples.
        query: Leaves of the queries.
        lengths: What every leaf counts.
    """

    leaves: Leaves
    train: Int[np.ndarray, "example tree"]
    query: Int[np.ndarray, "query tree"]
    lengths: Float[np.ndarray, " leaf"]

    def kernel(self, rows: slice | np.ndarray) -> Float[np.ndarray, "row query"]:
        """Kernel of these training rows and all queries."""
        numbers = self.train[rows]
        tables = (
            spread(self.query[part], self.lengths[self.query[part]].astype(np.float32), len(self.lengths))
            for part in blocks(len(self.query))
        )
        return shared(numbers, self.lengths[numbers], tables, len(self.query))

    def features(self) -> sp.csr_array:
        """Training examples as sparse rows of leaves."""
        examples, trees = self.train.shape
        data = self.lengths[self.train].ravel(), self.train.ravel(), np.arange(examples + 1) * trees
        return sp.csr_array(data, shape=(examples, len(self.lengths)))


def paths_of(
    problem: Problem, run: Run, *, method: str, weighted: bool = True, instead: str = INSTEAD
) -> Paths:
    """Leaves of both sides and what they count."""
    leaves = leaves_of(problem, run, method=method, instead=instead)
    starts = leaves.forest.leaf_starts
    train, query = (side + starts[:-1].astype(np.int32) for side in (leaves.train, leaves.query))
    present = leaves.weights > 0
    counts = np.bincount(train[present].ravel(), minlength=int(starts[-1])).astype(np.float64)
    lengths = 1 / np.maximum(counts, 1.0) if weighted else np.ones(len(counts))
    return Paths(leaves, train, query, lengths)


@dataclass(frozen=True)
class TreeSim:
    """Similarity of leaves, counted against the query where the label pulls it the wrong way.

    The kernel of :mod:`~steelyard.score.tree_kernels`, positive for the query's own class and negative for others. For
    numbers: positive if the example's target lies on the same side of the query's prediction as the query's target.

    Cost: one pass of both sides through the trees, then 0.4 ns per example, query and tree.

    Args:
        weighted: Whether a shared leaf counts by how few examples are in it, or all leaves alike.

    Source: Brophy et al. (2023), TreeSim, weighted leaf path and dot product. Deviation: the authors' code takes a
    target equal to the prediction to be above it for examples and below it for queries; here it is above for both.
    """

    weighted: bool = True
    card: ClassVar[MethodCard] = MethodCard(
        paper="Brophy et al. 2023, Adapting and Evaluating Influence-Estimation Methods for GBDTs",
        needs="boosted trees",
        cost="n + q forward passes, 0.4 ns per example, query and tree",
        good_for="boosted trees with any loss: the baseline for methods on leaves",
    )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example for every query."""
        return score_pairs(self, problem, run)

    def unit(self, problem: Problem) -> str:
        """A similarity."""
        return "rank"

    def predict(self, problem: Problem) -> Cost:
        """One pass of both sides through the trees."""
        return Cost(gradients=_FORWARD * (len(problem.train) + len(problem.query)))

    def prepare(self, problem: Problem, run: Run) -> tuple[Paths, Float[np.ndarray, " query"]]:
        """Leaves, and what the model predicts for the queries."""
        paths = paths_of(problem, run, method="TreeSim", weighted=self.weighted)
        raw = raw_scores(paths.leaves.forest, paths.leaves.query)
        return paths, paths.leaves.forest.objective.prediction(raw)[:, 0]

    def score(
        self, problem: Problem, state: tuple[Paths, Float[np.ndarray, " query"]], rows: slice
    ) -> Float[np.ndarray, "row query"]:
        """Signed similarity of these rows."""
        paths, predicted = state
        own, asked = paths.leaves.labels_train[rows, None], paths.leaves.labels_query[None]
        if paths.leaves.forest.objective.classes:
            agree: Bool[np.ndarray, "row query"] = own == asked
        else:
            agree = (own >= predicted[None]) == (asked >= predicted[None])
        present = paths.leaves.weights[rows, None] > 0
        return paths.kernel(rows) * np.where(agree, np.float32(1), np.float32(-1)) * present


@dataclass(frozen=True, eq=False)
class Surrogate:
    """The kernel model.

    Attributes:
        paths: Leaves of both sides.
        found: Weights of the examples.
        outputs: Its output for every query.
        before: What the queries measure at it.
    """

    paths: Paths
    found: Representers
    outputs: Float[np.ndarray, "query output"]
    before: Float[np.ndarray, " query"]


@dataclass(frozen=True)
class TREX:
    """Representer values: a kernel model on leaves is trained on the labels; removal takes an example's term out of it.

    The query's measurement at the kernel model without the term, minus that with it: a squared-error model for numbers,
    logistic or softmax for classes, with a squared penalty and no intercept. Positive: the query gets worse without the
    example. It speaks of the kernel model, which follows the trees only as far as their leaves tell: an order.

    Cost: one pass of both sides through the trees; some hundred products with a sparse matrix of examples x trees; then
    0.4 ns per example, query and tree and one measurement per pair.

    Args:
        of: ``"queries"``, or ``"self"``: the effect on the example's own measurement, one column, high is suspect.
        penalty: On the squared length of the coefficients, beside the mean loss.

    Source: Brophy et al. (2023), TREX, weighted leaf path, with their penalty of .003. Deviations: the kernel model is
    trained to its optimum by Newton's method, where the authors stop gradient descent early; for numbers their weights
    are half of what their loss gives; sample weights are followed.
    """

    of: Literal["queries", "self"] = "queries"
    penalty: float | int = 0.003
    card: ClassVar[MethodCard] = MethodCard(
        paper="Brophy et al. 2023, Adapting and Evaluating Influence-Estimation Methods for GBDTs",
        needs="boosted trees",
        cost="n + q forward passes, a sparse linear fit, 0.4 ns per example, query and tree",
        good_for="boosted trees with losses whose leaves no rule gives",
    )

    def __post_init__(self) -> None:
        if self.penalty <= 0:
            raise SettingError(f"TREX: penalty={self.penalty}.", fix="give a penalty above 0.")

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example for every query, or for itself."""
        if self.of == "self":
            return score_examples(self, problem, run, shard=OWN_AT_ONCE)
        return score_pairs(self, problem, run)

    def unit(self, problem: Problem) -> str:
        """Of another model's measurement."""
        return "rank"

    def predict(self, problem: Problem) -> Cost:
        """One pass of both sides through the trees."""
        return Cost(gradients=_FORWARD * (len(problem.train) + len(problem.query)))

    def prepare(self, problem: Problem, run: Run) -> Surrogate | OwnQueries:
        """Train the kernel model.

        Raises:
            CapabilityError: If there is no kernel model for this loss.
        """
        if self.of == "self":
            return OwnQueries(replace(self, of="queries"), run)
        paths = paths_of(problem, run, method="TREX")
        objective, leaves = paths.leaves.forest.objective, paths.leaves
        if objective.kind not in _SURROGATES:
            raise CapabilityError(
                f"TREX has no kernel model for the {objective.kind} loss.",
                fix="use boostin, leaf_influence or tree_sim.",
            )
        labels = leaves.labels_train[:, None]
        targets = labels if objective.outputs == 1 else (labels == np.arange(objective.outputs)) * 1.0
        found = representers(
            paths.features(),
            targets,
            leaves.weights,
            loss=_SURROGATES[objective.kind],  # pyright: ignore[reportArgumentType]
            penalty=float(self.penalty),
        )
        outputs = np.zeros((len(leaves.query), objective.outputs))
        for part in blocks(len(targets), 4096):
            outputs += paths.kernel(part).T.astype(np.float64) @ found.alpha[part]
        return Surrogate(paths, found, outputs, leaves.answers(outputs))

    def resolved(self, state: Surrogate | OwnQueries) -> Mapping[str, Any]:
        """How the kernel model was trained."""
        if isinstance(state, OwnQueries):
            return {}
        return {"newton_steps": state.found.steps}

    def score(
        self, problem: Problem, state: Surrogate | OwnQueries, rows: slice
    ) -> Float[np.ndarray, "row query"]:
        """What taking out the terms of these rows does."""
        if isinstance(state, OwnQueries):
            return state.score(problem, rows)
        kernel, alpha = state.paths.kernel(rows), state.found.alpha[rows]
        answers, outputs = state.paths.leaves.answers, state.outputs
        change = np.stack(
            [
                answers(outputs - k[:, None] * a[None]) - state.before
                for k, a in zip(kernel, alpha, strict=True)
            ]
        )
        return change if state.paths.leaves.lower_is_better else -change
