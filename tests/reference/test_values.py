"""Knock-offs, Data-OOB and LAVA against planted effects, loops and repetitions; laws of all values made of fits."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from steelyard import flow, score
from steelyard.data import read
from steelyard.errors import SettingError
from steelyard.learners import Sklearn
from steelyard.maths import transport as transports
from steelyard.maths.knockoffs import knockoff_filter, knockoff_wins
from steelyard.maths.regression import linear_models
from steelyard.problem import Problem
from steelyard.run import in_memory
from steelyard.score import AME, LAVA, DataOOB
from steelyard.score.lava import calibrated
from tests.games import GAIN, Table

_RATE = 0.2


def planted(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fifteen of sixty players matter, two of them only together; noise as large as an effect."""
    draw = np.random.default_rng(seed)
    p = draw.choice([0.2, 0.4, 0.6, 0.8], 300)[:, None]
    masks, copies = draw.random((300, 60)) < p, draw.random((300, 60)) < p
    effects = np.where(np.arange(60) < 15, draw.choice([-1.0, 1.0], 60), 0.0)
    outcomes = masks @ effects + 0.5 * masks[:, 0] * masks[:, 1] + draw.normal(size=300)
    sides = [np.where(side, 1 / p, -1 / (1 - p)) for side in (masks, copies)]
    return sides[0], sides[1], outcomes[:, None], effects != 0


def test_knockoffs_bound_false_discoveries_where_lasso_alone_does_not():
    false, found, plain = [], [], []
    for seed in range(8):
        features, copies, outcomes, truth = planted(seed)
        wins = knockoff_wins(features, copies, outcomes, kind="lasso", draw=np.random.default_rng(seed))
        chosen = knockoff_filter(wins, rate=_RATE)[:, 0]
        false.append((chosen & ~truth).sum() / max(1, chosen.sum()))
        found.append((chosen & truth).sum() / truth.sum())
        nonzero = linear_models(features, outcomes, kind="lasso").weights[:, 0] != 0
        plain.append((nonzero & ~truth).sum() / nonzero.sum())
    assert np.mean(false) < _RATE
    assert np.mean(found) > 0.8
    assert np.mean(plain) > 1.5 * _RATE


def test_knockoffs_of_nothing_select_nothing_most_of_the_time():
    picked = 0
    for seed in range(40):
        draw = np.random.default_rng(seed)
        features, copies = draw.normal(size=(60, 20)), draw.normal(size=(60, 20))
        wins = knockoff_wins(features, copies, draw.normal(size=(60, 1)), kind="ridge", draw=draw)
        picked += bool(knockoff_filter(wins, rate=_RATE).any())
    assert picked <= 14  # expected at most 8; more than 14 has a chance of 1 % at a true rate of .2


def test_the_filter_by_hand():
    wins = np.array([[5.0, 4.0, 3.0, 2.0, 1.0, -1.0, 0.0]]).T
    assert knockoff_filter(wins, rate=0.25)[:, 0].tolist() == [True] * 4 + [False] * 3  # t = 2: 1 / 4
    assert knockoff_filter(wins, rate=0.4)[:, 0].tolist() == [True] * 5 + [False] * 2  # t = 1: 2 / 5
    assert not knockoff_filter(wins, rate=0.19).any()
    assert not knockoff_filter(-wins, rate=0.5).any()


@dataclass(frozen=True, eq=False)
class Noisy:
    """An additive game with noise; counts its fits."""

    effects: np.ndarray
    fits: list[int] = field(default_factory=list)
    measurement = GAIN

    def check(self, train, query):
        return ()

    def fit(self, examples, weights=None, seed=0):
        self.fits.append(1)
        rows = np.asarray(examples.input()[:]).astype(int).ravel()
        kept = np.ones(len(rows)) if weights is None else np.asarray(weights)
        draw = np.random.default_rng([seed, *rows[kept > 0]])
        return float(kept @ self.effects[rows] + draw.normal())

    def explained(self, examples, seed=0):
        return self.fit(examples, seed=seed)

    def measure(self, fitted, queries):
        return fitted * np.asarray(queries.input()[:], dtype=np.float64).ravel()

    def loss(self, fitted, examples):
        return fitted + np.arange(len(examples), dtype=np.float64)

    def settings(self):
        return {}

    def fingerprint(self):
        return "noisy"


