"""The adaptive graph network: sizes, its equation written out, empty places, bad input."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from skelnb.backbones.agcn import AGCN, AdaptiveBlock, AdaptiveGraphConv
from skelnb.backbones.stgcn import graph
from skelnb.errors import ParameterError
from skelnb.evaluation.efficiency import count_macs


def clips(n=3, frames=17, joints=25, channels=3, persons=2, seed=0):
    return torch.randn(n, channels, frames, joints, persons, generator=torch.Generator().manual_seed(seed)).cumsum(2) / 3


def with_a_past(encoder, seed=0):
    "Weights and statistics as after training."
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, t in encoder.state_dict().items():
            if t.ndim == 4:
                t.copy_(torch.randn(t.shape, generator=g) / t[0].numel() ** 0.5)
            elif name.endswith("B"):
                t.add_(0.02 * torch.randn(t.shape, generator=g))
            elif name.endswith("running_var"):
                t.copy_(0.5 + torch.rand(t.shape, generator=g))
            elif t.is_floating_point():
                t.add_(0.1 * torch.randn(t.shape, generator=g))
    return encoder


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_parameters_and_steps_are_those_of_the_release():
    with torch.device("meta"):
        encoder, other = AGCN(), AGCN(strides="2s_agcn", input_norm=True)
        maps = encoder.train().forward_taps(torch.zeros(1, 3, 150, 25, 2), range(10))
    assert count(encoder) + 2 * 50 == 3_458_178  # the release has a norm of 2 x 25 numbers that it does not use
    assert count(other) == count(encoder) - (64 * 64 + 64 + 128) + 150
    assert [tuple(m.shape[1:3]) for m in maps] == [(64, 150)] + [(64, 75)] * 3 + [(128, 38)] * 3 + [(256, 19)] * 3


def by_hand(layer, x):
    "Subset by subset, links of each clip by loops."
    y = 0
    for k in range(3):
        quarter = layer.conv.out_channels // 12
        embeds = F.conv2d(x, layer.embed.weight, layer.embed.bias)
        theta, phi = embeds[:, k * quarter:(k + 1) * quarter], embeds[:, (3 + k) * quarter:(4 + k) * quarter]
        n, _, t, v = x.shape
        C = torch.stack([torch.stack([(theta[..., [i]] * phi).sum((1, 2)) for i in range(v)], 1)[b] for b in range(n)]) / (quarter * t)
        C = C.exp() / C.exp().sum(1, keepdim=True)
        out = layer.conv.out_channels // 3
        W, b = layer.conv.weight[k * out:(k + 1) * out], layer.conv.bias[k * out:(k + 1) * out]
        y = y + F.conv2d(torch.einsum("nctv,nvw->nctw", x, layer.A[k] + layer.B[k] + C), W, b)
    return torch.relu(layer.norm(y) + layer.shortcut(x))


@pytest.mark.parametrize("cin, cout", [(3, 8), (8, 8)])
@pytest.mark.parametrize("train", [True, False])
def test_the_equation(cin, cout, train):
    layer = with_a_past(AdaptiveGraphConv(cin, cout, graph("kinect_v2", "in_out"))).double().train(train)
    x = torch.randn(2, cin, 6, 25, dtype=torch.double, generator=torch.Generator().manual_seed(1)).requires_grad_()
    ours, expected = layer(x), by_hand(layer, x)
    torch.testing.assert_close(ours, expected)
    inputs, up = [x, *layer.parameters()], torch.randn(ours.shape, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    for a, b in zip(torch.autograd.grad(ours, inputs, up), torch.autograd.grad(expected, inputs, up)):
        torch.testing.assert_close(a, b)


def test_a_block():
    block = with_a_past(AdaptiveBlock(8, 8, graph("kinect_v2", "in_out"), stride=2)).eval()
    x = torch.randn(2, 8, 9, 25, generator=torch.Generator().manual_seed(1))
    expected = torch.relu(block.norm(block.temporal(block.graph(x))) + block.shortcut(x))
    assert block(x).shape == (2, 8, 5, 25) and torch.equal(block(x), expected) and isinstance(block.shortcut, nn.Sequential)
    assert AdaptiveBlock(3, 8, graph("kinect_v2", "in_out"), residual=False).shortcut is None
    assert isinstance(AdaptiveBlock(8, 8, graph("kinect_v2", "in_out")).shortcut, nn.Identity)


def test_links_start_as_the_body_and_the_clip_matters():
    layer = AdaptiveGraphConv(3, 8, graph("kinect_v2", "in_out"))
    assert torch.equal(layer.B, torch.full((3, 25, 25), 1e-6))
    x = clips()[..., 0]
    C = layer.similarity(x)
    torch.testing.assert_close(C.sum(2), torch.ones(3, 3, 25))
    assert not torch.allclose(C[0], C[1], rtol=1e-4)


@pytest.mark.parametrize("persons", ["mean_over_M", "present"])
def test_features_and_empty_places(persons):
    encoder = with_a_past(AGCN(width=8, persons=persons)).eval()
    x = clips(4)
    x[1:, ..., 1] = 0
    skipped = encoder(x)
    encoder.skip_empty = False
    full = encoder(x)
    assert full.clip.shape == (4, 32) and full.frames.shape == (4, 3, 32) and full.tokens.shape == (4, 3, 25, 32)
    torch.testing.assert_close(skipped.clip, full.clip, rtol=1e-5, atol=1e-6)
    alone = encoder(x[1:2, ..., :1]).clip
    assert torch.allclose(full.clip[1:2], alone, rtol=1e-3, atol=1e-4) == (persons == "present")
    assert [encoder.pool(h, x).frames.shape[1:] for h in encoder.forward_taps(x, (0, 6, 9))] == [(17, 8), (5, 16), (3, 32)]


def test_training_bf16_and_counting():
    encoder, x = AGCN(width=8, layout="coco17", channels=2, input_norm=True), clips(joints=17, channels=2)
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
    encoder = AGCN(width=8)
    with pytest.raises(ParameterError, match="kinect_v2"):
        encoder(clips(joints=17))
    for options, said in ((dict(strides="half"), "2s_agcn"), (dict(temporal_kernel=4), "odd"), (dict(width=6), "4 divides"),
                          (dict(persons="all"), "mean_over_M")):
        with pytest.raises(ParameterError, match=said):
            AGCN(**options)
