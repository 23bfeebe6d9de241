"""Sampling: what was recorded while sampling is what a plain pass says, whatever the prompts' lengths; and when it ends."""

import pytest
import torch
from architectures import FRAMES, PROMPTS, build, each_architecture, plain_logits, plain_logps, shaken, tokenizer

from alignlab import rollout
from alignlab.data import Example
from alignlab.encoding import prompt_ids
from alignlab.models import Policy
from alignlab.rollout import draw, sample

near = {"rtol": 0, "atol": 1e-5}
MANY = PROMPTS * 6


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def changed_policy(name, **settings):
    return shaken(build(name, **settings).policy(rank=2))


def rows(samples):
    """Each row as an Example: its prompt's ids and its completion's."""
    ids, mask, attention = samples.batch
    return [
        Example(i[(a == 1) & (m == 0)].tolist(), i[m == 1].tolist()) for i, m, a in zip(ids, mask, attention, strict=True)
    ]  # fmt: skip


@each_architecture
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("reference", [False, True], ids=["policy", "reference"])
def test_recorded_log_probs_are_those_of_a_plain_pass_at_that_temperature(name, temperature, reference):
    policy = changed_policy(name)
    samples = sample(policy, MANY, 12, chance(), temperature, reference)
    for row, (example, mask) in enumerate(zip(rows(samples), samples.batch.mask.bool(), strict=True)):
        torch.testing.assert_close(samples.logps[row][mask], plain_logps(policy, example, temperature, reference), **near)


@each_architecture
def test_rows_that_end_early_leave_the_memory_of_the_others_in_order(name, monkeypatch):
    policy, step = changed_policy(name), iter(range(99))

    def half_end_in_the_third_step(probabilities, generator):
        chosen = draw(probabilities, generator)
        if next(step) == 2:
            chosen[::2] = policy.tokenizer.eos_token_id
        return chosen

    monkeypatch.setattr(rollout, "draw", half_end_in_the_third_step)
    samples = sample(policy, MANY, 12, chance())
    assert samples.lengths.min() <= 3 and samples.lengths.max() > 6
    for row, (example, mask) in enumerate(zip(rows(samples), samples.batch.mask.bool(), strict=True)):
        torch.testing.assert_close(samples.logps[row][mask], plain_logps(policy, example), **near)


def test_no_pass_is_spent_once_every_answer_has_ended():
    base = build("gpt2")
    embedding, eos = base.network.get_input_embeddings().weight, base.tokenizer.eos_token_id
    base.network.transformer.ln_f.bias.data += 8 * embedding[eos]  # EOS is likely in every step
    computed = []
    base.network.transformer.register_forward_hook(lambda module, inputs, output: computed.append(len(output.last_hidden_state)))
    samples = sample(Policy(base, None, base), MANY * 3, 60, chance())
    assert samples.stopped.all() and 5 < samples.lengths.max() < 60
    assert len(computed) <= samples.lengths.max()
    assert sum(computed) <= samples.lengths.sum() / 0.5  # and few on rows that have ended before the others


@each_architecture
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_ratio_of_scored_to_recorded_log_probs_is_one(name, temperature):
    policy = changed_policy(name)
    samples = sample(policy, MANY, 12, chance(), temperature)
    for logps in (policy.logps(samples.batch, temperature), policy.measure(samples.batch, temperature).logps):
        torch.testing.assert_close((logps - samples.logps).exp(), torch.ones_like(logps), **near)
    other = 1.7 - temperature  # at another temperature it is not
    assert ((policy.logps(samples.batch, other) - samples.logps).exp() - 1).abs().max() > 0.1


@each_architecture
def test_prompts_stand_before_their_answers_without_padding_between(name):
    policy = changed_policy(name)
    samples = sample(policy, MANY, 6, chance())
    assert samples.prompts == MANY
    for prompt, example, mask, attention in zip(MANY, rows(samples), samples.batch.mask, samples.batch.attention, strict=True):
        start = prompt_ids(policy.tokenizer, prompt)
        assert example.prompt == start
        assert mask[: len(start)].sum() == 0
        assert attention.tolist() == [1] * (len(start) + len(example.completion)) + [0] * (
            len(attention) - len(start) - len(example.completion)
        )


