"""Each bad input gives an error that names file, line and column, and says what to do."""

import gzip
import json
import os
import subprocess
import sys

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import scipy.sparse
import torch
import zstandard

from steelyard.data import Limits, check_classes, check_finite, check_labels, read
from steelyard.errors import DataError

STREAM = Limits(memory=0)


@pytest.fixture(params=["memory", "streamed"])
def limits(request, tmp_path):
    return Limits() if request.param == "memory" else Limits(memory=0, cache=tmp_path / "cache")


def refused(tmp_path, name, content, limits=None, **names):
    """The message of the error for a file, without its folder."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        read(path, limits=limits, **names)
    assert str(path) in str(caught.value), "the file is named"
    assert caught.value.fix
    assert not list((tmp_path / "cache").glob("*.part")), "nothing unfinished stays in the cache"
    return str(caught.value).replace(f"{tmp_path}{os.sep}", "")


def rows(*values, **more):
    return "".join(json.dumps({"text": value, **more}) + "\n" for value in values)


def test_broken_json_in_the_middle(tmp_path, limits):
    text = rows(*"abc") + '{"text": "d", "label": }\n' + rows(*"ef")
    message = refused(tmp_path, "a.jsonl", text, limits)
    assert message.startswith('a.jsonl, line 4, column 24: not JSON: Expecting value near \'{"text": "d", ')
    assert "fix: correct or remove this line" in message


def test_broken_json_shows_control_characters_escaped(tmp_path):
    message = refused(tmp_path, "a.jsonl", '{"text": \x1b[31m}\n')
    assert "\\x1b[31m" in message and "\x1b" not in message


def test_broken_json_in_a_compressed_file_counts_blank_lines(tmp_path, limits):
    text = rows("a") + "\n\n" + "{oops}\n"
    message = refused(tmp_path, "a.jsonl.gz", gzip.compress(text.encode()), limits)
    assert message.startswith("a.jsonl.gz, line 4, column 2: not JSON")


def test_a_line_that_is_no_object(tmp_path, limits):
    message = refused(tmp_path, "a.jsonl", rows("a") + "[1, 2]\n", limits)
    assert message.startswith("a.jsonl, line 2: expected a JSON object, found list '[1, 2]'")
    assert "as an object with named columns" in message


@pytest.mark.parametrize("text", ['[{"text": "a"}]', '[\n{"text": "a"}\n]\n'])
def test_a_json_array_names_the_conversion(tmp_path, text):
    message = refused(tmp_path, "a.json", text)
    assert message.startswith("a.json, line 1: a JSON array, expected one object per line")
    assert "jq -c '.[]' a.json > a.jsonl" in message


def test_json_that_python_cannot_hold(tmp_path):
    nested = rows("a") + '{"text": ' + "[" * 100_000 + "\n"
    assert refused(tmp_path, "a.jsonl", nested).startswith("a.jsonl, line 2: JSON that cannot be read")
    long = rows("a") + '{"text": "b", "n": ' + "9" * 5000 + "}\n"
    assert refused(tmp_path, "b.jsonl", long).startswith("b.jsonl, line 2: JSON that cannot be read")


def test_half_a_surrogate_pair(tmp_path, limits):
    message = refused(tmp_path, "a.jsonl", rows("a") + '{"text": "x\\ud800"}\n', limits)
    assert message.startswith("a.jsonl, line 2, column 'text': character 2 is half of a surrogate pair")


def test_bytes_that_are_not_utf8(tmp_path, limits):
    message = refused(tmp_path, "a.jsonl", rows("a").encode() + b'{"text": "caf\xe9"}\n', limits)
    assert message.startswith("a.jsonl, line 2, byte 14: not UTF-8") and "iconv" in message
    message = refused(tmp_path, "a.csv", b"x,y\n1,caf\xe9\n", limits)
    assert message.startswith("a.csv, line 2, byte 6: not UTF-8")


def test_a_line_longer_than_the_limit(tmp_path):
    bound = Limits(line=100)
    message = refused(tmp_path, "a.jsonl", rows("a", "b" * 200, "c"), bound)
    assert message.startswith("a.jsonl, line 2: longer than 100 bytes") and "Limits(line=" in message
    message = refused(tmp_path, "a.csv", "x,y\n1,2\n3," + "4" * 200 + "\n", bound)
    assert message.startswith("a.csv, line 3: longer than 100 bytes")
    exact = json.dumps({"text": "b" * (100 - len('{"text": ""}'))})
    (tmp_path / "fits.jsonl").write_text(exact + "\n" + exact)
    assert len(read(tmp_path / "fits.jsonl", limits=bound)) == 2


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.csv.gz"])
def test_a_compressed_file_that_is_cut_off_or_something_else(tmp_path, name):
    words = "\n".join(f'{{"text": "{i * 7919 % 100_003}"}}' for i in range(20_000)).encode()
    packed = gzip.compress(words) if name.endswith("gz") else zstandard.compress(words)
    assert "cut off or damaged" in refused(tmp_path, name, packed[: len(packed) // 2])
    message = refused(tmp_path, name, b"this was never compressed")
    assert message.startswith(f"{name}, after line 0:") and "copy it again" in message


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_empty_files(tmp_path, name, limits):
    message = refused(tmp_path, name, "", limits)
    assert message.startswith(f"{name}: ") and ("empty" in message or "no examples" in message)


def test_files_without_rows(tmp_path, limits):
    assert refused(tmp_path, "a.csv", "x,y\n", limits).startswith("a.csv: there are no examples")
    assert refused(tmp_path, "a.jsonl", "\n\n", limits).startswith("a.jsonl: there are no examples")
    parquet.write_table(pa.table({"x": pa.array([], pa.int64())}), tmp_path / "e.parquet")
    with pytest.raises(DataError, match=r"e.parquet: there are no examples"):
        read(tmp_path / "e.parquet", limits=limits)


@pytest.mark.parametrize("source", [[], (np.zeros((0, 3)), np.zeros(0)), {}, pl.DataFrame({"x": []})])
def test_empty_objects(source):
    with pytest.raises(DataError, match="there are no examples"):
        read(source)


def test_a_missing_column_lists_those_there_are(tmp_path, limits):
    for option in ("text", "label", "id", "features"):
        message = refused(tmp_path, "a.jsonl", rows("a", "b", size=2), limits, **{option: "colour"})
        assert message.startswith("a.jsonl: there is no column 'colour'; the columns are 'text', 'size'.")
        assert f"with {option}=... (on the command line: --{option})" in message


def test_no_input_left():
    with pytest.raises(
        DataError, match=r"no input column: the columns are 'id', 'label'[\s\S]*text=\.\.\. or features"
    ):
        read([{"id": "a", "label": 1}])


def test_ids_that_repeat_name_both_lines(tmp_path, limits):
    text = "".join(json.dumps({"id": i, "text": "t"}) + "\n\n" for i in ("a", "b", "c", "b", "a"))
    message = refused(tmp_path, "a.jsonl", text, limits)
    assert message.startswith(
        "a.jsonl, line 7, column 'id': the id 'b' was already given at a.jsonl, line 3 (2 ids"
    )
    assert 'id=""' in message
    message = refused(tmp_path, "a.csv", 'id,x\na,"1\n2"\nb,2\na,3\n', limits)
    assert (
        "a.csv, line 5, column 'id': the id 'a' was already given at a.csv, line 2 (1 ids repeat)" in message
    )


def test_ids_that_repeat_in_rows_and_arrays():
    with pytest.raises(DataError, match=r"row 2 \(counted from 0\), column 'id': the id '5' .* row 0"):
        read([{"id": 5, "x": 1}, {"id": 6, "x": 2}, {"id": 5, "x": 3}])
    with pytest.raises(DataError, match=r"arrays, row 1 .*the id 'a' .* arrays, row 0"):
        read({"id": np.array(["a", "a"]), "x": np.zeros(2)})


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (None, "is missing"),
        ("", "is missing"),
        ("a\0b", "holds a NUL character"),
        ("x" * 257, "is longer than 256"),
    ],
)
def test_ids_that_cannot_be_used(tmp_path, limits, value, fault):
    text = json.dumps({"id": "a", "text": "t"}) + "\n" + json.dumps({"id": value, "text": "t"}) + "\n"
    assert refused(tmp_path, "a.jsonl", text, limits).startswith(
        f"a.jsonl, line 2, column 'id': the id {fault}"
    )


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_not_finite(tmp_path, limits, value):
    text = f'{{"x": 1.0, "label": 0}}\n\n{{"x": {value}, "label": 1}}\n'
    message = refused(tmp_path, "a.jsonl", text, limits)
    shown = {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}[value]
    assert message.startswith(f"a.jsonl, line 3, column 'x': {shown}, expected a finite number")
    text = f'{{"x": 1.0, "label": 0}}\n{{"x": 2.0, "label": {value}}}\n'
    assert refused(tmp_path, "a.jsonl", text, limits).startswith(f"a.jsonl, line 2, column 'label': {shown}")


def test_numbers_that_are_not_finite_in_arrays():
    x = np.zeros((5, 2, 3), dtype=np.float32)
    x[3, 1, 2] = np.inf
    with pytest.raises(
        DataError, match=r"arrays, row 3 \(counted from 0\), column 'input', feature \(1, 2\): inf"
    ):
        read((x, np.arange(5)))
    with pytest.raises(DataError, match=r"row 1 .*column 'input', feature 1: nan"):
        read(torch.tensor([[1.0, 2.0], [3.0, float("nan")]]))
    with pytest.raises(DataError, match=r"row 2 .*column 'label': nan"):
        read((np.eye(3), np.array([1.0, 2.0, np.nan])))


def test_check_finite_names_the_example_by_its_id():
    examples = read(([[1.0], [2.0]], [0, 1]))
    check_finite(examples)
    spoiled = examples.with_column("input", np.array([[1.0], [np.nan]]), "x")
    with pytest.raises(
        DataError, match=f"arrays, example '{examples.ids[1]}', column 'input', feature 0: nan"
    ):
        check_finite(spoiled)


@pytest.mark.parametrize("cell", ["", "NA", "nan", "NULL"])
def test_missing_cells_of_a_csv(tmp_path, limits, cell):
    message = refused(tmp_path, "a.csv", f"x,y,label\n1,2,0\n3,{cell},1\n", limits)
    assert message.startswith("a.csv, line 3, column 'y': nan") and "missing cell" in message


def test_one_word_in_a_csv_column_of_numbers(tmp_path, limits):
    text = "age,label\n" + "".join(f"{i},{i % 2}\n" for i in range(20)) + "forty,1\n"
    message = refused(tmp_path, "a.csv", text, limits)
    assert message.startswith(
        "a.csv, line 22, column 'age': 'forty' is not a number, but 20 of 21 cells are."
    )
    (tmp_path / "codes.csv").write_text("code,label\n1,0\nA,1\n")
    assert read(tmp_path / "codes.csv").columns["code"][:].tolist() == ["1", "A"], "categories are no mistake"


def test_missing_texts_and_labels(tmp_path, limits):
    message = refused(tmp_path, "a.jsonl", rows("a", None, "c"), limits)
    assert message.startswith("a.jsonl, line 2, column 'text': no value.")
    text = '{"text": "a", "label": "x"}\n{"text": "b"}\n'
    assert refused(tmp_path, "a.jsonl", text, limits).startswith("a.jsonl, line 2, column 'label': no value.")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", 5], "line 2, column 'text': found 5, expected text as in the first row"),
        ([5, 6], "line 1, column 'text': found 5, expected text"),
        (["a", ["b"]], "line 2, column 'text': found ['b'], expected text as in the first row"),
        ([True, True], "line 1, column 'text': found True, expected text"),
    ],
)
def test_texts_of_the_wrong_type(tmp_path, limits, values, message):
    assert refused(tmp_path, "a.jsonl", rows(*values), limits).startswith(f"a.jsonl, {message}")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, "two"], "line 2, column 'x': found 'two', expected a number as in the first row"),
        (
            [[1.0, 2.0], [3.0]],
            "line 2, column 'x': found [3.0], expected a list of shape (2,) as in the first row",
        ),
        ([[1, 2], 3], "line 2, column 'x': found 3, expected a list of shape (2,) as in the first row"),
        ([{"a": 1}], "line 1, column 'x': found {'a': 1}, expected text, a number or a list of numbers"),
        (
            [[[1], [1, 2]]],
            "line 1, column 'x': found [[1], [1, 2]], expected text, a number or a list of numbers",
        ),
        ([True, 2], "line 2, column 'x': found 2, expected true/false as in the first row"),
    ],
)
def test_features_of_the_wrong_type(tmp_path, limits, values, message):
    text = "".join(json.dumps({"x": value, "label": 0}) + "\n" for value in values)
    assert refused(tmp_path, "a.jsonl", text, limits).startswith(f"a.jsonl, {message}")


def test_labels_of_several_types(tmp_path, limits):
    text = '{"text": "a", "label": 1}\n{"text": "b", "label": "cat"}\n'
    message = refused(tmp_path, "a.jsonl", text, limits)
    assert message.startswith(
        "a.jsonl, line 2, column 'label': found 'cat', expected a number as in the first row"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n1,2\n3\n", "line 3: 1 fields, but the header names 2."),
        ('x,y\n"a\nb",2\n3,4,5\n', "line 4: 3 fields, but the header names 2."),
        ('x,y\n1,2\n"open,3\n4,5\n', "line 3: not CSV: a quote that is opened here is never closed."),
        ('x,y\n1,2\n"a"b,3\n', "line 3: not CSV: ',' expected after '\"'."),
        ("x,y,x\n1,2,3\n", "line 1: the header names 'x' twice (columns 1 and 3)."),
        ("x,,y\n1,2,3\n", "line 1: header column 2 has no name."),
        ("1.5,2\n3,4\n", "line 1: expected a header, found only numbers."),
        ("x,y\n1," + "z" * 200_000 + "\n", "line 2: a cell longer than 131,072 characters"),
    ],
)
def test_broken_csv(tmp_path, limits, text, message):
    assert refused(tmp_path, "a.csv", text, limits).startswith(f"a.csv, {message}")


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.npz", "a.npy"])
def test_binary_files_that_are_something_else(tmp_path, name):
    message = refused(tmp_path, name, b"x,y\n1,2\n" * 10)
    assert message.startswith(f"{name}: not a readable") or "pickle" in message
    assert refused(tmp_path, name, b"").startswith(f"{name}: not a readable")


def test_numpy_files_with_objects_are_refused(tmp_path):
    np.savez(tmp_path / "o.npz", input=np.array([{"a": 1}], dtype=object))
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], dtype=object))
    for name in ("o.npz", "o.npy"):
        with pytest.raises(DataError, match=f"{name}: holds Python objects, which only pickle"):
            read(tmp_path / name)


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.csv: there is no such file.[\s\S]*fix: check the path"):
        read(tmp_path / "nowhere.csv")
    with pytest.raises(
        DataError, match=r"this is a folder, but not a saved Hugging Face data set \(state.json"
    ):
        read(tmp_path)
    (tmp_path / "x.xlsx").write_text("")
    with pytest.raises(DataError, match=r"x.xlsx: unknown file type '.xlsx'.[\s\S]*\.jsonl, .*\.parquet"):
        read(tmp_path / "x.xlsx")
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"x": [1]})}).save_to_disk(tmp_path / "splits")
    with pytest.raises(DataError, match=r"holds the splits train; expected one data set.[\s\S]*splits/train"):
        read(tmp_path / "splits")


def test_a_saved_data_set_cannot_name_files_elsewhere(tmp_path):
    state = {"_data_files": [{"filename": "../secret.arrow"}]}
    (tmp_path / "state.json").write_text(json.dumps(state))
    with pytest.raises(DataError, match="names a file outside its folder"):
        read(tmp_path)
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(DataError, match="state.json: damaged"):
        read(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no file modes")
def test_no_permission(tmp_path):
    tmp_path.chmod(0o755)
    path = tmp_path / "secret.csv"
    path.write_text("x\n1\n")
    path.chmod(0)
    if os.geteuid() != 0:
        with pytest.raises(DataError, match=r"secret.csv: no permission to read it"):
            read(path)
        return
    # root may read everything, so another user has to try; the file is handed over where that user can see it
    code = (
        "import os, sys; from steelyard.data import read; from steelyard.errors import DataError\n"
        "os.chdir(os.path.dirname(sys.argv[1])); os.setuid(65534)\n"
        "try: read('secret.csv')\nexcept DataError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(
        "secret.csv: no permission to read it.\n  fix: change the file's permissions"
    )


def test_a_cache_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "a.jsonl").write_text(rows("a"))
    with pytest.raises(
        DataError, match=r"cannot write .*a.jsonl here, which is larger than memory[\s\S]*STEELYARD_CACHE"
    ):
        read(tmp_path / "a.jsonl", limits=Limits(memory=0, cache=tmp_path / "file"))


class Noisy(torch.utils.data.Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, position):
        return torch.rand(2), 0


class Triples(Noisy):
    def __getitem__(self, position):
        return 1.0, 2.0, 3.0


class Odd(Noisy):
    def __getitem__(self, position):
        return object(), 1


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Noisy(), "Noisy: item 0 is different each time it is read"),
        (Triples(), r"Triples, row 0 \(counted from 0\): a tuple of 3, expected \(input, label\)"),
        (Odd(), r"Odd, row 0 .*column 'input': a object, expected numbers, text or arrays"),
        (Endless(), "Endless: a data set without a length"),
        (torch.utils.data.DataLoader(Noisy()), "a DataLoader, which may shuffle"),
        (pl.LazyFrame({"x": [1]}), "a polars LazyFrame"),
        (datasets.DatasetDict({"train": datasets.Dataset.from_dict({"x": [1]})}), "with the splits train"),
        ((np.eye(2), [0, 1], [2, 3]), r"a tuple of 3, expected \(X, y\)"),
        ((scipy.sparse.csr_matrix(np.eye(2)), [0, 1]), r"arrays, column 'input': a sparse matrix"),
        (3, "a single int, expected an array"),
        ([[1, 2], [3]], r"arrays, row 1 \(counted from 0\): 1 values, but row 0 has 2 values"),
        (([[1, 2], 3], [0, 1]), r"row 1 .*: a single value, but row 0 has 2 values"),
        ([{"x": 1}, 5], r"list of dictionaries, row 1 .*: a int, but row 0 is a dictionary"),
        (np.ma.masked_array([1.0, 2.0], [True, False]), "arrays: a masked array"),
        (np.array([1j, 2j]), "an array of type complex128, expected numbers"),
        (np.array([object()]), "holds object objects"),
        ((pd.DataFrame({"label": [1]}), [1]), "X has a column named 'label' beside y"),
        (
            [{"image": {"bytes": b"x"}, "text": "a"}],
            r"row 0 .*column 'image': a nested value that JSON cannot hold",
        ),
    ],
)
def test_objects_that_cannot_be_read(source, message):
    with pytest.raises(DataError, match=message):
        read(source)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 5], "label 5, expected a whole number from 0 to 2"),
        ([0, -1, 2], "label -1, expected a whole number from 0 to 2"),
        ([0.0, 1.5, 2.0], "label 1.5, expected a whole number from 0 to 2"),
        (["a", "b", "c"], "the labels are text, expected class numbers from 0 to 2"),
        ([[0, 1], [1, 0], [1, 0]], r"the labels are numbers of shape \(2,\), expected class numbers"),
    ],
)
def test_labels_that_are_no_classes(labels, message):
    with pytest.raises(DataError, match=message) as caught:
        check_labels(read((np.eye(3), labels)), 3)
    assert "number the classes" in caught.value.fix


def test_labels_name_the_line_that_the_caller_knows():
    with pytest.raises(DataError, match=r"a.csv, line 2, column 'label': label 7.*\(2 such labels\)"):
        check_labels(read((np.eye(3), [7, 1, 9])), 3, place=lambda row: f"a.csv, line {row + 2}")


@pytest.mark.parametrize("labels", [[0, 2, 1], [0.0, 2.0, 1.0], [False, True, True]])
def test_labels_that_are_classes_come_back_as_integers(labels):
    found = check_labels(read((np.eye(3), labels)), 3)
    assert found.dtype == np.int64 and found.tolist() == [int(label) for label in labels]


def test_one_class_only():
    with pytest.raises(
        DataError, match=r"arrays, column 'label': all 3 labels are 1; .* at least two classes"
    ):
        check_classes(read((np.eye(3), [1, 1, 1])))
    assert check_classes(read((np.eye(3), [2, 1, 1]))).tolist() == [1, 2]
