"""One check for each exercise of the workbook: is the learner's function right, and if not, which mistake is it?

A check tries the function on inputs with uneven masks and signs, compares with the package's own answer, and then with the
mistakes that people make. It never raises; it prints a sentence and returns points: all, half for a mistake that it knows, or none.
"""

import inspect
import linecache
import math
import traceback
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from alignlab.base import best_device
from alignlab.lab.exercises import EXERCISES, Exercise, Function

WIDTH = 100  # characters, beyond which the rows of a tensor stand below each other
LONGEST = 800  # characters shown of what a learner's function returns


def check(name: str, function: Function) -> float:
    """Judge a learner's function for that exercise: prints the verdict, returns the points."""
    return judge(EXERCISES[name], function)


def judge(exercise: Exercise, function: Function) -> float:
    """The same for an exercise with cases of its own."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whatever a check cell writes to stderr, nbgrader takes for a failure
            return _judge(exercise, function)
    except NotImplementedError:
        print("Not written yet. The cells below use the package's own function.")
    except Exception as error:  # whatever a learner's code may do
        print(f"It stops with {type(error).__name__}: {error}{_place(error, function)}")
    return 0.0


def passes(name: str, function: Function) -> bool:
    """Whether the function is right, without a word."""
    return _right_on(EXERCISES[name], function, torch.device("cpu"))


def _right_on(exercise: Exercise, function: Function, device: torch.device) -> bool:
    try:
        right = all(_equal(function(*copied(case, device)), exercise.answer(*copied(case, device))) for case in exercise.cases)
        return right and not _loses_gradient(exercise, function)
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


# ---------------------------------------------------------------------------------------------- the verdict


def _judge(exercise: Exercise, function: Function) -> float:
    given = [function(*copied(case)) for case in exercise.cases]
    wanted = [exercise.answer(*copied(case)) for case in exercise.cases]
    if all(map(_equal, given, wanted)):
        if not _loses_gradient(exercise, function):
            print("Right.")
            return float(exercise.points)
        print(f"Nearly: {NO_GRADIENT}")
        return exercise.points / 2
    sentence = _known(exercise, given, wanted) or next((said for said, same in FORMS.items() if all(map(same, given, wanted))), None)
    if sentence:
        print(f"Nearly: {sentence}")
        return exercise.points / 2
    print(_refusal(exercise, given, wanted))
    return 0.0


def _known(exercise: Exercise, given: list, wanted: list) -> str | None:
    """The sentence of the exercise's mistake that gives the same on every case."""
    tensors = [
        torch.as_tensor(got) if isinstance(want, Tensor) and _is_number(got) else got for got, want in zip(given, wanted, strict=True)
    ]
    for sentence, mistake in exercise.mistakes.items():
        try:
            if all(_equal(got, mistake(*copied(case))) for got, case in zip(tensors, exercise.cases, strict=True)):
                return sentence
        except Exception:  # a mistake need not work on every input
            continue
    return None


def _equal(got, want) -> bool:
    if isinstance(want, tuple):
        return isinstance(got, tuple | list) and len(got) == len(want) and all(map(_equal, got, want))
    if isinstance(want, Tensor):  # a number would pass here and fail in the training that follows
        return isinstance(got, Tensor) and got.shape == want.shape and _close(got, want)
    if _is_number(want):
        return (_is_number(got) or (isinstance(got, Tensor) and got.dim() == 0)) and math.isclose(got, want, rel_tol=1e-4, abs_tol=1e-5)
    return type(got) is type(want) and got == want


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _close(got: Tensor, want: Tensor) -> bool:
    got, want = (each.detach().cpu().double() for each in (got, want))
    return torch.allclose(got, want, rtol=1e-4, atol=1e-5)


def _loses_gradient(exercise: Exercise, function: Function) -> bool:
    """Whether it is a loss whose number is right, yet from which nothing can be learned."""
    if not exercise.name.endswith("_loss"):
        return False
    case = copied(exercise.cases[0])
    tracked = [x.requires_grad_().clone() if isinstance(x, Tensor) and x.is_floating_point() else x for x in case]
    got = function(*tracked)
    return isinstance(got, Tensor) and not got.requires_grad


# ---------------------------------------------------------------------------------------------- right values in a wrong form

NO_GRADIENT = (
    "the number is right, but it carries no gradient, so nothing can be learned from it. Compute it from the arguments with torch's own "
    "functions, without `.item()`, `.detach()`, `no_grad` or a new `torch.tensor(...)`."
)


def _not_a_tensor(got, want) -> bool:
    try:
        return isinstance(want, Tensor) and (_is_number(got) or isinstance(got, list)) and _equal(torch.as_tensor(got), want)
    except (TypeError, ValueError):  # a list of other things than numbers
        return False


def _other_shape(got, want) -> bool:
    tensors = isinstance(got, Tensor) and isinstance(want, Tensor)
    return tensors and got.numel() == want.numel() and _close(got.flatten(), want.flatten())


def _unreduced(got, want, reduce) -> bool:
    tensors = isinstance(got, Tensor) and isinstance(want, Tensor)
    if not (tensors and got.dim() > want.dim() and got.shape[: want.dim()] == want.shape):
        return False
    return _close(reduce(got.double().flatten(want.dim()), -1), want)


def _negated(got, want) -> bool:
    tensors = isinstance(got, Tensor) and isinstance(want, Tensor)
    return _equal(-got.double(), want) if tensors else _is_number(got) and _is_number(want) and _equal(-got, want)


