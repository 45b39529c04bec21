"""Memorisation and influence by subset fits (Feldman & Zhang 2020), and which parts of an example are memorised.

Sources: Feldman & Zhang (2020), "What Neural Networks Memorize and Why: Discovering the Long Tail via Influence
Estimation" (the subsampled estimator); Zheng & Jiang (2022), "An Empirical Study of Memorization in NLP" (memorisation
attributed to parts of an example).

Deviations: the effect is on the learner's measurement, in its unit, where Feldman and Zhang take accuracy (give
``measurement="accuracy"`` for theirs). Zheng and Jiang estimate memorisation by influence functions and attribute it by
integrated gradients; here both come from the same subset fits, and parts get their Shapley value in the memorisation of
the example with some parts left out, which needs no gradients and sums to the whole.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float

from steelyard.collect.designs import random_subsets
from steelyard.collect.fits import Outcomes, outcomes
from steelyard.errors import DataError, FitError, SettingError
from steelyard.maths.subset_effects import Effects, own_effects, subset_effects
from steelyard.problem import Problem
from steelyard.records import Cost, Examples, Scores, Uncertainty
from steelyard.run import Run, in_memory
from steelyard.run.seeds import generator
from steelyard.score.driver import MethodCard, begin, make_scores


@dataclass(frozen=True)
class Memorization:
    r"""How much better an example is measured by models that learned from it than by models that did not.

    .. math:: mem_i = \pm\left(\mathrm{E}[f_i \mid i \in S] - \mathrm{E}[f_i \mid i \notin S]\right)

    over random subsets S of ``fraction`` of the training examples, each with a seed of its own; + where a higher
    measurement is better. The same fits give the influence of every example on every query (``of="queries"``):
    memorisation is the influence of an example on itself. High for mislabelled, atypical and rare examples.

    Cost: ``fits`` fits; a larger budget goes on from a smaller one. The standard error of a value is about
    2.2 times the deviation of its measurement, divided by the root of ``fits`` (at fraction .7).

    Args:
        of: ``"self"``: memorisation, one column. ``"queries"``: influence on the queries, which is SubSample of Brophy
            et al. (2023), "Adapting and Evaluating Influence-Estimation Methods for Gradient-Boosted Decision Trees":
            the method name ``subsample`` stands for it.
        fits: How many subsets.
        fraction: Share of the training examples in each.

    Source: Feldman & Zhang (2020), the subsampled influence and memorisation estimators.
    """

    of: Literal["self", "queries"] = "self"
    fits: int = 200
    fraction: float | int = 0.7
    card: ClassVar[MethodCard] = MethodCard(
        paper="Feldman & Zhang 2020, What Neural Networks Memorize and Why",
        needs="refits on random subsets",
        cost="the fits you give",
        good_for="what is memorised rather than learned; influence with standard errors from any learner",
    )

    def __post_init__(self) -> None:
        if self.fits < 4:
            raise SettingError(f"Memorization: fits={self.fits}.", fix="give at least 4; hundreds are usual.")

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Memorisation (high is suspect) or influence, with standard errors.

        Raises:
            FitError: If an example was in all valid fits or in none.
        """
        run = run or in_memory()
        own = self.of == "self"
        asked = Problem(problem.learner, problem.train, problem.train, seed=problem.seed) if own else problem
        started = begin(self, asked, run)
        masks, found = subset_outcomes(asked, run, fits=self.fits, fraction=self.fraction)
        effects = (own_effects if own else subset_effects)(masks, found.values)
        check_seen(problem, effects, method="Memorization", note=found.note())
        sign = -1.0 if problem.learner.measurement.lower_is_better else 1.0
        values = sign * effects.values
        scores = make_scores(
            self,
            problem,
            values,
            run,
            unit=problem.learner.measurement.unit,
            axis="example" if own else "pair",
            query_ids=("self",) if own else None,
            suspect="high" if own else "low",
            resolved={
                "valid_fits": effects.fits,
                "median_standard_error": float(np.nanmedian(effects.errors)),
            },
            started=started,
        ).check_finite()
        # Errors of a mean over queries: the fits are shared, so the queries are averaged before the spread is taken.
        mean = (
            subset_effects(masks, found.values.mean(axis=1, keepdims=True)).errors
            if not own
            else effects.errors
        )
        return replace(scores, uncertainty=Uncertainty(effects.errors, mean[:, 0], max(1, effects.fits - 2)))

    def predict(self, problem: Problem) -> Cost:
        """One fit per subset."""
        return Cost(fits=self.fits)


@dataclass(frozen=True, eq=False)
class MemorizedParts:
    """Memorisation of one example, part by part.

    Attributes:
        train_id: The example.
        parts: Names: words of a text with their position, or ranges of input numbers.
        values: Of every part, in the unit of the measurement; positive: it is remembered by this part.
        empty: Memorisation with every part left out.
        whole: Memorisation of the example; the parts and ``empty`` sum to it.
    """

    train_id: str
    parts: tuple[str, ...]
    values: Float[np.ndarray, " part"]
    empty: float
    whole: float


