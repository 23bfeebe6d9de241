"""What a check cell does when nbgrader grades it: is the function the student's own, and is it right on numbers that nobody has seen?

`classroom` puts one line into each check cell of the instructor's copy, between nbgrader's marks for hidden tests.
"""

import contextlib
import inspect
import io
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import CodeType, FrameType

import torch
from torch import Tensor

import alignlab
from alignlab import losses
from alignlab.lab import answers, checks, mystery
from alignlab.lab.exercise import Exercise, Function

PACKAGE = str(Path(alignlab.__file__).parent)
GIVEN = {"masked", "masked_mean", "last_token"}  # of alignlab.losses: tools that any function may use, as the tasks' hints do
ALSO_GIVEN = {"ppo_losses": {"value_loss"}, "estimator_errors": {"kl_estimate"}, "length_controlled_accuracy": {"accuracy"}}
DRAWS = 3  # fresh inputs for each exercise


def points(name: str, function: Function) -> float:
    """The points of a student's function: those of its check, if it is neither imported nor made for the check's inputs alone."""
    if taken := imported(name, function):
        print(f"No points: alignlab's own {taken} is called. The exercise asks for code of your own.")
        return 0.0
    with contextlib.redirect_stdout(io.StringIO()):  # the line above has said it
        earned = checks.check(name, function)
    if earned < checks.EXERCISES[name].points:
        return earned
    print("On fresh numbers:")
    return checks.judge(replace(checks.EXERCISES[name], cases=fresh_cases(name)), function)


# ---------------------------------------------------------------------------------------------- whose code is it?


def imported(name: str, function: Function) -> str | None:
    """The name of the package's function that does the work in a student's, or None.

    It is seen when it runs, so it does not matter how it was reached. A student's function may call other exercises' functions, which
    can be the package's after `checks.choose`, and the tools that are given.
    """
    exercise = checks.EXERCISES[name]
    others = {_code(other.answer) for other in checks.EXERCISES.values() if other.name != name}
    given = GIVEN | ALSO_GIVEN.get(name, set())
    workings = {code for code in _run(exercise, exercise.answer, entered=False) if code.co_name not in given}
    workings.add(_code(exercise.answer))
    for code in _run(exercise, function, entered=True):
        if code not in others and (code in workings or code.co_filename == answers.__file__):
            return code.co_name
    return None


def _run(exercise: Exercise, function: Function, entered: bool) -> list[CodeType]:
    """The package's functions that run within this one: all of them, or only those that code outside the package calls."""
    found: list[CodeType] = []

    def look(frame: FrameType, event: str, _) -> None:
        if event == "call" and _of_the_package(frame) and not (entered and any(map(_of_the_package, _above(frame)))):
            found.append(frame.f_code)

    before = sys.getprofile()
    for case in [checks.copied(case) for case in exercise.cases]:
        with contextlib.suppress(Exception), warnings.catch_warnings():  # whatever a student's code may do
            warnings.simplefilter("ignore")
            sys.setprofile(look)
            try:
                function(*case)
            finally:
                sys.setprofile(before)
    return found


def _code(answer: Function) -> CodeType:
    """Of the function itself: some stand inside `torch.no_grad`."""
    return inspect.unwrap(answer).__code__


def _above(frame: FrameType) -> Iterator[FrameType]:
    """Its callers, up to this file."""
    while frame.f_back and frame.f_back.f_code.co_filename != __file__:
        yield (frame := frame.f_back)


