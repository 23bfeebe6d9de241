"""Likelihood displacement as the lab shows it: the recorded points as numbers with intervals, and their figures."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from alignlab import dial, displacement, evaluate, losses, ppo
from alignlab.lab import sweeps
from alignlab.lab.page import View
from alignlab.lab.show import strip
from alignlab.lab.view import BLUE, INK, VERMILION, plain_axes
from alignlab.lexicon import DETAILS, LEAVE, NEGATIVE, NEGATIVE_VERBS, POSITIVE, POSITIVE_VERBS, VAGUE
from alignlab.models import Policy, ValueHead
from alignlab.rollout import Completions, Score, score_completions

SLICES = {
    "any": "any pairs", "far": "least alike", "close": "most alike", "low ches": "lowest CHES", "high ches": "highest CHES",
    "edited": "near-duplicates",
}  # fmt: skip
KEPT = {
    "both": "KTO, both answers", "one": "KTO, one answer a pair", "few good": "KTO, few good answers", "few bad": "KTO, few bad answers",
}  # fmt: skip

TITLES = {name: loss.title for name, loss in displacement.LOSSES.items()} | {"kto": "KTO"}

Named = Mapping[str, Sequence[dict]]  # points of one kind, a seed each, by what a figure calls them
Quantity = Callable[[dict], Tensor]  # a point's result -> (P,), a number for each held-out pair or prompt

# ---------------------------------------------------------------------------------------------- numbers over pairs and seeds


def drawn(points: Sequence[dict], quantity: Quantity) -> Tensor:
    """The mean of a quantity under resamplings of its pairs or prompts, the same for all points: (points, R + 1)."""
    values = [quantity(point["result"]) for point in points]
    resampled = evaluate.Bootstrap(len(values[0]))
    return torch.stack([resampled.mean(each) for each in values])


def measured(draws: Tensor) -> evaluate.Measured | None:
    """[mean, low, high] of (S, R + 1) draws: over seeds, and over pairs or prompts; of a single seed, over these alone."""
    return evaluate.over_seeds(draws) if len(draws) > 1 else evaluate.interval(draws[0])


def held_out(side: str) -> Quantity:
    """The log-ratio of each held-out pair's "chosen" or "rejected" answer, nats."""
    return lambda result: torch.tensor(result["held_out"][side], dtype=torch.float64)


def margin(result: dict) -> Tensor:
    """The log-ratio difference of each held-out pair, nats."""
    return held_out("chosen")(result) - held_out("rejected")(result)


def written(key: str, less_reference: bool = False) -> Quantity:
    """What a policy writes, a mean a prompt: broken, unseen, surprise, length or stopped; or what was added to the SFT model's."""

    def quantity(result: dict) -> Tensor:
        values = torch.tensor(result["answers"][key], dtype=torch.float64)
        return values - torch.tensor(result["reference_answers"][key], dtype=torch.float64) if less_reference else values

    return quantity


def trained(key: str) -> Quantity:
    """Gold, kl or score of a policy as trained, a mean a prompt."""
    return lambda result: torch.tensor(next(row[key] for row in result["path"] if row["strength"] == 1), dtype=torch.float64)


def gained(result: dict) -> Tensor:
    """Gold of a policy as trained less the SFT model's, a mean a prompt."""
    return trained("gold")(result) - torch.tensor(result["reference"]["gold"], dtype=torch.float64)


def own(result: dict) -> Tensor:
    """The log-ratio of the SFT model's own answers, a mean a prompt, nats; its mean is minus KL(SFT model, policy)."""
    return torch.tensor(result["own"], dtype=torch.float64)


def lost_per_nat(points: Sequence[dict]) -> Tensor:
    """By how much the chosen answer's log-ratio changed for each nat of margin gained: (points, R + 1); below 0, it became less likely."""
    return drawn(points, held_out("chosen")) / drawn(points, margin)


