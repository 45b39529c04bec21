"""The authors' code for boosted trees, by our names of their methods."""

from collections.abc import Callable

import numpy as np
from boosters import booster, labels
from exchange import Job, serve
from tree_influence import explainers

_NAMES = {
    "boostin": "BoostIn",
    "leaf_inf_sp": "LeafInfluenceSP",
    "leaf_influence": "LeafInfluence",
    "leaf_refit": "LeafRefit",
    "tree_sim": "TreeSim",
    "trex": "Trex",
}


def compute(job: Job) -> Callable[[], np.ndarray]:
    """Train the model; the explanation is timed."""
    train, query = (labels(job.settings, side[1]) for side in (job.train, job.query))
    model = booster(job.settings).fit(job.train[0], train)

    def work() -> np.ndarray:
        explainer = getattr(explainers, _NAMES[job.method])()
        return explainer.fit(model, job.train[0], train).get_local_influence(job.query[0], query)

    return work


if __name__ == "__main__":
    serve("tree-influence", compute)
