"""MediaPipe, OpenPose, AlphaPose, COCO and MMPose, and what they have in common: who is who, holes, and what is asked for."""

import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skelnb.data import images as im
from skelnb.data.detections import Detections, actors, fill_gaps, link, picture, to_clip
from skelnb.errors import DataError, ParameterError, SkelnbError
from skelnb.topology import layout

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
CLIP = {"mediapipe": im.mediapipe_clip, "alphapose": im.alphapose_clip, "coco": im.coco_clip, "mmpose": im.mmpose_clip}


def dump(path, value):
    path.write_text(json.dumps(value))
    return path


def landmarks(x=0.5, **more):
    return [{"x": x + 0.001 * v, "y": 0.2 + 0.01 * v, "z": 0.1, "visibility": 0.9, **more} for v in range(33)]


def as_one_of(found, truth, known):
    "The largest error of a two-person clip, up to the order of persons."
    return min(np.abs(found[:, list(o)] - truth)[known[:, list(o)]].max() for o in ((0, 1), (1, 0)))


# who is who


def crossing(T=80, seed=0, fps=30, drop=0.0):
    rng = np.random.default_rng(seed)
    body = rng.normal(0, [40, 90], (17, 2))
    x = np.linspace(-500, 500, T)[:, None] * [[1, -1]] + 640
    place = np.stack([x, np.full((T, 2), 360)], -1)[:, :, None] + body * [[[1, 1]], [[0.9, 1.1]]] + rng.normal(0, 3, (T, 2, 17, 2))
    who = np.array([rng.permutation(2) for _ in range(T)])
    rows = np.take_along_axis(place, who[:, :, None, None], 1).reshape(-1, 17, 2)
    keep = rng.random(len(rows)) >= drop
    return np.repeat(np.arange(T), 2)[keep], rows[keep], who.reshape(-1)[keep]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("drop", [0, 0.15])
def test_people_who_cross_keep_their_identity(seed, drop):
    frame, rows, truth = crossing(seed=seed, drop=drop)
    who = link(frame, rows, 30)
    assert set(who) == {0, 1} and ((who == truth).all() or (who == 1 - truth).all())


def test_link_does_not_depend_on_scale_or_order():
    frame, rows, truth = crossing()
    order = np.random.default_rng(1).permutation(len(frame))
    for scale in (1e-3, 1, 1e4):
        who = link(frame[order], rows[order] * scale, 30)
        assert len({tuple(w) for w in zip(who, truth[order])}) == 2


def test_gate_and_reentry():
    body = np.random.default_rng(0).normal(0, 50, (17, 2))
    there = np.r_[0:30, 90:120]  # gone for two seconds
    who = link(there, body + np.where(there[:, None, None] < 30, 0, 300), 30)
    assert set(who) == {0}, "within reach: the same person comes back"
    far = link(np.arange(20), body + np.where(np.arange(20)[:, None, None] < 10, 0, 3000), 30)
    assert far.tolist() == [0] * 10 + [1] * 10, "nobody jumps ten body sizes from one frame to the next"


def test_persons_with_nothing_in_common_and_a_crowd():
    pose = np.full((2, 17, 2), np.nan)
    pose[0, :5], pose[1, 11:] = 10 * np.arange(10).reshape(5, 2), 10 * np.arange(12).reshape(6, 2)
    assert link(np.arange(2), pose, 30).tolist() == [0, 0]  # upper body, then lower body: by their centres
    body = np.random.default_rng(0).normal(0, 1, (17, 2))
    with pytest.raises(DataError, match="more than 64 different people.*frame 0|frame 0.*more than 64"):
        link(np.zeros(70, int), body + 100 * np.arange(70)[:, None, None], 30)


def test_persons_keeps_those_seen_longest_and_order_does_not_depend_on_the_file():
    frame, rows, _ = crossing()
    ghost = np.concatenate([rows, rows[:1] + 5000])
    d = Detections(np.append(frame, 40), ghost, "coco17", units="px")
    assert to_clip(d, "a.json", fps=30).xyz.shape[1] == 3 and to_clip(d, "a.json", fps=30, persons=2).xyz.shape[1] == 2
    order = np.random.default_rng(3).permutation(len(ghost))
    again = Detections(d.frame[order], ghost[order], "coco17", units="px")
    assert np.array_equal(to_clip(again, "a.json", fps=30).xyz, to_clip(d, "a.json", fps=30).xyz)


