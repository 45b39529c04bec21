"""The folder of the small real language model: whole or not there, however many make it at once."""

import os
from types import SimpleNamespace

import pytest

transformers_small = pytest.importorskip("steelyard.learners.transformers_small", exc_type=ImportError)


class Saves:
    """What writes itself into a folder, after something else has happened."""

    def __init__(self, name, before=lambda: None):
        self.name, self.before = name, before

    def save_pretrained(self, folder):
        self.before()
        folder.mkdir(exist_ok=True)
        (folder / self.name).write_text("mine", encoding="utf-8")


@pytest.fixture
def converts(monkeypatch, tmp_path):
    """Stands in for the conversion; what it is given happens in the middle of it."""

    def set_up(before=lambda: None):
        loaded = SimpleNamespace(net=None, tokenizer=Saves("tokenizer.json"))
        monkeypatch.setattr(transformers_small, "_gguf_file", lambda: tmp_path / "model.gguf")
        monkeypatch.setattr(transformers_small.importlib.util, "find_spec", lambda name: True)
        monkeypatch.setattr(transformers_small, "open_model", lambda *args, **settings: loaded)
        monkeypatch.setattr(
            transformers_small, "_without_quantisation", lambda net: Saves("config.json", before)
        )
        return tmp_path / "model"

    return set_up


def test_nothing_but_the_whole_folder_is_left(converts):
    folder = converts()
    assert transformers_small.small_language_model(folder) == folder
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "tokenizer.json"]
    assert list(folder.parent.iterdir()) == [folder]


def test_the_later_of_two_takes_what_the_first_has_made(converts, tmp_path):
    def first():
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "config.json").write_text("of the first", encoding="utf-8")

    folder = converts(first)
    assert transformers_small.small_language_model(folder) == folder
    assert (folder / "config.json").read_text(encoding="utf-8") == "of the first"
    assert list(folder.parent.iterdir()) == [folder]


def test_a_folder_that_is_no_model_is_not_taken(converts, tmp_path):
    def other():
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "notes.txt").write_text("mine", encoding="utf-8")

    folder = converts(other)
    with pytest.raises(OSError):
        transformers_small.small_language_model(folder)
    assert (folder / "notes.txt").is_file()


def test_what_killed_conversions_left_is_taken_away_once_it_is_old(converts, tmp_path):
    old, new = tmp_path / "model.converting-1", tmp_path / "model.converting-2"
    for path in (old, new):
        path.mkdir()
    os.utime(old, (0, 0))
    transformers_small.small_language_model(converts())
    assert not old.exists() and new.exists()
