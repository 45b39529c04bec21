"""LightGBM models that both sides train alike from a job's settings."""

from typing import Any

import lightgbm
import numpy as np


def booster(settings: dict[str, Any]) -> Any:
    """An unfitted estimator."""
    kind = lightgbm.LGBMRegressor if settings["task"] == "regression" else lightgbm.LGBMClassifier
    return kind(
        n_estimators=settings["rounds"],
        num_leaves=settings["leaves"],
        learning_rate=settings["rate"],
        reg_lambda=1.0,
        n_jobs=1,
        verbosity=-1,
        deterministic=True,
        force_row_wise=True,
        random_state=0,
    )


def labels(settings: dict[str, Any], given: np.ndarray) -> np.ndarray:
    """Targets, or classes as whole numbers."""
    return given.astype(np.float64 if settings["task"] == "regression" else np.int64)
