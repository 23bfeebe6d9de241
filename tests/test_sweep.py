"""A sweep keeps each finished point, whatever ends it, and gives the same results on any workers."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import toy_sweep
from toy_sweep import SWEEP, marks

from alignlab import cli, records
from alignlab.errors import UserError
from alignlab.tools import sweep, sweep_data, sweep_fresh
from alignlab.world import Annotator

JOURNAL = Path("runs/sweeps/toy/points.jsonl")
BUNDLED = records.PACKAGE_DATA


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder of its own, with one worker: this process."""
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    monkeypatch.setattr(records, "PACKAGE_DATA", tmp_path / "data")
    (tmp_path / "data").mkdir()
    yield tmp_path
    torch.set_num_threads(threads)


def points(path) -> list[dict]:
    return json.loads(Path(path).read_text())["points"]


def started(seconds: float) -> subprocess.Popen:
    """`alignlab sweep toy` in a process of its own, with two workers, once it has finished a point or more."""
    own = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]), "LOKY_MAX_CPU_COUNT": "2", "TOY_SECONDS": str(seconds)}
    words = [sys.executable, "-c", "import toy_sweep; toy_sweep.main()", "sweep", "toy", "--out", "toy.json"]
    process = subprocess.Popen(words, env=os.environ | own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (JOURNAL.is_file() and JOURNAL.stat().st_size):
        time.sleep(0.02)
    return process


# ---------------------------------------------------------------------------------------------- results


def test_results_hold_every_point_in_the_grids_order_and_what_made_them(here):
    assert sweep.run(SWEEP, "alignlab sweep toy") == (here / "data/sweeps/toy.json", 8)
    text = (here / "data/sweeps/toy.json").read_text()
    kept = json.loads(text)
    assert list(kept) == ["name", "command", "date", "versions", "points"]
    assert kept["name"] == "toy" and kept["command"] == "alignlab sweep toy"
    assert datetime.fromisoformat(kept["date"]).tzinfo is not None and kept["versions"].keys() >= {"alignlab", "torch", "Python"}
    assert [(point["settings"], point["seed"]) for point in kept["points"]] == list(SWEEP.points)
    assert kept["points"][0] == {"settings": {"x": 4}, "seed": 0, "result": {"third": 1.3333, "path": [{"step": 0, "value": 571.43}]}}
    assert text.endswith("\n") and len(text.splitlines()) == 8 + len(kept) + 3, "a line for each point"


def test_when_all_points_are_there_the_results_alone_are_written_again(here):
    path, _ = sweep.run(SWEEP, "first")
    before = path.read_text()
    path.unlink()
    assert sweep.run(SWEEP, "second") == (path, 0)
    assert path.read_text() == before and len(marks()) == 8


def test_a_quick_look_leaves_the_full_results_alone(here):
    assert sweep.run(SWEEP, "fast", fast=True) == (Path("runs/sweeps/toy-fast/toy.json"), 1)
    assert len(points("runs/sweeps/toy-fast/toy.json")) == 1 and not (here / "data/sweeps").exists()


def test_what_points_share_is_made_before_them_once_for_each_seed_that_is_missing(here, monkeypatch):
    monkeypatch.setattr(sweep, "_point", lambda each, settings, seed, fast: {"settings": settings, "seed": seed, "result": {}})
    sweep.run(replace(SWEEP, points=SWEEP.points[:5]), "")
    assert sorted(marks("prepared")) == ["0", "1"]
    sweep.run(SWEEP, "")
    assert sorted(marks("prepared")) == ["0", "1", "1"]


def test_settings_taken_out_of_the_grid_leave_the_results_and_new_ones_are_all_that_is_measured():
    sweep.run(SWEEP, "")
    changed = replace(SWEEP, points=[({"x": 9}, 0), *SWEEP.points[2:5]])
    path, measured = sweep.run(changed, "")
    assert measured == 1 and len(marks()) == 9
    assert [(point["settings"], point["seed"]) for point in points(path)] == changed.points


def test_points_that_the_results_hold_are_not_measured_again_elsewhere(here, monkeypatch):
    path, _ = sweep.run(replace(SWEEP, points=SWEEP.points[:5]), "first")
    elsewhere = here / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert sweep.run(replace(SWEEP, points=SWEEP.points[:5]), "second") == (path, 0) and json.loads(path.read_text())["command"] == "first"
    assert sweep.run(SWEEP, "third") == (path, 3) and len(marks()) == 3
    kept = json.loads(path.read_text())
    assert kept["command"] == "third" and [(point["settings"], point["seed"]) for point in kept["points"]] == list(SWEEP.points)


def test_results_of_another_sweep_are_nobodys_points(here):
    other = here / "other.json"
    other.write_text(json.dumps({"name": "other", "points": [{"settings": {"x": 4}, "seed": 0, "result": {}}]}))
    assert sweep.run(SWEEP, "", out=other) == (other, 8)


def test_a_quick_looks_points_are_never_those_of_the_whole_grid(here):
    file = here / "toy.json"
    sweep.run(SWEEP, "quick", fast=True, out=file)
    assert sweep.run(SWEEP, "whole", out=file) == (file, 8)
    assert sweep.run(SWEEP, "quick", fast=True, out=file) == (file, 0) and len(points(file)) == 1


# ---------------------------------------------------------------------------------------------- interrupted


def test_a_half_written_line_is_measured_again(here):
    path, _ = sweep.run(SWEEP, "")
    whole = points(path)
    JOURNAL.write_bytes(JOURNAL.read_bytes()[:-20])
    path.unlink()
    assert sweep.run(SWEEP, "") == (path, 1)
    assert points(path) == whole and len(JOURNAL.read_text().splitlines()) == 8
    assert sweep.run(SWEEP, "") == (path, 0)


def test_points_before_one_that_fails_are_kept(monkeypatch):
    def fails(settings, seed, fast):
        if (settings["x"], seed) == (2, 1):
            raise UserError("diverged; lower the learning rate")
        return toy_sweep.measure(settings, seed, fast)

    with pytest.raises(UserError, match="diverged"):
        sweep.run(replace(SWEEP, measure=fails), "")
    assert len(JOURNAL.read_text().splitlines()) == 6
    assert sweep.run(SWEEP, "")[1] == 2


def test_a_killed_sweep_goes_on_without_a_finished_point():
    killed = started(seconds=0.4)
    killed.kill()
    killed.wait()
    finished = [json.loads(line) for line in JOURNAL.read_text().splitlines(keepends=True) if line.endswith("\n")]
    path, measured = sweep.run(SWEEP, "")
    assert 1 <= len(finished) < 8 and measured == 8 - len(finished)
    assert all(marks().count(f"{point['settings']['x']} {point['seed']}") == 1 for point in finished)
    assert [(point["settings"], point["seed"]) for point in points(path)] == SWEEP.points


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_a_stopped_sweep_says_what_is_kept_and_a_second_process_is_refused_meanwhile(number, code):
    first = started(seconds=1)
    with pytest.raises(UserError, match=f"runs/sweeps/toy: process {first.pid} is working in this folder; wait until it has ended$"):
        sweep.run(SWEEP, "")
    first.send_signal(number)
    said = first.communicate(timeout=60)[1]
    assert first.returncode == code and "Traceback" not in said
    assert re.search(r"stopped; [1-7] of 8 points are kept in runs/sweeps/toy; the same command continues after them\n", said), said
    assert "toy: " in said and "| 1/8 " in said, "how far it is"


# ---------------------------------------------------------------------------------------------- mistakes


def test_the_sweeps_are_listed_without_a_name_and_with_an_unknown_one(monkeypatch, capfd):
    for words in ([], ["strenght"]):
        monkeypatch.setattr(sys, "argv", ["alignlab", "sweep", *words])
        monkeypatch.setattr(signal, "signal", lambda number, handler: None)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        assert out.startswith("strength: PPO and DPO at ") and "; 24 points" in out and "; 48 points" in out
        complaint = f"alignlab: no sweep 'strenght'; there is {', '.join(sweep.NAMES)}\n"
        assert (ended.value.code, err) == ((2, complaint) if words else (0, ""))


def test_results_that_cannot_be_written_are_refused_before_anything_is_measured(here, monkeypatch):
    for out, complaint in ((here, "is a folder; name a file"), (here / "file/toy.json", "cannot be made, since .*file is a file; name")):
        (here / "file").touch()
        with pytest.raises(UserError, match=complaint):
            sweep.run(SWEEP, "", out=out)

    def refuses(**given):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sweep.tempfile, "TemporaryFile", refuses)
    with pytest.raises(UserError, match="data/sweeps: cannot be written .*choose another --out"):
        sweep.run(SWEEP, "")
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("address", "complaint"),
    [("tcp://127.0.0.1:8786", r"install alignlab with its extra: pip install 'alignlab\[dask\]'"), ("no address", "no scheduler answers")],
)
def test_dask_that_is_not_installed_or_not_there_is_one_line(address, complaint, monkeypatch):
    if address.startswith("tcp"):
        monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=complaint) as refused:
        sweep.run(SWEEP, "", dask=address)
    assert "\n" not in str(refused.value) and marks() == []


