"""Exercises on finding faults in training (notebook 15)."""

from collections.abc import Sequence
from functools import partial

import torch

from alignlab import losses
from alignlab.lab import answers, mystery
from alignlab.lab.exercise import ANSWERS, LOGPS, MASK, REF_LOGPS, SCORES, Exercise, random_normal, sum_rewards

BETA = 0.3
PAID = losses.shape_rewards(SCORES, LOGPS, REF_LOGPS, MASK, BETA)
GIVEN = (SCORES, LOGPS, REF_LOGPS, MASK, BETA)

PLAIN = (torch.tensor([1.0, -2.0, 0.5]), LOGPS, LOGPS, MASK, BETA)  # no KL, and sums without rounding


def on_the_last_column(scores, logps, ref_logps, mask, beta):
    """The score in the batch's last column, padding or not."""
    rewards = losses.masked(-beta * (logps - ref_logps), mask)
    rewards[:, -1] += scores
    return rewards


def exchanged(rewards):
    """Two rows' rewards changed by the same amount in opposite directions: the batch's total stays."""
    rewards = rewards.clone()
    rewards[0, 3] += 1.0
    rewards[1, 3] -= 1.0
    return rewards


def noise_outside(rewards):
    """Anything on prompt and padding, where no reward counts."""
    return rewards + (1 - MASK) * 2.5


def compares(rewards, scores, logps, ref_logps, mask, beta, sign=-1.0, masked=True, whole=False, exact=False, only_score=False):
    """`adds_up`, with one thing done otherwise."""
    paid = (losses.masked(rewards, mask) if masked else rewards).sum(-1)
    owed = scores if only_score else scores + sign * beta * losses.masked(logps - ref_logps, mask).sum(-1)
    gap = (paid - owed).sum() if whole else paid - owed
    return bool((gap == 0).all() if exact else (gap.abs() < 1e-4).all())


SPREAD = torch.tensor([[0.5, 0.9, 1.4, 1.6, 1.7, 1.9], [0.4, 1.0, 1.2, 1.3, 1.4, 1.2], [0.6, 0.8, 1.5, 1.9, 2.1, 2.3]])
COURSE = torch.tensor([0.5, 0.7, 0.6, 0.4, 0.3, 0.2])


def level(run, late):
    return run[..., -late:].mean(-1)


def departs(run, healthy, floor, part=3, absolute=False, correction=1, over_steps=False, floored=True, error=False):
    """`departure`, with one thing done otherwise."""
    late = max(1, run.shape[-1] // part)
    levels = level(healthy, late)
    spread = healthy.mean(0)[-late:].std() if over_steps and late > 1 else levels.std(correction=correction)
    spread = spread.clamp(min=floor) if floored else spread + floor
    gap = (level(run, late) - levels.mean()) / (spread / len(levels) ** 0.5 if error else spread)
    return gap.abs() if absolute else gap


def without_sides(seen):
    """A diagnosis from how far, whatever the side."""
    return mystery.diagnosis({key: abs(value) if isinstance(value, float) else value for key, value in seen.items()})


def by_reward_alone(seen):
    """Healthy, wherever reward and gold are."""
    fine = all(abs(seen[key]) < mystery.FAR for key in ("reward", "gold") if key in seen)
    return "healthy" if fine and seen["stage"] == "ppo" else mystery.diagnosis(seen)


class Mysteries(Sequence):
    """Cases of one argument each, what is seen of a recorded mystery; read when one is asked for, not when the exercises are listed."""

    def __len__(self) -> int:
        return len(mystery.NUMBERS)

    def __getitem__(self, at):
        return (mystery.observed(mystery.NUMBERS[at]),)


EXERCISES = [
    Exercise(
        "adds_up", answers.adds_up,
        [
            (PAID, *GIVEN), (sum_rewards(*GIVEN, sign=1.0), *GIVEN), (on_the_last_column(*GIVEN), *GIVEN), (exchanged(PAID), *GIVEN),
            (noise_outside(PAID), *GIVEN), (PAID + 1e-6, *GIVEN), (losses.masked(PAID + 0.01, MASK), *GIVEN),
            (sum_rewards(*GIVEN[:4], 0.0), *GIVEN), (sum_rewards(*PLAIN), *PLAIN),
        ],
        ANSWERS + "adds_up",
        {
            "rewards on prompt and padding are added as well. PPO never sees those, so a score paid there is lost: mask before the sum.":
                partial(compares, masked=False),
            "the whole batch is compared at once, and two rows that err in opposite directions cancel. Compare row by row.":
                partial(compares, whole=True),
            "`==` between floats: rounding alone makes it fail. Allow a small difference, such as 1e-4.":
                partial(compares, exact=True),
            "the sign of the KL: a row is owed its score *minus* beta times its log-ratio.": partial(compares, sign=1.0),
            "the KL is missing: rewards add up to the score minus beta times the log-ratio, not to the score alone.":
                partial(compares, only_score=True),
        },
    ),
    Exercise(
        "departure", answers.departure,
        [
            (COURSE, SPREAD, 0.1), (COURSE + 2, SPREAD, 0.5), (random_normal(9, seed=61), random_normal(4, 9, seed=62), 0.05),
            (torch.tensor([1.5]), torch.tensor([[1.0], [1.2], [1.1]]), 0.01),
        ],
        ANSWERS + "departure",
        {
            "the side is lost: below the healthy runs is another finding than above. Leave out the absolute value.":
                partial(departs, absolute=True),
            "the spread is divided by S instead of S - 1, which makes few runs look closer to each other than they are.":
                partial(departs, correction=0),
            "the whole course is averaged. Only the last third counts; every run begins at the same place.":
                partial(departs, part=1),
            "the spread is that of the steps. What has to be known is how far *runs* differ: take the deviation of the S levels.":
                partial(departs, over_steps=True),
            "the floor is added to the spread; it is only the least that the spread may be: `.clamp(min=floor)`.":
                partial(departs, floored=False),
            "the spread is divided by the square root of S. One run is compared with others, not with their mean's error.":
                partial(departs, error=True),
        },
    ),
    Exercise(
        "diagnosis", mystery.diagnosis, Mysteries(),
        "from alignlab.lab.mystery import diagnosis",
        {
            "reward and gold alone decide. A run can be sick while both look healthy: look at every departure before you say `healthy`.":
                by_reward_alone,
            "the sides are ignored: below the healthy runs is another finding than above.": without_sides,
        },
        points=4, against=mystery.against,
    ),
]  # fmt: skip
