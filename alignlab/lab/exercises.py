"""The exercises of the workbook: what is asked, on which inputs it is tried, and which mistakes are known."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from alignlab import exact, losses
from alignlab.lab import answers

Function = Callable[..., object]


@dataclass(frozen=True)
class Exercise:
    """A function to be written.

    answer: what the package does.
    cases: arguments to try, one tuple each; between them every mistake must show.
    mistakes: known wrong functions, by the sentence that names each.
    points: of the check.
    source: where the answer stands, as an import; fills the stub's cell in tests.
    """

    name: str
    answer: Function
    cases: Sequence[tuple]
    source: str
    mistakes: dict[str, Function] = field(default_factory=dict)
    points: int = 2


# ---------------------------------------------------------------------------------------------- inputs


def _random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


MASK = torch.tensor([[0, 0, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1], [0, 0, 0, 1, 0, 0]])  # prompts and completions of uneven lengths
LOGPS, REF_LOGPS, OLD_LOGPS = (-_random(3, 6, seed=seed).abs() for seed in (1, 2, 3))
VALUES, REWARDS, ADVANTAGES = (_random(3, 6, seed=seed) for seed in (4, 5, 6))
SCORES = torch.tensor([1.5, -0.7, 0.2])
FOUR = tuple(-_random(5, seed=seed).abs() * 4 for seed in (11, 12, 13, 14))  # chosen, rejected, and the reference's of both
GOOD, BAD = _random(5, seed=21), _random(5, seed=22)


# ---------------------------------------------------------------------------------------------- the mistakes


def _logps_without_shift(logits, ids):
    return logits.log_softmax(-1).gather(-1, ids[..., None]).squeeze(-1)


def _sum_rewards(scores, logps, ref_logps, mask, beta, sign=-1.0, at=losses.last_token):
    rewards = losses.masked(sign * beta * (logps - ref_logps), mask)
    rewards[torch.arange(len(scores)), at(mask)] += scores
    return rewards


def _gae(rewards, values, mask, gamma, lam, normalised=False, masked=True):
    mask = mask if masked else torch.ones_like(mask)
    advantages, returns = losses.gae(rewards, values, mask, gamma, lam)
    if normalised:
        advantages = losses.normalise(advantages, mask)
        returns = advantages + values * mask
    return advantages, returns


def _policy_loss(logps, old_logps, advantages, mask, clip_epsilon, pick=torch.minimum, mean=losses.masked_mean, sign=-1.0):
    ratio = (logps - old_logps).exp()
    return sign * mean(pick(ratio * advantages, ratio.clamp(1 - clip_epsilon, 1 + clip_epsilon) * advantages), mask)


def _mean_over_all(values, mask):
    return losses.masked(values, mask).mean()


def _dpo(chosen, rejected, ref_chosen, ref_rejected, beta, sign=1.0, reference=1.0):
    difference = (chosen - reference * ref_chosen) - (rejected - reference * ref_rejected)
    return -F.logsigmoid(sign * beta * difference).mean()


_TOKENS = torch.tensor([[3, 1, 4, 1], [2, 0, 2, 4]])
_LOGITS = _random(2, 4, 5, seed=31)
_REF = torch.tensor([0.5, 0.3, 0.15, 0.05])
_GOLD = torch.tensor([0.0, 1.0, -1.0, 2.0])
_POLICY = torch.tensor([0.2, 0.3, 0.1, 0.4])
_RECORDS = [{"prompt": "a", "chosen": "x"}, {"prompt": "b", "chosen": "x"}, {"prompt": "a", "chosen": "y"}]
_WHERE = "from alignlab.losses import "
_HERE = "from alignlab.lab.answers import "

EXERCISES = {
    exercise.name: exercise
    for exercise in (
        # 01 preferences
        Exercise(
            "preference_probability", answers.preference_probability, [(1.0, 1.0, 0.0), (-0.5, 0.5, 0.02), (2.0, 0.25, 0.2)],
            _HERE + "preference_probability",
            {
                "the temperature divides the difference; a high one makes the annotator unsure.":
                    lambda d, t, f: f + (1 - 2 * f) / (1 + math.exp(-d * t)),
                "with probability `flip` the label is flipped, so the sigmoid shrinks to lie between flip and 1 - flip.":
                    lambda d, t, f: 1 / (1 + math.exp(-d / t)),
                "the sign: a positive difference means that A is better.":
                    lambda d, t, f: f + (1 - 2 * f) / (1 + math.exp(d / t)),
            },
        ),
        Exercise(
            "bayes_accuracy", answers.bayes_accuracy, [(torch.tensor([0.9, 0.2, 0.5]),), (torch.tensor([0.1, 0.3]),)],
            _HERE + "bayes_accuracy",
            {
                "that is the mean probability of A; the best judge says B where p is below one half.": lambda p: p.mean(),
                "max of the mean is not the mean of the max: the judge decides pair by pair.":
                    lambda p: torch.maximum(p.mean(), 1 - p.mean()),
            },
        ),
        # 02 supervised fine-tuning
        Exercise(
            "token_logps", losses.token_logps, [(_LOGITS, _TOKENS), (10 * _LOGITS[:1], _TOKENS[:1])], _WHERE + "token_logps",
            {
                "the shift by one: the logits at t predict the token at t + 1.": _logps_without_shift,
                "the result must have a column for every token, 0 for the first, so that it lies beside ids.":
                    lambda logits, ids: losses.token_logps(logits, ids)[:, 1:],
                "those are probabilities; take the logarithm.": lambda logits, ids: losses.token_logps(logits, ids).exp(),
            },
        ),
        Exercise(
            "completion_mask", answers.completion_mask, [(3, 7, 9), (1, 4, 4), (2, 3, 6)], _HERE + "completion_mask",
            {
                "prompt tokens count as well here; a model that learns to write prompts learns the wrong thing.":
                    lambda p, n, w: (torch.arange(w) < n).long(),
                "padding counts here; the model would learn to write padding.": lambda p, n, w: (torch.arange(w) >= p).long(),
                "EOS is left out, so the model never learns to stop.":
                    lambda p, n, w: ((torch.arange(w) >= p) & (torch.arange(w) < n - 1)).long(),
            },
        ),
        Exercise(
            "sft_loss", losses.sft_loss, [(LOGPS, MASK), (LOGPS[:1], MASK[:1])], _WHERE + "sft_loss",
            {
                "an unmasked mean: prompt and padding tokens count in the denominator.": lambda logps, mask: -_mean_over_all(logps, mask),
                "the sign: a loss falls as the likelihood rises.": lambda logps, mask: losses.masked_mean(logps, mask),
                "the mean of the rows' means gives a token of a short answer more weight than one of a long answer.":
                    lambda logps, mask: -((logps * mask).sum(-1) / mask.sum(-1)).mean(),
                "prompt tokens and padding are in it; use the mask.": lambda logps, mask: -logps.mean(),
            },
        ),
        # 03 reward model
        Exercise(
            "preference_loss", losses.preference_loss, [(GOOD, BAD), (BAD, GOOD)], _WHERE + "preference_loss",
            {
                "chosen and rejected changed places: the loss would push the rejected up.": lambda c, r: -F.logsigmoid(r - c).mean(),
                "the mean over pairs, not the sum, so that the batch size does not change the step.":
                    lambda c, r: -F.logsigmoid(c - r).sum(),
                "the sign: minus the log-likelihood.": lambda c, r: F.logsigmoid(c - r).mean(),
                "that is minus the probability; take its logarithm.": lambda c, r: -torch.sigmoid(c - r).mean(),
            },
        ),
        Exercise(
            "last_token", losses.last_token, [(MASK,), (MASK[:2],)], _WHERE + "last_token",
            {
                "that is the number of completion tokens; the prompt stands before them.": lambda mask: mask.sum(-1) - 1,
                "that is the last column, which is padding for most rows.":
                    lambda mask: torch.full((len(mask),), mask.shape[1] - 1),
                "that is the first completion token.": lambda mask: mask.argmax(-1),
            },
            points=1,
        ),
        Exercise(
            "skill", answers.skill, [(0.76, 0.82), (0.5, 0.8), (0.9, 0.9)], _HERE + "skill",
            {
                "a coin has accuracy one half and no skill; subtract it above and below.": lambda a, b: a / b,
                "the distance to the ceiling is what is missing, not what is there.": lambda a, b: b - a,
            },
            points=1,
        ),
        # 04 the objective
        Exercise(
            "tilted", answers.tilted, [(_REF, _GOLD, 1.0), (_REF, _GOLD, 0.2), (_REF, -_GOLD, 3.0)], _HERE + "tilted",
            {
                "it does not add up to one: divide by Z.": lambda ref, r, beta: ref * (r / beta).exp(),
                "beta divides the reward: a large beta tilts little.": lambda ref, r, beta: F.softmax(ref.log() + r * beta, -1),
                "the reference is missing: that is a softmax of rewards, which forgets what the language looks like.":
                    lambda ref, r, beta: F.softmax(r / beta, -1),
            },
        ),
        Exercise(
            "kl", answers.kl, [(_POLICY, _REF), (_REF, _POLICY)], _HERE + "kl",
            {
                "the direction: KL(pi, pi_ref) is a mean under pi, the policy.": lambda p, q: answers.kl(q, p),
                "the sign: log of policy over reference.": lambda p, q: -answers.kl(p, q),
                "a plain mean over responses; each counts with the policy's probability.": lambda p, q: (p / q).log().mean(),
            },
        ),
        Exercise(
            "best_of_n_kl", exact.best_of_n_kl, [(1,), (4,), (16,)], "from alignlab.exact import best_of_n_kl",
            {
                "log n alone puts the best of n always in the top n-th of the answers; often it is a little below.": lambda n: math.log(n),
                "the second term is subtracted.": lambda n: math.log(n) + (n - 1) / n,
            },
            points=1,
        ),
        # 05 PPO piece by piece
        Exercise(
            "shape_rewards", losses.shape_rewards, [(SCORES, LOGPS, REF_LOGPS, MASK, 0.3), (SCORES, LOGPS, REF_LOGPS, MASK, 0.0)],
            _WHERE + "shape_rewards",
            {
                "the sign of the KL: moving away from the reference costs, so beta x log-ratio is subtracted.":
                    lambda s, lp, rlp, m, b: _sum_rewards(s, lp, rlp, m, b, sign=1.0),
                "the score stands on the last column, which is padding for most rows; it belongs on the last token of each.":
                    lambda s, lp, rlp, m, b: _sum_rewards(s, lp, rlp, m, b, at=lambda mask: torch.full((len(mask),), mask.shape[1] - 1)),
                "prompt tokens are charged too; only what the policy wrote has a price.":
                    lambda s, lp, rlp, m, b: _sum_rewards(s, lp, rlp, torch.ones_like(m), b, at=lambda _: losses.last_token(m)),
                "the score is added to every token; it is paid once, at the end.":
                    lambda s, lp, rlp, m, b: losses.masked(-b * (lp - rlp) + s[:, None], m),
            },
            points=3,
        ),
        Exercise(
            "gae", losses.gae, [(REWARDS, VALUES, MASK, 0.9, 0.8), (REWARDS, VALUES, MASK, 1.0, 1.0), (REWARDS, VALUES, MASK, 1.0, 0.0)],
            _WHERE + "gae",
            {
                "returns are advantages + values from before the normalising; afterwards they are in no unit at all.":
                    lambda r, v, m, g, lam: _gae(r, v, m, g, lam, normalised=True),
                "something crosses the end of an episode: where the mask is 0 nothing is carried over.":
                    lambda r, v, m, g, lam: _gae(r, v, m, g, lam, masked=False),
                "gamma and lambda changed places: gamma alone discounts the next value.": lambda r, v, m, g, lam: _gae(r, v, m, lam, g),
                "the value of the next state is missing in delta.":
                    lambda r, v, m, g, lam: (_gae(r - losses.masked(v, m), 0 * v, m, g, lam)[0],
                                             _gae(r - losses.masked(v, m), 0 * v, m, g, lam)[0] + losses.masked(v, m)),
            },
            points=4,
        ),
        Exercise(
            "normalise", losses.normalise, [(ADVANTAGES, MASK), (10 - 3 * ADVANTAGES, MASK)], _WHERE + "normalise",
            {
                "an unmasked mean: padding and prompt take part.":
                    lambda a, m: losses.masked((a - a.mean()) / (a.std(correction=0) + 1e-8), m),
                "the mean is still there; subtract it first.":
                    lambda a, m: losses.masked(a / (losses.masked_mean((a - losses.masked_mean(a, m)) ** 2, m).sqrt() + 1e-8), m),
                "divide by the standard deviation, not by the variance.":
                    lambda a, m: losses.normalise(a, m) / losses.masked_mean((a - losses.masked_mean(a, m)) ** 2, m).sqrt(),
            },
        ),
        Exercise(
            "clipped_policy_loss", losses.clipped_policy_loss,
            [(LOGPS, OLD_LOGPS, ADVANTAGES, MASK, 0.2), (OLD_LOGPS, LOGPS, -ADVANTAGES, MASK, 0.1)], _WHERE + "clipped_policy_loss",
            {
                "the clip is on the wrong side: of the two the smaller is taken, so that no gain is promised beyond the clip.":
                    lambda lp, olp, a, m, e: _policy_loss(lp, olp, a, m, e, pick=torch.maximum),
                "an unmasked mean: prompt and padding count in the denominator.":
                    lambda lp, olp, a, m, e: _policy_loss(lp, olp, a, m, e, mean=_mean_over_all),
                "the sign: the optimiser goes down, the objective must go up.":
                    lambda lp, olp, a, m, e: _policy_loss(lp, olp, a, m, e, sign=1.0),
                "only the clipped term is there: outside the clip nothing could ever be corrected.":
                    lambda lp, olp, a, m, e: _policy_loss(lp, olp, a, m, e, pick=lambda free, clipped: clipped),
                "nothing is clipped.": lambda lp, olp, a, m, e: _policy_loss(lp, olp, a, m, e, pick=lambda free, clipped: free),
                "the ratio is upside down: policy over the policy that sampled.": lambda lp, olp, a, m, e: _policy_loss(olp, lp, a, m, e),
            },
            points=4,
        ),
        # 06 PPO live
        Exercise(
            "k3", answers.k3, [(LOGPS, REF_LOGPS), (REF_LOGPS, LOGPS)], _HERE + "k3",
            {
                "that is k1; it is right on average, but negative for every other token.": lambda lp, rlp: lp - rlp,
                "that is k2, which is biased.": lambda lp, rlp: (lp - rlp) ** 2 / 2,
                "r is pi_ref / pi, since the tokens were drawn from pi.": lambda lp, rlp: losses.kl_estimate(rlp, lp, "k3"),
            },
        ),
        Exercise(
            "adapt_beta", losses.adapt_beta, [(0.2, 4.0, 2.0, 100, 1000), (0.2, 1.0, 2.0, 100, 1000), (0.5, 2.1, 2.0, 100, 500)],
            _WHERE + "adapt_beta",
            {
                "the direction: where KL is above its target, its price must rise.":
                    lambda b, k, t, n, h: b * (1 - min(max(k / t - 1, -0.2), 0.2) * n / h),
                "the error is not clipped: one wild batch would throw beta about.": lambda b, k, t, n, h: b * (1 + (k / t - 1) * n / h),
            },
        ),
        Exercise(
            "explained_variance", losses.explained_variance, [(VALUES, REWARDS, MASK), (REWARDS + 1, REWARDS, MASK)],
            _WHERE + "explained_variance",
            {
                "prompt and padding take part; use the mask.":
                    lambda v, r, m: 1 - (r - v).var(correction=0) / r.var(correction=0),
                "that is the share that is *not* explained.": lambda v, r, m: 1 - losses.explained_variance(v, r, m),
                "a constant error is not variance: subtract the mean error.":
                    lambda v, r, m: 1 - losses.masked_mean((r - v) ** 2, m) / r[m.bool()].var(correction=0),
            },
            points=1,
        ),
        # 07 DPO
        Exercise(
            "implicit_reward", answers.implicit_reward, [(LOGPS, REF_LOGPS, MASK, 0.1), (REF_LOGPS, LOGPS, MASK, 2.0)],
            _HERE + "implicit_reward",
            {
                "prompt tokens are counted; their log-probs say nothing of the answer.":
                    lambda lp, rlp, m, b: b * (lp - rlp).sum(-1),
                "the mean over tokens makes long answers cheap; the log-probability of a sequence is a sum.":
                    lambda lp, rlp, m, b: b * ((lp - rlp) * m).sum(-1) / m.sum(-1),
                "the reference is missing.": lambda lp, rlp, m, b: b * (lp * m).sum(-1),
                "the sign: policy over reference.": lambda lp, rlp, m, b: b * ((rlp - lp) * m).sum(-1),
            },
        ),
        Exercise(
            "dpo_loss", losses.dpo_loss, [(*FOUR, 0.1), (*FOUR, 1.0)], _WHERE + "dpo_loss",
            {
                "the reference is missing: that would be a race for likelihood, not for likelihood ratios.":
                    lambda c, r, rc, rr, b: _dpo(c, r, rc, rr, b, reference=0.0),
                "the sign: chosen and rejected changed places.": lambda c, r, rc, rr, b: _dpo(c, r, rc, rr, b, sign=-1.0),
                "beta divides here; in the loss it multiplies the log-ratios.": lambda c, r, rc, rr, b: _dpo(c, r, rc, rr, 1 / b),
                "beta stands outside the logarithm here; it belongs inside the sigmoid.":
                    lambda c, r, rc, rr, b: b * _dpo(c, r, rc, rr, 1.0),
            },
            points=4,
        ),
        Exercise(
            "pair_weight", answers.pair_weight, [(torch.tensor([-2.0, 0.0, 3.0]), 0.1), (torch.tensor([1.0]), 2.0)], _HERE + "pair_weight",
            {
                "the sign: pairs that are in the right order already should pull less.": lambda margin, b: b * torch.sigmoid(margin),
                "beta is missing: the margin holds it once, the chain rule brings it again.": lambda margin, b: torch.sigmoid(-margin),
            },
        ),
        # 08 PPO or DPO
        Exercise(
            "gold_efficiency", answers.gold_efficiency, [(5.0, 3.7, 5.6), (3.7, 3.7, 5.0)], _HERE + "gold_efficiency",
            {
                "gains are compared, not levels: subtract the reference's gold above and below.": lambda g, r, f: g / f,
                "that is what was lost.": lambda g, r, f: 1 - (g - r) / (f - r),
            },
            points=1,
        ),
        Exercise(
            "win_rate", answers.win_rate,
            [(torch.tensor([1.0, 2.0, 2.0]), torch.tensor([0.0, 2.0])), (torch.tensor([0.0]), torch.tensor([0.0, 1.0]))],
            _HERE + "win_rate",
            {
                "ties are lost here; they count half, or a copy of the reference would lose to itself.":
                    lambda g, r: (g[:, None] > r[None, :]).float().mean(),
                "ties are won here; they count half.": lambda g, r: (g[:, None] >= r[None, :]).float().mean(),
            },
        ),
        # 09 your own
        Exercise(
            "preference_record", answers.preference_record, [("p", "a", "b", True), ("p", "a", "b", False)], _HERE + "preference_record",
            {
                "chosen is the better one; they changed places.": lambda p, a, b, first: answers.preference_record(p, a, b, not first),
            },
            points=1,
        ),
        Exercise(
            "agreement", answers.agreement,
            [(_GOLD, torch.tensor([-1.0, 1.0, 0.0, 1.5])), (torch.tensor([0.0, 1.0]), torch.tensor([0.0, 2.0]))],
            _HERE + "agreement",
            {
                "where gold cannot tell the two apart a label is neither right nor wrong: count it half.":
                    lambda c, r: (c > r).float().mean(),
                "equal golds are counted as right; count them half.": lambda c, r: (c >= r).float().mean(),
                "that is by how much, not how often.": lambda c, r: (c - r).mean(),
            },
            points=1,
        ),
        Exercise(
            "shares_no_prompt", answers.shares_no_prompt,
            [(_RECORDS[:1], _RECORDS[1:2]), (_RECORDS[:1], _RECORDS[2:]), (_RECORDS[:2], _RECORDS[:1])],
            _HERE + "shares_no_prompt",
            {
                "whole records differ where only the answers do; it is the prompts that must not be shared.":
                    lambda train, test: not any(record in test for record in train),
            },
            points=1,
        ),
    )
}  # fmt: skip
