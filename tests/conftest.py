"""One bundled run, made once a test session, for all tests that look at finished runs."""

import os
import subprocess
import sys
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}  # read when their packages are imported

import pytest
import torch

torch.set_num_threads(2)


def alignlab(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess:
    """The command line, as a user calls it, without a network; `variables` are added to its environment."""
    environment = os.environ | variables
    command = [sys.executable, "-m", "alignlab.cli", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, errors="replace", env=environment)


@pytest.fixture(scope="session")
def fast_run(tmp_path_factory) -> Path:
    """The folder of `alignlab run --fast`; while writing tests, that of an earlier one: ALIGNLAB_FAST_RUN=FOLDER."""
    if "ALIGNLAB_FAST_RUN" in os.environ:
        return Path(os.environ["ALIGNLAB_FAST_RUN"]).resolve()
    folder = tmp_path_factory.mktemp("fast")
    done = alignlab("run", "--fast", "--out", "run", cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    (folder / "stdout.txt").write_text(done.stdout)
    return folder / "run"
