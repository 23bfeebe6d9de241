"""Kahneman-Tversky optimisation: single answers, each desirable or not, instead of pairs."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alignlab.data import Batch, Example, collate, encode_all, lengths
from alignlab.losses import kto_kl, kto_loss, sequence_logps
from alignlab.models import Policy
from alignlab.optim import clip_gradients, micro_batches, minibatches, optimiser, set_learning_rate, warm_then_decay
from alignlab.stage import EVERY_STEP, FRESH_ANSWERS, LEARNING_RATE, Control, Given, Panel, Stage


@dataclass(kw_only=True, slots=True)
class Config:
    """Beta, the weights and the learning rate are read at each step, so a change takes effect at the next one."""

    beta: float = 0.5  # > 0; the price of KL (see the head of `losses`)
    desirable_weight: float = 1.0  # > 0; of desirable answers, the paper's lambda_D
    undesirable_weight: float = 1.0  # > 0; of the others; raise one to balance unequal counts
    learning_rate: float = 1.5e-3  # of AdamW; works together with beta
    batch_size: int = 64  # answers per step; at least 2, since each prompt is also given another one's answer
    micro_batch_size: int = 32  # answers in memory at once; changes memory use, not the result
    epochs: int = 1  # passes over the answers
    max_length: int = 128  # tokens of prompt and completion together; no more than the model can take
    seed: int = 0  # order of the answers


def train(policy: Policy, answers: Sequence[dict], config: Config) -> Iterator[dict]:
    """Train the policy on records with `prompt`, `completion` and `desirable`; yields a dict of metrics per step.

    Metrics: see `STAGE.metrics`.
    """
    generator = torch.Generator().manual_seed(config.seed)
    examples, desirable = _encoded(policy, answers, min(config.max_length, policy.base.max_length))
    tokens, optimizer = lengths([[example] for example in examples]), optimiser(policy.parameters())
    references = torch.full((len(examples),), torch.nan)  # kept from the first time that an answer is seen
    steps = minibatches(len(examples), config.batch_size, config.epochs, generator)
    for step, rows in enumerate(steps):
        beta, weights = config.beta, (config.desirable_weight, config.undesirable_weight)
        set_learning_rate(optimizer, config.learning_rate * warm_then_decay(step, len(steps)))
        point = reference_point(policy, [examples[row] for row in rows.tolist()])
        loss, seen = 0.0, []
        optimizer.zero_grad()
        for micro in micro_batches(rows, tokens, config.micro_batch_size):
            batch = _batch(policy, [examples[row] for row in micro.tolist()])
            if references[micro].isnan().any():
                references[micro] = sequence_logps(policy.reference_logps(batch), batch.mask).cpu()
            reference, good = references[micro].to(policy.device), desirable[micro].to(policy.device)
            logps = sequence_logps(policy.logps(batch), batch.mask)  # (micro,)
            part = kto_loss(logps, reference, good, point, beta, *weights) * (len(micro) / len(rows))
            part.backward()
            loss += part.item()
            seen.append((logps.detach(), reference, good))
        norm = clip_gradients(optimizer, loss)
        optimizer.step()
        logps, reference, good = (torch.cat(column) for column in zip(*seen, strict=True))
        reward = beta * (logps - reference)
        yield {
            "stage": "kto", "step": step, "steps": len(steps), "beta": beta, "loss": loss, "reference_point": point.item(),
            "desirable_reward": _mean(reward, good), "undesirable_reward": _mean(reward, ~good),
            "desirable_logps": _mean(logps, good), "undesirable_logps": _mean(logps, ~good), "gradient_norm": norm,
        }  # fmt: skip


def unpaired(pairs: Sequence[dict]) -> list[dict]:
    """Each pair's two answers as two records of their own: the chosen one desirable, the rejected one not."""
    sides = (("chosen", True), ("rejected", False))
    return [{"prompt": pair["prompt"], "completion": pair[side], "desirable": good} for pair in pairs for side, good in sides]


