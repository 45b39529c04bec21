"""LogIX: ``grad_dot``, ``kfac``, ``ekfac``, and the latter two as ``..._drawn``, with the Fisher's labels drawn.

LogIX logs the gradients of weights, never those of biases. So that all sides have the same parameters, every bias
becomes a column of its weight that reads a constant 1. Its curvature is of whatever loss the caller differentiates:
as its examples do it, that is the training loss, so that the Fisher is the empirical one. ``..._drawn`` lets the
model draw the labels instead, for one pass over the data more. Without a damping, it takes a tenth of the mean
eigenvalue of the first layer, for all layers.
"""

import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from exchange import Job, serve
from logix import LogIX
from logix.utils import merge_logs
from network import loader, network, summed_loss
from torch import Tensor, nn

_GRADIENTS = {"grad": ["log"]}
_FACTORS = {"forward": ["covariance"], "backward": ["covariance"]}
_EIGENVALUES = {"grad": ["log", "corrected_eigval"]}
_PASSES = {
    "grad_dot": [_GRADIENTS],
    "kfac": [{**_FACTORS, **_GRADIENTS}],
    "kfac_drawn": [_FACTORS, _GRADIENTS],
    "ekfac": [_FACTORS, _EIGENVALUES],
    "ekfac_drawn": [_FACTORS, _EIGENVALUES, _GRADIENTS],
}
"""What each pass over the training examples collects; the last one saves the gradients."""


def compute(job: Job) -> Callable[[], np.ndarray]:
    """Collect, fit and score from the start each time, in a folder that is thrown away."""
    net = network(job)
    _join_biases(net)
    size = job.settings.get("batch", 250)
    passes = _PASSES[job.method]

    def work() -> np.ndarray:
        torch.manual_seed(job.settings.get("seed", 0))  # of the labels that are drawn for the Fisher
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
            logix = _watching(net, Path(folder))
            for number, collected in enumerate(passes):
                last = number == len(passes) - 1
                # A copy, because LogIX puts classes in place of the names.
                logix.setup({kind: list(names) for kind, names in collected.items()})
                logix.save(last)
                _log(logix, net, job.train, size, drawn=job.method.endswith("_drawn") and not last)
            # Once, because every call divides the sums by the number of examples again.
            logix.finalize()
            logix.eval()
            logix.setup({"grad": ["log"]})
            query = merge_logs(_log(logix, net, job.query, size, keep=True))
            found = logix.compute_influence_all(
                query,
                logix.build_log_dataloader(),
                precondition=job.method != "grad_dot",
                damping=job.settings.get("damping"),
            )
            # Its hooks stay on the network, where they would run in the next repetition as well.
            logix.clear()
        order = np.argsort([int(name) for name in found["tgt_ids"]])
        scores = found["influence"].numpy().T[order]
        # Its curvature is a mean over the examples, so that its influence is of a share of 1/n; ours is of one example.
        return scores if job.method == "grad_dot" else scores / len(job.train[1])

    return work


class _WithOne(nn.Module):
    """A linear layer whose bias is the weight of a 1 after the input."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.joined = nn.Linear(layer.in_features + 1, layer.out_features, bias=False)
        self.joined.weight = nn.Parameter(torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach())

    def forward(self, x: Tensor) -> Tensor:
        """``[... in]`` to ``[... out]``."""
        return self.joined(nn.functional.pad(x, (0, 1), value=1.0))


def _join_biases(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, _WithOne(child))
        else:
            _join_biases(child)


def _watching(net: nn.Module, folder: Path) -> LogIX:
    settings = folder / "settings.yaml"
    settings.write_text(f"root_dir: {folder / 'logs'}\n", encoding="utf-8")
    logix = LogIX("job", config=str(settings))
    logix.watch(net)
    return logix


def _log(
    logix: LogIX, net: nn.Module, pair: tuple, size: int, *, drawn: bool = False, keep: bool = False
) -> list[tuple]:
    """One pass over some examples; with ``keep``, their gradients."""
    logs = []
    for number, (inputs, labels) in enumerate(loader(pair, size)):
        names = [str(number * size + place) for place in range(len(labels))]
        with logix(data_id=names):
            net.zero_grad()
            logits = net(inputs)
            if drawn:
                chances = torch.softmax(logits.detach().flatten(0, -2), dim=-1)
                labels = torch.multinomial(chances, 1).view(labels.shape)
            summed_loss(logits, labels).sum().backward()
        if keep:
            logs.append(logix.get_log(copy=True))
    return logs


if __name__ == "__main__":
    serve("logix-ai", compute)
