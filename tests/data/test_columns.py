"""Columns over Arrow and files slice like arrays."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steelyard.data.columns import ArrowColumn, FileColumn, from_arrow, to_arrow
from steelyard.data.identity import content_ids, id_width, occurrences
from steelyard.data.kinds import BOOL, DOUBLE, INTEGER, MIXED, NULL, TEXT, Kind, kind_of_array, objects, widen
from steelyard.data.values import values_of
from steelyard.records import Column

MATRIX = Kind("number", "float32", (2, 3))
BIG = Kind("number", "int64", (), big=True)
KINDS = [
    NULL, BOOL, INTEGER, DOUBLE, BIG, TEXT, MIXED, MATRIX, Kind("bytes"),
    Kind("number", "uint8"), Kind("number", "int16"), Kind("number", "uint16"), Kind("number", "uint64"),
    Kind("number", "float32"), Kind("number", "int64", (3,)),
]  # fmt: skip
VALUES = {
    INTEGER: np.arange(10),
    BOOL: np.arange(10) % 3 == 0,
    MATRIX: np.arange(60, dtype=np.float32).reshape(10, 2, 3),
    TEXT: objects([*"abcdefghi", None], 10),
    MIXED: objects([[1], {"a": [1, None]}, "x", 2, 0.5, None, True, [], {}, "ü"], 10),
    NULL: objects([None] * 10, 10),
}


@pytest.mark.parametrize("kind", VALUES, ids=str)
@given(cuts=st.lists(st.integers(0, 10), max_size=4), data=st.data())
def test_a_column_slices_like_its_array(kind, cuts, data):
    values = VALUES[kind]
    bounds = [0, *sorted(cuts), 10]
    chunks = tuple(to_arrow(values[a:b], kind) for a, b in zip(bounds, bounds[1:], strict=False))
    column = ArrowColumn(chunks, kind)
    assert isinstance(column, Column)
    assert len(column) == 10 and column.shape == values.shape and column.dtype == values.dtype
    assert np.asarray(column).tolist() == values.tolist()
    rows = data.draw(
        st.slices(10)
        | st.lists(st.integers(-10, 9), max_size=12).map(lambda rows: np.array(rows, dtype=np.int64))
        | st.lists(st.booleans(), min_size=10, max_size=10).map(np.array)
    )
    found = column[rows]
    assert isinstance(found, np.ndarray) and found.dtype == values.dtype and found.shape == values[rows].shape
    assert found.tolist() == values[rows].tolist()
    row = data.draw(st.integers(-10, 9))
    assert np.array_equal(column[row], values[row]) or column[row] == values[row]


def test_rows_beyond_the_end():
    column = ArrowColumn((pa.array([1, 2]),), INTEGER)
    for rows in (2, -3, np.array([0, 5])):
        with pytest.raises(IndexError):
            column[rows]


def test_numbers_of_one_chunk_are_not_copied():
    chunk = pa.array(np.arange(1000))
    view = ArrowColumn((chunk,), INTEGER)[100:200]
    assert view.base is not None and not view.flags.owndata


def test_missing_finds_the_first_none():
    column = ArrowColumn((pa.array(["a", "b"]), pa.array(["c", None, None])), TEXT)
    assert column.missing() == 3
    assert ArrowColumn((pa.array(["a"]),), TEXT).missing() is None


def test_a_file_column_reads_blocks(tmp_path):
    values = np.arange(60, dtype=np.float32).reshape(10, 2, 3)
    np.save(tmp_path / "a.npy", values)
    column = FileColumn(tmp_path / "a.npy", np.load(tmp_path / "a.npy", mmap_mode="r"))
    assert len(column) == 10
    for rows in (slice(0, 10), slice(3, 7), slice(8, 99), slice(10, 12)):
        np.testing.assert_array_equal(column[rows], values[rows])


@given(a=st.sampled_from(KINDS), b=st.sampled_from(KINDS), c=st.sampled_from(KINDS))
def test_widening_does_not_depend_on_order(a, b, c):
    assert widen(a, b) == widen(b, a)
    assert widen(widen(a, b), c) == widen(a, widen(b, c))
    assert widen(widen(a, b), b) == widen(a, b)


VALUE = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) |
    st.text(max_size=3) | st.lists(st.integers(0, 3) | st.floats(0, 1), max_size=2)
)  # fmt: skip


@given(values=st.lists(VALUE, min_size=1, max_size=8), cut=st.integers(0, 8))
def test_kinds_of_parts_widen_to_the_kind_of_the_whole(values, cut):
    parts = [part for part in (values[:cut], values[cut:]) if part]
    kinds = [values_of(part).kind for part in parts]
    assert (widen(*kinds) if len(kinds) == 2 else kinds[0]) == values_of(values).kind


@given(values=st.lists(VALUE, min_size=1, max_size=8))
def test_conversion_keeps_every_value(values):
    cells = values_of(values)
    back = cells.convert(cells.kind).tolist()
    for value, found in zip(values, back, strict=True):
        assert found == value or (value is None and found != found)
    array = cells.convert(cells.kind)
    assert from_arrow(to_arrow(array, cells.kind), cells.kind).tolist() == back or None in values


def test_kinds_of_arrays():
    assert kind_of_array(np.zeros((3, 2), dtype=np.int8)) == Kind("number", "int8", (2,))
    assert kind_of_array(np.array([2**53 + 1])) == BIG
    assert kind_of_array(np.array([2**63], dtype=np.uint64)) == Kind("number", "uint64", (), big=True)
    assert kind_of_array(np.array(["a"])) == TEXT
    assert kind_of_array(np.array([1j])) is None


@given(st.lists(st.integers(0, 4), max_size=30))
def test_copies_are_numbered_in_order(keys):
    counts = occurrences(np.array(keys, dtype=np.uint64))
    assert counts.tolist() == [keys[:row].count(key) for row, key in enumerate(keys)]
    ids = content_ids(np.array(keys, dtype=np.uint64), counts, id_width(counts)).tolist()
    assert ids == [
        f"{key:016x}" + (f"-{n}" if n else "") for key, n in zip(keys, counts.tolist(), strict=True)
    ]


def test_importing_the_data_package_loads_no_framework():
    code = (
        "import sys, steelyard.data\n"
        "print([m for m in ('torch', 'pyarrow', 'polars', 'pandas', 'sklearn', 'datasets', 'scipy') if m in "
        "sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
