"""Attribution in one call, and beside it the baselines that it should beat."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard import report
from steelyard.collect.fits import explained
from steelyard.flow.problems import problem_of
from steelyard.problem import HasEmbeddings, HasPredictions, Problem
from steelyard.records import Examples, Report, Scores
from steelyard.run import Run, in_memory
from steelyard.score import by_name

if TYPE_CHECKING:
    from steelyard.score.driver import Method


def attribute(
    model: Any,
    train: Any = None,
    query: Any = None,
    *,
    method: "str | Method" = "ekfac",
    seed: int = 0,
    run: Run | None = None,
) -> Scores:
    """Which training examples made the model do this: one score per training example and query.

    Cost: that of the method; ``steelyard methods`` lists it.

    Args:
        model: A trained model of any kind, a learner or a ``Problem``.
        train: Training examples: arrays, tensors, a Dataset, a table or a path.
        query: What to explain, likewise.
        method: A name from ``score.METHODS``, or a method with its settings: ``sy.score.EKFAC(damping=0.1)``.
        seed: Seed of the model that is explained, where the learner trains it.
        run: Run folder to keep finished work in; nowhere if None.

    Returns:
        Scores whose ``values[train, query]`` are positive where training on the example helps the query.

    Raises:
        CapabilityError: If the method needs what this model does not offer; the error names alternatives.

    Example:
        >>> import numpy as np
        >>> from sklearn.linear_model import Ridge
        >>> x, y = np.eye(3), np.array([1.0, 2.0, 3.0])
        >>> attribute(Ridge().fit(x, y), (x, y), (x[:1], y[:1]), method="leave_one_out").values.shape
        (3, 1)
    """
    return method_of(method)(problem_of(model, train, query, seed=seed), run)


def explain(
    problem: Problem,
    method: "str | Method",
    run: Run | None = None,
    *,
    baselines: bool = True,
    truth: Mapping[str, Collection[str]] | None = None,
) -> Report:
    """Scores beside those of the cheap baselines, as a report with the coded checks.

    Cost: that of the method, one fit or none for the model, one pass over the data per baseline.

    Args:
        problem: Learner, training examples, queries.
        method: The method asked for.
        run: Run folder to keep finished work in; nowhere if None.
        baselines: Whether the baselines that fit this problem are scored too.
        truth: Known facts about training examples, for the report.
    """
    run = run or in_memory()
    asked = method_of(method)(problem, run)
    beside = [method_of(name)(problem, run) for name in baseline_names(problem) if baselines]
    beside = [scores for scores in beside if scores.name != asked.name]
    return report.build(
        asked, *beside, train=problem.train, query=with_predictions(problem, run), truth=truth
    )


def baseline_names(problem: Problem) -> tuple[str, ...]:
    """The baselines that this problem admits, cheapest first: what any method should beat."""
    names = ["random", "loss"]
    label = problem.train.label
    if (
        label is not None
        and label == problem.query.label
        and is_class(np.asarray(problem.train.column(label)[:1]))
    ):
        names.append("class_similarity")
    if any(np.asarray(problem.train.column(name)[:1]).dtype.kind in "UOT" for name in problem.train.inputs):
        names.append("bm25")
    if isinstance(problem.learner, HasEmbeddings):
        names.append("embedding_cosine")
    return tuple(names)


def with_predictions(problem: Problem, run: Run) -> Examples:
    """The queries with the model's measurement of each, and its predicted class where there are classes."""
    fitted = explained(problem, run)
    measured = np.asarray(problem.learner.measure(fitted, problem.query))
    predicted: np.ndarray | None = None
    label = problem.train.label
    if isinstance(problem.learner, HasPredictions) and label is not None:
        labels = problem.train.labels()
        if is_class(labels):
            probabilities = problem.learner.probabilities(fitted, problem.query)
            classes = np.unique(labels)
            best = np.argmax(probabilities, axis=1)
            predicted = classes[best] if probabilities.shape[1] == len(classes) else best
    return report.annotate(problem.query, measured=measured, predicted=predicted)


def is_class(labels: np.ndarray) -> bool:
    """Whether labels name classes: whole numbers or text, rather than measured numbers."""
    return labels.dtype.kind in "iubUSOT"


def method_of(method: "str | Method") -> "Method":
    """A method, by its name where it is one, with the defaults of all settings."""
    return by_name(method) if isinstance(method, str) else method
