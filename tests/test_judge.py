"""The judge at its edges: policies beyond the curves, and a reward model that must judge itself."""

import json

import pytest
import torch

from alignlab import evaluate, exact, recipes, world
from alignlab.lab import report, view
from alignlab.models import Policy, load


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
    recipe = recipes.tiny()
    base = recipe.load()  # the base model seldom ends
    seen = evaluate.answer(
        Policy(base, None, base), recipe.judge_prompts[:4], 8, None, lambda samples: samples.lengths.float(),
        max_new_tokens=12, temperature=1.0, missing_eos_score=-3.0, seed=0, reference=True,
    )  # fmt: skip
    cut = seen.stopped == 0
    assert cut.any() and (seen.gold[cut] == -3).all() and torch.equal(seen.gold, seen.scores)


@pytest.mark.parametrize("kind, efficiency", [("gold", [0.8, 0.7, 0.9]), ("gold", None), ("reward_model", None)])
def test_the_verdict_blames_nobody_it_cannot_judge(kind, efficiency):
    ppo = {"gold_efficiency": [0.7, 0.6, 0.8], "reward_model_efficiency": efficiency, "optimiser_efficiency": [0.9, 0.8, 1.0], "kl": [2.0]}
    comparison = {
        "policies": {"ppo": ppo, "dpo": {"gold_efficiency": None, "kl": [0.2]}},
        "reward_model": {"accuracy": [0.7, 0.6, 0.8], "skill": None},
        "judge": {"kind": kind},
        "alarms": [],
    }
    words = " ".join(report.verdict(comparison))
    assert ("lost by the judge" in words) == (efficiency is not None)
    assert ("only judge" in words) == (kind == "reward_model")


@pytest.mark.slow
def test_trained_policies_and_best_of_n_on_the_enumerated_plane_lie_below_its_exact_frontier(fast_run):
    """Every filling of "The plot was __ __." is known, so KL, reward and optimum are exact for PPO, DPO and best-of-n."""
    base, prompt = load(fast_run / "sft"), "Write a review of a quiet comedy about two brothers."
    fillings = world.blank_fillings()
    rewards = torch.tensor([world.blank_reward(*filling) for filling in fillings], dtype=torch.float64)
    ref = evaluate.filling_logps(Policy(base, None, base), prompt, world.BLANKS, fillings, reference=True)
    points = {f"best of {n}": evaluate.place(exact.best_of_n_logps(rewards, ref, n), ref, rewards) for n in (4, 16)}
    for name in ("ppo", "dpo"):
        base.load_adapter(name, fast_run / name)
        points[name] = evaluate.place(evaluate.filling_logps(Policy(base, name, base), prompt, world.BLANKS, fillings), ref, rewards)
    kl_ref, start = evaluate.place(ref, ref, rewards)
    assert kl_ref == pytest.approx(0.0, abs=1e-9)
    for name, (kl, reward) in points.items():
        low, high = 1e-3, 1e3  # the beta whose optimum has this KL, by bisection
        for _ in range(100):
            beta = (low * high) ** 0.5
            best, reached, _ = exact.tilt(rewards, beta, ref)
            low, high = (beta, high) if reached > kl else (low, beta)
        assert kl > 1e-5 and reward <= best + 1e-6, (name, kl, reward, best)
        assert start < reward or name in ("ppo", "dpo")  # which learn whole reviews, in few steps here: this sentence may get worse


# ---------------------------------------------------------------------------------------------- the figure


def drawn(comparison):
    """The axes, and as drawn, the points of the frontier and the outline of its band (None without one)."""
    axes = view.plane_figure(comparison).axes[0]
    (line,) = [line for line in axes.lines if str(line.get_label()).startswith("gold frontier")]
    bands = [area for area in axes.collections if str(area.get_label()).startswith("from its estimate")]
    return axes, line.get_xydata(), bands[0].get_paths()[0].vertices if bands else None


def straight(end, height=1.0):
    return [[0.2 * i, height * 0.2 * i] for i in range(round(end / 0.2) + 1)]


