"""Every kind of source gives the same examples: columns, ids and checksum."""

import csv
import gzip
import hashlib
import json
import struct

import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
import zstandard

from steelyard.data import READABLE, Limits, read
from steelyard.errors import DataError, SettingError, ShapeError

ROWS = [
    {"text": "a line\nand another, with a comma", "label": 1, "score": 0.5, "tag": "x"},
    {"text": "ünïcode \U0001f600 “quoted”", "label": 0, "score": 2.0, "tag": "y"},
    {"text": "a line\nand another, with a comma", "label": 1, "score": 0.5, "tag": "x"},
    {"text": "control \x01 \x1b[31m red", "label": 3, "score": -1.25, "tag": "=1+1"},
]


def lines(rows=ROWS):
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_jsonl(path):
    path.write_text(lines(), encoding="utf-8")


def write_csv(path):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)


def write_arrow_file(path):
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


def write_arrow_stream(path):
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table)


def write_tsv(path):
    path.write_bytes(pd.DataFrame(ROWS).to_csv(index=False, sep="\t").encode())


FILES = {
    "rows.jsonl": write_jsonl,
    "rows.json": write_jsonl,
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(lines().encode())),
    "rows.jsonl.zst": lambda path: path.write_bytes(zstandard.compress(lines().encode())),
    "bom.jsonl": lambda path: path.write_bytes(b"\xef\xbb\xbf" + lines().encode()),
    "windows.jsonl": lambda path: path.write_bytes(lines().replace("\n", "\r\n").encode()),
    "blank.jsonl": lambda path: path.write_text("\n" + lines().replace("\n", "\n\n"), encoding="utf-8"),
    "rows.csv": write_csv,
    "rows.csv.gz": lambda path: path.write_bytes(
        gzip.compress(pd.DataFrame(ROWS).to_csv(index=False).encode())
    ),
    "rows.tsv": write_tsv,
    "rows.parquet": lambda path: parquet.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=2),
    "file.arrow": write_arrow_file,
    "stream.arrow": write_arrow_stream,
    "saved": lambda path: datasets.Dataset.from_list(ROWS).save_to_disk(path),
}

OBJECTS = {
    "pandas": lambda: pd.DataFrame(ROWS, index=[7, 8, 9, 10]),
    "polars": lambda: pl.DataFrame(ROWS),
    "arrow": lambda: pa.Table.from_pylist(ROWS),
    "arrow dictionary": lambda: pa.table(
        {
            **pa.Table.from_pylist(ROWS).to_pydict(),
            "tag": pa.array([r["tag"] for r in ROWS]).dictionary_encode(),
        }
    ),
    "arrow narrow": lambda: pa.Table.from_pylist(ROWS).set_column(
        1, "label", pa.array([1, 0, 1, 3], pa.uint8())
    ),
    "arrow single": lambda: pa.Table.from_pylist(ROWS).set_column(
        2, "score", pa.array([0.5, 2.0, 0.5, -1.25], pa.float32())
    ),
    "hugging face": lambda: datasets.Dataset.from_list(ROWS),
    "arrays": lambda: {name: np.array([row[name] for row in ROWS]) for name in ROWS[0]},
    "lists": lambda: {name: [row[name] for row in ROWS] for name in ROWS[0]},
    "numpy scalars": lambda: [
        {**row, "label": np.int64(row["label"]), "tag": np.str_(row["tag"])} for row in ROWS
    ],
    "other order": lambda: [dict(reversed(row.items())) for row in ROWS],
}


def assert_same(a, b):
    assert a.ids.tolist() == b.ids.tolist()
    assert a.checksum == b.checksum
    assert a.inputs == b.inputs and a.label == b.label
    assert set(a.columns) == set(b.columns)
    for name in a.columns:
        assert np.asarray(a.columns[name][:]).tolist() == np.asarray(b.columns[name][:]).tolist(), name


@pytest.mark.parametrize("name", FILES)
def test_files_give_the_same_examples_as_the_rows(tmp_path, name):
    FILES[name](tmp_path / name)
    examples = read(tmp_path / name)
    assert_same(examples, read(ROWS))
    assert examples.source == str(tmp_path / name)


