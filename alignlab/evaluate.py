"""The judge: every policy as a point on the reward-KL plane, beside the best that any policy can do.

All policies answer the same P prompts under the same sampling rules. Every measured quantity is [mean, low, high], with a
95% interval from a bootstrap over prompts in which the policy, its KL and the curves are resampled together.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy
import torch
from torch import Tensor

from alignlab import exact
from alignlab.data import Example, collate, encode_all
from alignlab.encoding import prompt_ids
from alignlab.errors import TrainingError
from alignlab.losses import sequence_logps
from alignlab.models import Policy, RewardModel
from alignlab.rollout import Completions, Score, sample, score_completions
from alignlab.talks import Text

RESAMPLES = 1000  # of the bootstrap
LEAST_SIZE = 4  # effective samples, fewer of which are too few for one prompt (see `exact.Frontier.shown`)
LEAST_KL = 0.5  # nats, below which an efficiency would be a ratio of two noises
DISTINCT_OF = 16  # answers per prompt; more of them share more n-grams
BEST_OF = (1, 2, 4, 8, 16, 32, 64)

Measured = list[float]  # [mean, low, high]


class Answers(NamedTuple):
    """What one policy wrote: P prompts, M answers each."""

    prompts: list[Text]
    texts: list[list[str]]  # (P, M)
    gold: Tensor  # (P, M) judged reward
    scores: Tensor  # (P, M) the reward model's score
    kl: Tensor  # (P, M) exact KL to the reference, per token and summed over the completion, nats
    length: Tensor  # (P, M) tokens, EOS included
    stopped: Tensor  # (P, M) 1 where it ended by itself


def answer(
    policy: Policy,
    prompts: Sequence[Text],
    count: int,
    gold: Score | None,
    score: Score | None,
    *,
    max_new_tokens: int,
    temperature: float,
    missing_eos_score: float,
    seed: int,
    reference: bool = False,
    rows: int = 1024,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> Answers:
    """Have a policy (or, with `reference`, the model it started from) answer each prompt `count` times, and judge it.

    Args:
        gold: the judge, or None where nothing better than `score` is known: then that judges, missing-EOS rule included.
        score: the reward model under study, or None; its column is 0 then.
        missing_eos_score: what replaces the reward model's score of an answer that did not end, as in PPO.
        rows: answers in memory at once.
        watch: called with how many answers are done, of how many.
    """
    rng = torch.Generator(policy.device).manual_seed(seed)
    asked = [prompt for prompt in prompts for _ in range(count)]
    columns, texts = [], []
    for first in range(0, len(asked), rows):
        part: Completions = sample(policy, asked[first : first + rows], max_new_tokens, rng, temperature, reference)
        blank = torch.zeros(len(part))
        scores = blank if score is None else score_completions(score, part, missing_eos_score).cpu()
        columns.append((
            scores if gold is None else gold(part).cpu(),
            scores,
            blank if reference else policy.measure(part.batch, temperature).kl.sum(-1).cpu(),
            part.lengths.float().cpu(),
            part.stopped.float().cpu(),
        ))  # fmt: skip
        texts += part.texts
        watch(len(texts), len(asked))
    stacked = [torch.cat(column).view(len(prompts), count) for column in zip(*columns, strict=True)]
    return Answers(list(prompts), [texts[i : i + count] for i in range(0, len(texts), count)], *stacked)


class Bootstrap:
    """P prompts and R resamplings of them, the same for all that is measured: so differences between policies are paired."""

    def __init__(self, prompts: int, seed: int = 0):
        rng = torch.Generator().manual_seed(seed)
        drawn = torch.randint(prompts, (RESAMPLES, prompts), generator=rng)
        resampled = torch.zeros(RESAMPLES, prompts, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
        self.counts = torch.cat([torch.ones(1, prompts, dtype=torch.float64), resampled])  # (R + 1, P); row 0 is the data itself

    def mean(self, values: Tensor) -> Tensor:
        """Mean of (P,) or (P, M) values under each resampling of the prompts: (R + 1,)."""
        per_prompt = values.double().flatten(1).mean(-1) if values.dim() > 1 else values.double()
        return self.counts @ per_prompt / self.counts.sum(-1)

    def measure(self, values: Tensor) -> Measured:
        """[mean, low, high] of (P,) or (P, M) values.

        Raises:
            TrainingError: some of the values are no numbers.
        """
        measured = interval(self.mean(values))
        if measured is None:
            raise TrainingError("gold, scores or KL of some answers are not finite; lower the learning rate, or check the gold reward")
        return measured


class Plane(Bootstrap):
    """The reward-KL plane of one reference: curves from its samples, and policies measured against them."""

    def __init__(self, reference: Answers, seed: int = 0):
        """`reference`: many answers per prompt (512 or more), since every curve is made of them."""
        super().__init__(len(reference.prompts), seed)
        self.reference = reference
        self.frontier = exact.frontier(reference.gold)
        self.reach = exact.frontier(reference.scores, reference.gold)
        self.sd = reference.gold.std().item()

    def gain_on(self, curve: exact.Frontier, kl: Tensor) -> Tensor:
        """Gold above the reference's on a curve at KLs (R + 1,); NaN beyond what the samples can show."""
        shown = curve.shown(LEAST_SIZE)
        x, y = (part[:, :shown] for part in curve.curve(self.counts))
        return interpolate(kl, x, y) - self.mean(self.reference.gold)

    def efficiencies(self, answers: Answers) -> dict[str, Measured | None]:
        """Gold efficiency = reward-model efficiency x optimiser efficiency; None where they do not apply."""
        kl, gain = self.mean(answers.kl), self.mean(answers.gold) - self.mean(self.reference.gold)
        if kl[0] < LEAST_KL:
            return dict.fromkeys(("gold_efficiency", "reward_model_efficiency", "optimiser_efficiency"))
        best, reached = self.gain_on(self.frontier, kl), self.gain_on(self.reach, kl)
        return {
            "gold_efficiency": interval(gain / best),
            "reward_model_efficiency": interval(reached / best),
            "optimiser_efficiency": interval(gain / reached),
        }

    def win_rate(self, gold: Tensor) -> Tensor:
        """Share of a policy's answers (P, M) that beat the reference's to the same prompt, ties counting half: (P, M)."""
        ranked = self.reference.gold.sort(-1).values  # (P, N)
        below = torch.searchsorted(ranked, gold.contiguous())
        at_most = torch.searchsorted(ranked, gold.contiguous(), right=True)
        return (below + at_most) / 2 / ranked.shape[-1]

    def policy(self, answers: Answers) -> dict:
        """One policy's row of the comparison."""
        return {
            **self._row(answers, self.win_rate(answers.gold)),
            "distinct_2": self.measure(torch.tensor([distinct(texts[:DISTINCT_OF], 2) for texts in answers.texts])),
        }

    def best_of(self, n: int) -> dict:
        """The row of best-of-n by the reward model, worked out from the reference's samples; KL is the bound of `exact`."""
        ours, kl = self.reference, torch.full((len(self.reference.prompts),), exact.best_of_n_kl(n))
        gold, length, stopped, wins = (
            exact.best_of_n(ours.scores, values, n) for values in (ours.gold, ours.length, ours.stopped, self.win_rate(ours.gold))
        )
        return {**self._row(Answers(ours.prompts, [], gold, ours.scores, kl, length, stopped), wins), "distinct_2": None}

    def _row(self, answers: Answers, wins: Tensor) -> dict:
        """What every row holds, from values (P,) or (P, M)."""
        return {
            "gold": self.measure(answers.gold),
            "kl": self.measure(answers.kl),
            "win_rate": self.measure(wins),
            "gain_sd": interval((self.mean(answers.gold) - self.mean(self.reference.gold)) / self.sd),
            **self.efficiencies(answers),
            "length": self.measure(answers.length),
            "stop_rate": self.measure(answers.stopped),
        }

    def curves(self) -> dict[str, list]:
        """Points [kl, gold] of each curve."""
        ones, shown = self.counts[0], self.frontier.shown(LEAST_SIZE)
        return {
            "frontier": _points(*self.frontier.curve(ones), shown),
            "frontier_pooled": _points(*self.frontier.pooled(ones), shown),
            "reach": _points(*self.reach.curve(ones), self.reach.shown(LEAST_SIZE)),
            "best_of_n": [
                [exact.best_of_n_kl(n), self.measure(exact.best_of_n(self.reference.scores, self.reference.gold, n))[0]]
                for n in BEST_OF
                if n <= self.reference.gold.shape[1] // 4
            ],
        }

    def alarm(self, name: str, answers: Answers) -> str | None:
        """A message where a policy lies above the pooled frontier beyond its interval: nothing can, so something is wrong."""
        x, y = self.frontier.pooled(self.counts)
        above = interval(self.mean(answers.gold) - interpolate(self.mean(answers.kl), x, y))
        if above is not None and above[1] > 0:  # None beyond the curve, where there is no telling
            return f"{name} lies {above[0]:.2f} above the best that any policy can do at its KL: something is measured wrongly"
        return None


