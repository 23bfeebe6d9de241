"""Explorers: one idea each, at once and without training. Sliders, one picture, one sentence on what to look for, the numbers.

An explorer `x()` is a box of sliders over three pure functions of their settings, which work without a notebook too:
`x_numbers` computes, with the equations of `losses` and `exact`; `x_figure` draws; `x_words` tells.
"""

import base64
import html
import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import ipywidgets as widgets
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from alignlab import exact, losses
from alignlab.lab.view import BLUE, COLOURS, FAINT, GREEN, INK, VERMILION, as_it_stands, beside, plain_axes, png
from alignlab.world import BLANKS, Annotator, blank_reward

# Okabe and Ito's palette again; wherever hue tells curves apart, dash or marker does so too.
SKY, ORANGE = "#56B4E9", "#E69F00"


class Words(NamedTuple):
    """What an explorer says about its present state."""

    picture: str  # what the picture shows, for those who cannot see it
    look: str  # what to look for
    numbers: str


# ---------------------------------------------------------------------------------------------- the box


class Explorer(widgets.VBox):
    """Sliders over a picture and its words; a page without widgets shows the picture, a terminal the words."""

    _ipython_display_ = None  # ipywidgets 7 would show itself by it, without the fallback; now both majors are asked for a mimebundle

    def __init__(self, draw: Callable[..., Figure], tell: Callable[..., Words], controls: dict[str, widgets.Widget]):
        """`controls`: a widget for each argument that `draw` and `tell` share, by the argument's name."""
        self.draw, self.tell, self.controls = draw, tell, controls
        self.picture, self.caption = widgets.HTML(), widgets.HTML()  # HTML, since widgets.Image cannot carry an alt text
        row = widgets.HBox(list(controls.values()), layout={"flex_flow": "row wrap"})
        super().__init__([row, self.picture, self.caption])
        for control in controls.values():
            control.observe(self.refresh, "value")
        self.refresh()

    @property
    def settings(self) -> dict:
        """The value of each control, by name."""
        return {name: control.value for name, control in self.controls.items()}

    def refresh(self, change: object = None) -> None:
        """Draw and tell anew, in place."""
        self.words = self.tell(**self.settings)
        alt = html.escape(f"{self.words.picture} {self.words.numbers}")
        source = base64.b64encode(png(self.draw(**self.settings), dpi=100)).decode()
        self.picture.value = f'<img style="max-width: 100%" alt="{alt}" src="data:image/png;base64,{source}">'
        look, numbers = html.escape(self.words.look), html.escape(self.words.numbers)
        self.caption.value = f'<div role="status" style="line-height: 1.4"><p><b>Look:</b> {look}</p><p><code>{numbers}</code></p></div>'

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict:
        state = ", ".join(f"{control.description} = {control.value:g}" for control in self.controls.values())
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        return {
            "text/plain": f"{self.words.picture}\nAt {state}: {self.words.numbers}\nLook: {self.words.look}",
            "text/html": f"<div><p>{html.escape(state)}</p>{self.picture.value}{self.caption.value}</div>",
            "application/vnd.jupyter.widget-view+json": view,
        }


_LABEL, _WIDTH = {"description_width": "initial"}, {"width": "21rem"}


def _slider(label: str, value: float, low: float, high: float, step: float) -> widgets.FloatSlider:
    return widgets.FloatSlider(
        value, min=low, max=high, step=step, description=label, continuous_update=False, readout_format=".2f", style=_LABEL, layout=_WIDTH
    )


def _log_slider(label: str, value: float, low: float, high: float) -> widgets.FloatLogSlider:
    return widgets.FloatLogSlider(
        value, min=math.log10(low), max=math.log10(high), step=0.02, description=label, continuous_update=False, readout_format=".3g",
        style=_LABEL, layout=_WIDTH,
    )  # fmt: skip


def _panels(columns: int, widths: Sequence[float] | None = None) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False, width_ratios=widths)[0]
    for each in axes:
        _tidy(each)
    return figure, axes


def _tidy(axes: Axes) -> None:
    plain_axes(axes)
    axes.set_axisbelow(True)  # the grid lies under bars and shades too


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)


