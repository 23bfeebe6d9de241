"""Notebooks of the workbook in a real JupyterLab, run from the menu as a learner does, at the tests' fast setting."""

import re

import pytest

from alignlab.classroom import notebooks

pytestmark = pytest.mark.slow
PATHS = {path.name[:2]: path for path in notebooks()}
# Cells not yet run have no number; one that runs has a star.
STATE = """() => {
    const cells = window.jupyterapp.shell.currentWidget.content.widgets.filter(cell => cell.model.type == "code");
    return cells.map(cell => cell.model.executionCount);
}"""
WIDE = """() => {
    const seen = [...document.querySelectorAll(".jp-Notebook .jp-Cell-outputArea *, .jp-Notebook .jp-MarkdownOutput *")];
    const edge = document.querySelector(".jp-Notebook").getBoundingClientRect().right;
    return seen.filter(e => e.getBoundingClientRect().width && e.getBoundingClientRect().right > edge + 1)
        .map(e => `${e.tagName} ${e.className} ${e.innerText?.slice(0, 60)}`);
}"""


def ended(book, seconds: float) -> None:
    book.wait_for(lambda: all(book.page.evaluate(STATE)) and book.idle(), seconds, "every cell has run")
    assert not book.page.locator(".jp-Notebook [data-mime-type='application/vnd.jupyter.error']").count()
    assert not book.page.locator(".jp-Notebook [data-mime-type='application/vnd.jupyter.stderr']").count()


def sound(book) -> None:
    """Nothing sticks out, and nothing is complained of in the browser's console."""
    assert book.page.evaluate(WIDE) == []
    assert book.errors == []


def test_start_here_runs_from_the_menu_and_both_pipelines_move(notebook):
    book = notebook(PATHS["00"])
    book.run_all()
    ended(book, 180)
    book.album()
    assert re.search(r"ppo: step \d+ of \d+", book.page.inner_text(".jp-Notebook"), re.I)
    sound(book)


def test_ppo_live_runs_from_the_menu_under_its_controls(notebook):
    book = notebook(PATHS["06"])
    book.run_all()
    pause = book.button("Pause")
    pause.wait_for(timeout=120_000)
    pause.click()
    book.wait_for(lambda: book.button("Resume").is_visible(), 10, "Resume")
    handle = book.slider("beta")
    handle.focus()
    handle.press("ArrowLeft")
    book.page.wait_for_timeout(500)
    book.shot("paused")
    book.button("Resume").click()
    ended(book, 240)
    assert re.search(r"step \d+: beta 0.38 to 0.37", book.page.inner_text(".jp-Notebook")), "the control acted on the run"
    estimators = book.page.locator(".jp-Cell:has-text('explore.kl_estimators()') img").first
    before = estimators.get_attribute("src")
    samples = book.slider("samples")
    samples.focus()
    samples.press("ArrowRight")
    book.wait_for(lambda: estimators.get_attribute("src") != before, 20, "another picture")
    scrubber = book.slider("step")
    scrubber.focus()
    scrubber.press("ArrowLeft")
    book.page.wait_for_timeout(1500)
    book.album()
    sound(book)


def test_ppo_or_dpo_runs_from_the_menu(notebook):
    book = notebook(PATHS["08"])
    book.run_all()
    ended(book, 300)
    book.album()
    assert "gold efficiency" in book.page.inner_text(".jp-Notebook")
    sound(book)
