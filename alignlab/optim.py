"""What the four stages share: one optimiser step, in parts that fit in memory, guarded against non-finite numbers."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from alignlab.errors import TrainingError


def optimiser(parameters: Iterable[nn.Parameter]) -> torch.optim.AdamW:
    """AdamW without weight decay; the learning rate is set at each step."""
    return torch.optim.AdamW(parameters, lr=0.0, betas=(0.9, 0.99), weight_decay=0.0)


def warm_then_decay(step: int, total: int) -> float:
    """Share of the learning rate at a step: up over the first twentieth, then down in a line to a tenth."""
    return min(1.0, (step + 1) / max(1, total // 20)) * (1 - 0.9 * step / max(1, total))


def descend(
    optimizer: torch.optim.Optimizer, learning_rate: float | Sequence[float], losses: Iterable[Tensor], max_norm: float = 1.0
) -> tuple[float, float]:
    """Add up the gradients of `losses` (parts of one batch, already weighted), clip them and take one step.

    Each group of parameters is clipped by itself, so that a large value loss does not shrink the policy's step.

    Args:
        learning_rate: one number, or one for each group of the optimiser's parameters.

    Returns:
        the summed loss, and the gradient's norm before clipping.

    Raises:
        TrainingError: a loss or gradient is not finite; nothing was changed.
    """
    groups = optimizer.param_groups
    rates = [learning_rate] * len(groups) if isinstance(learning_rate, float | int) else list(learning_rate)
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for loss in losses:
        if not torch.isfinite(loss):
            raise TrainingError(f"the loss is {loss.item()}; lower the learning rate (now {rates[0]:g})")
        loss.backward()
        total += loss.item()
    norm = torch.stack([nn.utils.clip_grad_norm_(group["params"], max_norm) for group in groups]).norm()
    if not torch.isfinite(norm):
        raise TrainingError(f"the gradient's norm is {norm.item()}; lower the learning rate (now {rates[0]:g})")
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
    optimizer.step()
    return total, norm.item()


def micro_batches(rows: Tensor, lengths: Tensor, size: int) -> Sequence[Tensor]:
    """A batch's rows in parts of `size`; where one part does not hold them all, rows of like length go together: less padding.

    Args:
        rows: (B,) positions. lengths: (N,) tokens of each position.
    """
    if len(rows) > size:
        rows = rows[lengths[rows].argsort(stable=True)]
    return rows.split(size)


def minibatches(count: int, size: int, epochs: int, generator: torch.Generator) -> list[Tensor]:
    """Positions 0 .. count - 1 in parts of `size`, for several epochs, each in a fresh order."""
    return [part for _ in range(epochs) for part in torch.randperm(count, generator=generator).split(size)]
