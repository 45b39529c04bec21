"""Finding training examples that harm, and saying what to do about them."""

from typing import TYPE_CHECKING, Any

import numpy as np

from steelyard import act, report
from steelyard.collect.folds import held_out_probabilities
from steelyard.errors import CapabilityError, DataError, SettingError
from steelyard.flow.problems import problem_of
from steelyard.flow.scoring import AUTO, first_possible, is_class, scores_by, with_predictions
from steelyard.problem import HasPredictions, Problem
from steelyard.records import Plan, Report, Scores
from steelyard.run import Run, in_memory
from steelyard.score import by_name
from steelyard.score.inffeed import InfFeed

if TYPE_CHECKING:
    import polars as pl

    from steelyard.score.driver import Method


def clean(  # noqa: PLR0913 - data, method and share, all named
    model: Any,
    train: Any = None,
    query: Any = None,
    *,
    method: "str | Method" = AUTO,
    fraction: float = 0.05,
    seed: int = 0,
    run: Run | None = None,
) -> Report:
    """Which training examples are mislabelled or harmful: a drop list, and proposed labels.

    Scores by the method asked for; by default by self-influence where the model has gradients, else by loss; beside
    them by loss, and against the queries by the method that suits the model. For wrong labels ask for
    ``"label_consensus"``. Proposed labels are those of models that did not see the example.

    Cost: one pass over the training examples per score, and five fits for proposed labels.

    Args:
        model: A trained model of any kind, a learner or a ``Problem``.
        train: Training examples with labels.
        query: Trusted examples; the training examples themselves if None.
        method: A name from ``score.METHODS``, or a method with its settings.
        fraction: Share of the training examples to name, above 0 and below 1.
        seed: Seed of the model and of the folds.
        run: Run folder to keep finished work in; nowhere if None.

    Returns:
        A report with a plan to drop and, where classes are predicted and the learner can be trained, one to
        relabel. A plan that could not be made is named in the notes.
    """
    run = run or in_memory()
    if isinstance(model, Problem):
        problem, trusted = model, True
    else:
        trusted = query is not None
        problem = problem_of(model, train, query if trusted else train, seed=seed)
    usual = method == AUTO
    scores = [
        first_possible(("self_influence", "loss"), problem, run) if usual else scores_by(method, problem, run)
    ]
    if scores[0].name != "Loss":
        scores.append(scores_by("loss", problem, run))
    if trusted:
        scores.append(scores_by(AUTO, problem, run))
    plans = [act.drop(scores[0], fraction=fraction)]
    asked = by_name(method) if isinstance(method, str) and not usual else method
    if isinstance(asked, InfFeed):
        plans += adjust_labels(problem, asked, scores, fraction=fraction, trusted=trusted, run=run)
    else:
        relabelling = propose_labels(problem, scores[0], fraction=fraction, run=run)
        plans += [] if relabelling is None else [relabelling]
    return report.build(
        scores,
        *plans,
        train=problem.train,
        query=with_predictions(problem, run),
        title=f"{len(plans[0])} of {len(problem.train):,} training examples are suspect by {scores[0].name}",
    )


def propose_labels(problem: Problem, scores: Scores, *, fraction: float, run: Run) -> Plan | None:
    """A plan to relabel suspect examples by out-of-sample predictions; None, with a note, if impossible.

    Cost: five fits.
    """
    if not isinstance(problem.learner, HasPredictions):
        run.note(f"no labels proposed: {type(problem.learner).__name__} offers no class probabilities")
        return None
    if problem.train.label is None or not is_class(problem.train.labels()):
        run.note("no labels proposed: the training examples have no class labels")
        return None
    try:
        probabilities = held_out_probabilities(problem, run)
    except (CapabilityError, DataError) as error:
        run.note(f"no labels proposed: {error.problem}")
        return None
    return act.relabel(
        scores,
        problem.train,
        probabilities=probabilities,
        predicted_by="models that did not see the example",
        fraction=fraction,
    )


def adjust_labels(  # noqa: PLR0913 - a method's own proposals, all named
    problem: Problem, method: InfFeed, scores: list[Scores], *, fraction: float, trusted: bool, run: Run
) -> list[Plan]:
    """Labels by the votes of influencers, and a review queue where the method names a column of silver labels.

    Args:
        problem: Whose training labels they are.
        method: With its settings.
        scores: Those of the method first; those against trusted queries last.
        fraction: Share of the training examples to look at.
        trusted: Whether the queries are trusted, so that a queue can be made.
        run: Where votes are kept.

    Raises:
        SettingError: If there is a column of silver labels but no trusted queries.
    """
    adjusted = act.relabel(
        scores[0],
        problem.train,
        probabilities=method.votes(problem, run),
        predicted_by="votes of the examples that influence it most",
        fraction=fraction,
    )
    if not method.silver:
        return [adjusted]
    if not trusted:
        raise SettingError(
            "a review queue of silver labels needs trusted queries.",
            fix="give --query FILE with gold labels.",
        )
    return [adjusted, act.review(scores[-1], problem.train, silver=method.silver)]


def issues(report: Report) -> "pl.DataFrame":
    """One row per suspect example of :func:`clean`, most suspect first.

    Returns:
        Columns ``train_id``, ``label`` and ``proposed_label`` (null where there is none), ``reason``, and for
        every score ``<method>_rank``: 1 is the most suspect of all training examples.
    """
    import polars as pl

    drop = next(plan for plan in report.plans if plan.action == "drop")
    relabel = next((plan for plan in report.plans if plan.action == "relabel"), None)
    rows = report.train.positions(drop.ids)
    labels = None if report.train.label is None else report.train.labels()
    proposed = (
        {}
        if relabel is None or relabel.labels is None
        else dict(zip(relabel.ids, relabel.labels, strict=True))
    )
    columns: dict[str, Any] = {
        "train_id": drop.ids,
        "label": [None if labels is None else str(labels[row]) for row in rows],
        "proposed_label": [str(proposed[i]) if i in proposed else None for i in drop.ids],
        "reason": drop.reasons,
    }
    for scores in report.scores:
        ranks = np.empty(len(scores.train_ids), dtype=np.int64)
        ranks[np.argsort(-scores.harm(), kind="stable")] = np.arange(1, len(ranks) + 1)
        columns[f"{scores.name}_rank"] = ranks[rows]
    return pl.DataFrame(columns, schema_overrides={"label": pl.String, "proposed_label": pl.String})
