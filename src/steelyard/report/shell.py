"""What every page shares: templates that escape, one style sheet, no script."""

import base64
import hashlib
from pathlib import Path
from typing import Any

from steelyard.report.sections import chart_table
from steelyard.report.svg import INKS

_TEMPLATES = Path(__file__).parent / "templates"


def filled(template: str, **values: Any) -> str:
    """A page from a template of this package; the same values give the same page, byte for byte.

    Style sheet and drawings are ours: the one is a file beside this one, the others are rebuilt from a short list of
    elements and attributes. Everything else is escaped.

    Args:
        template: File name.
        values: What the template shows, besides the style sheet.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = environment.get_template("report.css.j2").render(inks=list(INKS.items()))
    page = environment.get_template(template).render(
        **values,
        chart_table=chart_table,
        style=Markup(style),
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii"),
        drawing=Markup,
    )
    return page.strip() + "\n"
