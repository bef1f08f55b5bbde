import loops
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, confusion_matrix

from skelnb.errors import DataError, ParameterError
from skelnb.evaluation import framewise as module
from skelnb.evaluation.framewise import (
    confusion,
    count_scores,
    edit_score,
    f1_at,
    frame_accuracy,
    iou,
    label_pairs,
    per_frame_map,
    segmental,
    segments,
    stable_order,
    video_counts,
)

ROWS = [  # truth, predicted ('0' = background), acc, edit, F1 at 10, 25, 50, in percent
    ("AAAABBBBCC", "AABBBBBBCC", 80, 100, 100, 100, 100),
    ("AAAABBBBCC", "AAABAABBCC", 70, 60, 75, 75, 75),
    ("00AAAA00BB", "0AAAAA0BBB", 80, 100, 100, 100, 100),
    ("AAAABBBBCC", "CCBBBBAAAA", 20, 33.3333, 33.3333, 33.3333, 0),
    ("AABBAABB", "AAAABBBB", 50, 50, 66.6667, 66.6667, 66.6667),
    ("AAAA0AAAA0", "AAAAAAAAA0", 90, 50, 66.6667, 66.6667, 0),
    ("AAAAAAAA", "AABAABAA", 75, 20, 33.3333, 33.3333, 0),
]


def ids(text):
    return np.array([0 if c == "0" else ord(c) - 64 for c in text])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[1])
def test_golden_rows(row):
    truth, pred, *expected = row
    scores = segmental([ids(pred)], [ids(truth)])
    assert list(scores) == ["acc", "edit", "f1@10", "f1@25", "f1@50"]
    np.testing.assert_allclose(100 * np.array(list(scores.values())), expected, atol=1e-4)


def test_videos_are_pooled_for_accuracy_and_f1_and_averaged_for_edit():
    truth, pred = [ids("AAAAAA"), ids("AB")], [ids("AAAAAA"), ids("BA")]
    assert frame_accuracy(pred, truth) == 6 / 8
    assert edit_score(pred, truth) == (1 + 0) / 2  # AB -> BA costs two of two
    assert f1_at(pred, truth, .5) == 2 * 1 / (3 + 3)


def test_guards():
    empty, a = ids("000"), ids("AAA")
    assert segmental(empty, empty) == {"acc": 1, "edit": 1, "f1@10": 1, "f1@25": 1, "f1@50": 1}
    for pair in ((a, empty), (empty, a)):
        assert segmental(*pair)["edit"] == 0 and segmental(*pair)["f1@10"] == 0
    assert edit_score(a, a, background=None) == 1 and len(segments(empty, None)) == 1


videos = st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30), min_size=1, max_size=6)


@given(videos, st.sampled_from([0, None, 2]))
@settings(max_examples=150, deadline=None)
def test_against_plain_loops(frames, background):
    """Several videos, also empty ones; one-frame segments, ties, classes on one side only, nothing but background."""
    pred, truth = ([[f[side] for f in v] for v in frames] for side in (0, 1))
    arrays = [[np.array(v, dtype=int) for v in side] for side in (pred, truth)]
    if not any(frames):
        with pytest.raises(DataError, match="no frames"):
            segmental(*arrays)
        return
    expected = {"acc": loops.frame_accuracy(pred, truth), "edit": loops.edit_score(pred, truth, background)}
    expected |= {f"f1@{k}": loops.f1_at(pred, truth, k / 100, background) for k in (10, 25, 50)}
    assert segmental(*arrays, background) == pytest.approx(expected)
    assert frame_accuracy(*arrays) == expected["acc"] and edit_score(*arrays, background) == pytest.approx(expected["edit"])
    assert f1_at(*arrays, .25, background) == expected["f1@25"]
    counts = video_counts(*arrays, background, (.3,))
    for p, t, row in zip(pred, truth, counts.itertuples(index=False)):
        assert row == (len(t), sum(map(int.__eq__, p, t)), *[len(loops.runs(x, background)) for x in (p, t)], loops.edit(p, t, background),
                       loops.f1_counts(p, t, .3, background)[0])
    assert confusion(*arrays, 4).tolist() == [[sum((b, a) == (i, j) for v in frames for a, b in v) for j in range(4)] for i in range(4)]


