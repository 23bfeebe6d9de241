"""Stage 2 of the PPO pipeline: a reward model learned from preferences (Bradley-Terry)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alignlab import losses
from alignlab.data import collate, encode_all, lengths
from alignlab.models import RewardModel
from alignlab.optim import clip_gradients, micro_batches, minibatches, optimiser, set_learning_rate, warm_then_decay
from alignlab.stage import EVERY_STEP, LEARNING_RATE, Given, Panel, Stage


@dataclass(kw_only=True, slots=True)
class Config:
    """The learning rate is read at each step, so a change takes effect at the next one; the rest is read at the start."""

    learning_rate: float = 6e-3  # of AdamW
    batch_size: int = 64  # pairs per step
    micro_batch_size: int = 32  # pairs in memory at once; changes memory use, not the result
    epochs: int = 1  # passes over the pairs; beyond the first few a reward model overfits
    max_length: int = 128  # tokens of prompt and completion together; no more than the model can take
    seed: int = 0  # order of the pairs


def train(
    reward_model: RewardModel, pairs: Sequence[dict], config: Config, loss_fn: Callable[[Tensor, Tensor], Tensor] = losses.preference_loss
) -> Iterator[dict]:
    """Train the reward model on records with `prompt`, `chosen` and `rejected`; yields a dict of metrics per step.

    `loss_fn` is called as `loss_fn(chosen_scores, rejected_scores)` and gives a mean over pairs; the pipeline's
    `test_loss` stays Bradley-Terry's.

    Metrics: see `STAGE.metrics`.
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
            part = loss_fn(chosen_scores, rejected_scores) * (len(micro) / len(rows))
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


def begin(
    given: Given, config: Config, name: str, loss_fn: Callable[[Tensor, Tensor], Tensor] = losses.preference_loss
) -> tuple[RewardModel, Iterator[dict]]:
    """A fresh reward model, and the steps that train it on the pairs."""
    model = given.reference.reward_model(name, given.rank, given.seed)
    return model, train(model, given.pairs[0], config, loss_fn)


STAGE = Stage(
    name="reward", title="reward model", config=Config, needs=("sft",), begin=begin, colour="#882288",
    announce=lambda given, config: f"reward model on {len(given.pairs[0])} pairs",
    metrics=EVERY_STEP | {
        "loss": "log 2 = 0.693 at the start",
        "accuracy": "share of pairs in the right order",
        "margin": "mean difference of the scores, chosen minus rejected",
        "test_loss": "loss on held-out pairs, ten times over the stage", "test_accuracy": "accuracy on held-out pairs",
    },
    panels=(
        Panel("Loss (log 2: knows nothing)", (("loss", "training batch"), ("test_loss", "held-out pairs"))),
        Panel("Accuracy", (("accuracy", "training batch"), ("test_accuracy", "held-out pairs"))),
        Panel("Margin: chosen - rejected", (("margin", "margin"),)),
    ),
    controls=(LEARNING_RATE,),
)  # fmt: skip
