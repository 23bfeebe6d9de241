"""Explorers of what is learned from pairs: Bradley-Terry, and DPO's loss."""

import math

import torch
from matplotlib.figure import Figure
from torch import Tensor

from alignlab import losses

# Okabe and Ito's palette again; wherever hue tells curves apart, dash or marker does so too.
from alignlab.lab.explorer import ORANGE, Explorer, Words, label_axes, legend, log_slider, mark, panels, slider
from alignlab.lab.view import BLUE, FAINT, GREEN, INK, VERMILION
from alignlab.world import Annotator

# ---------------------------------------------------------------------------------------------- Bradley-Terry


def preference_sigmoid_numbers(difference: float, temperature: float, flip: float) -> dict:
    """P(A preferred) of an annotator who compares A with B, over score differences -6 to 6.

    Args:
        difference: score(A) - score(B), in reward units.
        temperature: > 0, reward units; higher is less sure of small differences.
        flip: share of labels flipped whatever the difference, 0 to 0.5.

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


def preference_sigmoid_figure(numbers: dict, difference: float, temperature: float, flip: float) -> Figure:
    """The annotator's curve beside the plain sigmoid."""
    plain = preference_sigmoid_numbers(difference, 1.0, 0.0)
    figure, (axes,) = panels(1)
    x = numbers["differences"]
    if flip > 0:
        axes.axhspan(0, flip, color=ORANGE, alpha=0.25, lw=0, hatch="//", label="never reached: labels flipped")
        axes.axhspan(1 - flip, 1, color=ORANGE, alpha=0.25, lw=0, hatch="//")
    axes.plot(x, numbers["probabilities"], color=INK, lw=2.6, label="this annotator")
    axes.plot(x, plain["probabilities"], color=BLUE, ls="--", lw=1.6, label="plain sigmoid: temperature 1, no noise")
    axes.plot([difference, difference], [0, numbers["probability"]], color=FAINT, lw=1)
    mark(axes, difference, numbers["probability"])
    axes.set_ylim(0, 1)
    label_axes(axes, "Only the difference of scores counts", "score(A) - score(B)", "P(A preferred)")
    legend(axes, "lower right")
    return figure


def preference_sigmoid_words(numbers: dict, difference: float, temperature: float, flip: float) -> Words:
    """What to look for, by what most bends the curve."""
    if flip >= 0.01:
        look = f"the ends: they approach {flip:.0%} and {1 - flip:.0%}. No difference, however large, makes a label surer than that."
    elif temperature > 1.3:
        look = (
            f"the middle: it is flat. Each {temperature:.2g} points of difference multiply the odds by e, so near scores are almost a coin."
        )
    elif temperature < 0.75:
        look = "the middle: it is nearly a step. Such labels tell which answer is better, and hardly by how much."
    else:
        look = "difference 0, where the label is a coin; from there each point multiplies the odds by e, about 2.7."
    return Words(
        "The chance that A is preferred to B rises with the difference of their scores in the shape of an S.",
        look,
        f"difference {difference:z.2f}: P(A preferred) = {numbers['probability']:.1%}",
    )


def preference_sigmoid() -> Explorer:
    """Explorer: how a difference of scores becomes a noisy label (Bradley-Terry). It begins where both settings show."""
    controls = {
        "difference": slider("score difference", 1.0, -6, 6, 0.1),
        "temperature": log_slider("temperature", 2.0, 0.2, 5),
        "flip": slider("label noise (flip)", 0.1, 0, 0.5, 0.01),
    }
    return Explorer(preference_sigmoid_numbers, preference_sigmoid_figure, preference_sigmoid_words, controls)


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


def dpo_loss_and_gradient_figure(numbers: dict, beta: float, label_smoothing: float, difference: float) -> Figure:
    """Loss on the left, gradient on the right: three fixed betas and the learner's."""
    figure, (left, right) = panels(2)
    curves = [
        (dpo_loss_and_gradient_numbers(each, label_smoothing, difference), colour, dash, 1.6, f"beta {each:.2g}")
        for each, (colour, dash) in BETAS.items()
    ]
    for curve, colour, dash, width, label in [*curves, (numbers, INK, "-", 2.6, f"beta {beta:.2g}, yours")]:
        left.plot(curve["differences"], curve["losses"], color=colour, ls=dash, lw=width, label=label)
        right.plot(curve["differences"], curve["gradients"], color=colour, ls=dash, lw=width, label=label)
    for axes, value in ((left, numbers["loss"]), (right, numbers["gradient"])):
        axes.axvline(0, color=FAINT, lw=1, zorder=1)
        mark(axes, difference, value)
    right.axhline(0, color=FAINT, lw=1, zorder=1)
    left.set_ylim(0, 4)
    x = "log-ratio of chosen less that of rejected, nats"
    label_axes(left, "DPO's loss", x, "loss, nats")
    label_axes(right, "Its gradient: how hard it pulls", x, "d loss / d difference")
    legend(left, "upper right")
    return figure


def dpo_loss_and_gradient_words(numbers: dict, beta: float, label_smoothing: float, difference: float) -> Words:
    """What to look for, by smoothing and by how far the policy has come."""
    if label_smoothing > 0 and numbers["lowest"] is not None and difference > numbers["lowest"]:
        look = f"the sign of the gradient: past {numbers['lowest']:z.1f} nats it is above 0, and the loss pulls the pair back together."
    elif label_smoothing > 0:
        lowest = "outside the picture" if numbers["lowest"] is None else f"at {numbers['lowest']:z.1f} nats"
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
        f"beta {beta:.3g}, difference {difference:z.1f} nats: loss {numbers['loss']:z.3f} nats, gradient {numbers['gradient']:z.4f} "
        f"(at difference 0: {numbers['start']:z.4f})",
    )


def dpo_loss_and_gradient() -> Explorer:
    """Explorer: DPO's loss and its pull on one pair, by beta and label smoothing."""
    controls = {
        "beta": log_slider("beta", 0.5, 0.02, 3),
        "label_smoothing": slider("label smoothing", 0.0, 0, 0.4, 0.01),
        "difference": slider("log-ratio difference", 0.0, -12, 12, 0.1),
    }
    return Explorer(dpo_loss_and_gradient_numbers, dpo_loss_and_gradient_figure, dpo_loss_and_gradient_words, controls)
