"""Stage 2 of the PPO pipeline: a reward model learned from preferences (Bradley-Terry)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from alignlab import losses
from alignlab.data import collate, encode_all, lengths
from alignlab.models import RewardModel
from alignlab.optim import clip_gradients, micro_batches, minibatches, optimiser, set_learning_rate, warm_then_decay


@dataclass(kw_only=True, slots=True)
class Config:
    """The learning rate is read at each step, so a change takes effect at the next one; the rest is read at the start."""

    learning_rate: float = 3e-3  # of AdamW
    batch_size: int = 64  # pairs per step
    micro_batch_size: int = 64  # pairs in memory at once; changes memory use, not the result
    epochs: int = 2  # passes over the pairs; beyond the first few a reward model overfits
    max_length: int = 128  # tokens of prompt and completion together; no more than the model can take
    seed: int = 0  # order of the pairs


def train(reward_model: RewardModel, pairs: Sequence[dict], config: Config) -> Iterator[dict]:
    """Train the reward model on records with `prompt`, `chosen` and `rejected`; yields a dict of metrics a step.

    Metrics: loss (log 2 = 0.693 at the start), accuracy (share of pairs in the right order), margin (mean difference of scores).
    """
    generator = torch.Generator().manual_seed(config.seed)
    examples = encode_all(reward_model.tokenizer, pairs, ["chosen", "rejected"], min(config.max_length, reward_model.base.max_length))
    tokens = lengths(examples)
    optimizer = optimiser(reward_model.parameters())
    steps = minibatches(len(examples), config.batch_size, config.epochs, generator)
    for step, rows in enumerate(steps):
        set_learning_rate(optimizer, config.learning_rate * warm_then_decay(step, len(steps)))
        loss, margins = 0.0, []
        optimizer.zero_grad()
        for micro in micro_batches(rows, tokens, config.micro_batch_size):
            chosen, rejected = zip(*(examples[row] for row in micro.tolist()), strict=True)
            batch = collate(chosen + rejected, reward_model.tokenizer.pad_token_id, reward_model.device)
            chosen_scores, rejected_scores = reward_model.scores(batch).chunk(2)
            part = losses.preference_loss(chosen_scores, rejected_scores) * (len(micro) / len(rows))
            part.backward()
            loss += part.item()
            margins.append((chosen_scores - rejected_scores).detach())
        norm = clip_gradients(optimizer, loss)
        optimizer.step()
        margin = torch.cat(margins)
        yield {
            "stage": "reward", "step": step, "steps": len(steps), "loss": loss,
            "accuracy": losses.accuracy(margin).item(), "margin": margin.mean().item(), "gradient_norm": norm,
        }  # fmt: skip
