"""The dial: a trained policy at other strengths of its adapter, and several policies at equal KL.

Strength s counts the adapter's weights s times: 0 is the reference, 1 the policy as trained. So one training gives a path over
the reward-KL plane, from the reference through the policy to beyond it, and two methods can be compared where their KL is equal.
The exact partner is `exact.mixed_logps`, which mixes log-probabilities instead of weights.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from math import prod

import torch
from torch import Tensor

from alignlab.evaluate import Answers, Bootstrap, interpolate, interval
from alignlab.models import Policy

STRENGTHS = (0.5, 1.0, 1.5, 2.0, 3.0)

Path = Mapping[float, Answers]  # what a policy answered, by rising strength; from 0, the reference, on


@contextmanager
def turned(policy: Policy, strength: float) -> Iterator[Policy]:
    """The policy at another strength meanwhile. Raises ValueError for a policy without an adapter."""
    kept = policy.strength
    policy.strength = strength
    try:
        yield policy
    finally:
        policy.strength = kept


def walk(policy: Policy, answers: Callable[[Policy], Answers], strengths: Sequence[float] = STRENGTHS) -> dict[float, Answers]:
    """What the policy answers at each strength, by rising strength."""
    path = {}
    for strength in sorted(strengths):
        with turned(policy, strength):
            path[strength] = answers(policy)
    return path


def points(prompts: Bootstrap, path: Path) -> list[list]:
    """The path over the plane: [strength, [KL, low, high], [gold, low, high]] each."""
    return [[strength, prompts.measure(answers.kl), prompts.measure(answers.gold)] for strength, answers in path.items()]


def gold_at(prompts: Bootstrap, path: Path, kl: float) -> Tensor:
    """Gold where the path reaches that KL, under each resampling of the prompts: (R + 1,); NaN beyond the path.

    Read off straight lines between neighbours in gold against the square root of KL, which both grow in proportion to the strength
    where it is small.
    """
    far = torch.stack([prompts.mean(answers.kl).clamp(min=0).sqrt() for answers in path.values()], -1)
    rising = far.cummax(-1).values  # where an adapter's far end comes back, the way out counts
    gold = torch.stack([prompts.mean(answers.gold) for answers in path.values()], -1)
    return interpolate(torch.full((len(rising),), kl**0.5, dtype=torch.float64), rising, gold)


def equal_kl(prompts: Bootstrap, paths: Mapping[str, Path], kl: float | None = None) -> dict:
    """Policies by name where their KL is equal: by default at the geometric mean of the KLs that they have as trained.

    Returns:
        kl; gold of each; difference, paired over prompts, of each two, such as "ppo-dpo": [mean, low, high] each, or None where a
        path does not reach that KL.
    """
    if kl is None:
        trained = [max(prompts.mean(path[1.0].kl)[0].item(), 0.0) for path in paths.values()]
        kl = prod(trained) ** (1 / len(trained))
    drawn = {name: gold_at(prompts, path, kl) for name, path in paths.items()}
    difference = {f"{one}-{other}": interval(drawn[one] - drawn[other]) for one, other in combinations(drawn, 2)}
    return {"kl": kl, "gold": {name: interval(gold) for name, gold in drawn.items()}, "difference": difference}