# ---------------------------------------------------------------------------------------------- other workers


def test_a_dask_cluster_gives_the_same_points_where_its_workers_share_no_folder(here):
    from distributed import Client, LocalCluster

    one, _ = sweep.run(replace(SWEEP, name="alone"), "", out=Path("one.json"))
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        with Client(cluster) as client:
            for number, worker in enumerate(client.scheduler_info()["workers"]):
                (here / f"worker{number}").mkdir()
                client.run(os.chdir, here / f"worker{number}", workers=[worker])
        other, measured = sweep.run(SWEEP, "", out=Path("other.json"), dask=cluster.scheduler_address)
    assert measured == 8 and points(other) == points(one)
    assert len([line for number in (0, 1) for line in marks(f"worker{number}/marks")]) == 8


def check_course(result: dict) -> None:
    """Of a run, looks that move away from the SFT model; of best-of-n a proxy that rises with n."""
    assert len(result["reference"]["gold"]) == 8 and result["reference"]["sd"]["gold"] > 0
    rows = result["course"] if isinstance(result["course"], list) else result["course"]["60"]
    assert len(rows) >= 2 and all(len(row[key]) == 8 for row in rows for key in ("gold", "score"))
    if "n" in rows[0]:
        assert sum(rows[0]["score"]) < sum(rows[-1]["score"])
    else:
        assert 0 < sum(rows[0]["kl"]) < sum(rows[-1]["kl"]) and result["reference"]["sd"]["disagreement"] > 0


