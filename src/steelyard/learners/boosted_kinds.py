"""Models of boosted trees, recognised without importing their libraries."""

import sys
from typing import Any

SUFFIXES = (".txt", ".json", ".ubj", ".cbm")
"""What files of boosted trees end in: LightGBM's text, XGBoost's JSON and UBJSON, CatBoost's binary."""

_KINDS = (
    ("lightgbm", "lightgbm", ("Booster", "LGBMModel")),
    ("xgboost", "xgboost", ("Booster", "XGBModel")),
    ("catboost", "catboost", ("CatBoost",)),
    (
        "sklearn",
        "sklearn.ensemble",
        (
            "GradientBoostingClassifier",
            "GradientBoostingRegressor",
            "HistGradientBoostingClassifier",
            "HistGradientBoostingRegressor",
        ),
    ),
)


def kind_of(model: Any) -> str | None:
    """The library that a model of boosted trees is of; None if it is no such model.

    An object of a library can only arrive if the library is loaded: looking into ``sys.modules`` is enough.
    """
    for kind, module, names in _KINDS:
        loaded = sys.modules.get(module)
        for name in names if loaded is not None else ():
            if isinstance(model, getattr(loaded, name, ())):
                return kind
    return None
