"""Exercises on preferences and supervised fine-tuning (notebooks 01 and 02)."""

import math

import torch

from alignlab import losses
from alignlab.lab import answers
from alignlab.lab.exercise import ANSWERS, LOGITS, LOGPS, LOSSES, MASK, TOKENS, Exercise, logps_without_shift, mean_over_all

EXERCISES = (
    # 01 preferences
    Exercise(
        "preference_probability", answers.preference_probability, [(1.0, 1.0, 0.0), (-0.5, 0.5, 0.02), (2.0, 0.25, 0.2)],
        ANSWERS + "preference_probability",
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
        ANSWERS + "bayes_accuracy",
        {
            "that is the mean probability of A; the best judge says B where p is below one half.": lambda p: p.mean(),
            "max of the mean is not the mean of the max: the judge decides pair by pair.":
                lambda p: torch.maximum(p.mean(), 1 - p.mean()),
        },
    ),
    # 02 supervised fine-tuning
    Exercise(
        "token_logps", losses.token_logps, [(LOGITS, TOKENS), (10 * LOGITS[:1], TOKENS[:1])], LOSSES + "token_logps",
        {
            "the shift by one: the logits at t predict the token at t + 1.": logps_without_shift,
            "the result must have a column for every token, 0 for the first, so that it lies beside ids.":
                lambda logits, ids: losses.token_logps(logits, ids)[:, 1:],
            "those are probabilities; take the logarithm.": lambda logits, ids: losses.token_logps(logits, ids).exp(),
        },
    ),
    Exercise(
        "completion_mask", answers.completion_mask, [(3, 7, 9), (1, 4, 4), (2, 3, 6)], ANSWERS + "completion_mask",
        {
            "prompt tokens count as well here; a model that learns to write prompts learns the wrong thing.":
                lambda p, n, w: (torch.arange(w) < n).long(),
            "padding counts here; the model would learn to write padding.": lambda p, n, w: (torch.arange(w) >= p).long(),
            "EOS is left out, so the model never learns to stop.":
                lambda p, n, w: ((torch.arange(w) >= p) & (torch.arange(w) < n - 1)).long(),
        },
    ),
    Exercise(
        "sft_loss", losses.sft_loss, [(LOGPS, MASK), (LOGPS[:1], MASK[:1])], LOSSES + "sft_loss",
        {
            "an unmasked mean: prompt and padding tokens count in the denominator.": lambda logps, mask: -mean_over_all(logps, mask),
            "the sign: a loss falls as the likelihood rises.": lambda logps, mask: losses.masked_mean(logps, mask),
            "the mean of the rows' means gives a token of a short answer more weight than one of a long answer.":
                lambda logps, mask: -((logps * mask).sum(-1) / mask.sum(-1)).mean(),
            "prompt tokens and padding are in it; use the mask.": lambda logps, mask: -logps.mean(),
        },
    ),
)  # fmt: skip
