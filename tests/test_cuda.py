"""The stages and the judge on an NVIDIA GPU: the CPU's numbers, one seed one run, and bfloat16 where a network is large."""

import math

import pytest
import torch
from architectures import DEMONSTRATIONS, PAIRS, PROMPTS, batch_of, build, each_architecture, random_examples, shaken

from alignlab import dpo, evaluate, loading, ppo, reward, rloo, sft
from alignlab.models import RewardModel, ValueHead, load

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
each_stage = pytest.mark.parametrize("stage", ["sft", "reward", "dpo", "ppo", "rloo"])
near = {"rtol": 1e-3, "atol": 1e-4}


def length_score(samples):
    return -samples.lengths.float().cpu() / 4  # as a gold reward, which knows only the CPU


def run_of(stage, base):
    """What trains, and all metrics of a short run."""
    if stage == "ppo":
        policy = base.policy("ppo", rank=2)
        config = ppo.Config(iterations=3, batch_size=16, minibatch_size=8, micro_batch_size=4, max_new_tokens=6)
        return policy, list(ppo.train(policy, ValueHead(base), length_score, PROMPTS, config, judge=length_score))
    if stage == "rloo":
        policy = base.policy("rloo", rank=2)
        config = rloo.Config(iterations=3, batch_size=16, minibatch_size=8, micro_batch_size=4, max_new_tokens=6)
        return policy, list(rloo.train(policy, length_score, PROMPTS, config, judge=length_score))
    small = {"batch_size": 4, "micro_batch_size": 2, "epochs": 2}
    if stage == "reward":
        model = base.reward_model(rank=2)
        return model, list(reward.train(model, PAIRS, reward.Config(**small)))
    policy = base.policy(stage, rank=2)
    if stage == "sft":
        return policy, list(sft.train(policy, DEMONSTRATIONS, sft.Config(**small)))
    return policy, list(dpo.train(policy, PAIRS, dpo.Config(**small)))


def numbers(metrics):
    return torch.tensor([[value for value in step.values() if isinstance(value, int | float)] for step in metrics], dtype=torch.float64)


@pytest.mark.parametrize("stage", ["sft", "reward", "dpo"])  # the others draw their samples from the device's own generator
@each_architecture
def test_a_stage_without_sampling_has_the_cpus_numbers(stage, name):
    ours, theirs = (numbers(run_of(stage, build(name, device=device))[1]) for device in ("cuda", "cpu"))
    torch.testing.assert_close(ours, theirs, **near)


@each_architecture
def test_ppo_starts_at_the_reference_leaves_it_and_stays_finite(name):
    metrics = run_of("ppo", build(name, device="cuda"))[1]
    assert torch.isfinite(numbers(metrics[2::3])).all()
    assert metrics[0]["kl"] == pytest.approx(0, abs=1e-5) and metrics[-1]["kl"] > 1e-4


@each_architecture
def test_scores_are_the_cpus(name):
    ours, theirs = (build(name, device=device) for device in ("cuda", "cpu"))
    policies = [shaken(base.policy(rank=2)) for base in (ours, theirs)]
    on_gpu, on_cpu = (policy.measure(batch_of(policy, random_examples(policy))) for policy in policies)
    for column in ("logps", "ref_logps", "kl", "entropy"):
        torch.testing.assert_close(getattr(on_gpu, column).cpu(), getattr(on_cpu, column), **near)
    judges = [shaken(base.reward_model(rank=2)) for base in (ours, theirs)]
    on_gpu, on_cpu = (judge.score_all(batch_of(judge, random_examples(judge))) for judge in judges)
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, **near)


@each_stage
def test_one_seed_is_one_run(stage):
    one, same = (run_of(stage, build("llama", device="cuda"))[1] for _ in range(2))
    assert one == same


@each_stage
@each_architecture
def test_a_network_in_bfloat16_trains_and_is_measured_in_float32(stage, name, tmp_path, monkeypatch):
    build(name).save(tmp_path)
    monkeypatch.setattr(loading, "FLOAT32_PARAMETERS", 0)
    base = load(tmp_path)
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        assert base.network.dtype == torch.float32
        return
    assert base.network.dtype == torch.bfloat16 and base.device.type == "cuda"
    model, metrics = run_of(stage, base)
    assert all(math.isfinite(step["loss"]) for step in metrics if "loss" in step)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters()), "what trains does so in float32"
    if stage != "reward":
        assert model.measure(batch_of(model, random_examples(model))).logps.dtype == torch.float32


@each_architecture
def test_the_judge_measures_on_the_cpu_what_the_gpu_wrote(name):
    policy = shaken(build(name, device="cuda").policy(rank=2))
    rules = {"max_new_tokens": 6, "temperature": 1.0, "missing_eos_score": -3.0, "seed": 0}
    reference, answers = (
        evaluate.answer(policy, PROMPTS, count, length_score, length_score, reference=reference, **rules)
        for count, reference in ((64, True), (16, False))
    )
    assert all(column.device.type == "cpu" for column in answers[2:])
    plane = evaluate.Plane(reference)
    row = plane.policy(answers)
    assert row["kl"][0] > 0 and row["gold"][1] <= row["gold"][0] <= row["gold"][2]
    assert plane.curves()["frontier"] and plane.best_of(4)["gold"][0] >= plane.policy(reference)["gold"][0]


def test_what_a_gpu_saved_says_the_same_on_a_cpu(tmp_path):
    base = build("qwen3", device="cuda")
    base.save(tmp_path / "base")
    model = shaken(base.reward_model(rank=2))
    model.save(tmp_path / "reward")
    again = RewardModel.load(load(tmp_path / "base", "cpu"), tmp_path / "reward")
    examples = random_examples(model)
    torch.testing.assert_close(model.score_all(batch_of(model, examples)).cpu(), again.score_all(batch_of(again, examples)), **near)
