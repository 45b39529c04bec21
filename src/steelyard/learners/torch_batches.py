"""From examples to batches of tensors: labels, columns in memory and on disk, and the order of training."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int, UInt64
from torch import Tensor

from steelyard.data import check_labels
from steelyard.errors import DataError
from steelyard.records import Column, Examples

LabelKind = Literal["class", "binary", "number", "any"]

_GATHERED_BYTES = 32 * 2**20
_FAMILY_FIX = (
    "make another learner for other data: one learner reads one layout of columns and one set of classes."
)


@dataclass(frozen=True)
class Layout:
    """What a learner's data look like: the same for its training examples and its queries.

    Attributes:
        inputs: Columns that the model reads, in order.
        label: Column of the label, if there is one.
        classes: Label values in the order of the logits where labels are text; None where they are numbers.
    """

    inputs: tuple[str, ...] = ("input",)
    label: str | None = "label"
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Take:
    """How columns become tensors.

    Attributes:
        dtype: Of floating-point values: the model's.
        device: Where batches go: the model's.
        kind: What the loss takes labels for; ``"any"`` for a user's loss.
        outputs: How many classes the model tells apart, where labels are classes.
    """

    dtype: torch.dtype
    device: torch.device
    kind: LabelKind
    outputs: int | None = None


@dataclass(frozen=True, eq=False)
class Table:
    """Examples as tensors: columns in memory are converted once, columns on disk batch by batch.

    Attributes:
        ids: ``str[" example"]``
        tensors: Columns that are in memory, on the model's device.
        columns: Columns that are read as they are needed.
        take: How values are taken.
    """

    ids: np.ndarray
    tensors: Mapping[str, Tensor]
    columns: Mapping[str, Column]
    take: Take

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        return self.take.device

    def batch(self, rows: np.ndarray | slice) -> dict[str, Tensor]:
        """The rows as tensors of their own, so that nothing done to them reaches the data."""
        if isinstance(rows, slice):
            found = {name: tensor[rows].clone() for name, tensor in self.tensors.items()}
        else:
            index = torch.from_numpy(rows).to(self.take.device)
            found = {name: tensor.index_select(0, index) for name, tensor in self.tensors.items()}
        for name, column in self.columns.items():
            found[name] = _tensor(np.asarray(column[rows]), self.take.dtype, copy=True).to(self.take.device)
        return found

    def stream(self, rows: np.ndarray, size: int) -> Iterator[dict[str, Tensor]]:
        """The rows in batches of at most ``size``, many gathered at once where memory allows."""
        row_bytes = sum(tensor[0:1].nbytes for tensor in self.tensors.values())
        whole = max(1, _GATHERED_BYTES // max(1, row_bytes * size))
        span = size * (1 if self.columns else whole)
        for begin in range(0, len(rows), span):
            block = self.batch(rows[begin : begin + span])
            for start in range(0, min(span, len(rows) - begin), size):
                yield {name: tensor[start : start + size] for name, tensor in block.items()}


def require_examples(examples: Any) -> Examples:
    """The examples, if that is what they are.

    Raises:
        DataError: If a ``DataLoader`` or anything else was given.
    """
    if isinstance(examples, Examples):
        return examples
    if isinstance(examples, torch.utils.data.DataLoader):
        raise DataError(
            "given a DataLoader, which may shuffle, drop or repeat examples, so that rows have no identity.",
            fix="pass the dataset, not the loader: loader.dataset.",
        )
    raise DataError(
        f"given a {type(examples).__name__}, expected Examples.", fix="read it first: sy.data.read(...)."
    )


def layout_of(examples: Examples) -> Layout:
    """The layout of these training examples; text labels become classes in sorted order."""
    classes = None
    if examples.label is not None and _is_text(examples.column(examples.label)):
        classes = tuple(str(value) for value in np.unique(examples.labels().astype(str)))
    return Layout(examples.inputs, examples.label, classes)


def agree(layout: Layout, examples: Examples) -> Layout:
    """The layout, if these examples follow it; unlabelled examples may.

    Raises:
        DataError: If inputs or label have other names.
    """
    if examples.inputs != layout.inputs or examples.label not in (layout.label, None):
        raise DataError(
            f"{examples.source}: inputs {list(examples.inputs)} and label {examples.label!r}, but this "
            "learner has "
            f"seen inputs {list(layout.inputs)} and label {layout.label!r}.",
            fix=_FAMILY_FIX,
        )
    return layout if examples.label is not None else replace(layout, label=None)


def tabulate(examples: Examples, layout: Layout, take: Take) -> Table:
    """The examples as tensors.

    Cost: one conversion of the columns in memory (none where the type already fits); labels are read whole.

    Args:
        examples: Examples that follow the layout.
        layout: Names of the columns, and the classes.
        take: How values are taken.

    Raises:
        DataError: If an input is text or ragged, or a label is not what the loss takes; names row, id and
            label.
    """
    tensors: dict[str, Tensor] = {}
    columns: dict[str, Column] = {}
    for name in (*layout.inputs, *(name for name in examples.columns if name not in layout.inputs)):
        column = examples.column(name)
        if name == layout.label:
            tensors[name] = _labels(examples, layout, take).to(take.device)
        elif _sample(column).dtype.kind not in "biuf":
            if name in layout.inputs and take.kind != "any":
                raise DataError(
                    f"{examples.source}: input column {name!r} holds {_describe(column)}, but a torch model "
                    "reads "
                    "numbers of one shape.",
                    fix="tokenise text and pad sequences to one length first.",
                )
        elif isinstance(column, np.ndarray) and not isinstance(column, np.memmap):
            tensors[name] = _tensor(column, take.dtype, copy=False).to(take.device)
        else:
            columns[name] = column
    if not tensors and not columns:
        raise DataError(
            f"{examples.source}: no column holds numbers; the columns are {', '.join(map(repr, examples.columns))}.",
            fix="tokenise the text first and add the tokens as a column.",
        )
    return Table(examples.ids, tensors, columns, take)


def id_keys(ids: np.ndarray) -> UInt64[np.ndarray, " example"]:
    """A 64-bit hash of every id, equal on every machine and whatever the width of the array.

    Cost: one pass over the characters, vectorised over the ids.
    """
    text = np.ascontiguousarray(ids, dtype=str)
    width = max(1, text.dtype.itemsize // 4)
    codes = text.astype(f"<U{width}").view("<u4").reshape(len(text), width).astype(np.uint64)
    keys = np.full(len(text), 0x5EED, dtype=np.uint64)
    for place in range(width):
        # Padding leaves the hash as it is, so that "a" hashes alike in a narrow and in a wide array.
        keys = np.where(codes[:, place] == 0, keys, _splitmix(keys ^ codes[:, place]))
    return keys


def epoch_order(
    keys: UInt64[np.ndarray, " example"], *, seed: int, epoch: int
) -> Int[np.ndarray, " example"]:
    """The order of training in one epoch: positions sorted by a hash of seed, epoch and id.

    Because each example brings its own key, leaving one out keeps the order of all others: two trainings that
    differ in an example differ by that example, not by a new shuffle.

    Args:
        keys: From :func:`id_keys`.
        seed: Of the fit.
        epoch: From 0.

    Source: SplitMix64 finaliser, Steele, Lea & Flood (2014), fig. 16.
    """
    start = np.array([seed & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)
    mixed = _splitmix(_splitmix(start) ^ np.uint64(epoch))
    return np.argsort(_splitmix(keys ^ mixed), kind="stable")


def _splitmix(values: np.ndarray) -> np.ndarray:
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _labels(examples: Examples, layout: Layout, take: Take) -> Tensor:
    if layout.classes is not None:
        places = _encode(examples, layout.classes, take)
        return torch.from_numpy(places).to(take.dtype if take.kind == "binary" else torch.int64)
    if take.kind == "class" and take.outputs is not None:
        return torch.from_numpy(check_labels(examples, take.outputs))
    values = examples.labels()
    if values.dtype.kind not in "biuf":
        _refuse(examples, 0, values[0], "the training labels are numbers")
    if take.kind in ("binary", "number"):
        _check_values(examples, values, take.kind)
        return torch.from_numpy(np.array(values, dtype=np.float64)).to(take.dtype)
    return _tensor(values, take.dtype, copy=True)


def _encode(examples: Examples, classes: tuple[str, ...], take: Take) -> np.ndarray:
    values = examples.labels().astype(str)
    if take.kind == "number":
        _refuse(examples, 0, values[0], "the loss 'mse' takes numbers")
    allowed = 2 if take.kind == "binary" else take.outputs or len(classes)
    if len(classes) > allowed or (take.kind == "binary" and len(classes) != 2):
        raise DataError(
            f"{examples.source}: the labels have {len(classes)} classes, the model tells {allowed} apart.",
            fix="give a model with one output per class (or loss='cross_entropy'), or other labels.",
        )
    known = np.array(classes)
    order = np.argsort(known)
    places = order[np.minimum(np.searchsorted(known, values, sorter=order), len(known) - 1)]
    unknown = np.flatnonzero(known[places] != values)
    if len(unknown):
        shown = ", ".join(map(repr, classes[:8])) + (", …" if len(classes) > 8 else "")
        row = int(unknown[0])
        _refuse(examples, row, str(values[row]), f"the classes this learner has seen are {shown}")
    return places.astype(np.int64)


def _check_values(examples: Examples, values: np.ndarray, kind: LabelKind) -> None:
    flat = values.reshape(len(values), -1)
    allowed = (flat >= 0) & (flat <= 1) if kind == "binary" else np.isfinite(flat)
    bad = np.flatnonzero(~allowed.all(axis=1))
    if len(bad):
        expected = "labels lie in [0, 1]" if kind == "binary" else "labels are finite numbers"
        _refuse(examples, int(bad[0]), values[bad[0]], expected)


def _refuse(examples: Examples, row: int, label: object, expected: str) -> None:
    raise DataError(
        f"{examples.source}: row {row}, id {str(examples.ids[row])!r} has the label {label!r}, but "
        f"{expected}.",
        fix="correct or remove this example, or name another column with label=....",
    )


def _is_text(column: Column) -> bool:
    first = _sample(column)
    return first.dtype.kind in "US" or (first.dtype.kind == "O" and all(isinstance(v, str) for v in first))


def _sample(column: Column) -> np.ndarray:
    return np.asarray(column[0:1])


def _describe(column: Column) -> str:
    return {"U": "text", "S": "bytes", "O": "values of mixed type or length", "M": "dates"}.get(
        _sample(column).dtype.kind, f"values of type {_sample(column).dtype}"
    )


def _tensor(values: np.ndarray, dtype: torch.dtype, *, copy: bool) -> Tensor:
    if values.dtype.kind in "iu":
        values = values.astype(np.int64, copy=False)
    elif not values.dtype.isnative:
        values = values.astype(values.dtype.newbyteorder("="))
    # torch warns about arrays it may not write to, and refuses negative strides.
    if copy or not values.flags.writeable or not values.flags.c_contiguous:
        values = np.array(values, order="C")
    tensor = torch.from_numpy(values)
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
