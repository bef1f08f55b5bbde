"""SkeletonStore: what goes in comes out; what is damaged is named; nothing is left half-written."""

import errno
import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from conftest import make_clip
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from skelnb.data.clip import Clip, frame_labels, frame_targets, runs
from skelnb.data.store import SkeletonStore, class_list
from skelnb.errors import DataError, DiskError, ParameterError, StoreError


def same(a: Clip, b: Clip):
    for key in ("fps", "layout", "name", "label", "segments", "subject", "camera", "setup", "units"):
        assert getattr(a, key) == getattr(b, key), key
    assert (a.observed is None) == (b.observed is None) and np.array_equal(a.observed, b.observed)
    assert np.array_equal(a.xyz, b.xyz)


def left_in(folder):
    return sorted(p.name for p in folder.iterdir())


# ---------------------------------------------------------------- round trip

words = st.text(st.characters(categories=("L", "N", "P", "S", "Zs"), codec="utf-8"), min_size=1, max_size=8).filter(str.isprintable)
cells = st.one_of(words, st.sampled_from(["NA", "null", "None", "nan", "1", "01", "1e5", "True", '"', ",", " x "]))


@st.composite
def ragged_sets(draw):
    M, n = draw(st.integers(1, 2)), draw(st.integers(1, 4))
    names = draw(st.lists(cells, min_size=n, max_size=n, unique=True))
    clips = []
    for name in names:
        T = draw(st.integers(1, 9))
        xyz = np.ones((T, M, 20, 3), np.float32) * draw(hnp.arrays(np.float32, (T, 1, 1, 3), elements=st.floats(-9, 9, width=32)))
        xyz[:, 0, 0] = 1
        edges = sorted(draw(st.sets(st.integers(0, T), max_size=4)))
        segments = [(s, e, draw(cells)) for s, e in zip(edges, edges[1:]) if draw(st.booleans())]
        optional = {k: draw(st.none() | cells) for k in ("label", "subject", "camera", "setup")}
        observed = draw(st.none() | hnp.arrays(bool, 20))
        clips.append(Clip(xyz, 25, "kinect_v1", name, segments=segments, observed=observed, **optional))
    return clips


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(clips=ragged_sets())
def test_round_trip(tmp_path_factory, clips):
    folder = tmp_path_factory.mktemp("round") / "store"
    written = SkeletonStore.write(folder, iter(clips), splits={"cell": lambda c: c.label, "half": [i % 2 for i in range(len(clips))]})
    for store in (written, SkeletonStore.open(folder)):
        assert len(store) == len(clips)
        for i, clip in enumerate(clips):
            same(store[i], clip)
            assert store.name(i) == clip.name
            if clip.label or clip.segments:
                assert np.array_equal(store.frame_labels(i), frame_labels(clip, store.classes))
                assert store.labels[i] == (store.classes.index(clip.label) if clip.label else -1)
            else:
                pytest.raises(DataError, store.frame_labels, i)
        assert np.array_equal(store.split("half", 0), np.arange(0, len(clips), 2))
    written.verify()


def test_streams_and_keeps_facts(tmp_path):
    source = tmp_path / "raw.csv"
    source.write_text("1;2;3")
    made = []

    def clips():
        for i in range(5):
            made.append(i)
            yield make_clip(f"c{i}", T=10 + i, label="b" if i else "background", subject=i, observed=np.arange(25) < 21, up="z")

    store = SkeletonStore.write(tmp_path / "s", clips(), sources=[source], splits={"who": lambda c: int(c.subject) > 2})
    assert made == [0, 1, 2, 3, 4] and store.classes == ("background", "b") and store.up == "z" and store.fps == 30
    assert list(store.facts["sources"]) == ["raw.csv"] and store.split("who", True).tolist() == [3, 4]
    assert store.offsets.tolist() == [0, 10, 21, 33, 46, 60] and store.frames.shape == (60, 1, 25, 3)
    assert store[4].observed.sum() == 21 and store[-1].name == "c4" and [c.name for c in store] == [f"c{i}" for i in range(5)]
    with pytest.raises(IndexError):
        store[5]


