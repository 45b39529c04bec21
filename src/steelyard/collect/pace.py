"""How long work will take: a short probe of the learner turns counts of fits and gradients into seconds."""

import functools
import time
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from steelyard.collect.gradients import gradients_at
from steelyard.errors import CapabilityError, DataError, FitError, SettingError
from steelyard.problem import HasFitsTogether, HasGradients, Problem
from steelyard.records import Cost, Examples, Products
from steelyard.run import Run, in_memory

_LEAST_ROWS = 32
_TOGETHER = 16
_PRODUCT_ROWS = 64
_PRODUCT_VECTORS = 32  # from so many on, the examples of a batch hardly share any cost
_PRODUCT_SHARE = 40  # a probed product, made twice, is at most a twentieth of all
_LARGEST_PROBE = 2**26  # numbers in the vectors of a probed product
_MANY_MULTIPLICATIONS = 1e9
_PROBED_SIDE = 512
_SHARE = 20  # the probe trains on every 20th example


def predict(problem: Problem, run: Run, cost: Cost, *, products: Products | None = None) -> Cost:
    """Tell what work is expected to take, with seconds where there is a run folder to show them for.

    What is predicted is taken off the time budget of the run, if it has one: several predictions share it.

    Cost: in a run folder, once per problem, a twentieth of a fit and 64 gradients, and for products a further
    twentieth of a fit and two products over 64 examples, or over more where there are few vectors; nothing in memory.

    Args:
        problem: What will be fitted or differentiated.
        run: Tells the prediction and keeps the probe.
        cost: Counts of fits and gradients.
        products: Those among the gradients that are products with the curvature: they are timed as what they are.

    Returns:
        The same cost, with seconds if they could be found out.

    Raises:
        SettingError: If the work would take longer than what is left of the run's time budget; it says what can be had.
    """
    if (run.folder is not None or run.allowed is not None) and (cost.fits or cost.gradients):
        pace = run.keep(f"pace/{problem.mark()}", lambda: _probe(problem))
        single, batched = float(cost.gradients), 0.0
        each, traced = (np.nan, np.nan) if products is None else _product_pace(problem, run, products)
        if products is not None and np.isfinite(each):
            single, batched = single - products.gradients, products.times * products.examples * each
            batched += len(problem.train) * traced
        seconds = cost.fits * float(pace["fit"]) + single * float(pace["gradient"]) + batched
        cost = replace(cost, seconds=cost.seconds + (seconds if np.isfinite(seconds) else 0.0))
        if run.allowed is not None:
            _check_budget(run.allowed, cost, float(pace["fit"]))
            run.allowed -= cost.seconds
    run.predict(cost)
    return cost


def multiplied(count: float) -> float:
    """Seconds that so many multiplications of dense matrices in float64 take, by a product timed once per process.

    Fewer than a thousand million are not worth the probe: 0.
    """
    return count * _multiplication() if count >= _MANY_MULTIPLICATIONS else 0.0


@functools.cache
def _multiplication() -> float:
    matrix = np.random.default_rng(0).random((_PROBED_SIDE, _PROBED_SIDE))
    took = float("inf")
    for _ in range(3):  # the least: the first starts threads
        started = time.perf_counter()
        np.dot(matrix, matrix)
        took = min(took, time.perf_counter() - started)
    return took / _PROBED_SIDE**3


def _check_budget(allowed: float | int, cost: Cost, fit: float) -> None:
    if cost.seconds <= allowed:
        return
    said = (
        f"this takes about {cost.seconds:,.0f} s ({cost}), more than what is left of the time budget, "
        f"{allowed:,.0f} s"
    )
    rest = cost.seconds - cost.fits * fit
    can = int((allowed - rest) // fit) if cost.fits and fit > 0 else 0
    if can > 0:
        raise SettingError(
            f"{said}.",
            fix=f"ask for {can:,} fits or fewer ({1e3 * fit:,.3g} ms each), or raise --time-budget.",
        )
    raise SettingError(f"{said}.", fix="raise --time-budget, or choose a method that takes less.")


def _probe(problem: Problem) -> dict[str, np.ndarray]:
    """Seconds per fit of the whole training set and per gradient; NaN where the learner does not offer it."""
    learner, train = problem.learner, problem.train
    step = max(1, min(_SHARE, len(train) // _LEAST_ROWS))
    part = train.take(slice(0, None, step))
    started = time.perf_counter()
    try:
        with warnings.catch_warnings():
            # What a twentieth of the examples is warned about says nothing of all.
            warnings.simplefilter("ignore")
            model = learner.fit(part, seed=problem.seed)
            alone = time.perf_counter() - started
            fit = (_seconds_together(problem, part) or alone) * len(train) / len(part)
    except (FitError, CapabilityError, DataError):
        model, fit = None, np.nan
    if learner.settings().get("trained"):
        model = learner.explained(train, seed=problem.seed)
    return {"fit": np.array(fit), "gradient": np.array(_gradient_seconds(problem, model))}


def _product_pace(problem: Problem, run: Run, products: Products) -> tuple[float, float]:
    """Seconds per example of a product with so many vectors, and of the trace; NaN where they cannot be found out."""
    parameters = problem.learner.settings().get("parameters")
    if parameters and int(parameters) * products.vectors > _LARGEST_PROBE:
        return np.nan, np.nan
    name = f"{products.curvature}-{products.precision}-{products.vectors}-{_product_rows(products)}"
    key = f"pace/{problem.mark()}-products-{name}{'-traced' if products.traced else ''}"
    found = run.keep(key, lambda: {"product": np.array(_product_seconds(problem, products))})["product"]
    return float(found[0]), float(found[1])


def _product_rows(products: Products) -> int:
    """How many examples a probed product is over.

    What a product costs whatever its examples is most of it where one vector meets 64 of them: the time per example
    would be several times of that over all.
    """
    wanted = _PRODUCT_ROWS * max(1, _PRODUCT_VECTORS // products.vectors)
    affordable = int(products.times * products.examples) // _PRODUCT_SHARE
    return min(products.examples, max(_PRODUCT_ROWS, min(wanted, affordable)))


def _product_seconds(problem: Problem, products: Products) -> tuple[float, float]:
    # Imported here: linear models are fitted and differentiated without torch.
    from steelyard.collect.solving import probe_product

    rows = min(_product_rows(products), len(problem.train))
    few = Problem(
        problem.learner,
        problem.train.take(slice(0, rows)),
        problem.query.take(slice(0, 1)),
        seed=problem.seed,
    )
    try:
        product, trace = probe_product(few, products, min(rows, _PRODUCT_ROWS))
        seconds = _second_time(product) / rows
        traced = _second_time(trace) / min(rows, _PRODUCT_ROWS) if products.traced else 0.0
    except (FitError, CapabilityError, DataError, SettingError):
        return np.nan, np.nan
    return seconds, traced


def _second_time(work: Callable[[], object]) -> float:
    work()  # what is decided once
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _seconds_together(problem: Problem, part: Examples) -> float:
    """Seconds per fit where many are made at once; 0 where they are not."""
    learner = problem.learner
    if (
        not isinstance(learner, HasFitsTogether)
        or min(learner.together(problem.train), learner.together(part)) < 2
    ):
        return 0.0
    count = min(_TOGETHER, learner.together(part))
    few = problem.query.take(slice(0, _LEAST_ROWS))
    started = time.perf_counter()
    learner.measure_together(part, np.ones((count, len(part))), range(count), few)
    return (time.perf_counter() - started) / count


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
