"""A finished run in words and pictures: the table, the report, the figures of one run and of several."""

import re
from copy import deepcopy
from html.parser import HTMLParser
from itertools import combinations

import numpy
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection

from alignlab.lab import report, view

COMMAND = {
    "at": "2026-03-01T09:05:07+05:30", "command": "alignlab run --fast --ppo-beta 0.4", "seed": 7, "fast": True, "device": "CPU",
    "versions": {"alignlab": "0.1.0", "torch": "2.9.1", "Python": "3.12.3"}, "threads": 1, "system": "Linux x86_64",
}  # fmt: skip
CONFIG = {"size": "tiny", "pair_limit": None, "ppo": {"beta": 0.4, "kl_target": None}, "dpo": {"learning_rate": 3e-5, "epochs": 2}}
METRICS = [
    {"stage": stage, "step": step, "steps": 3, "loss": 1.0 / (step + 1), "kl": 0.1 * step} for stage in ("sft", "dpo") for step in range(3)
]


def row(gold, kl, efficiency=None, **more):
    near = [kl, max(kl - 0.05, 0.0), kl + 0.05]
    parts = dict.fromkeys(("reward_model_efficiency", "optimiser_efficiency"))
    numbers = {"win_rate": [0.8, 0.78, 0.82], "length": [30.0, 29.0, 31.0], "stop_rate": [0.97, 0.96, 0.98], "distinct_2": [0.6, 0.5, 0.7]}
    return {"gold": [gold, gold - 0.1, gold + 0.1], "kl": near, "gold_efficiency": efficiency, **parts, **numbers,
            "minutes": 123.4, "peak_memory_mb": 12345, **more}  # fmt: skip


def compared(dpo_kl=0.2, ppo_kl=1.5, start=3.75, kind="gold"):
    """A comparison whose curves rise as square roots do; DPO lies `dpo_kl` nats away, on the reach."""
    points = [0.02 * i for i in range(120)]
    curves = {"frontier": [[kl, start + 1.4 * kl**0.5] for kl in points], "reach": [[kl, start + 1.1 * kl**0.5] for kl in points]}
    curves |= {"frontier_pooled": curves["frontier"], "best_of_n": [[kl, start + 1.05 * kl**0.5] for kl in (0.0, 0.19, 0.64, 1.2, 1.84)]}
    split = {"reward_model_efficiency": [0.8, 0.7, 0.9], "optimiser_efficiency": [0.9, 0.8, 1.0]}
    policies = {
        "sft": row(start, 0.0), "best_of_16": row(start + 1.4, 1.84, [0.8, 0.7, 0.9], distinct_2=None, **split),
        "ppo": row(start + 1.05 * ppo_kl**0.5, ppo_kl, [0.72, 0.6, 0.8], **split), "dpo": row(start + 1.1 * dpo_kl**0.5, dpo_kl),
    }  # fmt: skip
    paths = {
        name: [[s, [kl * s**2] * 3, [start + 1.05 * s * kl**0.5] * 3] for s in (0.0, 0.5, 1.0, 2.0)]
        for name, kl in (("ppo", ppo_kl), ("dpo", dpo_kl))
    }
    equal = {"kl": 0.55, "gold": {"ppo": [4.5, 4.4, 4.6], "dpo": [4.3, 4.2, 4.4]}, "difference": {"ppo-dpo": [0.2, 0.1, 0.3]}}
    return {
        "dial": paths, "at_equal_kl": equal,
        "size": "tiny", "seed": 7, "betas": {"ppo": 0.4, "dpo": 0.5}, "alarms": [], "policies": policies, "curves": curves,
        "judge": {"kind": kind, "prompts": 32, "samples": 128, "answers": 16, "max_new_tokens": 48, "temperature": 1.0},
        "reference": {"gold": [start, start - 0.03, start + 0.03], "sd": 1.0},
        "reward_model": {"accuracy": [0.73, 0.7, 0.76], "bayes_accuracy": None, "skill": None,
                         "calibration": [{"predicted": 0.2, "observed": 0.3, "pairs": 9}, {"predicted": 0.8, "observed": 0.7, "pairs": 9}]},
        "samples": [{"prompt": "p", **{name: {"text": "t", "gold": -0.001} for name in policies}}],
    }  # fmt: skip


