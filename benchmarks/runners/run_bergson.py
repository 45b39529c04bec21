"""bergson: ``grad_dot``, ``kfac`` and ``ekfac`` of texts.

Its commands take whole ``transformers`` models and start processes; the functions behind them take a module that looks
like one, and run on a CPU. Biases are included, which they are not as it comes. Its damping as it comes is ours: a
tenth of the mean eigenvalue of each layer.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from bergson import CollectorComputer, GradientProcessor, IndexConfig, InMemoryCollector, Scorer
from bergson.config.config import HessianConfig
from bergson.hessians.hessian_approximations import fit_factored_hessians
from bergson.hessians.preconditioner import FactoredPreconditioner
from bergson.score.score_writer import InMemorySequenceScoreWriter
from datasets import Dataset
from exchange import Job, serve
from network import network
from torch import Tensor, nn


class _Output:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class _LanguageModel(nn.Module):
    """What bergson asks of a ``transformers`` model: device, number type, logits by name."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    @property
    def base_model(self) -> nn.Module:
        """Where its hooks look for layers; the head is among them here."""
        return self

    def forward(self, tokens: Tensor) -> _Output:
        """``[batch, position]`` to an object with ``logits``."""
        return _Output(self.net(tokens))


def compute(job: Job) -> Callable[[], np.ndarray]:
    """Gradients of the queries, the factors, then scores on the way through the training examples."""
    model = _LanguageModel(network(_one_place_more(job)))
    size = job.settings.get("batch", 32)
    train, query = _texts(job.train), _texts(job.query)

    def work() -> np.ndarray:
        torch.manual_seed(job.settings.get("seed", 0))  # of the labels that it draws for the Fisher
        with tempfile.TemporaryDirectory() as folder:
            settings = IndexConfig(run_path=folder + "/run", include_bias=True)
            settings.partial_run_path.mkdir()
            asked = _pass(model, query, settings, size).gradients
            if job.method != "grad_dot":
                asked = _preconditioned(asked, model, train, settings, size, corrected=job.method == "ekfac")
            writer = InMemorySequenceScoreWriter(len(train), len(query), dtype=torch.float32)
            scorer = Scorer(asked, list(asked), writer, model.device, torch.float32)
            _pass(model, train, settings, size, scorer)
            scores = np.asarray(writer.scores)
        # Its curvature is a mean over the examples, so that its influence is of a share of 1/n; ours is of one example.
        return scores if job.method == "grad_dot" else scores / len(train)

    return work


def _pass(
    model: nn.Module, texts: Dataset, settings: IndexConfig, size: int, scorer: Scorer | None = None
) -> InMemoryCollector:
    processor = GradientProcessor(include_bias=True)
    collector = InMemoryCollector(model=model, data=texts, cfg=settings, processor=processor, scorer=scorer)
    computer = CollectorComputer(
        model, texts, collector=collector, batches=_batches(texts, size), cfg=settings
    )
    computer.run_with_collector_hooks("texts")
    return collector


def _preconditioned(
    gradients: dict[str, Tensor],
    model: nn.Module,
    texts: Dataset,
    settings: IndexConfig,
    size: int,
    *,
    corrected: bool,
) -> dict[str, Tensor]:
    folder = str(settings.partial_run_path)
    fit_factored_hessians(
        model,
        texts,
        settings,
        HessianConfig(method="kfac", ev_correction=corrected),
        target_modules=None,
        attention_cfgs={},
        batches=_batches(texts, size),
        path=folder,
        do_eigendecomposition=True,
    )
    return FactoredPreconditioner.from_path(folder, ev_correction=corrected).apply(gradients)


def _batches(texts: Dataset, size: int) -> list[list[int]]:
    return [list(range(low, min(low + size, len(texts)))) for low in range(0, len(texts), size)]


def _one_place_more(job: Job) -> Job:
    """It reads the last word too, whose logits it drops; the embedding of its place does not matter."""
    state = dict(job.states[0])
    places = state["positions.weight"]
    state["positions.weight"] = np.concatenate([places, np.zeros_like(places[:1])])
    return replace(job, states=(state,))


def _texts(pair: tuple[np.ndarray, np.ndarray]) -> Dataset:
    words = np.concatenate([pair[0], pair[1][:, -1:]], axis=1)
    return Dataset.from_dict({"input_ids": words.tolist(), "length": [words.shape[1]] * len(words)})


if __name__ == "__main__":
    serve("bergson", compute)
