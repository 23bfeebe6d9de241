"""Live training in a notebook: controls that move a real run, and curves drawn from its metrics.

    training = live.Training(ppo.train(policy, value_head, score, prompts, config), config)
    await live.run(training)

A stage is a generator: to pause, do not ask for its next step; to stop, leave it where it is; the same call resumes. A control
only notes what was asked; between two steps, and only there, that is written into the stage's config and logged.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import ipywidgets
from IPython.display import display

from alignlab.encoding import last_message
from alignlab.files import read_lines
from alignlab.lab import show
from alignlab.lab.dashboard import Dashboard, colours_of
from alignlab.lab.kernel import kernel, messages
from alignlab.lab.knob import Knob
from alignlab.lab.page import address, box, bundle, render
from alignlab.lab.training import Training, controls_of, short
from alignlab.stage import Control
from alignlab.stages import METHODS, stages

LISTEN = 0.5  # seconds at most to take in messages that keep coming, between two steps


# ---------------------------------------------------------------------------------------------- running


class Interrupted(KeyboardInterrupt):
    """The front end's stop button, or Ctrl-C. The training stands between two steps."""

    def _render_traceback_(self) -> list[str]:
        return ["Interrupted between two steps; nothing is lost. Run the cell again to resume."]


async def run(training: Training, controls: Sequence[Control] | None = None) -> Training:
    """Run a training to its end, or until Stop, under its controls and curves; calling it again resumes.

    Works in JupyterLab, Notebook, Colab, headless and, with lines of text in place of the curves, in a plain script:
    `asyncio.run(live.run(training))`.

    Args:
        training: what to drive; everything it learned and told is in it afterwards.
        controls: those to show; by default all that act on its stage.

    Raises:
        Interrupted: by the front end's stop button or Ctrl-C, between two steps.
    """
    await _drive([training], [controls])
    return training


async def compare(first: Training, second: Training, controls: Sequence[str] | None = None) -> tuple[Training, Training]:
    """Run two trainings side by side in lock-step, their curves over each other; the one that is behind moves next.

    Args:
        controls: the settings that have a slider, by name, such as "beta"; by default all that act on each stage.
    """
    if first.title == second.title:
        first.title, second.title = f"{first.title} A", f"{second.title} B"
    every = [controls_of(training.config) for training in (first, second)]
    await _drive([first, second], [[control for control in each if controls is None or control.name in controls] for each in every])
    return first, second


async def _drive(trainings: Sequence[Training], controls: Sequence) -> None:
    desk = _Desk(trainings, controls) if kernel() else _Lines(trainings)
    interrupted = False
    try:
        async with messages() as take_in:
            while going := [training for training in trainings if not training.finished]:
                await desk.listen(take_in)
                if desk.stopped:
                    break
                if ready := [training for training in going if desk.may_step(training)]:
                    behind = min(ready, key=lambda training: training.share)
                    behind.advance()
                    desk.moved(behind)
                else:
                    await asyncio.sleep(0.03)
                desk.show()
    except (KeyboardInterrupt, asyncio.CancelledError):
        interrupted = True
    finally:
        desk.close()
    if interrupted:
        raise Interrupted


class _Lines:
    """For a plain script: a line of text now and then."""

    stopped = False

    def __init__(self, trainings: Sequence[Training]):
        self.trainings, self.told = trainings, time.perf_counter()
        for training in trainings:
            print(f"{training.title}: {training.settings()}", flush=True)

    async def listen(self, take_in: Callable[[], Awaitable]) -> None:
        await take_in()

    def may_step(self, training: Training) -> bool:
        return True

    def moved(self, training: Training) -> None:
        pass

    def show(self) -> None:
        if time.perf_counter() - self.told > 5:
            self._tell()

    def close(self) -> None:
        self._tell()

    def _tell(self) -> None:
        self.told = time.perf_counter()
        for training in self.trainings:
            print(_status(training), flush=True)


