"""The numbers of the README: `python -m alignlab.tools.benchmark [seeds] [betas] [hacking] [SEED ...]`. Runs land in `runs/benchmark/`.

Without seeds they are 0, 1 and 2. seeds: `alignlab run` with each; of three or more, what notebook 08 shows goes to
`data/three_seeds.json`. betas: PPO and DPO at five betas each, from one SFT model and one reward model. hacking: a reward model of
200 pairs and PPO without KL: the proxy rises, gold falls.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from tqdm import tqdm

from alignlab import dial, evaluate
from alignlab.files import write_whole
from alignlab.lab import report, view
from alignlab.models import Policy
from alignlab.pipeline import Pipeline
from alignlab.recipe import Recipe
from alignlab.recipes import gamed, tiny
from alignlab.records import data_folder
from alignlab.runs import Run

PLACE = Path("runs/benchmark")
EQUAL_KLS = (1.0, 2.0, 4.0, 8.0)  # nats, at which the methods are compared
PPO_BETAS = (2.0, 1.0, 0.6, 0.35, 0.25)
DPO_BETAS = (2.0, 1.0, 0.6, 0.4, 0.25)


def seeds(of: Sequence[int]) -> None:
    """The default run with each seed; means of what the README quotes."""
    comparisons, gold = [], []
    for seed in of:
        pipeline = _pipeline(PLACE / f"seed{seed}", tiny(), seed)
        comparisons.append(pipeline.compare())
        paths = pipeline.paths
        gold.append({kl: {name: dial.gold_at(pipeline.plane, path, kl) for name, path in paths.items()} for kl in EQUAL_KLS})
        pipeline.run.write_json("comparison.json", comparisons[-1])
        (pipeline.run.folder / "plane.png").write_bytes(view.png(view.plane_figure(comparisons[-1])))
        print(report.table(comparisons[-1]), flush=True)
    methods = list(comparisons[0]["betas"])
    print(f"\nmean over seeds {tuple(of)}, [lowest, highest seed]; at equal KL the interval is of seeds and prompts")
    print(f"  reward model skill {_spread([c['reward_model']['skill'][0] for c in comparisons])}")
    for name in ("best_of_16", *methods):
        for key in ("kl", "gold", "gain_sd", "win_rate", "gold_efficiency", "reward_model_efficiency", "optimiser_efficiency"):
            values = [c["policies"][name][key] for c in comparisons]
            if all(values):
                print(f"  {name:11}{key:24}{_spread([value[0] for value in values])}")
    for kl in EQUAL_KLS if len(of) > 1 else ():
        drawn = {name: torch.stack([each[kl][name] for each in gold]) for name in methods}
        drawn["ppo-dpo"] = drawn["ppo"] - drawn["dpo"]
        told = {name: evaluate.over_seeds(draws) for name, draws in drawn.items()}
        words = (f"{name} -" if found is None else "{} {:.2f} [{:.2f}, {:.2f}]".format(name, *found) for name, found in told.items())
        print(f"  at {kl:g} nats: {', '.join(words)}")
    print(f"  alarms: {sum((c['alarms'] for c in comparisons), [])}")
    if len(of) > 2:
        write_whole(data_folder() / "three_seeds.json", json.dumps([_kept(comparison) for comparison in comparisons], indent=1) + "\n")


def _kept(comparison: dict) -> dict:
    """What notebook 08 shows of a full run."""
    keys = ("kl", "gold", "win_rate", "gain_sd", "gold_efficiency", "optimiser_efficiency")
    rows = {name: {key: row[key] for key in keys} for name, row in comparison["policies"].items() if name != "sft"}
    return {"seed": comparison["seed"], "betas": comparison["betas"], "policies": rows}


def betas(of: Sequence[int]) -> None:
    """Five betas each: the points along the frontier, in a figure and a table; and what the dial says of the default beta there."""
    for seed in of:
        pipeline = _pipeline(PLACE / f"seed{seed}", tiny(), seed)
        points = {
            stage: [(beta, pipeline.plane.policy(pipeline.answers(_trained(pipeline, stage, beta)))) for beta in betas]
            for stage, betas in (("ppo", PPO_BETAS), ("dpo", DPO_BETAS))
        }
        for name, rows in points.items():
            kls = [row["kl"][0] for _, row in rows]
            print(f"seed {seed} {name}: KL rises as beta falls: {kls == sorted(kls)}")
            for beta, row in rows:
                efficiency = row["gold_efficiency"]
                words = "-" if efficiency is None else f"{efficiency[0]:.2f}"
                turned = dial.gold_at(pipeline.plane, pipeline.paths[name], row["kl"][0])[0].item()
                read_off = f"gold of the default beta's path there {turned:.2f}"
                print(f"   beta {beta:<5g} KL {row['kl'][0]:.2f}  gold {row['gold'][0]:.2f}  {read_off}  efficiency {words}")
        pipeline.run.write_json("betas.json", points)
        figure = view.betas_figure(pipeline.plane.curves(), pipeline.plane.measure(pipeline.plane.reference.gold), points)
        (pipeline.run.folder / "betas.png").write_bytes(view.png(figure))


def hacking(of: Sequence[int]) -> None:
    """Reward hacking on purpose: held-out gold and the reward model's score along a PPO run with beta 0."""
    for seed in of:
        pipeline = _pipeline(PLACE / f"hacking{seed}", gamed(), seed)
        policy, steps = _begun(pipeline, "ppo")
        course = []
        for metrics in _whole(steps, f"seed {seed}"):
            if metrics["step"] % 2:
                answers = pipeline.answers(policy)
                seen = {key: getattr(answers, key).double().mean(-1).tolist() for key in ("gold", "scores", "kl")}
                course.append({"step": metrics["step"], **seen})
        peak = max(course, key=lambda point: mean(point["gold"]))
        last = course[-1]
        drop = pipeline.plane.measure(torch.tensor(peak["gold"]) - torch.tensor(last["gold"]))
        print(
            f"seed {seed}: gold peaks at {mean(peak['gold']):.2f} (step {peak['step']}, score {mean(peak['scores']):.2f}) and ends at "
            f"{mean(last['gold']):.2f} (score {mean(last['scores']):.2f}); fall {drop[0]:.2f} [{drop[1]:.2f}, {drop[2]:.2f}]; "
            f"shown: {drop[1] > 0 and mean(last['scores']) > mean(peak['scores'])}"
        )
        pipeline.run.write_json("hacking.json", course)
        figure = view.hacking_figure(course, "PPO without KL against a judge of 200 pairs")
        (pipeline.run.folder / "hacking.png").write_bytes(view.png(figure))


