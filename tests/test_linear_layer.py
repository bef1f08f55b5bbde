"""A linear layer on oneDNN is `nn.Linear`: results, gradients, and where it steps aside."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from skelnb.backbones import linear as module
from skelnb.backbones.linear import Linear, linear, onednn


@pytest.mark.parametrize("shape", [(7, 5), (2, 3, 5), (4, 2, 3, 5), (1, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_results_and_gradients_are_those_of_torch(shape, bias):
    g = torch.Generator().manual_seed(0)
    x, w = torch.randn(*shape, generator=g).requires_grad_(), torch.randn(6, 5, generator=g).requires_grad_()
    b = torch.randn(6, generator=g).requires_grad_() if bias else None
    grad, wanted = torch.randn(*shape[:-1], 6, generator=g), [x, w] + [b] * bias
    torch.testing.assert_close(linear(x, w, b), F.linear(x, w, b))
    for ours, theirs in zip(torch.autograd.grad(linear(x, w, b), wanted, grad), torch.autograd.grad(F.linear(x, w, b), wanted, grad)):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_views_and_expanded_gradients():
    x, w = torch.randn(4, 6, 3).transpose(1, 2).requires_grad_(), torch.randn(5, 6, requires_grad=True)
    torch.testing.assert_close(torch.autograd.grad(linear(x, w).sum(), (x, w)), torch.autograd.grad(F.linear(x, w).sum(), (x, w)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(linear(x, w.detach()).mT.square().sum(), x), torch.autograd.grad(F.linear(x, w).mT.square().sum(), x),
                               rtol=1e-4, atol=1e-4)


def test_it_is_nn_linear_elsewhere():
    layer = Linear(5, 4)
    for x in (torch.randn(2, 5).double(), torch.randn(0, 5), torch.randn(5), torch.randn(2, 5, device="meta")):
        assert not onednn(x, layer.weight)
        if x.device.type == "cpu":
            other = copy.deepcopy(layer).to(x.dtype)
            assert torch.equal(other(x), F.linear(x, other.weight, other.bias))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, 5)).dtype == torch.bfloat16
    double = Linear(3, 2).double()
    assert torch.autograd.gradcheck(double, torch.randn(4, 3, dtype=torch.float64, requires_grad=True))


def test_without_onednn(monkeypatch):
    layer, x = Linear(5, 4), torch.randn(3, 5)
    here = layer(x)
    monkeypatch.setattr(module, "_product", None)
    assert not onednn(x, layer.weight)
    torch.testing.assert_close(layer(x), here)


def test_a_second_derivative_is_refused_and_not_wrong():
    x, w = torch.randn(3, 5, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    if not onednn(x, w):
        pytest.skip("no oneDNN in this PyTorch")
    first, = torch.autograd.grad(linear(x, w).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


def test_same_parameters_and_initial_values():
    torch.manual_seed(0)
    ours = Linear(7, 3)
    torch.manual_seed(0)
    theirs = nn.Linear(7, 3)
    assert list(ours.state_dict()) == list(theirs.state_dict()) and all(map(torch.equal, ours.parameters(), theirs.parameters()))