@pytest.mark.parametrize("name", FILES)
def test_streamed_files_give_the_same_examples(tmp_path, name):
    FILES[name](tmp_path / name)
    streamed = read(str(tmp_path / name), limits=Limits(memory=0, cache=tmp_path / "cache"))
    assert_same(streamed, read(ROWS))


@pytest.mark.parametrize("name", OBJECTS)
def test_objects_give_the_same_examples_as_the_rows(name):
    assert_same(read(OBJECTS[name]()), read(ROWS))


def test_rows_have_columns_of_the_obvious_types():
    examples = read(ROWS)
    assert examples.inputs == ("text",) and examples.label == "label"
    assert examples.labels().dtype == np.int64
    assert examples.columns["score"][:].dtype == np.float64
    assert examples.columns["text"][1] == ROWS[1]["text"]


def test_ids_come_from_content_and_copies_are_numbered():
    examples = read([*ROWS, ROWS[0]])
    first = examples.ids[0]
    assert len(first) == 16 and int(first, 16) >= 0
    assert examples.ids[2] == f"{first}-1" and examples.ids[4] == f"{first}-2"
    assert len(set(examples.ids.tolist())) == 5


def test_ids_and_checksum_follow_their_definition():
    # Run folders and plans of earlier versions name examples by these: written out once more, with struct.
    examples = read([{"text": "héllo", "label": 1, "x": [0.5, 2]}])
    schema = json.dumps(
        [["label", "number", [], False], ["text", "text", [], False], ["x", "number", [2], False]]
    )
    person = hashlib.blake2b(schema.encode(), digest_size=16).digest()
    text = "héllo".encode()
    row = struct.pack("<dqdd", 1.0, len(text), 0.5, 2.0) + text
    digest = hashlib.blake2b(row, digest_size=16, person=person).digest()
    assert examples.ids.tolist() == [digest[:8].hex()]
    content = b"steelyard 1" + person + digest + struct.pack("<I", 16) + digest[:8].hex().encode()
    assert examples.checksum == hashlib.sha256(content).hexdigest()


def test_an_id_does_not_depend_on_the_other_rows():
    assert read(ROWS[:1]).ids[0] == read(ROWS).ids[0]


def test_given_ids_are_kept_as_written(tmp_path):
    path = tmp_path / "ids.csv"
    path.write_text("id,x\n007,1\n7,2\n1e3,3\n")
    assert read(path).ids.tolist() == ["007", "7", "1e3"]
    assert "id" not in read(path).columns
    assert read(path, id="x").ids.tolist() == ["1", "2", "3"]
    assert "id" in read(path, id="").columns
    assert read([{"id": 3, "x": 1}, {"id": 12, "x": 1}]).ids.tolist() == ["3", "12"]


def test_the_id_column_does_not_count_as_content():
    plain = read([{"id": "a", "x": 1.0}])
    assert read([{"name": "a", "x": 1.0}], id="name").checksum == plain.checksum
    assert read([{"id": "b", "x": 1.0}]).checksum != plain.checksum


def test_checksum_depends_on_values_order_and_names():
    base = read(ROWS).checksum
    assert read(ROWS[::-1]).checksum != base
    assert read([{**row, "label": row["label"] + 1} for row in ROWS]).checksum != base
    assert read([{("words" if name == "text" else name): value for name, value in row.items()} for row in
    ROWS],
                text="words").checksum != base  # fmt: skip


def test_arrays_are_not_copied():
    x, y = np.random.default_rng(0).normal(size=(5, 3)), np.arange(5)
    examples = read((x, y))
    assert examples.columns["input"] is x and examples.columns["label"] is y
    assert examples.inputs == ("input",) and examples.label == "label"


def test_arrays_of_every_type_have_the_same_ids():
    x, y = np.array([[0.5, 2.0], [1.0, -4.0], [0.0, 8.0]]), np.array([1, 0, 1])
    expected = read((x, y))
    assert_same(read((x.astype(np.float32), y.astype(np.int8))), expected)
    assert_same(read((x.tolist(), y.tolist())), expected)
    assert_same(read((torch.tensor(x), torch.tensor(y))), expected)
    assert_same(read((torch.tensor(x).bfloat16().requires_grad_(), torch.tensor(y))), expected)
    assert_same(read({"input": x, "label": y}), expected)
    assert_same(
        read([{"input": a, "label": b} for a, b in zip(x.tolist(), y.tolist(), strict=True)]), expected
    )
    assert_same(read(list(zip(x, y, strict=True))), expected)
    assert_same(read(torch.utils.data.TensorDataset(torch.tensor(x), torch.tensor(y))), expected)
    assert read((-0.0 * x, y)).ids.tolist() == read((0.0 * x, y)).ids.tolist()


