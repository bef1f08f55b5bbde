"""npz of CTR-GCN, MAMP and SLiM: names, rows, labels, memory, writing back, damage."""

import dataclasses
import io
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.data import ntu, pku
from skelnb.data.clip import Clip
from skelnb.data.npz import (
    BLOCK,
    CLASSES,
    GrowingArray,
    class_names,
    dialect,
    find_npz,
    fitted,
    forge_npz,
    part_of,
    read_npz,
    recognise_npz,
    rows_to_clip,
    write_npz,
)
from skelnb.data.store import SkeletonStore
from skelnb.errors import DataError, DiskError, ParameterError, SkelnbError
from tests.conftest import make_clip


@pytest.fixture(scope="module")
def forged(tmp_path_factory):
    return forge_npz(tmp_path_factory.mktemp("npz"))


def arrays_of(file):
    with np.load(file) as z:
        return dict(z)


def saved(path, arrays, compressed=False):
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


@pytest.mark.parametrize("name, dataset, column", [
    ("NTU60_CS", "ntu60", "xsub"), ("NTU60_CV", "ntu60", "xview"), ("NTU120_CSub", "ntu120", "xsub"), ("NTU120_CSet", "ntu120", "xset"),
    ("NTU60_XSub", "ntu60", "xsub"), ("NTU60_XView", "ntu60", "xview"), ("NTU120_XSub", "ntu120", "xsub"), ("NTU120_XSet", "ntu120", "xset"),
    ("NTU120_CS", "ntu120", "xsub"), ("NTU120_CV", "ntu120", "xset"), ("PKUv1_XSub", "pku1", "xsub"), ("PKUv2_XSub", "pku2", "xsub"),
    ("PKUv1_XView", "pku1", "xview"), ("ntu60_Xsub", "ntu60", "xsub"), ("NTU60_XX", None, "split"), ("mine", None, "split"),
])
def test_dialects(name, dataset, column, tmp_path):
    found = dialect(f"/data/{name}.npz")
    assert (found.dataset, found.column) == (dataset, column)
    assert any("cross-setup" in note for note in found.notes) == (name == "NTU120_CV")
    file = forge_npz(tmp_path / f"{name}.npz", train=3, test=2)
    source = find_npz(file)
    (split, rule), = source.store["splits"].items()
    assert split == column and [rule(c) for c in source.clips()] == ["train"] * 3 + ["test"] * 2
    assert len(source.store["classes"]) == CLASSES[dataset or "ntu60"] and set(found.notes) <= set(source.notes)
    centred = arrays_of(file)["x_train"][0, 0, 3:6]
    assert (centred == 0).all() != (dataset or "").startswith("pku")


def test_class_names():
    assert class_names(120) == ntu.ACTIONS and class_names(60) == ntu.ACTIONS[:60] and class_names(51) == pku.ACTIONS
    assert class_names(3) == ("action_001", "action_002", "action_003")


def test_golden_three_frames_of_a_skeleton_file(tmp_path):
    "The golden test of the specification."
    joints = np.random.default_rng(0).normal(size=(3, 25, 3)).round(5) + (0.2, 0.1, 3)
    lines = ["3"]
    for frame in joints:
        lines += ["1", "72057594037931101 0 1 1 1 1 0 0.02 -0.2 2", "25"] + [f"{x:.7f} {y:.7f} {z:.7f} 0 0 0 0 0 0 0 0 2" for x, y, z in frame]
    raw = tmp_path / "S001C001P001R001A001.skeleton"
    raw.write_text("\n".join(lines) + "\n")
    clip = ntu.read_skeleton(raw)
    centred = Clip(clip.xyz - clip.xyz[0, 0, 1], 30, "kinect_v2", clip.name, label=clip.label)
    file = write_npz(tmp_path / "NTU60_CS.npz", [centred], lambda c: "train", classes=class_names(60))
    a = arrays_of(file)
    x, y = a["x_train"], a["y_train"]
    assert x.shape == (1, 300, 150) and x.dtype == np.float32 and y.shape == (1, 60) and y.dtype == np.float64
    assert (x[0, 0, 3:6] == 0).all() and (y.sum(1) == 1).all() and y[0, 0] == 1 and not x[0, 3:].any() and not x[0, :, 75:].any()
    assert np.allclose(x[0, 0, :3], joints[0, 0] - joints[0, 1], atol=1e-6)
    assert a["x_test"].shape == (0, 300, 150) and a["y_test"].shape == (0, 60)
    back, = read_npz(file)
    assert np.array_equal(back.xyz[:, :1], centred.xyz) and not back.xyz[:, 1].any() and back.label == "drink water"
    assert (back.fps, back.layout, back.units, back.up, back.name) == (30, "kinect_v2", "m", "y", "train_000000")
    assert file.read_bytes() == saved(tmp_path / "again.npz", a).read_bytes()


