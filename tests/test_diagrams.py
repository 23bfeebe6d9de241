"""The diagrams: what they claim, that the committed pictures are theirs, and that no word is covered or struck through."""

import re
import struct

import pytest
from matplotlib.transforms import Bbox

from alignlab.lab import diagrams

each = pytest.mark.parametrize("name", ["ppo", "dpo"])


def links(told: diagrams.Diagram, *kinds: str) -> set[tuple[str, str]]:
    return {(arrow.source, arrow.target) for arrow in told.arrows if not kinds or arrow.kind in kinds}


def inside(box: diagrams.Box) -> Bbox:
    return Bbox.from_bounds(box.x - box.width / 2, box.y - box.height / 2, box.width, box.height)


def words_of(told: diagrams.Diagram) -> list[Bbox]:
    """The room of each title and of each arrow's words, as Graphviz is told."""
    found = []
    for line in diagrams.graph(told).source.splitlines():
        if '"words at' in line:
            x, y, width, height = re.search(r'height=([\d.]+).*pos="([\d.]+),([\d.]+)".*width=([\d.]+)', line).group(2, 3, 4, 1)
            found.append(inside(diagrams.Box("", "", float(x) / 72, float(y) / 72, float(width), float(height))))
    return found


def test_the_reward_model_starts_as_sft_and_knows_no_reference():
    assert {source for source, target in links(diagrams.PPO) if target == "reward"} == {"sft", "pairs"}
    assert ("sft", "reward") in links(diagrams.PPO, "copy")


def test_the_diagrams_show_where_pairs_prompts_and_values_come_from():
    for told in (diagrams.PPO, diagrams.DPO):
        assert {("sft", "two"), ("two", "annotator"), ("annotator", "pairs")} <= links(told, "data")
        assert ("demonstrations", "sft") in links(told, "learn") and {("sft", "policy"), ("sft", "reference")} <= links(told, "copy")
    assert {("prompts", "answers"), ("policy", "answers"), ("value", "step"), ("reward", "step")} <= links(diagrams.PPO, "data")
    assert {("step", "policy"), ("step", "value")} <= links(diagrams.PPO, "learn")
    assert not {"reward", "value"} & {end for link in links(diagrams.DPO) for end in link}


@each
def test_the_committed_picture_was_drawn_from_this_source_at_twice_its_shown_size(name):
    source, picture = diagrams.graph(diagrams.DIAGRAMS[name]).source, (diagrams.FOLDER / f"{name}.png").read_bytes()
    written = (diagrams.FOLDER / f"{name}.sha256").read_text(encoding="utf-8")
    assert written == diagrams.stamp(source, picture), "stale: run python -m alignlab.lab.diagrams"
    width, _ = struct.unpack(">II", picture[16:24])  # in a PNG's head
    shown = int(re.search(r'width="(\d+)"', diagrams.diagram(name).html).group(1))
    assert shown <= 900 and abs(width - 2 * shown) <= 2


@each
def test_no_words_cover_a_box_or_each_other(name):
    told = diagrams.DIAGRAMS[name]
    rooms, page = words_of(told) + [inside(box) for box in told.boxes.values()], Bbox.from_extents(0, 0, diagrams.WIDTH, diagrams.HEIGHT)
    assert not [(one, other) for i, one in enumerate(rooms) for other in rooms[:i] if one.overlaps(other)]
    assert all(page.x0 < room.x0 and page.y0 < room.y0 and room.x1 < page.x1 and room.y1 < page.y1 for room in rooms)


@each
def test_an_arrow_runs_straight_from_box_to_box_and_crosses_nothing(name):
    told = diagrams.DIAGRAMS[name]
    lines = []
    for arrow in told.arrows:
        start, tip = diagrams.ends(told.boxes, arrow)
        line = Bbox([[min(start[0], tip[0]), min(start[1], tip[1])], [max(start[0], tip[0]), max(start[1], tip[1])]])
        assert min(line.width, line.height) < 1e-9 and inside(told.boxes[arrow.source]).padded(1e-6).contains(*start)
        assert inside(told.boxes[arrow.target]).padded(1e-6).contains(*tip)
        foreign = [inside(box) for key, box in told.boxes.items() if key not in (arrow.source, arrow.target)]
        assert not any(line.padded(0.03).overlaps(room) for room in words_of(told) + foreign + lines), arrow
        lines.append(line)


@each
def test_a_diagram_is_a_picture_that_tells_what_it_shows(name):
    view = diagrams.diagram(name)
    assert view.html.strip().startswith("<img") and "data:image/png;base64," in view.html and "<svg" not in view.html
    assert f'alt="Workflow of {name.upper()}' in view.html and repr(view).startswith(f"Workflow of {name.upper()}")
    for box in diagrams.DIAGRAMS[name].boxes.values():
        assert re.split(r"[:\n]", box.words)[0].lower().removesuffix(" to") in view.html.lower()


def test_another_name_is_refused():
    with pytest.raises(ValueError, match=r"\['dpo', 'ppo'\], got 'grpo'"):
        diagrams.diagram("grpo")