@torch.no_grad()
def reference_point(policy: Policy, examples: Sequence[Example]) -> Tensor:
    """KTO's estimate of KL in nats, (), from prompts each with its neighbour's answer; 0 where a batch's rest is a single answer."""
    if len(examples) < 2:
        return torch.zeros((), device=policy.device)
    neighbours = [*examples[1:], examples[0]]
    batch = _batch(policy, [Example(one.prompt, other.completion) for one, other in zip(examples, neighbours, strict=True)])
    seen = policy.measure(batch)
    return kto_kl(sequence_logps(seen.logps, batch.mask), sequence_logps(seen.ref_logps, batch.mask))


def _encoded(policy: Policy, answers: Sequence[dict], room: int) -> tuple[list[Example], Tensor]:
    """The answers as examples, and which are desirable, (N,) bool."""
    examples, good = [], []
    for wanted in (True, False):
        records = [answer for answer in answers if bool(answer["desirable"]) == wanted]
        found = [example for (example,) in encode_all(policy.tokenizer, records, ["completion"], room)] if records else []
        examples += found
        good += [wanted] * len(found)
    return examples, torch.tensor(good)


def _batch(policy: Policy, examples: Sequence[Example]) -> Batch:
    return collate(examples, policy.tokenizer.pad_token_id, policy.device)


def _mean(values: Tensor, where: Tensor) -> float:
    """The mean over some of the values; 0 where there are none."""
    return (values[where].sum() / where.sum().clamp(min=1)).item()


def check(config: Config) -> str | None:
    """What is wrong with a config, and the cure, in one line."""
    if not 0 < config.beta < math.inf:
        return f"beta must be > 0 for KTO, got {config.beta:g}; try 0.1 to 1, or set the other method's alone with its own option"
    if config.batch_size < 2:
        return f"batch_size must be >= 2 for KTO, got {config.batch_size}; each prompt is also given another one's answer"
    return None


def begin(given: Given, config: Config, name: str) -> tuple[Policy, Iterator[dict]]:
    """A fresh policy, and the steps that train it on the pairs' answers, each by itself."""
    policy = given.reference.policy(name, given.rank, given.seed)
    return policy, train(policy, unpaired(given.pairs[0]), config)


STAGE = Stage(
    name="kto", like="dpo", title="KTO", config=Config, needs=("sft",), begin=begin, check=check, colour="#56B4E9", marker="X",
    announce=lambda given, config: f"KTO with beta {config.beta:g} on {2 * len(given.pairs[0])} single answers",
    metrics=EVERY_STEP | FRESH_ANSWERS | {
        "beta": "price of KL",
        "loss": "half the mean weight, 0.5 by default, before the first step",
        "reference_point": "estimate of KL from prompts with other prompts' answers, nats, at least 0",
        "desirable_reward": "implicit reward beta * log(pi / pi_ref) of the desirable answers",
        "undesirable_reward": "the same of the others",
        "desirable_logps": "log-probability of the desirable answers, nats per completion", "undesirable_logps": "the same of the others",
    },
    panels=(
        Panel("Loss (half the weight at the start)", (("loss", "loss"),)),
        Panel("Implicit reward", (("desirable_reward", "desirable"), ("undesirable_reward", "undesirable"))),
        Panel("Reference point, nats", (("reference_point", "reference point"),)),
        Panel("Log-probs, nats per completion", (("desirable_logps", "desirable"), ("undesirable_logps", "undesirable"))),
        Panel("KL to the reference, nats", (("kl", "KL"),), (("beta", "beta"),)),
        Panel("Gold reward, not seen", (("gold", "gold"),)),
    ),
    controls=(
        Control("beta", "beta (price of KL)", 0.02, 2.0), LEARNING_RATE,
        Control("desirable_weight", "weight, desirable", 0.2, 5.0), Control("undesirable_weight", "weight, undesirable", 0.2, 5.0),
    ),
)  # fmt: skip
