"""Each pipeline on one page: it is short, it runs from the bundled data to a judged policy, and its policy gains."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from alignlab import examples

PAGES = sorted(path for path in Path(examples.__file__).parent.glob("*.py") if path.stem != "__init__")
each = pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])


@each
def test_a_pipeline_fits_on_a_page(page):
    assert len(page.read_text().splitlines()) <= 80


@pytest.mark.slow
@each
def test_a_page_runs_from_the_bundled_data_to_a_judged_policy(page, tmp_path):
    done = subprocess.run([sys.executable, "-m", f"alignlab.examples.{page.stem}", "--fast"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    golds = {name: float(gold) for name, gold in re.findall(r"^(\w+): gold (\d\.\d\d) at", done.stdout, re.M)}
    assert set(golds) == {"SFT", page.stem.upper()} and golds[page.stem.upper()] > golds["SFT"]
    assert "loss 0.693" in done.stdout
    assert list(tmp_path.iterdir()) == []  # a page leaves nothing behind
