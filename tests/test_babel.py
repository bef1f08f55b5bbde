"""BABEL: the released json with joints of AMASS, the localisation pickles, the recognition arrays."""

import json
import pickle
import shutil
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skelnb.data import babel
from skelnb.data.babel import (
    CLASSES,
    GOLDEN,
    SMPLH_TO_KINECT,
    SUBSETS,
    Mark,
    cycle_length,
    find_babel,
    find_babel_localisation,
    find_babel_recognition,
    forge_babel,
    forge_babel_localisation,
    forge_babel_recognition,
    frame_at,
    frames_at_30,
    from_smplh,
    labelled_frames,
    marks,
    multi_label,
    npz_arrays,
    one_label,
    places,
    read_babel,
    read_babel_localisation,
    read_babel_recognition,
    recognise_babel,
    to_smplh,
)
from skelnb.data.clip import BACKGROUND, frame_labels, frame_targets
from skelnb.data.store import SkeletonStore
from skelnb.data.synthetic import synthesize, synthesize_untrimmed
from skelnb.errors import DataError, ParameterError, SkelnbError
from skelnb.files import read_json, write_json


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return forge_babel(tmp_path_factory.mktemp("babel"))


@pytest.fixture
def copy(release, tmp_path):
    return shutil.copytree(release, tmp_path / "copy")


