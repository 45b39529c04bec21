import json
from dataclasses import replace

import numpy as np
import pytest

from steelyard.errors import DataError
from steelyard.report import View, build, judge, load, render, save
from steelyard.report.selection import shown_ids
from steelyard.report.showing import objects
from tests.report.cases import examples, scores


@pytest.mark.parametrize("name", ["digits_report", "text_report", "hostile_report", "table_report"])
def test_a_loaded_report_gives_the_same_page(name, request, tmp_path):
    made = request.getfixturevalue(name)
    again = load(save(made, tmp_path / "report"))
    assert render(again) == render(made)
    assert again.findings == made.findings and again.verdict == made.verdict
    assert again.truth == {k: tuple(v) for k, v in made.truth.items()}


def test_judging_a_loaded_report_again_comes_to_the_same(digits_report, tmp_path):
    again = judge(load(save(digits_report, tmp_path / "report")))
    assert again.findings == digits_report.findings and again.verdict == digits_report.verdict


def test_only_shown_examples_are_kept(digits_report, tmp_path):
    view = View(queries=2, examples=2, plan=3)
    again = load(save(digits_report, tmp_path / "report", view=view))
    trains, queries = shown_ids(digits_report, view)
    assert again.train.ids.tolist() == trains and again.query.ids.tolist() == queries
    assert len(trains) <= 3 + 3 + 2 * 4
    assert render(again, view=view) == render(digits_report, view=view)


def test_a_larger_view_falls_back_to_ids(digits_report, tmp_path):
    again = load(save(digits_report, tmp_path / "report", view=View(queries=2, examples=1, plan=1)))
    page = render(again, view=View(queries=2, examples=4, plan=1))
    assert page.count("<img") < render(digits_report, view=View(queries=2, examples=4, plan=1)).count("<img")


def test_no_pickle_anywhere(text_report, tmp_path):
    folder = save(text_report, tmp_path / "report")
    for path in folder.rglob("*"):
        if path.suffix in (".npy", ".npz"):
            np.load(path, allow_pickle=False)
        assert path.is_dir() or path.suffix in (".json", ".jsonl", ".npy", ".npz")


def test_odd_values_are_shown_alike_before_and_after(tmp_path):
    columns = {
        "when": np.array(["2024-01-02", "2024-01-03"], "datetime64[D]"),
        "tags": objects([["a", "b"], ["c"]]),
        "size": objects([np.float32(0.1), np.int64(3)]),
        "word": np.array(["x", None], object),
    }
    train = examples(columns, inputs=tuple(columns), label="word", prefix="t")
    query = examples({"when": columns["when"][:1]}, inputs=("when",), label=None, prefix="q")
    made = build(scores(np.array([[1.0], [-1.0]]), train, query), train=train, query=query)
    assert render(load(save(made, tmp_path / "report"))) == render(made)


def test_saving_again_replaces_and_foreign_folders_are_safe(text_report, tmp_path):
    folder = save(text_report, tmp_path / "report")
    again = load(folder)
    save(replace(again, title="second"), folder)
    assert load(folder).title == "second"
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError, match="holds no report"):
        save(text_report, tmp_path / "mine")
    assert not (tmp_path / "report.part").exists()


def test_what_is_no_report_is_refused(tmp_path):
    with pytest.raises(DataError, match="no report here"):
        load(tmp_path)
    (tmp_path / "report.json").write_text(json.dumps({"steelyard": "report", "format": 99}))
    with pytest.raises(DataError, match="upgrade"):
        load(tmp_path)
