"""Proximal policy optimisation: sample, score, shape the reward, learn; again and again."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from alignlab import losses
from alignlab.heads import ValueHead
from alignlab.models import Measures, Policy
from alignlab.optim import clip_gradients, micro_batches, optimiser, set_learning_rate, warm_then_decay
from alignlab.rollout import Completions, Score, describe, sample, score_completions
from alignlab.stage import EVERY_STEP, FRESH_ANSWERS, LEARNING_RATE, Control, Given, Panel, Stage
from alignlab.talks import Text

LEAST_BETA = 1e-3  # of an adaptive beta, which is multiplied: from 0 it would never rise


@dataclass(kw_only=True, slots=True)
class Config:
    """Beta and the settings of sampling are read at each iteration, those of learning at each epoch, the rest at the start."""

    beta: float = 0.38  # >= 0; the price of KL (see the head of `losses`), in reward units per nat
    kl_target: float | None = None  # nats per completion, or None; with it, beta is adapted to hold the KL there
    kl_horizon: int = 5000  # completions over which an adaptive beta may change by a fifth
    clip_epsilon: float = 0.2  # how far the ratio to the policy that sampled may move before the objective stops rewarding it
    value_clip: float | None = None  # the same for values, in reward units, or None
    gamma: float = 1.0  # discount
    lam: float = 1.0  # GAE's trade of bias (0) for variance (1)
    learning_rate: float = 2e-3  # of AdamW at its highest, for the policy; it falls to a tenth
    value_learning_rate: float = 1e-2  # the same for the value head
    iterations: int = 12  # times the policy samples
    batch_size: int = 384  # completions per iteration
    epochs: int = 2  # passes over them
    minibatch_size: int = 128  # completions per step
    micro_batch_size: int | None = 32  # completions in memory at once while learning; None for a whole minibatch; no effect on the result
    stop_kl: float | None = None  # end an iteration's epochs once the policy is this far from the one that sampled, nats per token; or None
    missing_eos_score: float = -3.0  # the score of a completion that did not end by itself, in the units of the (centred) score
    max_new_tokens: int = 48  # of sampling
    temperature: float = 1.0  # of sampling; log-probs are scored at the same one
    seed: int = 0  # of prompts, samples and minibatches


class Experience(NamedTuple):
    """One iteration's samples and all that is fixed about them while the policy learns from them."""

    samples: Completions
    old: Measures  # under the policy that sampled
    scores: Tensor  # (B,) as PPO uses them: missing-EOS rule applied
    values: Tensor  # (B, T)
    advantages: Tensor  # (B, T) normalised
    returns: Tensor  # (B, T)
    rewards: Tensor  # (B, T) shaped


def train(
    policy: Policy, value_head: ValueHead, score: Score, prompts: Sequence[Text], config: Config, judge: Score | None = None,
    equations=losses,
) -> Iterator[dict]:  # fmt: skip
    """Train the policy to raise `score` at the price of beta a nat; yields a dict of metrics after each phase.

    Each iteration yields once after sampling and once after each epoch, with `partial` true in all but the last.
    `value_head` learns along with the policy. `judge`, where given, also reports its mean of the same completions as `gold`;
    nothing is learned from it. `equations` holds the functions that PPO calls, by the names that they have in `losses`.

    Metrics: see `STAGE.metrics`.
    """
    rng, order = torch.Generator(policy.device).manual_seed(config.seed), torch.Generator().manual_seed(config.seed)
    optimizer = optimiser(policy.parameters(), value_head.parameters())
    for iteration in range(config.iterations):
        rate = warm_then_decay(iteration, config.iterations)
        rows = torch.randint(len(prompts), (config.batch_size,), generator=order).tolist()
        experience = collect(policy, value_head, score, [prompts[row] for row in rows], config, rng, equations)
        seen = describe(experience.samples, experience.old, experience.scores, config.beta)
        metrics = {"stage": "ppo", "step": iteration, "steps": config.iterations, **seen}
        if judge is not None:
            metrics["gold"] = judge(experience.samples).mean().item()
        yield {**metrics, "partial": True}
        for epoch in range(config.epochs):
            metrics |= update(policy, value_head, optimizer, experience, config, order, rate, equations)
            if epoch == config.epochs - 1 or (config.stop_kl is not None and metrics["approx_kl"] > config.stop_kl):
                break
            yield {**metrics, "partial": True}
        metrics["samples"] = tell(policy, experience, config)
        if config.kl_target is not None:
            beta = max(config.beta, LEAST_BETA)
            beta = equations.adapt_beta(beta, metrics["kl"], config.kl_target, config.batch_size, config.kl_horizon)
            config.beta = max(beta, LEAST_BETA)
        yield metrics


