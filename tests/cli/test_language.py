"""A language model's folder as MODEL: attribution, options, errors; nothing from the network."""

# ruff: noqa: E402 - what follows the checks can only be imported where transformers is installed

import html
import json
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="transformers is not installed: pip install 'steelyard[hf]'")
pytest.importorskip("peft", reason="peft is not installed: pip install 'steelyard[hf]'")

import torch
from tests.learners import language

from steelyard.cli.app import app
from steelyard.cli.language import LanguageOptions
from steelyard.cli.model import DataOptions, load_problem
from steelyard.errors import SettingError


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    language.llama().save_pretrained(path)
    language.tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def files(tmp_path):
    paths = []
    for name, count, seed in (("train", 9, 0), ("query", 2, 1)):
        found = language.pairs(count, seed=seed)
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({k: str(v) for k, v in found.row(i).items()} | {"id": f"{name}-{i}"}) + "\n"
                                for i in range(count)))  # fmt: skip
        paths.append(str(path))
    return paths


def test_attribute_a_folder(runner, folder, files, tmp_path) -> None:
    out = tmp_path / "run"
    given = ["attribute", str(folder), "--train", files[0], "--query", files[1], "--method", "grad_dot"]
    found = runner.invoke(app, [*given, "--out", str(out), "--json"])
    assert found.exit_code == 0, found.output
    result = json.loads(found.stdout)
    assert {row["query_id"] for row in result["top"]} == {"query-0", "query-1"}
    assert (out / "report.html").is_file()


def test_options_reach_the_learner(folder, files) -> None:
    data = DataOptions(train=files[0], query=files[1])
    options = LanguageOptions(max_length=12, dtype="bfloat16", measurement="margin")
    problem = load_problem(str(folder), data, seed=0, trust=False, language=options)
    settings = problem.learner.settings()
    assert (settings["max_length"], settings["dtype"], settings["measurement"]) == (12, "bfloat16", "margin")


def test_the_models_own_answers(folder, files, tmp_path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"id": "p", "prompt": "what is it "}\n')
    data = DataOptions(train=files[0], query=str(prompts))
    problem = load_problem(str(folder), data, seed=0, trust=False, language=LanguageOptions(answer=3))
    assert problem.learner.measurement.name == "log_probability"
    assert problem.query.inputs == ("prompt", "completion")
    assert problem.query.column("completion")[0]


def test_an_adapter(runner, folder, files, tmp_path) -> None:
    from steelyard.learners import LoRA, Transformers

    found = Transformers(folder, lora=LoRA(rank=2), trained=True)
    found.load(found.explained(language.pairs(2))).save_pretrained(tmp_path / "adapter")
    data = DataOptions(train=files[0], query=files[1])
    options = LanguageOptions(adapter=str(tmp_path / "adapter"))
    problem = load_problem(str(folder), data, seed=0, trust=False, language=options)
    assert problem.learner.settings()["parameters"] < problem.learner.settings()["frozen"]


