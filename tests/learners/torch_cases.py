"""Small data and small networks for the tests of the torch learner."""

import numpy as np
import torch
from torch import Tensor, nn

from steelyard.records import Examples


def blobs(count: int = 60, *, classes: int = 3, seed: int = 0, prefix: str = "e") -> Examples:
    """Points of several classes in four dimensions."""
    random = np.random.default_rng(seed)
    label = np.arange(count) % classes
    values = random.normal(size=(count, 4)) + 1.5 * np.eye(4)[label % 4]
    return examples({"input": values.astype(np.float32), "label": label}, prefix=prefix)


def examples(
    columns: dict[str, object],
    *,
    inputs: tuple[str, ...] = ("input",),
    label: str | None = "label",
    prefix: str = "e",
) -> Examples:
    count = len(next(iter(columns.values())))  # type: ignore[arg-type]
    ids = np.array([f"{prefix}{i}" for i in range(count)])
    return Examples(ids=ids, columns=columns, inputs=inputs, label=label, checksum=f"{prefix}-{count}")  # type: ignore[arg-type]


def mlp(features: int = 4, outputs: int = 3, *, dtype: torch.dtype = torch.float32) -> nn.Module:
    return nn.Sequential(nn.Linear(features, 8), nn.Tanh(), nn.Linear(8, outputs)).to(dtype)


class TwoInputs(nn.Module):
    """Reads two columns; the order matters."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(2, 3)
        self.right = nn.Linear(3, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.left(left) - self.right(right)


class Tokens(nn.Module):
    """Token numbers to classes, with embedding and output tied where asked."""

    def __init__(self, *, tied: bool = False, classes: int = 11) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 6)
        self.mix = nn.Linear(6, 6)
        self.out = nn.Linear(6, classes, bias=False)
        if tied:
            self.out.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(torch.tanh(self.mix(self.table(tokens).mean(dim=1))))


class Scaled(nn.Module):
    """Owns a parameter that it cannot draw anew."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.linear = nn.Linear(4, 3)

    def forward(self, values: Tensor) -> Tensor:
        return self.scale * self.linear(values)
