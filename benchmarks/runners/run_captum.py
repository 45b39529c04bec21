"""captum: ``tracin``, TracInCP over the job's models, each weighted by its learning rate (1 if not given)."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from captum.influence import TracInCP
from exchange import Job, serve
from network import dataset, network


def compute(job: Job) -> Callable[[], np.ndarray]:
    """Captum's fast mode: sample-wise gradients from one backward pass per batch."""
    net = network(job)
    rates = job.settings.get("learning_rates", [1.0] * len(job.states))
    folder = Path(tempfile.mkdtemp())
    paths = []
    for number in range(len(job.states)):
        paths.append(str(folder / f"{number}.pt"))
        torch.save(network(job, number).state_dict(), paths[-1])

    def load(model: torch.nn.Module, path: str) -> float:
        model.load_state_dict(torch.load(path, weights_only=True))
        return rates[paths.index(path)]

    queries = tuple(torch.from_numpy(values) for values in job.query)

    def work() -> np.ndarray:
        explainer = TracInCP(
            net,
            dataset(job.train),
            paths,
            checkpoints_load_func=load,
            loss_fn=torch.nn.CrossEntropyLoss(reduction="sum"),
            batch_size=job.settings.get("batch", 250),
            sample_wise_grads_per_batch=True,
        )
        return explainer.influence(queries).numpy().T

    return work


if __name__ == "__main__":
    serve("captum", compute)
