from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestCentroid
from torch import nn
from torch.nn import functional as F

from skelnb.backbones.features import Features
from skelnb.data.recordings import read_set
from skelnb.data.synthetic import synthesize
from skelnb.errors import DataError, ParameterError
from skelnb.evaluation import diagnostics
from skelnb.evaluation.diagnostics import (
    actionlet_metrics,
    boundary_errors,
    boundary_summary,
    class_alignment,
    class_scatter,
    correlation,
    dead_dimensions,
    diagnose_features,
    embedding_map,
    frame_classes,
    ler_profile,
    mean_correlation,
    nearest_centroid,
    rankme,
    silhouette,
    spectrum,
    uniformity,
    view_alignment,
)
from skelnb.evaluation.examples import Examples
from skelnb.objectives.rank import effective_rank, effective_rank_svd
from skelnb.topology import layout


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def some(n=40, d=6, k=4, people=5, seed=0):
    "Examples whose classes overlap, of a few people."
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    x = normal(k, d, seed=seed + 1)[y] + normal(n, d, seed=seed)
    return Examples(x, y, [f"c{i}" for i in range(k)], groups=rng.integers(0, people, n))


@pytest.fixture
def tiny_blocks(monkeypatch):
    "Blocks of seven rows, so that small inputs take several."
    monkeypatch.setattr(diagnostics, "_blocks", partial(diagnostics._blocks, size=7))


# --- spectrum -------------------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("values, rank", [((3., 1.), 1.7547653506), ((4., 3., 2., 1.), 3.5961154666), ((1., 1., 1.), 3.0)])
def test_effective_rank_of_the_spec(values, rank):
    s = spectrum(torch.diag(torch.tensor(values, dtype=torch.float64)), center=False)
    assert s.effective_rank == pytest.approx(rank, rel=1e-9) and s.singular == pytest.approx(values)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 999), st.booleans(), st.sampled_from([1e-20, 1.0, 1e15]))
def test_spectrum_against_svd(n, d, seed, center, scale):
    x = normal(n, d, seed=seed, dtype=torch.float64) * scale + 2 * scale
    s, a = spectrum(x, center), (x - x.mean(0) if center else x).numpy()
    sigma = np.linalg.svd(a, compute_uv=False)
    assert s.singular == pytest.approx(sigma, rel=1e-6, abs=1e-6 * scale * max(n, d))
    assert s.energy == pytest.approx(float((x**2).sum())) and len(s.singular) == min(n, d)
    if not (center and n == 1):
        p = sigma[sigma > 1e-9 * sigma[0]]
        assert s.effective_rank == pytest.approx(np.exp(-(p / p.sum() * np.log(p / p.sum())).sum()), rel=1e-5)
        assert s.participation_ratio == pytest.approx((p**2).sum() ** 2 / (p**4).sum(), rel=1e-6)
        assert s.stable_rank == pytest.approx((p**2).sum() / p[0] ** 2, rel=1e-6)
        assert 1 - 1e-9 <= s.stable_rank and s.participation_ratio <= len(p) * (1 + 1e-9)
        assert s.spread == pytest.approx((a**2).sum() / float((x**2).sum())) and s.variance.sum() == pytest.approx(1)
        cumulative = (p**2).cumsum() / (p**2).sum()
        assert cumulative[s.directions() - 1] >= 0.9 - 1e-9 and (s.directions() == 1 or cumulative[s.directions() - 2] < 0.9 + 1e-9)


def test_rank_of_objectives_and_rankme():
    x = normal(70, 20) + 1
    s = spectrum(x, center=False)
    assert s.effective_rank == pytest.approx(float(effective_rank(x)), rel=1e-6) == pytest.approx(float(effective_rank_svd(x.double())), rel=1e-6)
    p = np.linalg.svd(x.double().numpy(), compute_uv=False)
    p = p / p.sum() + 1e-7
    assert rankme(x) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-6)
    low = normal(50, 2, dtype=torch.float64) @ normal(2, 30, seed=1, dtype=torch.float64)  # 28 zero singular values, -eps ln eps each
    ratio = np.log(rankme(low) / spectrum(low, center=False).effective_rank)
    assert 28 * 1.6e-6 < ratio < 30 * 1.7e-6


