"""Fits that are made one by one, in several worker processes at once: whether that pays, and how.

A worker uses one thread and gets the same examples, weights and seed as the loop, so its fits are those of the loop
in one thread, bit for bit; a loop in several threads sums in another order. Whatever else could make a difference
(a default number type, a flag of a framework) is found by making one fit twice, here and there.
"""

import functools
import os
import sys
from collections.abc import Callable, Generator, Sequence

import numpy as np

from steelyard.errors import RunError
from steelyard.problem import Problem
from steelyard.run import Run
from steelyard.run.cost import memory
from steelyard.run.pool import Pool, cores

GAIN = 6.0
"""Seconds that workers must save; their start takes about half of it where a framework is imported."""

_FEWEST = 4
_ALIKE = 1e-3

Measured = dict[str, np.ndarray]
Task = tuple[np.ndarray, int]
Work = Callable[[Problem, Task], Measured]


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
    problem: Problem, work: Work, tasks: Sequence[Task], known: tuple[Task, Measured], run: Run, count: int
) -> Generator[tuple[int, Measured], None, None]:
    """What fits measure, with their place among the tasks, as soon as each is made.

    Nothing where workers cannot make them, or come out differently; the run's notes say why.

    Cost: one more fit than there are tasks, uncounted: the one that is compared.

    Args:
        problem: Sent to every worker.
        work: Makes one fit: a function that a module defines.
        tasks: Weightings and seeds.
        known: A task that was done here, and what it measured.
        run: Takes notes.
        count: Workers.

    Raises:
        RunError: If a worker is killed.
    """
    try:
        pool = Pool(functools.partial(work, problem), count)
    except RunError as error:
        run.note(f"fits are made one by one: {type(problem.learner).__name__}: {error.problem}")
        return
    task, here = known
    waiting: list[tuple[int, Measured]] = []
    agreed = False
    with pool:
        for place, found in pool.results([task, *tasks]):
            if agreed:
                yield place - 1, found
            elif place:
                waiting.append((place - 1, found))
            elif apart := _difference(here, found):
                run.note(f"fits are made one by one: {apart}")
                return
            else:
                agreed = True
                run.note(
                    f"fits were made in {count} processes of one thread each; one that was made here as well came "
                    "out the same"
                )
                yield from waiting


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