def test_identities_of_the_file_are_used_unless_link():
    frame, rows, truth = crossing()
    wrong = (truth + (frame > 60)) % 2
    d = Detections(frame, rows, "coco17", units="px", person=wrong.tolist())
    by_file, linked = (to_clip(d, "a.json", fps=30, link=k).xyz[..., 0, 0] for k in (False, True))
    assert np.abs(np.diff(by_file, axis=0)).max() > 100 > np.abs(np.diff(linked, axis=0)).max()
    with pytest.raises(DataError, match="frame 0.*person 7 is there twice"):
        to_clip(Detections(frame, rows, "coco17", units="px", person=[7] * len(rows)), "a.json", fps=30)
    with pytest.raises(DataError, match="80 different people"):
        to_clip(Detections(frame, rows, "coco17", units="px", person=frame.tolist()), "a.json", fps=30)


# holes, time and units


def test_gaps():
    frame, rows, truth = crossing(T=30)
    first = truth == 0
    rows[first & (frame == 7), 3] = np.nan  # one joint, one frame
    keep = ~(first & (frame >= 10) & (frame < 14))  # a short absence
    d = Detections(frame[keep], rows[keep], "coco17", units="px", frames=np.arange(30))
    clip = to_clip(d, "a.json", fps=30)
    m = int(np.argmin(clip.confidence.sum((0, 2))))
    assert np.allclose(clip.xyz[7, m, 3], clip.xyz[[6, 8], m, 3].mean(0), atol=1e-3) and clip.confidence[7, m, 3] == 0
    assert clip.present.all() and (clip.confidence[10:14, m] == 0).all() and clip.confidence.sum() == 60 * 17 - 1 - 4 * 17
    zero = to_clip(d, "a.json", fps=30, gaps="zero")
    assert not zero.xyz[10:14, m].any() and not zero.xyz[7, m, 3].any() and clip.observed.all()


def test_a_long_absence_stays_one_and_ends_are_not_invented():
    known = np.zeros((60, 1, 2), bool)
    known[5:20], known[45:50] = True, True
    known[8, 0, 1] = known[5:7, 0, 1] = False
    xyz = np.where(known[..., None], np.arange(60)[:, None, None, None] + 1.0, 0) * np.ones(2)
    filled, there = fill_gaps(xyz, known, 15)
    assert np.flatnonzero(there[:, 0, 0]).tolist() == [*range(5, 20), *range(45, 50)]
    assert not there[5:7, 0, 1].any() and filled[8, 0, 1, 0] == 9


def test_frame_numbers():
    frame, rows, _ = crossing(T=20)
    every_third = to_clip(Detections(7 + 3 * frame, rows, "coco17", units="px"), "a.json", fps=30)
    assert every_third.fps == 10 and len(every_third) == 20
    with pytest.raises(DataError, match="no frame numbers"):
        to_clip(Detections(frame**9, rows, "coco17", units="px"), "a.json", fps=30)


def test_nobody_says_it():
    frame, rows, _ = crossing(T=5)
    with pytest.raises(ParameterError, match="layout, fps, units, up") as e:
        to_clip(Detections(frame, rows), "a.json")
    assert all(k in e.value.remedy for k in ("coco17", "fps=30", '"cm"', '"-y"'))
    d = Detections(frame, rows, units="px", fps=30)
    for wrong, what in (
        ({"units": "feet"}, "units"),
        ({"fps": 0}, "frame rate"),
        ({"up": "w"}, "axis"),
        ({"layout": "kinect_v1"}, "20 joints"),
        ({"gaps": "x"}, "gaps"),
        ({"persons": 0}, "persons"),
        ({"units": True}, "units"),
        ({"fps": "30"}, "frame rate"),
    ):
        with pytest.raises(ParameterError, match=what):
            to_clip(d, "a.json", **{"layout": "coco17", **wrong})


