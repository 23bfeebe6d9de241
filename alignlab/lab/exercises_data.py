"""Exercises on preferences and supervised fine-tuning (notebooks 01 and 02)."""

import math

import torch
from torch.nn import functional as F

from alignlab import losses
from alignlab.lab import answers
from alignlab.lab.exercise import ANSWERS, LOGITS, LOGPS, LOSSES, MASK, TOKENS, Exercise, logps_without_shift, mean_over_all

COUNTS = [(torch.tensor([6.0, 3.0, 1.0]),), (torch.tensor([4.0, 0.0, 4.0, 8.0]),), (torch.tensor([0.0, 5.0]),)]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def entropy(shares, log=torch.log):
    return -torch.where(shares > 0, shares * log(shares), 0.0)


def shares(counts):
    return counts / counts.sum()


def positions(mask):
    return torch.arange(mask.shape[1]).expand(mask.shape)


EXERCISES = (
    # 01 preferences
    Exercise(
        "preference_probability", answers.preference_probability, [(1.0, 1.0, 0.0), (-0.5, 0.5, 0.02), (2.0, 0.25, 0.2)],
        ANSWERS + "preference_probability",
        {
            "the temperature divides the difference: the higher it is, the less a difference is noticed. Here it multiplies.":
                lambda d, t, f: f + (1 - 2 * f) * sigmoid(d * t),
            "the temperature is not used, so this annotator notices every difference equally well.":
                lambda d, t, f: f + (1 - 2 * f) * sigmoid(d),
            "the flips are left out: a flipped label can go against any difference, so P stays between flip and 1 - flip.":
                lambda d, t, f: sigmoid(d / t),
            "the factor must be 1 - 2 flip. With 1 - flip the lower end is right, but the upper end is 1, as if flips only ever helped A.":
                lambda d, t, f: f + (1 - f) * sigmoid(d / t),
            "A also wins when B was preferred and the label was flipped; that chance is left out.":
                lambda d, t, f: (1 - f) * sigmoid(d / t),
            "that stretches from 0 to 1 - 2 flip; add flip, so that it is centred on one half.":
                lambda d, t, f: (1 - 2 * f) * sigmoid(d / t),
            "the flip belongs outside the sigmoid: it changes the label, not the difference.":
                lambda d, t, f: sigmoid((1 - 2 * f) * d / t + f),
            "the sign: a positive difference means that A is better, so P should be above one half.":
                lambda d, t, f: f + (1 - 2 * f) * sigmoid(-d / t),
        },
    ),
    Exercise(
        "bayes_accuracy", answers.bayes_accuracy, [(torch.tensor([0.9, 0.2, 0.5]),), (torch.tensor([0.1, 0.3]),)],
        ANSWERS + "bayes_accuracy",
        {
            "that is the mean probability of A, the accuracy of always saying A; the best judge says B where p is below one half.":
                lambda p: p.mean(),
            "max of the mean is not the mean of the max: the judge decides pair by pair.":
                lambda p: torch.maximum(p.mean(), 1 - p.mean()),
            "that is the worst judge, who always names the less likely answer.": lambda p: torch.minimum(p, 1 - p).mean(),
            "that is the one easiest pair; average over all pairs.": lambda p: torch.maximum(p, 1 - p).max(),
            "that counts the pairs on which A is the better guess; how often that guess is right is still to be averaged.":
                lambda p: (p > 0.5).float().mean(),
            "that is how often two labels of the same pair agree, p squared plus (1 - p) squared; the best judge never draws lots.":
                lambda p: (p**2 + (1 - p) ** 2).mean(),
            "that is the distance from a coin, and the coin's own half is missing.": lambda p: (p - 0.5).abs().mean(),
            "the sum over pairs is a number of pairs; an accuracy is their mean.": lambda p: torch.maximum(p, 1 - p).sum(),
        },
    ),
    Exercise(
        "ceiling_from_agreement", answers.ceiling_from_agreement, [(0.68,), (0.5,), (0.9,), (1.0,)], ANSWERS + "ceiling_from_agreement",
        {
            "that takes the agreement itself for the ceiling. Where two annotators waver, both can be wrong; the best judge does better.":
                lambda a: a,
            "p squared is the chance that both say A. They also agree when both say B.": lambda a: math.sqrt(a),
            "that is the other direction: the agreement of two annotators who each have this accuracy.":
                lambda a: a**2 + (1 - a) ** 2,
            "that is the smaller root, the probability of the answer that is preferred less often.":
                lambda a: 0.5 - math.sqrt((a - 0.5) / 2),
            "the square has a factor of 2 in front: p squared + (1 - p) squared = 1 - 2p + 2p squared, so divide by 2 before the root.":
                lambda a: 0.5 + math.sqrt(a - 0.5),
            "the root of 2a - 1 must still be halved; see that full agreement gives a ceiling of 1.":
                lambda a: 0.5 + math.sqrt(2 * a - 1),
            "the root is missing: doubt that costs little agreement costs much accuracy, so this is no straight line.":
                lambda a: 0.5 + (a - 0.5) / 2,
            "that is agreement beyond chance, on a scale where a coin has 0; it is not an accuracy.": lambda a: 2 * a - 1,
        },
    ),
    # 02 supervised fine-tuning
    Exercise(
        "token_logps", losses.token_logps, [(LOGITS, TOKENS), (10 * LOGITS[:1], TOKENS[:1])], LOSSES + "token_logps",
        {
            "the shift by one is missing: the logits at t predict the token at t + 1.": logps_without_shift,
            "the shift goes the wrong way: the logits at t predict the token at t + 1, not the one at t - 1.":
                lambda logits, ids: F.pad(losses.picked_logps(logits[:, 1:], ids[:, :-1]), (1, 0)),
            "the result must have a column for every token, 0 for the first, so that it lies beside ids.":
                lambda logits, ids: losses.token_logps(logits, ids)[:, 1:],
            "the column of zeros is on the wrong side: the first token is the one that nothing predicts.":
                lambda logits, ids: F.pad(losses.token_logps(logits, ids)[:, 1:], (0, 1)),
            "those are probabilities; take the logarithm.":
                lambda logits, ids: F.pad(losses.token_logps(logits, ids)[:, 1:].exp(), (1, 0)),
            "those are the logits themselves; log_softmax makes log-probabilities of them.":
                lambda logits, ids: F.pad(logits[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1), (1, 0)),
            "the softmax runs over the positions; it must run over the vocabulary, the last dimension.":
                lambda logits, ids: F.pad(logits.log_softmax(1)[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1), (1, 0)),
            "those are the log-probabilities of the likeliest tokens; gather those of ids.":
                lambda logits, ids: F.pad(logits.log_softmax(-1)[:, :-1].max(-1).values, (1, 0)),
            "the sign: a log-probability is at most 0. The minus belongs to the loss.":
                lambda logits, ids: -losses.token_logps(logits, ids),
        },
    ),
    Exercise(
        "completion_mask", answers.completion_mask, [(3, 7, 9), (1, 4, 4), (2, 3, 6)], ANSWERS + "completion_mask",
        {
            "prompt tokens count as well here; a model that learns to write prompts learns the wrong thing.":
                lambda p, n, w: (torch.arange(w) < n).long(),
            "padding counts here; the model would learn to write padding.": lambda p, n, w: (torch.arange(w) >= p).long(),
            "EOS is left out, so the model never learns to stop. The last completion token is at length - 1.":
                lambda p, n, w: ((torch.arange(w) >= p) & (torch.arange(w) < n - 1)).long(),
            "the first completion token is left out. Positions count from 0, so a prompt of p tokens ends at p - 1.":
                lambda p, n, w: ((torch.arange(w) > p) & (torch.arange(w) < n)).long(),
            "one prompt token too many. Positions count from 0, so the completion begins at prompt_length.":
                lambda p, n, w: ((torch.arange(w) >= p - 1) & (torch.arange(w) < n)).long(),
            "one place too many: the row's tokens end at length - 1, and the next is padding.":
                lambda p, n, w: ((torch.arange(w) >= p) & (torch.arange(w) <= n)).long(),
            "`length` counts prompt and completion together; here it is taken for the completion's length.":
                lambda p, n, w: ((torch.arange(w) >= p) & (torch.arange(w) < p + n)).long(),
            "that is upside down: 1 is for tokens that count, 0 for the others.":
                lambda p, n, w: ((torch.arange(w) < p) | (torch.arange(w) >= n)).long(),
            "that is the prompt; the completion is what follows it.": lambda p, n, w: (torch.arange(w) < p).long(),
        },
    ),
    Exercise(
        "sft_loss", losses.sft_loss, [(LOGPS, MASK), (LOGPS[:1], MASK[:1])], LOSSES + "sft_loss",
        {
            "the mask is in the sum but not in the denominator, which also counts prompt and padding.":
                lambda logps, mask: -mean_over_all(logps, mask),
            "the sign: a loss falls as the likelihood rises.": lambda logps, mask: losses.masked_mean(logps, mask),
            "the mean of the rows' means gives a token of a short answer more weight than one of a long answer.":
                lambda logps, mask: -((logps * mask).sum(-1) / mask.sum(-1)).mean(),
            "prompt tokens and padding are in it; use the mask.": lambda logps, mask: -logps.mean(),
            "that is a sum; divide by the number of tokens that count, so that a larger batch makes no larger step.":
                lambda logps, mask: -(logps * mask).sum(),
            "that divides by the number of rows, so a long answer weighs more; divide by the number of tokens that count.":
                lambda logps, mask: -(logps * mask).sum() / len(mask),
            "the denominator has the mask and the sum has not: prompt and padding are in the sum.":
                lambda logps, mask: -logps.sum() / mask.sum(),
            "that is the perplexity, exp(loss).": lambda logps, mask: (-losses.masked_mean(logps, mask)).exp(),
            "the logarithm was taken twice over: token_logps are log-probabilities already.":
                lambda logps, mask: -losses.masked_mean(logps.exp(), mask),
        },
    ),
    Exercise(
        "prompt_mask", answers.prompt_mask, [(MASK,), (MASK[:2],), (torch.tensor([[0, 0, 0, 1, 0]]),)], ANSWERS + "prompt_mask",
        {
            "padding is in it: a 0 of the mask is a prompt token only if the completion is still to come.": lambda mask: 1 - mask,
            "padding is in it, though the first column is rightly out: a 0 is a prompt token only if the completion is still to come.":
                lambda mask: (1 - mask) * (positions(mask) > 0),
            "the first column is in it; nothing predicts the first token, so its log-probability is a 0 that means nothing.":
                lambda mask: (mask.cumsum(-1) == 0).long(),
            "the first completion token is in it: where the running sum is 1, the completion has begun.":
                lambda mask: ((mask.cumsum(-1) <= 1) & (positions(mask) > 0)).long(),
            "the last prompt token is missing.":
                lambda mask: ((positions(mask) > 0) & (positions(mask) < mask.argmax(-1, keepdim=True) - 1)).long(),
            "that is the padding: the sum has to run from the left.": lambda mask: (mask.flip(-1).cumsum(-1).flip(-1) == 0).long(),
            "every row has the first row's prompt here; prompts have different lengths.":
                lambda mask: ((positions(mask) > 0) & (positions(mask) < mask[0].argmax())).long(),
            "that is everything up to the end token; the completion itself must be out.":
                lambda mask: ((positions(mask) > 0) & (positions(mask) <= losses.last_token(mask)[:, None])).long(),
        },
    ),
    Exercise(
        "best_imitation", answers.best_imitation, COUNTS, ANSWERS + "best_imitation",
        {
            "that bets everything on the most frequent answer. Its loss is not 0: every other answer that was shown is impossible to it.":
                lambda counts: (F.one_hot(counts.argmax(), len(counts)).float(), torch.tensor(0.0)),
            "the shares are right. A loss of 0 would need every demonstration to have probability 1, and they are not all the same.":
                lambda counts: (shares(counts), torch.tensor(0.0)),
            "a softmax of counts is far too sure: one demonstration more would multiply the odds by e.":
                lambda counts: (counts.softmax(-1), entropy(counts.softmax(-1)).sum()),
            "all answers alike is what a model believes that saw no demonstration.":
                lambda counts: (torch.full_like(counts, 1 / len(counts)), torch.tensor(float(len(counts))).log()),
            "counts are not probabilities yet; divide by their sum.": lambda counts: (counts, entropy(shares(counts)).sum()),
            "the shares are right; the loss is in bits, and nats are asked for: use the natural logarithm.":
                lambda counts: (shares(counts), entropy(shares(counts), torch.log2).sum()),
            "the shares are right; the loss is a mean over demonstrations, and this is their sum.":
                lambda counts: (shares(counts), counts.sum() * entropy(shares(counts)).sum()),
            "the shares are right; the loss averages over demonstrations, not over the N answers: a frequent answer counts more often.":
                lambda counts: (shares(counts), entropy(shares(counts)).mean()),
            "the shares are right; the loss has the wrong sign. It is a mean of -log p, so it cannot be below 0.":
                lambda counts: (shares(counts), -entropy(shares(counts)).sum()),
            "the shares are right; the loss counts the likeliest answer alone, and the others were shown too.":
                lambda counts: (shares(counts), -shares(counts).max().log()),
        },
    ),
)  # fmt: skip
