"""Laws of scores taken apart, over every method that can: the parts of a score sum to the score."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch

from steelyard import score
from steelyard.learners import SGD, Torch
from steelyard.learners.small import LanguageModel, next_word_loss
from steelyard.problem import Problem
from steelyard.records import Examples
from steelyard.run import in_memory
from steelyard.score.method import Splits

METHODS = sorted(name for name in score.METHODS if issubclass(score.method_class(name), Splits))


def problem() -> Problem:
    draw = np.random.default_rng(0)

    def some(count: int, prefix: str) -> Examples:
        tokens = draw.integers(2, 20, (count, 9))
        tokens[np.arange(9) >= draw.integers(3, 10, (count, 1))] = 0
        ids = np.array([f"{prefix}{i}" for i in range(count)])
        columns = {"tokens": tokens, "weight": draw.choice([0.0, 0.5, 1.0, 2.0], count)}
        return Examples(ids, columns, inputs=("tokens",), label=None, checksum=prefix)

    torch.manual_seed(0)
    net = LanguageModel(20, length=9, width=8, heads=2, blocks=2)
    learner = Torch(net, loss=next_word_loss(), recipe=SGD(lr=0.1, epochs=1), start="given")
    return Problem(learner, some(14, "t"), some(3, "q"))


def test_the_methods_that_are_products_of_gradients_can_be_taken_apart():
    assert set(METHODS) >= {"grad_dot", "grad_cos", "kfac", "ekfac"}


# These solve anew for every kind of parts: every day for tokens, for the others with the slow tests.
SOLVING = ("ekfac_cg", "lissa", "arnoldi")


@pytest.mark.parametrize(
    ("name", "by"),
    [
        pytest.param(name, by, marks=pytest.mark.slow if name in SOLVING and by != "token" else [])
        for name in METHODS
        for by in ("token", "module", "layer")
    ],
)
def test_the_parts_sum_to_the_score(name, by):
    given, method = problem(), score.by_name(name, {"iterations": "25"} if name == "lissa" else {})
    run = in_memory()
    rows = np.arange(14)[::-1]
    scores = np.asarray(method(given).values)[rows]
    split = method.split(given, method.prepare(given, run), rows, by)
    np.testing.assert_allclose(split.whole(), scores, rtol=2e-3, atol=2e-5 * np.abs(scores).max())
