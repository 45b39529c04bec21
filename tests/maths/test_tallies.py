"""Tallies: parts add up to the whole, in any order; missing samples are left out."""

import numpy as np

from steelyard.maths.tallies import (
    difference_of_means,
    merge,
    standard_errors,
    tally,
    tally_of_products,
    tally_where,
)


def samples(count: int = 30) -> np.ndarray:
    found = np.random.default_rng(0).normal(size=(count, 4, 3)) + 1e3
    found[::7, 1, 2] = np.nan
    return found


def test_parts_add_up_in_any_order():
    whole = tally(samples())
    parts = [tally(samples()[part]) for part in (slice(0, 1), slice(1, 11), slice(11, 30))]
    for order in ((0, 1, 2), (2, 0, 1)):
        found = merge(merge(parts[order[0]], parts[order[1]]), parts[order[2]])
        np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-12)
        np.testing.assert_allclose(found.squares, whole.squares, rtol=1e-8)
        np.testing.assert_array_equal(found.count, whole.count)
    known = samples()[:, 1, 2]
    known = known[np.isfinite(known)]
    np.testing.assert_allclose(whole.mean[1, 2], known.mean())
    np.testing.assert_allclose(standard_errors(whole)[1, 2], known.std(ddof=1) / np.sqrt(len(known)))


def test_one_sample_has_no_error_and_none_no_mean():
    assert np.isnan(standard_errors(tally(samples(1)))).all()
    assert tally(samples(1)).count[1, 2] == 0


def test_products_need_not_be_written_down():
    draw = np.random.default_rng(1)
    factors, outcomes = draw.normal(size=(20, 4)), draw.normal(size=(20, 3))
    outcomes[3, 1] = np.nan
    rows = np.delete(np.arange(20), 3)
    direct = tally(factors[rows, :, None] * outcomes[rows, None, :])
    found = tally_of_products(factors, outcomes)
    np.testing.assert_allclose(found.mean, direct.mean, atol=1e-12)
    np.testing.assert_allclose(found.squares, direct.squares, rtol=1e-9)


def test_sides_are_those_of_welch():
    draw = np.random.default_rng(2)
    chosen, outcomes = draw.random((40, 3)) < 0.5, draw.normal(size=(40, 2)) + 1e6
    gap, error = difference_of_means(tally_where(chosen, outcomes), tally_where(~chosen, outcomes))
    one, other = outcomes[chosen[:, 1], 0], outcomes[~chosen[:, 1], 0]
    np.testing.assert_allclose(gap[1, 0], one.mean() - other.mean(), atol=1e-8)
    expected = np.sqrt(one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other))
    np.testing.assert_allclose(error[1, 0], expected, rtol=1e-6)
    always = np.ones((40, 1), dtype=bool)
    assert np.isnan(
        difference_of_means(tally_where(always, outcomes), tally_where(~always, outcomes))[0]
    ).all()
