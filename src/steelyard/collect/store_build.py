"""Building and extending a gradient store: shard by shard, so that a killed build goes on where it was."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from steelyard.collect.curvature import penalty
from steelyard.collect.features import Features, first_factors, network, random_features
from steelyard.collect.fits import explained
from steelyard.collect.gradients import Fitted, gradients_at
from steelyard.collect.store import (
    NAME,
    Store,
    StoreManifest,
    StorePart,
    StoreSettings,
    open_store,
    part_path,
    read_store_manifest,
    shard_path,
    with_part,
    write_array,
    write_shard,
    write_store_manifest,
)
from steelyard.collect.store_search import rows_at
from steelyard.errors import DataError, RunError, SettingError
from steelyard.gradients.features import select
from steelyard.gradients.signs import Projection
from steelyard.maths.ranks import spearman
from steelyard.problem import HasState, Problem
from steelyard.records import Examples
from steelyard.records.provenance import versions
from steelyard.run import Run
from steelyard.run.lock import locked
from steelyard.run.store import Damaged, read_arrays, write_arrays

_SHARD_ROWS = 512
_MOST_SHARDS = 1024
_SAMPLE = 256
_SAMPLE_QUERIES = 32
_MODEL = "model"
_CONTENT_ID = re.compile(r"[0-9a-f]{16}(-\d+)?")


@dataclass(frozen=True, eq=False)
class Opened:
    """A model as a store knows it.

    Attributes:
        features: As the store's settings make them.
        checksum: Of learner and fitted parameters.
        l2: Coefficient of the penalty in the mean training loss.
    """

    features: Features
    checksum: str
    l2: float


def build_store(
    problem: Problem, folder: str | Path, settings: StoreSettings, run: Run, *, append: bool = False
) -> Store:
    """Keep the projected gradients of the training examples; after a kill, the same call goes on.

    Cost: one gradient per training example, and of 256 of them twice for the rank agreement.

    Args:
        problem: Learner and training examples.
        folder: Where the store is or shall be.
        settings: How gradients are made into rows.
        run: For progress, notes and cost.
        append: Whether to add the examples to a store that holds others.

    Returns:
        The store, open for reading.

    Raises:
        RunError: If the folder holds something else, or a store of another model or other settings, or of other
            examples without ``append``.
        CapabilityError: If the model is not a network.
        DataError: If an example to append has the id of one that is there.
    """
    folder = Path(folder).expanduser().resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if folder.exists() and any(folder.iterdir()) and not (folder / NAME).exists():
            unfinished = {entry.name for entry in folder.iterdir()} <= {".tmp", "kept"}
            if not unfinished:
                raise RunError(f"{folder} is not a gradient store.", fix="choose another path (--out).")
        folder.mkdir(exist_ok=True)
        if (folder / NAME).exists():
            _check_same_settings(folder, settings)
        opened = open_model(problem, folder, settings, run)
        manifest = _manifest(folder, opened, settings)
        number = _part_number(folder, manifest, problem.train, append=append)
        if number == len(manifest.parts):
            manifest = _begin_part(folder, manifest, problem.train, number)
        if not manifest.parts[number].finished:
            _fill(folder, manifest, number, opened.features, problem.train, run)
    return open_store(folder)


def open_model(problem: Problem, folder: Path, settings: StoreSettings, run: Run) -> Opened:
    """The model as the store knows it: the one that is kept there, if it was trained here, else the learner's.

    Raises:
        CapabilityError: If the model is not a network.
    """
    learner = problem.learner
    kept = read_arrays(folder, _MODEL) if (folder / "kept").exists() else None
    if isinstance(kept, Damaged):
        raise RunError(
            f"{folder}: the kept model is damaged: {kept.reason}.", fix="build the store anew elsewhere."
        )
    if kept is not None and isinstance(learner, HasState):
        model = learner.restore(kept)
    else:
        model = explained(problem, run)
        if isinstance(learner, HasState) and not (folder / NAME).exists():
            arrays = dict(learner.dump(model))
            # A model that came trained is there the next time; what its text labels mean, only its data says.
            if not learner.settings().get("trained", False) or "classes" in arrays:
                write_arrays(folder, _MODEL, arrays)
    fitted = gradients_at(problem, model, run)
    return Opened(
        store_features(problem, fitted, settings), _checksum(problem, model), penalty(problem, fitted)
    )


def store_features(problem: Problem, fitted: Fitted, settings: StoreSettings) -> Features:
    """Features as the settings ask for.

    Raises:
        SettingError: If a setting has no meaning, or no layer matches.
    """
    if settings.dimension < 1 or settings.features < 0:
        raise SettingError(
            f"dimension={settings.dimension}, features={settings.features}.",
            fix="give a rank of 1 or more, and a limit of features of 0 (none) or more.",
        )
    dimension = settings.dimension
    if settings.features:
        found = first_factors(network(problem, fitted, method="a gradient store"), problem.train)
        layers = len(select(sorted(found), settings.modules))
        if settings.features < layers:
            raise SettingError(
                f"features={settings.features} for {layers} layers.",
                fix=f"allow at least {layers}, or choose layers with modules (--modules '*.mlp.*').",
            )
        dimension = min(dimension, settings.features // layers)
    return random_features(
        problem,
        fitted,
        Projection(dimension, "two-sided", seed=settings.seed),
        method="a gradient store",
        modules=settings.modules,
    )


def _checksum(problem: Problem, model: Any) -> str:
    """Of the learner and of the parameters that it fitted."""
    digest = hashlib.blake2b(problem.learner.fingerprint().encode(), digest_size=20)
    if isinstance(problem.learner, HasState):
        arrays = problem.learner.dump(model)
        for name in sorted(arrays):
            array = np.ascontiguousarray(arrays[name])
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()


def _manifest(folder: Path, opened: Opened, settings: StoreSettings) -> StoreManifest:
    if (folder / NAME).exists():
        found = read_store_manifest(folder)
        check_same_model(folder, found, opened)
        return found
    widths = tuple(columns.stop - columns.start for columns in opened.features.columns)
    return StoreManifest(
        opened.checksum, settings, opened.features.names, widths, opened.l2, versions=versions()
    )


def _check_same_settings(folder: Path, settings: StoreSettings) -> None:
    found = read_store_manifest(folder).settings
    differ = [
        f"{name}={before!r}, not {getattr(settings, name)!r}"
        for name, before in vars(found).items()
        if before != getattr(settings, name)
    ]
    if differ:
        raise RunError(
            f"{folder} was built with {', '.join(differ)}.",
            fix="give the same settings, or choose another path (--out).",
        )


def check_same_model(folder: Path, manifest: StoreManifest, opened: Opened) -> None:
    """Refuse a model that is not the one whose gradients are stored.

    Raises:
        RunError: If it is another model, or its layers are others.
    """
    widths = tuple(columns.stop - columns.start for columns in opened.features.columns)
    same_layers = (manifest.names, manifest.widths) == (opened.features.names, widths)
    if manifest.model != opened.checksum or not same_layers:
        raise RunError(
            f"{folder} holds gradients of another model: "
            + ("its parameters, loss or recipe differ." if same_layers else "its layers differ."),
            fix="name the model that the store was built with, or build a store for this one.",
        )


def _part_number(folder: Path, manifest: StoreManifest, train: Examples, *, append: bool) -> int:
    """The part that these examples are or shall be."""
    for number, part in enumerate(manifest.parts):
        if part.checksum == train.checksum:
            return number
    unfinished = [part for part in manifest.parts if not part.finished]
    if unfinished:
        raise RunError(
            f"{folder}: the part of {unfinished[0].source} is not finished.",
            fix="finish it first, by the command that began it.",
        )
    if manifest.parts and not append:
        raise RunError(
            f"{folder} holds other examples: {', '.join(part.source for part in manifest.parts)}.",
            fix="add --append to add these to them, or choose another path (--out).",
        )
    return len(manifest.parts)


def _begin_part(folder: Path, manifest: StoreManifest, train: Examples, number: int) -> StoreManifest:
    ids = np.asarray(train.ids)
    if manifest.parts:
        ids = _free_ids(open_store(folder).ids, ids, train.source)
    write_array(folder, part_path(folder, number) / "ids.npy", ids)
    write_array(folder, part_path(folder, number) / "weights.npy", train.weights())
    shard = max(_SHARD_ROWS, -(-len(train) // _MOST_SHARDS))
    part = StorePart(len(train), shard, train.checksum, train.source)
    manifest = with_part(manifest, number, part)
    write_store_manifest(folder, manifest)
    return manifest


def _free_ids(taken: np.ndarray, ids: np.ndarray, source: str) -> np.ndarray:
    """Ids of new rows; a copy of a stored text goes on with its numbering, as copies within one file do.

    Raises:
        DataError: If an id that was given, rather than made from content, is taken.
    """
    known = set(taken.tolist())
    clashes = [position for position, name in enumerate(ids.tolist()) if name in known]
    free = ids.tolist()
    for position in clashes:
        name = free[position]
        if not _CONTENT_ID.fullmatch(name):
            raise DataError(
                f"{source}: the store has an example with the id {name!r} already.",
                fix="leave out what is stored already, or give the new examples ids of their own.",
            )
        base, copies = name[:16], 1
        while f"{base}-{copies}" in known:
            copies += 1
        free[position] = f"{base}-{copies}"
        known.add(free[position])
    return np.asarray(free) if clashes else ids


def _fill(  # noqa: PLR0913 - where, which part, of what, from what, and how it is told
    folder: Path, manifest: StoreManifest, number: int, features: Features, train: Examples, run: Run
) -> None:
    """Write the shards that are missing, then measure the rank agreement and finish the part."""
    part = manifest.parts[number]
    with run.progress(f"gradients of {train.source}", len(train)) as progress:
        for k, rows in enumerate(part.bounds()):
            path = shard_path(folder, number, k)
            kept = path.exists()
            if not kept:
                write_shard(folder, path, features(train.take(rows), "loss"), manifest)
            progress.advance(rows.stop - rows.start, kept=kept)
    finished = with_part(manifest, number, replace(part, finished=True))
    agreement: dict[str, float] = {}
    if manifest.settings.dtype != "float32":
        agreement = _agreement(folder, finished, number, features, train)
    part = replace(part, finished=True, agreement=agreement)
    write_store_manifest(folder, with_part(manifest, number, part))


def _agreement(
    folder: Path, manifest: StoreManifest, number: int, features: Features, train: Examples
) -> dict[str, float]:
    """How the store ranks a sample of its rows, compared with float32: some rows asked about the others.

    Returns:
        Mean and least Spearman correlation over the asked rows, and how many of each there were. NaN for rows that
        are all alike is left out.
    """
    positions = np.unique(np.linspace(0, len(train) - 1, min(_SAMPLE, len(train))).astype(np.int64))
    exact = np.asarray(features(train.take(positions), "loss"), dtype=np.float32)
    offset = sum(part.rows for part in manifest.parts[:number])
    nothing = np.zeros(0)
    stored = rows_at(Store(folder, manifest, nothing, nothing, nothing), positions + offset)
    asked = exact[:: max(1, len(exact) // _SAMPLE_QUERIES)][:_SAMPLE_QUERIES]
    found = _ranks(exact @ asked.T, stored @ asked.T)
    return {
        "spearman_mean": float(np.mean(found)) if len(found) else 1.0,
        "spearman_least": float(np.min(found)) if len(found) else 1.0,
        "rows": float(len(exact)),
        "queries": float(len(asked)),
    }


def _ranks(exact: Float[np.ndarray, "row query"], stored: Float[np.ndarray, "row query"]) -> Sequence[float]:
    found = spearman(exact.astype(np.float64), stored.astype(np.float64))
    return found[np.isfinite(found)].tolist()
