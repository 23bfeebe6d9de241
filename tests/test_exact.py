"""The optimum of alignlab.exact: laws, enumeration, and numbers worked by hand."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignlab import exact

torch.set_num_threads(1)
laws = settings(deadline=None, max_examples=40, derandomize=True)
seeds = st.integers(0, 10**6)
betas = st.floats(0.02, 50)
INF = float("inf")


def f64(rows):
    return torch.tensor(rows, dtype=torch.float64)


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(got, want, tol=1e-6):
    torch.testing.assert_close(torch.as_tensor(got).double(), torch.as_tensor(want, dtype=torch.float64), rtol=0, atol=tol)


def enumerated_optimum(rewards, ref, beta):
    """pi* as a list, from the definition: pi_ref exp(r / beta), divided by its sum."""
    weights = [q * math.exp(r / beta) for r, q in zip(rewards, ref)]
    return [w / sum(weights) for w in weights]


def mean_under(policy, values):
    return sum(p * v for p, v in zip(policy, values))


def kl_between(policy, ref):
    return sum(p * math.log(p / q) for p, q in zip(policy, ref) if p > 0)


def at(kl, curve):
    """Height of a curve (kl, value) of rising kl at another kl, by straight lines between its points."""
    for (k0, v0), (k1, v1) in itertools.pairwise(zip(*(x.tolist() for x in curve))):
        if k0 <= kl <= k1:
            return v0 + (v1 - v0) * (kl - k0) / (k1 - k0) if k1 > k0 else v0
    raise AssertionError(f"the curve does not reach a KL of {kl}")


# The tilt


@laws
@given(seeds, betas)
def test_optimum_is_proportional_to_reference_times_exp_reward_over_beta(seed, beta):
    rewards, ref = noise(seed, 6), torch.log_softmax(noise(seed + 1, 6), -1)
    want = enumerated_optimum(rewards.tolist(), ref.exp().tolist(), beta)
    close(exact.optimal_logps(rewards, beta, ref).exp(), want)


@laws
@given(seeds, betas)
def test_tilt_of_an_enumerated_reference_equals_enumeration(seed, beta):
    rewards, ref = noise(seed, 6), torch.log_softmax(noise(seed + 1, 6), -1)
    policy = enumerated_optimum(rewards.tolist(), ref.exp().tolist(), beta)
    reward, kl, size = exact.tilt(rewards, beta, ref)
    close(reward, mean_under(policy, rewards.tolist()))
    close(kl, kl_between(policy, ref.exp().tolist()))
    close(size, 1 / sum(p * p for p in policy), 1e-5)


@laws
@given(seeds, betas)
def test_tilt_of_samples_counts_them_alike(seed, beta):
    rewards = noise(seed, 7)
    for got, want in zip(
        exact.tilt(rewards, beta), exact.tilt(rewards, beta, torch.full((7,), -math.log(7), dtype=torch.float64))
    ):
        close(got, want)


@laws
@given(seeds, betas)
def test_tilted_mean_of_other_values_equals_enumeration(seed, beta):
    rewards, values, ref = noise(seed, 6), noise(seed + 1, 6), torch.log_softmax(noise(seed + 2, 6), -1)
    policy = enumerated_optimum(rewards.tolist(), ref.exp().tolist(), beta)
    close(exact.tilted_mean(values, rewards, beta, ref), mean_under(policy, values.tolist()))
    close(
        exact.tilted_mean(values, rewards, beta),
        mean_under(enumerated_optimum(rewards.tolist(), [1 / 6] * 6, beta), values.tolist()),
    )


def test_tilt_by_hand():
    # rewards log 1, log 2, log 5 at beta 1: weights 1/8, 2/8, 5/8; size 64 / 30
    reward, kl, size = exact.tilt(f64([1.0, 2.0, 5.0]).log(), 1.0)
    close(reward, (2 * math.log(2) + 5 * math.log(5)) / 8)
    close(kl, (math.log(3 / 8) + 2 * math.log(6 / 8) + 5 * math.log(15 / 8)) / 8)
    close(size, 64 / 30)


@laws
@given(seeds, betas)
def test_no_other_policy_does_better_on_the_objective(seed, beta):
    rewards, ref = noise(seed, 6), torch.log_softmax(noise(seed + 1, 6), -1)
    reward, kl, _ = exact.tilt(rewards, beta, ref)
    others = torch.softmax(3 * noise(seed + 2, 200, 6), -1)
    objective = (others * (rewards - beta * (others.log() - ref))).sum(-1)
    assert (objective <= reward - beta * kl + 1e-9).all()


@laws
@given(seeds, st.floats(-1e3, 1e3))
def test_a_constant_on_all_rewards_moves_the_reward_alone(seed, shift):
    rewards = noise(seed, 6)
    got, want = exact.tilt(rewards + shift, 0.3), exact.tilt(rewards, 0.3)
    for x, y in zip(got, (want[0] + shift, want[1], want[2])):
        close(x, y, 1e-6)


@laws
@given(seeds)
def test_kl_and_reward_fall_as_beta_rises(seed):
    rewards, ref = noise(seed, 8), torch.log_softmax(noise(seed + 1, 8), -1)
    reward, kl, _ = (torch.stack(x) for x in zip(*(exact.tilt(rewards, b, ref) for b in (0.1, 0.3, 1.0, 3.0, 10.0))))
    assert (reward.diff() < 0).all() and (kl.diff() < 0).all()


@laws
@given(seeds, st.floats(0.2, 5))
def test_along_the_frontier_a_nat_of_kl_buys_beta_of_reward(seed, beta):
    rewards, ref, step = noise(seed, 8), torch.log_softmax(noise(seed + 1, 8), -1), 1e-4
    (high, kl_high, _), (low, kl_low, _) = exact.tilt(rewards, beta - step, ref), exact.tilt(rewards, beta + step, ref)
    assert ((high - low) / (kl_high - kl_low)).item() == pytest.approx(beta, rel=1e-4)


def test_large_beta_stays_at_the_reference_and_small_beta_takes_the_best():
    rewards, ref = f64([1.0, 2.0, 4.0]), f64([0.5, 0.3, 0.2])
    reward, kl, _ = exact.tilt(rewards, 1e6, ref.log())
    close(reward, 0.5 + 0.6 + 0.8, 1e-5)
    close(kl, 0.0)
    reward, kl, size = exact.tilt(rewards, 1e-2, ref.log())
    close(reward, 4.0)
    close(kl, -math.log(0.2))
    close(size, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beta", [1e-6, 1e6])
def test_extreme_betas_and_rewards_give_no_nan(dtype, beta):
    rewards, ref = torch.tensor([1e3, -1e3, 1e3, 0.0], dtype=dtype), torch.log_softmax(noise(0, 4), -1).to(dtype)
    for got in (*exact.tilt(rewards, beta), *exact.tilt(rewards, beta, ref)):
        assert got.isfinite()
    close(exact.optimal_logps(rewards, beta, ref).exp().sum(), 1.0, 1e-3)
    if beta < 1:  # the two best of four are left: KL log 2
        for got, want in zip(exact.tilt(rewards, beta), (1e3, math.log(2), 2.0)):
            close(got, want, 1e-3)


def test_log_probability_of_an_unlikely_response_does_not_underflow():
    # uniform reference, rewards 0 and 100 at beta .1: the odds are e^1000
    close(exact.optimal_logps(f64([0.0, 100.0]), 0.1, f64([0.5, 0.5]).log()), [-1000.0, 0.0])


def test_a_response_the_reference_never_gives_stays_at_zero():
    rewards, ref = f64([0.0, 1.0, 50.0]), f64([0.25, 0.75, 0.0]).log()
    close(exact.optimal_logps(rewards, 1.0, ref).exp(), [*enumerated_optimum([0.0, 1.0], [0.25, 0.75], 1.0), 0.0])
    for got, want in zip(exact.tilt(rewards, 1.0, ref), exact.tilt(rewards[:2], 1.0, ref[:2])):
        close(got, want)


def test_equal_rewards_leave_the_reference():
    reward, kl, size = exact.tilt(torch.full((5,), 2.0), 0.1)
    for got, want in zip((reward, kl, size), (2.0, 0.0, 5.0)):
        close(got, want, 1e-5)


def test_a_tensor_of_betas_broadcasts_against_the_rows():
    rewards, each = noise(1, 2, 5), f64([0.5, 2.0])
    for got, *want in zip(exact.tilt(rewards, each), *(exact.tilt(rewards[i], each[i].item()) for i in range(2))):
        close(got, torch.stack(want))
    reward, _, _ = exact.tilt(rewards, each[:, None])
    close(reward, [[exact.tilt(rewards[i], b)[0].item() for i in range(2)] for b in (0.5, 2.0)])


@pytest.mark.parametrize("beta", [0.0, -0.5])
def test_beta_must_be_positive(beta):
    zeros = torch.zeros(2)
    named = f"beta.*{beta:g}"
    with pytest.raises(ValueError, match=named):
        exact.tilt(zeros, beta)
    with pytest.raises(ValueError, match=named):
        exact.tilt(zeros, torch.tensor([1.0, beta])[:, None])
    with pytest.raises(ValueError, match=named):
        exact.tilted_mean(zeros, zeros, beta)
    with pytest.raises(ValueError, match=named):
        exact.optimal_logps(zeros, beta, zeros)


@pytest.mark.parametrize("wrong", [(1,), (3,), (2, 1)])
def test_tilt_needs_equal_shapes(wrong):
    with pytest.raises(ValueError, match="shape"):
        exact.tilt(torch.zeros(2), 1.0, torch.zeros(wrong))


# Best of n


def best_of_n_by_subsets(scores, values, n):
    """Every subset of n counts alike; where several share its best score, their values are averaged."""
    best = []
    for subset in itertools.combinations(range(len(scores)), n):
        top = max(scores[i] for i in subset)
        tied = [values[i] for i in subset if scores[i] == top]
        best.append(sum(tied) / len(tied))
    return sum(best) / len(best)


@laws
@given(seeds, st.integers(1, 7), st.data())
def test_best_of_n_equals_the_mean_over_all_subsets(seed, count, data):
    scores, values = noise(seed, 2, count)
    n = data.draw(st.integers(1, count))
    close(exact.best_of_n(scores, values, n), best_of_n_by_subsets(scores.tolist(), values.tolist(), n))


@laws
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-5, 5)), min_size=1, max_size=7), st.data())
def test_in_best_of_n_equal_scores_share(samples, data):
    scores, values = zip(*samples)
    n = data.draw(st.integers(1, len(samples)))
    close(exact.best_of_n(f64([float(s) for s in scores]), f64(values), n), best_of_n_by_subsets(scores, values, n))


def test_in_best_of_n_equal_scores_share_by_hand():
    # pairs of scores 1, 1, 0 with values 0, 12, 30: (0 + 12) / 2, 0 and 12, whatever their order
    close(exact.best_of_n(f64([1.0, 1.0, 0.0]), f64([0.0, 12.0, 30.0]), 2), 6.0)
    close(exact.best_of_n(f64([1.0, 1.0, 0.0]), f64([12.0, 0.0, 30.0]), 2), 6.0)


@laws
@given(seeds)
def test_best_of_one_is_the_mean_and_best_of_all_is_the_best(seed):
    scores, values = noise(seed, 2, 9)
    close(exact.best_of_n(scores, values, 1), values.mean())
    close(exact.best_of_n(scores, values, 9), values[scores.argmax()])


def test_best_of_n_by_hand():
    # pairs of scores 1, 2, 3: the best is 2 once and 3 twice
    close(exact.best_of_n(f64([3.0, 1.0, 2.0]), f64([30.0, 10.0, 20.0]), 2), 80 / 3)


def test_best_of_n_works_on_every_row():
    scores, values = noise(2, 2, 3, 4, 6)
    want = [[best_of_n_by_subsets(scores[i, j].tolist(), values[i, j].tolist(), 3) for j in range(4)] for i in range(3)]
    close(exact.best_of_n(scores, values, 3), want)


@laws
@given(seeds)
def test_by_its_own_scores_best_of_n_rises_with_n(seed):
    scores = noise(seed, 12)
    got = torch.stack([exact.best_of_n(scores, scores, n) for n in range(1, 13)])
    assert (got.diff() > 0).all()


def test_best_of_n_of_many_samples_is_finite():
    # 128 of 4000 by rank: the expected best rank is 128 / 129 * 4001
    ranks = torch.arange(1.0, 4001.0, dtype=torch.float64)
    close(exact.best_of_n(ranks, ranks, 128), 128 / 129 * 4001, 1e-3)


@pytest.mark.parametrize("n", [0, 4])
def test_best_of_n_needs_n_samples(n):
    with pytest.raises(ValueError, match=f"{n}"):
        exact.best_of_n(torch.zeros(3), torch.zeros(3), n)


def best_of_n_policy(ref, scores, n):
    """What best of n independent draws returns, from all tuples of draws; equal scores share."""
    policy = [0.0] * len(ref)
    for draws in itertools.product(range(len(ref)), repeat=n):
        top = max(scores[i] for i in draws)
        tied = [i for i in draws if scores[i] == top]
        for i in tied:
            policy[i] += math.prod(ref[j] for j in draws) / len(tied)
    return policy


@settings(deadline=None, max_examples=20, derandomize=True)
@given(seeds, st.integers(1, 4), st.lists(st.integers(0, 4), min_size=5, max_size=5))
def test_kl_of_best_of_n_is_at_most_the_formula(seed, n, scores):
    ref = torch.softmax(noise(seed, 5), -1).tolist()
    assert kl_between(best_of_n_policy(ref, scores, n), ref) <= exact.best_of_n_kl(n) + 1e-9


@pytest.mark.parametrize("n", [1, 2, 8, 64])
def test_kl_of_best_of_n_reaches_the_formula_where_no_two_score_alike(n):
    # best of n over many equally likely, ranked responses: response i has probability (i / m)^n - ((i - 1) / m)^n
    m = 20000
    policy = [(i / m) ** n - ((i - 1) / m) ** n for i in range(1, m + 1)]
    close(exact.best_of_n_kl(n), kl_between(policy, [1 / m] * m), 2e-3)


def test_best_of_n_kl_by_hand():
    # n = 1 is the reference; n = 4: log 4 - 3/4
    close(exact.best_of_n_kl(1), 0.0)
    close(exact.best_of_n_kl(4), 1.386294 - 0.75)


# The frontier of several prompts


@laws
@given(seeds)
def test_frontier_of_one_prompt_is_its_tilt(seed):
    rewards, grid = noise(seed, 1, 20), [5.0, 1.0, 0.2]
    kl, value = exact.frontier(rewards, betas=grid).curve(f64([1.0]))
    for i, beta in enumerate(grid):
        want, want_kl, _ = exact.tilt(rewards[0], beta)
        close(value[i], want)
        close(kl[i], want_kl)


@laws
@given(seeds)
def test_curve_tilts_each_prompt_with_one_beta_and_averages(seed):
    rewards, grid, counts = noise(seed, 3, 9) * f64([[0.1], [1.0], [3.0]]), [2.0, 0.5], [1.0, 2.0, 5.0]
    kl, value = exact.frontier(rewards, betas=grid).curve(f64(counts))
    for i, beta in enumerate(grid):
        policies = [enumerated_optimum(row, [1 / 9] * 9, beta) for row in rewards.tolist()]
        close(kl[i], mean_under(counts, [kl_between(p, [1 / 9] * 9) for p in policies]) / 8)
        close(value[i], mean_under(counts, [mean_under(p, row) for p, row in zip(policies, rewards.tolist())]) / 8)


@laws
@given(seeds)
def test_pooled_tilts_all_samples_of_all_prompts_together(seed):
    rewards, grid, counts = noise(seed, 3, 4), [2.0, 0.5], [1.0, 2.0, 5.0]
    kl, value = exact.frontier(rewards, betas=grid).pooled(f64(counts))
    pool, ref = rewards.flatten().tolist(), [c / 8 / 4 for c in counts for _ in range(4)]
    for i, beta in enumerate(grid):
        policy = enumerated_optimum(pool, ref, beta)
        close(kl[i], kl_between(policy, ref))
        close(value[i], mean_under(policy, pool))


@laws
@given(seeds)
def test_pooled_is_an_upper_bound(seed):
    # at every price of KL the pool's optimum, free to reweight prompts, gains at least as much
    rewards = noise(seed, 4, 10) + noise(seed + 1, 4, 1)
    found = exact.frontier(rewards)
    (kl, value), (pool_kl, pool_value) = found.curve(torch.ones(4).double()), found.pooled(torch.ones(4).double())
    assert (pool_value - found.betas * pool_kl >= value - found.betas * kl - 1e-9).all()


def test_where_prompts_differ_the_pool_lies_clearly_above():
    # one easy prompt and one hard: the pool gains by choosing the easy one, a policy cannot
    rewards = f64([[0.0, 1.0], [10.0, 11.0]])
    found = exact.frontier(rewards)
    curve, pool = found.curve(f64([1.0, 1.0])), found.pooled(f64([1.0, 1.0]))
    assert at(0.5, pool) > at(0.5, curve) + 2
    close(pool[1].max(), 11.0, 1e-3)
    close(curve[1].max(), 6.0, 1e-3)


@laws
@given(seeds)
def test_equal_prompts_make_curve_and_pool_equal(seed):
    found = exact.frontier(noise(seed, 1, 10).expand(3, 10))
    for got, want in zip(found.curve(torch.ones(3).double()), found.pooled(torch.ones(3).double())):
        close(got, want)


@pytest.mark.parametrize("how", ["curve", "pooled"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64])
def test_counts_of_prompts_equal_repeated_prompts(how, dtype):
    rewards, grid = noise(3, 3, 8) + noise(4, 3, 1), [3.0, 1.0, 0.3]
    counted = getattr(exact.frontier(rewards, betas=grid), how)(torch.tensor([2, 0, 3]).to(dtype))
    repeated = getattr(exact.frontier(rewards[[0, 0, 2, 2, 2]], betas=grid), how)(torch.ones(5, dtype=torch.float64))
    for got, want in zip(counted, repeated):
        close(got, want)


@pytest.mark.parametrize("how", ["curve", "pooled"])
def test_a_batch_of_counts_gives_a_curve_each(how):
    found, counts = exact.frontier(noise(5, 3, 8), betas=[3.0, 0.3]), f64([[1.0, 1.0, 1.0], [0.0, 2.0, 1.0]])
    both = getattr(found, how)(counts)
    for row in range(2):
        for got, want in zip(both, getattr(found, how)(counts[row])):
            close(got[row], want)


def test_the_optimum_lies_on_the_curve_and_worse_policies_below():
    rewards = noise(6, 3, 10)
    curve = exact.frontier(rewards).curve(torch.ones(3).double())
    ref = torch.full((3, 10), -math.log(10), dtype=torch.float64)

    def place(logps):
        policy = logps.exp()
        return (policy * (logps - ref)).sum(-1).mean().item(), (policy * rewards).sum(-1).mean().item()

    for beta in (1.5, 0.7, 0.3):
        kl, value = place(exact.optimal_logps(rewards, beta, ref))
        assert value == pytest.approx(at(kl, curve), abs=2e-3)
        kl, value = place(exact.optimal_logps(rewards + noise(7, 3, 10), beta, ref))
        assert value < at(kl, curve) - 0.02


def test_reach_is_the_optimum_for_rewards_judged_by_values():
    rewards, values, grid = noise(8, 3, 10), noise(9, 3, 10), [2.0, 0.5]
    kl, value = exact.frontier(rewards, values, grid).curve(torch.ones(3).double())
    own_kl, own_value = exact.frontier(rewards, betas=grid).curve(torch.ones(3).double())
    close(kl, own_kl)
    for i, beta in enumerate(grid):
        policies = [enumerated_optimum(row, [0.1] * 10, beta) for row in rewards.tolist()]
        close(value[i], sum(mean_under(p, v) for p, v in zip(policies, values.tolist())) / 3)
    assert (value - own_value).abs().min() > 0.1


def test_pooled_reach_is_judged_by_values_too():
    rewards, values, grid = noise(8, 3, 4), noise(9, 3, 4), [2.0, 0.5]
    kl, value = exact.frontier(rewards, values, grid).pooled(torch.ones(3).double())
    for i, beta in enumerate(grid):
        policy = enumerated_optimum(rewards.flatten().tolist(), [1 / 12] * 12, beta)
        close(kl[i], kl_between(policy, [1 / 12] * 12))
        close(value[i], mean_under(policy, values.flatten().tolist()))


def test_reach_by_another_reward_lies_nowhere_above_the_frontier():
    values = noise(10, 3, 12)
    reach, best = exact.frontier(values + noise(11, 3, 12), values), exact.frontier(values)
    kl, value = reach.curve(torch.ones(3).double())
    curve = best.curve(torch.ones(3).double())
    compared = [(k, v) for k, v in zip(kl.tolist(), value.tolist()) if curve[0].min() <= k <= curve[0].max()]
    assert len(compared) > 50
    assert all(v <= at(k, curve) + 2e-3 for k, v in compared)


def test_sampled_frontier_approaches_the_enumerated_one():
    # two prompts of six responses each, 20000 samples a prompt
    rewards, ref, grid = noise(12, 2, 6), torch.log_softmax(noise(13, 2, 6), -1), [3.0, 1.0, 0.5]
    drawn = torch.multinomial(ref.exp(), 20000, replacement=True, generator=torch.Generator().manual_seed(0))
    kl, value = exact.frontier(rewards.gather(1, drawn), betas=grid).curve(torch.ones(2).double())
    for i, beta in enumerate(grid):
        want, want_kl, _ = exact.tilt(rewards, beta, ref)
        close(value[i], want.mean(), 0.02)
        close(kl[i], want_kl.mean(), 0.02)


def test_default_betas_fall_from_hardly_any_tilt_to_one_sample():
    rewards = noise(14, 3, 200)
    found = exact.frontier(rewards)
    kl, value = found.curve(torch.ones(3).double())
    assert len(found.betas) == 120 and (found.betas.diff() < 0).all()
    assert (kl.diff() > 0).all() and (value.diff() > 0).all()
    assert kl[0] < 0.01 and value[-1] > rewards.max(-1).values.mean() - 0.05


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_default_betas_follow_the_scale_of_the_rewards(scale):
    plain, scaled = exact.frontier(noise(15, 2, 50)), exact.frontier(scale * noise(15, 2, 50))
    kl, value = plain.curve(torch.ones(2).double())
    scaled_kl, scaled_value = scaled.curve(torch.ones(2).double())
    close(scaled_value / scale, value, 1e-3)
    close(scaled_kl, kl, 1e-3)


def test_equal_rewards_give_a_frontier_of_one_point():
    kl, value = exact.frontier(torch.full((2, 5), 3.0)).curve(torch.ones(2).double())
    close(kl, torch.zeros_like(kl))
    close(value, torch.full_like(value, 3.0))


def test_shown_counts_the_betas_before_one_of_two_prompts_runs_out_of_samples():
    # rewards 0 and log 3 at beta 1: weights 1/4, 3/4, size 16/10; at beta 1/2: 1/10, 9/10, size 100/82; at 1/3: 1/28, 27/28
    found = exact.frontier(f64([[0.0, math.log(3)], [0.0, 0.0]]), betas=[1.0, 1 / 2, 1 / 3])
    assert [found.shown(least) for least in (1.0, 1.1, 1.5, 1.7)] == [3, 2, 1, 0]


@pytest.mark.parametrize(("prompts", "outliers", "shown"), [(20, 1, 1), (20, 2, 0), (19, 1, 0), (40, 2, 1), (40, 3, 0)])
def test_a_curve_is_cut_by_more_than_one_prompt_in_twenty(prompts, outliers, shown):
    calm, rare = [0.0, math.log(3)], [0.0, 10.0]  # effective sizes 1.6 and 1.0 of 2 at beta 1
    found = exact.frontier(f64([rare] * outliers + [calm] * (prompts - outliers)), betas=[1.0])
    assert found.shown(1.5) == shown


def test_beta_of_a_frontier_must_be_positive():
    with pytest.raises(ValueError, match="beta.*-0.5"):
        exact.frontier(torch.zeros(1, 2), betas=[1.0, -0.5])


def test_best_of_n_over_enumerated_responses_by_hand():
    """pi_ref = (0.5, 0.3, 0.2) in rising order of score: the best of two is the third with 1 - 0.8^2, the first with 0.5^2."""
    logps = exact.best_of_n_logps(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.5, 0.3, 0.2]).log(), 2)
    torch.testing.assert_close(logps.exp(), torch.tensor([0.25, 0.39, 0.36]))
    tied = exact.best_of_n_logps(torch.tensor([1.0, 1.0, 2.0]), torch.tensor([0.5, 0.3, 0.2]).log(), 2)
    torch.testing.assert_close(tied.exp(), torch.tensor([0.64 * 5 / 8, 0.64 * 3 / 8, 0.36]))


@pytest.mark.parametrize("n", [1, 2, 4, 16])
def test_enumerated_best_of_n_keeps_to_its_kl_and_to_draws(n):
    chance = torch.Generator().manual_seed(n)
    scores, ref = torch.randn(2, 12, generator=chance, dtype=torch.float64)
    ref = ref.log_softmax(-1)
    logps = exact.best_of_n_logps(scores, ref, n)
    assert logps.exp().sum() == pytest.approx(1.0) and (logps.exp() * (logps - ref)).sum() <= exact.best_of_n_kl(n) + 1e-9
    draws = torch.multinomial(ref.exp(), 20_000 * n, replacement=True, generator=chance).view(20_000, n)
    seen = scores[draws].max(-1).values.mean()
    assert (logps.exp() * scores).sum() == pytest.approx(seen.item(), abs=4 * scores.std().item() / 20_000**0.5)
