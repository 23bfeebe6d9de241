"""Rows of any source: files of several kinds and encodings, folders of them, sets of the hub."""

import bz2
import contextlib
import csv
import gzip
import io
import itertools
import json
import lzma
import os
import re
import stat
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from alignlab.errors import UserError

NEEDED = {"prompt", "chosen", "rejected", "completion", "system"}
NO_TEXT = re.compile(r"timestamp|date|time|duration|.*\bbytes: (large_)?binary", re.S)  # Arrow types
FILES = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet", ".gz", ".bz2", ".xz", ".txt", ".arrow", ".zip", ".zst", ".xlsx", ".xls")
ENDING = re.compile(r"\.(jsonl|json|ndjson|csv|tsv|parquet)(\.(gz|bz2|xz))?\Z", re.I)  # of a data file in a folder
ABOUT = re.compile(r"(^|/)(config|state|dataset_infos?|dataset_dict)\.json$", re.I)  # files about the data
SPLITS = r"(?:train|training|test|testing|validation|valid|val|dev|eval|evaluation|holdout)(?:set)?\d*"
SHARD = re.compile(r"(?:^|[-_. ]+)(?:(?:part|shard|chunk)[-_. ]*)?\d+(?:-of-\d+)?(?:-[0-9a-f]{8,})?$")
SHARD_OF = re.compile(r"[-_.]\d+-of-(\d+)(?:-[0-9a-f]{8,})?$")
OPENERS: dict[bytes, Callable] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
FOREIGN = {
    b"PK\x03\x04": "a zip archive or an Excel sheet; unpack it, or save it as CSV",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; decompress it",
    b"ARROW1": "an Arrow file; save it as Parquet or JSON Lines",
    b"\xd0\xcf\x11\xe0": "an old Excel sheet; save it as CSV",
    b"SQLite": "a SQLite database; export the table as CSV",
    b"version https://git-lfs": "a Git LFS pointer; fetch the data with git lfs pull",
    b"ustar": "a tar archive; unpack it",
}


class Malformed(ValueError):
    """What is wrong with one row, and the cure, in one line."""


def rows(source: str | Path, split: str | None, config: str | None) -> Iterator[tuple[str, dict | Malformed]]:
    """(place, row) of each row."""
    path = Path(source)
    mode = _mode(path) if str(source) else 0
    if stat.S_ISDIR(mode):
        yield from _folder_rows(path, split)
    elif mode:
        yield from _file_rows(path)
    elif path.suffix.lower() in FILES or not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(source)):
        raise UserError(f"{shown(source)}: no such file; give a JSON Lines file or the name of a hub set (owner/name)")
    else:
        yield from _set_rows(str(source), split, config, saved=False)


def _mode(path: Path) -> int:
    """Whether a file or a folder is there, as `stat` tells; 0 if nothing is."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0
    except (OSError, ValueError) as error:
        raise UserError(f"{shown(path)}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UserError(f"{shown(path)}: is a device or a pipe; write what it gives to a file")
    return mode


def shown(name) -> str:
    """A name, quoted where it would break the line of a message."""
    return str(name) if str(name).isprintable() and str(name) else repr(str(name))


@contextlib.contextmanager
def _guarded(name: str, fault: str, cure: str = "") -> Iterator[None]:
    """Tell in one line of whatever a library raises, while it opens a source or later, row by row."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {shown(' '.join(str(error).split())[:300])}"
        words = (f"choose a {word} with --{word}" for word in ("split", "config") if word in reason.lower())
        raise UserError(f"{name}: {fault} ({reason}); {cure or next(words, 'check the name and the connection')}") from error


