"""The stages and the judge: how each starts, what it touches, when it stops, and that one seed is one run."""

import math
from dataclasses import replace

import pytest
import torch
from architectures import (
    DEMONSTRATIONS,
    PAIRS,
    PROMPTS,
    batch_of,
    build,
    copies,
    each_architecture,
    identical,
    plain_logps,
    random_examples,
    shaken,
)

from alignlab import dpo, evaluate, kto, losses, online, ppo, reward, rloo, sft
from alignlab.data import Example, collate, encode, encode_all
from alignlab.errors import TrainingError
from alignlab.models import ValueHead
from alignlab.optim import clip_gradients, micro_batches, minibatches, set_learning_rate, warm_then_decay
from alignlab.recipes import tiny
from alignlab.stage import Control, Panel
from alignlab.stages import stage_of, stages

near = {"rtol": 0, "atol": 1e-5}
STAGES = ["sft", "reward", "dpo", "ppo", "rloo", "online", "kto"]
SAMPLING = ["ppo", "rloo", "online"]
each_stage = pytest.mark.parametrize("stage", STAGES)


def length_score(samples):
    """A score that any tokenizer allows: short answers are better."""
    return -samples.lengths.float() / 4


def ppo_config(**settings):
    return ppo.Config(
        **{"iterations": 3, "batch_size": 16, "minibatch_size": 8, "max_new_tokens": 6, "learning_rate": 3e-3} | settings
    )


def rloo_config(**settings):
    return rloo.Config(
        **{"iterations": 3, "batch_size": 16, "minibatch_size": 8, "max_new_tokens": 6, "learning_rate": 3e-3} | settings
    )


def online_config(**settings):
    return online.Config(**{"steps": 3, "batch_size": 8, "micro_batch_size": 4, "max_new_tokens": 6, "learning_rate": 3e-3} | settings)


def run_of(stage, base, score=length_score, prompts=PROMPTS, **settings):
    """What trains, and the generator of its metrics."""
    if stage == "ppo":
        policy = base.policy("ppo", rank=2)
        return policy, ppo.train(policy, ValueHead(base), score, prompts, ppo_config(**settings))
    if stage == "rloo":
        policy = shaken(base.policy("rloo", rank=2))  # off its reference: where no answer ends, only KL tells them apart
        return policy, rloo.train(policy, score, prompts, rloo_config(**settings))
    if stage == "online":
        policy = base.policy("online", rank=2)
        return policy, online.train(policy, score, prompts, online_config(**settings))
    small = {"batch_size": 4, "epochs": 2, "learning_rate": 3e-3} | settings
    if stage == "reward":
        model = base.reward_model(rank=2)
        return model, reward.train(model, PAIRS, reward.Config(**small))
    policy = base.policy(stage, rank=2)
    if stage == "kto":
        return policy, kto.train(policy, kto.unpaired(PAIRS), kto.Config(**small))
    return policy, sft.train(policy, DEMONSTRATIONS, sft.Config(**small)) if stage == "sft" else dpo.train(
        policy, PAIRS, dpo.Config(**small)
    )


def gradients(model):
    return [parameter.grad.clone() for parameter in model.parameters()]


# ---------------------------------------------------------------------------------------------- what all stages promise


@each_stage
def test_nothing_happens_before_the_first_step_is_asked_for(stage):
    counts = {sft: 3, reward: 3, dpo: 3, ppo: 5, rloo: 4, online: 4, kto: 3}
    module, inputs = next((module, count) for module, count in counts.items() if module.STAGE.name == stage)
    module.train(*[None] * inputs)
    asked = []
    model, steps = run_of(stage, build("llama"), score=lambda samples: asked.append(samples) or length_score(samples))
    before = copies(model.base.network.parameters())
    assert not asked and identical(before, model.base.network.parameters())
    next(steps)
    assert bool(asked) == (stage in SAMPLING)


@each_stage
def test_one_seed_is_one_run_and_another_seed_another(stage):
    one, same, other = (list(run_of(stage, build("gemma3"), seed=seed)[1]) for seed in (0, 0, 1))
    assert one == same != other


@each_stage
def test_a_run_keeps_its_own_generator_whatever_happens_between_steps(stage):
    undisturbed = list(run_of(stage, build("llama"))[1])
    disturbed = []
    for metrics in run_of(stage, build("llama"))[1]:
        disturbed.append(metrics)
        torch.manual_seed(len(disturbed))
        torch.rand(17)
    assert disturbed == undisturbed


@each_stage
def test_a_run_leaves_the_global_generator_alone(stage):
    _, steps = run_of(stage, build("llama"))
    state = torch.get_rng_state()
    list(steps)
    assert torch.equal(torch.get_rng_state(), state)


@each_stage
def test_gradients_stay_on_while_a_run_is_paused(stage):
    for _ in run_of(stage, build("llama"))[1]:
        assert torch.is_grad_enabled()


@each_stage
def test_two_runs_by_turns_on_one_base_do_not_disturb_each_other(stage):
    base = build("qwen3")
    alone = [list(run_of(kind, build("qwen3"))[1]) for kind in (stage, "dpo" if stage != "dpo" else "reward")]
    runs = [run_of(kind, base)[1] for kind in (stage, "dpo" if stage != "dpo" else "reward")]
    together = [[], []]
    for _ in range(max(map(len, alone))):
        for steps, seen in zip(runs, together, strict=True):
            seen.extend(metrics for metrics in [next(steps, None)] if metrics is not None)
    assert together == alone


@each_stage
@each_architecture
def test_training_changes_its_own_role_and_nothing_else_bit_for_bit(stage, name):
    base = build(name)
    others = [shaken(base.policy("other", rank=2)), shaken(base.reward_model("judge", rank=2))]
    model, steps = run_of(stage, base, score=lambda samples: others[1].score_all(samples.batch))
    own = {id(parameter) for parameter in model.parameters()}
    everyone = [p for p in [*base.network.parameters(), *others[1].head.parameters()] if id(p) not in own]
    frozen, start = copies(everyone), copies(model.parameters())
    batch = batch_of(others[0], random_examples(others[0]))
    reference = others[0].reference_logps(batch)
    list(steps)
    assert identical(frozen, everyone)
    assert torch.equal(others[0].reference_logps(batch), reference)
    assert not any(torch.equal(one, other) for one, other in zip(start, model.parameters(), strict=True))
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in everyone)


