import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.report.wording import clean, clean_line, number, percent, scale, several, signed


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.012, "0.012"),
        (-0.0123456, "−0.0123"),
        (0.9996, "1"),
        (9.996, "10"),
        (99.96, "100"),
        (126.6, "127"),
        (1234567.0, "1,234,567"),
        (0.000012345, "1.23e−05"),
        (float("nan"), "–"),
        (None, "–"),
        (float("-inf"), "−∞"),
    ],
)
def test_numbers_keep_three_digits(value, text):
    assert number(value) == text


def test_scores_keep_their_zeros_and_their_sign():
    assert [signed(v) for v in (0.3, -0.29, 0.0)] == ["+0.300", "−0.290", "0"]


def test_small_words():
    assert percent(0.254) == "25\u00a0%"
    assert several(1, "query", "queries") == "1 query"
    assert several(1200, "query", "queries") == "1,200 queries"
    assert scale(3 * 2**20) == "3 MiB"


@given(st.text(st.characters(), max_size=60))
def test_nothing_invisible_survives(text):
    shown = clean(text)
    assert not [
        c
        for c in shown
        if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") and c not in "\n\t\u200c\u200d"
    ]
    shown.encode("utf-8")


def test_escapes_bidi_and_surrogates_become_visible():
    assert clean("a\x1b[31mb") == "a⟨U+001B⟩[31mb"
    assert clean("\u202etxt.exe\ud800") == "⟨U+202E⟩txt.exe⟨U+D800⟩"
    assert clean("hidden\U000e0041") == "hidden⟨U+E0041⟩"


def test_scripts_and_emoji_stay_as_they_are():
    for text in ("नमस्ते", "مرحبا", "👩‍🚀", "naïve — ‘quoted’"):
        assert clean(text) == text


def test_long_text_says_how_much_is_missing():
    assert clean("x" * 120, limit=100) == "x" * 100 + " … 20 more characters"


def test_one_line_keeps_no_break_spaces():
    assert clean_line(" a\n\tb  95\u00a0% ") == "a b 95\u00a0%"
