"""The recipes: `tiny`, the bundled review world; `smol`, SmolLM2; and `own`, the user's model and data."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignlab import dpo, ppo, reward, sft, world
from alignlab import smol as weights
from alignlab.base import best_device
from alignlab.encoding import last_message, prompt_text
from alignlab.errors import UserError
from alignlab.files import fingerprint
from alignlab.fit import fitted
from alignlab.loading import read_config, read_tokenizer
from alignlab.models import Base, load
from alignlab.pairs import sample_pairs
from alignlab.recipe import Recipe, Source
from alignlab.records import data_folder, preferences, read_demonstrations, read_preferences, read_prompts, split_by_prompt
from alignlab.records import demonstrations as read_shown
from alignlab.rollout import Completions
from alignlab.talks import Text

FEW_STRENGTHS = (0.5, 1.0, 2.0)  # where an answer takes long, or nobody waits for many

# ---------------------------------------------------------------------------------------------- tiny


def tiny(fast: bool = False) -> Recipe:
    """The review world: everything ships with the package, and each stage has its Config's own settings."""
    folder = data_folder()
    recipe = Recipe(
        name="tiny", model="data/base", judge="gold", gold=world_gold,
        load=lambda: load(folder / "base"),
        demonstrations=lambda base, seed, watch: read_demonstrations(folder / "demonstrations.jsonl"),
        pairs=lambda reference, seed, watch: (
            read_preferences(folder / "preferences.jsonl"), read_preferences(folder / "preferences_test.jsonl")
        ),
        certainty=_certainty,
        prompts=read_prompts(folder / "prompts.jsonl"), judge_prompts=read_prompts(folder / "prompts_test.jsonl")[:32],
        stages={"sft": sft.Config(), "reward": reward.Config(), "ppo": ppo.Config(), "dpo": dpo.Config()},
        data=fingerprint(folder / "base" / "model.safetensors", *sorted(folder.glob("*.jsonl"))),
    )  # fmt: skip
    if fast:
        recipe.samples, recipe.answers, recipe.pair_limit, recipe.test_limit, recipe.probe = 128, 16, 800, 640, 48
        recipe.strengths = FEW_STRENGTHS
        recipe.stages["reward"].epochs = recipe.stages["dpo"].epochs = 2
        recipe.stages["ppo"].iterations = 5
    return recipe


def lesson(fast: bool = False) -> Recipe:
    """`tiny` as the notebooks run it: fewer pairs, read more often, so that every cell takes seconds or a few minutes.

    `fast` is the tests' setting.
    """
    recipe = tiny()
    recipe.pair_limit, recipe.samples, recipe.answers = (300, 128, 8) if fast else (3000, 768, 16)
    recipe.stages["sft"].epochs = 1 if fast else 4
    recipe.stages["reward"] = reward.Config(epochs=2, learning_rate=3e-3)
    recipe.stages["dpo"] = dpo.Config(epochs=1 if fast else 4, learning_rate=1e-3)
    batch, minibatch, iterations = (64, 64, 2) if fast else (256, 128, 24)
    recipe.stages["ppo"] = ppo.Config(batch_size=batch, minibatch_size=minibatch, iterations=iterations, learning_rate=3e-3)
    return recipe


def gamed() -> Recipe:
    """`tiny` with a judge that learned from 200 pairs and PPO without KL, as in notebook 06; too few samples for a curve."""
    recipe, usual = tiny(), lesson().stages
    recipe.pair_limit, recipe.samples = 200, 64
    recipe.stages["reward"] = replace(usual["reward"], batch_size=32, epochs=8)
    bold = {"beta": 0.0, "iterations": 40, "epochs": 4, "learning_rate": 1.5 * usual["ppo"].learning_rate}
    recipe.stages["ppo"] = replace(usual["ppo"], batch_size=128, minibatch_size=64, **bold)
    return recipe


def world_gold(completions: Completions) -> Tensor:
    """The gold reward of the review world for each completion: (B,)."""
    rows = zip(completions.prompts, completions.texts, completions.stopped.tolist(), strict=True)
    return torch.tensor([world.gold_reward(last_message(prompt), text, stopped) for prompt, text, stopped in rows])


# ---------------------------------------------------------------------------------------------- smol


