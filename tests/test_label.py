"""The annotator's desk: a state machine over a file, a screen that runs nothing it shows, and labels that move a model."""

import json
import re
from functools import partial
from html.parser import HTMLParser
from random import Random

import ipywidgets
import pytest
from hostile import HOSTILE

from alignlab import dpo, files, recipes, reward
from alignlab.errors import UserError
from alignlab.files import write_lines
from alignlab.lab import label, live, rules, taste
from alignlab.lab.page import render
from alignlab.lab.screen import KEYS
from alignlab.models import load
from alignlab.records import data_folder, read_preferences


def made(count: int, gold: bool = True) -> list[dict]:
    """Pairs whose chosen completion is one word shorter, and better by one."""
    pairs = [{"prompt": f"prompt {i}", "chosen": f"short {i}", "rejected": f"longer by {i}"} for i in range(count)]
    return [{**pair, "gold_chosen": 1.0, "gold_rejected": 0.0} if gold else pair for pair in pairs]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "labels.jsonl"


def view(desk: label.Desk) -> tuple:
    return desk.current, desk.progress, desk.labels, desk.statistics(), desk.preferences()


# ---------------------------------------------------------------------------------------------- the state machine


def test_a_label_is_a_line_of_a_preference_file_at_once(path):
    desk = label.Desk(made(3), path)
    for side in "ab":
        question = desk.current
        desk.choose(side)
        line = read_preferences(path)[-1]
        chosen, rejected = (question.a, question.b) if side == "a" else (question.b, question.a)
        assert (line["prompt"], line["chosen"], line["rejected"], line["side"]) == (question.prompt, chosen, rejected, side)
        assert line["gold_chosen"] == chosen.startswith("short") and line["gold_rejected"] == rejected.startswith("short")
        assert line["repeat"] is False and line["by"] == "hand"
    assert read_preferences(path) == desk.preferences() and len(desk.preferences()) == 2


def test_ties_and_skips_are_kept_but_prefer_nothing(path):
    desk = label.Desk(made(3), path)
    desk.tie()
    desk.skip()
    assert not path.exists(), "a file without preferences would be no preference file"
    desk.choose("a")
    assert len(read_preferences(path)) == 1 and desk.progress == (3, 3) and desk.done
    answers = [json.loads(line)["answer"] for line in desk.other_path.read_text().splitlines()]
    assert answers == ["tie", "skip"] and desk.other_path.name == "labels.other.jsonl"


def test_a_new_desk_on_the_file_stands_where_the_old_one_stood(path):
    """After every step of a random walk over everything that a learner can do, undo included."""
    rng, pairs = Random(0), made(12)
    desk = label.Desk(pairs, path, repeats=0.5)
    for _ in range(120):
        acts = [desk.undo] * bool(desk.labels)
        if not desk.done:
            acts += [partial(desk.choose, "a"), partial(desk.choose, "b"), desk.tie, desk.skip]
        rng.choice(acts)()
        again = label.Desk(pairs, path, repeats=0.5)
        assert view(again) == view(desk)
        if rng.random() < 0.3:
            desk = again
    assert not list(path.parent.glob(".*")), "no draft is left"


def test_undo_is_the_inverse_of_every_answer(path):
    desk = label.Desk(made(8), path, repeats=0.5)
    seen = []
    while not desk.done:
        seen.append(view(desk))
        [lambda: desk.choose("a"), desk.tie, lambda: desk.choose("b"), desk.skip][len(seen) % 4]()
    while seen:
        desk.undo()
        assert view(desk) == seen.pop()
    assert not path.exists() and not desk.other_path.exists()


def test_a_write_that_fails_changes_nothing(path, monkeypatch):
    desk = label.Desk(made(4), path)
    desk.choose("a")
    before, text = view(desk), path.read_text()

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        desk.choose("b")
    assert view(desk) == before and path.read_text() == text


