"""Rows of what people have: folders, tables, encodings, JSON, sets with pictures, and paths that are no files at all."""

import bz2
import csv
import gzip
import io
import json
import os
from datetime import datetime

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from alignlab import records, sources
from alignlab.errors import UserError

GOOD = {"prompt": "the film", "chosen": "was good", "rejected": "was long"}
ROWS = [GOOD | {"prompt": f"the film {i}"} for i in range(4)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def read(path, **options):
    return records.read_preferences(path, say=pytest.fail, **options)


def refused(path, **options):
    """The message of a refusal, which is one line that can be printed."""
    with pytest.raises(UserError) as error:
        read(path, **options)
    assert str(error.value).isprintable()
    return str(error.value)


def put(path, content=LINES):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, list):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def prompts(texts):
    return "".join(json.dumps(GOOD | {"prompt": text}) + "\n" for text in texts)


def folder(path, *names):
    """A folder in which each file holds one row, whose prompt is the file's name."""
    for name in names:
        put(path / name, [GOOD | {"prompt": name}] if name.endswith(".parquet") else prompts([name]))
    return path


# ---------------------------------------------------------------------------------------------- folders

SPLITS = {  # files, split asked for, files read
    "shards": (["train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-00000-of-00001.parquet"], None, [0, 1]),
    "shards with a hash": (["train-00000-of-00001-2a9b3c4d5e6f7a8b.parquet", "test.jsonl"], None, [0]),
    "short numbers": (["train_1.jsonl", "train_2.jsonl", "train_sft.jsonl"], None, [0, 1]),
    "parts": (["train.part0.jsonl", "train.part1.jsonl", "dev.part0.jsonl"], None, [0, 1]),
    "splits of their own": (["train_prefs-00000.parquet", "train_sft-00000.parquet"], "train_prefs", [0]),
    "beside train": (["train.jsonl", "train_prefs.jsonl", "train-v2.jsonl"], None, [0]),
    "the hub's branch": (["default/test/0000.parquet", "default/train/0000.parquet", "default/train/0001.parquet"], None, [1, 2]),
    "in part": (["default/partial-train/0000.parquet", "default/partial-test/0000.parquet"], None, [0]),
    "words before": (["my_train.jsonl", "my_test.jsonl"], None, [0]),
    "test, words before": (["my_train.jsonl", "my_test.jsonl"], "test", [1]),
    "the name before the folder": (["test-run/train.jsonl", "test-run/test.jsonl"], None, [0]),
    "several folders": (["harmless/test.jsonl", "harmless/train.jsonl", "helpful/train.jsonl"], None, [1, 2]),
    "capitals": (["Train.jsonl", "Test.JSONL"], "TEST", [1]),
    "no splits": (["a.jsonl", "b.jsonl", "latest.jsonl"], None, [0, 1, 2]),
    "part of a word": (["constrained.jsonl", "contest.jsonl"], None, [0, 1]),
    "another word": (["harmless.jsonl", "helpful.jsonl"], "helpful", [1]),
    "no data": (["train.jsonl.bak", "train.jsonl.tmp", "train.md", "README.md", "train.jsonl.metadata", "train.jsonl"], None, [5]),
    "about data": (["a.jsonl", "config.json", "dataset_infos.json", "sub/state.json"], None, [0]),
    "hidden": ([".cache/train.jsonl", "__MACOSX/train.jsonl", ".train.jsonl", "train.jsonl"], None, [3]),
    "hidden within": (["x/.git/train.jsonl", "x/train.jsonl"], None, [1]),
}


@pytest.mark.parametrize("case", SPLITS)
def test_a_folder_gives_the_files_of_one_split(tmp_path, case):
    names, split, wanted = SPLITS[case]
    assert [row["prompt"] for row in read(folder(tmp_path, *names), split=split)] == [names[number] for number in wanted]


