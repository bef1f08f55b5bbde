"""Sinkhorn as a vector and as a matrix, the cross-entropy in pieces and written out, KoLeo, and the same on one and on two processes."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import run_ranks
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.errors import ParameterError
from skelnb.objectives.prototypes import koleo, prototype_cross_entropy, sinkhorn, sinkhorn_weights, weight_normed


def unit(*shape, seed=0, dtype=torch.float64):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1).to(dtype)


def as_written(logits, temperature, iterations, weights):
    "The matrix, its columns and rows divided in turns, in NumPy; rows of no weight are left out."
    q = np.exp(np.asarray(logits) / temperature)
    shares = np.asarray(weights) / np.asarray(weights).sum()
    q = q * shares[:, None] / (q * shares[:, None]).sum()
    for _ in range(iterations):
        q = q / q.sum(0) / q.shape[1]
        q = q / q.sum(1, keepdims=True) * shares[:, None]
    return q / shares[:, None]


@given(n=st.integers(1, 30), k=st.integers(1, 20), iterations=st.integers(1, 5), chunk=st.one_of(st.none(), st.integers(1, 40)), weighted=st.booleans(),
       seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_sinkhorn_vector_and_matrix(n, k, iterations, chunk, weighted, seed):
    x, w = unit(n, 6, seed=seed), unit(k, 6, seed=seed + 100)
    weights = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1 if weighted else None
    matrix = sinkhorn(x @ w.T, 0.04, iterations, weights)
    plain = as_written(x @ w.T, 0.04, iterations, np.ones(n) if weights is None else weights)
    log_r = sinkhorn_weights(x, w, 0.04, iterations, chunk, weights)
    np.testing.assert_allclose(matrix, plain, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose((x @ w.T / 0.04 + log_r).softmax(1), plain, rtol=1e-9, atol=1e-15)
    assert abs(log_r.mean()) < 1e-9


def test_sinkhorn_sums_in_float32():
    x, w = unit(500, 8, dtype=torch.float32), unit(50, 8, seed=1, dtype=torch.float32)
    q = sinkhorn(x @ w.T, 0.07)
    assert torch.allclose(q.sum(1), torch.ones(500), atol=1e-6) and (q.sum(0) / 10 - 1).abs().max() < 0.3
    far = sinkhorn(x @ w.T, 0.07, 100)
    assert (far.sum(0) / 10 - 1).abs().max() < 1e-3  # and it converges
    log_r = sinkhorn_weights(x, w, 0.07, chunk=64)
    assert log_r.dtype == torch.float32 and ((x @ w.T / 0.07 + log_r).softmax(1) - q).abs().max() < 1e-6
    assert torch.equal(sinkhorn(x @ w.T, 0.07, 0), (x @ w.T / 0.07).softmax(1))


def test_sinkhorn_survives_lengths_that_overflow():
    x, w = unit(40, 8, dtype=torch.float32), 30 * unit(20, 8, seed=1, dtype=torch.float32)  # logits / temperature up to 750
    log_r = sinkhorn_weights(x, w, 0.04, chunk=7)
    q = (x @ w.T / 0.04 + log_r).softmax(1)
    assert log_r.isfinite().all() and (q - sinkhorn((x @ w.T).double(), 0.04)).abs().max() < 2e-3


def test_rows_without_weight_do_not_count():
    x, w, weights = unit(9, 4), unit(7, 4, seed=1), torch.tensor([1.0] * 5 + [0.0] * 4)
    assert torch.allclose(sinkhorn_weights(x, w, 0.05, weights=weights, chunk=2), sinkhorn_weights(x[:5], w, 0.05))
    q = sinkhorn(x @ w.T, 0.05, weights=weights)
    assert torch.allclose(q[:5], sinkhorn(x[:5] @ w.T, 0.05)) and torch.allclose(q.sum(1), torch.ones(9).double())
    assert (sinkhorn_weights(x[:0], w, 0.05) == 0).all() and sinkhorn(x[:0] @ w.T, 0.05).shape == (0, 7)
    assert (sinkhorn_weights(x, w, 0.05, weights=torch.zeros(9)) == 0).all()


def test_equal_rows_get_uniform_targets():
    "The collapsed batch: nothing to tell apart, no prototype preferred."
    assert torch.allclose(sinkhorn(unit(1, 6).expand(8, 6) * 3, 0.04), torch.full((8, 6), 1 / 6).double())


def dense(x, w, t, tw, log_r, omega, targets, taus):
    q = (t @ tw.T / taus[1] + log_r).softmax(1)
    log_p = (x @ w.T / taus[0]).log_softmax(1)
    if targets is None:
        return -((q * log_p).sum(1) * omega).sum()
    loss = 0
    for i, row in enumerate(targets):
        found = [-(q[j] * log_p[i]).sum() for j in row.tolist() if j >= 0]
        loss = loss + omega[i] * sum(found) / max(len(found), 1)
    return loss


@given(n=st.integers(0, 20), k=st.integers(1, 12), chunk=st.one_of(st.none(), st.integers(1, 30)), pairs=st.integers(0, 3), weighted=st.booleans(),
       seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_cross_entropy_is_the_dense_one(n, k, chunk, pairs, weighted, seed):
    g = torch.Generator().manual_seed(seed)
    n_t = 5 if pairs else n
    x, v, gain = (t.requires_grad_() for t in (unit(n, 6, seed=seed), 3 * unit(k, 6, seed=seed + 1), torch.rand(k, 1, generator=g).double()))
    t, tw, log_r = unit(n_t, 4, seed=seed + 2), unit(k, 4, seed=seed + 3), torch.randn(k, generator=g).double()
    omega = torch.rand(n, generator=g).double() * 1e-5 if weighted else torch.full((n,), 1 / max(n, 1), dtype=torch.float64)
    targets = torch.randint(-1, n_t, (n, pairs), generator=g) if pairs else None
    ours = prototype_cross_entropy(x, weight_normed(v, gain), t, tw, log_r, student_temperature=0.2, teacher_temperature=0.06, targets=targets, chunk=chunk,
                                   sample_weight=omega if weighted else None)
    plain = dense(x, v / v.norm(dim=1, keepdim=True) * gain, t, tw, log_r, omega, targets, (0.2, 0.06))
    scale = 1e-5 if weighted else 1
    assert ours.shape == () and ours.item() == pytest.approx(torch.as_tensor(plain).item(), rel=1e-9, abs=1e-12 * scale)
    if n == 0:
        assert ours.requires_grad and ours == 0
        ours.backward()
        assert x.grad.shape == (0, 6) and (v.grad == 0).all()
        return
    inputs = (x, v, gain)
    wanted = torch.autograd.grad(plain, inputs) if plain.requires_grad else [torch.zeros_like(i) for i in inputs]
    for a, b in zip(torch.autograd.grad(ours, inputs), wanted):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-10 * scale)


def problem(dtype=torch.float32, n=60, k=300):
    return (unit(n, 16, dtype=dtype), unit(k, 16, seed=1, dtype=dtype), unit(n, 16, seed=2, dtype=dtype), unit(k, 16, seed=3, dtype=dtype),
            torch.randn(k, generator=torch.Generator().manual_seed(4)))


def gradients(x, w, t, tw, log_r, scale=1.0, **options):
    x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
    loss = prototype_cross_entropy(x, w, t, tw, log_r, teacher_temperature=0.05, chunk=13, **options)
    (loss * scale).backward()
    return loss.detach(), x.grad, w.grad


def test_float32():
    x, w, t, tw, log_r = problem()
    loss, dx, dw = gradients(x, w, t, tw, log_r)
    precise = gradients(*(a.double() for a in (x, w, t, tw, log_r)))
    for ours, theirs in zip((loss, dx, dw), precise):
        assert ours.dtype == torch.float32 and (ours - theirs).norm() < 1e-5 * theirs.norm()


def test_gradient_scaling_double_use_and_no_grad():
    x, w, t, tw, log_r = problem()
    loss, dx, dw = gradients(x, w, t, tw, log_r)
    scaled = gradients(x, w, t, tw, log_r, scale=1024.0)
    assert torch.equal(scaled[1], dx * 1024) and torch.equal(scaled[2], dw * 1024)
    a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
    call = lambda *inputs: prototype_cross_entropy(*inputs, log_r, teacher_temperature=0.05, chunk=13)
    once = call(a, b, t, tw)
    (once + 2 * once).backward(retain_graph=True)
    once.backward()
    torch.testing.assert_close(a.grad, 4 * dx)
    torch.testing.assert_close(b.grad, 4 * dw)
    with torch.no_grad():
        assert call(a, b, t, tw) == loss and not call(a, b, t, tw).requires_grad
    frozen = call(a, w, t, tw)  # frozen prototypes: only the other gradient
    assert torch.equal(torch.autograd.grad(frozen, a)[0], dx) and not call(x, w, t, tw).requires_grad
    assert torch.equal(torch.autograd.grad(call(x, b, t, tw), b)[0], dw)
    assert t.grad is None and not call(x, w, a, b).requires_grad  # the teacher is taken as given


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_mixed_precision(kind):
    x, w, t, tw, log_r = problem()
    omega = torch.full((60,), 1e-6)  # would vanish in float16
    loss, dx, dw = gradients(x, w, t, tw, log_r, sample_weight=omega)
    with torch.autocast("cpu", kind):
        mixed, log_m = gradients(x, w, t, tw, log_r, sample_weight=omega), sinkhorn_weights(t, tw, 0.05)
    direct = gradients(*(a.to(kind) for a in (x, w, t, tw)), log_r, scale=1e4, sample_weight=omega)
    error = 0.05 if kind == torch.bfloat16 else 0.01
    assert mixed[0].dtype == mixed[1].dtype == log_m.dtype == torch.float32 and direct[1].dtype == kind
    for ours, half, theirs in zip(mixed, direct, (loss, dx, dw)):
        assert (ours - theirs).norm() < error * theirs.norm()
        assert (half.float() / (1 if half.ndim == 0 else 1e4) - theirs).norm() < error * theirs.norm()
    exact = (t @ tw.T / 0.05 + sinkhorn_weights(t, tw, 0.05)).softmax(1)
    assert ((t @ tw.T / 0.05 + log_m).softmax(1) - exact).abs().max() < error


def test_two_processes_are_one():
    one, two = (run_ranks("helpers_prototypes:masked_tokens", {}, n) for n in (1, 2))
    for a, b in zip(one, two):
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-8, atol=1e-12, err_msg=name)


def test_koleo_is_its_definition():
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    y = x / x.norm(dim=1, keepdim=True)
    apart = (y[:, None] - y[None]).norm(dim=2) + torch.diag(torch.full((12,), torch.inf))
    plain = -torch.log(apart.min(1).values + 1e-6).mean()
    assert koleo(x).item() == pytest.approx(plain.item(), rel=1e-12)
    torch.testing.assert_close(torch.autograd.grad(koleo(x), x)[0], torch.autograd.grad(plain, x)[0])
    views = x.detach().view(2, 6, 5)
    assert koleo(views) == pytest.approx(sum(koleo(v) for v in views) / 2)


def test_koleo_of_one_and_of_equal_clips():
    for x in (torch.ones(1, 4), torch.ones(0, 4), torch.ones(3, 1, 4)):
        x.requires_grad_()
        loss = koleo(x)
        loss.backward()
        assert loss == 0 and (x.grad == 0).all()
    x = torch.ones(3, 4, requires_grad=True)
    loss = koleo(torch.cat([x, torch.zeros(2, 4)]))
    loss.backward()
    assert loss.isfinite() and x.grad.isfinite().all()
    assert koleo(torch.ones(3, 4)).item() == pytest.approx(-math.log(1e-6), rel=1e-4)


def test_weight_normed():
    v, g = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True), torch.tensor([[2.0], [1.0]], requires_grad=True)
    w = weight_normed(v, g)
    assert torch.allclose(w, torch.tensor([[1.2, 1.6], [0, 0]])) and weight_normed(v.half(), g).dtype == torch.float32
    module = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(5, 7, bias=False))
    gain, direction = module.parametrizations.weight.original0, module.parametrizations.weight.original1
    torch.testing.assert_close(weight_normed(direction, gain), module.weight)
    weight_normed(v, g)[0].sum().backward()
    assert v.grad.isfinite().all() and torch.allclose(v.grad[0] @ v[0], torch.zeros(()), atol=1e-6)


@pytest.mark.parametrize("change, message", [
    ({"student": torch.ones(3, 5)}, "student vectors"), ({"teacher": torch.ones(3, 5)}, "teacher vectors"),
    ({"teacher": torch.ones(2, 4)}, "3 student rows and 2"),
    ({"log_r": torch.zeros(5)}, "log_r"), ({"sample_weight": torch.ones(2)}, "sample_weight"), ({"targets": torch.zeros(2, 1, dtype=torch.int64)}, "targets"),
    ({"targets": torch.zeros(3, 1)}, "targets"), ({"teacher_weight": torch.ones(5, 4)}, "5 teacher prototypes"), ({"chunk": 0}, "chunk = 0")])
def test_bad_input(change, message):
    good = {"student": torch.ones(3, 4), "student_weight": torch.ones(6, 4), "teacher": torch.ones(3, 4), "teacher_weight": torch.ones(6, 4),
            "log_r": torch.zeros(6)}
    with pytest.raises(ParameterError, match=message):
        prototype_cross_entropy(**good | change, teacher_temperature=0.05)
    with pytest.raises(ParameterError):
        sinkhorn_weights(torch.ones(3, 4), torch.ones(3, 5), 0.05)