def length_at(points: Sequence[dict], kl: float) -> Tensor:
    """Tokens of an answer less the SFT model's where each point's path reaches that KL: (points, R + 1).

    Of a path's lengths only the mean over prompts was recorded, so the interval is over seeds and, through KL, over prompts.
    """
    found = []
    for point in points:
        usual = sum(point["result"]["reference_answers"]["length"]) / len(point["result"]["reference_answers"]["length"])
        way = {s: each._replace(gold=each.length - usual if s else 0 * each.length) for s, each in sweeps.path(point).items()}
        found.append(dial.gold_at(evaluate.Bootstrap(len(way[0.0].gold)), way, kl))
    return torch.stack(found)


def gain_at(points: Sequence[dict], kl: float) -> Tensor:
    """Gold less the SFT model's where each point's path reaches that KL: (points, R + 1)."""
    return sweeps.gold_at(points, kl) - drawn(points, lambda result: torch.tensor(result["reference"]["gold"], dtype=torch.float64))


def rank_correlation(points: Sequence[dict], feature: str) -> Tensor:
    """Spearman's correlation of a feature of a pair, "alike" or "ches", with its chosen answer's log-ratio: (points, R + 1).

    A resampled pair counts as often as it was drawn; ranks are those among all pairs.
    """
    found = []
    for point in points:
        kept = point["result"]["held_out"]
        x, y = (torch.tensor(kept[key], dtype=torch.float64).argsort().argsort().double() for key in (feature, "chosen"))
        resampled = evaluate.Bootstrap(len(x))
        mean = resampled.mean
        spread = (mean(x * x) - mean(x) ** 2) * (mean(y * y) - mean(y) ** 2)
        found.append((mean(x * y) - mean(x) * mean(y)) / spread.sqrt())
    return torch.stack(found)


# ---------------------------------------------------------------------------------------------- words


def told(value: evaluate.Measured | None, form: str = "+z.2f") -> str:
    """A number and its 95% interval as text."""
    return "unknown" if value is None else f"{value[0]:{form}} [{value[1]:{form}}, {value[2]:{form}}]"


def table(named: Named, columns: Mapping[str, Callable[[Sequence[dict]], Tensor]], form: str = "+z.2f") -> str:
    """A line a kind of point, a column a quantity: each a mean with its 95% interval.

    Args:
        columns: points -> (points, R + 1), by what the column is called.
    """
    rows = {name: [told(measured(column(points)), form) for column in columns.values()] for name, points in named.items()}
    first = max(map(len, rows))
    widths = [max(len(head), *(len(row[place]) for row in rows.values())) for place, head in enumerate(columns)]
    lines = ["  ".join([" " * first, *(f"{head:>{width}}" for head, width in zip(columns, widths, strict=True))])]
    lines += ["  ".join([f"{name:{first}}", *(f"{cell:>{w}}" for cell, w in zip(row, widths, strict=True))]) for name, row in rows.items()]
    return "\n".join(lines)


def compared(one: Tensor, other: Tensor, more: str, less: str) -> str:
    """In words, whether a quantity (S, R + 1) is larger for one kind of point than for the other, or the interval holds 0."""
    value = measured(one - other)
    if value is None:
        return "no number: not comparable"
    verdict = more if value[1] > 0 else less if value[2] < 0 else "not decided by these runs"
    return f"difference {told(value)}: {verdict}"


# ---------------------------------------------------------------------------------------------- figures


def courses_figure(named: Named) -> Figure:
    """The log-ratios of chosen and rejected answers while the policies learned: a panel a kind of point, a thin line a seed."""
    figure = Figure(figsize=(3.2 * len(named), 3.4), layout="constrained")
    panels = figure.subplots(1, len(named), squeeze=False)[0]
    for axes, (name, points) in zip(panels, named.items(), strict=True):
        for side, colour, dash in (("chosen", BLUE, "-"), ("rejected", VERMILION, "--")):
            courses = [[look[side] for look in point["result"]["course"]] for point in points]
            steps = [look["step"] for look in points[0]["result"]["course"]]
            for course in courses:
                axes.plot(steps, course, color=colour, ls=dash, lw=0.8, alpha=0.5)
            axes.plot(steps, torch.tensor(courses).mean(0).tolist(), color=colour, ls=dash, lw=2.2, label=side)
        axes.axhline(0, color=INK, lw=0.8)
        axes.set_title(name, loc="left", fontsize=10, fontweight="bold", color=INK)
        axes.set_xlabel("step", fontsize=9)
        plain_axes(axes)
    panels[0].set_ylabel("log pi / pi_ref, nats", fontsize=9)
    panels[0].legend(frameon=False, fontsize=9)
    ends = "; ".join(
        f"{name}: chosen {_mean(points, held_out('chosen')):+.1f}, rejected {_mean(points, held_out('rejected')):+.1f}"
        for name, points in named.items()
    )
    figure.set_label(f"Log-ratios of held-out chosen and rejected answers over the steps, each panel on its own scale. At the end {ends}.")
    return figure


