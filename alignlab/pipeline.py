"""All stages over one run on disk, from the same start and the same pairs: SFT, the reward model, and a policy by each method.

Each product is made when it is first asked for, and read from the run's folder where it is already there.
"""

import math
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from alignlab import dial, evaluate, losses
from alignlab.errors import UserError
from alignlab.files import json_lines
from alignlab.meter import metered
from alignlab.models import Base, Policy, RewardModel, load
from alignlab.recipe import Progress, Recipe
from alignlab.records import read_preferences
from alignlab.rollout import Score
from alignlab.runs import Run
from alignlab.stages import stages
from alignlab.talks import Text

Watch = Callable[[dict], None]  # sees every metrics dict, as it comes


class Pipeline:
    """The stages of one run. `watch` is called with the metrics of each step, `say` with a line before each stage."""

    def __init__(self, run: Run, recipe: Recipe, seed: int = 0, watch: Watch = lambda metrics: None, say: Callable[[str], None] = print):
        self.run, self.recipe, self.seed, self.watch, self.say, self.methods = run, recipe, seed, watch, say, recipe.methods
        self._policies: dict[str, Policy] = {}  # by method, once trained

    # ------------------------------------------------------------------------------------------ products

    @cached_property
    def base(self) -> Base:
        """The model before SFT."""
        return self.recipe.load()

    @cached_property
    def demonstrations(self) -> list[dict]:
        """What SFT learns from."""
        return self.recipe.demonstrations(self.base, self.seed, self._progress("demos"))

    @cached_property
    def reference(self) -> Base:
        """The SFT model: where every method starts, and what KL is measured to."""

        def make() -> None:
            policy, steps = self.begin("sft", name="sft")
            self._train("sft", steps)
            self.run.write("sft", policy.base.merge("sft").save)
            del self.base  # its weights are changed now

        self._once(["sft"], make)
        return load(self.run.folder / "sft")

    @property
    def sft(self) -> Policy:
        """The SFT model as a policy: its own reference."""
        return Policy(self.reference, None, self.reference)

    @cached_property
    def pairs(self) -> tuple[list[dict], list[dict]]:
        """Training and test pairs; they share no prompt."""
        names = ["preferences.jsonl", "preferences_test.jsonl"]

        def make() -> None:
            for name, records in zip(names, self.recipe.pairs(self.reference, self.seed, self._progress("pairs")), strict=True):
                self.run.write(name, partial(_write_lines, records=records))

        self._once(names, make)
        train, test = (read_preferences(self.run.folder / name) for name in names)
        return train[: self.recipe.pair_limit], test[: self.recipe.test_limit]

    @cached_property
    def reward_model(self) -> RewardModel:
        """Learned from the training pairs, starting from the SFT model."""
        self._once(["reward"], lambda: self._learn("reward"))
        return RewardModel.load(self.reference, self.run.folder / "reward")

    @cached_property
    def score(self) -> Score:
        """The reward model's score minus its mean on the SFT model's own completions: 0 is an average answer."""
        return centred(self.recipe, self.reward_model, self.sft, self.seed, self._progress("centring"))

    def policy(self, method: str) -> Policy:
        """The SFT model trained by a method, such as "dpo"."""
        if method not in self._policies:
            self._once([method], lambda: self._learn(method))
            self.reference.load_adapter(method, self.run.folder / method)
            self._policies[method] = Policy(self.reference, method, self.reference)
        return self._policies[method]

    def make(self, stage: str) -> None:
        """Train a stage, and what it needs, where that is not done yet."""
        product = {"sft": "reference", "reward": "reward_model"}.get(stage)
        getattr(self, product) if product else self.policy(stage)

    @property
    def prompts(self) -> list[Text]:
        """What the policies answer while they learn."""
        return self.recipe.prompts

    @property
    def gold(self) -> Score | None:
        """The known reward, or None."""
        return self.recipe.gold

    @property
    def rank(self) -> int:
        """Of every adapter."""
        return self.recipe.rank

    def config(self, stage: str) -> Any:
        """The recipe's settings of a stage."""
        return self.recipe.config(stage)

    def begin(self, stage: str, config=None, name: str | None = None, **options) -> tuple[Policy | RewardModel, Iterator[dict]]:
        """A fresh policy or reward model, and the generator of metrics that trains it; nothing of it is written.

        Args:
            stage: a name in `alignlab.stages`.
            config: the stage's; by default the recipe's. It is read while the generator runs, so give live controls one of their own.
            name: the adapter's, so that several can live on one base; one of the same name is replaced. By default of this one alone.
            options: for the stage's `begin`, such as DPO's `loss_fn`.
        """
        named = name or f"{stage}_begun"  # never the name of a product that was loaded
        model, steps = stages()[stage].begin(self, config or self.config(stage), named, **options)
        if isinstance(model, RewardModel):
            steps = self._examined(model, steps)
        elif stage != "sft" and not stages()[stage].samples:
            steps = probed(self.recipe, model, steps, self.seed)
        return model, steps

    # ------------------------------------------------------------------------------------------ the judge

    @cached_property
    def plane(self) -> evaluate.Plane:
        """The reward-KL plane, from many answers of the SFT model to the judge's prompts."""
        self.say(f"judge: {self.recipe.samples} answers of the SFT model to each of {len(self.recipe.judge_prompts)} prompts")
        return evaluate.Plane(self._answer(self.sft, self.recipe.samples, "judge", reference=True))

    def answers(self, policy: Policy) -> evaluate.Answers:
        """A policy's answers to the judge's prompts."""
        return self._answer(policy, self.recipe.answers, f"judge {policy.adapter or 'policy'}")

    @cached_property
    def paths(self) -> dict[str, dial.Path]:
        """Each method's policy at each strength, from 0 on; half as many answers to a prompt where it is not as trained."""

        def judged(policy: Policy) -> evaluate.Answers:
            if policy.strength == 1:
                return self.answers(policy)
            return self._answer(policy, max(1, self.recipe.answers // 2), f"judge {policy.adapter} x{policy.strength:g}")

        start = {0.0: self.plane.reference}
        return {name: start | dial.walk(self.policy(name), judged, self.recipe.strengths) for name in self.methods}

    def compare(self) -> dict:
        """Every method's policy, SFT and best-of-16 on one plane: what `comparison.json` holds."""
        plane, paths = self.plane, self.paths
        trained = {name: path[1.0] for name, path in paths.items()}
        with_reference = {"sft": plane.reference, **trained}
        rows = {"sft": plane.policy(plane.reference), "best_of_16": plane.best_of(16)}
        rows |= {name: plane.policy(answers) for name, answers in trained.items()}
        for name in self.methods:
            if "reward" not in stages()[name].needs:  # it never saw this reward model
                rows[name]["optimiser_efficiency"] = rows[name]["reward_model_efficiency"] = None
        for name, row in rows.items():
            if self.recipe.gold is None:  # the reward model judges itself
                row["reward_model_efficiency"] = None
            row |= self._cost(name)
        margins = evaluate.pair_margins(self.reward_model, self.pairs[1], self.config("reward").max_length)
        turned = {"dial": {name: dial.points(plane, path) for name, path in paths.items()}, "at_equal_kl": dial.equal_kl(plane, paths)}
        return {
            **(turned if len(self.recipe.strengths) > 1 else {}),
            "size": self.recipe.name,
            "seed": self.seed,
            "judge": {
                "kind": self.recipe.judge, "prompts": len(self.recipe.judge_prompts),
                "samples": self.recipe.samples, "answers": self.recipe.answers,
                "max_new_tokens": self.recipe.sampling.max_new_tokens, "temperature": self.recipe.sampling.temperature,
            },
            "betas": {name: self.config(name).beta for name in self.methods},
            "reference": {"gold": plane.measure(plane.reference.gold), "sd": plane.sd},
            "curves": plane.curves(),
            "policies": rows,
            "reward_model": evaluate.judge_reward_model(margins, self.recipe.certainty(self.pairs[1])),
            "samples": [
                {"prompt": prompt, **{name: _shown(answers, i) for name, answers in with_reference.items()},
                 "best_of_16": _shown(plane.reference, i, int(plane.reference.scores[i, :16].argmax()))}
                for i, prompt in enumerate(self.recipe.judge_prompts[:8])
            ],
            "alarms": [alarm for name, answers in trained.items() if (alarm := plane.alarm(name, answers))],
        }  # fmt: skip

    def _cost(self, name: str) -> dict:
        """Minutes and peak memory of all that had to be trained for a policy."""
        needed = ("sft", "reward") if name == "best_of_16" else (*stages()[name].needs, name)
        spent = [record for record in self.run.metrics("timing.jsonl") if record["stage"] in needed]
        return {
            "minutes": round(sum(record["seconds"] for record in spent) / 60, 3),
            "peak_memory_mb": max(record["peak_memory_mb"] for record in spent),
        }

    # ------------------------------------------------------------------------------------------ how a stage runs

    def _once(self, names: list[str], make: Callable[[], None]) -> None:
        """Make products that are not finished, with every other process kept out of the folder meanwhile."""
        if not all(map(self.run.finished, names)):
            with self.run.held():
                if not all(map(self.run.finished, names)):  # the process that was at it may have finished them
                    make()

    def _learn(self, stage: str) -> None:
        """Train a stage to its end and write what it learned."""
        model, steps = self.begin(stage)
        self._train(stage, steps)
        self.run.write(stage, model.save)

    def _train(self, stage: str, steps: Iterator[dict]) -> None:
        """Run a stage to its end: log and show each step, then note seconds and memory."""
        self.say(stages()[stage].announce(self, self.config(stage)))
        self.run.forget(stage)
        with metered() as spent:
            for metrics in steps:
                self.watch(metrics)
                if not metrics.get("partial"):
                    self.run.log(metrics)
        self.run.log({"stage": stage, **spent}, "timing.jsonl")

    def _examined(self, model: RewardModel, steps: Iterator[dict]) -> Iterator[dict]:
        """The same steps; ten times over the stage a step also has test_loss and test_accuracy, on held-out pairs."""
        pairs = self.pairs[1][: self.recipe.probe]
        for metrics in steps:
            if _tenth(metrics):
                margins = evaluate.pair_margins(model, pairs, self.config("reward").max_length)
                metrics |= {
                    "test_loss": losses.preference_loss(margins, torch.zeros_like(margins)).item(),
                    "test_accuracy": losses.accuracy(margins).item(),
                }
            yield metrics

    def _progress(self, title: str) -> Progress:
        """Shows how far some sampling is, as the stages do with their steps."""
        return lambda done, total: self.watch({"stage": title, "step": done - 1, "steps": total})

    def _answer(self, policy: Policy, count: int, title: str, reference: bool = False) -> evaluate.Answers:
        prompts = self.recipe.judge_prompts
        return answer(self.recipe, policy, prompts, count, self.score, self.seed, self._progress(title), reference)


def _write_lines(draft: Path, records: list[dict]) -> None:
    draft.write_text(json_lines(records), encoding="utf-8", newline="\n")


# ---------------------------------------------------------------------------------------------- under a recipe's rules


def answer(
    recipe: Recipe, policy: Policy, prompts, count: int, score: Score | None, seed: int, watch: Progress = lambda done, total: None,
    reference: bool = False,
) -> evaluate.Answers:  # fmt: skip
    """Answers of a policy, or of its reference, under the rules that serve every policy and every curve."""
    rules = recipe.sampling
    return evaluate.answer(
        policy, prompts, count, recipe.gold, score, max_new_tokens=rules.max_new_tokens, temperature=rules.temperature,
        missing_eos_score=rules.missing_eos_score, seed=seed, reference=reference, rows=recipe.rows, watch=watch,
    )  # fmt: skip


def centred(recipe: Recipe, reward_model: RewardModel, policy: Policy, seed: int, watch: Progress = lambda done, total: None) -> Score:
    """A reward model's score minus its mean on what the policy's reference writes and ends.

    Raises:
        UserError: none of those answers ended.
    """
    rng = torch.Generator().manual_seed(seed)
    asked = [recipe.prompts[i] for i in torch.randint(len(recipe.prompts), (recipe.centring,), generator=rng).tolist()]
    samples = answer(recipe, policy, asked, 1, lambda completions: reward_model.score_all(completions.batch), seed, watch, reference=True)
    ended = samples.stopped.bool()
    if not ended.any():
        raise UserError(
            f"none of the SFT model's {ended.numel()} answers ended within {recipe.sampling.max_new_tokens} tokens, so there is "
            "nothing to score; train SFT longer, or on more and shorter demonstrations"
        )
    centre = samples.scores[ended].mean().item()
    return lambda completions: reward_model.score_all(completions.batch) - centre


def probed(recipe: Recipe, policy: Policy, steps: Iterator[dict], seed: int) -> Iterator[dict]:
    """The same steps; ten times over the stage a step also has kl, length, stop_rate, gold and two samples of fresh answers."""
    for metrics in steps:
        if _tenth(metrics):
            seen = answer(recipe, policy, recipe.prompts[: recipe.probe], 1, None, seed)
            metrics |= {"kl": seen.kl.mean().item(), "length": seen.length.mean().item(), "stop_rate": seen.stopped.mean().item()}
            if recipe.gold is not None:
                metrics["gold"] = seen.gold.mean().item()
            metrics["samples"] = [{"prompt": seen.prompts[i], "text": seen.texts[i][0]} for i in range(min(2, len(seen.prompts)))]
        yield metrics


def _tenth(metrics: dict) -> bool:
    """Whether it is one of about ten steps spread over a stage, the first and the last among them."""
    return metrics["step"] % math.ceil(metrics["steps"] / 10) == 0 or metrics["step"] == metrics["steps"] - 1


def _shown(answers: evaluate.Answers, prompt: int, answer: int = 0) -> dict:
    return {"text": answers.texts[prompt][answer], "gold": round(answers.gold[prompt, answer].item(), 3)}