def test_units_and_axes():
    clip = actors("kinect_v2", 20)
    rows = clip.xyz[:, 0] * 1000 @ np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], float)  # z up, millimetres
    d = Detections(np.arange(20), rows, "kinect_v2", fps=30)
    for units in ("mm", 0.001):
        assert np.allclose(to_clip(d, "a.json", units=units, up="z").xyz, clip.xyz, atol=1e-5)


def test_empty_frames_are_the_users_choice():
    frame, rows, _ = crossing(T=10)
    d = Detections(frame + 40, rows, "coco17", units="px", frames=np.arange(60))
    with pytest.raises(DataError, match="50 such frames of 60"):
        to_clip(d, "a.json", fps=30)
    assert (len(to_clip(d, "a.json", fps=30, empty="drop")), len(to_clip(d, "a.json", fps=30, empty="keep"))) == (10, 60)
    with pytest.raises(DataError, match="shows nobody"):
        to_clip(Detections(frame, rows * np.nan, "coco17", units="px"), "a.json", fps=30)
    with pytest.raises(DataError, match="shows nobody"):
        to_clip(Detections(frame, rows * 0, "coco17", units="px"), "a.json", fps=30, empty="drop")
    with pytest.raises(DataError, match="shows nobody"):
        to_clip(Detections(frame[:0], rows[:0], "coco17", units="px"), "a.json", fps=30)
    with pytest.raises(DataError, match="frame 3, joint 2"):
        rows[6, 2] = np.inf
        to_clip(Detections(frame, rows, "coco17", units="px"), "a.json", fps=30)


# OpenPose


@pytest.mark.parametrize("name", ["body25", "openpose18"])
def test_openpose(tmp_path, name):
    path = im.forge_openpose(tmp_path / "duet", layout=name, seed=2)
    clip = im.openpose_clip(path, fps=25, image_size=(1280, 720))
    assert (clip.layout, clip.units, clip.up, clip.fps, clip.image_size, clip.name) == (name, "px", "-y", 25, (1280, 720), "duet")
    assert as_one_of(clip.xyz, picture(actors(name, 40, 2, 2)), clip.confidence > 0) < 6
    assert 0.01 < (clip.confidence == 0).mean() < 0.03


def test_openpose_is_never_a_kinect(tmp_path):
    with pytest.raises(ParameterError, match="those of body25"):
        im.openpose_clip(im.forge_openpose(tmp_path / "a"), fps=30, layout="kinect_v2")


def test_openpose_single_file_missing_folder_and_missing_frames(tmp_path):
    path = im.forge_openpose(tmp_path / "a", frames=20, persons=1)
    files = sorted(path.iterdir())
    with pytest.raises(DataError, match="one frame of OpenPose.*\n.*folder"):
        im.openpose_clip(files[0], fps=30)
    with pytest.raises(DataError, match="no such folder"):
        im.openpose_clip(tmp_path / "b", fps=30)
    for f in files[5:8]:
        f.unlink()
    files[10].write_text('{"version": 1.3, "people": []}')
    clip = im.openpose_clip(path, fps=30)
    assert len(clip) == 20 and np.flatnonzero((clip.confidence == 0).all((1, 2))).tolist() == [5, 6, 7, 10] and clip.present.all()
    assert im.recognise_openpose(path) == im.recognise_openpose(files[10]) == "openpose"


def test_openpose_several_videos_person_ids_and_scaled_output(tmp_path):
    path = im.forge_openpose(tmp_path / "a", frames=10)
    for f in list(path.iterdir()):
        f.with_name(f.name.replace("a_", "b_")).write_text(f.read_text())
    with pytest.raises(ParameterError, match="'a', 'b'"):
        im.openpose_clip(path, fps=30)
    assert [c.name for c in im.read_openpose(path, fps=30)] == ["a", "b"]
    assert [c.name for c in im.read_openpose(tmp_path, fps=30)] == ["a", "b"]
    for f in path.glob("a_*"):
        frame = json.loads(f.read_text())
        frame["people"].sort(key=lambda p: p["pose_keypoints_2d"][3])
        for m, person in enumerate(frame["people"]):
            person["person_id"] = [4 - m]
            person["pose_keypoints_2d"] = (np.array(person["pose_keypoints_2d"]).reshape(-1, 3) / [1280, 720, 1]).ravel().tolist()
        f.write_text(json.dumps(frame))
    with pytest.raises(ParameterError, match="keypoint_scale 3"):
        im.openpose_clip(path, take="a", fps=30)
    clip = im.openpose_clip(path, take="a", fps=30, units="image")
    assert clip.units == "image" and clip.xyz.max() < 1.3 and clip.xyz[:, 0, 1, 0].mean() > clip.xyz[:, 1, 1, 0].mean()  # 3 before 4


