"""AimCLR's and AGCN's memory maps, USDRL's pickles: reading, labels, names, writing back, damage."""

import dataclasses
import pickle
import shutil
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.data import ntu, pku
from skelnb.data.memmaps import (
    find_agcn,
    find_aimclr,
    forge_agcn,
    forge_aimclr,
    forge_usdrl,
    read_agcn,
    read_aimclr,
    recognise_agcn,
    recognise_aimclr,
    said,
    write_agcn,
    write_aimclr,
)
from skelnb.data.npz import class_names
from skelnb.data.presets import aimclr, umurl
from skelnb.data.store import SkeletonStore
from skelnb.errors import DataError, DiskError, ParameterError, SkelnbError
from tests.conftest import make_clip


@pytest.fixture(scope="module")
def forged(tmp_path_factory):
    root = tmp_path_factory.mktemp("memmaps")
    forge_aimclr(root / "stage1")
    forge_aimclr(root / "stage2", stage=2)
    forge_agcn(root / "agcn")
    forge_usdrl(root / "usdrl")
    return root


@pytest.fixture
def copy(forged, tmp_path):
    return lambda name: shutil.copytree(forged / name, tmp_path / name)


def labels_of(folder, part="train"):
    return pickle.loads((folder / f"{part}_label.pkl").read_bytes())


def set_labels(folder, names, labels, part="train"):
    (folder / f"{part}_label.pkl").write_bytes(pickle.dumps((names, labels)))


def test_stage_1_as_published(forged):
    folder = forged / "stage1" / "xsub"
    assert sorted(f.name for f in folder.iterdir()) == ["train_data.npy", "train_label.pkl", "val_data.npy", "val_label.pkl"]
    data, (names, labels) = np.load(folder / "train_data.npy"), labels_of(folder)
    assert data.shape == (9, 3, 300, 25, 2) and data.dtype == np.float32 and not data.flags.f_contiguous
    assert names == sorted(names) and all(n.endswith(".skeleton") and int(n[17:20]) == label + 1 for n, label in zip(names, labels))
    assert all(int(n[9:12]) in ntu.TRAIN_PERFORMERS for n in names) and type(labels) is list and type(labels[0]) is int
    clips = list(read_aimclr(forged / "stage1"))
    assert [c.name + ".skeleton" for c in clips] == names + labels_of(folder, "val")[0]
    for clip, row, label in zip(clips, data, labels):
        assert np.array_equal(clip.xyz.transpose(3, 0, 2, 1), row[:, : len(clip)]) and not row[:, len(clip):].any()
        assert clip.label == ntu.ACTIONS[label] and (clip.subject, clip.setup) == (str(int(clip.name[9:12])), "1")
        assert (clip.fps, clip.layout, clip.units, clip.up) == (30, "kinect_v2", "m", "y")


def test_both_protocols_become_columns(forged):
    for name, read in (("stage1", find_aimclr), ("stage2", find_aimclr), ("agcn", find_agcn)):
        source = read(forged / name)
        clips = list(source.clips())
        assert len(clips) == 18 and {"xsub", "xview"} == set(source.store["splits"]) and source.store["classes"] == class_names(60)
        for column, rule in ntu.SPLITS["ntu60"].items():
            assert [source.store["splits"][column](c) for c in clips] == [rule(c) for c in clips]
        assert "the same clips are in xsub and xview; read from xsub" in source.notes
        one = read(forged / name / "xview")
        assert set(one.store["splits"]) == {"xview"} and {c.name for c in one.clips()} == {c.name for c in clips}
        assert any(note.startswith("holds 12 train + 6 test clips; the published ntu60 xview has 37646") for note in one.notes)


@pytest.mark.parametrize("kind, write, read", [("stage1", write_aimclr, find_aimclr), ("agcn", write_agcn, find_agcn),
                                               ("stage2", lambda *a, **k: write_aimclr(*a, stage=2, **k), find_aimclr)])