def _set_rows(source: str | Path, split: str | None, config: str | None, saved: bool) -> Iterator[tuple[str, dict | Malformed]]:
    """Rows of a set of the hub, or of what `datasets` saved with `save_to_disk`: one set, or one for each split."""
    import datasets

    name, asked = shown(source), split or "train"
    fault, cure = ("the saved set", "save it again") if saved else ("no file here, and the hub's set", "")
    with _guarded(name, f"{fault} cannot be read", cure):
        if saved:
            data = datasets.load_from_disk(str(source))
            splits = data if isinstance(data, dict) else {str(data.split) if split and data.split else asked: data}
            if asked not in splits:
                raise UserError(f"{name}: no split {asked!r}; choose one of {', '.join(map(shown, splits))} with --split")
            data = splits[asked]
        else:
            data = datasets.load_dataset(source, *([config] if config else []), split=asked)
        if features := list(getattr(data, "features", None) or ()):
            kept = _kept_columns(name, features, data.features.arrow_schema)
            data = data.with_format(None).select_columns([features[position] for position in kept])
        for number, row in enumerate(data):
            yield f"row {number}", _decoded(dict(row))


def _kept_columns(name: str, columns: Sequence[str], schema=()) -> list[int]:
    """The positions of the columns whose names are there once, and that hold no dates (they may lie outside Python's range) and no
    pictures or sound (bytes beside a path, whose decoding may fail); a needed column must be among them."""
    counts = Counter(columns)
    other = {field.name: str(field.type) for field in schema if NO_TEXT.match(str(field.type))}
    for column in (column for column in columns if column in NEEDED):
        if counts[column] > 1:
            raise UserError(f"{name}: {counts[column]} columns are called {column!r}; keep one of them")
        if column in other:
            raise UserError(f"{name}: column {column!r} holds {shown(other[column][:60])}; alignlab reads text only, save it as text")
    return [position for position, column in enumerate(columns) if column.strip() and counts[column] == 1 and column not in other]


def _decoded(row: dict) -> dict | Malformed:
    """A row whose texts are strings, also where they were stored as bytes."""
    try:
        return {column: str(value, "utf-8") if isinstance(value, bytes) and column in NEEDED else value for column, value in row.items()}
    except UnicodeDecodeError as error:
        return Malformed(f"bytes that are not UTF-8 text ({error.reason}); save the text as strings")


def _folder_rows(folder: Path, split: str | None) -> Iterator[tuple[str, dict | Malformed]]:
    """Rows of the data files in a folder that belong to the split; those in different formats would hold the same rows twice."""
    name, files = shown(folder), _names(folder)
    if {"dataset_info.json", "dataset_dict.json"} & set(files):
        yield from _set_rows(folder, split, None, saved=True)
        return
    data = _of_split(name, [file for file in files if ENDING.search(file) and not ABOUT.search(file)], split)
    if not data:
        raise UserError(f"{name}: no data files there; give a folder with JSON Lines, CSV or Parquet files")
    formats: dict[str, tuple[str, list[str]]] = {}
    for file in data:
        stem = ENDING.sub("", file)
        form = [file[len(stem) :].lower(), *SHARD_OF.findall(stem.lower())]
        other, known = formats.setdefault(SHARD_OF.sub("", stem.lower()), (file, form))
        if form != known:
            raise UserError(f"{name}: {shown(other)} and {shown(file)} look like the same rows twice; remove one of them")
    for file in data:
        for place, row in _file_rows(folder / file):
            yield (place if len(data) == 1 else f"{shown(file)} {place}"), row


def _names(folder: Path) -> list[str]:
    """All files in a folder, relative to it, but for hidden ones and what systems leave there. Links to folders are not followed."""
    names: list[str] = []
    errors: list[OSError] = []
    for place, folders, files in os.walk(folder, onerror=errors.append):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        names += [Path(place, name).relative_to(folder).as_posix() for name in files if not name.startswith(".")]
    if errors:
        raise UserError(f"{shown(errors[0].filename)}: cannot be read ({errors[0].strerror})")
    return sorted(names)


