"""Rank statistics against SciPy and against counting pairs."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import roc_auc_score

from steelyard.maths.ranks import (
    auc,
    detection_curve,
    fisher_interval,
    midranks,
    resampled_midranks,
    sort_columns,
    spearman,
    spearman_bootstrap,
)

TIED = arrays(
    np.float64, st.tuples(st.integers(3, 12), st.integers(1, 4)), elements=st.integers(0, 4).map(float)
)


@given(TIED)
def test_midranks_are_scipys(values):
    np.testing.assert_allclose(midranks(sort_columns(values)), rankdata(values, axis=0))


@given(TIED, st.randoms())
def test_midranks_with_counts_are_those_of_the_repeated_rows(values, random):
    counts = np.array([random.randint(0, 3) for _ in values], dtype=np.float64)
    counts[0] = 1.0
    repeated = np.repeat(np.arange(len(values)), counts.astype(int))
    order = sort_columns(values)
    for j in range(values.shape[1]):
        found = resampled_midranks(order, j, np.stack([counts, np.ones(len(values))]))
        np.testing.assert_allclose(found[0, repeated], rankdata(values[repeated, j]))
        np.testing.assert_allclose(found[1], rankdata(values[:, j]))


@given(TIED, st.integers(0, 2**31))
@settings(max_examples=60)
def test_spearman_is_scipys_and_nan_for_constant_columns(x, seed):
    y = np.random.default_rng(seed).integers(0, 4, x.shape).astype(np.float64)
    found = spearman(x, y)
    for j in range(x.shape[1]):
        if np.ptp(x[:, j]) == 0 or np.ptp(y[:, j]) == 0:
            assert np.isnan(found[j])
        else:
            assert found[j] == pytest.approx(spearmanr(x[:, j], y[:, j]).statistic, abs=1e-12)


def test_spearman_of_a_long_constant_column_is_nan_in_spite_of_rounding():
    x = np.arange(9999, dtype=np.float64)[:, None]
    assert np.isnan(spearman(x, np.full_like(x, 0.1))[0])


@pytest.mark.reference
def test_bootstrap_equals_resampling_by_hand():
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(15, 3)), draw.integers(0, 5, (15, 3)).astype(np.float64)
    found = spearman_bootstrap(x, y, draws=20, generator=np.random.default_rng(5))
    twin = np.random.default_rng(5)
    all_rows = twin.multinomial(15, np.full(15, 1 / 15), size=20)
    all_columns = twin.multinomial(3, np.full(3, 1 / 3), size=20)
    assert len(found) == 20
    for value, row_counts, column_counts in zip(found, all_rows, all_columns, strict=True):
        rows, columns = np.repeat(np.arange(15), row_counts), np.repeat(np.arange(3), column_counts)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            by_hand = [spearmanr(x[rows, j], y[rows, j]).statistic for j in columns]
        assert value == pytest.approx(np.nanmean(by_hand))


@pytest.mark.reference
def test_bootstrap_interval_covers_the_true_correlation():
    draw, hits = np.random.default_rng(1), 0
    # Spearman's rho of a bivariate normal with Pearson r is 6/pi asin(r/2).
    truth = 6 / np.pi * np.arcsin(0.6 / 2)
    for k in range(300):
        x = draw.normal(size=(60, 1))
        y = 0.6 * x + 0.8 * draw.normal(size=(60, 1))
        means = spearman_bootstrap(x, y, draws=200, generator=np.random.default_rng(k))
        low, high = fisher_interval(float(spearman(x, y)[0]), means)
        hits += low <= truth <= high
    assert 0.91 <= hits / 300 <= 0.985


def test_the_interval_of_a_high_correlation_contains_it():
    draw = np.random.default_rng(6)
    x = draw.normal(size=(64, 20))
    y = x + 0.05 * draw.normal(size=(64, 20))
    estimate = float(spearman(x, y).mean())
    means = spearman_bootstrap(x, y, draws=500, generator=draw)
    assert estimate > np.quantile(means, 0.9)  # what a percentile interval would say
    low, high = fisher_interval(estimate, means)
    assert 0.98 < low < estimate < high < 1
    assert fisher_interval(1.0, np.ones(5)) == (1.0, 1.0)


@given(arrays(np.float64, 30, elements=st.integers(0, 8).map(float)), st.integers(1, 29))
def test_auc_is_sklearns_and_the_share_of_pairs(values, count):
    marked = np.zeros(30, dtype=bool)
    marked[:count] = True
    pairs = values[marked][:, None] - values[~marked][None, :]
    by_hand = np.mean((pairs > 0) + 0.5 * (pairs == 0))
    found = auc(values, marked)
    assert found.value == pytest.approx(by_hand) == pytest.approx(roc_auc_score(marked, values))
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert auc(-values, marked).value == pytest.approx(1 - found.value)


@pytest.mark.reference
def test_auc_interval_covers_the_true_area():
    draw, hits = np.random.default_rng(3), 0
    marked = np.arange(220) < 20
    from scipy.stats import norm

    truth = norm.cdf(1 / 2**0.5)
    for _ in range(400):
        values = draw.normal(size=220) + marked
        found = auc(values, marked)
        hits += found.low <= truth <= found.high
    assert 0.915 <= hits / 400 <= 0.98


def test_auc_p_value_holds_its_level_for_random_values():
    draw = np.random.default_rng(4)
    marked = np.arange(100) < 10
    called = sum(auc(draw.normal(size=100), marked).p_value <= 0.05 for _ in range(600))
    assert called <= 600 * 0.05 + 2.6 * (600 * 0.05 * 0.95) ** 0.5


def test_perfect_separation_leaves_room_below_one():
    found = auc(np.arange(40.0), np.arange(40) >= 30)
    assert found.value == found.high == 1
    assert 0.7 < found.low < 0.99
    mirrored = auc(-np.arange(40.0), np.arange(40) >= 30)
    assert (mirrored.value, mirrored.high) == (0.0, pytest.approx(1 - found.low))


def test_equal_values_have_an_area_of_one_half_and_no_evidence():
    found = auc(np.zeros(20), np.arange(20) < 5)
    assert found.value == 0.5
    assert found.p_value == 1.0


def test_detection_curve_is_exact_without_ties_and_straight_within_them():
    marked = np.array([True, False, True, False, False])
    np.testing.assert_allclose(
        detection_curve(np.array([9.0, 8, 7, 6, 5]), marked, np.array([0, 1, 2, 3, 5])), [0, 0.5, 0.5, 1, 1]
    )
    np.testing.assert_allclose(detection_curve(np.zeros(5), marked, np.array([1, 5])), [0.2, 1])