def interval(draws: Tensor) -> Measured | None:
    """[value, low, high]: the first draw, and the middle 95% of the others; None where it, or too many of them, are no numbers."""
    if not torch.isfinite(draws[0]) or torch.isfinite(draws[1:]).double().mean() < 0.975:
        return None
    low, high = torch.nanquantile(draws[1:], torch.tensor([0.025, 0.975], dtype=draws.dtype)).tolist()
    return [draws[0].item(), low, high]


STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)  # 97.5% quantiles of Student's t, for 1 to 9 degrees of freedom


def over_seeds(draws: Tensor) -> Measured | None:
    """[mean, low, high] over S trainings of a quantity whose bootstrap over prompts is (S, R + 1): 95%, of seeds and prompts together.

    The variance is that of a mean of S trainings plus the bootstrap's of that mean. A few trainings tell little of how much trainings
    differ, while there are many prompts, so the degrees of freedom are Satterthwaite's: S - 1 where trainings make most of the variance,
    more where prompts do. S is 2 to 10. None where a value is no number.
    """
    found = interval(draws.mean(0))
    if found is None or not torch.isfinite(draws[:, 0]).all():
        return None
    kept = draws.mean(0)[1:]
    of_seeds, of_prompts = (draws[:, 0].var() / len(draws)).item(), kept[torch.isfinite(kept)].var().item()
    share = of_seeds / max(of_seeds + of_prompts, 1e-300)
    wide = student(share**2 / (len(draws) - 1)) * (of_seeds + of_prompts) ** 0.5
    return [found[0], found[0] - wide, found[0] + wide]


