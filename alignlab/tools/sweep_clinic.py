"""Short runs of every stage, healthy and with each of the clinic's breaks: the sick and the healthy curves of notebook 15."""

from alignlab.lab import clinic
from alignlab.lab.breaks import BREAKS
from alignlab.tools import sweep_parts
from alignlab.tools.sweep import Sweep

HEALTHY = "healthy"
SEEDS, SICK_SEEDS = (0, 1, 2), (0, 1)  # the healthy runs' spread needs one more


def measure(settings: dict, seed: int, fast: bool) -> dict:
    """One short run (see `clinic.record`), with the wrong code of settings["fault"] put in, or healthy."""
    run = clinic.setup(sweep_parts.pipeline(seed, fast), settings["stage"], seed, **clinic.QUICK if fast else {})
    if settings["fault"] != HEALTHY:
        chosen = BREAKS[settings["fault"]]
        chosen.put(run, chosen.wrong)
    return clinic.record(run)


SWEEP = Sweep(
    name="clinic",
    words="short runs of every stage, healthy and with one piece of code broken",
    points=[({"stage": stage, "fault": HEALTHY}, seed) for stage in clinic.SHORT for seed in SEEDS]
    + [({"stage": each.stage, "fault": name}, seed) for seed in SICK_SEEDS for name, each in BREAKS.items()],
    fast_points=[({"stage": "ppo", "fault": "moving_reference"}, SEEDS[0])],
    measure=measure,
    prepare=sweep_parts.prepare,
)
