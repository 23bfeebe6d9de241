"""The clinic: each switch breaks its law and nothing else, shows in a number, and every mystery follows from what is shown of it."""

import json
from pathlib import Path

import pytest
import torch

from alignlab import losses, ppo, recipes, sft
from alignlab.errors import UserError
from alignlab.lab import answers, clinic, mystery, sweeps, ward
from alignlab.lab.breaks import BREAKS, specimen
from alignlab.pipeline import Pipeline
from alignlab.runs import Run
from alignlab.tools import sweep_clinic

each_break = pytest.mark.parametrize("name", BREAKS)
each_mystery = pytest.mark.parametrize("number", mystery.NUMBERS)
SMALL = {
    "sft": {"batch_size": 8, "learning_rate": 2e-2},
    "reward": {"batch_size": 8, "epochs": 1},
    "ppo": {"batch_size": 8, "minibatch_size": 8, "iterations": 2, "epochs": 3, "max_new_tokens": 40, "learning_rate": 2e-2},
    "dpo": {"batch_size": 8, "learning_rate": 2e-2},
}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A pipeline whose SFT model is the bundled base as it is, and whose score likes short answers: nothing is trained for it."""
    recipe = recipes.lesson(fast=True)
    recipe.judge_prompts, recipe.probe = recipe.judge_prompts[:2], 2
    recipe.sampling.max_new_tokens = 10
    made = Pipeline(Run(tmp_path_factory.mktemp("clinic") / "run", {}), recipe, say=lambda words: None)
    base, _ = specimen()
    pairs = recipe.pairs(base, 0, lambda done, total: None)
    for name, product in {"base": base, "reference": base, "score": short_is_better, "pairs": (pairs[0][:24], pairs[1][:8])}.items():
        made.__dict__[name] = product
    made.__dict__["demonstrations"] = recipe.demonstrations(base, 0, lambda done, total: None)[:24]
    return made


def short_is_better(completions):
    return -completions.lengths.float() / 4


def small(given, stage):
    return clinic.setup(given, stage, **SMALL[stage])


def metrics(run):
    return [{key: value for key, value in each.items() if key != "samples"} for each in clinic.steps(run)]


# ---------------------------------------------------------------------------------------------- the twelve


def test_there_are_twelve_for_every_stage_each_with_a_law_of_its_own():
    assert len(BREAKS) == 12 and {each.stage for each in BREAKS.values()} == set(clinic.SHORT)
    laws = (Path(__file__).parents[1] / "docs" / "correctness.md").read_text(encoding="utf-8")
    known = {number.strip() for line in laws.splitlines() if line.startswith("| ") for number in line.split("|")[1].split(",")}
    known |= {str(number) for number in range(33, 37)}  # a row of several
    assert all(number.strip() in known for each in BREAKS.values() for number in each.law.split(","))


@each_break
def test_the_assertion_fails_on_the_break_and_passes_on_the_cure(name):
    chosen = BREAKS[name]
    with pytest.raises(AssertionError, match=r"\w"):
        chosen.keeps(chosen.wrong)
    chosen.keeps(chosen.right)
    assert ward.verdict(chosen.keeps, chosen.right) == "passes" and ward.verdict(chosen.keeps, chosen.wrong).startswith("fails: ")


@pytest.fixture(scope="module")
def plain(given):
    """The metrics of each stage's small healthy run."""
    return {stage: metrics(small(given, stage)) for stage in clinic.SHORT}


@each_break
def test_a_switch_changes_its_run_and_the_cure_in_its_place_does_not(name, given, plain):
    chosen, found = BREAKS[name], {}
    for code in (chosen.wrong, chosen.right):
        run = small(given, chosen.stage)
        chosen.put(run, code)
        found[code] = metrics(run)
    assert found[chosen.wrong] != plain[chosen.stage]
    if name not in ("leaky_split", "uncentred"):  # whose cure gives another lawful split, and a score less its own mean
        assert found[chosen.right] == plain[chosen.stage]


def test_what_stands_between_a_run_and_its_data(given):
    run = small(given, "ppo")
    BREAKS["uncentred"].put(run, BREAKS["uncentred"].right)
    assert run.score(clinic.sft_answers(given)).mean().item() == pytest.approx(0, abs=1e-4)
    BREAKS["uncentred"].put(run, BREAKS["uncentred"].wrong)
    assert run.score(clinic.sft_answers(given)).mean().item() < clinic.OFFSET
    run = small(given, "reward")
    BREAKS["leaky_split"].put(run, BREAKS["leaky_split"].wrong)
    assert run.held_out and all(pair in run.records for pair in run.held_out)
    healthy = small(given, "reward")
    assert healthy.held_out and not {pair["prompt"] for pair in healthy.records} & {pair["prompt"] for pair in healthy.held_out}


def test_what_was_exchanged_in_a_module_is_put_back_however_the_run_ends(given):
    before = sft.collate, losses.before, ppo.sample
    for name in ("eos_is_padding", "no_shift", "temperature"):
        run = small(given, BREAKS[name].stage)
        BREAKS[name].put(run, BREAKS[name].wrong)
        begun = clinic.steps(run)
        next(begun)
        assert (sft.collate, losses.before, ppo.sample) != before
        begun.close()
        assert (sft.collate, losses.before, ppo.sample) == before


def test_a_record_is_judged_by_code_that_no_switch_touches(given):
    run = small(given, "ppo")
    BREAKS["moving_reference"].put(run, BREAKS["moving_reference"].wrong)
    kept = clinic.record(run)
    assert set(kept["curves"]["kl"][1]) == {0.0} and kept["end"]["kl"] > 0.01
    assert set(kept["curves"]) == set(clinic.CURVES["ppo"]) and len(kept["samples"]) == 2


