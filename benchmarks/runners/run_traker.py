"""traker: ``trak`` over the job's models, float32 because half precision is emulated on a CPU."""

import logging
import shutil
import tempfile
from collections.abc import Callable

import numpy as np
from exchange import Job, serve
from network import loader, network
from trak import TRAKer


def compute(job: Job) -> Callable[[], np.ndarray]:
    """Featurise, finalise and score, from the start each time."""
    net = network(job)
    states = [network(job, number).state_dict() for number in range(len(job.states))]
    size = job.settings.get("batch", 250)

    def work() -> np.ndarray:
        folder = tempfile.mkdtemp()
        traker = TRAKer(
            model=net,
            task="image_classification",
            train_set_size=len(job.train[1]),
            save_dir=folder,
            device="cpu",
            proj_dim=job.settings["dimension"],
            use_half_precision=False,
            logging_level=logging.ERROR,
            lambda_reg=job.settings.get("ridge", 0.0),
        )
        for number, state in enumerate(states):
            traker.load_checkpoint(state, model_id=number)
            for batch in loader(job.train, size):
                traker.featurize(batch=batch, num_samples=len(batch[1]))
        traker.finalize_features()
        for number, state in enumerate(states):
            traker.start_scoring_checkpoint(
                "q", checkpoint=state, model_id=number, num_targets=len(job.query[1])
            )
            for batch in loader(job.query, size):
                traker.score(batch=batch, num_samples=len(batch[1]))
        found = np.array(traker.finalize_scores("q"))
        shutil.rmtree(folder)
        return found

    return work


if __name__ == "__main__":
    serve("traker", compute)
