"""Labels of a sequence classifier: class numbers, names of classes, or numbers to predict."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from steelyard.data import check_labels
from steelyard.errors import DataError, SettingError
from steelyard.records import Examples


def outputs_of(net: nn.Module) -> int:
    """How many outputs a classifier has."""
    return int(cast(Any, net).config.num_labels)


def class_names(net: nn.Module, given: Sequence[str] | None) -> tuple[str, ...] | None:
    """Names of the classes in the order of the logits; None if there are none but LABEL_0, LABEL_1, ….

    Raises:
        SettingError: If as many names as outputs were not given.
    """
    outputs = outputs_of(net)
    if given is not None:
        if len(given) != outputs:
            raise SettingError(
                f"Transformers: {len(given)} classes are named, but the model has {outputs} outputs.",
                fix="name one class per output, in order.",
            )
        return tuple(str(name) for name in given)
    named = {int(number): str(name) for number, name in (cast(Any, net).config.id2label or {}).items()}
    listed = tuple(named.get(k, f"LABEL_{k}") for k in range(outputs))
    return None if all(name == f"LABEL_{k}" for k, name in enumerate(listed)) else listed


def labels_of(examples: Examples, outputs: int, names: tuple[str, ...] | None) -> Tensor:
    """``int64[example]`` class numbers, or numbers to predict where there is one output.

    Raises:
        DataError: If there are no labels, or one is no class of the model; names the example.
    """
    values = examples.labels()
    if outputs == 1:
        numbers = _numbers(examples, values)
        return torch.from_numpy(numbers.astype(np.float32))
    if values.dtype.kind in "biuf":
        return torch.from_numpy(check_labels(examples, outputs))
    if names is None:
        raise DataError(
            f"{examples.source}: the labels are text, but the model's configuration names no classes.",
            fix="give classes=(...), the names in the order of the model's outputs.",
        )
    places = {name: k for k, name in enumerate(names)}
    unknown = next((row for row, value in enumerate(values) if str(value) not in places), None)
    if unknown is not None:
        raise DataError(
            f"{examples.source}: example {str(examples.ids[unknown])!r} has the label {str(values[unknown])!r}, but "
            f"the model's classes are {', '.join(names[:8])}{', …' if len(names) > 8 else ''}.",
            fix="correct the label, or give classes=(...) in the order of the model's outputs.",
        )
    return torch.tensor([places[str(value)] for value in values])


def _numbers(examples: Examples, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in "biuf":
        raise DataError(
            f"{examples.source}: the labels are text, but the model has one output and predicts a number.",
            fix="give numbers as labels, or a model with one output per class.",
        )
    bad = np.flatnonzero(~np.isfinite(values.astype(np.float64)))
    if len(bad):
        raise DataError(
            f"{examples.source}: example {str(examples.ids[bad[0]])!r} has the label {values[bad[0]]}.",
            fix="give finite numbers as labels.",
        )
    return values
