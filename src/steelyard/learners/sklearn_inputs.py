"""Examples as a scikit-learn estimator reads them: an array, texts or a data frame; and their checks."""

from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags

from steelyard.data import check_classes
from steelyard.errors import DataError, SettingError, ShapeError
from steelyard.records import Examples

Features = Literal["auto", "array", "text", "polars", "pandas"]


def steps(estimator: Any) -> list[Any]:
    """The estimator's steps, those of nested pipelines included; one step if it is no pipeline."""
    if not isinstance(estimator, Pipeline):
        return [estimator]
    return [
        inner for _, step in estimator.steps if step not in (None, "passthrough") for inner in steps(step)
    ]


def resolve(asked: Features, estimator: BaseEstimator, examples: Examples) -> Features:
    """The form of the inputs that this estimator reads.

    ``"auto"`` becomes: ``"text"`` for one column of strings that a text vectoriser or anything but a
    ``ColumnTransformer`` reads; a data frame where a ``ColumnTransformer`` chooses columns, where the
    estimator was trained on named columns, or where one of several columns holds no numbers (``"pandas"`` if
    columns are chosen by a callable, which scikit-learn supports for pandas only, else ``"polars"``);
    ``"array"`` otherwise.

    Raises:
        SettingError: If a text vectoriser would read several columns.
    """
    inner = steps(estimator)
    vectoriser = isinstance(inner[0], CountVectorizer | HashingVectorizer)
    if vectoriser and len(examples.inputs) > 1:
        raise SettingError(
            f"{type(inner[0]).__name__} reads one text, but there are {len(examples.inputs)} input columns "
            f"({', '.join(examples.inputs)}).",
            fix="name one of them with features= (--features) when reading, or use a ColumnTransformer.",
        )
    if asked != "auto":
        return asked
    transformers = [step for step in inner if isinstance(step, ColumnTransformer)]
    if transformers:
        chosen = [columns for step in transformers for _, _, columns in step.transformers]
        return "pandas" if any(callable(columns) for columns in chosen) else "polars"
    if all(_is_numeric(examples, name) for name in examples.inputs):
        return "polars" if getattr(estimator, "feature_names_in_", None) is not None else "array"
    return "text" if len(examples.inputs) == 1 else "polars"


def table(examples: Examples, form: Features) -> Any:
    """The inputs of the examples in the given form.

    Returns:
        ``"array"``: float64, columns side by side, images and other tensors flattened. ``"text"``: one string
        per example. ``"polars"``, ``"pandas"``: a frame with the input columns by name.

    Raises:
        DataError: If a column cannot take the form.
    """
    if form == "text":
        return _texts(examples)
    if form == "array":
        return np.concatenate([_numbers(examples, name) for name in examples.inputs], axis=1)
    columns = {name: _plain(examples, name) for name in examples.inputs}
    if form == "pandas":
        import pandas

        return pandas.DataFrame(columns)
    import polars

    return polars.DataFrame({name: polars.Series(name, column) for name, column in columns.items()})


def check_inputs(estimator: BaseEstimator, train: Examples, query: Examples, form: Features) -> None:
    """Refuse inputs that no fit could use, before any fit.

    NaN passes where every step accepts it by its tags, up to the first imputer; in frames it is left to the
    estimator.

    Raises:
        DataError: NaN or infinity, naming example and column; strings where numbers are needed.
        ShapeError: If the widths of training examples, queries or the trained estimator disagree.
    """
    if form != "array":
        for examples in (train, query):
            table(examples.take(slice(0, 1)), form)
        return
    allow_nan = _takes_nan(estimator)
    for examples in (train, query):
        for name in examples.inputs:
            _check_finite(examples, name, allow_nan=allow_nan)
    widths = {_width(train): "training examples", _width(query): "queries"}
    expected = getattr(estimator, "n_features_in_", None)
    if expected is not None:
        widths[expected] = f"the trained {type(estimator).__name__}"
    if len(widths) > 1:
        found = ", ".join(f"{who} have {width}" for width, who in widths.items())
        raise ShapeError(f"numbers of features disagree: {found}.", fix="give the same columns everywhere.")


