"""Figures of finished runs, and the colours that all figures share. Nothing here trains."""

import io
from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any

import numpy
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox, ScaledTranslation

from alignlab.stage import Panel
from alignlab.stages import METHODS, stages

# Okabe and Ito's palette, which colour-blind readers can tell apart; each policy also has a marker of its own.
VERMILION, BLUE, GREEN, PURPLE, YELLOW = "#D55E00", "#0072B2", "#009E73", "#882288", "#F0E442"
STAGES = stages()
COLOURS = {"best_of_16": GREEN} | {name: stage.colour for name, stage in STAGES.items()}
MARKERS = {"best_of_16": "^"} | {name: stage.marker for name, stage in STAGES.items()}
NAMES = {"sft": "SFT", "best_of_16": "best-of-16"} | {name: STAGES[name].title for name in METHODS}
JUDGES = {"gold": "gold reward", "vader": "gold reward (VADER)", "reward_model": "reward model's score"}
RUNS = ("#D55E00", "#0072B2", "#CC79A7", "#E69F00", "#56B4E9")  # of the runs in a comparison: none is a curve's
WIDE, NARROW = (9.6, 5.6), (4.3, 6.0)  # inches: on a screen, on a phone
INK, FAINT = "#222222", "#BBBBBB"


# ---------------------------------------------------------------------------------------------- the reward-KL plane


def plane_figure(comparison: dict, title: str | None = None, size: tuple[float, float] = WIDE) -> Figure:
    """The reward-KL plane: where each policy landed, and the best that was possible there."""
    figure, axes = _plane(size, title or "What each policy gained, and what it paid")
    draw_plane(axes, comparison)
    _finish(figure, axes)
    return figure


def _plane(size: tuple[float, float], title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=13 if size[0] > 6 else 10, fontweight="bold", color=INK)
    return figure, axes


def _finish(figure: Figure, axes: Axes) -> None:
    """The legend, below the axes where they are narrow, and every label at the place where it covers least."""
    if axes.get_legend_handles_labels()[0]:
        style: dict[str, Any] = {"fontsize": 9, "labelcolor": INK, "edgecolor": "none", "framealpha": 1}
        if figure.get_figwidth() > 6:
            axes.legend(loc="lower right", **style)
        else:
            axes.set_xlabel("KL to the SFT model, nats per completion")
            figure.legend(loc="outside lower left", **style)
    settle(figure, axes)


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
        label = "reward model's reach: its score maximised"
        axes.plot(*_columns(reach), color=PURPLE, lw=1.8, ls=(0, (6, 2)), zorder=3, label=label)
    if best := [point for point in curves.get("best_of_n", []) if point[0] <= limit]:
        label = "best of n by the reward model, without training"
        axes.plot(*_columns(best), color=COLOURS["best_of_16"], lw=1.1, ls=":", marker=".", ms=5, zorder=3, label=label)
        for (kl, gold), n in zip(best, (2**i for i in range(len(best))), strict=False):
            if n in (2, 4, 64) and not furthest and all(abs(kl - row["kl"][0]) > 0.25 for name, row in policies.items() if name != "sft"):
                beside(axes, f"best of {n}", (kl, gold), (5, -11), fontsize=8, color=COLOURS["best_of_16"])

    axes.axhline(start, color=FAINT, lw=0.8, zorder=0)
    for name, path in (paths := comparison.get("dial", {})).items():
        _draw_path(axes, name, path, limit)
    if paths:
        axes.plot([], [], color=INK, lw=1.2, label="a policy's colour, thin: its adapter weakened or strengthened")
    for name, row in policies.items():
        _draw_point(axes, row, COLOURS[name], MARKERS[name], COLOURS[name])
        beside(axes, NAMES[name], (row["kl"][0], row["gold"][0]), (9, 6), fontsize=11, fontweight="bold", color=COLOURS[name], zorder=7)
    if reach:
        for name in scored(policies):
            _draw_losses(axes, name, policies[name], frontier, reach)
    axes.set_xlim(-0.03 * limit, limit)
    axes.set_xlabel("KL(policy, SFT model), nats per completion: how far the policy has moved", color=INK)
    axes.set_ylabel(f"{JUDGES[comparison['judge']['kind']]} on held-out prompts", color=INK)
    plain_axes(axes)


