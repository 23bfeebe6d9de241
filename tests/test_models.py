"""One base and small differences: scoring without regard to padding, adapters that keep to themselves, export to plain tools."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from architectures import (
    PAIRS,
    batch_of,
    build,
    copies,
    each_architecture,
    identical,
    network,
    plain_logits,
    plain_logps,
    random_examples,
    shaken,
    tokenizer,
)
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, MambaConfig

from alignlab import models
from alignlab.base import positions
from alignlab.data import Example, encode
from alignlab.errors import UserError
from alignlab.models import Base, RewardModel, ValueHead, load

near = {"rtol": 0, "atol": 1e-5}


def completion_part(values, batch):
    """The completion tokens' values, row after row."""
    return values[batch.mask.bool()]


# ---------------------------------------------------------------------------------------------- padding


@each_architecture
def test_log_probs_of_a_sequence_depend_neither_on_padding_nor_on_company(name):
    policy = shaken(build(name).policy(rank=2))
    examples = random_examples(policy)
    mixed = policy.logps(batch_of(policy, examples))
    for row, example in enumerate(examples):
        alone, padded = batch_of(policy, [example]), batch_of(policy, [example], right=7)
        expected = completion_part(policy.logps(alone), alone)
        torch.testing.assert_close(completion_part(policy.logps(padded), padded), expected, **near)
        torch.testing.assert_close(mixed[row][batch_of(policy, examples).mask[row].bool()], expected, **near)


@each_architecture
def test_reward_scores_depend_neither_on_padding_nor_on_company(name, monkeypatch):
    model = shaken(build(name).reward_model(rank=2))
    examples = random_examples(model)
    alone = torch.cat([model.scores(batch_of(model, [example])) for example in examples])
    assert alone.std() > 0.03
    for right in (0, 7):
        torch.testing.assert_close(model.scores(batch_of(model, examples, right=right)), alone, **near)
    monkeypatch.setattr(type(model.base), "rows_at_once", 2)
    torch.testing.assert_close(model.score_all(batch_of(model, examples)), alone, **near)


@each_architecture
def test_the_score_is_read_at_the_last_real_token_whichever_side_is_padded(name):
    model = shaken(build(name).reward_model(rank=2))
    for example in random_examples(model):
        with model.base.using(model.adapter):
            ids = torch.tensor([example.prompt + example.completion])
            last = model.base.network.base_model(input_ids=ids).last_hidden_state[0, -1]
        for left, right in [(0, 0), (0, 5), (5, 0), (3, 4)]:
            score = model.scores(batch_of(model, [example], left=left, right=right))
            torch.testing.assert_close(score[0], model.head.weight[0] @ last, **near)


def test_positions_start_at_the_first_real_token():
    attention = torch.tensor([[1, 1, 1, 0], [0, 0, 1, 1]])
    assert (positions(attention) * attention).tolist() == [[0, 1, 2, 0], [0, 0, 0, 1]]


@each_architecture
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_scored_log_probs_are_those_of_the_plain_network_under_policy_and_reference(name, temperature):
    policy = shaken(build(name).policy(rank=2))
    examples = random_examples(policy)
    batch = batch_of(policy, examples)
    scored = policy.measure(batch, temperature)
    for values, reference in [
        (policy.logps(batch, temperature), False), (scored.logps, False),
        (policy.reference_logps(batch, temperature), True), (scored.ref_logps, True),
    ]:  # fmt: skip
        expected = torch.cat([plain_logps(policy, example, temperature, reference) for example in examples])
        torch.testing.assert_close(completion_part(values, batch), expected, **near)
        assert values[batch.mask == 0].abs().max() == 0


@each_architecture
def test_scored_kl_and_entropy_are_sums_over_the_whole_vocabulary(name):
    policy = shaken(build(name).policy(rank=2))
    examples = random_examples(policy)
    batch = batch_of(policy, examples)
    scored = policy.measure(batch)
    kl, entropy = [], []
    for prompt, completion in examples:
        p, q = (plain_logits(policy, prompt + completion, reference).double().softmax(-1) for reference in (False, True))
        steps = slice(len(prompt) - 1, len(prompt) + len(completion) - 1)
        kl.append((p * (p / q).log()).sum(-1)[steps])
        entropy.append(-(p * p.log()).sum(-1)[steps])
    torch.testing.assert_close(completion_part(scored.kl, batch).double(), torch.cat(kl), **near)
    torch.testing.assert_close(completion_part(scored.entropy, batch).double(), torch.cat(entropy), **near)
    assert torch.cat(kl).min() > 1e-4  # the two differ, so the sums say something


