"""The transformers learner: tokens, losses and measurements by hand, fits, states, folders."""

# ruff: noqa: E402 - what follows the checks can only be imported where transformers is installed

import json

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

pytest.importorskip("transformers", reason="transformers is not installed: pip install 'steelyard[hf]'")
peft = pytest.importorskip("peft", reason="peft is not installed: pip install 'steelyard[hf]'")

from steelyard.data import read
from steelyard.errors import CapabilityError
from steelyard.learners import SGD, AdamW, Files, LoRA, Stages, Text, Transformers
from steelyard.learners.torch_training import TorchFitted
from steelyard.learners.transformers_fits import trainable
from steelyard.problem import (
    HasCheckpoints,
    HasEmbeddings,
    HasGradients,
    HasLengths,
    HasMoments,
    HasState,
    HasTokens,
    Learner,
    Problem,
)
from steelyard.records import Measurement
from steelyard.score import GradDot
from tests.learners import language

RECIPE = AdamW(lr=1e-2, epochs=2, batch_size=3)


def learner(net=None, **settings) -> Transformers:
    given = {"tokenizer": language.tokenizer(), "trained": True} | settings
    return Transformers(net or language.llama(), **given)


def words(found: Transformers, examples, row: int) -> list[str]:
    """The pieces of text that the loss of one example counts."""
    batch = list(found.batches(examples, 1))[row]
    text, spans = found.texts(examples)[row], found.token_spans(examples)[row]
    return [text[a:b] for (a, b), label in zip(spans, batch["labels"][0], strict=True) if label >= 0]


def test_it_offers_every_protocol() -> None:
    protocols = (
        Learner, HasGradients, HasEmbeddings, HasState, HasCheckpoints, HasMoments, HasLengths, HasTokens,
    )  # fmt: skip
    assert all(isinstance(learner(), protocol) for protocol in protocols)


def test_of_a_text_every_token_counts_but_the_first() -> None:
    data = read([{"id": "a", "text": "the steel yard"}])
    found = learner()
    assert words(found, data, 0) == ["the", "steel", "yard", ""]  # the last is the end of the text
    assert found.lengths(data).tolist() == [5]
    assert words(learner(text=Text(end_token=False)), data, 0) == ["the", "steel", "yard"]


def test_of_a_prompt_and_completion_the_completion_counts() -> None:
    data = read([{"id": "a", "prompt": "what is it ", "completion": "a steel beam"}])
    found = learner()
    assert words(found, data, 0) == ["a", "steel", "beam", ""]
    assert found.texts(data) == ["what is it a steel beam"]


def test_of_messages_the_assistant_counts() -> None:
    turns = [
        {"role": "system", "content": "one two"},
        {"role": "user", "content": "what is it"},
        {"role": "assistant", "content": "a beam"},
        {"role": "user", "content": "is it steel"},
        {"role": "assistant", "content": "yes"},
    ]
    data = read([{"id": "a", "messages": turns}])
    assert words(learner(), data, 0) == ["a", "beam", "</s>", "yes", "</s>"]


def test_the_loss_is_the_sum_of_token_losses() -> None:
    data = read([{"id": "a", "prompt": "what is it ", "completion": "a steel beam"}])
    found = learner()
    fitted = found.explained(data)
    batch = next(iter(found.batches(data, 1)))
    logits = found.load(fitted)(input_ids=batch["input_ids"]).logits[0].detach().log_softmax(-1)
    tokens = batch["input_ids"][0]
    steps = [float(logits[t - 1, tokens[t]]) for t in range(4, len(tokens))]
    assert len(steps) == 4
    np.testing.assert_allclose(found.loss(fitted, data), [-sum(steps)], rtol=1e-5)
    mean = learner(reduction="mean")
    np.testing.assert_allclose(mean.loss(mean.explained(data), data), [-sum(steps) / 4], rtol=1e-5)
    likely = learner(measurement="log_probability")
    np.testing.assert_allclose(likely.measure(likely.explained(data), data), [sum(steps)], rtol=1e-5)
    margins = learner(measurement="margin")
    odds = sum(step - np.log1p(-np.exp(step)) for step in steps)
    np.testing.assert_allclose(margins.measure(margins.explained(data), data), [odds], rtol=1e-4)
    assert likely.measurement == Measurement("log_probability", "nats", lower_is_better=False)


