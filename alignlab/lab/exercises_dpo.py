"""Exercises on DPO, the verdict and data of your own (notebooks 07 to 09)."""

import math
from itertools import pairwise
from statistics import mean

import torch
from torch.nn import functional as F

from alignlab import losses
from alignlab.lab import answers
from alignlab.lab.exercise import ANSWERS, FOUR, GOLD, LOGPS, LOSSES, MASK, RECORDS, REF_LOGPS, Exercise, dpo_with, random_normal


def rests(p, beta, dpo=answers.dpo_rest, ipo=answers.ipo_rest):
    return dpo(p, beta), ipo(p, beta)


def pull(margin, beta, smoothing, right=1.0, flipped=1.0):
    return beta * (right * (1 - smoothing) * torch.sigmoid(-margin) - flipped * smoothing * torch.sigmoid(margin))


POINTS = [(1.0, 4.5), (3.0, 5.2), (0.0, 3.5), (2.0, 5.0)]  # (KL, gold) of one method, in no order
OTHER = {"prompt": "c", "chosen": "x"}


def on_a_line(start, end, kl):
    return start[1] + (end[1] - start[1]) * (kl - start[0]) / (end[0] - start[0])


def inside(points, kl, value):
    """`value` of the two neighbours in KL; None beyond the points."""
    return next((value(a, b) for a, b in pairwise(sorted(points)) if a[0] <= kl <= b[0]), None)


def held(points, kl):
    """The last point's value beyond it."""
    return answers.gold_at_kl(points, min(max(kl, min(points)[0]), max(points)[0]))


def extended(points, kl):
    """The last segment, beyond its end."""
    known = answers.gold_at_kl(points, kl)
    *_, before, last = sorted(points)
    return on_a_line(before, last, kl) if known is None else known


GOLDS = tuple(random_normal(4, 2, seed=seed) for seed in (41, 42, 43, 44))  # of two pairs of policies: 4 prompts, 2 answers each
DRAWN = torch.randint(4, (9, 4), generator=torch.Generator().manual_seed(45))  # 9 resamplings of 4 prompts
MIDDLE = (0.025, 0.975)


def limits(values, ends=MIDDLE):
    return values.quantile(torch.tensor(ends))


def interval(first, second, drawn, ends=MIDDLE, sign=1.0):
    difference = sign * (first.mean(-1) - second.mean(-1))
    return torch.cat([difference.mean()[None], limits(difference[drawn].mean(-1), ends)])


def apart(first, second, drawn, crossed=True):
    """The two policies' own intervals, one less the other."""
    (low, high), (other_low, other_high) = (limits(each.mean(-1)[drawn].mean(-1)) for each in (first, second))
    ends = (low - other_high, high - other_low) if crossed else (low - other_low, high - other_high)
    return torch.stack([first.mean() - second.mean(), *ends])


def by_deviation(first, second, drawn):
    difference = first.mean(-1) - second.mean(-1)
    spread = 1.96 * difference[drawn].mean(-1).std()
    return torch.stack([difference.mean(), difference.mean() - spread, difference.mean() + spread])


def spread_of_prompts(first, second, drawn):
    difference = first.mean(-1) - second.mean(-1)
    return torch.cat([difference.mean()[None], limits(difference)])


def needed(rate, z=1.96, variance=None, gap=None):
    """Comparisons, before rounding."""
    return z**2 * (rate * (1 - rate) if variance is None else variance) / ((rate - 0.5) ** 2 if gap is None else gap)