def check_labels(train: Examples, query: Examples, *, classes: bool) -> None:
    """Refuse labels that no fit could use.

    Raises:
        DataError: Labels missing, NaN, not one per example (classes), of one class only, or queries with a
            class that no training example has.
    """
    labels, asked = train.labels(), query.labels()
    for examples, values in ((train, labels), (query, asked)):
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            row = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))[0]
            raise DataError(
                f"{examples.source}: the label of example {str(examples.ids[row])!r} is {values[row]}.",
                fix="leave out examples without a label.",
            )
    if not classes:
        return
    if labels.ndim != 1 or asked.ndim != 1:
        raise DataError(
            f"labels have shapes {labels.shape} and {asked.shape}; a classifier needs one class per example.",
            fix="give class numbers or names, not one-hot rows.",
        )
    known = check_classes(train)
    unseen = np.flatnonzero(~np.isin(asked, known))
    if len(unseen):
        raise DataError(
            f"{query.source}: query {str(query.ids[unseen[0]])!r} has the label {asked[unseen[0]]!r}, which "
            "no "
            f"training example has ({len(unseen)} such queries; training labels: {_listed(known)}).",
            fix="leave out these queries, or map both sides to the same labels.",
        )


def _listed(values: np.ndarray) -> str:
    shown = ", ".join(repr(value) for value in values[:10].tolist())
    return shown + (f", … {len(values)} in all" if len(values) > 10 else "")


def _takes_nan(estimator: BaseEstimator) -> bool:
    for step in steps(estimator):
        if not get_tags(step).input_tags.allow_nan:
            return False
        if type(step).__module__.startswith("sklearn.impute"):
            return True
    return True


def _is_numeric(examples: Examples, name: str) -> bool:
    return np.asarray(examples.column(name)[:1]).dtype.kind in "biuf"


def _width(examples: Examples) -> int:
    return table(examples.take(slice(0, 1)), "array").shape[1]


def _numbers(examples: Examples, name: str) -> np.ndarray:
    values = np.asarray(examples.column(name)[:])
    if values.dtype.kind not in "biuf":
        raise DataError(
            f"{examples.source}: column {name!r} holds no numbers (type {values.dtype}).",
            fix="encode it in a pipeline (ColumnTransformer, OneHotEncoder, TfidfVectorizer) or leave it "
            "out.",
        )
    return values.reshape(len(values), -1).astype(np.float64)


def _texts(examples: Examples) -> np.ndarray:
    values = np.asarray(examples.input()[:])
    bad = [i for i, value in enumerate(values) if not isinstance(value, str)]
    if bad:
        raise DataError(
            f"{examples.source}: example {str(examples.ids[bad[0]])!r} has no text in column "
            f"{examples.inputs[0]!r} but {values[bad[0]]!r} ({len(bad)} such examples).",
            fix="fill in or leave out these examples, or name another text column.",
        )
    return values.astype(object)


def _plain(examples: Examples, name: str) -> Any:
    values = np.asarray(examples.column(name)[:])
    if values.ndim != 1:
        raise DataError(
            f"{examples.source}: column {name!r} holds arrays of shape {values.shape[1:]}, a frame one value "
            "per row.",
            fix="split it into columns of its own, or use features='array'.",
        )
    return values.tolist() if values.dtype.kind in "OUS" else values


def _check_finite(examples: Examples, name: str, *, allow_nan: bool) -> None:
    values = _numbers(examples, name)
    bad = np.isinf(values) if allow_nan else ~np.isfinite(values)
    rows = np.flatnonzero(bad.any(axis=1))
    if len(rows):
        raise DataError(
            f"{examples.source}: column {name!r} of example {str(examples.ids[rows[0]])!r} holds NaN or "
            "infinity "
            f"({len(rows)} such examples).",
            fix="impute in a pipeline (SimpleImputer), or leave these examples out.",
        )
