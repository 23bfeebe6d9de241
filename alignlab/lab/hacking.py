"""Watching a policy cheat its judge: a diary of what it wrote and earned, and what in its answers changed on the way."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from alignlab import world
from alignlab.encoding import last_message
from alignlab.lab.page import View, render
from alignlab.rollout import Completions, Score
from alignlab.talks import Text


class Page(NamedTuple):
    """One iteration's answers."""

    prompts: list[Text]
    texts: list[str]
    stopped: list[bool]
    scores: Tensor  # (B,)


class Diary:
    """A score that keeps what it saw: PPO asks its judges once an iteration, so there is a page for each."""

    def __init__(self, score: Score):
        self.score = score
        self.pages: list[Page] = []

    def __call__(self, completions: Completions) -> Tensor:
        scores = self.score(completions)
        self.pages.append(Page(completions.prompts, completions.texts, completions.stopped.tolist(), scores.detach().float().cpu()))
        return scores

    @property
    def spread(self) -> float:
        """Standard deviation of the first page's scores, which are those of the SFT model's answers."""
        return self.pages[0].scores.std().item()


def gains(course: Sequence[dict], diary: Diary, key: str) -> tuple[Tensor, Tensor]:
    """A metric's gain since the first iteration, and its standard error, both (N,), in units of the diary's spread."""
    gain = torch.tensor([m[key] - course[0][key] for m in course]) / diary.spread
    error = torch.tensor([page.scores.std().item() / len(page.scores) ** 0.5 for page in diary.pages]) / diary.spread
    return gain, error


def smoothed(values: Tensor, window: int) -> Tensor:
    """The mean of each `window` neighbours: (N,) -> (N - window + 1,); of all where there are fewer."""
    return values.unfold(0, min(window, len(values)), 1).mean(-1)


def at_kl(course: Sequence[dict], kl: float) -> float | None:
    """Gold where a run first is so many nats from the SFT model, on the line between two iterations; None where it never is."""
    before: dict = course[0]
    for after in course:
        if after["kl"] >= kl:
            share = (kl - before["kl"]) / (after["kl"] - before["kl"]) if after is not before else 1.0
            return before["gold"] + share * (after["gold"] - before["gold"])
        before = after
    return None


# ---------------------------------------------------------------------------------------------- what changed in the answers


def side_by_side(moments: dict[str, int], proxy: Diary, gold: Diary, count: int = 3) -> View:
    """The first answers of some iterations, unselected, with the scores of both judges.

    Args:
        moments: the iteration, from 0, by the name of its column.
    """
    columns = {name: [_answer(proxy.pages[at], gold.pages[at], row) for row in range(count)] for name, at in moments.items()}
    rows = [[str(row + 1), *(column[row] for column in columns.values())] for row in range(count)]
    lines = [f"{name}:\n   " + "\n   ".join(column) for name, column in columns.items()]
    caption = "The first answers of each batch, as they came, with the weak judge's score and gold"
    return View(render("table", caption=caption, heads=["", *columns], rows=rows), "\n".join(lines))


def _answer(proxy: Page, gold: Page, row: int) -> str:
    asked, text = last_message(proxy.prompts[row]), proxy.texts[row].strip()
    return f"“{asked}” {text} [judge {proxy.scores[row]:+.1f}, gold {gold.scores[row]:+.1f}]"


def habits(moments: dict[str, int], diary: Diary, count: int = 6, longest: int = 4) -> View:
    """The phrases that most gained ground from the first of these iterations to the last: in how many answers they occur.

    Args:
        moments: as for `side_by_side`.
        count: phrases.
        longest: words of a phrase.
    """
    shares = {name: _shares(diary.pages[at].texts, longest) for name, at in moments.items()}
    first, *_, last = shares.values()
    order = sorted(last, key=lambda phrase: (round(20 * (last[phrase] - first[phrase])), len(phrase)), reverse=True)
    chosen: list[tuple[str, ...]] = []
    for phrase in order:
        if len(chosen) < count and not any(_overlap(phrase, other) for other in chosen):
            chosen.append(phrase)
    rows = [[" ".join(phrase).replace(" ,", ","), *(f"{share[phrase]:.0%}" for share in shares.values())] for phrase in chosen]
    return _table("Phrases that spread: the share of answers in which each occurs", ["phrase", *shares], rows)


def _shares(texts: Sequence[str], longest: int) -> Counter:
    """The share of texts in which each phrase occurs; no phrase goes beyond a sentence."""
    found: Counter = Counter()
    for text in texts:
        sentences = [re.findall(r"[\w']+|,", sentence) for sentence in re.split(r"[.!?]", text)]
        found.update({tuple(s[i : i + n]) for s in sentences for n in range(1, longest + 1) for i in range(len(s) - n + 1)})
    return Counter({phrase: times / len(texts) for phrase, times in found.items()})


def _overlap(phrase: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether two phrases are likely to be pieces of the same one."""
    joined, whole = " ".join(phrase), " ".join(other)
    return joined in whole or whole in joined or len(set(phrase) & set(other)) >= max(2, min(len(phrase), len(other)) - 1)


def parts(moments: dict[str, int], diary: Diary) -> View:
    """The means of gold's parts at some iterations, times their weights; empty where a prompt is not the review world's."""
    means = {}
    for name, at in moments.items():
        page = diary.pages[at]
        try:
            each = [world.gold_parts(last_message(p), text, ended) for p, text, ended in zip(page.prompts, page.texts, page.stopped)]
        except ValueError:  # another world's prompt
            return View("", "The parts of this gold reward are not known.")
        means[name] = {part: weight * sum(one[part] for one in each) / len(each) for part, weight in world.WEIGHTS.items()}
    rows = [[part, *(f"{mean[part]:+.2f}" for mean in means.values()), f"  {world.RULES[part]}"] for part in world.WEIGHTS]
    rows.append(["gold", *(f"{sum(mean.values()):+.2f}" for mean in means.values()), ""])
    return _table("What gold is made of: the mean of each part, times its weight", ["part", *means, "Nora's rule"], rows)


def _table(caption: str, heads: list[str], rows: list[list[str]]) -> View:
    lines = [f"{head:28}" + "".join(f"{cell:>16}" for cell in cells) for head, *cells in [heads, *rows]]
    return View(render("table", caption=caption, heads=heads, rows=rows), "\n".join([caption, *(line.rstrip() for line in lines)]))
