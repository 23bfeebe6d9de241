"""The answers to those exercises whose function is not one of `alignlab.losses`."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy
import torch
from torch import Tensor

from alignlab import exact, losses, world


def preference_probability(difference: float, temperature: float, flip: float) -> float:
    """P(an annotator prefers A), A better by `difference` in reward units."""
    return world.Annotator(temperature=temperature, flip=flip).probability(difference, 0.0)


def bayes_accuracy(probabilities: Tensor) -> Tensor:
    """The most that any judge can have on such labels: the mean of max(p, 1 - p)."""
    return torch.maximum(probabilities, 1 - probabilities).mean()


def ceiling_from_agreement(agreement: float) -> float:
    """The most that a judge can have on labels of equally hard pairs, of which two annotators give the same to that share."""
    return 0.5 + math.sqrt((agreement - 0.5) / 2)


def skill(accuracy: float, bayes: float) -> float:
    """Accuracy as a share of what can be had above a coin."""
    return (accuracy - 0.5) / (bayes - 0.5)


def calibration_table(margins: Tensor, bins: int) -> Tensor:
    """How often a judge is right when it is so sure: (N,) margins -> (bins, 3) of count, mean confidence and share right; 0 in empty rows.

    A judge's confidence in the answer that it prefers lies between 1/2 and 1; the bins are equally wide.
    """
    confidence, right = margins.abs().sigmoid(), (margins > 0).to(margins)
    index = ((confidence - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    counts = torch.zeros(bins, device=margins.device).index_add(0, index, torch.ones_like(margins))
    sums = [torch.zeros_like(counts).index_add(0, index, values) for values in (confidence, right)]
    return torch.stack([counts, *(total / counts.clamp(min=1) for total in sums)], -1)


def length_controlled_accuracy(margins: Tensor, longer: Tensor) -> Tensor:
    """The mean of two accuracies: on pairs whose chosen answer is the longer, and on those whose chosen is the shorter: (N,), (N,) -> ().

    `longer`: the words that the chosen answer has more than the rejected one. A judge that only counts words gets 1/2.
    """
    return (losses.accuracy(margins[longer > 0]) + losses.accuracy(margins[longer < 0])) / 2


def completion_mask(prompt_length: int, length: int, width: int) -> Tensor:
    """(width,) 1 on completion tokens, EOS included, of a row with that prompt and that length, right-padded."""
    positions = torch.arange(width)
    return ((positions >= prompt_length) & (positions < length)).long()


def prompt_mask(mask: Tensor) -> Tensor:
    """(B, T) 1 on the prompt tokens that are predicted, from the mask of the completions: all before these but the first."""
    prompt = (mask.cumsum(-1) == 0).long()
    prompt[:, 0] = 0
    return prompt


def best_imitation(counts: Tensor) -> tuple[Tensor, Tensor]:
    """The distribution over N answers with the lowest SFT loss where each was shown so often, and that loss: (N,) -> (N,), ()."""
    shares = counts / counts.sum()
    return shares, torch.special.entr(shares).sum()


def tilted(ref_probabilities: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """pi* over enumerated responses: (N,), (N,) -> (N,)."""
    return exact.optimal_logps(rewards, beta, ref_probabilities.log()).exp()


def kl(probabilities: Tensor, ref_probabilities: Tensor) -> Tensor:
    """KL(pi, pi_ref) of two distributions over N responses, nats."""
    return exact.enumerated_kl(probabilities.log(), ref_probabilities.log())


def best_value(ref_logps: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """The highest value that reward minus beta times KL can have: beta log Z, over N enumerated responses: (N,), (N,) -> ()."""
    return beta * torch.logsumexp(ref_logps + rewards / beta, -1)


def implied_difference(logps: Tensor, ref_logps: Tensor, beta: float, a, b) -> Tensor:
    """r(a) - r(b) of the rewards for which this policy is the optimum: (N,), (N,) log-probs, a and b places among the N."""
    log_ratio = logps - ref_logps
    return beta * (log_ratio[a] - log_ratio[b])


def best_of_n_value(scores: Tensor, values: Tensor, n: int) -> Tensor:
    """Mean value of the best by score of each n neighbours: (P, N) scores and values, N a multiple of n -> ()."""
    groups = scores.view(len(scores), -1, n)
    return values.view(groups.shape).gather(-1, groups.argmax(-1, keepdim=True)).mean()


def read_off(curve: list, kl: float) -> float:
    """The height of a curve, a list of [kl, gold], at that KL."""
    points = numpy.asarray(curve, dtype=float)
    return float(numpy.interp(kl, points[:, 0], points[:, 1]))


def efficiencies(kl: float, gold: float, start: float, frontier: list, reach: list) -> tuple[float, float]:
    """The reward model's efficiency and the optimiser's, of a policy with that KL and gold; curves are lists of [kl, gold]."""
    best, reached = read_off(frontier, kl), read_off(reach, kl)
    return (reached - start) / (best - start), (gold - start) / (reached - start)


def k3(logps: Tensor, ref_logps: Tensor) -> Tensor:
    """The estimator k3 of KL(pi, pi_ref), per token, from tokens drawn from pi."""
    return losses.kl_estimate(logps, ref_logps, "k3")


def stopped_share(logps: Tensor, old_logps: Tensor, advantages: Tensor, mask: Tensor, clip_epsilon: float) -> Tensor:
    """Share of the mask's tokens whose gradient PPO's clip sets to zero: (B, T) four times -> ()."""
    ratio = (logps - old_logps).exp()
    stopped = torch.where(advantages > 0, ratio > 1 + clip_epsilon, (advantages < 0) & (ratio < 1 - clip_epsilon))
    return losses.masked_mean(stopped.float(), mask)


def ppo_losses(
    scores: Tensor, logps: Tensor, old_logps: Tensor, ref_logps: Tensor, values: Tensor, old_values: Tensor, mask: Tensor,
    beta: float, lam: float, clip_epsilon: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The policy's and the value's loss on one batch of samples, with gamma 1: (B,), (B, T) six times, three numbers -> (), ()."""
    rewards = losses.shape_rewards(scores, old_logps, ref_logps, mask, beta)
    advantages, returns = losses.gae(rewards, old_values, mask, 1.0, lam)
    policy_loss = losses.clipped_policy_loss(logps, old_logps, losses.normalise(advantages, mask), mask, clip_epsilon)
    return policy_loss, losses.value_loss(values, old_values, returns, mask)


