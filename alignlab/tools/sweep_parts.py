"""What the sweeps share: a seed's SFT model and reward model, training to the end, and a policy's path as numbers."""

from collections.abc import Iterator, Sequence

from alignlab import dial
from alignlab.evaluate import Answers
from alignlab.models import Policy
from alignlab.pipeline import Pipeline
from alignlab.recipes import lesson, tiny
from alignlab.runs import Run
from alignlab.tools.sweep import PLACE

STRENGTHS = (0.5, 1.0, 1.5, 2.0, 3.0)
ANSWERS = 16  # to each of the judge's prompts


def pipeline(seed: int, fast: bool) -> Pipeline:
    """The default run with that seed, whose SFT model and reward model all points of all sweeps share."""
    recipe = lesson(fast=True) if fast else tiny()
    recipe.answers = ANSWERS
    if fast:
        recipe.answers, recipe.judge_prompts, recipe.centring = 2, recipe.judge_prompts[:8], 32
        shown = recipe.demonstrations
        recipe.demonstrations = lambda *given: shown(*given)[:960]
    recipe.set_seed(seed)
    run = Run(PLACE / f"{'fast-' if fast else ''}seed{seed}", {**recipe.describe(), "seed": seed})
    return Pipeline(run, recipe, seed, say=lambda words: None)


def prepare(seed: int, fast: bool) -> None:
    """Train what the points of a seed share."""
    pipeline(seed, fast).make("reward")


def to_the_end(steps: Iterator[dict]) -> dict:
    """Train; the last metrics."""
    last: dict = {}
    for metrics in steps:
        last = metrics
    return last


def walked(given: Pipeline, policy: Policy, strengths: Sequence[float] = STRENGTHS) -> dict:
    """A policy's path, judged at each strength of its adapter (see `told`)."""
    return told(given, dial.walk(policy, given.answers, strengths))


def told(given: Pipeline, path: dial.Path) -> dict:
    """A path as numbers.

    Returns:
        reference: gold of each of the P prompts, the mean over its answers, and sd, over all answers;
        path: for each strength gold, kl (nats) and score of each prompt likewise, and the means length (tokens) and stop_rate.
    """
    reference = given.answers(given.sft)
    return {
        "reference": {"gold": per_prompt(reference.gold), "sd": reference.gold.std().item()},
        "path": [{"strength": strength, **_judged(answers)} for strength, answers in path.items()],
    }


def _judged(answers: Answers) -> dict:
    columns = {"gold": answers.gold, "kl": answers.kl, "score": answers.scores}
    means = {key: per_prompt(values) for key, values in columns.items()}
    return {**means, "length": answers.length.mean().item(), "stop_rate": answers.stopped.mean().item()}


def per_prompt(values) -> list[float]:
    """Mean over a prompt's answers, (P, M) -> P numbers."""
    return values.double().mean(-1).tolist()
