"""Small models of every shape that the gradient engine must get right, and a minimal learner around them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelyard.records import Examples, Measurement


@dataclass(frozen=True, eq=False)
class Plain:
    """The least that the engine asks of a learner: cross-entropy on ``input`` and ``label``."""

    model: nn.Module
    measurement: Measurement = Measurement("loss", "nats", lower_is_better=True)

    def load(self, fitted: object) -> nn.Module:
        return self.model.eval()

    def batches(self, examples: Examples, size: int) -> Iterator[dict[str, Tensor]]:
        for part in examples.batches(size):
            yield {key: torch.from_numpy(np.array(part.column(key)[:])) for key in ("input", "label")}

    def loss_function(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(model(batch["input"]), batch["label"], reduction="none")

    def measurement_function(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return self.loss_function(model, batch)

    def output_function(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return model(batch["input"])

    def output_hessian_factor(self, outputs: Tensor, batch: dict[str, Tensor]) -> Tensor:
        p = outputs.softmax(-1)
        return torch.diag_embed(p.sqrt()) - p[:, :, None] * p.sqrt()[:, None, :]

    def sampled_loss_function(
        self, model: nn.Module, batch: dict[str, Tensor], generator: torch.Generator
    ) -> Tensor:
        logits = model(batch["input"])
        labels = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
        return F.cross_entropy(logits, labels, reduction="none")


def examples(inputs: Tensor, labels: Tensor, prefix: str = "e") -> Examples:
    ids = np.array([f"{prefix}{i}" for i in range(len(inputs))])
    columns = {"input": inputs.numpy(), "label": labels.numpy()}
    return Examples(ids=ids, columns=columns, inputs=("input",), label="label", checksum=prefix)


class Transformer(nn.Module):
    """Tokens to class; the switches are the ways in which real code differs."""

    def __init__(self, *, positions: str = "arange", tied: bool = False, batch_first: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(13, 8, padding_idx=0)
        self.positions = positions
        self.batch_first = batch_first
        if positions == "arange":
            self.place = nn.Embedding(6, 8)
        else:
            self.offset = nn.Parameter(torch.randn(6, 8) * 0.1)
        self.norm = nn.LayerNorm(8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=batch_first)
        self.head = nn.Linear(8, 13 if tied else 3, bias=not tied)
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = x + (self.place(torch.arange(tokens.shape[1])) if self.positions == "arange" else self.offset)
        x = self.norm(x)
        x = self.layer(x) if self.batch_first else self.layer(x.transpose(0, 1)).transpose(0, 1)
        return self.head(x.mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(13, 4)
        self.lstm = nn.GRU(4, 5, batch_first=True)
        self.head = nn.Linear(5, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.lstm(self.embed(tokens))[0][:, -1])


class Twice(nn.Module):
    """One layer called twice, one weight used behind the back of its module."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Linear(5, 6), nn.Linear(6, 6)
        self.secret, self.head = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        x = torch.tanh(self.again(torch.tanh(self.again(x))))
        x = F.linear(x, self.secret.weight) + self.secret(x)
        return self.head(x)


def cases() -> dict[str, tuple[nn.Module, Tensor, int]]:
    """Name to model, inputs, number of classes."""
    torch.manual_seed(0)
    flat, image, signal = torch.randn(11, 5), torch.randn(11, 2, 7, 7), torch.randn(11, 2, 9)
    tokens = torch.randint(0, 13, (11, 6))
    mlp = nn.Sequential(
        nn.Linear(5, 7), nn.ReLU(inplace=True), nn.Linear(7, 4, bias=False), nn.Tanh(), nn.Linear(4, 3)
    )
    frozen = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    frozen[0].weight.requires_grad_(False)
    frozen[2].bias.requires_grad_(False)
    cnn = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.GroupNorm(2, 4), nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, groups=2, padding="same"), nn.BatchNorm2d(4), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip
    with torch.no_grad():
        cnn(image * 3 + 1)  # running statistics away from their start
    conv1d = nn.Sequential(
        nn.Conv1d(2, 3, 3, dilation=2, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(15, 3)
    )
    norms = nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Tanh(), nn.RMSNorm(6), nn.Linear(6, 3))
    return {
        "mlp": (mlp, flat, 3),
        "frozen": (frozen, flat, 3),
        "cnn": (cnn, image, 3),
        "conv1d": (conv1d, signal, 3),
        "norms": (norms, flat, 3),
        "transformer": (Transformer(), tokens, 3),
        "positions": (Transformer(positions="parameter"), tokens, 3),
        "tied": (Transformer(tied=True), tokens, 13),
        "sequence_first": (Transformer(batch_first=False), tokens, 3),
        "recurrent": (Recurrent(), tokens, 3),
        "twice": (Twice(), flat, 3),
    }
