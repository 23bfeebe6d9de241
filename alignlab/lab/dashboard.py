"""The curves of trainings while they run: one figure that is made once and filled again and again."""

import io
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from alignlab.lab.training import short
from alignlab.lab.view import BLUE, COLOURS, FAINT, GREEN, INK, PURPLE, VERMILION, as_it_stands, plain_axes, png, smooth
from alignlab.stage import Panel
from alignlab.stages import stages

DASHES = ("-", (0, (5, 2)))
PAIR = (VERMILION, BLUE)  # of two curves on one scale
SECOND = GREEN  # what is measured on the right-hand axis, or the second of two runs of one stage
MANY = 60  # from so many points on a curve is noisy: it is drawn faint, with its moving average over it

# One panel, in CSS pixels, and what is left free around its axes: for ticks on both sides, title and legend, ticks and "step".
WIDE, HIGH, LEFT, RIGHT, TOP, BOTTOM = 300, 160, 43, 42, 36, 28
COLUMNS = 3  # of the whole picture
SMALL, TITLE = 7.4, 9  # points, of which 72 are 100 CSS pixels
DENSITY = 320  # dots an inch, of which 100 are CSS pixels: crisp at a device scale of 2, also where a panel is made larger
STILL = 200  # of the picture that stays in the notebook

COMPARED = {
    "gold": "Gold reward, not seen", "kl": "KL to the reference, nats", "reward": "Reward model's score",
    "accuracy": "Preference accuracy", "length": "Tokens per answer", "entropy": "Entropy, nats per token", "loss": "Loss",
}  # fmt: skip
PATHS = "Gold against KL, nats: the path of each"


class Tile(NamedTuple):
    """The picture of one panel."""

    png: bytes
    words: str  # what it shows, for those who cannot see it


