"""Does a plan help? Retrain with it, without it, and with random plans of equal size."""

import hashlib
import json
from typing import Any

import numpy as np

from steelyard.collect import pace
from steelyard.collect.designs import random_like
from steelyard.errors import FitError, SettingError
from steelyard.maths.power import (
    Comparison,
    components,
    minimum_detectable,
    one_against_many,
    paired,
    seeds_needed,
)
from steelyard.problem import Problem
from steelyard.records import Cost, Evidence, Plan
from steelyard.records.evidence import Verdict
from steelyard.run import Run, in_memory, stream
from steelyard.verify.design import Bench, against_full, check_plan, finish, gains, listed, start

_CONTROLS = 8
_CONTROLS_DETERMINISTIC = 20
_FEWEST = 3


def by_retraining(
    problem: Problem,
    plan: Plan,
    *,
    seeds: int = 5,
    controls: int | None = None,
    level: float = 0.95,
    run: Run | None = None,
) -> Evidence:
    r"""Effect of a plan on the queries, beyond that of random plans of equal size.

    The gain of an arm a with training seed s is how much better the mean query measurement is than after
    training on everything with the same seed (same initialisation, same batch order). Gains of random plans
    r = 1 … m have three sources of variance:

    .. math:: y_{rs} = \mu + u_r + v_s + e_{rs}, \quad u \sim (0, \sigma_u^2), \; e \sim (0, \sigma_e^2).

    :math:`u_r` is what dropping *these* examples does: random plans differ truly, not only by training noise.
    The claim to refute is that the plan is one more random plan, so that its own :math:`u` is a draw too.
    Averaged over the S seeds that all arms share, :math:`v` cancels and every :math:`\bar y_r` has variance
    :math:`\sigma_u^2 + \sigma_e^2/S`. The plan's mean is a further draw from the same normal distribution:

    .. math:: t = \frac{\bar y_{plan} - \bar y_{\cdot}}{s \sqrt{1 + 1/m}}, \quad
              s^2 = \frac{1}{m-1}\sum_r (\bar y_r - \bar y_\cdot)^2, \quad m - 1 \text{ degrees of freedom.}

    This is exact for normal gains whatever the shares of :math:`\sigma_u` and :math:`\sigma_e`. A paired
    t-test over seeds, even with a fresh random plan for every seed, would divide by :math:`\sqrt{S}` a
    variance of which :math:`\sigma_u^2` does not shrink with S (the plan's own u is the same for all seeds),
    and would confirm half of all random plans as S grows: pseudo-replication.

    Where gains of random plans are far from normal, the chance of confirming one changes little: 2.5 % at level
    .95 when normal, 3.6 % for Laplace or Student's t with 3 degrees of freedom, 5 % for a gamma of shape 4 and
    7 % for the exponential distribution leaning that way (8 controls, 200,000 simulations each). Gains are
    sums over the examples of a plan, so that larger plans are more normal.

    Random plans relabel to wrong labels, so that beating them proves little: a relabelling is confirmed
    only if it also beats the training set as it was, by a paired t interval over the seeds.

    Cost: seeds · (controls + 2) fits; if the learner is deterministic, seeds + controls + 1.

    Args:
        problem: Learner, training examples, queries.
        plan: What to verify; made for this training set.
        seeds: Training seeds per arm, drawn from the stream of verification.
        controls: Number of random plans; 8, or 20 if the learner is deterministic. They belong to this plan:
            another plan gets others.
        level: Confidence level of the interval and of the verdict.
        run: Where fits are kept; in memory if None.

    Returns:
        Evidence in the unit of the measurement; positive = the plan improves the queries more than random
        plans do. ``control`` holds the prediction interval of one further random plan on the same scale.
        Confirmed if the interval lies above 0, refuted if it lies below, else inconclusive.

    Raises:
        SettingError: If ``controls`` is below 3, ``seeds`` below 1, or the plan is empty.
        DataError: If the plan was made for another training set.
        FitError: If too many fits failed to compare anything.

    Source: test of a single case against a control sample: Crawford & Howell (1998), eq. 1.
    """
    run = run or in_memory()
    check_plan(problem, plan)
    if controls is not None and controls < _FEWEST:
        raise SettingError(
            f"by_retraining: controls={controls}.",
            fix=f"give at least {_FEWEST} random plans; 8 is sensible.",
        )
    most = seeds * ((controls or _CONTROLS) + 2)
    pace.predict(problem, run, Cost(fits=most))
    bench = start(problem, seeds, run)
    count = controls or (_CONTROLS_DETERMINISTIC if bench.deterministic else _CONTROLS)
    names = [stream(problem.seed, "verification", "control", _digest(plan), k) for k in range(count)]
    arms = [plan, *(random_like(plan, problem.train, seed) for seed in names)]
    table, note = _arm_gains(bench, arms)
    used, complete = _complete(table, plan)
    found = one_against_many(float(used[0].mean()), used[1:].mean(axis=1), level=level)
    own = paired(used[0], level=level) if used.shape[1] > 1 else None
    half = (found.high - found.low) / 2
    unit, name = problem.learner.measurement.unit, problem.learner.measurement.name
    return Evidence(
        metric="retraining",
        subject=f"plan to {plan.action} {len(plan)} of {len(problem.train)} training examples",
        estimate=found.estimate,
        interval=(found.low, found.high),
        level=level,
        unit=unit,
        better="higher",
        control={
            "estimate": 0.0,
            "low": -half,
            "high": half,
            "plan_against_full": float(used[0].mean()),
            "random_against_full": float(used[1:].mean()),
        },
        p_value=found.p_value,
        verdict=_verdict(found, own, plan, used, level=level),
        power=f"{_power(found, used, level=level)} "
        + against_full(unit, name, float(used[0].mean()), float(used[1:].mean())),
        table=_table(bench, arms, table),
        provenance=finish(
            bench,
            given={"by": "by_retraining", "seeds": seeds, "controls": controls, "level": level},
            resolved={"controls": count, "controls_used": complete, "seeds": used.shape[1]},
            notes=[note],
            predicted=most,
        ),
    )