def _of_the_package(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(PACKAGE)


# ---------------------------------------------------------------------------------------------- fresh numbers


@dataclass
class Draw:
    """Random inputs of the kinds that exercises take, from a generator of their own: the notebook's is left as it was."""

    generator: torch.Generator = field(default_factory=torch.Generator)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(*shape, generator=self.generator)

    def uniform(self, *shape: int, low: float = 0.05, high: float = 0.95) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=self.generator)

    def number(self, low: float, high: float) -> float:
        return round(self.uniform(1, low=low, high=high).item(), 4)

    def integers(self, *shape: int, low: int = 0, high: int) -> Tensor:
        """From `low` to `high` - 1."""
        return torch.randint(low, high, shape, generator=self.generator)

    def integer(self, low: int, high: int) -> int:
        return int(self.integers(1, low=low, high=high))

    def logps(self, *shape: int) -> Tensor:
        """Of tokens or texts: below 0."""
        return -self.normal(*shape).abs()

    def labels(self, n: int) -> Tensor:
        """Bools, the first True and the second False."""
        return torch.cat([torch.tensor([True, False]), self.integers(n - 2, high=2).bool()])

    def distribution(self, n: int) -> Tensor:
        return self.normal(n).softmax(-1)

    def mask(self, rows: int = 3, width: int = 7) -> Tensor:
        """1 on completions of two tokens at least, after prompts of one token at least."""
        start = self.integers(rows, 1, low=1, high=width - 2)
        end = torch.stack([self.integers(1, low=int(first) + 2, high=width + 1) for first in start])
        places = torch.arange(width)
        return ((places >= start) & (places < end)).long()

    def batch(self, count: int) -> tuple[Tensor, ...]:
        """So many tensors of log-probs, as wide as a mask."""
        return tuple(self.logps(3, 7) for _ in range(count))

    def curve(self, start: float) -> list[list[float]]:
        """A list of [kl, gold], rising."""
        return [[kl, start + rise] for kl, rise in zip((0.0, 0.5, 1.2, 2.2, 3.0), [0.0, *self.uniform(4).cumsum(0).tolist()])]

    def records(self) -> list[dict]:
        """Of one or two prompts out of six."""
        return [{"prompt": "abcdef"[self.integer(0, 6)], "chosen": "x"} for _ in range(self.integer(1, 3))]

    def row(self) -> tuple[int, int, int]:
        """Lengths of a prompt and of a row, and the width of its batch."""
        prompt = self.integer(1, 5)
        length = prompt + self.integer(1, 5)
        return prompt, length, length + self.integer(0, 5)

    def points(self) -> list[tuple[float, float]]:
        """(KL, gold) of one method, in no order: the ends stand first, so that wrong neighbours give a wrong number and not None."""
        order = [0, 3, *(1 + torch.randperm(2, generator=self.generator)).tolist()]
        return [(float(kl), self.number(3, 6)) for kl in order]

    def cheating(self) -> tuple[Tensor, Tensor]:
        """The proxy, which rises, and gold, which rises and falls by more than one."""
        up, down = self.uniform(6), -self.uniform(6, low=0.4)
        return self.uniform(12).cumsum(0), torch.cat([up, down]).cumsum(0)

    def alarms(self) -> tuple[list[int | None], list[int], list[int | None]]:
        """Of six runs the look of the alarm, the first in time, and that of the sure fall; the first is in time, so no share is 0."""
        begins = [self.integer(1, 4) for _ in range(6)]
        sure = [begins[0] + 2, *(begin + self.integer(0, 5) if self.integer(0, 4) else None for begin in begins[1:])]
        return [begins[0] + 1, *(self.integer(1, 9) if self.integer(0, 4) else None for _ in range(5))], begins, sure

    def paid(self) -> tuple:
        """Rewards that add up, or do not by one token of one row, with all that they are made of."""
        scores, (logps, ref_logps), mask, beta = self.normal(3), self.batch(2), self.mask(), self.number(0.05, 0.5)
        rewards = losses.shape_rewards(scores, logps, ref_logps, mask, beta)
        rewards[0, losses.last_token(mask)[0]] += self.integer(0, 2)
        return rewards, scores, logps, ref_logps, mask, beta

    def mystery(self) -> dict:
        """A recorded mystery, its departures a little longer or shorter."""
        seen = mystery.observed(self.integer(1, len(mystery.NUMBERS) + 1))
        share = self.number(0.97, 1.03)
        return {key: round(value * share, 3) if isinstance(value, float) else value for key, value in seen.items()}

    def groups(self) -> tuple[Tensor, Tensor, int]:
        n = self.integer(1, 5)
        return self.normal(3, 4 * n), self.normal(3, 4 * n), n

    def efficiencies(self) -> tuple:
        start = self.number(0, 1)
        return self.number(0.2, 2.9), start + self.number(0.1, 2), start, self.curve(start), self.curve(start)


