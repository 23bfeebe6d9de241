"""What a stage says about itself, so that the pipeline, the command line and the notebooks' panels need not know it by name."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from alignlab.models import Base, Policy, RewardModel
from alignlab.rollout import Score
from alignlab.talks import Text


class Given(Protocol):
    """What a stage can start from; the pipeline makes each part when it is first asked for."""

    @property
    def base(self) -> Base: ...  # before SFT

    @property
    def reference(self) -> Base: ...  # the SFT model

    @property
    def demonstrations(self) -> list[dict]: ...

    @property
    def pairs(self) -> tuple[list[dict], list[dict]]: ...  # training and test

    @property
    def prompts(self) -> list[Text]: ...

    @property
    def score(self) -> Score: ...  # the reward model's, centred

    @property
    def gold(self) -> Score | None: ...  # the known reward, for reports only

    @property
    def rank(self) -> int: ...  # of new adapters

    @property
    def seed(self) -> int: ...


class Panel(NamedTuple):
    """One small set of axes: a title, and (metric, label) of the curves on its left and on its right scale."""

    title: str
    left: tuple[tuple[str, str], ...]
    right: tuple[tuple[str, str], ...] = ()


class Control(NamedTuple):
    """A setting of the stage's Config that can be moved while it runs, and the ends of its slider."""

    name: str
    label: str
    low: float
    high: float
    kind: str = "linear"  # or "log", "whole" (an integer), "switch" (off, or a value)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage: everything that the rest of the package reads instead of knowing the stage."""

    name: str  # in folders, in metrics and on the command line
    title: str  # for readers
    config: type  # its Config
    needs: tuple[str, ...]  # the stages trained before it, in order
    begin: Callable[..., tuple[Policy | RewardModel, Iterator[dict]]]  # (given, config, name) -> what is trained, and its steps
    announce: Callable[[Given, Any], str]  # (given, config) -> what a reader is told before it begins
    metrics: dict[str, str]  # what each step reports, with a word on each
    panels: tuple[Panel, ...]
    controls: tuple[Control, ...]
    colour: str
    like: str = ""  # the stage whose settings it has, as far as their names agree, where a recipe says nothing of it
    check: Callable[[Any], str | None] = lambda config: None  # what is wrong with a config, and the cure
    marker: str = "o"  # of a policy, on the plane
    samples: bool = False  # whether its own metrics include fresh answers; else the pipeline draws some while it trains

    def __post_init__(self) -> None:
        shown = [key for panel in self.panels for key, _ in panel.left + panel.right]
        unknown = [key for key in shown if key not in self.metrics]
        unknown += [control.name for control in self.controls if not hasattr(self.config, control.name)]
        if unknown:
            raise ValueError(f"stage {self.name}: no metric or setting called {', '.join(unknown)}")


LEARNING_RATE = Control("learning_rate", "learning rate", 1e-5, 1e-1, "log")
EVERY_STEP = {"loss": "what the step descends", "gradient_norm": "length of the gradient before clipping; a spike warns of trouble"}
FRESH_ANSWERS = {  # what the pipeline adds ten times over a stage that samples nothing itself
    "kl": "exact KL to the reference, nats per completion",
    "length": "tokens per completion",
    "stop_rate": "share of completions that end by themselves",
    "gold": "gold reward of the same completions; nothing is learned from it",
}