class _Desk:
    """Controls on the left, curves on the right and samples below, on the screen of a notebook."""

    def __init__(self, trainings: Sequence[Training], controls: Sequence[Sequence[Control] | None]):
        self.trainings, self.heard = trainings, 0
        self.stopped = self.paused = False
        self.asked = [0 for _ in trainings]  # whole steps of each, which Step asks for while paused
        self.drawn_steps: list[int] | None = None
        self.kinds = [training.stage.name for training in trainings if training.stage]
        self.dashboard = Dashboard([training.title for training in trainings], self.kinds)
        self.knobs = [
            [Knob(training, control, self._hear) for control in (controls_of(training.config) if chosen is None else chosen)]
            for training, chosen in zip(trainings, controls, strict=True)
        ]
        self.heads = [ipywidgets.HTML() for _ in trainings]
        self.status, self.curves, self.samples = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        self._buttons()
        groups = [box([head, *(knob.widget for knob in knobs)], "group") for head, knobs in zip(self.heads, self.knobs, strict=True)]
        left = box([box([self.pause, self.step, self.stop], "buttons"), *groups], "controls")
        if len(trainings) > 1:
            left.add_class("alignlab-close")
        self.box = box([self.status, box([left, box([self.curves], "curves")], "sides"), self.samples], "panel")
        if len(self.kinds) == len(trainings):
            self._draw()
        self.panel = display(self._settings(self.box), raw=True, display_id=True)

    # ------------------------------------------------------------------------------------------ what the user does

    def _buttons(self) -> None:
        def button(text: str, icon: str, tooltip: str, act: Callable) -> ipywidgets.Button:
            made = ipywidgets.Button(description=text, icon=icon, tooltip=tooltip)

            def pressed(_: object) -> None:
                self._hear()
                act()

            made.on_click(pressed)
            return made

        self.pause = button("Pause", "pause", "Wait between two steps, or resume", self._toggle)
        self.step = button("Step", "step-forward", "Pause, and take one whole step of each", self._one)
        self.stop = button("Stop", "stop", "End here; running the cell again resumes", self._end)

    def _hear(self) -> None:
        self.heard += 1

    def _toggle(self) -> None:
        self.paused, self.asked = not self.paused, [0 for _ in self.trainings]
        self.pause.description, self.pause.icon = ("Resume", "play") if self.paused else ("Pause", "pause")

    def _one(self) -> None:
        if not self.paused:
            self._toggle()
        self.asked = [count + 1 for count in self.asked]

    def _end(self) -> None:
        self.stopped = True

    async def listen(self, take_in: Callable[[], Awaitable]) -> None:
        """Let the waiting messages in; while they keep coming, for a while."""
        end = time.perf_counter() + LISTEN
        while True:
            before = self.heard
            await take_in()
            if self.heard == before or self.stopped or time.perf_counter() > end:
                return

    def may_step(self, training: Training) -> bool:
        """Whether it may take its next step: not while paused, unless one was asked for."""
        return not self.paused or self.asked[self.trainings.index(training)] > 0

    def moved(self, training: Training) -> None:
        """A training advanced: a step that was asked for is taken once it is whole, such as PPO's after its last epoch."""
        number = self.trainings.index(training)
        if self.asked[number] and not (training.latest or {}).get("partial"):
            self.asked[number] -= 1
        for knob in self.knobs[number]:
            knob.settle()
        self._tell()

    # ------------------------------------------------------------------------------------------ what the user sees

    def show(self) -> None:
        """Draw, where it is due."""
        seen = [len(training.metrics) for training in self.trainings]
        if seen != self.drawn_steps and (self.paused or self.dashboard.due()) and all(training.history for training in self.trainings):
            self.drawn_steps = seen
            self._draw()

    def close(self) -> None:
        """In place of the panel, whose controls are dead from now on: the settings as text, the last picture, the last samples."""
        self.panel.update(self._settings(), raw=True)
        histories = [training.history for training in self.trainings]
        if all(histories):
            words, width = self.dashboard.words(histories), self.dashboard.width
            drawn = self.dashboard.draw(histories)
            html = render("picture", picture=address(drawn), words=words, width=width)
            display({**bundle(words, html), "image/png": drawn}, raw=True, metadata={"image/png": {"alt": words, "width": width}})
            display(bundle(*self._told()), raw=True)
        self.box.close()

    def _draw(self) -> None:
        histories = [training.history for training in self.trainings]
        self.curves.value = _curves(self.dashboard, histories)
        self.samples.value = render("samples", told=_samples(self.trainings))
        self._tell()
        for knob in sum(self.knobs, []):
            knob.follow()

    def _tell(self) -> None:
        """Where the trainings are, at every step, for words cost little; and from which step a move of a control would act."""
        self.status.value = render("status", lines=[_status(training) for training in self.trainings])
        colours = colours_of(self.kinds) if len(self.kinds) == len(self.trainings) > 1 else [None] * len(self.trainings)
        for head, training, colour in zip(self.heads, self.trainings, colours, strict=False):
            head.value = render("head", title=training.title, step=None if training.finished else training.next_step, colour=colour)

    def _settings(self, controls: ipywidgets.Widget | None = None) -> dict:
        """The settings as text, to stand in place of the controls."""
        lines = []
        for training in self.trainings:
            lines.append(f"{training.title}: {training.settings()}")
            for record in training.metrics:
                for change in record.get("changed", ()):
                    lines.append(f"  step {record['step'] + 1}: {change['name']} {short(change['old'])} to {short(change['new'])}")
        text = "\n".join(lines)
        return bundle(text, render("preformatted", text=text, style="margin: 0"), controls)

    def _told(self) -> tuple[str, str]:
        """Where the trainings are, and what their policies write: as text, and as HTML."""
        statuses, samples = [_status(training) for training in self.trainings], _samples(self.trainings)
        lines = statuses + [f"  {sample['prompt']}  {sample['text']}" for _, each in samples for sample in each]
        return "\n".join(lines), render("progress", lines=statuses, told=samples)


