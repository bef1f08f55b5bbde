"""UNIK: sizes, its layer head by head, its start, empty places, bad input; and the blocks that are fused."""

import pytest
import torch
import torch.nn.functional as F

from skelnb.backbones.agcn import AGCN
from skelnb.backbones.stgcn import STGCN
from skelnb.backbones.unik import UNIK, DependencyConv
from skelnb.errors import ParameterError
from skelnb.evaluation.efficiency import count_macs


def clips(n=3, frames=17, joints=25, channels=3, persons=2, seed=0):
    return torch.randn(n, channels, frames, joints, persons, generator=torch.Generator().manual_seed(seed)).cumsum(2) / 3


def with_a_past(module, seed=0):
    "Weights and statistics as after training."
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, t in module.state_dict().items():
            if t.ndim == 4:
                t.copy_(torch.randn(t.shape, generator=g) / t[0].numel() ** 0.5)
            elif name.endswith("running_var") or name.endswith("norm.weight"):
                t.copy_(0.5 + torch.rand(t.shape, generator=g))
            elif t.is_floating_point():
                t.add_(0.1 * torch.randn(t.shape, generator=g))
    return module


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_parameters_and_steps():
    with torch.device("meta"):
        encoder = UNIK()
        maps = encoder.train().forward_taps(torch.zeros(1, 3, 150, 25, 2), range(10))
        assert count(encoder) == 3_453_940 == count(AGCN(strides="2s_agcn", input_norm=True))
        assert count(UNIK(attention=False)) == 3_125_908 and count(UNIK(input_norm=False)) == 3_453_790
        sizes = [(3, 64)] + [(64, 64)] * 3 + [(64, 128)] + [(128, 128)] * 2 + [(128, 256)] + [(256, 256)] * 2
        one_head = sum(625 + a * b + b for a, b in sizes)
        assert count(UNIK(heads=1, attention=False)) == 3_125_908 - 2 * one_head
    assert [tuple(m.shape[1:3]) for m in maps] == [(64, 150)] * 4 + [(128, 75)] * 3 + [(256, 38)] * 3
    assert [tuple(b.graph.W.shape) for b in encoder.blocks] == [(3, 25, 25)] * 10
    assert [b.temporal.kernel_size for b in encoder.blocks] == [(9, 1)] * 10 and encoder.blocks[0].shortcut is None


def by_hand(layer, x):
    "Joint by joint, head by head."
    n, _, t, v = x.shape
    heads, out = len(layer.W), layer.norm.num_features
    y = 0
    for h in range(heads):
        links = layer.W[h].expand(n, v, v)
        if layer.embed is not None:
            e, q = layer.embed(x), out // 4
            theta, phi = e[:, h * q:(h + 1) * q], e[:, (heads + h) * q:(heads + h + 1) * q]
            scores = torch.stack([torch.stack([(theta[..., i] * phi[..., j]).sum((1, 2)) for j in range(v)], 1) for i in range(v)], 1) / (q * t)
            links = links + scores.exp() / scores.exp().sum(1, keepdim=True)
        E, b = layer.conv.weight[h * out:(h + 1) * out], layer.conv.bias[h * out:(h + 1) * out]
        heard = sum(x[..., [i]] * links[:, i][:, None, None] for i in range(v))
        y = y + F.conv2d(heard, E, b)
    return torch.relu(layer.norm(y) + layer.shortcut(x))


