"""Stage 1, supervised fine-tuning: raise the likelihood of demonstrations."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alignlab.data import collate, encode_all, lengths
from alignlab.losses import sft_loss
from alignlab.models import Policy
from alignlab.optim import clip_gradients, micro_batches, minibatches, optimiser, set_learning_rate, warm_then_decay
from alignlab.stage import EVERY_STEP, LEARNING_RATE, Given, Panel, Stage


@dataclass(kw_only=True, slots=True)
class Config:
    """The learning rate is read at each step, so a change takes effect at the next one; the rest is read at the start."""

    learning_rate: float = 5e-3  # of AdamW; too high forgets, too low learns nothing
    batch_size: int = 64  # demonstrations per step
    micro_batch_size: int = 32  # demonstrations in memory at once; changes memory use, not the result
    epochs: int = 4  # passes over the demonstrations
    max_length: int = 128  # tokens of prompt and completion together; no more than the model can take
    seed: int = 0  # order of the demonstrations


def train(
    policy: Policy, demonstrations: Sequence[dict], config: Config, loss_fn: Callable[[Tensor, Tensor], Tensor] = sft_loss
) -> Iterator[dict]:
    """Train the policy on records with `prompt` and `completion`; yields a dict of metrics per step.

    `loss_fn` is called as `loss_fn(token_logps, mask)`; what it gives is weighted by the micro-batch's share of tokens.

    Metrics: see `STAGE.metrics`.
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
        set_learning_rate(optimizer, config.learning_rate * warm_then_decay(step, len(steps)))
        tokens, loss = sum(len(examples[row].completion) for row in rows.tolist()), 0.0
        optimizer.zero_grad()
        for micro in micro_batches(rows, length, config.micro_batch_size):
            batch = collate([examples[row] for row in micro.tolist()], policy.tokenizer.pad_token_id, policy.device)
            part = loss_fn(policy.logps(batch), batch.mask) * (batch.mask.sum() / tokens)  # a mean over the tokens of the whole batch
            part.backward()
            loss += part.item()
        norm = clip_gradients(optimizer, loss)
        optimizer.step()
        yield {
            "stage": "sft", "step": step, "steps": len(steps), "loss": loss, "perplexity": torch.tensor(loss).exp().item(),
            "tokens": tokens, "gradient_norm": norm,
        }  # fmt: skip


def begin(given: Given, config: Config, name: str) -> tuple[Policy, Iterator[dict]]:
    """A fresh policy over the base, and the steps that train it on the demonstrations."""
    policy = given.base.policy(name, given.rank, given.seed)
    return policy, train(policy, given.demonstrations, config)


STAGE = Stage(
    name="sft", title="SFT", config=Config, needs=(), begin=begin, colour="#555555", marker="s",
    announce=lambda given, config: f"SFT on {len(given.demonstrations)} demonstrations",
    metrics=EVERY_STEP | {
        "loss": "nats per token",
        "perplexity": "exp(loss): among how many tokens the model hesitates, as it were",
        "tokens": "completion tokens in the batch",
    },
    panels=(
        Panel("Loss, nats per token", (("loss", "loss"),)),
        Panel("Perplexity", (("perplexity", "perplexity"),)),
        Panel("Gradient norm", (("gradient_norm", "norm"),)),
    ),
    controls=(LEARNING_RATE,),
)  # fmt: skip
