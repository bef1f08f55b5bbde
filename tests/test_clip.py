"""Clip: what is accepted, and where each fault is found."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import make_clip
from hypothesis import given
from hypothesis import strategies as st

from skelnb.data.clip import AXES, Clip, Segment, admit, disjoint, drop_empty_frames, frame_labels, frame_targets, runs, trimmed
from skelnb.errors import DataError, LayoutError, ParameterError
from skelnb.topology import layout, map_joints


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


# ---- units, verticals, layouts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad, what", [
    (dict(up="up"), "up 'up'"), (dict(units="mm"), "units 'mm'"), (dict(fps=np.nan), "fps nan"), (dict(image_size=(640, 0)), "image of size"),
    (dict(image_size=(640,)), "image of size"), (dict(confidence=np.ones((3, 1, 25))), "confidence has shape"),
    (dict(confidence=np.full((40, 1, 25), np.inf)), "confidence is NaN"),
])
def test_what_a_clip_must_state(bad, what):
    with pytest.raises(DataError, match=what):
        replace(make_clip(), **bad).check()


@pytest.mark.parametrize("up", AXES)
def test_orient_is_a_rotation_that_can_be_undone(up):
    clip = make_clip(T=5, up="y", confidence=np.ones((5, 1, 25)))
    turned = clip.oriented(up)
    sign, axis = (-1 if up[0] == "-" else 1), "xyz".index(up[-1])
    assert turned.up == up and np.array_equal(turned.xyz[..., axis] * sign, clip.xyz[..., 1])
    assert np.array_equal(turned.oriented("y").xyz, clip.xyz)
    a, b, c = (turned.xyz[0, 0, i] - turned.xyz[0, 0, 0] for i in (1, 2, 3))
    p, q, r = (clip.xyz[0, 0, i] - clip.xyz[0, 0, 0] for i in (1, 2, 3))
    assert np.linalg.det([a, b, c]) == pytest.approx(np.linalg.det([p, q, r]), rel=1e-4), "a mirror image"


def test_pictures_are_not_turned():
    with pytest.raises(ParameterError, match="cannot be turned y up.*\n.*metres"):
        Clip(np.ones((3, 1, 17, 2)), 30, "coco17", "c", units="px", up="-y").oriented()


def test_to_layout_marks_what_was_made_up():
    score = np.full((4, 2, 17), 0.5)
    clip = Clip(np.random.default_rng(0).normal(size=(4, 2, 17, 3)), 30, "coco17", "c", confidence=score, observed=np.arange(17) != 9)
    clip.xyz[:, 1] = 0
    mapped = clip.to("h36m17").check()
    expected, copied = map_joints(clip.xyz, "coco17", "h36m17")
    assert np.array_equal(mapped.xyz, expected) and mapped.layout == "h36m17" and not mapped.present[:, 1].any()
    wrist = layout("h36m17").meaning.index(layout("coco17").meaning[9])
    assert copied[wrist] and not mapped.observed[wrist] and mapped.observed.sum() == copied.sum() - 1
    assert ((mapped.confidence > 0) == copied).all() and clip.to("coco17") is clip


def test_gaps_take_everything_along_time_with_them():
    clip = make_clip(T=6, confidence=np.arange(6)[:, None, None] * np.ones((6, 1, 25)))
    clip.xyz[2:4] = 0
    assert drop_empty_frames(clip).confidence[:, 0, 0].tolist() == [0, 1, 4, 5]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12), st.sampled_from("abc")), min_size=1, max_size=8))
def test_disjoint_agrees_with_painting(drawn):
    segments = [(s, min(s + n, 40), label) for s, n, label in sorted(drawn, key=lambda d: d[0])]
    clip = make_clip(segments=segments).check(allow_overlap=True)
    classes = ["background", "a", "b", "c"]
    painted = frame_labels(clip, classes)
    flat = replace(clip, segments=disjoint(clip.segments)).check()
    assert np.array_equal(frame_labels(flat, classes), painted)
    targets = frame_targets(clip, classes)
    assert targets[np.arange(40), painted].all() and (targets[:, 0] == (painted == 0)).all()


def test_trimmed_clips_are_the_segments():
    confidence = np.random.default_rng(0).random((50, 1, 25)).astype(np.float32)
    segments = [(0, 12, "wave"), (10, 20, "punch"), (20, 25, "background"), (30, 34, "punch"), (40, 50, "wave")]
    take = make_clip("take", 50, segments=segments, subject="s1", confidence=confidence)
    take.xyz[40:43] = take.xyz[48:] = 0
    found = {c.name: c for c in trimmed(take, shortest=5)}
    assert {n: (c.label, len(c)) for n, c in found.items()} == {"take_000": ("wave", 12), "take_001": ("punch", 10), "take_004": ("wave", 5)}
    assert np.array_equal(found["take_004"].xyz, take.xyz[43:48]) and np.array_equal(found["take_001"].confidence, confidence[10:20])
    assert all(c.subject == "s1" and not c.segments for c in found.values())
    assert list(trimmed(make_clip("empty", 10))) == []