def test_reshape_as_ctrgcn_feeds_it(forged):
    x = arrays_of(forged)["x_train"]
    fed = x.reshape(len(x), 300, 2, 25, 3).transpose(0, 4, 1, 3, 2)  # (N, C, T, V, M)
    for clip, row in zip(read_npz(forged), fed):
        assert np.array_equal(clip.xyz.transpose(3, 0, 2, 1), row[:, : len(clip)]) and not row[:, len(clip):].any()


@pytest.mark.parametrize("compressed", [False, True])
def test_round_trip_through_a_store_is_bit_equal(forged, tmp_path, compressed):
    file = saved(tmp_path / "NTU60_CS.npz", arrays_of(forged), compressed)
    source = find_npz(file)
    assert any("compressed" in note for note in source.notes) == compressed and len(source) == (1 if compressed else 2)
    store = SkeletonStore.write(tmp_path / "store", source.clips(), **source.store)
    assert len(store) == 18 and len(store.split("xsub", "train")) == 12
    assert write_npz(tmp_path / "back.npz", store, "xsub").read_bytes() == forged.read_bytes()


def test_gaps_stay_and_padding_goes(tmp_path):
    clip = make_clip("gap", 20, 2, label="a")
    clip.xyz[5:8] = 0
    clip.xyz[15:] = 0
    file = write_npz(tmp_path / "mine.npz", [clip, make_clip("full", 300, label="b")], lambda c: "test", classes=["a", "b"], )
    gap, full = read_npz(file)
    assert len(gap) == 15 and not gap.xyz[5:8].any() and np.array_equal(gap.xyz, clip.xyz[:15]) and len(full) == 300
    assert gap.label == "action_001" and part_of(gap) == "test"


def test_workers_and_blocks_give_the_same(tmp_path):
    file = forge_npz(tmp_path / "NTU60_CV.npz", train=50, test=5, frames=(5, 9))
    source = find_npz(file)
    assert len(source) == 4 and pickle.loads(pickle.dumps(source.items))  # 22 rows of 180 kB in 4 MB
    one, two = list(source.clips()), list(source.clips(workers=2))
    assert [c.name for c in one] == [c.name for c in two] == [f"train_{i:06d}" for i in range(50)] + [f"test_{i:06d}" for i in range(5)]
    assert all(np.array_equal(a.xyz, b.xyz) and a.label == b.label for a, b in zip(one, two))
    a = arrays_of(file)
    assert [c.label for c in one[:50]] == [class_names(60)[i] for i in a["y_train"].argmax(1)]


@pytest.mark.parametrize("compressed", [False, True])
def test_memory_is_bounded(tmp_path, compressed):
    x, y = np.zeros((300, 300, 150), np.float32), np.zeros((300, 60))
    x[:, :4], y[:, 7] = 1, 1
    file = saved(tmp_path / "NTU60_CS.npz", {"x_train": x, "y_train": y}, compressed)
    del x
    tracemalloc.start()
    n = sum(len(clip) for clip in read_npz(file))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n == 1200 and peak < 3.5 * BLOCK  # of 54 MB


