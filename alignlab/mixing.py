"""Policies made from policies without training: adapters mixed by their log-probabilities, or by their weights.

Mixing log-probabilities, pi proportional to the product of pi_i^w_i, is exact on whole answers (`exact.mixed_logps`). Here it is
done token by token, as one can sample (Liu et al. 2402.02992): nearly the same, at the price of one pass for each that is mixed.
Mixing weights costs one pass in all and has no such law (Rame et al. 2306.04488); `Policy.strength` is its simplest case.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from alignlab.models import Base, Policy


def mixed_logps(base: Base, weights: Mapping[str | None, float]) -> Policy:
    """A policy whose next-token log-probabilities are a weighted sum, normalised, of those of several adapters over one base.

    Args:
        weights: of each adapter, None for the reference; {None: 1 - s, "ppo": s} is that policy at strength s.
    """
    return Policy(_Mixed(base, weights), None, base)


def mixed_weights(base: Base, name: str, weights: Mapping[str, float]) -> Policy:
    """A policy whose adapter, called `name`, changes the base by the weighted sum of what other adapters change."""
    base.combine(name, weights)
    return Policy(base, name, base)


class _Mixed(Base):
    """A base in several states at once: its "hidden states" are those of each, side by side, and its logits their mixture."""

    def __init__(self, base: Base, weights: Mapping[str | None, float]):
        self.of, self.weights = base, weights
        self.network, self.tokenizer, self.ends = base.network, base.tokenizer, base.ends

    @contextmanager
    def using(self, adapter: str | None) -> Iterator[None]:
        yield  # each pass below switches adapters itself

    def hidden(self, ids: Tensor, attention: Tensor) -> Tensor:
        """(B, T, adapters x D)."""
        return torch.cat([self._seen(adapter, self.of.hidden, ids, attention) for adapter in self.weights], -1)

    def next_hidden(self, ids: Tensor, attention: Tensor, cache=None) -> tuple[Tensor, Any]:
        """(B, adapters x D), and a cache of each."""
        caches = cache or [None] * len(self.weights)
        seen = [self._seen(adapter, self.of.next_hidden, ids, attention, each) for adapter, each in zip(self.weights, caches, strict=True)]
        return torch.cat([hidden for hidden, _ in seen], -1), _Caches(each for _, each in seen)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., adapters x D) -> (..., V), normalised."""
        each = hidden.chunk(len(self.weights), -1)
        logps = [weight * self.of.logits(part).float().log_softmax(-1) for weight, part in zip(self.weights.values(), each, strict=True)]
        return torch.stack(logps).sum(0).log_softmax(-1)

    def _seen(self, adapter: str | None, compute, *inputs):
        with self.of.using(adapter):
            return compute(*inputs)


class _Caches(list):
    """The caches of a mixture, cut alike."""

    def batch_select_indices(self, rows: Tensor) -> None:
        for cache in self:
            cache.batch_select_indices(rows)
