"""The dial in a notebook: figure, words and slider over policies' paths."""

import pytest
import torch
from test_dial import answers as answers_of
from test_dial import plane  # noqa: F401

from alignlab.lab import view, walks


def path(peak: float, far: float) -> dict:
    """Gold rises to the peak's strength and falls beyond it; KL = far s^2."""
    made = {s: answers_of(2 - (s - peak) ** 2, far * s**2) for s in (0.0, 0.5, 1.0, 2.0, 3.0)}
    made[0.0] = made[0.0]._replace(gold=answers_of(0.0, 0.0).gold)
    return {s: each._replace(texts=[[f"answer at {s:g}"] * 6] * 8) for s, each in made.items()}


@pytest.fixture
def paths():
    return {"ppo": path(2.0, 2.0), "dpo": path(1.0, 1.0)}


def test_the_slider_moves_every_policy_and_shows_what_it_writes_there(plane, paths):  # noqa: F811
    explorer = walks.turn(plane, paths)
    assert [value for _, value in explorer.controls["strength"].options] == [0.0, 0.5, 1.0, 2.0, 3.0]
    assert explorer.settings == {"strength": 1.0} and "as they were trained" in explorer.words.look
    explorer.controls["strength"].value = 3.0
    assert "answer at 3" in explorer.caption.value and "answer at 1" not in explorer.caption.value
    assert "PPO: KL 18.00 nats" in explorer.words.numbers and "DPO: KL 9.00 nats" in explorer.words.numbers
    text = explorer._repr_mimebundle_()["text/plain"]
    assert "At strength = 3" in text and "answer at 3" in text


@pytest.mark.parametrize(
    ("strength", "look"),
    [(0.5, "first nats buy the most"), (2.0, "DPO has more of what it learned"), (3.0, "PPO and DPO have more of what they learned")],
)
def test_what_to_look_for_follows_the_peaks(plane, paths, strength, look):  # noqa: F811
    assert look in walks.paths_words(walks.paths_numbers(plane, paths, strength), strength).look


def test_before_every_peak_the_words_say_that_gold_still_rises(plane):  # noqa: F811
    numbers = walks.paths_numbers(plane, {"dpo": path(3.0, 1.0)}, 2.0)
    assert "gold still rises" in walks.paths_words(numbers, 2.0).look


def test_the_figure_draws_every_path_from_the_start_over_a_root_scale(plane, paths):  # noqa: F811
    numbers = walks.paths_numbers(plane, paths, 2.0)
    figure = walks.paths_figure(numbers, 2.0)
    (axes,) = figure.axes
    lines = {bars.get_label(): bars[0] for bars in axes.containers}
    assert lines["PPO"].get_xdata().tolist() == pytest.approx([0, 0.5, 2, 8, 18])
    assert lines["PPO"].get_ydata()[0] == lines["DPO"].get_ydata()[0] == pytest.approx(numbers["start"])
    to_canvas = axes.transData.transform
    x = [to_canvas((kl, 0))[0] for kl in (0, 4, 16)]
    assert x[1] - x[0] == pytest.approx(x[2] - x[1])
    assert "PPO is highest at strength 2" in figure.get_label() and view.png(figure)


def test_paths_of_different_strengths_share_those_that_both_have(plane, paths):  # noqa: F811
    del paths["dpo"][1.0]
    control = walks.turn(plane, paths).controls["strength"]
    assert [value for _, value in control.options] == [0.0, 0.5, 2.0, 3.0] and control.value == 0.0
    assert torch.isfinite(paths["ppo"][0.5].gold).all()
