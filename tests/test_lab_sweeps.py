"""The recorded sweeps as the labs read them."""

import json
from pathlib import Path

import pytest
import torch
from matplotlib.colors import to_rgba

from alignlab import evaluate, records
from alignlab.errors import UserError
from alignlab.lab import displace, evidence, sweeps, view
from alignlab.tools import sweep

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


def test_gains_are_over_the_same_seeds_sft_model_and_end_where_the_path_does():
    gain = sweeps.gain_at(sweeps.of(POINTS, method="dpo"), 1.0)
    assert gain[:, 0].tolist() == pytest.approx([1.5, 1.6, 1.7]) and gain.std(1).max() < 1e-6  # every prompt gains alike
    assert sweeps.reach(sweeps.of(POINTS, method="dpo"), sweeps.of(POINTS, method="ppo")) == pytest.approx(4.0)
    assert sweeps.gain_at(POINTS, 4.1).isnan().all()


def test_kls_along_paths_are_even_in_the_root_and_stay_within_reach():
    kls = sweeps.along(POINTS, steps=4)
    roots = [kl**0.5 for kl in kls]
    assert roots == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0], rel=2e-3) and kls[-1] < 4.0
    assert torch.isfinite(sweeps.gold_at(POINTS, kls[-1])).all()


def test_kl_and_length_are_read_off_between_strengths():
    assert sweeps.kl_at(POINTS[0], 1.5) == pytest.approx(2.25)  # KL = s^2 is straight in its root
    rising = point("ppo", 0, 1.0)
    for row, length in zip(rising["result"]["path"], (10.0, 20.0, 40.0), strict=True):
        row["length"] = length
    assert sweeps.length_at(rising, 2.25) == pytest.approx(30.0)
    assert torch.isnan(torch.tensor([sweeps.length_at(rising, 0.1), sweeps.length_at(rising, 5.0)])).all()


def test_differences_are_given_only_where_both_go():
    found = evidence.differences(sweeps.of(POINTS, method="dpo"), sweeps.of(POINTS, method="ppo"), [1.0, 2.25, 9.0])
    assert list(found) == [1.0, 2.25] and found[2.25][0] == pytest.approx(0.75)


def test_figures_say_in_words_what_they_show():
    groups = {"PPO": sweeps.of(POINTS, method="ppo"), "DPO": sweeps.of(POINTS, method="dpo")}
    assert "DPO highest at 4.0 nats, +3.20" in evidence.gains_figure(groups, "Gains").get_label()
    line = evidence.differences(groups["DPO"], groups["PPO"], [1.0, 2.25])
    assert "DPO less PPO +0.75" in evidence.differences_figure({"DPO less PPO": line}, "Who?", "difference").get_label()
    rows = {"one": [0.5, 0.4, 0.6], "none": None}
    assert "one +0.50 [+0.40, +0.60]; none -" in evidence.forest_figure(rows, "Rows", "gold").get_label()
    cells = {("few", "clean"): [0.5, 0.4, 0.6], ("many", "clean"): [-0.5, -0.6, -0.4], ("few", "noisy"): [0.1, -0.1, 0.3]}
    figure = evidence.map_figure(cells, "Map", "PPO", "DPO")
    shades = [patch.get_facecolor() for patch in figure.axes[0].patches]
    assert len(set(shades)) == 3 and shades[0] == to_rgba(view.COLOURS["ppo"]) and shades[1] == to_rgba(view.COLOURS["dpo"])


def test_the_bundled_paths_agree_with_policies_trained_with_another_beta():
    """The dial in place of retraining: gold at the retrained policy's KL, over all recorded betas and seeds."""
    points, apart = sweeps.load("strength"), []
    for method, beta in (("ppo", 0.38), ("dpo", 0.5)):
        for usual in sweeps.of(points, method=method, beta=beta):
            for other in sweeps.of(points, method=method):
                trained = sweeps.path(other)[1.0]
                if other["seed"] == usual["seed"] and other is not usual:
                    apart.append(sweeps.gold_at([usual], trained.kl.mean().item())[0, 0].item() - trained.gold.mean().item())
    assert len(apart) == 18 and max(map(abs, apart)) < 0.3 and abs(sum(apart) / len(apart)) < 0.15


def test_the_readmes_results_of_the_labs_are_the_recorded_ones():
    def told(measured, digits=2, sign=1):
        ends = sorted(sign * value for value in measured[1:])
        return f"{sign * measured[0]:.{digits}f} [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"

    strength, fresh, placed = (sweeps.load(name) for name in ("strength", "fresh", "displace"))
    ahead = evidence.differences(sweeps.of(strength, method="dpo", beta=0.5), sweeps.of(strength, method="ppo", beta=0.38), [2])[2]
    anew = evidence.differences(sweeps.of(fresh, method="online", every=1), sweeps.of(fresh, method="dpo", labels="judge"), [2])[2]
    usual = [point for point in sweeps.of(fresh, method="ppo") if point["settings"] == {"method": "ppo"}]
    paid = evidence.differences(sweeps.of(fresh, method="ppo", paid_by="gold"), usual, [2])[2]
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    assert f"at 2 nats DPO has {told(ahead)} points" in readme
    assert f"change DPO's gold by {told(anew)}, a perfect judge PPO's by {told(paid)}" in readme
    lost = {}
    for pairs, digits in (("edited", 0), ("any", 1)):
        draws = displace.drawn(sweeps.of(placed, pairs=pairs, loss="dpo"), displace.held_out("chosen"))
        lost[pairs] = told(displace.measured(draws), digits, sign=-1)
    assert f"near-duplicates cost a chosen answer {lost['edited']} nats, ordinary pairs {lost['any']} |" in readme


@pytest.mark.parametrize("file", sorted((records.data_folder() / "sweeps").glob("*.json")), ids=lambda file: file.stem)
def test_a_recorded_sweep_holds_each_point_of_its_grid_once(file):
    def told(points):
        return sorted(json.dumps([settings, seed], sort_keys=True) for settings, seed in points)

    recorded, planned = sweeps.load(file.stem), sweep.find(file.stem).points
    assert told((point["settings"], point["seed"]) for point in recorded) == told(planned)
