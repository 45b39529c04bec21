"""Passes that start above the frozen layers, and output layers run where tokens count: the numbers of whole passes."""

# ruff: noqa: E402 - what follows the checks can only be imported where transformers is installed

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed")

from steelyard.learners import SGD, AdamW, LoRA, Transformers
from steelyard.learners.transformers_frozen import STATES, lower_of
from tests.learners.language import bert, gpt2, labelled, llama, pairs, tokenizer

UPPER = r".*(layers|layer|h)\.1\..*(q_proj|v_proj|query|c_attn)"


def learner(net, *, dtype: str | None = "float64", **settings):
    settings = {
        "lora": LoRA(rank=2, target_modules=UPPER),
        "recipe": SGD(lr=0.3, epochs=3, batch_size=3),
    } | settings
    return Transformers(net, tokenizer=tokenizer(), dtype=dtype, **settings)


def whole(found: Transformers) -> Transformers:
    """The same learner, whose passes go through all layers and all tokens."""
    plain = pickle.loads(pickle.dumps(found))
    plain._functions = replace(plain._functions, lower=None, head="")
    return plain


CASES = {
    "llama": (lambda: llama(), pairs),
    "gpt2": (lambda: gpt2(dropout=0.0), pairs),
    "bert": (lambda: bert(), labelled),
}


@pytest.mark.parametrize("case", CASES)
def test_fits_losses_and_gradients_are_those_of_whole_passes(case: str) -> None:
    net, data = CASES[case]
    train, query = data(8), data(4, seed=5)
    short = learner(net())
    plain = whole(short)
    assert "computed once" in " ".join(short.check(train, query))
    batch = next(short.batches(train, 8))
    assert STATES in batch and STATES not in next(plain.batches(train, 8))
    mine, theirs = short.fit(train, seed=3), plain.fit(train, seed=3)
    for name, value in theirs.parameters.items():
        torch.testing.assert_close(mine.parameters[name], value, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(short.measure(mine, query), plain.measure(theirs, query), rtol=1e-9)
    np.testing.assert_allclose(short.embed(mine, query), plain.embed(theirs, query), rtol=1e-5)
    wanted = plain.gradients(theirs).dense(train)
    np.testing.assert_allclose(short.gradients(mine).dense(train), wanted, atol=1e-9)
    assert np.abs(wanted).max() > 1e-3


def test_the_layers_below_are_run_once_per_text() -> None:
    found, train = learner(llama()), pairs(6)
    lower = found._functions.lower
    assert lower is not None
    seen: list[int] = []
    layer = lower._model.get_submodule(f"{lower._layers}.0")
    layer.register_forward_hook(lambda *_: seen.append(1))
    fitted = found.fit(train)
    once = len(seen)
    found.fit(train, seed=1)
    found.loss(fitted, train.take(np.array([4, 1])))
    assert once >= 6 and len(seen) == once


def test_states_do_not_depend_on_what_they_were_batched_with() -> None:
    train = pairs(6)
    first, second = learner(llama(), dtype="float32"), learner(llama(), dtype="float32")
    together = next(first.batches(train, 6))[STATES]
    alone = next(second.batches(train.take(np.array([3])), 1))[STATES]
    next(second.batches(train, 6))
    assert torch.equal(together[3, : alone.shape[1]], alone[0])


def test_the_lowest_layer_trained_means_whole_passes() -> None:
    found = learner(llama(), lora=LoRA(rank=2, target_modules=("q_proj",)))
    assert found._functions.lower is None
    assert STATES not in next(found.batches(pairs(3), 3))


def test_a_trained_embedding_below_is_noticed_by_its_gradient() -> None:
    net = llama()
    for name, parameter in net.named_parameters():
        parameter.requires_grad_("embed" in name or "layers.1" in name)
    found = learner(net, lora=None)
    notes = found.check(pairs(5), pairs(3, seed=4))
    assert any("every pass goes through them" in note for note in notes)
    assert STATES not in next(found.batches(pairs(3), 3))


def test_dropout_below_means_whole_passes_in_fits_only() -> None:
    short = learner(gpt2(dropout=0.3))
    plain = whole(short)
    train = pairs(6)
    notes = short.check(train, train)
    assert any("fits go through them" in note for note in notes)
    mine, theirs = short.fit(train, seed=2), plain.fit(train, seed=2)
    for name, value in theirs.parameters.items():
        torch.testing.assert_close(mine.parameters[name], value, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(short.loss(mine, train), plain.loss(theirs, train), rtol=1e-9)


def test_without_room_batches_make_whole_passes() -> None:
    train = pairs(8)
    found = learner(llama())
    assert found._functions.lower is not None
    found._functions = replace(found._functions, lower=lower_of(found._net, most=2500))
    with_room = [STATES in batch for batch in found.batches(train, 2)]
    assert with_room[0] and not with_room[-1]
    plain = whole(found)
    mine = found.fit(train)
    np.testing.assert_allclose(found.loss(mine, train), plain.loss(plain.fit(train), train), rtol=1e-9)


def test_a_model_with_other_frozen_parameters_is_run_whole() -> None:
    found, train = learner(llama()), pairs(4)
    batch = next(found.batches(train, 4))
    other = learner(llama(seed=1))
    mine = found.loss_function(other._net, batch)
    wanted = other.loss_function(other._net, next(other.batches(train, 4)))
    torch.testing.assert_close(mine, wanted)


def test_gradient_checkpointing_starts_above_too() -> None:
    train = pairs(6)
    kept, plain = learner(llama(), gradient_checkpointing=True), learner(llama())
    for name, value in plain.fit(train).parameters.items():
        torch.testing.assert_close(kept.fit(train).parameters[name], value, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("measurement", ["loss", "log_probability", "margin"])
def test_the_output_layer_runs_only_where_tokens_count(measurement: str) -> None:
    train = pairs(5)
    lora = LoRA(rank=2, target_modules=("q_proj", "v_proj"))
    short = learner(llama(), lora=lora, recipe=AdamW(lr=0.1, epochs=1), measurement=measurement)
    plain = whole(short)
    model = short.load(short.fit(train))
    batch = next(short.batches(train, 5))
    widths: list[int] = []
    handle = model.get_submodule(short._functions.head).register_forward_hook(
        lambda _module, _inputs, output: widths.append(output.shape[0] * output.shape[1])
    )
    mine = short.measurement_function(model, batch)
    wanted = plain.measurement_function(model, batch)
    handle.remove()
    torch.testing.assert_close(mine, wanted)
    counted = int((batch["labels"][:, 1:] != -100).sum())
    assert widths == [counted, batch["input_ids"].numel()] and widths[0] < widths[1]
