"""A finished run in words: its table, its verdict, and the report as one page."""

import base64
import html
from collections.abc import Sequence

from matplotlib.figure import Figure

from alignlab.encoding import last_message
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
    """What the numbers say, a sentence each."""
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

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; padding-bottom: .2rem; }
img { max-width: 100%; height: auto; } .note { color: #555; }
.alarm { background: #fde8e0; padding: .6rem; border-left: 4px solid #D55E00; }
table { border-collapse: collapse; font-size: .92rem; } th, td { padding: .35rem .7rem; text-align: right; border-bottom: 1px solid #eee; }
th:first-child, td:first-child { text-align: left; } td.text { text-align: left; max-width: 44rem; } .low { color: #777; font-size: .85em; }
pre { white-space: pre-wrap; }
.low { white-space: nowrap; }
code { background: #f4f4f4; padding: .1rem .3rem; }
"""


def page(comparison: dict, metrics: Sequence[dict], config: dict) -> str:
    """The comparison as one self-contained HTML page; all text from models and data is escaped."""
    methods = [name for name in comparison["policies"] if name in METHODS]
    titles = _listed([NAMES[name] for name in methods])
    needs = "; ".join(f"{_listed([STAGES[stage].title for stage in (*STAGES[name].needs, name)])} for {NAMES[name]}" for name in methods)
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>",
        f"<title>alignlab: {titles}, size {html.escape(comparison['size'])}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{titles} from the same start and the same pairs</h1>",
        f"<p class='note'>Size <code>{html.escape(comparison['size'])}</code>, seed {comparison['seed']}, judge: "
        f"{html.escape(JUDGES[comparison['judge']['kind']])}, {comparison['judge']['prompts']} held-out prompts; "
        f"{betas(comparison)}. "
        "Intervals are 95%, by bootstrap over prompts; the reward model's over held-out pairs.</p>",
        *(f"<p class='alarm'>{html.escape(alarm)}</p>" for alarm in comparison["alarms"]),
        _image(plane_figure(comparison), "Reward-KL plane: gold reward of each policy against its KL to the SFT model, with the frontier"),
        "<ul>" + "".join(f"<li>{html.escape(words)}</li>" for words in verdict(comparison)) + "</ul>",
        "<h2>The numbers</h2>", _html_table(comparison),
        f"<p class='note'>Minutes and memory count all stages that a policy needs: {needs}. "
        "Efficiency is the gain over SFT as a share of the frontier's gain at the same KL.</p>",
        "<h2>The same prompt, four answers</h2>", _html_samples(comparison["samples"]),
        "<h2>Training</h2>", _image(training_figure(metrics), "Training curves of every stage"),
        "<h2>The judge</h2>", _image(calibration_figure(comparison["reward_model"]), "Reliability diagram of the reward model"),
        "<h2>Settings</h2>", f"<pre>{html.escape(_settings(config))}</pre>", "</body></html>",
    ]  # fmt: skip
    return "\n".join(parts)


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) < 2 else f"{', '.join(words[:-1])} and {words[-1]}"


def _settings(config: dict) -> str:
    return "\n".join(f"{key}: {value}" for key, value in config.items())


def _html_table(comparison: dict) -> str:
    columns = {"gold": ".2f", "kl": ".2f", "win_rate": ".0%", "gold_efficiency": ".0%", "reward_model_efficiency": ".0%",
               "optimiser_efficiency": ".0%", "length": ".1f", "stop_rate": ".0%", "distinct_2": ".2f"}  # fmt: skip
    rows = []
    for name, row in comparison["policies"].items():
        cells = "".join(f"<td>{_cell(row.get(key), form)}</td>" for key, form in columns.items())
        rows.append(
            f"<tr><td><b style='color:{COLOURS[name]}'>{NAMES[name]}</b></td>{cells}"
            f"<td>{row['minutes']:.1f}</td><td>{row['peak_memory_mb']:,}</td></tr>"
        )
    head = "".join(f"<th>{key.replace('_', ' ')}</th>" for key in ("policy", *columns, "minutes", "peak MB"))
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _cell(measured, form: str) -> str:
    if measured is None:
        return "&ndash;"
    mean, low, high = (format(value, form) for value in measured)
    return f"{mean}<br><span class='low'>{low} to {high}</span>"


def _html_samples(samples: Sequence[dict]) -> str:
    parts = []
    for sample in samples:
        prompt = last_message(sample["prompt"])
        rows = "".join(
            f"<tr><td><b style='color:{COLOURS[name]}'>{NAMES[name]}</b></td><td class='text'>{html.escape(sample[name]['text'])}</td>"
            f"<td>{sample[name]['gold']:.2f}</td></tr>"
            for name in NAMES
            if name in sample
        )
        parts.append(f"<p><b>{html.escape(prompt)}</b></p><table>{rows}</table>")
    return "".join(parts)


def _image(figure: Figure, words: str) -> str:
    return f"<img alt='{html.escape(words)}' src='data:image/png;base64,{base64.b64encode(png(figure)).decode()}'>"
