"""Kinetics-skeleton: OpenPose's JSON and ST-GCN's arrays."""

import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
from conftest import make_clip
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.data.kinetics import (
    GOLDEN,
    find_kinetics,
    forge_kinetics,
    kinetics_stgcn,
    read_kinetics,
    read_video,
    recognise_kinetics,
    stgcn_array,
)
from skelnb.data.store import SkeletonStore
from skelnb.errors import DataError, ParameterError, SkelnbError


def person(x, score, missing=()):
    "Somebody whose joints are at (x, y)."
    pose, scores = [], []
    for j in range(18):
        there = j not in missing
        pose += [x, 0.5 + j / 100] if there else [0.0, 0.0]
        scores.append(score if there else 0.0)
    return {"pose": pose, "score": scores}


def save(file, *frames, label="abseiling", **more):
    data = [{"frame_index": i, "skeleton": people} for i, people in frames]
    file.write_text(json.dumps({"data": data, "label": label, "label_index": 0} | more))
    return file


def test_a_video(tmp_path):
    weak, strong, third = person(0.1, 0.25), person(0.7, 0.5, missing=(4, 17)), person(0.3, 0.3)
    crowd = [person(0.9, 0.01 * k) for k in range(5)]
    file = save(tmp_path / "-2VX.json", (1, [weak, strong]), (2, [strong, weak, third]), (4, []), (5, [*crowd, strong]))
    clip = read_video(file)
    assert (clip.name, clip.label, clip.fps, clip.layout, clip.units, clip.up) == ("-2VX", "abseiling", 30, "openpose18", "image", "-y")
    assert clip.xyz.shape == (5, 2, 18, 2) and clip.image_size == (340, 256)
    assert np.allclose(clip.xyz[0, :, 0], [[0.7, 0.5], [0.1, 0.5]]) and np.allclose(clip.xyz[1, :, 0, 0],
    [0.7, 0.3])  # sorted in every frame
    assert not clip.present[2].any() and not clip.present[3].any()  # missing, and empty
    assert np.allclose(clip.xyz[4, :, 0, 0], 0.9) and np.allclose(clip.confidence[4, :, 0], [0.04, 0.03])  # of the first five
    assert not clip.xyz[0, 0, [4, 17]].any() and not clip.confidence[0, 0, [4, 17]].any() and clip.confidence[0, 0, 3] == 0.5
    assert len(read_video(file, empty="drop")) == 3
    with pytest.raises(DataError, match="nobody is there"):
        read_video(file, empty="error")
    everybody = read_video(file, persons=None)
    assert everybody.xyz.shape[1] == 6 and np.allclose(everybody.xyz[0, :2, 0, 0], [0.1, 0.7])
    assert read_video(file, persons=1).xyz.shape[1] == 1
    for persons in (0, 6, True):
        with pytest.raises(ParameterError, match="persons"):
            read_video(file, persons=persons)
    own = read_video(save(tmp_path / "own.json", (0, [weak]), label=None), first=0, fps=25, image_size=None)
    assert len(own) == 1 and own.fps == 25 and own.image_size is None and own.label is None
    assert read_video(save(tmp_path / "none.json")) is None
    nobody = read_video(save(tmp_path / "nobody.json", (1, []), (3, [])), persons=None)
    assert nobody.xyz.shape == (3, 1, 18, 2) and read_video(tmp_path / "nobody.json", empty="drop") is None


