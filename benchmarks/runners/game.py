"""The utilities that Shapley values are compared on: estimator, measurement, and what training on nothing is worth.

Like ``exchange.py`` this imports nothing of ours, because the peers' runner reads it too.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier


@dataclass(frozen=True)
class Utility:
    """One utility.

    Attributes:
        estimator: Trained on every coalition.
        measurement: Ours: its name. Higher is better after the sign.
        nobody: Measurement without any training example.
        smallest: Coalitions of fewer examples cannot be trained; they are worth as much as nobody.
    """

    estimator: Any
    measurement: str
    nobody: float
    smallest: int = 1


UTILITIES = {
    "logistic regression, accuracy": Utility(LogisticRegression(tol=1e-6, max_iter=1000), "accuracy", 0.5),
    "ridge regression, squared error": Utility(Ridge(), "loss", 1.0),
    "5 nearest neighbours, accuracy": Utility(KNeighborsClassifier(5), "accuracy", 0.5, smallest=5),
}


def score(utility: Utility, model: Any, inputs: np.ndarray, labels: np.ndarray) -> float:
    """The utility of a fitted model, as a scorer of scikit-learn would have it."""
    predicted = model.predict(inputs)
    if utility.measurement == "accuracy":
        return float(np.mean(predicted == labels))
    return -float(np.mean(np.square(predicted - labels)))
