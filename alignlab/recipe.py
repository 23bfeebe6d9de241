"""A recipe: a model, data, a judge, and the settings of each stage. The code that runs one is the same for all."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import Tensor

from alignlab.dial import STRENGTHS
from alignlab.models import Base
from alignlab.rollout import Score
from alignlab.stages import stages
from alignlab.talks import Text

Progress = Callable[[int, int], None]  # done, of how many
SAMPLING = ("max_new_tokens", "temperature", "missing_eos_score")  # the same for every policy and every curve


@dataclass(kw_only=True)
class Recipe:
    """Everything that differs between one run and another."""

    name: str  # the size: tiny, smol or hub
    model: str
    judge: str  # "gold" (known reward), "vader" (rule-based sentiment) or "reward_model" (nothing better is known)
    gold: Score | None  # (B,) judged reward of completions; None where the reward model must judge
    load: Callable[[], Base]
    demonstrations: Callable[[Base, int, Progress], list[dict]]  # may sample, from the base
    pairs: Callable[[Base, int, Progress], tuple[list[dict], list[dict]]]  # training and test; may sample, from the SFT model
    certainty: Callable[[Sequence[dict]], Tensor | None]  # max(p, 1 - p) of the annotator on each pair, or None where unknown
    prompts: list[Text]
    judge_prompts: list[Text]
    stages: dict[str, Any]  # the Config of each stage, by its name
    rank: int = 16  # of every adapter
    samples: int = 512  # of the reference, to each of the judge's prompts
    answers: int = 32  # of each policy, to each of the judge's prompts
    strengths: tuple[float, ...] = STRENGTHS  # of its adapter at which each policy is judged; 1, as trained, among them
    centring: int = 512  # completions by which scores are centred
    probe: int = 128  # completions by which a stage that samples none is watched while it trains
    pair_limit: int | None = None  # train the reward model on the first so many pairs
    test_limit: int | None = None  # judge it on so many
    rows: int = 1024  # answers sampled at once while judging
    data: str = ""  # fingerprint of what it was all made from
    weights: str = ""  # fingerprint of a model folder of the user's own
    methods: tuple[str, ...] = ("ppo", "dpo")  # whose policies are judged

    @property
    def sampling(self) -> Any:
        """The rules of sampling that serve every policy and every curve: `max_new_tokens`, `temperature`, `missing_eos_score`."""
        return next(config for config in self.stages.values() if hasattr(config, "max_new_tokens"))

    def config(self, stage: str) -> Any:
        """The settings of a stage; where the recipe says nothing, those of the stage it is like and the rules of sampling, else its own."""
        if stage not in self.stages:
            kind, like = stages()[stage].config, stages()[stage].like
            known = asdict(self.config(like)) | {name: getattr(self.sampling, name) for name in SAMPLING} if like else {}
            own = {field.name for field in fields(kind)}
            self.stages[stage] = kind(**{name: value for name, value in known.items() if name in own})
        return self.stages[stage]

    def set_seed(self, seed: int) -> None:
        """One seed for every stage."""
        for config in self.stages.values():
            config.seed = seed

    def describe(self) -> dict:
        """The settings, as `config.json` keeps them."""
        keys = ("model", "judge", "rank", "samples", "answers", "strengths", "centring", "probe", "pair_limit", "test_limit", "data")
        own = {"weights": self.weights} if self.weights else {}
        stages = {name: asdict(config) for name, config in self.stages.items()}
        return {"size": self.name, **{key: getattr(self, key) for key in keys}, **own, **stages}


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

    def names(self, *ours: str) -> dict[str, str] | None:
        """The columns that are called otherwise, of those that a reader needs."""
        return {name: theirs for name, theirs in (self.columns or {}).items() if name in ours}

    def where(self) -> dict:
        """What of the source is read."""
        return {"split": self.split, "config": self.config, "limit": self.limit}
