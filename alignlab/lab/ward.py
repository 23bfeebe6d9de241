"""What notebook 15 shows: sick curves over the healthy runs' band, a switch's code and its assertion, and the strips of the mysteries."""

import inspect
from collections.abc import Callable, Sequence
from itertools import zip_longest

import ipywidgets as widgets
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alignlab.lab import clinic, mystery, sweeps
from alignlab.lab.breaks import BREAKS
from alignlab.lab.page import View, bundle, render
from alignlab.lab.view import BLUE, FAINT, INK, VERMILION, plain_axes
from alignlab.pipeline import Pipeline

TITLES = {
    "loss": "Loss", "stop_rate": "Share that ends", "length": "Length, tokens", "gold": "Gold", "accuracy": "Accuracy on the batch",
    "test_accuracy": "Accuracy on test pairs", "reward": "Reward: mean score", "kl": "KL as reported, nats",
    "clip_fraction": "Clip fraction", "first_clip": "Clip fraction, first pass", "approx_kl": "KL to the sampler",
    "value_loss": "Value loss", "drift": "Recorded against scored", "margin": "Margin", "chosen_logps": "Chosen log-probs, nats",
}  # fmt: skip
STRIPS = {
    "ppo": ("reward", "gold", "kl", "first_clip", "approx_kl", "drift", "stop_rate", "length"),
    "dpo": ("loss", "accuracy", "kl", "gold"),
}
UNITS = {"gold": "", "score": "", "kl": " nats", "length": " tokens", "stop_rate": ""}

Curves = dict[str, list[list]]  # by metric: steps, values


# ---------------------------------------------------------------------------------------------- curves


