"""Many ridge, logistic and nearest-neighbour fits at once, against one at a time by the book."""

import numpy as np
import pytest
from scipy.optimize import minimize

from steelyard.maths.many_logistic import Logistic, logistic_fits
from steelyard.maths.many_neighbours import nearest_in_subsets, places_needed
from steelyard.maths.many_ridge import ridge_fits


def weightings(count: int, rows: int) -> np.ndarray:
    """All, all but one, all but three, halves, and fractional weights."""
    draw = np.random.default_rng(3)
    found = np.ones((count, rows))
    for k in range(1, count):
        found[k, draw.choice(rows, size=(1, 3, rows // 2)[k % 3], replace=False)] = 0.0
    found[-1] *= draw.uniform(0.1, 3.0, size=rows)
    return found


@pytest.mark.parametrize("columns", [3, 12])
def test_ridge_fits_solve_their_normal_equations(columns: int):
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(30, columns)), draw.normal(size=(30, 2))
    weights, penalty = weightings(12, 30), np.r_[np.full(columns - 1, 0.3), 0.0]
    found, good = ridge_fits(x, y, weights, penalty)
    assert good.all()
    for w, theta in zip(weights, found, strict=True):
        expected = np.linalg.solve((x * w[:, None]).T @ x + np.diag(penalty), (x * w[:, None]).T @ y)
        np.testing.assert_allclose(theta, expected.T, rtol=1e-10, atol=1e-12)


def test_a_ridge_fit_without_anything_to_go_by_is_told_to_have_failed():
    x, y = np.array([[1.0, 2.0], [1.0, 1.0], [1.0, 3.0]]), np.ones((3, 1))
    found, good = ridge_fits(x, y, np.array([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]), np.zeros(2))
    assert good.tolist() == [True, False]
    np.testing.assert_allclose(found[0, 0], [1.0, 0.0], atol=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_fits_reach_the_minimum(classes: int):
    draw = np.random.default_rng(1)
    x = np.c_[draw.normal(size=(40, 3)), np.ones(40)]
    codes = (np.arange(40) % classes + (draw.random(40) < 0.2)) % classes
    data = Logistic(x, codes, classes, np.array([0.5, 0.5, 0.5, 0.0]))
    weights = weightings(9, 40)
    full, good = logistic_fits(data, np.ones((1, 40)), np.zeros((data.outputs, 4)))
    found, all_good = logistic_fits(data, weights, full[0])
    assert good.all() and all_good.all()
    for w, theta in zip(weights, found, strict=True):
        best = minimize(
            lambda t, w=w: data.objective(t.reshape(1, -1, 4), w[None])[0],
            np.zeros(4 * data.outputs),
            tol=1e-12,
        )
        assert data.objective(theta[None], w[None])[0] <= best.fun + 1e-12
        np.testing.assert_allclose(
            data.chances(theta[None]), data.chances(best.x.reshape(1, -1, 4)), rtol=0, atol=1e-5
        )


def test_without_a_minimum_a_logistic_fit_is_told_to_have_failed():
    x, codes = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
    data = Logistic(x, codes, 2, np.zeros(1))
    _, good = logistic_fits(data, np.array([[1.0] * 4, [0.0] * 4]), np.zeros((1, 1)))
    assert not good.any()


def test_a_logistic_fit_that_lacks_a_class_is_told_and_the_others_are_what_they_are_without_it():
    draw = np.random.default_rng(4)
    x, codes = np.c_[draw.normal(size=(20, 2)), np.ones(20)], np.arange(20) % 3
    data = Logistic(x, codes, 3, np.array([0.5, 0.5, 0.0]))
    weights = weightings(4, 20)
    weights[1, codes == 2] = 0.0
    found, good = logistic_fits(data, weights, np.zeros((3, 3)))
    assert good.tolist() == [True, False, True, True]
    alone, _ = logistic_fits(data, weights[[0, 2, 3]], np.zeros((3, 3)))
    np.testing.assert_allclose(data.chances(found[good]), data.chances(alone), rtol=0, atol=1e-7)


def test_neighbours_in_subsets_are_those_of_a_search_of_their_own():
    draw = np.random.default_rng(2)
    x, q = draw.normal(size=(50, 2)), draw.normal(size=(7, 2))
    distances = np.linalg.norm(q[:, None] - x[None], axis=2)
    order = np.argsort(distances, axis=1)
    present = draw.random((20, 50)) < draw.uniform(0.1, 0.9, size=(20, 1))
    present[0] = True
    present[1], present[1, :3] = False, True
    found = nearest_in_subsets(order, np.take_along_axis(distances, order, axis=1), present, k=4)
    assert found.enough.tolist() == (present.sum(axis=1) >= 4).tolist() and not found.tied.any()
    for fit in np.flatnonzero(found.enough):
        rows = np.flatnonzero(present[fit])
        own = rows[np.argsort(distances[:, rows], axis=1)[:, :4]]
        np.testing.assert_array_equal(found.rows[fit], own)


def test_neighbours_and_ties_are_those_of_reading_every_list_to_its_end():
    """Whole-number distances tie often; the first examples of some lists are missing from the subset."""
    draw = np.random.default_rng(7)
    unsorted = draw.integers(0, 120, size=(9, 300)).astype(float)
    order = np.argsort(unsorted, axis=1, kind="stable")
    distances, kinds = np.take_along_axis(unsorted, order, axis=1), draw.integers(0, 2, size=300)
    present = draw.random((30, 300)) < draw.uniform(0.01, 1.0, size=(30, 1))
    present[0, order[0, :250]] = False
    for k in (1, 5):
        found = nearest_in_subsets(order, distances, present, k, kinds=kinds)
        for fit, mask in enumerate(present):
            assert found.enough[fit] == (int(mask.sum()) >= k)
            for query in range(9 if found.enough[fit] else 0):
                rows = order[query][mask[order[query]]]
                away = unsorted[query, rows]
                np.testing.assert_array_equal(found.distances[fit, query], away[:k])
                tied = rows[away == away[k - 1]]
                full = len(rows) > k and away[k] == away[k - 1]
                assert found.tied[fit, query] == (full and len(set(kinds[tied])) > 1)
                if not found.tied[fit, query]:
                    np.testing.assert_array_equal(found.rows[fit, query], rows[:k])
        assert 0 < found.tied.sum() < 0.9 * found.tied.size


def test_ties_at_the_last_neighbour_are_told_and_other_ties_are_not():
    distances = np.array([[0.0, 1.0, 1.0, 2.0, 2.0]])
    present = np.array(
        [
            [True] * 5,
            [True, True, True, False, True],
            [False, True, True, True, True],
            [True] * 3 + [False] * 2,
        ]
    )
    tied = [
        nearest_in_subsets(np.arange(5)[None], distances, present, k=k).tied[:, 0].tolist() for k in (2, 3)
    ]
    assert tied == [[True, True, False, True], [False, False, True, False]]


def test_a_tie_among_examples_of_one_kind_does_not_matter():
    distances, present = np.array([[0.0, 1.0, 1.0, 1.0, 2.0]]), np.ones((2, 5), dtype=bool)
    present[1, 3] = False
    order = np.arange(5)[None]
    for kinds, tied in (
        ([0, 1, 1, 1, 0], [False, False]),
        ([0, 1, 1, 0, 0], [True, False]),
        ([1, 1, 0, 1, 1], [True] * 2),
    ):
        found = nearest_in_subsets(order, distances, present, k=2, kinds=np.array(kinds))
        assert found.tied[:, 0].tolist() == tied


def test_the_beginnings_of_the_lists_say_the_same_or_that_they_are_too_short():
    draw = np.random.default_rng(3)
    unsorted = draw.integers(0, 200, size=(9, 300)).astype(float)
    order = np.argsort(unsorted, axis=1, kind="stable")
    distances, kinds = np.take_along_axis(unsorted, order, axis=1), draw.integers(0, 2, size=300)
    present = draw.random((40, 300)) < draw.uniform(0.1, 1.0, size=(40, 1))
    whole = nearest_in_subsets(order, distances, present, 3, kinds=kinds)
    for length in (4, 12, 40, 299):
        found = nearest_in_subsets(order[:, :length], distances[:, :length], present, 3, kinds=kinds)
        needed = [
            any(
                np.count_nonzero(mask[order[q, :length]]) < 4
                or distances[q, length - 1] <= distances[q][mask[order[q]]][2]
                for q in range(9)
            )
            for mask in present
        ]
        assert (~found.enough).tolist() == needed
        sure = found.enough
        np.testing.assert_array_equal(found.rows[sure], whole.rows[sure])
        np.testing.assert_array_equal(found.tied[sure], whole.tied[sure])
    lengths = places_needed(present, 3)
    assert (lengths <= 300).all() and (np.diff(lengths[np.argsort(present.sum(axis=1))]) <= 0).all()
    for fit, length in enumerate(lengths):
        assert (np.count_nonzero(present[fit][order[:, :length]], axis=1) >= 4).all() or length == 300
