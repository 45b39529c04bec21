"""Several systems that choose, weigh or clean data, on the same tasks at equal budget, against random."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from steelyard.act.rs2 import RS2
from steelyard.act.system import System, TrainsOtherwise, effective
from steelyard.collect.designs import random_like, random_subsets
from steelyard.errors import CapabilityError, DataError, FitError, SettingError, SteelyardError
from steelyard.flow.tasks import Task, checksums_of, facts_of, packed, since, slug, unpacked, within
from steelyard.maths.multiple import holm
from steelyard.maths.power import one_against_many
from steelyard.problem import Problem
from steelyard.records import Comparison, Cost, Plan, Provenance
from steelyard.records.comparison import Effect, Row
from steelyard.records.plan import plan_from_json, plan_to_json
from steelyard.records.provenance import versions
from steelyard.run import Run, generator, in_memory, stream
from steelyard.verify.design import Bench, gains, start

LEVEL = 0.95
_FEWEST = 3
_CONTROLS = {"rs2": RS2()}


@dataclass(frozen=True)
class Terms:
    """On what terms systems are compared.

    Attributes:
        budget: Share of the training examples that may be kept.
        changes: Share of them that systems which clean may change.
        seeds: Trainings per plan, paired across plans.
        controls: Random plans.

    Raises:
        SettingError: If a value has no meaning.
    """

    budget: float = 0.3
    changes: float = 0.1
    seeds: int = 3
    controls: int = 10

    def __post_init__(self) -> None:
        if not (0 < self.budget < 1 and 0 < self.changes < 1):
            raise SettingError(
                f"compare: budget={self.budget}, changes={self.changes}.",
                fix="give shares of the training examples, above 0 and below 1.",
            )
        if self.seeds < 1 or self.controls < _FEWEST:
            raise SettingError(
                f"compare: seeds={self.seeds}, controls={self.controls}.",
                fix=f"give at least one seed and {_FEWEST} random plans.",
            )


def compare(
    tasks: Sequence[Task],
    systems: Mapping[str, System],
    terms: Terms | None = None,
    *,
    title: str = "Systems built on influence, at equal budget",
    run: Run | None = None,
) -> Comparison:
    r"""What each system's plan does to a retrained model, beyond random plans of the same budget.

    The queries of every task are halved at random: systems see one half as their target, and plans are judged on the
    other. Random subsets of the same budget stand beside, and so does RS2, a shorter training on everything, where the
    learner has epochs. The effect of a plan is its mean gain over the seeds less that of the random plans, with the
    interval and p-value of one value against many (see ``verify.by_retraining``); p-values are adjusted for the number
    of systems on a task by Holm's method. A system that cleans is compared with random plans that change as much.

    Finished work is kept: a killed call goes on with what is missing. An error of ours fails its own row.

    Cost: per task seeds · (1 + controls + systems) fits, and what the systems take.

    Args:
        tasks: What to compare on.
        systems: Label to system.
        terms: Budget, seeds and controls.
        title: Headline.
        run: Where finished work is kept; nowhere if None.

    Raises:
        SettingError: If there is no task or system, or names repeat.
        FitError: If too few random plans could be trained on a task.
    """
    terms, run = terms or Terms(), run or in_memory()
    names = [task.name for task in tasks]
    clash = sorted(set(systems) & {"random", "everything", *_CONTROLS})
    if not tasks or not systems or len(set(names)) < len(names) or clash:
        raise SettingError(
            f"compare: tasks {names}, systems {list(systems)}.",
            fix="give at least one task and one system, with different names; the controls "
            "(random, everything, rs2) are beside in any case.",
        )
    rows: list[Row] = []
    with run.progress("compare", len(tasks) * (len(systems) + len(_CONTROLS)), unit="plans") as progress:
        for task in tasks:
            with within(run, task) as inner:
                court = _court(task, terms, inner)
                found = list(_controls(court))
                for name, system in {**_CONTROLS, **systems}.items():
                    found.append(_row(court, name, system))
                    progress.advance()
                rows += _adjusted(found)
    return Comparison(
        title=title,
        tasks=facts_of(tasks),
        rows=tuple(rows),
        provenance=Provenance(
            given={"systems": {name: repr(system) for name, system in systems.items()}, **asdict(terms)},
            versions=versions(),
            seeds={f"task {task.name}": task.problem.seed for task in tasks},
            checksums=checksums_of(tasks),
            notes=run.notes,
            cost=run.cost,
        ),
    )


@dataclass(frozen=True, eq=False)
class _Court:
    """A task with its target, its judging queries, and the random plans that were trained.

    Attributes:
        task: Name, problem.
        terms: Budget, seeds, controls.
        target: The problem that systems see.
        bench: Trainings on everything, measured on the judging queries.
        random: ``float64["control seed"]`` Gains of random subsets.
        budget: Examples to keep.
        changes: Examples that may be changed.
    """

    task: Task
    terms: Terms
    target: Problem
    bench: Bench
    random: np.ndarray
    budget: int
    changes: int


def _court(task: Task, terms: Terms, run: Run) -> _Court:
    problem = task.problem
    total, count = len(problem.train), len(problem.query)
    if count < 4:
        raise SettingError(
            f"{task.name}: {count} queries cannot be halved into a target and queries that judge.",
            fix="give at least 4 queries, better 50.",
        )
    order = generator(problem.seed, "compare", "halves").permutation(count)
    # By id, so that the order of the rows does not matter.
    by_id = np.argsort(problem.query.ids, kind="stable")
    half = count // 2
    sides = [problem.query.take(np.sort(by_id[part])) for part in (order[:half], order[half:])]
    target, judge = (Problem(problem.learner, problem.train, side, seed=problem.seed) for side in sides)
    bench = start(judge, terms.seeds, run)
    subsets = random_subsets(judge, terms.controls, fraction=terms.budget, name="compare")
    random, note = gains(bench, subsets)
    if note:
        run.note(note)
    budget, changes = round(terms.budget * total), max(1, round(terms.changes * total))
    return _Court(task, terms, target, bench, random.mean(axis=2), budget, changes)


def _controls(court: _Court) -> tuple[Row, Row]:
    """Rows of random subsets and of everything."""
    random, _ = _used(court.random[:1], court.random)
    arms = random.mean(axis=1)
    spread = one_against_many(float(arms.mean()), arms, level=LEVEL)
    half = (spread.high - spread.low) / 2
    gain = float(arms.mean())
    effect = Effect(0.0, -half, half, 1.0, "inconclusive", _measured(court, gain))
    does = f"keeps {court.budget} random examples; the interval is that of one more such plan"
    whole = _effect(court, np.zeros((1, court.random.shape[1])), court.random)
    total = len(court.target.train)
    return (
        Row(court.task.name, "random", "control", effect, does, float(court.budget)),
        Row(court.task.name, "everything", "control", whole, f"trains on all {total} examples", float(total)),
    )


def _row(court: _Court, name: str, system: System) -> Row:
    """One system on a task; an error of ours leaves a row without effect."""
    run, role = court.bench.run, "control" if name in _CONTROLS else "system"
    try:
        if isinstance(system, TrainsOtherwise):
            system.learner(court.target, court.budget)  # refuses before any work
        plan, cost = _planned(court, name, system, run)
        _within_budget(court, system, plan, name)
        effect = _judged(court, system, plan)
    except SteelyardError as error:
        # Neither the learner's lacks nor the data's are a fault of the system.
        applies = not isinstance(error, CapabilityError | DataError)
        return Row(court.task.name, name, role, None, problem=error.problem, fix=error.fix, applies=applies)
    weights = plan.weights_for(court.target.train)
    course = plan.provenance.resolved.get("course", {})
    return Row(
        court.task.name,
        name,
        role,
        effect,
        _does(plan, weights),
        effective(weights),
        cost,
        plan.provenance.notes,
        course,
    )


def _planned(court: _Court, name: str, system: System, run: Run) -> tuple[Plan, Cost]:
    """The system's plan and what it took; read if the run folder has it."""
    budget = court.changes if system.card.spends == "changed" else court.budget
    problem = court.target
    seed = stream(problem.seed, "compare", "system")
    facts = json.dumps([problem.checksums(), problem.seed, repr(system), budget], sort_keys=True)

    def make() -> dict[str, np.ndarray]:
        before = run.cost
        plan = system(problem, budget, seed, run)
        return packed({"plan": plan_to_json(plan), "cost": asdict(since(before, run.cost))})

    kept = unpacked(run.keep(f"compare/{slug(name, facts)}", make))
    return plan_from_json(kept["plan"]), Cost(**kept["cost"])


