"""Which examples go through the model together: as many as a stated amount of memory holds, with little padding.

A pass over a batch of sequences holds everything that its backward pass needs: about as much per token whatever
the token, so a batch is bounded by its padded tokens (examples times longest), not by its examples. What a token
takes is measured once, on the first few examples.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from steelyard.gradients.coverage import Coverage
from steelyard.gradients.fallback import Batch, Function
from steelyard.gradients.passes import length, one_pass
from steelyard.gradients.taps import recording

Positions = np.ndarray | slice
"""Which examples a batch holds."""

WORKING_BYTES = 2**30  # of a pass over sequences: activations, their gradients, the logits
FACTOR_BYTES = 128 * 2**20  # of the factors of a pass over anything else, which small networks like best
TENSOR_BYTES = (
    16 * 2**20
)  # of the largest tensor there: beyond 32 MiB the system hands out fresh pages each time
LARGEST_BATCH = 4096
_WORTH_SORTING = 1.05  # padded tokens in the order given, over those in order of length


@dataclass(frozen=True)
class Room:
    """How much one pass may hold.

    Attributes:
        examples: Most examples.
        tokens: Most padded tokens, examples times the longest; None where examples have no lengths.
    """

    examples: int = LARGEST_BATCH
    tokens: int | None = None


def in_order(lengths: Int[np.ndarray, " example"], room: Room) -> list[slice]:
    """Consecutive batches that fit; an example that is longer than the room goes alone."""
    batches: list[slice] = []
    start = longest = 0
    for position, tokens in enumerate(lengths.tolist()):
        longest = max(longest, tokens)
        count = position - start + 1
        full = count > room.examples or (room.tokens is not None and count * longest > room.tokens)
        if full and count > 1:
            batches.append(slice(start, position))
            start, longest = position, tokens
    if len(lengths):
        batches.append(slice(start, len(lengths)))
    return batches


def by_length(lengths: Int[np.ndarray, " example"], room: Room) -> list[Positions]:
    """Batches that fit, of examples of similar length where that saves padding; else consecutive ones."""
    plain: list[Positions] = [*in_order(lengths, room)]
    order = np.argsort(lengths, kind="stable")
    grouped: list[Positions] = [order[batch] for batch in in_order(lengths[order], room)]
    worth = _padded(lengths, plain) > _WORTH_SORTING * _padded(lengths, grouped)
    return grouped if worth else plain


def _padded(lengths: np.ndarray, batches: Sequence[Positions]) -> int:
    return sum(len(lengths[batch]) * int(lengths[batch].max()) for batch in batches)


class Saved:
    """Counts the bytes that a forward pass keeps for its backward pass, parameters aside."""

    def __init__(self, model: nn.Module) -> None:
        self._known = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
        self.bytes = 0
        self.largest = 0

    def _see(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._known.add(storage.data_ptr())
            self.bytes += storage.nbytes()
            self.largest = max(self.largest, storage.nbytes())
        return tensor

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count what is kept within the context."""

        def same(packed: Any) -> Any:
            return packed

        with torch.autograd.graph.saved_tensors_hooks(self._see, same):
            yield

    @property
    def peak(self) -> int:
        """About the most that forward and backward hold at once: what is kept, and the largest twice more."""
        return self.bytes + 2 * self.largest


def measured_room(
    model: nn.Module,
    function: Function,
    batch: Batch,
    coverage: Coverage,
    lengths: Int[np.ndarray, " example"] | None,
) -> Room:
    """How much fits into the working set, from one pass over the first few examples.

    Attention that keeps a weight for every pair of positions takes more per token the longer the example; it is
    counted at the length of these few.

    Args:
        model: To run.
        function: Gives one value per example.
        batch: The first few examples.
        coverage: Which parameter is served by what; those that fall back take a whole row per example.
        lengths: Tokens of all examples, the first few first; None if they have none.
    """
    count = length(batch)
    saved = Saved(model)
    with recording(model, coverage.blocks, coverage.broadcast) as recorder:
        with saved.watching():
            one_pass(recorder, model, function, batch)
        found = recorder.factors()
    numbers = sum(t.numel() for f in found.values() for t in vars(f).values() if isinstance(t, Tensor))
    parameters = dict(model.named_parameters())
    row_bytes = 8 * sum(parameters[name].numel() for name in coverage.functional)
    if lengths is None:
        # Small networks run fastest while their factors stay in the processor's cache; large ones must fit.
        by_cache = FACTOR_BYTES // max(1, 8 * numbers // count, row_bytes)
        by_memory = WORKING_BYTES * count // max(1, saved.peak)
        by_tensor = TENSOR_BYTES * count // max(1, saved.largest)
        return Room(min(LARGEST_BATCH, max(1, min(by_cache, by_memory, by_tensor))))
    tokens = max(1, count * int(lengths[:count].max()))
    per_token = max(1, (saved.peak + 4 * numbers) // tokens)
    most = WORKING_BYTES // row_bytes if row_bytes else LARGEST_BATCH
    return Room(min(LARGEST_BATCH, max(1, most)), max(1, WORKING_BYTES // per_token))


def restoring(batches: Sequence[Positions], count: int) -> np.ndarray | None:
    """Where each of ``count`` examples stands in the batches laid end to end; None if they stand in order."""
    if all(isinstance(batch, slice) for batch in batches):
        return None
    places = np.arange(count)
    return np.argsort(np.concatenate([places[batch] for batch in batches]), kind="stable")
