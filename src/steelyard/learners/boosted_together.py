"""Many fits of one model of boosted trees, each exactly the library's own fit from scratch, bins included.

Small fits spend most of their time around the training: the estimator copies and checks itself, and every model is
written out as text and read to be described. Here the library's own ``train`` is called with the estimator's settings,
and what all fits share is described once. Every fit has one thread, and there are as many of them at a time as there
are cores: the libraries let go of Python's lock while they train, so that threads do what processes would, without
their start. Bins are made anew from every subset: bins shared between fits (LightGBM's
``Dataset.subset``) were tried, gained an eighth of the time, and gave other trees than a fit from scratch.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from steelyard.errors import FitError
from steelyard.learners.boosted_fitted import BoostedFitted, Library, Rows, Training
from steelyard.records import Examples
from steelyard.run.pool import threads
from steelyard.run.seeds import stream

MOST = 256
"""Fits of a block, which share one description: its cost is one further fit."""

RowsOf = Callable[[Examples, np.ndarray], Rows]


@runtime_checkable
class Plain(Protocol):
    """An adapter whose estimators can be trained by the library's own ``train``."""

    def plain(self, training: Training, classes: int) -> Training | None:
        """The same training without the estimator; None if there is none that is surely the same."""
        ...


def plain_training(library: Library, training: Training, classes: int) -> Training | None:
    """The training without its estimator; None where the library or the estimator has no such way."""
    module: Any = library
    return module.plain(training, classes) if isinstance(module, Plain) else None


def measured(  # noqa: PLR0913 - what is fitted, by what, and what is asked
    described: BoostedFitted,
    training: Training,
    examples: Examples,
    fits: tuple[Float[np.ndarray, "fit example"], Sequence[int]],
    rows_of: RowsOf,
    measure: Callable[[BoostedFitted], np.ndarray],
) -> Float[np.ndarray, "fit query"]:
    """The measurement of every query after every fit; NaN where a fit is to be made by itself.

    Args:
        described: A fit of all examples.
        training: By the library's own ``train``.
        examples: Training examples.
        fits: Weightings, 0 for absent, and seeds.
        rows_of: Examples and their weights -> what the adapter trains on.
        measure: A fit -> the measurement of every query.
    """

    def one(fit: tuple[np.ndarray, int]) -> np.ndarray | None:
        return _one(described, training, (examples, *fit), rows_of, measure)

    with ThreadPoolExecutor(threads()) as workers:
        values = list(workers.map(one, zip(*fits, strict=True)))
    width = next((len(row) for row in values if row is not None), 0)
    return np.array([np.full(width, np.nan) if row is None else row for row in values])


def _one(
    described: BoostedFitted,
    training: Training,
    asked: tuple[Examples, np.ndarray, int],
    rows_of: RowsOf,
    measure: Callable[[BoostedFitted], np.ndarray],
) -> np.ndarray | None:
    examples, weights, seed = asked
    weights = weights * examples.weights()
    present = np.flatnonzero(weights)
    if not len(present):
        return None
    try:
        rows = rows_of(examples.take(present), weights[present])
        known, seen = described.classes, rows.classes
        if known is not None and (seen is None or not np.array_equal(seen, known)):
            return None
        model = described.library.train(training, rows, stream(seed, "boosted") % 2**31)
        return measure(replace(described, model=model, coding=rows.coding, classes=rows.classes, seed=seed))
    except FitError:
        return None
