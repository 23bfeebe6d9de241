"""The two workflows as pictures, drawn by Graphviz; `python -m alignlab.lab.diagrams` redraws the committed ones with the program `dot`."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import graphviz

from alignlab.lab.page import View, address, render
from alignlab.lab.view import FAINT, INK

# Fills are light tints of the project's colours; shape and words tell kinds apart without them.
_DATA, _MODEL, _FROZEN, _REWARD, _PPO, _DPO = "#FBF6C0", "#D6E6F2", "#E4E4E4", "#EBD6EB", "#F9DCC8", "#BBD9EC"
FOLDER = Path(__file__).parent / "_diagrams"
WIDTH, HEIGHT = 9.3, 6.46  # inches, as are all places and sizes; at 96 pixels an inch it is shown, at twice as many it is drawn
SHOWN = 96


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
    """From box to box, upright or level: data that goes ("data"), a copy ("copy") or a training step ("learn")."""

    kind: str
    source: str
    target: str
    words: str = ""  # right of an upright arrow, above a level one
    x: float | None = None  # of an upright arrow, else the smaller box's; or of the middle of a level one's words, else the arrow's


class Frame(NamedTuple):
    """A stage: a light frame with a title in its upper left corner."""

    title: str
    left: float
    bottom: float
    right: float
    top: float


class Diagram(NamedTuple):
    """What to draw, and what it shows in words."""

    words: str
    frames: Sequence[Frame]
    boxes: Mapping[str, Box]
    arrows: Sequence[Arrow]


# ---------------------------------------------------------------------------------------------- the two workflows

_TOP = {  # what both begin with, and the pairs that both learn from
    "demonstrations": Box("drum", "Demonstrations:\nprompts with good answers", 4.65, 5.92, 2.3, 0.7, _DATA),
    "sft": Box("model", "SFT model", 4.65, 4.98, 8.9, 0.46, _FROZEN),
    "two": Box("drum", "Two answers\nto each prompt", 1.12, 3.54, 1.68, 0.72, _DATA),
    "annotator": Box("work", "Annotator:\nwhich is better?", 1.12, 2.5, 1.68, 0.6),
    "pairs": Box("drum", "Preference pairs:\nprompt, chosen,\nrejected", 1.12, 1.28, 1.68, 0.96, _DATA),
}
_TO_PAIRS = (
    Arrow("learn", "demonstrations", "sft", "train"),
    Arrow("data", "sft", "two", "writes"),
    Arrow("data", "two", "annotator"),
    Arrow("data", "annotator", "pairs"),
)

PPO = Diagram(
    "Workflow of PPO. One: demonstrations train the SFT model. Two: the SFT model writes two answers to each prompt, the annotator says"
    " which is better, and these preference pairs train the reward model, which starts as a copy of the SFT model; no reference reaches"
    " it. Three: the policy starts as a copy of the SFT model and answers prompts that come alone. Each PPO step takes these answers, "
    "their scores from the reward model, the frozen reference, which is a copy of the SFT model, and what the value head predicts; it "
    "trains the policy and the value head.",
    (
        Frame("1  SFT", 0.08, 4.62, 9.22, 6.38),
        Frame("2  Reward\n    model", 0.08, 0.6, 4.2, 4.5),
        Frame("3  PPO", 4.35, 0.6, 9.22, 4.5),
    ),
    _TOP | {
        "reward": Box("model", "Reward model:\nscores an answer", 3.28, 1.28, 1.48, 0.7, _REWARD),
        "policy": Box("model", "Policy", 5.67, 3.6, 1.6, 0.6, _MODEL),
        "reference": Box("model", "Reference: the SFT\nmodel, frozen", 8.2, 3.6, 1.64, 0.6, _FROZEN),
        "answers": Box("drum", "Answers to\nthe prompts", 6.13, 2.5, 1.02, 0.75, _DATA),
        "prompts": Box("drum", "Prompts\nalone", 7.22, 2.5, 0.74, 0.75, _DATA),
        "value": Box("model", "Value head:\npredicts\nthe score", 8.22, 2.5, 0.98, 0.72, _MODEL),
        "step": Box(
            "work",
            "PPO step: answers with high scores become more\nlikely, and the policy stays near the reference",
            6.945, 1.28, 4.15, 0.7, _PPO,
        ),
    },
    (
        *_TO_PAIRS,
        Arrow("learn", "pairs", "reward", "train"),
        Arrow("copy", "sft", "reward", "starts as\na copy"),
        Arrow("copy", "sft", "policy", "starts as a copy"),
        Arrow("copy", "sft", "reference", "is a copy"),
        Arrow("data", "reward", "step", "score", x=4.61),
        Arrow("data", "policy", "answers", "writes"),
        Arrow("data", "prompts", "answers"),
        Arrow("data", "answers", "step"),
        Arrow("data", "reference", "step", x=8.85),
        Arrow("data", "value", "step", x=7.97),
        Arrow("learn", "step", "value", "train", x=8.27),
        Arrow("learn", "step", "policy", "train", x=5.1),
    ),
)  # fmt: skip

DPO = Diagram(
    "Workflow of DPO. One: demonstrations train the SFT model. The SFT model writes two answers to each prompt and the annotator says "
    "which is better. Two: the policy starts as a copy of the SFT model; each DPO step takes the preference pairs, and how likely the "
    "policy and the frozen reference find both answers, and trains the policy. Nothing is sampled, and there is neither a reward model "
    "nor a value head.",
    (
        Frame("1  SFT", 0.08, 4.62, 9.22, 6.38),
        Frame("Labels", 0.08, 0.6, 3.05, 4.5),
        Frame("2  DPO", 3.2, 0.6, 9.22, 4.5),
    ),
    _TOP | {
        "policy": Box("model", "Policy", 5.0, 3.4, 1.6, 0.6, _MODEL),
        "reference": Box("model", "Reference: the SFT\nmodel, frozen", 7.42, 3.4, 1.7, 0.6, _FROZEN),
        "step": Box(
            "work",
            "DPO step: the chosen answer more likely,\nthe rejected less, compared with the reference",
            6.21, 1.28, 4.12, 0.75, _DPO,
        ),
    },
    (
        *_TO_PAIRS,
        Arrow("copy", "sft", "policy", "starts as a copy"),
        Arrow("copy", "sft", "reference", "is a copy"),
        Arrow("data", "pairs", "step", "both answers", x=2.5),
        Arrow("data", "policy", "step", "how likely\nboth are", x=5.4),
        Arrow("data", "reference", "step", "how likely\nboth are"),
        Arrow("learn", "step", "policy", "train", x=4.6),
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
    words, picture = DIAGRAMS[name].words, (FOLDER / f"{name}.png").read_bytes()
    return View(render("picture", words=words, picture=address(picture), width=round(WIDTH * SHOWN)), words)


# ---------------------------------------------------------------------------------------------- drawing

_FONT = "Liberation Sans"  # of Debian's fonts-liberation; letters as wide as Arial's
_LOOKS: dict[str, dict[str, str]] = {
    "drum": {"shape": "cylinder"},
    "model": {"shape": "box", "style": "filled,rounded"},
    "work": {"shape": "box"},
    "data": {},
    "copy": {"style": "dashed"},
    "learn": {"penwidth": "2.6"},
}


def graph(told: Diagram) -> graphviz.Digraph:
    """The diagram with a key below it, every place fixed: the layout "nop2" draws what stands there and moves nothing."""
    made, font = graphviz.Digraph(), {"fontname": _FONT, "fontcolor": INK}
    made.attr(layout="nop2", bgcolor="white", pad="0", dpi=str(2 * SHOWN))
    made.attr("node", fontsize="10.5", color=INK, penwidth="1.2", style="filled", fillcolor="white", margin="0.05", **font)
    made.attr("edge", color=INK, penwidth="1.2", arrowsize="0.8")
    _node(made, "page", "", Box("", "", WIDTH / 2, HEIGHT / 2, WIDTH, HEIGHT), shape="box", color="white")
    for number, frame in enumerate(told.frames):
        width, height = frame.right - frame.left, frame.top - frame.bottom
        area = Box("", "", frame.left + width / 2, frame.bottom + height / 2, width, height)
        _node(made, f"frame {number}", "", area, shape="box", style="rounded", color=FAINT)
        _text(made, frame.title, frame.left + 0.12, frame.top - 0.2 - 0.1 * frame.title.count("\n"), 11.5, font=f"{_FONT} Bold")
    for key, box in told.boxes.items():
        _node(made, key, box.words, box, fixedsize="true", fillcolor=box.fill, **_LOOKS[box.kind])
    for arrow in told.arrows:
        _arrow(made, told.boxes, arrow)
    _key(made)
    return made


def _node(made: graphviz.Digraph, key: str, words: str, box: Box, **style: str) -> None:
    place = {"pos": _points((box.x, box.y)), "width": f"{box.width:.3f}", "height": f"{box.height:.3f}"}
    made.node(key, "\n" * (box.kind == "drum") + words, **place, **style)  # in a drum, one line lower: below the lid


def _text(made: graphviz.Digraph, words: str, x: float, y: float, size: float = 10.5, flush: str = r"\l", font: str = _FONT) -> None:
    """Words that begin at `x`, or with another `flush` have their middle there, around the height `y`."""
    lines = words.split("\n")
    width, height = 0.0078 * size * max(map(len, lines)), 0.0168 * size * len(lines)  # about what they need
    room = Box("", "", x + (width / 2 if flush == r"\l" else 0), y, width, height)
    style = {"shape": "plaintext", "style": "", "margin": "0", "fontname": font, "fontsize": str(size)}
    _node(made, f"words at {x:.2f} {y:.2f}", "".join(line + flush for line in lines), room, **style)


def ends(boxes: Mapping[str, Box], arrow: Arrow) -> tuple[Point, Point]:
    """Where the arrow starts and where its tip is: in the middles of sides, or where `x` says."""
    source, target = boxes[arrow.source], boxes[arrow.target]
    if abs(source.y - target.y) < 0.01:
        side = 1 if source.x < target.x else -1
        return (source.x + side * source.width / 2, source.y), (target.x - side * target.width / 2, target.y)
    side = 1 if source.y < target.y else -1
    x = min(source, target, key=lambda box: box.width).x if arrow.x is None else arrow.x
    return (x, source.y + side * source.height / 2), (x, target.y - side * target.height / 2)


def _arrow(made: graphviz.Digraph, boxes: Mapping[str, Box], arrow: Arrow) -> None:
    start, tip = ends(boxes, arrow)
    length = abs(tip[0] - start[0]) + abs(tip[1] - start[1])
    blunt = 0.045 if arrow.kind == "learn" else 0.02  # a thick line's tip reaches further than its point
    along = [_between(start, tip, part) for part in (0, 1 / 3, 2 / 3, 1 - 0.12 / length)]
    pos = f"e,{_points(_between(start, tip, 1 - blunt / length))} {_points(*along)}"
    made.edge(arrow.source, arrow.target, pos=pos, **_LOOKS[arrow.kind])
    if not arrow.words:
        return
    if start[0] == tip[0]:
        _text(made, arrow.words, start[0] + 0.1, (start[1] + tip[1]) / 2, 10)
    else:
        _text(made, arrow.words, arrow.x or (start[0] + tip[0]) / 2, start[1] + 0.15, 10, flush=r"\n")


def _key(made: graphviz.Digraph) -> None:
    """What shapes and arrows mean, in a line below the frames."""
    y = 0.28
    for x, kind, words in ((0.3, "drum", "data"), (1.45, "model", "a model"), (2.85, "work", "work")):
        _node(made, f"key {kind}", "", Box(kind, "", x + 0.2, y, 0.4, 0.28), **_LOOKS[kind])
        _text(made, words, x + 0.5, y)
    for x, kind, words in ((4.05, "data", "data flow"), (5.6, "copy", "starts as a copy"), (7.65, "learn", "trains")):
        tail, tip = f"key {kind} tail", f"key {kind} tip"
        spots = {tail: Box("", "", x, y, 0, 0), tip: Box("", "", x + 0.5, y, 0, 0)}
        for key, spot in spots.items():
            _node(made, key, "", spot, shape="point", style="invis")
        _arrow(made, spots, Arrow(kind, tail, tip))
        _text(made, words, x + 0.6, y)


def _between(start: Point, end: Point, part: float) -> Point:
    return start[0] + (end[0] - start[0]) * part, start[1] + (end[1] - start[1]) * part


def _points(*places: Point) -> str:
    """Places in inches as Graphviz takes them."""
    return " ".join(f"{72 * x:.2f},{72 * y:.2f}" for x, y in places)


def stamp(source: str, picture: bytes) -> str:
    """What says that a picture was drawn from this very source."""
    return hashlib.sha256(source.encode() + picture).hexdigest() + "\n"


def draw_committed(folder: Path = FOLDER) -> None:
    """Write the picture of each diagram, and its stamp, into the folder. The fonts of `_FONT` should be there.

    Raises:
        graphviz.ExecutableNotFound: the program `dot` is not there.
    """
    for name, told in DIAGRAMS.items():
        drawn = graph(told)
        picture = drawn.pipe(format="png")
        (folder / f"{name}.png").write_bytes(picture)
        (folder / f"{name}.sha256").write_text(stamp(drawn.source, picture), encoding="utf-8")


if __name__ == "__main__":
    draw_committed()
