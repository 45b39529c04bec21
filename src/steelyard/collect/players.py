"""Players: the training examples, or groups of them, that join coalitions."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from steelyard.errors import DataError
from steelyard.records import Examples


@dataclass(frozen=True, eq=False)
class Players:
    """Who takes part in a game, in the order of their names.

    That order makes draws independent of the order of rows. Examples of weight 0 are absent: they never take part.

    Attributes:
        names: ``str[" player"]`` Sorted.
        owner: ``int[" train"]`` Which player every training example belongs to; -1 for absent examples.
        shown: ``str[" row"]`` Rows of the scores: all training examples, or the groups by first appearance.
        place: ``int[" row"]`` Which player stands in each row of the scores; -1 for absent examples.
    """

    names: np.ndarray
    owner: np.ndarray
    shown: np.ndarray
    place: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def weightings(
        self, coalitions: Bool[np.ndarray, "coalition player"]
    ) -> Float[np.ndarray, "coalition train"]:
        """Weight 1 for the examples of the players that take part, 0 for all others."""
        return (coalitions[:, self.owner] & (self.owner >= 0)).astype(np.float64)

    def rows(self, values: Float[np.ndarray, "player column"], absent: float | int = 0.0) -> np.ndarray:
        """``float["row column"]`` Values of players in the rows of the scores."""
        return np.where(self.place[:, None] >= 0, values[self.place], absent)


def players_of(train: Examples, groups: str = "") -> Players:
    """Training examples as players, or the groups that a column names.

    Args:
        train: Training examples.
        groups: Name of a column; every value of it is one player. Every example by itself if empty.

    Raises:
        DataError: If there is no such column, it names no groups, or fewer than two players are left.
    """
    present = np.flatnonzero(train.weights())
    shown = train.ids.astype(str) if not groups else _groups(train, groups)
    names, inverse = np.unique(shown[present], return_inverse=True)
    if len(names) < 2:
        raise DataError(
            f"{train.source}: {'training examples' if not groups else f'groups by {groups!r}'}: {len(names)} present; "
            "a game needs at least two players.",
            fix="give more training examples, or group them by a column with several values.",
        )
    owner = np.full(len(train), -1)
    owner[present] = inverse
    if not groups:
        return Players(names, owner, shown, owner)
    _, first = np.unique(shown, return_index=True)
    rows = shown[np.sort(first)]
    place = np.minimum(np.searchsorted(names, rows), len(names) - 1)
    return Players(names, owner, rows, np.where(names[place] == rows, place, -1))


def classes_of(train: Examples) -> Int[np.ndarray, " train"] | None:
    """Number of the class of every training example; None where labels are no classes."""
    if train.label is None:
        return None
    labels = np.asarray(train.labels())
    if labels.ndim != 1 or labels.dtype.kind not in "iubUSOT":
        return None
    return np.unique(labels.astype(str), return_inverse=True)[1]


def _groups(train: Examples, column: str) -> np.ndarray:
    if column not in train.columns:
        raise DataError(
            f"{train.source}: there is no column {column!r} to group the training examples by; there are "
            f"{list(train.columns)}.",
            fix="name one of them.",
        )
    values = np.asarray(train.column(column)[:])
    if values.ndim != 1:
        raise DataError(
            f"{train.source}: column {column!r} has {values.ndim} dimensions, so it names no groups.",
            fix="name a column with one value per example.",
        )
    return values.astype(str)
