"""A training run as a recurrence in the queries' losses, driven by the features of what each batch holds.

Source: Chai et al. (2024), "On Training Data Influence of GPT Models" (GPTfluence): a featurised simulator with
multiplicative and additive factors; Guu et al. (2023), "Simfluence: Modeling the Influence of Individual Training
Examples by Simulating Training Runs", for the linear recurrence.

Deviations: first order (a loss follows from the one before); factors are bilinear in given features and fitted in
closed form by ridge regression on one-step changes, the penalty chosen by whole simulated runs; the learning rate
multiplies both factors; every query's factors then depart from the shared ones as far as its own record asks for, so
that what is simulated are the recorded queries under other orders; simulated values stay within the range of the
recorded runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from steelyard.errors import SettingError
from steelyard.maths.ranks import spearman

_PENALTIES = 10.0 ** np.arange(-6, 3)


@dataclass(frozen=True, eq=False)
class Course:
    """One recorded run.

    Attributes:
        batches: ``int64[" row"]`` Training examples of every step.
        rates: Learning rate of every step.
        measured: ``float64["state query"]`` What was measured before the first step and after each.
    """

    batches: tuple[np.ndarray, ...]
    rates: Float[np.ndarray, " step"]
    measured: Float[np.ndarray, "state query"]


@dataclass(frozen=True, eq=False)
class Simulator:
    r"""The recurrence :math:`y_t = y_{t-1} + \eta_t (\bar x_t^\top U z_q \, y_{t-1} + \bar x_t^\top V z_q)`.

    Attributes:
        train: Features x of the training examples; of a batch, their mean.
        times: :math:`U z`, the multiplicative factor of every feature on every query.
        plus: :math:`V z`, the additive factor.
        low: Least value that a recorded run had.
        high: Largest.
        penalty: Of the regression that all queries share, relative to the mean squared feature.
        own_penalty: Of each query's departure from it; infinite where departures do not help.
    """

    train: Float[np.ndarray, "train feature"]
    times: Float[np.ndarray, "feature query"]
    plus: Float[np.ndarray, "feature query"]
    low: float
    high: float
    penalty: float
    own_penalty: float

    def run(self, course: Course) -> Float[np.ndarray, "state query"]:
        """The simulated course from the true values before its first step."""
        found = [course.measured[0]]
        for rows, rate in zip(course.batches, course.rates, strict=True):
            mean = self.train[rows].mean(axis=0)
            found.append(self._step(found[-1], mean @ self.times, mean @ self.plus, rate))
        return np.stack(found)

    def without(self, course: Course) -> Float[np.ndarray, "train query"]:
        """Values after the run for every training example left out of it; batches of one are then skipped.

        Cost: steps x train x query operations.
        """
        values = np.repeat(course.measured[:1], len(self.train), axis=0)
        for rows, rate in zip(course.batches, course.rates, strict=True):
            mean = self.train[rows].mean(axis=0)
            after = self._step(values, mean @ self.times, mean @ self.plus, rate)
            after[rows] = values[rows]
            if len(rows) > 1:
                others = (mean * len(rows) - self.train[rows]) / (len(rows) - 1)
                after[rows] = self._step(values[rows], others @ self.times, others @ self.plus, rate)
            values = after
        return values

    def _step(self, values: np.ndarray, times: np.ndarray, plus: np.ndarray, rate: float) -> np.ndarray:
        return np.clip(values + rate * (times * values + plus), self.low, self.high)


def fit_simulator(
    courses: Sequence[Course],
    train: Float[np.ndarray, "train feature"],
    query: Float[np.ndarray, "query factor"],
) -> Simulator:
    """The simulator of some recorded runs; the last of them chooses the penalty and is then learned from as well.

    Cost: one product of ``2 features x factors`` squared with steps x queries, and per penalty one solve of that size
    and one of ``2 features`` per query.

    Args:
        courses: At least two.
        train: Features of the training examples, with a constant among them.
        query: Features of the queries, likewise.

    Raises:
        SettingError: If there are fewer than two runs.
    """
    if len(courses) < 2:
        raise SettingError(
            f"{len(courses)} recorded runs.", fix="record at least 2: one chooses the penalty."
        )
    low = min(float(course.measured.min()) for course in courses)
    high = max(float(course.measured.max()) for course in courses)
    shared = [_normal(course, train, query) for course in courses]
    own = [_own_normal(course, train) for course in courses]

    def tried(penalty: float, own_penalty: float, count: int) -> Simulator:
        times, plus = _solve(shared[:count], train, query, penalty)
        if np.isfinite(own_penalty):
            times, plus = _depart(own[:count], times, plus, own_penalty)
        return Simulator(train, times, plus, low, high, penalty, own_penalty)

    def error(penalty: float, own_penalty: float) -> float:
        found = tried(penalty, own_penalty, len(courses) - 1)
        return float(np.square(found.run(courses[-1]) - courses[-1].measured).mean())

    best = min((float(p) for p in _PENALTIES), key=lambda p: error(p, np.inf))
    own_best = min((*(float(p) for p in _PENALTIES), np.inf), key=lambda p: error(best, p))
    return tried(best, own_best, len(courses))


def additive_run(
    course: Course, gains: Float[np.ndarray, "train query"], factor: float
) -> Float[np.ndarray, "state query"]:
    """A run in which every example takes its gain off the loss whenever its batch comes: TracIn-CP as a simulator."""
    steps = [
        -factor * rate * gains[rows].mean(axis=0)
        for rows, rate in zip(course.batches, course.rates, strict=True)
    ]
    return course.measured[0] + np.concatenate([np.zeros((1, gains.shape[1])), np.cumsum(steps, axis=0)])


def best_factor(courses: Sequence[Course], gains: Float[np.ndarray, "train query"]) -> float:
    """The one factor with which :func:`additive_run` comes closest to recorded runs."""
    top = bottom = 0.0
    for course in courses:
        moved = additive_run(course, gains, 1.0) - course.measured[0]
        top += float((moved * (course.measured - course.measured[0])).sum())
        bottom += float((moved**2).sum())
    return top / bottom if bottom > 0 else 0.0


def errors_of(simulated: Sequence[np.ndarray], courses: Sequence[Course]) -> dict[str, float]:
    """How far simulated runs are from recorded ones.

    Returns:
        ``all_steps_mse``: mean squared error over all steps, queries and runs. ``final_spearman``: rank correlation
        over the queries of the last values, mean over the runs.
    """
    pairs = list(zip(simulated, courses, strict=True))
    mse = np.mean([np.square(run[1:] - course.measured[1:]).mean() for run, course in pairs])
    ranks = [spearman(run[-1][:, None], course.measured[-1][:, None])[0] for run, course in pairs]
    return {"all_steps_mse": float(mse), "final_spearman": float(np.mean(ranks))}


def _normal(course: Course, train: np.ndarray, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gram matrix and right-hand side of the one-step changes of a run."""
    width = train.shape[1] * query.shape[1]
    gram, right = np.zeros((2 * width, 2 * width)), np.zeros(2 * width)
    for step, (rows, rate) in enumerate(zip(course.batches, course.rates, strict=True)):
        mean = train[rows].mean(axis=0)
        plus = (mean[None, :, None] * query[:, None, :]).reshape(len(query), width)
        design = rate * np.concatenate([plus * course.measured[step][:, None], plus], axis=1)
        gram += design.T @ design
        right += design.T @ (course.measured[step + 1] - course.measured[step])
    return gram, right


