"""Stage 1, supervised fine-tuning: raise the likelihood of demonstrations."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alignlab.data import collate, encode_all, lengths
from alignlab.losses import sft_loss
from alignlab.models import Policy
from alignlab.optim import descend, micro_batches, minibatches, optimiser, warm_then_decay


@dataclass(kw_only=True, slots=True)
class Config:
    """Rates, beta and the like are read at each step, so that a change acts at the next one.

    What lays out the steps (epochs, batch_size, max_length, seed) is read at the start.

    learning_rate: of AdamW; too high forgets, too low learns nothing.
    batch_size: demonstrations a step.
    micro_batch_size: demonstrations in memory at once; changes memory, not the result.
    epochs: passes over the demonstrations.
    max_length: tokens of prompt and completion together; no more than the model can take.
    seed: order of the demonstrations.
    """

    learning_rate: float = 3e-3
    batch_size: int = 64
    micro_batch_size: int = 64
    epochs: int = 2
    max_length: int = 128
    seed: int = 0


def train(
    policy: Policy, demonstrations: Sequence[dict], config: Config, loss_fn: Callable[[Tensor, Tensor], Tensor] = sft_loss
) -> Iterator[dict]:
    """Train the policy on records with `prompt` and `completion`; yields a dict of metrics a step.

    `loss_fn` is called as `loss_fn(token_logps, mask)`; what it gives is weighted by the micro-batch's share of tokens.

    Metrics: loss (nats a token), perplexity, tokens, gradient_norm.
    """
    generator = torch.Generator().manual_seed(config.seed)
    examples = [
        example
        for (example,) in encode_all(policy.tokenizer, demonstrations, ["completion"], min(config.max_length, policy.base.max_length))
    ]
    length = lengths([[example] for example in examples])
    optimizer = optimiser(policy.parameters())
    steps = minibatches(len(examples), config.batch_size, config.epochs, generator)
    for step, rows in enumerate(steps):
        tokens = sum(len(examples[row].completion) for row in rows.tolist())

        def parts():
            for micro in micro_batches(rows, length, config.micro_batch_size):
                batch = collate([examples[row] for row in micro.tolist()], policy.tokenizer.pad_token_id, policy.device)
                share = batch.mask.sum() / tokens  # weighted by tokens over the whole batch
                yield loss_fn(policy.logps(batch), batch.mask) * share

        loss, norm = descend(optimizer, config.learning_rate * warm_then_decay(step, len(steps)), parts())
        yield {
            "stage": "sft", "step": step, "steps": len(steps), "loss": loss, "perplexity": torch.tensor(loss).exp().item(),
            "tokens": tokens, "gradient_norm": norm,
        }  # fmt: skip
