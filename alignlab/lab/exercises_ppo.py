"""Exercises on PPO (notebooks 05 and 06)."""

import math

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
    random_normal,
    sum_rewards,
)
from alignlab.lab.exercise_slips_ppo import (
    KINDS,
    by_row,
    gae_by_hand,
    iteration,
    last_only,
    mean_of_rows,
    moments,
    next_values,
    onset,
    outside,
    standardised,
    stops,
    surrogate,
    to_come,
)

# Inputs of the exercises that need more than the common ones.
NEW_VALUES = VALUES + 0.5 * random_normal(3, 6, seed=7)
ITERATION = (SCORES, LOGPS, OLD_LOGPS, REF_LOGPS, NEW_VALUES, VALUES, MASK)
TABLES = [tuple(random_normal(6, seed=seed).log_softmax(-1) for seed in pair) for pair in ((41, 42), (43, 44))]
HUMP = torch.tensor([0.0, 3.6, 1.0, 2.0, 3.0, 3.1, 2.9, 1.4, 1.0, 0.6])  # gold: its highest single point is luck
RISE = torch.tensor([0.0, 0.5, 1.0, 1.4, 1.8, 2.0, 2.3, 2.5, 2.6, 2.8])
BREAK = torch.tensor([0.0, 1.0, 2.0, 3.0, 3.2, 3.1, 2.0, 1.0, 0.4, 0.1])  # a run that falls apart: the score falls as well
FALLING = torch.tensor([2.0, 3.0, 3.2, 2.6, 2.0, 1.0, 0.5, 0.0, -1.0, -2.0])  # below its start at the end
COURSES = [(RISE, HUMP, 1.0, 3), (RISE, RISE, 1.0, 3), (BREAK, HUMP, 1.0, 3), (RISE, HUMP, 4.0, 3), (RISE, FALLING, 0.5, 2)]

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
            "the score stands at mask.sum(-1) - 1, which counts from the start of the row; the prompt comes first there.":
                lambda s, lp, rlp, m, b: sum_rewards(s, lp, rlp, m, b, at=lambda mask: mask.sum(-1) - 1),
            "the score stands one token too early; it belongs on the last token, EOS included.":
                lambda s, lp, rlp, m, b: sum_rewards(s, lp, rlp, m, b, at=lambda mask: losses.last_token(mask) - 1),
            "prompt tokens are charged too; only what the policy wrote has a price.":
                lambda s, lp, rlp, m, b: sum_rewards(s, lp, rlp, torch.ones_like(m), b, at=lambda _: losses.last_token(m)),
            "the score is added to every token; it is paid once, at the end.":
                lambda s, lp, rlp, m, b: losses.masked(-b * (lp - rlp) + s[:, None], m),
            "the score replaces the last token's price; it is added to it.":
                lambda s, lp, rlp, m, b: sum_rewards(s, lp, rlp, m, b) + sum_rewards(0 * s, lp, rlp, m, -b) * last_only(m),
            "beta is missing: the log-ratio is in nats, and beta turns nats into reward.":
                lambda s, lp, rlp, m, b: sum_rewards(s, lp, rlp, m, 1.0),
            "the whole answer's KL is charged to the last token; each token pays for its own log-ratio.":
                lambda s, lp, rlp, m, b: (s - b * losses.sequence_logps(lp - rlp, m))[:, None] * last_only(m),
            "the score is missing: it belongs on the last token of each row.":
                lambda s, lp, rlp, m, b: sum_rewards(0 * s, lp, rlp, m, b),
            "that charges k3; the KL in the reward is the plain log-ratio, k1, whose sum is the objective's.":
                lambda s, lp, rlp, m, b: sum_rewards(s, losses.kl_estimate(lp, rlp, "k3"), 0 * rlp, m, b),
        },
        points=3,
    ),
    Exercise(
        "gae", losses.gae, [(REWARDS, VALUES, MASK, 0.9, 0.8), (REWARDS, VALUES, MASK, 1.0, 1.0), (REWARDS, VALUES, MASK, 1.0, 0.0)],
        LOSSES + "gae",
        {
            "returns are advantages + values from before the normalising; afterwards they are in no unit at all.":
                lambda r, v, m, g, lam: gae_with(r, v, m, g, lam, normalised=True),
            "the returns lack the values: advantages say how much better, returns how much in all, so returns are advantages + values.":
                lambda r, v, m, g, lam: (losses.gae(r, v, m, g, lam)[0],) * 2,
            "the returns are the plain sum of the rewards to come; that equals advantages + values only where gamma and lambda are 1.":
                to_come,
            "no mask at all: padding and prompt have advantages too, and what stands there is carried into the answer.":
                lambda r, v, m, g, lam: gae_with(r, v, m, g, lam, masked=False),
            "the mask comes too late, at the end: by then the rewards and values of the padding have been carried into the answer.":
                lambda r, v, m, g, lam: gae_by_hand(r, v, m, g, lam, following=next_values(v), masked=False),
            "V_(t+1) of an answer's last token is read from the padding; nothing comes after the end, so it is 0 there.":
                lambda r, v, m, g, lam: gae_by_hand(r, v, m, g, lam, following=next_values(v)),
            "the loop runs forwards: the advantage of a token depends on what comes after it, so start at the end.":
                lambda r, v, m, g, lam: gae_by_hand(r, v, m, g, lam, forwards=True),
            "lambda is missing: what is carried back shrinks by gamma x lambda at each step, not by gamma alone.":
                lambda r, v, m, g, lam: gae_by_hand(r, v, m, g, lam, decay=g),
            "gamma is missing in what is carried back: it shrinks by gamma x lambda, not by lambda alone.":
                lambda r, v, m, g, lam: gae_by_hand(r, v, m, g, lam, decay=lam),
            "gamma and lambda changed places: gamma alone discounts the next value.": lambda r, v, m, g, lam: gae_with(r, v, m, lam, g),
            "the value of the next state is missing in delta.":
                lambda r, v, m, g, lam: gae_by_hand(r, v, m, g, lam, following=0 * v),
            "the token's own value is missing in delta: what was expected before it must be subtracted.":
                lambda r, v, m, g, lam: gae_by_hand(r, v, m, g, lam, here=0.0),
            "V_t stands where V_(t+1) belongs: the value to carry is overwritten before delta has used it.":
                lambda r, v, m, g, lam: gae_by_hand(r, v, m, g, lam, following=v),
        },
        points=4,
    ),
    Exercise(
        "normalise", losses.normalise, [(ADVANTAGES, MASK), (10 - 3 * ADVANTAGES, MASK)], LOSSES + "normalise",
        {
            "the mask is forgotten: prompt and padding count in the mean and the deviation, and are not 0 afterwards.":
                lambda a, m: (a - a.mean()) / (a.std(correction=0) + 1e-8),
            "the mask is forgotten, and std() divides by N - 1 where it is not told otherwise (correction=0).":
                lambda a, m: (a - a.mean()) / (a.std() + 1e-8),
            "an unmasked mean: padding and prompt take part.":
                lambda a, m: losses.masked((a - a.mean()) / (a.std(correction=0) + 1e-8), m),
            "an unmasked mean, and a deviation that divides by N - 1: padding and prompt take part in both.":
                lambda a, m: losses.masked((a - a.mean()) / (a.std() + 1e-8), m),
            "zeros take part: advantages x mask are averaged over every position; divide by the number of the mask's tokens.":
                lambda a, m: losses.masked((a - (a * m).mean()) / ((a * m).std(correction=0) + 1e-8), m),
            "prompt and padding are left out of the mean, as they should be, but must be 0 in the result.": standardised,
            "std() divides by N - 1 here; the population's deviation divides by N (correction=0).":
                lambda a, m: losses.masked(standardised(a, m, correction=1), m),
            "each row is scaled by itself, so that a good answer looks no better than a bad one; use the whole batch's tokens.": by_row,
            "the mean is still there; subtract it first.":
                lambda a, m: losses.masked(a / (losses.masked_mean((a - losses.masked_mean(a, m)) ** 2, m).sqrt() + 1e-8), m),
            "the mean is gone, but the scale is still the reward model's: divide by the deviation.":
                lambda a, m: losses.masked(a - losses.masked_mean(a, m), m),
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
            "no mask at all: what stands on prompt and padding takes part.":
                lambda lp, olp, a, m, e: policy_loss(lp, olp, a, torch.ones_like(m), e),
            "a sum over the tokens; the loss is their mean, or long batches would take longer steps.":
                lambda lp, olp, a, m, e: policy_loss(lp, olp, a, m, e, mean=lambda x, mask: losses.masked(x, mask).sum()),
            "the mean of the rows' means: a token of a short answer then counts for more; take one mean over all tokens.":
                lambda lp, olp, a, m, e: policy_loss(lp, olp, a, m, e, mean=mean_of_rows),
            "the tokens are not averaged: the loss is one number, of shape ().":
                lambda lp, olp, a, m, e: policy_loss(lp, olp, a, m, e, mean=losses.masked),
            "the sign: the optimiser goes down, the objective must go up.":
                lambda lp, olp, a, m, e: policy_loss(lp, olp, a, m, e, sign=1.0),
            "only the clipped term is there: outside the clip nothing could ever be corrected.":
                lambda lp, olp, a, m, e: policy_loss(lp, olp, a, m, e, pick=lambda free, clipped: clipped),
            "nothing is clipped.": lambda lp, olp, a, m, e: policy_loss(lp, olp, a, m, e, pick=lambda free, clipped: free),
            "the ratio is upside down: policy over the policy that sampled.": lambda lp, olp, a, m, e: policy_loss(olp, lp, a, m, e),
            "exp is missing: the difference of log-probs is the *log* of the ratio.":
                lambda lp, olp, a, m, e: surrogate(lp - olp, a, m, 1 - e, 1 + e),
            "the range is around 0, from -epsilon to epsilon; a ratio of equal policies is 1, so it is 1 - epsilon to 1 + epsilon.":
                lambda lp, olp, a, m, e: surrogate((lp - olp).exp(), a, m, -e, e),
            "the log-ratio is clipped to -epsilon to epsilon; the paper clips the ratio, to 1 - epsilon and 1 + epsilon.":
                lambda lp, olp, a, m, e: surrogate((lp - olp).exp(), a, m, math.exp(-e), math.exp(e)),
        },
        points=4,
    ),
    Exercise(
        "stopped_share", answers.stopped_share,
        [(LOGPS, OLD_LOGPS, ADVANTAGES, MASK, 0.2), (OLD_LOGPS, LOGPS, -ADVANTAGES - 0.4, MASK, 0.1)],
        ANSWERS + "stopped_share",
        {
            "that is the clip fraction: it also counts tokens outside the range on the side that is still corrected.":
                lambda lp, olp, a, m, e: outside(lp, olp, m, e),
            "that counts the tokens that are still corrected: a good one that became rarer, a bad one that became likelier.":
                lambda lp, olp, a, m, e: stops(lp, olp, -a, m, e),
            "only good tokens are counted; a bad one that has lost enough is stopped as well.":
                lambda lp, olp, a, m, e: stops(lp, olp, a, m, e, bad=False),
            "only bad tokens are counted; a good one that has gained enough is stopped as well.":
                lambda lp, olp, a, m, e: stops(lp, olp, a, m, e, good=False),
            "an unmasked mean: prompt and padding count in the denominator.":
                lambda lp, olp, a, m, e: stops(lp, olp, a, m, e, mean=lambda x, mask: mean_over_all(x.float(), mask)),
            "no mask at all: prompt and padding are counted too.":
                lambda lp, olp, a, m, e: stops(lp, olp, a, torch.ones_like(m), e),
            "a share of the tokens that left the range; it is asked as a share of all the mask's tokens.":
                lambda lp, olp, a, m, e: stops(lp, olp, a, m, e) / outside(lp, olp, m, e),
            "a number of tokens; a share is asked.":
                lambda lp, olp, a, m, e: stops(lp, olp, a, m, e) * m.sum(),
            "that is the share that is *not* stopped.": lambda lp, olp, a, m, e: 1 - stops(lp, olp, a, m, e),
            "the ratio is upside down: policy over the policy that sampled.": lambda lp, olp, a, m, e: stops(olp, lp, a, m, e),
            "exp is missing: the range is the ratio's, not the log-ratio's.":
                lambda lp, olp, a, m, e: stops((lp - olp).clamp(min=1e-9).log(), 0 * olp, a, m, e),
        },
        points=3,
    ),
    Exercise(
        "ppo_losses", answers.ppo_losses, [(*ITERATION, 0.3, 0.9, 0.2), (*ITERATION, 0.0, 1.0, 0.1)], ANSWERS + "ppo_losses",
        {
            "the KL is charged to the policy that is learning; rewards belong to the samples, so it is `old_logps` against `ref_logps`.":
                lambda s, lp, olp, *rest: iteration(s, lp, olp, *rest, charged=lp),
            "the ratio is taken to the reference; the clip's anchor is the policy that sampled. The reference stands in the rewards alone.":
                lambda s, lp, olp, rlp, *rest: iteration(s, lp, olp, rlp, *rest, anchor=rlp),
            "the ratio is 1 everywhere: `old_logps` against itself. The policy that learns belongs on top.":
                lambda s, lp, olp, *rest: iteration(s, olp, olp, *rest, charged=olp),
            "GAE uses the new values; advantages are fixed when the answers are sampled, with `old_values`.":
                lambda s, lp, olp, rlp, v, *rest: iteration(s, lp, olp, rlp, v, *rest, guess=v),
            "the advantages are not normalised before they enter the policy's loss.":
                lambda *given: iteration(*given, scale=lambda advantages, mask: advantages),
            "the returns were made from the normalised advantages; the values must predict rewards in their own units.":
                lambda s, lp, olp, rlp, v, ov, *rest:
                    iteration(s, lp, olp, rlp, v, ov, *rest, target=lambda a, returns, rewards, mask: losses.masked(a + ov, mask)),
            "the values are trained towards the rewards; their target is the returns, all that is still to come.":
                lambda *given: iteration(*given, target=lambda a, returns, rewards, mask: rewards),
            "the returns are normalised too; the values must predict rewards in their own units.":
                lambda *given: iteration(*given, target=lambda a, returns, rewards, mask: losses.normalise(returns, mask)),
            "the value loss compares the *old* values with the returns; they cannot learn, `values` can.":
                lambda s, lp, olp, rlp, v, ov, *rest: iteration(s, lp, olp, rlp, v, ov, *rest, learner=ov),
            "the value loss is not halved; here it is half the mean squared error.":
                lambda *given: (iteration(*given)[0], 2 * iteration(*given)[1]),
            "the sign of the policy's loss: the optimiser goes down, the objective must go up.":
                lambda *given: (-iteration(*given)[0], iteration(*given)[1]),
            "one number comes back, the sum; the function returns two: the policy's loss, the value's loss.":
                lambda *given: sum(iteration(*given)),
        },
        points=4,
    ),
    # 06 PPO live
    Exercise(
        "k3", answers.k3, [(LOGPS, REF_LOGPS), (REF_LOGPS, LOGPS)], ANSWERS + "k3",
        {
            "that is k1; it is right on average, but negative for every other token.": lambda lp, rlp: lp - rlp,
            "that is log r, or minus k1.": lambda lp, rlp: rlp - lp,
            "that is k2, which is biased.": lambda lp, rlp: (lp - rlp) ** 2 / 2,
            "r is pi_ref / pi, since the tokens were drawn from pi.": lambda lp, rlp: losses.kl_estimate(rlp, lp, "k3"),
            "- 1 is missing: where both agree, r is 1 and the estimate must be 0.": lambda lp, rlp: (rlp - lp).exp() - (rlp - lp),
            "- log r is missing: r - 1 alone averages to 0.": lambda lp, rlp: torch.expm1(rlp - lp),
            "the sign of log r: it is subtracted.": lambda lp, rlp: torch.expm1(rlp - lp) + (rlp - lp),
            "expm1 subtracts 1 already; here it is subtracted twice.": lambda lp, rlp: torch.expm1(rlp - lp) - 1 - (rlp - lp),
            "one number comes back; an estimate for each token is asked.": lambda lp, rlp: losses.kl_estimate(lp, rlp, "k3").mean(),
        },
    ),
    Exercise(
        "estimator_errors", answers.estimator_errors, TABLES, ANSWERS + "estimator_errors",
        {
            "every token counts alike; an expectation weighs each token by the probability with which the policy draws it.":
                lambda lp, rlp: moments(lp, rlp, torch.full_like(lp, 1 / len(lp))),
            "the tokens are weighed by the reference's probabilities; the policy draws them.":
                lambda lp, rlp: moments(lp, rlp, rlp.exp()),
            "the sign of the bias: it is what the estimate tends to, minus the truth.":
                lambda lp, rlp: (-moments(lp, rlp, lp.exp())[0], moments(lp, rlp, lp.exp())[1]),
            "the truth is not subtracted: that is what each estimate tends to, not its bias.":
                lambda lp, rlp: (moments(lp, rlp, lp.exp())[0] + losses.exact_kl(lp, rlp), moments(lp, rlp, lp.exp())[1]),
            "the truth is KL(pi_ref, pi) here; the estimates are of KL(pi, pi_ref).":
                lambda lp, rlp: (moments(lp, rlp, lp.exp())[0] + losses.exact_kl(lp, rlp) - losses.exact_kl(rlp, lp),
                                 moments(lp, rlp, lp.exp())[1]),
            "that is the variance; take its root, to have nats.":
                lambda lp, rlp: (moments(lp, rlp, lp.exp())[0], moments(lp, rlp, lp.exp())[1].square()),
            "the spread is measured around the truth; bias and spread should be kept apart, so measure it around the estimate's own mean.":
                lambda lp, rlp: moments(lp, rlp, lp.exp(), losses.exact_kl(lp, rlp)),
            "the mean is not subtracted before squaring: that is the root of the mean square, not the spread.":
                lambda lp, rlp: moments(lp, rlp, lp.exp(), torch.zeros(())),
            "std() gives every token the same weight; weigh the squares by the policy's probabilities, as the mean.":
                lambda lp, rlp: (moments(lp, rlp, lp.exp())[0],
                                 torch.stack([losses.kl_estimate(lp, rlp, kind) for kind in KINDS]).std(-1, correction=0)),
        },
        points=3,
    ),
    Exercise(
        "adapt_beta", losses.adapt_beta, [(0.2, 4.0, 2.0, 100, 1000), (0.2, 1.0, 2.0, 100, 1000), (0.5, 2.1, 2.0, 100, 500)],
        LOSSES + "adapt_beta",
        {
            "the direction: where KL is above its target, its price must rise.":
                lambda b, k, t, n, h: b * (1 - min(max(k / t - 1, -0.2), 0.2) * n / h),
            "the error is not clipped: one wild batch would throw beta about.": lambda b, k, t, n, h: b * (1 + (k / t - 1) * n / h),
            "KL / target itself is clipped; clip the error, KL / target - 1.":
                lambda b, k, t, n, h: b * (1 + min(max(k / t, -0.2), 0.2) * n / h),
            "- 1 is missing: at its target KL / target is 1, and the error must be 0.":
                lambda b, k, t, n, h: b * (1 + min(max(k / t, 0.8), 1.2) * n / h),
            "the error is a difference in nats; divide by the target, so that it is a share of it.":
                lambda b, k, t, n, h: b * (1 + min(max(k - t, -0.2), 0.2) * n / h),
            "KL and target changed places.": lambda b, k, t, n, h: losses.adapt_beta(b, t, k, n, h),
            "samples / horizon is missing: beta would change by a fifth at every iteration.":
                lambda b, k, t, n, h: losses.adapt_beta(b, k, t, 1, 1),
            "samples and horizon changed places: a longer horizon means a slower change.":
                lambda b, k, t, n, h: losses.adapt_beta(b, k, t, h, n),
            "only the change comes back, without the beta that it is added to.":
                lambda b, k, t, n, h: losses.adapt_beta(b, k, t, n, h) - b,
            "the change is added to beta; it multiplies beta, or a small beta would be thrown about.":
                lambda b, k, t, n, h: b + min(max(k / t - 1, -0.2), 0.2) * n / h,
        },
    ),
    Exercise(
        "explained_variance", losses.explained_variance, [(VALUES, REWARDS, MASK), (REWARDS + 1, REWARDS, MASK)],
        LOSSES + "explained_variance",
        {
            "prompt and padding take part; use the mask.":
                lambda v, r, m: 1 - (r - v).var(correction=0) / r.var(correction=0),
            "zeros take part: multiplying by the mask keeps prompt and padding as zeros; pick the mask's tokens instead.":
                lambda v, r, m: 1 - ((r - v) * m).var(correction=0) / (r * m).var(correction=0),
            "that is the share that is *not* explained.": lambda v, r, m: 1 - losses.explained_variance(v, r, m),
            "a constant error is not variance: subtract the mean error.":
                lambda v, r, m: 1 - losses.masked_mean((r - v) ** 2, m) / r[m.bool()].var(correction=0),
            "values and returns changed places: the returns are to be explained, so theirs is the variance to divide by.":
                lambda v, r, m: 1 - (r - v)[m.bool()].var(correction=0) / v[m.bool()].var(correction=0),
            "that divides standard deviations; the share is one of variances.":
                lambda v, r, m: 1 - (r - v)[m.bool()].std(correction=0) / r[m.bool()].std(correction=0),
            "1 - is all there: the variance of the errors must be divided by the variance of the returns.":
                lambda v, r, m: 1 - (r - v)[m.bool()].var(correction=0),
            "the variance of the values as a share of that of the returns: it would praise a head that guesses wildly.":
                lambda v, r, m: v[m.bool()].var(correction=0) / r[m.bool()].var(correction=0),
        },
        points=2,
    ),
    Exercise(
        "overoptimised_from", answers.overoptimised_from, COURSES, ANSWERS + "overoptimised_from",
        {
            "that is the proxy's peak; over-optimisation begins where *gold* turns.":
                lambda p, g, f, w: onset(p, g, f, w, peak_of="proxy", rises=False, falls=False),
            "nothing is smoothed: the highest of many noisy points is partly luck.":
                lambda p, g, f, w: onset(p, g, f, w, smooth=False),
            "the proxy is not asked about: where it falls as well, the run broke, and the judge was not fooled.":
                lambda p, g, f, w: onset(p, g, f, w, rises=False),
            "the fall is not asked about: every curve has a highest point.": lambda p, g, f, w: onset(p, g, f, w, falls=False),
            "the end is compared with the start; gold can end above its start and yet far below its peak.":
                lambda p, g, f, w: onset(p, g, f, w, from_start=True),
            "that is the first iteration of the window; its mean stands for the middle one, window // 2 later.":
                lambda p, g, f, w: None if onset(p, g, f, w) is None else onset(p, g, f, w) - w // 2,
            "that is the last iteration of the window; its mean stands for the middle one, window // 2 after the first.":
                lambda p, g, f, w: None if onset(p, g, f, w) is None else onset(p, g, f, w) - w // 2 + w - 1,
            "that says whether, not from where: return the iteration, or None.": lambda p, g, f, w: onset(p, g, f, w) is not None,
        },
        points=3,
    ),
)  # fmt: skip