def memorized_parts(  # noqa: PLR0913 - an example, fits, and how finely it is cut
    problem: Problem,
    train_id: str,
    run: Run | None = None,
    *,
    method: Memorization | None = None,
    parts: int = 16,
    orders: int = 8,
) -> MemorizedParts:
    """Which parts of a training example carry its memorisation: Shapley values over its parts.

    The example is measured with parts left out (words removed, numbers replaced by their mean over the training
    examples) by models that learned from the whole example and by models that did not.

    Cost: ``method.fits`` fits, and ``parts * orders`` measurements after each.

    Args:
        problem: Learner and training examples, with one input column of text or numbers.
        train_id: The example.
        run: Where fits are kept.
        method: Fits and fraction; of 200 fits if None.
        parts: Into how many runs of neighbouring words or numbers the example is cut, at most.
        orders: Random orders in which parts are put back, each also reversed.

    Raises:
        DataError: If there is no such example.
        FitError: If the example was in all valid fits or in none.

    Source: Zheng & Jiang (2022); deviations at the head of the module.
    """
    run, method = run or in_memory(), method or Memorization()
    row = int(problem.train.positions(np.array([train_id]))[0])
    cut = _cut(problem.train, row, parts)
    draw = generator(problem.seed, "memorized parts", train_id)
    drawn = [draw.permutation(len(cut.names)) for _ in range(orders)]
    chains = np.array([order for one in drawn for order in (one, one[::-1])])
    keep = np.zeros((len(chains), len(cut.names) + 1, len(cut.names)), dtype=bool)
    for chain, order in zip(keep, chains, strict=True):
        for step, part in enumerate(order, 1):
            chain[step:, part] = True
    distinct, back = np.unique(keep.reshape(-1, len(cut.names)), axis=0, return_inverse=True)
    asked = Problem(problem.learner, problem.train, cut.variants(distinct), seed=problem.seed)
    masks, found = subset_outcomes(asked, run, fits=method.fits, fraction=method.fraction)
    effects = subset_effects(masks[:, [row]], found.values)
    check_seen(asked, effects, method="memorized_parts", note=found.note(), row=row)
    sign = -1.0 if problem.learner.measurement.lower_is_better else 1.0
    worth = sign * effects.values[0][back].reshape(keep.shape[:2])
    values = np.zeros(len(cut.names))
    for order, steps in zip(chains, np.diff(worth, axis=1), strict=True):
        values[order] += steps / len(chains)
    return MemorizedParts(train_id, cut.names, values, float(worth[0, 0]), float(worth[0, -1]))


def subset_outcomes(
    problem: Problem, run: Run, *, fits: int, fraction: float | int
) -> tuple[np.ndarray, Outcomes]:
    """Who was in each random subset, and what its fit says; every fit has a seed of its own.

    The subsets go by id, so that the order of the rows does not matter, and the first of them are the same whatever
    the number of fits.
    """
    weightings = random_subsets(problem, fits, fraction=fraction, name="memorization")
    by_id = np.empty(len(problem.train), dtype=np.int64)
    by_id[np.argsort(problem.train.ids, kind="stable")] = np.arange(len(problem.train))
    weightings = weightings[:, by_id]
    return weightings > 0, outcomes(problem, weightings, range(fits), run, purpose="scoring")


def check_seen(problem: Problem, effects: Effects, *, method: str, note: str, row: int = 0) -> None:
    """Refuse effects of examples that were in all valid fits, or in none.

    Raises:
        FitError: Naming the first.
    """
    bad = np.flatnonzero((effects.seen == 0) | (effects.seen == effects.fits))
    if len(bad):
        name = str(problem.train.ids[bad[0] + row])
        raise FitError(
            f"{method}: example {name!r} was in {effects.seen[bad[0]]} of {effects.fits} valid fits. {note}".strip(),
            fix="give more fits, or a fraction closer to 1/2.",
        )


@dataclass(frozen=True, eq=False)
class _Cut:
    """One example in parts.

    Attributes:
        example: It alone.
        column: Its input column.
        names: Of the parts.
        pieces: The parts: texts, or numbers by position.
        absent: Numbers in place of those left out; None for text.
    """

    example: Examples
    column: str
    names: tuple[str, ...]
    pieces: tuple[np.ndarray, ...]
    absent: np.ndarray | None

    def variants(self, keep: np.ndarray) -> Examples:
        """The example with only those parts, once per row of ``keep``."""
        rows = self.example.take(np.zeros(len(keep), dtype=np.int64))
        if self.absent is None:
            words = [" ".join(" ".join(self.pieces[k]) for k in np.flatnonzero(one)) for one in keep]
            values = np.array(words)
        else:
            own = np.asarray(self.example.column(self.column)[:])[0]
            values = np.repeat(self.absent.astype(own.dtype)[None], len(keep), axis=0)
            for variant, one in zip(values, keep, strict=True):
                for k in np.flatnonzero(one):
                    variant.reshape(-1)[self.pieces[k]] = own.reshape(-1)[self.pieces[k]]
        marks = [np.packbits(one).tobytes().hex() for one in keep]
        ids = np.array([f"{self.example.ids[0]}/{number}" for number in range(len(keep))])
        checksum = f"{self.example.checksum}|parts {len(self.names)}|{'-'.join(marks)}"
        return replace(rows, ids=ids, columns={**rows.columns, self.column: values}, checksum=checksum)


def _cut(train: Examples, row: int, parts: int) -> _Cut:
    train.input()
    column, example = train.inputs[0], train.take(slice(row, row + 1))
    value = np.asarray(train.column(column)[row : row + 1])[0]
    if np.asarray(value).dtype.kind in "biuf":
        size = np.asarray(value).size
        pieces = tuple(piece for piece in np.array_split(np.arange(size), parts) if len(piece))
        names = tuple(f"{piece[0]}" if len(piece) == 1 else f"{piece[0]} to {piece[-1]}" for piece in pieces)
        mean = np.asarray(train.column(column)[:]).mean(axis=0)
        return _Cut(example, column, names, pieces, np.asarray(mean))
    words = str(value).split()
    if not words:
        raise DataError(f"example {str(train.ids[row])!r} has no words.", fix="name an example with text.")
    runs = tuple(piece for piece in np.array_split(np.array(words), parts) if len(piece))
    return _Cut(example, column, tuple(" ".join(piece) for piece in runs), runs, None)