def test_scoring_in_parts_equals_scoring_at_once(monkeypatch):
    policy = shaken(build("gemma3").policy(rank=2))
    batch = batch_of(policy, random_examples(policy))
    whole, reference = policy.measure(batch), policy.reference_logps(batch)
    monkeypatch.setattr(models, "SCORING_ELEMENTS", 1)
    monkeypatch.setattr(models, "SCORING_ROWS", 1)
    for one, other in zip(policy.measure(batch)[:4], whole[:4], strict=True):
        torch.testing.assert_close(one, other, **near)
    torch.testing.assert_close(policy.reference_logps(batch), reference, **near)


# ---------------------------------------------------------------------------------------------- precision and dropout

DROPOUT = {
    "gpt2": {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1},
    "llama": {"attention_dropout": 0.1},
    "qwen3": {"attention_dropout": 0.1},
    "gemma3": {"attention_dropout": 0.1},
}


@each_architecture
@pytest.mark.parametrize("rank", [2, None])
def test_dropout_is_off_in_training_passes_too(name, rank):
    quiet = build(name, **DROPOUT[name]).policy(rank=rank)
    batch = batch_of(quiet, random_examples(quiet))
    assert torch.equal(quiet.logps(batch), quiet.logps(batch))
    quiet.base.network.train()  # the same network does have dropout
    assert not torch.equal(quiet.logps(batch), quiet.logps(batch))


@each_architecture
def test_the_softmax_of_a_bfloat16_network_runs_in_float32(name):
    policy = shaken(build(name, dtype=torch.bfloat16).policy(rank=2))
    every_next = [Example([7, 8, 9], [token]) for token in range(len(policy.tokenizer))]
    logps = completion_part(policy.logps(batch_of(policy, every_next)), batch_of(policy, every_next))
    assert logps.dtype == torch.float32
    assert abs(logps.double().exp().sum().item() - 1) < 1e-5  # in bfloat16 each probability is off by up to 1 in 256


# ---------------------------------------------------------------------------------------------- value head


def test_a_new_value_head_and_a_new_reward_model_say_zero():
    base = build("llama")
    hidden = torch.randn(3, 5, base.hidden_size, generator=torch.Generator().manual_seed(0))
    assert ValueHead(base)(hidden).abs().max() == 0
    model = base.reward_model(rank=2)
    assert model.scores(batch_of(model, random_examples(model))).abs().max() == 0


def test_the_value_of_a_token_sees_only_what_stood_before_it():
    head = shaken(ValueHead(build("llama")))
    hidden = torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(0))
    changed = hidden.clone()
    changed[0, 2] += 1
    assert (head(hidden) != head(changed))[0].tolist() == [False, False, False, True, True, True]


def test_the_value_head_sends_no_gradient_into_the_policy():
    policy = shaken(build("llama").policy(rank=2))
    head = shaken(ValueHead(policy.base))
    head(policy.forward(batch_of(policy, random_examples(policy)))[1]).sum().backward()
    assert all(parameter.grad is None for parameter in policy.base.network.parameters())
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_the_value_head_does_learn():
    head, hidden = ValueHead(build("llama")), torch.randn(64, 2, 16, generator=torch.Generator().manual_seed(0))
    optimizer, target = torch.optim.Adam(head.parameters(), 1e-2), hidden[:, 0].sum(-1)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (head(hidden)[:, 1] - target).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.3 * target.square().mean()


# ---------------------------------------------------------------------------------------------- adapters


@each_architecture
@pytest.mark.parametrize("rank", [2, None])
def test_a_policy_starts_as_its_reference(name, rank):
    policy = build(name).policy(rank=rank)
    scored = policy.measure(batch_of(policy, random_examples(policy)))
    torch.testing.assert_close(scored.logps, scored.ref_logps, **near)
    assert scored.kl.max() < 1e-6


def test_a_bfloat16_policy_starts_as_its_reference_and_is_measured_in_float32():
    policy = build("llama", dtype=torch.bfloat16).policy(rank=2)
    scored = policy.measure(batch_of(policy, random_examples(policy)))
    assert torch.equal(scored.logps, scored.ref_logps) and scored.kl.abs().max() < 1e-6
    assert {column.dtype for column in scored[:4]} == {torch.float32}


