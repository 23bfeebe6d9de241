"""How far each policy is from the reference, and how good, when its adapter counts less or more than in training."""

from dataclasses import replace
from itertools import product

from alignlab.models import Policy
from alignlab.tools import sweep_parts
from alignlab.tools.sweep import Sweep

STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
BETAS = {"ppo": (1.0, 0.6, 0.38, 0.25), "dpo": (1.0, 0.7, 0.5, 0.35)}
SEEDS = (0, 1, 2)


def measure(settings: dict, seed: int, fast: bool) -> dict:
    """A policy trained by settings["method"] with settings["beta"], then judged at each strength (see `sweep_parts.walked`)."""
    given = sweep_parts.pipeline(seed, fast)
    policy, steps = given.begin(settings["method"], replace(given.config(settings["method"]), beta=settings["beta"]))
    assert isinstance(policy, Policy)
    sweep_parts.to_the_end(steps)
    return sweep_parts.walked(given, policy, STRENGTHS)


SWEEP = Sweep(
    name="strength",
    words="PPO and DPO at four betas each, and every policy at eight strengths of its adapter",
    points=[
        ({"method": method, "beta": beta}, seed)
        for seed, (method, betas) in product(SEEDS, BETAS.items()) for beta in betas
    ],
    fast_points=[({"method": method, "beta": betas[0]}, SEEDS[0]) for method, betas in BETAS.items()],
    measure=measure,
    prepare=sweep_parts.prepare,
)  # fmt: skip
