"""Elo ratings: the formula by hand, sums that stay, orders that do not matter, intervals that cover."""

import numpy as np
import pytest

from steelyard.errors import ShapeError
from steelyard.maths.elo import BASE, elo, expected_score, meta_elo


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_one_match_is_the_formula():
    found = elo(np.array([[2.0, 1.0]]), np.zeros((1, 2)), draw=rng())
    assert found.estimate == pytest.approx([1520.0, 1480.0])
    assert expected_score(np.array([1900.0]), np.array([1500.0])) == pytest.approx(10 / 11)


def test_two_matches_in_a_row_by_hand():
    found = elo(np.array([[2.0, 1.0], [5.0, 3.0]]), np.zeros((2, 2)), draw=rng())
    second = 40 * (1 - 1 / (1 + 10 ** (-40 / 400)))
    assert found.estimate == pytest.approx([1520 + second, 1480 - second])


def test_ratings_sum_to_the_start_and_better_players_stand_higher():
    values = np.tile([4.0, 3.0, 2.0, 1.0], (6, 1))
    found = elo(values, np.full(values.shape, 0.1), draw=rng())
    assert found.estimate.sum() == pytest.approx(4 * BASE)
    assert np.all(np.diff(found.estimate) < 0) and found.games == 6
    assert np.all(found.low <= found.estimate) and np.all(found.estimate <= found.high)


def test_within_a_standard_error_it_is_a_draw():
    found = elo(np.array([[1.0, 1.1]]), np.full((1, 2), 0.1), draw=rng())
    assert found.estimate == pytest.approx([BASE, BASE])
    assert found.low[0] < BASE < found.high[0]


def test_players_who_are_alike_cannot_be_told_apart_and_order_of_games_does_not_matter():
    values = rng(3).normal(size=(12, 4))
    found = elo(values, np.full(values.shape, 0.3), draw=rng())
    assert np.all(found.low < BASE + 30) and np.all(found.high > BASE - 30)
    again = elo(values[::-1], np.full(values.shape, 0.3), draw=rng(1))
    np.testing.assert_allclose(again.estimate, found.estimate, atol=8)


def test_who_does_not_play_keeps_the_start_and_games_of_one_do_not_count():
    values = np.array([[1.0, 0.0, np.nan], [np.nan, np.nan, 5.0]])
    found = elo(values, np.zeros_like(values), draw=rng())
    assert found.estimate == pytest.approx([1520.0, 1480.0, BASE]) and found.games == 1
    assert elo(np.full((2, 2), np.nan), np.zeros((2, 2)), draw=rng()).estimate == pytest.approx([BASE, BASE])


def test_meta_elo_is_the_weighted_mean():
    good = elo(np.array([[1.0, 0.0]]), np.zeros((1, 2)), draw=rng())
    bad = elo(np.array([[0.0, 1.0]]), np.zeros((1, 2)), draw=rng())
    assert meta_elo([good, bad], np.ones(2)).estimate == pytest.approx([BASE, BASE])
    assert meta_elo([good, bad], np.array([3.0, 1.0])).estimate == pytest.approx([1510.0, 1490.0])
    many = elo(np.tile([1.0, 0.0], (7, 1)), np.zeros((7, 2)), draw=rng())
    share = (1 + np.log(8)) / (2 + np.log(8) + np.log(2))
    expected = share * many.estimate + (1 - share) * bad.estimate
    assert meta_elo([many, bad], np.ones(2)).estimate == pytest.approx(expected)


def test_a_league_without_a_player_does_not_count_for_it():
    whole = elo(np.array([[2.0, 1.0, 0.0]]), np.zeros((1, 3)), draw=rng())
    part = elo(np.array([[0.0, 1.0, np.nan]]), np.zeros((1, 3)), draw=rng())
    both = meta_elo([whole, part], np.ones(2))
    assert both.estimate[2] == pytest.approx(whole.estimate[2])
    assert both.estimate[0] == pytest.approx((whole.estimate[0] + part.estimate[0]) / 2)


@pytest.mark.parametrize("weights", [[1.0, 2.0], [0.0]])
def test_weights_without_meaning_are_refused(weights):
    one = elo(np.array([[1.0, 0.0]]), np.zeros((1, 2)), draw=rng())
    with pytest.raises(ShapeError, match="weight"):
        meta_elo([one], np.array(weights))