def test_spectrum_in_blocks(tiny_blocks):
    x = normal(50, 9) * 3 + 5
    assert spectrum(x).singular == pytest.approx(np.linalg.svd((x - x.mean(0)).numpy(), compute_uv=False), rel=1e-4)
    assert correlation(x) == pytest.approx(np.corrcoef(x.T.numpy()), abs=1e-5)
    assert np.abs(embedding_map(x)) == pytest.approx(np.abs(PCA(2, svd_solver="full").fit_transform(x.numpy())), abs=1e-4)


def test_spectrum_does_not_depend_on_scale_order_or_rotation():
    x = normal(40, 12)
    q = torch.linalg.qr(normal(12, 12, seed=3)).Q
    for other in (x * 1e-12, x.flip(0), x @ q):
        assert spectrum(other).effective_rank == pytest.approx(spectrum(x).effective_rank, rel=1e-5)
    assert spectrum(x + 100).effective_rank == pytest.approx(spectrum(x).effective_rank, rel=1e-3)
    assert spectrum(x + 100, center=False).effective_rank < 2 and spectrum(x + 100).spread < 1e-3


@pytest.mark.parametrize("x", [torch.zeros(9, 4), torch.full((9, 4), 0.3), torch.full((3, 8), 1 / 3), torch.ones(1, 5) * 7,
                               0.1 * (1 + 1e-7 * normal(9, 4)), torch.full((9, 4), 0.1, dtype=torch.float64)])
def test_constant_features(x):
    s = spectrum(x)
    assert not s.singular.any() and s.effective_rank == s.stable_rank == s.participation_ratio == 1
    assert s.directions() == 0 and s.spread == 0 and not s.variance.any()
    assert rankme(x) == pytest.approx(1, abs=1e-4) and not embedding_map(x).any() and dead_dimensions(x).all()
    assert np.isnan(mean_correlation(x))


@pytest.mark.parametrize("x, said", [
    (torch.zeros(3), "shape"), (np.zeros((0, 4)), "shape"), (torch.zeros(2, 3, 4), "(2, 3, 4)"), (np.array([["a"]]), "no numbers"),
    (torch.tensor([[0., 1.], [torch.nan, 0.]]), "row 1"), (np.array([[0., np.inf]]), "row 0")])
@pytest.mark.parametrize("function", [spectrum, rankme, dead_dimensions, correlation, uniformity, embedding_map])
def test_bad_features(function, x, said):
    with pytest.raises(DataError) as e:
        function(x)
    assert said in str(e.value) and e.value.remedy


def test_what_counts_as_features(tmp_path):
    x = normal(20, 5)
    np.save(tmp_path / "x.npy", x.numpy().astype(np.float16))
    half = np.load(tmp_path / "x.npy", mmap_mode="r")
    want = spectrum(x).effective_rank
    everything = (x.tolist(), x.double().numpy(), Examples(x, [0] * 20, list("a")), Features(x, x[:, None]), x.requires_grad_())
    assert [spectrum(e).effective_rank for e in everything] == pytest.approx([want] * 5)
    assert spectrum(half).effective_rank == pytest.approx(want, rel=1e-3) and spectrum(x.bfloat16()).effective_rank == pytest.approx(want, rel=0.05)
    assert spectrum(np.arange(12).reshape(4, 3)).effective_rank == pytest.approx(1)  # whole numbers; all rows on one line


# --- dimensions -----------------------------------------------------------------------------------------------------------------------------------

def test_dead_and_repeated_dimensions():
    x = normal(60, 5)
    odd = torch.cat([x, x[:, :1] * -4 + 9, torch.zeros(60, 1), torch.full((60, 1), 1e4) * (1 + 1e-7 * normal(60, 1)), 1e-9 * x[:, 1:2]], 1)
    assert np.flatnonzero(dead_dimensions(odd)).tolist() == [6, 7, 8]
    c = correlation(odd)
    assert c[0, 5] == pytest.approx(-1) and np.isnan(c[6]).all() and np.isnan(c[:, 8]).all()
    assert c[:6, :6] == pytest.approx(np.corrcoef(odd[:, :6].T.numpy()), abs=1e-5) and np.abs(c[:6, :6]).max() <= 1
    off = np.abs(np.corrcoef(odd[:, :6].T.numpy())[np.triu_indices(6, 1)])
    assert mean_correlation(odd) == pytest.approx(off.mean(), abs=1e-5)
    assert mean_correlation(normal(400, 30, seed=2), limit=10) == pytest.approx((2 / np.pi / 400) ** 0.5, rel=0.3)
    assert not dead_dimensions(1e-9 * x).any()  # small everywhere is not dead