@pytest.mark.parametrize("span", ["steel", [2, 7]])
def test_a_span_is_measured_alone(span) -> None:
    data = read([{"id": "a", "prompt": "the steel ", "completion": "a steel beam", "span": span}])
    found = learner(measurement="span")
    fitted = found.explained(data)
    batch = next(iter(found.batches(data, 1)))
    assert (batch["measured"] >= 0).sum() == 1
    logits = found.load(fitted)(input_ids=batch["input_ids"]).logits[0].detach().log_softmax(-1)
    place = 4  # <s> the steel a [steel]
    expected = float(logits[place - 1, batch["input_ids"][0, place]])
    np.testing.assert_allclose(found.measure(fitted, data), [expected], rtol=1e-5)


def test_a_measurement_of_ones_own() -> None:
    def first(model, batch):
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0, 0]

    data = read([{"id": "a", "text": "the steel", "factor": 2.0}, {"id": "b", "text": "a", "factor": 1.0}])
    found = learner(measurement=(first, Measurement("first logit", "logits", lower_is_better=False)))
    assert found.measure(found.explained(data), data).shape == (2,)
    assert next(iter(found.batches(data, 2)))["factor"].tolist() == [2.0, 1.0]


def test_labels_of_classifiers() -> None:
    numbers = language.labelled()
    found = learner(language.bert(), classes=("red", "green", "blue"))
    names = np.array(["red", "green", "blue"])[numbers.labels()]
    texts = read([{"id": str(i), "text": t, "label": n} for i, (t, n) in
                  enumerate(zip(numbers.input()[:], names, strict=True))])  # fmt: skip
    fitted = found.explained(numbers)
    np.testing.assert_array_equal(found.loss(fitted, numbers), found.loss(fitted, texts))
    chances = found.probabilities(fitted, numbers)
    np.testing.assert_allclose(chances.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        -np.log(chances[np.arange(len(numbers)), numbers.labels()]), found.loss(fitted, numbers), rtol=1e-5
    )


def test_sentence_pairs_have_segments() -> None:
    data = read({"first": ["the beam", "one two"], "second": ["a steel yard", "no"], "label": [0, 1], "id": ["a", "b"]},
                text=("first", "second"))  # fmt: skip
    found = learner(language.bert())
    assert found.texts(data)[0] == "the beama steel yard"
    assert found.lengths(data).tolist() == [6, 4]
    assert np.isfinite(found.loss(found.explained(data), data)).all()


def test_embeddings_are_means_over_real_tokens() -> None:
    data = language.texts()
    found = learner()
    fitted = found.explained(data)
    vectors = found.embed(fitted, data)
    batch = list(found.batches(data, 1))[2]
    states = found.load(fitted)(input_ids=batch["input_ids"], output_hidden_states=True).hidden_states[-1]
    np.testing.assert_allclose(vectors[2], states[0].detach().mean(0).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "lora", "gpt2"])
def test_fits_are_reproducible_and_restorable(name: str) -> None:
    net = language.gpt2() if name == "gpt2" else language.llama()
    lora = LoRA(rank=2, dropout=0.1) if name == "lora" else None
    data = language.pairs()
    found = learner(
        net, recipe=AdamW(lr=1e-2, epochs=2, batch_size=3, checkpoints=2), lora=lora, trained=False
    )
    fitted, again, other = found.fit(data, seed=1), found.fit(data, seed=1), found.fit(data, seed=2)
    np.testing.assert_array_equal(found.measure(fitted, data), found.measure(again, data))
    assert np.abs(found.measure(fitted, data) - found.measure(other, data)).max() > 0
    restored = found.restore(found.dump(fitted))
    np.testing.assert_array_equal(found.measure(restored, data), found.measure(fitted, data))
    assert fitted.losses[-1] < fitted.losses[0]
    assert [rate for _, rate in found.checkpoints(fitted)] == pytest.approx([0.03, 0.03])
    assert set(found.moments(fitted).first) == set(fitted.parameters)


