"""The learner for ratings: matrix factorisation with the nuclear norm as penalty, for collaborative filtering."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from steelyard.errors import DataError, FitError, SettingError
from steelyard.maths.factorisation import Entries, factorise
from steelyard.records import Examples, Measurement
from steelyard.run.seeds import generator

_LOSS = Measurement("loss", "squared error", lower_is_better=True)


@dataclass(frozen=True, eq=False)
class FactorisationFitted:
    """Factors of users and items.

    Attributes:
        users: Names in order, of those with ratings.
        items: Names in order.
        left: ``float["user factor"]`` Columns are singular vectors times the root of the singular value.
        right: ``float["item factor"]``
        offset: Mean rating, that predictions start from.
        penalty: Of the nuclear norm, against half the summed squared error.
        seed: Of the start.
    """

    users: np.ndarray
    items: np.ndarray
    left: Float[np.ndarray, "user factor"]
    right: Float[np.ndarray, "item factor"]
    offset: float
    penalty: float
    seed: int

    def rows(self, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
        """Number of each example's user and item; -1 for those without ratings."""
        user, item = _names(examples)
        return _places(self.users, user), _places(self.items, item)


@dataclass(frozen=True)
class Factorisation:
    r"""Predicts a rating as mean plus an entry of a low-rank matrix of users and items.

    Minimises :math:`\tfrac12 \sum w (\mu + u_a^T v_b - y)^2 + \tfrac\lambda2 (|U|^2 + |V|^2)`: squared error plus
    λ times the nuclear norm, among matrices of at most this rank. The first two input columns are user and item,
    the label is the rating. A user or item without ratings is predicted to be like the mean.

    Args:
        rank: Width of the factors.
        penalty: λ.
    """

    rank: int = 10
    penalty: float = 8.0

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.penalty > 0:
            raise SettingError(
                f"Factorisation: rank={self.rank}, penalty={self.penalty}.",
                fix="give a rank of at least 1 and a penalty above 0.",
            )

    @property
    def measurement(self) -> Measurement:
        """Squared error of the rating."""
        return _LOSS

    def check(self, train: Examples, query: Examples) -> tuple[str, ...]:
        """Look for whatever would make results wrong.

        Raises:
            DataError: If there are no user and item columns, a rating is no number, or a query asks about a user
                or item without ratings.
        """
        for examples in (train, query):
            values = _ratings(examples)
            bad = np.flatnonzero(~np.isfinite(values))
            if len(bad):
                raise DataError(
                    f"{examples.source}: the rating of example {str(examples.ids[bad[0]])!r} is {values[bad[0]]}.",
                    fix="leave out ratings that are not known.",
                )
        rated = train.take(np.flatnonzero(train.weights()))
        for what, known, asked in zip(("user", "item"), _names(rated), _names(query), strict=True):
            missing = np.flatnonzero(~np.isin(asked, known))
            if len(missing):
                raise DataError(
                    f"{query.source}: {len(missing)} queries ask about a {what} without ratings, the first is "
                    f"{what} {str(asked[missing[0]])!r} of query {str(query.ids[missing[0]])!r}.",
                    fix=f"leave these queries out, or add ratings of the {what}.",
                )
        return ()

    def fit(
        self, examples: Examples, weights: np.ndarray | None = None, seed: int = 0
    ) -> FactorisationFitted:
        """Factors of the rated entries; an example of weight 0 is absent.

        Raises:
            FitError: If nothing is left to fit.
        """
        weights = examples.weights() * (1.0 if weights is None else weights)
        kept = np.flatnonzero(weights)
        if not len(kept):
            raise FitError("there are no ratings.", fix="leave some examples in.")
        examples, weights = examples.take(kept), weights[kept]
        (users, user), (items, item) = (np.unique(names, return_inverse=True) for names in _names(examples))
        values = _ratings(examples)
        offset = float(np.average(values, weights=weights))
        entries = Entries(user, item, values - offset, weights, (len(users), len(items)))
        draw = generator(seed, "factorisation")
        left, right = factorise(entries, rank=min(self.rank, *entries.shape), penalty=self.penalty, draw=draw)
        return FactorisationFitted(users, items, left, right, offset, self.penalty, seed)

    def explained(self, examples: Examples, seed: int = 0) -> FactorisationFitted:
        """The model that is asked about."""
        return self.fit(examples, seed=seed)

    def predict(self, fitted: FactorisationFitted, examples: Examples) -> Float[np.ndarray, " example"]:
        """Ratings as the model has them."""
        user, item = fitted.rows(examples)
        known = (user >= 0) & (item >= 0)
        products = np.einsum("ef,ef->e", fitted.left[user], fitted.right[item])
        return fitted.offset + np.where(known, products, 0.0)

    def measure(self, fitted: FactorisationFitted, queries: Examples) -> Float[np.ndarray, " query"]:
        """Squared error of every query."""
        return self.loss(fitted, queries)

    def loss(self, fitted: FactorisationFitted, examples: Examples) -> Float[np.ndarray, " example"]:
        """Squared error of every example, unweighted."""
        return np.square(self.predict(fitted, examples) - _ratings(examples))

    def settings(self) -> Mapping[str, Any]:
        """Settings as plain values, for provenance."""
        return {"learner": "Factorisation", **asdict(self)}

    def fingerprint(self) -> str:
        """Checksum of the settings."""
        return hashlib.sha256(repr(self).encode()).hexdigest()

    def dump(self, fitted: FactorisationFitted) -> Mapping[str, np.ndarray]:
        """The fitted model as arrays."""
        facts = np.array([fitted.offset, fitted.penalty, fitted.seed])
        return {
            "users": fitted.users,
            "items": fitted.items,
            "left": fitted.left,
            "right": fitted.right,
            "facts": facts,
        }

    def restore(self, arrays: Mapping[str, np.ndarray]) -> FactorisationFitted:
        """The inverse of :meth:`dump`."""
        offset, penalty, seed = np.asarray(arrays["facts"])
        users, items, left, right = (np.asarray(arrays[name]) for name in ("users", "items", "left", "right"))
        return FactorisationFitted(
            users, items, left, right, offset=float(offset), penalty=float(penalty), seed=int(seed)
        )


