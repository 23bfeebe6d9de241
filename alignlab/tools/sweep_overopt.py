"""Over-optimisation: the courses of PPO, DPO and best-of-n away from the SFT model, by number of preference pairs.

A policy is trained with a small beta or none, so that it goes far, and judged each time that the square root of its KL passes a mark.
All methods learn from the same pairs. Three reward models learn from them too, with three seeds: the first is the proxy, which PPO and
best-of-n maximise, and where the three differ, the pairs do not say how good an answer is.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from alignlab import dpo, exact, ppo, reward
from alignlab.models import Policy, RewardModel
from alignlab.pipeline import Pipeline, answer, centred
from alignlab.rollout import sample, score_completions
from alignlab.tools import sweep_parts
from alignlab.tools.sweep import Sweep

SEEDS = (0, 1, 2)
PASSES = {60: 16, 200: 8, 600: 4, 3000: 1}  # of the reward models over so many pairs
DPO_PASSES = {60: 80, 200: 24, 600: 10, 3000: 4}
DPO_BETA = 0.1
PRICED = 200  # pairs with which PPO also runs at a price
PRICES = (0.1, 0.3)  # those betas of PPO; 0 everywhere
MEMBERS = 3  # reward models of an ensemble
MARKS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 7.0, 8.0)  # of the square root of KL; a course ends at the last
NUMBERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # answers from which best-of-n takes the best
POOL = 1024  # answers of the SFT model to each prompt, from which best-of-n is worked out
PROBE = 64  # answers by which DPO's KL is followed between two looks
ROWS = 1024  # answers in memory at once


class Look(NamedTuple):
    """M answers of a policy to each of P prompts, as the sweep sees them: (P, M) each, but for the scores."""

    gold: Tensor
    scores: Tensor  # (members, P, M), missing-EOS rule applied
    kl: Tensor  # exact, nats
    length: Tensor  # tokens
    entropy: Tensor  # of the next-token distribution, mean over the answer's tokens, nats


def measure(settings: dict, seed: int, fast: bool) -> dict:
    """The course of one policy, or those of best-of-n by the proxy of every number of pairs.

    Returns:
        reference: the SFT model as a row of a course, and `sd` of its answers' gold, length, entropy and disagreement;
        course: a row for each look (see `row_of`) with its `step`; of best-of-n a row for each n, in a list for each number of pairs.
    """
    given = sweep_parts.pipeline(seed, fast)
    if settings["method"] == "best_of_n":
        return _best_of_n(given, fast)
    judges = [judge(given, settings["pairs"], member, fast) for member in range(MEMBERS)]
    start = look(given, given.sft, judges, given.recipe.answers)
    policy, steps = driven(given, settings, judges[0], fast)
    rows = course(steps, lambda: look(given, policy, judges, given.recipe.answers), MARKS[:2] if fast else MARKS)
    return {
        "reference": row_of(start, start) | {"sd": spreads(start)},
        "course": [{"step": step, **row_of(seen, start)} for step, seen in rows],
    }


def course(steps: Iterator[tuple[int, float]], seen: Callable[[], Look], marks: Sequence[float]) -> Iterator[tuple[int, Look]]:
    """A look each time that the square root of KL has passed the next mark, and one at the end; over when it has passed the last.

    Args:
        steps: trains; each tells how many steps are done, and the KL after them in nats.
    """
    left, step, looked = list(marks), 0, -1
    for step, kl in steps:
        if kl**0.5 >= left[0]:
            looked = step
            yield step, seen()
            left = [mark for mark in left if mark > kl**0.5]
            if not left:
                return
    if step != looked:
        yield step, seen()


def driven(given: Pipeline, settings: dict, proxy: RewardModel, fast: bool) -> tuple[Policy, Iterator[tuple[int, float]]]:
    """A fresh policy, and the steps that drive it: how many are done, and its KL after them, nats."""
    policy = given.reference.policy(settings["method"], given.rank, given.seed)
    if settings["method"] == "dpo":
        pairs = some(given, settings["pairs"])
        config = replace(given.config("dpo"), beta=DPO_BETA, batch_size=32, epochs=2 if fast else DPO_PASSES[settings["pairs"]])
        return policy, _followed(given, policy, dpo.train(policy, pairs, config), every=1 if fast else 4)
    score = centred(given.recipe, proxy, given.sft, given.seed)
    bold = {"iterations": 2, "batch_size": 16} if fast else {"iterations": 40, "batch_size": 128, "epochs": 4, "learning_rate": 4.5e-3}
    config = replace(given.config("ppo"), beta=settings["beta"], **{"minibatch_size": 64} | bold)
    steps = ppo.train(policy, given.reference.value_head(seed=given.seed), score, given.prompts, config)
    return policy, _sampled(steps)


def _sampled(steps: Iterator[dict]) -> Iterator[tuple[int, float]]:
    """PPO stops after sampling, when the KL of the policy as it then is has just been measured, and at the end of its last iteration."""
    kl = 0.0
    for metrics in steps:
        if "loss" not in metrics:
            kl = metrics["kl"]
            yield metrics["step"], kl
    yield metrics["step"] + 1, kl


def _followed(given: Pipeline, policy: Policy, steps: Iterator[dict], every: int) -> Iterator[tuple[int, float]]:
    """DPO samples nothing, so a few answers tell its KL at every so many steps, and at the end."""
    for metrics in steps:
        done = metrics["step"] + 1
        if done % every == 0 or done == metrics["steps"]:
            yield done, answer(given.recipe, policy, given.prompts[:PROBE], 1, None, given.seed).kl.mean().item()


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


def look(given: Pipeline, policy: Policy, judges: Sequence[RewardModel], count: int) -> Look:
    """So many answers of the policy to each of the judge's prompts."""
    rules, prompts = given.recipe.sampling, given.recipe.judge_prompts
    asked = [prompt for prompt in prompts for _ in range(count)]
    rng = torch.Generator(policy.device).manual_seed(given.seed)
    parts = []
    for first in range(0, len(asked), ROWS):
        samples = sample(policy, asked[first : first + ROWS], rules.max_new_tokens, rng, rules.temperature)
        measured, mask = policy.measure(samples.batch, rules.temperature), samples.batch.mask
        scores = [score_completions(lambda c, each=each: each.score_all(c.batch), samples, rules.missing_eos_score) for each in judges]
        parts.append((
            given.gold(samples), torch.stack(scores), measured.kl.sum(-1), samples.lengths.float(), measured.entropy.sum(-1) / mask.sum(-1),
        ))  # fmt: skip
    shape = (len(prompts), count)
    gold, scores, kl, length, uncertain = (torch.cat(column, -1).cpu() for column in zip(*parts, strict=True))
    return Look(gold.view(shape), scores.view(len(judges), *shape), kl.view(shape), length.view(shape), uncertain.view(shape))


