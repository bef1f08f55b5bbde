"""Fusion of streams: sums by hand, what may be added to what, and the table."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.errors import DataError, ParameterError
from skelnb.evaluation.examples import Examples, Outcome
from skelnb.evaluation.fusion import ACTCLR, RULES, fuse, fusion_table, softmax

CLASSES = ("walk", "run", "jump")


def outcome(scores, truth=(0, 1, 2, 0), **more):
    examples = Examples(torch.zeros(len(truth), 1), truth, CLASSES, clips=np.arange(len(truth)) + 10)
    return replace(Outcome.of(scores, examples), **more)


def three(seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return {name: outcome(scale * rng.normal(size=(4, 3))) for name in ACTCLR}


def test_by_hand():
    joint, bone = outcome([[2, 0, 1], [0, 4, 0], [1, 1, 1], [0, 0, 3]]), outcome([[0, 3, 0], [0, 0, 1], [0, 1, 4], [6, 0, 0]])
    fused = fuse({"joint": joint, "bone": bone}, {"joint": 0.6, "bone": 0.4}, "logits")
    assert np.allclose(fused.scores, [[1.2, 1.2, 0.6], [0, 2.4, 0.4], [0.6, 1, 2.2], [2.4, 0, 1.8]])
    assert fused.predicted.tolist() == [0, 1, 2, 0] and fused.accuracy == 1 and joint.accuracy == 0.5  # of equal scores the first class
    log = {"joint": outcome(np.log([[0.5, 0.3, 0.2]] * 4)), "bone": outcome(np.log([[0.1, 0.8, 0.1]] * 4) + 7)}
    assert np.allclose(fuse(log, "equal").scores, [[0.6, 1.1, 0.3]] * 4, atol=1e-6)  # adding 7 to every logit changes no probability


def test_the_rules():
    assert ACTCLR == {"joint": 0.6, "bone": 0.6, "motion": 0.4} and set(RULES) == {"actclr", "equal"}
    streams = three()
    by_name = fuse(streams, "actclr")
    assert np.allclose(by_name.scores, sum(w * streams[n].scores for n, w in ACTCLR.items()), atol=1e-6)
    assert by_name.settings == {"protocol": "fusion", "weights": ACTCLR, "of": "logits"} and json.loads(json.dumps(by_name.notes)) == by_name.notes
    assert np.array_equal(fuse(streams, ACTCLR, "logits").scores, by_name.scores)
    equal = fuse(streams, "equal")
    assert equal.settings["of"] == "softmax" and np.allclose(equal.scores.sum(1), 3, atol=1e-5)
    assert by_name.notes["streams"]["bone"] == {"accuracy": streams["bone"].accuracy, "selection": "last"}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.sampled_from(["logits", "softmax"]))
def test_invariances(seed, factor, of):
    streams, weights = three(seed), {"joint": 0.2, "bone": 1.0, "motion": 0.5}
    fused = fuse(streams, weights, of)
    assert np.allclose(fuse(streams, {n: factor * w for n, w in weights.items()}, of).scores, factor * fused.scores, rtol=1e-4, atol=1e-5)
    assert np.allclose(fuse(dict(reversed(streams.items())), weights, of).scores, fused.scores, atol=1e-5)
    alone = {"joint": 1.0, "bone": 0.0, "motion": 0.0}
    assert np.array_equal(fuse(streams, alone, of).predicted, streams["joint"].predicted)
    assert fuse(dict.fromkeys("abc", streams["bone"]), dict.fromkeys("abc", 1), of).accuracy == streams["bone"].accuracy


def test_softmax():
    assert np.allclose(softmax([[0, 0], [1000, 0], [-1000, -1000 + np.log(3)]]), [[0.5, 0.5], [1, 0], [0.25, 0.75]])


def test_only_the_same_clips_are_added():
    streams = three()
    def broken(**more): return {**streams, "motion": replace(streams["motion"], **more)}
    clips = streams["joint"].clips
    for more, says in (({"classes": ("walk", "run", "fall")}, "'joint' and 'motion': the classes are not the same"), ({"clips": clips[::-1]}, "another order"),
                       ({"clips": clips + 1}, "clips are not the same"), ({"truth": np.array([0, 1, 2, 1])}, "clip 13: the clip has two true classes")):
        with pytest.raises(DataError, match=says):
            fuse(broken(**more), "actclr")
    few = outcome(np.zeros((2, 3)), (0, 1))
    with pytest.raises(DataError, match="not the same: 4 and 2"):
        fuse({**streams, "motion": few}, "actclr")


def test_rules_of_selection_do_not_mix_in_silence():
    streams = three()
    assert fuse(streams, "actclr").selection == "last"
    streams["bone"].selection = "best_test"
    with pytest.raises(ParameterError, match="bone: best_test.*selected by best_test and last"):
        fuse(streams, "actclr")
    mixed = fuse(streams, "actclr", mixed=True)
    assert mixed.selection == "best_test+last"
    again = {"three": mixed, "joint": streams["joint"]}  # a fusion of a fusion still knows
    with pytest.raises(ParameterError, match="best_test"):
        fuse(again, "equal")
    assert fuse(again, "equal", mixed=True).selection == "best_test+last"
    for o in streams.values():
        o.selection = "best_test"
    assert fuse(streams, "actclr").selection == "best_test"


@pytest.mark.parametrize("weights, of, says", [("actlcr", None, "did you mean 'actclr'"), ({"joint": 1, "bone": 1}, "logits", "every stream its weight"),
                                               ({**ACTCLR, "depth": 1}, "logits", "every stream"), (ACTCLR, None, "what shall be added"),
                                               (ACTCLR, "votes", "of='softmax'"), ({**ACTCLR, "bone": -1}, "logits", "0 or more"),
                                               ({**ACTCLR, "bone": np.nan}, "logits", "0 or more"), (dict.fromkeys(ACTCLR, 0), "logits", "not all 0"),
                                               ("equal", "logits", "adds softmax")])
def test_weights_that_do_not_fit(weights, of, says):
    with pytest.raises(ParameterError, match=says):
        fuse(three(), weights, of)


def test_no_streams():
    with pytest.raises(ParameterError, match="no streams"):
        fuse({}, "equal")


def test_table():
    right = np.eye(3)[[0, 1, 2, 0]]
    a, b = right.copy(), right.copy()
    a[[2, 3]] = [[0, 1, 0], [0, 1, 0]]  # wrong in clips 2 and 3
    b[[1, 3]] = [[1, 0, 0], [0, 1, 0]]  # wrong in clips 1 and 3
    streams = {"a": outcome(a), "b": outcome(2 * b)}
    table = fusion_table(streams, fuse(streams, {"a": 1, "b": 1}, "logits"))
    assert table["top-1 %"].tolist() == [50, 50, 50, 75] and table["alone right %"].tolist()[:2] == [25, 25]
    assert table["weight"].tolist()[:2] == [1, 1] and table.index.tolist() == ["a", "b", "fused (logits)", "any stream"] and table.index.name == "4 clips"
    with pytest.raises(ParameterError, match="outcomes that were fused"):
        fusion_table({"a": streams["a"]}, fuse(streams, "equal"))
