"""Examples as boosted trees read them: one table of float64, categories as codes, missing values as NaN."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from steelyard.errors import DataError, ModelError, ShapeError
from steelyard.records import Examples

_MISSING = ("", "nan", "None")


@dataclass(frozen=True)
class Coding:
    """How columns become the features of a model.

    Attributes:
        names: Names of the features in order; of an array's columns ``"0"``, ``"1"``, …
        categories: For every feature its categories in the order of their codes; None where it is a number, or where
            the data holds the codes themselves.
        by_code: Features whose numbers are codes of categories.
    """

    names: tuple[str, ...]
    categories: tuple[tuple[Any, ...] | None, ...]
    by_code: frozenset[int] = frozenset()

    @property
    def categorical(self) -> list[int]:
        """Places of the features that are categories."""
        return [k for k, known in enumerate(self.categories) if known is not None or k in self.by_code]

    def table(self, examples: Examples) -> Float[np.ndarray, "example feature"]:
        """The features of the examples.

        A category that is not known gets the code after the last; trees send it where they send unknown ones.

        Raises:
            DataError: If a column is text where the model reads numbers.
            ShapeError: If there are more or fewer features than the model has.
        """
        columns = [_numbers(examples, name, part) for name, part in _parts(examples, self.categories)]
        table = np.concatenate(columns, axis=1) if columns else np.zeros((len(examples), 0))
        if table.shape[1] != len(self.names):
            raise ShapeError(
                f"{examples.source} has {table.shape[1]} features, the model reads {len(self.names)}.",
                fix="give the columns that the model was trained on, in that order: --features NAME,NAME,… or "
                "features=[…].",
            )
        return table

    def texts(self, table: Float[np.ndarray, "example feature"]) -> np.ndarray:
        """``object["example feature"]`` The table with the categories themselves, for libraries that code them."""
        cells = np.empty(table.shape, dtype=object)
        cells[:] = table
        for k, known in enumerate(self.categories):
            if known is not None:
                names = np.array([*known, _UNKNOWN, None], dtype=object)
                codes = np.where(np.isnan(table[:, k]), len(known) + 1, table[:, k]).astype(np.int64)
                cells[:, k] = names[codes]
        return cells

    def check_known(self, examples: Examples, whose: str) -> None:
        """Refuse categories that the model has not seen.

        Raises:
            DataError: Names the first example, its column and its category.
        """
        if all(known is None for known in self.categories):
            return
        table = self.table(examples)
        for k, known in enumerate(self.categories):
            rows = np.flatnonzero(table[:, k] == len(known)) if known is not None else []
            if known is not None and len(rows):
                value = np.asarray(examples.column(self.names[k])[:])[rows[0]]
                raise DataError(
                    f"{examples.source}: example {str(examples.ids[rows[0]])!r} has {value!r} in column "
                    f"{self.names[k]!r}, a category that {whose} does not have ({len(rows)} such examples).",
                    fix="leave these examples out, or map them to a known category such as "
                    f"{known[0] if known else None!r}.",
                )


_UNKNOWN = "\x00unknown"


def coding_of(examples: Examples) -> Coding:
    """The coding that the examples themselves suggest: text is a category, coded in sorted order."""
    names: list[str] = []
    categories: list[tuple[Any, ...] | None] = []
    for name in examples.inputs:
        column = np.asarray(examples.column(name)[:])
        if column.dtype.kind in "biuf":
            width = int(np.prod(column.shape[1:], dtype=np.int64))
            names += [name] if column.ndim == 1 else [str(k) for k in range(width)]
            categories += [None] * width
        else:
            names.append(name)
            categories.append(tuple(sorted({str(value) for value in column.tolist()} - set(_MISSING))))
    return Coding(tuple(names), tuple(categories))


def check_names(model_names: tuple[str, ...] | None, examples: Examples, library: str) -> tuple[str, ...]:
    """The names of the features; refused if the model knows others, or in another order.

    Raises:
        ModelError: If columns are missing, superfluous or in another order.
        ShapeError: If there are more or fewer features than the model has.
    """
    found = coding_of(examples).names
    if model_names is None or _is_made_up(model_names) or _is_made_up(found):
        if model_names is not None and len(model_names) != len(found):
            raise ShapeError(
                f"{examples.source} has {len(found)} features, the {library} model reads {len(model_names)}.",
                fix="give the columns that it was trained on, in that order: --features NAME,NAME,… or features=[…].",
            )
        return found
    if tuple(name.replace(" ", "_") for name in found) == tuple(
        name.replace(" ", "_") for name in model_names
    ):
        return found
    missing, extra = [n for n in model_names if n not in found], [n for n in found if n not in model_names]
    if not missing and not extra:
        place = next(k for k, pair in enumerate(zip(found, model_names, strict=True)) if pair[0] != pair[1])
        raise ModelError(
            f"the {library} model was trained on the columns of {examples.source} in another order: feature {place} is "
            f"{model_names[place]!r} there and {found[place]!r} here.",
            fix=f"name them in its order: --features {','.join(model_names[:20])}",
        )
    raise ModelError(
        f"the {library} model was trained on other columns than those of {examples.source}:"
        + (f" it also reads {', '.join(map(repr, missing[:5]))};" if missing else "")
        + (f" it does not read {', '.join(map(repr, extra[:5]))};" if extra else "")
        + f" {len(model_names)} columns there, {len(found)} here.",
        fix=f"name the model's columns: --features {','.join(model_names[:20])}, and the label with --label.",
    )


def _is_made_up(names: tuple[str, ...]) -> bool:
    """Whether these are the names that libraries give to the columns of an array."""
    return any(tuple(f"{start}{k}" for k in range(len(names))) == names for start in ("", "f", "Column_"))


def _parts(examples: Examples, categories: tuple[Any, ...]) -> list[tuple[str, tuple[Any, ...] | None]]:
    """Every input column with its categories; an array's columns have none."""
    parts: list[tuple[str, tuple[Any, ...] | None]] = []
    place = 0
    for name in examples.inputs:
        parts.append((name, categories[place] if place < len(categories) else None))
        shape = np.asarray(examples.column(name)[:1]).shape[1:]
        place += int(np.prod(shape, dtype=np.int64))
    return parts


def _numbers(examples: Examples, name: str, known: tuple[Any, ...] | None) -> np.ndarray:
    column = np.asarray(examples.column(name)[:])
    numeric = column.dtype.kind in "biuf"
    if known is None:
        if not numeric:
            raise DataError(
                f"{examples.source}: column {name!r} holds text, and the model reads it as a number.",
                fix="encode it as the model's training did, or leave it out with --features (features=).",
            )
        return column.reshape(len(column), -1).astype(np.float64)
    whole = numeric and all(isinstance(value, int | float) for value in known)
    values = column.astype(np.float64) if whole else np.array([str(value) for value in column.tolist()])
    distinct, places = np.unique(values, return_inverse=True)
    codes = {(float(value) if whole else str(value)): k for k, value in enumerate(known)}
    absent = [value != value if whole else value in _MISSING for value in distinct.tolist()]
    found = [
        codes.get(value, np.nan if gone else len(known))
        for value, gone in zip(distinct.tolist(), absent, strict=True)
    ]
    return np.array(found, dtype=np.float64)[places][:, None]
