"""Games: stable draws, budgets, what nobody is worth, failed fits."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from steelyard.collect import coalitions
from steelyard.collect.games import Game, Rules, untrained
from steelyard.collect.players import players_of
from steelyard.data import read
from steelyard.errors import CapabilityError, DataError, NumericsError, SettingError
from steelyard.learners import Sklearn
from steelyard.problem import Problem
from steelyard.run import in_memory
from tests.games import table_problem


@pytest.mark.parametrize(
    "draw",
    [
        lambda rows: coalitions.independent(1, 7, rows, probability=0.5),
        lambda rows: coalitions.mixed(1, 7, rows, probabilities=(0.2, 0.8))[0],
        lambda rows: coalitions.kernel(1, 7, rows),
        lambda rows: coalitions.levels(1, 7, rows),
        lambda rows: coalitions.bags(1, 7, rows),
        lambda rows: coalitions.permutations(1, 7, rows, kind="stratified", strata=3),
    ],
)
def test_rows_do_not_depend_on_how_many_are_drawn(draw):
    whole = draw(range(150))
    assert len(whole) == 150
    np.testing.assert_array_equal(draw(range(100)), whole[:100])
    np.testing.assert_array_equal(np.concatenate([draw(range(63)), draw(range(63, 129))]), whole[:129])
    assert not np.array_equal(whole[:64], whole[64:128])


def test_kernel_draws_are_never_empty_or_complete():
    sizes = coalitions.kernel(0, 6, range(2000)).sum(axis=1)
    assert set(sizes) == {1, 2, 3, 4, 5}
    expected = np.array([1 / (j * (6 - j)) for j in range(1, 6)])
    observed = np.bincount(sizes, minlength=7)[1:6] / 2000
    np.testing.assert_allclose(observed, expected / expected.sum(), atol=0.04)


def test_stratified_members_put_every_player_into_every_stratum():
    orders = coalitions.permutations(0, 8, range(5), kind="stratified", strata=4)
    positions = np.argsort(orders, axis=2)
    for unit in positions:
        assert all(sorted(unit[:, player] // 2) == [0, 1, 2, 3] for player in range(8))


def game(problem: Problem, **rules) -> Game:
    return Game(problem, in_memory(), players_of(problem.train), Rules(**{"fits": 100, **rules}))


def test_a_coalition_is_fitted_once_and_the_budget_is_kept():
    problem = table_problem(4, 2)
    run = in_memory()
    played = Game(problem, run, players_of(problem.train), Rules(fits=3))
    masks = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=bool)
    first = played.play(masks, np.zeros(3, dtype=np.int64))
    np.testing.assert_array_equal(first, problem.learner.utilities[[1, 3, 1]])
    again = played.play(masks, np.zeros(3, dtype=np.int64))
    np.testing.assert_array_equal(again, first)
    assert (played.spent, run.cost.fits) == (2, 2)
    with pytest.raises(SettingError, match="beyond the budget of 3"):
        played.play(~masks, np.zeros(3, dtype=np.int64))
    assert run.cost.fits == 2


def test_small_coalitions_are_worth_nobody_without_a_fit():
    played = game(table_problem(4, 2), nobody=0.25, smallest=3)
    masks = np.array([[1, 1, 0, 0], [1, 1, 1, 0]], dtype=bool)
    found = played.play(masks, np.zeros(2, dtype=np.int64))
    np.testing.assert_array_equal(found[0], [0.25, 0.25])
    assert played.spent == 1


def test_failed_fits_are_counted_and_have_no_outcome():
    played = game(table_problem(3, 2, refuses=frozenset({3})))
    found = played.play(np.array([[1, 1, 0], [1, 0, 0]], dtype=bool), np.zeros(2, dtype=np.int64))
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1]).all()
    assert played.failed == 1
    assert "1 of 2 fits failed" in played.note()
    assert "coalition 3 is refused" in played.note()


def classification(measurement: str = "loss") -> Problem:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 2))
    y = np.array([0, 1, 2] * 4)
    return Problem(Sklearn(LogisticRegression(), measurement=measurement), (x, y), (x[:6], y[:6]))


def test_a_coalition_without_a_class_that_cannot_be_fitted_is_worth_nobody():
    problem = classification()
    played = game(problem, nobody="auto")
    first = problem.train.ids[problem.train.labels() == 0]
    masks = np.isin(players_of(problem.train).names, first)[None]
    found = played.play(masks, np.zeros(1, dtype=np.int64))
    np.testing.assert_allclose(found[0], -np.log(3))  # log loss, turned so that higher is better
    assert (played.untrainable, played.failed) == (1, 0)
    assert "lack a class" in played.note()


@pytest.mark.parametrize(
    ("measurement", "chance"),
    [("loss", np.log(3)), ("log_probability", -np.log(3)), ("accuracy", 1 / 3), ("margin", -np.log(2))],
)
def test_an_untrained_classifier_knows_as_much_as_chance(measurement, chance):
    np.testing.assert_allclose(untrained(classification(measurement), "auto"), chance)


def test_an_untrained_regression_predicts_the_mean():
    x, y = np.arange(6.0)[:, None], np.arange(6.0)
    problem = Problem(Sklearn(Ridge()), (x, y), (x[:2], y[:2]))
    np.testing.assert_allclose(untrained(problem, "auto"), [2.5**2, 1.5**2])
    np.testing.assert_allclose(untrained(problem, 7), [7.0, 7.0])
    with pytest.raises(CapabilityError, match="nobody=0"):
        untrained(table_problem(3, 1), "auto")
    with pytest.raises(SettingError, match="nobody='none'"):
        untrained(problem, "none")


def test_constant_outcomes_are_refused_and_constant_queries_named():
    flat = game(table_problem(3, utilities=np.ones((8, 2))))
    flat.play(np.eye(3, dtype=bool), np.zeros(3, dtype=np.int64))
    with pytest.raises(NumericsError, match="was the same after all 3 fits"):
        flat.check_varied()
    utilities = np.random.default_rng(0).normal(size=(8, 2))
    utilities[:, 1] = 4.0
    problem = table_problem(3, utilities=utilities)
    run = in_memory()
    partly = Game(problem, run, players_of(problem.train), Rules(fits=10))
    partly.play(np.eye(3, dtype=bool), np.zeros(3, dtype=np.int64))
    partly.check_varied()
    assert any("1 of 2 queries do not differ" in note for note in run.notes)


def test_groups_are_players_and_absent_examples_are_not():
    train = read(
        {
            "input": np.arange(6.0)[:, None],
            "label": np.zeros(6),
            "id": np.array([f"e{i}" for i in range(6)]),
            "source": np.array(["b", "a", "b", "c", "a", "c"]),
            "weight": np.array([1, 1, 1, 0, 1, 0.0]),
        }
    )
    groups = players_of(train, "source")
    assert groups.names.tolist() == ["a", "b"]
    assert groups.shown.tolist() == ["b", "a", "c"]
    np.testing.assert_array_equal(
        groups.weightings(np.array([[True, False], [False, True]])), [[0, 1, 0, 0, 1, 0], [1, 0, 1, 0, 0, 0]]
    )
    np.testing.assert_array_equal(groups.rows(np.array([[1.0], [2.0]]))[:, 0], [2.0, 1.0, 0.0])
    with pytest.raises(DataError, match="no column 'owner'"):
        players_of(train, "owner")
    with pytest.raises(DataError, match="at least two players"):
        players_of(train.take(np.array([1, 4])), "source")
