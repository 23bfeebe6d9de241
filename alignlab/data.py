"""From checked records to masked tensors: format, tokenise, batch.

Everything after this room sees one layout: (B, T) prompt and completion, right-padded, with a mask that is 1 on
completion tokens, EOS included.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from os.path import commonprefix
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from alignlab.errors import UserError
from alignlab.records import Reading, read_demonstrations, read_preferences, read_prompts, write_lines
from alignlab.talks import EMPTY_ANSWER, Text, canonical, turns_of

__all__ = [
    "Batch", "Example", "Text", "collate", "completion_ids", "data_folder", "encode", "encode_all", "examine", "fingerprint",
    "last_message", "lengths", "prompt_ids", "prompt_text", "read_demonstrations", "read_preferences", "read_prompts",
    "special_ids", "split_by_prompt", "turn_ends", "write_lines",
]  # fmt: skip

PACKAGE_DATA = Path(__file__).parent / "_data"  # where the wheel puts it


def data_folder() -> Path:
    """The bundled data: inside an installed package, or `data/` of a clone."""
    return PACKAGE_DATA if PACKAGE_DATA.is_dir() else Path(__file__).parent.parent / "data"


def fingerprint(*sources: str | Path) -> str:
    """Twelve hex digits of the contents of files and folders, so that a run is never resumed on others; a hub name stands for itself."""
    digest = hashlib.sha256()
    for source in map(Path, sources):
        files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
        for file in files:
            if source.is_dir():
                digest.update(file.relative_to(source).as_posix().encode())
            if not file.is_file():
                digest.update(str(file).encode())
                continue
            with file.open("rb") as content:
                while part := content.read(2**22):
                    digest.update(part)
    return digest.hexdigest()[:12]


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


# ---------------------------------------------------------------------------------------------- text to ids


class Example(NamedTuple):
    """One prompt and one completion, as ids; the completion ends with EOS."""

    prompt: list[int]
    completion: list[int]


def last_message(prompt: Text) -> str:
    """What was asked: the prompt, or the last message of a conversation."""
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])


def prompt_text(tokenizer, prompt: Text) -> str:
    """What the model reads of a prompt, the beginning of its answer included: the prompt in the chat template, where there is one.

    With a template a string is one user message, or the turns of an HH-RLHF transcript, and a conversation that ends with the
    assistant's words is continued. Without one a string stands as it is.

    Raises:
        UserError: messages without a template, or a template that refuses them or loses their text.
    """
    template = tokenizer.chat_template
    if not template:
        if not isinstance(prompt, str):
            raise UserError("the prompts are messages and this model has no chat template; use plain strings, or an instruct model")
        return prompt
    if isinstance(template, dict) and "default" not in template:
        names = ", ".join(template)
        raise UserError(f"the tokenizer has chat templates named {names}, but none named default; name one of them default")
    messages, faults = _turns(prompt), []
    parts = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]
    for form in (messages, parts):
        try:
            text = _apply_template(tokenizer, form)
        except Exception as error:  # a template is a program: it may raise, divide by zero or recurse
            faults.append(error)
            continue
        if all(_stands_in(message, text) for message in messages):
            return text
    if len(faults) < 2:
        raise UserError("the model's chat template loses the text of a prompt; correct the template, or choose another model")
    roles, reason = ", ".join(message["role"] for message in messages), " ".join(str(faults[0]).split())[:200]
    raise UserError(
        f"the model's chat template refuses a prompt with the roles {roles}: {reason or type(faults[0]).__name__}; change the prompts"
    ) from None


def _turns(prompt: Text) -> list[dict]:
    """The messages of a prompt, without an empty last one of the assistant, which the template opens by itself."""
    messages = turns_of(prompt)
    is_open = len(messages) > 1 and messages[-1]["role"] == "assistant" and not messages[-1]["content"].strip()
    return messages[:-1] if is_open else messages


def _apply_template(tokenizer, messages: list[dict]) -> str:
    if messages[-1]["role"] == "assistant":
        return tokenizer.apply_chat_template(messages, continue_final_message=True, tokenize=False)
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


def _stands_in(message: dict, text: str) -> bool:
    """Whether a message's text is there; templates may leave out the reasoning of earlier answers."""
    return message["content"].split("</think>")[-1].strip() in text


