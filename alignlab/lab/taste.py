"""Train a reward model and DPO on your own labels, and see where they leave gold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from alignlab import dpo, evaluate, reward
from alignlab.errors import UserError
from alignlab.lab.label import Desk, gold_margin, percent, share, shown
from alignlab.lab.page import bundle, render
from alignlab.lab.screen import words
from alignlab.lab.training import Training
from alignlab.models import Base, Policy, RewardModel
from alignlab.pipeline import answer, centred, probed
from alignlab.recipe import Recipe
from alignlab.recipes import tiny
from alignlab.records import read_preferences

# ---------------------------------------------------------------------------------------------- training on the labels

Labels = Desk | str | Path | Sequence[dict]  # a desk, a label file, or records
LEAST = 4  # preferences, below which there is nothing to train on
STEPS = 60  # of training at least, so far as EPOCHS allows
EPOCHS = 20
SMOOTHING = 0.1  # in DPO: labels seen a dozen times over would otherwise drive their margins up without end
SAMPLES, ANSWERS = 64, 32  # of the SFT model and of a policy, to each of the judge's prompts
TEST_PAIRS = 1000


def records(labels: Labels) -> list[dict]:
    """The preferences of a desk or a file, repeats included.

    Raises:
        UserError: fewer than four.
    """
    if isinstance(labels, Desk):
        labels = labels.preferences()
    elif isinstance(labels, str | Path):
        labels = read_preferences(labels)
    if len(labels) < LEAST:
        raise UserError(f"{len(labels)} preferences are too few to train on; label at least {LEAST} pairs")
    return list(labels)


def settings(config, count: int):
    """A stage's config for `count` labels: few labels come in small batches and more often. reward.Config or dpo.Config -> the same.

    A batch is about a fifth of the labels, and epochs are repeated until there are sixty steps; from about 1,300 labels on (tiny) it is
    the config as it was.
    """
    batch = min(config.batch_size, max(LEAST, count // 5))
    epochs = max(config.epochs, min(EPOCHS, STEPS * batch // count))
    changed = {"batch_size": batch, "micro_batch_size": min(batch, config.micro_batch_size), "epochs": epochs}
    if isinstance(config, dpo.Config) and epochs > config.epochs:
        changed["label_smoothing"] = SMOOTHING
    return replace(config, **changed)


def dpo_training(
    policy: Policy, labels: Labels, recipe: Recipe | None = None, seed: int = 0, log: Callable[[dict], None] | None = None
) -> Training:
    """DPO on the labels as a `live.Training`, for `live.run`. Ten times on the way a step also tells kl, length and gold of fresh answers.

    Args:
        policy: starts as the SFT model: `reference.policy("labels")`.
        recipe: rules of sampling and settings to begin from; by default those of tiny.
        log: called with each step's metrics.
    """
    recipe, pairs = recipe or tiny(), records(labels)
    config = replace(settings(recipe.stages["dpo"], len(pairs)), seed=seed)
    return Training(probed(recipe, policy, dpo.train(policy, pairs, config), seed), config, log=log)


def reward_training(
    reward_model: RewardModel, labels: Labels, recipe: Recipe | None = None, seed: int = 0, log: Callable[[dict], None] | None = None
) -> Training:
    """A reward model's training on the labels as a `live.Training`; arguments as in `dpo_training`."""
    recipe, pairs = recipe or tiny(), records(labels)
    config = replace(settings(recipe.stages["reward"], len(pairs)), seed=seed)
    return Training(reward.train(reward_model, pairs, config), config, log=log)


def align(
    labels: Labels,
    reference: Base,
    recipe: Recipe | None = None,
    test: Sequence[dict] | None = None,
    seed: int = 0,
    watch: Callable[[dict], None] = lambda metrics: None,
) -> "Aligned":
    """Train a reward model and DPO on the labels, from the SFT model, and measure both.

    `watch` sees every step's metrics, and how far the judging is.

    Args:
        reference: the SFT model.
        recipe: by default tiny.
        test: held-out pairs with gold values, for the reward model; by default the recipe's own (smol samples them: minutes).

    Raises:
        UserError: too few labels.
    """
    recipe, pairs = recipe or tiny(), records(labels)
    reward_model = reference.reward_model("labels_reward", recipe.rank, seed)
    policy = reference.policy("labels", recipe.rank, seed)
    for training in (reward_training(reward_model, pairs, recipe, seed, watch), dpo_training(policy, pairs, recipe, seed, watch)):
        while not training.finished:
            training.advance()
    return measure(pairs, policy, reward_model, recipe, test, seed, watch)


# ---------------------------------------------------------------------------------------------- what came of it


