"""Figures of over-optimisation: courses, fits with their residuals, a price against early stopping, and alarms."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alignlab.lab import overopt
from alignlab.lab.overopt import Course, Fit, Told
from alignlab.lab.view import BLUE, COLOURS, FAINT, INK, MARKERS, NAMES, VERMILION, plain_axes

FEW_TO_MANY = (("#D55E00", "o"), ("#E69F00", "s"), ("#56B4E9", "^"), ("#0072B2", "D"), ("#222222", "v"))  # by number of pairs, from few
TITLES = NAMES | {"best_of_n": "best-of-n"}
SHADES = COLOURS | {"best_of_n": COLOURS["best_of_16"]}
SHAPES = MARKERS | {"best_of_n": MARKERS["best_of_16"]}
ROOT = "square root of KL, nats$^{1/2}$"
GAIN = "gain in gold, SD"


def courses_figure(found: Sequence[Course]) -> Figure:
    """Gain in gold above, the proxy below, over the square root of KL: a column for each method, a line for each seed."""
    methods, counts = list(dict.fromkeys(course.method for course in found)), sorted({course.pairs for course in found})
    figure = Figure(figsize=(9.6, 5.6), layout="constrained")
    grid = figure.subplots(2, len(methods), sharey="row", squeeze=False)
    for column, method in enumerate(methods):
        for course in overopt.of(found, method=method):
            colour, marker = FEW_TO_MANY[counts.index(course.pairs)]
            label = f"{course.pairs:,} pairs"
            for row, values in enumerate((course.gain, course.score)):
                grid[row, column].plot(course.distance, values.mean(-1), color=colour, marker=marker, ms=3.5, lw=1.2, label=label)
        for axes in grid[:, column]:
            axes.axhline(0, color=FAINT, lw=0.8, zorder=0)
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(5))
        _finish(grid[0, column], TITLES[method], "")
        _finish(grid[1, column], "", ROOT)
    grid[0, 0].set_ylabel(GAIN)
    grid[1, 0].set_ylabel("proxy: judge's score")
    named = {label: handle for axes in grid[0] for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}  # each once
    order = [f"{pairs:,} pairs" for pairs in counts]
    figure.legend([named[label] for label in order], order, loc="outside upper center", ncols=len(counts), frameon=False, fontsize=9)
    figure.set_label(f"Gain in gold, above, and the proxy, below, against the square root of KL. {_ends(found)}")
    return figure


def _ends(found: Sequence[Course]) -> str:
    """Each course in words."""
    told = []
    for course in found:
        gain, top = course.gain.mean(-1), overopt.peak_of(course)
        told.append(
            f"{TITLES[course.method]}, {course.pairs} pairs, seed {course.seed}: highest {gain[top]:.2f} at {course.distance[top]:.1f}, "
            f"last {gain[-1]:.2f} at {course.distance[-1]:.1f}"
        )
    return "; ".join(told) + "."


def fits_figure(fits: Mapping[str, Mapping[str, Fit]]) -> Figure:
    """Each method's gain with both fitted forms, above, and what they leave, below, with 95% intervals over prompts.

    Args:
        fits: by method, then by form (see `overopt.FORMS`).
    """
    figure = Figure(figsize=(9.6, 5.2), layout="constrained")
    grid = figure.subplots(2, len(fits), squeeze=False, height_ratios=(3, 2))
    told = []
    for column, (method, forms) in enumerate(fits.items()):
        above, below = grid[:, column]
        for (form, fitted), (colour, dash, marker) in zip(forms.items(), ((BLUE, "--", "s"), (VERMILION, "-", "^")), strict=True):
            fine, (a, b) = torch.linspace(0.02, float(fitted.distance.max()), 200), fitted.numbers[0]
            above.plot(fine, overopt.curve(fine, a, b, form), color=colour, ls=dash, lw=1.4, label=form)
            order = fitted.distance.argsort()  # a run's KL may come back
            below.plot(fitted.distance[order], fitted.residuals[order], color=colour, ls=dash, marker=marker, ms=4, lw=1)
            told.append(f"{TITLES[method]}, {form}: a {a:.2f}, b {b:.2f}, outside the interval at {fitted.missed} of {len(fitted.gain[0])}")
        spread = _spread(fitted)
        above.errorbar(fitted.distance, fitted.gain[0], yerr=spread, color=INK, fmt="o", ms=4, lw=1, label="measured")
        below.errorbar(fitted.distance, 0 * fitted.distance, yerr=spread, color=FAINT, fmt="none", lw=5, zorder=0)
        _finish(above, TITLES[method], "")
        _finish(below, "", ROOT)
        for axes in (above, below):
            axes.axhline(0, color=FAINT, lw=0.8, zorder=0)
    grid[0, 0].set_ylabel(GAIN)
    grid[1, 0].set_ylabel("measured - fitted")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    figure.set_label(f"Gain in gold against the square root of KL, with two fitted forms and their residuals. {'; '.join(told)}.")
    return figure


def _spread(fitted: Fit) -> numpy.ndarray:
    """Lengths of the 95% interval below and above each gain: (2, K)."""
    low, high = fitted.gain[1:].quantile(fitted.gain.new_tensor([0.025, 0.975]), dim=0)
    return torch.stack([fitted.gain[0] - low, high - fitted.gain[0]]).clamp(min=0).numpy()


def price_figure(free: Sequence[Course], priced: Sequence[Course]) -> Figure:
    """Gain over the square root of KL of runs without a price, and of runs with one, whose ends are marked."""
    figure = Figure(figsize=(8.4, 4.2), layout="constrained")
    axes = figure.subplots()
    styles = dict(zip(sorted({course.beta for course in priced}), ((VERMILION, "s"), (BLUE, "D"), ("#009E73", "^")), strict=False))
    for courses, first in ((free, free[0].seed), (priced, priced[0].seed)):
        for course in courses:
            colour, marker = styles.get(course.beta, ("#888888", "o"))
            label = f"beta {course.beta:g}" if course.seed == first else None
            axes.plot(course.distance, course.gain.mean(-1), color=colour, marker=marker, ms=3, lw=1.2, label=label)
            if course.beta in styles:
                axes.plot(course.distance[-1], course.gain[-1].mean(), color=colour, marker=marker, ms=11, mec=INK, zorder=5)
    axes.axhline(0, color=FAINT, lw=0.8, zorder=0)
    axes.legend(frameon=False, fontsize=9)
    axes.set_ylabel(GAIN)
    _finish(axes, "Large markers: where the runs with a price end", ROOT)
    figure.set_label(f"Gain in gold against the square root of KL, runs without and with a price of KL. {_ends([*free, *priced])}")
    return figure


def again_figure(recorded: Sequence[Course], again: Course) -> Figure:
    """Gain over the square root of KL: recorded runs, and the same one again."""
    figure = Figure(figsize=(7.2, 3.8), layout="constrained")
    axes = figure.subplots()
    for number, course in enumerate(recorded):
        label = None if number else "recorded, a line for each seed"
        axes.plot(course.distance, course.gain.mean(-1), color="#888888", marker="o", ms=3, lw=1, label=label)
    colour, marker = SHADES[again.method], SHAPES[again.method]
    axes.plot(again.distance, again.gain.mean(-1), color=colour, marker=marker, ms=6, lw=2, label="this run")
    axes.axhline(0, color=FAINT, lw=0.8, zorder=0)
    axes.legend(frameon=False, fontsize=9)
    axes.set_ylabel(GAIN)
    _finish(axes, f"{TITLES[again.method]} on {again.pairs} pairs, again", ROOT)
    figure.set_label(f"Gain in gold against the square root of KL, recorded and again. {_ends([*recorded, again])}")
    return figure


def monitors_figure(course: Course, thresholds: Mapping[str, float]) -> Figure:
    """One run: gold and proxy, then what each monitor sees change, with its threshold; lines where gold peaks and has surely fallen."""
    figure = Figure(figsize=(9.6, 5.0), layout="constrained")
    grid, steps, told = figure.subplots(2, 3), course.step, []
    first, changes = grid[0, 0], overopt.changes(course)
    first.plot(steps, course.gain.mean(-1), color=INK, marker="o", ms=3.5, label="gold, SD")
    first.plot(steps, course.score.mean(-1) / course.sd["score"], color=VERMILION, marker="s", ms=3.5, ls="--", label="proxy, SD")
    _finish(first, f"{TITLES[course.method]}, {course.pairs} pairs, seed {course.seed}", "")
    first.legend(frameon=False, fontsize=8)
    for number, (axes, (monitor, threshold)) in enumerate(zip(grid.flat[1:], thresholds.items(), strict=False)):
        axes.plot(steps, changes[monitor], color=BLUE, marker="o", ms=3.5)
        axes.axhline(threshold, color=VERMILION, ls=":", lw=1.4)
        rang = overopt.alarm(changes[monitor], threshold)
        if rang is not None:
            axes.plot(steps[rang], changes[monitor][rang], color=VERMILION, marker="o", ms=10, mfc="none", mew=1.6)
        _finish(axes, monitor, "step" if number > 1 else "")
        told.append(f"{monitor} {'never rings' if rang is None else f'rings after step {steps[rang]:.0f}'}")
    peak, sure = overopt.peak_of(course), overopt.sure_from(course)
    for axes in grid.flat[:5]:
        axes.set_xscale("log")
        axes.axvline(max(steps[peak], steps[1]), color=FAINT, lw=1.4, zorder=0)
        if sure is not None:
            axes.axvline(steps[sure], color=INK, lw=1, ls="--", zorder=0)
    grid[1, 2].axis("off")
    key = "grey line: gold's peak\ndashed line: surely fallen\ndotted line: the threshold\nring: the alarm"
    grid[1, 2].text(0.02, 0.9, key, va="top", fontsize=9)
    figure.set_label(f"One run and its monitors over the steps. Gold peaks after step {steps[peak]:.0f}; {'; '.join(told)}.")
    return figure


def alarms_figure(told: Mapping[str, Sequence[tuple[Course, Told]]]) -> Figure:
    """When each monitor rang: steps done at the alarm over steps done at gold's peak, a mark for each run.

    Args:
        told: by monitor, each run with what the alarm was worth in it.
    """
    figure = Figure(figsize=(8.4, 0.9 + 0.75 * len(told)), layout="constrained")
    axes, words, named = figure.subplots(), [], set()
    for row, (monitor, each) in enumerate(told.items()):
        rang = [(course, one) for course, one in each if one.at is not None]
        for place, (course, one) in enumerate(rang):
            ratio = float(course.step[one.at] / max(float(course.step[overopt.peak_of(course)]), float(course.step[1])))
            style: dict[str, Any] = {"color": SHADES[course.method], "marker": SHAPES[course.method]}
            label = None if course.method in named else TITLES[course.method]
            named.add(course.method)
            axes.plot(ratio, row + 0.5 * (place + 0.5) / len(rang) - 0.25, ls="", ms=7, label=label, alpha=0.8, **style)
        if not rang:
            axes.text(1.05, row, "never rang", va="center", fontsize=9, color=INK)
        words.append(f"{monitor} rang in {len(rang)} of {len(each)} runs")
    axes.axvline(1, color=INK, lw=1.2, zorder=0)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.4), max(high, 2.5))
    axes.set_xticks([tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if min(low, 0.4) <= tick <= max(high, 2.5)])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set_yticks(range(len(told)), list(told))
    axes.set_ylim(len(told) - 0.5, -0.5)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    _finish(axes, "Left of the line: before gold's peak", "steps at the alarm / steps at gold's peak")
    figure.set_label(f"When each monitor rang, relative to gold's peak: {'; '.join(words)}.")
    return figure


def _finish(axes: Axes, title: str, below: str) -> None:
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_xlabel(below, fontsize=9)
    plain_axes(axes)
