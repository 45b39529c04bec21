"""LightGBM and XGBoost models that both sides train alike from a job's settings."""

from typing import Any

import numpy as np


def booster(settings: dict[str, Any]) -> Any:
    """An unfitted estimator.

    The authors' code takes XGBoost's score before the first tree to be what ``base_score=0.5`` gives.
    """
    regression = settings["task"] == "regression"
    usual = {
        "n_estimators": settings["rounds"],
        "learning_rate": settings["rate"],
        "reg_lambda": 1.0,
        "n_jobs": 1,
        "random_state": 0,
    }
    if settings.get("library", "lightgbm") == "xgboost":
        import xgboost

        kind = xgboost.XGBRegressor if regression else xgboost.XGBClassifier
        return kind(**usual, max_depth=3, base_score=0.5)
    import lightgbm

    kind = lightgbm.LGBMRegressor if regression else lightgbm.LGBMClassifier
    return kind(**usual, num_leaves=settings["leaves"], verbosity=-1, deterministic=True, force_row_wise=True)


def labels(settings: dict[str, Any], given: np.ndarray) -> np.ndarray:
    """Targets, or classes as whole numbers."""
    return given.astype(np.float64 if settings["task"] == "regression" else np.int64)
