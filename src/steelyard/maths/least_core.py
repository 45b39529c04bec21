"""The least core of a game: shares of the whole gain that leave no coalition much reason to leave.

Source: Yan & Procaccia (2021), "If You Like Shapley Then You'll Love the Core". Among the shares with the smallest
deficit, those with the smallest sum of squares are taken (egalitarian least core), which makes them unique. The
minimum norm under inequalities is found by non-negative least squares: Lawson & Hanson (1974), "Solving Least Squares
Problems", least distance programming.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from steelyard.errors import NumericsError

_SLACK = 1e-9


@dataclass(frozen=True, eq=False)
class Shares:
    """Shares of the gain of everybody.

    Attributes:
        values: ``float[" player"]`` They sum to the total.
        deficit: How much the worst-served of the given coalitions lacks, at least 0.
    """

    values: Float[np.ndarray, " player"]
    deficit: float


def least_core(
    coalitions: Bool[np.ndarray, "coalition player"],
    gains: Float[np.ndarray, " coalition"],
    total: float | int,
) -> Shares:
    """Shares that add up to the total and leave the worst-served coalition the smallest deficit.

    Cost: a linear programme with one constraint per coalition, then non-negative least squares of the same size.

    Args:
        coalitions: Those that are listened to.
        gains: What each gains over nobody.
        total: What everybody gains over nobody.

    Raises:
        NumericsError: If a solver does not succeed.
    """
    from scipy.optimize import linprog

    count, players = coalitions.shape
    members = coalitions.astype(np.float64)
    found = linprog(
        np.append(np.zeros(players), 1.0),
        A_ub=-np.hstack([members, np.ones((count, 1))]),
        b_ub=-gains,
        A_eq=np.append(np.ones(players), 0.0)[None],
        b_eq=[float(total)],
        bounds=[(None, None)] * players + [(0.0, None)],
        method="highs",
    )
    if not found.success:
        raise NumericsError(
            f"the linear programme of the least core has no solution: {found.message}",
            fix="give more coalitions, or use banzhaf.",
        )
    deficit = max(0.0, float(found.x[-1]))
    return Shares(_smallest(members, gains - deficit, float(total)), deficit)


def _smallest(members: np.ndarray, least: np.ndarray, total: float) -> np.ndarray:
    """The shares of smallest norm that give every coalition at least so much, and sum to the total."""
    from scipy.optimize import nnls

    count, players = members.shape
    equal = np.full(players, total / players)
    # Deviations from equal shares sum to 0: subtract the mean of every constraint.
    tilted = members - members.mean(axis=1, keepdims=True)
    short = least - members @ equal
    scale = max(1.0, float(np.abs(short).max()))
    if bool((short <= _SLACK * scale).all()):
        return equal
    stacked = np.vstack([tilted.T, short[None] / scale])
    wanted = np.append(np.zeros(players), 1.0)
    duals, _ = nnls(stacked, wanted, maxiter=30 * count)
    rest = stacked @ duals - wanted
    if abs(rest[-1]) < _SLACK:
        raise NumericsError(
            "no shares satisfy the coalitions within rounding.", fix="give more coalitions, or use banzhaf."
        )
    return equal - scale * rest[:-1] / rest[-1]
