"""Short runs of a stage, healthy or with one piece of code exchanged, and what is recorded of them.

A run is a `Setup`: everything that a stage is given. A break (see `breaks`) exchanges one piece of it, through the package's own
arguments where there is one for it; what else has to be exchanged is put back when the run ends.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from types import MethodType, ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from alignlab import dpo, evaluate, losses, pipeline, ppo, reward, sft
from alignlab.errors import UserError
from alignlab.lab import workbook
from alignlab.models import Policy, RewardModel
from alignlab.pipeline import Pipeline
from alignlab.rollout import Completions, Score, sample

SHORT: dict[str, dict[str, Any]] = {  # the settings of a short run; all else is the recipe's
    "sft": {"batch_size": 64, "epochs": 1, "learning_rate": 5e-3},
    "reward": {"batch_size": 32, "epochs": 6, "learning_rate": 3e-3},
    "ppo": {"batch_size": 64, "minibatch_size": 32, "iterations": 12, "epochs": 3, "learning_rate": 3e-3, "beta": 0.38,
            "max_new_tokens": 40},
    "dpo": {"batch_size": 32, "epochs": 1, "learning_rate": 1.5e-3, "beta": 0.5},
}  # fmt: skip
QUICK = {"iterations": 2, "batch_size": 8, "minibatch_size": 8}  # of PPO, in place of some of these, where nobody looks at the curves
RECORDS = {"sft": 2560, "reward": 400, "dpo": 1280}  # demonstrations, or pairs, of a short run
HELD_OUT = 0.5  # the share of the reward model's pairs by which it is tested
OFFSET = -8.0  # of the raw score: a reward model's level is arbitrary, since it learned from differences alone
PROBE, ANSWERS = 48, 4  # answers by which a run is watched, and answers to each of the judge's prompts at its end
POINTS = 40  # of a curve, at most
CURVES = {  # what is recorded of each stage
    "sft": ("loss", "stop_rate", "length", "gold"),
    "reward": ("loss", "accuracy", "test_accuracy"),
    "ppo": ("reward", "gold", "kl", "stop_rate", "length", "clip_fraction", "first_clip", "approx_kl", "value_loss", "drift"),
    "dpo": ("loss", "accuracy", "margin", "chosen_logps", "kl", "gold", "length", "stop_rate"),
}


@dataclass
class Setup:
    """What one short run is made of. Each `put_...` exchanges one piece for other code."""

    stage: str
    given: Pipeline
    config: Any
    model: Policy | RewardModel
    records: list[dict] = field(default_factory=list)  # demonstrations or pairs
    held_out: list[dict] = field(default_factory=list)  # the reward model's
    score: Score | None = None
    equations: SimpleNamespace = field(default_factory=workbook.equations)
    loss_fn: Callable[..., Tensor] | None = None
    exchanged: list[tuple[ModuleType, str, Callable]] = field(default_factory=list)  # module, name, other code, while the run lasts

    def put_equation(self, name: str, code: Callable) -> None:
        """One of the functions that PPO calls."""
        setattr(self.equations, name, code)

    def put_method(self, name: str, code: Callable) -> None:
        """A method of this run's model alone."""
        setattr(self.model, name, MethodType(code, self.model))

    def put_function(self, module: ModuleType, name: str, code: Callable) -> None:
        """A function of a module, for which the stage has no argument."""
        self.exchanged.append((module, name, code))


def setup(given: Pipeline, stage: str, seed: int = 0, **settings) -> Setup:
    """A healthy short run of a stage.

    Args:
        given: holds the SFT model and the reward model.
        seed: of the run: order of the data, prompts and samples, and the adapter's start.
        settings: in place of some of `SHORT`.

    Raises:
        UserError: another world than the tiny one.
    """
    if given.recipe.name != "tiny":
        raise UserError('the clinic has the settings and the recorded runs of the tiny world alone; open it with SIZE = "tiny"')
    config = replace(given.config(stage), **SHORT[stage] | settings, seed=seed)
    if stage == "sft":
        return Setup(stage, given, config, given.base.policy("clinic", given.rank, seed), given.demonstrations[: RECORDS["sft"]])
    if stage == "reward":
        model = given.reference.reward_model("clinic", given.rank, seed)
        return Setup(stage, given, config, model, *split(given.pairs[0][: RECORDS["reward"]], HELD_OUT))
    policy = given.reference.policy("clinic", given.rank, seed)
    if stage == "dpo":
        return Setup(stage, given, config, policy, given.pairs[0][: RECORDS["dpo"]], loss_fn=losses.dpo_loss)
    return Setup(stage, given, config, policy, score=given.score)


def split(pairs: list[dict], share: float) -> tuple[list[dict], list[dict]]:
    """Training and test pairs, which share no prompt."""
    prompts = list(dict.fromkeys(pair["prompt"] for pair in pairs))
    held_out = set(prompts[: int(share * len(prompts))])
    return [pair for pair in pairs if pair["prompt"] not in held_out], [pair for pair in pairs if pair["prompt"] in held_out]


def raw_score(given: Pipeline) -> Score:
    """The reward model's score before it was centred. Its level is arbitrary; here it lies `OFFSET` from the centred one."""

    def score(completions: Completions) -> Tensor:
        return given.score(completions) + OFFSET

    return score