def prompt_ids(tokenizer, prompt: Text, room: int | None = None) -> list[int]:
    """Ids of a prompt, ready for the answer to follow (see `prompt_text`), of at most `room` tokens.

    A prompt that is too long loses the beginning of its conversation. The template's head, the system message included, stays
    where there is room for it.
    """
    text = prompt_text(tokenizer, prompt)
    if tokenizer.chat_template:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]  # the template writes its own BOS
    else:
        ids = tokenizer(text)["input_ids"]
        while len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
            ids = ids[:-1]
    if room is None or len(ids) <= room:
        return ids
    head = _head(tokenizer, _turns(prompt), text, ids, room) if tokenizer.chat_template else int(ids[0] == tokenizer.bos_token_id)
    head = head if head < room else 0
    return ids[:head] + ids[len(ids) - room + head :]


def _head(tokenizer, messages: list[dict], text: str, ids: list[int], room: int) -> int:
    """How many tokens stand before the first message that is not the system's; 0 where they leave no room for the end.

    Where a message begins and ends in the text is seen by writing another one in its place.
    """
    first = next((number for number, message in enumerate(messages) if message["role"] != "system"), 0)
    head = commonprefix([text, _with_another(tokenizer, messages, first)])
    after = commonprefix([text[::-1], _with_another(tokenizer, messages, len(messages) - 1)[::-1]])[::-1]
    before, behind = (tokenizer(part, add_special_tokens=False)["input_ids"] for part in (head, after))
    count = len(commonprefix([before, ids]))  # its last token may have merged with the message
    return count if count + len(behind) < room else 0


def _with_another(tokenizer, messages: list[dict], number: int) -> str:
    """The text of a conversation with other words in one of its messages."""
    return prompt_text(tokenizer, [*messages[:number], {**messages[number], "content": "\ue000"}, *messages[number + 1 :]])


def turn_ends(tokenizer) -> list[int]:
    """The special token with which the chat template ends an assistant's turn, in a list; empty where there is none."""
    if not tokenizer.chat_template:
        return []
    word = "answer"
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "question"}, {"role": "assistant", "content": word}], tokenize=False
        )
    except Exception:  # a template that takes no strings, or no such turns, says nothing about their end
        return []
    start = text.rfind(word)
    ids = tokenizer(text[start + len(word) :], add_special_tokens=False)["input_ids"] if start >= 0 else []
    return ids[:1] if ids[:1] and ids[0] in special_ids(tokenizer) else []


