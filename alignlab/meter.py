"""Seconds and peak memory of a stretch of work."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch


@contextmanager
def metered() -> Iterator[dict]:
    """Yields a dict that holds, once the block has ended, `seconds` and `peak_memory_mb`.

    On CUDA the memory is what torch had allocated there at most; on Linux it is the process's own peak within the block; on
    other systems, which cannot reset that peak, its peak so far; 0 where nothing tells it.
    """
    measured: dict = {}
    start = time.perf_counter()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        _reset_peak()
    yield measured
    measured["seconds"] = round(time.perf_counter() - start, 3)
    measured["peak_memory_mb"] = round(torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else _peak())


def _reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def _peak() -> float:
    try:
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        try:
            import resource
        except ImportError:  # Windows
            return 0.0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 1024)
