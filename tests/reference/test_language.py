"""Language models, classifiers and LoRA: gradients against plain autograd, one example at a time, in float64."""

# ruff: noqa: E402 - what follows the checks can only be imported where transformers is installed

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("transformers", reason="transformers is not installed: pip install 'steelyard[hf]'")
pytest.importorskip("peft", reason="peft is not installed: pip install 'steelyard[hf]'")

from steelyard.gradients.engine import TorchGradients
from steelyard.gradients.fisher import fisher_gradients
from steelyard.learners import SGD, AdamW, LoRA, Transformers
from steelyard.problem import Problem
from steelyard.score import EKFAC, GaussNewton, GradDot
from tests.learners import language

pytestmark = pytest.mark.reference
LORA = LoRA(rank=2)


def cases() -> dict:
    """Name to model, examples, settings."""
    return {
        "llama": (language.llama(), language.texts(), {}),
        "llama_tied": (language.llama(tied=True), language.pairs(), {}),
        "llama_lora": (language.llama(), language.pairs(), {"lora": LORA}),
        "llama_mean": (language.llama(), language.pairs(), {"reduction": "mean"}),
        "gpt2": (language.gpt2(), language.texts(), {}),
        "gpt2_lora": (language.gpt2(), language.chats(), {"lora": LORA}),
        "bert": (language.bert(), language.labelled(), {}),
        "bert_lora": (language.bert(), language.labelled(), {"lora": LORA}),
        "llama_classifier": (language.llama_classifier(), language.labelled(), {}),
        "regression": (language.bert(1), language.labelled(), {}),
    }


NAMES = sorted(cases())


def made(name: str, **more):
    net, data, settings = cases()[name]
    recipe = AdamW(lr=1e-2, epochs=1, batch_size=3)
    return Transformers(net, tokenizer=language.tokenizer(), recipe=recipe, **settings, **more), data


