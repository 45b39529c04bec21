"""Settings as text, such as ``damping=0.1``, read by the types that a method's fields declare."""

import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, Union, get_args, get_origin

from steelyard.errors import SettingError


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"; did you mean 'ekfac'?"`` for a near miss, else a full stop."""
    spelled = {item.lower(): item for item in known}
    close = difflib.get_close_matches(name.lower(), spelled, n=1)
    return f"; did you mean {spelled[close[0]]!r}?" if close else "."


def parse_settings(kind: type, settings: Mapping[str, str], *, owner: str) -> dict[str, Any]:
    """Values of a dataclass's fields from their text.

    Args:
        kind: The dataclass.
        settings: Field name to text.
        owner: Whose settings these are, for errors.

    Raises:
        SettingError: If there is no such field, or its type does not take the text.
    """
    return parse_values({item.name: item.type for item in fields(kind) if item.init}, settings, owner=owner)


def parse_values(declared: Mapping[str, Any], settings: Mapping[str, str], *, owner: str) -> dict[str, Any]:
    """Values of named settings from their text.

    Args:
        declared: Name to type.
        settings: Name to text.
        owner: Whose settings these are, for errors.

    Raises:
        SettingError: If there is no such setting, or its type does not take the text.
    """
    values: dict[str, Any] = {}
    for name, text in settings.items():
        if name not in declared:
            known = ", ".join(f"{item} ({describe(declared[item])})" for item in declared) or "none"
            raise SettingError(
                f"{owner} has no setting {name!r}{did_you_mean(name, declared)}",
                fix=f"its settings are: {known}.",
            )
        found, value = _parse(text, declared[name])
        if not found:
            raise SettingError(
                f"{owner}: {name}={text!r} is not {describe(declared[name])}.",
                fix=f"give {name}=VALUE with VALUE being {describe(declared[name])}.",
            )
        values[name] = value
    return values


def describe(annotation: Any) -> str:
    """A field's type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(str(item) for item in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(item) for item in arguments)
    if origin in (tuple, Sequence):
        return f"a comma-separated list of {describe(arguments[0])}s"
    plain = {float: "number", int: "whole number", bool: "true or false", str: "text", type(None): "none"}
    return plain.get(annotation, "something that only Python code can give")


def describe_settings(kind: type) -> dict[str, str]:
    """Name to type in words, for every setting of a method."""
    return {item.name: describe(item.type) for item in fields(kind) if item.init}


def _parse(text: str, annotation: Any) -> tuple[bool, Any]:
    """Whether the type takes the text, and the value."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return next(((True, item) for item in arguments if str(item) == text), (False, None))
    if origin in (Union, types.UnionType):
        tried = (_parse(text, item) for item in sorted(arguments, key=lambda item: item is str))
        return next(((True, value) for found, value in tried if found), (False, None))
    if origin in (tuple, Sequence):
        parts = [_parse(part.strip(), arguments[0]) for part in text.split(",") if part.strip()]
        return all(found for found, _ in parts), tuple(value for _, value in parts)
    if annotation in (int, float):
        try:
            return True, annotation(text)
        except ValueError:
            return False, None
    words: dict[Any, dict[str, Any]] = {bool: {"true": True, "false": False}, type(None): {"none": None}}
    if annotation in words:
        return text.lower() in words[annotation], words[annotation].get(text.lower())
    return annotation is str, text