# --- local effective rank -------------------------------------------------------------------------------------------------------------------------

def test_ler_profile_by_hand():
    z = normal(5, 7, 25, 6)
    table = ler_profile(z, (0.3, 1.0), "kinect_v2", batch=2)
    assert table.part.unique().tolist() == ["whole body", *layout("kinect_v2").parts] and table.length.tolist() == [0.3, 1.0] * 6
    for row in table.itertuples():
        joints = list(range(25)) if row.part == "whole body" else list(layout("kinect_v2").parts[row.part])
        starts = [0, 2, 4, 5] if row.length == 0.3 else [0]  # crops of 2 of 7 frames, the last one ends with the clip
        size = {0.3: 2, 1.0: 7}[row.length]
        ranks = np.array([[float(effective_rank_svd(z[i, s : s + size, joints].flatten(0, 1).double())) for s in starts] for i in range(5)])
        assert (row.frames, row.tokens, row.crops) == (size, size * len(joints), len(starts)) and row.most == min(row.tokens, 6)
        assert row.ler == pytest.approx(ranks.mean(), rel=1e-4) and row.std == pytest.approx(ranks.mean(1).std(), rel=1e-3, abs=1e-5)
        assert row.share == pytest.approx(row.ler / row.most)


def test_ler_profile_of_memory_maps_and_parts(tmp_path):
    z = normal(30, 4, 5, 3)
    np.save(tmp_path / "z.npy", z.numpy().astype(np.float16))
    few = ler_profile(np.load(tmp_path / "z.npy", mmap_mode="r"), (1.0,), {"arm": (0, 2)}, limit=10)
    rows = np.linspace(0, 29, 10).astype(int)
    assert few.ler[1] == pytest.approx(float(effective_rank(z[rows][:, :, [0, 2]].flatten(1, 2)).mean()), rel=1e-3) and few.part[1] == "arm"
    assert ler_profile(torch.zeros(2, 3, 4, 5), (0.5,)).ler[0] == 1
    with pytest.raises(DataError, match="clip 7"):
        ler_profile(torch.where(torch.arange(30)[:, None, None, None] == 7, torch.inf, z))
    with pytest.raises(DataError, match="N, T', V, D"):
        ler_profile(z[0])
    with pytest.raises(ParameterError, match="5 joints are not of layout kinect_v2 with 25"):
        ler_profile(z, parts="kinect_v2")
    with pytest.raises(ParameterError, match=r"'leg' has joints \[5\]"):
        ler_profile(z, parts={"leg": [5]})
    with pytest.raises(ParameterError, match="ratio"):
        ler_profile(z, (0.0,))


# --- alignment and uniformity ---------------------------------------------------------------------------------------------------------------------

@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(1, 8), st.integers(0, 999), st.sampled_from([1, 3, 64]), st.sampled_from([0.5, 2.0]), st.sampled_from([0.0, 30.0]))
def test_uniformity_against_all_pairs(n, d, seed, block, t, offset):
    x = normal(n, d, seed=seed, dtype=torch.float64) + offset
    want = torch.pdist(F.normalize(x)).square().mul(-t).exp().mean().log()
    assert uniformity(x, t, block=block) == pytest.approx(float(want), rel=1e-9, abs=1e-9)
    assert uniformity(x.float(), t, block=block) == pytest.approx(float(want), rel=1e-4, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.sampled_from([1, 3, 64]), st.sampled_from([0.5, 1.0, 2.0, 3.0]))
def test_class_alignment_against_loops(seed, block, alpha):
    e = some(30, 4, 5, seed=seed)
    z, means = F.normalize(e.x.double()), []
    for i in range(30):
        others = [j for j in range(30) if e.y[j] == e.y[i] and j != i]
        means += [np.mean([float((z[i] - z[j]).norm()) ** alpha for j in others])] if others else []
    assert class_alignment(e, alpha, block) == pytest.approx(np.mean(means), rel=1e-4, abs=1e-6)


