"""BoostIn and LeafInfluence: effects through the leaves of boosted trees (Brophy et al. 2023; Sharchilev et al. 2018).

Sources: Brophy, Hammoudeh & Lowd (2023), "Adapting and Evaluating Influence-Estimation Methods for Gradient-Boosted
Decision Trees", and the authors' ``jjbrophy47/tree_influence``; Sharchilev, Ustinovskiy, Serdyukov & de Rijke (2018),
"Finding Influential Training Samples for Gradient Boosted Decision Trees".

All three methods are a product of two sparse matrices: a number per example and tree, and one per leaf and query.

Deviations that all have in common: sample weights, L1, largest steps and L2 per leaf are followed (the authors' code
ignores weights and L1); any measurement of the queries, where theirs is the loss; the second derivative is what the
library divides by. The structure of the trees and the score before the first tree are held fixed, as in the sources.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float, Int

from steelyard.collect.boosting import Course, bends, course_of, rounds
from steelyard.collect.leaves import leaves_of
from steelyard.errors import SettingError
from steelyard.maths.leaves import blocks, leaf_sums, shared, spread
from steelyard.problem import Problem
from steelyard.records import Cost, Scores
from steelyard.run import Run
from steelyard.score.driver import MethodCard, score_examples, score_pairs
from steelyard.score.own_queries import OWN_AT_ONCE, OwnQueries
from steelyard.trees.forest import raw_scores

_FORWARD = 1 / 3
_BLOCK_BYTES = 64 * 2**20
_HELD = 1024  # queries whose table of leaves is held at once


@dataclass(frozen=True, eq=False)
class Effects:
    """Both sides of the product.

    Attributes:
        course: The training.
        values: What removing an example adds to its leaf's pull, per tree.
        tables: Makes the other side, some queries after the other.
        queries: How many queries.
        sign: 1 where a lower measurement is better.
    """

    course: Course
    values: Float[np.ndarray, "example tree"]
    tables: Callable[[], Iterator[Float[np.ndarray, "leaf block"]]]
    queries: int
    sign: float

    def score(self, rows: slice) -> Float[np.ndarray, "row query"]:
        """Scores of these rows."""
        weights = self.sign * self.course.leaves.weights[rows, None]
        return shared(self.course.train[rows], weights * self.values[rows], self.tables(), self.queries)


@dataclass(frozen=True)
class BoostIn:
    r"""TracIn on boosted trees: how removing an example moves the leaves it shares with a query, round by round.

    .. math:: s_{iq} = \sum_t 1[\ell_t(i) = \ell_t(q)]\; \frac{\partial f_q}{\partial r}\Big|_{t}\;
        \frac{\eta\, w_i\, (g_{it} + \theta_{t} h_{it})}{H_t + \lambda}

    with the query's slope at the raw score before each round, and the example's own leaf step theta. In the unit of
    the measurement per round, added up over rounds: an order, not an amount. What a changed round does to later ones
    is left out. Positive: the query gets worse without the example.

    Cost: gradient and Hessian of every example and round, then 0.4 ns per example, query and tree.

    Args:
        of: ``"queries"``, or ``"self"``: the effect on the example's own training loss, one column, high is suspect.
        by_count: Divide every term by the number of examples in the leaf to this power: 1 and 2 are BoostIn-W1 and W2.

    Source: Brophy et al. (2023), BoostIn. Deviation: the authors' code has the leaf's value, learning rate inside, in
    the place of theta; the derivative has the step before the learning rate. Both agree at learning rate 1.
    """

    of: Literal["queries", "self"] = "queries"
    by_count: int = 0
    card: ClassVar[MethodCard] = MethodCard(
        paper="Brophy et al. 2023, Adapting and Evaluating Influence-Estimation Methods for GBDTs",
        needs="boosted trees",
        cost="n + q forward passes, 0.4 ns per example, query and tree",
        good_for="boosted trees of any size: the best trade of time and quality",
    )

    def __post_init__(self) -> None:
        if self.by_count < 0:
            raise SettingError(f"BoostIn: by_count={self.by_count}.", fix="give 0, 1 or 2.")

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example for every query, or for itself."""
        if self.of == "self":
            return score_examples(self, problem, run, about="self", suspect="high")
        return score_pairs(self, problem, run)

    def unit(self, problem: Problem) -> str:
        """Only the order means something."""
        return "rank"

    def predict(self, problem: Problem) -> Cost:
        """One pass of both sides through the trees."""
        return Cost(gradients=_FORWARD * (len(problem.train) + len(problem.query)))

    def prepare(self, problem: Problem, run: Run) -> Effects | Float[np.ndarray, "example 1"]:
        """The training, and the slopes of every query in every round."""
        course = _course(problem, run, "BoostIn")
        forest, leaves = course.forest, course.leaves
        own = self.of == "self"
        numbers, at = (leaves.train, course.train) if own else (leaves.query, course.query)
        slopes = np.empty(numbers.shape, dtype=np.float64)
        for one in rounds(forest, numbers):
            found = (
                forest.objective.gradient(one.before, leaves.labels_train)
                if own
                else leaves.slopes(one.before)
            )
            slopes[:, one.trees] = course.moved(
                one.trees, found[:, forest.output[one.trees]], at[:, one.trees]
            )
        if self.by_count:
            slopes /= np.maximum(course.counts[at], 1.0) ** self.by_count
        if own:
            return (leaves.weights * (course.pulls * slopes).sum(axis=1))[:, None]
        return _alike(course, course.pulls, slopes)

    def score(
        self, problem: Problem, state: Effects | Float[np.ndarray, "example 1"], rows: slice
    ) -> Float[np.ndarray, "row column"]:
        """Scores of these rows."""
        return state.score(rows) if isinstance(state, Effects) else state[rows]