def ratings_of(
    matrix: np.ndarray, *, users: Sequence[str] | None = None, items: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """A matrix of ratings, NaN where there is none, as columns that ``sy.data.read`` takes as examples.

    Args:
        matrix: ``float["user item"]``
        users: Names of its rows; numbers if None.
        items: Names of its columns; numbers if None.

    Raises:
        DataError: If a user or an item has no rating; names the first.

    Example:
        >>> sorted(ratings_of(np.array([[5.0, np.nan], [np.nan, 3.0]])))
        ['item', 'label', 'user']
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    given = (users, items)
    names = [
        np.array([str(k) for k in range(size)]) if own is None else np.asarray(own)
        for size, own in zip(matrix.shape, given, strict=True)
    ]
    known = ~np.isnan(matrix)
    for what, axis in (("user", 0), ("item", 1)):
        empty = np.flatnonzero(~known.any(axis=1 - axis))
        if len(empty):
            raise DataError(
                f"the matrix has {len(empty)} {what}s without ratings, the first is {what} "
                f"{str(names[axis][empty[0]])!r}.",
                fix=f"leave them out: nothing is known about such a {what}.",
            )
    rows, columns = np.nonzero(known)
    return {"user": names[0][rows], "item": names[1][columns], "label": matrix[rows, columns]}


def _names(examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    if len(examples.inputs) != 2:
        raise DataError(
            f"{examples.source}: inputs are {list(examples.inputs)}, expected two: user and item.",
            fix="name them in that order: sy.data.read(..., features=['user', 'item'], label='rating').",
        )
    user, item = (np.asarray(examples.column(name)[:]).astype(str) for name in examples.inputs)
    return user, item


def _ratings(examples: Examples) -> np.ndarray:
    labels = examples.labels()
    if labels.dtype.kind not in "biuf":
        raise DataError(
            f"{examples.source}: ratings are {labels.dtype}, expected numbers.", fix="name the column."
        )
    return labels.astype(np.float64)


def _places(known: np.ndarray, names: np.ndarray) -> np.ndarray:
    found = np.minimum(np.searchsorted(known, names), len(known) - 1)
    return np.where(known[found] == names, found, -1)
