"""``--recipe``: runs made from a language model's folder are verified by training it again."""

# ruff: noqa: E402 - what follows the checks can only be imported where transformers is installed

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="transformers is not installed: pip install 'steelyard[hf]'")
pytest.importorskip("peft", reason="peft is not installed: pip install 'steelyard[hf]'")

from tests.learners import language

from steelyard.cli.app import app
from steelyard.cli.language import LanguageOptions, open_folder, resolved
from steelyard.cli.recipe import completed, recipe_pairs
from steelyard.errors import SettingError
from steelyard.learners import AdamW, LoRA, Transformers

STEPS = "epochs=2,lr=0.05,batch_size=8"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base"
    language.llama().save_pretrained(path)
    language.tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> list[str]:
    given = []
    for name, count, seed in (("train", 20, 0), ("query", 3, 1)):
        rows = language.pairs(count, seed=seed)
        path = tmp_path / f"{name}.jsonl"
        lines = [
            json.dumps({k: str(v) for k, v in rows.row(i).items()} | {"id": f"{name}-{i}"})
            for i in range(count)
        ]
        path.write_text("\n".join(lines) + "\n")
        given += [f"--{name}", str(path)]
    return given


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """As a user's own training leaves it: an adapter, and what transformers' Trainer notes."""
    train = language.pairs(20)
    found = Transformers(base, lora=LoRA(rank=2), recipe=AdamW(lr=0.05, epochs=2, batch_size=8))
    folder = tmp_path / "adapter"
    fitted: Any = found.load(found.fit(train))
    fitted.save_pretrained(folder)
    (folder / "trainer_state.json").write_text(json.dumps({"num_train_epochs": 2, "train_batch_size": 8}))
    return folder


def invoke(runner, *given: object):
    return runner.invoke(app, [str(one) for one in given])


def test_adapters_trained_here_are_trained_again(runner, base, data, tmp_path) -> None:
    run = tmp_path / "run"
    recipe = ["--recipe", f"{STEPS},lora_rank=2,lora_targets=q_proj,v_proj", "--recipe", "reduction=mean"]
    made = invoke(
        runner, "attribute", base, *data, "--method", "grad_dot", "--no-baselines", *recipe, "--out", run
    )
    assert made.exit_code == 0, made.output
    metrics = ["--metric", "lds,qld,retraining", "--subsets", "8", "--seeds", "2", "--set", "qld.controls=2"]
    found = invoke(runner, "verify", run, *metrics, "--json")
    assert found.exit_code == 0, found.output
    evidence = {one["metric"]: one for one in json.loads(found.stdout)["evidence"]}
    assert {"lds", "qld"} < set(evidence) and len(evidence) == 3
    assert evidence["qld"]["unit"] == "nats per token"


def test_a_trained_adapter_asks_only_for_what_its_folders_do_not_say(
    runner, base, data, adapter, tmp_path
) -> None:
    run = tmp_path / "run"
    options = ["--adapter", adapter, "--method", "grad_dot", "--no-baselines", "--out", run]
    assert invoke(runner, "attribute", base, *data, *options).exit_code == 0
    asked = ["verify", run, "--metric", "qld", "--set", "qld.controls=2"]
    without = invoke(runner, *asked)
    assert (
        without.exit_code == 2
        and "without a recipe" in without.output
        and "--recipe epochs=" in without.output
    )
    short = invoke(runner, *asked, "--recipe", "batch_size=4")
    assert short.exit_code == 2 and "does not say lr" in short.output and "says epochs=2" in short.output
    other = invoke(runner, *asked, "--recipe", "lr=0.05,lora_rank=4")
    assert other.exit_code == 2 and "trained adapter" in other.output
    found = invoke(runner, *asked, "--recipe", "lr=0.05", "--fresh", "--json")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["evidence"][0]["metric"] == "qld"


def test_a_model_trained_whole_starts_again_from_its_base(runner, base, data, tmp_path) -> None:
    trained = tmp_path / "trained"
    found = Transformers(base, recipe=AdamW(lr=0.05, epochs=2, batch_size=8))
    fitted: Any = found.load(found.fit(language.pairs(20)))
    fitted.save_pretrained(trained)
    language.tokenizer().save_pretrained(trained)
    learner = open_folder(
        trained, LanguageOptions(recipe=recipe_pairs([f"{STEPS},base={base}"])), trust=False
    )
    train = language.pairs(20)
    again, first = learner.fit(train), found.fit(train)
    assert all((again.parameters[name] == value).all() for name, value in first.parameters.items())
    run = tmp_path / "run"
    assert invoke(runner, "attribute", trained, *data, "--method", "bm25", "--out", run).exit_code == 0
    asked = ["verify", run, "--metric", "qld", "--set", "qld.controls=2", "--recipe"]
    untold = invoke(runner, *asked, STEPS)
    assert untold.exit_code == 2 and "where trainings start" in untold.output
    untrained = invoke(runner, *asked, f"{STEPS},base={trained}")
    assert untrained.exit_code == 2 and "explains" in untrained.output
    told = invoke(runner, *asked, f"{STEPS},base={base}")
    assert told.exit_code == 0, told.output


def test_values_of_a_language_models_examples(runner, base, data, tmp_path) -> None:
    given = ["--method", "leave_one_out", "--recipe", f"epochs=1,lr=0.05,batch_size=8,base={base}"]
    found = invoke(runner, "value", base, *data, *given, "--out", tmp_path / "run")
    assert found.exit_code == 0, found.output
    assert len((tmp_path / "run" / "values.csv").read_text().splitlines()) == 21


def test_a_run_with_a_recipe_takes_no_other(runner, base, data, tmp_path) -> None:
    run = tmp_path / "run"
    recipe = ["--recipe", f"{STEPS},lora_rank=2"]
    assert invoke(runner, "attribute", base, *data, "--method", "bm25", *recipe, "--out", run).exit_code == 0
    found = invoke(runner, "verify", run, "--metric", "qld", *recipe)
    assert found.exit_code == 2 and "was made with the recipe" in found.output


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("epochs=2,lr=1,speed=3", "no setting 'speed'"),
        ("epochs=two,lr=1", "epochs='two'"),
        ("epochs=2,lr=1,optimiser=lion,lora_rank=2", "optimiser='lion'"),
        ("epochs=2,lr=1,momentum=0.9,lora_rank=2", "momentum with optimiser=adamw"),
        ("epochs=2,lr=1,schedule=wild,lora_rank=2", "wild"),
    ],
)
def test_what_a_recipe_cannot_say(base, given: str, says: str) -> None:
    with pytest.raises(SettingError, match=says):
        open_folder(base, LanguageOptions(recipe=recipe_pairs([given])), trust=False)


@pytest.mark.parametrize("given", ["epochs", "epochs=2,epochs=3", "=3"])
def test_what_is_no_recipe(given: str) -> None:
    with pytest.raises(SettingError, match="--recipe"):
        recipe_pairs([given])


def test_what_was_given_goes_before_what_the_folder_says(tmp_path) -> None:
    (tmp_path / "trainer_state.json").write_text('{"num_train_epochs": 3, "train_batch_size": 4}')
    assert completed({"lr": "0.1", "epochs": "5"}, [tmp_path]) == {
        "epochs": "5",
        "batch_size": "4",
        "lr": "0.1",
    }
    assert resolved(tmp_path, LanguageOptions()).recipe == {}
    (tmp_path / "trainer_state.json").write_text("{")
    with pytest.raises(SettingError, match="cannot be read"):
        completed({"lr": "0.1", "epochs": "5"}, [tmp_path])
