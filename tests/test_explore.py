"""Explorers: the numbers' laws, the words and figures of every state, and the box of sliders."""

import io
import math
from base64 import b64decode

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from alignlab import world
from alignlab.lab import explore, explore_pairs, explore_tokens
from alignlab.lab.explorer import Explorer

torch.set_num_threads(1)

# explorer: its settings as the box starts, and others
STATES = {
    "preference_sigmoid": [(1.0, 2.0, 0.1), (-6.0, 0.2, 0.0), (6.0, 5.0, 0.5)],
    "dpo_loss_and_gradient": [(0.5, 0.0, 0.0), (3.0, 0.4, 12.0), (0.02, 0.4, -12.0)],
    "clipped_objective": [(0.2, 1.5, 1.0), (0.8, 0.05, 3.0), (0.05, 1.0, 0.1)],
    "gae_on_an_episode": [(0.7, 1.0, 0.3), (0.0, 0.5, 0.0), (0.5, 1.0, 1.0)],
    "kl_estimators": [(0.8, 10_000, 0), (0.0, 10, 20), (3.0, 10_000, 1)],
    "tilted_optimum": [(0.5,), (0.05,), (10.0,)],
}


def of(name: str, part: str):
    """An explorer's numbers, figure or words as a function of its settings alone."""
    room = next(room for room in (explore, explore_pairs, explore_tokens) if hasattr(room, f"{name}_{part}"))
    numbers, found = getattr(room, f"{name}_numbers"), getattr(room, f"{name}_{part}")
    if part == "numbers":
        return found
    return lambda *settings, **named: found(numbers(*settings, **named), *settings, **named)


@pytest.fixture(scope="module")
def boxes() -> dict[str, Explorer]:
    return {name: getattr(explore, name)() for name in STATES}


# The numbers


def test_the_sigmoid_at_numbers_done_by_hand():
    plain = explore_pairs.preference_sigmoid_numbers(math.log(3), 1.0, 0.0)  # odds of 3 to 1
    assert plain["probability"] == pytest.approx(0.75)
    assert plain["loss"] == pytest.approx(math.log(4 / 3)) and plain["fitted"] == pytest.approx(math.log(3))
    assert explore_pairs.preference_sigmoid_numbers(2 * math.log(3), 2.0, 0.0)["probability"] == pytest.approx(0.75)
    noisy = explore_pairs.preference_sigmoid_numbers(math.log(3), 1.0, 0.1)  # .1 + .8 x .75
    assert noisy["probability"] == pytest.approx(0.7)
    assert all(0.1 <= p <= 0.9 for p in noisy["probabilities"])


def test_a_steep_annotator_gives_no_infinite_difference():
    assert explore_pairs.preference_sigmoid_numbers(6.0, 0.2, 0.0)["fitted"] == pytest.approx(30.0, rel=1e-3)


def test_dpo_starts_at_log_2_with_a_gradient_of_half_beta():
    for beta in (0.1, 0.5, 2.0):
        numbers = explore_pairs.dpo_loss_and_gradient_numbers(beta, 0.0, 0.0)
        assert numbers["loss"] == pytest.approx(math.log(2)) and numbers["gradient"] == pytest.approx(-beta / 2)
        assert numbers["start"] == numbers["gradient"] and numbers["lowest"] is None
        assert all(gradient < 0 for gradient in numbers["gradients"])


def test_label_smoothing_puts_the_lowest_loss_where_the_odds_are_those_of_the_labels():
    # a fifth of labels wrong: odds 4 to 1, so beta times the difference is log 4
    numbers = explore_pairs.dpo_loss_and_gradient_numbers(0.5, 0.2, 5.0)
    assert numbers["lowest"] == pytest.approx(2 * math.log(4), abs=0.06)
    assert numbers["gradient"] > 0
    assert numbers["losses"].index(min(numbers["losses"])) == pytest.approx(numbers["differences"].index(numbers["lowest"]), abs=1)