def curves_figure(
    healthy: Sequence[Curves], sick: Sequence[Curves], keys: Sequence[str], columns: int = 4, label: str = "broken"
) -> Figure:
    """Metrics over the steps, a panel each: the band of the healthy runs, and each sick run over it.

    Args:
        healthy, sick: curves of some runs, as `clinic.record` gives them.
        keys: the metrics. columns: panels in a row, at most. label: of the sick runs.
    """
    columns = min(columns, len(keys))
    rows = -(-len(keys) // columns)
    figure = Figure(figsize=(9.6 if columns > 2 else 7.0, 2.5 * rows + 0.35), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    told = []
    for axes, key in zip_longest(grid, keys):
        if key is None:
            axes.set_axis_off()
            continue
        _band(axes, healthy, key)
        for number, curves in enumerate(sick):
            axes.plot(*curves[key], color=VERMILION, lw=1.8, marker="o", ms=3, label=None if number else label, zorder=4)
        axes.set_title(TITLES[key], loc="left", fontsize=10, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        _no_less_than(axes, 4 * mystery.FLOORS.get(key, 0.0))
        plain_axes(axes)
        ends = [f"{curves[key][1][0]:.3g} to {curves[key][1][-1]:.3g}" for curves in (*sick, healthy[0])]
        told.append(f"{TITLES[key]}: {label} {', '.join(ends[:-1])}; a healthy run {ends[-1]}")
    figure.supxlabel("step", fontsize=9, color=INK)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper right", ncols=3, fontsize=9, frameon=False)
    figure.set_label(f"{label} over the band of {len(healthy)} healthy runs. {'. '.join(told)}.")
    return figure


def _no_less_than(axes: Axes, span: float) -> None:
    """Widen the vertical axis upwards to that span, so that rounding errors do not fill a panel."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, max(high, low + span))


def _band(axes: Axes, healthy: Sequence[Curves], key: str) -> None:
    steps = healthy[0][key][0]
    values = torch.tensor([curves[key][1] for curves in healthy])
    label = f"{len(healthy)} healthy runs, lowest to highest"
    axes.fill_between(steps, values.amin(0), values.amax(0), color=FAINT, alpha=0.45, lw=0, label=label)
    axes.plot(steps, values.mean(0), color=BLUE, lw=1.5, ls="--", label="their mean")


def _recorded(stage: str, fault: str) -> list[dict]:
    return [point["result"] for point in sweeps.of(sweeps.load("clinic"), stage=stage, fault=fault)]


def curves(name: str) -> Figure:
    """The recorded curves of one of the twelve switches over those of the healthy runs."""
    chosen = BREAKS[name]
    healthy, sick = (_recorded(chosen.stage, fault) for fault in (mystery.HEALTHY, name))
    return curves_figure([each["curves"] for each in healthy], [each["curves"] for each in sick], chosen.tells)


def ends(*names: str) -> View:
    """How the recorded runs of some switches ended, judged by code that no switch touches, beside the healthy runs of the same stage."""
    rows = []
    for name in names:
        stage = BREAKS[name].stage
        for title, runs in (("healthy", _recorded(stage, mystery.HEALTHY)), (name, _recorded(stage, name))):
            row = [f"{stage.upper()}: {title}", *(_span([run["end"][key] for run in runs]) for key in UNITS)]
            rows += [row] if row not in rows else []
    heads = ["run", "gold", "score", "KL, nats", "length, tokens", "ends by itself"]
    return _table("Answers to held-out prompts after training: the lowest and the highest of the runs", heads, rows)


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def written(name: str, seed: int = 0) -> View:
    """Answers of a healthy and of the broken run to the same prompts, with the reward model's score and gold."""
    stage = BREAKS[name].stage
    runs = {title: sweeps.of(sweeps.load("clinic"), stage=stage, fault=title)[seed]["result"] for title in (mystery.HEALTHY, name)}
    return _answers("The first answers, as they came", {title: run["samples"] for title, run in runs.items()})


def _answers(caption: str, runs: dict[str, Sequence[dict]], count: int = 2) -> View:
    def told(each: dict) -> str:
        return (each["text"].strip() or "(nothing)") + ("" if each["stopped"] else " ... (cut off)")

    rows = [
        [title, told(each), f"{each['score']:+.1f}", f"{each['gold']:.1f}"]
        for row in range(count) for title, samples in runs.items() for each in samples[row : row + 1]
    ]  # fmt: skip
    return _table(caption, ["run", "answer", "score", "gold"], rows)


def _table(caption: str, heads: list[str], rows: list[list[str]]) -> View:
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in [heads, *rows]]
    return View(render("table", caption=caption, heads=heads, rows=rows), "\n".join([caption, *lines]))


# ---------------------------------------------------------------------------------------------- a switch


def examine(name: str) -> None:
    """Print a switch's code, its law, its assertion, what that says of the code and of the package's, and the cure."""
    chosen = BREAKS[name]
    print(inspect.getsource(chosen.wrong))
    print(f"Law {chosen.law}: {chosen.says}\n")
    print(inspect.getsource(chosen.keeps))
    print(f"assert, with this code:      {verdict(chosen.keeps, chosen.wrong)}")
    print(f"assert, with the package's:  {verdict(chosen.keeps, chosen.right)}")
    print(f"Cure: {chosen.cure}")


def verdict(keeps: Callable[[Callable], None], code: Callable) -> str:
    """What an assertion says of a piece of code, in a line."""
    try:
        keeps(code)
    except AssertionError as error:
        return f"fails: {str(error).splitlines()[0]}"
    return "passes"


class Picker(widgets.Dropdown):
    """A choice among PPO's switches; where widgets cannot live, its words."""

    _ipython_display_ = None

    def __init__(self) -> None:
        super().__init__(options=[name for name, each in BREAKS.items() if each.stage == "ppo"], value="kl_is_paid", description="switch")

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict:
        words = f"switch = {self.value}; the others are {', '.join(name for name in self.options if name != self.value)}"
        return bundle(words, f"<p>{words}</p>", self)


def live(given: Pipeline, name: str, **settings) -> clinic.Setup:
    """A short run with one switch on, ready for `clinic.trained`."""
    run = clinic.setup(given, BREAKS[name].stage, given.seed, **settings)
    BREAKS[name].put(run, BREAKS[name].wrong)
    return run


# ---------------------------------------------------------------------------------------------- mysteries


def candidates() -> View:
    """The faults among which the mysteries' are found."""
    rows = [[name, " or ".join(fault.stages).upper(), fault.words] for name, fault in mystery.FAULTS.items()]
    return _table("The candidates", ["name", "of", "what is wrong"], rows)


def strip(number: int) -> Figure:
    """A recorded mystery's curves over the healthy runs' band."""
    return _strip(f"run {number}", mystery.recorded(number)["curves"], mystery.stage_of(number))


def _strip(title: str, curves: Curves, stage: str) -> Figure:
    return curves_figure(mystery.healthy_curves(stage), [curves], STRIPS[stage], label=title)


def answers_of(number: int) -> View:
    """What a recorded mystery wrote at its end."""
    caption = f"Run {number} ({mystery.stage_of(number).upper()}): the first answers"
    return _answers(caption, {f"run {number}": mystery.recorded(number)["samples"]})


def departures(numbers: Sequence[int] = mystery.NUMBERS) -> View:
    """What is seen of the recorded mysteries: departures from the healthy runs, in their standard deviations."""
    seen = [mystery.observed(number) for number in numbers]
    keys = [key for key in seen[0] if key not in ("number", "stage")]
    rows = [[key, *(f"{each[key]:+.1f}" for each in seen)] for key in keys]
    heads = [f"{seen[0]['stage'].upper()}", *(f"run {number}" for number in numbers)]
    return _table("Departures from the healthy runs, in their standard deviations", heads, rows)


def numbers_of(stage: str) -> list[int]:
    """The recorded mysteries of a stage."""
    return [number for number in mystery.NUMBERS if mystery.stage_of(number) == stage]


class Live:
    """A live mystery: a short run of PPO with a fault drawn by its number."""

    def __init__(self, given: Pipeline, number: int, **settings):
        self.number, self.fault = number, mystery.hidden_in(number)
        self.run = clinic.setup(given, "ppo", number, **settings)
        mystery.FAULTS[self.fault].put(self.run)
        self.curves: Curves = {}

    def train(self, watch: Callable[[dict], None] = lambda metrics: None) -> Figure:
        """Train it; its curves over the healthy runs' band."""
        self.curves = clinic.trained(self.run, watch)
        return _strip(f"live run {self.number}", self.curves, "ppo")

    @property
    def seen(self) -> dict:
        """Its departures from the healthy runs, for a diagnosis."""
        found = mystery.departures(self.curves, "ppo", mystery.healthy_curves("ppo"))
        return {"number": self.number, "stage": "ppo", **found}

    def reveal(self) -> str:
        """Its fault."""
        return f"live run {self.number}: {self.fault}, {mystery.FAULTS[self.fault].words}"
