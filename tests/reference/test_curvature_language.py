"""Curvature products, solvers and refinement on language models, classifiers and LoRA against the whole matrix."""

# ruff: noqa: E402 - what follows the checks can only be imported where transformers is installed

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed: pip install 'steelyard[hf]'")
pytest.importorskip("peft", reason="peft is not installed: pip install 'steelyard[hf]'")

from steelyard.collect.solving import open_system
from steelyard.learners import AdamW, LoRA, Transformers
from steelyard.problem import Problem
from steelyard.run import in_memory
from steelyard.score import CG, EKFAC, EKFACCG, DataInf, GaussNewton, Shampoo
from tests.learners import language

pytestmark = pytest.mark.reference
LORA = LoRA(rank=2)
RECIPE = AdamW(lr=1e-2, epochs=1, batch_size=3)


def asked(name: str) -> Problem:
    net, make, settings = {
        "llama_tied": (language.llama(tied=True), language.pairs, {}),
        "llama_lora": (language.llama(), language.pairs, {"lora": LORA}),
        "llama_mean": (language.llama(), language.pairs, {"reduction": "mean"}),
        "gpt2": (language.gpt2(), language.texts, {}),
        "bert_lora": (language.bert(), language.labelled, {"lora": LORA}),
        "regression": (language.bert(1), language.labelled, {}),
    }[name]
    learner = Transformers(net, tokenizer=language.tokenizer(), recipe=RECIPE, **settings)
    return Problem(learner, make(8), make(2, seed=5))


@pytest.mark.parametrize(
    "name", ["llama_tied", "llama_lora", "llama_mean", "gpt2", "bert_lora", "regression"]
)
def test_products_equal_the_matrix(name: str) -> None:
    p = asked(name)
    s = open_system(p, in_memory(), method="t", curvature="gauss_newton", precision="float64")
    matrix = p.learner.hessian(s.fitted.model, p.train) / len(p.train)
    size = s.engine.size
    vectors = torch.randn(4, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = s.curvature(vectors).numpy()
    expected = vectors.numpy() @ matrix
    # Llama's norms and rotations compute in float32 whatever the model's number type, differently in every pass.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6 * np.abs(expected).max())


@pytest.mark.slow
def test_adapters_are_solved_and_refined_to_the_exact_influence() -> None:
    p = asked("llama_lora")
    exact = GaussNewton(damping=1.0)(p).values
    scale = np.abs(exact).max()
    for method in (
        CG(damping=1.0, tolerance=1e-6, iterations=120),
        EKFACCG(damping=1.0, tolerance=1e-6, iterations=200, precision="float64"),
    ):
        np.testing.assert_allclose(method(p).values, exact, rtol=1e-3, atol=1e-4 * scale)
    closer = []
    for seed in range(
        3
    ):  # also of the labels that are drawn for the preconditioner, which decide how fast it is
        drawn = Problem(p.learner, p.train, p.query, seed=seed)
        exact = GaussNewton(damping=1.0)(drawn).values
        rough = EKFAC(damping=1.0)(drawn).values
        few = EKFACCG(damping=1.0, tolerance=0.0, iterations=5)(drawn).values
        closer.append(np.linalg.norm(few - exact) / np.linalg.norm(rough - exact))
    assert max(closer) < 1
    assert np.median(closer) < 0.4


@pytest.mark.slow
def test_other_inverses_are_finite_on_adapters() -> None:
    p = asked("llama_lora")
    for method in (
        DataInf(),
        Shampoo(),
        EKFACCG(damping=0.1),
        EKFACCG(scope="layers", damping="blocks", iterations=3),
    ):
        values = method(p).values
        assert np.isfinite(values).all()
        assert np.abs(values).max() > 0
