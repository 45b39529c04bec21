"""Boosted trees as arrays, for run folders: the library's own safe format, or the layout where it has none."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np

from steelyard.learners.boosted_columns import Coding
from steelyard.learners.boosted_fitted import BoostedFitted, Library, Training
from steelyard.trees.forest import Forest
from steelyard.trees.objectives import Objective

_PLAIN = {"l1": float, "max_delta_step": float, "row_share": float, "column_share": float, "leaf_steps": int}
_WORDS = ("leaf_rule", "cover_kind", "library")


def dumped(fitted: BoostedFitted) -> dict[str, np.ndarray]:
    """A fitted model as arrays."""
    content = None if fitted.model is None else fitted.library.dump(fitted.model)
    facts = {
        "names": fitted.coding.names,
        "categories": fitted.coding.categories,
        "by_code": sorted(fitted.coding.by_code),
        "seed": fitted.seed,
        "mean_weight": fitted.mean_weight,
        "notes": fitted.notes,
        "objective": asdict(replace(fitted.objective, functions=None)),
    }
    arrays = {"facts": np.array(json.dumps(facts))}
    if fitted.classes is not None:
        words = fitted.classes.dtype.kind in "OUS"
        arrays["classes"] = fitted.classes.astype(str) if words else fitted.classes
    if fitted.start is not None:
        arrays["start"] = fitted.start
    if content is not None:
        return arrays | {"model": np.frombuffer(content, dtype=np.uint8)}
    return arrays | {f"forest_{name}": value for name, value in _forest_arrays(fitted.forest).items()}


def restored(arrays: Mapping[str, np.ndarray], library: Library, training: Training) -> BoostedFitted:
    """The inverse of :func:`dumped`."""
    facts: dict[str, Any] = json.loads(str(np.asarray(arrays["facts"]).item()))
    objective = Objective(**{**facts["objective"], "functions": training.custom})
    categories = tuple(None if known is None else tuple(known) for known in facts["categories"])
    own = "model" in arrays
    return BoostedFitted(
        model=library.load(np.asarray(arrays["model"]).tobytes()) if own else None,
        library=library,
        training=training,
        objective=objective,
        coding=Coding(tuple(facts["names"]), categories, frozenset(facts["by_code"])),
        classes=_classes(arrays),
        seed=int(facts["seed"]),
        start=np.asarray(arrays["start"]) if "start" in arrays else None,
        mean_weight=float(facts["mean_weight"]),
        notes=tuple(facts["notes"]),
        kept=None if own else _forest(arrays, objective),
    )


def content_of(model: Any, library: Library) -> bytes:
    """What a trained model is, for its checksum."""
    content = library.dump(model)
    if content is not None:
        return content
    import joblib

    return str(joblib.hash(model, hash_name="sha1")).encode()


def digest(facts: str, content: bytes) -> str:
    """One checksum of both."""
    return hashlib.sha256(facts.encode() + content).hexdigest()


def _classes(arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
    if "classes" not in arrays:
        return None
    found = np.asarray(arrays["classes"])
    return found.astype(object) if found.dtype.kind == "U" else found


def _forest_arrays(forest: Forest) -> dict[str, np.ndarray]:
    values = {part.name: getattr(forest, part.name) for part in fields(forest) if part.name != "objective"}
    return {name: np.asarray(value) for name, value in values.items()}


def _forest(arrays: Mapping[str, np.ndarray], objective: Objective) -> Forest:
    given: dict[str, Any] = {}
    for part in fields(Forest):
        if part.name == "objective":
            continue
        value = np.asarray(arrays[f"forest_{part.name}"])
        if part.name in _PLAIN:
            value = _PLAIN[part.name](value)
        elif part.name in _WORDS:
            value = str(value)
        elif part.name == "single":
            value = bool(value)
        given[part.name] = value
    return Forest(objective=objective, **given)
