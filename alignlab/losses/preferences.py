"""What is learned from judged answers without sampling: the reward model's loss, DPO, IPO."""

from torch import Tensor
from torch.nn import functional as F

from alignlab.losses.tokens import same_shape


def preference_loss(chosen_scores: Tensor, rejected_scores: Tensor) -> Tensor:
    """Bradley-Terry negative log-likelihood: -log sigmoid(r(x, y_w) - r(x, y_l)) (Stiennon et al. 2009.01325, section 3.4).

    Only the difference counts: a constant added to all scores changes nothing.

    Args:
        chosen_scores, rejected_scores: (B,), in log-odds.

    Returns:
        (), the mean over pairs; log 2 = 0.693 where the scores carry no information.

    >>> import torch
    >>> preference_loss(torch.zeros(2), torch.zeros(2))
    tensor(0.6931)
    """
    same_shape(chosen_scores=chosen_scores, rejected_scores=rejected_scores)
    return -F.logsigmoid(chosen_scores - rejected_scores).mean()


def dpo_loss(
    chosen_logps: Tensor, rejected_logps: Tensor, ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, beta: float,
    label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """Direct preference optimisation (Rafailov et al. 2305.18290, equation 7).

    The reward model's loss with the implicit reward beta * log(pi / pi_ref) in place of a score. For beta's direction
    see `losses`. With label smoothing epsilon it is cDPO: it expects that share of labels to be wrong.

    Args:
        chosen_logps, rejected_logps: (B,), summed over the completion, under the policy.
        ref_chosen_logps, ref_rejected_logps: (B,), under the reference.
        beta: > 0.
        label_smoothing: in [0, 0.5).

    Returns:
        (), the mean over pairs; log 2 = 0.693 while policy and reference agree.

    Raises:
        ValueError: beta <= 0, label_smoothing outside [0, 0.5), or unequal shapes.

    >>> import torch
    >>> dpo_loss(*torch.zeros(4, 2), beta=0.1)
    tensor(0.6931)
    """
    if not beta > 0:
        raise ValueError(f"beta must be > 0, got {beta}")
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must lie in [0, 0.5), got {label_smoothing}")
    difference = log_ratio_difference(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    logit = beta * difference  # eq. 7, inside the sigmoid
    return -((1 - label_smoothing) * F.logsigmoid(logit) + label_smoothing * F.logsigmoid(-logit)).mean()


def ipo_loss(chosen_logps: Tensor, rejected_logps: Tensor, ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, beta: float) -> Tensor:
    """IPO (Azar et al. 2310.12036, equation 17): pull the log-ratio difference to 1 / (2 beta) instead of upwards for ever.

    Takes the place of `dpo_loss` in `dpo.train(..., loss_fn=ipo_loss)`; beta is the paper's tau.

    Returns:
        (), the mean over pairs, in squared nats; 0 where every difference is 1 / (2 beta).
    """
    if not beta > 0:
        raise ValueError(f"beta must be > 0, got {beta}")
    difference = log_ratio_difference(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return (difference - 1 / (2 * beta)).square().mean()


def log_ratio_difference(chosen_logps: Tensor, rejected_logps: Tensor, ref_chosen_logps: Tensor, ref_rejected_logps: Tensor) -> Tensor:
    """log(pi / pi_ref) of the chosen completions minus that of the rejected ones: (B,) each -> (B,), nats."""
    same_shape(
        chosen_logps=chosen_logps, rejected_logps=rejected_logps, ref_chosen_logps=ref_chosen_logps, ref_rejected_logps=ref_rejected_logps
    )  # fmt: skip
    return (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)  # (B,)
