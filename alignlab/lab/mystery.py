"""Runs with a fault that is not named: eight recorded ones and any number of live ones, what is seen of each, and a diagnosis.

What is seen of a run are departures: how far a metric lies from those of three healthy runs, in their standard deviations. A fault is
known by its signs, and every mystery's fault by its signs alone: `tests/test_clinic.py` shows it. The faults of the recorded runs are
not written beside them but drawn by a seed, which keeps them from being read at a glance and from nothing more.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

import torch

from alignlab.lab import answers, sweeps
from alignlab.lab.breaks import BREAKS, rewards_on_the_last_column
from alignlab.lab.clinic import Setup

HEALTHY = "healthy"
FAR = 4.0  # standard deviations from the healthy runs, from which a departure is a sign
FLOORS = {  # the least standard deviation that is reckoned with, in each metric's unit: three runs may agree by chance
    "reward": 0.2, "gold": 0.25, "kl": 0.3, "stop_rate": 0.03, "length": 1.0, "first_clip": 0.005, "approx_kl": 0.004, "drift": 0.01,
    "loss": 0.01, "accuracy": 0.03, "test_accuracy": 0.03,
}  # fmt: skip
SEEN = {  # of each stage: what is looked at, at its start or over its last third
    "ppo": ("reward start", "first_clip start", "approx_kl start", "reward", "gold", "kl", "stop_rate", "length", "drift"),
    "dpo": ("loss start", "loss", "accuracy", "gold", "kl", "length"),
}


@dataclass(frozen=True)
class Fault:
    """A candidate.

    stages: whose run it may spoil. words: what is wrong. put: spoils a run.
    signs: what is seen then: above, below, near, not above or not below the healthy runs.
    """

    stages: tuple[str, ...]
    words: str
    put: Callable[[Setup], None]
    signs: dict[str, str]


def _of(name: str, words: str, **signs: str) -> Fault:
    """The fault of one of the twelve switches; the signs' names have _start for " start"."""
    chosen = BREAKS[name]
    told = {key.replace("_start", " start"): side for key, side in signs.items()}
    return Fault((chosen.stage,), words, lambda run: chosen.put(run, chosen.wrong), told)


def _ten_times(run: Setup) -> None:
    run.config.learning_rate *= 10


QUIET = {"first_clip start": "near", "approx_kl start": "near", "drift": "near", "reward start": "near"}  # signs of other faults in PPO
FAULTS: dict[str, Fault] = {
    HEALTHY: Fault(
        ("ppo", "dpo"), "nothing is wrong", lambda run: None,
        {"reward": "near", "kl": "near", "gold": "near", "loss": "near", "loss start": "near", **QUIET},
    ),
    "learning_rate": Fault(
        ("ppo",), "the learning rate is ten times too high", _ten_times,
        {"first_clip start": "above", "reward": "below"},
    ),
    "score_on_padding": Fault(
        ("ppo",), "the score is paid on the batch's last column, which is padding in most rows",
        lambda run: run.put_equation("shape_rewards", rewards_on_the_last_column), {"reward": "below", "kl": "not above", **QUIET},
    ),
    "temperature": _of("temperature", "answers are sampled at one temperature and scored at another", drift="above"),
    "uncentred": _of("uncentred", "the score is not centred", reward_start="below"),
    "kl_is_paid": _of("kl_is_paid", "the sign of the KL in the reward is wrong", kl="above", stop_rate="below", approx_kl_start="near"),
    "fresh_old_logps": _of(
        "fresh_old_logps", "the old log-probs are scored again at every step", approx_kl_start="above", first_clip_start="near"
    ),
    "dropout": _of("dropout", "dropout is on while the policy learns", first_clip_start="above", reward="not below"),
    "moving_reference": _of("moving_reference", "the reference is the policy itself", reward="not below", kl="below"),
    "no_reference": _of("no_reference", "the loss has no reference", loss_start="above"),
    "pairs_swapped": _of("pairs_swapped", "chosen and rejected are swapped in the data", gold="below", loss_start="near", kl="not above"),
    "dpo_moving_reference": _of("dpo_moving_reference", "the reference is the policy itself", loss="above", kl="above", loss_start="near"),
}  # fmt: skip


# ---------------------------------------------------------------------------------------------- what is seen


