"""What is loaded is what was given: folders that are refused, in one line with the cause, and the small pass that proves the rest."""

import json
import sys

import pytest
import torch
from architectures import CHATML, DEMONSTRATIONS, GEMMA_TURNS, PAIRS, build, each_architecture, network, shaken, tokenizer
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    Gemma3Config,
    LlamaConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from alignlab import base as base_module
from alignlab import data, encoding, sft
from alignlab.errors import UserError
from alignlab.models import Base, load
from alignlab.probe import probe

WIDTHS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


def save(model, folder, words=None):
    model.save_pretrained(folder)
    (words or tokenizer("qwen3")).save_pretrained(folder)
    return folder


def settings(folder, name="config.json", **changed):
    """Change a JSON file of a model's folder."""
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def refusal(folder):
    with pytest.raises(UserError) as error:
        load(folder, "cpu")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def folder(tmp_path):
    """A whole model, to be damaged."""
    return save(network("qwen3", len(tokenizer("qwen3"))), tmp_path / "model")


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.float8_e4m3fn])
@pytest.mark.parametrize("method", [None, {"quant_method": "home-made"}], ids=["unsaid", "unknown"])
def test_quantised_weights_are_not_taken_for_plain_ones(folder, kind, method):
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(weights | {name: weights[name].to(kind)}, folder / "model.safetensors", metadata={"format": "pt"})
    settings(folder, **({"quantization_config": method} if method else {}))
    assert f"weights are quantised ({name} as" in refusal(folder)


def test_a_tokenizer_that_cannot_encode_is_refused(folder):
    settings(folder, "tokenizer_config.json", model_max_length="many")
    assert "the tokenizer cannot be loaded" in refusal(folder)


def test_missing_weights_are_named(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    del weights["lm_head.weight"]
    save_file(weights, path, {"format": "pt"})
    assert "weights are missing, and would be random: lm_head.weight" in refusal(folder)


def test_mismatched_weights_are_refused(folder):
    settings(folder, intermediate_size=32)
    assert "mlp" in refusal(folder)


def test_weights_without_a_place_are_named(folder):
    settings(folder, num_hidden_layers=1, layer_types=["full_attention"])
    assert "no place for some of the weights: model.layers.1." in refusal(folder)


def test_a_reward_models_folder_is_refused_by_its_kind(tmp_path):
    words = tokenizer("qwen3")
    config = LlamaConfig(vocab_size=len(words), num_labels=1, pad_token_id=0, **WIDTHS)
    folder = save(AutoModelForSequenceClassification.from_config(config), tmp_path / "reward")
    assert "reward model" in refusal(folder) and "lm_head.weight is missing" in refusal(folder)
    settings(folder, architectures=None)  # without its name, by its weights
    assert "weights are missing, and would be random: lm_head.weight" in refusal(folder)


@pytest.mark.parametrize("kind", ["bart", "t5", "bert"])
def test_other_kinds_of_model_are_refused_by_that_name(tmp_path, kind):
    size = len(tokenizer("qwen3"))
    if kind == "bart":
        config = BartConfig(vocab_size=size, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                            decoder_attention_heads=2, encoder_ffn_dim=48, decoder_ffn_dim=48, max_position_embeddings=64)  # fmt: skip
        model = BartForConditionalGeneration(config)
    elif kind == "t5":
        model = T5ForConditionalGeneration(T5Config(vocab_size=size, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4))
    else:
        model = BertForMaskedLM(BertConfig(vocab_size=size, **WIDTHS))
    said = refusal(save(model, tmp_path / kind))
    assert ("a masked language model" if kind == "bert" else "an encoder-decoder model") in said and kind in said


def test_a_folder_without_a_tokenizer_says_so(tmp_path):
    network("qwen3", 300).save_pretrained(tmp_path / "checkpoint")
    assert "checkpoint: the tokenizer is missing; copy its files" in refusal(tmp_path / "checkpoint")


@pytest.mark.parametrize("place", ["config.json", "tokenizer_config.json"])
def test_code_of_its_own_is_refused_and_never_imported(folder, monkeypatch, place):
    monkeypatch.setattr("builtins.input", lambda *words: "y")
    (folder / "own.py").write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\nclass Own: pass\n")
    kinds = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own", "AutoTokenizer": ["own.Own", "own.Own"]}
    settings(folder, place, auto_map=kinds, **({"model_type": "own"} if place == "config.json" else {}))
    assert f"code of its own (auto_map in {place}), which alignlab never runs" in refusal(folder)
    assert not (folder / "ran").exists() and not any("own" == name.split(".")[-1] for name in sys.modules)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights_are_refused_by_name_unopened(folder, name):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"not even a pickle")
    said = refusal(folder)
    assert f"{name}: weights in a pickle file" in said and "trust" in said