def noisy(effects: np.ndarray, **columns: object) -> Problem:
    train = read(
        {
            "input": np.arange(len(effects))[:, None],
            "id": [f"t{i:02d}" for i in range(len(effects))],
            **columns,
        },
        features="input",
    )
    query = read({"input": np.array([[1.0], [2.0]]), "id": ["q1", "q2"]}, features="input")
    return Problem(Noisy(effects), train, query)


def test_ame_selects_planted_effects_and_leaves_the_rest_at_zero():
    effects = np.where(np.arange(40) < 12, np.where(np.arange(40) % 2, -2.0, 2.0), 0.0)
    scores = AME(fits=300, fdr=0.1)(noisy(effects))
    named = set(scores.provenance.resolved["selected for the mean over queries"])
    true = {f"t{i:02d}" for i in range(12)}
    assert len(named & true) >= 11
    assert len(named - true) <= 2
    assert (scores.values[:, 0] != 0).sum() == np.array(scores.provenance.resolved["selected, by query"])[0]
    assert (np.sign(scores.values[:12, 1]) * np.sign(effects[:12]) >= 0).all()
    run = in_memory()
    few = AME(fits=300, fdr=0.1)(noisy(np.where(np.arange(40) < 3, 2.0, 0.0)), run)
    assert (few.values == 0).all()  # three effects cannot be told at one false in ten
    assert any("no effect stands out" in note for note in run.notes)
    with pytest.raises(SettingError, match="fdr=1"):
        AME(fdr=1)


def small(**columns: object) -> Problem:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(60, 2))
    y = (x[:, 0] + 0.3 * draw.normal(size=60) > 0).astype(int)
    train = read({"input": x[:40], "label": y[:40], **columns}, features="input")
    return Problem(
        Sklearn(LogisticRegression(tol=1e-10, max_iter=1000)), train, {"input": x[40:], "label": y[40:]}
    )


def test_out_of_bag_values_of_groups_are_means_over_models_without_them():
    source = np.array(["abcdefgh"[i % 8] for i in range(40)])
    problem = small(source=source)
    scores = DataOOB(fits=40, groups="source")(problem)
    assert scores.train_ids.tolist() == list("abcdefgh")
    from steelyard.collect import coalitions

    bags = coalitions.bags(problem.seed, 8, range(40))
    owner = np.searchsorted(list("abcdefgh"), source)
    learner, train = problem.learner, problem.train
    wanted = np.zeros((40, 8))
    for number, bag in enumerate(bags):
        losses = learner.measure(learner.fit(train, bag[owner]), train)
        wanted[number] = [-losses[owner == g].mean() for g in range(8)]
    means = [wanted[bags[:, g] == 0, g].mean() for g in range(8)]
    np.testing.assert_allclose(scores.values[:, 0], means, rtol=1e-4)
    assert (scores.uncertainty.examples > 0).all()


def test_groups_of_lava_are_means_of_potentials_against_all_others():
    source = np.array(["ab"[i % 2] if i < 20 else f"c{i}" for i in range(40)])
    scores = LAVA(groups="source", label_weight=0, halvings=0)(small(source=source))
    alone = LAVA(label_weight=0, halvings=0)(small(source=source)).values[:, 0]
    # Each value is -(f_i - (F - f_i) / (n - 1)), so potentials up to a constant are -value (n - 1) / n.
    f = -alone * 39 / 40
    wanted = [-(f[source == g].mean() - f[source != g].mean()) for g in scores.train_ids]
    np.testing.assert_allclose(scores.values[:, 0], wanted, atol=1e-9)
    np.testing.assert_allclose(calibrated(f), -alone, atol=1e-9)
    assert scores.uncertainty is None
    assert len(scores.train_ids) == 22


