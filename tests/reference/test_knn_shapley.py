"""kNN-Shapley against the definition: every subset of up to ten examples is evaluated."""

from itertools import combinations
from math import factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.maths.knn import knn_shapley

pytestmark = pytest.mark.reference


def _worth(distances: np.ndarray, agrees: np.ndarray, neighbours: int) -> float:
    """Share of the K votes that agree; tied examples at the boundary share the remaining votes equally."""
    votes = 0.0
    free = min(neighbours, len(distances))
    for distance in np.unique(distances):
        group = agrees[distances == distance]
        used = min(free, len(group))
        votes += used * group.mean()
        free -= used
    return votes / neighbours


def _shapley_by_definition(distances: np.ndarray, agrees: np.ndarray, neighbours: int) -> np.ndarray:
    n = len(distances)
    values = np.zeros(n)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        for size in range(n):
            share = factorial(size) * factorial(n - size - 1) / factorial(n)
            for subset in combinations(others, size):
                without, joined = list(subset), [*subset, i]
                values[i] += share * (
                    _worth(distances[joined], agrees[joined], neighbours)
                    - _worth(distances[without], agrees[without], neighbours)
                )
    return values


def _values(train, labels, query, query_labels, **options):
    out = np.full((len(train), len(query)), np.nan)
    for part, block in knn_shapley(train, labels, query, query_labels, **options):
        out[:, part] = block
    return out


@pytest.mark.parametrize("neighbours", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("n", [1, 2, 4, 7, 10])
@pytest.mark.parametrize("grid", [3, 1000])
def test_every_subset(n: int, neighbours: int, grid: int) -> None:
    # A grid of 3 positions makes ties and exact copies; one of 1000 makes almost none.
    rng = np.random.default_rng(10 * n + neighbours)
    train = rng.integers(0, grid, (n, 1)).astype(float)
    labels, query_labels = rng.integers(0, 2, n), rng.integers(0, 2, 2)
    query = rng.integers(0, grid, (2, 1)).astype(float)
    values = _values(train, labels, query, query_labels, neighbours=neighbours)
    for j in range(2):
        distances = np.abs(train[:, 0] - query[j, 0])
        expected = _shapley_by_definition(distances, (labels == query_labels[j]).astype(float), neighbours)
        np.testing.assert_allclose(values[:, j], expected, atol=1e-12)


@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_without_sharing_the_earlier_row_is_nearer(neighbours: int) -> None:
    rng = np.random.default_rng(neighbours)
    train = rng.integers(0, 3, (8, 1)).astype(float)
    labels = rng.integers(0, 2, 8)
    values = _values(train, labels, train[:1], labels[:1], neighbours=neighbours, share_ties=False)
    distances = np.abs(train[:, 0] - train[0, 0]) + np.arange(8) * 1e-6
    expected = _shapley_by_definition(distances, (labels == labels[0]).astype(float), neighbours)
    np.testing.assert_allclose(values[:, 0], expected, atol=1e-12)


def _recursion(agrees_by_rank: np.ndarray, neighbours: int) -> np.ndarray:
    """Theorem 1 of Jia et al. (2019), line by line, for N >= K."""
    n = len(agrees_by_rank)
    values = np.zeros(n)
    values[-1] = agrees_by_rank[-1] / n
    for i in range(n - 1, 0, -1):
        step = (agrees_by_rank[i - 1] - agrees_by_rank[i]) / neighbours * min(neighbours, i) / i
        values[i - 1] = values[i] + step
    return values


@pytest.mark.parametrize("neighbours", [1, 5, 50])
def test_the_published_recursion(neighbours: int) -> None:
    rng = np.random.default_rng(0)
    train, query = rng.standard_normal((2000, 8)), rng.standard_normal((5, 8))
    labels, query_labels = rng.integers(0, 3, 2000), rng.integers(0, 3, 5)
    values = _values(train, labels, query, query_labels, neighbours=neighbours)
    for j in range(5):
        order = np.argsort(np.linalg.norm(train - query[j], axis=1))
        expected = _recursion((labels[order] == query_labels[j]).astype(float), neighbours)
        np.testing.assert_allclose(values[order, j], expected, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(1, 8), st.integers(1, 5), st.integers(0, 2**31))
def test_values_add_up_to_the_worth_of_all_examples(n: int, neighbours: int, grid: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    train = rng.integers(0, grid, (n, 2)).astype(float)
    query = rng.integers(0, grid, (3, 2)).astype(float)
    labels, query_labels = rng.integers(0, 3, n), rng.integers(0, 3, 3)
    values = _values(train, labels, query, query_labels, neighbours=neighbours)
    for j in range(3):
        distances = ((train - query[j]) ** 2).sum(axis=1)
        whole = _worth(distances, (labels == query_labels[j]).astype(float), neighbours)
        assert values[:, j].sum() == pytest.approx(whole, abs=1e-12)
