"""The two workflows as diagrams; `python -m alignlab.lab.diagrams` redraws the committed ones."""

import hashlib
import re
import subprocess
from pathlib import Path

import graphviz

from alignlab.lab.page import View, render
from alignlab.lab.view import INK

# Fills are light tints of the project's colours; shape and words tell kinds apart without them.
_DATA, _MODEL, _REWARD, _FROZEN = "#FBF6C0", "#D6E6F2", "#EBD6EB", "#E4E4E4"
_PPO_STEP, _DPO_STEP = "#F9DCC8", "#BBD9EC"
_KEY = (
    "Drums hold data, rounded boxes are models, plain boxes are work.\n"
    "Arrows: solid, data goes; dashed, starts as a copy; thick, a gradient step."
)


def _graph(name: str) -> graphviz.Digraph:
    font = {"fontname": "Helvetica,Arial,sans-serif", "fontcolor": INK}
    graph = graphviz.Digraph(name)
    graph.attr(rankdir="TB", nodesep="0.3", ranksep="0.45", bgcolor="white", pad="0.1", fontsize="12", label=_KEY, labelloc="b", **font)
    graph.attr("node", fontsize="13", color=INK, margin="0.14,0.07", **font)
    graph.attr("edge", fontsize="11.5", color=INK, arrowsize="0.8", **font)
    return graph


def _data(graph: graphviz.Digraph, key: str, label: str) -> None:
    graph.node(key, label, shape="cylinder", style="filled", fillcolor=_DATA)


def _model(graph: graphviz.Digraph, key: str, label: str, fill: str) -> None:
    graph.node(key, label, shape="box", style="filled,rounded", fillcolor=fill)


def _work(graph: graphviz.Digraph, key: str, label: str, fill: str = "white") -> None:
    graph.node(key, label, shape="box", style="filled", fillcolor=fill)


def _copy(graph: graphviz.Digraph, source: str, target: str, label: str) -> None:
    graph.edge(source, target, label, style="dashed")


def _learn(graph: graphviz.Digraph, source: str, target: str, label: str = "") -> None:
    graph.edge(source, target, label, penwidth="2.6")


def _learn_back(graph: graphviz.Digraph, step: str, target: str) -> None:
    """The same against the direction of the page: laid out from the model down to the step, with its head at the model."""
    graph.edge(target, step, penwidth="2.6", dir="back")


def _stage(name: str, title: str, side: str = "l") -> graphviz.Digraph:
    stage = graphviz.Digraph(f"cluster_{name}")
    stage.attr(label=title, labelloc="t", labeljust=side, color="#BBBBBB", style="rounded", fontsize="13", margin="12")
    return stage


def _until_pairs(graph: graphviz.Digraph, labelled: graphviz.Digraph) -> None:
    """What both workflows share: SFT, and pairs made from the SFT model's own answers, in the stage `labelled`."""
    sft = _stage("sft", "1  SFT")
    _data(sft, "demonstrations", "Demonstrations\nprompt, good answer")
    _model(sft, "sft", "SFT model\nπ_SFT", _FROZEN)
    _learn(sft, "demonstrations", "sft", " SFT loss")
    graph.subgraph(sft)
    _data(labelled, "asked", "Prompts\nx")
    _work(labelled, "annotator", "Annotator\nprefers one of two")
    _data(labelled, "pairs", "Preference pairs\n(x, y_w, y_l)")
    labelled.edge("annotator", "pairs")
    labelled.edge("asked", "annotator", " x")
    graph.edge("sft", "annotator", " two answers to x")


def ppo_diagram() -> graphviz.Digraph:
    """SFT, reward model, PPO: where each model starts, and which data reaches it."""
    graph, reward, loop = _graph("ppo"), _stage("reward", "2  Reward model", "r"), _stage("ppo", "3  PPO")
    _until_pairs(graph, reward)
    _model(reward, "reward", "Reward model\nr(x, y)", _REWARD)
    _learn(reward, "pairs", "reward", " preference loss")
    _model(loop, "reference", "Reference π_ref\nfrozen", _FROZEN)
    _model(loop, "policy", "Policy π", _MODEL)
    _model(loop, "value", "Value head V\non π's hidden states,\nstarts at 0", _MODEL)
    _data(loop, "prompts", "Prompts\nx alone, no answers")
    _work(loop, "answers", "An answer y to each x,\nsampled from π")
    _work(loop, "update", "PPO step\nreward = r(x, y) at the end - β log π/π_ref\nadvantages by GAE, clipped objective", _PPO_STEP)
    loop.edge("policy", "answers", " samples")
    loop.edge("prompts", "answers", " x")
    loop.edge("answers", "update", " y")
    loop.edge("reference", "update", " log π_ref(y)")
    loop.edge("value", "update", " V")
    _learn_back(loop, "update", "policy")
    _learn_back(loop, "update", "value")
    graph.subgraph(reward)
    graph.subgraph(loop)
    _model(graph, "aligned", "Aligned policy", _MODEL)
    _copy(graph, "sft", "reward", " starts as SFT")
    _copy(graph, "sft", "reference", " is SFT")
    _copy(graph, "sft", "policy", " starts as SFT")
    graph.edge("reward", "update", " score of y")
    graph.edge("update", "aligned", " after the last step")
    return graph


