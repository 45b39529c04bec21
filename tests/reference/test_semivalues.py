"""Values of all methods against enumeration: exact ones to 1e-9, sampled ones without bias and with true errors."""

import numpy as np
import pytest

from steelyard.maths.semivalues import (
    all_coalitions,
    banzhaf_log_weights,
    beta_log_weights,
    exact_semivalues,
    shapley_log_weights,
    size_probabilities,
)
from steelyard.score import AME, Banzhaf, BetaShapley, DataShapley
from tests.games import (
    banzhaf_weight,
    beta_weight,
    by_definition,
    shapley_weight,
    table_problem,
)

pytestmark = pytest.mark.reference

WEIGHTS = {
    "shapley": (shapley_log_weights, shapley_weight),
    "banzhaf": (banzhaf_log_weights, banzhaf_weight),
    "beta": (lambda n: beta_log_weights(n, alpha=16, beta=1), beta_weight(16, 1)),
    "beta towards large": (lambda n: beta_log_weights(n, alpha=1, beta=4), beta_weight(1, 4)),
}


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("players", [1, 2, 5, 8, 12])
def test_exact_values_are_those_of_the_definition(name, players):
    utilities = np.random.default_rng(players).normal(size=(2**players, 2))
    ours, definition = WEIGHTS[name]
    found = exact_semivalues(utilities, ours(players))
    np.testing.assert_allclose(found, by_definition(utilities, definition), rtol=0, atol=1e-9)


@pytest.mark.parametrize("players", [3, 8])
def test_the_method_enumerates(players):
    problem = table_problem(players, 3)
    scores = DataShapley(exact=True, nobody=0.0)(problem)
    truth = by_definition(problem.learner.utilities, shapley_weight)
    np.testing.assert_allclose(scores.values, truth, rtol=0, atol=1e-9)
    assert np.all(scores.uncertainty.pairs == 0)
    assert scores.provenance.cost.fits == 2**players - 1
    beta = BetaShapley(alpha=4, beta=2, exact=True, nobody=0.0)(problem)
    expected = by_definition(problem.learner.utilities, beta_weight(4, 2))
    np.testing.assert_allclose(beta.values, expected, rtol=0, atol=1e-9)


def test_axioms():
    draw = np.random.default_rng(5)
    players = 6
    masks = all_coalitions(players)
    first, second = draw.normal(size=(2, 2**players, 1))
    weights = shapley_log_weights(players)
    values = exact_semivalues(first, weights)
    np.testing.assert_allclose(values.sum(0), first[-1] - first[0], atol=1e-12)  # efficiency
    mixed = exact_semivalues(2 * first - 3 * second, weights)
    np.testing.assert_allclose(
        mixed, 2 * values - 3 * exact_semivalues(second, weights), atol=1e-12
    )  # linearity
    for log_weights in (weights, banzhaf_log_weights(players), beta_log_weights(players, alpha=3, beta=1)):
        null = first.copy()
        null[masks[:, 2]] = null[np.flatnonzero(masks[:, 2]) & ~(1 << 2)] + 1.5  # always adds 1.5
        assert exact_semivalues(null, log_weights)[2, 0] == pytest.approx(1.5, abs=1e-12)
        alike = draw.normal(size=(players + 1, 2**players))[
            masks[:, [0, 3]].sum(1), np.arange(2**players) & ~9
        ]
        symmetric = exact_semivalues(alike[:, None], log_weights)
        assert symmetric[0, 0] == pytest.approx(symmetric[3, 0], abs=1e-12)


@pytest.mark.parametrize("players", [2, 1000, 100_000])
def test_weights_neither_overflow_nor_vanish(players):
    for weights in (
        shapley_log_weights(players),
        banzhaf_log_weights(players),
        beta_log_weights(players, alpha=16, beta=1),
        beta_log_weights(players, alpha=1, beta=16),
    ):
        assert np.isfinite(weights).all()
        assert size_probabilities(weights).sum() == pytest.approx(1.0, rel=1e-6)


SAMPLERS = {
    "permutation": DataShapley(sampler="permutation", fits=9, nobody=0.0),
    "antithetic": DataShapley(sampler="antithetic", fits=17, nobody=0.0),
    "stratified": DataShapley(sampler="stratified", fits=41, nobody=0.0),
    "owen": DataShapley(sampler="owen", fits=36, nobody=0.0),
    "complementary": DataShapley(sampler="complementary", fits=21, nobody=0.0),
    "beta": BetaShapley(alpha=4, beta=1, fits=21, nobody=0.0),
}


