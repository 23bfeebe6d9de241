"""Twelve switches, each of which breaks one law of docs/correctness.md: the wrong code, its cure, and the assertion that tells them apart.

`wrong` and `right` have the same arguments, so that either can be put in the other's place; an assertion takes such a function,
returns where it keeps the law, and raises AssertionError where it does not. The laws' numbers are those of docs/correctness.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.nn import functional as F

from alignlab import losses, ppo, sft
from alignlab.data import Batch, Example, collate
from alignlab.lab.clinic import HELD_OUT, Setup, raw_score, sft_answers, split
from alignlab.models import Base, Policy, load
from alignlab.records import data_folder
from alignlab.rollout import sample


@dataclass(frozen=True, kw_only=True)
class Break:
    """One switch.

    stage: whose run it spoils. law: its number. says: the law in a sentence.
    wrong, right: the code that breaks it, and the package's own. cure: what differs, in a sentence.
    put: puts code of that form into a run.
    keeps: the assertion.
    tells: the curves that show it, the most telling first.
    """

    name: str
    stage: str
    law: str
    says: str
    wrong: Callable
    right: Callable
    cure: str
    put: Callable[[Setup, Callable], None]
    keeps: Callable[[Callable], None]
    tells: tuple[str, ...]


@lru_cache(maxsize=1)
def specimen() -> tuple[Base, Policy]:
    """The bundled base model and a policy over it that has moved away from it: what assertions try code on."""
    base = load(data_folder() / "base", "cpu")
    policy = base.policy("specimen", rank=4, seed=0)
    return base, _moved(policy)


def _moved(policy: Policy, size: float = 0.05) -> Policy:
    """A policy whose adapter was changed at random, by a seed of its own."""
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in policy.parameters():
            weights.add_(size * torch.randn(weights.shape, generator=rng))
    return policy


def texts(base: Base) -> list[Example]:
    """Two completions of unequal length, ending in EOS."""
    eos = base.tokenizer.eos_token_id
    return [Example([5, 6, 7], [8, 9, eos]), Example([5, 6], [9, 10, 11, 12, 13, eos])]


MASK = torch.tensor([[0, 1, 1, 0, 0], [0, 1, 1, 1, 1], [0, 0, 1, 1, 0]])
LOGPS, REF_LOGPS = -torch.linspace(0.2, 3.0, 15).view(3, 5), -torch.linspace(2.0, 0.5, 15).view(3, 5)
SCORES = torch.tensor([1.5, -0.7, 0.2])


# ---------------------------------------------------------------------------------------------- SFT


def collate_with_eos_as_padding(examples, pad_id, device="cpu"):
    eos = examples[0].completion[-1]  # the tokenizer had no padding token, so: pad_token = eos_token
    batch = collate(examples, eos, device)
    return Batch(batch.ids, batch.mask * (batch.ids != eos), batch.attention)  # no loss on padding


def eos_is_learned(collate_fn: Callable) -> None:
    """Every token of a completion counts, its EOS included."""
    examples = [Example([5, 6], [7, 1]), Example([5], [8, 9, 1])]  # 1 ends each completion
    batch = collate_fn(examples, 0)
    assert batch.mask.sum(-1).tolist() == [2, 3], "a completion's EOS is not among the tokens that the loss counts"


def before_without_shift(values, mask):
    return values[mask.bool()]


def logits_stand_one_before(before: Callable) -> None:
    """What predicts token t stands at position t - 1."""
    positions = torch.arange(5).expand(3, 5)
    assert before(positions, MASK).tolist() == [t - 1 for row in MASK for t in range(5) if row[t]], "a token's logits have seen the token"


# ---------------------------------------------------------------------------------------------- the reward model


def split_off_the_front(pairs, share):
    test = pairs[: int(share * len(pairs))]
    return pairs, test


def no_prompt_is_shared(split_fn: Callable) -> None:
    """No test prompt is trained on."""
    pairs = [{"prompt": str(i % 7), "chosen": str(i), "rejected": "x"} for i in range(20)]
    train, test = ({pair["prompt"] for pair in part} for part in split_fn(pairs, 0.4))
    assert test and not train & test, "test prompts are among the training prompts"


# ---------------------------------------------------------------------------------------------- PPO: score and reward


def centred_by_nothing(score, answers):
    return score


def centred(score, answers):
    """The score minus its mean on the reference's answers."""
    centre = score(answers).mean()
    return lambda completions: score(completions) - centre


