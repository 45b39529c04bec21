"""How missing fits are made: in blocks where the learner can make many at once, otherwise one by one.

One by one means in several processes where that pays, and by Ray where the user asked for it, as blocks then are too:
see :mod:`steelyard.collect.processes`.

Whichever way it is, every fit ends as the same two arrays under its own key: the measurements of the queries, and
the message of what went wrong, empty if nothing did. A fit that fails in a block is made once more by itself, so
that its message is that of a plain fit.
"""

import functools
import hashlib
import time
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from steelyard.collect.processes import measured_elsewhere, worth
from steelyard.errors import FitError
from steelyard.problem import HasFitsTogether, Problem
from steelyard.run import Run, in_memory
from steelyard.run.pool import Cores, Workers
from steelyard.run.progress import Progress

Kept = Mapping[str, np.ndarray]

_WORTH = 20
"""Missing fits from which one more, to see whether a fit repeats itself, is a small price."""
_ALIKE = 1e-6
_TIMED = 2
"""Fits that are timed: the first may also import and lay out."""
_COMPARED = 2
"""Fits of the first block that workers make again, to see that they come out the same."""


@dataclass(frozen=True, eq=False)
class Wanted:
    """A fit that is asked for.

    Attributes:
        key: What its outcome is kept under.
        weights: ``float[" train"]`` Weight of every training example; 0 is absent.
        seed: Of the training.
    """

    key: str
    weights: np.ndarray
    seed: int


Making = Generator[tuple[Wanted, Kept], None, None]


def make(problem: Problem, wanted: Sequence[Wanted], run: Run, progress: Progress) -> dict[str, Kept]:
    """The outcome of every fit that is asked for, by key: read if the run folder has it, otherwise made.

    Cost: one fit for each that is missing.

    Args:
        problem: Learner, training examples, queries.
        wanted: Fits with different keys.
        run: Where outcomes are kept and fits are counted.
        progress: Advanced by one for every fit.
    """
    found: dict[str, Kept] = {}
    missing: list[Wanted] = []
    run.take_lent(one.key for one in wanted)
    for one in wanted:
        if run.has(one.key):
            found[one.key] = _kept(problem, one, run)
            progress.advance(kept=True)
        else:
            missing.append(one)
    count = _together(problem, run) if missing else 1
    if count == 1 and len(missing) >= _WORTH:
        _check_repeatable(problem, missing[0], run)
    # Fits of similar size have equally many steps, and so share a block.
    missing.sort(key=lambda one: np.count_nonzero(one.weights))
    made = _in_blocks(problem, missing, count, run) if count > 1 else _singly(problem, missing, run)
    with closing(made):
        for one, kept in made:
            found[one.key] = kept
            progress.advance()
    return found


def is_plain(weights: Float[np.ndarray, " train"]) -> bool:
    """Whether all examples that are present weigh 1."""
    return bool(np.all((weights == 0) | (weights == 1)))


def _together(problem: Problem, run: Run) -> int:
    """How many fits to make at once; decided once per run folder, because it decides about rounding."""
    learner = problem.learner
    if not isinstance(learner, HasFitsTogether):
        return 1

    def decide() -> dict[str, np.ndarray]:
        note = learner.together_note(problem.train)
        return {"count": np.array(learner.together(problem.train)), "note": np.array(note)}

    facts = f"{problem.train.checksum}|{learner.fingerprint()}"
    digest = hashlib.blake2b(facts.encode(), digest_size=12).hexdigest()
    way = run.keep(f"fits/together/{digest}", decide)
    note = str(np.asarray(way["note"]).item())
    if note:
        run.note(note)
    return int(np.asarray(way["count"]).item())


def _check_repeatable(problem: Problem, one: Wanted, run: Run) -> None:
    """Note how far two fits of one weighting with one seed are apart, if they are; once per run folder.

    Fits that are made together need no such look: they were compared with fits one by one.
    """
    learner = problem.learner
    facts = f"{problem.train.checksum}|{problem.query.checksum}|{learner.fingerprint()}"
    digest = hashlib.blake2b(facts.encode(), digest_size=12).hexdigest()

    def measure() -> dict[str, np.ndarray]:
        quiet = in_memory()
        first, second = (_outcome(problem, one.weights, one.seed, quiet)["values"] for _ in range(2))
        return {"gap": np.array(np.abs(first - second).max()), "size": np.array(np.abs(first).max())}

    found = run.keep(f"fits/repeated/{digest}", measure)
    gap, size = float(found["gap"]), float(found["size"])
    if gap > _ALIKE * max(1.0, size):  # NaN, a failed fit, is told elsewhere
        run.note(
            f"two fits of the same examples with the same seed differ by up to {gap:.3g} "
            f"{learner.measurement.unit} on a query: the training of {type(learner).__name__} is random in ways that "
            "its seed does not control, which adds noise to everything that refits say"
        )


