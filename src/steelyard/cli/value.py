"""``steelyard value``: what is each training example worth?"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steelyard import flow
from steelyard.cli import options
from steelyard.cli.guard import guarded
from steelyard.cli.language import LanguageOptions, resolved
from steelyard.cli.model import DataOptions, load_problem
from steelyard.cli.recipe import recipe_pairs
from steelyard.cli.session import (
    PAGE,
    Means,
    Shown,
    finished_report,
    provide,
    request_of,
    session,
    write_report,
)
from steelyard.cli.show import number, table, write_csv
from steelyard.records import Scores

if TYPE_CHECKING:
    import polars as pl

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
    groups: Annotated[
        str,
        typer.Option(help="Value the groups that this column names instead of examples.", metavar="COLUMN"),
    ] = "",
    utility: Annotated[
        str | None,
        typer.Option(help="Measure the queries by this, such as accuracy, margin or loss.", metavar="NAME"),
    ] = None,
    bank: options.Bank = None,
    time_budget: options.TimeBudget = None,
    ray: options.Ray = None,
    top: Annotated[int, typer.Option(help="Lowest and highest values to print.", min=1)] = 10,
    text_column: options.TextColumn = None,
    label_column: options.LabelColumn = None,
    id_column: options.IdColumn = None,
    features: options.Features = None,
    parameter: options.Parameter = None,
    seed: options.Seed = 0,
    trust: options.Trust = False,
    adapter: options.Adapter = None,
    max_length: options.MaxLength = None,
    dtype: options.Dtype = None,
    recipe: options.RecipeOf = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    fresh: options.Fresh = False,
) -> None:
    """Value every training example, or group of them, by its mean score over the queries, with an interval.

    Writes RUN/values.csv, one row per training example or group. The interval says how the value may change with other
    random fits, or for methods without refits with other queries. Ctrl-C leaves what the fits so far say in
    RUN.part/values.csv; the same command goes on from there.

    Example: steelyard value model.py:build --method banzhaf --set fits=500 --out runs/value
    """
    shown = Shown(quiet=quiet, as_json=as_json, fresh=fresh)
    data = DataOptions(train, query, text_column, label_column, id_column, features, parameter)
    chosen = flow.grouped(options.method_of(method, settings), groups)
    language = resolved(Path(model), LanguageOptions(adapter, max_length, dtype, recipe=recipe_pairs(recipe)))
    problem = load_problem(model, data, seed=seed, trust=trust, language=language)
    problem = flow.with_utility(problem, utility)
    request = request_of("value", model, data, problem, trust=trust) | {
        "language": asdict(language),
        "method": str(chosen),
        "utility": utility,
    }
    with session(out, request, shown) as run:
        provide(run, problem, Means(bank, time_budget, ray), purpose="scoring")
        report = finished_report(run) or flow.explain(problem, chosen, run, baselines=False)
        scores = report.scores[0]
        values = flow.value_table(scores)
        if not run.finished:
            write_csv(values, run.path(_TABLE))
            write_report(report, run)
        if scores.provenance.resolved.get("stopped by") == "interrupted":
            _tell(scores, values, Path(f"{out}.part"), shown, top=top)
            # The run stays unfinished, so that the same command goes on instead of finding this.
            raise KeyboardInterrupt
    _tell(scores, values, Path(out), shown, top=top)


def _tell(scores: Scores, values: "pl.DataFrame", folder: Path, shown: Shown, *, top: int) -> None:
    meaning = flow.interval_meaning(scores)
    if shown.as_json:
        facts = {"run": str(folder), "unit": scores.unit, "interval": meaning, "values": values.to_dicts()}
        typer.echo(json.dumps(facts))
        return
    rows = [*values.head(top).iter_rows(), *values.tail(max(0, min(top, len(values) - top))).iter_rows()]
    head = ("example", f"value ({scores.unit})", "low", "high")
    shown_columns = 4 if meaning else 2  # no interval, no empty columns for it
    cells = [
        (name, number(mean), number(low), number(high))[:shown_columns] for name, mean, low, high in rows
    ]
    typer.echo(table(head[:shown_columns], cells))
    if meaning:
        typer.echo(f"\nlow and high: 95 % interval over {meaning}")
    typer.echo(f"\nvalues  {folder / _TABLE}\nreport  {folder / PAGE}")
