"""Stage 2 of the PPO pipeline: a reward model learned from preferences (Bradley-Terry)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from alignlab import losses
from alignlab.data import collate, encode_all, lengths
from alignlab.models import RewardModel
from alignlab.optim import descend, micro_batches, minibatches, optimiser, warm_then_decay


@dataclass(kw_only=True, slots=True)
class Config:
    """Rates, beta and the like are read at each step, so that a change acts at the next one.

    What lays out the steps (epochs, batch_size, max_length, seed) is read at the start.

    learning_rate: of AdamW.
    batch_size: pairs a step.
    micro_batch_size: pairs in memory at once; changes memory, not the result.
    epochs: passes over the pairs; beyond the first few a reward model overfits.
    max_length: tokens of prompt and completion together; no more than the model can take.
    seed: order of the pairs.
    """

    learning_rate: float = 3e-3
    batch_size: int = 64
    micro_batch_size: int = 64
    epochs: int = 2
    max_length: int = 128
    seed: int = 0


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
        margins = []

        def parts():
            for micro in micro_batches(rows, tokens, config.micro_batch_size):
                chosen, rejected = zip(*(examples[row] for row in micro.tolist()), strict=True)
                batch = collate(chosen + rejected, reward_model.tokenizer.pad_token_id, reward_model.device)
                chosen_scores, rejected_scores = reward_model.scores(batch).chunk(2)
                margins.append((chosen_scores - rejected_scores).detach())
                yield losses.preference_loss(chosen_scores, rejected_scores) * (len(micro) / len(rows))

        loss, norm = descend(optimizer, config.learning_rate * warm_then_decay(step, len(steps)), parts())
        margin = torch.cat(margins)
        right = (margin > 0).float() + (margin == 0).float() / 2
        yield {
            "stage": "reward", "step": step, "steps": len(steps), "loss": loss,
            "accuracy": right.mean().item(), "margin": margin.mean().item(), "gradient_norm": norm,
        }  # fmt: skip
