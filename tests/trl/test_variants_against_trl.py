"""DPO's relatives and KTO against TRL's trainers: the same text records, tiny random models, TRL's own loss methods.

Optional: runs where TRL 1.12.0 or 1.16.0 is installed; the code compared here is in both.

TRL has no DPOP, under any name, so `dpop_loss` is not compared.

Where conventions differ:
  - Length-normalised DPO is TRL's loss type "sigmoid_norm"; nothing to convert.
  - DPO with a likelihood term: TRL adds its loss type "sft", with a weight in `loss_weights`. It averages over all chosen tokens of the
    batch; our `dpo_nll_loss` averages over each answer first, as Pang et al. do. On a batch of one pair both are the same.
  - SimPO: TRL subtracts gamma / beta from the difference and multiplies by beta afterwards, so gamma is in units of the reward, as our
    `margin` is. It belongs to CPO there, which adds `cpo_alpha` times the likelihood per token: 1.0 unless set to 0. Its
    `label_smoothing` has no counterpart in `simpo_loss`.
  - KTO: TRL's loss is w (1 - sigmoid(...)), ours w - w sigmoid(...), and both are means over all answers of the batch. In TRL's
    mismatched pairs each prompt gets the completion before its own, within a batch; `kto_kl` takes whatever pairs it is given. Both
    take one mean over the batch and then 0 where it is negative, without a gradient. TRL cites the paper's equation 7 for the loss.
"""

import os
from functools import partial

import pytest

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TRL_EXPERIMENTAL_SILENCE="1")
trl = pytest.importorskip("trl")
if trl.__version__ not in ("1.12.0", "1.16.0"):
    pytest.skip(f"written for TRL 1.12.0 and 1.16.0, found {trl.__version__}", allow_module_level=True)

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from helpers import (  # noqa: E402
    PAD,
    close,
    close_gradients,
    language_model,
    metrics,
    our_policy,
    pair_batch,
    preferences,
    quiet,
    tokenizer,
    whole_batch,
)
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer  # noqa: E402
from trl.experimental.cpo import CPOConfig, CPOTrainer  # noqa: E402

from alignlab import dpo, losses  # noqa: E402
from alignlab.data import Batch, Example, collate, encode_all  # noqa: E402

torch.set_num_threads(1)
PAIRS = preferences(count=12, seed=0)
WEIGHT = 0.4


@pytest.fixture
def options(tmp_path) -> dict:
    return quiet(tmp_path, len(PAIRS)) | {"train_dataset": Dataset.from_list(PAIRS)}


def trainer_of(kind, config, options: dict, policy: int = 1, reference: int | None = 2, **changes):
    """One of TRL's trainers in training mode; networks are named by their seeds."""
    networks = {"model": language_model(policy)} | ({} if reference is None else {"ref_model": language_model(reference)})
    settings = {name: value for name, value in options.items() if name != "train_dataset"} | changes
    trainer = kind(**networks, args=config(**settings), train_dataset=options["train_dataset"], processing_class=tokenizer())
    trainer.model.train()
    return trainer


