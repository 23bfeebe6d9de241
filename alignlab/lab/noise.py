"""How noisy a method's gradient is: what many minibatches say at one policy, through the stage's own loop."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from alignlab.lab import workbook
from alignlab.models import Policy

ANSWERS = 64  # of every minibatch: so many answers, or half as many pairs
SIZES: dict[str, dict[str, Any]] = {  # settings by which a stage takes one step for each such minibatch
    "dpo": {"batch_size": ANSWERS // 2, "epochs": 1},
    "online": {"batch_size": ANSWERS // 2, "every": 1},
    "rloo": {"batch_size": ANSWERS, "minibatch_size": ANSWERS},
    "ppo": {"batch_size": ANSWERS, "minibatch_size": ANSWERS, "epochs": 1, "value_learning_rate": 0.0},
}
# PPO's equations without the value head's loss, so that the gradient's length is the policy's alone.
POLICY_ALONE = workbook.equations(value_loss=lambda values, *others: 0.0 * values.sum())


def at_rest(method: str, config, count: int):
    """The config with which that method's stage takes `count` steps, or more, none of which changes the policy."""
    length = {"online": {"steps": count}, "rloo": {"iterations": count}, "ppo": {"iterations": count}}.get(method, {})
    return replace(config, learning_rate=0.0, **SIZES[method], **length)


def gradients(policy: Policy, steps: Iterator[dict], count: int) -> Tensor:
    """Each step's gradient of the policy's weights, as it was before clipping: (count, weights)."""
    found = []
    for metrics in islice((metrics for metrics in steps if not metrics.get("partial")), count):
        flat = torch.cat([weight.grad.flatten() for weight in policy.parameters() if weight.grad is not None]).cpu()
        found.append(flat * metrics["gradient_norm"] / flat.norm())
    return torch.stack(found)
