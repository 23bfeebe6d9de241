"""Every equation of the two pipelines, as pure functions of tensors.

Layout, everywhere: (B, T) covers prompt and completion, right-padded; `mask` is 1 on completion tokens, EOS included,
and 0 on prompt and padding. The "last token" of a row is the last position where its mask is 1.

The direction of beta, said once: beta is the price of a nat of KL to the reference. At the optimum a larger beta stays
nearer to the reference, in PPO and in DPO alike, since both have the optimum pi_ref(y) exp(r(y) / beta) / Z.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

# ---------------------------------------------------------------------------------------------- log-probabilities


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


# ---------------------------------------------------------------------------------------------- SFT and reward model


def sft_loss(token_logps: Tensor, mask: Tensor) -> Tensor:
    """Negative log-likelihood of the demonstrations, a mean over completion tokens (Ouyang et al. 2203.02155, section 3.5).

    Args:
        token_logps: (B, T), nats.
        mask: (B, T).

    Returns:
        (), nats per token; log V for a model that knows nothing.
    """
    return -masked_mean(token_logps, mask)


def preference_loss(chosen_scores: Tensor, rejected_scores: Tensor) -> Tensor:
    """Bradley-Terry negative log-likelihood: -log sigmoid(r(x, y_w) - r(x, y_l)) (Stiennon et al. 2009.01325, section 3.4).

    Only the difference counts: a constant added to all scores changes nothing.

    Args:
        chosen_scores, rejected_scores: (B,), in log-odds.

    Returns:
        (), the mean over pairs; log 2 = 0.693 where the scores carry no information.

    >>> preference_loss(torch.zeros(2), torch.zeros(2))
    tensor(0.6931)
    """
    _same_shape(chosen_scores=chosen_scores, rejected_scores=rejected_scores)
    return -F.logsigmoid(chosen_scores - rejected_scores).mean()


# ---------------------------------------------------------------------------------------------- DPO


def dpo_loss(
    chosen_logps: Tensor, rejected_logps: Tensor, ref_chosen_logps: Tensor, ref_rejected_logps: Tensor, beta: float,
    label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """Direct preference optimisation (Rafailov et al. 2305.18290, equation 7).

    The reward model's loss with the implicit reward beta * log(pi / pi_ref) in place of a score. For beta's direction
    see the head of this file. With label smoothing epsilon it is cDPO: it expects that share of labels to be wrong.

    Args:
        chosen_logps, rejected_logps: (B,), summed over the completion, under the policy.
        ref_chosen_logps, ref_rejected_logps: (B,), under the reference.
        beta: > 0.
        label_smoothing: in [0, 0.5).

    Returns:
        (), the mean over pairs; log 2 = 0.693 while policy and reference agree.

    Raises:
        ValueError: beta <= 0, label_smoothing outside [0, 0.5), or unequal shapes.

    >>> dpo_loss(*torch.zeros(4, 2), beta=0.1)
    tensor(0.6931)
    """
    if not beta > 0:
        raise ValueError(f"beta must be > 0, got {beta}")
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing must lie in [0, 0.5), got {label_smoothing}")
    difference = _log_ratio_difference(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
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
    difference = _log_ratio_difference(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps)
    return (difference - 1 / (2 * beta)).square().mean()


def _log_ratio_difference(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps) -> Tensor:
    _same_shape(
        chosen_logps=chosen_logps, rejected_logps=rejected_logps, ref_chosen_logps=ref_chosen_logps, ref_rejected_logps=ref_rejected_logps
    )  # fmt: skip
    return (chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps)  # (B,)


# ---------------------------------------------------------------------------------------------- KL


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
    _same_shape(logps=logps, ref_logps=ref_logps)
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


# ---------------------------------------------------------------------------------------------- PPO


@torch.no_grad()
def shape_rewards(scores: Tensor, logps: Tensor, ref_logps: Tensor, mask: Tensor, beta: float) -> Tensor:
    """PPO's reward per token: the score on the last token, minus beta times the k1 estimate on each.

    Summed over a completion this is score - beta * log(pi / pi_ref), the objective of Stiennon et al. 2009.01325,
    section 3.4. It carries no gradient: in PPO the KL is part of the reward, not of the loss.

    Args:
        scores: (B,), one a completion.
        logps, ref_logps: (B, T), nats, policy and reference.
        mask: (B, T); each row has at least one 1.
        beta: >= 0; reward units per nat.

    Returns:
        (B, T); 0 where the mask is 0.
    """
    if not beta >= 0:
        raise ValueError(f"beta must be >= 0, got {beta}")
    if not mask.bool().any(-1).all():
        raise ValueError("each row of the mask needs at least one completion token")
    rewards = masked(-beta * kl_estimate(logps, ref_logps, "k1"), mask)  # (B, T)
    rows = torch.arange(len(scores), device=scores.device)
    rewards[rows, last_token(mask)] += scores
    return rewards


def last_token(mask: Tensor) -> Tensor:
    """Position of the last 1 of each row: (B, T) -> (B,)."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    return (mask.long() * positions).argmax(-1)