def repeated(method, repeats, problem=table_problem):
    found = [method(problem(5, 2, seed=seed)) for seed in range(repeats)]
    values = np.stack([np.c_[one.values, one.per_example()] for one in found])
    errors = np.stack([np.c_[one.uncertainty.pairs, one.uncertainty.examples] for one in found])
    return values, errors


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampled_values_have_no_bias_and_tell_their_error(name):
    method = SAMPLERS[name]
    utilities = table_problem(5, 2).learner.utilities
    weight = beta_weight(4, 1) if name == "beta" else shapley_weight
    truth = by_definition(np.c_[utilities, utilities.mean(1)], weight)
    values, errors = repeated(method, 60)
    spread = values.std(axis=0, ddof=1)
    z = (values.mean(axis=0) - truth) / (spread / np.sqrt(len(values)))
    assert np.abs(z).max() < 4.0
    # The mean of the estimated variances is the variance of the estimates.
    ratio = np.sqrt(np.square(errors).mean(axis=0)).mean() / spread.mean()
    assert 0.8 < ratio < 1.2


def test_banzhaf_has_no_bias_and_tells_its_error():
    utilities = table_problem(5, 2).learner.utilities.copy()
    truth = by_definition(np.c_[utilities, utilities.mean(1)], banzhaf_weight)

    def problem(players, queries, *, seed):
        return table_problem(players, queries, seed=seed, utilities=utilities)

    # Of 64 rows two are the empty coalition, which has no outcome and is left out; its utility is 0 like nobody's.
    values, errors = repeated(Banzhaf(fits=64), 60, problem)
    spread = values.std(axis=0, ddof=1)
    kept = 1 - 2.0**-5
    inside, outside = _sides(utilities, kept)
    z = (values.mean(axis=0)[:, :2] - (inside - outside)) / (spread[:, :2] / np.sqrt(60))
    assert np.abs(z).max() < 4.0
    assert np.abs(truth[:, :2] - (inside - outside)).max() < 0.2
    ratio = np.sqrt(np.square(errors).mean(axis=0)).mean() / spread.mean()
    assert 0.8 < ratio < 1.2


def _sides(utilities, kept):
    """Mean utility with and without each player over all coalitions but the empty one."""
    masks = all_coalitions(5)[1:]
    rest = utilities[1:]
    inside = np.stack([rest[masks[:, i]].mean(0) for i in range(5)])
    outside = np.stack([rest[~masks[:, i]].mean(0) for i in range(5)])
    return inside, outside


def test_efficiency_of_every_sampler():
    for name in ("permutation", "antithetic", "stratified", "complementary"):
        problem = table_problem(5, 2)
        values = SAMPLERS[name](problem).values
        np.testing.assert_allclose(values.sum(0), problem.learner.utilities[-1], atol=1e-12)


def test_variance_of_plain_permutations_is_the_sample_variance():
    problem = table_problem(4, 1)
    scores = DataShapley(fits=1 + 3 * 8, nobody=0.0)(problem)
    from steelyard.collect.coalitions import permutations

    orders = permutations(0, 4, range(8), kind="permutation", strata=1)[:, 0]
    table = problem.learner.utilities[:, 0]
    gains = np.zeros((8, 4))
    for row, order in enumerate(orders):
        bits = 0
        for player in order:
            gains[row, player] = table[bits | 1 << player] - table[bits]
            bits |= 1 << player
    np.testing.assert_allclose(scores.values[:, 0], gains.mean(0), atol=1e-12)
    np.testing.assert_allclose(scores.uncertainty.pairs[:, 0], gains.std(0, ddof=1) / np.sqrt(8), atol=1e-12)
    assert scores.uncertainty.freedom == 7


def test_truncation_spends_less_and_errs_little_on_a_saturating_game():
    bits = np.arange(2**8)[:, None] >> np.arange(8) & 1
    utilities = (1 - 0.2 ** bits.sum(1))[:, None]  # four players give all but 0.2 %
    problem = table_problem(8, utilities=utilities)
    cut = DataShapley(truncation=0.01, fits=100, nobody=0.0)(problem)
    assert cut.provenance.cost.fits <= 100
    np.testing.assert_allclose(
        cut.values[:, 0], (1 - 0.2**8) / 8, atol=4 * cut.uncertainty.examples.max() + 0.01
    )
    assert (
        cut.provenance.resolved["units"]
        > DataShapley(fits=100, nobody=0.0)(problem).provenance.resolved["units"]
    )


def test_average_marginal_effect_of_an_additive_game_by_its_covariance():
    """The feature of player i has mean 0, so its covariance with the outcome is the effect of i."""
    from steelyard.collect.coalitions import mixed

    masks, p = mixed(0, 6, range(20_000), probabilities=(0.2, 0.4, 0.6, 0.8))
    features = np.where(masks, 1 / p[:, None], -1 / (1 - p[:, None]))
    effects = np.linspace(-1, 1, 6)
    found = features.T @ (masks @ effects) / len(p)
    np.testing.assert_allclose(found, effects, atol=0.12)
    utilities = ((np.arange(64)[:, None] >> np.arange(6) & 1) @ effects)[:, None]
    scores = AME(fits=4000, regression="ridge")(table_problem(6, utilities=utilities))
    np.testing.assert_allclose(scores.values[:, 0], effects, atol=5 * scores.uncertainty.examples.max())
