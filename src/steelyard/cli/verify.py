"""``steelyard verify``: can I believe these scores?"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from steelyard import flow
from steelyard import report as reports
from steelyard.cli import options
from steelyard.cli.guard import guarded
from steelyard.cli.language import LanguageOptions
from steelyard.cli.model import DataOptions, load_problem
from steelyard.cli.session import RECORDS, Shown, finished_report, session, tell, write_report
from steelyard.errors import DataError, RunError
from steelyard.problem import Problem
from steelyard.records import Report
from steelyard.run import read_manifest

_FOLDER = "verified"


@guarded
def verify(  # noqa: PLR0913 - one parameter per option
    run: Annotated[Path, typer.Argument(help="A finished run folder.", metavar="RUN", show_default=False)],
    *,
    metric: Annotated[
        str, typer.Option(help=f"Comma-separated: {', '.join(flow.METRICS)}.", metavar="NAMES")
    ] = "lds,retraining",
    seeds: Annotated[
        int | None, typer.Option(help="Training seeds per fit; else the metric's own.", min=1)
    ] = None,
    subsets: Annotated[int, typer.Option(help="Random subsets for lds.", min=8)] = 64,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    fresh: options.Fresh = False,
) -> None:
    """Retrain to see whether the scores of a run, and its plans, say what happens.

    The evidence is kept in RUN/verified, with a report of its own; RUN itself is not changed. Fits are never
    those that scoring saw, and random controls are always beside. Every finished fit is kept: the same
    command continues.

    Example: steelyard verify runs/first --metric lds,retraining --seeds 5
    """
    shown = Shown(quiet=quiet, as_json=as_json, fresh=fresh)
    problem = _problem_of(run)
    names = [name.strip() for name in metric.split(",") if name.strip()]
    request = {
        "command": "verify",
        "of": read_manifest(run).fingerprint,
        "metrics": names,
        "seeds": seeds,
        "subsets": subsets,
        "checksums": problem.checksums(),
    }
    with session(run / _FOLDER, request, shown) as verification:
        report = finished_report(verification)
        if report is None:
            report = flow.verify_report(
                problem,
                _with_data(run, problem),
                metrics=names,
                seeds=seeds,
                subsets=subsets,
                run=verification,
            )
            write_report(report, verification)
    tell(report, run / _FOLDER, shown, top=5)


def _problem_of(run: Path) -> Problem:
    """The problem of a finished run, from its request; the same data and model, or an error."""
    manifest = read_manifest(run)
    request = manifest.request
    if "model" not in request:
        raise RunError(
            f"{run} was not made from a model and data that can be loaded again.",
            fix="give a folder that attribute, value or clean wrote; in Python, use steelyard.verify.",
        )
    problem = load_problem(
        request["model"],
        DataOptions(**request["data"]),
        seed=request["seed"],
        trust=request["trust"],
        language=LanguageOptions(**request.get("language", {})),
    )
    for name, checksum in problem.checksums().items():
        if request["checksums"][name] != checksum:
            raise DataError(
                f"{run}: the {name} changed since the run: checksum {request['checksums'][name][:12]} then, "
                f"{checksum[:12]} now.",
                fix="restore it as it was, or give the command of the run again with another --out.",
            )
    return problem


def _with_data(run: Path, problem: Problem) -> Report:
    """The report of the run, about all examples instead of those that its page shows."""
    loaded = reports.load(run / RECORDS)
    return replace(loaded, train=problem.train)
