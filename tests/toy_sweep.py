"""A sweep of milliseconds that leaves a mark, in the folder where its worker was started, each time it computes a point."""

import os
import sys
import time
from pathlib import Path

from alignlab import cli
from alignlab.tools import sweep


def mark(file: str, words: str) -> None:
    with open(file, "a") as marks:
        marks.write(f"{words}\n")


def marks(file: str = "marks") -> list[str]:
    return Path(file).read_text().splitlines() if Path(file).is_file() else []


def prepare(seed: int, fast: bool) -> None:
    mark("prepared", str(seed))


def measure(settings: dict, seed: int, fast: bool) -> dict:
    assert str(seed) in marks("prepared")
    time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
    mark("marks", f"{settings['x']} {seed}")
    return {"third": settings["x"] / 3, "path": [{"step": seed, "value": settings["x"] * 1000 / 7}]}


SWEEP = sweep.Sweep(
    name="toy", words="thirds", points=[({"x": x}, seed) for seed in (0, 1) for x in (4, 3, 2, 1)], fast_points=[({"x": 1}, 0)],
    measure=measure, prepare=prepare,
)  # fmt: skip


def main() -> None:
    """The command line, which knows this sweep alone."""
    sweep.NAMES = ("toy",)
    sys.modules["alignlab.tools.sweep_toy"] = sys.modules[__name__]
    cli.main()
