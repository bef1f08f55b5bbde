"""The presets against the same recipes written as plain loops in float64, small examples worked out by hand, and what must not matter."""

import pickle

import numpy as np
import pytest

from skelnb.data.bodies import by_energy, denoise, file_order
from skelnb.data.clip import Clip
from skelnb.data.ntu import forge_ntu, read_ntu
from skelnb.data.presets import PRESETS, aimclr, ctrgcn, lode, mamp, preset, pyskl, slim, umurl, usdrl
from skelnb.data.store import SkeletonStore
from skelnb.data.synthetic import synthesize
from skelnb.errors import DataError, ParameterError


def recording(seed, frames=(40, 70), persons=2, gaps=True):
    "One or two people; one may come late or leave early, both may be lost for some frames, and who comes first is not who moves most."
    rng = np.random.default_rng(seed)
    (clip,) = synthesize(1, start=seed, persons=persons, frames=frames, seed=5, view=80)
    xyz = clip.xyz[:, rng.permutation(persons)].copy()
    if gaps:
        T, who = len(xyz), rng.integers(persons)
        if persons > 1:
            xyz[slice(0, T // 5) if rng.random() < 0.5 else slice(-T // 5, None), who] = 0
        at = rng.integers(T // 3, T // 2)
        xyz[at : at + rng.integers(1, 5)] = 0
    return Clip(xyz, 30, "kinect_v2", f"clip_{seed}", clip.label)


CLIPS = [recording(seed, persons=1 + (seed % 3 > 0)) for seed in range(6)]


# ---------------------------------------------------------------- the recipes, written plainly


def centred_once(xyz):
    out, first = np.zeros_like(xyz), next(t for t in range(len(xyz)) if xyz[t, 0].any())
    for t in range(len(xyz)):
        for m in range(2):
            if xyz[t, m].any():
                out[t, m] = xyz[t, m] - xyz[first, 0, 1]
    return out


def resized(xyz, frames):
    L, out = len(xyz), []
    for i in range(frames):
        at = min(max((i + 0.5) * L / frames - 0.5, 0), L - 1)
        lo = int(at)
        hi = min(lo + 1, L - 1)
        out.append(xyz[lo] * (1 - (at - lo)) + xyz[hi] * (at - lo))
    return np.array(out)


def faced(xyz):
    out = xyz.copy()
    for m in range(xyz.shape[1]):
        v = xyz[:, m, 8] - xyz[:, m, 4]
        sign = -1 if v[:, 2].sum() >= 0 else 1
        for t in range(len(xyz)):
            angle = sign * np.degrees(np.arccos(v[t, 0] / (np.hypot(v[t, 0], v[t, 2]) + 0.0001))) * np.pi / 180
            turn = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
            for j in range(25):
                out[t, m, j] = turn @ xyz[t, m, j]
    return out


def aimclr_plainly(xyz, frames):
    length = sum(bool(frame[0, 0].any()) for frame in xyz)
    return faced(resized(np.array([[person - person[20] for person in frame] for frame in xyz])[:length], frames))


def turned(xyz, v, axis):
    "By Rodrigues' formula, joint by joint."
    k, angle = np.cross(v, axis), np.arccos(np.clip(v @ axis / np.linalg.norm(v), -1, 1))
    if np.abs(k).sum() < 1e-6:
        return xyz
    k = k / np.linalg.norm(k)
    out = np.zeros_like(xyz)
    for i in np.ndindex(xyz.shape[:3]):
        p = xyz[i]
        out[i] = p * np.cos(angle) + np.cross(k, p) * np.sin(angle) + k * (k @ p) * (1 - np.cos(angle))
    return out


def umurl_plainly(xyz, frames, spine=False):
    out = np.zeros((frames, 2, 25, 3))
    out[: len(xyz)] = xyz[:frames]
    for m in range(2):
        person = list(out[:, m].copy())
        if not any(p.any() for p in person):
            continue
        if not person[0].any():
            person = [p for p in person if p.any()]
        while not person[-1].any():
            person.pop()
        for t in range(frames):
            out[t, m] = person[t % len(person)]
    centre = out[:, 0, 1].copy()
    for t, m, j in np.ndindex(out.shape[:3]):
        if out[t, m, j].any():
            out[t, m, j] -= centre[t]
    if spine:
        out = turned(out, out[0, 0, 1] - out[0, 0, 0], np.array([0, 0, 1.0]))
    return turned(out, out[0, 0, 8] - out[0, 0, 4], np.array([1.0, 0, 0]))


def pyskl_plainly(xyz):
    xyz = xyz.astype(np.float16)
    seen = [[t for t in range(len(xyz)) if xyz[t, m].any()] for m in range(2)]
    order = (1, 0) if len(seen[0]) < len(seen[1]) else (0, 1)
    xyz = xyz[seen[order[0]]][:, order]
    origin = xyz[0, 0, 1].copy()
    out = np.zeros(xyz.shape)
    for i in np.ndindex(xyz.shape[:3]):
        if xyz[i].any():
            out[i] = xyz[i] - origin  # in float16
    out = turned(out, out[0, 0, 1] - out[0, 0, 0], np.array([0, 0, 1.0]))
    return turned(out, out[0, 0, 8] - out[0, 0, 4], np.array([1.0, 0, 0]))


@pytest.mark.parametrize("clip", CLIPS, ids=lambda c: c.name)
def test_against_plain_loops(clip):
    bodies = denoise(clip).xyz.astype(np.float64)
    npz = centred_once(bodies)
    np.testing.assert_allclose(ctrgcn(clip).xyz, npz, atol=1e-6)
    np.testing.assert_allclose(slim(clip).xyz, npz - npz[:1, :, [1]], atol=1e-6)
    for frames in (50, 64):
        np.testing.assert_allclose(aimclr(clip, frames).xyz, aimclr_plainly(file_order(clip).xyz.astype(np.float64), frames), atol=5e-5)
    energetic = by_energy(clip).xyz.astype(np.float64)
    np.testing.assert_allclose(umurl(clip).xyz, umurl_plainly(energetic, len(clip)), atol=5e-4)  # the turn is found in float32, as it was
    np.testing.assert_allclose(umurl(clip, padded=True).xyz, umurl_plainly(energetic, 300), atol=5e-4)
    np.testing.assert_allclose(usdrl(clip, spine=True).xyz, umurl_plainly(energetic, len(clip), spine=True), atol=5e-4)
    np.testing.assert_allclose(pyskl(clip).xyz, pyskl_plainly(bodies), atol=3e-3)  # the first turn is found in float16, as it was


@pytest.mark.parametrize("clip", CLIPS[:3], ids=lambda c: c.name)
def test_pure_and_deterministic(clip):
    before, known = clip.xyz.copy(), (clip.name, clip.label, clip.fps)
    clip.xyz.setflags(write=False)
    for name, p in PRESETS.items():
        once, again = p(clip), p(clip)
        assert once.xyz.dtype == np.float32 and once.xyz.shape[1:] == (2, 25, 3) and np.array_equal(once.xyz, again.xyz), name
        assert (once.name, once.label, once.fps) == known and not np.shares_memory(once.xyz, clip.xyz)
        assert once.up == ("z" if name == "pyskl" else "y") and np.isfinite(once.xyz).all()
    assert np.array_equal(clip.xyz, before)
    clip.xyz.setflags(write=True)


# ---------------------------------------------------------------- by hand


def body(at, across=(0.4, 0, 0), height=1.0):
    "Joint 20 at `at`, the shoulders to its sides, all else below; coordinates that float16 holds exactly."
    joints = np.tile(np.asarray(at, float), (25, 1))
    joints[:20, 1] -= np.linspace(0.25, height, 20)
    joints[1, 1], joints[0, 1] = at[1] - 0.25, at[1] - 0.5
    joints[4], joints[8] = at - np.asarray(across) / 2, at + np.asarray(across) / 2
    return joints


def clip_of(*people, **known):
    "People as lists of frames; None: absent."
    xyz = np.stack([[np.zeros((25, 3)) if b is None else b for b in person] for person in people], 1)
    return Clip(xyz, 30, "kinect_v2", "by_hand", **known)


def test_npz_by_hand():
    walk = [body((0.1 * t, 1, 3)) for t in range(20)]
    clip = clip_of(walk, [None] * 4 + [body((1 + 0.01 * t, 1, 3)) for t in range(16)])
    out = ctrgcn(clip).xyz
    assert out.shape == (20, 2, 25, 3) and not out[0, 0, 1].any() and not out[:4, 1].any()
    np.testing.assert_allclose(out[10, 0, 1], (1, 0, 0), atol=1e-6)
    np.testing.assert_allclose(out[4, 1, 20], (1, 0.25, 0), atol=1e-6)  # 1 m beside where the first person began, who is there since frame 0
    padded = ctrgcn(clip, padded=True).xyz
    assert padded.shape == (300, 2, 25, 3) and np.array_equal(padded[:20], out) and not padded[20:].any()


def test_the_first_person_may_come_late():
    late = clip_of([None] * 3 + [body((0.2 * t, 1, 3)) for t in range(17)], [body((2, 1, 3), height=0.9)] * 20)
    out = ctrgcn(late).xyz
    assert not out[:3, 0].any() and not out[3, 0, 1].any()
    np.testing.assert_allclose(out[0, 1, 20], (2, 0.25, 0), atol=1e-6)


def test_slim_by_hand():
    stays = [body((0, 1, 3))] * 20
    leaves = [body((1, 1, 3), height=0.9)] * 15 + [None] * 5
    out = slim(clip_of(stays, leaves)).xyz
    assert not out[0, :, 1].any(), "each person has an origin of their own"
    np.testing.assert_allclose(out[-1, 1], np.tile((-1, 0, 0), (25, 1)), atol=1e-6)  # who left is not at zero
    out = slim(clip_of(stays, [None] * 5 + leaves[:15])).xyz
    np.testing.assert_allclose(out[5, 1, 1], (1, 0, 0), atol=1e-6)  # who comes late is not moved
    assert not slim(clip_of(stays)).xyz[:, 1].any()


@pytest.mark.parametrize("T, frames", [(40, 160), (60, 180), (150, 150), (151, 151), (149, 298)])
def test_slim_goes_to_and_fro(T, frames):
    (clip,) = synthesize(1, frames=(T, T), seed=1)
    out, own = slim(clip, padded=True).xyz, slim(clip).xyz
    assert len(out) == frames and np.array_equal(out[:T], own)
    for start in range(T, frames, T):
        assert np.array_equal(out[start : start + T], own[::-1] if (start // T) % 2 else own)


def test_aimclr_counts_frames_and_cuts_the_end():
    "Eight frames, two lost in the middle: L is 6, so the frames 6 and 7 fall out and the lost ones stay in."
    heights = [0.5, 0.6, 0.7, None, None, 0.8, 0.9, 1.0]
    out = aimclr(clip_of([h and body((0.3, 1, 3), height=h) for h in heights]), frames=6).xyz[:, 0]
    foot = -out[:, 19, 1]
    np.testing.assert_allclose(foot, [0.5, 0.6, 0.7, 0, 0, 0.8], atol=1e-6)
    half = aimclr(clip_of([h and body((0.3, 1, 3), height=h) for h in heights]), frames=3).xyz[:, 0]
    np.testing.assert_allclose(-half[:, 19, 1], [0.55, 0.35, 0.4], atol=1e-6)  # shrunk where a lost frame is mixed in


def test_aimclr_by_hand():
    "Two people 2 m apart, one turned by 90 degrees: on top of each other and alike."
    clip = clip_of([body((0, 1, 3))] * 5, [body((2, 1, 3), across=(0, 0, 0.4))] * 5)
    out = aimclr(clip).xyz
    assert out.shape == (50, 2, 25, 3) and not out[:, :, 20].any()
    first, second = out[0, :, 8]
    np.testing.assert_allclose(np.abs(np.arctan2(first[2], first[0])), np.arccos(0.4 / 0.4001), atol=1e-4)  # aligned already: turned away by 1.3 degrees
    np.testing.assert_allclose(second, (0.2, 0, 0), atol=1e-6)


def test_aimclr_turns_the_odd_frame_the_wrong_way():
    across = [(0.4 * np.cos(a), 0, 0.4 * np.sin(a)) for a in (0.5, 0.5, 0.5, 0.5, -0.5, 0.5, 0.5, 0.5)]
    out = aimclr(clip_of([body((0, 1, 3), across=a) for a in across]), frames=8).xyz[:, 0]
    angle = np.arctan2(out[:, 8, 2], out[:, 8, 0])
    np.testing.assert_allclose(angle, [0, 0, 0, 0, -1, 0, 0, 0], atol=2e-3)


def test_umurl_shifts_the_second_person_in_time():
    "The second comes at frame 3: closed up to frame 0, then repeated."
    clip = clip_of([body((0.05 * t, 1, 3)) for t in range(10)], [None] * 3 + [body((1, 1, 3), height=0.5 + 0.01 * t) for t in range(4)] + [None] * 3)
    out = umurl(clip).xyz
    foot = out[:, 1, 20, 1] - out[:, 1, 19, 1]
    np.testing.assert_allclose(foot, 0.5 + 0.01 * (np.arange(10) % 4), atol=1e-6)
    assert not out[:, 0, 1].any() and len(umurl(clip, padded=True)) == 300
    np.testing.assert_allclose(umurl(clip, padded=True).xyz[7, 1, 20], out[7, 1, 20], atol=1e-6)


def test_umurl_does_not_centre_where_the_first_is_lost():
    first = [body((0.5, 1, 3), height=2)] * 10
    first[4] = None
    out = umurl(clip_of(first, [body((1.5, 1, 3))] * 10)).xyz
    assert not out[4, 0].any(), "gaps in the middle stay"
    np.testing.assert_allclose(out[4, 1, 20], (1.5, 1, 3), atol=1e-5)
    np.testing.assert_allclose(out[5, 1, 20], (1, 0.25, 0), atol=1e-5)


def test_umurl_does_not_turn_who_faces_away():
    clip = clip_of([body((0, 1, 3), across=(-0.4, 0, 0))] * 5)
    np.testing.assert_allclose(umurl(clip).xyz[0, 0, 8] - umurl(clip).xyz[0, 0, 4], (-0.4, 0, 0), atol=1e-6)


def test_umurl_tilts_the_body_with_the_shoulders():
    out = umurl(clip_of([body((0, 1, 3), across=(0.3, 0.4, 0))] * 5)).xyz[0, 0]
    np.testing.assert_allclose(out[8] - out[4], (0.5, 0, 0), atol=1e-5)
    np.testing.assert_allclose(out[0] - out[1], 0.25 * np.array([-0.8, -0.6, 0]), atol=1e-5)  # the spine was upright
    out = umurl(clip_of([body((0, 1, 3))] * 5), spine=True)
    np.testing.assert_allclose(out.xyz[0, 0, 1] - out.xyz[0, 0, 0], (0, 0, 0.25), atol=1e-5)
    assert out.up == "z"


def test_pyskl_by_hand():
    "Joints at multiples of 1/1024 m, 2 to 4 m away: z moves to multiples of 1/512."
    clip = clip_of([body((0.5, 1, 3 + 1 / 1024))] * 3)
    out = pyskl(clip)
    assert out.up == "z" and len(out) == 3
    np.testing.assert_allclose(out.xyz[0, 0, [0, 1, 20]], [(0, 0, -0.25), (0, 0, 0), (0, 0, 0.25)], atol=1e-3)
    np.testing.assert_allclose(out.xyz[0, 0, 8] - out.xyz[0, 0, 4], (0.4, 0, 0), atol=1e-3)
    rounded = clip_of([body((0.5, 1, 3))] * 3)  # 3 + 1/1024 lies between two float16 numbers, and even wins
    np.testing.assert_allclose(out.xyz, pyskl(rounded).xyz, atol=1e-6)


def test_pyskl_puts_who_is_seen_longer_first():
    moves = [body((0.3 * t, 1, 3)) for t in range(14)]
    clip = clip_of([body((3, 1, 3), height=0.75)] * 20, [None] * 6 + moves)
    assert not ctrgcn(clip).xyz[0, 0].any(), "who moves most is first in the npz"
    out = pyskl(clip).xyz
    assert len(out) == 20 and out[0, 0].any() and not out[0, 1].any()
    clip = clip_of([None] * 8 + [body((3, 1, 3), height=0.75)] * 12, moves + [None] * 6)
    assert len(pyskl(clip)) == 14, "frames without the first person are left out"


def test_segments_move_with_their_frames():
    lost = [body((0.1 * t, 1, 3)) if t not in (5, 6) else None for t in range(20)]
    clip = clip_of(lost, segments=[(0, 5, "a"), (5, 7, "gone"), (7, 20, "b")])
    for p in (ctrgcn, mamp, lode, slim, pyskl):
        assert p(clip).segments == ((0, 5, "a"), (5, 18, "b")), p
    for p in (aimclr, umurl, usdrl):
        with pytest.raises(DataError, match="3 segments"):
            p(clip)


# ---------------------------------------------------------------- what must not matter


def moved(clip, turn=0.0, by=(0, 0, 0)):
    "Everybody who is there turned about y and moved."
    turn = np.array([[np.cos(turn), 0, -np.sin(turn)], [0, 1, 0], [np.sin(turn), 0, np.cos(turn)]])
    xyz = np.where(clip.present[..., None, None], clip.xyz @ turn.T + np.asarray(by), 0)
    return Clip(xyz, clip.fps, clip.layout, clip.name, clip.label)


@pytest.mark.parametrize("seed", range(3))
def test_where_the_camera_stands(seed):
    clip = recording(seed, gaps=False)
    shifted = moved(clip, by=(0.7, -0.4, 1.1))
    for p in (ctrgcn, aimclr, umurl):
        np.testing.assert_allclose(p(shifted).xyz, p(clip).xyz, atol=2e-4)
    assert np.abs(ctrgcn(moved(clip, turn=0.3)).xyz - ctrgcn(clip).xyz).max() > 0.05, "a turn matters to whoever does not turn"
    for p in (umurl, pyskl):
        for turn in (0, 0.5, -0.8):
            out = p(moved(clip, turn)).xyz[0, 0]
            np.testing.assert_allclose((out[8] - out[4])[1:], 0, atol=1e-3)


@pytest.mark.parametrize("turn", [0.3, -0.4])
def test_aimclr_forgets_the_heading_up_to_the_sign(turn):
    rng = np.random.default_rng(0)
    still = body((0, 1, 3), across=(0.3, 0.05, 0.2)) + rng.normal(0, 0.05, (25, 3))
    clip = clip_of([still + 0.05 * t for t in range(12)])
    a, b = aimclr(clip).xyz, aimclr(moved(clip, turn)).xyz
    for out in (a, b):
        assert np.abs(out[:, 0, 8, 2] - out[:, 0, 4, 2]).max() < 0.02 and (out[:, 0, 8, 0] > out[:, 0, 4, 0]).all()
    np.testing.assert_allclose(a, b, atol=2e-2)  # not closer: the 0.0001 in the angle


def test_the_table():
    assert list(PRESETS) == ["ctrgcn", "mamp", "lode", "slim", "aimclr", "umurl", "usdrl", "pyskl"]
    clip = CLIPS[1]
    assert np.array_equal(mamp(clip).xyz, ctrgcn(clip).xyz) and np.array_equal(lode(clip).xyz, ctrgcn(clip).xyz)
    assert np.array_equal(usdrl(clip, padded=True).xyz, umurl(clip, padded=True).xyz)
    for name in PRESETS:
        assert preset(name).name == name and pickle.loads(pickle.dumps(preset(name)))(clip).xyz.any()
    assert len(preset("aimclr")(clip, frames=64)) == 64 and len(preset("aimclr")(clip)) == preset("aimclr").frames
    with pytest.raises(ParameterError, match="no preset 'mmap'") as e:
        preset("mmap")
    assert "pyskl" in e.value.remedy


def test_refusals():
    (clip,) = synthesize(1, seed=0)
    flat = Clip(clip.xyz[..., :2], 30, "kinect_v2", "flat", units="px", up="-y")
    tall = Clip(clip.xyz, 30, "kinect_v2", "tall", up="z")
    other = Clip(clip.xyz[:, :, :20], 30, "kinect_v1", "other")
    empty = Clip(np.zeros_like(clip.xyz), 30, "kinect_v2", "empty")
    for p in PRESETS.values():
        for bad, what in ((flat, "px with 2"), (tall, "up along z"), (other, "kinect_v1"), (empty, "nobody")):
            with pytest.raises(DataError, match=what) as e:
                p(bad)
            assert bad.name in e.value.place and e.value.remedy
    second = clip_of([None] * 3, [body((0, 1, 3))] * 3)
    with pytest.raises(DataError, match="first place"):
        aimclr(second)
    with pytest.raises(DataError, match="first 300"):
        umurl(clip_of([None] * 300 + [body((0, 1, 3))]))
    assert tall.oriented("y").up == "y" and mamp(tall.oriented("y")).xyz.any()


def test_from_raw_files(tmp_path):
    "Every body the sensor found goes in; what the reader's own choice of two gives is what CTR-GCN translates."
    folder = forge_ntu(tmp_path / "ntu")
    for all_bodies, two in zip(read_ntu(folder, bodies="tracks"), read_ntu(folder), strict=True):
        there = two.present
        origin = two.xyz[there[:, 0].argmax(), 0, 1]
        np.testing.assert_allclose(ctrgcn(all_bodies).xyz, np.where(there[..., None, None], two.xyz - origin, 0), atol=1e-6)
        assert type(ctrgcn(all_bodies)) is Clip
        for p in PRESETS.values():
            assert p(all_bodies).xyz.shape[1:] == (2, 25, 3) and p(all_bodies).name == two.name


def test_into_a_store(tmp_path):
    clips = [c for c in CLIPS if not c.segments]
    for name in ("mamp", "slim", "pyskl"):
        store = SkeletonStore.write(tmp_path / name, map(preset(name), clips))
        assert len(store) == len(clips) and store.up == preset(name)(clips[0]).up
    store = SkeletonStore.write(tmp_path / "aimclr", map(preset("aimclr"), clips), allow_empty_frames=True)
    assert set(store.table.n_frames) == {50}