def test_openpose_in_three_dimensions(tmp_path):
    path = im.forge_openpose(tmp_path / "a", frames=5, persons=1)
    truth = actors("body25", 5)
    for t, f in enumerate(sorted(path.iterdir())):
        frame = json.loads(f.read_text())
        frame["people"][0]["pose_keypoints_3d"] = np.c_[truth.xyz[t, 0] * [100, -100, -100], np.ones(25)].ravel().tolist()
        f.write_text(json.dumps(frame))
    with pytest.raises(ParameterError, match="units"):
        im.openpose_clip(path, fps=30)
    assert im.openpose_clip(path, fps=30, units="px").xyz.shape[-1] == 2
    assert np.allclose(im.openpose_clip(path, fps=30, units="cm", up="-y").xyz, truth.xyz, atol=1e-4)


def test_openpose_damage(tmp_path):
    path = im.forge_openpose(tmp_path / "a", frames=3, persons=1)
    f = sorted(path.iterdir())[1]
    for text, what in (
        ("{", "JSON"),
        ("[]", "people"),
        ('{"people": [3]}', "people"),
        ('{"people": [{"pose_keypoints_2d": 7}]}', "no list"),
        ('{"people": [{"pose_keypoints_2d": [1, 2]}]}', "2, 75 numbers"),
        ('{"people": [{"pose_keypoints_2d": ["a"]}]}', "no number"),
        ('{"people": [{"person_id": ["a"], "pose_keypoints_2d": [1]}]}', "frame number"),
    ):
        f.write_text(text)
        with pytest.raises(DataError, match=what):
            im.openpose_clip(path, fps=30)
    f.with_name(f"a_{'1' * 30}_keypoints.json").write_text("{}")
    with pytest.raises(DataError, match="15 digits"):
        im.openpose_clip(path, fps=30)
    for f in path.iterdir():
        f.unlink()
    with pytest.raises(DataError, match="no frame of OpenPose"):
        im.openpose_clip(path, fps=30)


# MediaPipe


def test_mediapipe_world_landmarks(tmp_path):
    clip = im.mediapipe_clip(im.forge_mediapipe(tmp_path / "take.json", seed=4))
    people = actors("mediapipe33", 40, 1, 4)
    truth = (people.xyz - people.xyz[:, :, 23:25].mean(2, keepdims=True)) * (-1, 1, -1)
    assert (clip.units, clip.up, clip.fps, clip.layout, clip.name) == ("m", "y", 30, "mediapipe33", "take")
    assert np.abs(clip.xyz - truth).max() < 1e-5 and clip.confidence.min() >= 0.5 and clip.observed.all()


def test_mediapipe_two_people_in_random_order(tmp_path):
    path = im.forge_mediapipe(tmp_path / "take.json", seed=4, persons=2)
    people = actors("mediapipe33", 40, 2, 4)
    world = (people.xyz - people.xyz[:, :, 23:25].mean(2, keepdims=True)) * (-1, 1, -1)
    assert as_one_of(im.mediapipe_clip(path).xyz, world, np.ones((40, 2, 33), bool)) < 1e-5
    px = im.mediapipe_clip(path, units="px", image_size=(1280, 720))
    assert as_one_of(px.xyz[..., :2], picture(people), np.ones((40, 2, 33), bool)) < 0.01 and (px.units, px.up) == ("px", "-y")
    fractions = im.mediapipe_clip(path, units="image")
    assert fractions.units == "image" and np.allclose(fractions.xyz * (1280, 720, 1280), px.xyz, atol=0.01)


