"""The command line from outside: a whole run, its files, and every mistake that a user can make."""

import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from architectures import PAIRS, build
from conftest import alignlab
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from alignlab import cli, files, terminal
from alignlab.errors import UserError
from alignlab.files import read_lines
from alignlab.recipes import tiny
from alignlab.runs import Run

PAIR = {"prompt": "Say something.", "chosen": "Something kind.", "rejected": "Something rude."}


@pytest.mark.slow
def test_a_run_leaves_the_files_of_the_interface(fast_run):
    for name in ("config.json", "metrics.jsonl", "timing.jsonl", "comparison.json", "report.html", "sft/model.safetensors",
                 "ppo/adapter_config.json", "dpo/adapter_model.safetensors", "reward/adapter_config.json", "commands.jsonl"):  # fmt: skip
        assert (fast_run / name).is_file(), name
    stages = [record["stage"] for record in read_lines(fast_run / "metrics.jsonl")]
    assert list(dict.fromkeys(stages)) == ["sft", "reward", "ppo", "dpo"]
    comparison = json.loads((fast_run / "comparison.json").read_text())
    assert {"size", "seed", "judge", "reference", "curves", "policies", "reward_model", "alarms"} <= set(comparison)
    assert {"dial", "at_equal_kl", "versions", "command", "date"} <= set(comparison)
    for path in comparison["dial"].values():
        assert [strength for strength, *_ in path] == [0, 0.5, 1, 2] and path[0][1][0] == 0
    low, high = comparison["at_equal_kl"]["difference"]["ppo-dpo"][1:]
    assert low < comparison["at_equal_kl"]["difference"]["ppo-dpo"][0] < high
    assert set(comparison["policies"]) == {"sft", "best_of_16", "ppo", "dpo"}
    for row in comparison["policies"].values():
        low, high = row["gold"][1:]
        assert low <= row["gold"][0] <= high
    assert comparison["policies"]["sft"]["kl"] == [0, 0, 0]
    assert comparison["alarms"] == []


@pytest.mark.slow
def test_the_table_fits_80_columns_and_both_policies_beat_the_reference(fast_run):
    lines = (fast_run.parent / "stdout.txt").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if "win rate" in line)
    assert max(len(line) for line in lines[start : start + 10]) <= 80
    policies = json.loads((fast_run / "comparison.json").read_text())["policies"]
    for name in ("ppo", "dpo", "best_of_16"):
        assert policies[name]["gold"][1] > policies["sft"]["gold"][2], name
        assert policies[name]["win_rate"][1] > 0.5, name


@pytest.mark.slow
def test_the_reward_models_gap_between_training_and_held_out_pairs_is_recorded_over_the_stage(fast_run):
    records = [record for record in read_lines(fast_run / "metrics.jsonl") if record["stage"] == "reward"]
    seen = [(record["step"], record["test_loss"], record["test_accuracy"]) for record in records if "test_loss" in record]
    assert 8 <= len(seen) <= 13 and seen[0][0] == 0 and seen[-1][0] == records[-1]["step"]
    assert seen[0][1] > seen[-1][1] < 0.69 and seen[-1][2] > 0.6


@pytest.mark.slow
def test_the_same_command_goes_on_where_the_run_was_stopped(fast_run, tmp_path):
    """Forget the last stage and half of its metrics, as a kill would leave it; the metrics must come out the same."""
    copy = tmp_path / "run"
    shutil.copytree(fast_run, copy)
    before = (copy / "metrics.jsonl").read_text()
    manifest = json.loads((copy / "checkpoints/manifest.json").read_text())
    del manifest["dpo"]
    (copy / "checkpoints/manifest.json").write_text(json.dumps(manifest))
    shutil.rmtree(copy / "dpo")
    (copy / "metrics.jsonl").write_text(before[: len(before) - 1500])
    assert alignlab("dpo", "--fast", "--out", "run", cwd=tmp_path).returncode == 0
    assert (copy / "metrics.jsonl").read_text() == before


