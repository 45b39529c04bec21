"""Files larger than memory: bounded memory, the same examples, and a cache that is used once and kept small."""

import json
import os
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from steelyard.data import Limits, read
from steelyard.data.columns import ArrowColumn
from steelyard.data.limits import machine_memory
from steelyard.errors import DataError

MEGABYTE = 2**20


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def same(a, b):
    assert a.ids.tolist() == b.ids.tolist() and a.checksum == b.checksum
    for name in a.columns:
        assert repr(a.columns[name][:].tolist()) == repr(b.columns[name][:].tolist())


def test_kinds_are_decided_over_all_batches(tmp_path):
    # More than one batch of 64 KiB: integers first, then a fraction, a missing number, a new column, a text.
    pad = "p" * 1000
    rows = [{"x": i, "pad": pad, "n": i, "m": i} for i in range(300)]
    rows[200]["x"], rows[250]["n"], rows[299]["m"] = 0.5, None, "text"
    rows[270]["new"] = True
    path = written(tmp_path / "a.jsonl", rows)
    streamed = read(path, features="x", limits=Limits(memory=1, cache=tmp_path / "cache"))
    assert isinstance(streamed.columns["x"], np.memmap)
    assert isinstance(streamed.columns["pad"], ArrowColumn) and len(streamed.columns["pad"].chunks) > 3
    whole = read(rows, features="x")
    same(read(path, features="x"), whole)
    assert streamed.columns["x"][:].dtype == np.float64 and streamed.columns["m"][299] == "text"
    assert streamed.columns["m"][0] == 0 and streamed.columns["new"][269] is None
    assert streamed.ids.tolist() == whole.ids.tolist() and streamed.checksum == whole.checksum
    np.testing.assert_array_equal(streamed.columns["n"][:], whole.columns["n"][:])


def test_given_ids_are_streamed(tmp_path):
    rows = [
        {"id": f"row {i}" + "!" * (i % 7), "x": i * 0.5, "v": [i, i + 1], "label": i % 2 == 0}
        for i in range(1500)
    ]
    path = written(tmp_path / "a.jsonl", rows)
    same(read(path, limits=Limits(memory=1, cache=tmp_path / "cache")), read(rows))


def test_a_second_reading_uses_the_cache_and_a_changed_file_does_not(tmp_path, monkeypatch):
    limits = Limits(memory=0, cache=tmp_path / "cache")
    path = written(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "b"}])
    first = read(path, limits=limits)
    (entry,) = (tmp_path / "cache").iterdir()
    written_at = (entry / "data.arrow").stat().st_mtime_ns
    again = read(path, limits=limits)
    same(again, first)
    assert (entry / "data.arrow").stat().st_mtime_ns == written_at
    assert read(path, limits=limits, text="text", label="").inputs == ("text",)
    assert len(list((tmp_path / "cache").iterdir())) == 1, "other roles do not need another entry"
    written(path, [{"text": "a"}, {"text": "changed"}])
    changed = read(path, limits=limits)
    assert changed.columns["text"][1] == "changed" and changed.checksum != first.checksum
    (left,) = (tmp_path / "cache").iterdir()
    assert left != entry, "the entry of the earlier state is gone"


def test_the_id_column_is_part_of_what_is_cached(tmp_path):
    limits = Limits(memory=0, cache=tmp_path / "cache")
    path = written(tmp_path / "a.jsonl", [{"text": "a", "id": "x", "name": "n"}])
    assert read(path, limits=limits).ids.tolist() == ["x"]
    assert read(path, limits=limits, id="name").ids.tolist() == ["n"]
    assert len(read(path, limits=limits, id="").ids[0]) == 16


def test_objects_without_a_state_are_named_by_content(tmp_path):
    limits = Limits(memory=0, cache=tmp_path / "cache")
    rows = [{"text": "a"}, {"text": "b"}]
    same(read(rows, limits=limits), read(rows))
    same(read([dict(row) for row in rows], limits=limits), read(rows))
    assert len(list((tmp_path / "cache").iterdir())) == 1
    read([*rows, {"text": "c"}], limits=limits)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_what_killed_processes_left_is_removed_after_a_while(tmp_path):
    old, young = tmp_path / "cache" / "aa.1.part", tmp_path / "cache" / "bb.2.part"
    old.mkdir(parents=True)
    young.mkdir()
    weeks = time.time() - 30 * 86_400
    os.utime(old, (weeks, weeks))
    read([{"text": "a"}], limits=Limits(memory=0, cache=tmp_path / "cache"))
    assert not old.exists() and young.exists()


def test_the_cache_folder_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("STEELYARD_CACHE", str(tmp_path / "here"))
    read([{"text": "a"}], limits=Limits(memory=0))
    assert len(list((tmp_path / "here").iterdir())) == 1
    monkeypatch.delenv("STEELYARD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "there"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert Limits().cache_folder() == tmp_path / "there" / "steelyard"


def test_by_default_a_quarter_of_the_machine_is_used():
    assert Limits().memory_bytes() == machine_memory() // 4
    assert machine_memory() > 64 * MEGABYTE


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_peak_memory_stays_below_the_file(tmp_path):
    path = tmp_path / "large.jsonl"
    size, limit = 150 * MEGABYTE, 20 * MEGABYTE
    words = " ".join(f"word{i % 97}" for i in range(140))
    with path.open("w", encoding="utf-8") as file:
        row = 0
        while file.tell() < size:
            file.writelines(
                json.dumps({"text": f"{row + i} {words}", "label": (row + i) % 10, "x": [row + i, 0.5]})
                + "\n"
                for i in range(1000)
            )
            row += 1000
    code = """
        import json, sys
        import numpy, pyarrow, pyarrow.compute, pyarrow.json
        from steelyard.data import Limits, read
        def peak():  # not ru_maxrss, which starts at what the parent had when it forked
            with open("/proc/self/status") as status:
                return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
        before = peak()
        found = {}
        for name, memory in (("streamed", int(sys.argv[2])), ("whole", 2**40)):
            examples = read(sys.argv[1], limits=Limits(memory=memory, cache=sys.argv[3]))
            found[name] = [examples.checksum, *examples.ids[[0, -1]].tolist(), *examples.labels()[[0, -1]].tolist()]
            found[name] += [examples.column("text")[77_777], examples.column("x")[-1].tolist(), len(examples)]
            found["grown " + name] = peak() - before
        print(json.dumps(found))
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), str(path), str(limit), str(tmp_path / "cache")],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found = json.loads(done.stdout)
        assert found["streamed"] == found["whole"] and found["whole"][-1] == row
        assert found["grown streamed"] < size * 2 / 3, (
            f"{found['grown streamed'] / MEGABYTE:.0f} MB for 150 MB"
        )
        assert found["grown whole"] > size, "the measurement sees what is held in memory"
    finally:
        for file in (path, *(tmp_path / "cache").glob("*/*")):
            file.unlink()


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    import pyarrow as pa

    def full(*args):
        raise OSError(28, "No space left on device")

    path = written(tmp_path / "a.jsonl", [{"text": "a"}])
    monkeypatch.setattr(pa, "OSFile", full)
    with pytest.raises(DataError, match=r"cannot write .*a.jsonl here, .* No space left on device") as caught:
        read(path, limits=Limits(memory=0, cache=tmp_path / "cache"))
    assert "STEELYARD_CACHE" in caught.value.fix
    assert list((tmp_path / "cache").iterdir()) == []
