"""``steelyard bank``: fits made beforehand, for many runs."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from steelyard import flow
from steelyard.cli import options, show
from steelyard.cli.guard import guarded
from steelyard.cli.model import DataOptions, load_problem
from steelyard.cli.session import request_of
from steelyard.collect import bank as banks
from steelyard.errors import DataError, RunError, SettingError
from steelyard.flow.ground_truth import TASKS
from steelyard.run.on_ray import RayWorkers
from steelyard.run.progress import Show

bank = typer.Typer(
    name="bank", no_args_is_help=True, help="Fits made beforehand: build a bank, extend it, ask it."
)

Folder = Annotated[str, typer.Argument(help="Folder of the bank.", metavar="DIR", show_default=False)]
Fits = Annotated[int, typer.Option(help="Fits in all.", min=1)]
TimeBudget = Annotated[
    float | None,
    typer.Option(
        help="Refuse what is predicted to take more seconds, and say what can be had.",
        min=0.0,
        metavar="SECONDS",
    ),
]


@bank.command()
@guarded
def build(  # noqa: PLR0913 - one parameter per option
    model: options.Model,
    *,
    out: Annotated[
        str, typer.Option(help="Folder of the bank. The same command continues what is in it.", metavar="DIR")
    ],
    fits: Annotated[
        int | None, typer.Option(help="Fits in all; those of the recipe, if MODEL has one.", min=1)
    ] = None,
    train: options.Train = None,
    query: options.Query = None,
    design: Annotated[
        Literal["half", "uniform", "bootstrap", "leave-one-out"],
        typer.Option(help="Which training examples each fit sees."),
    ] = "half",
    purpose: Annotated[
        Literal["scoring", "verification"] | None,
        typer.Option(
            help="Who may use it; scoring, if MODEL is no recipe. What scores were made from cannot verify them."
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Training seeds; 1, if MODEL is no recipe.", min=1)
    ] = None,
    utility: Annotated[
        str | None, typer.Option(help="Measure the queries by this, such as accuracy.", metavar="NAME")
    ] = None,
    text_column: options.TextColumn = None,
    label_column: options.LabelColumn = None,
    id_column: options.IdColumn = None,
    features: options.Features = None,
    parameter: options.Parameter = None,
    time_budget: TimeBudget = None,
    ray: options.Ray = None,
    seed: options.Seed = 0,
    trust: options.Trust = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Train on FITS subsets of the training examples and keep what every query measured.

    half: every example with probability 1/2 (verification: exactly half of them). uniform: with a probability drawn
    anew for each fit. bootstrap: with replacement. leave-one-out: all but one, in turn. attribute, value and verify
    take fits from it with --bank. Killed at any moment, the same command goes on.

    A task of `steelyard bank recipes` as MODEL needs nothing else than --out: its bank is ground truth to verify scores
    by.

    Example: steelyard bank build model.py:build --train train.csv --query test.csv --out banks/half --fits 500
    """
    recipe = TASKS.get(model)
    if recipe is None and fits is None:
        raise SettingError(
            "--fits is missing: how many?",
            fix="give --fits 500, say; only a task of `steelyard bank recipes` has a number of its own.",
        )
    data = DataOptions(train, query, text_column, label_column, id_column, features, parameter)
    problem = flow.with_utility(load_problem(model, data, seed=seed, trust=trust), utility)
    request = request_of("bank", model, data, problem, trust=trust) | {"utility": utility}
    with _workers(ray) as workers:
        banks.build(
            out,
            problem,
            fits=fits or (recipe.fits if recipe else 0),
            design=design,
            purpose=purpose or ("verification" if recipe else "scoring"),
            seeds=seeds or (recipe.seeds if recipe else 1),
            show=_show(quiet=quiet, as_json=as_json),
            request=request,
            time_budget=time_budget,
            workers=workers,
        )
    _tell(Path(out), as_json=as_json)


