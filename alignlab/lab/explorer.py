"""The box of an explorer: sliders over a picture and its words; and how its pictures are laid out."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import ipywidgets as widgets
import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignlab.lab.page import address, box, bundle, render, sheet
from alignlab.lab.view import INK, plain_axes, png

# Okabe and Ito's palette again; wherever hue tells curves apart, dash or marker does so too.
SKY, ORANGE = "#56B4E9", "#E69F00"
NATS = (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)  # labels on a scale of the square root of KL


class Words(NamedTuple):
    """What an explorer says about its present state."""

    picture: str  # what the picture shows, for those who cannot see it
    look: str  # what to look for
    numbers: str
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = ()  # caption, heads, rows


# ---------------------------------------------------------------------------------------------- the box


class Explorer(widgets.VBox):
    """Sliders over a picture and its words; a page without widgets shows the picture, a terminal the words."""

    _ipython_display_ = None  # ipywidgets 7 would show itself by it, without the fallback; now both majors are asked for a mimebundle

    def __init__(
        self, numbers: Callable[..., dict], draw: Callable[..., Figure], tell: Callable[..., Words], controls: dict[str, widgets.Widget]
    ):
        """At each move `numbers(**settings)` is worked out once; `draw` and `tell` are called with it and the same settings.

        Args:
            controls: a widget for each setting, by its name.
        """
        self.numbers, self.draw, self.tell, self.controls = numbers, draw, tell, controls
        self.picture, self.caption = widgets.HTML(), widgets.HTML()  # HTML, since widgets.Image cannot carry an alt text
        super().__init__([box(list(controls.values()), "group"), self.picture, self.caption, sheet()])
        self.add_class("alignlab-panel")
        for control in controls.values():
            control.observe(self.refresh, "value")
        self.refresh()

    @property
    def settings(self) -> dict:
        """The value of each control, by name."""
        return {name: control.value for name, control in self.controls.items()}

    def refresh(self, change: object = None) -> None:
        """Redraw the figure and rewrite its words, in place."""
        worked_out = self.numbers(**self.settings)
        self.words = self.tell(worked_out, **self.settings)
        self.drawn = address(png(self.draw(worked_out, **self.settings), dpi=180))  # twice its size in a narrow cell: crisp
        self.picture.value = render("explorer_picture", words=self.words, picture=self.drawn)
        self.caption.value = render("explorer_caption", words=self.words)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict:
        state = ", ".join(f"{control.description} = {control.value:g}" for control in self.controls.values())
        text = f"{self.words.picture}\nAt {state}: {self.words.numbers}\nLook: {self.words.look}"
        text += "".join(f"\n{caption}\n" + "\n".join(": ".join(row) for row in rows) for caption, _, rows in self.words.tables)
        return bundle(text, render("explorer", state=state, words=self.words, picture=self.drawn), self)


def slider(label: str, value: float, low: float, high: float, step: float) -> widgets.FloatSlider:
    return widgets.FloatSlider(value, min=low, max=high, step=step, description=label, continuous_update=False, readout_format=".2f")


def log_slider(label: str, value: float, low: float, high: float) -> widgets.FloatLogSlider:
    return widgets.FloatLogSlider(
        value, min=math.log10(low), max=math.log10(high), step=0.02, description=label, continuous_update=False, readout_format=".3g"
    )


def panels(columns: int, widths: Sequence[float] | None = None) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False, width_ratios=widths)[0]
    for each in axes:
        tidy(each)
    return figure, axes


def tidy(axes: Axes) -> None:
    plain_axes(axes)
    axes.set_axisbelow(True)  # the grid lies under bars and shades too


def root_scale(axes: Axes, furthest: float, least: float = 0.0) -> None:
    """A horizontal scale of the square root of KL, from 0 to so many nats, with labels from `least` on."""
    axes.set_xscale("function", functions=(lambda x: numpy.sqrt(numpy.clip(x, 0, None)), numpy.square))
    axes.set_xlim(0, furthest)
    ticks = [0, *(tick for tick in NATS if least <= tick <= furthest)]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def label_axes(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)


def legend(axes: Axes, place: Literal["best", "upper left", "upper right", "lower right"], columns: int = 1) -> None:
    axes.legend(loc=place, ncols=columns, fontsize=9, labelcolor=INK, edgecolor="none", framealpha=0.9)


def mark(axes: Axes, x: float, y: float) -> None:
    """The point where the learner stands."""
    axes.plot([x], [y], color=INK, marker="o", ms=10, mec="white", mew=1.5, zorder=8, ls="none")
