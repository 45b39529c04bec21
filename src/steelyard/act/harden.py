"""HINT: noise along influence that hardens a training set against poison (Van, Carey & Wu 2023).

Source: Van, Carey & Wu (2023), "HINT: Healthy Influential-Noise based Training to Defend against Data Poisoning
Attacks", github.com/minhhao97vn/HINT.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from steelyard.errors import SettingError
from steelyard.problem import Problem
from steelyard.records import Examples
from steelyard.run import Run, in_memory

MARK = "hardened"


@dataclass(frozen=True)
class Harden:
    """Move the inputs of the most influential examples so that the trusted queries become better.

    The examples of largest influence in size, helpful or harmful, are chosen once; then in rounds the model is
    trained, and each chosen input takes a step against the sign of how much worse it makes the queries. Inputs
    stay within ``limit`` of what they were, and within the range of the training inputs.

    Cost: per round a fit and a linear system.

    Args:
        fraction: Share of the training examples that are moved.
        step: Of every number of an input, per round, as a share of the range of the training inputs.
        limit: How far in all, likewise.
        rounds: How often.
        damping: Of the curvature, as for ``cg``.

    Deviations: the official code changes inputs at chosen epochs of one training and uses the last layers'
    parameters; here every round is a training of its own, by all parameters. Its noise may also be without the sign.

    Source: Van, Carey & Wu (2023); the official code.
    """

    fraction: float = 0.25
    step: float = 0.05
    limit: float = 0.1
    rounds: int = 2
    damping: float | int | str = "auto"

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1 or not self.step > 0 or self.limit < self.step or self.rounds < 1:
            raise SettingError(
                f"{self!r} is no way to harden anything.",
                fix="give a fraction above 0, at most 1; a step above 0; a limit not below it; at least one round.",
            )

    def __call__(self, problem: Problem, run: Run | None = None) -> Examples:
        """The training examples with moved inputs; the column ``hardened`` marks which.

        Raises:
            CapabilityError: If the learner is no network, or its input is not one column of real numbers.
        """
        # Imported here: plans are made without torch as well.
        from steelyard.collect.input_influence import input_influence

        run, train = run or in_memory(), problem.train
        name = train.inputs[0]
        first = np.asarray(train.column(name)[:])
        low, high = float(first.min()), float(first.max())
        wide = high - low
        chosen: np.ndarray | None = None
        current, values = train, first.copy()
        for number in range(self.rounds):
            asked = (
                problem
                if number == 0
                else Problem(problem.learner, current, problem.query, seed=problem.seed)
            )
            found = input_influence(asked, run, chosen, method="Harden", damping=self.damping)
            pull = found.inputs
            if chosen is None:
                size = max(1, round(self.fraction * len(train)))
                chosen = np.lexsort((train.ids.astype(str), -np.abs(found.examples)))[:size]
                pull = pull[chosen]
            moved = values[chosen] - self.step * wide * np.sign(pull)
            near = np.clip(moved, first[chosen] - self.limit * wide, first[chosen] + self.limit * wide)
            values[chosen] = np.clip(near, low, high).astype(first.dtype)
            current = _with(train, name, values.copy(), chosen)
        return current


def _with(train: Examples, name: str, values: np.ndarray, rows: np.ndarray) -> Examples:
    digest = hashlib.sha256(train.checksum.encode() + np.ascontiguousarray(values).tobytes()).hexdigest()
    marks = np.zeros(len(train), dtype=np.int64)
    marks[rows] = 1
    return replace(train.with_column(name, values, digest), source=f"{train.source}, hardened").with_column(
        MARK, marks, digest
    )
