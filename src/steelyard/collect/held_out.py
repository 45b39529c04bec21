"""The damping of an exact curvature, chosen by how well its inverse serves on held-out training examples.

Damping makes up for what the curvature of a finite training set does not know. So the curvature A of four fifths of the
examples is inverted at several dampings, and judged on the curvature B and the gradients g of the rest: with
``x = (A + damping I)^{-1} g``, the quadratic ``x^T B x / 2 - g^T x`` is least for the x that the true curvature would
give. Too little damping, and x is long where A happened to see no curvature but B does; too much, and x is short
everywhere. It is divided by ``|g|^2`` and the median over g is taken, because gradients have heavy tails.

Queries and measures of quality take no part. Nearest relative: regularising a covariance matrix by cross-validation
(Bickel & Levina 2008, "Regularized Estimation of Large Covariance Matrices", section 5), with the
quadratic that the inverse is for in place of the Frobenius norm.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from steelyard.collect.curvature import hold_out
from steelyard.collect.solving import System, mean_eigenvalue
from steelyard.gradients.solvers import Apply, conjugate_gradient, identity

_GRADIENTS = 16
_EXPONENTS = tuple(np.arange(1.0, -4.1, -0.5))  # of ten, times the mean eigenvalue; from safe to bold
_TOLERANCE = 2e-2
_ITERATIONS = 30


def no_preconditioner(damping: float) -> Apply:
    """Plain conjugate gradient, whatever the damping."""
    return identity


def held_out_damping(
    system: System, preconditioner: Callable[[float], Apply] = no_preconditioner
) -> tuple[float, str]:
    """The best of a grid of dampings, from large to small until it gets worse.

    Cost: per damping tried, one solve for 16 gradients on four fifths of the examples, loosely (a residual of 0.02,
    or 30 iterations): in all that of solving for 16 queries three to five times.

    Args:
        system: The curvature.
        preconditioner: For a damping, an approximate inverse of the damped curvature, to solve sooner.

    Returns:
        Damping of the mean curvature, and the reason with the curve, in words.

    Raises:
        SettingError: If there are fewer than ten training examples.
    """
    mean = mean_eigenvalue(system)

    def compute() -> dict[str, np.ndarray]:
        values = _curve(system, preconditioner, mean)
        return {"values": np.array(values), "exponents": np.array(_EXPONENTS[: len(values)])}

    kept = system.run.keep(f"{system.key}/held-out", compute)
    best = int(np.argmin(kept["values"]))
    multiple = 10.0 ** float(kept["exponents"][best])
    told = ", ".join(
        f"{10.0**e:.2g}: {v:.4g}" for e, v in zip(kept["exponents"], kept["values"], strict=True)
    )
    return (
        multiple * mean,
        f"{multiple:.2g} x mean eigenvalue ({mean:.3g}), the best on held-out training gradients: median of "
        f"(x'Bx/2 - g'x) / |g|^2 by multiple {told}",
    )


def _curve(system: System, preconditioner: Callable[[float], Apply], mean: float) -> list[float]:
    rest, held = hold_out(system.curvature.examples)
    seen, other = system.curvature.of(rest), system.curvature.of(held)
    gradients = torch.from_numpy(
        system.engine.dense(system.curvature.examples.take(held[:_GRADIENTS]), "loss")
    )
    gradients = gradients[gradients.norm(dim=1) > 0]
    system.run.spend(gradients=len(gradients))
    values: list[float] = []
    with system.run.progress("held-out damping", len(_EXPONENTS)) as progress:
        for exponent in _EXPONENTS:
            damping = mean * 10.0**exponent
            values.append(_criterion(system, (seen, other), gradients, damping, preconditioner(damping)))
            progress.advance()
            if values[-1] > min(values):  # smaller dampings are dearer to solve with, and worse still
                break
    return values


def _criterion(
    system: System, parts: tuple[Apply, Apply], gradients: Tensor, damping: float, precondition: Apply
) -> float:
    seen, other = parts
    shift, products = damping + system.decay, 0

    def damped(vectors: Tensor) -> Tensor:
        nonlocal products
        products += len(vectors)
        return seen(vectors) + shift * vectors

    x = conjugate_gradient(
        damped, gradients, precondition=precondition, tolerance=_TOLERANCE, iterations=_ITERATIONS
    ).vectors
    system.run.spend(gradients=len(system.curvature.examples) * 4 / 3 * (products + len(x)))
    judged = 0.5 * (x * (other(x) + system.decay * x)).sum(1) - (x * gradients).sum(1)
    return float((judged / gradients.square().sum(1)).median())