EXERCISES = (
    # 07 DPO
    Exercise(
        "implicit_reward", answers.implicit_reward, [(LOGPS, REF_LOGPS, MASK, 0.1), (REF_LOGPS, LOGPS, MASK, 2.0)],
        ANSWERS + "implicit_reward",
        {
            "prompt tokens and padding are counted; the reward is for the answer alone, so use the mask.":
                lambda lp, rlp, m, b: b * (lp - rlp).sum(-1),
            "the mean over tokens makes long answers cheap; the log-probability of a sequence is a sum.":
                lambda lp, rlp, m, b: b * ((lp - rlp) * m).sum(-1) / m.sum(-1),
            "the mean over all columns: it is a sum, and it must not depend on how wide the batch is.":
                lambda lp, rlp, m, b: b * ((lp - rlp) * m).mean(-1),
            "the reference is missing.": lambda lp, rlp, m, b: b * (lp * m).sum(-1),
            "the sign: policy over reference.": lambda lp, rlp, m, b: b * ((rlp - lp) * m).sum(-1),
            "beta is missing: the reward is beta times the log-ratio.": lambda lp, rlp, m, b: ((lp - rlp) * m).sum(-1),
            "beta divides here; it multiplies the log-ratio.": lambda lp, rlp, m, b: ((lp - rlp) * m).sum(-1) / b,
            "that is one number per token; add up each row, since a completion has one reward.":
                lambda lp, rlp, m, b: b * (lp - rlp) * m,
            "that is one number for the whole batch; each completion has its own, so sum over the last dimension only.":
                lambda lp, rlp, m, b: b * ((lp - rlp) * m).sum(),
            "that is beta times the ratio itself; the reward is beta times its logarithm.":
                lambda lp, rlp, m, b: b * ((lp - rlp) * m).sum(-1).exp(),
        },
    ),
    Exercise(
        "dpo_loss", losses.dpo_loss, [(*FOUR, 0.1), (*FOUR, 1.0)], LOSSES + "dpo_loss",
        {
            "the minus sign is missing: that is the log-likelihood of the labels, which training would then push down.":
                lambda c, r, rc, rr, b: -dpo_with(c, r, rc, rr, b),
            "beta is missing: without it the price of KL cannot be set.": lambda c, r, rc, rr, b: dpo_with(c, r, rc, rr, 1.0),
            "the sum over pairs; take the mean, so that the batch size does not change the step.":
                lambda c, r, rc, rr, b: len(c) * dpo_with(c, r, rc, rr, b),
            "one loss per pair; average them, since backward() needs a scalar.":
                lambda c, r, rc, rr, b: -F.logsigmoid(b * ((c - rc) - (r - rr))),
            "the logarithm is missing: that is minus the mean probability of the labels.":
                lambda c, r, rc, rr, b: -torch.sigmoid(b * ((c - rc) - (r - rr))).mean(),
            "the sigmoid is missing: without it the loss has no lower bound, and every pair pulls alike for ever.":
                lambda c, r, rc, rr, b: -(b * ((c - rc) - (r - rr))).mean(),
            "the reference is missing: that compares likelihoods, not likelihood ratios.":
                lambda c, r, rc, rr, b: dpo_with(c, r, rc, rr, b, reference=0.0),
            "the reference is added; its log-probabilities are subtracted, since a ratio divides by them.":
                lambda c, r, rc, rr, b: dpo_with(c, r, rc, rr, b, reference=-1.0),
            "the sign: chosen and rejected changed places.": lambda c, r, rc, rr, b: dpo_with(c, r, rc, rr, b, sign=-1.0),
            "the rejected answers are left out: the loss is about the difference of the two log-ratios.":
                lambda c, r, rc, rr, b: -F.logsigmoid(b * (c - rc)).mean(),
            "each log-ratio has a sigmoid of its own; take their difference first, then one sigmoid.":
                lambda c, r, rc, rr, b: -(F.logsigmoid(b * (c - rc)) - F.logsigmoid(b * (r - rr))).mean(),
            "beta divides here; in the loss it multiplies the log-ratios.": lambda c, r, rc, rr, b: dpo_with(c, r, rc, rr, 1 / b),
            "beta stands outside the logarithm here; it belongs inside the sigmoid.":
                lambda c, r, rc, rr, b: b * dpo_with(c, r, rc, rr, 1.0),
        },
        points=4,
    ),
    Exercise(
        "pair_weight", answers.pair_weight, [(torch.tensor([-2.0, 0.0, 3.0]), 0.1), (torch.tensor([1.0]), 2.0)], ANSWERS + "pair_weight",
        {
            "the sign: pairs that are in the right order already should pull less.": lambda margin, b: b * torch.sigmoid(margin),
            "beta is missing: the margin holds it once, the chain rule brings it again.": lambda margin, b: torch.sigmoid(-margin),
            "that is the slope with its sign; its absolute value is asked for.": lambda margin, b: -b * torch.sigmoid(-margin),
            "the margin already contains beta; it needs no second one inside the sigmoid.":
                lambda margin, b: b * torch.sigmoid(-b * margin),
            "that is the slope of the sigmoid; the loss is minus its logarithm, whose slope is simpler.":
                lambda margin, b: b * torch.sigmoid(margin) * torch.sigmoid(-margin),
            "that is the loss itself times beta; its slope is asked for.": lambda margin, b: -b * F.logsigmoid(margin),
            "that is the mean over pairs; return one weight for each.": lambda margin, b: (b * torch.sigmoid(-margin)).mean(),
        },
    ),
    Exercise(
        "smoothed_pull", answers.smoothed_pull,
        [(torch.tensor([-2.0, 0.0, 3.0]), 0.1, 0.1), (torch.tensor([1.0, 4.0]), 2.0, 0.3), (torch.tensor([1.0]), 1.0, 0.0)],
        ANSWERS + "smoothed_pull",
        {
            "the flipped label is forgotten: with probability epsilon it pulls the other way.": lambda m, b, e: pull(m, b, e, flipped=0.0),
            "both labels pull the same way here; the flipped one pulls down, so subtract its part.":
                lambda m, b, e: pull(m, b, e, flipped=-1.0),
            "that is the pull without label smoothing.": lambda m, b, e: b * torch.sigmoid(-m),
            "the sign: that is the slope of the loss, and the pull on the difference is minus the slope.": lambda m, b, e: -pull(m, b, e),
            "that is its size; keep the sign, since beyond some margin the pull is downwards.": lambda m, b, e: pull(m, b, e).abs(),
            "beta is missing: the margin holds it once, the chain rule brings it again.": lambda m, b, e: pull(m, 1.0, e),
            "the margin already contains beta; it needs no second one inside the sigmoid.": lambda m, b, e: pull(b * m, b, e),
            "the two sigmoids changed places: the label as given pulls with sigmoid(-margin).": lambda m, b, e: pull(-m, b, e),
            "epsilon and 1 - epsilon changed places: epsilon is the share of wrong labels.": lambda m, b, e: pull(m, b, 1 - e),
        },
    ),
    Exercise(
        "resting_points", answers.resting_points, [(torch.tensor([0.5, 0.8, 0.3]), 0.5), (torch.tensor([0.9]), 2.0)],
        ANSWERS + "resting_points",
        {
            "that is one tensor; return two, DPO's and IPO's.": lambda p, b: rests(p, b)[0],
            "that is one tensor with both in it; return two tensors, with a comma between them.": lambda p, b: torch.stack(rests(p, b)),
            "the two changed places: DPO's first, then IPO's.": lambda p, b: rests(p, b)[::-1],
            "DPO's lacks beta: the margin, beta times the difference, comes to rest at the log-odds.":
                lambda p, b: rests(p, b, dpo=lambda p, b: p.logit()),
            "DPO's is the margin at rest times beta; divide by beta to have the log-ratio difference.":
                lambda p, b: rests(p, b, dpo=lambda p, b: p.logit() * b),
            "DPO's takes the sigmoid of p; p is a probability already, so the inverse of the sigmoid is needed.":
                lambda p, b: rests(p, b, dpo=lambda p, b: p.sigmoid() / b),
            "DPO's has log p alone; the flipped labels count too, so it is log p - log(1 - p).":
                lambda p, b: rests(p, b, dpo=lambda p, b: p.log() / b),
            "IPO's is the target of a single label; flipped labels pull to minus that, and the squared loss rests at the mean.":
                lambda p, b: rests(p, b, ipo=lambda p, b: torch.full_like(p, 1 / (2 * b))),
            "IPO's counts a flipped label as a target of 0; its target is -1 / (2 beta).":
                lambda p, b: rests(p, b, ipo=lambda p, b: p / (2 * b)),
            "IPO's lacks the one half: a label's target is 1 / (2 beta), not 1 / beta.":
                lambda p, b: rests(p, b, ipo=lambda p, b: (2 * p - 1) / b),
            "IPO's multiplies by beta; a larger beta must give a smaller difference.":
                lambda p, b: rests(p, b, ipo=lambda p, b: (2 * p - 1) * b / 2),
        },
        points=3,
    ),
    # 08 PPO or DPO
    Exercise(
        "gold_efficiency", answers.gold_efficiency, [(5.0, 3.7, 5.6), (3.2, 3.7, 5.0)], ANSWERS + "gold_efficiency",
        {
            "gains are compared, not levels: subtract the reference's gold above and below.": lambda g, r, f: g / f,
            "the gain is above, but the level below; subtract the reference's gold there too.": lambda g, r, f: (g - r) / f,
            "that is what was lost.": lambda g, r, f: 1 - (g - r) / (f - r),
            "upside down: the policy's gain over the frontier's.": lambda g, r, f: (f - r) / (g - r),
            "the denominator is what is still missing; it should be all that was possible.": lambda g, r, f: (g - r) / (f - g),
            "that is the gain itself; divide it by the frontier's gain to have a share.": lambda g, r, f: g - r,
            "the sign: the reference's gold is subtracted from the policy's.": lambda g, r, f: (r - g) / (f - r),
            "that is in percent; return a share of 1.": lambda g, r, f: 100 * (g - r) / (f - r),
        },
        points=1,
    ),
    Exercise(
        "win_rate", answers.win_rate,
        [(torch.tensor([1.0, 2.0, 2.0]), torch.tensor([0.0, 2.0])), (torch.tensor([0.0]), torch.tensor([0.0, 1.0]))],
        ANSWERS + "win_rate",
        {
            "ties are lost here; they count half, or a copy of the reference would lose to itself.":
                lambda g, r: (g[:, None] > r[None, :]).float().mean(),
            "ties are won here; they count half.": lambda g, r: (g[:, None] >= r[None, :]).float().mean(),
            "that is how often the reference wins.": lambda g, r: answers.win_rate(r, g),
            "that is the number of wins; divide by the number of comparisons.": lambda g, r: answers.win_rate(g, r) * len(g) * len(r),
            "the means are compared; every answer of one is compared with every answer of the other.":
                lambda g, r: (g.mean() > r.mean()).float(),
            "wins minus losses; a win counts 1, a tie one half, and a loss nothing.":
                lambda g, r: (g[:, None] - r[None, :]).sign().mean(),
            "ties are left out of the denominator as well; they count half of a comparison.":
                lambda g, r: (g[:, None] > r[None, :]).float().sum() / (g[:, None] != r[None, :]).float().sum(),
        },
    ),
    Exercise(
        "gold_at_kl", answers.gold_at_kl, [(POINTS, 1.25), (POINTS, 0.4), (POINTS, 3.5), (POINTS[:2], 3.0)], ANSWERS + "gold_at_kl",
        {
            "beyond the last point it repeats that point's gold (as numpy.interp does); nothing was measured there, so return None.": held,
            "it extends the last line beyond the last point, where nothing was measured; return None there.": extended,
            "neighbours in the list are not neighbours in KL; sort the points first.":
                lambda points, kl: next((on_a_line(a, b, kl) for a, b in pairwise(points) if a[0] <= kl <= b[0]), None),
            "that is the nearest point's gold, at another KL; go along the line between the two neighbours.":
                lambda points, kl: inside(points, kl, lambda a, b: min(a, b, key=lambda point: abs(point[0] - kl))[1]),
            "that is the gold of the point before; go along the line to the next one.":
                lambda points, kl: inside(points, kl, lambda a, b: a[1]),
            "that is halfway between the neighbours' golds, wherever between them the KL lies.":
                lambda points, kl: inside(points, kl, lambda a, b: (a[1] + b[1]) / 2),
            "one line from the first point to the last; the points between count too.":
                lambda points, kl: on_a_line(min(points), max(points), kl) if kl <= max(points)[0] else None,
            "that is the best gold of all, whatever its KL: what this exercise is there to avoid.":
                lambda points, kl: max(gold for _, gold in points),
            "that is the mean gold of all points; use the two neighbours of this KL.": lambda points, kl: mean(gold for _, gold in points),
        },
    ),
    Exercise(
        "paired_interval", answers.paired_interval, [(*GOLDS[:2], DRAWN), (*GOLDS[2:], DRAWN[:7])], ANSWERS + "paired_interval",
        {
            "each policy has an interval of its own here; subtract within prompts first, so that what the prompts share cancels.": apart,
            "low minus low and high minus high is no interval of the difference; subtract within prompts first, then resample.":
                lambda a, b, drawn: apart(a, b, drawn, crossed=False),
            "the sign: the first policy less the second.": lambda a, b, drawn: interval(a, b, drawn, sign=-1.0),
            "those ends hold 90% of the resamplings; take the quantiles 0.025 and 0.975.":
                lambda a, b, drawn: interval(a, b, drawn, (0.05, 0.95)),
            "that is where single prompts lie; the interval is about their mean, so average over each resampling first.": spread_of_prompts,
            "the ends are the lowest and the highest resampling, which move further apart the more there are; take quantiles.":
                lambda a, b, drawn: interval(a, b, drawn, (0.0, 1.0)),
            "the ends are 1.96 standard deviations away; read them off the resamplings as quantiles, which need not lie evenly.":
                by_deviation,
            "the first number is the mean of the resamplings; the data's own difference is asked for.":
                lambda a, b, drawn: torch.cat([(a.mean(-1) - b.mean(-1))[drawn].mean()[None], interval(a, b, drawn)[1:]]),
            "that is low and high alone; put the difference before them.": lambda a, b, drawn: interval(a, b, drawn)[1:],
        },
        points=3,
    ),
    # 09 your own
    Exercise(
        "preference_record", answers.preference_record, [("p", "a", "b", True), ("q", "c", "d", False)], ANSWERS + "preference_record",
        {
            "chosen is the better one; they changed places.": lambda p, a, b, first: answers.preference_record(p, a, b, not first),
            "the judgement is ignored: the first answer is always chosen.": lambda p, a, b, first: answers.preference_record(p, a, b, True),
            "the prompt is missing; nothing can be learned from answers to an unknown question.":
                lambda p, a, b, first: {key: text for key, text in answers.preference_record(p, a, b, first).items() if key != "prompt"},
            "the prompt stands in the answers too; it has a field of its own.":
                lambda p, a, b, first: answers.preference_record(p, p + a, p + b, first),
            "the same answer is chosen and rejected.":
                lambda p, a, b, first: dict.fromkeys(("chosen", "rejected"), a if first else b) | {"prompt": p},
        },
        points=1,
    ),
    Exercise(
        "agreement", answers.agreement,
        [(GOLD, torch.tensor([-1.0, 1.0, 0.0, 1.5])), (torch.tensor([0.0, 1.0]), torch.tensor([0.0, 2.0]))],
        ANSWERS + "agreement",
        {
            "where gold cannot tell the two apart a label is neither right nor wrong: count it half.":
                lambda c, r: (c > r).float().mean(),
            "equal golds are counted as right; count them half.": lambda c, r: (c >= r).float().mean(),
            "that is by how much, not how often.": lambda c, r: (c - r).mean(),
            "that is how often the labels go against gold.": lambda c, r: answers.agreement(r, c),
            "that is the number of labels; divide by how many there are.": lambda c, r: answers.agreement(c, r) * len(c),
            "right minus wrong; a right label counts 1, an undecided one a half, and a wrong one nothing.":
                lambda c, r: (c - r).sign().mean(),
            "labels on equal golds are left out of the denominator; they count as half a label each.":
                lambda c, r: (c > r).float().sum() / (c != r).float().sum(),
        },
        points=1,
    ),
    Exercise(
        "shares_no_prompt", answers.shares_no_prompt,
        [(RECORDS[:1], RECORDS[1:2]), (RECORDS[:1], RECORDS[2:]), (RECORDS[:2], [RECORDS[1], OTHER]), (RECORDS[:2], [OTHER, RECORDS[1]]),
         (RECORDS[:2], RECORDS[:1])],
        ANSWERS + "shares_no_prompt",
        {
            "inverted: it says True where a prompt is in both; True should mean that none is.":
                lambda train, test: not answers.shares_no_prompt(train, test),
            "whole records differ where only the answers do; it is the prompts that must not be shared.":
                lambda train, test: not any(record in test for record in train),
            "the answers are compared; it is the prompts that must not be shared.":
                lambda train, test: not {each["chosen"] for each in train} & {each["chosen"] for each in test},
            "that is the set of shared prompts; return a bool, True if it is empty.":
                lambda train, test: {each["prompt"] for each in train} & {each["prompt"] for each in test},
            "only the first records are compared; a shared prompt may stand anywhere.":
                lambda train, test: train[0]["prompt"] != test[0]["prompt"],
            "records are compared in step; a shared prompt may stand anywhere.":
                lambda train, test: all(one["prompt"] != other["prompt"] for one, other in zip(train, test, strict=False)),
            "the two sets of prompts merely differ; one shared prompt is already too many.":
                lambda train, test: {each["prompt"] for each in train} != {each["prompt"] for each in test},
        },
        points=1,
    ),
    Exercise(
        "comparisons_needed", answers.comparisons_needed, [(0.6,), (0.52,), (0.3,), (0.9,)], ANSWERS + "comparisons_needed",
        {
            "half a comparison cannot be made: round up to a whole number.": lambda rate: needed(rate),
            "rounded down, the interval still touches one half: round up.": lambda rate: math.floor(needed(rate)),
            "the distance to one half must be squared: half the distance takes four times as many.":
                lambda rate: math.floor(needed(rate, gap=abs(rate - 0.5))) + 1,
            "1.96 must be squared too, once the root is gone.": lambda rate: math.floor(needed(rate, z=1.96**0.5)) + 1,
            "the distance is taken from 0; a coin wins one half.": lambda rate: math.floor(needed(rate, gap=rate**2)) + 1,
            "that is a coin's variance, one quarter; the interval uses rate (1 - rate).":
                lambda rate: math.floor(needed(rate, variance=0.25)) + 1,
            "the variance of a win is rate (1 - rate), not the rate itself.": lambda rate: math.floor(needed(rate, variance=rate)) + 1,
            "1.96 is left out: that is one standard error, an interval of 68%.": lambda rate: math.floor(needed(rate, z=1.0)) + 1,
            "that is for an interval as wide as the distance; each half of it may be as wide.":
                lambda rate: math.floor(needed(rate, gap=(rate - 0.5) ** 2 / 4)) + 1,
        },
    ),
)  # fmt: skip
