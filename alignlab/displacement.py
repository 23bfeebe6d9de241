"""Likelihood displacement: pairs by how alike their answers are, what training did to both answers, and where the probability went.

DPO's loss sees differences of log-ratios alone, so both answers of a pair may become less likely (Razin et al. 2410.08847). Here stand
the pairs with which this can be provoked, the losses said to prevent it, and the measurements.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from functools import partial
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from alignlab import losses, world
from alignlab.data import Batch, collate, encode_all
from alignlab.lexicon import LEAVE, NEGATIVE, NEGATIVE_VERBS, POSITIVE, POSITIVE_VERBS
from alignlab.models import Base, Policy

ROWS = 64  # pairs scored at once

# ---------------------------------------------------------------------------------------------- pairs


def alike(pair: Mapping) -> float:
    """How alike a pair's answers are, from 0 to 1: twice the words that both have in the same order, over all words of both.

    >>> alike({"chosen": "The plot sings.", "rejected": "The plot sags."})
    0.6666666666666666
    """
    return SequenceMatcher(None, pair["chosen"].split(), pair["rejected"].split(), autojunk=False).ratio()


def by_gold(pairs: Iterable[dict]) -> list[dict]:
    """The pairs with the answer that has more gold as the chosen one; ties are left out."""
    labelled = []
    for pair in pairs:
        if pair["gold_chosen"] < pair["gold_rejected"]:
            turned = {"chosen": "rejected", "rejected": "chosen", "gold_chosen": "gold_rejected", "gold_rejected": "gold_chosen"}
            pair = pair | {key: pair[other] for key, other in turned.items()}
        if pair["gold_chosen"] > pair["gold_rejected"]:
            labelled.append(pair)
    return labelled


_OPPOSITES = {
    word: others
    for kinds in ((POSITIVE, NEGATIVE), (POSITIVE_VERBS, NEGATIVE_VERBS), (LEAVE[+1], LEAVE[-1]))
    for these, others in (kinds, kinds[::-1])
    for word in these
}


def edited(pairs: Iterable[dict], seed: int = 0) -> list[dict]:
    """Pairs of near-duplicates: each chosen answer, and a copy in which one word of praise or blame is turned into its opposite.

    Gold labels them. Answers without such a word, and copies that are no reviews of the world or have equal gold, are left out.
    """
    rng, copies = Random(seed), []
    for pair in pairs:
        words = world.tokenise(pair["chosen"])
        places = [place for place, word in enumerate(words) if word.strip() in _OPPOSITES]
        if not places:
            continue
        place = rng.choice(places)
        word = words[place]
        words[place] = word.replace(word.strip(), rng.choice(_OPPOSITES[word.strip()]))
        copy = "".join(words)
        if all(map(world.is_sentence, world.split_sentences(copy))):
            golds = [world.gold_reward(pair["prompt"], text) for text in (pair["chosen"], copy)]
            both = {"chosen": pair["chosen"], "rejected": copy, "gold_chosen": golds[0], "gold_rejected": golds[1]}
            copies.append({"prompt": pair["prompt"], **both})
    return by_gold(copies)


def slices(pairs: Sequence[dict], count: int, seed: int = 0) -> dict[str, list[dict]]:
    """`count` pairs each, labelled by gold: of the third whose answers are least alike, of the most alike third, and near-duplicates.

    Raises:
        ValueError: there are too few pairs for that.
    """
    ranked = sorted(by_gold(pairs), key=alike)
    third = len(ranked) // 3
    found = {"far": ranked[:third], "close": ranked[-third:], "edited": edited(pairs, seed)}
    if (least := min(map(len, found.values()))) < count:
        raise ValueError(f"{len(pairs)} pairs give slices of {least}; ask for at most so many, not {count}")
    return {name: Random(seed).sample(some, count) for name, some in found.items()}


def by_ches(reference: Base, pairs: Sequence[dict], count: int, seed: int = 0) -> dict[str, list[dict]]:
    """`count` pairs each, labelled by gold, of the thirds with the lowest and the highest CHES (see `ches`).

    Raises:
        ValueError: there are too few pairs for that.
    """
    labelled = by_gold(pairs)
    ranked = [labelled[row] for row in ches(reference, labelled).argsort().tolist()]
    third = len(ranked) // 3
    if third < count:
        raise ValueError(f"{len(pairs)} pairs give slices of {third}; ask for at most so many, not {count}")
    return {name: Random(seed).sample(some, count) for name, some in (("low ches", ranked[:third]), ("high ches", ranked[-third:]))}


# ---------------------------------------------------------------------------------------------- losses


def _simpo(chosen, rejected, ref_chosen, ref_rejected, beta: float, chosen_lengths, rejected_lengths, margin: float = 0.5) -> Tensor:
    """`losses.simpo_loss` with the arguments that `dpo.train` gives; the reference's have no part in it."""
    return losses.simpo_loss(chosen, rejected, chosen_lengths, rejected_lengths, beta, margin)


class Loss(NamedTuple):
    """A loss for `dpo.train`, by what it is called, the beta that it takes here, and its share of DPO's learning rate."""

    title: str
    function: Callable[..., Tensor]
    beta: float
    rate: float = 1.0