def test_no_weights_and_weights_of_another_format_are_named(folder):
    (folder / "model.safetensors").rename(folder / "model.gguf")
    assert "GGUF" in refusal(folder)
    (folder / "model.gguf").unlink()
    assert "no weights there" in refusal(folder)


@pytest.mark.parametrize("added", ["pad", "eos", "word", "template"])
def test_an_id_outside_the_embedding_is_refused(tmp_path, added):
    words = tokenizer("qwen3")
    model = network("qwen3", len(words))
    if added == "word":
        words.add_tokens(["unheard", "of"])
    elif added == "template":
        words.add_special_tokens({"extra_special_tokens": ["<|turn|>"]})
        words.chat_template = CHATML.replace("<|im_start|>", "<|turn|>")
    else:
        words.add_special_tokens({f"{added}_token": "[NEW]"})
    said = refusal(save(model, tmp_path / "model", words))
    expected = {"word": "2 of the tokenizer's tokens lie outside", "template": "the chat template writes a token outside"}
    assert expected.get(added, f"the {added} id {len(words) - 1} lies outside") in said and "resize_token_embeddings" in said


def test_a_special_token_that_nothing_uses_may_lie_outside_the_embedding(tmp_path):
    words = tokenizer("qwen3")
    model = network("qwen3", len(words))
    words.add_special_tokens({"extra_special_tokens": ["<|image|>"]})
    assert load(save(model, tmp_path / "model", words), "cpu").ends


def test_what_peft_cannot_adapt_is_refused_in_one_line(tmp_path, monkeypatch):
    def refuses(*words, **more):
        raise ValueError("Target modules are not supported.\nTry others.")

    save(network("qwen3", len(tokenizer("qwen3"))), tmp_path / "model")
    monkeypatch.setattr(base_module, "get_peft_model", refuses)
    assert "peft cannot adapt Qwen3ForCausalLM (Target modules are not supported." in refusal(tmp_path / "model")


def test_a_network_that_ignores_padding_is_refused(monkeypatch):
    base = build("gpt2")
    monkeypatch.setattr(base_module, "positions", lambda attention: torch.arange(attention.shape[1]).expand_as(attention))
    with pytest.raises(UserError, match="something else while sampling than while scoring"):
        probe(base)


@each_architecture
def test_the_probe_leaves_the_base_as_it_was(name):
    base = build(name)
    before = {key: value.clone() for key, value in base.network.state_dict().items()}
    state = torch.get_rng_state()
    probe(base)
    assert base.network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in base.network.state_dict().items())
    assert torch.equal(state, torch.get_rng_state()) and base._adapters is None
    assert not any(parameter.requires_grad for parameter in base.network.parameters())


def test_settings_under_text_config_are_found(tmp_path):
    words = tokenizer("qwen3")
    text = WIDTHS | {"vocab_size": len(words), "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 96, "sliding_window": 16}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
    vision["patch_size"] = 14
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=3, boi_token_index=1,
                          eoi_token_index=2)  # fmt: skip
    base = load(save(AutoModelForCausalLM.from_config(config), tmp_path / "model"), "cpu")
    assert base.max_length == 96 and base.vocabulary == len(words)
    examples = [example for (example,) in data.encode_all(words, DEMONSTRATIONS, ["completion"], 64)]
    batch = data.collate(examples, base.tokenizer.pad_token_id)
    scored = base.policy().measure(batch)
    assert torch.allclose(scored.logps, scored.ref_logps, atol=1e-5) and scored.logps.sum() < 0


# ---------------------------------------------------------------------------------------------- adapters


@pytest.fixture
def trained(tmp_path):
    """An exported policy, `dpo`, beside its base, `sft`."""
    base = build("qwen3")
    base.save(tmp_path / "run/sft")
    policy = shaken(base.policy("dpo", 2))
    policy.save(tmp_path / "run/dpo")
    base.reward_model("reward", 2).save(tmp_path / "run/reward")
    return tmp_path / "run", policy


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor([[5, 9, 7, 11]])).logits


