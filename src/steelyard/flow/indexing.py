"""The gradient store in two calls: build it from training examples, ask it about queries."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from steelyard.problem import Problem
from steelyard.records.top import top_frame
from steelyard.run import Run, in_memory

if TYPE_CHECKING:
    import polars as pl

    from steelyard.collect.store import Store, StoreSettings


@dataclass(frozen=True, eq=False)
class IndexAnswer:
    """What a store says about queries.

    Attributes:
        top: Proponents and opponents of every query; the table of ``Scores.top``.
        facts: How it was asked, and how long each step took.
    """

    top: "pl.DataFrame"
    facts: dict[str, Any]


def build_index(
    problem: Problem,
    folder: str | Path,
    settings: "StoreSettings | None" = None,
    run: Run | None = None,
    *,
    append: bool = False,
) -> "Store":
    """Keep projected gradients of the training examples on disk, so that later queries need no pass over them.

    Cost: one gradient per training example. A killed build goes on where it was.

    Args:
        problem: Learner and training examples; the queries are not used.
        folder: Where the store is or shall be.
        settings: How gradients are made into rows; int8 at rank 16 if None.
        run: For progress, notes and cost; silent if None.
        append: Whether to add the examples to a store that holds others.

    Raises:
        RunError: If the folder holds something else, or a store of another model, settings or examples.
        CapabilityError: If the model is not a network.
    """
    # Imported here: the store needs torch.
    from steelyard.collect.store import StoreSettings
    from steelyard.collect.store_build import build_store

    run = run or in_memory()
    for note in problem.learner.check(problem.train, problem.query):
        run.note(note)
    return build_store(problem, folder, settings or StoreSettings(), run, append=append)


def query_index(  # noqa: PLR0913 - one argument per option of the command
    problem: Problem,
    folder: str | Path,
    *,
    top: int = 10,
    score: str = "influence",
    damping: float | int | Literal["auto"] = "auto",
    energy: float | int = 1.0,
    run: Run | None = None,
) -> IndexAnswer:
    """The training examples in a store that made the model answer as it does.

    Cost: one gradient per query and one pass over the store; the first question of influence after a build makes
    one pass more, for the second moment.

    Args:
        problem: The learner that the store was built with, and queries; the training examples are not used.
        folder: The store.
        top: Proponents and opponents per query.
        score: ``"influence"`` predicts the change of the measurement when the example is removed, as ``logra`` with
            a random projection does; ``"dot"`` and ``"cosine"`` are similarities.
        damping: For influence: ``"auto"``, or a number added to the eigenvalues of the mean projected curvature.
        energy: Share of the queries' squared length to hold in fewer directions than queries; 1 holds all.
        run: For progress and cost; silent if None.

    Raises:
        RunError: If there is no finished store, or it holds gradients of another model.
        SettingError: If an argument has no meaning.
    """
    from steelyard.collect import store_search
    from steelyard.collect.store import open_store
    from steelyard.collect.store_build import check_same_model, open_model

    run = run or in_memory()
    relation = store_search.checked_relation(score)
    began = time.monotonic()
    store = open_store(folder)
    opened = open_model(problem, store.folder, store.manifest.settings, run)
    check_same_model(store.folder, store.manifest, opened)
    loaded = time.monotonic()
    sign = 1.0 if problem.learner.measurement.lower_is_better else -1.0
    rows = sign * opened.features(problem.query, "measurement").astype(np.float64)
    if relation == "influence":
        rows = store_search.curvature(store, opened.features.grams(), damping).solve(rows)
    elif relation == "cosine":
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        rows = rows / np.where(lengths > 0, lengths, 1.0)
    ready = time.monotonic()
    reduced = store_search.low_rank(rows, float(energy))
    few = len(reduced.basis) < len(rows)
    found = store_search.search(store, reduced if few else rows, top, cosine=relation == "cosine")
    facts = {
        "score": relation,
        "unit": problem.learner.measurement.unit if relation == "influence" else "rank",
        "rows": len(store),
        "features": store.width,
        "directions": len(reduced.basis) if few else len(rows),
        "left_out": reduced.error if few else 0.0,
        "seconds": {
            "load": loaded - began,
            "query_gradients": ready - loaded,
            "search": time.monotonic() - ready,
        },
    }
    table = top_frame(store.ids, problem.query.ids, proponents=found.high, opponents=found.low)
    return IndexAnswer(table, facts)
