"""LeafRefit: leave-one-out with the structure of the trees held fixed (Sharchilev et al. 2018; Brophy et al. 2023)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float

from steelyard.collect.boosting import check_rule
from steelyard.collect.leaf_refits import refitted
from steelyard.collect.leaves import Leaves, leaves_of
from steelyard.problem import Problem
from steelyard.records import Cost, Scores
from steelyard.run import Run
from steelyard.score.driver import MethodCard, score_examples, score_pairs
from steelyard.score.own_queries import OWN_AT_ONCE, OwnQueries
from steelyard.trees.forest import raw_scores

_BLOCK_BYTES = 96 * 2**20
_DOUBLES = 6  # per example, fit and output, while leaves are made again


@dataclass(frozen=True, eq=False)
class Refit:
    """What removals are compared with.

    Attributes:
        leaves: The model and both sides' leaves.
        before: Every query's measurement with all examples, leaves made by the same rule.
        distance: Largest difference of a query's raw scores between the model and its leaves made again.
        fits: How many removals are done at once.
    """

    leaves: Leaves
    before: Float[np.ndarray, " query"]
    distance: float
    fits: int


@dataclass(frozen=True)
class LeafRefit:
    """Change of the query's measurement when leaves are computed again without the example, trees keeping their shape.

    Every leaf of every tree follows from all examples but one by the library's own rule, at the raw scores that the
    changed earlier trees give: leave-one-out without the search for splits. In the unit of the measurement; positive:
    the query gets worse without the example.

    Cost: about 50 ns per pair of training examples, round and output: 5 s for 1,000 examples and 100 rounds, an hour
    for 30,000. Memory: 96 MiB. Errors: none beyond rounding for a model whose rounds used all rows; otherwise the
    removals are those of a model of the same shape whose rounds do; how far it is from the given one is in the record.

    Args:
        of: ``"queries"``, or ``"self"``: the effect on the example's own measurement, one column, high is suspect.

    Source: Sharchilev et al. (2018), LeafRefit; Brophy et al. (2023). Deviations: weights, L1, largest steps, several
    steps per leaf and matrices of second derivatives are followed; a leaf without weight gets 0.
    """

    of: Literal["queries", "self"] = "queries"
    card: ClassVar[MethodCard] = MethodCard(
        paper="Sharchilev et al. 2018, Finding Influential Training Samples for GBDTs",
        needs="boosted trees",
        cost="50 ns per pair of training examples and round",
        good_for="small tables: what leaving out does, apart from other splits",
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
        """One pass of all examples through the leaves per example."""
        return Cost(gradients=len(problem.train) / 3 * len(problem.train))

    def prepare(self, problem: Problem, run: Run) -> Refit | OwnQueries:
        """Leaves of both sides, and the measurement with all examples."""
        if self.of == "self":
            return OwnQueries(replace(self, of="queries"), run)
        leaves = leaves_of(problem, run, method="LeafRefit")
        check_rule(leaves.forest, method="LeafRefit")
        raw = refitted(leaves, leaves.weights[None])[:, 0]
        distance = float(np.abs(raw - raw_scores(leaves.forest, leaves.query)).max(initial=0))
        size = _DOUBLES * 8 * len(leaves.train) * leaves.forest.objective.outputs
        return Refit(leaves, leaves.answers(raw), distance, max(1, _BLOCK_BYTES // size))

    def resolved(self, state: Refit | OwnQueries) -> Mapping[str, Any]:
        """How far the model made again is from the given one."""
        if isinstance(state, OwnQueries):
            return {}
        return {"leaf_rule": state.leaves.forest.leaf_rule, "largest_raw_difference": state.distance}

    def score(
        self, problem: Problem, state: Refit | OwnQueries, rows: slice
    ) -> Float[np.ndarray, "row query"]:
        """Refit the leaves without each of these rows."""
        if isinstance(state, OwnQueries):
            return state.score(problem, rows)
        leaves = state.leaves
        chosen = np.arange(len(leaves.weights))[rows]
        found = np.zeros((len(chosen), len(state.before)))
        # Without weight it is absent already.
        asked = np.flatnonzero(leaves.weights[chosen] > 0)
        for low in range(0, len(asked), state.fits):
            part = asked[low : low + state.fits]
            weights = np.tile(leaves.weights, (len(part), 1))
            weights[np.arange(len(part)), chosen[part]] = 0.0
            raw = refitted(leaves, weights)
            for place, row in enumerate(part):
                found[row] = leaves.answers(raw[:, place]) - state.before
        return found if leaves.lower_is_better else -found