def dpo_diagram() -> graphviz.Digraph:
    """SFT, DPO: the same pairs, one loss, nothing sampled while it learns."""
    graph, labelled, dpo = _graph("dpo"), _stage("labels", "Labels", "r"), _stage("dpo", "2  DPO")
    _until_pairs(graph, labelled)
    _model(dpo, "reference", "Reference π_ref\nfrozen", _FROZEN)
    _model(dpo, "policy", "Policy π", _MODEL)
    _work(dpo, "update", "DPO step\nloss = -log sigmoid(β x difference of log π/π_ref)", _DPO_STEP)
    dpo.edge("reference", "update", " log π_ref of both")
    dpo.edge("policy", "update", " log π of both", tailport="se")
    _learn_back(dpo, "update", "policy")
    graph.subgraph(labelled)
    graph.subgraph(dpo)
    _model(graph, "aligned", "Aligned policy", _MODEL)
    _copy(graph, "sft", "reference", " is SFT")
    _copy(graph, "sft", "policy", " starts as SFT")
    graph.edge("pairs", "update", " y_w and y_l")
    graph.edge("update", "aligned", " after the last step")
    return graph


_PPO_WORDS = (
    "Workflow of PPO. One: SFT trains the SFT model on demonstrations. Two: the SFT model gives two answers to each prompt, an annotator "
    "prefers one, and the pairs train the reward model, which starts as the SFT model and uses no reference. Three: the policy starts as "
    "the SFT model and answers prompts that come alone; each PPO step takes the reward model's score, the frozen reference's log-probs and "
    "the values of a head on the policy's hidden states that starts at 0, and changes policy and value head."
)
_DPO_WORDS = (
    "Workflow of DPO. One: SFT trains the SFT model on demonstrations. The SFT model gives two answers to each prompt and an annotator "
    "prefers one. Two: the policy starts as the SFT model; each DPO step takes pairs and their log-probs under policy and reference, "
    "and changes the policy. Nothing is sampled, and there is no reward model and no value head."
)
DIAGRAMS = {"ppo": (ppo_diagram, _PPO_WORDS), "dpo": (dpo_diagram, _DPO_WORDS)}
FOLDER = Path(__file__).parent / "_diagrams"


def diagram(name: str) -> View:
    """The corrected workflow "ppo" or "dpo", drawn by the first of these that is there: the program `dot`, pygraphviz, the committed SVG.

    Without any of them, and in a terminal, it is DOT text.

    Raises:
        ValueError: another name.
    """
    if name not in DIAGRAMS:
        raise ValueError(f"name must be one of {sorted(DIAGRAMS)}, got {name!r}")
    draw, words = DIAGRAMS[name]
    graph = draw()
    svg = _by_dot(graph) or _by_pygraphviz(graph) or _committed(name, graph)
    if svg is not None:
        svg = svg[svg.index("<svg") :]  # without the XML head, which has no place inside a page
        svg = re.sub(r'width="(\d+)pt" height="\d+pt"', r'style="width: 100%; max-width: \1pt; height: auto"', svg, count=1)
    return View(render("diagram", words=words, svg=svg, source=graph.source), graph.source)


def _by_dot(graph: graphviz.Digraph) -> str | None:
    try:
        return graph.pipe(format="svg", encoding="utf-8")
    except (graphviz.ExecutableNotFound, subprocess.CalledProcessError):  # none there, or one that cannot draw
        return None


def _by_pygraphviz(graph: graphviz.Digraph) -> str | None:
    try:
        import pygraphviz

        return pygraphviz.AGraph(string=graph.source).draw(format="svg", prog="dot").decode()
    except (ImportError, OSError, ValueError):  # older ones need the program as well
        return None


def _committed(name: str, graph: graphviz.Digraph) -> str | None:
    """The SVG of the package, if it was drawn from this very source."""
    path = FOLDER / f"{name}.svg"
    svg = path.read_text(encoding="utf-8") if path.exists() else ""
    return svg if _stamp(graph) in svg else None


def _stamp(graph: graphviz.Digraph) -> str:
    return f"<!-- sha256 of the DOT source: {hashlib.sha256(graph.source.encode()).hexdigest()} -->"


def draw_committed(folder: Path = FOLDER) -> None:
    """Write the SVG of each diagram into the folder, stamped with its source.

    Raises:
        RuntimeError: the program `dot` is not there.
    """
    folder.mkdir(exist_ok=True)
    for name, (source, _) in DIAGRAMS.items():
        graph = source()
        svg = _by_dot(graph)
        if svg is None:
            raise RuntimeError("drawing the diagrams needs the program dot; install graphviz")
        (folder / f"{name}.svg").write_text(svg.replace("<svg", f"{_stamp(graph)}\n<svg", 1), encoding="utf-8")


if __name__ == "__main__":
    draw_committed()