def reference_frames(T, fps):
    "The rule as the benchmark's authors describe it, second by second."
    second = int(fps)
    if second % 30 == 0:
        return list(range(0, T, second // 30))
    return [f for start in range(0, T, second) for f in (start + int(fps / 30 * k) for k in range(30)) if f < T]


@pytest.mark.parametrize("fps", [30, 60, 100, 120, 150, 250, 59.94, 25])
@pytest.mark.parametrize("T", [1, 29, 30, 99, 100, 101, 517])
def test_thirty_frames_of_every_second(fps, T):
    assert frames_at_30(T, fps).tolist() == reference_frames(T, fps)


@given(st.floats(0, 1000))
def test_a_frame_belongs_to_the_label_when_it_begins_in_it(t):
    n = frame_at(t)
    assert n / 30.0 >= t and (n == 0 or (n - 1) / 30.0 < t)


def test_golden_numbers():
    assert (
        len(CLASSES) == len(set(CLASSES)) == 120
        and CLASSES[:4] == ("walk", "stand", "hand movements", "turn")
        and CLASSES[59] == "grab person / body part"
    )
    assert len(SMPLH_TO_KINECT) == len(set(SMPLH_TO_KINECT)) == 25 and max(SMPLH_TO_KINECT) < 73
    assert [len(SUBSETS[k]) for k in (1, 2, 3)] == [4, 4, 4] and SUBSETS[2][2] == "stand up"
    assert GOLDEN["babel"]["train+val"] == 8808 and GOLDEN["babel"]["seconds"]["train+val"] == 30 * 3600 + 2 * 60 + 32


def test_joints_there_and_back():
    clip = synthesize(1, seed=1)[0]
    joints = to_smplh(clip)
    there = from_smplh(joints, mode="corrected", name="x").oriented("y")
    assert np.allclose(there.xyz, clip.xyz - clip.xyz[:, :, :1], atol=1e-6)
    official = from_smplh(joints, name="x").oriented("y")
    assert np.array_equal(official.xyz[:, :, [21, 22, 23, 24]], there.xyz[:, :, [22, 21, 24, 23]])  # thumbs and tips, as published
    assert np.array_equal(official.xyz[:, :, :21], there.xyz[:, :, :21])
    smpl = from_smplh(joints, "smpl22", name="x")
    assert smpl.layout == "smpl22" and np.array_equal(smpl.xyz[:, 0], joints[:, :22])
    for J in (52, 22):
        less = from_smplh(joints[:, :J], name="x")
        assert less.layout == "kinect_v2" and not less.observed[21] and less.observed[3]
    with pytest.raises(DataError, match="24 joints"):
        from_smplh(joints[:, :24], name="x")
    with pytest.raises(ParameterError):
        from_smplh(joints, mode="better", name="x")


def test_labels():
    labels = [Mark(1, 2, ("walk", "turn")), Mark(0, 1.5, ("turn",)), Mark(2, 3, None), Mark(3, 3.01, ()), Mark(9, 10, ("walk",))]
    assert multi_label(labels, 120) == [(0, 45, "turn"), (30, 60, "walk"), (30, 60, "turn")]
    assert one_label(labels, 120, SUBSETS[1]) == [(0, 30, "turn"), (30, 60, "walk")]  # the first in the file wins
    assert labelled_frames(labels, 120) == 61  # nobody found a word for the third second, an empty list counts
    assert one_label(labels, 120, SUBSETS[3]) == []


def test_frame_labels_are_the_benchmarks():
    "Against the benchmark's own loop over frames, on random labels with null, empty and overlapping categories."
    rng = np.random.default_rng(0)
    for _ in range(30):
        words = ("walk", "stand", "turn", "jump", "run")
        labels = []
        for _ in range(rng.integers(1, 6)):
            start, length = rng.uniform(0, 4), rng.uniform(0, 2)
            labels.append(
                Mark(start, start + length, None if rng.random() < 0.2 else tuple(rng.choice(words, rng.integers(0, 3), replace=False)))
            )
        n = 120
        expected, named = [], 0
        for frame in range(n):
            here = [m for m in labels if m.categories is not None and m.start <= frame / 30.0 < m.end]
            subset = [c for m in here for c in m.categories if c in SUBSETS[1]]
            expected.append(SUBSETS[1].index(subset[0]) if subset else -1)
            named += bool(here)
        found = np.full(n, -1)
        for s, e, label in one_label(labels, n, SUBSETS[1]):
            found[s:e] = SUBSETS[1].index(label)
        assert found.tolist() == expected and labelled_frames(labels, n) == named


def test_marks_of_all_kinds_of_entries():
    whole = {"labels": [{"act_cat": ["jump"]}]}
    frames = {"labels": [{"act_cat": ["hop"], "start_t": 1, "end_t": 2}]}
    assert marks({"dur": 3.0, "seq_ann": whole, "frame_ann": frames}) == [(1, 2, ("hop",))]
    assert marks({"dur": 3.0, "seq_ann": whole, "frame_ann": None}) == [(0, 3.0, ("jump",))]
    assert marks({"dur": 3.0, "seq_ann": whole, "frame_ann": None}, whole_takes=False) == []
    assert marks({"dur": 3.0}) == marks({"dur": 3.0, "seq_ann": None, "frame_ann": {"labels": None}}) == []
    assert marks({"dur": 3.0, "seq_anns": [whole, whole], "frame_anns": None}, extra=True) == [(0, 3.0, ("jump",))] * 2
    assert marks({"dur": 3.0, "seq_anns": None, "frame_anns": [frames, None]}, extra=True) == [(1, 2, ("hop",))]


def test_the_release(release):
    source = find_babel(release)
    clips = list(source.clips())
    split = source.store["splits"]["split"]
    assert {c.name: split(c) for c in clips} == {
        "0": "train",
        "1": "train",
        "2": "train",
        "3": "train",
        "5": "val",
        "7": "val",
        "4": "test",
        "6": "test",
    }
    for i, clip in enumerate(clips[:4]):
        fps = (120, 100, 60)[i % 3]
        made = synthesize_untrimmed(1, start=i, actions=tuple(babel._WORDS), segments=(2, 3), seed=0, fps=fps)[0]
        n = int(30 * round(len(made) / fps, 2))
        expected = made.xyz[frames_at_30(len(made), fps)[:n]]
        assert (clip.fps, clip.units, clip.up, clip.layout) == (30, "m", "y", "kinect_v2")
        assert np.allclose(clip.xyz[:, :, :21], (expected - expected[:, :, :1])[:, :, :21], atol=1e-5)
        assert (clip.xyz[:, 0, 3, 1] > clip.xyz[:, 0, 0, 1]).all()
    assert clips[3].segments == ((0, len(clips[3]), clips[3].segments[0].label),)  # no frame labels: the sequence's
    assert not clips[-1].segments and clips[1].subject == "KIT/4" and clips[0].setup == "BioMotionLab_NTroje"
    assert any("1 of 9 sequences left out: their motion" in note for note in source.notes) and any(
        "without a category" in n for n in source.notes
    )


def test_times_become_frames(release):
    clip, made = find_babel(release).clips(), synthesize_untrimmed(1, actions=tuple(babel._WORDS), segments=(2, 3), seed=0, fps=120)[0]
    expected = [(frame_at(round(s.start / 120, 3)), frame_at(round(s.end / 120, 3))) for s in made.segments]
    assert sorted({s[:2] for s in next(clip).segments}) == sorted(set(expected))


def test_a_store_of_it(release, tmp_path):
    source = find_babel(release)
    store = SkeletonStore.write(tmp_path / "store", source.clips(), **source.store)
    assert store.classes[0] == BACKGROUND and set(store.split("split", "train")) == {0, 1, 2, 3}
    clip = next(source.clips())
    assert np.array_equal(store.frame_targets(0), frame_targets(clip, store.classes))
    subset = find_babel(release, subset=1)
    small = SkeletonStore.write(tmp_path / "subset", subset.clips(), **subset.store)
    assert small.classes == (BACKGROUND, *SUBSETS[1]) and len(set(frame_labels(next(subset.clips()), small.classes))) > 1
    two = list(find_babel(release).clips(workers=2))
    assert all(np.array_equal(a.xyz, b.xyz) and a.segments == b.segments for a, b in zip(two, source.clips(), strict=True))


def test_options(release):
    assert [c.name for c in read_babel(release, parts=("extra_train",))] == ["extra_0", "extra_1"]
    assert {c.layout for c in read_babel(release, layout="smpl22")} == {"smpl22"}
    whole, part = next(read_babel(release, mode="corrected")), next(read_babel(release))
    assert np.array_equal(whole.xyz[:, :, 21], part.xyz[:, :, 22])
    assert [c.name for c in read_babel(release / "babel_v1.0_release" / "val.json")] == ["5", "7"]
    assert [c.name for c in read_babel(release / "babel_v1.0_release", joints=release / "babel_joint_pos", parts=("val",))] == ["5", "7"]
    assert not list(read_babel(release, parts=("train",), whole_takes=False))[3].segments
    for wrong in (dict(subset=4), dict(mode="x")):
        with pytest.raises(ParameterError):
            list(read_babel(release, **wrong))


def test_long_sequences_are_not_in_the_benchmark(copy):
    file = copy / "babel_v1.0_release" / "train.json"
    entries = read_json(file)
    entries["0"]["frame_ann"]["labels"] = [{"act_cat": ["walk"], "start_t": 0, "end_t": 34}]
    write_json(file, entries | {"0": entries["0"] | {"dur": 34.0}})
    assert "1 of 7 sequences left out: with more than 1000 labelled frames" in find_babel(copy, subset=1).notes
    entries["0"]["frame_ann"]["labels"] = [{"act_cat": ["walk"], "start_t": 0, "end_t": 33}]  # 990 labelled frames
    write_json(file, entries | {"0": entries["0"] | {"dur": 34.0}})
    assert "0" in [take.name for take in find_babel(copy, subset=1).items]


def test_the_frame_rate_is_never_guessed(copy):
    (copy / "featp_2_fps.json").unlink()
    with pytest.raises(DataError, match="frame rate") as e:
        list(read_babel(copy))
    assert "fps=" in e.value.remedy and e.value.file.endswith(".npz")
    damaged = []
    good = list(find_babel(copy, fps=120).clips(damaged=damaged))
    assert {c.name for c in good} == {"0", "1", "3", "5", "7", "6"} and all("BABEL says it lasts" in d.what for d in damaged)
    write_json(copy / "featp_2_fps.json", {"x": "fast"})
    with pytest.raises(DataError, match="no table of frame rates"):
        find_babel(copy)
    with pytest.raises(DataError, match="no such file"):
        find_babel(copy, fps=copy / "nowhere.json")


def test_where_motions_lie():
    assert places("KIT/KIT/4/a.npz") == ["KIT/4/a.npz", "KIT/KIT/4/a.npz"]
    assert "DFaust/50002/x.npz" in places("DFaust67/DFaust_67/50002/x.npz") and "HDM05/tr/x.npz" in places("MPIHDM05/MPI_HDM05/tr/x.npz")
    for bad in ("x.npz", "KIT/../../x.npz", "KIT//x.npz", "KIT/C:/x.npz", "KIT/KIT/4\\x.npz"):
        with pytest.raises(ValueError):
            places(bad)


@pytest.mark.parametrize(
    "change, word",
    [
        (lambda e: e.pop("dur"), "dur"),
        (lambda e: e.update(dur=-1), "duration"),
        (lambda e: e.update(dur=float("nan")), "duration"),
        (lambda e: e.update(dur="long"), "long"),
        (lambda e: e.update(feat_p="../../etc/passwd"), "path"),
        (lambda e: e.update(feat_p=7), "path"),
        (lambda e: e["frame_ann"].update(labels=[{"act_cat": "walk", "start_t": 0, "end_t": 1}]), "categories"),
        (lambda e: e["frame_ann"].update(labels=[{"act_cat": ["walk"], "start_t": 0, "end_t": 1e308}]), "seconds"),
        (lambda e: e["frame_ann"].update(labels=[{"act_cat": ["walk"], "start_t": None, "end_t": 1}]), "NoneType"),
        (lambda e: e["frame_ann"].update(labels=7), "int"),
        (lambda e: e.update(frame_ann=[1]), "indices"),
    ],
)
def test_damaged_entries(copy, change, word):
    file = copy / "babel_v1.0_release" / "train.json"
    entries = read_json(file)
    change(entries["0"])
    file.write_text(json.dumps(entries))
    with pytest.raises(DataError, match=word) as e:
        find_babel(copy)
    assert e.value.file == str(file) and "'0'" in e.value.place and e.value.remedy


def test_damaged_files(copy, tmp_path):
    for attempt in (
        lambda: find_babel(tmp_path / "nowhere"),
        lambda: find_babel(tmp_path),
        lambda: find_babel(copy, parts=("extra_val",)),
        lambda: find_babel(copy, joints=tmp_path),
    ):
        with pytest.raises(DataError) as e:
            attempt()
        assert e.value.remedy
    train, val = (copy / "babel_v1.0_release" / f"{part}.json" for part in ("train", "val"))
    write_json(val, read_json(val) | {"0": read_json(train)["0"]})
    with pytest.raises(DataError, match="train.json too"):
        find_babel(copy)
    for content in (b"[]", b'{"0": [', b'{"0": 7}', b"[" * 100_000, b'{"0": ' + b"9" * 5000 + b"}"):
        val.write_bytes(content)
        with pytest.raises(DataError) as e:
            find_babel(copy)
        assert e.value.file == str(val)
    npz = tmp_path / "x.npz"
    for arrays in (
        {"poses": np.zeros((4, 156))},
        {"joint_pos": np.zeros((4, 50))},
        {"joint_pos": np.zeros((4, 0))},
        {"joint_pos": np.zeros(4)},
        {"joint_pos": np.zeros((0, 219))},
        {"joint_pos": np.array([{}], object)},
        {"joint_pos": np.zeros((2, 3, 4))},
    ):
        np.savez(npz, **arrays)
        with pytest.raises(DataError):
            babel._joint_pos(str(npz))


def test_other_skeletons_and_other_archives(copy):
    file = copy / "babel_joint_pos" / "KIT" / "4" / "RightTurn01_poses.npz"
    T = len(np.load(file)["joint_pos"])
    np.savez(file, joint_pos=np.ones((T, 24, 3)), mocap_framerate=100)
    with pytest.raises(DataError, match="24 joints") as e:
        list(read_babel(copy))
    assert e.value.file == str(file)
    content = npz_arrays(file, "joint_pos")["joint_pos"]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_BZIP2) as archive, archive.open("joint_pos.npy", "w") as f:
        np.save(f, content)
    with pytest.raises(DataError, match="method 12"):
        npz_arrays(file, "joint_pos")


def test_a_lying_header_costs_nothing(tmp_path):
    np.savez(tmp_path / "x.npz", joint_pos=np.zeros((10, 219)))
    content = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "y.npz").write_bytes(content.replace(b"(10, 219)", b"(9**9, 9)".replace(b"**", b"99")))
    with pytest.raises(DataError):
        npz_arrays(tmp_path / "y.npz", "joint_pos")