@pytest.mark.parametrize("video, what", [
    ([], "data: has no list of frames"), ({}, "data: has no list of frames"), ({"data": 3}, "no list of frames"),
    ({"data": [3]}, r"data\[0\]: frame_index is"),
    ({"data": [{"frame_index": 0, "skeleton": []}]}, r"data\[0\]: frame_index is not a number from 1 to 100000\n.*pass first=0"),
    ({"data": [{"frame_index": True, "skeleton": []}]}, "frame_index is not"),
    ({"data": [{"frame_index": 10**12, "skeleton": []}]}, "frame_index is not"),
    ({"data": [{"frame_index": 1, "skeleton": []}] * 2}, r"data\[1\]: frame_index comes twice"),
    ({"data": [{"frame_index": 1}]}, r"data\[0\].skeleton: has no list of people"),
    ({"data": [{"frame_index": 1, "skeleton": [1]}]}, r"skeleton\[0\]: is no person"),
    ({"data": [{"frame_index": 1, "skeleton": [{"pose": [1] * 35, "score": [1] * 18}]}]},
     r"skeleton\[0\].pose: is not a list of 36 numbers, but 35 entries"),
    ({"data": [{"frame_index": 1, "skeleton": [{"pose": [1] * 36, "score": None}]}]},
     r"score: is not a list of 18 numbers, but a NoneType"),
    ({"data": [{"frame_index": 1, "skeleton": [{"pose": ["1"] * 36, "score": [1] * 18}]}]}, "pose"),
    ({"data": [{"frame_index": 1, "skeleton": [{"pose": [float("nan")] * 36, "score": [1] * 18}]}]}, "pose"),
    ({"data": [{"frame_index": 1, "skeleton": [{"pose": [10**400] * 36, "score": [1] * 18}]}]}, "pose"),
    ({"data": [{"frame_index": 100_000, "skeleton": [person(0.1, 1)]}]}, "1 skeletons for 100000 frames"),
    ({"data": [], "label": 3}, "label: is a int"),
])
def test_what_is_wrong_with_a_video(tmp_path, video, what):
    file = tmp_path / "video.json"
    file.write_text(json.dumps(video))
    with pytest.raises(DataError, match=what) as e:
        read_video(file)
    assert str(e.value).startswith(str(file))


def test_the_set(tmp_path):
    source = find_kinetics(forge_kinetics(tmp_path / "set", clips=4))
    assert recognise_kinetics(tmp_path / "set") == "kinetics"
    assert len(source) == 6 and source.notes[0].startswith("2 videos have no skeleton")
    store = SkeletonStore.write(tmp_path / "store", source.clips(), **source.store)
    assert store.table.split.tolist() == ["train"] * 4 + ["test"] * 2
    assert store.classes == ("abseiling", "air drumming", "answering questions")
    assert store.layout.name == "openpose18" and store.units == "image" and store.up == "-y"
    assert np.array_equal(store[0].confidence, next(source.clips()).confidence) and store[0].image_size == (340, 256)
    assert store.table.name[0] == "forged00000" and not store[0].present[5].any() and not store[0].present[6].any()
    assert all(np.array_equal(a.xyz, b.xyz) for a, b in zip(source.clips(), source.clips(workers=2), strict=True))
    again, other = forge_kinetics(tmp_path / "again", clips=4), forge_kinetics(tmp_path / "other", clips=4, seed=1)
    texts = [(f / "kinetics_val" / "forged00005.json").read_bytes() for f in (tmp_path / "set", again, other)]
    assert texts[0] == texts[1] != texts[2]
    assert GOLDEN["kinetics"]["clips"] == sum(GOLDEN["kinetics"]["split"].values())


def test_one_part_alone(tmp_path):
    forge_kinetics(tmp_path)
    shutil.rmtree(tmp_path / "kinetics_train")
    (tmp_path / "kinetics_train_label.json").unlink()
    assert [c.name for c in read_kinetics(tmp_path)] == ["forged00006", "forged00007", "forged00008"]


def edit(file, change):
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


@pytest.mark.parametrize("file, change, what", [
    ("kinetics_train_label.json", lambda v: v.clear(), "is no list of labels"),
    ("kinetics_train_label.json", lambda v: v.update(x=3), "label.json, 'x': is not"),
    ("kinetics_train_label.json", lambda v: v["forged00001"].pop("has_skeleton"), "'forged00001': is not"),
    ("kinetics_train_label.json", lambda v: v["forged00001"].update(label_index=10**9), "'forged00001': is not"),
    ("kinetics_train_label.json", lambda v: v["forged00001"].update(label_index=0), "calls class 0 'air drumming', it was 'abseiling'"),
    ("kinetics_train_label.json", lambda v: v["forged00001"].update(label_index=7), "one name to two classes"),
    ("kinetics_train_label.json", lambda v: v.update(absent=v["forged00001"]), "1 of 10 videos are missing: kinetics_train/absent.json"),
    ("kinetics_train_label.json", lambda v: v.pop("forged00001"),
     "1 videos are not in kinetics_train_label.json, the first is 'forged00001'"),
    ("kinetics_train/forged00001.json", lambda v: v.update(label="abseiling"), "is 'abseiling', the list says 'air drumming'"),
])
def test_what_is_wrong_with_a_set(tmp_path, file, change, what):
    forge_kinetics(tmp_path)
    edit(tmp_path / file, change)
    with pytest.raises(DataError, match=what):
        list(read_kinetics(tmp_path))


