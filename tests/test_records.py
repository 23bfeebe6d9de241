"""Reading what people have: rows that cannot teach, rows that are malformed, conversations in every writing, every kind of file."""

import bz2
import csv
import gzip
import json
import lzma
from datetime import datetime

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from architectures import tokenizer

from alignlab import encoding, records, talks
from alignlab.errors import UserError
from alignlab.files import write_lines

GOOD = {"prompt": "the film", "chosen": "was good", "rejected": "was long"}
ROWS = [GOOD | {"prompt": f"the film {i}"} for i in range(6)]


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def write(folder, rows, name="rows.jsonl"):
    path = folder / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


def read(folder, *rows, **options):
    said = []
    return records.read_preferences(write(folder, rows), say=said.append, **options), said


# ---------------------------------------------------------------------------------------------- rows that cannot teach

UNTEACHABLE = {
    "blank chosen": (GOOD | {"chosen": " \n"}, "an empty answer"),
    "no rejected text": (GOOD | {"rejected": ""}, "an empty answer"),
    "null answer": (GOOD | {"rejected": None}, "an empty answer"),
    "empty messages": (GOOD | {"chosen": []}, "an empty answer"),
    "empty message": (GOOD | {"chosen": [assistant(" ")]}, "an empty answer"),
    "blank prompt": (GOOD | {"prompt": " "}, "an empty prompt"),
    "null prompt": (GOOD | {"prompt": None}, "an empty prompt"),
    "equal": (GOOD | {"rejected": "was good"}, "chosen equal to rejected"),
    "equal in two writings": (GOOD | {"rejected": [assistant("was good")]}, "chosen equal to rejected"),
    "equal conversations": (
        {"chosen": [user("a"), assistant("b")], "rejected": [user("a"), assistant("b") | {"name": None}]},
        "chosen equal to rejected",
    ),
    "transcript without an answer": (
        {"chosen": "\n\nHuman: a\n\nAssistant:", "rejected": "\n\nHuman: a\n\nAssistant: b"}, "an empty answer"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNTEACHABLE)
def test_a_row_that_cannot_teach_is_left_out_counted_by_kind_and_located(tmp_path, kind):
    row, words = UNTEACHABLE[kind]
    kept, said = read(tmp_path, ROWS[0], "", row, ROWS[1])
    assert kept == ROWS[:2]
    assert said == [f"{tmp_path / 'rows.jsonl'}: 1 of 3 rows left out: 1 with {words} (line 3)"]


def test_left_out_rows_are_counted_by_kind_with_the_first_lines(tmp_path):
    kept, (said,) = read(tmp_path, *ROWS, *ROWS, GOOD | {"chosen": "was long"}, *[GOOD | {"chosen": ""}] * 7)
    assert len(kept) == 12
    assert "8 of 20 rows left out" in said
    assert "1 with chosen equal to rejected (line 13)" in said
    assert "7 with an empty answer (line 14, line 15, line 16, line 17, line 18, and 2 more)" in said


def test_strict_refuses_them(tmp_path):
    with pytest.raises(UserError, match=r"1 of 3 rows left out: 1 with an empty answer \(line 2\); .*--strict"):
        read(tmp_path, ROWS[0], GOOD | {"chosen": ""}, ROWS[1], strict=True)


def test_more_than_half_left_out_is_refused(tmp_path):
    assert len(read(tmp_path, ROWS[0], GOOD | {"chosen": ""})[0]) == 1
    with pytest.raises(UserError, match="2 of 3 rows left out: .*more than half"):
        read(tmp_path, ROWS[0], GOOD | {"chosen": ""}, GOOD | {"chosen": ""})


@pytest.mark.parametrize("reader", [records.read_demonstrations, records.read_prompts])
def test_demonstrations_and_prompts_leave_out_alike(tmp_path, reader):
    good, bad = {"prompt": "a", "completion": "b"}, {"prompt": " ", "completion": "b"}
    said = []
    assert len(reader(write(tmp_path, [good, bad, good]), say=said.append)) == 2
    assert "1 of 3 rows left out: 1 with an empty prompt (line 2)" in said[0]


def test_all_malformed_rows_are_counted_in_one_pass(tmp_path):
    bad = ["{half", {"prompt": "a", "chosen": "b"}, GOOD | {"chosen": 3}]
    with pytest.raises(UserError) as error:
        read(tmp_path, ROWS[0], *bad, ROWS[1])
    message = str(error.value)
    assert "3 of 5 rows are malformed" in message and "\n" not in message
    assert all(f"line {number}:" in message for number in (2, 3, 4))


def test_limit_reads_only_the_first_rows(tmp_path):
    assert read(tmp_path, *ROWS, "{broken", limit=6)[0] == ROWS


# ---------------------------------------------------------------------------------------------- columns


def test_columns_can_be_named(tmp_path):
    row = {"question": "a", "good": "b", "rejected": "c"}
    assert read(tmp_path, row, columns={"prompt": "question", "chosen": "good"})[0] == [{"prompt": "a", "chosen": "b", "rejected": "c"}]
    with pytest.raises(UserError, match="no column 'asked'; the columns are question, good, rejected"):
        read(tmp_path, row, columns={"prompt": "asked"})


@pytest.mark.parametrize(("names", "title", "cure"), records.LAYOUTS)
def test_a_known_layout_is_named_with_its_cure(tmp_path, names, title, cure):
    with pytest.raises(UserError) as error:
        read(tmp_path, dict.fromkeys(names, "text"))
    assert title in str(error.value) and cure in str(error.value)


def test_what_json_cannot_hold_is_dropped_at_reading_and_the_rest_can_be_written(tmp_path, monkeypatch):
    row = GOOD | {"created": datetime(2024, 1, 1), "image": b"\x89PNG", "score": float("nan"), "stars": 5}
    monkeypatch.setattr(datasets, "load_dataset", lambda *words, split: [row])
    rows = records.read_preferences("someone/set")
    assert rows == [GOOD | {"stars": 5}]
    write_lines(tmp_path / "again.jsonl", rows)
    assert records.read_preferences(tmp_path / "again.jsonl") == rows


@pytest.mark.parametrize("prompt", ["Why?", [user("Why?")]], ids=["string", "messages"])
def test_a_system_column_becomes_the_system_message_once(tmp_path, prompt):
    (row,), _ = read(tmp_path, GOOD | {"prompt": prompt, "system": "Be kind."})
    assert row["prompt"] == [{"role": "system", "content": "Be kind."}, user("Why?")] and "system" not in row
    assert read(tmp_path, row)[0] == [row]  # as a run reads it again
    assert read(tmp_path, row | {"system": "Be kind."})[0] == [row]
    assert read(tmp_path, GOOD | {"system": ""})[0] == [GOOD]
    with pytest.raises(UserError, match="system column and the prompt's own system message differ"):
        read(tmp_path, row | {"system": "Be rude."})


# ---------------------------------------------------------------------------------------------- conversations

TURNS = [user("Name a river."), assistant("The Danube."), user("And why?"), assistant("Books say so.")]
OTHER = [TURNS[0], assistant("Water."), TURNS[2], assistant("Ask another.")]


def transcript(talk):
    return "".join(f"\n\n{'Human' if turn['role'] == 'user' else 'Assistant'}: {turn['content']}" for turn in talk)


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [(TURNS, OTHER), (TURNS, OTHER[:2]), (TURNS[:2], OTHER)],
    ids=["both longer", "chosen longer", "rejected longer"],
)
def test_conversations_that_part_early_give_the_record_of_their_transcripts(tmp_path, chosen, rejected):
    talks = read(tmp_path, {"chosen": chosen, "rejected": rejected})[0]
    assert talks == read(tmp_path, {"chosen": transcript(chosen), "rejected": transcript(rejected)})[0]
    assert talks == read(tmp_path, {"prompt": "Name a river.", "chosen": chosen, "rejected": rejected})[0]
    assert talks == read(tmp_path, {"prompt": [TURNS[0]], "chosen": chosen, "rejected": rejected})[0]


