"""Metagradients on language models of transformers, whole and with LoRA, against finite differences."""

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from steelyard.learners import SGD, AdamW, LoRA, Stage, Stages, Transformers
from steelyard.problem import HasReplay, HasSpans, Problem
from steelyard.score.replay import Replay
from tests.learners import language
from tests.reference.test_replay import finite_differences

pytestmark = [pytest.mark.reference, pytest.mark.slow]
RECIPE = SGD(lr=3e-3, momentum=0.8, epochs=2, batch_size=3, weight_decay=0.1, checkpoints=2)
ADAMW = AdamW(lr=3e-3, epochs=2, batch_size=3, eps=1e-2, weight_decay=0.1, checkpoints=2)
# Llama's normalisation computes in float32 whatever the model's type, so differences must be coarse.
ROUGH = {"llama", "tied", "lora", "stages"}


def problem(kind: str) -> Problem:
    train, query = language.pairs(8), language.pairs(2, seed=1)
    settings: dict = {"recipe": RECIPE, "tokenizer": language.tokenizer(), "start": "given"}
    if kind == "lora":
        pytest.importorskip("peft")
        settings |= {"lora": LoRA(rank=2)}
        settings.pop("start")
    if kind == "stages":
        train = train.with_column("part", np.arange(len(train)) % 2, "parts")
        settings |= {"recipe": Stages((RECIPE, Stage(RECIPE, column="part", values=(1,))))}
    if kind == "gpt2":
        settings |= {"recipe": ADAMW}
    net = language.gpt2(dropout=0.2) if kind == "gpt2" else language.llama(tied=kind == "tied")
    return Problem(Transformers(net.to(torch.float64), **settings), train, query, seed=3)


@pytest.mark.parametrize("kind", ["llama", "tied", "gpt2", "lora", "stages"])
def test_replay_is_the_derivative_of_fine_tuning(kind: str) -> None:
    p = problem(kind)
    assert isinstance(p.learner, HasReplay) and isinstance(p.learner, HasSpans)
    expected = finite_differences(p, step=2e-2 if kind in ROUGH else 1e-4)
    found = Replay(check="none")(p).values
    assert np.abs(expected).max() > 1e-5
    close = 1e-3 if kind in ROUGH else 1e-5
    np.testing.assert_allclose(found, expected, rtol=close, atol=close * np.abs(expected).max())
