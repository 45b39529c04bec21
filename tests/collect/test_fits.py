"""Refits: what is trained, what is kept, what is counted, and that failures stay failures."""

import numpy as np
import pytest

from steelyard.collect.designs import groups_along, random_like, random_subsets
from steelyard.collect.fits import ensemble, explained, fit_seeds, outcomes
from steelyard.errors import DataError, FitError, SettingError, ShapeError
from steelyard.problem import Problem
from steelyard.records import Examples, Plan
from steelyard.run import in_memory, open_run
from tests.problems import SQUARED_ERROR, Parameters, Ridge, additive_problem, inputs, ridge_problem


def test_outcomes_are_the_measurements_after_the_refits():
    problem = ridge_problem(noise=0.1)
    weightings = np.ones((3, 40))
    weightings[1, :10] = 0.0
    weightings[2, 3] = 2.5
    found = outcomes(problem, weightings, [0, 1, 1], in_memory(), purpose="scoring")
    names = fit_seeds(problem, 2, purpose="scoring")
    learner = problem.learner
    by_hand = [
        learner.fit(problem.train, seed=names["scoring 0"]),
        learner.fit(problem.train.take(slice(10, None)), seed=names["scoring 1"]),
        learner.fit(problem.train, weights=weightings[2], seed=names["scoring 1"]),
    ]
    np.testing.assert_array_equal(found.values, [learner.measure(one, problem.query) for one in by_hand])
    assert not found.failed.any()
    assert found.note() == ""


def test_scoring_and_verification_share_no_seed_and_no_fit():
    problem = ridge_problem(noise=0.1)
    full = np.ones((1, 40))
    scoring = outcomes(problem, full, [0], in_memory(), purpose="scoring")
    verification = outcomes(problem, full, [0], in_memory(), purpose="verification")
    assert not np.array_equal(scoring.values, verification.values)
    first = set(fit_seeds(problem, 50, purpose="scoring").values())
    assert first.isdisjoint(fit_seeds(problem, 50, purpose="verification").values())


def test_every_fit_is_kept_as_it_finishes_and_never_made_again(tmp_path):
    problem, request = ridge_problem(noise=0.1), {"what": "a test"}
    weightings = random_subsets(problem, 6, fraction=0.5, name="test")
    with open_run(tmp_path / "run", request, show="quiet") as run:
        first = outcomes(problem, weightings[:4], [0] * 4, run, purpose="verification")
        assert run.cost.fits == 4
        whole = outcomes(problem, weightings, [0] * 6, run, purpose="verification")
        assert run.cost.fits == 6
        np.testing.assert_array_equal(whole.values[:4], first.values)
        outcomes(problem, weightings, [0] * 6, run, purpose="scoring")
        assert run.cost.fits == 12
    fresh = outcomes(problem, weightings, [0] * 6, in_memory(), purpose="verification")
    np.testing.assert_array_equal(whole.values, fresh.values)


def test_kept_fits_belong_to_their_data_and_learner(tmp_path):
    weights = np.ones((1, 40))
    with open_run(tmp_path / "run", {}, show="quiet") as run:
        problems = [ridge_problem(), ridge_problem(noise=0.1), ridge_problem(flip=2)]
        other_seed = Problem(problems[1].learner, problems[1].train, problems[1].query, seed=5)
        fewer_queries = Problem(problems[0].learner, problems[0].train, problems[0].query.take(slice(0, 2)))
        for problem in [*problems, other_seed, fewer_queries]:
            outcomes(problem, weights, [0], run, purpose="scoring")
        assert run.cost.fits == 5


def test_equal_rows_are_trained_once():
    run = in_memory()
    found = outcomes(ridge_problem(noise=0.1), np.ones((4, 40)), [0, 1, 0, 1], run, purpose="scoring")
    assert run.cost.fits == 2
    np.testing.assert_array_equal(found.values[:2], found.values[2:])