class Dashboard:
    """Curves of one training, or of two over each other.

    Args:
        names: what the trainings are called.
        kinds: their stages' names, for panels that are laid out before the first step; by default their metrics tell.
    """

    def __init__(self, names: Sequence[str], kinds: Sequence[str] = ()):
        self.names, self.kinds, self.cost, self.drawn = names, list(kinds), 0.0, -1e9
        self.figure: Figure | None = None
        self.known: list[list[str]] = []  # what can be compared, of each training
        self.panels: list[Panel] = []
        self.axes: list[Axes] = []
        self.lines: list[tuple[tuple[Line2D, Line2D], Axes, int, str]] = []  # a curve (faint and smooth), where, of which training, of what
        self.plane: tuple[Axes, list[Line2D]] | None = None  # of two trainings
        self.ends: list[Line2D] = []  # where each path in the plane has come to, a larger marker
        self.share = False  # whether the curves are drawn over the share that is done
        self.notes: list[tuple[Text, list[Axes]]] = []  # what stands in a panel as long as it has no curve, and its axes
        self.band: PolyCollection | None = None
        self.marked: set[tuple[int, int, str]] = set()

    def due(self) -> bool:
        """Whether to draw again: never more than twice a second, and at most a tenth of the time."""
        return time.perf_counter() - self.drawn > max(0.5, 9 * self.cost)

    def draw(self, histories: Sequence[Sequence[dict]]) -> bytes:
        """PNG of the metrics so far, one list of dicts per training; `width` CSS pixels wide."""
        return png(self._filled(histories), dpi=STILL)

    @property
    def width(self) -> int:
        """Of the whole picture, CSS pixels."""
        return WIDE * COLUMNS

    def tiles(self, histories: Sequence[Sequence[dict]]) -> list[Tile]:
        """The same picture, a PNG a panel."""
        start, before = time.thread_time(), self.figure  # of this thread alone: others may keep the machine busy
        figure = self._filled(histories)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        dots = numpy.asarray(canvas.buffer_rgba())
        wide, high = dots.shape[1] // COLUMNS, HIGH * DENSITY // 100
        made = []
        for place, words in enumerate(self._words_of_panels(histories)):
            row, column = divmod(place, COLUMNS)
            file = io.BytesIO()
            part = dots[row * high : (row + 1) * high, column * wide : (column + 1) * wide].copy()
            imsave(file, part, format="png", pil_kwargs={"compress_level": 1})
            made.append(Tile(file.getvalue(), words))
        self.drawn = time.perf_counter()
        self.cost = time.thread_time() - start if figure is before else 0.0  # to lay it out is paid once
        return made

    def words(self, histories: Sequence[Sequence[dict]]) -> str:
        """The picture in words, for those who cannot see it."""
        parts = []
        for name, history in zip(self.names, histories, strict=True):
            if history:
                last = history[-1]
                numbers = ", ".join(f"{key} {last[key]:z.3g}" for key in COMPARED if isinstance(last.get(key), float))
                parts.append(f"{name} at step {last['step'] + 1} of {last['steps']}: {numbers}")
        return "Training curves. " + "; ".join(parts)

    def _words_of_panels(self, histories: Sequence[Sequence[dict]]) -> list[str]:
        """Each panel in words: its title and the last value of each of its curves."""
        told = []
        for panel in self.panels:
            parts = []
            for run, history in enumerate(histories):
                for key, label in (*panel.left, *panel.right):
                    last = next((record for record in reversed(history) if record.get(key) is not None), None)
                    name = self.names[run] if len(histories) > 1 else label
                    if last is not None:
                        parts.append(f"{name} {last[key]:z.3g} at step {last['step'] + 1}")
            told.append(f"{panel.title}: {', '.join(parts) or 'not measured so far'}")
        if self.plane is not None:
            ends = [(name, _path(history)) for name, history in zip(self.names, histories, strict=True)]
            parts = [f"{name} at KL {path[-1][0]:z.3g}, gold {path[-1][1]:z.3g}" for name, path in ends if path]
            told.append(f"{PATHS}: {'; '.join(parts) or 'not measured so far'}")
        return told

    # ------------------------------------------------------------------------------------------ drawing

    def _filled(self, histories: Sequence[Sequence[dict]]) -> Figure:
        new = len(histories) > 1 and (self.known, self.share) != (self._known(histories), self._as_share(histories))
        if self.figure is None or new:
            self.figure = self._lay_out(histories)
        self._fill(histories)
        return self.figure

    def _kind(self, history: Sequence[dict], run: int) -> str:
        """The stage of a training."""
        return history[0]["stage"] if history else self.kinds[run]

    def _lay_out(self, histories: Sequence[Sequence[dict]]) -> Figure:
        two, self.share, self.known = len(histories) > 1, self._as_share(histories), self._known(histories)
        self.panels = self._compared() if two else list(stages()[self._kind(histories[0], 0)].panels)
        colours = self._colours(histories)
        rows = -(-(len(self.panels) + two) // COLUMNS)
        figure, grid = _grid(rows)
        self.lines, self.notes, self.marked, self.band = [], [], set(), None
        for axes, panel in zip(grid, self.panels, strict=False):
            _prepare(axes, panel.title, "share of the training" if self.share else "step")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=not self.share))
            sides = [(axes, panel.left)] + ([(axes.twinx(), panel.right)] if panel.right else [])
            for side, (where, curves) in enumerate(sides):
                for order, (key, label) in enumerate(curves):
                    for run, name in enumerate(self.names):
                        if two and key not in self.known[run]:
                            continue  # such as a reward, in DPO
                        colour = SECOND if side else colours[run if two else order]
                        dash = DASHES[run if two else max(side, order)]
                        self.lines.append((_curve(where, colour, dash, _legible(name) if two else label), where, run, key))
                if side:
                    _prepare_second(where)
            if two or panel.right or len(panel.left) > 1:
                _legend(axes, self._curves_in([where for where, _ in sides]))
            self._note(figure, axes, [where for where, _ in sides])
        self.plane = self._lay_out_plane(figure, grid[len(self.panels)], colours) if two else None
        for axes in grid[len(self.panels) + two :]:
            axes.remove()
        self.axes = grid[: len(self.panels)]
        return figure

    def _lay_out_plane(self, figure: Figure, axes: Axes, colours: Sequence[str]) -> tuple[Axes, list[Line2D]]:
        _prepare(axes, PATHS, "")
        paths = [
            axes.plot([], [], color=colours[run], ls=DASHES[run], marker="os"[run], ms=3, lw=1.2, label=_legible(name))[0]
            for run, name in enumerate(self.names)
        ]
        self.ends = [axes.plot([], [], color=path.get_color(), ls="", marker=path.get_marker(), ms=6, clip_on=False)[0] for path in paths]
        _legend(axes, paths)
        self._note(figure, axes, [axes])
        return axes, paths

    def _note(self, figure: Figure, axes: Axes, sides: list[Axes]) -> None:
        (left, low), (right, high) = axes.get_position().get_points()
        words = figure.text((left + right) / 2, (low + high) / 2, "", ha="center", va="center", fontsize=8, color=INK)
        self.notes.append((words, sides))

    def _curves_in(self, sides: Sequence[Axes]) -> list[Line2D]:
        """The curves of a panel, or the paths of the plane."""
        paths = self.plane[1] if self.plane is not None and self.plane[0] in sides else []
        return [line for (_, line), where, *_ in self.lines if where in sides] + paths

    def _as_share(self, histories: Sequence[Sequence[dict]]) -> bool:
        """Whether the trainings have unequal steps, so that only the share that is done can be compared."""
        return len({history[-1]["steps"] for history in histories if history}) > 1

    def _known(self, histories: Sequence[Sequence[dict]]) -> list[list[str]]:
        """What can be compared, of each training: until its first step is whole, what its stage promises."""
        known = []
        for run, history in enumerate(histories):
            whole = bool(history) and not history[-1].get("partial")
            promised = () if whole else stages()[self._kind(history, run)].metrics
            known.append([key for key in COMPARED if key in promised or any(key in record for record in history)])
        return known

    def _compared(self) -> list[Panel]:
        keys = [key for key in COMPARED if any(key in known for known in self.known)]
        return [Panel(COMPARED[key], ((key, key),)) for key in keys[:5]]

    def _colours(self, histories: Sequence[Sequence[dict]]) -> tuple[str, str]:
        """Of two trainings; or of one, and of a second curve beside it."""
        return colours_of([self._kind(history, run) for run, history in enumerate(histories)])

    def _fill(self, histories: Sequence[Sequence[dict]]) -> None:
        share = self.share
        for (faint, line), _, run, key in self.lines:
            x, y = _points(histories[run], key, share)
            faint.set_data((x, y) if len(x) > MANY else ([], []))
            line.set_data(x, smooth(y) if len(x) > MANY else y)
            line.set_marker("." if len(x) < 20 else "")
        if self.plane is not None:
            for path, end, history in zip(self.plane[1], self.ends, histories, strict=True):
                places = _path(history)
                path.set_data([kl for kl, _ in places], [gold for _, gold in places])
                end.set_data([kl for kl, _ in places[-1:]], [gold for _, gold in places[-1:]])
        for words, sides in self.notes:
            told = [any(numpy.size(line.get_xdata()) for line in self._curves_in([where])) for where in sides]
            words.set_text("not measured so far" if any(histories) else "comes with the first step")
            words.set_visible(not any(told))
            for where, known in zip(sides, told, strict=True):
                where.axison = any(told)
                where.yaxis.set_visible(known)
                where.relim()
                where.autoscale_view()
        if not share and (ends := [history[end]["step"] + 1 for history in histories if history for end in (0, -1)]):
            first, last = min(ends), max(*ends, min(ends) + 1)  # a single step has no width
            for axes in self.axes:
                axes.set_xlim(first - 0.04 * (last - first), last + 0.04 * (last - first))
        self._draw_band(histories)
        self._draw_marks(histories, share)

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
        moved = [(run, record, *move) for run, history in enumerate(histories) for record in history for move in _moves(record)]
        for run, record, name, old, new in moved:
            key = run, record["step"], name
            if key in self.marked:
                continue
            self.marked.add(key)
            at = (record["step"] + 1) / record["steps"] if share else record["step"] + 1
            words = f"{name}\n{short(old)} to {short(new)}"  # in one line too long for so low a panel
            for axes in self.axes:
                axes.axvline(at, color=FAINT, lw=1.2, ls=DASHES[run], zorder=0)
            self.axes[0].annotate(
                as_it_stands(words), (at, 0.02), (3, 2), xycoords=self.axes[0].get_xaxis_transform(), textcoords="offset points",
                rotation=90, fontsize=6.8, color=INK, va="bottom", clip_on=True,
                bbox={"fc": "white", "ec": "none", "alpha": 0.75, "pad": 0.6},
            )  # fmt: skip


