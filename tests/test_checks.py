"""Every check accepts the answer, and refuses the stub, a constant and each mistake by its name."""

import textwrap

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
        return [right, tuple(part * 0 for part in right)]
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


def test_there_are_a_few_exercises_a_notebook_with_known_mistakes():
    n = len(checks.EXERCISES)
    assert 24 <= n <= 70
    assert all(exercise.mistakes for exercise in EXERCISES)


# What is said of any exercise


def said(name, function, capsys):
    """The points that a function gets, and the sentence."""
    return checks.check(name, function), capsys.readouterr().out


def test_the_case_is_shown_whole_as_code_that_rebuilds_it(capsys):
    points, out = said("shape_rewards", lambda scores, *_: scores, capsys)
    exercise = checks.EXERCISES["shape_rewards"]
    lines, names = out.split("it gives")[0].splitlines(), {"torch": torch}
    exec(textwrap.dedent("\n".join(lines[1:])), names)
    for given, name in zip(exercise.cases[0], ("scores", "logps", "ref_logps", "mask"), strict=False):
        assert names[name].dtype == given.dtype and torch.allclose(names[name], given, atol=1e-4), name
    assert points == 0 and out.startswith("Not yet. For\n") and "# shape (3, 6)" in out and "..." not in out
    assert out.endswith("The shape is (3,); asked for is (3, 6).\n")


def test_the_smallest_case_that_goes_wrong_is_shown(capsys):
    _, out = said("last_token", lambda mask: mask.sum(-1) + 1, capsys)
    assert "(2, 6)" in out and "(3, 6)" not in out


def test_right_values_in_a_wrong_form_are_named(capsys):
    kl = checks.EXERCISES["kl"].answer
    loss = checks.EXERCISES["preference_loss"].answer
    gae = checks.EXERCISES["gae"].answer
    forms = [
        ("kl", lambda p, q: kl(p, q).item(), "leave out `.item()`"),
        ("kl", lambda p, q: kl(p, q)[None], "the shape is not"),
        ("kl", lambda p, q: -kl(p, q)[None] * 0 + kl(p, q)[None], "the shape is not"),
        ("tilted", lambda *given: checks.EXERCISES["tilted"].answer(*given)[:, None], "the shape is not"),
        ("gae", lambda *given: gae(*given)[0], "two are asked for"),
        ("gae", lambda *given: gae(*given)[::-1], "wrong order"),
        ("kl", lambda p, q: (kl(p, q), p), "one is asked for"),
        ("preference_loss", lambda c, r: loss(c, r).detach(), "carries no gradient"),
        ("preference_loss", lambda c, r: torch.tensor(loss(c, r).item()), "carries no gradient"),
    ]
    for name, function, words in forms:
        points, out = said(name, function, capsys)
        assert out.startswith("Nearly: ") and words in out, (name, words, out)
        assert points == checks.EXERCISES[name].points / 2 and not checks.passes(name, function)


def test_a_known_mistake_is_named_even_where_it_comes_as_a_float(capsys):
    answer = checks.EXERCISES["kl"].answer
    assert "direction" in said("kl", lambda p, q: answer(q, p).item(), capsys)[1]


def test_what_is_missing_in_a_wrong_result_is_said(capsys):
    answer = checks.EXERCISES["gae"].answer
    wrong = [
        ("kl", lambda p, q: None, "is the `return` missing?"),
        ("gae", lambda *given: answer(*given)[0] + 1, "2 results are asked for"),
        ("gae", lambda *given: (answer(*given)[0], answer(*given)[1] + 1), "The first of them is right."),
        ("kl", lambda p, q: p.sum() * torch.nan, "NaN is what"),
        ("normalise", lambda a, m: a * m, "The first place where they differ is [0, 2]"),
    ]
    for name, function, words in wrong:
        points, out = said(name, function, capsys)
        assert points == 0 and out.startswith("Not yet. For") and words in out, (name, out)


def test_an_error_is_shown_with_its_line(capsys):
    def breaks(p, q):
        return p.no_such_thing

    _, out = said("kl", breaks, capsys)
    assert "It stops with AttributeError" in out and "in the line: return p.no_such_thing" in out
    assert "TypeError" in said("kl", 3, capsys)[1]


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)
def test_no_result_whatever_makes_a_check_raise(exercise, capsys):
    for value in (None, True, "A", 3, [1, [2]], {}, (), (1, 2), torch.zeros(0), torch.tensor(True), torch.zeros(2, 3, 4, 5), object()):
        assert checks.check(exercise.name, lambda *_, value=value: value) == 0
    assert "It stops" not in capsys.readouterr().out