@dataclass(kw_only=True, slots=True)
class Aligned:
    """What the labels made, and what the judge measured. A measured quantity is [mean, low, high], 95%; None where unknown.

    labels: preferences trained on.
    rows: "sft" and "dpo", each with length (tokens), gold, kl (nats), win_rate against SFT, score (your reward model's; an average SFT
        answer has 0) and stop_rate, on held-out prompts.
    agreement: share of held-out pairs that your reward model orders as gold does.
    disagreements: held-out pairs on which the two differ most: prompt, gold_prefers, reward_model_prefers and the margins of both.
    against_gold: your own labels that gold would turn round, the worst first.
    samples: answers of both models to a few prompts.
    """

    policy: Policy
    reward_model: RewardModel
    labels: int
    rows: dict[str, dict]
    agreement: list[float] | None
    disagreements: list[dict]
    against_gold: list[dict]
    samples: list[dict]

    def __str__(self) -> str:
        names = {"length": "tokens", "gold": "gold", "kl": "KL, nats", "win_rate": "win rate", "score": "your score", "stop_rate": "ends"}
        lines = [f"{self.labels} labels", f"{'':8}" + "".join(f"{name:>24}" for name in names.values())]
        for name, row in self.rows.items():
            lines.append(f"{name.upper():8}" + "".join(f"{shown(row[key]):>24}" for key in names))
        if self.agreement is not None:
            lines.append(f"Your reward model orders {percent(self.agreement)} of held-out pairs as gold does.")
        for found in self.disagreements[:1]:
            lines.append(f"They differ most here: {words(found['prompt'])}")
            lines += [
                f"  gold prefers:              {found['gold_prefers']}",
                f"  your reward model prefers: {found['reward_model_prefers']}",
            ]
        for sample_ in self.samples:
            lines += [words(sample_["prompt"]), f"  SFT: {sample_['sft']}", f"  DPO: {sample_['dpo']}"]
        return "\n".join(lines)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict:
        return bundle(str(self), render("preformatted", text=str(self), style="white-space: pre-wrap"))


def measure(
    labels: Labels, policy: Policy, reward_model: RewardModel, recipe: Recipe | None = None, test: Sequence[dict] | None = None,
    seed: int = 0, watch: Callable[[dict], None] = lambda metrics: None,
) -> Aligned:  # fmt: skip
    """Measure a policy and a reward model that were trained on the labels; arguments as in `align`."""
    recipe, pairs = recipe or tiny(), records(labels)
    test = (recipe.pairs(policy.reference, seed, lambda done, total: None)[1] if test is None else test)[:TEST_PAIRS]

    def judging(title: str) -> Callable[[int, int], None]:
        return lambda done, total: watch({"stage": title, "step": done - 1, "steps": total})

    score = centred(recipe, reward_model, policy, seed, judging("centring"))
    before = answer(recipe, policy, recipe.judge_prompts, SAMPLES, score, seed, judging("judge SFT"), reference=True)
    after = answer(recipe, policy, recipe.judge_prompts, ANSWERS, score, seed, judging("judge DPO"))
    plane = evaluate.Plane(before, seed)
    agreement, disagreements = _against(reward_model, test, recipe.stages["reward"].max_length)
    turned = [pair for pair in pairs if (gold_margin(pair) or 0) < 0]
    return Aligned(
        policy=policy, reward_model=reward_model, labels=len(pairs), agreement=agreement, disagreements=disagreements,
        rows={name: _row(plane, answers, recipe.gold is not None) for name, answers in (("sft", before), ("dpo", after))},
        against_gold=sorted(turned, key=lambda pair: gold_margin(pair) or 0),
        samples=[
            {"prompt": prompt, "sft": mine[0], "dpo": aligned[0]}
            for prompt, mine, aligned in list(zip(recipe.judge_prompts, before.texts, after.texts, strict=True))[:3]
        ],
    )  # fmt: skip


def _row(plane: evaluate.Plane, answers: evaluate.Answers, gold_known: bool) -> dict:
    measured = {name: plane.measure(getattr(answers, name)) for name in ("length", "kl", "stopped", "scores", "gold")}
    return {
        "length": measured["length"], "kl": measured["kl"], "stop_rate": measured["stopped"], "score": measured["scores"],
        "gold": measured["gold"] if gold_known else None,
        "win_rate": plane.measure(plane.win_rate(answers.gold)) if gold_known else None,
    }  # fmt: skip


def _against(reward_model: RewardModel, pairs: Sequence[dict], max_length: int, count: int = 10) -> tuple[list[float] | None, list[dict]]:
    """How often reward model and gold agree, and the pairs on which they differ most, each margin in its own standard deviations."""
    known = [pair for pair in pairs if gold_margin(pair)]
    if len(known) < 2:
        return None, []
    margins, gold = evaluate.pair_margins(reward_model, known, max_length), torch.tensor([gold_margin(pair) for pair in known])
    together = margins / margins.std().clamp(min=1e-8) * gold / gold.std()  # below 0 where they differ
    found = []
    for i in together.argsort()[:count].tolist():
        if together[i] < 0:
            chosen_wins = gold[i] > 0
            gold_prefers, model_prefers = ("chosen", "rejected") if chosen_wins else ("rejected", "chosen")
            found.append({
                "prompt": known[i]["prompt"], "gold_prefers": known[i][gold_prefers], "reward_model_prefers": known[i][model_prefers],
                "gold_margin": abs(gold[i].item()), "score_margin": abs(margins[i].item()),
            })  # fmt: skip
    return share(int((together > 0).sum()), len(known)), found
