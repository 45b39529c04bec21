"""Gradients: products of per-example gradients beside the peers, and what collecting features costs.

    python -m benchmarks.gradients --peers

First table: grad-dot on a perceptron 784-128-64-10, 1,000 training examples by 100 queries of random data, as
in the published comparisons. Values must agree with captum and dattri to 1e-5 of the largest. Second table:
time to collect projected per-example gradients, as a multiple of one bare forward and backward pass of the
same batches (the pass that training makes), on a perceptron, a small convolutional network and a small
transformer.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

import steelyard as sy
from benchmarks.measure import Options, median_seconds, options, record, run, show
from benchmarks.networks import convolutional, perceptron, transformer
from benchmarks.runners.exchange import Job
from steelyard.gradients.signs import Projection

if TYPE_CHECKING:
    import torch

_DIMENSION = 512
_BATCH = 128


@dataclass(frozen=True)
class Side:
    """One implementation of grad-dot.

    Attributes:
        who: Name and version.
        method: What, with its settings.
        seconds: Median wall time.
        megabytes: Growth of peak memory.
        difference: Largest difference from ours, relative to the largest score.
    """

    who: str
    method: str
    seconds: float
    megabytes: float
    difference: float


def main(given: Options) -> None:
    """Both tables."""
    sides, floor = _products(given)
    ours = sides[0].seconds
    show(
        f"grad-dot, 784-128-64-10, 1,000 x 100, {given.threads} threads; floor = two products per layer, "
        f"{floor * 1000:.2f} ms",
        ("who", "method", "seconds", "x ours", "peak MB", "largest difference"),
        [(s.who, s.method, s.seconds, s.seconds / ours, s.megabytes, s.difference) for s in sides],
    )
    collected = [_collect(name, make, given) for name, make in _MODELS.items()]
    show(
        f"collecting {_DIMENSION} projected features per example or layer, batches of {_BATCH}; 1 = one bare "
        "forward and backward pass",
        ("model", "parameters", "bare ms", "two-sided", "dense", "factors alone"),
        collected,
    )
    names = ("model", "parameters", "bare_ms", "two_sided", "dense", "factors")
    record(
        "gradients",
        given,
        {
            "floor_seconds": floor,
            "grad_dot": [vars(side) for side in sides],
            "collection": [dict(zip(names, row, strict=True)) for row in collected],
        },
    )


def _products(given: Options) -> tuple[list[Side], float]:
    job = _job(given)
    ours = run("steelyard", job, None)
    answers = [("exact, from the factors", ours)]
    if given.peers:
        answers += [
            (
                "tracin, 1 checkpoint, batches of 250",
                run("captum", _as(job, "tracin", {"batch": 250}), given.peers),
            ),
            ("identity factors", run("kronfluence", _as(job, "identity", {"batch": 250}), given.peers)),
        ]
        for size in (50, 1000):
            for name, label in (
                ("grad_dot_sketched", "as it comes, 512-d sketch"),
                ("grad_dot", "sketch taken out"),
            ):
                answer = run("dattri", _as(job, name, {"batch": size}), given.peers)
                answers.append((f"{label}, batches of {size}", answer))
    scale = np.abs(ours.scores).max()
    sides = [
        Side(
            answer.software.partition(" (")[0],
            label,
            answer.median,
            answer.peak_bytes / 2**20,
            float(np.abs(answer.scores - ours.scores).max() / scale),
        )
        for label, answer in answers
    ]
    return sides, _floor(given)


def _job(given: Options) -> Job:
    import torch

    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    train, query = (100, 10) if given.reduced else (1000, 100)

    def pair(count: int) -> tuple[np.ndarray, np.ndarray]:
        return generator.normal(size=(count, 784)).astype(np.float32), generator.integers(0, 10, count)

    net, _ = perceptron(torch.Generator().manual_seed(0), 1)
    state = {name: values.detach().numpy() for name, values in net.state_dict().items()}
    return Job(
        "grad_dot", {}, pair(train), pair(query), (state,), threads=given.threads, repeats=given.repeats
    )


def _as(job: Job, method: str, settings: dict[str, Any]) -> Job:
    return replace(job, method=method, settings=settings)


def _floor(given: Options) -> float:
    """The least that exact products cost: per layer, one product of inputs and one of output gradients."""
    import torch

    train, query = (100, 10) if given.reduced else (1000, 100)
    widths = ((784, 128), (128, 64), (64, 10))
    sides = [
        tuple(torch.randn(count, width) for count in (train, query) for width in pair) for pair in widths
    ]

    def work() -> None:
        total = torch.zeros(train, query)
        for inputs, outputs, query_inputs, query_outputs in sides:
            total += (inputs @ query_inputs.T + 1) * (outputs @ query_outputs.T)

    return median_seconds(work, max(given.repeats, 11))


def _collect(name: str, make: Callable, given: Options) -> tuple[str, int, float, float, float, float]:
    """Cost of features of one network, in bare passes over the same batches; both are timed in turn."""
    import torch

    count = 2 * _BATCH if given.reduced else 4 * _BATCH
    net, (inputs, labels) = make(torch.Generator().manual_seed(0), count)
    learner = sy.learners.Torch(net, loss=sy.learners.Loss(_summed_loss), trained=True)
    examples = sy.read((inputs, labels))
    fitted = learner.explained(examples)
    from steelyard.gradients.engine import TorchGradients

    engine = TorchGradients(learner, fitted, batch_size=_BATCH)
    engine.coverage(examples)
    model = learner.load(fitted)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def bare() -> None:
        for batch in learner.batches(examples, _BATCH):
            torch.autograd.grad(_summed_loss(model, batch).sum(), parameters)

    def factors() -> None:
        for _ in engine.capture(examples, "loss"):
            pass

    two_sided = Projection(_DIMENSION, kind="two-sided")
    dense = Projection(_DIMENSION)
    works = (
        bare,
        lambda: engine.features(examples, two_sided),
        lambda: engine.features(examples, dense),
        factors,
    )
    seconds = _in_turn(works, max(given.repeats, 5))
    size = sum(p.numel() for p in parameters)
    return name, size, seconds[0] * 1000, *(seconds[k] / seconds[0] for k in (1, 2, 3))


def _in_turn(works: tuple[Callable[[], object], ...], repeats: int) -> list[float]:
    """Median seconds of each, taking turns, so that a change in the machine's speed touches all alike."""
    taken: list[list[float]] = [[] for _ in works]
    for work in works:
        work()
    for _ in range(repeats):
        for work, seconds in zip(works, taken, strict=True):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
    return [float(np.median(seconds)) for seconds in taken]


def _summed_loss(model: "torch.nn.Module", batch: "dict[str, torch.Tensor]") -> "torch.Tensor":
    """Cross-entropy of each example, summed over its tokens where it has several."""
    import torch

    logits, labels = model(batch["input"]), batch["label"]
    if logits.ndim == 2:
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(dim=1)


_MODELS = {"perceptron": perceptron, "convolutional": convolutional, "transformer": transformer}


if __name__ == "__main__":
    main(options(__doc__))
