"""Influence in a projected space: LoGra (Choe et al. 2024, arXiv:2405.13954), GraSS (Hu et al. 2025, arXiv:2505.18976).

Both predict the change of a query's measurement when a training example is removed, with gradients projected layer
by layer and the second moment of the projected gradients as curvature, inverted layer by layer:
``phi_q^T (n (F + l2 P^T P + damping I))^{-1} w_i phi_i``. They differ in the projection.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float

from steelyard.collect.gradients import Fitted, open_gradients, present_examples
from steelyard.errors import SettingError
from steelyard.gradients.signs import Projection
from steelyard.problem import Problem
from steelyard.records import Cost, Scores
from steelyard.run import Run
from steelyard.score.driver import MethodCard, score_pairs
from steelyard.score.projected import Damping, Projected, damped, query_features

_INSTEAD = "leave_one_out or knn_shapley"
Fisher = Literal["empirical", "sampled", "exact"]


@dataclass(frozen=True)
class LoGra:
    """``P_out^T G P_in`` per layer, 256 numbers at rank 16, and influence in that space.

    Args:
        rank: Square root of the numbers per layer; the paper's ``k_in = k_out``.
        init: ``"pca"``: the top eigenvectors of each layer's input and output-gradient covariances; ``"random"``:
            signs, without the pass that the covariances take.
        damping: Added to every eigenvalue of the *mean* projected curvature; ``"auto"`` is a tenth of the mean
            eigenvalue of each layer, as in the paper.
        fisher: Whose second moment: of the ``"empirical"`` gradients as in the paper, of labels ``"sampled"`` from
            the model, or ``"exact"`` (one backward pass per output).
        relatif: Divide by ``sqrt(phi_i^T M phi_i)``, the change of example i's own loss: the paper's l-RelatIF,
            which keeps examples with large gradients from being everybody's most influential.
        seed: Of a random projection.

    Deviations. The bias is a last input column, so that it shares its layer's projection. Embeddings and norm
    layers, which the paper leaves out, take part: projected at random, vectors together in one part.

    Source: Choe et al. (2024), "What is Your Data Worth to GPT? LLM-Scale Data Valuation with Influence Functions",
    eq. 6 for the projection, section 3.2 for its initialisation; Barshan et al. (2020), "RelatIF: Identifying
    Explanatory Training Examples via Relative Influence", for l-RelatIF.
    """

    rank: int = 16
    init: Literal["pca", "random"] = "pca"
    damping: Damping = "auto"
    fisher: Fisher = "empirical"
    relatif: bool = False
    seed: int = 0
    card: ClassVar[MethodCard] = MethodCard(
        paper="Choe et al. 2024, What is Your Data Worth to GPT? LLM-Scale Data Valuation with Influence Functions",
        needs="gradients of a network's layers",
        cost="3n + q gradients (2n + q with init=random), one Cholesky factor of rank^2 per layer",
        good_for="large models and many queries: a few hundred numbers per layer and example",
    )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example for every query."""
        return score_pairs(self, problem, run)

    def unit(self, problem: Problem) -> str:
        """The measurement's; relative influence is a similarity."""
        return "rank" if self.relatif else problem.learner.measurement.unit

    def predict(self, problem: Problem) -> Cost:
        """Covariances, second moments, scores."""
        passes = 3 if self.init == "pca" else 2
        return Cost(gradients=passes * len(problem.train) + len(problem.query))

    def prepare(self, problem: Problem, run: Run) -> Projected:
        """Projection, curvature, and the query side with its inverse applied.

        Raises:
            CapabilityError: If the model is not a network, or its loss does not offer the Fisher asked for.
            SettingError: If the rank or the damping has no meaning.
        """
        if self.rank < 1:
            raise SettingError(f"LoGra: rank={self.rank}.", fix="give 1 or more, such as 16.")
        fitted = open_gradients(problem, run, method="LoGra", instead=_INSTEAD)
        # Imported here: scores of linear models need no torch.
        from steelyard.collect.features import principal_features, random_features

        projection = Projection(self.rank**2, "two-sided", seed=self.seed)
        make = principal_features if self.init == "pca" else random_features
        features = make(problem, fitted, projection, method="LoGra")
        return _prepare(problem, fitted, features, fisher=self.fisher, damping=self.damping)

    def resolved(self, state: Projected) -> Mapping[str, Any]:
        """Damping per part, and the size of the features."""
        return state.resolved

    def score(self, problem: Problem, state: Projected, rows: slice) -> Float[np.ndarray, "row query"]:
        """Influence of these rows."""
        return _score(problem, state, rows, relatif=self.relatif)


