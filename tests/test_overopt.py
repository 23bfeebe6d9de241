"""Over-optimisation: what the sweep keeps, and how the lab reads it."""

import math

import pytest
import torch

from alignlab import exact
from alignlab.evaluate import Answers
from alignlab.lab import answers, checks, overopt, overopt_figures, overopt_tables
from alignlab.tools import sweep_overopt
from alignlab.tools.sweep_overopt import Look

PROMPTS, STEPS = 32, (0, 1, 2, 3, 4, 6, 8, 11, 15, 20)
SD = {"gold": 1.5, "score": 2.0, "length": 8.0, "entropy": 0.2, "disagreement": 0.5}


def noise(*shape: int, seed: int = 0, scale: float = 0.1) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def point(method: str, seed: int, a: float, b: float, pairs: int = 200, beta: float = 0.0, far: float = 0.3) -> dict:
    """Gold by the form with the logarithm, d in proportion to the steps; the proxy rises, answers grow longer, nobody disagrees."""
    rows = []
    for number, step in enumerate(STEPS):
        d = far * step
        gain = d * (a - b * math.log(d)) if d else 0.0
        gold = 5 + 1.5 * gain + noise(PROMPTS, seed=seed) + noise(PROMPTS, seed=100 * seed + number, scale=0.02)
        rows.append({
            "step": step, "gold": gold.tolist(), "score": (d + noise(PROMPTS, seed=7)).tolist(), "kl": [d * d] * PROMPTS,
            "length": 30.0 + step, "entropy": 0.9 - 0.01 * step, "disagreement": 1.0, "stop_rate": 1.0, "margin": 0.1 * step,
        })  # fmt: skip
    result = {"reference": rows[0] | {"sd": SD}, "course": rows[1:]}
    return {"settings": {"method": method, "pairs": pairs, "beta": beta}, "seed": seed, "result": result}


def best_of_n(seed: int) -> dict:
    rows = [{"n": n, "gold": [5.0 + 0.1 * n] * PROMPTS, "score": [0.2 * n] * PROMPTS} for n in (1, 2, 4, 8)]
    result = {"reference": {"gold": [5.0] * PROMPTS, "sd": SD}, "course": {"60": rows, "200": rows}}
    return {"settings": {"method": "best_of_n"}, "seed": seed, "result": result}


POINTS = [
    *(point("ppo", seed, 0.8 + 0.05 * seed, 0.5) for seed in (2, 0, 1)),
    *(point("ppo", seed, 0.8 + 0.05 * seed, 0.5, beta=0.3, far=0.15) for seed in (0, 1, 2)),
    *(point("dpo", seed, 0.9, 0.45, beta=0.1) for seed in (0, 1, 2)),
    *(point("ppo", seed, 0.5, 0.0, pairs=3000) for seed in (0, 1, 2)),
    *map(best_of_n, (0, 1)),
]
COURSES = overopt.courses(POINTS)
HUMP, CLIMB = (overopt.of(COURSES, method="ppo", pairs=pairs, beta=0.0) for pairs in (200, 3000))


# ---------------------------------------------------------------------------------------------- courses


def test_courses_are_found_by_their_settings_and_come_by_seed():
    assert [course.seed for course in HUMP] == [0, 1, 2] and len(overopt.of(COURSES, method="best_of_n")) == 4
    with pytest.raises(ValueError, match="no course with"):
        overopt.of(COURSES, method="rloo")


def test_best_of_n_has_its_kl_by_the_formula_and_its_numbers_by_pairs():
    course = overopt.of(COURSES, method="best_of_n", pairs=60)[0]
    assert course.step.tolist() == [1, 2, 4, 8] and course.seen == {}
    assert course.kl[:, 0].tolist() == pytest.approx([exact.best_of_n_kl(n) for n in (1, 2, 4, 8)])


def test_dpos_implicit_reward_is_beta_times_kl():
    course = overopt.of(COURSES, method="dpo")[0]
    assert torch.equal(course.implicit, 0.1 * course.kl)


# ---------------------------------------------------------------------------------------------- falls


def test_the_honest_fall_is_unbiased_where_the_naive_one_invents_falls():
    flat = noise(400, 12, PROMPTS, scale=1.0)
    honest = torch.stack([answers.fall_from_peak(gold) for gold in flat]).mean(-1)
    naive = torch.stack([(gold[-1] - gold[gold.mean(-1).argmax()]).mean() for gold in flat])
    assert abs(honest.mean()) < 3 * honest.std() / 20 and naive.mean() < -10 * naive.std() / 20


