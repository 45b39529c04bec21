"""A tiny language model beside the peers: EK-FAC and grad-dot of sequences, with the same parameters on every side.

    python -m benchmarks.language --peers

A transformer of two layers and width 128 with 1,000 words and texts of 64 words, 256 for training and 32 as queries,
trained for a moment on random texts with a pattern in them. Only linear layers are scored, because the peers score no
others. Products must agree to 1e-5 of the largest. EK-FACs differ by the labels that they draw for the Fisher; their
agreement is Pearson's correlation with ours under the same damping rule. Of two batch sizes, the faster is shown.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.measure import Options, median_seconds, options, record, run, show
from benchmarks.runners.exchange import Answer, Job
from benchmarks.runners.transformer import Transformer

_WORDS, _LENGTH, _WIDTH, _HEADS, _LAYERS = 1000, 64, 128, 4, 2
_BATCHES = (32, 128)
_STEPS = 100


def main(given: Options) -> None:
    """One table for grad-dot, one for EK-FAC."""
    import torch

    torch.set_num_threads(given.threads)
    job = _job(given)
    floor = _floor(job, given.repeats)
    results: dict[str, Any] = {"floor_seconds": floor}
    for name, peers in _PEERS.items():
        ours = run("steelyard", replace(job, method=name), None)
        answers = [("steelyard", name, ours)]
        if given.peers:
            answers += [_best(job, who, method, settings, given) for who, method, settings in peers]
        rows = [_row(who, label, answer, ours, floor) for who, label, answer in answers]
        show(
            f"{name}: transformer of {_LAYERS} layers, {len(job.train[0])} x {len(job.query[0])} texts of {_LENGTH} "
            f"words, {given.threads} threads; floor = one bare forward and backward pass over all texts, "
            f"{floor * 1000:.0f} ms",
            tuple(rows[0]),
            [tuple(row.values()) for row in rows],
        )
        results[name] = rows
    record("language", given, results)


_PEERS: dict[str, tuple[tuple[str, str, dict[str, Any]], ...]] = {
    "grad_dot": (
        ("kronfluence", "identity", {}),
        ("dattri", "grad_dot", {}),
        ("dattri", "grad_dot_sketched", {}),
    ),
    "ekfac": (("kronfluence", "ekfac", {"damping": None}), ("dattri", "ekfac", {"damping": 1e-3})),
}
"""Who, their method, its settings; kronfluence's damping of None is a tenth of the mean eigenvalue, as ours."""


def _best(
    job: Job, who: str, method: str, settings: dict[str, Any], given: Options
) -> tuple[str, str, Answer]:
    """The faster of the batch sizes."""
    answers = [
        (run(who, replace(job, method=method, settings={**settings, "batch": size}), given.peers), size)
        for size in _BATCHES
    ]
    answer, size = min(answers, key=lambda pair: pair[0].median)
    return who, f"{method}, batches of {size}", answer


def _row(who: str, label: str, answer: Answer, ours: Answer, floor: float) -> dict[str, Any]:
    scale = np.abs(ours.scores).max()
    return {
        "who": who,
        "method": label,
        "seconds": answer.median,
        "x ours": answer.median / ours.median,
        "x floor": answer.median / floor,
        "peak MB": answer.peak_bytes / 2**20,
        "Pearson with ours": float(np.corrcoef(answer.scores.ravel(), ours.scores.ravel())[0, 1]),
        "largest difference": float(np.abs(answer.scores - ours.scores).max() / scale),
    }


def _job(given: Options) -> Job:
    train, query = (24, 4) if given.reduced else (256, 32)
    generator = np.random.default_rng(0)
    texts = _texts(train + query, generator)
    state = _trained(texts[:train], 2 if given.reduced else _STEPS)
    x, y = texts[:, :-1].copy(), texts[:, 1:].copy()
    repeats = 1 if given.reduced else given.repeats
    return Job(
        "",
        {},
        (x[:train], y[:train]),
        (x[train:], y[train:]),
        (state,),
        threads=given.threads,
        repeats=repeats,
    )


def _texts(count: int, generator: np.random.Generator) -> np.ndarray:
    """Walks over the words with a step of each text's own and some noise: there is something to learn."""
    start = generator.integers(0, _WORDS, (count, 1))
    step = generator.integers(1, 8, (count, 1))
    noise = generator.integers(0, 3, (count, _LENGTH + 1))
    return (start + step * np.arange(_LENGTH + 1) + noise) % _WORDS


def _trained(texts: np.ndarray, steps: int) -> dict[str, np.ndarray]:
    import torch

    torch.manual_seed(0)
    net = Transformer(_WORDS, width=_WIDTH, heads=_HEADS, layers=_LAYERS, length=_LENGTH)
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    words = torch.from_numpy(texts)
    for step in range(steps):
        batch = words[(torch.arange(16) + 16 * step) % len(words)]
        loss = torch.nn.functional.cross_entropy(net(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {name: values.detach().numpy() for name, values in net.state_dict().items()}


def _floor(job: Job, repeats: int) -> float:
    """Forward and backward over training examples and queries, as training does it."""
    import torch

    net = Transformer(_WORDS, width=_WIDTH, heads=_HEADS, layers=_LAYERS, length=_LENGTH)
    parameters = list(net.parameters())
    batches = [
        (torch.from_numpy(x[low : low + 32]), torch.from_numpy(y[low : low + 32]))
        for x, y in (job.train, job.query)
        for low in range(0, len(x), 32)
    ]

    def work() -> None:
        for x, y in batches:
            loss = torch.nn.functional.cross_entropy(net(x).flatten(0, 1), y.flatten(), reduction="sum")
            torch.autograd.grad(loss, parameters)

    return median_seconds(work, repeats)


if __name__ == "__main__":
    main(options(__doc__))