@torch.no_grad()
def collect(
    policy: Policy, value_head: ValueHead, score: Score, prompts: Sequence[Text], config: Config, rng: torch.Generator, equations=losses
) -> Experience:
    """Sample one answer per prompt, score it, and work out rewards, values, advantages and returns."""
    samples = sample(policy, prompts, config.max_new_tokens, rng, config.temperature)
    mask = samples.batch.mask
    scores = score_completions(score, samples, config.missing_eos_score)
    old = policy.measure(samples.batch, config.temperature)
    values = losses.masked(value_head(old.hidden), mask)
    rewards = equations.shape_rewards(scores, old.logps, old.ref_logps, mask, config.beta)
    advantages, returns = equations.gae(rewards, values, mask, config.gamma, config.lam)
    return Experience(samples, old, scores, values, equations.normalise(advantages, mask), returns, rewards)


def update(
    policy: Policy, value_head: ValueHead, optimizer: torch.optim.Optimizer, experience: Experience, config: Config,
    rng: torch.Generator, share: float = 1.0, equations=losses,
) -> dict:  # fmt: skip
    """One epoch of minibatches over the experience, at that share of the learning rates; returns metrics, means over the epoch."""
    whole, parts, norms = experience.samples.batch, [], []
    minibatches = torch.randperm(len(experience.samples), generator=rng).split(config.minibatch_size)
    for rows in minibatches:
        rows, loss = rows.to(policy.device), 0.0
        set_learning_rate(optimizer, config.learning_rate * share, config.value_learning_rate * share)
        optimizer.zero_grad()
        for micro in micro_batches(rows, whole.attention.sum(-1), config.micro_batch_size or len(rows)):
            batch = whole.rows(micro)
            mask, width = batch.mask, batch.ids.shape[1]
            old_logps, advantages, returns, old_values = (
                tensor[micro, :width] for tensor in (experience.old.logps, experience.advantages, experience.returns, experience.values)
            )
            logps, hidden = policy.forward(batch, config.temperature)  # one pass for policy and value
            policy_part = equations.clipped_policy_loss(logps, old_logps, advantages, mask, config.clip_epsilon)
            value_part = equations.value_loss(value_head(hidden), old_values, returns, mask, config.value_clip)
            weight = mask.sum() / whole.mask[rows].sum()  # both are means over tokens, so a part counts by its tokens
            part = weight * (policy_part + value_part)
            part.backward()
            loss += part.item()
            parts.append((weight.item() / len(minibatches), {
                "loss": policy_part.item(), "value_loss": value_part.item(), **_moved(logps.detach(), old_logps, mask, config.clip_epsilon),
            }))  # fmt: skip
        norms.append(clip_gradients(optimizer, loss))
        optimizer.step()
    means = {key: sum(weight * part[key] for weight, part in parts) for key in parts[0][1]} | {"gradient_norm": sum(norms) / len(norms)}
    known = equations.explained_variance(experience.values, experience.returns, whole.mask)
    return means | {"ratio": max(part["ratio"] for _, part in parts), "explained_variance": known.item()}


def _moved(logps: Tensor, old_logps: Tensor, mask: Tensor, clip_epsilon: float) -> dict:
    """How far the policy is from the one that sampled."""
    ratio = (logps - old_logps).exp()
    return {
        "clip_fraction": losses.masked_mean((ratio - 1).abs().gt(clip_epsilon).float(), mask).item(),
        "approx_kl": losses.masked_mean(losses.kl_estimate(old_logps, logps, "k3"), mask).item(),
        "ratio": ratio.max().item(),
    }