def _of_split(folder: str, files: list[str], split: str | None) -> list[str]:
    """The files of a split, by default "train"; all files if none was asked for and no name tells of one.

    A file's name tells of a split, or else its nearest folder's, by a whole word such as "train", and by what follows but for the
    number of a shard: "my_train" and "train-00000-of-00002" are of "train", but "train_prefs" is a split of its own.
    """
    asked = (split or "train").lower()
    word = re.compile(rf"(?<![^\W_])(?:{re.escape(asked)}|{SPLITS})(?![^\W_]).*", re.S)
    parts = {file: [SHARD.sub("", part) for part in reversed(ENDING.sub("", file).lower().split("/"))] for file in files}
    told = {file: next((found[0] for found in map(word.search, parts[file]) if found), "") for file in files}
    exact = [file for file in files if told[file] == asked]
    if not exact and (only := sorted(set(told.values()) - {""}) or (files if split else [])):
        names = ", ".join(map(shown, only[:10]))
        raise UserError(f"{folder}: no file for split {asked!r}, only {names}; choose a split with --split, or give one file")
    return exact or files


def _file_rows(path: Path) -> Iterator[tuple[str, dict | Malformed]]:
    """Rows of one file, by what it holds; the ending only tells tables from JSON."""
    name = shown(path)
    try:
        _mode(path)
        opener, head = _opener(name, path)
        if head.startswith(b"PAR1"):
            yield from _parquet_rows(name, path)
            return
        with opener(path, "rb") as raw:
            lines = io.TextIOWrapper(raw, encoding=_encoding(name, head), newline="")
            ending = next((suffix.lower() for suffix in reversed(path.suffixes) if ENDING.fullmatch(suffix)), "")
            yield from _table_rows(name, lines.read(), ",\t"[ending == ".tsv"]) if ending in (".csv", ".tsv") else _json_rows(lines)
    except UnicodeError as error:
        encoding, reason = getattr(error, "encoding", "utf-8").upper(), getattr(error, "reason", str(error))
        raise UserError(f"{name}: not {encoding} text ({reason}); fetch it again if it is cut off, or save it as UTF-8") from None
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        told = getattr(error, "strerror", None)  # by the system; else by what decompresses
        fault = f"cannot be read ({told})" if told else f"the compressed file is damaged ({shown(error)}); fetch it again"
        raise UserError(f"{name}: {fault}") from None


def _opener(name: str, path: Path) -> tuple[Callable, bytes]:
    """How to open a file, and its first bytes when it is opened so."""
    with path.open("rb") as raw:
        head = raw.read(512)
    if (opener := next((opener for magic, opener in OPENERS.items() if head.startswith(magic)), open)) is not open:
        with opener(path, "rb") as raw:
            head = raw.read(512)
        if head.startswith((b"PAR1", *OPENERS)):
            raise UserError(f"{name}: is compressed Parquet, or compressed twice; decompress it once")
    for magic, words in FOREIGN.items():
        if head.startswith(magic) or (magic == b"ustar" and head[257:262] == magic):
            raise UserError(f"{name}: is {words}")
    return opener, head


def _encoding(name: str, head: bytes) -> str:
    if mark := re.match(rb"(\xff\xfe\0\0|\0\0\xfe\xff)|\xff\xfe|\xfe\xff", head):
        return "utf-32" if mark[1] else "utf-16"
    if head.count(0) > len(head) / 16:
        raise UserError(f"{name}: full of zero bytes: no text, or UTF-16 without its byte order mark; save it as UTF-8 text")
    return "utf-8-sig"


def _parquet_rows(name: str, path: Path) -> Iterator[tuple[str, dict | Malformed]]:
    import pyarrow.parquet

    with _guarded(name, "the Parquet file is damaged, or holds values that cannot be read", "fetch it again, or save its texts alone"):
        file = pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)
        kept = _kept_columns(name, file.schema_arrow.names, file.schema_arrow)
        batches = (batch.select(kept).to_pylist() for batch in file.iter_batches(batch_size=1024))
        for number, row in enumerate(row for batch in batches for row in batch):
            yield f"row {number}", _decoded(row)


def _json_rows(lines: io.TextIOBase) -> Iterator[tuple[str, dict | Malformed]]:
    """One object per line; or one array of objects, or one object that holds such an array, over any number of lines."""
    number, first = next(((number, line) for number, line in enumerate(lines, 1) if line.strip()), (0, ""))
    value, rest = _parsed(first), lines
    if not isinstance(value, dict) or _table_inside(value) is not None:
        rest = io.StringIO(lines.read(), newline="")
        whole = _parsed(first + rest.getvalue())
        if (table := _table_inside(whole)) is not None:
            yield from ((f"row {row}", _object(part)) for row, part in enumerate(table, 1))
            return
        if isinstance(whole, dict):
            yield "line 1", Malformed("one JSON object over several lines; write one object per line, or an array of objects")
            return
    numbered = enumerate(itertools.chain((first,), rest), number)
    yield from ((f"line {later}", _object(_parsed(line))) for later, line in numbered if line.strip())