def test_fitted_models_hold_adapters_alone_and_share_the_base() -> None:
    data = language.pairs()
    found = learner(recipe=RECIPE, lora=LoRA(rank=2), trained=False)
    first, second = found.fit(data, seed=1), found.fit(data, seed=2)
    assert all("lora_" in name for name in first.parameters)
    one, two = found.load(first), found.load(second)
    assert one is not two
    for (name, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        assert (a is b) == ("lora_" not in name)
    assert not torch.equal(first.parameters[next(iter(first.parameters))],
                           second.parameters[next(iter(second.parameters))])  # fmt: skip


def test_the_callers_model_is_left_as_it_was() -> None:
    net = language.llama()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    flags = {name: value.requires_grad for name, value in net.named_parameters()}
    state = torch.random.get_rng_state()
    found = learner(net, recipe=RECIPE, lora=LoRA(rank=2), trained=False)
    found.fit(language.pairs())
    assert list(net.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert {name: value.requires_grad for name, value in net.named_parameters()} == flags
    assert torch.equal(torch.random.get_rng_state(), state)


def test_checkpointing_changes_no_number() -> None:
    data = language.pairs()
    fits = [
        learner(recipe=RECIPE, trained=False, gradient_checkpointing=on).fit(data) for on in (False, True)
    ]
    for name, value in fits[0].parameters.items():
        torch.testing.assert_close(value, fits[1].parameters[name])


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)])
@pytest.mark.parametrize("net", [language.llama, lambda: language.gpt2(dropout=0.0)])
def test_checkpointing_changes_no_gradient_of_an_example(net, lora) -> None:
    """What a fit backpropagates through, one example at a time, is what the gradient engine gives without."""
    data = language.pairs()
    settings = {"lora": lora, "recipe": RECIPE, "trained": False, "start": "given", "dtype": "float64"}
    kept, plain = (learner(net(), gradient_checkpointing=on, **settings) for on in (True, False))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = kept._begin.draw().train()
    runs: list[str] = []
    for name, part in module.named_modules():
        if name.endswith("mlp"):
            part.register_forward_pre_hook(lambda *_, name=name: runs.append(name))
    rows = []
    for batch in kept.batches(data, 1):
        module.zero_grad()
        kept.loss_function(module, batch).sum().backward()
        rows.append(torch.cat([p.grad.flatten() for p in module.parameters() if p.requires_grad]))
    assert len(runs) == 2 * 2 * len(data), "two layers, each of them run again in the backward pass"
    engine = plain.gradients(TorchFitted(trainable(module), 0))
    np.testing.assert_allclose(engine.dense(data), torch.stack(rows).numpy(), rtol=1e-9, atol=1e-12)


def test_stages_follow_one_another() -> None:
    data = language.pairs()
    first, second = SGD(lr=1e-2, epochs=1, batch_size=3), AdamW(lr=1e-2, epochs=1, batch_size=3)
    both = learner(recipe=Stages((first, second)), trained=False)
    fitted = both.fit(data)
    assert len(fitted.losses) == 2 and both.moments(fitted).step == 3
    one = learner(recipe=Stages((second,)), trained=False).fit(data)
    two = learner(recipe=second, trained=False).fit(data)
    assert all(torch.equal(value, two.parameters[name]) for name, value in one.parameters.items())


