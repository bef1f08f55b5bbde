import numpy as np
import pandas as pd
import pytest
import reference_events as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.errors import DataError, ParameterError
from skelnb.evaluation import events as module
from skelnb.evaluation.events import MODES, event_map, event_maps, event_table, label_events, overlapping_pairs

G1, G2 = [(10, 20)], [(10, 20), (30, 40)]
EXAMPLES = {  # proposals, truth, PKU, VOC, ActivityNet
    "E1": ([(10, 20, .9), (30, 36, .8), (12, 22, .7), (50, 60, .6)], G2, 1, 1, 1),
    "E2": ([(10, 20, .9), (50, 60, .5)], G1, .5, 1, 1),
    "E3": ([(50, 60, .9), (10, 20, .5)], G1, .5, .5, .5),
    "E4": ([(10, 20, .9), (50, 60, .8), (30, 40, .7)], G2, .666667, .833333, .833333),
    "E5": ([(10, 20, .9), (11, 21, .8)], G1, 1, 1, 1),
    "E6": ([(50, 60, .5), (10, 20, .5)], G1, .5, .5, .5),
    "E7": ([(10, 20, .5), (50, 60, .5)], G1, .5, 1, 1),
    "E8": ([(10, 20, .9)], [(10, 30)], 1, 1, 1),
    "E9": ([(10, 20, .9)], G2, .5, .5, .5),
    "E10": ([], G1, 0, 0, 0),
    "E11": ([(50, 60, .9), (60, 70, .8), (70, 80, .7), (10, 20, .6)], G1, .25, .25, .25),
    "E12": ([(10, 20, .9), (10, 22, .8)], [(10, 20), (12, 24)], .5, .5, 1),
}
M1_TRUTH = event_table([("a", 1, 0, 10), ("a", 2, 20, 40), ("b", 1, 5, 15), ("b", 3, 30, 50)])
M1_PRED = event_table([("a", 1, 0, 9, .9), ("a", 2, 22, 38, .6), ("a", 2, 50, 60, .7), ("b", 1, 30, 40, .8), ("b", 1, 6, 15, .5),
                       ("b", 3, 45, 60, .95)])


@pytest.mark.parametrize("mode", ["official", "voc", "corrected"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_micro_examples(name, mode):
    proposals, actual, *expected = EXAMPLES[name]
    pred, truth = event_table(("a", 1, *p) for p in proposals), event_table(("a", 1, *g) for g in actual)
    result = event_map(pred, truth, .5, mode)
    wanted = dict(zip(("official", "voc", "corrected"), expected))[mode]
    for score in ("map_a", "map_v", "pooled"):  # one class in one video: all three are the same list
        assert result[score] == pytest.approx(wanted, abs=1e-6)


def test_m1_official():
    result = event_map(M1_PRED, M1_TRUTH)
    np.testing.assert_allclose(result["per_class"], [.666667, .5, 0], atol=1e-6)
    assert result["map_a"] == pytest.approx(.388889, abs=1e-6)
    assert result["map_v"] == pytest.approx(.416667, abs=1e-6) and result["pooled"] == pytest.approx(.375)
    np.testing.assert_allclose(result["per_video"], [.666667, .166667], atol=1e-6)
    over_51 = event_map(M1_PRED, M1_TRUTH, classes=range(1, 52))
    assert over_51["map_a"] == pytest.approx(.022876, abs=1e-6) and len(over_51["per_class"]) == 51
    assert (result["hits"], result["n_pred"], result["n_truth"], result["f1"]) == (3, 6, 4, .6)


def test_m1_voc_and_activitynet():
    for tiou, per_class, mean in ((.5, (.833333, .5, 0), .444444), (.3, (.833333, .5, 0), .444444), (.1, (.833333, .5, 1), .777778)):
        result = event_map(M1_PRED, M1_TRUTH, tiou, "voc")
        np.testing.assert_allclose(result["per_class"], per_class, atol=1e-6)
        assert result["map_a"] == pytest.approx(mean, abs=1e-6)
    corrected = event_map(M1_PRED, M1_TRUTH, .5, "corrected", classes=range(1, 52))
    assert corrected["map_a"] == pytest.approx(.444444, abs=1e-6)  # 48 classes without truth do not count
    assert corrected["per_class"].isna().sum() == 48


def test_thresholds_at_once_are_the_thresholds_one_by_one():
    tious = np.arange(1, 21) * .05
    for mode in MODES:
        table = event_maps(M1_PRED, M1_TRUTH, tious, mode)
        assert table.index.tolist() == tious.tolist()
        for t in tious:
            one = event_map(M1_PRED, M1_TRUTH, float(t), mode)
            assert table.loc[t].tolist() == [one[k] for k in table.columns]


row = st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 12), st.integers(0, 6), st.integers(0, 3))
rows = st.lists(row.map(lambda r: (r[0], r[1], r[2], r[2] + r[3], r[4] / 4)), max_size=24)