@pytest.mark.slow
def test_adapters_load_in_plain_peft_and_the_reward_model_scores_alike(fast_run):
    tokenizer = AutoTokenizer.from_pretrained(fast_run / "sft")
    ids = torch.tensor([tokenizer("This comedy about the sea is warm.")["input_ids"] + [tokenizer.eos_token_id]])
    for name in ("ppo", "dpo"):
        plain = AutoModelForCausalLM.from_pretrained(fast_run / "sft")
        with torch.no_grad():
            before = plain(ids).logits.clone()
            after = PeftModel.from_pretrained(plain, fast_run / name)(ids).logits
        assert (before - after).abs().max() > 1e-3
    from alignlab.data import Example, collate
    from alignlab.models import RewardModel, load

    base = load(fast_run / "sft")
    ours = RewardModel.load(base, fast_run / "reward").scores(collate([Example([], ids[0].tolist())], tokenizer.pad_token_id, base.device))
    head = AutoModelForSequenceClassification.from_pretrained(fast_run / "sft", num_labels=1)
    head.config.pad_token_id = tokenizer.pad_token_id
    with torch.no_grad():
        theirs = PeftModel.from_pretrained(head, fast_run / "reward").eval()(ids).logits[:, 0]
    assert torch.allclose(ours.cpu(), theirs, atol=1e-5)


