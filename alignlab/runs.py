"""A run on disk: its config, its metrics, and the products of the stages that are finished.

A product is written beside its place and renamed into it, with the sha256 of each file in `checkpoints/manifest.json`; so a
run that was stopped continues at the first stage that is not finished, and its metrics read as if it had never stopped.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from alignlab.errors import UserError

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


def disk_error(folder: Path, error: Exception) -> UserError | None:
    """The one line for a disk that is full or may not be written, or None where the error is another."""
    if isinstance(error, UserError):
        return None
    code, text = getattr(error, "errno", None), str(error)
    if code in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in text:
        return UserError(f"{folder}: the disk is full; free some space, then the same command continues")
    if code in (errno.EROFS, errno.EACCES, errno.EPERM) or "Read-only file system" in text or "Permission denied" in text:
        return UserError(f"{folder}: cannot be written ({os.strerror(code) if code else text}); choose another --out")
    return None


class Run:
    """One run in one folder."""

    def __init__(self, folder: str | Path, config: dict):
        """Start a run, or continue the one in that folder where its config is the same.

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
            if there != config:
                name, old, new = _first_difference(there, config)
                raise UserError(
                    f"{self.folder}: holds a run with {name} = {json.dumps(old)}, not {json.dumps(new)}; choose another --out, or remove it"
                )
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
    def held(self) -> Iterator[None]:
        """Keep every other process from writing here meanwhile; may be nested.

        Raises:
            UserError: another process is at it.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            holder = self._path(HOLDER)
            name = holder.read_text(encoding="utf-8") if holder.is_file() else "another process"
            raise UserError(f"{self.folder}: {name} is working in this folder; wait until it has ended, or choose another --out") from None
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
        return f"stopped; {', '.join(done)} are kept in {self.folder}; the same command continues after them"

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
            if not path.is_file() or _sha256(path) != digest:
                raise UserError(f"{path}: missing or damaged since it was written; remove {self.folder} and run again")
        return name in manifest

    def write(self, name: str, save: Callable[[Path], None]) -> Path:
        """Have `save` write the product `name` (a folder, or a file where the name has an ending): all of it or nothing."""
        final, draft = self._path(name), self._path(f".{name}.part")
        for old in (draft, final):
            shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
        try:
            return self._write(name, final, draft, save)
        except Exception as error:
            raise disk_error(self.folder, error) or error from None

    def _write(self, name: str, final: Path, draft: Path, save: Callable[[Path], None]) -> Path:
        save(draft)
        files = [draft] if draft.is_file() else sorted(path for path in draft.rglob("*") if path.is_file())
        for file in files:
            _sync(file)
        digests = {(Path(name) / file.relative_to(draft)).as_posix(): _sha256(file) for file in files}
        draft.rename(final)
        self.write_json("checkpoints/manifest.json", self.manifest | {name: digests})
        return final

    def write_json(self, name: str, value) -> None:
        """Replace a JSON file in one step."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".part")
        try:
            draft.write_text(json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n", encoding="utf-8")
            _sync(draft)
            draft.replace(path)
        except OSError as error:
            raise disk_error(self.folder, error) or error from None

    def abandon(self) -> None:
        """Take back a run that was started here and finished nothing, so that a mistake leaves no half-written folder behind."""
        if self.new and not self.manifest:
            shutil.rmtree(self.folder, ignore_errors=True)
            if self.was_there:
                self.folder.mkdir(exist_ok=True)

    # ------------------------------------------------------------------------------------------ metrics

    def log(self, metrics: dict, file: str = "metrics.jsonl") -> None:
        """Add one object."""
        line = _line(metrics)
        try:
            with self._path(file).open("a", encoding="utf-8") as lines:
                lines.write(line)
        except OSError as error:
            raise disk_error(self.folder, error) or error from None

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
                draft = path.with_suffix(".part")
                draft.write_text("".join(map(_line, kept)), encoding="utf-8")
                draft.replace(path)

    def _path(self, name: str) -> Path:
        return self.folder / name


def fingerprint(*sources: str | Path) -> str:
    """Twelve hex digits of the contents of files and folders, so that a run is never resumed on others; a hub name stands for itself."""
    digest = hashlib.sha256()
    for source in map(Path, sources):
        files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
        for file in files:
            if source.is_dir():
                digest.update(file.relative_to(source).as_posix().encode())
            if not file.is_file():
                digest.update(str(file).encode())
                continue
            with file.open("rb") as content:
                while part := content.read(2**22):
                    digest.update(part)
    return digest.hexdigest()[:12]


def read_json(path: Path):
    """The value in a JSON file. Raises UserError where it is not there or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such file; is {path.parent} a finished run of `alignlab run`?") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8; run again") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: broken ({error.msg}, line {error.lineno}); run again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def read_lines(path: Path) -> Iterator[dict]:
    """The objects of a JSON Lines file; a last line that was cut off is left out, a missing file is empty."""
    if path.is_file():
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                if line.endswith("\n"):
                    yield json.loads(line)


def _line(record: dict) -> str:
    return json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb+") as file:  # Windows flushes only what is open for writing
        os.fsync(file.fileno())
