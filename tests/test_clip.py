"""Clip: what is accepted, and where each fault is found."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import make_clip
from hypothesis import given
from hypothesis import strategies as st

from skelnb.data.clip import Clip, Segment, admit, drop_empty_frames, frame_labels, runs
from skelnb.errors import DataError, LayoutError, ParameterError


def fault(clip, error=DataError, **how):
    with pytest.raises(error) as e:
        clip.check("there.csv", **how)
    assert e.value.remedy and (error is not DataError or e.value.file == "there.csv")
    return e.value


def test_sound_clip_is_returned():
    clip = make_clip(M=2, label="wave", subject=3, camera="")
    assert clip.check() is clip and len(clip) == 40 and clip.xyz.dtype == np.float32
    assert (clip.subject, clip.camera) == ("3", None)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_is_named_with_frame_person_and_joint(bad):
    clip = make_clip(M=2)
    clip.xyz[17, 1, 3, 2] = bad
    assert fault(clip).place == "clip 'clip', frame 17, person 1, joint head"


def test_absent_second_person_is_fine_but_an_empty_frame_is_not():
    clip = make_clip(M=2)
    clip.xyz[:, 1] = 0
    clip.xyz[5, 0] = 0
    clip.xyz[5, 1] = 1
    assert clip.check().present[5].tolist() == [False, True]
    clip.xyz[5] = 0
    e = fault(clip)
    assert "frame 5" in e.place and "allow_empty_frames" in e.remedy
    assert clip.check(allow_empty_frames=True) is clip
    assert len(drop_empty_frames(clip).check()) == 39


@pytest.mark.parametrize(
    "shape, word",
    [
        ((10, 1, 20, 3), "20 joints"),
        ((0, 1, 25, 3), "empty"),
        ((10, 25, 3), "(T, M, V, C)"),
        ((10, 1, 25, 4), "4 coordinates"),
        ((10, 0, 25, 3), "0 persons"),
    ],
)
def test_wrong_shapes(shape, word):
    assert word in fault(Clip(np.ones(shape), 30, "kinect_v2", "x")).what


def test_wrong_layout_fps_units_observed():
    clip = make_clip()
    with pytest.raises(LayoutError):
        replace(clip, layout="kinect_v3").check()
    for wrong in (dict(fps=0), dict(fps=float("nan")), dict(units="mm"), dict(observed=[True] * 24)):
        fault(replace(clip, **wrong))


@pytest.mark.parametrize(
    "segments", [[(0, 41, "a")], [(-1, 4, "a")], [(4, 4, "a")], [(7, 3, "a")], [(0, 5, "a"), (4, 8, "b")], [(5, 8, "a"), (0, 3, "b")]]
)
def test_impossible_segments(segments):
    assert "segment" in fault(make_clip(segments=segments)).place


@pytest.mark.parametrize("known", [dict(name=""), dict(name="a\nb"), dict(label="a\tb"), dict(segments=[(0, 3, "")])])
def test_text_that_would_break_tables(known):
    fault(make_clip(**{"name": "n", **known}))


def test_admit():
    clip = make_clip(segments=[(0, 10, "a"), (10, 20, "b"), (30, 40, "c")])
    clip.xyz[5:20] = 0
    with pytest.raises(DataError):
        admit(clip)
    assert admit(clip, empty="keep") is clip
    assert admit(clip, empty="drop").segments == ((0, 5, "a"), (15, 25, "c"))
    clip.xyz[:] = 0
    assert admit(clip, empty="drop") is None
    with pytest.raises(ParameterError):
        admit(clip, empty="skip")


def test_frame_labels():
    clip = make_clip(segments=[(2, 5, "wave"), (5, 9, "punch")])
    labels = frame_labels(clip, ["background", "punch", "wave"])
    assert labels.dtype == np.int64 and runs(labels) == [(0, 2, 0), (2, 5, 2), (5, 9, 1), (9, 40, 0)]
    assert (frame_labels(make_clip(label="wave"), ["punch", "wave"]) == 1).all()
    for bad, classes in (
        (clip, ["background", "wave"]),
        (clip, ["punch", "wave"]),
        (make_clip(), ["wave"]),
        (make_clip(label="sit"), ["wave"]),
    ):
        with pytest.raises(DataError) as e:
            frame_labels(bad, classes)
        assert "clip 'clip'" in e.value.place and e.value.remedy
    gap = pytest.raises(DataError, frame_labels, make_clip(segments=[(0, 9, "wave")]), ["wave"])
    assert "frame 9" in gap.value.place and "background" in gap.value.what


@given(st.lists(st.integers(-2, 2), max_size=40))
def test_runs_are_maximal_and_cover(labels):
    found = runs(np.array(labels, int))
    assert [x for s, e, x in found for _ in range(s, e)] == labels
    assert all(a[1] == b[0] and a[2] != b[2] for a, b in zip(found, found[1:]))


def test_segment_is_a_tuple():
    assert Segment(1, 2, "a") == (1, 2, "a")
