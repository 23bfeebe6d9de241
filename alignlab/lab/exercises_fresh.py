"""Exercises on fresh pairs, RLOO and the noise of gradients (notebook 13)."""

from alignlab import losses
from alignlab.lab import answers
from alignlab.lab.exercise import ANSWERS, LOSSES, Exercise, random_normal

SCORES, REWARDS = random_normal(4, 5, seed=57), random_normal(6, seed=58)
GRADIENTS = 0.5 + random_normal(6, 3, seed=59)


def leave_one_out(rewards, answers, others=True, scale=1.0):
    rows = rewards.view(-1, answers)
    baseline = (rows.sum(-1, keepdim=True) - rows) / (answers - 1) if others else rows.mean(-1, keepdim=True)
    return ((rows - baseline) * scale).flatten()


def ratio(gradients, noise_off=True, correction=1):
    variance = gradients.var(0, correction=correction).sum()
    return variance / (gradients.mean(0).square().sum() - noise_off * variance / len(gradients))


EXERCISES = (
    Exercise(
        "best_and_worst", answers.best_and_worst, [(SCORES,), (-SCORES,)], ANSWERS + "best_and_worst",
        {
            "those are scores; return the positions.": lambda s: (s.max(-1).values, s.min(-1).values),
            "best and worst changed places.": lambda s: (s.argmin(-1), s.argmax(-1)),
            "that compares the prompts of each column; compare the answers of each row.": lambda s: (s.argmax(0), s.argmin(0)),
            "the worst is the lowest score, not the one after the best.": lambda s: (s.argmax(-1), s.argsort(-1, descending=True)[:, 1]),
        },
        points=1,
    ),
    Exercise(
        "rloo_advantages", losses.rloo_advantages, [(REWARDS, 3), (REWARDS, 2), (-REWARDS, 6)], LOSSES + "rloo_advantages",
        {
            "the mean holds the answer's own reward; leave it out.": lambda r, k: leave_one_out(r, k, others=False),
            "the mean is over the whole batch, not over the other answers to the prompt.": lambda r, k: r - r.mean(),
            "the sum of the others is divided by all the answers, its own included.":
                lambda r, k: (r.view(-1, k) - (r.view(-1, k).sum(-1, keepdim=True) - r.view(-1, k)) / k).flatten(),
            "the sign: an answer better than the others has an advantage above 0.": lambda r, k: leave_one_out(r, k, scale=-1.0),
            "divided by the prompt's standard deviation too: that is GRPO's; RLOO leaves the units alone.":
                lambda r, k: ((r.view(-1, k) - r.view(-1, k).mean(-1, keepdim=True)) / r.view(-1, k).std(-1, keepdim=True)).flatten(),
            "neighbours answer the same prompt: a row is `answers` in a row, not a column of them.":
                lambda r, k: leave_one_out(r.view(k, -1).T.flatten(), k).view(-1, k).T.flatten(),
        },
    ),
    Exercise(
        "noise_ratio", answers.noise_ratio, [(GRADIENTS,), (GRADIENTS[:4],), (2 * GRADIENTS,)], ANSWERS + "noise_ratio",
        {
            "the mean of M gradients still holds noise: take off the variance over M.": lambda g: ratio(g, noise_off=False),
            "upside down: variance over signal.": lambda g: 1 / ratio(g),
            "the variance divides by M; with the mean taken from the same gradients, divide by M - 1.": lambda g: ratio(g, correction=0),
            "the variance is a sum over the weights, not their mean.":
                lambda g: g.var(0).mean() / (g.mean(0).square().sum() - g.var(0).sum() / len(g)),
            "a standard deviation over a length; both are squared.": lambda g: ratio(g).sqrt(),
            "the variance of a single gradient, not of the mean of M of them.": lambda g: ratio(g) / len(g),
        },
        points=3,
    ),
)  # fmt: skip
