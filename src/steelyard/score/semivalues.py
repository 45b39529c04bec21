"""Samplers of semivalues over a game: permutations, Owen's levels, complementary contributions; and all coalitions.

Sources: Castro, Gómez & Tejada (2009), "Polynomial calculation of the Shapley value based on sampling"; Ghorbani & Zou
(2019), "Data Shapley", for truncation; Okhrati & Lipani (2020), "A multilinear sampling algorithm to estimate Shapley
values"; Zhang et al. (2023), "Efficient Sampling Approaches to Shapley Value Approximation".
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from steelyard.collect import coalitions
from steelyard.collect.coalitions import Permutations
from steelyard.collect.games import Game, check_budget
from steelyard.errors import SettingError
from steelyard.maths.semivalues import (
    all_coalitions,
    complementary_factors,
    exact_semivalues,
    permutation_contributions,
    size_probabilities,
)
from steelyard.maths.tallies import Tally, tally, tally_of_products
from steelyard.score.sampling import Estimate, Sampler, with_mean

STRATA = 8
_TRUNCATION_STEPS = 16  # a permutation is played in so many pieces, so that fits can be made together
_OFTEN = 20

LogWeights = Float[np.ndarray, " size"]


@dataclass(frozen=True)
class Draws:
    """What random draws depend on.

    Attributes:
        seed: The problem's seed.
        seeds: Training seeds that units take turns with.
    """

    seed: int
    seeds: int

    def of(self, units: range) -> Int[np.ndarray, " unit"]:
        """Number of the training seed of every unit."""
        return np.arange(units.start, units.stop) % self.seeds


def exact(game: Game, log_weights: LogWeights, *, seeds: int, fits: int, method: str) -> Estimate:
    """Semivalues from every coalition; nothing is drawn, so standard errors are 0.

    Cost: 2^players - 1 fits per seed.

    Raises:
        SettingError: If there are more than 16 players, the budget is smaller, or a fit failed.
    """
    masks = all_coalitions(len(game.players))
    check_budget(fits, (len(masks) - 1) * seeds, method=method, unit="exact=true")
    players = len(game.players)
    values = np.zeros((players, len(game.nobody()) + 1))
    for seed in range(seeds):
        played = np.concatenate([game.nobody()[None], game.play(masks[1:], np.full(len(masks) - 1, seed))])
        if not np.isfinite(played).all():
            raise SettingError(
                f"{method}: exact=true needs the outcome of every coalition. {game.note()}",
                fix="raise smallest= to the size from which every fit succeeds, or leave exact out.",
            )
        values += exact_semivalues(with_mean(played), log_weights) / seeds
    return Estimate(values, np.zeros_like(values), len(masks) - 1, "fits")


def by_permutations(
    game: Game,
    draws: Draws,
    log_weights: LogWeights,
    *,
    kind: Permutations = "permutation",
    truncation: float | int = 0.0,
) -> Sampler:
    """Players join one by one in random order; each is worth what it adds.

    Args:
        game: Whose fits they are.
        draws: Seeds.
        log_weights: Of the semivalue; other than Shapley's, contributions are weighted by position.
        kind: Plain, antithetic or stratified permutations.
        truncation: Stop a permutation where its mean utility is within this share of the whole gain from its end; the
            rest adds 0. That is a bias; 0 plays all.
    """
    players = len(game.players)
    members = {"permutation": 1, "antithetic": 2, "stratified": min(STRATA, players)}[kind]
    factors = players * size_probabilities(log_weights)
    full = game.everybody(draws.seeds)

    def draw(units: range) -> Tally:
        orders = coalitions.permutations(draws.seed, players, units, kind=kind, strata=STRATA)
        flat = orders.reshape(-1, players)
        seeds = np.repeat(draws.of(units), members)
        chains = _chains(game, flat, seeds, full, truncation)
        found = permutation_contributions(flat, chains, factors)
        # A failed fit leaves out the whole contribution of a unit to the two players beside it.
        return tally(found.reshape(len(units), members, players, -1).mean(axis=1))

    return Sampler(members * (players - 1), draw, often=_OFTEN if truncation else 1)


def by_levels(game: Game, draws: Draws) -> Sampler:
    """Owen's multilinear extension: a level, a coalition at that level, and what each player adds to it.

    A unit is a coalition and its complement, whose levels add up to 1.
    """
    players = len(game.players)
    toggled = np.eye(players, dtype=bool)

    def draw(units: range) -> Tally:
        first = coalitions.levels(draws.seed, players, units)
        both = np.stack([first, ~first], axis=1).reshape(-1, players)
        around = both[:, None, :] ^ toggled[None]  # [coalition, player, player]
        masks = np.concatenate([both[:, None], around], axis=1)
        seeds = np.repeat(draws.of(units), 2 * (players + 1))
        flat = masks.reshape(-1, players)
        played = with_mean(_play(game, flat, seeds)).reshape(len(both), players + 1, -1)
        gain = (
            played[:, :1] - played[:, 1:]
        )  # with the player minus without, where it is in; else the reverse
        found = np.where(both[:, :, None], gain, -gain)
        return tally(found.reshape(len(units), 2, players, -1).mean(axis=1))

    return Sampler(2 * (players + 1), draw)


def by_complements(game: Game, draws: Draws) -> Sampler:
    """Complementary contributions: u(S) - u(everybody else) tells something about every player at once."""
    players = len(game.players)
    base = with_mean(game.everybody(draws.seeds).mean(axis=0) - game.nobody()) / players

    def draw(units: range) -> Tally:
        masks = coalitions.kernel(draws.seed, players, units)
        seeds = draws.of(units)
        played = _play(game, np.concatenate([masks, ~masks]), np.concatenate([seeds, seeds]))
        gain = with_mean(played[: len(masks)] - played[len(masks) :])
        found = tally_of_products(complementary_factors(masks), gain)
        return Tally(found.count, found.mean + base, found.squares)

    return Sampler(2, draw)


def _play(game: Game, masks: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Utilities of coalitions of which some may be empty."""
    some = masks.any(axis=1)
    if some.all():
        return game.play(masks, seeds)
    played = np.tile(game.nobody(), (len(masks), 1))
    if some.any():
        played[some] = game.play(masks[some], seeds[some])
    return played


