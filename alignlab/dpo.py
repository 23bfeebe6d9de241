"""Direct preference optimisation: the same pairs, no reward model, no sampling."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alignlab.data import Batch, Example, collate, encode_all, lengths
from alignlab.losses import dpo_loss, sequence_logps
from alignlab.models import Policy
from alignlab.optim import descend, micro_batches, minibatches, optimiser, warm_then_decay


@dataclass(kw_only=True, slots=True)
class Config:
    """Rates, beta and the like are read at each step, so that a change acts at the next one.

    What lays out the steps (epochs, batch_size, max_length, seed) is read at the start.

    beta: > 0; the price of KL (see the head of losses.py).
    label_smoothing: in [0, 0.5); the share of labels expected to be wrong (cDPO).
    learning_rate: of AdamW; works together with beta.
    batch_size: pairs a step.
    micro_batch_size: pairs in memory at once; changes memory, not the result.
    epochs: passes over the pairs.
    max_length: tokens of prompt and completion together; no more than the model can take.
    seed: order of the pairs.
    """

    beta: float = 0.5
    label_smoothing: float = 0.0
    learning_rate: float = 1e-3
    batch_size: int = 64
    micro_batch_size: int = 64
    epochs: int = 2
    max_length: int = 128
    seed: int = 0


def train(policy: Policy, pairs: Sequence[dict], config: Config, loss_fn: Callable[..., Tensor] = dpo_loss) -> Iterator[dict]:
    """Train the policy on records with `prompt`, `chosen` and `rejected`; yields a dict of metrics a step.

    `loss_fn` is called as `loss_fn(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta)`, and with
    `label_smoothing=` where that is not 0.

    Metrics: loss (log 2 = 0.693 before the first step), accuracy and margin of the implicit reward beta * log(pi / pi_ref),
    chosen_logps and rejected_logps (nats a completion, watch both), chosen_reward and rejected_reward.
    """
    generator = torch.Generator().manual_seed(config.seed)
    examples = encode_all(policy.tokenizer, pairs, ["chosen", "rejected"], min(config.max_length, policy.base.max_length))
    tokens = lengths(examples)
    references = torch.full((len(examples), 2), torch.nan)  # each pair's, kept from the first time that it is seen
    optimizer = optimiser(policy.parameters())
    steps = minibatches(len(examples), config.batch_size, config.epochs, generator)
    for step, rows in enumerate(steps):
        beta, smoothing = config.beta, config.label_smoothing
        seen = []

        def parts():
            for micro in micro_batches(rows, tokens, config.micro_batch_size):
                batch = _both(policy, [examples[row] for row in micro.tolist()])
                if references[micro].isnan().any():
                    references[micro] = reference_logps(policy, batch).T.cpu()
                reference = references[micro].T.to(policy.device)  # (2, micro)
                logps = _by_pair(policy.logps(batch), batch)
                seen.append((logps.detach(), reference))
                options = {"label_smoothing": smoothing} if smoothing else {}
                yield loss_fn(*logps, *reference, beta, **options) * (len(micro) / len(rows))

        loss, norm = descend(optimizer, config.learning_rate * warm_then_decay(step, len(steps)), parts())
        logps, reference = (torch.cat(column, dim=1) for column in zip(*seen, strict=True))
        chosen_reward, rejected_reward = beta * (logps - reference)
        margin = chosen_reward - rejected_reward
        right = (margin > 0).float() + (margin == 0).float() / 2
        yield {
            "stage": "dpo", "step": step, "steps": len(steps), "beta": beta, "loss": loss,
            "accuracy": right.mean().item(),
            "margin": margin.mean().item(),
            "chosen_reward": chosen_reward.mean().item(), "rejected_reward": rejected_reward.mean().item(),
            "chosen_logps": logps[0].mean().item(), "rejected_logps": logps[1].mean().item(), "gradient_norm": norm,
        }  # fmt: skip


def reference_logps(policy: Policy, batch: Batch) -> Tensor:
    """The reference's log-probabilities of chosen (row 0) and rejected (row 1) completions: (2, pairs), nats."""
    return _by_pair(policy.reference_logps(batch), batch)


def _by_pair(token_logps: Tensor, batch: Batch) -> Tensor:
    return torch.stack(sequence_logps(token_logps, batch.mask).chunk(2))


def _both(policy: Policy, examples: Sequence[Sequence[Example]]) -> Batch:
    """One batch: all chosen completions, then all rejected ones."""
    chosen, rejected = zip(*examples, strict=True)
    return collate(chosen + rejected, policy.tokenizer.pad_token_id, policy.device)
