"""The laws of a live training, without a browser: settings act between steps, interrupts cut nothing, drawing costs little."""

import asyncio
import itertools
import random
import resource
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from architectures import build
from hostile import HOSTILE

from alignlab import dpo, ppo
from alignlab.errors import UserError
from alignlab.lab import dashboard, knob, live
from alignlab.models import ValueHead

PAIRS = [{"prompt": f"Say {i}", "chosen": "yes and more", "rejected": "no"} for i in range(24)]


def dpo_training(epochs: int = 2):
    policy, config = build("llama").policy(rank=2), dpo.Config(batch_size=4, epochs=epochs)
    return policy, live.Training(dpo.train(policy, PAIRS, config), config)


def ppo_training(iterations: int = 3, **settings):
    base = build("llama")
    config = ppo.Config(batch_size=8, minibatch_size=4, iterations=iterations, max_new_tokens=6, **settings)
    policy = base.policy(rank=2)
    prompts = [f"Say {i}" for i in range(8)]
    steps = ppo.train(policy, ValueHead(base, width=4), lambda completions: completions.lengths.float(), prompts, config)
    return policy, live.Training(steps, config)


def run(training):
    return asyncio.run(live.run(training))


def invented(steps: int = 20):
    """Metrics like PPO's, without any training."""
    for step in range(steps):
        yield {
            "stage": "ppo", "step": step, "steps": steps, "beta": 0.3, "reward": 0.1 * step, "gold": 0.05 * step, "kl": 0.1 * step,
            "kl_se": 0.02, "value_loss": 1.0, "explained_variance": 0.2, "entropy": 1.0, "clip_fraction": 0.1, "length": 20.0,
            "stop_rate": 1.0,
        }  # fmt: skip


# ---------------------------------------------------------------------------------------------- the same call, in a script


def test_a_plain_script_runs_to_the_end_and_is_told_so(capsys):
    _, training = dpo_training()
    assert run(training) is training
    assert training.finished and [m["step"] for m in training.metrics] == list(range(12))
    told = capsys.readouterr().out
    assert "beta (price of KL) 0.5" in told and "step 12 of 12" in told and "finished" in told


def test_a_live_run_learns_exactly_what_a_plain_loop_learns():
    policy, training = ppo_training()
    run(training)
    plain, other = ppo_training()
    told = [metrics for metrics in other.steps if not metrics.get("partial")]
    assert told == training.metrics
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), plain.parameters(), strict=True))


def test_metrics_are_logged_as_they_come():
    _, training = dpo_training(epochs=1)
    logged = []
    training.log = logged.append
    run(training)
    assert logged == training.metrics and len(logged) == 6


# ---------------------------------------------------------------------------------------------- controls


def test_a_setting_asked_for_acts_at_the_next_step_and_is_logged():
    _, training = dpo_training()
    for _ in range(3):
        training.advance()
    training.ask("beta", 0.1)
    assert training.config.beta == 0.5, "nothing moves within a step"
    training.advance()
    assert training.metrics[3]["beta"] == 0.1 and training.metrics[3]["changed"] == [{"name": "beta", "old": 0.5, "new": 0.1}]
    training.advance()
    assert "changed" not in training.metrics[4]


def test_a_change_within_an_iteration_of_ppo_is_logged_with_that_iteration():
    _, training = ppo_training()
    training.advance()  # sampled
    training.ask("learning_rate", 1e-4)
    training.advance()
    training.advance()
    assert [m["step"] for m in training.metrics] == [0] and training.metrics[0]["changed"][0]["new"] == 1e-4


def test_asking_for_what_it_has_changes_nothing():
    _, training = dpo_training()
    training.ask("beta", 0.5)
    training.advance()
    assert "changed" not in training.metrics[0]


def test_an_unknown_setting_is_refused_with_the_known_ones():
    _, training = dpo_training()
    with pytest.raises(ValueError, match="no setting 'bets'.*beta"):
        training.ask("bets", 1.0)


@pytest.mark.parametrize("name, value, words", [
    ("beta", -1, "beta must be > 0 for DPO, got -1"), ("beta", 0, "beta must be > 0"), ("beta", "x", "beta must be a number, got 'x'"),
    ("beta", None, "cannot be switched off"), ("beta", float("nan"), "must be a number"), ("beta", True, "must be a number"),
    ("learning_rate", -0.1, "at least 0, got -0.1"), ("label_smoothing", 0.5, "below 0.5"), ("epochs", 1.5, "a whole number"),
])  # fmt: skip
def test_a_value_that_the_stage_cannot_work_with_is_refused_at_once_and_changes_nothing(name, value, words):
    _, training = dpo_training()
    training.advance()
    with pytest.raises(UserError, match=words) as refused:
        training.ask(name, value)
    assert "\n" not in str(refused.value) and refused.value._render_traceback_() == [f"UserError: {refused.value}"]
    training.advance()
    assert "changed" not in training.metrics[1] and training.config.beta == 0.5


