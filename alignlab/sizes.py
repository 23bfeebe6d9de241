"""What `tiny`, `smol` and `hub` are: a model, data, a judge, and the settings of each stage. The code that runs them is the same."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from alignlab import dpo, ppo, reward, sft, world
from alignlab.encoding import prompt_text
from alignlab.errors import UserError
from alignlab.fit import examine
from alignlab.loading import read_config, read_tokenizer
from alignlab.models import Base, best_device, load
from alignlab.pairs import sample_pairs
from alignlab.records import data_folder, preferences, read_demonstrations, read_preferences, read_prompts, split_by_prompt
from alignlab.records import demonstrations as read_shown
from alignlab.rollout import Completions, Score
from alignlab.runs import fingerprint
from alignlab.talks import Text

Progress = Callable[[int, int], None]  # done, of how many


@dataclass(kw_only=True)
class Size:
    """Everything that differs between the sizes.

    judge: "gold" (known reward), "vader" (rule-based sentiment) or "reward_model" (nothing better is known).
    gold: (B,) judged reward of completions; None where the reward model must judge.
    load, demonstrations, pairs: made when asked for; the latter two may sample, from the base and from the SFT model, and tell how far
        they are.
    certainty: max(p, 1 - p) of the annotator on each pair, or None where unknown.
    samples, answers: of the reference, and of each policy, to each of the judge's prompts.
    centring: completions by which scores are centred; probe: completions by which DPO is watched while it trains.
    pair_limit, test_limit: train and judge the reward model on the first so many pairs.
    rows: answers sampled at once while judging.
    data: fingerprint of what it was all made from; weights: of a model folder of the user's own.
    methods: the stages whose policies are judged.
    """

    name: str
    model: str
    judge: str
    gold: Score | None
    load: Callable[[], Base]
    demonstrations: Callable[[Base, int, Progress], list[dict]]
    pairs: Callable[[Base, int, Progress], tuple[list[dict], list[dict]]]
    certainty: Callable[[Sequence[dict]], Tensor | None]
    prompts: list[Text]
    judge_prompts: list[Text]
    sft: sft.Config
    reward: reward.Config
    ppo: ppo.Config
    dpo: dpo.Config
    rank: int = 16
    samples: int = 1024
    answers: int = 32
    centring: int = 512
    probe: int = 128
    pair_limit: int | None = None
    test_limit: int | None = None
    rows: int = 1024
    data: str = ""
    weights: str = ""
    methods: tuple[str, ...] = ("ppo", "dpo")

    @property
    def sampling(self) -> ppo.Config:
        """The rules of sampling that serve every policy and every curve: `max_new_tokens`, `temperature`, `missing_eos_score`."""
        return self.ppo

    def set_seed(self, seed: int) -> None:
        """One seed for every stage."""
        for config in (self.sft, self.reward, self.ppo, self.dpo):
            config.seed = seed

    def describe(self) -> dict:
        """The settings, as `config.json` keeps them."""
        stages = {stage: asdict(getattr(self, stage)) for stage in ("sft", "reward", "ppo", "dpo")}
        plain = {
            key: getattr(self, key)
            for key in ("name", "model", "judge", "rank", "samples", "answers", "centring", "probe", "pair_limit", "test_limit", "data")
        }
        own = {"weights": self.weights} if self.weights else {}
        return {"size": plain.pop("name"), **plain, **own, **stages}


# ---------------------------------------------------------------------------------------------- tiny


def tiny(fast: bool = False) -> Size:
    """The review world: everything ships with the package."""
    folder = data_folder()
    size = Size(
        name="tiny", model="data/base", judge="gold", gold=world_gold,
        load=lambda: load(folder / "base"),
        demonstrations=lambda base, seed, watch: read_demonstrations(folder / "demonstrations.jsonl"),
        pairs=lambda reference, seed, watch: tuple(
            read_preferences(folder / name) for name in ("preferences.jsonl", "preferences_test.jsonl")
        ),
        certainty=_certainty,
        prompts=read_prompts(folder / "prompts.jsonl"), judge_prompts=read_prompts(folder / "prompts_test.jsonl")[:32],
        sft=sft.Config(), reward=reward.Config(), ppo=ppo.Config(), dpo=dpo.Config(),
        data=fingerprint(folder / "base" / "model.safetensors", *sorted(folder.glob("*.jsonl"))),
    )  # fmt: skip
    if fast:
        size.samples, size.answers, size.ppo.iterations = 128, 16, size.ppo.iterations // 4
        size.pair_limit, size.test_limit, size.probe = 800, 640, 48
    return size


def world_gold(completions: Completions) -> Tensor:
    """The gold reward of the review world for each completion: (B,)."""
    rows = zip(completions.prompts, completions.texts, completions.stopped.tolist(), strict=True)
    return torch.tensor([world.gold_reward(prompt, text, stopped) for prompt, text, stopped in rows])


# ---------------------------------------------------------------------------------------------- smol


def smol(fast: bool = False, model: str | None = None) -> Size:
    """SmolLM2-135M-Instruct on one-sentence film reviews; VADER, guarded, is the gold reward."""
    from alignlab import smol as parts

    folder = data_folder()
    prompts, judge_prompts = read_prompts(folder / "prompts_smol.jsonl"), read_prompts(folder / "prompts_smol_test.jsonl")
    rules = {"max_new_tokens": 40, "temperature": 0.7}
    if fast:  # few pairs, so clear ones: the two of four answers that lie furthest apart, seldom labelled wrongly
        counts, draws, annotator = {"demonstrations": 128, "pairs": 208, "test_pairs": 48}, 4, world.Annotator(temperature=0.1)
    else:
        counts, draws, annotator = {"demonstrations": 512, "pairs": 1536, "test_pairs": 192}, 2, world.Annotator(temperature=0.25)
    rows, micro = (128, 16) if best_device().type == "cuda" else (32, 4)  # held at once: a GPU has room, a CPU is busy with few
    stage = {"batch_size": 16, "micro_batch_size": micro, "max_length": 160, "epochs": 1}

    def found() -> Base:
        parts.require("vaderSentiment")  # before anything is trained
        return load(model or parts.locate())

    def pairs(reference: Base, seed: int, watch: Progress) -> tuple[list[dict], list[dict]]:
        return tuple(
            sample_pairs(
                reference, _cycle(asked, counts[name]), parts.vader_gold, annotator, seed=seed + 1 + i, draws=draws, rows=rows, watch=watch,
                **rules,
            )
            for i, (name, asked) in enumerate((("pairs", prompts), ("test_pairs", judge_prompts)))
        )  # fmt: skip

    size = Size(
        name="smol", model=model or parts.HUB_NAME, judge="vader", gold=parts.vader_gold,
        load=found,
        demonstrations=lambda base, seed, watch: parts.own_demonstrations(
            base, prompts, counts["demonstrations"], seed=seed, rows=rows, watch=watch, **rules
        ),
        pairs=pairs, certainty=_certainty, prompts=prompts, judge_prompts=judge_prompts,
        sft=sft.Config(learning_rate=5e-4, **stage),
        reward=reward.Config(learning_rate=1e-3, **stage | {"batch_size": 8}),
        dpo=dpo.Config(beta=0.1, learning_rate=3e-4, **stage),
        ppo=ppo.Config(beta=0.3, learning_rate=3e-4, value_learning_rate=3e-3, iterations=20, batch_size=64, minibatch_size=32,
                       micro_batch_size=2 * micro, epochs=2, missing_eos_score=-1.0, **rules),
        rank=8, samples=64, answers=16, centring=64, probe=16, rows=2 * rows,
        data=fingerprint(folder / "prompts_smol.jsonl", folder / "prompts_smol_test.jsonl"),
        weights=fingerprint(model) if model and Path(model).is_dir() else "",
    )  # fmt: skip
    if fast:  # few steps, so longer ones, and a nat costs less
        size.samples, size.answers, size.probe, size.reward.epochs = 16, 4, 4, 2
        size.ppo.beta, size.ppo.iterations, size.ppo.batch_size, size.ppo.minibatch_size = 0.2, 6, 48, 24
        size.dpo.batch_size, size.dpo.learning_rate = 8, 4e-4
    return size


def _cycle(items: Sequence, count: int) -> list:
    return [items[i % len(items)] for i in range(count)]


def _certainty(pairs: Sequence[dict]) -> Tensor | None:
    """What the annotator's own probabilities say, where the pairs carry them."""
    return torch.tensor([pair["certainty"] for pair in pairs]) if all("certainty" in pair for pair in pairs) else None


