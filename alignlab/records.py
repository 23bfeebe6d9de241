"""Reading and checking records: preference pairs, demonstrations and prompts, from files or from the hub.

A row that is malformed stops the reading, and all malformed rows are counted in one pass. A row that is well formed but has
nothing to teach (an empty answer, chosen equal to rejected) is left out and counted.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from alignlab.errors import UserError
from alignlab.sources import Malformed, rows, shown
from alignlab.talks import EQUAL_ANSWERS, Text, Unteachable, beside_prompt, canonical, completion, is_talk, part, text_or_messages, turns_of

Say = Callable[[str], None]

SHOWN = 5  # rows that a message names

EMPTY_PROMPT = "an empty prompt"

# Columns of common preference sets that do not follow prompt / chosen / rejected, and what to do about each.
LAYOUTS = (
    ({"question", "chosen", "rejected"}, "Orca DPO pairs", "add --columns prompt=question"),
    ({"instruction", "chosen_response", "rejected_response"}, "distilabel's pairs",
     "add --columns prompt=instruction,chosen=chosen_response,rejected=rejected_response"),
    ({"prompt", "response_0", "response_1"}, "PKU-SafeRLHF", "write the better response as chosen, the other as rejected"),
    ({"history", "human_ref_A", "human_ref_B"}, "SHP",
     "write history as prompt, and human_ref_A and human_ref_B as chosen and rejected in the order that labels gives"),
    ({"info", "summaries", "choice"}, "summarize_from_feedback", "write the summary named by choice as chosen, the other as rejected"),
    ({"question", "answer_0", "answer_1"}, "WebGPT comparisons", "write the answer of higher score as chosen, the other as rejected"),
    ({"prompt", "answers"}, "Nectar", "write the best-ranked answer as chosen, another as rejected"),
    ({"instruction", "completions"}, "UltraFeedback before binarising",
     "use its binarised form, or write two completions as chosen and rejected"),
    ({"prompt", "completion", "label"}, "KTO's single labels", "DPO and reward models need two answers to one prompt"),
    ({"instruction", "output"}, "Alpaca's demonstrations", "for demonstrations add --columns prompt=instruction,completion=output"),
    ({"prompt", "response"}, "prompt and response", "for demonstrations add --columns completion=response"),
    ({"messages"}, "conversations", "for demonstrations write all but the last turn as prompt, the last as completion"),
    ({"conversations"}, "conversations", "for demonstrations write all but the last turn as prompt, the last as completion"),
)  # fmt: skip


@dataclass
class Reading:
    """What a source held: its records, where each stood, and what was left out."""

    source: str
    records: list[dict] = field(default_factory=list)
    places: list[str] = field(default_factory=list)  # of each record, such as "line 7"
    left_out: dict[str, list[str]] = field(default_factory=dict)  # places by kind

    @property
    def rows(self) -> int:
        """All rows, those that were left out included."""
        return len(self.records) + sum(map(len, self.left_out.values()))

    def leave_out(self, kinds: Sequence[str | None]) -> None:
        """Take out the records that `kinds` gives a reason for; None keeps one."""
        records, places, self.records, self.places = self.records, self.places, [], []
        for record, place, kind in zip(records, places, kinds, strict=True):
            if kind is None:
                self.records.append(record)
                self.places.append(place)
            else:
                self.left_out.setdefault(kind, []).append(place)

    def summary(self) -> str:
        """How many rows were left out, of each kind, and the first places; "" if none."""
        if not self.left_out:
            return ""
        kinds = "; ".join(f"{len(places)} with {kind} ({_list(places)})" for kind, places in self.left_out.items())
        count = self.rows - len(self.records)
        return f"{self.source}: {count} of {self.rows} rows left out: {kinds}"

    def check(self, strict: bool, say: Say) -> None:
        """Report what was left out since the last report.

        Raises:
            UserError: something was left out and `strict` is set, or more than half was left out.
        """
        if not self.left_out:
            return
        if strict:
            raise UserError(f"{self.summary()}; remove these rows, or leave out --strict")
        if 2 * len(self.records) < self.rows:
            raise UserError(f"{self.summary()}; that is more than half, so this is probably not the data you meant")
        say(self.summary())
        self.left_out = {}


def _list(places: Sequence[str]) -> str:
    more = f", and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
    return ", ".join(places[:SHOWN]) + more


# ---------------------------------------------------------------------------------------------- the three kinds of record


def read_preferences(source: str | Path, *, strict: bool = False, say: Say = print, **options) -> list[dict]:
    """Preference pairs, checked: dicts with `prompt` (a string, or a list of messages), `chosen` and `rejected` (strings).

    `source` is a file (JSON Lines, a JSON array, CSV, TSV or Parquet, also compressed), a folder of such files, or the name of a
    hub set. A row has `prompt`, `chosen` and `rejected`, or only `chosen` and `rejected` as two whole conversations or HH-RLHF
    transcripts, whose common beginning is the prompt. A `system` column becomes the system message. Other columns are kept where
    JSON can hold them; nothing is learned from them.

    Args:
        strict: refuse rows that have nothing to teach; otherwise they are left out and counted.
        say: called with the summary of what was left out.
        options: see `read`.

    Raises:
        UserError: naming the source, the rows and the cure.
    """
    return _checked(read(source, _preference, **options), strict, say)


def read_demonstrations(source: str | Path, *, strict: bool = False, say: Say = print, **options) -> list[dict]:
    """Demonstrations, checked: dicts with `prompt` and `completion`. Arguments and errors as in `read_preferences`."""
    return _checked(read(source, _demonstration, **options), strict, say)


def read_prompts(source: str | Path, *, strict: bool = False, say: Say = print, **options) -> list[Text]:
    """The `prompt` of each record, checked. Arguments and errors as in `read_preferences`."""
    return [record["prompt"] for record in _checked(read(source, _prompt_only, **options), strict, say)]


def preferences(source: str | Path, **options) -> Reading:
    """`read_preferences` before anything is said: with the place of each record, and what was left out."""
    return read(source, _preference, **options)


def demonstrations(source: str | Path, **options) -> Reading:
    """The same of demonstrations."""
    return read(source, _demonstration, **options)


def _checked(reading: Reading, strict: bool, say: Say) -> list[dict]:
    reading.check(strict, say)
    return reading.records


def read(
    source: str | Path,
    check: Callable[[dict], dict],
    *,
    split: str | None = None,
    config: str | None = None,
    columns: dict[str, str] | None = None,
    limit: int | None = None,
) -> Reading:
    """All records of a source that pass `check`, which may raise Malformed or Unteachable.

    Args:
        split, config: of a hub set; `split` also chooses among the files of a folder. By default "train", and the only config.
        columns: our name -> the name in the source, for sources that call them otherwise.
        limit: read only the first so many rows.

    Raises:
        UserError: nothing there, or malformed rows, all of them counted.
    """
    reading, faults, seen = Reading(shown(source)), [], 0
    for place, row in rows(source, split, config):
        if limit is not None and seen >= limit:
            break
        seen += 1
        try:
            if isinstance(row, Malformed):
                raise row
            reading.records.append(check(_plain(row, columns or {})))
            reading.places.append(place)
        except Unteachable as kind:
            reading.left_out.setdefault(str(kind), []).append(place)
        except Malformed as fault:
            faults.append((place, str(fault)))
        except RecursionError:
            faults.append((place, "nested too deeply; write plain strings or a flat list of messages"))
    if len(faults) == 1:
        place, words = faults[0]
        raise UserError(f"{shown(source)}, {place}: {words}")
    if faults:
        first = "; ".join(f"{place}: {words}" for place, words in faults[:SHOWN])
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise UserError(f"{shown(source)}: {len(faults)} of {seen} rows are malformed: {first}{more}")
    if not seen:
        raise UserError(f"{shown(source)}: no records; write one object per line")
    return reading


# ---------------------------------------------------------------------------------------------- one record


def _plain(row: dict, columns: dict[str, str]) -> dict:
    """A row under our column names, without the columns that JSON cannot hold (bytes, dates, NaN)."""
    if missing := [theirs for theirs in columns.values() if theirs not in row]:
        raise Malformed(f"there is no column {missing[0]!r}; the columns are {', '.join(map(shown, row))}")
    renamed = {ours: row[theirs] for ours, theirs in columns.items()}
    row = {name: value for name, value in row.items() if name not in columns.values()} | renamed
    needed = {"prompt", "chosen", "rejected", "completion", "system"}
    kept = {name: value for name, value in row.items() if name in needed or _fits_json(value)}
    if not _is_unicode(kept):
        raise Malformed("half of a character (a lone surrogate such as \\ud83d); write the whole one")
    return kept


def _fits_json(value) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _is_unicode(row: dict) -> bool:
    """Whether all strings can be written as UTF-8."""
    try:
        return bool(json.dumps(row, ensure_ascii=False, default=str).encode())
    except UnicodeEncodeError:
        return False


def _column(row: dict, name: str):
    if name in row:
        return row[name]
    raise Malformed(f"field {name!r} is missing; it has {sorted(map(str, row))}{_known_layout(row)}")


def _known_layout(row: dict) -> str:
    return next((f": this is the layout of {title}; {cure}" for names, title, cure in LAYOUTS if names <= set(row)), "")


def _preference(row: dict) -> dict:
    chosen, rejected = (text_or_messages(_column(row, name), name) for name in ("chosen", "rejected"))
    if "prompt" in row and (_holds_text(row["prompt"]) or not (is_talk(chosen) and is_talk(rejected))):
        prompt, chosen, rejected = beside_prompt(_prompt(row["prompt"]), chosen, rejected)
    elif _known_layout(row) and "prompt" not in row:
        _column(row, "prompt")
    else:
        prompt, chosen, rejected = part(chosen, rejected)
    chosen, rejected = completion(chosen, "chosen", prompt), completion(rejected, "rejected", prompt)
    if chosen == rejected:
        raise Unteachable(EQUAL_ANSWERS)
    return _without_system(row) | {"prompt": _with_system(row, prompt), "chosen": chosen, "rejected": rejected}


def _demonstration(row: dict) -> dict:
    prompt = _prompt(_column(row, "prompt"))
    answer = completion(text_or_messages(_column(row, "completion"), "completion"), "completion", prompt)
    return _without_system(row) | {"prompt": _with_system(row, prompt), "completion": answer}


def _holds_text(prompt) -> bool:
    return bool(prompt.strip() if isinstance(prompt, str) else prompt)


def _prompt_only(row: dict) -> dict:
    return {"prompt": _with_system(row, _prompt(_column(row, "prompt")))}


def _prompt(value) -> Text:
    """A checked prompt: a string as it is, or messages reduced to role and content."""
    prompt = text_or_messages(value, "prompt")
    if not any(message["content"].strip() for message in turns_of(prompt)):
        raise Unteachable(EMPTY_PROMPT)
    return prompt


def _with_system(row: dict, prompt: Text) -> Text:
    """The prompt with the row's `system` column as its first message."""
    system = row.get("system")
    if system is None or system == "":
        return prompt
    if not isinstance(system, str):
        raise Malformed("system must be a string")
    if not system.strip():
        return prompt
    turns = turns_of(prompt)
    if turns and turns[0]["role"] == "system":
        if turns[0]["content"].strip() != system.strip():
            raise Malformed("the system column and the prompt's own system message differ; keep one of them")
        return turns
    return [{"role": "system", "content": system}, *turns]


