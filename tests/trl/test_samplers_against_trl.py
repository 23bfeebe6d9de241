"""RLOO and online DPO against TRL's trainers: TRL samples from a tiny random model, our stages get the same answers and scores.

Optional: runs where TRL 1.16.0 is installed. Version 1.12 has both trainers too, but its RLOO imports `requests`, which only
TRL's extra "vllm" installs.

Where conventions differ:
  - RLOO, the loss: TRL clips the ratio of a completion's probabilities to those at sampling, as PPO does with a token's; our
    `reinforce_loss` has no ratio. At the first step the ratio is 1: the values differ there, the gradients do not.
  - RLOO, the KL in the reward is k1 summed over the completion on both sides. TRL logs k1 per token; ours is exact, per completion.
  - RLOO: TRL can normalise advantages, and leaves answers that have no score out of the baseline; ours does neither.
  - Online DPO, the two answers to a prompt: TRL puts all first answers before all second ones; ours are neighbours. A tie goes to the
    first on both sides.
  - Online DPO, "ipo": TRL takes sums here, as our `ipo_loss` does, although its DPO trainer divides by length.
  - Online DPO, the logged KL: TRL sums k1 over padding too; ours is exact, over tokens.
  - Online DPO, no EOS: TRL subtracts a penalty; our `missing_eos_score` takes the score's place. Here TRL's reward function does so.
  - Online DPO, accuracy: a pair of equal answers has margin 0, which we count as half and TRL not at all. No such pair is drawn here.
  - Online DPO, temperature: both sample at it and score at 1.
"""

import os

import pytest

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TRL_EXPERIMENTAL_SILENCE="1")
trl = pytest.importorskip("trl", minversion="1.16.0")
if trl.__version__ != "1.16.0":
    pytest.skip(f"written for TRL 1.16.0, found {trl.__version__}", allow_module_level=True)

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from helpers import EOS, PAD, close, close_gradients, language_model, our_policy, preferences, quiet, tokenizer  # noqa: E402
from trl import RLOOConfig, RLOOTrainer  # noqa: E402
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer  # noqa: E402

from alignlab import losses, online, rloo  # noqa: E402
from alignlab.data import Example, collate  # noqa: E402
from alignlab.rollout import Completions  # noqa: E402

torch.set_num_threads(1)
PROMPTS = [pair["prompt"] for pair in preferences(count=16, seed=1)]
LENGTH, ANSWERS, TEMPERATURE, NO_EOS = 8, 4, 3.0, -3.0  # hot, so that the answers to a prompt differ


def points(ids: list[int]) -> float:
    """A score of an answer, the same on both sides; ties are frequent."""
    return sum(ids) % 5 - 2.0


def network(seed: int):
    """In float64, since TRL pads prompts on the left, we on the right: in float32 gradients then round apart by about 1e-5."""
    return language_model(seed).double()


class Judge:
    """TRL's reward function, which keeps the answers that it was shown, up to and including EOS."""

    __name__ = "judge"

    def __call__(self, prompts, completion_ids, **_) -> list[float]:
        answers = [ids[: ids.index(EOS) + 1] if EOS in ids else ids for ids in completion_ids]
        self.examples = [Example(tokenizer()(prompt)["input_ids"], ids) for prompt, ids in zip(prompts, answers, strict=True)]
        return [points(ids) if EOS in ids else NO_EOS for ids in answers]


def completions(examples: list[Example]) -> Completions:
    """TRL's answers as if we had sampled them."""
    batch = collate(examples, PAD)
    stopped = torch.tensor([example.completion[-1] == EOS for example in examples])
    assert 2 < stopped.sum() < len(examples) - 2  # answers of both kinds
    return Completions([""] * len(examples), [""] * len(examples), batch, torch.zeros(batch.ids.shape), stopped)


def score(samples: Completions) -> torch.Tensor:
    return torch.tensor([points(ids[mask.bool()].tolist()) for ids, mask in zip(samples.batch.ids, samples.batch.mask, strict=True)])


# ---------------------------------------------------------------------------------------------- RLOO


@pytest.fixture
def rloo_trainer(tmp_path):
    """TRL reads its reference from a folder, the one that the policy names as its source."""
    network(2).save_pretrained(tmp_path / "reference")
    model = network(1)
    model.config._name_or_path = str(tmp_path / "reference")
    trainer = RLOOTrainer(
        model=model, reward_funcs=Judge(), train_dataset=Dataset.from_dict({"prompt": PROMPTS}), processing_class=tokenizer(),
        args=RLOOConfig(
            **quiet(tmp_path, ANSWERS * len(PROMPTS)), beta=0.2, num_generations=ANSWERS, max_completion_length=LENGTH,
            temperature=TEMPERATURE, gradient_checkpointing=False,
        ),
    )  # fmt: skip
    trainer.model.train()
    return trainer


