"""Reading and checking records: preference pairs, demonstrations and prompts, from files or from the hub.

A row that is malformed stops the reading, and all malformed rows are counted in one pass. A row that is well formed but has
nothing to teach (an empty answer, chosen equal to rejected) is left out and counted.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from alignlab.errors import UserError
from alignlab.sources import Malformed, rows

Text = str | list[dict]  # a prompt: a string, or a conversation of {role, content} messages
Say = Callable[[str], None]

SHOWN = 5  # rows that a message names

EMPTY_PROMPT, EMPTY_ANSWER, EQUAL_ANSWERS = "an empty prompt", "an empty answer", "chosen equal to rejected"

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


class Unteachable(Exception):
    """A well-formed row with nothing to learn from; its text is one of the kinds that the summary counts."""


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

    def leave_out(self, kind: str, unfit: Sequence[bool]) -> None:
        """Take out the records whose entry in `unfit` is true."""
        if any(unfit):
            self.left_out.setdefault(kind, []).extend(place for place, out in zip(self.places, unfit, strict=True) if out)
            kept = [(record, place) for record, place, out in zip(self.records, self.places, unfit, strict=True) if not out]
            self.records, self.places = [record for record, _ in kept], [place for _, place in kept]

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
    reading, faults, seen = Reading(str(source)), [], 0
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
        place, fault = faults[0]
        raise UserError(f"{source}, {place}: {fault}")
    if faults:
        shown = "; ".join(f"{place}: {fault}" for place, fault in faults[:SHOWN])
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise UserError(f"{source}: {len(faults)} of {seen} rows are malformed: {shown}{more}")
    if not seen:
        raise UserError(f"{source}: no records; write one object a line")
    return reading


# ---------------------------------------------------------------------------------------------- one record


def _plain(row: dict, columns: dict[str, str]) -> dict:
    """A row under our column names, without the columns that JSON cannot hold (bytes, dates, NaN)."""
    for ours, theirs in columns.items():
        if theirs not in row:
            raise Malformed(f"there is no column {theirs!r}; the columns are {', '.join(map(str, row))}")
        row = {**{name: value for name, value in row.items() if name != theirs}, ours: row[theirs]}
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
    chosen, rejected = _answer(_column(row, "chosen"), "chosen"), _answer(_column(row, "rejected"), "rejected")
    if row.get("prompt") is not None:
        prompt, chosen, rejected = _beside_prompt(_prompt(row["prompt"]), chosen, rejected)
    elif "prompt" in row and isinstance(chosen, str) and ASSISTANT not in chosen:
        raise Unteachable(EMPTY_PROMPT)
    elif _known_layout(row):
        _column(row, "prompt")
    else:
        prompt, chosen, rejected = _part(chosen, rejected)
    chosen, rejected = _completion(chosen, "chosen", prompt), _completion(rejected, "rejected", prompt)
    if chosen == rejected:
        raise Unteachable(EQUAL_ANSWERS)
    return _without_system(row) | {"prompt": _with_system(row, prompt), "chosen": chosen, "rejected": rejected}


def _demonstration(row: dict) -> dict:
    prompt = _prompt(_column(row, "prompt"))
    completion = _completion(_answer(_column(row, "completion"), "completion"), "completion", prompt)
    return _without_system(row) | {"prompt": _with_system(row, prompt), "completion": completion}


def _prompt_only(row: dict) -> dict:
    return {"prompt": _with_system(row, _prompt(_column(row, "prompt")))}


def _prompt(value) -> Text:
    """A checked prompt: a string as it is, or messages reduced to role and content."""
    if isinstance(value, str):
        if not value.strip():
            raise Unteachable(EMPTY_PROMPT)
        return value
    if isinstance(value, list | dict):
        prompt = _messages(value, "prompt")
        if not any(message["content"].strip() for message in prompt):
            raise Unteachable(EMPTY_PROMPT)
        return prompt
    if value is None:
        raise Unteachable(EMPTY_PROMPT)
    raise Malformed("prompt must be a string or a list of {role, content} messages")


def _answer(value, name: str) -> Text:
    """A string, or a list of messages."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list | dict):
        return _messages(value, name) if value else ""
    raise Malformed(f"{name} must be a string or one assistant message")


def _messages(value, name: str) -> list[dict]:
    """Messages reduced to role and content; content in text parts is joined.

    Raises:
        Malformed: not messages, or messages that are more than text.
    """
    messages = [value] if isinstance(value, dict) else value
    shape = f"{name} must be a string or a list of {{role, content}} messages"
    if not messages:
        raise Malformed(shape)
    plain = []
    for message in messages:
        if not isinstance(message, dict):
            raise Malformed(shape)
        if isinstance(message.get("from"), str) and "value" in message:  # ShareGPT
            message = {"role": SHAREGPT.get(message["from"], message["from"]), "content": message["value"]}
        if message.get("tool_calls") or message.get("function_call"):
            raise Malformed(f"{name} has a tool call; alignlab reads turns of text only, drop such rows")
        if not isinstance(message.get("role"), str) or "content" not in message:
            raise Malformed(shape)
        plain.append({"role": message["role"], "content": _content(message["content"], name)})
    return plain


