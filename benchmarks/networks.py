"""The three small networks that collection is timed on, with random data of the right shape."""

import torch
from torch import Tensor, nn

from benchmarks.runners.transformer import Transformer

Data = tuple[Tensor, Tensor]
_VOCABULARY = 1000


def perceptron(generator: torch.Generator, count: int) -> tuple[nn.Module, Data]:
    """784-128-64-10 with ReLU: 0.11 million parameters."""
    net = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    inputs = torch.randn(count, 784, generator=generator)
    return net.eval(), (inputs, torch.randint(0, 10, (count,), generator=generator))


def convolutional(generator: torch.Generator, count: int) -> tuple[nn.Module, Data]:
    """Three convolutions and a linear layer on 28 x 28 images: 0.06 million parameters."""
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(1024, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )
    inputs = torch.randn(count, 1, 28, 28, generator=generator)
    return net.eval(), (inputs, torch.randint(0, 10, (count,), generator=generator))


def transformer(generator: torch.Generator, count: int) -> tuple[nn.Module, Data]:
    """Two layers of width 128 on 64 tokens: 0.66 million parameters."""
    length = 64
    text = torch.randint(0, _VOCABULARY, (count, length + 1), generator=generator)
    return Transformer(_VOCABULARY, width=128, heads=4, layers=2, length=length).eval(), (
        text[:, :-1].contiguous(),
        text[:, 1:].contiguous(),
    )