def _without_system(row: dict) -> dict:
    return {name: value for name, value in row.items() if name != "system"}


# ---------------------------------------------------------------------------------------------- bundled data, held-out prompts

PACKAGE_DATA = Path(__file__).parent / "_data"  # where the wheel puts it


def data_folder() -> Path:
    """The bundled data: inside an installed package, or `data/` of a clone."""
    return PACKAGE_DATA if PACKAGE_DATA.is_dir() else Path(__file__).parent.parent / "data"


def split_by_prompt(
    records: Sequence[dict], test_share: float, seed: int, key: Callable[[Text], str] = canonical
) -> tuple[list[dict], list[dict]]:
    """Train and test parts that share no prompt; each non-empty where there are two prompts or more.

    `key` says which prompts are the same: by default those with the same turns; `prompt_text` of a tokenizer, what a model reads.
    """
    keys = [key(record["prompt"]) for record in records]
    prompts = sorted(set(keys))
    if len(prompts) < 2:
        raise UserError("all records have one prompt; held-out judging needs at least two different prompts")
    rng = Random(seed)
    prompts.sort(key=lambda prompt: rng.random())
    test = set(prompts[: min(max(1, round(test_share * len(prompts))), len(prompts) - 1)])
    parts: tuple[list[dict], list[dict]] = ([], [])
    for record, prompt in zip(records, keys, strict=True):
        parts[prompt in test].append(record)
    return parts
