"""Scores as random variables (Nguyen, Seo & Oh 2023): their mean over trainings, and where noise wins.

Source: Nguyen, Seo & Oh (2023), "A Bayesian Approach To Analysing Training Data Attribution In Deep Learning": the
trained model is a draw from a posterior over initialisations and batch orders; attribution of a pair is to be trusted
where its mean stands out of its spread, judged by a t-test of mean zero.

Deviations: p-values are adjusted for the number of pairs (Benjamini-Hochberg); draws may also train on random subsets
of the examples; any method can be the one that is drawn.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from steelyard.errors import CapabilityError, SettingError
from steelyard.maths.multiple import benjamini_hochberg, student_p
from steelyard.problem import Problem
from steelyard.records import Cost, Scores, Uncertainty
from steelyard.run import Run, in_memory
from steelyard.run.seeds import generator, stream
from steelyard.score.driver import Method, MethodCard, Predicts, begin, make_scores

_AUTO = ("ekfac", "gauss_newton", "leave_one_out")
_LEVEL = 0.05


@dataclass(frozen=True, eq=False)
class Moments:
    """Running mean and spread of draws, pair by pair; draws may lack rows.

    Attributes:
        count: Draws that hold each training example.
        mean: Of the scores.
        squares: Sum of squared deviations from the mean.
    """

    count: Float[np.ndarray, "train 1"]
    mean: Float[np.ndarray, "train column"]
    squares: Float[np.ndarray, "train column"]

    def add(self, rows: np.ndarray, values: Float[np.ndarray, "row column"]) -> None:
        """Take in one draw of those rows (Welford 1962)."""
        self.count[rows] += 1
        gap = values - self.mean[rows]
        self.mean[rows] += gap / self.count[rows]
        self.squares[rows] += gap * (values - self.mean[rows])

    def errors(self) -> Float[np.ndarray, "train column"]:
        """Standard error of every mean; NaN from fewer than two draws."""
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.sqrt(self.squares / (self.count - 1) / self.count)
        return np.where(self.count > 1, found, np.nan)


@dataclass(frozen=True)
class Bayesian:
    r"""Mean of another method's scores over trainings that differ by chance, with standard errors and p-values.

    Each draw trains a model under another seed (initialisation and batch order; only the order where the learner starts
    from given parameters) and scores by it. A pair whose scores scatter around zero says nothing about the data: its
    signal-to-noise ratio, |mean| / deviation over the draws, is small, its adjusted p-value large, and reports show it
    in grey. The record says how many pairs stand out.

    Cost: ``draws`` times that of the method and of a training.

    Args:
        base: The method. ``"auto"``: the first of ekfac, gauss_newton and leave_one_out that the model admits.
        settings: Of the method, such as ``damping=0.1``.
        draws: How many trainings.
        fraction: Share of the training examples, drawn at random, that each training sees; 1 is all of them. Below 1 a
            score is the mean over the trainings that saw the example.

    Source: Nguyen, Seo & Oh (2023); deviations at the head of the module.
    """

    base: str = "auto"
    settings: tuple[str, ...] = ()
    draws: int = 10
    fraction: float | int = 1.0
    card: ClassVar[MethodCard] = MethodCard(
        paper="Nguyen, Seo & Oh 2023, A Bayesian Approach To Analysing Training Data Attribution In Deep Learning",
        needs="a learner that trains, and what the method that it repeats needs",
        cost="draws x (a fit + the method)",
        good_for="telling scores from the noise of training, pair by pair",
    )

    def __post_init__(self) -> None:
        if self.draws < 2:
            raise SettingError(f"Bayesian: draws={self.draws}.", fix="give at least 2; 10 are usual.")
        if not 0 < self.fraction <= 1:
            raise SettingError(f"Bayesian: fraction={self.fraction}.", fix="give a share above 0, at most 1.")
        if self.base == "bayesian":
            raise SettingError("Bayesian: base='bayesian'.", fix="name the method whose scores are drawn.")

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Mean scores of every pair, with standard errors.

        Raises:
            CapabilityError: If the model came trained, so that there is nothing to draw, or the method scores examples
                and not pairs.
            SettingError: If an example was in fewer than two of the trainings.
        """
        run = run or in_memory()
        if problem.learner.settings().get("trained") and self.base not in ("auto", "leave_one_out"):
            raise CapabilityError(
                "Bayesian draws trainings, but this model came trained: every draw would be the same.",
                fix="let the learner train it (recipe=..., without trained=True), or use the method itself.",
            )
        started = begin(self, problem, run)
        method = self._method(problem, run)
        shape = (len(problem.train), len(problem.query))
        pairs = Moments(np.zeros((shape[0], 1)), np.zeros(shape), np.zeros(shape))
        means = Moments(np.zeros((shape[0], 1)), np.zeros((shape[0], 1)), np.zeros((shape[0], 1)))
        unit = ""
        with run.progress("draws", self.draws, unit="trainings") as progress:
            for number in range(self.draws):
                rows, found = self._draw(method, problem, run, number)
                values = np.asarray(found.values, dtype=np.float64)
                pairs.add(rows, values)
                means.add(rows, values.mean(axis=1, keepdims=True))
                unit = found.unit
                progress.advance()
        self._check_drawn(problem, pairs)
        errors, freedom = pairs.errors(), float(pairs.count.min()) - 1
        facts = self._facts(method, pairs, errors, freedom, run)
        scores = make_scores(self, problem, pairs.mean, run, unit=unit, resolved=facts, started=started)
        uncertainty = Uncertainty(errors, means.errors()[:, 0], freedom)
        return replace(scores, uncertainty=uncertainty).check_finite()

    def predict(self, problem: Problem) -> Cost:
        """That of the draws; of the method where it is named and tells."""
        if self.base == "auto":
            return Cost(fits=self.draws, gradients=3 * self.draws * len(problem.train))
        method = self._named(self.base)
        one = method.predict(problem) if isinstance(method, Predicts) else Cost()
        return Cost(fits=self.draws * (one.fits + 1), gradients=self.draws * one.gradients)

    def _draw(self, method: Method, problem: Problem, run: Run, number: int) -> tuple[np.ndarray, Scores]:
        rows = np.arange(len(problem.train))
        if self.fraction < 1:
            by_id = np.argsort(problem.train.ids, kind="stable")
            size = max(1, round(self.fraction * len(rows)))
            draw = generator(problem.seed, "bayesian subset", number)
            rows = np.sort(by_id[draw.permutation(len(rows))[:size]])
        part = problem.train if len(rows) == len(problem.train) else problem.train.take(rows)
        drawn = Problem(problem.learner, part, problem.query, seed=stream(problem.seed, "bayesian", number))
        found = method(drawn, run)
        if found.axis != "pair" or len(found.train_ids) != len(rows):
            raise CapabilityError(
                f"Bayesian tests whether the score of a pair is zero, but {found.name} scores no pairs.",
                fix="name a method that scores training examples for queries, such as base=ekfac.",
            )
        return rows, found

    def _method(self, problem: Problem, run: Run) -> Method:
        if self.base != "auto":
            return self._named(self.base)
        if self.settings:
            raise SettingError("Bayesian: settings without a base.", fix="name the method: base=ekfac.")
        trained = bool(problem.learner.settings().get("trained"))
        few = problem.train.take(slice(0, min(len(problem.train), 64)))
        for name in () if trained else _AUTO[:-1]:
            try:
                self._named(name)(Problem(problem.learner, few, problem.query.take(slice(0, 1))))
            except CapabilityError:
                continue  # which method it became is in the record
            return self._named(name)
        return self._named(_AUTO[-1])

    def _named(self, name: str) -> Method:
        # Imported here: the table of methods has this one in it.
        from steelyard.score import by_name

        parts = [entry.partition("=") for entry in self.settings]
        return by_name(name, {field.strip(): value.strip() for field, _, value in parts})

    def _check_drawn(self, problem: Problem, pairs: Moments) -> None:
        missing = np.flatnonzero(pairs.count[:, 0] < 2)
        if len(missing):
            raise SettingError(
                f"Bayesian: {len(missing)} examples were in fewer than two of {self.draws} trainings, the first is "
                f"{str(problem.train.ids[missing[0]])!r}.",
                fix="give more draws or a larger fraction.",
            )

    def _facts(
        self, method: Method, pairs: Moments, errors: np.ndarray, freedom: float, run: Run
    ) -> Mapping[str, Any]:
        if not errors.any():
            run.note("no draw differed from another: this training does not depend on its seed")
        raw = student_p(pairs.mean, errors, freedom)
        adjusted = benjamini_hochberg(raw.ravel())
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.abs(pairs.mean) / (errors * np.sqrt(pairs.count))
        finite = ratio[np.isfinite(ratio)]
        return {
            "base": repr(method),
            "draws_of_each_pair": int(pairs.count.min()),
            "pairs": int(adjusted.size),
            "pairs_below_.05_unadjusted": int((raw < _LEVEL).sum()),
            "pairs_below_.05": int((adjusted < _LEVEL).sum()),
            "median_signal_to_noise": float(np.median(finite)) if len(finite) else None,
        }
