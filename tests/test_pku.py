"""PKU-MMD: the golden numbers, the traps of its files, and every kind of damage."""

import pickle
import shutil

import numpy as np
import pytest
from conftest import make_clip
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from skelnb.data import pku
from skelnb.data.clip import BACKGROUND
from skelnb.data.pku import (
    ACTIONS,
    GOLDEN,
    Rules,
    cross_subject,
    cross_view,
    find_pku,
    find_pku_detection,
    forge_pku,
    forge_pku_detection,
    locate,
    ranges,
    read_frames,
    read_instances,
    read_pku,
    read_pku_detection,
    read_split,
    recognise_pku,
    recognise_pku_detection,
    video,
)
from skelnb.data.store import SkeletonStore
from skelnb.errors import DataError, ParameterError

LINE = " " + " ".join(["0.100000"] * 75 + ["0.000000"] * 75) + "\n"
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def forged(tmp_path_factory):
    return forge_pku(tmp_path_factory.mktemp("pku") / "PKUMMD")


@pytest.fixture
def release(forged, tmp_path):
    "A forged release that may be damaged."
    return shutil.copytree(forged, tmp_path / "PKUMMD")


def fails(attempt, *words):
    with pytest.raises(DataError) as e:
        attempt()
    text = f"{e.value.file} {e.value.place} {e.value.what}"
    assert all(word in text for word in words), text
    assert e.value.remedy and e.value.file
    return e.value


# ---- names and splits -------------------------------------------------------------------------------------------------------------------


def test_golden_numbers():
    one, two = GOLDEN["pku1"], GOLDEN["pku2"]
    assert len(set(ACTIONS)) == 51 and ACTIONS[25] == "punching/slapping other person"
    assert (one["clips"], one["instances"], two["clips"]) == (1076, 21545, 1009)
    for key in ("xsub_instances", "xview_instances", "confidence"):
        assert sum(one[key].values()) == 21545
    for golden in (one, two):
        assert sum(golden["xsub"].values()) == sum(golden["xview"].values()) == golden["clips"]


def test_splits_are_rules():
    test = [name for n in range(1, 365) for c in "LMR" if cross_subject(make_clip(name := f"{n:04d}-{c}", 1)) == "test"]
    assert len(test) == 132 and (test[0], test[-1]) == ("0291-L", "0334-R")
    assert [cross_subject(make_clip(f"A05N{n:02d}-L", 1)) for n in (1, 2, 3, 7, 13)] == ["train", "test", "test", "test", "train"]
    assert [cross_view(make_clip(f"0002-{c}_004", 1)) for c in "LMR"] == ["test", "train", "train"]


@pytest.mark.parametrize("name", ["", "0002", "0002-X", "0002-L.txt", "A1N01-L", "A01N01-", "00020-L", "0002-L_", "x0002-L"])
def test_other_names(name):
    assert video(name) is None


@pytest.mark.parametrize(
    "text, place, word",
    [
        ("", "None", "both parts"),
        ("Training videos:\n0002-L\n", "None", "both parts"),
        ("0002-L\n", "line 1", "before any head"),
        ("Training videos:\n0002-L, 0003\nValidataion videos:\n0004-L", "line 2", "'0003'"),
        ("Training videos:\n0002-L\nValidataion videos:\n0002-L", "line 4", "in both parts"),
        ("Training videos:\nA01N01-L\nValidataion videos:\nA01N01-R", "line 2", "phase 2"),
    ],
)
def test_damaged_lists(tmp_path, text, place, word):
    (tmp_path / "cross-subject.txt").write_text(text)
    fails(lambda: read_split(tmp_path / "cross-subject.txt", 1), "cross-subject.txt", place, word)


def test_the_misspelt_list_with_its_commas(tmp_path):
    file = tmp_path / "cross-subject.txt"
    file.write_bytes(b"Training videos: \r\n0002-L, 0002-M, \r\nValidataion videos: \r\n0291-L,0334-R,\r\n")
    assert read_split(file) == {"0002-L": "train", "0002-M": "train", "0291-L": "test", "0334-R": "test"}


