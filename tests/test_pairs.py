"""Pairs sampled from a model: which two answers are shown to the annotator, and which are left out."""

import pytest
import torch

from alignlab import recipes, world
from alignlab.errors import UserError
from alignlab.models import Policy
from alignlab.pairs import sample_pairs
from alignlab.rollout import sample

TOKENS = 80


@pytest.fixture(scope="module")
def base():
    return recipes.tiny().load()  # many of its answers do not end by themselves


def length(samples):
    return samples.lengths.float()


def pairs(base, prompts, draws, annotator):
    return sample_pairs(base, prompts, length, annotator, seed=3, max_new_tokens=TOKENS, draws=draws)


@pytest.mark.parametrize("draws", [2, 5])
def test_the_annotator_sees_the_two_whole_answers_that_lie_furthest_apart(base, draws):
    prompts, chance = recipes.tiny().judge_prompts, torch.Generator(base.device).manual_seed(3)
    drawn = sample(Policy(base, None, base), [p for p in prompts for _ in range(draws)], TOKENS, chance)
    expected = []
    for first in range(0, len(drawn), draws):
        rows = [row for row in range(first, first + draws) if drawn.stopped[row] and drawn.texts[row].strip()]
        if len(rows) > 1:
            gold = {drawn.texts[row].strip(): drawn.lengths[row].item() for row in rows}
            if len(gold) > 1:
                expected.append((drawn.prompts[first], max(gold.values()), min(gold.values())))
    sure = world.Annotator(temperature=1e-3, flip=0.0)
    records = pairs(base, prompts, draws, sure)
    assert len(records) >= 4 and not drawn.stopped.all()
    assert [(r["prompt"], r["gold_chosen"], r["gold_rejected"]) for r in records] == expected


def test_chosen_and_rejected_carry_their_own_gold(base):
    lengths = {}

    def remembered(samples):
        lengths.update({text.strip(): count.item() for text, count in zip(samples.texts, samples.lengths, strict=True)})
        return length(samples)

    records = sample_pairs(base, recipes.tiny().judge_prompts, remembered, world.Annotator(), seed=3, max_new_tokens=TOKENS, draws=3)
    for record in records:
        assert record["chosen"] != record["rejected"]
        assert (lengths[record["chosen"]], lengths[record["rejected"]]) == (record["gold_chosen"], record["gold_rejected"])


def test_labels_follow_the_annotator(base):
    """Of pairs on which it is unsure by construction, about half are turned round; the certainty says so."""
    records = pairs(base, recipes.tiny().judge_prompts * 6, 2, world.Annotator(temperature=1e6, flip=0.0))
    turned = sum(record["gold_chosen"] < record["gold_rejected"] for record in records) / len(records)
    assert len(records) > 40 and 0.25 < turned < 0.75
    assert all(record["certainty"] == pytest.approx(0.5, abs=1e-3) for record in records)


def test_no_pair_is_said_with_its_cure(base):
    with pytest.raises(UserError, match="train SFT longer"):
        sample_pairs(base, recipes.tiny().judge_prompts[:2], length, world.Annotator(), seed=0, max_new_tokens=1)
