"""Fits that are made by workers, in processes of this machine or by Ray: whether that pays, and how.

A worker uses one thread and gets the same examples, weights and seed as the loop, so its fits are those of the loop
in one thread, bit for bit; a loop in several threads sums in another order. Whatever else could make a difference
(a default number type, a flag of a framework) is found by making one fit twice, here and there.
"""

import functools
import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from steelyard.errors import RunError
from steelyard.problem import Problem
from steelyard.run import Run
from steelyard.run.cost import memory
from steelyard.run.pool import Workers, cores

GAIN = 6.0
"""Seconds that workers must save; their start takes about half of it where a framework is imported."""

_FEWEST = 4
_ALIKE = 1e-3

Measured = dict[str, np.ndarray]
Work = Callable[[Problem, Any], Measured]


def worth(missing: int, seconds: float) -> int:
    """In how many processes to make fits; 1 where the loop is as good.

    Every core has a fit to make, or the loop might use them better; the processes fit into half of the memory; and
    no accelerator is in use, which all of them would share.

    Args:
        missing: Fits to make.
        seconds: That one takes.
    """
    count = min(cores(), _fitting())
    if count < 2 or missing < max(_FEWEST, count) or _on_accelerator():
        return 1
    return count if seconds * missing * (1 - 1 / count) >= GAIN else 1


def measured_elsewhere(
    problem: Problem,
    work: Work,
    tasks: Sequence[Any],
    known: tuple[Any, Measured],
    run: Run,
    workers: Workers,
) -> Generator[tuple[int, Measured], None, None]:
    """What fits measure, with their place among the tasks, as soon as each is made.

    Nothing where workers cannot make them, or come out differently; the run's notes say why. Workers that the user
    asked for must: then it is an error.

    Cost: one more task than there are, uncounted: the one that is compared.

    Args:
        problem: Sent to every worker.
        work: Makes one fit, or several: a function that a module defines.
        tasks: Weightings and seeds.
        known: A task that was done here, and what it measured.
        run: Takes notes.
        workers: Who makes them.

    Raises:
        RunError: If a worker is killed; if workers that were asked for cannot make the fits.
    """
    name = type(problem.learner).__name__
    try:
        pool = workers.opened(functools.partial(work, problem))
    except RunError as error:
        if workers.asked:
            raise _unable(workers, f"{name}: {error.problem}", error.fix) from error
        run.note(f"fits are made one by one: {name}: {error.problem}")
        return
    task, here = known
    waiting: list[tuple[int, Measured]] = []
    agreed = False
    with pool, closing(pool.results([task, *tasks])) as results:
        for place, found in results:
            if agreed:
                yield place - 1, found
            elif place:
                waiting.append((place - 1, found))
            elif apart := _difference(here, found):
                if workers.asked:
                    raise _unable(
                        workers, apart, "use the same versions everywhere and a training that its seed fixes."
                    )
                run.note(f"fits are made one by one: {apart}")
                return
            else:
                agreed = True
                run.note(f"fits were made in {workers}; one that was made here as well came out the same")
                yield from waiting


def _unable(workers: Workers, why: str, fix: str) -> RunError:
    return RunError(f"fits cannot be made in {workers}: {why}.", fix=f"{fix} Or leave out --ray.")


def _difference(here: Measured, there: Measured) -> str:
    message = str(np.asarray(there["message"]).item())
    if message:
        return f"a fit that works here fails in a process of its own: {message}"
    gap = float(np.abs(here["values"] - there["values"]).max())
    if gap <= _ALIKE * max(1.0, float(np.abs(here["values"]).max())):
        return ""
    return (
        f"in a process of its own, a fit came out differently by up to {gap:.3g} on a query; it is not repeatable, or "
        "depends on settings of this process"
    )


def _fitting() -> int:
    """Processes as large as this one that fit into half of the memory of the machine."""
    if sys.platform != "linux":
        return cores()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(total // 2 // max(1, memory()[0]))


def _on_accelerator() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())