def test_mediapipe_dialects_agree(tmp_path):
    a = im.mediapipe_clip(im.forge_mediapipe(tmp_path / "solutions.json", dialect="solutions"))
    assert (a.units, a.image_size, a.fps) == ("px", (1280, 720), 30)  # fps and picture size are in the file
    b = im.mediapipe_clip(im.forge_mediapipe(tmp_path / "list.json", dialect="list"), units="px", image_size=(1280, 720), fps=30)
    assert np.allclose(a.xyz, b.xyz)
    world = im.mediapipe_clip(im.forge_mediapipe(tmp_path / "tasks.json"))
    for dialect in ("flat", "named"):
        other = im.mediapipe_clip(im.forge_mediapipe(tmp_path / "x.json", dialect=dialect), units="m", fps=30)
        assert np.allclose(other.xyz, world.xyz) and np.allclose(other.confidence, world.confidence)


@pytest.mark.parametrize(
    "value",
    [
        {"frames": [{"poseLandmarks": landmarks(), "poseWorldLandmarks": landmarks(-0.2)}] * 3},
        {"pose_landmarks": [landmarks()] * 3, "pose_world_landmarks": [landmarks(-0.2)] * 3},
        [{"poses": [{"landmarks": landmarks(), "worldLandmarks": landmarks(-0.2)}]}] * 3,
        {str(t): {"world_landmarks": landmarks(-0.2)} for t in range(3)},
        {"results": [{"world_landmarks": [list(p.values()) for p in landmarks(-0.2)]}] * 3},
        {"data": [{"pose_world_landmarks": {"landmark": landmarks(-0.2)}}] * 3},
    ],
)
def test_mediapipe_in_the_wild(tmp_path, value):
    clip = im.mediapipe_clip(dump(tmp_path / "a.json", value), fps=10)
    assert (
        clip.xyz.shape == (3, 1, 33, 3)
        and np.allclose(clip.xyz[0, 0, 0], (-0.2, -0.2, -0.1))
        and clip.confidence[0, 0, 0] == np.float32(0.9)
    )


def test_mediapipe_lines_and_nobody(tmp_path):
    path = tmp_path / "a.jsonl"
    frames = [{"frame_index": t, "pose_world_landmarks": landmarks() if t not in (2, 3) else None} for t in range(6)]
    path.write_text("\n".join(map(json.dumps, frames)))
    clip = im.mediapipe_clip(path, fps=10)
    assert len(clip) == 6 and (clip.confidence[2:4] == 0).all() and clip.present.all()
    path.write_text(json.dumps([landmarks(), None, [], landmarks()]))
    assert len(im.mediapipe_clip(path, fps=10, units="m")) == 4


def test_mediapipe_asks(tmp_path):
    path = dump(tmp_path / "a.json", [landmarks()] * 3)
    with pytest.raises(ParameterError, match="as in a picture.*\n.*image_size"):
        im.mediapipe_clip(path, fps=30)
    with pytest.raises(ParameterError, match="about the hips"):
        im.mediapipe_clip(dump(path, [landmarks(-0.8)] * 3), fps=30)
    with pytest.raises(ParameterError, match="image_size"):
        im.mediapipe_clip(path, fps=30, units="px")
    with pytest.raises(ParameterError, match="fps"):
        im.mediapipe_clip(path, units="m")
    with pytest.raises(ParameterError, match="only image"):
        im.mediapipe_clip(dump(path, [{"pose_landmarks": landmarks()}] * 3), units="m", fps=30)


def test_mediapipe_names_some_joints_only(tmp_path):
    names = [j for j in layout("mediapipe33").joints if "eye" not in j]
    frame = {n.upper(): landmarks()[layout("mediapipe33").index(n)] for n in names}
    clip = im.mediapipe_clip(dump(tmp_path / "a.json", [frame] * 3), units="m", fps=30)
    assert clip.observed.sum() == 27 and clip.xyz.any(-1).all()


