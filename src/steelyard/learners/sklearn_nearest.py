"""The neighbours that scikit-learn's estimators would find in many subsets, without a fit for each.

They come from the beginnings of one sorted list per query. Where the last neighbour is tied with another one of another
label, scikit-learn itself is asked, about those queries alone: whom it takes among equals depends on its ways.
"""

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn import config_context
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, NearestNeighbors

from steelyard.maths.many_neighbours import nearest_in_subsets, places_needed

_PAIRS = 20_000_000  # of a query and a place in its list
_SHORT = 4  # lists of up to a quarter of the examples are short
_LITTLE = 500  # examples
_FEW = 4  # up to a quarter of the queries are few
_SETTINGS = ("algorithm", "leaf_size", "metric", "p", "metric_params", "n_jobs")


def nearest(
    fitted: KNeighborsClassifier | KNeighborsRegressor,
    inputs: Float[np.ndarray, "example feature"],
    queries: Float[np.ndarray, "query feature"],
    present: Bool[np.ndarray, "fit example"],
    kinds: Int[np.ndarray, " example"] | None,
) -> tuple[Int[np.ndarray, "fit query k"], Float[np.ndarray, "fit query k"], Bool[np.ndarray, " fit"]]:
    """Neighbours, their distances, and in which fits they are known.

    Cost: one search for short lists in all examples; for small subsets, one for whole lists; and for each fit with ties
        a search of its own, of the queries concerned.

    Args:
        fitted: The estimator, fitted to all examples.
        inputs: Of the training examples.
        queries: Inputs of the queries.
        present: Which examples each fit sees.
        kinds: Examples of one kind are interchangeable; None: all differ.
    """
    k = int(fitted.get_params(deep=False)["n_neighbors"])
    fits, total = len(present), len(inputs)
    rows, distances = np.zeros((fits, len(queries), k), dtype=np.int64), np.zeros((fits, len(queries), k))
    known, tied = np.zeros(fits, dtype=bool), np.zeros((fits, len(queries)), dtype=bool)
    lengths = places_needed(present, k)
    left = np.flatnonzero(np.count_nonzero(present, axis=1) >= k)
    # In little data all lists are searched for at once: a second search costs more than it saves.
    short = left[lengths[left] <= total // _SHORT] if total > _LITTLE else left[:0]
    for whole in (False, True):
        part = left if whole else short
        length = total if whole else int(lengths[short].max(initial=0))
        if not len(part) or len(queries) * length > _PAIRS:
            continue
        away, order = fitted.kneighbors(queries, n_neighbors=length)
        found = nearest_in_subsets(order, away, present[part], k, kinds=kinds)
        rows[part], distances[part] = found.rows, found.distances
        known[part], tied[part] = found.enough, found.tied
        left = left[~known[left]]
    known &= tied.sum(axis=1) * _FEW <= len(queries)
    for fit in np.flatnonzero(known & tied.any(axis=1)):
        own, some = np.flatnonzero(present[fit]), tied[fit]
        distances[fit, some], places = _asked(fitted, inputs[own], queries[some])
        rows[fit, some] = own[places]
    return rows, distances, known


def _asked(
    fitted: KNeighborsClassifier | KNeighborsRegressor, inputs: np.ndarray, queries: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Distances and positions of the neighbours that the estimator would find in these examples."""
    params = fitted.get_params(deep=False)
    search = NearestNeighbors(n_neighbors=params["n_neighbors"], **{name: params[name] for name in _SETTINGS})
    # Both were checked when the estimator was fitted to all of them.
    with config_context(assume_finite=True, skip_parameter_validation=True):
        return search.fit(inputs).kneighbors(queries)