@given(rows, rows, st.sampled_from([.1, .3, .5, .75, 1.0]), st.sampled_from(sorted(MODES)))
@settings(max_examples=200, deadline=None)
def test_against_brute_force(pred, truth, tiou, mode):
    """Ties in score and in IoU, zero lengths, empty tables, classes and videos on one side only."""
    tables = event_table(sorted(pred, key=lambda r: r[0])), event_table(sorted(truth, key=lambda r: r[0]))
    if not truth and mode != "official":
        with pytest.raises(DataError, match="no event"):
            event_map(*tables, tiou, mode)
        return
    got = event_map(*tables, tiou, mode)
    expected = reference.event_map(*([tuple(r) for r in t.itertuples(index=False)] for t in tables), tiou, mode)
    for name in ("per_class", "per_video"):
        assert got[name].dropna().to_dict() == pytest.approx(expected.pop(name))
    assert {k: got[k] for k in expected} == pytest.approx(expected)


@given(rows, rows, st.sampled_from(sorted(MODES)))
@settings(max_examples=50, deadline=None)
def test_times_that_are_no_whole_numbers(pred, truth, mode):
    """Seconds take another way to the overlapping pairs than frames; negative and far times too."""
    if not truth:
        return
    tables = event_table(pred), event_table(truth)
    whole = event_map(*tables, .5, mode)
    if mode in ("official", "corrected"):
        eighth = [t.assign(start=t.start / 8 - 3, end=t.end / 8 - 3) for t in tables]
        assert event_map(*eighth, .5, mode)["pooled"] == whole["pooled"]
    far = [t.assign(start=t.start + 5e9 * (t.video == 1), end=t.end + 5e9 * (t.video == 1)) for t in tables]
    assert event_map(*far, .5, mode)["map_a"] == whole["map_a"]


@given(rows, rows)
@settings(max_examples=100, deadline=None)
def test_pairs_against_all_pairs(pred, truth):
    def triple(table):
        return tuple(np.array([r[k] for r in table], dtype=t) for k, t in ((0, np.int64), (2, float), (3, float)))
    i, j, value = overlapping_pairs(triple(pred), triple(truth), .2)
    pairs = [(a, b, (p[0], 0, *p[2:]), (g[0], 0, *g[2:])) for a, p in enumerate(pred) for b, g in enumerate(truth)]
    expected = [(a, b, reference._overlap(p, g, 0)) for a, b, p, g in pairs]
    assert sorted(zip(i.tolist(), j.tolist(), value.tolist())) == sorted(e for e in expected if e[2] >= .2)


def test_blocks_do_not_change_the_pairs(monkeypatch):
    rng = np.random.default_rng(0)
    p, g = ((rng.integers(0, 3, 200), s := rng.random(200), s + rng.random(200)) for _ in range(2))
    whole = overlapping_pairs(p, g, .1)
    monkeypatch.setattr(module, "BLOCK", 50)
    for a, b in zip(whole, overlapping_pairs(p, g, .1)):
        np.testing.assert_array_equal(a, b)


def test_invariances():
    rng = np.random.default_rng(1)
    start = rng.random(60) * 50
    pred = pd.DataFrame({"video": rng.integers(0, 4, 60), "label": rng.integers(0, 3, 60), "start": start})
    pred = pred.assign(end=start + rng.random(60) * 9, score=rng.random(60))
    truth = pred.sample(25, random_state=0).assign(start=lambda t: t.start + 1, end=lambda t: t.end + 1)
    numbers = lambda p, t, mode: [event_map(p, t, .3, mode)[k] for k in ("map_a", "map_v", "pooled", "f1")]
    seconds = [t.assign(start=t.start / 32, end=t.end / 32) for t in (pred, truth)]
    named = [t.assign(video="v" + t.video.astype(str), label="c" + t.label.astype(str)) for t in (pred, truth)]
    shuffled = pred.sample(frac=1, random_state=1), truth.sample(frac=1, random_state=2)
    squashed = pred.assign(score=pred.score**3), truth
    for mode in ("official", "corrected"):
        for other in (seconds, named, shuffled, squashed):
            assert numbers(*other, mode) == pytest.approx(numbers(pred, truth, mode))
        perfect = event_map(truth, truth, 1.0, mode)
        assert perfect["map_a"] == perfect["map_v"] == perfect["f1"] == 1


