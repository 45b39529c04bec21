"""Exact copies among examples, found by one streamed pass over their inputs."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from steelyard.records import Examples

_BATCH = 4096
_QUOTED = 10


@dataclass(frozen=True)
class Duplicates:
    """Copies of earlier examples.

    Attributes:
        rows: How many examples have the same inputs as an earlier one.
        conflicts: How many of these have another label than the first of them.
        examples: Ids of the first few.
    """

    rows: int
    conflicts: int
    examples: tuple[str, ...]


def duplicates(examples: Examples) -> Duplicates:
    """Count examples whose inputs are byte for byte those of an earlier example.

    Cost: one pass in batches; 16 bytes of digest and one label per different example in memory.
    """
    seen: dict[bytes, Any] = {}
    rows, conflicts = 0, 0
    quoted: list[str] = []
    for batch in examples.batches(_BATCH):
        columns = [np.asarray(batch.column(name)[:]) for name in batch.inputs]
        labels = batch.labels() if batch.label is not None else np.zeros(len(batch))
        for i in range(len(batch)):
            digest = _digest([column[i] for column in columns])
            label = labels[i].item() if isinstance(labels[i], np.generic) else str(labels[i])
            if digest not in seen:
                seen[digest] = label
                continue
            rows += 1
            conflicts += seen[digest] != label
            if len(quoted) < _QUOTED:
                quoted.append(str(batch.ids[i]))
    return Duplicates(rows, conflicts, tuple(quoted))


def _digest(values: list[Any]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        array = np.asarray(value)
        body = (
            array.tobytes() if array.dtype.kind in "biufc" else repr(value).encode("utf-8", "surrogatepass")
        )
        digest.update(len(body).to_bytes(8, "little") + body)
    return digest.digest()