# ---- the files --------------------------------------------------------------------------------------------------------------------------


def test_numbers_are_those_of_the_scripts(tmp_path):
    values = np.random.default_rng(0).normal(0, 1, (20, 150)).round(6)
    file = tmp_path / "0002-L.txt"
    file.write_text("".join(" " + " ".join(f"{v:.6f}" for v in row) + "\n" for row in values.tolist()))
    assert np.array_equal(read_frames(file).reshape(20, 150), np.loadtxt(file).astype(np.float32))
    file.write_text("\n".join(" ".join(f"{v:.9g}" for v in row) for row in values.tolist()) + "\n\n")
    assert np.array_equal(read_frames(file).reshape(20, 150), values.astype(np.float32))


@pytest.mark.parametrize(
    "text, place, word",
    [
        ("", "None", "empty"),
        ("\n\n", "None", "empty"),
        (LINE + LINE[:400], "line 2", "instead of 150"),
        (LINE + "\n" + LINE, "line 2", "holds 0 numbers"),
        (LINE[:-10] + "\n" + "0.5 " + LINE, "line 1", "holds 149"),
        (LINE[:-10] + "\n" + LINE[:-10] + "\n", "line 1", "holds 149"),
        (LINE + LINE.replace("0.100000", "0,100000", 1), "line 2", "'0,100000'"),
        (LINE + LINE.replace("0.100000", "1_0", 1), "line 2", "'1_0'"),
        (LINE + LINE.replace("0.100000", "nan", 1), "line 2", "'nan'"),
        (LINE + LINE.replace("0.100000", "# 0.1", 1), "line 2", "'#'"),
        (LINE + LINE.replace("0.100000", "1e99", 1), "None", "too large"),
        (LINE + LINE.replace("0.100000", "\u00e9", 1), "line 2", "not a number"),
    ],
)
def test_damaged_skeletons(tmp_path, text, place, word):
    (tmp_path / "0002-L.txt").write_text(text, encoding="latin-1")
    fails(lambda: read_frames(tmp_path / "0002-L.txt"), "0002-L.txt", place, word)


def test_a_cut_last_line_says_so(tmp_path):
    (tmp_path / "0002-L.txt").write_text(LINE + LINE[:400])
    assert "cut off" in fails(lambda: read_frames(tmp_path / "0002-L.txt")).remedy
    fails(lambda: read_frames(tmp_path / "absent.txt"), "cannot be read")


@pytest.mark.parametrize(
    "line, word",
    [
        ("0,1,5,2", "class 0"),
        ("52,1,5,2", "class 52"),
        ("1,-1,5,2", "frames -1"),
        ("1,1,5", "is not class"),
        ("1,1,5,2,3", "is not class"),
        ("1,x,5,2", "is not class"),
        ("1.5,1,5,2", "is not class"),
        ("1 1 5 2", "is not class"),
        ("1,1,99999999999,2", "is not class"),
    ],
)
def test_damaged_labels(tmp_path, line, word):
    file = tmp_path / "0002-L.txt"
    file.write_text(f"3,0,4,2\n\n{line}\n")
    fails(lambda: read_instances(file), "0002-L.txt", "line 3", word)


def test_labels_without_a_line(tmp_path):
    (tmp_path / "0002-L.txt").write_text("\n")
    fails(lambda: read_instances(tmp_path / "0002-L.txt"), "no instance")


def instances(*lines):
    return [pku.Instance(number, *line) for number, line in enumerate(lines, start=1)]