def test_more_that_is_wrong_with_a_set(tmp_path):
    with pytest.raises(DataError, match="there is no Kinetics-skeleton"):
        find_kinetics(tmp_path)
    forge_kinetics(tmp_path)
    shutil.copy(tmp_path / "kinetics_train" / "forged00001.json", tmp_path / "kinetics_val")
    entry = {"has_skeleton": True, "label": "air drumming", "label_index": 1}
    edit(tmp_path / "kinetics_val_label.json", lambda v: v.update(forged00001=entry))
    with pytest.raises(DataError, match="'forged00001' is in both parts"):
        find_kinetics(tmp_path)


def test_a_class_without_a_video_is_its_number(tmp_path):
    forge_kinetics(tmp_path, clips=2)
    for name in ("forged00001", "empty_train"):
        edit(tmp_path / "kinetics_train_label.json", lambda v, name=name: v[name].update(label="zumba", label_index=4))
    edit(tmp_path / "kinetics_train" / "forged00001.json", lambda v: v.update(label="zumba"))
    assert find_kinetics(tmp_path).store["classes"] == ("abseiling", "1", "2", "3", "zumba")


def test_stgcn_array():
    xyz = np.random.default_rng(0).uniform(0.1, 0.9, (350, 3, 18, 2)).astype(np.float32)
    score = np.full((350, 3, 18), 0.5, np.float32)
    score[3, 1, 4] = 0
    clip = replace(make_clip(), xyz=xyz, layout="openpose18", units="image", up="-y", confidence=score)
    array = stgcn_array(clip)
    assert array.shape == (3, 300, 18, 2) and array.dtype == np.float32 and not array[:, 0].any()
    assert np.allclose(array[0, 1:, :, 1][:2], xyz[:2, 1, :, 0] - 0.5) and np.allclose(array[1, 299, :, 0], 0.5 - xyz[298, 0, :, 1])
    assert not array[:, 4, 4, 1].any() and array[2, 4, 4, 0] == 0.5
    assert stgcn_array(clip, first=0)[:, 0].any()
    preset = kinetics_stgcn(clip)
    assert preset.xyz.shape == (300, 2, 18, 2) and preset.up == "y" and np.array_equal(preset.xyz[..., 0], array[0].transpose(0, 2, 1))
    assert np.array_equal(preset.confidence, array[2].transpose(0, 2, 1))
    preset.check(allow_empty_frames=True)
    for wrong in (make_clip(), replace(clip, confidence=None), replace(clip, units="px")):
        with pytest.raises(ParameterError, match='it takes layout "openpose18"'):
            stgcn_array(wrong)


def test_arrays(tmp_path):
    json_, arrays = forge_kinetics(tmp_path / "json"), forge_kinetics(tmp_path / "arrays", arrays=True)
    assert np.load(arrays / "train_data.npy").shape == (6, 3, 300, 18, 2) and recognise_kinetics(arrays) == "kinetics"
    a, b = find_kinetics(json_), find_kinetics(arrays)
    assert b.store["classes"] == ("0", "1", "2") and b.store["persons"] == 2
    shutil.copy(json_ / "kinetics_train_label.json", arrays)
    b = find_kinetics(arrays)
    for x, y in zip(a.clips(), b.clips(), strict=True):
        assert (x.name, x.label, x.layout, x.units, x.up, x.image_size) == (y.name, y.label, y.layout, y.units, y.up, y.image_size)
        assert np.abs(x.xyz - y.xyz).max() < 1e-6 and np.array_equal(x.confidence, y.confidence)
        assert a.store["splits"]["split"](x) == b.store["splits"]["split"](y)
    store = SkeletonStore.write(tmp_path / "store", b.clips(), **b.store)
    assert len(store) == 9


def test_arrays_at_their_edges(tmp_path):
    array = np.zeros((2, 3, 300, 18, 2), np.float32)
    array[0, 2, 0], array[0, 2, 299] = 0.5, 0.5
    np.save(tmp_path / "val_data.npy", array)
    (tmp_path / "val_label.pkl").write_bytes(pickle.dumps((["a.json", "b"], np.array([1, 0]))))
    first, nobody = read_kinetics(tmp_path)
    assert len(first) == 300 and np.allclose(first.xyz[0], 0.5) and len(nobody) == 1 and not nobody.present.any()
    assert (first.name, first.label, nobody.name) == ("a", "1", "b")
    assert [c.name for c in read_kinetics(tmp_path, empty="drop")] == ["a"]


