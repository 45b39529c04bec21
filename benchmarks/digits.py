"""Ground truth on digits: what training on half of the examples does to each query, measured by retraining.

1,000 training examples and 150 queries of scikit-learn's digits, a perceptron 64-48-32-10 trained by SGD with
momentum, 60 random half subsets with 4 seeds each. The fits are kept in ``benchmarks/.cache``; the LDS of any
scores is then a matter of milliseconds.

    python -m benchmarks.digits        makes the ground truth and prints how reproducible it is
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

import steelyard as sy
from benchmarks.measure import CACHE, Options, options, record, show
from steelyard.maths.ranks import spearman

ACTIVATION = "tanh"
WIDTHS = (64, 48, 32, 10)
WEIGHT_DECAY = 1e-4


@dataclass(frozen=True)
class Size:
    """How large the experiment is."""

    train: int = 1000
    query: int = 150
    subsets: int = 60
    seeds: int = 4
    epochs: int = 30


FULL = Size()
REDUCED = Size(train=200, query=20, subsets=8, seeds=1, epochs=5)


@dataclass(frozen=True)
class Truth:
    """Subsets and what came of training on them.

    Attributes:
        problem: The learner with data; its explained model has seed 0.
        masks: ``bool["subset train"]``
        losses: ``float64["subset seed query"]`` Cross-entropy in nats.
        margins: ``float64["subset seed query"]`` Log-odds of the label; None where there are no labels.
    """

    problem: sy.Problem
    masks: np.ndarray
    losses: np.ndarray
    margins: np.ndarray | None = None

    def lds(self, scores: np.ndarray, of: str = "loss") -> float:
        """Mean over queries of Spearman's correlation between predicted and measured goodness."""
        outcome = self._goodness(of)
        predicted = self.masks @ np.asarray(scores, dtype=np.float64)
        return float(np.nanmean(spearman(predicted, outcome.mean(axis=1))))

    def ahead(self, scores: np.ndarray, other: np.ndarray, draws: int = 1000) -> tuple[float, float, float]:
        """By how much the LDS of ``scores`` is ahead of ``other``'s, with a 95 % interval.

        Percentile bootstrap; subsets and queries are resampled, the same for both.
        """
        outcome = -self.losses.mean(axis=1)
        first, second = (self.masks @ np.asarray(values, dtype=np.float64) for values in (scores, other))
        generator = np.random.default_rng(0)
        found = []
        for _ in range(draws):
            rows = generator.integers(0, len(outcome), len(outcome))
            columns = generator.integers(0, outcome.shape[1], outcome.shape[1])
            pick = np.ix_(rows, columns)
            truth_drawn = outcome[pick]
            found.append(np.nanmean(spearman(first[pick], truth_drawn) - spearman(second[pick], truth_drawn)))
        low, high = np.quantile(found, (0.025, 0.975))
        return self.lds(scores) - self.lds(other), float(low), float(high)

    def ceiling(self, of: str = "loss") -> float:
        """LDS that one half of the seeds reaches when it predicts the other half."""
        outcome = self._goodness(of)
        half = outcome.shape[1] // 2
        if half == 0:
            return float("nan")
        first, second = outcome[:, :half].mean(axis=1), outcome[:, half:].mean(axis=1)
        return float(np.nanmean(spearman(first, second)))

    def _goodness(self, of: str) -> np.ndarray:
        if of == "loss":
            return -self.losses
        if self.margins is None:
            raise ValueError("this ground truth has no margins")
        return self.margins


def arrays(size: Size = FULL) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Training examples and queries: ``float32["example 64"]`` pixels from 0 to 1, ``int64[" example"]``."""
    from sklearn.datasets import load_digits

    inputs, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))[: size.train + size.query]
    inputs, labels = (inputs[order] / 16).astype(np.float32), labels[order].astype(np.int64)
    return (inputs[: size.train], labels[: size.train]), (inputs[size.train :], labels[size.train :])


def problem(size: Size = FULL, *, checkpoints: int = 0, measurement: str = "loss") -> sy.Problem:
    """The problem that every method is asked about."""
    import torch

    torch.manual_seed(0)
    train, query = arrays(size)
    layers: list[torch.nn.Module] = []
    for inputs, outputs in zip(WIDTHS[:-1], WIDTHS[1:], strict=True):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.Tanh()]
    recipe = sy.learners.SGD(
        lr=0.05,
        momentum=0.9,
        epochs=size.epochs,
        batch_size=50,
        weight_decay=WEIGHT_DECAY,
        checkpoints=checkpoints,
    )
    learner = sy.learners.Torch(torch.nn.Sequential(*layers[:-1]), measurement=measurement, recipe=recipe)
    return sy.Problem(learner, train=train, query=query)


def truth(size: Size = FULL) -> Truth:
    """The ground truth, from the cache if it is there; else ``subsets * seeds`` fits."""
    return kept_truth("digits", problem(size), size, _retrain)


def kept_truth(
    name: str, asked: sy.Problem, size: Size, retrain: Callable[[sy.Problem, Size], dict[str, np.ndarray]]
) -> Truth:
    """A ground truth from ``benchmarks/.cache``, made and kept there the first time.

    Args:
        name: Of the task.
        asked: The problem.
        size: How many subsets, with how many seeds.
        retrain: Makes ``masks``, ``losses`` and, where there are labels, ``margins``.
    """
    facts = json.dumps(
        [asdict(size), asked.checksums(), dict(asked.learner.settings())], sort_keys=True, default=str
    )
    path = CACHE / f"{name}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}.npz"
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        part = path.with_suffix(".part.npz")
        np.savez(part, **retrain(asked, size))
        part.rename(path)
    with np.load(path) as kept:
        return Truth(asked, kept["masks"], kept["losses"], kept.get("margins"))


def _retrain(asked: sy.Problem, size: Size) -> dict[str, np.ndarray]:
    train, query, learner = asked.train, asked.query, asked.learner
    margin = problem(size, measurement="margin").learner
    generator = np.random.default_rng(0)
    masks = np.zeros((size.subsets, len(train)), dtype=bool)
    losses = np.zeros((size.subsets, size.seeds, len(query)))
    margins = np.zeros_like(losses)
    for subset in range(size.subsets):
        masks[subset, generator.permutation(len(train))[: len(train) // 2]] = True
        for seed in range(size.seeds):
            # Seeds that no explained model uses.
            fitted = learner.fit(train, masks[subset].astype(float), 10_000 + 100 * subset + seed)
            losses[subset, seed] = learner.measure(fitted, query)
            margins[subset, seed] = margin.measure(fitted, query)
    return {"masks": masks, "losses": losses, "margins": margins}


def main(given: Options) -> None:
    """Make the ground truth and print its ceiling."""
    size = REDUCED if given.reduced else FULL
    found = truth(size)
    fitted = found.problem.learner.explained(found.problem.train, 0)
    facts = {
        "mean query loss, all examples (nats)": float(
            found.problem.learner.measure(fitted, found.problem.query).mean()
        ),
        "mean query loss, half the examples (nats)": float(found.losses.mean()),
        "ceiling of LDS, loss": found.ceiling("loss"),
        "ceiling of LDS, margin": found.ceiling("margin"),
    }
    show(f"digits: {size}", ("what", "value"), list(facts.items()))
    record("digits", given, facts)


if __name__ == "__main__":
    main(options(__doc__))