def _legend(axes: Axes, place: Literal["best", "upper left", "upper right", "lower right"], columns: int = 1) -> None:
    axes.legend(loc=place, ncols=columns, fontsize=9, labelcolor=INK, edgecolor="none", framealpha=0.9)


def _here(axes: Axes, x: float, y: float) -> None:
    """The point where the learner stands."""
    axes.plot([x], [y], color=INK, marker="o", ms=10, mec="white", mew=1.5, zorder=8, ls="none")


# ---------------------------------------------------------------------------------------------- Bradley-Terry


def preference_sigmoid_numbers(difference: float, temperature: float, flip: float) -> dict:
    """P(chosen beats rejected) of an annotator, over score differences -6 to 6.

    Args:
        difference: score(chosen) - score(rejected), in reward units.
        temperature: > 0, reward units; higher is less sure of small differences.
        flip: share of labels turned round whatever the difference, 0 to 0.5.

    Returns:
        differences and probabilities, lists; probability, here; loss = -log of it, nats; fitted, the difference of scores in log-odds
        that a reward model without noise of its own would learn from such labels.
    """
    annotator = Annotator(temperature=temperature, flip=flip)
    differences = torch.linspace(-6, 6, 241).tolist()
    wins, loses = annotator.probability(difference, 0.0), annotator.probability(0.0, difference)
    return {
        "differences": differences,
        "probabilities": [annotator.probability(each, 0.0) for each in differences],
        "probability": wins,
        "loss": -math.log(wins),
        "fitted": math.log(wins) - math.log(loses),
    }


def preference_sigmoid_figure(difference: float, temperature: float, flip: float) -> Figure:
    """The annotator's curve beside the plain sigmoid."""
    numbers = preference_sigmoid_numbers(difference, temperature, flip)
    plain = preference_sigmoid_numbers(difference, 1.0, 0.0)
    figure, (axes,) = _panels(1)
    x = numbers["differences"]
    if flip > 0:
        axes.axhspan(0, flip, color=ORANGE, alpha=0.25, lw=0, hatch="//", label="never reached: labels turned round")
        axes.axhspan(1 - flip, 1, color=ORANGE, alpha=0.25, lw=0, hatch="//")
    axes.plot(x, numbers["probabilities"], color=INK, lw=2.6, label="this annotator")
    axes.plot(x, plain["probabilities"], color=BLUE, ls="--", lw=1.6, label="plain sigmoid: temperature 1, no noise")
    axes.plot([difference, difference], [0, numbers["probability"]], color=FAINT, lw=1)
    _here(axes, difference, numbers["probability"])
    axes.set_ylim(0, 1)
    _label(axes, "Only the difference of scores counts", "score(chosen) - score(rejected)", "P(chosen beats rejected)")
    _legend(axes, "lower right")
    return figure


def preference_sigmoid_words(difference: float, temperature: float, flip: float) -> Words:
    """What to look for, by what most bends the curve."""
    numbers = preference_sigmoid_numbers(difference, temperature, flip)
    if flip >= 0.01:
        look = f"the ends: they stop at {flip:.0%} and {1 - flip:.0%}. No difference, however large, makes a label surer than that."
    elif temperature > 1.3:
        look = (
            f"the middle: it is flat. Each {temperature:.2g} points of difference multiply the odds by e, so near scores are almost a coin."
        )
    elif temperature < 0.75:
        look = "the middle: it is nearly a step. Such labels tell which answer is better, and hardly by how much."
    else:
        look = "difference 0, where the label is a coin; from there each point multiplies the odds by e, about 2.7."
    return Words(
        "The chance that the chosen answer beats the rejected one rises with the difference of their scores in the shape of an S.",
        look,
        f"difference {difference:.2f}: P = {numbers['probability']:.1%}, loss -log P = {numbers['loss']:.3f} nats, "
        f"difference that a reward model would learn = {numbers['fitted']:.2f} log-odds",
    )