def test_alignment_and_uniformity_at_their_limits():
    x = normal(500, 128)
    assert uniformity(x) == pytest.approx(-4, abs=0.1) and uniformity(torch.ones(9, 3)) == pytest.approx(0, abs=1e-12)
    assert uniformity(torch.eye(2)) == pytest.approx(-4) and uniformity(torch.tensor([[1., 0.], [-3., 0.]])) == pytest.approx(-8)
    assert uniformity(x[:2] * 1e-30) == pytest.approx(uniformity(x[:2])) and uniformity(x, limit=100, seed=1) == uniformity(x, limit=100, seed=1)
    assert view_alignment(x, -x) == pytest.approx(4) and view_alignment(x, -x, 1) == pytest.approx(2) and view_alignment(x, 7 * x) < 1e-12
    near = F.normalize(torch.ones(6, 8) + 1e-4 * normal(6, 8), dim=1)  # collapsed: the digits of small distances survive
    want = torch.pdist(F.normalize(near.double())).square().mean()
    assert class_alignment(Examples(near, [0] * 6, list("a"))) == pytest.approx(float(want), rel=1e-2)
    assert uniformity(near) == pytest.approx(float(-2 * want), rel=1e-2)


def test_alignment_and_uniformity_refuse():
    x = normal(6, 3)
    with pytest.raises(DataError, match=r"row 4: is a zero vector"):
        uniformity(torch.where(torch.arange(6)[:, None] == 4, 0.0, x))
    with pytest.raises(DataError, match="zero vector"):
        view_alignment(x, 0 * x)
    with pytest.raises(DataError, match=r"\(6, 3\) and \(5, 3\)"):
        view_alignment(x, x[:5])
    with pytest.raises(DataError, match="makes no pair"):
        uniformity(x[:1])
    with pytest.raises(DataError, match="no class has two"):
        class_alignment(Examples(x[:3], [0, 1, 2], list("abc")))


def test_global_random_state_is_left_alone():
    before, np_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    e = some()
    uniformity(e, limit=10), silhouette(e, limit=20), embedding_map(e, "tsne"), diagnose_features(e, limit=10)
    assert torch.equal(before, torch.get_rng_state()) and np.array_equal(np_before, np.random.get_state()[1])


# --- classes --------------------------------------------------------------------------------------------------------------------------------------

def test_scatter_and_silhouette(tiny_blocks):
    e = some(50)
    s, x = class_scatter(e), e.x.double()
    within = sum(float((x[e.y == k] - x[e.y == k].mean(0)).square().sum()) for k in range(4)) / 50
    total = float((x - x.mean(0)).square().sum()) / 50
    assert s["within"] == pytest.approx(within) and s["between"] + s["within"] == pytest.approx(total)
    assert s["ratio"] == pytest.approx((total - within) / within) and s["share"] == pytest.approx(1 - within / total)
    assert silhouette(e, "euclidean") == pytest.approx(silhouette_score(e.x.numpy(), e.y)) != silhouette(e, "euclidean", limit=30)
    assert np.isnan(silhouette(e.take(e.y == 0))) and np.isnan(silhouette(Examples(e.x[:2], [0, 1], list("ab"))))
    assert class_scatter(Examples(torch.eye(3), [0, 1, 2], list("abc")))["ratio"] == np.inf
    assert np.isnan(class_scatter(Examples(torch.full((4, 3), 0.1), [0, 1, 0, 1], list("ab")))["share"])


def test_nearest_centroid_agrees_with_scikit_learn():
    train, test = some(60, seed=1), some(80, seed=1)
    test = Examples(test.x + 0.3, test.y, test.classes)
    ours = nearest_centroid(train, test, "euclidean")
    theirs = NearestCentroid().fit(train.x.numpy(), train.y)
    assert np.array_equal(ours.predicted, theirs.predict(test.x.numpy())) and 0.3 < ours.accuracy < 1
    far = np.square(test.x.numpy()[:, None] - theirs.centroids_).sum(2)
    assert -ours.scores == pytest.approx(far, rel=1e-3, abs=1e-3)
    assert ours.settings == {"protocol": "nearest centroid", "metric": "euclidean", "left_out": None}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.sampled_from(["cosine", "euclidean"]), st.sampled_from([2, 6, 40]), st.integers(1, 6))
def test_left_out_groups_against_loops(seed, metric, people, k):
    e = some(25, 4, k, people, seed)
    e = e if people < 40 else Examples(e.x, e.y, e.classes)  # every clip a group of its own
    x = e.x.double()
    x = F.normalize(x) if metric == "cosine" else x - x.mean(0)
    got = nearest_centroid(e, metric=metric)
    for i in range(25):
        for c in range(k):
            rest = x[(e.y == c) & (e.groups != e.groups[i])]
            if len(rest):
                m = rest.mean(0)
                want = float(F.cosine_similarity(x[i], m, dim=0)) if metric == "cosine" else -float((x[i] - m).square().sum())
                assert got.scores[i, c] == pytest.approx(want, rel=1e-3, abs=1e-4)
            else:
                assert got.scores[i, c] <= -1 and (got.scores[i, c] <= got.scores[i]).all()


