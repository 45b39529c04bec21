"""InfFeed: labels judged by the labels of the examples that influence them most (Banerjee et al. 2024).

Source: Banerjee, Sarkar, Saha, Mathew & Mukherjee (2024), "InfFeed: Influence Functions as a Feedback to Improve the
Performance of Subjective Tasks"; its abstract, which is all that could be read; no code was found.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float

from steelyard.collect.folds import deal, without_fold
from steelyard.errors import CapabilityError, SettingError
from steelyard.maths.label_noise import own_and_other
from steelyard.problem import Problem
from steelyard.records import Cost, Scores
from steelyard.run import Run
from steelyard.score.driver import Method, MethodCard, score_examples

_MOST = 30
_AUTO = ("ekfac", "gauss_newton", "knn_shapley")


@dataclass(frozen=True)
class InfFeed:
    """Votes of an example's influencers for its own label, less those for the next label; low is suspect.

    Every example is in turn a target that the model has not seen: models are trained without its fold, and the
    training examples are scored for it. Its *influencers* are those of largest score in size, whatever their sign: an
    opponent that looks like the target and has another label speaks for that label. Each has one vote, for its own
    label: by size, or with few influencers, wrong labels of one kind would outvote the right ones, as their
    gradients are the largest. `steelyard clean --method inffeed` proposes the label with most votes, and puts
    silver labels that harm trusted queries into a review queue.

    Cost: folds times a fit and the base method, for all pairs.

    Args:
        base: The method that scores influence. ``"auto"``: the first of ekfac, gauss_newton and knn_shapley that
            fits.
        influencers: How many vote for each target. ``"auto"``: half as many as a class has examples on average, at
            most 30, so that a class can outvote all others.
        folds: Parts of the training set; each is a set of targets in turn.
        silver: Column that marks labels made by a program; for the review queue of ``clean``.

    Deviations: the paper's text beyond its abstract could not be read; folds and votes are ours. The number of
    influencers was looked at on draws of noise (four of the digits, wine, breast cancer) that no figure is of.

    Source: Banerjee et al. (2024), first objective.
    """

    base: str = "auto"
    influencers: int | Literal["auto"] = "auto"
    folds: int = 5
    silver: str = ""
    card: ClassVar[MethodCard] = MethodCard(
        paper="Banerjee et al. 2024, InfFeed: Influence Functions as a Feedback to Improve Performance",
        needs="class labels, a learner that trains, what the base method needs",
        cost="folds x (a fit + the base method)",
        good_for="wrong labels, with the examples that speak for another one",
    )

    def __post_init__(self) -> None:
        if (self.influencers != "auto" and self.influencers < 1) or self.folds < 2:
            raise SettingError(
                f"InfFeed: influencers={self.influencers}, folds={self.folds}.",
                fix="give at least 1 influencer and 2 folds.",
            )
        if self.base == "inffeed":
            raise SettingError("InfFeed: base='inffeed'.", fix="name a method that scores pairs.")

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every training example; one column, low values are suspect."""
        return score_examples(self, problem, run, suspect="low")

    def unit(self, problem: Problem) -> str:
        """Differences of shares."""
        return "share of votes"

    def predict(self, problem: Problem) -> Cost:
        """Fits, and about as many gradients as the base method takes."""
        return Cost(fits=self.folds, gradients=3 * self.folds * len(problem.train))

    def votes(self, problem: Problem, run: Run) -> Float[np.ndarray, "train class"]:
        """Share of each label in the votes of every example's influencers; columns in ascending order of label.

        Raises:
            CapabilityError: If the learner cannot be asked about another model, or the base method scores no pairs.
            DataError: If labels are no classes.
        """
        fold = deal(problem, self.folds)
        labels = problem.train.labels()
        classes = np.unique(labels)
        found = np.zeros((len(labels), len(classes)))
        facts = json.dumps([repr(self), problem.checksums(), problem.seed], sort_keys=True)
        key = f"score/InfFeed-{hashlib.sha256(facts.encode()).hexdigest()[:16]}/fold"
        with run.progress("InfFeed", self.folds, unit="folds") as progress:
            for k in range(self.folds):
                kept = run.has(f"{key}-{k}")
                compute = functools.partial(self._fold, problem, fold, k, run)
                found[fold == k] = run.keep(f"{key}-{k}", compute)["votes"]
                progress.advance(kept=kept)
        return found

    def prepare(self, problem: Problem, run: Run) -> Float[np.ndarray, " train"]:
        """Lead of the own label."""
        codes = np.unique(problem.train.labels(), return_inverse=True)[1]
        own, other = own_and_other(self.votes(problem, run), codes)
        return own - other

    def resolved(self, state: np.ndarray) -> Mapping[str, Any]:
        """How many labels have fewer votes than another."""
        return {"labels_outvoted": int((state < 0).sum())}

    def score(self, problem: Problem, state: np.ndarray, rows: slice) -> Float[np.ndarray, "row 1"]:
        """These rows."""
        return state[rows, None]

    def _fold(self, problem: Problem, fold: np.ndarray, k: int, run: Run) -> dict[str, np.ndarray]:
        asked = without_fold(problem, fold, k, run)
        scores = self._influence(asked)
        if scores.axis != "pair":
            raise CapabilityError(
                f"InfFeed needs scores of pairs, which {scores.name} does not give.",
                fix="name a base method such as gauss_newton or ekfac.",
            )
        size = np.abs(np.asarray(scores.values, dtype=np.float64))
        count = self._count(problem, len(size))
        chosen = np.argpartition(-size, count - 1, axis=0)[:count]
        classes, codes = np.unique(problem.train.labels(), return_inverse=True)
        codes = codes[fold != k]
        shares = np.zeros((size.shape[1], len(classes)))
        columns = np.broadcast_to(np.arange(size.shape[1]), chosen.shape)
        np.add.at(shares, (columns, codes[chosen]), 1.0 / count)
        return {"votes": shares}

    def _count(self, problem: Problem, others: int) -> int:
        if self.influencers != "auto":
            return min(self.influencers, others)
        classes = len(np.unique(problem.train.labels()))
        return max(1, min(_MOST, others // (2 * classes)))

    def _influence(self, asked: Problem) -> Scores:
        # Imported here: the table of methods has this one in it.
        from steelyard.score import by_name

        for name in _AUTO[:-1] if self.base == "auto" else ():
            try:
                return by_name(name)(asked)
            except CapabilityError:
                continue
        method: Method = by_name(_AUTO[-1] if self.base == "auto" else self.base)
        return method(asked)