@bank.command()
@guarded
def extend(
    folder: Folder,
    *,
    fits: Fits,
    time_budget: TimeBudget = None,
    ray: options.Ray = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Go on with a bank until it has FITS fits; model and data are those that it was built with.

    Example: steelyard bank extend banks/half --fits 1000
    """
    known = banks.open_bank(folder)
    request = known.request
    if "model" not in request:
        raise RunError(
            f"{folder} was not built from a model and data that can be loaded again.",
            fix="extend it in Python: steelyard.collect.bank.build with the same problem and more fits.",
        )
    loaded = load_problem(
        request["model"], DataOptions(**request["data"]), seed=request["seed"], trust=request["trust"]
    )
    problem = flow.with_utility(loaded, request.get("utility"))
    changed = [name for name, checksum in problem.checksums().items() if known.checksums[name] != checksum]
    if changed:
        raise DataError(
            f"{folder}: the {' and the '.join(changed)} changed since the bank was built.",
            fix="restore what it was, or build another bank.",
        )
    with _workers(ray) as workers:
        banks.build(
            folder,
            problem,
            fits=fits,
            design=known.design,
            purpose=known.purpose,
            seeds=known.seeds,
            show=_show(quiet=quiet, as_json=as_json),
            time_budget=time_budget,
            workers=workers,
        )
    _tell(Path(folder), as_json=as_json)


@bank.command()
@guarded
def info(folder: Folder, *, as_json: options.Json = False) -> None:
    """Say what a bank is of, who may use it, and how many fits it has.

    Example: steelyard bank info banks/half
    """
    _tell(Path(folder), as_json=as_json)


@bank.command()
@guarded
def recipes(*, as_json: options.Json = False) -> None:
    """List the tasks that come with Steelyard, and the banks that `bank build TASK --out DIR` makes for them.

    Each is rebuilt in minutes, without a network, and gives the truth that `verify --bank` and leaderboards measure by.

    Example: steelyard bank recipes
    """
    if as_json:
        facts = {
            name: {"about": one.about, "fits": one.fits, "subsets": one.subsets, "seeds": one.seeds}
            for name, one in TASKS.items()
        }
        typer.echo(json.dumps(facts))
        return
    rows = [
        (
            name,
            one.about,
            f"{one.fits:,} ({one.subsets} halves and all, {one.seeds} seed{'s' * (one.seeds > 1)})",
            f"{one.seconds} s",
        )
        for name, one in TASKS.items()
    ]
    typer.echo(show.table(("task", "what", "fits", "about"), rows))
    typer.echo("\nmake one:  steelyard bank build digits-network --out banks/digits-network")


@contextmanager
def _workers(ray: str | None) -> Iterator[RayWorkers | None]:
    found = None if ray is None else RayWorkers(ray)
    try:
        yield found
    finally:
        if found is not None:
            found.close()


def _show(*, quiet: bool, as_json: bool) -> Show:
    return "json" if as_json else "quiet" if quiet else "auto"


def _tell(folder: Path, *, as_json: bool) -> None:
    facts = flow.bank_facts(folder)
    if as_json:
        typer.echo(json.dumps(facts))
        return
    done = (
        f"{facts['finished']:,} of {facts['fits']:,}" if "finished" in facts else f"{facts['kept']:,} so far"
    )
    rows = [("design", facts["design"]), ("purpose", facts["purpose"]), ("fits", done)]
    if "finished" in facts:
        rows += [
            ("failed", f"{facts['failed']:,}"),
            ("training examples", f"{facts['train']:,}, of which a fit sees {facts['share']:.0%}"),
            ("queries", f"{facts['query']:,}"),
        ]
    rows += [
        ("seeds", f"{facts['seeds']} (problem: {facts['seed']})"),
        ("checksums", ", ".join(f"{name} {value[:12]}" for name, value in facts["checksums"].items())),
        ("on disk", f"{facts['bytes'] / 2**20:,.1f} MiB, by Steelyard {facts['steelyard']}"),
    ]
    typer.echo(show.table(("bank", str(folder)), rows))
    for note in facts.get("notes", ()):
        typer.echo(f"note: {note}")
