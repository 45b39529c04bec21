"""Refits: many small networks trained side by side, and shorter ways for ridge, logistic regression and neighbours.

    python -m benchmarks.refits

Networks: a perceptron 64-48-32-10 on digits (1,000 training examples, SGD with momentum 0.9, batches of 50, 30
epochs). Three ways to the same models: a plain PyTorch loop without any of our code, our own loop one fit at a time
(``learner.fit``), and side by side. All begin at the same parameters and see the same batches, so that what they
measure on 150 queries can be compared; the plain loop differs from the others by rounding only, and so do we.

Scikit-learn: leave-one-out and half subsets of the same digits, by a loop of the estimator's own fits and by
``outcomes``.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import steelyard as sy
from benchmarks import digits
from benchmarks.measure import Options, median_seconds, options, record, show
from steelyard.collect.fits import outcomes
from steelyard.run import in_memory, stream

_MOMENTUM, _RATE, _BATCH = 0.9, 0.05, 50


def main(given: Options) -> None:
    """All three tables."""
    size = digits.REDUCED if given.reduced else digits.FULL
    networks = _networks(size, given)
    fits = _many(size, 8 if given.reduced else 240)
    shortcuts = [_shortcut(*case, size, given) for case in _cases()]
    record("refits", given, {"networks": networks, "fits": fits, "shortcuts": shortcuts})


def _networks(size: digits.Size, given: Options) -> list[dict[str, Any]]:
    asked = digits.problem(size)
    learner: Any = asked.learner
    count = 4 if given.reduced else 32
    weights = _without_one(count, size.train)
    seeds = [stream(asked.seed, "scoring", k) for k in range(count)]
    train, query = asked.train, asked.query
    some = slice(0, min(4, count))  # the loops are timed on a few: each fit takes as long as the next

    def alone() -> np.ndarray:
        pairs = zip(weights[some], seeds[some], strict=True)
        return np.stack([learner.measure(learner.fit(train, w, seed), query) for w, seed in pairs])

    def plain() -> np.ndarray:
        pairs = zip(weights[some], seeds[some], strict=True)
        return np.stack([_plain_fit(asked, w, seed, size) for w, seed in pairs])

    def together() -> np.ndarray:
        return learner.measure_together(train, weights, seeds, query)

    values = together()
    ways: Sequence[tuple[str, Callable[[], np.ndarray], int]] = (
        ("plain PyTorch loop", plain, len(weights[some])),
        ("one by one", alone, len(weights[some])),
        ("side by side", together, count),
    )
    found = [
        {
            "way": name,
            "seconds_per_fit": median_seconds(work, given.repeats) / made,
            "apart": float(np.abs(work()[some] - values[some]).max()),
        }
        for name, work, made in ways
    ]
    first = found[-1]["seconds_per_fit"]
    show(
        f"{count} networks 64-48-32-10, {size.epochs} epochs of {size.train - 1} examples, {given.threads} threads",
        ("way", "ms per fit", "x side by side", "largest difference (nats)"),
        [(r["way"], 1e3 * r["seconds_per_fit"], r["seconds_per_fit"] / first, r["apart"]) for r in found],
    )
    return found


def _many(size: digits.Size, count: int) -> list[dict[str, Any]]:
    """Seconds that so many fits take, all included: the trial of the learner, measuring, keeping."""
    designs = {
        "half of the examples": (np.random.default_rng(0).random((count, size.train)) < 0.5).astype(
            np.float64
        ),
        "all but one": _without_one(count, size.train),
    }
    found: list[dict[str, Any]] = []
    for name, weights in designs.items():
        started = time.perf_counter()
        outcomes(digits.problem(size), weights, range(count), in_memory(), purpose="scoring")
        found.append({"design": name, "fits": count, "seconds": time.perf_counter() - started})
    show("many fits", ("each sees", "fits", "seconds"), [tuple(row.values()) for row in found])
    return found


def _shortcut(name: str, estimator: Any, design: str, size: digits.Size, given: Options) -> dict[str, Any]:
    train, query = digits.arrays(size)
    if name == "Ridge":
        train, query = ((x, y.astype(np.float64)) for x, y in (train, query))
    asked = sy.Problem(sy.learners.Sklearn(estimator), train=train, query=query)
    count = 8 if given.reduced else 64
    weights = _without_one(count, size.train)
    if design == "half":
        weights = (np.random.default_rng(0).random((count, size.train)) < 0.5).astype(np.float64)
    learner: Any = asked.learner
    some = 4

    def alone() -> np.ndarray:
        fits = (learner.fit(asked.train, row) for row in weights[:some])
        return np.stack([learner.measure(fitted, asked.query) for fitted in fits])

    def together() -> np.ndarray:
        return outcomes(asked, weights, [0] * count, in_memory(), purpose="scoring").values

    learner.together(asked.train)
    slow, fast = median_seconds(alone, given.repeats) / some, median_seconds(together, given.repeats) / count
    apart = float(np.abs(alone() - together()[:some]).max())
    facts = {"estimator": name, "design": design, "loop": slow, "together": fast, "apart": apart}
    show(
        f"{name}, {design}",
        ("loop, ms per fit", "together, ms per fit", "x", "largest difference"),
        [(1e3 * slow, 1e3 * fast, slow / fast, apart)],
    )
    return facts


def _cases() -> list[tuple[str, Any, str]]:
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.neighbors import KNeighborsClassifier

    # As tight as Newton's method, so that the differences are those of the minimum and not of the stopping rule.
    logistic = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000)
    default = LogisticRegression(C=1.0, max_iter=1000)
    cases: list[tuple[str, Any]] = [
        ("Ridge", Ridge(1.0)),
        ("LogisticRegression, tol=1e-10", logistic),
        ("LogisticRegression", default),
        ("KNeighborsClassifier", KNeighborsClassifier(5)),
    ]
    return [(name, estimator, design) for name, estimator in cases for design in ("leave one out", "half")]


def _without_one(count: int, train: int) -> np.ndarray:
    weights = np.ones((count, train))
    weights[np.arange(count), np.arange(count) % train] = 0.0
    return weights


def _plain_fit(asked: sy.Problem, weights: np.ndarray, seed: int, size: digits.Size) -> np.ndarray:
    """What one would write by hand: a module, ``torch.optim.SGD``, a loop over batches."""
    import torch
    from torch import nn

    from steelyard.learners.torch_batches import epoch_order, id_keys

    rows = np.flatnonzero(weights)
    inputs = torch.from_numpy(np.asarray(asked.train.input()[:])[rows])
    labels = torch.from_numpy(asked.train.labels()[rows])
    keys = id_keys(asked.train.ids[rows])
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for width, after in zip(digits.WIDTHS[:-1], digits.WIDTHS[1:], strict=True):
        layers += [nn.Linear(width, after), nn.Tanh()]
    net = nn.Sequential(*layers[:-1])
    optimiser = torch.optim.SGD(
        net.parameters(), lr=_RATE, momentum=_MOMENTUM, weight_decay=digits.WEIGHT_DECAY
    )
    loss_of = nn.CrossEntropyLoss()
    for epoch in range(size.epochs):
        order = torch.from_numpy(epoch_order(keys, seed=seed, epoch=epoch))
        for batch in order.split(_BATCH):
            optimiser.zero_grad()
            loss_of(net(inputs[batch]), labels[batch]).backward()
            optimiser.step()
    with torch.no_grad():
        queries = torch.from_numpy(np.asarray(asked.query.input()[:]))
        answers = torch.from_numpy(asked.query.labels())
        return nn.functional.cross_entropy(net(queries), answers, reduction="none").double().numpy()


if __name__ == "__main__":
    main(options(__doc__))
