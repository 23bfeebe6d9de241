"""The judge at its edges: policies beyond the curves, and a reward model that must judge itself."""

import json

import pytest
import torch

from alignlab import evaluate, sizes, view
from alignlab.models import Policy


def answers(gold: torch.Tensor, kl: float) -> evaluate.Answers:
    ones = torch.ones_like(gold)
    texts = [["a b c"] * gold.shape[1]] * gold.shape[0]
    return evaluate.Answers(["p"] * gold.shape[0], texts, gold, gold, kl * ones, ones, ones)


def plane() -> evaluate.Plane:
    return evaluate.Plane(answers(torch.randn(6, 256, generator=torch.Generator().manual_seed(0)), 0.0))


def test_a_policy_beyond_the_curves_has_a_row_without_efficiencies_and_no_alarm():
    """As PPO with beta 0 may end: 50 nats away, where no sample of the reference has ever been."""
    far = answers(torch.full((6, 8), 9.0), 50.0)
    row = plane().policy(far)
    assert row["kl"] == [50.0, 50.0, 50.0] and row["gold"][0] == pytest.approx(9.0)
    assert row["gold_efficiency"] is None and row["optimiser_efficiency"] is None
    assert plane().alarm("ppo", far) is None
    json.dumps(row, allow_nan=False)


def test_an_interval_of_which_a_tenth_is_unknown_is_no_interval():
    draws = torch.arange(1001, dtype=torch.float64)
    assert evaluate.interval(draws) is not None
    draws[900:] = torch.nan
    assert evaluate.interval(draws) is None


def test_where_the_reward_model_judges_the_missing_eos_rule_holds_for_the_judge_too():
    size = sizes.tiny()
    base = size.load()  # the base model seldom ends
    seen = evaluate.answer(
        Policy(base, None, base), size.judge_prompts[:4], 8, None, lambda samples: samples.lengths.float(),
        max_new_tokens=12, temperature=1.0, missing_eos_score=-3.0, seed=0, reference=True,
    )  # fmt: skip
    cut = seen.stopped == 0
    assert cut.any() and (seen.gold[cut] == -3).all() and torch.equal(seen.gold, seen.scores)


@pytest.mark.parametrize("kind, efficiency", [("gold", [0.8, 0.7, 0.9]), ("gold", None), ("reward_model", None)])
def test_the_verdict_blames_nobody_it_cannot_judge(kind, efficiency):
    ppo = {"gold_efficiency": [0.7, 0.6, 0.8], "reward_model_efficiency": efficiency, "optimiser_efficiency": [0.9, 0.8, 1.0], "kl": [2.0]}
    comparison = {
        "policies": {"ppo": ppo, "dpo": {"gold_efficiency": None}},
        "reward_model": {"accuracy": [0.7, 0.6, 0.8], "skill": None},
        "judge": {"kind": kind},
        "alarms": [],
    }
    words = " ".join(view.verdict(comparison))
    assert ("lost by the judge" in words) == (efficiency is not None)
    assert ("only judge" in words) == (kind == "reward_model")
