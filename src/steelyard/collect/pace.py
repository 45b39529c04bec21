"""How long work will take: a short probe of the learner turns counts of fits and gradients into seconds."""

import time
from dataclasses import replace

import numpy as np

from steelyard.collect.gradients import gradients_at
from steelyard.errors import CapabilityError, DataError, FitError
from steelyard.problem import HasGradients, Problem
from steelyard.records import Cost
from steelyard.run import Run, in_memory

_LEAST_ROWS = 32
_SHARE = 20  # the probe trains on every 20th example


def predict(problem: Problem, run: Run, cost: Cost) -> Cost:
    """Tell what work is expected to take, with seconds where there is a run folder to show them for.

    Cost: in a run folder, once per problem, a twentieth of a fit and 64 gradients; nothing in memory.

    Args:
        problem: What will be fitted or differentiated.
        run: Tells the prediction and keeps the probe.
        cost: Counts of fits and gradients.

    Returns:
        The same cost, with seconds if they could be found out.
    """
    if run.folder is not None and (cost.fits or cost.gradients):
        pace = run.keep(f"pace/{problem.train.checksum[:16]}", lambda: _probe(problem))
        seconds = cost.fits * float(pace["fit"]) + float(cost.gradients) * float(pace["gradient"])
        cost = replace(cost, seconds=cost.seconds + (seconds if np.isfinite(seconds) else 0.0))
    run.predict(cost)
    return cost


def _probe(problem: Problem) -> dict[str, np.ndarray]:
    """Seconds per fit of the whole training set and per gradient; NaN where the learner does not offer it."""
    learner, train = problem.learner, problem.train
    step = max(1, min(_SHARE, len(train) // _LEAST_ROWS))
    part = train.take(slice(0, None, step))
    started = time.perf_counter()
    try:
        model = learner.fit(part, seed=problem.seed)
        fit = (time.perf_counter() - started) * len(train) / len(part)
    except (FitError, CapabilityError, DataError):
        model, fit = None, np.nan
    if learner.settings().get("trained"):
        model = learner.explained(train, seed=problem.seed)
    return {"fit": np.array(fit), "gradient": np.array(_gradient_seconds(problem, model))}


def _gradient_seconds(problem: Problem, model: object) -> float:
    if model is None or not isinstance(problem.learner, HasGradients):
        return np.nan
    few = problem.train.take(slice(0, _LEAST_ROWS))
    try:
        gradients = gradients_at(problem, model, in_memory()).gradients
        gradients.self_products(few)  # decides what is tapped
        started = time.perf_counter()
        gradients.self_products(few)
    except (CapabilityError, DataError):
        # The probe's part of the training set may lack a class that these examples have.
        return np.nan
    return (time.perf_counter() - started) / len(few)
