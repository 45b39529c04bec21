"""Metagradients against finite differences of the learner's own training, in float64."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steelyard.collect.replay import metasmoothness
from steelyard.data import read
from steelyard.errors import CapabilityError, ModelError
from steelyard.gradients.replay import metagradients, record, spacing_for
from steelyard.learners import SGD, Adam, AdamW, Stage, Stages, Torch
from steelyard.problem import HasReplay, Problem
from steelyard.records import Examples
from steelyard.run import in_memory
from steelyard.score.replay import Replay

pytestmark = pytest.mark.reference
N, Q = 23, 4
COMMON = {"epochs": 3, "batch_size": 8}
RECIPES = {
    "sgd": SGD(lr=0.3, weight_decay=0.02, **COMMON),
    "full batch": SGD(lr=0.3, epochs=5, batch_size=None),
    "momentum": SGD(lr=0.1, momentum=0.9, weight_decay=0.05, **COMMON),
    "nesterov": SGD(lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.1, schedule="cosine", warmup=3, **COMMON),
    "adam": Adam(lr=0.02, weight_decay=0.1, betas=(0.8, 0.95), schedule="linear", **COMMON),
    "adam without decay": Adam(lr=0.02, **COMMON),
    "adamw": AdamW(lr=0.02, weight_decay=0.3, eps=1e-6, schedule="inverse_sqrt", warmup=0.2, **COMMON),
    "two stages": Stages(
        (
            AdamW(lr=0.02, epochs=2, batch_size=5),
            Stage(SGD(lr=0.1, momentum=0.9, epochs=2, batch_size=4), column="part", values=("b", "c")),
        )
    ),
}  # fmt: skip


def data(*, weighted: bool = False) -> tuple[Examples, Examples]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N + Q, 4))
    y = np.where(rng.random(N + Q) < 0.7, 0, rng.integers(0, 3, N + Q)).astype(np.int64)  # imbalanced
    x[7], y[7] = x[3], y[3]  # a duplicate
    part = np.array(["a", "b", "c"])[np.arange(N + Q) % 3]
    ids = np.array([f"e{i}" for i in range(N + Q)])
    rows = {"input": x, "label": y, "part": part, "id": ids}
    train, query = ({k: v[s] for k, v in rows.items()} for s in (slice(0, N), slice(N, None)))
    if weighted:
        train["weight"] = rng.choice([0.0, 0.5, 1.0, 3.0], N)
        query["weight"] = np.ones(Q)
    return read(train, features=["input"]), read(query, features=["input"])


def network(*, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(3)
    layers = [nn.Linear(4, 5), nn.Tanh(), nn.Dropout(dropout), nn.Linear(5, 3, bias=False)]
    return nn.Sequential(*layers).double()


def finite_differences(p: Problem, step: float = 1e-4) -> np.ndarray:
    """``-w_i dF/dw_i`` by central differences of fourth order through ``fit``."""
    own = p.train.weights()
    found = np.zeros((len(p.train), len(p.query)))
    for i in np.flatnonzero(own):
        for shift, factor in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
            factors = np.ones(len(own))
            factors[i] += shift * step / own[i]
            fitted = p.learner.fit(p.train, weights=factors, seed=p.seed)
            found[i] -= own[i] * factor * p.learner.measure(fitted, p.query) / (12 * step)
    return found if p.learner.measurement.lower_is_better else -found


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", RECIPES)
def test_replay_is_the_derivative_of_the_training(name: str, weighted: bool) -> None:
    p = Problem(Torch(network(), recipe=RECIPES[name]), *data(weighted=weighted), seed=1)
    expected = finite_differences(p)
    found = Replay(check="none")(p).values
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["nesterov", "adamw"])
def test_dropout_masks_are_those_of_the_training(name: str) -> None:
    learner = Torch(network(dropout=0.4), recipe=RECIPES[name], measurement="margin")
    p = Problem(learner, *data(weighted=True), seed=2)
    expected = finite_differences(p)
    np.testing.assert_allclose(
        Replay(check="none")(p).values, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max()
    )


class Attention(nn.Module):
    """Embedding tied to the output, normalisation, causal attention, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(9, 8), nn.LayerNorm(8)
        self.mix, self.drop = nn.Linear(8, 24), nn.Dropout(0.2)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.norm(self.drop(self.table(tokens)))
        q, k, v = self.mix(hidden).view(*tokens.shape, 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        return F.gelu(hidden + mixed) @ self.table.weight.T


def next_token(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    tokens = batch["input"]
    losses = F.cross_entropy(model(tokens)[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    return losses.sum(1)


def test_attention_and_tied_embeddings() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 9, (14, 6))
    train, query = (read({"input": part, "id": np.array([f"{k}{i}" for i in range(len(part))])}, label=None)
                    for k, part in (("t", rows[:11]), ("q", rows[11:])))  # fmt: skip
    learner = Torch(
        Attention().double(), loss=next_token, recipe=AdamW(lr=0.01, epochs=2, batch_size=4), start="given"
    )
    p = Problem(learner, train, query)
    expected = finite_differences(p)
    np.testing.assert_allclose(
        Replay(check="none")(p).values, expected, rtol=2e-6, atol=1e-6 * np.abs(expected).max()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", RECIPES)
def test_the_replayed_training_is_the_training_bit_by_bit(name: str, dtype: torch.dtype, monkeypatch) -> None:
    learner = Torch(network(dropout=0.3).to(dtype), recipe=RECIPES[name])
    assert isinstance(learner, HasReplay)
    train, _ = data(weighted=True)
    training = learner.replay(train, seed=5)
    values = record(training).final.values
    fitted = learner.fit(train, seed=5)
    assert torch.equal(values, torch.cat([fitted.parameters[name].flatten() for name in training.names]))
    monkeypatch.setattr("steelyard.learners.torch_training.FLAT_LIMIT", 0)
    plain = learner.fit(train, seed=5)  # by torch.optim itself
    plain_values = torch.cat([plain.parameters[name].flatten() for name in training.names])
    torch.testing.assert_close(values, plain_values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["momentum", "two stages"])
def test_recomputed_states_give_the_same_bits(name: str) -> None:
    train, query = data(weighted=True)
    learner = Torch(network(dropout=0.3), recipe=RECIPES[name])
    training = learner.replay(train, seed=5)
    gradients = torch.from_numpy(learner.gradients(learner.fit(train, seed=5)).dense(query, "measurement"))
    found = [metagradients(training, record(training, spacing=k), gradients) for k in (1, 4, 100)]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    assert len(record(training, spacing=4).states) == -(-training.steps // 4)
    assert spacing_for(training.steps, state_bytes=2**40) ** 2 >= training.steps


def test_queries_alone_and_together() -> None:
    train, query = data()
    learner = Torch(network(), recipe=RECIPES["adam"])
    whole = Replay(check="none")(Problem(learner, train, query)).values
    for k in range(Q):
        alone = Replay(check="none")(Problem(learner, train, query.take(slice(k, k + 1)))).values
        np.testing.assert_allclose(alone[:, 0], whole[:, k], rtol=1e-10, atol=1e-13)


def test_a_learner_whose_training_is_not_known_is_refused() -> None:
    train, query = data()
    trained = Problem(Torch(network(), recipe=RECIPES["sgd"], trained=True), train, query)
    with pytest.raises(CapabilityError, match="not known"):
        Replay()(trained)


def test_running_means_are_refused() -> None:
    train, query = data()
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
    with pytest.raises(ModelError, match="running_mean"):
        Replay(check="none")(Problem(Torch(net, recipe=SGD(lr=0.1, epochs=1, batch_size=8)), train, query))


class Unused(nn.Module):
    """Has a parameter that no loss reaches."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(4, 3), nn.Linear(2, 2)

    def forward(self, values: Tensor) -> Tensor:
        return self.used(values)


def test_a_parameter_without_gradient_is_named() -> None:
    train, query = data()
    with pytest.raises(ModelError, match=r"idle\.weight gets no gradient"):
        Replay(check="none")(Problem(Torch(Unused().double(), recipe=RECIPES["sgd"]), train, query))


def test_a_training_that_does_not_repeat_is_refused() -> None:
    train, query = data()
    calls = []

    def drifting(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        calls.append(0)
        return F.cross_entropy(model(batch["input"]), batch["label"], reduction="none") * (1 + len(calls))

    p = Problem(Torch(network(), loss=drifting, recipe=RECIPES["sgd"]), train, query)
    with pytest.raises(ModelError):
        Replay(check="none")(p)


def test_smooth_and_rough_trainings_are_told_apart() -> None:
    train, query = data()
    smooth = Problem(Torch(network(), recipe=RECIPES["sgd"]), train, query)
    rough = dataclasses.replace(RECIPES["sgd"], lr=30.0, epochs=20)
    chaotic = Problem(Torch(network(), recipe=rough), train, query)
    high, low = (float(metasmoothness(p, in_memory(), directions=3).mean()) for p in (smooth, chaotic))
    assert high > 0.9
    assert low < 0.5
    noted = Replay(directions=3)(chaotic).provenance
    assert any("metasmoothness" in note for note in noted.notes)
    clean = Replay()(smooth).provenance
    assert not any("metasmoothness" in note for note in clean.notes)
    assert clean.resolved["metasmoothness"][0] > 0.9
