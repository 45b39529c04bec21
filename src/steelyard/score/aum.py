"""AUM (Pleiss et al. 2020): mean margin over a training, with a threshold from examples of a class that is none.

Source: Pleiss, Zhang, Elenberg & Weinberger (2020), "Identifying Mislabeled Data using the Area Under the Margin
Ranking": the margin averaged over epochs, and the threshold samples.

Deviations: margins are taken once per epoch, after it and in evaluation mode, not when a batch is trained on; the whole
training is used where the paper stops before the learning rate drops (give a recipe with a constant rate and few
epochs); the threshold is the 99th percentile over the threshold samples of both runs together.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float

from steelyard.collect.dynamics import curves, training_seed
from steelyard.errors import CapabilityError
from steelyard.problem import HasExtraClass, Problem, require
from steelyard.records import Cost, Examples, Scores
from steelyard.run import Run
from steelyard.run.seeds import generator
from steelyard.score.driver import MethodCard, score_examples
from steelyard.score.dynamics import check_counts, record

_PERCENTILE = 99.0


@dataclass(frozen=True, eq=False)
class Margins:
    """What AUM found.

    Attributes:
        values: Mean margin of every example.
        facts: How the threshold came about, for the record.
    """

    values: Float[np.ndarray, " train"]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class AUM:
    """Area under the margin: the given label's logit minus the highest other, averaged over the epochs.

    In logits; low (negative) for mislabelled examples: what the neighbourhood of an example teaches works against its
    label, until it is memorised. The threshold says where to cut: a share 1/(classes + 1) of the examples is given a
    class that none has, so that they are surely mislabelled, and what lies below the 99th percentile of their AUM is
    flagged. Each example is scored by trainings in which its label was its own.

    Cost: ``seeds`` fits, two at least with the threshold, and one forward pass per example and epoch.

    Args:
        threshold: ``"class"``: from two trainings with an extra class, on disjoint threshold samples. ``"none"``: no
            threshold, plain trainings. ``"auto"``: ``"class"`` where the learner can be given a class.
        seeds: Trainings to average over.

    Source: Pleiss et al. (2020); deviations at the head of the module.
    """

    threshold: Literal["auto", "class", "none"] = "auto"
    seeds: int = 1
    card: ClassVar[MethodCard] = MethodCard(
        paper="Pleiss et al. 2020, Identifying Mislabeled Data using the Area Under the Margin Ranking",
        needs="a training by epochs, class probabilities",
        cost="2 fits, and a forward pass per example and epoch",
        good_for="mislabelled examples, with a threshold that says how many",
    )

    def __post_init__(self) -> None:
        check_counts("AUM", {"seeds": self.seeds})

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example; one column, low values are suspect."""
        return score_examples(self, problem, run, suspect="low")

    def unit(self, problem: Problem) -> str:
        """Differences of logits."""
        return "logits"

    def predict(self, problem: Problem) -> Cost:
        """The trainings."""
        return Cost(fits=self.seeds if self.threshold == "none" else max(2, self.seeds))

    def prepare(self, problem: Problem, run: Run) -> Margins:
        """Mean margins, and the threshold where there is one."""
        if self.threshold != "none":
            try:
                return self._with_threshold(problem, run)
            except CapabilityError as error:
                if self.threshold == "class":
                    raise
                why = error.problem
        else:
            why = "as asked"
        found = [
            curve.margin.mean(axis=0, dtype=np.float64) for curve in record(problem, run, self.seeds, "AUM")
        ]
        return Margins(np.mean(found, axis=0), {"threshold": "none", "threshold_reason": why})

    def resolved(self, state: Margins) -> Mapping[str, Any]:
        """The threshold, where it came from, and how many examples lie below it."""
        return state.facts

    def score(self, problem: Problem, state: Margins, rows: slice) -> Float[np.ndarray, "row 1"]:
        """These rows."""
        return state.values[rows, None]

    def _with_threshold(self, problem: Problem, run: Run) -> Margins:
        learner = require(problem.learner, HasExtraClass, method="AUM", instead="threshold='none'")
        wider, label = learner.with_extra_class(problem.train)
        runs = max(2, self.seeds)
        fake = threshold_samples(problem, runs)
        total, counted = np.zeros(len(problem.train)), np.zeros(len(problem.train))
        theirs: list[np.ndarray] = []
        with run.progress("training record", runs, unit="fits") as progress:
            for number, chosen in enumerate(fake):
                relabelled = Problem(
                    wider, _relabelled(problem.train, chosen, label), problem.query, seed=problem.seed
                )
                found = curves(relabelled, run, seed=training_seed(problem, number), method="AUM")
                margins = found.margin.mean(axis=0, dtype=np.float64)
                theirs.append(margins[chosen])
                total[~chosen] += margins[~chosen]
                counted[~chosen] += 1
                progress.advance()
        values = total / counted
        threshold = float(np.percentile(np.concatenate(theirs), _PERCENTILE))
        return Margins(
            values,
            {
                "threshold": threshold,
                "threshold_reason": f"{_PERCENTILE:g}th percentile of {int(fake.sum())} examples given an extra class",
                "below_threshold": int((values < threshold).sum()),
            },
        )


def threshold_samples(problem: Problem, runs: int) -> Bool[np.ndarray, "run train"]:
    """Which examples are given the extra class in every run; runs two by two share none.

    A share 1/(classes + 1), so that the extra class is as large as the others are on average; at most a third.
    """
    count = len(problem.train)
    size = max(1, min(count // 3, round(count / (len(np.unique(problem.train.labels())) + 1))))
    found = np.zeros((runs, count), dtype=bool)
    by_id = np.argsort(problem.train.ids, kind="stable")
    for number in range(runs):
        order = by_id[generator(problem.seed, "threshold samples", number // 2).permutation(count)]
        start = size * (number % 2)
        found[number, order[start : start + size]] = True
    return found


def _relabelled(train: Examples, chosen: np.ndarray, label: int | str) -> Examples:
    labels = train.labels()
    if train.label is None:
        raise CapabilityError(f"{train.source}: there are no labels.", fix="name the label column.")
    kind = np.result_type(labels, np.array(label)) if isinstance(label, str) else labels.dtype
    given = np.where(chosen, np.array(label).astype(kind), labels.astype(kind))
    mark = f"{train.checksum}|extra class|{np.packbits(chosen).tobytes().hex()}"
    return replace(train, columns={**train.columns, train.label: given}, checksum=mark)
