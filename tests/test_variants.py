"""The relatives of DPO, and REINFORCE with the other answers for a baseline: laws, and numbers worked by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_losses import LOG2, close, f64, grad, laws, noise, seeds

from alignlab import exact, losses

ONES = torch.ones(1)
four = [torch.zeros(2)] * 4


def pair(chosen, rejected, ref_chosen=0.0, ref_rejected=0.0):
    """The four log-probabilities of one pair; the policy's take gradients."""
    return [f64([chosen]).requires_grad_(), f64([rejected]).requires_grad_(), f64([ref_chosen]), f64([ref_rejected])]


def minus_log_sigmoid(x):
    return math.log1p(math.exp(-x))


# Length-normalised DPO


def test_length_normalised_dpo_by_hand():
    # log-ratios (-6 + 9) / 3 = 1 and (-8 + 6) / 2 = -1: a difference of 2 nats per token
    got = losses.length_normalised_dpo_loss(*pair(-6.0, -8.0, -9.0, -6.0), math.log(3) / 2, f64([3.0]), f64([2.0]))
    close(got, -math.log(3 / 4))


def test_length_normalised_dpo_of_answers_of_one_token_is_dpo():
    logps = noise(0, 4, 5)
    close(losses.length_normalised_dpo_loss(*logps, 0.7, torch.ones(5), torch.ones(5)), losses.dpo_loss(*logps, 0.7))


@laws
@given(seeds, st.integers(1, 9))
def test_answers_of_equal_length_only_scale_the_beta_of_dpo(seed, length):
    logps, lengths = noise(seed, 4, 3), torch.full((3,), length)
    close(losses.length_normalised_dpo_loss(*logps, 2.0, lengths, lengths), losses.dpo_loss(*logps, 2.0 / length))


def test_length_normalised_dpo_pays_no_more_for_saying_a_good_thing_twice():
    short = losses.length_normalised_dpo_loss(*pair(-1.0, -3.0, -2.0, -3.0), 0.5, f64([2.0]), f64([2.0]))
    long = losses.length_normalised_dpo_loss(*pair(-2.0, -3.0, -4.0, -3.0), 0.5, f64([4.0]), f64([2.0]))
    close(short, long.item())


# SimPO


def test_simpo_by_hand():
    # rewards 2 (-6 / 3) = -4 and 2 (-9 / 3) = -6; a margin of 0.5 leaves 1.5
    close(losses.simpo_loss(f64([-6.0]), f64([-9.0]), f64([3.0]), f64([3.0]), beta=2.0, margin=0.5), minus_log_sigmoid(1.5))


@laws
@given(seeds, st.floats(0.1, 5), st.floats(0, 3))
def test_simpo_does_not_see_a_text_doubled_with_its_log_probability(seed, beta, margin):
    logps, lengths = -noise(seed, 2, 4).abs(), torch.tensor([[2, 3, 4, 5], [1, 1, 7, 2]])
    once, twice = (losses.simpo_loss(*(n * logps), *(n * lengths), beta, margin) for n in (1, 2))
    close(twice, once)


def test_simpos_margin_is_where_its_loss_is_log_2_and_a_larger_one_asks_for_more():
    chosen, rejected, lengths = f64([-4.0]).requires_grad_(), f64([-6.0]), f64([2.0])  # rewards -4 and -6 at beta 2
    close(losses.simpo_loss(chosen, rejected, lengths, lengths, 2.0, 2.0), LOG2)
    slopes = [grad(losses.simpo_loss(chosen, rejected, lengths, lengths, 2.0, margin), chosen)[0].item() for margin in (0.0, 1.0, 2.0)]
    assert 0 > slopes[0] > slopes[1] > slopes[2] == pytest.approx(-0.5 * 2 / 2)  # -sigmoid(0) beta / length


# DPO-Positive


def test_dpop_by_hand():
    # difference (-5 + 4) - (-9 + 6) = 2; the chosen answer has lost 1 nat, at a price of 0.5: 1.5
    close(losses.dpop_loss(*pair(-5.0, -9.0, -4.0, -6.0), beta=2.0, penalty=0.5), minus_log_sigmoid(3.0))


