"""``steelyard choose``: what to put into the prompt?"""

import json
from pathlib import Path
from typing import Annotated

import typer

from steelyard import act, flow
from steelyard.cli import options
from steelyard.cli.guard import guarded
from steelyard.cli.language import LanguageOptions
from steelyard.cli.model import DataOptions, load_problem
from steelyard.cli.session import Shown, request_of, session
from steelyard.data import write
from steelyard.report.wording import clean_line

_FILE, _PROMPT = "demonstrations.jsonl", "prompt.txt"


@guarded
def choose(  # noqa: PLR0913 - one parameter per option
    model: options.Model,
    *,
    out: options.Out,
    train: options.Train = None,
    query: options.Query = None,
    per_class: Annotated[int, typer.Option(help="Demonstrations of each class.", min=1)] = 2,
    template: Annotated[
        str, typer.Option(help="One demonstration: columns in braces, {label} last; \\n is a new line.")
    ] = act.TEMPLATE.replace("\n", "\\n"),
    text_column: options.TextColumn = None,
    label_column: options.LabelColumn = None,
    id_column: options.IdColumn = None,
    seed: options.Seed = 0,
    trust: options.Trust = False,
    max_length: options.MaxLength = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    fresh: options.Fresh = False,
) -> None:
    """Choose demonstrations for a prompt by their influence on validation examples (InfICL).

    The training examples are the pool to choose from, the queries the validation examples. Writes RUN/prompt.txt, the
    demonstrations with the place of the question left open, and RUN/demonstrations.jsonl.

    Example: steelyard choose MODEL_DIR --train pool.jsonl --query validation.jsonl --per-class 2 --out runs/choose
    """
    shown = Shown(quiet=quiet, as_json=as_json, fresh=fresh)
    data = DataOptions(train=train, query=query, text=text_column, label=label_column, id=id_column)
    language = LanguageOptions(max_length=max_length)
    problem = load_problem(model, data, seed=seed, trust=trust, language=language)
    request = request_of("choose", model, data, problem, trust=trust)
    request |= {"per_class": per_class, "template": template, "max_length": max_length}
    with session(out, request, shown) as run:
        if not run.finished:
            found = flow.choose(problem, per_class=per_class, template=template.replace("\\n", "\n"), run=run)
            write(problem.train.take(problem.train.positions(found.plan.ids)), run.path(_FILE))
            run.path(_PROMPT).write_text(found.prompt, encoding="utf-8")
            found.plan.save(run.path("plan.jsonl"))
    prompt = (Path(out) / _PROMPT).read_text(encoding="utf-8")
    if as_json:
        typer.echo(json.dumps({"run": str(out), "prompt": prompt, "file": str(Path(out) / _FILE)}))
        return
    # Line by line, so that nothing in the data can steer a terminal.
    typer.echo("\n".join(clean_line(line, limit=10_000) for line in prompt.splitlines()))
    typer.echo(f"\nprompt          {Path(out) / _PROMPT}")
    typer.echo(f"demonstrations  {Path(out) / _FILE}")
