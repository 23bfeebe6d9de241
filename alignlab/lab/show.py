"""Static views: answers side by side, tokens with their numbers, pairs that tell.

A terminal shows the same as plain text.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from alignlab import world
from alignlab.encoding import last_message
from alignlab.lab.page import View, render
from alignlab.lab.view import COLOURS, INK, NAMES
from alignlab.talks import Text

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
        kls: KL to the reference, nats per completion.

    Raises:
        ValueError: no answers, or numbers for a name that has none.
    """
    if not texts:
        raise ValueError("no answers to show; give {name: text}")
    question = last_message(prompt)
    if parts is None:
        parts = {name: world.gold_parts(question, text) for name, text in texts.items()} if _of_the_world(question) else {}
    scores, kls = scores or {}, kls or {}
    for what, given in {"parts": set(parts), "scores": set(scores), "kls": set(kls)}.items():
        if unknown := sorted(given - set(texts)):
            raise ValueError(f"{what} has {unknown}, which gave no answer; names are {sorted(texts)}")

    rows = {}  # head -> a number or None for each name
    for part in dict.fromkeys(part for each in parts.values() for part in each):
        weight = world.WEIGHTS.get(part)
        rows[f"{weight:g} × {part}" if weight else part] = [parts.get(name, {}).get(part) for name in texts]
    if parts and all(set(each) == set(world.WEIGHTS) for each in parts.values()):
        rows["= gold reward"] = [_gold(parts[name]) if name in parts else None for name in texts]
    for head, numbers in (("reward model's score", scores), ("KL to the reference, nats", kls)):
        if numbers:
            rows[head] = [numbers.get(name) for name in texts]

    names = [NAMES.get(name, name) for name in texts]
    shown = {head: ["–" if number is None else f"{number:z.2f}" for number in numbers] for head, numbers in rows.items()}
    heads = [{"name": name, "colour": COLOURS.get(key, INK)} for key, name in zip(texts, names, strict=True)]
    corner = "policy" if set(texts) & set(NAMES) else ""
    table = [["answer", *texts.values()], *([head, *numbers] for head, numbers in shown.items())]
    lines = [question]
    for column, (name, text) in enumerate(zip(names, texts.values(), strict=True)):
        told = "; ".join(f"{head} {each[column]}" for head, each in shown.items())
        lines += ["", f"{name}: {text}"] + ([f"    {told}"] if told else [])
    return View(render("table", caption=question, heads=[corner, *heads], rows=table), "\n".join(lines))


def _of_the_world(prompt: str) -> bool:
    try:
        world.read_request(prompt)
    except ValueError:
        return False
    return True


def _gold(parts: dict[str, float]) -> float:
    return sum(weight * parts[name] for name, weight in world.WEIGHTS.items())


# ---------------------------------------------------------------------------------------------- tokens with their numbers

_ABOVE, _BELOW, _YES = (0, 114, 178), (213, 94, 0), (240, 228, 66)  # blue, vermillion, yellow


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
    sizes = {name: [abs(each) for each in row if each is not None and math.isfinite(each)] for name, row in rows.items()}
    tops = {name: max(row, default=0) or 1 for name, row in sizes.items()}
    first = next((name for name, row in rows.items() if not _truths(row)), None)
    said = {name: [_said(each) for each in row] for name, row in rows.items()}
    words = "Blue: above 0. Orange: below 0. The stronger, the further from 0, on each row's own scale."
    words += " Yellow: yes." if any(map(_truths, rows.values())) else ""
    words += f" The box of a token has the colour of its {first}." if first else ""
    words += " Each number stands in its box; point at a token for all of them."
    shades = {name: [_shade(each, tops[name]) for each in row] for name, row in rows.items()}
    page = render(
        "strip",
        tokens=[token.replace("\n", "⏎") or "(empty)" for token in tokens],
        token_shades=shades[first] if first else [_shade(None, 1)] * len(tokens),
        titles=["; ".join([repr(token), *(f"{name} {said[name][t]}" for name in rows)]) for t, token in enumerate(tokens)],
        said=said,
        shades=shades,
        legend=f"{words} {note}".strip(),
    )
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
    return ("yes" if value else "no") if isinstance(value, bool) else f"{value:+z.2f}"


def _shade(value: float | bool | None, top: float) -> str:
    """The colour of a value's box: the closer to `top`, the stronger."""
    strength = 0.0 if value is None or math.isnan(value) else min(abs(value) / top, 1.0) * 0.55
    colour = _YES if isinstance(value, bool) else _ABOVE if (value or 0) >= 0 else _BELOW
    return "rgb({}, {}, {})".format(*(round(255 + (part - 255) * strength) for part in colour))  # on white, opaque: a theme may be dark


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
    tables: dict[str, list] = {title: [] for title in kinds}
    lines = []
    for title, chosen in kinds.items():
        lines += [title] if chosen else [title, "  none"]
        for i in chosen:
            record, margin = records[i], margins[i]
            cells = [last_message(record["prompt"]), _with_gold(record, "chosen"), _with_gold(record, "rejected")]
            chance = f"{torch.tensor(margin).sigmoid().item():.0%}"
            tables[title].append([*cells, f"{margin:+z.2f}", chance])
            lines += [f"  margin {margin:+z.2f}, P {chance}: {cells[0]}", f"    chosen:   {cells[1]}", f"    rejected: {cells[2]}"]
    return View(render("pairs", kinds=tables), "\n".join(lines))


def _with_gold(record: dict, side: str) -> str:
    gold = record.get(f"gold_{side}")
    return f"{record[side]}" + ("" if gold is None else f" [gold {gold:z.2f}]")
