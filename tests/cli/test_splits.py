"""``--split`` and ``--candidates`` on a tiny language model: the page says what was done and what was not."""

import json

import pytest

pytest.importorskip("transformers", reason="transformers is not installed")

from steelyard.cli.app import app
from steelyard.report import load

_MODEL = """
from steelyard.learners import AdamW, LoRA, Transformers
from tests.learners.language import llama, pairs, tokenizer


def build():
    learner = Transformers(
        llama(), tokenizer=tokenizer(), lora=LoRA(rank=2), recipe=AdamW(lr=0.05, epochs=2, batch_size=8)
    )
    return learner, pairs(14), pairs(3, seed=1)
"""


def run(runner, tmp_path, *options: str):
    model = tmp_path / "language_for_cli.py"
    model.write_text(_MODEL)
    out = tmp_path / "run"
    given = [
        "attribute",
        f"{model}:build",
        "--method",
        "grad_dot",
        "--no-baselines",
        "--out",
        str(out),
        "--json",
    ]
    return runner.invoke(app, [*given, *options]), out


def test_tokens_are_marked_on_the_page_and_sum_to_the_scores(runner, tmp_path):
    found, out = run(runner, tmp_path, "--split", "token")
    assert found.exit_code == 0, found.output
    report = load(out / "report")
    (tokens,) = report.splits
    scores = report.scores[0]
    rows = {str(name): i for i, name in enumerate(scores.train_ids)}
    columns = {str(name): j for j, name in enumerate(scores.query_ids)}
    expected = [
        scores.values[rows[t], columns[q]]
        for t, q in zip(tokens.train_ids.tolist(), tokens.query_ids.tolist(), strict=True)
    ]
    assert tokens.scores() == pytest.approx(expected, rel=1e-3, abs=1e-4 * float(abs(scores.values).max()))
    page = (out / "report.html").read_text()
    assert 'class="helps l4"' in page and 'class="harms' in page


@pytest.mark.parametrize("by", ["module", "layer", "head"])
def test_parts_of_the_network_stand_in_a_table(runner, tmp_path, by):
    found, out = run(runner, tmp_path, "--split", by)
    assert found.exit_code == 0, found.output
    page = (out / "report.html").read_text()
    wanted = {"module": "self_attn.q_proj", "layer": "model.layers.1", "head": "self_attn head 1"}[by]
    assert wanted in page and "Share of all" in page


def test_candidates_are_said_to_be_some(runner, tmp_path):
    found, out = run(runner, tmp_path, "--candidates", "2", "--split", "layer")
    assert found.exit_code == 0, found.output
    report = load(out / "report")
    left = report.scores[0].provenance.resolved["not_scored"]
    assert len(report.scores[0].train_ids) == 14 - left
    result = json.loads(found.stdout)
    assert len(result["top"]) > 0
    if left:
        assert f"{left} of 14 training examples were not scored" in (out / "report.html").read_text()


def test_a_method_that_is_no_sum_is_refused_with_its_alternatives(runner, tmp_path):
    found, _ = run(runner, tmp_path, "--split", "token", "--method", "bm25")
    assert found.exit_code == 2
    assert "no sums over token" in found.stderr and "grad_dot" in found.stderr
