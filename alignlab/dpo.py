"""Direct preference optimisation: the same pairs, no reward model, no sampling."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from inspect import signature

import torch
from torch import Tensor

from alignlab.data import Batch, Example, collate, encode_all, lengths
from alignlab.losses import accuracy, dpo_loss, sequence_logps
from alignlab.models import Policy
from alignlab.optim import clip_gradients, micro_batches, minibatches, optimiser, set_learning_rate, warm_then_decay
from alignlab.stage import EVERY_STEP, FRESH_ANSWERS, LEARNING_RATE, Control, Given, Panel, Stage


@dataclass(kw_only=True, slots=True)
class Config:
    """Beta, label smoothing and the learning rate are read at each step, so a change takes effect at the next one."""

    beta: float = 0.5  # > 0; the price of KL (see the head of `losses`)
    label_smoothing: float = 0.0  # in [0, 0.5); the share of labels expected to be wrong (cDPO)
    learning_rate: float = 1.5e-3  # of AdamW; works together with beta
    batch_size: int = 64  # pairs per step
    micro_batch_size: int = 32  # pairs in memory at once; changes memory use, not the result
    epochs: int = 1  # passes over the pairs
    max_length: int = 128  # tokens of prompt and completion together; no more than the model can take
    seed: int = 0  # order of the pairs


def train(policy: Policy, pairs: Sequence[dict], config: Config, loss_fn: Callable[..., Tensor] = dpo_loss) -> Iterator[dict]:
    """Train the policy on records with `prompt`, `chosen` and `rejected`; yields a dict of metrics per step.

    `loss_fn` is called as `loss_fn(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta)`, with
    `label_smoothing=` where that is not 0, and with `chosen_lengths=` or `rejected_lengths=` (tokens) where it has such arguments.

    Metrics: see `STAGE.metrics`.
    """
    generator = torch.Generator().manual_seed(config.seed)
    examples = encode_all(policy.tokenizer, pairs, ["chosen", "rejected"], min(config.max_length, policy.base.max_length))
    tokens = lengths(examples)
    references = torch.full((len(examples), 2), torch.nan)  # each pair's, kept from the first time that it is seen
    optimizer = optimiser(policy.parameters())
    arguments = signature(loss_fn).parameters
    steps = minibatches(len(examples), config.batch_size, config.epochs, generator)
    for step, rows in enumerate(steps):
        beta, options = config.beta, {"label_smoothing": config.label_smoothing} if config.label_smoothing else {}
        set_learning_rate(optimizer, config.learning_rate * warm_then_decay(step, len(steps)))
        loss, seen = 0.0, []
        optimizer.zero_grad()
        for micro in micro_batches(rows, tokens, config.micro_batch_size):
            batch = _both(policy, [examples[row] for row in micro.tolist()])
            if references[micro].isnan().any():
                references[micro] = reference_logps(policy, batch).T.cpu()
            reference = references[micro].T.to(policy.device)  # (2, micro): chosen, rejected
            logps = _by_pair(policy.logps(batch), batch)  # (2, micro)
            counts = dict(zip(("chosen_lengths", "rejected_lengths"), batch.mask.sum(-1).chunk(2), strict=True))
            lengths_asked = {name: count for name, count in counts.items() if name in arguments}
            part = loss_fn(*logps, *reference, beta, **options, **lengths_asked) * (len(micro) / len(rows))
            part.backward()
            loss += part.item()
            seen.append((logps.detach(), reference))
        norm = clip_gradients(optimizer, loss)
        optimizer.step()
        logps, reference = (torch.cat(column, dim=1) for column in zip(*seen, strict=True))
        chosen_reward, rejected_reward = beta * (logps - reference)
        margin = chosen_reward - rejected_reward
        yield {
            "stage": "dpo", "step": step, "steps": len(steps), "beta": beta, "loss": loss,
            "accuracy": accuracy(margin).item(), "margin": margin.mean().item(),
            "chosen_reward": chosen_reward.mean().item(), "rejected_reward": rejected_reward.mean().item(),
            "chosen_logps": logps[0].mean().item(), "rejected_logps": logps[1].mean().item(), "gradient_norm": norm,
        }  # fmt: skip


def reference_logps(policy: Policy, batch: Batch) -> Tensor:
    """The reference's log-probabilities of chosen (row 0) and rejected (row 1) completions: (2, pairs), nats."""
    return _by_pair(policy.reference_logps(batch), batch)


def _by_pair(token_logps: Tensor, batch: Batch) -> Tensor:
    return torch.stack(sequence_logps(token_logps, batch.mask).chunk(2))


def _both(policy: Policy, examples: Sequence[Sequence[Example]]) -> Batch:
    """One batch: all chosen completions, then all rejected ones."""
    chosen, rejected = zip(*examples, strict=True)
    return collate(chosen + rejected, policy.tokenizer.pad_token_id, policy.device)


def check(config: Config) -> str | None:
    """What is wrong with a config, and the cure, in one line."""
    if not 0 < config.beta < math.inf:
        return f"beta must be > 0 for DPO, got {config.beta:g}; try 0.1 to 1, or set the other method's alone with its own option"
    return None


def begin(given: Given, config: Config, name: str, loss_fn: Callable[..., Tensor] = dpo_loss) -> tuple[Policy, Iterator[dict]]:
    """A fresh policy, and the steps that train it on the pairs."""
    policy = given.reference.policy(name, given.rank, given.seed)
    return policy, train(policy, given.pairs[0], config, loss_fn)


STAGE = Stage(
    name="dpo", title="DPO", config=Config, needs=("sft",), begin=begin, check=check, colour="#0072B2", marker="D",
    announce=lambda given, config: f"DPO with beta {config.beta:g} on {len(given.pairs[0])} pairs",
    metrics=EVERY_STEP | FRESH_ANSWERS | {
        "beta": "price of KL",
        "loss": "log 2 = 0.693 before the first step",
        "accuracy": "share of pairs whose chosen answer has the larger implicit reward beta * log(pi / pi_ref)",
        "margin": "mean difference of the two implicit rewards",
        "chosen_reward": "implicit reward of the chosen answers", "rejected_reward": "implicit reward of the rejected answers",
        "chosen_logps": "log-probability of the chosen answers, nats per completion; watch it fall",
        "rejected_logps": "the same of the rejected answers",
    },
    panels=(
        Panel("Loss (log 2 at the start)", (("loss", "loss"),)),
        Panel("Preference accuracy", (("accuracy", "accuracy"),)),
        Panel("Margin of the implicit reward", (("margin", "margin"),)),
        Panel("Log-probs, nats per completion", (("chosen_logps", "chosen"), ("rejected_logps", "rejected"))),
        Panel("KL to the reference, nats", (("kl", "KL"),), (("beta", "beta"),)),
        Panel("Gold reward, not seen", (("gold", "gold"),)),
    ),
    controls=(
        Control("beta", "beta (price of KL)", 0.02, 2.0),  # must stay above 0
        LEARNING_RATE,
        Control("label_smoothing", "label smoothing", 0.0, 0.4),
    ),
)  # fmt: skip