def test_sides_are_a_coin_and_tell_nothing(tmp_path):
    pairs = made(400)
    desk = label.Desk(pairs, tmp_path / "x.jsonl", repeats=0)
    left = sum(desk._sides.values())
    assert 160 < left < 240
    assert desk._sides == label.Desk(pairs, tmp_path / "y.jsonl")._sides != label.Desk(pairs, tmp_path / "z.jsonl", seed=1)._sides
    assert desk.current == label.Desk(pairs[:10], tmp_path / "z.jsonl").current, "more pairs later change nothing before them"


@pytest.mark.parametrize("repeats", [0, 0.2, 1])
def test_repeats_come_later_once_and_with_sides_swapped(path, repeats):
    desk = label.Desk(made(20), path, rule=rules.prefers_short, repeats=repeats).play()
    firsts = {one.key: at for at, one in enumerate(desk.labels) if not one.question.repeat}
    again = [(at, one) for at, one in enumerate(desk.labels) if one.question.repeat]
    assert len(firsts) == 20 and len(again) == len({one.key for _, one in again}) == int(20 * repeats)
    assert desk.progress == (len(desk.labels), 20 + len(again))
    for at, one in again:
        first = desk.labels[firsts[one.key]].question
        assert (one.question.a, one.question.b) == (first.b, first.a) and at > firsts[one.key]
        if at < max(firsts.values()):
            assert at - firsts[one.key] > label.GAP
    assert desk.statistics()["consistency"] == (None if repeats == 0 else pytest.approx([1, *desk.statistics()["consistency"][1:]]))


def test_what_was_skipped_or_tied_is_not_asked_again(path):
    desk = label.Desk(made(10), path, repeats=1)
    while not desk.done:
        desk.skip()
    assert desk.progress == (10, 10)


def test_more_pairs_later_go_on_with_the_same_file(path):
    label.Desk(made(5), path, rule=rules.prefers_short, repeats=0.4).play()
    longer = label.Desk(made(9), path, rule=rules.prefers_short, repeats=0.4)
    assert not longer.done and longer.progress == (7, 12)
    assert longer.play().progress == (12, 12)


def test_another_rule_does_not_go_on_where_one_has_labelled_unless_afresh(path):
    label.Desk(made(5), path, rule=rules.prefers_short).play(3)
    with pytest.raises(UserError, match="labels by prefers_short"):
        label.Desk(made(5), path, rule=rules.prefers_kind).play()
    afresh = label.Desk(made(5), path, rule=rules.prefers_kind, fresh=True).play()
    assert {one.by for one in afresh.labels} == {"prefers_kind"}
    assert {one.by for one in label.Desk(made(5), path).labels} == {"prefers_kind"}, "and so it is on disk"


@pytest.mark.parametrize("said, cure", [
    ("A", "returned 'A': write it as 'a'"), (" Tie ", "write it as 'tie'"), (True, "returned True: .* return 'a' if the first is"),
    (None, "returned None: it ended without a return"), (1, "returned 1: return 'a', 'b' or 'tie'"), ("left", "return 'a', 'b' or 'tie'"),
])  # fmt: skip
def test_a_rule_that_says_neither_a_nor_b_nor_tie_is_refused_with_the_cure(path, said, cure):
    def my_rule(prompt, a, b):
        return "a" if prompt == "prompt 0" else said

    desk = label.Desk(made(3), path, rule=my_rule)
    with pytest.raises(UserError, match=f"the rule my_rule .*{cure}") as refused:
        desk.play()
    assert "\n" not in str(refused.value)
    assert [one.answer for one in desk.labels] == ["a"] and not desk.done, "what it said before is kept"


def test_beginning_afresh_removes_no_preferences_that_no_desk_wrote(path):
    write_lines(path, made(3))
    with pytest.raises(UserError, match="no desk wrote"):
        label.Desk(made(3), path, fresh=True)
    assert len(read_preferences(path)) == 3


