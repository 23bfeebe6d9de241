"""How far each policy is from the reference, and how good, when its adapter counts less or more than in training."""

from dataclasses import replace
from itertools import product

from alignlab import dial
from alignlab.evaluate import Answers
from alignlab.models import Policy
from alignlab.pipeline import Pipeline
from alignlab.recipes import lesson, tiny
from alignlab.runs import Run
from alignlab.tools.sweep import Sweep, folder

NAME = "strength"
STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
BETAS = {"ppo": (1.0, 0.6, 0.38, 0.25), "dpo": (1.0, 0.7, 0.5, 0.35)}
SEEDS = (0, 1, 2)
ANSWERS = 16  # to each of the judge's prompts


def prepare(seed: int, fast: bool) -> None:
    """The SFT model and the reward model."""
    _pipeline(seed, fast).make("reward")


def measure(settings: dict, seed: int, fast: bool) -> dict:
    """A policy trained by settings["method"] with settings["beta"], then judged at each strength.

    Returns:
        reference: gold of each of the P prompts, the mean over its answers, and sd, over all answers;
        path: for each strength gold, kl (nats) and score of each prompt likewise, and the means length (tokens) and stop_rate.
    """
    pipeline = _pipeline(seed, fast)
    policy = _trained(pipeline, settings["method"], settings["beta"])
    reference = pipeline.answers(pipeline.sft)
    path = dial.walk(policy, pipeline.answers, STRENGTHS)
    return {
        "reference": {"gold": _means(reference.gold), "sd": reference.gold.std().item()},
        "path": [{"strength": strength, **_judged(answers)} for strength, answers in path.items()],
    }


def _pipeline(seed: int, fast: bool) -> Pipeline:
    recipe = lesson(fast=True) if fast else tiny()
    recipe.answers = 2 if fast else ANSWERS
    recipe.set_seed(seed)
    run = Run(folder(NAME, fast) / f"seed{seed}", {**recipe.describe(), "seed": seed})
    return Pipeline(run, recipe, seed, say=lambda words: None)


def _trained(pipeline: Pipeline, method: str, beta: float) -> Policy:
    policy, steps = pipeline.begin(method, replace(pipeline.config(method), beta=beta))
    if not isinstance(policy, Policy):
        raise ValueError(f"{method} trains no policy")
    for _ in steps:
        pass
    return policy


def _judged(answers: Answers) -> dict:
    per_prompt = {"gold": _means(answers.gold), "kl": _means(answers.kl), "score": _means(answers.scores)}
    return {**per_prompt, "length": answers.length.mean().item(), "stop_rate": answers.stopped.mean().item()}


def _means(values) -> list[float]:
    """Mean over a prompt's answers: P numbers."""
    return values.double().mean(-1).tolist()


SWEEP = Sweep(
    name=NAME,
    words="PPO and DPO at four betas each, and every policy at eight strengths of its adapter",
    points=[
        ({"method": method, "beta": beta}, seed)
        for seed, (method, betas) in product(SEEDS, BETAS.items()) for beta in betas
    ],
    fast_points=[({"method": method, "beta": betas[0]}, SEEDS[0]) for method, betas in BETAS.items()],
    measure=measure,
    prepare=prepare,
)  # fmt: skip
