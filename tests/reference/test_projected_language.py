"""Projected features of language models: tied layers, Conv1D, adapters; nothing is lost where everything fits."""

# ruff: noqa: E402 - what follows the checks can only be imported where transformers is installed

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed: pip install 'steelyard[hf]'")
pytest.importorskip("peft", reason="peft is not installed: pip install 'steelyard[hf]'")

from steelyard import flow
from steelyard.collect.features import first_factors, random_features
from steelyard.collect.gradients import gradients_at
from steelyard.collect.store import StoreSettings
from steelyard.data import read
from steelyard.gradients.moments import in_blocks
from steelyard.gradients.signs import Projection
from steelyard.learners import AdamW, LoRA, Transformers
from steelyard.problem import Problem
from steelyard.run import in_memory
from steelyard.score import LESS, GradDot, GraSS, LoGra, TrackStar
from tests.learners import language

pytestmark = pytest.mark.reference
TEXTS = [
    "the steel yard", "a steel beam", "what is it", "is it steel", "one two three", "yes it is",
    "the beam is steel", "two beams", "what is a yard", "a steel beam",
]  # fmt: skip


def problem(kind: str, *, recipe: AdamW | None = None) -> Problem:
    rows = [{"id": f"t{i}", "text": text} for i, text in enumerate(TEXTS)]
    net = language.gpt2() if kind == "gpt2" else language.llama(tied=kind == "tied")
    given = {"tokenizer": language.tokenizer()}
    if kind == "lora":
        given |= {"lora": LoRA(rank=2), "recipe": recipe or AdamW(lr=1e-2, epochs=1, batch_size=4)}
    else:
        given |= {"recipe": recipe, "trained": recipe is None}
    learner = Transformers(net, **given)
    return Problem(learner, read(rows), read(rows[2:5]))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "tied", "lora"])
def test_features_of_full_rank_lose_nothing(kind: str) -> None:
    p = problem(kind)
    fitted = gradients_at(p, p.learner.explained(p.train), in_memory())
    exact = GradDot()(p).values
    for projection in ("two-sided", "sparse", "factored-sparse"):
        features = random_features(p, fitted, Projection(2**22, projection), method="test")
        found = features(p.train, "loss") @ features(p.query, "measurement").T
        np.testing.assert_allclose(found, exact, rtol=2e-3, atol=2e-4 * np.abs(exact).max())


@pytest.mark.parametrize("kind", ["gpt2", "llama", "tied", "lora"])
def test_parameters_are_arranged_as_their_gradients_are(kind: str) -> None:
    p = problem(kind)
    engine = gradients_at(p, p.learner.explained(p.train), in_memory()).gradients
    flat = torch.from_numpy(engine.dense(p.train.take(slice(0, 1)))[0])
    parameters = {name: q for name, q in engine.model.named_parameters() if q.requires_grad}
    pieces = flat.split([parameters[name].numel() for name in engine.names])
    values = {
        name: piece.view(parameters[name].shape) for name, piece in zip(engine.names, pieces, strict=True)
    }
    found = first_factors(engine, p.train)
    arranged = in_blocks(values, found, engine.coverage(p.train), engine.model)
    for name, factors in found.items():
        torch.testing.assert_close(arranged[name], factors.full()[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["llama", "lora"])
def test_methods_and_store_run_on_a_fine_tuning_by_adam(kind: str, tmp_path) -> None:
    p = problem(kind, recipe=AdamW(lr=1e-2, epochs=2, batch_size=4, checkpoints=2))
    found = {type(m).__name__: m(p) for m in (LESS(), TrackStar(rank=4), LoGra(rank=4), GraSS(dimension=16))}
    assert found["LESS"].provenance.resolved["direction"] == ["adam"]
    assert found["TrackStar"].provenance.resolved["second_moment"] == "the optimiser's"
    # The query is a training example: it is its own best proponent, or shares the place with its copy.
    for name in ("LoGra", "LESS"):
        own = [found[name].values[2 + q, q] for q in range(3)]
        assert all(own[q] > np.median(found[name].values[:, q]) for q in range(3)), name
    flow.build_index(p, tmp_path / "s", StoreSettings(dimension=16, dtype="float32"))
    answer = flow.query_index(p, tmp_path / "s", top=3)
    direct = LoGra(rank=4, init="random")(p)
    best = [row[3] for row in answer.top.iter_rows() if row[1] == "proponent" and row[2] == 1]
    assert best == [str(direct.train_ids[row]) for row in direct.values.argmax(axis=0)]
