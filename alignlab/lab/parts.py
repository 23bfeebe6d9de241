"""The parts of gold: how much of each is in a model's answers, and which of them decided somebody's labels."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from alignlab import world
from alignlab.encoding import last_message
from alignlab.evaluate import Answers
from alignlab.lab.label import Desk
from alignlab.lab.page import View, render
from alignlab.lab.view import BLUE, COLOURS, INK, NAMES, VERMILION, plain_axes
from alignlab.rollout import Completions

# ---------------------------------------------------------------------------------------------- what is in the answers

Source = Answers | Completions | Sequence[dict]  # a policy's answers, sampled completions, or demonstrations


def table(sources: dict[str, Source]) -> View:
    """How many points of gold each part brings, a mean with two standard errors, a column a source; a column adds up to gold.

    Args:
        sources: by a policy's name ("sft", "ppo", "dpo"), or any other.
    """
    if not all(map(_of_the_world, sources.values())):
        return View("<p>The gold of this size has no parts.</p>", "The gold of this size has no parts.")
    points = {name: _points(source) for name, source in sources.items()}
    parts = list(world.WEIGHTS)
    rows = [[f"{world.WEIGHTS[part]:g} × {part}", *(_told(each[:, k]) for each in points.values())] for k, part in enumerate(parts)]
    rows.append(["= gold reward", *(_told(each.sum(-1)) for each in points.values())])
    names = [NAMES.get(name, name) for name in sources]
    heads = [{"name": name, "colour": COLOURS.get(key, INK)} for key, name in zip(sources, names, strict=True)]
    width = max(len(row[0]) for row in rows)
    lines = [" ".join([f"{head:{width}}", *(f"{cell:>14}" for cell in cells)]) for head, *cells in [["points of gold", *names], *rows]]
    return View(render("table", caption="Points of gold, by part", heads=["part", *heads], rows=rows), "\n".join(lines))


def _points(source: Source) -> Tensor:
    """(P, K) what each part adds to gold, weight included; a row a prompt, a mean over its answers."""
    weights = torch.tensor(list(world.WEIGHTS.values()))
    rows = [[list(world.gold_parts(prompt, text, stopped).values()) for text, stopped in answers] for prompt, answers in _reviews(source)]
    return torch.stack([torch.tensor(parts).mean(0) for parts in rows]) * weights


def _reviews(source: Source) -> Iterator[tuple[str, list[tuple[str, bool]]]]:
    """Each prompt, with its answers and whether they ended by themselves."""
    if isinstance(source, Answers):
        for prompt, texts, stopped in zip(source.prompts, source.texts, source.stopped.bool().tolist(), strict=True):
            yield last_message(prompt), list(zip(texts, stopped, strict=True))
    elif isinstance(source, Completions):
        for prompt, text, stopped in zip(source.prompts, source.texts, source.stopped.tolist(), strict=True):
            yield last_message(prompt), [(text, stopped)]
    else:
        for record in source:
            yield last_message(record["prompt"]), [(record["completion"], True)]


def _of_the_world(source: Source) -> bool:
    try:
        world.read_request(next(_reviews(source))[0])
    except ValueError:
        return False
    return True


def _told(values: Tensor) -> str:
    error = 2 * values.std().item() / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{values.mean().item():z.2f} ± {error:.2f}"


# ---------------------------------------------------------------------------------------------- what decided the labels

LEAST = 8  # labels, below which nothing can be said
PRIOR = 2.0  # standard deviation of a weight before any label was seen, in log-odds; keeps few labels from saying too much


@dataclass(frozen=True)
class Taste:
    """Which parts decided labels: for each the log-odds that its typical difference adds, by Bradley-Terry, with a 95% interval."""

    labels: int
    weights: dict[str, tuple[float, float, float]]  # part -> value, low, high

    def __str__(self) -> str:
        if self.labels < LEAST:
            return f"{self.labels} labels so far; label at least {LEAST} pairs, then run this cell again."
        order = sorted(self.weights, key=lambda part: -abs(self.weights[part][0]))
        sure = [part for part in order if self.weights[part][1] > 0 or self.weights[part][2] < 0]
        lines = [f"from {self.labels:,} labels, the part that weighs most comes first"]
        for part in order:
            value, low, high = self.weights[part]
            doubt = "" if part in sure else "   (it may be nothing)"
            lines.append(f"  {part} weighs {value:+z.1f}, between {low:+z.1f} and {high:+z.1f}{doubt}")
        return "\n".join(lines)


def taste(labels: Desk | Sequence[dict]) -> Taste:
    """Which parts decided these labels.

    Bradley-Terry by maximum a posteriori: P(chosen wins) = sigmoid(sum of weight x difference of the part, in units of the difference
    that is usual among these pairs); the interval is Laplace's.

    Args:
        labels: a desk, or records with prompt, chosen and rejected of the review world.
    """
    pairs = labels.preferences() if isinstance(labels, Desk) else list(labels)
    parts = list(world.WEIGHTS)
    if not pairs:
        return Taste(0, {part: (0.0, -2 * PRIOR, 2 * PRIOR) for part in parts})
    gaps = torch.tensor([_gap(pair) for pair in pairs], dtype=torch.float64)
    usual = gaps.square().mean(0).sqrt()
    x = gaps / usual.clamp(min=1e-6)
    weights, prior = torch.zeros(len(parts), dtype=torch.float64), torch.eye(len(parts), dtype=torch.float64) / PRIOR**2
    for _ in range(30):  # Newton's steps
        lost = torch.sigmoid(-(x @ weights))  # (N,) the chance of the other label
        curvature = (x * (lost * (1 - lost))[:, None]).T @ x + prior
        weights = weights + torch.linalg.solve(curvature, x.T @ lost - prior @ weights)
    error = 1.96 * torch.linalg.inv(curvature).diagonal().sqrt()
    found = zip(parts, weights.tolist(), (weights - error).tolist(), (weights + error).tolist(), strict=True)
    return Taste(len(pairs), {part: (value, low, high) for part, value, low, high in found})


def _gap(pair: dict) -> list[float]:
    """By how much the chosen answer has more of each part than the rejected one."""
    prompt = last_message(pair["prompt"])
    both = [world.gold_parts(prompt, pair[side]) for side in ("chosen", "rejected")]
    return [both[0][part] - both[1][part] for part in world.WEIGHTS]


def taste_figure(tastes: dict[str, Taste]) -> Figure:
    """Tastes side by side: a point with its interval for each part and each of two labellers; of no labels, none."""
    figure = Figure(figsize=(7, 0.8 + 0.55 * len(world.WEIGHTS)), layout="constrained")
    axes = figure.subplots()
    shown = {name: each for name, each in tastes.items() if each.labels >= LEAST}
    for number, ((name, each), colour, marker) in enumerate(zip(shown.items(), (BLUE, VERMILION), "os", strict=False)):
        for place, (value, low, high) in enumerate(each.weights.values()):
            y = place + 0.26 * (number - (len(shown) - 1) / 2)
            label = f"{name}, {each.labels:,} labels" if place == 0 else None
            axes.errorbar(value, y, xerr=[[value - low], [high - value]], color=colour, marker=marker, capsize=3, ms=7, ls="", label=label)
    axes.axvline(0, color=INK, lw=1)
    axes.set_yticks(range(len(world.WEIGHTS)), list(world.WEIGHTS))
    axes.set(ylim=(len(world.WEIGHTS) - 0.5, -0.5), xlabel="what a typical difference adds to the log-odds of being chosen")
    if shown:
        axes.legend(frameon=False, loc="best")
    plain_axes(axes)
    told = "; ".join(f"{name}: " + ", ".join(f"{part} {w[0]:+z.1f}" for part, w in each.weights.items()) for name, each in shown.items())
    figure.set_label(f"How much each part of gold decided the labels, with 95% intervals. {told}")
    return figure