def test_a_larger_beta_pulls_harder_at_the_start_and_lets_go_sooner():
    small, large = (explore_pairs.dpo_loss_and_gradient_numbers(beta, 0.0, 8.0) for beta in (0.3, 1.0))
    assert large["start"] < small["start"] < 0
    assert small["gradient"] < large["gradient"] < 0


def test_the_clip_stops_the_gradient_above_on_good_tokens_and_below_on_bad_ones():
    numbers = explore_tokens.clipped_objective_numbers(0.2, 1.0, 2.0)
    for ratio, good, bad in zip(numbers["ratios"], numbers["good"]["gradients"], numbers["bad"]["gradients"], strict=True):
        if abs(ratio - 1.2) > 1e-6 and abs(ratio - 0.8) > 1e-6:
            assert good == (0 if ratio > 1.2 else pytest.approx(2 * ratio)), ratio
            assert bad == (0 if ratio < 0.8 else pytest.approx(-2 * ratio)), ratio
    assert max(numbers["good"]["objectives"]) == pytest.approx(2.4) and max(numbers["bad"]["objectives"]) == pytest.approx(-1.6)


def test_the_shade_of_the_clip_covers_what_has_no_gradient():
    figure = of("clipped_objective", "figure")(0.5, 1.0, 1.0)
    edges = [axes.collections[0].get_paths()[0].get_extents() for axes in figure.axes]
    assert (edges[0].x0, edges[0].x1) == (pytest.approx(1.5, abs=0.01), pytest.approx(2.5))
    assert (edges[1].x0, edges[1].x1) == (pytest.approx(0.02), pytest.approx(0.5, abs=0.01))


def test_gae_between_its_ends():
    # lambda 1, gamma 1: all rewards to come less the value; the log-ratios sum to 2.6, so at beta .5 the rewards sum to .7
    whole = explore_tokens.gae_on_an_episode_numbers(1.0, 1.0, 0.5)
    assert sum(whole["rewards"]) == pytest.approx(0.7) and whole["advantages"][0] == pytest.approx(0.7 - 0.5)
    assert whole["advantages"] == whole["monte_carlo"] and whole["reach"] == 1
    # lambda 0: the value's next step; from "truly" at .4 to 1.0, with a reward of -.5 x .9
    step = explore_tokens.gae_on_an_episode_numbers(0.0, 1.0, 0.5)
    assert step["advantages"][2] == pytest.approx(-0.45 + 1.0 - 0.4) and step["reach"] == 0
    # the last token hears of the score whatever lambda is: 2 - .5 x .2 - 1.8
    for lam in (0.0, 0.5, 1.0):
        assert explore_tokens.gae_on_an_episode_numbers(lam, 0.9, 0.5)["advantages"][-1] == pytest.approx(0.1)


def test_without_beta_only_the_last_token_is_rewarded():
    assert explore_tokens.gae_on_an_episode_numbers(0.5, 1.0, 0.0)["rewards"] == [0] * 7 + [2]


def test_kl_estimates_tend_to_the_truth_but_for_k2():
    numbers = explore_tokens.kl_estimators_numbers(1.5, 10_000, 3)
    policy, reference = numbers["policy"], numbers["reference"]
    truth = sum(p * math.log(p / q) for p, q in zip(policy, reference, strict=True))
    assert numbers["truth"] == pytest.approx(truth, abs=1e-6)
    for kind in ("k1", "k3"):
        assert numbers[kind]["expected"] == pytest.approx(truth, abs=1e-5)
        assert abs(numbers[kind]["mean"] - truth) < 4 * numbers[kind]["se"]
    assert abs(numbers["k2"]["expected"] - truth) > 0.005
    assert abs(numbers["k2"]["mean"] - numbers["k2"]["expected"]) < 4 * numbers["k2"]["se"]


def test_standard_errors_fall_with_the_root_of_the_samples_and_a_seed_repeats():
    few, many = (explore_tokens.kl_estimators_numbers(0.5, samples, 0) for samples in (100, 10_000))
    assert many["k1"]["se"] == pytest.approx(few["k1"]["se"] / 10, rel=0.3)
    assert explore_tokens.kl_estimators_numbers(0.5, 100, 0) == few != explore_tokens.kl_estimators_numbers(0.5, 100, 1)


