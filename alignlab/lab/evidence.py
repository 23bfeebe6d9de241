"""How the labs show what a sweep measured: gains along paths, differences at equal KL, and a verdict in words."""

from collections.abc import Collection, Mapping, Sequence

import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from alignlab.evaluate import Measured, over_seeds
from alignlab.lab import sweeps
from alignlab.lab.explorer import label_axes, legend, root_scale, tidy
from alignlab.lab.view import BLUE, COLOURS, FAINT, GREEN, INK, NAMES, PURPLE, VERMILION

AHEAD, BEHIND, UNTOLD = BLUE, VERMILION, "#EEEEEE"
PALETTE = (VERMILION, BLUE, GREEN, PURPLE, "#E69F00", "#56B4E9", "#8C6D31", INK)


def told(measured: Measured | None, form: str = "+.2f") -> str:
    """A number with its 95% interval, such as "+0.14 [-0.02, +0.30]"; a dash where there is none."""
    return "-" if measured is None else "{:{form}} [{:{form}}, {:{form}}]".format(*measured, form=form)


def verdict(one: str, other: str, difference: Measured | None, where: str) -> str:
    """Who has more gold, if these trainings can tell.

    >>> verdict("PPO", "DPO", [-0.2, -0.3, -0.1], "at 2 nats")
    'DPO is ahead of PPO at 2 nats, by 0.20 [0.10, 0.30].'
    >>> verdict("PPO", "DPO", [-0.2, -0.5, 0.1], "at 2 nats")
    'PPO and DPO cannot be told apart at 2 nats: -0.20 [-0.50, +0.10].'
    """
    if difference is None:
        return f"{one} and {other} cannot be compared {where}: a path does not reach it."
    mean, low, high = difference
    if low <= 0 <= high:
        return f"{one} and {other} cannot be told apart {where}: {told(difference)}."
    if mean < 0:
        one, other, mean, low, high = other, one, -mean, -high, -low
    return f"{one} is ahead of {other} {where}, by {mean:.2f} [{low:.2f}, {high:.2f}]."


def differences(one: Sequence[dict], other: Sequence[dict], kls: Sequence[float]) -> dict[float, Measured]:
    """Gold of one group of points less that of the other, paired by seed and prompt, at each KL that all their paths reach."""
    measured = {kl: over_seeds(sweeps.gold_at(one, kl) - sweeps.gold_at(other, kl)) for kl in kls}
    return {kl: each for kl, each in measured.items() if each is not None}


# ---------------------------------------------------------------------------------------------- figures


def gains_figure(
    lines: Mapping[str, Sequence[dict]], title: str, kl: float | None = None, dots: Mapping[str, Sequence[dict]] | None = None
) -> Figure:
    """Gain in gold against KL: a thin line for each training, a thick one for a group's mean, and a dot where each stood as trained.

    Args:
        lines: points of a sweep, one for each seed, by the words of the legend.
        kl: how far to draw, nats; by default as far as the longest group goes.
        dots: groups of which only the dots are drawn.
    """
    figure = Figure(figsize=(9.6, 4.4), layout="constrained")
    axes = figure.subplots()
    tidy(axes)
    axes.axhline(0, color=FAINT, lw=0.8)
    dots = dots or {}
    furthest = min(kl or numpy.inf, max(sweeps.reach(points) for points in lines.values()))
    parts = []
    for name, colour in zip([*lines, *dots], colours([*lines, *dots]), strict=True):
        if name in lines:
            parts.append(_draw_gains(axes, name, lines[name], colour, furthest))
        places = [place for point in {**lines, **dots}[name] if (place := _as_trained(point))[0] <= furthest]
        label, marker = (name, "D") if name in dots else (None, "o")
        if places:
            axes.plot(*zip(*places, strict=True), marker, color=colour, ms=6, mec="white", zorder=5, label=label)
    root_scale(axes, 1.02 * furthest)
    label_axes(axes, title, "KL to the SFT model, nats (scale: square root)", "gold less the SFT model's")
    legend(axes, "lower right")
    figure.set_label(f"{title}: gain in gold against the square root of KL. {'; '.join(parts)}.")
    return figure


def _draw_gains(axes: Axes, name: str, points: Sequence[dict], colour: str, furthest: float) -> str:
    """A group's lines; where its mean is highest, in words."""
    kls = [kl for kl in sweeps.along(points) if kl <= 1.001 * furthest]
    gains = numpy.array([sweeps.gain_at(points, kl)[:, 0].tolist() for kl in kls])  # (kls, seeds)
    axes.plot(kls, gains, color=colour, lw=0.8, alpha=0.5)
    axes.plot(kls, gains.mean(1), color=colour, lw=2.4, label=name)
    top = int(gains.mean(1).argmax())
    return f"{name} highest at {kls[top]:.1f} nats, {gains.mean(1)[top]:+.2f}"


