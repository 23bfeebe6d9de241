"""Policies made from policies without training."""

import pytest
import torch

from alignlab import mixing, recipes
from alignlab.data import Example, collate
from alignlab.encoding import prompt_ids
from alignlab.models import Base, Policy
from alignlab.rollout import sample

COMPLETIONS = ("The plot was warm.", "A quiet comedy about a family farm. I call it clever.")


@pytest.fixture(scope="module")
def base() -> Base:
    """The bundled model with two adapters that have moved at random."""
    base = recipes.tiny().load()
    for seed, name in enumerate(("one", "other")):
        generator = torch.Generator().manual_seed(seed)
        for weight in base.policy(name, rank=4, seed=seed).parameters():
            weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    return base


@pytest.fixture(scope="module")
def batch(base):
    prompts = recipes.tiny().judge_prompts
    rows = [
        Example(prompt_ids(base.tokenizer, prompt), base.tokenizer(text)["input_ids"])
        for prompt, text in zip(prompts, COMPLETIONS, strict=False)
    ]
    return collate(rows, base.tokenizer.pad_token_id, base.device)


def next_logps(policy: Policy, batch) -> torch.Tensor:
    """log pi of every token after every position: (B, T, V)."""
    with torch.no_grad(), policy.base.using(policy.adapter):
        return policy.base.logits(policy.base.hidden(batch.ids, batch.attention)).log_softmax(-1)


@pytest.mark.parametrize("weights", [{None: 0.3, "one": 0.7}, {None: -1.0, "one": 2.0}, {"one": 0.5, "other": 0.5}])
def test_log_probabilities_are_mixed_token_by_token(base, batch, weights):
    parts = [weight * next_logps(Policy(base, name, base), batch) for name, weight in weights.items()]
    mixed = next_logps(mixing.mixed_logps(base, weights), batch)
    assert torch.allclose(mixed, sum(parts).log_softmax(-1), atol=1e-5)


def test_a_mixture_of_one_is_that_one_and_none_of_it_is_the_reference(base, batch):
    one = Policy(base, "one", base)
    assert torch.allclose(mixing.mixed_logps(base, {None: 0.0, "one": 1.0}).logps(batch), one.logps(batch), atol=1e-4)
    seen = mixing.mixed_logps(base, {None: 1.0, "one": 0.0}).measure(batch)
    assert torch.allclose(seen.logps, seen.ref_logps, atol=1e-4) and seen.kl.abs().max() < 1e-5
    assert torch.allclose(mixing.mixed_weights(base, "sum", {"one": 1.0, "other": 0.0}).logps(batch), one.logps(batch), atol=1e-4)


def test_what_a_mixture_samples_has_the_log_probabilities_that_it_scores(base):
    policy = mixing.mixed_logps(base, {None: -0.5, "one": 1.5})
    policy.base.ends = base.tokenizer(".")["input_ids"]  # so that some rows end early and the caches are cut
    samples = sample(policy, recipes.tiny().judge_prompts[:16], 24, torch.Generator().manual_seed(0))
    assert torch.allclose(samples.logps, policy.measure(samples.batch).logps, atol=1e-4)
    assert len({length.item() for length in samples.lengths}) > 1


@pytest.mark.parametrize("weights", [{"one": 0.4, "other": 0.6}, {"one": 1.0, "other": 1.0}, {"one": 2.0}])
def test_changes_of_weights_are_summed(base, batch, weights):
    policy = mixing.mixed_weights(base, "sum", weights)
    by_hand = Base(base._plain_copy(), base.tokenizer)
    for name, weight in by_hand.network.named_modules():
        if isinstance(weight, torch.nn.Linear):
            layer = base.network.get_submodule(name)
            if hasattr(layer, "get_delta_weight"):
                weight.weight.data += sum(share * layer.get_delta_weight(adapter) for adapter, share in weights.items())
    assert torch.allclose(policy.logps(batch), Policy(by_hand, None, by_hand).logps(batch), atol=1e-3)


def test_a_mixture_of_weights_has_a_strength_and_replaces_its_namesake(base, batch):
    policy = mixing.mixed_weights(base, "sum", {"one": 0.5})
    half = Policy(base, "one", base)
    half.strength = 0.5
    assert torch.allclose(policy.logps(batch), half.logps(batch), atol=1e-4)
    policy.strength = 2.0
    half.strength = 1.0
    assert torch.allclose(policy.logps(batch), half.logps(batch), atol=1e-4)