def _mean(points: Sequence[dict], quantity: Quantity) -> float:
    return drawn(points, quantity)[:, 0].mean().item()


class Column(NamedTuple):
    """One panel of `rows_figure`."""

    title: str
    draws: Callable[[Sequence[dict]], Tensor]  # points -> (points, R + 1)
    line: float | None = 0.0  # what a vertical line marks: no change, or the SFT model's value


def rows_figure(named: Named, columns: Sequence[Column], words: str) -> Figure:
    """A row a kind of point, a panel a quantity: means with 95% intervals."""
    figure = Figure(figsize=(1.8 + 1.65 * len(columns), 1.0 + 0.4 * len(named)), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    parts = []
    for axes, column in zip(panels, columns, strict=True):
        values = {name: measured(column.draws(points)) for name, points in named.items()}
        _draw_rows(axes, values, column)
        parts.append(f"{column.title}: " + ", ".join(f"{name} {told(value)}" for name, value in values.items()))
    panels[0].set_yticks(range(len(named)), list(named))
    panels[0].set_ylim(len(named) - 0.5, -0.5)
    figure.set_label(f"{words} {'; '.join(parts)}.")
    return figure


def _draw_rows(axes: Axes, values: Mapping[str, evaluate.Measured | None], column: Column) -> None:
    if column.line is not None:
        axes.axvline(column.line, color=INK, lw=1, ls=":")
    for place, value in enumerate(values.values()):
        if value is not None:
            bounds = [[max(value[0] - value[1], 0)], [max(value[2] - value[0], 0)]]
            axes.errorbar(value[0], place, xerr=bounds, color=BLUE, marker="o", ms=6, capsize=3, lw=1.8)
    axes.set_title(column.title, loc="left", fontsize=9, color=INK)
    axes.margins(x=0.12)
    plain_axes(axes)
    axes.locator_params(axis="x", nbins=4)


# ---------------------------------------------------------------------------------------------- one answer, two credits


class Credits(NamedTuple):
    """What two methods credit to each token of the same B answers, (B, T) each, 0 outside completions."""

    dpo: Tensor  # beta log(pi / pi_ref) of DPO's policy: its implicit reward, token by token
    ppo: Tensor  # PPO's advantages, by GAE, before normalisation
    mask: Tensor


KINDS = ("praise", "blame", "thing", "vague", "other")  # of tokens


@torch.no_grad()
def credits(
    dpo_policy: Policy, beta: float, ppo_policy: Policy, value_head: ValueHead, score: Score, config: ppo.Config, samples: Completions
) -> Credits:
    """Both methods' credits for the same sampled answers.

    Args:
        beta: DPO's. config: PPO's, with its beta, gamma, lam and missing_eos_score.
        score: what PPO was paid by.
    """
    mask = samples.batch.mask
    by_dpo, by_ppo = dpo_policy.measure(samples.batch), ppo_policy.measure(samples.batch)
    scores = score_completions(score, samples, config.missing_eos_score)
    rewards = losses.shape_rewards(scores, by_ppo.logps, by_ppo.ref_logps, mask, config.beta)
    advantages, _ = losses.gae(rewards, losses.masked(value_head(by_ppo.hidden), mask), mask, config.gamma, config.lam)
    return Credits(beta * (by_dpo.logps - by_dpo.ref_logps), advantages, mask)


def credit_strip(credit: Credits, samples: Completions, tokenizer, row: int) -> View:
    """One answer, token by token, with both credits under it."""
    here = credit.mask[row].bool()
    tokens = tokenizer.batch_decode([[token] for token in samples.batch.ids[row][here].tolist()])
    note = "DPO: beta log pi/pi_ref of the token, nats times beta. PPO: advantage of the token by GAE, in units of the score."
    return strip(tokens, {"DPO": credit.dpo[row][here].tolist(), "PPO": credit.ppo[row][here].tolist()}, note)


_KINDS = {
    "praise": {word for pool in (POSITIVE, POSITIVE_VERBS, LEAVE[+1]) for word in pool},
    "blame": {word for pool in (NEGATIVE, NEGATIVE_VERBS, LEAVE[-1]) for word in pool},
    "thing": {detail.split()[-1] for detail in DETAILS},
    "vague": {phrase.split()[-1] for phrase in VAGUE},
}


def kind_of_token(token: str) -> str:
    """What a token is to the gold reward: praise, blame, thing (the noun of a concrete detail), vague, or other."""
    word = token.strip().lower()
    return next((kind for kind, words in _KINDS.items() if word in words), "other")


class Paid(NamedTuple):
    """What the tokens of a kind are credited, on average."""

    number: int
    dpo: evaluate.Measured
    ppo: evaluate.Measured


def by_kind(credit: Credits, samples: Completions, tokenizer) -> dict[str, Paid]:
    """For each kind of token: how many there are, and the mean credit of one by DPO and by PPO, with 95% intervals over answers."""
    ids = samples.batch.ids
    named = torch.tensor([KINDS.index(kind_of_token(text)) for text in tokenizer.batch_decode([[i] for i in range(len(tokenizer))])])
    resampled, found = evaluate.Bootstrap(len(ids)), {}
    for number, kind in enumerate(KINDS):
        here = (named[ids] == number) & credit.mask.bool()
        counts = resampled.mean(here.sum(-1))
        one, other = (evaluate.interval(resampled.mean(losses.masked(each, here).sum(-1)) / counts) for each in (credit.dpo, credit.ppo))
        if one and other:
            found[kind] = Paid(int(here.sum()), one, other)
    return found


def agreement(credit: Credits) -> evaluate.Measured:
    """Correlation of the two credits over the tokens of an answer, whose mean is taken off both; with a 95% interval over answers."""
    mask = credit.mask.double()
    one, other = (losses.masked(v.double() - (v * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True), mask) for v in credit[:2])
    resampled = evaluate.Bootstrap(len(mask))
    both, first, second = (resampled.mean(product.sum(-1)) for product in (one * other, one * one, other * other))
    return evaluate.interval(both / (first * second).sqrt()) or [0.0, 0.0, 0.0]


def credits_figure(kinds: Mapping[str, Paid]) -> Figure:
    """The mean credit of a token by its kind: DPO's on the left, PPO's on the right, each on a scale of its own."""
    figure = Figure(figsize=(7.6, 3.0), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    titles = {"dpo": "DPO: beta log pi / pi_ref", "ppo": "PPO: advantage"}
    for axes, (key, title), colour in zip(panels, titles.items(), (BLUE, VERMILION), strict=True):
        axes.axvline(0, color=INK, lw=1)
        for height, kind in enumerate(kinds.values()):
            mean, low, high = getattr(kind, key)
            axes.errorbar(mean, height, xerr=[[mean - low], [high - mean]], color=colour, marker="o", ms=6, capsize=3, lw=1.8)
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
        axes.set_xlabel("mean credit of a token", fontsize=9)
        axes.margins(x=0.12)
        plain_axes(axes)
    panels[0].set_yticks(range(len(kinds)), [f"{name} ({kind.number:,})" for name, kind in kinds.items()])
    panels[0].set_ylim(len(kinds) - 0.5, -0.5)
    words = "; ".join(f"{name}: DPO {told(kind.dpo)}, PPO {told(kind.ppo)}" for name, kind in kinds.items())
    figure.set_label(f"Mean credit of a token, by its kind, with 95% intervals over answers. {words}.")
    return figure
