"""Writes the pages that are made from the code: methods, commands and checks.

python docs/generate.py            write them
python docs/generate.py --check    fail if one of them is not what it would write
"""

import inspect
import sys
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from typer.models import ArgumentInfo, CommandInfo, OptionInfo

import steelyard as sy
from steelyard.cli.app import app
from steelyard.report import checks
from steelyard.score.settings import describe_settings

FOLDER = Path(__file__).resolve().parent
_MADE = "<!-- Made by docs/generate.py from the code. Change the code, then run `make docs`. -->\n\n"


def methods() -> str:
    """Every method: a table of all, then one section each with definition and settings."""
    lines = [
        "# Methods\n",
        "Names are those of `--method`; the class of the same name in CamelCase is in `sy.score`. With n training",
        "examples and q queries, cost is in gradient-equivalents (one forward and backward pass of one example) or",
        "in fits (one training). `steelyard methods` prints this table.\n",
        "| name | paper | needs | cost | good for |",
        "|---|---|---|---|---|",
    ]
    for name in sy.score.METHODS:
        card = sy.score.card(name)
        cells = (f"[`{name}`](#{name})", card.paper, card.needs, card.cost, card.good_for)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    for name in sy.score.METHODS:
        lines += ["", f"## {name}", "", *_method(name)]
    return _MADE + "\n".join(lines) + "\n"


def commands() -> str:
    """Every command with its arguments and options, read from the signatures."""
    found = {_name(info): info.callback for info in app.registered_commands}
    for group in app.registered_groups:
        for info in group.typer_instance.registered_commands:
            found[f"{group.typer_instance.info.name} {_name(info)}"] = info.callback
    lines = ["# Commands\n", "Each command is a thin shell over the library function of the same name.\n"]
    lines.append(" · ".join(f"[{name}](#{name.replace(' ', '-')})" for name in found))
    for name, function in found.items():
        text, _, example = inspect.cleandoc(function.__doc__ or "").partition("Example:")
        lines += ["", f"## {name}", "", text.strip()]
        if example:
            lines += [
                "",
                "```console",
                *(f"$ {line.strip()}" for line in example.strip().splitlines()),
                "```",
            ]
        lines += ["", "| argument or option | meaning | default |", "|---|---|---|"]
        hints = get_type_hints(function, include_extras=True)
        for item in inspect.signature(function).parameters.values():
            lines.append(_parameter(item, *get_args(hints[item.name])))
    return _MADE + "\n".join(lines) + "\n"


def _name(info: CommandInfo) -> str:
    return (info.name or info.callback.__name__).replace("_", "-")


def coded_checks() -> str:
    """Every check of the report: its code, what it looks for, when it fails."""
    lines = [
        "# Checks\n",
        "Every report looks for what usually goes wrong. Codes are stable: SY1xx is about verification, SY2xx about",
        "scores and data, SY3xx about how the work went. Checks of your own go beside these, and codes are muted, with",
        "`sy.report.checks.run`.",
    ]
    for check in checks.ALL:
        head, _, rest = inspect.cleandoc(check.__doc__ or "").partition("\n")
        code, _, what = head.partition(": ")
        lines += ["", f"## {code}", "", what[:1].upper() + what[1:], "", rest.strip()]
    return _MADE + "\n".join(lines) + "\n"


PAGES = {"methods.md": methods, "commands.md": commands, "checks.md": coded_checks}


def stale() -> list[str]:
    """Names of the pages that are not what the code would write."""
    return [
        name
        for name, make in PAGES.items()
        if not (FOLDER / name).exists() or (FOLDER / name).read_text(encoding="utf-8") != make()
    ]


def _method(name: str) -> list[str]:
    kind = sy.score.method_class(name)
    lines = [
        f"`sy.score.{kind.__name__}({', '.join(_setting(item) for item in fields(kind) if item.init)})`",
        "",
    ]
    lines += ["```text", inspect.cleandoc(kind.__doc__ or ""), "```"]
    settings = describe_settings(kind)
    if settings:
        lines += ["", "On the command line:", ""]
        lines += [f"- `--set {setting}=...`: {words}" for setting, words in settings.items()]
    return lines


def _setting(item: Field[Any]) -> str:
    return item.name if item.default is MISSING else f"{item.name}={item.default!r}"


def _parameter(item: inspect.Parameter, kind: Any, about: OptionInfo | ArgumentInfo) -> str:
    default = item.default
    if isinstance(about, ArgumentInfo):
        shown = about.metavar or item.name.upper()
    else:
        # Inside Annotated, the first declaration stands where a default would.
        first = [about.default] if isinstance(about.default, str) else []
        shown = ", ".join([*first, *(about.param_decls or ())] or ["--" + item.name.replace("_", "-")])
        if kind is bool:
            shown += f", --no-{item.name.replace('_', '-')}" if default is True else ""
        else:
            shown += f" {about.metavar or _kind(kind)}"
    meaning = " ".join((about.help or "").split()).replace("|", "\\|")
    if default is inspect.Parameter.empty:
        told = "required"
    else:
        told = "" if default is None or default is False else f"`{getattr(default, 'value', default)}`"
    return f"| `{shown}` | {meaning} | {told} |"


def _kind(kind: Any) -> str:
    named = [item for item in (get_args(kind) or (kind,)) if item is not type(None)]
    if all(isinstance(item, str) for item in named):  # the values of a Literal
        return "/".join(named)
    return {"int": "N", "float": "NUMBER", "str": "TEXT", "Path": "PATH"}.get(named[0].__name__, "NAME")


def main() -> int:
    """Write the pages, or say which are stale."""
    if "--check" in sys.argv[1:]:
        old = stale()
        for name in old:
            print(f"docs/{name} is not what the code says; run `make docs`.")
        return 1 if old else 0
    for name, make in PAGES.items():
        (FOLDER / name).write_text(make(), encoding="utf-8")
        print(f"docs/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