def preference_sigmoid() -> Explorer:
    """Explorer: how a difference of scores becomes a noisy label (Bradley-Terry)."""
    controls = {
        "difference": _slider("score difference", 1.0, -6, 6, 0.1),
        "temperature": _log_slider("temperature", 1.0, 0.2, 5),
        "flip": _slider("label noise (flip)", 0.0, 0, 0.5, 0.01),
    }
    return Explorer(preference_sigmoid_figure, preference_sigmoid_words, controls)


# ---------------------------------------------------------------------------------------------- DPO's loss

BETAS = {0.1: (BLUE, "--"), 0.3: (GREEN, "-."), 1.0: (VERMILION, ":")}  # drawn for comparison: hue and dash


def dpo_loss_and_gradient_numbers(beta: float, label_smoothing: float, difference: float) -> dict:
    """DPO's loss and its slope over log-ratio differences -12 to 12 nats, from `losses.dpo_loss` by autograd.

    Args:
        beta: > 0.
        label_smoothing: in [0, 0.5).
        difference: log pi/pi_ref of the chosen less that of the rejected, nats.

    Returns:
        differences, losses (nats) and gradients (nats a nat), lists; loss, gradient and start (the gradient at difference 0);
        lowest, the difference where the gradient is 0, or None where that lies outside.
    """

    def loss(at: Tensor) -> Tensor:
        zero = torch.zeros_like(at)[None]
        return losses.dpo_loss(at[None], zero, zero, zero, beta, label_smoothing)

    slope = torch.vmap(torch.func.grad_and_value(loss))
    differences = torch.linspace(-12, 12, 481, dtype=torch.float64)
    gradients, values = slope(differences)
    gradient, value = slope(torch.tensor([difference, 0.0], dtype=torch.float64))
    turn = ((gradients[:-1] < 0) & (gradients[1:] >= 0)).nonzero().flatten().tolist()
    return {
        "differences": differences.tolist(),
        "losses": values.tolist(),
        "gradients": gradients.tolist(),
        "loss": value[0].item(),
        "gradient": gradient[0].item(),
        "start": gradient[1].item(),
        "lowest": differences[turn[0] + 1].item() if turn else None,
    }


def dpo_loss_and_gradient_figure(beta: float, label_smoothing: float, difference: float) -> Figure:
    """Loss on the left, gradient on the right: three fixed betas and the learner's."""
    figure, (left, right) = _panels(2)
    curves = [(each, colour, dash, 1.6) for each, (colour, dash) in BETAS.items()] + [(beta, INK, "-", 2.6)]
    for each, colour, dash, width in curves:
        numbers = dpo_loss_and_gradient_numbers(each, label_smoothing, difference)
        label = f"beta {each:.2g}" + (", yours" if colour == INK else "")
        left.plot(numbers["differences"], numbers["losses"], color=colour, ls=dash, lw=width, label=label)
        right.plot(numbers["differences"], numbers["gradients"], color=colour, ls=dash, lw=width, label=label)
    for axes, value in ((left, numbers["loss"]), (right, numbers["gradient"])):
        axes.axvline(0, color=FAINT, lw=1, zorder=1)
        _here(axes, difference, value)
    right.axhline(0, color=FAINT, lw=1, zorder=1)
    left.set_ylim(0, 4)
    x = "log-ratio of chosen less that of rejected, nats"
    _label(left, "DPO's loss", x, "loss, nats")
    _label(right, "Its gradient: how hard it pulls", x, "d loss / d difference")
    _legend(left, "upper right")
    return figure