def an_average_answer_scores_nothing(centred_fn: Callable) -> None:
    """Scores are centred, so that a fixed penalty means the same with every reward model."""
    score = centred_fn(lambda answers: answers * 1.0, torch.tensor([-9.0, -7.0]))
    assert torch.allclose(score(torch.tensor([-9.0, -7.0])).mean(), torch.tensor(0.0)), "an average answer does not score 0"


def rewards_with_kl_paid(scores, logps, ref_logps, mask, beta):
    rewards = losses.masked(beta * (logps - ref_logps), mask)
    rewards[torch.arange(len(scores)), losses.last_token(mask)] += scores
    return rewards


def rewards_on_the_last_column(scores, logps, ref_logps, mask, beta):
    rewards = losses.masked(-beta * (logps - ref_logps), mask)
    rewards[:, -1] += scores
    return rewards


def rewards_add_up(shape_rewards: Callable) -> None:
    """Over a completion's tokens, rewards add up to its score minus beta times its log-ratio."""
    rewards = shape_rewards(SCORES, LOGPS, REF_LOGPS, MASK, 0.3)
    wanted = SCORES - 0.3 * losses.masked(LOGPS - REF_LOGPS, MASK).sum(-1)
    assert torch.allclose(losses.masked(rewards, MASK).sum(-1), wanted, atol=1e-5), "rewards do not add up to score - beta * log-ratio"


# ---------------------------------------------------------------------------------------------- PPO: sampling and the two anchors


def sample_at_another_temperature(policy, prompts, max_new_tokens, generator, temperature=1.0, reference=False):
    return sample(policy, prompts, max_new_tokens, generator, 0.7, reference)  # generation's own default, scored at 1


def recorded_is_scored(sample_fn: Callable) -> None:
    """The log-probs recorded while sampling are those of a plain pass over the text."""
    _, policy = specimen()
    samples = sample_fn(policy, ["a", "b"], 6, torch.Generator().manual_seed(0), 1.0)
    plain = policy.logps(samples.batch, 1.0).detach()
    assert torch.allclose(plain, samples.logps, atol=1e-3), "sampled and scored at different temperatures"


def forward_with_dropout(policy, batch, temperature=1.0):
    with policy.base.using(policy.adapter):
        hidden = F.dropout(policy.base.hidden(batch.ids, batch.attention), p=0.1)  # the network was left in train() mode
        logits = policy.base.logits(losses.before(hidden, batch.mask)) / temperature
    return losses.spread(losses.picked_logps(logits, batch.ids[batch.mask.bool()]), batch.mask), hidden


def the_ratio_starts_at_one(forward: Callable) -> None:
    """Before the first step, the pass that learns gives the log-probs of the policy that sampled."""
    base, policy = specimen()
    batch = collate(texts(base), base.tokenizer.pad_token_id)
    with torch.no_grad():
        ratio = (forward(policy, batch)[0] - policy.measure(batch).logps).exp()
    assert torch.allclose(ratio, torch.ones_like(ratio), atol=1e-3), "the ratio differs from 1 before anything was learned"


def loss_with_fresh_old_logps(logps, old_logps, advantages, mask, clip_epsilon):
    old_logps = logps.detach()  # "the old policy", scored again at every step
    return losses.clipped_policy_loss(logps, old_logps, advantages, mask, clip_epsilon)


def the_clip_stops(policy_loss: Callable) -> None:
    """A token whose ratio has left the clip on the side that pays has no gradient any more."""
    logps, old_logps = torch.tensor([[-1.0, -1.0]], requires_grad=True), torch.tensor([[-2.0, -1.0]])  # ratios e and 1
    policy_loss(logps, old_logps, torch.ones(1, 2), torch.ones(1, 2), 0.2).backward()
    assert logps.grad is not None and logps.grad[0, 0] == 0 and logps.grad[0, 1] < 0, "the clip never binds"