@each_architecture
def test_an_answer_ends_with_the_first_token_that_ends_a_turn_or_at_the_limit(name):
    policy = changed_policy(name)
    samples = sample(policy, MANY * 4, 25, chance())
    assert 0 < samples.stopped.sum() < len(samples)  # both kinds occur
    for example, stopped, length in zip(rows(samples), samples.stopped, samples.lengths, strict=True):
        assert length == len(example.completion)
        assert stopped == (example.completion[-1] in policy.base.ends)
        assert stopped or length == 25
        assert not set(policy.base.ends) & set(example.completion[:-1])


def test_an_answer_that_ends_with_the_templates_end_of_turn_has_stopped():
    policy = changed_policy("gemma3")
    turn = policy.tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert policy.base.ends == [policy.tokenizer.eos_token_id, turn]
    samples = sample(policy, MANY * 4, 25, chance())
    lasts = {example.completion[-1] for example, stopped in zip(rows(samples), samples.stopped, strict=True) if stopped}
    assert lasts == set(policy.base.ends)
    assert not any("<end_of_turn>" in text for text in samples.texts)


@each_architecture
def test_the_text_of_an_answer_is_its_tokens_without_special_ones(name):
    samples = sample(changed_policy(name), MANY, 10, chance())
    plain = tokenizer(name)
    for example, text in zip(rows(samples), samples.texts, strict=True):
        assert text == plain.decode(example.completion, skip_special_tokens=True)


def test_nothing_is_recorded_outside_completions():
    samples = sample(changed_policy("llama"), MANY, 10, chance())
    assert samples.logps[samples.batch.mask == 0].abs().max() == 0
    assert samples.logps[samples.batch.mask == 1].max() < 0


@each_architecture
def test_a_long_prompt_keeps_its_end_and_the_templates_head_and_leaves_room_for_the_answer(name):
    policy = changed_policy(name)
    prompt = "the film was long and the cast was great " * 12
    (example,) = rows(sample(policy, [prompt], 8, chance()))
    room = 64 - 8  # the networks here have 64 positions
    whole = prompt_ids(policy.tokenizer, prompt)
    frame = FRAMES[name][0]  # of a tokenizer without a template, its BOS
    head = policy.tokenizer(frame, add_special_tokens=False)["input_ids"]
    assert example.prompt == [*head, *whole[-(room - len(head)) :]]


def test_the_generator_is_the_only_source_of_chance():
    policy = changed_policy("qwen3")
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = sample(policy, MANY, 8, chance(3))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert sample(policy, MANY, 8, chance(3)).texts == one.texts
    assert sample(policy, MANY, 8, chance(4)).texts != one.texts


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature must be > 0"):
        sample(changed_policy("llama"), PROMPTS, 4, chance(), temperature)


def test_draws_fall_as_often_as_their_probabilities_say():
    probabilities = torch.tensor([0.5, 0.0, 0.2, 0.3])
    drawn = draw(probabilities.expand(20000, 4), chance()).squeeze(1)
    seen = drawn.bincount(minlength=4) / 20000
    assert seen[1] == 0
    assert ((seen - probabilities).abs() <= 4 * (probabilities * (1 - probabilities) / 20000).sqrt()).all()


def test_what_has_no_probability_is_never_drawn(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *shape, **settings: torch.zeros(shape))  # the lowest number that chance can give
    assert draw(torch.tensor([[0.0, 0.4, 0.6]]), chance()).tolist() == [[1]]


@each_architecture
def test_first_tokens_fall_as_often_as_the_plain_network_says(name):
    policy, count, temperature = changed_policy(name), 3000, 0.7
    prompt = PROMPTS[1]
    samples = sample(policy, [prompt] * count, 1, chance(), temperature)
    firsts = samples.batch.ids[samples.batch.mask == 1]
    expected = (plain_logits(policy, prompt_ids(policy.tokenizer, prompt))[-1] / temperature).softmax(-1)
    seen = firsts.bincount(minlength=len(expected)) / count
    error = (expected * (1 - expected) / count).sqrt()
    assert ((seen - expected).abs() <= 4.5 * error + 1 / count).all()