@pytest.mark.slow
def test_the_report_is_one_escaped_file(fast_run):
    page = (fast_run / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 3
    assert "src='http" not in page and "<script" not in page
    (first, *_) = read_lines(fast_run / "commands.jsonl")
    assert first["command"].startswith("alignlab run --fast --out ") and first["command"] in page
    assert datetime.fromisoformat(first["at"]).tzinfo is not None and first["versions"].keys() >= {"alignlab", "torch", "peft", "Python"}
    assert "--fast" not in (fast_run / "config.json").read_text(), "what is recorded of a command keeps no run from continuing"


@pytest.mark.slow
def test_own_model_and_data_run_through_the_whole_path(fast_run, tmp_path):
    from alignlab.records import data_folder

    lines = (data_folder() / "preferences.jsonl").read_text().splitlines()[:240]
    records = [{key: value for key, value in json.loads(line).items() if key in PAIR} for line in lines]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    words = ("run", "--model", str(data_folder() / "base"), "--data", "pairs.jsonl", "--fast", "--out", "own")
    done = alignlab(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    comparison = json.loads((tmp_path / "own/comparison.json").read_text())
    assert comparison["judge"]["kind"] == "reward_model" and comparison["reward_model"]["bayes_accuracy"] is None


# ---------------------------------------------------------------------------------------------- mistakes


MISTAKES = {
    "unknown option": (["run", "--betta", "1"], "betta"),
    "unknown command": (["runn"], "runn"),
    "beta not a number": (["run", "--beta", "much"], "--beta"),
    "beta below 0": (["run", "--beta", "-0.1"], "beta must be >= 0 for PPO, got -0.1"),
    "beta 0 for DPO": (["run", "--dpo-beta", "0"], "beta must be > 0 for DPO, got 0"),
    "beta not a number at all": (["run", "--beta", "nan"], "beta must be >= 0 for PPO, got nan"),
    "unknown size": (["run", "--size", "huge"], "tiny, smol or hub"),
    "data without model": (["run", "--data", "pairs.jsonl"], "--model"),
    "model without data": (["run", "--size", "hub", "--model", "m"], "--data"),
    "demonstrations for tiny": (["run", "--demonstrations", "d.jsonl"], "--model and --data"),
    "no such file": (["run", "--model", "m", "--data", "missing.jsonl"], "missing.jsonl: no such file"),
    "not JSON": (["run", "--model", "m", "--data", "broken.jsonl"], "broken.jsonl, line 2: not JSON"),
    "missing field": (
        ["run", "--model", "m", "--data", "fieldless.jsonl"],
        "fieldless.jsonl, line 1: field 'rejected' is missing",
    ),
    "empty completion": (["run", "--model", "gpt2", "--data", "empty.jsonl"], "1 of 1 rows left out: 1 with an empty answer (line 1)"),
    "equal pair": (["run", "--model", "gpt2", "--data", "equal.jsonl"], "1 with chosen equal to rejected (line 1); that is more than half"),
    "one bad row, strictly": (["run", "--model", "gpt2", "--data", "one_bad.jsonl", "--strict"], "one_bad.jsonl: 1 of 3 rows left out"),
    "one prompt only": (["run", "--model", "gpt2", "--data", "single.jsonl"], "at least two different prompts"),
    "one prompt in two writings": (["run", "--model", "qwen3", "--data", "writings.jsonl"], "at least two different prompts"),
    "options of data for tiny": (["run", "--limit", "5"], "--limit, --split, --config and --columns go with --model and --data"),
    "columns without a name": (["run", "--model", "m", "--data", "pairs.jsonl", "--columns", "prompt"], "--columns must be OURS=THEIRS"),
    "neither file nor hub name": (["run", "--model", "m", "--data", "pairs"], "pairs: no such file"),
    "pickled weights": (["run", "--model", "pickled", "--data", "pairs.jsonl", "--out", "new"], "weights in a pickle file"),
    "own code": (["run", "--model", "own", "--data", "pairs.jsonl", "--out", "new"], "code of its own"),
    "no tokenizer": (["run", "--model", "silent", "--data", "pairs.jsonl", "--out", "new"], "silent: the tokenizer is missing"),
    "no such model": (["run", "--model", "nowhere", "--data", "pairs.jsonl", "--out", "new"], "nowhere: no model there"),
    "every pair too long": (["run", "--model", "gpt2", "--data", "long.jsonl", "--out", "new"], "leaves no room for its prompt within 64"),
    "messages, no template": (["run", "--model", "gpt2", "--data", "messages.jsonl", "--out", "new"], "no chat template; use plain"),
    "damaged weights": (["run", "--model", "damaged", "--data", "pairs.jsonl", "--out", "new"], "logits that are not finite"),
    "out is a file": (["run", "--out", "pairs.jsonl"], "pairs.jsonl: is a file"),
    "out holds something else": (["run", "--out", "full"], "holds no run"),
    "compare without a run": (["compare", "full"], "no such file"),
    "compare a file": (["compare", "pairs.jsonl"], "no such file"),
    "compare what is no comparison": (["compare", "none"], "not what `alignlab run` writes"),
    "compare two scales": (["compare", "one", "two"], "different scales (smol judged by vader, tiny judged by gold)"),
    "compare into a folder": (["compare", "one", "--out", "full"], "full: is a folder; name a file"),
    "out below a file": (["run", "--out", "pairs.jsonl/run"], "pairs.jsonl/run: cannot be made"),
    "half a character": (["run", "--model", "m", "--data", "half.jsonl"], "half.jsonl, line 1: half of a character"),
    "unknown Dask scheduler": (["sweep", "strength", "--dask", "nowhere", "--out", "new.json"], "--dask nowhere: no scheduler answers"),
    "sweep into a folder": (["sweep", "strength", "--out", "full"], "full: is a folder; name a file"),
    "no such method": (["run", "--methods", "ppo,grpo"], "ppo, dpo, rloo, online, kto, with commas between them, got 'grpo'"),
    "no method": (["run", "--methods", ""], "--methods must name any of ppo, dpo, rloo, online, kto"),
    "the beta of a method that is left out": (["run", "--methods", "rloo,dpo", "--ppo-beta", "1"], "--ppo-beta needs ppo among --methods"),
    "beta below 0 for RLOO": (["run", "--methods", "rloo", "--beta", "-1"], "beta must be >= 0 for RLOO, got -1"),
    "a setting that a stage has not": (["rloo", "--epochs", "2"], "RLOO has no --epochs"),
    "seed too large": (["run", "--seed", "99999999999999999999"], "--seed"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes")
    other = PAIR | {"prompt": "Say another thing."}
    files = {
        "pairs": [PAIR, other],
        "broken": [PAIR, "{not json"],
        "fieldless": [{"prompt": "p", "chosen": "c"}],
        "empty": [PAIR | {"chosen": "  "}],
        "equal": [PAIR | {"rejected": PAIR["chosen"]}],
        "one_bad": [PAIR, PAIR | {"chosen": ""}, other],
        "single": [PAIR, PAIR],
        "writings": [
            PAIR,
            PAIR | {"prompt": [{"role": "user", "content": PAIR["prompt"]}]},
            PAIR | {"prompt": f"\n\nHuman: {PAIR['prompt']}\n\nAssistant:"},
        ],
        "half": [PAIR | {"prompt": "a smile \ud83d"}],
        "long": [{**row, "chosen": "on and " * 100 + "on"} for row in (PAIR, other)],
        "messages": [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in (PAIR, other)],
    }
    for name, rows in files.items():
        text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    base = build("gpt2")
    base.save(folder / "gpt2")
    build("qwen3").save(folder / "qwen3")
    for name in ("pickled", "own", "silent"):
        base.save(folder / name)
    (folder / "pickled/model.safetensors").rename(folder / "pickled/pytorch_model.bin")
    config = json.loads((folder / "own/config.json").read_text())
    (folder / "own/config.json").write_text(json.dumps(config | {"auto_map": {"AutoModelForCausalLM": "own.Own"}}))
    (folder / "own/own.py").write_text("open('ran', 'w')")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "silent" / file).unlink()
    next(base.network.parameters()).data.fill_(float("nan"))
    base.save(folder / "damaged")
    for name, size, kind in (("one", "tiny", "gold"), ("two", "smol", "vader")):
        (folder / name).mkdir()
        comparison = {"size": size, "judge": {"kind": kind}, "betas": {}, "curves": {}, "policies": {}}
        (folder / name / "comparison.json").write_text(json.dumps(comparison))
    (folder / "none").mkdir()
    (folder / "none/comparison.json").write_text("[]")
    (folder / "full").mkdir()
    (folder / "full/note.txt").write_text("mine")
    return folder


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_exit_code_2_and_leaves_nothing_behind(mistake, place, monkeypatch, capfd):
    words, expected = MISTAKES[mistake]
    before = sorted(path.relative_to(place) for path in place.rglob("*"))
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["alignlab", *words])
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capfd.readouterr().err
    assert ended.value.code == 2 and expected in said and len(said.strip().splitlines()) == 1, said
    assert sorted(path.relative_to(place) for path in place.rglob("*")) == before


# ---------------------------------------------------------------------------------------------- help, versions, progress, Ctrl-C


def said(monkeypatch, capfd, *words):
    """Exit code, and what a command says on either stream, for commands that end at once."""
    monkeypatch.setattr(sys, "argv", ["alignlab", *words])
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    return ended.value.code, *capfd.readouterr()


def test_alone_it_prints_its_help_line_by_line(monkeypatch, capfd):
    code, out, err = said(monkeypatch, capfd)
    assert code == 0 and err == "" and "Usage: alignlab [OPTIONS] COMMAND" in out
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    for name in ("run", "sft", "reward", "ppo", "dpo", "rloo", "online", "kto", "compare", "lab", "sweep", "doctor"):
        assert any(line.lstrip("│| ").startswith(f"{name} ") for line in lines), name


def test_it_tells_its_version(monkeypatch, capfd):
    assert said(monkeypatch, capfd, "--version") == (0, f"alignlab {version('alignlab')}\n", "")


def test_a_shell_can_complete_its_words():
    environment = os.environ | {"_ALIGNLAB_COMPLETE": "complete_bash", "COMP_WORDS": "alignlab run --dpo", "COMP_CWORD": "2"}
    done = subprocess.run([sys.executable, "-m", "alignlab.cli"], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["--dpo-beta"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_a_command_that_is_stopped_before_it_wrote_says_so_in_one_line(monkeypatch, capfd, number, code):
    monkeypatch.setattr("alignlab.doctor.examine", lambda: os.kill(os.getpid(), number) or time.sleep(5))
    assert said(monkeypatch, capfd, "doctor") == (code, "", "\nstopped; nothing was written\n")


def steps(count, **numbers):
    return [{"stage": "ppo", "step": step, "steps": count, **numbers} for step in range(count)]


def test_progress_that_no_terminal_shows_is_a_line_a_stage_and_one_each_half_minute(monkeypatch, capfd):
    clock = iter([0, 10, 31, 40, 50, 62, 70])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    with terminal.progress() as (watch, say):
        say("PPO")
        for metrics in steps(7, kl=-0.001, loss=0.5):
            watch(metrics)
    out, err = capfd.readouterr()
    assert out == "PPO\n" and "\r" not in err
    assert err.splitlines() == [f"      ppo  {done} of 7  loss 0.50, kl 0.00" for done in (3, 6, 7)]


def test_progress_in_a_terminal_is_a_bar_that_leaves_one_line(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(sys, "stdout", screen)
    with terminal.progress() as (watch, say):
        say("PPO with [beta]")
        for metrics in [*steps(3), {"stage": "judge", "step": 0, "steps": 1}]:
            watch(metrics)
    shown = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line.split("\r")[-1]).rstrip() for line in screen.getvalue().splitlines()]
    assert [line for line in shown if line.startswith(("PPO", "      ppo  3 of 3"))] == ["PPO with [beta]", "      ppo  3 of 3"]
    assert "judge" not in screen.getvalue(), "what is done at once needs no bar"


def test_another_config_in_the_same_folder_is_refused_by_name(tmp_path):
    Run(tmp_path / "run", {"beta": 1.0})
    with pytest.raises(UserError, match="holds a run with beta = 1.0, not 2.0"):
        Run(tmp_path / "run", {"beta": 2.0})


def test_the_first_setting_that_differs_is_named_alone(tmp_path):
    Run(tmp_path / "run", {"ppo": {"beta": 1.0, "lam": 1.0}})
    with pytest.raises(UserError, match=r"holds a run with ppo.beta = 1.0, not 2.0; choose"):
        Run(tmp_path / "run", {"ppo": {"beta": 2.0, "lam": 1.0}})


def test_a_stage_may_be_added_to_a_run_and_left_out_again_but_not_changed(tmp_path):
    first, added = {"seed": 0, "ppo": {"beta": 1.0}}, {"rloo": {"beta": 0.4}}
    Run(tmp_path, first)
    for config in (first | added, first):
        assert Run(tmp_path, config).config == files.read_json(tmp_path / "config.json") == first | added
    with pytest.raises(UserError, match=r"holds a run with rloo.beta = 0.4, not 0.5"):
        Run(tmp_path, first | {"rloo": {"beta": 0.5}})
    with pytest.raises(UserError, match="holds a run with seed = 0, not 1"):
        Run(tmp_path, first | {"seed": 1, "sft": {}})
    assert files.read_json(tmp_path / "config.json") == first | added, "what is refused changes nothing"


# ---------------------------------------------------------------------------------------------- which methods are judged


@pytest.mark.parametrize(
    ("words", "methods", "folder"),
    [
        ("ppo,dpo", ("ppo", "dpo"), "tiny-seed0"),
        ("ppo, dpo,ppo", ("ppo", "dpo"), "tiny-seed0"),
        ("ppo,dpo,rloo", ("ppo", "dpo", "rloo"), "tiny-ppo-dpo-rloo-seed0"),
        ("rloo,dpo", ("rloo", "dpo"), "tiny-rloo-dpo-seed0"),
    ],
)
def test_methods_are_judged_in_the_order_in_which_they_are_named_and_name_the_folder(words, methods, folder, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("alignlab.pipeline.Pipeline.compare", lambda self: seen.append(self) or 1 / 0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError):
        cli.app(["run", "--methods", words], standalone_mode=False)
    assert seen[0].methods == methods and seen[0].run.folder == Path("runs") / folder
    assert set(methods) <= set(seen[0].run.config)


def test_a_beta_for_all_is_also_that_of_rloo_and_ppos_own_is_not(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("alignlab.pipeline.Pipeline.make", lambda self, stage: seen.append(self) or 1 / 0)
    monkeypatch.chdir(tmp_path)
    for options in (["--beta", "1"], ["--ppo-beta", "0.2"]):
        with pytest.raises(ZeroDivisionError):
            cli.app(["rloo", *options], standalone_mode=False)
    assert [pipeline.config("rloo").beta for pipeline in seen] == [1.0, tiny().config("rloo").beta]


# ---------------------------------------------------------------------------------------------- the folder of a run


@pytest.fixture(scope="module")
def knows(tmp_path_factory):
    """A tiny model's folder, and pairs with fields of the user's own."""
    folder = tmp_path_factory.mktemp("knows")
    build("qwen3", seed=3).save(folder / "model")
    rows = [{**pair, "prompt": f"{pair['prompt']} {i}", "certainty": 3, "stars": "***"} for i in range(6) for pair in PAIRS]
    write(folder / "pairs.jsonl", rows)
    return folder


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.slow
def test_own_fields_reach_nothing_and_any_output_encoding_will_do(knows, tmp_path):
    shutil.copytree(knows, tmp_path, dirs_exist_ok=True)
    rows = [json.loads(line) | {"prompt": f"Назови реку {i}"} for i, line in enumerate((tmp_path / "pairs.jsonl").read_text().splitlines())]
    write(tmp_path / "pairs.jsonl", rows)
    done = alignlab("run", "--fast", "--model", "model", "--data", "pairs.jsonl", "--out", "run", cwd=tmp_path, PYTHONIOENCODING="cp1252")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "report: run" in done.stdout
    comparison = json.loads((tmp_path / "run/comparison.json").read_text())
    assert comparison["reward_model"]["bayes_accuracy"] is None and comparison["reward_model"]["skill"] is None


@pytest.mark.slow
def test_rows_left_out_and_limits_are_told_before_training_and_changed_weights_or_data_are_refused(knows, tmp_path):
    shutil.copytree(knows, tmp_path, dirs_exist_ok=True)
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    write(tmp_path / "pairs.jsonl", [*rows, rows[0] | {"chosen": ""}])
    done = alignlab("sft", "--fast", "--model", "model", "--data", "pairs.jsonl", "--out", "run", "--max-new-tokens", "3", cwd=tmp_path)
    said = done.stdout
    assert done.returncode == 0, done.stderr[-2000:]
    assert said.index("1 of 49 rows left out: 1 with an empty answer (line 49)") < said.index("SFT on")
    assert said.index("chosen answers are longer than the 3 tokens sampled (--max-new-tokens)") < said.index("SFT on")
    again = ["dpo", "--fast", "--model", "model", "--data", "pairs.jsonl", "--out", "run", "--max-new-tokens", "3"]
    build("qwen3", seed=4).save(tmp_path / "model")
    refused = alignlab(*again, cwd=tmp_path)
    assert refused.returncode == 2 and "run: holds a run with weights = " in refused.stderr
    shutil.copytree(knows / "model", tmp_path / "model", dirs_exist_ok=True)
    write(tmp_path / "pairs.jsonl", rows)
    refused = alignlab(*again, cwd=tmp_path)
    assert refused.returncode == 2 and "run: holds a run with data = " in refused.stderr


def test_columns_of_pairs_and_of_demonstrations_can_be_named_and_held_out_prompts_reach_neither(knows, tmp_path):
    from alignlab.recipe import Source
    from alignlab.recipes import own

    rows = [{"question": pair["prompt"], "chosen": pair["chosen"], "rejected": pair["rejected"]} for pair in PAIRS]
    write(tmp_path / "pairs.jsonl", rows)
    asked = [[{"role": "user", "content": row["question"]}] for row in rows]  # the same prompts in another writing
    write(tmp_path / "shown.jsonl", [{"question": prompt, "output": "good"} for prompt in [*asked, "w7"]])
    said = []
    columns = {"prompt": "question", "completion": "output"}
    model, pairs, demonstrations = (str(path) for path in (knows / "model", tmp_path / "pairs.jsonl", tmp_path / "shown.jsonl"))
    recipe = own(model, pairs, demonstrations, source=Source(columns=columns), say=said.append)
    train, test = recipe.pairs(None, 0, None)
    shown = [record["prompt"] for record in recipe.demonstrations(None, 0, None)]
    assert len(train) + len(test) == len(rows) and len(test) == 2
    assert len(shown) == len(rows) + 1 - len(test) and not any(prompt[0]["content"] in recipe.judge_prompts for prompt in shown[:-1])
    assert any("2 of 9 rows left out: their prompts are held out for the judge" in words for words in said)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_a_stopped_command_says_what_was_kept_and_a_second_process_is_refused_meanwhile(fast_run, tmp_path, number, code):
    """The run holds SFT and the reward model; PPO is under way."""
    shutil.copytree(fast_run, tmp_path / "run")
    manifest = json.loads((tmp_path / "run/checkpoints/manifest.json").read_text())
    for product in ("ppo", "dpo"):
        del manifest[product]
        shutil.rmtree(tmp_path / "run" / product)
    (tmp_path / "run/checkpoints/manifest.json").write_text(json.dumps(manifest))
    words = [sys.executable, "-m", "alignlab.cli", "ppo", "--fast", "--out", "run"]
    first = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    metrics = tmp_path / "run/metrics.jsonl"
    while first.poll() is None and not any(record["stage"] == "ppo" and record["step"] == 0 for record in reached(metrics)):
        time.sleep(0.1)
    second = alignlab("ppo", "--fast", "--out", "run", cwd=tmp_path)
    first.send_signal(number)
    said = first.communicate(timeout=60)[1]
    assert first.returncode == code
    assert "stopped; sft, reward are kept in run; the same command continues after them" in said and "Traceback" not in said
    assert second.returncode == 2 and f"run: process {first.pid} is working in this folder" in second.stderr
    steps = [(record["stage"], record["step"]) for record in read_lines(metrics)]
    assert len(steps) == len(set(steps))


def reached(metrics):
    """The records of a run whose PPO metrics were dropped when it began again."""
    records = list(read_lines(metrics))
    return records if not any(record["stage"] == "dpo" for record in records) and len(records) < 200 else records[-1:]


def test_only_one_process_writes_and_the_lock_of_a_killed_one_is_gone(tmp_path):
    run = Run(tmp_path / "run", {})
    hold = "from alignlab.runs import Run\nwith Run('run', {}).held():\n    print('holds', flush=True)\n    input()"
    other = subprocess.Popen([sys.executable, "-c", hold], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "holds\n"
    with pytest.raises(UserError, match=f"process {other.pid} is working in this folder; wait until it has ended"), run.held():
        pass
    other.kill()
    other.wait()
    with run.held(), run.held():
        assert (tmp_path / "run/.holder").read_text() == f"process {os.getpid()}"


def test_drafts_that_a_killed_process_left_do_not_block_the_folder(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*seen):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "fsync", kill)
        patched.setattr(Path, "unlink", lambda *seen, **how: None)  # a killed process removes nothing
        with pytest.raises(Killed):
            Run(tmp_path / "run", {"beta": 1.0})
    assert [path.suffix for path in (tmp_path / "run").iterdir()] == [".part"]
    assert Run(tmp_path / "run", {"beta": 1.0}).new


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "run: the disk is full; free some space, then the same command continues"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full"),
        (OSError(errno.EROFS, "Read-only file system"), "cannot be written .*choose another --out"),
    ],
)
def test_a_full_or_read_only_disk_is_one_line_with_the_folder_and_the_cure(tmp_path, error, said):
    run = Run(tmp_path / "run", {})

    def fails(path):
        raise error

    with pytest.raises(UserError, match=said):
        run.write("sft", fails)
    assert not run.finished("sft")


def test_a_damaged_product_is_noticed(tmp_path):
    run = Run(tmp_path / "run", {})
    run.write("notes.txt", lambda path: path.write_text("whole"))
    assert run.finished("notes.txt") and not run.finished("other")
    (tmp_path / "run/notes.txt").write_text("w")
    with pytest.raises(UserError, match="damaged"):
        Run(tmp_path / "run", {}).finished("notes.txt")


def test_a_product_that_fails_half_way_is_not_there(tmp_path):
    run = Run(tmp_path / "run", {})

    def fails(path):
        path.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError):
        run.write("notes.txt", fails)
    assert not (tmp_path / "run/notes.txt").exists() and not run.finished("notes.txt")
