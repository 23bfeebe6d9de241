"""The list of stages. A new method is one file with its `STAGE`, its test, and its name here."""

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignlab.stage import Stage

METHODS = ("ppo", "dpo", "rloo", "online", "kto")  # each makes a policy from the SFT model


@cache
def stages() -> "dict[str, Stage]":
    """Every stage by its name, in the order in which they are trained; imported when first asked for, so that --help is quick."""
    return {name: import_module(f"alignlab.{name}").STAGE for name in ("sft", "reward", *METHODS)}


def stage_of(config) -> "Stage | None":
    """The stage that a config belongs to."""
    return next((stage for stage in stages().values() if type(config) is stage.config), None)