def test_an_adapters_folder_is_merged_over_its_base(trained, monkeypatch, tmp_path):
    run, policy = trained
    with policy.base.using("dpo"):
        ours = logits(policy.base.network)
    assert torch.allclose(logits(load(run / "dpo", "cpu").network), ours, atol=1e-5)
    moved = run.rename(tmp_path / "moved")  # the path in its config is gone: then the sft beside it
    assert torch.allclose(logits(load(moved / "dpo", "cpu").network), ours, atol=1e-5)
    (moved / "sft").rename(moved / "elsewhere")
    assert "an adapter whose base" in refusal(moved / "dpo")


def test_a_reward_models_adapter_is_refused(trained):
    assert "the adapter of a reward model" in refusal(trained[0] / "reward")


def test_an_exported_adapter_loads_by_its_own_folder_from_any_working_directory(trained, tmp_path, monkeypatch):
    run, policy = trained
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with policy.base.using("dpo"):
        ours = logits(policy.base.network)
    for folder in (run / "dpo", "../run/dpo"):
        assert torch.allclose(logits(AutoPeftModelForCausalLM.from_pretrained(folder)), ours, atol=1e-5)
        assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(folder)), ours, atol=1e-5)
    assert AutoTokenizer.from_pretrained(run / "dpo").eos_token_id == policy.tokenizer.eos_token_id


# ---------------------------------------------------------------------------------------------- the end of a turn


def ends(template=None, generation=None, config=None, eos="<|im_end|>"):
    words = tokenizer("qwen3")
    words.eos_token, words.chat_template = eos, template
    model = network("qwen3", len(words))
    model.generation_config.eos_token_id, model.config.eos_token_id = generation, config
    base = Base(model, words)
    return [words.convert_ids_to_tokens(number) for number in base.ends]


def test_the_end_is_what_tokenizer_template_generation_config_and_config_say():
    words = tokenizer("qwen3")
    text, turn = (words.convert_tokens_to_ids(token) for token in ("<|endoftext|>", "<|im_end|>"))
    assert ends() == ["<|im_end|>"]
    assert ends(CHATML, eos="<|endoftext|>") == ["<|endoftext|>", "<|im_end|>"]
    assert ends(generation=[turn, text]) == ["<|im_end|>", "<|endoftext|>"]
    assert ends(config=text) == ["<|im_end|>", "<|endoftext|>"]


def test_an_ordinary_token_ends_no_answer_whatever_a_config_left_at_its_default_says():
    assert ends(config=2 + len("<|endoftext|>"), generation=40) == ["<|im_end|>"]


def test_a_saved_model_stops_under_plain_generate_where_it_learned_to(tmp_path):
    """The config of the model that came in names another token; SFT taught the tokenizer's."""
    words = tokenizer("qwen3")
    model = network("qwen3", len(words))
    model.config.eos_token_id = model.generation_config.eos_token_id = words.convert_tokens_to_ids("<|endoftext|>")
    base = load(save(model, tmp_path / "model"), "cpu")
    policy = base.policy(rank=None)
    for _ in sft.train(policy, DEMONSTRATIONS, sft.Config(learning_rate=1e-2, epochs=40, batch_size=8, max_length=64)):
        pass
    policy.base.save(tmp_path / "sft")
    plain, words = AutoModelForCausalLM.from_pretrained(tmp_path / "sft"), AutoTokenizer.from_pretrained(tmp_path / "sft")
    ids = torch.tensor([encoding.prompt_ids(words, PAIRS[0]["prompt"])])
    answer = plain.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=30, do_sample=False)[0, ids.shape[1] :]
    assert words.decode(answer) == "is a good film<|im_end|>"


# ---------------------------------------------------------------------------------------------- templates

