"""Small language models beside the peers: EK-FAC and grad-dot of sequences, with the same parameters on every side.

    python -m benchmarks.language --peers

Transformers on texts of 64 words, trained for a moment on random texts with a pattern in them. Only linear layers are
scored, because the peers score no others. Products must agree to 1e-5 of the largest. EK-FACs differ by the labels that
they draw for the Fisher; their agreement is Pearson's correlation with ours under the same damping rule. LogIX takes
the true labels unless they are drawn for it (``ekfac_drawn``), and the first layer's damping for all layers. Of two
batch sizes, the faster is shown. A peer that stops with an error is shown with that error instead of a line.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.measure import Options, median_seconds, options, record, run, show
from benchmarks.runners.exchange import Answer, Job
from benchmarks.runners.transformer import Transformer

_LENGTH, _HEADS = 64, 4
_BATCHES = (32, 128)
_STEPS = 100


@dataclass(frozen=True)
class Size:
    """A model and its texts."""

    words: int
    width: int
    layers: int
    train: int
    query: int


_SIZES = {
    "tiny": Size(512, 32, 1, 600, 40),
    "tiny, more queries": Size(512, 32, 1, 600, 200),
    "small": Size(1000, 128, 2, 256, 32),
}
_REDUCED = {"tiny": Size(64, 32, 1, 24, 4)}


def main(given: Options) -> None:
    """Per model, one table for grad-dot and one for EK-FAC."""
    results = {
        name: _tables(name, size, given) for name, size in (_REDUCED if given.reduced else _SIZES).items()
    }
    record("language", given, results)


def _tables(name: str, size: Size, given: Options) -> dict[str, Any]:
    job = _job(size, given)
    floor = _floor(size, job, given.repeats)
    about = (
        f"{size.layers} layers of width {size.width}, {size.words:,} words, "
        f"{size.train} x {size.query} texts of {_LENGTH} words"
    )
    results: dict[str, Any] = {"about": about, "floor_seconds": floor, "stopped": []}
    for method, peers in _PEERS.items():
        ours = run("steelyard", replace(job, method=method), None)
        answers = [("steelyard", method, ours)]
        for who, theirs, settings in peers if given.peers else ():
            try:
                answers.append(_best(job, who, theirs, settings, given))
            except RuntimeError as error:
                said = str(error).strip().splitlines()[-1]
                print(f"\n{who} {theirs} stopped: {said}")
                results["stopped"].append({"who": who, "method": theirs, "error": said})
        rows = [_row(who, label, answer, ours, floor) for who, label, answer in answers]
        show(
            f"{method}: {name} transformer of {about}, {given.threads} threads; floor = one bare forward and backward "
            f"pass over all texts, {floor * 1000:.0f} ms",
            tuple(rows[0]),
            [tuple(row.values()) for row in rows],
        )
        results[method] = rows
    return results


_PEERS: dict[str, tuple[tuple[str, str, dict[str, Any]], ...]] = {
    "grad_dot": (
        ("kronfluence", "identity", {}),
        ("dattri", "grad_dot", {}),
        ("dattri", "grad_dot_sketched", {}),
        ("logix", "grad_dot", {}),
        ("bergson", "grad_dot", {}),
    ),
    "ekfac": (
        ("kronfluence", "ekfac", {"damping": None}),
        ("dattri", "ekfac", {"damping": 1e-4}),
        ("logix", "ekfac", {}),
        ("logix", "ekfac_drawn", {}),
        ("bergson", "ekfac", {}),
    ),
}
"""Who, their method, its settings; kronfluence's damping of None is a tenth of the mean eigenvalue, as ours."""


def _best(
    job: Job, who: str, method: str, settings: dict[str, Any], given: Options
) -> tuple[str, str, Answer]:
    """The faster of the batch sizes, told apart by one run of each."""
    jobs = [replace(job, method=method, settings={**settings, "batch": size}, repeats=1) for size in _BATCHES]
    seconds = [run(who, asked, given.peers).median for asked in jobs]
    best = int(np.argmin(seconds))
    answer = run(who, replace(jobs[best], repeats=job.repeats), given.peers)
    return who, f"{method}, batches of {_BATCHES[best]}", answer


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


def _job(size: Size, given: Options) -> Job:
    texts = _texts(size, np.random.default_rng(0))
    state = _trained(size, texts[: size.train], 2 if given.reduced else _STEPS)
    x, y = texts[:, :-1].copy(), texts[:, 1:].copy()
    train, query = slice(0, size.train), slice(size.train, None)
    repeats = 1 if given.reduced else given.repeats
    return Job(
        "", {}, (x[train], y[train]), (x[query], y[query]), (state,), threads=given.threads, repeats=repeats
    )


def _texts(size: Size, generator: np.random.Generator) -> np.ndarray:
    """Walks over the words with a step of each text's own and some noise: there is something to learn."""
    count = size.train + size.query
    start = generator.integers(0, size.words, (count, 1))
    step = generator.integers(1, 8, (count, 1))
    noise = generator.integers(0, 3, (count, _LENGTH + 1))
    return (start + step * np.arange(_LENGTH + 1) + noise) % size.words


def _network(size: Size) -> Transformer:
    return Transformer(size.words, width=size.width, heads=_HEADS, layers=size.layers, length=_LENGTH)


def _trained(size: Size, texts: np.ndarray, steps: int) -> dict[str, np.ndarray]:
    import torch

    torch.manual_seed(0)
    net = _network(size)
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    words = torch.from_numpy(texts)
    for step in range(steps):
        batch = words[(torch.arange(16) + 16 * step) % len(words)]
        loss = torch.nn.functional.cross_entropy(net(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {name: values.detach().numpy() for name, values in net.state_dict().items()}


def _floor(size: Size, job: Job, repeats: int) -> float:
    """Forward and backward over training examples and queries, as training does it."""
    import torch

    net = _network(size)
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
