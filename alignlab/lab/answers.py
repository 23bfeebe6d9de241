"""The answers to those exercises whose function is not one of `alignlab.losses`."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from alignlab import exact, losses, world


def preference_probability(difference: float, temperature: float, flip: float) -> float:
    """P(an annotator prefers A), A better by `difference` in reward units."""
    return world.Annotator(temperature=temperature, flip=flip).probability(difference, 0.0)


def bayes_accuracy(probabilities: Tensor) -> Tensor:
    """The most that any judge can have on such labels: the mean of max(p, 1 - p)."""
    return torch.maximum(probabilities, 1 - probabilities).mean()


def skill(accuracy: float, bayes: float) -> float:
    """Accuracy as a share of what can be had above a coin."""
    return (accuracy - 0.5) / (bayes - 0.5)


def completion_mask(prompt_length: int, length: int, width: int) -> Tensor:
    """(width,) 1 on completion tokens, EOS included, of a row with that prompt and that length, right-padded."""
    positions = torch.arange(width)
    return ((positions >= prompt_length) & (positions < length)).long()


def tilted(ref_probabilities: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """pi* over enumerated responses: (N,), (N,) -> (N,)."""
    return exact.optimal_logps(rewards, beta, ref_probabilities.log()).exp()


def kl(probabilities: Tensor, ref_probabilities: Tensor) -> Tensor:
    """KL(pi, pi_ref) of two distributions over N responses, nats."""
    return exact.enumerated_kl(probabilities.log(), ref_probabilities.log())


def k3(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """The estimator k3 of KL(pi, pi_ref), per token, from tokens drawn from pi."""
    return losses.kl_estimate(logps, ref_logps, "k3")


def implicit_reward(logps: Tensor, ref_logps: Tensor, mask: Tensor, beta: float) -> Tensor:
    """DPO's reward of each completion: (B,)."""
    return beta * losses.sequence_logps(logps - ref_logps, mask)


def pair_weight(margin: Tensor, beta: float) -> Tensor:
    """How hard DPO pulls at each pair, whose implicit rewards differ by `margin`: the size of the loss's slope in the log-ratio."""
    return beta * torch.sigmoid(-margin)


def smoothed_pull(margin: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """The same with its sign, if that share of labels is expected to be wrong: above 0 it widens the log-ratio difference."""
    return beta * (torch.sigmoid(-margin) - label_smoothing)


def resting_points(p: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """The log-ratio differences at which DPO's and IPO's loss are lowest, for pairs labelled so with probability p: (B,) each."""
    return dpo_rest(p, beta), ipo_rest(p, beta)


def dpo_rest(p: Tensor, beta: float) -> Tensor:
    """Where sigmoid(beta x difference) is p."""
    return p.logit() / beta


def ipo_rest(p: Tensor, beta: float) -> Tensor:
    """The mean of the targets 1 / (2 beta) of a label and -1 / (2 beta) of a flipped one."""
    return (2 * p - 1) / (2 * beta)


def gold_efficiency(gold: float, reference_gold: float, frontier_gold: float) -> float:
    """The policy's gain over the reference, as a share of the frontier's gain at the same KL."""
    return (gold - reference_gold) / (frontier_gold - reference_gold)


def win_rate(gold: Tensor, reference_gold: Tensor) -> Tensor:
    """Share of all comparisons that the policy's answers win, ties counting half: (M,), (N,) -> ()."""
    return losses.accuracy(gold[:, None] - reference_gold[None, :])


def gold_at_kl(points: Sequence[tuple[float, float]], kl: float) -> float | None:
    """Gold at a KL, on straight lines between a method's (KL, gold) points; None where they do not reach."""
    for (kl0, gold0), (kl1, gold1) in pairwise(sorted(points)):
        if kl0 <= kl <= kl1:
            return gold0 + (gold1 - gold0) * (kl - kl0) / (kl1 - kl0)
    return None


def paired_interval(first: Tensor, second: Tensor, drawn: Tensor) -> Tensor:
    """Difference of two policies' mean gold, and its 95% interval over prompts: (P, M), (P, M), (R, P) -> (3,)."""
    difference = first.mean(-1) - second.mean(-1)  # (P,)
    ends = difference[drawn].mean(-1).quantile(torch.tensor([0.025, 0.975], dtype=difference.dtype, device=difference.device))
    return torch.cat([difference.mean()[None], ends])


def agreement(chosen_gold: Tensor, rejected_gold: Tensor) -> Tensor:
    """Share of labels that go with gold, of L labels whose two answers have these golds; equal golds count half: (L,), (L,) -> ()."""
    return losses.accuracy(chosen_gold - rejected_gold)


def preference_record(prompt: str, first: str, second: str, first_is_better: bool) -> dict:
    """One line of a preference file."""
    return {"prompt": prompt, "chosen": first if first_is_better else second, "rejected": second if first_is_better else first}


def comparisons_needed(rate: float) -> int:
    """The fewest comparisons after which a win rate's 95% interval, rate +- 1.96 standard errors, leaves out one half."""
    return math.floor(1.96**2 * rate * (1 - rate) / (rate - 0.5) ** 2) + 1


def shares_no_prompt(train: list, test: list) -> bool:
    """Whether two sets of records are safe to train on and to judge by."""
    return not {record["prompt"] for record in train} & {record["prompt"] for record in test}
