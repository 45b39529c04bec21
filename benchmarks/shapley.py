"""Permutation Shapley on the same utilities and budgets as pyDVL, and values of 1,000 examples.

    python -m benchmarks.shapley --peers

Both sides draw as many plain permutations of the same training examples, retrain the same estimator on every prefix
and score it on the same queries; so their standard errors should agree, which the table shows, and the seconds
compare.
"""

import time
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import scale

import steelyard as sy
from benchmarks.measure import Options, options, record, run, show
from benchmarks.runners.exchange import Answer, Job
from benchmarks.runners.game import UTILITIES
from steelyard.problem import Learner


def main(given: Options) -> None:
    """Both tables."""
    train, query, permutations = (20, 20, 3) if given.reduced else (100, 100, 20)
    compared = [row for name in UTILITIES for row in _compare(name, given, train, query, permutations)]
    show(
        f"permutation Shapley, {train} examples, {permutations} permutations, {given.threads} threads",
        ("utility", "who", "seconds", "x ours", "mean standard error", "gap in standard errors"),
        [tuple(row.values()) for row in compared],
    )
    large = _thousand(200 if given.reduced else 1000, 40 if given.reduced else 1000, given)
    show(
        f"{large[0]['examples']:,} examples, one-hidden-layer network or logistic regression",
        ("method", "learner", "fits", "seconds", "median standard error"),
        [(row["method"], row["learner"], row["fits"], row["seconds"], row["error"]) for row in large],
    )
    record("shapley", given, {"permutations": compared, "thousand": large})


def _compare(name: str, given: Options, train: int, query: int, permutations: int) -> list[dict[str, Any]]:
    job = Job(
        "data_shapley",
        {"utility": name, "permutations": permutations},
        *_pairs(train, query, targets=1.0 if "ridge" in name else None),
        threads=given.threads,
        repeats=given.repeats,
    )
    answers = [run("steelyard", job, None)]
    if given.peers:
        answers.append(run("pydvl", job, given.peers))
    ours = answers[0]
    return [
        {
            "utility": name,
            "who": answer.software.partition(" (")[0],
            "seconds": answer.median,
            "times_ours": answer.median / ours.median,
            "error": float(answer.scores[:, 1].mean()),
            "gap": _gap(answer, ours),
        }
        for answer in answers
    ]


def _gap(answer: Answer, ours: Answer) -> float:
    """Root mean square of the difference, in standard errors of the difference: about 1 if both estimate the same."""
    spread = np.square(answer.scores[:, 1]) + np.square(ours.scores[:, 1])
    return float(
        np.sqrt(np.mean(np.square(answer.scores[:, 0] - ours.scores[:, 0]) / np.maximum(spread, 1e-30)))
    )


def _pairs(train: int, query: int, *, targets: float | None) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Benign and malignant tumours, 30 measurements of each; for regression the labels are -1 and 1."""
    inputs, labels = load_breast_cancer(return_X_y=True)
    chosen = np.random.default_rng(0).permutation(len(labels))[: train + query]
    inputs, labels = scale(inputs)[chosen], labels[chosen].astype(np.int64)
    if targets is not None:
        labels = targets * (2.0 * labels - 1.0)
    return (inputs[:train], labels[:train]), (inputs[train:], labels[train:])


def _thousand(examples: int, fits: int, given: Options) -> list[dict[str, Any]]:
    inputs, labels = load_digits(return_X_y=True)
    inputs = (inputs / 16.0).astype(np.float32)
    train, query = (inputs[:examples], labels[:examples]), (inputs[-100:], labels[-100:])
    learners = {
        "logistic regression": sy.learners.Sklearn(LogisticRegression()),
        "64-32-10 network, 10 epochs": _network(),
    }
    methods = [
        sy.score.DataOOB(fits=max(30, fits // 5)),
        sy.score.Banzhaf(fits=fits),
        sy.score.Datamodels(fits=fits),
    ]
    rows = []
    for name, learner in learners.items():
        for method in methods:
            start = time.perf_counter()
            scores = method(sy.Problem(learner, train=train, query=query))
            assert scores.uncertainty is not None
            rows.append(
                {
                    "method": scores.name,
                    "learner": name,
                    "examples": examples,
                    "fits": scores.provenance.cost.fits,
                    "seconds": time.perf_counter() - start,
                    "error": float(np.median(scores.uncertainty.examples)),
                }
            )
    return rows


def _network() -> Learner:
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    return sy.learners.Torch(net, recipe=sy.learners.SGD(lr=0.2, epochs=10, batch_size=64))


if __name__ == "__main__":
    main(options(__doc__))