def test_what_can_be_off_or_at_its_end_is_accepted():
    _, training = ppo_training()
    for name, value in (("beta", 0.0), ("kl_target", None), ("kl_target", 2), ("clip_epsilon", 0.02), ("epochs", 3), ("value_clip", None)):
        training.ask(name, value)
    for name, value in (("beta", -0.1), ("kl_target", 0), ("clip_epsilon", 0.0), ("epochs", 0), ("lam", 1.1)):
        with pytest.raises(UserError, match=name):
            training.ask(name, value)
    assert training._asked == {"beta": 0.0, "kl_target": 2, "clip_epsilon": 0.02, "epochs": 3, "value_clip": None}


@pytest.mark.parametrize("config", [ppo.Config(), dpo.Config()])
def test_every_control_is_a_setting_of_its_stage_with_a_label(config):
    controls = live.controls_of(config)
    assert controls and all(hasattr(config, control.name) and control.label for control in controls)
    assert ("beta" in {control.name for control in controls}) and all(control.low < control.high for control in controls)
    assert isinstance(config, ppo.Config) or min(c.low for c in controls if c.name == "beta") > 0


def test_a_moved_slider_says_from_which_step_it_acts_until_that_step_is_done():
    _, training = ppo_training()
    knobs = {each.name: knob.Knob(training, each, lambda: None) for each in live.controls_of(training.config)}
    moved, still = knobs["learning_rate"], knobs["beta"]
    training.advance()  # sampled: the first step is under way
    assert training.next_step == 1
    moved.slider.value = 1e-4
    said = f"{moved.control.label}: from step 1"
    while not training.metrics:
        assert moved.slider.description == said and still.slider.description == still.control.label
        training.advance()
        moved.settle()
    assert moved.slider.description == moved.control.label and training.next_step == 2


def test_a_setting_that_moves_by_itself_says_nothing():
    _, training = ppo_training()
    beta = knob.Knob(training, next(c for c in live.controls_of(training.config) if c.name == "beta"), lambda: None)
    training.config.beta = 0.5
    beta.follow()
    assert beta.slider.value == 0.5 and beta.since is None and not training._asked


def test_the_last_known_samples_stay_on_steps_that_bring_none():
    records = list(invented(3))
    records[1]["samples"] = [{"prompt": "p", "text": "t"}]
    training = live.Training(records, ppo.Config())
    training.advance()
    assert training.samples == (0, [])
    training.advance()
    training.advance()
    assert training.samples == (2, records[1]["samples"]) and "t" in live._samples([training])[0][1][0]["text"]


# ---------------------------------------------------------------------------------------------- two in lock-step


def test_two_runs_move_in_lock_step_by_the_share_that_is_done():
    (_, short), (_, long) = dpo_training(epochs=1), dpo_training(epochs=3)
    gaps = []

    def watched(steps):
        for metrics in steps:
            yield metrics
            gaps.append(abs(short.share - long.share))

    short.steps, long.steps = watched(short.steps), watched(long.steps)
    asyncio.run(live.compare(short, long))
    assert short.finished and long.finished and short.title != long.title
    assert max(gaps) <= 1 / 6 + 1e-9, "never further apart than a step of the shorter"


def test_a_comparison_shows_sliders_for_the_settings_that_it_was_asked_for(monkeypatch):
    shown = []

    async def drive(trainings, controls):
        shown.append([[control.name for control in each] for each in controls])

    monkeypatch.setattr(live, "_drive", drive)
    trainings = live.Training((), ppo.Config()), live.Training((), dpo.Config())
    asyncio.run(live.compare(*trainings, controls=["beta"]))
    asyncio.run(live.compare(*trainings))
    assert shown[0] == [["beta"], ["beta"]] and [len(each) for each in shown[1]] == [len(ppo.STAGE.controls), len(dpo.STAGE.controls)]


# ---------------------------------------------------------------------------------------------- interrupts