def colours_of(kinds: Sequence[str]) -> tuple[str, str]:
    """The colours of two trainings of these stages; of one training, its stage's own, and one for a second curve beside it."""
    first = COLOURS.get(kinds[0], PURPLE)
    if len(kinds) > 1:
        second = COLOURS.get(kinds[1], PURPLE)
        return first, second if second != first else SECOND
    return first, PAIR[0] if first == PAIR[1] else PAIR[1]


def _grid(rows: int) -> tuple[Figure, list[Axes]]:
    """A figure of equal tiles, the margins of each inside it, so that it can be cut into them."""
    wide, high = WIDE * COLUMNS, HIGH * rows
    figure = Figure(figsize=(wide / 100, high / 100), dpi=DENSITY)
    figure.subplots_adjust(
        left=LEFT / wide, right=1 - RIGHT / wide, wspace=(LEFT + RIGHT) / (WIDE - LEFT - RIGHT),
        top=1 - TOP / high, bottom=BOTTOM / high, hspace=(TOP + BOTTOM) / (HIGH - TOP - BOTTOM),
    )  # fmt: skip
    return figure, list(figure.subplots(rows, COLUMNS, squeeze=False).flat)


def _prepare(axes: Axes, title: str, below: str) -> None:
    axes.set_title(title, fontsize=TITLE, loc="left", x=-0.1, y=1, color=INK, pad=14)  # the legend stands below it, off the curves
    plain_axes(axes)
    axes.tick_params(labelsize=SMALL, length=2, pad=2)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_tick)
    axes.set_xlabel(below, fontsize=SMALL, color=INK)
    axes.xaxis.set_label_coords(0.5, -0.16)  # said outright, as the title's height is: to work them out takes a third of the drawing


