"""Both pipelines on a policy over six responses, where everything can be enumerated: where they end, and which way beta pulls."""

import itertools

import pytest
import torch

from alignlab import exact, losses

torch.set_num_threads(1)

REF = torch.log_softmax(torch.tensor([0.9, 0.1, 0.6, -0.4, 0.3, -0.5], dtype=torch.float64), -1)
REWARDS = torch.tensor([0.0, 0.6, -0.9, 1.5, 0.9, 2.0], dtype=torch.float64)
BETAS = [0.1, 0.3, 1.0, 3.0]
PAIRS = torch.tensor(list(itertools.permutations(range(6), 2))).T  # (2, 30) both orders of each pair
SOFT = torch.sigmoid(REWARDS[PAIRS[0]] - REWARDS[PAIRS[1]])  # how often the annotator prefers the first
HARD = (REWARDS[PAIRS[0]] > REWARDS[PAIRS[1]]).double()  # an annotator who never errs


def policy_objective(logits, beta):
    """E[r] - beta KL(pi, ref), enumerated."""
    logps = torch.log_softmax(logits, -1)
    return (logps.exp() * (REWARDS - beta * (logps - REF))).sum()


def population_dpo(logits, beta, labels, smoothing=0.0):
    """DPO's loss over all pairs, each order weighted by how often the annotator gives it."""
    logps = torch.log_softmax(logits, -1)
    of_pair = torch.vmap(lambda *pair: losses.dpo_loss(*pair, beta, smoothing))
    chosen, rejected = PAIRS
    return (labels * of_pair(logps[chosen], logps[rejected], REF[chosen], REF[rejected])).sum() / 15


def kl(logits):
    logps = torch.log_softmax(logits, -1)
    return (logps.exp() * (logps - REF)).sum().item()


def minimum(loss):
    """Logits at the minimum of a loss, from the reference, by LBFGS."""
    logits = REF.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [logits], max_iter=2000, tolerance_grad=1e-12, tolerance_change=0, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure():
        optimiser.zero_grad()
        value = loss(logits)
        value.backward()
        return value

    optimiser.step(closure)
    return logits.detach()


def kl_by_steps(loss, learning_rate, at):
    """KL to the reference after given numbers of plain gradient steps from it."""
    logits, seen = REF.clone().requires_grad_(), []
    for step in range(1, max(at) + 1):
        (gradient,) = torch.autograd.grad(loss(logits), logits)
        logits = (logits - learning_rate * gradient).detach().requires_grad_()
        if step in at:
            seen.append(kl(logits))
    return seen


def ppo_loss(logits, beta):
    """PPO's loss on one token a response, all six weighted as the policy samples them: its first step, exact."""
    logps = torch.log_softmax(logits, -1)[:, None]
    old, mask = logps.detach(), torch.ones(6, 1)
    rewards = losses.shape_rewards(REWARDS, old, REF[:, None], mask, beta)
    value = (old.exp() * rewards).sum().expand(6, 1)
    advantages, _ = losses.gae(rewards, value, mask, gamma=1.0, lam=0.95)
    return losses.clipped_policy_loss(logps, old, 6 * old.exp() * advantages, mask, clip_epsilon=0.2)


def close(got, want, tol=1e-6):
    torch.testing.assert_close(got, want, rtol=0, atol=tol)


# Where they end


@pytest.mark.parametrize("beta", BETAS)
def test_policy_optimisation_ends_at_the_exact_optimum(beta):
    logits = minimum(lambda x: -policy_objective(x, beta))
    close(torch.softmax(logits, -1), exact.optimal_logps(REWARDS, beta, REF).exp())


@pytest.mark.parametrize("beta", BETAS)
def test_dpo_on_population_labels_ends_at_the_exact_optimum(beta):
    logits = minimum(lambda x: population_dpo(x, beta, SOFT))
    close(torch.softmax(logits, -1), exact.optimal_logps(REWARDS, beta, REF).exp())


@pytest.mark.parametrize("beta", [0.3, 1.0, 3.0])
def test_log_probabilities_of_both_optima_agree_too(beta):
    by_policy, by_dpo = minimum(lambda x: -policy_objective(x, beta)), minimum(lambda x: population_dpo(x, beta, SOFT))
    close(torch.log_softmax(by_policy, -1), exact.optimal_logps(REWARDS, beta, REF))
    close(torch.log_softmax(by_dpo, -1), exact.optimal_logps(REWARDS, beta, REF))


def test_the_reward_model_of_population_labels_is_the_reward_up_to_a_constant():
    of_pair = torch.vmap(losses.preference_loss)
    scores = minimum(lambda x: (SOFT * of_pair(x[PAIRS[0]], x[PAIRS[1]])).sum())
    close(scores - scores.mean(), REWARDS - REWARDS.mean())


@pytest.mark.parametrize("beta", BETAS)
def test_dpos_implicit_reward_is_the_reward_up_to_a_constant(beta):
    implicit = beta * (minimum(lambda x: population_dpo(x, beta, SOFT)) - REF)
    close(implicit - implicit.mean(), REWARDS - REWARDS.mean())


def test_ipo_on_one_pair_stops_at_its_aim():
    # response 5 over response 0 with tau .25: a log-ratio difference of 2, where DPO would not stop
    logits = minimum(lambda x: losses.ipo_loss(*(y[i : i + 1] for y in (torch.log_softmax(x, -1), REF) for i in (5, 0)), 0.25))
    ratio = torch.log_softmax(logits, -1) - REF
    close(ratio[5] - ratio[0], torch.tensor(2.0, dtype=torch.float64))


# PPO and its two limits


