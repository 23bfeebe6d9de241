"""From text to masked tensors: read, check, format, tokenise, batch.

Everything after this room sees one layout: (B, T) prompt and completion, right-padded, with a mask that is 1 on
completion tokens, EOS included.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

import jinja2
import torch
from torch import Tensor

from alignlab.errors import UserError

PACKAGE_DATA = Path(__file__).parent / "_data"  # where the wheel puts it


def data_folder() -> Path:
    """The bundled data: inside an installed package, or `data/` of a clone."""
    return PACKAGE_DATA if PACKAGE_DATA.is_dir() else Path(__file__).parent.parent / "data"


# ---------------------------------------------------------------------------------------------- reading and checking

Text = str | list[dict]


def last_message(prompt: Text) -> str:
    """What was asked: the prompt, or the last message of a conversation."""
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])


def read_preferences(source: str | Path) -> list[dict]:
    """Preference pairs, checked: dicts with `prompt` (a string, or a list of messages), `chosen` and `rejected` (strings).

    `source` is a JSON Lines file or the name of a hub set. Each line has `prompt`, `chosen`, `rejected`, or the two
    HH-RLHF transcripts `chosen`, `rejected`, whose common beginning is the prompt. Extra fields are kept.

    Raises:
        UserError: naming the file, the line and the cure.
    """
    return [_preference(record, where) for where, record in _records(source)]


def read_demonstrations(source: str | Path) -> list[dict]:
    """Demonstrations, checked: dicts with `prompt` and `completion`. Raises UserError as `read_preferences` does."""
    return [_demonstration(record, where) for where, record in _records(source)]


def read_prompts(source: str | Path) -> list[Text]:
    """The `prompt` of each record, checked. Raises UserError as `read_preferences` does."""
    return [_prompt(_field(record, "prompt", where), where) for where, record in _records(source)]


def _records(source: str | Path) -> Iterable[tuple[str, dict]]:
    """(where, record) for each record; local files are parsed here first so that a bad line can be named."""
    path = Path(source)
    if path.suffix in (".jsonl", ".json") or path.exists():
        if not path.is_file():
            raise UserError(f"{source}: no such file; give a JSON Lines file or the name of a hub set")
        records = []
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(_text_lines(lines, source), 1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except json.JSONDecodeError as error:
                    raise UserError(f"{source}, line {number}: not JSON ({error.msg}); write one object a line") from None
                if not isinstance(record, dict):
                    raise UserError(f"{source}, line {number}: not an object; write one {{...}} a line")
                if not _is_text(record):
                    raise UserError(f"{source}, line {number}: half of a character (a lone surrogate such as \\ud83d); write the whole one")
                records.append((f"{source}, line {number}", record))
    else:
        from datasets import load_dataset

        try:
            rows = load_dataset(str(source), split="train")
        except Exception as error:
            reason = str(error).splitlines()[0][:200] if str(error) else ""
            raise UserError(f"{source}: no file here, and the hub's set cannot be read ({type(error).__name__}: {reason})") from error
        records = [(f"{source}, row {number}", dict(row)) for number, row in enumerate(rows)]
    if not records:
        raise UserError(f"{source}: no records; write one object a line")
    return records


def _is_text(record: dict) -> bool:
    """Whether all of its strings can be written as UTF-8."""
    try:
        return bool(json.dumps(record, ensure_ascii=False).encode())
    except UnicodeEncodeError:
        return False


def _text_lines(lines, source):
    try:
        yield from lines
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: not UTF-8 text ({error.reason}); save it as UTF-8") from None


def _field(record: dict, name: str, where: str):
    if name not in record:
        raise UserError(f"{where}: field {name!r} is missing; it has {sorted(record)}")
    return record[name]


def _preference(record: dict, where: str) -> dict:
    chosen, rejected = _field(record, "chosen", where), _field(record, "rejected", where)
    if "prompt" in record:
        prompt = _prompt(record["prompt"], where)
    else:
        prompt, chosen, rejected = _split_transcripts(chosen, rejected, where)
    chosen, rejected = _completion(chosen, "chosen", where, prompt), _completion(rejected, "rejected", where, prompt)
    if chosen == rejected:
        raise UserError(f"{where}: chosen equals rejected; drop the pair, it tells nothing")
    return {**record, "prompt": prompt, "chosen": chosen, "rejected": rejected}


def _demonstration(record: dict, where: str) -> dict:
    prompt = _prompt(_field(record, "prompt", where), where)
    return {
        **record,
        "prompt": prompt,
        "completion": _completion(_field(record, "completion", where), "completion", where, prompt),
    }


def _prompt(prompt, where: str) -> Text:
    if isinstance(prompt, str):
        if not prompt.strip():
            raise UserError(f"{where}: prompt is empty; write the question, or drop the line")
        return prompt
    if _is_messages(prompt):
        return prompt
    raise UserError(f"{where}: prompt must be a string or a list of {{role, content}} messages")


def _completion(completion, name: str, where: str, prompt: Text) -> str:
    if _is_messages(completion):
        if isinstance(prompt, list) and completion[: len(prompt)] == prompt:
            completion = completion[len(prompt) :]  # the whole conversation was given
        if len(completion) != 1 or completion[0]["role"] != "assistant":
            raise UserError(f"{where}: {name} must be one assistant message after the prompt")
        completion = completion[0]["content"]
    if not isinstance(completion, str):
        raise UserError(f"{where}: {name} must be a string or one assistant message")
    if not completion.strip():
        raise UserError(f"{where}: {name} is empty; write an answer, or drop the line")
    return completion


def _is_messages(value) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in value)
    )


def _split_transcripts(chosen, rejected, where: str):
    """HH-RLHF: the prompt is what both transcripts begin with, up to and with the last "Assistant:" turn."""
    if _is_messages(chosen) and _is_messages(rejected):
        common = 0
        while common < min(len(chosen), len(rejected)) and chosen[common] == rejected[common]:
            common += 1
        if common == 0 or not chosen[common:] or not rejected[common:]:
            raise UserError(f"{where}: chosen and rejected share no beginning; add a `prompt` field")
        return chosen[:common], chosen[common:], rejected[common:]
    marker = "\n\nAssistant:"
    if isinstance(chosen, str) and isinstance(rejected, str):
        for turn in range(chosen.count(marker), 0, -1):
            end = _nth(chosen, marker, turn) + len(marker)
            if rejected[:end] == chosen[:end]:
                return chosen[:end], chosen[end:].lstrip(" "), rejected[end:].lstrip(" ")
    raise UserError(f"{where}: no `prompt`, and chosen and rejected share no beginning up to {marker.strip()!r}; add a `prompt`")


def _nth(text: str, marker: str, count: int) -> int:
    position = -1
    for _ in range(count):
        position = text.find(marker, position + 1)
    return position


def write_lines(path: Path, records: Iterable[dict]) -> None:
    """Write a JSON Lines file, one object a line."""
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8", newline="\n")


def fingerprint(*files: str | Path) -> str:
    """Twelve hex digits of the files' contents, so that a run is never gone on with on other data; a hub name stands for itself."""
    digest = hashlib.sha256()
    for file in map(Path, files):
        digest.update(file.read_bytes() if file.is_file() else str(file).encode())
    return digest.hexdigest()[:12]


