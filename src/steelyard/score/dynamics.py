"""Scores from the training record: AUM, EL2N, GraNd, forgetting and cartography, one training or several.

Sources: Pleiss et al. (2020), "Identifying Mislabeled Data using the Area Under the Margin Ranking"; Paul, Ganguli &
Dziugaite (2021), "Deep Learning on a Data Diet: Finding Important Examples Early in Training"; Toneva et al. (2019),
"An Empirical Study of Example Forgetting during Deep Neural Network Learning"; Swayamdipta et al. (2020), "Dataset
Cartography: Mapping and Diagnosing Datasets with Training Dynamics"; Yuan et al. (2023), "Late Stopping: Avoiding
Confidently Learning from Mislabeled Examples".

Deviation of all: every example is looked at once per epoch, after it and in evaluation mode, instead of when its batch
is trained on, so that all numbers of an epoch are about one model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float

from steelyard.collect.dynamics import Curves, curves, gradient_lengths, training_seed
from steelyard.errors import SettingError
from steelyard.maths.label_noise import forgetting_events, learned_at
from steelyard.problem import Problem
from steelyard.records import Cost, Scores
from steelyard.run import Run
from steelyard.score.driver import MethodCard, score_examples

_PAUL = "Paul et al. 2021, Deep Learning on a Data Diet: Finding Important Examples Early in Training"


@dataclass(frozen=True)
class EL2N:
    """Length of the error vector, probabilities minus label, after an epoch: high for hard and mislabelled examples.

    Between 0 and sqrt 2, averaged over trainings.

    Cost: ``seeds`` fits, each with one forward pass per example and epoch.

    Args:
        seeds: Trainings to average over; the source asks for about ten.
        epoch: After which epoch, from 1; None: the mean over all epochs, which needs no choice (a deviation).

    Source: Paul et al. (2021), definition of the EL2N score.
    """

    seeds: int = 1
    epoch: int | None = None
    card: ClassVar[MethodCard] = MethodCard(
        paper=_PAUL,
        needs="a training by epochs, class probabilities",
        cost="seeds fits, and a forward pass per example and epoch",
        good_for="hard and mislabelled examples, early in training",
    )

    def __post_init__(self) -> None:
        check_counts("EL2N", {"seeds": self.seeds, "epoch": self.epoch})

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example; one column, high values are suspect."""
        return score_examples(self, problem, run, suspect="high")

    def unit(self, problem: Problem) -> str:
        """Length of a difference of probabilities."""
        return "probability"

    def predict(self, problem: Problem) -> Cost:
        """The trainings."""
        return Cost(fits=self.seeds)

    def prepare(self, problem: Problem, run: Run) -> Float[np.ndarray, " train"]:
        """Errors at the epoch, averaged over trainings."""
        return np.mean([self._one(found) for found in record(problem, run, self.seeds, "EL2N")], axis=0)

    def score(self, problem: Problem, state: np.ndarray, rows: slice) -> Float[np.ndarray, "row 1"]:
        """These rows."""
        return state[rows, None]

    def _one(self, found: Curves) -> np.ndarray:
        if self.epoch is None:
            return found.error.mean(axis=0, dtype=np.float64)
        if self.epoch > len(found.error):
            raise SettingError(
                f"EL2N: epoch={self.epoch}, but the training has {len(found.error)} epochs.",
                fix="name an earlier epoch, or leave it out.",
            )
        return found.error[self.epoch - 1].astype(np.float64)