def test_mediapipe_damage(tmp_path):
    cut = landmarks()[:20]
    for value, what in (
        ({"a": 1}, "no list of frames"),
        ([{f"thing {i}": {"x": 1, "y": 2} for i in range(9)}], "no landmarks"),
        ([], "no landmarks"),
        ([[*cut]], "20 landmarks"),
        ([landmarks()[:32] + ["x"]], "landmark 32"),
        ([landmarks(y="up")], "no number"),
        ([landmarks(y=1e400)], "infinite"),
        (3, "no list"),
        ([[landmarks()] * 70], "different people"),
        ([{"frame": 1, "pose_landmarks": landmarks()}, {"frame": 1, "pose_landmarks": landmarks()}], "follows 1"),
    ):
        with pytest.raises(SkelnbError, match=what):
            im.mediapipe_clip(dump(tmp_path / "a.json", value), units="image", fps=30)


def test_clock():
    rate = [im.clock_rate(np.floor(np.arange(200) * 1000 / f))[0] for f in (24, 25, 30, 60)]
    assert rate == [24, 25, 30, 60]
    assert im.clock_rate(np.arange(300) * 1e6 / 29.97)[0] == pytest.approx(30000 / 1001)
    assert im.clock_rate(np.arange(50) / 17.3)[0] == pytest.approx(17.3)
    numbers = im.clock_rate(np.delete(np.arange(50) * 40, [7, 8, 30]))[1]
    assert np.array_equal(numbers, np.delete(np.arange(50), [7, 8, 30]))
    for none in ([0, 1], [0, 40, 30, 70], [0, 1e9, 2e9, 3e9], np.cumsum([30, 50, 35, 60, 33, 47])):
        assert im.clock_rate(np.array(none)) is None
    assert im.clock_rate(np.arange(9) * 80.0, 2 * np.arange(9))[0] == 25  # every second frame of 25


def test_dropped_frames_are_holes(tmp_path):
    frames = [{"timestamp": 0.04 * t, "pose_world_landmarks": landmarks()} for t in range(20) if t not in (4, 5)]
    clip = im.mediapipe_clip(dump(tmp_path / "a.json", frames))
    assert clip.fps == 25 and len(clip) == 20 and (clip.confidence[4:6] == 0).all()
    frames = [
        {"timestamp": t, "pose_world_landmarks": landmarks()} for t in np.cumsum(np.random.default_rng(0).uniform(25, 50, 20)).tolist()
    ]
    with pytest.raises(ParameterError, match="fps"):
        im.mediapipe_clip(dump(tmp_path / "a.json", frames))


# AlphaPose, COCO, MMPose


@pytest.mark.parametrize("joints", [17, 26, 133])
def test_alphapose(tmp_path, joints):
    clip = im.alphapose_clip(im.forge_alphapose(tmp_path / "a.json", joints=joints, seed=5), fps=30)
    assert clip.layout == "coco17" and as_one_of(clip.xyz, picture(actors("coco17", 40, 2, 5)), clip.confidence > 0) < 0.01
    assert (clip.confidence[5:7] == 0).all() and clip.present.all()


def test_alphapose_identities_and_other_bodies(tmp_path):
    path = im.forge_alphapose(tmp_path / "a.json", identities=True)
    entries = json.loads(path.read_text())
    clip = im.alphapose_clip(path, fps=30)
    assert np.abs(clip.xyz - picture(actors("coco17", 40, 2)))[clip.confidence > 0].max() < 0.01  # in the order of idx
    assert im.alphapose_clip(path, fps=30, layout="h36m17").layout == "h36m17"  # what the user says, if it fits
    with pytest.raises(ParameterError, match="18 joints, the file 17"):
        im.alphapose_clip(path, fps=30, layout="openpose18")
    dump(path, [e | {"idx": [e["idx"]]} for e in entries])
    assert np.array_equal(im.alphapose_clip(path, fps=30).xyz, clip.xyz)


def test_picture_names(tmp_path):
    entry = json.loads(im.forge_alphapose(tmp_path / "a.json", persons=1).read_text())[0]

    def names(*names):
        return im.alphapose_clip(dump(tmp_path / "a.json", [entry | {"image_id": n} for n in names]), fps=30)

    assert len(names("take2_009.jpg", "take2_010.jpg", "take2_012.jpg")) == 4 and len(names("a/7.png", "a\\8.png")) == 2
    for wrong, what in ((("a.jpg",), "no number"), (("cam1_3.jpg", "cam2_3.jpg"), "the same number"), ((None,), "no frame number")):
        with pytest.raises(DataError, match=what):
            names(*wrong)


