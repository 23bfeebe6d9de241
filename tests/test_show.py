"""Static views: what they show, and that text stays text."""

from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
import torch
from hostile import HOSTILE

from alignlab import ppo, world
from alignlab.data import Batch
from alignlab.lab import show
from alignlab.models import Measures
from alignlab.ppo import Experience
from alignlab.rollout import Completions

torch.set_num_threads(1)

PROMPT = "Write a review of a slow documentary about the moon."
GOOD = "This documentary about the moon is warm."  # one good word: praise 1/3; no concrete thing; 7 words; form 1


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *each) for each in attributes]

    def handle_data(self, data):
        self.text += data


# Answers


def test_answers_show_text_parts_reward_score_and_kl():
    view = show.answers(PROMPT, {"sft": "Dull.", "ppo": GOOD}, scores={"ppo": 1.5}, kls={"ppo": 2.25})
    text = Page(view.html).text
    for words in (PROMPT, "SFT", "PPO", "Dull.", GOOD, "2 × praise", "0.33", "1.50", "2.25"):
        assert words in text and words in repr(view), words
    # 3 x 1 + 5 x 0 + 2 x 1/3 + 1 + 1
    assert "= gold reward 5.67" in repr(view)


def test_answers_to_a_prompt_of_another_world_have_no_gold_parts():
    view = show.answers([{"role": "user", "content": "Why?"}], {"mine": "Because."})
    assert "Why?" in view.html and "mine" in view.html and "gold" not in view.html


def test_given_parts_take_the_place_of_the_worlds():
    parts = {"ppo": world.gold_parts(PROMPT, GOOD, stopped=False)}
    assert "= gold reward 4.67" in repr(show.answers(PROMPT, {"ppo": GOOD}, parts))  # form 0


def test_answers_refuse_numbers_of_nobody():
    with pytest.raises(ValueError, match="no answers"):
        show.answers(PROMPT, {})
    with pytest.raises(ValueError, match=r"kls has \['dpo'\]"):
        show.answers(PROMPT, {"ppo": GOOD}, kls={"dpo": 1.0})


# Strips


def test_a_strip_says_its_numbers_without_colour_and_on_hover():
    view = show.strip(["The", " end"], {"log-ratio": [0.5, -1.0], "clipped": [True, False]})
    page = Page(view.html)
    for words in ("The", "end", "+0.50", "-1.00", "yes", "no", "Blue: above 0", "Orange: below 0", "Yellow: yes"):
        assert words in page.text, words
    titles = [value for _, name, value in page.attributes if name == "title"]
    assert "' end'; log-ratio -1.00; clipped no" in titles
    assert "+0.50" in repr(view) and "yes" in repr(view)


def test_colours_are_as_strong_as_the_number_and_say_its_sign():
    page = show.strip(["a", "b", "c"], {"x": [2.0, -1.0, 0.0]}).html
    strong_blue, weak_orange = "background: rgb(115, 177, 213)", "background: rgb(243, 211, 185)"  # 55% and 28% of the colours, on white
    assert page.count(strong_blue) == 2 and page.count(weak_orange) == 2  # the number's box and the token's


def test_a_long_strip_is_cut_into_lines_that_name_their_rows():
    page = show.strip(["x"] * 30, {"value": [0.0] * 30}).html
    assert page.count("<table") == 3 and page.count(">value</th>") == 3 and page.count("+0.00</td>") == 30


def test_a_strip_with_gaps_is_drawn_and_one_of_unequal_rows_refused():
    assert "–" in show.strip(["a"], {"x": [None]}).html
    page = show.strip(["a", "b", "c"], {"x": [float("-inf"), float("nan"), -1.0]}).html
    assert "-inf" in page and "+nan" in page and page.count("background: rgb(232, 166, 115)") == 4  # as strong as can be: -inf and -1
    assert show.strip([], {}).html and "(empty)" in show.strip([""], {"x": [1.0]}).html
    with pytest.raises(ValueError, match="'x' has 1 entries for 2 tokens"):
        show.strip(["a", "b"], {"x": [1.0]})


