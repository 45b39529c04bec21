"""GPTfluence (Chai et al. 2024): a simulator learned from a few trainings says what a training without an example does.

Sources and deviations of the simulator: ``maths/simulation.py``. Features are the principal components of the learner's
embeddings, and labels, where the paper uses a pretrained encoder of texts.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from steelyard.collect.fits import explained
from steelyard.errors import CapabilityError, SettingError
from steelyard.maths.simulation import Course, Simulator, additive_run, best_factor, errors_of, fit_simulator
from steelyard.problem import HasEmbeddings, Problem, require
from steelyard.records import Cost, Examples, Scores
from steelyard.run import Run, in_memory
from steelyard.run.seeds import stream
from steelyard.score.driver import MethodCard, begin, make_scores
from steelyard.score.gradient_products import TracIn, training_products

_MOST_CLASSES = 20


@dataclass(frozen=True)
class GPTfluence:
    """What a simulated training without an example does to every query, beside the same training with it.

    The simulator learns from ``runs`` trainings, which differ in seed and batch order, how the batch of a step moves
    the loss of each query, as a function of features of both. The score is the difference, at the end of the explained
    training's own order, between leaving the example out of its batches and not; positive = it helps.

    The record compares simulated losses with real ones on ``tested`` trainings whose orders the simulator has not seen:
    mean squared error over all steps and rank correlation of final losses, beside TracIn-CP used as a simulator (with
    the one factor that fits the recorded trainings best) and a loss that never changes.

    Cost: ``runs + tested`` fits with a forward pass of all queries per step; gradients of all examples at the kept
    states for TracIn-CP; then a simulation per example, without the model.

    Args:
        runs: Trainings to learn from.
        tested: Trainings to test on.
        components: Of the embeddings, for training examples and queries.

    Source: Chai et al. (2024), "On Training Data Influence of GPT Models"; deviations at the head of the module.
    """

    runs: int = 6
    tested: int = 2
    components: int = 8
    card: ClassVar[MethodCard] = MethodCard(
        paper="Chai et al. 2024, On Training Data Influence of GPT Models",
        needs="a network with embeddings that is trained here step by step",
        cost="(runs + tested) fits with a forward pass of all queries per step",
        good_for="what another order or other data would do along the training; learning curves of unseen runs",
    )

    def __post_init__(self) -> None:
        if self.runs < 2 or self.tested < 1 or self.components < 1:
            raise SettingError(
                f"GPTfluence: runs={self.runs}, tested={self.tested}, components={self.components}.",
                fix="give at least 2 runs to learn from, 1 to test on, and 1 component.",
            )

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Simulated effect of leaving every example out, for every query."""
        run = run or in_memory()
        started = begin(self, problem, run)
        learned, tested = self._recorded(problem, run)
        simulator = self._simulator(problem, learned, run)
        gains = _tracin(problem, run)
        factor = best_factor(learned, gains)
        facts = {
            "penalty": simulator.penalty,
            "own_penalty": simulator.own_penalty if np.isfinite(simulator.own_penalty) else "none",
            "unseen_orders": {
                "simulator": errors_of([simulator.run(course) for course in tested], tested),
                "tracin_cp": errors_of([additive_run(course, gains, factor) for course in tested], tested),
                "no_change": errors_of(
                    [np.repeat(course.measured[:1], len(course.measured), axis=0) for course in tested],
                    tested,
                ),
            },
        }
        own = learned[0]  # the order of the explained training
        sign = 1.0 if problem.learner.measurement.lower_is_better else -1.0
        values = sign * (simulator.without(own) - simulator.run(own)[-1])
        unit = problem.learner.measurement.unit
        return make_scores(
            self, problem, values, run, unit=unit, resolved=facts, started=started
        ).check_finite()

    def predict(self, problem: Problem) -> Cost:
        """The trainings."""
        return Cost(fits=self.runs + self.tested + 1)

    def _recorded(self, problem: Problem, run: Run) -> tuple[list[Course], list[Course]]:
        from steelyard.collect.simulation import recorded_run  # torch, for those who have it

        total = self.runs + self.tested
        found: list[Course] = []
        with run.progress("recorded trainings", total, unit="fits") as progress:
            for number in range(total):
                seed = problem.seed if number == 0 else stream(problem.seed, "simulation", number)
                found.append(recorded_run(problem, run, seed=seed, method="GPTfluence"))
                progress.advance()
        return found[: self.runs], found[self.runs :]

    def _simulator(self, problem: Problem, learned: list[Course], run: Run) -> Simulator:
        learner = require(problem.learner, HasEmbeddings, method="GPTfluence", instead="replay or tracin")
        fitted = explained(problem, run)
        run.spend(gradients=(len(problem.train) + len(problem.query)) / 3)
        train, query = (
            np.asarray(learner.embed(fitted, side), dtype=np.float64)
            for side in (problem.train, problem.query)
        )
        train, query = principal(train, query, self.components)
        sides = zip((train, query), _labels(problem.train, problem.query), strict=True)
        train, query = (np.column_stack([np.ones(len(side)), side, label]) for side, label in sides)
        return fit_simulator(learned, train, query)


def principal(
    train: Float[np.ndarray, "train feature"], query: Float[np.ndarray, "query feature"], count: int
) -> tuple[Float[np.ndarray, "train component"], Float[np.ndarray, "query component"]]:
    """The first principal components of the training side, of both sides, with a mean square of 1 over the first."""
    centre = train.mean(axis=0)
    _, _, axes = np.linalg.svd(train - centre, full_matrices=False)
    axes = axes[:count]
    reduced = (train - centre) @ axes.T, (query - centre) @ axes.T
    size = np.sqrt(np.square(reduced[0]).mean()) or 1.0
    return reduced[0] / size, reduced[1] / size


def _labels(train: Examples, query: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Labels of both sides, one column per class; no column where they are no classes or too many."""
    none = np.zeros((len(train), 0)), np.zeros((len(query), 0))
    if train.label is None or query.label is None or train.labels().dtype.kind == "f":
        return none
    classes = np.unique(train.labels())
    if len(classes) > _MOST_CLASSES:
        return none
    first, second = (side.labels()[:, None] == classes for side in (train, query))
    return first.astype(np.float64), second.astype(np.float64)


def _tracin(problem: Problem, run: Run) -> Float[np.ndarray, "train query"]:
    """Mean over the kept states of the products of gradients: what a step on the example takes off the measurement."""
    sign = 1.0 if problem.learner.measurement.lower_is_better else -1.0
    method = TracIn()
    try:
        trajectory = method.prepare(problem, run)
    except CapabilityError as error:
        raise CapabilityError(
            f"GPTfluence compares with TracIn-CP: {error.problem}", fix=error.fix
        ) from error
    rows = slice(0, len(problem.train))
    found = [training_products(problem, point.fitted, point.side, rows) for point, _ in trajectory.points]
    return sign * np.mean(np.asarray(found, dtype=np.float64), axis=0)
