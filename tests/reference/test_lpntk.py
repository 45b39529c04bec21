"""The labelled pseudo-NTK against its definition, its limit in width, and what clusters of it find."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

import steelyard as sy
from steelyard.errors import CapabilityError, SettingError
from steelyard.learners import SGD, Sklearn, Torch
from steelyard.maths.farthest import farthest_point_clusters
from steelyard.run import in_memory
from steelyard.score.lpntk import kinds_of_pairs

pytestmark = [pytest.mark.reference, pytest.mark.systems]


def problem(
    width: int = 5, classes: int = 3, train: int = 12, scale: bool = False
) -> tuple[sy.Problem, nn.Module]:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(train + 4, 4)), rng.integers(0, classes, train + 4)
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, classes)).double()
    if scale:
        with torch.no_grad():
            net[0].weight.normal_()
            net[2].weight.normal_(std=width**-0.5)
    return sy.Problem(Torch(net, trained=True), (x[:train], y[:train]), (x[train:], y[train:])), net


def jacobians(net: nn.Module, x: np.ndarray) -> np.ndarray:
    rows = []
    for row in torch.tensor(x):
        outputs = net(row[None])[0]
        grads = [torch.autograd.grad(o, list(net.parameters()), retain_graph=True) for o in outputs]
        rows.append(np.stack([torch.cat([g.flatten() for g in one]).numpy() for one in grads]))
    return np.stack(rows)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_kernel_is_its_definition(classes: int) -> None:
    p, net = problem(classes=classes)
    sides = [jacobians(net, np.asarray(d.input()[:])) for d in (p.train, p.query)]
    signs = [2.0 * np.eye(classes)[d.labels()] - 1.0 for d in (p.train, p.query)]
    ntk = np.einsum("iap,qbp->iqab", *sides)
    expected = np.einsum("ia,iqab,qb->iq", signs[0], ntk, signs[1]) / classes
    np.testing.assert_allclose(sy.score.LpNTK(normalised=False)(p).values, expected, rtol=1e-6)
    own = [np.einsum("ia,iap->ip", s, j) for s, j in zip(signs, sides, strict=True)]
    cosine = own[0] @ own[1].T / np.outer(*(np.linalg.norm(o, axis=1) for o in own))
    found = sy.score.LpNTK(threshold=0.3)(p)
    np.testing.assert_allclose(found.values, cosine, atol=1e-7)
    assert found.provenance.resolved["contradictory_pairs"] == (cosine <= -0.3).sum()
    assert found.provenance.resolved["interchangeable_pairs"] == (cosine >= 0.3).sum()
    assert sum(kinds_of_pairs(cosine, 0.3).values()) == cosine.size


def test_on_a_wide_network_it_becomes_the_labelled_ntk_of_one_output() -> None:
    """Outputs of a wide network have nothing in common: the kernel is one NTK times how many signs agree."""
    gaps = []
    for width in (16, 4096):
        p, net = problem(width=width, scale=True)
        jac = [jacobians(net, np.asarray(d.input()[:])) for d in (p.train, p.query)]
        ntk = np.einsum("iap,qap->iq", *jac) / 3
        signs = [2.0 * np.eye(3)[d.labels()] - 1.0 for d in (p.train, p.query)]
        labelled = ntk * (signs[0] @ signs[1].T) / 3
        found = sy.score.LpNTK(normalised=False)(p).values
        gaps.append(np.linalg.norm(found - labelled) / np.linalg.norm(labelled))
    assert gaps[1] < 0.1 * gaps[0] and gaps[1] < 0.05


def test_learning_an_example_moves_the_query_as_the_kernel_says() -> None:
    p, net = problem()
    kernel = sy.score.LpNTK(normalised=False)(p).values
    i, q, step = 3, 2, 1e-6

    def signed(x: np.ndarray, y: int) -> torch.Tensor:
        return (net(torch.tensor(x)[None])[0] * torch.tensor(2.0 * np.eye(3)[y] - 1.0)).sum() / 3**0.5

    x, xq = np.asarray(p.train.input()[:])[i], np.asarray(p.query.input()[:])[q]
    before = signed(xq, p.query.labels()[q]).item()
    grads = torch.autograd.grad(signed(x, p.train.labels()[i]), list(net.parameters()))
    with torch.no_grad():
        for parameter, grad in zip(net.parameters(), grads, strict=True):
            parameter += step * grad
    after = signed(xq, p.query.labels()[q]).item()
    np.testing.assert_allclose((after - before) / step, kernel[i, q], rtol=1e-4)


def test_farthest_points_are_found_in_turn() -> None:
    x = np.array([0.0, 0.1, 0.2, 5.0, 5.1, 9.0])
    heads, member = farthest_point_clusters(-np.abs(x[:, None] - x[None, :]), 3, first=0)
    assert heads.tolist() == [0, 5, 3] or heads.tolist() == [0, 5, 4]
    assert len(set(member[:3])) == 1 and member[3] == member[4] != member[5]


def digits(poison: int = 0):
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, y = (x[:400] / 16).astype(np.float32), y[:400].astype(np.int64)
    wrong = np.random.default_rng(0).choice(300, poison, replace=False)
    y[wrong] = (y[wrong] + 1) % 10
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 10))
    learner = Torch(net, recipe=SGD(lr=0.1, momentum=0.9, epochs=6))
    return sy.Problem(learner, (x[:300], y[:300]), (x[300:], y[300:])), wrong


def test_poison_is_in_the_small_clusters_and_copies_are_redundant() -> None:
    p, wrong = digits(30)
    plan = sy.act.PruneByKernel("poison")(p, 30, 0, in_memory())
    hit = np.isin(p.train.positions(plan.ids), wrong).mean()
    assert hit > 0.4  # a random plan hits a tenth
    p, _ = digits()
    x, y = np.asarray(p.train.input()[:]), p.train.labels()
    more = sy.data.read({"input": np.vstack([x, x[:40]]), "label": np.append(y, y[:40])})
    twice = sy.Problem(p.learner, more, p.query)
    plan = sy.act.PruneByKernel("redundant", clusters=0.6)(twice, 40, 0, in_memory())
    copied = np.isin(twice.train.positions(plan.ids), np.r_[0:40, 300:340])
    assert copied.mean() > 0.3  # a random plan: 0.24
    assert plan.action == "drop" and len(plan) == 40


def test_what_has_no_kernel_says_so() -> None:
    rng = np.random.default_rng(0)
    data = (rng.normal(size=(20, 3)), np.arange(20) % 2)
    with pytest.raises(CapabilityError, match="Sklearn"):
        sy.score.LpNTK()(sy.Problem(Sklearn(LogisticRegression()), data, data))
    number = Torch(nn.Linear(3, 1).double(), loss="mse", trained=True)
    numbers = (data[0], data[0][:, 0])
    with pytest.raises(CapabilityError, match="class labels"):
        sy.score.LpNTK()(sy.Problem(number, numbers, numbers))
    with pytest.raises(SettingError, match="threshold"):
        sy.score.LpNTK(threshold=2.0)
    with pytest.raises(SettingError, match="20 of 12"):
        p, _ = problem()
        sy.act.PruneByKernel()(sy.Problem(p.learner, p.train.take(slice(0, 20)), p.query), 20, 0, in_memory())
