"""A learner at the dashboard: controls that move a real run, in a real JupyterLab."""

import re

import pytest

pytestmark = pytest.mark.slow
RUN = "training = ppo_training()"
GO = "await live.run(training);"


def step_of(book, cell: int) -> int:
    return int(re.search(r"step (\d+) of", book.output(cell)).group(1))


def test_beta_moved_mid_run_is_in_the_log_and_on_the_plot_at_the_next_step(notebook):
    book = notebook([RUN, GO, "print('CHANGED', [(m['step'], m['changed'], m['beta']) for m in training.metrics if 'changed' in m])"])
    book.run_all()
    book.wait_text(2, r"step [2-9] of 500")
    before = step_of(book, 2)
    handle = book.slider("beta")
    handle.focus()
    handle.press("ArrowRight")
    book.wait_for(lambda: step_of(book, 2) > before + 1, 60, "two more steps")
    for _ in range(3):  # a second move, and more, act as well
        handle.press("ArrowRight")
    before_second = step_of(book, 2)
    book.wait_for(lambda: step_of(book, 2) > before_second + 2, 60, "three more steps")
    book.wait_for(lambda: book.page.locator(".alignlab-tiles img[alt*='beta 0.42 at step']").count() == 1, 60, "the new beta in the curves")
    book.shot("moved")
    book.stop()
    first, last = r"\[\{'name': 'beta', 'old': 0.38, 'new': 0.39\}\], [\d.]+", r"'new': 0.42\}\], [\d.]+"
    found = book.wait_text(3, rf"CHANGED \[\((\d+), {first}\).*{last}\)\]")
    assert before - 1 <= int(found.group(1)) <= before + 2
    assert re.search(r"step \d+: beta 0.38 to 0.39", book.output(2)), "the settings as text name the change"
    assert not book.errors


def test_pause_step_resume_stop_and_going_on(notebook):
    book = notebook([RUN, GO, "print('STEPS', len(training.metrics))"])
    book.run_all()
    book.wait_text(2, r"step [2-9] of 500")
    book.button("Pause").click()
    book.wait_for(lambda: book.button("Resume").is_visible(), 10, "Resume")
    book.page.wait_for_timeout(1500)  # the step under way ends
    stood = step_of(book, 2)
    book.page.wait_for_timeout(2000)
    assert step_of(book, 2) == stood, "it does not move while paused"
    book.button("Step").click()  # ends the iteration that stands, which may be shown already
    book.page.wait_for_timeout(4000)
    base = step_of(book, 2)
    for more in (1, 2):  # from here, each press is a whole iteration
        book.button("Step").click()
        book.wait_for(lambda more=more: step_of(book, 2) == base + more, 30, "a whole step")
        book.page.wait_for_timeout(1500)
        assert step_of(book, 2) == base + more, "one step, not more"
    book.shot("paused")
    book.button("Resume").click()
    book.wait_for(lambda: step_of(book, 2) > stood + 1, 60, "it goes on")
    book.stop()
    steps = int(book.wait_text(3, r"STEPS (\d+)").group(1))
    assert steps > stood
    book.run_cell(2)
    book.wait_for(lambda: step_of(book, 2) > steps + 1, 60, "the same call goes on")
    book.stop()
    assert not book.errors


def test_the_front_ends_own_interrupt_then_going_on(notebook):
    tell = "steps = [m['step'] for m in training.metrics]\nprint('STEPS', len(steps), steps == list(range(len(steps))))"
    book = notebook([RUN, GO, tell])
    book.run_cell(0)
    book.run_cell(1)
    book.run_cell(2)
    book.wait_text(2, r"step [2-9] of 500")
    book.page.locator("[data-command='notebook:interrupt-kernel']").first.click()
    book.wait_text(2, "Interrupted between two steps")
    book.shot("interrupted")
    book.run_cell(3)
    steps = int(book.wait_text(3, r"STEPS (\d+) True").group(1))
    book.run_cell(2)
    book.wait_for(lambda: step_of(book, 2) > steps + 1, 60, "it goes on after the interrupt")
    book.stop()
    book.run_cell(3)
    book.wait_for(lambda: int(re.search(r"STEPS (\d+) True", book.output(3)).group(1)) > steps, 30, "more steps, in order")
    assert not book.errors


def test_run_all_keeps_its_order(notebook):
    book = notebook([
        "order = ['first']\ntraining = dpo_training()\nimport itertools\ntraining.steps = itertools.islice(training.steps, 30)",
        "await live.run(training)\norder.append('second');",
        "order.append('third')\nprint('ORDER', order, training.finished)",
    ])  # fmt: skip
    book.run_all()
    book.wait_text(3, r"ORDER \['first', 'second', 'third'\] True", 90)
    book.shot("end")
    assert not book.errors


def test_two_runs_side_by_side(notebook):
    book = notebook(
        ["a, b = ppo_training('a', 'beta 0.1', beta=0.1), ppo_training('b', 'beta 1', beta=1.0)", "await live.compare(a, b);",
         "print('BOTH', len(a.metrics), len(b.metrics))"]
    )  # fmt: skip
    book.run_all()
    book.wait_text(2, r"beta 0.1: step [3-9] of 500", 90)
    book.wait_text(2, r"beta 1: step [3-9] of 500", 90)
    book.shot("both")
    book.stop()
    found = book.wait_text(3, r"BOTH (\d+) (\d+)")
    assert abs(int(found.group(1)) - int(found.group(2))) <= 1, "they move in lock-step"
    assert not book.errors


def test_a_recorded_run_replays_with_a_scrubber(notebook):
    book = notebook(["live.replay(folder)"])
    book.run_all()
    book.wait_text(1, r"step 5 of 5")
    handle = book.slider("step")
    handle.focus()
    for _ in range(3):
        handle.press("ArrowLeft")
    book.wait_text(1, r"step 2 of 5")
    book.shot("scrubbed")
    assert not book.errors


def test_a_burst_of_slider_messages_does_not_hold_up_stop(notebook):
    book = notebook([RUN, GO, "print('STEPS', len(training.metrics), training.config.clip_epsilon)"])
    book.run_all()
    book.wait_text(2, r"step [2-9] of 500")
    handle = book.slider("clip epsilon")
    handle.focus()
    for turn in range(200):
        handle.press("ArrowRight" if turn % 20 < 10 else "ArrowLeft")
    book.stop()
    book.wait_text(3, r"STEPS (\d+)", 30)
    book.shot("stopped")
    assert not book.errors
