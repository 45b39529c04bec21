"""The commands under one name."""

from typing import Annotated

import typer

from steelyard.cli.act import act
from steelyard.cli.attribute import attribute
from steelyard.cli.bank import bank
from steelyard.cli.choose import choose
from steelyard.cli.clean import clean
from steelyard.cli.demo import demo
from steelyard.cli.harden import harden
from steelyard.cli.index import index
from steelyard.cli.leaderboard import leaderboard
from steelyard.cli.methods import methods
from steelyard.cli.report import report
from steelyard.cli.select import select
from steelyard.cli.value import value
from steelyard.cli.verify import verify

app = typer.Typer(
    name="steelyard",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # locals may hold training data
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(*, wanted: bool) -> bool:
    if wanted:
        from steelyard import __version__

        typer.echo(f"steelyard {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def steelyard(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """What training data does to models: attribute, value, clean, verify by retraining.

    Begin with `steelyard demo --out runs/demo`.
    """


for _command in (attribute, value, clean, select, harden, choose, verify, leaderboard, report, methods, demo):
    app.command()(_command)
app.add_typer(act)
app.add_typer(index)
app.add_typer(bank)


def main() -> None:
    """Run the command line."""
    app()