@dataclass(frozen=True)
class LeafInfluence:
    r"""Derivative of the query's measurement by an example's weight, through all rounds, for fixed tree structure.

    Removing an example moves the leaves it is in, those move the raw scores of everybody in them, and these move every
    later leaf: the derivative of :class:`~steelyard.score.leaf_refit.LeafRefit`. Going back from the queries, as
    backpropagation does,

    .. math:: z_t = \frac{\eta}{H_t + \lambda}\Big(S_t - \sum_{j \in leaf} a_j\Big), \qquad
        a_j \mathrel{+}= w_j\, (\partial g_j + \theta\, \partial h_j)\, z_{\ell_t(j)},

    all leaves of all trees are done once per query, whatever the number of examples asked about. In the unit of the
    measurement, times the example's weight; positive: the query gets worse without the example.

    Cost: per query, two passes over examples x trees (about 10 ns each); then 0.4 ns per example, query and tree.
    Memory: a table of leaves for 1024 queries, and 64 MiB.

    Args:
        of: ``"queries"``, or ``"self"``: the effect on the example's own measurement, one column, high is suspect.

    Source: Sharchilev et al. (2018), LeafInfluence with all points updated; Brophy et al. (2023). Deviations: the
    derivative is exact for several raw scores per example too, where the authors' code leaves out other classes' scores
    and takes the scaled Hessian for the gradient's derivative.
    """

    of: Literal["queries", "self"] = "queries"
    card: ClassVar[MethodCard] = MethodCard(
        paper="Sharchilev et al. 2018, Finding Influential Training Samples for GBDTs",
        needs="boosted trees",
        cost="n + q forward passes, 20 ns per example, query and tree",
        good_for="boosted trees: amounts, with what a change does to later trees",
    )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example for every query, or for itself."""
        if self.of == "self":
            return score_examples(self, problem, run, shard=OWN_AT_ONCE)
        return score_pairs(self, problem, run)

    def unit(self, problem: Problem) -> str:
        """That of the measurement."""
        return problem.learner.measurement.unit

    def predict(self, problem: Problem) -> Cost:
        """One pass of both sides through the trees."""
        return Cost(gradients=_FORWARD * (len(problem.train) + len(problem.query)))

    def queries_at_once(self, problem: Problem) -> int:
        """So many that their table of leaves stays small."""
        return _HELD

    def prepare(self, problem: Problem, run: Run) -> Effects | OwnQueries:
        """Slopes of every query by the pulls on every leaf of every tree."""
        if self.of == "self":
            return OwnQueries(replace(self, of="queries"), run)
        course = _course(problem, run, "LeafInfluence")
        slopes = course.leaves.slopes(_final(course, course.leaves.query))
        table = np.empty((course.total, len(slopes)), dtype=np.float32)
        row = 8 * len(course.train) * course.forest.objective.outputs
        for part in blocks(len(slopes), max(16, _BLOCK_BYTES // row)):
            table[:, part] = _backwards(course, slopes[part], course.leaves.query[part])
        return Effects(
            course,
            course.pulls,
            lambda: (table[:, part] for part in blocks(len(slopes))),
            len(slopes),
            _sign(course),
        )

    def score(
        self, problem: Problem, state: Effects | OwnQueries, rows: slice
    ) -> Float[np.ndarray, "row query"]:
        """Scores of these rows."""
        if isinstance(state, OwnQueries):
            return state.score(problem, rows)
        return state.score(rows)


@dataclass(frozen=True)
class LeafInfSP:
    """LeafInfluence with a single point: of all raw scores, only the removed example's own is taken to change.

    In the unit of the measurement, times the example's weight; positive: the query gets worse without the example.

    Cost: that of BoostIn.

    Args:
        of: ``"queries"``, or ``"self"``: the effect on the example's own measurement, one column, high is suspect.

    Source: Brophy et al. (2023), LeafInfSP; Sharchilev et al. (2018), LeafInfluence with the fewest updates.
    Deviations: as for :class:`LeafInfluence`.
    """

    of: Literal["queries", "self"] = "queries"
    card: ClassVar[MethodCard] = MethodCard(
        paper="Brophy et al. 2023, Adapting and Evaluating Influence-Estimation Methods for GBDTs",
        needs="boosted trees",
        cost="n + q forward passes, 0.4 ns per example, query and tree",
        good_for="LeafInfluence where that is too slow",
    )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example for every query, or for itself."""
        if self.of == "self":
            return score_examples(self, problem, run, shard=OWN_AT_ONCE)
        return score_pairs(self, problem, run)

    def unit(self, problem: Problem) -> str:
        """That of the measurement."""
        return problem.learner.measurement.unit

    def predict(self, problem: Problem) -> Cost:
        """One pass of both sides through the trees."""
        return Cost(gradients=_FORWARD * (len(problem.train) + len(problem.query)))

    def prepare(self, problem: Problem, run: Run) -> Effects | OwnQueries:
        """Pulls with the example's own moving raw score, and the slopes of every query after the last round."""
        if self.of == "self":
            return OwnQueries(replace(self, of="queries"), run)
        course = _course(problem, run, "LeafInfSP")
        forest, leaves = course.forest, course.leaves
        pulls = np.empty(course.pulls.shape)
        own = np.zeros((len(pulls), forest.objective.outputs))
        for one in rounds(forest, leaves.train):
            drift = leaves.weights[:, None] * np.einsum("ikc,ic->ik", bends(leaves, one), own)
            at, outputs = course.train[:, one.trees], forest.output[one.trees]
            pulls[:, one.trees] = course.pulls[:, one.trees] + drift[:, outputs]
            own[:, outputs] -= course.moved(one.trees, pulls[:, one.trees], at)
        slopes = leaves.slopes(_final(course, leaves.query))
        reached = np.empty(leaves.query.shape)
        for one in rounds(forest, leaves.query):
            outputs = forest.output[one.trees]
            reached[:, one.trees] = course.moved(one.trees, slopes[:, outputs], course.query[:, one.trees])
        return _alike(course, pulls, reached)

    def score(
        self, problem: Problem, state: Effects | OwnQueries, rows: slice
    ) -> Float[np.ndarray, "row query"]:
        """Scores of these rows."""
        if isinstance(state, OwnQueries):
            return state.score(problem, rows)
        return state.score(rows)


