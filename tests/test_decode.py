import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.errors import DataError, ParameterError
from skelnb.evaluation.decode import decode, decode_activity, decode_argmax_runs, decode_oic, decode_window, nms, smooth
from skelnb.evaluation.events import COLUMNS, event_map, event_maps, event_table, label_events

PROBS = np.array([(.9, .05, .05), (.5, .3, .2), (.2, .7, .1), (.1, .2, .7), (.3, .1, .6), (.95, .03, .02), (.6, .1, .3), (.6, .35, .05)])


def plain(table, *columns):
    return table[list(columns or COLUMNS[1:4])].values.tolist()


def test_smooth_golden():
    np.testing.assert_allclose(smooth(np.arange(8), 2), [.5, 1, 1.5, 2.5, 3.5, 4.5, 5, 5.5])
    np.testing.assert_allclose(smooth(np.eye(6)[3], 1), [0, 0, 0, .5, .5, 0])
    np.testing.assert_array_equal(smooth([3.], 10), [3.])


@given(st.integers(2, 40), st.integers(1, 12), st.sampled_from(["official", "corrected"]))
@settings(max_examples=60, deadline=None)
def test_smooth_against_slices(T, k, mode):
    x = np.random.default_rng(T).random((T, 3))
    high = lambda i: min(i + k, T - 1) if mode == "official" else i + k + 1
    np.testing.assert_allclose(smooth(x, k, mode), [x[max(0, i - k):high(i)].mean(0) for i in range(T)])
    if mode == "official":  # the last frame is never looked at
        np.testing.assert_array_equal(smooth(x, k), smooth(np.concatenate([x[:-1], x[-1:] + 9]), k))


def test_activity_golden():
    table = decode_activity(PROBS, video="v")
    assert tuple(table.columns) == COLUMNS and (table.video == "v").all()
    assert plain(table) == [[2, 1, 5], [1, 6, 8]]
    np.testing.assert_allclose(table.score, [.4, .225])
    assert plain(decode_activity(PROBS, min_length=3)) == [[2, 1, 5]]
    assert decode_activity(np.eye(3)[[0, 0]]).empty and plain(decode_activity(np.eye(3)[[2, 2]])) == [[2, 0, 2]]


def test_activity_with_another_background_column():
    assert plain(decode_activity(PROBS[:, [1, 2, 0]], background=2)) == [[1, 1, 5], [0, 6, 8]]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_argmax_runs_of_certain_frames_are_the_label_events(labels):
    labels = np.array(labels)
    table, truth = decode_argmax_runs(np.eye(4)[labels], video="v"), label_events({"v": labels})
    assert plain(table) == plain(truth) and (table.score == 1).all()
    if len(truth):
        assert event_map(table, truth, 1.0, "corrected")["map_a"] == 1


def test_argmax_runs_options():
    assert plain(decode_argmax_runs(PROBS, background=None))[0] == [0, 0, 2]
    assert plain(decode_argmax_runs(PROBS, min_length=2)) == [[2, 3, 5]]


def test_nms_golden_and_modes():
    spans = [0, 2, 9, 40, 0], [10, 12, 30, 50, 50], [.9, .8, .7, .95, .1]
    assert nms(*spans).tolist() == [3, 0, 2]
    assert nms(*spans, mode="corrected").tolist() == [3, 0, 2] and nms([], [], []).tolist() == []
    for mode, inner_first, outer_first in (("official", [1, 0], [0]), ("corrected", [1, 0], [0, 1])):
        assert nms([0, 0], [50, 9], [.5, .9], mode=mode).tolist() == inner_first  # little of the long one is covered
        assert nms([0, 0], [50, 9], [.9, .5], mode=mode).tolist() == outer_first  # all of the short one is
    assert nms([0, 0], [5, 5], [1, 1]).tolist() == [1] and nms([0, 0], [5, 5], [1, 1], mode="corrected").tolist() == [0]


