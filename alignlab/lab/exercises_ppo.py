"""Exercises on PPO (notebooks 05 and 06)."""

import torch

from alignlab import losses
from alignlab.lab import answers
from alignlab.lab.exercise import (
    ADVANTAGES,
    ANSWERS,
    LOGPS,
    LOSSES,
    MASK,
    OLD_LOGPS,
    REF_LOGPS,
    REWARDS,
    SCORES,
    VALUES,
    Exercise,
    gae_with,
    mean_over_all,
    policy_loss,
    sum_rewards,
)

EXERCISES = (
    # 05 PPO piece by piece
    Exercise(
        "shape_rewards", losses.shape_rewards, [(SCORES, LOGPS, REF_LOGPS, MASK, 0.3), (SCORES, LOGPS, REF_LOGPS, MASK, 0.0)],
        LOSSES + "shape_rewards",
        {
            "the sign of the KL: moving away from the reference costs, so beta x log-ratio is subtracted.":
                lambda s, lp, rlp, m, b: sum_rewards(s, lp, rlp, m, b, sign=1.0),
            "the score stands on the last column, which is padding for most rows; it belongs on the last token of each.":
                lambda s, lp, rlp, m, b: sum_rewards(s, lp, rlp, m, b, at=lambda mask: torch.full((len(mask),), mask.shape[1] - 1)),
            "prompt tokens are charged too; only what the policy wrote has a price.":
                lambda s, lp, rlp, m, b: sum_rewards(s, lp, rlp, torch.ones_like(m), b, at=lambda _: losses.last_token(m)),
            "the score is added to every token; it is paid once, at the end.":
                lambda s, lp, rlp, m, b: losses.masked(-b * (lp - rlp) + s[:, None], m),
        },
        points=3,
    ),
    Exercise(
        "gae", losses.gae, [(REWARDS, VALUES, MASK, 0.9, 0.8), (REWARDS, VALUES, MASK, 1.0, 1.0), (REWARDS, VALUES, MASK, 1.0, 0.0)],
        LOSSES + "gae",
        {
            "returns are advantages + values from before the normalising; afterwards they are in no unit at all.":
                lambda r, v, m, g, lam: gae_with(r, v, m, g, lam, normalised=True),
            "something crosses the end of an episode: where the mask is 0 nothing is carried over.":
                lambda r, v, m, g, lam: gae_with(r, v, m, g, lam, masked=False),
            "gamma and lambda changed places: gamma alone discounts the next value.": lambda r, v, m, g, lam: gae_with(r, v, m, lam, g),
            "the value of the next state is missing in delta.":
                lambda r, v, m, g, lam: (gae_with(r - losses.masked(v, m), 0 * v, m, g, lam)[0],
                                         gae_with(r - losses.masked(v, m), 0 * v, m, g, lam)[0] + losses.masked(v, m)),
        },
        points=4,
    ),
    Exercise(
        "normalise", losses.normalise, [(ADVANTAGES, MASK), (10 - 3 * ADVANTAGES, MASK)], LOSSES + "normalise",
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
        [(LOGPS, OLD_LOGPS, ADVANTAGES, MASK, 0.2), (OLD_LOGPS, LOGPS, -ADVANTAGES, MASK, 0.1)], LOSSES + "clipped_policy_loss",
        {
            "the clip is on the wrong side: of the two the smaller is taken, so that no gain is promised beyond the clip.":
                lambda lp, olp, a, m, e: policy_loss(lp, olp, a, m, e, pick=torch.maximum),
            "an unmasked mean: prompt and padding count in the denominator.":
                lambda lp, olp, a, m, e: policy_loss(lp, olp, a, m, e, mean=mean_over_all),
            "the sign: the optimiser goes down, the objective must go up.":
                lambda lp, olp, a, m, e: policy_loss(lp, olp, a, m, e, sign=1.0),
            "only the clipped term is there: outside the clip nothing could ever be corrected.":
                lambda lp, olp, a, m, e: policy_loss(lp, olp, a, m, e, pick=lambda free, clipped: clipped),
            "nothing is clipped.": lambda lp, olp, a, m, e: policy_loss(lp, olp, a, m, e, pick=lambda free, clipped: free),
            "the ratio is upside down: policy over the policy that sampled.": lambda lp, olp, a, m, e: policy_loss(olp, lp, a, m, e),
        },
        points=4,
    ),
    # 06 PPO live
    Exercise(
        "k3", answers.k3, [(LOGPS, REF_LOGPS), (REF_LOGPS, LOGPS)], ANSWERS + "k3",
        {
            "that is k1; it is right on average, but negative for every other token.": lambda lp, rlp: lp - rlp,
            "that is k2, which is biased.": lambda lp, rlp: (lp - rlp) ** 2 / 2,
            "r is pi_ref / pi, since the tokens were drawn from pi.": lambda lp, rlp: losses.kl_estimate(rlp, lp, "k3"),
        },
    ),
    Exercise(
        "adapt_beta", losses.adapt_beta, [(0.2, 4.0, 2.0, 100, 1000), (0.2, 1.0, 2.0, 100, 1000), (0.5, 2.1, 2.0, 100, 500)],
        LOSSES + "adapt_beta",
        {
            "the direction: where KL is above its target, its price must rise.":
                lambda b, k, t, n, h: b * (1 - min(max(k / t - 1, -0.2), 0.2) * n / h),
            "the error is not clipped: one wild batch would throw beta about.": lambda b, k, t, n, h: b * (1 + (k / t - 1) * n / h),
        },
    ),
    Exercise(
        "explained_variance", losses.explained_variance, [(VALUES, REWARDS, MASK), (REWARDS + 1, REWARDS, MASK)],
        LOSSES + "explained_variance",
        {
            "prompt and padding take part; use the mask.":
                lambda v, r, m: 1 - (r - v).var(correction=0) / r.var(correction=0),
            "that is the share that is *not* explained.": lambda v, r, m: 1 - losses.explained_variance(v, r, m),
            "a constant error is not variance: subtract the mean error.":
                lambda v, r, m: 1 - losses.masked_mean((r - v) ** 2, m) / r[m.bool()].var(correction=0),
        },
        points=1,
    ),
)  # fmt: skip
