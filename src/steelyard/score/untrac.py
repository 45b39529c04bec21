"""UnTrac and UnTrac-Inv (Isonuma & Titov 2024, arXiv:2401.15241; code: github.com/misonuma/untrac): unlearn a source.

A row of ``UnTrac`` is a source of training examples, not an example: a dataset, a crawl, an annotator.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float

from steelyard.collect.fits import explained
from steelyard.errors import DataError, SettingError
from steelyard.problem import Problem
from steelyard.records import Cost, Examples, Scores
from steelyard.run import Run, in_memory
from steelyard.score.driver import MethodCard, begin, make_scores

Rate = float | int | Literal["auto"]
_RATE = 1e-3


@dataclass(frozen=True)
class UnTrac:
    r"""What happens to every query when the model unlearns one source of its training examples.

    From the explained model, gradient ascent on the source's training loss for some epochs gives
    :math:`\theta_{-k}`, and

    .. math:: s_{kq} = \pm\left[f_q(\theta_{-k}) - f_q(\theta)\right],

    + for measurements that are better when lower: positive = without the source the query is worse.

    Cost: epochs gradients per training example, and a forward pass of all queries per source.

    Args:
        column: Column of the training examples that names the source of each; ``"id"``: every example by itself.
        epochs: Passes over the source.
        rate: Learning rate of a step; ``"auto"``: that of the learner's recipe, else 0.001.
        batch_size: Examples per step; ascent goes along the mean of their losses.
        optimiser: ``"adam"`` as in the paper's main results, or ``"sgd"``.

    Deviations: batches in the order of ids, in evaluation mode; the learning rate is constant; sources are unlearned
    whole, however large they are.

    Source: Isonuma & Titov (2024), "Unlearning Traces the Influential Training Data of Language Models" (first called
    "Unlearning Reveals …").
    """

    column: str = "id"
    epochs: int = 1
    rate: Rate = "auto"
    batch_size: int = 32
    optimiser: Literal["adam", "sgd"] = "adam"
    card: ClassVar[MethodCard] = MethodCard(
        paper="Isonuma & Titov 2024, Unlearning Traces the Influential Training Data of Language Models",
        needs="a network; a column of sources",
        cost="epochs x n gradients, sources x q forward passes",
        good_for="what whole datasets do to a target, without refits",
    )

    def __post_init__(self) -> None:
        check_steps("UnTrac", self.epochs, self.batch_size, self.rate)

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """Score every source for every query; ``train_ids`` are the names of the sources.

        Raises:
            DataError: If there is no such column, or a source has a single example.
            CapabilityError: If the learner is no network's.
            NumericsError: If a step leads to NaN or infinity.
        """
        run = run or in_memory()
        started = begin(self, problem, run)
        names, members, box, rate = _opened(problem, run, self)
        before = box.measured(problem.query)
        values = np.empty((len(names), len(problem.query)))
        with run.progress("unlearning", len(names), unit="sources") as progress:
            for k, rows in enumerate(members):

                def forgotten(rows: np.ndarray = rows) -> dict[str, np.ndarray]:
                    with box.put_back():
                        _unlearn(box, self, problem.train.take(rows), rate, self.batch_size)
                        return {"values": box.measured(problem.query)}

                key = _key(problem, (repr(self), rate, problem.train.ids[rows].tolist()))
                values[k] = -box.sign * (np.asarray(run.keep(key, forgotten)["values"]) - before)
                progress.advance()
        return make_scores(
            self,
            problem,
            values,
            run,
            unit=problem.learner.measurement.unit,
            train_ids=names,
            resolved={"rate": rate, "sources": len(names)},
            started=started,
        ).check_finite()

    def predict(self, problem: Problem) -> Cost:
        """Steps of unlearning; forward passes depend on the number of sources."""
        return Cost(fits=1, gradients=self.epochs * len(problem.train))


@dataclass(frozen=True)
class UnTracInv:
    r"""What happens to every training loss when the model unlearns the queries: UnTrac from the other end.

    Gradient ascent on how good the queries are gives :math:`\theta'`, and the value of an example is
    :math:`\ell_i(\theta') - \ell_i(\theta)`: it grows where an example teaches what the queries need. The value of a
    source is the mean over its examples. One unlearning serves all sources.

    Cost: epochs gradients per query, two forward passes per training example.

    Args:
        column: Column of sources, whose examples then all get the mean of the source; ``"id"``: none.
        epochs: Passes over the queries.
        rate: As in ``UnTrac``.
        batch_size: Queries per step; the paper recommends large batches, 0 takes all at once.
        optimiser: As in ``UnTrac``.

    Deviations: as for ``UnTrac``; the queries' training loss is unlearned, whatever they are measured by.

    Source: as for ``UnTrac``.
    """

    column: str = "id"
    epochs: int = 5
    rate: Rate = "auto"
    batch_size: int = 0
    optimiser: Literal["adam", "sgd"] = "adam"
    card: ClassVar[MethodCard] = MethodCard(
        paper="Isonuma & Titov 2024, Unlearning Traces the Influential Training Data of Language Models",
        needs="a network; queries with labels",
        cost="epochs x q gradients, 2 n forward passes",
        good_for="what very many datasets do to one target, by a single unlearning",
    )

    def __post_init__(self) -> None:
        check_steps("UnTracInv", self.epochs, max(1, self.batch_size), self.rate)

    def __call__(self, problem: Problem, run: Run | None = None) -> Scores:
        """One value per training example, in the unit of the training loss; low is suspect.

        Raises:
            DataError: If there is no such column, or a source has a single example.
            CapabilityError: If the learner is no network's.
            NumericsError: If a step leads to NaN or infinity.
        """
        run = run or in_memory()
        started = begin(self, problem, run)
        _, members, box, rate = _opened(problem, run, self)

        def forgotten() -> dict[str, np.ndarray]:
            before = box.losses(problem.train)
            with box.put_back():
                _unlearn(box, self, problem.query, rate, self.batch_size or len(problem.query))
                return {"values": box.losses(problem.train) - before}

        rises = np.asarray(run.keep(_key(problem, (repr(self), rate)), forgotten)["values"])
        values = np.empty((len(rises), 1))
        for rows in members:
            values[rows, 0] = rises[rows].mean()
        return make_scores(
            self,
            problem,
            values,
            run,
            unit="nats",
            axis="example",
            query_ids=("all queries",),
            suspect="low",
            resolved={"rate": rate, "sources": len(members)},
            started=started,
        ).check_finite()

    def predict(self, problem: Problem) -> Cost:
        """Steps on the queries and two forward passes of the training examples."""
        return Cost(fits=1, gradients=self.epochs * len(problem.query) + round(2 / 3 * len(problem.train)))


def sources(problem: Problem, column: str, *, method: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """Names of the sources in order of appearance, and the rows of each.

    Raises:
        DataError: If there is no such column, or a source has a single example.
    """
    train = problem.train
    if column == "id":
        return train.ids, [np.array([row]) for row in range(len(train))]
    if column not in train.columns:
        raise DataError(
            f"{method}: {train.source} has no column {column!r}; it has {list(train.columns)}.",
            fix='name the column of sources: column=..., or "id" for every example by itself.',
        )
    text = np.asarray(train.column(column)[:]).astype(str)
    names, first, number, counts = np.unique(text, return_index=True, return_inverse=True, return_counts=True)
    alone = np.flatnonzero(counts == 1)
    if len(alone):
        raise DataError(
            f"{method}: {len(alone)} of {len(names)} sources have a single example, such as "
            f"{str(names[alone[0]])!r}, so that what is measured is that example, not a source.",
            fix='merge small sources, or ask for column="id".',
        )
    order = np.argsort(first)
    return names[order], [np.flatnonzero(number == k) for k in order]


def check_steps(who: str, epochs: int, size: int, rate: Rate) -> None:
    """Refuse steps that have no meaning.

    Raises:
        SettingError: Says which.
    """
    if epochs < 1 or size < 1 or (rate != "auto" and not rate > 0):
        raise SettingError(
            f"{who}: epochs={epochs}, batch_size={size}, rate={rate}.",
            fix="give at least one epoch and one example per step, and a rate above 0.",
        )


def rate_of(problem: Problem, rate: Rate) -> float:
    """The learning rate; ``"auto"`` is that of the learner's recipe, else 0.001."""
    if rate != "auto":
        return float(rate)
    known = problem.learner.settings().get("lr", _RATE)
    return float(known) if isinstance(known, float | int) else _RATE


def by_source(
    values: Float[np.ndarray, "example query"], members: list[np.ndarray]
) -> Float[np.ndarray, "source query"]:
    """Sums of per-example scores over each source, to stand beside those of sources."""
    return np.stack([values[rows].sum(axis=0) for rows in members])


def _opened(
    problem: Problem, run: Run, method: UnTrac | UnTracInv
) -> tuple[np.ndarray, list[np.ndarray], Any, float]:
    # Sources with their rows, the explained model to unlearn from, and the learning rate.
    name = type(method).__name__
    names, members = sources(problem, method.column, method=name)
    from steelyard.collect.sandbox import Sandbox  # torch, for those who have it

    box = Sandbox(problem, explained(problem, run), run, method=name)
    return names, members, box, rate_of(problem, method.rate)


def _unlearn(box: Any, method: UnTrac | UnTracInv, examples: Examples, rate: float, size: int) -> None:
    box.unlearn(examples, epochs=method.epochs, rate=rate, size=size, optimiser=method.optimiser)


def _key(problem: Problem, facts: tuple[object, ...]) -> str:
    text = repr((problem.mark(), problem.query.checksum, *facts))
    return f"unlearning/{hashlib.sha256(text.encode()).hexdigest()[:24]}"
