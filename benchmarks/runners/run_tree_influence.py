"""The authors' code for boosted trees, by our names of their methods."""

import inspect
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from boosters import booster, labels
from exchange import Job, serve
from tree_influence import explainers
from tree_influence.explainers import leaf_refit, trex


class OptimalTrex(explainers.Trex):
    """TREX whose kernel model is trained to the optimum of the authors' loss, and weighs examples by its derivative.

    Their own training is gradient descent in single precision that stops at a 200th of the first gradient; for numbers
    it takes half of the derivative of its loss.
    """

    def _compute_train_weights(self, X: np.ndarray, y: np.ndarray) -> np.ndarray:
        regression, classes = self.model_.objective == "regression", self.model_.objective == "multiclass"
        features, targets = torch.as_tensor(X), torch.as_tensor(np.asarray(y, dtype=np.float64))
        kind = trex.MSEModel if regression else trex.SoftmaxModel if classes else trex.LogisticModel
        model = kind(np.zeros((X.shape[1], y.shape[1]) if classes else X.shape[1]))
        model.W = torch.zeros(model.W.shape, dtype=torch.float64, requires_grad=True)
        steps = torch.optim.LBFGS(
            [model.W],
            max_iter=5000,
            tolerance_grad=1e-12,
            tolerance_change=1e-15,
            line_search_fn="strong_wolfe",
        )

        def loss() -> torch.Tensor:
            steps.zero_grad()
            fit, size = model(features, targets)
            total = fit / len(targets) + size * self.lmbd
            total.backward()
            return total

        steps.step(loss)
        output = features @ model.W.detach()
        output = output if regression else torch.softmax(output, 1) if classes else torch.sigmoid(output)
        slope = (2.0 if regression else 1.0) * (output - targets)
        return (slope / (-2.0 * self.lmbd * len(targets))).reshape(len(targets), -1).numpy()


class TimelyLeafRefit(explainers.LeafRefit):
    """LeafRefit whose leaves are made again at the raw scores before their round.

    Their own code keeps the scores after it and compares gradients there with those before it, so that every leaf moves
    even without a removal.
    """

    def fit(self, model: Any, X: np.ndarray, y: np.ndarray) -> "TimelyLeafRefit":
        """As theirs, with the raw scores a round earlier."""
        made = leaf_refit._compute_new_leaf_values
        place = list(inspect.signature(made).parameters).index("original_approx")

        def shifted(*given: Any) -> np.ndarray:
            after = given[place]
            before = np.roll(after, 1, axis=1)
            before[:, 0] = self.model_.bias
            return made(*given[:place], before, *given[place + 1 :])

        with patch.object(leaf_refit, "_compute_new_leaf_values", shifted):
            return super().fit(model, X, y)


_METHODS = {
    "boostin": explainers.BoostIn,
    "leaf_inf_sp": explainers.LeafInfluenceSP,
    "leaf_influence": explainers.LeafInfluence,
    "leaf_refit": explainers.LeafRefit,
    "leaf_refit before its round": TimelyLeafRefit,
    "tree_sim": explainers.TreeSim,
    "trex": explainers.Trex,
    "trex at its optimum": OptimalTrex,
}


def compute(job: Job) -> Callable[[], np.ndarray]:
    """Train the model; the explanation is timed."""
    train, query = (labels(job.settings, side[1]) for side in (job.train, job.query))
    model = booster(job.settings).fit(job.train[0], train)

    def scores(method: str) -> np.ndarray:
        explainer = _METHODS[method.removesuffix(" as theirs")]()
        return explainer.fit(model, job.train[0], train).get_local_influence(job.query[0], query)

    def work() -> np.ndarray:
        found = [scores(name) for name in job.settings.get("methods", [job.method])]
        return np.stack(found) if "methods" in job.settings else found[0]

    return work


if __name__ == "__main__":
    serve("tree-influence", compute)
