"""Protocols for untrimmed recordings: windows, targets, events, modes, and three benchmarks from files to numbers."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_clip
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.backbones.features import Features
from skelnb.data.babel import find_babel_localisation, forge_babel_localisation
from skelnb.data.clip import BACKGROUND
from skelnb.data.pku import find_pku, forge_pku
from skelnb.data.precog import find_precog
from skelnb.data.smarthome import find_tsu, forge_tsu
from skelnb.data.store import SkeletonStore
from skelnb.data.synthetic import synthesize_untrimmed
from skelnb.data.windows import IGNORE
from skelnb.errors import DataError, ParameterError
from skelnb.evaluation import detection as module
from skelnb.evaluation import segmentation
from skelnb.evaluation.detection import (
    CentreLoader,
    CentreWindows,
    DetectionConfig,
    FrameOutcome,
    Judging,
    Reading,
    TargetLoader,
    WholeLoader,
    ceiling,
    centre_windows,
    detect,
    find_events,
    outcome_of,
    random_centres,
    segment,
    split,
    strict_targets,
    video_scores,
    window_targets,
)
from skelnb.evaluation.events import event_table
from skelnb.evaluation.features import RawCoordinates, cut, extract
from skelnb.evaluation.segmentation import finetune, predict_linear, step_targets, train_linear, window_labels
from skelnb.interface.contest import Contest, evaluate, make_encoder
from skelnb.methods.lode import Lode

PCM3 = dict(windows="centre", readout="clip")
MOVES = ("wave", "kick", "squat")


def stored(path, source):
    return SkeletonStore.write(path, **source.store, clips=source.clips())


@pytest.fixture(scope="module")
def pku(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pku")
    return stored(folder / "store", find_pku(forge_pku(folder / "files")))


@pytest.fixture(scope="module")
def tsu(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tsu")
    return stored(folder / "store", find_tsu(forge_tsu(folder / "files"), fps=20))


@pytest.fixture(scope="module")
def takes(tmp_path_factory):
    "Twelve takes of three actions; a fourth that nobody performs."
    clips = synthesize_untrimmed(12, actions=MOVES, segments=(2, 4), seed=0)
    return SkeletonStore.write(tmp_path_factory.mktemp("takes") / "store", clips, classes=(BACKGROUND, *MOVES, "juggle"))


def parts(store, column):
    return store.split(column, "train"), store.split(column, "val" if column == "split" else "test")


# ---- centre windows -----------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([0, 2, 5]), st.integers(1, 9), st.integers(1, 8), st.integers(1, 7))
def test_every_frame_has_the_window_around_it(tiny_store, clip, samples, step, stride):
    n, span = 30 + 20 * clip, samples * step
    w = centre_windows(tiny_store, [clip], Reading(**PCM3, samples=samples, step=step, test_stride=stride))
    for t in range(n):
        centre = min(t // stride * stride + stride // 2, n - 1)
        assert w.start[w.where[clip][t]] == min(max(centre - span // 2, 0), max(n - span, 0))
        if span <= n and stride == 1:
            assert w.start[w.where[clip][t]] <= t < w.start[w.where[clip][t]] + span
    assert len(set(w.start)) == len(w) and (stride > 1 or len(w) == max(n - span, 0) + 1)


def test_the_ends_share_a_window(tiny_store):
    w = centre_windows(tiny_store, [5, 0], Reading(**PCM3))  # 130 frames, and 30: shorter than 64
    start = w.start[w.where[5]]
    assert set(start[:33]) == {0} and start[33] == 1 and start[97] == 65 and set(start[98:]) == {66} and len(w) == 67 + 1
    p = w.takes(torch.arange(68.0)[:, None, None])
    assert p[5].shape == (130, 1) and p[5][:33].max() == 0 and p[5][98:].min() == 66 and (p[0] == 67).all()


def test_samples_are_the_frames_at_the_steps(tiny_store):
    w = random_centres(tiny_store, [5, 0], Reading(**PCM3), epochs=(0, 3))
    x = torch.cat([x for _, x in w.batches(tiny_store, 7)])
    assert x.shape == (64, 3, 16, 25, 2) and set(w.step) <= {3, 4, 5} and len(set(w.step)) == 3
    for row in range(len(w)):
        clip = tiny_store[int(w.clip[row])].xyz
        at = np.minimum(w.start[row] + w.step[row] * np.arange(16), len(clip) - 1)
        np.testing.assert_array_equal(x[row].permute(1, 3, 2, 0), clip[at])
    resized = next(centre_windows(tiny_store, [5], Reading(**PCM3, frames=120)).batches(tiny_store, 4))[1]
    assert resized.shape == (4, 3, 120, 25, 2)
    np.testing.assert_allclose(resized[2].mean(1), torch.from_numpy(tiny_store[5].xyz[2:66].mean(0)).permute(2, 1, 0), atol=2e-3)


def test_centres_are_drawn_by_epoch_and_seed(tiny_store):
    reading = Reading(**PCM3, centres=5)
    three, second = random_centres(tiny_store, [0, 4], reading, range(3)), random_centres(tiny_store, [0, 4], reading, [1])
    assert (three.frame[10:20] == second.frame).all() and (three.step[10:20] == second.step).all() and len(three) == 30
    assert not (three.frame[:10] == second.frame).all() and not (random_centres(tiny_store, [0, 4], reading, [1], seed=1).frame == second.frame).all()
    assert (np.bincount(three.clip)[[0, 4]] == 15).all()
    n = np.diff(tiny_store.offsets)[three.clip]
    assert (three.frame < n).all() and (three.start >= 0).all() and (three.start + 16 * three.step <= np.maximum(n, 16 * three.step)).all()
    many = random_centres(tiny_store, [4], Reading(**PCM3, centres=4000))
    assert many.frame.min() == 0 and many.frame.max() == 109  # 110 frames, all of them


def test_loader_of_centres_goes_once_through_each_epoch(tiny_store):
    reading = Reading(**PCM3, centres=4)
    loader = CentreLoader(tiny_store, [0, 4, 5], reading, batch=6, seed=3)
    assert loader.epoch == 2
    for epoch in (0, 2):
        drawn = random_centres(tiny_store, [0, 4, 5], reading, [epoch], 3)
        batches = [loader.batch(step) for step in (2 * epoch, 2 * epoch + 1)]
        x = torch.cat([b["x"] for b in batches])
        whole = torch.cat([part for _, part in drawn.batches(tiny_store, 99)])
        key = lambda z: sorted(v.double().abs().sum().item() for v in z)
        assert key(x) == key(whole)
        assert sorted(torch.cat([b["labels"] for b in batches]).flatten().tolist()) == sorted(drawn.labels(tiny_store).flatten().tolist())
    odd = CentreLoader(tiny_store, [0, 4, 5], reading, batch=8, seed=3)  # a batch over the edge of an epoch, and one shared by two processes
    halves = [odd.batch(1, rank, 2) for rank in (0, 1)]
    assert all(torch.equal(torch.cat([h[k] for h in halves]), odd.batch(1)[k]) for k in ("x", "labels", "index"))


# ---- targets ------------------------------------------------------------------------------------------------------------------------


def test_targets_of_windows(tsu):
    for size, stride, beyond in ((40, 25, False), (400, 400, True)):
        w = cut(tsu, [2, 0], size, stride, frames=20)
        y, raw = window_targets(tsu, w), w.raw()
        for row in range(len(w)):
            truth = tsu.frame_targets(int(w.clip[row]))[:, 1:]
            for j in range(20):
                wanted = truth[raw[row, j]] if raw[row, j] < len(truth) else IGNORE
                assert (y[row, j] == wanted).all()
        assert y.shape == (len(w), 20, 51) and (y == IGNORE).any() == beyond
        assert (window_targets(tsu, w, 5) == step_targets(torch.from_numpy(y), 5).numpy()).all()


def test_loader_of_targets(tsu):
    loader = TargetLoader(tsu, [0, 1], frames=20, batch=6, window=40, crop=None)
    batch, (clip, start, _) = loader.batch(3), loader.draw(3)
    assert batch["x"].shape == (6, 2, 20, 13, 1) and batch["labels"].shape == (6, 20, 51) and batch["index"].tolist() == clip.tolist()
    at = start[0] + np.floor((np.arange(20) + 0.5) * 2 - 0.5 + 0.5).astype(int)
    assert (batch["labels"][0].numpy() == tsu.frame_targets(int(clip[0]))[at, 1:]).all()
    halves = torch.cat([loader.batch(3, rank, 2)["labels"] for rank in (0, 1)])
    assert torch.equal(halves, batch["labels"])


def test_loader_of_whole_recordings(takes):
    longest, (a, b) = np.diff(takes.offsets).max() + 5, (WholeLoader(takes, range(8), 700, 4, seed=s) for s in (0, 1))
    for epoch in (0, 1):
        batches = [a.batch(2 * epoch + i) for i in (0, 1)]
        assert sorted(torch.cat([c["index"] for c in batches]).tolist()) == list(range(8)) and a.epoch == 2 and longest < 700
    batch = batches[1]
    for x, y, c in zip(batch["x"], batch["labels"], batch["index"].tolist()):
        n = len(takes[c])
        np.testing.assert_array_equal(x[:, :n].permute(1, 3, 2, 0), takes[c].xyz)
        assert (y[:n].numpy() == takes.frame_labels(c)).all() and (y[n:] == IGNORE).all() and torch.equal(x[:, -1], x[:, n - 1])
    assert not torch.equal(b.batch(0)["index"], a.batch(0)["index"])


# ---- events and numbers: the specification's examples -------------------------------------------------------------------------------

PROBS = np.array([(.9, .05, .05), (.5, .3, .2), (.2, .7, .1), (.1, .2, .7), (.3, .1, .6), (.95, .03, .02), (.6, .1, .3), (.6, .35, .05)])


def test_activity_golden():
    found = find_events({"v": PROBS}, Judging(smooth=0), "activity", True, 0)
    assert found[["label", "start", "end"]].values.tolist() == [[2, 1, 5], [1, 6, 8]]
    np.testing.assert_allclose(found["score"], [.4, .225])
    moved = find_events({"v": PROBS[:, [1, 2, 0]]}, Judging(smooth=0), "activity", True, 2)
    assert moved["label"].tolist() == [1, 0]


def test_smoothing_comes_before_the_decoder():
    p = np.eye(2)[[0] * 30 + [1] * 30 + [0] * 30]
    assert find_events({"v": p}, Judging(smooth=10), "activity", False, 0)[["start", "end"]].values.tolist() == [[28, 62]]  # 9 of 21 frames, not 8
    assert find_events({"v": p}, Judging(smooth=10), "activity", True, 0)[["start", "end"]].values.tolist() == [[28, 63]]  # 8 of the 20 in [i - 10, i + 10)
    assert find_events({"v": p}, Judging(smooth=0), "activity", True, 0)[["start", "end"]].values.tolist() == [[30, 60]]


def test_babel_golden_from_store_to_numbers(tmp_path):
    "Spec 3.5, end to end; the background is the first class here and the third there, and is found by its name."
    segments = {"v0": [(3, 11, "c0"), (15, 20, "c1")], "v1": [(0, 6, "c1"), (12, 20, "c0")]}
    store = SkeletonStore.write(tmp_path / "s", [make_clip(v, 20, segments=s) for v, s in segments.items()], classes=(BACKGROUND, "c0", "c1"))

    def scores(*spans):
        x = np.full((20, 3), .02)
        for s, e, k in spans:
            x[s:e, k + 1] = .96
        return x

    said = {0: scores((3, 11, 0), (15, 20, 1)), 1: scores((12, 20, 0), (0, 9, 1))}
    o = outcome_of(store, said, DetectionConfig.named("babel", tious=(.1, .3, .5, .6, .7, .8)))
    table = o.scores()["percent"]
    assert [table[f"map_a@{t}", "oic", "swtal"] for t in (.1, .3, .5, .6, .7, .8)] == pytest.approx([100, 100, 100, 75, 50, 0])
    assert [table[f"map_a@{t}", "oic", "corrected"] for t in (.1, .3, .5, .6, .7, .8)] == pytest.approx([100, 100, 100, 100, 75, 75])
    assert table["map_a@mean", "oic", "swtal"] == pytest.approx(425 / 6) and (o.background, o.actions) == (0, [1, 2])
    found = o.events().sort_values(["label", "video"])[["video", "label", "start", "end"]].values.tolist()
    assert found == [["v0", 1, 3, 12], ["v1", 1, 12, 21], ["v0", 2, 15, 21], ["v1", 2, 0, 10]]
    np.testing.assert_allclose(o.events().sort_values(["label", "video"])["score"], [.8436, .948, .948, .854], atol=5e-5)
    assert {m for _, _, m in table.index} == {"swtal", "corrected", ""} and table["frame_acc", "argmax", ""] == pytest.approx(100 * 37 / 40)


def test_pku_golden_over_all_classes():
    "M1 of spec 3.3: the events are given, as if they had been decoded."
    truth = event_table([("a", 1, 0, 10), ("a", 2, 20, 40), ("b", 1, 5, 15), ("b", 3, 30, 50)])
    said = event_table([("a", 1, 0, 9, .9), ("a", 2, 22, 38, .6), ("a", 2, 50, 60, .7), ("b", 1, 30, 40, .8), ("b", 1, 6, 15, .5), ("b", 3, 45, 60, .95)])
    flat = {v: np.full((60, 52), 1 / 52) for v in "ab"}
    o = FrameOutcome(flat, {v: np.zeros(60, int) for v in "ab"}, (BACKGROUND, *map(str, range(51))), Judging(), truth, 0)
    o._found.update({("activity", official): said for official in (True, False)} | {("argmax_runs", official): said for official in (True, False)})
    table = o.scores()["percent"]
    for metric, mode, value in (("map_a@0.5", "official", 2.2876), ("map_v@0.5", "official", 41.6667), ("map_a@0.5", "voc", 44.4444),
                                ("map_a@0.3", "voc", 44.4444), ("map_a@0.1", "voc", 77.7778), ("map_a@0.5", "corrected", 44.4444)):
        assert table[metric, "activity", mode] == pytest.approx(value, abs=1e-4)


def test_tsu_golden():
    "Spec 3.4; an instance holds strictly between its ends, so these begin a frame earlier than their targets."
    scores = np.array([(.9, .2, .1), (.8, .6, .3), (.3, .7, .2), (.6, .1, .4)])
    targets = np.array([(1, 0, 0), (0, 1, 0), (1, 1, 0), (1, 0, 0)], bool)
    events = event_table([("v", 0, -1, 1), ("v", 0, 1, 4), ("v", 1, 0, 3)])
    o = FrameOutcome({"v": scores}, {"v": targets}, ("a", "b", "c"), Judging(benchmark="tsu", smooth=0), events)
    assert (strict_targets(o)["v"] == targets).all()
    table = o.scores()["percent"]
    assert table["frame_map", "", "official"] == pytest.approx(90.2778, abs=1e-4) and table["frame_map", "", "charades"] == pytest.approx(60.1852, abs=1e-4)
    assert table["frame_map", "", "corrected"] == pytest.approx(90.2778, abs=1e-4)


def test_video_scores():
    x = np.stack([np.arange(32) / 32, np.full(32, .2)], 1)
    np.testing.assert_allclose(video_scores(x), [np.mean([28, 29, 30, 31]) / 32, .2])
    np.testing.assert_allclose(video_scores(x, "max"), [31 / 32, .2])
    assert video_scores(x, "none") is None and video_scores(x[:3])[0] == 2 / 32
    judging = dict(benchmark="babel", smooth=0)
    p = {"v": np.full((80, 2), .02)}
    p["v"][10:13, 0] = .3  # three frames of .3: .3 at most, .11 in the mean of the highest ten
    for how, least, events in (("max", .2, 1), ("topk", .2, 0), ("topk", .1, 1), ("none", .9, 1)):
        assert len(find_events(p, Judging(**judging, least=least, video_score=how), "oic", False)) == events


# ---- perfect predictions ------------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 12)), min_size=1, max_size=12), st.sampled_from(["pku", "babel", "segmentation"]))
def test_the_truth_scores_100_where_nothing_is_off_by_one(runs, benchmark):
    y = np.repeat(*zip(*runs))
    if not y.any():
        return
    judging = Judging(benchmark=benchmark, smooth=0, tious=(.5, 1.0), decoders=("argmax_runs",))
    o = FrameOutcome({"v": np.eye(5)[y]}, {"v": y}, (BACKGROUND, *"abcd"), judging, background=0)
    table = o.scores()["percent"]
    assert table["map_a@1", "argmax_runs", "corrected"] == table["map_v@0.5", "argmax_runs", "corrected"] == 100 and o.headline == 1
    if benchmark == "pku":  # the mean over all classes: those that do not occur count as 0
        assert table["map_a@0.5", "argmax_runs", "official"] == pytest.approx(100 * len(set(y[y > 0])) / 4)


@pytest.mark.parametrize("n", [3, 8, 20])
def test_the_truth_is_a_frame_short_for_swtal(n):
    y = np.repeat([0, 1, 0], [10, n, 20])
    limit = (n - 1) / (n + 1)
    o = FrameOutcome({"v": np.eye(2)[y]}, {"v": y}, (BACKGROUND, "a"), Judging(benchmark="babel", smooth=0, tious=(limit, limit + .01, 1.0)), background=0)
    table = o.scores()["percent"]
    assert [[table[f"map_a@{t:g}", "oic", mode] for t in o.judging.tious] for mode in ("corrected", "swtal")] == [[100] * 3, [100, 0, 0]]
    found, judge = o.events(), o.actual
    assert (found["end"] - found["start"]).tolist() == [n + 1] and (judge["end"] - judge["start"]).tolist() == [n]


def test_the_truth_of_tsu_is_below_100_in_official(tsu):
    clips = parts(tsu, "xsub")[1]
    o = outcome_of(tsu, {int(c): tsu.frame_targets(int(c))[:, 1:] * .9 + .05 for c in clips}, DetectionConfig.named("tsu"))
    table = o.scores()["percent"]
    assert table["frame_map", "", "corrected"] == 100 and 90 < table["frame_map", "", "official"] < 100
    share = np.mean([any(o.truth[v][:, k].any() for v in o.truth) for k in range(51)])
    assert table["frame_map", "", "charades"] == pytest.approx(share * table["frame_map", "", "official"])
    assert table["map_a@0.5", "threshold", "corrected"] == 100 and table["map_a@0.5", "threshold", "official"] == pytest.approx(100 * share)
    pd.testing.assert_frame_equal(ceiling(o), o.scores())


def some_outcome(seed=0, benchmark="pku", **judging):
    rng = np.random.default_rng(seed)
    truth = {f"v{i}": np.repeat(rng.integers(0, 4, 6), rng.integers(3, 30, 6)) for i in range(5)}
    said = {v: rng.dirichlet(np.ones(4), len(y)) * .4 + np.eye(4)[y] * .6 * rng.random((len(y), 1)) for v, y in truth.items()}
    said = {v: p / p.sum(1, keepdims=True) for v, p in said.items()}
    return FrameOutcome(said, truth, (BACKGROUND, *"abc"), Judging(benchmark=benchmark, **judging), background=0)


def test_the_order_of_recordings_does_not_matter():
    o = some_outcome()
    again = FrameOutcome(dict(reversed(o.probabilities.items())), dict(reversed(o.truth.items())), o.classes, o.judging, background=0)
    pd.testing.assert_frame_equal(o.scores(), again.scores())


def test_twice_the_frame_rate_is_the_same():
    for benchmark in ("pku", "segmentation"):
        o = some_outcome(benchmark=benchmark, smooth=0)
        twice = FrameOutcome({v: p.repeat(2, 0) for v, p in o.probabilities.items()}, {v: y.repeat(2) for v, y in o.truth.items()}, o.classes, o.judging,
                             background=0)
        for mode in ("official", "corrected"):
            pd.testing.assert_frame_equal(o.scores().xs(mode, level="mode"), twice.scores().xs(mode, level="mode"))


def test_draws_of_recordings():
    o = some_outcome()
    table = o.scores()
    pd.testing.assert_frame_equal(o.take(list(o.truth)).scores(), table)
    drawn = o.take(["v3", "v0", "v3"])
    assert len(drawn.truth) == 3 and (drawn.actual["video"].nunique(), drawn.events()["video"].nunique()) == (3, 3)
    assert drawn.headline == pytest.approx(FrameOutcome({i: o.probabilities[v] for i, v in enumerate(("v3", "v0", "v3"))},
                                                        {i: o.truth[v] for i, v in enumerate(("v3", "v0", "v3"))}, o.classes, o.judging, background=0).headline)
    right = o.right
    assert list(right) == list(o.truth) and right["v1"].mean() == np.mean(o.probabilities["v1"].argmax(1) == o.truth["v1"])
    with pytest.raises(DataError, match="v9"):
        o.take(["v9"])


# ---- from files to numbers ----------------------------------------------------------------------------------------------------------

FEW = {"epochs": 4, "batch": 16}
STEPS = FEW | {"milestones": (3,)}


def plausible(o, K, modes):
    table = o.scores()["percent"]
    assert all(p.shape == (len(o.truth[v]), K) and np.isfinite(p).all() for v, p in o.probabilities.items())
    assert set(table.index.get_level_values("mode")) == modes and table.between(0, 100).all()
    assert o.settings == DetectionConfig.from_dict(o.settings).to_dict() and o.data
    return table


@pytest.mark.parametrize("config, steps", [
    (DetectionConfig(window=60, stride=30, overrides=FEW), 15), (DetectionConfig.named("lode64", overrides=FEW), 30),
    (DetectionConfig.named("usdrl", overrides=STEPS), 16), (DetectionConfig.named("pcm3", centres=4, turns=2, test_stride=16, overrides=STEPS), 1),
    (DetectionConfig.named("pcm3_120", readout="middle", centres=4, turns=0, test_stride=40, overrides=STEPS), 1)])
def test_pku_end_to_end(pku, config, steps):
    train, test = parts(pku, "xsub")
    o = detect(RawCoordinates(), pku, train, test, config)
    plausible(o, 52, {"official", "voc", "corrected", ""})
    assert o.notes["steps"] == steps and list(o.truth) == [pku.name(int(c)) for c in test] and len(o.classes) == 52
    wanted = [(pku.name(int(c)), pku.classes.index(s.label), s.start, s.end) for c in test for s in pku[int(c)].segments]
    assert [tuple(r) for r in o.actual[["video", "label", "start", "end"]].values.tolist()] == wanted  # annotated instances, overlapping ones too
    again = detect(RawCoordinates(), pku, train, test, config)
    assert all((o.probabilities[v] == again.probabilities[v]).all() for v in o.truth)


@pytest.mark.parametrize("subset", [1, 2, 3])
def test_babel_end_to_end(tmp_path, subset):
    store = stored(tmp_path / "s", find_babel_localisation(forge_babel_localisation(tmp_path / "files", subset=subset), subset=subset))
    train, test = parts(store, "split")
    lode = detect(RawCoordinates(), store, train, test, DetectionConfig.named("babel", window=60, stride=30, label_fraction=.5, overrides=FEW))
    short = {"epochs": 4, "milestones": (3,), "warmup_epochs": 1}
    whole = detect(RawCoordinates(), store, train, test, DetectionConfig.named("babel_snippet", overrides=short))
    longest = np.diff(store.offsets).max()
    for o in (lode, whole):
        plausible(o, 5, {"swtal", "corrected", ""})
    assert lode.notes["recordings"] == 2 and whole.notes["windows"] == {"train": 4, "test": 4} and whole.notes["steps"] == -(-longest // 8) * 2
    assert set(o.scores().loc["map_a@mean"].index.get_level_values("decoder")) == {"oic", "sweep", "argmax_runs"}


def test_tsu_end_to_end(tsu):
    train, test = parts(tsu, "xsub")
    o = detect(RawCoordinates(), tsu, train, test, DetectionConfig.named("tsu", window=40, stride=20, overrides={"epochs": 30, "batch": 16}))
    table = plausible(o, 51, {"official", "charades", "corrected"})
    assert BACKGROUND not in o.classes and o.background is None and o.truth[tsu.name(int(test[0]))].shape[1] == 51
    chance = np.concatenate(list(o.truth.values())).mean(0)
    assert table["frame_map", "", "corrected"] / 100 > 1.1 * chance[chance > 0].mean()


class Strided(torch.nn.Module):
    "One convolution of stride 4 over the joints of the first person; no tokens."

    def __init__(self, inputs=75, dim=16):
        super().__init__()
        self.layer = torch.nn.Conv1d(inputs, dim, 9, 4, 4)

    def forward(self, x):
        frames = self.layer((x - x[:, :, :1, 1:2])[..., 0].permute(0, 1, 3, 2).flatten(1, 2)).relu().transpose(1, 2)
        return Features(frames.mean(1), frames)


TUNE = {"epochs": 2, "batch": 8, "warmup_epochs": 0}


def test_fine_tuning_end_to_end(takes, tsu, monkeypatch):
    torch.manual_seed(0)
    spied, run = [], segmentation.fit
    monkeypatch.setattr(segmentation, "fit", lambda model, loader, *a, **k: (spied.append(type(loader).__name__), run(model, loader, *a, **k))[1])
    configs = [DetectionConfig.named("usdrl", training="finetune", overrides=TUNE | {"milestones": (1,)}),
               DetectionConfig.named("pcm3", training="finetune", test_stride=16, overrides=TUNE | {"milestones": (1,)}),
               DetectionConfig.named("babel_snippet", training="finetune", overrides=TUNE | {"milestones": (1,)})]
    for config in configs:
        o = detect(Strided(), takes, range(8), range(8, 12), config)
        assert {v: len(p) for v, p in o.probabilities.items()} == {takes.name(c): len(takes[c]) for c in range(8, 12)}
    assert spied == ["ClipLoader", "CentreLoader", "WholeLoader"]
    home = DetectionConfig.named("tsu", training="finetune", window=42, stride=20, readout="frames",
                                 overrides=TUNE | {"layer_decay": None, "hidden": 0, "rotation": 0.0})
    train, test = parts(tsu, "xsub")
    o = detect(Strided(26), tsu, train, test, home)
    assert o.notes["epoch"] == 2 and o.probabilities[tsu.name(int(test[0]))].shape[1] == 51


def test_another_source_of_batches(takes):
    "The place for USDRL's clips of background, action and background."
    class Loader:
        epoch, seen = 3.0, []

        def batch(self, step, rank=0, world=1):
            self.seen.append(step)
            return {"x": torch.randn(8, 3, 64, 25, 1, generator=torch.Generator().manual_seed(step)), "labels": torch.zeros(8, 64, dtype=torch.int64)}

    config = DetectionConfig.named("usdrl", training="finetune", overrides=TUNE | {"milestones": (), "lr": .3})
    o = detect(Strided(), takes, range(8), range(8, 12), config, loader=Loader())
    assert Loader.seen == [0, *range(6)] and all((p.argmax(1) == 0).mean() > .9 for p in o.probabilities.values())


def test_fine_tuning_a_method_of_the_library(takes):
    torch.manual_seed(0)
    config = DetectionConfig.named("segmentation", window=32, stride=16, training="finetune", overrides=TUNE | {"hidden": 8})
    assert 0 <= segment(Lode("tiny"), takes, range(8), range(8, 12), config).headline <= 1


# ---- segmentation -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["raw", "random"])
def test_segmentation_is_the_contest_to_the_bit(tmp_path, kind):
    people = {"split": lambda clip: "test" if clip.subject in ("S01", "S02", "S03") else "train"}
    store = SkeletonStore.write(tmp_path / "s", synthesize_untrimmed(12, actions=MOVES, segments=(2, 3), seed=0), splits=people)
    e = Contest(encoder=kind, preset="tiny", stride=16, context=1, probe_epochs=3)
    wanted, said = evaluate(make_encoder(e), e, store)
    config = DetectionConfig.named("segmentation", window=32, stride=16, overrides={"epochs": 3, "context": 1})
    o = segment(make_encoder(e), store, *(store.split("split", part) for part in ("train", "test")), config)
    assert all((o.probabilities[store.name(c)] == p.astype(np.float32)).all() for c, p in said.items())
    table = o.scores()["percent"]
    assert {k: table[k, "argmax", ""] for k in ("acc", "edit", "f1@10", "f1@50")} == {k: wanted[k] for k in ("acc", "edit", "f1@10", "f1@50")}
    events = table.xs("argmax_runs", level="decoder")
    assert events["map_a@0.5", "official"] == wanted["map_a@0.5_official"] and events["map_v@0.1", "corrected"] == wanted["map_v@0.1"]


def test_segmentation_without_a_background(tmp_path):
    clips = synthesize_untrimmed(8, actions=MOVES, segments=(2, 3), background=False, seed=0)
    store = SkeletonStore.write(tmp_path / "s", clips)
    o = segment(RawCoordinates(), store, range(6), [6, 7], DetectionConfig.named("segmentation", window=32, stride=16, overrides=FEW))
    assert o.background is None and len(o.classes) == 3
    with pytest.raises(DataError, match="no class 'background'"):
        detect(RawCoordinates(), store, range(6), [6, 7], DetectionConfig(window=32, stride=16))
    with pytest.raises(ParameterError, match="named\\('segmentation'\\)"):
        segment(RawCoordinates(), store, range(6), [6, 7], "lode")


# ---- who chooses --------------------------------------------------------------------------------------------------------------------


def test_selection(takes):
    common = dict(window=32, stride=16, look=1, overrides={"epochs": 6, "batch": 8, "lr": .5})
    said = {rule: segment(RawCoordinates(), takes, range(8), range(8, 12), DetectionConfig.named("segmentation", selection=rule, **common))
            for rule in ("last", "validation", "best_test")}
    last, validation, best = said.values()
    assert last.notes["epoch"] == 6 and "curve" not in last.notes and [v.selection for v in said.values()] == list(said)
    assert best.headline == max(v for _, v in best.notes["curve"]) >= last.headline and best.notes["curve"][-1] == (6, last.headline)


def test_validation_by_hand(takes):
    "Best epoch on people held out, of a probe that did not see them; then trained again on all, so long."
    config = DetectionConfig.named("segmentation", selection="validation", window=32, stride=16, look=1, seed=1, overrides={"epochs": 6, "batch": 8, "lr": .05})
    o, held = segment(RawCoordinates(), takes, range(8), range(8, 12), config), split(takes, range(8), range(8, 12), config)[1]
    people = {takes[int(c)].subject for c in held}
    assert people and not people & {takes[c].subject for c in set(range(8)) - set(held.tolist())}
    assert o.notes["held_out"] == [takes.name(int(c)) for c in held] and o.notes["refit"] and o.notes["recordings"] == 8
    w = {k: cut(takes, v, 32, 16) for k, v in dict(all=range(8), held=held, test=range(8, 12)).items()}
    z, y = {k: extract(RawCoordinates(), takes, v) for k, v in w.items()}, window_labels(takes, w["all"], 8)
    rest, c = ~np.isin(w["all"].clip, held), config.recipe_config
    curve = []
    for epoch in range(1, 7):
        said = predict_linear(train_linear(z["all"][rest], y[rest], 5, c, until=epoch), z["held"], w["held"])
        curve.append((epoch, outcome_of(takes, said, config).headline))
    best = max(curve, key=lambda look: (look[1], look[0]))[0]
    assert o.notes["curve"] == curve and o.notes["epoch"] == best < 6
    said = predict_linear(train_linear(z["all"], y, 5, c, until=best), z["test"], w["test"])
    assert all((o.probabilities[takes.name(c)] == p).all() for c, p in said.items())


def test_selection_while_fine_tuning(takes, monkeypatch):
    looked = []
    monkeypatch.setattr(module, "outcome_of", lambda store, said, *a, **k: (looked.append(sorted(said)), outcome_of(store, said, *a, **k))[1])
    monkeypatch.setattr(module, "finetune", lambda method, store, clips, *a: (looked.append(list(clips)), finetune(method, store, clips, *a))[1])
    for rule in ("best_test", "validation"):
        torch.manual_seed(0)
        config = DetectionConfig.named("usdrl", training="finetune", selection=rule, look=1, overrides=TUNE | {"milestones": (1,), "epochs": 3})
        o, held = detect(Strided(), takes, range(8), range(8, 12), config), split(takes, range(8), range(8, 12), config)[1]
        assert [e for e, _ in o.notes["curve"]] == [1, 2, 3] and not o.notes["refit"]
        assert rule == "validation" or o.headline == pytest.approx(max(v for _, v in o.notes["curve"]))
        learnt, *looks, last = looked
        assert learnt == sorted(set(range(8)) - set(held.tolist())) and last == [8, 9, 10, 11] and bool(len(held)) == (rule == "validation")
        assert looks == [held.tolist() if rule == "validation" else [8, 9, 10, 11]] * 3
        looked.clear()


def test_centres_by_hand(takes):
    "Two epochs of centres are drawn, and each epoch of the probe uses one of them."
    recipe = {"epochs": 4, "batch": 16, "milestones": (3,), "lr": .1}
    config = DetectionConfig.named("pcm3", centres=6, turns=2, test_stride=16, readout="middle", overrides=recipe)
    o = detect(RawCoordinates(), takes, range(8), range(8, 12), config)
    train, test = random_centres(takes, range(8), config, range(2)), centre_windows(takes, range(8, 12), config)
    z = [extract(RawCoordinates(), takes, w, what="middle") for w in (train, test)]
    probe = train_linear(z[0], train.labels(takes), 5, config.recipe_config, turns=2)
    said = predict_linear(probe, z[1], test)
    assert all((o.probabilities[takes.name(c)] == p).all() for c, p in said.items()) and len(train) == 2 * 6 * 8


def test_few_labels(takes):
    config = DetectionConfig(window=32, label_fraction=.25, seed=1)
    few = [split(takes, range(8), [9], config)[0].tolist() for _ in range(2)]
    assert few[0] == few[1] and len(few[0]) == 2
    assert split(takes, range(8), [9], DetectionConfig(window=32, label_fraction=.01))[0].size == 1
    assert few[0] != split(takes, range(8), [9], DetectionConfig(window=32, label_fraction=.25, seed=2))[0].tolist()


# ---- what cannot be -----------------------------------------------------------------------------------------------------------------


def test_settings_that_cannot_be():
    for kwargs, said in (
        (dict(readout="clip"), "dense windows with readout = 'clip'"), (dict(windows="centre", readout="tokens"), "centre windows"),
        (dict(windows="centre", readout="clip", several=True), "one class"), (dict(stride=0), "stride = 0"), (dict(train_steps=(5, 3)), "ascend"),
        (dict(tious=(.5, 1.5)), "tious"), (dict(decoders=("viterbi",)), "no decoder 'viterbi'"), (dict(label_fraction=0), "label_fraction"),
        (dict(selection="best"), "selection = 'best'"), (dict(recipe="mamp"), "no such preset: 'mamp'"), (dict(overrides={"epoch": 3}), "no such setting"),
        (dict(benchmark="thumos"), "benchmark"),
    ):
        with pytest.raises(ParameterError, match=said):
            DetectionConfig(**kwargs)
    assert all(DetectionConfig.from_dict(c.to_dict()) == c for c in map(DetectionConfig.named, DetectionConfig.presets()))


def test_recordings_that_cannot_be(takes):
    config = DetectionConfig(window=32, stride=16)
    for train, test, said in (([], [1], "no recording to train on"), ([1], [], "no recording to test"), ([1, 2], [2], "is in training and test")):
        with pytest.raises(DataError, match=said):
            detect(RawCoordinates(), takes, train, test, config)
    with pytest.raises(DataError, match="windows of 5000 frames, but no training recording has more than"):
        detect(RawCoordinates(), takes, [0, 1], [2], DetectionConfig(window=5000))


def test_probabilities_that_cannot_be():
    o = some_outcome()
    rest = dict(classes=o.classes, judging=o.judging, background=0)
    bad = {v: p.copy() for v, p in o.probabilities.items()}
    bad["v2"][7, 1] = np.nan
    with pytest.raises(DataError, match="'v2' frame 7.*not finite"):
        FrameOutcome(bad, o.truth, **rest)
    with pytest.raises(DataError, match="v4"):
        FrameOutcome({v: p for v, p in o.probabilities.items() if v != "v4"}, o.truth, **rest)
    with pytest.raises(DataError, match="'v1'.*of shape"):
        FrameOutcome(o.probabilities | {"v1": o.probabilities["v1"][:-1]}, o.truth, **rest)
    with pytest.raises(DataError, match="'v0' frame 3.*class 4 is not one of 0..3"):
        FrameOutcome(o.probabilities, o.truth | {"v0": np.where(np.arange(len(o.truth["v0"])) == 3, 4, o.truth["v0"])}, **rest)
    with pytest.raises(DataError, match="'x'.*label 0, which is no action"):
        FrameOutcome(o.probabilities, o.truth, actual=event_table([("x", 0, 1, 2)]), **rest)
    with pytest.raises(DataError, match="no action is annotated in 5 recordings"):
        FrameOutcome(o.probabilities, {v: np.zeros_like(y) for v, y in o.truth.items()}, **rest)
    with pytest.raises(DataError, match="decoder 'activity' needs a class 'background'"):
        FrameOutcome(o.probabilities, o.truth, o.classes, o.judging)
    with pytest.raises(DataError, match="0 recordings with truth|0 with truth"):
        FrameOutcome({}, {}, **rest)


def test_an_encoder_that_says_nan(takes):
    class Broken(torch.nn.Module):
        def forward(self, x):
            z = torch.full((len(x), 4, 2), torch.nan)
            return Features(z.mean(1), z)

    with pytest.raises(DataError, match="window 0: features are not finite"):
        detect(Broken(), takes, range(8), range(8, 12), DetectionConfig(window=32, stride=16, overrides=FEW))


def test_features_are_kept_and_not_confused(takes, tmp_path):
    config = DetectionConfig(window=32, stride=16, overrides=FEW)
    first = detect(RawCoordinates(), takes, range(8), range(8, 12), config, cache=tmp_path)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["test.json", "test.npy", "train.json", "train.npy"]
    again = detect(RawCoordinates(), takes, range(8), range(8, 12), config, cache=tmp_path)
    assert all((first.probabilities[v] == again.probabilities[v]).all() for v in first.truth)
    with pytest.raises(DataError, match="features of another encoder"):
        detect(RawCoordinates(joint=2), takes, range(8), range(8, 12), config, cache=tmp_path)
    other = SkeletonStore.write(tmp_path / "other", synthesize_untrimmed(12, actions=MOVES, seed=1))
    with pytest.raises(DataError, match="features of another store"):
        detect(RawCoordinates(), other, range(8), range(8, 12), config, cache=tmp_path)


def test_centre_windows_are_told_apart():
    assert CentreWindows(*(np.zeros(2, int),) * 4, 16, {0: 9}).where == {}


# ---- real recordings ----------------------------------------------------------------------------------------------------------------


def test_precog(recordings, tmp_path):
    store = stored(tmp_path / "s", find_precog(recordings / "precog_raw", "drop"))
    train, test = parts(store, "cross_subject")
    config = DetectionConfig.named("segmentation", window=60, stride=30, overrides={"epochs": 6, "context": 2})
    o = segment(RawCoordinates(), store, train, test, config)
    often = max(np.mean(np.concatenate(list(o.truth.values())) == k) for k in range(len(o.classes)))
    assert o.headline > often + .1 and len(o.truth) == len(test)
    pku = detect(RawCoordinates(), store, train, test, DetectionConfig(window=60, stride=30, overrides={"epochs": 6, "context": 2}))
    table, most = pku.scores()["percent"], ceiling(pku)["percent"]
    assert table["map_a@0.1", "argmax_runs", "voc"] >= table["map_a@0.5", "argmax_runs", "voc"] > 50
    assert most["map_a@0.5", "argmax_runs", "corrected"] > 99 and most["map_a@0.5", "activity", "corrected"] < 10  # pauses of four frames vanish when smoothed