def _status(training: Training) -> str:
    """One line: where a training is, and how long it still takes."""
    latest = training.latest
    if latest is None:
        return f"{training.title}: not begun"
    words = f"{training.title}: step {latest['step'] + 1} of {latest['steps']}"
    if training.seconds:  # not in a replay
        words += f", {training.seconds:.0f} s"
    if training.finished:
        words += ", finished"
    elif training.seconds and training.share:
        words += f", {training.seconds * (1 / training.share - 1):.0f} s left"
    numbers = [f"{key} {latest[key]:z.2f}" for key in ("loss", "reward", "gold", "accuracy", "kl") if isinstance(latest.get(key), float)]
    return f"{words}; {', '.join(numbers)}"


def _curves(dashboard: Dashboard, histories: Sequence[Sequence[dict]]) -> str:
    return render("curves", tiles=[(address(tile.png), tile.words) for tile in dashboard.tiles(histories)])


def _samples(trainings: Sequence[Training]) -> list[tuple[str, list[dict]]]:
    """The newest samples of each training, under a line that says what they are."""
    told = []
    for training in trainings:
        step, samples = training.samples
        title = f"{training.title} wrote at step {step}:" if samples else f"{training.title}: no samples so far."
        told.append((title, [{"prompt": last_message(sample["prompt"]), "text": sample["text"]} for sample in samples]))
    return told


# ---------------------------------------------------------------------------------------------- replay


def replay(source: str | Path | Sequence[dict], stage: str = METHODS[0]) -> None:
    """Show a recorded stage with a scrubber: curves, samples and per-token strips as they were at each step.

    Args:
        source: a run's folder, or its metrics.
        stage: its name.

    Raises:
        ValueError: nothing of that stage is recorded there.
    """
    records = list(read_lines(Path(source) / "metrics.jsonl")) if isinstance(source, str | Path) else list(source)
    metrics = [record for record in records if record["stage"] == stage]
    if not metrics:
        found = ", ".join(sorted({record["stage"] for record in records})) or "nothing"
        raise ValueError(f"no steps of {stage!r} in {source if isinstance(source, str | Path) else 'these metrics'}; it holds {found}")
    told = Training((), None, stages()[stage].name)
    scrubber = ipywidgets.IntSlider(value=len(metrics), min=1, max=len(metrics), description="step", continuous_update=False)
    status, curves, samples = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()

    def draw(change=None) -> None:
        told.metrics = metrics[: scrubber.value]
        told.latest = told.metrics[-1]
        curves.value = _curves(Dashboard([stage]), [told.metrics])  # a new one: it must forget marks and curves that lie ahead
        status.value = render("status", lines=[_status(told)])
        samples.value = render("strips", **_strips(told))

    scrubber.observe(draw, names="value")
    draw()
    board = Dashboard([stage])
    still = render("replay", line=_status(told), words=board.words([metrics]), picture=address(board.draw([metrics])), width=board.width,
                   **_strips(told))  # fmt: skip
    display(bundle(_status(told), still, box([status, box([scrubber], "group"), curves, samples], "panel")), raw=True)


def _strips(told: Training) -> dict:
    """The newest samples of a recorded training: strips of those that were told token by token, texts of the others."""
    step, samples = told.samples
    title = f"Samples of step {step}:" if samples else "No samples so far."
    return {"title": title, "samples": [show.strip_of(each) if "tokens" in each else each["text"] for each in samples]}
