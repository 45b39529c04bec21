"""``steelyard attribute``: which training examples made the model do this?"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from steelyard import flow
from steelyard.cli import options
from steelyard.cli.guard import guarded
from steelyard.cli.language import LanguageOptions, resolved
from steelyard.cli.model import DataOptions, load_problem
from steelyard.cli.recipe import recipe_pairs
from steelyard.cli.session import (
    Means,
    Shown,
    finished_report,
    provide,
    request_of,
    session,
    tell,
    write_report,
)
from steelyard.score.candidates import Candidates


@guarded
def attribute(  # noqa: PLR0913 - one parameter per option
    model: options.Model,
    *,
    out: options.Out,
    train: options.Train = None,
    query: options.Query = None,
    method: options.Method = "auto",
    settings: options.Set = None,
    top: Annotated[int, typer.Option(help="Proponents and opponents per query in --json.", min=1)] = 5,
    baselines: Annotated[bool, typer.Option(help="Also score by the cheap baselines, to compare.")] = True,
    split: options.Split = None,
    candidates: options.CandidateCount = None,
    candidates_by: options.CandidatesBy = options.Proposers.BM25,
    bank: options.Bank = None,
    time_budget: options.TimeBudget = None,
    ray: options.Ray = None,
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
    measurement: options.MeasurementName = None,
    answer: options.Answer = None,
    recipe: options.RecipeOf = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    fresh: options.Fresh = False,
) -> None:
    """Rank the training examples that made the model do this, query by query.

    Proponents lower the query's loss, opponents raise it. Killed at any moment, the same command continues
    with what is in RUN and gives the same scores.

    Example: steelyard attribute model.py:build --train train.jsonl --query test.jsonl --out runs/first
    """
    shown = Shown(quiet=quiet, as_json=as_json, fresh=fresh)
    chosen = options.method_of(method, settings)
    data = DataOptions(train, query, text_column, label_column, id_column, features, parameter)
    language = resolved(
        Path(model), LanguageOptions(adapter, max_length, dtype, measurement, answer, recipe_pairs(recipe))
    )
    problem = load_problem(model, data, seed=seed, trust=trust, language=language)
    request = request_of("attribute", model, data, problem, trust=trust) | {
        "language": asdict(language),
        "method": str(chosen),
        "baselines": baselines,
        "split": split,
        "candidates": None if candidates is None else [candidates, candidates_by],
    }
    with session(out, request, shown) as run:
        provide(run, problem, Means(bank, time_budget, ray), purpose="scoring")
        report = finished_report(run)
        if report is None:
            proposed = None if candidates is None else Candidates(candidates, candidates_by.value)
            report = flow.explain(
                problem,
                chosen,
                run,
                baselines=baselines,
                split=None if split is None else split.value,
                candidates=proposed,
            )
            write_report(report, run)
    tell(report, Path(out), shown, top=top)
