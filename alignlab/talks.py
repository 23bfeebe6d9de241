"""Conversations in every writing: messages, ShareGPT turns, HH-RLHF transcripts, and any of them stored as text."""

import ast
import json
import re
from collections.abc import Iterable

from alignlab.sources import Malformed

Text = str | list[dict]  # a prompt: a string, or a conversation of {role, content} messages

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
ROLES = {"human": "user", "prompter": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
AS_TEXT = re.compile(r"""\[\s*\{\s*["'](role|content|from|value)["']\s*:""")  # how a conversation stored as text begins

EMPTY_ANSWER, EQUAL_ANSWERS = "an empty answer", "chosen equal to rejected"
NO_ANSWER = "a conversation that does not end with the assistant's turn"
NOTHING_COMMON = f"no `prompt`, and chosen and rejected share no beginning up to {ASSISTANT.strip()!r}; add a `prompt`"
NOT_COMMON = "the prompt is not what chosen and rejected have in common; drop the prompt, or correct it"


class Unteachable(Exception):
    """A well-formed row with nothing to learn from; its text is one of the kinds that the summary counts."""


# ---------------------------------------------------------------------------------------------- messages


def text_or_messages(value, name: str) -> Text:
    """A string as it is, or messages reduced to role and content, also where they are stored as text; None is "".

    Raises:
        Malformed: neither.
    """
    if isinstance(value, str):
        value = _stored_as_text(value, name)
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, list | dict):
        return messages(value, name) if value else ""
    raise Malformed(f"{name} must be a string or {'one assistant message' if name != 'prompt' else 'a list of {role, content} messages'}")


