"""UnTrac and UnTrac-Inv against steps written out by hand, and against real training without a source."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from steelyard.data import read
from steelyard.errors import DataError, NumericsError, SettingError
from steelyard.learners import SGD, Torch
from steelyard.problem import Problem
from steelyard.score import GradDot, UnTrac, UnTracInv
from steelyard.score.untrac import by_source, sources

pytestmark = [pytest.mark.reference, pytest.mark.systems]


def problem(measurement: str = "loss", trained: bool = True) -> Problem:
    draw = np.random.default_rng(0)
    names = np.repeat(["a", "b", "c"], [12, 20, 16])
    centre = {"a": 1.5, "b": 0.0, "c": -1.5}
    x = draw.normal(size=(48, 3)) + np.array([[centre[n], 0, 0] for n in names])
    # Source c is labelled the other way round: it harms queries that are like a.
    y = np.where(names == "c", x[:, 1] < 0, x[:, 1] > 0).astype(np.int64)
    q = draw.normal(size=(10, 3)) + np.array([1.5, 0, 0])
    ids = np.array([f"r{i:02d}" for i in draw.permutation(48)])
    train = read({"input": x.astype(np.float64), "label": y, "id": ids}).with_column("source", names, "s")
    query = read({"input": q.astype(np.float64), "label": (q[:, 1] > 0).astype(np.int64)})
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    recipe = SGD(lr=0.2, epochs=20, batch_size=8)
    return Problem(Torch(net, recipe=recipe, trained=trained, measurement=measurement), train, query)


def stepped(
    p: Problem, x: np.ndarray, y: np.ndarray, ids: np.ndarray, size: int, make, epochs: int = 1
) -> nn.Module:
    """The network after gradient ascent written out with torch.optim."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    optimiser = make(net.parameters())
    order = np.argsort(ids)
    for _ in range(epochs):
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            optimiser.zero_grad()
            (-cross_entropy(net(torch.tensor(x[rows])), torch.tensor(y[rows]))).backward()
            optimiser.step()
    return net


def losses(net: nn.Module, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return cross_entropy(net(torch.tensor(x)), torch.tensor(y), reduction="none").numpy()


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_unlearning_a_source_is_what_torch_optim_does(optimiser):
    p = problem()
    found = UnTrac(column="source", rate=0.05, batch_size=7, epochs=2, optimiser=optimiser)(p)
    x, y = p.train.column("input")[:], p.train.labels()
    q, labels = p.query.column("input")[:], p.query.labels()
    make = {"sgd": lambda w: torch.optim.SGD(w, lr=0.05), "adam": lambda w: torch.optim.Adam(w, lr=0.05)}[
        optimiser
    ]
    names = p.train.column("source")[:].astype(str)
    before = losses(stepped(p, x[:0], y[:0], p.train.ids[:0], 7, make), q, labels)
    for k, name in enumerate(found.train_ids):
        rows = names == name
        net = stepped(p, x[rows], y[rows], p.train.ids[rows], 7, make, epochs=2)
        np.testing.assert_allclose(found.values[k], losses(net, q, labels) - before, rtol=1e-6, atol=1e-9)


def test_unlearning_the_queries_is_what_torch_optim_does():
    p = problem()
    found = UnTracInv(rate=0.05, epochs=3, optimiser="sgd")(p)
    x, y = p.train.column("input")[:], p.train.labels()
    q, labels = p.query.column("input")[:], p.query.labels()
    net = stepped(p, q, labels, p.query.ids, 10, lambda w: torch.optim.SGD(w, lr=0.05), epochs=3)
    start = stepped(p, q[:0], labels[:0], p.query.ids[:0], 10, lambda w: torch.optim.SGD(w, lr=0.05))
    np.testing.assert_allclose(
        found.values[:, 0], losses(net, x, y) - losses(start, x, y), rtol=1e-6, atol=1e-9
    )
    grouped = UnTracInv(column="source", rate=0.05, epochs=3, optimiser="sgd")(p)
    rows = p.train.column("source")[:].astype(str) == "b"
    np.testing.assert_allclose(grouped.values[rows, 0], found.values[rows, 0].mean(), rtol=1e-9)


def test_small_steps_of_either_kind_agree_with_summed_gradients():
    p = problem()
    dots = GradDot()(p).values.mean(axis=1, keepdims=True)
    _, members = sources(p, "source", method="test")
    many = np.array([[len(rows)] for rows in members])
    there = UnTrac(column="source", rate=1e-4, batch_size=100, optimiser="sgd")(p)
    expected = by_source(dots, members)
    np.testing.assert_allclose(there.values.mean(axis=1, keepdims=True) / 1e-4 * many, expected, rtol=5e-3)
    back = UnTracInv(rate=1e-4, epochs=1, optimiser="sgd")(p)
    np.testing.assert_allclose(by_source(back.values, members) / 1e-4, expected, rtol=5e-3)


def test_it_agrees_in_sign_with_training_without_the_source():
    p = problem(trained=False)
    found = UnTrac(column="source", rate=0.05)(p).values.mean(axis=1)
    names = p.train.column("source")[:].astype(str)
    whole = p.learner.measure(p.learner.fit(p.train), p.query).mean()
    without = [
        p.learner.measure(p.learner.fit(p.train, (names != n).astype(float)), p.query).mean() for n in "abc"
    ]
    effect = np.array(without) - whole
    assert effect[0] > 0 > effect[2], "the planted harm is there"
    assert np.argmax(found) == np.argmax(effect) and np.argmin(found) == 2


def test_a_margin_turns_the_sign_of_a_loss():
    loss, margin = (UnTrac(column="source")(problem(m)).values for m in ("loss", "margin"))
    assert (np.sign(loss) == np.sign(margin)).mean() > 0.9


def test_the_network_is_as_before_and_bad_input_is_told():
    p = problem()
    before = p.learner.measure(p.learner.explained(p.train), p.query)
    UnTrac(column="source")(p)
    np.testing.assert_array_equal(p.learner.measure(p.learner.explained(p.train), p.query), before)
    names = p.train.column("source")[:].astype("U9")
    names[0] = "lonely"
    lonely = Problem(p.learner, p.train.with_column("source", names, "t"), p.query)
    with pytest.raises(DataError, match="single example, such as 'lonely'"):
        UnTrac(column="source")(lonely)
    with pytest.raises(DataError, match="no column 'origin'"):
        UnTracInv(column="origin")(p)
    with pytest.raises(SettingError, match="rate=0"):
        UnTrac(rate=0)
    with pytest.raises(NumericsError, match="rate"):
        UnTrac(column="source", rate=1.5e308, optimiser="sgd", batch_size=4, epochs=5)(p)