def sums(policy, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of completions under policy and reference, with a gradient in the first."""
    with torch.no_grad():
        references = losses.sequence_logps(policy.reference_logps(batch), batch.mask)
    return losses.sequence_logps(policy.logps(batch), batch.mask), references


def our_pairs():
    """Our policy; its four tensors of log-probabilities, in the order of the losses; lengths of chosen and of rejected."""
    policy, batch = our_policy(language_model(1), language_model(2)), pair_batch(PAIRS)
    logps, references = sums(policy, batch)
    return policy, [*logps.chunk(2), *references.chunk(2)], dict(zip(["chosen_lengths", "rejected_lengths"], batch.mask.sum(-1).chunk(2)))


# ---------------------------------------------------------------------------------------------- DPO's relatives


def test_length_normalised_dpo(options):
    trainer = trainer_of(DPOTrainer, DPOConfig, options, beta=3.0, loss_type="sigmoid_norm")
    theirs = trainer.compute_loss(trainer.model, whole_batch(trainer))
    theirs.backward()
    policy, logps, lengths = our_pairs()
    ours = losses.length_normalised_dpo_loss(*logps, beta=3.0, **lengths)
    ours.backward()
    close(ours, theirs, "length_normalised_dpo_loss")
    close_gradients(policy.base.network, trainer.model)
    step = next(dpo.train(policy, PAIRS, dpo.Config(beta=3.0, batch_size=12, micro_batch_size=5), losses.length_normalised_dpo_loss))
    close(step["loss"], theirs, "first step's loss")


def test_dpo_with_a_likelihood_term_pair_by_pair(options):
    trainer = trainer_of(DPOTrainer, DPOConfig, options, beta=0.3, loss_type=["sigmoid", "sft"], loss_weights=[1.0, WEIGHT])
    rows = torch.stack([trainer.compute_loss(trainer.model, trainer.data_collator([row])) for row in trainer.train_dataset])
    policy, logps, lengths = our_pairs()
    loss = partial(losses.dpo_nll_loss, beta=0.3, weight=WEIGHT)
    for row, theirs in enumerate(rows):
        close(loss(*(part[[row]] for part in logps), chosen_lengths=lengths["chosen_lengths"][[row]]), theirs, f"pair {row}")
    close(loss(*logps, chosen_lengths=lengths["chosen_lengths"]), rows.mean(), "mean over pairs")
    config = dpo.Config(beta=0.3, batch_size=12, micro_batch_size=5)
    close(next(dpo.train(policy, PAIRS, config, partial(losses.dpo_nll_loss, weight=WEIGHT)))["loss"], rows.mean(), "first step's loss")


def test_dpo_with_a_likelihood_term_in_a_batch_is_a_mean_over_its_tokens(options):
    trainer = trainer_of(DPOTrainer, DPOConfig, options, beta=0.3, loss_type=["sigmoid", "sft"], loss_weights=[1.0, WEIGHT])
    theirs = trainer.compute_loss(trainer.model, whole_batch(trainer))
    _, logps, lengths = our_pairs()
    per_token = -logps[0].sum() / lengths["chosen_lengths"].sum()
    close(losses.dpo_loss(*logps, beta=0.3) + WEIGHT * per_token, theirs, "DPO and the likelihood per token of the batch")
    ours = losses.dpo_nll_loss(*logps, beta=0.3, weight=WEIGHT, chosen_lengths=lengths["chosen_lengths"])
    assert (ours - theirs).abs() > 1e-3  # the two means differ where lengths do


@pytest.mark.parametrize("gamma", [0.0, 0.7])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_simpo(options, gamma, alpha):
    trainer = trainer_of(
        CPOTrainer, CPOConfig, options, reference=None, beta=2.0, loss_type="simpo", simpo_gamma=gamma, cpo_alpha=alpha
    )  # fmt: skip
    theirs, _ = trainer.get_batch_loss_metrics(trainer.model, whole_batch(trainer))
    theirs.backward()
    policy, (chosen, rejected, *_), lengths = our_pairs()
    ours = losses.simpo_loss(chosen, rejected, beta=2.0, margin=gamma, **lengths)
    likelihood = -chosen.sum() / lengths["chosen_lengths"].sum()
    (ours + alpha * likelihood).backward()
    close(ours + alpha * likelihood, theirs, "SimPO")
    close_gradients(policy.base.network, trainer.model)


# ---------------------------------------------------------------------------------------------- KTO


def judged(pairs: list[dict]) -> list[dict]:
    """From each pair one answer, desirable or not; two to one, so that the weights matter."""
    take = ["chosen" if number % 3 else "rejected" for number in range(len(pairs))]
    return [{"prompt": pair["prompt"], "completion": pair[side], "label": side == "chosen"} for pair, side in zip(pairs, take)]


@pytest.mark.parametrize(("policy_seed", "reference_seed"), [(1, 2), (2, 1)])
def test_kto(options, policy_seed, reference_seed):
    records = judged(PAIRS)
    trainer = trainer_of(
        KTOTrainer, KTOConfig, options | {"train_dataset": Dataset.from_list(records)}, policy_seed, reference_seed, beta=0.3,
        desirable_weight=0.8, undesirable_weight=1.7,
    )  # fmt: skip
    theirs = trainer.compute_loss(trainer.model, whole_batch(trainer))
    theirs.backward()

    policy = our_policy(language_model(policy_seed), language_model(reference_seed))
    examples = [example for (example,) in encode_all(tokenizer(), records, ["completion"], max_length=64)]
    before = examples[-1:] + examples[:-1]  # TRL's mismatched pairs
    mismatched = [Example(own.prompt, other.completion) for own, other in zip(examples, before)]
    kl = losses.kto_kl(*sums(policy, collate(mismatched, PAD)))
    close(kl, metrics(trainer)["kl"], "kto_kl")
    logps, references = sums(policy, collate(examples, PAD))
    desirable = torch.tensor([record["label"] for record in records])
    ours = losses.kto_loss(logps, references, desirable, kl, 0.3, desirable_weight=0.8, undesirable_weight=1.7)
    ours.backward()
    close(ours, theirs, "kto_loss")
    close_gradients(policy.base.network, trainer.model)
    assert (kl > 0.1) == (policy_seed == 1)  # the other way round the mean is negative, and 0 stands for it
