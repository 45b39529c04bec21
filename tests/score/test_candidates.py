"""Candidates: what is scored is scored exactly, what is not is not there, and the recall is what it says."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch

from steelyard import score
from steelyard.errors import CapabilityError, SettingError
from steelyard.learners import SGD, Torch
from steelyard.learners.small import LanguageModel, Vocabulary, next_word_loss
from steelyard.problem import Problem
from steelyard.records import Examples
from steelyard.run import open_run
from steelyard.score.candidates import Candidates, estimated_recall, score_candidates

_WORDS = [
    "beam",
    "arm",
    "hook",
    "pan",
    "scale",
    "weight",
    "load",
    "stone",
    "iron",
    "brass",
    "oak",
    "rope",
    "chain",
]


def problem(train: int = 40) -> Problem:
    draw = np.random.default_rng(0)

    def some(count: int, prefix: str) -> Examples:
        texts = np.array([" ".join(draw.choice(_WORDS, 7)) for _ in range(count)], dtype=object)
        ids = np.array([f"{prefix}{i}" for i in range(count)])
        return Examples(ids, {"text": texts}, inputs=("text",), label=None, checksum=prefix)

    given, asked = some(train, "t"), some(4, "q")
    vocabulary = Vocabulary.of(given.column("text")[:], size=20)
    torch.manual_seed(0)
    learner = Torch(
        LanguageModel(20, length=8, width=8, heads=2),
        loss=next_word_loss(),
        recipe=SGD(lr=0.1, epochs=2),
        start="given",
    )

    def tokens(part: Examples) -> Examples:
        return part.with_column("tokens", vocabulary.encode(part.column("text")[:], length=8), part.checksum)

    return Problem(learner, tokens(given), tokens(asked))


@pytest.mark.parametrize("name", ["grad_dot", "grad_cos", "ekfac"])
def test_candidates_have_the_scores_that_they_have_among_all(name):
    given, method = problem(), score.by_name(name)
    whole = method(given)
    found = score_candidates(method, given, Candidates(3, sample=5))
    rows = given.train.positions(found.train_ids)
    np.testing.assert_allclose(
        found.values, np.asarray(whole.values)[rows], rtol=1e-4, atol=1e-5 * np.abs(whole.values).max()
    )
    assert found.method == whole.method and found.unit == whole.unit
    resolved = found.provenance.resolved
    assert resolved["not_scored"] == 40 - len(rows) > 0
    assert resolved["candidates"] + resolved["sampled"] == len(rows) and resolved["sampled"] == 5
    assert any(
        f"{40 - len(rows)} of 40 training examples were not scored" in n for n in found.provenance.notes
    )
    assert found.provenance.given["candidates"] == 3


def test_the_candidates_are_the_best_of_the_proposer():
    given = problem()
    found = score_candidates(score.GradDot(), given, Candidates(2, sample=0))
    best = score.BM25()(given).top(2)
    wanted = set(best.filter(best["side"] == "proponent")["train_id"].to_list())
    assert set(found.train_ids.tolist()) == wanted
    assert "recall_at_10" not in found.provenance.resolved


def test_nothing_is_left_out_where_all_are_candidates():
    found = score_candidates(score.GradDot(), problem(12), Candidates(50))
    assert len(found.train_ids) == 12 and not any("not scored" in note for note in found.provenance.notes)
    assert found.provenance.resolved["recall_at_10"] == 1.0


def test_the_recall_is_exact_where_the_sample_is_everything():
    draw = np.random.default_rng(1)
    values, candidate = draw.normal(size=(50, 3)), draw.random(50) < 0.3
    strongest = np.argsort(-values, axis=0)[:10]
    expected = candidate[strongest].mean()
    assert estimated_recall(values, np.ones(50), candidate) == pytest.approx(expected)


def test_the_recall_of_a_sample_is_right_on_average():
    draw = np.random.default_rng(2)
    values, candidate = draw.normal(size=(400, 1)), np.zeros(400, dtype=bool)
    candidate[np.argsort(-values[:, 0])[:4]] = True
    candidate[np.argsort(-values[:, 0])[100:140]] = True
    exact, found = candidate[np.argsort(-values[:, 0])[:10]].mean(), []
    others = np.flatnonzero(~candidate)
    for _ in range(300):
        rows = np.concatenate([np.flatnonzero(candidate), draw.choice(others, 60, replace=False)])
        weights = np.where(candidate[rows], 1.0, len(others) / 60)
        found.append(estimated_recall(values[rows], weights, candidate[rows]))
    assert np.mean(found) == pytest.approx(exact, abs=0.1)


def test_a_method_that_looks_at_all_rows_is_refused():
    with pytest.raises(CapabilityError, match="cannot score some"):
        score_candidates(score.KNNShapley(), problem(), Candidates(3))
    with pytest.raises(SettingError, match="count=0"):
        score_candidates(score.GradDot(), problem(), Candidates(0))


def test_a_run_folder_keeps_what_was_scored(tmp_path):
    given = problem()
    with open_run(tmp_path / "run", {"test": 1}, show="quiet") as run:
        first = score_candidates(score.GradDot(), given, Candidates(3), run)
        spent = run.cost.gradients
        again = score_candidates(score.GradDot(), given, Candidates(3), run)
        assert run.cost.gradients == spent
    assert np.array_equal(first.values, again.values)
