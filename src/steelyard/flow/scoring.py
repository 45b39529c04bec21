"""Attribution in one call, and beside it the baselines that it should beat."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard import act, report
from steelyard.act.ranking import size_of
from steelyard.collect.fits import explained
from steelyard.errors import CapabilityError
from steelyard.flow.problems import problem_of
from steelyard.flow.splitting import split_scores
from steelyard.gradients.parts import By
from steelyard.problem import HasEmbeddings, HasPredictions, Problem
from steelyard.records import Examples, Plan, Report, Scores
from steelyard.run import Run, in_memory
from steelyard.score import by_name
from steelyard.score.candidates import Candidates, score_candidates
from steelyard.score.mates import GroupMATES

if TYPE_CHECKING:
    from steelyard.score.driver import Method

AUTO = "auto"
_SUITED = ("ekfac", "gauss_newton", "boostin", "knn_shapley")


def attribute(
    model: Any,
    train: Any = None,
    query: Any = None,
    *,
    method: "str | Method" = AUTO,
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
            ``"auto"``: the first of EK-FAC (networks), exact influence (linear models), BoostIn (boosted trees) and
            k-NN Shapley (any other) that the model admits.
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
    problem = problem_of(model, train, query, seed=seed)
    return scores_by(method, problem, run or in_memory())


def explain(  # noqa: PLR0913 - problem and method, and what may stand beside the scores, all named
    problem: Problem,
    method: "str | Method",
    run: Run | None = None,
    *,
    baselines: bool = True,
    split: By | None = None,
    candidates: Candidates | None = None,
    truth: Mapping[str, Collection[str]] | None = None,
) -> Report:
    """Scores beside those of the cheap baselines, as a report with the coded checks.

    Cost: that of the method, one fit or none for the model, one pass over the data per baseline. A split takes one
    gradient per pair that the page shows.

    Args:
        problem: Learner, training examples, queries.
        method: The method asked for; a name, or ``"auto"`` as in :func:`attribute`.
        run: Run folder to keep finished work in; nowhere if None.
        baselines: Whether the baselines that fit this problem are scored too.
        split: Take the scores that the page shows apart by these parts.
        candidates: Score only what is proposed; the report is then about the examples that were scored.
        truth: Known facts about training examples, for the report.
    """
    run = run or in_memory()
    used, asked = _scored(method, problem, run, candidates)
    query = with_predictions(problem, run)
    if candidates is None and not np.array_equal(asked.train_ids, problem.train.ids):
        # Rows are groups of examples, beside which nothing about single examples can stand.
        return report.build(asked, query=query)
    beside = [by_name(name)(problem, run) for name in baseline_names(problem) if baselines]
    beside = [scores for scores in beside if scores.name != asked.name]
    train = problem.train
    if candidates is not None:
        rows = problem.train.positions(asked.train_ids)
        train, beside = problem.train.take(rows), [_only(scores, rows, asked) for scores in beside]
        known = set(asked.train_ids.tolist())
        truth = {name: [i for i in ids if str(i) in known] for name, ids in (truth or {}).items()}
    pairs = report.shown_pairs(asked, query)
    parts = [] if split is None else [split_scores(problem, used, asked, by=split, pairs=pairs, run=run)]
    return report.build(asked, *beside, *parts, train=train, query=query, truth=truth)


def _scored(
    method: "str | Method", problem: Problem, run: Run, candidates: Candidates | None
) -> "tuple[Method, Scores]":
    """The method that was asked for, or that suits, with its scores."""
    for name in _SUITED if method == AUTO else (method,):
        used = by_name(name) if isinstance(name, str) else name
        try:
            if candidates is None:
                return used, used(problem, run)
            return used, score_candidates(used, problem, candidates, run)
        except CapabilityError:
            if method != AUTO or name == _SUITED[-1]:
                raise
    raise AssertionError("there is always a last method")


def _only(scores: Scores, rows: np.ndarray, asked: Scores) -> Scores:
    """The scores of those training examples that were asked for, the same as in ``asked``."""
    values = np.asarray(scores.values)[rows]
    return replace(scores, values=values, train_ids=asked.train_ids, train_checksum=asked.train_checksum)


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
    if all(np.asarray(problem.train.column(name)[:1]).dtype.kind in "UOT" for name in problem.train.inputs):
        names.append("bm25")
    if isinstance(problem.learner, HasEmbeddings):
        names.append("embedding_cosine")
    return tuple(names)


def with_predictions(problem: Problem, run: Run) -> Examples:
    """The queries with the model's measurement of each, and its predicted class where there are classes."""
    fitted = explained(problem, run)
    measured = np.asarray(problem.learner.measure(fitted, problem.query))
    return report.annotate(problem.query, measured=measured, predicted=_predicted(problem, fitted))


