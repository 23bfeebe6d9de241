"""Likelihood displacement: which pairs, what training did to them, and what the lab reads off the sweep."""

import random

import pytest
import torch

from alignlab import data, displacement, dpo, evaluate, losses, records, rollout, world
from alignlab.lab import answers, displace
from alignlab.models import load
from alignlab.tools import sweep_displace

PAIRS = records.read_preferences(records.data_folder() / "preferences_test.jsonl")[:300]


@pytest.fixture(scope="module")
def base():
    return load(records.data_folder() / "base")


def moved(base, name: str, size: float = 0.05):
    """A policy whose adapter is random, so that it has left its reference."""
    policy = base.policy(name, rank=4)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in policy.parameters():
            weights.add_(size * torch.randn(weights.shape, generator=rng))
    return policy


# ---------------------------------------------------------------------------------------------- pairs


def test_likeness_is_1_for_equal_answers_0_for_answers_without_a_common_word_and_symmetric():
    text, other = "The plot sings. Skip it.", "A dull comedy about bees"
    assert displacement.alike({"chosen": text, "rejected": text}) == 1
    assert displacement.alike({"chosen": text, "rejected": other}) == 0
    for pair in PAIRS[:20]:
        turned = {"chosen": pair["rejected"], "rejected": pair["chosen"]}
        assert displacement.alike(pair) == pytest.approx(displacement.alike(turned), abs=0.15)


def test_gold_labels_every_pair_and_leaves_ties_out():
    tie = PAIRS[0] | {"gold_chosen": 5.0, "gold_rejected": 5.0}
    labelled = displacement.by_gold([*PAIRS, tie])
    assert all(pair["gold_chosen"] > pair["gold_rejected"] for pair in labelled)
    assert len(labelled) == sum(pair["gold_chosen"] != pair["gold_rejected"] for pair in PAIRS)
    for pair in labelled[:20]:
        assert world.gold_reward(pair["prompt"], pair["chosen"]) == pytest.approx(pair["gold_chosen"], abs=1e-3)


def test_near_duplicates_differ_in_one_word_and_are_reviews_of_the_world():
    copies = displacement.edited(PAIRS)
    assert len(copies) > 100
    for pair in copies:
        one, other = (world.tokenise(pair[side]) for side in ("chosen", "rejected"))
        assert len(one) == len(other) and sum(a != b for a, b in zip(one, other, strict=True)) == 1
        assert displacement.broken(pair["chosen"]) == displacement.broken(pair["rejected"]) == 0
        assert pair["gold_chosen"] > pair["gold_rejected"]
    assert displacement.edited(PAIRS) == copies != displacement.edited(PAIRS, seed=1)


def test_slices_are_of_equal_size_and_rise_in_likeness():
    found = displacement.slices(PAIRS, 60)
    means = [sum(map(displacement.alike, pairs)) / len(pairs) for pairs in found.values()]
    assert list(found) == ["far", "close", "edited"] and means == sorted(means) and {len(pairs) for pairs in found.values()} == {60}
    assert max(map(displacement.alike, found["far"])) < min(map(displacement.alike, found["close"]))
    with pytest.raises(ValueError, match="ask for at most"):
        displacement.slices(PAIRS, 200)


# ---------------------------------------------------------------------------------------------- what training did


def test_ches_is_that_of_the_exercise_and_cuts_the_slices(base):
    some = PAIRS[:12]
    together = displacement.ches(base, some)
    one_by_one = [answers.ches(*displacement.answer_states(base, pair)) for pair in some]
    assert torch.allclose(together, torch.stack(one_by_one), atol=1e-3)
    same = [{**pair, "rejected": pair["chosen"]} for pair in some]
    assert displacement.ches(base, same).abs().max() < 1e-4
    found = displacement.by_ches(base, some, 3)
    assert displacement.ches(base, found["low ches"]).max() < displacement.ches(base, found["high ches"]).min()
    with pytest.raises(ValueError, match="ask for at most"):
        displacement.by_ches(base, some, 20)


def test_log_ratios_are_0_before_training_and_those_of_dpos_loss_after_it(base, monkeypatch):
    monkeypatch.setattr(displacement, "ROWS", 8)
    some = PAIRS[:12]  # more than one batch
    assert displacement.log_ratios(base.policy("still", rank=4), some).abs().max() < 1e-4
    policy = moved(base, "moved")
    found = displacement.log_ratios(policy, some)
    batch = dpo._both(policy, data.encode_all(policy.tokenizer, some[:8], ["chosen", "rejected"], 128))
    with torch.no_grad():
        wanted = dpo._by_pair(policy.logps(batch), batch) - dpo.reference_logps(policy, batch)
    assert found.shape == (2, 12) and torch.allclose(found[:, :8], wanted, atol=1e-3) and wanted.abs().min() > 1e-3


