"""Numbers and foreign text as the report writes them: short, aligned, and harmless to terminal and page."""

import math
import re
import unicodedata
from typing import Any

_KEPT = {"\n", "\t", "\u200c", "\u200d"}  # joiners carry meaning in several scripts and in emoji
_UNSAFE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
_BLANKS = re.compile(r"[ \t\n]+")
_MINUS = "\u2212"


def clean(text: Any, *, limit: int = 20_000) -> str:
    r"""Foreign text with everything invisible made visible.

    Control characters (so also terminal escapes), bidirectional overrides, zero-width and tag characters and
    lone surrogates become ``⟨U+001B⟩``; line breaks and tabs stay. HTML is not escaped here: the template does
    that for every value.

    Args:
        text: Anything from the data; what is not a string is shown by ``str``.
        limit: Longest text in characters; what is cut off is counted at the end.

    Example:
        >>> clean("a\x1b[31mb\u202ec")
        'a⟨U+001B⟩[31mb⟨U+202E⟩c'
    """
    whole = text if isinstance(text, str) else str(text)
    shown = whole[:limit].replace("\r\n", "\n")
    if not shown.isascii() or not shown.isprintable():
        shown = "".join(_visible(c) for c in shown)
    return shown if len(whole) <= limit else f"{shown} … {len(whole) - limit:,} more characters"


def clean_line(text: Any, *, limit: int = 200) -> str:
    """Foreign text as one line: as :func:`clean`, with line breaks and tabs as spaces."""
    # Not str.split, which would also take the no-break spaces before percent signs.
    return _BLANKS.sub(" ", clean(text, limit=limit)).strip(" ")


def number(value: float | int | None, digits: int = 3, *, padded: bool = False) -> str:
    """A number to a few significant digits, with a true minus sign; an en dash where there is none.

    Args:
        value: The number.
        digits: Significant digits; whole numbers keep all of theirs.
        padded: Whether to keep trailing zeros, for columns of numbers.

    Example:
        >>> number(-0.0123456), number(1234567.0), number(None)
        ('−0.0123', '1,234,567', '–')
    """
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    size = abs(value)
    if size >= 10 ** (digits - 1):
        text = f"{size:,.0f}"
    elif size == 0 or size >= 1e-4:
        text = f"{size:.{_decimals(size, digits)}f}"
        text = text if padded or "." not in text else text.rstrip("0").rstrip(".")
    else:
        text = f"{size:.{digits - 1}e}".replace("e-", f"e{_MINUS}")
    return f"{_MINUS}{text}" if value < 0 else text


def signed(value: float | int | None, digits: int = 3, *, padded: bool = True) -> str:
    """As :func:`number` for a column of scores: trailing zeros stay, positive numbers carry a plus sign."""
    text = number(value, digits, padded=padded)
    return f"+{text}" if value is not None and value > 0 else text


def percent(share: float | int, digits: int = 0) -> str:
    """A share as a percentage.

    Example:
        >>> percent(0.25), percent(0.004, 1)
        ('25 %', '0.4 %')
    """
    return f"{share * 100:.{digits}f}\u00a0%".replace("-", _MINUS)


def interval(low: float | int, high: float | int, digits: int = 3) -> str:
    """An interval in words.

    Example:
        >>> interval(-0.1, 0.25)
        '−0.1 to 0.25'
    """
    return f"{number(low, digits)} to {number(high, digits)}"


def several(count: int, noun: str, plural: str = "") -> str:
    """A count with its noun.

    Example:
        >>> several(1, "query", "queries"), several(1200, "example")
        ('1 query', '1,200 examples')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


_METRICS = {
    "retraining": "Retraining",
    "lds": "LDS",
    "removal_curve": "Removal curve",
    "calibration": "Calibration",
    "mislabel_auc": "Mislabel AUC",
    "tail_patch": "Tail patch",
    "qld": "QLD",
    "loo": "Leave-one-out",
    "retain_curve": "Retain curve",
    "targeted_edit": "Targeted edit",
    "poison": "Poisoned labels",
    "fix_labels": "Fixed labels",
    "mrr": "MRR",
    "recall": "Recall",
    "mixed_data": "Mixed data",
    "seed_stability": "Seed stability",
    "model_randomisation": "Model randomisation",
}


def metric(name: str) -> str:
    """A metric's short name for people; unknown ones in their own words."""
    return _METRICS.get(name) or clean_line(name.replace("_", " ").capitalize(), limit=60)


def scale(value: float | int) -> str:
    """A size in bytes for people."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= size:
            return f"{number(value / size)} {unit}"
    return f"{value:.0f} B"


def _visible(character: str) -> str:
    if character in _KEPT or unicodedata.category(character) not in _UNSAFE:
        return character
    return f"⟨U+{ord(character):04X}⟩"


def _decimals(size: float, digits: int) -> int:
    if size == 0:
        return 0
    return max(0, digits - 1 - math.floor(math.log10(size)))
