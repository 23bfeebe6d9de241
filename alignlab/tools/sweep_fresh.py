"""Is it RL, or is it fresh data, or is it the judge? DPO from stale pairs to fresh ones, RLOO, and PPO with one part changed at a time."""

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from alignlab import dpo, evaluate, losses, online, ppo, rloo
from alignlab.lab import answers, noise
from alignlab.pipeline import Pipeline
from alignlab.rollout import Completions, Score
from alignlab.tools import sweep_parts
from alignlab.tools.sweep import Sweep

SEEDS = (0, 1, 2)


# What is changed: the labels of the bundled pairs; the steps for which DPO draws pairs at once; one setting of PPO; who pays.
STALE: list[dict] = [{"method": "dpo", "labels": labels} for labels in ("annotator", "judge", "gold")]
FRESH: list[dict] = [{"method": "online", "every": every} for every in (80, 20, 5, 1)]
PPO: list[dict] = [
    {"method": "ppo"}, {"method": "ppo", "lam": 0.0}, {"method": "ppo", "lam": 0.5}, {"method": "ppo", "lam": 0.95},
    {"method": "ppo", "value_learning_rate": 0.0}, {"method": "ppo", "batch_size": 96, "iterations": 48, "minibatch_size": 32},
    {"method": "rloo"},
]  # fmt: skip
GOLD: list[dict] = [{"method": method, "paid_by": "gold"} for method in ("ppo", "online")]


NOISE: list[dict] = [STALE[1], FRESH[-1], PPO[0], PPO[-1]]  # all by the same judge: whose gradient's noise is measured too
MINIBATCHES = 24


def measure(settings: dict, seed: int, fast: bool) -> dict:
    """One policy, then its path (see `sweep_parts.walked`).

    And, of those in NOISE, `noise`: the variance of a minibatch's gradient (64 answers) over the squared length of the true one, before
    training and after it.
    """
    given, method = sweep_parts.pipeline(seed, fast), settings["method"]
    own = {key: value for key, value in settings.items() if key not in ("method", "labels", "paid_by")}
    short = {"steps": 2, "every": min(own.get("every", 1), 2)} if fast and method == "online" else {}
    config = replace(given.config(method), **own | short)
    policy, head = given.reference.policy(method, given.rank, seed), given.reference.value_head(seed=seed)
    score = _gold(given) if settings.get("paid_by") == "gold" else given.score
    pairs = _labelled(given, settings.get("labels", "annotator"))

    def steps(config, equations=losses) -> Iterator[dict]:
        return {
            "dpo": lambda: dpo.train(policy, pairs, config),
            "online": lambda: online.train(policy, score, given.prompts, config),
            "ppo": lambda: ppo.train(policy, head, score, given.prompts, config, equations=equations),
            "rloo": lambda: rloo.train(policy, score, given.prompts, config),
        }[method]()

    def noise_now() -> float:
        count = 4 if fast else MINIBATCHES
        still = steps(noise.at_rest(method, config, count), noise.POLICY_ALONE)
        return answers.noise_ratio(noise.gradients(policy, still, count)).item()

    start = noise_now() if settings in NOISE else None
    sweep_parts.to_the_end(steps(config))
    noises = {"noise": {"start": start, "end": noise_now()}} if settings in NOISE else {}
    return {**noises, **sweep_parts.walked(given, policy)}


def _gold(given: Pipeline) -> Score:
    """Gold itself as the score, less the mean of what the SFT model writes, so that 0 is an average answer."""
    gold, centre = given.gold, given.answers(given.sft).gold.mean().item()
    assert gold is not None

    def score(completions: Completions) -> Tensor:
        return gold(completions) - centre

    return score


def _labelled(given: Pipeline, labels: str) -> list[dict]:
    """The bundled training pairs as the annotator labelled them, or as the reward model or gold orders them."""
    pairs = given.pairs[0]
    if labels == "annotator":
        return pairs
    if labels == "gold":
        wrong = [pair["gold_chosen"] < pair["gold_rejected"] for pair in pairs]
    else:
        wrong = (evaluate.pair_margins(given.reward_model, pairs, given.config("reward").max_length) < 0).tolist()
    turned = ({**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in pairs)
    return [other if swap else pair for pair, other, swap in zip(pairs, turned, wrong, strict=True)]


SWEEP = Sweep(
    name="fresh",
    words="DPO on pairs from stale to fresh, RLOO, PPO with one part changed at a time, and both paid by gold",
    points=[(settings, seed) for seed in SEEDS for settings in (*STALE, *FRESH, *PPO, *GOLD)],
    fast_points=[(settings, SEEDS[0]) for settings in (STALE[1], FRESH[0], PPO[-1], GOLD[0])],
    measure=measure,
    prepare=sweep_parts.prepare,
)
