"""Synthetic people: bodies that hold together, motions a person could make, truth that is true, and everything a function of the seed."""
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.data.clip import frame_labels
from skelnb.data.synthetic import (
    ACTIONS,
    LAYOUT,
    MOVING,
    PARENT,
    REST,
    ROW,
    SOLE,
    TABLE,
    J,
    _rows,
    forward_kinematics,
    make_store,
    people,
    pose,
    rotation,
    solve_leg,
    synthesize,
    synthesize_untrimmed,
)
from skelnb.errors import DiskError, ParameterError

CHILD, PARENTS = np.array(list(PARENT.items())).T
FEET = [J["foot_left"], J["foot_right"]]


@pytest.fixture(scope="module")
def clips():
    return synthesize(170, seed=7)


@pytest.fixture(scope="module")
def clean():
    return synthesize(170, seed=7, noise=0)


@pytest.fixture(scope="module")
def takes():
    return synthesize_untrimmed(24, seed=7, noise=0)


def points(clip, joint, m=0):
    return clip.xyz[:, m, J[joint]]


def forward(clip, m):
    "Where person m faces in the first frame."
    across = points(clip, "hip_left", m)[0] - points(clip, "hip_right", m)[0]
    return np.cross(across, [0, 1, 0]) / np.linalg.norm(across)


def angle(clip, a, b, c, m=0):
    "Bend at joint b in degrees, 0 = straight."
    u, v = points(clip, b, m) - points(clip, a, m), points(clip, c, m) - points(clip, b, m)
    return np.rad2deg(np.arccos(np.clip((u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1), -1, 1)))


# --- the parts ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", "xyz")
def test_rotations_are_rotations(axis):
    R = rotation(axis, np.linspace(-200, 200, 9)).transpose(2, 0, 1)
    assert np.allclose(R @ R.transpose(0, 2, 1), np.eye(3), atol=1e-6) and np.allclose(np.linalg.det(R), 1, atol=1e-6)
    assert np.allclose(rotation("y", np.array([90.0]))[..., 0] @ [0, 0, 1], [1, 0, 0], atol=1e-6)


def test_forward_kinematics_against_matrix_products():
    rng = np.random.default_rng(0)
    joints = ["spine_base", "spine_mid", "spine_shoulder", "shoulder_left", "elbow_left", "wrist_left", "hand_left", "thumb_left"]
    turns = {J[j]: rotation("x", rng.uniform(-90, 90, 3)) for j in joints[:6]}
    bones, root = rng.normal(size=(25, 3, 3)), rng.normal(size=(3, 3))
    xyz = forward_kinematics(turns, bones, root)
    for f in range(3):
        at, R = root[:, f], turns[J["spine_base"]][..., f]
        for j in joints[1:]:
            at = at + R @ bones[J[j], :, f]
            R = R @ turns[J[j]][..., f] if J[j] in turns else R
            assert np.allclose(xyz[J[j], :, f], at, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1.2, 1.2), min_size=3, max_size=3), st.floats(0.3, 0.5), st.floats(0.9, 1.1), st.floats(-60, 60))
def test_a_leg_reaches_what_is_in_reach_and_never_bends_forward(target, thigh, ratio, plane):
    shank = thigh * ratio
    one = lambda v: np.full(1, v, np.float32)
    hip, knee = solve_leg(np.array(target, np.float32)[:, None], one(plane), one(thigh), one(shank))
    ankle = hip[..., 0] @ (np.array([0, -thigh, 0]) + knee[..., 0] @ [0, -shank, 0])
    bend = np.rad2deg(np.arctan2(knee[2, 1, 0], knee[1, 1, 0]))
    assert np.isfinite(ankle).all() and -0.1 <= bend <= 150.1
    r, sideways = np.linalg.norm(target), abs((rotation("y", one(-plane))[..., 0] @ target)[0])
    if 0.55 * (thigh + shank) < r < 0.99 * (thigh + shank) and sideways < 0.3 * r:
        assert np.allclose(ankle, target, atol=2e-3)