FRESH: dict[str, Callable[[Draw], tuple]] = {
    "preference_probability": lambda d: (d.number(-2, 2), d.number(0.3, 2), d.number(0, 0.3)),
    "bayes_accuracy": lambda d: (d.uniform(6),),
    "ceiling_from_agreement": lambda d: (d.number(0.5, 1),),
    "token_logps": lambda d: (d.normal(2, 5, 6), d.integers(2, 5, high=6)),
    "completion_mask": lambda d: d.row(),
    "sft_loss": lambda d: (*d.batch(1), d.mask()),
    "prompt_mask": lambda d: (d.mask(),),
    "best_imitation": lambda d: (torch.cat([d.integers(1, low=1, high=9), d.integers(4, high=9)]).float(),),
    "preference_loss": lambda d: (d.normal(6), d.normal(6)),
    "last_token": lambda d: (d.mask(),),
    "skill": lambda d: (d.number(0.5, 0.8), d.number(0.6, 1)),
    "calibration_table": lambda d: (d.normal(9, scale=2), d.integer(1, 6)),
    "length_controlled_accuracy": lambda d: (d.normal(9), torch.cat([torch.tensor([3, -3]), d.integers(7, low=-4, high=5)])),
    "kl": lambda d: (d.distribution(5), d.distribution(5)),
    "tilted": lambda d: (d.distribution(5), d.normal(5), d.number(0.3, 2)),
    "best_value": lambda d: (d.distribution(5).log(), d.normal(5), d.number(0.3, 2)),
    "best_of_n_kl": lambda d: (d.integer(1, 50),),
    "implied_difference": lambda d: (
        d.distribution(5).log(), d.distribution(5).log(), d.number(0.1, 2), d.integer(0, 5), d.integer(0, 5)
    ),
    "best_of_n_value": lambda d: d.groups(),
    "efficiencies": lambda d: d.efficiencies(),
    "shape_rewards": lambda d: (d.normal(3), *d.batch(2), d.mask(), d.number(0.05, 0.5)),
    "gae": lambda d: (d.normal(3, 7), d.normal(3, 7), d.mask(), d.number(0.8, 1), d.number(0.5, 1)),
    "normalise": lambda d: (1 + d.normal(3, 7, scale=2), d.mask()),
    "clipped_policy_loss": lambda d: (*d.batch(2), d.normal(3, 7), d.mask(), d.number(0.1, 0.3)),
    "stopped_share": lambda d: (*d.batch(2), d.normal(3, 7), d.mask(), d.number(0.1, 0.3)),
    "ppo_losses": lambda d: (
        d.normal(3), *d.batch(3), d.normal(3, 7), d.normal(3, 7), d.mask(), d.number(0.05, 0.5), d.number(0.5, 1), d.number(0.1, 0.3)
    ),
    "k3": lambda d: d.batch(2),
    "estimator_errors": lambda d: (d.distribution(6).log(), d.distribution(6).log()),
    "adapt_beta": lambda d: (d.number(0.1, 1), d.number(0.5, 6), d.number(1, 3), d.integer(16, 200), d.integer(500, 2000)),
    "explained_variance": lambda d: (d.normal(3, 7), d.normal(3, 7), d.mask()),
    "overoptimised_from": lambda d: (*d.cheating(), d.number(0.2, 0.8), d.integer(1, 4)),
    "implicit_reward": lambda d: (*d.batch(2), d.mask(), d.number(0.1, 2)),
    "dpo_loss": lambda d: (*(3 * d.logps(6) for _ in range(4)), d.number(0.1, 1)),
    "pair_weight": lambda d: (d.normal(5, scale=2), d.number(0.1, 2)),
    "smoothed_pull": lambda d: (d.normal(5, scale=2), d.number(0.1, 2), d.number(0, 0.4)),
    "resting_points": lambda d: (d.uniform(5), d.number(0.1, 2)),
    "gold_efficiency": lambda d: (d.number(3, 5), d.number(2, 3), d.number(5, 6)),
    "win_rate": lambda d: (d.integers(5, high=4).float(), d.integers(4, high=4).float()),
    "paired_interval": lambda d: (d.normal(5, 3), d.normal(5, 3), d.integers(11, 5, high=5)),
    "gold_at_kl": lambda d: (d.points(), d.number(0.05, 2.95)),
    "agreement": lambda d: (d.integers(6, high=3).float(), d.integers(6, high=3).float()),
    "preference_record": lambda d: (*(f"{part} {d.integer(0, 99)}" for part in ("prompt", "one", "two")), d.integer(0, 2) == 1),
    "shares_no_prompt": lambda d: (d.records(), d.records()),
    "overoptimisation_fit": lambda d: (d.uniform(6, low=0.3, high=4), d.normal(6), d.integer(0, 2) == 1),
    "fall_from_peak": lambda d: (d.normal(5, 8),),
    "precision_recall": lambda d: d.alarms(),
    "adds_up": lambda d: d.paid(),
    "departure": lambda d: (d.normal(9), d.normal(4, 9), d.number(0.05, 0.4)),
    "diagnosis": lambda d: (d.mystery(),),
    "comparisons_needed": lambda d: (d.number(0.52, 0.95),),
    "scaled_layer": lambda d: (d.normal(2, 5), d.normal(4, 5), d.normal(3, 5), d.normal(4, 3), d.number(2, 16), d.number(0.2, 3)),
    "mixed_logps": lambda d: (d.distribution(5).log(), d.distribution(5).log(), d.number(0.2, 3)),
    "seed_interval": lambda d: (d.normal(d.integer(3, 8)), d.number(2, 5)),
    "best_and_worst": lambda d: (d.normal(3, d.integer(2, 6)),),
    "rloo_advantages": lambda d: (d.normal(12), d.integer(2, 5)),
    "noise_ratio": lambda d: (1 + d.normal(5, 4),),
    "ches": lambda d: (d.normal(d.integer(3, 6), 4), d.normal(d.integer(1, 6), 4)),
    "dpop_loss": lambda d: (*(3 * d.logps(6) for _ in range(4)), d.number(0.1, 1), d.number(0.5, 10)),
    "kto_loss": lambda d: (3 * d.logps(6), 3 * d.logps(6), d.labels(6), d.number(0.1, 2), d.number(0.1, 1)),
}  # fmt: skip


def fresh_cases(name: str, seed: int | None = None) -> list[tuple]:
    """Arguments for that exercise, drawn anew at each call unless a seed is given."""
    draw = Draw()
    if seed is None:
        draw.generator.seed()
    else:
        draw.generator.manual_seed(seed)
    return [FRESH[name](draw) for _ in range(DRAWS)]
