"""Both efficiencies of a policy, as lengths on the reward-KL plane."""

from matplotlib.figure import Figure

from alignlab.lab import answers
from alignlab.lab.view import COLOURS, INK, JUDGES, NAMES, PURPLE, WIDE, draw_plane, settle


def efficiency_figure(comparison: dict, name: str) -> Figure:
    """The plane with three gains at one policy's KL: a of the frontier, b of the reach, c of the policy.

    b / a is the reward model's efficiency, c / b the optimiser's. Where the curves end before the policy, no gain is drawn.

    Args:
        comparison: `curves`, `reference`, `judge` and `policies`, as `Pipeline.compare` gives them.
        name: of the policy.
    """
    figure = Figure(figsize=WIDE, layout="constrained")
    axes = figure.subplots()
    draw_plane(axes, comparison)
    curves, start = comparison["curves"], comparison["reference"]["gold"][0]
    kl, gold = (comparison["policies"][name][key][0] for key in ("kl", "gold"))
    words = "The samples do not show the curves as far as this policy: no efficiency can be given."
    if 0 < kl <= min(curves["frontier"][-1][0], curves["reach"][-1][0]):
        of_judge, of_optimiser = answers.efficiencies(kl, gold, start, curves["frontier"], curves["reach"])
        words = f"b / a = reward-model efficiency = {of_judge:.2f}\nc / b = optimiser efficiency = {of_optimiser:.2f}"
        reached = start + (gold - start) / of_optimiser
        tops = {"a": start + (reached - start) / of_judge, "b": reached, "c": gold}
        step = 0.05 * axes.get_xlim()[1]
        lines = {"a": ("gain of the frontier", INK), "b": ("gain of the reach", PURPLE), "c": (f"gain of {NAMES[name]}", COLOURS[name])}
        for place, (letter, (label, colour)) in enumerate(lines.items(), 1):
            x, top = kl + place * step, tops[letter]
            axes.plot([kl, x], [top, top], color=colour, lw=0.9, ls=":", zorder=4)
            axes.plot([x, x], [start, top], color=colour, lw=2.4, marker="_", ms=11, mew=2, zorder=5, label=f"{letter}: {label}")
            axes.text(x + step / 8, start + (top - start) * 0.45, letter, color=colour, fontsize=12, fontweight="bold")
    axes.text(0.02, 0.97, words, transform=axes.transAxes, va="top", fontsize=11, color=INK, linespacing=1.5)
    axes.set_title(f"Where the gain of {NAMES[name]} stays behind", loc="left", fontsize=13, fontweight="bold", color=INK)
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, labelcolor=INK, frameon=False)
    settle(figure, axes)
    said = words.replace("\n", "; ")
    figure.set_label(f"{JUDGES[comparison['judge']['kind']]} against KL: the frontier, the reach below it, and {NAMES[name]}. {said}")
    return figure
