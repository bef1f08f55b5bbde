"""Localisation: a body on a pre-trained method, padding that touches nothing, votes of frames, and Skeleton-Snippet's protocols from files to numbers."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from skelnb.backbones.agcn import AGCN
from skelnb.backbones.features import Features
from skelnb.backbones.fusion import WithFusion, WithUpsampling
from skelnb.backbones.stgcn import STGCN
from skelnb.data.babel import find_babel_localisation, forge_babel_localisation
from skelnb.data.pku import find_pku, forge_pku
from skelnb.data.store import SkeletonStore
from skelnb.data.synthetic import synthesize_untrimmed
from skelnb.data.windows import IGNORE
from skelnb.errors import DataError, ParameterError
from skelnb.evaluation.detection import CentreWindows, DetectionConfig, WholeLoader, detect
from skelnb.evaluation.features import RawCoordinates, cut, encode, extract, takes_valid
from skelnb.evaluation.localisation import knn_takes, settled, with_body
from skelnb.evaluation.neighbours import Neighbours
from skelnb.evaluation.protocols import FrameMeasures, score_intervals
from skelnb.evaluation.segmentation import FinetuneConfig, Segmenter, finetune, predict
from skelnb.methods.aimclr import Aimclr

TUNE = dict(epochs=1, warmup_epochs=0, milestones=(), batch=4)


def method(seed=0):
    torch.manual_seed(seed)
    return Aimclr("tiny")


@pytest.fixture(scope="module")
def takes(tmp_path_factory):
    "Takes of 8 different lengths."
    clips = synthesize_untrimmed(8, actions=("wave", "kick"), segments=(1, 2), seed=0, noise=0.01)
    for clip, n in zip(clips, (40, 64, 90, 33, 120, 57, 80, 101)):
        clip.xyz, clip.segments = clip.xyz[:n], [s for s in ((s if s.end <= n else type(s)(s.start, n, s.label)) for s in clip.segments) if s.start < n]
    return SkeletonStore.write(tmp_path_factory.mktemp("localisation") / "takes", clips, classes=("background", "kick", "wave"))


# ---- how many frames are real ---------------------------------------------------------------------------------------------------------


def test_windows_know_where_their_recording_ends(takes):
    w = cut(takes, range(8), 64, 64)
    left = np.diff(takes.offsets)[w.clip] - w.start
    assert w.valid().tolist() == np.minimum(left, 64).tolist() and w.valid(slice(2, 4)).tolist() == w.valid().tolist()[2:4]
    twice = cut(takes, range(8), 64, 64, frames=128)
    assert twice.valid().tolist() == np.minimum(2 * left, 128).tolist()
    last = np.array([takes.offsets[c + 1] - takes.offsets[c] for c in w.clip])[:, None]
    assert ((w.raw() < last).sum(1) == w.valid().numpy()).all()
    c = CentreWindows(*(np.zeros(3, np.int64),) * 2, np.array([0, 30, 36]), np.array([4, 4, 4]), 16, {0: 40})
    assert c.valid().tolist() == [10, 3, 1] and c.valid(slice(1, 2)).tolist() == [3]
    batch = WholeLoader(takes, range(8), 128, 8).batch(0)
    assert batch["valid"].tolist() == np.diff(takes.offsets)[batch["index"]].tolist() == (batch["labels"] != IGNORE).sum(1).tolist()


def test_who_asks_is_told():
    class Asks(nn.Module):
        def forward(self, x, valid=None):
            z = torch.ones(len(x), 2, 3) * (x.shape[2] if valid is None else valid.view(-1, 1, 1))
            return Features(z.mean(1), z)

    class Own(Asks):
        def features(self, x):
            return self(x)

    x = torch.zeros(2, 3, 16, 25, 1)
    assert encode(Asks(), x, torch.tensor([5, 7])).clip[:, 0].tolist() == [5, 7] and encode(Asks(), x).clip[:, 0].tolist() == [16, 16]
    assert encode(Own(), x, torch.tensor([5, 7])).clip[:, 0].tolist() == [16, 16]  # its features do not ask
    assert takes_valid(WithFusion(AGCN(width=4))) and not takes_valid(AGCN(width=4)) and not takes_valid(RawCoordinates())
    m = method()
    assert not takes_valid(m) and takes_valid(with_body(m, "nested")) and takes_valid(with_body(m, "simple"))


@pytest.mark.parametrize("body", ["simple", "nested"])
def test_other_recordings_in_the_batch_do_not_matter(takes, body):
    "Features and fine-tuned probabilities of a recording are the same whether it is read alone or beside longer ones."
    whole = with_body(method(), body).eval()
    n = np.diff(takes.offsets)
    together = extract(whole, takes, cut(takes, range(8), 128, 128), what="frames").astype(np.float32)
    model = Segmenter(whole.encoder, 3, FinetuneConfig.named("snippet"), None, torch.zeros(1, 3, 16, 25, 1), prepare=whole.prepare).eval()
    said = predict(model, takes, cut(takes, range(8), 128, 128))
    for c in (0, 3, 7):
        alone = extract(whole, takes, cut(takes, [c], int(n[c]), int(n[c])), what="frames").astype(np.float32)
        np.testing.assert_allclose(together[c, :n[c]], alone[0], atol=2e-3 * abs(alone).max())  # kept in float16
        assert not together[c, n[c]:].any()
        np.testing.assert_allclose(said[c], predict(model, takes, cut(takes, [c], int(n[c]), int(n[c])))[c], atol=1e-5)


def test_the_number_of_real_frames_reaches_training(takes):
    seen = []

    class Spy(WithUpsampling):
        def fuse(self, maps, frames, valid):
            seen.append(valid)
            return super().fuse(maps, frames, valid)

    torch.manual_seed(0)
    net, loader = Spy(STGCN(width=4, out=8, dropout=0.0)), WholeLoader(takes, range(4), 96, 4)
    model = finetune(net, takes, range(4), FinetuneConfig.named("snippet", **TUNE), device="cpu", loader=loader)
    assert sorted(seen[-1].tolist()) == [33, 40, 64, 90]
    predict(model, takes, cut(takes, [4], 160, 160))
    assert seen[-1].tolist() == [120]


# ---- bodies ---------------------------------------------------------------------------------------------------------------------------


def test_a_body_keeps_how_the_method_prepares_clips():
    m = method().eval()
    x = torch.randn(2, 3, 40, 25, 1).cumsum(2)
    z = with_body(m, "simple")
    assert z.encoder.encoder is m.encoder and z.preset is m.preset
    with torch.no_grad():
        mine = encode(z.eval(), x).frames
        np.testing.assert_allclose(mine, WithUpsampling(m.encoder).eval()(m.prepare(x)).frames, atol=1e-6)
        np.testing.assert_allclose(mine, encode(z, x + 5.0).frames, atol=1e-4)  # AimCLR centres persons
    assert with_body(m) is m
    before, state = torch.get_rng_state(), [with_body(AGCN(width=4), "nested", seed=s).fusion.out.weight for s in (0, 0, 1)]
    assert torch.equal(state[0], state[1]) and not torch.equal(state[0], state[2])
    after = torch.get_rng_state()
    with_body(m, "nested", seed=7)
    assert torch.equal(after, torch.get_rng_state()) and before is not None


def test_the_module_is_trained_and_the_method_is_not(takes):
    m = method()
    before = {k: v.clone() for k, v in m.state_dict().items()}
    config = DetectionConfig.named("snippet_nested", overrides=TUNE | dict(lr=1e-2))
    o = detect(m, takes, range(5), range(5, 8), config)
    assert {v: len(p) for v, p in o.probabilities.items()} == {takes.name(c): len(takes[c]) for c in range(5, 8)} and o.notes == o.notes | {"epoch": 1}
    assert all(torch.equal(v, before[k]) for k, v in m.state_dict().items())
    assert config.recipe_config.lr == 1e-2 and DetectionConfig.named("snippet_nested").recipe_config.lr == 1e-4
    assert DetectionConfig.named("snippet_simple").recipe_config.lr == 1e-3 and DetectionConfig.named("snippet_simple").recipe_config.epochs == 40


def test_settled_norms_see_the_windows_once(takes):
    net = STGCN(width=4, out=8)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    w = cut(takes, range(8), 32, 32)
    x = torch.cat([x for _, x in w.batches(takes, 100)])
    done = settled(net, takes, w, batch=100)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()) and done.norm.momentum == 0.1 and not done.training
    flat = x.movedim(-1, 1).flatten(0, 1).permute(0, 3, 1, 2).flatten(1, 2)  # (n, V * C, T), as the input norm sees it
    torch.testing.assert_close(done.norm.running_mean, flat.mean((0, 2)), rtol=1e-4, atol=1e-5)
    same = [k for k in before if not k.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert all(torch.equal(done.state_dict()[k], before[k]) for k in same)


# ---- votes of frames ------------------------------------------------------------------------------------------------------------------


def test_votes_by_hand(takes):
    "Against a loop over frames; copies beyond the end neither vote nor ask."
    g = torch.Generator().manual_seed(0)
    w = {part: cut(takes, clips, 120, 120) for part, clips in (("train", [0, 1, 2]), ("test", [3, 5]))}
    z = {part: torch.randn(len(v), 120, 4, generator=g).numpy() for part, v in w.items()}
    y = np.stack([np.pad(takes.frame_labels(c), (0, 120 - n), constant_values=IGNORE) for c, n in w["train"].lengths.items()])
    for part in z:
        z[part][np.arange(120) >= w[part].valid().numpy()[:, None]] = 0  # no direction: an error if anybody looked
    said = knn_takes(z["train"], y, z["test"], w["test"], 3, Neighbours.named("snippet", k=(1, 5)))
    gallery, labels = z["train"][y != IGNORE], y[y != IGNORE]
    unit = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    for i, (c, n) in enumerate(w["test"].lengths.items()):
        near = np.argsort(-(z["test"][i, :n] @ unit.T), axis=1)[:, :5]
        np.testing.assert_allclose(said[c], np.eye(3)[labels[near]].mean(1), atol=1e-6)


# ---- the protocols --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subset", [1, 2, 3])
def test_babel_subsets(tmp_path, subset):
    source = find_babel_localisation(forge_babel_localisation(tmp_path / "files", subset=subset, takes=5), subset=subset)
    store = SkeletonStore.write(tmp_path / "store", **source.store, clips=source.clips())
    train, test = store.split("split", "train"), store.split("split", "val")
    setup = {1: "snippet_knn", 2: "snippet_linear", 3: "snippet_nested"}[subset]
    o = detect(method(), store, train, test, DetectionConfig.named(setup, settle=subset < 3, overrides={} if subset == 1 else TUNE))
    table = o.scores()["percent"]
    assert set(table.index.get_level_values("mode")) == {"swtal", "corrected", ""} and table.between(0, 100).all()
    assert {f"map_a@{t:g}" for t in (0.1, 0.2, 0.3, 0.4, 0.5)} | {"map_a@mean"} <= set(table.index.get_level_values("metric"))
    mean = table.xs(("oic", "corrected"), level=("decoder", "mode"))
    assert mean["map_a@mean"] == pytest.approx(np.mean([mean[f"map_a@{t:g}"] for t in (0.1, 0.2, 0.3, 0.4, 0.5)])) == pytest.approx(100 * o.headline)


def test_transfer_to_pku(tmp_path):
    store = SkeletonStore.write(tmp_path / "pku", **(source := find_pku(forge_pku(tmp_path / "files"))).store, clips=source.clips())
    train, test = (store.split("xsub", part) for part in ("train", "test"))
    few = {"window": 96, "stride": 48}
    o = detect(method(), store, train, test, DetectionConfig.named("snippet_pku", **few, overrides=TUNE))
    rows = o.scores()["percent"]["map_a@0.5"]
    assert set(rows.index) == {(d, m) for d in ("activity", "oic", "argmax_runs") for m in ("official", "voc", "corrected")}
    assert DetectionConfig.named("snippet_pku").window == 300


def test_intervals_of_map_over_people(takes):
    config = DetectionConfig.named("snippet_knn", settle=True)
    o = [detect(method(s), takes, range(4), range(4, 8), replace(config, overrides=dict(k=(k,)))) for s, k in ((0, 20), (1, 20), (0, 3))]
    m = FrameMeasures({"a": o[:2], "b": o[2:]})
    table, gain = score_intervals(m, draws=50), score_intervals(m, against="b", draws=50)
    assert table.loc["a", "mean"] == pytest.approx(50 * (o[0].headline + o[1].headline)) and (table["low"] <= table["mean"]).all()
    assert gain.loc["a", "mean"] == pytest.approx(table.loc["a", "mean"] - table.loc["b", "mean"]) and not gain.loc["b", ["mean", "low", "high"]].any()
    people = len(set(o[0].groups.values()))
    assert table["over"].tolist() == [f"{people} people"] * 2 and isinstance(gain, pd.DataFrame)
    with pytest.raises(ParameterError, match="did you mean"):
        score_intervals(m, against="bb")


def test_what_cannot_be(takes):
    for call, said in ((lambda: with_body(method(), "nest"), "did you mean 'nested'"), (lambda: with_body(RawCoordinates(), "simple"), "no maps to read"),
                       (lambda: with_body(WithFusion(AGCN(width=4)), "nested"), "no maps"),
                       (lambda: DetectionConfig.named("snippet_linear", body="nested"), "has to learn"),
                       (lambda: DetectionConfig.named("snippet_linear", readout="tokens"), "speaks of every frame"),
                       (lambda: DetectionConfig.named("pcm3", body="simple"), "speaks of every frame"),
                       (lambda: DetectionConfig.named("snippet_knn", selection="best_test"), "nothing is selected"),
                       (lambda: DetectionConfig.named("snippet_knn", recipe="snippets"), "snippets")):
        with pytest.raises(ParameterError, match=said):
            call()
    with pytest.raises((DataError, ParameterError), match="k = 500"):
        detect(method(), takes, [0, 1], [2], DetectionConfig.named("snippet_knn", settle=True, overrides=dict(k=(500,))))
