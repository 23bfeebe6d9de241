"""REINFORCE leave-one-out: PPO without critic and clip. An answer is judged against the other answers to the same prompt."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from alignlab import losses
from alignlab.models import Measures, Policy
from alignlab.optim import clip_gradients, micro_batches, optimiser, set_learning_rate, warm_then_decay
from alignlab.rollout import Completions, Score, describe, sample, score_completions
from alignlab.stage import EVERY_STEP, FRESH_ANSWERS, LEARNING_RATE, Control, Given, Panel, Stage
from alignlab.talks import Text


@dataclass(kw_only=True, slots=True)
class Config:
    """Beta and the settings of sampling are read at each iteration, the learning rate after sampling, the rest at the start."""

    beta: float = 0.38  # >= 0; the price of KL (see the head of `losses`), in reward units per nat
    answers: int = 4  # >= 2, to each prompt; an answer's baseline is the mean reward of the others
    learning_rate: float = 2e-3  # of AdamW at its highest; it falls to a tenth
    iterations: int = 12  # times the policy samples
    batch_size: int = 384  # completions per iteration, a multiple of `answers`
    minibatch_size: int = 128  # completions per step; only the first step is on-policy, and nothing corrects for that
    micro_batch_size: int | None = 32  # completions in memory at once while learning; None for a whole minibatch; no effect on the result
    missing_eos_score: float = -3.0  # the score of a completion that did not end by itself, in the units of the (centred) score
    max_new_tokens: int = 48  # of sampling
    temperature: float = 1.0  # of sampling; log-probs are scored at the same one
    seed: int = 0  # of prompts, samples and minibatches


class Experience(NamedTuple):
    """One iteration's samples and all that is fixed about them while the policy learns from them."""

    samples: Completions  # each `answers` neighbours answer one prompt
    old: Measures  # under the policy that sampled
    scores: Tensor  # (B,) missing-EOS rule applied
    advantages: Tensor  # (B,) of reward = score - beta * log(pi / pi_ref)


def train(policy: Policy, score: Score, prompts: Sequence[Text], config: Config, judge: Score | None = None) -> Iterator[dict]:
    """Train the policy to raise `score` at the price of beta a nat (Ahmadian et al. 2402.14740); yields metrics twice an iteration.

    That is after sampling, with `partial` true, and after learning. `judge`, where given, also reports its mean of the same
    completions as `gold`; nothing is learned from it.

    Metrics: see `STAGE.metrics`.

    Raises:
        ValueError: what `check` finds wrong with the config.
    """
    if complaint := check(config):
        raise ValueError(complaint)
    rng, order = torch.Generator(policy.device).manual_seed(config.seed), torch.Generator().manual_seed(config.seed)
    optimizer = optimiser(policy.parameters())
    for iteration in range(config.iterations):
        rate = warm_then_decay(iteration, config.iterations)
        rows = torch.randint(len(prompts), (config.batch_size // config.answers,), generator=order).repeat_interleave(config.answers)
        experience = collect(policy, score, [prompts[row] for row in rows.tolist()], config, rng)
        seen = describe(experience.samples, experience.old, experience.scores, config.beta)
        metrics = {"stage": "rloo", "step": iteration, "steps": config.iterations, **seen}
        if judge is not None:
            metrics["gold"] = judge(experience.samples).mean().item()
        yield {**metrics, "partial": True}
        yield metrics | update(policy, optimizer, experience, config, order, rate)


@torch.no_grad()
def collect(policy: Policy, score: Score, prompts: Sequence[Text], config: Config, rng: torch.Generator) -> Experience:
    """Sample one answer to each entry of `prompts`, which has each prompt `answers` times in a row; work out their advantages."""
    samples = sample(policy, prompts, config.max_new_tokens, rng, config.temperature)
    scores = score_completions(score, samples, config.missing_eos_score)
    old = policy.measure(samples.batch, config.temperature)
    log_ratios = losses.sequence_logps(old.logps - old.ref_logps, samples.batch.mask)  # (B,) the k1 estimate of each completion's KL
    return Experience(samples, old, scores, losses.rloo_advantages(scores - config.beta * log_ratios, config.answers))


def update(
    policy: Policy, optimizer: torch.optim.Optimizer, experience: Experience, config: Config, rng: torch.Generator, share: float = 1.0
) -> dict:
    """One pass over the experience in minibatches, at that share of the learning rate; returns metrics, means over its steps."""
    whole, seen, norms = experience.samples.batch, [], []
    for rows in torch.randperm(len(experience.samples), generator=rng).split(config.minibatch_size):
        rows, loss = rows.to(policy.device), 0.0
        set_learning_rate(optimizer, config.learning_rate * share)
        optimizer.zero_grad()
        for micro in micro_batches(rows, whole.attention.sum(-1), config.micro_batch_size or len(rows)):
            batch = whole.rows(micro)
            logps = policy.logps(batch, config.temperature)
            part = losses.reinforce_loss(logps, experience.advantages[micro], batch.mask) * (len(micro) / len(rows))
            part.backward()
            loss += part.item()
        seen.append(loss)
        norms.append(clip_gradients(optimizer, loss))
        optimizer.step()
    return {"loss": sum(seen) / len(seen), "gradient_norm": sum(norms) / len(norms)}


def check(config: Config) -> str | None:
    """What is wrong with a config, and the cure, in one line."""
    if not 0 <= config.beta < math.inf:
        return f"beta must be >= 0 for RLOO, got {config.beta:g}; a larger beta stays nearer to the SFT model"
    if config.answers < 2:
        return f"answers must be >= 2 for RLOO, got {config.answers}; each is compared with the others to its prompt"
    if config.batch_size < config.answers or config.batch_size % config.answers:
        below = max(config.batch_size - config.batch_size % config.answers, config.answers)
        return f"batch_size must be a multiple of the {config.answers} answers to a prompt, got {config.batch_size}; try {below}"
    return None


def begin(given: Given, config: Config, name: str) -> tuple[Policy, Iterator[dict]]:
    """A fresh policy, and the steps that train it on the reward model's score."""
    score = given.score  # may train a reward model first
    policy = given.reference.policy(name, given.rank, given.seed)
    return policy, train(policy, score, given.prompts, config, given.gold)


STAGE = Stage(
    name="rloo", like="ppo", title="RLOO", config=Config, needs=("sft", "reward"), begin=begin, check=check,
    colour="#CC79A7", marker="v", samples=True,
    announce=lambda given, config: f"RLOO with beta {config.beta:g} and {config.answers} answers to a prompt",
    metrics=EVERY_STEP | FRESH_ANSWERS | {
        "reward": "mean score of the reward model, missing-EOS rule applied",
        "kl_se": "standard error of kl, as if every completion had a prompt of its own", "beta": "price of KL, in reward units per nat",
        "objective": "reward minus beta times kl: what RLOO maximises",
        "entropy": "of the next-token distribution, nats per token; falls as the policy becomes sure",
        "loss": "minus the mean of advantage times log-probability; its slope counts, its value says nothing",
        "samples": "the first two completions",
    },
    panels=(
        Panel("Reward", (("reward", "reward model"), ("gold", "gold, not seen"))),
        Panel("KL to the reference, nats", (("kl", "KL"),)),
        Panel("Policy", (("entropy", "entropy, nats per token"),), (("gradient_norm", "gradient's length"),)),
        Panel("Completions", (("length", "tokens"),), (("stop_rate", "share that ends"),)),
        Panel("Beta, the price of KL", (("beta", "beta"),)),
    ),
    controls=(Control("beta", "beta (price of KL)", 0.0, 2.0), LEARNING_RATE),
)  # fmt: skip
