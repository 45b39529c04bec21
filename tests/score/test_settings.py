"""Settings from text: every kind of field, and errors that say what would be right."""

from dataclasses import dataclass
from typing import Literal

import pytest

from steelyard.errors import SettingError
from steelyard.score.settings import did_you_mean, parse_settings


@dataclass(frozen=True)
class Everything:
    damping: float | Literal["auto"] = "auto"
    count: int = 3
    exact: bool = False
    sizes: tuple[int, ...] = ()
    kind: Literal["true", "empirical"] = "true"
    limit: int | None = None
    name: str | int = ""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ({"damping": "0.1"}, {"damping": 0.1}),
        ({"damping": "auto"}, {"damping": "auto"}),
        ({"count": "7"}, {"count": 7}),
        ({"exact": "TRUE"}, {"exact": True}),
        ({"exact": "false"}, {"exact": False}),
        ({"sizes": "1, 2,3"}, {"sizes": (1, 2, 3)}),
        ({"kind": "empirical"}, {"kind": "empirical"}),
        ({"limit": "none"}, {"limit": None}),
        ({"limit": "4"}, {"limit": 4}),
        ({"name": "4"}, {"name": 4}),
        ({"name": "x"}, {"name": "x"}),
        ({}, {}),
    ],
)
def test_text_becomes_the_value_of_its_type(text, value):
    assert parse_settings(Everything, text, owner="everything") == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"damping": "high"}, "damping='high' is not number or auto"),
        ({"count": "1.5"}, "is not whole number"),
        ({"exact": "yes"}, "is not true or false"),
        ({"sizes": "1,x"}, "a comma-separated list of whole numbers"),
        ({"kind": "fisher"}, "is not true or empirical"),
        ({"dampin": "1"}, "did you mean 'damping'"),
    ],
)
def test_errors_say_what_would_be_right(text, message):
    with pytest.raises(SettingError, match=message):
        parse_settings(Everything, text, owner="everything")


def test_did_you_mean():
    assert did_you_mean("EKFC", ["ekfac", "trak"]) == "; did you mean 'ekfac'?"
    assert did_you_mean("something else", ["ekfac"]) == "."
