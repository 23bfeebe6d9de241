"""A real JupyterLab and a real browser: notebooks are opened, clicked and typed into as a learner would."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from shorter import shorten

ROOT = Path(__file__).parents[2]
SHOTS = Path(os.environ.get("ALIGNLAB_SHOTS", "test-output/screenshots"))
PREPARE = """
import os
from pathlib import Path
import torch
from transformers.utils.logging import disable_progress_bar
from alignlab import dpo, ppo
from alignlab.lab import live
from alignlab.records import read_preferences, data_folder
from alignlab.models import RewardModel, ValueHead, load
from alignlab.recipes import tiny, world_gold
disable_progress_bar()
torch.set_num_threads(1)
folder = Path(os.environ["ALIGNLAB_TEST_RUN"])
base = load(folder / "sft")
reward_model = RewardModel.load(base, folder / "reward")
recipe = tiny(fast=True)

def ppo_training(name="policy", title=None, **settings):
    config = ppo.Config(batch_size=64, minibatch_size=32, iterations=500, **settings)
    policy = base.policy(name)
    score = lambda completions: reward_model.score_all(completions.batch)
    steps = ppo.train(policy, ValueHead(base), score, recipe.prompts, config, judge=world_gold)
    return live.Training(steps, config, title)

def dpo_training(name="dpo", title=None, **settings):
    config = dpo.Config(batch_size=16, **settings)
    pairs = read_preferences(data_folder() / "preferences.jsonl")
    return live.Training(dpo.train(base.policy(name), pairs, config), config, title)