def _pipeline(folder: Path, recipe: Recipe, seed: int) -> Pipeline:
    recipe.set_seed(seed)
    return Pipeline(Run(folder, {**recipe.describe(), "seed": seed}), recipe, seed, say=lambda words: print(words, flush=True))


def _begun(pipeline: Pipeline, method: str, config=None, name: str | None = None) -> tuple[Policy, Iterator[dict]]:
    """A fresh policy, and the steps that train it by a method."""
    policy, steps = pipeline.begin(method, config, name)
    if not isinstance(policy, Policy):
        raise ValueError(f"{method} trains no policy")
    return policy, steps


def _trained(pipeline: Pipeline, stage: str, beta: float) -> Policy:
    policy, steps = _begun(pipeline, stage, replace(pipeline.config(stage), beta=beta), "sweep")
    for _ in _whole(steps, f"{stage} beta {beta:g}"):
        pass
    return policy


def _whole(steps: Iterator[dict], title: str) -> Iterator[dict]:
    """The whole steps, under a progress bar."""
    with tqdm(desc=title, unit="step") as bar:
        for metrics in steps:
            bar.total = metrics["steps"]
            if not metrics.get("partial"):
                bar.update()
                yield metrics


def _spread(values: list[float]) -> str:
    return f"{mean(values):.3f} [{min(values):.3f}, {max(values):.3f}]"


if __name__ == "__main__":
    parts = {"seeds": seeds, "betas": betas, "hacking": hacking}
    if unknown := [word for word in sys.argv[1:] if not word.isdigit() and word not in parts]:
        raise SystemExit(f"no benchmark {unknown[0]}; there are {', '.join(parts)}, and seeds as numbers")
    numbers = tuple(int(word) for word in sys.argv[1:] if word.isdigit()) or (0, 1, 2)
    for part in [word for word in sys.argv[1:] if not word.isdigit()] or parts:
        parts[part](numbers)