def test_a_failed_fit_is_recorded_counted_and_kept_as_failed(tmp_path):
    problem = ridge_problem(needs=("t0003",))
    weightings = np.ones((3, 40))
    weightings[1, 3] = 0.0
    weightings[2, :] = 0.0
    with open_run(tmp_path / "run", {}, show="quiet") as run:
        for _ in range(2):
            found = outcomes(problem, weightings, [0, 0, 0], run, purpose="scoring")
            assert found.failed.tolist() == [False, True, True]
            assert np.isnan(found.values[1:]).all()
            assert np.isfinite(found.values[0]).all()
            assert "t0003 is missing" in found.messages[1]
            assert "no training example" in found.messages[2]
            assert found.note().startswith("2 of 3 fits failed")
        assert run.cost.fits == 2


def test_a_measurement_that_is_not_finite_is_a_failed_fit():
    problem = ridge_problem()
    labels = problem.query.labels().copy()
    labels[2] = np.inf
    broken = Problem(problem.learner, problem.train, problem.query.with_column("label", labels, "broken"))
    found = outcomes(broken, np.ones((1, 40)), [0], in_memory(), purpose="scoring")
    assert found.failed.all()
    assert "q0002" in found.messages[0]


def test_weightings_that_make_no_sense_are_refused():
    problem = ridge_problem()
    with pytest.raises(ShapeError):
        outcomes(problem, np.ones((1, 39)), [0], in_memory(), purpose="scoring")
    with pytest.raises(ShapeError):
        outcomes(problem, np.ones((2, 40)), [0], in_memory(), purpose="scoring")
    with pytest.raises(SettingError, match="weighting 1"):
        outcomes(problem, np.array([[1.0] * 40, [-1.0] * 40]), [0, 0], in_memory(), purpose="scoring")


def test_the_explained_model_is_kept_and_is_the_first_of_the_ensemble(tmp_path):
    problem = ridge_problem(noise=0.1)
    with open_run(tmp_path / "run", {}, show="quiet") as run:
        first, again = explained(problem, run), explained(problem, run)
        models = ensemble(problem, 3, run)
        assert run.cost.fits == 3
    np.testing.assert_array_equal(first.theta, again.theta)
    np.testing.assert_array_equal(first.theta, models[0].theta)
    np.testing.assert_array_equal(first.theta, problem.learner.fit(problem.train, seed=0).theta)
    assert len({model.theta.tobytes() for model in models}) == 3
    in_ram = ensemble(problem, 3, in_memory())
    np.testing.assert_array_equal([m.theta for m in models], [m.theta for m in in_ram])


def test_a_failing_explained_model_is_an_error():
    problem = ridge_problem(needs=("nobody",))
    with pytest.raises(FitError):
        explained(problem, in_memory())
    with pytest.raises(SettingError):
        ensemble(problem, 0, in_memory())


def test_random_subsets_have_the_size_asked_for_and_depend_on_the_name():
    problem = additive_problem()
    masks = random_subsets(problem, 200, fraction=0.25, name="a")
    assert np.all(masks.sum(axis=1) == 15)
    assert np.abs(masks.mean(axis=0) - 0.25).max() < 0.13
    np.testing.assert_array_equal(masks, random_subsets(problem, 200, fraction=0.25, name="a"))
    assert not np.array_equal(masks, random_subsets(problem, 200, fraction=0.25, name="b"))
    with pytest.raises(SettingError):
        random_subsets(problem, 2, fraction=0.001, name="a")


def test_groups_are_disjoint_and_span_the_ranking():
    ranking = np.random.default_rng(0).normal(size=60)
    masks = groups_along(ranking, 6, size=5, draw=np.random.default_rng(1))
    absent = masks == 0
    assert np.all(absent.sum(axis=1) == 5)
    assert absent.sum(axis=0).max() == 1
    assert np.all(np.diff(absent @ ranking) > 0)


