"""The small networks: shapes, causality, and a loss whose sampled twin has the right second moment."""

import numpy as np
import pytest
import torch

from steelyard.errors import DataError, SettingError
from steelyard.learners.small import (
    PADDING,
    UNKNOWN,
    LanguageModel,
    Vocabulary,
    next_word_loss,
    one_thread,
    perceptron,
)


def test_perceptron_has_relu_between_but_not_after_its_layers():
    kinds = [type(layer).__name__ for layer in perceptron(6, 5, 4, 3)]
    assert kinds == ["Flatten", "Linear", "ReLU", "Linear", "ReLU", "Linear"]
    assert perceptron(6, 3)(torch.zeros(2, 2, 3)).shape == (2, 3)
    with pytest.raises(SettingError, match="inputs and outputs"):
        perceptron(6)


def test_vocabulary_keeps_the_most_frequent_words():
    words = Vocabulary.of(["The cat. The dog.", "the cat"], size=5)
    assert words.words == ("<padding>", "<other>", "the", "cat", ".")
    np.testing.assert_array_equal(
        words.encode(["A cat the", "the dog . cat the"], length=4),
        [[UNKNOWN, 3, 2, PADDING], [2, UNKNOWN, 4, 3]],
    )
    with pytest.raises(DataError, match="text 2 has 1 tokens"):
        words.encode(["the cat", "the"], length=4)


def small() -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(11, length=6, width=8, heads=2, blocks=2).double()


def test_words_do_not_see_the_future():
    model = small()
    tokens = torch.tensor([[2, 3, 4, 5, 6, 7]])
    changed = tokens.clone()
    changed[0, 4] = 9
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :4], after[:, :4], rtol=0, atol=1e-12)
    assert not torch.allclose(before[:, 4], after[:, 4])


def test_padding_changes_nothing():
    loss = next_word_loss().function
    short, long = torch.tensor([[2, 3, 4, 5]]), torch.tensor([[2, 3, 4, 5, 0, 0]])
    torch.testing.assert_close(loss(small(), {"tokens": short}), loss(small(), {"tokens": long}))


def test_loss_is_the_mean_over_words():
    model, tokens = small(), torch.tensor([[2, 3, 4, 5]])
    chances = model(tokens[:, :-1]).log_softmax(-1)[0]
    wanted = -(chances[0, 3] + chances[1, 4] + chances[2, 5]) / 3
    torch.testing.assert_close(next_word_loss().function(model, {"tokens": tokens})[0], wanted)


def test_heads_must_divide_the_width():
    with pytest.raises(SettingError, match="does not divide"):
        LanguageModel(11, length=6, width=9, heads=2)


@pytest.mark.reference
@pytest.mark.slow
def test_sampled_gradients_have_the_gauss_newton_matrix_as_second_moment():
    """Against J^T H J of the mean loss, with H the softmax's Hessian, for the output layer's weights."""
    torch.manual_seed(0)
    model = LanguageModel(5, length=4, width=4, heads=1).double()
    tokens = torch.tensor([[2, 3, 4, 2]])
    weight = model.output.weight
    inputs: list[torch.Tensor] = []
    handle = model.output.register_forward_hook(lambda _, given, __: inputs.append(given[0].detach()))
    logits = model(tokens[:, :-1]).detach()[0]
    handle.remove()
    exact = torch.zeros(weight.numel(), weight.numel(), dtype=torch.float64)
    for hidden, chance in zip(inputs[0][0], logits.softmax(-1), strict=True):
        curvature = torch.diag(chance) - torch.outer(chance, chance)
        exact += torch.kron(curvature, torch.outer(hidden, hidden)) / len(logits)
    sampled = next_word_loss().sampled
    generator = torch.Generator().manual_seed(0)
    count = 4000
    found = torch.zeros_like(exact)
    for _ in range(count):
        loss = sampled(model, {"tokens": tokens}, generator).sum()
        (gradient,) = torch.autograd.grad(loss, weight)
        found += torch.outer(gradient.flatten(), gradient.flatten()) / count
    assert torch.linalg.norm(found - exact) < 0.1 * torch.linalg.norm(exact)


def test_threads_are_left_as_found():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == before