def estimator_errors(logps: Tensor, ref_logps: Tensor) -> tuple[Tensor, Tensor]:
    """Bias and standard deviation of one token's k1, k2 and k3, in nats, for tokens drawn from pi: (V,), (V,) -> (3,), (3,)."""
    each = torch.stack([losses.kl_estimate(logps, ref_logps, kind) for kind in ("k1", "k2", "k3")])  # (3, V)
    mean = (logps.exp() * each).sum(-1)
    spread = (logps.exp() * (each - mean[:, None]).square()).sum(-1).sqrt()
    return mean - exact.enumerated_kl(logps, ref_logps), spread


def overoptimised_from(proxy: Tensor, gold: Tensor, fall: float, window: int) -> int | None:
    """The iteration from which a policy gets better only in its judge's eyes, or None: (N,), (N,), a number, an integer -> an integer.

    Both curves are first smoothed: each point becomes the mean of `window` neighbouring iterations and stands for the middle one. Then
    gold must end at least `fall` below its peak, and the proxy must end above its value at that peak.
    """
    proxy, gold = (curve.unfold(0, window, 1).mean(-1) for curve in (proxy, gold))
    peak = int(gold.argmax())
    fooled = gold[peak] - gold[-1] >= fall and proxy[-1] > proxy[peak]
    return peak + window // 2 if fooled else None


def overoptimisation_fit(distance: Tensor, gain: Tensor, log: bool) -> Tensor:
    """a and b of R = d (a - b d), or with `log` of R = d (a - b ln d), with the least squared error in R: (..., K) twice -> (..., 2).

    Gao et al. 2210.10760; d > 0 is the square root of KL. Both forms are linear in a and b.
    """
    columns = torch.stack([distance, -distance * (distance.log() if log else distance)], -1)
    return torch.linalg.lstsq(columns, gain[..., None]).solution.squeeze(-1)


