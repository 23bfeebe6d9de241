"""The two workflows as diagrams: where each model starts, and which data reaches it. Places and sizes are in inches."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Outline

from alignlab.lab.page import View, address, render
from alignlab.lab.view import FAINT, INK, png

# Fills are light tints of the project's colours; shape and words tell kinds apart without them.
_DATA, _MODEL, _FROZEN, _REWARD, _PPO, _DPO = "#FBF6C0", "#D6E6F2", "#E4E4E4", "#EBD6EB", "#F9DCC8", "#BBD9EC"
_LINE, _SIZE = 1.3, 10  # points: of a line, of letters

Point = tuple[float, float]


class Box(NamedTuple):
    """A drum (data), a rounded box (a model) or a plain box (work), with words inside it."""

    kind: str
    words: str
    x: float  # of its middle
    y: float
    width: float
    height: float
    fill: str = "white"


class Arrow(NamedTuple):
    """Through points, with words whose middle stands at `at`: data that goes ("data"), a copy ("copy") or a training step ("learn")."""

    kind: str
    points: Sequence[Point]
    words: str = ""
    at: Point = (0.0, 0.0)


class Frame(NamedTuple):
    """A stage: a light frame with a title, whose left end stands at `at`."""

    title: str
    left: float
    bottom: float
    right: float
    top: float
    at: Point


class Diagram(NamedTuple):
    """What to draw, and what it shows in words."""

    words: str
    frames: Sequence[Frame]
    boxes: Sequence[Box]
    arrows: Sequence[Arrow]


WIDTH, HEIGHT = 9.6, 6.5

# ---------------------------------------------------------------------------------------------- the two workflows

_TOP = (  # what both begin with, and the pairs that both learn from
    Box("drum", "Demonstrations:\nprompts with good answers", 4.8, 6.02, 2.4, 0.7, _DATA),
    Box("model", "SFT model", 4.8, 5.1, 9.2, 0.5, _FROZEN),
    Box("drum", "Two answers\nto each prompt", 1.25, 3.85, 1.6, 0.8, _DATA),
    Box("work", "Annotator:\nwhich is better?", 1.25, 2.75, 1.6, 0.6),
    Box("drum", "Preference pairs:\nprompt, chosen,\nrejected", 1.25, 1.55, 1.6, 0.95, _DATA),
)
_LEARNED = (Arrow("learn", [(4.8, 5.67), (4.8, 5.35)], "train", (5.1, 5.52)),)
_LABELLED = (
    Arrow("data", [(1.25, 4.85), (1.25, 4.25)], "writes", (0.88, 4.44)),
    Arrow("data", [(1.25, 3.45), (1.25, 3.05)]),
    Arrow("data", [(1.25, 2.45), (1.25, 2.03)]),
)

PPO = Diagram(
    "Workflow of PPO. One: demonstrations train the SFT model. Two: the SFT model writes two answers to each prompt, the annotator says "
    "which is better, and these pairs train the reward model, which starts as a copy of the SFT model; no reference reaches it. Three: the "
    "policy starts as a copy of the SFT model and answers prompts that come alone. Each PPO step takes these answers, their scores from "
    "the reward model, the frozen reference, which is a copy of the SFT model, and what the value head predicts; it trains the policy and "
    "the value head.",
    (
        Frame("1  SFT", 0.1, 4.78, 9.5, 6.45, (0.25, 6.24)),
        Frame("2  Reward model", 0.1, 0.85, 4.5, 4.62, (1.6, 4.44)),
        Frame("3  PPO", 4.7, 0.85, 9.5, 4.62, (4.85, 4.44)),
    ),
    (
        *_TOP,
        Box("model", "Reward model:\nscores an answer", 3.45, 1.55, 1.6, 0.7, _REWARD),
        Box("model", "Policy", 5.95, 3.85, 1.6, 0.6, _MODEL),
        Box("drum", "Prompts\nalone", 7.37, 2.75, 0.8, 0.75, _DATA),
        Box("drum", "Answers to\nthe prompts", 6.2, 2.75, 1.06, 0.75, _DATA),
        Box("model", "Reference: the SFT\nmodel, frozen", 8.4, 3.85, 1.75, 0.6, _FROZEN),
        Box("model", "Value head:\npredicts\nthe score", 8.4, 2.75, 1.05, 0.72, _MODEL),
        Box(
            "work",
            "PPO step: answers with high scores become more\nlikely, and the policy stays near the reference",
            7.1, 1.55, 3.8, 0.7, _PPO,
        ),
    ),
    (
        *_LEARNED, *_LABELLED,
        Arrow("learn", [(2.05, 1.55), (2.65, 1.55)], "train", (2.35, 1.71)),
        Arrow("copy", [(3.45, 4.85), (3.45, 1.9)], "starts as\na copy", (3.0, 3.3)),
        Arrow("copy", [(5.95, 4.85), (5.95, 4.15)], "starts as a copy", (6.6, 4.4)),
        Arrow("copy", [(8.4, 4.85), (8.4, 4.15)], "is a copy", (8.82, 4.4)),
        Arrow("data", [(4.25, 1.55), (5.2, 1.55)], "score", (4.96, 1.71)),
        Arrow("data", [(6.2, 3.55), (6.2, 3.13)], "writes", (6.52, 3.36)),
        Arrow("data", [(6.97, 2.75), (6.73, 2.75)]),
        Arrow("data", [(6.2, 2.38), (6.2, 1.9)]),
        Arrow("data", [(9.2, 3.55), (9.2, 1.55), (9.0, 1.55)]),
        Arrow("data", [(8.2, 2.39), (8.2, 1.9)]),
        Arrow("learn", [(8.5, 1.9), (8.5, 2.39)], "train", (8.8, 2.14)),
        Arrow("learn", [(5.42, 1.9), (5.42, 3.55)], "train", (5.1, 2.75)),
    ),
)  # fmt: skip

DPO = Diagram(
    "Workflow of DPO. One: demonstrations train the SFT model. The SFT model writes two answers to each prompt and the annotator says "
    "which is better. Two: the policy starts as a copy of the SFT model; each DPO step takes the pairs, and how likely the policy and the "
    "frozen reference find both answers, and trains the policy. Nothing is sampled, and there is neither a reward model nor a value head.",
    (
        Frame("1  SFT", 0.1, 4.78, 9.5, 6.45, (0.25, 6.24)),
        Frame("Labels", 0.1, 0.85, 3.2, 4.62, (1.6, 4.44)),
        Frame("2  DPO", 3.4, 0.85, 9.5, 4.62, (3.55, 4.44)),
    ),
    (
        *_TOP,
        Box("model", "Policy", 5.3, 3.6, 1.3, 0.6, _MODEL),
        Box("model", "Reference: the SFT\nmodel, frozen", 8.0, 3.6, 1.75, 0.6, _FROZEN),
        Box(
            "work",
            "DPO step: the chosen answer more likely,\nthe rejected less, compared with the reference",
            6.65, 1.55, 4.0, 0.75, _DPO,
        ),
    ),
    (
        *_LEARNED, *_LABELLED,
        Arrow("copy", [(5.3, 4.85), (5.3, 3.9)], "starts as a copy", (5.93, 4.3)),
        Arrow("copy", [(8.0, 4.85), (8.0, 3.9)], "is a copy", (8.39, 4.3)),
        Arrow("data", [(2.05, 1.55), (4.65, 1.55)], "both answers", (2.66, 1.71)),
        Arrow("data", [(5.5, 3.3), (5.5, 1.93)], "how likely\nboth are", (5.98, 2.6)),
        Arrow("data", [(8.0, 3.3), (8.0, 1.93)], "how likely\nboth are", (7.5, 2.6)),
        Arrow("learn", [(4.85, 1.93), (4.85, 3.3)], "train", (4.5, 2.6)),
    ),
)  # fmt: skip
DIAGRAMS = {"ppo": PPO, "dpo": DPO}


def diagram(name: str) -> View:
    """The workflow of "ppo" or "dpo" as a picture, which is shown even where a notebook is not trusted; in a terminal, in words.

    Raises:
        ValueError: another name.
    """
    if name not in DIAGRAMS:
        raise ValueError(f"name must be one of {sorted(DIAGRAMS)}, got {name!r}")
    told = DIAGRAMS[name]
    return View(render("picture", words=told.words, picture=address(png(drawn(told), dpi=190)), width=960), told.words)


# ---------------------------------------------------------------------------------------------- drawing


def drawn(told: Diagram) -> Figure:
    """The diagram, with a key below it."""
    figure = Figure(figsize=(WIDTH, HEIGHT))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    axes.axis("off")
    for frame in told.frames:
        width, height = frame.right - frame.left, frame.top - frame.bottom
        axes.add_patch(
            FancyBboxPatch((frame.left, frame.bottom), width, height, "round,pad=0,rounding_size=.12", fc="none", ec=FAINT, lw=1)
        )
        axes.text(*frame.at, frame.title, fontsize=11, fontweight="bold", color=INK, va="center", gid="label")
    for box in told.boxes:
        _draw_box(axes, box)
    for arrow in told.arrows:
        _draw_arrow(axes, arrow)
    _draw_key(axes)
    return figure


def _draw_box(axes: Axes, box: Box) -> None:
    left, bottom = box.x - box.width / 2, box.y - box.height / 2
    style: dict[str, Any] = {"fc": box.fill, "ec": INK, "lw": _LINE}
    if box.kind == "drum":
        _draw_drum(axes, left, bottom, box.width, box.height, style)
    else:
        corners = "round,pad=0,rounding_size=.14" if box.kind == "model" else "square,pad=0"
        axes.add_patch(FancyBboxPatch((left, bottom), box.width, box.height, corners, **style))
    lower = _lid(box.height) / 2 if box.kind == "drum" else 0.0  # below the lid
    axes.text(box.x, box.y - lower, box.words, fontsize=_SIZE, color=INK, ha="center", va="center", gid="box", linespacing=1.15)


def _lid(height: float) -> float:
    return 0.22 * height


def _draw_drum(axes: Axes, left: float, bottom: float, width: float, height: float, style: dict[str, Any]) -> None:
    """A cylinder that stands: its lid is as high as `_lid` says."""
    right, half, curve = left + width, _lid(height) / 2, Outline.CURVE4
    low, high = bottom + half, bottom + height - half
    bow = 4 / 3 * half  # how far the curve's handles stand out, so that its middle stands out by half
    body = [(left, high), (left, low), (left, low - bow), (right, low - bow), (right, low), (right, high)]
    body += [(right, high + bow), (left, high + bow), (left, high)]
    codes = [Outline.MOVETO, Outline.LINETO, curve, curve, curve, Outline.LINETO, curve, curve, curve]
    axes.add_patch(PathPatch(Outline(body, codes), **style))
    lid = [(left, high), (left, high - bow), (right, high - bow), (right, high)]
    axes.add_patch(PathPatch(Outline(lid, [Outline.MOVETO, curve, curve, curve]), fc="none", ec=INK, lw=_LINE))


def _draw_arrow(axes: Axes, arrow: Arrow) -> None:
    width = 2.8 if arrow.kind == "learn" else _LINE
    x, y = zip(*arrow.points, strict=True)
    dash = (0, (4, 2.5)) if arrow.kind == "copy" else "-"
    axes.plot(x[:-1], y[:-1], color=INK, lw=width, solid_joinstyle="round")  # up to the last corner
    head = {"arrowstyle": "-|>", "lw": width, "color": INK, "ls": dash, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 13}
    axes.annotate("", arrow.points[-1], arrow.points[-2], arrowprops=head)
    if arrow.words:
        axes.text(*arrow.at, arrow.words, fontsize=_SIZE - 0.5, color=INK, ha="center", va="center", gid="label", linespacing=1.1)


def _draw_key(axes: Axes) -> None:
    """What shapes and arrows mean, in the two lines below the frames."""
    for x, kind, words in ((0.3, "drum", "data"), (1.5, "model", "a model"), (2.95, "work", "work")):
        _draw_box(axes, Box(kind, "", x + 0.2, 0.46, 0.4, 0.3))
        axes.text(x + 0.5, 0.46, words, fontsize=_SIZE, color=INK, va="center", gid="label")
    for x, kind, words in ((4.1, "data", "data flow"), (5.7, "copy", "starts as a copy"), (7.8, "learn", "trains")):
        _draw_arrow(axes, Arrow(kind, [(x, 0.46), (x + 0.5, 0.46)]))
        axes.text(x + 0.6, 0.46, words, fontsize=_SIZE, color=INK, va="center", gid="label")
