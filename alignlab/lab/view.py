"""Figures of finished runs, and the colours that all figures share. Nothing here trains."""

import io
from collections.abc import Sequence
from typing import Any

import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from alignlab.stage import Panel
from alignlab.stages import METHODS, stages

# Okabe and Ito's palette, which colour-blind readers can tell apart; each policy also has a marker of its own.
VERMILION, BLUE, GREEN, PURPLE, YELLOW = "#D55E00", "#0072B2", "#009E73", "#882288", "#F0E442"
STAGES = stages()
COLOURS = {"best_of_16": GREEN} | {name: stage.colour for name, stage in STAGES.items()}
MARKERS = {"best_of_16": "^"} | {name: stage.marker for name, stage in STAGES.items()}
NAMES = {"sft": "SFT", "best_of_16": "best-of-16"} | {name: STAGES[name].title for name in METHODS}
JUDGES = {"gold": "gold reward", "vader": "gold reward (VADER)", "reward_model": "reward model's score"}
PLACES = {"sft": ((9, 6), "left"), "best_of_16": ((-9, 7), "right")}  # of a policy's name beside its point
OTHER_PLACES = ((11, -13), "left"), ((-10, -15), "right")  # of the methods, by turns
ASIDE = (2, 22), "left"  # of best-of-16, where another policy's bar stands at its usual place
INK, FAINT = "#222222", "#BBBBBB"


# ---------------------------------------------------------------------------------------------- the reward-KL plane


def plane_figure(comparison: dict, title: str | None = None) -> Figure:
    """The reward-KL plane: where each policy landed, and the best that was possible there."""
    figure = Figure(figsize=(9.6, 5.6), layout="constrained")
    axes = figure.subplots()
    draw_plane(axes, comparison)
    axes.set_title(title or "What each policy gained, and what it paid", loc="left", fontsize=13, fontweight="bold", color=INK)
    return figure


def draw_plane(axes: Axes, comparison: dict, furthest: float = 0.0) -> None:
    """Curves, policies, and where the rest of a policy's possible gain was lost; at least as wide as `furthest` nats."""
    curves, policies = comparison["curves"], comparison["policies"]
    start = comparison["reference"]["gold"][0]
    limit = 1.2 * max([row["kl"][0] for row in policies.values()] + [furthest, 2.5])
    known = comparison["judge"]["kind"] != "reward_model"  # else the frontier is the reward model's own, and its reach as well

    if frontier := _within(curves["frontier"], limit):
        label = "gold frontier: no policy can do better" if known else "frontier: no policy can please this reward model more"
        axes.plot(*_columns(frontier), color=INK, lw=2.2, zorder=3, label=label)
        kls, bound = _columns(_within(curves["frontier_pooled"], frontier[-1][0]))
        estimate = _interpolated(frontier, kls)
        if max(numpy.subtract(bound, estimate)) > 0.01 * (frontier[-1][1] - start):  # less would hide behind the line
            label = "from its estimate to its upper bound"
            axes.fill_between(kls, bound, estimate, color=YELLOW, alpha=0.5, lw=0, zorder=1, label=label)
    if reach := _within(curves.get("reach", []), limit) if known else []:
        label = "reward model's reach: the best against this judge"
        axes.plot(*_columns(reach), color=PURPLE, lw=1.8, ls=(0, (6, 2)), zorder=3, label=label)
    if best := [point for point in curves.get("best_of_n", []) if point[0] <= limit]:
        label = "best of n by the reward model, without training"
        axes.plot(*_columns(best), color=COLOURS["best_of_16"], lw=1.1, ls=":", marker=".", ms=5, zorder=3, label=label)
        for (kl, gold), n in zip(best, (2**i for i in range(len(best))), strict=False):
            if n in (2, 4, 64) and not furthest and all(abs(kl - row["kl"][0]) > 0.25 for name, row in policies.items() if name != "sft"):
                beside(axes, f"best of {n}", (kl, gold), (5, -11), fontsize=8, color=COLOURS["best_of_16"])

    axes.axhline(start, color=FAINT, lw=0.8, zorder=0)
    for name, row in policies.items():
        (gold, gold_low, gold_high), (kl, kl_low, kl_high) = row["gold"], row["kl"]
        axes.errorbar(
            kl, gold, xerr=[[max(kl - kl_low, 0)], [max(kl_high - kl, 0)]], yerr=[[max(gold - gold_low, 0)], [max(gold_high - gold, 0)]],
            color=COLOURS[name], marker=MARKERS[name], ms=9, mec="white", mew=1.2, capsize=3, lw=1.4, zorder=6,
        )  # fmt: skip
        place, side = _place(name, policies)
        beside(axes, NAMES[name], (kl, gold), place, fontsize=11, fontweight="bold", color=COLOURS[name], ha=side, zorder=7)
    if reach:
        for name in scored(policies):
            _draw_losses(axes, name, policies[name], frontier, reach)
    axes.set_xlim(-0.03 * limit, limit)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right", fontsize=9, labelcolor=INK, edgecolor="none", framealpha=1)
    axes.set_xlabel("KL(policy, SFT model), nats per completion: how far the policy has moved", color=INK)
    axes.set_ylabel(f"{JUDGES[comparison['judge']['kind']]} on held-out prompts", color=INK)
    plain_axes(axes)


