"""Tokens on the page: marked by sign and size, escaped, the same after a report was saved and loaded."""

import re
from dataclasses import replace

import numpy as np
import pytest

from steelyard.records import PartScores, Report, TokenScores
from steelyard.report import load, render, save, shown_pairs, text
from steelyard.report.tokens import highlighted, largest, part_tables
from tests.report.cases import HOSTILE, LOSS, text_report


def with_tokens(report: Report, texts=None) -> Report:
    """Every shown pair with one token per word of the completion, alternately helping and harming."""
    pairs = shown_pairs(report.scores[0], report.query)
    at = {str(name): i for i, name in enumerate(report.train.ids)}
    column = report.train.column("completion")
    words = {train: texts[at[train] % len(texts)] if texts else str(column[at[train]]) for train, _ in pairs}
    spans = [[match.span() for match in re.finditer(r"\S+", words[train])] for train, _ in pairs]
    counts = [len(one) for one in spans]
    values = np.concatenate(
        [np.linspace(0.1, 1.0, n) * np.where(np.arange(n) % 2, -1.0, 1.0) for n in counts]
    )
    tokens = TokenScores(
        train_ids=np.array([train for train, _ in pairs]),
        query_ids=np.array([query for _, query in pairs]),
        offsets=np.cumsum([0, *counts]),
        values=values,
        spans=np.concatenate([np.array(one) for one in spans]),
        rest=np.zeros(len(pairs)),
        texts=words,
        method=report.scores[0].method,
        unit="nats",
        measurement=LOSS,
    )
    parts = PartScores(
        by="layer",
        train_ids=tokens.train_ids,
        query_ids=tokens.query_ids,
        parts=("model.layers.0", "<b>model.layers.1</b>"),
        values=np.tile([3.0, -1.0], (len(pairs), 1)),
        rest=np.zeros(len(pairs)),
        method=tokens.method,
        unit="nats",
        measurement=LOSS,
    )
    return replace(report, splits=(tokens, parts))


def test_a_page_marks_tokens_by_sign_and_explains_them():
    page = render(with_tokens(text_report()))
    assert page.count('class="helps l4"') > 3 and page.count('class="harms l4"') > 3
    assert "Tokens:" in page and "which helps" in page
    assert re.search(r'<span class="helps l\d" title="\+[\d.]+">', page)
    assert re.search(r'<span class="harms l\d" title="−[\d.]+">', page)
    assert "Tokens:" not in render(text_report())


def test_words_keep_their_order_and_spaces():
    report = with_tokens(text_report())
    tokens = report.splits[0]
    example, query = str(tokens.train_ids[0]), str(tokens.query_ids[0])
    pieces = highlighted(report, query, example, largest(report, query, [example]))
    assert "".join(piece.text for piece in pieces) == tokens.texts[example]
    marks = [piece.mark.split()[0] for piece in pieces if piece.mark]
    assert set(marks) == {"helps", "harms"}


def test_hostile_tokens_are_shown_and_do_nothing():
    page = render(with_tokens(text_report(hostile=True), texts=HOSTILE))
    assert "<script" not in page
    assert "<img src=x" not in page and "<svg onload" not in page
    assert "\x1b" not in page and "\u202e" not in page and "⟨U+001B⟩" in page
    assert "&lt;script&gt;" in page
    assert "<b>model" not in page and "&lt;b&gt;model.layers.1" in page


def test_tokens_that_share_characters_are_added_up():
    report = with_tokens(text_report())
    tokens = report.splits[0]
    one = TokenScores(
        train_ids=tokens.train_ids[:1],
        query_ids=tokens.query_ids[:1],
        offsets=np.array([0, 4]),
        values=np.array([5.0, 1.0, 2.0, -0.5]),
        spans=np.array([[0, 0], [0, 1], [0, 1], [2, 3]]),
        rest=np.zeros(1),
        texts={str(tokens.train_ids[0]): "😀 b and the rest"},
        method="EKFAC()",
        unit="nats",
        measurement=LOSS,
    )
    report = replace(report, splits=(one,))
    pieces = highlighted(report, str(one.query_ids[0]), str(one.train_ids[0]), 3.0)
    assert [(p.text, p.mark) for p in pieces] == [
        ("😀", "helps l4"), (" ", ""), ("b", "harms l1"), (" and the rest", ""),
    ]  # fmt: skip


def test_long_texts_end_with_how_much_is_left():
    report = with_tokens(text_report(), texts=["word " * 2000])
    tokens = report.splits[0]
    pieces = highlighted(report, str(tokens.query_ids[0]), str(tokens.train_ids[0]), 1.0)
    assert sum(len(piece.text) for piece in pieces) < 1500
    assert re.search(r"[\d,]+ more characters$", pieces[-1].text)


def test_parts_are_ordered_by_size_and_sum_to_all():
    (table,) = part_tables(with_tokens(text_report()))
    assert [row[0] for row in table.rows] == ["model.layers.0", "<b>model.layers.1</b>"]
    assert [row[1].replace("\u00a0", " ") for row in table.rows] == ["75.0 %", "25.0 %"]
    assert table.rows[0][3] == "0" and table.rows[1][2] == "0"


@pytest.mark.parametrize("hostile", [False, True])
def test_a_saved_report_gives_the_same_page(tmp_path, hostile):
    report = with_tokens(text_report(hostile), texts=HOSTILE[:4] if hostile else None)
    assert render(load(save(report, tmp_path / "report"))) == render(report)
    assert text(report)
