"""Which parameter is served by what: a tap, a copy per example, or ``torch.func``; decided by test.

The truth is plain autograd on each of a few examples alone. Whatever gives another gradient for them is not used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from steelyard.errors import ModelError
from steelyard.gradients.factors import Factors, Rows, flat
from steelyard.gradients.fallback import Batch, Function, row_gradients
from steelyard.gradients.passes import length, one_pass
from steelyard.gradients.taps import Block, recording, tappable

_NEGLIGIBLE = 1e-3  # of the largest gradient: below this, rounding is measured against the largest
_ROUNDING = {torch.float64: 1e-9, torch.float32: 2e-4}
_HALF = 0.1  # in half precision only a gradient of another structure is told from rounding


@dataclass(frozen=True, eq=False)
class Coverage:
    """Which parameter is served by what.

    Attributes:
        blocks: Tapped layers.
        broadcast: Parameters with one copy per example in the same pass.
        functional: Parameters that go through ``torch.func``, one more pass.
        notes: In words, for the record.
    """

    blocks: tuple[Block, ...]
    broadcast: tuple[str, ...]
    functional: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())


def cover(model: nn.Module, function: Function, batch: Batch) -> Coverage:
    """Assign every trainable parameter to a tap, a broadcast copy or the fallback, by test."""
    truth = _alone(model, function, batch)
    blocks = _trusted_blocks(model, function, batch, truth)
    covered = {name for block in blocks for name in block.parameters}
    left = [name for name in truth if name not in covered and bool(truth[name].abs().sum() > 0)]
    shared = _shared(model)
    broadcast = [
        name for name in left if name not in shared and _broadcast_works(model, function, batch, name, truth)
    ]
    functional = [name for name in left if name not in broadcast]
    notes: list[str] = []
    if functional:
        rows, vectorised = row_gradients(model, function, batch, functional)
        wrong = [name for name in functional if not _close(rows[name], truth[name], _rounding(model, truth))]
        if wrong:
            raise ModelError(
                f"the per-example gradient of parameter {wrong[0]!r} differs between a batch and the example alone.",
                fix="make the loss of an example independent of the other examples in its batch, and the "
                "forward pass deterministic (dropout off, no batch statistics).",
            )
        how = "torch.func" if vectorised else "one pass per example (torch.func cannot vectorise this model)"
        named = ", ".join(functional[:6]) + (", …" if len(functional) > 6 else "")
        why = " (shared between layers)" if set(functional) <= shared else ""
        notes.append(f"gradients of {len(functional)} parameters by {how}{why}: {named}")
    unused = [name for name in truth if name not in covered and name not in left]
    if unused:
        notes.append(f"no gradient reaches {len(unused)} parameters, such as {unused[0]}")
    return Coverage(tuple(blocks), tuple(broadcast), tuple(functional), tuple(notes))


def _alone(model: nn.Module, function: Function, batch: Batch) -> dict[str, Tensor]:
    """Gradients of each example in a batch of its own, by plain autograd: the truth that others are held to."""
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    parameters = dict(model.named_parameters())
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    with torch.enable_grad():
        for i in range(length(batch)):
            value = function(model, {key: tensor[i : i + 1] for key, tensor in batch.items()}).sum()
            grads = torch.autograd.grad(value, [parameters[name] for name in names], allow_unused=True)
            for name, grad in zip(names, grads, strict=True):
                rows[name].append(torch.zeros_like(parameters[name]) if grad is None else grad)
    return {name: torch.stack(found).flatten(1).detach() for name, found in rows.items()}


def _trusted_blocks(
    model: nn.Module, function: Function, batch: Batch, truth: Mapping[str, Tensor]
) -> list[Block]:
    blocks = tappable(model)
    try:
        found = _recorded(model, function, batch, blocks, ())
    except (RuntimeError, ValueError, TypeError):
        # One layer with an unexpected shape must not cost the others their taps.
        return [block for block in blocks if _one_works(model, function, batch, block, truth)]
    return [
        block for block in blocks if block.name in found and _agrees(block, found[block.name], model, truth)
    ]


def _one_works(
    model: nn.Module, function: Function, batch: Batch, block: Block, truth: Mapping[str, Tensor]
) -> bool:
    try:
        found = _recorded(model, function, batch, [block], ())
        return block.name in found and _agrees(block, found[block.name], model, truth)
    except (RuntimeError, ValueError, TypeError):
        return False


def _broadcast_works(
    model: nn.Module, function: Function, batch: Batch, name: str, truth: Mapping[str, Tensor]
) -> bool:
    try:
        found = _recorded(model, function, batch, (), (name,))
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    return name in found and _close(flat(found[name]), truth[name], _rounding(model, truth))


def _recorded(
    model: nn.Module, function: Function, batch: Batch, blocks: Sequence[Block], broadcast: Sequence[str]
) -> dict[str, Factors]:
    with recording(model, blocks, broadcast) as recorder:
        one_pass(recorder, model, function, batch)
        return recorder.factors()


def _agrees(block: Block, factors: Factors, model: nn.Module, truth: Mapping[str, Tensor]) -> bool:
    rows = isinstance(factors, Rows)
    parts = split_rows(block, factors, model) if rows else split_matrix(block, factors.full())
    rounding = _rounding(model, truth)
    return all(_close(part, truth[name], rounding) for name, part in parts.items())


@dataclass(frozen=True)
class _Rounding:
    """How far a gradient may be off.

    Attributes:
        tolerance: Relative to the parameter's largest gradient.
        floor: Size that smaller gradients are measured against. A parameter whose gradient is zero but for rounding,
            such as the bias of attention keys, has no size of its own.
    """

    tolerance: float
    floor: float


def _rounding(model: nn.Module, truth: Mapping[str, Tensor]) -> _Rounding:
    """Of a model: its narrowest number type decides, because it rounds what all others are computed from."""
    largest = max((float(rows.abs().max()) for rows in truth.values() if rows.numel()), default=0.0)
    kinds = {value.dtype for value in model.parameters() if value.is_floating_point()}
    if any(kind not in _ROUNDING for kind in kinds):
        return _Rounding(_HALF, max(_HALF * largest, 1e-12))
    return _Rounding(max(_ROUNDING[kind] for kind in kinds), max(_NEGLIGIBLE * largest, 1e-12))


def _close(rows: Tensor, truth: Tensor, rounding: _Rounding) -> bool:
    if rows.shape != truth.shape:
        return False
    size = max(float(truth.abs().max()), rounding.floor)
    return float((rows - truth).abs().max()) <= rounding.tolerance * size


def split_matrix(block: Block, matrices: Tensor) -> dict[str, Tensor]:
    """``[example, row, column]`` gradients of a layer as flat gradients of its weight and its bias."""
    parts: dict[str, Tensor] = {}
    if block.bias is not None:
        parts[block.bias] = matrices[:, :, -1]
        matrices = matrices[:, :, :-1]
    if block.weight is not None:
        stored = matrices.transpose(1, 2) if block.transposed else matrices
        parts[block.weight] = stored.flatten(1)
    return parts


def split_rows(block: Block, factors: Factors, model: nn.Module) -> dict[str, Tensor]:
    """Gradient rows of a layer, cut into those of its parameters."""
    parameters, rows = dict(model.named_parameters()), flat(factors)
    sizes = [parameters[name].numel() for name in block.parameters]
    return dict(zip(block.parameters, rows.split(sizes, dim=1), strict=True))


def _shared(model: nn.Module) -> set[str]:
    """Names of parameters that several modules hold."""
    seen: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        seen.setdefault(id(parameter), []).append(name)
    return {name for names in seen.values() if len(names) > 1 for name in names}