def test_classes(tmp_path):
    assert class_list(["b", "background", "Z", "a", "a"]) == ("background", "Z", "a", "b")
    gap = SkeletonStore.write(tmp_path / "gap", [make_clip(segments=[(0, 10, "a")])])
    full = SkeletonStore.write(tmp_path / "full", [make_clip(segments=[(0, 40, "a")])])
    assert gap.classes == ("background", "a") and full.classes == ("a",)
    given = SkeletonStore.write(tmp_path / "given", [make_clip(label="a")], classes=["background", "z", "a"])
    assert given.labels.tolist() == [2]
    with pytest.raises(ParameterError):
        SkeletonStore.write(tmp_path / "x", [make_clip(label="a")], classes=["a", "background"])


def test_persons(tmp_path):
    two, one = make_clip("two", M=2), make_clip("one", M=1)
    store = SkeletonStore.write(tmp_path / "a", [two, one])
    assert store.person_present.tolist() == [[True, True], [True, False]] and not store[1].xyz[:, 1].any()
    with pytest.raises(DataError, match="persons=2"):
        SkeletonStore.write(tmp_path / "b", [one, two])
    assert len(SkeletonStore.write(tmp_path / "b", [one, two], persons=2)) == 2


# ---------------------------------------------------------------- sharing


def test_a_clip_is_a_read_only_view(tiny_store):
    clip = tiny_store[2]
    assert np.shares_memory(clip.xyz, tiny_store.frames)
    with pytest.raises(ValueError):
        clip.xyz[0] = 1


def test_pickles_as_its_path(tiny_store):
    data = pickle.dumps(tiny_store)
    assert len(data) < 500 and np.array_equal(pickle.loads(data)[3].xyz, tiny_store[3].xyz)


def total(store, clips):
    return float(sum(np.float64(store[i].xyz).sum() for i in clips))


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_many_readers(tiny_store, how):
    jobs = [(tiny_store, range(k, 6, 2)) for k in (0, 1, 0, 1)]
    with multiprocessing.get_context(how).Pool(2) as pool:
        found = pool.starmap(total, jobs)
    assert found == [total(*job) for job in jobs]


# ---------------------------------------------------------------- splits


def test_add_split(tmp_path):
    store = SkeletonStore.write(tmp_path / "s", [make_clip(f"c{i}") for i in range(4)])
    other, before = SkeletonStore.open(tmp_path / "s"), store.checksum
    store.add_split("fold", [0, 1, 0, 1])
    other.add_split("rule", lambda clip: clip.name == "c2")
    assert SkeletonStore.open(tmp_path / "s").split("fold", 1).tolist() == [1, 3] == other.split("fold", "1").tolist()
    assert other.split("rule", True).tolist() == [2] and SkeletonStore.open(tmp_path / "s").checksum == before
    store.add_split("fold", [0, 1, 0, 1])
    for bad in (("fold", [1, 1, 1, 1]), ("new", [1, 2]), ("label", ["a"] * 4), ("new", ["a\nb"] * 4)):
        with pytest.raises((StoreError, ParameterError)):
            store.add_split(*bad)
    assert "fold" in pytest.raises(StoreError, store.split, "nope", 1).value.remedy
    assert "0, 1" in pytest.raises(StoreError, store.split, "fold", 7).value.remedy
    assert left_in(tmp_path / "s") == ["frames.f32", "index.csv", "segments.csv", "store.json"]


def test_add_split_on_a_full_disk_keeps_the_index(tmp_path, monkeypatch):
    store = SkeletonStore.write(tmp_path / "s", [make_clip()])
    before = (tmp_path / "s" / "index.csv").read_text()

    def full(self, file, **how):
        file.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pandas.DataFrame.to_csv", full)
    with pytest.raises(DiskError, match="no space"):
        store.add_split("fold", [1])
    assert (tmp_path / "s" / "index.csv").read_text() == before and len(left_in(tmp_path / "s")) == 4


def test_checksum_follows_the_data(tmp_path):
    a, b, c = (SkeletonStore.write(tmp_path / n, [make_clip(seed=s)]) for n, s in (("a", 0), ("b", 0), ("c", 1)))
    assert a.checksum == b.checksum != c.checksum