@pytest.mark.parametrize("stage", ["sft", "dpo", "ppo", "rloo", "online"])
def test_a_full_policy_trains_while_its_reference_stays(stage):
    base = build("qwen3")
    policy = base.policy(rank=None)
    reference, start = copies(base.network.parameters()), copies(policy.parameters())
    if stage == "ppo":
        list(ppo.train(policy, ValueHead(base), length_score, PROMPTS, ppo_config()))
    elif stage == "rloo":
        list(rloo.train(policy, length_score, PROMPTS, rloo_config()))
    elif stage == "online":
        list(online.train(policy, length_score, PROMPTS, online_config()))
    else:
        module, records = (sft, DEMONSTRATIONS) if stage == "sft" else (dpo, PAIRS)
        list(module.train(policy, records, module.Config(batch_size=4, epochs=1)))
    assert identical(reference, base.network.parameters())
    assert not any(torch.equal(one, other) for one, other in zip(start, policy.parameters(), strict=True))
    assert policy.measure(batch_of(policy, random_examples(policy))).kl.max() > 0


# ---------------------------------------------------------------------------------------------- one step of the optimiser


def test_a_gradient_longer_than_the_limit_is_shortened_to_it_and_reported_as_it_was():
    weight = torch.nn.Parameter(torch.tensor([0.0, 0.0]))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    set_learning_rate(optimizer, 1.0)
    (weight @ torch.tensor([3.0, 4.0])).backward()
    assert clip_gradients(optimizer, 0.0, max_norm=1.0) == pytest.approx(5)
    optimizer.step()
    torch.testing.assert_close(weight.data, -torch.tensor([0.6, 0.8]), rtol=0, atol=1e-5)


def test_each_group_has_a_rate_and_is_clipped_by_itself():
    policy, value = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = torch.optim.SGD([{"params": [policy]}, {"params": [value]}], lr=0.0)
    set_learning_rate(optimizer, 0.5, 2.0)
    (0.25 * policy + 100 * value).sum().backward()
    clip_gradients(optimizer, 0.0)
    optimizer.step()
    assert policy.item() == pytest.approx(-0.125) and value.item() == pytest.approx(-2.0, rel=1e-4)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda w: w.sum() * math.nan, "the loss is nan"),
        (lambda w: w.sum() / 0, "the loss is inf"),
        (lambda w: (w - w.detach()).sqrt().sum(), "the gradient's norm is "),
    ],
    ids=["NaN", "infinite", "finite with an infinite gradient"],
)
def test_a_number_that_is_not_finite_is_refused_with_the_cure_before_any_step(loss, said):
    weight = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = torch.optim.AdamW([weight], lr=0.25)
    value = loss(weight)
    value.backward()
    with pytest.raises(TrainingError, match=f"{said}.*lower the learning rate .now 0.25."):
        clip_gradients(optimizer, value.item())
    assert weight.tolist() == [1.0, 2.0]


