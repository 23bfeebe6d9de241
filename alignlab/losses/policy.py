"""What a policy that samples learns from: PPO's rewards, advantages and losses, and those of RLOO."""

import torch
from torch import Tensor

from alignlab.losses.tokens import kl_estimate, masked, masked_mean, same_shape, sequence_logps


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


@torch.no_grad()
def rloo_advantages(rewards: Tensor, answers: int) -> Tensor:
    """REINFORCE leave-one-out (Ahmadian et al. 2402.14740): each reward minus the mean of the other answers' to the same prompt.

    That mean takes the critic's place. It does not depend on the answer itself, so the gradient stays unbiased.

    Args:
        rewards: (B,); each `answers` neighbours answer one prompt.
        answers: k >= 2, to each prompt.

    Returns:
        (B,), k / (k - 1) times reward minus the prompt's mean; no gradient.

    Raises:
        ValueError: fewer than 2 answers, or rewards that are not (B,) with B a multiple of them.

    >>> rloo_advantages(torch.tensor([1.0, 2.0, 6.0]), answers=3)
    tensor([-3.0000, -1.5000,  4.5000])
    """
    if answers < 2:
        raise ValueError(f"answers must be >= 2, got {answers}: an answer is compared with the others to its prompt")
    if rewards.dim() != 1 or len(rewards) % answers:
        raise ValueError(f"rewards must be (B,) with B a multiple of {answers} answers, got {tuple(rewards.shape)}")
    of_prompt = rewards.reshape(-1, answers)
    others = (of_prompt.sum(-1, keepdim=True) - of_prompt) / (answers - 1)
    return (of_prompt - others).flatten()


def reinforce_loss(logps: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """REINFORCE (Williams 1992), negated: the whole completion is one action, a sum over its tokens, then a mean over completions.

    Args:
        logps: (B, T), nats, under the policy that sampled.
        advantages: (B,), one a completion; no gradient flows through them.
        mask: (B, T).

    Returns:
        (); what counts is its gradient, minus that of the expected reward.

    Raises:
        ValueError: unequal shapes.
    """
    same_shape(logps=logps, mask=mask)
    whole = sequence_logps(logps, mask)
    same_shape(completions=whole, advantages=advantages)
    return -(advantages.detach() * whole).mean()