def test_which_frames():
    lines = instances((3, 4, 9, 2), (5, 2, 6, 0), (7, 8, 7, 2), (9, 3, 3, 1))

    def spans(**options):
        return [(place, s.start, s.end) for place, s in ranges(lines, Rules(**options))]

    assert spans() == [(1, 2, 6), (0, 4, 9)]
    assert spans(cut="start-1") == [(1, 1, 6), (3, 2, 3), (0, 3, 9)]  # 8 to 7 is one that ends before it starts in either reading
    assert spans(backwards="swap") == [(1, 2, 6), (0, 4, 9), (2, 7, 8)]
    assert spans(confidence=1) == [(0, 4, 9)]
    fails(lambda: ranges(lines, Rules(backwards="error"), file="f"), "line 3", "ends at frame 7")
    fails(lambda: ranges(instances((3, 0, 9, 2)), Rules(cut="start-1"), file="f"), "line 1", "counts from 1")


def test_labels_beyond_the_take():
    lines = instances((3, 0, 50, 2), (4, 90, 200, 2), (5, 120, 130, 2))
    error = fails(lambda: ranges(lines, frames=100, file="f"), "line 2", "frame 200", "has 100")
    assert "2.00 times" in error.remedy
    assert [s[:2] for _, s in ranges(lines, Rules(beyond="cut"), 100)] == [(0, 50), (90, 100)]


@pytest.mark.parametrize("option", ["cut", "backwards", "beyond", "overlap", "mode"])
def test_unknown_options(forged, option):
    with pytest.raises(ParameterError, match=option):
        find_pku(forged, **{option: "other"})


# ---- the source -------------------------------------------------------------------------------------------------------------------------


def test_the_release(forged, tmp_path):
    source = find_pku(forged)
    clips = list(source.clips())
    assert [c.name for c in clips] == sorted(c.name for c in clips) and len(source) == 9 and source.format == "pku1"
    store = SkeletonStore.write(tmp_path / "store", clips, **source.store)
    assert store.classes == (BACKGROUND, *ACTIONS) and store.frames.shape[1:] == (2, 25, 3)
    assert [store.name(i) for i in store.split("xsub", "test")] == ["0291-L", "0291-M", "0291-R"]
    assert [store.name(i) for i in store.split("xview", "test")] == ["0002-L", "0043-L", "0291-L"]
    assert (store.frame_targets(0).sum(1) > 1).sum() == 5  # the overlap
    assert {c.camera for c in clips} == {"L", "M", "R"} and {c.setup for c in clips} == {"2", "43", "291"}
    assert {c.subject for c in clips} == {None}
    text = "\n".join(source.notes)
    for word in ("phase 1 has 1076", "1 of them left out", "0043-L", "9 overlap", "1 label files are not sorted", "1 have confidence 0"):
        assert word in text


def test_instances_are_cut_by_their_lines(forged):
    whole = {c.name: c for c in read_pku(forged)}
    source = find_pku(forged, mode="trimmed", cut="start-1")
    clips = list(source.clips())
    assert source.store["classes"] == ACTIONS and len(clips) == sum(len(c.segments) for c in whole.values())
    place = locate(forged)
    for clip in clips:
        name, k = clip.name.split("_")
        action, start, end = np.loadtxt(place.labels / f"{name}.txt", delimiter=",", dtype=int)[int(k)][:3]
        assert clip.label == ACTIONS[action - 1] and np.array_equal(clip.xyz, whole[name].xyz[start - 1:end])
    assert len(list(read_pku(forged, mode="trimmed", backwards="swap"))) == len(clips) + 1
    assert len(list(read_pku(forged, mode="trimmed", confidence=1))) == len(clips) - 1


def test_one_label_at_a_time(forged):
    assert any(b.start < a.end for c in read_pku(forged) for a, b in zip(c.segments, c.segments[1:]))
    assert not any(b.start < a.end for c in read_pku(forged, overlap="cut") for a, b in zip(c.segments, c.segments[1:]))