def _arm_gains(bench: Bench, arms: list[Plan]) -> tuple[np.ndarray, str]:
    """``float64["arm seed"]`` Mean gain over the queries, NaN where the fit failed; and a note."""
    problem = bench.problem
    if arms[0].action != "relabel":
        values, note = gains(bench, np.stack([arm.weights_for(problem.train) for arm in arms]))
        return values.mean(axis=2), note
    rows: list[np.ndarray] = []
    notes: list[str] = []
    for arm in arms:
        changed = Problem(problem.learner, arm.apply(problem.train), problem.query, seed=problem.seed)
        values, note = gains(bench, np.ones((1, len(problem.train))), changed)
        rows.append(values[0].mean(axis=1))
        notes.append(note)
    return np.stack(rows), "; ".join(dict.fromkeys(note for note in notes if note))


def _complete(table: np.ndarray, plan: Plan) -> tuple[np.ndarray, int]:
    """Seeds for which the plan could be fitted, and random plans that could be fitted with all of those."""
    seeds = np.isfinite(table[0])
    controls = np.all(np.isfinite(table[1:][:, seeds]), axis=1)
    if not seeds.any() or controls.sum() < _FEWEST:
        raise FitError(
            f"plan to {plan.action} {len(plan)} examples: {np.count_nonzero(seeds)} of {table.shape[1]} "
            f"fits with the plan and {np.count_nonzero(controls)} of {len(table) - 1} random plans succeeded.",
            fix=f"at least one fit with the plan and {_FEWEST} random plans are needed; drop fewer examples.",
        )
    return np.concatenate([table[:1, seeds], table[1:][controls][:, seeds]]), int(controls.sum())


def _verdict(
    found: Comparison, own: Comparison | None, plan: Plan, used: np.ndarray, *, level: float
) -> Verdict:
    if found.p_value > 1 - level:
        return "inconclusive"
    if found.estimate < 0:
        return "refuted"
    if plan.action != "relabel":
        return "confirmed"
    if own is None or own.standard_error == 0:
        return "confirmed" if used[0].mean() > 0 else "refuted"
    if own.low > 0:
        return "confirmed"
    return "refuted" if own.high < 0 else "inconclusive"


def _power(found: Comparison, used: np.ndarray, *, level: float) -> str:
    controls, seeds = len(used) - 1, used.shape[1]
    design = f"{seeds} seed{'s' if seeds > 1 else ''} and {controls} random plans"
    if found.standard_error == 0:
        return (
            f"The {controls} random plans all came out the same, so that noise cannot be measured; a rank "
            f"alone cannot be surer than p = {2 / (controls + 1):.2g}: use a finer measurement."
        )
    seen = minimum_detectable(found.standard_error, found.freedom, level=level)
    text = f"With {design} this design sees effects above {seen:.4g} at 80 % power"
    if abs(found.estimate) >= seen:
        return f"{text}."
    needed = seeds_needed(found.estimate, components(used[1:]), controls=controls, level=level)
    if seeds == 1:
        return f"{text}; an effect as small as the observed one would need more random plans or queries."
    if needed is None:
        return (
            f"{text}; no number of seeds would settle an effect as small as the observed one, because random "
            f"plans differ by more among themselves: give more controls or a larger plan."
        )
    return f"{text}; to settle an effect as large as the observed one you would need about {needed} seeds."


def _table(bench: Bench, arms: list[Plan], gain: np.ndarray) -> dict[str, list[Any]]:
    names = ["full", "plan", *(f"random {k + 1}" for k in range(len(arms) - 1))]
    sign = -1.0 if bench.problem.learner.measurement.lower_is_better else 1.0
    full = bench.full.mean(axis=1)
    improvement = np.concatenate([np.zeros((1, len(full))), gain])
    measured = full[None, :] + sign * improvement
    count = len(full)
    return {
        "arm": [name for name in names for _ in range(count)],
        "seed": list(bench.seeds) * len(names),
        "measurement": listed(measured.ravel()),
        "improvement": listed(improvement.ravel()),
    }


def _digest(plan: Plan) -> str:
    facts = [plan.action, plan.train_checksum, [str(i) for i in plan.ids]]
    facts += [None if values is None else [str(v) for v in values] for values in (plan.labels, plan.weights)]
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()
