"""Preference pairs from a model's own answers: sample two to each prompt, let the annotator choose."""

from collections.abc import Callable, Sequence
from random import Random

import torch
from torch import Tensor

from alignlab.data import Text
from alignlab.errors import UserError
from alignlab.models import Base, Policy
from alignlab.rollout import Completions, sample
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
    rows: int = 512,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict]:
    """One pair a prompt (repeat a prompt for several), as records with prompt, chosen, rejected, gold_chosen, gold_rejected, certainty.

    `certainty` is max(p, 1 - p) of the annotator's preference: its mean is the Bayes accuracy. Pairs of equal answers, and
    pairs with an answer that did not end by itself, tell nothing or something else, and are left out.

    Raises:
        UserError: no pair is left.
    """
    policy, rng = Policy(reference, None, reference), Random(seed)
    chance = torch.Generator(policy.device).manual_seed(seed)
    records = []
    for first in range(0, len(prompts), rows):
        asked = [prompt for prompt in prompts[first : first + rows] for _ in range(2)]
        samples = sample(policy, asked, max_new_tokens, chance, temperature)
        rewards, stopped = gold(samples).tolist(), samples.stopped.tolist()
        for a in range(0, len(asked), 2):
            b = a + 1
            texts = samples.texts[a].strip(), samples.texts[b].strip()
            if not (stopped[a] and stopped[b] and all(texts)) or texts[0] == texts[1]:
                continue
            longer = len(texts[0].split()) - len(texts[1].split())
            probability = annotator.probability(rewards[a], rewards[b], longer)
            chosen, rejected = (a, b) if rng.random() < probability else (b, a)
            records.append({
                "prompt": asked[a], "chosen": samples.texts[chosen].strip(), "rejected": samples.texts[rejected].strip(),
                "gold_chosen": round(rewards[chosen], 4), "gold_rejected": round(rewards[rejected], 4),
                "certainty": round(max(probability, 1 - probability), 4),
            })  # fmt: skip
        watch(min(first + rows, len(prompts)), len(prompts))
    if not records:
        raise UserError(
            f"none of {len(prompts)} pairs has two different answers that end by themselves; train SFT longer, or allow more tokens"
        )
    return records
