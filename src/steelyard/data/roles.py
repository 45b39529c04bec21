"""Roles: which columns are the inputs, the label and the id."""

from collections.abc import Sequence
from dataclasses import dataclass

from steelyard.errors import DataError, SettingError

TEXT_COLUMNS = (("text",), ("prompt", "completion"), ("messages",))
"""Input columns of texts, looked for in this order."""

LABEL_COLUMNS = ("label", "labels", "target", "y")
"""Label columns, looked for in this order."""

_NOT_FEATURES = frozenset({"weight"})


@dataclass(frozen=True)
class Names:
    """Columns as the user named them; None where the defaults are to be used.

    Attributes:
        text: Input column or columns of text.
        label: Label column; ``""`` for none.
        id: Id column; ``""`` for ids from the content.
        features: Input column or columns of numbers or categories.
        missing: Whether features may be missing.
    """

    text: str | Sequence[str] | None = None
    label: str | None = None
    id: str | None = None
    features: str | Sequence[str] | None = None
    missing: bool = False

    def given(self) -> bool:
        """Whether any column is named."""
        return any(name is not None for name in (self.text, self.label, self.id, self.features))


@dataclass(frozen=True)
class Roles:
    """What the columns are for.

    Attributes:
        inputs: Input columns in order.
        label: Label column.
        id: Id column.
        text: Whether the inputs are texts (or token sequences or messages), not features.
        missing: Whether inputs may be missing.
    """

    inputs: tuple[str, ...]
    label: str | None
    id: str | None
    text: bool
    missing: bool = False


def resolve(names: Names, columns: Sequence[str], source: str) -> Roles:
    """The roles of the columns that a source has.

    Raises:
        DataError: If a named column is missing or no input is left; the message lists the columns.
        SettingError: If both texts and features are named, or one column has two roles.
    """
    if names.text is not None and names.features is not None:
        raise SettingError(
            f"{source}: text={names.text!r} and features={names.features!r} are both given.",
            fix="name the inputs with one of the two.",
        )
    example_id = _optional(names.id, ("id",), "id", columns, source)
    label = _optional(names.label, LABEL_COLUMNS, "label", columns, source)
    option = "text" if names.text is not None else "features"
    given = names.text if names.text is not None else names.features
    if given is not None:
        inputs = (given,) if isinstance(given, str) else tuple(given)
        for name in inputs:
            _check_present(name, option, columns, source)
    else:
        texts = next((group for group in TEXT_COLUMNS if set(group) <= set(columns)), None)
        option = "features" if texts is None else "text"
        others = _NOT_FEATURES | {label, example_id}
        inputs = texts or tuple(name for name in columns if name not in others)
    _check_distinct(inputs, label, example_id, source)
    if not inputs:
        raise DataError(
            f"{source}: no input column: {_listing(columns)}, and none of them is left besides label and id.",
            fix="name the inputs with text=... or features=... (on the command line: --text, --features).",
        )
    return Roles(inputs, label, example_id, option == "text", names.missing and option == "features")


def _optional(
    given: str | None, defaults: Sequence[str], option: str, columns: Sequence[str], source: str
) -> str | None:
    if given == "":
        return None
    if given is not None:
        _check_present(given, option, columns, source)
        return given
    return next((name for name in defaults if name in columns), None)


def _check_present(name: str, option: str, columns: Sequence[str], source: str) -> None:
    if name not in columns:
        raise DataError(
            f"{source}: there is no column {name!r}; {_listing(columns)}.",
            fix=f"name an existing column with {option}=... (on the command line: --{option}).",
        )


def _check_distinct(inputs: Sequence[str], label: str | None, example_id: str | None, source: str) -> None:
    for name, role in ((label, "label"), (example_id, "id")):
        if name is not None and name in inputs:
            raise SettingError(
                f"{source}: column {name!r} is both an input and the {role}.",
                fix="give every column one role.",
            )
    if label is not None and label == example_id:
        raise SettingError(
            f"{source}: column {label!r} is both the label and the id.", fix="name two columns."
        )


def _listing(columns: Sequence[str]) -> str:
    shown = ", ".join(map(repr, columns[:50])) + (", …" if len(columns) > 50 else "")
    return f"the columns are {shown}" if columns else "there are no columns"