def test_round_trip_through_a_store_is_bit_equal(forged, tmp_path, kind, write, read):
    source = read(forged / kind)
    store = SkeletonStore.write(tmp_path / "store", source.clips(), **source.store)
    write(tmp_path / "xsub", store, "xsub")
    files = {f.name: f.read_bytes() for f in (forged / kind / "xsub").iterdir()}
    assert {f.name: f.read_bytes() for f in (tmp_path / "xsub").iterdir()} == files and len(files) >= 4
    for a, b in zip(source.clips(), store):
        assert np.array_equal(a.xyz, b.xyz) and a.name == b.name and a.label == b.label


def test_stage_2_as_published(forged):
    folder = forged / "stage2" / "xview"
    data, label = np.load(folder / "val_position.npy"), np.load(folder / "val_label.npy")
    assert data.shape == (6, 3, 50, 25, 2) and label.shape == (6, 1) and label.dtype == np.int64
    assert np.abs(data[:, :, :, 20]).max() < 1e-6  # every body has its own origin
    source = find_aimclr(folder)
    for clip, row in zip(list(source.clips())[12:], data):
        assert clip.xyz.shape == (50, 2, 25, 3) and np.array_equal(clip.xyz.transpose(3, 0, 2, 1), row)
    assert any("resized to 50 frames" in note for note in source.notes) and "there is no train part of xview" not in source.notes


def test_stage_2_keeps_its_empty_frames(tmp_path):
    clip = aimclr(make_clip("S001C001P001R001A002", 70, label="b"), 64)
    clip.xyz[60:] = 0
    folder = write_aimclr(tmp_path / "xsub", [clip], lambda c: "train", classes=["a", "b"], stage=2, frames=64)
    back, = read_aimclr(folder)
    assert np.array_equal(back.xyz[:, :1], clip.xyz[:, :1]) and len(back) == 64
    assert any("64 frames" in note for note in find_aimclr(folder).notes)


def test_agcn_as_published(forged):
    folder = forged / "agcn" / "xsub"
    data, lengths = np.load(folder / "train_data_joint.npy"), np.load(folder / "train_num_frame.npy")
    assert data.shape == (9, 3, 300, 25, 2) and lengths.shape == (9,) and lengths.dtype == np.int64
    assert np.abs(data[:, :, :, 1, 0]).max() < 1e-6 and data[:, :, :, :, 0].any((1, 3)).all()
    for clip, row, n in zip(read_agcn(folder), data, lengths):
        assert len(clip) == n and np.array_equal(clip.xyz.transpose(3, 0, 2, 1), row[:, :n])
        assert np.array_equal(row[:, n : 2 * n], row[:, :n])
    (folder / "train_num_frame.npy").rename(folder / "kept")
    (folder / "val_num_frame.npy").rename(folder / "kept_too")
    source = find_agcn(folder)
    assert all(len(c) == 300 for c in source.clips()) and any("no num_frame: all 300 frames" in note for note in source.notes)
    (folder / "kept").rename(folder / "train_num_frame.npy")
    (folder / "kept_too").rename(folder / "val_num_frame.npy")


def test_agcn_people_who_stand_along_z(copy):
    folder = copy("agcn") / "xsub"
    upright = {c.name: c for c in read_agcn(folder)}
    for file in folder.glob("*_data_joint.npy"):
        data = np.load(file)[:, [0, 2, 1]]
        data[:, 1] *= -1
        np.save(file, data)
    source = find_agcn(folder)
    assert any("people stand along z" in note for note in source.notes)
    for clip in source.clips():
        assert clip.up == "y" and np.array_equal(clip.xyz, upright[clip.name].xyz)


def test_folder_of_ntu_120(tmp_path):
    clips = [make_clip(f"S0{s}C001P001R001A{a:03d}", 20, label=ntu.ACTIONS[a - 1]) for s, a in ((17, 1), (18, 120), (19, 61))]
    write_agcn(tmp_path / "xsetup", clips, lambda c: "train" if int(c.name[1:4]) % 2 == 0 else "test", classes=ntu.ACTIONS)
    source = find_agcn(tmp_path)
    assert list(source.store["splits"]) == ["xset"] and source.store["classes"] == ntu.ACTIONS
    assert [(c.label, source.store["splits"]["xset"](c)) for c in source.clips()] == [
        (ntu.ACTIONS[119], "train"), (ntu.ACTIONS[0], "test"), (ntu.ACTIONS[60], "test")]