"""


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's path. Debian: apt-get install chromium."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium on this machine")
        pytest.skip("no Chromium on this machine; install it to run the browser's tests")
    return path


@pytest.fixture(scope="package")  # while Playwright runs, an event loop does too, and no other test could have its own
def browser(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        opened = playwright.chromium.launch(executable_path=chromium, headless=True, args=flags)
        yield opened
        opened.close()


class Server:
    """A JupyterLab of its own, in a folder of its own."""

    def __init__(self, folder: Path, fast_run: Path):
        self.folder = folder
        paths = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {
            "ALIGNLAB_TEST_RUN": str(fast_run), "JUPYTER_CONFIG_DIR": str(folder / ".config"), "HF_HUB_OFFLINE": "1",
            "IPYTHONDIR": str(folder / ".ipython"), "JUPYTER_PLATFORM_DIRS": "1", "ALIGNLAB_FAST": "1",
            "JUPYTERLAB_SETTINGS_DIR": str(folder / ".settings"), "PYTHONPATH": paths,
        }  # fmt: skip
        quiet = folder / ".config" / "labconfig" / "page_config.json"
        quiet.parent.mkdir(parents=True)
        quiet.write_text(json.dumps({"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}))
        whole = folder / ".settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
        whole.parent.mkdir(parents=True)
        whole.write_text(json.dumps({"windowingMode": "none"}))  # every cell is in the page, seen or not
        self.log = (folder / "server.log").open("w+")
        options = [
            "--no-browser", "--allow-root", "--expose-app-in-browser", "--ServerApp.port=0", "--IdentityProvider.token=",
            "--ServerApp.password=", "--ServerApp.disable_check_xsrf=True", f"--ServerApp.root_dir={folder}",
        ]  # fmt: skip
        self.process = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], stderr=self.log, env=environment)
        self.address = self._address()

    def _address(self) -> str:
        for _ in range(300):
            self.log.flush()
            if found := re.search(r"http://(?:localhost|127\.0\.0\.1):\d+", Path(self.log.name).read_text()):
                return found.group(0)
            time.sleep(0.2)
        raise RuntimeError(Path(self.log.name).read_text()[-2000:])

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self.log.close()


@pytest.fixture(scope="package")
def server(tmp_path_factory, fast_run):
    made = Server(tmp_path_factory.mktemp("lab"), fast_run)
    yield made
    made.close()


class Notebook:
    """An open notebook: what a user can do with it, and what can be seen."""

    def __init__(self, page, name: str, errors: list[str]):
        self.page, self.name, self.errors = page, name, errors  # errors: uncaught ones, those in the console, and dialogs

    def command(self, name: str) -> None:
        """One of JupyterLab's commands, as its menus and buttons call it."""
        self.page.evaluate("name => { window.jupyterapp.commands.execute(name) }", name)

    def theme(self, name: str) -> None:
        """JupyterLab in its "Light" or its "Dark" colours."""
        self.page.evaluate("name => window.jupyterapp.commands.execute('apputils:change-theme', { theme: `JupyterLab ${name}` })", name)

    def run_all(self) -> None:
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()

    def run_cell(self, index: int) -> None:
        self.page.evaluate(
            "index => { const n = window.jupyterapp.shell.currentWidget.content; n.activeCellIndex = index; n.deselectAll(); }", index
        )
        self.command("notebook:run-cell")

    def output(self, index: int) -> str:
        """The text that a cell shows."""
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index).locator(".jp-OutputArea").first.inner_text(timeout=5000)

    def wait_for(self, what, seconds: float = 60, why: str = "") -> None:
        """Until `what()` holds."""
        end = time.time() + seconds
        while time.time() < end:
            try:
                if what():
                    return
            except Exception:
                pass
            self.page.wait_for_timeout(100)
        self.shot("failed")
        raise AssertionError(f"{why or what} did not come about in {seconds} s")

    def wait_text(self, index: int, pattern: str, seconds: float = 60) -> re.Match:
        self.wait_for(lambda: re.search(pattern, self.output(index)), seconds, f"{pattern!r} in cell {index}")
        return re.search(pattern, self.output(index))

    def idle(self) -> bool:
        """Whether the kernel has nothing to do."""
        return self.page.evaluate("() => window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status") == "idle"

    def stop(self) -> None:
        """Press Stop; how long the run took to end stands in times.txt beside the screenshots."""
        start = time.perf_counter()
        self.button("Stop").click()
        self.button("Stop").wait_for(state="detached", timeout=30_000)
        with (SHOTS / "times.txt").open("a") as file:
            file.write(f"{self.name}: {time.perf_counter() - start:.2f} s from Stop to the end of the run\n")

    def button(self, text: str):
        return self.page.locator("button.jupyter-button", has_text=text).first

    def slider(self, label: str):
        """The handle of a slider, found by its label."""
        return self.page.locator(".widget-slider", has=self.page.locator(f"label:has-text('{label}')")).locator(".noUi-handle").first

    def shot(self, name: str) -> Path:
        path = SHOTS / f"{self.name}-{name}.png"
        self.page.screenshot(path=path)
        return path

    def album(self) -> None:
        """Screenshots of the whole notebook, from its first cell to its last."""
        place = self.page.locator(".jp-WindowedPanel-outer").first
        whole, seen = place.evaluate("place => [place.scrollHeight, place.clientHeight]")
        for number, top in enumerate(range(0, whole, seen)):
            place.evaluate("(place, top) => { place.scrollTop = top }", top)
            self.page.wait_for_timeout(300)
            self.shot(f"{number:02d}")

    def wider_than_the_page(self) -> list[str]:
        """Outputs and cells that reach beyond the right edge of the notebook, outside of what scrolls by itself."""
        return self.page.evaluate(
            """() => {
                const edge = document.querySelector('.jp-WindowedPanel-outer').getBoundingClientRect().right;
                const parts = document.querySelectorAll('.jp-Cell, .jp-OutputArea-output, .jp-OutputArea-output *, .jp-RenderedMarkdown *');
                const scrolls = part => part.parentElement.closest('.alignlab-strips');
                const beyond = part => part.getClientRects().length && part.getBoundingClientRect().right > edge + 1;
                return [...parts].filter(part => beyond(part) && !scrolls(part))
                    .map(part => part.outerHTML.slice(0, 200));
            }"""
        )


@pytest.fixture
def notebook(request, server, browser):
    """Gives `open(what)`: cells, which the preparation precedes, or a notebook's file; open in the browser."""
    opened = []

    def open_(what: list[str] | Path, prepare: bool = True, width: int = 1280, height: int = 1000, files: bool = False) -> Notebook:
        name = re.sub(r"\W+", "-", request.node.name).strip("-")
        path = server.folder / f"{name}.ipynb"
        if isinstance(what, Path):
            lesson = nbformat.read(what, 4)
            shorten(lesson, what.name)
            nbformat.write(lesson, path)
        else:
            kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
            (server.folder / "prepare.py").write_text(PREPARE)
            cells = [new_code_cell(source) for source in ["%run -i prepare.py"] * prepare + what]
            nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
        SHOTS.mkdir(parents=True, exist_ok=True)
        context = browser.new_context(viewport={"width": width, "height": height})
        page, errors = context.new_page(), []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: (errors.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.goto(f"{server.address}/lab/workspaces/{name}/tree/{name}.ipynb")  # a workspace of its own: nothing else is open
        page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
        if not files:  # the file browser would stand beside it
            page.evaluate("() => { window.jupyterapp.commands.execute('application:toggle-left-area'); }")
        made = Notebook(page, name, errors)
        made.wait_for(made.idle, 60, "an idle kernel")
        errors.clear()  # JupyterLab's own, as it starts
        opened.append((context, made))
        return made

    yield open_
    for context, made in opened:
        made.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        context.close()
