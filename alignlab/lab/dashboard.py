"""The curves of trainings while they run: one figure that is made once and filled again and again."""

import time
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from alignlab.lab.training import short
from alignlab.lab.view import BLUE, COLOURS, FAINT, GREEN, INK, PURPLE, VERMILION, as_it_stands, plain_axes, png, smooth
from alignlab.stage import Panel
from alignlab.stages import stages

DASHES = ("-", (0, (5, 2)))
PAIR = (VERMILION, BLUE)  # of two trainings, or of two curves on one scale
SECOND = GREEN  # what is measured on the right-hand axis
MANY = 60  # from so many points on a curve is noisy: it is drawn faint, with its moving average over it


COMPARED = {
    "gold": "Gold reward, not seen", "kl": "KL to the reference, nats", "reward": "Reward model's score",
    "accuracy": "Preference accuracy", "length": "Tokens per completion", "entropy": "Entropy, nats per token", "loss": "Loss",
}  # fmt: skip


class Dashboard:
    """Curves of one training, or of two over each other."""

    def __init__(self, names: Sequence[str]):
        self.names, self.cost, self.drawn = names, 0.0, -1e9
        self.figure: Figure | None = None
        self.known: list[list[str]] = []  # what can be compared, of each training
        self.axes: list[Axes] = []
        self.lines: list[tuple[tuple[Line2D, Line2D], Axes, int, str]] = []  # a curve (faint and smooth), where, of which training, of what
        self.plane: tuple[Axes, list[Line2D]] | None = None  # of two trainings
        self.band: PolyCollection | None = None
        self.marked: set[tuple[int, int, str]] = set()

    def due(self) -> bool:
        """Whether to draw again: never more than twice a second, and at most a tenth of the time."""
        return time.perf_counter() - self.drawn > max(0.5, 9 * self.cost)

    def draw(self, histories: Sequence[Sequence[dict]]) -> bytes:
        """PNG of the metrics so far, one list of dicts per training."""
        start = time.perf_counter()
        if self.figure is None or (len(histories) > 1 and self.known != _known(histories)):
            self.figure = self._lay_out(histories)
        self._fill(histories)
        picture = png(self.figure, dpi=80)
        self.drawn = time.perf_counter()
        self.cost = self.drawn - start
        return picture

    def words(self, histories: Sequence[Sequence[dict]]) -> str:
        """The picture in words, for those who cannot see it."""
        parts = []
        for name, history in zip(self.names, histories, strict=True):
            if history:
                last = history[-1]
                numbers = ", ".join(f"{key} {last[key]:.3g}" for key in COMPARED if isinstance(last.get(key), float))
                parts.append(f"{name} at step {last['step'] + 1} of {last['steps']}: {numbers}")
        return "Training curves. " + "; ".join(parts)

    # ------------------------------------------------------------------------------------------ drawing

    def _lay_out(self, histories: Sequence[Sequence[dict]]) -> Figure:
        two, share, self.known = len(histories) > 1, self._as_share(histories), _known(histories)
        panels = self._compared() if two else stages()[histories[0][0]["stage"]].panels
        rows = -(-(len(panels) + two) // 3)
        height = 2.7 * rows
        figure = Figure(figsize=(12, height))
        figure.subplots_adjust(left=0.05, right=0.96, top=1 - 0.52 / height, bottom=0.48 / height, wspace=0.3, hspace=0.56)
        grid = list(figure.subplots(rows, 3, squeeze=False).flat)
        self.lines, self.marked, self.band = [], set(), None
        self.plane = self._lay_out_plane(grid[len(panels)]) if two else None
        for axes, panel in zip(grid, panels, strict=False):
            axes.set_title(panel.title, fontsize=10, loc="left", color=INK, pad=17)  # the legend stands below it, off the curves
            plain_axes(axes)
            sides = [(axes, panel.left)] + ([(axes.twinx(), panel.right)] if panel.right else [])
            for side, (where, curves) in enumerate(sides):
                for order, (key, label) in enumerate(curves):
                    for run, name in enumerate(self.names):
                        if two and key not in self.known[run]:
                            continue  # such as a reward, in DPO
                        colour = SECOND if side else PAIR[run] if two else _colours(histories[0][0]["stage"])[order]
                        dash = DASHES[run if two else max(side, order)]
                        self.lines.append((self._curve(where, colour, dash, as_it_stands(name) if two else label), where, run, key))
                if side:
                    where.spines[["top", "left", "bottom"]].set_visible(False)
                    where.spines["right"].set_color(FAINT)
                    where.tick_params(colors=SECOND, labelsize=8)
            if two or panel.right or len(panel.left) > 1:
                handles = [line for (_, line), where, *_ in self.lines if any(where is side for side, _ in sides)]
                place = {"loc": "lower left", "bbox_to_anchor": (-0.01, 0.99), "borderaxespad": 0, "columnspacing": 1.4}
                axes.legend(handles=handles, fontsize=8, frameon=False, ncols=2, handlelength=2.4, **place)
        for axes in grid[: len(panels)]:
            axes.set_xlabel("share of the training" if share else "step", fontsize=8, color=INK, labelpad=1)
        for axes in grid[len(panels) + two :]:
            axes.remove()
        self.axes = grid[: len(panels)]
        return figure

    def _lay_out_plane(self, axes: Axes) -> tuple[Axes, list[Line2D]]:
        axes.set_title("Gold against KL, nats: the path of each", fontsize=10, loc="left", color=INK, pad=17)
        plain_axes(axes)
        paths = [axes.plot([], [], color=PAIR[run], ls=DASHES[run], marker="os"[run], ms=4) for run in (0, 1)]
        return axes, [path[0] for path in paths]

    def _as_share(self, histories: Sequence[Sequence[dict]]) -> bool:
        """Whether the trainings have unequal steps, so that only the share that is done can be compared."""
        return len({history[-1]["steps"] for history in histories if history}) > 1

    def _compared(self) -> list[Panel]:
        keys = [key for key in COMPARED if any(key in known for known in self.known)]
        return [Panel(COMPARED[key], ((key, key),)) for key in keys[:5]]

    def _curve(self, axes: Axes, colour: str, dash, label: str) -> tuple[Line2D, Line2D]:
        (faint,) = axes.plot([], [], color=colour, lw=1, ls=dash, alpha=0.25)
        (line,) = axes.plot([], [], color=colour, lw=1.9, ls=dash, label=label)
        return faint, line

    def _fill(self, histories: Sequence[Sequence[dict]]) -> None:
        share = self._as_share(histories)
        for (faint, line), _, run, key in self.lines:
            x, y = _points(histories[run], key, share)
            faint.set_data((x, y) if len(x) > MANY else ([], []))
            line.set_data(x, smooth(y) if len(x) > MANY else y)
            line.set_marker("." if len(x) < 20 else "")
        for where in dict.fromkeys(where for _, where, *_ in self.lines):
            where.relim()
            where.autoscale_view()
        self._draw_band(histories)
        self._draw_marks(histories, share)
        if self.plane is not None:
            axes, paths = self.plane
            for path, history in zip(paths, histories, strict=True):
                both = [(record["kl"], record["gold"]) for record in history if "kl" in record and "gold" in record]
                path.set_data(*(zip(*both, strict=True) if both else ([], [])))
            axes.relim()
            axes.autoscale_view()

    def _draw_band(self, histories: Sequence[Sequence[dict]]) -> None:
        """The 95% interval of the KL, where the stage reports its standard error."""
        if self.band is not None:
            self.band.remove()
            self.band = None
        known = [record for record in histories[0] if "kl_se" in record] if len(histories) == 1 else []
        if known:
            axes, colour = next((where, line.get_color()) for (_, line), where, _, key in self.lines if key == "kl")
            low, high = ([record["kl"] + sign * 1.96 * record["kl_se"] for record in known] for sign in (-1, 1))
            steps = [record["step"] + 1 for record in known]
            self.band = axes.fill_between(steps, low, high, color=colour, alpha=0.18, lw=0)

    def _draw_marks(self, histories: Sequence[Sequence[dict]], share: bool) -> None:
        """A line wherever a control was moved."""
        moved = (
            (run, record, change) for run, history in enumerate(histories) for record in history for change in record.get("changed", ())
        )
        for run, record, change in moved:
            key = run, record["step"], change["name"]
            if key in self.marked:
                continue
            self.marked.add(key)
            at = (record["step"] + 1) / record["steps"] if share else record["step"] + 1
            words = f"{change['name']} {short(change['old'])} to {short(change['new'])}"
            for axes in self.axes:
                axes.axvline(at, color=FAINT, lw=1.2, ls=DASHES[run], zorder=0)
            self.axes[0].annotate(
                as_it_stands(words), (at, 0.02), (3, 2), xycoords=self.axes[0].get_xaxis_transform(), textcoords="offset points",
                rotation=90, fontsize=7, color=INK, va="bottom", bbox={"fc": "white", "ec": "none", "alpha": 0.75, "pad": 0.6},
            )  # fmt: skip


def _known(histories: Sequence[Sequence[dict]]) -> list[list[str]]:
    """What can be compared, of each training; it grows while the first step is still being made."""
    return [[key for key in COMPARED if any(key in record for record in history)] for history in histories]


def _points(history: Sequence[dict], key: str, share: bool) -> tuple[list, list]:
    known = [record for record in history if record.get(key) is not None]
    return [(r["step"] + 1) / (r["steps"] if share else 1) for r in known], [r[key] for r in known]


def _colours(stage: str) -> tuple[str, str]:
    """The stage's own colour, and one for a second curve beside it."""
    first = COLOURS.get(stage, PURPLE)
    return first, PAIR[0] if first == PAIR[1] else PAIR[1]