@pytest.mark.parametrize(
    ("names", "split", "said"),
    [
        (["train_prefs-00000.parquet", "train_sft-00000.parquet"], None, "no file for split 'train', only train_prefs, train_sft; choose"),
        (["train_prefs.jsonl", "test_prefs.jsonl"], "train", "only test_prefs, train_prefs; choose a split with --split"),
        (["test.jsonl", "validation.jsonl"], None, "no file for split 'train', only test, validation; choose a split with --split"),
        (["pairs.jsonl", "pairs_test.jsonl"], None, "no file for split 'train', only test; choose a split with --split, or give one file"),
        (["train1.jsonl", "test1.jsonl"], None, "only test1, train1"),
        (["default/test/0000.parquet"], None, "only test;"),
        (["a.jsonl", "b.jsonl"], "train", "no file for split 'train', only a.jsonl, b.jsonl"),
        (["README.md", "train.jsonl.bak"], None, "no data files there"),
        (["train.jsonl", "train.parquet"], None, "train.jsonl and train.parquet look like the same rows twice; remove one of them"),
        (["a.jsonl", "a.jsonl.gz", "b.jsonl"], None, "a.jsonl and a.jsonl.gz look like the same rows twice"),
        (["train-00000-of-00001.parquet", "train.csv"], None, "look like the same rows twice"),
        (["train-00000-of-00001.parquet", "train-00000-of-00002.parquet"], None, "look like the same rows twice"),
        (["x/train/0000.parquet", "x/train/0000.jsonl"], None, "x/train/0000.jsonl and x/train/0000.parquet look like the same rows twice"),
    ],
)  # fmt: skip
def test_a_folder_whose_names_leave_a_doubt_is_refused(tmp_path, names, split, said):
    assert said in refused(folder(tmp_path, *names), split=split)


def test_places_in_a_folder_are_paths_within_it(tmp_path):
    names = ["en/train/0000.parquet", "fr/train/0000.parquet"]
    assert [place for place, _ in sources.rows(folder(tmp_path, *names), None, None)] == [f"{name} row 0" for name in names]
    put(tmp_path / "fr/train/0000.parquet", [GOOD | {"chosen": 3}])
    assert ", fr/train/0000.parquet row 0: chosen must be a string" in refused(tmp_path)


def test_links_that_loop_or_lead_nowhere_are_told_of(tmp_path):
    put(tmp_path / "folder/train.jsonl")
    (tmp_path / "folder/again").symlink_to(tmp_path / "folder")
    assert read(tmp_path / "folder") == ROWS  # a link to a folder is not followed
    (tmp_path / "folder/train_2.jsonl").symlink_to("train_2.jsonl")
    assert "train_2.jsonl: cannot be read (Too many levels of symbolic links)" in refused(tmp_path / "folder")
    (tmp_path / "nowhere").mkdir()
    (tmp_path / "nowhere/train.jsonl").symlink_to("gone.jsonl")
    assert "train.jsonl: cannot be read (No such file or directory)" in refused(tmp_path / "nowhere")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="everything may be read")
@pytest.mark.parametrize("locked", ["train.jsonl", "sub", "."])
def test_what_may_not_be_read_is_told_of(tmp_path, locked):
    put(tmp_path / "folder/train.jsonl")
    put(tmp_path / "folder/sub/train.jsonl")
    (tmp_path / "folder" / locked).chmod(0)
    try:
        assert "cannot be read (Permission denied)" in refused(tmp_path / "folder")
    finally:
        (tmp_path / "folder" / locked).chmod(0o700)


# ---------------------------------------------------------------------------------------------- tables


def table(rows=ROWS, **style):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows[0], **style)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def abc(*cells):
    return dict(zip(GOOD, cells, strict=True))


