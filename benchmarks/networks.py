"""The three small networks that collection is timed on, with random data of the right shape."""

import torch
from torch import Tensor, nn

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


class Block(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.joint, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, position, width]`` to the same."""
        batch, length, width = x.shape
        parts = self.joint(self.before(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(nn.functional.gelu(self.up(self.between(x))))


class Transformer(nn.Module):
    """A causal language model: embeddings of token and position, blocks, a head."""

    def __init__(self, width: int, heads: int, layers: int, length: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(_VOCABULARY, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, _VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[batch, position]`` to logits ``[batch, position, token]``."""
        places = torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1)
        return self.head(self.norm(self.blocks(self.tokens(tokens) + self.positions(places))))


def transformer(generator: torch.Generator, count: int) -> tuple[nn.Module, Data]:
    """Two layers of width 128 on 64 tokens: 0.66 million parameters."""
    length = 64
    text = torch.randint(0, _VOCABULARY, (count, length + 1), generator=generator)
    return Transformer(128, 4, 2, length).eval(), (text[:, :-1].contiguous(), text[:, 1:].contiguous())
