"""Files of boosted trees: LightGBM's text, XGBoost's JSON and UBJSON, CatBoost's binary. None can run code."""

import json
from pathlib import Path
from typing import Any

from steelyard.errors import CapabilityError, DataError, ModelError
from steelyard.trees.lightgbm import parsed
from steelyard.trees.xgboost import check_version


def opened(path: Path) -> Any:
    """The model in a file, as its library's own object.

    Raises:
        DataError: If there is no such file.
        ModelError: If it is of another kind, broken, or written by a newer release.
        CapabilityError: If the library is not installed.
    """
    if not path.is_file():
        raise DataError(f"MODEL names {path}, which is not a file.", fix="check the path.")
    readers = {".txt": _lightgbm, ".json": _xgboost, ".ubj": _xgboost, ".cbm": _catboost}
    if path.suffix not in readers:
        raise ModelError(
            f"{path} does not end like a model of boosted trees.",
            fix="give LightGBM's .txt, XGBoost's .json or .ubj, or CatBoost's .cbm.",
        )
    try:
        return readers[path.suffix](path)
    except ModuleNotFoundError as error:
        raise CapabilityError(
            f"{path} needs {error.name}, which is not installed.", fix="pip install 'steelyard[trees]'."
        ) from error


def _lightgbm(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is no text.", fix="save the model with Booster.save_model.") from error
    parsed(text, str(path))  # what is wrong with a file is told before LightGBM stumbles over it
    import lightgbm

    return lightgbm.Booster(model_str=text)


def _xgboost(path: Path) -> Any:
    if path.suffix == ".json":
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ModelError(
                f"{path} is no JSON: {error}.", fix="save it with Booster.save_model."
            ) from error
        if not isinstance(content, dict) or "learner" not in content:
            raise ModelError(
                f"{path} is no XGBoost model.",
                fix="give XGBoost's .json; CatBoost models are read from .cbm, LightGBM's from .txt.",
            )
        check_version(content, str(path))
    import xgboost

    booster = xgboost.Booster({"nthread": 1})
    try:
        booster.load_model(path)
    except xgboost.core.XGBoostError as error:
        raise _unreadable(path, "XGBoost", xgboost.__version__, error) from error
    check_version(json.loads(bytes(booster.save_raw("json")).decode()), str(path))
    return booster


def _catboost(path: Path) -> Any:
    import catboost

    try:
        return catboost.CatBoost().load_model(str(path))
    except catboost.CatBoostError as error:
        raise _unreadable(path, "CatBoost", catboost.__version__, error) from error


def _unreadable(path: Path, library: str, version: str, error: Exception) -> ModelError:
    return ModelError(
        f"{library} {version} cannot read {path}: {str(error).strip().splitlines()[0][:200]}",
        fix=f"check the file; if a newer {library} wrote it, upgrade {library}.",
    )
