"""DPO's relatives: other terms, other lengths, no reference, no pairs."""

import torch
from torch import Tensor
from torch.nn import functional as F

from alignlab.losses.preferences import dpo_loss, preference_loss
from alignlab.losses.tokens import same_shape


def length_normalised_dpo_loss(
    chosen_logps: Tensor, rejected_logps: Tensor, ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, beta: float,
    chosen_lengths: Tensor, rejected_lengths: Tensor,
) -> Tensor:  # fmt: skip
    """DPO with each log-ratio divided by its completion's length, as in Tulu 3 (Lambert et al. 2411.15124).

    A long answer no longer has the larger implicit reward for its length alone. Beta prices nats per token here, so it is larger than
    DPO's by about the length of an answer.

    Args:
        chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps: (B,), summed over the completion.
        chosen_lengths, rejected_lengths: (B,), tokens of each completion, EOS included; >= 1.
        beta: > 0.

    Returns:
        (), the mean over pairs; log 2 = 0.693 while policy and reference agree.

    Raises:
        ValueError: beta <= 0, a length below 1, or unequal shapes.
    """
    chosen, ref_chosen = (_per_token(logps, chosen_lengths) for logps in (chosen_logps, ref_chosen_logps))
    rejected, ref_rejected = (_per_token(logps, rejected_lengths) for logps in (rejected_logps, ref_rejected_logps))
    return dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta)


def simpo_loss(
    chosen_logps: Tensor, rejected_logps: Tensor, chosen_lengths: Tensor, rejected_lengths: Tensor, beta: float, margin: float
) -> Tensor:
    """SimPO (Meng et al. 2405.14734, equation 6): no reference; the reward is beta times the mean log-probability of a token.

    The reward of the chosen answer is to exceed that of the rejected one by a margin. Without a reference, beta is no price of KL: it
    only scales the reward.

    Args:
        chosen_logps, rejected_logps: (B,), summed over the completion.
        chosen_lengths, rejected_lengths: (B,), tokens of each completion, EOS included; >= 1.
        beta: > 0.
        margin: >= 0, the paper's gamma, in units of the reward.

    Returns:
        (), the mean over pairs.

    Raises:
        ValueError: beta <= 0, a margin below 0, a length below 1, or unequal shapes.

    >>> logps, lengths = torch.tensor([-6.0]), torch.tensor([3])
    >>> simpo_loss(logps, logps, lengths, lengths, beta=2.0, margin=0.0)
    tensor(0.6931)
    """
    if not beta > 0:
        raise ValueError(f"beta must be > 0, got {beta}")
    if not margin >= 0:
        raise ValueError(f"margin must be >= 0, got {margin}")
    chosen, rejected = _per_token(chosen_logps, chosen_lengths), _per_token(rejected_logps, rejected_lengths)
    return preference_loss(beta * chosen - margin, beta * rejected)


def dpop_loss(
    chosen_logps: Tensor, rejected_logps: Tensor, ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, beta: float, penalty: float
) -> Tensor:
    """DPO-Positive (Pal et al. 2402.13228): DPO that also pays for chosen answers which became less likely than in the reference.

    DPO sees differences alone, and so may lower both answers. Takes the place of `dpo_loss` as
    `dpo.train(..., loss_fn=partial(dpop_loss, penalty=5.0))`.

    Args:
        chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps: (B,), summed over the completion.
        beta: > 0.
        penalty: >= 0, the paper's lambda: the price of a nat that a chosen answer has lost, in nats of the difference; 0 is DPO.

    Returns:
        (), the mean over pairs; log 2 = 0.693 while policy and reference agree.

    Raises:
        ValueError: beta <= 0, a penalty below 0, or unequal shapes.
    """
    if not penalty >= 0:
        raise ValueError(f"penalty must be >= 0, got {penalty}")
    same_shape(chosen_logps=chosen_logps, ref_chosen_logps=ref_chosen_logps)
    lost = F.relu(ref_chosen_logps - chosen_logps)  # nats
    return dpo_loss(chosen_logps - penalty * lost, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta)