@laws
@given(seeds, st.floats(0, 50))
def test_dpop_is_dpo_where_no_chosen_answer_has_lost(seed, penalty):
    chosen, rejected, ref_chosen, ref_rejected = noise(seed, 4, 5)
    logps = (ref_chosen + chosen.abs(), rejected, ref_chosen, ref_rejected)
    close(losses.dpop_loss(*logps, 0.7, penalty), losses.dpo_loss(*logps, 0.7))


@laws
@given(seeds, st.floats(0, 50))
def test_dpop_is_never_below_dpo(seed, penalty):
    logps = noise(seed, 4, 5)
    assert losses.dpop_loss(*logps, 0.7, penalty) >= losses.dpo_loss(*logps, 0.7) - 1e-9


def test_where_dpo_lets_both_answers_fall_dpop_lifts_the_chosen_one():
    # Both answers move together: the difference stays, so DPO has no slope along (1, 1), and DPOP has the penalty's.
    logps = pair(-5.0, -5.0, -4.0, -4.0)
    for loss, slope in ((losses.dpo_loss, 0.0), (lambda *given: losses.dpop_loss(*given, penalty=3.0), -1.0)):
        got = sum(grad(loss(*logps, 0.5), *logps[:2])).item()
        assert got == pytest.approx(0) if slope == 0 else got < -0.5


# DPO with the likelihood of the chosen answers


def test_dpo_nll_by_hand():
    # log 2 at equal policies, plus 0.5 (6 / 3)
    close(losses.dpo_nll_loss(*pair(-6.0, -2.0, -6.0, -2.0), 0.1, 0.5, f64([3.0])), LOG2 + 1.0)


def test_the_likelihood_term_pulls_on_the_chosen_answer_alone():
    logps, length = pair(-6.0, -2.0, -5.0, -3.0), f64([4.0])
    plain = grad(losses.dpo_loss(*logps, 0.3), *logps[:2])
    with_term = grad(losses.dpo_nll_loss(*logps, 0.3, 2.0, length), *logps[:2])
    close(with_term[0] - plain[0], [-2.0 / 4])
    close(with_term[1], plain[1])
    close(losses.dpo_nll_loss(*logps, 0.3, 0.0, length), losses.dpo_loss(*logps, 0.3).item())


# KTO


@pytest.mark.parametrize(("desirable", "weight"), [(True, 1.3), (False, 0.7)])
def test_kto_is_half_the_weight_while_the_policies_agree(desirable, weight):
    logps = noise(1, 4)
    labels = torch.full((4,), desirable)
    close(losses.kto_loss(logps, logps, labels, 0.0, 0.1, desirable_weight=1.3, undesirable_weight=0.7), weight / 2)


def test_kto_by_hand():
    # beta (log-ratio - kl): log 3 (2 - 1) for the desirable one, log 3 (1 - 0) for the other; values 2 (3/4) and 1 (3/4)
    logps, ref = f64([-3.0, -4.0]), f64([-5.0, -4.0])
    got = losses.kto_loss(logps, ref, torch.tensor([True, False]), 1.0, math.log(3), desirable_weight=2.0)
    close(got, ((2 - 1.5) + (1 - 0.75)) / 2)


def test_kto_raises_the_desirable_lowers_the_others_and_saturates_on_both_sides():
    for desirable, sign in ((True, -1), (False, 1)):
        logps = f64([-40.0, 0.0, 40.0]).requires_grad_()
        (slope,) = grad(losses.kto_loss(logps, torch.zeros(3), torch.full((3,), desirable), 0.0, 1.0), logps)
        assert (sign * slope >= 0).all()
        assert slope[1].item() == pytest.approx(sign / 4 / 3) and slope[[0, 2]].abs().max() < 1e-12


@laws
@given(seeds)
def test_kto_turns_into_its_mirror_image_where_all_labels_turn(seed):
    # sigmoid(u) + sigmoid(-u) = 1, so with equal weights the two losses add up to 1
    logps, ref = noise(seed, 2, 6)
    labels = noise(seed + 1, 6) > 0
    close(losses.kto_loss(logps, ref, labels, 0.4, 0.5) + losses.kto_loss(logps, ref, ~labels, 0.4, 0.5), 1.0)


def test_a_higher_reference_point_asks_more_of_the_desirable_and_less_of_the_others():
    logps, ref = noise(2, 2, 5)
    for desirable, sign in ((True, 1), (False, -1)):
        low, high = (losses.kto_loss(logps, ref, torch.full((5,), desirable), kl, 0.5) for kl in (0.0, 2.0))
        assert sign * (high - low) > 0


