"""Static views: answers side by side, tokens with their numbers, pairs that tell, and the two workflows as diagrams.

All text from models and data goes through `html.escape`; a terminal shows the same as plain text. `python -m alignlab.lab.show`
draws the committed diagrams anew.
"""

import hashlib
import html
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import graphviz
import torch
from torch import Tensor

from alignlab import world
from alignlab.encoding import last_message
from alignlab.lab.view import COLOURS, INK, NAMES
from alignlab.talks import Text


@dataclass(frozen=True, repr=False)
class View:
    """What a notebook shows as HTML and a terminal as text."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


_CELL = "padding: .3em .6em; text-align: left; vertical-align: top; border: 1px solid #ddd;"  # notebooks style tables in their own way


def _table(rows: Sequence[Sequence[str]], caption: str) -> str:
    """A table of cells that are HTML already; the first row and the first column are heads."""
    lines = []
    for number, row in enumerate(rows):
        tags = ["th scope='col'" if number == 0 else "th scope='row'"] + ["th scope='col'" if number == 0 else "td"] * (len(row) - 1)
        cells = (f"<{tag} style='{_CELL}'>{cell}</{tag.split()[0]}>" for tag, cell in zip(tags, row, strict=True))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    style = f"border-collapse: collapse; color: {INK}; background: #fff; margin: .4em 0 1em"
    return f"<table style='{style}'><caption style='text-align: left'>{caption}</caption>{''.join(lines)}</table>"


# ---------------------------------------------------------------------------------------------- answers side by side


def answers(
    prompt: Text,
    texts: dict[str, str],
    parts: dict[str, dict[str, float]] | None = None,
    scores: dict[str, float] | None = None,
    kls: dict[str, float] | None = None,
) -> View:
    """Several policies' answers to one prompt, side by side.

    Args:
        prompt: a string, or messages, of which the last is shown.
        texts: an answer a policy, by its name ("sft", "ppo", "dpo", "best_of_16", or any other).
        parts: gold parts by name; by default `world.gold_parts` of each answer as one that ended by itself, where the prompt is one of
            the review world's, and none elsewhere.
        scores: the reward model's score, in log-odds; comparable within this prompt alone.
        kls: KL to the reference, nats a completion.

    Raises:
        ValueError: no answers, or numbers for a name that has none.
    """
    if not texts:
        raise ValueError("no answers to show; give {name: text}")
    question = last_message(prompt)
    if parts is None:
        parts = {name: world.gold_parts(question, text) for name, text in texts.items()} if _of_the_world(question) else {}
    given = {"parts": parts, "scores": scores or {}, "kls": kls or {}}
    for what, numbers in given.items():
        if unknown := sorted(set(numbers) - set(texts)):
            raise ValueError(f"{what} has {unknown}, which gave no answer; names are {sorted(texts)}")

    rows = {}  # head -> a number or None for each name
    for part in dict.fromkeys(part for each in parts.values() for part in each):
        weight = world.WEIGHTS.get(part)
        rows[f"{weight:g} × {part}" if weight else part] = [parts.get(name, {}).get(part) for name in texts]
    if parts and all(set(each) == set(world.WEIGHTS) for each in parts.values()):
        rows["= gold reward"] = [_gold(parts[name]) if name in parts else None for name in texts]
    for head, numbers in (("reward model's score", given["scores"]), ("KL to the reference, nats", given["kls"])):
        if numbers:
            rows[head] = [numbers.get(name) for name in texts]

    names = [NAMES.get(name, name) for name in texts]
    shown = {head: ["–" if number is None else f"{number:.2f}" for number in numbers] for head, numbers in rows.items()}
    heads = [f"<span style='color: {COLOURS.get(key, INK)}'>{html.escape(name)}</span>" for key, name in zip(texts, names, strict=True)]
    table = [["policy" if set(texts) & set(NAMES) else "", *heads], ["answer", *(html.escape(text) for text in texts.values())]]
    table += [[html.escape(head), *numbers] for head, numbers in shown.items()]
    lines = [question]
    for column, (name, text) in enumerate(zip(names, texts.values(), strict=True)):
        numbers = "; ".join(f"{head} {each[column]}" for head, each in shown.items())
        lines += ["", f"{name}: {text}"] + ([f"    {numbers}"] if numbers else [])
    return View(_table(table, f"<b>{html.escape(question)}</b>"), "\n".join(lines))


def _of_the_world(prompt: str) -> bool:
    try:
        world.read_request(prompt)
    except ValueError:
        return False
    return True


def _gold(parts: dict[str, float]) -> float:
    return sum(weight * parts[name] for name, weight in world.WEIGHTS.items())


# ---------------------------------------------------------------------------------------------- tokens with their numbers

STRIP_WIDTH = 12  # tokens a line
_ABOVE, _BELOW, _YES = "0, 114, 178", "213, 94, 0", "240, 228, 66"  # blue, vermillion, yellow


def strip(tokens: Sequence[str], rows: dict[str, Sequence[float | bool | None]], note: str = "") -> View:
    """A completion token by token: a coloured box each, and under it the token's numbers, a row a name.

    Args:
        tokens: T tokens, leading spaces included.
        rows: T numbers, or T truths, by name; the first row of numbers also colours the tokens. None is shown as a dash.
        note: a sentence under the strip.

    Raises:
        ValueError: a row that does not have one entry a token.
    """
    for name, numbers in rows.items():
        if len(numbers) != len(tokens):
            raise ValueError(f"row {name!r} has {len(numbers)} entries for {len(tokens)} tokens; give one a token")
    tops = {name: max((abs(each) for each in row if each is not None), default=0) or 1 for name, row in rows.items()}
    first = next((name for name, row in rows.items() if not _truths(row)), None)
    said = {name: [_said(each) for each in row] for name, row in rows.items()}

    parts = []
    for start in range(0, len(tokens), STRIP_WIDTH):
        here = range(start, min(start + STRIP_WIDTH, len(tokens)))
        titles = {t: html.escape("; ".join([repr(tokens[t]), *(f"{name} {said[name][t]}" for name in rows)])) for t in here}
        boxes = "".join(
            _box("th scope='col'", html.escape(_visible(tokens[t])), titles[t], rows[first][t] if first else None, tops.get(first, 1))
            for t in here
        )
        lines = [f"<tr>{_box('th scope=row', 'token', '', None, 1)}{boxes}</tr>"]
        for name, row in rows.items():
            boxes = "".join(_box("td", said[name][t], titles[t], row[t], tops[name]) for t in here)
            lines.append(f"<tr>{_box('th scope=row', html.escape(name), '', None, 1)}{boxes}</tr>")
        parts.append(f"<table style='border-collapse: separate; border-spacing: 2px; margin: 0 0 .5em'>{''.join(lines)}</table>")
    words = "Blue: above 0. Orange: below 0. The stronger, the further from 0, on each row's own scale."
    words += " Yellow: yes." if any(map(_truths, rows.values())) else ""
    words += f" A token wears the colour of its {first}." if first else ""
    words += " Each number stands in its box; point at a token for all of them."
    meaning = html.escape(f"{words} {note}".strip())
    page = f"<div style='color: {INK}; background: #fff; padding: .3em'>{''.join(parts)}<p style='max-width: 60em'>{meaning}</p></div>"
    return View(page, _strip_text(tokens, said, note))


def strip_of(sample: dict) -> View:
    """The strip of one completion that PPO sampled, from `ppo.tell` or from the `samples` of PPO's metrics.

    Raises:
        ValueError: a sample of another stage, which has no tokens.
    """
    if "tokens" not in sample:
        raise ValueError("this sample was not told token by token; only PPO's whole steps have such samples")
    names = {"log-ratio": "log_ratio", "reward": "reward", "value": "value", "advantage": "advantage", "clipped": "clipped"}
    note = (
        "Log-ratio: log pi/pi_ref of the token, nats. Reward: -beta times that, and on the last token the score too. "
        "Advantage: normalised. Clipped: left the clip on the side that pays, so that its gradient is zero."
    )
    return strip(sample["tokens"], {name: sample[key] for name, key in names.items()}, note)


def _truths(row: Sequence) -> bool:
    return any(isinstance(each, bool) for each in row)


def _said(value: float | bool | None) -> str:
    if value is None:
        return "–"
    return ("yes" if value else "no") if isinstance(value, bool) else f"{value:+.2f}"


def _visible(token: str) -> str:
    return token.replace("\n", "⏎") or "(empty)"


def _box(tag: str, cell: str, title: str, value: float | bool | None, top: float) -> str:
    """One box, whose cell and title are HTML already; coloured by its value's share of `top`."""
    strength = 0.0 if value is None else min(abs(value) / top, 1.0) * 0.55
    colour = _YES if isinstance(value, bool) else _ABOVE if (value or 0) >= 0 else _BELOW
    style = f"padding: .2em .45em; text-align: center; white-space: pre; background: rgba({colour}, {strength:.2f})"
    hover = f' title="{title}"' if title else ""
    return f"<{tag} style='{style}'{hover}>{cell}</{tag.split()[0]}>"