def dpo_nll_loss(
    chosen_logps: Tensor, rejected_logps: Tensor, ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, beta: float, weight: float,
    chosen_lengths: Tensor,
) -> Tensor:  # fmt: skip
    """DPO plus a term that keeps the chosen answers likely: their negative log-likelihood per token (Pang et al. 2404.19733).

    Takes the place of `dpo_loss` as `dpo.train(..., loss_fn=partial(dpo_nll_loss, weight=1.0))`, which passes the lengths.

    Args:
        chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps: (B,), summed over the completion.
        chosen_lengths: (B,), tokens of each completion, EOS included; >= 1.
        beta: > 0.
        weight: >= 0, of the second term, the paper's alpha; 0 is DPO.

    Returns:
        (), the mean over pairs.

    Raises:
        ValueError: beta <= 0, a weight below 0, a length below 1, or unequal shapes.
    """
    if not weight >= 0:
        raise ValueError(f"weight must be >= 0, got {weight}")
    preference = dpo_loss(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta)
    return preference - weight * _per_token(chosen_logps, chosen_lengths).mean()


def kto_loss(
    logps: Tensor, ref_logps: Tensor, desirable: Tensor, kl: Tensor | float, beta: float, desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:  # fmt: skip
    """KTO (Ethayarajh et al. 2402.01306, section 4.1): from single answers, each desirable or not, instead of pairs.

    An answer's value is how far its log-ratio lies on the right side of a common reference point, the KL:
    w sigmoid(beta (log-ratio - kl)) if desirable, w sigmoid(beta (kl - log-ratio)) if not. The loss is the mean of w - value.

    Args:
        logps, ref_logps: (B,), summed over the completion, under policy and reference.
        desirable: (B,), bool.
        kl: >= 0, the reference point in nats, one for the batch (see `kto_kl`); it carries no gradient.
        beta: > 0.
        desirable_weight, undesirable_weight: > 0, the paper's lambdas; unequal to balance unequal counts, or to fear losses more.

    Returns:
        (); half the mean weight while policy and reference agree and kl is 0.

    Raises:
        ValueError: beta or a weight <= 0, a kl that is not one number >= 0, or unequal shapes.

    >>> kto_loss(*torch.zeros(2, 2), torch.tensor([True, False]), kl=0.0, beta=0.1)
    tensor(0.5000)
    """
    if not beta > 0:
        raise ValueError(f"beta must be > 0, got {beta}")
    if not min(desirable_weight, undesirable_weight) > 0:
        raise ValueError(f"the weights must be > 0, got {desirable_weight} and {undesirable_weight}")
    point = torch.as_tensor(kl).detach()
    if point.dim() or not point >= 0:
        raise ValueError(f"kl must be one number >= 0, got {point.tolist()}")
    same_shape(logps=logps, ref_logps=ref_logps, desirable=desirable)
    surplus = logps - ref_logps - point  # (B,)
    good = desirable.bool()
    weight = torch.where(good, logps.new_tensor(desirable_weight), logps.new_tensor(undesirable_weight))
    value = weight * torch.sigmoid(beta * torch.where(good, surplus, -surplus))
    return (weight - value).mean()


@torch.no_grad()
def kto_kl(mismatched_logps: Tensor, mismatched_ref_logps: Tensor) -> Tensor:
    """KTO's reference point, estimated from a batch (Ethayarajh et al. 2402.01306, section 4.1): the mean log-ratio, at least 0.

    It is taken of prompts each with the answer to another one, which stand in for the policy's own samples: a rough estimate, and a
    cheap one.

    Args:
        mismatched_logps, mismatched_ref_logps: (B,), of answer j after prompt i, summed over the completion.

    Returns:
        (), nats; no gradient.
    """
    same_shape(mismatched_logps=mismatched_logps, mismatched_ref_logps=mismatched_ref_logps)
    return (mismatched_logps - mismatched_ref_logps).mean().clamp(min=0)


def _per_token(logps: Tensor, lengths: Tensor) -> Tensor:
    """Mean log-probability of a completion's tokens: (B,), (B,) -> (B,), nats."""
    same_shape(logps=logps, lengths=lengths)
    if not (lengths >= 1).all():
        raise ValueError("each completion needs a length of at least 1 token, its EOS included")
    return logps / lengths