def test_what_is_wrong_is_said(runner, folder, files, model, tmp_path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    found = runner.invoke(
        app, ["attribute", str(empty), "--train", files[0], "--query", files[1], "--out", "r"]
    )
    assert found.exit_code == 2 and "neither config.json" in found.output and "fix:" in found.output
    with pytest.raises(SettingError, match="no folder of a language model"):
        load_problem(
            f"{model}:build", DataOptions(), seed=0, trust=False, language=LanguageOptions(max_length=5)
        )
    short = runner.invoke(app, ["attribute", str(folder), "--train", files[0], "--out", str(tmp_path / "r2")])
    assert short.exit_code == 2 and "--query is missing" in short.output


def _with_code(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "its_own", "auto_map": {"AutoConfig": "own.Config"}}
    (folder / "config.json").write_text(json.dumps(config))


def _adapter_of_another_base(folder, tmp_path):
    from steelyard.learners import LoRA, Transformers

    other = Transformers(
        language.llama(hidden=16), tokenizer=language.tokenizer(), lora=LoRA(rank=2), trained=True
    )
    net = other.load(other.explained(language.pairs(2)))
    net.save_pretrained(tmp_path / "adapter")
    return ["--adapter", str(tmp_path / "adapter")]


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("adapter", "another base"),
        ("tokenizer", "they do not belong together"),
        ("long", "but the model reads at most 64"),
        ("empty", "'bad'"),
        ("code", "--trust"),
    ],
)
def test_bad_input_ends_with_an_error_that_says_what_to_do(
    runner, folder, files, tmp_path, what: str, says: str
) -> None:
    options: list[str] = []
    row = {"id": "bad", "prompt": "what ", "completion": "yes"}
    if what == "adapter":
        options = _adapter_of_another_base(folder, tmp_path)
    if what == "tokenizer":
        net = language.llama()
        net.resize_token_embeddings(200)
        net.save_pretrained(folder)
    if what == "code":
        _with_code(folder)
    row["completion"] = {"long": "yes " * 80, "empty": ""}.get(what, "yes")
    with Path(files[0]).open("a") as lines:
        lines.write(json.dumps(row) + "\n")
    given = ["attribute", str(folder), "--train", files[0], "--query", files[1], "--method", "bm25", *options]
    found = runner.invoke(app, [*given, "--out", str(tmp_path / "run")])
    said = " ".join(found.output.split())
    assert found.exit_code == 2 and says in said and "fix:" in said, found.output


def test_what_was_overcome_is_said(runner, folder, files, tmp_path) -> None:
    net = language.llama()
    with torch.no_grad():
        net.model.norm.weight *= 100
        net.lm_head.weight *= 2e3
    net.save_pretrained(folder)
    row = {"id": "long", "prompt": "what ", "completion": "yes " * 80}
    with Path(files[0]).open("a") as lines:
        lines.write(json.dumps(row) + "\n")
    given = ["attribute", str(folder), "--train", files[0], "--query", files[1], "--method", "grad_dot"]
    options = ["--dtype", "float16", "--max-length", "20", "--no-baselines", "--out", str(tmp_path / "run")]
    found = runner.invoke(app, [*given, *options])
    assert found.exit_code == 0, found.output
    for said in (found.output, (tmp_path / "run" / "report.html").read_text()):
        said = " ".join(html.unescape(said).split())
        assert "overflows float16: everything is computed in float32 instead" in said, said
        assert "cut at the end to 20 tokens" in said and "'long'" in said, said


def _state(path: Path, hidden: int) -> str:
    net = language.llama(hidden=hidden)
    optimiser = torch.optim.AdamW(net.parameters())
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimiser.step()
    torch.save(optimiser.state_dict(), path)
    return str(path)


@pytest.mark.parametrize("method", ["less", "trackstar"])
def test_an_optimisers_state_of_other_shapes(runner, folder, files, tmp_path, method: str) -> None:
    other = _state(tmp_path / "other.pt", hidden=16)
    name = {"less": "states", "trackstar": "state"}[method]
    given = ["attribute", str(folder), "--train", files[0], "--query", files[1], "--method", method]
    found = runner.invoke(app, [*given, "--set", f"{name}={other}", "--out", str(tmp_path / "run")])
    said = found.output.replace("\n", "")
    assert found.exit_code == 2 and "other.pt" in said and "fix:" in said, found.output
    assert "(28, 16)" in said and "(28, 8)" in said and "embed_tokens.weight" in said, found.output


def test_a_list_of_checkpoints_with_one_missing(runner, folder, files, tmp_path) -> None:
    there = _state(tmp_path / "first.pt", hidden=8)
    states = f"states={there},{tmp_path / 'second.pt'}"
    given = ["attribute", str(folder), "--train", files[0], "--query", files[1], "--method", "less"]
    found = runner.invoke(app, [*given, "--set", states, "--out", str(tmp_path / "run")])
    said = found.output.replace("\n", "")
    assert found.exit_code == 2 and "second.pt" in said and "first.pt" not in said, found.output
    assert "of the 2" in " ".join(found.output.split()) and "fix:" in said, found.output
