"""Query gradients at low rank: exact where the rank is full, the best of their rank elsewhere, loss recorded."""

import numpy as np
import pytest
import torch

from steelyard.errors import SettingError
from steelyard.gradients import factors, queries
from steelyard.gradients.factors import Outer
from steelyard.gradients.queries import low_rank
from tests.gradients.sequences import texts
from tests.gradients.test_splits import engine_of, metric_of


@pytest.mark.parametrize("with_metric", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_full_rank_is_exact(tied, with_metric, monkeypatch):
    monkeypatch.setattr(queries, "_worth", lambda *_: True)  # also where it takes more room than the whole
    engine = engine_of(tied=tied)
    train, query = texts(9, "t", seed=1), texts(4, "q", seed=2)
    metric = metric_of(engine, train) if with_metric else None
    whole, short = engine.prepare(query, metric), engine.prepare(query, metric, rank=99)
    assert short.compact and not whole.compact
    np.testing.assert_allclose(
        engine.products(train, short), engine.products(train, whole), rtol=1e-8, atol=1e-12
    )
    assert short.lost.max() < 1e-6


def test_low_rank_is_the_best_of_its_rank_and_says_what_it_lost():
    torch.manual_seed(0)
    matrices = torch.randn(3, 7, 12, dtype=torch.float64)
    for given in (matrices, matrices.transpose(1, 2)):
        kept, lost = low_rank(given, 2)
        u, s, v = torch.linalg.svd(given)
        best = torch.einsum("qrk,qk,qkc->qrc", u[:, :, :2], s[:, :2], v[:, :2])
        torch.testing.assert_close(kept.full(), best)
        torch.testing.assert_close(lost, s[:, 2:].square().sum(1))
        assert isinstance(kept, Outer) and kept.grads.shape[1] == 2


def test_the_loss_of_truncation_is_that_of_the_whole_gradient():
    engine = engine_of()
    train, query = texts(9, "t", seed=1), texts(5, "q", seed=2)
    metric = metric_of(engine, train)
    whole, short = engine.prepare(query, metric), engine.prepare(query, metric, rank=2)
    difference = length = np.zeros(5)
    for name, block in short.blocks.items():
        full = whole.blocks[name].full().flatten(1).numpy()
        difference = difference + ((block.full().flatten(1).numpy() - full) ** 2).sum(1)
        length = length + (full**2).sum(1)
    np.testing.assert_allclose(short.lost, np.sqrt(difference / length), rtol=1e-6)
    assert 0.0 < short.lost.max() < 1.0


def test_it_takes_less_memory_and_stays_short(monkeypatch):
    engine = engine_of()
    train, query = texts(9, "t", seed=1), texts(6, "q", seed=2)
    short = engine.prepare(query, metric_of(engine, train), rank=1)
    monkeypatch.setattr(factors, "_CHUNK_ELEMENTS", 300)
    monkeypatch.setattr(queries, "_CHUNK_ELEMENTS", 300)
    found = engine.products(train, short)
    block = short.blocks["layers.0.mlp"]
    assert isinstance(block, Outer) and block.raw.numel() + block.grads.numel() == 6 * (16 + 17)
    rebuilt = sum(engine.products(train, type(short)({name: one}, 6)) for name, one in short.blocks.items())
    np.testing.assert_allclose(found, rebuilt, rtol=1e-9, atol=1e-12)


def test_a_rank_without_meaning_is_refused():
    engine = engine_of()
    with pytest.raises(SettingError, match="rank=0"):
        engine.prepare(texts(2, "q", seed=1), rank=0)