class Words(HTMLParser):
    """The words of a page, its styles left out, and the address of each link."""

    def __init__(self, page):
        super().__init__()
        self.words, self.links, self.names, self.inside = [], [], [], ""
        self.feed(page)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.inside = tag
        found = dict(attributes)
        self.links += [found["href"]] if "href" in found else []
        self.names += [found["id"]] if "id" in found else []

    def handle_data(self, data):
        self.words += [data] if self.inside != "style" else []


# ---------------------------------------------------------------------------------------------- the table


def test_the_table_fits_80_columns_and_tells_the_reason_of_each_dash():
    comparison = compared()
    lines = report.table(comparison).splitlines()
    assert max(map(len, lines)) <= 80 and len(lines[1].strip("-")) == 0
    dashes = [line.split()[0] for line in lines[2:6] if " - " in line]
    assert dashes == ["SFT", "DPO"] == [line[2:5] for line in lines[6:]]
    assert lines[-1] == "- DPO: moved less than 0.5 nats, too little for an efficiency to mean anything"


def test_no_number_is_minus_zero():
    comparison = compared(start=-0.0012, dpo_kl=0.0)
    for measured in comparison["policies"]["dpo"].values():
        if isinstance(measured, list):
            measured[:] = [-0.0001, -0.0002, 0.0]
    page = Words(report.page(comparison, METRICS, CONFIG)).text
    shown = re.findall(r"-0(?:\.0+)?%?(?![\d.])", f"{report.table(comparison)} {' '.join(report.verdict(comparison))} {page}")
    assert shown == []


# ---------------------------------------------------------------------------------------------- the report


def test_the_report_tells_when_by_which_command_and_by_which_versions_a_run_was_made():
    page = Words(report.page(compared(), METRICS, CONFIG, [COMMAND, COMMAND | {"at": "2026-03-02T10:00:00+05:30"}])).text
    assert "Run on 1 March 2026, 09:05:07 (UTC+05:30)" in page and "Continued on 2 March 2026, 10:00:00" in page
    assert "alignlab run --fast --ppo-beta 0.4 , small version (--fast), seed 7" in page
    assert page.count("alignlab 0.1.0, torch 2.9.1, Python 3.12.3") == 1 and page.count("CPU, 1 thread, Linux x86_64") == 1
    assert "full version, seed 7" in Words(report.page(compared(), METRICS, CONFIG, [COMMAND | {"fast": False}])).text
    assert "is not recorded in its folder" in Words(report.page(compared(), METRICS, CONFIG)).text


def test_each_dash_of_the_report_leads_to_its_reason_and_no_reason_stands_alone():
    page = Words(report.page(compared(), METRICS, CONFIG))
    assert page.text.count("–") == len(page.links) == 7  # three of SFT, three of DPO, best-of-16's bigrams
    assert {link[1:] for link in page.links} == set(page.names)
    for reason in ("SFT: the start", "DPO: moved less than 0.5 nats", "DPO: learned without the reward model", "best-of-16: worked out"):
        assert reason in page.text, reason


def test_headings_and_settings_are_words():
    page = Words(report.page(compared(), METRICS, CONFIG)).text
    assert "KL (nats per completion)" in page and "distinct bigrams" in page and "KL target none" in page and "learning rate 3e-05" in page
    assert not re.search(r"[{}_]|distinct 2|None", page)


def test_what_was_measured_of_a_method_at_other_kls_is_said():
    comparison = compared(ppo_kl=1.5)
    words = dict(report.scope(comparison))["PPO"]
    assert "lies at 1.50 nats (1.45 to 1.55). At other KLs only this policy was measured, its adapter multiplied by 0.5 and 2" in words
    del comparison["dial"]
    assert "Nothing was measured of PPO at any other KL" in dict(report.scope(comparison))["PPO"]


