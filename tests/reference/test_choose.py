"""InfICL: influence of demonstrations by leaving them out, the prompt they make, and bad input."""

import json

import numpy as np
import pytest
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import steelyard as sy
from steelyard import flow
from steelyard.cli.app import app
from steelyard.errors import CapabilityError, DataError, SettingError
from steelyard.learners import Sklearn

pytestmark = [pytest.mark.reference, pytest.mark.systems]

GOOD = "bright kind warm calm clear fair gentle steady".split()  # noqa: SIM905
BAD = "dark cruel cold loud vague harsh rough shaky".split()  # noqa: SIM905


def rows(count: int, seed: int) -> list[dict[str, str]]:
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        label = ("good", "bad")[i % 2]
        words = [str(w) for w in rng.choice(GOOD if label == "good" else BAD, 3)]
        words += [str(w) for w in rng.choice(GOOD + BAD, 2)]
        found.append({"id": f"{seed}-{i}", "text": " ".join(words), "label": label})
    return found


def problem(seed: int = 0) -> sy.Problem:
    reader = make_pipeline(TfidfVectorizer(), TruncatedSVD(6, random_state=0), LogisticRegression())
    return sy.Problem(Sklearn(reader), sy.read(rows(40, 1)), sy.read(rows(20, 2)), seed=seed)


def test_the_chosen_are_those_whose_absence_hurts_the_head_most() -> None:
    p = problem()
    found = flow.choose(p, per_class=3)
    fitted = p.learner.explained(p.train)
    x, q = (p.learner.embed(fitted, d).astype(np.float64) for d in (p.train, p.query))
    scaler = StandardScaler().fit(x)
    x, q = scaler.transform(x), scaler.transform(q)
    y, asked = p.train.labels(), p.query.labels()

    def loss(kept: np.ndarray) -> float:
        head = LogisticRegression(C=0.1, tol=1e-10, max_iter=5000).fit(x[kept], y[kept])
        return -np.log(head.predict_proba(q)[np.arange(len(q)), np.searchsorted(head.classes_, asked)]).mean()

    full = loss(np.arange(40))
    effect = np.array([loss(np.delete(np.arange(40), i)) - full for i in range(40)])
    assert np.corrcoef(effect, found.scores.values.mean(axis=1))[0, 1] > 0.98
    chosen = p.train.positions(found.plan.ids)
    for value in ("good", "bad"):
        own = np.flatnonzero(y == value)
        assert np.isin(chosen[y[chosen] == value], own[np.argsort(-effect[own])[:4]]).all()
    assert [str(y[row]) for row in chosen] == ["bad", "good"] * 3  # classes in turn, the best ones last


def test_the_prompt_shows_them_in_order_and_leaves_the_answer_open() -> None:
    p = problem()
    found = flow.choose(p, per_class=1, template="Words: {text}\nMood: {label}")
    shots = found.prompt.split("\n\n")
    assert shots[-1] == "Words: {text}\nMood:"
    text = str(p.train.column("text")[int(p.train.positions(found.plan.ids)[0])])
    assert shots[0] == f"Words: {text}\nMood: bad"


def test_the_command_writes_prompt_and_demonstrations(tmp_path) -> None:
    from typer.testing import CliRunner

    path = tmp_path / "model_for_choose.py"
    path.write_text("from tests.reference.test_choose import problem as build\n")
    arguments = ["choose", f"{path}:build", "--per-class", "2", "--out", str(tmp_path / "run"), "--json"]
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout.splitlines()[-1])
    assert (tmp_path / "run" / "prompt.txt").read_text() == told["prompt"]
    assert told["prompt"].count("Label:") == 5
    assert len((tmp_path / "run" / "demonstrations.jsonl").read_text().splitlines()) == 4
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 0 and json.loads(again.stdout.splitlines()[-1]) == told


def test_a_language_model_can_read_the_pool() -> None:
    pytest.importorskip("transformers", reason="the model is a transformers model")
    from steelyard.learners import Transformers
    from tests.learners.language import llama, sentences, tokenizer

    data = [
        {"id": str(i), "text": text, "label": ("yes", "no")[i % 2]}
        for i, text in enumerate(sentences(24, seed=3))
    ]
    learner = Transformers(llama(), tokenizer=tokenizer(), trained=True)
    p = sy.Problem(learner, sy.read(data[:16]), sy.read(data[16:]))
    found = flow.choose(p, per_class=2)
    assert found.prompt.count("Label:") == 5 and len(found.plan) == 4


def test_bad_input_says_what_is_wrong() -> None:
    p = problem()
    with pytest.raises(DataError, match="fewer than per_class=30"):
        flow.choose(p, per_class=30)
    with pytest.raises(SettingError, match="end with"):
        flow.choose(p, template="{label}: {text}")
    with pytest.raises(SettingError, match="body"):
        flow.choose(p, template="{body} {label}")
    strange = sy.read([{"text": "calm", "label": "good"}, {"text": "odd", "label": "neither"}])
    with pytest.raises(DataError, match="'neither'"):
        flow.choose(sy.Problem(p.learner, p.train, strange))
    numbers = (np.random.default_rng(0).normal(size=(20, 2)), np.linspace(0, 1, 20))
    from sklearn.linear_model import Ridge

    with pytest.raises(DataError, match="measured numbers"):
        flow.choose(sy.Problem(Sklearn(Ridge()), numbers, numbers))
    from steelyard.learners import Factorisation

    ratings = sy.read(
        {"user": list("aabb"), "item": list("xyxy"), "label": [1, 2, 1, 2]}, features=["user", "item"]
    )
    with pytest.raises(CapabilityError, match="embeddings"):
        flow.choose(sy.Problem(Factorisation(), ratings, ratings))