def test_a_full_copy_starts_as_the_reference_where_the_base_carries_other_adapters():
    base = build("qwen3")
    shaken(base.policy("other", rank=2))
    policy = base.policy(rank=None)
    scored = policy.measure(batch_of(policy, random_examples(policy)))
    torch.testing.assert_close(scored.logps, scored.ref_logps, **near)


def test_a_full_copy_trains_the_weights_and_nothing_that_other_roles_added():
    bare, base = build("qwen3"), build("qwen3")
    base.reward_model(rank=2)
    sizes = [sum(parameter.numel() for parameter in one.policy(rank=None).parameters()) for one in (bare, base)]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("others", [True, False], ids=["beside another", "alone"])
def test_a_role_asked_for_again_starts_anew_and_can_learn(others):
    base = build("gpt2")
    shaken(base.policy("policy", rank=2))
    if others:
        base.reward_model(rank=2)
    policy = base.policy("policy", rank=2)
    batch = batch_of(policy, random_examples(policy))
    torch.testing.assert_close(policy.logps(batch), policy.reference_logps(batch), **near)
    shaken(policy).logps(batch).sum().backward()
    assert policy.parameters() and all(parameter.grad.abs().sum() > 0 for parameter in policy.parameters())


def test_a_seed_gives_the_same_adapter_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    one, same, other = (copies(build("llama").policy(rank=2, seed=seed).parameters()) for seed in (0, 0, 1))
    assert identical(one, same) and not identical(one, other)
    assert torch.equal(torch.get_rng_state(), state)


@each_architecture
def test_the_role_that_trains_has_gradients_in_every_tensor_and_no_other_has_any(name):
    base = build(name)
    roles = [shaken(base.policy("first", rank=2)), shaken(base.policy("second", rank=2)), shaken(base.reward_model(rank=2))]
    batch = batch_of(roles[0], random_examples(roles[0]))
    for role in [*roles, roles[0]]:
        (role.scores(batch) if role is roles[2] else role.logps(batch)).sum().backward()
        own = role.parameters()
        assert own and all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in own)
        everyone = [*base.network.parameters(), *roles[2].head.parameters()]
        ids = {id(parameter) for parameter in own}
        assert all(parameter.grad is None for parameter in everyone if id(parameter) not in ids)
        for parameter in own:
            parameter.grad = None


@each_architecture
def test_the_roles_compute_different_things_on_one_base_in_any_order(name):
    base = build(name)
    first, second = shaken(base.policy("first", rank=2), seed=1), shaken(base.policy("second", rank=2), seed=2)
    batch = batch_of(first, random_examples(first))
    before = [first.logps(batch), second.logps(batch), first.reference_logps(batch)]
    after = [second.logps(batch), first.reference_logps(batch), first.logps(batch)]
    assert identical(before, [after[2], after[0], after[1]])
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        assert (before[one] - before[other]).abs().max() > 1e-2


@each_architecture
def test_merging_leaves_the_function_unchanged(name):
    base = build(name)
    shaken(base.policy("other", rank=2), seed=2)
    policy = shaken(base.policy("policy", rank=2))
    batch = batch_of(policy, random_examples(policy))
    before = policy.logps(batch).detach()
    merged = base.merge("policy").policy(rank=2)
    torch.testing.assert_close(merged.reference_logps(batch), before, **near)


# ---------------------------------------------------------------------------------------------- what a base refuses and prepares


def test_a_network_that_bends_its_logits_is_refused():
    words = tokenizer("gemma3")
    with pytest.raises(UserError, match="Gemma3ForCausalLM does more to its logits than a linear head; choose another"):
        Base(network("gemma3", len(words), final_logit_softcapping=1.0), words)


def test_a_network_that_says_something_else_from_its_cache_is_refused():
    words = tokenizer("llama")
    config = MambaConfig(vocab_size=len(words), hidden_size=32, num_hidden_layers=2, state_size=8)
    with pytest.raises(UserError, match="MambaForCausalLM (says something else from|cannot go on from) .*choose another model"):
        Base(AutoModelForCausalLM.from_config(config), words)


def test_a_model_folder_with_cut_weights_is_named(tmp_path):
    build("llama").save(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match="model.safetensors: cannot be read"):
        load(tmp_path, "cpu")