def test_a_fall_on_gold_itself_is_the_exercises_answer():
    for course in HUMP:
        assert torch.allclose(overopt.fall(course), answers.fall_from_peak(course.gain))


def test_a_hump_falls_and_a_climb_does_not():
    assert all(map(overopt.falls, HUMP)) and not any(map(overopt.falls, CLIMB)) and all(map(overopt.rises, HUMP))
    rows = {(row["method"], row["pairs"], row["beta"]): row for row in overopt.verdicts(COURSES)}
    assert (rows["ppo", 200, 0.0]["falls"], rows["ppo", 3000, 0.0]["falls"], rows["ppo", 200, 0.0]["seeds"]) == (3, 0, 3)
    mean, low, high = rows["ppo", 200, 0.0]["gold"]
    assert low < mean < high < 0 < rows["ppo", 200, 0.0]["proxy"][1]
    assert rows["dpo", 200, 0.1]["implicit"][0] > 0 and rows["ppo", 200, 0.0]["implicit"] is None


# ---------------------------------------------------------------------------------------------- forms


@pytest.mark.parametrize("form", overopt.FORMS)
def test_a_fit_finds_the_numbers_that_made_the_curve(form):
    distance = torch.tensor([0.3, 0.8, 1.5, 2.5, 4.0], dtype=torch.float64)
    a, b = torch.tensor([0.9, 0.25], dtype=torch.float64)
    found = answers.overoptimisation_fit(distance, overopt.curve(distance, a, b, form), overopt.FORMS[form])
    assert found.tolist() == pytest.approx([0.9, 0.25])


def test_the_right_form_leaves_less_and_its_numbers_come_with_intervals():
    right, wrong = (overopt.fitted(HUMP, form) for form in ("RL form", "best-of-n form"))
    assert right["rms"] < wrong["rms"] / 2 and right["missed"] < wrong["missed"]
    assert right["a"][0] == pytest.approx(0.85, abs=0.05) and right["a"][1] < 0.85 < right["a"][2]


def test_a_learners_fit_of_single_rows_runs():
    def mine(distance, gain, log):
        columns = torch.stack([distance, -distance * (distance.log() if log else distance)], -1)
        return torch.linalg.lstsq(columns, gain[:, None]).solution[:, 0]

    assert torch.allclose(overopt.fit(HUMP[0], "RL form", mine).numbers, overopt.fit(HUMP[0], "RL form").numbers)


# ---------------------------------------------------------------------------------------------- a price, or stopping


def test_a_run_with_a_price_on_the_same_curve_is_as_good_as_stopping():
    found = overopt.price_or_stop(overopt.of(COURSES, beta=0.3), HUMP)
    assert found["kl"] == pytest.approx([9.0] * 3) and abs(found["difference"][0]) < 0.05, "but for the line between two looks"
    assert overopt.price_or_stop(HUMP, overopt.of(COURSES, beta=0.3))["difference"] is None, "never so far without a price"


# ---------------------------------------------------------------------------------------------- alarms


def test_an_alarm_is_in_time_between_half_of_the_gain_and_the_sure_fall():
    course = HUMP[0]
    right = overopt.window(course)
    assert 1 < right.begins <= overopt.peak_of(course) < right.sure
    told = {rang: overopt.tell(course, right, rang).outcome for rang in (1, right.begins, right.sure, right.sure + 1, None)}
    assert list(told.values()) == ["too early", "in time", "in time", "too late", "missed"]
    assert overopt.tell(course, right, right.begins).nats > 0 == overopt.tell(course, right, right.sure).nats
    calm = overopt.window(CLIMB[0])
    assert calm.sure is None and [overopt.tell(CLIMB[0], calm, rang).outcome for rang in (2, None)] == ["false", "silent"]


def test_changes_are_in_units_of_the_start():
    change = overopt.changes(HUMP[0])
    assert change["length"].tolist() == pytest.approx([step / 8 for step in STEPS])
    assert change["entropy"].tolist() == pytest.approx([0.05 * step for step in STEPS]) and not change["disagreement"].any()
    first = next(i for i, step in enumerate(STEPS) if 0.3 * step >= 1)
    assert not change["speed"][: first + 1].any() and change["speed"][first + 1] > 1, "KL grows with the square of the steps"


def test_a_threshold_is_tuned_and_a_useless_monitor_never_rings():
    length = overopt.tuned(HUMP, "length")
    told = [overopt.tell(c, overopt.window(c), overopt.alarm(overopt.changes(c)["length"], length)).outcome for c in HUMP]
    assert told == ["in time"] * 3
    silent = overopt.tuned(HUMP, "disagreement")
    assert all(overopt.alarm(overopt.changes(course)["disagreement"], silent) is None for course in HUMP)