def _draw_path(axes: Axes, name: str, path: Sequence, limit: float) -> None:
    """A policy's path over the plane: [strength, KL, gold] of each strength of its adapter, from the SFT model on."""
    far, heights = _columns([(max(kl[0], 0) ** 0.5, gold[0]) for _, kl, gold in path])
    between = numpy.linspace(0, min(far[-1], limit**0.5), 200)  # straight over the square root of KL, as `dial.gold_at` reads it
    axes.plot(between**2, numpy.interp(between, far, heights), color=COLOURS[name], lw=1.2, alpha=0.8, zorder=4, gid=f"path of {name}")
    for strength, kl, gold in path:
        if kl[0] <= limit and strength not in (0, 1):
            axes.plot(kl[0], gold[0], color=COLOURS[name], marker=MARKERS[name], ms=4.5, mfc="white", zorder=5)
            beside(axes, f"×{strength:g}", (kl[0], gold[0]), (5, -11), fontsize=8, color=COLOURS[name])


def runs_figure(comparisons: dict[str, dict]) -> Figure:
    """Several runs on one plane: every run's policies with their intervals, in the run's colour, and the first run's curves."""
    first, *others = comparisons.values()
    same = all(other["curves"] == first["curves"] for other in others)
    curves = "" if same else f"; curves: those of {as_it_stands(next(iter(comparisons)))}"
    figure, axes = _plane(WIDE, f"Where the policies of {len(comparisons)} run{'s' if others else ''} landed{curves}")
    rows = [(run, name, each["policies"][name]) for run, each in comparisons.items() for name in each["betas"]]
    start = {"sft": {"gold": first["reference"]["gold"], "kl": [0.0] * 3}}
    draw_plane(axes, first | {"policies": start, "dial": {}}, max(row["kl"][0] for _, _, row in rows))
    for number, (run, each) in enumerate(comparisons.items()):
        colour, hollow = RUNS[number % len(RUNS)], number // len(RUNS) % 2
        for name in each["betas"]:
            _draw_point(axes, each["policies"][name], colour, MARKERS[name], "white" if hollow else colour)
            words = as_it_stands(f"{NAMES[name]}, {run}") if len(rows) <= 8 else NAMES[name]
            place = each["policies"][name]["kl"][0], each["policies"][name]["gold"][0]
            beside(axes, words, place, (9, 6), fontsize=9, fontweight="bold", color=colour, zorder=7)
        betas = ", ".join(f"{beta:g} for {NAMES[name]}" for name, beta in each["betas"].items())
        axes.plot([], [], color=colour, lw=6, alpha=0.4 if hollow else 1, label=as_it_stands(f"{run}: beta {betas}"))
    for name in dict.fromkeys(name for _, name, _ in rows):
        axes.plot([], [], ls="", marker=MARKERS[name], color=INK, label=f"{NAMES[name]}, with its 95% intervals")
    _finish(figure, axes)
    return figure


def _draw_point(axes: Axes, row: dict, colour: str, marker: str, inside: str) -> None:
    """A policy with its intervals of KL and reward."""
    (gold, *golds), (kl, *kls) = row["gold"], row["kl"]
    (left, right), (down, up) = ((max(at - low, 0), max(high - at, 0)) for at, (low, high) in ((kl, kls), (gold, golds)))
    axes.errorbar(
        kl, gold, xerr=[[left], [right]], yerr=[[down], [up]], color=colour, marker=marker, ms=9, capsize=3, lw=1.4, zorder=6,
        mfc=inside, mec="white" if inside == colour else colour, mew=1.2,
    )  # fmt: skip