def test_a_tokenizer_without_eos_is_refused():
    words = tokenizer("llama")
    words.eos_token = None
    with pytest.raises(UserError, match="no EOS token"):
        Base(network("llama", len(words)), words)


@each_architecture
def test_padding_has_an_id_of_its_own_that_network_and_tokenizer_agree_on(name):
    base = build(name)
    pad = base.tokenizer.pad_token_id
    assert pad is not None and pad != base.tokenizer.eos_token_id and pad < base.network.config.vocab_size
    assert base.network.config.pad_token_id == pad


@each_architecture
def test_a_padding_id_of_its_own_takes_no_word_from_the_language(name, tmp_path):
    plain = tokenizer(name)
    build(name).save(tmp_path)
    prepared = load(tmp_path, "cpu").tokenizer  # as every stage after the first one reads it
    each = [[token] for token in range(len(plain))]
    texts = zip(
        plain.batch_decode(each, skip_special_tokens=True), prepared.batch_decode(each, skip_special_tokens=True), strict=True
    )
    assert [one for one, other in texts if one != other and "\ufffd" not in one] == []  # half a character is no word


# ---------------------------------------------------------------------------------------------- to disk and to plain tools


@each_architecture
def test_a_saved_base_is_a_plain_model_and_loads_as_the_same_base(name, tmp_path):
    base = build(name)
    base.save(tmp_path / "sft")
    example = random_examples(base)[1]
    ids = torch.tensor([example.prompt + example.completion])
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "sft", dtype=torch.float32)
    torch.testing.assert_close(plain(input_ids=ids).logits, base.network(input_ids=ids).logits, **near)
    loaded = load(tmp_path / "sft", "cpu")
    torch.testing.assert_close(loaded.network(input_ids=ids).logits, base.network(input_ids=ids).logits, **near)
    assert [encode(loaded.tokenizer, pair["prompt"], [pair["chosen"]], 99) for pair in PAIRS] == [
        encode(base.tokenizer, pair["prompt"], [pair["chosen"]], 99) for pair in PAIRS
    ]
    assert loaded.tokenizer.pad_token_id == base.tokenizer.pad_token_id == plain.config.pad_token_id


def test_a_base_is_saved_plain_while_adapters_hang_on_it(tmp_path):
    base = build("qwen3")
    policy = shaken(base.policy(rank=2))
    base.save(tmp_path / "sft")
    example = random_examples(policy)[1]
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "sft", dtype=torch.float32)
    logits = plain(input_ids=torch.tensor([example.prompt + example.completion])).logits[0]
    torch.testing.assert_close(logits, plain_logits(policy, example.prompt + example.completion, reference=True), **near)


@each_architecture
def test_the_exported_reward_model_scores_alike_in_plain_transformers_and_peft(name, tmp_path):
    base = build(name)
    base.save(tmp_path / "sft")
    model = shaken(base.reward_model(rank=2))
    model.save(tmp_path / "reward")
    examples = random_examples(model)
    expected = model.scores(batch_of(model, examples))

    words = AutoTokenizer.from_pretrained(tmp_path / "sft")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "sft", num_labels=1, dtype=torch.float32)
    plain = PeftModel.from_pretrained(plain, tmp_path / "reward").eval()
    rows = words.pad(
        {"input_ids": [prompt + completion for prompt, completion in examples]}, padding_side="right", return_tensors="pt"
    )
    assert rows["attention_mask"].min() == 0
    with torch.no_grad():
        scores = plain(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits.squeeze(-1)
    torch.testing.assert_close(scores, expected, **near)
    assert expected.std() > 0.03


@each_architecture
def test_the_exported_policy_gives_equal_logits_in_plain_transformers_and_peft(name, tmp_path):
    base = build(name)
    base.save(tmp_path / "sft")
    shaken(base.reward_model(rank=2))
    policy = shaken(base.policy(rank=2))
    policy.save(tmp_path / "policy")
    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "sft", dtype=torch.float32), tmp_path / "policy"
    )
    for prompt, completion in random_examples(policy):
        logits = plain.eval()(input_ids=torch.tensor([prompt + completion])).logits[0]
        torch.testing.assert_close(logits, plain_logits(policy, prompt + completion), **near)


def test_an_exported_adapter_says_what_it_is_for(tmp_path):
    base = build("llama")
    base.reward_model(rank=2).save(tmp_path / "reward")
    base.policy(rank=2).save(tmp_path / "policy")
    assert [PeftConfig.from_pretrained(tmp_path / name).task_type for name in ("reward", "policy")] == ["SEQ_CLS", "CAUSAL_LM"]


