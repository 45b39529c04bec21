"""Choosing what to train on, for a target and a budget."""

from typing import TYPE_CHECKING, Any

from steelyard import report
from steelyard.errors import SettingError
from steelyard.flow.problems import problem_of
from steelyard.flow.scoring import AUTO, chosen_by, with_predictions
from steelyard.records import Report
from steelyard.run import Run, in_memory

if TYPE_CHECKING:
    import polars as pl

    from steelyard.score.driver import Method


def select(  # noqa: PLR0913 - data, method and size, all named
    model: Any,
    train: Any = None,
    query: Any = None,
    *,
    method: "str | Method" = AUTO,
    fraction: float | None = None,
    count: int | None = None,
    temperature: float | int = 0.0,
    seed: int = 0,
    run: Run | None = None,
) -> Report:
    """Which training examples to train on for a target: a plan that keeps them, beside a random one to compare with.

    Cost: that of the method.

    Args:
        model: A trained model of any kind, a learner or a ``Problem``.
        train: The pool to choose from.
        query: The target: examples of what the model should become good at.
        method: A name from ``score.METHODS``, or a method with its settings; ``"auto"``: one that suits.
        fraction: Share of the pool to keep.
        count: Or how many examples.
        temperature: 0 keeps the best, which ``group_mates`` chooses as a set; above, examples are drawn by Gumbel
            top-k, see :func:`steelyard.act.draw`.
        seed: Of the model and of the draw.
        run: Run folder to keep finished work in; nowhere if None.

    Raises:
        SettingError: If the temperature is negative, or not exactly one of fraction and count is given.
    """
    if temperature < 0:
        raise SettingError(f"select: temperature={temperature}.", fix="give 0 (the best) or more.")
    run = run or in_memory()
    problem = problem_of(model, train, query, seed=seed)
    scores, plan = chosen_by(
        method, problem, run, fraction=fraction, count=count, temperature=temperature, seed=problem.seed
    )
    title = f"{len(plan)} of {len(problem.train)} examples to train on, by {scores.name}"
    return report.build(scores, plan, train=problem.train, query=with_predictions(problem, run), title=title)


def selected(found: Report) -> "pl.DataFrame":
    """The chosen examples, best first or in the order of the draw.

    Returns:
        Columns ``train_id``, ``weight`` (1 where the plan gives none), ``score`` (mean over the target), ``reason``.
    """
    import numpy as np
    import polars as pl

    plan, scores = found.plans[0], found.scores[0]
    place = {str(name): row for row, name in enumerate(scores.train_ids)}
    values = scores.per_example()
    weights = np.ones(len(plan)) if plan.weights is None else np.asarray(plan.weights, dtype=np.float64)
    return pl.DataFrame(
        {
            "train_id": [str(name) for name in plan.ids],
            "weight": weights,
            "score": [float(values[place[str(name)]]) for name in plan.ids],
            "reason": list(plan.reasons),
        }
    )