def dpo_loss_and_gradient_words(beta: float, label_smoothing: float, difference: float) -> Words:
    """What to look for, by smoothing and by how far the policy has come."""
    numbers = dpo_loss_and_gradient_numbers(beta, label_smoothing, difference)
    if label_smoothing > 0 and numbers["lowest"] is not None and difference > numbers["lowest"]:
        look = f"the sign of the gradient: past {numbers['lowest']:.1f} nats it is above 0, and the loss pulls the pair back together."
    elif label_smoothing > 0:
        lowest = "outside the picture" if numbers["lowest"] is None else f"at {numbers['lowest']:.1f} nats"
        look = f"the lowest point of your loss, {lowest}. Smoothing puts it at a finite difference; a larger beta brings it nearer."
    elif abs(difference) < 0.05:
        look = (
            "difference 0, where training starts: every loss is log 2 there, and the pull grows with beta. Further right the order turns."
        )
    elif numbers["gradient"] > numbers["start"] / 4:
        look = (
            "how weak the pull has become: this pair counts as learned. It is never 0, so that without smoothing no difference is enough."
        )
    else:
        look = "the right side: the larger beta is, the sooner the pull fades, and so the nearer to the reference training comes to rest."
    return Words(
        "Left, DPO's loss falls as the log-ratio difference grows; right, its gradient, below 0 and fading. One curve a beta.",
        look,
        f"beta {beta:.3g}, difference {difference:.1f} nats: loss {numbers['loss']:.3f} nats, gradient {numbers['gradient']:.4f} "
        f"(at difference 0: {numbers['start']:.4f})",
    )


def dpo_loss_and_gradient() -> Explorer:
    """Explorer: DPO's loss and its pull on one pair, by beta and label smoothing."""
    controls = {
        "beta": _log_slider("beta", 0.5, 0.02, 3),
        "label_smoothing": _slider("label smoothing", 0.0, 0, 0.4, 0.01),
        "difference": _slider("log-ratio difference", 0.0, -12, 12, 0.1),
    }
    return Explorer(dpo_loss_and_gradient_figure, dpo_loss_and_gradient_words, controls)


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


def clipped_objective_figure(clip_epsilon: float, ratio: float, size: float) -> Figure:
    """A good token on the left, a bad one on the right; shaded where the gradient is zero."""
    numbers = clipped_objective_numbers(clip_epsilon, ratio, size)
    figure, panels = _panels(2)
    for axes, name, title, colour in zip(
        panels, ("good", "bad"), ("Advantage above 0", "Advantage below 0"), (BLUE, VERMILION), strict=True
    ):
        part, x = numbers[name], numbers["ratios"]
        still = [gradient == 0 for gradient in part["gradients"]]
        across = axes.get_xaxis_transform()
        axes.fill_between(x, 0, 1, where=still, transform=across, color=FAINT, alpha=0.35, lw=0, hatch="//", label="gradient is zero")
        axes.plot(x, part["unclipped"], color=colour, ls="--", lw=1.5, label="ratio x advantage")
        axes.plot(x, part["objectives"], color=INK, lw=2.4, label="clipped objective")
        axes.axvline(1, color=FAINT, lw=1, zorder=1)
        _here(axes, ratio, part["objective"])
        _label(axes, title, "ratio pi / pi_old of the token", "objective, to be raised")
    _legend(panels[0], "upper left")
    return figure


def clipped_objective_words(clip_epsilon: float, ratio: float, size: float) -> Words:
    """What to look for, by where the ratio stands."""
    numbers = clipped_objective_numbers(clip_epsilon, ratio, size)
    good, bad = (numbers[name]["gradient"] for name in ("good", "bad"))
    if good == 0:
        look = "the left panel: this good token has gained enough, and nothing pushes it on. A bad one is pushed back at full force."
    elif bad == 0:
        look = "the right panel: this bad token has lost enough, and nothing pushes it on. A good one is pulled back at full force."
    else:
        look = f"the edges {max(1 - clip_epsilon, 0):.2f} and {1 + clip_epsilon:.2f}: between them the clip changes nothing."
    return Words(
        "Two panels, advantage above and below 0: PPO's clipped objective against the probability ratio. "
        "Shaded where the gradient is zero: above 1 + epsilon on the left, below 1 - epsilon on the right.",
        look,
        f"epsilon {clip_epsilon:.2f}, ratio {ratio:.2f}: "
        f"advantage +{size:.1f} objective {numbers['good']['objective']:.2f}, gradient {good:.2f}; "
        f"advantage -{size:.1f} objective {numbers['bad']['objective']:.2f}, gradient {bad:.2f}",
    )


