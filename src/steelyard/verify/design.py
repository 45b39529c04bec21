"""What all verifications share: aligned scores, a baseline with its seeds, outcomes per arm, provenance."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from steelyard.collect.fits import fit_seeds, outcomes
from steelyard.errors import DataError, FitError, SettingError
from steelyard.problem import Problem
from steelyard.records import Cost, Plan, Provenance, Scores
from steelyard.records.evidence import Verdict
from steelyard.records.provenance import versions
from steelyard.run import Run

LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Bench:
    """The full training set refitted with every seed: what all arms of a verification are compared with.

    Attributes:
        problem: Learner, training examples, queries.
        run: Where fits are kept.
        seeds: Seed numbers that every arm is trained with.
        full: ``float64["seed query"]`` Measurements after training on everything, one row per seed.
        deterministic: Whether the seed changes nothing, so that one seed stands for all.
        notes: What was done differently from what was asked.
        before: What the run had cost before this verification.
    """

    problem: Problem
    run: Run
    seeds: tuple[int, ...]
    full: np.ndarray
    deterministic: bool
    notes: tuple[str, ...]
    before: Cost


def start(problem: Problem, seeds: int, run: Run) -> Bench:
    """Refit the full training set once per seed.

    If every seed gives the same measurements to the last bit, the learner is deterministic and further seeds
    would only repeat the same fits: the bench then has one seed, and a note says so.

    Cost: ``seeds`` fits.

    Raises:
        SettingError: If ``seeds`` is below 1.
        FitError: If the full training set could not be fitted with any seed.
    """
    if seeds < 1:
        raise SettingError(f"seeds={seeds}: there is nothing to train.", fix="give at least one seed.")
    notes = list(problem.learner.check(problem.train, problem.query))
    before = run.cost
    found = outcomes(problem, np.ones((seeds, len(problem.train))), range(seeds), run, purpose="verification")
    good = np.flatnonzero(~found.failed)
    if not len(good):
        raise FitError(
            f"{problem.train.source}: training on the full set failed with every seed: {found.messages[0]}",
            fix="make the recipe train this data before verifying anything on it.",
        )
    if len(good) < seeds:
        notes.append(f"full training set: {found.note()}")
    values = found.values[good]
    same = len(good) > 1 and bool(np.all(values == values[0]))
    if same:
        notes.append(f"the learner gives the same result for every seed: 1 seed instead of {seeds}")
        good, values = good[:1], values[:1]
    _tell(run, notes)
    return Bench(problem, run, tuple(int(i) for i in good), values, same, tuple(notes), before)


def gains(
    bench: Bench, weightings: Float[np.ndarray, "arm train"], problem: Problem | None = None
) -> tuple[Float[np.ndarray, "arm seed query"], str]:
    """How much better than after training on everything each query is in each arm, seed by seed.

    Args:
        bench: The baseline.
        weightings: One row per arm.
        problem: The problem of these arms, if its training set is another than the bench's (relabelled).

    Returns:
        Differences in the unit of the measurement, positive = better (a loss fell); NaN where a fit failed.
        And a note about failed fits, empty if there were none.
    """
    problem = problem or bench.problem
    numbers = list(bench.seeds) * len(weightings)
    found = outcomes(
        problem, np.repeat(weightings, len(bench.seeds), axis=0), numbers, bench.run, purpose="verification"
    )
    values = found.values.reshape(len(weightings), len(bench.seeds), -1) - bench.full[None]
    return (-values if problem.learner.measurement.lower_is_better else values), found.note()


def finish(
    bench: Bench,
    *,
    given: Mapping[str, Any],
    notes: Iterable[str] = (),
    resolved: Mapping[str, Any] | None = None,
    predicted: int,
) -> Provenance:
    """Provenance of a verification: settings, seeds, checksums, notes, fits spent and fits predicted."""
    extra = [note for note in notes if note]
    _tell(bench.run, extra)
    problem, spent, before = bench.problem, bench.run.cost, bench.before
    count = max(bench.seeds) + 1
    return Provenance(
        given=given,
        resolved=dict(resolved or {}),
        versions=versions(),
        seeds={"problem": problem.seed, **fit_seeds(problem, count, purpose="verification")},
        checksums=problem.checksums(),
        notes=tuple(dict.fromkeys((*bench.notes, *extra))),
        cost=replace(
            spent,
            gradients=spent.gradients - before.gradients,
            fits=spent.fits - before.fits,
            seconds=spent.seconds - before.seconds,
            disk_bytes=spent.disk_bytes - before.disk_bytes,
        ),
        predicted=Cost(fits=predicted),
    )


def aligned(problem: Problem, scores: Scores, *, asked: str) -> Scores:
    """The scores with rows and columns in the order of the problem's training examples and queries.

    Args:
        problem: The problem that the scores are about.
        scores: One column per query.
        asked: The verification that asks, for the errors.

    Raises:
        SettingError: If the scores are per example and so predict nothing about a query.
        DataError: If the scores are about other training examples or queries.
        NumericsError: If a score is not finite.
    """
    if scores.axis == "example":
        raise SettingError(
            f"{asked} needs one score per training example and query; {scores.name} gives one per example.",
            fix="use verify.removal_curve, or verify.mislabel_auc if wrong labels are known.",
        )
    for role, ids, examples in (
        ("training examples", scores.train_ids, problem.train),
        ("queries", scores.query_ids, problem.query),
    ):
        if len(ids) != len(examples) or set(map(str, ids)) != set(map(str, examples.ids)):
            raise DataError(
                f"{scores.name} scores {len(ids)} {role}, the problem has {len(examples)} from "
                f"{examples.source}, or they are not the same ones.",
                fix="verify scores with the problem they were made for.",
            )
    scores.check_finite()
    if np.array_equal(scores.train_ids, problem.train.ids) and np.array_equal(
        scores.query_ids, problem.query.ids
    ):
        return scores
    rows = _order(scores.train_ids, problem.train.ids)
    columns = _order(scores.query_ids, problem.query.ids)
    return replace(
        scores,
        values=np.asarray(scores.values)[np.ix_(rows, columns)],
        train_ids=problem.train.ids,
        query_ids=problem.query.ids,
    )


def beyond_random(low: float, high: float) -> Verdict:
    """The verdict on an interval of the difference from random, where larger is better.

    Confirmed if it lies above 0, refuted if it ends at or below 0, else inconclusive: noise exceeds signal.
    """
    if low > 0:
        return "confirmed"
    return "refuted" if high <= 0 else "inconclusive"


def check_plan(problem: Problem, plan: Plan) -> None:
    """Refuse a plan that was made for another training set, or that changes nothing.

    Raises:
        DataError: If the plan names another training set.
        SettingError: If the plan is empty.
    """
    if plan.train_checksum != problem.train.checksum:
        raise DataError(
            f"the plan was made for a training set with checksum {plan.train_checksum[:12]}, the problem has "
            f"{problem.train.checksum[:12]} ({problem.train.source}).",
            fix="verify a plan with the problem it was made for.",
        )
    if not len(plan):
        raise SettingError("the plan names no example.", fix="verify a plan that changes something.")


def against_full(measurement_unit: str, name: str, plan: float, random: float) -> str:
    """Sentence that sets plan and random plans beside the full training set."""
    return (
        f"Against training on everything, the plan improves {name} by {plan:.4g} {measurement_unit}, "
        f"random plans by {random:.4g}."
    )


def fits_word(count: int) -> str:
    """``"1 fit"``, ``"12 fits"``."""
    return f"{count} fit" if count == 1 else f"{count} fits"


def listed(values: Iterable[Any]) -> list[Any]:
    """Plain Python values for an evidence table; NaN becomes None, so that the file is strict JSON."""
    plain = (value.item() if isinstance(value, np.generic) else value for value in values)
    return [None if isinstance(value, float) and not np.isfinite(value) else value for value in plain]


def _order(given: Sequence[Any] | np.ndarray, wanted: np.ndarray) -> np.ndarray:
    place = {str(name): position for position, name in enumerate(given)}
    return np.array([place[str(name)] for name in wanted], dtype=np.int64)


def _tell(run: Run, notes: Iterable[str]) -> None:
    for note in notes:
        run.note(note)
