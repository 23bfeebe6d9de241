"""Online DPO as a stage: where its pairs come from, what it descends, and that it learns."""

import pytest
import torch
from architectures import PROMPTS, build, plain_logps, shaken
from test_stages import at_once, gradients, length_score, online_config

from alignlab import online
from alignlab.data import Example
from alignlab.losses import dpo_loss


def drawn_of(policy, score=length_score, seed=0, **settings):
    config = online_config(**settings)
    prompts = [prompt for prompt in PROMPTS for _ in range(2)]
    return online.draw(policy, score, prompts, config, torch.Generator().manual_seed(seed)), config


def test_of_two_answers_to_a_prompt_the_better_scored_is_the_chosen_one():
    drawn, _ = drawn_of(shaken(build("llama").policy(rank=2)), score=lambda samples: torch.arange(len(samples)) % 3 * 1.0)
    prompts = drawn.samples.prompts
    assert [prompts[row] for row in drawn.chosen] == [prompts[row] for row in drawn.rejected] == list(PROMPTS)
    assert (drawn.scores[drawn.chosen] >= drawn.scores[drawn.rejected]).all()
    assert sorted(torch.cat([drawn.chosen, drawn.rejected]).tolist()) == list(range(2 * len(PROMPTS)))


def test_an_answer_that_did_not_end_loses_against_one_that_did():
    drawn, _ = drawn_of(shaken(build("llama").policy(rank=2)), score=lambda samples: torch.zeros(len(samples)), max_new_tokens=12)
    stopped = drawn.samples.stopped
    differ = stopped[drawn.chosen] != stopped[drawn.rejected]
    assert differ.any() and stopped[drawn.chosen][differ].all()


@pytest.mark.parametrize(("every", "steps", "draws"), [(1, 4, [8] * 4), (2, 4, [16, 16]), (3, 4, [24, 8]), (9, 4, [32])])
def test_pairs_are_drawn_anew_after_so_many_steps(every, steps, draws):
    """Counted in pairs of 2 completions; none is drawn that no step will use."""
    seen = []
    score = lambda samples: seen.append(len(samples) // 2) or length_score(samples)  # noqa: E731
    metrics = list(online.train(build("llama").policy(rank=2), score, PROMPTS, online_config(every=every, steps=steps)))
    assert seen == draws
    assert ["kl" in each for each in metrics] == [step % every == 0 for step in range(steps)]


def test_drawn_at_once_all_pairs_come_from_the_reference_and_drawn_anew_they_do_not():
    def kls(every):
        policy = build("llama").policy(rank=2)
        config = online_config(every=every, steps=6, learning_rate=3e-2)
        return [metrics["kl"] for metrics in online.train(policy, length_score, PROMPTS, config) if "kl" in metrics]

    assert kls(6) == [pytest.approx(0, abs=1e-5)]
    assert kls(1)[-1] > 1e-3


def test_a_step_descends_dpos_loss_of_plain_log_probs():
    policy = shaken(build("llama").policy(rank=2))
    drawn, config = drawn_of(policy, learning_rate=0.0, beta=0.3)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.0)
    pairs = torch.arange(len(PROMPTS))
    metrics = online.update(policy, optimizer, drawn, pairs, config)
    got = [gradient * max(1.0, metrics["gradient_norm"]) for gradient in gradients(policy)]
    batch = drawn.samples.batch

    def plain(rows, reference):
        examples = [
            Example(batch.ids[row][(batch.attention - batch.mask)[row].bool()].tolist(), batch.ids[row][batch.mask[row].bool()].tolist())
            for row in rows.tolist()
        ]
        return torch.stack([plain_logps(policy, example, reference=reference).sum() for example in examples])

    four = [plain(rows, reference) for reference in (False, True) for rows in (drawn.chosen, drawn.rejected)]
    assert metrics["loss"] == pytest.approx(dpo_loss(*four, beta=0.3).item(), rel=1e-4)
    assert metrics["chosen_logps"] == pytest.approx(four[0].mean().item(), rel=1e-4)
    optimizer.zero_grad()
    logps = [(policy.logps(batch.rows(rows)) * batch.rows(rows).mask).sum(-1) for rows in (drawn.chosen, drawn.rejected)]
    dpo_loss(*logps, *four[2:], beta=0.3).backward()
    for one, other in zip(got, gradients(policy), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_the_whole_of_what_it_reports_is_what_it_says_that_it_reports():
    policy = build("llama").policy(rank=2)
    reported = set().union(*online.train(policy, length_score, PROMPTS, online_config(), judge=length_score))
    assert reported == set(online.STAGE.metrics) | {"stage", "step", "steps"}


def test_it_raises_the_reward_and_a_higher_beta_stays_nearer():
    def ended(beta):
        sizes = {"steps": 40, "batch_size": 32, "max_new_tokens": 3, "missing_eos_score": 0.0, "learning_rate": 3e-2}
        *_, last = online.train(build("llama").policy(rank=None), at_once, PROMPTS, online_config(beta=beta, **sizes))
        return last

    near_one, far = ended(5.0), ended(0.1)
    assert far["reward"] > 0.5 and far["kl"] > 2 * near_one["kl"] > 0


@pytest.mark.parametrize(("settings", "said"), [({"beta": 0.0}, "beta must be > 0 for online DPO"), ({"every": 0}, "every must be >= 1")])
def test_a_config_that_makes_no_sense_is_named(settings, said):
    assert said in online.check(online_config(**settings))
    assert online.check(online_config()) is None
