import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from steelyard.errors import RunError, SettingError
from steelyard.records import Cost
from steelyard.run import files, in_memory, manifest, open_run, read_manifest, store

REQUEST = {
    "command": "attribute",
    "method": {"name": "ekfac", "damping": "auto"},
    "checksums": {"train": "aa", "query": "bb", "learner": "cc"},
}


class Interrupted(Exception):
    pass


def stopped_run(path: Path, request: dict = REQUEST) -> Path:
    with pytest.raises(Interrupted), open_run(path, request, show="quiet") as run:
        run.keep("first", ones)
        raise Interrupted
    return path.with_name(path.name + ".part")


def ones() -> dict[str, np.ndarray]:
    return {"values": np.ones(3)}


def never() -> dict[str, np.ndarray]:
    raise AssertionError("computed again")


def refuse(monkeypatch: pytest.MonkeyPatch, number: int, *, at: str = "fsync") -> None:
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, at, refused)


def test_the_folder_appears_only_when_the_run_is_finished(tmp_path):
    path = tmp_path / "deep" / "run"
    with open_run(path, REQUEST, show="quiet") as run:
        assert run.folder == tmp_path / "deep" / "run.part"
        assert not path.exists()
        run.keep("a/b", ones)
        run.keep("a", ones)
    assert run.folder == path
    assert sorted(p.name for p in path.parent.iterdir()) == ["run"]
    with np.load(path / "kept" / "a" / "b.npz", allow_pickle=False) as kept:
        np.testing.assert_array_equal(kept["values"], np.ones(3))


def test_an_empty_folder_at_the_path_is_used(tmp_path):
    (tmp_path / "run").mkdir()
    with open_run(tmp_path / "run", REQUEST, show="quiet") as run:
        run.keep("a", ones)
    assert read_manifest(tmp_path / "run").status == "finished"


def test_an_exception_leaves_what_was_kept_and_says_how_to_go_on(tmp_path):
    with pytest.raises(Interrupted) as caught, open_run(tmp_path / "run", REQUEST, show="quiet") as run:
        run.keep("first", ones)
        raise Interrupted
    assert "the same command resumes" in caught.value.__notes__[0]
    assert read_manifest(tmp_path / "run.part").status == "interrupted"
    with open_run(tmp_path / "run", REQUEST, show="quiet") as run:
        np.testing.assert_array_equal(run.keep("first", never)["values"], np.ones(3))
        assert run.has("first")
        assert not run.has("second")
    assert read_manifest(tmp_path / "run").sessions == 2


def test_a_run_that_kept_nothing_leaves_nothing(tmp_path):
    with pytest.raises(Interrupted), open_run(tmp_path / "run", REQUEST, show="quiet"):
        raise Interrupted
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_that_kept_nothing_does_not_stand_in_the_way(tmp_path):
    part = stopped_run(tmp_path / "run")
    (part / "kept" / "first.npz").unlink()
    (part / "kept").rmdir()
    with open_run(tmp_path / "run", {"command": "other"}, show="quiet") as run:
        assert run.manifest.sessions == 1


@pytest.mark.parametrize("finished", [True, False])
def test_another_request_names_what_differs(tmp_path, finished):
    if finished:
        with open_run(tmp_path / "run", REQUEST, show="quiet") as run:
            run.keep("first", ones)
    else:
        stopped_run(tmp_path / "run")
    other = {**REQUEST, "method": {"name": "ekfac", "damping": 0.1}, "seed": 3}
    with pytest.raises(RunError) as caught, open_run(tmp_path / "run", other, show="quiet"):
        pass
    message = str(caught.value)
    assert 'method.damping: "auto" -> 0.1' in message
    assert "seed: (not set) -> 3" in message
    assert "method.name" not in message
    assert "--out" in message
    assert "--fresh" in message


def test_the_order_of_settings_does_not_matter(tmp_path):
    stopped_run(tmp_path / "run")
    with open_run(tmp_path / "run", dict(reversed(REQUEST.items())), show="quiet") as run:
        run.keep("first", never)


def test_a_changed_model_is_told_apart_from_another_request(tmp_path):
    stopped_run(tmp_path / "run")
    changed = {**REQUEST, "checksums": {**REQUEST["checksums"], "learner": "dd"}}
    with pytest.raises(RunError, match="model's parameters or settings changed since"):
        open_run(tmp_path / "run", changed, show="quiet").__enter__()
    both = {**changed, "checksums": {**changed["checksums"], "train": "ee"}}
    with pytest.raises(RunError, match="another request"):
        open_run(tmp_path / "run", both, show="quiet").__enter__()


