"""What methods on projected gradients share: the damped second moment of the features, inverted part by part.

Not a method by itself. The curvature is that of the *summed* training loss plus its penalty, restricted to the span
of the projection: ``n (F + l2 P^T P + damping I)``, F the mean of ``phi phi^T`` within each part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from steelyard.errors import SettingError
from steelyard.maths.blockwise import Blockwise, factorise, mean_eigenvalue
from steelyard.problem import Problem

if TYPE_CHECKING:
    from steelyard.collect.features import Features

Damping = float | int | Literal["auto"]


@dataclass(frozen=True, eq=False)
class Projected:
    """Features, the query side ready for dot products, and the curvature that was applied to it.

    Attributes:
        features: Of training examples.
        queries: ``[query, feature]`` with the inverse curvature applied, signed by the measurement.
        curvature: Of the summed training loss in the space of the features.
        resolved: What every ``"auto"`` became.
    """

    features: Any
    queries: Float[np.ndarray, "query feature"]
    curvature: Blockwise
    resolved: Mapping[str, Any]


def damped(
    features: "Features",
    moments: Sequence[np.ndarray],
    *,
    count: int,
    decay: float,
    damping: Damping,
) -> tuple[Blockwise, dict[str, Any]]:
    """The curvature of the summed loss, factorised, and the damping that was used.

    Args:
        features: For names, columns and the penalty's image.
        moments: Mean of ``phi phi^T`` per part.
        count: Examples that the objective is a mean over.
        decay: Coefficient of the l2 penalty in the mean training loss.
        damping: Added to every eigenvalue of the mean; ``"auto"`` is a tenth of the mean eigenvalue of each part.

    Raises:
        SettingError: If the damping is negative or an unknown word.
        NumericsError: If a part is not positive definite.
    """
    if damping == "auto":
        values = [0.1 * mean_eigenvalue(matrix) for matrix in moments]
        reason = "0.1 x mean eigenvalue of each part"
    elif isinstance(damping, str) or damping < 0:
        raise SettingError(f"damping={damping!r}", fix='give "auto" or a number that is not negative.')
    else:
        values, reason = [float(damping)] * len(moments), "as given, the same for every part"
    penalties = features.grams() if decay else [np.zeros((1, 1))] * len(moments)
    total = [
        # A part that no training gradient reaches has eigenvalues 0 and no influence, whatever stands here.
        count * (matrix + decay * penalty + (value or float(not matrix.any())) * np.eye(len(matrix)))
        for matrix, penalty, value in zip(moments, penalties, values, strict=True)
    ]
    used = dict(zip(features.names, values, strict=True))
    return factorise(features.columns, total, features.names), {
        "damping": used,
        "damping_reason": reason,
        "l2": decay,
        "features": features.map.width,
        "parts": len(features.names),
    }


def query_features(problem: Problem, features: "Features") -> Float[np.ndarray, "query feature"]:
    """Features of the queries' measurement, in float64, positive towards a better measurement's opposite.

    Gradients of measurements that should be high are negated, so that a positive product means that the training
    example helps.
    """
    sign = 1.0 if problem.learner.measurement.lower_is_better else -1.0
    return sign * features(problem.query, "measurement").astype(np.float64)
