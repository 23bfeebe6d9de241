"""The roles over one base: a policy is the base with an adapter, its reference the same base with none."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignlab import losses
from alignlab.base import Adaptable, best_device
from alignlab.data import Batch
from alignlab.heads import RewardModel, ValueHead
from alignlab.loading import read_model
from alignlab.probe import probe

SCORING_ELEMENTS = 2**21  # logits held at once without gradient: 8 MB in float32, so that a pass stays near the processor
GPU_SCORING_ELEMENTS = 2**27  # the same on an NVIDIA GPU, which has room for more: 512 MB
SCORING_ROWS = 4  # at least so many rows at once, however many words the model knows: one alone leaves the machine idle


def load(source: str | Path, device: torch.device | str | None = None) -> "Base":
    """A causal LM in Hugging Face layout, from a directory or a hub name, as a frozen base.

    Raises:
        UserError: what is there is not a whole causal LM in safetensors with its tokenizer (see `loading`), or is one that peft
            cannot adapt or that `Base` cannot drive (see `probe`).
    """
    base = Base(*read_model(source, torch.device(device or best_device())))
    probe(base)
    return base


class Base(Adaptable):
    """A frozen causal LM from which policies and reward models start. With every adapter off it is their reference."""

    def policy(self, name: str = "policy", rank: int | None = 16, seed: int = 0) -> "Policy":
        """A policy that starts as this base: a LoRA adapter of that rank, or a full copy for `rank=None`."""
        if rank is None:
            own = Base(self._plain_copy(), self.tokenizer)
            own.network.requires_grad_(True)
            return Policy(own, None, reference=self)
        self.add_adapter(name, rank, seed)
        return Policy(self, name, reference=self)

    def reward_model(self, name: str = "reward", rank: int = 16, seed: int = 0) -> RewardModel:
        """A reward model that starts as this base: an adapter, and a score head without bias."""
        self.add_adapter(name, rank, seed)
        return RewardModel(self, name)

    def value_head(self, width: int = 128, seed: int = 0) -> ValueHead:
        """A value head for a policy over this base."""
        return ValueHead(self, width, seed)


class Measures(NamedTuple):
    """How policy and reference see a batch, each (B, T) and aligned with ids; 0 outside completions."""

    logps: Tensor  # log-probability of each completion token under the policy, nats
    ref_logps: Tensor  # the same under the reference
    kl: Tensor  # exact KL(pi, pi_ref) of the next-token distributions, nats
    entropy: Tensor  # of the policy's next-token distribution, nats
    hidden: Tensor  # (B, T, D) the policy's last hidden states


class Policy:
    """A trainable language model and the frozen reference that it started from."""

    def __init__(self, base: Base, adapter: str | None, reference: Base):
        self.base, self.adapter, self.reference = base, adapter, reference
        self.tokenizer = base.tokenizer

    @property
    def device(self) -> torch.device:
        return self.base.device

    @property
    def strength(self) -> float:
        """A multiplier on the policy's own adapter, settable at any time: 1 is the policy as trained, 0 the reference.

        Anything between and beyond is allowed. What is saved is always the adapter at strength 1.

        Raises:
            ValueError: a policy without an adapter has none.
        """
        return self.base.strength(self._own_adapter())

    @strength.setter
    def strength(self, value: float) -> None:
        self.base.set_strength(self._own_adapter(), value)

    def _own_adapter(self) -> str:
        if self.adapter is None:
            raise ValueError("a policy without an adapter has no strength; make it with base.policy(name, rank=16)")
        return self.adapter

    def parameters(self) -> list[nn.Parameter]:
        return self.base.parameters(self.adapter)

    def forward(self, batch: Batch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """One pass with gradient: completion log-probs (B, T), hidden states (B, T, D)."""
        hidden, logits = _predictions(self.base, self.adapter, batch, temperature)
        return losses.spread(losses.picked_logps(logits, batch.ids[batch.mask.bool()]), batch.mask), hidden

    def logps(self, batch: Batch, temperature: float = 1.0) -> Tensor:
        """Log-probability of each completion token, with gradient: (B, T), 0 outside completions."""
        return self.forward(batch, temperature)[0]

    @torch.no_grad()
    def reference_logps(self, batch: Batch, temperature: float = 1.0) -> Tensor:
        """The same under the reference, without gradient: (B, T)."""

        def compute(part: Batch) -> list[Tensor]:
            _, logits = _predictions(self.reference, None, part, temperature)
            return [losses.spread(losses.picked_logps(logits, part.ids[part.mask.bool()]), part.mask)]

        return self._in_parts(batch, compute)[0]

    @torch.no_grad()
    def measure(self, batch: Batch, temperature: float = 1.0) -> Measures:
        """What PPO and the judge need to know of a batch, without gradient, in parts that fit in memory."""

        def compute(part: Batch) -> list[Tensor]:
            hidden, logits = _predictions(self.base, self.adapter, part, temperature)
            _, ref_logits = _predictions(self.reference, None, part, temperature)
            ids = part.ids[part.mask.bool()]
            columns = (
                losses.picked_logps(logits, ids), losses.picked_logps(ref_logits, ids), losses.exact_kl(logits, ref_logits),
                losses.entropy(logits),
            )  # fmt: skip
            return [*(losses.spread(column, part.mask) for column in columns), hidden]

        return Measures(*self._in_parts(batch, compute))

    def _in_parts(self, batch: Batch, compute: Callable[[Batch], list[Tensor]]) -> list[Tensor]:
        """The (B, T, ...) tensors that `compute` gives, from parts of the batch, each of its own width, that fit in memory."""
        elements = GPU_SCORING_ELEMENTS if self.device.type == "cuda" else SCORING_ELEMENTS
        width = batch.ids.shape[1]
        rows = max(SCORING_ROWS, elements // (width * self.base.vocabulary))
        parts = [compute(batch.rows(slice(first, first + rows))) for first in range(0, len(batch), rows)]
        return [torch.cat([_widened(tensor, width) for tensor in column]) for column in zip(*parts, strict=True)]

    def save(self, folder: Path) -> None:
        """Write the adapter for plain PEFT, or the whole model where there is none."""
        if self.adapter is None:
            self.base.save(folder)
        else:
            self.base.save_adapter(self.adapter, folder, task_type="CAUSAL_LM")


def _predictions(base: Base, adapter: str | None, batch: Batch, temperature: float) -> tuple[Tensor, Tensor]:
    """Last hidden states, (B, T, D), and the logits that predict the N completion tokens, (N, V); none for prompts and padding."""
    with base.using(adapter):
        hidden = base.hidden(batch.ids, batch.attention)
        return hidden, base.logits(losses.before(hidden, batch.mask)) / temperature


def _widened(tensor: Tensor, width: int) -> Tensor:
    """(B, t, ...) padded with 0 to (B, width, ...)."""
    return F.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, width - tensor.shape[1]))
