"""SLiM's views: preparation, the three cases of frame choice, nested intervals, and augmentations that keep a body a body."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.errors import LayoutError, ParameterError
from skelnb.topology import layout
from skelnb.transforms import views as W
from skelnb.transforms.draws import Draws
from skelnb.transforms.temporal import resample

SWAPPED = [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 16, 17, 18, 19, 12, 13, 14, 15, 20, 23, 24, 21, 22]


def noise_clips(n=5, t=60, m=1):
    return torch.randn(n, 3, t, 25, m, generator=torch.Generator().manual_seed(0))


def ramps(n, t):
    return torch.arange(float(t)).view(1, 1, t, 1, 1).repeat(n, 1, 1, 1, 1)


# ---- preparation


def prepared(x, valid, frames=150):
    "One clip (C, T, V) of one person, by hand."
    kept = [x[:, t] for t in range(valid) if x[:, t].any()]
    if not kept:
        return torch.zeros(x.shape[0], max(frames, x.shape[1]), x.shape[2]), 0
    long = list(kept)
    while len(long) < max(frames, x.shape[1]):
        kept = kept[::-1]
        long += kept
    return torch.stack(long[: max(frames, x.shape[1])], 1) - long[0][:, None, 1:2], len(kept)


@settings(max_examples=8, deadline=None)
@given(st.integers(3, 40), st.integers(0, 10_000))
def test_prepare_is_the_loop(t, seed):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 3, t, 25, 1, generator=rng) * (torch.rand(4, 1, t, 1, 1, generator=rng) < 0.7)
    valid = torch.randint(0, t + 1, (4,), generator=rng)
    ready, count = W.prepare_clip(x, valid, draws=Draws(seed), frames=50)
    for i in range(4):
        want, n = prepared(x[i, ..., 0], int(valid[i]), 50)
        assert count[i] == n
        torch.testing.assert_close(ready[i, ..., 0], want)


def test_ping_pong_repeats_both_ends():
    assert W.ping_pong(torch.tensor([3, 1, 0, 20]), 8).tolist() == [[0, 1, 2, 2, 1, 0, 0, 1], [0] * 8, [0] * 8, list(range(8))]


def test_one_present_person_is_chosen():
    x = noise_clips(3000, 2, 3)
    x[:1000, ..., 1] = 0
    x[2000:, ..., :2] = 0
    x[:, :, :, 1] = 0  # all origins alike: nothing is shifted
    ready, _ = W.prepare_clip(x, draws=Draws(0), frames=2)
    whom = (ready == x).all(3).all(2).all(1).int().argmax(1)
    shares = [torch.bincount(part, minlength=3) / 1000 for part in whom.split(1000)]
    assert shares[0][1] == 0 and abs(shares[0][0] - 0.5) < 0.06 and (shares[1] - 1 / 3).abs().max() < 0.06 and shares[2][2] == 1


def test_coordinates_that_add_up_to_zero_are_no_empty_frame():
    x = torch.zeros(1, 3, 4, 25, 1)
    x[0, 0, 1, 3], x[0, 1, 1, 3] = 1, -1
    assert W.prepare_clip(x, draws=Draws(0))[1].tolist() == [1]


def test_all_persons_stay_in_a_long_clip():
    x = noise_clips(2, 20, 2)
    long, count = W.extend_clip(x, torch.tensor([20, 8]), 30)
    assert long.shape == (2, 3, 30, 25, 2) and count.tolist() == [20, 8]
    assert torch.equal(long[0, :, :20], x[0]) and torch.equal(long[0, :, 20:], x[0, :, 10:].flip(1)) and torch.equal(long[1, :, 8:16], x[1, :, :8].flip(1))


# ---- one crop


def case(v, frames, low=1.0, high=1.0, n=400, start=0):
    full = torch.full((n, 1), v)
    return W.crop_positions(torch.full_like(full, start), full, frames, low, high, Draws(5))[:, 0]


def test_few_frames_are_stretched():
    place = case(20, 32, start=7)
    at = torch.full((400,), 7), torch.full((400,), 20)
    x = torch.randn(1, 3, 40, 4, 1, generator=torch.Generator().manual_seed(1)).repeat(400, 1, 1, 1, 1)
    torch.testing.assert_close(W.take_frames(x, place[:, None])[:, 0], resample(x, *at, 32))
    torch.testing.assert_close(  # align_corners = False
        W.take_frames(x, place[:, None])[0, 0, :, :, :, 0],
        torch.nn.functional.interpolate(x[0, :, 7:27, :, 0].movedim(1, 2), size=32, mode="linear", align_corners=False).movedim(2, 1))


def test_some_frames_are_a_subset_and_every_subset_alike():
    place = case(20, 16, n=20_000)
    assert (place == place.round()).all() and (place.diff(dim=1) >= 1).all() and place.min() == 0 and place.max() == 19
    chosen = torch.zeros(20_000, 20).scatter_(1, place.long(), 1)
    assert (chosen.mean(0) - 0.8).abs().max() < 0.015
    both = (chosen.T @ chosen / 20_000)[~torch.eye(20, dtype=torch.bool)]
    assert (both - 0.8 * 15 / 19).abs().max() < 0.02  # pairs as in sampling without replacement
    assert torch.equal(case(16, 16), torch.arange(16.0).expand(400, -1))  # W = L: all of them


@pytest.mark.parametrize("v,frames", [(64, 32), (77, 32), (150, 8), (128, 64), (300, 64)])
def test_many_frames_give_one_of_each_bin(v, frames):
    place, edge = case(v, frames, n=2000), [i * v // frames for i in range(frames + 1)]
    assert (place == place.round()).all()
    for i in range(frames):
        assert set(place[:, i].tolist()) == set(map(float, range(edge[i], edge[i + 1])))


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([8, 16, 32, 64]), st.integers(1, 400), st.integers(0, 50), st.floats(0.05, 1), st.integers(0, 999))
def test_lengths_and_places(frames, v, start, low, seed):
    parent = torch.tensor([[v]]).repeat(50, 1)
    place = W.crop_positions(torch.full_like(parent, start), parent, frames, low, 1.0, Draws(seed))[:, 0]
    least = max(8, min(16, frames))
    a, b = (start, start + v) if v >= least else (0, 150)
    assert place.min() >= a and place.max() <= b - 1 and (place[:, -1] - place[:, 0] + 1 >= least).all()
    step, shown = place.diff(dim=1), (place == place.round()).all(1)
    assert (step >= 0).all() and (step[shown] >= 1).all() and shown.any() | (low * v < frames)


def test_length_and_start_are_uniform():
    place = case(100, 101, 0.3, 0.6, 5000)  # all frames are shown where L < W, so first and last tell what was drawn
    length, first = place[:, -1] - place[:, 0] + 1, place[:, 0]
    assert set(length.tolist()) == set(map(float, range(30, 60)))
    assert abs(length.mean() - 44.5) < 0.5 and (first / (100 - length)).mean().sub(0.5).abs() < 0.02
    assert (first == 0).any() and (first + length == 100).any()
    assert set((case(100, 101, 0.01, 0.02)[:, -1] - case(100, 101, 0.01, 0.02)[:, 0] + 1).tolist()) == {16.0}  # the threshold


def test_hierarchical_crop_says_what_it_shows():
    x, v = ramps(6, 150), torch.tensor([5, 20, 40, 70, 130, 150])
    view, (first, last) = W.hierarchical_crop(x, torch.zeros_like(v), v, 64, 0.5, 1.0, Draws(2))
    assert view.shape == (6, 1, 64, 1, 1) and torch.equal(view[:, 0, 0, 0, 0].long(), first) and torch.equal(view[:, 0, -1, 0, 0].long(), last)
    assert last[0] > 5 and (last[1:] < v[1:]).all()  # five frames are too few: the whole clip is used
    inner, (a, b) = W.hierarchical_crop(x[..., 0], first, last - first + 1, 16, 0.15, 0.4, Draws(3))
    assert inner.shape == (6, 1, 16, 1) and (a >= first).all() and (b <= last).all()
    two = W.hierarchical_crop(noise_clips(6, 150, 2), torch.zeros_like(v), v, 64, 0.5, 1.0, Draws(2))
    assert two[0].shape == (6, 3, 64, 25, 2) and torch.equal(two[1][0], first)
    with pytest.raises(ParameterError, match="0 < low"):
        W.hierarchical_crop(x, v, v, 64, 0.9, 0.5, Draws(0))


def test_central_view():
    place = W.central_view(ramps(3, 300), torch.tensor([300, 80, 20]))[:, 0, :, 0, 0]
    assert place[0].tolist() == [7 + i * 285 // 64 for i in range(64)]
    assert place[1].tolist() == [2 + i * 76 // 64 for i in range(64)]
    assert place[2].tolist() == [4 + i * 142 // 64 for i in range(64)]  # too short: 150 frames of the continued clip


# ---- all views


@pytest.mark.parametrize("name,counts", [("release", {32: 2, 16: 4, 8: 2}), ("paper", {32: 4, 16: 4, 8: 4})])
def test_counts_shapes_and_nesting(name, counts):
    x, valid = noise_clips(7, 200), torch.tensor([200, 150, 100, 64, 40, 20, 9])
    v = W.global_local_views(x, valid, W.VIEW_SPECS[name], draws=Draws(1))
    assert [g.shape for g in v.globals] == [(7, 3, 64, 25)] * 2 and {w: len(some) for w, some in v.locals.items()} == counts
    for w, some in v.locals.items():
        half = counts[w] // 2
        assert v.anchors[w] == (0,) * half + (1,) * half and all(one.shape == (7, 3, w, 25) for one in some)
        parent = v.spans[64][list(v.anchors[w])]
        assert (v.spans[w][..., 0] >= parent[..., 0]).all() and (v.spans[w][..., 1] <= parent[..., 1]).all()
    assert (v.spans[64][..., 1] < valid)[:, :6].all() and not torch.equal(v.spans[64][0], v.spans[64][1])
    assert torch.equal(v.globals[0][0, :, -1], x[0, :, v.spans[64][0, 0, 1], :, 0])
    shares = (v.spans[8].diff(dim=-1) + 1)[..., 0] / (v.spans[64][list(v.anchors[8])].diff(dim=-1) + 1)[..., 0]
    assert (v.spans[8].diff(dim=-1) + 1 >= 8).all() and shares[:, :2].max() < 0.21


def test_variants_and_bad_input():
    flat = W.VIEW_SPECS["paper"].single_scale(16)
    v = W.global_local_views(noise_clips(2, 150), torch.tensor([150, 150]), flat, draws=Draws(1))
    assert {w: len(some) for w, some in v.locals.items()} == {16: 12}
    one = W.global_local_views(noise_clips(2, 150), torch.tensor([150, 150]), W.ViewSpec(anchors=(0,)), draws=Draws(1))
    assert one.anchors == {32: (0,), 16: (0, 0), 8: (0,)}
    with pytest.raises(ParameterError, match=r"(?s)no local views of 15.*8, 16, 32"):
        flat = W.VIEW_SPECS["paper"].single_scale(15)
    with pytest.raises(ParameterError, match="2 persons"):
        W.global_local_views(noise_clips(2, 150, 2), torch.tensor([150, 150]), draws=Draws(1))


def test_the_same_on_any_number_of_processes():
    x, valid = noise_clips(4, 160, 2), torch.tensor([160, 100, 50, 30])

    def all_of(rows, rank=0, world=1):
        here = Draws(3, 9, rank, world)
        ready, count = W.prepare_clip(x[rows], valid[rows], draws=here.child("prepare"))
        v = W.augment_views(W.global_local_views(ready, count, draws=here.child("views")), here.child("saa"), W.SAA_SPECS["default"])
        return [*v.globals, *(one for some in v.locals.values() for one in some)]

    before = torch.get_rng_state()
    for whole, a, b in zip(all_of(slice(0, 4)), all_of(slice(0, 2), 0, 2), all_of(slice(2, 4), 1, 2)):
        torch.testing.assert_close(torch.cat([a, b]), whole, atol=1e-5, rtol=1e-5)
    assert torch.equal(torch.get_rng_state(), before)


# ---- skeleton-aware augmentation

ALWAYS = dict(p=1.0, noise=False)


def distances(x):
    return torch.cdist(x.movedim(1, 3), x.movedim(1, 3))


def test_mirror_is_the_exact_reflection():
    x, spec = noise_clips()[..., 0], W.SAA(scale="none", limits=None, **ALWAYS)
    y = W.skeleton_aware(x, Draws(0), spec)
    assert torch.equal(y[:, 0], -x[:, 0][..., SWAPPED]) and torch.equal(y[:, 1:], x[:, 1:][..., SWAPPED])
    assert torch.equal(W.skeleton_aware(y, Draws(1), spec), x)
    torch.testing.assert_close(distances(y), distances(x)[..., SWAPPED, :][..., SWAPPED])
    assert torch.equal(W.skeleton_aware(x, Draws(0), W.SAA(mirror="swap", scale="none", limits=None, **ALWAYS)), x[..., SWAPPED])


def test_rotation_keeps_distances_and_its_limits():
    x = noise_clips(500, 2)[..., 0]
    for limits in (W.SAA_SPECS["paper"].limits, W.NARROW):
        y = W.skeleton_aware(x, Draws(0), W.SAA(mirror="none", scale="none", limits=limits, **ALWAYS))
        torch.testing.assert_close(distances(y), distances(x), atol=1e-4, rtol=1e-4)
        R = torch.linalg.lstsq(x.flatten(2).mT, y.flatten(2).mT).solution.mT  # y = R x
        tilt = torch.asin(R[:, 2, 1].div((R[:, 2, 1] ** 2 + R[:, 2, 2] ** 2).sqrt()))  # about x, as R = Rz Ry Rx
        turn = torch.atan2(R[:, 2, 0].abs(), (R[:, 2, 1] ** 2 + R[:, 2, 2] ** 2).sqrt())
        assert tilt.abs().max() <= limits[0] + 1e-3 and tilt.abs().max() > 0.9 * limits[0]
        assert turn.max() > 0.9 * min(limits[1], math.pi / 2) and turn.max() <= min(limits[1], math.pi / 2) + 1e-3
    assert W.SAA_SPECS["paper"].limits == pytest.approx((math.radians(30), math.pi, math.radians(30)))


def test_bones_keep_direction_and_groups_share_a_factor():
    x, kinect = noise_clips()[..., 0], layout("kinect_v2")
    parents = (0, 0, 20, 2, 20, 4, 5, 6, 20, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18, 1, 7, 7, 11, 11)  # SLiM's
    bones = lambda x: (x - x[..., list(parents)])[..., 1:]  # noqa: E731
    for groups in (3, 5):
        y = W.skeleton_aware(x, Draws(0), W.SAA(mirror="none", limits=None, groups=groups, **ALWAYS))
        a, b = bones(x), bones(y)
        factor = b.norm(dim=1) / a.norm(dim=1)
        torch.testing.assert_close(torch.cosine_similarity(a, b, 1), torch.ones_like(factor))
        assert torch.equal(y[..., 0], x[..., 0]) and factor.min() >= 0.85 - 1e-4 and factor.max() <= 1.15 + 1e-4
        left, right = ([v - 1 for v in kinect.parts[f"{side}_leg"]] for side in ("left", "right"))
        torch.testing.assert_close(factor[..., left], factor[:, :1, left[:1]].expand_as(factor[..., left]))  # one factor for all frames and bones
        assert torch.allclose(factor[..., left], factor[..., right], atol=1e-4) == (groups == 3)
    one = W.SAA(mirror="none", limits=None, low=1.0, high=1.0, **ALWAYS)
    torch.testing.assert_close(W.skeleton_aware(x, Draws(0), one), x, atol=2e-6, rtol=0)
    bug = W.skeleton_aware(x, Draws(0), W.SAA(mirror="none", limits=None, low=1.0, high=1.0, bug_compat=True, **ALWAYS))
    moved = [*range(2, 12), *range(21, 25)]
    torch.testing.assert_close(bug[..., moved], x[..., moved] - x[..., 20:21], atol=2e-6, rtol=0)
    naive = W.skeleton_aware(x, Draws(0), W.SAA(mirror="none", scale="axes", limits=None, **ALWAYS))
    ratio = naive / x
    torch.testing.assert_close(ratio, ratio[:, :, :1, :1].expand_as(ratio))
    assert ratio[:, :, 0, 0].std(1).min() > 0 and ratio.min() > 0.849 and ratio.max() < 1.151


def test_noise_belongs_to_the_kind_of_view():
    x, spec = noise_clips(2000, 1)[..., 0], W.SAA(mirror="none", scale="none", limits=None)
    change = {view: W.skeleton_aware(x, Draws(0), spec, view) - x for view in ("global_1", "global_2", "local", "train")}
    assert abs(change["global_1"].std() - 0.01) < 5e-4 and change["global_1"].flatten(1).any(1).all()
    for view in ("local", "train"):
        shaken = change[view].flatten(1).any(1)
        assert abs(shaken.float().mean() - 0.5) < 0.04 and abs(change[view][shaken].std() - 0.01) < 5e-4
    y = x + change["global_2"]
    lost = (y.flatten(2).abs().amax(2) < 1e-6).any(1)
    shaken = (change["global_2"] != 0).flatten(2).all(2).sum(1) >= 2
    assert abs(lost.float().mean() - 0.2) < 0.03 and abs(shaken.float().mean() - 0.1) < 0.03
    assert abs(change["global_2"][shaken & ~lost].std() - 0.05) < 0.003
    assert torch.equal(W.skeleton_aware(x, Draws(0), W.SAA_SPECS["none"]), x)


def test_each_step_for_its_share():
    x = noise_clips(2000, 1)[..., 0]
    for off, share in (({}, 7 / 8), ({"mirror": "none"}, 3 / 4), ({"mirror": "none", "scale": "none"}, 1 / 2)):
        changed = (W.skeleton_aware(x, Draws(4), W.SAA(noise=False, **off)) - x).abs().flatten(1).amax(1) > 1e-4
        assert abs(changed.float().mean() - share) < 0.04
    assert list(W.saa_steps(W.SAA_SPECS["release"], "global_2")) == ["mirror", "scale", "rotate", "noise", "axis_mask"]


def test_specs_and_bad_input():
    assert W.SAA_SPECS["release"].bug_compat and W.SAA_SPECS["release"].limits == (0.3, 0.3, 0.3) and W.SAA_SPECS["release"].groups == 3
    assert W.SAA_SPECS["paper"].groups == 5 and not W.SAA_SPECS["paper"].noise and not W.SAA_SPECS["default"].bug_compat
    with pytest.raises(ParameterError, match="(?s)mirror = 'exakt'.*exact"):
        W.SAA(mirror="exakt")
    with pytest.raises(ParameterError, match="(?s)view 'globl_1'.*global_1"):
        W.skeleton_aware(noise_clips(), Draws(0), view="globl_1")
    with pytest.raises(LayoutError):
        W.skeleton_aware(noise_clips()[:, :, :, :17], Draws(0))
