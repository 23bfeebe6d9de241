"""Our PPO against TRL 1.12's PPOTrainer, which TRL 1.16 no longer has: one batch of rollouts, and each minibatch of its update.

Optional: skipped where another TRL, or none, is installed; see requirements-1.12.txt. TRL samples and trains a tiny random
model; a spy on its optimiser reads the tensors that its `train` holds at each step. Our functions get the same tokens,
log-probabilities, values and scores.

Where conventions differ, and how the tests convert:
  - End of a completion. TRL appends one step after EOS, in the state that EOS led to: the score is paid there, and the critic's
    value of that state is bootstrapped from and trained. We pay the score on EOS, and what follows has value 0. A completion
    that fills the length limit has no such step, and there both agree as they are. `extended` below is TRL's episode: our mask
    with one more position, where log-probabilities agree, so that no KL is charged.
  - Whitening of advantages. TRL divides by the unbiased deviation of N tokens, we by the biased one: ours * sqrt((N - 1) / N).
  - Padding. TRL fills padded log-probabilities with 1.0, we with 0; no masked number depends on it.
  - Approximate KL to the sampling policy. TRL averages k2 over all positions, padding included; `ppo` reports k3 over tokens.
  - Clip fraction. TRL counts tokens where the clip binds; `ppo` counts ratios outside the range, on either side.
  - Entropy per minibatch. TRL averages over all positions, padding included; we over tokens.
  - No EOS. TRL subtracts a penalty from the score; `ppo` puts `missing_eos_score` in the score's place.
  - Weights. TRL steps on policy loss + 0.1 * value loss, with a critic of its own; our value head reads detached states, so its
    loss needs no weight. TRL always clips values; we only where `value_clip` is set.
  - TRL divides logits by temperature + 1e-7, we by temperature: below 1e-5 here.
The KL in the reward is k1, log pi - log pi_ref, on both sides and with one sign; both average losses over a minibatch's tokens.
"""

import os
import sys
from types import SimpleNamespace

import pytest

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TRL_EXPERIMENTAL_SILENCE="1")
trl = pytest.importorskip("trl", minversion="1.12.0")
if trl.__version__ != "1.12.0":
    pytest.skip(f"written for TRL 1.12.0, found {trl.__version__}", allow_module_level=True)

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from helpers import EOS, PAD, close, headless, language_model, preferences, scoring_model, tokenizer  # noqa: E402
from trl.experimental.ppo import PPOConfig, PPOTrainer  # noqa: E402

from alignlab import losses  # noqa: E402
from alignlab.data import Example, collate  # noqa: E402
from alignlab.models import Base, Policy  # noqa: E402

torch.set_num_threads(1)
ROWS, LENGTH = 24, 10
BETA, GAMMA, LAM, CLIP, VALUE_CLIP, TEMPERATURE, PENALTY = 0.2, 0.98, 0.9, 0.2, 0.3, 0.9, 1.5
# Names of local variables in PPOTrainer.train:
OF_THE_BATCH = [
    "queries", "responses", "padding_mask", "padding_mask_p1", "contain_eos_token",
    "logprobs", "ref_logprobs", "values", "scores", "rewards", "advantages", "returns",
]  # fmt: skip
OF_A_STEP = ["micro_batch_inds", "logits", "new_logprobs", "vpred", "pg_loss", "vf_loss"]
STATISTICS = ["approxkl_stats", "pg_clipfrac_stats", "entropy_stats"]


