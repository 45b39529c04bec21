"""No metric is passed by random scores more often than its level says, and none is failed by the truth.

Outcomes are those of a linear game whose truth is known, so that hundreds of verifications take seconds.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from steelyard import verify
from steelyard.problem import Problem
from steelyard.records import Evidence, Measurement, Scores
from tests.problems import Additive, additive_problem, additive_truth, examples, inputs, scores_of

pytestmark = pytest.mark.laws

LEAD = Measurement("lead", "logits", lower_is_better=False)
TRAIN, QUERY = 60, 8

Verify = Callable[[Problem, Scores], Evidence]


def problem(seed: int, *, noise: float = 0.5) -> Problem:
    """A linear game; columns say what is behind each query, by its largest true effects."""
    game = additive_problem(TRAIN, QUERY, noise=noise, seed=seed)
    learner = Additive(noise, measurement=LEAD)
    x, q = inputs(game.train), np.array([1.0, 0.5, 0.2]) + 0.6 * inputs(game.query)
    kind = (x @ np.array([1.0, 0.5, 0.2]) > 0).astype(int)
    train = examples(x, kind, "t").with_column("source", np.arange(TRAIN) % 3, "sources")
    strongest = np.argsort(-(x @ q.T), axis=0)[:3]
    facts = np.array([",".join(train.ids[column]) for column in strongest.T])
    query = examples(q, np.arange(QUERY) % 2, "q").with_column("fact", facts, "facts")
    query = query.with_column("source", np.arange(QUERY) % 3, "sources").with_column(
        "short", np.arange(QUERY) % 2, "short"
    )
    return Problem(learner, train.with_column("short", kind, "short"), query, seed=seed)


METRICS: dict[str, Verify] = {
    "lds": lambda p, s: verify.lds(p, s, subsets=16),
    "loo": lambda p, s: verify.loo(p, s, examples=24, seeds=2),
    "qld": lambda p, s: verify.qld(p, s),
    "removal_curve": lambda p, s: verify.removal_curve(p, s, fractions=(0.1, 0.2), seeds=1, controls=5),
    "retain_curve": lambda p, s: verify.retain_curve(p, s, fractions=(0.2, 0.4), seeds=1, controls=5),
    "calibration": lambda p, s: verify.calibration(p, s, groups=12, fraction=0.05, seeds=1),
    "brittleness": lambda p, s: verify.brittleness(p, s, queries=4, shares=(0.05, 0.1, 0.2)),
    "agreement": lambda p, s: verify.agreement(p, s, column="source"),
    "class_detection": lambda p, s: verify.class_detection(p, s),
    "subclass_detection": lambda p, s: verify.subclass_detection(p, s, column="source"),
    "mrr": lambda p, s: verify.mrr(p, s, column="fact"),
    "recall": lambda p, s: verify.recall(p, s, column="fact", top=5),
    "shortcut": lambda p, s: verify.shortcut(p, s, column="short"),
    "mixed_data": lambda p, s: verify.mixed_data(p, s, column="source"),
    "mislabel_auc": lambda p, s: verify.mislabel_auc(s, p.train.ids[::6]),
    "cardinality": lambda p, s: verify.cardinality(p, s, top=5),
    "seed_stability": lambda p, s: verify.seed_stability(p, [s, _shuffled(p, s, 1), _shuffled(p, s, 2)]),
    "model_randomisation": lambda p, s: verify.model_randomisation(
        p, s, _shuffled(p, s, 1), _shuffled(p, s, 2)
    ),
}


def _shuffled(given: Problem, scores: Scores, number: int) -> Scores:
    draw = np.random.default_rng([given.seed, number])
    return replace(scores, values=draw.permutation(np.asarray(scores.values)))


@pytest.mark.parametrize("trials", [40, pytest.param(400, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["pairs", "examples"])
@pytest.mark.parametrize("name", sorted(METRICS))
def test_random_scores_are_confirmed_no_more_often_than_the_level_says(name, kind, trials):
    """Each pair by itself, or one number per example for all queries: luck that all queries share is still luck."""
    confirmed = 0
    for trial in range(trials):
        given, draw = problem(trial), np.random.default_rng([trial, 7])
        values = draw.normal(size=(TRAIN, QUERY if kind == "pairs" else 1)) + np.zeros((TRAIN, QUERY))
        confirmed += METRICS[name](given, scores_of(given, values)).verdict == "confirmed"
    assert confirmed <= 0.05 * trials + 3 * (0.05 * 0.95 * trials) ** 0.5


def perfect(given: Problem, name: str) -> np.ndarray:
    """What a method that knows the answer would say."""
    if name == "mislabel_auc":
        return np.repeat(np.where(np.arange(TRAIN) % 6 == 0, -1.0, 0.0)[:, None], QUERY, axis=1)
    column = {
        "agreement": "source",
        "mixed_data": "source",
        "subclass_detection": "source",
        "shortcut": "short",
    }
    if name in column:
        theirs, wanted = (np.asarray(side.column(column[name])[:]) for side in (given.train, given.query))
        return (theirs[:, None] == wanted[None]).astype(float) + 0.01 * additive_truth(given)
    if name == "class_detection":
        return (given.train.labels()[:, None] == given.query.labels()[None]).astype(float)
    return additive_truth(given)


@pytest.mark.parametrize(
    "name", sorted(set(METRICS) - {"cardinality", "seed_stability", "model_randomisation"})
)
def test_the_truth_is_confirmed(name):
    given = problem(0, noise=0.0 if name in ("loo", "calibration") else 0.3)
    found = METRICS[name](given, scores_of(given, perfect(given, name)))
    assert found.verdict == "confirmed", found.summary()
    assert found.interval[0] <= found.estimate + 1e-9 and found.estimate <= found.interval[1] + 1e-9
    assert found.power and found.control["estimate"] < found.estimate


def test_scores_that_follow_the_model_are_stable_and_depend_on_it():
    given = problem(0)
    truth, draw = additive_truth(given), np.random.default_rng(0)
    sets = [scores_of(given, truth + 0.3 * draw.normal(size=truth.shape)) for _ in range(3)]
    untaught = scores_of(given, draw.normal(size=truth.shape))
    stable = verify.seed_stability(given, sets)
    assert stable.verdict == "confirmed" and stable.estimate > 0.8 and len(stable.table["seeds"]) == 3
    depends = verify.model_randomisation(given, sets[0], sets[1], untaught)
    assert depends.verdict == "confirmed"
    assert depends.estimate == pytest.approx(depends.control["retrained"] - depends.control["untaught"])


def test_scores_that_ignore_the_model_prove_nothing():
    given = problem(0)
    fixed = scores_of(given, np.random.default_rng(0).normal(size=(TRAIN, QUERY)))
    found = verify.seed_stability(given, [fixed, fixed])
    assert found.estimate == pytest.approx(1) and found.verdict == "inconclusive"
    assert "do not depend on the model" in found.power
    assert verify.model_randomisation(given, fixed, fixed, fixed).verdict != "confirmed"
