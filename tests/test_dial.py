"""The dial: a policy at other strengths of its adapter, and policies at equal KL."""

import pytest
import torch

from alignlab import dial, evaluate, exact, recipes, world
from alignlab.lab import workbook
from alignlab.models import Policy
from alignlab.pipeline import Pipeline, answer
from alignlab.runs import Run

PROMPTS, SAMPLES = 8, 6
SEEN = torch.randn(PROMPTS, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)  # some prompts are easier than others


def answers(gold: float | torch.Tensor, kl: float) -> evaluate.Answers:
    values = (SEEN + gold).expand(PROMPTS, SAMPLES)
    ones = torch.ones_like(values)
    return evaluate.Answers(["p"] * PROMPTS, [], values, values, kl * ones, ones, ones)


@pytest.fixture(scope="module")
def plane() -> evaluate.Plane:
    noise = torch.randn(PROMPTS, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return evaluate.Plane(answers(0.0, 0.0)._replace(gold=SEEN + noise - noise.mean(1, keepdim=True), scores=noise))


def path(slope: float, far: float = 1.0) -> dict[float, evaluate.Answers]:
    """KL = far s^2 and a gain of slope s: a straight line in gold against the square root of KL."""
    return {s: answers(slope * s, far * s**2) for s in (0.0, 0.5, 1.0, 1.5, 3.0)}


# ---------------------------------------------------------------------------------------------- reading off


@pytest.mark.parametrize("kl", [0.0, 0.1, 0.25, 1.0, 2.0, 9.0])
def test_a_path_that_is_straight_over_the_square_root_is_read_off_exactly(plane, kl):
    gain = dial.gold_at(plane, path(2.0), kl) - plane.mean(plane.reference.gold)
    assert torch.allclose(gain, torch.full_like(gain, 2 * kl**0.5))


def test_beyond_a_path_nothing_is_said(plane):
    assert dial.gold_at(plane, path(2.0), 9.01).isnan().all()
    found = dial.equal_kl(plane, {"ppo": path(2.0), "dpo": path(1.0, far=0.01)}, kl=1.0)
    assert (
        found["gold"]["dpo"] is None
        and found["difference"] == {"ppo-dpo": None}
        and found["gold"]["ppo"][0] == pytest.approx(plane.mean(plane.reference.gold)[0].item() + 2)
    )


def test_where_a_path_comes_back_the_way_out_counts(plane):
    there = path(2.0) | {4.0: answers(-5.0, 4.0)}  # beyond strength 3, at 9 nats, it would come back to 4
    gain = dial.gold_at(plane, there, 4.0) - plane.mean(plane.reference.gold)
    assert gain[0].item() == pytest.approx(4.0)


def test_equal_kl_is_by_default_between_the_policies_as_trained_and_paired_over_prompts(plane):
    found = dial.equal_kl(plane, {"ppo": path(2.0, far=4.0), "dpo": path(1.5, far=1.0)})
    assert found["kl"] == pytest.approx(2.0)  # the geometric mean of 4 and 1
    difference = 2 * (2 / 4) ** 0.5 - 1.5 * 2**0.5
    assert found["difference"]["ppo-dpo"] == pytest.approx([difference] * 3)  # what makes prompts differ falls out
    low, high = found["gold"]["ppo"][1:]
    assert high - low > 0.5


def test_three_policies_make_three_pairs_and_one_makes_none(plane):
    three = {name: path(1.0) for name in ("ppo", "dpo", "rloo")}
    assert list(dial.equal_kl(plane, three)["difference"]) == ["ppo-dpo", "ppo-rloo", "dpo-rloo"]
    assert dial.equal_kl(plane, {"dpo": path(1.0)})["difference"] == {}


def test_points_are_strength_kl_and_gold_with_their_intervals(plane):
    strengths, kls, golds = zip(*dial.points(plane, path(2.0)), strict=True)
    assert strengths == (0.0, 0.5, 1.0, 1.5, 3.0)
    assert [kl[0] for kl in kls] == pytest.approx([0.0, 0.25, 1.0, 2.25, 9.0])
    assert all(low < gold < high for gold, low, high in golds)


# ---------------------------------------------------------------------------------------------- turning


@pytest.fixture(scope="module")
def moved() -> Policy:
    """The bundled model with an adapter that has moved at random."""
    policy = recipes.tiny().load().policy(rank=4, seed=0)
    generator = torch.Generator().manual_seed(0)
    for weight in policy.parameters():
        weight.data += 0.03 * torch.randn(weight.shape, generator=generator)
    return policy


def judged(policy: Policy) -> evaluate.Answers:
    recipe = recipes.tiny()
    return answer(recipe, policy, recipe.judge_prompts[:4], 4, None, seed=0)


def test_a_walk_begins_at_the_reference_passes_the_policy_and_leaves_it_as_it_was(moved):
    walked = dial.walk(moved, judged, (2.0, 0.0, 1.0))
    assert list(walked) == [0.0, 1.0, 2.0] and moved.strength == 1
    recipe = recipes.tiny()
    start = answer(recipe, moved, recipe.judge_prompts[:4], 4, None, seed=0, reference=True)
    assert walked[0.0].texts == start.texts and walked[0.0].kl.abs().max() < 1e-6
    assert walked[1.0].texts == judged(moved).texts
    assert 0 < walked[1.0].kl.mean() < walked[2.0].kl.mean()


def test_a_strength_ends_with_its_block_whatever_happens_there(moved):
    with pytest.raises(RuntimeError), dial.turned(moved, 2.5):
        assert moved.strength == 2.5
        raise RuntimeError
    assert moved.strength == 1


def test_a_policy_without_an_adapter_has_no_dial(moved):
    with pytest.raises(ValueError, match="has no strength"):
        dial.walk(Policy(moved.base, None, moved.base), judged)


# ---------------------------------------------------------------------------------------------- the exact partner


@pytest.mark.parametrize("strength", [0.25, 0.5, 1.0, 2.0, 5.0])
def test_mixing_the_optimum_at_beta_gives_the_optimum_at_beta_over_the_strength(strength):
    """On every way to fill the two blanks, under the bundled model's own probabilities and its gold reward."""
    base = recipes.tiny().load()
    fillings = world.blank_fillings()
    reference = evaluate.filling_logps(Policy(base, None, base), recipes.tiny().judge_prompts[0], world.BLANKS, fillings, reference=True)
    rewards = torch.tensor([world.blank_reward(*filling) for filling in fillings], dtype=torch.float64)
    mixed = exact.mixed_logps(exact.optimal_logps(rewards, 0.6, reference), reference, strength)
    optimum = exact.optimal_logps(rewards, 0.6 / strength, reference)
    assert (mixed - optimum).abs().max() < 1e-6


# ---------------------------------------------------------------------------------------------- in a run


@pytest.mark.parametrize(("strengths", "shown"), [((1.0,), False), ((0.5, 1.0), True)])
def test_a_run_that_judges_policies_as_trained_alone_says_nothing_of_other_strengths(moved, tmp_path, monkeypatch, strengths, shown):
    recipe = recipes.tiny()
    recipe.judge_prompts, recipe.samples, recipe.answers, recipe.methods = recipe.judge_prompts[:4], 32, 4, ("dpo",)
    recipe.strengths = strengths
    pipeline = Pipeline(Run(tmp_path, recipe.describe()), recipe, say=lambda words: None)
    monkeypatch.setattr(pipeline, "policy", lambda method: moved)
    monkeypatch.setattr(pipeline, "_cost", lambda name: {})
    pipeline.__dict__ |= {"reference": moved.base, "reward_model": moved.base.reward_model("judge", rank=2)}
    pipeline.__dict__ |= {"pairs": (pipeline.recipe.pairs(None, 0, None)[0][:8],) * 2, "score": lambda samples: samples.lengths.float()}
    comparison = pipeline.compare()
    assert ("dial" in comparison, "at_equal_kl" in comparison) == (shown, shown)


def test_the_notebooks_judge_policies_as_trained(tmp_path):
    assert workbook.open_lab(folder=tmp_path / "run").recipe.strengths == (1.0,)
