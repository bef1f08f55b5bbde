"""The U-shaped module: its published size, its three units written out, any length, padding, the baseline, and fine-tuning through `evaluation`."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from skelnb.backbones.agcn import AGCN
from skelnb.backbones.features import Features
from skelnb.backbones.fusion import (
    Localiser,
    NestedFusion,
    WithFusion,
    WithUpsampling,
    masked,
    repeat_steps,
    stretch,
    tap_geometry,
    valid_frames,
)
from skelnb.backbones.stgcn import STGCN
from skelnb.backbones.unik import UNIK
from skelnb.backbones.vit import SkeletonViT
from skelnb.errors import ParameterError
from skelnb.evaluation.detection import DetectionConfig, detect, segment

NETWORKS = {
    "line": lambda **o: AGCN(width=4, **o),
    "2s_agcn": lambda **o: AGCN(width=4, strides="2s_agcn", input_norm=True, **o),
    "unik": lambda **o: UNIK(width=4, start="aimclr", **o),
    "unik_still": lambda **o: UNIK(width=4, attention=False, **o),
    "stgcn": lambda **o: STGCN(width=4, out=16, dropout=0.0, **o),
}


def clips(n=2, frames=33, joints=25, persons=2, seed=0):
    return torch.randn(n, 3, frames, joints, persons, generator=torch.Generator().manual_seed(seed)).cumsum(2) / 3


def with_a_past(module, seed=0):
    "Weights and statistics as after training."
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, t in module.state_dict().items():
            if name.endswith((".B", ".W")):
                t.copy_(0.1 * torch.randn(t.shape, generator=g))
            elif t.ndim > 1:
                t.copy_(torch.randn(t.shape, generator=g) * (2 / t[0].numel()) ** 0.5)
            elif name.endswith("running_var") or (t.ndim == 1 and name.endswith("weight")):
                t.copy_(0.5 + torch.rand(t.shape, generator=g))
            elif t.is_floating_point():
                t.add_(0.1 * torch.randn(t.shape, generator=g))
    return module.eval()


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_parameters_of_the_release():
    with torch.device("meta"):
        whole = Localiser(AGCN(), 5)
        assert count(whole.body.fusion) == 2_244_672 and count(whole.head) == 2_565
        assert (whole.body.taps, whole.body.strides, whole.body.dim) == ((0, 6, 9), (1, 4, 8), 512)
        assert count(whole) == 3_458_078 + 2_244_672 + 2_565
        assert count(Localiser(whole.body.encoder, 5, "simple")) == count(whole.body.encoder) + 256 * 5 + 5
        other = WithFusion(UNIK())
        assert (other.taps, other.strides) == ((3, 6, 9), (1, 2, 4)) and count(other.fusion) == 2_244_672
        assert WithFusion(AGCN(width=4, strides="2s_agcn")).strides == (1, 2, 4)
        thin = WithFusion(STGCN())
        assert (thin.taps, thin.strides, thin.fusion.out.in_channels) == ((3, 6, 9), (1, 2, 4), 4 * 16 + 3 * 32 + 256)
        assert WithFusion(thin.encoder, (0, 6, 9)).strides == (1, 2, 4)


def test_what_a_tap_sees():
    assert tap_geometry(AGCN(width=4), range(10)) == [
        (4, 1, 9), (4, 2, 17), (4, 2, 33), (4, 2, 49), (8, 4, 65), (8, 4, 97), (8, 4, 129), (16, 8, 161), (16, 8, 225), (16, 8, 289)]
    net = with_a_past(UNIK(width=4, attention=False)).double()
    for tap, (_, stride, field) in zip(net.taps.values(), tap_geometry(net, net.taps.values())):
        x = clips(1, 400, persons=1).double().requires_grad_()
        step = net.forward_taps(x, (tap,))[0][0, :, 200 // stride]
        (g,) = torch.autograd.grad(step.sum(), x)
        seen = g.abs().sum((0, 1, 3, 4)).nonzero().flatten()
        assert (seen.min().item(), seen.max().item()) == (200 // stride * stride - field // 2, 200 // stride * stride + field // 2)


def by_hand(m, maps, strides, frames):
    "The three units in loops over frames."
    fine, middle, coarse = maps
    a, b = strides[1] // strides[0], strides[2] // strides[1]

    def up(z, times, n):
        return torch.stack([z[..., t // times] for t in range(n)], -1)

    def unit(u, z):
        z = F.pad(z, (1, 1))
        cols = [sum(u.conv.weight[..., k] @ z[..., t + k, None] for k in range(3))[..., 0] + u.conv.bias for t in range(z.shape[-1] - 2)]
        n = u.norm
        y = (torch.stack(cols, -1) - n.running_mean[:, None]) / (n.running_var[:, None] + n.eps).sqrt()
        return torch.relu(y * n.weight[:, None] + n.bias[:, None])

    x01 = unit(m.x01, torch.cat([fine, up(middle, a, fine.shape[-1])], 1))
    x11 = unit(m.x11, torch.cat([middle, up(coarse, b, middle.shape[-1])], 1))
    x02 = unit(m.x02, torch.cat([fine, x01, up(x11, a, fine.shape[-1])], 1))
    z = torch.einsum("oc,nct->not", m.out.weight[..., 0], torch.cat([fine, x01, x02], 1)) + m.out.bias[:, None]
    return up(z, strides[0], frames)


@pytest.mark.parametrize("strides, frames", [((1, 4, 8), 16), ((1, 4, 8), 29), ((1, 2, 4), 17), ((2, 4, 8), 23)])
def test_the_units(strides, frames):
    m = with_a_past(NestedFusion((2, 3, 4), strides, 5)).double()
    g = torch.Generator().manual_seed(1)
    maps = [torch.randn(2, c, -(-frames // s), generator=g, dtype=torch.double) for c, s in zip((2, 3, 4), strides)]
    torch.testing.assert_close(m(maps, frames), by_hand(m, maps, strides, frames))


@settings(max_examples=40, deadline=None)
@given(st.integers(16, 90), st.sampled_from([(1, 4, 8), (1, 2, 4), (2, 2, 4)]))
def test_any_length(frames, strides):
    m = NestedFusion((1, 1, 1), strides, 2).eval()
    maps = [torch.arange(-(-frames // s), dtype=torch.float32)[None, None] for s in strides]
    assert m(maps, frames).shape == (1, 2, frames)
    up = repeat_steps(maps[2], strides[2], frames)[0, 0]
    assert up.tolist() == [t // strides[2] for t in range(frames)]
    if frames % strides[2] == 0:
        assert torch.equal(up, F.interpolate(maps[2], frames)[0, 0])


@pytest.mark.parametrize("name, persons", [*((name, "present") for name in NETWORKS), ("line", "mean_over_M"), ("stgcn", "mean_over_M")])
def test_frames_of_every_network(name, persons):
    whole = with_a_past(WithFusion(NETWORKS[name](persons=persons), dim=8)).double()
    for frames in (16, 31):
        x = clips(frames=frames).double()
        x[0, ..., 1] = 0
        said = whole(x)
        assert isinstance(said, Features) and said.frames.shape == (2, frames, 8) and said.clip.shape == (2, 8) and said.tokens is None
        torch.testing.assert_close(said.clip, said.frames.mean(1))
        maps = whole.encoder.forward_taps(x, whole.taps)
        pooled = [whole.encoder.pool(h, x).frames.mT for h in maps]  # joints and persons averaged
        torch.testing.assert_close(said.frames, whole.fusion(pooled, frames).mT)
        alone = whole(x[:1, ..., :1]).frames
        assert torch.allclose(said.frames[:1], alone, rtol=1e-6) == (persons == "present")


# ---- padding ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("how", ["nested", "simple"])
def test_padding_does_not_matter_to_real_frames(name, how):
    whole = with_a_past(Localiser(NETWORKS[name](), 3, how, **(dict(dim=8) if how == "nested" else {}))).double()
    lengths = (16, 21, 33)
    x = clips(3, 33).double()
    valid = torch.tensor(lengths)
    for i, n in enumerate(lengths):
        x[i, :, n:] = 3.0 * i  # zeros, or worse
    x[1, ..., 1] = 0
    said, logits = whole(x, valid)
    for i, n in enumerate(lengths):
        alone = whole(x[i:i + 1, :, :n])
        torch.testing.assert_close(said[i, :n], alone[0][0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(logits[i, :n], alone[1][0], rtol=1e-9, atol=1e-9)
        assert not said[i, n:].any()
    torch.testing.assert_close(whole.body(x, valid).clip[0], said[0, :16].mean(0))
    assert not torch.allclose(whole(x)[0][0, :16], said[0, :16], rtol=1e-2)  # without valid it does matter
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in whole.modules()) and whole.body.encoder.skip_empty


def test_masks_are_taken_off_after_an_error():
    net = NETWORKS["line"]().eval()
    with pytest.raises(RuntimeError), masked(net, torch.tensor([16]), 1):
        raise RuntimeError
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules()) and net.skip_empty


def test_seen_padding():
    x = clips(4, 20)
    x[1, :, 12:] = 0
    x[2, :, 15:] = x[2, :, 14:15]
    x[3] = 0
    assert valid_frames(x).tolist() == [20, 12, 20, 1]
    assert valid_frames(x, "repeat").tolist() == [20, 12, 15, 1]
    assert valid_frames(x, "none").tolist() == [20] * 4
    assert valid_frames(x[:, :, :1], "repeat").tolist() == [1] * 4
    whole = with_a_past(WithFusion(NETWORKS["unik"](), dim=8, padding="repeat"))
    x = x[:3]
    assert torch.equal(whole(x).frames, whole(x, torch.tensor([20, 12, 15])).frames)
    assert not whole(x).frames[2, 15:].any()


# ---- baseline --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [16, 40, 41])
def test_the_simple_baseline_is_interpolated_logits(frames):
    net, x = NETWORKS["line"](), clips(frames=frames).double()
    whole = with_a_past(Localiser(net, 3, "simple")).double()
    expected = F.interpolate(whole.head(net(x).frames).mT, frames, mode="linear", align_corners=True).mT
    torch.testing.assert_close(whole(x)[1], expected)
    assert whole(x)[0].shape == (2, frames, 16)


def test_stretch_clip_by_clip():
    z, steps, valid = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([5, 3, 1]), torch.tensor([36, 20, 1])
    y = stretch(z, 36, steps, valid)
    for i in range(3):
        expected = F.interpolate(z[i:i + 1, :, :steps[i]], int(valid[i]), mode="linear", align_corners=True)[0]
        torch.testing.assert_close(y[i, :, :valid[i]], expected, rtol=1e-5, atol=1e-5)
        assert not y[i, :, valid[i]:].any()


# ---- in training and in the protocols --------------------------------------------------------------------------------------------------


def test_gradients_reach_everything_also_in_bf16():
    whole, x = Localiser(NETWORKS["line"](), 3, dim=8), clips()
    with torch.autocast("cpu", torch.bfloat16):
        frames, logits = whole(x, torch.tensor([33, 20]))
        loss = F.cross_entropy(logits.float().flatten(0, 1), torch.zeros(66, dtype=torch.long))
    loss.backward()
    assert frames.dtype == torch.float32
    assert [n for n, p in whole.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("body", ["nested", "simple"])
def test_fine_tuning_through_evaluation(tiny_store, body):
    torch.manual_seed(0)
    net = UNIK(width=4, attention=False, start="aimclr")
    whole = WithFusion(net, dim=8, padding="repeat") if body == "nested" else WithUpsampling(net, padding="repeat")
    before = {k: v.clone() for k, v in whole.state_dict().items()}
    train, test = tiny_store.split("part", "train"), tiny_store.split("part", "test")
    recipe = dict(epochs=2, batch=4, lr=1e-2, warmup_epochs=0, milestones=())
    config = DetectionConfig.named("babel_snippet", training="finetune", overrides=recipe)
    outcome = detect(whole, tiny_store, train, test, config)
    assert {v: p.shape for v, p in outcome.probabilities.items()} == {
        tiny_store.name(int(c)): (len(tiny_store.frame_labels(int(c))), len(tiny_store.classes)) for c in test}
    assert all(abs(p.sum(1) - 1).max() < 1e-5 for p in outcome.probabilities.values()) and len(outcome.scores())
    p = next(iter(outcome.probabilities.values()))
    assert abs(p[1:] - p[:-1]).max() > 0
    assert all(torch.equal(v, before[k]) for k, v in whole.state_dict().items())  # a copy is trained
    if body == "nested":
        windows = DetectionConfig.named("segmentation", training="finetune", recipe="snippet", readout="frames", window=24, stride=12, overrides=recipe)
        assert 0 <= segment(whole, tiny_store, train, test, windows).headline <= 1


def test_it_learns_boundaries_between_steps_of_eight():
    "Labels change every few frames: the last map alone cannot follow, fused maps can."
    g = torch.Generator().manual_seed(0)
    y = (torch.rand(4, 16, generator=g) < 0.5).long().repeat_interleave(3, 1)
    x = 0.1 * torch.randn(4, 3, 48, 25, 1, generator=g) + y[:, None, :, None, None]
    right = {}
    for how in ("simple", "nested"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            whole = Localiser(AGCN(width=4), 2, how)
        optimiser = torch.optim.Adam(whole.parameters(), lr=1e-2)
        for _ in range(25):
            loss = F.cross_entropy(whole(x)[1].flatten(0, 1), y.flatten())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        right[how] = (whole(x)[1].argmax(2) == y).float().mean().item()
    assert right["nested"] > 0.95 > 0.9 > right["simple"], right


def test_bad_input():
    net = NETWORKS["line"]()
    for wrong, said in ((lambda: WithFusion(nn.Linear(2, 2)), "no forward_taps"), (lambda: WithFusion(SkeletonViT()), "no forward_taps"),
                        (lambda: WithFusion(net, (0, 6)), "three blocks"), (lambda: WithFusion(net, (0, 9, 6)), "ascending"),
                        (lambda: WithFusion(net, (0, 6, 10)), "of 10 blocks"), (lambda: WithFusion(net, padding="edge"), "edge"),
                        (lambda: Localiser(net, 3, "nest"), "'nested' or 'simple'"), (lambda: NestedFusion(strides=(1, 4, 6)), "each stride"),
                        (lambda: NestedFusion((1, 2)), "give three"), (lambda: repeat_steps(torch.zeros(1, 1, 3), 4, 13), "do not cover"),
                        (lambda: valid_frames(clips(), "ones"), "unknown")):
        with pytest.raises(ParameterError, match=said):
            wrong()