def test_coco_results_and_annotations(tmp_path):
    truth = picture(actors("coco17", 40, 2, 6))
    results = im.coco_clip(im.forge_coco(tmp_path / "a.json", seed=6), fps=30)
    marks = im.coco_clip(im.forge_coco(tmp_path / "b.json", seed=6, annotations=True), fps=30)
    for clip in (results, marks):
        assert as_one_of(clip.xyz, truth, clip.confidence > 0) < 0.01 and clip.layout == "coco17"
    (tmp_path / "b.json").write_text((tmp_path / "b.json").read_text().replace('"right_hip"', '"hip"'))
    assert im.coco_clip(tmp_path / "b.json", fps=30).layout == "coco17"  # 17 joints of COCO's container, whatever their names
    (tmp_path / "b.json").write_text((tmp_path / "b.json").read_text().replace('"keypoints": ["nose"', '"names": ["nose"'))
    assert im.coco_clip(tmp_path / "b.json", fps=30).layout == "coco17"
    assert marks.image_size == (1280, 720) and set(np.unique(marks.confidence)) == {0, 1}


def test_coco_damage(tmp_path):
    good = json.loads(im.forge_coco(tmp_path / "a.json", annotations=True).read_text())
    marks = good["annotations"]
    for value, what in (
        ({}, "images and annotations"),
        ([], "image_id"),
        (good | {"annotations": []}, "nobody"),
        (good | {"annotations": [marks[0] | {"image_id": 9}]}, "not listed"),
        (good | {"annotations": [marks[0] | {"keypoints": [1, 2]}]}, "2 numbers"),
        (good | {"annotations": [marks[0], marks[1] | {"keypoints": [1, 2, 3]}]}, "17 joints"),
        ([{"image_id": 1}], "no keypoints"),
        (good | {"images": [{"id": 4.5}]}, "frame number"),
    ):
        with pytest.raises(DataError, match=what):
            im.coco_clip(dump(tmp_path / "a.json", value), fps=30)


def test_mmpose(tmp_path):
    truth = picture(actors("coco17", 40, 2, 7))
    named = im.mmpose_clip(im.forge_mmpose(tmp_path / "a.json", seed=7), fps=30)
    assert named.layout == "coco17" and as_one_of(named.xyz, truth, named.confidence > 0) < 0.01
    bare = im.forge_mmpose(tmp_path / "b.json", seed=7, meta=False)
    with pytest.raises(ParameterError, match="layout"):
        im.mmpose_clip(bare, fps=30)
    assert np.array_equal(im.mmpose_clip(bare, fps=30, layout="coco17").xyz, named.xyz)


def test_mmpose_lifted_whole_body_and_damage(tmp_path):
    people = actors("h36m17", 6)
    lifted = [[{"keypoints": (p * [1, -1, -1])[:, [0, 2, 1]].tolist()}] for p in people.xyz[:, 0] * [1, -1, 1]]
    path = dump(tmp_path / "a.json", lifted)
    with pytest.raises(ParameterError, match="layout, fps, units, up"):
        im.mmpose_clip(path)
    assert im.mmpose_clip(path, layout="h36m17", fps=30, units="m", up="z").units == "m"
    whole = [{"frame_id": 0, "instances": [{"keypoints": [[1.0 + v, 2.0 * v] for v in range(133)], "keypoint_scores": [0.5] * 133}]}]
    assert im.mmpose_clip(dump(path, whole), fps=30).xyz.shape == (1, 1, 17, 2)
    one = whole[0]["instances"][0]
    for value, what in (
        ({}, "instance_info"),
        ([3], "instances"),
        ([[]], "nobody"),
        ([[{"keypoints": [1, 2]}]], "neither"),
        ([[one | {"keypoint_scores": [1]}]], "133 keypoints and 1 scores"),
        ([{"frame_id": "x", "instances": []}], "frame number"),
    ):
        with pytest.raises(DataError, match=what):
            im.mmpose_clip(dump(path, value), fps=30)


