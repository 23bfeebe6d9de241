"""Likelihood displacement as the lab shows it: the recorded points as numbers with intervals, and their figures."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from alignlab import dial, displacement, evaluate, losses, ppo
from alignlab.lab import sweeps
from alignlab.lab.evidence import told
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

FORM = "+z.2f"  # of numbers: -0.00 is written as +0.00
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


def table(named: Named, columns: Mapping[str, Callable[[Sequence[dict]], Tensor]], form: str = FORM) -> str:
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
    return f"difference {told(value, FORM)}: {verdict}"


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


def rows_figure(named: Named, columns: Sequence[Column], words: str) -> Figure:
    """A row a kind of point, a panel a quantity: means with 95% intervals; a line at 0."""
    figure = Figure(figsize=(1.8 + 1.65 * len(columns), 1.0 + 0.4 * len(named)), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    parts = []
    for axes, column in zip(panels, columns, strict=True):
        values = {name: measured(column.draws(points)) for name, points in named.items()}
        _draw_rows(axes, values, column.title)
        parts.append(f"{column.title}: " + ", ".join(f"{name} {told(value, FORM)}" for name, value in values.items()))
    panels[0].set_yticks(range(len(named)), list(named))
    panels[0].set_ylim(len(named) - 0.5, -0.5)
    figure.set_label(f"{words} {'; '.join(parts)}.")
    return figure


def _draw_rows(axes: Axes, values: Mapping[str, evaluate.Measured | None], title: str, line: float = 0.0) -> None:
    axes.axvline(line, color=INK, lw=1, ls=":")
    for place, value in enumerate(values.values()):
        if value is not None:
            bounds = [[max(value[0] - value[1], 0)], [max(value[2] - value[0], 0)]]
            axes.errorbar(value[0], place, xerr=bounds, color=BLUE, marker="o", ms=6, capsize=3, lw=1.8)
    axes.set_title(title, loc="left", fontsize=9, color=INK)
    axes.margins(x=0.12)
    plain_axes(axes)
    axes.locator_params(axis="x", nbins=4)


# ---------------------------------------------------------------------------------------------- one answer, two credits


class Credits(NamedTuple):
    """What two methods credit to each token of the same B answers, (B, T) each, 0 outside completions."""

    dpo: Tensor  # beta log(pi / pi_ref) of DPO's policy: its implicit reward, token by token
    ppo: Tensor  # PPO's advantages, by GAE, before normalisation
    surprise: Tensor  # the same for lambda 0: what a token changed in PPO's value, less the price of its KL
    mask: Tensor


ROWS = {"dpo": "DPO: implicit reward", "ppo": "PPO: advantage", "surprise": "PPO: change of value"}
KINDS = ("first word", "praise", "blame", "thing", "vague", "other")  # of tokens


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
    values = losses.masked(value_head(by_ppo.hidden), mask)
    advantages, surprises = (losses.gae(rewards, values, mask, config.gamma, lam)[0] for lam in (config.lam, 0.0))
    return Credits(beta * (by_dpo.logps - by_dpo.ref_logps), advantages, surprises, mask)


def credit_strip(credit: Credits, samples: Completions, tokenizer, row: int) -> View:
    """One answer, token by token, with the credits under it."""
    here = credit.mask[row].bool()
    tokens = tokenizer.batch_decode([[token] for token in samples.batch.ids[row][here].tolist()])
    note = "DPO: beta log pi/pi_ref of the token. PPO: its advantage, and the change of value that it brought, in units of the score."
    return strip(tokens, {title: getattr(credit, name)[row][here].tolist() for name, title in ROWS.items()}, note)


_KINDS = {
    "praise": {word for pool in (POSITIVE, POSITIVE_VERBS, LEAVE[+1]) for word in pool},
    "blame": {word for pool in (NEGATIVE, NEGATIVE_VERBS, LEAVE[-1]) for word in pool},
    "thing": {detail.split()[-1] for detail in DETAILS},
    "vague": {phrase.split()[-1] for phrase in VAGUE},
}


def kind_of_token(token: str, before: str = "") -> str:
    """What a token is: the first word of a sentence, praise, blame, thing (the noun of a concrete detail), vague, or other.

    Args:
        before: the token before it; that of an answer's first token is ".".
    """
    word = token.strip().lower()
    if before == "." and word.isalpha():
        return "first word"
    return next((kind for kind, words in _KINDS.items() if word in words), "other")


def kinds_of_tokens(samples: Completions, tokenizer) -> Tensor:
    """The kind of each token of the completions, by its place in KINDS: (B, T); -1 elsewhere."""
    kinds = torch.full(samples.batch.ids.shape, -1)
    for row, (ids, mask) in enumerate(zip(samples.batch.ids.cpu(), samples.batch.mask.cpu().bool(), strict=True)):
        tokens = tokenizer.batch_decode([[token] for token in ids[mask].tolist()])
        found = [KINDS.index(kind_of_token(token, before)) for token, before in zip(tokens, [".", *tokens[:-1]], strict=True)]
        kinds[row, mask] = torch.tensor(found)
    return kinds.to(samples.batch.ids.device)


def by_kind(credit: Credits, kinds: Tensor) -> dict[str, dict[str, evaluate.Measured]]:
    """For each kind of token, and each credit by its name in ROWS: the mean size of the credit, in units of an average token's.

    Each with a 95% interval over answers. A kind of which too few answers have a token is left out.
    """
    resampled, found = evaluate.Bootstrap(len(kinds)), {}
    everywhere = credit.mask.bool()
    for number, kind in enumerate(KINDS):
        sizes = {name: evaluate.interval(_size(getattr(credit, name), kinds == number, everywhere, resampled)) for name in ROWS}
        if all(sizes.values()):
            found[kind] = {name: size for name, size in sizes.items() if size}
    return found


def _size(values: Tensor, here: Tensor, everywhere: Tensor, resampled: evaluate.Bootstrap) -> Tensor:
    """Mean absolute value at some tokens, over that at all tokens, under each resampling of the answers: (R + 1,)."""
    one, all_of_them = (
        resampled.mean(losses.masked(values.abs(), where).sum(-1)) / resampled.mean(where.sum(-1)) for where in (here, everywhere)
    )
    return one / all_of_them


def between_answers(values: Tensor, mask: Tensor) -> evaluate.Measured:
    """Share of the variance of tokens' credits (B, T) that lies between answers: 1 if all tokens of an answer have the same credit.

    With a 95% interval over answers.
    """
    values, mask = values.double(), mask.double()
    resampled = evaluate.Bootstrap(len(mask))
    counts, sums, squares = (resampled.mean(each) for each in (mask.sum(-1), (values * mask).sum(-1), (values**2 * mask).sum(-1)))
    of_answers = resampled.mean((values * mask).sum(-1) ** 2 / mask.sum(-1))
    share = (of_answers - sums**2 / counts) / (squares - sums**2 / counts)
    return evaluate.interval(share) or [0.0, 0.0, 0.0]


def agreement(one: Tensor, other: Tensor, mask: Tensor) -> evaluate.Measured:
    """Correlation of two credits (B, T) over the tokens of an answer, whose mean is taken off both; with a 95% interval over answers."""
    mask = mask.double()
    one, other = (losses.masked(v.double() - (v * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True), mask) for v in (one, other))
    resampled = evaluate.Bootstrap(len(mask))
    both, first, second = (resampled.mean(product.sum(-1)) for product in (one * other, one * one, other * other))
    return evaluate.interval(both / (first * second).sqrt()) or [0.0, 0.0, 0.0]


def credits_figure(kinds: Mapping[str, Mapping[str, evaluate.Measured]]) -> Figure:
    """The size of a token's credit by its kind, a panel a credit; 1 is the size of an average token's."""
    figure = Figure(figsize=(8.2, 3.2), layout="constrained")
    panels = figure.subplots(1, len(ROWS), sharex=True, sharey=True)  # on one scale, so that a flat credit looks flat
    for axes, (name, title) in zip(panels, ROWS.items(), strict=True):
        _draw_rows(axes, {kind: sizes[name] for kind, sizes in kinds.items()}, title, 1.0)
    panels[0].set_yticks(range(len(kinds)), list(kinds))
    panels[0].set_ylim(len(kinds) - 0.5, -0.5)
    figure.supxlabel("size of the credit, an average token's being 1", fontsize=9, color=INK)
    parts = {kind: ", ".join(f"{ROWS[name]} {told(size, '.2f')}" for name, size in sizes.items()) for kind, sizes in kinds.items()}
    words = "; ".join(f"{kind}: {part}" for kind, part in parts.items())
    figure.set_label(f"Size of a token's credit by its kind, with 95% intervals over answers; 1 is an average token's. {words}.")
    return figure
