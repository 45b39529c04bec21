"""``steelyard index``: gradients of the training examples on disk, asked as often as you like."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from steelyard import flow
from steelyard.cli import options, show
from steelyard.cli.guard import guarded
from steelyard.cli.model import DataOptions, load_problem
from steelyard.errors import SettingError
from steelyard.run.cost import Meter
from steelyard.run.progress import display
from steelyard.run.run import Run

index = typer.Typer(name="index", no_args_is_help=True, help="Gradients on disk: build a store, ask it.")

Stored = Annotated[str, typer.Argument(help="Folder of the store.", metavar="STORE", show_default=False)]
_Number = Literal["float32", "float16", "int8"]


@index.command()
@guarded
def build(  # noqa: PLR0913 - one parameter per option
    model: options.Model,
    *,
    out: Annotated[
        str,
        typer.Option(help="Folder of the store. The same command continues what is in it.", metavar="STORE"),
    ],
    train: options.Train = None,
    dtype: Annotated[_Number, typer.Option(help="Number type on the disk.")] = "int8",
    rank: Annotated[int, typer.Option(help="Rank per layer: rank x rank numbers.", min=1)] = 16,
    features: Annotated[
        int, typer.Option(help="Numbers per example at most, shared by the layers; 0: no limit.", min=0)
    ] = 0,
    modules: Annotated[
        list[str] | None,
        typer.Option(help="Layers to use, such as '*.mlp.*'. Repeatable.", metavar="PATTERN"),
    ] = None,
    append: Annotated[bool, typer.Option("--append", help="Add to a store that holds others.")] = False,
    text_column: options.TextColumn = None,
    label_column: options.LabelColumn = None,
    id_column: options.IdColumn = None,
    seed: options.Seed = 0,
    trust: options.Trust = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Keep projected gradients of the training examples in STORE, one row per example.

    Killed at any moment, the same command goes on with the first shard that is missing. How well the rounded rows
    rank like float32 is measured on a sample and kept with the store.

    Example: steelyard index build model.py:build --train train.jsonl --out stores/first
    """
    from steelyard.collect.store import StoreSettings

    data = DataOptions(train=train, query=train, text=text_column, label=label_column, id=id_column)
    problem = load_problem(model, data, seed=seed, trust=trust)
    settings = StoreSettings(rank * rank, dtype, tuple(modules or ("*",)), features)
    run = _run(quiet=quiet, as_json=as_json)
    flow.build_index(problem, Path(out), settings, run, append=append)
    _tell_store(Path(out), as_json=as_json, check=False)


@index.command()
@guarded
def query(  # noqa: PLR0913 - one parameter per option
    store: Stored,
    model: options.Model,
    *,
    query: options.Query = None,
    top: Annotated[int, typer.Option(help="Proponents and opponents per query.", min=1)] = 10,
    score: Annotated[
        Literal["influence", "dot", "cosine"],
        typer.Option(help="What relates a query and an example; influence is that of logra."),
    ] = "influence",
    damping: Annotated[str, typer.Option(help="For influence: auto, or a number.")] = "auto",
    energy: Annotated[
        float, typer.Option(help="Share of many queries to hold in fewer directions, such as 0.9999.")
    ] = 1.0,
    text_column: options.TextColumn = None,
    label_column: options.LabelColumn = None,
    id_column: options.IdColumn = None,
    seed: options.Seed = 0,
    trust: options.Trust = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Name the stored training examples that made MODEL answer the queries as it does.

    Proponents lower the query's loss, opponents raise it. MODEL is the one that STORE was built with; another one is
    refused.

    Example: steelyard index query stores/first model.py:build --query questions.jsonl --top 10
    """
    data = DataOptions(train=query, query=query, text=text_column, label=label_column, id=id_column)
    problem = load_problem(model, data, seed=seed, trust=trust)
    answer = flow.query_index(
        problem,
        Path(store),
        top=top,
        score=score,
        damping=_damping(damping),
        energy=energy,
        run=_run(quiet=quiet, as_json=as_json),
    )
    if as_json:
        typer.echo(json.dumps({**answer.facts, "top": answer.top.to_dicts()}))
        return
    rows = [[*(str(cell) for cell in row[:4]), show.number(row[4])] for row in answer.top.iter_rows()]
    typer.echo(show.table(("query", "side", "rank", "example", f"score ({answer.facts['unit']})"), rows))
    seconds = answer.facts["seconds"]
    typer.echo(
        f"\n{answer.facts['rows']:,} examples searched in {seconds['search']:.2f} s, after {seconds['load']:.2f} s "
        f"to load and {seconds['query_gradients']:.2f} s for the queries"
    )


@index.command()
@guarded
def info(
    store: Stored,
    *,
    check: Annotated[bool, typer.Option("--check", help="Compare every byte with its checksum.")] = False,
    as_json: options.Json = False,
) -> None:
    """Say what STORE holds: examples, layers, bytes, rank agreement with float32.

    Example: steelyard index info stores/first --check
    """
    _tell_store(Path(store), as_json=as_json, check=check)


def _run(*, quiet: bool, as_json: bool) -> Run:
    return Run(meter=Meter(), shown=display("json" if as_json else "quiet" if quiet else "auto"))


def _damping(text: str) -> float | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        return float(text)
    except ValueError:
        raise SettingError(f"--damping {text!r} is no number.", fix="give auto, or a number.") from None


def _tell_store(folder: Path, *, as_json: bool, check: bool) -> None:
    from steelyard.collect.store import open_store

    found = open_store(folder)
    if check:
        found.verify()
    manifest, size = found.manifest, found.nbytes
    if as_json:
        facts = asdict(manifest) | {"rows": len(found), "features": found.width, "bytes": size}
        typer.echo(json.dumps(facts | {"checked": check}))
        return
    rows = [
        [part.source, f"{part.rows:,}", show.number(part.agreement.get("spearman_mean", 1.0)),
         show.number(part.agreement.get("spearman_least", 1.0))]
        for part in manifest.parts
    ]  # fmt: skip
    typer.echo(show.table(("from", "examples", "Spearman to float32, mean", "least"), rows))
    typer.echo(
        f"\n{folder}: {len(found):,} examples x {found.width:,} numbers of {len(manifest.names)} layers in "
        f"{manifest.settings.dtype}, {size / 1e6:,.1f} MB, {size / max(1, len(found)):,.0f} bytes per example"
        + ("; every checksum is right" if check else "")
    )
