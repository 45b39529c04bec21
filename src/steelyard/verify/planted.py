"""Are planted examples found: facts, shortcuts, and examples of another data set mixed into the training set?"""

import numpy as np

from steelyard.errors import DataError
from steelyard.problem import Problem
from steelyard.records import Evidence, Examples, Scores
from steelyard.verify.design import aligned
from steelyard.verify.retrieval import known, linked, retrieval, same_value

_TRUE = {"1", "1.0", "true", "yes"}
_FALSE = {"0", "0.0", "false", "no", "", "none", "nan"}


def mrr(problem: Problem, scores: Scores, *, column: str) -> Evidence:
    """Mean reciprocal rank of the first training example that states the fact which a query asks for.

    Cost: no fit; one sort per query.

    Args:
        problem: Queries with a column that points at training examples.
        scores: One column per query.
        column: Links queries to training examples: ids, or groups that both sides name; see
            :func:`steelyard.verify.retrieval.linked`.

    Returns:
        Evidence between 0 and 1: see :func:`steelyard.verify.retrieval.retrieval`.

    Raises:
        DataError: If the column links nothing, or the scores are about other examples.

    Source: the fact tracing of Akyürek et al. (2022), "Towards Tracing Factual Knowledge in Language Models Back to
    the Training Data"; interval and exact random control are ours.
    """
    scores = aligned(problem, scores, asked="mrr")
    behind = known(problem, linked(problem, column), what=column)
    given = {"column": column}
    return retrieval(problem, scores, behind, metric="mrr", measure="reciprocal_rank", given=given)


def recall(problem: Problem, scores: Scores, *, column: str, top: int = 10) -> Evidence:
    """Share of the training examples that state a query's fact among its ``top`` proponents.

    Cost: no fit; one sort per query.

    Args:
        problem: Queries with a column that points at training examples.
        scores: One column per query.
        column: As for :func:`mrr`.
        top: Proponents per query.

    Returns:
        Evidence between 0 and 1: see :func:`steelyard.verify.retrieval.retrieval`.

    Raises:
        DataError: If the column links nothing, or the scores are about other examples.
        SettingError: If ``top`` is out of range.

    Source: as for :func:`mrr`.
    """
    scores = aligned(problem, scores, asked="recall")
    behind = known(problem, linked(problem, column), what=column)
    given = {"column": column}
    return retrieval(problem, scores, behind, metric="recall", measure="recall", top=top, given=given)


def shortcut(problem: Problem, scores: Scores, *, column: str) -> Evidence:
    """Do queries with a shortcut point at the training examples that taught it? Average precision.

    Only queries that carry the shortcut are asked about. The training examples that carry it are what should be
    found; all others stand against them.

    Cost: no fit; one sort per query.

    Args:
        problem: Both sides with a column that says who carries the shortcut.
        scores: One column per query.
        column: True or 1 where the shortcut is.

    Returns:
        Evidence between 0 and 1; chance is the share of training examples with the shortcut, or a little more. See
        :func:`steelyard.verify.retrieval.retrieval`.

    Raises:
        DataError: If a side lacks the column, its values say neither yes nor no, or the scores are about others.
        SettingError: If fewer than two queries carry the shortcut.

    Source: Bareeva et al. (2024), "Quanda", shortcut detection, area under the precision-recall curve per query.
    Deviation: whether the model follows the shortcut on a query is not asked.
    """
    scores = aligned(problem, scores, asked="shortcut")
    rows, asked = np.flatnonzero(flags(problem.train, column)), flags(problem.query, column)
    nothing = np.zeros(0, dtype=np.int64)
    behind = known(problem, [rows if carries else nothing for carries in asked], what=column)
    given = {"column": column}
    return retrieval(problem, scores, behind, metric="shortcut", measure="average_precision", given=given)


def mixed_data(problem: Problem, scores: Scores, *, column: str) -> Evidence:
    """Do queries from one of several mixed data sets point at training examples of the same one? Average precision.

    Cost: no fit; one sort per query.

    Args:
        problem: Both sides with a column that names the data set of every example.
        scores: One column per query.
        column: The data set.

    Returns:
        Evidence between 0 and 1; chance is each data set's share. See
        :func:`steelyard.verify.retrieval.retrieval`.

    Raises:
        DataError: If a side lacks the column, or the scores are about other examples.
        SettingError: If fewer than two queries are of a data set that some, and not all, training examples are of.

    Source: Bareeva et al. (2024), "Quanda", mixed datasets, after Hammoudeh & Lowd (2022). Deviation: queries of every
    data set are asked about, not those of the smaller one alone.
    """
    scores = aligned(problem, scores, asked="mixed_data")
    behind = known(problem, same_value(problem, column), what=column)
    given = {"column": column}
    return retrieval(problem, scores, behind, metric="mixed_data", measure="average_precision", given=given)


def flags(examples: Examples, column: str) -> np.ndarray:
    """``bool[" example"]`` A column of yes and no, however it is written.

    Raises:
        DataError: If there is no such column, or a value says neither; names the example.
    """
    values = [str(value).strip().lower() for value in np.asarray(examples.column(column)[:]).tolist()]
    odd = next((i for i, value in enumerate(values) if value not in _TRUE | _FALSE), None)
    if odd is not None:
        raise DataError(
            f"{examples.source}: example {str(examples.ids[odd])!r} has {values[odd]!r} in column {column!r}, which "
            "says neither yes nor no.",
            fix="write true or false (1 or 0) for every example.",
        )
    return np.array([value in _TRUE for value in values], dtype=bool)
