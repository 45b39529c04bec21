"""Packs: results that are made together are kept in one file, and are found as if each had its own."""

import numpy as np
import pytest

from steelyard.errors import SettingError
from steelyard.run import Run, in_memory, open_run
from steelyard.run.packs import count_kept

MADE = {
    f"fits/x/{k}": {"values": np.arange(3.0) + k, "message": np.array("bad" if k == 4 else "")}
    for k in range(5)
}


def refuse() -> dict[str, np.ndarray]:
    raise AssertionError("made again")


def kept_again(run: Run) -> None:
    for key, arrays in MADE.items():
        assert run.has(key)
        found = run.keep(key, refuse)
        assert list(found) == list(arrays)
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)
            assert found[name].flags.c_contiguous


def test_each_is_found_under_its_own_key_now_and_when_the_run_goes_on(tmp_path):
    with pytest.raises(KeyboardInterrupt), open_run(tmp_path / "run", {}, show="quiet") as run:
        assert not run.has("fits/x/0")
        assert list(run.keep_together(MADE)) == list(MADE)
        kept_again(run)
        raise KeyboardInterrupt
    for _ in range(2):  # once to go on, once finished
        with open_run(tmp_path / "run", {}, show="quiet") as run:
            kept_again(run)
            assert not run.has("fits/x/5")
    packs = list((tmp_path / "run" / "kept" / "packs").iterdir())
    assert len(packs) == 2  # the texts are of two widths
    assert count_kept(tmp_path / "run", "fits/x") == 5


def test_results_of_their_own_and_in_packs_count_once(tmp_path):
    with open_run(tmp_path / "run", {}, show="quiet") as run:
        run.keep("fits/x/0", lambda: MADE["fits/x/0"])
        run.keep("fits/x/own", lambda: MADE["fits/x/0"])
        run.keep_together(MADE)
        run.keep_together({"fits/y/0": MADE["fits/x/0"]})
    assert count_kept(tmp_path / "run", "fits/x") == 6


def test_what_is_found_in_a_pack_cannot_be_changed_by_mistake(tmp_path):
    with open_run(tmp_path / "run", {}, show="quiet") as run:
        for found in (run.keep_together(MADE)["fits/x/1"], run.keep("fits/x/1", refuse)):
            with pytest.raises(ValueError, match="read-only"):
                found["values"][0] = 7.0
        kept_again(run)


def test_a_damaged_pack_is_told_and_its_results_are_made_again(tmp_path):
    with pytest.raises(KeyboardInterrupt), open_run(tmp_path / "run", {}, show="quiet") as run:
        run.keep_together(MADE)
        raise KeyboardInterrupt
    path = max((tmp_path / "run.part" / "kept" / "packs").iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[content.index(np.float64(3.0).tobytes())] ^= 1
    path.write_bytes(content)
    with open_run(tmp_path / "run", {}, show="quiet") as run:
        assert [run.has(key) for key in MADE] == [False] * 4 + [True]
        assert any("damaged" in note for note in run.notes)
        run.keep_together({key: MADE[key] for key in list(MADE)[:4]})
        kept_again(run)
    with open_run(tmp_path / "run", {}, show="quiet") as run:
        kept_again(run)


def test_what_is_lent_is_taken_at_once(tmp_path):
    with open_run(tmp_path / "lender", {}, show="quiet") as lender:
        lender.keep_together(MADE)
        lender.keep("fits/x/alone", lambda: MADE["fits/x/0"])
    with open_run(tmp_path / "run", {}, show="quiet") as run:
        run.borrow(tmp_path / "lender")
        run.take_lent([*MADE, "fits/x/alone", "fits/x/nobody"])
        kept_again(run)
        assert not run.has("fits/x/nobody")
    assert count_kept(tmp_path / "run", "fits/x") == 6
    memory = in_memory()
    memory.borrow(tmp_path / "lender")
    memory.take_lent(MADE)
    kept_again(memory)


def test_in_memory_nothing_is_kept(tmp_path):
    run = in_memory()
    np.testing.assert_array_equal(run.keep_together(MADE)["fits/x/3"]["values"], [3.0, 4.0, 5.0])
    assert not run.has("fits/x/3")


def test_keys_stay_inside_the_folder(tmp_path):
    with (
        open_run(tmp_path / "run", {}, show="quiet") as run,
        pytest.raises(SettingError, match="cannot be the key"),
    ):
        run.keep_together({"../x": {"values": np.zeros(1)}})
