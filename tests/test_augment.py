"""The augmentations: goldens of the releases, invariants of bodies, probabilities, absent persons, and one batch on any number of processes."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.errors import LayoutError, ParameterError
from skelnb.topology import layout
from skelnb.transforms import augment as A
from skelnb.transforms.corrupt import shear
from skelnb.transforms.draws import Draws
from skelnb.transforms.spatial import random_rotation

SWAPPED = [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 20, 23, 24, 21, 22]
ALL = {
    "temporal_crop": A.temporal_crop, "time_flip": A.time_flip, "speed": A.speed, "blur": A.blur, "flip": A.flip, "mirror": partial(A.flip, negate_x=True),
    "rotate_main_axis": A.rotate_main_axis, "rotate_limits": A.rotate_limits, "noise": A.noise, "axis_mask": A.axis_mask, "dropout": A.dropout,
    "rescale_bones": A.rescale_bones, "scale_bones": A.scale_bones,
}


def clips(n=6, t=20, v=25, m=2, absent=True):
    x = torch.randn(n, 3, t, v, m, generator=torch.Generator().manual_seed(0)) + 0.1
    if absent:
        x[::2, ..., 1] = 0
    return x


def lengths(x, parents):
    children = [v for v, parent in enumerate(parents) if parent >= 0]
    return (x[:, :, :, children] - x[:, :, :, [parents[v] for v in children]]).norm(dim=1)  # (N, T, bones, M)


# ---- what all have in common


@pytest.mark.parametrize("name", ALL)
def test_common(name):
    x, op = clips(), ALL[name]
    before = x.clone()
    y = op(x, Draws(3), p=1.0)
    assert y.shape == x.shape and y.dtype == x.dtype and torch.equal(x, before) and not torch.equal(y, x)
    assert not y[::2, ..., 1].any() and y[1::2, ..., 1].any()  # who is absent stays absent
    assert torch.equal(op(x, Draws(3), p=0.0), x)
    parts = [op(x[2 * r:2 * r + 2], Draws(3, rank=r, world=3), p=0.5) for r in range(3)]
    torch.testing.assert_close(torch.cat(parts), op(x, Draws(3), p=0.5), atol=1e-6, rtol=1e-6)
    assert op(x.double(), Draws(3)).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(op(x, Draws(3), p=1.0), y, atol=1e-6, rtol=1e-6)
    for p in (-0.1, 1.5):
        with pytest.raises(ParameterError, match="probability"):
            op(x, Draws(3), p=p)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("p", [0.2, 0.7])
def test_a_share_p_of_the_samples_is_changed(name, p):
    x = torch.randn(1, 3, 12, 25, 1, generator=torch.Generator().manual_seed(1)).repeat(600, 1, 1, 1, 1)
    changed = (ALL[name](x, Draws(11), p=p) != x).flatten(1).any(1).float().mean().item()
    always = (ALL[name](x, Draws(11), p=1.0) != x).flatten(1).any(1).float().mean().item()  # a crop may draw no shift, a speed length T
    assert abs(changed - p * always) < 4 * math.sqrt(p * (1 - p) / 600)
    samples = (ALL[name](x, Draws(11), p=1.0)[:50].flatten(1)).unique(dim=0)
    assert len(samples) > (1 if name in ("axis_mask", "temporal_crop", "speed") else 0)


# ---- time


def test_crop_is_a_window_of_the_mirrored_clip():
    t = 20
    x = torch.arange(float(t)).view(1, 1, t, 1, 1).repeat(400, 1, 1, 1, 1)
    y = A.temporal_crop(x, Draws(0))[:, 0, :, 0, 0]
    long = [2, 1, 0, *range(t), t - 1, t - 2, t - 3]  # T // 6 = 3 frames at both ends
    windows = [[float(f) for f in long[s:s + t]] for s in range(7)]
    counts = [0] * 7
    for row in y.tolist():
        counts[windows.index(row)] += 1
    assert min(counts) > 30  # all starts, about equally often
    assert torch.equal(A.temporal_crop(x[:, :, :5], Draws(0)), x[:, :, :5])  # too short to be shifted


def test_time_flip():
    x = clips()
    assert torch.equal(A.time_flip(x, Draws(0), p=1.0), x.flip(2))


@pytest.mark.parametrize("factor,golden", [
    (0.5, [0.5, 2.5, 4.5, 6.5]), (1.0, [0, 1, 2, 3, 4, 5, 6, 7]), (2.0, [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.25]), (0.25, [1.5, 5.5])])
def test_speed_of_a_ramp(factor, golden):
    x = torch.arange(8.0).view(1, 1, 8, 1, 1)
    y = {fill: A.speed(x, Draws(0), factor, factor, p=1.0, fill=fill).flatten() for fill in ("zero", "edge")}
    tail = 8 - len(golden)
    torch.testing.assert_close(y["zero"], torch.tensor([*golden, *[0] * tail], dtype=torch.float32))
    torch.testing.assert_close(y["edge"], torch.tensor([*golden, *[golden[-1]] * tail], dtype=torch.float32))


def test_speed_is_torch_interpolation():
    x = clips(40, 30, 2, 1, absent=False)
    length = (30 * (Draws(5).rand(40, 1) + 0.5)).long().flatten().tolist()
    y = A.speed(x, Draws(5), p=1.0, fill="zero")
    assert 15 <= min(length) < 20 and 40 < max(length) < 45
    for i, n in enumerate(length):
        whole = torch.nn.functional.interpolate(x[i:i + 1].flatten(3).movedim(2, 3).flatten(1, 2), size=n, mode="linear").unflatten(1, (3, 2)).movedim(3, 2)
        torch.testing.assert_close(y[i, :, :n, :, 0], whole[0, :, :30], atol=5e-5, rtol=1e-5)
        assert not y[i, :, n:].any()


def test_blur_kernels():
    sigma = torch.linspace(0.1, 2, 50)
    right, released = A.blur_kernel(sigma), A.blur_kernel(sigma, normalised=False)
    assert right.shape == (50, 15) and torch.allclose(right.sum(1), torch.ones(50))
    gain = released.sum(1)
    assert gain[0] == pytest.approx(1.0, abs=1e-6) and gain[-1] == pytest.approx(5.01, abs=0.01) and (gain.diff() >= 0).all()
    assert torch.equal(released[:, 7], torch.ones(50)) and torch.equal(right, right.flip(1))


@pytest.mark.parametrize("normalised", [True, False])
def test_blur_is_a_convolution(normalised):
    x = clips(4, 23, 5)
    y = A.blur(x, Draws(2), p=1.0, normalised=normalised)
    kernel = A.blur_kernel(Draws(2).uniform(4, low=0.1, high=2.0), normalised=normalised)
    for i in range(4):
        plain = torch.nn.functional.conv1d(x[i].movedim(1, 3).reshape(-1, 1, 23), kernel[i].view(1, 1, 15), padding=7)
        torch.testing.assert_close(y[i], plain.view(3, 5, 2, 23).movedim(3, 1), atol=1e-5, rtol=1e-5)


# ---- space


def test_flip():
    x, known = clips(), layout("kinect_v2")
    assert known.swap.tolist() == SWAPPED
    once = A.flip(x, Draws(0), p=1.0)
    assert torch.equal(once, x[:, :, :, SWAPPED]) and torch.equal(A.flip(once, Draws(1), p=1.0), x)
    mirror = A.flip(x, Draws(0), p=1.0, negate_x=True)
    assert torch.equal(mirror[:, 0], -once[:, 0]) and torch.equal(mirror[:, 1:], once[:, 1:])
    assert torch.equal(A.flip(mirror, Draws(1), p=1.0, negate_x=True), x)
    coco = clips(v=17)
    assert torch.equal(A.flip(coco, Draws(0), "coco17", p=1.0), coco[:, :, :, layout("coco17").swap])


@pytest.mark.parametrize("name", ["rotate_main_axis", "rotate_limits", "mirror"])
def test_distances_stay(name):
    x = clips(4)
    y = ALL[name](x, Draws(4), p=1.0)
    between = lambda z: torch.cdist(z.permute(0, 2, 4, 3, 1), z.permute(0, 2, 4, 3, 1), compute_mode="donot_use_mm_for_euclid_dist")
    expected = between(x)[..., SWAPPED, :][..., SWAPPED] if name == "mirror" else between(x)
    torch.testing.assert_close(between(y), expected, atol=1e-4, rtol=1e-4)


def angles_of(op, n=900):
    "Turns about x, y and z (R = Rz Ry Rx) read off the images of the unit vectors."
    x = torch.eye(3)[None, :, None, :, None].repeat(n, 1, 1, 1, 1)  # three joints
    r = op(x, Draws(1), p=1.0)[:, :, 0, :, 0]
    return torch.stack([torch.atan2(-r[:, 2, 1], r[:, 2, 2]).abs(), torch.asin(r[:, 2, 0].clamp(-1, 1)).abs(), torch.atan2(-r[:, 1, 0], r[:, 0, 0]).abs()], 1)


def test_main_axis_angles():
    degrees = angles_of(A.rotate_main_axis).rad2deg()
    main = degrees.argmax(1)
    big = degrees.max(1).values
    assert big.max() <= 30.01 and big.max() > 29 and big.mean() == pytest.approx(15, abs=1)
    small = degrees.sort(1).values[:, :2]
    assert small.max() <= 1.01 and small.max() > 0.9
    assert all(220 < (main == a).sum() < 380 for a in range(3))


def test_rotation_limits():
    degrees = angles_of(partial(A.rotate_limits, limits=(0.3, 0.1, 0.2)))
    torch.testing.assert_close(degrees.amax(0), torch.tensor([0.3, 0.1, 0.2]), atol=0.01, rtol=0)
    assert (degrees.amax(0) <= torch.tensor([0.3, 0.1, 0.2]) + 1e-5).all()
    with pytest.raises(ParameterError):
        A.rotate_limits(torch.zeros(1, 2, 4, 3, 1), Draws(0))


# ---- numbers that go wrong


def test_noise():
    x = clips(20)
    difference = A.noise(x, Draws(0), 0.05, p=1.0) - x
    assert difference[1::2].std().item() == pytest.approx(0.05, rel=0.02) and abs(difference.mean()) < 1e-3
    assert A.noise(x, Draws(0), p=1.0, absent=True)[::2, ..., 1].any()
    x[1, :, 5:, :, 1] = 0  # leaves
    assert not A.noise(x, Draws(0), p=1.0)[1, :, 5:, :, 1].any()


def test_normal_numbers_of_16_bits():
    draw = lambda seed, *shape: A._normal(torch.Generator().manual_seed(seed), *shape)
    z, share = draw(0, 3, 100_001), torch.special.ndtr(A._quantiles().double())
    torch.testing.assert_close(share, (torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16, atol=1e-7, rtol=1e-3)
    assert z.shape == (3, 100_001) and torch.equal(z, draw(0, 3, 100_001)) and not torch.equal(z, draw(1, 3, 100_001)) and draw(0, 0, 5).shape == (0, 5)
    assert abs(z.mean()) < 0.01 and z.std().item() == pytest.approx(1, abs=0.01) and (z ** 4).mean().item() == pytest.approx(3, abs=0.1)
    each = torch.bincount((torch.special.ndtr(z.flatten()) * 100).long(), minlength=100).double()
    assert ((each - 3000.03).square() / 3000.03).sum() < 170  # chi squared of 99 degrees of freedom
    assert all(abs(torch.corrcoef(torch.stack([z[0, :-lag], z[0, lag:]]))[0, 1]) < 0.015 for lag in (1, 2, 3, 4))  # four come from one draw


def test_axis_mask_and_dropout():
    x = clips(300, 6, absent=False)
    lost = (A.axis_mask(x, Draws(0), p=1.0) == 0).flatten(2).all(2)
    assert torch.equal(lost.sum(1), torch.ones(300, dtype=torch.int64)) and lost.sum(0).min() > 70
    y = A.dropout(x, Draws(0), 0.3, p=1.0)
    assert (y == 0).float().mean().item() == pytest.approx(0.3, abs=0.01) and torch.equal(y[y != 0], x[y != 0])


# ---- bones


def test_rescaled_bones():
    x, known = clips(), layout("kinect_v2")
    factors = Draws(8).uniform(6, 25, low=0.0, high=0.5)
    y = A.rescale_bones(x, Draws(8))
    torch.testing.assert_close(y[:, :, :, 20], x[:, :, :, 20])
    children = [v for v in range(25) if v != 20]
    torch.testing.assert_close(lengths(y, known.parents), lengths(x, known.parents) * factors[:, None, children, None], atol=1e-5, rtol=1e-4)
    assert torch.equal(A.rescale_bones(x, Draws(8), 1.0, 1.0), x)


@pytest.mark.parametrize("groups", [3, 5])
def test_scaled_bones(groups):
    x = clips()
    parts = [[20, 1, 2, 3], [4, 5, 6, 7, 21, 22], [8, 9, 10, 11, 23, 24], [12, 13, 14, 15], [16, 17, 18, 19]]
    parts = parts if groups == 5 else [parts[0], parts[1] + parts[2], parts[3] + parts[4]]
    factors = Draws(8).uniform(6, groups, low=0.85, high=1.15)
    of = {v: g for g, part in enumerate(parts) for v in part}
    y = A.scale_bones(x, Draws(8), groups=groups, p=1.0)
    expected = lengths(x, A.SLIM_PARENTS) * factors[:, None, [of[v] for v in range(1, 25)], None]
    torch.testing.assert_close(lengths(y, A.SLIM_PARENTS), expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(y[:, :, :, 0], x[:, :, :, 0])
    assert factors.min() > 0.85 and factors.max() < 1.15 and torch.equal(A.scale_bones(x, Draws(8), 1.0, 1.0, groups, p=1.0), x)


def by_the_loop(x, factors, order):
    "The release's reconstruction, joint after joint in the given order, for one sample (C, T, V, M)."
    y = torch.zeros_like(x)
    y[:, :, 0] = x[:, :, 0]
    for v in order:
        parent = A.SLIM_PARENTS[v]
        y[:, :, v] = y[:, :, parent] + factors[v] * (x[:, :, v] - x[:, :, parent])
    return y


def test_the_releases_order():
    x, moved = clips(), [*range(2, 12), *range(21, 25)]
    y = A.scale_bones(x, Draws(0), 1.0, 1.0, p=1.0, bug_compat=True)
    torch.testing.assert_close(y[:, :, :, moved], x[:, :, :, moved] - x[:, :, :, 20:21], atol=1e-5, rtol=1e-5)
    stays = [v for v in range(25) if v not in moved]
    torch.testing.assert_close(y[:, :, :, stays], x[:, :, :, stays])
    factors = torch.rand(6, 25, generator=torch.Generator().manual_seed(3)) + 0.5
    right_order = [1, 20, 2, 3, 4, 5, 6, 7, 21, 22, 8, 9, 10, 11, 23, 24, *range(12, 20)]
    for bug, order in ((True, range(1, 25)), (False, right_order)):
        matrix = A.kinematic_matrix(factors, A.SLIM_PARENTS, bug)
        plain = torch.stack([by_the_loop(x[i], factors[i], order) for i in range(6)])
        torch.testing.assert_close(torch.einsum("nuv,nctvm->nctum", matrix, x), plain, atol=1e-5, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(["kinect_v2", "kinect_v1", "coco17", "h36m17", "smpl22", "mediapipe33", "lcrnet13"]))
def test_any_layout(name):
    known = layout(name)
    x = clips(2, 4, known.V)
    assert torch.equal(A.rescale_bones(x, Draws(0), 1.0, 1.0, name), x) and torch.equal(A.scale_bones(x, Draws(0), 1.0, 1.0, layout=name, p=1.0), x)
    factors = Draws(0).uniform(2, known.V, low=0.0, high=0.5)[:, None, [v for v in range(known.V) if v != known.root], None]
    torch.testing.assert_close(lengths(A.rescale_bones(x, Draws(0), layout=name), known.parents), lengths(x, known.parents) * factors, atol=1e-5, rtol=1e-4)


# ---- regions and mixes


@pytest.mark.parametrize("per", ["batch", "sample"])
def test_regions(per):
    known, seen = layout("kinect_v2"), set()
    for step in range(30):
        region = A.draw_region(4, 50, Draws(0, step), per=per)
        assert region.mask.shape == (4, 50, 25) and len(region.mask.unique(dim=0)) == 1 or per == "sample"
        for joints, inside, start, length in zip(region.joints, region.inside, region.start.tolist(), region.length.tolist()):
            assert length in (12, 16, 20) and start % 4 == 0 and 0 <= start <= 48 - length
            assert inside.nonzero().flatten().tolist() == list(range(start, start + length))
            chosen = [p for p, members in known.parts.items() if joints[list(members)].any()]
            assert len(chosen) in (2, 3) and all(joints[list(known.parts[p])].all() for p in chosen)
            seen |= {("part", p) for p in chosen} | {("length", length), ("end", start + length), ("start", start), ("parts", len(chosen))}
    assert {("part", p) for p in known.parts} <= seen and {("start", 0), ("end", 48), ("parts", 2), ("parts", 3)} <= seen
    for r in range(2):  # on two processes
        mine = A.draw_region(2, 50, Draws(0, 7, r, 2), per=per)
        assert torch.equal(mine.mask, A.draw_region(4, 50, Draws(0, 7), per=per).mask[2 * r:2 * r + 2])


def test_cut_resize_and_mixup():
    x, other = clips(3, 50), clips(3, 50).flip(0) * 2
    region = A.draw_region(3, 50, Draws(1), per="sample")
    cut, resize, blend = A.cut_mix(region), A.resize_mix(region), A.mixup(torch.tensor([0.0, 0.25, 1.0]), 50, 25)
    inside = region.mask[:, None, :, :, None].expand_as(x)
    y = cut(x, other)
    assert torch.equal(y[inside], other[inside]) and torch.equal(y[~inside], x[~inside])
    y = resize(x, other)
    assert torch.equal(y[~inside], x[~inside])
    for i in range(3):
        s, r, joints = int(region.start[i]), int(region.length[i]), region.joints[i]
        squeezed = torch.nn.functional.interpolate(other[i, :, :2 * r].flatten(2).movedim(1, 2), size=r, mode="nearest").movedim(2, 1).unflatten(2, (25, 2))
        assert torch.equal(y[i, :, s:s + r][:, :, joints], squeezed[:, :, joints])
    torch.testing.assert_close(blend(x, other), torch.stack([x[0], 0.75 * x[1] + 0.25 * other[1], other[2]]))


def test_resize_of_a_long_region_uses_all_there_is():
    region = A.Region(torch.ones(1, 2, dtype=torch.bool), torch.tensor([2]), torch.tensor([8]), 12)
    assert A.resize_mix(region).source[0].tolist() == [0, 1, 0, 1, 3, 4, 6, 7, 9, 10, 10, 11]


def test_random_mixes():
    kinds = {"cut": 0, "resize": 0, "mixup": 0}
    for step in range(200):
        mix = A.random_mix(3, 50, Draws(2, step))
        assert torch.equal(mix.kept[0], mix.kept[2]) and torch.equal(mix.source[0], mix.source[2])
        share = mix.kept.unique()
        whole = torch.equal(mix.source[0], torch.arange(50))
        kinds["mixup" if len(share) == 1 else "cut" if whole else "resize"] += 1
    assert 75 < kinds["cut"] < 125 and 30 < kinds["resize"] < 70 and 30 < kinds["mixup"] < 70
    assert (A.random_mix(3, 50, Draws(2), odds=(0, 0, 1)).kept.unique()).numel() == 1
    two = A.random_mix(3, 50, Draws(2, 5, 1, 2))
    assert torch.equal(two.kept, A.random_mix(3, 50, Draws(2, 5)).kept)


def test_partners():
    shifts = {tuple(A.partners(5, Draws(0, step)).tolist()) for step in range(40)}
    assert shifts == {tuple((i + s) % 5 for i in range(5)) for s in (1, 2, 3)} and A.partners(2, Draws(0)).tolist() == [1, 0]


def test_skeleton_mask():
    x, region = clips(3, 50), A.draw_region(3, 50, Draws(1))
    inside = region.mask[:, None, :, :, None].expand_as(x)
    for y, there in ((A.skeleton_mask(x, region), torch.zeros_like(x)), (A.skeleton_mask(x, region, -x), -x)):
        assert torch.equal(y[~inside], x[~inside]) and torch.equal(y[inside], there[inside])
    y = A.skeleton_mask(x, region, draws=Draws(0), sigma=0.1)
    assert torch.equal(y[~inside], x[~inside]) and y[inside].std().item() == pytest.approx(0.1, rel=0.1)


# ---- chains


def test_actclr_chains():
    assert list(A.actclr_steps(())) == ["crop", "shear"]
    assert list(A.actclr_steps(A.STRONG)) == ["crop", "shear", "flip", "rotate", "noise", "blur", "axis_mask", "speed", "rescale_bones"]
    x = clips()
    weak = A.augment(x, Draws(0), A.actclr_steps(()))
    d = Draws(0)
    assert torch.equal(weak, shear(A.temporal_crop(x, d.child("crop")), d.child("shear")))
    y = A.augment(x, Draws(0), A.actclr_steps(A.STRONG, 0.05))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(A.augment(x, Draws(0), A.actclr_steps(A.STRONG, 0.05)), y)
    parts = [A.augment(x[3 * r:3 * r + 3], Draws(0, rank=r, world=2), A.actclr_steps(A.STRONG, 0.05)) for r in range(2)]
    torch.testing.assert_close(torch.cat(parts), y, atol=1e-5, rtol=1e-5)
    assert not y[::2, ..., 1].any() and y.isfinite().all()
    one, two = ({"flip": A.flip, "noise": A.noise}, {"noise": A.noise})  # the numbers of a step do not depend on the others
    z = x.clone()
    assert torch.equal(A.augment(z, Draws(0), one) - A.flip(z, Draws(0).child("flip")) != 0, A.augment(z, Draws(0), two) - z != 0)
    release = A.augment(x, Draws(1), A.actclr_steps((3, 8), release=True))
    assert release[::2, ..., 1].any()


def in_sequence(x, draws, steps):
    for name, step in steps.items():
        x = step(x, draws.child(name))
    return x


@pytest.mark.parametrize("ids", [A.STRONG, range(1, 10), (2, 4, 5, 8, 9)])
def test_a_chain_is_its_steps_in_sequence(ids):
    x, steps = clips(150, 12), A.actclr_steps(ids, 0.05)  # more clips than are run at a time
    before, y = x.clone(), A.augment(x, Draws(4), steps)
    torch.testing.assert_close(y, in_sequence(x, Draws(4), steps), atol=1e-5, rtol=1e-5)
    assert torch.equal(x, before) and y.is_contiguous()
    torch.testing.assert_close(A.augment(x.double(), Draws(4), steps), y.double(), atol=1e-5, rtol=1e-5)
    x.requires_grad_()
    torch.testing.assert_close(*(torch.autograd.grad(f(x, Draws(4), steps).square().sum(), x)[0] for f in (A.augment, in_sequence)), atol=1e-4, rtol=1e-4)


def test_any_order_and_steps_of_others():
    x = clips()
    steps = {"mask": A.axis_mask, "turn": partial(A.rotate_limits, p=0.5), "shear": shear, "own": lambda z, d: 2 * z,
             "mirror": partial(A.flip, negate_x=True, p=0.8), "turn again": A.rotate_main_axis, "speed": A.speed, "spin": random_rotation,
             "back": A.time_flip, "sizes": A.scale_bones, "shear again": partial(shear, limit=0.2)}
    torch.testing.assert_close(A.augment(x, Draws(4), steps), in_sequence(x, Draws(4), steps), atol=1e-5, rtol=1e-5)
    assert torch.equal(A.augment(x, Draws(4), {}), x) and A.augment(x[:0], Draws(4), A.actclr_steps(A.STRONG)).shape == x[:0].shape
    planned = []
    for name in ("turn again", "speed", "spin", "sizes", "shear"):
        A._join(planned, A._plan(steps[name], x, Draws(4)))
    assert len(planned) == 3  # three matrices in space are one


@pytest.mark.parametrize("between", ["noise", "axis_mask", "mirror"])
def test_what_matrices_do_not_pass(between):
    x, steps = clips(), {"shear": shear, "between": ALL[between], "turn": partial(A.rotate_main_axis, main=90.0)}
    torch.testing.assert_close(A.augment(x, Draws(4), steps), in_sequence(x, Draws(4), steps), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in ALL if name != "noise"])
def test_a_device_that_is_not_asked_draws_the_same(name, monkeypatch):
    x = clips()
    y = ALL[name](x, Draws(3), p=0.5)
    monkeypatch.setattr(A, "_host", lambda x: False)
    torch.testing.assert_close(ALL[name](x, Draws(3), p=0.5), y, atol=1e-6, rtol=1e-6)


def test_noise_on_a_device_that_is_not_asked(monkeypatch):
    x = clips()
    changed = lambda: (A.noise(x, Draws(3)) != x).flatten(1).any(1).tolist()
    host = changed()
    monkeypatch.setattr(A, "_host", lambda x: False)
    assert changed() == host and len(set(host)) == 2
    y = A.augment(x, Draws(3), A.actclr_steps(A.STRONG, 0.05))
    torch.testing.assert_close(y, in_sequence(x, Draws(3), A.actclr_steps(A.STRONG, 0.05)), atol=1e-5, rtol=1e-5)
    parts = [A.augment(x[2 * r:2 * r + 2], Draws(3, rank=r, world=3), A.actclr_steps(A.STRONG, 0.05)) for r in range(3)]
    torch.testing.assert_close(torch.cat(parts), y, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("call,message", [
    (lambda: A.flip(clips(v=17), Draws(0)), "25"),
    (lambda: A.rescale_bones(clips(v=17), Draws(0)), "25"),
    (lambda: A.scale_bones(clips(), Draws(0), groups=4), "4 groups"),
    (lambda: A.blur(clips(), Draws(0), taps=14), "14 taps"),
    (lambda: A.blur(clips(), Draws(0), low=0), "widths 0"),
    (lambda: A.speed(clips(), Draws(0), fill="wrap"), "wrap"),
    (lambda: A.speed(clips(), Draws(0), low=0.0), "lengths 0.0"),
    (lambda: A.draw_region(2, 12, Draws(0)), "12 frames"),
    (lambda: A.draw_region(2, 50, Draws(0), per="clip"), "clip"),
    (lambda: A.draw_region(2, 50, Draws(0), parts=(2, 6)), "6"),
    (lambda: A.partners(1, Draws(0)), "single"),
    (lambda: A.skeleton_mask(clips(2, 50), A.draw_region(2, 50, Draws(0)), sigma=0.1), "draws"),
    (lambda: A.actclr_steps((1, 10)), "10"),
])
def test_bad_input(call, message):
    with pytest.raises((ParameterError, LayoutError), match=message):
        call()
