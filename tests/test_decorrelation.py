"""The loss of USDRL against its equations, its gradients, and the same numbers on one and on two processes."""

import numpy as np
import pytest
import torch
from helpers import run_ranks
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.errors import ParameterError
from skelnb.objectives.decorrelation import Weights, cross_correlation, decorrelation, moments
from skelnb.objectives.processes import BatchNorm


def as_written(z, w: Weights) -> dict:
    "The equations with full matrices, in float64."
    z, (k, n, c) = z.double(), z.shape
    off = lambda m: (m ** 2).sum() - (m.diagonal() ** 2).sum()
    standard = [(a - a.mean(0)) / a.std(0) for a in z]
    corr = {(a, b): standard[a].T @ standard[b] / n for a in range(k) for b in range(k) if a != b}
    terms = {"covariance": sum(off(torch.cov(a.T)) / c for a in z), "cross": sum(off(m) for (a, b), m in corr.items() if a < b)}
    if w.form == "release":
        center = z[:-1].mean(0)
        terms["similarity"] = sum(((z[a] - z[-1]) ** 2).mean() + ((z[a] - center) ** 2).mean() for a in range(k - 1))
        terms["invariance"] = sum(((m.diagonal() - 1) ** 2).sum() for (a, b), m in corr.items() if a < b)
        terms["variance"] = sum((w.gamma - (a.var(0) + w.epsilon).sqrt()).relu().mean() for a in z)
    else:
        terms["similarity"] = sum((a - z.mean(0)).norm(dim=1).mean() for a in z) / k
        terms["invariance"] = sum((torch.eye(c) - m).trace() for m in corr.values()) / k
        terms["variance"] = sum((w.gamma - a.std(0) + w.epsilon).relu().mean() for a in z)
    return terms | {"loss": sum(getattr(w, name) * v for name, v in terms.items())}


@pytest.mark.parametrize("form", ["release", "paper"])
@given(k=st.integers(2, 5), n=st.integers(3, 40), c=st.integers(2, 60), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_every_term_is_its_equation(form, k, n, c, seed):
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(k, n, c, generator=g) * 0.7 + torch.randn(1, n, c, generator=g)
    w = Weights(form=form)
    ours, plain = decorrelation(z, w), as_written(z, w)
    for name, value in plain.items():
        assert ours[name].item() == pytest.approx(value.item(), rel=2e-5, abs=1e-5 * c), name
    assert decorrelation(list(z), w)["loss"] == ours["loss"]


def test_the_released_numbers_at_full_width():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(4, 64, 4096, generator=g) + torch.randn(1, 64, 4096, generator=g)
    ours, plain = decorrelation(z), as_written(z, Weights())
    for name, value in plain.items():
        assert ours[name].item() == pytest.approx(value.item(), rel=1e-5), name


@pytest.mark.parametrize("form", ["release", "paper"])
@pytest.mark.parametrize("shape", [(3, 5, 7), (3, 9, 4)], ids=["fewer clips than dimensions", "more"])
def test_gradients(form, shape):
    z = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = Weights(form=form, cross=0.3, invariance=0.2)
    torch.autograd.gradcheck(lambda z: decorrelation(z, w)["loss"], z.requires_grad_())


def test_order_of_the_views():
    z, w = torch.randn(4, 10, 6, generator=torch.Generator().manual_seed(0)), Weights(form="paper")
    for order in ([3, 1, 0, 2], [1, 2, 3, 0]):
        assert decorrelation(z[order], w)["loss"].item() == pytest.approx(decorrelation(z, w)["loss"].item(), rel=1e-5)
    release = decorrelation(z)
    assert decorrelation(z[[2, 0, 1, 3]])["loss"].item() == pytest.approx(release["loss"].item(), rel=1e-5)
    assert decorrelation(z[[3, 0, 1, 2]])["similarity"].item() != pytest.approx(release["similarity"].item(), rel=1e-3)  # the last view is special there


@pytest.mark.parametrize("form", ["release", "paper"])
def test_a_dead_dimension_is_penalised_and_not_nan(form):
    z = torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(0))
    z[:, :, 2] = 0.25
    z.requires_grad_()
    terms = decorrelation(z, Weights(form=form))
    terms["loss"].backward()
    assert all(v.isfinite() for v in terms.values()) and z.grad.isfinite().all()
    assert terms["invariance"] > 0.9 * (3 if form == "release" else 2)  # the dead one misses its diagonal in three pairs
    all_dead = decorrelation(torch.ones(2, 4, 3), Weights(form=form))
    assert all_dead["loss"].isfinite() and all_dead["cross"] == 0


def test_half_precision_is_computed_in_single():
    z = torch.randn(3, 16, 32, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        inside = decorrelation(z)
    assert inside["loss"].dtype == torch.float32 and inside["loss"] == decorrelation(z)["loss"]
    assert decorrelation(z.bfloat16())["loss"].item() == pytest.approx(inside["loss"].item(), rel=0.02)


def test_bad_input():
    for z in (torch.randn(1, 4, 3), torch.randn(2, 1, 3), torch.randn(4, 3)):
        with pytest.raises(ParameterError, match="at least two views of at least two clips"):
            decorrelation(z)


def test_correlation_matrices():
    z = torch.randn(2, 30, 6, generator=torch.Generator().manual_seed(0))
    expected = np.corrcoef(z[0].T, z[1].T)[:6, 6:] * 29 / 30
    np.testing.assert_allclose(cross_correlation(*z), expected, atol=1e-6)
    centred, variance, standard = moments(z)
    assert torch.allclose(variance, z.var(1)) and torch.allclose(standard.std(1), torch.ones(2, 6))


@pytest.mark.parametrize("form", ["release", "paper"])
def test_two_processes_are_one(form):
    one, two = (run_ranks("helpers_processes:projected_loss", {"form": form}, n) for n in (1, 2))
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    for name in ("mean", "var"):
        np.testing.assert_allclose(two[name], one[name], rtol=1e-5)
    for a, b in zip(one["grads"], two["grads"]):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


def test_sums_and_concatenations_pass_gradients_back():
    two = run_ranks("helpers_processes:sums", {}, 2)
    assert two["everyone"] == [0, 1, 2, 3]
    assert two["grad"] == [3 * (i + 1) + 3 * 2 * 6 for i in range(4)]  # both losses, weights 1 and 2


def test_batch_norm_alone_is_pytorchs():
    ours, theirs, x = BatchNorm(3), torch.nn.BatchNorm1d(3), torch.randn(7, 3)
    assert torch.equal(ours(x), theirs(x)) and torch.equal(ours.eval()(x), theirs.eval()(x))
