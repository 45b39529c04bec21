"""How much a label is borne out: by models that did not see the example, by its neighbours, by all evidence.

Sources: Northcutt, Jiang & Chuang (2021), "Confident Learning: Estimating Uncertainty in Dataset Labels"
(out-of-sample probabilities, label quality, counts of errors); Pleiss et al. (2020) for the margin over a training.
Neighbour votes are those of a k-nearest-neighbour classifier that leaves the example out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float, Int

from steelyard.collect.dynamics import label_columns
from steelyard.collect.embeddings import Source, embedder, numbers
from steelyard.collect.folds import held_out_probabilities
from steelyard.errors import CapabilityError, DataError, SettingError
from steelyard.maths.knn import nearest
from steelyard.maths.label_noise import confident_joint, mean_ranks, own_and_other, second_votes, votes
from steelyard.problem import Problem
from steelyard.records import Cost, Scores
from steelyard.run import Run
from steelyard.score.driver import MethodCard, score_examples
from steelyard.score.dynamics import check_counts, record

_NORTHCUTT = "Northcutt et al. 2021, Confident Learning: Estimating Uncertainty in Dataset Labels"
_BATCH = 4096


@dataclass(frozen=True, eq=False)
class Quality:
    """One number per training example, and what belongs into the record.

    Attributes:
        values: Of every example.
        facts: How they were made.
    """

    values: Float[np.ndarray, " train"]
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class SelfConfidence:
    """How much models that did not see an example believe its label; low for mislabelled examples.

    Cost: ``folds * repeats`` fits.

    Args:
        quality: ``"probability"`` of the given label. ``"margin"``: that minus the highest other probability, better
            where labels are confused with one certain other. ``"entropy"``: the probability divided by the entropy of
            all, scaled to at most 1.
        folds: Parts of the data; each is predicted by models of the others.
        repeats: How often, with other folds and seeds; probabilities are averaged.

    Source: Northcutt et al. (2021): self-confidence and normalized margin; the record gives the number of errors that
    confident learning counts.
    """

    quality: Literal["probability", "margin", "entropy"] = "margin"
    folds: int = 5
    repeats: int = 1
    card: ClassVar[MethodCard] = MethodCard(
        paper=_NORTHCUTT,
        needs="class probabilities, folds x repeats fits",
        cost="folds x repeats fits",
        good_for="mislabelled examples with any classifier, and an estimate of how many there are",
    )

    def __post_init__(self) -> None:
        check_counts("SelfConfidence", {"repeats": self.repeats})

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example; one column, low values are suspect."""
        return score_examples(self, problem, run, suspect="low")

    def unit(self, problem: Problem) -> str:
        """Probabilities, their differences, or a ratio."""
        return "rank" if self.quality == "entropy" else "probability"

    def predict(self, problem: Problem) -> Cost:
        """One fit per fold and repeat."""
        return Cost(fits=self.folds * self.repeats)

    def prepare(self, problem: Problem, run: Run) -> Quality:
        """Out-of-sample probabilities, judged at the given labels."""
        found = held_out_probabilities(problem, run, folds=self.folds, repeats=self.repeats)
        labels = label_columns(problem.train, found.shape[1])
        own, other = own_and_other(found, labels)
        joint = confident_joint(found, labels)
        facts = {"estimated_errors": round(float(joint.sum() - np.trace(joint)))}
        if self.quality == "margin":
            return Quality(own - other, facts)
        return Quality(own if self.quality == "probability" else own / _entropy(found), facts)

    def resolved(self, state: Quality) -> Mapping[str, Any]:
        """How many errors confident learning counts."""
        return state.facts

    def score(self, problem: Problem, state: Quality, rows: slice) -> Float[np.ndarray, "row 1"]:
        """These rows."""
        return state.values[rows, None]