def split_by_prompt(records: Sequence[dict], test_share: float, seed: int) -> tuple[list[dict], list[dict]]:
    """Train and test parts that share no prompt; each non-empty where there are two prompts or more."""
    prompts = sorted({json.dumps(record["prompt"], sort_keys=True) for record in records})
    if len(prompts) < 2:
        raise UserError("all records have one prompt; held-out judging needs at least two different prompts")
    rng = Random(seed)
    prompts.sort(key=lambda prompt: rng.random())
    test = set(prompts[: min(max(1, round(test_share * len(prompts))), len(prompts) - 1)])
    parts: tuple[list[dict], list[dict]] = ([], [])
    for record in records:
        parts[json.dumps(record["prompt"], sort_keys=True) in test].append(record)
    return parts


# ---------------------------------------------------------------------------------------------- text to ids


class Example(NamedTuple):
    """One prompt and one completion, as ids; the completion ends with EOS."""

    prompt: list[int]
    completion: list[int]


def prompt_ids(tokenizer, prompt: Text) -> list[int]:
    """Ids of a prompt, ready for the answer to follow: through the chat template where the tokenizer has one.

    A string is one user message. Without a template a string stands as it is.

    Raises:
        UserError: messages, and a tokenizer without a chat template, or with one that refuses their roles.
    """
    if tokenizer.chat_template:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        try:
            text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except jinja2.TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise UserError(f"the model's chat template refuses a prompt with the roles {roles}: {error}; change the prompts") from None
        return tokenizer(text, add_special_tokens=False)["input_ids"]  # the template writes its own BOS
    if not isinstance(prompt, str):
        raise UserError("the prompts are messages and this model has no chat template; use plain strings, or an instruct model")
    ids = tokenizer(prompt)["input_ids"]
    while ids and ids[-1] == tokenizer.eos_token_id:
        ids = ids[:-1]
    return ids


