"""``steelyard methods``: every method with its paper, needs, cost and purpose."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from steelyard.cli.guard import guarded
from steelyard.cli.options import Json
from steelyard.cli.show import markdown, table
from steelyard.score import METHODS, method_class
from steelyard.score.settings import describe_settings

_HEAD = ("name", "paper", "needs", "cost", "good for")


@guarded
def methods(
    *,
    as_json: Json = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown table.")] = False,
) -> None:
    """List the methods: name, paper, needs, cost, what each is good for.

    Example: steelyard methods --markdown > METHODS.md
    """
    cards = {name: method_class(name).card for name in METHODS}
    if as_json:
        listed = [
            {"name": name, **asdict(card), "settings": describe_settings(method_class(name))}
            for name, card in cards.items()
        ]
        typer.echo(json.dumps(listed, indent=1))
        return
    rows = [(name, card.paper, card.needs, card.cost, card.good_for) for name, card in cards.items()]
    typer.echo(markdown(_HEAD, rows) if as_markdown else table(_HEAD, rows))
