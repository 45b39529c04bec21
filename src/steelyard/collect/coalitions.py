"""Random coalitions with stable rows: row k depends on the seed, the number of players and k alone.

A larger budget therefore repeats the rows of a smaller one and then goes on, and fits that are kept are used again.
Rows are drawn in blocks of 64 from a stream of their own each.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from steelyard.maths.semivalues import complementary_sizes
from steelyard.run.seeds import generator

_BLOCK = 64

Permutations = Literal["permutation", "antithetic", "stratified"]


def independent(
    seed: int, players: int, rows: range, *, probability: float | int
) -> Bool[np.ndarray, "coalition player"]:
    """Coalitions that every player joins independently with one probability.

    Args:
        seed: The problem's seed.
        players: Players in the game.
        rows: Which rows of the endless design.
        probability: Of joining.
    """

    def block(draw: np.random.Generator) -> np.ndarray:
        return draw.random((_BLOCK, players)) < probability

    return _rows(seed, f"independent {probability}", rows, block)


def mixed(
    seed: int, players: int, rows: range, *, probabilities: tuple[float | int, ...]
) -> tuple[Bool[np.ndarray, "coalition player"], Float[np.ndarray, " coalition"]]:
    """Coalitions whose probability of joining is itself drawn, uniformly from a few; both come back."""

    def block(draw: np.random.Generator) -> np.ndarray:
        chosen = draw.choice(np.asarray(probabilities, dtype=np.float64), size=_BLOCK)
        return np.concatenate([chosen[:, None], draw.random((_BLOCK, players))], axis=1)

    found = _rows(seed, f"mixed {probabilities}", rows, block)
    return found[:, 1:] < found[:, :1], found[:, 0]


def copies(
    seed: int, rows: range, probabilities: Float[np.ndarray, " coalition"], *, players: int
) -> Bool[np.ndarray, "coalition player"]:
    """Coalitions drawn once more with the probabilities of those that ``mixed`` drew: their knock-offs."""

    def block(draw: np.random.Generator) -> np.ndarray:
        return draw.random((_BLOCK, players))

    return _rows(seed, "copies", rows, block) < probabilities[:, None]


def kernel(seed: int, players: int, rows: range) -> Bool[np.ndarray, "coalition player"]:
    """Coalitions neither empty nor complete, of sizes by ``complementary_sizes``, uniform within a size."""
    probabilities = complementary_sizes(players)

    def block(draw: np.random.Generator) -> np.ndarray:
        sizes = draw.choice(np.arange(1, players), size=_BLOCK, p=probabilities)
        return _ranks(draw.random((_BLOCK, players))) < sizes[:, None]

    return _rows(seed, "kernel", rows, block)


def permutations(
    seed: int, players: int, units: range, *, kind: Permutations, strata: int
) -> Int[np.ndarray, "unit member player"]:
    """Random orders of the players in independent units of dependent members.

    ``"permutation"``: one order per unit. ``"antithetic"``: an order and its reverse. ``"stratified"``: an order and
    its rotations by equal steps, so that every player comes once into each of ``strata`` ranges of positions. Every
    member by itself is a uniformly random order.

    Args:
        seed: The problem's seed.
        players: Players in the game.
        units: Which units of the endless design.
        kind: How members depend on one another.
        strata: Members of a stratified unit, at most the number of players.

    Source: Castro et al. (2009); antithetic: Lomeli et al. (2019); stratified: in the spirit of Maleki et al. (2013),
    by rotation so that a chain of fits still serves all players.
    """

    def block(draw: np.random.Generator) -> np.ndarray:
        return np.argsort(draw.random((_BLOCK, players)), axis=1)

    first = _rows(seed, "permutation", units, block)
    if kind == "permutation":
        return first[:, None]
    if kind == "antithetic":
        return np.stack([first, first[:, ::-1]], axis=1)
    strata = min(strata, players)
    return np.stack([np.roll(first, step * players // strata, axis=1) for step in range(strata)], axis=1)


def levels(seed: int, players: int, rows: range) -> Bool[np.ndarray, "coalition player"]:
    """Coalitions that every player joins with a probability drawn uniformly from [0, 1] for each row."""

    def block(draw: np.random.Generator) -> np.ndarray:
        return draw.random((_BLOCK, players)) < draw.random((_BLOCK, 1))

    return _rows(seed, "levels", rows, block)


def bags(seed: int, players: int, rows: range) -> Float[np.ndarray, "bag player"]:
    """How often each player is drawn in a bootstrap sample of as many draws as players."""

    def block(draw: np.random.Generator) -> np.ndarray:
        return draw.multinomial(players, np.full(players, 1.0 / players), size=_BLOCK).astype(np.float64)

    return _rows(seed, "bags", rows, block)


def _ranks(numbers: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(numbers, axis=1), axis=1)


def _rows(
    seed: int, name: str, rows: range, block: Callable[[np.random.Generator], np.ndarray]
) -> np.ndarray:
    first, last = rows.start // _BLOCK, max(rows.start, rows.stop - 1) // _BLOCK
    drawn = [block(generator(seed, "coalitions", name, number)) for number in range(first, last + 1)]
    return np.concatenate(drawn)[rows.start - first * _BLOCK : rows.stop - first * _BLOCK]
