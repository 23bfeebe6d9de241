"""The figures of reliability and of both efficiencies: what they draw, and what they say in words."""

import pytest
import torch

from alignlab.lab import answers, efficiency, reliability

MARGINS = torch.tensor([3.0, 2.5, -2.8, 0.1, -0.2, 1.0])


def test_each_judge_has_a_panel_with_its_name_its_intervals_and_its_counts():
    table = answers.calibration_table(MARGINS, 5)
    figure = reliability.reliability_figure({"one": table, "$two$": table})
    above, below = figure.axes[:2], figure.axes[2:]
    assert [axes.get_title(loc="left") for axes in above] == ["one", r"\$two\$"]
    bars = above[0].containers[0]
    assert bars.has_yerr and torch.allclose(torch.tensor(bars.lines[0].get_xydata()).float(), table[table[:, 0] > 0][:, 1:])
    assert [patch.get_height() for patch in below[0].patches] == table[:, 0].tolist()
    assert "right in 50% of 2 pairs at a confidence of 54%" in figure.get_label()


def test_wilsons_interval_holds_the_share_and_stays_between_0_and_1():
    share, count = torch.tensor([0.0, 0.5, 1.0]), torch.tensor([3.0, 100.0, 3.0])
    low, high = reliability.wilson(share, count)
    assert (low >= -1e-6).all() and (high <= 1 + 1e-6).all() and (low <= share + 1e-6).all() and (share <= high + 1e-6).all()
    assert (high - low)[1].item() == pytest.approx(0.192, abs=0.002)  # about 2 x 1.96 x sqrt(.25 / 100)


CURVES = {
    "frontier": [[0.0, 1.0], [1.0, 3.0], [2.0, 4.0]], "frontier_pooled": [[0.0, 1.0], [1.0, 3.0], [2.0, 4.0]],
    "reach": [[0.0, 1.0], [1.0, 2.5], [2.0, 3.0]], "best_of_n": [],
}  # fmt: skip


def comparison(kl: float) -> dict:
    rows = {"sft": {"gold": [1.0] * 3, "kl": [0.0] * 3}, "best_of_16": {"gold": [2.2, 2.1, 2.3], "kl": [kl] * 3}}
    return {"curves": CURVES, "judge": {"kind": "gold"}, "reference": {"gold": [1.0] * 3}, "policies": rows}


def test_three_gains_stand_on_the_plane_and_both_efficiencies_are_named():
    figure = efficiency.efficiency_figure(comparison(1.0), "best_of_16")
    lengths = {line.get_label()[0]: line.get_ydata().tolist() for line in figure.axes[0].lines if ": gain" in str(line.get_label())}
    assert lengths == {"a": pytest.approx([1, 3]), "b": pytest.approx([1, 2.5]), "c": pytest.approx([1, 2.2])}
    said = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert "b / a = reward-model efficiency = 0.75" in said and "c / b = optimiser efficiency = 0.80" in said
    assert "0.75" in figure.get_label() and "0.80" in figure.get_label()


def test_beyond_the_curves_no_efficiency_is_named():
    figure = efficiency.efficiency_figure(comparison(2.5), "best_of_16")
    assert "no efficiency can be given" in figure.get_label()
    assert not any(": gain" in str(line.get_label()) for line in figure.axes[0].lines)


def test_the_efficiencies_multiply_to_the_gold_efficiency():
    judge, optimiser = answers.efficiencies(1.5, 2.4, 1.0, CURVES["frontier"], CURVES["reach"])
    assert judge * optimiser == pytest.approx(answers.gold_efficiency(2.4, 1.0, 3.5))
