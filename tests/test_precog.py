"""PRECOG as published: against the converted copy, and with every kind of damage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.data.packed import read_packed
from skelnb.data.precog import ACTIONS, GOLDEN, cross_subject, find_precog, forge_precog, read_precog, read_take, recognise_precog
from skelnb.data.store import SkeletonStore
from skelnb.errors import DataError
from skelnb.topology import layout

HEADER = (
    "HipCenter; Spine; ShoulderCenter; Head; ShoulderLeft; ElbowLeft; WristLeft; HandLeft; "
    "ShoulderRight; ElbowRight; WristRight; HandRight; "
    "HipLeft; KneeLeft; AnkleLeft; FootLeft; HipRight; KneeRight; AnkleRight; FootRight"
)


def line(t, action=0):
    return ";".join([f"{0.01 * t:.3f} {0.1 * j:.2f} 2.9" for j in range(20)] + [str(action)])


def take(folder, lines, header=HEADER, name="Seq1_3.csv"):
    (folder / name).write_text("\n".join([header, *lines]) + "\n")
    return folder / name


def test_the_converted_copy_agrees_to_a_millimetre(recordings):
    converted = list(read_packed(recordings / "skeletons" / "precog.npz", empty="keep"))
    published = list(read_precog(recordings / "precog_raw", empty="keep"))
    assert len(published) == 72 and sum(map(len, published)) == 19219
    for ours, theirs in zip(published, converted, strict=True):
        for key in ("name", "subject", "setup", "segments", "fps", "layout"):
            assert getattr(ours, key) == getattr(theirs, key)
        assert np.abs(ours.xyz - theirs.xyz).max() <= 0.001
        assert not (ours.observed & ~theirs.observed).any()  # the copy also counts neck and mid spine as measured
        assert ours.segments[0].start == 0 and ours.segments[-1].end == len(ours)
    test = {c.subject for c in published if cross_subject(c) == "test"}
    assert test == {"precog_03", "precog_06", "precog_09", "precog_12"}


def test_the_two_takes_without_a_skeleton(recordings):
    with pytest.raises(DataError, match="Seq2_10.csv.*206 such frames of 206"):
        list(read_precog(recordings / "precog_raw"))
    names = {c.name for c in read_precog(recordings / "precog_raw", empty="drop")}
    assert len(names) == 70 and not {"precog_p10_s2", "precog_p10_s4"} & names


def test_a_take(tmp_path):
    clip = read_take(take(tmp_path, [line(0), line(1, 1), line(2, 1), line(3, 8)]))
    assert clip.segments == ((0, 1, "background"), (1, 3, "right_punch"), (3, 4, "elbow_strike"))
    assert (clip.name, clip.subject, clip.setup, clip.layout) == ("precog_p03_s1", "precog_03", "script_1", "kinect_v2")
    v2 = layout("kinect_v2")
    assert np.allclose(clip.xyz[2, 0, v2.index("head")], [0.02, 0.3, 2.9]) and clip.observed[v2.index("head")]
    assert not clip.observed[v2.index("thumb_left")]


def test_the_header_says_which_joint_is_where(tmp_path):
    names, cells = HEADER.split("; "), line(1).split(";")
    order = np.random.default_rng(0).permutation(20)
    shuffled = take(tmp_path, [";".join([*(cells[j] for j in order), cells[20]])], "; ".join(names[j] for j in order), "Seq1_2.csv")
    assert np.array_equal(read_take(shuffled).xyz, read_take(take(tmp_path, [line(1)])).xyz)


@pytest.mark.parametrize(
    "lines, place, word",
    [
        ([line(0), line(1)[:-80]], "line 3", "instead of 20"),
        ([line(0), line(1) + ";0"], "line 3", "instead of 20"),
        ([line(0), "", line(1)], "line 3", "0 joints"),
        ([line(0, 9)], "line 2", "action number 9"),
        ([line(0, -1)], "line 2", "-1"),
        ([line(0, "x")], "line 2", "'x'"),
        ([line(0).replace("2.9", "2,9", 1)], "line 2", "2,9"),
        ([line(0), line(1).replace("2.9", "nan", 1)], "frame 1, person 0, joint hip_center", "NaN"),
        ([], "clip", "empty"),
        ([line(0), ";".join(["0 0 0"] * 20 + ["1"])], "frame 1", "nobody"),
    ],
)
def test_damaged_takes(tmp_path, lines, place, word):
    file = take(tmp_path, lines)
    with pytest.raises(DataError) as e:
        read_take(file)
    assert place in e.value.place and word in e.value.what and e.value.file == str(file) and e.value.remedy


@pytest.mark.parametrize(
    "header", ["", "HipCenter; Spine", HEADER.replace("Head", "Tail"), HEADER.replace("Head", "Spine"), HEADER + "; Nose", line(0)]
)
def test_damaged_headers(tmp_path, header):
    with pytest.raises(DataError) as e:
        read_take(take(tmp_path, [line(0)], header))
    assert e.value.place == "line 1" and e.value.remedy


def test_missing_files(tmp_path):
    for attempt in (
        lambda: read_precog(tmp_path / "nowhere"),
        lambda: read_precog(tmp_path),
        lambda: read_take(tmp_path / "Seq1_1.csv"),
        lambda: read_take(tmp_path / "other.csv"),
    ):
        with pytest.raises(DataError) as e:
            attempt()
        assert e.value.remedy
    for name in ("Seq1_1.csv", "Seq2_1.csv", "Seq1_2.csv"):
        take(tmp_path, [line(0)], name=name)
    with pytest.raises(DataError, match="Seq2_2.csv"):
        read_precog(tmp_path)
    (tmp_path / "Seq1_2.csv").unlink()
    assert [c.name for c in read_precog(tmp_path)] == ["precog_p01_s1", "precog_p01_s2"]
    (tmp_path / "Seq1_1.csv").write_bytes(b"")
    with pytest.raises(DataError, match="line 1"):
        list(read_precog(tmp_path))
    (tmp_path / "Seq1_1.csv").write_bytes(b"\x80\xff")
    with pytest.raises(DataError, match="cannot be read"):
        list(read_precog(tmp_path))


# ---- as a source ------------------------------------------------------------------------------------------------------------------------


def test_forged_takes_are_found_and_read(tmp_path):
    folder = forge_precog(tmp_path / "forged", seed=3, people=3, scripts=2)
    assert recognise_precog(folder) == "precog" and recognise_precog(tmp_path) is None and recognise_precog(folder / "Seq1_1.csv") is None
    source = find_precog(folder)
    clips = list(source.clips())
    assert len(source) == len(clips) == 6 and [c.name for c in clips] == [c.name for c in read_precog(folder)]
    store = SkeletonStore.write(tmp_path / "store", clips, **source.store)
    assert store.classes == ACTIONS and store.split("cross_subject", "test").tolist() == [4, 5]
    (folder / "Seq1_2.csv").unlink()
    with pytest.raises(DataError, match="1 of 6 takes are missing: Seq1_2.csv"):
        find_precog(folder)


def test_golden_counts(recordings):
    source = find_precog(recordings / "precog_raw", empty="keep")
    clips = list(source.clips())
    assert GOLDEN["precog"] == {"clips": len(clips), "frames": sum(map(len, clips))}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_takes_raise_data_errors_only(forged_take, data):
    text = bytearray(forged_take.read_bytes())
    kind = data.draw(st.sampled_from(("cut", "flip", "noise")))
    if kind == "cut":
        text = text[: data.draw(st.integers(0, len(text)))]
    elif kind == "flip":
        for place, value in data.draw(st.lists(st.tuples(st.integers(0, len(text) - 1), st.integers(0, 255)), min_size=1, max_size=4)):
            text[place] = value
    else:
        text = data.draw(st.binary(max_size=300))
    file = forged_take.with_name("Seq9_9.csv")
    file.write_bytes(text)
    try:
        read_take(file, empty="keep").check(file, allow_empty_frames=True)
    except DataError as e:
        assert e.file.endswith("Seq9_9.csv") and e.remedy


@pytest.fixture(scope="module")
def forged_take(tmp_path_factory):
    file = forge_precog(tmp_path_factory.mktemp("fuzz"), people=1, scripts=1) / "Seq1_1.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:6]))
    return file
