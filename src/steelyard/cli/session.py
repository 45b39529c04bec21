"""What commands with a run folder share: opening it, and leaving the report in it."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import typer

from steelyard import flow
from steelyard import report as reports
from steelyard.cli.model import DataOptions
from steelyard.problem import Problem
from steelyard.records import Report
from steelyard.run import Run, open_run
from steelyard.run.on_ray import RayWorkers

PAGE = "report.html"
RECORDS = "report"


@dataclass(frozen=True)
class Shown:
    """How a command speaks.

    Attributes:
        quiet: No progress.
        as_json: Results as JSON on standard output, progress as JSON lines on standard error.
        fresh: Discard what the run folder holds.
    """

    quiet: bool = False
    as_json: bool = False
    fresh: bool = False


@dataclass(frozen=True)
class Means:
    """What fits may be taken from and how long they may take.

    Attributes:
        bank: Folder of a bank of fits.
        time_budget: Seconds that the work may take by prediction.
        ray: Address of the Ray that makes the fits.
    """

    bank: str | None = None
    time_budget: float | None = None
    ray: str | None = None


@contextmanager
def session(out: str | Path, request: Mapping[str, Any], shown: Shown) -> Iterator[Run]:
    """The run folder of a command, locked while it works; whoever made its fits is let go at the end."""
    show = "json" if shown.as_json else "quiet" if shown.quiet else "auto"
    with open_run(out, request, show=show, fresh=shown.fresh) as run:
        try:
            yield run
        finally:
            if run.workers is not None:
                run.workers.close()


def provide(run: Run, problem: Problem, means: Means, *, purpose: Literal["scoring", "verification"]) -> None:
    """Give a run its bank, its time budget and its workers; nothing if it is finished.

    Raises:
        RunError: If the bank is none, or one of other data, another model or seed, or for the other purpose; or if
            there is no Ray at the address.
    """
    if run.finished:
        return
    run.allowed = means.time_budget
    flow.use_bank(means.bank, problem, run, purpose=purpose)
    if means.ray is not None:
        run.workers = RayWorkers(means.ray)


def request_of(
    command: str, model: str, data: DataOptions, problem: Problem, *, trust: bool
) -> dict[str, Any]:
    """What the result depends on, in plain values; ``steelyard verify`` loads the problem from them."""
    return {
        "command": command,
        "model": model,
        "data": asdict(data),
        "trust": trust,
        "seed": problem.seed,
        "checksums": problem.checksums(),
    }


def finished_report(run: Run) -> Report | None:
    """The report of a run that was finished before; None if there is work to do."""
    return reports.load(run.path(RECORDS)) if run.finished else None


def write_report(report: Report, run: Run) -> None:
    """Leave the report in the run folder: as one page, and as the records that the page is made of."""
    if run.finished:
        return
    reports.save(report, run.path(RECORDS))
    reports.html(report, path=run.path(PAGE))


def tell(report: Report, folder: Path, shown: Shown, *, top: int) -> None:
    """Print the result: as a table, or as JSON."""
    if shown.as_json:
        typer.echo(json.dumps(as_json(report, folder, top=top)))
        return
    typer.echo(reports.text(report))
    typer.echo(f"\nreport  {folder / PAGE}")


def as_json(report: Report, folder: Path, *, top: int) -> dict[str, Any]:
    """The result as plain values: what was asked, what came out, where it lies."""
    scores = report.scores[0]
    return {
        "run": str(folder),
        "report": str(folder / PAGE),
        "title": report.title,
        "verdict": report.verdict,
        "method": scores.method,
        "unit": scores.unit,
        "top": scores.top(top).to_dicts(),
        "plans": [{"action": plan.action, "ids": plan.ids.tolist()} for plan in report.plans],
        "evidence": [{**asdict(found), "summary": found.summary()} for found in report.evidence],
        "findings": [asdict(finding) for finding in report.findings],
        "cost": asdict(scores.provenance.cost),
    }