@pytest.mark.parametrize("action", ["drop", "keep"])
def test_a_random_plan_names_as_many_examples(action):
    train = ridge_problem().train
    plan = Plan(action, train.ids[:7], ("why",) * 7, train.checksum)
    found = random_like(plan, train, seed=3)
    assert (found.action, len(set(found.ids.tolist()))) == (action, 7)
    assert len(found.apply(train)) == len(plan.apply(train))
    assert found.ids.tolist() == random_like(plan, train, seed=3).ids.tolist()
    assert found.ids.tolist() != random_like(plan, train, seed=4).ids.tolist()
    with pytest.raises(DataError):
        random_like(Plan(action, np.array(["nobody"]), ("why",), train.checksum), train, seed=0)


def test_random_plans_draw_every_example_equally_often():
    train = additive_problem().train
    plan = Plan("drop", train.ids[:6], ("why",) * 6, train.checksum)
    drawn = np.concatenate([random_like(plan, train, seed=s).ids for s in range(600)])
    counts = np.unique(drawn, return_counts=True)[1]
    assert len(counts) == 60
    # Chi-square on 59 degrees of freedom, corrected for drawing without replacement; above 103 in 1 of 3000.
    assert ((counts - 60) ** 2 / (60 * 0.9)).sum() * 59 / 60 < 103


def test_random_weights_and_labels_imitate_the_plan():
    train = ridge_problem().train
    weights = np.array([0.0, 2.0, 3.0])
    heavier = Plan("weigh", train.ids[:3], ("why",) * 3, train.checksum, weights=weights)
    assert sorted(random_like(heavier, train, seed=1).weights.tolist()) == weights.tolist()
    classes = np.array(["cat", "dog", "horse", "cat"] * 10)
    named = train.with_column("label", classes, "named")
    labels, previous = np.array(["horse", "horse", "dog"]), classes[:3]
    relabel = Plan("relabel", named.ids[:3], ("why",) * 3, "named", labels=labels, previous=previous)
    for seed in range(30):
        found = random_like(relabel, named, seed)
        changed = found.apply(named).labels()
        assert np.count_nonzero(changed != classes) == 3
        np.testing.assert_array_equal(found.previous, classes[named.positions(found.ids)])


def test_absent_examples_change_nothing_else():
    problem = additive_problem()
    masks = random_subsets(problem, 3, fraction=0.5, name="x")
    found = outcomes(problem, masks, [0, 0, 0], in_memory(), purpose="scoring")
    np.testing.assert_allclose(found.values, masks @ inputs(problem.train) @ inputs(problem.query).T)


class Drifting:
    """A learner whose fits of one seed differ from call to call."""

    def __init__(self) -> None:
        self.inner = Ridge(noise=0.1)
        self.calls = 0

    measurement = SQUARED_ERROR

    def check(self, train: Examples, query: Examples) -> tuple[str, ...]:
        return ()

    def fit(self, examples: Examples, weights: np.ndarray | None = None, seed: int = 0) -> Parameters:
        self.calls += 1
        return self.inner.fit(examples, weights, seed + self.calls)

    def explained(self, examples: Examples, seed: int = 0) -> Parameters:
        return self.fit(examples, seed=seed)

    def measure(self, fitted: Parameters, queries: Examples) -> np.ndarray:
        return self.inner.measure(fitted, queries)

    def loss(self, fitted: Parameters, examples: Examples) -> np.ndarray:
        return self.inner.loss(fitted, examples)

    def settings(self) -> dict[str, object]:
        return {}

    def fingerprint(self) -> str:
        return "drifting"


def test_a_fit_that_does_not_repeat_itself_is_measured_and_named_once(tmp_path):
    base = ridge_problem()
    for learner, drifts in ((Drifting(), True), (Ridge(noise=0.1), False)):
        problem = Problem(learner, base.train, base.query)
        weightings = random_subsets(problem, 25, fraction=0.5, name="test")
        with open_run(tmp_path / str(drifts), {}, show="quiet") as run:
            for part in (weightings[:22], weightings):
                outcomes(problem, part, [0] * len(part), run, purpose="scoring")
            assert run.cost.fits == 25
            told = [note for note in run.notes if "two fits of the same examples" in note]
            assert len(told) == drifts
            if isinstance(learner, Drifting):
                assert learner.calls == 27
                assert "squared units" in told[0]
