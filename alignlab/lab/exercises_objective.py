"""Exercises on the reward model and the objective (notebooks 03 and 04)."""

import math

import torch
from torch.nn import functional as F

from alignlab import exact, losses
from alignlab.lab import answers
from alignlab.lab.exercise import ANSWERS, BAD, GOLD, GOOD, LOSSES, MASK, POLICY, REF, Exercise

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
        },
    ),
    Exercise(
        "last_token", losses.last_token, [(MASK,), (MASK[:2],)], LOSSES + "last_token",
        {
            "that is the number of completion tokens; the prompt stands before them.": lambda mask: mask.sum(-1) - 1,
            "that is the last column, which is padding for most rows.":
                lambda mask: torch.full((len(mask),), mask.shape[1] - 1),
            "that is the first completion token.": lambda mask: mask.argmax(-1),
        },
        points=1,
    ),
    Exercise(
        "skill", answers.skill, [(0.76, 0.82), (0.5, 0.8), (0.9, 0.9)], ANSWERS + "skill",
        {
            "a coin has accuracy one half and no skill; subtract it above and below.": lambda a, b: a / b,
            "the distance to the ceiling is what is missing, not what is there.": lambda a, b: b - a,
        },
        points=1,
    ),
    # 04 the objective
    Exercise(
        "tilted", answers.tilted, [(REF, GOLD, 1.0), (REF, GOLD, 0.2), (REF, -GOLD, 3.0)], ANSWERS + "tilted",
        {
            "it does not add up to one: divide by Z.": lambda ref, r, beta: ref * (r / beta).exp(),
            "beta divides the reward: a large beta tilts little.": lambda ref, r, beta: F.softmax(ref.log() + r * beta, -1),
            "the reference is missing: that is a softmax of rewards, which forgets what the language looks like.":
                lambda ref, r, beta: F.softmax(r / beta, -1),
        },
    ),
    Exercise(
        "kl", answers.kl, [(POLICY, REF), (REF, POLICY)], ANSWERS + "kl",
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
)  # fmt: skip
