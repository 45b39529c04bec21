import base64
import hashlib
import re

import numpy as np
import pytest

from steelyard.errors import ShapeError
from steelyard.report import View, build, html, render
from tests.report.cases import examples, scores
from tests.report.reading import Page

PAGES = ["digits_page", "hostile_page", "table_page"]


@pytest.fixture(params=PAGES)
def page(request):
    return request.getfixturevalue(request.param)


def test_the_page_is_well_formed(page):
    read = Page(page)
    assert read.declared == "doctype html"
    assert read.named("html") == [{"lang": "en"}]
    titles = [a for a in read.named("title") if "id" not in a]  # those of drawings have one
    assert len(read.named("h1")) == len(read.named("main")) == len(titles) == 1


def test_headings_go_down_one_level_at_a_time(page):
    levels = [int(tag[1]) for tag, _ in Page(page).elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))


def test_nothing_is_loaded_from_anywhere(page):
    for tag, attributes in Page(page).elements:
        for name, value in attributes.items():
            if name in ("src", "href", "srcset", "action", "data", "xlink:href", "poster"):
                assert value.startswith(("data:image/png;base64,", "#")) or (tag, value) == (
                    "link",
                    "data:,",
                ), value
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style and "@import" not in style


def test_no_script_and_no_inline_handlers(page):
    for tag, attributes in Page(page).elements:
        assert tag not in ("script", "iframe", "object", "embed", "base", "form", "foreignobject")
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "srcdoc")]


def test_the_content_policy_allows_exactly_our_style(page):
    policy = next(
        m["content"] for m in Page(page).named("meta") if m.get("http-equiv") == "Content-Security-Policy"
    )
    style = page[page.index("<style>") + 7 : page.index("</style>")]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    )