@pytest.mark.parametrize(
    ("kind", "said"), [("gold", "no policy was trained"), ("vader", "not a human"), ("reward_model", "not whether people")]
)
def test_what_the_judge_does_not_tell_is_said(kind, said):
    assert said in dict(report.scope(compared(kind=kind)))["Judge"]
    (last,) = [words for name, words in report.scope(compared(kind=kind)) if name == "Curves"]
    assert "up to 2.38 nats" in last


def test_pictures_say_in_words_what_they_show():
    page = report.page(compared(), METRICS, CONFIG)
    assert page.count("<img alt=") == page.count("<img") >= 4
    assert re.search(r'alt="KL to the reference, nats: KL from 0 to 0.2 over 3 steps"', page)


# ---------------------------------------------------------------------------------------------- figures


def outlines(figure):
    """The outline of each label, and of the legend, on the canvas; and the places that curves, bars and markers cover."""
    figure.set_canvas(FigureCanvasAgg(figure))
    figure.canvas.draw()
    (axes,) = figure.axes
    boxes = {f"{i} {label.get_text()}": label.get_window_extent() for i, label in enumerate(axes.texts)}
    if axes.get_legend():
        boxes["legend"] = axes.get_legend().get_window_extent()
    return axes, boxes, view._drawn(axes, figure.dpi / 72)


def plane_of(**places):
    return view.plane_figure(compared(**places))


def swept(lift):
    rows = {name: [(beta, row(3.75 + (1.1 + way) * kl**0.5, kl)) for beta, kl in ((2, 0.1), (1, 0.3), (0.5, 0.8), (0.2, 1.7))]
            for name, way in (("ppo", lift), ("dpo", 0.0))}  # fmt: skip
    comparison = compared()
    return view.betas_figure(comparison["curves"], comparison["reference"]["gold"], rows)


@pytest.mark.parametrize(
    "draw",
    [lambda: plane_of(dpo_kl=0.1), lambda: plane_of(dpo_kl=0.32, ppo_kl=1.3), lambda: plane_of(dpo_kl=0.9, ppo_kl=1.0),
     lambda: plane_of(dpo_kl=1.7, ppo_kl=1.75), lambda: view.plane_figure(compared(), size=view.NARROW), lambda: swept(0.0),
     lambda: swept(-0.06), lambda: view.runs_figure({"a": compared(), "b": compared(0.3, 1.6), "c": compared(0.1, 1.1)})],
)  # fmt: skip
def test_labels_lie_on_no_curve_and_on_no_other_label(draw):
    axes, boxes, covered = outlines(draw())
    assert len(boxes) > 4
    for one, other in combinations(boxes, 2):
        assert not boxes[one].overlaps(boxes[other]), (one, other)
    for name, box in boxes.items():
        if name != "legend":
            hit = ((covered > box.min) & (covered < box.max)).all(1).sum()
            assert hit <= (1 if re.search(r"\d\.?\d*$", name) else 0), (name, hit)
            assert axes.get_window_extent().padded(2).containsx(box.x0) and axes.get_window_extent().padded(2).containsx(box.x1), name


def test_a_comparison_names_its_runs_and_tells_them_apart():
    figure = view.runs_figure({"near": compared(), "far": compared(0.9, 2.2)})
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.texts] == ["SFT", "PPO, near", "DPO, near", "PPO, far", "DPO, far"]
    assert axes.get_title("left") == "Where the policies of 2 runs landed"
    colours = {label.get_text(): label.get_color() for label in axes.texts}
    assert colours["PPO, near"] == colours["DPO, near"] != colours["PPO, far"] == colours["DPO, far"]
    legend = [words.get_text() for words in axes.get_legend().get_texts()]
    assert "near: beta 0.4 for PPO, 0.5 for DPO" in legend and "PPO, with its 95% intervals" in legend


