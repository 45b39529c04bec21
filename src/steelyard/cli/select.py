"""``steelyard select``: which examples should I train on, for this target and budget?"""

from pathlib import Path
from typing import Annotated

import typer

from steelyard import flow
from steelyard.cli import options
from steelyard.cli.guard import guarded
from steelyard.cli.model import DataOptions, load_problem
from steelyard.cli.session import Shown, finished_report, request_of, session, tell, write_report
from steelyard.cli.show import write_csv
from steelyard.flow.scoring import AUTO


@guarded
def select(  # noqa: PLR0913 - one parameter per option
    model: options.Model,
    *,
    out: options.Out,
    train: options.Train = None,
    query: options.Query = None,
    method: options.Method = AUTO,
    settings: options.Set = None,
    fraction: Annotated[float | None, typer.Option(help="Share of the training examples to keep.")] = None,
    count: Annotated[int | None, typer.Option(help="Or how many to keep.", min=1)] = None,
    temperature: Annotated[
        float,
        typer.Option(
            help="0 keeps the best; above, examples are drawn by Gumbel top-k (0.5 is usual).", min=0
        ),
    ] = 0.0,
    text_column: options.TextColumn = None,
    label_column: options.LabelColumn = None,
    id_column: options.IdColumn = None,
    seed: options.Seed = 0,
    trust: options.Trust = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    fresh: options.Fresh = False,
) -> None:
    """Choose which examples to train on for a target: the queries are examples of what the model should be good at.

    Writes RUN/selected.csv (id, weight, score and reason of every example that is kept) and the plan under
    RUN/report/plans, which `Plan.load(...).apply(train)` carries out. Whether training on them helps is for `verify`.

    Example: steelyard select model.py:build --method mates --fraction 0.3 --temperature 0.5 --out runs/select
    """
    shown = Shown(quiet=quiet, as_json=as_json, fresh=fresh)
    chosen = options.method_of(method, settings)
    data = DataOptions(train=train, query=query, text=text_column, label=label_column, id=id_column)
    problem = load_problem(model, data, seed=seed, trust=trust)
    request = request_of("select", model, data, problem, trust=trust)
    request |= {"method": str(chosen), "fraction": fraction, "count": count, "temperature": temperature}
    with session(out, request, shown) as run:
        report = finished_report(run)
        if report is None:
            report = flow.select(
                problem, method=chosen, fraction=fraction, count=count, temperature=temperature, run=run
            )
            write_csv(flow.selected(report), run.path("selected.csv"))
            write_report(report, run)
    tell(report, Path(out), shown, top=5)
