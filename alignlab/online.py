"""DPO on fresh pairs: the policy answers each prompt twice, the reward model says which answer is better, and DPO learns from that.

The loss is DPO's; what differs is where the pairs come from (Guo et al. 2402.04792). `Config.every` is the dial: pairs are drawn anew
from the moving policy after so many steps. 1 is fully fresh; `steps`, and all of them come from the SFT model, before training.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from alignlab.errors import TrainingError
from alignlab.losses import accuracy, dpo_loss, sequence_logps
from alignlab.models import Measures, Policy
from alignlab.optim import clip_gradients, micro_batches, optimiser, set_learning_rate, warm_then_decay
from alignlab.rollout import Completions, Score, describe, sample, score_completions
from alignlab.stage import EVERY_STEP, FRESH_ANSWERS, LEARNING_RATE, Control, Given, Panel, Stage
from alignlab.talks import Text


@dataclass(kw_only=True, slots=True)
class Config:
    """Beta, the learning rate and the settings of sampling are read at each step, the rest at the start."""

    beta: float = 0.5  # > 0; the price of KL (see the head of `losses`)
    every: int = 1  # steps for which pairs are drawn at once
    learning_rate: float = 1.5e-3  # of AdamW; works together with beta
    steps: int = 80
    batch_size: int = 64  # pairs per step
    micro_batch_size: int = 32  # pairs in memory at once; changes memory use, not the result
    missing_eos_score: float = -3.0  # the score of a completion that did not end by itself, in the units of the (centred) score
    max_new_tokens: int = 48  # of sampling
    temperature: float = 1.0  # of sampling
    seed: int = 0  # of prompts and samples


class Pairs(NamedTuple):
    """Pairs drawn at one moment, two completions each."""

    samples: Completions  # two neighbours answer one prompt
    old: Measures  # under the policy that sampled
    scores: Tensor  # (2 pairs,) missing-EOS rule applied
    chosen: Tensor  # (pairs,) rows of the better-scored completions
    rejected: Tensor  # (pairs,)


def train(policy: Policy, score: Score, prompts: Sequence[Text], config: Config, judge: Score | None = None) -> Iterator[dict]:
    """Train the policy on pairs of its own answers, ordered by `score`; yields a dict of metrics per step.

    `judge`, where given, also reports its mean of the same completions as `gold`; nothing is learned from it.

    Metrics: see `STAGE.metrics`.
    """
    rng, order = torch.Generator(policy.device).manual_seed(config.seed), torch.Generator().manual_seed(config.seed)
    optimizer = optimiser(policy.parameters())
    for step in range(config.steps):
        if step % config.every == 0:
            rows = torch.randint(len(prompts), (min(config.every, config.steps - step) * config.batch_size,), generator=order)
            drawn = draw(policy, score, [prompts[row] for row in rows.repeat_interleave(2).tolist()], config, rng)
            described = describe(drawn.samples, drawn.old, drawn.scores, config.beta) | gap(drawn)
            if judge is not None:
                described["gold"] = judge(drawn.samples).mean().item()
        set_learning_rate(optimizer, config.learning_rate * warm_then_decay(step, config.steps))
        pairs = torch.arange(config.batch_size, device=policy.device) + step % config.every * config.batch_size
        metrics = {"stage": "online", "step": step, "steps": config.steps, "beta": config.beta}
        yield metrics | (described if step % config.every == 0 else {}) | update(policy, optimizer, drawn, pairs, config)


@torch.no_grad()
def draw(policy: Policy, score: Score, prompts: Sequence[Text], config: Config, rng: torch.Generator) -> Pairs:
    """Sample one answer to each entry of `prompts`, which has each prompt twice in a row; the better-scored is the chosen one.

    Raises:
        TrainingError: a score is not finite, so that there is no better one.
    """
    samples = sample(policy, prompts, config.max_new_tokens, rng, config.temperature)
    scores = score_completions(score, samples, config.missing_eos_score)
    if not torch.isfinite(scores).all():
        raise TrainingError("the scores of some answers are not finite; lower the learning rate, or check the reward model")
    first = torch.arange(0, len(samples), 2, device=scores.device)
    second_is_better = (scores[1::2] > scores[::2]).long()
    return Pairs(samples, policy.measure(samples.batch), scores, first + second_is_better, first + 1 - second_is_better)


def update(policy: Policy, optimizer: torch.optim.Optimizer, drawn: Pairs, pairs: Tensor, config: Config) -> dict:
    """One step of DPO on some of the pairs; returns its metrics."""
    whole, loss, seen = drawn.samples.batch, 0.0, []
    reference = sequence_logps(drawn.old.ref_logps, whole.mask)  # (2 pairs,)
    tokens = whole.attention.sum(-1)
    optimizer.zero_grad()
    for micro in micro_batches(pairs, tokens[drawn.chosen] + tokens[drawn.rejected], config.micro_batch_size):
        rows = torch.stack([drawn.chosen[micro], drawn.rejected[micro]])  # (2, micro)
        batch = whole.rows(rows.flatten())
        logps = sequence_logps(policy.logps(batch), batch.mask).view_as(rows)
        known = reference[rows]
        part = dpo_loss(logps[0], logps[1], known[0], known[1], config.beta) * (len(micro) / len(pairs))
        part.backward()
        loss += part.item()
        seen.append((logps.detach(), known))
    norm = clip_gradients(optimizer, loss)
    optimizer.step()
    logps, known = (torch.cat(column, dim=1) for column in zip(*seen, strict=True))
    chosen_reward, rejected_reward = config.beta * (logps - known)
    margin = chosen_reward - rejected_reward
    return {
        "loss": loss, "accuracy": accuracy(margin).item(), "margin": margin.mean().item(),
        "chosen_logps": logps[0].mean().item(), "rejected_logps": logps[1].mean().item(), "gradient_norm": norm,
    }  # fmt: skip


def gap(drawn: Pairs) -> dict:
    """How far the two answers to a prompt lie apart."""
    return {"gap": (drawn.scores[drawn.chosen] - drawn.scores[drawn.rejected]).mean().item()}


def check(config: Config) -> str | None:
    """What is wrong with a config, and the cure, in one line."""
    if not 0 < config.beta < math.inf:
        return f"beta must be > 0 for online DPO, got {config.beta:g}; try 0.1 to 1, or set the other method's alone with its own option"
    if config.every < 1:
        return f"every must be >= 1 for online DPO, got {config.every}; 1 draws fresh pairs at each step"
    return None


def begin(given: Given, config: Config, name: str) -> tuple[Policy, Iterator[dict]]:
    """A fresh policy, and the steps that train it on pairs of its own answers."""
    score = given.score  # may train a reward model first
    policy = given.reference.policy(name, given.rank, given.seed)
    return policy, train(policy, score, given.prompts, config, given.gold)


STAGE = Stage(
    name="online", like="dpo", title="online DPO", config=Config, needs=("sft", "reward"), begin=begin, check=check,
    colour="#E69F00", marker="p", samples=True,
    announce=lambda given, config: f"online DPO with beta {config.beta:g}, fresh pairs every {config.every} of {config.steps} steps",
    metrics=EVERY_STEP | FRESH_ANSWERS | {
        "beta": "price of KL",
        "loss": "log 2 = 0.693 where policy and reference agree; it need not fall, since the pairs change",
        "accuracy": "share of pairs whose chosen answer has the larger implicit reward beta * log(pi / pi_ref)",
        "margin": "mean difference of the two implicit rewards",
        "reward": "mean score of the reward model over both answers, missing-EOS rule applied", "kl_se": "standard error of kl",
        "objective": "reward minus beta times kl", "entropy": "of the next-token distribution, nats per token",
        "gap": "mean difference of the two answers' scores; small where the policy has become sure",
        "chosen_logps": "log-probability of the chosen answers, nats per completion",
        "rejected_logps": "the same of the rejected answers", "samples": "the first two completions",
    },
    panels=(
        Panel("Loss (log 2 at the start)", (("loss", "loss"),)),
        Panel("Reward", (("reward", "reward model"), ("gold", "gold, not seen"))),
        Panel("KL to the reference, nats", (("kl", "KL"),), (("beta", "beta"),)),
        Panel("Gap of the pairs' scores", (("gap", "gap"),)),
        Panel("Log-probs, nats per completion", (("chosen_logps", "chosen"), ("rejected_logps", "rejected"))),
        Panel("Completions", (("length", "tokens"),), (("stop_rate", "share that ends"),)),
    ),
    controls=(Control("beta", "beta (price of KL)", 0.02, 2.0), LEARNING_RATE),
)  # fmt: skip
