"""NN-CIFT (Agarwal & Hakkani-Tür 2025): a small network on pairs of embeddings predicts a method's scores from a few.

Source: Agarwal & Hakkani-Tür (2025), "Data Valuation using Neural Networks for Efficient Instruction Fine-Tuning",
arXiv:2502.09969: the InfluenceNetwork on concatenated embeddings, trained on a small share of the pairs.

Deviations: the embeddings are those of the learner with its errors (see ``collect/describing.py``), reduced to their
main components; products of the components stand beside them, and two inner products of the whole embeddings, as they
are and through the damped inverse of their second moment (which is how the last layer alone enters influence); scores
are standardised; the share is of training examples, each with all queries, because that is what a method's cost goes
by.
"""

import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor

from steelyard.collect.describing import describe
from steelyard.collect.fits import explained
from steelyard.errors import CapabilityError, SettingError
from steelyard.maths.surrogate import agreement
from steelyard.problem import Problem
from steelyard.records import Cost, Scores
from steelyard.run import Run, in_memory
from steelyard.run.seeds import generator, stream
from steelyard.score.driver import MethodCard, PairMethod, Predicts, begin, make_scores

_LEAST = 20
_TESTED = 0.2
_BLOCK = 2**18
_DAMPING = 0.1


@dataclass(frozen=True)
class NNCIFT:
    """Scores of all pairs by a network that has seen a method's scores of some training examples.

    The record says how well it orders pairs of training examples that it has not seen (a fifth of those scored), and
    what share of the method's cost was saved. In the unit of the method.

    Cost: ``share`` of the method's passes over the training examples, two forward passes per example and query.

    Args:
        base: The method to learn; one that scores training examples row by row.
        settings: Of the method, such as ``damping=0.1``.
        share: Of the training examples that the method scores; 20 at least.
        components: Of the embeddings, on each side.
        width: Of the network's one hidden layer.

    Source: Agarwal & Hakkani-Tür (2025); deviations at the head of the module.
    """

    base: str = "ekfac"
    settings: tuple[str, ...] = ()
    share: float | int = 0.2
    components: int = 24
    width: int = 64
    card: ClassVar[MethodCard] = MethodCard(
        paper="Agarwal & Hakkani-Tur 2025, Data Valuation using Neural Networks for Efficient Instruction Fine-Tuning",
        needs="embeddings, and what the method that it learns needs",
        cost="share x the method, and n + q forward passes",
        good_for="stretching a costly method over many examples, with a test of how far that holds",
    )

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or self.components < 1 or self.width < 1:
            raise SettingError(
                f"NNCIFT: share={self.share}, components={self.components}, width={self.width}.",
                fix="give a share above 0, at most 1, and at least one component and one unit.",
            )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Predicted scores of every pair.

        Raises:
            CapabilityError: If the method does not score training examples row by row, or there are no embeddings.
        """
        run = run or in_memory()
        started = begin(self, problem, run)
        method = self._method()
        rows = self._rows(problem)
        state = method.prepare(problem, run)
        known = np.concatenate(
            [np.asarray(method.score(problem, state, slice(row, row + 1)), dtype=np.float64) for row in rows]
        )
        train, query = self._described(problem, run)
        tested = rows[: max(2, round(_TESTED * len(rows)))]
        learned = rows[len(tested) :]
        network = self._fit(problem, train.take(learned), query, known[len(tested) :])
        facts = {
            "base": repr(method),
            "scored_by_base": len(rows),
            "share_of_base_saved": 1 - len(rows) / len(problem.train),
            "held_out": agreement(network.predict(train.take(tested), query), known[: len(tested)]),
        }
        values = network.predict(train, query)
        unit = method.unit(problem)
        return make_scores(
            self, problem, values, run, unit=unit, resolved=facts, started=started
        ).check_finite()

    def stretched(
        self, problem: Problem, rows: Int[np.ndarray, " row"], known: Float[np.ndarray, "row query"], run: Run
    ) -> Float[np.ndarray, "train query"]:
        """Scores of all pairs from those of some rows, wherever they come from: such as a gradient store of a share.

        Cost: two forward passes per training example and query.
        """
        train, query = self._described(problem, run)
        return self._fit(problem, train.take(rows), query, known).predict(train, query)

    def predict(self, problem: Problem) -> Cost:
        """That of the method, for its share."""
        method = self._method()
        whole = method.predict(problem) if isinstance(method, Predicts) else Cost()
        passes = 2 / 3 * (len(problem.train) + len(problem.query))
        return Cost(
            fits=round(self.share * whole.fits), gradients=round(self.share * whole.gradients + passes)
        )

    def _method(self) -> PairMethod:
        # Imported here: the table of methods has this one in it.
        from steelyard.score import by_name

        parts = [entry.partition("=") for entry in self.settings]
        method = by_name(self.base, {field.strip(): value.strip() for field, _, value in parts})
        if not isinstance(method, PairMethod):
            raise CapabilityError(
                f"NNCIFT learns from the scores of some training examples, and {self.base} only scores all at once.",
                fix="name a method such as ekfac, grad_dot, datainf or leave_one_out.",
            )
        return method

    def _rows(self, problem: Problem) -> Int[np.ndarray, " row"]:
        by_id = np.argsort(problem.train.ids, kind="stable")
        count = min(len(by_id), max(_LEAST, round(self.share * len(by_id))))
        return by_id[generator(problem.seed, "nn-cift").permutation(len(by_id))[:count]]

    def _described(self, problem: Problem, run: Run) -> "tuple[Side, Side]":
        fitted = explained(problem, run)
        run.spend(gradients=2 / 3 * (len(problem.train) + len(problem.query)))
        train = describe(problem, fitted, problem.train, method="NNCIFT")
        query = describe(problem, fitted, problem.query, method="NNCIFT")
        if train.shape[1] != query.shape[1]:  # queries without known labels have no errors
            train = train[:, : query.shape[1]]
        by_id = train[
            np.argsort(problem.train.ids, kind="stable")
        ]  # sums round alike in every order of the rows
        centre, scale = by_id.mean(axis=0), by_id.std(axis=0)
        scale = np.where(scale > 1e-12, scale, 1.0)
        _, _, axes = np.linalg.svd((by_id - centre) / scale, full_matrices=False)
        axes = axes[: self.components]
        # A component and its negative describe the same; one of them must be chosen alike on every machine.
        axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
        reduced = [(side - centre) / scale @ axes.T for side in (train, query)]
        size = float(np.square(axes @ ((by_id - centre) / scale).T).mean() ** 0.5) or 1.0
        length = float(np.square(by_id).sum(axis=1).mean() ** 0.5) or 1.0
        root = _inverse_root(by_id / length)
        level = float(np.square(by_id / length @ root).sum(axis=1).mean() ** 0.5) or 1.0
        sides = zip(reduced, (train / length, query / length), strict=True)
        first, second = (Side(few / size, whole, whole @ root / level) for few, whole in sides)
        return first, second

    def _fit(self, problem: Problem, train: "Side", query: "Side", scores: np.ndarray) -> "InfluenceNetwork":
        centre, scale = float(scores.mean()), float(scores.std()) or 1.0
        network = MLPRegressor(
            hidden_layer_sizes=(self.width,),
            max_iter=60,
            tol=0.0,
            learning_rate_init=3e-3,
            random_state=stream(problem.seed, "nn-cift network") % 2**32,
        )
        pairs = paired(train, query)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # it trains for a fixed number of epochs
            network.fit(pairs, ((scores - centre) / scale).ravel())
        return InfluenceNetwork(network, centre, scale)


@dataclass(frozen=True, eq=False)
class InfluenceNetwork:
    """A fitted network with the scale of what it learned.

    Attributes:
        network: On standardised scores.
        centre: Mean score.
        scale: Deviation of the scores.
    """

    network: MLPRegressor
    centre: float
    scale: float

    def predict(self, train: "Side", query: "Side") -> Float[np.ndarray, "row query"]:
        """Scores of every pair."""
        total, count = len(train.components), len(query.components)
        step = max(1, _BLOCK // max(1, count))
        parts = [
            np.asarray(self.network.predict(paired(train.take(np.arange(k, min(k + step, total))), query)))
            for k in range(0, total, step)
        ]
        return np.concatenate(parts).reshape(total, count) * self.scale + self.centre


@dataclass(frozen=True, eq=False)
class Side:
    """Training examples or queries as the network sees them.

    Attributes:
        components: Main components of their descriptions.
        whole: The descriptions themselves, of about length 1.
        sharp: The descriptions times the root of the damped inverse of their second moment, of about length 1.
    """

    components: Float[np.ndarray, "row component"]
    whole: Float[np.ndarray, "row feature"]
    sharp: Float[np.ndarray, "row feature"]

    def take(self, rows: np.ndarray) -> "Side":
        """These rows."""
        return Side(self.components[rows], self.whole[rows], self.sharp[rows])


def paired(train: Side, query: Side) -> Float[np.ndarray, "pair feature"]:
    """The components of every pair, their products, and the two inner products of whole descriptions, row by row."""
    left = np.repeat(train.components, len(query.components), axis=0)
    right = np.tile(query.components, (len(train.components), 1))
    inner = [(a @ b.T).reshape(-1, 1) for a, b in ((train.whole, query.whole), (train.sharp, query.sharp))]
    return np.concatenate([left, right, left * right, *inner], axis=1)


def _inverse_root(rows: Float[np.ndarray, "row feature"]) -> Float[np.ndarray, "feature feature"]:
    """Root of the inverse of the second moment, with a tenth of its mean eigenvalue added."""
    values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
    damped = np.maximum(values, 0.0) + _DAMPING * max(float(values.mean()), 1e-30)
    return vectors / np.sqrt(damped) @ vectors.T
