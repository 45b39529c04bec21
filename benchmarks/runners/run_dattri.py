"""dattri: ``grad_dot``, ``grad_dot_sketched`` (its default), ``ekfac``, ``trak``, ``knn_shapley``."""

from collections.abc import Callable

import numpy as np
import torch
from dattri.algorithm import IFAttributorEKFAC, KNNShapleyAttributor, TracInAttributor, TRAKAttributor
from dattri.task import AttributionTask
from exchange import Job, serve
from network import loader, network, summed_loss
from torch.utils.data import DataLoader


def compute(job: Job) -> Callable[[], np.ndarray]:
    """Build the attributor that the method names, with the task it needs."""
    torch.set_num_threads(job.threads)
    size = job.settings.get("batch", 250)
    train, query = loader(job.train, size), loader(job.query, size)
    if job.method == "knn_shapley":
        return lambda: KNNShapleyAttributor(job.settings["k"]).attribute(train, query).numpy().T
    net = network(job)
    states = [network(job, number).state_dict() for number in range(len(job.states))]
    if job.method == "ekfac":
        return _ekfac(job, train, query)
    if job.method == "trak":
        return _trak(job, AttributionTask(_log_odds(net), net, states), net)
    return _tracin(job, AttributionTask(_example_loss(net), net, states))


def _example_loss(net: torch.nn.Module) -> Callable:
    def loss(params: dict, pair: tuple) -> torch.Tensor:
        logits = torch.func.functional_call(net, params, pair[0].unsqueeze(0))
        return summed_loss(logits, pair[1].unsqueeze(0)).sum()

    return loss


def _batch_loss(net: torch.nn.Module) -> Callable:
    def loss(params: dict, pair: tuple) -> torch.Tensor:
        inputs, labels = pair
        if inputs.dim() == 1:  # the attributor asks about a batch, and about one example of it
            inputs, labels = inputs.unsqueeze(0), labels.unsqueeze(0)
        return summed_loss(torch.func.functional_call(net, params, inputs), labels).mean()

    return loss


def _log_odds(net: torch.nn.Module) -> Callable:
    def output(params: dict, pair: tuple) -> torch.Tensor:
        logits = torch.func.functional_call(net, params, pair[0].unsqueeze(0))
        loss = torch.nn.functional.cross_entropy(logits, pair[1].unsqueeze(0))
        return -loss - torch.log1p(-torch.exp(-loss))

    return output


def _ekfac(job: Job, train: DataLoader, query: DataLoader) -> Callable[[], np.ndarray]:
    def work() -> np.ndarray:
        # A new task each time: a second `cache` on the same one fails, because parameters no longer require gradients.
        net = network(job)
        task = AttributionTask(_batch_loss(net), net, net.state_dict())
        attributor = IFAttributorEKFAC(task, damping=job.settings["damping"])
        attributor.cache(train)
        with torch.no_grad():
            return attributor.attribute(train, query).numpy()

    return work


def _tracin(job: Job, task: AttributionTask) -> Callable[[], np.ndarray]:
    rates = torch.tensor(job.settings.get("learning_rates", [1.0] * len(job.states)))
    size = job.settings.get("batch", 250)

    def work() -> np.ndarray:
        attributor = TracInAttributor(
            task, weight_list=rates, normalized_grad=job.settings.get("cosine", False)
        )
        if job.method != "grad_dot_sketched":
            attributor.projector_kwargs = None  # its constructor offers no way to ask for exact products
        with torch.no_grad():
            return attributor.attribute(loader(job.train, size), loader(job.query, size)).numpy()

    return work


def _trak(job: Job, task: AttributionTask, net: torch.nn.Module) -> Callable[[], np.ndarray]:
    size = job.settings.get("batch", 250)

    def probability(params: dict, pair: tuple) -> torch.Tensor:
        logits = torch.func.functional_call(net, params, pair[0].unsqueeze(0))
        return torch.exp(-torch.nn.functional.cross_entropy(logits, pair[1].unsqueeze(0)))

    def work() -> np.ndarray:
        attributor = TRAKAttributor(
            task, probability, projector_kwargs={"proj_dim": job.settings["dimension"]}, regularization=1e-6
        )
        with torch.no_grad():
            attributor.cache(loader(job.train, size))
            return attributor.attribute(loader(job.query, size)).numpy()

    return work


if __name__ == "__main__":
    serve("dattri", compute)
