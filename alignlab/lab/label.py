"""The annotator's desk: label pairs by hand, then train a reward model and DPO on your own labels and see where they leave gold.

    desk = label.Desk(pairs[:40], "labels.jsonl", rule=rules.prefers_short)
    desk                                                  # the last line of a cell: shows it
    aligned = taste.align(desk, reference)

The desk is a list of labels and one function that says which pair comes next; the widgets only press its methods. What it writes is
an ordinary preference file, so `alignlab run --data labels.jsonl --model ...` reads it too.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from statistics import median
from typing import NamedTuple

import ipywidgets

from alignlab.errors import UserError
from alignlab.files import fingerprint, read_lines, write_lines
from alignlab.lab.page import bundle, render
from alignlab.lab.rules import Rule, verdict
from alignlab.lab.screen import Screen, words
from alignlab.records import read_preferences
from alignlab.talks import Text

GAP = 5  # labels at least between a pair and its repeat, while there are new pairs to put between

# ---------------------------------------------------------------------------------------------- the desk


class Question(NamedTuple):
    """A pair as it is shown."""

    prompt: Text
    a: str
    b: str
    repeat: bool  # for the second time, with the sides swapped


class Label(NamedTuple):
    """What was said of a question."""

    question: Question
    answer: str  # "a", "b", "tie" or "skip"
    seconds: float | None  # from its being shown to the answer; None where nobody looked
    by: str  # "hand", or the name of a rule

    @property
    def key(self) -> tuple[str, frozenset[str]]:
        """Which pair it is about."""
        return _key(self.question.prompt, self.question.a, self.question.b)

    @property
    def chosen(self) -> str | None:
        """The preferred completion; None for a tie or a skip."""
        return {"a": self.question.a, "b": self.question.b}.get(self.answer)


class Desk:
    """Pairs to label, the labels so far, and the question that is open now; all of it is on disk after each label.

    Preferences go to `path`, as `read_preferences` reads them, with side, repeat, seconds, by and order besides; ties and skips, which
    prefer nothing, to a second file beside it (`labels.other.jsonl`). A desk on a file with labels of its pairs resumes there.

    Args:
        pairs: records with prompt, chosen, rejected and, where known, gold_chosen, gold_rejected, as in data/preferences.jsonl or from
            `pairs.sample_pairs`. Which was chosen is not shown, and a coin decides which stands left. A pair given
            twice counts once; pairs of equal or empty completions carry no information and are left out.
        path: the label file.
        rule: what to label by, shown as a hint; `play` follows it.
        repeats: in [0, 1]; the share of preferences that is asked again later, sides swapped, to see how consistent you are.
        seed: sides, and which pairs are repeated.
        fresh: start over; the labels in the file are removed.

    Raises:
        UserError: the file holds something else.
    """

    def __init__(
        self, pairs: Sequence[dict], path: str | Path, rule: Rule | None = None, repeats: float = 0.15, seed: int = 0, fresh: bool = False
    ):
        if not 0 <= repeats <= 1:
            raise ValueError(f"repeats must lie in [0, 1], got {repeats}")
        self.pairs = {_key(pair["prompt"], pair["chosen"], pair["rejected"]): pair for pair in pairs if _differ(pair)}
        if not self.pairs:
            raise UserError("no pairs to label; give records with prompt, chosen and rejected")
        self.path, self.rule, self.repeats, self.seed = Path(path), rule, repeats, seed
        self.other_path = self.path.with_name(f"{self.path.stem}.other.jsonl")
        coin = Random(seed)
        self._sides = {key: coin.random() < 0.5 for key in self.pairs}  # whether the chosen one stands left
        if fresh:
            self._written()  # raises where they are not a desk's to remove
            self.path.unlink(missing_ok=True)
            self.other_path.unlink(missing_ok=True)
        self.labels: list[Label] = self._read()
        self._on_disk = fingerprint(self.path, self.other_path)
        self._screen: Screen | None = None
        self._shown_at: float | None = None  # until somebody looks, no time runs
        self.current: Question | None = self._next()

    # ------------------------------------------------------------------------------------------ answering

    def choose(self, side: str) -> None:
        """Prefer the left completion, "a", or the right one, "b"."""
        if side not in ("a", "b"):
            raise ValueError(f"choose 'a' or 'b', got {side!r}; there are tie() and skip() too")
        self._answer(side)

    def tie(self) -> None:
        """Both are equally good: recorded, but no preference."""
        self._answer("tie")

    def skip(self) -> None:
        """No answer to this one: recorded, but no preference."""
        self._answer("skip")

    def undo(self) -> None:
        """Take the last label back; its question is open again."""
        if not self.labels:
            raise ValueError("there is no label to undo")
        self._keep(self.labels[:-1])

    def play(self, count: int | None = None) -> "Desk":
        """Label by the rule, as a learner would who follows it: `count` questions, or all; returns the desk.

        Raises:
            UserError: the file holds labels that were played by another rule, or the rule says neither "a" nor "b" nor "tie".
        """
        if self.rule is None:
            raise ValueError("this desk has no rule to play; make it with rule=rules.prefers_short or another")
        name = getattr(self.rule, "__name__", "rule")
        if others := {label.by for label in self.labels} - {"hand", name}:
            raise UserError(f"{self.path}: holds labels by {min(others)}; give the desk another path, or fresh=True to start over")
        target = None if count is None else len(self.labels) + count
        while self.current is not None and len(self.labels) != target:
            self._answer(verdict(self.rule, *self.current[:3]), by=name)
        return self

    @property
    def done(self) -> bool:
        """Whether every question has its label."""
        return self.current is None

    @property
    def progress(self) -> tuple[int, int]:
        """Labels so far, of how many; a tie or a skip is not asked again, so the second number can fall."""
        lost = sum(label.chosen is None for label in self.labels if not label.question.repeat)
        return len(self.labels), len(self.pairs) + int(self.repeats * (len(self.pairs) - lost))

    # ------------------------------------------------------------------------------------------ what comes of it

    def preferences(self) -> list[dict]:
        """The label file's records: prompt, chosen, rejected and more."""
        return [self._record(order, label) for order, label in enumerate(self.labels) if label.chosen is not None]

    def statistics(self) -> dict:
        """labels, ties, skips; agreement with gold and consistency as [share, low, high], 95%; median seconds a label. None: unknown.

        Agreement is over first labels of pairs whose gold values are known and differ; consistency over pairs that were preferred
        twice: the share where the same completion won both times.
        """
        firsts = {label.key: label.chosen for label in self.labels if not label.question.repeat}
        same = [label.chosen == firsts[label.key] for label in self.labels if label.question.repeat and label.chosen is not None]
        margins = [gold_margin(record) for record in self.preferences() if not record["repeat"]]
        right = [margin > 0 for margin in margins if margin]  # neither unknown nor 0
        seconds = [label.seconds for label in self.labels if label.seconds is not None]
        answers = [label.answer for label in self.labels]
        return {
            "labels": answers.count("a") + answers.count("b"), "ties": answers.count("tie"), "skips": answers.count("skip"),
            "agreement": share(sum(right), len(right)), "consistency": share(sum(same), len(same)),
            "seconds": median(seconds) if seconds else None,
        }  # fmt: skip

    # ------------------------------------------------------------------------------------------ how it works

    def _next(self) -> Question | None:
        """The question that follows the labels so far: a repeat where one is due, else the next new pair. Nothing else decides."""
        firsts = {label.key: label.question for label in self.labels if not label.question.repeat}
        again = {label.key for label in self.labels if label.question.repeat}
        preferred = [label.key for label in self.labels if not label.question.repeat and label.chosen is not None]
        fresh = next((key for key in self.pairs if key not in firsts), None)
        if len(again) < int(self.repeats * len(preferred)):
            unasked = [key for key in preferred if key not in again]
            ready = [key for key in unasked if key in preferred[:-GAP]] or (unasked if fresh is None else [])
            if ready:
                before = firsts[Random(f"{self.seed} {len(self.labels)}").choice(ready)]
                return Question(before.prompt, before.b, before.a, True)
        if fresh is None:
            return None
        pair = self.pairs[fresh]
        a, b = (pair["chosen"], pair["rejected"]) if self._sides[fresh] else (pair["rejected"], pair["chosen"])
        return Question(pair["prompt"], a, b, False)

    def _answer(self, answer: str, by: str = "hand") -> None:
        if self.current is None:
            raise ValueError("every pair has its label; make a desk with more pairs, or undo()")
        seconds = None if self._shown_at is None or by != "hand" else round(time.perf_counter() - self._shown_at, 2)
        self._keep([*self.labels, Label(self.current, answer, seconds, by)])

    def _keep(self, labels: list[Label]) -> None:
        """Make these the labels, one more or one fewer than before: on disk, then here, then on the screen."""
        if fingerprint(self.path, self.other_path) != self._on_disk:
            raise UserError(f"{self.path}: changed since this desk read it; create the desk again, so that no label is lost")
        moved = max(labels, self.labels, key=len)[-1]
        if moved.chosen is None:
            _replace(self.other_path, [self._record(order, label) for order, label in enumerate(labels) if label.chosen is None])
        else:
            _replace(self.path, [self._record(order, label) for order, label in enumerate(labels) if label.chosen is not None])
        self._on_disk = fingerprint(self.path, self.other_path)
        self.labels = labels
        self.current = self._next()
        if self._screen is not None:
            self._shown_at = time.perf_counter()
            self._screen.refresh()

    def _record(self, order: int, label: Label) -> dict:
        """One line of a label file."""
        question, pair = label.question, self.pairs[label.key]
        gold = {pair[name]: pair.get(f"gold_{name}") for name in ("chosen", "rejected")}
        about = {"repeat": question.repeat, "seconds": label.seconds, "by": label.by, "order": order}
        if label.chosen is None:
            return {"prompt": question.prompt, "a": question.a, "b": question.b, "answer": label.answer, **about}
        rejected = question.b if label.answer == "a" else question.a
        known = {f"gold_{name}": gold[text] for name, text in (("chosen", label.chosen), ("rejected", rejected)) if gold[text] is not None}
        return {"prompt": question.prompt, "chosen": label.chosen, "rejected": rejected, "side": label.answer, **known, **about}

    def _written(self) -> list[dict]:
        """The label file's records, all of them a desk's."""
        records = read_preferences(self.path) if self.path.is_file() else []
        if any("side" not in record or "order" not in record for record in records):
            raise UserError(f"{self.path}: holds preferences that no desk wrote; give the desk a path of its own")
        return records

    def _read(self) -> list[Label]:
        """The labels of both files, in the order in which they were given."""
        records = self._written()
        try:
            records += list(read_lines(self.other_path))
            labels, seen = [], set()
            for record in sorted(records, key=lambda record: record["order"]):
                answer = record["side"] if "side" in record else record["answer"]
                sides = {"a": ("chosen", "rejected"), "b": ("rejected", "chosen")}.get(answer, ("a", "b"))
                a, b = (record[name] for name in sides)
                key = _key(record["prompt"], a, b)
                labels.append(Label(Question(record["prompt"], a, b, key in seen), answer, record["seconds"], record["by"]))
                seen.add(key)
        except (ValueError, KeyError) as error:
            raise UserError(f"{self.path} or {self.other_path.name}: damaged ({error}); remove both, or give another path") from None
        if not seen <= set(self.pairs):
            raise UserError(f"{self.path}: holds labels of other pairs; give the desk another path, or the pairs it began with")
        return labels

    # ------------------------------------------------------------------------------------------ on the screen

    def widget(self) -> ipywidgets.Box:
        """The pair, buttons, a field for keys, progress: one box, however often it is asked for."""
        if self._screen is None:
            self._screen = Screen(self)
            self._shown_at = time.perf_counter()
        return self._screen.box

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict:
        """The widget; where widgets cannot live, the same in text."""
        text = "\n".join(self._lines())
        return bundle(text, render("preformatted", text=text, style="white-space: pre-wrap; margin: 0"), self.widget())

    def _lines(self) -> list[str]:
        """The desk as plain text."""
        lines = [self.task, self.state]
        if self.current is not None:
            lines += [words(self.current.prompt), f"A: {self.current.a}", f"B: {self.current.b}"]
            lines += ["Without live controls: desk.choose('a'), desk.choose('b'), desk.tie(), desk.skip(), desk.undo()."]
        return lines

    @property
    def task(self) -> str:
        """What to do, in a line."""
        return "Which answer is better?" if self.rule is None else f"Your rule: {(self.rule.__doc__ or self.rule.__name__).splitlines()[0]}"

    @property
    def state(self) -> str:
        """Progress and statistics, in a line."""
        told, (given, total) = self.statistics(), self.progress
        parts = [f"{given} of {total} labelled", f"ties {told['ties']}", f"skipped {told['skips']}"]
        for name, title in (("agreement", "agreement with gold"), ("consistency", "same answer to a repeat")):
            if told[name] is not None:
                parts.append(f"{title} {percent(told[name])}")
        if told["seconds"] is not None:
            parts.append(f"median {told['seconds']:.1f} s a label")
        return ("All done: " if self.done else "") + ", ".join(parts)