def test_a_desk_refuses_files_that_are_not_its_own(path):
    desk = label.Desk(made(3), path)
    desk.choose("a")
    with pytest.raises(UserError, match="labels of other pairs"):
        label.Desk([{**pair, "prompt": "other"} for pair in made(3)], path)
    other = label.Desk(made(3), path)
    other.choose("a")
    with pytest.raises(UserError, match="changed since"):
        desk.choose("b")
    assert len(read_preferences(path)) == 2, "no label is lost"
    path.write_text(json.dumps(made(1)[0]) + "\n")
    with pytest.raises(UserError, match="no desk wrote"):
        label.Desk(made(3), path)
    path.unlink()
    path.with_name("labels.other.jsonl").write_text("{]\n")
    with pytest.raises(UserError, match="damaged"):
        label.Desk(made(3), path)


def test_mistakes_are_told_with_the_cure(path):
    with pytest.raises(UserError, match="no pairs to label"):
        label.Desk([{"prompt": "p", "chosen": "same", "rejected": "same"}], path)
    with pytest.raises(ValueError, match="repeats must lie"):
        label.Desk(made(1), path, repeats=2)
    desk = label.Desk(made(1), path)
    for act, words in (
        (lambda: desk.choose("c"), "tie"), (desk.undo, "no label"), (desk.play, "no rule"),
        (lambda: taste.records(desk), "label at least 4"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            act()
    desk.choose("a")
    with pytest.raises(ValueError, match="every pair has its label"):
        desk.skip()


# ---------------------------------------------------------------------------------------------- statistics and rules


def test_statistics_of_a_learner_who_agrees_errs_and_wavers(path):
    desk = label.Desk(made(10), path, repeats=0.2)
    assert desk.statistics() == {"labels": 0, "ties": 0, "skips": 0, "agreement": None, "consistency": None, "seconds": None}
    wrong, seen = {"prompt 3", "prompt 7"}, set()
    while not desk.done:
        short = "a" if desk.current.a.startswith("short") else "b"
        turn = (desk.current.prompt in wrong) != desk.current.repeat  # right or wrong at first, the other way the second time
        desk.choose({"a": "b", "b": "a"}[short] if turn else short)
        seen.add(desk.current is not None and desk.current.repeat)
    told = desk.statistics()
    assert told["labels"] == 12 and True in seen
    assert told["agreement"][0] == 0.8 and told["consistency"][0] == 0.0
    assert 0.4 < told["agreement"][1] < 0.8 < told["agreement"][2] < 1 and told["consistency"][2] > 0.4
    assert label.Desk(made(3, gold=False), path.with_name("x.jsonl"), rules.prefers_short).play().statistics()["agreement"] is None


def test_the_clock_runs_only_while_somebody_looks(path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(label.time, "perf_counter", lambda: now[0])
    desk = label.Desk(made(4), path)
    now[0] = 1000.0
    desk.choose("a")
    assert desk.statistics()["seconds"] is None
    desk.widget()
    for seconds in (2.0, 3.0, 100.0):
        now[0] += seconds
        desk.choose("a")
    assert [one.seconds for one in desk.labels] == [None, 2.0, 3.0, 100.0] and desk.statistics()["seconds"] == 3.0


def test_rules_do_what_they_say_on_either_side():
    short, long = "It is dull.", "The score sings, and I left by bus."
    for rule, better, worse in (
        (rules.prefers_short, short, long), (rules.prefers_music, long, short), (rules.prefers_kind, long, short),
    ):  # fmt: skip
        assert rule("p", better, worse) == "a" and rule("p", worse, better) == "b" and rule("p", short, short) == "tie"
    pairs = read_preferences(data_folder() / "preferences.jsonl")[:300]
    for rule in (rules.prefers_short, rules.prefers_music, rules.prefers_kind):
        sides = [rule(pair["prompt"], pair["chosen"], pair["rejected"]) for pair in pairs]
        assert sides.count("tie") < 200 and min(sides.count("a"), sides.count("b")) > 30, "it can label the bundled pairs"


# ---------------------------------------------------------------------------------------------- the screen


def widgets_in(box) -> list:
    return [box] + [inner for child in getattr(box, "children", ()) for inner in widgets_in(child)]


class Tags(HTMLParser):
    """The tags and attributes of a text that are not ours."""

    def __init__(self, text: str):
        super().__init__()
        self.foreign: list = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        names = {name for name, _ in attrs}
        if tag not in {"div", "p", "b", "pre"} or not names <= {"style", "role", "aria-label"}:
            self.foreign.append((tag, attrs))

    def handle_comment(self, data):
        self.foreign.append(data)

    unknown_decl = handle_comment


@pytest.mark.parametrize("odd", HOSTILE)
def test_no_text_of_a_model_becomes_markup(path, odd):
    pairs = [
        {"prompt": odd, "chosen": odd + " ", "rejected": f"x{odd}"},
        {"prompt": [{"role": odd, "content": odd}], "chosen": odd, "rejected": "y"},
    ]
    desk = label.Desk(pairs, path)
    for _ in pairs:
        texts = [each.value for each in widgets_in(desk.widget()) if isinstance(each, ipywidgets.HTML) and each.value != render("style")]
        texts.append(desk._repr_mimebundle_()["text/html"])
        for text in texts:
            assert Tags(text).foreign == [], text
        desk.choose("a")
    seen = taste.Aligned(
        policy=None, reward_model=None, labels=4, rows={}, agreement=[0.5, 0.4, 0.6],
        disagreements=[{"prompt": odd, "gold_prefers": odd, "reward_model_prefers": odd}], against_gold=[],
        samples=[{"prompt": odd, "sft": odd, "dpo": odd}],
    )  # fmt: skip
    assert Tags(seen._repr_mimebundle_()["text/html"]).foreign == []


def test_buttons_and_keys_do_the_same_and_the_field_is_emptied(path):
    desk = label.Desk(made(9), path, repeats=0)
    screen = desk.widget() and desk._screen
    for key, name in zip("abtsu", ("A", "B", "Tie", "Skip", "Undo"), strict=True):
        assert screen.buttons[key].description == name and screen.buttons[key].tooltip
    assert screen.buttons["u"].disabled
    for key in "abts":
        screen.field.value = key
        assert screen.field.value == ""
    by_keys = [one.answer for one in desk.labels]
    for _ in range(4):
        screen.field.value = "U"
    assert by_keys == ["a", "b", "tie", "skip"] and desk.labels == []
    for key in "abts":
        screen.buttons[key].click()
    assert [one.answer for one in desk.labels] == by_keys
    for odd in ("x", "<", " ", "1"):
        screen.field.value = odd
        assert screen.field.value == "" and len(desk.labels) == 4
    screen.field.value = "ab"  # a was here already, and the field was not yet emptied
    assert desk.labels[-1].answer == "b" and len(desk.labels) == 5


def test_the_screen_follows_the_desk_and_stops_at_the_end(path):
    desk = label.Desk(made(2), path, rule=rules.prefers_short, repeats=0)
    box, screen = desk.widget(), desk._screen
    assert desk.widget() is box
    assert "shorter" in desk.task and KEYS in box.children[0].value
    desk.choose("a")
    assert screen.bar.value == 1 and screen.bar.max == 2 and "1 of 2" in screen.status.value and "prompt 1" in screen.pair.value
    desk.choose("a")
    assert all(button.disabled == (key != "u") for key, button in screen.buttons.items())
    screen.field.value = "a"
    assert len(desk.labels) == 2, "nothing is left to answer"
    screen.field.value = "u"
    assert not desk.done and not screen.buttons["a"].disabled


def test_a_page_without_widgets_shows_the_pair_as_text(path):
    desk = label.Desk(made(2), path)
    bundle = desk._repr_mimebundle_()
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == desk.widget().model_id
    for text in (bundle["text/plain"], bundle["text/html"]):
        assert all(words in text for words in ("prompt 0", "short 0", "longer by 0", "0 of 2", "desk.choose"))


def test_a_stale_screen_says_so(path):
    desk = label.Desk(made(3), path)
    desk.widget()
    label.Desk(made(3), path).choose("a")
    desk._screen.buttons["b"].click()
    assert "create the desk again" in desk._screen.status.value


# ---------------------------------------------------------------------------------------------- training on labels


def test_few_labels_come_in_small_batches_and_often():
    recipe = recipes.tiny()
    for config in (recipe.stages["dpo"], recipe.stages["reward"]):
        steps = []
        for count in (4, 10, 40, 200, 1000, 6212):
            fitted = taste.settings(config, count)
            assert type(fitted) is type(config) and 1 <= fitted.batch_size <= max(4, count) and fitted.epochs <= taste.EPOCHS
            steps.append(-(-count // fitted.batch_size) * fitted.epochs)
        assert all(20 <= made <= 200 for made in steps), steps
        assert taste.settings(config, 6212) == config and config.epochs == type(config)().epochs, "the original is left alone"
    assert taste.settings(recipe.stages["dpo"], 40).label_smoothing > 0 == taste.settings(recipe.stages["dpo"], 6212).label_smoothing


def test_trainings_on_a_desk_a_file_and_records_are_one(path):
    base, recipe = load(data_folder() / "base", "cpu"), recipes.tiny()
    recipe.probe = 2
    pairs = read_preferences(data_folder() / "preferences.jsonl")[:6]
    desk = label.Desk(pairs, path, rule=rules.prefers_short, repeats=0).play()
    told = []
    for labels in (desk, path, str(path), desk.preferences()):
        training = taste.dpo_training(base.policy("labels"), labels, recipe)
        assert isinstance(training, live.Training) and isinstance(training.config, dpo.Config)
        training.advance()
        told.append(training.metrics[0])
    assert told[0] == told[1] == told[2] == told[3]
    assert {"loss", "kl", "gold", "length", "stop_rate", "samples"} <= set(told[0])
    training = taste.reward_training(base.reward_model("mine"), desk, recipe)
    training.ask("learning_rate", 1e-4)
    training.advance()
    assert isinstance(training.config, reward.Config) and training.metrics[0]["changed"] and recipe.stages["reward"].learning_rate != 1e-4


@pytest.mark.slow
def test_forty_labels_for_the_shorter_answer_shorten_the_answers(fast_run, tmp_path):
    """The aligned model's mean length has its whole 95% interval below the SFT model's."""
    reference = load(fast_run / "sft")
    pairs = read_preferences(data_folder() / "preferences.jsonl")
    desk = label.Desk(pairs[:60], tmp_path / "labels.jsonl", rule=rules.prefers_short)
    while len(desk.preferences()) < 40:
        desk.play(1)
    steps = []
    aligned = taste.align(tmp_path / "labels.jsonl", reference, watch=steps.append)
    (_, sft_low, _), (_, _, dpo_high) = aligned.rows["sft"]["length"], aligned.rows["dpo"]["length"]
    assert dpo_high < sft_low
    assert 0.2 < aligned.rows["dpo"]["kl"][0] < 6 and aligned.rows["dpo"]["stop_rate"][0] > 0.9
    assert aligned.rows["dpo"]["score"][1] > aligned.rows["sft"]["score"][2], "the learned reward model likes it better"
    assert 0.3 < aligned.agreement[0] < 0.8 and aligned.disagreements
    for found in aligned.disagreements:
        assert found["gold_margin"] > 0 and found["score_margin"] > 0 and found["gold_prefers"] != found["reward_model_prefers"]
    assert {step["stage"] for step in steps} == {"reward", "dpo", "centring", "judge SFT", "judge DPO"}
    assert re.search(r"DPO .*\d", str(aligned)) and all(record["gold_chosen"] < record["gold_rejected"] for record in aligned.against_gold)