def runs_figure(comparisons: dict[str, dict]) -> Figure:
    """Several runs on one plane: the first run's curves, and every run's policies at their betas."""
    first = next(iter(comparisons.values()))
    points = {name: [(each["betas"][name], each["policies"][name]) for each in comparisons.values()] for name in first["betas"]}
    return betas_figure(first["curves"], first["reference"]["gold"], points, first["judge"]["kind"])


def betas_figure(
    curves: dict, reference_gold: Sequence[float], points: dict[str, list], judge: str = "gold", title: str | None = None
) -> Figure:
    """Methods at several betas beside the curves; `points` maps a method to (beta, row) pairs."""
    figure = Figure(figsize=(9.6, 5.6), layout="constrained")
    axes = figure.subplots()
    start = {"gold": reference_gold, "kl": [0.0, 0.0, 0.0]}
    furthest = max(row["kl"][0] for rows in points.values() for _, row in rows)
    comparison = {
        "curves": curves,
        "policies": {"sft": start},
        "reference": {"gold": reference_gold},
        "judge": {"kind": judge},
    }
    draw_plane(axes, comparison, furthest)
    higher = _higher({name: sorted((row["kl"][0], row["gold"][0]) for _, row in rows) for name, rows in points.items()})
    for name, rows in points.items():
        rows = sorted(rows, key=lambda pair: -pair[0])
        kls, golds = [row["kl"][0] for _, row in rows], [row["gold"][0] for _, row in rows]
        label = f"{NAMES[name]}, beta written beside it"
        axes.plot(kls, golds, color=COLOURS[name], marker=MARKERS[name], mec="white", ms=9, lw=1, label=label, zorder=6)
        for (beta, _), kl, gold in zip(rows, kls, golds, strict=True):
            place, side = ((-7, 8), "right") if name == higher else ((7, -13), "left")
            beside(axes, f"{beta:g}", (kl, gold), place, fontsize=8, color=COLOURS[name], ha=side, zorder=7)
    axes.legend(loc="lower right", fontsize=9, labelcolor=INK, edgecolor="none", framealpha=1)
    axes.set_title(title or "A smaller beta moves further from the SFT model", loc="left", fontsize=13, fontweight="bold", color=INK)
    return figure


def _higher(lines: dict[str, list[tuple[float, float]]]) -> str:
    """Which of two lines lies above the other, on average over the second's points: its numbers are written above it."""
    if len(lines) < 2 or not all(lines.values()):
        return ""
    first, second = lines
    kls, golds = zip(*lines[second], strict=True)
    return first if numpy.mean(_interpolated(lines[first], kls)) > numpy.mean(golds) else second


