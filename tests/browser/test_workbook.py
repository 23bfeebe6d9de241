"""The notebooks that a learner meets first and drives most, run from the menu in a real JupyterLab."""

import re

import pytest

from alignlab.tools import classroom

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("number", ["00", "06"])
def test_a_notebook_runs_from_the_menu(notebook, number):
    (path,) = (path for path in classroom.notebooks() if path.name.startswith(number))
    book = notebook(path, prepare=False, height=1500)
    book.run_all()
    book.wait_for(lambda: book.button("Stop").is_visible(), 240, "the controls of a live cell")
    last = "() => [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].at(-1).innerText"
    book.wait_for(lambda: re.match(r"\[\d+\]", book.page.evaluate(last)) and book.idle(), 420, "the last cell's number")
    book.page.wait_for_timeout(1000)
    assert not book.page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").all_inner_texts()
    assert book.wider_than_the_page() == []
    if number != "00":  # the scrubber of a replay still lives
        handle = book.slider("step")
        handle.focus()
        handle.press("Home")
        book.wait_for(lambda: book.page.locator(".jupyter-widgets b", has_text="step 1 of").count() == 1, 30, "the first step")
    book.album()
    assert not book.errors