def test_equal_distributions_have_no_kl():
    numbers = explore_tokens.kl_estimators_numbers(0.0, 50, 0)
    assert [numbers["truth"]] + [numbers[kind][each] for kind in ("k1", "k2", "k3") for each in ("mean", "se")] == [0] * 7


def test_the_optimums_kl_and_reward_fall_as_beta_rises():
    numbers = [explore.tilted_optimum_numbers(beta) for beta in (0.05, 0.2, 0.5, 1.0, 3.0, 10.0)]
    for near, far in zip(numbers[1:], numbers, strict=False):
        assert near["kl"] < far["kl"] and near["reward"] < far["reward"]
    assert numbers[-1]["reward"] == pytest.approx(numbers[-1]["start"], abs=0.1)
    assert numbers[0]["reward"] == pytest.approx(1.5, abs=0.01)  # all on "very warm" and "very sharp"
    for each in numbers:
        assert sum(each["optimum"]) == pytest.approx(1) and sum(each["reference"]) == pytest.approx(1)


def test_two_fillings_tilted_by_hand():
    # rewards 1.5 and -1.5, alike in the reference, beta 3: odds of e to 1
    numbers = explore.tilted_optimum_numbers(3.0, [("very", "warm"), ("very", "dull")], torch.zeros(2))
    p = math.e / (1 + math.e)
    assert numbers["optimum"] == pytest.approx([p, 1 - p])
    assert numbers["kl"] == pytest.approx(math.log(2) + p * math.log(p) + (1 - p) * math.log(1 - p))


def test_the_frontiers_slope_at_the_optimum_is_beta():
    a, b = (explore.tilted_optimum_numbers(beta) for beta in (0.499, 0.501))
    assert (a["reward"] - b["reward"]) / (a["kl"] - b["kl"]) == pytest.approx(0.5, rel=1e-3)


def test_a_model_s_own_fillings_take_the_place_of_the_built_in_ones():
    fillings = world.blank_fillings()
    numbers = explore.tilted_optimum_numbers(1.0, fillings, torch.zeros(len(fillings)))
    assert len(numbers["optimum"]) == 480 and numbers["start"] == pytest.approx(0.0, abs=1e-9)  # as much praise as blame
    assert isinstance(explore.tilted_optimum_figure(numbers, 1.0), Figure)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: explore_pairs.preference_sigmoid_numbers(1.0, 0.0, 0.0), "temperature must be > 0"),
        (lambda: explore_pairs.dpo_loss_and_gradient_numbers(0.0, 0.0, 0.0), "beta must be > 0"),
        (lambda: explore_tokens.clipped_objective_numbers(0.2, 0.0, 1.0), "ratio"),
        (lambda: explore_tokens.clipped_objective_numbers(0.2, 1.0, 0.0), "size"),
        (lambda: explore_tokens.gae_on_an_episode_numbers(1.5, 1.0, 0.1), "lam must lie in"),
        (lambda: explore_tokens.kl_estimators_numbers(1.0, 1, 0), "2 samples"),
        (lambda: explore.tilted_optimum_numbers(1.0, [("very", "warm")]), "both"),
        (lambda: explore.tilted_optimum_numbers(1.0, [("very", "warm")], torch.zeros(2)), "one log-prob a filling"),
    ],
)
def test_impossible_settings_are_refused_in_words(call, words):
    with pytest.raises(ValueError, match=words):
        call()


# Words and figures


@pytest.mark.parametrize("name", STATES)
def test_what_to_look_for_changes_with_the_state(name):
    words = [of(name, "words")(*state) for state in STATES[name]]
    assert len({each.look for each in words}) == len({each.numbers for each in words}) == 3
    assert all("nan" not in " ".join(each[:3]) for each in words)


