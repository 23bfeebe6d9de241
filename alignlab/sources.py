"""Rows of any source: files of several kinds and encodings, folders of them, sets of the hub."""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from alignlab.errors import UserError

FILES = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet", ".gz", ".bz2", ".xz", ".txt", ".arrow", ".zip", ".zst", ".xlsx", ".xls")
OPENERS = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
FOREIGN = {
    b"PK\x03\x04": "a zip archive or an Excel sheet; unpack it, or save it as CSV",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; decompress it",
    b"ARROW1": "an Arrow file; save it as Parquet or JSON Lines",
    b"\xd0\xcf\x11\xe0": "an old Excel sheet; save it as CSV",
    b"\x89PNG": "a picture",
    b"%PDF": "a PDF",
    b"SQLite": "a SQLite database; export the table as CSV",
    b"ustar": "a tar archive; unpack it",
}


class Malformed(ValueError):
    """What is wrong with one row, and the cure, in one line."""


def rows(source: str | Path, split: str | None, config: str | None) -> Iterator[tuple[str, dict | Malformed]]:
    """(place, row) of each row."""
    path = Path(source)
    if path.is_dir():
        yield from _folder_rows(path, split)
    elif path.is_file():
        yield from _file_rows(path)
    elif path.suffix.lower() in FILES or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        raise UserError(f"{source}: no such file; give a JSON Lines file or the name of a hub set (owner/name)")
    else:
        yield from _hub_rows(str(source), split, config)


def _hub_rows(name: str, split: str | None, config: str | None) -> Iterator[tuple[str, dict]]:
    import datasets

    try:
        rows = datasets.load_dataset(name, *([config] if config else []), split=split or "train")
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        cure = ""
        if "split" in reason.lower():
            cure = "; choose a split with --split"
        elif "config" in reason.lower():
            cure = "; choose a config with --config"
        raise UserError(f"{name}: no file here, and the hub's set cannot be read ({type(error).__name__}: {reason}){cure}") from error
    for number, row in enumerate(rows):
        yield f"row {number}", dict(row)


def _folder_rows(folder: Path, split: str | None) -> Iterator[tuple[str, dict | Malformed]]:
    """Rows of the data files in a folder: those of the split where their names tell it, else all."""
    if (folder / "dataset_info.json").is_file() or (folder / "dataset_dict.json").is_file():
        yield from _saved_rows(folder, split)
        return
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and {suffix.lower() for suffix in path.suffixes} & set(FILES[:9])]
    files = [path for path in files if not _hidden(path, folder)]
    named = [path for path in files if re.match(rf"{re.escape(split or 'train')}(\b|[-_.])", path.name)]
    if split and not named:
        names = ", ".join(path.name for path in files[:5])
        raise UserError(f"{folder}: no file for split {split!r}; it has {names}")
    data = named or [path for path in files if path.name not in ("config.json", "dataset_infos.json")]
    if not data:
        raise UserError(f"{folder}: no data files there; give a folder with JSON Lines, CSV or Parquet files")
    for path in data:
        for place, row in _file_rows(path):
            yield (place if len(data) == 1 else f"{path.name} {place}"), row


def _hidden(path: Path, folder: Path) -> bool:
    """Whether it is what a system or a program left there, such as .cache or .ipynb_checkpoints."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(folder).parts)


def _saved_rows(folder: Path, split: str | None) -> Iterator[tuple[str, dict]]:
    """Rows of what `datasets` saved with `save_to_disk`."""
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
        saved = saved[split or "train"] if isinstance(saved, dict) else saved
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: the saved set cannot be read ({reason}); choose a split with --split") from error
    for number, row in enumerate(saved):
        yield f"row {number}", dict(row)


def _file_rows(path: Path) -> Iterator[tuple[str, dict | Malformed]]:
    try:
        with path.open("rb") as file:
            start = file.read(512)
        if start.startswith(b"PAR1"):
            yield from _parquet_rows(path)
            return
        for magic, words in FOREIGN.items():
            if start.startswith(magic) or (magic == b"ustar" and start[257:262] == magic):
                raise UserError(f"{path}: is {words}")
        opener = next((opener for magic, opener in OPENERS.items() if start.startswith(magic)), open)
        with opener(path, "rb") as raw:
            head = raw.read(4)
        with opener(path, "rb") as raw:
            lines = io.TextIOWrapper(raw, encoding=_encoding(head), newline=None)
            table = {".csv": ",", ".tsv": "\t"}.get(next((s.lower() for s in path.suffixes if s.lower() in (".csv", ".tsv")), ""))
            yield from _table_rows(lines, table) if table else _json_rows(lines)
    except UnicodeError as error:
        reason = getattr(error, "reason", str(error))
        raise UserError(f"{path}: not UTF-8 text ({reason}); save it as UTF-8") from None
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise UserError(f"{path}: the compressed file is damaged ({error}); fetch it again") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None


def _encoding(head: bytes) -> str:
    if head.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        return "utf-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    return "utf-8-sig"


def _json_rows(lines: io.TextIOWrapper) -> Iterator[tuple[str, dict | Malformed]]:
    """One object a line; or one array of objects, or one object that holds such an array, over any number of lines."""
    number, first = next(((number, line) for number, line in enumerate(lines, 1) if line.strip()), (0, ""))
    if not first:
        return
    value, rest = _parsed(first), lines
    if not isinstance(value, dict) or _table_inside(value) is not None:
        remainder = lines.read()
        whole = _parsed(first + remainder)
        if (table := _table_inside(whole)) is not None:
            yield from ((f"row {row}", part) for row, part in enumerate(table, 1))
            return
        if isinstance(whole, dict) and remainder.strip():
            yield "line 1", Malformed("one JSON object over several lines; write one object a line, or an array of objects")
            return
        rest = io.StringIO(remainder)
    yield f"line {number}", _object(value)
    for later, line in enumerate(rest, number + 1):
        if line.strip():
            yield f"line {later}", _object(_parsed(line))


def _parsed(text: str):
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        return Malformed(f"not JSON ({error.msg}); write one object a line")
    except (RecursionError, ValueError) as error:
        return Malformed(f"not JSON that can be read ({type(error).__name__}); write one object a line")


def _table_inside(value) -> list | None:
    """The rows in an array of objects, or in an object whose only list of objects they are, such as {"data": [...]}."""
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        return value
    if isinstance(value, dict) and not {"prompt", "chosen", "rejected", "completion"} & set(value):
        tables = [part for part in value.values() if isinstance(part, list) and part and all(isinstance(row, dict) for row in part)]
        if len(tables) == 1 and {"prompt", "chosen", "rejected", "completion"} & set(tables[0][0]):
            return tables[0]
    return None


def _object(value) -> dict | Malformed:
    return value if isinstance(value, dict | Malformed) else Malformed("not an object; write one {...} a line")


def _table_rows(lines: io.TextIOWrapper, delimiter: str) -> Iterator[tuple[str, dict | Malformed]]:
    csv.field_size_limit(2**31 - 1)
    rows = csv.DictReader(lines, delimiter=delimiter)
    try:
        for row in rows:
            extra = row.pop(None, None)
            place = f"line {rows.line_num}"
            yield place, Malformed(f"{len(extra)} cells too many; quote the texts that hold a {delimiter!r}") if extra else row
    except csv.Error as error:
        raise UserError(f"{lines.name if hasattr(lines, 'name') else 'table'}, line {rows.line_num}: {error}") from None


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict]]:
    import pyarrow
    import pyarrow.parquet

    try:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                yield f"row {number}", row
                number += 1
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: the Parquet file is damaged ({' '.join(str(error).split())[:150]}); fetch it again") from None