def disagreement(seen: Look, start: Look) -> Tensor:
    """Standard deviation over the judges of an answer's score, each centred on the SFT model's answers: (P, M)."""
    return (seen.scores - start.scores.mean((1, 2), keepdim=True)).std(0)


def row_of(seen: Look, start: Look) -> dict:
    """Of each prompt gold, score (of the proxy, centred) and kl (nats), P numbers each; the means of what a monitor could see."""
    score = seen.scores[0] - start.scores[0].mean()
    return {
        **{key: values.double().mean(-1).tolist() for key, values in (("gold", seen.gold), ("score", score), ("kl", seen.kl))},
        **{key: values.mean().item() for key, values in monitored(seen, start).items()},
    }


def spreads(start: Look) -> dict:
    """Standard deviation over the SFT model's answers of gold and of what a monitor could see."""
    columns = {"gold": start.gold, "score": start.scores[0], **monitored(start, start)}
    return {key: values.std().item() for key, values in columns.items()}


def monitored(seen: Look, start: Look) -> dict[str, Tensor]:
    """What can be seen of answers without gold: (P, M) each."""
    return {"length": seen.length, "entropy": seen.entropy, "disagreement": disagreement(seen, start)}


# ---------------------------------------------------------------------------------------------- best-of-n


def _best_of_n(given: Pipeline, fast: bool) -> dict:
    """The exact expectation over a pool of the SFT model's answers, for the proxy of every number of pairs."""
    counts, pool = list(PASSES)[: 1 if fast else None], 8 if fast else POOL
    judges = [judge(given, count, 0, fast) for count in counts]
    start = look(given, given.sft, judges, pool)
    zero = start.scores.mean((1, 2))
    numbers = [n for n in NUMBERS if n <= pool // 4]
    courses = {
        str(count): [{"n": n, "gold": _best(scores, start.gold, n), "score": _best(scores, scores - centre, n)} for n in numbers]
        for count, scores, centre in zip(counts, start.scores, zero, strict=True)
    }
    reference = {"gold": start.gold.double().mean(-1).tolist(), "sd": {"gold": start.gold.std().item()}}
    return {"reference": reference, "course": courses}


def _best(scores: Tensor, values: Tensor, n: int) -> list[float]:
    """Of each prompt."""
    return exact.best_of_n(scores, values.double(), n).tolist()


def prepare(seed: int, fast: bool) -> None:
    """The SFT model and the reward models of a seed."""
    given = sweep_parts.pipeline(seed, fast)
    given.make("sft")
    for count in list(PASSES)[: 1 if fast else None]:
        for member in range(MEMBERS):
            judge(given, count, member, fast)


SWEEP = Sweep(
    name="overopt",
    words="the courses of PPO, DPO and best-of-n until gold falls, by number of pairs",
    points=[
        (settings, seed) for seed in SEEDS for settings in (
            {"method": "best_of_n"},
            *({"method": "dpo", "pairs": count} for count in PASSES),
            *({"method": "ppo", "pairs": count, "beta": 0.0} for count in PASSES),
            *({"method": "ppo", "pairs": PRICED, "beta": beta} for beta in PRICES),
        )
    ],
    fast_points=[({"method": "best_of_n"}, 0), ({"method": "dpo", "pairs": 60}, 0), ({"method": "ppo", "pairs": 60, "beta": 0.0}, 0)],
    measure=measure,
    prepare=prepare,
)  # fmt: skip
