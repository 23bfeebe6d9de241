"""The equations of alignlab.losses: laws, and numbers worked by hand."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignlab import losses

torch.set_num_threads(1)
laws = settings(deadline=None, max_examples=40, derandomize=True)
seeds = st.integers(0, 10**6)
NAN, INF = float("nan"), float("inf")
LOG2 = math.log(2)


def f64(*rows):
    """A tensor of doubles, so that a tolerance tests the equation and not the rounding."""
    return torch.tensor(rows if len(rows) > 1 else rows[0], dtype=torch.float64)


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def run_mask(starts, ends, width):
    """(B, T) mask: 1 from each start up to, not including, each end."""
    places = torch.arange(width)
    return ((places >= torch.tensor(starts)[:, None]) & (places < torch.tensor(ends)[:, None])).long()


def grad(loss, *inputs):
    got = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, got)]


def cosine(a, b):
    return (torch.dot(a, b) / (a.norm() * b.norm())).item()


def close(got, want, tol=1e-6):
    want = torch.as_tensor(want, dtype=torch.float64)
    torch.testing.assert_close(got.detach().double(), want, rtol=0, atol=tol)


# Token log-probabilities


def test_sequence_logp_equals_step_by_step_enumeration():
    # A model over 5 tokens whose next token depends on the last alone; the prompt is token 2, the completion 0, 4, 1.
    table = torch.softmax(noise(0, 5, 5), -1)
    ids = torch.tensor([[2, 0, 4, 1]])
    got = losses.sequence_logps(losses.token_logps(table[ids].log(), ids), torch.tensor([[0, 1, 1, 1]]))
    close(got, [math.log(table[2, 0] * table[0, 4] * table[4, 1])])


def test_completions_of_a_model_have_total_probability_one():
    table = torch.log_softmax(noise(1, 5, 5), -1)
    ids = torch.tensor([(3, *tail) for tail in itertools.product(range(5), repeat=3)])
    got = losses.sequence_logps(losses.token_logps(table[ids], ids), run_mask([1] * 125, [4] * 125, 4))
    close(got.exp().sum(), 1.0, 1e-5)


def test_token_logps_are_aligned_with_ids_and_position_0_is_0():
    logits = f64([[[0.0, math.log(3)], [0.0, math.log(9)], [5.0, -5.0]]])
    got = losses.token_logps(logits, torch.tensor([[1, 1, 0]]))
    close(got, [[0.0, math.log(3 / 4), math.log(1 / 10)]])


def test_the_last_logits_predict_nothing():
    logits, ids = noise(2, 2, 4, 5).requires_grad_(), torch.tensor([[1, 2, 3, 4], [0, 0, 1, 1]])
    (g,) = grad(losses.token_logps(logits, ids).sum(), logits)
    assert g[:, -1].abs().max() == 0 and (g[:, :-1].abs().amax(-1) > 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_normalised_in_float32(dtype):
    logits, ids = (4 * noise(3, 2, 6, 300)).to(dtype), torch.randint(300, (2, 6), generator=torch.Generator().manual_seed(0))
    got = losses.token_logps(logits, ids)
    want = [[torch.log_softmax(logits[b, t - 1].double(), -1)[ids[b, t]] for t in range(1, 6)] for b in range(2)]
    assert got.dtype == torch.float32
    close(got[:, 1:], want, 1e-5)


@laws
@given(seeds, st.floats(-50, 50))
def test_a_constant_on_all_logits_changes_no_logp(seed, shift):
    logits, ids = noise(seed, 2, 4, 5), torch.randint(5, (2, 4), generator=torch.Generator().manual_seed(seed))
    close(losses.token_logps(logits + shift, ids), losses.token_logps(logits, ids).double(), 2e-5)


# Masks


def test_sequence_logps_sum_over_the_mask():
    got = losses.sequence_logps(
        f64([-9.0, -1.0, -2.0, -9.0], [-9.0, -9.0, -4.0, -9.0]), torch.tensor([[0, 1, 1, 0], [0, 0, 1, 0]])
    )
    close(got, [-3.0, -4.0])


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32, torch.float64])
def test_a_mask_of_any_type_means_the_same(dtype):
    values, mask = f64([1.0, 2.0, 4.0], [8.0, 16.0, 32.0]), torch.tensor([[0, 1, 1], [0, 1, 0]]).to(dtype)
    close(losses.masked(values, mask), [[0, 2, 4], [0, 16, 0]])
    close(losses.masked_mean(values, mask), 22 / 3)
    close(losses.sequence_logps(values, mask), [6, 16])
    assert losses.last_token(mask).tolist() == [2, 1]
    advantages, _ = losses.gae(values, torch.zeros_like(values), mask, 1.0, 1.0)
    close(advantages, [[0, 6, 4], [0, 16, 0]])


def test_masked_drops_nan_and_infinity():
    got = losses.masked(f64([NAN, 1.0, INF, -INF]), torch.tensor([[0, 1, 0, 0]]))
    assert got.tolist() == [[0, 1, 0, 0]]


def test_masked_mean_is_over_ones_and_0_where_there_are_none():
    values = f64([1.0, 2.0, NAN], [6.0, INF, NAN])
    close(losses.masked_mean(values, torch.tensor([[1, 1, 0], [1, 0, 0]])), 3.0)
    close(losses.masked_mean(values, torch.zeros(2, 3)), 0.0)


@laws
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), min_size=1, max_size=4))
def test_last_token_is_the_last_one_of_the_row(spans):
    starts, ends = [s for s, _ in spans], [s + n for s, n in spans]
    assert losses.last_token(run_mask(starts, ends, 11)).tolist() == [e - 1 for e in ends]


# SFT and the reward model


def test_sft_loss_by_hand_and_without_the_prompt():
    # tokens -1, -2, -6 count: mean 3; a mean of the rows' means would give (1.5 + 6) / 2.
    logps = f64([-99.0, -1.0, -2.0, NAN], [-99.0, -6.0, NAN, NAN])
    close(losses.sft_loss(logps, torch.tensor([[0, 1, 1, 0], [0, 1, 0, 0]])), 3.0)


def test_sft_loss_of_a_uniform_model_is_log_v():
    ids = torch.tensor([[0, 1, 2, 3]])
    close(losses.sft_loss(losses.token_logps(torch.zeros(1, 4, 7), ids), torch.tensor([[0, 1, 1, 1]])), math.log(7))


@laws
@given(st.lists(st.integers(1, 6), min_size=4, max_size=4), seeds)
def test_sft_gradient_of_the_batch_is_the_token_weighted_mean_of_its_halves(lengths, seed):
    logps, mask = noise(seed, 4, 7).requires_grad_(), run_mask([1] * 4, [1 + n for n in lengths], 7)
    (whole,) = grad(losses.sft_loss(logps, mask), logps)
    halves = sum(grad(losses.sft_loss(logps[i], mask[i]) * mask[i].sum(), logps)[0] for i in (slice(0, 2), slice(2, 4)))
    close(whole, halves / sum(lengths))


def test_preference_loss_by_hand():
    # odds of 3 to 1 and of 1 to 3: -log(3/4) and -log(1/4)
    got = losses.preference_loss(f64([math.log(3), 0.0]), f64([0.0, math.log(3)]))
    close(got, -(math.log(3 / 4) + math.log(1 / 4)) / 2)


@laws
@given(seeds, st.floats(-100, 100))
def test_a_constant_on_all_scores_changes_no_preference_loss(seed, shift):
    chosen, rejected = noise(seed, 2, 5)
    close(losses.preference_loss(chosen + shift, rejected + shift), losses.preference_loss(chosen, rejected))


def test_preference_loss_of_extreme_scores_is_finite_with_full_gradient():
    # far on the wrong side the loss is the difference itself, its slope 1
    chosen = f64([-500.0]).requires_grad_()
    loss = losses.preference_loss(chosen, f64([500.0]))
    close(loss, 1000.0)
    close(grad(loss, chosen)[0], [-1.0])


# KL estimates


def test_kl_estimates_by_hand():
    # log r = log 2: k1 = -0.6931, k2 = 0.6931^2 / 2 = 0.2402, k3 = 2 - 1 - 0.6931 = 0.3069
    logps, ref = f64([math.log(0.25)]), f64([math.log(0.5)])
    for kind, want in (("k1", -0.693147), ("k2", 0.240227), ("k3", 0.306853)):
        close(losses.kl_estimate(logps, ref, kind), [want], 1e-6)


@pytest.mark.parametrize("kind", ["k1", "k2", "k3"])
def test_kl_estimates_are_zero_where_both_agree(kind):
    logps = noise(4, 3, 4)
    close(losses.kl_estimate(logps, logps.clone(), kind), torch.zeros(3, 4))


@laws
@given(seeds)
def test_k1_and_k3_have_the_kl_as_their_mean_under_pi(seed):
    logps, ref = torch.log_softmax(noise(seed, 2, 7), -1)
    kl = sum(p * math.log(p / q) for p, q in zip(logps.exp().tolist(), ref.exp().tolist()))
    for kind in ("k1", "k3"):
        close((logps.exp() * losses.kl_estimate(logps, ref, kind)).sum(), kl)


@laws
@given(seeds, st.floats(0.1, 20))
def test_k2_and_k3_are_never_negative(seed, spread):
    logps, ref = -spread * noise(seed, 2, 50).abs()
    assert (losses.kl_estimate(logps, ref, "k2") >= 0).all() and (losses.kl_estimate(logps, ref, "k3") >= -1e-12).all()


def test_k1_can_be_negative_and_k2_is_biased():
    logps, ref = f64([0.9, 0.1]).log(), f64([0.5, 0.5]).log()
    assert losses.kl_estimate(logps, ref, "k1").min() < 0
    # KL = .9 log 1.8 + .1 log .2 = 0.3681; E[k2] = .9 (log 1.8)^2 / 2 + .1 (log .2)^2 / 2 = 0.2850
    close((logps.exp() * losses.kl_estimate(logps, ref, "k2")).sum(), 0.2850, 1e-4)


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_sampled_mean_is_within_three_standard_errors_of_the_kl(kind):
    logps, ref = torch.log_softmax(noise(5, 2, 8), -1)
    drawn = torch.multinomial(logps.exp(), 20000, replacement=True, generator=torch.Generator().manual_seed(0))
    got = losses.kl_estimate(logps[drawn], ref[drawn], kind)
    assert abs(got.mean() - (logps.exp() * (logps - ref)).sum()) < 3 * got.std() / math.sqrt(20000)


# A policy of two steps over three tokens: first[a], then[a, b]. All nine sequences are enumerated.


def two_steps(seed):
    """Policy parameters (12,) and, given parameters, per-token log-probabilities (9, 2) of all sequences."""
    pairs = torch.tensor(list(itertools.product(range(3), repeat=2)))

    def logps(params):
        first, then = torch.log_softmax(params[:3], -1), torch.log_softmax(params[3:].view(3, 3), -1)
        return torch.stack([first[pairs[:, 0]], then[pairs[:, 0], pairs[:, 1]]], -1)

    return noise(seed, 12).requires_grad_(), logps


def kl_gradients(seed, ref_params=None):
    """The enumerated gradient of KL(pi, ref), and what each form of estimate gives in expectation under pi."""
    params, tokens_of = two_steps(seed)
    tokens, ref = tokens_of(params), tokens_of(2 * noise(seed + 1, 12) if ref_params is None else ref_params)
    whole, whole_ref = tokens.sum(-1), ref.sum(-1)
    weight = whole.exp().detach()
    estimate = losses.kl_estimate
    forms = {
        "exact": (whole.exp() * (whole - whole_ref)).sum(),
        "k1 loss": (weight * estimate(whole, whole_ref, "k1")).sum(),
        "k2 loss": (weight * estimate(whole, whole_ref, "k2")).sum(),
        "k2 loss per token": (weight * estimate(tokens, ref, "k2").sum(-1)).sum(),
        "k1 reward": (weight * estimate(tokens, ref, "k1").sum(-1).detach() * whole).sum(),
    }
    return {name: torch.autograd.grad(form, params, retain_graph=True)[0] for name, form in forms.items()}


@pytest.mark.parametrize("seed", range(0, 40, 10))
def test_k1_as_a_loss_has_zero_expected_gradient(seed):
    got = kl_gradients(seed)
    assert got["exact"].norm() > 0.1 and got["k1 loss"].norm() < 1e-12


@pytest.mark.parametrize("seed", range(0, 40, 10))
def test_k2_of_the_sequence_gives_the_exact_gradient(seed):
    got = kl_gradients(seed)
    close(got["k2 loss"], got["exact"], 1e-12)


@pytest.mark.parametrize("seed", range(0, 40, 10))
def test_k1_as_a_reward_gives_the_exact_gradient(seed):
    got = kl_gradients(seed)
    close(got["k1 reward"], got["exact"], 1e-12)


def test_k2_per_token_misses_what_a_token_does_to_later_ones():
    # The policies differ only after a first token 2, so the first step should learn to avoid it; per token it learns nothing.
    ref = noise(2, 12)
    ref[9:] = f64([0.0, 4.0, 8.0])
    got = kl_gradients(2, ref)
    assert got["exact"][2] > 0.3 and got["k2 loss per token"][:3].abs().max() < 1e-12
    assert cosine(got["k2 loss per token"], got["exact"]) < 0.9
    assert cosine(got["k2 loss"], got["exact"]) > 0.999


# The whole-vocabulary KL, entropy


@laws
@given(seeds, st.floats(0, 20))
def test_exact_kl_is_never_negative_and_zero_for_equals(seed, spread):
    logits, ref = spread * noise(seed, 2, 3, 6)
    assert (losses.exact_kl(logits, ref) >= -1e-6).all()
    close(losses.exact_kl(logits, logits + 3), torch.zeros(3), 1e-5)


@laws
@given(seeds)
def test_exact_kl_equals_enumeration(seed):
    logits, ref = noise(seed, 2, 3, 6)
    p, q = torch.softmax(logits, -1).tolist(), torch.softmax(ref, -1).tolist()
    got = losses.exact_kl(logits, ref)
    close(got, [sum(a * math.log(a / b) for a, b in zip(*rows)) for rows in zip(p, q)], 1e-5)
    assert got.dtype == torch.float32


def test_exact_kl_of_policy_to_reference_by_hand_in_this_order():
    # KL((.9, .1), (.5, .5)) = .9 log 1.8 + .1 log .2 = 0.3681; the other way round it is 0.5108
    p, q = f64([0.9, 0.1]).log(), f64([0.5, 0.5]).log()
    close(losses.exact_kl(p, q), 0.3681, 1e-4)
    close(losses.exact_kl(q, p), 0.5108, 1e-4)


@pytest.mark.parametrize("seed", range(0, 40, 10))
def test_rao_blackwell_kl_has_the_same_mean_as_k1_and_less_variance(seed):
    params, tokens_of = two_steps(seed)
    other = noise(seed + 1, 12)
    tokens, ref = tokens_of(params).detach(), tokens_of(other)
    steps = losses.exact_kl(params[:3].detach(), other[:3]), losses.exact_kl(params[3:].detach().view(3, 3), other[3:].view(3, 3))
    blackwell = (steps[0] + steps[1].repeat_interleave(3)).double()
    k1 = losses.kl_estimate(tokens, ref, "k1").sum(-1)
    weight = tokens.sum(-1).exp()

    def moments(x):
        mean = (weight * x).sum()
        return mean, (weight * (x - mean) ** 2).sum()

    close(moments(blackwell)[0], moments(k1)[0], 1e-6)
    assert moments(blackwell)[1] < moments(k1)[1]


def test_sampled_k1_agrees_with_exact_kl_within_error():
    logits, ref = noise(6, 2, 8)
    drawn = torch.multinomial(torch.softmax(logits, -1), 20000, replacement=True, generator=torch.Generator().manual_seed(1))
    k1 = losses.kl_estimate(torch.log_softmax(logits, -1)[drawn], torch.log_softmax(ref, -1)[drawn], "k1")
    assert abs(k1.mean() - losses.exact_kl(logits, ref)) < 3 * k1.std() / math.sqrt(20000)


def test_entropy_by_hand():
    # (1/2, 1/4, 1/4): 1.5 bits; uniform over 5: log 5; one certain token: 0
    close(losses.entropy(f64([0.5, 0.25, 0.25]).log()), 1.5 * LOG2, 1e-5)
    close(losses.entropy(torch.zeros(2, 5)), [math.log(5)] * 2, 1e-5)
    close(losses.entropy(torch.tensor([200.0, -200.0, 0.0])), 0.0, 1e-5)


# Rewards of PPO


def test_shaped_rewards_by_hand():
    # beta .5; log-ratios (1, -2) and (3): rewards (-.5, 1 + 10) and (-1.5 + 20)
    logps, ref = f64([-7.0, -1.0, -4.0, -7.0], [-7.0, -1.0, -7.0, -7.0]), f64([-9.0, -2.0, -2.0, -9.0], [-9.0, -4.0, -9.0, -9.0])
    mask = torch.tensor([[0, 1, 1, 0], [0, 1, 0, 0]])
    close(losses.shape_rewards(f64([10.0, 20.0]), logps, ref, mask, 0.5), [[0, -0.5, 11, 0], [0, 18.5, 0, 0]])


@laws
@given(seeds, st.floats(0, 5), st.lists(st.integers(1, 5), min_size=3, max_size=3))
def test_shaped_rewards_sum_to_score_less_beta_times_k1(seed, beta, lengths):
    logps, ref, mask = noise(seed, 3, 8), noise(seed + 1, 3, 8), run_mask([2] * 3, [2 + n for n in lengths], 8)
    scores = noise(seed + 2, 3)
    want = [scores[i] - beta * sum(logps[i, t] - ref[i, t] for t in range(2, 2 + n)) for i, n in enumerate(lengths)]
    close(losses.shape_rewards(scores, logps, ref, mask, beta).sum(-1), want)


@laws
@given(seeds, st.lists(st.integers(1, 5), min_size=3, max_size=3))
def test_only_the_last_token_carries_the_score(seed, lengths):
    logps, ref, mask = noise(seed, 3, 8), noise(seed + 1, 3, 8), run_mask([2] * 3, [2 + n for n in lengths], 8)
    change = losses.shape_rewards(f64([1.0, 2.0, 3.0]), logps, ref, mask, 0.1) - losses.shape_rewards(
        torch.zeros(3, dtype=torch.float64), logps, ref, mask, 0.1
    )
    want = torch.zeros(3, 8)
    for i, n in enumerate(lengths):
        want[i, 1 + n] = i + 1
    close(change, want)


def test_no_gradient_passes_through_shaped_rewards():
    scores, logps, ref = noise(0, 2).requires_grad_(), noise(1, 2, 3).requires_grad_(), noise(2, 2, 3).requires_grad_()
    assert not losses.shape_rewards(scores, logps, ref, torch.ones(2, 3), 0.1).requires_grad


def test_padding_changes_no_shaped_reward():
    logps, ref, mask = noise(1, 2, 4), noise(2, 2, 4), torch.tensor([[0, 1, 1, 0], [0, 1, 0, 0]])
    spoilt = logps.masked_fill(mask == 0, NAN), ref.masked_fill(mask == 0, INF)
    close(losses.shape_rewards(noise(3, 2), *spoilt, mask, 0.3), losses.shape_rewards(noise(3, 2), logps, ref, mask, 0.3))


def test_a_mask_row_without_a_one_has_no_last_token_to_score():
    with pytest.raises(ValueError, match="mask"):
        losses.shape_rewards(torch.zeros(2), torch.zeros(2, 3), torch.zeros(2, 3), torch.tensor([[0, 1, 1], [0, 0, 0]]), 0.1)


def test_adapt_beta_by_hand():
    # error clipped to +-.2; beta * (1 + error * 50 / 100)
    assert losses.adapt_beta(2.0, kl=30.0, target=10.0, samples=50, horizon=100) == pytest.approx(2.2)
    assert losses.adapt_beta(2.0, kl=1.0, target=10.0, samples=50, horizon=100) == pytest.approx(1.8)
    assert losses.adapt_beta(2.0, kl=11.0, target=10.0, samples=50, horizon=100) == pytest.approx(2.1)
    assert losses.adapt_beta(2.0, kl=10.0, target=10.0, samples=50, horizon=100) == pytest.approx(2.0)


# Advantages


@laws
@given(seeds, st.floats(0, 1), st.floats(0, 1), st.lists(st.integers(1, 6), min_size=3, max_size=3))
def test_gae_equals_the_double_sum(seed, gamma, lam, lengths):
    rewards, values = noise(seed, 3, 8), noise(seed + 1, 3, 8)
    want = torch.zeros(3, 8, dtype=torch.float64)
    for i, n in enumerate(lengths):
        r, v = rewards[i, 1 : 1 + n].tolist(), values[i, 1 : 1 + n].tolist() + [0.0]
        for t in range(n):
            want[i, 1 + t] = sum((gamma * lam) ** (s - t) * (r[s] + gamma * v[s + 1] - v[s]) for s in range(t, n))
    close(losses.gae(rewards, values, run_mask([1] * 3, [1 + n for n in lengths], 8), gamma, lam)[0], want)


@laws
@given(seeds, st.floats(0, 1))
def test_gae_at_lambda_1_is_return_minus_value(seed, gamma):
    rewards, values = noise(seed, 1, 5), noise(seed + 1, 1, 5)
    want = [sum(gamma ** (s - t) * rewards[0, s] for s in range(t, 5)) - values[0, t] for t in range(5)]
    close(losses.gae(rewards, values, torch.ones(1, 5), gamma, 1.0)[0], [want])


def test_gae_at_lambda_0_is_one_step_td():
    # r + .5 V' - V: 1 + .5 * 4 - 2, 2 + .5 * 8 - 4, 3 - 8
    got, _ = losses.gae(f64([[1.0, 2.0, 3.0]]), f64([[2.0, 4.0, 8.0]]), torch.ones(1, 3), 0.5, 0.0)
    close(got, [[1, 2, -5]])


def test_gae_by_hand():
    # gamma lam = .25; deltas 1, 2, -5 as above: -5, 2 - 1.25, 1 + .25 * .75
    got, _ = losses.gae(f64([[1.0, 2.0, 3.0]]), f64([[2.0, 4.0, 8.0]]), torch.ones(1, 3), 0.5, 0.5)
    close(got, [[1.1875, 0.75, -5]])


@laws
@given(seeds, st.floats(0, 1), st.floats(0, 1))
def test_returns_are_advantages_plus_values_and_0_in_padding(seed, gamma, lam):
    rewards, values, mask = noise(seed, 2, 6), noise(seed + 1, 2, 6), run_mask([1, 2], [4, 6], 6)
    advantages, returns = losses.gae(rewards, values, mask, gamma, lam)
    close(returns, (advantages + values) * mask)
    assert (advantages[mask == 0] == 0).all()


@pytest.mark.parametrize("rubbish", [NAN, INF, -INF, 1e30])
def test_contents_of_prompt_and_padding_change_no_advantage(rubbish):
    rewards, values, mask = noise(7, 2, 6), noise(8, 2, 6), run_mask([1, 2], [4, 6], 6)
    clean = losses.gae(rewards, values, mask, 0.9, 0.8)
    spoilt = losses.gae(rewards.masked_fill(mask == 0, rubbish), values.masked_fill(mask == 0, rubbish), mask, 0.9, 0.8)
    for got, want in zip(spoilt, clean):
        close(got, want)


def test_nothing_crosses_a_gap_in_the_mask():
    rewards, values = noise(9, 1, 5), noise(10, 1, 5)
    both, _ = losses.gae(rewards, values, torch.tensor([[1, 1, 0, 1, 1]]), 0.9, 0.8)
    first, _ = losses.gae(rewards, values, torch.tensor([[1, 1, 0, 0, 0]]), 0.9, 0.8)
    second, _ = losses.gae(rewards, values, torch.tensor([[0, 0, 0, 1, 1]]), 0.9, 0.8)
    close(both, first + second)


def test_no_gradient_passes_through_advantages_and_returns():
    rewards, values = noise(0, 2, 3).requires_grad_(), noise(1, 2, 3).requires_grad_()
    assert not any(x.requires_grad for x in losses.gae(rewards, values, torch.ones(2, 3), 1.0, 0.95))


@laws
@given(seeds, st.floats(0.01, 100), st.floats(-100, 100))
def test_normalised_advantages_have_masked_mean_0_and_deviation_1(seed, spread, centre):
    mask = run_mask([2, 5, 1, 0], [60, 40, 50, 58], 60)
    got = losses.normalise((centre + spread * noise(seed, 4, 60)).masked_fill(mask == 0, NAN), mask)
    inside = got[mask == 1]
    assert abs(inside.mean()) < 1e-4 and abs(inside.std(correction=0) - 1) < 1e-3
    assert (got[mask == 0] == 0).all()


def test_normalising_equal_advantages_gives_no_nan():
    close(losses.normalise(torch.full((1, 3), 5.0), torch.tensor([[1, 1, 0]])), [[0, 0, 0]], 1e-3)


# The clipped loss


@pytest.mark.parametrize(
    "advantage, ratio, want_loss, want_slope",
    [
        (2.0, 1.5, -2.4, 0.0),  # better, and already past 1.2: -2 * 1.2, nothing more to gain
        (2.0, 0.5, -1.0, -1.0),  # better, but made less likely: -2 * .5, whole slope
        (-2.0, 1.5, 3.0, 3.0),  # worse, but made more likely: 2 * 1.5, whole slope
        (-2.0, 0.5, 1.6, 0.0),  # worse, and already below .8: 2 * .8, nothing more to gain
    ],
)
def test_clipped_loss_has_slope_only_where_the_clip_has_not_been_earned(advantage, ratio, want_loss, want_slope):
    # the slope by log-probability, d ratio / d logp = ratio
    logps = f64([[math.log(ratio) - 1.0]]).requires_grad_()
    loss = losses.clipped_policy_loss(logps, f64([[-1.0]]), f64([[advantage]]), torch.ones(1, 1), 0.2)
    close(loss, want_loss)
    close(grad(loss, logps)[0], [[want_slope]])


def test_clipped_loss_starts_at_minus_the_mean_advantage_with_the_policy_gradient():
    old, advantages, mask = noise(11, 2, 4), noise(12, 2, 4), run_mask([1, 1], [4, 2], 4)
    logps = old.clone().requires_grad_()
    loss = losses.clipped_policy_loss(logps, old, advantages, mask, 0.2)
    close(loss, -(advantages * mask).sum() / 4)
    close(grad(loss, logps)[0], -advantages * mask / 4)


@laws
@given(seeds, st.floats(0.05, 0.5))
def test_clipped_loss_is_never_below_the_unclipped_one(seed, epsilon):
    logps, old, advantages = noise(seed, 3, 2, 4)
    unclipped = -((logps - old).exp() * advantages).mean()
    assert losses.clipped_policy_loss(logps, old, advantages, torch.ones(2, 4), epsilon) >= unclipped - 1e-9


def test_padding_changes_no_clipped_loss_and_gets_no_gradient():
    mask = torch.tensor([[0, 1, 1, 0]])
    old, advantages = f64([[NAN, -1.0, -2.0, 3.0]]), f64([[INF, 1.0, 2.0, NAN]])
    logps = f64([[0.0, -1.0, -2.0, -50.0]]).requires_grad_()
    loss = losses.clipped_policy_loss(logps, old, advantages, mask, 0.2)
    close(loss, -1.5)
    close(grad(loss, logps)[0], [[0, -0.5, -1, 0]])


# The value loss


def test_value_loss_by_hand():
    # errors 1 and 3: (1 + 9) / 2 / 2
    got = losses.value_loss(
        f64([[9.0, 1.0, 2.0, NAN]]), torch.zeros(1, 4), f64([[0.0, 2.0, 5.0, 0.0]]), torch.tensor([[0, 1, 1, 0]])
    )
    close(got, 2.5)


@pytest.mark.parametrize(
    "value, returned, want_loss, want_slope",
    [
        (1.0, 2.0, 1.62, 0.0),  # right way and past old + .2: the clipped error 1.8 is the larger, no slope
        (-1.0, 2.0, 4.5, -3.0),  # wrong way: the unclipped error 3 is the larger, whole slope
        (0.1, 2.0, 1.805, -1.9),  # inside the clip: the error 1.9 either way
        (1.0, 0.0, 0.5, 1.0),  # overshot: the unclipped error 1, not the clipped .2
    ],
)
def test_clipped_value_loss_by_hand(value, returned, want_loss, want_slope):
    # all three numbers 5 higher than in the table, the old value at 5
    values = f64([[5 + value]]).requires_grad_()
    loss = losses.value_loss(values, f64([[5.0]]), f64([[5 + returned]]), torch.ones(1, 1), clip_epsilon=0.2)
    close(loss, want_loss)
    close(grad(loss, values)[0], [[want_slope]])


def test_the_larger_error_is_taken_token_by_token():
    # the first and second rows of the table above in one batch: a larger of the two means would be (1 + 9) / 4
    got = losses.value_loss(f64([[1.0, -1.0]]), torch.zeros(1, 2), f64([[2.0, 2.0]]), torch.ones(1, 2), clip_epsilon=0.2)
    close(got, (1.62 + 4.5) / 2)


@pytest.mark.parametrize("values, want", [([0, 2], 1.0), ([5, 5], 0.0), ([0, 1], 0.75), ([2, 0], -3.0), ([10, 12], 1.0)])
def test_explained_variance_by_hand(values, want):
    # returns 0 and 2, variance 1; errors (0, 0), (-5, -3), (0, 1), (-2, 2), (-10, -10): their variances 0, 1, 1/4, 4, 0
    got = losses.explained_variance(f64([[NAN, *values]]), f64([[7.0, 0.0, 2.0]]), torch.tensor([[0, 1, 1]]))
    close(got, want, 1e-5)


# DPO

HEADS = [losses.dpo_loss, losses.ipo_loss]
pairs = st.lists(st.floats(-30, 30), min_size=4, max_size=4)


def difference(chosen, rejected, ref_chosen, ref_rejected):
    return (chosen - ref_chosen) - (rejected - ref_rejected)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_dpo_loss_is_log_2_while_policy_and_reference_agree(smoothing):
    chosen, rejected = noise(13, 2, 6)
    close(losses.dpo_loss(chosen, rejected, chosen, rejected, 0.1, smoothing), LOG2)


def test_dpo_loss_by_hand():
    # difference (-1 + 3) - (-5 + 4) = 3; beta (log 3) / 3: -log(3/4). With smoothing .2: -.8 log(3/4) - .2 log(1/4)
    logps = f64([[-1.0], [-5.0], [-3.0], [-4.0]])
    close(losses.dpo_loss(*logps, beta=math.log(3) / 3), -math.log(3 / 4))
    close(losses.dpo_loss(*logps, beta=math.log(3) / 3, label_smoothing=0.2), -0.8 * math.log(3 / 4) - 0.2 * math.log(1 / 4))


def test_dpo_loss_is_the_mean_over_pairs():
    logps = noise(14, 4, 3)
    close(losses.dpo_loss(*logps, beta=0.7), sum(losses.dpo_loss(*logps[:, i : i + 1], beta=0.7) for i in range(3)) / 3)


@laws
@given(pairs, st.floats(0.01, 3))
def test_swapping_chosen_and_rejected_negates_the_margin(logps, beta):
    # -log sigmoid(-m) - (-log sigmoid(m)) = m
    c, r, rc, rr = f64(logps)[:, None]
    swapped = losses.dpo_loss(r, c, rr, rc, beta) - losses.dpo_loss(c, r, rc, rr, beta)
    close(swapped, beta * difference(*logps), 1e-5)


@pytest.mark.parametrize("loss", HEADS)
def test_at_the_start_swapping_negates_the_gradient(loss):
    start = noise(15, 2, 4)
    chosen, rejected = (x.clone().requires_grad_() for x in start)
    straight = grad(loss(chosen, rejected, *start, 0.5), chosen, rejected)
    swapped = grad(loss(rejected, chosen, *start.flip(0), 0.5), chosen, rejected)
    for a, b in zip(straight, swapped):
        assert a.abs().min() > 0
        close(a, -b)


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0, 5.0])
def test_at_the_start_the_gradient_is_half_beta_times_that_of_the_difference(beta):
    logits = noise(16, 4, 5, 6).requires_grad_()
    ids, mask = torch.randint(6, (4, 5), generator=torch.Generator().manual_seed(0)), run_mask([2] * 4, [5, 4, 5, 3], 5)
    logps = losses.sequence_logps(losses.token_logps(logits, ids), mask)
    ref = logps.detach()
    (scaled,) = torch.autograd.grad(losses.dpo_loss(logps[:2], logps[2:], ref[:2], ref[2:], beta), logits, retain_graph=True)
    (plain,) = grad(difference(logps[:2], logps[2:], ref[:2], ref[2:]).mean(), logits)
    close(scaled, -beta / 2 * plain, 1e-6)
    assert scaled.norm() / plain.norm() == pytest.approx(beta / 2, rel=1e-4)


@pytest.mark.parametrize("beta", [0.1, 1.0])
@pytest.mark.parametrize("epsilon", [0.1, 0.25, 0.4])
def test_cdpo_has_no_gradient_where_the_model_believes_the_labels_as_far_as_they_can_be(epsilon, beta):
    # sigmoid(beta * difference) = 1 - epsilon
    chosen = f64([math.log((1 - epsilon) / epsilon) / beta]).requires_grad_()
    zero = torch.zeros(1, dtype=torch.float64)

    def slope(at):
        return grad(losses.dpo_loss(at, zero, zero, zero, beta, epsilon), at)[0].item()

    assert slope(chosen) == pytest.approx(0, abs=1e-9)
    assert slope((chosen - 0.1).detach().requires_grad_()) < -1e-5 and slope((chosen + 0.1).detach().requires_grad_()) > 1e-5


@laws
@given(st.floats(0.01, 2))
def test_dpo_without_smoothing_always_wants_a_larger_difference(beta):
    chosen, zero = f64([-20.0, 0.0, 20.0]).requires_grad_(), torch.zeros(3, dtype=torch.float64)
    assert (grad(losses.dpo_loss(chosen, zero, zero, zero, beta), chosen)[0] < 0).all()


@laws
@given(st.floats(0.01, 5), pairs)
def test_ipo_is_zero_and_flat_at_a_difference_of_one_over_two_tau(tau, logps):
    _, r, rc, rr = f64(logps)[:, None]
    chosen = (rc + r - rr + 1 / (2 * tau)).requires_grad_()
    loss = losses.ipo_loss(chosen, r, rc, rr, tau)
    close(loss, 0.0, 1e-9)
    close(grad(loss, chosen)[0], [0.0], 1e-6)
    assert losses.ipo_loss(chosen + 0.5, r, rc, rr, tau) > 0.1 and losses.ipo_loss(chosen - 0.5, r, rc, rr, tau) > 0.1


def test_ipo_loss_by_hand():
    # tau .25 aims at 2; differences 3 and 0: (1 + 4) / 2
    zero = torch.zeros(2, dtype=torch.float64)
    close(losses.ipo_loss(f64([3.0, 0.0]), zero, zero, zero, 0.25), 2.5)


def dpo_from_logits(logits, ids, mask):
    """DPO loss of two rows, chosen and rejected, against a uniform reference."""
    rows = losses.sequence_logps(losses.token_logps(logits, ids), mask)
    ref = losses.sequence_logps(losses.token_logps(torch.zeros_like(logits), ids), mask)
    return losses.dpo_loss(rows[:1], rows[1:], ref[:1], ref[1:], 0.5)


def test_prompt_and_padding_do_not_enter_the_dpo_loss():
    # prompt at positions 0 to 2, completions at 3 to 4 and at 3; logits at t predict the token at t + 1
    logits, ids, mask = noise(17, 2, 6, 4).requires_grad_(), torch.tensor([[0, 1, 2, 3, 1, 0]] * 2), run_mask([3, 3], [5, 4], 6)
    (g,) = grad(dpo_from_logits(logits, ids, mask), logits)
    assert (g.abs().amax(-1) > 0).tolist() == [
        [False, False, True, True, False, False],
        [False, False, True, False, False, False],
    ]


def test_dpo_sums_over_tokens_so_that_two_equal_tokens_count_twice():
    # each completion token is 3 times as likely as under a uniform reference over 4; the rejected row has one, the chosen two
    logits = torch.full((2, 4, 4), math.log(1 / 12), dtype=torch.float64)
    logits[..., 1] = math.log(3 / 4)
    ids, beta = torch.tensor([[0, 1, 1, 1]] * 2), 0.5
    got = dpo_from_logits(logits, ids, torch.tensor([[0, 1, 1, 0], [0, 1, 0, 0]]))
    close(got, math.log(1 + math.exp(-beta * (2 * math.log(3) - math.log(3)))))


# Errors name the value


@pytest.mark.parametrize("loss", HEADS)
@pytest.mark.parametrize("beta", [0.0, -0.5])
def test_beta_must_be_positive(loss, beta):
    with pytest.raises(ValueError, match=f"beta.*{beta}"):
        loss(*torch.zeros(4, 2), beta=beta)


def test_beta_of_shaped_rewards_may_be_zero_and_not_negative():
    zeros = torch.zeros(1, 2)
    close(losses.shape_rewards(torch.ones(1), zeros - 5, zeros, torch.ones(1, 2), 0.0), [[0, 1]])
    with pytest.raises(ValueError, match="beta.*-0.5"):
        losses.shape_rewards(torch.ones(1), zeros, zeros, torch.ones(1, 2), -0.5)


@pytest.mark.parametrize("smoothing", [-0.1, 0.5, 0.7])
def test_label_smoothing_must_lie_between_0_and_a_half(smoothing):
    with pytest.raises(ValueError, match=f"label_smoothing.*{smoothing}"):
        losses.dpo_loss(*torch.zeros(4, 2), beta=0.1, label_smoothing=smoothing)


@pytest.mark.parametrize("loss", HEADS)
@pytest.mark.parametrize("odd", range(4))
def test_dpo_needs_equal_shapes(loss, odd):
    with pytest.raises(ValueError, match=r"shape.*\(3,\)"):
        loss(*[torch.zeros(3 if i == odd else 2) for i in range(4)], beta=0.1)


@pytest.mark.parametrize("wrong", [(1,), (2, 1)])
def test_shapes_that_would_broadcast_are_refused(wrong):
    with pytest.raises(ValueError, match="shape"):
        losses.dpo_loss(torch.zeros(2), torch.zeros(2), torch.zeros(2), torch.zeros(wrong), beta=0.1)
    with pytest.raises(ValueError, match="shape"):
        losses.preference_loss(torch.zeros(2), torch.zeros(wrong))
    with pytest.raises(ValueError, match="shape"):
        losses.kl_estimate(torch.zeros(2), torch.zeros(wrong), "k1")


@pytest.mark.parametrize("epsilon", [0.0, -0.2])
def test_clip_epsilon_must_be_positive(epsilon):
    zeros = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=f"clip_epsilon.*{epsilon}"):
        losses.clipped_policy_loss(zeros, zeros, zeros, torch.ones(1, 2), epsilon)
    with pytest.raises(ValueError, match=f"clip_epsilon.*{epsilon}"):
        losses.value_loss(zeros, zeros, zeros, torch.ones(1, 2), epsilon)


def test_unknown_kl_estimate_is_named():
    with pytest.raises(ValueError, match="k4"):
        losses.kl_estimate(torch.zeros(1), torch.zeros(1), "k4")