@dataclass(frozen=True)
class GraSS:
    """Influence from a few entries of every layer's gradient, with random signs and added up in groups.

    Args:
        dimension: Numbers per layer.
        mask: Entries of the gradient per number: a random mask of ``mask * dimension`` entries, then a sparse
            Johnson-Lindenstrauss projection down to ``dimension``.
        factored: Cut rows and columns out of the factors first (FactGraSS, for linear layers), instead of drawing
            entries one by one.
        damping: Added to every eigenvalue of the *mean* projected curvature; ``"auto"`` is a tenth of the mean
            eigenvalue of each layer.
        fisher: As in :class:`LoGra`.
        seed: Of mask and signs.

    Deviations. Groups of the sparse projection are of equal size, see ``gradients/sparse_projection.py``. The mask
    is random: the paper's selective mask, which is trained, is not offered. Embeddings are projected from two sides,
    because a mask over the vocabulary misses nearly every word. Damping is not tuned on the evaluation, as the
    paper's tables are.

    Source: Hu et al. (2025), "GraSS: Scalable Data Attribution with Gradient Sparsification and Sparse Projection",
    section 3.
    """

    dimension: int = 256
    mask: int = 4
    factored: bool = True
    damping: Damping = "auto"
    fisher: Fisher = "empirical"
    seed: int = 0
    card: ClassVar[MethodCard] = MethodCard(
        paper="Hu et al. 2025, GraSS: Scalable Data Attribution with Gradient Sparsification and Sparse Projection",
        needs="gradients of a network's layers",
        cost="2n + q gradients; the projection costs mask x dimension multiplications per layer and position",
        good_for="wide layers, where even a two-sided projection costs as much as the pass itself",
    )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example for every query."""
        return score_pairs(self, problem, run)

    def unit(self, problem: Problem) -> str:
        """The measurement's."""
        return problem.learner.measurement.unit

    def predict(self, problem: Problem) -> Cost:
        """Second moments and scores."""
        return Cost(gradients=2 * len(problem.train) + len(problem.query))

    def prepare(self, problem: Problem, run: Run) -> Projected:
        """Projection, curvature, and the query side with its inverse applied.

        Raises:
            CapabilityError: If the model is not a network, or its loss does not offer the Fisher asked for.
            SettingError: If a size or the damping has no meaning.
        """
        if self.dimension < 1 or self.mask < 1:
            raise SettingError(
                f"GraSS: dimension={self.dimension}, mask={self.mask}.", fix="give 1 or more of each."
            )
        fitted = open_gradients(problem, run, method="GraSS", instead=_INSTEAD)
        from steelyard.collect.features import random_features

        kind = "factored-sparse" if self.factored else "sparse"
        projection = Projection(self.dimension, kind, seed=self.seed, mask=self.mask)
        features = random_features(problem, fitted, projection, method="GraSS")
        return _prepare(problem, fitted, features, fisher=self.fisher, damping=self.damping)

    def resolved(self, state: Projected) -> Mapping[str, Any]:
        """Damping per part, and the size of the features."""
        return state.resolved

    def score(self, problem: Problem, state: Projected, rows: slice) -> Float[np.ndarray, "row query"]:
        """Influence of these rows."""
        return _score(problem, state, rows, relatif=False)


def _prepare(
    problem: Problem, fitted: Fitted, features: Any, *, fisher: Fisher, damping: Damping
) -> Projected:
    from steelyard.collect.curvature import penalty
    from steelyard.collect.features import second_moments

    moments = second_moments(problem, features, fisher=fisher)
    curvature, resolved = damped(
        features,
        moments,
        count=len(present_examples(problem)),
        decay=penalty(problem, fitted),
        damping=damping,
    )
    queries = curvature.solve(query_features(problem, features))
    return Projected(features, queries, curvature, resolved)


def _score(
    problem: Problem, state: Projected, rows: slice, *, relatif: bool
) -> Float[np.ndarray, "row query"]:
    part = problem.train.take(rows)
    features = state.features(part, "loss")
    products = features @ state.queries.T.astype(features.dtype)
    if relatif:
        own = np.sqrt(state.curvature.quadratic(features))
        # The weight is in the influence and in its length, so it cancels; an absent example stays at 0.
        scale = np.divide((part.weights() > 0).astype(float), own, out=np.zeros(len(part)), where=own > 0)
    else:
        scale = part.weights()
    return products * scale[:, None].astype(products.dtype)
