"""Ours: any name of ``steelyard methods``, with the same network, data, threads and timing as the peers.

``settings`` are the method's fields. Several models (``trak``) and checkpoints (``tracin``) come from the
learner's own training, so the benchmark that wants those calls the library directly.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from exchange import Job, serve

import steelyard as sy
from steelyard.problem import Learner


def compute(job: Job) -> Callable[[], np.ndarray]:
    """The method at the job's model, from the start each time: nothing is kept between repetitions."""
    if "utility" in job.settings:
        return _permutations(job)
    method = sy.score.method_class(job.method)(**job.settings)
    learner = _learner(job)
    train, query = (sy.read(_columns(pair)) for pair in (job.train, job.query))
    return lambda: np.asarray(method(sy.Problem(learner, train=train, query=query)).values)


def _permutations(job: Job) -> Callable[[], np.ndarray]:
    """Data Shapley of the mean over the queries beside its standard error, for so many permutations."""
    from game import UTILITIES

    asked = UTILITIES[job.settings["utility"]]
    learner = sy.learners.Sklearn(asked.estimator, measurement=asked.measurement)
    train, query = sy.read(job.train), sy.read(job.query)
    method = sy.score.DataShapley(
        fits=1 + job.settings["permutations"] * (len(train) - 1), nobody=asked.nobody, smallest=asked.smallest
    )

    def work() -> np.ndarray:
        scores = method(sy.Problem(learner, train=train, query=query))
        assert scores.uncertainty is not None
        return np.stack([scores.per_example(), scores.uncertainty.examples], axis=1)

    return work


def _columns(pair: tuple[np.ndarray, np.ndarray]) -> Any:
    """Inputs and labels; of texts, the tokens and those that come next."""
    return pair if pair[1].ndim == 1 else {"tokens": pair[0], "next": pair[1]}


def _learner(job: Job) -> Learner:
    if job.train[1].ndim > 1:
        return _language_learner(job)
    if job.states:
        from network import network

        # Of this recipe only the penalty matters here: it is part of the curvature.
        recipe = sy.learners.SGD(lr=1.0, epochs=1, weight_decay=job.penalty)
        return sy.learners.Torch(network(job), trained=True, recipe=recipe)
    from sklearn.linear_model import LogisticRegression

    return sy.learners.Sklearn(LogisticRegression())


def _language_learner(job: Job) -> Learner:
    from network import network, summed_loss

    from steelyard.learners.torch_losses import Loss, drawn_classes

    def loss(model: Any, batch: Any) -> Any:
        return summed_loss(model(batch["tokens"]), batch["next"])

    def sampled(model: Any, batch: Any, generator: Any) -> Any:
        logits = model(batch["tokens"])
        drawn = drawn_classes(logits.flatten(0, -2), generator)
        return summed_loss(logits, drawn.view_as(batch["next"]))

    return sy.learners.Torch(network(job), loss=Loss(loss, unit="nats", sampled=sampled), trained=True)


if __name__ == "__main__":
    serve("steelyard", compute)