def _own_normal(course: Course, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gram matrix and right-hand side of every query by itself."""
    means = np.stack([train[rows].mean(axis=0) for rows in course.batches])
    plus = np.repeat((course.rates[:, None] * means)[None], course.measured.shape[1], axis=0)
    design = np.concatenate(
        [plus * course.measured[:-1].T[:, :, None], plus], axis=2
    )  # [query, step, 2 features]
    changes = np.diff(course.measured, axis=0).T
    return np.einsum("qtf,qtg->qfg", design, design), np.einsum("qtf,qt->qf", design, changes)


def _solve(
    parts: Sequence[tuple[np.ndarray, np.ndarray]], train: np.ndarray, query: np.ndarray, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Factors that all queries share, for every query."""
    gram, right = (np.sum([part[k] for part in parts], axis=0) for k in (0, 1))
    scale = np.diag(gram).mean()
    found = np.linalg.solve(gram + penalty * scale * np.eye(len(gram)), right)
    times, plus = found.reshape(2, train.shape[1], query.shape[1]) @ query.T
    return times, plus


def _depart(
    parts: Sequence[tuple[np.ndarray, np.ndarray]], times: np.ndarray, plus: np.ndarray, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Factors of every query, drawn towards the shared ones."""
    gram, right = (np.sum([part[k] for part in parts], axis=0) for k in (0, 1))
    start = np.concatenate([times, plus]).T  # [query, 2 features]
    scale = np.trace(gram, axis1=1, axis2=2).mean() / gram.shape[1]
    left = gram + penalty * scale * np.eye(gram.shape[1])
    change = np.linalg.solve(left, (right - np.einsum("qfg,qg->qf", gram, start))[:, :, None])[:, :, 0]
    found = (start + change).T
    return found[: len(times)], found[len(times) :]