def measure_against_itself(policy, batch, temperature=1.0):
    seen = Policy.measure(policy, batch, temperature)
    return seen._replace(ref_logps=seen.logps, kl=torch.zeros_like(seen.kl))  # ref_model = model: the same object


def the_reference_stays(measure: Callable) -> None:
    """What the reference says does not change when the policy's weights do."""
    base, _ = specimen()
    policy = base.policy("moving", rank=4)
    batch = collate(texts(base), base.tokenizer.pad_token_id)
    before = measure(policy, batch).ref_logps
    assert torch.allclose(before, measure(_moved(policy), batch).ref_logps, atol=1e-5), "the reference moves with the policy"


# ---------------------------------------------------------------------------------------------- DPO


def dpo_without_reference(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta):
    return -F.logsigmoid(beta * (chosen_logps - rejected_logps)).mean()


def the_loss_starts_at_log_2(loss_fn: Callable) -> None:
    """While policy and reference agree, DPO's loss is log 2."""
    chosen, rejected = torch.tensor([-30.0, -20.0]), torch.tensor([-28.0, -33.0])
    assert torch.allclose(loss_fn(chosen, rejected, chosen, rejected, 0.5), torch.tensor(2.0).log()), "the loss does not start at log 2"


def dpo_with_a_moving_reference(chosen_logps, rejected_logps, ref_chosen_logps, ref_rejected_logps, beta):
    reference = chosen_logps.detach(), rejected_logps.detach()  # ref_model = model: the same weights, without gradient
    return losses.dpo_loss(chosen_logps, rejected_logps, *reference, beta)


def the_loss_falls_as_margins_grow(loss_fn: Callable) -> None:
    """DPO's loss is smaller where the policy prefers the chosen answer more than the reference does."""
    reference = torch.tensor([-30.0]), torch.tensor([-28.0])
    start, later = (loss_fn(reference[0] + gain, reference[1] - gain, *reference, 0.5) for gain in (0.0, 2.0))
    assert later < start - 0.1, "the loss does not see how far the policy is from the reference"


def pair_of(prompt, first, second, label):
    """A record; label 0 means that the first answer was preferred."""
    chosen, rejected = (first, second) if label == 0 else (second, first)
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def pair_the_other_way(prompt, first, second, label):
    chosen, rejected = (first, second) if label == 1 else (second, first)  # 1 for true: the first was preferred
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def a_known_pair_is_read_right(pair: Callable) -> None:
    """A pair whose better answer anybody can name comes out in the right order."""
    record = pair("Is water wet?", "Yes.", "Potato.", 0)
    assert (record["chosen"], record["rejected"]) == ("Yes.", "Potato."), "the rejected answer is called chosen"


# ---------------------------------------------------------------------------------------------- the twelve


def _reads_pairs(run: Setup, pair: Callable) -> None:
    run.records = [pair(record["prompt"], record["chosen"], record["rejected"], 0) for record in run.records]


def _loss(run: Setup, code: Callable) -> None:
    run.loss_fn = code


def _splits(run: Setup, split_fn: Callable) -> None:
    run.records, run.held_out = split_fn([*run.records, *run.held_out], HELD_OUT)


def _centres(run: Setup, centred_fn: Callable) -> None:
    """The raw score goes through the code, which is given answers of the SFT model."""
    run.score = centred_fn(raw_score(run.given), sft_answers(run.given))