def test_a_weight_of_zero_is_absence() -> None:
    data = language.pairs()
    found = learner(recipe=RECIPE, trained=False)
    weights = np.ones(len(data))
    weights[2] = 0
    without = found.fit(data.take(np.flatnonzero(weights)))
    np.testing.assert_array_equal(found.measure(found.fit(data, weights), data), found.measure(without, data))


def test_starts() -> None:
    data = language.pairs()
    fresh = learner(recipe=SGD(lr=1e-9, epochs=1), start="fresh", trained=False)
    given = learner(recipe=SGD(lr=1e-9, epochs=1), trained=False)
    own = learner(recipe=SGD(lr=1e-9, epochs=1), start=lambda: language.llama(seed=5), trained=False)
    net = learner(language.llama(seed=5))
    np.testing.assert_allclose(
        own.measure(own.fit(data), data), net.measure(net.explained(data), data), rtol=1e-4
    )
    plain = learner()
    np.testing.assert_allclose(
        given.measure(given.fit(data), data), plain.measure(plain.explained(data), data), rtol=1e-4
    )
    assert np.abs(fresh.measure(fresh.fit(data), data) - given.measure(given.fit(data), data)).max() > 0.1


def test_truncation_is_reported() -> None:
    data = read(
        [{"id": "long", "text": "the a steel yard beam weighs"}, {"id": "short", "text": "the a steel"}]
    )
    found = learner(max_length=5)
    notes = found.check(data, data.take(np.array([1])))
    assert any("1 of 2 examples" in note and "'long'" in note and "3 tokens lost" in note for note in notes)
    assert words(found, data, 0) == ["the", "a", "steel", "yard"]
    start = learner(max_length=5, text=Text(cut="start"))
    assert words(start, data, 0) == ["yard", "beam", "weighs", ""]


def test_packing_loses_no_token() -> None:
    data = language.texts()
    found = learner()
    blocks = found.packed(data, 7)
    assert set(found.lengths(blocks)[:-1]) == {7}
    assert sum(found.lengths(blocks)) == sum(found.lengths(data))
    counted = sum(int((batch["labels"] >= 0).sum()) for batch in found.batches(data, 4))
    packed = sum(int((batch["labels"] >= 0).sum()) for batch in found.batches(blocks, 4))
    assert counted - len(blocks) <= packed <= counted  # the first token of a block cannot be predicted
    assert set(np.concatenate([np.array(s) for s in blocks.column("sources")[:]])) == set(data.ids)
    assert np.isfinite(found.loss(found.explained(blocks), blocks)).all()


def test_answers_are_the_models_own() -> None:
    data = language.pairs(3)
    found = learner(measurement="log_probability")
    fitted = found.explained(data)
    asked = found.answer(fitted, data, tokens=3)
    assert list(asked.ids) == list(data.ids) and asked.checksum != data.checksum
    batch = found._reading.tokenizer(data.column("prompt")[0], return_tensors="pt")
    best = int(found.load(fitted)(input_ids=batch["input_ids"]).logits[0, -1].argmax())
    assert asked.column("completion")[0].split()[0] == found._reading.tokenizer.decode([best]).strip()
    assert np.isfinite(found.measure(fitted, asked)).all()
    chats = found.answer(fitted, language.chats(2), tokens=2)
    assert chats.column("messages")[0][-1]["role"] == "assistant"


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)])
def test_bfloat16(lora) -> None:
    data = language.pairs()
    found = learner(dtype="bfloat16", recipe=RECIPE, lora=lora, start="given")
    wide = learner(dtype="float32", recipe=RECIPE, lora=lora, start="given")
    found.check(data, data)
    np.testing.assert_allclose(
        found.measure(found.explained(data), data), wide.measure(wide.explained(data), data), rtol=0.05
    )
    engine = found.gradients(found.explained(data))
    ours = engine.products(data, engine.prepare(data))
    engine = wide.gradients(wide.explained(data))
    theirs = engine.products(data, engine.prepare(data))
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.99
    assert spearmanr(ours.ravel(), theirs.ravel()).statistic > 0.95
    assert found.gradients(found.explained(data)).coverage(data).functional == ()
    rows = found.gradients(found.explained(data)).dense(data)
    assert rows.dtype == np.float32 and rows.shape == (len(data), found.settings()["parameters"])
    assert np.isfinite(found.measure(found.fit(data), data)).all()