def completion_ids(tokenizer, completion: str) -> list[int]:
    """Ids of a completion, EOS at its end."""
    return tokenizer(completion, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]


def encode(tokenizer, prompt: Text, completions: Sequence[str], max_length: int) -> list[Example] | None:
    """Examples of one prompt with each completion, or None where a completion leaves no room for a prompt token.

    A prompt too long is cut from the left, alike for all completions, and a completion is never cut: half an answer is
    another answer.
    """
    answers = [completion_ids(tokenizer, completion) for completion in completions]
    room = max_length - max(map(len, answers))
    if room < 1:
        return None
    prompt = prompt_ids(tokenizer, prompt)[-room:]
    return [Example(prompt, answer) for answer in answers]


def encode_all(tokenizer, records: Sequence[dict], fields: Sequence[str], max_length: int) -> list[list[Example]]:
    """`encode` for each record with the completions in `fields`; records that cannot fit are dropped and counted.

    Raises:
        UserError: nothing is left.
    """
    encoded = [encode(tokenizer, record["prompt"], [record[field] for field in fields], max_length) for record in records]
    kept = [examples for examples in encoded if examples is not None]
    if not kept:
        raise UserError(f"no record fits into max_length = {max_length} tokens; choose shorter completions")
    if len(kept) < len(encoded):
        print(f"{len(encoded) - len(kept)} of {len(encoded)} records have a completion longer than {max_length} tokens: dropped")
    return kept


# ---------------------------------------------------------------------------------------------- ids to tensors


class Batch(NamedTuple):
    """Right-padded sequences: the layout of the whole package."""

    ids: Tensor  # (B, T) integers
    mask: Tensor  # (B, T) 1 on completion tokens, EOS included
    attention: Tensor  # (B, T) 1 on prompt and completion

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, index) -> "Batch":
        """The rows at `index` (a slice or a tensor of positions), without the padding that none of them needs."""
        picked = [tensor[index] for tensor in self]
        width = int(picked[2].sum(-1).max())
        return Batch(*(tensor[:, :width] for tensor in picked))


def lengths(examples: Sequence[Sequence[Example]]) -> Tensor:
    """(N,) tokens of the longest of each record's examples, prompt and completion together."""
    return torch.tensor([max(len(prompt) + len(completion) for prompt, completion in record) for record in examples])


def collate(examples: Sequence[Example], pad_id: int, device: torch.device | str = "cpu") -> Batch:
    """A batch of B examples, T the longest of them. Padding is known by the attention, never by its id."""
    width = max(len(prompt) + len(completion) for prompt, completion in examples)
    ids = torch.full((len(examples), width), pad_id)
    mask, attention = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, (prompt, completion) in enumerate(examples):
        end = len(prompt) + len(completion)
        ids[row, :end] = torch.tensor(prompt + completion)
        mask[row, len(prompt) : end] = 1
        attention[row, :end] = 1
    return Batch(ids.to(device), mask.to(device), attention.to(device))