def hacking_figure(course: Sequence[dict], title: str) -> Figure:
    """Over-optimisation: the reward model's score and gold along one training, against the square root of KL.

    `course`: dicts with lists `gold`, `scores` and `kl`, one number per prompt, as training went on.
    """
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axes = figure.subplots()
    far = [max(numpy.mean(point["kl"]), 0) ** 0.5 for point in course]
    gold, scores = ([numpy.mean(point[key]) for point in course] for key in ("gold", "scores"))
    axes.plot(far, gold, color=BLUE, marker="s", lw=1.8, label="gold: how good the answers are")
    other = axes.twinx()
    other.plot(far, scores, color=VERMILION, marker="o", ls="--", lw=1.8, label="score: what the reward model believes")
    top = int(numpy.argmax(gold))
    beside(axes, "gold's peak", (far[top], gold[top]), (8, 6), fontsize=9, color=BLUE)
    axes.set_xlabel("square root of KL to the SFT model", color=INK)
    axes.set_ylabel("gold reward on held-out prompts", color=BLUE)
    other.set_ylabel("reward model's score, log-odds", color=VERMILION)
    figure.legend(handles=[*axes.lines, *other.lines], loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", color=INK)
    plain_axes(axes)
    other.spines[["top", "left"]].set_visible(False)
    return figure


def _draw_losses(axes: Axes, name: str, row: dict, frontier, reach) -> None:
    """Above a policy: the gap to the reach is the optimiser's, the gap from there to the frontier the reward model's."""
    kl, gold = row["kl"][0], row["gold"][0]
    if not frontier or kl > min(frontier[-1][0], reach[-1][0]):
        return
    (top,), (middle,) = _interpolated(frontier, [kl]), _interpolated(reach, [kl])
    parts = (
        (middle, top, PURPLE, "lost by the judge: from its reach to the frontier"),
        (gold, middle, COLOURS[name], f"lost by the optimiser: from {NAMES[name]} to the reach"),
    )
    for low, high, colour, text in parts:
        if high > low:
            axes.plot([kl, kl], [low, high], color=colour, lw=5, alpha=0.35, solid_capstyle="butt", zorder=2, label=text)


def scored(policies: dict) -> list[str]:
    """The policies that learned from the reward model's score."""
    return [name for name in policies if name in METHODS and "reward" in STAGES[name].needs]


def _place(name: str, policies: dict) -> tuple[tuple[int, int], str]:
    """Where a policy's name stands beside its point: offset and alignment."""
    if name == "best_of_16" and _left_of_best(policies):
        return ASIDE
    return PLACES.get(name) or OTHER_PLACES[METHODS.index(name) % 2]


def _left_of_best(policies: dict) -> bool:
    return any(0 < policies["best_of_16"]["kl"][0] - policies[name]["kl"][0] < 0.6 for name in scored(policies))


def _within(points: Sequence, limit: float) -> list:
    """The points up to the limit, and its point at the limit if the curve continues beyond it."""
    inside = [point for point in points if point[0] <= limit]
    return inside if len(inside) == len(points) else [*inside, (limit, *_interpolated(points, [limit]))]


def _columns(points: Sequence) -> tuple:
    return tuple(zip(*points, strict=True)) if points else ((), ())


def _interpolated(points: Sequence, at: Sequence[float]) -> list[float]:
    return numpy.interp(at, *_columns(points)).tolist()


def beside(axes: Axes, words: str, point: tuple[float, float], offset: tuple[float, float], **style: Any) -> None:
    """Write words beside a point, so many printer's points to the right of it and above it."""
    axes.annotate(words, point, offset, textcoords="offset points", **style)


def plain_axes(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(color="#EEEEEE", lw=0.8, zorder=0)


def as_it_stands(text: str) -> str:
    """Text for a figure: what lies between two dollar signs would be read as mathematics."""
    return text.replace("$", r"\$")


# ---------------------------------------------------------------------------------------------- training curves

def training_figure(metrics: Sequence[dict]) -> Figure:
    """The panels of every stage, a row of small axes after another."""
    by_stage = {name: [record for record in metrics if record["stage"] == name] for name in STAGES}
    panels = [(name, panel) for name, stage in STAGES.items() for panel in stage.panels if _shown(panel, by_stage[name])]
    columns = 3
    rows = max(1, -(-len(panels) // columns))
    figure = Figure(figsize=(3.4 * columns, 2.1 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (name, panel) in zip(grid, panels, strict=False):
        for key, _ in panel.left:
            _draw_curve(axes, by_stage[name], key, COLOURS[name], "-" if key == panel.left[0][0] else "--", dict(panel.left)[key])
        if _shown(Panel("", panel.right), by_stage[name]):
            other = axes.twinx()
            for key, label in panel.right:
                _draw_curve(other, by_stage[name], key, GREEN, (0, (5, 2)), label)
            axes.set_ylabel(panel.left[0][1], fontsize=7, color=COLOURS[name])
            other.set_ylabel(panel.right[0][1], fontsize=7, color=GREEN)
            other.tick_params(labelsize=7, colors=GREEN)
            other.spines[["top", "left", "bottom"]].set_visible(False)
        elif len(panel.left) > 1:
            axes.legend(fontsize=7, frameon=False)
        title = STAGES[name].title
        axes.set_title(f"{title[0].upper()}{title[1:]}: {panel.title}", fontsize=9, loc="left", color=INK)
        plain_axes(axes)
        axes.tick_params(labelsize=7)
    for axes in list(grid):
        axes.remove()
    return figure


def _shown(panel: Panel, records: Sequence[dict]) -> bool:
    return any(key in record for record in records for key, _ in panel.left)


def _draw_curve(axes: Axes, records: Sequence[dict], key: str, colour: str, dash, label: str) -> None:
    points = [(record["step"], record[key]) for record in records if key in record]
    x, y = _columns(points)
    if len(points) > 40:  # noisy
        axes.plot(x, y, color=colour, lw=1, ls=dash, alpha=0.3)
        y = smooth(y)
    axes.plot(x, y, color=colour, lw=1.8, ls=dash, marker="." if len(points) < 20 else None, label=label)


def smooth(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """Exponential moving average, without the bias of its start."""
    smoothed, total, norm = [], 0.0, 0.0
    for value in values:
        total, norm = weight * total + (1 - weight) * value, weight * norm + (1 - weight)
        smoothed.append(total / norm)
    return smoothed


def calibration_figure(reward_model: dict) -> Figure:
    """Reliability of the reward model: when it says 80%, is it right in 80 of 100?"""
    figure = Figure(figsize=(3.6, 3.4), layout="constrained")
    axes = figure.subplots()
    bins = reward_model["calibration"]
    axes.plot([0, 1], [0, 1], color=FAINT, lw=1)
    axes.plot([b["predicted"] for b in bins], [b["observed"] for b in bins], color=PURPLE, marker="o", lw=1.6)
    axes.set_xlabel("predicted chance that A wins", fontsize=9)
    axes.set_ylabel("share of pairs that A won", fontsize=9)
    axes.set_title("Reward model: reliability", fontsize=10, loc="left", color=INK)
    plain_axes(axes)
    return figure


def png(figure: Figure, dpi: int = 130) -> bytes:
    """A figure as PNG."""
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=dpi)
    return target.getvalue()
