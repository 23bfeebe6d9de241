"""Checked records to masked tensors: encode, batch.

Everything after this room sees one layout: (B, T) prompt and completion, right-padded, with a mask that is 1 on
completion tokens, EOS included.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from alignlab.encoding import completion_ids, prompt_ids
from alignlab.errors import UserError
from alignlab.talks import Text


class Example(NamedTuple):
    """One prompt and one completion, as ids; the completion ends with EOS."""

    prompt: list[int]
    completion: list[int]


def encode(tokenizer, prompt: Text, completions: Sequence[str], max_length: int) -> list[Example] | None:
    """Examples of one prompt with each completion, or None where a completion leaves no room for a prompt token.

    A prompt too long is cut (see `prompt_ids`), alike for all completions, and a completion is never cut: half an answer is
    another answer.
    """
    answers = [completion_ids(tokenizer, completion) for completion in completions]
    room = max_length - max(map(len, answers))
    if room < 1:
        return None
    asked = prompt_ids(tokenizer, prompt, room)
    return [Example(asked, answer) for answer in answers]


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
    if dropped := len(encoded) - len(kept):
        say(f"{dropped} of {len(encoded)} records have a completion longer than {max_length} tokens: dropped")
    full = [(record, examples) for record, examples in zip(records, encoded, strict=True) if examples and lengths([examples]) == max_length]
    if cut := sum(len(prompt_ids(tokenizer, record["prompt"])) > len(examples[0].prompt) for record, examples in full):
        say(f"{cut} of {len(encoded)} prompts do not fit beside their answers into {max_length} tokens: the beginning of each is cut")
    return kept


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
