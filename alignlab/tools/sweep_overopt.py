"""Over-optimisation: the courses of PPO, DPO and best-of-n away from the SFT model, by number of preference pairs.

A policy is trained with a small beta or none, so that it goes far, and looked at on its way.
All methods learn from the same pairs. Three reward models learn from them too, with three seeds: the first is the proxy, which PPO and
best-of-n maximise, and where the three differ, the pairs do not say how good an answer is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from alignlab import dpo, exact, ppo, reward
from alignlab.models import Policy, RewardModel
from alignlab.pipeline import Pipeline, centred
from alignlab.rollout import sample
from alignlab.tools import sweep_parts
from alignlab.tools.sweep import Sweep

SEEDS = (0, 1, 2)
PASSES = {60: 16, 200: 8, 600: 4, 3000: 1}  # of the reward models over so many pairs
DPO_PASSES = {60: 80, 200: 24, 600: 10, 3000: 4}
FREE = {"dpo": 0.1, "ppo": 0.0}  # betas that let a policy go far; DPO has none at 0
PRICED, PRICES = 200, (0.1, 0.3)  # pairs with which PPO also pays for KL, and those betas
MEMBERS = 3  # reward models of an ensemble
LOOKS, GROWTH = 12, 1.28  # at a policy, at most; from one to the next its steps grow by that factor
FURTHEST = 64  # nats, beyond which a course ends
NUMBERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # answers from which best-of-n takes the best
POOL = 1024  # answers of the SFT model to each prompt, from which best-of-n is worked out
ROWS = 1024  # answers in memory at once


class Look(NamedTuple):
    """M answers of a policy to each of P prompts, as the sweep sees them: (P, M) each, but for the scores."""

    gold: Tensor
    scores: Tensor  # (members, P, M), as the reward models give them
    stopped: Tensor  # 1 where it ended by itself
    length: Tensor  # tokens
    kl: Tensor  # exact, nats
    entropy: Tensor  # of the next-token distribution, mean over the answer's tokens, nats


def measure(settings: dict, seed: int, fast: bool) -> dict:
    """The course of one policy, or those of best-of-n by the proxy of every number of pairs.

    Returns:
        reference: the SFT model as a row of a course, and `sd` of gold and of each mean, over its answers;
        course: a row for each look (see `row_of`) with its `step`, and for DPO the `margin` of its batch, in units of its implicit
            reward; of best-of-n a row for each n, in a list for each number of pairs.
    """
    given = sweep_parts.pipeline(seed, fast)
    if settings["method"] == "best_of_n":
        return _best_of_n(given, fast)
    judges = [judge(given, settings["pairs"], member, fast) for member in range(MEMBERS)]
    start, penalty = look(given, given.sft, judges, given.recipe.answers), given.recipe.sampling.missing_eos_score
    policy, steps = driven(given, settings, judges[0], fast)
    rows = []
    for metrics in steps:
        if metrics["step"] + 1 in looks(metrics["steps"], fast):
            seen = look(given, policy, judges, given.recipe.answers)
            own = {key: metrics[key] for key in ("margin",) if key in metrics}
            rows.append({"step": metrics["step"] + 1, **row_of(seen, start, penalty), **own})
            if seen.kl.mean() > FURTHEST:
                break
    return {"reference": row_of(start, start, penalty) | {"sd": spreads(start, penalty)}, "course": rows}


def looks(steps: int, fast: bool) -> set[int]:
    """After how many steps of so many a course is looked at: each time a quarter more, since the first nats are the fastest.

    >>> sorted(looks(40, False))
    [3, 4, 6, 7, 9, 12, 15, 19, 24, 31, 40]
    """
    return {1, steps} if fast else {round(steps / GROWTH**back) for back in range(LOOKS)} - {0}


def driven(given: Pipeline, settings: dict, first: RewardModel, fast: bool) -> tuple[Policy, Iterator[dict]]:
    """A fresh policy, and the steps that drive it."""
    policy = given.reference.policy(settings["method"], given.rank, given.seed)
    if settings["method"] == "dpo":
        passes = 2 if fast else DPO_PASSES[settings["pairs"]]
        config = replace(given.config("dpo"), beta=settings["beta"], learning_rate=1e-3, batch_size=32, epochs=passes)
        return policy, dpo.train(policy, some(given, settings["pairs"]), config)
    score = centred(given.recipe, first, given.sft, given.seed)
    short = {"iterations": 2, "batch_size": 16, "minibatch_size": 16}
    bold = {"iterations": 32, "batch_size": 128, "minibatch_size": 64, "learning_rate": 3e-3}
    config = replace(given.config("ppo"), beta=settings["beta"], **short if fast else bold)
    steps = ppo.train(policy, given.reference.value_head(seed=given.seed), score, given.prompts, config)
    return policy, (metrics for metrics in steps if not metrics.get("partial"))


def some(given: Pipeline, count: int) -> list[dict]:
    """So many of the bundled pairs, drawn by the seed."""
    pairs = given.pairs[0]
    return Random(given.seed).sample(pairs, min(count, len(pairs)))


def judge(given: Pipeline, count: int, member: int, fast: bool) -> RewardModel:
    """A reward model that learned from so many pairs with a seed of its own; trained once for all points of a seed."""
    name = f"judge{count}-{member}"
    if not given.run.finished(name):
        model, config = given.reference.reward_model(name, given.rank, given.seed + 100 * member), given.config("reward")
        own = {"epochs": 1 if fast else PASSES[count], "seed": given.seed + 100 * member}
        config = replace(config, learning_rate=3e-3, batch_size=32, **own)
        sweep_parts.to_the_end(reward.train(model, some(given, count), config))
        given.run.write(name, model.save)
    return RewardModel.load(given.reference, given.run.folder / name, name)


# ---------------------------------------------------------------------------------------------- what is seen


def look(given: Pipeline, policy: Policy, judges: Sequence[RewardModel], count: int, pool: bool = False) -> Look:
    """So many answers of the policy to each of the judge's prompts; of a pool neither KL nor entropy is worked out."""
    rules, prompts, parts = given.recipe.sampling, given.recipe.judge_prompts, []
    asked = [prompt for prompt in prompts for _ in range(count)]
    rng = torch.Generator(policy.device).manual_seed(given.seed)
    assert given.gold is not None
    for first in range(0, len(asked), ROWS):
        samples = sample(policy, asked[first : first + ROWS], rules.max_new_tokens, rng, rules.temperature)
        gold, scores = given.gold(samples), torch.stack([each.score_all(samples.batch) for each in judges])
        kl = entropy = torch.zeros(len(samples))
        if not pool:
            measured = policy.measure(samples.batch, rules.temperature)
            kl, entropy = measured.kl.sum(-1), measured.entropy.sum(-1) / samples.lengths
        parts.append((gold, scores, samples.stopped.float(), samples.lengths.float(), kl, entropy))
    return Look(*(torch.cat(column, -1).cpu().unflatten(-1, (len(prompts), count)) for column in zip(*parts, strict=True)))


