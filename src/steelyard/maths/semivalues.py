"""Semivalues: what each player of a game is worth, exactly from all coalitions, and the weights that samplers need.

A semivalue is a mean of the player's marginal contributions u(S with i) - u(S) over coalitions S of the others. Its
weight depends on the size of S alone; it is kept as a logarithm, because a weight of one coalition among 100,000
players is far below the smallest float. Sources: Shapley (1953); Dubey, Neyman & Weber (1981); Kwon & Zou (2022),
"Beta Shapley"; Wang & Jia (2023), "Data Banzhaf".
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import betaln, gammaln

from steelyard.errors import SettingError, ShapeError

LARGEST_EXACT = 16
"""Players whose coalitions are all enumerated at most: 65,535 fits."""


def beta_log_weights(players: int, *, alpha: float | int, beta: float | int) -> Float[np.ndarray, " size"]:
    """Logarithm of the weight of one coalition of the others, for each size 0 ... players - 1.

    Sizes are beta-binomial. ``alpha=beta=1`` is the Shapley value. A larger ``alpha`` moves weight to small
    coalitions, a larger ``beta`` to large ones.

    Args:
        players: Players in the game.
        alpha: Positive.
        beta: Positive.

    Returns:
        Weights that sum to 1 over all coalitions of the others.

    Raises:
        SettingError: If ``alpha`` or ``beta`` is not positive.

    Example:
        >>> np.exp(beta_log_weights(3, alpha=1, beta=1)).round(4)
        array([0.3333, 0.1667, 0.3333])

    Source: Kwon & Zou (2022), normalised so that the weights sum to 1.
    """
    if not (alpha > 0 and beta > 0):
        raise SettingError(f"alpha={alpha}, beta={beta}.", fix="give positive numbers; 1 and 1 is Shapley.")
    size = np.arange(players)
    return betaln(size + beta, players - 1 - size + alpha) - betaln(alpha, beta)


def shapley_log_weights(players: int) -> Float[np.ndarray, " size"]:
    """Those of the Shapley value: every size is equally likely."""
    return beta_log_weights(players, alpha=1, beta=1)


def banzhaf_log_weights(players: int) -> Float[np.ndarray, " size"]:
    """Those of the Banzhaf value: every coalition is equally likely."""
    return np.full(players, -(players - 1) * np.log(2.0))


def size_probabilities(log_weights: Float[np.ndarray, " size"]) -> Float[np.ndarray, " size"]:
    """How much of a semivalue's weight lies on coalitions of each size; sums to 1.

    Example:
        >>> size_probabilities(shapley_log_weights(4))
        array([0.25, 0.25, 0.25, 0.25])
    """
    others = len(log_weights) - 1
    size = np.arange(others + 1)
    log_count = gammaln(others + 1) - gammaln(size + 1) - gammaln(others - size + 1)
    return np.exp(log_count + log_weights)


def all_coalitions(players: int) -> Bool[np.ndarray, "coalition player"]:
    """Every coalition; player i is in coalition k if bit i of k is set.

    Raises:
        SettingError: If there are more than 16 players.
    """
    if players > LARGEST_EXACT:
        raise SettingError(
            f"enumerating the coalitions of {players} players takes 2^{players} fits.",
            fix=f"leave exact out, or value at most {LARGEST_EXACT} players: group them by a column.",
        )
    return (np.arange(2**players)[:, None] >> np.arange(players) & 1).astype(bool)


def exact_semivalues(
    utilities: Float[np.ndarray, "coalition column"], log_weights: Float[np.ndarray, " size"]
) -> Float[np.ndarray, "player column"]:
    """Semivalue of every player from the utility of every coalition.

    Cost: 2^players · players additions per column.

    Args:
        utilities: In the order of :func:`all_coalitions`; each column is a game of its own.
        log_weights: One per size of the coalition of the others.

    Returns:
        Values in the unit of the utility.

    Raises:
        ShapeError: If there are not 2^players utilities.
    """
    players = len(log_weights)
    if len(utilities) != 2**players:
        raise ShapeError(
            f"{len(utilities)} utilities of {players} players.", fix=f"give one per coalition: {2**players}."
        )
    weights = np.exp(log_weights)
    sizes = np.bitwise_count(np.arange(2**players)).astype(np.int64)
    columns = utilities.shape[1]
    values = np.empty((players, columns))
    for player in range(players):
        # Axis 1 is the player's bit: index 0 without, 1 with.
        split = utilities.reshape(-1, 2, 2**player, columns)
        without = sizes.reshape(-1, 2, 2**player)[:, 0]
        values[player] = np.einsum("abc,ab->c", split[:, 1] - split[:, 0], weights[without])
    return values


def permutation_contributions(
    orders: Int[np.ndarray, "permutation player"],
    chains: Float[np.ndarray, "permutation step column"],
    factors: Float[np.ndarray, " player"],
) -> Float[np.ndarray, "permutation player column"]:
    """What each player adds as it joins the ones before it, times the factor of its position.

    Args:
        orders: Players in order of joining.
        chains: Utility of nobody, of the first, of the first two, …, of all: one step more than players.
        factors: ``players * size_probabilities(log_weights)``; ones for the Shapley value.

    Returns:
        Contributions by player, whose mean over permutations is the semivalue.

    Source: Castro, Gómez & Tejada (2009); importance factors as in Kwon & Zou (2022).
    """
    gains = np.diff(chains, axis=1) * factors[None, :, None]
    found = np.empty_like(gains)
    np.put_along_axis(found, orders[:, :, None], gains, axis=1)
    return found


def complementary_sizes(players: int) -> Float[np.ndarray, " size"]:
    """Probability of drawing a coalition of size 1 … players - 1 for complementary contributions.

    Proportional to 1 / (size · (players - size)): then every draw gets a weight of the same order.
    """
    size = np.arange(1, players)
    weights = 1.0 / (size * (players - size))
    return weights / weights.sum()


def complementary_factors(
    coalitions: Bool[np.ndarray, "coalition player"],
) -> Float[np.ndarray, "coalition player"]:
    r"""What a drawn u(S) - u(N without S) counts for every player, so that the mean is the Shapley value.

    .. math:: \phi_i = \frac{u(N) - u(\emptyset)}{n} + H_{n-1}\, E\left[
        \left(1_{i \in S} - |S| / n\right)\left(u(S) - u(N \setminus S)\right)\right]

    for sizes drawn by :func:`complementary_sizes`, with H the harmonic number. Every row sums to 0, so estimates keep
    efficiency exactly.

    Source: complementary contributions of Zhang et al. (2023), "Efficient Sampling Approaches to Shapley Value
    Approximation"; deviation: instead of one mean per player and size, which needs many draws for each, every draw is
    weighted by its probability, which is unbiased from the first draw on.
    """
    players = coalitions.shape[1]
    harmonic = float(np.sum(1.0 / np.arange(1, players)))
    return harmonic * (coalitions - coalitions.mean(axis=1, keepdims=True))