SPEECH = [GOOD | {"prompt": f"{i} of\nmany, or; so", "chosen": 'he said "no"\tand left', "rejected": '"'} for i in range(4)]
PLAIN = [GOOD | {"chosen": '"Yes', "rejected": 'a 5" nail'}, GOOD | {"chosen": "No", "rejected": 'said "so"'}]
TABS = "prompt\tchosen\trejected\n"
TABLES = {  # name, text, rows
    "embedded newlines": ("a.csv", table(SPEECH), SPEECH),
    "newlines of Windows stay": ("a.csv", 'prompt,chosen,rejected\r\n"a\r\nb",c,d\r\n', [abc("a\r\nb", "c", "d")]),
    "an old Mac": ("a.csv", table(lineterminator="\r"), ROWS),
    "an old Mac, embedded": ("a.csv", table(SPEECH, lineterminator="\r"), SPEECH),
    "blank lines": ("a.csv", "\n" + table().replace("\n", "\n\n") + " \n\n", ROWS),
    "a quote within": ("a.csv", 'prompt,chosen,rejected\na,a 5" nail,c\n', [abc("a", 'a 5" nail', "c")]),
    "semicolons": ("a.csv", table(SPEECH, delimiter=";"), SPEECH),
    "tabs": ("a.csv", table(SPEECH, delimiter="\t"), SPEECH),
    "commas in a TSV": ("a.tsv", table(), ROWS),
    "sep=,": ("a.csv", "sep=,\r\n" + table(), ROWS),
    "sep=;": ("a.csv", "\ufeffsep=;\r\n" + table(SPEECH, delimiter=";"), SPEECH),
    "the index of pandas": ("a.csv", table([{"": i} | row for i, row in enumerate(ROWS)]), ROWS),
    "an ambiguous column that nobody needs": ("a.csv", "x,prompt,chosen,rejected,x\n1,a,b,c,2\n", [abc("a", "b", "c")]),
    "a quoted TSV": ("a.tsv", table(SPEECH, delimiter="\t"), SPEECH),
    "a TSV without quoting": ("a.tsv", TABS + "".join("\t".join(row.values()) + "\n" for row in PLAIN), PLAIN),
    "quotes around a text": ("a.tsv", TABS + 'a\t"b"\t"c"\n', [abc("a", "b", "c")]),
    "quotes that would join rows": ("a.tsv", TABS + 'a\tb\t"c\nd\te\tf"\n', [abc("a", "b", '"c'), abc("d", "e", 'f"')]),
    "JSON Lines": ("a.csv", LINES, ROWS),
    "a JSON array": ("a.tsv", json.dumps(ROWS, indent=2), ROWS),
    "compressed": ("a.csv.gz", gzip.compress(table(SPEECH).encode()), SPEECH),
    "a copy": ("a.csv.old", table(), ROWS),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLES)
def test_tables_are_read_as_their_programs_wrote_them(tmp_path, case):
    name, text, rows = TABLES[case]
    assert read(put(tmp_path / name, text)) == rows


def test_a_single_column_may_hold_texts_of_several_lines(tmp_path):
    for name in ("a.csv", "a.tsv"):
        assert records.read_prompts(put(tmp_path / name, 'prompt\n"a\nb"\nc\n')) == ["a\nb", "c"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", 'prompt,chosen,rejected\na,b,c\nd,"e,f\ng,h,i\n', "a.csv, line 3: unexpected end of data; close each quote"),
        ("a.csv", 'prompt,chosen,rejected\na,"b,c\nd,e,"f"\n', "a.csv, line 2: ',' expected after '\"'; close each quote"),
        ("a.csv", 'prompt,chosen,rejected\na,b,c\n"d\nd",e\n', "line 3: 1 cells too few; give all 3"),
        ("a.csv", "prompt,chosen,rejected\na\nb,c\nd,e,f\ng,h,i,j\n", "3 of 4 rows are malformed: line 2: 2 cells too few"),
        ("a.csv", "prompt,chosen,rejected\na,b,c,d\n", "line 2: 1 cells too many; quote texts with ','"),
        ("a.tsv", TABS + "a\tb\n", "line 2: 1 cells too few"),
        ("a.tsv", TABS + 'a\t"b\tc\nd\te\n', "line 3: 1 cells too few"),
        ("a.csv", "prompt,chosen,rejected,chosen\na,b,c,d\n", "2 columns are called 'chosen'; keep one of them"),
        ("a.csv", "prompt,,chosen,rejected\na,b,c,d\n", "a column has no name; name it, or remove it"),
        ("a.csv", "a,b\n1,2\n", "field 'chosen' is missing; it has ['a', 'b']"),
        ("a.csv", "prompt,chosen,rejected\n", "no records"),
        ("a.csv", "", "no records"),
    ],
)
def test_tables_that_cannot_be_told_apart_are_refused(tmp_path, name, text, said):
    assert said in refused(put(tmp_path / name, text))