def test_writing_takes_a_clip_at_a_time(tmp_path):
    tracemalloc.start()
    write_npz(tmp_path / "mine.npz", (make_clip(f"c{i}", 4, label="a") for i in range(200)), lambda c: "train", classes=["a", "b"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6 < (tmp_path / "mine.npz").stat().st_size / 5


def test_folders(forged, tmp_path):
    assert recognise_npz(forged) == recognise_npz(forged.parent) == "npz"
    assert len(list(read_npz(forged.parent))) == 18
    for nothing in (tmp_path, tmp_path / "none", __file__):
        assert recognise_npz(nothing) is None
    with pytest.raises(DataError, match="holds no npz"):
        find_npz(tmp_path)
    with pytest.raises(DataError, match="no such file"):
        find_npz(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", poses=np.zeros(3))
    assert recognise_npz(tmp_path) is None
    forge_npz(tmp_path, train=1, test=1)
    assert find_npz(tmp_path).notes[0].startswith("holds 1 train + 1 test clips; the published ntu60 xsub has 40091")
    forge_npz(tmp_path / "NTU60_XView.npz", train=1, test=1)
    with pytest.raises(DataError, match="2 such files.*NTU60_CS.npz, NTU60_XView.npz"):
        find_npz(tmp_path)


def test_other_precision_and_missing_part(forged, tmp_path):
    a = arrays_of(forged)
    source = find_npz(saved(tmp_path / "NTU60_CS.npz", {"x_test": a["x_test"].astype(np.float16), "y_test": a["y_test"].astype(np.int8)}))
    assert "there is no train part" in source.notes and "x_test is float16, not float32: precision was lost" in source.notes
    assert all(np.array_equal(c.xyz.reshape(len(c), 150), row[: len(c)].astype(np.float16)) for c, row in zip(source.clips(), a["x_test"]))


def change(a, key, at, value):
    a[key] = a[key].copy()
    a[key][at] = value


@pytest.mark.parametrize("breaking, message", [
    (lambda a: change(a, "y_train", (3, slice(None)), 0), "y_train.npy, row 3: is not one-hot: nothing but zeros"),
    (lambda a: change(a, "y_train", (3, slice(0, 2)), [1, 1]), "row 3: is not one-hot: 0: 1, 1: 1"),
    (lambda a: change(a, "y_test", (0, slice(None)), -1), "y_test.npy, row 0: is not one-hot"),
    (lambda a: change(a, "y_test", (0, 5), np.nan), "row 0: is not one-hot"),
    (lambda a: a.update(y_train=a["y_train"][:-1]), "x_train has 12 rows, y_train 11"),
    (lambda a: a.update(y_train=a["y_train"][:, :59], y_test=a["y_test"][:, :59]), "labels of 59 classes; 60 expected"),
    (lambda a: a.update(y_train=np.eye(61)[:12]), "labels of 60 and 61 classes"),
    (lambda a: a.update(x_train=a["x_train"][..., :75]), "is float32 .12, 300, 75.*\n.*2 bodies x 25 joints"),
    (lambda a: a.update(x_train=a["x_train"].astype(int)), "is int64"),
    (lambda a: a.update(x_train=a["x_train"][0]), r"\(N, 300, 150\) expected"),
    (lambda a: a.update(x_train=np.asfortranarray(a["x_train"])), "Fortran"),
    (lambda a: a.update(y_train=a["y_train"].argmax(1)), "rows of numbers expected"),
    (lambda a: a.update(y_train=a["y_train"].astype("S3")), "rows of numbers expected"),
    (lambda a: a.pop("y_train"), "There is no item named 'y_train.npy'"),
    (lambda a: [a.pop(k) for k in list(a)], "holds no clips"),
    (lambda a: a.update(x_train=np.zeros((1, 30000, 150), "f2"), y_train=np.eye(60)[:1]), "is float16 .1, 30000, 150"),
    (lambda a: a.update(y_train=np.zeros((12, 20000), bool)), "has 20000 classes"),
])
def test_what_is_wrong_is_found_at_once(forged, tmp_path, breaking, message):
    a = arrays_of(forged)
    breaking(a)
    file = saved(tmp_path / "NTU60_CS.npz", a)
    with pytest.raises(DataError, match=message) as e:
        find_npz(file)
    assert str(file) in str(e.value) and e.value.remedy


def test_rows_without_people_and_without_numbers(forged, tmp_path):
    a = arrays_of(forged)
    change(a, "x_train", 4, 0)
    file = saved(tmp_path / "NTU60_CS.npz", a)
    with pytest.raises(DataError, match="clip 'train_000004': shows nobody.*\n.*drop"):
        list(read_npz(file))
    damaged = []
    assert len(list(find_npz(file).clips(damaged=damaged))) == 10 and len(damaged) == 1
    assert [c.name for c in read_npz(file, empty="drop")][3:5] == ["train_000003", "train_000005"]
    with pytest.raises(ParameterError, match="'keep' is unknown"):
        find_npz(file, empty="keep")
    change(a, "x_test", (1, 2, 80), np.nan)
    with pytest.raises(DataError, match="clip 'test_000001', frame 2, person 1, joint spine_mid: .*NaN"):
        list(read_npz(saved(file, a), empty="drop"))


def test_a_lying_header_asks_for_no_memory(tmp_path):
    def member(shape, rows):
        head = io.BytesIO()
        np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": shape})
        return head.getvalue() + bytes(rows)

    for shape in ((10**9, 300, 150), (1, 10**9, 150), (2**40, 2**40, 150), (-1, 300, 150), (10**9,)):
        file = tmp_path / "NTU60_CS.npz"
        with zipfile.ZipFile(file, "w") as z:
            z.writestr("x_train.npy", member(shape, 180000))
            z.writestr("y_train.npy", member((1, 60), 240))
        tracemalloc.start()
        with pytest.raises(DataError, match="NTU60_CS.npz.*cannot be read"):
            find_npz(file)
        assert tracemalloc.get_traced_memory()[1] < 2e6
        tracemalloc.stop()


def test_a_directory_that_lies(forged, tmp_path):
    content, file = bytearray(forged.read_bytes()), tmp_path / "NTU60_CS.npz"
    at = content.rindex(b"PK\1\2", 0, content.index(b"y_train.npy", content.index(b"PK\1\2")))
    struct.pack_into("<I", content, at + 42, 17)  # where y_train begins
    file.write_bytes(content)
    with pytest.raises(DataError, match="NTU60_CS.npz, train: cannot be read"):
        find_npz(file)
    content = bytearray(forged.read_bytes())
    at = content.rindex(b"PK\1\2")  # of y_test, the last member: as many rows as one likes, the header agrees
    at_shape = content.rindex(b"(6, 60), }    ")
    content[at_shape : at_shape + 14] = b"(60006, 60), }"
    struct.pack_into("<2I", content, at + 20, 128 + 60006 * 480, 128 + 60006 * 480)
    file.write_bytes(content)
    with pytest.raises(DataError, match="NTU60_CS.npz, test: cannot be read"):
        find_npz(file)


def test_what_was_fine_and_is_cut_off_later(forged, tmp_path):
    file = forge_npz(tmp_path, train=30, test=3)
    source = find_npz(file)
    file.write_bytes(forged.read_bytes())
    with pytest.raises(DataError, match="x_train.npy: cannot be read: EOFError ends within row"):
        list(source.clips())
    file.write_bytes(forged.read_bytes()[:500000])
    with pytest.raises(DataError, match="cannot be read: BadZipFile"):
        list(source.clips())
    file.unlink()
    with pytest.raises(DataError, match="no such file"):
        list(source.clips())


def test_compression_of_another_kind(forged, tmp_path):
    file = tmp_path / "NTU60_CS.npz"
    with zipfile.ZipFile(forged) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_BZIP2) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(DataError, match="method 12"):
        find_npz(file)


def test_what_cannot_be_written(forged, tmp_path):
    path, classes = tmp_path / "sub" / "mine.npz", ["a", "b"]

    def write(clips, split=lambda c: "train", **options):
        return write_npz(path, clips, split, **{"classes": classes} | options)

    good = make_clip("good", label="a")
    for clip, message in (
        (make_clip("none"), "part 'train' with label None"), (make_clip("other", label="c"), "label 'c'"), (make_clip("long", 301, label="a"), "301 frames"),
        (make_clip("many", 4, 3, label="a"), "3 persons"), (dataclasses.replace(good, up="z"), "z up.*\n.*oriented"), (good.to("openpose18"), "openpose18"),
        (dataclasses.replace(good, units="px"), "px"), (dataclasses.replace(good, xyz=good.xyz * np.nan), "NaN"),
    ):
        with pytest.raises(DataError, match=message):
            write([good, clip])
    with pytest.raises(DataError, match="part 'val'"):
        write([good], lambda c: "val")
    for nothing in ([], [good]):
        with pytest.raises(DataError, match="no clip to write"):
            write(nothing, lambda c: None)
    for options in ({"classes": None}, {"split": "xsub"}):
        with pytest.raises(ParameterError, match="need a rule"):
            write([good], **options)
    assert list(path.parent.iterdir()) == []
    write([good])
    with pytest.raises(DiskError, match="exists already"):
        write([good])
    assert len(list(read_npz(write([make_clip("long", 301, label="a")], truncate=True, replace=True)))[0]) == 300
    assert len(list(read_npz(write([make_clip("long", 301, label="a")], frames=400, replace=True)))[0]) == 301
    assert [p.name for p in path.parent.iterdir()] == ["mine.npz"]


def test_splits_of_a_store(tmp_path):
    clips = [make_clip(f"c{i}", 10 + i, label="ab"[i % 2]) for i in range(5)]
    store = SkeletonStore.write(tmp_path / "store", clips, splits={"odd": ["train", "test", "", "train", "test"]})
    with pytest.raises(ParameterError, match="no split 'even'.*\n.*odd"):
        write_npz(tmp_path / "x.npz", store, "even")
    assert [len(c) for c in read_npz(write_npz(tmp_path / "x.npz", store, "odd"))] == [10, 13, 11, 14]
    file = write_npz(tmp_path / "y.npz", store, lambda c: "test" if c.label == "b" else None, classes=("b",))
    assert [len(c) for c in read_npz(file)] == [11, 13] and arrays_of(file)["y_test"].tolist() == [[1.0], [1.0]]


def test_helpers(tmp_path):
    assert fitted(make_clip("one", 3), 5, False, None).shape == (5, 2, 25, 3)
    assert rows_to_clip(np.zeros((4, 2, 25, 3)), "f", "drop", name="x") is None
    with GrowingArray(tmp_path / "a.npy", (2,), "<i8") as a, pytest.raises(ValueError, match="shape"):
        a.append(np.zeros(3))
    assert np.load(tmp_path / "a.npy").shape == (0, 2)


def read_all(file):
    assert recognise_npz(file) in ("npz", None)
    try:
        for _ in find_npz(file).clips():
            pass
    except SkelnbError as e:
        assert str(file) in str(e) and e.remedy


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder, files = tmp_path_factory.mktemp("fuzz"), []
    for compressed in (False, True):
        x = np.zeros((3, 4, 150), np.float32)
        x[:, :2] = np.arange(150)
        files.append(saved(folder / f"s{compressed}.npz", {"x_train": x, "y_train": np.eye(3), "x_test": x[:1], "y_test": np.eye(3)[:1]}, compressed))
        read_all(files[-1])
    return folder / "NTU60_CS.npz", [f.read_bytes() for f in files]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damaged_bytes_give_our_errors_only(small, data):
    file, contents = small
    which, kind = data.draw(st.integers(0, 1)), data.draw(st.sampled_from(["flip", "cut", "random", "text"]))
    content = bytearray(contents[which])
    if kind == "flip":
        for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=6)):
            content[at] = data.draw(st.integers(0, 255))
    elif kind == "cut":
        content = content[: data.draw(st.integers(0, len(content)))]
    elif kind == "random":
        content = data.draw(st.binary(max_size=200))
    elif not which:  # in a header, where a text is evaluated
        at = content.index(b"{'descr'") + data.draw(st.integers(0, 60))
        content[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
    file.write_bytes(content)
    read_all(file)