# ---------------------------------------------------------------------------------------------- hub


@dataclass(kw_only=True)
class Source:
    """How a user's data is to be read.

    split, config: of a hub set.
    columns: our name -> the source's; they are those of the demonstrations where `completion` is among them.
    limit: rows read at most.
    strict: refuse rows with nothing to teach instead of leaving them out.
    max_new_tokens: the longest answer that is sampled; by default as long as 95 of 100 chosen answers, at most LONGEST_ANSWER.
    """

    split: str | None = None
    config: str | None = None
    columns: dict[str, str] | None = None
    limit: int | None = None
    strict: bool = False
    max_new_tokens: int | None = None


HUB_LENGTH = 512  # tokens of prompt and completion
LONGEST_ANSWER = 256  # tokens sampled by default at most: sampling is what takes the time


def hub(
    model: str, data: str, demonstrations: str | None = None, fast: bool = False, source: Source | None = None,
    say: Callable[[str], None] = print,
) -> Size:  # fmt: skip
    """Any causal LM on any preference set. Nothing knows the truth here, so the reward model judges, and the report says so.

    A fifth of the prompts is held out for judging; demonstrations of those are left out. Prompts are the same where the model
    reads the same text. Everything that the tokenizer and the config can tell about the data is told here, before any training.
    """
    source = source or Source()
    columns = source.columns or {}
    ours = {name: theirs for name, theirs in columns.items() if name != "completion"}
    reading = preferences(data, columns=ours, split=source.split, config=source.config, limit=source.limit)
    room, tokenizer = _room(model), read_tokenizer(model)

    def text(prompt: Text) -> str:
        return prompt_text(tokenizer, prompt)

    reading.check(source.strict, say)
    lengths, facts = examine(tokenizer, reading, ["chosen", "rejected"], room)
    reading.check(source.strict, say)
    for fact in facts:
        say(f"{data}: {fact}")
    train, test = split_by_prompt(reading.records, 0.2, seed=0, key=text)
    held_out = {text(record["prompt"]) for record in test}
    shown = [{"prompt": record["prompt"], "completion": record["chosen"]} for record in train]
    if demonstrations:
        theirs = {name: column for name, column in columns.items() if name in ("prompt", "completion", "system")}
        given = read_shown(demonstrations, columns=theirs if "completion" in columns else None)
        given.check(source.strict, say)
        examine(tokenizer, given, ["completion"], room)
        given.check(source.strict, say)
        shown = [record for record in given.records if text(record["prompt"]) not in held_out]
        if not shown:
            raise UserError(f"{demonstrations}: only prompts that are held out for the judge; add demonstrations of other prompts")
        if len(shown) < len(given.records):
            count = len(given.records)
            say(f"{demonstrations}: {count - len(shown)} of {count} rows left out: their prompts are held out for the judge")
    shown = shown[: 256 if fast else None]
    prompts = list({text(record["prompt"]): record["prompt"] for record in train}.values())
    judge_prompts = list({text(record["prompt"]): record["prompt"] for record in test}.values())
    limit = source.max_new_tokens or _sampling_limit(lengths, room)
    if longer := sum(length > limit for length in lengths):
        say(f"{data}: {longer} of {len(lengths)} chosen answers are longer than the {limit} tokens sampled (--max-new-tokens)")
    stage = {"batch_size": 16, "micro_batch_size": 4, "max_length": HUB_LENGTH}
    folder = Path(model)
    return Size(
        name="hub", model=str(model), judge="reward_model", gold=None, load=lambda: load(model),
        demonstrations=lambda base, seed, watch: shown, pairs=lambda reference, seed, watch: (train, test),
        certainty=lambda pairs: None, prompts=prompts, judge_prompts=judge_prompts[: 8 if fast else 32],
        sft=sft.Config(learning_rate=3e-4, epochs=1, **stage), reward=reward.Config(learning_rate=2e-4, epochs=1, **stage),
        dpo=dpo.Config(beta=0.1, learning_rate=2e-4, epochs=1, **stage),
        ppo=ppo.Config(beta=0.05, learning_rate=2e-4, value_learning_rate=1e-3, iterations=4 if fast else 40, batch_size=16 if fast else 64,
                       minibatch_size=16, micro_batch_size=8, max_new_tokens=limit),
        rank=8, samples=32 if fast else 128, answers=8 if fast else 16, centring=64, probe=16, rows=64,
        pair_limit=256 if fast else None, test_limit=128 if fast else None,
        data=fingerprint(data, *([demonstrations] if demonstrations else [])),
        weights=fingerprint(folder) if folder.is_dir() else "",
    )  # fmt: skip


