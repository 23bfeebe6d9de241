"""Tokens and their log-probabilities: shift, masks, sums and means, SFT, KL, entropy."""

import torch
from torch import Tensor
from torch.nn import functional as F


def token_logps(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probability of each token given those before it; logits and ids are shifted here, and what comes out lies beside the ids.

    Args:
        logits: (B, T, V); logits[:, t] predicts ids[:, t + 1]. Any float type; the softmax runs in float32.
        ids: (B, T), integers.

    Returns:
        (B, T) float32, in nats, aligned with `ids`; position 0 has no prediction and is 0.

    >>> token_logps(torch.zeros(1, 3, 4), torch.tensor([[0, 1, 2]]))  # uniform over 4: -log 4
    tensor([[ 0.0000, -1.3863, -1.3863]])
    """
    if logits.shape[:-1] != ids.shape:
        raise ValueError(f"logits {tuple(logits.shape)} must be (B, T, V) for ids (B, T) {tuple(ids.shape)}")
    predicted = F.pad(torch.ones_like(ids[:, 1:]), (1, 0))  # (B, T) all but the first
    return spread(picked_logps(before(logits, predicted), ids[predicted.bool()]), predicted)


def before(values: Tensor, mask: Tensor) -> Tensor:
    """What stands one position before each of the mask's N tokens, and so predicts it: (B, T, ...) -> (N, ...). The only shift."""
    return values[:, :-1][mask[:, 1:].bool()]


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """Values of the mask's N tokens, back in their places: (N,) -> (B, T), 0 elsewhere."""
    return torch.zeros(mask.shape, device=values.device).masked_scatter(mask.bool(), values)


def picked_logps(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probability of each id under the logits in the same place, without any shift: (..., V), (...) -> (...) float32, nats."""
    logits = logits.float()
    return logits.gather(-1, ids[..., None]).squeeze(-1) - logits.logsumexp(-1)


def sequence_logps(token_logps: Tensor, mask: Tensor) -> Tensor:
    """Log-probability of each completion: the sum, not the mean, of its tokens' log-probabilities.

    Args:
        token_logps: (B, T), nats.
        mask: (B, T), 1 on completion tokens.

    Returns:
        (B,), nats.

    >>> sequence_logps(torch.tensor([[0.0, -1.0, -2.0]]), torch.tensor([[0, 1, 1]]))
    tensor([-3.])
    """
    return masked(token_logps, mask).sum(-1)


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """`values` where the mask is 1, and 0 elsewhere, whatever stood there (NaN and infinity too)."""
    return torch.where(mask.bool(), values, torch.zeros_like(values))


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the positions where the mask is 1, as a scalar; 0 for an empty mask."""
    return masked(values, mask).sum() / mask.sum().clamp(min=1)


def sft_loss(token_logps: Tensor, mask: Tensor) -> Tensor:
    """Negative log-likelihood of the demonstrations, a mean over completion tokens (Ouyang et al. 2203.02155, section 3.5).

    Args:
        token_logps: (B, T), nats.
        mask: (B, T).

    Returns:
        (), nats per token; log V for a model that knows nothing.
    """
    return -masked_mean(token_logps, mask)


def kl_estimate(logps: Tensor, ref_logps: Tensor, kind: str) -> Tensor:
    """Per-token estimates of KL(pi, pi_ref) from tokens drawn from pi (Schulman 2020, "Approximating KL divergence").

    With log r = ref_logps - logps: k1 = -log r, unbiased, either sign; k2 = (log r)^2 / 2, biased, low variance;
    k3 = r - 1 - log r, unbiased, never negative.

    Args:
        logps, ref_logps: equal shapes, nats.
        kind: "k1", "k2" or "k3".

    Returns:
        the same shape, nats; 0 where both agree.
    """
    same_shape(logps=logps, ref_logps=ref_logps)
    log_r = ref_logps - logps
    if kind == "k1":
        return -log_r
    if kind == "k2":
        return log_r.square() / 2
    if kind == "k3":
        return torch.expm1(log_r) - log_r
    raise ValueError(f"kind must be 'k1', 'k2' or 'k3', got {kind!r}")


def exact_kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """KL(pi, pi_ref) of the next-token distributions, summed over the whole vocabulary.

    Averaged over prefixes drawn from pi and summed over positions this is the sequence's KL with the last choice of each
    step integrated out (Rao-Blackwell): unbiased, never negative.

    Args:
        logits, ref_logits: (..., V).

    Returns:
        (...), float32, nats.
    """
    logp, ref_logp = logits.float().log_softmax(-1), ref_logits.float().log_softmax(-1)
    return (logp.exp() * (logp - ref_logp)).sum(-1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the next-token distribution: (..., V) -> (...), nats; log V for the uniform one."""
    logp = logits.float().log_softmax(-1)
    return -(logp.exp() * logp).sum(-1)


def accuracy(margins: Tensor) -> Tensor:
    """Share of margins above 0, as a scalar; a margin of exactly 0 counts half, as a coin would.

    >>> accuracy(torch.tensor([2.0, 0.0, -1.0, 0.5])).item()
    0.625
    """
    return (margins > 0).float().mean() + (margins == 0).float().mean() / 2


def same_shape(**tensors: Tensor) -> None:
    """Refuse tensors of unequal shapes, which would broadcast, by their names (ValueError)."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError("unequal shapes: " + ", ".join(f"{name} {shape}" for name, shape in shapes.items()))