def _stored_as_text(value: str, name: str):
    """The conversation that a string holds as JSON or as Python prints it, which is what tables make of one; else the string."""
    if not AS_TEXT.match(value.lstrip()):
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            return read(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    raise Malformed(f"{name} is a conversation stored as text that cannot be read; save the table as JSON Lines or Parquet")


def messages(value, name: str) -> list[dict]:
    """Messages reduced to role and content; content in text parts is joined.

    Raises:
        Malformed: not messages, or messages that are more than text.
    """
    given = [value] if isinstance(value, dict) else value
    shape = f"{name} must be a string or a list of {{role, content}} messages"
    if not given:
        raise Malformed(shape)
    plain = []
    for message in given:
        if not isinstance(message, dict):
            raise Malformed(shape)
        if isinstance(message.get("from"), str) and "value" in message:  # ShareGPT
            message = {"role": message["from"], "content": message["value"]}
        if message.get("tool_calls") or message.get("function_call"):
            raise Malformed(f"{name} has a tool call; alignlab reads turns of text only, drop such rows")
        if not isinstance(message.get("role"), str) or "content" not in message:
            raise Malformed(shape)
        role = message["role"].strip().lower()
        plain.append({"role": ROLES.get(role, role), "content": _content(message["content"], name)})
    return plain


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
            kind, text = part.get("type", "text"), part.get("text")
            if kind != "text" or not isinstance(text, str | None):
                raise Malformed(f"{name} has a content part of type {kind!r}; alignlab reads text only, drop such rows")
            part = text or ""
        if not isinstance(part, str):
            raise Malformed(f"{name} must be a string or a list of {{role, content}} messages")
        texts.append(part)
    return "".join(texts)


# ---------------------------------------------------------------------------------------------- transcripts


def is_transcript(text: Text) -> bool:
    """Whether a string is in HH-RLHF's writing, whose leading blank lines may be gone."""
    return isinstance(text, str) and (text.startswith(HUMAN) or (text.lstrip().startswith(HUMAN.strip()) and ASSISTANT in text))


def transcript_messages(text: str) -> list[dict]:
    """The turns of a prompt in HH-RLHF's writing, without its open last turn; any other string is one user message.

    What stands before the first turn is a system message, if the last turn is open, so that the text can only be a transcript.

    >>> transcript_messages("\\n\\nHuman: Hi.\\n\\nAssistant: Hello.\\n\\nHuman: Why?\\n\\nAssistant:")[-1]
    {'role': 'user', 'content': 'Why?'}
    """
    before, is_open = "", text.rstrip().endswith(ASSISTANT)
    if is_transcript(text):
        text = "\n\n" + text.lstrip()
    elif is_open and HUMAN in text:
        before, _, rest = text.partition(HUMAN)
        text = HUMAN + rest
    else:
        return [{"role": "user", "content": text}]
    pieces = re.split(f"({re.escape(HUMAN)}|{re.escape(ASSISTANT)})", text)[1:]
    turns = [
        {"role": "user" if marker == HUMAN else "assistant", "content": content.removeprefix(" ")}
        for marker, content in zip(pieces[::2], pieces[1::2], strict=True)
    ]
    turns = turns[:-1] if is_open else turns
    return [{"role": "system", "content": before.strip()}, *turns] if before.strip() else turns


def _write(talk: Iterable[dict]) -> str | None:
    """Turns of user and assistant as an HH-RLHF transcript; None where that would lose something."""
    text = ""
    for message in talk:
        marker = {"user": HUMAN, "assistant": ASSISTANT}.get(message["role"])
        if marker is None or HUMAN in message["content"] or ASSISTANT in message["content"]:
            return None
        text += f"{marker} {message['content']}"
    return text


def canonical(prompt: Text) -> str:
    """A key that is equal for equal prompts, however they are written: messages, one user message as a string, or a transcript."""
    turns = turns_of(prompt)
    if len(turns) == 1 and turns[0]["role"] == "user":
        return json.dumps(turns[0]["content"])
    return json.dumps([[message["role"], message["content"]] for message in turns])


def turns_of(prompt: Text) -> list[dict]:
    """The messages of a prompt in any writing."""
    return transcript_messages(prompt) if isinstance(prompt, str) else prompt


# ---------------------------------------------------------------------------------------------- the answer to a prompt


def is_talk(answer: Text) -> bool:
    """Whether an answer is a whole conversation rather than its last message."""
    return len(answer) > 1 if isinstance(answer, list) else is_transcript(answer) and ASSISTANT in answer


def completion(answer: Text, name: str, prompt: Text) -> str:
    """The text of the answer to a prompt, which may stand at the end of a whole conversation.

    Raises:
        Malformed: it is not the assistant's next message.
        Unteachable: it is empty, or nobody answered.
    """
    if isinstance(answer, str) and is_talk(answer):
        talk = transcript_messages(answer)
        answer = rest if len(rest := _after_prompt(talk, prompt)) < len(talk) else answer
    text = answer if isinstance(answer, str) else _last_answer(answer, name, prompt)
    if not text.strip():
        raise Unteachable(EMPTY_ANSWER)
    return text


def _last_answer(talk: list[dict], name: str, prompt: Text) -> str:
    """The text of the one message after the prompt."""
    if len(talk) > 1 and talk[-1]["role"] != "assistant":
        raise Unteachable(NO_ANSWER)
    rest = _after_prompt(talk, prompt)
    if len(rest) != 1 or rest[0]["role"] != "assistant":
        raise Malformed(f"{name} must be one assistant message after the prompt")
    return rest[0]["content"]


def _after_prompt(talk: list[dict], prompt: Text) -> list[dict]:
    """What a conversation says after the prompt; a prompt that ends in the assistant's words may be finished in the same message."""
    asked = turns_of(prompt)
    if len(talk) > len(asked) and talk[: len(asked)] == asked:
        return talk[len(asked) :]
    head, last = asked[:-1], asked[-1]
    if last["role"] == "assistant" and len(talk) == len(asked) and talk[:-1] == head and talk[-1]["role"] == "assistant":
        if talk[-1]["content"].startswith(last["content"]):
            return [{"role": "assistant", "content": talk[-1]["content"].removeprefix(last["content"])}]
    return talk


# ---------------------------------------------------------------------------------------------- where two conversations part


def part(chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
    """Prompt and answers of two whole conversations, or of two HH-RLHF transcripts: the prompt is their common beginning."""
    if isinstance(chosen, list) and isinstance(rejected, list):
        return _part_talks(chosen, rejected)
    if isinstance(chosen, str) and isinstance(rejected, str):
        return _part_transcripts(chosen, rejected)
    raise Malformed(NOTHING_COMMON)


def _part_transcripts(chosen: str, rejected: str) -> tuple[str, str, str]:
    """The same of transcripts."""
    for turn in reversed(list(re.finditer(re.escape(ASSISTANT), chosen))):
        end = turn.end()
        if rejected[:end] == chosen[:end]:
            if any(text.rfind(HUMAN) > text.rfind(ASSISTANT) for text in (chosen, rejected)):
                raise Unteachable(NO_ANSWER)
            return chosen[:end], chosen[end:].lstrip(" "), rejected[end:].lstrip(" ")
    raise Malformed(NOTHING_COMMON)


def _part_talks(chosen: list[dict], rejected: list[dict]) -> tuple[Text, Text, Text]:
    """The same of conversations. Where they part before the last turn, the later turns belong to the answers and are written out."""
    if any(talk[-1]["role"] != "assistant" for talk in (chosen, rejected)):
        raise Unteachable(NO_ANSWER)
    common = 0
    while common < min(len(chosen), len(rejected)) and chosen[common] == rejected[common]:
        common += 1
    if common == len(chosen) == len(rejected):
        raise Unteachable(EQUAL_ANSWERS)
    while common and not all(_role(talk, common) == "assistant" for talk in (chosen, rejected)):  # where both answers begin
        common -= 1
    prompt = chosen[:common]
    if not prompt:
        raise Malformed("chosen and rejected share no beginning; add a `prompt` field")
    if len(chosen) == len(rejected) == common + 1:
        return prompt, chosen[common:], rejected[common:]
    start, first, second = _write(prompt), _write(chosen[common:]), _write(rejected[common:])
    if start is None or first is None or second is None:
        raise Malformed("chosen and rejected part before their last turn, and have other roles than user and assistant; cut them there")
    return start + ASSISTANT, first.removeprefix(ASSISTANT).lstrip(" "), second.removeprefix(ASSISTANT).lstrip(" ")


def _role(talk: list[dict], turn: int) -> str:
    return talk[turn]["role"] if turn < len(talk) else ""


def beside_prompt(prompt: Text, chosen: Text, rejected: Text) -> tuple[Text, Text, Text]:
    """Prompt and answers where a prompt stands beside them, which may be whole conversations or transcripts that repeat it."""
    if isinstance(chosen, str) and isinstance(rejected, str):
        return _beside_strings(prompt, chosen, rejected)
    if isinstance(chosen, str) or isinstance(rejected, str) or not (is_talk(chosen) and is_talk(rejected)):
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
    if not any(message["role"] == "user" and message["content"].strip() == prompt.strip() for message in turns_of(whole)):
        raise Malformed(NOT_COMMON)
    return (prompt if isinstance(whole, list) and len(whole) == 1 else whole), first, second


def _beside_strings(prompt: Text, chosen: str, rejected: str) -> tuple[Text, Text, Text]:
    answers = (chosen, rejected)
    if isinstance(prompt, str) and prompt.endswith(ASSISTANT) and all(answer.startswith(prompt) for answer in answers):
        first, second = (answer.removeprefix(prompt).lstrip(" ") for answer in answers)
        return prompt, first, second
    if all(map(is_talk, answers)):
        start, first, second = _part_transcripts(chosen, rejected)
        if not start.removesuffix(ASSISTANT).strip().endswith(_last_words(prompt)):
            raise Malformed(NOT_COMMON)
        return start, first, second
    marked = all(answer.lstrip().startswith(ASSISTANT.strip()) for answer in answers)  # the last turn, marker and all
    if isinstance(prompt, str) and is_transcript(prompt) and marked:
        first, second = (answer.lstrip().removeprefix(ASSISTANT.strip()).lstrip(" ") for answer in answers)
        return prompt.rstrip().removesuffix(ASSISTANT) + ASSISTANT, first, second
    return prompt, chosen, rejected


def _last_words(prompt: Text) -> str:
    """The last message of a prompt in any writing."""
    return turns_of(prompt)[-1]["content"].removesuffix(ASSISTANT).removeprefix(HUMAN).strip()