def sampling_model(seed: int):
    """A language model that never says the padding token, and often stops: TRL takes padding for the end."""
    network = language_model(seed)
    head = torch.nn.Linear(network.config.hidden_size, network.config.vocab_size)
    head.weight = network.lm_head.weight
    head.bias.data.zero_()
    head.bias.data[PAD], head.bias.data[EOS] = -50, 0.5
    network.lm_head = head
    return network


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """TRL's one update: the batch's tensors, those of each step, and what it logged."""
    words = tokenizer()
    words.padding_side = "left"
    prompts = [{"input_ids": words(pair["prompt"])["input_ids"]} for pair in preferences(ROWS, seed=1)]
    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=str(tmp_path_factory.mktemp("ppo")), report_to="none", use_cpu=True, bf16=False, disable_tqdm=True,
            gradient_checkpointing=False, num_sample_generations=0, save_strategy="no", learning_rate=5e-3,
            total_episodes=ROWS, per_device_train_batch_size=ROWS, num_mini_batches=3, num_ppo_epochs=2,
            response_length=LENGTH, stop_token="eos", temperature=TEMPERATURE, missing_eos_penalty=PENALTY,
            kl_coef=BETA, gamma=GAMMA, lam=LAM, cliprange=CLIP, cliprange_value=VALUE_CLIP,
        ),
        processing_class=words, model=sampling_model(seed=1), ref_model=sampling_model(seed=2),
        reward_model=scoring_model(seed=3), value_model=scoring_model(seed=4), train_dataset=Dataset.from_list(prompts),
    )  # fmt: skip
    steps, batch, statistics, step = [], {}, {}, trainer.optimizer.step

    def spy(*args, **kwargs):
        local = sys._getframe(1).f_locals  # of PPOTrainer.train
        batch.update({name: local[name].detach().clone() for name in OF_THE_BATCH})
        steps.append({name: torch.as_tensor(local[name]).detach().clone() for name in OF_A_STEP})
        statistics.update({name: local[name] for name in STATISTICS})  # filled in after each step
        return step(*args, **kwargs)

    trainer.optimizer.step = spy
    trainer.train()
    for number, row in enumerate(zip(*(statistics[name].flatten() for name in STATISTICS), strict=True)):
        steps[number].update(zip(STATISTICS, row, strict=True))
    run = SimpleNamespace(**batch, steps=[SimpleNamespace(**values) for values in steps], log=trainer.state.log_history[0])
    run.mask, run.extended = ~run.padding_mask, ~run.padding_mask_p1
    run.full = run.mask.all(-1)  # rows up to the length limit, for which `mask` equals `extended`
    assert len(steps) == 6 and run.log["policy/clipfrac_avg"] > 0.1
    assert run.full.sum() >= 3 and (~run.full).sum() >= 3 and (~run.contain_eos_token).sum() >= 2
    return run


def our_advantages(run):
    """From TRL's rollouts: our rewards, normalised advantages and returns, on TRL's episode and with its deviation."""
    rewards = losses.shape_rewards(run.scores, run.logprobs, run.ref_logprobs, run.extended, BETA)
    advantages, returns = losses.gae(rewards, run.values, run.extended, GAMMA, LAM)
    count = run.mask.sum()
    return rewards, losses.normalise(advantages, run.mask) * ((count - 1) / count).sqrt(), returns


# ---------------------------------------------------------------------------------------------- from tokens to numbers


def our_batch(run):
    """TRL's left-padded prompts and padded responses in our layout."""
    examples = [
        Example(prompt[prompt != PAD].tolist(), response[mask].tolist())
        for prompt, response, mask in zip(run.queries, run.responses, run.mask, strict=True)
    ]
    return collate(examples, PAD)


def test_log_probabilities_of_rollouts(run):
    policy = Policy(Base(sampling_model(seed=1), tokenizer()), None, reference=Base(sampling_model(seed=2), tokenizer()))
    batch = our_batch(run)
    scored, chosen = policy.measure(batch, TEMPERATURE), batch.mask.bool()
    close(scored.logps[chosen], run.logprobs[run.mask], "log-probabilities")
    close(scored.ref_logps[chosen], run.ref_logprobs[run.mask], "reference's log-probabilities")


def test_scores_of_rollouts(run):
    network = scoring_model(seed=3)
    model = Base(headless(network), tokenizer()).reward_model()
    model.head.weight.data.copy_(network.score.weight)
    close(model.score_all(our_batch(run)) - PENALTY * ~run.contain_eos_token, run.scores, "scores, less TRL's penalty")


