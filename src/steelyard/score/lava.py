"""LAVA (Just et al. 2023): what each training example adds to the distance between training set and queries."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from steelyard.collect.embeddings import Source, embedder
from steelyard.collect.players import classes_of
from steelyard.errors import CapabilityError, SettingError
from steelyard.maths.transport import LARGEST_EXACT, Transport, transport
from steelyard.problem import Problem
from steelyard.records import Cost, Examples, Scores
from steelyard.run import Run, in_memory
from steelyard.score.driver import MethodCard, begin, make_scores

_LARGEST = 2 * 2**30
_BATCH = 4096
_FORWARD = 1 / 3


@dataclass(frozen=True)
class LAVA:
    r"""Minus the calibrated gradient of the optimal-transport distance between training examples and queries.

    The cost of moving a training example to a query is the distance of their embeddings plus ``label_weight`` times
    the distance between the classes: the optimal-transport distance of the class's training examples to the query
    class's queries. With f the potentials of the training examples,

    .. math:: v_i = -\left(f_i - \frac{1}{n - 1} \sum_{j \ne i} f_j\right),

    is how fast the distance falls when mass moves from the others to example i. Low values are far from where the
    queries are, or near queries of another class. No refits, and no learner but for embeddings. Nothing is drawn, so
    there is no standard error.

    Cost: a forward pass per example and query; a linear programme for up to 40,000 pairs, else entropic
    regularisation (1 % of the mean cost); memory for a few matrices of n x queries.

    Args:
        embedding: ``"learner"``: what the explained model's last layer reads. ``"inputs"``: the input numbers.
            ``"auto"``: the learner's where it has them.
        label_weight: Weight of the distance between classes; 0 compares inputs alone. Without class labels it has no
            part.

    Source: Just et al. (2023), "LAVA: Data Valuation without Pre-Specified Learning Algorithms". Deviations:
    distances, not squared ones; exact potentials for small problems; embeddings from the explained model.
    """

    embedding: Source = "auto"
    label_weight: float | int = 1.0
    card: ClassVar[MethodCard] = MethodCard(
        paper="Just et al. 2023, LAVA: Data Valuation without Pre-Specified Learning Algorithms",
        needs="embeddings or numeric inputs",
        cost="n + q forward passes, optimal transport",
        good_for="training examples unlike the queries, without refits",
    )

    def __post_init__(self) -> None:
        if self.label_weight < 0:
            raise SettingError(f"LAVA: label_weight={self.label_weight}.", fix="give 0 or more.")

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """One value per training example, in the unit of the distance; low is suspect.

        Raises:
            CapabilityError: If there are no embeddings and inputs are no numbers, or too many pairs.
        """
        run = run or in_memory()
        started = begin(self, problem, run)
        train, query = len(problem.train), len(problem.query)
        if 8 * train * query > _LARGEST:
            raise CapabilityError(
                f"LAVA compares every training example with every query, and {train} x {query} distances do not fit.",
                fix=f"give at most {_LARGEST // (8 * train)} queries, or use knn_shapley.",
            )
        present = _by_id(problem.train, np.flatnonzero(problem.train.weights()))
        asked = problem.query.take(_by_id(problem.query, np.arange(query)))
        embed = embedder(problem, run, source=self.embedding, method="LAVA")
        with run.progress("LAVA", train + query) as progress:
            parts = []
            for side in (problem.train.take(present), asked):
                parts.append(
                    np.concatenate([embed(batch) for batch in side.batches(_BATCH)]).astype(np.float64)
                )
                progress.advance(len(side))
        run.spend(gradients=_FORWARD * (len(present) + query))
        costs = distances(*parts)
        labels = _labels(problem, present, asked)
        if labels is not None and self.label_weight:
            costs = costs + self.label_weight * class_distances(costs, *labels)[labels[0]][:, labels[1]]
        found = transport(costs)
        values = np.zeros((train, 1))
        values[present, 0] = -calibrated(found.source)
        return make_scores(
            self,
            problem,
            values,
            run,
            unit="distance",
            axis="example",
            query_ids=("all queries",),
            suspect="low",
            resolved={"embedding": embed.of, "labels": labels is not None, **_facts(found, costs)},
            started=started,
        ).check_finite()

    def predict(self, problem: Problem) -> Cost:
        """One forward pass per example and query."""
        return Cost(gradients=_FORWARD * (len(problem.train) + len(problem.query)))


def distances(
    train: Float[np.ndarray, "train feature"], query: Float[np.ndarray, "query feature"]
) -> Float[np.ndarray, "train query"]:
    """Euclidean distances."""
    from scipy.spatial.distance import cdist

    return cdist(train, query)


def class_distances(
    costs: Float[np.ndarray, "train query"],
    train: Int[np.ndarray, " train"],
    query: Int[np.ndarray, " query"],
) -> Float[np.ndarray, "train_class query_class"]:
    """Optimal-transport distance of every training class to every query class; 0 for classes without members."""
    found = np.zeros((int(train.max()) + 1, int(query.max()) + 1))
    for one in np.unique(train):
        for other in np.unique(query):
            found[one, other] = transport(costs[np.ix_(train == one, query == other)]).cost
    return found


def calibrated(potentials: Float[np.ndarray, " train"]) -> Float[np.ndarray, " train"]:
    """Each potential minus the mean of the others: free of the constant that potentials are known up to."""
    count = len(potentials)
    return potentials - (potentials.sum() - potentials) / max(1, count - 1)


def _by_id(examples: Examples, rows: np.ndarray) -> np.ndarray:
    # Potentials of a degenerate programme depend on the order of its rows, so that has to be one of content.
    return rows[np.argsort(examples.ids[rows], kind="stable")]


def _labels(problem: Problem, present: np.ndarray, asked: Examples) -> tuple[np.ndarray, np.ndarray] | None:
    if classes_of(problem.train) is None or classes_of(asked) is None:
        return None
    sides = [np.asarray(side.labels()).astype(str) for side in (problem.train, asked)]
    names = np.unique(np.concatenate(sides))
    train, query = (np.searchsorted(names, side) for side in sides)
    return train[present], query


def _facts(found: Transport, costs: np.ndarray) -> dict[str, float | str]:
    how = "exact" if found.exact else f"regularised: more than {LARGEST_EXACT:,} pairs"
    return {
        "transport": how,
        "distance": found.cost,
        "mean cost": float(costs.mean()),
        "residual": found.residual,
    }
