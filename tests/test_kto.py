"""KTO as a stage: what it reads of unpaired answers, what it descends, and that it learns."""

import pytest
import torch
from architectures import PAIRS, build, plain_logps, shaken
from test_stages import gradients

from alignlab import kto
from alignlab.data import Example, encode
from alignlab.losses import kto_loss


def config(**settings):
    return kto.Config(**{"batch_size": 8, "micro_batch_size": 3, "epochs": 2, "learning_rate": 3e-3} | settings)


def examples_of(policy, answers):
    return [encode(policy.tokenizer, answer["prompt"], [answer["completion"]], 64)[0] for answer in answers]


def test_a_pair_becomes_two_answers_of_which_one_is_desirable():
    answers = kto.unpaired(PAIRS[:2])
    assert [answer["desirable"] for answer in answers] == [True, False, True, False]
    assert [answer["completion"] for answer in answers] == [text for pair in PAIRS[:2] for text in (pair["chosen"], pair["rejected"])]
    assert [answer["prompt"] for answer in answers] == [pair["prompt"] for pair in PAIRS[:2] for _ in range(2)]


def test_the_reference_point_is_of_each_prompt_with_the_next_ones_answer():
    policy = shaken(build("llama").policy(rank=2))
    examples = examples_of(policy, kto.unpaired(PAIRS[:2]))
    mixed = [Example(examples[i].prompt, examples[(i + 1) % 4].completion) for i in range(4)]
    ratios = [(plain_logps(policy, one) - plain_logps(policy, one, reference=True)).sum() for one in mixed]
    assert kto.reference_point(policy, examples).item() == pytest.approx(max(torch.stack(ratios).mean().item(), 0), rel=1e-3, abs=1e-4)


def test_a_single_answer_has_no_neighbour():
    policy = shaken(build("llama").policy(rank=2))
    assert kto.reference_point(policy, examples_of(policy, kto.unpaired(PAIRS[:1]))[:1]).item() == 0


def test_a_step_descends_ktos_loss_of_plain_log_probs():
    policy = shaken(build("llama").policy(rank=2))
    answers = kto.unpaired(PAIRS[:4])
    steps = kto.train(policy, answers, config(learning_rate=0.0, epochs=1, undesirable_weight=2.0))
    metrics = next(steps)
    got = [gradient * max(1.0, metrics["gradient_norm"]) for gradient in gradients(policy)]
    good = torch.tensor([answer["desirable"] for answer in answers])
    logps, reference = (
        torch.stack([plain_logps(policy, one, reference=side).sum() for one in examples_of(policy, answers)]) for side in (False, True)
    )
    by_hand = kto_loss(logps, reference, good, metrics["reference_point"], 0.5, 1.0, 2.0)
    assert metrics["loss"] == pytest.approx(by_hand.item(), rel=1e-4)
    assert metrics["desirable_reward"] == pytest.approx(0.5 * (logps - reference)[good].mean().item(), rel=1e-3, abs=1e-4)
    assert any(gradient.abs().max() > 0 for gradient in got)


def test_the_loss_starts_at_half_the_weight_and_desirable_answers_gain():
    policy = build("llama").policy(rank=2)
    first, *_, last = kto.train(policy, kto.unpaired(PAIRS), config(epochs=12, learning_rate=1e-2))
    assert first["loss"] == pytest.approx(0.5, abs=1e-4) and first["reference_point"] == pytest.approx(0, abs=1e-4)
    assert last["loss"] < 0.45 and last["desirable_reward"] > last["undesirable_reward"] + 0.3


def test_answers_of_one_kind_alone_can_be_learned_from():
    answers = [answer for answer in kto.unpaired(PAIRS) if answer["desirable"]]
    metrics = list(kto.train(build("llama").policy(rank=2), answers, config(epochs=6, learning_rate=1e-2)))
    assert metrics[-1]["desirable_logps"] > metrics[0]["desirable_logps"] and metrics[-1]["undesirable_reward"] == 0


def test_the_whole_of_what_it_reports_is_what_it_says_that_it_reports():
    reported = set().union(*kto.train(build("llama").policy(rank=2), kto.unpaired(PAIRS), config()))
    added = {"kl", "length", "stop_rate", "gold"}  # by the pipeline, ten times over the stage
    assert reported | added == set(kto.STAGE.metrics) | {"stage", "step", "steps"}


@pytest.mark.parametrize(("settings", "said"), [({"beta": 0.0}, "must be > 0 for KTO"), ({"batch_size": 1}, "batch_size must be >= 2")])
def test_a_config_that_makes_no_sense_is_named(settings, said):
    assert said in kto.check(config(**settings)) and kto.check(config()) is None
