"""Our preference losses, SFT loss and log-probabilities against TRL 1.16's own code, on tiny random models.

Optional: skipped where another TRL, or none, is installed; see requirements-1.16.txt. Each trainer prepares the same text
records as our stage does, computes its loss with its own method, and is compared with our stage's first step.

Where conventions differ:
  - DPO, label smoothing: TRL's "sigmoid" loss silently ignores `label_smoothing`; its "aot" loss applies it, after sorting the
    pairs of a batch. On batches of one pair there is nothing to sort, and "aot" is cDPO, our `label_smoothing`.
  - DPO, "ipo": TRL divides each log-ratio by its completion's length; our `ipo_loss` takes sums, as the paper's equation does.
  - Reward model: our score head starts at zero, TRL's at random; here both get the same weights.
  - Log-probabilities: our softmax always runs in float32; TRL's `selective_log_softmax` stays in the type of the logits.
    Here all is float32.
"""

import copy
import os

import pytest

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
trl = pytest.importorskip("trl", minversion="1.16.0")
if trl.__version__ != "1.16.0":
    pytest.skip(f"written for TRL 1.16.0, found {trl.__version__}", allow_module_level=True)

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from helpers import (  # noqa: E402
    close,
    close_gradients,
    headless,
    language_model,
    metrics,
    our_policy,
    pair_batch,
    preferences,
    quiet,
    scoring_model,
    tokenizer,
    whole_batch,
)
from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer  # noqa: E402
from trl.trainer.utils import selective_log_softmax  # noqa: E402

from alignlab import dpo, losses, reward, sft  # noqa: E402
from alignlab.data import collate, encode_all  # noqa: E402
from alignlab.models import Base  # noqa: E402

torch.set_num_threads(1)
PAIRS = preferences(count=12, seed=0)


@pytest.fixture
def options(tmp_path) -> dict:
    return quiet(tmp_path, len(PAIRS))


# ---------------------------------------------------------------------------------------------- log-probabilities


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_of_random_logits(temperature):
    torch.manual_seed(0)
    logits, ids = 5 * torch.randn(6, 11, 40), torch.randint(40, (6, 11))
    mask = (torch.arange(11) >= torch.randint(1, 8, (6, 1))).long()
    ours = losses.token_logps(logits / temperature, ids)
    theirs = selective_log_softmax(logits[:, :-1], ids[:, 1:], temperature=temperature)  # TRL leaves the shift to the caller
    close(ours[:, 1:], theirs, "token log-probabilities")
    masked = selective_log_softmax(logits[:, :-1], ids[:, 1:], temperature=temperature, row_mask=mask[:, 1:])
    close(losses.sequence_logps(ours, mask), masked.sum(-1), "sequence log-probabilities")


# ---------------------------------------------------------------------------------------------- DPO


@pytest.fixture
def dpo_trainer(options):
    def build(**changes):
        trainer = DPOTrainer(
            model=language_model(seed=1), ref_model=language_model(seed=2), args=DPOConfig(**options, beta=0.3, **changes),
            train_dataset=Dataset.from_list(PAIRS), processing_class=tokenizer(),
        )  # fmt: skip
        trainer.model.train()
        return trainer

    return build


def our_dpo_logps() -> tuple[torch.Tensor, torch.Tensor]:
    """(4, B) summed log-probabilities, in the order of `dpo_loss`, and (2, B) lengths of chosen and rejected."""
    policy = our_policy(language_model(seed=1), language_model(seed=2))
    batch = pair_batch(PAIRS)
    with torch.no_grad():
        logps = losses.sequence_logps(policy.logps(batch), batch.mask)
        ref_logps = losses.sequence_logps(policy.reference_logps(batch), batch.mask)
    return torch.stack([*logps.chunk(2), *ref_logps.chunk(2)]), torch.stack(batch.mask.sum(-1).chunk(2))


def test_dpo_layout(dpo_trainer):
    theirs, ours = whole_batch(dpo_trainer()), pair_batch(PAIRS)
    assert torch.equal(ours.ids, theirs["input_ids"])
    assert torch.equal(ours.mask, theirs["completion_mask"])
    assert torch.equal(ours.attention, theirs["attention_mask"])


def test_dpo_first_step(dpo_trainer):
    trainer = dpo_trainer()
    loss = trainer.compute_loss(trainer.model, whole_batch(trainer))
    theirs = metrics(trainer)
    policy = our_policy(language_model(seed=1), language_model(seed=2))
    ours = next(dpo.train(policy, PAIRS, dpo.Config(beta=0.3, batch_size=len(PAIRS), micro_batch_size=5)))
    close(ours["loss"], loss, "loss")
    close(losses.dpo_loss(*our_dpo_logps()[0], beta=0.3), loss, "dpo_loss")
    for our_name, their_name in {
        "chosen_reward": "rewards/chosen", "rejected_reward": "rewards/rejected", "margin": "rewards/margins",
        "accuracy": "rewards/accuracies", "chosen_logps": "logps/chosen", "rejected_logps": "logps/rejected",
    }.items():  # fmt: skip
        close(ours[our_name], theirs[their_name], our_name)
    logps, _ = our_dpo_logps()
    assert (logps[:2] - logps[2:]).std() > 1  # policy and reference do differ, so the comparison tells something


