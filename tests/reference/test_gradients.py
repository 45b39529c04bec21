"""The gradient engine against plain autograd, one example at a time, in float64."""

import numpy as np
import pytest
import torch

from steelyard.gradients.engine import TorchGradients
from steelyard.gradients.signs import Projection
from tests.gradients.models import Plain, cases, examples

pytestmark = pytest.mark.reference
NAMES = sorted(cases())


def problem(name: str):
    model, inputs, classes = cases()[name]
    labels = torch.arange(len(inputs)) % classes
    return Plain(model), examples(inputs, labels), examples(inputs[:4] * 1, (labels[:4] + 1) % classes, "q")


def truth(learner: Plain, data, dtype=torch.float64) -> np.ndarray:
    import copy

    model = copy.deepcopy(learner.model).eval().to(dtype)
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for batch in learner.batches(data, 1):
        batch = {k: t.to(dtype) if t.is_floating_point() else t for k, t in batch.items()}
        grads = torch.autograd.grad(learner.loss_function(model, batch).sum(), parameters, allow_unused=True)
        rows.append(torch.cat([torch.zeros(p.numel(), dtype=dtype) if g is None else g.flatten()
                               for g, p in zip(grads, parameters, strict=True)]))  # fmt: skip
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("batch_size", [1, 3, None])
@pytest.mark.parametrize("name", NAMES)
def test_dense_gradients_equal_autograd_per_example(name: str, batch_size: int | None) -> None:
    learner, train, _ = problem(name)
    engine = TorchGradients(learner, None, dtype=torch.float64, batch_size=batch_size)
    np.testing.assert_allclose(engine.dense(train), truth(learner, train), atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_products_and_norms_equal_those_of_full_gradients(name: str) -> None:
    learner, train, query = problem(name)
    engine = TorchGradients(learner, None, dtype=torch.float64, batch_size=4)
    g, q = truth(learner, train), truth(learner, query)
    np.testing.assert_allclose(engine.products(train, engine.prepare(query)), g @ q.T, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(engine.self_products(train), (g**2).sum(1), rtol=1e-9)
    products, squares = engine.products_and_squares(train, engine.prepare(query))
    np.testing.assert_allclose(products, g @ q.T, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(squares, (g**2).sum(1), rtol=1e-9)
    unit = engine.prepare(query, unit_norm=True)
    np.testing.assert_allclose(
        engine.products(train, unit),
        g @ (q / np.linalg.norm(q, axis=1, keepdims=True)).T,
        rtol=1e-9,
        atol=1e-12,
    )


@pytest.mark.parametrize("name", NAMES)
def test_float32_agrees_with_float64(name: str) -> None:
    learner, train, query = problem(name)
    engine = TorchGradients(learner, None)
    g, q = truth(learner, train), truth(learner, query)
    scale = np.linalg.norm(g, axis=1)[:, None] * np.linalg.norm(q, axis=1)[None]
    error = np.abs(engine.products(train, engine.prepare(query)) - g @ q.T) / scale
    assert error.max() < 1e-5


def test_which_parameters_are_tapped_and_which_fall_back() -> None:
    expected = {
        "mlp": (3, 0, 0), "frozen": (2, 0, 0), "conv1d": (2, 0, 0), "norms": (4, 0, 0), "cnn": (4, 0, 2),
        "transformer": (8, 1, 3), "positions": (7, 2, 3), "tied": (7, 1, 3), "twice": (3, 1, 1),
    }  # fmt: skip
    for name, counts in expected.items():
        learner, train, _ = problem(name)
        engine = TorchGradients(learner, None)
        coverage = engine.coverage(train)
        assert (len(coverage.blocks), len(coverage.broadcast), len(coverage.functional)) == counts, name
        assert bool(coverage.functional) == any("torch.func" in note for note in engine.notes(train)), name


@pytest.mark.parametrize("kind", ["dense", "two-sided"])
@pytest.mark.parametrize("name", ["mlp", "transformer", "cnn"])
def test_projection_keeps_dot_products_on_average(name: str, kind: str) -> None:
    learner, train, _ = problem(name)
    engine = TorchGradients(learner, None)
    gram = truth(learner, train) @ truth(learner, train).T
    estimates = []
    for seed in range(60):
        features = engine.features(train, Projection(64, kind, seed)).astype(np.float64)
        estimates.append(features @ features.T)
    mean, error = np.mean(estimates, 0), np.std(estimates, 0) / np.sqrt(len(estimates))
    assert (np.abs(mean - gram) / np.maximum(error, 1e-6 * np.abs(gram).max())).max() < 5.5


def test_model_is_left_as_found() -> None:
    for name in NAMES:
        learner, train, _ = problem(name)
        before = {k: v.clone() for k, v in learner.model.state_dict().items()}
        flags = {k: p.requires_grad for k, p in learner.model.named_parameters()}
        order = list(learner.model.state_dict())
        TorchGradients(learner, None).dense(train)
        assert {k: p.requires_grad for k, p in learner.model.named_parameters()} == flags
        assert sorted(learner.model.state_dict()) == sorted(order)
        assert all(torch.equal(before[k], v) for k, v in learner.model.state_dict().items())
        assert not any(m._forward_hooks for m in learner.model.modules())