def test_everything_has_an_accessible_name(page):
    read = Page(page)
    assert all(image.get("alt") for image in read.named("img"))
    for drawing in read.named("svg"):
        assert drawing.get("aria-hidden") == "true" or drawing.get("role") == "img"
    ids = [a["id"] for _, a in read.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in read.elements:
        for target in (attributes.get("aria-labelledby") or "").split():
            assert target in ids
        if (attributes.get("href") or "").startswith("#"):
            assert attributes["href"][1:] in ids
    tables = page.split("<table")[1:]
    assert all("<caption>" in t.split("</table>")[0] for t in tables)
    assert all(th.get("scope") in ("col", "row") for th in read.named("th"))


def test_hostile_text_is_shown_and_never_obeyed(hostile_page):
    read = Page(hostile_page)
    shown = read.text()
    assert "<script>document.title='owned'</script>" in shown
    assert '"><img src=x onerror="document.title=\'owned\'">' in shown
    assert "</textarea></style><b>bold</b>{{ 7*7 }}{% raw %}" in shown
    assert not read.named("script") and not read.named("b") and not read.named("img")
    assert len(read.named("style")) == 1
    for character in "\x1b\x07\u202e\u2066\u200b\ufeff\x00":
        assert character not in hostile_page
    assert "⟨U+001B⟩[31mred" in shown and "⟨U+202E⟩txt.exe" in shown and "⟨U+DFFF⟩" in shown


def test_digits_are_drawn_with_their_names(digits_page):
    images = Page(digits_page).named("img")
    assert len(images) >= 12 * 11
    assert {"width": "8", "height": "8"}.items() <= images[0].items()
    assert any(re.fullmatch(r"training example digit-\d{4}, label \d", image["alt"]) for image in images)
    assert any(re.fullmatch(r"query query-\d{4}, label \d", image["alt"]) for image in images)


def test_numbers_of_a_known_report(digits_page, digits_report):
    text = Page(digits_page).text()
    assert "0.012 (0.003 to 0.021)" in text
    assert "lowered the loss of the queries by 0.012 nats more than dropping 30 random ones" in text
    assert "Shown: 12 of 30, those with the highest measured loss." in text
    worst = str(digits_report.query.ids[np.argmax(digits_report.query.column("measured"))])
    assert text.index(f"Query 1: {worst}") < text.index("Query 2:")
    flipped = set(digits_report.truth["flipped"])
    hits = len(flipped & set(digits_report.plans[0].ids.tolist()))
    assert (
        f"{hits} of these 30 are known to be flipped (precision {hits / 30 * 100:.0f}\u00a0%, by chance 5\u00a0%)"
        in text
    )


def test_the_strongest_examples_stand_by_their_query():
    values = np.zeros((6, 2))
    values[:, 0] = [0.5, -0.25, 0.1, -1.0, 0.0, 2.0]
    values[:, 1] = 1.0
    train = examples({"x": np.arange(6.0)}, inputs=("x",), label=None, prefix="t")
    query = examples({"x": np.arange(2.0)}, inputs=("x",), label=None, prefix="q")
    text = Page(render(build(scores(values, train, query)), view=View(examples=2))).text()
    first, second = text.split("Query 1: q-0000")[1].split("Query 2: q-0001")
    assert re.findall(r"([+−][\d.]+) (t-\d+)", first) == [
        ("+2.00", "t-0005"),
        ("+0.500", "t-0000"),
        ("−1.00", "t-0003"),
        ("−0.250", "t-0001"),
    ]
    assert "No training example has a score of this sign." in second


def test_similarities_are_not_called_help_or_harm():
    train = examples({"x": np.arange(6.0)}, inputs=("x",), label=None, prefix="t")
    query = examples({"x": np.arange(2.0)}, inputs=("x",), label=None, prefix="q")
    values = np.random.default_rng(0).random((6, 2))
    text = Page(render(build(scores(values, train, query, unit="rank")))).text()
    assert "Most similar" in text and "Helped most" not in text and "say nothing about amounts" in text


def test_scores_per_example():
    train = examples({"x": np.arange(60.0)}, inputs=("x",), label=None, prefix="t")
    query = examples({"x": np.arange(2.0)}, inputs=("x",), label=None, prefix="q")
    values = np.abs(np.random.default_rng(0).standard_normal((60, 1)))
    made = build(
        scores(values, train, query, method="SelfInfluence()", axis="example", suspect="high"), train=train
    )
    read = Page(render(made))
    worst = f"t-{int(values.argmax()):04}"
    assert "Most suspect training examples" in read.text() and "Query 1" not in read.text()
    assert read.text().split("These are")[1].split("t-")[1][:4] == worst[2:]


def test_differences_from_the_query_are_marked_by_a_sign_too(table_page):
    read = Page(table_page)
    marks = [words for tag, words in read.words if tag == "mark"]
    assert marks and all(words.startswith("≠ ") for words in marks)


def test_hostile_tables_are_shown_and_never_obeyed():
    attack = "<script>document.title='owned'</script>"
    columns = {
        "age": np.arange(12) * 10,
        attack: np.array([attack, "calm", '"><b>'] * 4, object),
        "label": np.arange(12) % 2,
    }
    train, query = (
        examples(columns, inputs=("age", attack), label="label", prefix=prefix) for prefix in ("row", "case")
    )
    report = build(
        scores(np.random.default_rng(0).standard_normal((12, 12)), train, query, method="GradDot()"),
        train=train,
        query=query,
    )
    read = Page(render(report))
    assert not read.named("script") and not read.named("b")
    assert attack in read.text()
    marks = [words for tag, words in read.words if tag == "mark"]
    # Which cells differ is told apart from which do not, words and numbers alike.
    assert any("calm" in words for words in marks) and any(words[2:].isdigit() for words in marks)


def test_the_documented_call_needs_ids_only(digits_report, tmp_path):
    scores_, plan, proof = digits_report.scores[0], digits_report.plans[0], digits_report.evidence[0]
    path = html(scores_, plan, proof, path=tmp_path / "report.html")
    text = Page(path.read_text(encoding="utf-8")).text()
    assert str(plan.ids[0]) in text and "lowered the loss" in text
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_report_is_not_mixed_with_records(digits_report, tmp_path):
    with pytest.raises(ShapeError, match="report.build"):
        html(digits_report, digits_report.plans[0], path=tmp_path / "report.html")


def test_the_same_report_gives_the_same_bytes(text_report):
    assert render(text_report) == render(text_report)


def test_a_typical_page_is_small(digits_page):
    assert len(digits_page.encode()) < 400_000