@pytest.mark.parametrize("name, size", [("FRAMES", 1), ("FRAMES", 40), ("CELLS", 1), ("CELLS", 60)])
def test_blocks_do_not_change_the_scores(monkeypatch, name, size):
    rng = np.random.default_rng(0)
    pred, truth = ([rng.integers(0, 4, n) for n in (30, 1, 0, 55, 7, 30, 2)] for _ in range(2))
    whole = video_counts(pred, truth)
    monkeypatch.setattr(module, name, size)
    assert video_counts(pred, truth).equals(whole)


@given(st.lists(st.tuples(st.text("abc", max_size=12), st.text("abc", max_size=12)), min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_edit_distances_of_many_lists_at_once(words):
    codes = [np.array([ord(c) for w in side for c in w], dtype=np.int64) for side in zip(*words)]
    lengths = [np.array([len(w) for w in side]) for side in zip(*words)]
    got = module._edit_distances(codes[0], lengths[0], codes[1], lengths[1])
    assert got.tolist() == [loops.levenshtein(a, b) for a, b in words]


def test_counts_of_some_videos_are_their_scores():
    rng = np.random.default_rng(3)
    pred, truth = ({f"v{i}": rng.integers(0, 3, 20 + i).repeat(2) for i in range(6)} for _ in range(2))
    counts = video_counts(pred, truth)
    assert counts.index.tolist() == list(truth) and count_scores(counts) == segmental(pred, truth)
    some = ["v4", "v1", "v5"]
    assert count_scores(counts.loc[some]) == segmental(*({v: side[v] for v in some} for side in (pred, truth)))


def test_invariances():
    """A frame rate k times as high on both sides, another order of the videos, other names, another numbering of the classes."""
    rng = np.random.default_rng(4)
    truth = {v: rng.integers(0, 4, 12).repeat(rng.integers(1, 9, 12)) for v in "abcde"}
    pred = {v: np.where(rng.random(len(t)) < .8, t, 1) for v, t in truth.items()}
    scores = segmental(pred, truth)
    for k in (2, 3, 7):
        assert segmental(*({v: y.repeat(k) for v, y in side.items()} for side in (pred, truth))) == scores
        assert (confusion(*({v: y.repeat(k) for v, y in side.items()} for side in (pred, truth)), 4) == k * confusion(pred, truth, 4)).all()
    order = list("dbeca")
    assert segmental({v: pred[v] for v in order}, {v: truth[v] for v in order}) == pytest.approx(scores, rel=1e-14)
    assert segmental({v: pred[v] for v in order}, truth) == scores  # paired by name
    assert segmental({f"x{v}": y for v, y in pred.items()}, {f"x{v}": y for v, y in truth.items()}) == scores
    other = np.array([0, 3, 1, 2])
    assert segmental({v: other[y] for v, y in pred.items()}, {v: other[y] for v, y in truth.items()}) == scores
    assert (confusion(pred, truth, 6)[:4, :4] == confusion(pred, truth, 4)).all() and confusion(pred, truth, 6)[4:].sum() == 0


def test_label_pairs_are_the_labels():
    rng = np.random.default_rng(5)
    pred, truth = ({v: rng.integers(0, 2, n) for v, n in (("a", 20), ("empty", 0), ("b", 9))} for _ in range(2))
    pairs = label_pairs(pred, truth)
    for k, name in enumerate(truth):
        of = pairs.video == k
        assert pairs.pred[of].repeat(pairs.frames[of]).tolist() == pred[name].tolist()
        assert pairs.truth[of].repeat(pairs.frames[of]).tolist() == truth[name].tolist()
        assert pairs.start[of].tolist() == (np.cumsum(pairs.frames[of]) - pairs.frames[of]).tolist()


def test_names_forms_and_tensors():
    truth = {"x": ids("AAB"), "y": ids("A")}
    assert frame_accuracy({"y": ids("A"), "x": ids("AAA")}, truth) == 3 / 4
    assert frame_accuracy(torch.tensor([1, 1, 2]), torch.tensor([1, 1, 1])) == 2 / 3


@pytest.mark.parametrize("pred, truth, word", [
    ({"x": ids("AA")}, {"x": ids("AAA")}, "video 'x'"),
    ({"x": ids("AA")}, {"y": ids("AA")}, "only one of"),
    ([np.array([.5, 1.])], [ids("AA")], "video 0"),
    ([np.zeros((2, 2), int)], [ids("AA")], "(T,) whole numbers"),
    ([], [], "no video"),
    ([np.zeros(0, int)], [np.zeros(0, int)], "no frames"),
    ({"x": ids("AA"), "y": ids("A")}, {"x": ids("AA"), "y": ids("A") - 2}, "video 'y' frame 0"),
    ([ids("A"), np.array([1, 2, -100, 0])], [ids("A"), ids("ABCD")], "video 1 frame 2"),
    ({"x": ids("A"), "other": ids("A")}, {"x": ids("A")}, "video 'other'"),
])
def test_bad_labels(pred, truth, word):
    with pytest.raises(DataError) as e:
        frame_accuracy(pred, truth)
    assert word in str(e.value)


def test_bad_overlap():
    for overlap in (0, 10, -1):
        with pytest.raises(ParameterError):
            f1_at(ids("A"), ids("A"), overlap)


def test_iou_of_real_and_empty_segments():
    assert iou(0, 10, 5, 15) == pytest.approx(1 / 3) and iou(.5, 1.5, .5, 1.5) == 1
    assert iou(3, 3, 3, 3) == 0 and iou(0, 10, 5, 5) == 0 and iou(0, 1, 2, 3) < 0
    assert iou(np.zeros((4, 1)), np.ones((4, 1)), np.zeros(3), np.ones(3)).shape == (4, 3)


def test_confusion():
    rng = np.random.default_rng(0)
    pred, truth = rng.integers(0, 5, 300), rng.integers(0, 5, 300)
    np.testing.assert_array_equal(confusion(pred, truth, 5), confusion_matrix(truth, pred, labels=range(5)))
    with pytest.raises(DataError, match="frame 0"):
        confusion(np.array([5]), np.array([0]), 5)
    with pytest.raises(DataError, match="video 'b' frame 3"):
        confusion({"a": ids("AB"), "b": ids("AAAA")}, {"a": ids("AB"), "b": np.array([1, 1, 1, 7])}, 5)


SCORES = np.array([(.9, .2, .1), (.8, .6, .3), (.3, .7, .2), (.6, .1, .4)])
TARGETS = np.array([(1, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 0)])


def test_per_frame_map_golden():
    official = per_frame_map(SCORES, TARGETS)
    np.testing.assert_allclose(official["per_class"], [.805556, 1, np.nan], atol=1e-6)
    assert official["map"] == pytest.approx(.902778, abs=1e-6)
    charades = per_frame_map([SCORES[:2], SCORES[2:]], [TARGETS[:2], TARGETS[2:]], "charades")
    np.testing.assert_allclose(charades["per_class"], [.805556, 1, 0], atol=1e-6)
    assert charades["map"] == pytest.approx(.601852, abs=1e-6)


@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 5), st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_corrected_per_frame_map_is_scikit_learns_and_ignores_frame_order(n, k, levels, seed):
    rng = np.random.default_rng(seed)
    scores, targets = rng.integers(0, levels, (n, k)) / levels, rng.integers(0, 2, (n, k))
    targets[0, 0] = 1
    occurs = targets.any(0)
    expected = [average_precision_score(t, s) for s, t in zip(scores.T[occurs], targets.T[occurs])]
    got = per_frame_map(scores, targets, "corrected")
    np.testing.assert_allclose(got["per_class"][occurs], expected)
    order = rng.permutation(n)
    assert per_frame_map(scores[order], targets[order], "corrected")["map"] == pytest.approx(got["map"])


def test_per_frame_map_without_ties_is_scikit_learns_in_every_mode():
    rng = np.random.default_rng(6)
    scores, targets = rng.permutation(4000).reshape(1000, 4) / 4000, rng.random((1000, 4)) < (.01, .2, .7, 0)
    expected = [average_precision_score(t, s) for s, t in zip(scores.T[:3], targets.T[:3])]
    for dtype in (np.float64, np.float32):
        for mode in ("official", "corrected", "charades"):
            got = per_frame_map([scores[:300].astype(dtype), scores[300:].astype(dtype)], [targets[:300], targets[300:] * 1], mode)
            np.testing.assert_allclose(got["per_class"], [*expected, 0 if mode == "charades" else np.nan], rtol=1e-12)
            assert got["map"] == pytest.approx(np.sum(expected) / (4 if mode == "charades" else 3))


def test_per_frame_map_of_repeated_frames_and_of_an_absent_class():
    """Frames k times: only shared ranks keep the score. A class that never occurs: only Charades' mean falls."""
    rng = np.random.default_rng(7)
    scores, targets = rng.random((50, 3)), rng.random((50, 3)) < .3
    numbers = lambda s, t: {m: per_frame_map(s, t, m)["map"] for m in ("official", "corrected", "charades")}
    once, thrice = numbers(scores, targets), numbers(scores.repeat(3, 0), targets.repeat(3, 0))
    assert thrice["corrected"] == pytest.approx(once["corrected"], rel=1e-14) and abs(thrice["official"] - once["official"]) > 1e-3
    absent = numbers(np.c_[scores, rng.random(50)], np.c_[targets, np.zeros(50)])
    assert absent["official"] == once["official"] and absent["corrected"] == once["corrected"]
    assert absent["charades"] == pytest.approx(once["charades"] * 3 / 4)


def test_saturated_scores_depend_on_the_order_of_files_in_official_mode_only():
    scores, targets = [np.ones((3, 1)), np.ones((3, 1))], [np.ones((3, 1)), np.zeros((3, 1))]
    value = lambda mode, step: per_frame_map(scores[::step], targets[::step], mode)["map"]
    assert value("corrected", 1) == value("corrected", -1) == .5
    assert value("official", 1) == 1 and value("official", -1) == pytest.approx((1 / 4 + 2 / 5 + 3 / 6) / 3)


@given(st.lists(st.tuples(st.integers(-3, 3), st.sampled_from([-1., -.5, 0., -0., .25])), max_size=50))
@settings(max_examples=80, deadline=None)
def test_stable_order(rows):
    whole, real = (np.array([r[k] for r in rows], dtype=t) for k, t in ((0, np.int64), (1, np.float64)))
    assert stable_order(real).tolist() == np.argsort(real, kind="stable").tolist()
    assert stable_order(whole, -real).tolist() == np.lexsort((whole, -real)).tolist()


def test_per_frame_map_errors():
    with pytest.raises(ParameterError, match="mode"):
        per_frame_map(SCORES, TARGETS, "best")
    bad = SCORES.copy()
    bad[2, 1] = np.nan
    with pytest.raises(DataError, match="video 1 frame 2"):
        per_frame_map([SCORES, bad], [TARGETS, TARGETS])
    with pytest.raises(DataError, match="one shape"):
        per_frame_map(SCORES[:3], TARGETS)
    with pytest.raises(DataError, match="undefined"):
        per_frame_map(SCORES, 0 * TARGETS)
    with pytest.raises(DataError, match="video 1"):
        per_frame_map([SCORES[:2], SCORES[2:3]], [TARGETS[:2], TARGETS[2:]])
    with pytest.raises(DataError, match="0 or 1"):
        per_frame_map(SCORES, 2 * TARGETS)
    with pytest.raises(DataError, match="one shape"):
        per_frame_map([], [])
