"""Sampling. Left padding lives and dies in this file: what leaves it is right-padded, like everything else."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from alignlab.data import Batch, Example, collate
from alignlab.encoding import prompt_ids
from alignlab.losses import masked, masked_mean
from alignlab.models import Measures, Policy
from alignlab.talks import Text


class Completions(NamedTuple):
    """Sampled answers, one row each."""

    prompts: list[Text]
    texts: list[str]
    batch: Batch
    logps: Tensor  # (B, T) recorded while sampling, nats; 0 outside completions
    stopped: Tensor  # (B,) bool: ended by itself (see `Base.ends`), not at the length limit

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def lengths(self) -> Tensor:
        """(B,) tokens of each completion, EOS included."""
        return self.batch.mask.sum(-1)


Score = Callable[[Completions], Tensor]  # B completions -> (B,) scores, higher is better


def score_completions(score: Score, samples: Completions, missing_eos_score: float) -> Tensor:
    """(B,) scores, with the penalty in place of the score where a completion did not end by itself."""
    scores = score(samples).to(samples.logps)  # a rule, such as a gold reward, scores on the CPU
    return torch.where(samples.stopped, scores, torch.full_like(scores, missing_eos_score))


@torch.no_grad()
def sample(
    policy: Policy, prompts: Sequence[Text], max_new_tokens: int, generator: torch.Generator, temperature: float = 1.0,
    reference: bool = False,
) -> Completions:  # fmt: skip
    """One answer for each prompt, at that temperature with no other cut of the distribution.

    Args:
        prompts: B prompts; repeat a prompt for several answers.
        max_new_tokens: > 0, EOS included.
        generator: on the policy's device; the only source of randomness.
        temperature: > 0; score with the same one.
        reference: sample the reference instead of the policy.

    Returns:
        B completions.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be > 0, got {temperature}")
    base, adapter = (policy.reference, None) if reference else (policy.base, policy.adapter)
    tokenizer, device = policy.tokenizer, policy.device
    room = max(base.max_length - max_new_tokens, 1)
    cached: dict[str, list[int]] = {}
    encoded = [cached.get(str(p)) or cached.setdefault(str(p), prompt_ids(tokenizer, p, room)) for p in prompts]
    with base.using(adapter):
        tokens, logps = _generate(base, encoded, max_new_tokens, temperature, generator)

    ended = torch.isin(tokens, torch.tensor(base.ends, device=device)).cumsum(-1)  # (B, N) 0 before the end, 1 from there on
    stopped = ended[:, -1] > 0
    lengths = ((ended == 0).sum(-1) + stopped.long()).tolist()
    rows = [row[:length] for row, length in zip(tokens.tolist(), lengths, strict=True)]
    batch = collate([Example(p, row) for p, row in zip(encoded, rows, strict=True)], tokenizer.pad_token_id, device)
    recorded = torch.zeros(batch.ids.shape, device=device)
    recorded[batch.mask.bool()] = logps[torch.arange(tokens.shape[1], device=device) < torch.tensor(lengths, device=device)[:, None]]
    texts = tokenizer.batch_decode(rows, skip_special_tokens=True)
    return Completions(list(prompts), texts, batch, masked(recorded, batch.mask), stopped)


def describe(samples: Completions, measures: Measures, scores: Tensor, beta: float) -> dict:
    """The metrics of what was sampled: `scores` (B,), `measures` under the policy that sampled."""
    kl, reward = measures.kl.sum(-1), scores.mean()
    return {
        "beta": beta, "reward": reward.item(),
        "kl": kl.mean().item(), "kl_se": (kl.std(correction=0) / len(kl) ** 0.5).item(),
        "objective": (reward - beta * kl.mean()).item(),
        "entropy": masked_mean(measures.entropy, samples.batch.mask).item(),
        "length": samples.lengths.float().mean().item(), "stop_rate": samples.stopped.float().mean().item(),
        "samples": [{"prompt": samples.prompts[row], "text": samples.texts[row]} for row in range(min(2, len(samples)))],
    }  # fmt: skip


def draw(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """One position from each row's distribution: (A, V) -> (A, 1). One uniform number per row, by inversion."""
    total = probabilities.cumsum(-1)
    level = torch.rand(len(total), 1, generator=generator, device=total.device) * total[:, -1:]
    return torch.searchsorted(total, level, right=True).clamp(max=total.shape[-1] - 1)


def _generate(base, encoded: list[list[int]], max_new_tokens: int, temperature: float, generator) -> tuple[Tensor, Tensor]:
    """Tokens and their log-probabilities, (B, N) each; after EOS a row is filled with EOS and means nothing."""
    eos, device, ends = base.tokenizer.eos_token_id, base.device, torch.tensor(base.ends, device=base.device)
    count, width = len(encoded), max(map(len, encoded))
    ids = torch.tensor([[eos] * (width - len(row)) + row for row in encoded], device=device)  # padding on the left
    attention = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in encoded], device=device)
    tokens = torch.full((count, max_new_tokens), eos, device=device)
    logps = torch.zeros(count, max_new_tokens, device=device)
    alive = torch.arange(count, device=device)  # rows that have not ended; the others are not computed any more
    running = torch.ones_like(alive, dtype=torch.bool)
    cache = None
    for step in range(max_new_tokens):
        hidden, cache = base.next_hidden(ids, attention, cache)
        logp = (base.logits(hidden).float() / temperature).log_softmax(-1)  # (A, V)
        chosen = draw(logp.exp(), generator)  # (A, 1)
        chosen = torch.where(running[:, None], chosen, eos)
        tokens[alive, step] = chosen.squeeze(-1)
        logps[alive, step] = logp.gather(-1, chosen).squeeze(-1)
        running = ~torch.isin(chosen.squeeze(-1), ends)
        going = running.nonzero().squeeze(-1)
        if len(going) == 0:
            break
        if len(going) < 0.8 * len(alive):
            alive, chosen, attention, running = alive[going], chosen[going], attention[going], running[going]
            cache.batch_select_indices(going)
        ids = chosen
        attention = torch.cat([attention, torch.ones_like(chosen)], dim=-1)
    return tokens, logps
