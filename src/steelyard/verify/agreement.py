"""Do the strongest proponents share what is known about the query: its topic, its class, its subclass?"""

import numpy as np

from steelyard.problem import Problem
from steelyard.records import Evidence, Scores
from steelyard.verify.design import aligned
from steelyard.verify.retrieval import known, retrieval, same_value


def agreement(problem: Problem, scores: Scores, *, column: str, top: int = 5) -> Evidence:
    """How often a query's strongest proponents agree with it in a column that the model never read.

    The estimate is the share of a query's ``top`` proponents whose ``column`` equals the query's, averaged
    over the queries (precision at ``top``). Random scores reach the share of all training examples for which
    it does; query by query the difference from this chance is taken.

    This tells whether scores point at related examples, not whether removing these would matter: that is what
    refits are for. A method that only looks for similar words can score high here.

    Cost: no fit; one sort per query.

    Args:
        problem: Training examples and queries with the column.
        scores: One column per query.
        column: A column of both sides, such as ``"topic"``.
        top: Proponents per query.

    Returns:
        Evidence in precision: see :func:`steelyard.verify.retrieval.retrieval` for interval, p-value and verdict.

    Raises:
        SettingError: If ``top`` is out of range, there are fewer than two queries, or scores are per example.
        DataError: If a side lacks the column, or the scores are about other examples.
    """
    scores = aligned(problem, scores, asked="agreement")
    behind = known(problem, same_value(problem, column), what=column)
    given = {"column": column}
    return retrieval(problem, scores, behind, metric="agreement", measure="precision", top=top, given=given)


def class_detection(problem: Problem, scores: Scores, *, top: int = 1) -> Evidence:
    """How often the strongest proponents have the query's class (the identical class test).

    Cost: no fit; one sort per query.

    Args:
        problem: Training examples and queries with class labels.
        scores: One column per query.
        top: Proponents per query; the source looks at one.

    Returns:
        Evidence in precision: see :func:`steelyard.verify.retrieval.retrieval`.

    Raises:
        DataError: If a side has no labels, or the scores are about other examples.
        SettingError: If ``top`` is out of range or labels name no classes.

    Source: Bareeva et al. (2024), "Quanda", class detection, after Hanawa et al. (2021). Deviations: the query's own
    class instead of the predicted one; interval and exact random control are ours.
    """
    scores = aligned(problem, scores, asked="class_detection")
    theirs, wanted = problem.train.labels(), problem.query.labels()
    relevant = [np.flatnonzero(theirs == label) for label in wanted]
    behind = known(problem, relevant, what="class")
    return retrieval(problem, scores, behind, metric="class_detection", measure="precision", top=top)


def subclass_detection(problem: Problem, scores: Scores, *, column: str, top: int = 1) -> Evidence:
    """How often the strongest proponents within a query's class have its subclass, which the model never saw.

    For a model that was trained on coarse labels. Only training examples of the query's own label are ranked: scores
    that know the class and nothing finer are at chance here, as they should be.

    Cost: no fit; one sort per query.

    Args:
        problem: Training examples and queries with coarse labels and a column of fine ones.
        scores: One column per query.
        column: The fine labels.
        top: Proponents per query; the source looks at one.

    Returns:
        Evidence in precision: see :func:`steelyard.verify.retrieval.retrieval`.

    Raises:
        DataError: If a side lacks the column or the labels, or the scores are about other examples.
        SettingError: If ``top`` is out of range, or no class has several subclasses.

    Source: Bareeva et al. (2024), "Quanda", subclass detection, after Hanawa et al. (2021). Deviation: the source
    ranks all training examples, so that knowing the class alone already helps; here it does not.
    """
    scores = aligned(problem, scores, asked="subclass_detection")
    theirs, wanted = problem.train.labels(), problem.query.labels()
    pool = [np.flatnonzero(theirs == label) for label in wanted]
    fine = same_value(problem, column)
    relevant = [np.intersect1d(rows, among) for rows, among in zip(fine, pool, strict=True)]
    behind = known(problem, relevant, what=f"{column} within the class", pool=pool)
    given = {"column": column}
    return retrieval(
        problem, scores, behind, metric="subclass_detection", measure="precision", top=top, given=given
    )
