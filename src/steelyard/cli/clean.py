"""``steelyard clean``: which training examples are mislabelled or harmful, and what to do about them?"""

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
def clean(  # noqa: PLR0913 - one parameter per option
    model: options.Model,
    *,
    out: options.Out,
    train: options.Train = None,
    query: options.Query = None,
    method: options.Method = AUTO,
    settings: options.Set = None,
    fraction: Annotated[float, typer.Option(help="Share of the training examples to name.")] = 0.05,
    text_column: options.TextColumn = None,
    label_column: options.LabelColumn = None,
    id_column: options.IdColumn = None,
    features: options.Features = None,
    parameter: options.Parameter = None,
    seed: options.Seed = 0,
    trust: options.Trust = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    fresh: options.Fresh = False,
) -> None:
    """Find training examples that are mislabelled or harmful, and propose what to do.

    For wrong labels --method label_consensus finds most; aum says how many there may be.

    Writes RUN/issues.csv (one row per suspect, with its proposed label) and the plans under RUN/report/plans,
    which `Plan.load(...).apply(train)` carries out. Nothing is changed by this command.

    Example: steelyard clean model.py:build --method label_consensus --fraction 0.05 --out runs/clean
    """
    shown = Shown(quiet=quiet, as_json=as_json, fresh=fresh)
    chosen = options.method_of(method, settings)
    data = DataOptions(train, query, text_column, label_column, id_column, features, parameter)
    problem = load_problem(model, data, seed=seed, trust=trust)
    request = request_of("clean", model, data, problem, trust=trust)
    request |= {"fraction": fraction, "method": str(chosen)}
    with session(out, request, shown) as run:
        report = finished_report(run)
        if report is None:
            report = flow.clean(problem, method=chosen, fraction=fraction, run=run)
            write_csv(flow.issues(report), run.path("issues.csv"))
            write_report(report, run)
    tell(report, Path(out), shown, top=5)