def _scores(*spans):
    x = np.full((20, 3), .02)
    for s, e, c in spans:
        x[s:e, c] = .96
    return x


BABEL = {"v0": _scores((3, 11, 0), (15, 20, 1)), "v1": _scores((12, 20, 0), (0, 9, 1))}
BABEL_TRUTH = event_table([("v0", 0, 3, 11), ("v0", 1, 15, 20), ("v1", 1, 0, 6), ("v1", 0, 12, 20)])


def test_babel_golden():
    found = decode(BABEL, "oic", video_scores={v: (.9, .9, 0) for v in BABEL}, background=2, mode="official")
    found = found.sort_values(["label", "video"])
    assert plain(found, "video", "label", "start", "end") == [["v0", 0, 3, 12], ["v1", 0, 12, 21], ["v0", 1, 15, 21], ["v1", 1, 0, 10]]
    np.testing.assert_allclose(found.score, [.8436, .948, .948, .854], atol=5e-5)
    maps = event_maps(found, BABEL_TRUTH, (.1, .3, .5, .6, .7, .8), "swtal")
    np.testing.assert_allclose(100 * maps["map_a"], [100, 100, 100, 75, 50, 0])


def test_exact_oic_finds_the_frames():
    found = decode(BABEL, "oic", background=2)
    assert event_map(found, BABEL_TRUTH, .6, "corrected")["map_a"] == 1
    perfect = decode_oic(_scores((3, 11, 0)))
    assert plain(perfect) == [[0, 3, 11]] and perfect.score[0] == pytest.approx(.96 - .6 * .02)


@pytest.mark.parametrize("n", [3, 8, 20])
def test_swtal_iou_of_a_perfect_segment(n):
    x = np.full((40, 2), .02)
    x[10:10 + n, 0] = .96
    found, truth = decode_oic(x, background=1, mode="official"), event_table([(0, 0, 10, 10 + n)])
    limit = (n - 1) / (n + 1)
    assert event_map(found, truth, limit, "swtal")["map_a"] == 1 and event_map(found, truth, limit + 1e-9, "swtal")["map_a"] == 0


def test_oic_filters():
    assert decode_oic(_scores((3, 5, 0))).empty  # two frames are no event
    assert decode_oic(BABEL["v0"], (.05, .9, .9)).label.tolist() == [1]
    assert decode_oic(np.zeros((5, 2))).empty
    whole = decode_oic(np.full((6, 1), .5))  # nothing outside to compare with
    assert plain(whole) == [[0, 0, 6]] and whole.score[0] == .5


def test_window_golden():
    x = np.full((51, 5), .01)
    x[0:8, 1] = x[12:30, 4] = x[33:43, 3] = 1.
    assert plain(decode_window(x), "label", "start", "end", "score") == [[1, 0, 7, 1], [4, 12, 27, 1]]
    assert decode_window(x[:15]).empty


def test_decode_joins_videos():
    table = decode([PROBS, PROBS[:3]], "argmax_runs")
    assert table.video.tolist() == [0, 0, 1] and table.index.tolist() == [0, 1, 2]
    assert decode([np.eye(3)[[0, 0]]]).empty and decode({}).empty


def test_errors():
    with pytest.raises(ParameterError, match="argmax_runs"):
        decode([PROBS], "viterbi")
    with pytest.raises(ParameterError, match="background"):
        decode_activity(PROBS, background=3)
    with pytest.raises(ParameterError, match="mode"):
        smooth(PROBS, 2, "parity")
    with pytest.raises(ParameterError, match="k >= 1"):
        smooth(PROBS, 0)
    with pytest.raises(DataError, match="video 'v'"):
        decode({"v": PROBS[0]})
    bad = PROBS.copy()
    bad[4, 1] = np.inf
    with pytest.raises(DataError, match="video 'v' row 4"):
        decode({"v": bad})
    with pytest.raises(DataError, match="2 video scores|video scores"):
        decode_oic(PROBS, (.5, .5))
