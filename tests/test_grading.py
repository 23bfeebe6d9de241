"""The hidden half of a check: students' own code keeps its points, the package's has none, and fresh numbers are fresh."""

import functools
import importlib
from types import SimpleNamespace

import nbformat
import pytest
import torch

from alignlab import exact, losses
from alignlab.lab import answers, checks
from alignlab.tools import classroom, grading

EXERCISES = list(checks.EXERCISES.values())
each = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)


@pytest.fixture(scope="module")
def worked():
    """Every notebook's worked solution, by exercise: code that imports nothing of the package."""
    scope, found = {"torch": torch}, {}
    for path in classroom.notebooks():
        notebook = nbformat.read(path, 4)
        for name, _, _, solution in classroom.with_worked_solutions(notebook):
            exec(solution.source, scope)
            found[name] = scope[f"{name}_solution"]
    return found


@each
def test_a_worked_solution_keeps_all_points(exercise, worked, capsys):
    assert grading.points(exercise.name, worked[exercise.name]) == exercise.points
    assert capsys.readouterr().out == "On fresh numbers:\nRight.\n"


@each
def test_a_worked_solution_is_right_on_any_fresh_numbers(exercise, worked):
    for seed in range(40):
        fresh = SimpleNamespace(name=exercise.name, cases=grading.fresh_cases(exercise.name, seed), answer=exercise.answer)
        assert checks._right_on(fresh, worked[exercise.name], torch.device("cpu")), seed
        assert all(exercise.answer(*checks.copied(case)) is not None for case in fresh.cases), "a function that returns nothing fits"


@each
def test_the_packages_answer_has_no_points_however_it_is_reached(exercise, capsys):
    def body(*arguments):
        names = {}
        exec(exercise.source, names)
        return names[exercise.name](*arguments)

    ways = [exercise.answer, functools.partial(exercise.answer), body, lambda *x: checks.choose(exercise.name, None)(*x)]
    for way in ways:
        assert grading.points(exercise.name, way) == 0
        assert f"alignlab's own {exercise.answer.__name__} is called" in capsys.readouterr().out


@each
def test_a_stub_has_no_points_and_an_answer_to_the_checks_inputs_alone_has_none(exercise):
    def stub(*_):
        raise NotImplementedError

    seen = {repr(case): checks.copied(exercise.answer(*checks.copied(case))) for case in exercise.cases}
    assert grading.points(exercise.name, stub) == 0
    assert grading.points(exercise.name, lambda *given: seen.get(repr(given))) == 0


def test_half_for_a_known_mistake_survives(capsys):
    def sums(chosen_scores, rejected_scores):
        return -torch.nn.functional.logsigmoid(chosen_scores - rejected_scores).sum()

    assert grading.points("preference_loss", sums) == checks.EXERCISES["preference_loss"].points / 2


def test_what_the_answer_itself_calls_is_seen_too():
    def by_the_package(probabilities, ref_probabilities):
        return exact.enumerated_kl(probabilities.log(), ref_probabilities.log())

    def by_a_late_import(p, beta):
        module = importlib.import_module("alignlab.lab.answers")
        return module.dpo_rest(p, beta), module.ipo_rest(p, beta)

    assert grading.imported("kl", by_the_package) == "enumerated_kl"
    assert grading.imported("resting_points", by_a_late_import) == "dpo_rest"


def test_tools_and_earlier_exercises_may_be_called():
    def sft_loss(token_logps, mask):
        return -losses.masked_mean(token_logps, mask)

    def ppo_losses(scores, logps, old_logps, ref_logps, values, old_values, mask, beta, lam, clip_epsilon):
        rewards = losses.shape_rewards(scores, old_logps, ref_logps, mask, beta)
        advantages, returns = losses.gae(rewards, old_values, mask, 1.0, lam)
        policy_loss = losses.clipped_policy_loss(logps, old_logps, losses.normalise(advantages, mask), mask, clip_epsilon)
        return policy_loss, losses.masked_mean((values - returns) ** 2, mask) / 2

    def estimator_errors(logps, ref_logps):
        log_r = ref_logps - logps
        each_ = torch.stack([-log_r, log_r**2 / 2, answers.k3(logps, ref_logps)])  # k3 as `checks.choose` gives it
        mean = (logps.exp() * each_).sum(-1)
        return mean - mean[0], (logps.exp() * (each_ - mean[:, None]) ** 2).sum(-1).sqrt()

    for function in (sft_loss, ppo_losses, estimator_errors):
        name = function.__name__
        assert grading.points(name, function) == checks.EXERCISES[name].points


def test_fresh_numbers_differ_from_call_to_call_and_leave_the_notebooks_generator_alone():
    assert set(grading.FRESH) == set(checks.EXERCISES)
    before = torch.get_rng_state()
    assert repr(grading.fresh_cases("kl")) != repr(grading.fresh_cases("kl"))
    assert repr(grading.fresh_cases("kl", 3)) == repr(grading.fresh_cases("kl", 3))
    assert torch.equal(before, torch.get_rng_state())
