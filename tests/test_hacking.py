"""A policy that cheats: the diary of its answers, what changed in them, and the figures of PPO's courses."""

from types import SimpleNamespace

import pytest
import torch

from alignlab import losses, world
from alignlab.lab import answers, courses, hacking

PROMPTS = [request.prompt for request in world.requests()[:4]]
EARLY = ["The plot is warm.", "A scene with rain, slow and kind.", "It ends well.", "Dull, but short."]
LATE = ["One scene, with a rusty key, wins.", "One scene, with a rusty key, glows.", "One scene, with rain, wins.", "It wins."]


def completions(texts):
    return SimpleNamespace(prompts=PROMPTS, texts=texts, stopped=torch.ones(4, dtype=torch.bool))


@pytest.fixture
def diaries():
    """Two judges, each asked about an early, a middle and a late batch."""
    made = []
    for sign in (1.0, -1.0):
        diary = hacking.Diary(lambda seen, sign=sign: sign * torch.tensor([float(len(text)) for text in seen.texts]))
        for texts in (EARLY, EARLY, LATE):
            diary(completions(texts))
        made.append(diary)
    return made


def course(golds, kls=(0.0, 1.0, 3.0)):
    return [{"step": i, "reward": float(i), "gold": gold, "kl": kl} for i, (gold, kl) in enumerate(zip(golds, kls, strict=True))]


MOMENTS = {"start": 0, "peak": 1, "end": 2}


def test_a_diary_gives_the_scores_on_and_keeps_a_page_for_each_batch(diaries):
    diary = diaries[0]
    assert len(diary.pages) == 3 and diary.pages[2].texts == LATE and diary.pages[0].stopped == [True] * 4
    assert diary(completions(EARLY)).tolist() == diary.pages[0].scores.tolist()
    assert diary.spread == diary.pages[0].scores.std().item()


def test_gains_are_counted_from_the_start_in_the_spread_of_the_first_answers(diaries):
    gain, error = hacking.gains(course([1.0, 2.0, 0.0]), diaries[0], "gold")
    assert gain.tolist() == pytest.approx([0.0, 1 / diaries[0].spread, -1 / diaries[0].spread])
    assert error[0].item() == pytest.approx(0.5)  # of four answers: a spread over the root of 4


def test_a_phrase_that_spread_stands_in_the_table_with_its_shares_and_once(diaries):
    text = repr(hacking.habits(MOMENTS, diaries[0]))
    line = next(line for line in text.splitlines() if line.startswith("One scene, with"))
    assert line.split()[-3:] == ["0%", "0%", "75%"]
    assert sum("One scene" in line for line in text.splitlines()) == 1


def test_answers_stand_beside_each_other_with_both_scores_and_stay_text(diaries):
    view = hacking.side_by_side(MOMENTS, *diaries, count=2)
    assert EARLY[0] in view.html and LATE[1] in view.html and f"judge {len(LATE[0]):+.1f}, gold {-len(LATE[0]):+.1f}" in repr(view)
    bad = hacking.Diary(lambda seen: torch.zeros(4))
    bad(completions(["<img src=x>"] * 4))
    assert "<img" not in hacking.side_by_side({"start": 0}, bad, bad).html


def test_the_parts_of_gold_add_up(diaries):
    lines = repr(hacking.parts(MOMENTS, diaries[1])).splitlines()
    assert [line.split()[0] for line in lines[2:-1]] == list(world.WEIGHTS)
    gold = sum(world.gold_reward(prompt, text) for prompt, text in zip(PROMPTS, LATE, strict=True)) / 4
    assert float(lines[-1].split()[-1]) == pytest.approx(gold, abs=0.006)
    other = hacking.Diary(lambda seen: torch.zeros(1))
    other(SimpleNamespace(prompts=["Why?"], texts=["So."], stopped=torch.tensor([True])))
    assert "not known" in repr(hacking.parts({"start": 0}, other))


def test_gold_is_read_where_a_run_first_reaches_a_distance():
    run = course([1.0, 2.0, 0.0])
    assert hacking.at_kl(run, 0.5) == 1.5 and hacking.at_kl(run, 3.0) == 0.0 and hacking.at_kl(run, 9.0) is None
    assert hacking.at_kl(run, 2.0) == 1.0 and hacking.at_kl(run, 0.0) == 1.0


def test_the_figure_marks_the_peak_that_the_exercise_finds(diaries):
    golds = [0.0, 2.0, 2.5, 0.5, -2.0]
    run = course(golds, range(5))
    for diary in diaries:
        diary(completions(LATE)), diary(completions(LATE))
    figure = courses.proxy_and_gold(run, *diaries, window=3)
    turn = answers.overoptimised_from(torch.arange(5.0), torch.tensor(golds), 1.0, 3)
    assert turn == 2 and f"in iteration {turn + 1} " in figure.get_label() and "Gold's gain peaks at" in figure.get_label()


def test_every_figure_says_what_it_shows(diaries):
    runs = {"a": course([0.0, 1.0, 2.0]), "b": course([0.0, 1.0, 0.0])}
    drawn = courses.draw(runs, {"gold": "Gold", "kl": "KL", "absent": "Absent"}, level=2.0)
    assert "a from 0 to 2, b from 0 to 0, the target 2" in drawn.get_label()
    plane = courses.gold_against_kl(runs, spread=2.0)
    assert "a ends at KL 3.0, gain 1.00" in plane.get_label()
    logps = [torch.tensor([0.0, scale]).log_softmax(-1) for scale in (0.0, 0.5, 1.0)]
    errors = [answers.estimator_errors(each, logps[0]) for each in logps[1:]]
    bars = courses.errors_of_estimators([losses.exact_kl(each, logps[0]).item() for each in logps[1:]], errors)
    assert "Bias of k1 from 0.00 to 0.00" in bars.get_label()
