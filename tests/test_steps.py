"""Encoders of any kind on untrimmed recordings: steps and frames, labels of steps, features that are kept, probes and heads on all of it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import make_clip
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from skelnb.backbones.features import Features
from skelnb.data.store import SkeletonStore
from skelnb.data.windows import IGNORE, ClipLoader, gather
from skelnb.errors import DataError, ParameterError
from skelnb.evaluation import segmentation as module
from skelnb.evaluation.features import RawCoordinates, cached, cut, encode, extract, to_frames, weights_hash
from skelnb.evaluation.segmentation import (
    Best,
    FinetuneConfig,
    LinearConfig,
    Segmenter,
    finetune,
    frame_loss,
    predict,
    predict_linear,
    step_labels,
    step_targets,
    train_linear,
    unit_labels,
    window_labels,
)
from skelnb.methods.lode import Lode, LodePreset
from skelnb.training.schedule import cosine


class Strided(nn.Module):
    "An encoder without tokens, called like a backbone: two convolutions of stride 2 over the first person's joints, 50 frames -> 13 steps."

    def __init__(self, dim=6, scale=1.0):
        super().__init__()
        self.layers, self.scale, self.calls = nn.Sequential(nn.Conv1d(75, dim, 3, 2, 1), nn.Tanh(), nn.Conv1d(dim, dim, 3, 2, 1)), scale, []

    def forward(self, x):
        self.calls.append(len(x))
        frames = self.scale * self.layers((x - x[:, :, :1, 1:2])[..., 0].permute(0, 1, 3, 2).flatten(1, 2)).transpose(1, 2)
        return Features(frames.mean(1), frames)


@pytest.fixture(scope="module")
def strided():
    torch.manual_seed(0)
    return Strided()


# ---- steps and frames ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60))
def test_steps_on_frames_are_what_they_are_said_to_be(steps, frames):
    values = torch.randn(2, steps, 3, generator=torch.Generator().manual_seed(steps)).double()
    t, by_hand = np.arange(frames), values.numpy()
    nearest = np.floor((t + 0.5) * steps / frames + 1e-12).astype(int)
    assert np.array_equal(to_frames(values, frames), by_hand[:, nearest])
    at = {"linear": (t + 0.5) * steps / frames - 0.5, "corners": t * (steps - 1) / max(frames - 1, 1)}
    for kind, place in at.items():
        line = np.stack([[np.interp(place, np.arange(steps), row) for row in v.T] for v in by_hand]).transpose(0, 2, 1)
        np.testing.assert_allclose(to_frames(values, frames, kind), line, atol=1e-9)


def test_units_are_repeated_and_odd_steps_leave_nothing_out():
    z = torch.randn(3, 15, 4)
    assert torch.equal(to_frames(z, 60), z.repeat_interleave(4, 1))
    for steps, frames, stride in ((13, 50, 4), (19, 150, 8)):
        share = to_frames(torch.arange(steps)[None, :, None], frames)[0, :, 0].bincount()
        assert len(share) == steps and share.max() - share.min() <= 1
        walk = stride * torch.arange(float(steps))[None, :, None]
        end = to_frames(walk, frames, "corners")[0, [0, -1], 0].tolist()
        assert end == [0, stride * (steps - 1)]  # the last step stands on the last frame: 48 on 49, 144 on 149
    with pytest.raises(ParameterError, match="nearest, linear, corners"):
        to_frames(z, 60, "cubic")


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 9), st.lists(st.sampled_from([0, 1, 2, IGNORE]), min_size=1, max_size=30))
def test_labels_of_steps_against_a_loop(steps, frames):
    if steps > len(frames):
        with pytest.raises(DataError, match=f"{steps} steps of {len(frames)} frames"):
            step_labels(np.array(frames), steps)
        return
    T, wanted = len(frames), []
    which = [int((t + 0.5) * steps / T + 1e-12) for t in range(T)]
    for j in range(steps):
        mine = [y for y, w in zip(frames, which) if w == j]
        most = max(mine.count(y) for y in mine)
        middle = mine[len(mine) // 2]
        wanted.append(middle if mine.count(middle) == most else next(y for y in mine if mine.count(y) == most))
    assert step_labels(np.array(frames), steps).tolist() == wanted
    assert step_labels(torch.tensor([frames]), steps).tolist() == [wanted]
    if T % steps == 0:
        assert unit_labels(np.array(frames), T // steps).tolist() == wanted


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(6, 20), st.integers(0, 99))
def test_targets_of_steps_against_a_loop(steps, T, seed):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, (T, 2))
    y[T - rng.integers(0, T):] = IGNORE
    which = np.array([int((t + 0.5) * steps / T + 1e-12) for t in range(T)])
    got = step_targets(torch.from_numpy(y), steps).numpy()
    for j in range(steps):
        mine = y[which == j]
        for k in range(2):
            known = mine[mine[:, k] >= 0, k]
            wanted = IGNORE if 2 * len(known) <= len(mine) else int(known.any() and 2 * known.sum() >= len(known))
            assert got[j, k] == wanted


# ---- windows ------------------------------------------------------------------------------------------------------------------------


def test_windows_resampled_to_other_lengths(tiny_store):
    w = cut(tiny_store, [3, 5], 64, 32, 4, frames=120)
    x = torch.cat([x for _, x in w.batches(tiny_store, 3)])
    assert torch.equal(x, gather(tiny_store, w.clip, w.start, np.full(len(w), 64), 120)) and x.shape[2] == 120
    y = window_labels(tiny_store, w, 120)
    for row in range(len(w)):  # each input frame has the label of the raw frame it is nearest to
        truth = tiny_store.frame_labels(int(w.clip[row]))
        at = np.clip((np.arange(120) + 0.5) * 64 / 120 - 0.5, 0, 63)
        near = np.where(at % 1 < 0.5, np.floor(at), np.floor(at) + 1).astype(int)
        assert (y[row] == truth[w.start[row] + near]).all()
    assert (window_labels(tiny_store, w) == unit_labels(y, 4)).all() and window_labels(tiny_store, w, 13).shape == (len(w), 13)
    p = w.takes(torch.rand(len(w), 30, 2))
    assert {c: v.shape for c, v in p.items()} == {3: (90, 2), 5: (130, 2)}
    with pytest.raises(DataError, match="120 frames does not divide into units of 7"):
        cut(tiny_store, [3], 64, 32, 7, frames=120)


def test_training_reads_the_same_labels_as_the_probe(tiny_store):
    loader = ClipLoader(tiny_store, [3, 4, 5], frames=30, batch=16, window=20, labels=True)
    batch, (clip, start, _) = loader.batch(2), loader.draw(2)
    w = cut(tiny_store, [3, 4, 5], 20, 20, 1, frames=30)
    w.clip, w.start = clip, start
    assert (window_labels(tiny_store, w, 30) == batch["labels"].numpy()).all()
    assert torch.equal(next(w.batches(tiny_store, 16))[1], batch["x"])


def test_activation_comes_after_interpolation(tiny_store):
    w, z = cut(tiny_store, [5], 50, 50), torch.randn(3, 13, 4)
    p = w.takes(z, "corners", lambda v: v.softmax(-1))[5]
    by_hand = F.interpolate(z.transpose(1, 2), 50, mode="linear", align_corners=True).transpose(1, 2).softmax(-1)
    np.testing.assert_allclose(p[:50], by_hand[0], atol=1e-6)
    np.testing.assert_allclose(p[80:100], (by_hand[1, 30:] + by_hand[2, :20]) / 2, atol=1e-6)  # the last window starts at 80


# ---- features -----------------------------------------------------------------------------------------------------------------------


def test_encoders_without_tokens(tiny_store, strided):
    w = cut(tiny_store, [2, 5], 50, 25)
    x = torch.cat([x for _, x in w.batches(tiny_store, 64)])
    with torch.no_grad():
        said = strided(x)
    z = {what: extract(strided, tiny_store, w, batch=3, what=what) for what in ("frames", "clip", "middle")}
    assert z["frames"].shape == (len(w), 13, 6) and z["clip"].shape == (len(w), 6)
    np.testing.assert_allclose(z["frames"], said.frames, atol=2e-3)
    np.testing.assert_allclose(z["clip"], said.clip, atol=2e-3)
    assert (z["middle"] == z["frames"][:, 6:7]).all()
    with pytest.raises(ParameterError, match='no tokens.*\n?.*what="frames"'):
        extract(strided, tiny_store, w)
    with pytest.raises(ParameterError, match="use one of tokens, frames, clip, middle"):
        extract(strided, tiny_store, w, what="joints")
    raw = extract(RawCoordinates(), tiny_store, cut(tiny_store, [5], 40, 40), what="middle")
    assert raw.shape == (4, 1, 25, 12)


def test_what_is_no_encoder_is_said(tiny_store, strided):
    with pytest.raises(ParameterError, match="Identity gives Tensor, not Features"):
        encode(nn.Identity(), torch.zeros(1, 3, 8, 25, 1))
    w = cut(tiny_store, [5], 50, 25)
    with pytest.raises(DataError, match="does not fit into float16"):
        extract(Strided(scale=1e7), tiny_store, w, what="frames")


def test_kept_features_know_whose_they_are(tiny_store, tmp_path, strided):
    w, path = cut(tiny_store, [2, 5], 50, 25), tmp_path / "kept" / "train"
    first = cached(path, strided, tiny_store, w, "frames")
    calls = len(strided.calls)
    again = cached(path, strided, tiny_store, w, "frames")
    assert len(strided.calls) == calls and isinstance(again, np.memmap) and (first == again).all()
    other = SkeletonStore.write(tmp_path / "other", [make_clip("a", 90), make_clip("b", 60), make_clip("c", 70)])
    for what, args in {"store and another windows": (strided, other, cut(other, [0], 50, 25), "frames"), "encoder": (Strided(), tiny_store, w, "frames"),
                       "windows": (strided, tiny_store, cut(tiny_store, [2, 5], 50, 26), "frames"), "what": (strided, tiny_store, w, "clip")}.items():
        with pytest.raises(DataError, match=f"features of another {what}"):
            cached(path, *args)
    np.save(path.with_suffix(".npy"), np.zeros((1, 2), np.float16))
    with pytest.raises(DataError, match="its note says"):
        cached(path, strided, tiny_store, w, "frames")
    tiny = [Lode(LodePreset.named("tiny", center=c)) for c in ("first", "frame")]
    tiny[1].load_state_dict(tiny[0].state_dict())
    asked = weights_hash(tiny[0])
    tiny[0].progress = 0.5  # a training under way
    assert weights_hash(tiny[0].eval()) == asked != weights_hash(tiny[1])
    assert len({weights_hash(RawCoordinates(4, 1, "first")), weights_hash(RawCoordinates(4, 1, "frame")), weights_hash(RawCoordinates(4, 2, "first"))}) == 3


# ---- the linear probe ---------------------------------------------------------------------------------------------------------------


def separable(windows=40, steps=5, frames=16, seed=0):
    "Features (W, steps, 6) of frames with three classes, and labels (W, frames)."
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, (windows, 1)).repeat(frames, 1)
    y[:, frames // 2:] = rng.integers(0, 3, (windows, 1))
    f = rng.normal(0, 0.3, (windows, steps, 6))
    f[..., :3] += np.eye(3)[step_labels(y, steps)]
    return f.astype(np.float16), y


def test_the_papers_probes():
    snippet = LinearConfig.named("snippet")
    assert (snippet.epochs, snippet.batch, snippet.lr, snippet.optimizer, snippet.milestones, snippet.warmup_epochs) == (40, 8, 1e-3, "adam", (30, 35), 10)
    rate = [module._rate(snippet, e * 7, 7) for e in (0, 5, 10, 29, 30, 35)]
    assert rate == pytest.approx([0, 5e-4, 1e-3, 1e-3, 1e-4, 1e-5])
    pcm3 = LinearConfig.named("pcm3")
    assert [module._rate(pcm3, e, 1) for e in (0, 39, 40, 50)] == pytest.approx([0.01, 0.01, 0.001, 0.0001]) and not pcm3.norm and pcm3.momentum == 0.9
    lode = LinearConfig()
    assert [module._rate(lode, s, 9) for s in (0, 300, 899)] == [cosine(s, 900, 0, 0.01, 0.0) for s in (0, 300, 899)] and lode == LinearConfig.named("lode")
    with pytest.raises(ParameterError, match="upsample"):
        LinearConfig(upsample="cubic")


def test_loss_on_frames_is_the_interpolated_loss():
    z, y = torch.randn(4, 5, 3), torch.randint(0, 3, (4, 16))
    y[:, 12:] = IGNORE
    up = F.interpolate(z.transpose(1, 2), 16, mode="linear", align_corners=True).transpose(1, 2)
    torch.testing.assert_close(frame_loss(z, y, "corners"), F.cross_entropy(up[:, :12].flatten(0, 1), y[:, :12].flatten()))
    target = torch.randint(0, 2, (4, 5, 3))
    target[1:, 3:] = IGNORE
    by_hand = torch.cat([F.binary_cross_entropy_with_logits(z[i, :n], target[i, :n].float(), reduction="none").flatten() for i, n in enumerate((5, 3, 3, 3))])
    torch.testing.assert_close(frame_loss(z, target), by_hand.mean())


@pytest.mark.parametrize("name", ["lode", "usdrl", "snippet"])
def test_probes_learn_from_frames_without_joints(name):
    f, y = separable()
    config = LinearConfig.named(name, epochs=40, batch=8, lr=0.05, milestones=(), warmup_epochs=0)
    labels = y if config.loss_on == "frames" else step_labels(y, 5)
    probe = train_linear(f, labels, 3, config)
    g, z = separable(seed=1)
    w = cut_of(40, 16)
    p = predict_linear(probe, g, w, config.joints, upsample=config.upsample)
    assert np.mean([(p[c].argmax(1) == z[c]).mean() for c in range(40)]) > 0.85
    assert torch.equal(train_linear(f, labels, 3, config).linear.weight, probe.linear.weight)


def cut_of(n, size):
    from skelnb.evaluation.features import Windows
    return Windows(np.arange(n), np.zeros(n, int), size, 1, {c: size for c in range(n)})


def test_several_classes_at_a_time():
    f, y = separable()
    several = np.stack([y == 0, y == 1, (y == 0) | (y == 2)], -1).astype(np.int8)
    several[:3, 10:] = IGNORE
    probe = train_linear(f, step_targets(torch.from_numpy(several), 5).numpy(), 3, LinearConfig(epochs=40, batch=8, lr=0.5))
    p = predict_linear(probe, f, cut_of(40, 16), several=True)
    right = np.concatenate([((p[c] > 0.5) == several[c])[several[c] >= 0] for c in range(40)])
    assert right.mean() > 0.85 and max(v.sum(1).max() for v in p.values()) > 1.3


def test_parts_of_the_windows():
    f, y = separable()
    y, config = step_labels(y, 5), LinearConfig(epochs=6, batch=8, lr=0.1)
    chosen = np.arange(1, 40, 2)
    same = train_linear(f, y, 3, config, rows=chosen), train_linear(f[chosen], y[chosen], 3, config)
    assert torch.equal(same[0].linear.weight, same[1].linear.weight)
    blind = y.copy()
    blind[20:] = IGNORE  # the second of two turns teaches nothing ...
    no_second = LinearConfig(epochs=1, batch=8, lr=0.1, norm=False)
    assert torch.equal(train_linear(f, blind, 3, no_second, turns=2).linear.weight, train_linear(f, y, 3, no_second, turns=2).linear.weight)
    first_only = train_linear(f[:20], y[:20], 3, no_second)  # ... and one epoch sees the first one only
    assert torch.equal(first_only.linear.weight, train_linear(f, y, 3, no_second, turns=2).linear.weight)
    two = LinearConfig(epochs=2, batch=8, lr=0.1, norm=False)
    assert not torch.equal(train_linear(f, blind, 3, two, turns=2).linear.weight, train_linear(f, y, 3, two, turns=2).linear.weight)
    with pytest.raises(DataError, match="40 windows with 39 labels"):
        train_linear(f, y[:39], 3, config)


def test_a_look_takes_the_best_and_until_repeats_it():
    f, y = separable()
    y, config, values = step_labels(y, 5), LinearConfig(epochs=7, batch=8, lr=0.1), iter([0.1, 0.9, 0.9, 0.3])
    best = Best(lambda probe: next(values) if not probe.training else pytest.fail("training mode"), every=2)
    chosen = train_linear(f, y, 3, config, best=best)
    assert best.curve == [(2, 0.1), (4, 0.9), (6, 0.9), (7, 0.3)] and best.epoch == 6
    assert torch.equal(chosen.linear.weight, train_linear(f, y, 3, config, until=6).linear.weight)
    assert not torch.equal(chosen.linear.weight, train_linear(f, y, 3, config).linear.weight)


def test_features_on_the_disk_teach_the_same(tmp_path, monkeypatch):
    f, y = separable()
    np.save(tmp_path / "f.npy", f)
    y, config = step_labels(y, 5), LinearConfig(epochs=3, batch=7, lr=0.1)
    held = train_linear(f, y, 3, config)
    monkeypatch.setattr(module, "HELD", 0)
    read = train_linear(np.load(tmp_path / "f.npy", mmap_mode="r"), y, 3, config)
    assert torch.equal(held.linear.weight, read.linear.weight)


def test_features_that_are_not_numbers_are_refused():
    f, y = separable()
    f[7, 2] = np.nan
    with pytest.raises(DataError, match="window 7: features are not finite"):
        train_linear(f, step_labels(y, 5), 3, LinearConfig(epochs=1))


# ---- fine-tuning --------------------------------------------------------------------------------------------------------------------

TUNE = dict(epochs=2, batch=8, lr=1e-2, warmup_epochs=0, hidden=8, layer_decay=None, readout="frames", drop_path=0.0)


def test_any_encoder_can_be_fine_tuned(tiny_store, strided):
    before = [p.clone() for p in strided.parameters()]
    models = [finetune(strided, tiny_store, [0, 1, 3, 4], FinetuneConfig(**TUNE), window=50, device="cpu") for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(before, strided.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in models)))
    assert all(not torch.equal(a, b) for a, b in zip(before, models[0].encoder.parameters()))
    w = cut(tiny_store, [2, 5], 50, 25)
    p = predict(models[0], tiny_store, w, batch=3)
    assert {c: v.shape for c, v in p.items()} == {2: (70, 3), 5: (130, 3)} and all(np.allclose(v.sum(1), 1, atol=1e-5) for v in p.values())
    assert models[0].logits(torch.randn(2, 3, 50, 25, 1)).shape == (2, 13, 3)


@pytest.mark.parametrize("what, steps", [("frames", 13), ("clip", 1), ("middle", 1)])
def test_readouts(strided, what, steps):
    sample = torch.randn(2, 3, 50, 25, 1)
    model = Segmenter(strided, 4, FinetuneConfig(**TUNE | {"readout": what}), None, sample)
    assert model.logits(sample).shape == (2, steps, 4) and model.prepare(sample) is sample
    with pytest.raises(ParameterError, match="give a sample"):
        Segmenter(strided, 4, FinetuneConfig(**TUNE | {"readout": what}))


def test_a_method_brings_its_preparation(tiny_store):
    torch.manual_seed(0)
    method = Lode(LodePreset.named("tiny", frames=16, dim=16, mlp=32))
    model = finetune(method, tiny_store, [3, 4], FinetuneConfig(epochs=1, batch=8, warmup_epochs=0, hidden=8), device="cpu")
    x = torch.randn(2, 3, 16, 25, 1)
    assert torch.equal(model.prepare(x), method.prepare(x)) and not any("decoder" in name for name, _ in model.named_parameters())
    with pytest.raises(DataError, match="windows of 32 frames; this encoder takes 16"):
        finetune(method, tiny_store, [3, 4], FinetuneConfig(epochs=1, batch=8), window=32, frames=32, device="cpu")
    stretched = finetune(method, tiny_store, [3, 4], FinetuneConfig(epochs=1, batch=8, warmup_epochs=0, hidden=8), window=24, device="cpu")
    w = cut(tiny_store, [5], 24, 12, frames=16)
    assert predict(stretched, tiny_store, w)[5].shape == (130, 3)


def test_what_fine_tuning_needs_to_know(tiny_store, strided, tmp_path):
    with pytest.raises(ParameterError, match="pass window="):
        finetune(strided, tiny_store, [3, 4], FinetuneConfig(**TUNE), device="cpu")
    with pytest.raises(ParameterError, match="stack of blocks.*\n?.*layer_decay"):
        finetune(strided, tiny_store, [3, 4], FinetuneConfig(**TUNE | {"layer_decay": 0.8}), window=50, device="cpu")
    with pytest.raises(ParameterError, match="interruption"):
        finetune(strided, tiny_store, [3, 4], FinetuneConfig(**TUNE), tmp_path, "cpu", window=50, best=Best(lambda m: 0.0))


def test_looks_while_fine_tuning(tiny_store, strided):
    values, seen = iter([0.3, 0.8, 0.5]), []
    best = Best(lambda m: (seen.append([p.clone() for p in m.parameters()]), next(values))[1], every=1)
    model = finetune(strided, tiny_store, [0, 1, 3, 4], FinetuneConfig(**TUNE | {"epochs": 3}), window=50, device="cpu", best=best)
    assert best.epoch == 2 and [e for e, _ in best.curve] == [1, 2, 3]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), seen[1])) and not torch.equal(seen[1][0], seen[2][0])


def test_plain_recipes():
    tune = FinetuneConfig.named("snippet")
    fit = module.fit_config(tune, 10, "cpu")
    assert (fit.optimizer, fit.milestones, fit.schedule, fit.decay_all, fit.warmup, fit.lr) == ("adam", (300, 350), "steps", True, 100, 1e-3)
    lode = module.fit_config(FinetuneConfig(), 10, "cpu")
    assert (lode.optimizer, lode.schedule, lode.layer_decay, lode.min_lr, lode.decay_all) == ("adamw", "cosine", 0.8, 1e-5, False)
    assert module.fit_config(FinetuneConfig.named("pcm3"), 5, "cpu").optimizer == "sgd" and FinetuneConfig.named("pcm3").readout == "clip"
