"""Exercises on the reward model and the objective (notebooks 03 and 04)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from alignlab import exact, losses
from alignlab.lab import answers
from alignlab.lab.exercise import ANSWERS, BAD, GOLD, GOOD, LOSSES, MASK, POLICY, REF, Exercise, random_normal

MARGINS = torch.tensor([2.0, -0.5, 20.0, 0.3, -1.2, 0.6, 3.5, -0.9])
LONGER = torch.tensor([4, -2, 1, 0, 3, -7, 2, 5])
DRAWN, WORTH = random_normal(2, 6, seed=44), random_normal(2, 6, seed=45)
FRONTIER = [[0.0, 1.0], [0.5, 2.0], [1.0, 2.6], [2.0, 3.4], [3.0, 3.8]]  # [kl, gold]
REACH = [[0.0, 1.0], [0.4, 1.6], [1.2, 2.2], [2.4, 2.8]]


def best_of(picked_by: Tensor, values: Tensor, n: int) -> Tensor:
    """The mean of the values at the largest `picked_by` of n neighbours."""
    groups = picked_by.reshape(len(picked_by), -1, n)
    return values.reshape(groups.shape).gather(-1, groups.argmax(-1, keepdim=True)).mean()


def table_by(confidence: Tensor, right: Tensor, bins: int, low: float = 0.5) -> Tensor:
    """A calibration table of that confidence, in bins from `low` to 1."""
    index = ((confidence - low) / (1 - low) * bins).long().clamp(0, bins - 1)
    rows = [confidence.new_tensor([len(at), confidence[at].sum(), right[at].float().sum()]) for i in range(bins)
            for at in [(index == i).nonzero().flatten()]]  # fmt: skip
    counts, *sums = torch.stack(rows).unbind(-1)
    return torch.stack([counts, *(each / counts.clamp(min=1) for each in sums)], -1)


def gains(kl: float, gold: float, start: float, frontier: list, reach: list) -> tuple[float, float, float]:
    """Of the frontier, of the reach and of the policy, at that KL."""
    return answers.read_off(frontier, kl) - start, answers.read_off(reach, kl) - start, gold - start


EXERCISES = (
    # 03 reward model
    Exercise(
        "preference_loss", losses.preference_loss, [(GOOD, BAD), (BAD, GOOD)], LOSSES + "preference_loss",
        {
            "chosen and rejected changed places: the loss would push the rejected up.": lambda c, r: -F.logsigmoid(r - c).mean(),
            "the mean over pairs, not the sum, so that the batch size does not change the step.":
                lambda c, r: -F.logsigmoid(c - r).sum(),
            "the sign: minus the log-likelihood.": lambda c, r: F.logsigmoid(c - r).mean(),
            "that is minus the probability; take its logarithm.": lambda c, r: -torch.sigmoid(c - r).mean(),
            "that is one loss for each pair; take their mean.": lambda c, r: -F.logsigmoid(c - r),
            "the logarithm of the mean is not the mean of the logarithms: take the logarithm pair by pair.":
                lambda c, r: -torch.sigmoid(c - r).mean().log(),
            "each score went through a sigmoid of its own; only their difference is a log-odds.":
                lambda c, r: -F.logsigmoid(c.sigmoid() - r.sigmoid()).mean(),
            "that is the mean difference of the scores: without the sigmoid's bend it could fall for ever.": lambda c, r: (r - c).mean(),
        },
    ),
    Exercise(
        "last_token", losses.last_token, [(MASK,), (MASK[:2],)], LOSSES + "last_token",
        {
            "that is the number of completion tokens, less one; the prompt stands before them.": lambda mask: mask.sum(-1) - 1,
            "that is the number of completion tokens; what is asked for is a position, and the prompt stands before them.":
                lambda mask: mask.sum(-1),
            "that is the last column, which is padding for most rows.":
                lambda mask: torch.full((len(mask),), mask.shape[1] - 1),
            "that is the first completion token.": lambda mask: mask.argmax(-1),
            "one too far: columns are counted from 0.": lambda mask: losses.last_token(mask) + 1,
            "the mask was turned around to find the last 1, but the position was not counted back from the end.":
                lambda mask: mask.flip(-1).argmax(-1),
            "that is the position in the whole batch, row after row; what is asked for is the column.":
                lambda mask: losses.last_token(mask) + mask.shape[1] * torch.arange(len(mask)),
        },
        points=1,
    ),
    Exercise(
        "skill", answers.skill, [(0.76, 0.82), (0.5, 0.8), (0.9, 0.9)], ANSWERS + "skill",
        {
            "a coin has accuracy one half and no skill; subtract it above and below.": lambda a, b: a / b,
            "the distance to the ceiling is what is missing, not what is there.": lambda a, b: b - a,
            "the coin is subtracted above, and not below: a perfect judge would not get 1.": lambda a, b: (a - 0.5) / b,
            "that is how far above a coin the judge got; divide by how far it is possible to get.": lambda a, b: a - 0.5,
            "the best that any judge can have here is `bayes`, not 1.": lambda a, b: (a - 0.5) / 0.5,
            "upside down: it must be 1 at most.": lambda a, b: (b - 0.5) / (a - 0.5) if a > 0.5 else math.inf,
        },
        points=1,
    ),
    Exercise(
        "calibration_table", answers.calibration_table, [(MARGINS, 5), (-MARGINS, 2), (MARGINS[:4], 1)], ANSWERS + "calibration_table",
        {
            "that is the chance of the chosen answer, which may lie below one half; the confidence is that of the answer which the judge "
            "prefers.": lambda m, bins: table_by(m.sigmoid(), m > 0, bins),
            "the bins run from 0 to 1 here, but no confidence is below one half.":
                lambda m, bins: table_by(m.abs().sigmoid(), m > 0, bins, low=0.0),
            "the last column counts the pairs that were right; divide by the number of pairs in the bin.":
                lambda m, bins: answers.calibration_table(m, bins) * torch.stack(
                    [torch.ones(bins), torch.ones(bins), answers.calibration_table(m, bins)[:, 0]], -1),
            "the first column is a share; what is asked for is the number of pairs, which says how far to trust the row.":
                lambda m, bins: answers.calibration_table(m, bins) / torch.tensor([len(m), 1, 1]),
            "the last two columns changed places: mean confidence first, then the share that was right.":
                lambda m, bins: answers.calibration_table(m, bins)[:, [0, 2, 1]],
            "the middle column holds the bins' middles; it should hold the mean confidence of the pairs that fell into them.":
                lambda m, bins: torch.where(answers.calibration_table(m, bins)[:, :1] > 0, torch.stack(
                    [answers.calibration_table(m, bins)[:, 0], 0.5 + (torch.arange(bins) + 0.5) / (2 * bins),
                     answers.calibration_table(m, bins)[:, 2]], -1), 0.0),
            "every pair is counted as right: the judge is right where its margin is above 0.":
                lambda m, bins: table_by(m.abs().sigmoid(), torch.ones_like(m), bins),
        },
        points=3,
    ),
    Exercise(
        "length_controlled_accuracy", answers.length_controlled_accuracy,
        [(MARGINS, LONGER), (-MARGINS, LONGER), (MARGINS, LONGER.flip(0))],
        ANSWERS + "length_controlled_accuracy",
        {
            "that is the plain accuracy; `longer` is not used.": lambda m, longer: losses.accuracy(m),
            "pairs of equal length are left out, but the two groups still count by their size; give each group the same weight.":
                lambda m, longer: losses.accuracy(m[longer != 0]),
            "only the pairs whose chosen answer is the longer one are in it.": lambda m, longer: losses.accuracy(m[longer > 0]),
            "only the pairs whose chosen answer is the shorter one are in it.": lambda m, longer: losses.accuracy(m[longer < 0]),
            "pairs of equal length are in one of the groups; they say nothing about length, so leave them out.":
                lambda m, longer: (losses.accuracy(m[longer >= 0]) + losses.accuracy(m[longer < 0])) / 2,
            "pairs of equal length are in one of the groups, with the shorter ones; they say nothing about length, so leave them out.":
                lambda m, longer: (losses.accuracy(m[longer > 0]) + losses.accuracy(m[longer <= 0])) / 2,
            "pairs of equal length are a third group here; they say nothing about length, so leave them out.":
                lambda m, longer: torch.stack([losses.accuracy(m[longer.sign() == side]) for side in (-1, 0, 1)]).mean(),
            "the two accuracies are added; take their mean.": lambda m, longer: 2 * answers.length_controlled_accuracy(m, longer),
            "their difference says whether the judge leans to the longer or the shorter answer; what is asked for is their mean.":
                lambda m, longer: losses.accuracy(m[longer > 0]) - losses.accuracy(m[longer < 0]),
            "those are mean margins; count the pairs whose margin is above 0.":
                lambda m, longer: (m[longer > 0].mean() + m[longer < 0].mean()) / 2,
        },
        points=3,
    ),
    # 04 the objective
    Exercise(
        "kl", answers.kl, [(POLICY, REF), (REF, POLICY)], ANSWERS + "kl",
        {
            "the direction: KL(pi, pi_ref) is a mean under pi, the policy.": lambda p, q: answers.kl(q, p),
            "the sign: log of policy over reference.": lambda p, q: -answers.kl(p, q),
            "a plain mean over responses; each counts with the policy's probability.": lambda p, q: (p / q).log().mean(),
            "the log-ratios are weighted by the reference; the mean is under the policy, which writes the answers.":
                lambda p, q: (q * (p / q).log()).sum(),
            "the log-ratios are summed as they are; weight each by the policy's probability.": lambda p, q: (p / q).log().sum(),
            "there is no logarithm in it.": lambda p, q: (p * (p / q)).sum(),
            "that is the cross-entropy, which lacks the policy's own log-probability.": lambda p, q: -(p * q.log()).sum(),
            "the mean was taken twice: weighting by the probabilities is the mean, so sum.": lambda p, q: (p * (p / q).log()).mean(),
            "that is in bits; nats need the natural logarithm.": lambda p, q: (p * (p / q).log2()).sum(),
        },
    ),
    Exercise(
        "tilted", answers.tilted, [(REF, GOLD, 1.0), (REF, GOLD, 0.2), (REF, -GOLD, 3.0)], ANSWERS + "tilted",
        {
            "it does not add up to one: divide by Z.": lambda ref, r, beta: ref * (r / beta).exp(),
            "beta divides the reward: a large beta tilts little.": lambda ref, r, beta: F.softmax(ref.log() + r * beta, -1),
            "the reference is missing: that is a softmax of rewards, which forgets what the language looks like.":
                lambda ref, r, beta: F.softmax(r / beta, -1),
            "beta is missing.": lambda ref, r, beta: F.softmax(ref.log() + r, -1),
            "the reference's probabilities stand in the exponent; their logarithms belong there.":
                lambda ref, r, beta: F.softmax(ref + r / beta, -1),
            "beta divides the log-probabilities as well; it belongs under the reward alone.":
                lambda ref, r, beta: F.softmax((ref.log() + r) / beta, -1),
            "those are log-probabilities; take the exponential.": lambda ref, r, beta: answers.tilted(ref, r, beta).log(),
            "the sign: the worst answers gain.": lambda ref, r, beta: answers.tilted(ref, -r, beta),
            "the reward multiplies the probability; its exponential should.": lambda ref, r, beta: ref * r / beta / (ref * r / beta).sum(),
        },
    ),
    Exercise(
        "best_value", answers.best_value, [(REF.log(), GOLD, 1.0), (REF.log(), -GOLD, 3.0), (REF.log(), GOLD, 0.02)],
        ANSWERS + "best_value",
        {
            "right on paper, but exp(r / beta) overflows where beta is small; `torch.logsumexp` does not.":
                lambda lp, r, beta: beta * (lp.exp() * (r / beta).exp()).sum().log(),
            "that is log Z, in nats; the objective is in units of reward. Which factor is missing?":
                lambda lp, r, beta: answers.best_value(lp, r, beta) / beta,
            "log Z is divided by beta; put pi* into the objective once more, and see where beta stands.":
                lambda lp, r, beta: answers.best_value(lp, r, beta) / beta**2,
            "that is the optimum's expected reward; the KL has not been paid.": lambda lp, r, beta: exact.tilt(r, beta, lp)[0],
            "the reference is missing: Z is a mean under pi_ref, not a sum over all answers.":
                lambda lp, r, beta: beta * torch.logsumexp(r / beta, -1),
            "that is the best reward there is; a policy that always gives that answer pays for its KL.":
                lambda lp, r, beta: r.max(),
            "that is what the reference earns; the optimum does better.": lambda lp, r, beta: (lp.exp() * r).sum(),
            "beta multiplies the reward in the exponent; it should divide it.":
                lambda lp, r, beta: beta * torch.logsumexp(lp + r * beta, -1),
            "the sum over answers was taken as a mean.": lambda lp, r, beta: answers.best_value(lp, r, beta) - beta * math.log(len(r)),
        },
        points=3,
    ),
    Exercise(
        "best_of_n_kl", exact.best_of_n_kl, [(1,), (4,), (16,)], "from alignlab.exact import best_of_n_kl",
        {
            "log n alone puts the best of n always in the top n-th of the answers; often it is a little below.": lambda n: math.log(n),
            "the second term is subtracted.": lambda n: math.log(n) + (n - 1) / n,
            "the mean of log u under the best of n is -1/n, and it stands in the KL n - 1 times.": lambda n: math.log(n) - 1 / n,
            "log u counts n - 1 times, not n times: best of 1 must have no KL.": lambda n: math.log(n) - 1,
            "that is in bits; nats need the natural logarithm.": lambda n: math.log2(n) - (n - 1) / n,
            "the mean is under the reference here; KL(best of n, reference) is a mean under best-of-n.": lambda n: math.log(n) - (n - 1),
            "the sign.": lambda n: (n - 1) / n - math.log(n),
        },
        points=2,
    ),
    Exercise(
        "implied_difference", answers.implied_difference,
        [(POLICY.log(), REF.log(), 0.5, 0, 3), (REF.log(), POLICY.log(), 2.0, torch.tensor([0, 1]), torch.tensor([2, 3]))],
        ANSWERS + "implied_difference",
        {
            "the reference is missing: an answer that was likely from the start would count as a good one.":
                lambda lp, rlp, beta, a, b: beta * (lp[a] - lp[b]),
            "beta is missing: the difference is in nats, and the reward has units of its own.":
                lambda lp, rlp, beta, a, b: answers.implied_difference(lp, rlp, 1.0, a, b),
            "beta divides here. Solve for r: it stood under the reward, so on the other side it multiplies.":
                lambda lp, rlp, beta, a, b: answers.implied_difference(lp, rlp, 1 / beta, a, b),
            "the sign: a and b changed places.": lambda lp, rlp, beta, a, b: answers.implied_difference(lp, rlp, beta, b, a),
            "the reference is added; log pi / pi_ref is a difference.": lambda lp, rlp, beta, a, b: beta * ((lp + rlp)[a] - (lp + rlp)[b]),
            "those are ratios of probabilities; the reward stands in the exponent, so take the logarithm.":
                lambda lp, rlp, beta, a, b: beta * ((lp - rlp).exp()[a] - (lp - rlp).exp()[b]),
            "the reference of b is missing: subtract each answer's own.": lambda lp, rlp, beta, a, b: beta * ((lp - rlp)[a] - lp[b]),
            "that is the implied reward of a alone, which is known up to a constant, beta log Z; only the difference is free of it.":
                lambda lp, rlp, beta, a, b: beta * (lp - rlp)[a],
        },
        points=3,
    ),
    Exercise(
        "best_of_n_value", answers.best_of_n_value, [(DRAWN, WORTH, 3), (WORTH, DRAWN, 2), (DRAWN, WORTH, 6)], ANSWERS + "best_of_n_value",
        {
            "that picks by `values`: a perfect judge. Only the scores may pick.": lambda s, v, n: best_of(v, v, n),
            "those are the scores of the kept answers, what the judge believes; what is asked for is their values.":
                lambda s, v, n: best_of(s, s, n),
            "one answer is kept of all N, whatever n is; keep one of each n.": lambda s, v, n: best_of(s, v, s.shape[1]),
            "the groups have N / n members; they should have n.": lambda s, v, n: best_of(s, v, s.shape[1] // n),
            "nothing is selected: that is the mean of all values.": lambda s, v, n: v.mean(),
            "the worst of each n is kept.": lambda s, v, n: best_of(-s, v, n),
            "only the first n answers to each prompt are used; there are N / n groups.": lambda s, v, n: best_of(s[:, :n], v[:, :n], n),
            "the groups run over the prompts: an answer may only compete with answers to the same prompt.":
                lambda s, v, n: best_of(s.T.reshape(1, -1), v.T.reshape(1, -1), n),
        },
        points=3,
    ),
    Exercise(
        "efficiencies", answers.efficiencies, [(1.0, 1.9, 1.0, FRONTIER, REACH), (1.7, 2.3, 1.0, FRONTIER, REACH)],
        ANSWERS + "efficiencies",
        {
            "gains are compared, not levels: subtract `start` above and below.":
                lambda kl, gold, start, f, r: answers.efficiencies(kl, gold, 0.0, f, r),
            "the second is the gold efficiency, which blames the optimiser for the judge's errors; the optimiser is measured against the "
            "reach.": lambda *x: (gains(*x)[1] / gains(*x)[0], gains(*x)[2] / gains(*x)[0]),
            "the first is upside down: the reach cannot lie above the frontier.":
                lambda *x: (gains(*x)[0] / gains(*x)[1], gains(*x)[2] / gains(*x)[1]),
            "the ends of the curves are compared; read each curve at the policy's own KL.":
                lambda kl, gold, start, f, r: ((r[-1][1] - start) / (f[-1][1] - start), (gold - start) / (r[-1][1] - start)),
            "those are the shares that are lost; what is asked for is what is kept.":
                lambda *x: (1 - gains(*x)[1] / gains(*x)[0], 1 - gains(*x)[2] / gains(*x)[1]),
            "the first is the gold efficiency; put the reach's gain, not the policy's, over the frontier's.":
                lambda *x: (gains(*x)[2] / gains(*x)[0], gains(*x)[2] / gains(*x)[1]),
            "those are differences; what is asked for are ratios.":
                lambda *x: (gains(*x)[0] - gains(*x)[1], gains(*x)[1] - gains(*x)[2]),
            "the curves are read at their nearest point; between two points follow the straight line.":
                lambda kl, gold, start, f, r: answers.efficiencies(
                    kl, gold, start, [[kl, min(f, key=lambda p: abs(p[0] - kl))[1]]], [[kl, min(r, key=lambda p: abs(p[0] - kl))[1]]]),
        },
        points=4,
    ),
)  # fmt: skip