def _prepare_second(axes: Axes) -> None:
    """The scale on the right."""
    axes.spines[["top", "left", "bottom"]].set_visible(False)
    axes.spines["right"].set_color(FAINT)
    axes.tick_params(colors=SECOND, labelsize=SMALL, length=2, pad=2)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(_tick)


def _tick(value: float, place: float = 0) -> str:
    """A number in so few characters that there is room for it beside an axis.

    >>> [_tick(value) for value in (0.125, 30.0, -0.0, 0.000525)]
    ['0.125', '30', '0', '5.2e-4']
    """
    text = f"{value:z.4g}"
    if len(text) <= 6:
        return text
    digits, power = f"{value:.1e}".split("e")
    return f"{digits}e{int(power)}"


def _legend(axes: Axes, lines: Sequence[Line2D]) -> None:
    axes.legend(
        handles=list(lines), loc="lower left", bbox_to_anchor=(-0.1, 0.98), ncols=2, fontsize=SMALL, labelcolor=INK, frameon=False,
        handlelength=2.2, borderpad=0.2, borderaxespad=0, columnspacing=1.2, handletextpad=0.5,
    )  # fmt: skip


def _legible(name: str) -> str:
    """A run's name, as long as a legend has room for."""
    return as_it_stands(name if len(name) <= 18 else f"{name[:17]}…")


def _curve(axes: Axes, colour: str, dash, label: str) -> tuple[Line2D, Line2D]:
    (faint,) = axes.plot([], [], color=colour, lw=0.8, ls=dash, alpha=0.25)
    (line,) = axes.plot([], [], color=colour, lw=1.5, ls=dash, ms=4, label=label)
    return faint, line


def _path(history: Sequence[dict]) -> list[tuple[float, float]]:
    """KL and gold, wherever both were measured."""
    return [(record["kl"], record["gold"]) for record in history if record.get("kl") is not None and record.get("gold") is not None]


def _moves(record: dict) -> list[tuple[str, object, object]]:
    """What controls changed at a step: a name, the first old and the last new value, for one may be moved several times."""
    moves: dict[str, tuple] = {}
    for change in record.get("changed", ()):
        name = change["name"]
        moves[name] = (moves[name][0] if name in moves else change["old"], change["new"])
    return [(name, old, new) for name, (old, new) in moves.items()]


def _points(history: Sequence[dict], key: str, share: bool) -> tuple[list, list]:
    known = [record for record in history if record.get(key) is not None]
    return [(r["step"] + 1) / (r["steps"] if share else 1) for r in known], [r[key] for r in known]