LOSSES = {
    "dpo": Loss("DPO", losses.dpo_loss, 0.5),
    "nll": Loss("DPO + NLL", partial(losses.dpo_nll_loss, weight=1.0), 0.5),
    "dpop": Loss("DPOP", partial(losses.dpop_loss, penalty=5.0), 0.5),
    "ipo": Loss("IPO", losses.ipo_loss, 0.1),
    "per_token": Loss("length-normalised DPO", losses.length_normalised_dpo_loss, 15.0),  # 0.5 times the tokens of an answer
    "simpo": Loss("SimPO", _simpo, 2.0, 0.3),  # it has no reference to hold it: at DPO's rate its policies end in noise
}

# ---------------------------------------------------------------------------------------------- what training did


@torch.no_grad()
def log_ratios(policy: Policy, pairs: Sequence[dict], max_length: int = 128) -> Tensor:
    """log(pi / pi_ref) of the chosen (row 0) and of the rejected answers (row 1): (2, N), nats per answer.

    Its mean over chosen answers below 0 is likelihood displacement.
    """
    found = []
    for batch in _batches(policy.reference, pairs, max_length):
        moved = policy.logps(batch) - policy.reference_logps(batch)
        found.append(torch.stack(losses.sequence_logps(moved, batch.mask).chunk(2)).cpu())
    return torch.cat(found, dim=1)


@torch.no_grad()
def ches(reference: Base, pairs: Sequence[dict], max_length: int = 128) -> Tensor:
    """Length-normalised CHES, "centred hidden embedding similarity", of each pair: (N,) (Razin et al. 2410.08847, section 5).

    With h the mean of the last hidden states that predict an answer's tokens: h_chosen . h_rejected - h_chosen . h_chosen. The larger
    it is, the more alike the model finds the two. Unnormalised, with sums for means, it mostly tells which answer is longer.
    """
    found = []
    for batch in _batches(reference, pairs, max_length):
        with reference.using(None):
            hidden = reference.hidden(batch.ids, batch.attention)
        rows = batch.mask[:, 1:].nonzero()[:, 0]  # of each token, the answer that it belongs to
        total = hidden.new_zeros(len(batch), hidden.shape[-1]).index_add_(0, rows, losses.before(hidden, batch.mask))
        chosen, rejected = (total / batch.mask.sum(-1, keepdim=True)).chunk(2)
        found.append((chosen * (rejected - chosen)).sum(-1).cpu())
    return torch.cat(found)


@torch.no_grad()
def answer_states(reference: Base, pair: dict, max_length: int = 128) -> tuple[Tensor, Tensor]:
    """The reference's last hidden states that predict the tokens of the chosen answer and of the rejected one: (T, D), (U, D)."""
    (batch,) = _batches(reference, [pair], max_length)
    with reference.using(None):
        hidden = reference.hidden(batch.ids, batch.attention)
    chosen, rejected = losses.before(hidden, batch.mask).split(batch.mask.sum(-1).tolist())
    return chosen, rejected


@torch.no_grad()
def by_place(policy: Policy, pairs: Sequence[dict], max_length: int = 128) -> dict[str, Tensor]:
    """Where in the chosen answer its log-ratio changed: summed before, at and after the first token that differs; (N,) each, nats."""
    parts = []
    for batch in _batches(policy.reference, pairs, max_length):
        moved = policy.logps(batch) - policy.reference_logps(batch)
        half = len(batch) // 2
        differs = (batch.ids[:half] != batch.ids[half:]).cumsum(-1)  # 0 before the first difference
        at = (differs > 0).cumsum(-1) == 1
        before, after = differs == 0, (differs > 0) & ~at
        parts.append(torch.stack([(moved[:half] * here).sum(-1) for here in (before, at, after)]).cpu())
    return dict(zip(("before", "at", "after"), torch.cat(parts, dim=1), strict=True))


def _batches(base: Base, pairs: Sequence[dict], max_length: int) -> Iterable[Batch]:
    """Batches of chosen answers, then as many rejected ones."""
    examples = encode_all(base.tokenizer, pairs, ["chosen", "rejected"], min(max_length, base.max_length))
    for first in range(0, len(examples), ROWS):
        chosen, rejected = zip(*examples[first : first + ROWS], strict=True)
        yield collate(chosen + rejected, base.tokenizer.pad_token_id, base.device)


# ---------------------------------------------------------------------------------------------- where the probability went

GRAM = 3  # tokens


def grams(text: str) -> list[tuple[str, ...]]:
    """Each run of three tokens of a text, its two ends marked.

    >>> grams("It sings.")
    [('', 'It', ' sings'), ('It', ' sings', '.'), (' sings', '.', '')]
    """
    tokens = ["", *world.tokenise(text), ""]
    return [tuple(tokens[first : first + GRAM]) for first in range(len(tokens) - GRAM + 1)]


def unseen(text: str, known: set[tuple[str, ...]]) -> float:
    """Share of a text's runs of three tokens that are not among the known ones; 1 for an empty text."""
    runs = grams(text)
    return sum(run not in known for run in runs) / len(runs) if runs else 1.0


def broken(text: str) -> float:
    """Share of a text's sentences that the grammar of the review world cannot write; 1 for an empty text."""
    sentences = world.split_sentences(text)
    return sum(not world.is_sentence(sentence) for sentence in sentences) / len(sentences) if sentences else 1.0