def test_nearest_centroid_at_its_limits():
    train = Examples(torch.tensor([[1., 0.], [0., 2.], [0., 4.]]), [0, 1, 1], ("a", "b", "absent"))
    test = Examples(torch.tensor([[3., 1.], [0., 0.], [-5., 1.]]), [0, 1, 2], train.classes)
    cosine, euclid = nearest_centroid(train, test), nearest_centroid(train, test, "euclidean")
    assert cosine.predicted.tolist() == [0, 0, 1] and euclid.predicted.tolist() == [0, 0, 1]
    assert (cosine.scores[:, 2] < cosine.scores[:, :2].min(1)).all() and (euclid.scores[:, 2] < euclid.scores[:, :2].min(1)).all()
    assert cosine.scores[1].tolist()[:2] == [0, 0]
    with pytest.raises(ParameterError, match="use cosine or euclidean"):
        nearest_centroid(train, metric="l1")
    with pytest.raises(DataError, match="not the same list"):
        nearest_centroid(train, Examples(test.x, test.y, list("abc")))
    with pytest.raises(DataError, match="all clips are of one group"):
        nearest_centroid(Examples(train.x, train.y, train.classes, groups=["p"] * 3))


# --- map ------------------------------------------------------------------------------------------------------------------------------------------

def test_pca_map():
    for n, d in ((30, 5), (6, 20), (4, 1), (1, 3)):
        x = normal(n, d, seed=n) + 2
        flat = embedding_map(x)
        assert flat.shape == (n, 2) and flat.dtype == np.float64 and np.array_equal(flat, embedding_map(x.numpy()))
        k = min(2, n - 1, d)
        if k:
            p = PCA(k, svd_solver="full").fit(x.numpy())
            sign = np.sign(p.components_[np.arange(k), np.abs(p.components_).argmax(1)])  # the largest weight is positive
            assert flat[:, :k] == pytest.approx(p.transform(x.numpy()) * sign, abs=1e-4)
        assert not flat[:, k:].any()
    x = normal(20, 4)
    assert embedding_map(x.flip(0)) == pytest.approx(embedding_map(x)[::-1], abs=1e-6)
    assert embedding_map(x * 1e-30) == pytest.approx(1e-30 * embedding_map(x), rel=1e-4)


def test_tsne_map():
    y = np.arange(60) % 3
    x = 12 * normal(3, 8)[y] + normal(60, 8, seed=1)
    near = embedding_map(x, "tsne")
    assert near.shape == (60, 2) and np.array_equal(near, embedding_map(x, "tsne"))
    centres = np.stack([near[y == k].mean(0) for k in range(3)])
    assert (np.square(near[:, None] - centres).sum(2).argmin(1) == y).all()
    assert embedding_map(x[:4], "tsne").shape == (4, 2) and not embedding_map(torch.ones(5, 3), "tsne").any()
    with pytest.raises(ParameterError, match="pca or tsne"):
        embedding_map(x, "umap")
    with pytest.raises(ParameterError, match="3 clips"):
        embedding_map(x[:3], "tsne")


# --- frames and boundaries ------------------------------------------------------------------------------------------------------------------------

def test_frame_classes_by_hand():
    truth, pred = [np.array([0, 0, 1, 1, 1, 0, 2, 2]), np.array([1, 1])], [np.array([0, 1, 1, 0, 1, 0, 0, 0]), np.array([1, 2])]
    table = frame_classes(pred, truth, ["-", "a", "b", "never"], fps=2)
    assert table.frames.tolist() == [3, 5, 2, 0] and table.segments.tolist() == [2, 2, 1, 0] and table.said.tolist() == [3, 3, 1, 0]
    assert table.recall.tolist()[:3] == [2 / 3, 3 / 5, 0] and table.precision.tolist()[:3] == [2 / 5, 3 / 4, 0] and table.f1["a"] == 6 / 9
    assert table.taken_for.tolist() == ["a", "-", "-", ""] and np.isnan(table.loc["never", ["recall", "precision", "f1", "length"]].astype(float)).all()
    assert table.length.tolist()[:3] == [0.75, 1.25, 1.0] and table.said_length["-"] == pytest.approx(5 / 3 / 2)
    assert frame_classes(pred, truth, ["-", "a", "b", "never"]).length["a"] == 2.5
    with pytest.raises(DataError, match=r"not both in 0\.\.1"):
        frame_classes(pred, truth, ["-", "a"])


