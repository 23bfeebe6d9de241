"""Sweeps, the grids that lab notebooks show: `alignlab sweep NAME` measures one and keeps the results in `data/sweeps/NAME.json`.

A sweep is a file `sweep_NAME.py` beside this one, which ends in its `SWEEP`, and its name in NAMES. Each point that is finished is
written at once to the sweep's folder, `runs/sweeps/NAME/`, and never measured again, nor is one that the results hold already; remove
both to measure anew. A sweep that was stopped leaves the results of its finished points, so that it can go on elsewhere.

Jobs run on every core through joblib, or on a Dask cluster. What the points of a seed share, such as its reward model, is made first,
in a job for each seed. The folder is relative to the directory in which a worker was started: Dask workers that share no file
system each make what is shared anew, when they first need it. Start them with one thread each, since jobs share a process otherwise.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from pathlib import Path

import torch
from filelock import FileLock
from joblib import Parallel, delayed, parallel_config
from tqdm import tqdm

from alignlab import records
from alignlab.doctor import versions
from alignlab.errors import UserError
from alignlab.files import on_disk, read_json, read_lines, write_lines, write_whole
from alignlab.runs import Run

NAMES = ("strength", "mix", "overopt", "fresh", "data", "displace", "clinic", "mystery")
PLACE = Path("runs/sweeps")
MADE_BY = ("command", "date", "versions")  # in the results: of the last command that measured a point
JOURNAL, COMMANDS = "points.jsonl", "commands.jsonl"  # finished points, and the commands that measured some, in a sweep's folder
DIGITS = 5  # significant, of every number kept

Point = tuple[dict, int]  # settings, seed


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A grid, and how one of its points is measured. Both functions stand in a module, since workers import them by name.

    points, fast_points: the whole grid, and the few of a quick look.
    measure: (settings, seed, fast) -> numbers, in lists and dicts.
    prepare: (seed, fast); makes what the points of a seed share, where it is not there yet.
    """

    name: str
    words: str
    points: Sequence[Point]
    fast_points: Sequence[Point]
    measure: Callable[[dict, int, bool], dict]
    prepare: Callable[[int, bool], None] | None = None

    def grid(self, fast: bool) -> Sequence[Point]:
        return self.fast_points if fast else self.points


def find(name: str) -> Sweep:
    """The sweep of that name. Raises UserError where there is none."""
    if name not in NAMES:
        raise UserError(f"no sweep {name!r}; there is {', '.join(NAMES)}")
    return import_module(f"alignlab.tools.sweep_{name}").SWEEP


def folder(name: str, fast: bool) -> Path:
    """Where a sweep works."""
    return PLACE / (f"{name}-fast" if fast else name)


def results(name: str, fast: bool) -> Path:
    """Where results go by default: a quick look never replaces what the notebooks show."""
    return folder(name, fast) / f"{name}.json" if fast else records.data_folder() / "sweeps" / f"{name}.json"


def run(sweep: Sweep, command: str, fast: bool = False, out: Path | None = None, dask: str | None = None) -> tuple[Path, int]:
    """Measure the points that are missing, on every core or on the Dask cluster with that address, and write all results.

    Returns:
        the file of the results, and how many points were measured now.

    Raises:
        UserError: another process is at it, the file cannot be written, or the cluster cannot be used.
    """
    out, grid = out or results(sweep.name, fast), sweep.grid(fast)
    _check_writable(out)
    with _workers(dask), _held(sweep, fast) as work:
        _take_over(out, work)
        there = _finished(work)
        missing = [point for point in grid if _key(*point) not in there]
        try:
            if missing:
                now = datetime.now().astimezone().isoformat(timespec="seconds")
                work.log({"command": command, "date": now, "versions": versions()}, COMMANDS)
                _measure(sweep, missing, fast, work, len(grid))
        finally:
            _write(out, grid, work)
    return out, len(missing)


def _take_over(out: Path, work: Run) -> None:
    """Note the points that the results hold and this folder does not, and what made them."""
    held = read_json(out) if out.is_file() else None
    if not isinstance(held, dict) or held.get("name") != work.folder.name:  # a quick look's points are no points of the whole grid
        return
    there = _finished(work)
    missing = [point for point in held["points"] if _key(point["settings"], point["seed"]) not in there]
    for point in missing:
        work.log(point, JOURNAL)
    if missing:
        work.log({key: held[key] for key in MADE_BY}, COMMANDS)


def _write(out: Path, grid: Sequence[Point], work: Run) -> None:
    """The results: the grid's points that are finished, in its order."""
    there, made_by = _finished(work), list(work.metrics(COMMANDS))
    done = [there[key] for key in map(_key, *zip(*grid, strict=True)) if key in there]
    if done:
        with on_disk(out.parent):
            write_whole(out, _text({"name": work.folder.name, **made_by[-1]}, done))


def kept(sweep: Sweep, fast: bool) -> str:
    """What a stopped sweep has finished, and how it continues, in one line."""
    here, keys = folder(sweep.name, fast), {_key(*point) for point in sweep.grid(fast)}
    done = sum(_key(record["settings"], record["seed"]) in keys for record in read_lines(here / JOURNAL))
    return f"stopped; {done} of {len(keys)} points are kept in {here}; the same command continues after them"


