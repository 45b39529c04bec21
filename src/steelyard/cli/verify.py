"""``steelyard verify``: can I believe these scores?"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from steelyard import flow
from steelyard import report as reports
from steelyard.cli import options
from steelyard.cli.guard import guarded
from steelyard.cli.language import LanguageOptions, resolved
from steelyard.cli.model import DataOptions, load_problem
from steelyard.cli.recipe import recipe_pairs
from steelyard.cli.session import RECORDS, Means, Shown, finished_report, provide, session, tell, write_report
from steelyard.cli.show import table
from steelyard.errors import DataError, RunError, SettingError
from steelyard.problem import Problem
from steelyard.records import Report
from steelyard.run import read_manifest
from steelyard.score.settings import did_you_mean
from steelyard.verify import Forecast

_FOLDER = "verified"
_PLANNED = "planned"

Truth = Annotated[
    list[str] | None,
    typer.Option(
        help="The column that a metric needs, as COLUMN or METRIC=COLUMN: mislabel_auc (true where a training label is "
        "wrong), fix_labels (the right labels), mrr and recall (links queries to training examples), agreement, "
        "subclass_detection, shortcut, mixed_data. Repeatable.",
        metavar="COLUMN",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="A setting of a metric, such as qld.share=0.05. Repeatable.",
        metavar="METRIC.NAME=VALUE",
    ),
]


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
    truth: Truth = None,
    settings: Settings = None,
    plan_only: Annotated[
        bool,
        typer.Option(
            "--plan-only", help="Only a few pilot fits: say how many it takes to see an effect, and stop."
        ),
    ] = False,
    effect: Annotated[
        float | None,
        typer.Option(
            help="With --plan-only: what must be seen, as a correlation or in the measurement's unit."
        ),
    ] = None,
    bank: options.Bank = None,
    time_budget: options.TimeBudget = None,
    ray: options.Ray = None,
    recipe: options.RecipeOf = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    fresh: options.Fresh = False,
) -> None:
    """Retrain to see whether the scores of a run, and its plans, say what happens.

    The evidence is kept in RUN/verified, with a report of its own; RUN itself is not changed. Fits are never
    those that scoring saw, and random controls are always beside. Every finished fit is kept: the same
    command continues.

    Refits of a language model's folder need to know how it was trained: --recipe, here or with attribute.

    Example: steelyard verify runs/first --metric lds,qld,brittleness --seeds 5
    """
    shown, means = Shown(quiet=quiet, as_json=as_json, fresh=fresh), Means(bank, time_budget, ray)
    problem = _problem_of(run, recipe_pairs(recipe))
    names = [name.strip() for name in metric.split(",") if name.strip()]
    request: dict[str, Any] = {
        "command": "verify",
        "of": read_manifest(run).fingerprint,
        "metrics": names,
        "checksums": problem.checksums(),
    }
    if plan_only:
        with session(
            run / _PLANNED, request | {"command": "verify --plan-only", "effect": effect}, shown
        ) as pilot:
            provide(pilot, problem, means, purpose="verification")
            found = flow.forecasts(problem, _with_data(run, problem), metrics=names, effect=effect, run=pilot)
            seconds = pilot.cost.seconds
        _tell_plan(run / _PLANNED, found, seconds, shown)
        return
    columns, chosen = _columns(truth), _settings(settings)
    _check_asked(names, "--truth", columns)
    _check_asked(names, "--set", chosen)
    request |= {"seeds": seeds, "subsets": subsets, "truth": columns, "settings": chosen}
    with session(run / _FOLDER, request, shown) as verification:
        provide(verification, problem, means, purpose="verification")
        report = finished_report(verification)
        if report is None:
            report = flow.verify_report(
                problem,
                _with_data(run, problem),
                metrics=names,
                seeds=seeds,
                subsets=subsets,
                truth=columns,
                settings=chosen,
                run=verification,
            )
            write_report(report, verification)
    tell(report, run / _FOLDER, shown, top=5)


def _tell_plan(folder: Path, found: Sequence[Forecast], seconds: float, shown: Shown) -> None:
    """How many fits each metric takes, and what a fit took."""
    if shown.as_json:
        typer.echo(json.dumps({"run": str(folder), "forecasts": [asdict(one) for one in found]}))
        return
    head = ("metric", "effect", "fits", "design", "pilot")
    rows = [
        (
            f.metric,
            f"{f.effect:.3g} {f.unit}",
            "–" if f.fits is None else f"{f.fits:,}",
            f.design,
            str(f.pilot),
        )
        for f in found
    ]
    typer.echo(table(head, rows))
    for one in found:
        typer.echo(one.says)
    pilots = sum(one.pilot for one in found)
    if pilots and seconds:
        typer.echo(f"A fit took about {seconds / pilots:.2g} s.")


def _check_asked(metrics: Sequence[str], option: str, given: Collection[str]) -> None:
    """Refuse what is said about a metric that is not asked for: it would be lost without a word."""
    lost = [name for name in given if name and name not in metrics]
    if lost:
        raise SettingError(
            f"{option} is about {lost[0]!r}, which is not among the metrics asked for{did_you_mean(lost[0], metrics)}",
            fix=f"ask for it: --metric {','.join((*metrics, lost[0]))}, or leave {option} {lost[0]} out.",
        )


def _columns(given: list[str] | None) -> dict[str, str]:
    """Metric to column; under the empty name, the column of every other metric."""
    found: dict[str, str] = {}
    for entry in given or []:
        name, equals, column = entry.partition("=")
        metric, column = (name.strip(), column.strip()) if equals else ("", entry.strip())
        if not column or metric in found:
            raise SettingError(
                f"--truth {entry!r} {'names a metric twice' if column else 'names no column'}.",
                fix="write --truth COLUMN, or --truth METRIC=COLUMN once for each metric.",
            )
        found[metric] = column
    return found


def _settings(given: list[str] | None) -> dict[str, dict[str, str]]:
    """Metric to its settings."""
    found: dict[str, dict[str, str]] = {}
    for name, value in options.pairs(given).items():
        metric, dot, setting = name.partition(".")
        if not dot or not setting:
            raise SettingError(
                f"--set {name}={value}: of which metric?", fix="write --set qld.share=0.05, for example."
            )
        found.setdefault(metric, {})[setting] = value
    return found


def _problem_of(run: Path, recipe: dict[str, str]) -> Problem:
    """The problem of a finished run, from its request; the same data and model, or an error.

    Args:
        run: Its folder.
        recipe: How its language model was trained, where the run does not say.
    """
    manifest = read_manifest(run)
    request = manifest.request
    if "model" not in request:
        raise RunError(
            f"{run} was not made from a model and data that can be loaded again.",
            fix="give a folder that attribute, value or clean wrote; in Python, use steelyard.verify.",
        )
    asked = LanguageOptions(**request.get("language", {}))
    problem = _same_problem(run, request, asked)
    if not recipe:
        return problem
    if asked.recipe:
        raise SettingError(
            f"--recipe, but {run} was made with the recipe {', '.join(f'{k}={v}' for k, v in asked.recipe.items())}.",
            fix="leave it out; or run the first command with the other recipe and another --out.",
        )
    told = resolved(Path(request["model"]), replace(asked, recipe=recipe))
    again = flow.with_utility(_loaded(request, told), request.get("utility"))
    learner = again.learner.settings()
    if not learner.get("trained", True):
        raise SettingError(
            f"--recipe describes a model that is to be trained here, but {run} explains {request['model']} as it is.",
            fix="say how that model was trained: base=DIR, the model before its training; or attribute with --recipe.",
        )
    return again


def _loaded(request: Mapping[str, Any], language: LanguageOptions) -> Problem:
    return load_problem(
        request["model"],
        DataOptions(**request["data"]),
        seed=request["seed"],
        trust=request["trust"],
        language=language,
    )


def _same_problem(run: Path, request: Mapping[str, Any], language: LanguageOptions) -> Problem:
    problem = flow.with_utility(_loaded(request, language), request.get("utility"))
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
