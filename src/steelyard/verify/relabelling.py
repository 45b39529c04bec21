"""What changed labels do: wrong ones for the most helpful examples, right ones for the most suspect."""

import numpy as np
from jaxtyping import Float, Int, Shaped

from steelyard.collect import pace
from steelyard.errors import DataError, FitError, SettingError
from steelyard.maths.power import minimum_detectable, one_against_many
from steelyard.problem import Problem
from steelyard.records import Cost, Evidence, Plan, Scores
from steelyard.run import Run, generator, in_memory
from steelyard.verify.design import LEVEL, Bench, finish, gains, listed, start

_FEWEST = 3


def poison(  # noqa: PLR0913 - one about what is changed, two about noise; all named
    problem: Problem,
    scores: Scores,
    *,
    share: float = 0.1,
    seeds: int = 1,
    controls: int = 8,
    run: Run | None = None,
) -> Evidence:
    """How much worse the queries get by wrong labels for the most helpful examples, beyond random examples.

    Every training example has one wrong label, drawn once for all sets: the label of a random example that has
    another. The most helpful share gets these, and so do random sets of equal size.

    Cost: seeds · (2 + controls) fits.

    Args:
        problem: Learner, training examples, queries.
        scores: Per query or per example, in any unit: only their order counts.
        share: Of the training examples, above 0 and at most .5.
        seeds: Training seeds per set, paired.
        controls: Random sets.
        run: Where fits are kept; in memory if None.

    Returns:
        Evidence at 95 % in the unit of the measurement, positive = worse than by random sets; the test is that of
        ``by_retraining``.

    Raises:
        SettingError: If ``share`` or ``controls`` has no meaning.
        DataError: If all labels are alike.
        FitError: If too few fits succeeded.

    Source: Brophy, Hammoudeh & Lowd (2023), poisoning. Deviations: one share instead of a curve; random sets of equal
    size, the interval and the test are ours.
    """
    labels = problem.train.labels()
    draw = generator(problem.seed, "verification", "poison", "labels")
    if len(np.unique(labels)) < 2:
        raise DataError(
            f"poison: all labels of {problem.train.source} are alike.", fix="give examples with labels."
        )
    other = draw.integers(len(labels), size=len(labels))
    while bool((same := labels[other] == labels).any()):
        other[same] = draw.integers(len(labels), size=int(same.sum()))
    wrong = labels[other]
    design = ("poison", share, seeds, controls)
    return _compare(problem, scores, wrong, design, run or in_memory())


def fix_labels(  # noqa: PLR0913 - two about what is changed, two about noise; all named
    problem: Problem,
    scores: Scores,
    column: str,
    *,
    share: float = 0.1,
    seeds: int = 1,
    controls: int = 8,
    run: Run | None = None,
) -> Evidence:
    """How much better the queries get when the most suspect labels are checked, beyond checking random ones.

    The most suspect share of the training examples gets the labels of the column, wherever they differ; so do random
    sets of equal size.

    Cost: seeds · (2 + controls) fits.

    Args:
        problem: Learner, training examples, queries.
        scores: Per query or per example, in any unit: only their order counts.
        column: Of the training examples: the right labels.
        share: Of the training examples, above 0 and at most .5.
        seeds: Training seeds per set, paired.
        controls: Random sets.
        run: Where fits are kept; in memory if None.

    Returns:
        Evidence at 95 % in the unit of the measurement, positive = better than by random sets; the test is that of
        ``by_retraining``.

    Raises:
        SettingError: If ``share`` or ``controls`` has no meaning.
        DataError: If no label is wrong, or the column holds labels that the examples do not have.
        FitError: If too few fits succeeded.

    Source: Brophy, Hammoudeh & Lowd (2023), fixing mislabelled examples. Deviations as for ``poison``.
    """
    labels = problem.train.labels()
    right = np.asarray(problem.train.column(column)[:])
    if right.dtype.kind != labels.dtype.kind and "U" in (right.dtype.kind, labels.dtype.kind):
        raise DataError(
            f"fix_labels: column {column!r} is of another kind than the labels of {problem.train.source}.",
            fix="give right labels, written as the labels are.",
        )
    if bool((right == labels).all()):
        raise DataError(
            f"fix_labels: no label of {problem.train.source} differs from column {column!r}.",
            fix="give the column of right labels, and examples some of whose labels are wrong.",
        )
    return _compare(
        problem,
        scores,
        right.astype(labels.dtype),
        ("fix_labels", share, seeds, controls),
        run or in_memory(),
    )