def clipped_objective() -> Explorer:
    """Explorer: where PPO's clip stops the gradient, and where it does not."""
    controls = {
        "clip_epsilon": _slider("clip epsilon", 0.2, 0.05, 0.8, 0.05),
        "ratio": _slider("ratio", 1.0, 0.05, 2.5, 0.05),
        "size": _slider("size of the advantage", 1.0, 0.1, 3, 0.1),
    }
    return Explorer(clipped_objective_figure, clipped_objective_words, controls)


# ---------------------------------------------------------------------------------------------- GAE

TOKENS = ["The", " plot", " truly", " shines", ",", " never", " dull", "."]
LOG_RATIOS = [0.1, -0.2, 0.9, 1.2, -0.1, 0.8, -0.3, 0.2]  # log pi/pi_ref of each token, nats
VALUES = [0.5, 0.5, 0.4, 1.0, 1.7, 1.5, 1.1, 1.8]  # a value curve drawn by hand: of the state before each token
SCORE = 2.0  # the reward model's, for the whole answer


def gae_on_an_episode_numbers(lam: float, gamma: float, beta: float) -> dict:
    """Rewards and advantages of one answer of eight tokens, from `losses.shape_rewards` and `losses.gae`.

    Args:
        lam, gamma: in [0, 1].
        beta: >= 0, reward units a nat.

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


def gae_on_an_episode_figure(lam: float, gamma: float, beta: float) -> Figure:
    """Rewards and values above, advantages below, token by token."""
    numbers = gae_on_an_episode_numbers(lam, gamma, beta)
    figure = Figure(figsize=(9.6, 5.0), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    x = range(len(TOKENS))
    for axes in (top, bottom):
        _tidy(axes)
        axes.axhline(0, color=INK, lw=0.8)
    top.bar(
        x, numbers["rewards"], width=0.5, color=SKY, edgecolor=INK, hatch="//", lw=0.6, label="reward: -beta x log-ratio, score at the end"
    )
    top.plot(x, numbers["values"], color=VERMILION, ls="--", marker="D", label="value before the token (drawn by hand)")
    bottom.plot(x, numbers["td"], color=BLUE, ls=":", marker="s", label="lambda 0: one step of surprise")
    bottom.plot(x, numbers["monte_carlo"], color=GREEN, ls="--", marker="^", label="lambda 1: return less value")
    bottom.plot(x, numbers["advantages"], color=INK, marker="o", lw=2.2, label=f"lambda {lam:.2f}, yours")
    bottom.set_xticks(x, [token.strip() for token in TOKENS])
    _label(top, "What the episode gives", "", "reward, value")
    _label(bottom, "What each token is told", "token", "advantage")
    for axes, columns in ((top, 2), (bottom, 3)):
        low, high = axes.get_ylim()
        axes.set_ylim(top=high + 0.25 * (high - low))  # room for the legend
        _legend(axes, "upper left", columns)
    return figure


def gae_on_an_episode_words(lam: float, gamma: float, beta: float) -> Words:
    """What to look for, by how far the score's surprise travels back."""
    numbers = gae_on_an_episode_numbers(lam, gamma, beta)
    if lam <= 0.05:
        look = "the values above: where they jump, the advantage is large. Of the score at the end the last token alone hears."
    elif numbers["reach"] >= 0.6:
        look = (
            "the first tokens: the end's surprise counts there almost in full. Little depends on the value curve, much on this one sample."
        )
    elif gamma < 0.9:
        look = f"how gamma shrinks what lies ahead: a score seven tokens away is worth {gamma**7:.0%} of itself at the first token."
    else:
        look = f"how far back the end is heard: of its surprise {numbers['reach']:.0%} reach the first token."
    advantages = " | ".join(f"{token.strip()} {value:+.2f}" for token, value in zip(TOKENS, numbers["advantages"], strict=True))
    return Words(
        f'The eight tokens of "{"".join(TOKENS)}": above, the reward of each and the value before it; below, their advantages for '
        "lambda 0, lambda 1 and yours.",
        look,
        f"advantages: {advantages}; rewards sum to {sum(numbers['rewards']):.2f}",
    )