@pytest.mark.parametrize("talk", [TURNS[:2], TURNS], ids=["one turn", "two turns"])
def test_both_writings_of_a_conversation_are_the_same_ids_and_the_same_prompt(tmp_path, talk):
    other = [*talk[:-1], assistant("Ask another.")]
    (one,), (two,) = (read(tmp_path, {"chosen": form(talk), "rejected": form(other)})[0] for form in (list, transcript))
    words = tokenizer("qwen3")
    assert encoding.prompt_ids(words, one["prompt"]) == encoding.prompt_ids(words, two["prompt"])
    assert (one["chosen"], one["rejected"]) == (two["chosen"], two["rejected"])
    assert talks.canonical(one["prompt"]) == talks.canonical(two["prompt"])


def test_ultrafeedback_has_a_prompt_string_beside_whole_conversations(tmp_path):
    row = {"prompt": "Why?", "chosen": [user("Why?"), assistant("So.")], "rejected": [user("Why?"), assistant("No.")]}
    assert read(tmp_path, row)[0] == [{"prompt": "Why?", "chosen": "So.", "rejected": "No."}]
    with pytest.raises(UserError, match="prompt is not what chosen and rejected have in common"):
        read(tmp_path, row | {"prompt": "How?"})


def test_messages_are_compared_by_role_and_content_alone(tmp_path):
    nulls = {"name": None, "tool_calls": None}
    talks = ([user("Why?") | nulls, assistant(text) | nulls] for text in ("So.", "No."))
    row = dict(zip(("chosen", "rejected"), talks, strict=True)) | {"prompt": [user("Why?")]}
    assert read(tmp_path, row)[0] == [{"prompt": [user("Why?")], "chosen": "So.", "rejected": "No."}]


