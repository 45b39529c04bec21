"""``steelyard value``: what is each training example worth?"""

import json
from pathlib import Path
from typing import Annotated

import typer

from steelyard import flow
from steelyard.cli import options
from steelyard.cli.guard import guarded
from steelyard.cli.model import DataOptions, load_problem
from steelyard.cli.session import PAGE, Shown, finished_report, request_of, session, write_report
from steelyard.cli.show import number, table, write_csv

_TABLE = "values.csv"


@guarded
def value(  # noqa: PLR0913 - one parameter per option
    model: options.Model,
    *,
    out: options.Out,
    train: options.Train = None,
    query: options.Query = None,
    method: options.Method = "knn_shapley",
    settings: options.Set = None,
    top: Annotated[int, typer.Option(help="Lowest and highest values to print.", min=1)] = 10,
    text_column: options.TextColumn = None,
    label_column: options.LabelColumn = None,
    id_column: options.IdColumn = None,
    seed: options.Seed = 0,
    trust: options.Trust = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    fresh: options.Fresh = False,
) -> None:
    """Value every training example by its mean score over the queries, with an interval.

    Writes RUN/values.csv, one row per training example. The interval says how the value may change with other
    queries.

    Example: steelyard value model.py:build --method knn_shapley --out runs/value
    """
    shown = Shown(quiet=quiet, as_json=as_json, fresh=fresh)
    chosen = options.method_of(method, settings)
    data = DataOptions(train=train, query=query, text=text_column, label=label_column, id=id_column)
    problem = load_problem(model, data, seed=seed, trust=trust)
    request = request_of("value", model, data, problem, trust=trust) | {"method": str(chosen)}
    with session(out, request, shown) as run:
        report = finished_report(run) or flow.explain(problem, chosen, run, baselines=False)
        scores = report.scores[0]
        values = flow.value_table(scores)
        if not run.finished:
            write_csv(values, run.path(_TABLE))
            write_report(report, run)
    folder = Path(out)
    if as_json:
        typer.echo(json.dumps({"run": str(folder), "unit": scores.unit, "values": values.to_dicts()}))
        return
    rows = [*values.head(top).iter_rows(), *values.tail(max(0, min(top, len(values) - top))).iter_rows()]
    head = ("example", f"value ({scores.unit})", "low", "high")
    typer.echo(
        table(head, [(name, number(mean), number(low), number(high)) for name, mean, low, high in rows])
    )
    typer.echo(f"\nvalues  {folder / _TABLE}\nreport  {folder / PAGE}")
