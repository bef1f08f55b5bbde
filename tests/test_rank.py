"""Effective rank: golden values, the paper's propositions, and gradients where naive formulas give NaN."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.errors import ParameterError
from skelnb.objectives.rank import (
    coding_length,
    effective_rank,
    effective_rank_svd,
    lerr,
    local_dimension,
    local_effective_rank,
    minimal_rank,
    mom,
)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gradient(f, z):
    z = z.clone().requires_grad_()
    return torch.autograd.grad(f(z).sum(), z)[0]


def reference_gradient(z, of=lambda rank: 1.0):
    "dLER/dZ from a full float64 SVD; directions with no extent have no gradient."
    u, s, vh = torch.linalg.svd(z.double(), full_matrices=False)
    s = torch.where(s > 1e-9 * s[..., :1], s, 0.0)
    p = s / s.sum(-1, keepdim=True)
    entropy = torch.special.entr(p).sum(-1, keepdim=True)
    g = torch.where(s > 0, -entropy.exp() / s.sum(-1, keepdim=True) * (p.log() + entropy), 0.0)
    return (u * g.unsqueeze(-2)) @ vh


def relative(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


GOLDEN = {
    "identity": (torch.eye(7).double(), 7.0),
    "rank one": (torch.outer(torch.arange(1.0, 4), torch.tensor([2.0, -1.0])).double(), 1.0),
    "diag(3, 1)": (torch.diag(torch.tensor([3.0, 1.0])).double(), 1.7547653506),
    "diag(4, 3, 2, 1)": (torch.diag(torch.tensor([4.0, 3, 2, 1])).double(), 3.5961154666),
    "2 x 3": (torch.tensor([[1.0, 2, 0], [0, 1, 1]]).double(), 1.8258767490),
    "two unit columns": (torch.tensor([[1.0, 0.5**0.5], [0, 0.5**0.5]], dtype=torch.float64), 1.8307430765),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_values(name):
    z, rank = GOLDEN[name]
    for each in (z, z.mT, z[None].expand(3, -1, -1), z.clone().requires_grad_()):
        assert effective_rank(each).flatten()[0].item() == pytest.approx(rank, abs=2e-10)
    assert effective_rank(z.float()).dtype == torch.float32
    assert effective_rank(z.float()).item() == pytest.approx(rank, rel=3e-7)


def test_golden_gradient_of_the_reciprocal():
    g = gradient(lerr, torch.diag(torch.tensor([3.0, 1.0])).double())
    torch.testing.assert_close(g, torch.diag(torch.tensor([0.0391296, -0.1173888])).double(), atol=1e-7, rtol=0)


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6), (2, 3, 4, 7), (1, 8), (8, 1)])
def test_gradient_agrees_with_finite_differences_and_svd(shape):
    z = randn(*shape).requires_grad_()
    assert torch.autograd.gradcheck(effective_rank, z)
    assert torch.autograd.gradcheck(lambda x: lerr(x, "none"), z)
    if min(shape[-2:]) > 1:
        torch.testing.assert_close(gradient(effective_rank, z.detach()), gradient(effective_rank_svd, z.detach()), rtol=1e-8, atol=1e-12)


# ---- propositions ----------------------------------------------------------------------------------------------------------------


def test_proposition_1_bounds():
    z = randn(2000, 5, 8, seed=1)
    z[1000:] = z[1000:, :, :2] @ z[:1000, :2]  # rank two
    rank = effective_rank(z)
    assert (rank >= 1).all() and (rank[:1000] <= 5 + 1e-12).all() and (rank[1000:] <= 2 + 1e-12).all()


@settings(max_examples=40, deadline=None)
@given(exponent=st.integers(-18, 18), sign=st.sampled_from([-1, 1]), seed=st.integers(0, 99))
def test_proposition_2_scale(exponent, sign, seed):
    z = randn(6, 10, seed=seed, dtype=torch.float32)
    scaled = z * (sign * 10.0**exponent)
    torch.testing.assert_close(effective_rank(scaled), effective_rank(z), rtol=3e-6, atol=0)
    back = gradient(effective_rank, scaled) * (sign * 10.0**exponent)
    torch.testing.assert_close(back, gradient(effective_rank, z), rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("c", [1e-250, -1e-30, 1e200])
def test_scale_far_beyond_what_squares_can_hold(c):
    z = randn(4, 6)
    assert effective_rank(c * z).item() == pytest.approx(effective_rank(z).item(), rel=1e-12)


def test_proposition_3_orthogonal_on_both_sides():
    z = randn(50, 7, 11)
    u, v = torch.linalg.qr(randn(7, 7, seed=2))[0], torch.linalg.qr(randn(11, 11, seed=3))[0]
    for turned, turn in ((u @ z, lambda g: u @ g), (z @ v, lambda g: g @ v)):
        torch.testing.assert_close(effective_rank(turned), effective_rank(z), rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient(effective_rank, turned), turn(gradient(effective_rank, z)), rtol=1e-8, atol=1e-10)


def bound(z):
    return z.shape[-2] ** 2 / (z @ z.mT).square().sum((-2, -1))


def test_proposition_4_for_unit_tokens_only():
    z = randn(4000, 6, 9, seed=4)
    z[1000:2000] += 3  # collapsed towards a common vector
    z[2000:3000] = z[2000:3000, :, :2] @ z[:1000, :2]  # low rank
    z[3000:] = z[3000:] / z[:1000].abs()  # heavy tails
    unit = torch.nn.functional.normalize(z, dim=-1)
    rank = effective_rank(unit)
    assert (rank >= bound(unit) - 1e-9).all()
    nuclear = torch.linalg.matrix_norm(unit, "nuc") ** 2 / unit.square().sum((-2, -1))
    assert (rank >= nuclear - 1e-9).all() and (nuclear >= bound(unit) - 1e-9).all()
    example = torch.tensor([[1.0, 0], [0.5**0.5, 0.5**0.5]], dtype=torch.float64)
    assert bound(example).item() == pytest.approx(4 / 3) and effective_rank(example).item() == pytest.approx(1.8307430765)
    for z, rank, wrong in (([[0.5]], 1, 16), ([[0.5, 0], [0, 0.5]], 2, 32), ([[1, 0], [0, 0.1]], 1.356, 4.0)):  # not of unit length
        z = torch.tensor(z, dtype=torch.float64)
        assert effective_rank(z).item() == pytest.approx(rank, abs=5e-4) and bound(z).item() == pytest.approx(wrong, rel=1e-3)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_gradient_is_orthogonal_to_the_tokens(scale):
    z = randn(8, 75, 256, dtype=torch.float32) * scale
    g = gradient(effective_rank, z)
    inner = (z.double() * g.double()).sum((-2, -1)) / (z.double().norm(dim=(-2, -1)) * g.double().norm(dim=(-2, -1)))
    assert inner.abs().max() < 1e-6


# ---- the cases where formulas break ----------------------------------------------------------------------------------------------


def hard_cases():
    z = randn(4, 75, 256, dtype=torch.float32)
    u, v = torch.linalg.qr(randn(75, 75, seed=5))[0], torch.linalg.qr(randn(256, 75, seed=6))[0]
    duplicates = z.clone()
    duplicates[:, 38:] = duplicates[:, :37]
    return {  # tokens, greatest relative error of the gradient against float64 SVD
        "gaussian": (z, 1e-6),
        "common mean x10": (z + 10 * randn(4, 1, 256, seed=7).float(), 1e-6),
        "decaying 1 to 1e-4": (((u * torch.logspace(0, -4, 75).double()) @ v.mT).float()[None], 1e-6),
        "decaying 1 to 1e-6": (((u * torch.logspace(0, -6, 75).double()) @ v.mT).float()[None], 1e-2),
        "near-collapse 1e-3": (randn(4, 1, 256, seed=8).float() + 1e-3 * z, 1e-6),
        "duplicate tokens": (duplicates, 1e-6),
        "rank three": (torch.cat([torch.diag(torch.tensor([3.0, 2, 1])) @ torch.eye(3, 256)] * 25)[None], 1e-6),
        "repeated values": (torch.eye(75, 256)[None] * torch.tensor([2.0] * 30 + [1.0] * 45)[:, None], 1e-6),
        "more tokens than numbers": (randn(2, 750, 64, seed=9).float(), 1e-6),
    }


@pytest.mark.parametrize("name", hard_cases())
def test_float32_gradient_against_float64_svd(name):
    z, tolerance = hard_cases()[name]
    reference = reference_gradient(z)
    g = gradient(effective_rank, z)
    assert g.dtype == torch.float32 and torch.isfinite(g).all()
    assert relative(g, reference) < tolerance


def test_zero_collapsed_and_equal_tokens_have_rank_one_and_a_finite_gradient():
    z = torch.stack([torch.zeros(75, 256), torch.ones(75, 256), randn(1, 256).float().expand(75, 256)])
    assert torch.allclose(effective_rank(z), torch.ones(3))
    g = gradient(effective_rank, z)
    assert (g[0] == 0).all() and torch.isfinite(g).all() and g.abs().max() < 1e-6
    assert torch.equal(lerr(z, "none")[0], torch.tensor(1.0))


def test_flat_spectrum_is_a_stationary_point():
    g = gradient(effective_rank, torch.eye(20, 30))
    assert g.abs().max() < 1e-6


def test_non_finite_matrices_spoil_only_their_own_entry():
    z = randn(4, 5, 8, dtype=torch.float32)
    z[1, 2, 3], z[2, 0, 0] = torch.nan, torch.inf
    for each in (z, z.clone().requires_grad_()):
        assert effective_rank(each).isfinite().tolist() == [True, False, False, True]
    g = gradient(effective_rank, z)
    assert torch.isfinite(g[[0, 3]]).all() and g[1].isnan().any()


# ---- precision and autograd ------------------------------------------------------------------------------------------------------


def test_bf16_tokens_and_autocast():
    z = randn(3, 20, 32, dtype=torch.float32).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = z.clone().requires_grad_()
        rank = effective_rank(x)
        rank.sum().backward()
        again = effective_rank(z.float())
    assert rank.dtype == torch.float32 and x.grad.dtype == torch.bfloat16
    assert torch.equal(rank.detach(), effective_rank(z.float())) or torch.allclose(rank.detach(), effective_rank(z.float()), rtol=1e-6)
    assert torch.allclose(again, rank.detach(), rtol=1e-6)
    assert relative(x.grad, reference_gradient(z.float())) < 1e-2  # rounding of bf16 itself


def test_second_derivative_raises_clearly():
    z = randn(4, 6).requires_grad_()
    g, = torch.autograd.grad(effective_rank(z), z, create_graph=True)
    with pytest.raises(NotImplementedError, match="once, not twice"):
        g.square().sum().backward()


def test_incoming_gradients_reach_their_own_matrix():
    z = randn(2, 3, 4, 6).requires_grad_()
    weight = torch.arange(6.0).reshape(2, 3).double()
    (effective_rank(z) * weight).sum().backward()
    torch.testing.assert_close(z.grad, reference_gradient(z.detach()) * weight[..., None, None])


@pytest.mark.parametrize("bad", [torch.zeros(4), torch.zeros(3, 0), torch.zeros(2, 0, 5), torch.ones(3, 3, dtype=torch.int64)])
def test_no_matrix_is_an_error(bad):
    with pytest.raises(ParameterError, match="matrices"):
        effective_rank(bad)


def test_empty_batch_gives_an_empty_result():
    assert effective_rank(torch.zeros(0, 3, 4)).shape == (0,)


def test_lerr_reductions_and_range():
    z = randn(6, 10, 16)
    each = lerr(z, "none")
    assert ((each >= 0.1) & (each <= 1)).all()
    assert torch.allclose(lerr(z), each.mean()) and torch.allclose(lerr(z, "sum"), each.sum())
    with pytest.raises(ParameterError, match="reduction"):
        lerr(z, "max")


def test_minimising_lerr_flattens_the_spectrum():
    z = (randn(1, 16) + 0.1 * randn(10, 16, seed=1)).float().requires_grad_()
    optimiser = torch.optim.Adam([z], lr=0.03)
    first = effective_rank(z.detach())
    for _ in range(200):
        optimiser.zero_grad()
        lerr(z).backward()
        optimiser.step()
    assert first < 4 and effective_rank(z.detach()) > 9


# ---- companions ------------------------------------------------------------------------------------------------------------------


def test_local_effective_rank_covers_the_clip():
    z = randn(3, 30, 5, 8, dtype=torch.float32)
    assert local_effective_rank(z, 1.0).shape == (3, 1)
    torch.testing.assert_close(local_effective_rank(z, 1.0)[:, 0], effective_rank(z.flatten(1, 2)))
    assert local_effective_rank(z, 0.4).shape == (3, 3) and local_effective_rank(z, 0.1).shape == (3, 10)
    torch.testing.assert_close(local_effective_rank(z, 0.4)[:, 2], effective_rank(z[:, 18:].flatten(1, 2)))
    torch.testing.assert_close(local_effective_rank(z, 1e-6)[:, 29], effective_rank(z[:, 29]))
    for bad in (0, 1.2):
        with pytest.raises(ParameterError):
            local_effective_rank(z, bad)
    with pytest.raises(ParameterError):
        local_effective_rank(z[0], 0.5)


def test_minimal_rank_and_coding_length():
    z = torch.diag(torch.tensor([3.0, 2, 1, 0.5]))
    assert [minimal_rank(z, r).item() for r in (20, 2.0, 0.5, 0.1, 0.0)] == [0, 2, 3, 4, 4]
    assert minimal_rank(z[:2].expand(3, -1, -1), 0.0).tolist() == [2, 2, 2]
    assert minimal_rank(torch.zeros(3, 4), 0.0).item() == 0
    assert coding_length(4, 256, 75, 32) == 42_496


def test_minimal_rank_follows_the_effective_rank():
    decay = 1 / torch.linspace(2, 20, 40).double()  # spectra that fall slower and slower
    z = 10 * torch.diag_embed(torch.exp(-decay[:, None] * torch.arange(75)))
    for residual in (0.1, 0.5, 2.0):
        assert np.corrcoef(effective_rank(z), minimal_rank(z, residual))[0, 1] > 0.99


def test_mom_golden_and_degenerate_tokens():
    assert local_dimension(torch.tensor([[0.0], [1], [2], [4]]), k=3)[0].item() == pytest.approx(0.6)
    z = randn(2, 30, 16, dtype=torch.float32)
    torch.testing.assert_close(local_dimension(5 * z), local_dimension(z))
    low = randn(2, 30, 2, dtype=torch.float32) @ randn(2, 2, 16, dtype=torch.float32)
    assert local_dimension(z).mean() > 2 * local_dimension(low).mean()
    for z in (torch.zeros(1, 30, 8), torch.eye(30)[None], randn(1, 15, 8).float().repeat(1, 2, 1)):
        assert torch.isfinite(mom(z)) and torch.isfinite(gradient(mom, z)).all()
    with pytest.raises(ParameterError, match="neighbours"):
        mom(torch.zeros(1, 20, 8), k=20)
