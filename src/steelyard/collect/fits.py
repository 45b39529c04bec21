"""Refits: models trained on designed weightings of the training set, and what they say about the queries.

Scoring and verification draw their seeds from different streams and keep their fits under different keys, so
that no verifier ever reads a fit that a method has seen.
"""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from steelyard.collect.refits import Wanted, make
from steelyard.errors import SettingError, ShapeError
from steelyard.problem import HasState, Problem
from steelyard.run import Run
from steelyard.run.seeds import stream

Purpose = Literal["scoring", "verification"]


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What refits said about the queries.

    Attributes:
        values: ``float64["fit query"]`` The measurement of every query after every fit; NaN where it failed.
        failed: ``bool[" fit"]`` Fits without an outcome.
        messages: Why each failed fit failed; empty text for the others.
    """

    values: np.ndarray
    failed: np.ndarray
    messages: tuple[str, ...]

    def note(self) -> str:
        """How many fits failed and why the first one did; empty if none did."""
        count = int(self.failed.sum())
        if not count:
            return ""
        first = next(message for message in self.messages if message)
        return f"{count} of {len(self.failed)} fits failed and are left out; the first because: {first}"


def explained(problem: Problem, run: Run) -> Any:
    """The model whose behaviour is asked about, trained once per run folder.

    Cost: one fit, or none if the learner came with a trained model or the run folder already has it.

    Returns:
        The fitted model, as its learner knows it.

    Raises:
        FitError: If the training fails.
    """
    trained = bool(problem.learner.settings().get("trained", False))
    fit = functools.partial(problem.learner.explained, problem.train, seed=problem.seed)
    return _fitted(problem, run, name=f"explained-{problem.seed}", fit=fit, fits=0 if trained else 1)


def ensemble(problem: Problem, count: int, run: Run) -> list[Any]:
    """Models that differ in nothing but the seed; the first is the explained one.

    Cost: ``count - 1`` fits besides the explained model; those that the run folder has are read.

    Args:
        problem: Learner and training examples.
        count: How many models.
        run: Where they are kept, if the learner can write its models as arrays.

    Raises:
        SettingError: If ``count`` is below 1.
        FitError: If a training fails.
    """
    if count < 1:
        raise SettingError(f"ensemble: count is {count}.", fix="ask for at least one model.")
    models = [explained(problem, run)]
    with run.progress("ensemble", count, unit="fits") as progress:
        progress.advance()
        for k in range(1, count):
            seed = stream(problem.seed, "ensemble", k)
            fit = functools.partial(problem.learner.fit, problem.train, seed=seed)
            models.append(_fitted(problem, run, name=f"ensemble-{seed}", fit=fit, fits=1))
            progress.advance()
    return models


def outcomes(
    problem: Problem,
    weightings: Float[np.ndarray, "fit train"],
    seeds: Sequence[int],
    run: Run,
    *,
    purpose: Purpose,
) -> Outcomes:
    """Train once per weighting and measure every query after it.

    Examples of weight 0 are removed before the fit; if all others weigh 1 the learner gets a plain subset,
    so that learners without sample weights can be refitted on subsets. Learners that can make many fits at once
    make them in blocks (see :mod:`steelyard.collect.refits`), so ask for many rows at a time. Each fit is kept in
    the run folder as soon as it or its block is finished; a killed run goes on with those that are missing. A
    row that occurs twice with the same seed is trained once.

    Cost: one fit per distinct pair of weighting and seed.

    Args:
        problem: Learner, training examples, queries.
        weightings: Weight of every training example in every fit.
        seeds: Number of the training seed of every fit: 0, 1, … Equal numbers are paired: the same
            initialisation and the same order of the examples that both have.
        run: Where fits are kept, counted and shown.
        purpose: Names the stream that the seeds are drawn from, and the keys that the fits are kept under.

    Returns:
        Outcomes in the order of ``weightings``. A training that fails, or after which a measurement is not
        finite, is a failed fit: NaN, with its message, never a default number.

    Raises:
        ShapeError: If weightings, seeds and training examples disagree in number.
        SettingError: If a weight is negative or not finite.
    """
    _check(problem, weightings, seeds)
    context = repr(sorted(problem.checksums().items())).encode()
    wanted: dict[str, Wanted] = {}
    keys: list[str] = []
    drawn = {number: stream(problem.seed, purpose, number) for number in set(seeds)}
    for weights, what, number in zip(weightings, _contents(weightings), seeds, strict=True):
        seed = drawn[number]
        digest = hashlib.blake2b(context + what + seed.to_bytes(8, "little"), digest_size=16)
        key = f"fits/{purpose}/{digest.hexdigest()}"
        wanted.setdefault(key, Wanted(key, weights, seed))
        keys.append(key)
    with run.progress(f"refits for {purpose}", len(wanted), unit="fits") as progress:
        kept = make(problem, list(wanted.values()), run, progress)
    found = [kept[key] for key in keys]
    messages = tuple(str(np.asarray(one["message"]).item()) for one in found)
    values = np.array([one["values"] for one in found], dtype=np.float64)
    return Outcomes(
        values=values.reshape(len(keys), len(problem.query)),
        failed=np.array([bool(message) for message in messages], dtype=bool),
        messages=messages,
    )


def fit_seeds(problem: Problem, count: int, *, purpose: Purpose) -> dict[str, int]:
    """The seeds behind seed numbers 0 … count - 1, by name, for provenance."""
    return {f"{purpose} {number}": stream(problem.seed, purpose, number) for number in range(count)}


def _check(problem: Problem, weightings: np.ndarray, seeds: Sequence[int]) -> None:
    if weightings.shape[1] != len(problem.train) or len(weightings) != len(seeds):
        raise ShapeError(
            f"weightings have shape {weightings.shape}, but there are {len(seeds)} seeds and "
            f"{len(problem.train)} training examples.",
            fix="give one row and one seed per fit, one column per training example.",
        )
    if not bool(np.all(np.isfinite(weightings)) and np.all(weightings >= 0)):
        row = int(np.argmin(np.all(np.isfinite(weightings) & (weightings >= 0), axis=1)))
        raise SettingError(
            f"weighting {row} has a negative weight or one that is not finite.",
            fix="weights are 0 (absent) or positive.",
        )


def _contents(weightings: np.ndarray) -> list[bytes]:
    """What tells each row from others: who is present, and their weights unless all of them are 1."""
    present = np.packbits(weightings != 0, axis=1)
    weighted = ((weightings != 0) & (weightings != 1)).any(axis=1)
    return [
        bits.tobytes() + (np.ascontiguousarray(row, dtype=np.float64).tobytes() if own else b"")
        for bits, row, own in zip(present, weightings, weighted.tolist(), strict=True)
    ]


def _fitted(problem: Problem, run: Run, *, name: str, fit: Any, fits: int) -> Any:
    learner = problem.learner

    def train() -> Any:
        if fits:
            run.spend(fits=fits)
        return fit()

    # Without a folder, writing the model as arrays and reading it again would only cost time and memory.
    if run.folder is None or not isinstance(learner, HasState):
        return train()
    facts = f"{problem.train.checksum}|{learner.fingerprint()}|{name}"
    digest = hashlib.blake2b(facts.encode(), digest_size=12).hexdigest()
    return learner.restore(run.keep(f"fits/{name.partition('-')[0]}/{digest}", lambda: learner.dump(train())))
