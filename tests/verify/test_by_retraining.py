"""Plans against retraining: true ones are confirmed, random ones are not, and noise is not called evidence."""

from dataclasses import replace

import numpy as np
import pytest

from steelyard.act import drop, keep, random_like
from steelyard.errors import DataError, FitError, SettingError
from steelyard.maths.power import paired
from steelyard.problem import Problem
from steelyard.records import Evidence, Plan
from steelyard.run import in_memory, open_run
from steelyard.score.leave_one_out import LeaveOneOut
from steelyard.verify import by_retraining
from steelyard.verify.design import gains, start
from tests.problems import additive_problem, additive_truth, examples, inputs, ridge_problem, scores_of


def dropping(problem: Problem, rows: np.ndarray) -> Plan:
    return Plan("drop", problem.train.ids[rows], ("why",) * len(rows), problem.train.checksum)


def allowed(trials: int, rate: float) -> float:
    """Most successes of a binomial that stays within three standard deviations."""
    return trials * rate + 3 * (trials * rate * (1 - rate)) ** 0.5


def test_dropping_flipped_labels_by_exact_scores_is_confirmed():
    problem = ridge_problem(train=100, flip=4, noise=0.02)
    evidence = by_retraining(problem, drop(LeaveOneOut()(problem), count=4))
    assert evidence.verdict == "confirmed"
    assert evidence.interval[0] > 0
    assert evidence.control["plan_against_full"] > 0 > evidence.control["low"]
    assert evidence.better == "higher"
    assert evidence.unit == "squared units"


def test_dropping_the_most_helpful_is_refuted():
    problem = ridge_problem(train=30, noise=0.001)
    best = keep(LeaveOneOut()(problem), count=6)
    evidence = by_retraining(problem, replace(best, action="drop"))
    assert evidence.verdict == "refuted"
    assert evidence.estimate < 0


@pytest.mark.parametrize("action", ["drop", "keep"])
def test_the_sign_follows_the_measurement(action):
    problem = additive_problem(noise=0.05)
    scores = scores_of(problem, additive_truth(problem))
    plan = (drop if action == "drop" else keep)(scores, fraction=0.3)
    evidence = by_retraining(problem, plan, seeds=3)
    assert evidence.verdict == "confirmed"
    expected = -additive_truth(problem).mean(axis=1)[plan.weights_for(problem.train) == 0].sum()
    assert evidence.control["plan_against_full"] == pytest.approx(expected, abs=0.3)


def test_the_estimate_is_plan_minus_random_plans_with_the_same_seeds():
    problem = additive_problem(noise=0.5)
    plan = dropping(problem, np.arange(5))
    evidence = by_retraining(problem, plan, seeds=4, controls=6)
    table = evidence.table
    rows = list(zip(table["arm"], table["seed"], table["measurement"], table["improvement"], strict=True))
    assert len(rows) == 4 * 8
    full = {seed: value for arm, seed, value, _ in rows if arm == "full"}
    for _, seed, value, improvement in rows:
        assert improvement == pytest.approx(value - full[seed])
    gain = {name: np.mean([r[3] for r in rows if r[0] == name]) for name in dict.fromkeys(table["arm"])}
    random = [value for name, value in gain.items() if name.startswith("random")]
    assert evidence.estimate == pytest.approx(gain["plan"] - np.mean(random))
    half = (evidence.interval[1] - evidence.interval[0]) / 2
    assert half == pytest.approx(2.570582 * np.std(random, ddof=1) * (1 + 1 / 6) ** 0.5)


@pytest.mark.laws
@pytest.mark.parametrize(
    "noise",
    [
        pytest.param(0.0, marks=pytest.mark.slow, id="random plans differ"),
        pytest.param(1.0, id="random plans differ and training is noisy"),
        pytest.param(20.0, marks=pytest.mark.slow, id="training is noisy"),
    ],
)
def test_random_plans_are_confirmed_no_more_often_than_chance(noise):
    problem, trials = additive_problem(train=40, query=3, noise=noise), 400
    verdicts = [random_verdict(problem, trial, seeds=2) for trial in range(trials)]
    # Both tails together have 5 %, each one half of it.
    assert verdicts.count("confirmed") <= allowed(trials, 0.025)
    assert verdicts.count("refuted") <= allowed(trials, 0.025)
    # Neither does it never decide: its level is met, not undercut.
    assert trials - verdicts.count("inconclusive") >= trials * 0.05 - 3 * (trials * 0.05 * 0.95) ** 0.5