def test_no_gradient_flows_through_ktos_reference_point():
    logps, ref = noise(3, 2, 4).requires_grad_(), noise(4, 2, 4)
    assert not losses.kto_kl(logps[1], ref[1]).requires_grad
    labels = torch.tensor([True, False, True, False])
    live = (logps[1] - ref[1]).mean().square()
    (slope,) = grad(losses.kto_loss(logps[0], ref[0], labels, live, 0.5), logps)
    assert slope[0].abs().min() > 0 and slope[1].abs().max() == 0


def test_ktos_reference_point_is_the_mean_log_ratio_and_never_below_0():
    close(losses.kto_kl(f64([-1.0, -2.0]), f64([-2.0, -4.0])), 1.5)
    close(losses.kto_kl(f64([-2.0, -4.0]), f64([-1.0, -2.0])), 0.0)


# What every variant refuses


SHAPES = {
    "length_normalised_dpo_loss": (lambda *t, beta=1.0: losses.length_normalised_dpo_loss(*t[:4], beta, *t[4:]), 6),
    "simpo_loss": (lambda *t, beta=1.0: losses.simpo_loss(*t, beta, 0.0), 4),
    "dpop_loss": (lambda *t, beta=1.0: losses.dpop_loss(*t, beta, 1.0), 4),
    "dpo_nll_loss": (lambda *t, beta=1.0: losses.dpo_nll_loss(*t[:4], beta, 1.0, *t[4:]), 5),
    "kto_loss": (lambda *t, beta=1.0: losses.kto_loss(*t, 0.0, beta), 3),
}
each = pytest.mark.parametrize(("loss", "inputs"), SHAPES.values(), ids=SHAPES)


@each
@pytest.mark.parametrize("beta", [0.0, -0.5, math.nan])
def test_beta_must_be_positive(loss, inputs, beta):
    with pytest.raises(ValueError, match=f"beta.*{beta}"):
        loss(*[torch.ones(2)] * inputs, beta=beta)


@each
@pytest.mark.parametrize("size", [1, 3])
def test_shapes_must_be_equal(loss, inputs, size):
    for odd in range(inputs):
        with pytest.raises(ValueError, match="shape"):
            loss(*(torch.ones(size if place == odd else 2) for place in range(inputs)))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: losses.simpo_loss(*four, 1.0, 0.0), "at least 1 token"),
        (lambda: losses.simpo_loss(ONES, ONES, ONES, ONES, 1.0, -0.1), "margin.*-0.1"),
        (lambda: losses.dpop_loss(*four, 1.0, -2.0), "penalty.*-2.0"),
        (lambda: losses.dpo_nll_loss(*four, 1.0, -2.0, torch.ones(2)), "weight.*-2.0"),
        (lambda: losses.kto_loss(ONES, ONES, ONES.bool(), -0.1, 1.0), "kl.*-0.1"),
        (lambda: losses.kto_loss(ONES, ONES, ONES.bool(), torch.zeros(2), 1.0), "kl must be one number"),
        (lambda: losses.kto_loss(ONES, ONES, ONES.bool(), 0.0, 1.0, undesirable_weight=0.0), "weights"),
        (lambda: losses.kto_kl(torch.zeros(2), torch.zeros(1)), "shape"),
        (lambda: losses.rloo_advantages(torch.zeros(4), 1), "answers must be >= 2, got 1"),
        (lambda: losses.rloo_advantages(torch.zeros(4), 3), "multiple of 3"),
        (lambda: losses.rloo_advantages(torch.zeros(2, 2), 2), "rewards must be"),
        (lambda: losses.reinforce_loss(torch.zeros(2, 3), torch.zeros(3), torch.ones(2, 3)), "shape"),
        (lambda: losses.reinforce_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2, 3)), "shape"),
        (lambda: losses.reinforce_loss(torch.zeros(2, 3), torch.zeros(2), torch.ones(1, 3)), "shape"),
    ],
)
def test_what_makes_no_sense_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()


# RLOO


def test_rloo_advantages_by_hand():
    # of (1, 2, 6) the others' means are 4, 3.5 and 1.5; of (0, 0, 3) they are 1.5, 1.5 and 0
    got = losses.rloo_advantages(f64([1.0, 2.0, 6.0, 0.0, 0.0, 3.0]), answers=3)
    close(got, [-3.0, -1.5, 4.5, -1.5, -1.5, 3.0])


