"""Preference pairs from a model's own answers: sample two or more to each prompt, let the annotator choose between two."""

from collections.abc import Callable, Sequence
from random import Random

import torch
from torch import Tensor

from alignlab.errors import UserError
from alignlab.models import Base, Policy
from alignlab.rollout import Completions, sample
from alignlab.talks import Text
from alignlab.world import Annotator


def sample_pairs(
    reference: Base,
    prompts: Sequence[Text],
    gold: Callable[[Completions], Tensor],
    annotator: Annotator,
    *,
    seed: int,
    max_new_tokens: int,
    temperature: float = 1.0,
    draws: int = 2,
    rows: int = 512,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict]:
    """One pair per prompt (repeat a prompt for several), as records with prompt, chosen, rejected, gold_chosen, gold_rejected, certainty.

    `certainty` is max(p, 1 - p) of the annotator's preference: its mean is the Bayes accuracy. Answers that did not end by
    themselves tell something else, and pairs of equal answers nothing: they are left out.

    Args:
        draws: >= 2 answers to each prompt; the annotator sees the two that lie furthest apart in gold.
        rows: prompts in memory at once, with all their draws.

    Raises:
        UserError: no pair is left.
    """
    policy, coin = Policy(reference, None, reference), Random(seed)
    rng = torch.Generator(policy.device).manual_seed(seed)
    records = []
    for first in range(0, len(prompts), rows):
        asked = [prompt for prompt in prompts[first : first + rows] for _ in range(draws)]
        samples = sample(policy, asked, max_new_tokens, rng, temperature)
        rewards, stopped, texts = gold(samples).tolist(), samples.stopped.tolist(), [text.strip() for text in samples.texts]
        for start in range(0, len(asked), draws):
            whole = [row for row in range(start, start + draws) if stopped[row] and texts[row]]
            whole.sort(key=lambda row: rewards[row])
            if len(whole) < 2 or texts[whole[0]] == texts[whole[-1]]:
                continue
            a, b = sorted((whole[0], whole[-1]))
            longer = len(texts[a].split()) - len(texts[b].split())
            probability = annotator.probability(rewards[a], rewards[b], longer)
            chosen, rejected = (a, b) if coin.random() < probability else (b, a)
            records.append({
                "prompt": asked[a], "chosen": texts[chosen], "rejected": texts[rejected],
                "gold_chosen": round(rewards[chosen], 4), "gold_rejected": round(rewards[rejected], 4),
                "certainty": round(max(probability, 1 - probability), 4),
            })  # fmt: skip
        watch(min(first + rows, len(prompts)), len(prompts))
    if not records:
        raise UserError(
            f"none of {len(prompts)} pairs has two different answers that end by themselves; train SFT longer, or allow more tokens"
        )
    return records
