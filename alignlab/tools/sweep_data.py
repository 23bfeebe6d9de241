"""How many pairs, how noisy, how biased, and which: PPO, DPO, cDPO and IPO on pairs that a known annotator labels anew."""

from collections.abc import Callable, Sequence
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
LENGTH_BIAS = 0.15  # gold units a word
MEDIUM = {"pairs": 1200, "flip": 0.0}
KINDS: tuple[dict, ...] = (  # of annotators and of pairs, beside the plain ones
    {"length_bias": LENGTH_BIAS}, {"length_bias": LENGTH_BIAS, "picked": "equal"},
    {"picked": "good"}, {"picked": "poor"}, {"picked": "far"}, {"picked": "close"},
)  # fmt: skip


def measure(settings: dict, seed: int, fast: bool) -> dict:
    """One policy, then its path (see `sweep_parts.walked`), and `bayes`, the accuracy that a perfect judge would have on the labels."""
    given, method = sweep_parts.pipeline(seed, fast), settings["method"]
    annotator = Annotator(flip=settings["flip"], length_bias=settings.get("length_bias", 0.0))
    pairs = relabelled(picked(given.pairs[0], settings.get("picked")), settings["pairs"], annotator, seed)
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


def picked(pairs: Sequence[dict], how: str | None) -> Sequence[dict]:
    """Half of the pairs: good or poor, by the mean gold of their two answers; far or close, by the difference. Or all.

    Or those of equal length, within three words.
    """
    if how is None:
        return pairs
    if how == "equal":
        return [pair for pair in pairs if abs(_longer(pair)) <= 3]
    by: Callable[[dict], float] = _mean if how in ("good", "poor") else _apart
    return sorted(pairs, key=by, reverse=how in ("good", "far"))[: len(pairs) // 2]


def _mean(pair: dict) -> float:
    return (pair["gold_chosen"] + pair["gold_rejected"]) / 2


def _apart(pair: dict) -> float:
    return abs(pair["gold_chosen"] - pair["gold_rejected"])


def _longer(pair: dict) -> int:
    """The words that the chosen answer has more than the rejected one."""
    return len(pair["chosen"].split()) - len(pair["rejected"].split())


def relabelled(pairs: Sequence[dict], count: int, annotator: Annotator, seed: int) -> list[dict]:
    """The first `count` pairs of a shuffle, each labelled anew; two annotators with one seed differ only where their chances do."""
    coin = Random(seed)
    chosen = coin.sample(list(pairs), min(count, len(pairs)))
    labelled = []
    for pair in chosen:
        probability = annotator.probability(pair["gold_chosen"], pair["gold_rejected"], _longer(pair))
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
    words="PPO, DPO, cDPO and IPO by number of pairs and by noise of the labels; PPO and DPO by a bias and by kind of pairs",
    points=[
        *(
            ({"method": method, "pairs": count, "flip": flip}, seed)
            for seed, count, flip, method in product(SEEDS, EPOCHS, FLIPS, METHODS)
            if not (method == "cdpo" and flip == 0)  # then it is DPO
        ),
        *(({"method": method, **MEDIUM, **kind}, seed) for seed, kind, method in product(SEEDS, KINDS, ("ppo", "dpo"))),
    ],
    fast_points=[({"method": method, "pairs": 300, "flip": 0.3}, SEEDS[0]) for method in ("ppo", "ipo")],
    measure=measure,
    prepare=sweep_parts.prepare,
)  # fmt: skip
