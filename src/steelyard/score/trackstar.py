"""TrackStar (Chang et al. 2024, arXiv:2410.17413): cosines of gradients, corrected by optimiser and curvature."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float

from steelyard.collect.gradients import Fitted, open_gradients
from steelyard.errors import SettingError
from steelyard.gradients.signs import Projection
from steelyard.problem import HasMoments, Problem
from steelyard.records import Cost, Scores
from steelyard.run import Run
from steelyard.score.driver import MethodCard, score_pairs
from steelyard.score.projected import Damping, Projected, damped, query_features

_INSTEAD = "leave_one_out or knn_shapley"
_PAPER = 0.9


@dataclass(frozen=True)
class TrackStar:
    """``cos(R^{-1/2} P g_q / sqrt(V), R^{-1/2} P g_i / sqrt(V))``, positive where training on i helps q.

    V is the optimiser's second moment, P a two-sided random projection per layer, R the second moment of what they
    give: ``mixing`` times that of the queries plus ``1 - mixing`` times that of the training examples.

    Args:
        rank: Square root of the numbers per layer.
        second_moment: ``"optimiser"``: Adam's, as the training kept it or as ``state`` names it; ``"training"``:
            mean squares of the training gradients, one pass more; ``"none"``: no correction. ``"auto"``: the first
            of these that there is.
        state: An optimiser's state saved with torch (``optimizer.pt``).
        mixing: Share of the queries in R. ``"auto"``: 0.9 as in the paper's closed-set experiments where there are
            more queries than numbers in the widest part; else 0, because fewer queries span no more than
            themselves, and dividing by them would remove what is asked.
        damping: Added to the eigenvalues of the mixed R; ``"auto"`` is a tenth of the mean eigenvalue of each
            part.
        seed: Of the projection.

    Deviations. V is used as the outer product of its row and column sums, which is exact for the paper's Adafactor
    and an approximation of Adam's V; gradients stay factored. The paper projects a group of layers together and
    names no damping. Embeddings and norm layers take part.

    Source: Chang et al. (2024), "Scalable Influence and Fact Tracing for Large Language Model Pretraining",
    section 3; appendix A.1.2 for the projection, A.1.3 for the mixing.
    """

    rank: int = 16
    second_moment: Literal["auto", "optimiser", "training", "none"] = "auto"
    state: str | None = None
    mixing: float | int | Literal["auto"] = "auto"
    damping: Damping = "auto"
    seed: int = 0
    card: ClassVar[MethodCard] = MethodCard(
        paper="Chang et al. 2024, Scalable Influence and Fact Tracing for Large Language Model Pretraining",
        needs="gradients of a network's layers; better with an optimiser's state",
        cost="2n + 2q gradients, n more without an optimiser's state",
        good_for="retrieval from a corpus: examples with large gradients do not crowd the top",
    )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example for every query."""
        return score_pairs(self, problem, run)

    def unit(self, problem: Problem) -> str:
        """A similarity."""
        return "rank"

    def predict(self, problem: Problem) -> Cost:
        """Second moments of gradients and of features, scores."""
        passes = 3 if self.second_moment in ("auto", "training") else 2
        return Cost(gradients=passes * len(problem.train) + 2 * len(problem.query))

    def prepare(self, problem: Problem, run: Run) -> Projected:
        """Corrected features of the queries, of length one.

        Raises:
            CapabilityError: If the model is not a network, or the optimiser's state is asked for and there is none.
            ModelError: If the optimiser's state is of another model.
            SettingError: If a setting has no meaning.
        """
        self._check()
        fitted = open_gradients(problem, run, method="TrackStar", instead=_INSTEAD)
        from steelyard.collect.features import random_features, second_moments

        scales, source = self._scales(problem, fitted)
        features = random_features(
            problem,
            fitted,
            Projection(self.rank**2, "two-sided", seed=self.seed),
            method="TrackStar",
            scales=scales,
        )
        widest = max(columns.stop - columns.start for columns in features.columns)
        mixing = self.mixing
        if mixing == "auto":
            mixing = _PAPER if len(problem.query) > widest else 0.0
        moments = second_moments(problem, features)
        if mixing:
            of_queries = second_moments(problem, features, of="measurement", examples=problem.query)
            moments = tuple(
                mixing * asked + (1 - mixing) * trained
                for asked, trained in zip(of_queries, moments, strict=True)
            )
        curvature, resolved = damped(features, moments, count=1, decay=0.0, damping=self.damping)
        queries = query_features(problem, features)
        lengths = np.sqrt(curvature.quadratic(queries))
        unit = np.divide(1.0, lengths, out=np.zeros(len(lengths)), where=lengths > 0)
        resolved |= {"second_moment": source, "mixing": float(mixing), "queries": len(problem.query)}
        return Projected(features, curvature.solve(queries) * unit[:, None], curvature, resolved)

    def resolved(self, state: Projected) -> Mapping[str, Any]:
        """Second moment, mixing and damping."""
        return state.resolved

    def score(self, problem: Problem, state: Projected, rows: slice) -> Float[np.ndarray, "row query"]:
        """Cosines of these rows; an example without gradient gets 0."""
        features = state.features(problem.train.take(rows), "loss")
        lengths = np.sqrt(state.curvature.quadratic(features))
        unit = np.divide(1.0, lengths, out=np.zeros(len(lengths)), where=lengths > 0)
        products = features @ state.queries.T.astype(features.dtype)
        return products * unit[:, None].astype(products.dtype)

    def _scales(self, problem: Problem, fitted: Fitted) -> tuple[Mapping[str, Any], str]:
        from steelyard.collect.features import optimiser_scales, training_scales
        from steelyard.collect.optimiser_state import kept_state, saved_state

        wanted = self.second_moment
        if self.state is not None:
            state = saved_state(problem, fitted, self.state)
            return optimiser_scales(problem, fitted, state.second, method="TrackStar"), f"of {self.state}"
        if wanted == "optimiser" or (wanted == "auto" and isinstance(problem.learner, HasMoments)):
            state = kept_state(problem, fitted, required=wanted == "optimiser", method="TrackStar")
            if state is not None:
                scales = optimiser_scales(problem, fitted, state.second, method="TrackStar")
                return scales, "the optimiser's"
        if wanted == "none":
            return {}, "none, as asked"
        return training_scales(problem, fitted, method="TrackStar"), "mean squares of training gradients"

    def _check(self) -> None:
        if self.rank < 1:
            raise SettingError(f"TrackStar: rank={self.rank}.", fix="give 1 or more, such as 16.")
        if self.mixing != "auto" and not (isinstance(self.mixing, float | int) and 0 <= self.mixing <= 1):
            raise SettingError(f"TrackStar: mixing={self.mixing!r}.", fix='give "auto" or a share, 0 to 1.')
        if self.state is not None and self.second_moment not in ("auto", "optimiser"):
            raise SettingError(
                f"TrackStar: state={self.state!r} with second_moment={self.second_moment!r}.",
                fix="leave one of them out.",
            )