def _chains(
    game: Game, orders: np.ndarray, seeds: np.ndarray, full: np.ndarray, truncation: float | int
) -> Float[np.ndarray, "permutation step column"]:
    """Utility along every permutation, from nobody to everybody; the last column is the mean over queries."""
    count, players = orders.shape
    joined = np.argsort(orders, axis=1)  # position of every player
    chains = np.empty((count, players + 1, full.shape[1] + 1))
    chains[:, 0] = with_mean(game.nobody())
    ends = with_mean(full)[seeds]
    chains[:, -1] = ends
    gap = truncation * np.abs(ends[:, -1] - chains[:, 0, -1])
    open_ = np.arange(count)
    step = players if not truncation else max(1, -(-players // _TRUNCATION_STEPS))
    for start in range(1, players, step):
        sizes = np.arange(start, min(start + step, players))
        masks = joined[open_][:, None, :] < sizes[None, :, None]
        played = game.play(masks.reshape(-1, players), np.repeat(seeds[open_], len(sizes)))
        chains[open_[:, None], sizes[None]] = with_mean(played).reshape(len(open_), len(sizes), -1)
        if not truncation:
            continue
        near = np.abs(chains[open_[:, None], sizes[None], -1] - ends[open_, None, -1]) <= gap[open_, None]
        for row, first in zip(open_[near.any(axis=1)], near[near.any(axis=1)].argmax(axis=1), strict=True):
            # What is added after the first near utility is taken to be 0.
            chains[row, sizes[first] + 1 : -1] = chains[row, sizes[first]]
            chains[row, -1] = chains[row, sizes[first]]
        open_ = open_[~near.any(axis=1)]
        if not len(open_):
            break
    return chains


SamplerName = Literal["permutation", "antithetic", "stratified", "owen", "complementary"]
