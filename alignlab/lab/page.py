"""What is shown as HTML: templates, which escape all text, whoever wrote it; views; widgets with what stands in their place."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ipywidgets import HTML, Box, Widget
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from alignlab.encoding import last_message
from alignlab.lab.view import INK

WIDGET = "application/vnd.jupyter.widget-view+json"
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
TEMPLATES.filters |= {"form": format, "last_message": last_message}
TEMPLATES.globals |= {"ink": INK}


def render(view: str, **values: object) -> str:
    """HTML of a view: the macro of that name in views.html.jinja, called with the values."""
    return str(getattr(TEMPLATES.get_template("views.html.jinja").module, view)(**values))


@dataclass(frozen=True, repr=False)
class View:
    """What a notebook shows as HTML and a terminal as text. A template takes it as markup."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    __html__ = _repr_html_

    def __repr__(self) -> str:
        return self.text


def bundle(text: str, html: str, widget: Widget | None = None) -> dict:
    """A mimebundle: the widget; where widgets cannot live, the same as HTML; in a terminal, as text."""
    shown: dict = {"text/plain": text, "text/html": html}
    if widget is not None:
        shown[WIDGET] = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    return shown


def address(png: bytes) -> str:
    """The address of an image that holds the image itself."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def box(children: Sequence[Widget], part: str) -> Box:
    """Widgets that stand together as the style sheet in views.html.jinja says of this part; a whole panel brings the sheet along."""
    made = Box([*children, sheet()] if part == "panel" else list(children))
    made.add_class(f"alignlab-{part}")
    return made


def sheet() -> HTML:
    """The style sheet of panels, which itself shows nothing."""
    return HTML(render("style"), layout={"display": "none"})