BREAKS = {each.name: each for each in (
    Break(
        name="eos_is_padding", stage="sft", law="1", says="Padding differs from EOS: EOS counts in the loss, and padding does not.",
        wrong=collate_with_eos_as_padding, right=collate, cure="Give padding an id of its own, and mask by position instead of by id.",
        put=lambda run, code: run.put_function(sft, "collate", code), keeps=eos_is_learned, tells=("loss", "stop_rate", "length"),
    ),
    Break(
        name="no_shift", stage="sft", law="8", says="The logits at position t - 1 predict token t.",
        wrong=before_without_shift, right=losses.before, cure="Shift by one: `values[:, :-1][mask[:, 1:].bool()]`.",
        put=lambda run, code: run.put_function(losses, "before", code), keeps=logits_stand_one_before, tells=("loss", "gold", "length"),
    ),
    Break(
        name="leaky_split", stage="reward", law="12", says="Training and test pairs share no prompt.",
        wrong=split_off_the_front, right=split, cure="Split by prompt first, and train on what is left.",
        put=_splits, keeps=no_prompt_is_shared, tells=("accuracy", "test_accuracy"),
    ),
    Break(
        name="temperature", stage="ppo", law="6, 7", says="The log-probs recorded while sampling are those of a plain pass.",
        wrong=sample_at_another_temperature, right=sample, cure="Pass the temperature on to the sampler, and score at the same one.",
        put=lambda run, code: run.put_function(ppo, "sample", code), keeps=recorded_is_scored, tells=("reward", "kl", "drift"),
    ),
    Break(
        name="uncentred", stage="ppo", law="11", says="Scores are centred before PPO, so that 0 is an average answer.",
        wrong=centred_by_nothing, right=centred, cure="Subtract the mean score of the SFT model's answers.",
        put=_centres, keeps=an_average_answer_scores_nothing, tells=("reward", "stop_rate", "gold"),
    ),
    Break(
        name="kl_is_paid", stage="ppo", law="18", says="KL is a price: it is subtracted in the reward.",
        wrong=rewards_with_kl_paid, right=losses.shape_rewards, cure="`-beta * (logps - ref_logps)`.",
        put=lambda run, code: run.put_equation("shape_rewards", code), keeps=rewards_add_up, tells=("reward", "kl", "stop_rate"),
    ),
    Break(
        name="fresh_old_logps", stage="ppo", law="19", says="The clip is relative to the policy that sampled.",
        wrong=loss_with_fresh_old_logps, right=losses.clipped_policy_loss, cure="Keep the log-probs from sampling; score them once.",
        put=lambda run, code: run.put_equation("clipped_policy_loss", code), keeps=the_clip_stops, tells=("approx_kl", "length", "gold"),
    ),
    Break(
        name="dropout", stage="ppo", law="23, 29", says="Dropout is off in every pass, so the ratio is 1 before anything is learned.",
        wrong=forward_with_dropout, right=Policy.forward, cure="`network.eval()`, in training too.",
        put=lambda run, code: run.put_method("forward", code), keeps=the_ratio_starts_at_one, tells=("reward", "first_clip", "approx_kl"),
    ),
    Break(
        name="moving_reference", stage="ppo", law="37", says="The reference stays the same, bit for bit.",
        wrong=measure_against_itself, right=Policy.measure, cure="Score the reference with its own frozen weights.",
        put=lambda run, code: run.put_method("measure", code), keeps=the_reference_stays, tells=("reward", "kl", "gold"),
    ),
    Break(
        name="no_reference", stage="dpo", law="32", says="DPO's loss is log 2 before the first step.",
        wrong=dpo_without_reference, right=losses.dpo_loss, cure="Subtract the reference's log-probs from both.",
        put=_loss, keeps=the_loss_starts_at_log_2, tells=("loss", "kl", "length"),
    ),
    Break(
        name="pairs_swapped", stage="dpo", law="34", says="The chosen answer is the one that was preferred.",
        wrong=pair_the_other_way, right=pair_of, cure="Read the data's documentation, and look at ten pairs.",
        put=_reads_pairs, keeps=a_known_pair_is_read_right, tells=("loss", "accuracy", "gold"),
    ),
    Break(
        name="dpo_moving_reference", stage="dpo", law="37, 38", says="The reference's log-probs are those of frozen weights.",
        wrong=dpo_with_a_moving_reference, right=losses.dpo_loss, cure="Take them from the reference, once for each pair.",
        put=_loss, keeps=the_loss_falls_as_margins_grow, tells=("loss", "kl", "gold"),
    ),
)}  # fmt: skip
