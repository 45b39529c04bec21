"""Encoded examples as batches of tensors, padded on the right to the longest of the batch."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from steelyard.errors import DataError
from steelyard.learners.transformers_spans import SPAN
from steelyard.learners.transformers_text import COUNTED, Encoded
from steelyard.records import Examples

IGNORED = -100
"""Label of a token whose prediction does not count, as in transformers."""

POSITIONS = "token_positions"
"""Column of blocks whose examples do not attend to each other: the place of each token within its example."""


@dataclass(frozen=True, eq=False)
class TokenTable:
    """Examples as tokens; the surface that training asks for, ``torch_training.Table``.

    Attributes:
        ids: ``str[" example"]``
        encoded: Their tokens.
        classes: ``int64`` or floating-point ``[" example"]`` Labels of a classifier; None for language models.
        padding: Token that fills up shorter examples. It changes nothing: it is neither attended to nor predicted.
        device: Where batches go.
        extra: Further numeric columns, for a user's own functions.
        states: Puts into a batch what frozen lower layers make of it; None if there are none.
        positions: Place of each token within its example; None: a batch leaves them to the model.
    """

    ids: np.ndarray
    encoded: Encoded
    classes: Tensor | None
    padding: int
    device: torch.device
    extra: Mapping[str, Tensor]
    states: Callable[[dict[str, Tensor]], None] | None = None
    positions: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rows: np.ndarray | slice) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask`` and ``labels`` of these examples, example on the first axis.

        Labels stand at the token that is predicted, so a causal model's output one place before is held to it;
        ``measured`` are the same for the span that queries name.
        """
        chosen = np.arange(len(self))[rows]
        starts, lengths = self.encoded.starts[chosen], self.encoded.lengths[chosen]
        width = int(lengths.max()) if len(lengths) else 0
        steps = np.arange(width)
        real = steps < lengths[:, None]
        # Places beyond an example's end read its last token, and are then overwritten.
        places = starts[:, None] + np.minimum(steps, np.maximum(lengths[:, None] - 1, 0))
        tokens = np.where(real, self.encoded.tokens[places], self.padding)
        found = {"input_ids": tokens, "attention_mask": real.astype(np.int64)}
        if self.encoded.types is not None:
            found["token_type_ids"] = np.where(real, self.encoded.types[places], 0)
        if self.positions is not None:
            found["position_ids"] = np.where(real, self.positions[places], 0)
        if self.classes is None:
            found["labels"] = np.where(real & self.encoded.counted[places], tokens, IGNORED)
        if self.encoded.measured is not None:
            found["measured"] = np.where(real & self.encoded.measured[places], tokens, IGNORED)
        batch = {name: torch.from_numpy(values).to(self.device) for name, values in found.items()}
        index = torch.from_numpy(chosen)
        if self.classes is not None:
            batch["labels"] = self.classes[index].to(self.device)
        batch |= {name: values[index].to(self.device) for name, values in self.extra.items()}
        if self.states is not None:
            self.states(batch)
        return batch

    def stream(self, rows: np.ndarray, size: int) -> Iterator[dict[str, Tensor]]:
        """The rows in batches of at most ``size``."""
        for begin in range(0, len(rows), size):
            yield self.batch(rows[begin : begin + size])


def positions_of(examples: Examples, encoded: Encoded) -> np.ndarray:
    """Place of every token within its example, which in blocks is not the place in the block.

    Raises:
        DataError: If the column is not of the tokens.
    """
    if POSITIONS not in examples.columns:
        return np.arange(len(encoded.tokens)) - np.repeat(encoded.starts[:-1], encoded.lengths)
    found = [np.asarray(row, dtype=np.int64) for row in examples.column(POSITIONS)[:]]
    if [len(row) for row in found] != encoded.lengths.tolist():
        raise DataError(
            f"{examples.source}: the column {POSITIONS!r} has not one number per token.",
            fix="pack to at most max_length tokens per block.",
        )
    return np.concatenate(found)


def attended(positions: Tensor, dtype: torch.dtype) -> Tensor:
    """``[batch, 1, token, token]`` What is added to attention: nothing within an example and backwards, else ruin."""
    example = (positions == 0).cumsum(1)
    seen = (example[:, :, None] == example[:, None, :]).tril()
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def numeric_columns(examples: Examples) -> dict[str, Tensor]:
    """Further columns of numbers, for functions of the user's own."""
    known = {*examples.inputs, examples.label, SPAN, COUNTED, POSITIONS}
    found = {name: np.asarray(column[:]) for name, column in examples.columns.items() if name not in known}
    return {
        name: torch.from_numpy(np.array(values))
        for name, values in found.items()
        if values.dtype.kind in "biuf"
    }
