import numpy as np
import pytest
import reference_events as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.errors import DataError, ParameterError
from skelnb.evaluation import decode as module
from skelnb.evaluation.decode import DECODERS, decode, decode_activity, decode_argmax_runs, decode_oic, decode_window, nms, smooth
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


proposals = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 12), st.integers(0, 4), st.integers(0, 2)), max_size=25)


@given(proposals, st.sampled_from([0, .2, .5, 1]), st.sampled_from(["official", "corrected"]))
@settings(max_examples=100, deadline=None)
def test_nms_against_plain_loops(rows, threshold, mode):
    """Groups at once and one by one; ties in score, duplicates, proposals of no length."""
    start, length, score, group = (np.array([r[k] for r in rows], dtype=int) for k in range(4))
    end, score = start + length, score / 4
    assert nms(start, end, score, threshold, mode).tolist() == reference.nms(start, end, score, threshold, int(mode == "official"))
    expected = []
    for g in np.unique(group):
        of = np.flatnonzero(group == g)
        expected += of[reference.nms(start[of], end[of], score[of], threshold, int(mode == "official"))].tolist()
    assert nms(start, end, score, threshold, mode, group).tolist() == expected


frames = st.lists(st.lists(st.integers(0, 5), min_size=3, max_size=3), min_size=1, max_size=30)


@given(frames, st.integers(1, 4), st.sampled_from([.25, .5, .75]))
@settings(max_examples=80, deadline=None)
def test_runs_decoders_against_plain_loops(rows, min_length, threshold):
    x = (np.array(rows) + .01) / (np.array(rows) + .01).sum(1, keepdims=True)

    def runs(flags):
        found, start = [], 0
        for i in range(1, len(flags) + 1):
            if i == len(flags) or flags[i] != flags[start]:
                found.append((start, i, flags[start]))
                start = i
        return [r for r in found if r[1] - r[0] >= min_length]

    active = [(1 + int(x[s:e, 1:].mean(0).argmax()), s, e) for s, e, on in runs([1 - p >= threshold for p in x[:, 0]]) if on]
    table = decode_activity(x, threshold, min_length=min_length)
    assert [tuple(r[1:]) for r in plain(table)] == [a[1:] for a in active]
    means = [x[s:e].mean(0) for _, s, e in active]
    np.testing.assert_allclose(table.score, [m[1:].max() for m in means])
    assert all(m[c] == pytest.approx(m[1:].max()) for m, c in zip(means, table.label))  # of equal means either class
    likeliest = [(c, s, e) for s, e, c in runs(x.argmax(1).tolist()) if c]
    table = decode_argmax_runs(x, min_length=min_length)
    assert [tuple(r) for r in plain(table)] == likeliest
    np.testing.assert_allclose(table.score, [x[s:e, c].mean() for c, s, e in likeliest])


@given(frames, st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_cuts_against_plain_loops(rows, min_length):
    x, expected = np.array(rows) / 5, []
    for cut in (.1, .5):
        for c in range(3):
            start = None
            for i, value in enumerate([*x[:, c], -1]):
                if value > cut and start is None:
                    start = i
                elif value <= cut and start is not None:
                    expected += [[start, i, c]] if i - start >= min_length else []
                    start = None
    assert module._cuts(x, (.1, .5), min_length).tolist() == expected


@pytest.mark.parametrize("decoder, options", [("activity", {}), ("argmax_runs", {}), ("argmax_runs", {"background": None})])
def test_a_higher_frame_rate_stretches_the_events(decoder, options):
    once, thrice = decode([PROBS], decoder, **options), decode([PROBS.repeat(3, 0)], decoder, **options)
    assert thrice[["start", "end"]].equals(3 * once[["start", "end"]]) and thrice.label.equals(once.label)
    np.testing.assert_allclose(thrice.score, once.score)


@pytest.mark.parametrize("decoder", sorted(DECODERS))
def test_one_frame_nothing_but_background_and_the_order_of_videos(decoder):
    silent = np.eye(3)[np.zeros(40, int)]
    options = {"background": 0} if decoder == "oic" else {}
    assert decode({"a": silent, "b": silent[:1]}, decoder, **options).empty
    rng = np.random.default_rng(0)
    probs = {v: smooth(rng.dirichlet((.3, .3, .3), 60), 4, "corrected") for v in "abc"}
    forth, back = (decode({v: probs[v] for v in order}, decoder, **options) for order in ("abc", "cba"))
    assert len(forth) and back.sort_values("video", kind="stable", ignore_index=True).equals(forth)


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


@pytest.mark.parametrize("n", [3, 8, 10, 20])
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
    with pytest.raises(DataError, match=r"\(2,\) video scores for 3 classes"):
        decode_oic(PROBS, (.5, .5))
    with pytest.raises(DataError, match="no video scores.*video 'w'|video 'w'.*no video scores"):
        decode({"v": PROBS, "w": PROBS}, "oic", video_scores={"v": (1, 1, 1)})
    with pytest.raises(DataError, match="not finite"):
        nms([0, 1], [5, 6], [.5, np.nan])
    with pytest.raises(DataError, match="row 2"):
        decode_oic(np.where(np.arange(8)[:, None] == 2, np.nan, PROBS))
