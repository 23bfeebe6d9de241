"""Explorers: one idea each, at once and without training. Sliders, one picture, one sentence on what to look for, the numbers.

An explorer `x()` is a box of sliders over three pure functions of their settings, which work without a notebook too:
`x_numbers` computes, with the equations of `losses` and `exact`; `x_figure` draws; `x_words` tells.
"""

import itertools
import math
from collections.abc import Sequence
from functools import partial

import torch
from matplotlib.figure import Figure
from torch import Tensor

from alignlab import exact
from alignlab.lab.explore_pairs import dpo_loss_and_gradient, preference_sigmoid
from alignlab.lab.explore_tokens import clipped_objective, gae_on_an_episode, kl_estimators
from alignlab.lab.explorer import SKY, Explorer, Words, label_axes, legend, log_slider, mark, panels
from alignlab.lab.view import COLOURS, FAINT, INK, VERMILION, as_it_stands
from alignlab.world import BLANKS, blank_reward

__all__ = ["clipped_objective", "dpo_loss_and_gradient", "gae_on_an_episode", "kl_estimators", "preference_sigmoid", "tilted_optimum"]


# ---------------------------------------------------------------------------------------------- the tilted optimum

# A small part of "The plot was __ __." with a reference that is a little sour, for an instant answer without any model.
_ADVERBS = {"very": 0.2, "rather": 0.4, "truly": 0.1, "never": 0.3}
_ADJECTIVES = {"warm": 0.12, "sharp": 0.08, "dull": 0.28, "flat": 0.17, "plain": 0.25, "long": 0.10}
FILLINGS = list(itertools.product(_ADVERBS, _ADJECTIVES))
SHOWN = 12  # bars


def tilted_optimum_numbers(
    beta: float, fillings: Sequence[tuple[str, str]] | None = None, ref_logps: Tensor | None = None, curve: Sequence[float] | None = None
) -> dict:
    """The optimum pi* over all fillings, and the frontier, from `exact.tilt`.

    Args:
        beta: > 0.
        fillings, ref_logps: N fillings of `world.blank_fillings()` and (N,) nats, as `evaluate.filling_logps` gives them; or neither,
            for 24 fillings and a reference made up here.
        curve: betas of the frontier's points.

    Returns:
        fillings; rewards, reference and optimum (probabilities), lists of N; reward, kl (nats) and size (effective) of the optimum;
        start, the reference's expected reward; frontier, points [kl, reward].
    """
    if (fillings is None) != (ref_logps is None):
        raise ValueError("give both fillings and ref_logps, or neither")
    if fillings is None or ref_logps is None:
        fillings, ref_logps = FILLINGS, torch.tensor([math.log(_ADVERBS[a] * _ADJECTIVES[b]) for a, b in FILLINGS], dtype=torch.float64)
    if len(fillings) != len(ref_logps):
        raise ValueError(f"{len(fillings)} fillings but {len(ref_logps)} ref_logps; give one log-prob a filling")
    ref_logps = ref_logps.double().log_softmax(-1)
    rewards = torch.tensor([blank_reward(*filling) for filling in fillings], dtype=torch.float64)
    reward, kl, size = exact.tilt(rewards, beta, ref_logps)
    betas = torch.logspace(2, -2, 120, dtype=torch.float64) if curve is None else torch.tensor(curve, dtype=torch.float64)
    shape = (len(betas), len(rewards))
    y, x, _ = exact.tilt(rewards.expand(shape), betas, ref_logps.expand(shape))
    return {
        "fillings": list(fillings),
        "rewards": rewards.tolist(),
        "reference": ref_logps.exp().tolist(),
        "optimum": exact.optimal_logps(rewards, beta, ref_logps).exp().tolist(),
        "reward": reward.item(),
        "kl": kl.item(),
        "size": size.item(),
        "start": (ref_logps.exp() * rewards).sum().item(),
        "frontier": torch.stack([x, y], -1).tolist(),
    }