def gae_on_an_episode() -> Explorer:
    """Explorer: how GAE hands the score at the end back to the tokens."""
    controls = {
        "lam": _slider("lambda", 0.95, 0, 1, 0.05),
        "gamma": _slider("gamma", 1.0, 0.5, 1, 0.05),
        "beta": _slider("beta", 0.3, 0, 1, 0.05),
    }
    return Explorer(gae_on_an_episode_figure, gae_on_an_episode_words, controls)


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


def kl_estimators_figure(distance: float, samples: int, seed: int) -> Figure:
    """The two distributions on the left; on the right the three means against the truth."""
    numbers = kl_estimators_numbers(distance, samples, seed)
    figure, (left, right) = _panels(2)
    x = torch.arange(6).tolist()
    reference, policy = numbers["reference"], numbers["policy"]
    left.bar([i - 0.2 for i in x], reference, width=0.38, color=FAINT, edgecolor=INK, lw=0.6, label="reference")
    left.bar([i + 0.2 for i in x], policy, width=0.38, color=SKY, edgecolor=INK, hatch="//", lw=0.6, label="policy, which samples")
    left.set_xticks(x, "abcdef")
    left.set_ylim(top=1.3 * max(reference + policy))  # room for the legend
    _label(left, "Two distributions over six tokens", "token", "probability")
    _legend(left, "upper right")
    right.axhline(numbers["truth"], color=INK, lw=1.6, ls="--", label="truth, enumerated")
    for place, (kind, (colour, marker)) in enumerate(KINDS.items()):
        part = numbers[kind]
        right.errorbar(place, part["mean"], 2 * part["se"], color=colour, marker=marker, ms=9, capsize=6, lw=2)
        right.plot([place - 0.25, place + 0.25], [part["expected"]] * 2, color=colour, lw=2.4, ls=":", zorder=5)
        beside(right, f"{part['mean']:.3f}", (place, part["mean"]), (10, 9), fontsize=9, color=colour, va="center")
    right.plot([], [], color=INK, ls=":", lw=2, label="what its mean tends to")
    right.errorbar([], [], [], color=INK, capsize=4, marker="o", ls="none", label="mean ± 2 standard errors")
    right.set_xticks(range(3), KINDS)
    right.set_xlim(-0.5, 2.8)
    right.margins(y=0.3)
    _label(right, f"Means of {samples:,} samples", "estimator", "KL(policy, reference), nats")
    _legend(right, "best")
    return figure


def kl_estimators_words(distance: float, samples: int, seed: int) -> Words:
    """What to look for, by the largest error of the three."""
    numbers = kl_estimators_numbers(distance, samples, seed)
    truth, (k1, k2, k3) = numbers["truth"], (numbers[kind] for kind in KINDS)
    bias = k2["expected"] - truth
    misses = abs(k2["mean"] - truth) > 2 * k2["se"] and abs(bias) > k2["se"]
    if distance == 0:
        look = "nothing: policy and reference are equal, so each sample's estimate is exactly 0, of all three kinds."
    elif misses:
        look = (
            f"k2: its bar leaves out the truth. It tends to {k2['expected']:.3f}, off by {bias:+.3f}, and more samples do not mend a bias."
        )
    elif k3["se"] < k1["se"]:
        look = f"the bars: k1's is {k1['se'] / k3['se']:.1f} times as long as k3's; both are right on average, and k3 is never below 0."
    else:
        look = "k3's bar: it is no shorter than k1's any more. Tokens that the policy rarely draws weigh heavily in it."
    parts = "; ".join(f"{kind} {part['mean']:.3f} ± {part['se']:.3f}" for kind, part in zip(KINDS, (k1, k2, k3), strict=True))
    return Words(
        "Left, two distributions over six tokens; right, the estimates k1, k2, k3 with bars of two standard errors against the true KL.",
        look,
        f"truth {truth:.4f} nats; from {samples:,} samples, mean ± standard error: {parts}",
    )


