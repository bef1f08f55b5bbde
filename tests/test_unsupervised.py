from itertools import permutations, product

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from skelnb.data.recordings import read_set
from skelnb.errors import DataError, ParameterError
from skelnb.evaluation import unsupervised as module
from skelnb.evaluation.framewise import segmental
from skelnb.evaluation.unsupervised import (
    RULES,
    baseline_labels,
    cluster_frames,
    compare_rules,
    grouping_scores,
    kmeans,
    match_labels,
    mode_filter,
    unsupervised_scores,
    viterbi,
)


def right(matching):
    return sum(int((matching.labels[v] == t).sum()) for v, t in matching.truth.items())


def best(pred, truth, n_pred, n_truth):
    "Most frames right under any one-to-one naming, by trying all."
    counts = np.zeros((n_pred, n_truth), int)
    for p, t in zip(np.concatenate(pred), np.concatenate(truth)):
        counts[p, t] += 1
    wide = np.pad(counts, ((0, 0), (0, max(0, n_pred - n_truth))))
    return max(sum(wide[k, c] for k, c in enumerate(chosen)) for chosen in permutations(range(wide.shape[1]), n_pred))


takes = st.lists(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=25), min_size=1, max_size=4)


@given(takes, st.integers(0, 3))
@settings(max_examples=80, deadline=None)
def test_matching_against_all_namings(frames, fewer):
    """More clusters than classes, as many, and fewer; for all videos, per video, and with the background left out."""
    n_pred = 5 - fewer
    pred, truth = [np.array([f[0] % n_pred for f in v]) for v in frames], [np.array([f[1] for f in v]) for v in frames]
    together = match_labels(pred, truth, n_pred, 4)
    assert right(together) == best(pred, truth, n_pred, 4)
    per_video = match_labels(pred, truth, n_pred, 4, how="video")
    assert right(per_video) == sum(best([p], [t], n_pred, 4) for p, t in zip(pred, truth)) >= right(together)
    named = together.classes[together.classes >= 0]
    assert len(set(named)) == len(named) and together.classes.shape == (n_pred,) and per_video.classes.shape == (len(frames), n_pred)
    for v, p in enumerate(pred):
        expected = np.where(together.classes[p] < 0, 4 + p, together.classes[p])
        assert together.labels[v].tolist() == expected.tolist()
    if any((t != 0).any() for t in truth):
        cut = [(p[t != 0], t[t != 0]) for p, t in zip(pred, truth) if (t != 0).any()]
        ignored, gone = (match_labels(pred, truth, n_pred, 4, background_frames=k) for k in ("ignore", "cut"))
        assert right(gone) == best(*zip(*cut), n_pred, 4) == right(ignored) and 0 not in ignored.classes
        assert [len(t) for t in gone.truth.values()] == [len(t) for _, t in cut]


@given(takes, st.permutations(range(5)), st.sampled_from(sorted(RULES)))
@settings(max_examples=80, deadline=None)
def test_numbers_of_clusters_and_names_and_order_of_videos_do_not_matter(frames, numbers, rule):
    """Exactly, also where several namings are equally good."""
    pred, truth = ({f"v{i}": np.array([f[side] for f in v]) for i, v in enumerate(frames)} for side in (0, 1))
    if not any(t.any() for t in truth.values()):
        return
    scores = unsupervised_scores(pred, truth, 5, 4, **RULES[rule])
    other = {v: np.array(numbers)[p] for v, p in pred.items()}
    assert unsupervised_scores(other, truth, 5, 4, **RULES[rule]) == pytest.approx(scores, rel=1e-12, abs=1e-12, nan_ok=True)
    renamed = [{v[::-1]: y for v, y in side.items()} for side in (pred, truth)]
    assert unsupervised_scores(*renamed, 5, 4, **RULES[rule]) == pytest.approx(scores, nan_ok=True)
    once, thrice = ({k: s[k] for k in s if k != "ari"} for s in
                    (scores, unsupervised_scores(*({v: y.repeat(3) for v, y in side.items()} for side in (pred, truth)), 5, 4, **RULES[rule])))
    assert thrice == pytest.approx(once, nan_ok=True)  # ARI counts pairs of frames


