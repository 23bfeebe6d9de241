"""The eight runs of notebook 15 whose fault is not told. A point has a number alone; `alignlab.lab.mystery` knows what it hides."""

from alignlab.lab import clinic, mystery
from alignlab.tools import sweep_parts
from alignlab.tools.sweep import Sweep

SEEDS = (0, 1, 2)  # of the SFT model and the reward model, by turns
FIRST = 100  # seeds of training, which the healthy runs do not have


def measure(settings: dict, seed: int, fast: bool) -> dict:
    """One short run (see `clinic.record`) with the fault that settings["mystery"] hides."""
    number = settings["mystery"]
    run = clinic.setup(sweep_parts.pipeline(seed, fast), mystery.stage_of(number), FIRST + number, **clinic.QUICK if fast else {})
    mystery.FAULTS[mystery.fault_of(number)].put(run)
    return clinic.record(run)


SWEEP = Sweep(
    name="mystery",
    words="eight short runs, each with a fault that is not told",
    points=[({"mystery": number}, SEEDS[number % 3]) for number in mystery.NUMBERS],
    fast_points=[({"mystery": mystery.NUMBERS[0]}, SEEDS[0])],
    measure=measure,
    prepare=sweep_parts.prepare,
)
