"""Weights within a batch by self-influence: first what is new to the model, then what it can rely on (PRESENCE)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TwoStages:
    """A hook for ``Torch.reweighing``: factors of micro-batches by the length of their gradients.

    A batch is cut into micro-batches; the self-influence of each is the squared length of its mean gradient. With z the
    standardised logarithms of these within the batch, factors go as exp(z / temperature) in the first stage of the
    training and as exp(-z / temperature) in the second, with a mean of 1 over the batch, and are at most ``cap``.

    Attributes:
        switch: Share of the steps after which the second stage begins.
        micro: Examples per micro-batch.
        temperature: Small ones let few micro-batches have all the weight.
        cap: Largest factor; where one would be larger, all are drawn towards 1.
    """

    switch: float = 0.5
    micro: int = 4
    temperature: float = 1.0
    cap: float = 4.0

    def __call__(self, losses: Tensor, parameters: Sequence[Tensor], share: float) -> Tensor:
        """Factors of the examples of a batch."""
        parts = list(losses.split(self.micro))
        sizes = torch.tensor([len(part) for part in parts], dtype=losses.dtype, device=losses.device)
        lengths = torch.stack([_squared(part.mean(), parameters) for part in parts])
        logs = torch.log(lengths + torch.finfo(losses.dtype).tiny)
        spread = logs.std(correction=0)
        standard = (logs - logs.mean()) / (spread if spread > 0 else 1.0)
        sign = 1.0 if share < self.switch else -1.0
        # Of micro-batches of unequal size, so that the mean over examples is 1.
        scores = sign * standard / self.temperature
        factors = torch.exp(scores - scores.max())
        factors = factors * (sizes.sum() / (factors * sizes).sum())
        highest = float(factors.max())
        if highest > self.cap:
            # Drawn towards 1, which leaves the mean as it is.
            factors = 1 + (factors - 1) * ((self.cap - 1) / (highest - 1))
        return torch.repeat_interleave(factors, sizes.long())


def _squared(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    grads = torch.autograd.grad(loss, list(parameters), retain_graph=True, allow_unused=True)
    return torch.stack([grad.square().sum() for grad in grads if grad is not None]).sum()