# ---------------------------------------------------------------------------------------------- rewards and advantages


def test_rewards(run):
    rewards, _, _ = our_advantages(run)
    close(rewards, run.rewards, "rewards")
    as_they_are = losses.shape_rewards(run.scores, run.logprobs, run.ref_logprobs, run.mask, BETA)
    close(as_they_are[run.full], run.rewards[run.full], "rewards at the length limit")
    close(as_they_are.sum(-1), run.rewards.sum(-1), "rewards of a completion")  # wherever the score sits
    assert not torch.allclose(as_they_are, run.rewards)


def test_advantages_and_returns(run):
    _, advantages, returns = our_advantages(run)
    close(returns, run.returns, "returns")
    close(advantages, run.advantages, "whitened advantages")

    rewards = losses.shape_rewards(run.scores, run.logprobs, run.ref_logprobs, run.mask, BETA)
    raw, returns = losses.gae(rewards, run.values, run.mask, GAMMA, LAM)
    theirs = run.returns - run.values  # before whitening
    close(raw[run.full], theirs[run.full], "advantages at the length limit")
    close(returns[run.full], run.returns[run.full], "returns at the length limit")
    assert not torch.allclose(raw[~run.full], theirs[~run.full], atol=0.01)  # the step after EOS matters


# ---------------------------------------------------------------------------------------------- each minibatch


def test_policy_loss_and_clip_fraction(run):
    _, advantages, _ = our_advantages(run)
    for number, step in enumerate(run.steps):
        rows = step.micro_batch_inds
        new, old, mask = step.new_logprobs.requires_grad_(), run.logprobs[rows], run.mask[rows]
        ours = losses.clipped_policy_loss(new, old, advantages[rows], mask, CLIP)
        close(ours, step.pg_loss, f"policy loss of step {number}")
        (gradient,) = torch.autograd.grad(ours, new)  # none where the clip binds
        close(losses.masked_mean((gradient == 0).float(), mask), step.pg_clipfrac_stats, f"clip fraction of step {number}")
        outside = losses.masked_mean(((new - old).exp() - 1).abs().gt(CLIP).float(), mask)
        assert outside >= step.pg_clipfrac_stats - 1e-5


def test_value_loss(run):
    _, _, returns = our_advantages(run)
    for number, step in enumerate(run.steps):
        rows = step.micro_batch_inds
        ours = losses.value_loss(step.vpred, run.values[rows], returns[rows], run.extended[rows], VALUE_CLIP)
        close(ours, step.vf_loss, f"value loss of step {number}")
        if number:
            assert ours > losses.value_loss(step.vpred, run.values[rows], returns[rows], run.extended[rows])  # the clip binds


def test_approximate_kl_and_entropy(run):
    for number, step in enumerate(run.steps):
        new, old, mask = step.new_logprobs.detach(), run.logprobs[step.micro_batch_inds], run.mask[step.micro_batch_inds]
        ours = losses.masked_mean(losses.kl_estimate(old, new, "k2"), mask) * mask.float().mean()
        close(ours, step.approxkl_stats, f"approximate KL of step {number}")
        close(losses.entropy(step.logits).mean(), step.entropy_stats, f"entropy of step {number}")
    assert run.steps[0].approxkl_stats < 1e-6  # nothing learned yet
    assert run.steps[-1].approxkl_stats > 1e-2


def test_logged_objective(run):
    kl = losses.masked(losses.kl_estimate(run.logprobs, run.ref_logprobs, "k1"), run.mask).sum(-1)
    rewards, _, _ = our_advantages(run)
    close(kl.mean(), run.log["objective/kl"], "KL")
    close(run.scores.mean(), run.log["objective/scores"], "scores")
    close(rewards.sum(-1).mean(), run.log["objective/rlhf_reward"], "objective")
    close(-losses.sequence_logps(run.logprobs, run.mask).mean(), run.log["objective/entropy"], "sampled entropy")