def slow_errors(pred, truth):
    "The definition, a boundary at a time."
    def edges(v): return [(t, v[t - 1], v[t]) for t in range(1, len(v)) if v[t] != v[t - 1]]

    def nearest(t, places):
        return min((p - t for p in places), key=lambda e: (abs(e), e)) if places else None

    return [(t, a, b, nearest(t, [p for p, *_ in edges(pred)]), nearest(t, [p for p, c, d in edges(pred) if (c, d) == (a, b)]))
            for t, a, b in edges(truth)]


lines = st.integers(0, 14).flatmap(lambda n: st.tuples(*[st.lists(st.integers(-1, 2), min_size=n, max_size=n)] * 2))


@settings(max_examples=150, deadline=None)
@given(st.lists(lines, min_size=1, max_size=4))
def test_boundary_errors_against_loops(videos):
    assume(any(t for _, t in videos))
    pred, truth = ({f"v{i}": np.array(v[k], dtype=int) for i, v in enumerate(videos)} for k in (0, 1))
    table = boundary_errors(pred, truth, fps=10)
    want = [(f"v{i}", *row) for i, (p, t) in enumerate(videos) for row in slow_errors(p, t)]
    got = [(*r[:4], *(None if np.isnan(e) else int(e) for e in r[4:])) for r in table[table.columns[:6]].itertuples(index=False)]
    assert got == want and np.array_equal(table.seconds, table.error / 10, equal_nan=True)
    assert np.array_equal(table.seconds_same, table.error_same / 10, equal_nan=True)


def test_boundary_errors_say_where():
    truth, pred = {"a": np.repeat([0, 1, 0], 10), "b": np.repeat([0, 2], 20)}, {"a": np.repeat([0, 1, 0], [13, 10, 7]), "b": np.zeros(40, int)}
    table = boundary_errors(pred, truth, {"a": 30, "b": 15}, ["rest", "wave", "kick"])
    assert table.values.tolist()[0] == ["a", 10, "rest", "wave", 3, 3, 0.1, 0.1] and table.video.tolist() == ["a", "a", "b"]
    assert np.isnan(table.error[2]) and table.after[2] == "kick"
    s = boundary_summary(table, (0.05, 0.1))
    assert s.loc["any"].tolist() == [3, 1, pytest.approx(0.1), pytest.approx(0.1), 1, pytest.approx(1 / 3)]
    assert boundary_errors(truth, truth).error.eq(0).all() and boundary_errors(truth["a"], truth["a"]).video.tolist() == [0, 0]
    none = boundary_errors([np.zeros(5, int)], [np.ones(5, int)])
    assert len(none) == 0 and boundary_summary(none).loc["any", "boundaries"] == 0 and np.isnan(boundary_summary(none)["missed@0.5"]).all()
    with pytest.raises(ParameterError, match="no frame rate for video 'b'"):
        boundary_errors(pred, truth, {"a": 30})
    with pytest.raises(ParameterError, match="not positive"):
        boundary_errors(pred, truth, 0)
    with pytest.raises(DataError, match=r"labels 0\.\.2 are not all in 0\.\.1"):
        boundary_errors(pred, truth, 30, ["rest", "wave"])
    with pytest.raises(DataError, match="39 predicted labels for 40 frames"):
        boundary_errors(pred | {"b": np.zeros(39, int)}, truth)


def test_boundary_errors_follow_the_frame_rate():
    rng = np.random.default_rng(0)
    truth, pred = ([rng.integers(0, 3, 8).repeat(rng.integers(4, 9, 8))[:30] for _ in range(5)] for _ in range(2))
    slow, fast = boundary_errors(pred, truth, 10), boundary_errors([v.repeat(3) for v in pred], [v.repeat(3) for v in truth], 30)
    pd.testing.assert_frame_equal(slow[["seconds", "seconds_same"]], fast[["seconds", "seconds_same"]])
    turned = boundary_errors(pred[::-1], truth[::-1], 10)
    assert sorted(turned.error.dropna()) == sorted(slow.error.dropna())