def bytes_like(good: bytes):
    "Random bytes, and a good file with a flipped byte or a cut."

    def damage(args):
        at, value, cut = args
        flipped = bytearray(good)
        flipped[at % len(good)] ^= value
        return bytes(flipped[:cut] if cut % 3 == 0 else flipped)

    return st.one_of(
        st.binary(max_size=300), st.tuples(st.integers(0, len(good) - 1), st.integers(1, 255), st.integers(0, len(good))).map(damage)
    )


QUICK = dict(deadline=None, suppress_health_check=list(HealthCheck))


@settings(max_examples=120, **QUICK)
@given(data=st.data())
def test_fuzz_npz(data, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "fuzz.npz"
    np.savez(file, joint_pos=np.zeros((5, 219), np.float32), mocap_framerate=30.0)
    file.write_bytes(data.draw(bytes_like(file.read_bytes())))
    try:
        babel._read_take(babel.Take("a", str(file), 5 / 30, (), 30.0, "s", "p"), "kinect_v2", "official", None)
    except SkelnbError as e:
        assert "fuzz.npz" in e.file


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=120, **QUICK)
@given(data=st.data())
def test_fuzz_json(data, release, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "train.json"
    entry = read_json(release / "babel_v1.0_release" / "train.json")["0"]
    keys = data.draw(st.sets(st.sampled_from(sorted(entry))))
    entry |= {key: data.draw(values) for key in keys}
    if entry["frame_ann"] and "frame_ann" not in keys:
        entry["frame_ann"]["labels"][0] |= {
            key: data.draw(values) for key in data.draw(st.sets(st.sampled_from(["act_cat", "start_t", "end_t"])))
        }
    good = json.dumps({"0": entry}).encode()
    file.write_bytes(data.draw(st.one_of(st.just(good), bytes_like(good))))
    for subset in (None, 1):
        try:
            for clip in read_babel(file, joints=release / "babel_joint_pos", fps=120, subset=subset):
                clip.check(allow_overlap=subset is None)
        except SkelnbError as e:
            assert e.file


def test_the_localisation_pickles(tmp_path):
    for subset in (1, 3):
        forge_babel_localisation(tmp_path, subset=subset)
    source = find_babel_localisation(tmp_path, subset=3)
    clips = list(source.clips())
    assert [source.store["splits"]["split"](c) for c in clips] == ["train"] * 4 + ["val"] * 4 and clips[4].name == "val_100"
    data = pickle.loads((tmp_path / "train_split3.pkl").read_bytes())
    classes = source.store["classes"]
    assert classes == (BACKGROUND, "jog", "wave", "dance", "gesture")
    ids = np.where(data["L"][0] == 4, 0, data["L"][0] + 1)
    assert np.array_equal(frame_labels(clips[0], classes), ids)
    x = data["X"][0][..., 0].transpose(1, 2, 0)
    assert np.allclose(clips[0].xyz[:, 0], np.stack([x[..., 0], x[..., 2], -x[..., 1]], -1), atol=1e-6)  # z up becomes y up
    assert len(list(read_babel_localisation(tmp_path / "val_split1.pkl"))) == 4
    for path in (tmp_path / "no", tmp_path / "train_split2.pkl"):
        with pytest.raises(DataError, match="train_split2"):
            find_babel_localisation(path, subset=2)


@pytest.mark.parametrize(
    "key, value",
    [("L", np.full(5, 0)), ("X", np.zeros((3, 4, 25, 1))), ("X", "x"), ("sid", None), ("L", np.array([], int)), ("L", 9), ("L", -1)],
)
def test_damaged_localisation(tmp_path, key, value):
    file = forge_babel_localisation(tmp_path) / "train_split1.pkl"
    data = pickle.loads(file.read_bytes())
    if key == "sid":
        data["sid"] = data["sid"][:1]
    else:
        data[key][1] = np.full(len(data["L"][1]), value) if isinstance(value, int) else value
    file.write_bytes(pickle.dumps(data))
    with pytest.raises(DataError) as e:
        list(read_babel_localisation(file))
    assert e.value.place == "sequence 1" and e.value.remedy
    file.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(DataError, match="no lists"):
        list(read_babel_localisation(file))


def test_the_recognition_arrays(tmp_path):
    forge_babel_recognition(tmp_path, classes=60)
    forge_babel_recognition(tmp_path, classes=120, rows=4)
    source = find_babel_recognition(tmp_path)
    clips = list(source.clips())
    assert len(clips) == 12 and source.store["classes"] == CLASSES[:60] and clips[-1].name == "val_000005"
    assert [source.store["splits"]["split"](c) for c in clips] == ["train"] * 6 + ["val"] * 6
    assert len(source.notes) == 2 and clips[2].label == "circular movement" and np.array_equal(clips[1].xyz, clips[2].xyz)
    x = np.load(tmp_path / "train_ntu_sk_60.npy")
    x = x[0, ..., 0].transpose(1, 2, 0)
    n = len(clips[0])
    assert n < 150 and np.allclose(clips[0].xyz[:, 0], np.stack([x[..., 0], x[..., 2], -x[..., 1]], -1)[:n], atol=1e-6)
    assert np.array_equal(x[n:], x[:-n])  # what was cut is the beginning again
    assert len(next(read_babel_recognition(tmp_path, cut=False))) == 150
    assert find_babel_recognition(tmp_path / "val_ntu_sk_120.npy").store["classes"] == CLASSES
    SkeletonStore.write(tmp_path / "store", source.clips(), **source.store)


def test_damaged_recognition(tmp_path):
    forge_babel_recognition(tmp_path)
    npy, pkl = tmp_path / "train_ntu_sk_60.npy", tmp_path / "train_label_60.pkl"
    good = pkl.read_bytes()
    segments, (labels, sids, chunks, who) = pickle.loads(good)
    for wrong in (
        (segments, (labels[:-1], sids, chunks, who)),
        (segments, ([60] * 6, sids, chunks, who)),
        (segments, (["a"] * 6, sids, chunks, who)),
        [1, 2],
        7,
        (segments, labels),
    ):
        pkl.write_bytes(pickle.dumps(wrong))
        with pytest.raises(DataError) as e:
            find_babel_recognition(tmp_path)
        assert e.value.file == str(pkl) and e.value.remedy
    pkl.unlink()
    with pytest.raises(DataError):
        find_babel_recognition(tmp_path)
    pkl.write_bytes(good)
    for array in (np.zeros((6, 3, 150, 24, 1)), np.zeros((6, 3, 150, 25, 1), int), np.zeros(4)):
        np.save(npy, array)
        with pytest.raises(DataError, match="not floats"):
            find_babel_recognition(tmp_path)
    np.save(npy, np.array([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read"):
        find_babel_recognition(tmp_path)
    for path in (tmp_path / "no", tmp_path / "train_label_60.pkl"):
        with pytest.raises(DataError, match="has no train_ntu"):
            find_babel_recognition(path)


@settings(max_examples=60, **QUICK)
@given(data=st.data())
def test_fuzz_arrays(data, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "rows"
    if not folder.exists():
        forge_babel_recognition(folder, rows=1)
        forge_babel_localisation(folder, takes=1)
    npy, pkl = folder / "val_ntu_sk_60.npy", folder / "train_split1.pkl"
    kept = {f: f.read_bytes() for f in (npy, folder / "val_label_60.pkl", pkl)}
    file = data.draw(st.sampled_from(sorted(kept)))
    head = kept[file][:600]
    file.write_bytes(data.draw(bytes_like(head)) + kept[file][600:])
    try:
        for clip in read_babel_localisation(pkl) if file == pkl else read_babel_recognition(npy):
            clip.check()
    except SkelnbError as e:
        assert e.file
    finally:
        file.write_bytes(kept[file])


def test_repetitions_end_where_they_begin():
    rng = np.random.default_rng(0)
    for n, T in ((1, 5), (2, 3), (7, 150), (75, 150), (100, 150), (150, 150)):
        x = rng.normal(size=(n, 3))
        assert cycle_length(np.resize(x, (T, 3))) == (n if n > 1 else T)
    x = np.resize(rng.normal(size=(7, 3)), (50, 3))
    x[-1] += 1
    assert cycle_length(x) == 50


def test_recognition_of_files(release, tmp_path):
    assert recognise_babel(release) == recognise_babel(release / "babel_v1.0_release" / "train.json") == "babel"
    assert (
        recognise_babel(forge_babel_localisation(tmp_path / "a"))
        == recognise_babel(tmp_path / "a" / "val_split1.pkl")
        == "babel_localisation"
    )
    assert (
        recognise_babel(forge_babel_recognition(tmp_path / "b"))
        == recognise_babel(tmp_path / "b" / "val_ntu_sk_60.npy")
        == "babel_recognition"
    )
    (tmp_path / "train.json").write_bytes(b"{}")
    for other in (tmp_path, tmp_path / "train.json", tmp_path / "nowhere", release / "featp_2_fps.json"):
        assert recognise_babel(other) is None