@pytest.mark.slow
@pytest.mark.laws
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.3])
def test_random_plans_are_not_confirmed_with_a_model_either(noise):
    problem = ridge_problem(train=60, noise=noise)
    verdicts = [random_verdict(problem, trial, seeds=3) for trial in range(800)]
    # Effects of subsets are skewed here, so that the two tails differ.
    assert verdicts.count("confirmed") <= allowed(800, 0.05)


def random_verdict(problem: Problem, trial: int, seeds: int) -> str:
    rows = np.random.default_rng(trial).choice(len(problem.train), size=6, replace=False)
    return by_retraining(problem, dropping(problem, rows), seeds=seeds, controls=5).verdict


@pytest.mark.laws
def test_the_paired_test_over_seeds_would_confirm_random_plans():
    """Why the verifier does not use it: a fresh random control per seed, and still pseudo-replication."""
    problem = additive_problem(train=40, query=3, noise=0.05)
    called, trials, seeds = 0, 40, 6
    for trial in range(trials):
        rows = np.random.default_rng(trial).choice(40, size=6, replace=False)
        plan = dropping(problem, rows)
        bench = start(problem, seeds, in_memory())
        controls = [random_like(plan, problem.train, 1000 * trial + k) for k in range(seeds)]
        masks = np.stack([one.weights_for(problem.train) for one in (plan, *controls)])
        values = gains(bench, masks)[0].mean(axis=2)
        differences = values[0] - np.diagonal(values[1:])
        called += paired(np.ascontiguousarray(differences)).p_value <= 0.05
    assert called > 0.2 * trials  # four times its level of 5 %


def test_two_plans_do_not_share_their_random_controls():
    problem = additive_problem(noise=0.1)
    tables = [by_retraining(problem, dropping(problem, np.arange(k, k + 3)), seeds=1).table for k in (0, 5)]
    random = [
        [m for arm, m in zip(t["arm"], t["measurement"], strict=True) if arm.startswith("random")]
        for t in tables
    ]
    assert set(random[0]).isdisjoint(random[1])


def test_a_deterministic_learner_is_not_trained_again_for_every_seed():
    problem, run = ridge_problem(flip=3), in_memory()
    evidence = by_retraining(problem, drop(LeaveOneOut()(problem), count=3), seeds=5, run=run)
    assert run.cost.fits == 5 + 1 + 20
    assert evidence.provenance.resolved["seeds"] == 1
    assert any("same result for every seed" in note for note in evidence.provenance.notes)
    assert evidence.verdict == "confirmed"


def test_the_cost_is_predicted_and_kept_in_the_record():
    problem, run = ridge_problem(noise=0.1), in_memory()
    evidence = by_retraining(problem, dropping(problem, np.arange(3)), seeds=3, controls=5, run=run)
    assert evidence.provenance.predicted.fits == evidence.provenance.cost.fits == run.predicted.fits == 3 * 7
    again = by_retraining(problem, dropping(problem, np.arange(3)), seeds=3, controls=5)
    assert again.table == evidence.table


def test_a_killed_verification_goes_on(tmp_path):
    problem = ridge_problem(noise=0.1)
    plan = dropping(problem, np.arange(3))
    with open_run(tmp_path / "run", {}, show="quiet") as run:
        start(problem, 3, run)
        assert run.cost.fits == 3
        evidence = by_retraining(problem, plan, seeds=3, controls=5, run=run)
        assert run.cost.fits == 21
        assert by_retraining(problem, plan, seeds=3, controls=5, run=run).table == evidence.table
        assert run.cost.fits == 21


def test_failed_random_plans_are_left_out_and_counted():
    problem = ridge_problem(noise=0.1, needs=("t0010",))
    evidence = by_retraining(problem, dropping(problem, np.arange(8)), controls=12, seeds=2)
    used = evidence.provenance.resolved["controls_used"]
    assert 3 <= used < 12
    assert any("fits failed" in note for note in evidence.provenance.notes)
    failed = [
        v for arm, v in zip(evidence.table["arm"], evidence.table["improvement"], strict=True) if v is None
    ]
    assert len(failed) == 2 * (12 - used)


