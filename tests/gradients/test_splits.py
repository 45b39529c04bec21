"""Products taken apart: the parts sum to the whole and each is what its name says."""

import numpy as np
import pytest
import torch

from steelyard.errors import CapabilityError
from steelyard.gradients.engine import TorchGradients
from steelyard.gradients.kronecker import KroneckerMetric, Weighted, eigen_blocks, fit_bases
from steelyard.gradients.splits import Heads, layer_of, module_of
from tests.gradients.models import Plain, cases, examples
from tests.gradients.sequences import HEADS, Reader, Sequences, texts

_HEADS = Heads(HEADS, 2)


def engine_of(*, tied: bool = False, key_value: int = 2) -> TorchGradients:
    torch.manual_seed(0)
    return TorchGradients(Sequences(Reader(key_value, tied=tied)), None, dtype=torch.float64)


def metric_of(engine: TorchGradients, train) -> KroneckerMetric:
    def captured():
        for found in engine.capture(train, "loss"):
            yield Weighted(found, None, first=True)

    blocks = eigen_blocks(fit_bases(captured), "kfac")
    return KroneckerMetric(blocks, dict.fromkeys(blocks, 0.05), 0.0, float(len(train)))


@pytest.mark.parametrize("with_metric", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("by", ["token", "module", "layer", "head"])
def test_the_parts_sum_to_the_whole(by, tied, with_metric):
    engine = engine_of(tied=tied)
    train, query = texts(15, "t", seed=1), texts(4, "q", seed=2)
    side = engine.prepare(query, metric_of(engine, train) if with_metric else None)
    split = engine.products_by(train, side, by, heads=_HEADS)
    np.testing.assert_allclose(split.whole(), engine.products(train, side), rtol=1e-9, atol=1e-12)
    assert len(split.offsets) == 16 and split.offsets[-1] == len(split.values)


@pytest.mark.parametrize("name", sorted(cases()))
@pytest.mark.parametrize("by", ["token", "module", "layer"])
def test_networks_of_every_shape_are_taken_apart_without_remainder(name, by):
    model, inputs, classes = cases()[name]
    train = examples(inputs, torch.arange(len(inputs)) % classes)
    engine = TorchGradients(Plain(model), None, dtype=torch.float64)
    side = engine.prepare(train.take(slice(0, 3)))
    split = engine.products_by(train, side, by)
    np.testing.assert_allclose(split.whole(), engine.products(train, side), rtol=1e-9, atol=1e-12)


def test_a_token_has_the_gradient_that_reaches_the_layers_at_its_position():
    """Against autograd, with every use of a weight at a position as a variable of its own."""
    engine = engine_of()
    train, query = texts(6, "t", seed=3), texts(2, "q", seed=4)
    side = engine.prepare(query)
    split = engine.products_by(train, side, "token")
    layer = engine.model.layers[1]["mlp"]
    theirs = {"layers.1.mlp": side.blocks["layers.1.mlp"]}
    only = type(side)(theirs, side.count)
    alone = engine.products_by(train, only, "token")
    for i in range(6):
        batch = next(engine.batches(train.take(slice(i, i + 1))))
        seen: dict[str, torch.Tensor] = {}

        def keep(_, given, out, seen=seen):
            seen.update(inputs=given[0], out=out)

        first = layer.register_forward_hook(keep)
        loss = Sequences(engine.model).loss_function(engine.model, batch).sum()
        first.remove()
        gone = torch.autograd.grad(loss, seen["out"])[0][0]
        a = torch.cat([seen["inputs"][0], torch.ones(len(gone), 1, dtype=torch.float64)], 1)
        whole = theirs["layers.1.mlp"]
        matrices = whole.full() if hasattr(whole, "raw") else whole.values.view(2, *_shape(layer))
        expected = torch.einsum("to,qoi,ti->tq", gone, matrices, a)
        rows = slice(*alone.offsets[i : i + 2])
        np.testing.assert_allclose(alone.values[rows], expected.detach().numpy(), rtol=1e-8, atol=1e-12)
    lengths = engine._learner.lengths(train)
    assert np.diff(split.offsets).tolist() == lengths.tolist()


def _shape(layer):
    return layer.weight.shape[0], layer.weight.shape[1] + 1


def test_norms_have_no_token_and_stand_in_the_rest():
    engine = engine_of()
    train, query = texts(5, "t", seed=1), texts(3, "q", seed=2)
    side = engine.prepare(query)
    norms = type(side)({name: side.blocks[name] for name in side.blocks if name.endswith("norm")}, side.count)
    np.testing.assert_allclose(
        engine.products_by(train, side, "token").rest, engine.products(train, norms), rtol=1e-8, atol=1e-12
    )


@pytest.mark.parametrize("key_value", [2, HEADS])
def test_a_head_is_its_rows_into_attention_and_its_columns_out_of_it(key_value):
    engine = engine_of(key_value=key_value)
    train, query = texts(7, "t", seed=5), texts(3, "q", seed=6)
    side = engine.prepare(query)
    split = engine.products_by(train, side, "head", heads=Heads(HEADS, key_value))
    g, q = (engine.dense(train), engine.dense(query, "measurement"))
    masks = _head_masks(engine, head=3, key_value=key_value)
    place = split.names.index("layers.1.self_attn head 3")
    found = split.values.reshape(7, len(split.names), 3)[:, place]
    expected = (g * masks) @ q.T
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12)
    extra = 2 * key_value if key_value != HEADS else 0
    assert len(split.names) == 2 * HEADS + extra


def _head_masks(engine: TorchGradients, head: int, key_value: int) -> np.ndarray:
    parts = []
    for name, parameter in engine.model.named_parameters():
        mask = torch.zeros_like(parameter)
        rows = slice(4 * head, 4 * head + 4)
        if name.startswith("layers.1.self_attn.q_proj"):
            mask[rows] = 1
        if key_value == HEADS and name.startswith(("layers.1.self_attn.k_proj", "layers.1.self_attn.v_proj")):
            mask[rows] = 1
        if name == "layers.1.self_attn.o_proj.weight":
            mask[:, rows] = 1
        parts.append(mask.flatten())
    return torch.cat(parts).numpy()


def test_a_model_that_does_not_tell_its_heads_is_refused():
    engine = engine_of()
    train = texts(3, "t", seed=1)
    with pytest.raises(CapabilityError, match="heads"):
        engine.products_by(train, engine.prepare(train), "head")


def test_names_of_parts():
    block = "base_model.model.model.layers.11.self_attn.q_proj.lora_A.default"
    assert module_of(block) == "model.layers.11.self_attn.q_proj"
    assert layer_of(block) == "model.layers.11"
    assert layer_of("model.embed_tokens") == "model.embed_tokens"
    assert layer_of("0") == "0" and layer_of("transformer.h.3.mlp.c_fc") == "transformer.h.3"
