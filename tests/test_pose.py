"""The front door: recognises, asks, reads; nothing is guessed."""

import pickle

import numpy as np
import pytest

from skelnb.data.clip import Clip
from skelnb.data.detections import actors
from skelnb.data.pose import FORMATS, find_pose, read_pose, recognise_pose
from skelnb.data.store import SkeletonStore
from skelnb.errors import DataError, ParameterError
from skelnb.topology import layout

ENDS = {"openpose": "", "bvh": ".bvh", "c3d": ".c3d", "table": ".csv"}
ANSWERS = {
    "mediapipe": {},
    "openpose": dict(fps=30),
    "alphapose": dict(fps=30),
    "coco": dict(fps=30),
    "mmpose": dict(fps=30),
    "bvh": dict(layout="kinect_v2", units="cm"),
    "c3d": dict(layout="kinect_v2"),
    "table": dict(layout="kinect_v2", fps=30, units="m", up="y"),
}


@pytest.fixture(params=list(FORMATS))
def take(request, tmp_path):
    return request.param, FORMATS[request.param].forge(tmp_path / f"take{ENDS.get(request.param, '.json')}", frames=20)


def test_three_lines(tmp_path):
    FORMATS["mediapipe"].forge(tmp_path / "take.json")
    clip = read_pose(tmp_path / "take.json", layout="mediapipe33")
    clip = clip.to("kinect_v2")
    assert isinstance(clip, Clip) and clip.xyz.shape == (40, 1, 25, 3) and (clip.units, clip.up, clip.fps) == ("m", "y", 30)
    v = layout("kinect_v2").index
    assert clip.observed[v("knee_left")] and not clip.observed[v("spine_mid")]
    height = clip.xyz[:, 0, v("head"), 1] - clip.xyz[:, 0, v("foot_left"), 1]
    assert ((1.2 < height) & (height < 2)).all()


def test_every_format_is_recognised_and_read(take):
    kind, path = take
    assert recognise_pose(path) == kind
    clip = read_pose(path, **ANSWERS[kind])
    assert len(clip) == 20 and clip.name == "take" and clip.fps == 30 and clip.present.any(1).all()
    assert clip.check() is clip and clip.units == ("m" if kind in ("mediapipe", "bvh", "c3d", "table") else "px")
    assert np.array_equal(read_pose(path, format=kind, name="mine", **ANSWERS[kind]).xyz, clip.xyz)


def test_every_format_asks_for_what_it_lacks(take):
    kind, path = take
    for missing in ANSWERS[kind]:
        with pytest.raises(ParameterError, match=f"does not say.*{missing}") as e:
            read_pose(path, **{k: v for k, v in ANSWERS[kind].items() if k != missing})
        assert f"{missing}:" in e.value.remedy


def test_two_people_stay_two_people(tmp_path):
    for kind in ("openpose", "alphapose", "coco", "mmpose", "mediapipe"):
        path = FORMATS[kind].forge(tmp_path / f"{kind}{ENDS.get(kind, '.json')}", persons=2, frames=60)
        clip = read_pose(path, units="px", image_size=(1280, 720), **ANSWERS[kind])
        shift = np.abs(np.diff(clip.xyz[..., :2].mean(2), axis=0)).max()
        apart = np.abs(clip.xyz[:, 0, :, 0].mean(1) - clip.xyz[:, 1, :, 0].mean(1)).min()
        assert clip.xyz.shape[1] == 2 and shift < 60 < apart, kind


def test_sources_and_a_store(tmp_path):
    for seed in range(3):
        FORMATS["bvh"].forge(tmp_path / f"take_{seed}.bvh", seed=seed, frames=12)
    (tmp_path / "notes.txt").write_text("hello")
    source = find_pose(tmp_path, layout="kinect_v2", units="cm", fps=None)
    assert recognise_pose(tmp_path) == "bvh" and len(source) == 3 and source.format == "bvh"
    store = SkeletonStore.write(tmp_path / "store", source.clips(), **source.store)
    assert [store[i].name for i in range(3)] == ["take_0", "take_1", "take_2"]
    assert source.notes == ("files of other kinds were left out: 1",)
    assert [c.name for c in pickle.loads(pickle.dumps(source)).clips()] == ["take_0", "take_1", "take_2"]  # workers can read it
    with pytest.raises(DataError, match="folder of bvh takes"):
        read_pose(tmp_path, layout="kinect_v2", units="cm")
    with pytest.raises(ParameterError, match="joints"):
        find_pose(FORMATS["mediapipe"].forge(tmp_path / "a.json"), joints={})


def test_a_single_frame_of_openpose_is_explained(tmp_path):
    path = FORMATS["openpose"].forge(tmp_path / "take", frames=3)
    with pytest.raises(DataError, match="one frame of OpenPose.*\n.*folder"):
        read_pose(sorted(path.iterdir())[0], fps=30)


def test_unknown_things(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("[[0, 1]]")
    with pytest.raises(DataError, match="no recording of a known format(.|\n)*bvh: BVH"):
        read_pose(tmp_path / "a.json")
    with pytest.raises(DataError, match="no such file"):
        read_pose(tmp_path / "b.json")
    with pytest.raises(ParameterError, match="format = 'ntu'"):
        read_pose(tmp_path / "a.json", format="ntu")
    with pytest.raises(ParameterError, match="joints"):
        read_pose(tmp_path / "a.json", format="coco", joints={"a": "b"})
    flat = [[v for p in actors("mediapipe33", 4).xyz[t, 0] for v in map(float, p)] for t in range(4)]
    (tmp_path / "a.json").write_text(str(flat))
    assert read_pose(tmp_path / "a.json", layout="mediapipe33", units="m", fps=30).xyz.shape == (4, 1, 33, 3)
    assert recognise_pose(tmp_path / "none") is None
    monkeypatch.setattr(type(tmp_path), "iterdir", lambda self: (_ for _ in ()).throw(PermissionError(13, "no")))
    assert recognise_pose(tmp_path) is None


def test_motion_capture_of_the_data_folder_can_go_there_and_back(recordings, tmp_path):
    from skelnb.data.packed import read_packed
    from skelnb.data.tables import write_table

    clip = next(read_packed(recordings / "skeletons" / "hdm05.npz"))
    back = read_pose(write_table(tmp_path / "a.csv", clip))
    assert np.array_equal(back.xyz, clip.xyz) and (back.name, back.label, back.subject) == (clip.name, clip.label, clip.subject)
    assert np.array_equal(back.observed, clip.observed)