def test_the_clinic_knows_the_tiny_world_alone(given, monkeypatch):
    monkeypatch.setattr(given.recipe, "name", "smol")
    with pytest.raises(UserError, match='open it with SIZE = "tiny"'):
        clinic.setup(given, "ppo")


# ---------------------------------------------------------------------------------------------- what was recorded


def test_the_recorded_runs_are_the_sweeps():
    kept = [(point["settings"], point["seed"]) for point in sweeps.load("clinic")]
    assert kept == list(sweep_clinic.SWEEP.points)
    assert all(len(steps) <= 40 for point in sweeps.load("clinic") for steps, _ in point["result"]["curves"].values())


@each_break
def test_each_switch_moves_a_number_that_is_shown_beyond_the_spread_of_the_seeds(name):
    chosen = BREAKS[name]
    healthy = mystery.healthy_curves(chosen.stage)
    for point in sweeps.of(sweeps.load("clinic"), fault=name):
        found = []
        for key in chosen.tells:
            mine, theirs = (torch.tensor(each).double() for each in (point["result"]["curves"][key][1], [c[key][1] for c in healthy]))
            found += [answers.departure(mine[part], theirs[:, part], mystery.FLOORS[key]).abs() for part in (slice(1), slice(None))]
        assert max(found) >= mystery.FAR, (name, point["seed"], found)


# ---------------------------------------------------------------------------------------------- mysteries


@each_mystery
def test_a_mysterys_answer_follows_from_what_is_shown(number):
    seen = mystery.observed(number)
    assert [name for name in mystery.FAULTS if not mystery.contradictions(seen, name)] == [mystery.fault_of(number)]
    assert mystery.diagnosis(seen) == mystery.fault_of(number)


def test_the_recorded_switches_are_diagnosed_by_the_same_signs():
    for name, chosen in BREAKS.items():
        if name in mystery.FAULTS:
            for point in sweeps.of(sweeps.load("clinic"), fault=name):
                found = mystery.departures(point["result"]["curves"], chosen.stage, mystery.healthy_curves(chosen.stage))
                assert mystery.diagnosis({"stage": chosen.stage, **found}) == name, (name, point["seed"], found)


@each_mystery
def test_a_wrong_guess_is_told_what_speaks_against_it_and_not_what_is_right(number):
    seen = mystery.observed(number)
    for guess in set(mystery.FAULTS) - {mystery.fault_of(number)}:
        said = mystery.against((seen,), guess)
        assert guess in said and "fits as well" not in said and "\n" not in said, said
        assert mystery.fault_of(number) not in said.replace(guess, "").replace("healthy runs", ""), said
    assert "none of the candidates" in mystery.against((seen,), {})


def test_the_eight_are_all_hidden_once_and_their_file_does_not_name_them():
    assert sorted(map(mystery.fault_of, mystery.NUMBERS)) == sorted(mystery.HIDDEN)
    text = json.dumps([point["settings"] for point in sweeps.load("mystery")])
    assert not any(name in text for name in mystery.FAULTS)


def test_a_live_mystery_is_of_ppo_and_the_same_for_the_same_number(given):
    drawn = {number: mystery.hidden_in(number) for number in range(60)}
    assert set(drawn.values()) == {name for name, fault in mystery.FAULTS.items() if "ppo" in fault.stages}
    case = ward.Live(given, 3, **SMALL["ppo"])
    case.run.config.iterations = 1
    figure = case.train()
    assert case.fault == drawn[3] and case.fault in case.reveal() and "live run 3" in figure.get_label()
    assert set(case.seen) == {"number", "stage", *mystery.SEEN["ppo"]}


def test_a_departure_by_hand():
    healthy = torch.tensor([[0.0, 9.0, 1.0], [0.0, 9.0, 3.0]])
    assert answers.departure(torch.tensor([0.0, 0.0, 4.0]), healthy, 0.1).item() == pytest.approx(2 / 2**0.5)
    assert answers.departure(torch.tensor([0.0, 0.0, 0.0]), healthy, 4.0).item() == pytest.approx(-0.5)


# ---------------------------------------------------------------------------------------------- what is drawn


@each_break
def test_a_switchs_views_say_what_they_show(name, capsys):
    chosen = BREAKS[name]
    figure = ward.curves(name)
    shown = [axes for axes in figure.axes if axes.lines]
    assert len(shown) == len(chosen.tells) and all(len(axes.lines) == 1 + len(sweep_clinic.SICK_SEEDS) for axes in shown)
    assert all(ward.TITLES[key] in figure.get_label() for key in chosen.tells)
    ward.examine(name)
    said = capsys.readouterr().out
    assert f"def {chosen.wrong.__name__}(" in said and "fails: " in said and "passes" in said and chosen.cure in said
    if chosen.stage != "reward":
        assert name in repr(ward.ends(name)) and "healthy" in repr(ward.ends(name)) and "gold" in repr(ward.written(name))


@each_mystery
def test_a_strip_shows_a_mystery_and_does_not_name_it(number):
    told = ward.strip(number).get_label() + repr(ward.answers_of(number))
    assert f"run {number}" in told and mystery.fault_of(number) not in told.replace("healthy run", "")


def test_a_picker_offers_ppos_switches_and_is_words_where_widgets_cannot_live():
    picker = ward.Picker()
    assert set(picker.options) == {name for name, each in BREAKS.items() if each.stage == "ppo"}
    assert picker.value in picker._repr_mimebundle_()["text/plain"]