def test_lava_errors_are_the_spread_over_other_queries():
    draw = np.random.default_rng(1)
    x = draw.normal(size=(24, 3)) + 0.3
    train = read({"input": x, "label": np.arange(24) % 2}, features="input")
    values, squares = [], []
    for number in range(30):
        query = {"input": draw.normal(size=(60, 3)), "label": np.arange(60) % 2}
        made = LAVA(embedding="inputs", halvings=4 if number < 5 else 0)(
            Problem(Sklearn(LogisticRegression()), train, query, seed=number)
        )
        values.append(made.values[:, 0])
        if made.uncertainty is not None:
            assert made.uncertainty.over == "other queries"
            squares.append(np.square(made.uncertainty.examples))
    true, told = np.var(values, axis=0, ddof=1).mean(), np.mean(squares)
    assert 0.7 < math.sqrt(told / true) < 1.3


def test_transport_started_from_potentials_ends_at_the_same(monkeypatch):
    monkeypatch.setattr(transports, "LARGEST_EXACT", 0)
    costs = np.random.default_rng(0).random((15, 12))
    cold = transports.transport(costs)
    warm = transports.transport(costs, cold.target + 0.01 * np.random.default_rng(1).normal(size=12))
    np.testing.assert_allclose(calibrated(warm.source), calibrated(cold.source), atol=5e-3)


def test_lava_has_no_errors_from_few_queries_and_says_so():
    problem = small()
    few = Problem(problem.learner, problem.train, problem.query.take(slice(0, 5)))
    run = in_memory()
    assert LAVA()(few, run).uncertainty is None
    assert any("too few for standard errors" in note for note in run.notes)
    with pytest.raises(SettingError, match="halvings=-1"):
        LAVA(halvings=-1)


BUDGETS = {
    "data_shapley": 35,
    "beta_shapley": 35,
    "banzhaf": 32,
    "least_core": 21,
    "ame": 30,
    "datamodels": 30,
    "data_oob": 24,
}


@pytest.mark.parametrize("name", BUDGETS)
@pytest.mark.parametrize("groups", ["", "source"])
def test_values_keep_to_their_fits_and_tell_their_error(name, groups):
    problem = noisy(np.linspace(-1, 1, 10), source=np.array([f"s{i % 5}" for i in range(10)]))
    settings = {"fits": str(BUDGETS[name])}
    if "nobody" in score.method_class(name).__dataclass_fields__:
        settings["nobody"] = "0"
    scores = flow.grouped(score.by_name(name, settings), groups)(problem)
    made = len(problem.learner.fits)
    spent = scores.provenance.resolved["fits"]
    assert 0 < spent <= BUDGETS[name]
    assert made <= spent + 2  # two see whether fits repeat themselves
    assert len(scores.train_ids) == (5 if groups else 10)
    assert scores.uncertainty is not None
    assert np.isfinite(scores.uncertainty.examples).all()
    assert (scores.uncertainty.pairs >= 0).all()
    assert scores.uncertainty.examples.max() > 0
    assert flow.interval_meaning(scores) == "other random fits"
    table = flow.value_table(scores)
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()


def test_every_method_that_values_tells_an_interval_or_is_exact():
    """Of those that need no fits, ``knn_shapley`` and ``leave_one_out`` are exact: their interval is over queries."""
    for name, meaning in {
        "knn_shapley": "other queries",
        "leave_one_out": "other queries",
        "lava": "other queries",
    }.items():
        scores = score.by_name(name)(small())
        assert flow.interval_meaning(scores) == meaning
        assert flow.value_table(scores)["low"].null_count() == 0
    full = np.arange(16)[:, None] >> np.arange(4) & 1
    train = read({"input": np.arange(4)[:, None], "id": list("abcd")}, features="input")
    query = read({"input": np.array([[0]]), "id": ["q"]}, features="input")
    exact = score.by_name("data_shapley", {"exact": "true", "nobody": "0"})(
        Problem(Table(full.sum(axis=1)[:, None].astype(float)), train, query)
    )
    assert flow.interval_meaning(exact) == "nothing (no fit was drawn)"