# ---------------------------------------------------------------------------------------------- encodings


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", LINES.encode("utf-16-le"), "UTF-16 without its byte order mark; save it as UTF-8 text"),
        ("a.csv", table().encode("utf-16-be"), "UTF-16 without its byte order mark"),
        ("a.jsonl", bytes(4096), "full of zero bytes"),
        ("a.jsonl", LINES.encode("utf-16")[:-1], "not UTF-16-LE text (truncated data); fetch it again if it is cut off"),
        ("a.csv", table().encode("utf-16")[:-1], "not UTF-16-LE text (truncated data)"),
        ("a.jsonl", LINES.encode() + "ä".encode()[:1], "not UTF-8 text (unexpected end of data)"),
        ("a.csv", "prompt,chosen,rejected\nä,b,c\n".encode("latin-1"), "not UTF-8 text (invalid continuation byte)"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer; fetch the data with git lfs pull"),
        ("a.jsonl.gz", gzip.compress(gzip.compress(LINES.encode())), "compressed twice"),
        ("a.parquet.gz", gzip.compress(b"PAR1" + bytes(50)), "is compressed Parquet"),
        ("a.tgz", gzip.compress(b"a.jsonl".ljust(257, b"\0") + b"ustar"), "is a tar archive"),
        ("a.jsonl.bz2", bz2.compress(LINES.encode())[:-20], "compressed file is damaged"),
        ("a.jsonl.bz2", b"BZh9" + bytes(20), "compressed file is damaged"),
    ],
    ids=range(13),  # of their own, since a compressed text holds the time
)
def test_bytes_that_are_no_text_are_told_by_their_kind(tmp_path, name, content, said):
    assert said in refused(put(tmp_path / name, content))


# ---------------------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("wrap", [lambda rows: rows, lambda rows: {"data": rows}], ids=["array", "inside"])
@pytest.mark.parametrize("place", [0, 2, 4])
def test_what_is_no_object_in_an_array_is_one_malformed_row(tmp_path, indent, wrap, place):
    for part in (None, 3, "text", [GOOD]):
        rows = [*ROWS[:place], part, *ROWS[place:]]
        said = refused(put(tmp_path / "a.json", json.dumps(wrap(rows), indent=indent)))
        assert said == f"{tmp_path / 'a.json'}, row {place + 1}: not an object; write one {{...}} per line"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "no records"),
        ("[\n]\n", "no records"),
        (" \n\n", "no records"),
        ("{}", "line 1: field 'chosen' is missing; it has []"),
        ("null", "line 1: not an object"),
        ('"text"', "line 1: not an object"),
        ("[1,\n 2]", "2 of 2 rows are malformed: row 1: not an object"),
        ('{"prompt": "a", "chosen": "b",\n "rejected": "c"}', "line 1: one JSON object over several lines"),
        (LINES + '{"prompt": "a", "chosen": "b", "chosen": "c", "rejected": "d"}', "line 5: key 'chosen' is there twice; keep one of them"),
        ('[{"prompt": "a", "chosen": "b", "chosen": "c", "rejected": "d"}]', "row 1: key 'chosen' is there twice"),
        ('{"a\\nb": 1, "a\\nb": 2}', r"line 1: key 'a\nb' is there twice"),
        ("[" * 100_000, "line 1: not JSON (RecursionError)"),
        (LINES + '{"n": ' + "1" * 5000 + "}", "line 5: not JSON (ValueError)"),
    ],
)
def test_json_that_is_no_records_is_told_of(tmp_path, text, said):
    assert said in refused(put(tmp_path / "a.json", text))


def test_numbers_that_json_lacks_are_tolerated_in_other_columns(tmp_path):
    values = ["NaN", "Infinity", "1", "2"]
    lines = [line.replace("}", f', "score": {value}}}') for line, value in zip(LINES.splitlines(), values, strict=True)]
    rows = read(put(tmp_path / "a.jsonl", "\n".join(lines)))
    assert rows == [*ROWS[:2], ROWS[2] | {"score": 1}, ROWS[3] | {"score": 2}]


# ---------------------------------------------------------------------------------------------- sets and Parquet