def student(inverse: float) -> float:
    """The 97.5% quantile of Student's t by 1 / degrees of freedom, 0 to 1; between the tabled ones on a straight line.

    >>> student(1 / 2), student(0.0)
    (4.303, 1.96)
    """
    return float(numpy.interp(inverse, [0.0, *(1 / freedom for freedom in range(9, 0, -1))], [1.96, *STUDENT[::-1]]))


def interpolate(at: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Linear interpolation, row by row: `at` (R,), rising `x` and `y` (R, K) -> (R,); NaN outside, and where K < 2."""
    if x.shape[1] < 2:
        return torch.full_like(at, torch.nan)
    right = torch.searchsorted(x.contiguous(), at[:, None]).clamp(1, x.shape[1] - 1)
    (x0, x1), (y0, y1) = ((part.gather(1, right - 1), part.gather(1, right)) for part in (x, y))
    value = (y0 + (y1 - y0) * (at[:, None] - x0) / (x1 - x0).clamp(min=1e-12)).squeeze(1)
    return torch.where((at >= x[:, 0]) & (at <= x[:, -1]), value, torch.nan)


def distinct(texts: Sequence[str], n: int) -> float:
    """Share of different n-grams of words among all n-grams of the texts."""
    grams = Counter(tuple(words[i : i + n]) for text in texts for words in [text.split()] for i in range(len(words) - n + 1))
    return len(grams) / max(grams.total(), 1)


def _points(x: Tensor, y: Tensor, shown: int) -> list[list[float]]:
    return torch.stack([x, y], -1)[:shown].tolist()


# ---------------------------------------------------------------------------------------------- a space small enough to enumerate


@torch.no_grad()
def filling_logps(policy: Policy, prompt: Text, beginning: str, fillings: Sequence[tuple[str, ...]], reference: bool = False) -> Tensor:
    """Log-probability of each filling of the blanks after `beginning`, among the given ones alone: (N,), nats, float64.

    With these and their rewards, `exact.tilt` gives the optimum without any sampling.
    """
    tokenizer = policy.tokenizer
    start = prompt_ids(tokenizer, prompt) + tokenizer(beginning, add_special_tokens=False)["input_ids"]
    ends = [tokenizer("".join(f" {word}" for word in filling), add_special_tokens=False)["input_ids"] for filling in fillings]
    batch = collate([Example(start, end) for end in ends], tokenizer.pad_token_id, policy.device)
    scored = policy.reference_logps(batch) if reference else policy.measure(batch).logps
    return sequence_logps(scored, batch.mask).cpu().double().log_softmax(0)  # an Apple GPU knows no float64


def place(logps: Tensor, ref_logps: Tensor, rewards: Tensor) -> tuple[float, float]:
    """Exact (KL to the reference in nats, expected reward) of a distribution over N enumerated responses, each argument (N,)."""
    logps, ref_logps = logps.log_softmax(-1), ref_logps.log_softmax(-1)
    return exact.enumerated_kl(logps, ref_logps).item(), (logps.exp() * rewards).sum().item()


# ---------------------------------------------------------------------------------------------- the reward model


def _silent(words: str) -> None:
    """What was left out of these pairs was said before training."""


@torch.no_grad()
def pair_margins(
    reward_model: RewardModel,
    pairs: Sequence[dict],
    max_length: int,
    rows: int = 128,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:
    """score(chosen) - score(rejected) of each pair: (pairs,). `watch` is called with how many pairs are done, of how many."""
    examples = encode_all(reward_model.tokenizer, pairs, ["chosen", "rejected"], min(max_length, reward_model.base.max_length), say=_silent)
    margins = []
    for first in range(0, len(examples), rows):
        chosen, rejected = zip(*examples[first : first + rows], strict=True)
        scores = reward_model.score_all(collate(chosen + rejected, reward_model.tokenizer.pad_token_id, reward_model.device))
        margins.append((scores[: len(chosen)] - scores[len(chosen) :]).cpu())
        watch(min(first + rows, len(examples)), len(examples))
    return torch.cat(margins)


def judge_reward_model(margins: Tensor, certainty: Tensor | None, seed: int = 0) -> dict:
    """How good a reward model is on held-out pairs.

    Args:
        margins: (pairs,) score(chosen) - score(rejected).
        certainty: (pairs,) max(p, 1 - p) of the annotator on each pair, whose mean is the Bayes accuracy; None where unknown.

    Returns:
        accuracy; bayes_accuracy, the most that any judge can have on such labels; skill = (accuracy - 1/2) / (Bayes - 1/2), 1
        for a perfect judge; calibration: a list of {predicted, observed, pairs} in ten bins of predicted probability.
    """
    rng = torch.Generator().manual_seed(seed)
    drawn = torch.cat([torch.arange(len(margins))[None], torch.randint(len(margins), (RESAMPLES, len(margins)), generator=rng)])
    right = ((margins > 0).double() + (margins == 0).double() / 2)[drawn].mean(-1)
    result = {
        "pairs": len(margins),
        "accuracy": interval(right),
        "bayes_accuracy": None,
        "skill": None,
        "calibration": calibration(margins),
    }
    if certainty is not None:
        ceiling = certainty.double()[drawn].mean(-1)
        result |= {"bayes_accuracy": interval(ceiling), "skill": interval((right - 0.5) / (ceiling - 0.5))}
    return result


def calibration(margins: Tensor, bins: int = 10) -> list[dict]:
    """Reliability: each pair counts in both orders, so that the curve is symmetric about one half."""
    predicted = torch.cat([margins, -margins]).sigmoid()
    won = torch.cat([torch.ones_like(margins), torch.zeros_like(margins)])
    index = (predicted * bins).long().clamp(max=bins - 1)
    return [
        {"predicted": predicted[index == i].mean().item(), "observed": won[index == i].mean().item(), "pairs": int((index == i).sum())}
        for i in range(bins) if (index == i).any()
    ]  # fmt: skip
