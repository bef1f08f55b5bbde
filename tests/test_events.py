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
    assert (got["map_a"], got["map_v"], got["pooled"]) == pytest.approx(expected)


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
