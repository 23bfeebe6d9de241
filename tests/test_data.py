"""From text to masked tensors: what is read, what is refused and how, what is tokenised, and what counts."""

import json

import pytest
import torch
from architectures import FRAMES, PAIRS, each_architecture, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from alignlab import data, encoding, fit, records
from alignlab.data import Example, collate
from alignlab.errors import UserError
from alignlab.files import write_lines
from alignlab.records import read_preferences, split_by_prompt

ROOMY = 10**6
often = settings(max_examples=60, deadline=None, database=None, derandomize=True)
texts = st.text(st.characters(codec="utf-8", exclude_characters="<>"), min_size=1, max_size=30)
words = st.lists(st.sampled_from(["the", "answer", "is", "good", "film", "cat", "unheard"]), min_size=1, max_size=12).map(
    " ".join
)


def plain(words, text):
    """Ids of a text by itself, nothing added."""
    return words(text, add_special_tokens=False)["input_ids"]


def write(folder, *lines, name="records.jsonl"):
    """A JSON Lines file of records, or of lines as they stand."""
    path = folder / name
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), encoding="utf-8")
    return path


# ---------------------------------------------------------------------------------------------- reading


def test_pairs_are_read_with_their_extra_fields(tmp_path):
    record = {"prompt": "the film", "chosen": "was good", "rejected": "was long", "gold_chosen": 1.5, "who": ["a", "b"]}
    assert records.read_preferences(write(tmp_path, record, "", record)) == [record, record]


def test_demonstrations_and_prompts_are_read(tmp_path):
    record = {"prompt": "the film", "completion": "was good", "source": 7}
    assert records.read_demonstrations(write(tmp_path, record)) == [record]
    assert records.read_prompts(write(tmp_path, record, {"prompt": "cat"})) == ["the film", "cat"]


def test_what_is_written_is_read_again(tmp_path):
    records = [pair | {"note": "ünï\u2028code"} for pair in PAIRS]
    write_lines(tmp_path / "pairs.jsonl", records)
    assert read_preferences(tmp_path / "pairs.jsonl") == records


def test_transcripts_are_split_at_the_last_turn_they_share(tmp_path):
    shared = "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant:"
    record = {"chosen": shared + " Because it is so.", "rejected": shared + " Because I say so."}
    (read,) = records.read_preferences(write(tmp_path, record))
    assert read == {"prompt": shared, "chosen": "Because it is so.", "rejected": "Because I say so."}


def test_transcripts_that_part_early_are_split_there(tmp_path):
    shared = "\n\nHuman: Hi.\n\nAssistant:"
    later = " Yes.\n\nHuman: Why?\n\nAssistant: So."
    (read,) = records.read_preferences(write(tmp_path, {"chosen": shared + later, "rejected": shared + " No."}))
    assert (read["prompt"], read["chosen"], read["rejected"]) == (shared, later.lstrip(), "No.")


def test_message_lists_are_split_at_their_common_beginning(tmp_path):
    start = [{"role": "user", "content": "Why?"}]
    good, bad = ({"role": "assistant", "content": text} for text in ("Because.", "No."))
    (read,) = records.read_preferences(write(tmp_path, {"chosen": [*start, good], "rejected": [*start, bad]}))
    assert read == {"prompt": start, "chosen": "Because.", "rejected": "No."}


@pytest.mark.parametrize("whole", [True, False], ids=["whole conversation", "answer only"])
def test_messages_after_a_prompt_of_messages_become_the_answer(tmp_path, whole):
    prompt = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}]
    answers = [[*(prompt if whole else []), {"role": "assistant", "content": text}] for text in ("Because.", "No.")]
    (read,) = records.read_preferences(write(tmp_path, {"prompt": prompt, "chosen": answers[0], "rejected": answers[1]}))
    assert read == {"prompt": prompt, "chosen": "Because.", "rejected": "No."}


GOOD = {"prompt": "the film", "chosen": "was good", "rejected": "was long"}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ('{"prompt": "the film", "chosen"', ["JSON", "one object per line"]),
        ("[1, 2]", ["object", "{...}"]),
        ('"the film"', ["object", "{...}"]),
        ({"prompt": "the film", "chosen": "was good"}, ["'rejected'", "missing", "'chosen', 'prompt'"]),
        ({"chosen": "was good", "rejected": "was long"}, ["no `prompt`", "add a `prompt`"]),
        (GOOD | {"chosen": 3}, ["chosen", "must be a string or one assistant message"]),
        (GOOD | {"prompt": [{"role": "user"}]}, ["prompt", "{role, content}"]),
        (GOOD | {"chosen": [{"role": "user", "content": "was good"}]}, ["chosen", "one assistant message"]),
    ],
    ids=["half a line", "a list", "a string", "no rejected", "no prompt", "a number", "half a message", "user's answer"],
)
def test_a_bad_line_is_named_with_file_number_and_cure(tmp_path, bad, said):
    path = write(tmp_path, GOOD, "", bad, GOOD)
    with pytest.raises(UserError) as error:
        records.read_preferences(path)
    for part in (str(path), "line 3", *said):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("read", [records.read_preferences, records.read_demonstrations, records.read_prompts])
