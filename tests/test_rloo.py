"""RLOO as a stage: what it samples, what it descends, and that it learns. Its equations are tested in test_variants.py."""

import math

import pytest
import torch
from architectures import PROMPTS, build, each_architecture, plain_logps, shaken
from test_stages import at_once, gradients, length_score, near, rloo_config, run_of

from alignlab import rloo
from alignlab.data import Example, encode
from alignlab.lab import view
from alignlab.stages import METHODS, stages


def experience_of(policy, score=length_score, count=4, seed=0, **settings):
    config = rloo_config(**settings)
    prompts = [prompt for prompt in PROMPTS for _ in range(count)]
    return rloo.collect(policy, score, prompts, config, torch.Generator().manual_seed(seed)), config


def test_each_prompt_is_answered_answers_times_in_a_row():
    seen = []
    list(run_of("rloo", build("llama"), score=lambda samples: seen.append(samples) or length_score(samples), batch_size=12, answers=3)[1])
    for samples in seen:
        assert len(samples) == 12 and all(len(set(samples.prompts[row : row + 3])) == 1 for row in range(0, 12, 3))


def test_advantages_are_of_the_score_less_beta_times_the_log_ratio_against_the_other_answers():
    policy = shaken(build("gemma3").policy(rank=2))
    experience, config = experience_of(policy, beta=0.3)
    reward = experience.scores - 0.3 * (experience.old.logps - experience.old.ref_logps).sum(-1)
    of_prompt = reward.view(len(PROMPTS), 4)
    by_hand = of_prompt - (of_prompt.sum(-1, keepdim=True) - of_prompt) / 3
    torch.testing.assert_close(experience.advantages, by_hand.flatten(), **near)
    assert not any(tensor.requires_grad for tensor in (experience.scores, experience.advantages, *experience.old))


@each_architecture
def test_an_answer_without_eos_has_the_penalty_for_its_score(name):
    policy = shaken(build(name).policy(rank=2))
    experience, _ = experience_of(policy, score=lambda samples: torch.ones(len(samples)), missing_eos_score=-7.0, max_new_tokens=12)
    stopped = experience.samples.stopped
    assert not stopped.all() and torch.equal(experience.scores, torch.where(stopped, 1.0, -7.0))


