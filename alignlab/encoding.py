"""Text to ids: the chat template, BOS and EOS, special tokens, and where a long prompt is cut."""

from functools import lru_cache
from os.path import commonprefix

from alignlab.errors import UserError
from alignlab.talks import Text, turns_of


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
    messages, faults = turns_to_render(prompt), []
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


def turns_to_render(prompt: Text) -> list[dict]:
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
    head = _head(tokenizer, turns_to_render(prompt), text, ids, room) if tokenizer.chat_template else int(ids[0] == tokenizer.bos_token_id)
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
    return [*tokenizer(without_end(tokenizer, completion), add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def without_end(tokenizer, text: str) -> str:
    """A completion without the special tokens that its text may end with."""
    ends = _end_words(tokenizer, tokenizer.eos_token, str(tokenizer.chat_template))
    while text.rstrip().endswith(ends):
        text = text.rstrip()
        text = text[: -max(len(end) for end in ends if text.endswith(end))]
    return text


@lru_cache(maxsize=8)  # asked once per answer
def _end_words(tokenizer, eos: str, template: str) -> tuple[str, ...]:
    return (eos, *tokenizer.convert_ids_to_tokens(turn_ends(tokenizer)))