# --- actionlets -----------------------------------------------------------------------------------------------------------------------------------

@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(0, 999), st.sampled_from([(3, 5), (2, 4, 2)]), st.sampled_from([0.0, 0.5, 1.0]), st.booleans())
def test_actionlets_against_loops(n, seed, shape, share, counted):
    rng = np.random.default_rng(seed)
    a, b, c = (rng.random((n, *shape)) < p for p in (share, 0.5, 0.8))
    table = actionlet_metrics(a, torch.from_numpy(b), where=c if counted else None)
    where = c if counted else np.ones_like(c)
    for key, rows in [*zip(range(n), [[i] for i in range(n)]), ("total", list(range(n)))]:
        cells = [(p, q) for i in rows for p, q, w in zip(a[i].flat, b[i].flat, where[i].flat) if w]
        pos, neg = sum(p and q for p, q in cells), sum(p and not q for p, q in cells)
        true = sum(q for _, q in cells)
        assert (table.N_pos[key], table.N_neg[key]) == (pos, neg)
        for got, up, down in ((table.R, pos, pos + neg), (table.recall, pos, true), (table.chance, true, len(cells))):
            assert got[key] == pytest.approx(up / down) if down else np.isnan(got[key])


def test_actionlets_need_thresholds_and_shapes():
    a = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0))
    assert actionlet_metrics(a, a > 0.5, threshold=0.5).R["total"] == 1
    assert actionlet_metrics(a > 0.2, a, reference_threshold=0.6).recall["total"] == 1
    for args, said in (((a, a > 0.5), "the predicted mask is torch.float32"), ((a > 0.5, a), "the reference mask is"),
                       ((a > 0.5, a > 0.5, 0.5), "boolean already"), (((a > 0.5).long(), a > 0.5), "int64")):
        with pytest.raises(ParameterError, match=said):
            actionlet_metrics(*args)
    for x, y in ((a > 0, a[:1] > 0), (a > 0, a[..., None] > 0), (a[0] > 0, a[0] > 0), (a[:0] > 0, a[:0] > 0)):
        with pytest.raises(DataError, match="masks of shape"):
            actionlet_metrics(x, y)
    a[1, 0, 0] = torch.nan
    with pytest.raises(DataError, match="clip 1: the predicted mask is not finite"):
        actionlet_metrics(a, a > 0, threshold=0.5)


def test_actionlets_of_synthetic_people():
    clips = synthesize(4, actions=["wave", "kick"], frames=(40, 40), seed=1, noise=0)
    moving = np.stack([c.moving for c in clips]).swapaxes(2, 3)  # (N, T, V, M)
    speed = np.gradient(np.stack([c.xyz for c in clips]), axis=1)
    speed = 30 * np.linalg.norm(speed, axis=-1).swapaxes(2, 3)
    table = actionlet_metrics(speed, moving, 0.3)
    assert table.R["total"] > 0.9 > table.chance["total"] and table.N_pos["total"] == table.N_pos[:4].sum()


# --- in one line ----------------------------------------------------------------------------------------------------------------------------------

class Double(nn.Module):
    "An encoder without positions: coordinates and twice themselves."

    def __init__(self, tokens=True):
        super().__init__()
        self.drop, self.tokens, self.batches = nn.Dropout(0.5), tokens, []

    def features(self, x):
        self.batches.append(len(x))
        f = Features.from_tokens(self.drop(torch.cat([x[..., 0], 2 * x[..., 0]], 1)).permute(0, 2, 3, 1))
        return f if self.tokens else Features(f.clip, f.frames)


def test_diagnose_every_kind_of_input():
    e, z = some(), normal(40, 4, 5, 3)
    columns = ["clips", "width", "zero", "dead", "spread", "effective_rank", "participation", "rankme", "ler", "correlation", "uniformity",
               "alignment", "centroid"]
    full = diagnose_features(e, "ours", tokens=z)
    assert full.columns.tolist() == columns and full.index.tolist() == ["ours"] and full.notna().to_numpy().all()
    assert full.ler["ours"] == pytest.approx(ler_profile(z, (1.0,)).ler[0]) and full.centroid["ours"] == nearest_centroid(e).accuracy
    assert full.rankme["ours"] == rankme(e) and full.effective_rank["ours"] == spectrum(e).effective_rank
    plain = diagnose_features(e.x)
    assert plain[["ler", "alignment", "centroid"]].isna().to_numpy().all() and plain.uniformity.iloc[0] == full.uniformity["ours"]
    assert diagnose_features(e.x.numpy(), y=e.y).alignment.iloc[0] == pytest.approx(class_alignment(e))
    assert diagnose_features(Features.from_tokens(z)).ler.iloc[0] == pytest.approx(full.ler["ours"])


