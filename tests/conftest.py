"""One bundled run, made once for all tests that look at finished runs; and how tests share two workers."""

import os
import subprocess
import sys
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}  # read when their packages are imported
os.environ |= {"OMP_NUM_THREADS": "1"} if "PYTEST_XDIST_WORKER" in os.environ else {}  # a core for each worker and what it starts

# A font list of its own: one that another environment made may name files that are gone, and matplotlib then warns in notebooks.
os.environ["MPLCONFIGDIR"] = str(Path(__file__).parent.parent / "test-output" / "matplotlib")

import pytest
import torch
from filelock import FileLock

PARALLEL = "PYTEST_XDIST_WORKER" in os.environ
torch.set_num_threads(1 if PARALLEL else 2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file begins."""
    items.sort(key=lambda item: item.path.name != "test_notebooks.py")


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
    here = tmp_path_factory.getbasetemp()
    folder = (here.parent if PARALLEL else here) / "fast"  # the parent is common to all workers
    with FileLock(f"{folder}.lock"):
        if not (folder / "stdout.txt").is_file():
            folder.mkdir()
            done = alignlab("run", "--fast", "--out", "run", cwd=folder)
            assert done.returncode == 0, done.stderr[-2000:]
            (folder / "stdout.txt").write_text(done.stdout)
    return folder / "run"