def test_long_values_are_shortened_but_still_compared(tmp_path):
    stopped_run(tmp_path / "run", {"text": "x" * 5000})
    with pytest.raises(RunError) as caught:
        open_run(tmp_path / "run", {"text": "x" * 5000 + "y"}, show="quiet").__enter__()
    assert "text: " in str(caught.value)
    assert len(str(caught.value)) < 1500


def test_fresh_discards_runs_and_nothing_else(tmp_path):
    with open_run(tmp_path / "run", REQUEST, show="quiet") as run:
        run.keep("old", ones)
    stopped = {"command": "other"}
    with (
        pytest.raises(Interrupted),
        open_run(tmp_path / "run", stopped, show="quiet", fresh=True) as run,
    ):
        assert not run.has("old")
        run.keep("first", ones)
        raise Interrupted
    with open_run(tmp_path / "run", REQUEST, show="quiet", fresh=True) as run:
        assert not run.has("first")
        assert run.manifest.sessions == 1
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["manifest.json"]


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("name", ["run", "run.part"])
def test_a_foreign_folder_is_never_touched(tmp_path, fresh, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("years of work")
    with (
        pytest.raises(RunError, match="not a run folder"),
        open_run(tmp_path / "run", REQUEST, show="quiet", fresh=fresh),
    ):
        pass
    assert (tmp_path / name / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("content", ['{"name": "web page"}', "[]", "{broken", ""])
def test_a_foreign_manifest_is_never_touched(tmp_path, content):
    (tmp_path / "run.part").mkdir()
    (tmp_path / "run.part" / "manifest.json").write_text(content)
    for fresh in (False, True):
        with pytest.raises(RunError), open_run(tmp_path / "run", REQUEST, show="quiet", fresh=fresh):
            pass
    assert (tmp_path / "run.part" / "manifest.json").read_text() == content


def test_a_file_at_the_path_is_an_error(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(RunError, match="not a run folder"):
        open_run(tmp_path / "run", REQUEST, show="quiet").__enter__()


def test_another_format_names_both_versions(tmp_path):
    part = stopped_run(tmp_path / "run")
    content = json.loads((part / "manifest.json").read_text())
    content |= {"format": 99, "versions": {"steelyard": "7.1"}}
    (part / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"format 99.*reads format 1.*7\.1"):
        open_run(tmp_path / "run", REQUEST, show="quiet").__enter__()
    with open_run(tmp_path / "run", REQUEST, show="quiet", fresh=True) as run:
        assert not run.has("first")


def test_a_finished_run_is_read_and_not_written(tmp_path):
    with open_run(tmp_path / "run", REQUEST, show="quiet") as run:
        run.keep("first", ones)
        run.spend(gradients=5)
    before = (tmp_path / "run" / "manifest.json").read_bytes()
    with open_run(tmp_path / "run", REQUEST, show="quiet") as run:
        assert run.finished
        assert run.cost.gradients == 5
        run.keep("first", never)
        np.testing.assert_array_equal(run.keep("new", ones)["values"], np.ones(3))
        assert not run.has("new")
        run.note("only said")
    assert (tmp_path / "run" / "manifest.json").read_bytes() == before


def test_two_runs_of_one_process_exclude_each_other(tmp_path):
    with open_run(tmp_path / "run", REQUEST, show="quiet") as run:
        run.keep("first", ones)
        with (
            pytest.raises(RunError, match="this very process"),
            open_run(tmp_path / "run", REQUEST, show="quiet"),
        ):
            pass
    assert run.folder == tmp_path / "run"


def test_a_lock_file_left_by_a_killed_process_does_not_matter(tmp_path):
    (tmp_path / "run.lock").write_text('{"pid": 1, "host": "gone", "started": "2020"}')
    with open_run(tmp_path / "run", REQUEST, show="quiet") as run:
        run.keep("first", ones)
    assert not (tmp_path / "run.lock").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_explained_and_loses_nothing(tmp_path, monkeypatch, number):
    with (
        monkeypatch.context() as disk,
        pytest.raises(RunError, match=r"disk is full \([\d,]+ MiB free.*kept before is intact") as caught,
        open_run(tmp_path / "run", REQUEST, show="quiet") as run,
    ):
        run.keep("first", ones)
        refuse(disk, number)
        run.keep("second", ones)
    assert "free some space and give the same command again" in caught.value.fix
    assert "manifest could not be written" in caught.value.__notes__[0]
    with open_run(tmp_path / "run", REQUEST, show="quiet") as run:
        run.keep("first", never)
        run.keep("second", ones)
    assert list((tmp_path / "run" / "kept").rglob("*.tmp")) == []


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), OSError("4096 requested and 512 written")])
def test_a_full_disk_met_by_other_code_is_explained_too(tmp_path, error):
    with (
        pytest.raises(RunError, match="disk is full"),
        open_run(tmp_path / "run", REQUEST, show="quiet") as run,
    ):
        run.keep("first", ones)
        raise error
    stray = OSError(errno.EACCES, "no", str(tmp_path / "elsewhere"))
    with pytest.raises(PermissionError), open_run(tmp_path / "run", REQUEST, show="quiet") as run:
        raise stray


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_no_permission_is_explained(tmp_path, monkeypatch, number):
    with monkeypatch.context() as disk:
        refuse(disk, number, at="open")
        with pytest.raises(RunError, match="not permitted") as caught:
            open_run(tmp_path / "run", REQUEST, show="quiet").__enter__()
    assert "permissions" in caught.value.fix
    assert str(tmp_path / "run") in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_explained(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(RunError, match="not permitted"):
            open_run(tmp_path / "run", REQUEST, show="quiet").__enter__()
    finally:
        tmp_path.chmod(0o700)


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        content = content[: len(content) // 2]
    elif how == "one bit":
        content[len(content) // 2] ^= 1
    elif how == "zeros":
        content = bytearray(len(content))
    else:
        content = bytearray()
    path.write_bytes(content)


@pytest.mark.parametrize("how", ["truncated", "one bit", "zeros", "empty"])
def test_a_damaged_file_is_computed_again_with_a_note(tmp_path, how):
    numbers = {"values": np.arange(1000.0)}
    with pytest.raises(Interrupted), open_run(tmp_path / "run", REQUEST, show="quiet") as run:
        run.keep("first", lambda: numbers)
        raise Interrupted
    damage(tmp_path / "run.part" / "kept" / "first.npz", how)
    calls = []
    with open_run(tmp_path / "run", REQUEST, show="quiet") as run:
        again = run.keep("first", lambda: calls.append(1) or numbers)
        np.testing.assert_array_equal(again["values"], numbers["values"])
        run.keep("first", never)
    assert calls == [1]
    assert "kept as first was damaged" in read_manifest(tmp_path / "run").notes[0]


def test_cost_notes_and_prediction_accumulate_over_sessions(tmp_path):
    with pytest.raises(Interrupted), open_run(tmp_path / "run", REQUEST, show="quiet") as run:
        run.predict(Cost(gradients=100.0, fits=4))
        run.keep("first", ones)
        run.spend(gradients=10, fits=1)
        run.note("a fallback")
        run.note("a fallback")
        raise Interrupted
    first = read_manifest(tmp_path / "run.part")
    assert first.cost.disk_bytes > 0
    assert first.cost.seconds > 0
    with open_run(tmp_path / "run", REQUEST, show="quiet") as run:
        assert run.predicted == Cost(gradients=100.0, fits=4)
        run.predict(Cost(gradients=60.0))
        run.predict(Cost(gradients=40.0))
        run.spend(gradients=5, fits=2)
        assert run.cost.gradients == 15
    last = read_manifest(tmp_path / "run")
    assert (last.cost.gradients, last.cost.fits) == (15, 3)
    assert last.cost.seconds > first.cost.seconds
    assert last.notes == ("a fallback",)
    assert last.predicted == Cost(gradients=100.0)
    assert last.cost.disk_bytes == pytest.approx(files.size_of(tmp_path / "run"), rel=0.1)
    assert last.sessions == 2


def test_other_library_versions_become_a_note(tmp_path):
    part = stopped_run(tmp_path / "run")
    old = read_manifest(part)
    manifest.write_manifest(part, replace(old, versions={**old.versions, "numpy": "0.1"}))
    with open_run(tmp_path / "run", REQUEST, show="quiet") as run:
        assert f"numpy 0.1 -> {np.__version__}" in run.notes[0]


def test_a_prediction_beyond_the_disk_is_noted(tmp_path):
    with open_run(tmp_path / "run", REQUEST, show="quiet") as run:
        run.predict(Cost(disk_bytes=2**60))
        assert "MiB are free" in run.notes[0]


BAD_KEYS = [
    "",
    "/etc/passwd",
    "..",
    "a/../b",
    "a//b",
    "a/",
    ".hidden",
    "a b",
    "ü",
    "a\\b",
    "a\0",
    "a\n",
    "x" * 201,
]


@pytest.mark.parametrize("key", BAD_KEYS)
def test_keys_stay_inside_the_folder(tmp_path, key):
    with open_run(tmp_path / "run", REQUEST, show="quiet") as run:
        for call in (run.has, run.path, lambda k: run.keep(k, ones)):
            with pytest.raises(SettingError, match="cannot be the key"):
                call(key)


@pytest.mark.parametrize("name", ["kept", "kept/a", "manifest.json"])
def test_results_cannot_replace_the_run_s_own_files(tmp_path, name):
    with (
        open_run(tmp_path / "run", REQUEST, show="quiet") as run,
        pytest.raises(SettingError, match="belongs to"),
    ):
        run.path(name)


def test_results_lie_in_the_folder(tmp_path):
    with open_run(tmp_path / "run", REQUEST, show="quiet") as run:
        run.path("scores", "EKFAC").write_text("scores")
        assert run.path("report.html").parent == run.folder
    assert (tmp_path / "run" / "scores" / "EKFAC").read_text() == "scores"


@pytest.mark.parametrize("path", ["/", "."])
def test_a_path_without_a_name_is_refused_or_resolved(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if path == "/":
        with pytest.raises(SettingError, match="cannot be a run folder"):
            open_run(path, REQUEST, show="quiet").__enter__()
        return
    with open_run(path, REQUEST, show="quiet") as run:
        assert run.folder == tmp_path.with_name(tmp_path.name + ".part")


@pytest.mark.parametrize("request_", [{"x": np.float32(1)}, {"x": Path("a")}, {"x": {("a", "b"): 1}}])
def test_a_request_must_be_plain_json(tmp_path, request_):
    with pytest.raises(SettingError, match="cannot be written as JSON"):
        open_run(tmp_path / "run", request_, show="quiet").__enter__()


def test_something_put_at_the_path_meanwhile_is_not_overwritten(tmp_path):
    with (
        pytest.raises(RunError, match="put there by something else"),
        open_run(tmp_path / "run", REQUEST, show="quiet") as run,
    ):
        run.keep("first", ones)
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "other").write_text("x")
    assert (tmp_path / "run" / "other").read_text() == "x"
    assert (tmp_path / "run.part" / "kept" / "first.npz").exists()


def test_a_large_matrix_is_mapped_and_finished_runs_find_it_again(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "MAPPED_BYTES", 1000)
    for _ in range(2):
        with open_run(tmp_path / "run", REQUEST, show="quiet") as run:
            matrix = run.matrix("score/values", (50, 20), np.float32)
            assert isinstance(matrix, np.memmap)
            matrix[:] = run.keep("part", lambda: {"v": np.full((50, 20), 2, np.float32)})["v"]
            small = run.matrix("small", (3, 3), np.float32)
            assert not isinstance(small, np.memmap)
    np.testing.assert_array_equal(np.load(tmp_path / "run" / "score" / "values.npy"), np.full((50, 20), 2))


@pytest.mark.parametrize("free", [40 * 2**20, 2**40])
def test_a_matrix_beyond_the_disk_is_refused_and_leaves_no_file(tmp_path, monkeypatch, free):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    # Either too little is free to try, or the disk fills up between the question and the allocation. Both are
    # acted, because asking a real disk for too much fills it for everybody.
    monkeypatch.setattr(store, "free_bytes", lambda _: free)
    monkeypatch.setattr(store, "_allocate", full)
    with (
        pytest.raises(RunError, match="disk is full"),
        open_run(tmp_path / "run", REQUEST, show="quiet") as run,
    ):
        run.keep("first", ones)
        run.matrix("score/values", (1000, 9000), np.float32)
    assert not (tmp_path / "run.part" / "score" / "values.npy").exists()
    assert (tmp_path / "run.part" / "kept" / "first.npz").exists()


def test_a_run_in_memory_keeps_nothing_and_says_so(capsys):
    run = in_memory()
    calls = []
    for _ in range(2):
        run.keep("a", lambda: calls.append(1) or ones())
    assert calls == [1, 1]
    assert not run.has("a")
    assert not run.finished
    run.spend(gradients=2, fits=1)
    run.note("a fallback")
    run.predict(Cost(fits=1))
    with run.progress("work", 2) as bar:
        bar.advance()
    assert (run.cost.gradients, run.cost.fits, run.notes) == (2, 1, ("a fallback",))
    with pytest.raises(RunError, match="in memory has no folder"):
        run.path("a")
    assert capsys.readouterr().err == ""
