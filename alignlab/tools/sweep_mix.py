"""Policies made without training: log-probabilities mixed instead of weights scaled, and two adapters in one."""

from itertools import product

from alignlab import mixing
from alignlab.models import Policy
from alignlab.pipeline import Pipeline
from alignlab.tools import sweep_parts
from alignlab.tools.sweep import Sweep

SEEDS = (0, 1, 2)
METHODS = ("ppo", "dpo")
OF = (*METHODS, "ppo+dpo")


def measure(settings: dict, seed: int, fast: bool) -> dict:
    """The default policies of settings["of"], mixed by settings["by"], at each strength in all (see `sweep_parts.told`).

    At strength s in all each of n policies counts s / n times, and the reference, where log-probabilities are mixed, 1 - s times.
    """
    given = sweep_parts.pipeline(seed, fast)
    names = settings["of"].split("+")
    for name in names:
        given.policy(name)  # loads its adapter
    path = {}
    for strength in sweep_parts.STRENGTHS:
        weights = dict.fromkeys(names, strength / len(names))
        path[strength] = given.answers(_mixed(given, settings["by"], weights))
    return sweep_parts.told(given, path)


def _mixed(given: Pipeline, by: str, weights: dict[str, float]) -> Policy:
    if by == "weights":
        return mixing.mixed_weights(given.reference, "mixed", weights)
    counted: dict[str | None, float] = {None: 1 - sum(weights.values())}
    counted.update(weights)
    return mixing.mixed_logps(given.reference, counted)


def prepare(seed: int, fast: bool) -> None:
    """Train what the points of a seed share: here the policies too."""
    for method in METHODS:
        sweep_parts.pipeline(seed, fast).make(method)


SWEEP = Sweep(
    name="mix",
    words="the default policies by mixed log-probabilities, and PPO and DPO mixed with each other",
    points=[
        ({"of": of, "by": by}, seed)
        for seed, of, by in product(SEEDS, OF, ("weights", "logps"))
        if of not in METHODS or by == "logps"  # one policy's own weights: in the sweep `strength`
    ],
    fast_points=[({"of": "ppo+dpo", "by": by}, SEEDS[0]) for by in ("weights", "logps")],
    measure=measure,
    prepare=prepare,
)
