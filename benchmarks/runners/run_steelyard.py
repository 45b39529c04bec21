"""Ours: any name of ``steelyard methods``, with the same network, data, threads and timing as the peers.

``settings`` are the method's fields. Several models (``trak``) and checkpoints (``tracin``) come from the
learner's own training, so the benchmark that wants those calls the library directly.
"""

from collections.abc import Callable

import numpy as np
from exchange import Job, serve

import steelyard as sy
from steelyard.problem import Learner


def compute(job: Job) -> Callable[[], np.ndarray]:
    """The method at the job's model, from the start each time: nothing is kept between repetitions."""
    method = sy.score.method_class(job.method)(**job.settings)
    learner = _learner(job)
    train, query = sy.read(job.train), sy.read(job.query)
    return lambda: np.asarray(method(sy.Problem(learner, train=train, query=query)).values)


def _learner(job: Job) -> Learner:
    if job.states:
        from network import network

        # Of this recipe only the penalty matters here: it is part of the curvature.
        recipe = sy.learners.SGD(lr=1.0, epochs=1, weight_decay=job.penalty)
        return sy.learners.Torch(network(job), trained=True, recipe=recipe)
    from sklearn.linear_model import LogisticRegression

    return sy.learners.Sklearn(LogisticRegression())


if __name__ == "__main__":
    serve("steelyard", compute)
