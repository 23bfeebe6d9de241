"""One check for each exercise of the workbook: is the learner's function right, and if not, which mistake is it?

A check tries the function on inputs with uneven masks and signs, compares with the package's own answer, and then with the
mistakes that people make. It never raises; it prints a sentence and returns points: all, half for a mistake that it knows, or none.
"""

import math

import torch
from torch import Tensor

from alignlab.base import best_device
from alignlab.lab.exercises import EXERCISES, Exercise, Function


def check(name: str, function: Function) -> float:
    """Judge a learner's function for that exercise: prints the verdict, returns the points."""
    exercise = EXERCISES[name]
    try:
        return _judge(exercise, function)
    except NotImplementedError:
        print("Not written yet. The cells below use the package's own function.")
    except Exception as error:  # whatever a learner's code may do
        print(f"It stops with {type(error).__name__}: {error}")
    return 0.0


def passes(name: str, function: Function) -> bool:
    """Whether the function is right, without a word."""
    return _right_on(EXERCISES[name], function, torch.device("cpu"))


def _right_on(exercise: Exercise, function: Function, device: torch.device) -> bool:
    try:
        return all(_equal(function(*_fresh(case, device)), exercise.answer(*_fresh(case, device))) for case in exercise.cases)
    except Exception:
        return False


def choose(name: str, function: Function) -> Function:
    """The learner's function where it is right, else the package's: what the training that follows runs on."""
    if not passes(name, function):
        print(f"{name}: the package's runs from here on.")
    elif not _right_on(EXERCISES[name], function, device := best_device()):
        print(f"{name}: yours is right, but makes a tensor on the CPU, and training is on {device}; give new tensors device=...")
        print("The package's runs from here on.")
    else:
        print(f"{name}: yours runs from here on.")
        return function
    return EXERCISES[name].answer


def _judge(exercise: Exercise, function: Function) -> float:
    given = [function(*_fresh(case)) for case in exercise.cases]
    wanted = [exercise.answer(*_fresh(case)) for case in exercise.cases]
    if all(map(_equal, given, wanted)):
        print("Right.")
        return float(exercise.points)
    for sentence, mistake in exercise.mistakes.items():
        if all(_equal(got, mistake(*_fresh(case))) for got, case in zip(given, exercise.cases, strict=True)):
            print(f"Nearly: {sentence}")
            return exercise.points / 2
    number = next(i for i, (got, want) in enumerate(zip(given, wanted, strict=True)) if not _equal(got, want))
    print(f"Not yet. For {_shown(exercise.cases[number])} it gives {_shown(given[number])}; right is {_shown(wanted[number])}.")
    return 0.0


def _fresh(value, device: torch.device | str = "cpu"):
    """Copies, so that a function that writes into its arguments spoils nothing."""
    if isinstance(value, Tensor):
        return value.clone().to(device)
    if isinstance(value, tuple | list):
        return type(value)(_fresh(each, device) for each in value)
    return dict(value) if isinstance(value, dict) else value


def _equal(got, want) -> bool:
    if isinstance(want, Tensor) and not isinstance(got, Tensor):
        return False  # a number would pass here and fail in the training that follows
    if isinstance(want, Tensor) or isinstance(got, Tensor):
        got, want = (torch.as_tensor(each).cpu().double() for each in (got, want))
        return got.shape == want.shape and torch.allclose(got, want, rtol=1e-4, atol=1e-5)
    if isinstance(want, tuple):
        return isinstance(got, tuple | list) and len(got) == len(want) and all(map(_equal, got, want))
    if isinstance(want, bool) or not isinstance(want, int | float):
        return type(got) is type(want) and got == want
    return isinstance(got, int | float) and not isinstance(got, bool) and math.isclose(got, want, rel_tol=1e-4, abs_tol=1e-5)


def _shown(value) -> str:
    if isinstance(value, Tensor):
        return f"tensor{tuple(value.shape)} {[round(x, 3) for x in value.flatten().tolist()[:8]]}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    text = repr(value)
    return text if len(text) < 120 else text[:117] + "..."
