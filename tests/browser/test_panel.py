"""The panels on one screen: what is in view, readable and named, at three sizes and in both themes."""

import re

import pytest

pytestmark = pytest.mark.slow

# Every text in the outputs with its contrast to what lies behind it, the lowest first.
CONTRAST = r"""() => {
    const light = part => { const v = part / 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4 };
    const luminance = colour => 0.2126 * light(colour[0]) + 0.7152 * light(colour[1]) + 0.0722 * light(colour[2]);
    const parts = text => { const n = text.match(/[\d.]+/g).map(Number); return n.length > 3 ? n : [...n, 1] };
    const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3])).concat([1]);
    const behind = element => {
        const layers = [];
        for (let e = element; e; e = e.parentElement) layers.push(parts(getComputedStyle(e).backgroundColor));
        return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255, 1]);
    };
    const found = [];
    for (const element of document.querySelectorAll('.jp-OutputArea-output *')) {
        const text = [...element.childNodes].filter(n => n.nodeType == 3).map(n => n.textContent.trim()).join(' ').trim();
        if (!text || !element.getClientRects().length || element.tagName == 'STYLE') continue;
        const colour = parts(getComputedStyle(element).color);
        for (let e = element; e; e = e.parentElement) colour[3] *= parseFloat(getComputedStyle(e).opacity);
        const [a, b] = [luminance(over(colour, behind(element))), luminance(behind(element))];
        found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), text.slice(0, 60)]);
    }
    return found.sort((one, other) => one[0] - other[0]);
}"""
SIZES = {"small": (1280, 800), "large": (1920, 1080), "narrow": (900, 800)}
RUN = "training = ppo_training('policy', 'PPO')"
TWO = "a, b = ppo_training('a', 'beta 0.1', beta=0.1), ppo_training('b', 'beta 1', beta=1.0)"
CELLS = ["await live.run(training);", "await live.compare(a, b);", "live.replay(folder)"]


def places(book, chosen: str) -> list[dict]:
    """Where the elements of a selector lie in the window."""
    return book.page.locator(chosen).evaluate_all("parts => parts.map(part => part.getBoundingClientRect().toJSON())")


def window(book) -> dict:
    return places(book, ".jp-WindowedPanel-outer")[0]


def show_cell(book, cell: int) -> None:
    """Scroll so that a cell begins at the top of the window."""
    book.page.evaluate("cell => document.querySelectorAll('.jp-Notebook .jp-Cell')[cell].scrollIntoView()", cell)
    book.page.wait_for_timeout(400)


def in_view(book, parts: list[dict]) -> bool:
    seen = window(book)
    return bool(parts) and all(part["top"] >= seen["top"] - 1 and part["bottom"] <= seen["bottom"] + 1 for part in parts)


def check_panel(book, cell: int, size: str, name: str) -> None:
    """Controls and the first row of curves in view together; nothing cut off; text readable; pictures crisp and told in words."""
    show_cell(book, cell)
    book.shot(f"{name}-{size}")
    controls = places(book, ".alignlab-controls") or places(book, ".alignlab-group")
    curves = places(book, ".alignlab-tiles img")
    first_row = [place for place in curves if place["top"] < curves[0]["top"] + 5]
    if size != "narrow":
        assert in_view(book, controls + first_row), "controls and first row of curves together"
        assert len(first_row) == (3 if size == "large" or name.endswith("replay") else 2)
        assert in_view(book, places(book, ".alignlab-panel")), "the whole panel"
    assert book.wider_than_the_page() == []
    tracks = places(book, ".alignlab-panel .slider-container")
    assert min(track["width"] for track in tracks) >= 130
    lowest = book.page.evaluate(CONTRAST)[:3]
    assert lowest[0][0] >= 4.5, lowest
    pictures = book.page.locator(".alignlab-tiles img").evaluate_all("all => all.map(i => [i.naturalWidth / i.width, i.alt])")
    assert min(density for density, _ in pictures) >= 1.75 and all(": " in words for _, words in pictures)


def move_while_paused(book, cell: int) -> None:
    """A moved slider says from which step it acts, until that step is done."""
    book.button("Pause").click()
    book.wait_for(lambda: book.button("Resume").is_visible(), 30, "Resume")
    handle = book.slider("clip epsilon")
    handle.focus()
    handle.press("ArrowRight")
    step = book.wait_text(cell, r"clip epsilon: from step (\d+)", 30).group(1)
    book.shot("moved")
    book.button("Step").click()
    book.button("Step").click()
    book.wait_for(lambda: "from step" not in book.page.locator(".alignlab-group .widget-hslider").nth(1).inner_text(), 60, "the note goes")
    book.wait_text(cell, rf"step {step} of|step {int(step) + 1} of", 60)


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_the_panels_are_on_one_screen(notebook, theme):
    book = notebook([RUN, TWO, *CELLS], files=True, height=800)
    book.theme(theme)
    book.run_all()
    later = r": step ([2-9]|\d\d+) of"
    for name, cell, told in (("run", 3, f"PPO{later}"), ("compare", 4, f"beta 1{later}"), ("replay", 5, "step 5 of 5")):
        book.wait_text(cell, told, 120)
        for size, (width, height) in SIZES.items():
            book.page.set_viewport_size({"width": width, "height": height})
            book.page.wait_for_timeout(500)
            check_panel(book, cell, size, f"{theme}-{name}")
        book.page.set_viewport_size({"width": 1280, "height": 800})
        if name == "run":
            move_while_paused(book, cell)
        if name != "replay":
            book.stop()
    assert not re.search(r"-0\.0+\b", book.page.locator(".jp-Notebook").inner_text())
    assert not book.errors


EXPLORERS = ("preference_sigmoid", "dpo_loss_and_gradient", "gae_on_an_episode", "kl_estimators", "clipped_objective", "tilted_optimum")
DESK = "from alignlab.lab import label\nlabel.Desk(read_preferences(data_folder() / 'preferences.jsonl')[:40], 'panel.jsonl', fresh=True)"


@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_explorers_and_the_desk_are_in_view(notebook, theme):
    cells = [f"from alignlab.lab import explore\nexplore.{name}()" for name in EXPLORERS] + [DESK]
    book = notebook(cells, files=True, height=800)
    book.theme(theme)
    book.run_all()
    book.wait_text(len(cells), r"0 of 4\d labelled", 240)
    for size, (width, height) in SIZES.items():
        book.page.set_viewport_size({"width": width, "height": height})
        for cell, name in enumerate([*EXPLORERS, "desk"], 1):
            show_cell(book, cell)
            book.shot(f"{name}-{size}")
            panel = book.page.locator(".jp-Notebook .jp-Cell").nth(cell).locator(".alignlab-panel")
            seen = window(book)
            place = panel.evaluate("panel => panel.getBoundingClientRect().toJSON()")
            assert size == "narrow" or (place["top"] >= seen["top"] and place["bottom"] <= seen["bottom"] + 1), (name, size, place, seen)
        assert book.wider_than_the_page() == []
    lowest = book.page.evaluate(CONTRAST)[:3]
    assert lowest[0][0] >= 4.5, lowest
    assert all(book.page.locator(".alignlab-panel img").evaluate_all("all => all.map(i => i.alt)"))
    assert not book.errors