def _check(metric: str, share: float, controls: int) -> None:
    if not 0 < share <= 0.5 or controls < _FEWEST:
        raise SettingError(
            f"{metric}: share={share}, controls={controls}.",
            fix=f"give a share above 0 and at most .5, and at least {_FEWEST} random sets.",
        )


def _compare(
    problem: Problem,
    scores: Scores,
    labels: Shaped[np.ndarray, " train"],
    design: tuple[str, float, int, int],
    run: Run,
) -> Evidence:
    """The set that the scores name beside random ones, each with these labels."""
    metric, share, seeds, controls = design
    _check(metric, share, controls)
    scores.check_finite()
    sign = 1.0 if metric == "fix_labels" else -1.0
    count, total = max(1, round(share * len(problem.train))), len(problem.train)
    predicted = seeds * (2 + controls)
    pace.predict(problem, run, Cost(fits=predicted))
    bench = start(problem, seeds, run)
    order = np.argsort(-sign * scores.harm(), kind="stable")[:count]
    draw = generator(problem.seed, "verification", metric)
    sets = [problem.train.positions(scores.train_ids[order])]
    sets += [draw.permutation(total)[:count] for _ in range(controls)]
    changes, note = _changes(bench, sets, labels)
    changes = sign * changes
    random = changes[1:][np.isfinite(changes[1:])]
    if not np.isfinite(changes[0]) or len(random) < _FEWEST:
        raise FitError(
            f"{metric}: {int(np.isfinite(changes).sum())} of {len(changes)} fits with changed labels succeeded.",
            fix="change fewer labels, or repair the recipe.",
        )
    found = one_against_many(float(changes[0]), random, level=LEVEL)
    half, unit = (found.high - found.low) / 2, problem.learner.measurement.unit
    sure = found.p_value <= 1 - LEVEL
    seen = minimum_detectable(found.standard_error, found.freedom, level=LEVEL)
    return Evidence(
        metric=metric,
        subject=scores.method,
        estimate=found.estimate,
        interval=(found.low, found.high),
        level=LEVEL,
        unit=unit,
        better="higher",
        control={"estimate": 0.0, "low": -half, "high": half},
        p_value=found.p_value,
        verdict="inconclusive" if not sure else "confirmed" if found.estimate > 0 else "refuted",
        power=f"With {len(random)} random sets of {count} examples this sees effects above {seen:.3g} {unit} at 80 % "
        "power.",
        table={
            "set": ["scores", *(f"random {k + 1}" for k in range(controls))],
            "changed": [int((labels[rows] != problem.train.labels()[rows]).sum()) for rows in sets],
            "effect": listed(changes),
        },
        provenance=finish(
            bench,
            given={"by": metric, "share": share, "seeds": seeds, "controls": controls},
            resolved={"count": count, "controls_used": len(random)},
            notes=[note],
            predicted=predicted,
        ),
    )


def _changes(
    bench: Bench, sets: list[Int[np.ndarray, " changed"]], labels: Shaped[np.ndarray, " train"]
) -> tuple[Float[np.ndarray, " set"], str]:
    """Mean gain of the queries with each set's labels, NaN where a fit failed; and a note."""
    problem, found, notes = bench.problem, [], []
    train = problem.train
    for rows in sets:
        ids = train.ids[rows]
        plan = Plan(
            "relabel",
            ids,
            ("label changed to verify",) * len(ids),
            train.checksum,
            labels[rows],
            train.labels()[rows],
        )
        changed = Problem(problem.learner, plan.apply(train), problem.query, seed=problem.seed)
        values, note = gains(bench, np.ones((1, len(train))), changed)
        found.append(float(values.mean()))
        notes.append(note)
    return np.array(found), "; ".join(dict.fromkeys(note for note in notes if note))
