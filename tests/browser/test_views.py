"""Text of models and data through every view, the annotator's desk by keyboard, and pages on which no widget lives."""

import json
import re

import nbclient
import nbformat
import pytest
from hostile import HOSTILE
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_notebook

from alignlab import view

from .conftest import PREPARE

pytestmark = pytest.mark.slow


# ---------------------------------------------------------------------------------------------- text stays text

TEXTS = f"""
import json
from IPython.display import HTML, display
from alignlab import label, show
texts = json.loads({json.dumps(json.dumps(HOSTILE))})
"""
STATIC = """
for text in texts:
    row = {"prompt": text, "chosen": text, "rejected": text + " "}
    sample = {"prompt": text, "text": text, "tokens": [text], "log_ratio": [0.1], "reward": [0.1], "value": [0.1],
              "advantage": [0.1], "clipped": [True]}
    display(
        show.answers(text, {text: text, "sft": text}, {text: {text: 1.0}}, {text: 1.0}, {text: 1.0}),
        show.strip([text, "x"], {text: [1.0, 2.0], text + " 2": [True, False]}, note=text),
        show.strip_of(sample),
        show.pairs([row, {**row, "prompt": [{"role": text, "content": text}]}], [1.0, -1.0]),
    )
print("SHOWN", len(texts))
"""
LIVE = """
def told(text, steps=2):
    for step in range(steps):
        yield {"stage": "dpo", "step": step, "steps": steps, "loss": 0.5, "accuracy": 0.5, text: 1.0,
               "samples": [{"prompt": text, "text": text}, {"prompt": [{"role": text, "content": text}], "text": text}]}

for text in texts:
    await live.compare(live.Training(told(text), dpo.Config(), text), live.Training(told(text), dpo.Config(), text + " 2"))
print("DRIVEN", len(texts))
"""
REPLAY = """
for text in texts:
    record = {"stage": "ppo", "steps": 2, "reward": 1.0, text: 1.0, "changed": [{"name": text, "old": text, "new": text}],
              "samples": [{"prompt": text, "text": text, "tokens": [text], "log_ratio": [0.1], "reward": [0.1], "value": [0.1],
                           "advantage": [0.1], "clipped": [True]}, {"prompt": text, "text": text}]}
    live.replay([{**record, "step": 0}, {**record, "step": 1}])
print("REPLAYED", len(texts))
"""
DESK = """
import tempfile
pairs = [{"prompt": text, "chosen": text, "rejected": text + " x"} for text in texts]
pairs += [{"prompt": [{"role": text, "content": text}], "chosen": text, "rejected": text + " x"} for text in texts]
for number, pair in enumerate(pairs):
    display(label.Desk([pair], f"{tempfile.mkdtemp()}/labels.jsonl"))
for text in texts:
    display(label.Aligned(
        policy=None, reward_model=None, labels=4, rows={}, agreement=[0.5, 0.4, 0.6], against_gold=[],
        disagreements=[{"prompt": text, "gold_prefers": text, "reward_model_prefers": text}],
        samples=[{"prompt": text, "sft": text, "dpo": text}],
    ))
print("LABELLED", len(texts))
"""
CONTROL = """display(HTML("<img src=x onerror=alert('control')>"))"""


def test_no_text_of_models_or_data_runs_in_any_view(notebook):
    assert len(HOSTILE) == 25
    book = notebook([TEXTS, STATIC, LIVE, REPLAY, DESK, CONTROL])
    book.run_cell(0)
    book.run_cell(1)
    for cell, word in ((2, "SHOWN"), (3, "DRIVEN"), (4, "REPLAYED"), (5, "LABELLED")):
        book.run_cell(cell)
        book.wait_text(cell, f"{word} 25", 120)
        book.page.wait_for_timeout(1000)  # a script would have run by now
        book.shot(word.lower())
        assert not book.errors, word
    book.run_cell(6)
    book.wait_for(lambda: book.errors, 10, "a script that nothing escapes does run")
    assert book.errors == ["dialog: control"]


def test_nothing_runs_in_the_report(browser, fast_run, tmp_path):
    comparison = json.loads((fast_run / "comparison.json").read_text())
    metrics = [json.loads(line) for line in (fast_run / "metrics.jsonl").read_text().splitlines()]
    comparison["samples"] = [
        {"prompt": text, **{name: {"text": text, "gold": 1.0} for name in ("sft", "best_of_16", "ppo", "dpo")}} for text in HOSTILE
    ]
    comparison["alarms"] = HOSTILE
    comparison["size"] = HOSTILE[0]
    metrics += [{**metrics[-1], **dict.fromkeys(HOSTILE, 1.0)}]
    page, seen = browser.new_page(), []
    page.on("dialog", lambda dialog: (seen.append(dialog.message), dialog.dismiss()))
    page.on("pageerror", lambda error: seen.append(str(error)))
    (tmp_path / "report.html").write_text(view.report(comparison, metrics, dict(zip(HOSTILE, HOSTILE, strict=True))))
    page.goto(f"file://{tmp_path}/report.html")
    page.wait_for_timeout(1000)
    assert HOSTILE[1] in page.inner_text("body") and not seen
    page.close()