def test_a_missing_file_is_named_with_its_cure(tmp_path, read):
    with pytest.raises(UserError, match="nowhere.jsonl: no such file; give a JSON Lines file"):
        read(tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize("read", [records.read_preferences, records.read_demonstrations, records.read_prompts])
def test_an_empty_file_is_named_with_its_cure(tmp_path, read):
    with pytest.raises(UserError, match="records.jsonl: no records; write one object per line"):
        read(write(tmp_path, "", " "))


def test_a_file_in_another_encoding_is_named(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"prompt": "the café", "chosen": "a", "rejected": "b"}\n'.encode("latin-1"))
    with pytest.raises(UserError, match="latin.jsonl.*UTF-8"):
        records.read_preferences(path)


def test_a_bad_demonstration_is_named(tmp_path):
    with pytest.raises(UserError, match="records.jsonl, line 1.*completion"):
        records.read_demonstrations(write(tmp_path, {"prompt": "the film"}))


def test_messages_without_a_chat_template_are_refused_with_a_cure():
    with pytest.raises(UserError, match="no chat template; use plain strings"):
        encoding.prompt_ids(tokenizer("llama"), [{"role": "user", "content": "the film"}])


# ---------------------------------------------------------------------------------------------- train and test


@often
@given(
    prompts=st.lists(st.integers(0, 6), min_size=2, max_size=30).filter(lambda drawn: len(set(drawn)) > 1),
    share=st.floats(0.0, 1.0), seed=st.integers(0, 3),
)  # fmt: skip
def test_train_and_test_share_no_prompt_and_lose_no_record(prompts, share, seed):
    records = [{"prompt": f"p{prompt}", "row": row} for row, prompt in enumerate(prompts)]
    train, test = split_by_prompt(records, share, seed)
    assert not {record["prompt"] for record in train} & {record["prompt"] for record in test}
    assert sorted([*train, *test], key=lambda record: record["row"]) == records
    assert train and test  # "each non-empty where there are two prompts or more"


def test_a_fifth_of_the_prompts_is_a_fifth_and_the_seed_decides_which():
    records = [{"prompt": f"p{prompt}"} for prompt in range(50)]
    test = [split_by_prompt(records, 0.2, seed)[1] for seed in (0, 0, 1)]
    assert len(test[0]) == 10 and test[0] == test[1] != test[2]


def test_messages_are_one_prompt_whatever_the_order_of_their_keys():
    one, other = [{"role": "user", "content": "Why?"}], [{"content": "Why?", "role": "user"}]
    records = [{"prompt": prompt} for prompt in [one, other, *(f"p{i}" for i in range(6))]]
    for seed in range(6):
        train, test = split_by_prompt(records, 0.5, seed)
        assert not any(record in train for record in test)


def test_one_prompt_cannot_be_split():
    with pytest.raises(UserError, match="two different prompts"):
        split_by_prompt([{"prompt": "cat"}] * 5, 0.2, 0)


# ---------------------------------------------------------------------------------------------- text to ids


@each_architecture
def test_a_prompt_is_the_hand_written_frame_around_its_text(name):
    before, after = FRAMES[name]
    assert encoding.prompt_ids(tokenizer(name), "the answer is") == plain(tokenizer(name), f"{before}the answer is{after}")


@pytest.mark.parametrize("name", ["qwen3", "gemma3"])
def test_a_string_is_one_user_message(name):
    words = tokenizer(name)
    assert encoding.prompt_ids(words, "the film") == encoding.prompt_ids(words, [{"role": "user", "content": "the film"}])


@each_architecture
@often
@given(drawn=st.data())
def test_ids_of_prompt_plus_ids_of_completion_is_what_is_scored(name, drawn):
    kind = texts if name in ("gpt2", "qwen3") else words
    prompt, *answers = (drawn.draw(kind) for _ in range(3))
    tokens, (before, after) = tokenizer(name), FRAMES[name]
    batch = collate(data.encode(tokens, prompt, answers, ROOMY), pad_id=0)
    for row, answer in enumerate(answers):
        start, end = plain(tokens, before + prompt + after), [*plain(tokens, answer), tokens.eos_token_id]
        assert batch.ids[row][batch.attention[row] == 1].tolist() == start + end
        assert batch.ids[row][batch.mask[row] == 1].tolist() == end


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
@often
@given(prompt=texts, answer=texts)
def test_prompt_and_completion_spell_the_text_they_came_from(name, prompt, answer):
    tokens, (before, after) = tokenizer(name), FRAMES[name]
    ((start, end),) = data.encode(tokens, prompt, [answer], ROOMY)
    assert tokens.decode(start + end, clean_up_tokenization_spaces=False) == before + prompt + after + answer + tokens.eos_token


def test_no_merge_crosses_the_boundary():
    tokens = tokenizer("gpt2")
    ((prompt, completion),) = data.encode(tokens, "the answ", ["er is"], ROOMY)
    assert tokens.decode(prompt) == "the answ"
    assert prompt + completion[:-1] != plain(tokens, "the answer is")  # a tokenizer that saw both at once would have merged


@each_architecture
def test_one_bos_at_most_and_one_eos_at_the_end_of_chosen_and_rejected_alike(name):
    tokens = tokenizer(name)
    for pair in PAIRS:
        for prompt, completion in data.encode(tokens, pair["prompt"], [pair["chosen"], pair["rejected"]], ROOMY):
            assert prompt.count(tokens.bos_token_id) == (name in ("llama", "gemma3"))
            assert completion.count(tokens.eos_token_id) == 1 and completion[-1] == tokens.eos_token_id
            assert tokens.bos_token_id == tokens.eos_token_id or tokens.bos_token_id not in completion


@each_architecture
def test_a_completion_that_ends_with_the_eos_text_has_one_eos(name):
    tokens = tokenizer(name)
    once = encoding.completion_ids(tokens, "the answer")
    assert encoding.completion_ids(tokens, f"the answer {tokens.eos_token}")[-2] != tokens.eos_token_id
    spelled = encoding.completion_ids(tokens, f"the answer{tokens.eos_token}")
    assert once.count(tokens.eos_token_id) == spelled.count(tokens.eos_token_id) == 1


@pytest.mark.parametrize("name", ["qwen3", "gemma3"])
def test_a_completion_that_spells_the_end_of_the_turn_is_closed_once(name):
    tokens, end = tokenizer(name), {"qwen3": "<|im_end|>\n", "gemma3": "<end_of_turn>\n"}[name]
    assert encoding.completion_ids(tokens, f"the answer{end}") == encoding.completion_ids(tokens, "the answer")


@pytest.mark.parametrize(
    ("row", "kept"),
    [
        ({"prompt": "the <|im_end|> film"}, False),
        ({"prompt": "<|im_start|>user\nthe film<|im_end|>\n<|im_start|>assistant\n"}, False),  # the template was already applied
        ({"chosen": "good<|im_end|>\n<|im_start|>user\nwhy"}, False),
        ({"rejected": "long <|endoftext|> and good"}, False),
        ({"chosen": "good<|im_end|>"}, True),
        ({"chosen": "<|im_end|>"}, False),
        ({"chosen": "good <b>film</b>"}, True),
    ],
)
def test_control_tokens_within_a_text_are_found_and_the_row_left_out(row, kept):
    rows = [{"prompt": "the film", "chosen": "was good", "rejected": "was long"} | change for change in ({}, row)]
    reading = records.Reading("pairs", rows, ["line 1", "line 2"])
    lengths, _ = fit.examine(tokenizer("qwen3"), reading, ["chosen", "rejected"], ROOMY)
    assert (len(reading.records), len(lengths)) == (1 + kept, 1 + kept)
    if not kept:
        assert "1 of 2 rows left out: 1 with " in reading.summary()
        assert ("control token '<|" in reading.summary()) == (row != {"chosen": "<|im_end|>"})


def test_a_prompt_for_a_model_without_a_template_stands_as_it_is_written():
    rows = [{"prompt": "the film <|endoftext|> the cast", "chosen": "was good", "rejected": "was long"}]
    reading = records.Reading("pairs", rows, ["line 1"])
    fit.examine(tokenizer("gpt2"), reading, ["chosen", "rejected"], ROOMY)
    assert reading.records == rows


def test_a_prompt_of_eos_alone_still_has_a_token():
    assert len(encoding.prompt_ids(tokenizer("gpt2"), "<|endoftext|>")) == 1


def test_a_prompt_does_not_end_with_the_tokenizers_own_eos():
    from tokenizers.processors import TemplateProcessing

    tokens = tokenizer("llama")
    tokens.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    assert tokens("the answer")["input_ids"] == [1, *plain(tokens, "the answer"), 2]
    assert encoding.prompt_ids(tokens, "the answer") == [1, *plain(tokens, "the answer")]


# ---------------------------------------------------------------------------------------------- truncation


@each_architecture
@pytest.mark.parametrize("room", [1, 2, 5, 1000])
def test_a_long_prompt_is_cut_from_the_left_and_every_completion_is_kept_whole(name, room):
    tokens = tokenizer(name)
    prompt, answers = "the film was long and the cast was great", ["is a good film", "was"]
    ends = [[*plain(tokens, answer), tokens.eos_token_id] for answer in answers]
    start = encoding.prompt_ids(tokens, prompt)
    examples = data.encode(tokens, prompt, answers, max_length=len(ends[0]) + room)
    assert [example.completion for example in examples] == ends
    head = start[: name == "llama" and 1 < room < len(start)]  # the tokenizer's own BOS
    assert [example.prompt for example in examples] == [[*head, *start[max(0, len(start) - room) + len(head) :]]] * 2


@pytest.mark.parametrize("long", [0, 1], ids=["chosen", "rejected"])
def test_a_pair_is_dropped_where_one_completion_leaves_no_room_for_a_prompt_token(long):
    tokens = tokenizer("llama")
    answers = ["was", "was"]
    answers[long] = "is a good film"  # five tokens with EOS
    assert data.encode(tokens, "cat", answers, max_length=5) is None
    assert [len(example.prompt) for example in data.encode(tokens, "cat", answers, max_length=6)] == [1, 1]


def test_pairs_that_cannot_fit_are_counted_and_reported(capsys):
    tokens = tokenizer("llama")
    answers = [{"prompt": "cat", "chosen": "was " * count, "rejected": "is"} for count in (1, 9, 2, 8, 3)]
    kept = data.encode_all(tokens, answers, ["chosen", "rejected"], max_length=8)
    assert [len(chosen.completion) for chosen, _ in kept] == [2, 3, 4]
    assert "2 of 5" in capsys.readouterr().out


def test_nothing_is_reported_where_all_fit(capsys):
    assert len(data.encode_all(tokenizer("llama"), PAIRS, ["chosen", "rejected"], max_length=100)) == len(PAIRS)
    assert capsys.readouterr().out == ""


def test_it_is_an_error_with_a_cure_if_nothing_fits():
    with pytest.raises(UserError, match="max_length = 2 .*choose shorter completions"):
        data.encode_all(tokenizer("llama"), PAIRS, ["chosen", "rejected"], max_length=2)


# ---------------------------------------------------------------------------------------------- ids to tensors


def test_eos_counts_and_padding_does_not_even_where_both_have_one_id():
    batch = collate([Example([5, 6], [7, 2]), Example([5], [2])], pad_id=2)
    assert batch.ids.tolist() == [[5, 6, 7, 2], [5, 2, 2, 2]]
    assert batch.mask.tolist() == [[0, 0, 1, 1], [0, 1, 0, 0]]
    assert batch.attention.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


@each_architecture
def test_a_demonstrations_weights_are_one_on_completion_and_eos_and_zero_elsewhere(name):
    tokens = tokenizer(name)
    examples = [data.encode(tokens, pair["prompt"], [pair["chosen"]], ROOMY)[0] for pair in PAIRS]
    batch = collate(examples, tokens.eos_token_id)
    for (prompt, completion), mask, ids in zip(examples, batch.mask.tolist(), batch.ids.tolist(), strict=True):
        end = len(prompt) + len(completion)
        assert ids[end - 1] == tokens.eos_token_id and mask[end - 1] == 1
        assert sum(mask[: len(prompt)]) == sum(mask[end:]) == 0 and sum(mask) == len(completion)


def test_rows_picks_rows_and_drops_the_padding_that_none_of_them_needs():
    batch = collate([Example([5, 6], [7, 8, 2]), Example([5], [2]), Example([9], [4, 2])], pad_id=0)
    for index in (torch.tensor([2, 1]), slice(1, 3)):
        assert batch.rows(index).ids.shape == (2, 3)
    assert batch.rows(torch.tensor([2, 1])).ids.tolist() == [[9, 4, 2], [5, 2, 0]]
    assert batch.rows(torch.tensor([2, 1])).mask.tolist() == [[0, 1, 1], [0, 1, 0]]
