import numpy as np
import pytest

from steelyard.report import annotate
from steelyard.report.showing import Gallery, kind_of, objects
from tests.report.cases import examples


def rows(**columns):
    return examples(columns, inputs=tuple(columns), label=None, prefix="e")


def test_kinds_are_told_by_the_columns():
    text = np.array(["a", "b"], object)
    assert kind_of(rows(input=np.random.default_rng(0).random((2, 64)))) == "image"
    assert kind_of(rows(input=np.random.default_rng(0).standard_normal((2, 5)))) == "row"
    assert kind_of(rows(text=text)) == "text"
    assert kind_of(rows(prompt=text, completion=text)) == "text"
    assert kind_of(rows(messages=objects([[{"role": "user", "content": "hi"}]] * 2))) == "text"
    assert kind_of(rows(city=text, age=np.array([1, 2]))) == "row"
    assert kind_of(rows(a=text, b=text, c=text)) == "row"


def test_unknown_ids_are_shown_as_ids():
    gallery = Gallery(rows(text=np.array(["hello"], object)), ["e-0000", "elsewhere"], "auto")
    assert gallery.show("e-0000").kind == "text"
    assert gallery.show("elsewhere").kind == "id"


def test_turns_of_a_conversation_are_parts():
    turns = [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "because"}]
    shown = Gallery(rows(messages=objects([turns])), ["e-0000"], "auto").show("e-0000")
    assert [(part.name, part.head) for part in shown.parts] == [("user", "why?"), ("assistant", "because")]


def test_long_text_is_cut_at_a_word_and_nothing_is_lost():
    text = "word " * 200
    (part,) = Gallery(rows(text=np.array([text], object)), ["e-0000"], "auto").show("e-0000").parts
    assert part.head + part.rest == text
    assert len(part.head) <= 240 and part.head.endswith("word")


def test_numbers_differ_beyond_a_tenth_of_their_range_and_words_when_unequal():
    table = rows(age=np.array([20, 24, 70]), city=np.array(["Oslo", "Oslo", "Lyon"], object))
    gallery = Gallery(table, list(table.ids), "auto")
    query = gallery.values("e-0000")
    near, far = (gallery.show(name, beside=query).cells for name in ("e-0001", "e-0002"))
    assert [cell.differs for cell in near] == [False, False]
    assert [cell.differs for cell in far] == [True, True]


def test_a_missing_value_differs_from_every_number_and_from_no_other():
    gone = np.nan
    table = rows(age=np.array([20.0, gone, gone, 21.0, 70.0]), never=np.full(5, gone))
    gallery = Gallery(table, list(table.ids), "auto")
    for query, near, far in ((0, 3, 1), (1, 2, 3)):
        beside = gallery.values(f"e-{query:04d}")
        shown = [gallery.show(f"e-{k:04d}", beside=beside).cells for k in (near, far)]
        assert [[cell.differs for cell in cells] for cells in shown] == [[False, False], [True, False]]


def test_wide_rows_say_what_is_hidden():
    shown = Gallery(rows(input=np.random.default_rng(0).standard_normal((2, 30))), ["e-0000"], "auto").show(
        "e-0000"
    )
    assert len(shown.cells) == 24 and shown.hidden == 6
    assert shown.cells[3].name == "input[3]"


@pytest.mark.parametrize(("wide", "unlike"), [(30, 6), (60, 40), (300, 300)])
def test_of_many_columns_those_that_differ_come_first_and_none_of_them_is_hidden(wide, unlike):
    values = np.zeros((4, wide))
    values[1:, -unlike:] = 1.0
    values[1, -1], values[1, -2] = 0.0, 0.0  # these two differ in fewer rows than the others
    table = rows(input=values)
    gallery = Gallery(table, list(table.ids), "row")
    query = gallery.values("e-0000")
    columns = gallery.columns(query, ["e-0001", "e-0002", "e-0003"])
    shown = gallery.show("e-0002", beside=query, columns=columns)
    most = min(unlike, 200)
    assert [cell.differs for cell in shown.cells] == [True] * most + [False] * max(0, 24 - unlike)
    assert shown.cells[0].name == f"input[{wide - unlike}]"
    assert (shown.hidden, shown.unlike) == (wide - max(24, most), unlike - most)
    if unlike == 6:
        assert [cell.name for cell in shown.cells[4:7]] == ["input[28]", "input[29]", "input[0]"]
    asked = gallery.show("e-0000", columns=columns)
    assert [cell.name for cell in asked.cells] == [cell.name for cell in shown.cells]


def test_few_columns_keep_their_order():
    table = rows(a=np.array([1.0, 1.0]), b=np.array([1.0, 2.0]), c=np.array([3.0, 3.0]))
    gallery = Gallery(table, list(table.ids), "row")
    assert gallery.columns(gallery.values("e-0000"), ["e-0001"]) is None
    shown = gallery.show("e-0001", beside=gallery.values("e-0000"))
    assert [(cell.name, cell.differs) for cell in shown.cells] == [("a", False), ("b", True), ("c", False)]


def test_the_caller_can_choose_how_to_show():
    standardised = rows(input=np.random.default_rng(0).standard_normal((3, 64)))
    assert Gallery(standardised, ["e-0000"], "auto").kind == "row"
    drawn = Gallery(standardised, ["e-0000"], "image").show("e-0000")
    assert drawn.picture is not None and (drawn.picture.width, drawn.picture.height) == (8, 8)


def test_annotations_are_shown_and_do_not_change_the_checksum():
    plain = rows(text=np.array(["a", "b"], object))
    noted = annotate(plain, measured=np.array([0.5, 2.0]), predicted=["x", "y"])
    shown = Gallery(noted, list(noted.ids), "auto").show("e-0001")
    assert (shown.predicted, shown.measured) == ("y", "2")
    assert noted.checksum == plain.checksum


@pytest.mark.parametrize("label", ["<b>", "\x1b[31m", "\u202e"])
def test_accessible_names_are_clean(label):
    made = examples(
        {"text": np.array(["a"], object), "label": np.array([label], object)},
        inputs=("text",),
        label="label",
        prefix="e",
    )
    name = Gallery(made, ["e-0000"], "auto").show("e-0000").name("training example")
    assert name.startswith("training example e-0000, label ") and "\x1b" not in name and "\u202e" not in name
