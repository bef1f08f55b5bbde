"""Which two bodies: the rules of CTR-GCN, AimCLR and 2s-AGCN against plain re-tellings of what their scripts do."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.data.bodies import by_energy, denoise, energy, file_order, motion, noisy, pick, places
from skelnb.data.clip import Clip


@dataclass(eq=False, repr=False)
class Recording(Clip):
    slots: np.ndarray | None = None


def recording(there, seed=0, wide=(), still=(), **known):
    "Random bodies where `there` (T, M) says so; `wide` ones have the shape of a sofa, `still` ones hardly any extent."
    there = np.asarray(there, bool)
    rng = np.random.default_rng(seed)
    xyz = rng.normal(0, 0.02, (*there.shape, 25, 3)) + rng.uniform(-1, 1, (1, there.shape[1], 25, 3)) * (0.25, 0.8, 0.2) + (0, 0, 3)
    for m in wide:
        xyz[:, m] *= (6, 0.3, 1)
    for m in still:
        xyz[:, m] = (xyz[:, m] - (0, 0, 3)) * 0.3 + (0, 0, 3)
    slots = np.where(there, there.cumsum(1) - 1, -1)
    return Recording(xyz * there[:, :, None, None], 30, "kinect_v2", "made up", slots=slots.astype(np.int8), **known)


def during(T, *spans):
    there = np.zeros((T, len(spans)), bool)
    for m, parts in enumerate(spans):
        for a, b in parts if isinstance(parts[0], tuple) else [parts]:
            there[a:b, m] = True
    return there


def retold(clip):
    "The released script, retold: frames by frames, with intervals that count on from the first."
    there = clip.slots >= 0
    bodies, row = {}, -1
    for t in range(len(clip)):
        row += there[t].any()
        for m in np.argsort(clip.slots[t], kind="stable"):
            if there[t, m]:
                joints, interval = bodies.setdefault(m, ([], []))
                joints.append(clip.xyz[t, m])
                interval.append(interval[-1] + 1 if interval else row)
    total, single = row + 1, len(bodies) == 1
    bodies = {m: [np.array(j), i, np.array(j).reshape(-1, 3).astype(float).var(0).sum()] for m, (j, i) in bodies.items()}
    if not single:
        bodies = {m: b for m, b in bodies.items() if len(b[1]) > 11} or bodies
        for m in list(bodies):
            if len(bodies) == 1:
                break
            joints, interval, amount = bodies[m]
            good = [t for t, p in enumerate(joints) if np.ptp(p[:, 0]) <= 0.8 * np.ptp(p[:, 1])]
            if len(good) == len(interval):
                continue
            if (len(interval) - len(good)) / len(interval) >= 0.69754:
                del bodies[m]
            else:
                bodies[m][2] = min(amount, joints[good].reshape(-1, 3).astype(float).var(0).sum())
    order = sorted(bodies.values(), key=lambda b: -b[2])
    out, (first, *rest) = np.zeros((total, 2, 25, 3), np.float32), order
    (s1, e1), (s2, e2) = (first[1][0], first[1][-1]), (0, 0)
    out[s1 : e1 + 1, 0] = first[0]
    for joints, interval, _ in rest:
        s, e = interval[0], interval[-1]
        if min(e1, e) - max(s1, s) <= 0:
            out[s : e + 1, 0] = joints
            s1, e1 = min(s, s1), max(e, e1)
        elif min(e2, e) - max(s2, s) <= 0:
            out[s : e + 1, 1] = joints
            s2, e2 = min(s, s2), max(e, e2)
    return out[out.any((1, 2, 3))]


spans = st.lists(st.tuples(st.integers(0, 45), st.integers(1, 40), st.integers(0, 50), st.integers(0, 20)), min_size=1, max_size=6)


@settings(deadline=None, max_examples=80)
@given(spans, st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5)), st.integers(0, 9))
def test_denoise_does_what_the_script_does(spans, wide, still, seed):
    there = during(60, *(((a, a + n), (b, b + k)) for a, n, b, k in spans))
    M = len(spans)
    clip = recording(there, seed, [m for m in wide if m < M], [m for m in still if m < M])
    seen = clip.slots[:, clip.slots.max(0) >= 0]
    clip = Recording(clip.xyz[:, clip.slots.max(0) >= 0], 30, "kinect_v2", "made up", slots=seen)
    assert np.array_equal(denoise(clip).xyz, retold(clip))


def test_one_body_stays_whatever_it_is():
    clip = recording(during(20, (3, 8)), wide=[0])
    clean = denoise(clip)
    assert clean.xyz.shape == (5, 2, 25, 3) and np.array_equal(clean.xyz[:, 0], clip.xyz[3:8, 0]) and not clean.xyz[:, 1].any()


def test_short_bodies_go_and_twelve_frames_are_enough():
    assert not denoise(recording(during(40, (0, 40), (5, 16)))).xyz[:, 1].any()
    assert sorted(denoise(recording(during(40, (0, 40), (5, 17)))).present.sum(0)) == [12, 40]


def test_when_all_are_too_short_all_stay():
    assert denoise(recording(during(30, (0, 8), (2, 11)))).present.sum(0).tolist() in ([8, 9], [9, 8])


def test_the_last_noisy_body_is_kept():
    clip = recording(during(30, (0, 30), (0, 30), (0, 30)), wide=[0, 1, 2])
    clean = denoise(clip)
    assert np.array_equal(clean.xyz[:, 0], clip.xyz[:, 2]) and not clean.xyz[:, 1].any()


def test_the_share_of_noisy_frames():
    clip = recording(during(100, (0, 100), (0, 100)))
    clip.xyz[:70, 1] *= (6, 0.3, 1)
    assert noisy(clip)[:, 1].sum() == 70 and not denoise(clip).xyz[:, 1].any()
    clip.xyz[69, 1] /= (6, 0.3, 1)
    assert noisy(clip)[:, 1].sum() == 69 and denoise(clip).xyz[:, 1].any()


def test_gaps_are_closed_or_kept():
    clip = recording(during(60, (0, 60), ((0, 20), (40, 60))), still=[1])
    assert np.flatnonzero(denoise(clip).present[:, 1])[-1] == 39
    exact = denoise(clip, closed_gaps=False)
    assert np.array_equal(exact.xyz, clip.xyz)


def test_segments_and_confidence_go_with_the_frames():
    clip = recording(during(60, (10, 60), ((12, 30), (40, 60))), still=[1], segments=[(0, 20, "a"), (20, 60, "b")])
    clip.confidence = clip.xyz[..., 0] * 2
    clean = denoise(clip)
    assert clean.segments == ((0, 10, "a"), (10, 50, "b")) and np.array_equal(clean.confidence, clean.xyz[..., 0] * 2)
    assert type(clean) is Clip


def test_file_order_with_and_without_slots():
    clip = recording(during(4, (0, 2), (1, 4), (1, 4)))
    first = file_order(clip)
    assert np.array_equal(first.xyz[:, 0], np.stack([clip.xyz[0, 0], clip.xyz[1, 0], clip.xyz[2, 1], clip.xyz[3, 1]]))
    assert np.array_equal(first.xyz[:, 1], np.stack([clip.xyz[0, 1], clip.xyz[1, 1], clip.xyz[2, 2], clip.xyz[3, 2]]))
    plain = Clip(clip.xyz, 30, "kinect_v2", "plain")
    assert np.array_equal(file_order(plain, 3).xyz, plain.xyz) and file_order(plain, 5).xyz.shape == (4, 5, 25, 3)
    assert places(plain)[0].tolist() == [0, -1, -1]


def test_energy_compares_four_places():
    clip = recording(np.ones((20, 5), bool), still=[0, 2])
    best = by_energy(clip)
    top = sorted(range(4), key=lambda m: -energy(clip)[m])[:2]
    assert np.array_equal(best.xyz, clip.xyz[:, top]) and set(top) == {1, 3}
    assert by_energy(recording(during(9, (2, 7)))).present.sum(0).tolist() == [5, 0]


def test_energy_and_motion_of_known_bodies():
    xyz = np.zeros((2, 2, 25, 3), np.float32)
    xyz[0, 0, :, 0], xyz[1, 0, :, 0], xyz[1, 0, :, 1] = 1, 3, 4  # x: 1 and 3; y: 0 and 4
    clip = Clip(xyz, 30, "kinect_v2", "known")
    assert motion(clip).tolist() == [5, 0] and energy(clip) == pytest.approx([3, 0])


def test_nobody():
    clip = Clip(np.zeros((5, 2, 25, 3)), 30, "kinect_v2", "nobody")
    assert len(denoise(clip)) == 0 and not by_energy(clip).xyz.any() and motion(clip).tolist() == [0, 0]
    assert pick(clip, np.full((5, 2), -1)).xyz.shape == (5, 2, 25, 3)
