"""One batch through a model while its layers are tapped, and what is checked on the way."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from steelyard.errors import NumericsError
from steelyard.gradients.factors import Factors, Rows
from steelyard.gradients.fallback import Batch, Function, row_gradients
from steelyard.gradients.taps import Recorder
from steelyard.records import Examples


def length(batch: Batch) -> int:
    """Number of examples in a batch."""
    return len(next(iter(batch.values())))


def one_pass(recorder: Recorder, model: nn.Module, function: Function, batch: Batch) -> Tensor:
    """Forward and backward of the summed values; the recorder holds what the taps saw."""
    recorder.begin(length(batch))
    values = function(model, batch)
    if values.requires_grad:
        values.sum().backward()
    return values.detach()


def check_finite(values: Tensor, examples: Examples, rows: np.ndarray | slice) -> None:
    """Refuse a batch with NaN or infinity, naming the example.

    Args:
        values: One per example of the batch.
        examples: Where the batch was taken from.
        rows: Which of them are in the batch.

    Raises:
        NumericsError: If a value is not finite.
    """
    bad = torch.nonzero(~torch.isfinite(values))
    if len(bad):
        position = np.arange(len(examples))[rows][int(bad[0, 0])]
        raise NumericsError(
            f"{examples.source}: the value of example {str(examples.ids[position])!r} is "
            f"{float(values[bad[0, 0]])}, so its gradient has no meaning.",
            fix="look at this example for extreme values, or compute in a wider number type.",
        )


class paused:  # reads as a context
    """Give the model its own parameters back for a pass of ``torch.func`` within a recording."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __enter__(self) -> None:
        self._recorder.listening = False
        for owner, key, parameter in self._recorder.broadcast.values():
            owner.__dict__.pop(key, None)
            owner._parameters[key] = parameter

    def __exit__(self, *_: object) -> None:
        for owner, key, _parameter in self._recorder.broadcast.values():
            del owner._parameters[key]
        self._recorder.listening = True


def functional_factors(
    model: nn.Module, function: Function, batch: Batch, names: Sequence[str]
) -> dict[str, Factors]:
    """Gradients of the parameters that fall back to ``torch.func``."""
    gradients, _ = row_gradients(model, function, batch, names)
    return {name: Rows(rows) for name, rows in gradients.items()}
