"""Where DPO puts the probability: by how alike a pair's answers are, by the loss, and KTO on answers without their pairs.

Every policy learns from as many pairs, labelled by gold, in as many steps (see `displacement.slices`); KTO reads as many answers.
"""

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import torch
from torch import Tensor

from alignlab import displacement, dpo, kto, losses
from alignlab.models import Policy
from alignlab.pipeline import Pipeline
from alignlab.rollout import Completions, sample
from alignlab.tools import sweep_parts
from alignlab.tools.sweep import Sweep

SEEDS = (0, 1, 2)
STRENGTHS = (0.25, 0.5, 1.0, 2.0)
PAIRS, PASSES, BATCH = 1500, 2, 64
HELD_OUT = 128  # pairs of each slice, the same for all points
WATCHED = 64  # of them while a policy learns
LOOKS = 10  # times while it learns
DRAWN = 8  # answers to each of the judge's prompts that show where the probability went
FEW = 0.2  # of one kind of label, where KTO has few

BY_SLICE: list[dict] = [{"pairs": name, "loss": "dpo"} for name in ("any", "far", "close", "low ches", "high ches", "edited")]
CURES: list[dict] = [{"pairs": "edited", "loss": name} for name in ("nll", "dpop", "ipo", "kto")]
LENGTH: list[dict] = [{"pairs": "any", "loss": name} for name in ("per_token", "simpo")]
UNPAIRED: list[dict] = [{"pairs": "any", "loss": "kto", "kept": kept} for kept in ("both", "one", "few good", "few bad")]


