"""Scores of the pairs that are shown, taken apart by token, module, layer or attention head."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from steelyard.errors import CapabilityError, ShapeError
from steelyard.gradients.parts import By, Split
from steelyard.problem import HasTokens, Problem, require
from steelyard.records import Scores
from steelyard.records.token_scores import PartScores, TokenScores
from steelyard.run import Run, in_memory
from steelyard.score.method import HoldsQueries, Method, PairMethod, Splits

Pairs = Sequence[tuple[str, str]]
"""Ids of training example and query."""


def split_scores(
    problem: Problem, method: Method, scores: Scores, *, by: By, pairs: Pairs, run: Run | None = None
) -> TokenScores | PartScores:
    """The scores of some pairs, part by part; the parts and the rest of a pair sum to its score.

    Cost: what the method prepares, once per block of queries that its state holds (read from the run folder where
    it is kept there), and one gradient per pair or training example, whichever is fewer.

    Args:
        problem: Learner, training examples, queries.
        method: What made the scores.
        scores: The scores of all pairs, for their unit and provenance.
        by: The kind of parts.
        pairs: Which pairs.
        run: Where the parts are kept.

    Raises:
        CapabilityError: If the scores are no sums over tokens or layers, or the learner knows no tokens.
    """
    run = run or in_memory()
    if not (isinstance(method, Splits) and isinstance(method, PairMethod)):
        raise CapabilityError(
            f"scores by {method!r} are no sums over {by}s.",
            fix="split those of grad_dot, grad_cos, kfac or ekfac.",
        )
    if by == "token":
        require(problem.learner, HasTokens, method="a split by token", instead="a split by module or layer")
    facts = repr((method, problem.checksums(), problem.seed, by, list(pairs)))
    key = f"split/{by}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"
    before = run.cost
    arrays = run.keep(key, lambda: _arrays(problem, method, pairs, by, run))
    cost = replace(run.cost, gradients=run.cost.gradients - before.gradients)
    cost = replace(cost, seconds=cost.seconds - before.seconds, fits=cost.fits - before.fits)
    about = {
        "train_ids": np.array([train for train, _ in pairs], dtype=str),
        "query_ids": np.array([query for _, query in pairs], dtype=str),
        "method": scores.method,
        "unit": scores.unit,
        "measurement": scores.measurement,
        "provenance": replace(scores.provenance, notes=(), cost=cost, predicted=None),
    }
    if by != "token":
        names = tuple(str(name) for name in arrays["names"])
        values = arrays["values"].reshape(len(pairs), len(names))
        return PartScores(by=by, parts=names, values=values, rest=arrays["rest"], **about)
    return _with_text(problem, arrays, about)


def _arrays(problem: Problem, method: Splits, pairs: Pairs, by: By, run: Run) -> dict[str, np.ndarray]:
    """Offsets, values and rest of all pairs, in their order; names of the parts."""
    row_of = {str(name): i for i, name in enumerate(problem.train.ids)}
    column_of = {str(name): j for j, name in enumerate(problem.query.ids)}
    columns = sorted({column_of[query] for _, query in pairs})
    size = method.queries_at_once(problem) if isinstance(method, HoldsQueries) else len(columns)
    values: dict[int, np.ndarray] = {}
    rest = np.zeros(len(pairs))
    names: tuple[str, ...] = ()
    with run.progress(f"by {by}", len(pairs), unit="pairs") as progress:
        for start in range(0, len(columns), max(1, size)):
            block = columns[start : start + max(1, size)]
            chosen = [p for p, (_, query) in enumerate(pairs) if column_of[query] in block]
            rows = np.unique([row_of[pairs[p][0]] for p in chosen])
            split = _split(problem, method, rows, np.array(block), by, run)
            # The order of parts is that in which a pass meets them, the same for every block.
            names = split.names
            for p in chosen:
                i = int(np.searchsorted(rows, row_of[pairs[p][0]]))
                j = block.index(column_of[pairs[p][1]])
                values[p], rest[p] = split.of(i)[:, j], split.rest[i, j]
            progress.advance(len(chosen))
    parts = [values[p] for p in range(len(pairs))]
    return {
        "offsets": np.cumsum([0, *map(len, parts)]).astype(np.int64),
        "values": np.concatenate(parts) if parts else np.zeros(0),
        "rest": rest,
        "names": np.array(names, dtype=str),
    }


def _split(
    problem: Problem, method: Splits, rows: np.ndarray, columns: np.ndarray, by: By, run: Run
) -> Split:
    asked = Problem(problem.learner, problem.train, problem.query.take(columns), seed=problem.seed)
    if not isinstance(method, PairMethod):
        raise CapabilityError(f"{method!r} does not score pairs.", fix="use grad_dot or ekfac.")
    return method.split(asked, method.prepare(asked, run), rows, by)


def _with_text(problem: Problem, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> TokenScores:
    learner = require(problem.learner, HasTokens, method="a split by token", instead="a split by module")
    ids = list(dict.fromkeys(about["train_ids"].tolist()))
    part = problem.train.take(problem.train.positions(np.array(ids, dtype=str)))
    spans = dict(zip(ids, learner.token_spans(part), strict=True))
    texts = dict(zip(ids, learner.texts(part), strict=True))
    found = [np.array(spans[name], dtype=np.int64).reshape(-1, 2) for name in about["train_ids"].tolist()]
    counts = np.diff(arrays["offsets"]).tolist()
    for name, span, count in zip(about["train_ids"].tolist(), found, counts, strict=True):
        if len(span) != count:
            raise ShapeError(
                f"training example {name!r} has {len(span)} tokens, but its gradients {count} positions.",
                fix="give a model that reads every token at its own position.",
            )
    return TokenScores(
        offsets=np.asarray(arrays["offsets"]),
        values=np.asarray(arrays["values"]),
        rest=np.asarray(arrays["rest"]),
        spans=np.concatenate(found) if found else np.zeros((0, 2), dtype=np.int64),
        texts=texts,
        **about,
    )