def test_float16_overflow_is_named_and_computed_wider() -> None:
    net = language.llama()
    with torch.no_grad():
        net.model.norm.weight *= 100
        net.lm_head.weight *= 2e3
    data = language.pairs()
    found = learner(net, dtype="float16")
    before = found.fingerprint()
    notes = found.check(data, data)
    note = next(note for note in notes if "float16" in note)
    assert "overflows float16" in note and "float32 instead" in note and repr(str(data.ids[0]))[1:3] in note
    wide = learner(net, dtype="float32")
    np.testing.assert_allclose(
        found.measure(found.explained(data), data), wide.measure(wide.explained(data), data), rtol=2e-2
    )
    assert found.fingerprint() == before
    assert found.settings()["dtype"].startswith("float32, because example")


def test_float16_that_fits_stays() -> None:
    data = language.pairs()
    found = learner(dtype="float16")
    assert not any("float16" in note for note in found.check(data, data))
    engine = found.gradients(found.explained(data))
    assert engine.products(data, engine.prepare(data)).dtype == np.float32


def test_a_folder_and_a_module_are_the_same(tmp_path) -> None:
    net, tokenizer = language.llama(tied=True), language.tokenizer()
    net.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    data = language.chats(3)
    from_folder, from_module = Transformers(tmp_path / "model", trained=True), learner(net)
    np.testing.assert_array_equal(
        from_folder.loss(from_folder.explained(data), data),
        from_module.loss(from_module.explained(data), data),
    )
    assert from_folder.settings()["task"] == "causal"
    eager = Transformers(tmp_path / "model", trained=True, files=Files(attention="eager"))
    np.testing.assert_allclose(
        eager.loss(eager.explained(data), data),
        from_module.loss(from_module.explained(data), data),
        rtol=1e-5,
    )


def test_an_adapter_from_its_folder(tmp_path) -> None:
    net, tokenizer = language.llama(), language.tokenizer()
    net.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    data = language.pairs()
    found = Transformers(tmp_path / "base", lora=LoRA(rank=2), recipe=RECIPE)
    fitted = found.fit(data)
    module = found.load(fitted)
    module.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    module.save_pretrained(tmp_path / "adapter")
    named = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == str(tmp_path / "base")
    for opened in (
        Transformers(tmp_path / "adapter", trained=True),
        Transformers(tmp_path / "base", adapter=tmp_path / "adapter", trained=True),
    ):
        explained = opened.explained(data)
        assert set(explained.parameters) == set(fitted.parameters)
        np.testing.assert_allclose(opened.loss(explained, data), found.loss(fitted, data), rtol=1e-6)


def test_a_new_last_layer_is_said_to_be_new(tmp_path) -> None:
    language.bert().bert.save_pretrained(tmp_path)
    language.tokenizer().save_pretrained(tmp_path)
    files = Files(task="classifier", labels=3)
    found = Transformers(tmp_path, files=files, recipe=RECIPE)
    data = language.labelled()
    assert any("classifier.weight" in note for note in found.check(data, data))
    again = Transformers(tmp_path, files=files, recipe=RECIPE)
    np.testing.assert_array_equal(found.measure(found.fit(data), data), again.measure(again.fit(data), data))


def test_attribute_takes_a_model_or_its_folder(tmp_path) -> None:
    import steelyard as sy

    net = language.llama()
    net.save_pretrained(tmp_path)
    language.tokenizer().save_pretrained(tmp_path)
    data, queries = language.pairs(), language.pairs(2, seed=3)
    values = sy.attribute(str(tmp_path), data, queries, method="grad_dot").values
    assert values.shape == (7, 2)
    import transformers

    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    np.testing.assert_array_equal(sy.attribute(loaded, data, queries, method="grad_dot").values, values)