BROKEN = {"bytes": b"no picture", "path": None}


@pytest.mark.parametrize("feature", ["Image", "Audio", "Video"])
@pytest.mark.parametrize("inside", [False, True], ids=["column", "list"])
def test_pictures_and_sounds_of_a_saved_set_are_not_decoded(tmp_path, feature, inside):
    media = getattr(datasets, feature)()
    kind, value = (datasets.List(media), [BROKEN]) if inside else (media, BROKEN)
    for name, row in (("saved", GOOD | {"media": value}), ("needed", GOOD | {"prompt": value})):
        features = datasets.Features({column: datasets.Value("string") if isinstance(row[column], str) else kind for column in row})
        datasets.Dataset.from_list([row, row]).cast(features).save_to_disk(tmp_path / name)
    assert read(tmp_path / "saved") == [GOOD, GOOD]
    assert "column 'prompt' holds" in (said := refused(tmp_path / "needed")) and "alignlab reads text only" in said


def test_a_saved_set_gives_the_split_asked_for(tmp_path):
    one = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train_prefs": one, "test\n": one.select([1])}).save_to_disk(tmp_path / "several")
    assert read(tmp_path / "several", split="train_prefs") == ROWS
    assert r"no split 'train'; choose one of train_prefs, 'test\n' with --split" in refused(tmp_path / "several")
    datasets.Dataset.from_list(ROWS, split="test").save_to_disk(tmp_path / "single")
    assert read(tmp_path / "single") == read(tmp_path / "single", split="test") == ROWS
    assert "no split 'validation'; choose one of test" in refused(tmp_path / "single", split="validation")


def test_a_set_that_fails_while_it_is_read_is_told_of_in_one_line(monkeypatch, tmp_path):
    def failing():
        yield GOOD
        raise RuntimeError("the disk\nis gone")

    monkeypatch.setattr(datasets, "load_dataset", lambda *words, **more: failing())
    assert "someone/set: no file here, and the hub's set cannot be read (RuntimeError: the disk is gone)" in refused("someone/set")
    put(tmp_path / "dataset_info.json", "no JSON")
    assert "the saved set cannot be read" in refused(tmp_path)


def test_a_saved_set_may_be_formatted_and_hold_conversations(tmp_path):
    talks = {name: [[{"role": "user", "content": "Q"}, {"role": "assistant", "content": name}]] for name in ("chosen", "rejected")}
    datasets.Dataset.from_dict(talks | {"n": [1]}).with_format("numpy").save_to_disk(tmp_path / "saved")
    assert read(tmp_path / "saved") == [
        {"prompt": [{"role": "user", "content": "Q"}], "chosen": "chosen", "rejected": "rejected", "n": 1}
    ]  # fmt: skip


FAR = 2**62
ARROW = {  # a column beside the texts, and whether JSON can hold it
    "a timestamp out of range": pyarrow.array([FAR] * 4, pyarrow.timestamp("us")),
    "a timestamp of nanoseconds": pyarrow.array([1] * 4, pyarrow.timestamp("ns", "Nowhere/Land")),
    "a date out of range": pyarrow.array([2**31 - 1] * 4, pyarrow.date32()),
    "a duration out of range": pyarrow.array([FAR] * 4, pyarrow.duration("s")),
    "a time of nanoseconds": pyarrow.array([1] * 4, pyarrow.time64("ns")),
    "decimals": pyarrow.array([1] * 4, pyarrow.decimal128(38, 2)),
    "bytes": pyarrow.array([b"\xff"] * 4),
    "pictures": pyarrow.array([BROKEN] * 4),
}


