"""A finished run in words: its table, its verdict, and the report as one page."""

from collections.abc import Sequence

from alignlab.lab.page import TEMPLATES, address
from alignlab.lab.view import COLOURS, JUDGES, NAMES, STAGES, calibration_figure, plane_figure, png, scored, training_figure
from alignlab.stages import METHODS

# ---------------------------------------------------------------------------------------------- words


def table(comparison: dict) -> str:
    """The comparison as text, at most 100 columns wide."""
    judged_by_model = comparison["judge"]["kind"] == "reward_model"
    titles = {
        "score" if judged_by_model else "gold": 14,
        "win rate": 10,
        "KL, nats": 14,
        "efficiency": 12,
        "length": 8,
        "ends": 7,
        "minutes": 9,
        "MB": 7,
    }
    head = " " * 11 + "".join(f"{title:>{width}}" for title, width in titles.items())
    lines = [head, "-" * len(head)]
    for name, row in comparison["policies"].items():
        efficiency = row["gold_efficiency"]
        lines.append(
            f"{NAMES[name]:11}{_plus_minus(row['gold']):>14}{row['win_rate'][0]:>10.0%}{_plus_minus(row['kl']):>14}"
            f"{'-' if efficiency is None else format(efficiency[0], '.0%'):>12}{row['length'][0]:>8.1f}{row['stop_rate'][0]:>7.0%}"
            f"{row['minutes']:>9.1f}{row['peak_memory_mb']:>7,}"
        )
    return "\n".join(lines)


def verdict(comparison: dict) -> list[str]:
    """What the numbers say, one sentence each."""
    rows, reward_model = comparison["policies"], comparison["reward_model"]
    words = []
    accuracy = f"The reward model orders {reward_model['accuracy'][0]:.0%} of held-out pairs as the annotator did"
    if reward_model["skill"] is not None:
        accuracy += f"; a perfect judge would order {reward_model['bayes_accuracy'][0]:.0%}, so its skill is {reward_model['skill'][0]:.0%}"
    words.append(accuracy + ".")
    words += [_reached(comparison, name) for name in rows if name in METHODS]
    return words + [f"ALARM: {alarm}." for alarm in comparison["alarms"]]


def _reached(comparison: dict, name: str) -> str:
    """How much of what its KL could buy a method reached, and who lost the rest."""
    row, title = comparison["policies"][name], NAMES[name]
    if row["gold_efficiency"] is None:
        if row["kl"][0] < 0.5:
            return f"{title} moved less than 0.5 nats, too little for an efficiency to mean anything."
        return f"{title} lies beyond the part of the curves that the samples can show, so its efficiency is not known."
    reached = f"{title} reached {row['gold_efficiency'][0]:.0%} of what its KL could buy"
    if name not in scored({name: row}):
        return f"{reached}, without any reward model."
    judge, optimiser = row["reward_model_efficiency"], row["optimiser_efficiency"]
    if comparison["judge"]["kind"] == "reward_model":
        return f"{reached} in the eyes of the reward model, which is the only judge here."
    if judge is None or optimiser is None:
        return f"{reached}; the samples do not show how that splits into judge and optimiser."
    blame = "the judge" if judge[0] < optimiser[0] else "the optimiser"
    return f"{reached} = {judge[0]:.0%} (reward model) x {optimiser[0]:.0%} (optimiser): more was lost by {blame}."


def betas(comparison: dict) -> str:
    """The beta of each method, in words."""
    return "beta " + ", ".join(f"{beta:g} for {NAMES[name]}" for name, beta in comparison["betas"].items())


def _plus_minus(measured: Sequence[float]) -> str:
    mean, low, high = measured
    return f"{mean:.2f} ± {(high - low) / 2:.2f}"


# ---------------------------------------------------------------------------------------------- the report

COLUMNS = {
    "gold": ".2f", "kl": ".2f", "win_rate": ".0%", "gold_efficiency": ".0%", "reward_model_efficiency": ".0%",
    "optimiser_efficiency": ".0%", "length": ".1f", "stop_rate": ".0%", "distinct_2": ".2f",
}  # fmt: skip


def page(comparison: dict, metrics: Sequence[dict], config: dict) -> str:
    """The comparison as one self-contained HTML page."""
    methods = [name for name in comparison["policies"] if name in METHODS]
    stages = {name: _listed([STAGES[stage].title for stage in (*STAGES[name].needs, name)]) for name in methods}
    return TEMPLATES.get_template("report.html.jinja").render(
        comparison=comparison, config=config, columns=COLUMNS, names=NAMES, colours=COLOURS, betas=betas(comparison),
        titles=_listed([NAMES[name] for name in methods]), judge=JUDGES[comparison["judge"]["kind"]], verdict=verdict(comparison),
        needs="; ".join(f"{words} for {NAMES[name]}" for name, words in stages.items()),
        plane=address(png(plane_figure(comparison))), training=address(png(training_figure(metrics))),
        calibration=address(png(calibration_figure(comparison["reward_model"]))),
    )  # fmt: skip


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) < 2 else f"{', '.join(words[:-1])} and {words[-1]}"