# ---------------------------------------------------------------- bad clips


def clip_with(**wrong):
    clip = make_clip("bad")
    for key, value in wrong.items():
        setattr(clip, key, value)
    return clip


def poisoned(value, frames=slice(7, 8)):
    xyz = make_clip().xyz.copy()
    xyz[frames] = value
    return clip_with(xyz=xyz)


@pytest.mark.parametrize(
    "bad, word",
    [
        (poisoned(np.nan), "NaN"),
        (poisoned(0), "nobody"),
        (clip_with(xyz=np.ones((5, 1, 24, 3))), "24 joints"),
        (clip_with(xyz=np.ones((0, 1, 25, 3))), "empty"),
        (clip_with(segments=[(0, 50, "a")]), "beyond"),
        (clip_with(label="sit"), "'sit'"),
        (clip_with(name="good"), "name"),
        (clip_with(fps=25), "fps"),
        (clip_with(units="px"), "units"),
        (clip_with(xyz=np.ones((5, 1, 25, 2))), "2 coordinates"),
        (clip_with(layout="kinect_v1", xyz=np.ones((5, 1, 20, 3))), "layout"),
    ],
)
def test_a_bad_clip_leaves_nothing(tmp_path, bad, word):
    with pytest.raises(DataError, match=word) as e:
        SkeletonStore.write(tmp_path / "s", [make_clip("good", label="wave"), bad], classes=["wave", "a"])
    assert f"clip {bad.name!r}" in e.value.place and e.value.file == str(tmp_path / "s") and e.value.remedy
    assert left_in(tmp_path) == []


def test_no_clips_bad_splits_and_unreadable_sources_leave_nothing(tmp_path):
    def broken():
        yield make_clip()
        raise FileNotFoundError(errno.ENOENT, "No such file", "gone.csv")

    for clips, how, error in (
        ([], {}, DataError),
        (broken(), {}, DataError),
        ([make_clip()], {"splits": {"fold": [1, 2]}}, ParameterError),
        ([make_clip()], {"splits": {"label": [1]}}, ParameterError),
        ([make_clip()], {"sources": [tmp_path / "gone.csv"]}, DataError),
        ([make_clip()], {"splits": {"f": lambda c: "a\n"}}, ParameterError),
    ):
        with pytest.raises(error):
            SkeletonStore.write(tmp_path / "s", clips, **how)
        assert left_in(tmp_path) == []


def test_an_existing_store_is_only_replaced_when_asked(tmp_path):
    SkeletonStore.write(tmp_path / "s", [make_clip("old")])
    with pytest.raises(DiskError, match="replace=True"):
        SkeletonStore.write(tmp_path / "s", [make_clip("new")])
    with pytest.raises(DataError):
        SkeletonStore.write(tmp_path / "s", [poisoned(np.nan)], replace=True)
    assert SkeletonStore.open(tmp_path / "s").name(0) == "old"
    assert SkeletonStore.write(tmp_path / "s", [make_clip("new")], replace=True).name(0) == "new" and left_in(tmp_path) == ["s"]


def test_allowed_empty_frames(tmp_path):
    assert len(SkeletonStore.write(tmp_path / "s", [poisoned(0)], allow_empty_frames=True)) == 1


# ---------------------------------------------------------------- damaged stores


@pytest.fixture
def copy(tiny_store, tmp_path):
    return shutil.copytree(tiny_store.path, tmp_path / "copy")


def refuse(folder, *words):
    with pytest.raises(StoreError) as e:
        SkeletonStore.open(folder)
    assert all(w in str(e.value) for w in words) and e.value.remedy and str(folder) in e.value.file


def test_missing_folder_and_parts(copy, tmp_path):
    refuse(tmp_path / "nowhere", "no store.json")
    for part in ("frames.f32", "index.csv", "segments.csv"):
        os.rename(copy / part, copy / "hidden")
        refuse(copy, "incomplete", part)
        os.rename(copy / "hidden", copy / part)
    SkeletonStore.open(copy)


