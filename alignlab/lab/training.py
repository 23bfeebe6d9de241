"""A stage under way: its generator of metrics, its config, all it has told so far. Widgets only ask it; nothing here draws."""

import math
import numbers
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from typing import get_args

from alignlab.errors import TrainingError, UserError
from alignlab.stage import LEARNING_RATE, Control
from alignlab.stages import stage_of


class Training:
    """A stage under way: its generator of metrics, its config, all it has told so far.

    Args:
        steps: what a stage's `train` returned.
        config: the config it was given; controls move it.
        title: how curves and controls call it; by default the stage's name.
        log: called with each step's metrics, such as `Run.log`.
    """

    def __init__(self, steps: Iterable[dict], config, title: str | None = None, log: Callable[[dict], None] | None = None):
        self.steps, self.config, self.log = iter(steps), config, log
        self.stage = stage_of(config)
        self.title = title or (self.stage.name if self.stage else "run")
        self.metrics: list[dict] = []  # one per step
        self.latest: dict | None = None  # the newest, which may be within a step
        self.finished = False
        self.seconds = 0.0
        self._broken: Exception | None = None  # what ended it, where something did
        self._asked: dict = {}  # what the controls want, until the next step
        self._changed: list[dict] = []  # what they changed since the last whole step

    @property
    def share(self) -> float:
        """How much of it is done, from 0 to 1."""
        return (self.metrics[-1]["step"] + 1) / self.metrics[-1]["steps"] if self.metrics else 0.0

    @property
    def next_step(self) -> int:
        """The step, counted from 1, in which a change made now begins to act: the one under way, or else the next."""
        return 1 if self.latest is None else self.latest["step"] + (1 if self.latest.get("partial") else 2)

    @property
    def samples(self) -> tuple[int, list[dict]]:
        """The newest samples, and the step, counted from 1, that they are of; most steps bring none."""
        for record in (self.latest or {}, *reversed(self.metrics)):
            if record.get("samples"):
                return record["step"] + 1, record["samples"]
        return 0, []

    def ask(self, name: str, value) -> None:
        """Have a setting changed before the next step.

        Raises:
            ValueError: the stage has no such setting.
            UserError: the stage cannot work with that value; nothing is changed.
        """
        if not hasattr(self.config, name):
            raise ValueError(f"{self.title} has no setting {name!r}; it has {', '.join(self.config.__slots__)}")
        if complaint := _complaint(self.config, name, value):
            raise UserError(complaint)
        self._asked[name] = value

    def advance(self) -> None:
        """One step of the generator; an interrupt that falls into it is raised once the step is whole.

        Raises:
            TrainingError: and again at each later call, since a generator that has failed cannot resume.
        """
        if self._broken is not None:
            raise TrainingError(f"{self.title} ended with: {self._broken}; start again from a fresh policy") from self._broken
        start = time.perf_counter()
        with _whole():
            for name, value in list(self._asked.items()):
                del self._asked[name]
                old = getattr(self.config, name)
                if value != old:
                    setattr(self.config, name, value)
                    self._changed.append({"name": name, "old": old, "new": value})
            try:
                metrics = next(self.steps, None)
            except Exception as error:
                self._broken = error
                raise
            self.seconds += time.perf_counter() - start
            if metrics is None:
                self.finished = True
                return
            self.latest = metrics
            if not metrics.get("partial"):
                if self._changed:
                    metrics = {**metrics, "changed": self._changed}
                    self._changed = []
                self.metrics.append(metrics)
                if self.log is not None:
                    self.log(metrics)

    @property
    def history(self) -> list[dict]:
        """The metrics to draw: whole steps, or the first part of the first."""
        return self.metrics or ([self.latest] if self.latest else [])

    def settings(self) -> str:
        """The settings that controls can move, as text."""
        return ", ".join(f"{c.label} {short(getattr(self.config, c.name))}" for c in controls_of(self.config))


RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {  # where a setting's value must lie, if not simply above 0
    **dict.fromkeys(("learning_rate", "value_learning_rate"), ("at least 0", lambda value: value >= 0)),
    **dict.fromkeys(("gamma", "lam"), ("from 0 to 1", lambda value: 0 <= value <= 1)),
    "label_smoothing": ("at least 0 and below 0.5", lambda value: 0 <= value < 0.5),
    **dict.fromkeys(("beta", "missing_eos_score", "seed"), ("any number", lambda value: True)),  # of beta its stage knows more
}


def _complaint(config, name: str, value) -> str | None:
    """What is wrong with a value for a setting, in one line; None where the stage can work with it."""
    kinds = {field.name: get_args(field.type) or (field.type,) for field in fields(config)} if is_dataclass(config) else {}
    if name not in kinds:
        return None
    if value is None:
        return None if type(None) in kinds[name] else f"{name} cannot be switched off; give it a number"
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        return f"{name} must be a number, got {value!r}"
    if float not in kinds[name] and not isinstance(value, numbers.Integral):
        return f"{name} must be a whole number, got {value!r}"
    where, holds = RANGES.get(name, ("above 0", lambda value: value > 0))
    if not holds(float(value)):
        return f"{name} must be {where}, got {value:g}"
    stage = stage_of(config)
    return stage.check(replace(config, **{name: value})) if stage else None


@contextmanager
def _whole() -> Iterator[None]:
    """Hold an interrupt back until the block has ended, so that no step is cut in half."""
    if threading.current_thread() is not threading.main_thread():  # signals never arrive here
        yield
        return
    caught: list = []
    before = signal.signal(signal.SIGINT, lambda *seen: caught.append(seen))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        raise KeyboardInterrupt


def controls_of(config) -> tuple[Control, ...]:
    """The controls that act on a stage while it runs."""
    stage = stage_of(config)
    return stage.controls if stage else (LEARNING_RATE,)


def short(value) -> str:
    """A setting's value in a few characters; None is a switch that is off."""
    if value is None:
        return "off"
    return f"{value:.3g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