def test_json_that_is_none(tmp_path):
    path = tmp_path / "a.json"
    for data in (b"", b"{", b"\xff\xfe\x00", b"1" * 5000, b"[" * 5000, b'{"a": 1}\n{'):
        path.write_bytes(data)
        with pytest.raises(DataError):
            im.load_json(path)
    with pytest.raises(DataError):
        im.load_json(tmp_path)


# recognition and bad input


def test_recognition(tmp_path):
    for forge in (im.forge_mediapipe, im.forge_alphapose, im.forge_coco, im.forge_mmpose):
        name = forge.__name__.removeprefix("forge_")
        path = forge(tmp_path / f"{name}.json")
        assert im.recognise_detector(path) == name
        assert len(list(getattr(im, f"read_{name}")(path, **({} if name == "mediapipe" else {"fps": 30})))) == 1
        others = {n for n in CLIP if getattr(im, f"recognise_{n}")(path)}
        assert others == {name}
    assert im.recognise_detector(im.forge_coco(tmp_path / "c.json", annotations=True)) == "coco"
    for other in (
        '{"data": [{"frame_index": 1, "skeleton": [{"pose": [0.1], "score": [0.2]}]}], "label": "a"}',
        "",
        '{"K": 1, "frames": []}',
    ):
        (tmp_path / "o.json").write_text(other)
        assert im.recognise_detector(tmp_path / "o.json") is None
    assert im.recognise_detector(tmp_path / "none.json") is None and im.recognise_detector(tmp_path) is None
    with pytest.raises(DataError, match="no mmpose recording"):
        im.find_mmpose(tmp_path / "none")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "frames",
                    "landmarks",
                    "pose_landmarks",
                    "x",
                    "y",
                    "z",
                    "image_id",
                    "keypoints",
                    "instances",
                    "frame_id",
                    "fps",
                    "idx",
                    "instance_info",
                    "meta_info",
                    "keypoint_scores",
                    "images",
                    "annotations",
                    "people",
                    "timestamp",
                    "id",
                    "poses",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=25,
)


@QUICK
@given(value=JSON)
def test_fuzz_values(value, tmp_path_factory):
    path = dump(tmp_path_factory.getbasetemp() / "fuzz.json", value)
    im.recognise_detector(path)
    for clip in CLIP.values():
        try:
            assert math.isfinite(clip(path, fps=30, units="px", image_size=(9, 9)).xyz.sum())
        except SkelnbError as e:
            assert str(e.file) == str(path) or isinstance(e, ParameterError)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    made = [
        im.forge_mediapipe(folder / "mediapipe.json", frames=4),
        im.forge_alphapose(folder / "alphapose.json", frames=4),
        im.forge_coco(folder / "coco.json", frames=4, annotations=True),
        im.forge_mmpose(folder / "mmpose.json", frames=4),
    ]
    return {p.stem: p.read_bytes() for p in made}


@QUICK
@given(data=st.data(), name=st.sampled_from(list(CLIP)))
def test_fuzz_bytes(good, data, name, tmp_path_factory):
    raw = bytearray(good[name])
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw)))]
    for _ in range(data.draw(st.integers(0, 4)) if raw else 0):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.sampled_from(list(b'0123456789.e-+,:"[]{}n\x00\xff')))
    path = tmp_path_factory.getbasetemp() / "bytes.json"
    path.write_bytes(raw)
    im.recognise_detector(path)
    try:
        CLIP[name](path, fps=30)
    except SkelnbError:
        pass


@pytest.mark.parametrize("keypoints", [[[1, 2, 3], 4.0, 5], [[1, 2, 3], {"x": 1}], [{"x": 1}, [1, 2, 3]], [[[1, 2], 3], 4]])
def test_keypoints_half_in_lists(tmp_path, keypoints):  # found by fuzzing
    path = tmp_path / "take.json"
    path.write_text(json.dumps([{"image_id": "0.jpg", "category_id": 1, "keypoints": keypoints, "score": 1.0}]))
    with pytest.raises(DataError, match="take.json"):
        im.alphapose_clip(path, fps=30)
