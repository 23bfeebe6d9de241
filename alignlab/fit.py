"""Records held against a model before anything is trained: what it could not learn from is left out and told."""

import re
from collections.abc import Callable, Sequence

from alignlab.encoding import prompt_text, special_words, turns_to_render, without_end
from alignlab.records import Reading
from alignlab.talks import EMPTY_ANSWER


def fitted(tokenizer, reading: Reading, fields: Sequence[str], max_length: int, strict: bool, say: Callable[[str], None]) -> list[int]:
    """Leave out what cannot be learned from and tell it; returns the tokens of each remaining record's first answer.

    Raises:
        UserError: more than half is left out, or anything where `strict` is set.
    """
    reading.check(strict, say)
    lengths, facts = examine(tokenizer, reading, fields, max_length)
    reading.check(strict, say)
    for fact in facts:
        say(f"{reading.source}: {fact}")
    return lengths


def examine(tokenizer, reading: Reading, fields: Sequence[str], max_length: int) -> tuple[list[int], list[str]]:
    """Hold checked records against a model: leave out, in `reading`, what it cannot learn from, before anything is trained.

    Returns:
        tokens of each remaining record's first answer, and sentences about what the model will not see whole.

    Raises:
        UserError: the chat template refuses a prompt or loses its text.
    """
    control = re.compile("|".join(map(re.escape, special_words(tokenizer))) or r"(?!)")  # without such tokens nothing matches
    texts = [[without_end(tokenizer, record[field]) for field in fields] for record in reading.records]
    prompts = _all_ids(tokenizer, [prompt_text(tokenizer, record["prompt"]) for record in reading.records])
    columns = [_all_ids(tokenizer, list(column)) for column in zip(*texts, strict=True)]
    rows = [(prompt, answers) for prompt, *answers in zip(prompts, *columns, strict=True)]

    def unfit(record: dict, texts: list[str], answers: list[list[int]]) -> str | None:
        asked = [message["content"] for message in turns_to_render(record["prompt"])] if tokenizer.chat_template else []
        if found := next(filter(None, map(control.search, [*texts, *asked])), None):
            return f"the model's control token {found.group()!r} in its text"
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
