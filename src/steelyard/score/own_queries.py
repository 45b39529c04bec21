"""Self-influence by a method of pairs: every training example is asked about as a query of its own."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from steelyard.problem import Problem
from steelyard.run import Run
from steelyard.score.method import PairMethod

OWN_AT_ONCE = 1024
"""Rows of a shard: as many queries are asked about at a time, and a kill loses no more."""


@dataclass(frozen=True, eq=False)
class OwnQueries:
    """The diagonal of a method's scores with the training examples in the place of the queries.

    Cost: that of the method for as many queries as rows; what it needs of the training side is made once per shard.

    Attributes:
        method: Scores pairs.
        run: Where it keeps what shards share.
    """

    method: PairMethod
    run: Run

    def score(self, problem: Problem, rows: slice) -> Float[np.ndarray, "row 1"]:
        """Scores of these rows for themselves."""
        own = problem.train.take(np.arange(len(problem.train))[rows])
        asked = Problem(problem.learner, problem.train, own, seed=problem.seed)
        state = self.method.prepare(asked, self.run)
        return np.diagonal(self.method.score(asked, state, rows))[:, None]
