"""The Gauss-Newton matrix of a small model, whole and in float64."""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg.blas import dsyrk  # pyright: ignore[reportAttributeAccessIssue] - compiled, without stubs

from steelyard.errors import SettingError
from steelyard.gradients.engine import Differentiable, TorchGradients
from steelyard.gradients.fisher import HasOutputs, fisher_gradients
from steelyard.records import Examples

_LARGEST = 20_000


@runtime_checkable
class Curved(Differentiable, HasOutputs, Protocol):
    """A learner with gradients and with outputs whose loss curvature is known."""


def gauss_newton(
    learner: Curved,
    fitted: object,
    examples: Examples,
    weights: Float[np.ndarray, " example"] | None = None,
    *,
    decay: float = 0.0,
) -> Float[np.ndarray, "param param"]:
    """``sum_i w_i J_i^T H_i J_i + N decay I``: J the Jacobian of the outputs, H the loss's Hessian in them.

    Equal to the Hessian for a model that is linear in its parameters; positive semi-definite always. Parameters
    are in the order of ``named_parameters``.

    Cost: outputs times (one backward pass per batch + examples · parameters² multiplications); memory
    parameters² · 8 bytes.

    Args:
        learner: Gives outputs and the factor R of the output Hessian, H = R R^T.
        fitted: Where to evaluate.
        examples: Training examples.
        weights: Weight of each in the sum; 1 if None.
        decay: Coefficient of the l2 penalty in the *mean* training loss.

    Raises:
        SettingError: If the model has more than 20,000 parameters.

    Source: Schraudolph (2002), "Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent", eq. 5.
    """
    engine = TorchGradients(learner, fitted, dtype=torch.float64)
    if engine.size > _LARGEST:
        raise SettingError(
            f"the exact Gauss-Newton matrix of {engine.size:,} parameters takes {engine.size**2 * 8 / 2**30:,.0f} GiB.",
            fix="use ekfac, or a model of at most 20,000 parameters.",
        )
    total = np.zeros((engine.size, engine.size), order="F")
    for batch in fisher_gradients(engine, learner, examples, kind="exact", weights=weights):
        rows = engine.rows(batch.factors)
        if batch.weights is not None:
            rows = rows * batch.weights.sqrt()[:, None]
        # One triangle is half the multiplications of a general product.
        dsyrk(1.0, rows.numpy().T, beta=1.0, c=total, lower=1, overwrite_c=1)
    total += np.tril(total, -1).T
    total[np.diag_indices_from(total)] += len(examples) * decay
    return total