# ---------------------------------------------------------------------------------------------- what is finished


@contextmanager
def _held(sweep: Sweep, fast: bool) -> Iterator[Run]:
    """The sweep's folder, with every other process kept out."""
    work = Run(folder(sweep.name, fast), {"sweep": sweep.name, "fast": fast})
    with work.held("wait until it has ended"):
        yield work


def _key(settings: dict, seed: int) -> str:
    return json.dumps([settings, seed], sort_keys=True)


def _finished(work: Run) -> dict[str, dict]:
    """The finished points of every grid so far, by key. A last line that was cut off goes, so that the next is a line of its own."""
    for file in (JOURNAL, COMMANDS):
        path = work.folder / file
        if path.is_file() and not path.read_bytes().endswith(b"\n"):
            write_lines(path, list(work.metrics(file)))
    return {_key(record["settings"], record["seed"]): record for record in work.metrics(JOURNAL)}


def _check_writable(out: Path) -> None:
    """Before anything is measured. Raises UserError."""
    if out.is_dir():
        raise UserError(f"{out}: is a folder; name a file for the results with --out")
    nearest = next(parent for parent in out.absolute().parents if parent.exists())
    if not nearest.is_dir():
        raise UserError(f"{out}: cannot be made, since {nearest} is a file; name another with --out")
    with on_disk(out.parent), tempfile.TemporaryFile(dir=nearest):
        pass


def _text(head: dict, points: list[dict]) -> str:
    """The results as JSON, with a line for each point."""
    fields = "".join(f" {json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items())
    lines = ",\n".join(f"  {json.dumps(point)}" for point in points)
    return f'{{\n{fields} "points": [\n{lines}\n ]\n}}\n'


def rounded(value):
    """Numbers, in lists and dicts, to DIGITS significant digits.

    >>> rounded({"kl": [0.123456, 1234567.0], "stopped": 3})
    {'kl': [0.12346, 1234600.0], 'stopped': 3}
    """
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


# ---------------------------------------------------------------------------------------------- jobs


def _measure(sweep: Sweep, missing: Sequence[Point], fast: bool, work: Run, total: int) -> None:
    """Prepare each seed, then measure the points; each is written as soon as it is finished."""
    if sweep.prepare:
        seeds = dict.fromkeys(seed for _, seed in missing)
        for _ in _shown(f"{sweep.name}, shared", [delayed(_prepare)(sweep, seed, fast) for seed in seeds], len(seeds)):
            pass
    for record in _shown(sweep.name, [delayed(_point)(sweep, *point, fast) for point in missing], total):
        work.log(record, JOURNAL)


def _shown(title: str, jobs: list, total: int) -> Iterator:
    """The results of jobs as they come, under a line that tells how many of the total are done, and the time left."""
    parallel = Parallel(n_jobs=-1, batch_size=1, pre_dispatch="n_jobs", return_as="generator_unordered")
    with tqdm(desc=title, initial=total - len(jobs), total=total) as bar, closing(parallel(jobs)) as found:
        for result in found:
            yield result
            bar.update()


def _prepare(sweep: Sweep, seed: int, fast: bool) -> None:
    """In a worker: make what the seed's points share, or wait for the process that is at it here."""
    torch.set_num_threads(1)
    if sweep.prepare:
        PLACE.mkdir(parents=True, exist_ok=True)
        with FileLock(PLACE / f".seed{seed}.lock"):  # of all sweeps, which may share it
            sweep.prepare(seed, fast)


def _point(sweep: Sweep, settings: dict, seed: int, fast: bool) -> dict:
    """In a worker: one point."""
    _prepare(sweep, seed, fast)
    return {"settings": settings, "seed": seed, "result": rounded(sweep.measure(settings, seed, fast))}


@contextmanager
def _workers(dask: str | None) -> Iterator[None]:
    """Where jobs run: on every core of this machine, with one torch thread each, or on a Dask cluster."""
    if dask is None:
        with parallel_config(backend="loky", inner_max_num_threads=1):
            yield
    else:
        with closing(_client(dask)) as client, parallel_config(backend="dask", client=client):
            yield


def _client(address: str):
    """A connection to a cluster on whose workers alignlab runs. Raises UserError."""
    try:
        from distributed import Client
    except ImportError:
        raise UserError("--dask needs Dask; install alignlab with its extra: pip install 'alignlab[dask]'") from None
    try:
        client = Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"--dask {address}: no scheduler answers ({reason}); start one with `dask scheduler`") from None
    try:
        if not client.run(exec, f"import {__name__}"):  # a task whose function cannot be imported would never end
            raise UserError(f"--dask {address}: the cluster has no workers; start some with `dask worker {address} --nthreads 1`")
    except ImportError as error:
        client.close()
        raise UserError(f"--dask {address}: a worker cannot import alignlab ({error}); install it there") from None
    except BaseException:
        client.close()
        raise
    return client
