"""Freed memory goes back to the system, and only when there is much of it."""

import numpy as np
import pytest
import torch
from torch import nn

from steelyard.gradients import engine, heap
from steelyard.gradients.engine import TorchGradients
from steelyard.gradients.heap import Heap
from tests.gradients.models import Plain, examples

MIB = 2**20


@pytest.mark.skipif(heap._trim() is None, reason="the C library of this system cannot trim its heap")
def test_holes_are_given_back():
    watched = Heap(growth=64 * MIB)
    before = heap._resident()
    # Pieces below the size that the library maps one by one; every second one is freed, so that no end of the heap is.
    pieces = [np.ones(32 * 1024, dtype=np.uint8) for _ in range(8192)]
    full = heap._resident()
    assert full - before > 200 * MIB
    del pieces[::2]
    assert watched.look()
    assert full - heap._resident() > 64 * MIB
    assert not watched.look()
    assert all(piece[0] == 1 for piece in pieces)


def test_little_growth_is_left_alone(monkeypatch):
    resident = iter([100 * MIB, 120 * MIB, 90 * MIB, 150 * MIB, 300 * MIB, 200 * MIB, 260 * MIB])
    given = []
    monkeypatch.setattr(heap, "_resident", lambda: next(resident))
    monkeypatch.setattr(heap, "_trim", lambda: given.append)
    watched = Heap(growth=100 * MIB)
    # 120, 90, 150: at most 60 above the lowest. 300: trimmed, to 200. 260: 60 above that.
    assert [watched.look() for _ in range(5)] == [False, False, False, True, False]
    assert given == [0]


def test_systems_without_such_a_library_do_nothing(monkeypatch):
    monkeypatch.setattr(heap, "_trim", lambda: None)
    assert not Heap(growth=0).look()


def test_a_pass_of_gradients_looks_before_every_batch(monkeypatch):
    grown = iter(range(0, 100 * MIB, MIB))
    given = []
    monkeypatch.setattr(heap, "_resident", lambda: next(grown))
    monkeypatch.setattr(heap, "_trim", lambda: given.append)
    watched = Heap(growth=0)
    monkeypatch.setattr(engine, "heap", lambda: watched)
    some = examples(torch.randn(7, 3), torch.arange(7) % 2)
    gradients = TorchGradients(Plain(nn.Linear(3, 2)), None, batch_size=2)
    captured = gradients.capture(some, "loss")
    for batch in range(1, 5):
        next(captured)
        assert len(given) == batch
    gradients.products(some, gradients.prepare(some))
    assert len(given) == 3 * 4
