"""How sampled values spend their fits: in batches of independent units, until budget, precision, time or Ctrl-C.

A sampler says what the most expensive unit takes and tallies a range of units. After every batch the estimate is
valid: stopping early only makes standard errors larger. Because units have stable rows and fits are kept, the same
call with a larger budget goes on where this one stopped.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from steelyard.collect.games import Game, check_budget
from steelyard.errors import NumericsError, SettingError
from steelyard.maths.tallies import Tally, merge, standard_errors
from steelyard.problem import Problem
from steelyard.records import Scores, Uncertainty
from steelyard.run import Run
from steelyard.score.driver import Started, make_scores

_BATCHES = 8  # at least so many looks at the estimate
_LARGEST_BATCH = 4096  # fits; as many as a stacked engine may want at once
_LEAST_UNITS = 8  # before precision may stop: fewer give no trustworthy standard error

Reason = Literal["fits", "precision", "seconds", "interrupted"]


@runtime_checkable
class Counted(Protocol):
    """Something that counts the distinct fits asked of it."""

    @property
    def spent(self) -> int:
        """Fits so far."""
        ...


@dataclass(frozen=True)
class Effort:
    """When to stop.

    Attributes:
        fits: Budget of distinct fits.
        precision: Stop once no standard error of a value (mean over the queries) is larger; 0: never.
        seconds: Begin no batch that would end later; 0: never stop for time.
    """

    fits: int
    precision: float | int = 0.0
    seconds: float | int = 0.0

    def __post_init__(self) -> None:
        if self.fits < 1 or self.precision < 0 or self.seconds < 0:
            raise SettingError(
                f"fits={self.fits}, precision={self.precision}, seconds={self.seconds}.",
                fix="give at least one fit; precision and seconds are 0 (off) or positive.",
            )


@dataclass(frozen=True, eq=False)
class Sampler:
    """Independent units of work whose contributions average to the values.

    Attributes:
        unit: Fits that one unit takes at most.
        draw: From a range of units to the tally of their contributions, ``[player, column]``.
        least: Units for the first standard error.
        often: How many times more units than the budget would pay for at their highest price may be drawn, for
            samplers whose units can be cheaper.
    """

    unit: int
    draw: Callable[[range], Any]
    least: int = 2
    often: int = 1


@dataclass(frozen=True, eq=False)
class Gathered:
    """What units came to.

    Attributes:
        state: Their tallies, combined.
        units: Units drawn.
        stopped: Why no more were drawn.
    """

    state: Any
    units: int
    stopped: Reason


@dataclass(frozen=True, eq=False)
class Estimate:
    """Values of the players with standard errors; the last column is the mean over the queries.

    Attributes:
        values: ``float["player column"]``
        errors: ``float["player column"]``
        units: Units drawn.
        stopped: Why no more were drawn.
    """

    values: Float[np.ndarray, "player column"]
    errors: Float[np.ndarray, "player column"]
    units: int
    stopped: Reason


Finish = Callable[[Any], tuple[np.ndarray, np.ndarray]]
Combine = Callable[[Any, Any], Any]


def finish_mean(found: Tally) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error of each; NaN without samples."""
    return np.where(found.count > 0, found.mean, np.nan), standard_errors(found)


def with_mean(utilities: Float[np.ndarray, "*row query"]) -> Float[np.ndarray, "*row column"]:
    """The utilities with their mean over the queries as one more column."""
    return np.concatenate([utilities, utilities.mean(axis=-1, keepdims=True)], axis=-1)


def estimate(  # noqa: PLR0913 - the game, how to sample it, and when to stop
    sampler: Sampler,
    game: Game,
    effort: Effort,
    run: Run,
    *,
    method: str,
    finish: Finish = finish_mean,
    combine: Combine = merge,
) -> Estimate:
    """Draw units until something says stop, and turn their tally into values.

    Args:
        sampler: What a unit is.
        game: Whose fits are counted; what it has spent before belongs to the budget.
        effort: When to stop.
        run: Shows progress and takes notes.
        method: Who asks, for messages.
        finish: From the tally to values and standard errors.
        combine: Adds two tallies.

    Raises:
        SettingError: If the budget does not even pay for the first standard error.
        KeyboardInterrupt: If Ctrl-C comes before that.
    """

    def enough(found: Any, units: int) -> bool:
        if not effort.precision or units < _LEAST_UNITS:
            return False
        errors = finish(found)[1][:, -1]
        return bool(np.isfinite(errors).all() and errors.max() <= effort.precision)

    found = gather(sampler, game, effort, run, method=method, combine=combine, enough=enough)
    values, errors = finish(found.state)
    return Estimate(values, errors, found.units, found.stopped)


