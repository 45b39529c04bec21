"""Removal of groups: what the members' gradients add up to, and how the curvature changes without them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.linalg
from jaxtyping import Float, Int

from steelyard.collect.exact import factorise
from steelyard.collect.gradients import (
    Fitted,
    Widening,
    dense_gradients,
    exact_curvature,
    present_examples,
)
from steelyard.errors import DataError
from steelyard.problem import HasCurvature, Problem, require
from steelyard.run import Run

Rows = Int[np.ndarray, " row"]
Members = Sequence[np.ndarray]  # rows of each group; axis names would make them all of one length
Vectors = Float[np.ndarray, "vector param"]


@dataclass(frozen=True, eq=False)
class _Curved:
    """What removing a group needs to know about the curvature, in the space of the parameters.

    Attributes:
        solved: ``[query, param]`` Inverse damped curvature of the summed loss, times every signed query gradient.
        solve: The same inverse times other vectors.
        sums: From the rows of a group to the weighted sum of its gradients.
        part: From the rows of a group and a vector to the group's part of the damped curvature times the vector.
        pull: Gradient of one example's share of the penalty; 0 where the penalty does not grow with the examples.
        resolved: What every ``"auto"`` became.
    """

    solved: Float[np.ndarray, "query param"]
    solve: Callable[[Vectors], Vectors]
    sums: Callable[[Members], Vectors]
    part: Callable[[Rows, Vectors], Vectors]
    pull: Float[np.ndarray, "one param"] | float
    resolved: Mapping[str, Any]


def group_influence(  # noqa: PLR0913 - the problem, the groups and three settings
    problem: Problem,
    fitted: Fitted,
    run: Run,
    members: Members,
    *,
    order: Literal[1, 2],
    curvature: Literal["auto", "exact", "ekfac"],
    damping: float | int | str,
) -> tuple[Float[np.ndarray, "group query"], Mapping[str, Any]]:
    """Predicted change of every query's measurement when each group is removed, see ``score/group_influence.py``.

    Args:
        problem: Learner, training examples, queries.
        fitted: The explained model.
        run: Where curvature is kept.
        members: Rows of each group.
        order: First or second.
        curvature: Exact or EK-FAC.
        damping: As for that curvature.

    Raises:
        DataError: If second order is asked about a group that is the whole training set.
        CapabilityError: If the learner has not that curvature.
    """
    network = isinstance(fitted.gradients, Widening)
    kind = curvature if curvature != "auto" else "ekfac" if network else "exact"
    present = problem.train.weights() > 0
    members = [rows[present[rows]] for rows in members]  # an example of weight 0 is absent already
    curved = (_exact if kind == "exact" else _kronecker)(problem, fitted, run, damping)
    sums = curved.sums(members)
    resolved = {**curved.resolved, "curvature": kind}
    first = sums @ curved.solved.T
    if order == 1:
        return first, resolved
    values = np.zeros_like(first)
    with run.progress("second order", len(members)) as progress:
        for group, rows in enumerate(members):
            share = len(rows) / int(present.sum())
            if share == 1.0:
                raise DataError(
                    f"{problem.train.source}: one of the groups is the whole training set, without which there is no "
                    "model.",
                    fix="leave it out, or use order=1.",
                )
            total = sums[group : group + 1] + len(rows) * curved.pull
            moved = curved.solve(total)
            again = curved.part(rows, moved) if len(rows) else 0 * moved
            near, far = (1 - 2 * share) / (1 - share) ** 2, 1 / (1 - share) ** 2
            values[group] = (near * total + far * again) @ curved.solved.T
            progress.advance()
    return values, resolved


def _exact(problem: Problem, fitted: Fitted, run: Run, damping: float | int | str) -> _Curved:
    learner = require(problem.learner, HasCurvature, method="GroupInfluence", instead="curvature='ekfac'")
    train, weights = problem.train, problem.train.weights()
    hessian = exact_curvature(problem, fitted, run, method="GroupInfluence")
    count, network = len(present_examples(problem)), isinstance(fitted.gradients, Widening)
    factor, value, reason = factorise(hessian, damping, count, optimal=not network)
    gradients = dense_gradients(fitted, train, "loss") * weights[:, None]
    sign = 1.0 if problem.learner.measurement.lower_is_better else -1.0
    queries = sign * dense_gradients(fitted, problem.query, "measurement")
    run.spend(gradients=len(train) + len(problem.query))

    def solve(vectors: Vectors) -> Vectors:
        return scipy.linalg.cho_solve(factor, vectors.T, check_finite=False).T

    def part(rows: Rows, vectors: Vectors) -> Vectors:
        rest = weights.copy()
        rest[rows] = 0.0
        # By difference, so that a learner's own way with the penalty is followed: some share it out, some do not.
        without = learner.hessian(fitted.model, train, rest)
        run.spend(gradients=len(train))
        return vectors @ (hessian - without) + len(rows) * value * vectors

    return _Curved(
        solve(queries),
        solve,
        lambda groups: np.stack([gradients[rows].sum(0) for rows in groups]),
        part,
        _pull(problem, fitted, network=network),
        {"damping": value, "damping_reason": reason},
    )


def _pull(problem: Problem, fitted: Fitted, *, network: bool) -> Vectors | float:
    if not network:
        return 0.0
    from steelyard.collect.curvature import penalty

    decay = penalty(problem, fitted)
    if decay == 0.0:
        return 0.0
    parameters = dict(fitted.gradients.model.named_parameters())  # pyright: ignore[reportAttributeAccessIssue]
    names = fitted.gradients.names  # pyright: ignore[reportAttributeAccessIssue]
    flat = [parameters[name].detach().double().flatten().numpy() for name in names]
    return decay * np.concatenate(flat)[None]


def _kronecker(problem: Problem, fitted: Fitted, run: Run, damping: float | int | str) -> _Curved:
    import torch

    from steelyard.collect.curvature import kronecker_metric
    from steelyard.collect.solving import open_system, signed_queries
    from steelyard.gradients.products import with_metric

    system = open_system(problem, run, method="GroupInfluence", curvature="auto", precision="auto")
    found = kronecker_metric(problem, system.fitted, run, kind="ekfac", fisher="auto", damping=damping)
    shift = torch.ones(system.engine.size, dtype=torch.float64)
    for name, place in system.positions.items():
        shift[place.flatten()] = found.metric.damping.get(name, 0.0) + system.decay
    dtype = next(system.engine.model.parameters()).dtype
    # The system has its examples in the order of their ids, without those of weight 0.
    place_of = {str(name): row for row, name in enumerate(system.curvature.examples.ids)}
    weights = system.curvature.weights

    def solve(vectors: Vectors) -> Vectors:
        turned = with_metric(found.metric, torch.from_numpy(vectors).to(dtype), system.positions)
        return (turned / found.metric.total).double().numpy()

    def inside(rows: Rows) -> Rows:
        return np.array([place_of[str(name)] for name in problem.train.ids[rows]], dtype=np.int64)

    def sums(groups: Members) -> Vectors:
        total = np.zeros((len(groups), system.engine.size))
        member = np.zeros((len(groups), len(place_of)))
        for group, rows in enumerate(groups):
            member[group, inside(rows)] = 1.0 if weights is None else weights[inside(rows)]
        start = 0
        for batch in system.engine.capture(system.curvature.examples, "loss"):
            rows = system.engine.rows(batch).double().numpy()
            total += member[:, start : start + len(rows)] @ rows
            start += len(rows)
        run.spend(gradients=start)
        return total

    def part(rows: Rows, vectors: Vectors) -> Vectors:
        run.spend(gradients=len(rows) * (1 + 4 / 3 * len(vectors)))
        asked = torch.from_numpy(vectors).to(dtype)
        found = system.curvature.of(inside(rows))(asked).double() + shift * asked.double()
        return len(rows) * found.numpy()

    solved = solve(signed_queries(system, problem.query).double().numpy())
    resolved = {**found.resolved, "precision": system.resolved["precision"]}
    return _Curved(solved, solve, sums, part, _pull(problem, system.fitted, network=True), resolved)