def sft_answers(given: Pipeline, count: int = 64) -> Completions:
    """Answers of the SFT model, one to each of the first prompts."""
    rng = torch.Generator(given.sft.device).manual_seed(given.seed)
    return sample(given.sft, given.prompts[:count], given.config("ppo").max_new_tokens, rng)


# ---------------------------------------------------------------------------------------------- how a run runs


def steps(run: Setup) -> Iterator[dict]:
    """The metrics of each step while it trains; what a break exchanged in a module is put back at the end."""
    with ExitStack() as stack:
        for module, name, code in run.exchanged:
            stack.enter_context(patch.object(module, name, code))
        yield from {"sft": _sft, "reward": _reward, "ppo": _ppo, "dpo": _dpo}[run.stage](run)


def _sft(run: Setup) -> Iterator[dict]:
    return _probed(run, sft.train(_policy(run), run.records, run.config))


def _dpo(run: Setup) -> Iterator[dict]:
    assert run.loss_fn is not None
    return _probed(run, dpo.train(_policy(run), run.records, run.config, run.loss_fn))


def _reward(run: Setup) -> Iterator[dict]:
    assert isinstance(run.model, RewardModel)
    for metrics in reward.train(run.model, run.records, run.config):
        if metrics["step"] % -(-metrics["steps"] // 10) == 0:  # ten times over the stage
            metrics["test_accuracy"] = losses.accuracy(evaluate.pair_margins(run.model, run.held_out, run.config.max_length)).item()
        yield metrics


def _ppo(run: Setup) -> Iterator[dict]:
    """PPO's steps; whole ones also have `first_clip`, the clip fraction after one pass, and `drift` (see `_Watched`)."""
    assert run.score is not None
    watched, first = _Watched(run.given.gold, _policy(run), run.config.temperature), 0.0
    head = run.given.reference.value_head(seed=run.config.seed)
    passes = 0
    for metrics in ppo.train(_policy(run), head, run.score, run.given.prompts, run.config, watched, run.equations):
        passes = 0 if "clip_fraction" not in metrics else passes + 1
        first = metrics["clip_fraction"] if passes == 1 else first
        yield metrics if metrics.get("partial") else metrics | {"first_clip": first, "drift": watched.drift}


class _Watched:
    """Gold as PPO reports it; notes on the way how far the log-probs recorded while sampling are from those of a plain pass."""

    def __init__(self, gold: Score | None, policy: Policy, temperature: float):
        self.gold, self.policy, self.temperature, self.drift = gold, policy, temperature, 0.0

    def __call__(self, completions: Completions) -> Tensor:
        plain = Policy.measure(self.policy, completions.batch, self.temperature).logps
        self.drift = losses.masked_mean((plain - completions.logps).abs(), completions.batch.mask).item()  # nats per token
        assert self.gold is not None
        return self.gold(completions)


def _policy(run: Setup) -> Policy:
    assert isinstance(run.model, Policy)
    return run.model


def _probed(run: Setup, trained: Iterator[dict]) -> Iterator[dict]:
    recipe = replace(run.given.recipe, probe=PROBE)
    return pipeline.probed(recipe, _policy(run), trained, run.config.seed)


# ---------------------------------------------------------------------------------------------- what is recorded


def record(run: Setup) -> dict:
    """Train, and keep what a learner sees.

    Returns:
        curves: see `trained`;
        end, of a policy: means of its answers to the judge's prompts, judged by code that no break touches: gold, score, kl (nats),
        length (tokens), stop_rate;
        samples: three of these answers, with prompt, text, score, gold and stopped.
    """
    return {"curves": trained(run)} | (_judged(run) if isinstance(run.model, Policy) else {})


def trained(run: Setup, watch: Callable[[dict], None] = lambda metrics: None) -> dict[str, list[list]]:
    """Train; for each metric of `CURVES` that was reported, [steps, values], at most `POINTS` of each, evenly spaced.

    Args:
        watch: called with the metrics of each step.
    """
    curves: dict[str, list[list]] = {}
    for metrics in steps(run):
        watch(metrics)
        if not metrics.get("partial"):
            for key in CURVES[run.stage]:
                if key in metrics:
                    at, values = curves.setdefault(key, [[], []])
                    at.append(metrics["step"])
                    values.append(metrics[key])
    return {key: thinned(curve) for key, curve in curves.items()}


def thinned(curve: list[list]) -> list[list]:
    """[steps, values] with every k-th point, so that no more than `POINTS` are left."""
    k = max(1, -(-len(curve[0]) // POINTS))
    return [part[::k] for part in curve]


def _judged(run: Setup) -> dict:
    given, model = run.given, _policy(run)
    policy = Policy(model.base, model.adapter, model.reference)  # without what a break put into the trained object
    seen = pipeline.answer(given.recipe, policy, given.recipe.judge_prompts, ANSWERS, given.score, seed=0)
    columns = {"gold": seen.gold, "score": seen.scores, "kl": seen.kl, "length": seen.length, "stop_rate": seen.stopped}
    samples = [
        {"prompt": seen.prompts[i], "text": seen.texts[i][0], "score": seen.scores[i, 0].item(), "gold": seen.gold[i, 0].item(),
         "stopped": bool(seen.stopped[i, 0])}
        for i in range(min(3, len(seen.prompts)))
    ]  # fmt: skip
    return {"end": {key: column.mean().item() for key, column in columns.items()}, "samples": samples}