def betas_figure(
    curves: dict, reference_gold: Sequence[float], points: dict[str, list], judge: str = "gold", title: str | None = None
) -> Figure:
    """Methods at several betas beside the curves; `points` maps a method to (beta, row) pairs."""
    lines = {name: sorted(((beta, row["kl"][0], row["gold"][0]) for beta, row in rows), reverse=True) for name, rows in points.items()}
    further = all(near[1] < far[1] for line in lines.values() for near, far in pairwise(line))
    figure, axes = _plane(WIDE, title or ("A smaller beta moves further from the SFT model" if further else "Each method at several betas"))
    comparison = {
        "curves": curves,
        "policies": {"sft": {"gold": reference_gold, "kl": [0.0, 0.0, 0.0]}},
        "reference": {"gold": reference_gold},
        "judge": {"kind": judge},
    }
    draw_plane(axes, comparison, max(kl for line in lines.values() for _, kl, _ in line))
    for name, line in lines.items():
        _, kls, golds = _columns(line)
        label = f"{NAMES[name]}, beta written beside it"
        axes.plot(kls, golds, color=COLOURS[name], marker=MARKERS[name], mec="white", ms=9, lw=1, label=label, zorder=6)
        for beta, kl, gold in line:
            beside(axes, f"{beta:g}", (kl, gold), (7, -13), fontsize=8, color=COLOURS[name], zorder=7)
    _finish(figure, axes)
    return figure


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
    """Beside a policy: the gap up to the reach is the optimiser's, the gap from there to the frontier the reward model's."""
    kl, gold = row["kl"][0], row["gold"][0]
    if not frontier or kl > min(frontier[-1][0], reach[-1][0]):
        return
    (top,), (middle,) = _interpolated(frontier, [kl]), _interpolated(reach, [kl])
    parts = (
        (middle, top, PURPLE, "lost by the judge: from its reach to the frontier"),
        (gold, middle, COLOURS[name], f"lost by the optimiser: from {NAMES[name]} to the reach"),
    )
    aside = axes.transData + ScaledTranslation(10 / 72, 0, axes.figure.dpi_scale_trans)  # clear of the marker
    style: dict[str, Any] = {"lw": 5, "alpha": 0.35, "solid_capstyle": "butt", "zorder": 2}
    named = axes.get_legend_handles_labels()[1]
    for low, high, colour, text in parts:
        if high > low:
            axes.plot([kl, kl], [low, high], color=colour, transform=aside, label=None if text in named else text, **style)


def scored(policies: dict) -> list[str]:
    """The policies that learned from the reward model's score."""
    return [name for name in policies if name in METHODS and "reward" in STAGES[name].needs]


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