def test_an_exported_full_policy_is_a_plain_model(tmp_path):
    policy = shaken(build("llama").policy(rank=None))
    policy.save(tmp_path / "policy")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype=torch.float32)
    prompt, completion = random_examples(policy)[1]
    torch.testing.assert_close(
        plain(input_ids=torch.tensor([prompt + completion])).logits[0], plain_logits(policy, prompt + completion), **near
    )


def test_a_saved_reward_model_and_a_saved_policy_load_as_they_were(tmp_path):
    base, again = build("gemma3"), build("gemma3")
    model, policy = shaken(base.reward_model(rank=3)), shaken(base.policy(rank=2))
    model.save(tmp_path / "reward")
    policy.save(tmp_path / "policy")
    batch = batch_of(model, random_examples(model))
    loaded = RewardModel.load(again, tmp_path / "reward")
    again.load_adapter("policy", tmp_path / "policy")
    torch.testing.assert_close(loaded.scores(batch), model.scores(batch), **near)
    torch.testing.assert_close(models.Policy(again, "policy", again).logps(batch), policy.logps(batch), **near)


def test_a_folder_without_a_model_is_a_users_error(tmp_path):
    with pytest.raises(UserError, match="no model there that transformers can load"):
        load(tmp_path / "nothing", "cpu")


@pytest.mark.slow
def test_an_adapter_can_be_added_beside_the_torchao_that_colab_has(tmp_path):
    (tmp_path / "torchao").mkdir()
    (tmp_path / "torchao/__init__.py").write_text("")
    (tmp_path / "torchao-0.10.0.dist-info").mkdir()
    (tmp_path / "torchao-0.10.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: torchao\nVersion: 0.10.0\n")
    places = [str(tmp_path), str(Path(__file__).parent), str(Path(__file__).parents[1])]
    code = "from architectures import build; print(len(build('llama').policy(rank=2).parameters()) > 0)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(places)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "too old for peft" in done.stdout and done.stdout.endswith("True\n"), done.stderr[-1500:]


# ---------------------------------------------------------------------------------------------- strength


@each_architecture
def test_strength_scales_the_adapters_change_and_zero_is_the_reference(name):
    base = build(name)
    policy = shaken(base.policy("mine", rank=2))
    batch = batch_of(policy, random_examples(policy))
    trained = policy.logps(batch).detach()
    assert policy.strength == 1
    policy.strength = 0
    assert torch.equal(policy.logps(batch), policy.reference_logps(batch)) and policy.strength == 0
    for strength in (0.5, 3.0, -1.0):
        policy.strength = strength
        scaled = policy.logps(batch).detach()
        assert policy.strength == pytest.approx(strength)
        policy.strength = 1
        weights = [weight for key, weight in base.network.named_parameters() if ".mine." in key and "lora_B" in key]
        for weight in weights:
            weight.data *= strength
        torch.testing.assert_close(scaled, policy.logps(batch), **near)
        for weight in weights:
            weight.data /= strength
    torch.testing.assert_close(policy.logps(batch).detach(), trained, **near)


def test_what_is_saved_has_strength_one_and_a_fresh_adapter_too(tmp_path):
    base = build("qwen3")
    policy = shaken(base.policy("mine", rank=2))
    policy.save(tmp_path / "one")
    policy.strength = 2.5
    policy.save(tmp_path / "strong")
    one, strong = (load_file(tmp_path / place / "adapter_model.safetensors") for place in ("one", "strong"))
    assert one.keys() == strong.keys() and all(torch.equal(one[key], strong[key]) for key in one)
    assert (tmp_path / "one/adapter_config.json").read_text() == (tmp_path / "strong/adapter_config.json").read_text()
    assert base.policy("mine", rank=2).strength == 1


def test_strength_moves_one_adapter_alone_and_a_full_policy_has_none():
    base = build("llama")
    mine, other = shaken(base.policy("mine", rank=2)), shaken(base.policy("other", rank=2))
    batch = batch_of(other, random_examples(other))
    before = other.logps(batch).detach()
    mine.strength = 0.3
    assert other.strength == 1 and torch.equal(other.logps(batch).detach(), before)
    with pytest.raises(ValueError, match="a policy without an adapter has no strength"):
        base.policy(rank=None).strength = 0.5
