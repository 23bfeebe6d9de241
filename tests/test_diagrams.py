"""The diagrams: what they claim, and that no word leaves its box or is struck through."""

from itertools import pairwise

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

from alignlab.lab import diagrams

each = pytest.mark.parametrize("name", ["ppo", "dpo"])


def inside(box: diagrams.Box) -> Bbox:
    return Bbox.from_bounds(box.x - box.width / 2, box.y - box.height / 2, box.width, box.height)


def links(told: diagrams.Diagram, kind: str | None = None) -> set[tuple[str, str]]:
    """Which box an arrow joins to which, by the first words of each."""

    def at(point) -> str:
        touched = [box for box in told.boxes if inside(box).padded(0.06).contains(*point)]
        assert len(touched) == 1, point
        return touched[0].words.split(":")[0].split("\n")[0]

    return {(at(arrow.points[0]), at(arrow.points[-1])) for arrow in told.arrows if kind in (None, arrow.kind)}


def texts(name: str) -> list[tuple[str, str, Bbox]]:
    """Each text of the picture: whether it stands in a box, its words, and where it stands, in inches."""
    figure = diagrams.drawn(diagrams.DIAGRAMS[name])
    renderer = FigureCanvasAgg(figure).get_renderer()
    return [(text.get_gid(), text.get_text(), Bbox(text.get_window_extent(renderer).get_points() / figure.dpi))
            for text in figure.axes[0].texts if text.get_text()]  # fmt: skip


def test_the_reward_model_starts_as_sft_and_knows_no_reference():
    reaching = {source for source, target in links(diagrams.PPO) if target == "Reward model"}
    assert reaching == {"SFT model", "Preference pairs"} and ("SFT model", "Reward model") in links(diagrams.PPO, "copy")


def test_the_diagrams_show_where_pairs_prompts_and_values_come_from():
    for told in (diagrams.PPO, diagrams.DPO):
        assert {("SFT model", "Two answers"), ("Two answers", "Annotator"), ("Annotator", "Preference pairs")} <= links(told, "data")
        assert ("Demonstrations", "SFT model") in links(told, "learn")
        assert {("SFT model", "Policy"), ("SFT model", "Reference")} <= links(told, "copy")
    assert {("Prompts", "Answers to"), ("Policy", "Answers to"), ("Value head", "PPO step"), ("Reward model", "PPO step")} <= links(
        diagrams.PPO
    )
    assert links(diagrams.PPO, "learn") >= {("PPO step", "Policy"), ("PPO step", "Value head")}
    assert not any("Reward model" in link or "Value head" in link for link in links(diagrams.DPO))


@each
def test_no_word_leaves_its_box_or_the_picture_and_none_covers_another(name):
    told, found = diagrams.DIAGRAMS[name], texts(name)
    boxes = {box.words: inside(box) for box in told.boxes}
    for kind, words, place in found:
        room = boxes[words] if kind == "box" else Bbox.from_extents(0, 0, diagrams.WIDTH, diagrams.HEIGHT)
        assert room.x0 <= place.x0 and room.y0 <= place.y0 and place.x1 <= room.x1 and place.y1 <= room.y1, words
        if kind == "label":
            assert not any(place.overlaps(box) for box in boxes.values()), words
    places = [place for *_, place in found]
    assert not any(one.overlaps(other) for i, one in enumerate(places) for other in places[:i])


@each
def test_no_arrow_strikes_through_a_word_or_another_arrow(name):
    told = diagrams.DIAGRAMS[name]
    pieces = [Bbox.from_extents(min(a[0], b[0]), min(a[1], b[1]), max(a[0], b[0]), max(a[1], b[1]))
              for arrow in told.arrows for a, b in pairwise(arrow.points)]  # each is upright or level  # fmt: skip
    for _, words, place in texts(name):
        assert not any(place.overlaps(piece.padded(0.03)) for piece in pieces), words
    assert sum(one.overlaps(other) for i, one in enumerate(pieces) for other in pieces[:i]) == sum(len(a.points) - 2 for a in told.arrows)


@each
def test_a_diagram_is_a_picture_that_tells_what_it_shows(name):
    view = diagrams.diagram(name)
    assert view.html.strip().startswith("<img") and "data:image/png;base64," in view.html and "<svg" not in view.html
    assert f'alt="Workflow of {name.upper()}' in view.html and repr(view).startswith(f"Workflow of {name.upper()}")


def test_another_name_is_refused():
    with pytest.raises(ValueError, match=r"\['dpo', 'ppo'\], got 'grpo'"):
        diagrams.diagram("grpo")