def _parsed(text: str):
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (RecursionError, ValueError) as error:
        return Malformed(f"not JSON ({getattr(error, 'msg', type(error).__name__)}); write one object per line")


def _unique(pairs: list[tuple]) -> dict | Malformed:
    """An object, unless one key is there twice: which value is meant, nobody can tell."""
    twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    return Malformed(f"key {twice[0]!r} is there twice; keep one of them") if twice else dict(pairs)


def _table_inside(value) -> list | None:
    """The rows in an array, or in an object whose only list with objects they are, such as {"data": [...]}."""
    if isinstance(value, dict) and not (NEEDED - {"system"}) & set(value):
        tables = [part for part in value.values() if isinstance(part, list) and any(isinstance(row, dict) for row in part)]
        return tables[0] if len(tables) == 1 and NEEDED & set(next(row for row in tables[0] if isinstance(row, dict))) else None
    return value if isinstance(value, list) else None


def _object(value) -> dict | Malformed:
    return value if isinstance(value, dict | Malformed) else Malformed("not an object; write one {...} per line")


def _table_rows(name: str, text: str, delimiter: str) -> Iterator[tuple[str, dict | Malformed]]:
    """Rows of a CSV or TSV file, parted as Excel's first line `sep=;` says, else by the usual sign or one that the header has instead."""
    if re.match(r"\s*[\[{]\s*(?:[\"\[\]{}]|$)", text):
        yield from _json_rows(io.StringIO(text, newline=""))
        return
    header = re.split(r"[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    if said := re.fullmatch(r"sep=([^\"\s]|\t)", header, re.I):
        delimiter = said[1]
    elif delimiter not in header:
        delimiter = max((sign for sign in ",;\t|" if sign in header), key=header.count, default=delimiter)
    records = _tab_records(name, text) if delimiter == "\t" else _records(name, text, delimiter)
    _, columns = next(records, (1, []))
    if "" in map(str.strip, columns[1:]):
        raise UserError(f"{name}: a column has no name; name it, or remove it")
    kept = _kept_columns(name, columns)
    for line, cells in records:
        more = len(cells) - len(columns)
        fault = f"{more} cells too many; quote texts with {delimiter!r}" if more > 0 else f"{-more} cells too few; give all {len(columns)}"
        yield f"line {line}", Malformed(fault) if more else {columns[position]: cells[position] for position in kept}


def _records(name: str, text: str, delimiter: str, quoted: bool = True) -> Iterator[tuple[int, list[str]]]:
    """(first line, cells) of each record, without blank lines and Excel's `sep=;`; unless `quoted`, quotes are ordinary characters."""
    csv.field_size_limit(2**31 - 1)
    file, line = io.StringIO(text, newline=""), 1
    reader = csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE, strict=True)
    try:
        for cells in reader:
            if (len(cells) > 1 or "".join(cells).strip()) and [cell.lower() for cell in cells] != ["sep=", ""]:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{name}, line {line}: {error}; close each quote, and write a quote inside a quoted text twice") from None


def _tab_records(name: str, text: str) -> Iterator[tuple[int, list[str]]]:
    """Records of a TSV file, where quotes are those of a spreadsheet or, as databases write, ordinary characters: whichever gives all
    records as many cells, and more records if both do, but for a single column, where that proves nothing."""
    readings: list[list[tuple[int, list[str]]]] = []
    for quoted in (True, False):
        with contextlib.suppress(UserError):
            readings.append(list(_records(name, text, "\t", quoted)))
    even = [records for records in readings if len({len(cells) for _, cells in records}) == 1]
    best = max(even, key=lambda records: len(records) if len(records[0][1]) > 1 else 0, default=readings[0])
    return iter(best)