def on_a_plane(frontier, pooled):
    curves = {"frontier": frontier, "frontier_pooled": pooled}
    policies = {"sft": {"gold": [0.0] * 3, "kl": [0.0] * 3}}
    return {"curves": curves, "policies": policies, "reference": {"gold": [0.0] * 3}, "judge": {"kind": "gold"}}


def test_a_curve_that_goes_on_is_drawn_to_the_edge_of_the_plane():
    axes, line, band = drawn(on_a_plane(straight(8), straight(8, height=1.1)))
    edge = axes.get_xlim()[1]
    assert line[-1] == pytest.approx([edge, edge])  # its own value there, between two of its points
    assert band[:, 0].max() == pytest.approx(edge)


def test_a_curve_that_ends_is_drawn_to_its_end_and_the_band_no_further():
    axes, line, band = drawn(on_a_plane(straight(1.4), straight(2.2, height=1.1)))
    assert line[-1] == pytest.approx([1.4, 1.4]) and axes.get_xlim()[1] > 2.2
    assert band.max(0) == pytest.approx([1.4, 1.54])


def test_a_band_too_thin_to_be_seen_is_not_in_the_legend():
    axes, _, band = drawn(on_a_plane(straight(2.2), straight(2.2, height=1.005)))
    assert band is None and not any("bound" in words.get_text() for words in axes.get_legend().get_texts())


def test_a_plane_of_too_few_samples_for_a_curve_shows_its_policies():
    comparison = on_a_plane([], [])
    axes = view.plane_figure(comparison).axes[0]
    assert [words.get_text() for words in axes.texts] == ["SFT"] and axes.get_legend() is None
    comparison["curves"]["best_of_n"] = [[0.0, 0.0]]
    (words,) = view.plane_figure(comparison).axes[0].get_legend().get_texts()
    assert words.get_text().startswith("best of n")


# ---------------------------------------------------------------------------------------------- over seeds


def test_an_interval_over_seeds_holds_what_seeds_and_prompts_do_to_the_mean():
    """Worked by hand: Student's t times the root of the two variances' sum, with Satterthwaite's degrees of freedom."""
    means, noise = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64), torch.linspace(-0.3, 0.3, 1000, dtype=torch.float64)
    draws = means[:, None] + torch.cat([torch.zeros(1, dtype=torch.float64), noise])
    between, within = (means.var() / 3).item(), noise.var().item()
    freedom = 2 * ((between + within) / between) ** 2
    assert 2 < freedom < 3  # so t lies between 4.303 and 3.182
    quantile = 3.182 + (4.303 - 3.182) * (1 / freedom - 1 / 3) / (1 / 2 - 1 / 3)
    wide = quantile * (between + within) ** 0.5
    assert evaluate.over_seeds(draws) == pytest.approx([7 / 3, 7 / 3 - wide, 7 / 3 + wide])


@pytest.mark.parametrize("of_seeds, of_prompts", [(1.0, 0.5), (0.3, 1.0), (0.0, 1.0)])
def test_an_interval_over_seeds_covers_the_truth_about_as_often_as_it_says(of_seeds, of_prompts):
    rng, covered = torch.Generator().manual_seed(0), 0
    for _ in range(600):
        seeds, prompts = of_seeds * torch.randn(3, 1, generator=rng), of_prompts * torch.randn(32, generator=rng)  # prompts: of all seeds
        values = (seeds + prompts).double()  # (3, 32), whose expectation is 0
        picked = torch.randint(32, (200, 32), generator=rng)
        draws = torch.cat([values.mean(-1, keepdim=True), values[:, picked].mean(-1)], -1)
        _, low, high = evaluate.over_seeds(draws)
        covered += low <= 0 <= high
    assert 0.92 < covered / 600 < 0.98


def test_an_interval_over_seeds_needs_every_seed():
    draws = torch.ones(3, 11, dtype=torch.float64)
    draws[1] = torch.nan
    assert evaluate.over_seeds(draws) is None
