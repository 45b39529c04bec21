"""LAVA (Just et al. 2023): what each training example adds to the distance between training set and queries."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from steelyard.collect.embeddings import Source, embedder
from steelyard.collect.players import classes_of, players_of
from steelyard.errors import CapabilityError, SettingError
from steelyard.maths.transport import LARGEST_EXACT, Transport, transport
from steelyard.problem import Problem
from steelyard.records import Cost, Examples, Scores, Uncertainty
from steelyard.run import Run, in_memory
from steelyard.run.seeds import generator
from steelyard.score.driver import MethodCard, begin, make_scores

_LARGEST = 2 * 2**30
_BATCH = 4096
_FORWARD = 1 / 3
_FEWEST = 4  # queries on a side of a halving


@dataclass(frozen=True)
class LAVA:
    r"""Minus the calibrated gradient of the optimal-transport distance between training examples and queries.

    The cost of moving a training example to a query is the distance of their embeddings plus ``label_weight`` times
    the distance between the classes: the optimal-transport distance of the class's training examples to the query
    class's queries. With f the potentials of the training examples,

    .. math:: v_i = -\left(f_i - \frac{1}{n - 1} \sum_{j \ne i} f_j\right),

    is how fast the distance falls when mass moves from the others to example i. Low values are far from where the
    queries are, or near queries of another class. No refits, and no learner but for embeddings. The value of a group is
    how fast the distance falls when mass moves from all others evenly to its members.

    Nothing is drawn but the queries, from those that might have been asked. Standard errors come from transport to
    disjoint random halves a, b of the queries: :math:`(v_a - v_b)^2 / 4`, averaged over ``halvings`` (the delete-half
    jackknife; a bootstrap would weigh some queries twice, which a linear programme answers with other potentials than
    it has). Distances between classes are taken as they are. From 100 queries on they are right within a tenth, from
    40 up to a fifth too small.

    Cost: a forward pass per example and query; a linear programme for up to 40,000 pairs, else entropic
    regularisation (1 % of the mean cost); for standard errors ``2 * halvings`` times half as many pairs, which are
    started from the potentials of all; memory for a few matrices of n x queries.

    Args:
        embedding: ``"learner"``: what the explained model's last layer reads. ``"inputs"``: the input numbers.
            ``"auto"``: the learner's where it has them.
        label_weight: Weight of the distance between classes; 0 compares inputs alone. Without class labels it has no
            part.
        halvings: Of the queries, for the standard errors; 0: none.
        groups: Values of the groups that this column names, instead of examples.

    Source: Just et al. (2023), "LAVA: Data Valuation without Pre-Specified Learning Algorithms". Deviations:
    distances, not squared ones; exact potentials for small problems; embeddings from the explained model.
    """

    embedding: Source = "auto"
    label_weight: float | int = 1.0
    halvings: int = 8
    groups: str = ""
    card: ClassVar[MethodCard] = MethodCard(
        paper="Just et al. 2023, LAVA: Data Valuation without Pre-Specified Learning Algorithms",
        needs="embeddings or numeric inputs",
        cost="n + q forward passes, optimal transport",
        good_for="training examples unlike the queries, without refits",
    )

    def __post_init__(self) -> None:
        if self.label_weight < 0 or self.halvings < 0:
            raise SettingError(
                f"LAVA: label_weight={self.label_weight}, halvings={self.halvings}.", fix="give 0 or more."
            )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """One value per training example or group, in the unit of the distance; low is suspect.

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
        players = players_of(problem.train, self.groups)
        present = _by_id(problem.train, np.flatnonzero(problem.train.weights()))
        asked = problem.query.take(_by_id(problem.query, np.arange(query)))
        costs, facts = self._costs(problem, present, asked, run)
        found = transport(costs)
        owner = players.owner[present]
        values = players.rows(-calibrated(found.source, owner)[:, None])
        scores = make_scores(
            self,
            problem,
            values,
            run,
            unit="distance",
            axis="example",
            query_ids=("all queries",),
            train_ids=players.shown if self.groups else None,
            suspect="low",
            resolved={**facts, **_facts(found, costs)},
            started=started,
        ).check_finite()
        if not self.halvings or query < 2 * _FEWEST:
            if self.halvings:
                run.note(f"LAVA: {query} queries are too few for standard errors; they take {2 * _FEWEST}")
            return scores
        errors = players.rows(self._errors(problem, costs, found, owner, run)[:, None])
        freedom = min(self.halvings, query - 1)
        return replace(scores, uncertainty=Uncertainty(errors, errors[:, 0], freedom, "other queries"))

    def predict(self, problem: Problem) -> Cost:
        """One forward pass per example and query."""
        return Cost(gradients=_FORWARD * (len(problem.train) + len(problem.query)))

    def _costs(
        self, problem: Problem, present: np.ndarray, asked: Examples, run: Run
    ) -> tuple[Float[np.ndarray, "train query"], dict[str, object]]:
        """Of moving every present training example to every query, and how they were found."""
        embed = embedder(problem, run, source=self.embedding, method="LAVA")
        sides = (problem.train.take(present), asked)
        with run.progress("LAVA", sum(len(side) for side in sides)) as progress:
            parts: list[np.ndarray] = []
            for side in sides:
                vectors = [embed(batch) for batch in side.batches(_BATCH)]
                parts.append(np.concatenate(vectors).astype(np.float64))
                progress.advance(len(side))
        run.spend(gradients=_FORWARD * sum(len(side) for side in sides))
        costs = distances(parts[0], parts[1])
        labels = _labels(problem, present, asked)
        if labels is not None and self.label_weight:
            costs = costs + self.label_weight * class_distances(costs, *labels)[labels[0]][:, labels[1]]
        return costs, {"embedding": embed.of, "labels": labels is not None}

    def _errors(
        self, problem: Problem, costs: np.ndarray, found: Transport, owner: np.ndarray, run: Run
    ) -> Float[np.ndarray, " player"]:
        """Delete-half jackknife over the queries."""
        count = costs.shape[1]
        half, total = count // 2, np.zeros(int(owner.max()) + 1)
        draw = generator(problem.seed, "lava halves")
        with run.progress("halves of the queries", self.halvings, unit="halvings") as progress:
            for _ in range(self.halvings):
                order = draw.permutation(count)
                sides = [np.sort(order[:half]), np.sort(order[half : 2 * half])]
                one, other = (
                    calibrated(transport(costs[:, side], found.target[side]).source, owner) for side in sides
                )
                total += np.square(one - other) / 4 * (2 * half / count)
                progress.advance()
        return np.sqrt(total / self.halvings)


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


def calibrated(
    potentials: Float[np.ndarray, " train"], owner: Int[np.ndarray, " train"] | None = None
) -> Float[np.ndarray, " player"]:
    """Mean potential of each player's examples minus the mean of all others.

    That is free of the constant that potentials are known up to.

    Args:
        potentials: Of the training examples.
        owner: Player of each; every example by itself if None.
    """
    if owner is None:
        owner = np.arange(len(potentials))
    size, total = np.bincount(owner), np.bincount(owner, weights=potentials)
    return total / size - (potentials.sum() - total) / np.maximum(1, len(potentials) - size)


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
