"""The recorded sweeps as the labs read them."""

import json

import pytest
import torch

from alignlab import evaluate, records
from alignlab.errors import UserError
from alignlab.lab import sweeps

PROMPTS = 6


def point(method: str, seed: int, slope: float) -> dict:
    """KL = s^2 and a gain of slope s, on prompts that differ."""
    start = [5 + 0.3 * prompt + 0.1 * seed for prompt in range(PROMPTS)]
    rows = []
    for s in (0.5, 1.0, 2.0):
        per_prompt = {"gold": [gold + slope * s for gold in start], "kl": [s * s] * PROMPTS, "score": [s] * PROMPTS}
        rows.append({"strength": s, **per_prompt, "length": 30.0, "stop_rate": 1.0})
    return {"settings": {"method": method, "beta": 0.5}, "seed": seed, "result": {"reference": {"gold": start, "sd": 1.0}, "path": rows}}


POINTS = [point(method, seed, slope + 0.1 * seed) for seed in (2, 0, 1) for method, slope in (("ppo", 1.0), ("dpo", 1.5))]


def test_points_are_found_by_their_settings_and_come_by_seed():
    found = sweeps.of(POINTS, method="dpo", beta=0.5)
    assert [(each["settings"]["method"], each["seed"]) for each in found] == [("dpo", 0), ("dpo", 1), ("dpo", 2)]
    with pytest.raises(ValueError, match="no point with"):
        sweeps.of(POINTS, method="rloo")


def test_gold_at_a_kl_is_read_off_each_seeds_path():
    gold = sweeps.gold_at(sweeps.of(POINTS, method="ppo"), 2.25)
    start = [sum(each["result"]["reference"]["gold"]) / PROMPTS for each in sweeps.of(POINTS, method="ppo")]
    assert gold[:, 0].tolist() == pytest.approx([base + 1.5 * slope for base, slope in zip(start, (1.0, 1.1, 1.2), strict=True)])


def test_a_difference_is_paired_over_prompts_and_wide_over_seeds():
    difference = sweeps.gold_at(sweeps.of(POINTS, method="dpo"), 1.0) - sweeps.gold_at(sweeps.of(POINTS, method="ppo"), 1.0)
    mean, low, high = evaluate.over_seeds(difference)
    assert mean == pytest.approx(0.5) and high - low < 1e-6  # what makes prompts and seeds differ falls out
    mean, low, high = evaluate.over_seeds(sweeps.gold_at(sweeps.of(POINTS, method="ppo"), 1.0))
    assert high - low > 0.5


def test_what_a_policy_is_as_trained():
    kl = sweeps.as_trained(sweeps.of(POINTS, method="ppo"), "kl")
    assert kl.shape == (3, evaluate.RESAMPLES + 1) and torch.allclose(kl, torch.ones_like(kl))


def test_a_sweep_that_was_not_measured_is_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "data_folder", lambda: tmp_path)
    with pytest.raises(UserError, match="measure it with `alignlab sweep strength`"):
        sweeps.load("strength")
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "strength.json").write_text(json.dumps({"name": "strength", "points": POINTS}))
    assert sweeps.load("strength") == POINTS
    assert records.data_folder() != tmp_path