def _predicted(problem: Problem, fitted: Any) -> np.ndarray | None:
    """``[" query"]`` The most probable label of every query; None where there are no classes."""
    if not isinstance(problem.learner, HasPredictions) or problem.train.label is None:
        return None
    labels = problem.train.labels()
    if not is_class(labels):
        return None
    try:
        probabilities = problem.learner.probabilities(fitted, problem.query)
    except CapabilityError:
        # Whether a learner can tell depends on its loss or estimator; predictions are only shown, never scored.
        return None
    classes = np.unique(labels)
    best = np.argmax(probabilities, axis=1)
    return classes[best] if probabilities.shape[1] == len(classes) else best


def is_class(labels: np.ndarray) -> bool:
    """Whether labels name classes: whole numbers or text, rather than measured numbers."""
    return labels.dtype.kind in "iubUSOT"


def scores_by(method: "str | Method", problem: Problem, run: Run) -> Scores:
    """Scores by a method, by a method of that name with the defaults of all settings, or by ``"auto"``."""
    if method == AUTO:
        return first_possible(_SUITED, problem, run)
    return (by_name(method) if isinstance(method, str) else method)(problem, run)


def chosen_by(  # noqa: PLR0913 - by what, of what, how many and how, all named
    method: "str | Method",
    problem: Problem,
    run: Run,
    *,
    fraction: float | None = None,
    count: int | None = None,
    temperature: float | int = 0.0,
    seed: int = 0,
) -> tuple[Scores, Plan]:
    """Scores by a method, and a plan to keep examples by them.

    Args:
        method: A name, or a method with its settings. ``group_mates`` chooses a set, each example for what it adds to
            those before it; all others take the best by themselves.
        problem: What to choose from, and for which queries.
        run: Where finished work is kept.
        fraction: Share of the training examples to keep.
        count: Or how many.
        temperature: 0 keeps the best; above, examples are drawn by Gumbel top-k, see :func:`steelyard.act.draw`.
        seed: Of the draw.
    """
    asked = by_name(method) if isinstance(method, str) and method != AUTO else method
    if temperature:
        scores = scores_by(asked, problem, run)
        return scores, act.draw(scores, fraction=fraction, count=count, temperature=temperature, seed=seed)
    if isinstance(asked, GroupMATES):
        size = size_of(len(problem.train), fraction=fraction, count=count, action="keep")
        scores, order = asked.choose(problem, size, run)
        return scores, act.keep(scores, fraction=fraction, count=count, order=order)
    scores = scores_by(asked, problem, run)
    return scores, act.keep(scores, fraction=fraction, count=count)


def first_possible(names: Sequence[str], problem: Problem, run: Run) -> Scores:
    """Scores by the first of these methods that the model admits.

    Raises:
        CapabilityError: That of the last method, if the model admits none.
    """
    for name in names[:-1]:
        try:
            return by_name(name)(problem, run)
        except CapabilityError:
            # Which method it became is in the scores' own provenance.
            continue
    return by_name(names[-1])(problem, run)
