"""Packed sets: exact round trip, the real sets, and files that are not whole."""

import errno

import numpy as np
import pandas as pd
import pytest
from conftest import make_clip
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from skelnb.data.clip import Clip
from skelnb.data.packed import ARRAYS, find_packed, forge_packed, read_packed, read_sequences, recognise_packed, write_packed
from skelnb.data.store import SkeletonStore
from skelnb.errors import DataError, DiskError


def arrays(npz):
    with np.load(npz) as z:
        return {k: z[k] for k in ARRAYS}


def equal(a, b):
    return all(np.array_equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in ARRAYS)


def rows(npz, name):
    table = pd.read_csv(npz.with_name(name), dtype=str, keep_default_na=False)
    return table[table.dataset == npz.stem].reset_index(drop=True)


@settings(max_examples=25, deadline=None)
@given(
    mm=st.lists(
        hnp.arrays(np.int16, st.tuples(st.integers(1, 5), st.just(25), st.just(3)), elements=st.integers(-32767, 32767)),
        min_size=1,
        max_size=3,
    )
)
def test_whole_millimetres_come_back_exactly(tmp_path_factory, mm):
    folder = tmp_path_factory.mktemp("packed")
    clips = [Clip(x[:, None].astype(np.float32) / 1000, 30, "kinect_v2", f"c{i}") for i, x in enumerate(mm)]
    write_packed(folder / "a.npz", clips, allow_empty_frames=True)
    assert np.array_equal(arrays(folder / "a.npz")["xyz_mm"], np.concatenate(mm))
    write_packed(folder / "b.npz", read_packed(folder / "a.npz", empty="keep"), allow_empty_frames=True)
    assert equal(arrays(folder / "a.npz"), arrays(folder / "b.npz"))


def test_rounding_is_half_a_millimetre_and_annotations_are_kept(tmp_path):
    clips = [
        make_clip("a", segments=[(0, 9, "NA"), (9, 20, "b, c")], subject="p1", setup="s_1", observed=np.arange(25) < 21),
        make_clip("b", seed=1, label="wave", observed=np.arange(25) < 21),
    ]
    write_packed(tmp_path / "set.npz", clips)
    for clip, back in zip(clips, read_packed(tmp_path / "set.npz"), strict=True):
        assert np.abs(clip.xyz - back.xyz).max() <= 0.000501
        for key in ("name", "label", "segments", "subject", "setup", "fps", "layout"):
            assert getattr(clip, key) == getattr(back, key)
        assert np.array_equal(back.observed, clip.observed)


def test_the_rows_of_other_sets_stay(tmp_path):
    write_packed(tmp_path / "a.npz", [make_clip("x", segments=[(0, 5, "one")])])
    write_packed(tmp_path / "b.npz", [make_clip("y")])
    with pytest.raises(DiskError, match="replace=True"):
        write_packed(tmp_path / "a.npz", [make_clip("z")])
    write_packed(tmp_path / "a.npz", [make_clip("z", segments=[(0, 5, "two")])], replace=True)
    assert rows(tmp_path / "a.npz", "sequences.csv").seq_id.tolist() == ["z"] and rows(
        tmp_path / "b.npz", "sequences.csv"
    ).seq_id.tolist() == ["y"]
    assert next(iter(read_packed(tmp_path / "a.npz"))).segments == ((0, 5, "two"),)


def test_without_tables(tmp_path):
    write_packed(tmp_path / "a.npz", [make_clip("x", label="wave")])
    (tmp_path / "sequences.csv").unlink(), (tmp_path / "segments.csv").unlink()
    assert [c.label for c in read_packed(tmp_path / "a.npz")] == [None]
    pytest.raises(DataError, read_packed, tmp_path / "a.npz", sequences_csv=tmp_path / "gone.csv")


@pytest.mark.parametrize("wrong", [dict(M=2), dict(fps=25), dict(far=True), dict(zero=True), dict(nan=True), dict(name="good")])
def test_what_cannot_be_packed(tmp_path, wrong):
    bad = make_clip(wrong.get("name", "bad"), M=wrong.get("M", 1))
    bad.fps = wrong.get("fps", 30)
    bad.xyz[3] = 40 if "far" in wrong else 0 if "zero" in wrong else np.nan if "nan" in wrong else bad.xyz[3]
    with pytest.raises(DataError) as e:
        write_packed(tmp_path / "a.npz", [make_clip("good"), bad])
    assert e.value.remedy and e.value.file == str(tmp_path / "a.npz") and not list(tmp_path.iterdir())


def test_disk_full(tmp_path, monkeypatch):
    def full(*a, **k):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(DiskError, match="no space"):
        write_packed(tmp_path / "a.npz", [make_clip()])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["segments.csv", "sequences.csv"]


