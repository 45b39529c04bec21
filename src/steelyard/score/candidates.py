"""Exact scores for candidates alone: a cheap method proposes, the method asked for scores what was proposed.

The model, its curvature and everything else that is fitted still sees all training examples. What is not proposed is
not scored, and is not in the record: it has no score, rather than a score of zero. So that nobody has to believe
that nothing was missed, a random sample of the others is scored too, which gives an estimate of the recall.

Source: Grosse et al. (2023), "Studying Large Language Model Generalization with Influence Functions", section 3.2.2
(TF-IDF filtering). Deviations: every candidate is scored for every query, which costs nothing more; the sample of
the others and the recall estimated from it are ours.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from steelyard.errors import CapabilityError, SettingError
from steelyard.problem import Problem
from steelyard.records import Scores
from steelyard.records.top import extremes
from steelyard.run import Run, generator, in_memory
from steelyard.score import by_name
from steelyard.score.driver import score_pairs, settings_of
from steelyard.score.method import HoldsQueries, Method, PairMethod, Resolves, Splits

Proposer = Literal["bm25", "tfidf", "embedding_cosine"]
_SAMPLE = 64
_STRONGEST = 10


@dataclass(frozen=True)
class Candidates:
    """How candidates are proposed.

    Attributes:
        count: Candidates per query.
        by: What proposes them.
        sample: Training examples besides the candidates that are scored to see what was missed.
    """

    count: int
    by: Proposer = "bm25"
    sample: int = _SAMPLE


def score_candidates(
    method: Method, problem: Problem, candidates: Candidates, run: Run | None = None
) -> Scores:
    """Scores of the training examples that are a candidate of any query, and of a random sample of the others.

    Cost: that of the proposer on all examples; of the method, what it prepares, and the gradients of the candidates
    and the sample in place of those of all examples.

    Args:
        method: A method whose scores are products of gradients, such as ``EKFAC``.
        problem: Learner, training examples, queries.
        candidates: How many, and who proposes them.
        run: Where finished work is kept.

    Returns:
        Scores of the examples scored, in the order of the training examples. Provenance says how many were not
        scored, and ``recall_at_10``: the estimated share of every query's ten strongest proponents that the
        candidates hold, averaged over the queries.

    Raises:
        CapabilityError: If a score of the method depends on more than the example's content.
        SettingError: If there is not at least one candidate per query.
    """
    run = run or in_memory()
    if candidates.count < 1 or candidates.sample < 0:
        raise SettingError(
            f"candidates: count={candidates.count}, sample={candidates.sample}.",
            fix="give at least one candidate per query and a sample of 0 or more.",
        )
    if not (isinstance(method, Splits) and isinstance(method, PairMethod)):
        raise CapabilityError(
            f"{method!r} cannot score some training examples by themselves.",
            fix="use grad_dot, grad_cos, kfac or ekfac with candidates, or score all examples.",
        )
    proposed = proposed_rows(problem, candidates, run)
    others = np.setdiff1d(np.arange(len(problem.train)), proposed)
    draw = generator(problem.seed, "candidates", "sample")
    sample = np.sort(draw.choice(others, min(candidates.sample, len(others)), replace=False))
    rows = np.sort(np.concatenate([proposed, sample]))
    part = Problem(problem.learner, problem.train.take(rows), problem.query, seed=problem.seed)
    scores = score_pairs(_AtWhole(method, problem), part, run)
    weight = len(others) / len(sample) if len(sample) else 0.0
    weights = np.where(np.isin(rows, sample), weight, 1.0)
    recall = estimated_recall(np.asarray(scores.values), weights, np.isin(rows, proposed))
    return _told(scores, method, problem, candidates, (len(proposed), len(sample), recall))


def proposed_rows(problem: Problem, candidates: Candidates, run: Run) -> Int[np.ndarray, " row"]:
    """Rows of the training examples that are a candidate of any query, in order."""
    scores = by_name(candidates.by)(problem, run)
    found = extremes(scores.blocks(), min(candidates.count, len(problem.train)), highest=True)
    return np.unique(found.rows)


def estimated_recall(
    values: Float[np.ndarray, "row query"],
    weights: Float[np.ndarray, " row"],
    candidate: np.ndarray,
    strongest: int = _STRONGEST,
) -> float:
    """Share of every query's strongest rows that are candidates, where each other row stands for several.

    Args:
        values: Exact scores of candidates and sample.
        weights: How many training examples each row stands for; 1 for candidates.
        candidate: Whether a row is one.
        strongest: How many of the highest scores are looked at.
    """
    shares: list[float] = []
    for column in values.T:
        order = np.argsort(-column, kind="stable")
        ends = np.cumsum(weights[order])
        counted = np.clip(strongest - (ends - weights[order]), 0.0, weights[order])
        total = float(counted.sum())
        shares.append(float(counted[candidate[order]].sum()) / total if total else 1.0)
    return float(np.mean(shares))


@dataclass(frozen=True)
class _AtWhole:
    """A method prepared on all training examples, and asked for some."""

    method: Any
    whole: Problem

    def __repr__(self) -> str:
        return f"AtWhole({self.method!r}, {self.whole.train.checksum}, {self.whole.seed})"

    def unit(self, problem: Problem) -> str:
        return self.method.unit(problem)

    def queries_at_once(self, problem: Problem) -> int:
        method = self.method
        return method.queries_at_once(problem) if isinstance(method, HoldsQueries) else len(problem.query)

    def prepare(self, problem: Problem, run: Run) -> Any:
        whole = Problem(self.whole.learner, self.whole.train, problem.query, seed=self.whole.seed)
        return self.method.prepare(whole, run)

    def resolved(self, state: Any) -> Any:
        return self.method.resolved(state) if isinstance(self.method, Resolves) else {}

    def score(self, problem: Problem, state: Any, rows: slice) -> np.ndarray:
        return self.method.score(problem, state, rows)


def _told(
    scores: Scores, method: Method, problem: Problem, candidates: Candidates, found: tuple[int, int, float]
) -> Scores:
    proposed, sampled, recall = found
    left = len(problem.train) - proposed - sampled
    others = len(problem.train) - proposed
    resolved = {
        "candidates_by": candidates.by,
        "candidates_per_query": candidates.count,
        "candidates": proposed,
        "sampled": sampled,
        "not_scored": left,
        "of": len(problem.train),
        **({"recall_at_10": recall} if sampled or not others else {}),
    }
    said = (
        f"{left:,} of {len(problem.train):,} training examples were not scored: they are not among the "
        f"{candidates.count:,} candidates that {candidates.by} proposes for any query"
    )
    if sampled:
        said += (
            f"; judged by {sampled:,} of the {others:,} others, scored at random, the candidates hold {recall:.0%} "
            f"of the {_STRONGEST} strongest proponents"
        )
    record = scores.provenance
    record = replace(
        record,
        given={**settings_of(method), "candidates": candidates.count, "candidates_by": candidates.by},
        resolved={**record.resolved, **resolved},
        checksums={**record.checksums, "train": problem.train.checksum, "scored": scores.train_checksum},
    )
    return replace(scores, method=repr(method), provenance=record.with_notes(*([said] if left else [])))
