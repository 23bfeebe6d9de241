"""A finished run in words: its table, its verdict, and the report as one page."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from rich.box import Box
from rich.console import Console
from rich.table import Table

from alignlab.evaluate import LEAST_KL
from alignlab.lab.page import TEMPLATES, address
from alignlab.lab.view import COLOURS, JUDGES, NAMES, NARROW, STAGES, calibration_figure, panel_figures, plane_figure, png, scored
from alignlab.lab.walks import paths_figure
from alignlab.stages import METHODS

RULE = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)  # a line under the heads, in any encoding
WIDTH = 80  # columns of a terminal

# ---------------------------------------------------------------------------------------------- words


def table(comparison: dict) -> str:
    """The comparison as text, 80 columns wide, with a line on each dash."""
    reward = "score" if comparison["judge"]["kind"] == "reward_model" else "gold"
    shown = Table(box=RULE, show_edge=False, pad_edge=False, padding=0)
    for title in ("", reward, "win rate", "KL, nats", "efficiency", "length", "ends", "min", "MB"):
        shown.add_column(title, justify="right" if title else "left", min_width=len(title) + (len(title) > 5))
    for name, row in comparison["policies"].items():
        efficiency = row["gold_efficiency"]
        shown.add_row(
            NAMES[name], _plus_minus(row["gold"]), format(row["win_rate"][0], "z.0%"), _plus_minus(row["kl"]),
            "-" if efficiency is None else format(efficiency[0], "z.0%"), format(row["length"][0], "z.1f"),
            format(row["stop_rate"][0], "z.0%"), format(row["minutes"], ".1f" if row["minutes"] < 100 else ".0f"),
            format(row["peak_memory_mb"], ","),
        )  # fmt: skip
    console = Console(width=WIDTH, color_system=None, highlight=False, emoji=False, markup=False)
    if console.measure(shown).maximum > WIDTH:
        for column in shown.columns:
            column.min_width = None
    with console.capture() as captured:
        console.print(shown)
        for name, row in comparison["policies"].items():
            if row["gold_efficiency"] is None:
                console.print(f"- {NAMES[name]}: {missing(comparison, name, 'gold_efficiency')}")
    return "\n".join(line.rstrip() for line in captured.get().rstrip().splitlines())


def missing(comparison: dict, name: str, key: str) -> str:
    """Why a policy has no such number."""
    kl, judge = comparison["policies"][name]["kl"][0], comparison["judge"]["kind"]
    if key == "distinct_2":
        return "worked out from the SFT model's answers, so it has no texts of its own"
    if name == "sft":
        return "the start, which has gained nothing and paid nothing"
    if key != "gold_efficiency" and name in METHODS and name not in scored({name: {}}):
        return "learned without the reward model, so its gap cannot be split between that and the optimiser"
    if key != "gold_efficiency" and judge == "reward_model":
        return "the reward model is itself the judge here, so it cannot be blamed"
    if kl < LEAST_KL:
        return f"moved less than {LEAST_KL:g} nats, too little for an efficiency to mean anything"
    return "lies beyond the part of the curves that the samples can show, so its efficiency is not known"


def verdict(comparison: dict) -> list[str]:
    """What the numbers say, one sentence each."""
    rows, reward_model = comparison["policies"], comparison["reward_model"]
    words = []
    accuracy = f"The reward model orders {reward_model['accuracy'][0]:.0%} of held-out pairs as the annotator did"
    if reward_model["skill"] is not None:
        bayes, skill = reward_model["bayes_accuracy"][0], reward_model["skill"][0]
        accuracy += f"; a perfect judge would order {bayes:.0%}, so its skill is {skill:z.0%}"
    words.append(accuracy + ".")
    words += [_reached(comparison, name) for name in rows if name in METHODS]
    words += equal_kl(comparison)
    return words + [f"ALARM: {alarm}." for alarm in comparison["alarms"]]


def _reached(comparison: dict, name: str) -> str:
    """How much of what its KL could buy a method reached, and who lost the rest."""
    row, title = comparison["policies"][name], NAMES[name]
    if row["gold_efficiency"] is None:
        return f"{title} {missing(comparison, name, 'gold_efficiency')}."
    reached = f"{title} reached {row['gold_efficiency'][0]:z.0%} of what its KL could buy"
    if name not in scored({name: row}):
        return f"{reached}, without any reward model."
    judge, optimiser = row["reward_model_efficiency"], row["optimiser_efficiency"]
    if comparison["judge"]["kind"] == "reward_model":
        return f"{reached} in the eyes of the reward model, which is the only judge here."
    if judge is None or optimiser is None:
        return f"{reached}; the samples do not show how that splits into judge and optimiser."
    blame = "the judge" if judge[0] < optimiser[0] else "the optimiser"
    return f"{reached} = {judge[0]:z.0%} (reward model) x {optimiser[0]:z.0%} (optimiser): more was lost by {blame}."


def equal_kl(comparison: dict) -> list[str]:
    """Who is ahead where two policies, each at a strength of its own, have the same KL; a sentence for each two."""
    equal, words = comparison.get("at_equal_kl", {"difference": {}}), []  # runs of earlier versions have none
    for pair, difference in equal["difference"].items():
        one, other = pair.split("-")
        if difference is None:
            words.append(f"{NAMES[one]} and {NAMES[other]} have no KL in common that was measured.")
            continue
        (gold_one, *_), (gold_other, *_) = equal["gold"][one], equal["gold"][other]
        mean, low, high = difference
        ahead = f"{NAMES[one if mean > 0 else other]} is ahead" if low > 0 or high < 0 else "a tie"
        words.append(
            f"At equal KL ({equal['kl']:.2f} nats, each at a strength of its own) {NAMES[one]} has {gold_one:z.2f} and {NAMES[other]} "
            f"{gold_other:z.2f}: {ahead}; the difference is {mean:z.2f} ({low:z.2f} to {high:z.2f})."
        )
    return words


def betas(comparison: dict) -> str:
    """The beta of each method, in words."""
    return "beta " + ", ".join(f"{beta:g} for {NAMES[name]}" for name, beta in comparison["betas"].items())


def scope(comparison: dict) -> list[tuple[str, str]]:
    """What was measured of each policy and of the judge, and what was not: (of what, in words)."""
    judge, words = comparison["judge"], []
    for name, beta in comparison["betas"].items():
        kl, low, high = comparison["policies"][name]["kl"]
        limits = f"{low:z.2f} to {high:z.2f}"
        told = f"One policy, trained once (seed {comparison['seed']}) with beta {beta:g}; it lies at {kl:z.2f} nats ({limits})."
        if others := [f"{strength:g}" for strength, *_ in comparison.get("dial", {}).get(name, []) if strength not in (0, 1)]:
            told += f" At other KLs only this policy was measured, its adapter multiplied by {_listed(others)};"
            told += " nothing with another beta or another seed."
        else:
            told += f" Nothing was measured of {NAMES[name]} at any other KL, with another beta or with another seed."
        words.append((NAMES[name], told))
    if "best_of_16" in comparison["policies"]:
        told = "Worked out from the SFT model's answers and the reward model's scores: none were sampled for it, and its KL is a bound."
        words.append((NAMES["best_of_16"], told))
    told = {
        "gold": "The gold reward is known, and no policy was trained on it.",
        "vader": "VADER, a rule-based scorer of sentiment, judges; it was not used in training, and it is not a human judgement.",
        "reward_model": "No better judge than the reward model is known for this data. Rewards, win rates and efficiencies tell how far a "
        "policy pleases it, not whether people would prefer the answers.",
    }[judge["kind"]]
    told += f" {judge['prompts']} held-out prompts, and to each {judge['samples']} answers of the SFT model and {judge['answers']} of each"
    told += f" policy, of at most {judge['max_new_tokens']} tokens, at temperature {judge['temperature']:g}."
    words.append(("Judge", told))
    if frontier := comparison["curves"]["frontier"]:
        words.append(("Curves", f"The frontier is estimated up to {frontier[-1][0]:.2f} nats; beyond, no sample shows what is possible."))
    return words


def _plus_minus(measured: Sequence[float]) -> str:
    mean, low, high = measured
    return f"{mean:z.2f} ± {(high - low) / 2:z.2f}"


# ---------------------------------------------------------------------------------------------- the report

MEASURES = {  # of each policy: how it is called, what it means, and its form
    "gold": ("reward", "mean over all answers to the held-out prompts", "z.2f"),
    "kl": ("KL (nats per completion)", "how far the policy has moved from the SFT model", "z.2f"),
    "win_rate": ("win rate against SFT", "share of answers that beat one of the SFT model's to the same prompt", "z.0%"),
    "gold_efficiency": ("gold efficiency", "gain over SFT, as a share of the frontier's gain at the same KL", "z.0%"),
    "reward_model_efficiency": ("reward model's efficiency", "its first factor: the reach's gain, as a share of the frontier's", "z.0%"),
    "optimiser_efficiency": ("optimiser's efficiency", "its second factor: the policy's gain, as a share of the reach's", "z.0%"),
    "length": ("length (tokens)", "of an answer, its end included", "z.1f"),
    "stop_rate": ("answers that end", "by themselves, within the tokens allowed", "z.0%"),
    "distinct_2": ("distinct bigrams", "different pairs of words, as a share of all pairs in 16 answers to a prompt", "z.2f"),
    "minutes": ("training (minutes)", "of all stages that the policy needs", ".1f"),
    "peak_memory_mb": ("peak memory (MB)", "the highest of these stages", ","),
}
SETTINGS = {  # of the run as a whole, where the name alone says too little
    "rank": "rank of every adapter",
    "samples": "answers of the SFT model to each prompt", "answers": "answers of each policy to each prompt",
    "centring": "answers that centre the scores", "probe": "prompts that watch a training stage",
    "pair_limit": "training pairs used, at most", "test_limit": "held-out pairs used, at most", "data": "fingerprint of the data",
    "weights": "fingerprint of the model", "kl_target": "KL target", "kl_horizon": "KL horizon", "stop_kl": "KL that stops training",
    "lam": "lambda", "max_new_tokens": "longest answer (tokens)", "max_length": "longest prompt and answer (tokens)",
    "missing_eos_score": "score of an answer that does not end",
}  # fmt: skip


def page(comparison: dict, metrics: Sequence[dict], config: dict, commands: Sequence[dict] = ()) -> str:
    """The comparison as one self-contained HTML page; `commands` are those that made the run, as it recorded them."""
    methods = [name for name in comparison["policies"] if name in METHODS]
    stages = {name: _listed([STAGES[stage].title for stage in (*STAGES[name].needs, name)]) for name in methods}
    judge = JUDGES[comparison["judge"]["kind"]]
    rows, notes = _measured(comparison, judge)
    panels = {stage: [(words, address(png(drawn, 180))) for words, drawn in each] for stage, each in panel_figures(metrics).items()}
    return TEMPLATES.get_template("report.html.jinja").render(
        comparison=comparison, names=NAMES, colours=COLOURS, betas=betas(comparison), judge=judge, verdict=verdict(comparison),
        titles=_listed([NAMES[name] for name in methods]), rows=rows, notes=notes, scope=scope(comparison), settings=_settings(config),
        commands=[_command(each) for each in commands],
        needs="; ".join(f"{words} for {NAMES[name]}" for name, words in stages.items()),
        plane=address(png(plane_figure(comparison))), narrow=address(png(plane_figure(comparison, size=NARROW))),
        paths=_paths(comparison), training=panels, calibration=address(png(calibration_figure(comparison["reward_model"]))),
    )  # fmt: skip


def _paths(comparison: dict) -> dict | None:
    """The policies at other strengths: a picture and its words; None for a run of an earlier version."""
    if not comparison.get("dial"):
        return None
    numbers = {"points": comparison["dial"], "start": comparison["reference"]["gold"][0], "frontier": comparison["curves"]["frontier"]}
    wide, narrow = paths_figure(numbers), paths_figure(numbers, size=(4.3, 4.6))
    return {"picture": address(png(wide)), "narrow": address(png(narrow)), "words": wide.get_label()}


def _measured(comparison: dict, judge: str) -> tuple[list[dict], list[tuple[str, str]]]:
    """The rows of the table of numbers, and its notes: why a dash stands where it stands, by its letter."""
    rows: list[dict] = []
    letters: dict[str, str] = {}
    for key, (title, words, form) in MEASURES.items():
        cells = []
        for name, row in comparison["policies"].items():
            if (value := row.get(key)) is None:
                reason = f"{NAMES[name]}: {missing(comparison, name, key)}."
                cells.append({"mean": "", "limits": "", "note": letters.setdefault(reason, chr(ord("a") + len(letters)))})
            else:
                mean, *limits = value if isinstance(value, list) else [value]
                cells.append({"mean": format(mean, form), "limits": " to ".join(format(limit, form) for limit in limits), "note": ""})
        rows.append({"title": judge if key == "gold" else title, "words": words, "cells": cells})
    return rows, [(letter, reason) for reason, letter in letters.items()]


def _settings(config: dict) -> list[tuple[str, list[tuple[str, str]]]]:
    """The settings as tables: of the run as a whole, and of each stage."""
    parts = {key: value for key, value in config.items() if isinstance(value, dict)}
    tables = [("The run", {key: value for key, value in config.items() if key not in parts})]
    tables += [(STAGES[key].title if key in STAGES else key, value) for key, value in parts.items()]
    return [(title, list(_flat(values))) for title, values in tables if values]


def _flat(values: dict, before: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        name = before + SETTINGS.get(key, key.replace("_", " "))
        if isinstance(value, dict):
            yield from _flat(value, f"{name}: ")
        else:
            yield name, "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _command(record: dict[str, Any]) -> dict[str, str]:
    """A command as the run recorded it, in words."""
    at = datetime.fromisoformat(record["at"])
    threads = f"{record['threads']} thread{'' if record['threads'] == 1 else 's'}"
    return {
        "at": f"{at.day} {at:%B %Y, %H:%M:%S} ({at.tzinfo})",
        "command": record["command"],
        "kind": f"{'small version (--fast)' if record['fast'] else 'full version'}, seed {record['seed']}",
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
        "machine": f"{record['device']}, {threads}, {record['system']}",
    }


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) < 2 else f"{', '.join(words[:-1])} and {words[-1]}"
