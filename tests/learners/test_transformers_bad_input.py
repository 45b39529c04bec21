"""Models, tokenizers, adapters and texts that cannot be used: each is named, with what to do."""

# ruff: noqa: E402 - what follows the checks can only be imported where transformers is installed

import json

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="transformers is not installed: pip install 'steelyard[hf]'")
pytest.importorskip("peft", reason="peft is not installed: pip install 'steelyard[hf]'")

from steelyard.data import read
from steelyard.errors import CapabilityError, DataError, FitError, ModelError, SettingError, SteelyardError
from steelyard.learners import SGD, AdamW, Files, LoRA, Text, Transformers
from tests.learners import language

RECIPE = AdamW(lr=1e-2, epochs=1)


def learner(net=None, **settings) -> Transformers:
    return Transformers(
        net or language.llama(), **({"tokenizer": language.tokenizer(), "trained": True} | settings)
    )


def saved(folder, net=None):
    (net or language.llama()).save_pretrained(folder)
    language.tokenizer().save_pretrained(folder)
    return folder


def adapter(folder, base, **settings):
    found = Transformers(base, lora=LoRA(rank=2, **settings), trained=True)
    module = found.load(found.explained(language.pairs(2)))
    module.peft_config["default"].base_model_name_or_path = str(base)
    module.save_pretrained(folder)
    return folder


def refused(kind: type[SteelyardError], message: str, make) -> SteelyardError:
    with pytest.raises(kind, match=message) as caught:
        make()
    assert caught.value.fix
    return caught.value


def test_an_adapter_of_another_base_by_shape(tmp_path) -> None:
    base = saved(tmp_path / "base")
    other = saved(tmp_path / "other", language.llama(hidden=16))
    found = adapter(tmp_path / "adapter", base)
    error = refused(ModelError, "another base", lambda: Transformers(other, adapter=found, trained=True))
    assert str(base) in error.fix and ".lora_" in error.problem


def test_an_adapter_of_another_base_by_layers(tmp_path) -> None:
    base = saved(tmp_path / "base")
    found = adapter(tmp_path / "adapter", base, target_modules=("q_proj",))
    other = saved(tmp_path / "gpt2", language.gpt2())
    refused(ModelError, "another base", lambda: Transformers(other, adapter=found, trained=True))


def test_an_adapter_of_a_model_of_the_same_shape_is_noted(tmp_path) -> None:
    found = adapter(tmp_path / "adapter", saved(tmp_path / "base"))
    other = saved(tmp_path / "tuned", language.llama(seed=4))
    data = language.pairs()
    notes = Transformers(other, adapter=found, trained=True).check(data, data)
    assert any("as its base; it was put on" in note for note in notes)


def test_an_adapter_without_its_base(tmp_path) -> None:
    base = saved(tmp_path / "base")
    found = adapter(tmp_path / "adapter", base)
    base.rename(tmp_path / "moved")
    refused(ModelError, "is no local folder", lambda: Transformers(found, trained=True))
    assert Transformers(tmp_path / "moved", adapter=found, trained=True)


@pytest.mark.parametrize("rows", [20, 100])
def test_a_tokenizer_of_another_model(rows: int) -> None:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=rows, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    net = transformers.LlamaForCausalLM(config)
    refused(ModelError, f"28 tokens, but the model's embedding has {rows} rows", lambda: learner(net))


def test_tokens_that_the_model_does_not_know() -> None:
    data = read([{"id": "a", "tokens": [1, 2, 3]}, {"id": "b", "tokens": [1, 99]}], text="tokens")
    error = refused(DataError, "token 99", lambda: learner().check(data, data))
    assert "'b'" in error.problem


def test_texts_longer_than_the_context() -> None:
    data = read([{"id": "ok", "text": "a"}, {"id": "long", "text": "a " * 80}])
    error = refused(
        DataError, "82 tokens, but the model reads at most 64", lambda: learner().check(data, data)
    )
    assert "'long'" in error.problem and "max_length=64" in error.fix
    assert learner(max_length=64).lengths(data).tolist() == [3, 64]
    refused(SettingError, "at most 64", lambda: learner(max_length=65))
    short = learner(tokenizer=language.tokenizer(limit=10))
    refused(DataError, "at most 10", lambda: short.check(data, data))