@torch.no_grad()
def tell(policy: Policy, experience: Experience, config: Config, count: int = 2) -> list[dict]:
    """The first completions token by token, with all that PPO made of them, as lists of equal length beside `prompt` and `text`.

    tokens; log_ratio to the reference, reward (shaped), value and advantage (normalised) as they were when sampled; clipped: whether
    the ratio to the policy that sampled has by now left the clip on the side that pays, so that the token's gradient is zero.
    """
    samples, old, head = experience.samples, experience.old, slice(0, min(count, len(experience.samples)))
    batch = samples.batch.rows(head)
    ratio = (policy.logps(batch, config.temperature) - old.logps[head, : batch.ids.shape[1]]).exp()
    gained = experience.advantages[head, : batch.ids.shape[1]] > 0
    columns = {
        "log_ratio": old.logps - old.ref_logps, "reward": experience.rewards, "value": experience.values,
        "advantage": experience.advantages,
        "clipped": torch.where(gained, ratio > 1 + config.clip_epsilon, ratio < 1 - config.clip_epsilon),
    }  # fmt: skip

    def row_of(row: int) -> dict:
        counts = batch.mask[row].bool()
        lists = {name: column[row, : len(counts)][counts].tolist() for name, column in columns.items()}
        return {
            "prompt": samples.prompts[row], "text": samples.texts[row],
            "tokens": policy.tokenizer.batch_decode([[token] for token in batch.ids[row][counts].tolist()]),
            **{name: values if name == "clipped" else [round(value, 4) for value in values] for name, values in lists.items()},
        }  # fmt: skip

    return [row_of(row) for row in range(len(batch))]


def check(config: Config) -> str | None:
    """What is wrong with a config, and the cure, in one line."""
    if not 0 <= config.beta < math.inf:
        return f"beta must be >= 0 for PPO, got {config.beta:g}; a larger beta stays nearer to the SFT model"
    return None


def begin(given: Given, config: Config, name: str, equations=losses) -> tuple[Policy, Iterator[dict]]:
    """A fresh policy, and the steps that train it on the reward model's score."""
    score = given.score  # may train a reward model first
    policy, value_head = given.reference.policy(name, given.rank, given.seed), ValueHead(given.reference, seed=given.seed)
    return policy, train(policy, value_head, score, given.prompts, config, given.gold, equations)


STAGE = Stage(
    name="ppo", title="PPO", config=Config, needs=("sft", "reward"), begin=begin, check=check, colour="#D55E00", marker="o", samples=True,
    announce=lambda given, config: f"PPO with beta {config.beta:g}",
    metrics=EVERY_STEP | FRESH_ANSWERS | {
        "reward": "mean score of the reward model, missing-EOS rule applied",
        "kl_se": "standard error of kl", "beta": "price of KL, in reward units per nat", "gradient_norm": "joint, before clipping",
        "objective": "reward minus beta times kl: what PPO maximises",
        "entropy": "of the next-token distribution, nats per token; falls as the policy becomes sure",
        "loss": "clipped policy loss", "value_loss": "half the mean squared error of the value head",
        "explained_variance": "share of the returns' variance that the value head predicts: 1 is perfect, 0 no better than a constant",
        "clip_fraction": "share of tokens whose ratio left the clip range", "ratio": "largest ratio to the policy that sampled",
        "approx_kl": "k3 estimate of KL to the policy that sampled, nats per token", "samples": "two completions, token by token",
    },
    panels=(
        Panel("Reward", (("reward", "reward model"), ("gold", "gold, not seen"))),
        Panel("KL to the reference, nats", (("kl", "KL"),)),
        Panel("Value head", (("value_loss", "value loss"),), (("explained_variance", "explained variance"),)),
        Panel("Policy", (("entropy", "entropy, nats per token"),), (("clip_fraction", "clip fraction"),)),
        Panel("Completions", (("length", "tokens"),), (("stop_rate", "share that ends"),)),
        Panel("Beta, the price of KL", (("beta", "beta"),)),
    ),
    controls=(
        Control("beta", "beta (price of KL)", 0.0, 2.0),
        Control("clip_epsilon", "clip epsilon", 0.02, 0.5), LEARNING_RATE,
        Control("kl_target", "KL target (nats)", 0.25, 6.0, "switch"), Control("epochs", "epochs per iteration", 1, 8, "whole"),
    ),
)  # fmt: skip
