"""One small pass through a freshly loaded base, which proves that training will see what it means to see."""

from itertools import islice

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from alignlab.data import Example, collate
from alignlab.encoding import prompt_ids, special_ids
from alignlab.errors import UserError


@torch.no_grad()
def probe(base) -> None:
    """One small pass through what training does: a template, an adapter, prompts of uneven length, sampling, scoring.

    Raises:
        UserError: the template or tokenizer gives different prompts the same ids, peft cannot adapt the network, or what it computes
            while sampling (padded on the left, from a cache) is not what it computes while scoring (padded on the right, in one pass).
    """
    _check_text(base.tokenizer, base.network.get_input_embeddings().get_parameter("weight").shape[0])
    name, rng = type(base.network).__name__, torch.Generator().manual_seed(0)
    for parameter in base.policy("probe", rank=4).parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=rng).to(parameter))
    prompts, answers = ([torch.randint(base.vocabulary, (n,), generator=rng).tolist() for n in each] for each in ((2, 9, 5), (3, 3, 3)))
    try:
        with base.using("probe"):
            recorded, scored = _while_sampling(base, prompts, answers), _while_scoring(base, prompts, answers)
    except Exception as error:
        reason = " ".join(repr(error).split())[:200]
        raise UserError(f"{name} cannot sample or score a padded batch ({reason}); choose another model") from error
    finally:
        base.drop_adapters()
    tolerance = 1e-2 if base.network.dtype == torch.float32 else 0.3
    if (recorded - scored).abs().max() > tolerance * scored.std():
        raise UserError(f"{name} computes something else while sampling than while scoring (does it ignore padding?); choose another model")


def _while_sampling(base, prompts: list[list[int]], answers: list[list[int]]) -> Tensor:
    """(rows, answer tokens, D) the hidden state before each answer token, one at a time behind left-padded prompts."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=base.device)
    attention = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=base.device)
    states, cache = [], None
    for tokens in torch.tensor(answers, device=base.device).T:
        hidden, cache = base.next_hidden(ids, attention, cache)
        states.append(hidden)
        ids, attention = tokens[:, None], torch.cat([attention, torch.ones_like(tokens[:, None])], dim=-1)
    return torch.stack(states, dim=1).float()


def _while_scoring(base, prompts: list[list[int]], answers: list[list[int]]) -> Tensor:
    """The same in one right-padded pass."""
    batch = collate([Example(prompt, answer) for prompt, answer in zip(prompts, answers)], base.tokenizer.pad_token_id, base.device)
    return base.hidden(batch.ids, batch.attention)[:, :-1][batch.mask[:, 1:].bool()].view(len(prompts), len(answers[0]), -1).float()


def _check_text(tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Refuse a chat template or tokenizer that gives ids outside an embedding of so many rows, or the same ids to different texts."""
    if max(prompt_ids(tokenizer, "answer"), default=0) >= rows:
        raise UserError(
            f"the chat template writes a token outside the model's embedding of {rows} rows; call "
            "model.resize_token_embeddings(len(tokenizer)) and save the model again"
        )
    ordinary = (i for i in range(len(tokenizer)) if i not in special_ids(tokenizer))
    words = (str(tokenizer.decode([i])).strip() for i in ordinary)
    plain = ((word, tokenizer(word, add_special_tokens=False)["input_ids"]) for word in words if word.isalpha())
    texts = list(islice((word for word, ids in plain if tokenizer.unk_token_id not in ids), 2))
    if len(texts) == 2 and prompt_ids(tokenizer, texts[0]) == prompt_ids(tokenizer, texts[1]):
        raise UserError("prompts of different text become the same tokens: the chat template or the tokenizer is broken; fetch them again")
