"""Tail patch: does one training step on a query's strongest proponents improve it more than on random examples?"""

from dataclasses import replace

from steelyard.collect.fits import explained
from steelyard.errors import SettingError
from steelyard.maths.power import minimum_detectable, paired
from steelyard.problem import Problem
from steelyard.records import Cost, Evidence, Provenance, Scores
from steelyard.records.provenance import versions
from steelyard.records.top import extremes
from steelyard.run import Run, generator, in_memory
from steelyard.verify.design import LEVEL, aligned, beyond_random, listed


def tail_patch(
    problem: Problem,
    scores: Scores,
    *,
    top: int = 5,
    controls: int = 8,
    step: float = 0.01,
    run: Run | None = None,
) -> Evidence:
    """Improvement of a query after one step on its strongest proponents, beside steps on random examples.

    The explained model takes one gradient step on the ``top`` proponents of a query, and the query is measured
    before and after; likewise for ``controls`` random groups of as many examples, which all queries share. Query by
    query, the difference from the mean of the random groups is taken. All steps have the same length.

    This needs no retraining, so it is cheap enough for large models; but it asks whether examples *would* teach the
    query now, not what they did during training: examples that the model has learned completely give small gradients
    and random directions.

    Cost: (queries + controls) · top gradients, and a forward pass of all queries for each step.

    Args:
        problem: Learner, training examples, queries.
        scores: One column per query, in any unit: only their order counts.
        top: Proponents per query.
        controls: Random groups.
        step: Length of the step, relative to the trained parameters.
        run: Where the outcomes of steps are kept; in memory if None.

    Returns:
        Evidence at 95 %, in the unit of the measurement, positive = the query improved: Student's interval over the
        queries of the difference, shifted by the random groups' mean. Confirmed if it lies above random, refuted
        if it ends at or below it.

    Raises:
        SettingError: If ``top``, ``controls`` or ``step`` has no meaning, or there are fewer than two queries.
        DataError: If the scores are about other examples.
        CapabilityError: If the learner is no network's.

    Source: Chang et al. (2024), "Scalable Influence and Fact Tracing for Large Language Model Pretraining", section
    3.2. Deviations: the step is along the plain gradient and of a stated length, the effect is in the query's own
    measurement, and random groups stand beside.
    """
    from steelyard.collect.steps import step_gains

    if not 1 <= top < len(problem.train) or controls < 2 or not step > 0 or len(problem.query) < 2:
        raise SettingError(
            f"tail_patch: top={top} of {len(problem.train)} training examples, controls={controls}, step={step}, "
            f"{len(problem.query)} queries.",
            fix="give at least one proponent, two random groups, a positive step and two queries.",
        )
    run = run or in_memory()
    scores, before = aligned(problem, scores, asked="tail_patch"), run.cost
    best = extremes(scores.blocks(), top, highest=True).rows.T
    draw = generator(problem.seed, "verification", "tail_patch")
    random = [draw.choice(len(problem.train), top, replace=False) for _ in range(controls)]
    model = explained(problem, run)
    found = step_gains(problem, model, [*best, *random], step, run)
    count = len(problem.query)
    own, others = found[:count].diagonal(), found[count:].mean(axis=0)
    gap = paired(own - others, level=LEVEL)
    base, unit = float(others.mean()), problem.learner.measurement.unit
    seen = minimum_detectable(gap.standard_error, gap.freedom, level=LEVEL)
    spent = run.cost
    return Evidence(
        metric="tail_patch",
        subject=scores.method,
        estimate=base + gap.estimate,
        interval=(base + gap.low, base + gap.high),
        level=LEVEL,
        unit=unit,
        better="higher",
        control={"estimate": base},
        p_value=gap.p_value,
        verdict=beyond_random(gap.low, gap.high),
        power=f"With {count} queries this sees {seen:.2g} {unit} beyond random steps at 80 % power.",
        table={"query_id": listed(problem.query.ids), "proponents": listed(own), "random": listed(others)},
        provenance=Provenance(
            given={"by": "tail_patch", "top": top, "controls": controls, "step": step},
            versions=versions(),
            checksums=problem.checksums(),
            seeds={"problem": problem.seed},
            cost=replace(
                Cost(gradients=spent.gradients - before.gradients, fits=spent.fits - before.fits),
                seconds=spent.seconds - before.seconds,
                peak_bytes=spent.peak_bytes,
            ),
        ),
    )
