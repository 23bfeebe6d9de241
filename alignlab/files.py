"""Files on disk: written whole or not at all, read with one line for whatever is wrong with them."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from alignlab.errors import UserError


@contextmanager
def on_disk(folder: Path) -> Iterator[None]:
    """Turn a full or read-only disk into its one line, which names `folder`; other errors pass."""
    try:
        yield
    except Exception as error:
        raise disk_error(folder, error) or error from None


def write_whole(path: Path, text: str) -> None:
    """Write a text file in one step, its folder too: who reads it meanwhile, or after a crash, sees all of it or what was there before."""
    path = path.resolve()  # a link stays one
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        draft.write_text(text, encoding="utf-8", newline="\n")
        if path.exists():
            shutil.copymode(path, draft)
        sync(draft)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def json_lines(records: Iterable[dict]) -> str:
    """The text of a JSON Lines file, one object per line."""
    return "".join(json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n" for record in records)


def write_lines(path: Path, records: Iterable[dict]) -> None:
    """Write a JSON Lines file in one step."""
    write_whole(path, json_lines(records))


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
    """The objects of a JSON Lines file; a last line that was cut off is left out, a missing file is empty.

    Raises:
        UserError: another line is broken.
    """
    if path.is_file():
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.endswith(b"\n"):
                    try:
                        yield json.loads(line)
                    except ValueError:
                        raise UserError(f"{path}: line {number} is broken; remove the file, or its folder, and run again") from None


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sync(path: Path) -> None:
    with path.open("rb+") as file:  # Windows flushes only what is open for writing
        os.fsync(file.fileno())