@pytest.mark.parametrize("labels, what", [
    ((["a"], [0]), "tuple of 2 names"), ((["a", "b"], [0, -1]), "tuple of 2 names"), ((["a", "b"], ["0", "1"]), "tuple of 2"),
    ([1, 2, 3], "tuple of 2"),
    ((["a", 3], [0, 1]), "tuple of 2"), (3, "tuple of 2"), ((["a", "a"], [0, 1]), "two rows have the same name"),
    ((["a", "b"], 7), "tuple of 2"),
])
def test_what_is_wrong_with_labels(tmp_path, labels, what):
    np.save(tmp_path / "train_data.npy", np.ones((2, 3, 300, 18, 2), np.float32))
    (tmp_path / "train_label.pkl").write_bytes(pickle.dumps(labels))
    with pytest.raises(DataError, match=what):
        find_kinetics(tmp_path)


def test_what_is_wrong_with_arrays(tmp_path):
    good = forge_kinetics(tmp_path, arrays=True)
    assert recognise_kinetics(tmp_path / "none") is None and recognise_kinetics(tmp_path / "train_data.npy") is None
    shutil.copy(good / "train_label.pkl", good / "val_label.pkl")
    shutil.copy(good / "train_data.npy", good / "val_data.npy")
    with pytest.raises(DataError, match="'forged00000' is in both parts"):
        find_kinetics(good)
    (good / "train_label.pkl").unlink()
    with pytest.raises(DataError, match="No such file"):
        find_kinetics(good)
    whole = (good / "val_data.npy").read_bytes()
    for data, what in ((whole[:-4], "cut off"), (whole.replace(b"(6, 3", b"(9**9, 3", 1), "cut off"),
    (whole.replace(b"<f4", b"<i4", 1), "type int32"),
                       (whole.replace(b"18, 2)", b"18, 0)", 1), "shape"),
                       (whole.replace(b"(6, 3, 300, 18, 2)", b"(8388608, 3, 300, 18, 2)", 1), "cut off")):
        (good / "train_data.npy").write_bytes(data)
        with pytest.raises(DataError, match=what):
            find_kinetics(good)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = forge_kinetics(tmp_path_factory.mktemp("fuzz"), clips=1)
    video = json.loads((folder / "kinetics_train" / "forged00000.json").read_text())
    video["data"] = video["data"][:2]
    return folder, json.dumps(video).encode()


def no_crash(read, name):
    try:
        list(read())
    except SkelnbError as e:
        assert name in str(e)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_videos(good, data):
    folder, whole = good
    at = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.booleans())
    (folder / "video.json").write_bytes(whole[:at] if cut else whole[:at] + data.draw(st.binary(min_size=1, max_size=3)) + whole[at + 1 :])
    no_crash(lambda: [read_video(folder / "video.json", persons=data.draw(st.sampled_from([None, 2])))], "video.json")


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
KEYS = st.sampled_from(["frame_index", "skeleton", "pose", "x"])
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner), max_leaves=6)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["data", "frame_index", "skeleton", "pose", "score", "label", "frame", "person"]), VALUES)
def test_odd_values(good, key, value):
    folder, whole = good
    video = json.loads(whole)
    if key in ("data", "label"):
        video[key] = value
    elif key in ("frame_index", "skeleton"):
        video["data"][0][key] = value
    elif key == "frame":
        video["data"][0] = value
    elif key == "person":
        video["data"][0]["skeleton"][0] = value
    else:
        video["data"][0]["skeleton"][0][key] = value
    (folder / "odd.json").write_text(json.dumps(video))
    no_crash(lambda: [read_video(folder / "odd.json")], "odd.json")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["kinetics_train_label.json", "kinetics_val_label.json"]), st.data())
def test_damaged_label_files(good, name, data):
    folder, _ = good
    whole = (folder / name).read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    try:
        (folder / name).write_bytes(whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + 1 :])
        recognise_kinetics(folder)
        no_crash(lambda: find_kinetics(folder).items, str(folder))
    finally:
        (folder / name).write_bytes(whole)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_arrays(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "fuzz_arrays"
    if not folder.exists():
        forge_kinetics(folder, clips=1, arrays=True)
    name = data.draw(st.sampled_from(["train_data.npy", "train_label.pkl"]))
    whole = (folder / name).read_bytes()
    at = data.draw(st.integers(0, 127))
    try:
        (folder / name).write_bytes(whole[:at] + data.draw(st.binary(max_size=3)) + whole[at + 1 :])
        recognise_kinetics(folder)
        no_crash(lambda: read_kinetics(folder), "fuzz_arrays")
    finally:
        (folder / name).write_bytes(whole)