def test_joints_stop_at_their_range():
    who = people(1)
    for elbow in (-80, 400):
        q = _rows(REST, np.zeros(1)) + _rows({"r_elbow": elbow}, np.zeros(1))
        xyz = pose(q, who.bones)[..., 0]
        u, v = xyz[J["elbow_right"]] - xyz[J["shoulder_right"]], xyz[J["wrist_right"]] - xyz[J["elbow_right"]]
        bend = np.rad2deg(np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v)))
        assert bend == pytest.approx(2 if elbow < 0 else 150, abs=0.2)


@pytest.mark.parametrize("name", [a for a in ACTIONS if a != "turn"])
def test_every_curve_begins_and_ends_at_rest(name):
    ends = _rows(TABLE[name].curve(np.array([0, 1.0]), 3, np.ones((3, 2))), np.zeros(2))
    assert abs(ends).max() < 1e-5


def test_turn_is_a_full_turn():
    ends = _rows(TABLE["turn"].curve(np.array([0, 1.0]), 1, np.ones((3, 2))), np.zeros(2))
    assert np.allclose(ends[[ROW["yaw"], ROW["l_face"], ROW["r_face"]]], [[0, 360]] * 3, atol=1e-4)


# --- what a clip is ----------------------------------------------------------------------------------------------------------------------


def test_clips_are_clips(clips):
    assert len({c.name for c in clips}) == len(clips) == 170 and len(ACTIONS) >= 12
    assert [c.label for c in clips[:17]] == list(ACTIONS) and set(Counter(c.label for c in clips).values()) == {10}
    assert {c.subject for c in clips[:12]} == {f"S{i:02}" for i in range(1, 13)}
    for c in clips:
        T = len(c.check())
        assert 60 <= T <= 120 and c.xyz.shape == (T, 1, 25, 3) and c.xyz.dtype == np.float32 and c.moving.shape == (T, 1, 25)
        assert c.moving.dtype == bool and c.layout == "kinect_v2" and c.units == "m" and c.fps == 30
        assert c.xyz.base is None and c.moving.base is None  # a clip does not keep its whole block alive


def test_the_camera_sees_a_person_as_a_kinect_does():
    for c in synthesize(12, actions=["idle"], view=0, noise=0):
        assert 2.0 < points(c, "spine_base")[:, 2].mean() < 4.0
        assert (points(c, "shoulder_left")[:, 0] < points(c, "shoulder_right")[:, 0]).all()
        assert (points(c, "foot_left")[:, 2] < points(c, "ankle_left")[:, 2]).all()  # toes towards the camera
        assert 1.3 < points(c, "head")[:, 1].mean() < 2.0


def test_seed_decides_everything_and_n_nothing(clips):
    again, few, part, other = synthesize(170, seed=7), synthesize(5, seed=7), synthesize(70, seed=7, start=60), synthesize(5, seed=8)
    same = lambda a, b: all(np.array_equal(x.xyz, y.xyz) and np.array_equal(x.moving, y.moving) and x.name == y.name for x, y in zip(a, b))
    assert same(clips, again) and same(clips, few) and same(clips[60:130], part) and len(part) == 70
    assert not same(clips, other)
    assert same(synthesize_untrimmed(20, seed=1), synthesize_untrimmed(3, seed=1))
    assert same(synthesize(20, persons=2), synthesize(3, persons=2)) and synthesize(0) == []


def test_a_subject_is_the_same_body_whatever_the_seed():
    def thighs(seed):
        clips = synthesize(12, seed=seed, noise=0)
        return {c.subject: np.linalg.norm(points(c, "knee_left") - points(c, "hip_left"), axis=1)[0] for c in clips}

    a, b = thighs(1), thighs(2)
    assert a.keys() == b.keys() and all(a[s] == pytest.approx(b[s], abs=1e-5) for s in a) and np.ptp(list(a.values())) > 0.05