@pytest.mark.slow
def test_the_real_sweeps_measure_their_fast_points(monkeypatch):
    """In this process: how points are spread over others is tested with the toy sweep."""
    monkeypatch.setattr(records, "PACKAGE_DATA", BUNDLED)
    for name in sweep.NAMES:
        chosen = sweep.find(name)
        for settings, seed in chosen.fast_points:
            chosen.prepare(seed, True)
            result = chosen.measure(settings, seed, True)
            json.dumps(result, allow_nan=False)
            if name == "overopt":
                check_course(result)
                continue
            if name in ("clinic", "mystery"):  # short runs, not paths
                assert {"curves", "end", "samples"} == set(result) and result["curves"]
                continue
            path = {row["strength"]: row for row in result["path"]}
            assert {0.5, 1.0, 2.0} <= set(path)  # what every sweep has, whatever else
            assert len(result["reference"]["gold"]) == 8 and result["reference"]["sd"] > 0
            assert all(len(row[key]) == 8 for row in path.values() for key in ("gold", "kl", "score"))
            assert 0 < sum(path[0.5]["kl"]) < sum(path[2.0]["kl"]), settings
            assert all(0 <= row["stop_rate"] <= 1 <= row["length"] for row in path.values())


def test_labels_by_gold_or_by_the_reward_model_turn_the_pairs_that_they_order_otherwise(monkeypatch):
    pairs = [{"chosen": "a", "rejected": "b", "gold_chosen": 1.0, "gold_rejected": gold} for gold in (0.0, 2.0)]
    given = SimpleNamespace(pairs=(pairs, []), reward_model=None, config=lambda stage: SimpleNamespace(max_length=9))
    monkeypatch.setattr(sweep_fresh.evaluate, "pair_margins", lambda model, pairs, length: torch.tensor([-1.0, 0.5]))
    chosen = {labels: [pair["chosen"] for pair in sweep_fresh._labelled(given, labels)] for labels in ("annotator", "gold", "judge")}
    assert chosen == {"annotator": ["a", "a"], "gold": ["a", "b"], "judge": ["b", "a"]}


def test_pairs_are_labelled_anew_by_an_annotator_of_known_noise():
    pairs = [{"prompt": str(i), "chosen": "good", "rejected": "bad", "gold_chosen": 60.0, "gold_rejected": 0.0} for i in range(4000)]
    for flip in (0.0, 0.3):
        labelled = sweep_data.relabelled(pairs, 3000, Annotator(flip=flip), seed=1)
        wrong = sum(pair["chosen"] == "bad" for pair in labelled) / 3000
        assert wrong == pytest.approx(flip, abs=0.03) and all(pair["certainty"] == pytest.approx(1 - flip) for pair in labelled)
    prompts = [[pair["prompt"] for pair in sweep_data.relabelled(pairs, 50, Annotator(flip=flip), seed=1)] for flip in (0.0, 0.3)]
    assert prompts[0] == prompts[1] and len(set(prompts[0])) == 50


def test_a_biased_annotator_prefers_the_longer_answer_and_cannot_where_lengths_are_equal():
    answers = {"chosen": "a b", "gold_chosen": 0.4, "gold_rejected": 0.0}
    pairs = [{"prompt": str(i), **answers, "rejected": "a b" + i % 8 * " c"} for i in range(800)]
    longer = {
        bias: sum(len(pair["chosen"]) > len(pair["rejected"]) for pair in sweep_data.relabelled(pairs, 800, Annotator(length_bias=bias), 0))
        for bias in (0.0, 1.0)
    }
    assert longer[1.0] > 1.5 * longer[0.0]
    assert {len(pair["rejected"].split()) for pair in sweep_data.picked(pairs, "equal")} == {2, 3, 4, 5}


def test_pairs_are_picked_by_how_good_and_how_far_apart_their_answers_are():
    pairs = [{"gold_chosen": better, "gold_rejected": worse} for better, worse in ((9, 8), (9, 3), (4, 3), (4, -2))]
    kept = {how: [pairs.index(pair) for pair in sweep_data.picked(pairs, how)] for how in ("good", "poor", "far", "close")}
    assert kept == {"good": [0, 1], "poor": [3, 2], "far": [1, 3], "close": [0, 2]} and sweep_data.picked(pairs, None) is pairs
