"""Nearest neighbours against a full float64 distance table; edges of kNN-Shapley."""

from inspect import unwrap

import numpy as np
import pytest

from steelyard.errors import DataError, SettingError, ShapeError
from steelyard.maths.knn import knn_shapley, nearest


def _values(train, labels, query, query_labels, **options):
    out = np.full((len(train), len(query)), np.nan)
    for part, block in knn_shapley(train, labels, query, query_labels, **options):
        out[:, part] = block
    return out


def _data(seed: int, train: int = 300, query: int = 40, width: int = 7):
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((train, width)),
        rng.integers(0, 4, train),
        rng.standard_normal((query, width)),
        rng.integers(0, 4, query),
    )


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("k", [1, 5, 300, 999])
def test_nearest_equals_a_full_sort_of_exact_distances(k: int, offset: float) -> None:
    train, _, query, _ = _data(0)
    exact = np.linalg.norm(query[:, None] - train[None], axis=2)
    found = nearest(train + offset, query + offset, k)
    order = np.argsort(exact, axis=1)[:, :k]
    np.testing.assert_array_equal(found.rows, order)
    np.testing.assert_allclose(
        found.distances, np.take_along_axis(exact, order, 1), rtol=1e-9 if not offset else 1e-8
    )


def test_equal_distances_are_ordered_by_position_whatever_the_block() -> None:
    rng = np.random.default_rng(1)
    train = rng.integers(0, 3, (500, 4)).astype(float)
    query = rng.integers(0, 3, (50, 4)).astype(float)
    exact = ((query[:, None] - train[None]) ** 2).sum(axis=2)
    expected = np.argsort(exact, axis=1, kind="stable")
    np.testing.assert_array_equal(nearest(train, query, 500).rows, expected)
    np.testing.assert_array_equal(nearest(train, query, 20).rows, expected[:, :20])
    one_by_one = [nearest(train, query[j : j + 1], 20).rows[0] for j in range(50)]
    np.testing.assert_array_equal(one_by_one, expected[:, :20])


def test_copies_far_from_the_origin_and_close_to_the_query_tie() -> None:
    rng = np.random.default_rng(2)
    one = rng.standard_normal(64) * 50
    train = np.concatenate([np.tile(one, (37, 1)), rng.standard_normal((100, 64))])
    for distance in (0.0, 1e-7, 1e-3, 1.0):
        found = nearest(train, (one + distance)[None], 37)
        np.testing.assert_array_equal(found.rows[0], np.arange(37))


def test_blocks_do_not_change_values(monkeypatch: pytest.MonkeyPatch) -> None:
    train, labels, query, query_labels = _data(3)
    whole = _values(train, labels, query, query_labels, neighbours=5)
    monkeypatch.setattr("steelyard.maths.knn._BLOCK_BYTES", 40 * 300 * 7)
    blocks = [part for part, _ in knn_shapley(train, labels, query, query_labels, neighbours=5)]
    assert len(blocks) == 6
    np.testing.assert_array_equal(_values(train, labels, query, query_labels, neighbours=5), whole)


def test_permuting_rows_permutes_values_and_copies_share_even_with_ties() -> None:
    rng = np.random.default_rng(4)
    train = rng.integers(0, 3, (200, 3)).astype(float)
    labels = rng.integers(0, 2, 200)
    query, query_labels = train[:20] + 0.0, labels[:20]
    values = _values(train, labels, query, query_labels, neighbours=7)
    order = rng.permutation(200)
    moved = _values(train[order], labels[order], query, query_labels, neighbours=7)
    np.testing.assert_allclose(moved, values[order], atol=1e-14)
    doubled = _values(np.repeat(train, 2, axis=0), np.repeat(labels, 2), query, query_labels, neighbours=7)
    np.testing.assert_array_equal(doubled[::2], doubled[1::2])


def test_values_of_a_large_problem_hold_one_block_in_memory() -> None:
    import tracemalloc

    train, labels, query, query_labels = _data(5, train=20_000, query=400, width=4)
    tracemalloc.start()
    total = np.zeros(len(train))
    for _, block in knn_shapley(train, labels, query, query_labels, neighbours=5):
        total += block.sum(axis=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The table of values alone would be 64 MB, and train x train 3.2 GB.
    assert peak < 56e6
    vote = np.take(labels, nearest(train, query, 5).rows) == query_labels[:, None]
    assert total.sum() == pytest.approx(vote.mean(axis=1).sum(), rel=1e-9)


def test_string_labels_and_a_single_example() -> None:
    values = _values(
        np.zeros((1, 2)), np.array(["cat"]), np.ones((2, 2)), np.array(["cat", "dog"]), neighbours=3
    )
    np.testing.assert_allclose(values, [[1 / 3, 0.0]])


def test_bad_input_is_refused() -> None:
    train, labels, query, query_labels = _data(6)
    with pytest.raises(SettingError, match="at least 1"):
        knn_shapley(train, labels, query, query_labels, neighbours=0)
    with pytest.raises(SettingError, match="at least 1"):
        nearest(train, query, 0)
    # Unwrapped: in tests the annotations are checked first, for users these errors speak.
    with pytest.raises(ShapeError, match="one label per vector"):
        unwrap(knn_shapley)(train, labels[:-1], query, query_labels, neighbours=2)
    with pytest.raises(ShapeError, match="same number of features"):
        unwrap(nearest)(train, query[:, :-1], 2)
    train[17, 3] = np.nan
    with pytest.raises(DataError, match="training vector 17"):
        knn_shapley(train, labels, query, query_labels, neighbours=2)
    with pytest.raises(DataError, match="no training vectors"):
        nearest(train[:0], query, 2)
