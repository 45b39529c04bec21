"""Optimal transport between two weighted sets of points: its cost and what each point's mass is charged.

Exact by linear programming for small problems; with entropic regularisation in the log domain for larger ones.
Sources: Kantorovich duality; Cuturi (2013), "Sinkhorn Distances"; annealing and log domain as in Peyré & Cuturi
(2019), "Computational Optimal Transport", section 4.4.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import logsumexp

from steelyard.errors import NumericsError

LARGEST_EXACT = 40_000
"""Pairs up to which the linear programme is solved: about a second."""

_REGULARISATION = 0.01  # of the mean cost
_STEPS = 5  # of annealing
_SWEEPS = 1000
_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False)
class Transport:
    """An optimal (or nearly optimal) way of moving mass.

    Attributes:
        cost: What it takes in all, in the unit of the costs.
        source: ``float[" source"]`` Potential of every source point: the derivative of the cost with respect to its
            mass, up to a constant that is common to all.
        target: ``float[" target"]`` The same for target points.
        exact: Whether it solves the linear programme; else it is regularised.
        residual: How far the plan's marginals are from those asked for, in total mass.
    """

    cost: float
    source: Float[np.ndarray, " source"]
    target: Float[np.ndarray, " target"]
    exact: bool
    residual: float = 0.0


def transport(
    costs: Float[np.ndarray, "source target"], start: Float[np.ndarray, " target"] | None = None
) -> Transport:
    """Move uniform mass on the source points to uniform mass on the target points.

    Cost: a linear programme up to 40,000 pairs; else at most a few thousand sweeps over the matrix of costs.

    Args:
        costs: Of moving a unit of mass between two points, not negative.
        start: Potentials of the target points in a problem much like this one: saves five sixths of the sweeps.

    Raises:
        NumericsError: If the linear programme fails.
    """
    return _exact(costs) if costs.size <= LARGEST_EXACT else _regularised(costs, start)


def _exact(costs: np.ndarray) -> Transport:
    from scipy.optimize import linprog
    from scipy.sparse import eye_array, kron, vstack

    sources, targets = costs.shape
    # Plan entries in row-major order: row sums, then column sums.
    sums = vstack(
        [
            kron(eye_array(sources), np.ones((1, targets))),
            kron(np.ones((1, sources)), eye_array(targets)),
        ]
    )
    mass = np.concatenate([np.full(sources, 1.0 / sources), np.full(targets, 1.0 / targets)])
    found = linprog(np.asarray(costs, dtype=np.float64).ravel(), A_eq=sums.tocsr(), b_eq=mass, method="highs")
    if not found.success:
        raise NumericsError(
            f"optimal transport failed: {found.message}", fix="look for extreme distances between examples."
        )
    potentials = np.asarray(found.eqlin.marginals)
    return Transport(float(found.fun), potentials[:sources], potentials[sources:], exact=True)


def _regularised(costs: np.ndarray, start: np.ndarray | None) -> Transport:
    costs = np.asarray(costs, dtype=np.float64)
    sources, targets = costs.shape
    log_a, log_b = -np.log(sources), -np.log(targets)
    f, g = np.zeros(sources), np.zeros(targets) if start is None else start
    smallest = _REGULARISATION * max(float(costs.mean()), np.finfo(np.float64).tiny)
    residual = np.inf
    for blur in smallest * 2.0 ** np.arange(0 if start is not None else 2 * _STEPS, -1, -2):
        for _ in range(_SWEEPS):
            f = -blur * logsumexp((g[None] - costs) / blur + log_b, axis=1)
            moved = -blur * logsumexp((f[:, None] - costs) / blur + log_a, axis=0)
            # Mass that arrives at each target is exp((g - moved) / blur) of what it should be.
            residual = float(np.abs(np.expm1((g - moved) / blur)).mean())
            g = moved
            if residual < _TOLERANCE:
                break
    plan = np.exp((f[:, None] + g[None] - costs) / smallest + log_a + log_b)
    return Transport(float((plan * costs).sum()), f, g, exact=False, residual=residual)
