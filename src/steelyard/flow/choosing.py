"""Choosing what goes into a prompt: demonstrations by influence on validation examples."""

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from steelyard import act
from steelyard.collect.embeddings import embedder
from steelyard.collect.folds import deal
from steelyard.data import read
from steelyard.errors import DataError
from steelyard.learners import Sklearn
from steelyard.problem import Problem
from steelyard.records import Examples, Plan, Scores
from steelyard.run import Run, in_memory
from steelyard.score import by_name

_BATCH = 64


@dataclass(frozen=True, eq=False)
class Demonstrations:
    """What a prompt shows.

    Attributes:
        plan: The chosen examples, in the order of the prompt.
        scores: Influence of every example of the pool on every validation example.
        prompt: The demonstrations as text, and the question's place left open.
    """

    plan: Plan
    scores: Scores
    prompt: str


def choose(
    problem: Problem, *, per_class: int = 2, template: str = act.TEMPLATE, run: Run | None = None
) -> Demonstrations:
    """Demonstrations for in-context learning: the most helpful examples of every class.

    The learner only reads the examples: a logistic regression on its embeddings stands for the task, and exact
    influence of its training examples, the pool, on the validation examples, the queries, says which help.

    Cost: a forward pass per example; a logistic regression and its Hessian.

    Args:
        problem: A learner with embeddings; its training examples are the pool, its queries the validation examples.
        per_class: Demonstrations of each class.
        template: Text of one demonstration.
        run: Where embeddings are kept; nowhere if None.

    Raises:
        DataError: If a class has fewer examples than asked for, or labels are no classes.
        CapabilityError: If the learner offers no embeddings.

    Source: Vinay, Van & Wu (2024), "In-Context Learning Demonstration Selection via Influence Analysis"; standardised
    embeddings and the penalty (C = 0.1) are ours.
    """
    run = run or in_memory()
    deal(problem, 2)  # class labels, and two of each at least
    sides = [_embedded(problem, examples, run) for examples in (problem.train, problem.query)]
    unknown = np.setdiff1d(sides[1].labels(), sides[0].labels())
    if len(unknown):
        raise DataError(
            f"{problem.query.source}: label {str(unknown[0])!r} is none of the pool's.",
            fix="use the same labels.",
        )
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    inner = Problem(Sklearn(head), sides[0], sides[1], seed=problem.seed)
    scores = by_name("gauss_newton")(inner, run)
    plan = act.demonstrate(scores, sides[0], per_class=per_class)
    chosen = Plan(
        action=plan.action,
        ids=plan.ids,
        reasons=plan.reasons,
        train_checksum=problem.train.checksum,
        provenance=plan.provenance,
    )
    return Demonstrations(chosen, scores, act.prompt_of(chosen, problem.train, template=template))


def _embedded(problem: Problem, examples: Examples, run: Run) -> Examples:
    embed = embedder(problem, run, source="learner", method="choose")

    def compute() -> dict[str, np.ndarray]:
        run.spend(gradients=len(examples) / 3)
        return {"vectors": np.concatenate([embed(part) for part in examples.batches(_BATCH)])}

    key = f"embeddings/{problem.mark()}-{examples.checksum[:16]}"
    vectors = np.asarray(run.keep(key, compute)["vectors"], dtype=np.float64)
    return read({"id": examples.ids, "input": vectors, "label": examples.labels()})