# --- what a body can do ------------------------------------------------------------------------------------------------------------------


def test_bones_keep_their_lengths(clean, takes):
    for c in (*clean, *takes, *synthesize(34, persons=2, noise=0)):
        lengths = np.linalg.norm(c.xyz[:, :, CHILD] - c.xyz[:, :, PARENTS], axis=-1)
        assert np.ptp(lengths, axis=0).max() < 1e-5


def test_noise_is_as_strong_as_said(clips, clean):
    rest = np.concatenate([a.xyz - b.xyz for a, b in zip(clips, clean)])
    assert rest[:, 0, J["spine_mid"]].std() == pytest.approx(0.005, rel=0.03)
    assert rest[:, 0, J["hand_left"]].std() == pytest.approx(0.008, rel=0.03)


def test_elbows_and_knees(clean, takes):
    for c in (*clean, *takes):
        for side in "left", "right":
            elbow = angle(c, f"shoulder_{side}", f"elbow_{side}", f"wrist_{side}")
            knee = angle(c, f"hip_{side}", f"knee_{side}", f"ankle_{side}")
            assert elbow.max() < 150.5 and knee.max() < 150.5
            thigh, shank = (points(c, b) - points(c, a) for a, b in ((f"hip_{side}", f"knee_{side}"), (f"knee_{side}", f"ankle_{side}")))
            leftwards = points(c, "hip_left") - points(c, "hip_right")
            hinge = (np.cross(thigh, shank) * leftwards).sum(1)
            assert (hinge > -1e-6).all(), f"{c.name}: a knee bends forwards"


def test_nobody_sinks_into_the_floor(clean, takes):
    for c in (*clean, *takes):
        assert c.xyz[..., FEET, 1].min() > SOLE - 1e-3 and c.xyz[..., 1].min() > 0


def test_feet_stand_unless_somebody_jumps(clean):
    for c in clean:
        off_the_floor = (c.xyz[:, 0, FEET, 1] > SOLE + 0.02).all(1)
        if c.label == "jump":
            assert c.xyz[:, 0, FEET, 1].min(1).max() > 0.1
        elif c.label != "jumping_jack":
            assert not off_the_floor.any(), c.label
        if c.label in ("squat", "bow", "sit_down", "stand_up", "pick_up", "wave", "clap", "drink", "reach", "idle"):
            assert np.ptp(c.xyz[:, 0, FEET], axis=0).max() < 0.006, c.label


def test_squats_sink_and_seats_stay(clean):
    drop = {label: [] for label in ("squat", "sit_down", "stand_up", "wave")}
    for c in clean:
        if c.label in drop:
            y = points(c, "spine_base")[:, 1]
            drop[c.label].append((y[0] - y.min(), y[0] - y[-1]))
    assert np.min(drop["squat"], axis=0)[0] > 0.15 and np.abs(np.array(drop["squat"])[:, 1]).max() < 0.05
    assert np.min(drop["sit_down"], axis=0)[1] > 0.3 and np.max(drop["stand_up"], axis=0)[1] < -0.3
    assert np.max(drop["wave"], axis=0)[0] < 0.05


def test_walking_alternates(clean):
    for c in (c for c in clean if c.label == "walk"):
        up = c.xyz[:, 0, FEET, 1] > SOLE + 0.05
        assert not up.all(1).any()
        steps = [np.flatnonzero(np.diff(up[:, i].astype(int)) == 1) for i in (0, 1)]
        first, later = sorted(steps, key=lambda s: s[0])
        assert len(first) - len(later) in (0, 1)
        assert all(a < b for a, b in zip(first, later)) and all(a > b for a, b in zip(first[1:], later))


def test_motion_is_smooth(clean, takes):
    for c in (*clean, *takes):
        assert np.linalg.norm(np.diff(c.xyz, axis=0), axis=-1).max() * c.fps < 18, c.name  # m/s; a fast throw


