"""Views in a real browser: nothing that a model or a file says is ever run, and pages without widgets tell the same."""

import json
import re

import nbformat
import pytest
from hostile import HOSTILE
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_notebook

from alignlab.doctor import circumstances
from alignlab.lab import report

pytestmark = pytest.mark.slow

CONTROL = "from IPython.display import HTML, display\ndisplay(HTML('<img src=x onerror=alert(1)>'))"
SHOWN = {  # a cell for each view: JupyterLab shows no more than fifty outputs of one
    "answers": 'show.answers(text, {text: text, "ppo": text}, {text: {text: 1.0}}, {text: 1.0}, {text: 1.0})',
    "strip": 'show.strip([text], {text: [1.0], f"{text} 2": [True]}, note=text)',
    "strip of a sample": 'show.strip_of({"prompt": text, "text": text, "tokens": [text], **numbers})',
    "pairs": 'show.pairs([{"prompt": text, "chosen": text, "rejected": text}] * 2, [1.0, -1.0])',
}
NUMBERS = """
from hostile import HOSTILE
from alignlab.lab import live, show
numbers = {"log_ratio": [1.0], "reward": [1.0], "value": [1.0], "advantage": [1.0], "clipped": [True]}
"""
LIVE = """
def invented(texts):
    for step in range(3):
        changed = [{"name": text, "old": text, "new": text} for text in texts]
        samples = [{"prompt": text, "text": text, "tokens": [text], **numbers} for text in texts]
        samples += [{"prompt": [{"role": text, "content": text}], "text": text} for text in texts]
        yield {"stage": "ppo", "step": step, "steps": 3, "reward": 1.0, "gold": 1.0, "kl": 1.0, "beta": 1.0,
               **dict.fromkeys(texts, 1.0), "samples": samples, "changed": changed}
fives = [HOSTILE[i : i + 5] for i in range(0, len(HOSTILE), 5)]
for texts in fives:
    await live.run(live.Training(invented(texts), ppo.Config(), " ".join(texts)))
    live.replay(list(invented(texts)))
await live.compare(*(live.Training(invented(texts), ppo.Config(), " ".join(texts)) for texts in fives[:2]))
print("RAN", len(fives))
"""
DESK = """
from alignlab.lab import label, taste
odd = [{"prompt": [{"role": text, "content": text}], "chosen": text, "rejected": f"x{text}"} for text in HOSTILE]
desk = label.Desk(odd, "hostile.jsonl", repeats=0)
seen = [{"prompt": text, "sft": text, "dpo": text} for text in HOSTILE]
differ = [{"prompt": text, "gold_prefers": text, "reward_model_prefers": text} for text in HOSTILE]
display(taste.Aligned(policy=None, reward_model=None, labels=4, rows={}, agreement=[0.5, 0.4, 0.6], disagreements=differ,
                      against_gold=[], samples=seen))
desk
"""


def test_no_text_of_a_model_or_a_file_is_run(notebook):
    cells = [f"for text in HOSTILE:\n    display({view})\nprint('SHOWN {name}')" for name, view in SHOWN.items()]
    book = notebook([CONTROL, NUMBERS, *cells, LIVE, DESK, "print('LABELS', len(desk.labels))"])
    for cell in (0, 1):
        book.run_cell(cell)
    book.wait_for(lambda: "dialog: 1" in book.errors, 60, "markup that is meant to run does run here")
    book.errors.clear()
    book.run_cell(2)
    for cell, name in enumerate(SHOWN, 3):
        book.run_cell(cell)
        book.wait_text(cell, f"SHOWN {name}", 60)
    book.run_cell(7)
    book.wait_text(7, "RAN 5", 180)
    book.run_cell(8)
    field = book.page.locator(".widget-text", has_text="Key").locator("input")
    for number in range(len(HOSTILE)):
        field.press("a")
        book.wait_text(8, f"{number + 1} of {len(HOSTILE)} labelled")
    book.shot("desk")
    book.run_cell(9)
    book.wait_text(9, f"LABELS {len(HOSTILE)}")
    assert not [error for error in book.errors if error.startswith("dialog") or "alert" in error], book.errors


