"""k-NN and retrieval: exact, deterministic, what scikit-learn says, and errors that name the clip."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from sklearn.neighbors import KNeighborsClassifier

from skelnb.data.windows import IGNORE
from skelnb.errors import DataError, ParameterError
from skelnb.evaluation import neighbours as module
from skelnb.evaluation.examples import Examples
from skelnb.evaluation.neighbours import Neighbours, knn, knn_frames, knn_many, nearest, retrieval, vote

# directions whose cosines are exact in float32: lengths are powers of two, so equal similarities are equal to the bit
EXACT = np.array([*np.eye(4), *-np.eye(4), *(np.array(s) for s in np.ndindex(2, 2, 2, 2))], dtype=np.float32)
EXACT[8:] = 2 * EXACT[8:] - 1


def exact(rows):
    return EXACT[np.asarray(rows)] / np.linalg.norm(EXACT[np.asarray(rows)], axis=1, keepdims=True)


def by_loops(q, g, k, own=False):
    "The k nearest by a stable sort of all similarities."
    s = q @ g.T
    if own:
        np.fill_diagonal(s, -np.inf)
    order = np.argsort(-s, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(s, order, 1), order


def random_examples(n, classes=4, width=6, seed=0, spread=1.0, **more):
    "Clips around a centre for each class."
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    centres = np.random.default_rng(99).normal(size=(classes, width))
    return Examples(centres[y] + spread * rng.normal(size=(n, width)), y, [f"c{i}" for i in range(classes)], **more)


# ---- the search ---------------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 400), st.integers(0, 10_000), st.integers(1, 7), st.data())
def test_the_nearest_are_those_of_a_stable_sort_of_everything(n, m, seed, block, data):
    rng = np.random.default_rng(seed)
    kinds = data.draw(st.integers(1, len(EXACT)))
    q, g = rng.integers(0, kinds, n), rng.integers(0, kinds, m)
    k = data.draw(st.integers(1, m))
    scale = 2.0 ** rng.integers(-3, 4, (n, 1))
    value, index = nearest(torch.from_numpy(exact(q) * scale), exact(g), k, block=block)
    want, order = by_loops(exact(q), exact(g), k)
    np.testing.assert_array_equal(index.numpy(), order)
    np.testing.assert_array_equal(value.numpy(), want)


@pytest.mark.parametrize("k", [1, 20, 33, 300])
def test_a_gallery_of_several_tiles(k):
    rng = np.random.default_rng(k)
    for rows in (rng.integers(0, len(EXACT), 78_000), np.zeros(70_000, int)):  # tiles are 65,536 or 256 k wide
        q, g = exact(rng.integers(0, len(EXACT), 5)), exact(rows)
        value, index = nearest(q, g, k, block=3)
        want, order = by_loops(q, g, k)
        assert np.array_equal(index.numpy(), order) and np.array_equal(value.numpy(), want)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("m", [5, 127, 128, 129, 3000])
def test_real_numbers(metric, m):
    rng = np.random.default_rng(m)
    q, g = rng.normal(3, 1, (9, 17)), rng.normal(3, 1, (m, 17))
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
    s = unit(q) @ unit(g).T if metric == "cosine" else -np.linalg.norm(q[:, None] - g[None], axis=2)
    for k in {1, 3, min(m, 40), min(m, 128)}:
        value, index = nearest(q, g, k, metric, block=4)
        np.testing.assert_allclose(value, -np.sort(-s, 1)[:, :k], atol=2e-5)
        np.testing.assert_allclose(value, np.take_along_axis(s, index.numpy(), 1), atol=2e-5)
        assert all(len(set(row)) == k for row in index.tolist())


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 300), st.integers(0, 10_000), st.integers(1, 50), st.data())
def test_nobody_is_its_own_neighbour(n, seed, block, data):
    x = exact(np.random.default_rng(seed).integers(0, 6, n))
    k = data.draw(st.integers(1, n - 1))
    value, index = nearest(x, None, k, block=block)
    want, order = by_loops(x, x, k, own=True)
    assert np.array_equal(index.numpy(), order) and np.array_equal(value.numpy(), want)


def test_leave_one_out_over_several_tiles_finds_the_duplicate():
    x = np.random.default_rng(0).normal(size=(9000, 8))
    x[8500] = x[3]
    s = module._Search.of(x, None, 1, "cosine")
    buffer, whole = s.buffer(512, 4096), nearest(x, None, 1)[1][:, 0]  # three tiles; one
    for rows in (torch.arange(512), torch.arange(8400, 8600)):
        keys = [module._best(module._similarity(s, rows, s.g[rows], first, buffer), 1, first) for first in range(0, 9000, 4096)]
        value, index = module._unpack(torch.cat(keys, 1).amax(1))
        want = by_loops(s.g[rows].double().numpy(), s.g.double().numpy(), 2)[1]
        assert (index != rows).all() and (want == index.numpy()[:, None]).any(1).all()
        assert torch.equal(whole[rows], index)
    assert index[100] == 3 and value[100] == pytest.approx(1, abs=1e-6)


def test_distances_far_from_the_origin():
    rng = np.random.default_rng(0)
    q, g = rng.normal(size=(20, 9)), rng.normal(size=(400, 9))
    value, index = nearest(q, g, 5, "euclidean")
    far = nearest(torch.from_numpy(q + 2000), torch.from_numpy(g + 2000), 5, "euclidean")
    assert torch.equal(far[1], index) and torch.allclose(far[0], value, atol=1e-3)


def test_keys_order_like_the_numbers():
    s = torch.tensor([-torch.inf, -2.5, -1e-30, -0.0, 0.0, 1e-30, 0.3, torch.inf])
    keys = module._keys(s, torch.arange(8))
    assert keys.argsort().tolist() == [0, 1, 2, 4, 3, 5, 6, 7]  # of the two zeros the lower index is the larger key
    value, index = module._unpack(keys)
    assert torch.equal(value, s) and index.tolist() == list(range(8))


@pytest.mark.parametrize("scale", [1e-30, 1e-5, 1e30])
def test_length_does_not_matter_to_the_cosine(scale):
    rng = np.random.default_rng(0)
    q, g = rng.normal(size=(20, 16)).astype(np.float32), rng.normal(size=(300, 16)).astype(np.float32)
    value, index = nearest(q, g, 5)
    lengths = rng.uniform(0.5, 2, (300, 1)).astype(np.float32)
    scaled = nearest(q * np.float32(scale), g * lengths * np.float32(scale), 5)
    assert torch.equal(scaled[1], index) and torch.allclose(scaled[0], value, atol=1e-6)


def test_what_may_come_in(tmp_path):
    rng = np.random.default_rng(0)
    q, g = rng.normal(size=(6, 8)).astype(np.float16), rng.normal(size=(50, 8)).astype(np.float16)
    np.save(tmp_path / "g.npy", g)
    value, index = nearest(torch.from_numpy(q), np.load(tmp_path / "g.npy", mmap_mode="r"), 4)
    again = nearest(torch.from_numpy(q).double().requires_grad_(), torch.from_numpy(g), 4, device="cpu")
    assert torch.equal(index, again[1]) and value.dtype == torch.float32 and index.dtype == torch.int64 and not again[0].requires_grad
    assert q.dtype == np.float16 and np.array_equal(np.load(tmp_path / "g.npy"), g)


# ---- votes --------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=9))
def test_plain_votes_and_their_ties(labels):
    count = np.bincount(labels, minlength=4)
    best = np.flatnonzero(count == count.max())
    s, y = torch.linspace(1, 0, len(labels))[None], torch.tensor([labels])
    lowest, near = vote(s, y, 4, ties="lowest")[0], vote(s, y, 4)[0]
    np.testing.assert_allclose(lowest, count / len(labels), rtol=1e-6)
    assert lowest.argmax() == best[0]
    assert near.argmax() == next(label for label in labels if label in best)
    assert ((near - lowest).numpy() >= 0).all() and (near - lowest).max() < 1 / (16 * len(labels))
    assert (np.argsort(-near.numpy(), kind="stable")[: (count > 0).sum()] < 4).all() and (near[count == 0] == 0).all()


@pytest.mark.parametrize("k", [2, 200, 1000])
def test_the_nearest_class_wins_also_among_many(k):
    y = torch.arange(k)[None] % 2  # as many of class 0 as of class 1
    for first in (0, 1):
        labels = (y + first) % 2
        assert vote(torch.zeros(1, k), labels, 2).argmax() == first
        assert vote(torch.zeros(1, k), labels, 2, ties="lowest").argmax() == 0
        late = torch.cat([labels[:, :-2], labels[:, -1:], labels[:, -2:-1]], 1)  # the order of the last two does not matter
        assert vote(torch.zeros(1, k), late, 2).argmax() == (first if k > 2 else 1 - first)


def test_weighted_votes_are_those_of_the_formula():
    rng = np.random.default_rng(0)
    s, y = -np.sort(-rng.uniform(-1, 1, (30, 9)), 1), rng.integers(0, 5, (30, 9))
    for temperature in (0.07, 0.1, 1.0):
        w = np.exp(s / temperature)
        want = np.stack([(w * (y == c)).sum(1) for c in range(5)], 1) / w.sum(1, keepdims=True)
        got = vote(torch.from_numpy(s), torch.from_numpy(y), 5, temperature)
        np.testing.assert_allclose(got, want, rtol=1e-9)
    cold = vote(torch.from_numpy(s).float(), torch.from_numpy(y), 5, 1e-5)
    assert cold.isfinite().all() and (cold.argmax(1).numpy() == y[:, 0]).all()


# ---- classification -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3, 4, 10, 40])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_scikit_learn_says_the_same(k, metric):
    train, test = random_examples(160, spread=1.5), random_examples(80, seed=1, spread=1.5)
    for temperature in (None, 0.1):
        if temperature and metric == "euclidean":
            continue
        theirs = KNeighborsClassifier(k, metric=metric, algorithm="brute", weights=(lambda d: np.exp((1 - d) / 0.1)) if temperature else "uniform")
        theirs.fit(train.x.numpy().astype(float), train.y)
        ours = knn(train, test, k, temperature, metric, ties="lowest")
        np.testing.assert_allclose(ours.scores, theirs.predict_proba(test.x.numpy().astype(float)), atol=1e-5)
        np.testing.assert_array_equal(ours.predicted, theirs.predict(test.x.numpy().astype(float)))
    if k in (2, 4, 10):  # the default differs from scikit-learn in ties only
        near, low = knn(train, test, k, None, metric), knn(train, test, k, None, metric, ties="lowest")
        votes = np.sort(low.scores, 1)
        tied = votes[:, -1] == votes[:, -2]
        assert tied.any() and (near.predicted != low.predicted).any() and np.array_equal(near.predicted[~tied], low.predicted[~tied])


def test_several_k_from_one_search():
    train = random_examples(120, data="a")
    test = random_examples(40, seed=1, data="a", clips=np.arange(120, 160), groups=np.arange(40) // 4)
    for name in ("ours", "usdrl", "actclr_monitor"):
        preset = Neighbours.named(name)
        found = knn_many(train, test, name)
        assert tuple(found) == preset.k
        for k, outcome in found.items():
            alone = knn(train, test, k, preset.temperature)
            np.testing.assert_allclose(outcome.scores, alone.scores, rtol=1e-6)
            assert json.loads(json.dumps(outcome.settings))["k"] == k and outcome.settings["temperature"] == preset.temperature
            assert outcome.selection == "last" and np.array_equal(outcome.clips, test.clips) and np.array_equal(outcome.groups, test.groups)
    assert knn(train, test).accuracy > 0.5 and knn(train, test, 20).top(2) >= knn(train, test, 20).top(1)


def test_presets_are_those_of_the_specs():
    p = {name: Neighbours.named(name) for name in Neighbours.presets()}
    assert p["usdrl"].k == (1,) and p["usdrl"].temperature is None
    assert p["actclr_monitor"].k == (10, 20, 40) and p["actclr_monitor"].temperature == 0.1
    assert p["slim"].k == (1, 10, 20, 100, 200) and p["slim"].temperature == 0.07
    assert p["ours"].k == (1, 20) and {q.metric for q in p.values()} == {"cosine"}
    for bad in (dict(k=()), dict(k=(0,)), dict(temperature=0), dict(temperature=-1), dict(metric="manhattan"), dict(ties="random")):
        with pytest.raises(ParameterError):
            Neighbours(**bad)
    with pytest.raises(ParameterError, match="slim"):
        knn_many(random_examples(10), None, "slimm")


def test_leave_one_out_is_the_loop():
    e = random_examples(40)
    want = [knn(e.take(np.arange(40) != i), e.take([i]), 3).predicted[0] for i in range(40)]
    found = knn(e, k=3)
    assert found.predicted.tolist() == want and found.settings["leave_one_out"] is True


def test_the_order_of_clips_does_not_matter():
    train, test = random_examples(150), random_examples(50, seed=1)
    p, q = np.random.default_rng(0).permutation(150), np.random.default_rng(1).permutation(50)
    for k in (1, 4):
        before, after = knn(train, test, k), knn(train.take(p), test.take(q), k)
        np.testing.assert_allclose(after.scores, before.scores[q], atol=1e-6)


# ---- frames -------------------------------------------------------------------------------------------------------------------------


def test_frames_vote_like_clips_and_unlabelled_ones_do_not():
    train, test = random_examples(90), random_examples(30, seed=1)
    labels = train.y.copy()
    labels[::3] = IGNORE
    kept = train.take(labels != IGNORE)
    for temperature in (None, 0.07):
        want = knn(kept, test, 20, temperature, ties="lowest").scores
        p = knn_frames(train.x, labels, test.x, train.classes, temperature=temperature)
        np.testing.assert_allclose(p, want, atol=1e-6)
        assert p.dtype == np.float32 and np.allclose(p.sum(1), 1, atol=1e-6)
    again = knn_frames(train.x.numpy(), torch.from_numpy(labels), test.x.numpy(), 4, temperature=0.07)
    np.testing.assert_array_equal(again, p)
    empty = train.x.clone()
    empty[::3] = 0  # nobody is there, nobody labelled it
    np.testing.assert_array_equal(knn_frames(empty, labels, test.x, 4, temperature=0.07), p)


def test_bad_frames():
    x = np.ones((5, 3))
    with pytest.raises(DataError, match="training frame 2.*label 3 is not one of 0..2"):
        knn_frames(x, [0, IGNORE, 3, 1, 1], x, 3, k=1)
    with pytest.raises(DataError, match="training frame 4.*label -1"):
        knn_frames(x, [0, 0, 0, 1, -1], x, ("a", "b"), k=1)
    with pytest.raises(DataError, match=r"shape \(2,\) for 5 training frames"):
        knn_frames(x, [0, 0], x, 2, k=1)
    with pytest.raises(DataError, match="float64"):
        knn_frames(x, np.zeros(5), x, 2, k=1)
    with pytest.raises(DataError, match="no training frame has a label"):
        knn_frames(x, [IGNORE] * 5, x, 2, k=1)
    with pytest.raises(ParameterError, match="k = 3 neighbours of 2"):
        knn_frames(x, [0, 1] + [IGNORE] * 3, x, 2, k=3)
    x[4] = 0
    with pytest.raises(DataError, match="gallery frame 4.*zeros"):
        knn_frames(x, [0, IGNORE, 1, 1, 1], x[:4], 2, k=1)
    with pytest.raises(DataError, match="query frame 4.*zeros"):
        knn_frames(x[:4], [0, IGNORE, 1, 1], x, 2, k=1)


# ---- retrieval ----------------------------------------------------------------------------------------------------------------------


def by_hand(s, y, gallery_y):
    "AP and the place of the first relevant entry, one query at a time."
    ap, place = [], []
    for row, c in zip(s, y):
        keep = row > -np.inf
        relevant = (gallery_y == c) & keep
        ap.append(np.mean([(relevant & (row >= row[r])).sum() / (keep & (row >= row[r])).sum() for r in np.flatnonzero(relevant)])
                  if relevant.any() else np.nan)
        order = np.argsort(-row, kind="stable")
        place.append(int(np.flatnonzero(relevant[order])[0]) if relevant.any() else -1)
    return np.array(ap), np.array(place)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 15), st.integers(1, 60), st.integers(1, 6), st.integers(0, 10_000), st.integers(1, 4), st.booleans())
def test_retrieval_is_the_definition_with_many_ties(n, m, kinds, seed, block, own):
    rng = np.random.default_rng(seed)
    m = max(m, 2)
    names = ("a", "b", "c")
    gallery = Examples(exact(rng.integers(0, kinds, m)), rng.integers(0, 3, m), names)
    queries = gallery if own else Examples(exact(rng.integers(0, kinds, n)), rng.integers(0, 3, n), names)
    k = m - own
    found = retrieval(gallery, None if own else queries, ks=(1, k), absent="nan", block=block)
    s = queries.x.numpy() @ gallery.x.numpy().T
    if own:
        np.fill_diagonal(s, -np.inf)
    ap, place = by_hand(s, queries.y, gallery.y)
    np.testing.assert_allclose(found.ap, ap, rtol=1e-12)
    np.testing.assert_array_equal(found.place, place)
    np.testing.assert_array_equal(found.neighbour, np.argsort(-s, axis=1, kind="stable")[:, 0])
    np.testing.assert_array_equal(found.predicted, gallery.y[found.neighbour])


def test_average_precision_is_scikit_learns():
    gallery, queries = random_examples(700, 7), random_examples(60, 7, seed=1)
    found = retrieval(gallery, queries)
    unit = lambda e: torch.nn.functional.normalize(e.x).numpy()
    s = unit(queries) @ unit(gallery).T
    want = [average_precision_score(gallery.y == c, row) for c, row in zip(queries.y, s)]
    np.testing.assert_allclose(found.ap, want, atol=2e-4)  # the last digit of a similarity may swap two entries
    assert np.median(np.abs(found.ap - want)) < 1e-6
    tied = Examples(exact([0, 0, 0, 1]), [0, 1, 0, 1], ("a", "b"))
    assert retrieval(tied, tied.take([0]), ks=(1,)).map == pytest.approx(average_precision_score([1, 0, 1, 0], [1, 1, 1, 0])) == pytest.approx(2 / 3)


def test_retrieval_and_its_tables():
    gallery, queries = random_examples(200, 5), random_examples(50, 5, seed=1, groups=np.arange(50) // 5)
    found = retrieval(gallery, queries, ks=(5, 1, 10))
    assert found.ks == (1, 5, 10) and found.accuracy == knn(gallery, queries).accuracy == (found.predicted == found.truth).mean()
    _, index = nearest(queries.x, gallery.x, 10)
    for k in (1, 3, 5, 10):
        assert found.recall(k) == (gallery.y[index.numpy()[:, :k]] == queries.y[:, None]).any(1).mean()
    assert list(found.numbers()) == ["recall@1", "recall@5", "recall@10", "map"] and found.map == found.ap.mean()
    table = found.per_class()
    assert table["queries"].tolist() == [10] * 5 and table["accuracy"].mean() == pytest.approx(found.accuracy)
    assert table.loc["c2", "ap"] == pytest.approx(found.ap[queries.y == 2].mean())
    json.dumps(found.settings)
    with pytest.raises(ParameterError, match="recall@20"):
        found.recall(20)
    p = np.random.default_rng(0).permutation(200)
    assert retrieval(gallery.take(p), queries).map == pytest.approx(found.map, abs=1e-6)
    perfect = Examples(exact([0, 1, 0, 1]), [0, 1, 0, 1], ("a", "b"))
    assert retrieval(perfect, ks=(1,)).numbers() == {"recall@1": 1.0, "map": 1.0}


def test_a_class_that_the_gallery_lacks():
    gallery = random_examples(40)
    few = gallery.take(gallery.y != 2)
    queries = random_examples(20, seed=1, clips=100 + np.arange(20))
    first = queries.clips[queries.y == 2][0]
    with pytest.raises(DataError, match=f"query clip {first}.*no clip of class 'c2'.*\n.*absent='nan'"):
        retrieval(few, queries)
    found = retrieval(few, queries, absent="nan")
    others = retrieval(few, queries.take(queries.y != 2))
    assert np.isnan(found.ap[queries.y == 2]).all() and found.answered.sum() == 15 and found.numbers() == others.numbers()
    table = found.per_class()
    assert table["queries"].tolist() == [5, 5, 0, 5] and np.isnan(table.loc["c2", "ap"])
    single = gallery.take(np.r_[np.flatnonzero(gallery.y != 2), np.flatnonzero(gallery.y == 2)[:1]])
    with pytest.raises(DataError, match="no other clip of class 'c2'"):
        retrieval(single)
    assert np.isnan(retrieval(single, absent="nan").ap).sum() == 1
    for bad in (dict(ks=()), dict(ks=(0, 1)), dict(absent="skip"), dict(ks=(1, 500)), dict(metric="dot")):
        with pytest.raises(ParameterError):
            retrieval(gallery, queries, **bad)


# ---- bad input ----------------------------------------------------------------------------------------------------------------------


def test_bad_features():
    good = torch.ones(4, 3)
    nan, zero = good.clone(), good.clone()
    nan[2, 1], zero[3] = torch.nan, 0
    with pytest.raises(DataError, match="query row 2.*not finite"):
        nearest(nan, good, 1)
    with pytest.raises(DataError, match="gallery row 2.*not finite"):
        nearest(good, nan, 1)
    nan[2, 1] = -torch.inf
    with pytest.raises(DataError, match="gallery clip 30.*not finite"):
        nearest(good, nan, 1, names=(None, [10, 20, 30, 40]), noun="clip")
    with pytest.raises(DataError, match="gallery row 3.*zeros.*\n.*euclidean"):
        nearest(good, zero, 1)
    assert nearest(good, zero, 1, "euclidean")[1].flatten().tolist() == [0, 0, 0, 0]
    for what, q, g in (("query", torch.zeros(0, 3), good), ("gallery", good, torch.zeros(0, 3)), ("gallery", good, torch.ones(3)), ("query", good[0], good)):
        with pytest.raises(DataError, match=f"{what}: features have shape"):
            nearest(q, g, 1)
    with pytest.raises(DataError, match="queries have 3 numbers, the gallery 2"):
        nearest(good, good[:, :2], 1)
    for k, own, text in ((5, False, "k = 5 neighbours of 4"), (0, False, "k = 0"), (4, True, "of 3 in the gallery .its own")):
        with pytest.raises(ParameterError, match=text):
            nearest(good, None if own else good, k)
    with pytest.raises(ParameterError, match="two clips"):
        nearest(good[:1], None, 1)
    with pytest.raises(ParameterError, match="dot.*\n.*cosine, euclidean"):
        nearest(good, good, 1, "dot")


def test_bad_clips_are_named():
    train, test = random_examples(20, data="store"), random_examples(8, seed=1, clips=np.arange(50, 58), data="store")
    train.x[7] = 0
    with pytest.raises(DataError, match="gallery clip 7"):
        knn(train, test)
    train.x[7] = 1
    test.x[3] = 0
    for protocol in (knn, retrieval):
        with pytest.raises(DataError, match="query clip 53"):
            protocol(train, test)
    with pytest.raises(DataError, match="in training and test"):
        knn(train, train.take([1]))
    with pytest.raises(DataError, match="features of 6 numbers"):
        retrieval(train, Examples(test.x[:, :2], test.y, test.classes))
    with pytest.raises(ParameterError, match="k = 21"):
        knn(train, test.take([0]), 21)