def test_text_parts_are_joined_and_other_parts_refused_by_name(tmp_path):
    parts = [{"type": "text", "text": "Name "}, {"type": "text", "text": "a river."}]
    assert read(tmp_path, GOOD | {"prompt": [user(parts)]})[0][0]["prompt"] == [user("Name a river.")]
    with pytest.raises(UserError, match="content part of type 'image_url'; alignlab reads text only"):
        read(tmp_path, GOOD | {"prompt": [user([{"type": "image_url", "image_url": "x"}])]})


def test_sharegpt_turns_are_read_and_tool_calls_refused(tmp_path):
    talks = {
        name: [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": text}] for name, text in (("chosen", "a"), ("rejected", "b"))
    }
    assert read(tmp_path, talks)[0] == [{"prompt": [user("Why?")], "chosen": "a", "rejected": "b"}]
    with pytest.raises(UserError, match="tool call; alignlab reads turns of text only"):
        read(tmp_path, GOOD | {"chosen": [assistant(None) | {"tool_calls": [{"name": "f"}]}]})


@pytest.mark.parametrize("whole", [False, True], ids=["the rest", "the whole turn"])
def test_a_prompt_that_ends_in_the_assistants_words_is_continued(tmp_path, whole):
    prompt = [user("Name a river."), assistant("The river is")]
    begin = "The river is" if whole else ""
    answers = [[*(prompt[:-1] if whole else []), assistant(begin + text)] for text in (" the Danube.", " water.")]
    (row,), _ = read(tmp_path, {"prompt": prompt, "chosen": answers[0], "rejected": answers[1]})
    assert row == {"prompt": prompt, "chosen": " the Danube.", "rejected": " water."}
    words = tokenizer("qwen3")
    ids = encoding.prompt_ids(words, prompt) + encoding.completion_ids(words, row["chosen"])
    assert words.decode(ids) == "<|im_start|>user\nName a river.<|im_end|>\n<|im_start|>assistant\nThe river is the Danube.<|im_end|>"


@pytest.mark.parametrize("form", [list, transcript, lambda talk: [dict(turn) for turn in talk]], ids=["messages", "transcript", "copies"])
def test_a_conversation_that_ends_with_the_user_teaches_nobodys_words(tmp_path, form):
    bad = {"chosen": form([*TURNS, user("Thanks!")]), "rejected": form(OTHER)}
    kept, (said,) = read(tmp_path, *ROWS, bad)
    assert kept == ROWS and "1 with a conversation that does not end with the assistant's turn (line 7)" in said


@pytest.mark.parametrize("write_as", [json.dumps, str, lambda talk: json.dumps(talk, indent=1)], ids=["JSON", "Python", "indented"])
def test_conversations_stored_as_text_are_conversations(tmp_path, write_as):
    talks = {"chosen": TURNS, "rejected": [*TURNS[:-1], assistant("Don't ask.")]}
    assert read(tmp_path, {name: write_as(talk) for name, talk in talks.items()})[0] == read(tmp_path, talks)[0]
    one = read(tmp_path, {"prompt": write_as(TURNS[:1]), "chosen": write_as(TURNS[:2]), "rejected": write_as(OTHER[:2])})[0]
    assert one == [{"prompt": TURNS[:1], "chosen": "The Danube.", "rejected": "Water."}]
    with pytest.raises(UserError, match="conversation stored as text that cannot be read"):  # as numpy prints it
        read(tmp_path, {name: "\n ".join(map(str, talk)).join("[]") for name, talk in talks.items()})


def test_an_answer_of_json_that_is_no_conversation_stays_text(tmp_path):
    row = GOOD | {"chosen": '[{"name": "Danube"}]', "rejected": "[1, 2"}
    assert read(tmp_path, row)[0] == [row]


@pytest.mark.parametrize("names", [("User", "Assistant"), ("human", "gpt"), ("prompter", "assistant"), (" USER", "model")])
def test_roles_are_read_by_their_common_names(tmp_path, names):
    def renamed(talk):
        return [turn | {"role": names[turn["role"] == "assistant"]} for turn in talk]

    row = {"chosen": TURNS, "rejected": OTHER}
    assert read(tmp_path, {name: renamed(talk) for name, talk in row.items()})[0] == read(tmp_path, row)[0]


def test_transcripts_are_known_without_their_blank_lines_and_behind_a_preamble():
    turns = [user("Hi."), assistant("Hello."), user("Why?")]
    assert talks.turns_of("Human: Hi.\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant:") == turns
    assert talks.turns_of(transcript(turns)) == turns
    assert talks.turns_of("Be kind." + transcript(turns) + "\n\nAssistant:") == [{"role": "system", "content": "Be kind."}, *turns]
    for text in ("Human: a history", "What does this mean?\n\nHuman: Hi.\n\nAssistant: Hello."):  # ordinary questions
        assert talks.turns_of(text) == [user(text)]


def test_one_answer_as_messages_and_the_other_as_a_transcript_are_one_writing(tmp_path):
    row = {"prompt": TURNS[:1], "chosen": TURNS[:2], "rejected": OTHER[:2]}
    assert read(tmp_path, row | {"rejected": transcript(OTHER[:2])})[0] == read(tmp_path, row)[0]


def test_a_whole_transcript_as_completion_is_the_answer_alone(tmp_path):
    prompts = ("Name a river.", "\n\nHuman: Name a river.\n\nAssistant:")
    rows = [{"prompt": prompt, "completion": transcript(TURNS[:2])} for prompt in prompts]
    assert [row["completion"] for row in records.read_demonstrations(write(tmp_path, rows))] == ["The Danube."] * 2


@pytest.mark.parametrize("prompt", ["\n\nHuman: Why?", "\n\nHuman: Why?\n\nAssistant:"])
def test_answers_lose_the_marker_of_their_turn(tmp_path, prompt):
    rows = read(tmp_path, {"prompt": prompt, "chosen": "\n\nAssistant: So.", "rejected": "Assistant: No."})[0]
    assert rows == [{"prompt": "\n\nHuman: Why?\n\nAssistant:", "chosen": "So.", "rejected": "No."}]


@pytest.mark.parametrize("form", [list, transcript])
@pytest.mark.parametrize("prompt", ["", " ", None, []])
def test_an_empty_prompt_beside_conversations_is_none(tmp_path, form, prompt):
    talks = {"chosen": form(TURNS), "rejected": form([*TURNS[:-1], assistant("Ask another.")])}
    assert read(tmp_path, talks | {"prompt": prompt})[0] == read(tmp_path, talks)[0]


def test_columns_may_change_places_and_text_parts_may_be_null(tmp_path):
    flipped = read(tmp_path, GOOD, columns={"chosen": "rejected", "rejected": "chosen"})[0]
    assert flipped == [{"prompt": "the film", "chosen": "was long", "rejected": "was good"}]
    parts = [{"type": "text", "text": "Why?"}, {"type": "text", "text": None}]
    assert read(tmp_path, GOOD | {"prompt": [user(parts)]})[0][0]["prompt"] == [user("Why?")]


# ---------------------------------------------------------------------------------------------- files


def table(path, delimiter):
    with path.open("w", newline="") as file:
        rows = csv.DictWriter(file, GOOD, delimiter=delimiter)
        rows.writeheader()
        rows.writerows(ROWS)


LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
FILES = {
    "rows.jsonl": lambda path: path.write_text(LINES),
    "windows.jsonl": lambda path: path.write_bytes(b"\xef\xbb\xbf" + LINES.replace("\n", "\r\n").encode()),
    "mac.jsonl": lambda path: path.write_bytes(LINES.replace("\n", "\r").encode()),
    "utf16.jsonl": lambda path: path.write_text(LINES, encoding="utf-16"),
    "utf32.jsonl": lambda path: path.write_text(LINES, encoding="utf-32"),
    "array.json": lambda path: path.write_text(json.dumps(ROWS, indent=2)),
    "one_line.json": lambda path: path.write_text(json.dumps(ROWS)),
    "inside.json": lambda path: path.write_text(json.dumps({"version": 1, "data": ROWS}, indent=1)),
    "rows.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES.encode())),
    "rows.jsonl.bz2": lambda path: path.write_bytes(bz2.compress(LINES.encode())),
    "rows.jsonl.xz": lambda path: path.write_bytes(lzma.compress(LINES.encode())),
    "misnamed.json": lambda path: path.write_bytes(gzip.compress(LINES.encode())),
    "rows.csv": lambda path: table(path, ","),
    "ROWS.CSV": lambda path: table(path, ","),
    "rows.tsv": lambda path: table(path, "\t"),
    "rows.parquet": lambda path: pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path),
    "without_ending": lambda path: path.write_text(LINES),
}