@torch.no_grad()
def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 1506.02438, equation 16).

    A_t = sum over k of (gamma lam)^k delta_{t+k}, delta_t = r_t + gamma V_{t+1} - V_t. The episode is the run of tokens
    where the mask is 1; nothing crosses where it is 0, and after its last token the value is 0.

    Args:
        rewards: (B, T), reward for producing the token.
        values: (B, T), value of the state *before* the token.
        mask: (B, T).
        gamma, lam: in [0, 1]; lam = 0 is one-step TD, lam = 1 is return minus value.

    Returns:
        advantages, returns = advantages + values, both (B, T) and 0 where the mask is 0; no gradient.
    """
    rewards, values, mask = masked(rewards, mask), masked(values, mask), mask.to(values.dtype)
    advantages = torch.zeros_like(values)
    following = torch.zeros_like(values[:, 0])  # A_{t+1}, (B,)
    next_value = torch.zeros_like(values[:, 0])  # V_{t+1}, (B,)
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = mask[:, t] * (delta + gamma * lam * following)
        next_value = values[:, t]
        advantages[:, t] = following
    return advantages, advantages + values


def normalise(advantages: Tensor, mask: Tensor) -> Tensor:
    """Advantages with mean 0 and standard deviation 1 over the mask's tokens, and 0 elsewhere: (B, T) -> (B, T)."""
    mean = masked_mean(advantages, mask)
    deviation = masked_mean((advantages - mean).square(), mask).sqrt()
    return masked((advantages - mean) / (deviation + 1e-8), mask)


def clipped_policy_loss(logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor, clip_epsilon: float) -> Tensor:
    """PPO's clipped surrogate, negated (Schulman et al. 1707.06347, equation 7): a mean over the mask's tokens.

    The clip is against the policy that sampled (old_logps), not against the reference. Outside the clip, on the side that
    the advantage asks for, the gradient is zero; on the other side it is whole.

    Args:
        logps, old_logps, advantages: (B, T).
        mask: (B, T).
        clip_epsilon: > 0; how far the probability ratio may move with profit.

    Returns:
        (); minus the mean advantage where the policies agree.
    """
    if not clip_epsilon > 0:
        raise ValueError(f"clip_epsilon must be > 0, got {clip_epsilon}")
    ratio = masked(logps - old_logps, mask).exp()  # (B, T), 1 where masked
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip_epsilon, 1 + clip_epsilon) * advantages)
    return -masked_mean(surrogate, mask)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip_epsilon: float | None = None) -> Tensor:
    """Half the mean squared error of the values; with `clip_epsilon`, the larger of the clipped and the unclipped.

    Args:
        values, old_values, returns: (B, T).
        mask: (B, T).
        clip_epsilon: None, or > 0, in the units of the values.

    Returns:
        (); 0 where values equal returns.
    """
    error = (values - returns).square()
    if clip_epsilon is not None:
        if not clip_epsilon > 0:
            raise ValueError(f"clip_epsilon must be > 0 or None, got {clip_epsilon}")
        near = old_values + (values - old_values).clamp(-clip_epsilon, clip_epsilon)
        error = torch.maximum(error, (near - returns).square())
    return masked_mean(error, mask) / 2


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over the mask's tokens: 1 is perfect, 0 no better than a constant."""
    chosen = mask.bool()
    returns, errors = returns[chosen], (returns - values)[chosen]
    return 1 - errors.var(correction=0) / returns.var(correction=0).clamp(min=1e-8)


def adapt_beta(beta: float, kl: float, target: float, samples: int, horizon: int) -> float:
    """The adaptive KL coefficient (Ziegler et al. 1909.08593, section 2.2): raise beta where KL is above its target.

    Args:
        beta: > 0.
        kl, target: nats per completion; target > 0.
        samples: completions since the last call.
        horizon: completions over which beta may change by a fifth.

    Returns:
        the new beta.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * samples / horizon)


def _same_shape(**tensors: Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError("unequal shapes: " + ", ".join(f"{name} {shape}" for name, shape in shapes.items()))
