"""The training record: what the model says about every training example after every epoch."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from steelyard.errors import DataError
from steelyard.maths.label_noise import own_and_other
from steelyard.problem import HasEpochs, HasGradients, HasPredictions, Problem, require
from steelyard.records import Examples
from steelyard.run import Run
from steelyard.run.seeds import stream

_FORWARD = 1 / 3
_INSTEAD = "self_confidence, knn_label or self_influence"
_LEAST = float(np.log(np.finfo(np.float64).tiny))


@dataclass(frozen=True, eq=False)
class Curves:
    """What one training said about its examples, epoch by epoch, in evaluation mode after the epoch.

    Attributes:
        own: Log-probability of the given label, in nats.
        other: The highest log-probability among the other classes, in nats.
        error: Length of the error vector: probabilities minus the one-hot label.
    """

    own: Float[np.ndarray, "epoch train"]
    other: Float[np.ndarray, "epoch train"]
    error: Float[np.ndarray, "epoch train"]

    @property
    def margin(self) -> Float[np.ndarray, "epoch train"]:
        """Logit of the given label minus the highest other: differences of log-probabilities are those of logits."""
        return self.own - self.other

    @property
    def correct(self) -> Bool[np.ndarray, "epoch train"]:
        """Whether the given label was the most probable one."""
        return self.own > self.other


def training_seed(problem: Problem, number: int) -> int:
    """Seed of the number-th training that is followed; the first is that of the explained model."""
    return problem.seed if number == 0 else stream(problem.seed, "dynamics", number)


def curves(problem: Problem, run: Run, *, seed: int, method: str) -> Curves:
    """Train once and look at every training example after every epoch; kept in the run folder.

    Cost: one fit, and one forward pass per example and epoch. Memory: three numbers per example and epoch.

    Args:
        problem: Learner and training examples.
        run: Where the curves are kept.
        seed: Of the training.
        method: Who asks, for errors.

    Raises:
        CapabilityError: If the training cannot be followed, or there are no class probabilities.
        DataError: If the labels are no classes of the model.
    """
    learner = require(problem.learner, HasPredictions, method=method, instead=_INSTEAD)
    follower = require(problem.learner, HasEpochs, method=method, instead=_INSTEAD)

    def compute() -> dict[str, np.ndarray]:
        found: dict[int, tuple[np.ndarray, ...]] = {}
        columns: list[np.ndarray] = []

        def watch(epoch: int, fitted: Any) -> None:
            probabilities = np.asarray(learner.probabilities(fitted, problem.train), dtype=np.float64)
            if not columns:
                columns.append(label_columns(problem.train, probabilities.shape[1]))
            found[epoch] = _said(probabilities, columns[0])
            run.spend(gradients=_FORWARD * len(problem.train))

        _follow(follower, problem, watch, run, seed)
        return {
            name: np.stack([found[epoch][place] for epoch in sorted(found)]).astype(np.float32)
            for place, name in enumerate(("own", "other", "error"))
        }

    kept = run.keep(f"dynamics/curves-{_digest(problem, seed)}", compute)
    return Curves(kept["own"], kept["other"], kept["error"])


def gradient_lengths(
    problem: Problem, run: Run, *, seed: int, epochs: int, method: str
) -> Float[np.ndarray, "epoch train"]:
    """Length of the gradient of every training example's loss after each of the first epochs of a training.

    Cost: one fit, and one gradient per example and epoch.

    Args:
        problem: Learner and training examples.
        run: Where the lengths are kept.
        seed: Of the training.
        epochs: How many of the first epochs to look at.
        method: Who asks, for errors.

    Raises:
        CapabilityError: If the training cannot be followed, or there are no gradients.
    """
    learner = require(problem.learner, HasGradients, method=method, instead="el2n or self_influence")
    follower = require(problem.learner, HasEpochs, method=method, instead="self_influence")

    def compute() -> dict[str, np.ndarray]:
        found: dict[int, np.ndarray] = {}

        def watch(epoch: int, fitted: Any) -> None:
            if epoch > epochs:
                return
            products = learner.gradients(fitted).self_products(problem.train)
            found[epoch] = np.sqrt(np.asarray(products, dtype=np.float64))
            run.spend(gradients=len(problem.train))

        _follow(follower, problem, watch, run, seed)
        return {"lengths": np.stack([found[epoch] for epoch in sorted(found)]).astype(np.float32)}

    return np.asarray(run.keep(f"dynamics/lengths-{epochs}-{_digest(problem, seed)}", compute)["lengths"])


def label_columns(train: Examples, width: int) -> Int[np.ndarray, " train"]:
    """Column of every example's label in a table of class probabilities of that width.

    Raises:
        DataError: If labels are measured numbers, or do not fit into the table.
    """
    labels = train.labels()
    if labels.dtype.kind == "f":
        raise DataError(
            f"{train.source}: the labels are measured numbers, so none can be the wrong class.",
            fix="use loss or self_influence; if they are classes, give them as whole numbers or text.",
        )
    classes, places = np.unique(labels, return_inverse=True)
    if len(classes) == width:
        return places.astype(np.int64)
    if labels.dtype.kind in "biu" and labels.min() >= 0 and labels.max() < width:
        return labels.astype(np.int64)
    raise DataError(
        f"{train.source}: there are {len(classes)} labels, but the model knows {width} classes.",
        fix="give the examples that the model was made for.",
    )


def _follow(
    follower: HasEpochs, problem: Problem, watch: Callable[[int, Any], None], run: Run, seed: int
) -> None:
    run.spend(fits=1)
    follower.follow(problem.train, watch, seed=seed)


def _said(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, ...]:
    with np.errstate(divide="ignore"):
        own, other = own_and_other(np.maximum(np.log(probabilities), _LEAST), labels)
    error = probabilities.copy()
    error[np.arange(len(labels)), labels] -= 1.0
    return own, other, np.sqrt(np.square(error).sum(axis=1))


def _digest(problem: Problem, seed: int) -> str:
    facts = "|".join((problem.learner.fingerprint(), problem.train.checksum, str(seed)))
    return hashlib.blake2b(facts.encode(), digest_size=12).hexdigest()
