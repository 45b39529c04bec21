"""Demo data: real, deterministic, split without overlap."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from steelyard.data import digits, python_docs
from steelyard.errors import SettingError


def test_digits_are_scikit_learns():
    data = digits()
    train, query, flipped = data
    assert len(train) == 1000 and len(query) == 150 and len(flipped) == 0
    assert train.columns["input"].shape == (1000, 64) and train.columns["input"].dtype == np.float32
    assert train.inputs == ("input",) and train.label == "label" and train.labels().dtype == np.int64
    images, labels = load_digits(return_X_y=True)
    for examples in (train, query):
        positions = [int(name.removeprefix("digit-")) for name in examples.ids]
        np.testing.assert_array_equal(examples.columns["input"], (images[positions] / 16).astype(np.float32))
        np.testing.assert_array_equal(examples.labels(), labels[positions])
    assert not set(train.ids) & set(query.ids)
    assert train.columns["input"].min() == 0 and train.columns["input"].max() == 1


def test_flipped_digits_have_another_class_and_nothing_else_changes():
    clean, flipped = digits(500, 100), digits(500, 100, flip=0.1)
    assert flipped.train.ids.tolist() == clean.train.ids.tolist()
    changed = flipped.train.labels() != clean.train.labels()
    assert changed.sum() == 50
    assert flipped.train.ids[changed].tolist() == flipped.flipped.tolist()
    np.testing.assert_array_equal(flipped.original_labels(), clean.train.labels())
    assert flipped.query.checksum == clean.query.checksum and flipped.train.checksum != clean.train.checksum
    assert len(set(flipped.train.labels()[changed].tolist())) > 5, "not all to one class"
    assert (digits(50, 5, flip=1.0).train.labels() != digits(50, 5).train.labels()).all()


def test_the_same_seed_gives_the_same_digits_in_every_process():
    code = (
        "from steelyard.data import digits\n"
        "d = digits(100, 20, flip=.1, seed=3); print(d.train.checksum, d.query.checksum)"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    data = digits(100, 20, flip=0.1, seed=3)
    assert [data.train.checksum, data.query.checksum] == other
    assert digits(100, 20, flip=0.1, seed=4).train.checksum != data.train.checksum


@pytest.mark.parametrize("arguments", [(1797, 1), (0, 5), (5, 0)])
def test_digits_that_there_are_not(arguments):
    with pytest.raises(SettingError, match="there are 1797 digits"):
        digits(*arguments)
    with pytest.raises(SettingError, match="flip=1.5.*expected a fraction"):
        digits(flip=1.5)


def test_passages_hold_the_whole_reference():
    from pydoc_data.topics import topics

    train, query = python_docs(600, query=80, seed=1)
    passages = {
        **dict(zip(train.ids.tolist(), train.columns["text"], strict=True)),
        **dict(zip(query.ids.tolist(), query.columns["text"], strict=True)),
    }
    assert len(passages) == len(train) + len(query)
    for topic, text in topics.items():
        names = sorted(name for name in passages if name.rpartition("/")[0] == topic)
        assert "".join("".join(passages[name] for name in names).split()) == "".join(text.split()), topic


def test_passages_are_of_about_the_asked_length_and_end_at_paragraphs():
    train, _ = python_docs(600)
    lengths = np.array([len(text) for text in train.columns["text"]])
    assert np.quantile(lengths, 0.95) <= 800 and 350 <= np.median(lengths) <= 600
    assert all(text == text.strip("\n") and text.strip() for text in train.columns["text"])


def test_every_query_topic_has_training_passages():
    for data in (python_docs(query=150), python_docs(query=60, train=200, seed=2)):
        assert set(data.query.columns["topic"]) <= set(data.train.columns["topic"])
        assert data.train.inputs == ("text",)
        assert not set(data.train.ids) & set(data.query.ids)
        assert all(
            name.startswith(f"{topic}/")
            for name, topic in zip(data.query.ids, data.query.columns["topic"], strict=True)
        )
    assert len(data.train) == 200 and len(data.query) == 60


def test_passages_depend_on_the_seed_only():
    assert python_docs().train.checksum == python_docs().train.checksum
    assert python_docs(seed=1).query.checksum != python_docs().query.checksum


@pytest.mark.parametrize("arguments", [{"query": 100_000}, {"train": 3, "query": 50}, {"train": 100_000}])
def test_passages_that_there_are_not(arguments):
    with pytest.raises(SettingError, match="the reference has .* such passages"):
        python_docs(**arguments)
    with pytest.raises(SettingError, match="expected positive numbers"):
        python_docs(0)