# ---------------------------------------------------------------------------------------------- the annotator's desk


def test_ten_labels_by_keyboard_then_training_on_them(notebook):
    book = notebook([
        "from alignlab import label\npairs = read_preferences(data_folder() / 'preferences_test.jsonl')[:12]\n"
        "desk = label.Desk(pairs, 'labels.jsonl', rule=label.prefers_short, repeats=0, fresh=True)\ndesk",
        "print('LABELS', [one.answer for one in desk.labels], {one.by for one in desk.labels})\n"
        "policy = base.policy('mine')\ntraining = label.dpo_training(policy, desk)",
        "await live.run(training);",
        "print('TRAINED', len(training.metrics), training.finished, training.metrics[-1]['accuracy'])\n"
        "print('ON DISK', len(read_preferences('labels.jsonl')))",
    ])  # fmt: skip
    book.run_cell(0)
    book.run_cell(1)
    book.wait_text(1, "0 of 12 labelled")
    skip = book.button("Skip")
    skip.focus()
    book.page.keyboard.press("Tab")  # Undo is off as yet, so the next is the field
    given = []
    for count in range(10):
        sides = [book.page.locator(f"[aria-label='Answer {name}']").inner_text() for name in "AB"]
        lengths = [len(side.split()) - 1 for side in sides]  # less the heading
        given.append("t" if lengths[0] == lengths[1] else "ab"[lengths[1] < lengths[0]])
        book.page.keyboard.press(given[-1])
        book.wait_for(lambda count=count: f"{count + 1} of 12" in book.output(1), 10, f"label {count + 1}")
    book.shot("labelled")
    book.run_cell(2)
    names = [{"t": "tie"}.get(key, key) for key in given]
    book.wait_text(2, re.escape(f"LABELS {names} {{'hand'}}"))
    book.run_cell(3)
    book.run_cell(4)
    found = book.wait_text(4, r"TRAINED (\d+) True ([\d.]+)", 180)
    book.shot("trained")
    assert int(found.group(1)) >= 20 and float(found.group(2)) > 0.9, "it learns its handful of labels"
    assert f"ON DISK {sum(key != 't' for key in given)}" in book.output(4)
    assert not book.errors


# ---------------------------------------------------------------------------------------------- where widgets cannot live

PANELS = """
from itertools import islice
from alignlab import explore, label
training = ppo_training(); training.steps = islice(training.steps, 10); await live.run(training)
a, b = dpo_training("a", "small", beta=0.1), dpo_training("b", "large", beta=1.0)
a.steps, b.steps = islice(a.steps, 4), islice(b.steps, 4); await live.compare(a, b)
print("ENDED", training.finished, a.finished, b.finished)
live.replay(folder)
label.Desk(read_preferences(data_folder() / "preferences_test.jsonl")[:3], "labels.jsonl", fresh=True)
explore.preference_sigmoid()
"""


def test_a_static_page_shows_every_panel_as_text_and_the_runs_end(browser, fast_run, tmp_path, monkeypatch):
    """A front end without widget events, as a page on GitHub or an editor that never answers: nbclient draws none and sends none."""
    cells = [new_code_cell(source) for source in [PREPARE, *PANELS.strip().splitlines()]]
    book = new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}})
    monkeypatch.setenv("ALIGNLAB_TEST_RUN", str(fast_run))
    nbclient.NotebookClient(book, timeout=300, store_widget_state=False, resources={"metadata": {"path": str(tmp_path)}}).execute()
    nbformat.write(book, tmp_path / "panels.ipynb")
    (tmp_path / "panels.html").write_text(HTMLExporter().from_notebook_node(book)[0])
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.goto(f"file://{tmp_path}/panels.html", wait_until="domcontentloaded")
    page.wait_for_timeout(500)
    words = page.inner_text("body")
    for expected in (
        "ppo: beta, price of KL 0.38, clip epsilon 0.2", "small: beta, price of KL 0.1", "ENDED True True True",
        "ppo: step 6 of 6", "0 of 3 labelled",
    ):  # fmt: skip
        assert expected in words, expected
    assert "children=" not in words and "Slider(" not in words, "no widget's repr"
