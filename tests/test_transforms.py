"""The transforms: goldens of the reference recipes, and what must hold for every batch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.data.windows import resample_index
from skelnb.errors import ParameterError
from skelnb.transforms.draws import Draws
from skelnb.transforms.masks import (
    masked_tokens,
    motion_aware_visible,
    motion_intensity,
    random_visible,
    split_tokens,
    take,
    visible_count,
)
from skelnb.transforms.spatial import center, present, random_rotation, rotate, rotation_matrix
from skelnb.transforms.temporal import center_crop_resize, crop_resize, difference, patchify, resample


@pytest.fixture
def clips():
    "Six clips of two persons: (6, 3, 30, 5, 2); person 2 comes late in clip 1, is absent in clip 2; clip 3 begins without person 1."
    x = torch.randn(6, 3, 30, 5, 2, generator=torch.Generator().manual_seed(0))
    x[1, :, :10, :, 1] = 0
    x[2, ..., 1] = 0
    x[3, :, :4, :, 0] = 0
    return x


def per_process(function, world=2, n=6):
    "What `world` processes get, one after the other."
    size = n // world
    return [function(slice(r * size, (r + 1) * size), Draws(7, 3, rank=r, world=world)) for r in range(world)]


# ---- draws


@pytest.mark.parametrize("kind", ["rand", "randn", "uniform", "randint"])
@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_one_batch(kind, world):
    more = {"uniform": dict(low=-2.0, high=3.0), "randint": dict(low=5, high=9)}.get(kind, {})
    alone = Draws(1, 2)
    parts = [Draws(1, 2, rank=r, world=world) for r in range(world)]
    for shape in ((), (4,), (2, 3)):  # the streams stay in step over several calls
        whole = getattr(alone, kind)(6, *shape, **more)
        assert whole.shape == (6, *shape)
        assert torch.equal(whole, torch.cat([getattr(p, kind)(6 // world, *shape, **more) for p in parts]))


def test_streams_differ_and_repeat():
    streams = [Draws(0), Draws(1), Draws(0, 1), Draws(0).child("a"), Draws(0).child("b"), Draws(0).child("a").child("b")]
    values = torch.stack([s.rand(8) for s in streams])
    assert len({tuple(v.tolist()) for v in values}) == len(streams)
    assert torch.equal(Draws(0).child("a").rand(8), values[3])
    used = Draws(0)
    used.rand(100)
    assert torch.equal(used.child("a").rand(8), values[3])


def test_shared_child_is_the_same_on_all_ranks():
    a, b = (Draws(0, 5, rank=r, world=2).child("codes", shared=True).rand(4) for r in range(2))
    assert torch.equal(a, b) and torch.equal(a, Draws(0, 5).child("codes").rand(4))


def test_ranges():
    d = Draws(0)
    u, k = d.uniform(1000, low=-0.3, high=0.3), d.randint(1000, low=2, high=5)
    assert u.abs().max() <= 0.3 and set(k.tolist()) == {2, 3, 4} and k.dtype == torch.int64
    with pytest.raises(ParameterError, match="rank 2 of 2"):
        Draws(0, rank=2, world=2)


# ---- temporal


def line(*values):
    return torch.tensor(values, dtype=torch.float64).view(1, 1, -1, 1, 1)


def test_resize_goldens():
    for values, frames, wanted in (([0, 1, 2, 3], 8, [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]), (range(8), 4, [0.5, 2.5, 4.5, 6.5])):
        x = line(*values)
        assert resample(x, torch.tensor([0]), torch.tensor([x.shape[2]]), frames).flatten().tolist() == wanted


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 20))
def test_resample_is_bilinear_and_agrees_with_the_store(length, frames, start):
    x = torch.randn(1, 2, start + length + 3, 4, 1, generator=torch.Generator().manual_seed(length), dtype=torch.float64)
    y = resample(x, torch.tensor([start]), torch.tensor([length]), frames)
    image = x[0, :, start : start + length, :, 0][None]
    reference = torch.nn.functional.interpolate(image, size=(frames, 4), mode="bilinear", align_corners=False)
    assert torch.allclose(y[0, ..., 0], reference[0], atol=1e-4)
    lo, hi, w = resample_index([start], [length], frames)
    w = torch.from_numpy(w[0].astype(np.float64))[:, None]
    assert torch.allclose(y[0, ..., 0], torch.lerp(x[0, :, lo[0], :, 0], x[0, :, hi[0], :, 0], w), atol=1e-4)


def test_center_crop_golden():
    x = torch.arange(100.0).view(1, 1, 100, 1, 1)
    assert center_crop_resize(x, torch.tensor([100]), 96).flatten().tolist() == list(range(2, 98))
    for valid in range(1, 100):  # the same rounding as int(0.05 * valid / 2)
        side = int((1 - 0.95) * valid / 2)
        y = center_crop_resize(x, torch.tensor([valid]), valid - 2 * side)
        assert y[0, 0, 0] == side and y.shape[2] == 1 or y[0, 0, -1] == valid - side - 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(0, 1000))
def test_crops_stay_inside_and_have_legal_lengths(valid, seed):
    x = torch.arange(300.0, dtype=torch.float64).view(1, 1, 300, 1, 1).expand(16, -1, -1, -1, -1)
    y = crop_resize(x, torch.full((16,), valid), 4 * valid, draws=Draws(seed)).view(16, -1)
    first, last = y[:, 0], y[:, -1]  # half-pixel: the ends are held
    length = last - first + 1
    assert (first >= 0).all() and (last <= valid - 1).all()
    assert (length >= min(valid, max(64, math.floor(0.5 * valid)))).all() and (length <= valid).all()
    assert torch.equal(first, first.round()) and (y.diff(dim=1) >= 0).all()


def test_crop_uses_every_start_and_respects_limits():
    x = torch.arange(100.0).view(1, 1, 100, 1, 1).expand(2000, -1, -1, -1, -1)
    y = crop_resize(x, torch.full((2000,), 100), 200, 0.64, 0.64, draws=Draws(0)).view(2000, -1)
    assert set(y[:, 0].tolist()) == set(range(37)) and torch.equal(y[:, -1] - y[:, 0], torch.full((2000,), 63.0))
    for low, high in ((0, 1), (0.8, 0.5), (0.5, 1.1)):
        with pytest.raises(ParameterError):
            crop_resize(x, torch.full((2000,), 100), 120, low, high, draws=Draws(0))
    with pytest.raises(ParameterError):
        center_crop_resize(x, torch.full((2000,), 100), 120, keep=0)


def test_crop_on_two_processes(clips):
    valid = torch.tensor([30, 30, 20, 25, 30, 10])
    whole = crop_resize(clips, valid, 16, min_frames=4, draws=Draws(7, 3))
    parts = per_process(lambda s, d: crop_resize(clips[s], valid[s], 16, min_frames=4, draws=d))
    assert torch.equal(whole, torch.cat(parts))
    assert whole[2, ..., 1].abs().max() == 0  # absent stays absent
    assert crop_resize(torch.zeros(1, 3, 8, 5, 2), torch.tensor([0]), 16, draws=Draws(0)).abs().max() == 0


def test_motion_and_target_golden():
    x = torch.tensor([0.0, 1, 3, 6, 10, 15, 21, 28], dtype=torch.float64).view(1, 1, 8, 1)
    motion = difference(x)
    assert motion.flatten().tolist() == [1, 2, 3, 4, 5, 6, 7, 0]
    units = patchify(motion, 4)[0, :, 0]
    z = (units - units.mean(-1, keepdim=True)) / (units.var(-1, keepdim=True) + 1e-6) ** 0.5
    wanted = [[-1.161895, -0.387298, 0.387298, 1.161895], [0.160817, 0.482451, 0.804084, -1.447352]]
    assert torch.allclose(z, torch.tensor(wanted, dtype=torch.float64), atol=1e-6)
    assert difference(torch.randn(2, 3, 8, 5, 2)).shape == (2, 3, 8, 5, 2)
    y = x.clone().requires_grad_()
    difference(y).square().sum().backward()
    assert y.grad.abs().max() > 0


def test_patch_order():
    x = torch.arange(2 * 3 * 8 * 5).view(2, 3, 8, 5)
    units = patchify(x, 2)
    assert units.shape == (2, 4, 5, 6)
    for n, t, v, frame, coordinate in ((0, 0, 0, 0, 0), (1, 3, 4, 1, 2), (1, 2, 1, 0, 1)):
        assert units[n, t, v, 3 * frame + coordinate] == x[n, coordinate, 2 * t + frame, v]
    with pytest.raises(ParameterError, match="multiple"):
        patchify(x, 3)


# ---- spatial


def test_rotation_golden():
    r = rotation_matrix(torch.tensor([[0.1, 0.2, 0.3], [0, 0, 0]], dtype=torch.float64))
    wanted = [[0.936293, 0.312992, -0.159345], [-0.28963, 0.944703, 0.153792], [0.198669, -0.097843, 0.97517]]
    assert torch.allclose(r[0], torch.tensor(wanted, dtype=torch.float64), atol=1e-6)
    assert torch.equal(r[1], torch.eye(3, dtype=torch.float64))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-3.2, 3.2), min_size=3, max_size=3), st.integers(0, 100))
def test_rotation_keeps_distances_and_absence(angles, seed):
    x = torch.randn(2, 3, 4, 5, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x[:, :, 2, :, 1] = 0
    y = rotate(x, torch.tensor([angles] * 2, dtype=torch.float64))
    for a, b in ((0, 1), (2, 4)):
        assert torch.allclose((y[..., a, :] - y[..., b, :]).norm(dim=1), (x[..., a, :] - x[..., b, :]).norm(dim=1))
    assert torch.allclose((y[..., 0] - y[..., 1]).norm(dim=1), (x[..., 0] - x[..., 1]).norm(dim=1))
    assert y[:, :, 2, :, 1].abs().max() == 0
    assert torch.allclose(y[0, :, 1, 3, 0], rotation_matrix(torch.tensor([angles], dtype=torch.float64))[0] @ x[0, :, 1, 3, 0])


def test_random_rotation(clips):
    whole = random_rotation(clips, Draws(7, 3))
    assert torch.equal(whole, torch.cat(per_process(lambda s, d: random_rotation(clips[s], d))))
    assert torch.equal(present(whole), present(clips)) and not torch.allclose(whole[0], random_rotation(clips, Draws(7, 4))[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(random_rotation(clips, Draws(7, 3)), whole)
    with pytest.raises(ParameterError, match="2-D"):
        random_rotation(clips[:, :2], Draws(0))


def test_present(clips):
    assert present(clips).tolist() == [[True, True], [True, True], [True, False], [True, True], [True, True], [True, True]]
    assert not present(torch.zeros(1, 3, 4, 5, 2)).any()


def test_center_first(clips):
    y = center(clips, 1)
    assert torch.equal(y == 0, (clips == 0) | (y == 0)) and (y[1, :, :10, :, 1] == 0).all() and (y[2, ..., 1] == 0).all()
    assert (y[3, :, :4, :, 0] == 0).all() and (y[3, :, 4, 1, 0] == 0).all()  # the origin is from the first frame with that person
    assert torch.allclose(y[3, :, 5:, 2, 0], clips[3, :, 5:, 2, 0] - clips[3, :, 4:5, 1, 0])
    assert torch.allclose(y[0, ..., 1], clips[0, ..., 1] - clips[0, :, :1, 1:2, 0])  # both persons by one origin
    assert torch.allclose(center(y, 1), y)


def test_center_frame(clips):
    y = center(clips, 1, "frame")
    assert (y[0, :, :, 1, 0] == 0).all() and torch.allclose(y[0, ..., 1], clips[0, ..., 1] - clips[0, :, :, 1:2, 0])
    gap = clips[:1].clone()
    gap[0, :, 10:15, :, 0] = 0
    held = center(gap, 1, "frame")
    assert torch.allclose(held[0, :, 12, :, 1], gap[0, :, 12, :, 1] - gap[0, :, 9, 1:2, 0]) and (held[0, :, 10:15, :, 0] == 0).all()
    assert torch.allclose(center(clips, 1, "frame")[3, :, 0, :, 1], clips[3, :, 0, :, 1] - clips[3, :, 4, 1:2, 0])


def test_center_without_first_person_or_anybody(clips):
    only_second = clips[:1].clone()
    only_second[..., 0] = 0
    y = center(only_second, 1)
    assert (y[0, :, 0, 1, 1] == 0).all() and (y[..., 0] == 0).all()
    assert (center(torch.zeros(1, 3, 4, 5, 2), 1) == 0).all()
    assert center(clips, 1, "none") is clips
    with pytest.raises(ParameterError, match="first"):
        center(clips, 1, "second")
    assert center(clips[:, :2], 1).shape == (6, 2, 30, 5, 2)


# ---- masks


def test_visible_counts():
    assert [visible_count(120 // unit * 25) for unit in (2, 4, 6)] == [150, 75, 50]
    assert [visible_count(120 // unit * 25, rule="int") for unit in (2, 4, 6)] == [149, 74, 49]
    assert visible_count(390) == 39 and visible_count(390, rule="int") == 38 and visible_count(10, 0.7) == 3
    assert visible_count(10, 0.0) == 10
    for bad in (dict(rule="round"), dict(ratio=1.0), dict(ratio=-0.1)):
        with pytest.raises(ParameterError):
            visible_count(750, **bad)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 80), st.data())
def test_split_is_a_partition(n, tokens, data):
    keep = data.draw(st.integers(1, tokens))
    visible, masked = split_tokens(n, tokens, keep, Draws(data.draw(st.integers(0, 99))))
    assert visible.shape == (n, keep) and masked.shape == (n, tokens - keep)
    assert (visible.diff(dim=1) > 0).all() and (masked.diff(dim=1) > 0).all()
    assert torch.equal(torch.cat([visible, masked], 1).sort(1).values, torch.arange(tokens).expand(n, -1))
    z = torch.randn(n, tokens, 3)
    assert all(torch.equal(take(z, visible)[i], z[i, visible[i]]) for i in range(n))


def test_masks_on_two_processes():
    x = torch.randn(6, 3, 24, 5, generator=torch.Generator().manual_seed(1))
    whole = motion_aware_visible(x, 4, 6, Draws(7, 3))
    assert torch.equal(whole, torch.cat(per_process(lambda s, d: motion_aware_visible(x[s], 4, 6, d))))
    assert torch.equal(random_visible(6, 30, 6, Draws(7, 3)), torch.cat(per_process(lambda s, d: random_visible(3, 30, 6, d))))


def test_uniform_masking_is_uniform():
    often = torch.zeros(750).index_add(0, random_visible(4000, 750, 75, Draws(0)).flatten(), torch.ones(4000 * 75)) / 4000
    assert abs(often.mean() - 0.1) < 1e-6 and (often - 0.1).abs().max() < 5 * math.sqrt(0.09 / 4000)


def test_motion_intensity():
    x = torch.zeros(1, 2, 8, 3)
    x[0, 0, 2:, 1] = 1.0  # joint 1 jumps by 1 m in one of two coordinates between units 0 and 1 (l = 2)
    intensity = motion_intensity(x, 2)
    assert intensity.shape == (1, 4, 3)
    assert intensity[0, :, 1].tolist() == [0.5, 0.5, 0, 0] and intensity[0, :, [0, 2]].abs().max() == 0


def test_motion_aware_masking_hides_motion():
    x = torch.zeros(3000, 3, 24, 5)
    x[:, :, :, 2] = torch.linspace(0, 1, 24)
    visible = motion_aware_visible(x, 4, 6, Draws(0))
    assert visible.shape == (3000, 6) and (visible.diff(dim=1) > 0).all()
    share = (visible % 5 == 2).float().mean().item()
    assert share < 0.05  # of 1/5 of the tokens
    uniform = motion_aware_visible(x, 4, 6, Draws(0), tau=0)
    assert torch.equal(uniform, random_visible(3000, 30, 6, Draws(0)))
    still = motion_aware_visible(torch.zeros(3000, 3, 24, 5), 4, 6, Draws(0))
    assert abs((still % 5 == 2).float().mean() - 0.2) < 0.02


def test_complement():
    assert masked_tokens(torch.tensor([[0, 3], [2, 4]]), 5).tolist() == [[1, 2, 4], [0, 1, 3]]