SHAREGPT = {"human": "user", "gpt": "assistant"}


def _content(content, name: str) -> str:
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if not isinstance(content, list):
        raise Malformed(f"{name} must be a string or a list of {{role, content}} messages")
    texts = []
    for part in content:
        if isinstance(part, dict):
            kind = part.get("type", "text")
            if kind != "text" or not isinstance(part.get("text"), str):
                raise Malformed(f"{name} has a content part of type {kind!r}; alignlab reads text only, drop such rows")
            part = part["text"]
        if not isinstance(part, str):
            raise Malformed(f"{name} must be a string or a list of {{role, content}} messages")
        texts.append(part)
    return "".join(texts)


def _is_talk(value: Text) -> bool:
    """Whether an answer is a whole conversation rather than its last message."""
    return isinstance(value, list) and len(value) > 1


def _completion(completion: Text, name: str, prompt: Text) -> str:
    """The text of the answer to a prompt."""
    if isinstance(completion, list):
        completion = _after_prompt(completion, prompt)
        if len(completion) != 1 or completion[0]["role"] != "assistant":
            raise Malformed(f"{name} must be one assistant message after the prompt")
        completion = completion[0]["content"]
    if not completion.strip():
        raise Unteachable(EMPTY_ANSWER)
    return completion


def _after_prompt(talk: list[dict], prompt: Text) -> list[dict]:
    """What a conversation says after the prompt; a prompt that ends in the assistant's words may be finished in the same message."""
    asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if len(talk) > len(asked) and talk[: len(asked)] == asked:
        return talk[len(asked) :]
    head, last = asked[:-1], asked[-1]
    if last["role"] == "assistant" and len(talk) == len(asked) and talk[:-1] == head and talk[-1]["role"] == "assistant":
        if talk[-1]["content"].startswith(last["content"]):
            return [{"role": "assistant", "content": talk[-1]["content"].removeprefix(last["content"])}]
    return talk


def _with_system(row: dict, prompt: Text) -> Text:
    """The prompt with the row's `system` column as its first message."""
    system = row.get("system")
    if system is None or system == "":
        return prompt
    if not isinstance(system, str):
        raise Malformed("system must be a string")
    if not system.strip():
        return prompt
    messages = transcript_messages(prompt) if isinstance(prompt, str) else prompt
    first = messages[0] if messages else None
    if first and first["role"] == "system":
        if first["content"].strip() != system.strip():
            raise Malformed("the system column and the prompt's own system message differ; keep one of them")
        return messages
    return [{"role": "system", "content": system}, *messages]


def _without_system(row: dict) -> dict:
    return {name: value for name, value in row.items() if name != "system"}


# ---------------------------------------------------------------------------------------------- where two conversations part

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


