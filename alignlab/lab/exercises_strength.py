"""Exercises on a policy's strength and on intervals over trainings (notebook 10)."""

import torch

from alignlab import exact
from alignlab.lab import answers
from alignlab.lab.exercise import ANSWERS, Exercise, random_normal

X, WEIGHT, A, B = random_normal(2, 4, seed=51), random_normal(3, 4, seed=52), random_normal(2, 4, seed=53), random_normal(3, 2, seed=54)
SHARPENED, START = random_normal(5, seed=55).log_softmax(-1), random_normal(5, seed=56).log_softmax(-1)
DIFFERENCES = torch.tensor([-0.31, -0.02, -0.17])


def layer(x, weight, a, b, alpha, strength, kept=1.0):
    """A layer that counts its own weights `kept` times."""
    return kept * x @ weight.T + strength * alpha / len(a) * (x @ a.T @ b.T)


def around(mean, half):
    return torch.stack([mean, mean - half, mean + half])


EXERCISES = (
    # 10 strength
    Exercise(
        "scaled_layer", answers.scaled_layer, [(X, WEIGHT, A, B, 8.0, 1.5), (X, WEIGHT, A, B, 2.0, 0.5), (X, WEIGHT, A, B, 8.0, 0.0)],
        ANSWERS + "scaled_layer",
        {
            "the layer's own weights are scaled too; strength counts the adapter alone, so that strength 0 is the reference.":
                lambda x, w, a, b, alpha, s: layer(x, w, a, b, alpha, s, kept=s),
            "the layer's own weights count 1 - strength times; in LoRA the adapter is added to them, and they stay as they are.":
                lambda x, w, a, b, alpha, s: layer(x, w, a, b, alpha, s, kept=1 - s),
            "both factors are scaled, so that strength counts squared.": lambda x, w, a, b, alpha, s: layer(x, w, a, b, alpha, s * s),
            "alpha is not divided by the rank, the number of A's rows.":
                lambda x, w, a, b, alpha, s: layer(x, w, a, b, alpha * len(a), s),
            "alpha / rank is left out.": lambda x, w, a, b, alpha, s: layer(x, w, a, b, len(a), s),
            "that is the adapter's part alone; it is added to the layer's own output.":
                lambda x, w, a, b, alpha, s: layer(x, w, a, b, alpha, s, kept=0.0),
            "strength is not used.": lambda x, w, a, b, alpha, s: layer(x, w, a, b, alpha, 1.0),
        },
    ),
    Exercise(
        "mixed_logps", exact.mixed_logps, [(SHARPENED, START, 2.0), (SHARPENED, START, 0.5), (START, SHARPENED, 1.5)],
        "from alignlab.exact import mixed_logps",
        {
            "the result is not normalised: its probabilities do not add up to 1.": lambda p, ref, s: (1 - s) * ref + s * p,
            "the weights changed places: at strength 0 this is the policy, not the reference.":
                lambda p, ref, s: ((1 - s) * p + s * ref).log_softmax(-1),
            "these are probabilities mixed; what is asked for is the mixture of log-probabilities.":
                lambda p, ref, s: ((1 - s) * ref.exp() + s * p.exp()).clamp(min=1e-9).log(),
            "the reference counts fully, beside the policy; its weight is 1 - strength, so that strength 1 is the policy.":
                lambda p, ref, s: (ref + s * p).log_softmax(-1),
            "the policy alone is sharpened; at strength 0 this is uniform, not the reference.":
                lambda p, ref, s: (s * p).log_softmax(-1),
            "those are probabilities; return their logarithms.": lambda p, ref, s: ((1 - s) * ref + s * p).softmax(-1),
        },
    ),
    Exercise(
        "seed_interval", answers.seed_interval, [(DIFFERENCES, 4.303), (-2 * DIFFERENCES, 4.303), (DIFFERENCES[:2], 12.706)],
        ANSWERS + "seed_interval",
        {
            "that is the spread of single trainings; the mean of S of them varies less, by the square root of S.":
                lambda d, t: around(d.mean(), t * d.std()),
            "divided by S, not by its square root.": lambda d, t: around(d.mean(), t * d.std() / len(d)),
            "1.96 holds for many trainings; with a few, their spread is itself uncertain, hence Student's larger quantile.":
                lambda d, t: around(d.mean(), 1.96 * d.std() / len(d) ** 0.5),
            "that standard deviation divides by S; with the mean taken from the same few numbers, divide by S - 1.":
                lambda d, t: around(d.mean(), t * d.std(correction=0) / len(d) ** 0.5),
            "those are the smallest and the largest training; with more trainings they move apart, while an interval shrinks.":
                lambda d, t: torch.stack([d.mean(), d.min(), d.max()]),
            "the ends changed places: mean, low end, high end.":
                lambda d, t: answers.seed_interval(d, t)[[0, 2, 1]],
        },
    ),
)
