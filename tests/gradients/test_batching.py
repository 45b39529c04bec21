"""Batches of sequences: within the room, in order where promised, and nothing depends on them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steelyard.gradients import batching
from steelyard.gradients.batching import Room, by_length, in_order, restoring
from steelyard.gradients.engine import TorchGradients
from steelyard.gradients.signs import Projection
from tests.gradients.sequences import Reader, Sequences, texts

_LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=40).map(lambda found: np.array(found))


@given(lengths=_LENGTHS, tokens=st.integers(1, 200), examples=st.integers(1, 12))
def test_every_example_is_in_one_batch_that_fits(lengths, tokens, examples):
    room = Room(examples, tokens)
    for batches in (in_order(lengths, room), by_length(lengths, room)):
        rows = [np.arange(len(lengths))[batch] for batch in batches]
        assert sorted(np.concatenate(rows).tolist()) == list(range(len(lengths)))
        for row in rows:
            assert len(row) <= examples
            assert len(row) == 1 or len(row) * lengths[row].max() <= tokens
    assert np.concatenate([np.arange(len(lengths))[b] for b in in_order(lengths, room)]).tolist() == list(
        range(len(lengths))
    )


@given(lengths=_LENGTHS, tokens=st.integers(50, 200))
def test_laid_end_to_end_they_can_be_put_back(lengths, tokens):
    batches = by_length(lengths, Room(tokens=tokens))
    order = restoring(batches, len(lengths))
    laid = np.concatenate([np.arange(len(lengths))[batch] for batch in batches])
    assert (laid if order is None else laid[order]).tolist() == list(range(len(lengths)))


def test_short_and_long_examples_are_parted_and_no_batch_is_mostly_padding():
    lengths = np.array([100, 2] * 50)
    batches = by_length(lengths, Room(tokens=1000))
    padded = sum(len(lengths[rows]) * lengths[rows].max() for rows in batches)
    assert padded <= 1.2 * lengths.sum()


def test_equal_lengths_are_not_shuffled():
    assert all(isinstance(batch, slice) for batch in by_length(np.full(9, 7), Room(tokens=21)))


@pytest.mark.parametrize("tied", [False, True])
def test_results_do_not_depend_on_batching(monkeypatch, tied):
    torch.manual_seed(0)
    learner = Sequences(Reader(tied=tied))
    train, query = texts(23, "t", seed=1), texts(5, "q", seed=2)
    found = []
    for tokens in (1, 40, 10**6):
        engine = TorchGradients(learner, None, dtype=torch.float64)
        monkeypatch.setattr(engine, "_room", Room(4096, tokens))
        engine.coverage(train)
        monkeypatch.setattr(engine, "_room", Room(4096, tokens))
        batches = [len(batch["input_ids"]) for batch in engine.batches(train)]
        assert sum(batches) == 23 and (tokens > 1 or batches == [1] * 23)
        side = engine.prepare(query)
        features = engine.features(train, Projection(dimension=64))
        found.append(
            (engine.products(train, side), engine.self_products(train), engine.dense(train), features)
        )
    for one, other in zip(found[0] + found[0], found[1] + found[2], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(found[0][0], found[0][2] @ TorchGradients(learner, None, dtype=torch.float64)
                               .dense(query, "measurement").T, rtol=1e-9, atol=1e-11)  # fmt: skip


def test_one_example_longer_than_the_room_goes_alone(monkeypatch):
    monkeypatch.setattr(batching, "WORKING_BYTES", 2000)
    learner = Sequences(Reader())
    train = texts(8, "t", seed=3)
    engine = TorchGradients(learner, None)
    assert [len(batch["input_ids"]) for batch in engine.batches(train)] == [1] * 8
    assert engine.products(train, engine.prepare(train)).shape == (8, 8)


def test_the_working_set_bounds_what_a_pass_keeps(monkeypatch):
    monkeypatch.setattr(batching, "WORKING_BYTES", 2**18)
    learner = Sequences(Reader())
    train = texts(60, "t", seed=4, longest=30)
    engine = TorchGradients(learner, None)
    kept = []
    for batch in engine.batches(train):
        saved = batching.Saved(learner.model)
        with saved.watching():
            learner.loss_function(learner.model, batch)
        kept.append(saved.peak)
    assert max(kept) <= 1.3 * 2**18
    assert len(kept) > 2 and sorted(kept)[len(kept) // 2] > 2**16


def test_a_value_that_is_not_finite_names_the_example_whatever_the_batch():
    from steelyard.errors import NumericsError

    learner = Sequences(Reader())
    train = texts(12, "t", seed=5)
    loss = learner.loss_function

    class Broken(Sequences):
        def loss_function(self, model, batch):
            values = loss(model, batch)
            first = batch["input_ids"][:, 0] == train.column("tokens")[7][0]
            second = batch["input_ids"][:, 1] == train.column("tokens")[7][1]
            return torch.where(first & second & bool(self.armed), torch.full_like(values, torch.inf), values)

    broken = Broken(learner.model)
    object.__setattr__(broken, "armed", False)
    engine = TorchGradients(broken, None)
    side = engine.prepare(train)
    object.__setattr__(broken, "armed", True)
    with pytest.raises(NumericsError, match="'t7'"):
        engine.products(train, side)