def _part(chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
    """Prompt and answers of two whole conversations, or of two HH-RLHF transcripts: the prompt is their common beginning."""
    if isinstance(chosen, list) and isinstance(rejected, list):
        return _part_talks(chosen, rejected)
    if isinstance(chosen, str) and isinstance(rejected, str):
        for turn in reversed(list(re.finditer(re.escape(ASSISTANT), chosen))):
            end = turn.end()
            if rejected[:end] == chosen[:end]:
                return chosen[:end], chosen[end:].lstrip(" "), rejected[end:].lstrip(" ")
    raise Malformed(f"no `prompt`, and chosen and rejected share no beginning up to {ASSISTANT.strip()!r}; add a `prompt`")


def _part_talks(chosen: list[dict], rejected: list[dict]) -> tuple[Text, Text, Text]:
    """The same of conversations. Where they part before the last turn, the later turns belong to the answers and are written out."""
    common = 0
    while common < min(len(chosen), len(rejected)) and chosen[common] == rejected[common]:
        common += 1
    if common == len(chosen) == len(rejected) and chosen[-1]["role"] == "assistant":
        raise Unteachable(EQUAL_ANSWERS)
    while common and _role(chosen, common) != "assistant":  # an answer begins with the assistant's turn
        common -= 1
    while common and _role(rejected, common) != "assistant":
        common -= 1
    prompt = chosen[:common]
    if not prompt:
        raise Malformed("chosen and rejected share no beginning; add a `prompt` field")
    if len(chosen) == len(rejected) == common + 1:
        return prompt, chosen[common:], rejected[common:]
    texts = [_write(prompt), *(_write(talk[common:]) for talk in (chosen, rejected))]
    if any(text is None for text in texts):
        raise Malformed("chosen and rejected part before their last turn, and have other roles than user and assistant; cut them there")
    start, first, second = texts
    return start + ASSISTANT, first.removeprefix(ASSISTANT).lstrip(" "), second.removeprefix(ASSISTANT).lstrip(" ")


def _role(talk: list[dict], turn: int) -> str:
    return talk[turn]["role"] if turn < len(talk) else ""


def _beside_prompt(prompt: Text, chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
    """Prompt and answers where a prompt stands beside them, which may be whole conversations or transcripts that repeat it."""
    if isinstance(chosen, str) and isinstance(rejected, str):
        if isinstance(prompt, str) and prompt.endswith(ASSISTANT) and chosen.startswith(prompt) and rejected.startswith(prompt):
            return prompt, chosen.removeprefix(prompt).lstrip(" "), rejected.removeprefix(prompt).lstrip(" ")
        if all(answer.startswith(HUMAN) and ASSISTANT in answer for answer in (chosen, rejected)):  # whole transcripts
            start, first, second = _part(chosen, rejected)
            if not start.removesuffix(ASSISTANT).strip().endswith(_last_words(prompt)):
                raise Malformed(NOT_COMMON)
            return start, first, second
        return prompt, chosen, rejected
    if not (_is_talk(chosen) and _is_talk(rejected)):
        return prompt, chosen, rejected
    if isinstance(prompt, list):
        if all(len(_after_prompt(talk, prompt)) == 1 for talk in (chosen, rejected)):
            return prompt, chosen, rejected
        repeats = [talk[: len(prompt)] == prompt for talk in (chosen, rejected)]
        if not all(repeated or talk[0]["role"] == "assistant" for repeated, talk in zip(repeats, (chosen, rejected), strict=True)):
            raise Malformed(NOT_COMMON)
        talks = (talk if repeated else prompt + talk for repeated, talk in zip(repeats, (chosen, rejected), strict=True))
        return _part_talks(*talks)
    whole, first, second = _part_talks(chosen, rejected)
    asked = whole if isinstance(whole, list) else transcript_messages(whole)
    if not any(message["role"] == "user" and message["content"].strip() == prompt.strip() for message in asked):
        raise Malformed(NOT_COMMON)
    return (prompt if isinstance(whole, list) and len(whole) == 1 else whole), first, second


NOT_COMMON = "the prompt is not what chosen and rejected have in common; drop the prompt, or correct it"


def _last_words(prompt: Text) -> str:
    """The last message of a prompt in any writing."""
    messages = transcript_messages(prompt) if isinstance(prompt, str) else prompt
    return messages[-1]["content"].removesuffix(ASSISTANT).removeprefix(HUMAN).strip()


def _write(talk: Iterable[dict]) -> str | None:
    """Turns of user and assistant as an HH-RLHF transcript; None where that would lose something."""
    text = ""
    for message in talk:
        marker = {"user": HUMAN, "assistant": ASSISTANT}.get(message["role"])
        if marker is None or HUMAN in message["content"] or ASSISTANT in message["content"]:
            return None
        text += f"{marker} {message['content']}"
    return text


def transcript_messages(text: str) -> list[dict]:
    """The turns of a prompt in HH-RLHF's writing, without its open last turn; any other string is one user message.

    >>> transcript_messages("\\n\\nHuman: Hi.\\n\\nAssistant: Hello.\\n\\nHuman: Why?\\n\\nAssistant:")[-1]
    {'role': 'user', 'content': 'Why?'}
    """
    if not (text.startswith(HUMAN) and ASSISTANT in text):
        return [{"role": "user", "content": text}]
    pieces = re.split(f"({re.escape(HUMAN)}|{re.escape(ASSISTANT)})", text)[1:]
    turns = [
        {"role": "user" if marker == HUMAN else "assistant", "content": content.removeprefix(" ")}
        for marker, content in zip(pieces[::2], pieces[1::2], strict=True)
    ]
    return turns[:-1] if turns[-1]["role"] == "assistant" and not turns[-1]["content"].strip() else turns


def canonical(prompt: Text) -> str:
    """A key that is equal for equal prompts, however they are written: messages, one user message as a string, or a transcript."""
    messages = transcript_messages(prompt) if isinstance(prompt, str) else prompt
    if len(messages) == 1 and messages[0]["role"] == "user":
        return json.dumps(messages[0]["content"])
    return json.dumps([[message["role"], message["content"]] for message in messages])


def write_lines(path: Path, records: Iterable[dict]) -> None:
    """Write a JSON Lines file, one object a line."""
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8", newline="\n")
