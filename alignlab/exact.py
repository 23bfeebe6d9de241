"""The optimum: what the best policy gains at each price of KL, by tilting samples of the reference.

The policy that maximises E[r] - beta KL(pi, pi_ref) is pi*(y) = pi_ref(y) exp(r(y) / beta) / Z (2305.18290, equation 4).
So its expected reward and its KL can be had from samples of the reference, each weighted by exp(r / beta).

Of several prompts each is tilted with the same beta and the results are averaged over prompts: the optimum of the
objective keeps the prompts' distribution. Tilting all samples in one pool reweights prompts as well; that can only look
better, so it is an upper bound.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


def tilt(rewards: Tensor, beta: float | Tensor, ref_logps: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The optimum pi* over the last dimension: enumerated responses, or samples of the reference.

    Args:
        rewards: (..., N).
        beta: > 0, in reward units per nat; a number, or a tensor that broadcasts against (...).
        ref_logps: (..., N), the reference's log-probabilities where the N responses are *all* there are; None where they are
            samples of the reference, which then count alike.

    Returns:
        expected reward (...), KL(pi*, pi_ref) (...) in nats, effective sample size (...) = 1 / sum of squared weights, 1 to N.

    Raises:
        ValueError: beta <= 0, or unequal shapes.

    >>> reward, kl, size = tilt(torch.tensor([0.0, 1.0]), beta=1.0)  # weights 1 : e
    >>> round(reward.item(), 3), round(kl.item(), 3)
    (0.731, 0.111)
    """
    logps, reference = _optimum(rewards, beta, ref_logps)
    weights = logps.exp()
    return (weights * rewards).sum(-1), enumerated_kl(logps, reference).clamp(min=0), 1 / weights.square().sum(-1)