def test_names_of_pku(tmp_path):
    assert said("F002V001C010L003") == ("pku1", 10, {"camera": "L", "subject": None}) and said("A012N004V003C051L001")[0] == "pku2"
    clips = [make_clip(n, 9, label=pku.ACTIONS[said(n)[1] - 1]) for n in ("F002V001C010L003", "F003V003C051L001")]
    first, second = read_aimclr(write_aimclr(tmp_path / "pku_part1" / "xview", clips, lambda c: "test", classes=pku.ACTIONS))
    assert (first.label, first.camera, second.camera) == ("clapping" if pku.ACTIONS[9] == "clapping" else pku.ACTIONS[9], "L", "R")
    assert find_aimclr(tmp_path / "pku_part1").notes == ("there is no train part of xview",)


def plain(root, n=4, **labels):
    "A folder without telling names."
    clips = [make_clip(f"c{i}", 9, label=f"k{i}") for i in range(n)]
    return write_aimclr(root, clips, lambda c: "train", classes=[f"k{i}" for i in range(n)])


@pytest.mark.parametrize("path, labels, expected, noted", [
    ("pku_part1/xsub", [1, 2, 3, 51], ["bow", "brushing hair", "brushing teeth", "writing"], "count from 1"),
    ("pku_part2/xsub", [0, 1, 2, 50], ["bow", "brushing hair", "brushing teeth", "writing"], ""),
    ("NTU60/xsub", [1, 2, 3, 60], [*ntu.ACTIONS[:3], ntu.ACTIONS[59]], "count from 1"),
    ("NTU-RGB-D-120-AGCN/xsub", [1, 2, 3, 60], [*ntu.ACTIONS[1:4], ntu.ACTIONS[60]], ""),
    ("mine/xsub", [0, 1, 2, 3], ["action_001", "action_002", "action_003", "action_004"], "4 classes"),
    ("mine/xsub", [1, 2, 3, 51], ["bow", "brushing hair", "brushing teeth", "writing"], "count from 1"),
])
def test_where_labels_begin(tmp_path, path, labels, expected, noted):
    folder = plain(tmp_path / path)
    set_labels(folder, labels_of(folder)[0], labels)
    source = find_aimclr(folder)
    assert [c.label for c in source.clips()] == expected
    assert any(noted in note for note in source.notes)
    assert any("count from 1" in note for note in source.notes) == (noted == "count from 1")


def test_labels_that_do_not_fit_the_path(tmp_path):
    folder = plain(tmp_path / "ntu60" / "xsub")
    set_labels(folder, labels_of(folder)[0], [0, 1, 2, 60])
    with pytest.raises(DataError, match="label 60, but ntu60 has 60 classes"):
        find_aimclr(folder)


def test_labels_shifted_by_the_smallest(copy):
    "What stage 2 does where a class is missing: the names are followed."
    folder = copy("stage1") / "xsub"
    names, labels = labels_of(folder)
    set_labels(folder, names, [label + 1 for label in labels])
    source = find_aimclr(folder)
    assert [c.label for c in source.clips()][:9] == [ntu.ACTIONS[i] for i in labels]
    assert "the train labels count from 1 for the first action; the names were followed" in source.notes


def test_without_names(copy):
    root = copy("stage2")
    for file in root.rglob("*.pkl"):
        file.unlink()
    with pytest.raises(DataError, match="has no names.*\n.*name one of the folders"):
        find_aimclr(root)
    source = find_aimclr(root / "xsub")
    assert [c.name for c in source.clips()] == [f"train_{i:06d}" for i in range(9)] + [f"test_{i:06d}" for i in range(9)]
    assert [source.store["splits"]["xsub"](c) for c in source.clips()] == ["train"] * 9 + ["test"] * 9


