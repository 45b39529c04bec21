"""Elo ratings of players over games in which everyone has a value, and their weighted mean over leagues (Meta-Elo).

Source: González-Bustamante (2024), "TextClass Benchmark: A Continuous Elo Rating of LLMs in Social Sciences": start at
1500, K = 40, expected score 1 / (1 + 10^((R_B - R_A) / 400)), a draw where values differ by less than a margin, and a
Meta-Elo that weighs leagues. Deviations: values of different games have no common scale, so that the margin is one
standard error of each difference instead of .05, and leagues are not weighed by absolute performance; all pairs play in
every game, in many random orders, whose mean does not depend on any one order; intervals are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from steelyard.errors import ShapeError

BASE, FACTOR, SCALE = 1500.0, 40.0, 400.0


@dataclass(frozen=True, eq=False)
class Ratings:
    """Ratings with their intervals.

    Attributes:
        estimate: ``float64[" player"]`` Mean over random orders of the games as they were played.
        low: ``float64[" player"]`` Lower end of the 95 % interval.
        high: ``float64[" player"]`` Upper end.
        games: Games in which at least two players have a value.
        draws: ``float64["draw player"]`` Ratings after games drawn again, with values within their errors.
        orders: ``float64["draw player"]`` Ratings over random orders of the games as they were played.
        played: ``bool[" player"]`` Who met anyone; the others stand at the start.
    """

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    games: int
    draws: np.ndarray
    orders: np.ndarray
    played: np.ndarray


def expected_score(
    own: Float[np.ndarray, "..."], other: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """Chance of winning, plus half that of a draw, by the ratings of both."""
    return 1.0 / (1.0 + 10.0 ** ((other - own) / SCALE))


def elo(
    values: Float[np.ndarray, "game player"],
    errors: Float[np.ndarray, "game player"],
    *,
    draw: np.random.Generator,
    repeats: int = 400,
) -> Ratings:
    """Ratings of players from what they reached in each game.

    Every pair of players with a value meets once per game. The interval covers two things: which games were played
    (resampled with replacement) and how surely each value is known (drawn anew within its standard error).

    Cost: games · pairs steps, vectorised over the repeats.

    Args:
        values: Higher is better; NaN where a player did not play.
        errors: Standard errors of the values; 0 where a value is exact.
        draw: Source of randomness.
        repeats: Random orders, and as many bootstrap draws.
    """
    played = np.flatnonzero(np.isfinite(values).sum(axis=1) >= 2)
    players = values.shape[1]
    if not len(played):
        still = np.full((repeats, players), BASE)
        return _summary(still, still, 0, np.zeros(players, dtype=bool))
    values, errors = values[played], np.nan_to_num(errors[played])
    same = np.broadcast_to(np.arange(len(played)), (repeats, len(played)))
    orders = _rate(np.broadcast_to(values, (repeats, *values.shape)), errors, same, draw)
    drawn = draw.integers(len(played), size=(repeats, len(played)))
    noisy = values + errors * draw.standard_normal((repeats, *values.shape))
    return _summary(
        orders, _rate(noisy, errors, drawn, draw), len(played), np.asarray(np.isfinite(values).any(axis=0))
    )


def meta_elo(leagues: Sequence[Ratings], weights: Float[np.ndarray, " league"]) -> Ratings:
    """Weighted mean of ratings over leagues, draw by draw.

    Each league counts by its weight times 1 + log(1 + games), as the source weighs cycles: a league of many games says
    more. Weights are normalised to sum to 1 over the leagues that a player took part in.

    Raises:
        ShapeError: If there is not one weight per league, or all are 0.
    """
    if len(leagues) != len(weights) or not weights.sum() > 0:
        raise ShapeError(
            f"{len(leagues)} leagues and weights {weights.tolist()}.",
            fix="give one weight per league, none negative and not all 0.",
        )
    counts = weights * np.array([1 + np.log1p(league.games) for league in leagues])
    took_part = np.stack([league.played for league in leagues])
    shares = counts[:, None] * (took_part | ~took_part.any(axis=0))
    shares = shares / shares.sum(axis=0)
    orders = sum(share * league.orders for share, league in zip(shares, leagues, strict=True))
    draws = sum(share * league.draws for share, league in zip(shares, leagues, strict=True))
    games = sum(league.games for league in leagues)
    return _summary(np.asarray(orders), np.asarray(draws), games, np.asarray(took_part.any(axis=0)))


def _rate(
    values: Float[np.ndarray, "draw game player"],
    errors: Float[np.ndarray, "game player"],
    games: np.ndarray,
    draw: np.random.Generator,
) -> Float[np.ndarray, "draw player"]:
    """Ratings after all matches of the given games, in a random order for every draw."""
    repeats, _, players = values.shape
    first, second = np.triu_indices(players, 1)
    matches = games.shape[1] * len(first)
    order = draw.permuted(np.broadcast_to(np.arange(matches), (repeats, matches)), axis=1)
    rows = np.arange(repeats)
    ratings = np.full((repeats, players), BASE)
    for step in range(matches):
        game = games[rows, order[:, step] // len(first)]
        a, b = (side[order[:, step] % len(first)] for side in (first, second))
        gap = values[rows, game, a] - values[rows, game, b]
        margin = np.hypot(errors[game, a], errors[game, b])
        score = np.where(np.abs(gap) <= margin, 0.5, np.where(gap > 0, 1.0, 0.0))
        change = FACTOR * (score - expected_score(ratings[rows, a], ratings[rows, b]))
        change = np.where(np.isfinite(gap), change, 0.0)
        ratings[rows, a] += change
        ratings[rows, b] -= change
    return ratings


def _summary(orders: np.ndarray, draws: np.ndarray, games: int, played: np.ndarray) -> Ratings:
    low, high = np.quantile(draws, (0.025, 0.975), axis=0)
    estimate = orders.mean(axis=0)
    return Ratings(
        estimate, np.minimum(low, estimate), np.maximum(high, estimate), games, draws, orders, played
    )
