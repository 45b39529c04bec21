"""``steelyard leaderboard``: which method is best, over tasks and metrics, beside the baselines?"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from steelyard import flow
from steelyard import report as reports
from steelyard.cli import options
from steelyard.cli.guard import guarded
from steelyard.cli.session import Shown, session
from steelyard.cli.show import table, write_csv
from steelyard.records import Leaderboard
from steelyard.run.on_ray import RayWorkers
from steelyard.run.progress import printable

_RECORD, _TABLE, _PAGE = "leaderboard.json", "leaderboard.csv", "leaderboard.html"


@guarded
def leaderboard(
    config: Annotated[
        Path, typer.Argument(help="YAML: tasks, methods, metrics.", metavar="CONFIG", show_default=False)
    ],
    *,
    out: options.OutOfConfig = None,
    ray: options.Ray = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    fresh: options.Fresh = False,
) -> None:
    """Score every task by every method, verify by every metric, and rate the methods.

    Random scores and the other baselines always stand beside. Killed at any moment, the same command goes on with the
    first cell that is missing. Writes RUN/leaderboard.json, .csv and .html, one page that loads nothing.

    Example: steelyard leaderboard examples/leaderboard.yaml
    """
    from steelyard.cli.leaderboard_file import read_board

    shown = Shown(quiet=quiet, as_json=as_json, fresh=fresh)
    board = read_board(config)
    checksums = {task.name: task.problem.checksums() for task in board.tasks}
    request = {"command": "leaderboard", "configuration": board.plain, "tasks": checksums}
    folder = Path(out or Path("runs", config.stem))
    with session(str(folder), request, shown) as run:
        if run.finished:
            found = Leaderboard.load(run.path(_RECORD))
        else:
            if ray is not None:
                run.workers = RayWorkers(ray)
            found = flow.leaderboard(
                board.tasks, board.methods, board.metrics, title=board.title, seed=board.seed, run=run
            )
            found.save(run.path(_RECORD))
            write_csv(reports.leaderboard.frame(found), run.path(_TABLE))
            reports.leaderboard.html(found, path=run.path(_PAGE))
    if as_json:
        facts = {"run": str(folder), "report": str(folder / _PAGE)}
        rows = reports.leaderboard.frame(found).to_dicts()
        standings = [asdict(one) for one in found.standings]
        typer.echo(json.dumps({**facts, "standings": standings, "cells": rows}))
        return
    parts = (
        reports.leaderboard.standings(found),
        *(reports.leaderboard.by_task(found, t) for t in found.tasks),
    )
    for part in parts:
        typer.echo(f"{printable(part.caption)}\n{table(part.head, part.rows)}\n")
    for row in reports.leaderboard.failures(found).rows:
        typer.echo(printable(f"{row[2]}: {row[0]}, {row[1]}, {row[3]}: {row[4]}"))
    typer.echo(
        f"\n{reports.leaderboard.in_words(found)}\n\nreport  {folder / _PAGE}\ntable   {folder / _TABLE}"
    )