def test_thirty_interrupts_at_random_moments_leave_a_run_that_goes_on_to_bit_equal_results():
    """The moments are counted in calls of functions, not in seconds, so that they fall anywhere and on every machine alike."""
    chance, interrupts, left = random.Random(0), 0, 0

    def count_down(frame, event, argument):
        nonlocal left
        left -= 1
        if left == 0:
            signal.raise_signal(signal.SIGINT)

    policy, training = ppo_training(iterations=80)
    while not training.finished and interrupts < 30:
        left = chance.randint(1, 30_000)
        sys.setprofile(count_down)
        try:
            run(training)
        except KeyboardInterrupt:
            interrupts += 1
        finally:
            left = -1
            sys.setprofile(None)
    run(training)
    plain, other = ppo_training(iterations=80)
    run(other)
    assert interrupts == 30, f"the run ended after {interrupts} interrupts"
    assert training.metrics == other.metrics
    assert all(torch.equal(a, b) for a, b in zip(policy.parameters(), plain.parameters(), strict=True))


def test_an_interrupt_within_a_step_waits_for_its_end():
    def steps():
        for metrics in invented(3):
            signal.raise_signal(signal.SIGINT)
            yield metrics

    training = live.Training(steps(), ppo.Config())
    for done in (1, 2, 3):
        with pytest.raises(KeyboardInterrupt):
            training.advance()
        assert len(training.metrics) == done, "the step is whole, and the generator lives"


# ---------------------------------------------------------------------------------------------- drawing