def _within_budget(court: _Court, system: System, plan: Plan, name: str) -> None:
    if not len(plan):
        raise SettingError(f"{name}: its plan names no example.", fix="give it other settings or more data.")
    weights = plan.weights_for(court.target.train)
    spends = system.card.spends
    over = {
        "changed": len(plan) > court.changes,
        "kept": np.count_nonzero(weights) > court.budget or weights.sum() > court.budget * (1 + 1e-9),
        "passes": False,
    }[spends]
    if over:
        raise SettingError(
            f"{name}: its plan spends more than the budget of {court.changes if spends == 'changed' else court.budget} "
            f"examples: {np.count_nonzero(weights)} with a total weight of {weights.sum():.6g}.",
            fix="let it keep within the budget that it is given.",
        )


def _judged(court: _Court, system: System, plan: Plan) -> Effect:
    if isinstance(system, TrainsOtherwise):
        other = _with_learner(court.bench.problem, system.learner(court.target, court.budget))
        values, _ = gains(court.bench, plan.weights_for(other.train)[None], other)
        return _effect(court, values.mean(axis=2), court.random)
    if system.card.spends == "kept":
        values, _ = gains(court.bench, plan.weights_for(court.target.train)[None])
        return _effect(court, values.mean(axis=2), court.random)
    seeds = [
        stream(court.target.seed, "compare", "changes", plan.action, number)
        for number in range(court.terms.controls)
    ]
    arms = [plan, *(random_like(plan, court.target.train, seed) for seed in seeds)]
    values = np.stack([_changed(court, arm) for arm in arms])
    return _effect(court, values[:1], values[1:])


