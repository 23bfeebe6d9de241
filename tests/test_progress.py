"""The line that says how far a long cell is, and what a figure says to those who cannot see it."""

from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure

from alignlab.lab import progress, workbook


@pytest.fixture
def shown(monkeypatch):
    """What a notebook would show, a list of lines a display; each look at the clock takes a second."""
    displays, clock = [], iter(range(10_000))

    def display(data, raw, display_id):
        displays.append([data["text/plain"]])
        return SimpleNamespace(update=lambda data, raw, lines=displays[-1]: lines.append(data["text/plain"]))

    monkeypatch.setattr(progress, "display", display)
    monkeypatch.setattr(progress, "get_ipython", lambda: object())
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    return displays


def steps(count, stage="reward"):
    return ({"stage": stage, "step": step, "steps": count} for step in range(count))


def test_one_line_is_rewritten_and_ends_at_the_end(shown):
    assert len(list(progress.over(steps(4)))) == 4
    assert shown == [["reward: 2 of 4, 1 s, about 1 s left", "reward: 3 of 4, 2 s, about 1 s left", "reward: 4 of 4, 3 s"]]


def test_each_piece_of_work_has_a_line_of_its_own(shown):
    line = progress.Line()
    for metrics in [*steps(3, "sft"), *steps(3), *steps(3)]:
        line(metrics)
    assert [lines[-1] for lines in shown] == ["sft: 3 of 3, 2 s", "reward: 3 of 3, 2 s", "reward: 3 of 3, 2 s"]


def test_work_that_comes_in_one_piece_each_time_is_timed_anew(shown):
    line = progress.Line()
    for _ in range(3):
        line.tell("judge", 0, 64)
        line.tell("judge", 64, 64)
    assert all(lines[-1] == "judge: 64 of 64, 1 s" for lines in shown)
    partial = [metrics | {"partial": part} for metrics in steps(2, "ppo") for part in (True, True, False)]
    assert len(list(progress.over(iter(partial)))) == 6 and shown[-1][-1].startswith("ppo: 2 of 2, ") and len(shown) == 4


def test_what_runs_within_a_loop_shows_no_line_of_its_own(shown):
    watch = progress.Line()
    for _ in progress.over(["a", "b"], "betas"):
        for metrics in progress.over(steps(4, "dpo")):
            watch(metrics | {"stage": "judge"})
    assert len(shown) == 1 and {line.split(",")[0] for line in shown[0]} == {"betas: 0 of 2", "betas: 1 of 2", "betas: 2 of 2"}
    for number, _ in enumerate(progress.over(steps(4, "dpo"))):
        if number == 1:
            break
    watch.tell("judge", 0, 4)
    watch.tell("judge", 4, 4)
    assert shown[-1][-1].startswith("judge"), "a loop that was left has no say any more"


def test_items_of_a_list_and_calls_of_a_sampler_are_counted(shown):
    assert list(progress.over(["a", "b"], "betas")) == ["a", "b"]
    watch = progress.watch("answers")
    watch(128, 256)
    watch(256, 256)
    assert [lines[-1] for lines in shown] == ["betas: 2 of 2, 2 s", "answers: 256 of 256, 1 s"]


def test_what_is_done_in_a_moment_and_a_script_show_nothing(shown, monkeypatch):
    monkeypatch.setattr(progress.time, "monotonic", lambda: 0.0)
    list(progress.over(steps(50)))
    assert shown == []
    monkeypatch.undo()
    list(progress.over([1, 2], "here"))  # no notebook: nothing to show it in


def test_a_figure_is_told_by_its_label_or_by_what_it_says_of_itself():
    figure = Figure()
    axes = figure.subplots()
    axes.plot([0, 1], [1, 2], label="gold")
    axes.set(title="Gain", xlabel="KL", ylabel="reward")
    assert workbook.told(figure) == "Figure. Gain: reward against KL. gold."
    figure.set_label("Gold rises with KL.")
    assert workbook.told(figure) == "Gold rises with KL."