def test_drawing_takes_a_tenth_of_the_time_at_most_and_happens_twice_a_second_at_most(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(dashboard.time, "perf_counter", lambda: now[0])
    board = dashboard.Dashboard(["ppo"])
    assert board.due()
    board.drawn, board.cost = 0.0, 0.01
    now[0] = 0.49
    assert not board.due()
    now[0] = 0.51
    assert board.due()
    board.cost = 1.0
    assert not board.due()
    now[0] = 9.01
    assert board.due()


@pytest.mark.slow
def test_a_hundred_redraws_do_not_grow_the_process():
    board, history = dashboard.Dashboard(["ppo"]), list(invented(20))
    for _ in range(20):
        board.draw([history])
    before = resident()
    for _ in range(100):
        board.draw([history])
    assert resident() - before < 10, "megabytes"


def resident() -> float:
    """Megabytes of this process in memory."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / 2**20
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def test_a_moved_control_is_marked_in_every_panel():
    history = list(invented(6))
    board = dashboard.Dashboard(["ppo"])
    board.draw([history])
    before = [len(axes.lines) for axes in board.axes]
    history[3] = {**history[3], "changed": [{"name": "beta", "old": 0.3, "new": 0.1}]}
    board.draw([history])
    board.draw([history])
    assert [len(axes.lines) for axes in board.axes] == [count + 1 for count in before], "one line a panel, once"
    assert any("beta\n0.3 to 0.1" in text.get_text() for text in board.axes[0].texts)


def test_of_two_runs_the_later_change_is_marked_whichever_run_it_was_in():
    first, second = list(invented(6)), list(invented(6))
    board = dashboard.Dashboard(["A", "B"])
    second[1] = {**second[1], "changed": [{"name": "beta", "old": 0.3, "new": 0.2}]}
    board.draw([first, second])
    first[3] = {**first[3], "changed": [{"name": "beta", "old": 0.3, "new": 0.7}]}
    board.draw([first, second])
    assert [text.get_text() for text in board.axes[0].texts] == ["beta\n0.3 to 0.2", "beta\n0.3 to 0.7"]


def test_a_control_moved_twice_within_a_step_is_marked_from_its_first_value_to_its_last():
    history = list(invented(3))
    history[1]["changed"] = [{"name": "beta", "old": 0.3, "new": 0.4}, {"name": "beta", "old": 0.4, "new": 0.5}]
    board = dashboard.Dashboard(["ppo"])
    board.draw([history])
    assert [text.get_text() for text in board.axes[0].texts] == ["beta\n0.3 to 0.5"]


def test_a_replay_tells_no_time(capsys):
    live.replay(list(invented(3)))
    assert "step 3 of 3; " in capsys.readouterr().out


def test_of_two_runs_a_curve_that_one_has_only_later_is_drawn_too():
    first, second = list(invented(6)), list(invented(6))
    board = dashboard.Dashboard(["A", "B"])
    begun = {key: value for key, value in second[0].items() if key != "length"}  # a first step that is still being made
    board.draw([first[:1], [begun]])
    board.draw([first, second])
    shown = {(key, run): len(line.get_xdata()) for (_, line), _, run, key in board.lines}
    assert shown["length", 0] == shown["length", 1] == 6


@pytest.mark.parametrize("text", HOSTILE)
def test_titles_and_changes_are_drawn_as_they_stand(text):
    moved = [{**record, "changed": [{"name": text, "old": text, "new": text}]} for record in invented(2)]
    dashboard.Dashboard([text, f"{text} 2"]).draw([moved, moved])
    dashboard.Dashboard([text]).draw([moved])


def test_curves_of_one_panel_differ_in_dash_as_well_as_hue():
    board = dashboard.Dashboard(["ppo"])
    board.draw([list(invented(6))])
    by_panel = {}
    for (_, line), where, *_ in board.lines:
        by_panel.setdefault(tuple(where.get_position().bounds), []).append((str(line.get_linestyle()), line.get_color()))
    assert max(len(styles) for styles in by_panel.values()) == 2
    for styles in by_panel.values():
        assert len({dash for dash, _ in styles}) == len(styles) and len({colour for _, colour in styles}) == len(styles)


def test_a_picture_has_words_for_those_who_cannot_see_it():
    board, history = dashboard.Dashboard(["ppo"]), list(invented(6))
    assert "ppo at step 6 of 6" in board.words([history]) and "kl 0.5" in board.words([history])


def test_a_tile_is_a_picture_of_one_panel_with_its_last_values_in_words():
    board, history = dashboard.Dashboard(["ppo"]), list(invented(6))
    tiles = board.tiles([history])
    assert len(tiles) == len(board.panels) == 6 and all(tile.png.startswith(b"\x89PNG") for tile in tiles)
    assert tiles[1].words == "KL to the reference, nats: KL 0.5 at step 6"
    two = dashboard.Dashboard(["A", "B"]).tiles([history, history[:3]])
    assert two[1].words == "KL to the reference, nats: A 0.5 at step 6, B 0.2 at step 3"
    assert two[-1].words.endswith("A at KL 0.5, gold 0.25; B at KL 0.2, gold 0.1")


def test_before_the_first_step_each_panel_says_that_it_will_come():
    for names, kinds in ((["PPO"], ["ppo"]), (["A", "B"], ["ppo", "dpo"])):
        board = dashboard.Dashboard(names, kinds)
        assert all("not measured so far" in tile.words for tile in board.tiles([[] for _ in names]))
        assert {words.get_text() for words, _ in board.notes if words.get_visible()} == {"comes with the first step"}
    board.draw([list(invented(2)), []])
    assert "comes with the first step" not in {words.get_text() for words, _ in board.notes if words.get_visible()}


def test_steps_are_whole_numbers_on_the_axis_and_zero_has_no_sign():
    board = dashboard.Dashboard(["ppo"])
    for count in (1, 2, 5):
        board.draw([list(invented(count))])
        assert all(float(tick).is_integer() for axes in board.axes for tick in axes.get_xticks())
    assert dashboard._tick(-1e-17) == "-1e-17" and dashboard._tick(-0.0) == "0"
    assert "-0" not in live._status(live.Training((), ppo.Config())) and f"{-0.001:z.2f}" == "0.00"


@pytest.mark.parametrize(("kinds", "same"), [(("ppo", "ppo"), "ppo"), (("dpo", "dpo"), "dpo"), (("ppo", "dpo"), None)])
def test_two_runs_have_two_colours_and_neither_has_the_other_methods(kinds, same):
    first, second = dashboard.colours_of(kinds)
    assert first == dashboard.COLOURS[kinds[0]] and second != first
    assert second == dashboard.COLOURS[kinds[1]] if same is None else second not in (dashboard.COLOURS["ppo"], dashboard.COLOURS["dpo"])


# ---------------------------------------------------------------------------------------------- replay


def test_replay_of_a_stage_that_is_not_there_names_what_is():
    with pytest.raises(ValueError, match="no steps of 'dpo'.*ppo"):
        live.replay(list(itertools.islice(invented(), 3)), "dpo")


def test_step_takes_one_whole_step_of_each_however_unequal_they_are(monkeypatch):
    monkeypatch.setattr(live, "display", lambda *shown, **how: SimpleNamespace(update=lambda *again, **how: None))

    def stage(steps, parts):
        for step in range(steps):
            yield from ({"stage": "x", "step": step, "steps": steps, "loss": 1.0, "partial": True} for _ in range(parts))
            yield {"stage": "x", "step": step, "steps": steps, "loss": 1.0}

    config = SimpleNamespace(learning_rate=1e-3)
    trainings = [live.Training(stage(4, 2), config, "A"), live.Training(stage(40, 0), config, "B")]
    desk = live._Desk(trainings, [None, None])
    desk._toggle()
    assert not any(map(desk.may_step, trainings))
    for press in range(1, 5):
        desk._one()
        while ready := [training for training in trainings if desk.may_step(training)]:
            ready[0].advance()
            desk.moved(ready[0])
        assert [len(training.metrics) for training in trainings] == [press, press]
    desk._one()
    desk._toggle()
    desk._toggle()
    assert not any(map(desk.may_step, trainings)), "what was asked before a resume is forgotten"
