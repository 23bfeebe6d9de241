"""SFT, a reward model, then PPO, judged on the reward-KL plane: `python -m alignlab.examples.ppo [--fast]`. A page to copy and change.

For a model and data of your own, change `load(...)`, the four `read_...(...)` and `gold`.
"""

import argparse
from typing import Any

from alignlab import evaluate, ppo, reward, sft
from alignlab.models import Policy, load
from alignlab.recipes import world_gold as gold
from alignlab.records import data_folder, read_demonstrations, read_preferences, read_prompts

RULES: dict[str, Any] = {"max_new_tokens": 48, "temperature": 1.0, "missing_eos_score": -3.0}  # of sampling, for every policy alike


def train(steps, every: int) -> None:
    """Run a stage to its end, printing a line now and then. A stage is a generator: it does nothing until it is iterated."""
    for metrics in steps:
        if not metrics.get("partial") and (metrics["step"] % every == 0 or metrics["step"] == metrics["steps"] - 1):
            numbers = "  ".join(f"{key} {metrics[key]:.3f}" for key in ("loss", "accuracy", "reward", "kl", "gold") if key in metrics)
            print(f"{metrics['stage']:6} {metrics['step'] + 1:>3} of {metrics['steps']:<3}  {numbers}", flush=True)


def main(fast: bool) -> None:
    folder = data_folder()
    demonstrations, pairs = read_demonstrations(folder / "demonstrations.jsonl"), read_preferences(folder / "preferences.jsonl")
    prompts, judge_prompts = read_prompts(folder / "prompts.jsonl"), read_prompts(folder / "prompts_test.jsonl")[:32]
    many, few = 512, 32  # answers of the reference and of the policy to each of the judge's prompts
    if fast:
        demonstrations, pairs, judge_prompts, many, few = demonstrations[:320], pairs[:320], judge_prompts[:8], 48, 8

    # SFT. Its adapter is merged into the weights: from now on the base with every adapter off is the reference.
    policy = load(folder / "base").policy("sft")
    train(sft.train(policy, demonstrations, sft.Config()), every=20)
    reference = policy.base.merge("sft")

    # The reward model, from the reference. Its scores have no zero of their own: subtract what the reference's answers get.
    reward_model = reference.reward_model("reward")
    train(reward.train(reward_model, pairs, reward.Config()), every=20)
    start = Policy(reference, None, reference)
    centre = evaluate.answer(
        start, prompts[:128], 1, gold, lambda samples: reward_model.score_all(samples.batch), reference=True, seed=1, **RULES
    ).scores.mean()

    # PPO, from the reference, on the scores; beta is the price of a nat of KL. Gold is reported and never learned from.
    policy, config = reference.policy("ppo"), ppo.Config(beta=0.38, iterations=2 if fast else 12)
    steps = ppo.train(
        policy, reference.value_head(), lambda samples: reward_model.score_all(samples.batch) - centre, prompts, config, judge=gold
    )
    train(steps, every=2)

    # The judge. Many answers of the reference give the best that any policy can do at each KL; then the policy's own place.
    plane = evaluate.Plane(evaluate.answer(start, judge_prompts, many, gold, None, reference=True, seed=0, **RULES))
    answers = evaluate.answer(policy, judge_prompts, few, gold, None, seed=0, **RULES)
    for name, row in {"SFT": plane.policy(plane.reference), "PPO": plane.policy(answers)}.items():
        share = "" if row["gold_efficiency"] is None else f", {row['gold_efficiency'][0]:.0%} of what that KL could buy"
        print(f"{name}: gold {row['gold'][0]:.2f} at {row['kl'][0]:.2f} nats, win rate {row['win_rate'][0]:.0%}{share}")
    print(f"\n{judge_prompts[0]}\n  SFT: {plane.reference.texts[0][0]}\n  PPO: {answers.texts[0][0]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="SFT, a reward model, then PPO on the bundled world")
    parser.add_argument("--fast", action="store_true", help="the whole path in a small version")
    main(parser.parse_args().fast)