def _key(prompt: Text, one: str, other: str) -> tuple[str, frozenset[str]]:
    """A pair, whichever side its completions stand on."""
    return json.dumps(prompt, sort_keys=True), frozenset((one, other))


def _differ(pair: dict) -> bool:
    """Whether a pair has two different completions."""
    return bool(pair["chosen"].strip() and pair["rejected"].strip()) and pair["chosen"] != pair["rejected"]


def gold_margin(record: dict) -> float | None:
    """Gold of the chosen less gold of the rejected completion; None where it is not known."""
    return record["gold_chosen"] - record["gold_rejected"] if "gold_chosen" in record and "gold_rejected" in record else None


def _replace(path: Path, records: Sequence[dict]) -> None:
    """Write a JSON Lines file in one step; no records, no file."""
    if records:
        write_lines(path, records)
    else:
        path.unlink(missing_ok=True)


def share(right: int, count: int) -> list[float] | None:
    """[share, low, high] with Wilson's 95% interval, which holds for a handful of labels too; None of 0.

    >>> [round(value, 2) for value in share(9, 10)]
    [0.9, 0.6, 0.98]
    """
    if count == 0:
        return None
    z, mean = 1.96, right / count
    centre, width = mean + z**2 / (2 * count), z * (mean * (1 - mean) / count + z**2 / (4 * count**2)) ** 0.5
    return [mean, max((centre - width) / (1 + z**2 / count), 0.0), min((centre + width) / (1 + z**2 / count), 1.0)]


def percent(measured: Sequence[float]) -> str:
    value, low, high = measured
    return f"{value:.0%} ({low:.0%} to {high:.0%})"


def shown(measured: Sequence[float] | None) -> str:
    return "-" if measured is None else "{:.2f} ({:.2f} to {:.2f})".format(*measured)
