"""The record of full runs that the benchmark keeps, and the cell that shows it."""

import json
import math
from types import SimpleNamespace

import nbformat
import pytest
import torch

from alignlab import files
from alignlab.lab import lessons, view
from alignlab.records import data_folder
from alignlab.tools import benchmark


def kept(seed: int, ppo: float | None, dpo: float | None) -> dict:
    """A recorded run as if of that seed, with those gold efficiencies."""
    comparison = files.read_json(data_folder() / "recorded_smol" / "comparison.json")
    for name, value in (("ppo", ppo), ("dpo", dpo)):
        comparison["policies"][name]["gold_efficiency"] = value and [value, value - 0.1, value + 0.1]
    return benchmark._kept(comparison | {"seed": seed})


@pytest.mark.parametrize(
    "efficiencies, words",
    [
        ([(0.80, 0.75), (0.81, 0.80), (0.78, 0.80)], "PPO and DPO tie in gold efficiency: +0.01 ± "),
        ([(0.80, 0.70), (0.81, 0.70), (0.79, 0.70)], "PPO leads DPO in gold efficiency: by 0.10 ± 0.02 over three trainings."),
        ([(0.70, 0.80), (0.70, 0.81), (0.70, 0.79)], "DPO leads PPO in gold efficiency: by 0.10 ± 0.02"),
        ([(0.70, None), (0.70, 0.81), (0.70, 0.79)], "efficiency nan, 0.81, 0.79"),
        ([], "no record of full runs"),
    ],
)
def test_notebook_08_shows_three_full_runs_and_says_who_leads(efficiencies, words, tmp_path, capsys):
    cells = {cell.id: cell.source for cell in nbformat.read(lessons.folder() / "08_ppo_or_dpo.ipynb", 4).cells}
    if efficiencies:
        (tmp_path / "three_seeds.json").write_text(json.dumps([kept(seed, *pair) for seed, pair in enumerate(efficiencies)]))
    records = SimpleNamespace(data_folder=lambda: tmp_path)
    scope = {"records": records, "files": files, "SIZE": "tiny", "torch": torch, "math": math, "view": view}
    for cell in ("08-sentence", "08-full-runs"):
        exec(cells[cell], scope)
    told = capsys.readouterr().out
    assert words in told and "leads DPO in gold efficiency: by nan" not in told
