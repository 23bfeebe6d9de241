"""A gradient's noise is measured on the stage's own steps, at a policy that stays as it is."""

from dataclasses import replace

import pytest
import torch
from architectures import PROMPTS, build, shaken
from test_stages import length_score

from alignlab import data, dpo, losses, ppo
from alignlab.lab import answers, noise

PAIRS = [{"prompt": f"w{i % 30}", "chosen": "a good film", "rejected": f"the long cat w{i % 7}"} for i in range(128)]


def test_steps_at_rest_change_no_weight_and_have_the_gradient_of_the_loss():
    policy = shaken(build("llama").policy(rank=2))
    before = [weight.clone() for weight in policy.parameters()]
    config = noise.at_rest("dpo", dpo.Config(beta=20.0), 2)  # so long a gradient that it is clipped
    found = noise.gradients(policy, dpo.train(policy, PAIRS, config), 2)
    assert all(map(torch.equal, before, policy.parameters()))
    examples = data.encode_all(policy.tokenizer, PAIRS, ["chosen", "rejected"], config.max_length)
    rows = torch.randperm(128, generator=torch.Generator().manual_seed(config.seed))[:32]
    batch = dpo._both(policy, [examples[row] for row in rows.tolist()])
    logps = losses.sequence_logps(policy.logps(batch), batch.mask).chunk(2)
    loss = losses.dpo_loss(*logps, *dpo.reference_logps(policy, batch), config.beta)
    true = torch.cat([slope.flatten() for slope in torch.autograd.grad(loss, policy.parameters())])
    assert true.norm() > 1 and torch.allclose(found[0], true, rtol=1e-3, atol=1e-5)


def test_ppos_gradient_is_the_policys_alone():
    base = build("llama")
    policy, head = shaken(base.policy(rank=2)), base.value_head(seed=0)
    config = replace(noise.at_rest("ppo", ppo.Config(max_new_tokens=6), 2), batch_size=8, minibatch_size=8)
    steps = ppo.train(policy, head, length_score, PROMPTS, config, equations=noise.POLICY_ALONE)
    found = noise.gradients(policy, steps, 2)
    assert found.shape[0] == 2 and found.norm() > 0
    assert all(weight.grad is None or not weight.grad.any() for weight in head.parameters())


def test_the_ratio_is_that_of_variance_to_signal():
    """1,000 draws of 8 gradients, of variance 3 x 4 around a mean of squared length 12."""
    rng = torch.Generator().manual_seed(0)
    drawn = 2 + 2 * torch.randn(1000, 8, 3, generator=rng)
    variance, mean = drawn.var(1).sum(-1).mean(), (drawn.mean(1).square().sum(-1) - drawn.var(1).sum(-1) / 8).mean()
    assert variance / mean == pytest.approx(1.0, abs=0.05)
    assert answers.noise_ratio(drawn.flatten(0, 1)).item() == pytest.approx(1.0, abs=0.05)