@pytest.mark.parametrize("kind", ARROW)
def test_columns_that_json_cannot_hold_do_not_stop_parquet(tmp_path, kind):
    texts = pyarrow.Table.from_pylist(ROWS)
    pyarrow.parquet.write_table(texts.append_column("more", ARROW[kind]), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == ROWS


@pytest.mark.parametrize("kind", [pyarrow.large_string(), pyarrow.binary(), pyarrow.dictionary(pyarrow.int32(), pyarrow.string())], ids=str)
def test_texts_of_every_type_are_read_from_parquet(tmp_path, kind):
    texts = pyarrow.Table.from_pylist(ROWS)
    pyarrow.parquet.write_table(texts.cast(pyarrow.schema([(name, kind) for name in texts.column_names])), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == ROWS


def test_conversations_and_nested_dates_are_read_from_parquet(tmp_path):
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    talks = [[turn | {"at": datetime(2024, 1, 1)} for turn in [turns[0], turns[1] | {"content": text}]] for text in "AB"]
    put(tmp_path / "a.parquet", [{"chosen": talks[0], "rejected": talks[1], "meta.at": {"x": [1]}, "prompt.id": 7}])
    assert read(tmp_path / "a.parquet") == [
        {"prompt": [turns[0]], "chosen": "A", "rejected": "B", "meta.at": {"x": [1]}, "prompt.id": 7}
    ]  # fmt: skip


def test_parquet_that_holds_no_text_where_text_is_needed_is_refused(tmp_path):
    path = put(tmp_path / "a.parquet", [GOOD | {"chosen": b"\xff"}, GOOD | {"chosen": b"a"}])
    assert "row 0: bytes that are not UTF-8 text (invalid start byte); save the text as strings" in refused(path)
    assert "column 'prompt' holds timestamp[us]; alignlab reads text only" in refused(put(path, [GOOD | {"prompt": datetime(2024, 1, 1)}]))
    names = ["prompt", "chosen", "rejected", "chosen"]
    pyarrow.parquet.write_table(pyarrow.table([["a"], ["b"], ["c"], ["d"]], names=names), path)
    assert "2 columns are called 'chosen'; keep one of them" in refused(path)
    spoilt = pyarrow.array([b"\xff"]).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table([["a"], spoilt, ["c"]], names=names[:3]), path)
    assert "the Parquet file is damaged, or holds values that cannot be read (UnicodeDecodeError" in refused(path)
    whole = put(path, ROWS * 50).read_bytes()
    for broken in (whole[:-10], whole[:40] + b"\xff" * 40 + whole[80:], b"PAR1"):
        assert "the Parquet file is damaged" in refused(put(path, broken))


# ---------------------------------------------------------------------------------------------- paths and names


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("a" * 5000, "cannot be read (File name too long)"),
        ("a\0b", r"'a\x00b': cannot be read (embedded null byte)"),
        ("two\nlines", r"'two\nlines': no such file"),
        ("", "'': no such file"),
        ("./gone", "./gone: no such file"),
        (os.devnull, "is a device or a pipe; write what it gives to a file"),
    ],
)  # fmt: skip
def test_a_source_that_is_no_file_is_refused_without_asking_the_hub(monkeypatch, source, said):
    monkeypatch.setattr(datasets, "load_dataset", lambda *words, **more: pytest.fail("asked the hub"))
    assert said in refused(source)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "train.jsonl")
    for source in (tmp_path, tmp_path / "train.jsonl"):
        assert "is a device or a pipe" in refused(source)


def test_names_that_would_break_a_message_are_quoted(tmp_path):
    put(tmp_path / "folder/train.jsonl")
    put(tmp_path / "folder/train\n.csv", 'prompt,chosen,rejected\n"a')
    (tmp_path / "folder/train.jsonl").unlink()
    assert r"only 'train\n'" in refused(tmp_path / "folder")
    put(tmp_path / "folder/train_1.jsonl", "{half\n")
    put(tmp_path / "folder/x\n/train.jsonl")
    assert r"'x\n/train.jsonl' line 1" in [place for place, _ in sources.rows(tmp_path / "folder", None, None)]
    put(tmp_path / "columns.csv", '"a\nb","c\td"\n1,2\n')
    assert r"it has ['a\nb', 'c\td']" in refused(tmp_path / "columns.csv")


@pytest.mark.parametrize("name", ["pairs", "pairs.txt", "pairs.parquet", "pairs.json.old"])
@pytest.mark.parametrize("content", [LINES, json.dumps(ROWS, indent=1), gzip.compress(LINES.encode()), ROWS], ids=range(4))
def test_a_file_by_a_wrong_name_is_read_by_what_it_holds(tmp_path, name, content):
    assert read(put(tmp_path / name, content)) == ROWS