def test_a_renamed_truth_is_perfect():
    rng = np.random.default_rng(0)
    truth = {v: rng.integers(0, 4, 15).repeat(5) for v in "abc"}
    pred = {v: np.array([3, 0, 2, 1])[t] for v, t in truth.items()}
    for rule in RULES.values():
        scores = unsupervised_scores(pred, truth, **rule)
        if rule.get("background_frames") == "ignore":
            assert scores["mof_action"] == 1 > scores["mof"]  # no cluster may be background
        else:
            assert {scores[k] for k in ("mof", "mof_action", "edit", "f1@10", "f1@50", "purity", "nmi", "ari", "segments_ratio")} == {1}
    assert match_labels(pred, truth).classes.tolist() == [1, 3, 2, 0]


def test_left_over_clusters():
    truth, pred = [np.array([0, 0, 1, 1, 1, 0])], [np.array([0, 0, 1, 1, 2, 0])]
    own, hidden = (match_labels(pred, truth, unmatched=k) for k in ("own", "background"))
    assert own.labels[0].tolist() == [0, 0, 1, 1, 4, 0] and hidden.labels[0].tolist() == [0, 0, 1, 1, 0, 0]
    assert own.classes.tolist() == [0, 1, -1]
    scores = [unsupervised_scores(pred, truth, unmatched=k) for k in ("own", "background")]
    assert [s["mof"] for s in scores] == [5 / 6, 5 / 6] and [s["edit"] for s in scores] == [.5, 1]
    assert (scores[0]["n_clusters"], scores[0]["n_matched"], scores[0]["segments_ratio"]) == (3, 2, 4 / 3)
    plain = segmental(own.labels, own.truth)
    assert {k: scores[0][k] for k in ("mof", "edit", "f1@10", "f1@25", "f1@50")} == {"mof" if k == "acc" else k: v for k, v in plain.items()}


def test_a_cluster_and_a_class_without_a_common_frame_are_not_matched():
    truth, pred = [np.array([0, 0, 1, 1])], [np.array([0, 0, 0, 1])]
    assert match_labels(pred, truth, 3, 3).classes.tolist() == [0, 1, -1]
    assert match_labels([np.array([0, 0, 0, 0])], [np.array([1, 1, 2, 0])], 4, 3).classes.tolist() == [1, -1, -1, -1]
    only = unsupervised_scores([np.zeros(4, int)], [np.zeros(4, int)])  # nothing but background
    assert only["mof"] == only["edit"] == only["f1@50"] == only["nmi"] == only["ari"] == 1 and np.isnan(only["mof_action"])


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=60))
@settings(max_examples=80, deadline=None)
def test_grouping_scores_are_scikit_learns(frames):
    p, t = (np.array([f[k] for f in frames]) for k in (0, 1))
    counts = np.zeros((5, 4), int)
    np.add.at(counts, (p, t), 1)
    scores = grouping_scores(counts)
    assert scores["nmi"] == pytest.approx(normalized_mutual_info_score(t, p), abs=1e-12)
    assert scores["ari"] == pytest.approx(adjusted_rand_score(t, p), abs=1e-12)
    assert scores["purity"] == sum(np.bincount(t[p == k]).max() for k in set(p)) / len(p)
    said = unsupervised_scores(p, t, 5, 4, background=None)
    assert said["purity"] == scores["purity"] >= said["mof"] - 1e-12 and said["nmi"] == pytest.approx(scores["nmi"])