@pytest.mark.parametrize("name", STATES)
def test_figures_draw_at_the_ends_of_the_sliders(name):
    for state in STATES[name][1:]:
        figure = of(name, "figure")(*state)
        assert isinstance(figure, Figure)
        for axes in figure.axes:
            assert axes.get_title(loc="left") and (axes.get_xlabel() or axes.get_shared_x_axes().get_siblings(axes)[1:])
            assert all(math.isfinite(edge) for edge in (*axes.get_xlim(), *axes.get_ylim()))


@pytest.mark.parametrize("name", STATES)
def test_curves_differ_in_dash_or_marker_as_well_as_hue(name):
    for axes in of(name, "figure")(*STATES[name][0]).axes:
        curves = [line for line in axes.lines if not line.get_label().startswith("_")]
        looks = [(str(line._dash_pattern), line.get_marker()) for line in curves]
        assert len(set(looks)) == len(looks)


# The box


def test_the_numbers_are_worked_out_once_at_each_move():
    asked = []
    box = Explorer(
        lambda **settings: asked.append(settings) or of("preference_sigmoid", "numbers")(**settings),
        explore_pairs.preference_sigmoid_figure, explore_pairs.preference_sigmoid_words, explore.preference_sigmoid().controls,
    )  # fmt: skip
    box.controls["flip"].value = 0.2
    assert [settings["flip"] for settings in asked] == [0.1, 0.2]


@pytest.mark.parametrize("name", STATES)
def test_a_box_starts_at_its_first_state_with_labelled_sliders(boxes, name):
    box = boxes[name]
    assert tuple(box.settings.values()) == pytest.approx(STATES[name][0])
    assert all(control.description and control.continuous_update is False for control in box.controls.values())
    assert box.words == of(name, "words")(**box.settings)


@pytest.mark.parametrize("name", STATES)
def test_moving_a_slider_changes_picture_and_numbers_in_place(boxes, name):
    box = boxes[name]
    children, before = box.children, (box.picture.value, box.caption.value)
    for control, value in zip(box.controls.values(), STATES[name][1], strict=True):
        control.value = value
    assert box.children == children
    assert box.picture.value != before[0] and box.caption.value != before[1]
    assert box.words == of(name, "words")(**box.settings)


@pytest.mark.parametrize("name", STATES)
def test_where_no_widget_lives_there_is_a_picture_and_text(boxes, name):
    box = boxes[name]
    bundle = box._repr_mimebundle_()
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == box.model_id
    assert box._ipython_display_ is None
    assert box.words.numbers in bundle["text/plain"] and box.words.look in bundle["text/plain"]
    assert 'alt="' in bundle["text/html"] and "data:image/png;base64," in bundle["text/html"] and "VBox" not in str(bundle)


def test_where_many_fillings_share_a_reward_one_of_each_has_a_bar():
    fillings = world.blank_fillings()
    numbers = explore.tilted_optimum_numbers(0.5, fillings, torch.arange(len(fillings)) / 100)
    figure = explore.tilted_optimum_figure(numbers, 0.5)
    told = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(told) == len(set(numbers["rewards"])) and "+1.7" in told[-1] and "-1.7" in told[0]
    assert "the likeliest filling of each reward" in figure.axes[0].get_xlabel()


def test_the_picture_is_a_small_png(boxes):
    page = boxes["tilted_optimum"].picture.value
    encoded = page.split("base64,")[1].split('"')[0]
    image = Image.open(io.BytesIO(b64decode(encoded)))
    assert image.format == "PNG" and image.width <= 2000 and len(encoded) < 200_000 and 'width="960"' in page


def test_a_filling_that_is_a_script_stays_text():
    fillings = [("very", '"><img src=x onerror=alert(1)>'), ("very", "$x$ </code><script>alert(1)</script>")]
    page = explore.tilted_optimum(fillings, torch.tensor([0.0, 1.0]))._repr_mimebundle_()["text/html"]
    assert page.count("<img") == 1 and "<script" not in page and "</code><" not in page.replace("</code></p>", "")