def test_truncated_files(copy):
    for part in ("frames.f32", "index.csv", "segments.csv", "store.json"):
        whole = (copy / part).read_bytes()
        (copy / part).write_bytes(whole[: len(whole) // 2])
        refuse(copy, part)
        (copy / part).write_bytes(b"")
        refuse(copy, part)
        (copy / part).write_bytes(whole)


def test_newer_version_is_refused_before_anything_else(copy):
    (copy / "store.json").write_text(json.dumps({"version": 2, "something": "new"}))
    refuse(copy, "newer", "version 2")


@pytest.mark.parametrize("text", ["[]", "{}", '{"version": "x"}', '{"version": 1}'])
def test_strange_json(copy, text):
    (copy / "store.json").write_text(text)
    refuse(copy)


@pytest.mark.parametrize(
    "part, old, new",
    [
        ("index.csv", "take_1,30,50", "take_1,31,50"),
        ("index.csv", "take_1,30,50", "take_1,30,x"),
        ("index.csv", "n_frames", "frames"),
        ("segments.csv", "0,2,15,wave", "0,2,31,wave"),
        ("segments.csv", "0,2,15,wave", "0,15,2,wave"),
        ("segments.csv", "0,2,15,wave", "0,2,15,jump"),
        ("segments.csv", "0,2,15,wave", "9,2,15,wave"),
    ],
)
def test_tables_edited_by_hand(copy, part, old, new):
    text = (copy / part).read_text()
    assert old in text
    (copy / part).write_text(text.replace(old, new))
    refuse(copy, part)


def test_verify_finds_a_flipped_byte(copy):
    with open(copy / "frames.f32", "rb+") as f:
        f.seek(1001)
        f.write(b"\x55")
    with pytest.raises(StoreError, match="checksum"):
        SkeletonStore.open(copy).verify()


# ---------------------------------------------------------------- full disks


def test_disk_full_while_writing(tmp_path, monkeypatch):
    def full(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("skelnb.data.store.os.fsync", full)
    with pytest.raises(DiskError, match="no space left on the disk") as e:
        SkeletonStore.write(tmp_path / "s", [make_clip()])
    assert e.value.file == str(tmp_path / "s") and "settings.ini" in e.value.remedy and left_in(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="RLIMIT_FSIZE is POSIX")
def test_file_size_limit_is_met_for_real(tmp_path):
    script = f"""
        import resource, signal
        import numpy as np
        from skelnb.data.clip import Clip
        from skelnb.data.store import SkeletonStore
        from skelnb.errors import DiskError
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
        clips = (Clip(np.ones((100, 1, 25, 3)), 30, "kinect_v2", str(i)) for i in range(10))
        try: SkeletonStore.write({str(tmp_path / "s")!r}, clips)
        except DiskError as e: print("DiskError", e.file)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.stdout.split() == ["DiskError", str(tmp_path / "s")], done.stderr
    assert left_in(tmp_path) == []


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare to mount a small disk")
def test_a_really_full_disk(tmp_path):
    script = f"""
        import os
        import numpy as np
        from skelnb.data.clip import Clip
        from skelnb.data.store import SkeletonStore
        from skelnb.errors import DiskError
        clips = (Clip(np.ones((100, 1, 25, 3)), 30, "kinect_v2", str(i)) for i in range(100))
        try: SkeletonStore.write({str(tmp_path / "s")!r}, clips)
        except DiskError as e: print(e.what.split(" (")[0], os.listdir({str(tmp_path)!r}))
    """
    mount = f'mount -t tmpfs -o size=1m none "{tmp_path}" || exit 77; exec "$0" -c "$1"'
    done = subprocess.run(["unshare", "-rm", "sh", "-c", mount, sys.executable, textwrap.dedent(script)], capture_output=True, text=True)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("may not mount here: " + done.stderr.strip()[:80])
    assert done.stdout.strip() == "no space left on the disk while writing []", done.stderr


# ---- several labels at a time, scores of a detector ------------------------------------------------------------------------------------


def test_overlapping_segments(tmp_path):
    actions = [[(2, 30, "walk"), (10, 20, "talk"), (15, 18, "wave"), (30, 35, "sit")], [(0, 5, "sit"), (5, 9, "walk")], [(1, 8, "walk"), (1, 40, "talk")]]
    clips = [make_clip(f"c{i}", 40, segments=segments) for i, segments in enumerate(actions)]
    with pytest.raises(DataError, match="starts before the previous segment ends.*\n.*allow_overlap=True"):
        SkeletonStore.write(tmp_path / "refused", clips)
    store = SkeletonStore.write(tmp_path / "s", clips, allow_overlap=True)
    assert store.classes == ("background", "sit", "talk", "walk", "wave")
    for i, clip in enumerate(clips):
        assert store[i].segments == clip.segments
        assert np.array_equal(store.frame_labels(i), frame_labels(clip, store.classes))
        assert np.array_equal(store.frame_targets(i), frame_targets(clip, store.classes))
    assert runs(store.frame_labels(0)) == [(0, 2, 0), (2, 10, 3), (10, 15, 2), (15, 18, 4), (18, 20, 2), (20, 30, 3), (30, 35, 1), (35, 40, 0)]
    assert np.flatnonzero(store.frame_targets(0)[16]).tolist() == [2, 3, 4] and not store.frame_targets(0)[36, 1:].any()


def test_overlap_that_covers_everything_needs_no_background(tmp_path):
    clips = [make_clip("c", 10, segments=[(0, 6, "a"), (4, 10, "b")])]
    assert SkeletonStore.write(tmp_path / "s", clips, allow_overlap=True).classes == ("a", "b")


def test_confidence_and_image_size(tmp_path):
    def clips():
        for i, M in enumerate((1, 2)):
            score = np.random.default_rng(i).random((20 + i, M, 25))
            yield Clip(np.ones((20 + i, M, 25, 2)), 25, "kinect_v2", f"c{i}", units="px", up="-y", confidence=score, image_size=(640, 480) if i else None)

    store = SkeletonStore.write(tmp_path / "s", clips(), persons=2)
    for got, put in zip(store, clips()):
        M = put.xyz.shape[1]
        assert np.array_equal(got.confidence[:, :M], put.confidence) and not got.confidence[:, M:].any()
        assert (got.image_size, got.up, got.units) == (put.image_size, "-y", "px")
    assert np.shares_memory(store[1].confidence, store.confidence)
    store.verify()
    with open(tmp_path / "s" / "confidence.f32", "rb+") as f:
        f.write(b"\0\0\0\0")
    with pytest.raises(StoreError, match="confidence.f32.*checksum"):
        store.verify()
    with open(tmp_path / "s" / "confidence.f32", "rb+") as f:
        f.truncate(100)
    with pytest.raises(StoreError, match="confidence.f32: has 100 bytes"):
        SkeletonStore.open(tmp_path / "s")
    mixed = [next(clips()), Clip(np.ones((9, 1, 25, 2)), 25, "kinect_v2", "bare", units="px", up="-y")]
    with pytest.raises(DataError, match="has confidences or has none"):
        SkeletonStore.write(tmp_path / "mixed", mixed)
    assert not (tmp_path / "mixed").exists()


def test_what_is_not_used_leaves_no_trace(tmp_path):
    "Runs are named by the checksum of their data: the same clips must give the same files in every version of skelnb."
    clip = Clip(np.arange(12 * 25 * 3).reshape(12, 1, 25, 3), 30, "kinect_v2", "c", segments=[(2, 9, "wave")], subject="a")
    store = SkeletonStore.write(tmp_path / "s", [clip], splits={"part": ["train"]}, about={"preset": "none"})
    header = (tmp_path / "s" / "index.csv").read_text().splitlines()[0]
    assert header == "name,start,n_frames,label,subject,camera,setup,present,observed,part" and "image_size" in store.table
    assert store.checksum == "344551e190925706"
    again = SkeletonStore.open(tmp_path / "s")
    assert again[0].image_size is None and again[0].subject == "a"
    again.add_split("part", ["train"])
    assert SkeletonStore.open(tmp_path / "s").split("part", "train").tolist() == [0]