@dataclass(frozen=True)
class GraNd:
    """Length of the gradient of an example's loss, early in training: high for hard and mislabelled examples.

    Cost: ``seeds`` fits, each with one gradient per example and epoch looked at.

    Args:
        seeds: Trainings to average over; the source asks for about ten.
        epochs: The first epochs of a training, which are averaged over.

    Source: Paul et al. (2021), definition of the GraNd score. Deviation: a mean over the first epochs instead of the
    value at one step.
    """

    seeds: int = 1
    epochs: int = 5
    card: ClassVar[MethodCard] = MethodCard(
        paper=_PAUL,
        needs="a training by epochs, gradients",
        cost="seeds fits, and a gradient per example and early epoch",
        good_for="examples that move the model most, early in training",
    )

    def __post_init__(self) -> None:
        check_counts("GraNd", {"seeds": self.seeds, "epochs": self.epochs})

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example; one column, high values are suspect."""
        return score_examples(self, problem, run, suspect="high")

    def unit(self, problem: Problem) -> str:
        """Lengths of gradients depend on how the model is parametrised."""
        return "rank"

    def predict(self, problem: Problem) -> Cost:
        """The trainings and the gradients."""
        return Cost(fits=self.seeds, gradients=self.seeds * self.epochs * len(problem.train))

    def prepare(self, problem: Problem, run: Run) -> Float[np.ndarray, " train"]:
        """Lengths, averaged over epochs and trainings."""
        found = [
            gradient_lengths(
                problem, run, seed=training_seed(problem, k), epochs=self.epochs, method="GraNd"
            ).mean(axis=0, dtype=np.float64)
            for k in range(self.seeds)
        ]
        return np.mean(found, axis=0)

    def score(self, problem: Problem, state: np.ndarray, rows: slice) -> Float[np.ndarray, "row 1"]:
        """These rows."""
        return state[rows, None]


@dataclass(frozen=True)
class Forgetting:
    """How often an example goes from right to wrong, or how late it is learned for good.

    Cost: ``seeds`` fits, each with one forward pass per example and epoch.

    Args:
        seeds: Trainings to average over.
        count: ``"events"``: epochs after which a right answer became wrong; the number of epochs for examples that
            were never right. ``"learned"``: first of ``consecutive`` epochs in a row with the right answer, as in late
            stopping; one more than the epochs where there are none.
        consecutive: Of ``"learned"``.

    Source: Toneva et al. (2019), section 3; for ``"learned"`` Yuan et al. (2023).
    """

    seeds: int = 1
    count: Literal["events", "learned"] = "events"
    consecutive: int = 3
    card: ClassVar[MethodCard] = MethodCard(
        paper="Toneva et al. 2019, An Empirical Study of Example Forgetting during Deep Neural Network Learning",
        needs="a training by epochs, class probabilities",
        cost="seeds fits, and a forward pass per example and epoch",
        good_for="examples that training keeps unlearning; examples never forgotten can often be left out",
    )

    def __post_init__(self) -> None:
        check_counts("Forgetting", {"seeds": self.seeds, "consecutive": self.consecutive})

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example; one column, high values are suspect."""
        return score_examples(self, problem, run, suspect="high")

    def unit(self, problem: Problem) -> str:
        """Counts of epochs."""
        return "epochs"

    def predict(self, problem: Problem) -> Cost:
        """The trainings."""
        return Cost(fits=self.seeds)

    def prepare(self, problem: Problem, run: Run) -> Float[np.ndarray, " train"]:
        """Counts, averaged over trainings."""
        found = [
            forgetting_events(curve.correct)
            if self.count == "events"
            else learned_at(curve.correct, run=self.consecutive)
            for curve in record(problem, run, self.seeds, "Forgetting")
        ]
        return np.asarray(np.mean(found, axis=0, dtype=np.float64))

    def score(self, problem: Problem, state: np.ndarray, rows: slice) -> Float[np.ndarray, "row 1"]:
        """These rows."""
        return state[rows, None]


@dataclass(frozen=True)
class Cartography:
    """Where an example lies on the map of a training: how sure the model is of its label, and how much that varies.

    Cost: ``seeds`` fits, each with one forward pass per example and epoch.

    Args:
        coordinate: ``"confidence"``: mean probability of the given label over the epochs, low for hard and mislabelled
            examples. ``"variability"``: its standard deviation, high for ambiguous examples. ``"correctness"``: share
            of epochs with the right answer. ``"loss"``: mean loss over the epochs, in nats, high for hard examples.
        seeds: Trainings to average over.

    Source: Swayamdipta et al. (2020), section 2: confidence, variability and correctness. ``"loss"`` is the mean of the
    loss curve, the usual reading of "loss over training".
    """

    coordinate: Literal["confidence", "variability", "correctness", "loss"] = "confidence"
    seeds: int = 1
    card: ClassVar[MethodCard] = MethodCard(
        paper="Swayamdipta et al. 2020, Dataset Cartography",
        needs="a training by epochs, class probabilities",
        cost="seeds fits, and a forward pass per example and epoch",
        good_for="a map of easy, ambiguous and hard examples",
    )

    def __post_init__(self) -> None:
        check_counts("Cartography", {"seeds": self.seeds})

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example; one column."""
        high = self.coordinate in ("variability", "loss")
        return score_examples(self, problem, run, suspect="high" if high else "low")

    def unit(self, problem: Problem) -> str:
        """Probabilities, a share of epochs, or nats."""
        return {"loss": "nats", "correctness": "share of epochs"}.get(self.coordinate, "probability")

    def predict(self, problem: Problem) -> Cost:
        """The trainings."""
        return Cost(fits=self.seeds)

    def prepare(self, problem: Problem, run: Run) -> Float[np.ndarray, " train"]:
        """The coordinate, averaged over trainings."""
        found = [self._one(curve) for curve in record(problem, run, self.seeds, "Cartography")]
        return np.mean(found, axis=0)

    def score(self, problem: Problem, state: np.ndarray, rows: slice) -> Float[np.ndarray, "row 1"]:
        """These rows."""
        return state[rows, None]

    def _one(self, found: Curves) -> np.ndarray:
        own = found.own.astype(np.float64)
        if self.coordinate == "loss":
            return -own.mean(axis=0)
        if self.coordinate == "correctness":
            return found.correct.mean(axis=0)
        probability = np.exp(own)
        return probability.std(axis=0) if self.coordinate == "variability" else probability.mean(axis=0)


def record(problem: Problem, run: Run, seeds: int, method: str) -> list[Curves]:
    """The curves of several trainings, the first that of the explained model."""
    found: list[Curves] = []
    with run.progress("training record", seeds, unit="fits") as progress:
        for number in range(seeds):
            found.append(curves(problem, run, seed=training_seed(problem, number), method=method))
            progress.advance()
    return found


def check_counts(method: str, counts: Mapping[str, int | None]) -> None:
    """Refuse a count below 1.

    Raises:
        SettingError: Naming the setting.
    """
    for name, count in counts.items():
        if count is not None and count < 1:
            raise SettingError(f"{method}: {name}={count}.", fix="give at least 1.")