def _in_blocks(problem: Problem, missing: Sequence[Wanted], count: int, run: Run) -> Making:
    """One block after the other; after the first, the rest by workers if the user asked for them."""
    blocks = [missing[low : low + count] for low in range(0, len(missing), count)]
    found = _block(problem, _task_of(blocks[0]))
    yield from _keep_block(problem, blocks[0], found, run)
    good = np.flatnonzero(np.isfinite(found["values"]).all(axis=1))[:_COMPARED]
    if run.workers is None or not len(good):
        for block in blocks[1:]:
            yield from _keep_block(problem, block, _block(problem, _task_of(block)), run)
    elif len(blocks) > 1:
        known = _task_of([blocks[0][k] for k in good]), {**found, "values": found["values"][good]}
        tasks = [_task_of(block) for block in blocks[1:]]
        with closing(measured_elsewhere(problem, _block, tasks, known, run, run.workers)) as made:
            for place, outcome in made:
                yield from _keep_block(problem, blocks[1 + place], outcome, run)


def _keep_block(problem: Problem, block: Sequence[Wanted], found: Kept, run: Run) -> Making:
    """Keep a block's outcomes in one file; a fit without one is made by itself."""
    good = [bool(np.isfinite(row).all()) for row in found["values"]]
    run.spend(fits=sum(good))
    kept = run.keep_together(
        {
            one.key: {"values": own, "message": np.array("")}
            for one, own, fine in zip(block, found["values"], good, strict=True)
            if fine
        }
    )
    for one in block:
        yield one, kept[one.key] if one.key in kept else _kept(problem, one, run)


def _workers(missing: int, pace: float, timed: int, run: Run) -> Workers | None:
    """Who makes the fits that are still missing, after so many good ones at this pace; None: this process."""
    if run.workers is not None or not missing:
        return run.workers if missing else None
    count = worth(missing, pace) if timed == _TIMED else 1
    return Cores(count) if count > 1 else None


def _task_of(block: Sequence[Wanted]) -> tuple[np.ndarray, list[int]]:
    weights = [one.weights for one in block]
    return np.array(weights, dtype=np.float64), [one.seed for one in block]


def _singly(problem: Problem, missing: Sequence[Wanted], run: Run) -> Making:
    """One after the other; after the first few that work, the rest in several processes if that pays."""
    pace, timed = np.inf, 0
    rest = deque(missing)
    while rest:
        one = rest.popleft()
        began = time.perf_counter()
        kept = _kept(problem, one, run)
        took = time.perf_counter() - began
        yield one, kept
        if str(np.asarray(kept["message"]).item()):
            continue
        pace, timed = min(pace, took), timed + 1
        if workers := _workers(len(rest), pace, timed, run):
            known = ((one.weights, one.seed), dict(kept))
            tasks = [(other.weights, other.seed) for other in rest]
            left = dict(enumerate(rest))
            with closing(measured_elsewhere(problem, _measured, tasks, known, run, workers)) as made:
                for place, outcome in made:
                    other = left.pop(place)
                    run.spend(fits=int(other.weights.any()))
                    yield other, run.keep(other.key, functools.partial(dict, outcome))
            rest = deque(left.values())


def _block(problem: Problem, task: tuple[np.ndarray, list[int]]) -> dict[str, np.ndarray]:
    """Fits side by side: NaN where a fit is to be made by itself. Workers call it too."""
    learner, (weightings, seeds) = problem.learner, task
    nothing = {"values": np.full((len(seeds), len(problem.query)), np.nan), "message": np.array("")}
    if not isinstance(learner, HasFitsTogether):
        return nothing
    try:
        values = learner.measure_together(problem.train, weightings, seeds, problem.query)
    except FitError:
        return nothing
    whole = values.shape == nothing["values"].shape
    return {**nothing, "values": np.asarray(values, dtype=np.float64)} if whole else nothing


def _kept(problem: Problem, one: Wanted, run: Run) -> Kept:
    return run.keep(one.key, functools.partial(_outcome, problem, one.weights, one.seed, run))


def _outcome(problem: Problem, weights: np.ndarray, seed: int, run: Run) -> dict[str, np.ndarray]:
    run.spend(fits=int(weights.any()))
    return _measured(problem, (weights, seed))


def _measured(problem: Problem, task: tuple[np.ndarray, int]) -> dict[str, np.ndarray]:
    """One fit; workers call it too, in processes of their own."""
    weights, seed = task
    rows = np.flatnonzero(weights)
    nothing = np.full(len(problem.query), np.nan)
    if not len(rows):
        return {"values": nothing, "message": np.array("no training example has a positive weight")}
    examples = problem.train if len(rows) == len(weights) else problem.train.take(rows)
    try:
        fitted = problem.learner.fit(
            examples, weights=None if is_plain(weights) else weights[rows], seed=seed
        )
        values = np.asarray(problem.learner.measure(fitted, problem.query), dtype=np.float64)
    except FitError as error:
        return {"values": nothing, "message": np.array(error.problem or "the fit failed")}
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        query = str(problem.query.ids[bad[0]])
        message = (
            f"the {problem.learner.measurement.name} of query {query!r} is {values[bad[0]]} after the fit"
        )
        return {"values": nothing, "message": np.array(message)}
    return {"values": values, "message": np.array("")}