@pytest.mark.parametrize("name", FILES)
def test_every_common_kind_of_file_gives_the_same_rows(tmp_path, name):
    FILES[name](tmp_path / name)
    assert records.read_preferences(tmp_path / name) == ROWS


def test_a_folder_is_read_by_split(tmp_path):
    for name, rows in (("train-00000-of-00001.parquet", ROWS[:4]), ("test-00000-of-00001.parquet", ROWS[4:])):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / name)
    assert records.read_preferences(tmp_path) == ROWS[:4]
    assert records.read_preferences(tmp_path, split="test") == ROWS[4:]
    with pytest.raises(UserError, match="no file for split 'validation'"):
        records.read_preferences(tmp_path, split="validation")


def test_what_datasets_saved_is_read(tmp_path):
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert records.read_preferences(tmp_path / "saved") == ROWS


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("rows.zip", b"PK\x03\x04....", "zip archive or an Excel sheet"),
        ("rows.jsonl.zst", b"\x28\xb5\x2f\xfd....", "compressed by zstd"),
        ("rows.gz", gzip.compress(LINES.encode())[:40], "compressed file is damaged"),
        ("rows.parquet", b"PAR1....", "Parquet file is damaged"),
        ("rows.json", b'{\n "prompt": "a"\n}\n', "one JSON object over several lines"),
        ("rows.csv", b"prompt,chosen,rejected\na,b,c,d\n", "cells too many"),
    ],
    ids=["zip", "zst", "gz", "parquet", "json", "csv"],
)
def test_a_file_that_cannot_be_read_is_named_by_its_kind(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        records.read_preferences(tmp_path / name)


def test_a_name_that_is_neither_a_file_nor_owner_and_name_is_refused_without_asking_the_hub(monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *words, **more: pytest.fail("asked the hub"))
    for name in ("pairs", "a/b/c", "pairs.jsonl.gz", "https://example.org/x"):
        with pytest.raises(UserError, match="no such file"):
            records.read_preferences(name)


def test_split_and_config_of_a_hub_set_can_be_named(monkeypatch):
    def load(name, *config, split):
        if split != "train_prefs":
            raise ValueError(f'Unknown split "{split}". Should be one of ["train_prefs"].')
        if config != ("en",):
            raise ValueError("Config name is missing.\nPlease pick one among the available configs: ['en']")
        return ROWS

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(UserError, match="train_prefs.*--split"):
        records.read_preferences("someone/set")
    with pytest.raises(UserError, match=r"\['en'\].*--config"):
        records.read_preferences("someone/set", split="train_prefs")
    assert records.read_preferences("someone/set", split="train_prefs", config="en") == ROWS


def test_a_prompt_that_the_conversations_do_not_repeat_is_refused_not_put_in_front(tmp_path):
    for prompt in ([{"role": "system", "content": "S"}, user("Q")], [user("Q2")], [user("Q ")]):
        with pytest.raises(UserError, match="not what chosen and rejected have in common"):
            read(tmp_path, {"prompt": prompt, "chosen": [user("Q"), assistant("x")], "rejected": [user("Q"), assistant("y")]})


@pytest.mark.parametrize("prompt", ["Q", "\n\nHuman: Q", "\n\nHuman: Q\n\nAssistant: ", "\n\nHuman: Q\n\nAssistant:"])
def test_whole_transcripts_beside_a_prompt_are_parted(tmp_path, prompt):
    row = {"prompt": prompt, "chosen": "\n\nHuman: Q\n\nAssistant: x", "rejected": "\n\nHuman: Q\n\nAssistant: y"}
    assert read(tmp_path, row)[0] == [{"prompt": "\n\nHuman: Q\n\nAssistant:", "chosen": "x", "rejected": "y"}]


def test_a_gzip_file_damaged_within_is_named_and_hidden_files_of_a_folder_are_no_data(tmp_path):
    whole = bytearray(gzip.compress(LINES.encode() * 20))
    whole[40:48] = bytes(255 - byte for byte in whole[40:48])
    (tmp_path / "rows.jsonl.gz").write_bytes(whole)
    with pytest.raises(UserError, match="damaged|not UTF-8|not JSON"):
        records.read_preferences(tmp_path / "rows.jsonl.gz")
    (tmp_path / "folder/.cache").mkdir(parents=True)
    write(tmp_path / "folder", ROWS, "train.jsonl")
    (tmp_path / "folder/.cache/train.jsonl.metadata").write_text("not data")
    assert records.read_preferences(tmp_path / "folder") == ROWS


def test_a_name_with_a_line_break_stays_one_line(tmp_path):
    for rows in (["{broken"], [GOOD | {"chosen": ""}] * 3, []):
        with pytest.raises(UserError) as error:
            data_of = write(tmp_path, rows, "two\nlines.jsonl")
            records.read_preferences(data_of, say=lambda words: None)
        assert "\n" not in str(error.value) and "lines.jsonl" in str(error.value)