def smol(fast: bool = False, model: str | None = None) -> Recipe:
    """SmolLM2-135M-Instruct on one-sentence film reviews; VADER, guarded, is the gold reward."""
    folder = data_folder()
    prompts, judge_prompts = read_prompts(folder / "prompts_smol.jsonl"), read_prompts(folder / "prompts_smol_test.jsonl")
    rules: dict[str, Any] = {"max_new_tokens": 40, "temperature": 0.7}
    rows, micro = (128, 16) if best_device().type == "cuda" else (32, 4)  # held at once: a GPU has room, a CPU is busy with few
    each = {"batch_size": 16, "micro_batch_size": micro, "max_length": 160, "epochs": 1}
    recipe = Recipe(
        name="smol", model=model or weights.HUB_NAME, judge="vader", gold=weights.vader_gold,
        load=lambda: _smol_base(model),
        demonstrations=lambda base, seed, watch: weights.own_demonstrations(
            base, prompts, 128 if fast else 512, seed=seed, rows=rows, watch=watch, **rules
        ),
        pairs=lambda reference, seed, watch: _smol_pairs(reference, prompts, judge_prompts, fast, seed, rows=rows, watch=watch, **rules),
        certainty=_certainty, prompts=prompts, judge_prompts=judge_prompts,
        stages={
            "sft": sft.Config(learning_rate=5e-4, **each),
            "reward": reward.Config(learning_rate=1e-3, **each | {"batch_size": 8}),
            "ppo": ppo.Config(beta=0.3, learning_rate=3e-4, value_learning_rate=3e-3, iterations=20, batch_size=64, minibatch_size=32,
                              micro_batch_size=2 * micro, epochs=2, missing_eos_score=-1.0, **rules),
            "dpo": dpo.Config(beta=0.1, learning_rate=3e-4, **each),
        },
        rank=8, samples=64, answers=16, strengths=FEW_STRENGTHS, centring=64, probe=16, rows=2 * rows,
        data=fingerprint(folder / "prompts_smol.jsonl", folder / "prompts_smol_test.jsonl"),
        weights=fingerprint(model) if model and Path(model).is_dir() else "",
    )  # fmt: skip
    return _fast_smol(recipe) if fast else recipe


def _fast_smol(recipe: Recipe) -> Recipe:
    """Few steps, so longer ones, and a nat costs less."""
    recipe.samples, recipe.answers, recipe.probe, recipe.stages["reward"].epochs = 16, 4, 4, 2
    recipe.stages["ppo"] = replace(recipe.stages["ppo"], beta=0.2, iterations=6, batch_size=48, minibatch_size=24)
    recipe.stages["dpo"] = replace(recipe.stages["dpo"], batch_size=8, learning_rate=4e-4)
    return recipe


def _smol_base(model: str | None) -> Base:
    weights.require("vaderSentiment")  # before anything is trained
    return load(model or weights.locate())


def _smol_pairs(
    reference: Base, prompts: list[Text], judge_prompts: list[Text], fast: bool, seed: int, **options
) -> tuple[list[dict], list[dict]]:
    """Training and test pairs. The fast run has few, so clear ones: the two of four answers that lie furthest apart, seldom mislabelled."""
    counts, draws, temperature = ((208, 48), 4, 0.1) if fast else ((1536, 192), 2, 0.25)
    annotator = world.Annotator(temperature=temperature)
    asked = (_cycle(prompts, counts[0]), _cycle(judge_prompts, counts[1]))
    train, test = (
        sample_pairs(reference, each, weights.vader_gold, annotator, seed=seed + number, draws=draws, **options)
        for number, each in enumerate(asked, 1)
    )
    return train, test


def _cycle(items: Sequence, count: int) -> list:
    return [items[i % len(items)] for i in range(count)]


def _certainty(pairs: Sequence[dict]) -> Tensor | None:
    """What the annotator's own probabilities say, where the pairs carry them."""
    return torch.tensor([pair["certainty"] for pair in pairs]) if all("certainty" in pair for pair in pairs) else None


# ---------------------------------------------------------------------------------------------- your own

LONGEST = 512  # tokens of prompt and completion
LONGEST_ANSWER = 256  # tokens sampled by default at most: sampling is what takes the time