def test_empty_completions() -> None:
    data = read(
        [
            {"id": "a", "prompt": "what ", "completion": "yes"},
            {"id": "b", "prompt": "is it ", "completion": ""},
        ]
    )
    error = refused(DataError, "empty completion", lambda: learner().check(data, data))
    assert "'b'" in error.problem


def test_a_completion_that_is_cut_off() -> None:
    data = read([{"id": "a", "prompt": "what is it what is it ", "completion": "yes"}])
    error = refused(
        DataError,
        "no token to predict after cutting it to 5",
        lambda: learner(max_length=5).check(data, data),
    )
    assert "cut='start'" in error.fix
    assert learner(max_length=5, text=Text(cut="start")).lengths(data).tolist() == [5]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "user", "content": "what is it"}], "no message is by the role 'assistant'"),
        ([{"role": "user", "content": "what"}, {"role": "assistant", "content": ""}], "message 2 is empty"),
    ],
)
def test_messages_without_an_answer(messages, message) -> None:
    data = read([{"id": "a", "messages": messages}])
    refused(DataError, message, lambda: learner().check(data, data))


def test_chat_templates() -> None:
    data = language.chats(1)
    plain = language.tokenizer()
    plain.chat_template = None
    refused(ModelError, "no chat template", lambda: learner(tokenizer=plain).check(data, data))
    rewriting = Text(
        chat_template="{{ messages | length }} {% for m in messages %}{{ m['content'] }}{% endfor %}"
    )
    refused(DataError, "rewrites", lambda: learner(text=rewriting).check(data, data))
    failing = Text(chat_template="{{ raise_exception('no such role') }}")
    refused(DataError, "no such role", lambda: learner(text=failing).check(data, data))


def test_spans_that_are_not_there() -> None:
    rows = [{"id": "a", "prompt": "what ", "completion": "a steel beam", "span": "yard"}]
    found = learner(measurement="span")
    refused(DataError, "the span 'yard'", lambda: found.check(read(rows), read(rows)))
    rows[0]["span"] = [3, 99]
    refused(DataError, "the span", lambda: found.check(read(rows), read(rows)))
    del rows[0]["span"]
    refused(SteelyardError, "column 'span'", lambda: found.check(read(rows), read(rows)))


