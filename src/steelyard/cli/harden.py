"""``steelyard harden``: a training set that poison does less to."""

import json
from pathlib import Path
from typing import Annotated

import typer

from steelyard.act.harden import MARK, Harden
from steelyard.cli import options
from steelyard.cli.guard import guarded
from steelyard.cli.model import DataOptions, load_problem
from steelyard.cli.session import Shown, request_of, session
from steelyard.data import write

_FILE = "hardened.parquet"


@guarded
def harden(  # noqa: PLR0913 - one parameter per option
    model: options.Model,
    *,
    out: options.Out,
    train: options.Train = None,
    query: options.Query = None,
    fraction: Annotated[float, typer.Option(help="Share of the training examples to move.")] = 0.25,
    step: Annotated[float, typer.Option(help="Per round, as a share of the range of inputs.")] = 0.05,
    limit: Annotated[float, typer.Option(help="In all, likewise.")] = 0.1,
    rounds: Annotated[int, typer.Option(help="How often to train and move.", min=1)] = 2,
    label_column: options.LabelColumn = None,
    id_column: options.IdColumn = None,
    seed: options.Seed = 0,
    trust: options.Trust = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    fresh: options.Fresh = False,
) -> None:
    """Add healthy noise to the inputs that influence trusted queries most, as a defence against poisoning (HINT).

    Writes RUN/hardened.parquet: the training examples with moved inputs, marked in the column `hardened`. For networks
    whose input is one column of real numbers; the queries must be trusted.

    Example: steelyard harden model.py:build --fraction 0.25 --out runs/harden
    """
    shown = Shown(quiet=quiet, as_json=as_json, fresh=fresh)
    system = Harden(fraction=fraction, step=step, limit=limit, rounds=rounds)
    data = DataOptions(train=train, query=query, text=None, label=label_column, id=id_column)
    problem = load_problem(model, data, seed=seed, trust=trust)
    request = request_of("harden", model, data, problem, trust=trust) | {"system": repr(system)}
    with session(out, request, shown) as run:
        if not run.finished:
            write(system(problem, run), run.path(_FILE))
    path = Path(out) / _FILE
    count = round(fraction * len(problem.train))
    facts = {"run": str(out), "moved": count, "examples": len(problem.train), "file": str(path)}
    if as_json:
        typer.echo(json.dumps(facts))
        return
    typer.echo(
        f"{count} of {len(problem.train):,} inputs moved, marked in the column {MARK}\nexamples  {path}"
    )