@dataclass(frozen=True)
class KNNLabel:
    """Share of an example's neighbours that have its label, minus that of the next most frequent label.

    Between -1 and 1; low for mislabelled examples. No model is trained on the labels where inputs are compared.

    Cost: the distances of all pairs, about 0.1 µs each; one fit for the learner's embeddings.

    Args:
        neighbours: How many neighbours vote; the example itself does not.
        hops: 1: neighbours vote for their own labels. 2: for what their neighbourhoods say, so that wrong labels among
            the neighbours hardly count.
        embedding: Where vectors come from. ``"inputs"``: the input numbers. ``"learner"``: what the model's last layer
            reads, which is bent towards wrong labels if the model was trained on them. ``"auto"``: inputs where they
            are numbers, else the learner's.

    Source: a k-nearest-neighbour classifier that leaves the example out; for two hops see ``maths/label_noise.py``.
    """

    neighbours: int = 10
    hops: Literal[1, 2] = 2
    embedding: Source = "auto"
    card: ClassVar[MethodCard] = MethodCard(
        paper="none: leave-one-out nearest-neighbour votes",
        needs="labels, numeric inputs or embeddings",
        cost="n^2 distances; one fit for the learner's embeddings",
        good_for="mislabelled examples where look-alikes share a class; no training on wrong labels",
    )

    def __post_init__(self) -> None:
        check_counts("KNNLabel", {"neighbours": self.neighbours})

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example; one column, low values are suspect."""
        return score_examples(self, problem, run, suspect="low")

    def unit(self, problem: Problem) -> str:
        """Differences of shares."""
        return "share of votes"

    def prepare(self, problem: Problem, run: Run) -> Quality:
        """Votes of the neighbours, judged at the given labels."""
        labels, classes = _labels(problem)
        vectors, why = self._vectors(problem, run)
        near = _others(vectors, min(self.neighbours, len(vectors) - 1))
        shares = (votes if self.hops == 1 else second_votes)(near, labels, classes)
        own, other = own_and_other(shares, labels)
        return Quality(own - other, {"embedding": why})

    def resolved(self, state: Quality) -> Mapping[str, Any]:
        """Where the vectors came from."""
        return state.facts

    def score(self, problem: Problem, state: Quality, rows: slice) -> Float[np.ndarray, "row 1"]:
        """These rows."""
        return state.values[rows, None]

    def _vectors(self, problem: Problem, run: Run) -> tuple[np.ndarray, str]:
        source = self.embedding
        if source == "auto":
            try:
                numbers(problem.train.take(slice(0, 1)), "KNNLabel")
                source = "inputs"
            except CapabilityError:
                source = "learner"
        embed = embedder(problem, run, source=source, method="KNNLabel")
        parts = [embed(part) for part in problem.train.batches(_BATCH)]
        return np.concatenate(parts).astype(np.float64), embed.of


@dataclass(frozen=True)
class LabelConsensus:
    """Mean rank of an example among three witnesses that err differently; high for mislabelled examples.

    The witnesses: margin of out-of-sample probabilities (``self_confidence``), margin over a training (``aum`` without
    threshold), and second votes of the neighbours (``knn_label``). Witnesses that this model cannot call are left out,
    which the record says; which ones there are never depends on what is found. Nothing is fitted to known errors.

    Cost: ``5 * repeats + seeds`` fits.

    Args:
        repeats: Of the out-of-sample predictions.
        seeds: Trainings for the margin.
        neighbours: Of the votes.

    Source: none; ranks because margins, probabilities and votes have no common scale.
    """

    repeats: int = 3
    seeds: int = 2
    neighbours: int = 10
    card: ClassVar[MethodCard] = MethodCard(
        paper="none: mean rank of self_confidence, aum and knn_label",
        needs="labels; class probabilities, a training by epochs or numeric inputs",
        cost="5 x repeats + seeds fits",
        good_for="mislabelled examples when it matters to find them; no setting to choose",
    )

    def __post_init__(self) -> None:
        counts = {"repeats": self.repeats, "seeds": self.seeds, "neighbours": self.neighbours}
        check_counts("LabelConsensus", counts)

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example; one column, high values are suspect."""
        return score_examples(self, problem, run, suspect="high")

    def unit(self, problem: Problem) -> str:
        """Mean ranks."""
        return "rank"

    def predict(self, problem: Problem) -> Cost:
        """Folds and trainings."""
        return Cost(fits=5 * self.repeats + self.seeds)

    def prepare(self, problem: Problem, run: Run) -> Quality:
        """All witnesses, ranked.

        Raises:
            SettingError: If the model can call none.
        """
        _labels(problem)
        found: dict[str, np.ndarray] = {}
        left_out: dict[str, str] = {}
        for name, ask in self._witnesses(problem, run).items():
            try:
                found[name] = -ask()
            except CapabilityError as error:
                left_out[name] = error.problem
        if not found:
            raise SettingError(
                f"LabelConsensus: no witness can be called: {'; '.join(left_out.values())}",
                fix="give a classifier with probabilities, or numeric inputs.",
            )
        facts = {"witnesses": list(found), "left_out": left_out}
        return Quality(mean_ranks(np.stack(list(found.values()))), facts)

    def resolved(self, state: Quality) -> Mapping[str, Any]:
        """Which witnesses were heard, and why the others were not."""
        return state.facts

    def score(self, problem: Problem, state: Quality, rows: slice) -> Float[np.ndarray, "row 1"]:
        """These rows."""
        return state.values[rows, None]

    def _witnesses(self, problem: Problem, run: Run) -> dict[str, Callable[[], np.ndarray]]:
        def margin() -> np.ndarray:
            curves = record(problem, run, self.seeds, "LabelConsensus")
            return np.mean([curve.margin.mean(axis=0, dtype=np.float64) for curve in curves], axis=0)

        folds = SelfConfidence("margin", repeats=self.repeats)
        near = KNNLabel(self.neighbours)
        return {
            "self_confidence": lambda: folds.prepare(problem, run).values,
            "aum": margin,
            "knn_label": lambda: near.prepare(problem, run).values,
        }


def _labels(problem: Problem) -> tuple[Int[np.ndarray, " train"], int]:
    labels = problem.train.labels()
    if labels.dtype.kind == "f":
        raise DataError(
            f"{problem.train.source}: the labels are measured numbers, so none can be the wrong class.",
            fix="use loss or self_influence; if they are classes, give them as whole numbers or text.",
        )
    classes, places = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise DataError(
            f"{problem.train.source}: every example has the label {classes[0]!r}.",
            fix="give two classes or more.",
        )
    return places.astype(np.int64), len(classes)


def _others(vectors: Float[np.ndarray, "example feature"], k: int) -> Int[np.ndarray, "example k"]:
    """The k nearest other examples of every example."""
    if k < 1:
        raise DataError("there is one training example, so it has no neighbours.", fix="give more examples.")
    rows = nearest(vectors, vectors, k + 1).rows
    own = rows == np.arange(len(rows))[:, None]
    # Where more than k copies are equally near, the example itself may be missing: then the farthest goes.
    own[~own.any(axis=1), -1] = True
    return rows[~own].reshape(len(rows), k)


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    terms = np.where(probabilities > 0, -probabilities * np.log(np.maximum(probabilities, 1e-300)), 0.0)
    return np.maximum(terms.sum(axis=1) / np.log(probabilities.shape[1]), 1e-12)