def enumerated_kl(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """KL(pi, pi_ref) over N enumerated responses, nats: (..., N), (..., N) -> (...). A response that pi never gives counts 0."""
    chances = logps.exp()
    return torch.where(chances > 0, chances * (logps - ref_logps), 0.0).sum(-1)


def tilted_mean(values: Tensor, rewards: Tensor, beta: float | Tensor, ref_logps: Tensor | None = None) -> Tensor:
    """The mean of other `values` (..., N) under the optimum for `rewards` (..., N): (...). Raises ValueError as `tilt` does."""
    return (_optimum(rewards, beta, ref_logps)[0].exp() * values).sum(-1)


def optimal_logps(rewards: Tensor, beta: float | Tensor, ref_logps: Tensor) -> Tensor:
    """log pi* of each enumerated response: (..., N), nats. Raises ValueError as `tilt` does."""
    return _optimum(rewards, beta, ref_logps)[0]


def mixed_logps(logps: Tensor, ref_logps: Tensor, strength: float) -> Tensor:
    """log of pi_ref^(1 - s) pi^s / Z, each enumerated response's log-probabilities mixed: (..., N), (..., N) -> (..., N), nats.

    Strength 0 is the reference, 1 the policy, more goes beyond it. Of the optimum at beta it makes the optimum at beta / s
    (Liu et al. 2402.02992, equation 7).

    >>> rewards, uniform = torch.tensor([0.0, 1.0, 3.0]), torch.zeros(3)
    >>> mixed = mixed_logps(optimal_logps(rewards, 1.0, uniform), uniform, strength=2.0)
    >>> torch.allclose(mixed, optimal_logps(rewards, 0.5, uniform))
    True
    """
    return ((1 - strength) * ref_logps + strength * logps).log_softmax(-1)


def _optimum(rewards: Tensor, beta: float | Tensor, ref_logps: Tensor | None) -> tuple[Tensor, Tensor]:
    """log pi* and log pi_ref, both normalised, (..., N) each."""
    beta = torch.as_tensor(beta, dtype=rewards.dtype, device=rewards.device)
    if not (beta > 0).all():
        raise ValueError(f"beta must be > 0, got {beta.min().item():g}")
    if ref_logps is None:
        ref_logps = torch.zeros_like(rewards)
    elif ref_logps.shape != rewards.shape:
        raise ValueError(f"unequal shapes: rewards {tuple(rewards.shape)}, ref_logps {tuple(ref_logps.shape)}")
    gain = (rewards - rewards.max(-1, keepdim=True).values) / beta[..., None]  # <= 0, so that a small beta does not overflow
    return (ref_logps + gain).log_softmax(-1), ref_logps.log_softmax(-1)


# ---------------------------------------------------------------------------------------------- best of n


def best_of_n(scores: Tensor, values: Tensor, n: int) -> Tensor:
    """Expected `values` of the best by `scores` of n draws without replacement from N samples: (..., N), (..., N) -> (...).

    Every subset of size n counts: the i-th lowest score is the best of C(i - 1, n - 1) of them. Equal scores share.
    """
    scores, values = scores.cpu(), values.cpu()  # float64, which an Apple GPU does not know
    count = scores.shape[-1]
    if not 1 <= n <= count:
        raise ValueError(f"n must lie in 1 to {count}, the number of samples, got {n}")
    ranks = torch.arange(1, count + 1, dtype=torch.float64)
    log_choose = torch.lgamma(ranks) - torch.lgamma((ranks - n + 1).clamp(min=1))  # log C(i - 1, n - 1), up to a constant
    weights = torch.where(ranks >= n, log_choose, -torch.inf).softmax(-1)  # (N,) chance that the i-th lowest is the best
    ordered, order = scores.sort(dim=-1)
    below, through = (torch.searchsorted(ordered, ordered, right=right) for right in (False, True))  # the run of equal scores
    total = F.pad(weights.cumsum(-1), (1, 0))
    shared = (total[through] - total[below]) / (through - below)
    return (values.gather(-1, order) * shared.to(values)).sum(-1)


def best_of_n_logps(scores: Tensor, ref_logps: Tensor, n: int) -> Tensor:
    """log of best-of-n's exact distribution over enumerated responses: (N,) scores, (N,) ref_logps -> (N,), nats.

    The best of n draws has at most score s with probability F(s)^n, F the reference's; responses that score alike share by ref_logps.
    """
    mass = ref_logps.log_softmax(-1).exp()
    below, through = ((mass * compare(scores[None, :], scores[:, None])).sum(-1) for compare in (torch.lt, torch.le))
    run = through - below  # the mass of all that score alike
    return ((through**n - below**n) * mass / run).log()


def best_of_n_kl(n: int) -> float:
    """KL(best of n, reference) in nats: log n - (n - 1) / n.

    Exact where no response is drawn twice and no two score alike; otherwise an upper bound (Beirami et al. 2401.01879).

    >>> round(best_of_n_kl(16), 3)
    1.835
    """
    return math.log(n) - (n - 1) / n


# ---------------------------------------------------------------------------------------------- frontiers


class Frontier(NamedTuple):
    """A family of optima, one a beta, for each of P prompts. `prompts` below: (..., P) how often each prompt counts."""

    betas: Tensor  # (K,) falling, so that KL rises
    value: Tensor  # (P, K) expected judged reward of each prompt's optimum
    kl: Tensor  # (P, K) nats
    size: Tensor  # (P, K) effective sample size
    reward: Tensor  # (P, K) expected reward that was tilted by
    log_z: Tensor  # (P, K) log of the mean weight, of which the pooled curve is made

    def shown(self, least_size: float) -> int:
        """How many betas from the start leave at most one prompt in twenty below that effective sample size.

        Beyond, nothing can be said. One prompt with a rare high answer must not silence the others; its own optimum is then
        estimated too low, which of 32 prompts weighs a thirty-second.
        """
        enough = (self.size < least_size).sum(0) <= len(self.size) // 20
        return int(enough.cumprod(0).sum())

    def curve(self, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """KL and value averaged over prompts, (..., K) each: the optimum of the objective."""
        share = _share(prompts)
        return share @ self.kl, share @ self.value

    def pooled(self, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """KL and value with all prompts' samples in one pool, (..., K) each: an upper bound, since it reweights prompts."""
        share = _share(prompts)
        top = self.log_z.max(0).values  # (K,) against overflow
        z = (self.log_z - top).exp()  # (P, K)
        total = share @ z
        kl = (share @ (z * self.reward)) / total / self.betas - total.log() - top
        return kl.clamp(min=0), (share @ (z * self.value)) / total


def _share(prompts: Tensor) -> Tensor:
    """How often each prompt counts, as shares of 1."""
    return prompts.double() / prompts.double().sum(-1, keepdim=True)


def frontier(rewards: Tensor, values: Tensor | None = None, betas: Sequence[float] | None = None) -> Frontier:
    """The optima for `rewards` at a range of betas, judged by `values` (by default by the rewards themselves).

    Args:
        rewards: (P, N) rewards of N samples of the reference for each of P prompts: what the optimiser sees.
        values: (P, N) what the judge sees; None for the same.
        betas: falling; by default 120, from hardly any tilt to more than N samples can show.
    """
    rewards = rewards.double()
    values = rewards if values is None else values.double()
    if betas is None:
        spread = (rewards - rewards.mean(-1, keepdim=True)).std().clamp(min=1e-6)
        prices = spread * torch.logspace(2, -1.3, 120, dtype=torch.float64)
    else:
        prices = torch.as_tensor(betas, dtype=torch.float64)
    reward, kl, size = (torch.stack(column, -1) for column in zip(*(tilt(rewards, beta) for beta in prices), strict=True))
    value = torch.stack([tilted_mean(values, rewards, beta) for beta in prices], -1)
    return Frontier(prices, value, kl, size, reward, reward / prices - kl)