def measure(settings: dict, seed: int, fast: bool) -> dict:
    """One policy, what became of held-out pairs, and where the probability went.

    Returns:
        course: chosen and rejected, the mean log-ratios of watched pairs of the slice, at some steps;
        held_out: the same of each held-out pair of the slice, with `alike` and `ches`; elsewhere: the means on the other slices;
        answers, reference_answers: see `_looked_at`; own: log-ratio of the reference's own answers, a number a prompt;
        and what `sweep_parts.walked` tells.
    """
    given = sweep_parts.pipeline(seed, fast)
    count, held = (PAIRS, HELD_OUT) if not fast else (40, 16)
    wanted = settings["pairs"]
    train, tests = _slices(given, given.pairs[0], wanted, count, seed), _slices(given, given.pairs[1], wanted, held, 0)
    policy = given.reference.policy("displaced", given.rank, seed)
    course = _watched(policy, _steps(given, policy, train[wanted], settings, fast), tests[wanted][:WATCHED])
    moved = {name: displacement.log_ratios(policy, pairs) for name, pairs in tests.items()}
    mine, known = tests[wanted], _known(given)
    written, usual = _drawn(given, policy), _drawn(given, policy, reference=True)
    return {
        "course": course,
        "held_out": _by_answer(moved[wanted]) | {
            "alike": [displacement.alike(pair) for pair in mine], "ches": displacement.ches(given.reference, mine).tolist(),
        },
        "elsewhere": {name: _by_answer(both.mean(-1)) for name, both in moved.items()},
        "answers": _looked_at(policy, written, known),
        "reference_answers": _looked_at(policy, usual, known),
        "own": _per_prompt(_moved(policy, usual)),
        **sweep_parts.walked(given, policy, STRENGTHS),
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------- training


def _slices(given: Pipeline, pairs: list[dict], wanted: str, count: int, seed: int) -> dict[str, list[dict]]:
    """The slices by words, "any", which is as many of all pairs, and those by CHES where one of them is wanted."""
    found = {"any": Random(seed).sample(displacement.by_gold(pairs), count), **displacement.slices(pairs, count, seed)}
    return found | displacement.by_ches(given.reference, pairs, count, seed) if wanted.endswith("ches") else found


def _steps(given: Pipeline, policy: Policy, pairs: list[dict], settings: dict, fast: bool) -> Iterator[dict]:
    """The training of a point."""
    passes = 1 if fast else PASSES
    if settings["loss"] == "kto":
        answers, weights = _kept(pairs, settings.get("kept", "both"), given.seed)
        read = passes * 2 * len(pairs) / len(answers)  # so that all read as many answers
        return kto.train(policy, answers, replace(given.config("kto"), epochs=round(read), batch_size=2 * BATCH, **weights))
    loss, usual = displacement.LOSSES[settings["loss"]], given.config("dpo")
    own = {"beta": loss.beta, "learning_rate": loss.rate * usual.learning_rate}
    return dpo.train(policy, pairs, replace(usual, epochs=passes, batch_size=BATCH, **own), loss.function)


def _kept(pairs: list[dict], kept: str, seed: int) -> tuple[list[dict], dict[str, float]]:
    """Single answers, and KTO's weights: both of each pair, one of each at random, or a fifth of one kind, which then weighs more."""
    answers, rng = kto.unpaired(pairs), Random(seed)
    if kept == "both":
        return answers, {}
    if kept == "one":
        return [answers[2 * row + rng.randrange(2)] for row in range(len(pairs))], {}
    good = kept == "few good"
    rare = [answer for answer in answers if answer["desirable"] == good]
    few = rng.sample(rare, max(1, round(FEW * len(rare))))
    weight = "desirable_weight" if good else "undesirable_weight"
    return few + [answer for answer in answers if answer["desirable"] != good], {weight: 1 / FEW}


def _watched(policy: Policy, steps: Iterator[dict], pairs: list[dict]) -> list[dict]:
    """Train to the end; the mean log-ratios of some pairs before, meanwhile and after, oftener at first."""
    course: list[dict] = [{"step": 0, "chosen": 0.0, "rejected": 0.0}]
    for metrics in steps:
        step, total = metrics["step"] + 1, metrics["steps"]
        if step in {max(1, round(total * (look / LOOKS) ** 2)) for look in range(1, LOOKS + 1)}:
            course.append({"step": step, **_by_answer(displacement.log_ratios(policy, pairs).mean(-1))})
    return course


def _by_answer(both: Tensor) -> dict:
    return dict(zip(("chosen", "rejected"), both.tolist(), strict=True))


# ---------------------------------------------------------------------------------------------- where the probability went


def _known(given: Pipeline) -> set[tuple[str, ...]]:
    """Every run of three tokens in the demonstrations and the training pairs."""
    texts = [shown["completion"] for shown in given.demonstrations]
    texts += [pair[side] for pair in given.pairs[0] for side in ("chosen", "rejected")]
    return {run for text in texts for run in displacement.grams(text)}


def _drawn(given: Pipeline, policy: Policy, reference: bool = False) -> Completions:
    """Answers to the judge's prompts, some to each."""
    rules, rng = given.recipe.sampling, torch.Generator().manual_seed(given.seed)
    asked = [prompt for prompt in given.recipe.judge_prompts for _ in range(DRAWN)]
    return sample(policy, asked, rules.max_new_tokens, rng, rules.temperature, reference)


def _looked_at(policy: Policy, written: Completions, known: set[tuple[str, ...]]) -> dict:
    """Of these answers, a mean a prompt: broken, the share of sentences that are none of the language; unseen, the share of runs of three
    tokens in no demonstration or pair; surprise, nats a token under the reference; length, tokens; stopped, the share that ended."""
    ref_logps = losses.sequence_logps(policy.reference_logps(written.batch), written.batch.mask)
    columns = {
        "broken": torch.tensor([displacement.broken(text) for text in written.texts]),
        "unseen": torch.tensor([displacement.unseen(text, known) for text in written.texts]),
        "surprise": -ref_logps / written.lengths,
        "length": written.lengths.float(),
        "stopped": written.stopped.float(),
    }
    return {name: _per_prompt(column) for name, column in columns.items()}


def _moved(policy: Policy, written: Completions) -> Tensor:
    """log(pi / pi_ref) of each answer: (B,), nats. Of the reference's own answers its mean is minus KL(pi_ref, pi)."""
    seen = policy.measure(written.batch)
    return losses.sequence_logps(seen.logps - seen.ref_logps, written.batch.mask)


def _per_prompt(values: Tensor) -> list[float]:
    return values.double().view(-1, DRAWN).mean(-1).tolist()


SWEEP = Sweep(
    name="displace",
    words="DPO by how alike the answers of a pair are, its cures, length, and KTO on answers without their pairs",
    points=[(settings, seed) for seed in SEEDS for settings in (*BY_SLICE, *CURES, *LENGTH, *UNPAIRED)],
    fast_points=[(settings, SEEDS[0]) for settings in (BY_SLICE[-1], CURES[1], UNPAIRED[2])],
    measure=measure,
    prepare=sweep_parts.prepare,
)
