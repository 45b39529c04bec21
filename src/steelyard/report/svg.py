"""Vega-Lite charts as static SVG: no script, one drawing for the light and the dark scheme, named for readers.

Colours in the drawing are the light scheme's; the style sheet of the page overrides each of them by its value
(see ``INKS``), so that the same drawing follows the scheme of the reader and still works when pasted elsewhere.
"""

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    import altair as alt

INKS = {
    "#1d1d1f": "ink",
    "#5f6368": "faint",
    "#dfe1e5": "rule",
    "#1f5f9e": "for",
    "#b34700": "against",
    "#7a7f87": "control",
    "#ffffff": "paper",
}
"""Every colour that a chart may use, and the custom property of the style sheet that replaces it."""

INK, FAINT, RULE, FOR, AGAINST, CONTROL, PAPER = INKS

_SPACE = "http://www.w3.org/2000/svg"
_ELEMENTS = {"svg", "g", "path", "rect", "line", "text", "circle", "tspan"}
_ATTRIBUTES = {
    *("d", "transform", "x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "r", "dx", "dy", "width", "height"),
    *("fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "stroke-miterlimit"),
    *("opacity", "fill-opacity", "stroke-opacity", "text-anchor", "font-size", "font-weight", "font-style"),
}
_PLAIN = {
    ("opacity", "1"),
    ("transform", "translate(0,0)"),
    ("stroke-miterlimit", "10"),
    ("stroke-width", "1"),
}
_LONG = re.compile(r"-?\d+\.\d{3,}")
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def draw(chart: "alt.TopLevelMixin", *, key: str, title: str, description: str) -> str:
    """A chart as an SVG element for the page.

    Only elements and attributes on a short list survive, so nothing in a chart can load, link or run anything.

    Cost: about two seconds for the first chart of a process, about a tenth of a second for each further one.

    Args:
        chart: The chart; its colours should be ``INKS``.
        key: Unique in the page; the ids of title and description are made from it.
        title: What it shows, for screen readers.
        description: What is to be seen in it, in words.
    """
    import vl_convert

    drawn = ElementTree.fromstring(vl_convert.vegalite_to_svg(chart.to_json()))
    width, height = drawn.get("width", "1"), drawn.get("height", "1")
    _tidy(drawn)
    drawn.attrib.clear()
    drawn.attrib |= {
        "class": "chart",
        "viewBox": f"0 0 {width} {height}",
        "role": "img",
        "aria-labelledby": f"{key}-title {key}-desc",
        "font-family": _FONT,
    }
    for position, (name, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(name, {"id": f"{key}-{name}"})
        element.text = text
        drawn.insert(position, element)
    # In HTML the namespace is implied; without it the text of the element is the same in every browser.
    return ElementTree.tostring(drawn, encoding="unicode", short_empty_elements=True)


def _tidy(element: ElementTree.Element) -> None:
    element.tag = element.tag.removeprefix(f"{{{_SPACE}}}")
    element.tail = None
    for name, value in list(element.attrib.items()):
        if name not in _ATTRIBUTES or (name, value) in _PLAIN:
            del element.attrib[name]
        else:
            element.set(name, _LONG.sub(lambda found: f"{float(found[0]):.2f}", value))
    for child in list(element):
        local = child.tag.removeprefix(f"{{{_SPACE}}}") if isinstance(child.tag, str) else ""
        if local not in _ELEMENTS or _invisible(child):
            element.remove(child)
            continue
        _tidy(child)
        if child.tag == "g" and not len(child):
            element.remove(child)


def _invisible(element: ElementTree.Element) -> bool:
    drawing = element.get("d")
    return element.get("display") == "none" or drawing == "" or (drawing or "").startswith("M0,0h0v0h0")
