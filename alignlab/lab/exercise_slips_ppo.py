"""PPO's functions done wrongly: what the known mistakes of the exercises in 05 and 06 are made of."""

import torch
from torch import Tensor

from alignlab import losses

KINDS = ("k1", "k2", "k3")


def gae_by_hand(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float, *, decay: float | None = None, following: Tensor | None = None,
    here: float = 1.0, masked: bool = True, forwards: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """GAE in a loop, with one thing or another done wrongly.

    decay: of what is carried, in place of gamma x lambda. following: the next values, in place of those of the next tokens.
    here: the weight of the token's own value. masked: whether the mask guards what is carried.
    """
    if following is None:
        following = next_values(losses.masked(values, mask))
    deltas = rewards + gamma * following - here * values  # (B, T)
    advantages, carried = torch.zeros_like(values), torch.zeros_like(values[:, 0])
    steps = range(values.shape[1])
    for t in steps if forwards else reversed(steps):
        carried = deltas[:, t] + (gamma * lam if decay is None else decay) * carried
        carried = carried * mask[:, t] if masked else carried
        advantages[:, t] = carried
    return losses.masked(advantages, mask), losses.masked(advantages + values, mask)


def next_values(values: Tensor) -> Tensor:
    """V of the token that follows each, and 0 after the last column."""
    return torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)


def to_come(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Right advantages, beside the plain sum of the rewards to come."""
    return losses.gae(rewards, values, mask, gamma, lam)[0], losses.masked(losses.masked(rewards, mask).flip(-1).cumsum(-1).flip(-1), mask)


def standardised(advantages: Tensor, mask: Tensor, correction: int = 0) -> Tensor:
    """By the mean and the deviation of the mask's tokens; what lies outside is scaled too."""
    chosen = advantages[mask.bool()]
    return (advantages - chosen.mean()) / (chosen.std(correction=correction) + 1e-8)


def by_row(advantages: Tensor, mask: Tensor) -> Tensor:
    return torch.cat([losses.normalise(row, row_mask) for row, row_mask in zip(advantages.split(1), mask.split(1))])


def mean_of_rows(values: Tensor, mask: Tensor) -> Tensor:
    return (losses.masked(values, mask).sum(-1) / mask.sum(-1)).mean()


def share(stopped: Tensor, mask: Tensor) -> Tensor:
    return losses.masked_mean(stopped.float(), mask)


def stops(logps, old_logps, advantages, mask, clip_epsilon, good=True, bad=True, mean=share):
    """Where the clip takes the gradient of good tokens, or of bad ones."""
    ratio = (logps - old_logps).exp()
    up, down = (advantages > 0) & (ratio > 1 + clip_epsilon), (advantages < 0) & (ratio < 1 - clip_epsilon)
    return mean((up & good) | (down & bad), mask)


def outside(logps, old_logps, mask, clip_epsilon):
    """The clip fraction: tokens whose ratio left the range, on either side."""
    return share(((logps - old_logps).exp() - 1).abs() > clip_epsilon, mask)


def iteration(
    scores, logps, old_logps, ref_logps, values, old_values, mask, beta, lam, clip_epsilon, *, charged=None, anchor=None, guess=None,
    scale=losses.normalise, target=lambda advantages, returns, rewards, mask: returns, learner=None,
):  # fmt: skip
    """PPO's two losses from the pieces, with one thing or another put where it does not belong."""
    rewards = losses.shape_rewards(scores, old_logps if charged is None else charged, ref_logps, mask, beta)
    guess = old_values if guess is None else guess
    advantages, returns = losses.gae(rewards, guess, mask, 1.0, lam)
    scaled = scale(advantages, mask)
    policy_part = losses.clipped_policy_loss(logps, old_logps if anchor is None else anchor, scaled, mask, clip_epsilon)
    learner = values if learner is None else learner
    return policy_part, losses.value_loss(learner, old_values, target(scaled, returns, rewards, mask), mask)


def last_only(mask: Tensor) -> Tensor:
    """(B, T) 1 on the last token of each row."""
    return torch.nn.functional.one_hot(losses.last_token(mask), mask.shape[1]).float()


def surrogate(ratio: Tensor, advantages: Tensor, mask: Tensor, low: float, high: float) -> Tensor:
    """The clipped loss of any ratio, with any range."""
    return -losses.masked_mean(torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages), mask)


def moments(logps: Tensor, ref_logps: Tensor, weights: Tensor, truth: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Bias and spread of k1, k2, k3 where a token counts by its weight; the spread is around the truth, where that is given."""
    each = torch.stack([losses.kl_estimate(logps, ref_logps, kind) for kind in KINDS])  # (3, V)
    expected = (weights * each).sum(-1)
    spread = (weights * (each - (expected[:, None] if truth is None else truth)).square()).sum(-1).sqrt()
    return expected - (logps.exp() * (logps - ref_logps)).sum(), spread


def onset(proxy, gold, fall, window, *, peak_of="gold", rises=True, falls=True, from_start=False, smooth=True):
    """Where over-optimisation begins, with one condition or another left out."""
    if smooth:
        proxy, gold = (curve.unfold(0, window, 1).mean(-1) for curve in (proxy, gold))
    peak = int((gold if peak_of == "gold" else proxy).argmax())
    low = gold[0] if from_start else gold[peak]
    if falls and low - gold[-1] < fall or rises and proxy[-1] <= proxy[peak]:
        return None
    return peak + (window // 2 if smooth else 0)
