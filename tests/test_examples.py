"""Examples and outcomes: what is accepted, what is refused, and what an outcome knows."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support, top_k_accuracy_score

from skelnb.errors import DataError, ParameterError
from skelnb.evaluation.examples import Examples, Outcome, check_pair, check_selection, hold_out

CLASSES = ("walk", "run", "jump")


def examples(n=9, d=4, seed=0, **known):
    g = torch.Generator().manual_seed(seed)
    return Examples(torch.randn(n, d, generator=g), np.arange(n) % 3, CLASSES, groups=np.arange(n) // 3, **known)


def test_rows_can_be_taken_in_any_way():
    e = examples(clips=np.arange(9) + 100)
    for rows in ([2, 0], np.array([8, 4, 0]), np.arange(9)[::-1], e.y == 1, [-1]):
        some, index = e.take(rows), np.arange(9)[rows] if not isinstance(rows, list) else np.arange(9)[np.array(rows)]
        assert torch.equal(some.x, e.x[torch.from_numpy(index.copy())])
        assert np.array_equal(some.clips, e.clips[index]) and np.array_equal(some.groups, e.groups[index])
    assert e.y.dtype == np.int64 and e.x.dtype == torch.float32


@pytest.mark.parametrize("change, message", [
    (dict(y=[0, 1, 3]), r"clip 12: class 3 is not one of 0\.\.2"), (dict(y=[0, -1, 2]), "clip 11: class -1"), (dict(y=[0, 1]), "y has shape"),
    (dict(y=[0, 1.5, 2]), "y are not whole numbers"), (dict(y=["walk", "run", "run"]), "y are not whole numbers"),
    (dict(clips=[1, 2.5, 3]), "clips are not whole"), (dict(classes="abc"), "classes are 'abc'"), (dict(classes=("a", "a", "b")), "different names"),
    (dict(x=np.array([[0, 1], [np.nan, 0], [1, 1]])), "clip 11: features are not finite"),
    (dict(x=np.zeros((3, 2, 2))), r"not \(N, D\)"), (dict(x=np.zeros((0, 2)), y=[]), r"not \(N, D\)"), (dict(groups=["a"]), "groups has shape"),
])
def test_bad_examples_are_refused(change, message):
    given = dict(x=np.eye(3, 2), y=[0, 1, 2], classes=CLASSES, clips=[10, 11, 12]) | change
    if change.get("y") == []:
        given["clips"] = []
    with pytest.raises(DataError, match=message):
        Examples(**given)


def test_pairs_that_do_not_belong_together():
    a = examples(data="abc")
    check_pair(a.take([0, 1]), a.take([2]))
    for other, message in ((Examples(a.x, a.y, ("walk", "run", "hop")), "not the same list"), (examples(d=5), "features of 4 numbers"),
                           (a.take([3]), "1 clips are in training and test")):
        with pytest.raises(DataError, match=message):
            check_pair(a, other)
    check_pair(a, examples(data="other"))


@given(st.integers(2, 12), st.floats(0.01, 0.99), st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_whole_groups_are_held_out(people, share, seed):
    groups = np.repeat(np.arange(people), 3)
    held = hold_out(groups, share, seed)
    who = set(groups[held])
    assert 1 <= len(who) < people and not who & set(groups[~held]) and abs(len(who) - share * people) <= 1
    assert np.array_equal(held, hold_out(groups, share, seed))


def test_nobody_to_hold_out():
    with pytest.raises(DataError, match="1 group to hold out from"):
        hold_out(["a", "a"])
    for share in (0, 1, -0.5, 2):
        with pytest.raises(ParameterError, match="share"):
            hold_out(["a", "b"], share)
    assert hold_out(["a", None, "b", None], 0.3).sum() in (1, 2)
    with pytest.raises(ParameterError, match="best_test"):
        check_selection("best")
    assert check_selection("validation") == "validation"


@given(st.integers(1, 30), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_outcomes_against_scikit_learn(n, seed):
    rng = np.random.default_rng(seed)
    e = Examples(rng.normal(size=(n, 2)), rng.integers(0, 3, n), CLASSES)
    o = Outcome.of(rng.normal(size=(n, 3)).round(1) if seed % 2 else rng.normal(size=(n, 3)), e)
    assert np.array_equal(o.confusion(), confusion_matrix(o.truth, o.predicted, labels=range(3))) and o.accuracy == np.mean(o.predicted == o.truth)
    assert o.top(1) == o.accuracy and o.top(3) == 1
    if not seed % 2:
        assert o.top(2) == pytest.approx(top_k_accuracy_score(o.truth, o.scores, k=2, labels=range(3)))
    p, r, f, support = precision_recall_fscore_support(o.truth, o.predicted, labels=range(3), zero_division=np.nan)
    table = o.per_class()
    np.testing.assert_allclose(table["recall"], r)
    np.testing.assert_allclose(table["precision"], p)
    assert table["clips"].tolist() == support.tolist()


def test_ties_go_to_the_lower_class_in_every_count():
    o = Outcome.of(np.zeros((3, 3)), Examples(np.eye(3), [0, 1, 2], CLASSES))
    assert o.predicted.tolist() == [0, 0, 0] and [o.top(k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])
    assert o.per_class()["taken_for"].tolist() == ["", "walk", "walk"]


def test_bad_scores_are_refused():
    e = examples(3)
    with pytest.raises(ParameterError, match="besttest"):
        Outcome.of(np.zeros((3, 3)), e, selection="last+besttest")
    assert Outcome.of(torch.eye(3, requires_grad=True), e, selection="best_test+last").accuracy == 1
    for rows in (np.ones(2, bool), []):
        with pytest.raises(DataError):
            e.take(rows)
    with pytest.raises(DataError, match=r"shape \(3, 2\) for 3 clips and 3 classes"):
        Outcome.of(np.zeros((3, 2)), e)
    with pytest.raises(DataError, match="clip 1: scores are not finite"):
        Outcome.of([[0, 0, 0], [np.nan, 0, 0], [0, 0, 0]], e)
