"""Explorers of what happens token by token: the clip, GAE, and estimates of KL."""

from typing import Any

import ipywidgets as widgets
import torch
from matplotlib.figure import Figure
from torch import Tensor

from alignlab import losses

# Okabe and Ito's palette again; wherever hue tells curves apart, dash or marker does so too.
from alignlab.lab.explorer import SKY, Explorer, Words, label_axes, legend, mark, panels, slider, tidy
from alignlab.lab.view import BLUE, FAINT, GREEN, INK, VERMILION, beside

# ---------------------------------------------------------------------------------------------- PPO's clip


def clipped_objective_numbers(clip_epsilon: float, ratio: float, size: float) -> dict:
    """PPO's clipped objective of one token over ratios 0.02 to 2.5, and its gradient by autograd of `losses.clipped_policy_loss`.

    Args:
        clip_epsilon: > 0.
        ratio: > 0, pi / pi_old of the token.
        size: > 0, how large the advantage is; both signs are worked out.

    Returns:
        ratios, a list; for each of "good" (advantage +size) and "bad" (-size): objectives, unclipped and gradients (with respect to the
        token's log-prob), lists, and objective and gradient here.
    """
    if not size > 0:
        raise ValueError(f"the size of the advantage must be > 0, got {size}; both signs are drawn anyway")
    if not ratio > 0:
        raise ValueError(f"the ratio of two probabilities must be > 0, got {ratio}")
    ratios = torch.linspace(0.02, 2.5, 497, dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    numbers: dict[str, Any] = {"ratios": ratios.tolist()}
    for name, advantage in (("good", size), ("bad", -size)):

        def objective(log_ratio: Tensor, advantage: float = advantage) -> Tensor:
            return -losses.clipped_policy_loss(log_ratio[None, None], 0 * one, advantage * one, one, clip_epsilon)

        slope = torch.vmap(torch.func.grad_and_value(objective))
        gradients, values = slope(ratios.log())
        gradient, value = slope(torch.tensor([ratio], dtype=torch.float64).log())
        numbers[name] = {
            "objectives": values.tolist(),
            "unclipped": (ratios * advantage).tolist(),
            "gradients": gradients.tolist(),
            "objective": value.item(),
            "gradient": gradient.item(),
        }
    return numbers


def clipped_objective_figure(numbers: dict, clip_epsilon: float, ratio: float, size: float) -> Figure:
    """A good token on the left, a bad one on the right; shaded where the gradient is zero."""
    figure, both = panels(2)
    for axes, name, title, colour in zip(both, ("good", "bad"), ("Advantage above 0", "Advantage below 0"), (BLUE, VERMILION), strict=True):
        part, x = numbers[name], numbers["ratios"]
        still = [gradient == 0 for gradient in part["gradients"]]
        across = axes.get_xaxis_transform()
        axes.fill_between(x, 0, 1, where=still, transform=across, color=FAINT, alpha=0.35, lw=0, hatch="//", label="gradient is zero")
        axes.plot(x, part["unclipped"], color=colour, ls="--", lw=1.5, label="ratio x advantage")
        axes.plot(x, part["objectives"], color=INK, lw=2.4, label="clipped objective")
        axes.axvline(1, color=FAINT, lw=1, zorder=1)
        mark(axes, ratio, part["objective"])
        label_axes(axes, title, "ratio pi / pi_old of the token", "objective, to be raised")
    legend(both[0], "upper left")
    return figure


def clipped_objective_words(numbers: dict, clip_epsilon: float, ratio: float, size: float) -> Words:
    """What to look for, by where the ratio stands."""
    good, bad = (numbers[name]["gradient"] for name in ("good", "bad"))
    if good == 0:
        look = "the left panel: this good token has gained enough, and nothing pushes it on. A bad one is pushed back at full force."
    elif bad == 0:
        look = "the right panel: this bad token has lost enough, and nothing pushes it on. A good one is pulled back at full force."
    else:
        look = f"the edges {max(1 - clip_epsilon, 0):z.2f} and {1 + clip_epsilon:z.2f}: between them the clip changes nothing."
    return Words(
        "Two panels, advantage above and below 0: PPO's clipped objective against the probability ratio. "
        "Shaded where the gradient is zero: above 1 + epsilon on the left, below 1 - epsilon on the right.",
        look,
        f"epsilon {clip_epsilon:z.2f}, ratio {ratio:z.2f}: "
        f"advantage +{size:z.1f} objective {numbers['good']['objective']:z.2f}, gradient {good:z.2f}; "
        f"advantage -{size:z.1f} objective {numbers['bad']['objective']:z.2f}, gradient {bad:z.2f}",
    )


def clipped_objective() -> Explorer:
    """Explorer: where PPO's clip stops the gradient, and where it does not."""
    controls = {
        "clip_epsilon": slider("clip epsilon", 0.2, 0.05, 0.8, 0.05),
        "ratio": slider("ratio", 1.5, 0.05, 2.5, 0.05),
        "size": slider("size of the advantage", 1.0, 0.1, 3, 0.1),
    }
    return Explorer(clipped_objective_numbers, clipped_objective_figure, clipped_objective_words, controls)


# ---------------------------------------------------------------------------------------------- GAE

TOKENS = ["The", " plot", " truly", " shines", ",", " never", " dull", "."]
LOG_RATIOS = [0.1, -0.2, 0.9, 1.2, -0.1, 0.8, -0.3, 0.2]  # log pi/pi_ref of each token, nats
VALUES = [0.5, 0.5, 0.4, 1.0, 1.7, 1.5, 1.1, 1.8]  # made up: of the state before each token
SCORE = 2.0  # the reward model's, for the whole answer


def gae_on_an_episode_numbers(lam: float, gamma: float, beta: float) -> dict:
    """Rewards and advantages of one answer of eight tokens, from `losses.shape_rewards` and `losses.gae`.

    Args:
        lam, gamma: in [0, 1].
        beta: >= 0, reward units per nat.

    Returns:
        lists of eight: rewards, values, returns, advantages, td (lam = 0), monte_carlo (lam = 1); reach, the weight with which the last
        token's surprise counts at the first.
    """
    for name, value in (("lam", lam), ("gamma", gamma)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must lie in [0, 1], got {value}")
    log_ratios, values = torch.tensor([LOG_RATIOS], dtype=torch.float64), torch.tensor([VALUES], dtype=torch.float64)
    mask = torch.ones_like(values)
    rewards = losses.shape_rewards(torch.tensor([SCORE], dtype=torch.float64), log_ratios, torch.zeros_like(log_ratios), mask, beta)
    advantages, returns = losses.gae(rewards, values, mask, gamma, lam)
    return {
        "rewards": rewards[0].tolist(),
        "values": VALUES,
        "advantages": advantages[0].tolist(),
        "returns": returns[0].tolist(),
        "td": losses.gae(rewards, values, mask, gamma, 0.0)[0][0].tolist(),
        "monte_carlo": losses.gae(rewards, values, mask, gamma, 1.0)[0][0].tolist(),
        "reach": (gamma * lam) ** (len(TOKENS) - 1),
    }


def gae_on_an_episode_figure(numbers: dict, lam: float, gamma: float, beta: float) -> Figure:
    """Rewards and values above, advantages below, token by token."""
    figure = Figure(figsize=(9.6, 5.0), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    x = range(len(TOKENS))
    for axes in (top, bottom):
        tidy(axes)
        axes.axhline(0, color=INK, lw=0.8)
    top.bar(
        x, numbers["rewards"], width=0.5, color=SKY, edgecolor=INK, hatch="//", lw=0.6, label="reward: -beta x log-ratio, score at the end"
    )
    top.plot(x, numbers["values"], color=VERMILION, ls="--", marker="D", label="value before the token (made up)")
    bottom.plot(x, numbers["td"], color=BLUE, ls=":", marker="s", label="lambda 0: one step of surprise")
    bottom.plot(x, numbers["monte_carlo"], color=GREEN, ls="--", marker="^", label="lambda 1: return less value")
    bottom.plot(x, numbers["advantages"], color=INK, marker="o", lw=2.2, label=f"lambda {lam:z.2f}, yours")
    bottom.set_xticks(x, [token.strip() for token in TOKENS])
    label_axes(top, "Rewards and values", "", "reward, value")
    label_axes(bottom, "Advantages", "token", "advantage")
    for axes, columns in ((top, 2), (bottom, 3)):
        low, high = axes.get_ylim()
        axes.set_ylim(top=high + 0.25 * (high - low))  # room for the legend
        legend(axes, "upper left", columns)
    return figure


def gae_on_an_episode_words(numbers: dict, lam: float, gamma: float, beta: float) -> Words:
    """What to look for, by how far the score's surprise travels back."""
    if lam <= 0.05:
        look = "the values above: where they jump, the advantage is large. Only the last token sees the score itself."
    elif numbers["reach"] >= 0.6:
        look = "the first tokens: the last surprise counts there almost in full, so little depends on the values, much on this sample."
    elif gamma < 0.9:
        look = f"how gamma shrinks what lies ahead: a score seven tokens away is worth {gamma**7:.0%} of itself at the first token."
    else:
        look = f"how far back the end is felt: {numbers['reach']:.0%} of the last token's surprise reaches the first token."
    advantages = " | ".join(f"{token.strip()} {value:+z.2f}" for token, value in zip(TOKENS, numbers["advantages"], strict=True))
    return Words(
        f'The eight tokens of "{"".join(TOKENS)}": above, the reward of each and the value before it; below, their advantages for '
        "lambda 0, lambda 1 and yours.",
        look,
        f"advantages: {advantages}; rewards sum to {sum(numbers['rewards']):z.2f}",
    )


def gae_on_an_episode() -> Explorer:
    """Explorer: how GAE hands the score at the end back to the tokens."""
    controls = {
        "lam": slider("lambda", 0.7, 0, 1, 0.05),
        "gamma": slider("gamma", 1.0, 0.5, 1, 0.05),
        "beta": slider("beta", 0.3, 0, 1, 0.05),
    }
    return Explorer(gae_on_an_episode_numbers, gae_on_an_episode_figure, gae_on_an_episode_words, controls)


# ---------------------------------------------------------------------------------------------- KL estimators

KINDS = {"k1": (BLUE, "o"), "k2": (VERMILION, "s"), "k3": (GREEN, "^")}
_REF_LOGITS, _DIRECTION = [1.0, 0.6, 0.2, -0.2, -0.6, -1.0], [-1.0, 0.4, -0.6, 1.2, -0.2, 0.8]


def kl_estimators_numbers(distance: float, samples: int, seed: int) -> dict:
    """KL(pi, pi_ref) over six tokens: enumerated, and estimated from samples of pi by `losses.kl_estimate`.

    Args:
        distance: >= 0; how far pi's logits are moved from the reference's; 0 for equal ones.
        samples: >= 2.
        seed: of the draw.

    Returns:
        policy and reference, lists of six probabilities; truth, nats; for each of k1, k2, k3: mean, se (standard error) and
        expected (what the mean tends to), nats.
    """
    if samples < 2:
        raise ValueError(f"a standard error needs 2 samples or more, got {samples}")
    ref_logits = torch.tensor(_REF_LOGITS)
    logits = ref_logits + distance * torch.tensor(_DIRECTION)
    logps, ref_logps = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    drawn = torch.multinomial(logps.exp(), samples, replacement=True, generator=torch.Generator().manual_seed(seed))
    numbers: dict[str, Any] = {
        "policy": logps.exp().tolist(),
        "reference": ref_logps.exp().tolist(),
        "truth": losses.exact_kl(logits, ref_logits).item(),
    }
    for kind in KINDS:
        each = losses.kl_estimate(logps, ref_logps, kind)  # (6,) of each token
        taken = each[drawn]  # (samples,)
        se = taken.std() / samples**0.5
        numbers[kind] = {"mean": taken.mean().item(), "se": se.item(), "expected": (logps.exp() * each).sum().item()}
    return numbers


def kl_estimators_figure(numbers: dict, distance: float, samples: int, seed: int) -> Figure:
    """The two distributions on the left; on the right the three means against the truth."""
    figure, (left, right) = panels(2)
    x = torch.arange(6).tolist()
    reference, policy = numbers["reference"], numbers["policy"]
    left.bar([i - 0.2 for i in x], reference, width=0.38, color=FAINT, edgecolor=INK, lw=0.6, label="reference")
    left.bar([i + 0.2 for i in x], policy, width=0.38, color=SKY, edgecolor=INK, hatch="//", lw=0.6, label="policy, which samples")
    left.set_xticks(x, "abcdef")
    left.set_ylim(top=1.3 * max(reference + policy))  # room for the legend
    label_axes(left, "Two distributions over six tokens", "token", "probability")
    legend(left, "upper right")
    right.axhline(numbers["truth"], color=INK, lw=1.6, ls="--", label="truth, enumerated")
    for place, (kind, (colour, marker)) in enumerate(KINDS.items()):
        part = numbers[kind]
        right.errorbar(place, part["mean"], 2 * part["se"], color=colour, marker=marker, ms=9, capsize=6, lw=2)
        right.plot([place - 0.25, place + 0.25], [part["expected"]] * 2, color=colour, lw=2.4, ls=":", zorder=5)
        beside(right, f"{part['mean']:z.3f}", (place, part["mean"]), (10, 9), fontsize=9, color=colour, va="center")
    right.plot([], [], color=INK, ls=":", lw=2, label="what its mean tends to")
    right.errorbar([], [], [], color=INK, capsize=4, marker="o", ls="none", label="mean ± 2 standard errors")
    right.set_xticks(range(3), KINDS)
    right.set_xlim(-0.5, 2.8)
    right.margins(y=0.3)
    label_axes(right, f"Means of {samples:,} samples", "estimator", "KL(policy, reference), nats")
    legend(right, "best")
    return figure


def kl_estimators_words(numbers: dict, distance: float, samples: int, seed: int) -> Words:
    """What to look for, by the largest error of the three."""
    truth, (k1, k2, k3) = numbers["truth"], (numbers[kind] for kind in KINDS)
    bias = k2["expected"] - truth
    misses = abs(k2["mean"] - truth) > 2 * k2["se"] and abs(bias) > k2["se"]
    if distance == 0:
        look = "nothing: policy and reference are equal, so each sample's estimate is exactly 0, of all three kinds."
    elif misses:
        look = (
            f"k2: its bar leaves out the truth. It tends to {k2['expected']:z.3f}, off by {bias:+z.3f}, and more samples do not fix a bias."
        )
    elif k3["se"] < k1["se"]:
        look = f"the bars: k1's is {k1['se'] / k3['se']:z.1f} times as long as k3's; both are right on average, and k3 is never below 0."
    else:
        look = "k3's bar: it is no shorter than k1's any more. Tokens that the policy rarely draws weigh heavily in it."
    parts = "; ".join(f"{kind} {part['mean']:z.3f} ± {part['se']:z.3f}" for kind, part in zip(KINDS, (k1, k2, k3), strict=True))
    return Words(
        "Left, two distributions over six tokens; right, the estimates k1, k2, k3 with bars of two standard errors against the true KL.",
        look,
        f"truth {truth:z.4f} nats; from {samples:,} samples, mean ± standard error: {parts}",
    )


def kl_estimators() -> Explorer:
    """Explorer: three ways to estimate a KL from samples, against the truth."""
    counts = [10, 30, 100, 300, 1000, 3000, 10_000]
    controls = {
        "distance": slider("distance", 0.8, 0, 3, 0.1),
        "samples": widgets.SelectionSlider(value=10_000, options=counts, description="samples", continuous_update=False),
        "seed": widgets.IntSlider(0, min=0, max=20, description="draw again (seed)", continuous_update=False),
    }
    return Explorer(kl_estimators_numbers, kl_estimators_figure, kl_estimators_words, controls)
