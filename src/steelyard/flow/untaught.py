"""The same problem about a model that learned nothing: random weights, or training on shuffled labels."""

from typing import Any

import numpy as np

from steelyard.collect.fits import explained
from steelyard.errors import CapabilityError
from steelyard.problem import HasState, HasVariants, Problem, require
from steelyard.run import Run, generator


def untaught(problem: Problem, run: Run) -> Problem:
    """The problem whose explained model knows nothing about the data.

    Where a model can be written as arrays, the entries of each are permuted: random weights with the distribution of
    trained ones, which an initialisation does not have. Else the learner is trained on shuffled labels.

    Cost: a fit.

    Raises:
        CapabilityError: If the learner offers neither, or cannot explain another model.
    """
    learner = require(problem.learner, HasVariants, method="model_randomisation", instead="seed_stability")
    draw = generator(problem.seed, "verification", "untaught")
    if isinstance(problem.learner, HasState):
        arrays = problem.learner.dump(explained(problem, run))
        model: Any = problem.learner.restore({name: _shuffled(one, draw) for name, one in arrays.items()})
    elif problem.train.label is not None:
        labels = draw.permutation(problem.train.labels())
        wrong = problem.train.with_column(problem.train.label, labels, f"{problem.train.checksum}|shuffled")
        run.spend(fits=1)
        model = problem.learner.fit(wrong, seed=problem.seed)
    else:
        raise CapabilityError(
            f"{type(problem.learner).__name__} cannot write its models as arrays, and there are no labels to shuffle.",
            fix="use seed_stability.",
        )
    return Problem(learner.explaining(model), problem.train, problem.query, seed=problem.seed)


def _shuffled(array: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    if array.dtype.kind != "f" or array.ndim == 0:
        return array
    return draw.permutation(array.ravel()).reshape(array.shape)