def tilted_optimum_figure(numbers: dict, beta: float) -> Figure:
    """Bars of reference and optimum on the left, the reward-KL plane with the point of this beta on the right."""
    reference, optimum, rewards = numbers["reference"], numbers["optimum"], numbers["rewards"]
    likely, told = _chosen(reference, optimum, rewards)
    figure, (left, right) = panels(2, (1.15, 1))
    figure.set_figheight(4.4)
    y = range(len(likely))
    left.barh([i + 0.2 for i in y], [reference[i] for i in likely], height=0.38, color=FAINT, edgecolor=INK, lw=0.6, label="reference")
    label = f"optimum, beta {beta:.2g}"
    left.barh([i - 0.2 for i in y], [optimum[i] for i in likely], height=0.38, color=SKY, edgecolor=INK, hatch="//", lw=0.6, label=label)
    left.set_yticks(y, [as_it_stands(f"{' '.join(numbers['fillings'][i])}  ({rewards[i]:+z.1f})") for i in likely], fontsize=9)
    left.margins(y=0.02)
    label_axes(left, f'"{BLANKS} __ __."', f"probability of {told}", "filling (reward)")
    legend(left, "best")
    right.plot(*zip(*numbers["frontier"], strict=True), color=INK, lw=2.2, label="frontier: no policy can do better")
    right.plot([0], [numbers["start"]], color=COLOURS["sft"], marker="s", ms=9, ls="none", label="reference")
    reach = min(0.35, 0.35 / beta)  # nats to either side, so that a steep tangent stays short
    x = [max(numbers["kl"] - reach, 0), numbers["kl"] + reach]
    tangent = [numbers["reward"] + beta * (each - numbers["kl"]) for each in x]
    right.plot(x, tangent, color=VERMILION, ls="--", lw=2, label="slope = beta")
    mark(right, numbers["kl"], numbers["reward"])
    label_axes(right, "What each nat buys", "KL(optimum, reference), nats", "expected reward")
    legend(right, "lower right")
    return figure


def _chosen(reference: Sequence[float], optimum: Sequence[float], rewards: Sequence[float]) -> tuple[list[int], str]:
    """Which fillings have a bar, the best on top, and what they are: the likeliest or, where many share a reward, one of each."""
    levels = sorted(set(rewards))
    if len(levels) < len(rewards) / SHOWN:
        return [
            max((i for i, r in enumerate(rewards) if r == level), key=lambda i: reference[i]) for level in levels
        ], "the likeliest filling of each reward"
    likely = sorted(range(len(rewards)), key=lambda i: -max(reference[i], optimum[i]))[:SHOWN]
    return sorted(likely, key=lambda i: (rewards[i], reference[i])), f"the {len(likely)} likeliest fillings"


def tilted_optimum_words(numbers: dict, beta: float) -> Words:
    """What to look for, by how much of the whole way to the best fillings has been paid for."""
    share = (numbers["reward"] - numbers["start"]) / max(max(numbers["rewards"]) - numbers["start"], 1e-9)
    if share < 0.25:
        look = "the bars: they nearly agree. A nat costs more than the reward that it would buy, so the optimum stays at the reference."
    elif share > 0.9:
        look = "the frontier at the point: it is almost flat. The best fillings have most of the mass, and more KL buys next to nothing."
    else:
        look = "the dashed line: the frontier's slope at the point is beta, the price of a nat. Lower the price, and the point moves right."
    best = max(range(len(numbers["rewards"])), key=lambda i: numbers["optimum"][i])
    return Words(
        "Left, bars for each filling's probability under the reference and under the optimum; right, the frontier of expected reward "
        "against KL, and the point of this beta on it.",
        look,
        f"beta {beta:.3g}: reward {numbers['reward']:z.3f} (reference {numbers['start']:z.3f}), KL {numbers['kl']:z.3f} nats, "
        f"as spread out as {numbers['size']:.0f} equally likely fillings, of {len(numbers['rewards'])}; "
        f'likeliest: "{" ".join(numbers["fillings"][best])}", {numbers["optimum"][best]:.1%} (reference {numbers["reference"][best]:.1%})',
    )


def tilted_optimum(fillings: Sequence[tuple[str, str]] | None = None, ref_logps: Tensor | None = None) -> Explorer:
    """Explorer: the best that any policy can do at each price of KL, enumerated.

    Without arguments a reference made up here; with both, a model's: `world.blank_fillings()` and its `evaluate.filling_logps(...)`.
    """
    numbers = partial(tilted_optimum_numbers, fillings=fillings, ref_logps=ref_logps)
    return Explorer(numbers, tilted_optimum_figure, tilted_optimum_words, {"beta": log_slider("beta", 0.5, 0.05, 10)})