# --- truth -------------------------------------------------------------------------------------------------------------------------------


def test_moving_knows_nothing_of_noise(clips, clean):
    assert all(np.array_equal(a.moving, b.moving) for a, b in zip(clips, clean))


def test_moving_joints_move(clean):
    speeds, flags = [], []
    for c in clean:
        speed = np.linalg.norm(np.diff(c.xyz[:, 0], axis=0), axis=-1) * c.fps
        speeds.append(np.maximum(speed[1:], speed[:-1]).ravel())
        flags.append(c.moving[1:-1, 0].ravel())
    speed, flag = np.concatenate(speeds), np.concatenate(flags)
    assert np.quantile(speed[~flag], 0.95) < 1.5 * MOVING and np.quantile(speed[flag], 0.05) > 0.5 * MOVING  # the rest is sway


def test_moving_is_where_the_action_is(clean):
    share = {a: np.mean([c.moving[:, 0].mean(0) for c in clean if c.label == a], axis=0) for a in ACTIONS}
    hands, feet = [J["hand_left"], J["hand_right"]], FEET
    for a in ("wave", "clap", "drink", "reach", "squat", "bow"):
        assert share[a][feet].max() == 0 < share[a][hands].max()
    for a in ("walk", "jump", "jumping_jack"):
        assert share[a][feet].min() > 0.1
    assert share["idle"].max() < 0.3 < share["squat"][J["head"]]
    one_sided = np.array([np.sort(c.moving[:, 0, hands].mean(0)) for c in clean if c.label == "wave"])
    assert (one_sided[:, 1] > 3 * one_sided[:, 0]).all()


def test_takes_have_their_segments(takes):
    for c in takes:
        c.check()
        assert 4 <= len(c.segments) <= 8 and c.label is None
        labels = frame_labels(c, ["background", *ACTIONS])
        assert 0.1 < (labels == 0).mean() < 0.6
        assert c.moving[labels > 0].mean() > 5 * c.moving[labels == 0].mean()
        names = [s.label for s in c.segments]
        assert "idle" not in names and all(a != b for a, b in zip(names, names[1:]))
        assert all((b == "stand_up") == (a == "sit_down") for a, b in zip(["", *names], names))


def test_takes_without_background():
    for c in synthesize_untrimmed(12, background=False, seed=3):
        assert c.segments[0].start == 0 and c.segments[-1].end == len(c)
        assert all(a.end == b.start for a, b in zip(c.segments, c.segments[1:]))


@pytest.mark.parametrize("actions", [["sit_down"], ["stand_up", "wave"], ["sit_down", "kick"], ["idle"]])
def test_whoever_sits_gets_up_even_without_the_action_for_it(actions):
    for background in True, False:
        for c in synthesize_untrimmed(6, actions=actions, background=background, noise=0, seed=5):
            assert {s.label for s in c.check().segments} <= set(actions)
            assert np.linalg.norm(np.diff(c.xyz, axis=0), axis=-1).max() * c.fps < 18


def test_two_people():
    clips = synthesize(60, persons=2, seed=2, actions=["wave", "squat", "punch"])
    together = [bool((points(c, "spine_base", 1)[0] - points(c, "spine_base", 0)[0]) @ forward(c, 0) > 0.5) for c in clips]
    assert 0.3 < np.mean(together) < 0.7  # about half stand face to face and act together, else the second idles
    for c in clips:
        assert c.check().xyz.shape[1] == 2 and c.present.all()
        gap = np.linalg.norm((c.xyz[:, 0, J["spine_base"]] - c.xyz[:, 1, J["spine_base"]])[:, [0, 2]], axis=1)
        assert gap.min() > 0.8
    busy = np.array([c.moving[:, 1].mean() for c in clips])
    assert busy[together].min() > 0.05 > np.median(busy[~np.array(together)])
    for c in (c for c, t in zip(clips, together) if t):
        assert (points(c, "spine_base", 0)[0] - points(c, "spine_base", 1)[0]) @ forward(c, 1) > 0.5  # each looks at the other


