import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, confusion_matrix

from skelnb.errors import DataError, ParameterError
from skelnb.evaluation.framewise import confusion, edit_score, f1_at, frame_accuracy, iou, per_frame_map, segmental, segments

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


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.data())
@settings(max_examples=80, deadline=None)
def test_against_plain_loops(truth, data):
    pred = data.draw(st.lists(st.integers(0, 3), min_size=len(truth), max_size=len(truth)))
    a, b = (segments(np.array(x))[:, 2].tolist() for x in (pred, truth))
    table = [[i + j for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (a[i - 1] != b[j - 1]))
    assert edit_score(np.array(pred), np.array(truth)) == pytest.approx(1 - table[-1][-1] / max(len(a), len(b), 1))
    for k in (.1, .25, .5):
        p, g = segments(np.array(pred)).tolist(), segments(np.array(truth)).tolist()
        taken, fp = set(), 0
        for s, e, c in p:
            overlaps = [(min(e, ge) - max(s, gs)) / (max(e, ge) - min(s, gs)) if c == gc else 0 for gs, ge, gc in g]
            best = int(np.argmax(overlaps)) if g else -1
            if g and overlaps[best] >= k and best not in taken:
                taken.add(best)
            else:
                fp += 1
        f1 = 2 * len(taken) / (2 * len(taken) + fp + len(g) - len(taken)) if p or g else 1
        assert f1_at(np.array(pred), np.array(truth), k) == pytest.approx(f1)


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