def test_rloo(rloo_trainer, monkeypatch):
    prompts = [prompt for prompt in PROMPTS for _ in range(ANSWERS)]
    theirs = rloo_trainer._generate_and_score_completions([{"prompt": prompt} for prompt in prompts])
    rloo_trainer._compute_loss(rloo_trainer.model, theirs).backward()

    monkeypatch.setattr(rloo, "sample", lambda *_: completions(rloo_trainer.reward_funcs[0].examples))
    policy = our_policy(network(1), network(2))
    config = rloo.Config(beta=0.2, answers=ANSWERS, missing_eos_score=NO_EOS, temperature=TEMPERATURE)
    ours = rloo.collect(policy, score, prompts, config, torch.Generator())
    batch = ours.samples.batch
    close(losses.sequence_logps(ours.old.logps, batch.mask), theirs["old_logps"], "log-probabilities")
    close(ours.advantages, theirs["advantages"], "rloo_advantages")
    losses.reinforce_loss(policy.logps(batch, TEMPERATURE), ours.advantages, batch.mask).backward()
    close_gradients(policy.base.network, rloo_trainer.model)
    assert losses.sequence_logps(ours.old.logps - ours.old.ref_logps, batch.mask).std() > 1  # so that the KL in the reward matters


# ---------------------------------------------------------------------------------------------- online DPO


def online_trainer(folder, **changes):
    trainer = OnlineDPOTrainer(
        model=network(1), ref_model=network(2), reward_funcs=Judge(), processing_class=tokenizer(),
        train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
        args=OnlineDPOConfig(
            **quiet(folder, len(PROMPTS)), beta=0.3, max_new_tokens=LENGTH, max_length=64, temperature=TEMPERATURE,
            gradient_checkpointing=False, **changes,
        ),
    )  # fmt: skip
    return trainer, trainer.training_step(trainer.model, {"prompt": PROMPTS})


def our_draw(trainer, monkeypatch) -> tuple:
    """Our policy, and the pairs that our stage makes of TRL's answers."""
    first, second = torch.arange(2 * len(PROMPTS)).chunk(2)
    neighbours = [trainer.reward_funcs[0].examples[row] for row in torch.stack([first, second], dim=1).flatten().tolist()]
    monkeypatch.setattr(online, "sample", lambda *_: completions(neighbours))
    policy = our_policy(network(1), network(2))
    return policy, online.draw(policy, score, PROMPTS, online.Config(missing_eos_score=NO_EOS), torch.Generator())


def test_online_dpo(tmp_path, monkeypatch):
    trainer, loss = online_trainer(tmp_path)
    policy, drawn = our_draw(trainer, monkeypatch)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    config = online.Config(beta=0.3, batch_size=len(PROMPTS), micro_batch_size=5)
    ours = online.update(policy, optimizer, drawn, torch.arange(len(PROMPTS)), config) | online.describe(drawn)
    close(ours["loss"], loss, "loss")
    for our_name, their_name in {
        "accuracy": "rewards/accuracies", "margin": "rewards/margins", "chosen_logps": "logps/chosen",
        "rejected_logps": "logps/rejected", "reward": "objective/scores", "gap": "objective/scores_margin",
    }.items():  # fmt: skip
        close(ours[our_name], trainer.stats[their_name][-1], our_name)
    gradient = torch.cat([parameter.grad.flatten() for parameter in trainer.model.parameters()])
    close(ours["gradient_norm"], gradient.norm(), "length of the gradient")
    assert (drawn.scores[drawn.chosen] == drawn.scores[drawn.rejected]).any()


def test_ipo_on_sums(tmp_path, monkeypatch):
    trainer, theirs = online_trainer(tmp_path, loss_type="ipo")
    policy, drawn = our_draw(trainer, monkeypatch)
    mask = drawn.samples.batch.mask
    logps = losses.sequence_logps(policy.logps(drawn.samples.batch), mask)
    references = losses.sequence_logps(drawn.old.ref_logps, mask)
    ours = losses.ipo_loss(*(sums[rows] for sums in (logps, references) for rows in (drawn.chosen, drawn.rejected)), beta=0.3)
    ours.backward()
    close(ours, theirs, "ipo_loss")
    close_gradients(policy.base.network, trainer.model)
