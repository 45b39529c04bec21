"""kronfluence: ``ekfac``, ``kfac``, ``identity``. Its default damping is 1e-8; None is 0.1 x mean."""

import shutil
import tempfile
from collections.abc import Callable

import numpy as np
import torch
from exchange import Job, serve
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from network import dataset, network, summed_loss


class Classification(Task):
    """Cross-entropy for training and for the queries, as kronfluence's documentation writes it."""

    def compute_train_loss(self, batch, model, sample=False):
        """Summed loss, with labels drawn from the model for the true Fisher."""
        inputs, labels = batch
        logits = model(inputs)
        if sample:
            with torch.no_grad():
                chances = torch.softmax(logits.detach().flatten(0, -2), dim=-1)
                labels = torch.multinomial(chances, 1).view(labels.shape)
        return summed_loss(logits, labels).sum()

    def compute_measurement(self, batch, model):
        """Summed loss of the queries."""
        return self.compute_train_loss(batch, model)


def compute(job: Job) -> Callable[[], np.ndarray]:
    """Fit the factors and the scores, from the start each time."""
    task = Classification()
    model = prepare_model(network(job), task)
    train, query = dataset(job.train), dataset(job.query)
    factors = FactorArguments(strategy=job.method, use_empirical_fisher=job.settings.get("empirical", False))
    scores = ScoreArguments(damping_factor=job.settings.get("damping"))
    size = job.settings.get("batch", 250)

    def work() -> np.ndarray:
        torch.manual_seed(job.settings.get("seed", 0))  # of the labels that it draws for the Fisher
        folder = tempfile.mkdtemp()
        analyzer = Analyzer("job", model, task, cpu=True, output_dir=folder, disable_tqdm=True)
        if job.method != "identity":
            analyzer.fit_all_factors("factors", train, per_device_batch_size=size, factor_args=factors)
        else:
            analyzer.fit_all_factors("factors", train, factor_args=factors)
        analyzer.compute_pairwise_scores(
            "scores",
            "factors",
            query,
            train,
            per_device_query_batch_size=size,
            per_device_train_batch_size=size,
            score_args=scores,
        )
        found = analyzer.load_pairwise_scores("scores")["all_modules"].float().numpy().T
        shutil.rmtree(folder)
        # Its curvature is a mean over the examples, so that its influence is of a share of 1/n; ours is of one example.
        return found if job.method == "identity" else found / len(job.train[1])

    return work


if __name__ == "__main__":
    serve("kronfluence", compute)