def _strip_text(tokens: Sequence[str], said: dict[str, list[str]], note: str) -> str:
    width = max([len(repr(token)) for token in tokens] + [5])
    lines = [" ".join([f"{'token':{width}}", *(f"{name:>10}" for name in said)])]
    for t, token in enumerate(tokens):
        lines.append(" ".join([f"{token!r:{width}}", *(f"{row[t]:>{max(len(name), 10)}}" for name, row in said.items())]))
    return "\n".join(lines + ([note] if note else []))


# ---------------------------------------------------------------------------------------------- pairs that tell


def pairs(records: Sequence[dict], margins: Sequence[float] | Tensor, count: int = 3) -> View:
    """A reward model's surest pairs, its worst mistakes, and those it cannot tell apart.

    Args:
        records: pairs with prompt, chosen, rejected; gold_chosen and gold_rejected are shown where they are there.
        margins: score(chosen) - score(rejected) of each, in log-odds, as `evaluate.pair_margins` gives them.
        count: pairs of each kind, at most.

    Raises:
        ValueError: not one margin a pair.
    """
    margins = [float(margin) for margin in margins]
    if len(records) != len(margins):
        raise ValueError(f"{len(records)} pairs but {len(margins)} margins; give one margin a pair")
    order = sorted(range(len(margins)), key=lambda i: -margins[i])
    kinds = {
        "Surest and as labelled: the highest margins": [i for i in order if margins[i] > 0][:count],
        "Surest and against the label: the most negative margins. Is the model wrong, or the label?": [
            i for i in reversed(order) if margins[i] < 0
        ][:count],
        "Most disputed: the margins nearest to 0": sorted(order, key=lambda i: abs(margins[i]))[:count],
    }
    parts, lines = [], []
    for title, chosen in kinds.items():
        table = [["prompt", "chosen", "rejected", "margin", "P(chosen wins)"]]
        lines += [title]
        for i in chosen:
            record, margin = records[i], margins[i]
            cells = [last_message(record["prompt"]), _with_gold(record, "chosen"), _with_gold(record, "rejected")]
            chance = f"{torch.tensor(margin).sigmoid().item():.0%}"
            table.append([*map(html.escape, cells), f"{margin:+.2f}", chance])
            lines += [f"  margin {margin:+.2f}, P {chance}: {cells[0]}", f"    chosen:   {cells[1]}", f"    rejected: {cells[2]}"]
        if not chosen:
            lines += ["  none"]
        parts.append(_table(table, f"<b>{html.escape(title)}</b>") if chosen else f"<p><b>{html.escape(title)}</b>: none.</p>")
    return View(f"<div>{''.join(parts)}</div>", "\n".join(lines))


