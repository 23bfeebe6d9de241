"""The dial in a notebook: policies' paths over the plane, and a slider that moves them along."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import ipywidgets as widgets
import numpy
from matplotlib.figure import Figure

from alignlab import dial
from alignlab.encoding import last_message
from alignlab.evaluate import Plane
from alignlab.lab.explorer import Explorer, Words, label_axes, legend, root_scale, tidy
from alignlab.lab.view import COLOURS, FAINT, INK, MARKERS, NAMES, beside, settle


def paths_numbers(plane: Plane, paths: Mapping[str, dial.Path], strength: float, prompts: Sequence[int] = (0, 1)) -> dict:
    """All policies at one strength: `points` of every path, `start`, `frontier`, and the first answers to some prompts, by policy."""
    return {
        "points": {name: dial.points(plane, path) for name, path in paths.items()},
        "start": plane.measure(plane.reference.gold)[0],
        "frontier": plane.curves()["frontier"],
        "answers": [
            (last_message(plane.reference.prompts[i]), {name: _answer(path[strength], i) for name, path in paths.items()}) for i in prompts
        ],
    }


def _answer(answers, prompt: int) -> tuple[str, float]:
    return answers.texts[prompt][0], answers.gold[prompt, 0].item()


def paths_figure(numbers: dict, strength: float | None = None, size: tuple[float, float] = (9.6, 4.6)) -> Figure:
    """Gold against KL, over a scale of its square root: each path with its intervals, and where it stands at a strength."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    tidy(axes)
    furthest = max(kl[0] for path in numbers["points"].values() for _, kl, _ in path)
    known = [(kl, gold) for kl, gold in numbers["frontier"] if kl <= furthest]
    if known:
        axes.plot(*zip(*known, strict=True), color=INK, lw=2.2, label="gold frontier, as far as samples show it")
    axes.axhline(numbers["start"], color=FAINT, lw=0.8, zorder=0)
    for name, path in numbers["points"].items():
        far, gold = ([point[part][0] for point in path] for part in (1, 2))
        bounds = numpy.array([[point[2][0] - point[2][1], point[2][2] - point[2][0]] for point in path]).clip(0).T
        style: dict[str, Any] = {"color": COLOURS[name], "marker": MARKERS[name], "ms": 5, "mfc": "white", "lw": 1.4, "capsize": 2}
        axes.errorbar(far, gold, yerr=bounds, label=NAMES[name], zorder=4, **style)
        for (each, kl, height), (_, before, _) in zip(path, [path[0], *path][:-1], strict=True):
            if each == strength:
                axes.plot(kl[0], height[0], color=COLOURS[name], marker=MARKERS[name], ms=12, mec="white", mew=1.5, zorder=8)
            if kl[0] ** 0.5 - before[0] ** 0.5 > 0.04 * furthest**0.5:
                beside(axes, f"×{each:g}", (kl[0], height[0]), (5, -12), fontsize=8, color=COLOURS[name])
    root_scale(axes, 1.08 * furthest, least=0 if size[0] > 6 else 1)
    label_axes(axes, "Weakened and strengthened", "KL to the SFT model, nats (scale: square root)", "gold reward")
    legend(axes, "best")
    settle(figure, axes)
    figure.set_label(f"Gold against the square root of KL. {_told(numbers)}")
    return figure


def paths_words(numbers: dict, strength: float) -> Words:
    """Where each policy stands on its path, and what it writes there."""
    here = {name: next(point for point in path if point[0] == strength) for name, path in numbers["points"].items()}
    peaks = {name: max(path, key=lambda point: point[2][0])[0] for name, path in numbers["points"].items()}
    beyond = [NAMES[name] for name, peak in peaks.items() if strength > peak]
    if strength == 1:
        look = "the large markers: these are the policies as they were trained."
    elif beyond:
        many = len(beyond) > 1
        look = (
            f"the answers: {' and '.join(beyond)} {'have' if many else 'has'} more of what {'they' if many else 'it'} learned than is "
            f"good for {'them' if many else 'it'}, and gold is past its peak."
        )
    elif strength < 1:
        look = "how much of the gain is there already at a part of the KL: the first nats buy the most."
    else:
        look = "gold still rises: training stopped before this policy had all that its direction can give."
    named = {name: f"{NAMES[name]}: KL {kl[0]:.2f} nats, gold {gold[0]:.2f}" for name, (_, kl, gold) in here.items()}
    tables = [
        (prompt, ["policy", "answer", "gold"], [[NAMES[name], text, f"{gold:z.1f}"] for name, (text, gold) in each.items()])
        for prompt, each in numbers["answers"]
    ]
    return Words(f"Gold against the square root of KL. {_told(numbers)}", look, "; ".join(named.values()), tables)


def _told(numbers: dict) -> str:
    """Each path in words."""
    parts = []
    for name, path in numbers["points"].items():
        top = max(path, key=lambda point: point[2][0])
        falls = any(later[2][0] < near[2][0] for near, later in pairwise(path))
        end = f", and is {path[-1][2][0]:.2f} at strength {path[-1][0]:g}" if falls else ""
        parts.append(f"{NAMES[name]} is highest at strength {top[0]:g}, {top[2][0]:.2f} at {top[1][0]:.1f} nats{end}")
    return "; ".join(parts) + "."


def turn(plane: Plane, paths: Mapping[str, dial.Path], prompts: Sequence[int] = (0, 1)) -> Explorer:
    """Explorer: one slider moves every policy along its path, with its answers beside it. All paths must have the same strengths."""
    strengths = sorted(set.intersection(*(set(path) for path in paths.values())))
    control = widgets.SelectionSlider(
        options=[(f"{strength:g}", strength) for strength in strengths], value=1.0 if 1.0 in strengths else strengths[0],
        description="strength", continuous_update=False,
    )  # fmt: skip
    return Explorer(partial(paths_numbers, plane, paths, prompts=prompts), paths_figure, paths_words, {"strength": control})
