"""A small attention network over sequences of different lengths, and a learner that tells them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelyard.records import Examples, Measurement

WORDS, HEADS, WIDTH = 17, 4, 16


class Attention(nn.Module):
    """Grouped-query attention, so that there are fewer heads of keys and values than of queries."""

    def __init__(self, key_value: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(WIDTH, WIDTH)
        self.k_proj = nn.Linear(WIDTH, WIDTH // HEADS * key_value)
        self.v_proj = nn.Linear(WIDTH, WIDTH // HEADS * key_value)
        self.o_proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor, seen: Tensor) -> Tensor:
        def heads(values: Tensor) -> Tensor:
            found = values.unflatten(2, (-1, WIDTH // HEADS)).transpose(1, 2)
            return found.repeat_interleave(HEADS // found.shape[1], 1)

        query, key, value = (heads(layer(hidden)) for layer in (self.q_proj, self.k_proj, self.v_proj))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class Reader(nn.Module):
    """Two layers of attention over words; predicts the next word."""

    def __init__(self, key_value: int = 2, *, tied: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"norm": nn.LayerNorm(WIDTH), "self_attn": Attention(key_value),
                           "mlp": nn.Linear(WIDTH, WIDTH)}) for _ in range(2)
        )  # fmt: skip
        self.output = nn.Linear(WIDTH, WORDS, bias=False)
        if tied:
            self.output.weight = self.words.weight

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        hidden = self.words(tokens)
        steps = tokens.shape[1]
        seen = torch.ones(steps, steps, dtype=torch.bool).tril()[None, None] & mask[:, None, None, :].bool()
        for layer in self.layers:
            normal = layer["norm"](hidden)
            hidden = hidden + layer["self_attn"](normal, seen)
            hidden = hidden + torch.tanh(layer["mlp"](hidden))
        return self.output(hidden)


@dataclass(frozen=True, eq=False)
class Sequences:
    """The least that the engine asks of a learner of sequences."""

    model: nn.Module
    measurement: Measurement = Measurement("loss", "nats", lower_is_better=True)

    def load(self, fitted: object) -> nn.Module:
        return self.model.eval()

    def lengths(self, examples: Examples) -> np.ndarray:
        return np.array([len(text) for text in examples.column("tokens")[:]])

    def batches(self, examples: Examples, size: int) -> Iterator[dict[str, Tensor]]:
        for part in examples.batches(size):
            texts = [torch.tensor(text) for text in part.column("tokens")[:]]
            ids = nn.utils.rnn.pad_sequence(texts, batch_first=True)
            mask = nn.utils.rnn.pad_sequence([torch.ones_like(text) for text in texts], batch_first=True)
            yield {"input_ids": ids, "attention_mask": mask}

    def loss_function(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        logits = model(batch["input_ids"], batch["attention_mask"])[:, :-1]
        losses = F.cross_entropy(logits.transpose(1, 2), batch["input_ids"][:, 1:], reduction="none")
        return (losses * batch["attention_mask"][:, 1:]).sum(1)

    def measurement_function(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return self.loss_function(model, batch)


def texts(count: int, prefix: str, *, seed: int, longest: int = 14) -> Examples:
    draw = np.random.default_rng(seed)
    tokens = np.empty(count, dtype=object)
    for i in range(count):
        tokens[i] = draw.integers(1, WORDS, draw.integers(2, longest)).tolist()
    ids = np.array([f"{prefix}{i}" for i in range(count)])
    return Examples(ids, {"tokens": tokens}, inputs=("tokens",), label=None, checksum=prefix)