def _with_gold(record: dict, side: str) -> str:
    gold = record.get(f"gold_{side}")
    return f"{record[side]}" + ("" if gold is None else f" [gold {gold:.2f}]")


# ---------------------------------------------------------------------------------------------- the two workflows

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
    graph, reward, ppo = _graph("ppo"), _stage("reward", "2  Reward model", "r"), _stage("ppo", "3  PPO")
    _until_pairs(graph, reward)
    _model(reward, "reward", "Reward model\nr(x, y)", _REWARD)
    _learn(reward, "pairs", "reward", " preference loss")
    _model(ppo, "reference", "Reference π_ref\nfrozen", _FROZEN)
    _model(ppo, "policy", "Policy π", _MODEL)
    _model(ppo, "value", "Value head V\non π's hidden states,\nstarts at 0", _MODEL)
    _data(ppo, "prompts", "Prompts\nx alone, no answers")
    _work(ppo, "answers", "An answer y to each x,\nsampled from π")
    _work(ppo, "update", "PPO step\nreward = r(x, y) at the end - β log π/π_ref\nadvantages by GAE, clipped objective", _PPO_STEP)
    ppo.edge("policy", "answers", " samples")
    ppo.edge("prompts", "answers", " x")
    ppo.edge("answers", "update", " y")
    ppo.edge("reference", "update", " log π_ref(y)")
    ppo.edge("value", "update", " V")
    _learn_back(ppo, "update", "policy")
    _learn_back(ppo, "update", "value")
    graph.subgraph(reward)
    graph.subgraph(ppo)
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
    graph, words = DIAGRAMS[name][0](), html.escape(DIAGRAMS[name][1])
    svg = _by_dot(graph) or _by_pygraphviz(graph) or _committed(name, graph)
    if svg is None:
        return View(f"<figure aria-label='{words}'><pre>{html.escape(graph.source)}</pre></figure>", graph.source)
    svg = svg[svg.index("<svg") :]  # without the XML head, which has no place inside a page
    svg = re.sub(r'width="(\d+)pt" height="\d+pt"', r'style="width: 100%; max-width: \1pt; height: auto"', svg, count=1)
    return View(f"<div role='img' aria-label='{words}' style='background: #fff'>{svg}</div>", graph.source)


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
