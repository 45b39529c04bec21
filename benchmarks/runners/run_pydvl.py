"""pyDVL: ``knn_shapley``. It gives the mean over the queries, so the answer has one column."""

from collections.abc import Callable

import numpy as np
from exchange import Job, serve
from pydvl.valuation import Dataset, KNNShapleyValuation
from sklearn.neighbors import KNeighborsClassifier


def compute(job: Job) -> Callable[[], np.ndarray]:
    """Fit the valuation."""
    train, query = Dataset(*job.train), Dataset(*job.query)

    def work() -> np.ndarray:
        model = KNeighborsClassifier(n_neighbors=job.settings["k"])
        valuation = KNNShapleyValuation(model, query, progress=False).fit(train)
        found = valuation.values() if callable(getattr(valuation, "values", None)) else valuation.result
        order = np.argsort(found.indices)
        return np.asarray(found.values)[order][:, None]

    return work


if __name__ == "__main__":
    serve("pyDVL", compute)
