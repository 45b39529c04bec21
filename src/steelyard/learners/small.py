"""Two small networks that train in seconds: the demos' own, and a starting point for tests and examples.

Both are ordinary ``nn.Module``s of the layers that the gradient engine reads without a fallback.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from steelyard.errors import DataError, SettingError
from steelyard.learners.torch_losses import Loss, drawn_classes

_WORDS = re.compile(r"\w+|[^\w\s]")
_EMBEDDING_STD = 0.1
PADDING, UNKNOWN = 0, 1
"""Tokens that every vocabulary begins with."""


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread meanwhile: networks this small only wait for the others.

    On a busy machine the waiting costs far more than the work.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def perceptron(*widths: int) -> nn.Module:
    """A multilayer perceptron with ReLU between linear layers; the input is flattened.

    Args:
        widths: Numbers of inputs, of hidden units layer by layer, and of outputs.

    Raises:
        SettingError: If there are fewer than two.

    Example:
        >>> sum(p.numel() for p in perceptron(64, 48, 32, 10).parameters())
        5018
    """
    if len(widths) < 2:
        raise SettingError(
            f"perceptron{widths}: expected inputs and outputs at least.", fix="perceptron(64, 32, 10)"
        )
    layers: list[nn.Module] = [nn.Flatten()]
    for i, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
        layers += [nn.Linear(before, after), *([nn.ReLU()] if i < len(widths) - 2 else [])]
    return nn.Sequential(*layers)


@dataclass(frozen=True)
class Vocabulary:
    """The most frequent words of a corpus, by number.

    Attributes:
        words: Words in the order of their numbers; the first two stand for padding and for all other words.
    """

    words: tuple[str, ...]

    @classmethod
    def of(cls, texts: Iterable[str], *, size: int) -> "Vocabulary":
        """The ``size`` most frequent lower-cased words and punctuation marks; ties in order of first use."""
        counts = Counter(word for text in texts for word in _split(text))
        return cls(("<padding>", "<other>", *(word for word, _ in counts.most_common(size - 2))))

    def encode(self, texts: Sequence[str] | np.ndarray, *, length: int) -> Int[np.ndarray, "text position"]:
        """Texts as token numbers, cut at ``length`` and padded with zeros.

        Raises:
            DataError: If a text has fewer than two tokens, so that nothing is left to predict.
        """
        number = {word: i for i, word in enumerate(self.words)}
        tokens = np.full((len(texts), length), PADDING, dtype=np.int64)
        for row, text in enumerate(texts):
            found = [number.get(word, UNKNOWN) for word in _split(text)][:length]
            if len(found) < 2:
                raise DataError(
                    f"text {row + 1} has {len(found)} tokens.", fix="drop texts of fewer than two words."
                )
            tokens[row, : len(found)] = found
        return tokens


class LanguageModel(nn.Module):
    """A causal transformer over word numbers: pre-norm blocks, learned positions, untied output layer.

    Args:
        vocabulary: Number of words.
        length: Longest text in tokens.
        width: Size of the hidden states.
        heads: Attention heads per block.
        blocks: Number of blocks.

    Raises:
        SettingError: If the heads do not divide the width.
    """

    def __init__(
        self, vocabulary: int, *, length: int, width: int = 48, heads: int = 4, blocks: int = 1
    ) -> None:
        super().__init__()
        if width % heads:
            raise SettingError(
                f"width {width} does not divide by {heads} heads.", fix="choose heads that divide it."
            )
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, vocabulary, bias=False)
        for table in (self.words, self.positions):
            nn.init.normal_(table.weight, std=_EMBEDDING_STD)

    def forward(self, tokens: Int[Tensor, "text position"]) -> Float[Tensor, "text position word"]:
        """Logits of the next word after every position."""
        places = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        hidden = self.words(tokens) + self.positions(places)
        for block in self.blocks:
            hidden = block(hidden)
        return self.output(self.norm(hidden))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, hidden: Tensor) -> Tensor:
        texts, positions, width = hidden.shape
        parts = self.attend(self.before_attention(hidden)).view(texts, positions, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # [text, head, position, head width]
        seen = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.mix(seen.transpose(1, 2).reshape(texts, positions, width))
        return hidden + self.narrow(nn.functional.gelu(self.widen(self.before_perceptron(hidden))))


def next_word_loss() -> Loss:
    """Mean negative log-likelihood of a text's words after the first, in nats per word, without padding."""
    return Loss(_mean_over_words, unit="nats", sampled=_sampled_over_words)


def _mean_over_words(model: nn.Module, batch: Mapping[str, Tensor]) -> Float[Tensor, " text"]:
    tokens = batch["tokens"]
    known = tokens[:, 1:] != PADDING
    return _summed(model(tokens[:, :-1]), tokens[:, 1:], known) / known.sum(1)


def _sampled_over_words(
    model: nn.Module, batch: Mapping[str, Tensor], generator: torch.Generator
) -> Float[Tensor, " text"]:
    tokens = batch["tokens"]
    known = tokens[:, 1:] != PADDING
    logits = model(tokens[:, :-1])
    drawn = drawn_classes(logits.flatten(0, 1), generator).view_as(known)
    # Words are drawn independently, so variances add: 1/sqrt(T) where the mean over T words has 1/T.
    return _summed(logits, drawn, known) / known.sum(1).sqrt()


def _summed(logits: Tensor, words: Tensor, known: Tensor) -> Float[Tensor, " text"]:
    losses = nn.functional.cross_entropy(logits.transpose(1, 2), words, reduction="none")
    return (losses * known).sum(1)


def _split(text: str) -> list[str]:
    return _WORDS.findall(text.lower())