@pytest.mark.parametrize("tokens", [True, False])
def test_diagnose_an_encoder(tokens):
    x, encoder = normal(11, 3, 4, 5, 1), Double(tokens).train()
    row = diagnose_features(encoder, x=x, y=np.arange(11) % 2, batch=4)
    assert encoder.training and encoder.batches == [4, 4, 3] and row.width.iloc[0] == 6
    want = diagnose_features(Double().eval().features(x), y=np.arange(11) % 2)
    pd.testing.assert_frame_equal(row.drop(columns="ler"), want.drop(columns="ler"), rtol=1e-5)
    assert row.ler.iloc[0] == pytest.approx(want.ler.iloc[0], rel=1e-5) if tokens else np.isnan(row.ler.iloc[0])
    with pytest.raises(ParameterError, match="needs clips"):
        diagnose_features(encoder)


@pytest.mark.parametrize("x", [torch.zeros(6, 3), torch.full((6, 3), 0.1), torch.ones(1, 3), torch.cat([torch.zeros(1, 3), normal(5, 3)])])
def test_diagnose_degenerate_features(x):
    row = diagnose_features(x, y=np.arange(len(x)) % 2).iloc[0]
    zero = int((x == 0).all(1).sum())
    assert row.zero == zero and row.effective_rank >= 1 and row.rankme > 0.999
    assert np.isnan(row.uniformity) == (zero > 0 or len(x) == 1) and np.isnan(row.centroid) == (len(x) == 1)
    with pytest.raises(DataError, match="row 0"):
        diagnose_features(torch.full((2, 3), torch.nan))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_same_on_cuda():
    e, z, other = some(200, 16, 5), normal(6, 8, 25, 12), normal(200, 16, seed=9)
    there = Examples(e.x.cuda(), e.y, e.classes, groups=e.groups)
    pd.testing.assert_frame_equal(diagnose_features(there, tokens=z.cuda()), diagnose_features(e, tokens=z), rtol=1e-3)
    assert embedding_map(there) == pytest.approx(embedding_map(e), abs=1e-4) and class_scatter(there) == pytest.approx(class_scatter(e), rel=1e-5)
    assert view_alignment(there.x, other.cuda()) == pytest.approx(view_alignment(e.x, other), rel=1e-5)
    for metric in ("cosine", "euclidean"):
        assert nearest_centroid(there, metric=metric).scores == pytest.approx(nearest_centroid(e, metric=metric).scores, abs=1e-3)
        assert nearest_centroid(there, e, metric).scores == pytest.approx(nearest_centroid(e, e, metric).scores, abs=1e-3)
    assert silhouette(there) == pytest.approx(silhouette(e)) and embedding_map(there, "tsne").shape == (200, 2)
    saliency = normal(3, 4, 5)
    pd.testing.assert_frame_equal(actionlet_metrics(saliency.cuda(), saliency > 0, 0.3), actionlet_metrics(saliency, saliency > 0, 0.3))


def test_real_recordings(recordings):
    "Raw coordinates of HDM05 hold much of the class, in few directions, and are judged more kindly by clips of the same person."
    clips = list(read_set(recordings / "skeletons", "hdm05"))
    frames = [c.xyz[np.linspace(0, len(c.xyz) - 1, 16).astype(int), 0] for c in clips]
    x = torch.from_numpy(np.stack([f - f[:1, 1:2] for f in frames])).flatten(1)
    classes = sorted({c.label for c in clips})
    y = [classes.index(c.label) for c in clips]
    strict = nearest_centroid(Examples(x, y, classes, groups=[c.subject for c in clips]), metric="euclidean").accuracy
    loose = nearest_centroid(Examples(x, y, classes), metric="euclidean").accuracy
    assert 0.5 < strict < loose
    assert dead_dimensions(x).nonzero()[0].tolist() == [3, 4, 5]  # the origin is one of the joints, in the first frame
    assert spectrum(x).directions() < 20 < spectrum(x).effective_rank