def own(
    model: str, data: str, demonstrations: str | None = None, fast: bool = False, source: Source | None = None,
    say: Callable[[str], None] = print,
) -> Recipe:  # fmt: skip
    """Any causal LM on any preference set. Nothing knows the truth here, so the reward model judges, and the report says so.

    A fifth of the prompts is held out for judging; demonstrations of those are left out. Prompts are the same where the model
    reads the same text. Everything that the tokenizer and the config can tell about the data is told here, before any training.
    """
    source = source or Source()
    reading = preferences(data, columns=source.names("prompt", "chosen", "rejected", "system"), **source.where())
    room, tokenizer = _room(model), read_tokenizer(model)
    answers = fitted(tokenizer, reading, ["chosen", "rejected"], room, source.strict, say)
    train, test = split_by_prompt(reading.records, 0.2, seed=0, key=partial(prompt_text, tokenizer))
    shown = _shown(tokenizer, train, test, demonstrations, room, source, say)
    limit = source.max_new_tokens or _sampling_limit(answers, room)
    if longer := sum(length > limit for length in answers):
        say(f"{data}: {longer} of {len(answers)} chosen answers are longer than the {limit} tokens sampled (--max-new-tokens)")
    each = {"batch_size": 16, "micro_batch_size": 4, "max_length": LONGEST, "epochs": 1}
    return Recipe(
        name="hub", model=str(model), judge="reward_model", gold=None, load=lambda: load(model),
        demonstrations=lambda base, seed, watch: shown[: 256 if fast else None], pairs=lambda reference, seed, watch: (train, test),
        certainty=lambda pairs: None, prompts=_distinct(tokenizer, train), judge_prompts=_distinct(tokenizer, test)[: 8 if fast else 32],
        stages={
            "sft": sft.Config(learning_rate=3e-4, **each),
            "reward": reward.Config(learning_rate=2e-4, **each),
            "ppo": ppo.Config(beta=0.05, learning_rate=2e-4, value_learning_rate=1e-3, iterations=4 if fast else 40,
                              batch_size=16 if fast else 64, minibatch_size=16, micro_batch_size=8, max_new_tokens=limit),
            "dpo": dpo.Config(beta=0.1, learning_rate=2e-4, **each),
        },
        rank=8, samples=32 if fast else 128, answers=8 if fast else 16, strengths=FEW_STRENGTHS,
        centring=64, probe=16, rows=64,
        pair_limit=256 if fast else None, test_limit=128 if fast else None,
        data=fingerprint(data, *([demonstrations] if demonstrations else [])),
        weights=fingerprint(model) if Path(model).is_dir() else "",
    )  # fmt: skip


def _shown(tokenizer, train, test, demonstrations: str | None, room: int, source: Source, say: Callable[[str], None]) -> list[dict]:
    """What SFT learns from: the demonstrations whose prompts are not held out, or else the chosen answers."""
    if not demonstrations:
        return [{"prompt": record["prompt"], "completion": record["chosen"]} for record in train]
    columns = source.names("prompt", "completion", "system") if source.columns and "completion" in source.columns else None
    given = read_shown(demonstrations, columns=columns)
    fitted(tokenizer, given, ["completion"], room, source.strict, say)
    held_out = {prompt_text(tokenizer, record["prompt"]) for record in test}
    shown = [record for record in given.records if prompt_text(tokenizer, record["prompt"]) not in held_out]
    if not shown:
        raise UserError(f"{demonstrations}: only prompts that are held out for the judge; add demonstrations of other prompts")
    if dropped := len(given.records) - len(shown):
        say(f"{demonstrations}: {dropped} of {len(given.records)} rows left out: their prompts are held out for the judge")
    return shown


def _distinct(tokenizer, records: Sequence[dict]) -> list[Text]:
    """Each prompt once."""
    return list({prompt_text(tokenizer, record["prompt"]): record["prompt"] for record in records}.values())


def _room(model: str) -> int:
    """Tokens that prompt and answer may have together, by the model's config."""
    folder = Path(model)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        return LONGEST
    longest = getattr(read_config(model).get_text_config(), "max_position_embeddings", None)
    return min(longest or LONGEST, LONGEST)


def _sampling_limit(lengths: Sequence[int], room: int) -> int:
    """Tokens that 95 of 100 answers need, in steps of 8, with room left for a prompt."""
    enough = sorted(lengths)[int(0.95 * (len(lengths) - 1))]
    return max(16, min(8 * math.ceil(enough / 8), LONGEST_ANSWER, room // 2))


def choose(
    size: str = "tiny", model: str | None = None, data: str | None = None, demonstrations: str | None = None, fast: bool = False,
    source: Source | None = None, say: Callable[[str], None] = print,
) -> Recipe:  # fmt: skip
    """The recipe that the options ask for.

    Raises:
        UserError: they do not go together.
    """
    if size not in ("tiny", "smol", "hub"):
        raise UserError(f"size must be tiny, smol or hub, got {size!r}")
    if size == "hub" or data is not None:
        if model is None or data is None:
            raise UserError(f"your own {'data' if data else 'model'} needs --{'model' if data else 'data'} too: --model DIR --data FILE")
        return own(model, data, demonstrations, fast, source, say)
    if demonstrations is not None:
        raise UserError("--demonstrations goes with --model and --data; the sizes tiny and smol bring their own")
    if source is not None and source != Source(max_new_tokens=source.max_new_tokens):
        raise UserError("--strict, --limit, --split, --config and --columns go with --model and --data")
    if size == "smol":
        chosen = smol(fast, model)
    elif model is not None:
        raise UserError("size tiny brings its own model; give --data too for your own, or choose --size smol")
    else:
        chosen = tiny(fast)
    if source is not None and source.max_new_tokens:
        chosen.sampling.max_new_tokens = source.max_new_tokens
    return chosen