def kl_estimators() -> Explorer:
    """Explorer: three ways to estimate a KL from samples, against the truth."""
    counts = [10, 30, 100, 300, 1000, 3000, 10_000]
    controls = {
        "distance": _slider("distance", 0.5, 0, 3, 0.1),
        "samples": widgets.SelectionSlider(
            value=100, options=counts, description="samples", continuous_update=False, style=_LABEL, layout=_WIDTH
        ),
        "seed": widgets.IntSlider(0, min=0, max=20, description="draw again (seed)", continuous_update=False, style=_LABEL, layout=_WIDTH),
    }
    return Explorer(kl_estimators_figure, kl_estimators_words, controls)


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


def tilted_optimum_figure(beta: float, fillings: Sequence[tuple[str, str]] | None = None, ref_logps: Tensor | None = None) -> Figure:
    """Bars of reference and optimum on the left, the reward-KL plane with the point of this beta on the right."""
    numbers = tilted_optimum_numbers(beta, fillings, ref_logps)
    reference, optimum, rewards = numbers["reference"], numbers["optimum"], numbers["rewards"]
    likely = sorted(range(len(rewards)), key=lambda i: -max(reference[i], optimum[i]))[:SHOWN]
    likely.sort(key=lambda i: (rewards[i], reference[i]))  # the best filling on top
    figure, (left, right) = _panels(2, (1.15, 1))
    figure.set_figheight(4.4)
    y = range(len(likely))
    left.barh([i + 0.2 for i in y], [reference[i] for i in likely], height=0.38, color=FAINT, edgecolor=INK, lw=0.6, label="reference")
    label = f"optimum, beta {beta:.2g}"
    left.barh([i - 0.2 for i in y], [optimum[i] for i in likely], height=0.38, color=SKY, edgecolor=INK, hatch="//", lw=0.6, label=label)
    left.set_yticks(y, [as_it_stands(f"{' '.join(numbers['fillings'][i])}  ({rewards[i] + 0:+.1f})") for i in likely], fontsize=9)
    left.margins(y=0.02)
    _label(left, f'"{BLANKS} __ __."', f"probability (the {len(likely)} likeliest of {len(rewards)}; reward in brackets)", "")
    _legend(left, "best")
    right.plot(*zip(*numbers["frontier"], strict=True), color=INK, lw=2.2, label="frontier: no policy can do better")
    right.plot([0], [numbers["start"]], color=COLOURS["sft"], marker="s", ms=9, ls="none", label="reference")
    reach = min(0.35, 0.35 / beta)  # nats to either side, so that a steep tangent stays short
    x = [max(numbers["kl"] - reach, 0), numbers["kl"] + reach]
    tangent = [numbers["reward"] + beta * (each - numbers["kl"]) for each in x]
    right.plot(x, tangent, color=VERMILION, ls="--", lw=2, label="slope = beta")
    _here(right, numbers["kl"], numbers["reward"])
    _label(right, "What each nat buys", "KL(optimum, reference), nats", "expected reward")
    _legend(right, "lower right")
    return figure


def tilted_optimum_words(beta: float, fillings: Sequence[tuple[str, str]] | None = None, ref_logps: Tensor | None = None) -> Words:
    """What to look for, by how much of the whole way to the best fillings has been paid for."""
    numbers = tilted_optimum_numbers(beta, fillings, ref_logps)
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
        f"beta {beta:.3g}: reward {numbers['reward']:.3f} (reference {numbers['start']:.3f}), KL {numbers['kl']:.3f} nats, "
        f'effective fillings {numbers["size"]:.1f} of {len(numbers["rewards"])}; likeliest: "{" ".join(numbers["fillings"][best])}", '
        f"{numbers['reference'][best]:.1%} to {numbers['optimum'][best]:.1%}",
    )


def tilted_optimum(fillings: Sequence[tuple[str, str]] | None = None, ref_logps: Tensor | None = None) -> Explorer:
    """Explorer: the best that any policy can do at each price of KL, enumerated.

    Without arguments a reference made up here; with both, a model's: `world.blank_fillings()` and its `evaluate.filling_logps(...)`.
    """
    draw = partial(tilted_optimum_figure, fillings=fillings, ref_logps=ref_logps)
    tell = partial(tilted_optimum_words, fillings=fillings, ref_logps=ref_logps)
    return Explorer(draw, tell, {"beta": _log_slider("beta", 0.5, 0.05, 10)})
