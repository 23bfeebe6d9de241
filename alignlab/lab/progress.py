"""How far a long cell is: one line, rewritten in place. A cell that is done within a moment shows none."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from IPython import get_ipython
from IPython.display import DisplayHandle, display

PATIENCE = 1.0  # seconds before a line appears, and between two changes of it
OUTER: list["Line"] = []  # of the loops under way: the first has the say, and what runs within it shows no line of its own


class Line:
    """Where the work is; a new line for each piece of work. Called with the metrics of a step, as a pipeline's `watch` is."""

    def __init__(self) -> None:
        self.title, self.done, self.total, self.begun, self.told = "", 0, 0, 0.0, 0.0
        self.handle: DisplayHandle | None = None

    def __call__(self, metrics: dict) -> None:
        self.tell(metrics["stage"], _done(metrics), metrics["steps"])

    def tell(self, title: str, done: int, total: int) -> None:
        """So many of the total are done."""
        if OUTER and OUTER[0] is not self:  # the loop around this work has the say; it is still at it
            if OUTER[0].total:
                OUTER[0].tell(OUTER[0].title, OUTER[0].done, OUTER[0].total)
            return
        now = time.monotonic()
        if title != self.title or done < self.done or self.done == self.total:  # the last piece of work is done
            self.title, self.begun, self.told, self.handle = title, now, now, None
        self.done, self.total = done, total
        if now - self.told >= PATIENCE or (done == total and self.handle is not None):
            self.told = now
            self._show(words(title, done, total, now - self.begun))

    def _show(self, text: str) -> None:
        if get_ipython() is None:  # a script, whose output is its own affair
            return
        if self.handle is None:
            self.handle = display({"text/plain": text}, raw=True, display_id=True)
        else:
            self.handle.update({"text/plain": text}, raw=True)


def words(title: str, done: int, total: int, seconds: float) -> str:
    """The line: how far, how long it has taken and how long it will still take."""
    left = f", about {seconds * (total - done) / done:.0f} s left" if 0 < done < total else ""
    return f"{title}: {done} of {total}, {seconds:.0f} s{left}"


def over(items: Iterable[Any], title: str = "") -> Iterator[Any]:
    """The same items, with a line that says how many are done.

    Args:
        items: the metrics of a training, which say how many steps there are, or anything that has a length.
        title: by default a training's stage.
    """
    line = Line()
    OUTER.append(line)
    try:
        if isinstance(items, Sequence):
            line.tell(title, 0, len(items))
            for number, item in enumerate(items, 1):
                yield item
                line.tell(title, number, len(items))
        else:
            for metrics in items:
                line.tell(title or metrics["stage"], _done(metrics), metrics["steps"])
                yield metrics
    finally:
        OUTER.remove(line)


def _done(metrics: dict) -> int:
    """Whole steps so far."""
    return metrics["step"] + (not metrics.get("partial"))


def watch(title: str) -> Callable[[int, int], None]:
    """What samplers and judges call with how many answers are done, of how many."""
    return partial(Line().tell, title)
