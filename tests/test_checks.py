"""Every check accepts the answer, and refuses the stub, a constant and each mistake by its name."""

import pytest
import torch

from alignlab.lab import checks

EXERCISES = checks.EXERCISES.values()


def stub(*_):
    raise NotImplementedError


def constants(exercise):
    """What a function that ignores its arguments might return: zero, one, and the right result of the first case."""
    right = exercise.answer(*exercise.cases[0])
    if isinstance(right, tuple):
        return [right, tuple(torch.zeros_like(part) for part in right)]
    if isinstance(right, torch.Tensor):
        return [right, torch.zeros_like(right), torch.ones_like(right)]
    return [right, 0.0, 1.0, True, False, {}]


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)
def test_the_answer_is_right_and_has_all_points(exercise, capsys):
    assert checks.check(exercise.name, exercise.answer) == exercise.points > 0
    assert capsys.readouterr().out == "Right.\n" and checks.passes(exercise.name, exercise.answer)


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)
def test_the_answers_source_gives_the_answer(exercise):
    names = {}
    exec(exercise.source, names)
    assert names[exercise.name] is exercise.answer


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)
def test_the_stub_and_constants_have_no_points(exercise, capsys):
    assert checks.check(exercise.name, stub) == 0 and "Not written yet" in capsys.readouterr().out
    for constant in constants(exercise):
        assert checks.check(exercise.name, lambda *_, constant=constant: constant) == 0, constant
        assert "Not yet. For" in capsys.readouterr().out


@pytest.mark.parametrize(
    "exercise, sentence", [(e, s) for e in EXERCISES for s in e.mistakes], ids=lambda value: getattr(value, "name", "mistake")
)
def test_each_mistake_is_named_and_has_half_the_points(exercise, sentence, capsys):
    assert checks.check(exercise.name, exercise.mistakes[sentence]) == exercise.points / 2
    assert capsys.readouterr().out == f"Nearly: {sentence}\n" and not checks.passes(exercise.name, exercise.mistakes[sentence])


def test_a_check_never_raises_and_spoils_no_case(capsys):
    def breaks(*arguments):
        for argument in arguments:
            if isinstance(argument, torch.Tensor):
                argument.zero_()
        raise KeyError("mine")

    for exercise in EXERCISES:
        assert checks.check(exercise.name, breaks) == 0
        assert "KeyError: 'mine'" in capsys.readouterr().out
        assert checks.passes(exercise.name, exercise.answer)


def test_a_function_that_is_right_is_used_and_another_is_not(capsys):
    answer = checks.EXERCISES["kl"].answer

    def mine(probabilities, ref_probabilities):
        return (probabilities * (probabilities.log() - ref_probabilities.log())).sum()

    assert checks.choose("kl", mine) is mine and "yours" in capsys.readouterr().out
    assert checks.choose("kl", stub) is answer and "the package's" in capsys.readouterr().out


def test_there_are_about_25_exercises_with_known_mistakes():
    assert 24 <= len(checks.EXERCISES) <= 28
    assert all(exercise.mistakes for exercise in EXERCISES)