def _drawn(seed, n=60, m=25):
    """n proposals and m true events, half of the proposals near a true event; no equal scores, and hardly an equal IoU (times in 1/64)."""
    rng = np.random.default_rng(seed)
    columns = lambda k: {"video": rng.integers(0, 4, k), "label": rng.integers(0, 3, k), "start": (s := rng.integers(0, 90 * 64, k) / 64),
                         "end": s + rng.integers(64, 12 * 64, k) / 64, "score": rng.permutation(k) / k}
    pred, truth = pd.DataFrame(columns(n)), pd.DataFrame(columns(m))
    near = rng.integers(0, m, n // 2)
    pred.loc[: n // 2 - 1, ["video", "label", "start", "end"]] = truth.loc[near, ["video", "label", "start", "end"]].to_numpy() + (0, 0, 0, 1)
    return pred, truth


NUMBERS = ("map_a", "map_v", "pooled", "f1")


@pytest.mark.parametrize("mode", sorted(MODES))
def test_order_and_names_do_not_matter(mode):
    for seed in range(5):
        pred, truth = _drawn(seed)
        numbers = lambda p, t: [event_map(p, t, .3, mode)[k] for k in NUMBERS]
        turned = {0: 2, 1: 3, 2: 1, 3: 0}  # videos in another order
        moved = [t.assign(video=t.video.map(turned)).sort_values("video", kind="stable") for t in (pred, truth)]
        named = [t.assign(video=t.video.map("v{}".format), label=t.label.map({0: "z", 1: "b", 2: "m"})) for t in (pred, truth)]
        shuffled = pred.sample(frac=1, random_state=seed), truth.sample(frac=1, random_state=seed)
        for other in (moved, named, shuffled):
            assert numbers(*other) == pytest.approx(numbers(pred, truth), rel=1e-12)


def test_frame_rate():
    """All times k-fold: official and corrected do not change; voc and swtal count a frame at the end, which then weighs less."""
    scaled = lambda k, *tables: [t.assign(start=t.start * k, end=t.end * k) for t in tables]
    for seed in range(5):
        pair = _drawn(seed)
        for mode in ("official", "corrected"):
            once = [event_map(*pair, .5, mode)[n] for n in NUMBERS]
            assert all([event_map(*scaled(k, *pair), .5, mode)[n] for n in NUMBERS] == once for k in (2, 3, 10))
    pred, truth = event_table([("a", 1, 10, 20, .9)]), event_table([("a", 1, 10, 30)])  # E8
    at = lambda k, mode, tiou: event_map(*scaled(k, pred, truth), tiou, mode)["map_a"]
    assert at(1, "voc", 11 / 21) == 1 and at(2, "voc", 11 / 21) == 0 and at(2, "voc", 21 / 41) == 1
    assert at(1, "swtal", 10 / 19) == 1 and at(2, "swtal", 10 / 19) == 0 and at(2, "swtal", 20 / 39) == 1
    assert at(1, "official", .5) == at(2, "official", .5) == at(7, "corrected", .5) == 1


@pytest.mark.parametrize("mode", sorted(MODES))
def test_a_class_or_video_that_is_nowhere(mode):
    """It lowers one mean of the official mode and nothing else."""
    pred, truth = _drawn(1)
    plain = event_map(pred, truth, .3, mode)
    more = event_map(pred, truth, .3, mode, classes=range(4), videos=range(8))
    by = (3 / 4, 4 / 8) if mode == "official" else (1, 1)
    assert (more["map_a"], more["map_v"]) == pytest.approx((plain["map_a"] * by[0], plain["map_v"] * by[1]))
    assert all(more[k] == plain[k] for k in ("pooled", "f1", "precision", "recall", "hits"))
    assert len(more["per_class"]) == 4 and more["per_video"].index.tolist() == list(range(8))


def test_iou_of_both_conventions():
    pred, truth = event_table([("a", 1, 0, 10, .9)]), event_table([("a", 1, 5, 15)])
    for mode, value in (("official", 1 / 3), ("corrected", 1 / 3), ("voc", .375)):
        assert event_map(pred, truth, value, mode)["hits"] == 1 and event_map(pred, truth, value + 1e-9, mode)["hits"] == 0


def test_ties_in_iou():
    """A proposal between two true events: the toolkit attaches it to the last listed, VOC to the first, the others to the first still free."""
    truth = event_table([("a", 1, 0, 10), ("a", 1, 10, 20)])
    for other, hits in (((0, 10), (2, 1, 2)), ((10, 20), (1, 2, 2))):
        pred = event_table([("a", 1, 5, 15, .5), ("a", 1, *other, .9)])
        assert tuple(event_map(pred, truth, .3, mode)["hits"] for mode in ("official", "voc", "corrected")) == hits
    alone = event_table([("a", 1, 5, 15, .9), ("a", 1, 0, 10, .5)])  # first come, first listed: the second finds nothing
    assert event_map(alone, truth, .3, "corrected")["hits"] == 1 and event_map(alone, truth, .3, "official")["hits"] == 2


def test_duplicates_and_one_frame_events():
    truth = event_table([("a", 1, 10, 11), ("a", 1, 20, 30)])
    twice = event_table([("a", 1, 10, 11, .9), ("a", 1, 20, 30, .8), ("a", 1, 10, 11, .7), ("a", 1, 20, 30, .6)])
    for mode in ("official", "voc", "corrected"):
        assert event_map(twice, truth, 1., mode)["map_a"] == 1 and event_map(twice, truth, 1., mode)["precision"] == .5
    found = event_map(twice, truth, .1, "swtal")
    assert found["recall"] == .5  # the true event of one frame has none left
    doubled = event_table([("a", 1, 20, 30), ("a", 1, 20, 30)])  # annotated twice
    recalls = {mode: event_map(twice, doubled, .5, mode)["recall"] for mode in ("official", "voc", "corrected")}
    assert recalls == {"official": .5, "voc": .5, "corrected": 1}


def test_two_dimensional_ap_of_the_toolkit():
    tious = np.arange(1, 21) * .05
    rows = [[tuple(r) for r in t.itertuples(index=False)] for t in (M1_PRED, M1_TRUTH)]
    rows[0].sort(key=lambda r: r[1])
    expected = np.mean([reference.pku_ap(*rows, min(float(t), 1.)) for t in tious])
    assert event_maps(M1_PRED, M1_TRUTH, tious, "official")["pooled"].mean() == pytest.approx(expected)


def test_empty_tables():
    none = event_table()
    assert event_map(none, M1_TRUTH, mode="corrected")["map_a"] == 0
    assert event_map(M1_PRED, none)["map_a"] == event_map(none, none)["map_v"] == 0
    with pytest.raises(DataError, match="undefined"):
        event_map(M1_PRED, none, mode="corrected")


def test_label_events():
    table = label_events({"a": np.array([0, 2, 2, 0, 1])})
    assert table.values.tolist() == [["a", 2, 1, 3, 1.0], ["a", 1, 4, 5, 1.0]]
    assert label_events([np.array([0, 0])]).empty


@pytest.mark.parametrize("change, error, words", [
    (dict(end=[9, 38, 60, 20, 15, 60]), DataError, ("video 'b'", "row 3", "end before its start")),
    (dict(score=[.9, np.nan, .1, .1, .1, .1]), DataError, ("video 'a'", "row 1", "missing")),
    (dict(start=[0, 0, 0, 0, 0, -np.inf]), DataError, ("row 5",)),
    (dict(start=["x"] * 6), DataError, ("must be numbers",)),
    (dict(label=list("abcdef")), DataError, ("labels", "never match")),
    (dict(video=[1, 2, 3, 4, 5, 6]), DataError, ("videos", "never match")),
])
def test_bad_tables(change, error, words):
    with pytest.raises(error) as e:
        event_map(M1_PRED.assign(**change), M1_TRUTH)
    assert all(w in str(e.value) for w in words)


def test_bad_parameters():
    for bad in (0, 1.5, "half", -.1):
        with pytest.raises(ParameterError, match="tiou"):
            event_map(M1_PRED, M1_TRUTH, bad)
    with pytest.raises(ParameterError, match="official"):
        event_map(M1_PRED, M1_TRUTH, mode="pku")
    with pytest.raises(ParameterError, match="score"):
        event_map(M1_TRUTH.drop(columns="score"), M1_TRUTH)
    with pytest.raises(ParameterError, match="DataFrame"):
        event_map([(1, 2, 3)], M1_TRUTH)
    with pytest.raises(DataError, match="row 5"):
        event_map(M1_PRED, M1_TRUTH, classes=[1, 2])
    with pytest.raises(DataError, match="row 0"):
        event_table([(1, 2, 3)])
    with pytest.raises(DataError, match="video 'b' is not among the 1 videos"):
        event_map(M1_PRED, M1_TRUTH, videos=["a"])
    with pytest.raises(ParameterError, match="no threshold"):
        event_maps(M1_PRED, M1_TRUTH, [])
