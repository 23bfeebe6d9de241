"""One control of a live training: a slider that asks, says from which step it acts, and follows what moves by itself."""

import math
from collections.abc import Callable

import ipywidgets

from alignlab.lab.training import Training
from alignlab.stage import Control


class Knob:
    """A setting's slider, and a box to switch it off where it can be off. `widget` is what is shown."""

    def __init__(self, training: Training, control: Control, heard: Callable[[], None]):
        self.training, self.control, self.heard, self.following = training, control, heard, False
        self.since: int | None = None  # the step, counted from 1, from which the last move acts, until that step is done
        self.slider = _slider(control, getattr(training.config, control.name))
        self.slider.observe(self._moved, names="value")
        self.widget, self.switch = self.slider, None
        if control.kind == "switch":
            self.switch = ipywidgets.Checkbox(
                value=getattr(training.config, control.name) is not None, description="on", indent=False,
                layout=ipywidgets.Layout(width="auto"),
            )  # fmt: skip
            self.switch.tooltip = f"{control.label}, on or off"  # set here: ipywidgets 7 knows no such argument
            self.switch.observe(self._moved, names="value")
            self.widget = ipywidgets.HBox([self.slider, self.switch])
            self.widget.add_class("alignlab-switched")

    def _moved(self, change) -> None:
        self.heard()
        if not self.following:
            off = self.switch is not None and not self.switch.value
            self.training.ask(self.control.name, None if off else self.slider.value)
            self.since = self.training.next_step
            self.slider.description = f"{self.control.label}: from step {self.since}"

    def settle(self) -> None:
        """A step is done: what was said of it is no longer news."""
        if self.since is not None and (self.training.finished or self.training.next_step > self.since):
            self.since = None
            self.slider.description = self.control.label

    def follow(self) -> None:
        """Show the setting as it is now: an adaptive beta moves by itself."""
        value = getattr(self.training.config, self.control.name)
        if value is not None and self.control.name not in self.training._asked and abs(value - self.slider.value) > 0.005 * abs(value):
            self.following = True
            self.slider.value = min(max(value, self.slider.min), self.slider.max) if self.control.kind != "log" else value
            self.following = False


def _slider(control: Control, value):
    """The slider of a setting, wide enough for the value that it has."""
    low, high = (min(control.low, value), max(control.high, value)) if value is not None else (control.low, control.high)
    common: dict = {"description": control.label, "continuous_update": False}
    if control.kind == "log":
        return ipywidgets.FloatLogSlider(value=value, min=math.log10(low), max=math.log10(high), step=0.1, readout_format=".1e", **common)
    if control.kind == "whole":
        return ipywidgets.IntSlider(value=value, min=int(low), max=int(high), **common)
    start = value if value is not None else 2.0
    return ipywidgets.FloatSlider(value=start, min=low, max=high, step=0.01, readout_format=".2f", **common)