def test_dpo_gradient(dpo_trainer):
    trainer = dpo_trainer()
    trainer.compute_loss(trainer.model, whole_batch(trainer)).backward()
    policy, batch = our_policy(language_model(seed=1), language_model(seed=2)), pair_batch(PAIRS)
    logps = losses.sequence_logps(policy.logps(batch), batch.mask)
    references = losses.sequence_logps(policy.reference_logps(batch), batch.mask)
    losses.dpo_loss(*logps.chunk(2), *references.chunk(2), beta=0.3).backward()
    close_gradients(policy.base.network, trainer.model)


def test_dpo_label_smoothing(dpo_trainer):
    trainer = dpo_trainer(loss_type="aot", label_smoothing=0.1)
    rows = [trainer.compute_loss(trainer.model, trainer.data_collator([row])) for row in trainer.train_dataset]
    logps, _ = our_dpo_logps()
    close(losses.dpo_loss(*logps, beta=0.3, label_smoothing=0.1), torch.stack(rows).mean(), "cDPO")
    for row, theirs in enumerate(rows):
        close(losses.dpo_loss(*logps[:, row : row + 1], beta=0.3, label_smoothing=0.1), theirs, f"cDPO of pair {row}")


def test_dpo_label_smoothing_is_ignored_by_their_sigmoid_loss(dpo_trainer):
    trainer = dpo_trainer(label_smoothing=0.1)
    theirs = trainer.compute_loss(trainer.model, whole_batch(trainer))
    close(losses.dpo_loss(*our_dpo_logps()[0], beta=0.3), theirs, "sigmoid loss")


def test_ipo(dpo_trainer):
    trainer = dpo_trainer(loss_type="ipo")
    theirs = trainer.compute_loss(trainer.model, whole_batch(trainer))
    logps, lengths = our_dpo_logps()
    close(losses.ipo_loss(*(logps / lengths.repeat(2, 1)), beta=0.3), theirs, "IPO of length-averaged log-probabilities")


# ---------------------------------------------------------------------------------------------- reward model and SFT


def test_reward_model_first_step(options):
    network = scoring_model(seed=3)
    trainer = RewardTrainer(
        model=copy.deepcopy(network), args=RewardConfig(**options), train_dataset=Dataset.from_list(PAIRS),
        processing_class=tokenizer(),
    )  # fmt: skip
    trainer.model.train()
    loss, outputs = trainer.compute_loss(trainer.model, whole_batch(trainer), return_outputs=True)
    theirs = metrics(trainer)

    model = Base(headless(network), tokenizer()).reward_model()
    model.head.weight.data.copy_(network.score.weight)
    scores = model.score_all(pair_batch(PAIRS))
    close(scores, outputs.logits.squeeze(-1), "scores")
    close(losses.preference_loss(*scores.chunk(2)), loss, "preference_loss")
    ours = next(reward.train(model, PAIRS, reward.Config(batch_size=len(PAIRS), micro_batch_size=5)))
    for our_name, their_value in {"loss": loss, "accuracy": theirs["accuracy"], "margin": theirs["margin"]}.items():
        close(ours[our_name], their_value, our_name)
    assert abs(ours["loss"] - 0.693) > 0.1


def test_sft_first_step(options):
    demonstrations = [{"prompt": pair["prompt"], "completion": pair["chosen"]} for pair in PAIRS]
    trainer = SFTTrainer(
        model=language_model(seed=1), args=SFTConfig(**options), train_dataset=Dataset.from_list(demonstrations),
        processing_class=tokenizer(),
    )  # fmt: skip
    trainer.model.train()
    batch = whole_batch(trainer)
    loss = trainer.compute_loss(trainer.model, batch)
    policy = our_policy(language_model(seed=1), language_model(seed=2))
    examples = [example for (example,) in encode_all(tokenizer(), demonstrations, ["completion"], max_length=64)]
    ours = collate(examples, tokenizer().pad_token_id)
    assert torch.equal(ours.ids, batch["input_ids"])
    assert torch.equal(ours.mask, (batch["labels"] != -100).long())
    logps, entropies = policy.logps(ours), policy.measure(ours).entropy
    close(losses.sft_loss(logps, ours.mask), loss, "sft_loss")
    close(losses.masked_mean(entropies, ours.mask), metrics(trainer)["entropy"], "entropy")
    step = next(sft.train(policy, demonstrations, sft.Config(batch_size=len(PAIRS), micro_batch_size=5)))
    close(step["loss"], loss, "first step's loss")
