"""The parts of gold: in answers they add up to gold, and in labels they are found again."""

from random import Random

import pytest
import torch

from alignlab import world
from alignlab.evaluate import Answers
from alignlab.lab import parts
from alignlab.records import data_folder, read_preferences

PARTS = list(world.WEIGHTS)


@pytest.fixture(scope="module")
def pairs():
    return read_preferences(data_folder() / "preferences_test.jsonl")[:400]


def labelled(pairs, part):
    """The same pairs, labelled by one part alone."""
    found = []
    for pair in pairs:
        one, other = (world.gold_parts(pair["prompt"], pair[side])[part] for side in ("chosen", "rejected"))
        if one != other:
            sides = ("chosen", "rejected") if one > other else ("rejected", "chosen")
            found.append({"prompt": pair["prompt"], "chosen": pair[sides[0]], "rejected": pair[sides[1]]})
    return found


def test_the_columns_add_up_to_gold(pairs):
    shown = [{"prompt": pair["prompt"], "completion": pair["chosen"]} for pair in pairs[:5]]
    gold = torch.tensor([world.gold_reward(each["prompt"], each["completion"]) for each in shown])
    lines = repr(parts.table({"demonstrations": shown})).splitlines()
    assert len(lines) == len(PARTS) + 2 and lines[-1].startswith("= gold reward") and f"{gold.mean():.2f} ± " in lines[-1]
    added = sum(float(line.split("×")[1].split()[1]) for line in lines[1:-1])
    assert added == pytest.approx(gold.mean().item(), abs=0.03)


def test_an_answer_that_was_cut_off_counts_as_one(pairs):
    prompt, text = pairs[0]["prompt"], pairs[0]["chosen"]
    blank = torch.zeros(1, 2)
    answers = Answers([prompt], [[text, text]], blank, blank, blank, blank, torch.tensor([[1.0, 0.0]]))
    gold = sum(world.gold_reward(prompt, text, stopped) for stopped in (True, False)) / 2
    assert f"{gold:.2f} ± 0.00" in repr(parts.table({"ppo": answers})).splitlines()[-1]
    assert "PPO" in parts.table({"ppo": answers}).html


def test_a_size_whose_gold_has_no_parts_says_so():
    assert "no parts" in repr(parts.table({"sft": [{"prompt": "Why?", "completion": "Because."}]}))


@pytest.mark.parametrize("part", PARTS)
def test_the_part_that_decided_the_labels_is_found(pairs, part):
    labels = labelled(pairs, part)
    found = parts.taste(labels).weights
    value, low, high = found[part]
    assert low < value < high and value == max(each[0] for each in found.values())
    assert low > 0 or len(labels) < 20, "a part that hardly ever differs is in doubt"


def test_turned_labels_turn_the_weights(pairs):
    turned = [{**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in pairs]
    for (value, low, high), (other, *ends) in zip(parts.taste(pairs).weights.values(), parts.taste(turned).weights.values(), strict=True):
        assert (value, low, high) == pytest.approx((-other, -ends[1], -ends[0]), abs=1e-6)


def test_more_labels_say_more_and_labels_by_a_coin_nothing(pairs):
    coin = Random(0)
    tossed = [pair if coin.random() < 0.5 else {**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in pairs]
    few, many, noise = (parts.taste(each) for each in (pairs[:20], pairs, tossed))
    for part in PARTS:
        assert few.weights[part][2] - few.weights[part][1] > many.weights[part][2] - many.weights[part][1]
    assert sum(low > 0 or high < 0 for _, low, high in noise.weights.values()) <= 1
    assert "it may be nothing" in str(few) and str(many).startswith("from 400 labels")


def test_without_labels_it_asks_for_some_and_draws_none(pairs):
    nobody = parts.taste([])
    assert str(nobody).startswith("0 labels so far") and "label at least 8 pairs" in str(parts.taste(pairs[:3]))
    figure = parts.taste_figure({"you": nobody, "Nora": parts.taste(pairs)})
    names = figure.axes[0].get_legend_handles_labels()[1]
    assert names == ["Nora, 400 labels"] and "Nora: " in figure.get_label() and "you" not in figure.get_label()