def test_frames_that_show_nobody(release):
    file = release / "Data" / "PKU_Skeleton_Renew" / "0002-L.txt"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([" " + " ".join(["0.000000"] * 150) + "\n"] * 3 + lines[3:]))
    first = next(read_pku(release))
    assert len(first) == len(lines) and not first.present[:3].any()
    assert len(next(read_pku(release, empty="drop"))) == len(lines) - 3
    fails(lambda: next(read_pku(release, empty="error")), "0002-L", "nobody")


@pytest.mark.parametrize("layout", ["mamp", "release"])
def test_folders_by_any_name(tmp_path, layout):
    folder = forge_pku(tmp_path / "v1", layout=layout, sequences=(7, 300))
    assert recognise_pku(folder) == recognise_pku(tmp_path) == "pku1" and len(find_pku(tmp_path)) == 6
    place = locate(folder)
    place.labels.rename(tmp_path / "somewhere")
    fails(lambda: find_pku(folder), "no folders of labels")
    assert len(find_pku(folder, labels=tmp_path / "somewhere")) == 6
    assert recognise_pku(place.skeletons) == "pku1"


def test_both_phases_side_by_side(tmp_path):
    forge_pku(tmp_path / "v1", layout="mamp")
    forge_pku(tmp_path / "v2", phase=2)
    assert recognise_pku(tmp_path) is None
    fails(lambda: find_pku(tmp_path), "both phases")
    source = find_pku(tmp_path, phase=2)
    clips = list(source.clips())
    assert source.format == "pku2" and {c.subject for c in clips} == {"1", "2"} and not any("list" in note for note in source.notes)
    assert find_pku(tmp_path, phase=1).format == "pku1"


def test_lists_of_phase_two_for_phase_one(release, tmp_path):
    second = forge_pku(tmp_path / "v2", phase=2)
    for word in ("subject", "view"):
        target = release / "Split" / f"pku_cross_{word}_v1.txt"
        (release / "Split" / f"cross-{word}.txt").rename(tmp_path / "kept")
        shutil.copy(second / f"cross_{word}_v2.txt", target)
        fails(lambda: find_pku(release), target.name, "line 2", "phase 2")
        target.unlink()
        (tmp_path / "kept").rename(release / "Split" / f"cross-{word}.txt")
    shutil.rmtree(release / "Split")
    source = find_pku(release)
    assert sum("no list was found" in note for note in source.notes) == 2 and set(source.store["splits"]) == {"xsub", "xview"}


def test_a_list_of_ones_own(release):
    file = release / "Split" / "cross-subject.txt"
    file.write_text("Training videos:\n0291-L, 0291-M, 0291-R, 0043-L, 0043-M, 0043-R\nTest videos:\n0002-L, 0002-M, 0002-R\n")
    source = find_pku(release)
    rule = source.store["splits"]["xsub"]
    assert pickle.loads(pickle.dumps(rule))(make_clip("0002-L_003", 1)) == "test" and any("6 videos" in note for note in source.notes)
    file.write_text("Training videos:\n0291-L\nTest videos:\n0002-L\n")
    fails(lambda: find_pku(release), "cross-subject.txt", "does not name 7 of 9")


def test_videos_without_a_partner(release):
    (release / "Label" / "Train_Label_PKU_final" / "0002-L.txt").unlink()
    (release / "Data" / "PKU_Skeleton_Renew" / "0002-M.txt").unlink()
    notes = find_pku(release).notes
    assert any("1 videos without labels left out: 0002-L" in n for n in notes)
    assert any("1 videos without skeletons left out: 0002-M" in n for n in notes)
    for file in (release / "Label" / "Train_Label_PKU_final").iterdir():
        file.rename(file.with_stem(f"0{300 + int(file.stem[:4])}-{file.stem[-1]}"))
    fails(lambda: find_pku(release), "no video has both")


def test_a_damaged_label_file_is_reported_when_it_is_reached(release):
    (release / "Label" / "Train_Label_PKU_final" / "0043-M.txt").write_text("77,1,2,2\n")
    source, damaged = find_pku(release), []
    assert len(list(source.clips(damaged=damaged))) == 8
    assert [(e.place, e.what) for e in damaged] == [("line 1", "class 77 does not exist")]


