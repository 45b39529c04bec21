"""Intervals, p-values and power against SciPy, enumeration and simulation."""

import itertools

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_ind

from steelyard.maths.power import (
    Components,
    components,
    minimum_detectable,
    one_against_many,
    paired,
    pairs_needed,
    power_of,
    seeds_needed,
    sign_flip,
)


@pytest.mark.reference
def test_paired_is_scipys():
    values = np.random.default_rng(0).normal(0.4, 1, 9)
    found, twin = paired(values, level=0.9), ttest_1samp(values, 0)
    interval = twin.confidence_interval(0.9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p_value == pytest.approx(twin.pvalue)


@pytest.mark.reference
def test_one_against_many_is_the_two_sample_test_with_a_sample_of_one():
    controls = np.random.default_rng(1).normal(size=7)
    found = one_against_many(2.2, controls)
    # With one observation the pooled variance is that of the controls.
    pooled = ttest_ind([2.2], controls, equal_var=True)
    assert found.p_value == pytest.approx(pooled.pvalue)
    assert found.estimate == pytest.approx(2.2 - controls.mean())
    assert (found.low > 0) == (found.p_value < 0.05)


def test_one_against_many_holds_its_level_where_the_naive_test_does_not():
    draw = np.random.default_rng(2)
    rows = draw.normal(size=(2000, 6))
    called = np.mean([one_against_many(row[0], row[1:]).p_value <= 0.05 for row in rows])
    naive = np.mean([paired(row[0] - row[1:]).p_value <= 0.05 for row in rows])
    assert 0.037 <= called <= 0.063
    assert naive > 0.25


def test_controls_without_spread_leave_only_the_rank():
    assert one_against_many(1.0, np.zeros(8)).p_value == pytest.approx(2 / 9)
    assert one_against_many(0.0, np.zeros(8)).p_value == 1.0


@pytest.mark.reference
def test_sign_flip_counts_all_patterns():
    values = np.array([0.4, 1.1, -0.3, 0.9, 0.2])
    sums = [abs(np.dot(values, signs)) for signs in itertools.product([-1, 1], repeat=5)]
    assert sign_flip(values) == pytest.approx(np.mean(np.array(sums) >= abs(values.sum()) - 1e-12))
    assert sign_flip(np.ones(5)) == 2 / 32


def test_random_sign_flips_agree_with_the_t_test_and_are_seeded():
    values = np.random.default_rng(3).normal(0.3, 1, 40)
    assert sign_flip(values) == pytest.approx(paired(values).p_value, abs=0.02)
    assert sign_flip(values, seed=1) == sign_flip(values, seed=1)


@pytest.mark.reference
def test_power_by_simulation():
    draw = np.random.default_rng(4)
    samples = draw.normal(0.9, 1.0, size=(20000, 6))
    t = samples.mean(axis=1) / (samples.std(axis=1, ddof=1) / 6**0.5)
    from scipy.stats import t as student

    seen = np.mean(np.abs(t) > student.ppf(0.975, 5))
    assert power_of(0.9, 1 / 6**0.5, 5) == pytest.approx(seen, abs=0.01)


def test_minimum_detectable_has_the_power_it_claims():
    for freedom in (2, 7, 60, 10_000):
        effect = minimum_detectable(0.3, freedom)
        assert power_of(effect, 0.3, freedom) == pytest.approx(0.8, abs=1e-6)
    assert minimum_detectable(1.0, 10_000) == pytest.approx(1.96 + 0.8416, abs=1e-3)
    assert minimum_detectable(0.0, 5) == 0.0


def test_pairs_needed_is_the_first_number_that_is_enough():
    # Cohen's d = .5 with 80 % power needs 34 pairs.
    assert pairs_needed(0.5, 1.0) == 34
    count = pairs_needed(0.2, 1.0)
    assert power_of(0.2, 1 / count**0.5, count - 1) >= 0.8 > power_of(0.2, 1 / (count - 1) ** 0.5, count - 2)
    assert pairs_needed(0.0, 1.0) is None
    assert pairs_needed(1e-9, 1.0) is None


def test_power_of_huge_effects_is_one_where_scipy_has_no_number():
    assert power_of(1e6, 1.0, 50) == pytest.approx(1)
    assert power_of(1e6, 1.0, 1) == pytest.approx(1, abs=1e-4)
    assert [power_of(x, 1.0, 30) for x in (0.5, 5.0, 38.0, 40.0)] == sorted(
        power_of(x, 1.0, 30) for x in (0.5, 5.0, 38.0, 40.0)
    )


@pytest.mark.reference
def test_components_are_unbiased():
    draw, found = np.random.default_rng(5), []
    for _ in range(1000):
        table = draw.normal(0, 2, (8, 1)) + draw.normal(0, 5, (1, 4)) + draw.normal(0, 1, (8, 4))
        parts = components(table)
        found.append((parts.between, parts.within))
    between, within = np.mean(found, axis=0)
    assert between == pytest.approx(4, rel=0.08)
    assert within == pytest.approx(1, rel=0.03)


def test_seeds_needed_knows_when_more_seeds_are_no_use():
    noise = Components(between=0.0, within=1.0)
    few, many = seeds_needed(0.5, noise, controls=8), seeds_needed(0.1, noise, controls=8)
    assert many == pytest.approx(25 * few, rel=0.02)
    shift = minimum_detectable((1 / many * (1 + 1 / 8)) ** 0.5, 7)
    assert 0.0995 <= shift <= 0.1
    assert seeds_needed(0.2, Components(between=1.0, within=1.0), controls=8) is None
    assert Components(3.0, 4.0).reliability(4) == 0.75
