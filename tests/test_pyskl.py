"""Sets of PYSKL and MMAction2: read, written, forged."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from conftest import make_clip
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.data import ntu
from skelnb.data.pyskl import GOLDEN, find_pyskl, forge_pyskl, read_pyskl, recognise_pyskl, write_pyskl
from skelnb.data.store import SkeletonStore
from skelnb.errors import DataError, LayoutError, ParameterError, SkelnbError


def annotation(name="S001C001P001R001A001", label=0, T=4, M=1, V=25, C=3, **known):
    rng = np.random.default_rng(1)
    keypoint = (rng.uniform(0.5, 3, (M, T, V, C)) * (1 if C == 3 else 100)).astype(np.float16)
    record = {"frame_dir": name, "label": label, "total_frames": T, "keypoint": keypoint}
    if C == 2:
        record |= {"keypoint_score": np.full((M, T, V), 0.5, np.float16), "img_shape": (1080, 1920), "original_shape": (1080, 1920)}
    return record | known


def save(path, *annotations, split=None, protocol=4):
    path.write_bytes(pickle.dumps({"split": split or {}, "annotations": list(annotations)}, protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_3d_as_published(tmp_path, protocol):
    a, b = annotation(), annotation("S020C003P008R002A120", 119, M=2)
    split = {"xsub_train": [a["frame_dir"]], "xsub_val": [b["frame_dir"]], "xset_train": [], "xset_val": [a["frame_dir"]]}
    source = find_pyskl(save(tmp_path / "ntu120_3danno.pkl", a, b, split=split, protocol=protocol))
    first, second = source.clips()
    assert first.xyz.shape == (4, 1, 25, 3) and second.xyz.shape == (4, 2, 25, 3) and first.xyz.dtype == np.float32
    assert np.array_equal(second.xyz, b["keypoint"].transpose(1, 0, 2, 3)) and second.xyz.flags["C_CONTIGUOUS"]
    assert (first.layout, first.fps, first.units, first.up, first.confidence) == ("kinect_v2", 30, "m", "y", None)
    assert (second.subject, second.camera, second.setup, second.label) == ("8", "3", "20", ntu.ACTIONS[119])
    assert first.label == "drink water" and source.store["classes"] == ntu.ACTIONS and source.store["persons"] == 2
    parts = {column: [rule(first), rule(second)] for column, rule in source.store["splits"].items()}
    assert parts == {"xsub": ["train", "test"], "xset": ["test", ""]}
    store = SkeletonStore.write(tmp_path / "store", source.clips(), **source.store)
    assert len(store) == 2 and store.classes == ntu.ACTIONS and store.split("xsub", "test").tolist() == [1]


def test_2d_as_published(tmp_path):
    a = annotation(M=2, V=17, C=2)
    a["keypoint_score"][1] = 0
    a["keypoint_score"][0, 2, 3] = 0
    a["keypoint"][0, 1, 4, 0] = np.nan
    clip, = read_pyskl(save(tmp_path / "ntu60_hrnet.pkl", a), dimensions=2)
    assert (clip.layout, clip.units, clip.up, clip.image_size, clip.xyz.shape) == ("coco17", "px", "-y", (1920, 1080), (4, 2, 17, 2))
    assert not clip.xyz[:, 1].any() and not clip.xyz[2, 0, 3].any() and not clip.xyz[1, 0, 4].any() and clip.confidence[1, 0, 4] == 0
    assert np.array_equal(clip.xyz[0, 0], a["keypoint"][0, 0]) and clip.confidence[0, 0].tolist() == [0.5] * 17


def test_other_sets(tmp_path):
    a, b = annotation("v_1", 3, V=17, C=2), annotation("v_2", np.int64(1), V=17, C=2, M=5)
    file = save(tmp_path / "ucf101_hrnet.pkl", a, b, split={"train1": ["v_1"], "test1": ["v_2"], "odd": ["v_1"], "name_train": ["v_9"]})
    source = find_pyskl(file, fps=25)
    first, second = source.clips()
    assert source.store["classes"] == ("0", "1", "2", "3") and [first.label, second.label] == ["3", "1"] and first.fps == 25
    splits = source.store["splits"]
    assert [splits["split1"](second), splits["odd"](first), splits["name_split"](first)] == ["test", "in", ""]
    assert source.notes == ("split 'name_train' names 1 clips that are not in the file",)
    with pytest.raises(DataError, match="does not say its fps"):
        find_pyskl(file)
    with pytest.raises(DataError, match="does not say its up"):
        find_pyskl(save(tmp_path / "x.pkl", annotation("a", V=17)), layout="h36m17", fps=50)
    clip, = read_pyskl(tmp_path / "x.pkl", layout="h36m17", fps=50, up="z")
    assert (clip.up, clip.layout, clip.units) == ("z", "h36m17", "m")
    clip, = read_pyskl(save(tmp_path / "x.pkl", annotation("a", V=18, C=2)), fps=30)
    assert clip.layout == "openpose18"
    old = annotation()
    old["filename"] = old.pop("frame_dir")
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([old]))  # before PYSKL: a list, without splits
    assert find_pyskl(tmp_path / "list.pkl").store["splits"] == {} and next(read_pyskl(tmp_path / "list.pkl")).name == old["filename"]


@pytest.mark.parametrize("change, what", [
    ({"frame_dir": None}, "has no frame_dir"), ({"keypoint": [1, 2]}, "has no keypoint"),
    ({"keypoint": np.zeros((4, 25, 3))}, "has no keypoint"),
    ({"keypoint": np.full((1, 4, 25, 3), "a")}, "has no keypoint"), ({"label": -1}, "has label -1"), ({"label": "0"}, "has label '0'"),
    ({"label": [0, 1]}, "has a list as its label"), ({"label": 10**9}, "has label 1000000000"),
    ({"total_frames": 5}, "4 frames in keypoint"),
    ({"keypoint": np.ones((4, 1, 25, 3), np.float16)}, "persons first"),
    ({"keypoint_score": np.ones((1, 4))}, "keypoint_score that is not"),
    ({"img_shape": 7}, "img_shape"), ({"img_shape": (7.5, 3)}, "img_shape"), ({"label": 1}, "its name says action 1, which is label 0"),
    ({"keypoint": np.ones((1, 4, 20, 3), np.float16)}, "before it 25 joints in 3D"),
    ({"keypoint": np.ones((1, 4, 25, 4), np.float16)}, "has keypoint|holds 4D"),
    ({"frame_dir": "S001C001P001R001A002", "label": 1}, "two annotations of the clip"),
])
def test_what_is_wrong_with_an_annotation(tmp_path, change, what):
    file = save(tmp_path / "ntu60_3danno.pkl", annotation("S001C001P001R001A002", 1), annotation() | change)
    with pytest.raises(DataError, match=what) as e:
        find_pyskl(file)
    assert "ntu60_3danno.pkl" in str(e.value) and ("annotations[1]" in str(e.value) or "two annotations" in what)


@pytest.mark.parametrize("whole, what", [
    ({"a": 1}, "no list of annotations, but a"), ([], "a list"), (3, "a int"), ({"annotations": []}, "no list"),
    ({"annotations": [3]}, "no list"),
    ({"annotations": [{}], "split": [1]}, "dictionary of lists of names"),
    ({"annotations": [{}], "split": {"a": [1]}}, "dictionary of lists"),
    ({"annotations": [{}], "split": {3: []}}, "dictionary of lists"), ({"annotations": [{"raw_file": "kp/1.pkl"}]}, "kpfiles .* kp/1.pkl"),
    ({"annotations": [annotation(C=4)]}, "holds 4D skeletons"), ({"annotations": [annotation(V=25, C=2)]}, "known: kinect_v2, body25"),
    ({"annotations": [annotation(V=7, C=2)]}, "none with so many"), ({"annotations": [annotation()], "split": {
        "x_train": ["S001C001P001R001A001"], "x_val": ["S001C001P001R001A001"]}}, "two parts of 'x'"),
])
def test_what_is_wrong_with_a_set(tmp_path, whole, what):
    (tmp_path / "ntu60.pkl").write_bytes(pickle.dumps(whole))
    with pytest.raises(DataError, match=what):
        find_pyskl(tmp_path / "ntu60.pkl")


def test_layouts_are_asked_for_and_dimensions_named(tmp_path):
    two, three = save(tmp_path / "two.pkl", annotation(V=17, C=2)), save(tmp_path / "three.pkl", annotation())
    with pytest.raises(DataError, match="known: coco17, h36m17, unik17"):
        find_pyskl(two)
    assert next(read_pyskl(two, layout="h36m17")).layout == "h36m17"
    with pytest.raises(LayoutError, match="did you mean"):
        find_pyskl(two, layout="coco18")
    with pytest.raises(DataError, match="holds 3D skeletons, 2D were asked for"):
        find_pyskl(three, dimensions=2)
    with pytest.raises(DataError, match="holds 2D skeletons, 3D were asked for"):
        find_pyskl(two, dimensions=3)
    with pytest.raises(DataError, match="x, y and the score"):
        find_pyskl(save(tmp_path / "xys.pkl", annotation(V=17, img_shape=(1080, 1920))), layout="coco17")
    with pytest.raises(DataError, match="has 25 joints, but layout 'coco17' has 17"):
        next(read_pyskl(three, layout="coco17", up="y"))


def test_empty_frames(tmp_path):
    a = annotation()
    a["keypoint"][:, 1] = 0
    file = save(tmp_path / "ntu60.pkl", a)
    assert len(next(read_pyskl(file))) == 4 and len(next(read_pyskl(file, empty="drop"))) == 3
    with pytest.raises(DataError, match="nobody is there"):
        next(read_pyskl(file, empty="error"))
    a["keypoint"][:] = 0
    assert list(read_pyskl(save(file, a), empty="drop")) == []


def test_files_that_changed_are_noticed(tmp_path):
    file = save(tmp_path / "ntu60.pkl", annotation(T=50))
    source = find_pyskl(file)
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(DataError, match="cannot be read"):
        list(source.clips())


def test_forged(tmp_path):
    three, two = forge_pyskl(tmp_path / "ntu60_3danno.pkl"), forge_pyskl(tmp_path / "ntu60_hrnet.pkl", dimensions=2, clips=6)
    assert recognise_pyskl(three) == recognise_pyskl(two) == "pyskl" and not three.with_suffix(".json").exists()
    source = find_pyskl(three)
    store = SkeletonStore.write(tmp_path / "store", source.clips(), **source.store)
    assert set(store.table.xsub) == set(store.table.xview) == {"train", "test"} and store.classes == ntu.ACTIONS[:60]
    assert [ntu.cross_subject(c) for c in store] == store.table.xsub.tolist()
    assert [ntu.cross_view(c) for c in store] == store.table.xview.tolist()
    theirs = pickle.loads(three.read_bytes())  # our own file: any unpickler may read it
    assert [a["frame_dir"] for a in theirs["annotations"]] == store.table.name.tolist() and len(theirs["split"]["xsub_val"]) == 6
    shapes = {a["keypoint"].shape[0]: a["keypoint"].dtype for a in theirs["annotations"]}
    assert shapes == {1: np.float16, 2: np.float16}
    clips = list(read_pyskl(two))
    assert all(((c.xyz >= 0) & (c.xyz <= (1920, 1080))).all() and (c.confidence >= 0.5).all() for c in clips)
    assert forge_pyskl(tmp_path / "again.pkl").read_bytes() == three.read_bytes()
    assert forge_pyskl(tmp_path / "other.pkl", seed=1).read_bytes() != three.read_bytes()
    assert GOLDEN["ntu60"]["xsub"] == {"train": 40091, "test": 16487} and GOLDEN["ntu120"]["clips"] == 113945


def test_many_processes(tmp_path):
    source = find_pyskl(forge_pyskl(tmp_path / "ntu60_3danno.pkl", clips=6))
    assert all(np.array_equal(a.xyz, b.xyz) and a.name == b.name for a, b in zip(source.clips(), source.clips(workers=2), strict=True))


def test_round_trip(tmp_path):
    clips = [make_clip(f"c{i}", 5 + i, 2, i, label="wave" if i % 2 else "bow") for i in range(4)]
    clips[0].xyz[:, 1] = clips[1].xyz[:, 0] = 0
    store = SkeletonStore.write(tmp_path / "store", clips, splits={"split": ["train", "test", "train", "val"], "fold": list("abab")})
    source = find_pyskl(write_pyskl(tmp_path / "out.pkl", store))
    back = list(source.clips())
    assert [(c.name, c.label, c.fps, c.layout) for c in back] == [(c.name, c.label, 30, "kinect_v2") for c in clips]
    assert [c.xyz.shape[1] for c in back] == [1, 1, 2, 2]
    for original, read in zip((clips[0].xyz[:, :1], clips[1].xyz[:, 1:], clips[2].xyz, clips[3].xyz), back):
        assert np.abs(original - read.xyz).max() <= 0.002 and np.array_equal(read.xyz, original.astype(np.float16))
    again = SkeletonStore.write(tmp_path / "again", source.clips(), **source.store)
    assert again.classes == store.classes and again.frames.shape == store.frames.shape
    assert again.table.split.tolist() == ["train", "test", "train", "val"] and again.table.fold_a.tolist() == ["in", "", "in", ""]


@pytest.mark.parametrize("low, error", [(0.5, 0.25), (1, 0.5), (2, 1), (4, 2)])
def test_the_loss_is_what_is_stated(tmp_path, low, error):
    xyz = np.random.default_rng(0).uniform(low, 2 * low, (200, 1, 25, 3)).astype(np.float32)
    clip = replace(make_clip("S001C001P001R001A001", 200, label="drink water"), xyz=xyz)
    back, = read_pyskl(write_pyskl(tmp_path / "x.pkl", [clip]))
    lost = 1000 * np.abs(back.xyz - xyz).max()
    assert 0.9 * error < lost <= error


def test_writing_2d(tmp_path):
    xy = np.random.default_rng(0).uniform(0.1, 0.9, (6, 1, 17, 2)).astype(np.float32)
    known = {"label": "7", "image_size": (640, 480), "up": "-y"}
    clip, px = make_clip("a"), make_clip("b")
    clip = replace(clip, xyz=xy, layout="coco17", units="image", confidence=np.full((6, 1, 17), 0.25), **known)
    px = replace(px, xyz=xy * (640, 480), layout="coco17", units="px", **known | {"label": "10"})
    back, = read_pyskl(write_pyskl(tmp_path / "a.pkl", [clip]))
    assert (back.units, back.image_size, back.confidence.max()) == ("px", (640, 480), 0.25) and np.abs(back.xyz - px.xyz).max() <= 0.25
    back, other = read_pyskl(write_pyskl(tmp_path / "b.pkl", [px, replace(px, name="c", label="7")], splits={"xsub": lambda c: "test"}))
    assert find_pyskl(tmp_path / "b.pkl").store["classes"] == ("7", "10")
    assert back.confidence.all() and (back.label, other.label) == ("10", "7")
    assert pickle.loads((tmp_path / "b.pkl").read_bytes())["split"] == {"xsub_val": ["b", "c"]}
    with pytest.raises(DataError, match="without the size of its image"):
        write_pyskl(tmp_path / "c.pkl", [replace(px, image_size=None)])


@pytest.mark.parametrize("change, options, what", [
    ({"label": None}, {}, "has no label"), ({"label": "x"}, {"classes": ["y"]}, "not among the classes"), ({"fps": 25},
    {}, "not like the clips"),
    ({"xyz": np.full((3, 1, 25, 3), 1e6)}, {}, "half precision ends at 65504"), ({"xyz": np.full((3, 1, 25, 3), np.nan)}, {}, "NaN"),
    ({}, {"splits": {"s": ["train"]}}, "has 1 parts"), ({}, {"splits": {"s": ["train"] * 5}}, "has 5 parts"),
])
def test_what_cannot_be_written_leaves_nothing(tmp_path, change, options, what):
    clips = [make_clip("a", 3, label="x" if not options.get("classes") else "y"), replace(make_clip("b", 3, label="x"), **change)]
    with pytest.raises((DataError, ParameterError), match=what):
        write_pyskl(tmp_path / "out.pkl", clips, **options)
    with pytest.raises(DataError, match="no clip to write"):
        write_pyskl(tmp_path / "out.pkl", [])
    assert list(tmp_path.iterdir()) == []


def test_absent_people_are_kept_when_nobody_is_there(tmp_path):
    clip = replace(make_clip("a", 3, label="x"), xyz=np.zeros((3, 2, 25, 3)))
    back, = read_pyskl(write_pyskl(tmp_path / "x.pkl", [clip]))
    assert back.xyz.shape == (3, 1, 25, 3)


@pytest.mark.parametrize("text, what", [
    ('{"format": "pyskl", "fps": 0, "classes": ["x"]}', "as we write them"),
    ('{"format": "pyskl", "fps": 30, "classes": 3}', "as we write them"),
    ('{"format": "pyskl", "layout": "kinect_v2", "fps": 30, "classes": ["y"]}', "labels beyond the 1 classes"), ("{", "not valid JSON"),
    ('{"format": "pyskl", "layout": "nonsense", "fps": 30, "classes": ["x"]}', "no layout is called"),
])
def test_the_file_beside(tmp_path, text, what):
    file = write_pyskl(tmp_path / "x.pkl", [make_clip("a", label="x")], classes=["w", "x"])
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(SkelnbError, match=what):
        find_pyskl(file)
    (tmp_path / "x.json").write_text('{"about": "something else"}')
    assert find_pyskl(file, fps=30).store["classes"] == ("0", "1")


def test_recognise(tmp_path):
    save(tmp_path / "a.pkl", annotation(), split={"xsub_train": ["a"]}, protocol=0)
    (tmp_path / "b.pkl").write_bytes(pickle.dumps((["S001"], [0])))
    (tmp_path / "c.txt").write_bytes((tmp_path / "a.pkl").read_bytes())
    (tmp_path / "d.pkl").mkdir()
    (tmp_path / "e.pkl").write_bytes(pickle.dumps([annotation()]))
    found = {f: recognise_pyskl(tmp_path / f) for f in ("a.pkl", "b.pkl", "c.txt", "d.pkl", "e.pkl", "none.pkl")}
    assert found == {"a.pkl": "pyskl", "b.pkl": None, "c.txt": None, "d.pkl": None, "e.pkl": "pyskl", "none.pkl": None}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    file = forge_pyskl(tmp_path_factory.mktemp("fuzz") / "ntu60_hrnet.pkl", clips=2, dimensions=2)
    return file, file.read_bytes()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_sets(good, data):
    file, whole = good
    at = data.draw(st.integers(0, len(whole) - 1) | st.integers(0, 400))
    cut = data.draw(st.booleans())
    file.write_bytes(whole[:at] if cut else whole[:at] + data.draw(st.binary(min_size=1, max_size=4)) + whole[at + 1 :])
    recognise_pyskl(file)
    try:
        for clip in read_pyskl(file):
            assert clip.xyz.dtype == np.float32
    except SkelnbError as e:
        assert "ntu60_hrnet.pkl" in str(e)