def test_remote_code_is_refused_unless_the_flag_names_it(tmp_path, monkeypatch) -> None:
    ran = tmp_path / "ran"
    code = f"""
from pathlib import Path
Path({str(ran)!r}).write_text("")
from transformers import LlamaConfig, LlamaForCausalLM
class OwnConfig(LlamaConfig):
    model_type = "a_model_of_its_own"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""
    folder = saved(tmp_path / "model")
    (folder / "modeling_own.py").write_text(code)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "a_model_of_its_own", "architectures": ["OwnForCausalLM"],
        "auto_map": {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnModel"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    error = refused(
        ModelError, "runs Python code from its own folder", lambda: Transformers(folder, trained=True)
    )
    assert "remote_code=True" in error.fix and not ran.exists()
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    found = Transformers(folder, trained=True, files=Files(remote_code=True))
    assert ran.exists() and found.settings()["model"] == "OwnModel"


def test_weights_as_pickle_run_nothing(tmp_path) -> None:
    folder = saved(tmp_path / "model")
    (folder / "model.safetensors").unlink()

    class Evil:
        def __reduce__(self):
            return (np.save, (str(tmp_path / "ran.npy"), np.zeros(1)))

    torch.save({"model.embed_tokens.weight": Evil()}, folder / "pytorch_model.bin")
    refused(ModelError, "cannot be loaded", lambda: Transformers(folder, trained=True))
    assert not (tmp_path / "ran.npy").exists()


def test_folders_that_are_none(tmp_path) -> None:
    refused(ModelError, "only read from local folders", lambda: Transformers("gpt2", trained=True))
    (tmp_path / "empty").mkdir()
    refused(ModelError, "neither config.json", lambda: Transformers(tmp_path / "empty", trained=True))
    folder = saved(tmp_path / "model")
    (folder / "config.json").write_text("{")
    refused(ModelError, "cannot be read", lambda: Transformers(folder, trained=True))


def test_weights_of_another_model(tmp_path) -> None:
    folder = saved(tmp_path / "model")
    language.gpt2().save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").replace(folder / "model.safetensors")
    refused(ModelError, "lacks the weights", lambda: Transformers(folder, trained=True))


def test_a_body_without_a_head(tmp_path) -> None:
    language.bert().bert.save_pretrained(tmp_path)
    refused(ModelError, "neither a causal language model nor", lambda: Transformers(tmp_path, trained=True))


def test_labels_that_are_no_class() -> None:
    data = read([{"id": "a", "text": "the", "label": 7}, {"id": "b", "text": "a", "label": 0}])
    refused(DataError, "label 7", lambda: learner(language.bert()).check(data, data))
    named = read([{"id": "a", "text": "the", "label": "red"}, {"id": "b", "text": "a", "label": "blue"}])
    refused(DataError, "names no classes", lambda: learner(language.bert()).check(named, named))
    classes = learner(language.bert(), classes=("red", "green", "grey"))
    refused(DataError, "'blue'", lambda: classes.check(named, named))
    refused(SettingError, "3 outputs", lambda: learner(language.bert(), classes=("red", "green")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trained": False}, "no model to explain"),
        ({"recipe": RECIPE}, "nothing says where fits start"),
        ({"measurement": "accuracy"}, "measurement='accuracy'"),
        ({"reduction": "median"}, "reduction='median'"),
        ({"dtype": "int8"}, "dtype='int8'"),
        ({"dtype": "float16", "recipe": RECIPE, "start": "given"}, "small updates vanish"),
        ({"lora": LoRA(target_modules=("no_such_layer",))}, "no_such_layer"),
        ({"lora": LoRA(), "adapter": "folder"}, "both given"),
        ({"start": "sideways"}, "start='sideways'"),
    ],
)
def test_settings_without_meaning(settings, message) -> None:
    refused(SettingError, message, lambda: learner(**settings))


def test_what_it_cannot_do() -> None:
    data = language.pairs()
    found = learner()
    fitted = found.explained(data)
    refused(CapabilityError, "cannot be trained again", lambda: found.fit(data))
    refused(CapabilityError, "sequence classifier", lambda: found.probabilities(fitted, data))
    refused(CapabilityError, "came trained", lambda: list(found.checkpoints(fitted)))
    refused(CapabilityError, "cannot answer", lambda: found.answer(fitted, language.texts()))
    refused(SettingError, "length=1", lambda: found.packed(data, 1))
    other = learner(language.llama(hidden=16))
    refused(ModelError, "use the learner with the model", lambda: other.load(fitted))


def test_texts_without_a_tokenizer() -> None:
    data = language.texts()
    refused(ModelError, "there is no tokenizer", lambda: learner(tokenizer=None).check(data, data))
    tokens = read([{"id": "a", "tokens": [2, 5, 6]}, {"id": "b", "tokens": [2, 7]}], text="tokens")
    assert learner(tokenizer=None).lengths(tokens).tolist() == [3, 2]


def test_columns_that_are_no_text() -> None:
    data = read({"x": np.eye(3), "label": [0, 1, 2]})
    refused(DataError, "a language model reads a text", lambda: learner().check(data, data))


def test_a_training_that_diverges_names_the_example() -> None:
    data = language.pairs()
    found = learner(recipe=SGD(lr=1e20, epochs=3, batch_size=2), trained=False)
    refused(FitError, "example", lambda: found.fit(data))


def test_a_module_that_is_no_transformers_model() -> None:
    refused(ModelError, "is no model of transformers", lambda: learner(torch.nn.Linear(2, 2)))


def test_files_of_another_task() -> None:
    refused(SettingError, "measurement='span'", lambda: learner(language.bert(), measurement="span"))
    assert Files().task is None
