"""Figures of PPO's courses: several runs over each other, a policy that cheats, and gold where the KL is equal."""

from collections.abc import Sequence

import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from alignlab.lab.explore_tokens import KINDS
from alignlab.lab.hacking import Diary, gains, smoothed
from alignlab.lab.view import COLOURS, FAINT, INK, PURPLE, VERMILION, beside, plain_axes

Course = Sequence[dict]  # the metrics of whole iterations
STYLES = ((INK, "-", "o"), (COLOURS["ppo"], "--", "s"), (COLOURS["dpo"], ":", "^"), (PURPLE, "-.", "D"))


def draw(runs: dict[str, Course], panels: dict[str, str], log: Sequence[str] = (), level: float | None = None) -> Figure:
    """Metrics over the iterations, a panel each, with every run that reports them.

    Args:
        runs: the metrics of each run, by its name.
        panels: the title of each metric's panel, by the metric.
        log: metrics with a logarithmic scale.
        level: of a horizontal line in the first panel, such as a target.
    """
    figure = Figure(figsize=(max(4.8 * len(panels), 6), 3.1) if len(panels) < 3 else (9.6, 2.8), layout="constrained")
    told = []
    for axes, (key, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        ends = []
        for (name, course), (colour, dash, marker) in zip(runs.items(), STYLES, strict=False):
            if known := [(m["step"] + 1, m[key]) for m in course if key in m]:
                axes.plot(*zip(*known, strict=True), color=colour, ls=dash, marker=marker, ms=4, label=name)
                ends.append(f"{name} from {known[0][1]:.3g} to {known[-1][1]:.3g}")
        axes.set_yscale("log" if key in log else "linear")
        _finish(axes, title, "iteration")
        told.append(f"{title}: {', '.join(ends)}")
    first = figure.axes[0]
    if level is not None:
        first.axhline(level, color=FAINT, lw=1.5)
        beside(first, "target", (1, level), (0, 4), fontsize=8, color=INK)
        told[0] += f", the target {level:g}"
    if len(runs) > 1:
        first.legend(frameon=False, fontsize=8)
    figure.set_label(f"Curves over the iterations. {'; '.join(told)}.")
    return figure


def proxy_and_gold(course: Course, proxy: Diary, gold: Diary, window: int) -> Figure:
    """A run's proxy and gold over its iterations, in one unit, with gold's peak and its fall from there; on the right the KL.

    Args:
        course: the run's metrics, which tell `reward` (the proxy), `gold` and `kl`.
        proxy, gold: what was scored in it, a page an iteration; the spread of the first page's scores is the unit.
        window: iterations of the moving average by which the peak is found; it is marked at the middle of the highest window.
    """
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    steps, ends = [m["step"] + 1 for m in course], {}
    for key, diary, name, colour, style in (
        ("reward", proxy, "proxy: the weak judge's score", VERMILION, "s--"), ("gold", gold, "gold, which nobody trains on", INK, "o-"),
    ):  # fmt: skip
        gain, error = gains(course, diary, key)
        left.plot(steps, gain, style, color=colour, ms=3.5, lw=1.2, label=name)
        left.fill_between(steps, gain - 2 * error, gain + 2 * error, color=colour, alpha=0.15, lw=0)
        ends[key] = smoothed(gain, window)
    peak, end = ends["gold"].max().item(), ends["gold"][-1].item()
    at = steps[int(ends["gold"].argmax()) + min(window, len(steps)) // 2]  # the middle of the window
    left.axvline(at, color=FAINT, lw=1.2, zorder=0, label=f"gold's peak, iteration {at}")
    left.plot([at, steps[-1]], [peak, peak], color=FAINT, lw=1.2, zorder=0)
    left.annotate("", (steps[-1], end), (steps[-1], peak), arrowprops={"arrowstyle": "->", "color": INK, "shrinkA": 0, "shrinkB": 0})
    left.legend(frameon=False, fontsize=8)
    _finish(left, "Gain since the start, in standard deviations of the SFT model's answers", "iteration")
    right.plot(steps, [m["kl"] for m in course], color=INK, marker="o", ms=3.5, lw=1.2)
    right.axvline(at, color=FAINT, lw=1.2, zorder=0)
    _finish(right, "KL to the SFT model, nats", "iteration")
    figure.set_label(
        f"Over {len(steps)} iterations. The proxy's gain ends at {ends['reward'][-1]:.2f} standard deviations. Gold's gain peaks at "
        f"{peak:.2f} in iteration {at} and ends at {end:.2f}. The KL ends at {course[-1]['kl']:.1f} nats."
    )
    return figure


def gold_against_kl(runs: dict[str, Course], spread: float, near: float = 12.0) -> Figure:
    """The path of each run on the plane of gold against KL, so that runs can be compared where their KL is equal.

    Args:
        runs: the metrics of each run, by its name.
        spread: standard deviation of the gold of the SFT model's answers, the unit of the gain.
        near: the right panel enlarges the paths up to this KL, nats.
    """
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    whole, start = figure.subplots(1, 2)
    told, heights = [], [0.0]
    for (name, course), (colour, dash, marker) in zip(runs.items(), STYLES, strict=False):
        kl, gain = [m["kl"] for m in course], [(m["gold"] - course[0]["gold"]) / spread for m in course]
        heights += [high for far, high in zip(kl, gain, strict=True) if far <= near]
        for axes in (whole, start):
            axes.plot(kl, gain, color=colour, ls=dash, marker=marker, ms=4, lw=1.2, label=name)
        told.append(f"{name} ends at KL {kl[-1]:.1f}, gain {gain[-1]:.2f}")
    whole.legend(frameon=False, fontsize=8)
    whole.set_ylabel("gain in gold, standard deviations", fontsize=9)
    whole.set_xscale("function", functions=(lambda x: numpy.sqrt(numpy.clip(x, 0, None)), numpy.square))  # room where the runs are close
    whole.set_xlim(left=0)
    start.set(xlim=(0, near), ylim=(min(heights) - 0.1, max(heights) + 0.2))
    _finish(whole, "Whole runs: at equal KL, higher is better", "KL to the SFT model, nats per completion (square-root scale)")
    _finish(start, f"The first {near:g} nats", "KL to the SFT model, nats per completion")
    figure.set_label(f"Gold against KL, the path of each run. {'; '.join(told)}.")
    return figure


def errors_of_estimators(truths: Sequence[float], errors: Sequence[tuple[Tensor, Tensor]]) -> Figure:
    """Bias and spread of k1, k2 and k3 as shares of the true KL, over that KL.

    Args:
        truths: KL of N policies to their reference, nats.
        errors: bias and spread of the three estimators for each, (3,) and (3,), nats.
    """
    figure = Figure(figsize=(9.6, 3.1), layout="constrained")
    told = []
    for axes, part, title in zip(figure.subplots(1, 2), (0, 1), ("Bias", "Spread of one token's estimate"), strict=True):
        for number, ((kind, (colour, marker)), dash) in enumerate(zip(KINDS.items(), ("-", "--", ":"), strict=True)):
            shares = [pair[part][number].item() / truth for pair, truth in zip(errors, truths, strict=True)]
            axes.plot(truths, shares, color=colour, ls=dash, marker=marker, ms=4, label=kind)
            told.append(f"{title} of {kind} from {shares[0]:.2f} to {shares[-1]:.2f}")
        _finish(axes, f"{title}, in units of the true KL", "true KL, nats per token")
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.set_label(f"{'; '.join(told)} as the two policies move apart.")
    return figure


def _finish(axes: Axes, title: str, below: str) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel(below, fontsize=9)
    if below == "iteration":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain_axes(axes)