def special_ids(tokenizer) -> set[int]:
    """Ids of the tokens that are no text: those with a role, and those added as special."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return set(tokenizer.all_special_ids) | {number for number, token in added.items() if token.special}


def special_words(tokenizer) -> list[str]:
    """The special tokens as a text would spell them; the unknown token, which changes nothing, is not among them."""
    return [word for word in tokenizer.convert_ids_to_tokens(sorted(special_ids(tokenizer))) if word and word != tokenizer.unk_token]


def completion_ids(tokenizer, completion: str) -> list[int]:
    """Ids of a completion, one EOS at its end, also where its text already ends with EOS or the template's end of a turn."""
    return [*tokenizer(_without_end(tokenizer, completion), add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def _without_end(tokenizer, text: str) -> str:
    """A completion without the special tokens that its text may end with."""
    ends = _end_words(tokenizer, tokenizer.eos_token, str(tokenizer.chat_template))
    while text.rstrip().endswith(ends):
        text = text.rstrip()
        text = text[: -max(len(end) for end in ends if text.endswith(end))]
    return text


@lru_cache(maxsize=8)  # asked once an answer
def _end_words(tokenizer, eos: str, template: str) -> tuple[str, ...]:
    return (eos, *tokenizer.convert_ids_to_tokens(turn_ends(tokenizer)))


def encode(tokenizer, prompt: Text, completions: Sequence[str], max_length: int) -> list[Example] | None:
    """Examples of one prompt with each completion, or None where a completion leaves no room for a prompt token.

    A prompt too long is cut (see `prompt_ids`), alike for all completions, and a completion is never cut: half an answer is
    another answer.
    """
    answers = [completion_ids(tokenizer, completion) for completion in completions]
    room = max_length - max(map(len, answers))
    if room < 1:
        return None
    prompt = prompt_ids(tokenizer, prompt, room)
    return [Example(prompt, answer) for answer in answers]


def encode_all(
    tokenizer, records: Sequence[dict], fields: Sequence[str], max_length: int, say: Callable[[str], None] = print
) -> list[list[Example]]:
    """`encode` for each record with the completions in `fields`; records that cannot fit are dropped and counted.

    Raises:
        UserError: nothing is left.
    """
    encoded = [encode(tokenizer, record["prompt"], [record[field] for field in fields], max_length) for record in records]
    kept = [examples for examples in encoded if examples is not None]
    if not kept:
        raise UserError(f"no record fits into max_length = {max_length} tokens; choose shorter completions")
    if len(kept) < len(encoded):
        say(f"{len(encoded) - len(kept)} of {len(encoded)} records have a completion longer than {max_length} tokens: dropped")
    cut = sum(
        len(prompt_ids(tokenizer, record["prompt"])) > len(examples[0].prompt)
        for record, examples in zip(records, encoded, strict=True)
        if examples is not None and max(map(sum, (map(len, example) for example in examples))) == max_length
    )
    if cut:
        say(f"{cut} of {len(encoded)} prompts do not fit beside their answers into {max_length} tokens: the beginning of each is cut")
    return kept


def examine(tokenizer, reading: Reading, fields: Sequence[str], max_length: int) -> tuple[list[int], list[str]]:
    """Hold checked records against a model: leave out, in `reading`, what it cannot learn from, before anything is trained.

    Returns:
        tokens of each remaining record's first answer, and sentences about what the model will not see whole.

    Raises:
        UserError: the chat template refuses a prompt or loses its text.
    """
    words = special_words(tokenizer)
    texts = [[_without_end(tokenizer, record[field]) for field in fields] for record in reading.records]
    prompts = _all_ids(tokenizer, [prompt_text(tokenizer, record["prompt"]) for record in reading.records])
    columns = [_all_ids(tokenizer, list(column)) for column in zip(*texts, strict=True)]
    rows = [(prompt, answers) for prompt, *answers in zip(prompts, *columns, strict=True)]

    def unfit(record: dict, texts: list[str], answers: list[list[int]]) -> str | None:
        asked = [message["content"] for message in _turns(record["prompt"])] if tokenizer.chat_template else []
        if word := next((word for word in words for text in [*texts, *asked] if word in text), None):
            return f"the model's control token {word!r} in its text"
        if not all(answers):
            return EMPTY_ANSWER
        if max(map(len, answers)) + 1 >= max_length:  # with EOS
            return f"an answer that leaves no room for its prompt within {max_length} tokens"
        return "answers that are equal in the model's tokens" if len(answers) == 2 and answers[0] == answers[1] else None

    kinds = [unfit(record, text, answers) for record, text, (_, answers) in zip(reading.records, texts, rows, strict=True)]
    reading.leave_out(kinds)
    rows = [row for row, kind in zip(rows, kinds, strict=True) if kind is None]
    cut = sum(len(prompt) + max(map(len, answers)) + 1 > max_length for prompt, answers in rows)
    facts = [f"{cut} of {len(rows)} prompts do not fit beside their answers into {max_length} tokens: the beginning of each is cut"]
    return [len(answers[0]) + 1 for _, answers in rows], facts if cut else []


def _all_ids(tokenizer, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []


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
