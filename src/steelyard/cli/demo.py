"""``steelyard demo``: the whole loop on real data that every machine has."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from steelyard.cli import options
from steelyard.cli.guard import guarded
from steelyard.cli.session import Shown, finished_report, session, tell, write_report


class Which(StrEnum):
    """The demos."""

    DIGITS = "digits"
    TEXT = "text"


@guarded
def demo(
    which: Annotated[
        Which, typer.Argument(help="digits (90 seconds on two cores) or text (3 minutes).")
    ] = Which.DIGITS,
    *,
    out: options.Out = "runs/demo",
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    fresh: options.Fresh = False,
) -> None:
    """Attribute, find what is wrong, repair, verify by retraining, report: on real data, with no download.

    digits: scans of handwritten digits, 5 % of them with a wrong label, and a small network.
    text: Python's own reference, and a small transformer language model trained on it from scratch.

    Example: steelyard demo --out runs/demo
    """
    shown = Shown(quiet=quiet, as_json=as_json, fresh=fresh)
    request = {"command": "demo", "which": which.value, "seed": seed}
    with session(out, request, shown) as run:
        report = finished_report(run)
        if report is None:
            # PyTorch takes seconds to load, which a run that is finished already need not wait for.
            from steelyard.learners.small import one_thread

            if which is Which.DIGITS:
                from steelyard.cli.demo_digits import demo_digits as play
            else:
                from steelyard.cli.demo_text import demo_text as play
            with one_thread():
                report = play(run, seed=seed)
            write_report(report, run)
    tell(report, Path(out), shown, top=5)
