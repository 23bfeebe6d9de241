"""What the stages share around their loops: the optimiser, its learning rate, the guard of its step, and how a batch is cut."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from alignlab.errors import TrainingError


def optimiser(*groups: Iterable[nn.Parameter]) -> torch.optim.AdamW:
    """AdamW without weight decay; each group of parameters has a learning rate of its own, set at each step."""
    return torch.optim.AdamW([{"params": list(group)} for group in groups], lr=0.0, betas=(0.9, 0.99), weight_decay=0.0)


def warm_then_decay(step: int, total: int) -> float:
    """Share of the learning rate at a step: up over the first twentieth, then down in a line to a tenth."""
    return min(1.0, (step + 1) / max(1, total // 20)) * (1 - 0.9 * step / max(1, total))


def set_learning_rate(optimizer: torch.optim.Optimizer, *rates: float) -> None:
    """Set the learning rate of the next step: one for each group of the optimiser's parameters."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def clip_gradients(optimizer: torch.optim.Optimizer, loss: float, max_norm: float = 1.0) -> float:
    """Clip the gradients of each group of parameters to `max_norm`; returns their joint norm before that.

    Each group is clipped by itself, so that a large value loss does not shrink the policy's step.

    Args:
        loss: what the gradients are of, to be checked as well.

    Raises:
        TrainingError: the loss or a gradient is not finite. No weight has changed yet.
    """
    groups = optimizer.param_groups
    norm = torch.stack([nn.utils.clip_grad_norm_(group["params"], max_norm) for group in groups]).norm().item()
    for name, number in (("loss", loss), ("gradient's norm", norm)):
        if not math.isfinite(number):
            raise TrainingError(f"the {name} is {number}; lower the learning rate (now {groups[0]['lr']:g})")
    return norm


def micro_batches(rows: Tensor, lengths: Tensor, size: int) -> Sequence[Tensor]:
    """A batch's rows in parts of `size`; where one part does not hold them all, rows of similar length go together: less padding.

    Args:
        rows: (B,) positions. lengths: (N,) tokens of each position.
    """
    if len(rows) > size:
        rows = rows[lengths[rows].argsort(stable=True)]
    return rows.split(size)


def minibatches(count: int, size: int, epochs: int, generator: torch.Generator) -> list[Tensor]:
    """Positions 0 .. count - 1 in parts of `size`, for several epochs, each in a fresh order."""
    return [part for _ in range(epochs) for part in torch.randperm(count, generator=generator).split(size)]