def test_each_epoch_visits_every_position_once_in_a_fresh_order():
    parts = minibatches(10, 4, 3, torch.Generator().manual_seed(0))
    assert [len(part) for part in parts] == [4, 4, 2] * 3
    epochs = [torch.cat(parts[first : first + 3]).tolist() for first in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_learning_rate_climbs_for_a_twentieth_and_falls_in_a_line_to_a_tenth():
    shares = [warm_then_decay(step, 200) for step in range(200)]
    assert shares[0] == pytest.approx(0.1) and shares[4] == pytest.approx(0.5 * (1 - 0.018))
    assert shares.index(max(shares)) == 9 and shares[100] == pytest.approx(0.55) and shares[199] == pytest.approx(0.1, abs=0.005)


@each_stage
def test_a_stage_that_meets_a_nan_says_so_and_leaves_its_weights(stage, monkeypatch):
    base = build("llama")
    model, steps = run_of(stage, base, score=lambda samples: length_score(samples) * math.nan)
    if stage == "reward":
        monkeypatch.setattr(model, "scores", lambda batch: type(model).scores(model, batch) * math.nan)
    elif stage not in SAMPLING:
        monkeypatch.setattr(model, "logps", lambda batch: type(model).logps(model, batch) * math.nan)
    before = copies(model.parameters())
    with pytest.raises(TrainingError, match="lower the learning rate"):
        list(steps)
    assert identical(before, model.parameters())


# ---------------------------------------------------------------------------------------------- SFT


def one_step(module, base, records, micro, **settings):
    model = shaken(base.reward_model(rank=2) if module is reward else base.policy(rank=2))
    config = module.Config(batch_size=8, micro_batch_size=micro, epochs=1, **settings)
    (metrics,) = module.train(model, records, config)
    return metrics, gradients(model), copies(model.parameters())


@pytest.mark.parametrize(("module", "records"), [(sft, DEMONSTRATIONS), (dpo, PAIRS), (reward, PAIRS)], ids=["sft", "dpo", "reward"])
def test_a_loss_of_ones_own_takes_the_place_of_the_packages(module, records):
    base, seen = build("llama"), []
    model = shaken(base.reward_model(rank=2) if module is reward else base.policy(rank=2))

    def flat(*given, **settings):
        seen.append(given)
        return given[0].sum() * 0

    before = copies(model.parameters())
    list(module.train(model, records, module.Config(batch_size=8, epochs=1), loss_fn=flat))
    assert seen and identical(before, model.parameters())


def test_micro_batches_put_rows_of_similar_length_together_and_leave_a_single_part_as_it_is():
    rows, tokens = torch.tensor([3, 0, 2, 1, 4]), torch.tensor([9, 1, 8, 2, 5])
    assert [part.tolist() for part in micro_batches(rows, tokens, 2)] == [[1, 3], [4, 2], [0]]
    assert [part.tolist() for part in micro_batches(rows, tokens, 5)] == [[3, 0, 2, 1, 4]]


@pytest.mark.parametrize("micro", [1, 2, 3, 5, 7])
@pytest.mark.parametrize(
    ("module", "records"), [(sft, DEMONSTRATIONS), (dpo, PAIRS), (reward, PAIRS)], ids=["sft", "dpo", "reward"]
)
def test_micro_batches_of_uneven_lengths_add_up_to_the_whole_batch(module, records, micro):
    whole, gradient, weights = one_step(module, build("llama"), records, 8)
    parts, parts_gradient, parts_weights = one_step(module, build("llama"), records, micro)
    for key in ("loss", "gradient_norm"):
        assert parts[key] == pytest.approx(whole[key], rel=1e-5)
    assert max(part.abs().max() for part in gradient) > 1e-3
    for one, other in zip(gradient, parts_gradient, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    for one, other in zip(weights, parts_weights, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-4)  # Adam's first step divides by the gradient


@each_architecture
def test_the_sft_loss_is_a_mean_over_completion_tokens_not_over_demonstrations(name):
    policy = shaken(build(name).policy(rank=2))
    examples = [encode(policy.tokenizer, record["prompt"], [record["completion"]], 64)[0] for record in DEMONSTRATIONS]
    logps = torch.cat([plain_logps(policy, example) for example in examples])
    (metrics,) = sft.train(policy, DEMONSTRATIONS, sft.Config(batch_size=8, epochs=1, max_length=64))
    assert metrics["loss"] == pytest.approx(-logps.mean().item(), abs=1e-5)
    assert metrics["tokens"] == len(logps) == sum(len(completion) for _, completion in examples)
    assert metrics["perplexity"] == pytest.approx(math.exp(-logps.mean().item()), rel=1e-4)


def test_sft_learns_from_the_loss_that_it_is_given():
    """One without the end token: the last completion token is not raised."""
    policy = build("llama").policy(rank=None)

    def without_end(token_logps, mask):
        mask = mask.clone()
        mask[torch.arange(len(mask)), losses.last_token(mask)] = 0
        return losses.sft_loss(token_logps, mask)

    list(sft.train(policy, DEMONSTRATIONS, sft.Config(batch_size=8, epochs=60, learning_rate=1e-2), without_end))
    for record in DEMONSTRATIONS:
        (example,) = encode(policy.tokenizer, record["prompt"], [record["completion"]], 64)
        logps = plain_logps(policy, example)
        assert logps[:-1].exp().min() > 0.5 and logps[-1].exp() < 0.3


def test_sft_learns_the_answers_and_to_stop_after_them():
    policy = build("llama").policy(rank=None)
    metrics = list(sft.train(policy, DEMONSTRATIONS, sft.Config(batch_size=8, epochs=60, learning_rate=1e-2)))
    assert metrics[-1]["loss"] < 0.1 * metrics[0]["loss"]
    for record in DEMONSTRATIONS:
        (example,) = encode(policy.tokenizer, record["prompt"], [record["completion"]], 64)
        assert plain_logps(policy, example)[-1].exp() > 0.9  # EOS, which has weight 1
        assert plain_logps(policy, example, reference=True)[-1].exp() < 0.3


# ---------------------------------------------------------------------------------------------- reward model


@each_architecture
def test_a_reward_model_starts_at_log_2(name):
    _, steps = run_of("reward", build(name))
    assert next(steps)["loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_only_differences_of_scores_count(monkeypatch):
    runs = []
    for constant in (0.0, 16.0):
        model = shaken(build("llama").reward_model(rank=2))
        monkeypatch.setattr(
            model, "scores", lambda batch, model=model, constant=constant: type(model).scores(model, batch) + constant
        )
        (metrics,) = reward.train(model, PAIRS, reward.Config(batch_size=8, epochs=1))
        runs.append((metrics, gradients(model)))
    for key in ("loss", "accuracy", "margin", "gradient_norm"):
        assert runs[0][0][key] == pytest.approx(runs[1][0][key], abs=1e-5)
    for one, other in zip(runs[0][1], runs[1][1], strict=True):
        torch.testing.assert_close(one, other, **near)


def test_a_reward_model_learns_its_pairs():
    model = build("llama").reward_model(rank=4)
    metrics = list(reward.train(model, PAIRS, reward.Config(batch_size=8, epochs=40, learning_rate=1e-2)))
    assert metrics[-1]["accuracy"] == 1 and metrics[-1]["loss"] < 0.1
    assert (evaluate.pair_margins(model, PAIRS, max_length=64) > 0).all()


# ---------------------------------------------------------------------------------------------- DPO


def test_a_loss_that_asks_for_lengths_is_given_each_completions_tokens():
    seen = []

    def by_length(*logps_and_beta, rejected_lengths, chosen_lengths):
        seen.append((chosen_lengths.tolist(), rejected_lengths.tolist()))
        return losses.length_normalised_dpo_loss(*logps_and_beta, chosen_lengths, rejected_lengths)

    policy = build("llama").policy(rank=2)
    config = dpo.Config(batch_size=len(PAIRS), epochs=2, learning_rate=1e-2)
    *_, last = dpo.train(policy, PAIRS, config, loss_fn=by_length)
    ids = [[policy.tokenizer(pair[side], add_special_tokens=False)["input_ids"] for pair in PAIRS] for side in ("chosen", "rejected")]
    assert [sorted(side) for side in seen[0]] == [sorted(len(row) + 1 for row in side) for side in ids]  # EOS included
    assert last["loss"] < math.log(2)


@each_architecture
@pytest.mark.parametrize("rank", [2, None])
def test_dpo_starts_at_log_2_and_at_no_margin(name, rank):
    base = build(name)
    shaken(base.reward_model(rank=2)) if rank else None  # another role's adapter is no part of the reference
    policy = base.policy(rank=rank)
    first = next(dpo.train(policy, PAIRS, dpo.Config(batch_size=3, micro_batch_size=2, beta=0.3)))
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    for key in ("margin", "chosen_reward", "rejected_reward"):
        assert first[key] == pytest.approx(0, abs=1e-5)


@each_architecture
def test_cached_reference_log_probs_are_the_live_ones(name):
    policy = shaken(build(name).policy(rank=2))
    examples = encode_all(policy.tokenizer, PAIRS, ["chosen", "rejected"], 64)
    chosen, rejected = zip(*examples, strict=True)
    cached = dpo.reference_logps(policy, collate(chosen + rejected, policy.tokenizer.pad_token_id)).T
    for row, pair in enumerate(examples):
        live = torch.stack([plain_logps(policy, example, reference=True).sum() for example in pair])
        torch.testing.assert_close(cached[row], live, rtol=0, atol=1e-4)


def test_dpos_loss_and_rewards_are_those_of_plain_log_probs():
    policy, beta = shaken(build("gemma3").policy(rank=2)), 0.7
    examples = encode_all(policy.tokenizer, PAIRS, ["chosen", "rejected"], 64)
    live, reference = (
        torch.stack([torch.stack([plain_logps(policy, example, reference=which).sum() for example in pair]) for pair in examples])
        for which in (False, True)
    )
    rewards = beta * (live - reference)
    margins = rewards[:, 0] - rewards[:, 1]
    (metrics,) = dpo.train(policy, PAIRS, dpo.Config(batch_size=8, micro_batch_size=3, epochs=1, beta=beta))
    assert metrics["loss"] == pytest.approx(-margins.sigmoid().log().mean().item(), abs=1e-4)
    assert metrics["margin"] == pytest.approx(margins.mean().item(), abs=1e-4)
    assert metrics["accuracy"] == pytest.approx((margins > 0).float().mean().item())
    assert metrics["chosen_logps"] == pytest.approx(live[:, 0].mean().item(), abs=1e-4)
    assert metrics["rejected_reward"] == pytest.approx(rewards[:, 1].mean().item(), abs=1e-4)


def test_dpos_beta_acts_at_the_next_step():
    policy, config = shaken(build("llama").policy(rank=2)), dpo.Config(batch_size=8, epochs=3, beta=0.5, learning_rate=1e-9)
    seen = []
    for metrics in dpo.train(policy, PAIRS, config):
        seen.append(metrics)
        config.beta = 2.0
    assert [metrics["beta"] for metrics in seen] == [0.5, 2.0, 2.0]
    assert seen[1]["margin"] == pytest.approx(4 * seen[0]["margin"], rel=1e-3)  # the policy hardly moves, the margin scales


# ---------------------------------------------------------------------------------------------- PPO: what it samples


def experience_of(policy, head=None, score=length_score, seed=0, **settings):
    """One iteration's samples, as the stage collects them."""
    config = ppo_config(**settings)
    return ppo.collect(
        policy, head or ValueHead(policy.base), score, PROMPTS * 4, config, torch.Generator().manual_seed(seed)
    ), config


@each_architecture
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_first_minibatch_of_every_iteration_is_the_policy_that_sampled(name, temperature):
    settings = {"batch_size": 16, "minibatch_size": 16, "epochs": 1, "temperature": temperature, "learning_rate": 1e-2}
    iterations = [metrics for metrics in run_of("ppo", build(name), **settings)[1] if not metrics.get("partial")]
    assert len(iterations) == 3 and iterations[-1]["kl"] > 1e-4  # the policy has moved from the reference
    for metrics in iterations:
        assert metrics["ratio"] == pytest.approx(1, abs=1e-5)
        assert metrics["clip_fraction"] == 0
        assert metrics["approx_kl"] == pytest.approx(0, abs=1e-5)


def test_in_bfloat16_the_first_ratio_is_one_to_its_own_tolerance():
    settings = {"batch_size": 16, "minibatch_size": 16, "epochs": 1, "learning_rate": 1e-2}
    iterations = [
        metrics for metrics in run_of("ppo", build("qwen3", torch.bfloat16), **settings)[1] if not metrics.get("partial")
    ]
    for metrics in iterations:
        assert metrics["ratio"] == pytest.approx(1, abs=0.05)
        assert metrics["clip_fraction"] == 0
        assert metrics["approx_kl"] == pytest.approx(0, abs=1e-3)


def test_no_gradient_flows_through_what_was_sampled():
    policy = shaken(build("llama").policy(rank=2))
    experience, _ = experience_of(policy, shaken(ValueHead(policy.base)))
    fixed = [experience.scores, experience.values, experience.advantages, experience.returns, experience.rewards, *experience.old]
    assert not any(tensor.requires_grad for tensor in fixed)


def test_values_of_the_first_iteration_are_all_zero():
    experience, _ = experience_of(build("llama").policy(rank=2))
    assert experience.values.abs().max() == 0


def test_rewards_add_up_to_the_score_less_beta_times_the_log_ratio_and_only_the_last_carries_the_score():
    policy = shaken(build("gemma3").policy(rank=2))
    experience, _ = experience_of(policy, beta=0.3)
    mask, log_ratio = experience.samples.batch.mask, experience.old.logps - experience.old.ref_logps
    torch.testing.assert_close(experience.rewards.sum(-1), experience.scores - 0.3 * log_ratio.sum(-1), **near)
    last = mask.cumsum(-1) == mask.sum(-1, keepdim=True)
    before = (mask == 1) & ~last
    torch.testing.assert_close(experience.rewards[before], -0.3 * log_ratio[before], **near)


def test_the_kl_is_a_price_in_the_reward_and_no_part_of_the_loss():
    policy = shaken(build("llama").policy(rank=2))  # far from its reference
    head = ValueHead(policy.base)
    experience, config = experience_of(policy, head, beta=5.0)
    nothing_to_gain = experience._replace(advantages=torch.zeros_like(experience.advantages))
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.0)
    optimizer.add_param_group({"params": list(head.parameters())})
    ppo.update(policy, head, optimizer, nothing_to_gain, config, torch.Generator().manual_seed(0))
    assert max(gradient.abs().max() for gradient in gradients(policy)) == 0


def test_the_clip_is_against_the_policy_that_sampled_and_the_kl_against_the_reference():
    def measured(reference_shift=0.0, old_shift=0.0):
        base = build("llama")
        policy, head = shaken(base.policy(rank=2)), ValueHead(base)
        shift = torch.zeros(len(policy.tokenizer))
        shift[7:20] = reference_shift
        policy.reference = build("llama")  # the same start, in an object of its own
        plain = policy.reference.logits
        policy.reference.logits = lambda hidden: plain(hidden) + shift
        experience, config = experience_of(policy, head, minibatch_size=16)
        experience = experience._replace(old=experience.old._replace(logps=experience.old.logps + old_shift))
        optimizer = torch.optim.SGD(policy.parameters(), lr=0.0)
        optimizer.add_param_group({"params": list(head.parameters())})
        learned = ppo.update(policy, head, optimizer, experience, config, torch.Generator().manual_seed(0))
        return experience.old.kl.sum(-1).mean().item(), learned["clip_fraction"], learned["approx_kl"]

    plain, other_reference, other_old = measured(), measured(reference_shift=1.0), measured(old_shift=-0.5)
    assert other_reference[0] != pytest.approx(plain[0], rel=0.05)
    assert other_reference[1:] == plain[1:] and plain[1] == 0
    assert other_old[0] == plain[0] and other_old[1] == 1  # every ratio is now e^0.5, outside 1 plus or minus 0.2
    assert other_old[2] > plain[2] + 0.05


@pytest.mark.parametrize(("shift", "learns"), [(0.0, True), (-0.5, False), (0.5, True)])
def test_a_gain_beyond_the_clip_around_the_policy_that_sampled_teaches_nothing(shift, learns):
    policy = shaken(build("llama").policy(rank=2))
    head = ValueHead(policy.base)
    experience, config = experience_of(policy, head)
    old = experience.old._replace(logps=experience.old.logps + shift)  # every ratio is exp(-shift)
    better = experience._replace(old=old, advantages=torch.ones_like(experience.advantages))
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.0)
    optimizer.add_param_group({"params": list(head.parameters())})
    ppo.update(policy, head, optimizer, better, config, torch.Generator().manual_seed(0))
    assert (max(gradient.abs().max() for gradient in gradients(policy)) > 0) == learns


@pytest.mark.parametrize("micro", [1, 3, 5])
def test_micro_batches_of_ppo_add_up_to_the_whole_minibatch(micro):
    def learned(micro_batch_size):
        policy = shaken(build("llama").policy(rank=2))
        head = ValueHead(policy.base)
        experience, config = experience_of(policy, head, batch_size=16, minibatch_size=8, micro_batch_size=micro_batch_size)
        shifted = experience.old._replace(logps=experience.old.logps + 0.3 * experience.samples.batch.mask)  # so that the clip is at work
        optimizer = torch.optim.SGD(policy.parameters(), lr=0.0)
        optimizer.add_param_group({"params": list(head.parameters())})
        metrics = ppo.update(policy, head, optimizer, experience._replace(old=shifted), config, torch.Generator().manual_seed(0))
        return metrics, [*gradients(policy), *(parameter.grad for parameter in head.parameters())]

    (whole, gradient), (parts, parts_gradient) = learned(None), learned(micro)
    assert parts == pytest.approx(whole, rel=1e-4, abs=1e-6)
    for one, other in zip(parts_gradient, gradient, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@each_architecture
def test_an_answer_without_eos_has_the_penalty_for_its_score_and_the_others_keep_theirs(name):
    policy = shaken(build(name).policy(rank=2))
    experience, _ = experience_of(
        policy, score=lambda samples: torch.arange(len(samples)).float(), missing_eos_score=-7.0, max_new_tokens=12
    )
    stopped = experience.samples.stopped
    assert (experience.scores[~stopped] == -7).all() and not stopped.all()
    assert torch.equal(experience.scores[stopped], torch.arange(len(stopped)).float()[stopped])


def test_an_answer_without_eos_sends_gradient_to_the_eos_logit():
    base = build("qwen3")
    policy, head = base.policy(rank=None), ValueHead(base)  # untied: the row of EOS in the output layer moves by its logit alone
    experience, config = experience_of(policy, head, max_new_tokens=2, beta=0.0)
    cut = ~experience.samples.stopped
    kept = experience._replace(advantages=experience.advantages * cut[:, None])  # learn from the cut answers alone
    assert (
        cut.any()
        and policy.tokenizer.eos_token_id not in experience.samples.batch.ids[cut][experience.samples.batch.mask[cut] == 1]
    )
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.0)
    optimizer.add_param_group({"params": list(head.parameters())})
    ppo.update(policy, head, optimizer, kept, config, torch.Generator().manual_seed(0))
    assert policy.base.network.lm_head.weight.grad[policy.tokenizer.eos_token_id].abs().max() > 0


def test_the_penalty_teaches_the_policy_to_stop():
    settings = {
        "iterations": 25,
        "batch_size": 64,
        "minibatch_size": 32,
        "max_new_tokens": 12,
        "learning_rate": 2e-2,
        "beta": 0.0,
    }
    metrics = list(run_of("ppo", build("llama"), score=lambda samples: torch.zeros(len(samples)), **settings)[1])
    assert metrics[-1]["stop_rate"] > metrics[0]["stop_rate"] + 0.3


# ---------------------------------------------------------------------------------------------- PPO: how it goes on


def test_an_iteration_reports_after_sampling_and_after_each_epoch():
    _, steps = run_of("ppo", build("llama"), iterations=2, epochs=3)
    assert [(metrics["step"], metrics.get("partial", False)) for metrics in steps] == [
        (step, partial) for step in (0, 1) for partial in (True, True, True, False)
    ]


def test_the_objective_is_reward_less_beta_times_kl():
    for metrics in run_of("ppo", build("llama"), beta=0.4, learning_rate=1e-2)[1]:
        assert metrics["objective"] == pytest.approx(metrics["reward"] - 0.4 * metrics["kl"], abs=1e-5)


def test_the_judge_is_reported_and_teaches_nothing():
    def run(judge):
        policy = build("llama").policy("ppo", rank=2)
        return list(ppo.train(policy, ValueHead(policy.base), length_score, PROMPTS, ppo_config(), judge=judge))

    judged = run(lambda samples: samples.lengths.float())
    assert [metrics.pop("gold") for metrics in judged] == pytest.approx([metrics["length"] for metrics in judged])
    assert judged == run(None)


def test_ppos_beta_acts_at_the_next_iteration():
    policy = build("llama").policy("ppo", rank=2)
    config = ppo_config(beta=0.5, learning_rate=1e-2)
    seen = {}
    for metrics in ppo.train(policy, ValueHead(policy.base), length_score, PROMPTS, config):
        seen[metrics["step"]] = metrics
        if not metrics.get("partial"):
            config.beta = 2.0
    assert [metrics["beta"] for metrics in seen.values()] == [0.5, 2.0, 2.0]
    assert seen[2]["objective"] == pytest.approx(seen[2]["reward"] - 2 * seen[2]["kl"], abs=1e-5)


@pytest.mark.parametrize(("stop_kl", "phases"), [(None, 5), (1e9, 5), (1e-9, 2)])
def test_epochs_end_once_the_policy_is_too_far_from_the_one_that_sampled(stop_kl, phases):
    _, steps = run_of("ppo", build("llama"), iterations=2, epochs=4, stop_kl=stop_kl, learning_rate=1e-2)
    partial = [metrics.get("partial", False) for metrics in steps]
    assert partial == ([True] * (phases - 1) + [False]) * 2


def test_a_kl_below_its_target_cheapens_it_and_a_kl_above_raises_its_price():
    def next_beta(policy, target):
        config = ppo_config(iterations=2, batch_size=16, kl_target=target, kl_horizon=160, beta=0.5, learning_rate=1e-9)
        metrics = list(ppo.train(policy, ValueHead(policy.base), length_score, PROMPTS, config))
        assert metrics[0]["beta"] == 0.5
        return metrics[-1]["beta"]

    assert next_beta(build("llama").policy(rank=2), 1.0) == pytest.approx(0.5 * (1 - 0.2 * 16 / 160))  # at KL 0
    assert next_beta(shaken(build("llama").policy(rank=2)), 1e-3) == pytest.approx(0.5 * (1 + 0.2 * 16 / 160))  # far above


@pytest.mark.parametrize(("beta", "horizon"), [(0.0, 160), (0.5, 1)])
def test_an_adaptive_beta_leaves_zero_and_never_falls_below(beta, horizon):
    config = ppo_config(iterations=3, batch_size=16, kl_target=1e-3, kl_horizon=horizon, beta=beta, learning_rate=1e-9)
    policy = shaken(build("llama").policy(rank=2))  # far above its target: the price must rise
    betas = [metrics["beta"] for metrics in ppo.train(policy, ValueHead(policy.base), length_score, PROMPTS, config)]
    assert betas == sorted(betas) and betas[-1] > max(beta, 0)
    config.kl_target, config.kl_horizon = 1e9, 1  # far below: each step would take more than all of it
    assert all(metrics["beta"] >= 0 for metrics in ppo.train(policy, ValueHead(policy.base), length_score, PROMPTS, config))
    assert config.beta == ppo.LEAST_BETA


def at_once(samples):
    """1 where the first token is EOS, else 0."""
    return (samples.lengths == 1).float()


@pytest.mark.parametrize(("beta", "error"), [(0.0, 0.05), (0.5, 0.06), (50.0, 0.015)])
def test_ppo_on_one_token_finds_the_optimum_at_every_price(beta, error):
    base, prompt = build("llama"), "cat"
    policy = base.policy(rank=None)
    config = ppo_config(
        beta=beta, missing_eos_score=0.0, iterations=40, batch_size=128, minibatch_size=64, max_new_tokens=1, learning_rate=1e-2
    )
    list(ppo.train(policy, ValueHead(base), at_once, [prompt], config))
    stop = Example(encode(policy.tokenizer, prompt, ["cat"], 64)[0].prompt, [policy.tokenizer.eos_token_id])
    p, q = (plain_logps(policy, stop, reference=reference).exp().item() for reference in (False, True))
    odds = q / (1 - q) * math.exp(1 / beta) if beta else 1e9  # the optimum: exp(1 / beta) times the odds of what scores 1
    assert q < 0.1 and p == pytest.approx(odds / (1 + odds), abs=error)


def test_a_high_price_keeps_the_policy_at_the_reference_and_none_lets_it_go():
    def end(beta):
        base = build("llama")
        config = ppo_config(beta=beta, missing_eos_score=0.0, iterations=25, batch_size=64, minibatch_size=32, max_new_tokens=3)
        metrics = list(ppo.train(base.policy(rank=None), ValueHead(base), at_once, PROMPTS, config))[-1]
        return metrics["kl"], metrics["reward"]

    (stayed_kl, stayed_reward), (gone_kl, gone_reward) = end(50.0), end(0.0)
    assert stayed_kl < 0.15 and stayed_reward < 0.2
    assert gone_kl > 1 and gone_reward > 0.8


# ---------------------------------------------------------------------------------------------- the judge's tools


def test_an_interval_is_the_first_draw_and_the_middle_95_percent_of_the_others():
    draws = torch.cat([torch.tensor([7.0]), torch.arange(101.0).flip(0)])
    assert evaluate.interval(draws) == pytest.approx([7.0, 2.5, 97.5])
    assert evaluate.interval(torch.tensor([math.nan, 1.0, 2.0])) is None


def test_interpolation_is_linear_between_points_and_unknown_outside():
    x, y = torch.tensor([[0.0, 1.0, 3.0]]).expand(6, 3), torch.tensor([[0.0, 10.0, 30.0]]).expand(6, 3)
    at = torch.tensor([0.0, 0.5, 2.0, 3.0, 3.1, -0.1])
    assert evaluate.interpolate(at, x, y).nan_to_num(-1).tolist() == [0.0, 5.0, 20.0, 30.0, -1.0, -1.0]


def test_a_curve_of_one_point_interpolates_nothing():
    assert evaluate.interpolate(torch.tensor([0.5]), torch.tensor([[0.5]]), torch.tensor([[1.0]])).isnan().all()


def test_each_row_is_interpolated_on_its_own_curve():
    x, y = torch.tensor([[0.0, 1.0], [0.0, 2.0]]), torch.tensor([[0.0, 1.0], [5.0, 7.0]])
    assert evaluate.interpolate(torch.tensor([0.5, 1.0]), x, y).tolist() == [0.5, 6.0]


@pytest.mark.parametrize(
    ("texts", "n", "share"),
    [(["a b a b"], 2, 2 / 3), (["a b", "a b"], 2, 1 / 2), (["a b c"], 2, 1), (["a"], 2, 0), (["a a b", "b"], 1, 1 / 2)],
)
def test_distinct_is_the_share_of_different_n_grams(texts, n, share):
    assert evaluate.distinct(texts, n) == pytest.approx(share)


# ---------------------------------------------------------------------------------------------- the plane

P, N = 12, 4096


def answers(gold, scores, kl):
    """Answers with these judgements, (P, M) each; the rest is filler."""
    return evaluate.Answers(
        [f"p{i}" for i in range(P)], [["a b"] * gold.shape[1]] * P, gold, scores, kl, torch.ones_like(gold), torch.ones_like(gold)
    )


@pytest.fixture(scope="module")
def reference():
    chance = torch.Generator().manual_seed(0)
    gold = torch.randn(P, N, generator=chance).double() + torch.linspace(-1, 1, P)[:, None]  # prompts differ in what they allow
    scores = gold + torch.randn(P, N, generator=chance)
    return answers(gold, scores, torch.zeros(P, N))


@pytest.fixture(scope="module")
def plane(reference):
    return evaluate.Plane(reference)


def tilted(reference, rewards, beta):
    """The reference's samples, each weighted by exp(reward / beta): means of gold and score, and the KL that this costs."""
    weights = (rewards / beta).softmax(-1)
    kl = (weights * (weights * N).log()).sum(-1, keepdim=True)
    return answers(*((weights * values).sum(-1, keepdim=True) for values in (reference.gold, reference.scores)), kl)


@pytest.mark.parametrize("beta", [0.5, 0.8])
def test_the_exact_tilt_by_gold_has_gold_efficiency_1_and_raises_no_alarm(plane, reference, beta):
    policy = tilted(reference, reference.gold, beta)
    row = plane.policy(policy)
    assert row["kl"][0] > 0.5
    assert row["gold_efficiency"][0] == pytest.approx(1, abs=0.005)
    assert plane.alarm("tilt", policy) is None


@pytest.mark.parametrize("beta", [1.0, 1.3])
def test_an_optimiser_that_follows_the_reach_has_optimiser_efficiency_1(plane, reference, beta):
    row = plane.policy(tilted(reference, reference.scores, beta))
    assert row["kl"][0] > 0.5
    assert row["optimiser_efficiency"][0] == pytest.approx(1, abs=0.005)
    assert row["gold_efficiency"][0] < 0.9  # the scores are half noise
    assert row["reward_model_efficiency"][0] == pytest.approx(row["gold_efficiency"][0], abs=0.005)


@pytest.mark.parametrize(("gain", "kl"), [(0.3, 0.6), (-0.4, 1.0), (1.1, 0.9)])
def test_gold_efficiency_is_reward_model_efficiency_times_optimiser_efficiency(plane, reference, gain, kl):
    efficiencies = plane.efficiencies(answers(reference.gold[:, :64] + gain, reference.scores[:, :64], torch.full((P, 64), kl)))
    gold, model, optimiser = (
        efficiencies[key][0] for key in ("gold_efficiency", "reward_model_efficiency", "optimiser_efficiency")
    )
    assert gold == pytest.approx(model * optimiser, abs=1e-9)


def test_efficiencies_are_left_out_where_the_policy_has_hardly_moved(plane, reference):
    row = plane.efficiencies(answers(reference.gold[:, :64], reference.scores[:, :64], torch.full((P, 64), 0.1)))
    assert set(row.values()) == {None}


@pytest.mark.parametrize(("above", "alarmed"), [(0.5, True), (-0.5, False)])
def test_a_policy_above_the_best_that_is_possible_raises_an_alarm(plane, reference, above, alarmed):
    policy = tilted(reference, reference.gold, 0.7)
    x, y = plane.frontier.pooled(plane.counts[0])
    best = evaluate.interpolate(policy.kl.mean().reshape(1), x[None], y[None])
    gold = policy.gold + (best - policy.gold.mean()) + above
    message = plane.alarm("ours", policy._replace(gold=gold))
    assert (message is not None and "ours" in message and f"{above:.2f}" in message) if alarmed else message is None


def test_the_pooled_curve_lies_nowhere_below_the_curve_of_the_prompts(plane):
    shown = plane.frontier.shown(8)
    (x, y), (pooled_x, pooled_y) = (
        tuple(part[:shown] for part in curve(plane.counts[0])) for curve in (plane.frontier.curve, plane.frontier.pooled)
    )
    pooled = evaluate.interpolate(x, pooled_x.expand(shown, -1), pooled_y.expand(shown, -1))
    known = ~pooled.isnan()
    assert known.sum() > 20 and (pooled[known] >= y[known] - 1e-6).all()
    assert (pooled[known] - y[known]).max() > 0.1  # since the prompts differ


def test_the_reference_wins_half_against_itself_and_ties_count_half(plane, reference):
    assert plane.measure(plane.win_rate(reference.gold))[0] == pytest.approx(0.5, abs=1e-6)
    least, most = reference.gold.min(-1, keepdim=True).values, reference.gold.max(-1, keepdim=True).values
    assert plane.win_rate(torch.cat([least, most], -1)).mean(0).tolist() == pytest.approx([0.5 / N, 1 - 0.5 / N])
    assert plane.win_rate(torch.cat([least - 1, most + 1], -1)).mean(0).tolist() == [0, 1]


def test_best_of_one_is_the_reference(plane, reference):
    row = plane.best_of(1)
    assert (
        row["gold"][0] == pytest.approx(reference.gold.mean().item())
        and row["kl"][0] == 0
        and row["win_rate"][0] == pytest.approx(0.5, abs=1e-6)
    )


def test_an_interval_over_prompts_is_as_wide_as_their_spread_says(plane):
    means = torch.linspace(-1, 1, P)
    value, low, high = plane.measure(means)
    error = means.std(correction=0).item() / P**0.5
    assert value == pytest.approx(0, abs=1e-6) and [low, high] == pytest.approx([-1.96 * error, 1.96 * error], rel=0.15)


@each_architecture
def test_the_references_own_answers_cost_no_kl_and_a_policys_cost_some(name):
    policy = shaken(build(name).policy(rank=2))
    rules = {"max_new_tokens": 6, "temperature": 1.0, "missing_eos_score": -5.0, "seed": 0, "rows": 7}
    own, other = (
        evaluate.answer(policy, PROMPTS, 8, lambda s: s.lengths.float(), lambda s: torch.ones(len(s)), reference=which, **rules)
        for which in (True, False)
    )
    assert own.kl.abs().max() == 0 and other.kl.min() > 0
    for seen in (own, other):
        assert torch.equal(seen.gold, seen.length) and seen.gold.shape == (len(PROMPTS), 8)
        assert torch.equal(seen.scores, torch.where(seen.stopped.bool(), 1.0, -5.0))


def test_fillings_have_the_plain_networks_probabilities_among_themselves():
    policy = shaken(build("llama").policy(rank=2))
    fillings = [("good", "film"), ("long", "cast"), ("great", "answer")]
    for reference in (False, True):
        logps = evaluate.filling_logps(policy, "the answer", "was a", fillings, reference)
        start = policy.tokenizer("the answer was a")["input_ids"]
        ends = [policy.tokenizer(" ".join(words), add_special_tokens=False)["input_ids"] for words in fillings]
        plain = torch.stack([plain_logps(policy, Example(start, end), reference=reference).sum() for end in ends])
        torch.testing.assert_close(logps.exp().float(), plain.softmax(0), **near)


def test_margins_by_hand_give_accuracy_ceiling_skill_and_calibration():
    judged = evaluate.judge_reward_model(torch.tensor([2.0, -1.0, 0.5, 0.0]), torch.tensor([0.9, 0.6, 0.8, 0.7]))
    assert judged["pairs"] == 4 and judged["accuracy"][0] == pytest.approx(2.5 / 4)  # a tie is half right
    assert judged["bayes_accuracy"][0] == pytest.approx(0.75) and judged["skill"][0] == pytest.approx(0.5)
    assert sum(part["pairs"] for part in judged["calibration"]) == 8  # each pair in both orders


# ---------------------------------------------------------------------------------------------- what a stage says about itself


@each_stage
def test_a_stage_says_a_word_on_each_metric_that_it_reports(stage):
    _, steps = run_of(stage, build("llama"))
    reported = set().union(*steps)
    assert reported - {"stage", "step", "steps", "partial"} <= set(stages()[stage].metrics)


@each_stage
def test_a_config_belongs_to_its_stage_and_its_controls_move_what_it_has(stage):
    told = stages()[stage]
    assert stage_of(told.config()) is told
    assert all(control.low < control.high and hasattr(told.config(), control.name) for control in told.controls)
    assert told.check(told.config()) is None


@pytest.mark.parametrize(
    ("stage", "beta"), [("ppo", -0.1), ("ppo", math.inf), ("rloo", -0.1), ("rloo", math.nan), ("dpo", 0.0), ("dpo", math.nan)]
)
def test_a_stage_says_what_is_wrong_with_a_beta(stage, beta):
    assert "beta must be >" in stages()[stage].check(stages()[stage].config(beta=beta))


def test_a_panel_of_an_unknown_metric_and_a_control_of_an_unknown_setting_are_refused():
    told = stages()["dpo"]
    with pytest.raises(ValueError, match="stage dpo: no metric or setting called hope, patience"):
        replace(told, panels=(Panel("Hope", (("hope", "hope"),)),), controls=(Control("patience", "patience", 0, 1),))


def test_a_recipe_that_says_nothing_of_a_stage_gives_it_its_own_settings():
    recipe = tiny()
    del recipe.stages["dpo"]
    assert recipe.config("dpo") == dpo.Config() and recipe.config("dpo") is recipe.config("dpo")


def test_a_method_that_a_recipe_does_not_name_has_what_it_shares_with_the_one_that_it_is_like():
    recipe = tiny()
    assert "rloo" not in recipe.describe() and recipe.methods == ("ppo", "dpo"), "a default run is as it was"
    recipe.stages["ppo"] = ppo.Config(beta=0.1, batch_size=64, max_new_tokens=9, temperature=0.7, learning_rate=1e-4, seed=3)
    assert recipe.config("rloo") == rloo.Config(
        beta=0.1, batch_size=64, max_new_tokens=9, temperature=0.7, learning_rate=1e-4, seed=3
    )
    recipe.stages["dpo"] = dpo.Config(beta=0.2, batch_size=16, epochs=3, seed=4)
    assert recipe.config("online") == online.Config(beta=0.2, batch_size=16, max_new_tokens=9, temperature=0.7, seed=4)
    assert recipe.config("kto") == kto.Config(beta=0.2, batch_size=16, epochs=3, seed=4)
    for name, kind in (("rloo", rloo.Config), ("online", online.Config), ("kto", kto.Config)):
        assert tiny().config(name) == kind()