def _course(problem: Problem, run: Run, method: str) -> Course:
    course = course_of(leaves_of(problem, run, method=method), method=method)
    if course.forest.leaf_steps > 1:
        run.note(
            f"leaves took {course.forest.leaf_steps} steps each; {method} takes them as if they had reached the optimum"
        )
    return course


def _sign(course: Course) -> float:
    return 1.0 if course.leaves.lower_is_better else -1.0


def _final(course: Course, numbers: Int[np.ndarray, "row tree"]) -> Float[np.ndarray, "row output"]:
    return raw_scores(course.forest, numbers)


def _alike(
    course: Course, pulls: Float[np.ndarray, "example tree"], slopes: Float[np.ndarray, "query tree"]
) -> Effects:
    """Effects where a query reaches its own leaves only."""
    narrow = slopes.astype(np.float32)

    def tables() -> Iterator[np.ndarray]:
        return (spread(course.query[part], narrow[part], course.total) for part in blocks(len(narrow)))

    return Effects(course, pulls, tables, len(narrow), _sign(course))


def _backwards(
    course: Course, slopes: Float[np.ndarray, "query output"], numbers: Int[np.ndarray, "query tree"]
) -> Float[np.ndarray, "leaf query"]:
    """Slopes of queries by the pulls on all leaves, later trees included."""
    forest, leaves = course.forest, course.leaves
    outputs, queries = forest.objective.outputs, len(slopes)
    table = np.empty((course.total, queries))
    through = np.zeros((outputs, len(leaves.train), queries))
    for one in rounds(forest, leaves.train, back=True):
        felt = [
            _reached(course, tree, slopes, numbers)
            + leaf_sums(leaves.train[:, tree], through[forest.output[tree]], _leaves(course, tree))
            for tree in one.trees.tolist()
        ]
        found = _given(course, one.trees, felt)
        bend = leaves.weights[:, None, None] * bends(leaves, one)
        for tree, own in zip(one.trees.tolist(), found, strict=True):
            table[forest.leaf_starts[tree] : forest.leaf_starts[tree + 1]] = own
            at = own[leaves.train[:, tree]]
            for c in range(outputs):
                factor = bend[:, forest.output[tree], c]
                if factor.any():
                    through[c] -= factor[:, None] * at
    return table


def _reached(course: Course, tree: int, slopes: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """``["leaf query"]`` Slopes by the leaf's value of what the queries in it measure."""
    found = np.zeros((_leaves(course, tree), len(slopes)))
    found[numbers[:, tree], np.arange(len(slopes))] = slopes[:, course.forest.output[tree]]
    return found


def _given(course: Course, trees: np.ndarray, felt: list[np.ndarray]) -> list[np.ndarray]:
    """Slopes by leaf values of one round's trees, as slopes by pulls."""
    starts = course.forest.leaf_starts
    gives = [course.gives[starts[tree] : starts[tree + 1]] for tree in trees.tolist()]
    if course.gives.shape[1] == 1:
        return [own * given for own, given in zip(felt, gives, strict=True)]
    columns = course.forest.output[trees]
    return [
        np.add.reduce([own * given[:, [c]] for own, given in zip(felt, gives, strict=True)]) for c in columns
    ]


def _leaves(course: Course, tree: int) -> int:
    return int(course.forest.leaf_starts[tree + 1] - course.forest.leaf_starts[tree])