def fall_from_peak(gold: Tensor) -> Tensor:
    """Of each prompt gold at the last look minus gold at the peak, which the other half of the prompts chose: (K, P) -> (P,)."""
    return change_from_peak(gold, gold)


def change_from_peak(gold: Tensor, values: Tensor) -> Tensor:
    """Of each prompt values at the last look minus those at gold's peak, which the other half chose: (K, P), (K, P) -> (P,)."""
    change = torch.empty_like(values[0])
    for half in (0, 1):
        peak = gold[:, 1 - half :: 2].mean(-1).argmax()
        change[half::2] = values[-1, half::2] - values[peak, half::2]
    return change


def precision_recall(rang: Sequence[int | None], begins: Sequence[int], sure: Sequence[int | None]) -> tuple[float, float]:
    """Of the alarms in N runs the share in time, and of the falls the share that one told in time; 0 where there is none.

    rang, begins, sure: of each run the look at which the alarm rang, from which one is in time, and at which gold has surely fallen.
    """
    runs = list(zip(rang, begins, sure, strict=True))
    good = sum(at is not None and end is not None and start <= at <= end for at, start, end in runs)
    alarms, fallen = (sum(each is not None for each in column) for column in (rang, sure))
    return good / alarms if alarms else 0.0, good / fallen if fallen else 0.0


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


def scaled_layer(x: Tensor, weight: Tensor, a: Tensor, b: Tensor, alpha: float, strength: float) -> Tensor:
    """A linear layer with a LoRA adapter at a strength: (B, I), (O, I), (R, I), (O, R) -> (B, O)."""
    return x @ weight.T + strength * alpha / len(a) * (x @ a.T @ b.T)


def seed_interval(differences: Tensor, quantile: float) -> Tensor:
    """The mean over S trainings, and its interval by Student's t: (S,), t's quantile for S - 1 degrees of freedom -> (3,)."""
    mean, half = differences.mean(), quantile * differences.std() / len(differences) ** 0.5
    return torch.stack([mean, mean - half, mean + half])


def best_and_worst(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Columns of each prompt's best and worst answer: (P, K) -> (P,), (P,)."""
    return scores.argmax(-1), scores.argmin(-1)


def noise_ratio(gradients: Tensor) -> Tensor:
    """A minibatch's variance over the squared length of the true gradient, from M gradients: (M, D) -> ().

    The mean of M gradients is longer than the true one by a part of the noise, which is taken off (McCandlish et al. 1812.06162,
    appendix A.1).
    """
    variance = gradients.var(0).sum()
    return variance / (gradients.mean(0).square().sum() - variance / len(gradients))


def adds_up(rewards: Tensor, scores: Tensor, logps: Tensor, ref_logps: Tensor, mask: Tensor, beta: float) -> bool:
    """Whether each row's rewards, over its completion, add up to its score minus beta times its log-ratio, to 1e-4.

    Args:
        rewards, logps, ref_logps, mask: (B, T).
        scores: (B,).
    """
    paid = losses.masked(rewards, mask).sum(-1)
    owed = scores - beta * losses.masked(logps - ref_logps, mask).sum(-1)
    return bool((paid - owed).abs().max() < 1e-4)


def departure(run: Tensor, healthy: Tensor, floor: float) -> Tensor:
    """How far a run's level lies from those of S healthy runs, in their standard deviations: (N,), (S, N) -> ().

    A level is the mean over the last third of the steps, at least one. The standard deviation is that of the S levels, over S - 1,
    and reckoned as at least `floor`.
    """
    late = max(1, run.shape[-1] // 3)
    level, levels = run[-late:].mean(), healthy[:, -late:].mean(-1)
    return (level - levels.mean()) / levels.std().clamp(min=floor)


def ches(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Length-normalised CHES of a pair, from the hidden states that predict its answers' tokens: (T, D), (U, D) -> ().

    How far the mean state of the rejected answer reaches along that of the chosen one, less how far the latter does itself
    (Razin et al. 2410.08847, section 5).
    """
    return chosen.mean(0) @ (rejected.mean(0) - chosen.mean(0))