@pytest.mark.parametrize("beta", [0.0, 0.3, 3.0])
def test_ppos_gradient_on_policy_is_that_of_the_objective(beta):
    logits = torch.tensor([0.3, -0.2, 1.0, 0.5, -1.0, 0.0], dtype=torch.float64).requires_grad_()
    (got,) = torch.autograd.grad(ppo_loss(logits, beta), logits)
    (want,) = torch.autograd.grad(-policy_objective(logits, beta), logits)
    close(got, want, 1e-9)


def test_ppo_at_a_moderate_beta_ends_at_the_exact_optimum():
    (got,) = kl_by_steps(lambda x: ppo_loss(x, 1.0), 0.5, [2000])
    assert got == pytest.approx(exact.tilt(REWARDS, 1.0, REF)[1].item(), abs=1e-5)


def test_ppo_on_samples_approaches_the_exact_optimum():
    # 512 draws an iteration, two passes over each, steps that shrink
    logits, beta, generator = REF.clone(), 1.0, torch.Generator().manual_seed(0)
    for iteration in range(300):
        old = torch.log_softmax(logits, -1)
        drawn = torch.multinomial(old.exp(), 512, replacement=True, generator=generator)
        mask = torch.ones(512, 1)
        rewards = losses.shape_rewards(REWARDS[drawn], old[drawn, None], REF[drawn, None], mask, beta)
        advantages, _ = losses.gae(rewards, rewards.mean().expand(512, 1), mask, gamma=1.0, lam=0.95)
        for _ in range(2):
            logits = logits.detach().requires_grad_()
            logps = torch.log_softmax(logits, -1)[drawn, None]
            loss = losses.clipped_policy_loss(logps, old[drawn, None], advantages, mask, clip_epsilon=0.2)
            logits = (logits - 1 / (1 + iteration / 20) * torch.autograd.grad(loss, logits)[0]).detach()
    close(torch.softmax(logits, -1), exact.optimal_logps(REWARDS, beta, REF).exp(), 0.02)


def test_ppo_at_large_beta_stays_at_the_reference():
    (got,) = kl_by_steps(lambda x: ppo_loss(x, 100.0), 0.01, [2000])
    assert got < 1e-4


def test_ppo_at_beta_0_ignores_the_reference():
    # it ends at the best response, to which the reference gives little
    (got,) = kl_by_steps(lambda x: ppo_loss(x, 0.0), 1.0, [3000])
    assert got == pytest.approx(-REF[REWARDS.argmax()].item(), abs=0.05)


def test_adaptive_beta_brings_the_kl_to_its_target():
    beta, target = 0.05, 0.5
    for _ in range(500):
        beta = losses.adapt_beta(beta, exact.tilt(REWARDS, beta, REF)[1].item(), target, samples=256, horizon=2560)
    assert exact.tilt(REWARDS, beta, REF)[1].item() == pytest.approx(target, abs=1e-3)


# Which way beta pulls in DPO


def test_after_one_step_of_dpo_the_kl_rises_with_beta():
    after = [kl_by_steps(lambda x, b=beta: population_dpo(x, b, SOFT), 1.0, [1])[0] for beta in BETAS]
    assert all(b > 2 * a > 0 for a, b in itertools.pairwise(after))


def test_after_ten_steps_of_dpo_the_kl_rises_with_beta_but_for_the_largest_which_has_nearly_arrived():
    after = [kl_by_steps(lambda x, b=beta: population_dpo(x, b, SOFT), 1.0, [10])[0] for beta in BETAS]
    assert all(b > 2 * a > 0 for a, b in itertools.pairwise(after[:3]))
    assert after[3] < after[2] and after[3] == pytest.approx(exact.tilt(REWARDS, 3.0, REF)[1].item(), abs=1e-3)


def test_at_the_optimum_of_dpo_the_kl_falls_with_beta():
    # the opposite order
    at_end = [kl(minimum(lambda x, b=beta: population_dpo(x, b, SOFT))) for beta in BETAS]
    assert all(a > b + 0.05 for a, b in itertools.pairwise(at_end))
    for beta, got in zip(BETAS, at_end):
        assert got == pytest.approx(exact.tilt(REWARDS, beta, REF)[1].item(), abs=1e-5)


def test_after_1000_steps_of_dpo_large_betas_are_at_their_optimum_and_small_ones_further_out():
    after = dict(zip(BETAS, (kl_by_steps(lambda x, b=b: population_dpo(x, b, SOFT), 1.0, [1000])[0] for b in BETAS)))
    for beta in (1.0, 3.0):
        assert after[beta] == pytest.approx(exact.tilt(REWARDS, beta, REF)[1].item(), abs=1e-3)
    assert min(after[0.1], after[0.3]) > after[1.0] > after[3.0]


@pytest.mark.parametrize("beta", BETAS)
def test_with_labels_that_never_err_no_beta_holds(beta):
    after = kl_by_steps(lambda x: population_dpo(x, beta, HARD), 1.0, [10, 100, 1000])
    assert all(b > a + 1e-3 for a, b in itertools.pairwise([0.0, *after]))


@pytest.mark.parametrize("beta", BETAS)
def test_with_label_smoothing_every_beta_holds(beta):
    # steps of 1 / beta^2 make one step move beta times the log-ratio alike for every beta
    held = kl_by_steps(lambda x: population_dpo(x, beta, HARD, 0.2), 1 / beta**2, [1000, 1500])
    free = kl_by_steps(lambda x: population_dpo(x, beta, HARD), 1 / beta**2, [1500])
    assert abs(held[1] - held[0]) < 1e-6 and held[1] < free[0]
