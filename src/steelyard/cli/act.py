"""``steelyard act``: systems that choose, weigh or clean training data, and what they are worth."""

import json
from pathlib import Path
from typing import Annotated

import typer

from steelyard import flow
from steelyard import report as reports
from steelyard.cli import options
from steelyard.cli.guard import guarded
from steelyard.cli.session import Shown, session
from steelyard.cli.show import table, write_csv
from steelyard.flow.systems import SYSTEMS, system_class
from steelyard.records import Comparison
from steelyard.run.progress import printable

act = typer.Typer(name="act", no_args_is_help=True, help="Systems that choose, weigh or clean training data.")

_RECORD, _TABLE, _PAGE = "comparison.json", "comparison.csv", "comparison.html"


@act.command()
@guarded
def compare(
    config: Annotated[
        Path, typer.Argument(help="YAML: tasks, systems, budget.", metavar="CONFIG", show_default=False)
    ],
    *,
    out: options.OutOfConfig = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    fresh: options.Fresh = False,
) -> None:
    """Let several systems choose, weigh or clean the training data at equal budget, and retrain with their plans.

    Prints the effect of each against random examples with its interval, and what it cost. Random and a shorter
    training on everything always stand beside. Half of the queries are the systems' target, the other half judges.
    Killed at any moment, the same command goes on with what is missing. Writes RUN/comparison.json, .csv and .html,
    one page that loads nothing.

    Example: steelyard act compare examples/compare.yaml
    """
    from steelyard.cli.compare_file import read_comparison

    shown = Shown(quiet=quiet, as_json=as_json, fresh=fresh)
    asked = read_comparison(config)
    checksums = {task.name: task.problem.checksums() for task in asked.tasks}
    request = {"command": "act compare", "configuration": asked.plain, "tasks": checksums}
    folder = Path(out or Path("runs", config.stem))
    with session(str(folder), request, shown) as run:
        if run.finished:
            found = Comparison.load(run.path(_RECORD))
        else:
            found = flow.compare(asked.tasks, asked.systems, asked.terms, title=asked.title, run=run)
            found.save(run.path(_RECORD))
            write_csv(reports.comparison.frame(found), run.path(_TABLE))
            reports.comparison.html(found, path=run.path(_PAGE))
    if as_json:
        facts = {
            "run": str(folder),
            "report": str(folder / _PAGE),
            "says": reports.comparison.in_words(found),
        }
        typer.echo(json.dumps({**facts, "rows": reports.comparison.frame(found).to_dicts()}))
        return
    for task in found.tasks:
        part = reports.comparison.by_task(found, task)
        typer.echo(f"{printable(part.caption)}\n{table(part.head, part.rows)}\n")
    for row in reports.comparison.failures(found).rows:
        typer.echo(printable(f"{row[2]}: {row[0]}, {row[1]}: {row[3]}"))
    for row in found.rows:
        for note in row.notes:
            typer.echo(printable(f"note: {row.task}: {note}"))
    says = reports.comparison.in_words(found)
    typer.echo(f"\n{says}\n\nreport  {folder / _PAGE}\ntable   {folder / _TABLE}")


@act.command()
@guarded
def systems() -> None:
    """List the systems that `steelyard act compare` knows: paper, needs, cost.

    Example: steelyard act systems
    """
    cards = [(name, system_class(name).card) for name in SYSTEMS]
    head = ("name", "paper", "needs", "cost", "good for")
    rows = [(name, card.paper, card.needs, card.cost, card.good_for) for name, card in cards]
    typer.echo(table(head, rows))