def proxy(seen: Look, start: Look, penalty: float, member: int = 0) -> Tensor:
    """The score as PPO uses it: 0 is an average answer of the SFT model, and one that did not end has the penalty instead: (P, M)."""
    return torch.where(seen.stopped.bool(), seen.scores[member] - centre(start)[member], penalty)


def centre(start: Look) -> Tensor:
    """Each judge's mean score of the SFT model's answers that ended: (members, 1, 1)."""
    ended = start.stopped.bool()
    return start.scores[:, ended].mean(-1)[:, None, None]


def monitored(seen: Look, start: Look) -> dict[str, Tensor]:
    """What can be seen of answers without gold, (P, M) each; `disagreement` is the standard deviation of the centred scores over judges."""
    return {"length": seen.length, "entropy": seen.entropy, "disagreement": (seen.scores - centre(start)).std(0)}


def row_of(seen: Look, start: Look, penalty: float) -> dict:
    """Of each prompt gold, score (see `proxy`) and kl (nats), P numbers each; the means of what a monitor could see, and stop_rate."""
    columns = {"gold": seen.gold, "score": proxy(seen, start, penalty), "kl": seen.kl}
    means = monitored(seen, start) | {"stop_rate": seen.stopped}
    by_prompt = {key: sweep_parts.per_prompt(values) for key, values in columns.items()}
    return by_prompt | {key: values.mean().item() for key, values in means.items()}


def spreads(start: Look, penalty: float) -> dict:
    """Standard deviation over the SFT model's answers of gold, score and what a monitor could see."""
    columns = {"gold": start.gold, "score": proxy(start, start, penalty), **monitored(start, start)}
    return {key: values.std().item() for key, values in columns.items()}


# ---------------------------------------------------------------------------------------------- best-of-n


def _best_of_n(given: Pipeline, fast: bool) -> dict:
    """The exact expectation over a pool of the SFT model's answers, by the proxy of every number of pairs."""
    counts, answers = list(PASSES)[: 1 if fast else None], 16 if fast else POOL
    start = look(given, given.sft, [judge(given, count, 0, fast) for count in counts], answers, pool=True)
    courses, penalty = {}, given.recipe.sampling.missing_eos_score
    for member, count in enumerate(counts):
        scores = proxy(start, start, penalty, member)
        courses[str(count)] = [
            {"n": n, "gold": _best(scores, start.gold, n), "score": _best(scores, scores, n)} for n in NUMBERS if n <= answers // 4
        ]
    return {"reference": {"gold": sweep_parts.per_prompt(start.gold), "sd": {"gold": start.gold.std().item()}}, "course": courses}


def _best(scores: Tensor, values: Tensor, n: int) -> list[float]:
    """Of each prompt the mean of the values (P, N) of the best of n by the scores (P, N)."""
    return exact.best_of_n(scores, values.double(), n).tolist()


def prepare(seed: int, fast: bool) -> None:
    """The SFT model and the reward models of a seed."""
    given = sweep_parts.pipeline(seed, fast)
    given.make("sft")
    for count in list(PASSES)[: 1 if fast else None]:
        for member in range(MEMBERS):
            judge(given, count, member, fast)


GRID: list[dict] = [
    {"method": "best_of_n"},
    *({"method": method, "pairs": count, "beta": beta} for method, beta in FREE.items() for count in PASSES),
    *({"method": "ppo", "pairs": PRICED, "beta": beta} for beta in PRICES),
]

SWEEP = Sweep(
    name="overopt",
    words="the courses of PPO, DPO and best-of-n until gold falls, by number of pairs",
    points=[(settings, seed) for seed in SEEDS for settings in GRID],
    fast_points=[(settings, SEEDS[0]) for settings in GRID if settings.get("pairs", 60) == 60],
    measure=measure,
    prepare=prepare,
)