def test_outcomes_are_counted_as_the_exercise_counts_them():
    runs = [*HUMP, *CLIMB]
    rang = [overopt.alarm(overopt.changes(course)["length"], 0.7) for course in runs]
    windows = [overopt.window(course) for course in runs]
    precision, recall = answers.precision_recall(rang, [each.begins for each in windows], [each.sure for each in windows])
    counts = overopt.outcomes([overopt.tell(*each) for each in zip(runs, windows, rang, strict=True)])["counts"]
    alarms = sum(counts[name] for name in ("in time", "too early", "too late", "false"))
    assert precision == counts["in time"] / alarms and recall == counts["in time"] / (len(runs) - counts["false"] - counts["silent"])


# ---------------------------------------------------------------------------------------------- what is shown


def test_every_figure_has_words_and_draws():
    free = [course for course in COURSES if course.beta != 0.3]
    told = {"length": [(course, overopt.tell(course, overopt.window(course), 3)) for course in HUMP]}
    fits = {"ppo": {form: overopt.fit(HUMP[0], form) for form in overopt.FORMS}}
    for figure in (
        overopt_figures.courses_figure(free), overopt_figures.fits_figure(fits), overopt_figures.alarms_figure(told),
        overopt_figures.price_figure(HUMP, overopt.of(COURSES, beta=0.3)), overopt_figures.again_figure(HUMP, HUMP[1]),
        overopt_figures.monitors_figure(HUMP[0], dict.fromkeys(overopt.MONITORS, 1.0)),
    ):  # fmt: skip
        assert len(str(figure.get_label())) > 60
        figure.canvas.draw()


def test_tables_hold_a_line_for_each_kind_of_run():
    rows = overopt.verdicts(COURSES)
    assert len(overopt_tables.falls(rows).splitlines()) == len(rows) + 1 == len(overopt_tables.listing(COURSES).splitlines())
    assert "3 of 3" in overopt_tables.falls(rows) and overopt_tables.shown(None) == "not known"
    assert len((own := overopt_tables.implicit(rows, COURSES)).splitlines()) == 2 and own.count("to 2.0") == 3
    table = {("ppo", 200, form): overopt.fitted(HUMP, form) for form in overopt.FORMS}
    assert len(overopt_tables.fits(table).splitlines()) == 3
    told = {"length": [overopt.tell(course, overopt.window(course), None) for course in HUMP]}
    assert overopt_tables.alarms(told).splitlines()[1].split() == ["length", "0", "0", "0", "3", "0", "0", "-", "-"]


def test_a_run_of_ones_own_is_a_course():
    gold = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    looks = {step: Answers([], [], gold + step, gold, gold, gold, gold) for step in (0, 5)}
    course = overopt.watched("dpo", 200, 0.1, looks)
    assert course.step.tolist() == [0, 5] and course.gold.tolist() == [[1.5, 3.5], [6.5, 8.5]]
    assert course.gain[1].tolist() == pytest.approx([5 / gold.std().item()] * 2)


# ---------------------------------------------------------------------------------------------- the sweep


def test_the_proxy_is_what_ppo_maximises():
    """Centred on the SFT model's answers that ended, with the penalty where an answer did not."""
    blank = torch.zeros(1, 3)
    seen = Look(blank, torch.tensor([[[1.0, 3.0, 100.0]]]), torch.tensor([[1.0, 1.0, 0.0]]), blank, blank, blank)
    assert sweep_overopt.proxy(seen, seen, -3.0).tolist() == [[-1.0, 1.0, -3.0]]


def test_looks_are_denser_at_the_start_and_end_with_the_last_step():
    looks = sorted(sweep_overopt.looks(168, False))
    assert looks[-1] == 168 and len(looks) <= sweep_overopt.LOOKS and looks[1] - looks[0] < looks[-1] - looks[-2]
    assert sweep_overopt.looks(4, True) == {1, 4}


def test_every_point_of_the_grid_is_of_its_own():
    keys = [(*sorted(settings.items()), seed) for settings, seed in sweep_overopt.SWEEP.points]
    assert len(set(keys)) == len(keys) and {seed for _, seed in sweep_overopt.SWEEP.points} == {0, 1, 2}


def test_the_three_exercises_are_in_the_workbook():
    assert {"overoptimisation_fit", "fall_from_peak", "precision_recall"} <= set(checks.EXERCISES)