def test_attention_implementations_give_the_same_scores(tmp_path) -> None:
    language.llama().save_pretrained(tmp_path)
    language.tokenizer().save_pretrained(tmp_path)
    data, query = language.pairs(), language.pairs(3, seed=9)
    eager, sdpa = (
        GradDot()(
            Problem(Transformers(tmp_path, trained=True, files=Files(attention=kind)), data, query)
        ).values
        for kind in ("eager", "sdpa")
    )
    np.testing.assert_allclose(eager, sdpa, rtol=1e-3, atol=1e-5 * np.abs(sdpa).max())


def test_a_tokenizer_that_pads_on_the_left_changes_no_score() -> None:
    data, query = language.pairs(), language.pairs(3, seed=9)
    left = language.tokenizer()
    left.padding_side = "left"
    ours, theirs = (
        GradDot()(Problem(Transformers(language.llama(), tokenizer=t, trained=True), data, query)).values
        for t in (left, language.tokenizer())
    )
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("net", [language.llama, lambda: language.gpt2(dropout=0.0)])
def test_examples_packed_apart_are_as_by_themselves(net, attention) -> None:
    """To single precision, in which eager attention takes its softmax even of float64."""
    data, query = language.pairs(4), language.pairs(3, seed=9)
    model = net()
    model.set_attn_implementation(attention)
    found, plain = learner(model, dtype="float64"), learner(net(), dtype="float64")
    fitted, own = found.explained(data), plain.explained(data)
    lengths = plain.lengths(data)
    whole = found.packed(data, int(lengths.sum()), apart=True)
    assert len(whole) == 1
    np.testing.assert_allclose(found.loss(fitted, whole)[0], plain.loss(own, data).sum(), rtol=1e-6)
    engine, other = found.gradients(fitted), plain.gradients(own)
    np.testing.assert_allclose(engine.dense(whole)[0], other.dense(data).sum(0), rtol=1e-5, atol=1e-6)
    # What is not packed is read with positions too, from the same engine.
    np.testing.assert_allclose(engine.dense(query), other.dense(query), rtol=1e-5, atol=1e-6)
    # Several blocks, padded in one batch; an example that straddles two is cut there.
    first = data.take(np.arange(2))
    size = int(lengths[:2].sum())
    blocks = found.packed(data, size, apart=True)
    np.testing.assert_allclose(found.loss(fitted, blocks)[0], plain.loss(own, first).sum(), rtol=1e-6)
    assert len(blocks) == -(-int(lengths.sum()) // size)


def test_a_model_that_does_not_keep_examples_apart_is_refused(monkeypatch) -> None:
    from steelyard.learners import transformers_measure

    def everything(positions, dtype):
        return torch.zeros(*positions.shape[:1], 1, positions.shape[1], positions.shape[1], dtype=dtype)

    monkeypatch.setattr(transformers_measure, "attended", everything)
    with pytest.raises(CapabilityError, match="does not keep packed examples apart"):
        learner().packed(language.pairs(3), 12, apart=True)


def test_a_block_that_holds_one_example_is_that_example() -> None:
    """Packed or not, the same tokens and the same that count give the same gradient; further ones change it."""
    data = language.pairs(3)
    found = learner()
    engine = found.gradients(found.explained(data))
    first = data.take(np.array([0]))
    alone = found.packed(first, int(found.lengths(first)[0]))
    np.testing.assert_allclose(engine.dense(alone), engine.dense(first), rtol=1e-5, atol=1e-6)
    whole = found.packed(data, int(found.lengths(data).sum()))
    assert len(whole) == 1 and not np.allclose(
        engine.dense(whole)[0], engine.dense(data).sum(0), rtol=1e-2
    ), "a block's tokens see the examples before them, as the docstring says"
