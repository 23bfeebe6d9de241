"""What the command line shows while a run is in progress: a bar for the stage that runs in a terminal, plain lines elsewhere."""

import sys
import time
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

QUIET = 30  # seconds between two lines on a stage's progress where no terminal shows bars


@contextmanager
def progress():
    """What shows the steps of a stage, and what says a line: in a terminal with a bar for the stage that runs, else as plain lines.

    A stage that has ended leaves one line; where no bar is seen, so does a longer one every half minute.
    """
    name, numbers = TextColumn("{task.description:>9}"), TextColumn("{task.fields[shown]}")
    columns = name, BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(), numbers
    terminal = sys.stderr.isatty()
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    bars = Progress(*columns, console=console, redirect_stdout=False, redirect_stderr=False, disable=not terminal)
    running: dict[str, TaskID] = {}
    said: dict[str, float] = {}  # when something was said of a stage that runs

    def line(words: str) -> None:
        console.print(words, soft_wrap=True) if terminal else print(words, file=sys.stderr, flush=True)

    def watch(metrics: dict) -> None:
        stage, step, steps, now = metrics["stage"], metrics["step"] + 1, metrics["steps"], time.monotonic()
        partial = bool(metrics.get("partial"))
        ended = step == steps and not partial
        if stage not in running:
            if ended:
                return  # done at once: there is nothing to wait for
            running[stage], said[stage] = bars.add_task(stage, total=steps, shown=""), now
        bars.update(running[stage], completed=step - partial, shown=_shown(metrics))
        if ended:
            bars.remove_task(running.pop(stage))
        if ended or not terminal and now - said[stage] >= QUIET:
            line(f"{stage:>9}  {step - partial} of {steps}  {_shown(metrics)}".rstrip())
            said[stage] = now

    with bars:
        yield watch, line if terminal and sys.stdout.isatty() else say


def _shown(metrics: dict) -> str:
    """The numbers that tell most about a step."""
    return ", ".join(f"{key} {metrics[key]:z.2f}" for key in ("loss", "reward", "accuracy", "kl") if key in metrics)


def say(words: str) -> None:
    print(words, flush=True)
