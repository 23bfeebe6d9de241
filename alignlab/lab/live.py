"""Live training in a notebook: controls that move a real run, and curves drawn from its metrics.

    training = live.Training(ppo.train(policy, value_head, score, prompts, config), config)
    await live.run(training)

A stage is a generator: to pause, do not ask for its next step; to stop, leave it where it is; the same call resumes. A control
only notes what was asked; between two steps, and only there, that is written into the stage's config and logged.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import ipywidgets
from IPython.display import display

from alignlab.encoding import last_message
from alignlab.files import read_lines
from alignlab.lab import show
from alignlab.lab.dashboard import Dashboard
from alignlab.lab.kernel import kernel, messages
from alignlab.lab.page import address, bundle, render
from alignlab.lab.training import Training, controls_of, short
from alignlab.stage import Control
from alignlab.stages import METHODS, stages

LISTEN = 0.5  # seconds at most to take in messages that keep coming, between two steps
WIDE = {"description_width": "11em"}


# ---------------------------------------------------------------------------------------------- controls


class _Knob:
    """One control on the screen. It asks the training; `follow` shows what the training made of it."""

    def __init__(self, training: Training, control: Control, heard: Callable[[], None]):
        self.training, self.control, self.heard, self.following = training, control, heard, False
        value = getattr(training.config, control.name)
        low, high = (min(control.low, value), max(control.high, value)) if value is not None else (control.low, control.high)
        common = {"description": control.label, "continuous_update": False, "style": WIDE, "layout": ipywidgets.Layout(width="28em")}
        if control.kind == "log":
            self.slider = ipywidgets.FloatLogSlider(
                value=value, min=math.log10(low), max=math.log10(high), step=0.1, readout_format=".1e", **common
            )
        elif control.kind == "whole":
            self.slider = ipywidgets.IntSlider(value=value, min=int(low), max=int(high), **common)
        else:
            start = value if value is not None else 2.0
            self.slider = ipywidgets.FloatSlider(value=start, min=low, max=high, step=0.01, readout_format=".2f", **common)
        self.widget, self.switch = self.slider, None
        if control.kind == "switch":
            self.switch = ipywidgets.Checkbox(
                value=value is not None, description="on", indent=False, layout=ipywidgets.Layout(width="4em")
            )
            self.widget = ipywidgets.HBox([self.slider, self.switch])
            self.switch.observe(self._moved, names="value")
        self.slider.observe(self._moved, names="value")

    def _moved(self, change) -> None:
        self.heard()
        if not self.following:
            off = self.switch is not None and not self.switch.value
            self.training.ask(self.control.name, None if off else self.slider.value)

    def follow(self) -> None:
        """Show the setting as it is now: an adaptive beta moves by itself."""
        value = getattr(self.training.config, self.control.name)
        if value is not None and self.control.name not in self.training._asked and abs(value - self.slider.value) > 0.005 * abs(value):
            self.following = True
            self.slider.value = min(max(value, self.slider.min), self.slider.max) if self.control.kind != "log" else value
            self.following = False


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


async def compare(first: Training, second: Training) -> tuple[Training, Training]:
    """Run two trainings side by side in lock-step, their curves over each other; the one that is behind moves next."""
    if first.title == second.title:
        first.title, second.title = f"{first.title} A", f"{second.title} B"
    await _drive([first, second], [None, None])
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
    """Controls, curves and samples on the screen of a notebook."""

    def __init__(self, trainings: Sequence[Training], controls: Sequence[Sequence[Control] | None]):
        self.trainings, self.heard = trainings, 0
        self.stopped = self.paused = False
        self.asked = [0 for _ in trainings]  # whole steps of each, which Step asks for while paused
        self.drawn_steps: list[int] | None = None
        self.dashboard = Dashboard([training.title for training in trainings])
        self.knobs = [
            [_Knob(training, control, self._hear) for control in (controls_of(training.config) if chosen is None else chosen)]
            for training, chosen in zip(trainings, controls, strict=True)
        ]
        self._buttons()
        columns = [
            ipywidgets.VBox([ipywidgets.Label(f"{training.title}:"), *(knob.widget for knob in knobs)])
            for training, knobs in zip(trainings, self.knobs, strict=True)
        ]
        self.box = ipywidgets.VBox([ipywidgets.HBox([self.pause, self.step, self.stop]), ipywidgets.HBox(columns)])
        self.panel = display(self._settings(self.box), raw=True, display_id=True)
        self.status = display(self._words(), raw=True, display_id=True)
        self.picture = display({"text/plain": "(the curves follow)"}, raw=True, display_id=True)

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

    # ------------------------------------------------------------------------------------------ what the user sees

    def show(self) -> None:
        """Draw, where it is due."""
        seen = [len(training.metrics) for training in self.trainings]
        if seen != self.drawn_steps and (self.paused or self.dashboard.due()) and all(training.history for training in self.trainings):
            self.drawn_steps = seen
            self._draw()

    def close(self) -> None:
        """The last picture, and the settings as text in place of the controls, which are dead from now on."""
        if all(training.history for training in self.trainings):
            self._draw()
        self.panel.update(self._settings(), raw=True)
        self.box.close()

    def _draw(self) -> None:
        histories = [training.history for training in self.trainings]
        words = self.dashboard.words(histories)
        picture = {"image/png": self.dashboard.draw(histories), "text/plain": words}
        self.picture.update(picture, raw=True, metadata={"image/png": {"alt": words}})
        self.status.update(self._words(), raw=True)
        for knob in sum(self.knobs, []):
            knob.follow()

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

    def _words(self) -> dict:
        """Where the trainings are, and what their policies write."""
        told = [(_status(training), _samples(training)) for training in self.trainings]
        lines = []
        for status, samples in told:
            lines += [status, *(f"  {sample['prompt']}  {sample['text']}" for sample in samples)]
        return bundle("\n".join(lines), render("progress", trainings=told))


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
    numbers = [f"{key} {latest[key]:.2f}" for key in ("loss", "reward", "gold", "accuracy", "kl") if isinstance(latest.get(key), float)]
    return f"{words}; {', '.join(numbers)}"


def _samples(training: Training) -> list[dict]:
    samples = (training.latest or {}).get("samples", [])
    return [{"prompt": last_message(sample["prompt"]), "text": sample["text"]} for sample in samples]


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
    scrubber = ipywidgets.IntSlider(
        value=len(metrics), min=1, max=len(metrics), description="step", continuous_update=False, layout=ipywidgets.Layout(width="40em")
    )
    picture, words = ipywidgets.Image(format="png"), ipywidgets.HTML()

    def draw(change=None) -> None:
        told.metrics = metrics[: scrubber.value]
        told.latest = told.metrics[-1]
        picture.value = Dashboard([stage]).draw([told.metrics])  # a new one: it must forget marks and curves that lie ahead
        words.value = render("step", **_step(told))

    scrubber.observe(draw, names="value")
    draw()
    box = ipywidgets.VBox([scrubber, words, picture])
    still = render("replay", **_step(told), words=Dashboard([stage]).words([told.metrics]), picture=address(picture.value))
    display(bundle(_status(told), still, box), raw=True)


def _step(told: Training) -> dict:
    """Where a recorded training stands, and its samples: strips of those that were told token by token, texts of the others."""
    samples = (told.latest or {}).get("samples", ())
    return {"status": _status(told), "samples": [show.strip_of(each) if "tokens" in each else each["text"] for each in samples]}