def truth(learner: Transformers, fitted, data) -> np.ndarray:
    """Every example in a batch of its own, its tokens one by one, through plain autograd."""
    model = copy.deepcopy(learner.load(fitted)).double()
    parameters = [value for value in model.parameters() if value.requires_grad]
    rows = []
    for batch in learner.batches(data, 1):
        inputs = {k: v for k, v in batch.items() if k in ("input_ids", "attention_mask", "token_type_ids")}
        logits = model(**inputs).logits[0]
        labels = batch["labels"][0]
        if logits.ndim == 1:
            loss = (logits[0] - labels) ** 2 if len(logits) == 1 else F.cross_entropy(logits, labels)
        else:
            places = [t for t in range(1, len(labels)) if labels[t] >= 0]
            loss = sum(F.cross_entropy(logits[t - 1], labels[t]) for t in places)
            if learner.settings()["reduction"] == "mean":
                loss = loss / len(places)
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        flat = [torch.zeros_like(p) if g is None else g for g, p in zip(found, parameters, strict=True)]
        rows.append(torch.cat([g.flatten() for g in flat]))
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_autograd_per_example(name: str, batch_size: int) -> None:
    learner, data = made(name)
    fitted = learner.fit(data)
    engine = TorchGradients(learner, fitted, dtype=torch.float64, batch_size=batch_size)
    np.testing.assert_allclose(engine.dense(data), truth(learner, fitted, data), rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_no_parameter_needs_the_fallback(name: str) -> None:
    learner, data = made(name)
    coverage = TorchGradients(learner, learner.fit(data)).coverage(data)
    assert coverage.functional == ()


@pytest.mark.parametrize("name", ["llama_tied", "gpt2_lora", "bert"])
def test_padding_changes_no_score(name: str) -> None:
    learner, data = made(name, start="given")
    fitted = learner.fit(data)
    one, eight = (TorchGradients(learner, fitted, dtype=torch.float64, batch_size=size) for size in (1, 8))
    np.testing.assert_allclose(
        one.products(data, one.prepare(data)),
        eight.products(data, eight.prepare(data)),
        rtol=1e-9,
        atol=1e-12,
    )
    longest = data.take(np.array([int(np.argmax(learner.lengths(data)))]))
    alone, padded = learner.loss(fitted, data.take(np.array([1]))), learner.loss(fitted, data)[1]
    np.testing.assert_allclose(alone[0], padded, rtol=1e-5)
    assert learner.lengths(longest)[0] > learner.lengths(data).min()  # so there was padding


def test_scores_do_not_depend_on_batch_mates_that_differ_in_length() -> None:
    data, query, few = language.pairs(), language.pairs(3, seed=9), np.array([4, 0])
    learner = Transformers(language.llama(), tokenizer=language.tokenizer(), lora=LORA, trained=True)
    whole = GradDot()(Problem(learner, data, query)).values
    part = GradDot()(Problem(learner, data.take(few), query)).values
    np.testing.assert_allclose(part, whole[few], rtol=1e-4, atol=1e-6 * np.abs(whole).max())


def test_sampled_labels_have_the_exact_curvature_as_their_mean() -> None:
    for reduction in ("sum", "mean"):
        net = language.llama(hidden=4)
        lora = LoRA(rank=1, target_modules=("q_proj",))
        learner = Transformers(
            net, tokenizer=language.tokenizer(), lora=lora, reduction=reduction, recipe=SGD(lr=0.3, epochs=2)
        )
        data = language.pairs(4)
        fitted = learner.fit(data)
        engine = TorchGradients(learner, fitted, dtype=torch.float64)
        exact = learner.hessian(fitted, data)
        draws = []
        for seed in range(100):
            batches = fisher_gradients(engine, learner, data, kind="sampled", seed=seed)
            rows = np.concatenate([engine.rows(batch.factors).numpy() for batch in batches])
            draws.append(rows.T @ rows)
        mean, error = np.mean(draws, 0), np.std(draws, 0) / np.sqrt(len(draws))
        assert (np.abs(mean - exact) / np.maximum(error, 1e-6 * np.abs(exact).max())).max() < 5.5


def test_exact_curvature_by_hand() -> None:
    learner = Transformers(
        language.llama(hidden=4), tokenizer=language.tokenizer(), trained=True,
        lora=LoRA(rank=1, target_modules=("v_proj",)),
    )  # fmt: skip
    data = language.pairs(3)
    fitted = learner.explained(data)
    model = copy.deepcopy(learner.load(fitted)).double()
    parameters = [value for value in model.parameters() if value.requires_grad]
    total = 0.0
    for batch in learner.batches(data, 1):
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[0]
        for t in range(1, logits.shape[0]):
            if batch["labels"][0, t] < 0:
                continue
            jacobian = torch.stack([
                torch.cat([g.flatten() for g in torch.autograd.grad(o, parameters, retain_graph=True)])
                for o in logits[t - 1]
            ])  # fmt: skip
            chance = logits[t - 1].detach().softmax(0)
            total = total + jacobian.T @ (torch.diag(chance) - torch.outer(chance, chance)) @ jacobian
    np.testing.assert_allclose(
        learner.hessian(fitted, data), total.numpy(), rtol=1e-5, atol=1e-6 * float(total.abs().max())
    )  # the norms of transformers compute in float32 inside


@pytest.mark.parametrize("name", ["llama_lora", "llama_tied", "llama_classifier"])
def test_influence_of_a_step_is_what_removal_does(name: str) -> None:
    """One SGD step from given parameters: removing an example changes a query's loss by what grad-dot says."""
    net, data, settings = cases()[name]
    queries = data.take(np.array([0, 2]))
    learner = Transformers(
        net,
        tokenizer=language.tokenizer(),
        start="given",
        recipe=SGD(lr=1e-5, epochs=1, batch_size=None),
        **settings,
    )
    trained = Transformers(net, tokenizer=language.tokenizer(), trained=True, **settings)
    dots = GradDot()(Problem(trained, data, queries)).values
    everything = learner.measure(learner.fit(data), queries)
    found = []
    for i in range(len(data)):
        weights = np.ones(len(data))
        weights[i] = 1e-12  # present, so that the batch is as large
        found.append(learner.measure(learner.fit(data, weights), queries) - everything)
    expected = 1e-5 / len(data) * dots
    np.testing.assert_allclose(np.array(found), expected, atol=0.02 * np.abs(expected).max() + 3e-6)


def test_ekfac_runs_on_adapters_and_on_whole_models() -> None:
    for name in ("llama_lora", "gpt2", "bert"):
        learner, data = made(name)
        scores = EKFAC()(Problem(learner, data, data.take(np.array([1, 3]))))
        assert np.isfinite(scores.values).all()
        assert scores.values[1, 0] > 0 and scores.values[3, 1] > 0, name  # an example helps itself


def test_gauss_newton_of_a_small_classifier() -> None:
    learner, data = made("llama_classifier")
    problem = Problem(learner, data, data)
    scores = GaussNewton(damping=0.1)(problem)
    assert (np.diag(scores.values) > 0).all()