@pytest.mark.parametrize("cin, cout, attention", [(3, 8, True), (8, 8, False), (8, 8, True)])
def test_the_layer_and_its_gradients(cin, cout, attention):
    layer = with_a_past(DependencyConv(cin, cout, 7, 3, attention)).double()
    x = torch.randn(2, cin, 6, 7, dtype=torch.double, generator=torch.Generator().manual_seed(1)).requires_grad_()
    ours, expected = layer(x), by_hand(layer, x)
    torch.testing.assert_close(ours, expected)
    inputs, up = [x, *layer.parameters()], torch.randn(ours.shape, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    for a, b in zip(torch.autograd.grad(ours, inputs, up), torch.autograd.grad(expected, inputs, up)):
        torch.testing.assert_close(a, b)
    if attention:
        torch.testing.assert_close((layer.links(x) - layer.W).sum(2), torch.ones(2, 3, 7, dtype=torch.double))


def test_attention_is_what_makes_links_depend_on_the_clip():
    x = clips(2)[..., 0]
    still, moving = DependencyConv(3, 8, 25, attention=False), with_a_past(DependencyConv(3, 8, 25))
    assert still.links(x).ndim == 3 and not torch.allclose(*moving.links(x), rtol=1e-4)


def test_the_start():
    torch.manual_seed(0)
    a, b = UNIK(), UNIK(start="aimclr")
    for encoder in (a, b):
        W = torch.stack([block.graph.W for block in encoder.blocks])
        assert W.abs().max() <= 1 / 25 and abs(W.std() - 1 / 25 / 3**0.5) < 2e-4 and abs(W.mean()) < 1e-3
    block = a.blocks[9]
    assert all((x.graph.norm.weight == 1e-6).all() for x in a.blocks) and (block.norm.weight == 1).all()
    for weight, variance in ((block.temporal.weight, 2 / (9 * 256)), (block.graph.conv.weight, 2 / (256 * 256 * 3)), (block.graph.embed.weight, 2 / 64)):
        assert abs(weight.var() / variance - 1) < 0.02
    assert not any(p.any() for n, p in a.named_parameters() if n.endswith("bias"))
    assert abs(b.blocks[9].temporal.weight.std() - 0.02) < 1e-3 and abs(b.blocks[9].graph.norm.weight.mean() - 1) < 0.01


@pytest.mark.parametrize("persons", ["mean_over_M", "present"])
def test_features_and_empty_places(persons):
    encoder = with_a_past(UNIK(width=8, persons=persons)).eval()
    x = clips(4)
    x[1:, ..., 1] = 0
    skipped = encoder(x)
    encoder.skip_empty = False
    full = encoder(x)
    assert full.clip.shape == (4, 32) and full.frames.shape == (4, 5, 32) and full.tokens.shape == (4, 5, 25, 32)
    torch.testing.assert_close(skipped.clip, full.clip, rtol=1e-5, atol=1e-6)
    alone = encoder(x[1:2, ..., :1]).clip
    assert torch.allclose(full.clip[1:2], alone, rtol=1e-3, atol=1e-4) == (persons == "present")


def test_taps_have_names():
    for encoder, names, strides in ((UNIK(width=8), ["l4", "l7", "l10"], [16, 8, 4]), (AGCN(width=8), ["l1", "l7", "l10"], [16, 4, 2]),
                                    (AGCN(width=8, strides="2s_agcn"), ["l4", "l7", "l10"], [16, 8, 4])):
        maps = encoder.eval().forward_taps(clips(frames=16), encoder.taps.values())
        assert list(encoder.taps) == names and [h.shape[2] for h in maps] == strides and [h.shape[1] for h in maps] == [8, 16, 32]
    assert not hasattr(STGCN(width=4, out=8), "taps")


def test_training_bf16_and_counting():
    encoder, x = UNIK("coco17", 2, width=8), clips(joints=17, channels=2)
    with torch.autocast("cpu", torch.bfloat16):
        encoder(x).clip.square().sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    with_a_past(encoder).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = encoder(x).clip
    with torch.no_grad():
        assert F.cosine_similarity(low, encoder(x).clip).min() > 0.99
        assert not count_macs(encoder, x).uncounted


def test_bad_input():
    with pytest.raises(ParameterError, match="kinect_v2"):
        UNIK(width=8)(clips(joints=17))
    for options, said in ((dict(start="uni"), "aimclr"), (dict(temporal_kernel=4), "odd"), (dict(width=6), "4 divides"), (dict(heads=0), "a head"),
                          (dict(persons="all"), "mean_over_M")):
        with pytest.raises(ParameterError, match=said):
            UNIK(**({"width": 8} | options))
    assert UNIK(width=6, attention=False).dim == 24
