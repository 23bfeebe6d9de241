"""The best answers that are found, for the data sheet: `python -m alignlab.tools.extremes RUN`, after `alignlab run --out RUN`.

Two lists, each of the 50 highest in gold among 100,000 samples: of the SFT model; and of two policies driven without KL against a
judge that learned from few pairs. They show whether the gold reward can be fooled. More than 10 minutes on 2 cores.
"""

import re
import sys
from pathlib import Path

import torch

from alignlab import ppo, reward
from alignlab.models import Base, Policy, load
from alignlab.pipeline import centred
from alignlab.recipes import gamed, tiny, world_gold
from alignlab.records import data_folder, read_preferences, read_prompts
from alignlab.rollout import sample

SAMPLES, KEPT = 100_000, 50
SHEET = "README.md"
Found = tuple[float, str, str]  # gold, prompt, answer


def best(policy: Policy, samples: int, kept: int = KEPT, seed: int = 0, rows: int = 2048) -> list[Found]:
    """The answers highest in gold, each once, of that many samples to the prompts that no training file contains."""
    prompts, rng = read_prompts(data_folder() / "prompts_test.jsonl"), torch.Generator(policy.device).manual_seed(seed)
    found: dict[tuple[str, str], float] = {}
    for start in range(0, samples, rows):
        asked = [str(prompts[i % len(prompts)]) for i in range(start, min(start + rows, samples))]
        answers = sample(policy, asked, tiny().sampling.max_new_tokens, rng)
        found |= dict(zip(zip(asked, answers.texts, strict=True), world_gold(answers).tolist(), strict=True))
        found = dict(sorted(found.items(), key=lambda item: -item[1])[:kept])
    return [(gold, *names) for names, gold in found.items()]


def driven(reference: Base, seed: int) -> Policy:
    """A policy after PPO without KL against a reward model of few pairs."""
    recipe = gamed()
    recipe.set_seed(seed)
    pairs = read_preferences(data_folder() / "preferences.jsonl")[seed::20][: recipe.pair_limit]
    judge = reference.reward_model(f"weak{seed}", recipe.rank, seed)
    for _ in reward.train(judge, pairs, recipe.stages["reward"]):
        pass
    policy = reference.policy(f"driven{seed}", recipe.rank, seed)
    score = centred(recipe, judge, Policy(reference, None, reference), seed)
    for _ in ppo.train(policy, reference.value_head(), score, recipe.prompts, recipe.stages["ppo"]):
        pass
    return policy


def told(found: list[Found]) -> str:
    """A list in Markdown."""
    return "\n".join(f"{place}. {gold:.2f} · {prompt} → {text}" for place, (gold, prompt, text) in enumerate(found, 1))


def main(run: Path) -> None:
    """Write the lists into the data sheet, in place of those that stand there."""
    reference = load(run / "sft")
    sft = best(Policy(reference, None, reference), SAMPLES)
    pushed = sorted((each for seed in (0, 1) for each in best(driven(reference, seed), SAMPLES // 2)), reverse=True)[:KEPT]
    sheet = data_folder() / SHEET
    text = sheet.read_text(encoding="utf-8")
    for name, found in (("sft", sft), ("driven", pushed)):
        before, after = re.split(rf"(?<=<!-- best {name} -->\n).*?(?=\n<!-- end -->)", text, maxsplit=1, flags=re.DOTALL)
        text = f"{before}\n{told(found)}\n{after}"
    sheet.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
