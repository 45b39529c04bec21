"""Models of any kind, recognised without importing their framework.

An object of a framework can only arrive if the framework is loaded: looking into ``sys.modules`` is enough.
"""

import sys
from typing import Any

from steelyard.errors import ModelError, SettingError
from steelyard.problem import Learner, Problem


def problem_of(model: Any, train: Any = None, query: Any = None, *, seed: int = 0) -> Problem:
    """The problem that a model of any kind poses.

    Args:
        model: A ``Problem`` (then without data), a learner, a trained ``torch.nn.Module`` or a fitted
            scikit-learn estimator.
        train: Training examples: anything that ``sy.read`` takes.
        query: Queries, likewise.
        seed: Seed of the model that is explained, where the learner trains it.

    Raises:
        ModelError: If the model is of another kind.
        SettingError: If data is missing, or given twice.

    Example:
        >>> import numpy as np
        >>> from sklearn.linear_model import Ridge
        >>> x, y = np.eye(3), np.array([1.0, 2.0, 3.0])
        >>> len(problem_of(Ridge().fit(x, y), (x, y), (x[:1], y[:1])).train)
        3
    """
    if isinstance(model, Problem):
        if train is not None or query is not None:
            raise SettingError(
                "A Problem has its data already, and train or query is given too.",
                fix="leave out train and query, or give problem.learner instead of the problem.",
            )
        return model
    if train is None or query is None:
        raise SettingError(
            f"{type(model).__name__} without {'training examples' if train is None else 'queries'}.",
            fix="give train= and query=: arrays, a Dataset, a table or a path.",
        )
    return Problem(learner_of(model), train, query, seed=seed)


def learner_of(model: Any) -> Learner:
    """The learner for a trained model of any kind; a learner comes back as it is.

    Raises:
        ModelError: If no learner knows this kind of model.
    """
    if isinstance(model, type):
        raise ModelError(
            f"{model.__name__} is a class, not a model.", fix=f"give an instance: {model.__name__}(...)."
        )
    torch, sklearn = sys.modules.get("torch"), sys.modules.get("sklearn.base")
    if torch is not None and isinstance(model, torch.nn.Module):
        from steelyard.learners import Torch

        return Torch(model, trained=True)
    if sklearn is not None and isinstance(model, sklearn.BaseEstimator):
        from steelyard.learners import Sklearn

        return Sklearn(model, trained=True)
    if isinstance(model, Learner):
        return model
    raise ModelError(
        f"{type(model).__module__}.{type(model).__qualname__} is no model that Steelyard knows.",
        fix="give a torch.nn.Module, a scikit-learn estimator, or a learner: an object with the methods of "
        "steelyard.problem.Learner.",
    )
