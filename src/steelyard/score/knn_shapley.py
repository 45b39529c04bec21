"""kNN-Shapley (Jia et al. 2019): exact Shapley values of a nearest-neighbour classifier on embeddings."""

import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float32

from steelyard.collect.embeddings import Source, embedder
from steelyard.errors import CapabilityError, SettingError
from steelyard.maths.knn import knn_shapley, knn_shapley_by
from steelyard.problem import Problem
from steelyard.records import Cost, Scores
from steelyard.run import Run, in_memory
from steelyard.score.baselines import Labels, comparable_labels, unit_rows
from steelyard.score.driver import MethodCard, begin, make_scores
from steelyard.score.tree_kernels import paths_of

_BATCH = 4096
_PART_BYTES = 32 * 2**20
_FORWARD = 1 / 3


@dataclass(frozen=True)
class KNNShapley:
    """Shapley value of every training example in a k-NN classifier's probability of the right label.

    The game is a k-nearest-neighbour vote on embeddings, not the learner itself: values are exact for that
    vote, and a proxy for the model. For each query they add up to the vote's probability of the right label.
    Training examples of weight 0 are absent and get 0. Equally distant examples share their value.

    Cost: one forward pass per example and query, then about 0.1 µs per pair. Memory: the embeddings and the
    matrix of scores.

    Args:
        neighbours: How many neighbours vote.
        embedding: ``"learner"``: what the explained model's last layer reads. ``"inputs"``: the input numbers.
            ``"auto"``: the learner's where it has them. ``"leaves"``, for boosted trees: near are examples that share
            the query's leaf in many trees, so that categories and missing values count as the model takes them.
        metric: ``"euclidean"``, or ``"cosine"`` (Euclidean between vectors of length one, which sorts alike).

    Source: Jia et al. (2019), "Efficient Task-Specific Data Valuation for Nearest Neighbor Algorithms",
    theorem 1; deviations in ``maths/knn.py``.
    """

    neighbours: int = 5
    embedding: Source | Literal["leaves"] = "auto"
    metric: Literal["euclidean", "cosine"] = "euclidean"
    card: ClassVar[MethodCard] = MethodCard(
        paper="Jia et al. 2019, Efficient Task-Specific Data Valuation for Nearest Neighbor Algorithms",
        needs="labels, embeddings or numeric inputs",
        cost="n + q forward passes",
        good_for="mislabelled examples at any scale, with values that add up",
    )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example for every query, in accuracy; positive helps."""
        run = run or in_memory()
        if self.neighbours < 1:
            raise SettingError(f"neighbours is {self.neighbours}.", fix="give at least 1 neighbour.")
        started = begin(self, problem, run)
        labels = comparable_labels(problem.train, problem.query)
        if not labels.classes:
            raise CapabilityError(
                f"KNNShapley votes on classes, but the labels of {problem.train.source} are not whole "
                "numbers.",
                fix="use leave_one_out or gauss_newton for regression.",
            )
        if not bool(np.isin(problem.train.weights(), (0.0, 1.0)).all()):
            run.note("KNNShapley gives every training example one vote, whatever its weight above 0")
        facts = json.dumps([repr(self), problem.checksums(), problem.seed], sort_keys=True)
        key = f"score/KNNShapley-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"
        game = functools.cache(functools.partial(self._game, problem, labels, run))
        source = run.keep(f"{key}/embedding", lambda: {"of": np.array(game().embedding)})["of"]
        values = run.matrix(f"{key}/values", (len(problem.train), len(problem.query)), np.float32)
        with run.progress("KNNShapley", len(problem.query), unit="queries") as progress:
            for part in _parts(*values.shape):
                kept = run.keep(
                    f"{key}/queries-{part.start:010d}", lambda part=part: game().play(part, len(values))
                )
                values[:, part] = kept["values"]
                progress.advance(part.stop - part.start)
        resolved = {"embedding": str(source)}
        return make_scores(self, problem, values, run, unit="accuracy", resolved=resolved, started=started)

    def unit(self, problem: Problem) -> str:
        """Probability of the right label."""
        return "accuracy"

    def predict(self, problem: Problem) -> Cost:
        """One forward pass per example and query."""
        return Cost(gradients=_FORWARD * (len(problem.train) + len(problem.query)))

    def _game(self, problem: Problem, labels: Labels, run: Run) -> "_Game":
        present = np.flatnonzero(problem.train.weights())
        own = labels.train[present]
        if self.embedding == "leaves":
            paths = paths_of(problem, run, method="KNNShapley", weighted=False, instead="embedding='inputs'")
            trees = np.float32(paths.train.shape[1])

            def by_leaves(part: slice) -> Blocks:
                apart = trees - replace(paths, query=paths.query[part]).kernel(present).T
                return knn_shapley_by(apart.__getitem__, own, labels.query[part], neighbours=self.neighbours)

            return _Game(by_leaves, present, "leaves: trees in which two examples fall into different ones")
        embed = embedder(problem, run, source=self.embedding, method="KNNShapley")
        train, query = (
            np.concatenate([embed(part) for part in side.batches(_BATCH)])
            for side in (problem.train.take(present), problem.query)
        )
        run.spend(gradients=_FORWARD * (len(train) + len(query)))
        if self.metric == "cosine":
            train, query = unit_rows(train), unit_rows(query)

        def by_vectors(part: slice) -> Blocks:
            return knn_shapley(train, own, query[part], labels.query[part], neighbours=self.neighbours)

        return _Game(by_vectors, present, embed.of)


Blocks = Iterator[tuple[slice, np.ndarray]]
"""Consecutive blocks of queries, and the values of the examples that are present."""


@dataclass(frozen=True, eq=False)
class _Game:
    """What gives the values, made once and only if a part of the scores is missing."""

    values: Callable[[slice], Blocks]
    present: np.ndarray
    embedding: str

    def play(self, part: slice, train: int) -> dict[str, Float32[np.ndarray, "train part"]]:
        """Values of all training examples for these queries; absent examples have 0."""
        values = np.zeros((train, part.stop - part.start), dtype=np.float32)
        for block, found in self.values(part):
            if len(self.present) < train:
                values[self.present, block] = found
            else:
                values[:, block] = found
        return {"values": values}


def _parts(train: int, query: int) -> Iterator[slice]:
    size = max(16, _PART_BYTES // (4 * train))
    for start in range(0, query, size):
        yield slice(start, min(start + size, query))