def settle(figure: Figure, axes: Axes) -> None:
    """Move each label beside a point to the place around it where it covers least of curves, bars, points and other labels."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()  # lays out, so that places on the canvas are known
    scale, inside, legend = figure.dpi / 72, axes.get_window_extent(), axes.get_legend()
    drawn, taken = _drawn(axes, scale), [legend.get_window_extent(renderer)] if legend else []
    labels = [label for label in axes.texts if isinstance(label, Annotation)]
    for label in sorted(labels, key=lambda label: -float(label.get_fontsize())):
        size, point = label.get_window_extent(renderer), axes.transData.transform(label.xy)
        best, least = size, numpy.inf
        for away, angle in product((8, 14, 22, 32), numpy.radians(range(0, 360, 15))):
            side = numpy.array([numpy.cos(angle), numpy.sin(angle)])
            middle = point + scale * away * side + numpy.array([size.width, size.height]) / 2 * side.round(3)
            box = Bbox.from_bounds(middle[0] - size.width / 2, middle[1] - size.height / 2, size.width, size.height)
            covered = ((drawn > box.padded(2 * scale).min) & (drawn < box.padded(2 * scale).max)).all(1).sum()
            outside = box.x0 < inside.x0 or box.x1 > inside.x1 or box.y0 < inside.y0 or box.y1 > inside.y1
            cost = covered + away / 4 + 40 * sum(box.overlaps(other) for other in taken) + 200 * outside
            cost += 0.01 * (abs(angle - 0.6) % 6.3)  # of equal places, the one above on the right
            if cost < least:
                best, least = box, cost
        label.set(position=(numpy.array([best.x0, best.y0]) - point) / scale, ha="left", va="bottom")
        label.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
        taken.append(best)


def _drawn(axes: Axes, scale: float) -> numpy.ndarray:
    """Places on the canvas (N, 2) that curves, bars and markers cover, a few pixels apart."""
    lines = [line for line in axes.lines if numpy.size(line.get_xdata()) > 0]
    paths = [(line.get_path(), line.get_transform()) for line in lines]
    paths += [(path, axes.transData) for bars in axes.collections if isinstance(bars, LineCollection) for path in bars.get_paths()]
    spots = [numpy.empty((0, 2))]
    for path, transform in paths:
        corners = transform.transform(path.vertices)
        for start, end in pairwise(corners) if len(corners) > 1 else [(corners[0], corners[0])]:
            steps = 1 + int(numpy.hypot(*(end - start)) // 6)
            spots.append(start + (end - start) * numpy.linspace(0, 1, steps + 1)[:, None])
    for line in lines:
        if line.get_marker() not in ("None", None, "", " "):
            around = line.get_markersize() * scale / 2 * numpy.array([(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)])
            spots += [line.get_transform().transform(line.get_xydata()) + shift for shift in around]
    return numpy.concatenate(spots)


def plain_axes(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(color="#EEEEEE", lw=0.8, zorder=0)


def as_it_stands(text: str) -> str:
    """Text for a figure: what lies between two dollar signs would be read as mathematics."""
    return text.replace("$", r"\$")


# ---------------------------------------------------------------------------------------------- training curves


def panel_figures(metrics: Sequence[dict]) -> dict[str, list[tuple[str, Figure]]]:
    """The panels of every stage, each a figure with what it shows in words, by the title of its stage."""
    figures: dict[str, list[tuple[str, Figure]]] = {}
    for name, panel, records in _panels(metrics):
        figure = Figure(figsize=(3.4, 2.1), layout="constrained")
        _draw_panel(figure.subplots(), name, panel, records)
        figures.setdefault(STAGES[name].title, []).append((_told(panel, records), figure))
    return figures


def _panels(metrics: Sequence[dict]) -> list[tuple[str, Panel, list[dict]]]:
    """Each panel that has something to show: its stage, itself, and the stage's records."""
    by_stage = {name: [record for record in metrics if record["stage"] == name] for name in STAGES}
    return [(name, panel, by_stage[name]) for name, stage in STAGES.items() for panel in stage.panels if _shown(panel, by_stage[name])]


def _told(panel: Panel, records: Sequence[dict]) -> str:
    """A panel in words, for who cannot see it: where each curve begins and ends."""
    curves = {label: [record[key] for record in records if key in record] for key, label in panel.left + panel.right}
    ends = [f"{label} from {values[0]:.3g} to {values[-1]:.3g}" for label, values in curves.items() if values]
    return f"{panel.title}: {', '.join(ends)} over {len(records)} steps"


def _draw_panel(axes: Axes, name: str, panel: Panel, records: Sequence[dict]) -> None:
    """One panel in its stage's colour."""
    for key, label in panel.left:
        _draw_curve(axes, records, key, COLOURS[name], "-" if key == panel.left[0][0] else "--", label)
    if _shown(Panel("", panel.right), records):
        other = axes.twinx()
        for key, label in panel.right:
            _draw_curve(other, records, key, GREEN, (0, (5, 2)), label)
        axes.set_ylabel(panel.left[0][1], fontsize=7, color=COLOURS[name])
        other.set_ylabel(panel.right[0][1], fontsize=7, color=GREEN)
        other.tick_params(labelsize=7, colors=GREEN)
        other.spines[["top", "left", "bottom"]].set_visible(False)
        other.spines["right"].set_color(FAINT)
    elif len(panel.left) > 1:
        axes.legend(fontsize=7, edgecolor="none", framealpha=0.8)
    axes.set_title(panel.title, fontsize=9, loc="left", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, steps=[1, 2, 5, 10]))
    plain_axes(axes)
    axes.tick_params(labelsize=7)


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