def test_the_parts_of_the_chosen_answers_log_ratio_add_up_and_the_common_beginning_cancels(base):
    policy, copies = moved(base, "places"), displacement.edited(PAIRS)[:6]
    parts = displacement.by_place(policy, copies)
    assert torch.allclose(sum(parts.values()), displacement.log_ratios(policy, copies)[0], atol=1e-3)
    turned = [{**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in copies]
    assert torch.allclose(parts["before"], displacement.by_place(policy, turned)["before"], atol=1e-3)


@pytest.mark.parametrize("name", displacement.LOSSES)
def test_every_loss_trains_with_dpos_loop(base, name):
    loss = displacement.LOSSES[name]
    policy = base.policy("tried", rank=4)
    (metrics,) = dpo.train(policy, PAIRS[:8], dpo.Config(beta=loss.beta, batch_size=8), loss.function)
    assert metrics["loss"] == pytest.approx(metrics["loss"]) and metrics["gradient_norm"] > 0


# ---------------------------------------------------------------------------------------------- where the probability went


def test_text_that_was_shown_is_neither_unseen_nor_broken():
    text = PAIRS[0]["chosen"]
    known = set(displacement.grams(text))
    assert displacement.unseen(text, known) == 0 and displacement.unseen(text, set()) == 1 and displacement.unseen("", known) == 1
    assert 0 < displacement.unseen(f"{text} Zebras.", known) < 0.5
    assert displacement.broken(f"{text} Plot the.") == pytest.approx(1 / (1 + len(world.split_sentences(text))))
    assert displacement.broken("") == 1


def test_the_references_own_answers_become_less_likely_under_any_other_policy(base):
    policy = moved(base, "other", 0.2)
    asked = [PAIRS[0]["prompt"]] * (8 * sweep_displace.DRAWN)
    usual = rollout.sample(policy, asked, 24, torch.Generator().manual_seed(0), reference=True)
    changed = sweep_displace._moved(policy, usual)
    assert changed.mean() < -2 * changed.std() / len(changed) ** 0.5  # minus a KL


def test_kto_gets_answers_without_their_pairs():
    pairs = displacement.by_gold(PAIRS)[:100]
    both, none = sweep_displace._kept(pairs, "both", 0)
    assert len(both) == 200 and none == {}
    one, _ = sweep_displace._kept(pairs, "one", 0)
    assert len(one) == 100 and 30 < sum(answer["desirable"] for answer in one) < 70
    assert all(answer["completion"] in (pair["chosen"], pair["rejected"]) for answer, pair in zip(one, pairs, strict=True))
    few, weights = sweep_displace._kept(pairs, "few bad", 0)
    assert sum(not answer["desirable"] for answer in few) == 20 and len(few) == 120 and weights == {"undesirable_weight": 5.0}


def test_the_grid_has_every_kind_of_point_that_the_lab_shows():
    settings = [each for each, seed in sweep_displace.SWEEP.points if seed == 0]
    assert {each["pairs"] for each in settings if each["loss"] == "dpo"} == set(displace.SLICES)
    assert {each["loss"] for each in settings} == set(displace.TITLES)
    assert {each["kept"] for each in settings if "kept" in each} == set(displace.KEPT)
    assert len(sweep_displace.SWEEP.points) == 3 * len(settings) == 3 * len({str(each) for each in settings})


# ---------------------------------------------------------------------------------------------- what the lab reads


def point(seed: int, fall: float) -> dict:
    """A point whose chosen answers fall by `fall` for each nat of margin, the less alike the more."""
    rng = random.Random(seed)
    margin = [4 + rng.random() for _ in range(40)]
    chosen = [fall * each for each in margin]
    held = {"chosen": chosen, "rejected": [c - m for c, m in zip(chosen, margin, strict=True)], "alike": chosen, "ches": margin}
    rows = []
    for s in (0.5, 1.0, 2.0):
        means = {key: [value] * 6 for key, value in (("gold", 5 + s), ("kl", s * s), ("score", s))}
        rows.append({"strength": s, **means, "length": 30 + 4 * s, "stop_rate": 1.0})
    written = {key: [30.0 if key == "length" else 0.1] * 6 for key in ("broken", "unseen", "surprise", "length", "stopped")}
    course = [{"step": step, "chosen": step * fall, "rejected": step * (fall - 1)} for step in (0, 4, 8)]
    return {"settings": {"pairs": "any"}, "seed": seed, "result": {
        "course": course, "held_out": held, "answers": written, "reference_answers": written, "own": [-1.0] * 6,
        "reference": {"gold": [5.0] * 6, "sd": 1.0}, "path": rows,
    }}  # fmt: skip


POINTS = [point(seed, -0.5 - 0.01 * seed) for seed in (0, 1, 2)]


def test_the_fall_for_each_nat_of_margin_has_an_interval_over_seeds_and_pairs():
    draws = displace.lost_per_nat(POINTS)
    assert draws.shape == (3, evaluate.RESAMPLES + 1) and draws[:, 0].tolist() == pytest.approx([-0.5, -0.51, -0.52])
    mean, low, high = displace.measured(draws)
    assert mean == pytest.approx(-0.51) and low < -0.52 and high > -0.5
    assert displace.measured(draws[:1])[0] == pytest.approx(-0.5)  # a single seed: over pairs alone


def test_rank_correlation_is_1_with_itself_and_minus_1_with_what_falls():
    assert displace.rank_correlation(POINTS, "alike")[:, 0].tolist() == pytest.approx([1, 1, 1])
    assert displace.rank_correlation(POINTS, "ches")[:, 0].tolist() == pytest.approx([-1, -1, -1])


def test_length_is_read_off_where_kl_is_equal():
    assert displace.length_at(POINTS, 1.0)[:, 0].tolist() == pytest.approx([4.0] * 3)
    assert displace.length_at(POINTS, 9.0)[:, 0].isnan().all()


def test_a_difference_is_told_as_decided_only_where_its_interval_leaves_out_0():
    one, other = (displace.lost_per_nat([point(seed, fall - 0.01 * seed) for seed in (0, 1, 2)]) for fall in (-0.5, -0.9))
    assert displace.compared(one, other, "more", "less").endswith(": more")
    assert displace.compared(other, one, "more", "less").endswith(": less")
    assert displace.compared(one, one.flip(0), "more", "less").endswith("not decided by these runs")
    assert displace.compared(one * torch.nan, one, "more", "less") == "no number: not comparable"


def test_tables_and_figures_tell_every_row():
    named = {"one": POINTS, "another": POINTS[:1]}
    lines = displace.table(named, {"fall": displace.lost_per_nat, "own": lambda p: displace.drawn(p, displace.own)}).splitlines()
    assert len(lines) == 3 and len(set(map(len, lines))) == 1 and "-1.00 [-1.00, -1.00]" in lines[1]
    assert "one: chosen -2" in displace.courses_figure(named).get_label()
    added = displace.Column("added", lambda p: displace.drawn(p, displace.written("length", True)))
    columns = [displace.Column("fall", displace.lost_per_nat), added]
    figure = displace.rows_figure(named, columns, "Two rows.")
    assert figure.get_label().startswith("Two rows. fall: one -0.51 [") and len(figure.axes) == 2


def test_dpos_credits_add_up_to_the_implicit_reward_and_ppos_to_the_surprise_of_the_score(base):
    policy, other, head = moved(base, "by_dpo"), moved(base, "by_ppo"), base.value_head()
    samples = rollout.sample(base.policy("asked", rank=4), [PAIRS[0]["prompt"]] * 6, 24, torch.Generator().manual_seed(0))
    config = displace.ppo.Config(beta=0.0, gamma=1.0, lam=1.0)
    credit = displace.credits(policy, 0.5, other, head, lambda completions: completions.lengths.float(), config, samples)
    seen = policy.measure(samples.batch)
    wanted = 0.5 * losses.sequence_logps(seen.logps - seen.ref_logps, samples.batch.mask)
    assert torch.allclose(credit.dpo.sum(-1), wanted, atol=1e-4)
    paid = rollout.score_completions(lambda completions: completions.lengths.float(), samples, config.missing_eos_score)
    assert torch.allclose(credit.ppo, losses.masked(paid[:, None].expand_as(credit.ppo), samples.batch.mask), atol=1e-4)  # values are 0
    assert torch.allclose(credit.surprise.sum(-1), paid, atol=1e-4)
    kinds = displace.kinds_of_tokens(samples, base.tokenizer)
    assert torch.equal(kinds >= 0, samples.batch.mask.bool())
    sizes = displace.by_kind(credit, kinds)
    assert sizes["other"]["ppo"][0] > 0 and "other: DPO: implicit reward" in displace.credits_figure(sizes).get_label()


def test_credits_of_whole_answers_lie_between_them_and_a_credit_agrees_with_itself():
    mask = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 0], [0, 1, 1, 1]] * 4)
    whole = torch.randn(12, 1, generator=torch.Generator().manual_seed(0)) * mask
    within = torch.tensor([[0.0, 1.0, 0.0, -1.0], [0.0, 0.5, -0.5, 0.0], [0.0, -2.0, 0.0, 2.0]] * 4)
    assert displace.between_answers(whole, mask) == pytest.approx([1, 1, 1])
    assert displace.between_answers(within, mask) == pytest.approx([0, 0, 0], abs=1e-9)
    assert displace.agreement(within, within, mask) == pytest.approx([1, 1, 1])
    assert displace.agreement(within, -within, mask) == pytest.approx([-1, -1, -1])


def test_tokens_are_told_apart_by_what_gold_makes_of_them():
    kinds = [displace.kind_of_token(token) for token in (" warm", " dull", " coat", " stuff", " the", ".", " smiling")]
    assert kinds == ["praise", "blame", "thing", "vague", "other", "other", "praise"]
    assert displace.kind_of_token("This", ".") == displace.kind_of_token(" I", ".") == "first word"
    assert displace.kind_of_token("<eos>", ".") == "other"