def test_actions_can_be_told_apart_but_not_by_a_glance():
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import NearestCentroid

    clips = synthesize(510, seed=1)

    def describe(c):
        at = np.linspace(0, len(c) - 1, 12).astype(int)
        return (c.xyz[at, 0] - c.xyz[:1, 0, :1]).ravel()

    x, y = np.stack([describe(c) for c in clips]), np.array([c.label for c in clips])
    test = np.isin([c.subject for c in clips], ["S03", "S06", "S09", "S12"])
    score = lambda model: model.fit(x[~test], y[~test]).score(x[test], y[test])
    centroid, logistic = score(NearestCentroid()), score(LogisticRegression(C=1, max_iter=300))
    print(f"nearest centroid {centroid:.2f}, logistic regression {logistic:.2f}, chance {1 / 17:.2f}")
    assert 0.25 < centroid < 0.95 and logistic > 0.5


# --- stores and errors -------------------------------------------------------------------------------------------------------------------


def test_store(tmp_path):
    store = make_store(tmp_path / "s", 40, seed=4, frames=(20, 30))
    train, test = store.split("split", "train"), store.split("split", "test")
    assert len(store) == 40 and len(train) + len(test) == 40 and set(store.table.subject[test]) == {"S03", "S06", "S09", "S12"}
    assert np.array_equal(store[33].xyz, synthesize(40, seed=4, frames=(20, 30))[33].xyz) and store.classes == ACTIONS
    takes = make_store(tmp_path / "t", 6, untrimmed=True, actions=["wave", "kick"], test_subjects=["S01"], subjects=3)
    assert takes.classes == ("background", "kick", "wave") and set(takes.table.subject[takes.split("split", "test")]) == {"S01"}
    with pytest.raises(DiskError):
        make_store(tmp_path / "t", 2)
    assert len(make_store(tmp_path / "t", 2, replace=True)) == 2


def test_a_store_in_parts_is_the_same_store(tmp_path):
    store = make_store(tmp_path / "s", 300, seed=4, frames=(4, 6), actions=["wave", "bow"])
    whole = synthesize(300, seed=4, frames=(4, 6), actions=["wave", "bow"])
    assert np.array_equal(store.frames, np.concatenate([c.xyz for c in whole]))


@pytest.mark.parametrize("frames", [(1, 1), (2, 5), (32, 32), (400, 400)])
def test_any_length(frames):
    for c in synthesize(17, frames=frames, seed=1):
        assert frames[0] <= len(c.check()) <= frames[1]


def test_frame_rate():
    slow, fast = (synthesize_untrimmed(8, fps=fps, seed=3) for fps in (15, 60))
    assert sum(map(len, fast)) / sum(map(len, slow)) == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("wrong, said", [
    (dict(actions=["wawe"]), "wawe"), (dict(actions=[]), "none given"), (dict(frames=(20, 10)), "range"), (dict(frames=(0, 10)), "range"),
    (dict(persons=3), "persons"), (dict(seed=-1), "seed"), (dict(subjects=0), "subjects"), (dict(noise=-1), "noise"), (dict(fps=0), "fps"),
])
def test_wrong_arguments(wrong, said):
    with pytest.raises(ParameterError, match=said):
        synthesize(3, **wrong)


def test_wrong_arguments_of_takes_and_stores(tmp_path):
    with pytest.raises(ParameterError, match="range"):
        synthesize_untrimmed(3, segments=(0, 2))
    with pytest.raises(ParameterError, match="S99"):
        make_store(tmp_path / "x", 3, test_subjects=["S99"])
    assert LAYOUT.name == "kinect_v2" and not list(tmp_path.iterdir())