def test_no_text_of_a_model_is_run_in_the_report(browser, fast_run, tmp_path):
    comparison, config = (json.loads((fast_run / name).read_text()) for name in ("comparison.json", "config.json"))
    metrics = [json.loads(line) for line in (fast_run / "metrics.jsonl").read_text().splitlines()]
    sample = comparison["samples"][0]
    comparison["alarms"] = HOSTILE
    comparison["samples"] = [
        {name: {**sample[name], "text": text} if isinstance(sample[name], dict) else text for name in sample} for text in HOSTILE
    ]
    page, ran = browser.new_page(viewport={"width": 1280, "height": 1000}), []
    page.on("dialog", lambda dialog: (ran.append(dialog.message), dialog.dismiss()))
    made = {"control": "<img src=x onerror=alert(1)>", "report": report.page(comparison, metrics, dict.fromkeys(HOSTILE, config))}
    for name, text in made.items():
        (tmp_path / f"{name}.html").write_text(text)
        page.goto((tmp_path / f"{name}.html").as_uri())
        page.wait_for_timeout(500)
        assert bool(ran) == (name == "control"), ran
        ran.clear()
    assert page.locator("td.text").count() == 4 * len(HOSTILE)
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 900, 1280])
def test_the_report_is_read_without_scrolling_sideways_in_letters_large_enough(browser, fast_run, tmp_path, width, scheme):
    comparison, config = (json.loads((fast_run / name).read_text()) for name in ("comparison.json", "config.json"))
    metrics = [json.loads(line) for line in (fast_run / "metrics.jsonl").read_text().splitlines()]
    command = circumstances(f"alignlab run --out {'runs' * 40}", seed=0, fast=True)
    (tmp_path / "report.html").write_text(report.page(comparison, metrics, config, [command, command]))
    page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page.goto((tmp_path / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    boxes = page.evaluate("[...document.querySelectorAll('.scroll')].map(box => [box.scrollWidth, box.clientWidth])")
    assert boxes and all(inside <= box for inside, box in boxes)
    sizes = page.evaluate("[...document.querySelectorAll('td, th, dd, li, small')].map(at => parseFloat(getComputedStyle(at).fontSize))")
    assert min(sizes) > 10
    shown = page.evaluate("[...document.querySelectorAll('img')].map(at => at.clientWidth / at.naturalWidth)")
    assert min(shown[:1]) > 0.6, "letters of 9 points, drawn at 130 dots per inch, stay larger than 9 pixels"
    ink, ground = page.evaluate("(at => [at.color, at.backgroundColor])(getComputedStyle(document.body))")
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, ground)]
    assert (light[0] < light[1]) == (scheme == "light") and abs(light[0] - light[1]) > 450
    page.close()


def test_ten_labels_by_keyboard_then_training_on_them(notebook):
    book = notebook([
        "from alignlab.lab import label, taste\npairs = read_preferences(data_folder() / 'preferences.jsonl')[:40]\n"
        "desk = label.Desk(pairs, 'labels.jsonl', repeats=0)\ndesk",
        "print('FILE', len(read_preferences('labels.jsonl')), {record['by'] for record in desk.preferences()})",
        "training = taste.dpo_training(base.policy('mine'), desk)\nawait live.run(training);",
        "print('TRAINED', training.finished, len(training.metrics))",
    ])  # fmt: skip
    for cell in (0, 1):
        book.run_cell(cell)
    field = book.page.locator(".widget-text", has_text="Key").locator("input")
    field.wait_for(timeout=90_000)
    field.focus()
    for number, key in enumerate("abbabaabab"):
        book.page.keyboard.press(key)
        book.wait_text(1, f"{number + 1} of 40 labelled")
    book.shot("labelled")
    book.run_cell(2)
    book.wait_text(2, r"FILE 10 \{'hand'\}")
    book.run_cell(3)
    book.run_cell(4)
    book.wait_text(4, r"TRAINED True \d\d", 120)
    book.shot("trained")
    assert not book.errors


def test_without_widgets_each_panel_tells_its_settings_as_text_and_the_run_ends(browser, fast_run, tmp_path, monkeypatch):
    """A page made by nbconvert after a headless run: nobody can move anything there."""
    from browser.conftest import PREPARE

    monkeypatch.setenv("ALIGNLAB_TEST_RUN", str(fast_run))
    cells = [
        PREPARE.replace("iterations=500", "iterations=3"), "training = ppo_training()\nawait live.run(training);",
        "from alignlab.lab import explore\nexplore.clipped_objective()", "live.replay(folder)",
        "from alignlab.lab import label\nlabel.Desk(read_preferences(data_folder() / 'preferences.jsonl')[:5], 'labels.jsonl')",
    ]  # fmt: skip
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    place = {"metadata": {"path": tmp_path}}
    NotebookClient(notebook, timeout=180, kernel_name="python3", store_widget_state=False, resources=place).execute()
    nbformat.validate(notebook)
    page_text, _ = HTMLExporter(template_name="lab").from_notebook_node(notebook)
    (tmp_path / "static.html").write_text(page_text)
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.goto((tmp_path / "static.html").as_uri())
    words = page.locator("body").inner_text()
    assert "step 3 of 3" in words and "finished" in words and re.search(r"beta \(price of KL\) 0\.38, clip epsilon 0\.2", words)
    assert re.search(r"clip epsilon = 0\.\d", words) and "Look:" in words, "the explorer's settings"
    assert "0 of 5 labelled" in words and "desk.choose('a')" in words, "the desk's"
    assert "step 5 of 5" in words, "the replay's"
    assert page.locator("img[src^='data:image/png']").count() == 3, "curves of the run and of the replay, and the explorer's"
    page.close()
