"""pyDVL: ``knn_shapley`` and ``data_shapley``. It gives the mean over the queries, so the answer has one column.

Of ``data_shapley`` the second column is the standard error.
"""

from collections.abc import Callable

import numpy as np
from exchange import Job, serve
from game import UTILITIES, score
from joblib import parallel_config
from pydvl.valuation import Dataset, KNNShapleyValuation, ShapleyValuation
from pydvl.valuation.samplers import PermutationSampler
from pydvl.valuation.scorers import SupervisedScorer
from pydvl.valuation.stopping import MinUpdates
from pydvl.valuation.utility import ModelUtility
from sklearn.neighbors import KNeighborsClassifier


def compute(job: Job) -> Callable[[], np.ndarray]:
    """Fit the valuation."""
    return {"knn_shapley": _knn, "data_shapley": _permutations}[job.method](job)


def _permutations(job: Job) -> Callable[[], np.ndarray]:
    train, query = Dataset(*job.train), Dataset(*job.query)
    asked = UTILITIES[job.settings["utility"]]
    sign = 1.0 if asked.measurement == "accuracy" else -1.0

    def scoring(model: object, inputs: np.ndarray, labels: np.ndarray) -> float:
        return score(asked, model, inputs, labels)

    def work() -> np.ndarray:
        scorer = SupervisedScorer(scoring, query, default=sign * asked.nobody)
        utility = ModelUtility(asked.estimator, scorer, catch_errors=True, show_warnings=False)
        sampler = PermutationSampler(seed=0)
        valuation = ShapleyValuation(
            utility, sampler, MinUpdates(job.settings["permutations"]), progress=False
        )
        with parallel_config(n_jobs=1):
            found = valuation.fit(train).result
        order = np.argsort(found.indices)
        return np.stack([np.asarray(found.values)[order], np.asarray(found.stderr)[order]], axis=1)

    return work


def _knn(job: Job) -> Callable[[], np.ndarray]:
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