def departures(curves: dict, stage: str, healthy: Sequence[dict]) -> dict[str, float]:
    """How far a run lies from healthy ones, in their standard deviations, for each entry of `SEEN`.

    Args:
        curves: of the run, as `clinic.record` gives them.
        healthy: curves of at least two healthy runs of that stage.
    """
    found = {}
    for entry in SEEN[stage]:
        key, _, start = entry.partition(" ")
        mine, theirs = torch.tensor(curves[key][1]), torch.tensor([each[key][1] for each in healthy])
        part = slice(0, 1) if start else slice(None)
        found[entry] = round(answers.departure(mine[part].double(), theirs[:, part].double(), FLOORS[key]).item(), 2)
    return found


def shows(departure: float, side: str) -> bool:
    """Whether a departure is on that side: above, below, near, not above, or not below."""
    above, below = departure >= FAR, departure <= -FAR
    return {"above": above, "below": below, "near": not (above or below), "not above": not above, "not below": not below}[side]


WANTED = {
    "above": f"{FAR:+g} or more", "below": f"{-FAR:+g} or less", "near": f"between {-FAR:+g} and {FAR:+g}",
    "not above": f"less than {FAR:+g}", "not below": f"more than {-FAR:+g}",
}  # fmt: skip


def contradictions(seen: dict, name: str) -> list[str]:
    """What was seen of a run that speaks against a fault, in sentences; none where all its signs are there."""
    fault, stage = FAULTS[name], seen["stage"]
    if stage not in fault.stages:
        return [f"{name!r} is no fault of a {stage.upper()} run"]
    return [
        f"under {name!r}, the departure of `{key}` would be {WANTED[side]}, and it is {seen[key]:+.1f}"
        for key, side in fault.signs.items()
        if key in seen and not shows(seen[key], side)
    ]


def diagnosis(seen: dict) -> str | None:
    """The one fault whose signs are all there, or None where there is none, or more than one.

    Args:
        seen: `stage`, and the departures of a run.
    """
    fitting = [name for name in FAULTS if not contradictions(seen, name)]
    return fitting[0] if len(fitting) == 1 else None


# ---------------------------------------------------------------------------------------------- recorded mysteries

HIDDEN = (
    "healthy", "dropout", "temperature", "score_on_padding", "fresh_old_logps", "learning_rate", "pairs_swapped", "dpo_moving_reference",
)  # fmt: skip
NUMBERS = tuple(range(1, len(HIDDEN) + 1))


def fault_of(number: int) -> str:
    """The answer to a recorded mystery."""
    return Random("the clinic's door").sample(HIDDEN, len(HIDDEN))[number - 1]


def stage_of(number: int) -> str:
    """Whose run it is."""
    return FAULTS[fault_of(number)].stages[0]


def recorded(number: int) -> dict:
    """A recorded mystery: curves, end and samples."""
    return sweeps.of(sweeps.load("mystery"), mystery=number)[0]["result"]


def healthy_curves(stage: str) -> list[dict]:
    """Curves of the healthy runs with which a mystery is compared."""
    return [point["result"]["curves"] for point in sweeps.of(sweeps.load("clinic"), stage=stage, fault=HEALTHY)]


@cache
def _observed(number: int) -> dict:
    stage = stage_of(number)
    return {"number": number, "stage": stage, **departures(recorded(number)["curves"], stage, healthy_curves(stage))}


def observed(number: int) -> dict:
    """What is seen of a recorded mystery: number, stage and departures."""
    return dict(_observed(number))


def against(case: tuple, guess: object) -> str:
    """What a wrong diagnosis of a mystery overlooks, in a line that does not say what is right."""
    seen = case[0]
    if not (isinstance(guess, str) and guess in FAULTS):
        return f"Not yet. For run {seen['number']} it gives {str(guess)[:60]!r}, which is none of the candidates: {', '.join(FAULTS)}."
    found = contradictions(seen, guess)
    return f"Not yet. For run {seen['number']}: {found[0] if found else 'another candidate fits as well'}."


# ---------------------------------------------------------------------------------------------- live mysteries


def hidden_in(number: int) -> str:
    """The fault of a live mystery: a run of PPO, drawn by its number."""
    return Random(f"live {number}").choice([name for name, fault in FAULTS.items() if "ppo" in fault.stages])
