"""The report for a terminal: verdict, verification beside random, plan, queries, failed checks."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from steelyard.records import Evidence, Examples, Plan, Report, Scores
from steelyard.report import sections
from steelyard.report.album import Album
from steelyard.report.page import as_report
from steelyard.report.selection import View
from steelyard.report.showing import Shown
from steelyard.report.wording import clean_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

_VIEW = View(queries=3, examples=3, plan=8)
_STYLES = {
    "confirmed": "bold blue",
    "refuted": "bold red",
    "mixed": "bold yellow",
    "failed": "red",
    "passed": "blue",
}
_WIDTH = 100


def text(
    subject: Report | Scores | Sequence[Scores],
    *records: Scores | Plan | Evidence,
    console: "Console | None" = None,
    train: Examples | None = None,
    query: Examples | None = None,
    view: View | None = None,
) -> str:
    """The report as plain text; printed as well if a console is given.

    Text of training data is shown with its control characters made visible and is never read as markup.

    Args:
        subject: A report, or scores, as for :func:`steelyard.report.html`.
        records: With scores: plans, evidence and further baselines in any order.
        console: Where to print it with colours; nowhere if None.
        train: The training examples, for showing their labels and texts.
        query: The queries, likewise.
        view: How much to show; three queries, three examples a side and eight of each plan if None.

    Returns:
        The text without colours, lines ending in a line break.
    """
    from rich.console import Console, Group

    report = as_report(subject, *records, train=train, query=query)
    parts = Group(*_parts(report, view or _VIEW))
    if console is not None:
        console.print(parts)
    plain = Console(
        file=io.StringIO(), width=console.width if console else _WIDTH, color_system=None, record=True
    )
    plain.print(parts)
    return "".join(f"{line.rstrip()}\n" for line in plain.export_text().splitlines())


def _parts(report: Report, view: View) -> "list[Text | Table]":
    album = Album(report, view)
    standing, sign, words = sections.headline(report)
    parts: list[Text | Table] = [
        _line(clean_line(report.title), "bold"),
        _line(f"{sign} {words}", _STYLES.get(standing, "bold")),
        _line(clean_line(report.verdict, limit=4000)),
        _line(""),
    ]
    checked = sections.verification(report)
    if checked.rows:
        parts += [_table(checked.caption, checked.head, checked.rows), _line("")]
    for group in sections.plans(report, album, view):
        rows = [
            (c.score, _label(c.shown, c.change), " ".join(c.marks), c.shown.id, _gist(c.shown) or c.why)
            for c in group.cards
        ]
        parts += [_line(line) for line in group.says]
        parts += [_table(group.title, ("Score", "Label", "Known", "Id", "Example"), rows), _line(group.more)]
    asked, chosen = sections.asked(report, album, view)
    for q in asked:
        rows = [
            (side, c.score, _label(c.shown, ""), c.shown.id, _gist(c.shown))
            for side, group in (("+", q.proponents), ("−", q.opponents))
            for c in group.cards
        ]
        title = " ".join(filter(None, (f"Query {q.shown.id}", _label(q.shown, ""), _gist(q.shown))))
        parts += [_table(title, ("", "Score", "Label", "Id", "Example"), rows), _line("")]
    if chosen:
        parts.append(_line(f"Queries shown: {chosen}.", "dim"))
    done = [f for f in sections.findings(report) if f.outcome != "not applicable"]
    parts.append(_line("Checks", "bold"))
    for f in done:
        parts.append(_line(f"{f.sign} {f.code} {f.title}. {f.detail}", _STYLES.get(f.outcome, "")))
        if f.fix and f.outcome == "failed":
            parts.append(_line(f"    {f.fix}", "dim"))
    cost = report.provenance.cost
    parts.append(_line(f"Cost: {cost}", "dim"))
    return parts


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # Cells are Text objects: strings would be searched for markup such as [red] and [link=...].
    table = Table(
        title=Text(caption, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    used = [i for i in range(len(head)) if any(row[i] for row in rows)]
    for i in used:
        table.add_column(Text(head[i]), overflow="fold", no_wrap=head[i] == "Score")
    for row in rows:
        table.add_row(*(Text(row[i]) for i in used))
    return table


def _line(words: str, style: str = "") -> "Text":
    from rich.text import Text

    return Text(words, style=style)


def _label(shown: Shown, change: str) -> str:
    predicted = f" (predicted {shown.predicted})" if shown.predicted is not None else ""
    return (change or shown.label or "") + predicted


def _gist(shown: Shown) -> str:
    if shown.parts:
        return clean_line(" · ".join(part.head for part in shown.parts), limit=120)
    return clean_line(", ".join(f"{cell.name}={cell.value}" for cell in shown.cells[:6]), limit=120)