FORMS = {  # sentence: whether it fits
    "the value is right, but a tensor is asked for: leave out `.item()` and `float(...)`, and use torch's functions, not those of `math`.":
        _not_a_tensor,
    "the values are right, but the shape is not; look for a `keepdim` too many, or for a missing `squeeze`.": _other_shape,
    "there is a value left for each row or token; what is asked for is their mean.":
        lambda got, want: _unreduced(got, want, torch.mean),
    "there is a value left for each row or token; what is asked for is their sum.":
        lambda got, want: _unreduced(got, want, torch.sum),
    "one result is returned, and two are asked for: end with `return first, second`.":
        lambda got, want: isinstance(want, tuple) and not isinstance(got, tuple | list) and any(_equal(got, each) for each in want),
    "both results are right, but in the wrong order.":
        lambda got, want: isinstance(want, tuple) and isinstance(got, tuple | list) and _equal(got[::-1], want),
    "several results are returned, and one is asked for.":
        lambda got, want: isinstance(want, Tensor) and isinstance(got, tuple) and any(_equal(each, want) for each in got),
    "the sign: everything else is right.": _negated,
}  # fmt: skip


# ---------------------------------------------------------------------------------------------- the refusal


def _refusal(exercise: Exercise, given: list, wanted: list) -> str:
    """A case that can be rebuilt, what came out and what is right: the smallest of those that went wrong."""
    wrong = [i for i, (got, want) in enumerate(zip(given, wanted, strict=True)) if not _equal(got, want)]
    if exercise.against:
        return exercise.against(exercise.cases[wrong[0]], given[wrong[0]])
    number = min(wrong, key=lambda i: sum(x.numel() for x in exercise.cases[i] if isinstance(x, Tensor)))
    got, want = given[number], wanted[number]
    arguments = zip(inspect.signature(exercise.answer).parameters, exercise.cases[number], strict=False)
    lines = ["Not yet. For", *(_shown(value, f"{name} = ") for name, value in arguments)]
    told = "\n".join(_shown(each) for each in (got if isinstance(got, tuple) else (got,)))
    lines += ["it gives", told if len(told) <= LONGEST else f"{told[:LONGEST]} ..."]
    lines += ["right is", *(_shown(each) for each in (want if isinstance(want, tuple) else (want,)))]
    return "\n".join([*lines, *_hints(got, want)])


def _hints(got, want) -> Iterator[str]:
    """What can be said of a wrong result without knowing the mistake."""
    if got is None:
        yield "It returns nothing: is the `return` missing?"
    elif isinstance(want, tuple) and not (isinstance(got, tuple | list) and len(got) == len(want)):
        yield f"{len(want)} results are asked for: end with `return first, second`."
    elif isinstance(want, tuple):
        for place, mine, right in zip(("first", "second", "third"), got, want, strict=False):
            if _equal(mine, right):
                yield f"The {place} of them is right."
    elif isinstance(got, Tensor) and isinstance(want, Tensor):
        if got.isnan().any():
            yield "NaN is what 0 / 0, inf - inf and the logarithm of a negative number give."
        elif got.shape != want.shape:
            yield f"The shape is {tuple(got.shape)}; asked for is {tuple(want.shape)}."
        elif got.numel() > 4:
            far = (got.detach().cpu().double() - want.double()).abs() > 1e-5 + 1e-4 * want.double().abs()
            yield f"The first place where they differ is {far.nonzero()[0].tolist()}; {int(far.sum())} of {far.numel()} differ."


def _shown(value, start: str = "") -> str:
    """A value as code, whole, on a line or more of its own."""
    indent = "    "
    if isinstance(value, Tensor):
        start += "torch.tensor("
        return f"{indent}{start}{_lists(value.tolist(), len(indent + start))})  # shape {tuple(value.shape)}"
    return f"{indent}{start}{_number(value) if _is_number(value) else repr(value)}"


def _lists(value, column: int) -> str:
    """Nested lists of numbers; where they are too long for one line, the rows stand below each other."""
    if not isinstance(value, list):
        return _number(value)
    whole = f"[{', '.join(_lists(each, 0) for each in value)}]"
    if len(whole) + column <= WIDTH or not value or not isinstance(value[0], list):
        return whole
    between = ",\n" + " " * (column + 1)
    return f"[{between.join(_lists(each, column + 1) for each in value)}]"


def _number(value) -> str:
    """Four digits, and a point where it is a float, so that pasting it gives one."""
    if not isinstance(value, float):
        return repr(value)
    text = f"{value + 0.0:.4g}"
    return text if set(text) & set(".en") else f"{text}."


def _place(error: Exception, function: Function) -> str:
    """Where in the learner's function an error came up."""
    code = getattr(function, "__code__", None)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if code and frame.filename == code.co_filename]
    if not frames:
        return ""
    line = linecache.getline(frames[-1].filename, frames[-1].lineno or 0).strip()
    return f"\n    in the line: {line}" if line else ""


def copied(value, device: torch.device | str = "cpu"):
    """A copy, so that a function that writes into its arguments spoils nothing."""
    if isinstance(value, Tensor):
        return value.clone().to(device)
    if isinstance(value, tuple | list):
        return type(value)(copied(each, device) for each in value)
    return dict(value) if isinstance(value, dict) else value
