"""How many pairs, and how noisy: PPO, DPO, cDPO and IPO on pairs that an annotator of known noise labels anew."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from random import Random

from alignlab import dpo, losses, ppo, reward
from alignlab.pipeline import Pipeline, centred
from alignlab.rollout import Score
from alignlab.tools import sweep_parts
from alignlab.tools.sweep import Sweep
from alignlab.world import Annotator

SEEDS = (0, 1, 2)
FLIPS = (0.0, 0.15, 0.3)  # the share of labels that are turned at random, on top of doubt where two answers are close
EPOCHS = {300: 8, 1200: 3, 4800: 1}  # passes over so many pairs: few pairs are read more often, or nothing would be learned
METHODS = ("ppo", "dpo", "cdpo", "ipo")
IPO_BETA = 0.1  # the log-ratio difference is pulled to 5 nats


def measure(settings: dict, seed: int, fast: bool) -> dict:
    """One policy, then its path (see `sweep_parts.walked`), and `bayes`, the accuracy that a perfect judge would have on the labels."""
    given, method = sweep_parts.pipeline(seed, fast), settings["method"]
    pairs = relabelled(given.pairs[0], settings["pairs"], settings["flip"], seed)
    policy = given.reference.policy(method, given.rank, seed)
    passes = 1 if fast else EPOCHS[settings["pairs"]]
    if method == "ppo":
        score = _learned(given, pairs, passes)
        steps = ppo.train(policy, given.reference.value_head(seed=seed), score, given.prompts, given.config("ppo"))
    else:
        config = replace(given.config("dpo"), epochs=passes)
        if method == "cdpo":
            config.label_smoothing = settings["flip"]
        if method == "ipo":
            config.beta = IPO_BETA
        steps = dpo.train(policy, pairs, config, losses.ipo_loss if method == "ipo" else losses.dpo_loss)
    sweep_parts.to_the_end(steps)
    bayes = sum(pair["certainty"] for pair in pairs) / len(pairs)
    return {"bayes": bayes, **sweep_parts.walked(given, policy)}


def relabelled(pairs: Sequence[dict], count: int, flip: float, seed: int) -> list[dict]:
    """The first `count` pairs of a shuffle, each labelled anew; two flips with one seed differ only where the flip decides."""
    coin, annotator = Random(seed), Annotator(flip=flip)
    chosen = coin.sample(list(pairs), min(count, len(pairs)))
    labelled = []
    for pair in chosen:
        probability = annotator.probability(pair["gold_chosen"], pair["gold_rejected"])
        keeps = coin.random() < probability
        one, other = ("chosen", "rejected") if keeps else ("rejected", "chosen")
        labelled.append({
            "prompt": pair["prompt"], "chosen": pair[one], "rejected": pair[other], "certainty": max(probability, 1 - probability),
        })  # fmt: skip
    return labelled


def _learned(given: Pipeline, pairs: Sequence[dict], passes: int) -> Score:
    """The centred score of a reward model that learned from these pairs."""
    model = given.reference.reward_model("judge", given.rank, given.seed)
    sweep_parts.to_the_end(reward.train(model, pairs, replace(given.config("reward"), epochs=passes)))
    return centred(given.recipe, model, given.sft, given.seed)


SWEEP = Sweep(
    name="data",
    words="PPO, DPO, cDPO and IPO by number of pairs and by noise of the labels",
    points=[
        ({"method": method, "pairs": count, "flip": flip}, seed)
        for seed, count, flip, method in product(SEEDS, EPOCHS, FLIPS, METHODS)
        if not (method == "cdpo" and flip == 0)  # then it is DPO
    ],
    fast_points=[({"method": method, "pairs": 300, "flip": 0.3}, SEEDS[0]) for method in ("ppo", "ipo")],
    measure=measure,
    prepare=sweep_parts.prepare,
)  # fmt: skip