def gather(  # noqa: PLR0913 - as above
    sampler: Sampler,
    counted: Counted,
    effort: Effort,
    run: Run,
    *,
    method: str,
    combine: Combine,
    enough: Callable[[Any, int], bool] = lambda state, units: False,
) -> Gathered:
    """Draw units until something says stop.

    Args:
        sampler: What a unit is.
        counted: Whose fits are counted; what it has spent before belongs to the budget.
        effort: When to stop.
        run: Shows progress and takes notes.
        method: Who asks, for messages.
        combine: Adds two tallies.
        enough: Whether the tally of so many units is precise enough.

    Raises:
        SettingError: If the budget does not even pay for the first estimate.
        KeyboardInterrupt: If Ctrl-C comes before that.
    """
    fixed = counted.spent
    check_budget(effort.fits, fixed + sampler.least * sampler.unit, method=method, unit="the first estimate")
    most = sampler.often * ((effort.fits - fixed) // sampler.unit)
    size = max(sampler.least, min(_LARGEST_BATCH, -(-effort.fits // _BATCHES)) // sampler.unit)
    state, units, stopped = None, 0, "fits"
    clock = _Clock(effort.seconds)
    with run.progress(method, effort.fits, unit="fits") as progress:
        while units < most:
            room = (effort.fits - counted.spent) // sampler.unit if sampler.often > 1 else most
            batch = range(units, min(units + size, units + room, most))
            if not len(batch):
                break
            before = counted.spent
            try:
                part = sampler.draw(batch)
            except KeyboardInterrupt:
                if units < sampler.least:
                    raise
                stopped = "interrupted"
                break
            state, units = part if state is None else combine(state, part), batch.stop
            progress.advance(counted.spent - before)
            if enough(state, units):
                stopped = "precision"
                break
            if units < most and clock.strikes():
                stopped = "seconds"
                break
    if counted.spent > effort.fits:
        raise AssertionError(f"{method} made {counted.spent} fits of {effort.fits} allowed")
    _tell(stopped, counted.spent, effort, run, method=method, seconds=clock.elapsed())
    return Gathered(state, units, stopped)


def value_scores(  # noqa: PLR0913 - one argument per thing that the record is made of
    method: object,
    problem: Problem,
    run: Run,
    game: Game,
    found: Estimate,
    *,
    started: Started,
    freedom: float | int | None = None,
    resolved: dict[str, Any] | None = None,
) -> Scores:
    """The record of estimated values: pair scores with the standard errors of pairs and of means.

    Raises:
        NumericsError: If outcomes never differed, or a player has no valid sample.
    """
    name = type(method).__name__
    game.check_varied()
    if note := game.note():
        run.note(note)
    missing = np.flatnonzero(~np.isfinite(found.values).all(axis=1))
    if len(missing):
        raise NumericsError(
            f"{name}: {len(missing)} of {len(found.values)} values have no valid sample, the first is that of "
            f"{str(game.players.names[missing[0]])!r}. {game.note()}",
            fix="raise fits=, or make the fits succeed on small subsets (smallest=).",
        )
    values, errors = game.players.rows(found.values), game.players.rows(found.errors)
    finite = errors[np.isfinite(errors[:, -1]), -1]
    facts = {
        "players": len(game.players),
        "fits": game.spent,
        "units": found.units,
        "stopped by": found.stopped,
        "largest standard error": float(finite.max()) if len(finite) else None,
        **(resolved or {}),
    }
    scores = make_scores(
        method,
        problem,
        values[:, :-1],
        run,
        unit=problem.learner.measurement.unit,
        train_ids=game.players.shown,
        resolved=facts,
        started=started,
    )
    freedom = max(1, found.units - 1) if freedom is None else freedom
    return replace(scores, uncertainty=Uncertainty(errors[:, :-1], errors[:, -1], freedom)).check_finite()


class _Clock:
    """Says when the next batch would end too late, if it takes as long as the last one."""

    def __init__(self, seconds: float | int) -> None:
        self._seconds, self._began = seconds, time.monotonic()
        self._last = self._began

    def elapsed(self) -> float:
        return time.monotonic() - self._began

    def strikes(self) -> bool:
        now = time.monotonic()
        took, self._last = now - self._last, now
        return bool(self._seconds) and now - self._began + took > self._seconds


def _tell(stopped: Reason, spent: int, effort: Effort, run: Run, *, method: str, seconds: float) -> None:
    made = f"{spent} of {effort.fits} fits"
    if stopped == "seconds":
        whole = seconds * effort.fits / max(1, spent)
        run.note(
            f"{method} stopped after {seconds:.0f} s with {made}; all of them would take about {whole:.0f} s. Values "
            "are as valid, intervals wider"
        )
    if stopped == "interrupted":
        run.note(
            f"{method} was interrupted after {made}. Values are as valid, intervals wider; the same call goes on from "
            "the fits that are kept"
        )
    if stopped == "precision":
        run.note(f"{method} reached its precision after {made}")