def test_nothing_there(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        fails(lambda path=path: find_pku(path), "no skeletons")
        assert recognise_pku(path) is None and recognise_pku_detection(path) is None
        fails(lambda path=path: find_pku_detection(path), "no windows")
    (tmp_path / "0002-L.txt").write_text("neither this nor that\n")
    assert recognise_pku(tmp_path) is None


def test_many_processes_give_the_same(forged):
    one, two = list(read_pku(forged, mode="trimmed")), list(read_pku(forged, mode="trimmed", workers=2))
    assert [c.name for c in one] == [c.name for c in two] and all(np.array_equal(a.xyz, b.xyz) for a, b in zip(one, two))


# ---- windows for detection --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def windows(tmp_path):
    return forge_pku_detection(tmp_path / "windows")


def test_windows(windows, tmp_path):
    source = find_pku_detection(windows, first_class=2)
    assert recognise_pku_detection(windows) == "pku_detection"
    clips = list(source.clips())
    store = SkeletonStore.write(tmp_path / "store", clips, **source.store)
    assert set(store.table["part"]) == {"train", "test"} and clips[0].name == "train_000000" and clips[0].camera == "M"
    labels = np.concatenate([np.load(windows / f"{part}_label.npy") for part in ("train", "val")])
    for i, label in enumerate(labels):
        assert np.array_equal(store.frame_labels(i), np.maximum(label - 1, 0))
    starts = (windows / "val_start_list.txt").read_text().split()
    assert [c.setup for c in clips if c.name.startswith("val")] == [f"0291-M@{s}" for s in starts]


def test_whole_videos_with_padding(tmp_path):
    data = np.zeros((2, 30, 25, 3, 2), np.float32)
    data[..., 0], data[..., 1] = 1, 2
    labels = np.zeros((2, 30))
    labels[:, 5:9], labels[0, 12:15], labels[1, 20:] = 7, 52, 255
    np.save(tmp_path / "val_data.npy", data)
    np.save(tmp_path / "val_label.npy", labels)
    (tmp_path / "val_video_name.txt").write_text("0291-L\n0292-L\n")
    (tmp_path / "val_start_list.txt").write_text("0\n0\n")
    one, two = read_pku_detection(tmp_path)
    assert (len(one), len(two)) == (30, 20) and one.segments[1] == (5, 9, ACTIONS[5]) and one.segments[3] == (12, 15, ACTIONS[50])
    assert (two.xyz[:, 0] == 1).all() and (two.xyz[:, 1] == 2).all()
    labels[1, 3] = 255
    np.save(tmp_path / "val_label.npy", labels)
    fails(lambda: list(read_pku_detection(tmp_path)), "row 1", "padding")


@pytest.mark.parametrize(
    "occurring, asked, expected",
    [([0, 1, 5], None, 1), ([0, 5, 52, 255], None, 2), ([0, 5], 2, 2), ([0, 5], None, 0), ([1, 52], None, 0), ([1], 2, 0)],
)
def test_what_the_first_action_is(occurring, asked, expected):
    labels = np.array([occurring])
    if expected:
        assert pku._first_class(labels, asked, "f") == expected
    else:
        fails(lambda: pku._first_class(labels, asked, "f"), "cannot be told")


@pytest.mark.parametrize("wrong", [-1, 53, 254, 0.5])
def test_labels_that_cannot_be(wrong):
    fails(lambda: pku._first_class(np.array([[0.0, 1], [0, wrong]]), None, "f"), "row 1", "holds the label")


@pytest.mark.parametrize(
    "file, change, word",
    [
        ("train_data.npy", lambda f: np.save(f, np.zeros((2, 50, 25, 3), np.float32)), "is float32 (2, 50, 25, 3)"),
        ("train_label.npy", lambda f: np.save(f, np.zeros((2, 50), int)), "but the data are"),
        ("train_label.npy", lambda f: f.write_bytes(f.read_bytes()[:-40]), "no array file"),
        ("train_video_name.txt", lambda f: f.write_text("0002-L\n"), "has 1 lines"),
        ("train_start_list.txt", lambda f: f.write_text(f.read_text().replace("25", "-5", 1)), "'-5'"),
        ("train_video_name.txt", lambda f: f.write_text(f.read_text().replace("0002", "two", 1)), "'two-M'"),
        ("train_data.npy", lambda f: np.save(f, np.array([{}])), "no array file"),
    ],
)
def test_damaged_windows(windows, file, change, word):
    change(windows / file)
    fails(lambda: find_pku_detection(windows, first_class=2), file, word)


def test_a_pickled_list(tmp_path):
    data = np.random.default_rng(0).normal(0, 1, (3, 64, 25, 2)).astype(np.float32)
    good = {"name": "0002-L.txt_3", "data": data, "label": np.repeat([0, 51], 32)}
    file = tmp_path / "train.pkl"
    file.write_bytes(pickle.dumps([good]))
    (clip,) = read_pku_detection(file)
    assert clip.segments == ((0, 32, BACKGROUND), (32, 64, "writing")) and clip.camera == "L" and clip.name == "train_000000"
    assert np.array_equal(clip.xyz[:, 1, 4, 2], data[2, :, 4, 1])
    bad = [{"data": data[:2]}, {"label": np.full(64, 0.5)}, {"label": np.full(64, 52)}, {"data": data * np.nan}, {"label": "walk"}]
    for window in ({"name": "x"}, 7, *(good | changed for changed in bad)):
        file.write_bytes(pickle.dumps([good, window]))
        error = fails(lambda: list(read_pku_detection(file)), "train.pkl")
        assert "row 1" in error.place or "train_000001" in error.place
    file.write_bytes(pickle.dumps({"data": data}))
    fails(lambda: list(read_pku_detection(file)), "no list")


# ---- anything at all --------------------------------------------------------------------------------------------------------------------


def survives(attempt):
    try:
        return attempt()
    except DataError as e:
        assert e.file and e.remedy


@FUZZ
@given(data=st.data())
def test_damaged_text_is_an_error_or_a_clip(tmp_path, data):
    lists = b"Training videos: \n0002-L, \nValidataion videos: \n0291-L,\n"
    good = data.draw(st.sampled_from([LINE.encode() * 3, b"3,1,2,2\n4,2,3,1\n", lists]))
    text = bytearray(good[: data.draw(st.integers(0, len(good)))])
    for _ in range(data.draw(st.integers(0, 4)) if text else 0):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path / "0002-L.txt"
    file.write_bytes(text)
    frames = survives(lambda: read_frames(file))
    assert frames is None or (frames.shape[1:] == (2, 25, 3) and np.isfinite(frames).all())
    survives(lambda: ranges(read_instances(file), frames=3, file=file))
    survives(lambda: read_split(file))
    recognise_pku(tmp_path)


@FUZZ
@given(st.binary(max_size=300))
@example(b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000, 200, 25, 6), }".ljust(128) + b"\n")
@example(b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (0, 200, 25, 6), }".ljust(127) + b"\n")
@example(b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1, 200, 25, 6), }".ljust(127) + b"\n")
def test_random_bytes(tmp_path, content):
    for name in ("train_data.npy", "train_label.npy", "train_video_name.txt", "train_start_list.txt", "windows.pkl", "0002-L.txt"):
        (tmp_path / name).write_bytes(content)
    survives(lambda: find_pku_detection(tmp_path))
    survives(lambda: list(read_pku_detection(tmp_path / "windows.pkl")))
    survives(lambda: read_frames(tmp_path / "0002-L.txt"))
    survives(lambda: read_instances(tmp_path / "0002-L.txt"))
