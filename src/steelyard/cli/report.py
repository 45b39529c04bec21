"""``steelyard report``: a run again, without its model."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from steelyard import report as reports
from steelyard.cli import options
from steelyard.cli.guard import guarded
from steelyard.cli.session import PAGE, RECORDS, Shown, tell
from steelyard.errors import RunError


@guarded
def report(
    run: Annotated[Path, typer.Argument(help="A finished run folder.", metavar="RUN", show_default=False)],
    *,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    top: Annotated[int, typer.Option(help="Proponents and opponents per query in --json.", min=1)] = 5,
    as_json: options.Json = False,
) -> None:
    """Show a finished run, and make its page again from the records beside it.

    Neither the model nor the data is needed.

    Example: steelyard report runs/first --open
    """
    if not (run / RECORDS).is_dir():
        part = run.with_name(run.name + ".part")
        raise RunError(
            f"{run}: there is no report here.",
            fix=f"finish the run first: {part} is there, give the command that began it again."
            if part.is_dir()
            else "give a folder that attribute, value, clean, verify or demo wrote.",
        )
    loaded = reports.load(run / RECORDS)
    page = reports.html(loaded, path=run / PAGE)
    tell(loaded, run, Shown(as_json=as_json), top=top)
    if open_page:
        webbrowser.open(Path(page).resolve().as_uri())
