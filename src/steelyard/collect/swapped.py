"""The mean of the inverses of every example's own curvature, applied to the queries; see ``score/datainf.py``."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from steelyard.collect.curvature import penalty
from steelyard.collect.gradients import Fitted, present_examples
from steelyard.collect.inverses import Inverted
from steelyard.errors import CapabilityError, SettingError
from steelyard.gradients.engine import TorchGradients
from steelyard.gradients.factors import _CHUNK_ELEMENTS, Factors, Rows, flat, full_dot, squared_norms
from steelyard.gradients.queries import QuerySide
from steelyard.problem import Problem
from steelyard.run import Run


def swapped_inverse(problem: Problem, fitted: Fitted, run: Run, *, damping: float | int | str) -> Inverted:
    """The query side of DataInf.

    Cost: two passes over the training examples, the first kept in the run folder; per layer and example two products
    with every query.

    Args:
        problem: Learner, training examples, queries.
        fitted: Where gradients are taken.
        run: Where the damping is kept.
        damping: ``"auto"`` or a positive number.

    Raises:
        CapabilityError: If the learner's gradients have no layers.
        SettingError: If the damping is not positive.
    """
    engine = fitted.gradients
    if not isinstance(engine, TorchGradients):
        raise CapabilityError(
            f"DataInf needs the layers of a network, which {type(problem.learner).__name__} does not have.",
            fix="use gauss_newton (exact for linear models) or leave_one_out.",
        )
    decay = penalty(problem, fitted)
    dampings, reason = _dampings(problem, engine, run, damping)
    run.spend(gradients=len(problem.query))
    queries = {name: flat(factors) for name, factors in engine.prepare(problem.query).blocks.items()}
    train = present_examples(problem)
    weights = torch.from_numpy(train.weights())
    correction = {name: torch.zeros_like(rows) for name, rows in queries.items()}
    start = 0
    with run.progress("swapped inverse", len(train)) as progress:
        for found in engine.capture(train, "loss"):
            count = len(next(iter(found.values())))
            part = weights[start : start + count]
            for name, factors in found.items():
                shift = dampings.get(name, 0.0) + decay
                if name in queries and shift > 0:
                    _add(correction[name], factors, queries[name], part, shift)
            run.spend(gradients=count)
            progress.advance(count)
            start += count
    blocks = {}
    for name, rows in queries.items():
        shift = dampings.get(name, 0.0) + decay
        # A layer that no training gradient reaches has no influence, whatever it is divided by.
        solved = (rows - correction[name] / len(train)) / (shift * len(train)) if shift > 0 else 0 * rows
        blocks[name] = Rows(solved)
    resolved = {"damping": dict(dampings), "damping_reason": reason, "l2": decay}
    return Inverted(fitted, QuerySide(blocks, len(problem.query)), resolved)


def _add(total: Tensor, factors: Factors, queries: Tensor, weights: Tensor, shift: float) -> None:
    """Add ``sum_i c_iq g_i`` with ``c_iq = w_i (g_i . q) / (shift + w_i |g_i|^2)``, a few examples at a time."""
    sizes = squared_norms(factors)
    weight = weights.to(sizes)
    share = weight / (shift + weight * sizes)
    step = max(1, _CHUNK_ELEMENTS // max(1, factors.shape[0] * factors.shape[1]))
    for i in range(0, len(factors), step):
        piece = factors.slice(i, i + step)
        along = full_dot(piece, queries) * share[i : i + step, None]
        total += along.T @ flat(piece)


def _dampings(
    problem: Problem, engine: TorchGradients, run: Run, damping: float | int | str
) -> tuple[Mapping[str, float], str]:
    if damping != "auto" and (isinstance(damping, str) or damping <= 0):
        raise SettingError(f"damping={damping!r}", fix='give "auto" or a positive number.')
    train = present_examples(problem)

    def compute() -> dict[str, np.ndarray]:
        sums: dict[str, float] = {}
        weights, start = torch.from_numpy(train.weights()), 0
        for found in engine.capture(train, "loss"):
            count = len(next(iter(found.values())))
            run.spend(gradients=count)
            for name, factors in found.items():
                squares = squared_norms(factors).double() * weights[start : start + count]
                size = factors.shape[0] * factors.shape[1]
                sums[name] = sums.get(name, 0.0) + float(squares.sum()) / size
            start += count
        return {"names": np.array(list(sums)), "means": np.array(list(sums.values())) / len(train)}

    kept = run.keep(f"curvature/datainf-{problem.mark()}", compute)
    means = dict(zip(kept["names"].tolist(), kept["means"].tolist(), strict=True))
    if damping == "auto":
        return {name: 0.1 * mean for name, mean in means.items()}, "0.1 x mean squared gradient of each layer"
    return {name: float(damping) for name in means}, "as given, the same for every layer"