@pytest.fixture
def experience() -> Experience:
    """Two completions of two tokens; the prompt has one token, the second row's first token is the interesting one."""
    mask = torch.tensor([[0, 1, 1], [0, 1, 1]])
    batch = Batch(torch.tensor([[9, 1, 2], [9, 3, 4]]), mask, torch.ones_like(mask))
    logps = torch.tensor([[0.0, -1.0, -1.0], [0.0, -2.0, -1.0]])
    ref_logps = torch.tensor([[0.0, -1.0, -1.0], [0.0, -2.5, -1.0]])
    zero = torch.zeros(2, 3)
    samples = Completions(["p", "p"], ["one", "two"], batch, logps, torch.tensor([True, True]))
    old = Measures(logps, ref_logps, zero, zero, torch.zeros(2, 3, 4))
    return Experience(
        samples, old, torch.tensor([0.0, 3.0]), torch.full((2, 3), 0.25), torch.tensor([[0.0, 1, 1], [0, 1, -1]]), zero, zero + 0.125
    )


def told(experience: Experience, now: torch.Tensor) -> list[dict]:
    """`ppo.tell` of a policy whose log-probs are `now`."""
    words = {1: " one", 2: "<eos>", 3: " two", 4: "<eos>"}
    tokenizer = SimpleNamespace(batch_decode=lambda rows: [words[row[0]] for row in rows])
    policy = SimpleNamespace(device="cpu", tokenizer=tokenizer, logps=lambda batch, temperature: now[: len(batch)])
    return ppo.tell(policy, experience, ppo.Config())


def test_the_strip_of_a_completion_holds_its_numbers_alone(experience):
    text = repr(show.strip_of(told(experience, experience.old.logps)[1]))
    assert "' two'" in text and "one" not in text and "yes" not in text
    assert "+0.50" in text and "+0.25" in text and "+0.12" in text and "-1.00" in text  # log-ratio, value, reward, advantage


def test_the_strip_says_where_the_clip_stops_the_gradient(experience):
    # good token up by e^.5, past 1.2: clipped; bad token up: not clipped, it is pushed back
    lines = repr(show.strip_of(told(experience, experience.old.logps + 0.5)[1])).splitlines()
    assert lines[1].split()[-1] == "yes" and lines[2].split()[-1] == "no"


def test_a_sample_that_was_not_told_token_by_token_is_refused():
    with pytest.raises(ValueError, match="not told token by token"):
        show.strip_of({"prompt": "p", "text": "one"})


# Pairs


def test_pairs_are_the_surest_the_worst_and_the_nearest_to_a_coin():
    margins = [3.0, -2.0, 0.1, 1.0, -0.2, 2.0]
    records = [{"prompt": f"p{i}", "chosen": f"c{i}", "rejected": f"r{i}", "gold_chosen": 1.0, "gold_rejected": 2.0} for i in range(6)]
    view = show.pairs(records, torch.tensor(margins), count=2)
    best, worst, disputed = (part.split("</table>")[0] for part in view.html.split("<table")[1:])
    for part, rows in ((best, [0, 5]), (worst, [1, 4]), (disputed, [2, 4])):
        places = [part.index(f">p{i}<") for i in rows]
        assert places == sorted(places) and part.count('scope="row"') == 2
    assert "[gold 2.00]" in best and "95%" in best and "12%" in worst  # sigmoid(3), sigmoid(-2)
    assert "r5" in repr(view)


def test_where_no_pair_is_against_its_label_the_view_says_so():
    view = show.pairs([{"prompt": "p", "chosen": "c", "rejected": "r"}], [1.0])
    assert "none" in view.html and "none" in repr(view)
    with pytest.raises(ValueError, match="1 pairs but 2 margins"):
        show.pairs([{"prompt": "p", "chosen": "c", "rejected": "r"}], [1.0, 2.0])


# Text stays text

OURS = {"table", "caption", "tr", "th", "td", "b", "p", "div", "span"}


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_models_and_data_stays_text_in_every_view(text):
    zero, names = [0.0], ("log_ratio", "reward", "value", "advantage")
    sample = {"prompt": text, "text": text, "tokens": [text], **dict.fromkeys(names, zero), "clipped": [True]}
    record = {"prompt": text, "chosen": text, "rejected": text}
    views = [
        show.answers(text, {text: text}, {text: {text: 1.0}}, {text: 1.0}, {text: 1.0}),
        show.answers([{"role": "user", "content": text}], {"sft": text}),
        show.strip([text], {text: [1.0], f"{text} 2": [True]}, note=text),
        show.strip_of(sample),
        show.pairs([record, {**record, "prompt": [{"role": "user", "content": text}]}], [1.0, -1.0]),
    ]
    for view in views:
        page = Page(view.html)
        assert "<img" not in view.html.lower() and "<script" not in view.html.lower()
        assert set(page.tags) <= OURS
        assert {name for _, name, _ in page.attributes} <= {"style", "scope", "title"}
        assert text.replace("\n", "⏎") in page.text.replace("\n", "⏎")