def test_the_gradient_is_that_of_plain_log_probs_weighted_by_the_advantages():
    policy = shaken(build("llama").policy(rank=2))
    experience, config = experience_of(policy, minibatch_size=64, learning_rate=0.0)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.0)
    metrics = rloo.update(policy, optimizer, experience, config, torch.Generator().manual_seed(0))
    got = [gradient * max(1.0, metrics["gradient_norm"]) for gradient in gradients(policy)]  # as it was before clipping to 1
    batch = experience.samples.batch
    rows = [row[kept.bool()].tolist() for row, kept in zip(batch.ids, batch.attention, strict=True)]
    asked = [int((kept - answer).sum()) for kept, answer in zip(batch.attention, batch.mask, strict=True)]
    plain = torch.stack([plain_logps(policy, Example(row[:count], row[count:])).sum() for row, count in zip(rows, asked, strict=True)])
    assert metrics["loss"] == pytest.approx(-(experience.advantages * plain).mean().item(), rel=1e-3, abs=1e-4)
    optimizer.zero_grad()
    for row, advantage in enumerate(experience.advantages.tolist()):
        (-advantage / len(rows) * policy.logps(batch.rows(torch.tensor([row]))).sum()).backward()
    for one, other in zip(got, gradients(policy), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("micro", [1, 3, 5])
def test_micro_batches_add_up_to_the_whole_minibatch(micro):
    def learned(micro_batch_size):
        policy = shaken(build("llama").policy(rank=2))
        experience, config = experience_of(policy, minibatch_size=8, micro_batch_size=micro_batch_size)
        optimizer = torch.optim.SGD(policy.parameters(), lr=0.0)
        return rloo.update(policy, optimizer, experience, config, torch.Generator().manual_seed(0)), gradients(policy)

    (whole, gradient), (parts, parts_gradient) = learned(None), learned(micro)
    assert parts == pytest.approx(whole, rel=1e-4, abs=1e-6)
    for one, other in zip(parts_gradient, gradient, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_where_all_answers_to_a_prompt_score_alike_nothing_is_learned():
    policy = build("llama").policy(rank=2)  # at its reference, so that no KL tells them apart
    experience, config = experience_of(policy, score=lambda samples: torch.ones(len(samples)), missing_eos_score=1.0)
    assert experience.advantages.abs().max() < 1e-5
    rloo.update(policy, torch.optim.SGD(policy.parameters(), lr=0.0), experience, config, torch.Generator().manual_seed(0))
    assert max(gradient.abs().max() for gradient in gradients(policy)) < 1e-4


def test_an_iteration_reports_after_sampling_and_after_learning():
    seen = list(run_of("rloo", build("llama"), iterations=2)[1])
    assert [(metrics["step"], metrics.get("partial", False)) for metrics in seen] == [(0, True), (0, False), (1, True), (1, False)]
    for sampled, learned in zip(seen[::2], seen[1::2], strict=True):
        assert {key: learned[key] for key in sampled if key != "partial"} == {k: v for k, v in sampled.items() if k != "partial"}
        assert {"prompt", "text"} <= learned["samples"][0].keys()


def test_the_whole_of_what_it_reports_is_what_it_says_that_it_reports():
    policy = build("llama").policy("rloo", rank=2)
    reported = set().union(*rloo.train(policy, length_score, PROMPTS, rloo_config(), judge=length_score))
    assert reported == set(rloo.STAGE.metrics) | {"stage", "step", "steps", "partial"}


def test_the_objective_is_reward_less_beta_times_kl_and_beta_acts_at_the_next_iteration():
    policy, config, seen = build("llama").policy("rloo", rank=2), rloo_config(beta=0.5, learning_rate=1e-2), []
    for metrics in rloo.train(policy, length_score, PROMPTS, config):
        if not metrics.get("partial"):
            seen.append(metrics)
            config.beta = 2.0
    assert [metrics["beta"] for metrics in seen] == [0.5, 2.0, 2.0]
    assert all(one["objective"] == pytest.approx(one["reward"] - one["beta"] * one["kl"], abs=1e-5) for one in seen)


def test_the_judge_is_reported_and_teaches_nothing():
    def run(judge):
        return list(rloo.train(build("llama").policy("rloo", rank=2), length_score, PROMPTS, rloo_config(), judge=judge))

    judged = run(lambda samples: samples.lengths.float())
    assert [metrics.pop("gold") for metrics in judged] == pytest.approx([metrics["length"] for metrics in judged])
    assert judged == run(None)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"answers": 1}, "answers must be >= 2"),
        ({"batch_size": 18}, "batch_size must be a multiple of the 4 answers to a prompt, got 18; try 16"),
        ({"batch_size": 2}, "got 2; try 4"),
        ({"beta": -1.0}, "beta must be >= 0 for RLOO"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused_before_anything_is_sampled(settings, said):
    assert said in rloo.check(rloo_config(**settings))
    with pytest.raises(ValueError, match=said):
        next(rloo.train(None, None, PROMPTS, rloo_config(**settings)))


@pytest.mark.parametrize(("beta", "error"), [(0.0, 0.05), (0.5, 0.07), (50.0, 0.03)])
def test_rloo_on_one_token_finds_the_optimum_at_every_price(beta, error):
    base, prompt = build("llama"), "cat"
    policy = base.policy(rank=None)
    config = rloo_config(
        beta=beta, missing_eos_score=0.0, iterations=40, batch_size=128, minibatch_size=64, max_new_tokens=1, learning_rate=1e-2
    )
    list(rloo.train(policy, at_once, [prompt], config))
    stop = Example(encode(policy.tokenizer, prompt, ["cat"], 64)[0].prompt, [policy.tokenizer.eos_token_id])
    p, q = (plain_logps(policy, stop, reference=reference).exp().item() for reference in (False, True))
    odds = q / (1 - q) * math.exp(1 / beta) if beta else 1e9  # the optimum: exp(1 / beta) times the odds of what scores 1
    assert q < 0.1 and p == pytest.approx(odds / (1 + odds), abs=error)


def test_it_raises_the_reward_and_pays_in_kl():
    sizes = {"iterations": 25, "batch_size": 64, "minibatch_size": 32, "max_new_tokens": 3}
    config = rloo_config(beta=0.0, missing_eos_score=0.0, learning_rate=1e-2, **sizes)
    first, *_, last = rloo.train(build("llama").policy(rank=None), at_once, PROMPTS, config)
    assert first["kl"] == pytest.approx(0, abs=1e-5) and last["kl"] > 0.5
    assert last["reward"] > first["reward"] + 0.4


def test_every_policy_has_a_colour_and_a_marker_of_its_own():
    names = ["sft", "best_of_16", *METHODS]
    assert len({view.MARKERS[name] for name in names}) == len({view.COLOURS[name] for name in names}) == len(names)
    assert len({stage.colour for stage in stages().values()}) == len(stages())
