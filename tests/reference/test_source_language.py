"""SOURCE on LoRA adapters of language models: against exact replay, where its assumptions hold."""

# ruff: noqa: E402 - what follows the checks can only be imported where transformers is installed

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

from steelyard.data import read
from steelyard.learners import SGD, AdamW, Files, LoRA, Transformers
from steelyard.problem import Problem
from steelyard.score.replay import Replay
from steelyard.score.source import SOURCE
from tests.learners import language

pytestmark = pytest.mark.reference
UPPER = r".*layers\.1\.self_attn\.(q|v)_proj"


def error(p: Problem, segments: int) -> float:
    """Largest difference from the exact derivative, relative to its largest value."""
    found = SOURCE(segments=segments, curvature="exact")(p).values
    exact = Replay(check="none")(p).values
    assert np.abs(exact).max() > 0
    return float(np.abs(found - exact).max() / np.abs(exact).max())


def steps(name: str, lr: float) -> SGD | AdamW:
    if name == "sgd":
        return SGD(lr=lr, epochs=2, batch_size=None, checkpoints=2)
    # SOURCE takes Adam's second moments as given, replay differentiates them: they agree where eps outweighs them.
    return AdamW(lr=1e3 * lr, eps=1e3, epochs=2, batch_size=None, weight_decay=0.0, checkpoints=2)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_short_training_of_adapters_tends_to_the_exact_derivative(name: str) -> None:
    errors = []
    for lr in (1e-4, 1e-5):
        learner = Transformers(
            language.llama().to(torch.float64),
            tokenizer=language.tokenizer(),
            lora=LoRA(rank=2, target_modules=UPPER),
            recipe=steps(name, lr),
        )
        errors.append(error(Problem(learner, language.pairs(8), language.pairs(3, seed=1), seed=3), 2))
    assert errors[-1] < 0.02
    if name == "sgd":
        assert errors[-1] < errors[0] / 5


def quadratic(lr: float, steps: int) -> Problem:
    """A regressor whose adapter's B alone is trained, on its output layer: its outputs are linear in B."""
    net = language.llama_classifier(labels=1).to(torch.float64)
    config = peft.LoraConfig(r=3, lora_alpha=3, target_modules=["score"], lora_dropout=0.0)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        adapted = peft.get_peft_model(net, config)
    for name, parameter in adapted.named_parameters():
        parameter.requires_grad_("lora_B" in name)

    def numbers(count: int, seed: int):
        rng = np.random.default_rng(seed)
        lines = language.sentences(count, seed=seed)
        rows = [{"id": f"{seed}-{i}", "text": t, "label": float(rng.normal())} for i, t in enumerate(lines)]
        return read(rows)

    recipe = SGD(lr=lr, epochs=steps, batch_size=None, weight_decay=0.1, checkpoints=1)
    learner = Transformers(
        adapted, tokenizer=language.tokenizer(), recipe=recipe, start="given", files=Files(task="classifier")
    )
    return Problem(learner, numbers(9, 0), numbers(3, 5), seed=1)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_adapters_with_a_quadratic_loss_tend_to_exact_unrolling() -> None:
    # One state stands for the whole training: exact only where the gradients barely move, so the training is short;
    # what is left shrinks in proportion to its length.
    errors = [error(quadratic(length / 20, 20), 1) for length in (4e-3, 1e-3)]
    assert errors[0] < 0.1 and errors[1] < errors[0] / 3