def test_a_comparison_shows_the_recorded_intervals():
    (axes,) = view.runs_figure({"one": compared(), "two": compared(0.9, 2.2)}).axes
    bars = [path.vertices for lines in axes.collections if isinstance(lines, LineCollection) for path in lines.get_paths()]
    for comparison in (compared(), compared(0.9, 2.2)):
        for name in ("ppo", "dpo"):
            gold, kl = comparison["policies"][name]["gold"], comparison["policies"][name]["kl"]
            assert any(bar.ravel() == pytest.approx([kl[1], gold[0], kl[2], gold[0]]) for bar in bars), name
            assert any(bar.ravel() == pytest.approx([kl[0], gold[1], kl[0], gold[2]]) for bar in bars), name


def test_titles_claim_nothing_that_is_not_so():
    other = compared(start=3.9)
    (axes,) = view.runs_figure({"one": compared(), "two": other}).axes
    assert axes.get_title("left") == "Where the policies of 2 runs landed; curves: those of one"
    points = {"dpo": [(0.5, row(4.0, 1.0)), (1.0, row(4.2, 1.4))]}
    (axes,) = view.betas_figure(compared()["curves"], [3.75] * 3, points).axes
    assert axes.get_title("left") == "Each method at several betas"
    (axes,) = swept(0.0).axes
    assert axes.get_title("left") == "A smaller beta moves further from the SFT model"


def test_runs_of_different_methods_share_a_figure():
    alone = deepcopy(compared())
    del alone["betas"]["dpo"], alone["policies"]["dpo"]
    (axes,) = view.runs_figure({"alone": alone, "both": compared()}).axes
    assert [label.get_text() for label in axes.texts] == ["SFT", "PPO, alone", "PPO, both", "DPO, both"]


# ---------------------------------------------------------------------------------------------- equal KL


@pytest.mark.parametrize(
    ("difference", "said"),
    [([0.2, 0.1, 0.3], "PPO is ahead"), ([-0.2, -0.3, -0.1], "DPO is ahead"), ([0.2, -0.1, 0.5], "a tie"), (None, "no KL in common")],
)
def test_the_verdict_at_equal_kl_follows_the_interval(difference, said):
    comparison = compared()
    comparison["at_equal_kl"]["difference"]["ppo-dpo"] = difference
    (sentence,) = [words for words in report.verdict(comparison) if "equal KL" in words or "KL in common" in words]
    assert said in sentence
    assert difference is None or f"{difference[0]:.2f} ({difference[1]:.2f} to {difference[2]:.2f})" in sentence


def test_a_run_of_an_earlier_version_has_no_sentence_on_equal_kl():
    comparison = compared()
    del comparison["at_equal_kl"], comparison["dial"]
    assert not [words for words in report.verdict(comparison) if "equal KL" in words]
    assert view.plane_figure(comparison).axes


def test_the_plane_draws_each_path_from_the_start_through_its_policy():
    comparison = compared(dpo_kl=1.0)
    (axes,) = view.plane_figure(comparison).axes
    lines = {line.get_gid(): line for line in axes.lines}
    for name in ("ppo", "dpo"):
        far, heights = lines[f"path of {name}"].get_data()
        assert (far[0], heights[0]) == (0, 3.75)
        for _, (kl, *_), (gold, *_) in comparison["dial"][name][:3]:  # strengths 0, 0.5 and 1
            assert numpy.interp(kl, far, heights) == pytest.approx(gold, abs=0.01)


def test_the_legend_of_four_methods_says_nothing_twice():
    comparison = compared()
    for name in ("rloo", "online"):
        comparison["policies"][name], comparison["betas"][name] = deepcopy(comparison["policies"]["ppo"]), 0.4
    (axes,) = view.plane_figure(comparison).axes
    labels = axes.get_legend_handles_labels()[1]
    assert len(labels) == len(set(labels)) and sum("lost by the judge" in label for label in labels) == 1