def refuse(npz, *words):
    with pytest.raises(DataError) as e:
        list(read_packed(npz))
    assert e.value.remedy and e.value.file and all(w in str(e.value) for w in words), str(e.value)


def test_missing_and_truncated(tmp_path):
    npz = write_packed(tmp_path / "a.npz", [make_clip()])
    whole = npz.read_bytes()
    refuse(tmp_path / "b.npz", "b.npz")
    for size in (0, 10, len(whole) // 2, len(whole) - 30):
        npz.write_bytes(whole[:size])
        refuse(npz, "a.npz")
    npz.write_bytes(whole[:200] + b"\xff" * 50 + whole[250:])
    refuse(npz, "a.npz")


@pytest.mark.parametrize(
    "change",
    [
        dict(xyz_mm=np.ones((40, 24, 3), np.int16)),
        dict(xyz_mm=np.ones((40, 25, 3), np.float32)),
        dict(offsets=np.array([0, 39])),
        dict(offsets=np.array([0, 20, 40])),
        dict(joint_measured=np.ones(20, bool)),
        dict(seq_id=np.array(["clip"], object)),
        dict(fps=None),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, change):
    npz = write_packed(tmp_path / "a.npz", [make_clip()])
    np.savez(npz, **{k: v for k, v in (arrays(npz) | change).items() if v is not None})
    refuse(npz, "a.npz")


@pytest.mark.parametrize(
    "file, old, new, word",
    [
        ("segments.csv", "clip,0,9", "clip,0,99", "beyond"),
        ("segments.csv", "clip,0,9", "clip,0,x", "line 2"),
        ("segments.csv", "clip,0,9", "other,0,9", "other"),
        ("segments.csv", "label", "lable", "label"),
        ("sequences.csv", "a,clip,0", "a,clip,1", "numbered"),
        ("sequences.csv", "a,clip,0", "a,clap,0", "differ"),
        ("sequences.csv", "a,clip", "b,clip", "'a'"),
        ("sequences.csv", ",40,", ",41,", "differ"),
    ],
)
def test_tables_that_do_not_fit(tmp_path, file, old, new, word):
    npz = write_packed(tmp_path / "a.npz", [make_clip(segments=[(0, 9, "x")])])
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new))
    refuse(npz, word)


@pytest.mark.parametrize("name, n, frames", [("precog", 72, 19219), ("hdm05", 288, 17951), ("cmu_seg", 7, 7189)])
def test_real_sets_round_trip(recordings, tmp_path, name, n, frames):
    npz = recordings / "skeletons" / f"{name}.npz"
    clips = list(read_packed(npz, empty="keep"))
    assert len(clips) == n == len(read_sequences(npz)) and sum(map(len, clips)) == frames
    copy = write_packed(tmp_path / f"{name}.npz", clips, allow_empty_frames=True)
    assert equal(arrays(npz), arrays(copy))
    columns = ["dataset", "seq_id", "index", "subject", "action", "n_frames"]
    assert rows(copy, "sequences.csv")[columns].equals(rows(npz, "sequences.csv")[columns])
    columns = ["dataset", "seq_id", "start", "end", "label"]
    assert rows(copy, "segments.csv")[columns].equals(rows(npz, "segments.csv")[columns])


def test_real_set_into_a_store(recordings, tmp_path):
    npz = recordings / "skeletons" / "precog.npz"
    with pytest.raises(DataError, match="precog_p10_s2.*\n.*drop"):
        list(read_packed(npz))
    part = dict(read_sequences(npz)[["seq_id", "split"]].values)
    store = SkeletonStore.write(tmp_path / "s", read_packed(npz, empty="drop"), splits={"split": lambda c: part[c.name]}, sources=[npz])
    assert len(store) == 70 and store.offsets[-1] == 18784 and len(store.classes) == 9 and store.classes[0] == "background"
    assert {store[i].subject[-2:] for i in store.split("split", "test")} == {"03", "06", "09", "12"}


def test_as_a_source(tmp_path, recordings):
    source = find_packed(recordings / "skeletons" / "hdm05.npz")
    clips = list(source.clips())
    assert len(clips) == 288 and {source.store["splits"]["split"](c) for c in clips} == {"train", "test"}
    forged = forge_packed(tmp_path / "mine.npz", clips=3)
    assert recognise_packed(forged) == "packed" and recognise_packed(tmp_path) is None and recognise_packed(tmp_path / "sequences.csv") is None
    assert len(list(find_packed(forged).clips())) == 3
    (tmp_path / "no.npz").write_bytes(b"PK nonsense")
    assert recognise_packed(tmp_path / "no.npz") is None
    with pytest.raises(DataError, match="is not a packed set"):
        find_packed(tmp_path / "no.npz")
