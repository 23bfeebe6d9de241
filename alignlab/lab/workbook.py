"""What every notebook's set-up cell calls: it names the machine, and opens the run that the notebooks share."""

import os
from pathlib import Path
from types import SimpleNamespace

import torch
from IPython import get_ipython
from matplotlib.figure import Figure
from transformers.utils.logging import disable_progress_bar

from alignlab import losses, recipes
from alignlab.lab import progress, view
from alignlab.lab.page import address, render
from alignlab.models import best_device
from alignlab.pipeline import Pipeline
from alignlab.runs import Run

FAST = bool(os.environ.get("ALIGNLAB_FAST"))  # the tests' setting: the shared run is of the fast size


def open_lab(size: str = "tiny", seed: int = 0, folder: str | Path | None = None) -> Pipeline:
    """The pipeline that a notebook works with. What it trained stays in its folder, so that the next notebook finds it.

    Args:
        size: "tiny", the bundled world on any machine; "smol", SmolLM2-135M on a GPU, or on a CPU with patience.
        seed: give every student another one.
        folder: of the run; by default `runs/workbook-SIZE-seedN` in the current directory.
    """
    chosen = recipes.lesson(FAST) if size == "tiny" else recipes.choose(size, fast=True)
    chosen.set_seed(seed)
    chosen.strengths = (1.0,)  # as trained alone: these notebooks speak of no other strength
    _set_up_notebook()
    print(machine(size))
    place = Path(folder or f"runs/workbook-{'fast-' if FAST else ''}{size}-seed{seed}")
    return Pipeline(Run(place, {**chosen.describe(), "seed": seed}), chosen, seed, watch=progress.Line())


def _set_up_notebook() -> None:
    """Figures show as pictures, without pyplot's global state, and loading a model draws no bar."""
    disable_progress_bar()
    shell = get_ipython()
    if shell is not None:
        formatters = shell.display_formatter.formatters
        formatters["image/png"].for_type(Figure, lambda figure: (view.png(figure, dpi=90), {"alt": told(figure)}))
        formatters["text/html"].for_type(Figure, in_words)
        formatters["text/plain"].for_type(Figure, lambda figure, printer, cycle: printer.text(told(figure)))


def in_words(figure: Figure) -> str:
    """A figure as HTML: JupyterLab shows this before the picture alone, whose alt text it drops."""
    return render("picture", picture=address(view.png(figure, dpi=90)), words=told(figure), width=round(90 * figure.get_figwidth()))


def told(figure: Figure) -> str:
    """A figure in words, for who cannot see it: those of `figure.set_label(...)`, or else its titles, axes and curves."""
    if figure.get_label():
        return str(figure.get_label())
    parts = []
    for axes in figure.axes:
        curves = ", ".join(str(label) for label in axes.get_legend_handles_labels()[1])
        parts.append(
            f"{axes.get_title(loc='left') or axes.get_title()}: {axes.get_ylabel()} against {axes.get_xlabel()}. {curves}".strip(" :.")
        )
    return f"Figure. {'; '.join(parts)}."


def machine(size: str) -> str:
    """A sentence on where this runs, and what else could run here."""
    device = best_device()
    if device.type == "cuda":
        advice = "size smol takes minutes here" if size == "tiny" else "a good place for size smol"
        return f"{torch.cuda.get_device_name(0)}, size {size}: {advice}."
    name = "an Apple GPU" if device.type == "mps" else f"{os.cpu_count()} CPU cores, no GPU"
    return f"{name}, size {size}" + (": every cell runs here in seconds or a few minutes." if size == "tiny" else ": be patient.")


def equations(**own) -> SimpleNamespace:
    """The package's equations, with the learner's own in place of some: what `ppo.train(..., equations=...)` calls."""
    return SimpleNamespace(**vars(losses) | own)
