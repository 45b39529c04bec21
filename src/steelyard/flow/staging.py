"""Training in stages, each on examples that are chosen by what the model knows so far: the loop around MATES.

The one hook is :data:`Choose`: it is called between stages with the problem as it stands, and gives the plan that the
next stage trains by. Any method, or code of one's own, can be behind it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64

from steelyard import act
from steelyard.errors import SettingError
from steelyard.flow.scoring import chosen_by
from steelyard.problem import HasContinuation, HasVariants, Learner, Problem, require
from steelyard.records import Cost, Examples, Plan
from steelyard.run import Run, in_memory
from steelyard.run.seeds import stream
from steelyard.score import by_name

if TYPE_CHECKING:
    from steelyard.score.driver import Method

Choose = Callable[[Problem, int, Run], Plan]
"""What the next stage trains on.

Called with the problem, whose learner explains the model as trained so far; the number of the stage to come, from 1;
and the run, whose meter counts what choosing costs. Gives a plan for the problem's training examples: those it keeps,
with its weights, make up the stage.
"""


@dataclass(frozen=True, eq=False)
class Staged:
    """A training in stages.

    Attributes:
        fitted: The model at the end.
        measured: Measurement of every held-out example after every stage.
        plans: What every stage trained on.
        choosing: What choosing cost, all stages together; ``seconds`` is its wall time.
        facts: What the methods said about themselves, stage by stage; empty for the first.
    """

    fitted: Any
    measured: Float64[np.ndarray, "stage example"]
    plans: tuple[Plan, ...]
    choosing: Cost
    facts: tuple[dict[str, Any], ...]


def train_in_stages(  # noqa: PLR0913 - what to train on, how it is chosen, how often, how measured
    problem: Problem,
    choose: Choose,
    *,
    stages: int,
    count: int,
    held_out: Examples | None = None,
    run: Run | None = None,
) -> Staged:
    """Train a model stage by stage, each on examples of the pool chosen by the model of the stage before.

    The learner's recipe is that of one stage; parameters go on from stage to stage, the optimiser begins anew. The
    first stage trains on examples drawn at random, because an untrained model knows nothing to choose by; it is the
    same for all that share the problem's seed, so that ways of choosing can be compared pair by pair.

    Cost: a fit per stage, and what choosing takes.

    Args:
        problem: The pool of training examples; the queries are the reference that choosing looks at.
        choose: What the stages after the first train on; :func:`choose_by` makes one from a method.
        stages: How many, the first included.
        count: Examples of the first stage.
        held_out: Measured after every stage; the queries if None. What choosing has looked at says too much good of it.
        run: Counts the cost.

    Raises:
        SettingError: If there are fewer than two stages.
        CapabilityError: If the learner cannot train on from a model.
    """
    if stages < 2:
        raise SettingError(f"train_in_stages: stages={stages}.", fix="give at least 2: the first is random.")
    run, learner = run or in_memory(), problem.learner
    going = require(learner, HasContinuation, method="train_in_stages", instead="act.draw for one training")
    telling = require(learner, HasVariants, method="train_in_stages", instead="act.draw for one training")
    asked = problem.query if held_out is None else held_out
    plans = [act.keep(by_name("random", {"seed": str(problem.seed)})(problem), count=count)]
    fitted = _trained(learner, problem, plans[0], 0)
    measured, facts = [learner.measure(fitted, asked)], [{}]
    before, seconds = run.cost, 0.0
    for stage in range(1, stages):
        began = time.monotonic()
        now = Problem(telling.explaining(fitted), problem.train, problem.query, seed=problem.seed)
        plans.append(choose(now, stage, run))
        seconds += time.monotonic() - began
        facts.append(dict(plans[-1].provenance.resolved))
        fitted = _trained(going.continuing(fitted), problem, plans[-1], stage)
        measured.append(learner.measure(fitted, asked))
    spent = run.cost
    choosing = Cost(
        fits=spent.fits - before.fits, gradients=spent.gradients - before.gradients, seconds=seconds
    )
    return Staged(fitted, np.stack(measured), tuple(plans), choosing, tuple(facts))


def choose_by(method: "str | Method", *, count: int, temperature: float | int = 0.5) -> Choose:
    """Choosing by a method's scores at the model so far.

    Args:
        method: A name from ``score.METHODS``, or a method with its settings.
        count: Examples of a stage.
        temperature: Of the Gumbel top-k draw (:func:`steelyard.act.draw`); 0 takes the best.
    """

    def choose(problem: Problem, stage: int, run: Run) -> Plan:
        seed = stream(problem.seed, "stage", stage) % 2**31
        scores, plan = chosen_by(method, problem, run, count=count, temperature=temperature, seed=seed)
        told = {**plan.provenance.resolved, "held_out": scores.provenance.resolved.get("held_out")}
        return replace(plan, provenance=replace(plan.provenance, resolved=told))

    return choose


def _trained(learner: Learner, problem: Problem, plan: Plan, stage: int) -> Any:
    chosen = plan.apply(problem.train)
    return learner.fit(
        chosen, seed=problem.seed if stage == 0 else stream(problem.seed, "stage", stage) % 2**31
    )