def _room(model: str) -> int:
    """Tokens that prompt and answer may have together, by the model's config."""
    folder = Path(model)
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        return HUB_LENGTH
    longest = getattr(read_config(model).get_text_config(), "max_position_embeddings", None)
    return min(longest or HUB_LENGTH, HUB_LENGTH)


def _sampling_limit(lengths: Sequence[int], room: int) -> int:
    """Tokens that 95 of 100 answers need, in steps of 8, with room left for a prompt."""
    enough = sorted(lengths)[int(0.95 * (len(lengths) - 1))]
    return max(16, min(8 * math.ceil(enough / 8), LONGEST_ANSWER, room // 2))


def choose(
    size: str = "tiny", model: str | None = None, data: str | None = None, demonstrations: str | None = None, fast: bool = False,
    source: Source | None = None, say: Callable[[str], None] = print,
) -> Size:  # fmt: skip
    """The size that the options ask for.

    Raises:
        UserError: they do not go together.
    """
    if size not in ("tiny", "smol", "hub"):
        raise UserError(f"size must be tiny, smol or hub, got {size!r}")
    if size == "hub" or data is not None:
        if model is None or data is None:
            raise UserError(f"your own {'data' if data else 'model'} needs --{'model' if data else 'data'} too: --model DIR --data FILE")
        return hub(model, data, demonstrations, fast, source, say)
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
        chosen.ppo.max_new_tokens = source.max_new_tokens
    return chosen