PARTS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'text' %}{{ c['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SYSTEM = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" + CHATML
USERS_ONLY = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('only users, please') }}{% endif %}" + CHATML
DEAF = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n<|im_end|>\n{% endfor %}<|im_start|>assistant\n"


def templated(template):
    words = tokenizer("qwen3")
    words.chat_template = template
    return words


def ask(template, prompt="the film"):
    words = templated(template)
    return words.decode(encoding.prompt_ids(words, prompt))


def test_a_template_that_reads_content_parts_gets_them():
    assert ask(PARTS) == ask(CHATML) == "<|im_start|>user\nthe film<|im_end|>\n<|im_start|>assistant\n"


def test_a_template_that_adds_a_system_turn_adds_it():
    assert ask(SYSTEM).startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nthe film")


def test_a_template_that_loses_the_text_is_refused():
    with pytest.raises(UserError, match="template loses the text of a prompt"):
        ask(DEAF)
    with pytest.raises(UserError, match="template loses the text of a prompt"):
        ask(GEMMA_TURNS.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}"),
            [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}])  # fmt: skip


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (USERS_ONLY, "refuses a prompt with the roles system, user: only users, please"),
        ("{{ 1 / 0 }}", "refuses a prompt with the roles system, user: division by zero"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "refuses a prompt with the roles"),
        ("{% if %}", "refuses a prompt with the roles"),
        ({"tool_use": CHATML, "rag": CHATML}, "chat templates named tool_use, rag, but none named default"),
    ],
    ids=["refusing roles", "dividing by zero", "recursing", "broken", "named"],
)
def test_a_template_that_fails_is_one_line(template, said):
    with pytest.raises(UserError) as error:
        ask(template, [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}])
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_model_whose_template_loses_all_text_is_refused_at_load(tmp_path):
    assert "loses the text" in refusal(save(network("qwen3", len(tokenizer("qwen3"))), tmp_path / "model", templated(DEAF)))


def test_an_empty_last_turn_of_the_assistant_is_the_one_to_be_written():
    prompt = [{"role": "user", "content": "the film"}, {"role": "assistant", "content": ""}]
    assert ask(CHATML, prompt) == ask(CHATML)


def test_a_long_prompt_keeps_the_system_turn_and_the_templates_head():
    words = templated(CHATML)
    prompt = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "the film was long " * 30}]
    whole = encoding.prompt_ids(words, prompt)
    cut = encoding.prompt_ids(words, prompt, room=60)
    assert len(cut) == 60 < len(whole)
    text = words.decode(cut)
    assert text.startswith("<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\n")
    assert text.endswith("the film was long <|im_end|>\n<|im_start|>assistant\n")
    assert len(encoding.prompt_ids(words, prompt, room=20)) == 20  # no room for the head: the end alone


@pytest.mark.parametrize(
    ("template", "prompt", "head"),
    [
        ("an answer {% for m in messages %}{{ m['content'] }}{% endfor %} is", "film", "an answer"),  # the last space merges with "film"
        (SYSTEM, "kind", "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n"),  # its own words stand in the head, too
    ],
    ids=["merging", "words of the head"],
)
def test_the_head_is_found_by_place_not_by_words(template, prompt, head):
    words = templated(template)
    cut = encoding.prompt_ids(words, [{"role": "user", "content": prompt}, {"role": "assistant", "content": "the film " * 60},
                                  {"role": "user", "content": "and the cast"}], room=90)  # fmt: skip
    assert len(cut) == 90 and words.decode(cut).startswith(head) and "and the cast" in words.decode(cut)


def test_prompts_that_are_cut_are_counted(capsys):
    words = templated(CHATML)
    rows = [{"prompt": "the film " * count, "completion": "was good"} for count in (1, 200, 200)]
    assert len(data.encode_all(words, rows, ["completion"], 128)) == 3
    assert "2 of 3 prompts do not fit beside their answers into 128 tokens" in capsys.readouterr().out


def test_an_index_that_names_other_files_than_the_folders_safetensors_is_refused(folder):
    for file in ("pytorch_model.bin", "../other/model.safetensors"):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": file}}))
        assert "reads safetensors in the model's own folder only" in refusal(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    assert "cannot be read" in refusal(folder)


def test_an_adapter_that_does_not_fit_its_base_is_refused_not_merged_in_part(trained):
    file = trained[0] / "dpo/adapter_model.safetensors"
    weights = load_file(file)
    save_file({key.replace("layers.", "blocks."): value for key, value in weights.items()}, file)
    assert "does not fit its base" in refusal(trained[0] / "dpo")
    save_file(dict(list(weights.items())[::2]), file)
    assert "does not fit its base" in refusal(trained[0] / "dpo")


def test_an_adapters_own_template_is_the_one_that_counts(trained):
    settings_of = trained[0] / "dpo"
    words = AutoTokenizer.from_pretrained(settings_of)
    words.chat_template = SYSTEM
    words.save_pretrained(settings_of)
    assert load(settings_of, "cpu").tokenizer.chat_template == SYSTEM
