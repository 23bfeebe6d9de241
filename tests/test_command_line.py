"""The command line from outside: a whole run, its files, and every mistake that a user can make."""

import json

import pytest
import torch
from architectures import build
from conftest import alignlab
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from alignlab.runs import Run, read_lines

PAIR = {"prompt": "Say something.", "chosen": "Something kind.", "rejected": "Something rude."}


@pytest.mark.slow
def test_a_run_leaves_the_files_of_the_interface(fast_run):
    for name in ("config.json", "metrics.jsonl", "timing.jsonl", "comparison.json", "report.html", "sft/model.safetensors",
                 "ppo/adapter_config.json", "dpo/adapter_model.safetensors", "reward/adapter_config.json"):  # fmt: skip
        assert (fast_run / name).is_file(), name
    stages = [record["stage"] for record in read_lines(fast_run / "metrics.jsonl")]
    assert list(dict.fromkeys(stages)) == ["sft", "reward", "ppo", "dpo"]
    comparison = json.loads((fast_run / "comparison.json").read_text())
    assert {"size", "seed", "judge", "reference", "curves", "policies", "reward_model", "alarms"} <= set(comparison)
    assert set(comparison["policies"]) == {"sft", "best_of_16", "ppo", "dpo"}
    for row in comparison["policies"].values():
        low, high = row["gold"][1:]
        assert low <= row["gold"][0] <= high
    assert comparison["policies"]["sft"]["kl"] == [0, 0, 0]
    assert comparison["alarms"] == []


@pytest.mark.slow
def test_the_table_fits_100_columns_and_both_policies_beat_the_reference(fast_run):
    lines = (fast_run.parent / "stdout.txt").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if "win rate" in line)
    assert max(len(line) for line in lines[start : start + 6]) <= 100
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
    import shutil

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


@pytest.mark.slow
def test_own_model_and_data_run_through_the_whole_path(fast_run, tmp_path):
    from alignlab.data import data_folder

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
    "empty completion": (["run", "--model", "m", "--data", "empty.jsonl"], "empty.jsonl, line 1: chosen is empty"),
    "equal pair": (["run", "--model", "m", "--data", "equal.jsonl"], "equal.jsonl, line 1: chosen equals rejected"),
    "one prompt only": (["run", "--model", "m", "--data", "single.jsonl"], "at least two different prompts"),
    "no such model": (["run", "--model", "nowhere", "--data", "pairs.jsonl", "--out", "new"], "nowhere: no model there"),
    "every pair too long": (["run", "--model", "gpt2", "--data", "long.jsonl", "--out", "new"], "no record fits into max_length = 64"),
    "messages, no template": (["run", "--model", "gpt2", "--data", "messages.jsonl", "--out", "new"], "no chat template; use plain"),
    "damaged weights": (["run", "--model", "damaged", "--data", "pairs.jsonl", "--out", "new"], "logits that are not finite"),
    "out is a file": (["run", "--out", "pairs.jsonl"], "pairs.jsonl: is a file"),
    "out holds something else": (["run", "--out", "full"], "holds no run"),
    "compare without a run": (["compare", "full"], "no such file"),
    "compare a file": (["compare", "pairs.jsonl"], "no such file"),
    "compare two scales": (["compare", "one", "two"], "different scales (smol judged by vader, tiny judged by gold)"),
    "compare into a folder": (["compare", "one", "--out", "full"], "full: is a folder; name a file"),
    "out below a file": (["run", "--out", "pairs.jsonl/run"], "pairs.jsonl/run: cannot be made"),
    "half a character": (["run", "--model", "m", "--data", "half.jsonl"], "half.jsonl, line 1: half of a character"),
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
        "single": [PAIR, PAIR],
        "half": [PAIR | {"prompt": "a smile \ud83d"}],
        "long": [{**row, "chosen": "on and " * 100 + "on"} for row in (PAIR, other)],
        "messages": [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in (PAIR, other)],
    }
    for name, rows in files.items():
        text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text)
    base = build("gpt2")
    base.save(folder / "gpt2")
    next(base.network.parameters()).data.fill_(float("nan"))
    base.save(folder / "damaged")
    for name, size, kind in (("one", "tiny", "gold"), ("two", "smol", "vader")):
        (folder / name).mkdir()
        (folder / name / "comparison.json").write_text(json.dumps({"size": size, "judge": {"kind": kind}}))
    (folder / "full").mkdir()
    (folder / "full/note.txt").write_text("mine")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_exit_code_2_and_leaves_nothing_behind(mistake, place):
    words, expected = MISTAKES[mistake]
    before = sorted(path.relative_to(place) for path in place.rglob("*"))
    done = alignlab(*words, cwd=place)
    assert done.returncode == 2, done.stderr[-2000:]
    assert expected in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert sorted(path.relative_to(place) for path in place.rglob("*")) == before


def test_another_config_in_the_same_folder_is_refused_by_name(tmp_path):
    from alignlab.errors import UserError

    Run(tmp_path / "run", {"beta": 1.0})
    with pytest.raises(UserError, match="holds a run with beta = 1.0, not 2.0"):
        Run(tmp_path / "run", {"beta": 2.0})


def test_a_damaged_product_is_noticed(tmp_path):
    from alignlab.errors import UserError

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
