"""Exercises on where DPO puts the probability (notebook 14)."""

import torch
from torch.nn import functional as F

from alignlab import losses
from alignlab.lab import answers
from alignlab.lab.exercise import ANSWERS, FOUR, LOSSES, Exercise, random_normal


def dpop(c, r, rc, rr, beta, penalty, lost=lambda c, rc: F.relu(rc - c), price=lambda beta: beta):
    """DPOP with another idea of what was lost, or of its price."""
    logit = beta * ((c - rc) - (r - rr)) - price(beta) * penalty * lost(c, rc)
    return -F.logsigmoid(logit).mean()


def similarity(chosen, rejected, pooled=lambda states: states.mean(0), centred=1.0):
    c, r = pooled(chosen), pooled(rejected)
    return c @ r - centred * (c @ c)


def kto(lp, rlp, good, kl, beta, surplus=lambda ratio, kl: ratio - kl, value=torch.sigmoid, sign=lambda good, x: torch.where(good, x, -x)):
    return 1 - value(beta * sign(good, surplus(lp - rlp, kl))).mean()


def _only(kind, lp, rlp, good, kl, beta):
    """The same arguments for the answers of one kind."""
    return lp[good == kind], rlp[good == kind], good[good == kind], kl, beta


STATES = [(random_normal(4, 3, seed=51), random_normal(2, 3, seed=52)), (random_normal(1, 2, seed=53), random_normal(3, 2, seed=54))]
ANSWERS_OF_FIVE = (FOUR[0], FOUR[2], torch.tensor([True, False, True, True, False]))  # log-probs, the reference's, which are desirable

EXERCISES = (
    Exercise(
        "ches", answers.ches, STATES, ANSWERS + "ches",
        {
            "that is the similarity alone; subtract the chosen answer's product with itself.": lambda c, r: similarity(c, r, centred=0.0),
            "the sign: chosen times rejected comes first, and chosen times chosen is taken off.": lambda c, r: -similarity(c, r),
            "those are sums over tokens, which tell mostly which answer is longer; take means.":
                lambda c, r: similarity(c, r, lambda states: states.sum(0)),
            "that is the last token's state; take the mean over all tokens.": lambda c, r: similarity(c, r, lambda states: states[-1]),
            "that is a cosine; the two means keep their lengths here.":
                lambda c, r: F.cosine_similarity(c.mean(0), r.mean(0), dim=0),
            "the rejected answer's own product is subtracted; it is the chosen one's.": lambda c, r: similarity(r, c),
            "that is one number for each dimension; add them up, as a product of vectors does.":
                lambda c, r: c.mean(0) * (r.mean(0) - c.mean(0)),
            "that subtracts the length of the chosen mean; its square is meant, its product with itself.":
                lambda c, r: c.mean(0) @ r.mean(0) - c.mean(0).norm(),
        },
    ),
    Exercise(
        "dpop_loss", losses.dpop_loss, [(*FOUR, 0.1, 5.0), (*FOUR, 1.0, 0.5), (*FOUR, 0.5, 0.0)], LOSSES + "dpop_loss",
        {
            "the penalty is missing: that is DPO.": lambda c, r, rc, rr, b, p: dpop(c, r, rc, rr, b, 0.0),
            "a chosen answer that has gained is rewarded here; only a loss counts, so cut off at 0.":
                lambda c, r, rc, rr, b, p: dpop(c, r, rc, rr, b, p, lost=lambda c, rc: rc - c),
            "the penalty falls on what was gained; it is for chosen answers that became less likely.":
                lambda c, r, rc, rr, b, p: dpop(c, r, rc, rr, b, p, lost=lambda c, rc: F.relu(c - rc)),
            "the sign: a lost nat must lower what stands inside the sigmoid.": lambda c, r, rc, rr, b, p: dpop(c, r, rc, rr, b, -p),
            "beta must multiply the penalty too: it stands inside the sigmoid, beside the difference.":
                lambda c, r, rc, rr, b, p: dpop(c, r, rc, rr, b, p, price=lambda beta: 1.0),
            "the rejected answers are penalised; it is the chosen ones that must not be lost.":
                lambda c, r, rc, rr, b, p: -F.logsigmoid(b * ((c - rc) - (r - rr) - p * F.relu(rr - r))).mean(),
            "the penalty is added to the loss, outside the sigmoid; the paper has it inside.":
                lambda c, r, rc, rr, b, p: losses.dpo_loss(c, r, rc, rr, b) + b * p * F.relu(rc - c).mean(),
            "the penalty is the mean over pairs; each pair has its own.":
                lambda c, r, rc, rr, b, p: dpop(c, r, rc, rr, b, p, lost=lambda c, rc: F.relu(rc - c).mean()),
            "the minus sign is missing: that is a log-likelihood, which training would push down.":
                lambda c, r, rc, rr, b, p: -dpop(c, r, rc, rr, b, p),
        },
        points=3,
    ),
    Exercise(
        "kto_loss", losses.kto_loss, [(*ANSWERS_OF_FIVE, 0.7, 0.5), (*ANSWERS_OF_FIVE, 0.0, 2.0)], LOSSES + "kto_loss",
        {
            "the reference point is missing: a log-ratio is good or bad by how far it lies above or below kl.":
                lambda lp, rlp, good, kl, b: kto(lp, rlp, good, kl, b, surplus=lambda ratio, kl: ratio),
            "the reference point is added; it is taken off the log-ratio.":
                lambda lp, rlp, good, kl, b: kto(lp, rlp, good, kl, b, surplus=lambda ratio, kl: ratio + kl),
            "undesirable answers are pushed up like the others: turn the sign of theirs.":
                lambda lp, rlp, good, kl, b: kto(lp, rlp, good, kl, b, sign=lambda good, x: x),
            "that is the mean value, which should rise: the loss is 1 minus it. (Or the two kinds of answer changed places.)":
                lambda lp, rlp, good, kl, b: kto(lp, rlp, good, kl, b, sign=lambda good, x: torch.where(good, -x, x)),
            "for undesirable answers the sign is turned before kl is taken off; turn the whole difference.":
                lambda lp, rlp, good, kl, b: 1 - torch.sigmoid(b * (torch.where(good, lp - rlp, rlp - lp) - kl)).mean(),
            "that is DPO's -log sigmoid; KTO has the sigmoid itself, so that hopeless answers stop pulling.":
                lambda lp, rlp, good, kl, b: -F.logsigmoid(b * torch.where(good, lp - rlp - kl, kl - lp + rlp)).mean(),
            "the reference's log-probabilities are missing: the log-ratio is log pi - log pi_ref.":
                lambda lp, rlp, good, kl, b: kto(lp, torch.zeros_like(rlp), good, kl, b),
            "beta is missing.": lambda lp, rlp, good, kl, b: kto(lp, rlp, good, kl, 1.0),
            "beta multiplies the log-ratio alone; it multiplies the whole difference.":
                lambda lp, rlp, good, kl, b: kto(lp, rlp, good, kl / b, b),
            "each kind has a mean of its own here; the loss is the mean over all answers.":
                lambda *given: (kto(*_only(True, *given)) + kto(*_only(False, *given))) / 2,
        },
        points=3,
    ),
)  # fmt: skip