def test_a_plan_that_cannot_be_trained_is_an_error_and_no_verdict():
    problem = ridge_problem(noise=0.1, needs=("t0001",))
    with pytest.raises(FitError, match="0 of 2 fits with the plan"):
        by_retraining(problem, dropping(problem, np.array([1])), seeds=2)


def test_relabelling_must_beat_the_labels_as_they_were():
    problem = wrong_signs()
    train = problem.train
    previous = train.labels()[:15]
    repair = Plan(
        "relabel", train.ids[:15], ("why",) * 15, train.checksum, labels=-previous, previous=previous
    )
    evidence = by_retraining(problem, repair)
    assert evidence.verdict == "confirmed"
    assert evidence.control["plan_against_full"] > 0 > evidence.control["random_against_full"]
    clean = ridge_problem(noise=0.02)
    nothing = Plan(
        "relabel",
        clean.train.ids[:4],
        ("why",) * 4,
        clean.train.checksum,
        labels=clean.train.labels()[:4] + 1e-4,
        previous=clean.train.labels()[:4],
    )
    evidence = by_retraining(clean, nothing)
    assert evidence.estimate > 0  # random relabelling does harm, so beating it proves nothing
    assert evidence.verdict == "inconclusive"


def wrong_signs() -> Problem:
    """A hundred signs of a linear function, the first fifteen of them wrong."""
    smooth = ridge_problem(train=100, query=40, noise=0.002)
    sides = [
        examples(inputs(one), np.sign(one.labels()), one.ids[0][0]) for one in (smooth.train, smooth.query)
    ]
    labels = sides[0].labels().copy()
    labels[:15] *= -1
    return Problem(smooth.learner, sides[0].with_column("label", labels, "wrong signs"), sides[1])


def test_weights_are_verified_too():
    problem = ridge_problem(train=100, flip=4, noise=0.02)
    ids = problem.train.ids[:4]
    plan = Plan(
        "weigh", ids, ("why",) * 4, problem.train.checksum, weights=np.array([0.01, 0.01, 0.02, 0.02])
    )
    assert by_retraining(problem, plan).verdict == "confirmed"


def test_controls_without_spread_are_no_evidence():
    problem = additive_problem()
    constant = Problem(
        problem.learner,
        problem.train.with_column("input", np.ones((60, 3)), "ones"),
        problem.query,
    )
    evidence = by_retraining(constant, dropping(constant, np.arange(4)))
    assert evidence.verdict == "inconclusive"
    assert "all came out the same" in evidence.power


def test_the_power_sentence_says_what_would_be_enough():
    problem = additive_problem(train=40, query=3, noise=3.0)
    evidence = by_retraining(problem, dropping(problem, np.arange(4)), seeds=3)
    assert evidence.verdict == "inconclusive"
    assert "at 80 % power" in evidence.power
    assert "seeds" in evidence.power
    assert "random plans by" in evidence.power


def test_evidence_survives_saving(tmp_path):
    problem = ridge_problem(noise=0.1)
    evidence = by_retraining(problem, dropping(problem, np.arange(3)), seeds=2)
    loaded = Evidence.load(evidence.save(tmp_path / "evidence.json"))
    assert loaded.table == evidence.table
    assert loaded.provenance.seeds == evidence.provenance.seeds
    assert loaded.summary() == evidence.summary()


def test_bad_settings_are_refused():
    problem = ridge_problem()
    plan = dropping(problem, np.arange(3))
    with pytest.raises(SettingError, match="controls=2"):
        by_retraining(problem, plan, controls=2)
    with pytest.raises(SettingError, match="seeds=0"):
        by_retraining(problem, plan, seeds=0)
    with pytest.raises(SettingError, match="no example"):
        by_retraining(problem, dropping(problem, np.arange(0)))
    with pytest.raises(DataError, match="another training set|made for a training set"):
        by_retraining(problem, replace(plan, train_checksum="other"))
