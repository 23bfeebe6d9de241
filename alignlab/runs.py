"""A run on disk: its config, its metrics, and the products of the stages that are finished.

A product is written beside its place and renamed into it, with the sha256 of each file in `checkpoints/manifest.json`; so a
run that was stopped continues at the first stage that is not finished, and its metrics read as if it had never stopped.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from alignlab.errors import UserError
from alignlab.files import disk_error, json_lines, on_disk, read_json, read_lines, sha256, sync, write_lines, write_whole

LOCK, HOLDER = ".lock", ".holder"  # who writes here: the lock itself, and the process that has it


def check_folder(folder: str | Path) -> None:
    """Whether a run can be started or continued there.

    Raises:
        UserError: it is a file, or holds something else.
    """
    folder = Path(folder)
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder}: is a file; give a folder with --out")
        if folder.is_dir() and not (folder / "config.json").is_file() and any(map(_counts, folder.iterdir())):
            raise UserError(f"{folder}: is not empty and holds no run; choose another --out")
    except OSError as error:
        raise UserError(f"{folder}: cannot be used ({error.strerror}); choose another --out") from None


def _counts(path: Path) -> bool:
    """Whether a file means that a folder is in use: not the lock, nor a draft that a killed process left."""
    return path.name not in (LOCK, HOLDER) and path.suffix != ".part"


def _first_difference(one: dict, other: dict, within: str = "") -> tuple[str, object, object]:
    """The name of the first setting that differs, such as "ppo.beta", and its two values."""
    key = min(key for key in {*one, *other} if one.get(key) != other.get(key))
    old, new = one.get(key), other.get(key)
    if isinstance(old, dict) and isinstance(new, dict):
        return _first_difference(old, new, f"{within}{key}.")
    return f"{within}{key}", old, new


def _stages_alone(one: dict, other: dict) -> dict:
    """The settings of stages that only the first has; they may be added to a run, since nothing of it was made with others."""
    return {key: value for key, value in one.items() if key not in other and isinstance(value, dict)}


class Run:
    """One run in one folder."""

    def __init__(self, folder: str | Path, config: dict):
        """Start a run, or continue the one in that folder where its config is the same, but for stages that it had not.

        Raises:
            UserError: the folder holds something else.
        """
        self.folder = Path(folder)
        check_folder(folder)
        config = json.loads(json.dumps(config))
        self.new, self.was_there = False, self.folder.exists()
        if self._path("config.json").is_file():
            there = read_json(self._path("config.json"))
            if not isinstance(there, dict):
                raise UserError(f"{self._path('config.json')}: holds no settings; choose another --out, or remove {self.folder}")
            kept, added = _stages_alone(there, config), _stages_alone(config, there)
            if there | added != config | kept:
                name, old, new = _first_difference(there | added, config | kept)
                raise UserError(
                    f"{self.folder}: holds a run with {name} = {json.dumps(old)}, not {json.dumps(new)}; choose another --out, or remove it"
                )
            config |= kept
            if added:
                self.write_json("config.json", there | added)
        else:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"{self.folder}: cannot be made ({error.strerror}); choose another --out") from None
            self.write_json("config.json", config)
            self.new = True
        self.config = config
        self._lock = FileLock(self._path(LOCK))

    @contextmanager
    def held(self, cure: str = "wait until it has ended, or choose another --out") -> Iterator[None]:
        """Keep every other process from writing here meanwhile; may be nested. `cure` is what the error advises.

        Raises:
            UserError: another process is at it.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            holder = self._path(HOLDER)
            name = holder.read_text(encoding="utf-8") if holder.is_file() else "another process"
            raise UserError(f"{self.folder}: {name} is working in this folder; {cure}") from None
        except OSError as error:
            raise disk_error(self.folder, error) or error from None
        try:
            if self._lock.lock_counter == 1 and self.folder.is_dir():
                self._path(HOLDER).write_text(f"process {os.getpid()}", encoding="utf-8")
            yield
        finally:
            if self._lock.lock_counter == 1:
                self._path(HOLDER).unlink(missing_ok=True)
            self._lock.release()

    def kept(self) -> str:
        """What a stopped run has finished, and how it continues, in one line."""
        done = [name for name in self.manifest if "." not in name]
        if not done:
            return f"stopped before a stage was finished; the same command starts {self.folder} again"
        kept = f"{', '.join(done)} {'is' if len(done) == 1 else 'are'} kept"
        return f"stopped; {kept} in {self.folder}; the same command continues after them"

    @property
    def manifest(self) -> dict[str, dict[str, str]]:
        """sha256 of each file, by product; read again each time, since another notebook may be working in the same folder."""
        path = self._path("checkpoints/manifest.json")
        return read_json(path) if path.is_file() else {}

    # ------------------------------------------------------------------------------------------ products

    def finished(self, name: str) -> bool:
        """Whether that product is there.

        Raises:
            UserError: it is there, but its files changed since they were written.
        """
        manifest = self.manifest
        for file, digest in manifest.get(name, {}).items():
            path = self._path(file)
            if not path.is_file() or sha256(path) != digest:
                raise UserError(f"{path}: missing or damaged since it was written; remove {self.folder} and run again")
        return name in manifest

    def write(self, name: str, save: Callable[[Path], None]) -> Path:
        """Have `save` write the product `name` (a folder, or a file where the name has an ending): all of it or nothing."""
        final, draft = self._path(name), self._path(f".{name}.part")
        for old in (draft, final):
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        with on_disk(self.folder):
            save(draft)
            files = [draft] if draft.is_file() else sorted(path for path in draft.rglob("*") if path.is_file())
            for file in files:
                sync(file)
            digests = {(Path(name) / file.relative_to(draft)).as_posix(): sha256(file) for file in files}
            draft.rename(final)
        self.write_json("checkpoints/manifest.json", self.manifest | {name: digests})
        return final

    def write_json(self, name: str, value) -> None:
        """Replace a JSON file in one step."""
        with on_disk(self.folder):
            write_whole(self._path(name), json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")

    def abandon(self) -> None:
        """Take back a run that was started here and finished nothing, so that a mistake leaves no half-written folder behind."""
        if self.new and not self.manifest:
            shutil.rmtree(self.folder, ignore_errors=True)
            if self.was_there:
                self.folder.mkdir(exist_ok=True)

    # ------------------------------------------------------------------------------------------ metrics

    def log(self, metrics: dict, file: str = "metrics.jsonl") -> None:
        """Add one object."""
        line = json_lines([metrics])
        with on_disk(self.folder), self._path(file).open("a", encoding="utf-8") as lines:
            lines.write(line)

    def metrics(self, file: str = "metrics.jsonl") -> Iterator[dict]:
        """All objects, in the order in which they were added."""
        return read_lines(self._path(file))

    def forget(self, stage: str) -> None:
        """Drop the metrics of a stage that did not end: it begins again."""
        for file in ("metrics.jsonl", "timing.jsonl"):
            records = list(self.metrics(file))
            kept = [record for record in records if record["stage"] != stage]
            path = self._path(file)
            if path.is_file() and (len(kept) < len(records) or not path.read_bytes().endswith(b"\n")):
                with on_disk(self.folder):
                    write_lines(path, kept)

    def _path(self, name: str) -> Path:
        return self.folder / name