class Pairs(torch.utils.data.Dataset):
    """Items as most people write them: a tensor and a number. Does not stop iterating by itself."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, position):
        return torch.tensor(self.x[position % len(self.x)]), int(self.y[position % len(self.x)])


class Stream(torch.utils.data.IterableDataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __iter__(self):
        return (
            {"input": torch.tensor(x), "label": torch.tensor(y)} for x, y in zip(self.x, self.y, strict=True)
        )


def test_torch_data_sets(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(7, 2, 3)).astype(np.float32), np.arange(7)
    expected = read((x, y))
    assert_same(read(Pairs(x, y)), expected)
    assert read(Pairs(x, y)).columns["input"][:].dtype == np.float32
    assert_same(read(Stream(x, y)), expected)
    assert_same(read(torch.utils.data.Subset(Pairs(x, y), range(3))), read((x[:3], y[:3])))
    assert_same(read(Pairs(x, y), limits=Limits(memory=0, cache=tmp_path)), expected)


@pytest.mark.parametrize("limits", [None, Limits(memory=0)])
def test_numpy_files(tmp_path, limits, monkeypatch):
    monkeypatch.setenv("STEELYARD_CACHE", str(tmp_path / "cache"))
    x, y = np.random.default_rng(0).normal(size=(6, 2)), np.arange(6)
    np.savez_compressed(tmp_path / "a.npz", input=x, label=y)
    np.savez(tmp_path / "b.npz", X=x, y=y)
    np.save(tmp_path / "a.npy", x)
    assert_same(read(tmp_path / "a.npz", limits=limits), read((x, y)))
    b = read(tmp_path / "b.npz", limits=limits)
    assert b.inputs == ("X",) and b.label == "y"
    assert_same(read(tmp_path / "a.npy", limits=limits), read(x))
    if limits is not None:
        assert isinstance(read(tmp_path / "a.npz", limits=limits).columns["input"], np.memmap)


def test_a_frame_and_labels():
    frame = pd.DataFrame({"age": [1, 2], "size": [0.5, 1.5]})
    examples = read((frame, pd.Series([0, 1])))
    assert examples.inputs == ("age", "size") and examples.label == "label"
    assert_same(examples, read((pl.DataFrame(frame), np.array([0, 1]))))


def test_every_feature_is_an_input_except_label_id_and_weight(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("id,age,city,weight,target\na,1,Rome,2,0\nb,2,Oslo,1,1\n")
    examples = read(path)
    assert examples.inputs == ("age", "city") and examples.label == "target"
    assert read(path, features="age", label="city").inputs == ("age",)
    assert read(path, features=["age", "weight"]).inputs == ("age", "weight")
    assert read(path, label="").label is None


def test_default_inputs_of_texts():
    assert read([{"prompt": "a", "completion": "b"}]).inputs == ("prompt", "completion")
    chat = [
        {"messages": [{"role": "user", "content": "hi"}]},
        {"messages": [{"role": "user", "content": "yo"}] * 2},
    ]
    examples = read(chat)
    assert examples.inputs == ("messages",)
    assert examples.columns["messages"][1] == chat[1]["messages"]
    assert_same(read(datasets.Dataset.from_list(chat)), examples)


def test_token_sequences_may_be_ragged_as_text_only():
    rows = [{"input_ids": [1, 2, 3]}, {"input_ids": [4]}]
    assert read(rows, text="input_ids").columns["input_ids"][0] == [1, 2, 3]
    with pytest.raises(DataError, match=r"row 1 .*'input_ids': found \[4\], expected a list of shape \(3,\)"):
        read(rows)


def test_optional_columns_may_hold_none():
    rows = [
        {"text": "a", "note": None, "n": 1},
        {"text": "b", "note": "x", "n": None},
        {"text": "c", "more": True},
    ]
    examples = read(rows)
    assert examples.columns["note"][:].tolist() == [None, "x", None]
    assert examples.columns["more"][:].tolist() == [None, None, True]
    np.testing.assert_array_equal(examples.columns["n"][:], [1.0, np.nan, np.nan])


def test_integers_beyond_float_precision_stay_exact(tmp_path):
    rows = [{"x": 1.0, "account": 2**53 + 1}, {"x": 2.0, "account": 2**53 + 2}]
    assert read(rows).columns["account"][:].tolist() == [2**53 + 1, 2**53 + 2]
    assert len({i.split("-")[0] for i in read([{"x": 1, "a": 2**60 + i} for i in range(3)]).ids}) == 3
    assert read([*rows, {"x": 3.0}], features="x").columns["account"][:].tolist() == [
        2**53 + 1,
        2**53 + 2,
        None,
    ]
    path = tmp_path / "big.csv"
    path.write_text("x,account\n1,123456789012345678901\n2,5\n")
    assert read(path, features="x").columns["account"][:].tolist() == ["123456789012345678901", "5"]


def test_label_types(tmp_path):
    (tmp_path / "b.csv").write_text("x,label\n1,true\n2,false\n")
    assert read(tmp_path / "b.csv").labels().tolist() == [True, False]
    assert read([{"x": 1, "label": True}, {"x": 2, "label": False}]).labels().dtype == bool
    assert read([{"x": 1, "label": "cat"}, {"x": 2, "label": "dog"}]).labels().tolist() == ["cat", "dog"]
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    held = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    assert read(held).labels().tolist() == [1, 0]


def test_dates_become_text():
    frame = pd.DataFrame({"x": [1.0], "day": [pd.Timestamp("2024-05-06 07:08:09")]})
    assert read(frame, features="x").columns["day"][0].startswith("2024-05-06 07:08:09")
    rows = [{"x": 1.0, "day": pd.Timestamp("2024-05-06").date()}]
    assert read(rows, features="x").columns["day"][0] == "2024-05-06"
    days = {"x": np.ones(1), "day": np.array(["2024-05-06"], dtype="datetime64[D]")}
    assert read(days, features="x").columns["day"][0] == "2024-05-06"


def test_tensors_in_tables():
    rows = [{"image": [[1, 2], [3, 4]]}, {"image": [[5, 6], [7, 8]]}]
    expected = read(rows)
    assert expected.columns["image"][:].shape == (2, 2, 2)
    typed = pa.table({"image": pa.array([r["image"] for r in rows], pa.list_(pa.list_(pa.uint8(), 2), 2))})
    assert_same(read(typed), expected)
    assert read(typed).columns["image"][:].dtype == np.uint8
    features = datasets.Features({"image": datasets.Array2D((2, 2), "uint8")})
    assert_same(read(datasets.Dataset.from_list(rows, features=features)), expected)


def test_rows_selected_in_a_data_set_stay_selected(tmp_path):
    held = datasets.Dataset.from_list(ROWS).select([3, 1])
    assert_same(read(held), read([ROWS[3], ROWS[1]]))
    held.save_to_disk(tmp_path / "chosen")
    assert_same(read(tmp_path / "chosen"), read([ROWS[3], ROWS[1]]))


def test_examples_come_back_as_they_are_or_with_other_roles():
    examples = read(ROWS)
    assert read(examples) is examples
    other = read(examples, label="score")
    assert other.label == "score" and other.inputs == ("text",) and other.checksum == examples.checksum
    assert read(examples, features="score").inputs == ("score",)
    with pytest.raises(SettingError, match="have ids already"):
        read(examples, id="tag")


def test_contradicting_names():
    with pytest.raises(SettingError, match="text='text' and features='score' are both given"):
        read(ROWS, text="text", features="score")
    with pytest.raises(SettingError, match="column 'text' is both an input and the label"):
        read(ROWS, text="text", label="text")
    with pytest.raises(SettingError, match="column 'label' is both the label and the id"):
        read(ROWS, id="label")


def test_columns_of_different_lengths():
    with pytest.raises(ShapeError, match="'input' has 3, 'label' has 2 rows"):
        read((np.eye(3), [1, 2]))


def test_every_readable_ending_is_read(tmp_path):
    for ending in READABLE:
        with pytest.raises(DataError, match="there is no such file"):
            read(tmp_path / f"absent{ending}")