def path_cost(costs, path, penalty):
    return sum(float(costs[t, k]) for t, k in enumerate(path)) + penalty * sum(a != b for a, b in zip(path, path[1:]))


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 3), st.sampled_from([0, .3, 1, 5]), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_viterbi_against_all_paths(lengths, k, penalty, seed):
    """Recordings of different lengths at once, one at a time, and in one block; small whole costs tie."""
    rng = np.random.default_rng(seed)
    costs = [torch.tensor(rng.integers(0, 4, (T, k)) if seed % 2 else rng.random((T, k)), dtype=torch.float32) for T in lengths]
    paths = viterbi(costs, penalty)
    for c, path in zip(costs, paths):
        least = min(path_cost(c, other, penalty) for other in product(range(k), repeat=len(c)))
        assert path_cost(c, path.tolist(), penalty) == pytest.approx(least, abs=1e-5)
        assert path.tolist() == viterbi([c], penalty)[0].tolist()
    assert [p.tolist() for p in viterbi(costs, penalty, block=1)] == [p.tolist() for p in paths]


def test_viterbi_limits():
    costs = torch.rand(500, 6, generator=torch.Generator().manual_seed(0))
    assert viterbi([costs], 0)[0].tolist() == costs.argmin(1).tolist()
    assert viterbi([costs], 1e6)[0].unique().tolist() == [int(costs.sum(0).argmin())]
    assert viterbi([], 1.) == [] and viterbi([torch.zeros(0, 6), costs], 0)[0].tolist() == []
    for bad in (-1, float("nan")):
        with pytest.raises(ParameterError, match="penalty"):
            viterbi([costs], bad)


@given(st.lists(st.integers(0, 3), max_size=30), st.sampled_from([1, 3, 7, 101]))
@settings(max_examples=60, deadline=None)
def test_mode_filter_against_plain_loops(labels, window):
    h, expected = window // 2, []
    for i, own in enumerate(labels):
        near = labels[max(0, i - h):i + h + 1]
        most = max(near.count(c) for c in near)
        expected.append(own if near.count(own) == most else min(c for c in near if near.count(c) == most))
    assert mode_filter(np.array(labels, dtype=int), window).tolist() == expected


