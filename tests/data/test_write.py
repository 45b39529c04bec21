"""Writing: what is read again is what was written; formulas are defused; the file is whole or absent."""

import csv
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steelyard.data import Limits, read, write
from steelyard.errors import DataError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
INTEGERS = st.integers(-(2**70), 2**70)
NESTED = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
VALUES = {
    "integers": INTEGERS,
    "small": st.integers(-5, 5),
    "fractions": NUMBERS,
    "numbers": st.integers(-5, 5) | NUMBERS,
    "flags": st.booleans(),
    "words": TEXTS,
    "vector": st.lists(st.integers(0, 9), min_size=2, max_size=2),
    "matrix": st.lists(st.lists(NUMBERS, min_size=2, max_size=2), min_size=1, max_size=1),
    "ragged": st.lists(st.integers(0, 9), max_size=3),
    "nested": NESTED,
}


@st.composite
def row_lists(draw):
    names = draw(st.lists(st.sampled_from(sorted(VALUES)), unique=True))
    columns = {name: VALUES[name] for name in names}
    optional = {
        f"maybe {name}": st.none() | VALUES[name] for name in draw(st.sets(st.sampled_from(sorted(VALUES))))
    }
    fixed = {"text": TEXTS, **columns, **optional}
    return draw(st.lists(st.fixed_dictionaries(fixed, optional={"sometimes": TEXTS}), min_size=1, max_size=6))


def assert_same(a, b):
    assert a.ids.tolist() == b.ids.tolist()
    assert a.checksum == b.checksum
    assert a.inputs == b.inputs and a.label == b.label
    assert sorted(a.columns) == sorted(b.columns)
    for name in a.columns:
        assert repr(a.columns[name][:].tolist()) == repr(b.columns[name][:].tolist()), name


ROUND_TRIPS = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@ROUND_TRIPS
@given(rows=row_lists())
def test_json_lines_give_the_same_examples_as_the_rows(tmp_path, rows):
    direct = read(rows)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert_same(read(path), direct)


@ROUND_TRIPS
@given(rows=row_lists())
def test_written_json_lines_give_the_same_examples(tmp_path, rows):
    direct = read(rows)
    assert_same(read(write(direct, tmp_path / "rows.jsonl")), direct)


@settings(ROUND_TRIPS, max_examples=25)
@given(rows=row_lists())
def test_streaming_gives_the_same_examples(tmp_path, rows):
    # A cache of its own for each: rows that differ in keys that hold None are the same data, and share an entry.
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    assert_same(read(rows, limits=Limits(memory=0, cache=folder)), read(rows))


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".csv", ".csv.gz"])
def test_every_format_is_read_again(tmp_path, ending):
    rows = [
        {"text": "plain", "label": 1, "score": 0.1, "flag": True},
        {"text": "commas, \"quotes\"\nand lines", "label": 0, "score": -2.5e-300, "flag": False},
        {"text": "ünï\U0001f600 \x01", "label": 2, "score": 1e300, "flag": True},
    ]  # fmt: skip
    examples = read(rows)
    path = write(examples, tmp_path / f"rows{ending}")
    assert_same(read(path), examples)
    assert [file.name for file in tmp_path.iterdir()] == [path.name], "no partial file is left"


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_arrays_nested_values_and_gaps_are_read_again(tmp_path, ending):
    examples = read(
        {
            "id": np.array(["a", "b", "c"]),
            "input": np.random.default_rng(0).normal(size=(3, 2, 2)).astype(np.float32),
            "label": np.array([0, 1, 1]),
        }
    )
    again = read(write(examples, tmp_path / f"a{ending}"))
    assert again.ids.tolist() == ["a", "b", "c"] and again.checksum == examples.checksum
    np.testing.assert_array_equal(again.columns["input"][:], examples.columns["input"])
    chat = read(
        [
            {"messages": [{"role": "user", "content": "hi"}], "note": None, "n": None},
            {
                "messages": [{"role": "user", "content": "yo"}, {"role": "bot", "content": "hm"}],
                "note": "x",
                "n": 2,
            },
        ]
    )
    assert_same(read(write(chat, tmp_path / f"b{ending}")), chat)


def test_streamed_examples_are_written_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["steelyard.data.write"], "_BLOCK", 100)
    rows = [{"text": f"t{i}", "x": i, "v": [i, 1], "tags": ["a"] * (i % 3)} for i in range(250)]
    streamed = read(rows, limits=Limits(memory=0, cache=tmp_path / "cache"))
    assert_same(read(write(streamed, tmp_path / "a.jsonl")), read(rows))


def test_a_cell_that_starts_a_formula_is_defused(tmp_path):
    texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "fine = 1", "'quoted"]
    path = write(read({"text": np.array(texts, dtype=object), "n": -np.ones(8)}), tmp_path / "a.csv")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == [*("'" + text for text in texts[:6]), *texts[6:]]
    assert {row["n"] for row in rows} == {"-1.0"}, "numbers are numbers"


def test_column_names_and_ids_are_defused_too(tmp_path):
    path = write(read([{"id": "=cmd()", "@name": "x"}]), tmp_path / "a.csv")
    assert path.read_text() == '"id","\'@name"\n"\'=cmd()","x"\n'


def test_an_existing_column_named_id_keeps_its_name(tmp_path):
    examples = read([{"text": "a", "id": "x"}], id="")
    path = write(examples, tmp_path / "a.jsonl")
    assert json.loads(path.read_text()) == {"example_id": examples.ids[0], "text": "a", "id": "x"}
    with pytest.raises(DataError, match="columns named 'id' and 'example_id' leave no name"):
        write(read([{"text": "a", "id": "x", "example_id": "y"}], id=""), tmp_path / "b.jsonl")


def test_missing_numbers_are_null(tmp_path):
    path = write(read([{"text": "a", "n": 1.5}, {"text": "b"}]), tmp_path / "a.jsonl")
    assert [json.loads(line)["n"] for line in path.read_text().splitlines()] == [1.5, None]


def test_what_a_format_cannot_hold_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(
        DataError, match=r"a.csv: column 'input' has 4 numbers per example[\s\S]*\.jsonl or \.parquet"
    ):
        write(read(np.ones((2, 2, 2))), tmp_path / "a.csv")
    with pytest.raises(
        DataError, match=r"a.parquet: Parquet cannot hold a column of several types[\s\S]*\.jsonl"
    ):
        write(read([{"text": "a", "x": 1}, {"text": "b", "x": "one"}]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.jsonl: example '.{16}' holds a value that JSON cannot say"):
        write(read({"text": np.array(["a"]), "x": np.array([np.inf])}), tmp_path / "a.jsonl")
    with pytest.raises(DataError, match=r"a.xlsx: unknown file type '.xlsx'"):
        write(read(np.ones(2)), tmp_path / "a.xlsx")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"absent/a.jsonl: cannot be written: No such file or directory"):
        write(read(np.ones(2)), tmp_path / "absent" / "a.jsonl")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    write(read(np.ones(2)), tmp_path / "a.jsonl")
    before = (tmp_path / "a.jsonl").read_text()
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match=r"a.jsonl: cannot be written: No space left on device") as caught:
        write(read(np.zeros(5)), tmp_path / "a.jsonl")
    assert "space on the disk" in caught.value.fix
    assert (tmp_path / "a.jsonl").read_text() == before, "the earlier file is untouched"
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]
