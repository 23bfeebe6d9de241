"""Exercises on over-optimisation (notebook 11)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from alignlab.lab import answers
from alignlab.lab.exercise import ANSWERS, Exercise, random_normal

DISTANCE = torch.tensor([0.4, 0.9, 1.5, 2.2, 3.1, 4.3])
GAIN = torch.tensor([0.35, 0.8, 1.05, 1.2, 0.9, -0.3])
RISE = torch.tensor([0.0, 1.0, 1.6, 1.5, 0.4])[:, None]
COURSES = [(random_normal(5, 8, seed=seed) + RISE,) for seed in (71, 72, 73)]
RUNS = [
    ([3, 1, None, 6, 4, 2], [2, 2, 3, 2, 3, 2], [5, 5, 6, 4, None, 2]),
    ([None, 2, 7, 3, None], [1, 2, 2, 1, 2], [4, 6, 6, 3, None]),
    ([1, 5, 4], [1, 3, 5], [4, None, 6]),
]


def fitted(distance: Tensor, gain: Tensor, log: bool, sign: float = -1.0, by_row: bool = False, constant: bool = False) -> Tensor:
    """A fit with one thing or another done differently."""
    bent = distance.log() if log else distance
    columns = [torch.ones_like(bent), sign * bent] if by_row else [distance, sign * distance * bent]
    if constant:
        columns.append(torch.ones_like(distance))
    return torch.linalg.lstsq(torch.stack(columns, -1), (gain / distance if by_row else gain)[:, None]).solution.squeeze(-1)[:2]


def changed(gold: Tensor, chosen_by: Callable[[int], slice], measured_on: Callable[[int], slice], end: int | None = -1) -> Tensor:
    """The last look, or where `end` is None the lowest, minus the peak of some prompts, measured on others."""
    change = torch.empty_like(gold[0])
    for half in (0, 1):
        peak = gold[:, chosen_by(half)].mean(-1).argmax()
        last = gold[:, measured_on(half)].mean(-1).argmin() if end is None else end
        change[measured_on(half)] = gold[last, measured_on(half)] - gold[peak, measured_on(half)]
    return change


def every_other(half: int) -> slice:
    return slice(half, None, 2)


def told(rang: Sequence, begins: Sequence, sure: Sequence, early: bool = False, late: bool = False) -> list[bool]:
    """Whether each run's alarm counts, with early or late ones among them."""
    return [
        at is not None and end is not None and (early or start <= at) and (late or at <= end)
        for at, start, end in zip(rang, begins, sure, strict=True)
    ]  # fmt: skip


def shares(good: Sequence[bool], alarms: float, falls: float) -> tuple[float, float]:
    return sum(good) / alarms if alarms else 0.0, sum(good) / falls if falls else 0.0


def there(column: Sequence) -> int:
    """How many of them are not None."""
    return sum(each is not None for each in column)


EXERCISES = (
    Exercise(
        "overoptimisation_fit", answers.overoptimisation_fit,
        [(DISTANCE, GAIN, False), (DISTANCE, GAIN, True), (DISTANCE[1:], GAIN[1:], True)], ANSWERS + "overoptimisation_fit",
        {
            "b comes out with the wrong sign: both forms subtract it, so its column is negative.":
                lambda d, g, log: fitted(d, g, log, sign=1.0),
            "R / d was fitted: it blows up the errors of the first looks; fit R itself, with d in both columns.":
                lambda d, g, log: fitted(d, g, log, by_row=True),
            "a third column lets the curve miss the SFT model, whose gain is 0 by definition.":
                lambda d, g, log: fitted(d, g, log, constant=True),
            "`log` is not looked at: that is always the form with b d.": lambda d, g, log: fitted(d, g, False),
            "`log` is the wrong way round.": lambda d, g, log: fitted(d, g, not log),
            "d is the square root of KL already; it was squared, or its root was taken once more.":
                lambda d, g, log: fitted(d.sqrt(), g, log),
            "a and b changed places.": lambda d, g, log: fitted(d, g, log).flip(0),
        },
        points=3,
    ),
    Exercise(
        "fall_from_peak", answers.fall_from_peak, COURSES, ANSWERS + "fall_from_peak",
        {
            "the same prompts choose the peak and measure the fall: the highest look was lucky on them, so every curve seems to fall.":
                lambda gold: gold[-1] - gold[gold.mean(-1).argmax()],
            "each half is measured at its own peak; measure it at the peak of the other half.":
                lambda gold: changed(gold, every_other, every_other),
            "each prompt has a peak of its own here, the luckiest choice of all; choose by the mean over half of the prompts.":
                lambda gold: gold[-1] - gold.max(0).values,
            "the sign: a fall is a change below 0, so the last look comes first.": lambda gold: -answers.fall_from_peak(gold),
            "the halves are the first and the second half of the prompts; those with an even and with an odd number are asked for.":
                lambda gold: changed(gold, lambda half: slice(0, 4) if half else slice(4, 8),
                                     lambda half: slice(4, 8) if half else slice(0, 4)),
            "that is the change since the first look; the fall begins at the peak.": lambda gold: gold[-1] - gold[0],
            "the lowest look is as lucky as the highest; the change goes to the last one.":
                lambda gold: changed(gold, lambda half: slice(1 - half, None, 2), every_other, end=None),
            "that is the mean fall; one number for each prompt is asked for, so that an interval over prompts can be drawn.":
                lambda gold: answers.fall_from_peak(gold).mean(),
        },
        points=3,
    ),
    Exercise(
        "precision_recall", answers.precision_recall, RUNS, ANSWERS + "precision_recall",
        {
            "alarms that came after gold had surely fallen are counted as in time.":
                lambda r, b, s: shares(told(r, b, s, late=True), there(r), there(s)),
            "alarms that came too early are counted as in time: one that rings at once would be perfect.":
                lambda r, b, s: shares(told(r, b, s, early=True), there(r), there(s)),
            "every alarm in a run that falls is counted, however early or late.":
                lambda r, b, s: shares(told(r, b, s, early=True, late=True), there(r), there(s)),
            "precision is a share of the alarms, not of the runs.": lambda r, b, s: shares(told(r, b, s), len(r), there(s)),
            "recall is a share of the runs that fall, not of all runs.": lambda r, b, s: shares(told(r, b, s), there(r), len(s)),
            "both are shares of all runs here; precision is one of the alarms, recall one of the falls.":
                lambda r, b, s: shares(told(r, b, s), len(r), len(s)),
            "alarms in runs that never fall are left out of precision; they are its false alarms.":
                lambda r, b, s: shares(told(r, b, s), sum(x is not None and y is not None for x, y in zip(r, s, strict=True)), there(s)),
            "recall leaves out the falls without an alarm; those are the ones that were missed.":
                lambda r, b, s: shares(told(r, b, s), there(r), sum(x is not None and y is not None for x, y in zip(r, s, strict=True))),
            "an alarm at the first or at the last look allowed is in time as well.":
                lambda r, b, s: shares([x is not None and z is not None and y < x < z for x, y, z in zip(r, b, s, strict=True)],
                                       there(r), there(s)),
        },
        points=3,
    ),
)  # fmt: skip