def blobs(n=300, k=4, d=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    centres = 4 * torch.randn(k, d, generator=g)
    which = torch.randint(k, (n,), generator=g)
    return centres[which] + torch.randn(n, d, generator=g), which


def test_kmeans_reaches_the_cost_of_scikit_learn():
    for seed in range(3):
        x, _ = blobs(seed=seed, k=5)
        for k in (1, 3, 5, 8):
            centres, cost = kmeans(x, k, seed, restarts=8, tolerance=0)
            theirs = KMeans(k, n_init=8, random_state=0).fit(x.numpy()).inertia_ / len(x)
            assert cost <= theirs * 1.02 and centres.shape == (k, 6)
            assert cost == pytest.approx(float(torch.cdist(x, centres).min(1).values.square().mean()), rel=1e-4)


def test_kmeans_is_seeded_and_leaves_the_global_generator_alone():
    x, _ = blobs()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b = kmeans(x, 4, 1), kmeans(x, 4, 1)
    assert torch.equal(a[0], b[0]) and a[1] == b[1] and torch.equal(torch.get_rng_state(), before)
    cosine, _ = kmeans(x, 4, 1, "cosine")
    scaled, _ = kmeans(x * torch.rand(len(x), 1).add(.5), 4, 1, "cosine")
    torch.testing.assert_close(cosine, scaled, atol=1e-5, rtol=0)
    torch.testing.assert_close(cosine.norm(dim=1), torch.ones(4))
    few = torch.tensor([[0.], [0.], [0.], [1.]])
    assert kmeans(few, 3)[1] == 0 and sorted(kmeans(few, 2)[0][:, 0].tolist()) == [0, 1]  # more clusters than different frames
    for k, metric, word in ((5, "euclidean", "5 clusters of 4"), (0, "euclidean", "0 clusters"), (2, "manhattan", "metric")):
        with pytest.raises(ParameterError, match=word):
            kmeans(few, k, metric=metric)


def test_first_centres_lie_apart_and_an_empty_cluster_starts_again():
    corners = torch.tensor([[0., 0.], [90., 0.], [0., 90.], [90., 90.]])
    x = (corners[:, None] + torch.rand(50, 2, generator=torch.Generator().manual_seed(0))).flatten(0, 1)
    for seed in range(10):
        first = module._spread(x, 4, torch.Generator().manual_seed(seed))
        assert sorted((first // 90).tolist()) == [[0, 0], [0, 1], [1, 0], [1, 1]]
    labels, far = torch.tensor([0, 0, 2, 2]), torch.tensor([.1, .2, .9, .3])
    points = torch.tensor([[0.], [2.], [7.], [5.]])
    assert module._means(points, labels, far, 3, cosine=False)[:, 0].tolist() == [1, 7, 6]


def recording(seed=0):
    x, which = blobs(30, 3, 4, seed)
    return x.repeat_interleave(8, 0) + .3 * torch.randn(240, 4, generator=torch.Generator().manual_seed(9)), which.repeat_interleave(8)


@pytest.mark.parametrize("smooth", ["none", "mode", "viterbi"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_cluster_frames_finds_clear_groups(smooth, metric):
    x, which = recording()
    cut = (0, 100, 101, 240)
    features = {f"v{i}": x[a:b].numpy() for i, (a, b) in enumerate(zip(cut, cut[1:]))}
    truth = {f"v{i}": which[a:b].numpy() for i, (a, b) in enumerate(zip(cut, cut[1:]))}
    found = cluster_frames(features, 3, 0, smooth, metric=metric, window=5, penalty=2)
    assert list(found) == list(features) and all(found[v].dtype == np.int64 and len(found[v]) == len(features[v]) for v in found)
    assert unsupervised_scores(found, truth, 3, 3, background=None)["mof"] > .95
    renamed = cluster_frames({v[::-1]: f for v, f in features.items()}, 3, 0, smooth, metric=metric, window=5, penalty=2)
    assert all((a == b).all() for a, b in zip(found.values(), renamed.values()))
    few = cluster_frames(features, 3, 0, smooth, metric=metric, window=5, penalty=2, sample=50)
    assert unsupervised_scores(few, truth, 3, 3, background=None)["mof"] > .95


def test_scale_of_features():
    x, _ = recording()
    stretched = x * torch.tensor([1., 100., 1., .01]) + 7
    groups = lambda f, scale: cluster_frames({"v": f}, 3, scale=scale)["v"]
    assert unsupervised_scores(groups(x, "standard"), groups(stretched, "standard"), background=None)["mof"] == 1
    far, near = (groups(x + offset, "none") for offset in (10_000, 0))
    assert unsupervised_scores(far, near, background=None)["mof"] > .99  # far from the origin distances are still exact
    assert cluster_frames({"v": np.ones((9, 2), np.float16)}, 2)["v"].tolist() == [0] * 9


def test_baselines():
    lengths = {"a": 10, "b": 3, "c": np.zeros(7)}
    found = baseline_labels(lengths, 5, seed=1)
    assert list(found) == ["one cluster", "uniform pieces", "random pieces", "random frames"]
    assert all([len(y) for y in labels.values()] == [10, 3, 7] and all(y.max(initial=0) < 5 for y in labels.values()) for labels in found.values())
    assert found["uniform pieces"]["a"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4] and found["one cluster"]["b"].tolist() == [0, 0, 0]
    assert (np.diff(found["random pieces"]["a"])[::2] == 0).all()
    again = baseline_labels(lengths, 5, seed=1)
    assert all((found[k][v] == again[k][v]).all() for k in found for v in lengths)


def test_rules_side_by_side():
    rng = np.random.default_rng(0)
    truth = [rng.integers(0, 4, 12).repeat(6) for _ in range(5)]
    pred = [np.where(rng.random(72) < .6, t, rng.integers(0, 6, 72)) for t in truth]
    table = compare_rules(pred, truth, 6, 4)
    assert list(table.index) == list(RULES)
    for name, rule in RULES.items():
        assert table.loc[name].to_dict() == pytest.approx(unsupervised_scores(pred, truth, 6, 4, **rule))
    assert table.loc["per_video", "mof"] >= table.loc["corrected", "mof"]
    assert table.loc["background_cut_per_video", "mof"] >= table.loc["background_cut", "mof"]
    for k in ("purity", "nmi", "ari"):  # over the frames that vote
        assert table.loc["background_ignored", k] == pytest.approx(table.loc["background_cut", k]) != table.loc["corrected", k]
    assert list(compare_rules(pred, truth, background=None).index) == ["corrected", "per_video"]


def test_errors():
    y = np.array([0, 1, 2, 1])
    with pytest.raises(DataError, match=r"video 0 frame 2.*cluster 2 is not one of 0\.\.1|cluster 2 is not one of 0\.\.1.*video 0 frame 2"):
        match_labels(y, y, 2, 3)
    with pytest.raises(DataError, match="class 2 is not one of"):
        match_labels({"a": y}, {"a": y}, 3, 2)
    with pytest.raises(DataError, match="video 'b'"):
        unsupervised_scores({"a": y, "b": y}, {"a": y})
    with pytest.raises(DataError, match="video 'a'"):
        unsupervised_scores({"a": y[:3]}, {"a": y})
    with pytest.raises(DataError, match="frame 1"):
        unsupervised_scores({"a": y - 5 * (y == 1)}, {"a": y})
    with pytest.raises(DataError, match="every frame is background"):
        match_labels(y, 0 * y, background_frames="cut")
    wrong = [({"how": "class"}, "how = 'class'"), ({"unmatched": "none"}, "unmatched"), ({"background_frames": "drop"}, "background_frames"),
             ({"background": None, "unmatched": "background"}, "no background"), ({"background": None, "background_frames": "cut"}, "no background")]
    for options, word in wrong:
        with pytest.raises(ParameterError, match=word):
            unsupervised_scores(y, y, **options)
    x = np.ones((4, 2))
    wrong = [({"a": x, "b": x[:, :1]}, "video 'b'"), ({"a": x, "b": x * np.nan}, "video 'b' frame 0"), ({}, "no recording"), ({"a": x[0]}, r"not \(T, D\)")]
    for features, word in wrong:
        with pytest.raises(DataError, match=word):
            cluster_frames(features, 2)
    for options, word in (({"smooth": "median"}, "smooth"), ({"scale": "max"}, "scale"), ({"smooth": "mode", "window": 4}, "window")):
        with pytest.raises(ParameterError, match=word):
            cluster_frames({"a": x}, 2, **options)


def test_on_real_recordings(recordings):
    """What the notebook says of PRECOG: with one naming features beat pieces of equal length, with a naming per take they do not."""
    clips = list(read_set(recordings / "skeletons", "precog"))
    classes = ["background", *sorted({s.label for c in clips for s in c.segments} - {"background"})]
    truth, raw = {}, {}
    for c in clips:
        truth[c.name] = np.zeros(len(c), int)
        for s, e, label in c.segments:
            truth[c.name][s:e] = classes.index(label)
        raw[c.name] = (c.xyz[:, 0] - c.xyz[:, 0, 1:2]).reshape(len(c), -1)
    K = len(classes)
    said = {"raw": cluster_frames(raw, K, smooth="viterbi", scale="none")} | baseline_labels(truth, K)
    table = pd.DataFrame({(name, how): unsupervised_scores(c, truth, K, K, how=how) for name, c in said.items() for how in ("global", "video")}).T
    assert (len(clips), K) == (70, 9)
    assert table.loc[("raw", "global"), "mof"] > .38 > .34 > table.loc[("uniform pieces", "global"), "mof"] > table.loc[("one cluster", "global"), "mof"]
    assert table.loc[("uniform pieces", "video"), "mof"] > table.loc[("raw", "video"), "mof"] > .53
    assert table.loc[("uniform pieces", "video"), "f1@50"] > .5 > .35 > table.loc[("raw", "video"), "f1@50"]
    assert table.loc[("raw", "global"), "nmi"] > .25 > .05 > table.loc[("random pieces", "global"), "nmi"]