def _changed(court: _Court, plan: Plan) -> Float[np.ndarray, " seed"]:
    judge = court.bench.problem
    if plan.action != "relabel":
        return gains(court.bench, plan.weights_for(judge.train)[None])[0][0].mean(axis=1)
    changed = Problem(judge.learner, plan.apply(judge.train), judge.query, seed=judge.seed)
    return gains(court.bench, np.ones((1, len(judge.train))), changed)[0][0].mean(axis=1)


def _with_learner(problem: Problem, learner: Any) -> Problem:
    return Problem(learner, problem.train, problem.query, seed=problem.seed)


def _effect(court: _Court, plan: np.ndarray, random: np.ndarray) -> Effect:
    own, many = _used(plan, random)[1], _used(plan, random)[0]
    found = one_against_many(float(own.mean()), many.mean(axis=1), level=LEVEL)
    return Effect(
        found.estimate,
        found.low,
        found.high,
        found.p_value,
        "inconclusive",
        _measured(court, float(own.mean())),
    )


def _used(
    plan: Float[np.ndarray, "one seed"], random: Float[np.ndarray, "control seed"]
) -> tuple[Float[np.ndarray, "control used"], Float[np.ndarray, " used"]]:
    """Random plans with all seeds that the plan could be trained with, and the plan at those seeds."""
    seeds = np.isfinite(plan[0])
    whole = np.isfinite(random[:, seeds]).all(axis=1)
    if not seeds.any() or whole.sum() < _FEWEST:
        raise FitError(
            f"{np.count_nonzero(seeds)} of {len(seeds)} trainings with the plan and {np.count_nonzero(whole)} of "
            f"{len(random)} random plans succeeded.",
            fix="give a larger budget, or repair the recipe.",
        )
    return random[whole][:, seeds], plan[0, seeds]


def _measured(court: _Court, gain: float) -> float:
    lower = court.bench.problem.learner.measurement.lower_is_better
    return float(court.bench.full.mean()) + (-gain if lower else gain)


def _adjusted(rows: Sequence[Row]) -> list[Row]:
    """The rows with p-values adjusted over the systems of the task, and verdicts."""
    asked = [k for k, row in enumerate(rows) if row.effect is not None and row.role == "system"]
    p_values = np.array([row.effect.p_value for k, row in enumerate(rows) if row.effect and k in asked])
    adjusted = dict(zip(asked, holm(p_values).tolist(), strict=True))
    found: list[Row] = []
    for k, row in enumerate(rows):
        effect = row.effect
        if effect is None or row.system == "random":
            found.append(row)
            continue
        p_value = adjusted.get(k, effect.p_value)
        verdict = "inconclusive"
        if p_value <= 1 - LEVEL:
            verdict = "confirmed" if effect.estimate > 0 else "refuted"
        found.append(replace(row, effect=replace(effect, p_value=p_value, verdict=verdict)))
    return found


def _does(plan: Plan, weights: Float[np.ndarray, " example"]) -> str:
    if plan.action == "weigh":
        return f"weighs {np.count_nonzero(weights)} of {len(weights)} examples, up to {weights.max():.3g}"
    word = {"keep": "keeps", "drop": "drops", "relabel": "relabels"}[plan.action]
    return f"{word} {len(plan)} of {len(weights)} examples"
