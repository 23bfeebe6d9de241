"""What an exercise is, and the inputs and slips that several of them share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from alignlab import losses

Function = Callable[..., object]


@dataclass(frozen=True)
class Exercise:
    """A function to be written.

    answer: what the package does.
    cases: arguments to try, one tuple each; between them every mistake must show.
    mistakes: known wrong functions, by the sentence that names each.
    points: of the check.
    source: where the answer stands, as an import; fills the stub's cell in tests.
    against: what to say of a wrong result for a case, where the right one must not be shown.
    """

    name: str
    answer: Function
    cases: Sequence[tuple]
    source: str
    mistakes: dict[str, Function] = field(default_factory=dict)
    points: int = 2
    against: Callable[[tuple, object], str] | None = None


# ---------------------------------------------------------------------------------------------- inputs


def random_normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Of two decimals, so that a check can show the inputs as they are."""
    return (scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).round(decimals=2)


MASK = torch.tensor([[0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1], [0, 0, 0, 1, 0, 0]])  # prompts and completions of uneven lengths
LOGPS, REF_LOGPS, OLD_LOGPS = (-random_normal(3, 6, seed=seed).abs() for seed in (1, 2, 3))
VALUES, REWARDS, ADVANTAGES = (random_normal(3, 6, seed=seed) for seed in (4, 5, 6))
SCORES = torch.tensor([1.5, -0.7, 0.2])
FOUR = tuple(-random_normal(5, seed=seed).abs() * 4 for seed in (11, 12, 13, 14))  # chosen, rejected, and the reference's of both
GOOD, BAD = random_normal(5, seed=21), random_normal(5, seed=22)


# ---------------------------------------------------------------------------------------------- the mistakes


def logps_without_shift(logits, ids):
    return logits.log_softmax(-1).gather(-1, ids[..., None]).squeeze(-1)


def sum_rewards(scores, logps, ref_logps, mask, beta, sign=-1.0, at=losses.last_token):
    rewards = losses.masked(sign * beta * (logps - ref_logps), mask)
    rewards[torch.arange(len(scores)), at(mask)] += scores
    return rewards


def gae_with(rewards, values, mask, gamma, lam, normalised=False, masked=True):
    mask = mask if masked else torch.ones_like(mask)
    advantages, returns = losses.gae(rewards, values, mask, gamma, lam)
    if normalised:
        advantages = losses.normalise(advantages, mask)
        returns = advantages + values * mask
    return advantages, returns


def policy_loss(logps, old_logps, advantages, mask, clip_epsilon, pick=torch.minimum, mean=losses.masked_mean, sign=-1.0):
    ratio = (logps - old_logps).exp()
    return sign * mean(pick(ratio * advantages, ratio.clamp(1 - clip_epsilon, 1 + clip_epsilon) * advantages), mask)


def mean_over_all(values, mask):
    return losses.masked(values, mask).mean()


def dpo_with(chosen, rejected, ref_chosen, ref_rejected, beta, sign=1.0, reference=1.0):
    difference = (chosen - reference * ref_chosen) - (rejected - reference * ref_rejected)
    return -F.logsigmoid(sign * beta * difference).mean()


TOKENS = torch.tensor([[3, 1, 4, 1], [2, 0, 2, 4]])
LOGITS = random_normal(2, 4, 5, seed=31)
REF = torch.tensor([0.5, 0.3, 0.15, 0.05])
GOLD = torch.tensor([0.0, 1.0, -1.0, 2.0])
POLICY = torch.tensor([0.2, 0.3, 0.1, 0.4])
RECORDS = [{"prompt": "a", "chosen": "x"}, {"prompt": "b", "chosen": "x"}, {"prompt": "a", "chosen": "y"}]
LOSSES = "from alignlab.losses import "
ANSWERS = "from alignlab.lab.answers import "