def test_usdrl(forged, tmp_path):
    source = find_agcn(forged / "usdrl")
    clips = list(source.clips(workers=1))
    content = pickle.loads((forged / "usdrl" / "PKUv2_xsub_train.pkl").read_bytes())
    assert len(clips) == 12 and source.store["classes"] == pku.ACTIONS and min(content["label"]) == 1
    for clip, row, label, n in zip(clips, content["data"], content["label"], content["num_frames"]):
        assert len(clip) == n and np.array_equal(clip.xyz.transpose(3, 0, 2, 1), row[:, :n]) and clip.label == pku.ACTIONS[label - 1]
    assert [source.store["splits"]["xsub"](c) for c in clips] == ["train"] * 8 + ["test"] * 4 and clips[8].name == "test_000000"
    assert len(list(read_agcn(forged / "usdrl" / "PKUv2_xsub_val.pkl"))) == 4
    # one array, arrays as labels, counted from 0
    file = tmp_path / "PKUv2_xview_train.pkl"
    one = {"data": np.stack(content["data"]), "label": np.array(content["label"]) - 1, "num_frames": np.array(content["num_frames"])}
    for fortran in (False, True):
        one["data"] = np.asfortranarray(one["data"]) if fortran else one["data"]
        file.write_bytes(pickle.dumps(one))
        for a, b in zip(clips, read_agcn(file)):
            assert np.array_equal(a.xyz, b.xyz) and a.label == b.label
    (tmp_path / "PKUv2_xsub_train.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match="two protocols"):
        find_agcn(tmp_path)
    file.unlink()
    for change, message in (({"label": [99] * 8}, "label 99"), ({"label": [1]}, "8 clips, 1 labels"), ({"num_frames": [0] * 8}, "row 0.*0 frames of"),
                            ({"data": [np.zeros((2, 2))] * 8}, r"\(2, 2\)"), ({"data": 3}, "0 clips"), ({"label": ["a"] * 8}, "whole numbers"),
                            ({"data": content["data"][:7] + [content["data"][7] * np.nan]}, "clip 'train_000007'.*NaN")):
        (tmp_path / "PKUv2_xsub_train.pkl").write_bytes(pickle.dumps(content | change))
        with pytest.raises(DataError, match=message):
            print(list(change), len(list(read_agcn(tmp_path))))
    for nothing in ([], {"data": []}):
        (tmp_path / "PKUv2_xsub_train.pkl").write_bytes(pickle.dumps(nothing))
        with pytest.raises(DataError, match="no dict of data"):
            find_agcn(tmp_path)


def test_recognise(forged, tmp_path):
    assert recognise_aimclr(forged / "stage1") == recognise_aimclr(forged / "stage2" / "xview") == "aimclr"
    assert recognise_agcn(forged / "agcn") == recognise_agcn(forged / "usdrl") == recognise_agcn(forged / "usdrl" / "PKUv2_xsub_val.pkl") == "agcn"
    for other in ("agcn", "usdrl", "none"):
        assert recognise_aimclr(forged / other) is None
    for other in ("stage1", "stage2", "none"):
        assert recognise_agcn(forged / other) is None
    np.save(tmp_path / "train_data.npy", np.zeros((1, 3, 300, 18, 2), np.float32))  # Kinetics-skeleton as ST-GCN stores it
    assert recognise_aimclr(tmp_path) is None
    for find in (find_aimclr, find_agcn):
        with pytest.raises(DataError, match="there (are no clips|is no xsub)"):
            find(tmp_path / "none")
    with pytest.raises(DataError, match=r"is float32 \(1, 3, 300, 18, 2\)"):
        find_aimclr(tmp_path)


def test_gaps_stay_and_padding_goes(tmp_path):
    clip = make_clip("gap", 20, 2, label="a")
    clip.xyz[5:8] = 0
    clip.xyz[3:, 1] = 0
    clip.xyz[15:] = 0
    back, = read_aimclr(write_aimclr(tmp_path / "xsub", [clip], lambda c: "train", classes=["a"]))
    assert len(back) == 15 and np.array_equal(back.xyz, clip.xyz[:15]) and back.name == "gap"
    back, = read_agcn(write_agcn(tmp_path / "agcn" / "xsub", [clip], lambda c: "train", classes=["a"]))
    assert np.array_equal(back.xyz, clip.xyz)


def test_clips_that_show_nobody(copy):
    folder = copy("stage1") / "xsub"
    data = np.load(folder / "train_data.npy")
    data[2] = 0
    np.save(folder / "train_data.npy", data)
    name = labels_of(folder)[0][2].removesuffix(".skeleton")
    with pytest.raises(DataError, match=f"clip '{name}': shows nobody"):
        list(read_aimclr(folder))
    assert len(list(read_aimclr(folder, empty="drop"))) == 17
    with pytest.raises(ParameterError, match="unknown"):
        find_aimclr(folder, empty="keep")
    data[3, 1, 2, 4, 0] = np.nan
    np.save(folder / "train_data.npy", data)
    with pytest.raises(DataError, match="frame 2, person 0, joint shoulder_left: .*NaN"):
        list(read_aimclr(folder, empty="drop"))


def test_workers_and_memory(tmp_path):
    clips = (make_clip(f"S001C001P001R001A{1 + i % 60:03d}", 5, label=ntu.ACTIONS[i % 60]) for i in range(60))
    root = write_aimclr(tmp_path / "xsub", clips, lambda c: "train", classes=class_names(60))
    source = find_aimclr(root)
    assert len(source) == 3  # 22 rows of 180 kB in 4 MB
    tracemalloc.start()
    one = list(source.clips())
    assert tracemalloc.get_traced_memory()[1] < 3e6
    tracemalloc.stop()
    two = list(source.clips(workers=2))
    assert len(one) == 60 and all(np.array_equal(a.xyz, b.xyz) and a.name == b.name for a, b in zip(one, two))


def swap_labels(folder):
    names, labels = labels_of(folder)
    set_labels(folder, names, labels[1:] + labels[:1])


def leak(folder):
    names, labels = labels_of(folder)
    set_labels(folder, names, labels, "val")


def save(name, array):
    return lambda folder: np.save(folder / name, array)


@pytest.mark.parametrize("kind, spoil, message", [
    ("stage1", swap_labels, "train_data.npy, row .*: label .* does not go with the name 'S001"),
    ("stage1", leak, "occurs twice, in train and test"),
    ("stage1", lambda f: set_labels(f, ["a"] * 9, [0] * 9), "'a' occurs twice, in train"),
    ("stage1", lambda f: set_labels(f, ["a"], [0]), "holds 9 clips, but there are 1 labels"),
    ("stage1", lambda f: set_labels(f, ["a", "b"], [0]), "2 names and 1 labels"),
    ("stage1", lambda f: set_labels(f, [b"a", 3], [0, 1]), "is no name"),
    ("stage1", lambda f: set_labels(f, ["a"], [-1]), "no list of whole numbers"),
    ("stage1", lambda f: set_labels(f, ["a"], [0.5]), "no list of whole numbers"),
    ("stage1", lambda f: set_labels(f, ["a"], [[0, 1], [2]]), "labels: cannot be read"),
    ("stage1", lambda f: set_labels(f, *[[f"S001C001P001R001A{a:03d}" for a in range(100, 109)], list(range(99, 108))]), "beyond the 60 of ntu60"),
    ("stage1", lambda f: (f / "train_label.pkl").write_bytes(pickle.dumps([1, 2, 3])), "two lists"),
    ("stage1", lambda f: (f / "train_label.pkl").write_bytes(pickle.dumps((["a"], print))), "would run builtins.print"),
    ("stage1", lambda f: (f / "train_label.pkl").unlink(), "there are no labels: neither train_label.pkl nor train_label.npy"),
    ("stage1", lambda f: (f / "train_data.npy").write_bytes(b"\x93NUMPY"), "train_data.npy: cannot be read"),
    ("stage1", lambda f: (f / "train_data.npy").write_bytes((f / "train_data.npy").read_bytes()[:-1]), "cannot be read: ValueError mmap length"),
    ("stage1", save("train_data.npy", np.zeros((9, 3, 300, 25, 2), int)), "is int64"),
    ("stage1", save("train_data.npy", np.zeros((9, 3, 300, 25, 1), "f4")), r"is float32 \(9, 3, 300, 25, 1\)"),
    ("stage1", save("train_data.npy", np.array([{}])), "cannot be read"),
    ("stage2", save("train_label.npy", np.arange(9)), "train_label.npy: differs from train_label.pkl"),
    ("stage2", save("train_label.npy", np.arange(8)), "differs from"),
    ("agcn", save("train_num_frame.npy", np.arange(9)), "row 0: says 0 frames of 300"),
    ("agcn", save("train_num_frame.npy", np.full(9, 301)), "says 301 frames of 300"),
    ("agcn", save("train_num_frame.npy", np.full(8, 30)), "9 clips, but there are 8 numbers of frames"),
    ("agcn", save("train_num_frame.npy", np.full(9, 3.5)), "no list of whole numbers"),
])
def test_damage(copy, kind, spoil, message):
    folder = copy(kind) / "xsub"
    spoil(folder)
    with pytest.raises(DataError, match=message) as e:
        (find_agcn if kind == "agcn" else find_aimclr)(folder)
    assert str(folder) in str(e.value) and e.value.remedy


def test_protocols_that_differ(copy, forged, tmp_path):
    root = copy("stage1")
    shutil.rmtree(root / "xview")
    forge_aimclr(tmp_path / "other", n=17)
    shutil.copytree(tmp_path / "other" / "xview", root / "xview")
    with pytest.raises(DataError, match="xsub and xview do not hold the same clips"):
        find_aimclr(root)


def test_a_file_that_shrinks_after_it_was_found(copy):
    folder = copy("stage1") / "xsub"
    source = find_aimclr(folder)
    np.save(folder / "train_data.npy", np.load(folder / "train_data.npy")[:3])
    with pytest.raises(DataError, match="holds 3 clips, fewer than before"):
        list(source.clips())


def test_what_cannot_be_written(tmp_path):
    folder, good = tmp_path / "xsub", make_clip("good", label="a")

    def write(clips, write=write_aimclr, **options):
        return write(folder, clips, lambda c: "train", **{"classes": ["a"]} | options)

    for clips, options, message in (
        ([], {}, "no clip to write"), ([good, good], {}, "same name"), ([good], {"stage": 2}, "40 frames; stage 2 has 50.*\n.*preset"),
        ([make_clip("long", 301, label="a")], {}, "301 frames"), ([dataclasses.replace(good, up="z")], {}, "z up"),
        ([make_clip("long", 301, label="a")], {"write": write_agcn}, "301 frames"),
    ):
        with pytest.raises(DataError, match=message):
            write(clips, **options)
    with pytest.raises(ParameterError, match="no stage 3"):
        write([good], stage=3)
    assert list(tmp_path.iterdir()) == []
    write([good])
    with pytest.raises(DiskError, match="exists already"):
        write([good])
    back, = read_agcn(write([make_clip("long", 301, label="a")], write_agcn, truncate=True, replace=True))
    assert len(back) == 300
    assert np.array_equal(next(read_agcn(write([umurl(good)], write_agcn, frames=100, replace=True))).xyz, umurl(good).xyz)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    root = tmp_path_factory.mktemp("fuzz")
    clips = [make_clip(f"S001C001P001R001A{i + 1:03d}", 3, label=ntu.ACTIONS[i]) for i in range(3)]
    for name, write in (("data", write_aimclr), ("joint", write_agcn)):
        write(root / name, clips, lambda c: "test" if c.name.endswith("1") else "train", classes=class_names(60), frames=3)
    forge_usdrl(root / "pickles", n=3, frames=(20, 20))
    return root, [(file, file.read_bytes()) for file in sorted(root.rglob("*_*.*"))]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_bytes_give_our_errors_only(small, data):
    root, files = small
    file, good = files[data.draw(st.integers(0, len(files) - 1))]
    content, kind = bytearray(good), data.draw(st.integers(0, 3))
    if kind == 0:
        for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=6)):
            content[at] = data.draw(st.integers(0, 255))
    elif kind == 1:
        content = content[: data.draw(st.integers(0, len(content)))]
    elif kind == 2:
        content = data.draw(st.binary(max_size=200))
    else:
        content[data.draw(st.integers(0, min(len(content), 128) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    try:
        for find, recognise in ((find_aimclr, recognise_aimclr), (find_agcn, recognise_agcn)):
            assert recognise(file.parent) in ("aimclr", "agcn", None)
            try:
                for _ in find(file.parent).clips():
                    pass
            except SkelnbError as e:
                assert str(root) in str(e) and e.remedy
    finally:
        file.write_bytes(good)