def _as_trained(point: dict) -> tuple[float, float]:
    """KL and gain of a policy as it was trained."""
    way = sweeps.path(point)
    return way[1.0].kl.mean().item(), (way[1.0].gold.mean() - way[0.0].gold.mean()).item()


def differences_figure(lines: Mapping[str, Mapping[float, Measured]], title: str, label: str) -> Figure:
    """Differences in gold against KL, each with its 95% band over seeds and prompts; where a band leaves 0 out, one is ahead."""
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    axes = figure.subplots()
    tidy(axes)
    axes.axhline(0, color=INK, lw=1)
    for (name, line), colour in zip(lines.items(), colours(lines), strict=True):
        mean, low, high = numpy.array(list(line.values())).T
        axes.plot(list(line), mean, color=colour, lw=2, label=name)
        axes.fill_between(list(line), low, high, color=colour, alpha=0.15, lw=0)
    root_scale(axes, 1.02 * max(max(line) for line in lines.values()))
    label_axes(axes, title, "KL to the SFT model, nats (scale: square root)", label)
    legend(axes, "best")
    ends = "; ".join(f"{name} {told(line[max(line)])} at {max(line):.1f} nats" for name, line in lines.items())
    figure.set_label(f"{title}: {label} against the square root of KL. {ends}.")
    return figure


def forest_figure(rows: Mapping[str, Measured | None], title: str, label: str) -> Figure:
    """A row for each measured number, with its 95% interval; rows without a number stay empty."""
    figure = Figure(figsize=(9.6, 0.9 + 0.34 * len(rows)), layout="constrained")
    axes = figure.subplots()
    tidy(axes)
    axes.axvline(0, color=INK, lw=1)
    for at, measured in enumerate(rows.values()):
        if measured is not None:
            mean, low, high = measured
            colour = FAINT if low <= 0 <= high else BEHIND if mean < 0 else AHEAD
            axes.plot([low, high], [at, at], color=colour, lw=2.4)
            axes.plot(mean, at, "o", color=colour, ms=7, mec="white")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    label_axes(axes, title, label, "")
    figure.set_label(f"{title}: {label}. {'; '.join(f'{name} {told(measured)}' for name, measured in rows.items())}.")
    return figure


def map_figure(cells: Mapping[tuple[str, str], Measured | None], title: str, one: str, other: str) -> Figure:
    """A map of differences by column and row: a cell has a colour where its 95% interval leaves 0 out, by who is ahead.

    Args:
        cells: by (column, row), `one` less `other`; None where a path does not reach the KL.
    """
    columns, rows = (list(dict.fromkeys(key[part] for key in cells)) for part in (0, 1))
    ahead, behind = colours([one, other])
    figure = Figure(figsize=(2.2 + 2.2 * len(columns), 1.3 + 0.8 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for (column, row), measured in cells.items():
        place, colour, words = (columns.index(column), rows.index(row)), "white", "not reached"
        if measured is not None:
            words = "{:+.2f}\n[{:+.2f}, {:+.2f}]".format(*measured)
            colour = UNTOLD if measured[1] <= 0 <= measured[2] else ahead if measured[0] > 0 else behind
        light = colour in ("white", UNTOLD)
        axes.add_patch(Rectangle((place[0] - 0.5, place[1] - 0.5), 1, 1, facecolor=colour, edgecolor="white", lw=2))
        axes.text(*place, words, ha="center", va="center", fontsize=10, color=INK if light else "white")
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0, labelsize=10, colors=INK)
    axes.spines[:].set_visible(False)
    label_axes(axes, title, "", "")
    keys = {f"{one} is ahead": ahead, f"{other} is ahead": behind, "cannot be told apart": UNTOLD}
    handles = [Rectangle((0, 0), 1, 1, color=colour, label=words) for words, colour in keys.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9, labelcolor=INK, frameon=False)
    said = "; ".join(f"{row}, {column}: {told(measured)}" for (column, row), measured in cells.items())
    figure.set_label(f"{title}. {said}.")
    return figure


def colours(names: Collection[str]) -> list[str]:
    """A method's own colour where all names are methods' titles; else a palette's, in order."""
    known = {title: COLOURS[name] for name, title in NAMES.items() if name in COLOURS}
    if all(name in known for name in names):
        return [known[name] for name in names]
    return [PALETTE[at % len(PALETTE)] for at in range(len(names))]