@laws
@given(seeds, st.integers(2, 6), st.integers(1, 4))
def test_rloo_advantages_are_the_scaled_distance_to_the_prompts_mean_and_sum_to_0(seed, answers, prompts):
    rewards = noise(seed, prompts * answers)
    got, of_prompt = losses.rloo_advantages(rewards, answers).view(prompts, answers), rewards.view(prompts, answers)
    close(got, answers / (answers - 1) * (of_prompt - of_prompt.mean(-1, keepdim=True)))
    close(got.sum(-1), torch.zeros(prompts))


@laws
@given(seeds, st.floats(-50, 50))
def test_a_constant_on_one_prompts_rewards_changes_no_advantage(seed, shift):
    rewards, constant = noise(seed, 8), torch.tensor([0.0, 1.0]).repeat_interleave(4) * shift
    close(losses.rloo_advantages(rewards + constant, 4), losses.rloo_advantages(rewards, 4))


def test_no_gradient_flows_through_advantages():
    rewards = noise(5, 4).requires_grad_()
    assert not losses.rloo_advantages(rewards, 2).requires_grad
    logps = noise(6, 4, 3).requires_grad_()
    assert grad(losses.reinforce_loss(logps, rewards, torch.ones(4, 3)), rewards)[0].abs().max() == 0


def test_reinforce_loss_by_hand_and_without_prompt_and_padding():
    # sums -3 and -4 over the masks, advantages 2 and -1: -(2 (-3) + (-1)(-4)) / 2
    logps = f64([math.nan, -1.0, -2.0, math.inf], [-9.0, -4.0, math.nan, -9.0]).requires_grad_()
    mask = torch.tensor([[0, 1, 1, 0], [0, 1, 0, 0]])
    loss = losses.reinforce_loss(logps, f64([2.0, -1.0]), mask)
    close(loss, 1.0)
    close(grad(loss, logps)[0], [[0, -1.0, -1.0, 0], [0, 0.5, 0, 0]])


REWARDS = f64([0.0, 1.0, -0.5, 2.0])  # of four answers of one token


def objective_gradient(logits, rewards):
    return torch.autograd.grad((logits.log_softmax(-1).exp() * rewards).sum(), logits)[0]


def test_reinforce_agrees_with_the_exact_gradient_of_the_expected_reward():
    logits = noise(7, 4).requires_grad_()
    logps = logits.log_softmax(-1)
    weighted = 4 * logps.exp().detach() * (REWARDS - 0.3)  # each answer as often as it is sampled; a baseline changes nothing
    (got,) = torch.autograd.grad(losses.reinforce_loss(logps[:, None], weighted, torch.ones(4, 1)), logits)
    close(got, -objective_gradient(logits, REWARDS), 1e-12)


def test_the_expected_rloo_gradient_over_all_pairs_of_answers_is_exact():
    logits = noise(8, 4).requires_grad_()
    logps = logits.log_softmax(-1)
    total = torch.zeros(4, dtype=torch.float64)
    for one in range(4):
        for other in range(4):
            drawn = torch.tensor([one, other])
            chance = logps[drawn].sum().exp().detach()
            loss = losses.reinforce_loss(logps[drawn, None], losses.rloo_advantages(REWARDS[drawn], 2), torch.ones(2, 1))
            total += chance * torch.autograd.grad(loss, logits, retain_graph=True)[0]
    close(total, -objective_gradient(logits, REWARDS), 1e-12)


@pytest.mark.parametrize("beta", [0.6, 2.0])
def test_reinforce_on_score_less_beta_times_the_log_ratio_rests_at_the_optimum_alone(beta):
    ref = noise(9, 4).log_softmax(-1)

    def slope(at):
        logits = at.clone().requires_grad_()
        logps = logits.log_softmax(-1)
        shaped = losses.shape_rewards(REWARDS, logps[:, None], ref[:, None], torch.ones(4, 1), beta).sum(-1)
        loss = losses.reinforce_loss(logps[:, None], 4 * logps.exp() * shaped, torch.ones(4, 1))  # all four, as often as sampled
        return torch.autograd.grad(loss, logits)[0].abs().max().item()

    optimum = exact.optimal_logps(REWARDS, beta, ref)
    assert slope(optimum) < 1e-12 < 1e-3 < min(slope(ref), slope(optimum + 0.1 * noise(10, 4)))
