"""Our methods on boosted trees, on a model that is trained before the clock runs."""

from collections.abc import Callable

import numpy as np
from boosters import booster, labels
from exchange import Job, serve

import steelyard as sy
from steelyard.score import by_name


def compute(job: Job) -> Callable[[], np.ndarray]:
    """Train the model; scoring is timed."""
    (x, y), (z, asked) = job.train, job.query
    model = booster(job.settings).fit(x, labels(job.settings, y))
    learner = sy.learners.Boosted(model, trained=True)
    train, query = (
        sy.read({"input": side, "label": labels(job.settings, targets)})
        for side, targets in ((x, y), (z, asked))
    )
    problem = sy.Problem(learner, train, query)
    method = by_name(job.method, job.settings.get("method", {}))
    return lambda: np.asarray(method(problem).values)


if __name__ == "__main__":
    serve("steelyard", compute)
