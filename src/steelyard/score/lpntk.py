r"""The labelled pseudo neural tangent kernel: what learning one example does to another (Guo et al. 2024).

Source: Guo, Ren, Albrecht & Smith (2024), "lpNTK: Better Generalisation with Less Data via Sample Interaction During
Learning", arXiv:2401.08808 (whose code calls it "Sample Relationship from Learning Dynamics Matters for
Generalisation": github.com/Shawn-Guo-CN/lpNTK).
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from steelyard.errors import SettingError
from steelyard.problem import Problem
from steelyard.records import Cost, Scores
from steelyard.run import Run
from steelyard.score.driver import MethodCard, score_pairs


@dataclass(frozen=True)
class LpNTK:
    r""":math:`\tfrac1K s(y_q)^T K(x_q, x_i) s(y_i)`: how learning example i moves the query towards its own label.

    K is the empirical neural tangent kernel of all outputs at the explained model, s is 1 for the own class and -1
    for the others. Normalised by both lengths, values near 1 are *interchangeable* pairs (learning one is learning
    the other), near 0 *unrelated* ones, near -1 *contradictory* ones (learning one undoes the other); the record
    counts the three kinds. A similarity, ``unit="rank"``: positive helps.

    Cost: a gradient per example and query.

    Args:
        normalised: Divide by the lengths, so that values lie between -1 and 1.
        threshold: From where on a normalised value counts as interchangeable or, negative, contradictory.

    Deviations: the official code sums over pairs of outputs where the paper divides by their number, as here; a
    model with one output for two classes has K = 1.

    Source: Guo et al. (2024), section 2.2 and eq. 2 for the signs; the kinds of pairs as in the paper.
    """

    normalised: bool = True
    threshold: float = 0.5
    card: ClassVar[MethodCard] = MethodCard(
        paper="Guo et al. 2024, lpNTK: Better Generalisation with Less Data via Sample Interaction During Learning",
        needs="gradients of a network's outputs, class labels",
        cost="n + q gradients",
        good_for="pairs that are interchangeable, unrelated or contradictory to the model",
    )

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise SettingError(f"LpNTK: threshold={self.threshold}.", fix="give one between 0 and 1.")

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example for every query."""
        scores = score_pairs(self, problem, run)
        if not self.normalised:
            return scores
        provenance = scores.provenance
        kinds = kinds_of_pairs(np.asarray(scores.values), self.threshold)
        return replace(scores, provenance=replace(provenance, resolved={**provenance.resolved, **kinds}))

    def unit(self, problem: Problem) -> str:
        """A similarity."""
        return "rank"

    def predict(self, problem: Problem) -> Cost:
        """One gradient per example and query."""
        return Cost(gradients=len(problem.train) + len(problem.query))

    def prepare(self, problem: Problem, run: Run) -> tuple[Any, Any, Run]:
        """The engine, and the query side.

        Raises:
            CapabilityError: If the learner is no network, or its labels are no classes.
        """
        # Imported here: this file is read by everybody, also without torch.
        from steelyard.collect.signed_outputs import signed_outputs

        engine = signed_outputs(problem, run, method="LpNTK")
        run.spend(gradients=len(problem.query))
        return engine, engine.prepare(problem.query, unit_norm=self.normalised), run

    def score(
        self, problem: Problem, state: tuple[Any, Any, Run], rows: slice
    ) -> Float[np.ndarray, "row query"]:
        """Kernel of these rows with the queries."""
        engine, side, run = state
        part = problem.train.take(rows)
        run.spend(gradients=len(part))
        if not self.normalised:
            return engine.products(part, side)
        products, squares = engine.products_and_squares(part, side)
        lengths = np.sqrt(squares)
        return products / np.where(lengths > 0, lengths, np.inf)[:, None].astype(products.dtype)


def kinds_of_pairs(values: Float[np.ndarray, "train query"], threshold: float | int) -> dict[str, int]:
    """How many pairs are interchangeable, unrelated and contradictory, by their normalised kernel."""
    high, low = int((values >= threshold).sum()), int((values <= -threshold).sum())
    return {
        "interchangeable_pairs": high,
        "unrelated_pairs": values.size - high - low,
        "contradictory_pairs": low,
    }
