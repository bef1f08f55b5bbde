"""Windows, stitching, gathering, and a loader that only knows the step."""

import multiprocessing
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.data.clip import frame_labels
from skelnb.data.windows import IGNORE, ClipLoader, gather, random_crops, random_windows, resample_index, stitch, window_starts
from skelnb.errors import ParameterError


def resampled(values, frames, start=0):
    lo, hi, w = resample_index([start], [len(values)], frames)
    x = np.asarray(values, float)
    return ((1 - w) * x[lo - start] + w * x[hi - start])[0]


def test_goldens():
    assert resampled([0, 1, 2, 3], 8).tolist() == [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]
    assert resampled(range(8), 4).tolist() == [0.5, 2.5, 4.5, 6.5]


@given(st.integers(1, 400), st.integers(1, 200), st.integers(0, 10**6))
def test_resampling_is_torch_interpolate(length, frames, start):
    ours = resampled(np.arange(length), frames, start)
    theirs = torch.nn.functional.interpolate(
        torch.arange(length, dtype=torch.float64)[None, None], size=frames, mode="linear", align_corners=False
    )
    np.testing.assert_allclose(ours, theirs[0, 0].numpy(), atol=1e-4)
    lo, hi, w = resample_index([start], [length], frames)
    assert (lo >= start).all() and (hi < start + length).all() and lo.dtype == np.int64 and w.dtype == np.float32


@given(st.integers(1, 2000))
def test_a_window_at_its_own_length_is_the_recording(n):
    lo, _, w = resample_index([3], [n], n)
    assert np.array_equal(lo[0], 3 + np.arange(n)) and not w.any()


# ---------------------------------------------------------------- windows and stitching

cuts = st.tuples(st.integers(1, 300), st.integers(1, 90), st.integers(1, 90)).filter(lambda c: c[2] <= c[1])


@given(cuts)
def test_windows_cover_without_inventing(cut):
    n, size, stride = cut
    starts = window_starts(n, size, stride)
    assert starts[0] == 0 and (np.diff(starts) > 0).all() and (np.diff(starts) <= stride).all()
    assert starts[-1] == max(n - size, 0) and len(np.unique(starts[:, None] + np.arange(size))) == max(n, size)


@given(cuts, st.integers(1, 4), st.booleans())
def test_stitching_windows_of_a_signal_gives_the_signal(cut, K, as_torch):
    n, size, stride = cut
    signal = np.random.default_rng(n).integers(-1000, 1000, (n, K)).astype(np.float64)
    starts = window_starts(n, size, stride)
    windows = signal[np.minimum(starts[:, None] + np.arange(size), n - 1)]
    back = stitch(torch.from_numpy(windows) if as_torch else windows, starts, n)
    assert isinstance(back, torch.Tensor if as_torch else np.ndarray) and back.shape == (n, K)
    np.testing.assert_allclose(np.asarray(back), signal, atol=1e-9)


def test_stitch_averages_overlaps():
    values = np.stack([np.zeros((4, 1)), np.ones((4, 1)), np.full((4, 1), 4.0)])
    assert stitch(values, [0, 2, 3], 7)[:, 0].tolist() == [0, 0, 0.5, 5 / 3, 2.5, 2.5, 4]
    assert stitch(values[:1], [0], 3).shape == (3, 1)
    x = torch.ones(3, 4, 1, requires_grad=True)
    stitch(x, torch.tensor([0, 2, 3]), 7).sum().backward()
    assert x.grad is not None and x.grad[0, 0] == 1


def test_impossible_windows():
    for bad in (lambda: window_starts(10, 4, 5), lambda: window_starts(10, 4, 0), lambda: stitch(np.ones((1, 4, 2)), [0], 9)):
        with pytest.raises(ParameterError) as e:
            bad()
        assert e.value.remedy


# ---------------------------------------------------------------- gather


def one_by_one(store, clips, start, length, frames):
    out = []
    for c, s, n in zip(clips, start, length):
        x = store[c].xyz.astype(np.float64)
        at = np.clip((np.arange(frames) + 0.5) * n / frames - 0.5, 0, n - 1)
        lo = np.floor(at).astype(int)
        hi, w = np.minimum(lo + 1, n - 1), (at - lo)[:, None, None, None]
        lo, hi = np.clip(s + lo, 0, len(x) - 1), np.clip(s + hi, 0, len(x) - 1)
        out.append(((1 - w) * x[lo] + w * x[hi]).transpose(3, 0, 2, 1))
    return np.stack(out)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 150), st.integers(1, 200)), min_size=1, max_size=8), st.integers(1, 70))
def test_gather_is_the_plain_loop(tiny_store, wanted, frames):
    clips, start, length = map(list, zip(*wanted))
    x = gather(tiny_store, clips, start, length, frames)
    assert x.shape == (len(wanted), 3, frames, 25, 2) and x.dtype == torch.float32 and x.is_contiguous()
    np.testing.assert_allclose(x.numpy(), one_by_one(tiny_store, clips, start, length, frames), atol=1e-5)


def test_gather_at_raw_length_is_bit_equal_and_padded_at_the_edges(tiny_store):
    x = gather(tiny_store, [2], [0], [70], 70)
    assert np.array_equal(x[0].permute(1, 3, 2, 0).numpy(), tiny_store[2].xyz)
    beyond = gather(tiny_store, [0], [20], [30], 30)
    assert torch.equal(beyond[0, :, 10:], beyond[0, :, 9:10].expand(-1, 20, -1, -1)) and (beyond[0, ..., 1] == 0).all()
    with pytest.raises(ParameterError):
        gather(tiny_store, [6], [0], [5], 5)


# ---------------------------------------------------------------- draws


@given(st.integers(1, 500), st.integers(0, 2**32 - 1))
def test_crops_lie_within_the_clip(n, seed):
    lengths = np.full(64, n)
    start, length = random_crops(lengths, 0.5, 1.0, 64, np.random.default_rng(seed))
    assert (length >= min(64, n)).all() and (length >= n // 2).all() and (start >= 0).all() and (start + length <= n).all()


def test_whole_clips_when_nothing_is_cropped():
    start, length = random_crops(np.arange(1, 300), 1.0, 1.0, 64, np.random.default_rng(0))
    assert not start.any() and np.array_equal(length, np.arange(1, 300))


def test_windows_are_uniform_over_all_windows():
    lengths = np.array([3, 10, 12])
    take, start = random_windows(lengths, 10, 40_000, np.random.default_rng(0))
    count = np.zeros((3, 3))
    np.add.at(count, (take, start), 1)
    np.testing.assert_allclose(count / 40_000, np.array([[1, 0, 0], [1, 0, 0], [1, 1, 1]]) / 5, atol=0.01)


# ---------------------------------------------------------------- loader

MODES = {
    "crop": dict(frames=32),
    "whole": dict(frames=32, crop=None),
    "window": dict(frames=40, window=40, labels=True),
    "fast": dict(frames=60, window=30, labels=True),
    "pad": dict(frames=70, pad=True, labels=True),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_one_batch(tiny_store, mode, world):
    loader = ClipLoader(tiny_store, range(6), batch=8, seed=3, **MODES[mode])
    whole = loader.batch(11)
    parts = [ClipLoader(tiny_store, range(6), batch=8, seed=3, **MODES[mode]).batch(11, rank, world) for rank in range(world)]
    for key, value in whole.items():
        assert torch.equal(value, torch.cat([p[key] for p in parts])), key
    with pytest.raises(ParameterError):
        loader.batch(0, 0, 3)


def test_steps_and_seeds_differ_and_nothing_is_remembered(tiny_store):
    a, b = (ClipLoader(tiny_store, range(6), frames=32, batch=4, seed=s) for s in (0, 1))
    first = a.batch(7)["x"]
    a.batch(8)
    assert torch.equal(a.batch(7)["x"], first) and not torch.equal(a.batch(8)["x"], first) and not torch.equal(b.batch(7)["x"], first)


@pytest.mark.parametrize("batch", [2, 4, 9])
def test_an_epoch_shows_every_clip_once(tiny_store, batch):
    loader = ClipLoader(tiny_store, [1, 3, 5, 4], frames=8, batch=batch)
    seen = np.concatenate([loader.batch(s)["index"].numpy() for s in range(12)])
    epochs = seen[: len(seen) // 4 * 4].reshape(-1, 4)
    assert (np.sort(epochs, 1) == [1, 3, 4, 5]).all() and len(np.unique(epochs, axis=0)) > 1 and loader.epoch == 4 / batch


def test_labels_and_valid(tiny_store):
    loader = ClipLoader(tiny_store, [0], frames=50, batch=3, window=50, labels=True)
    got, truth = loader.batch(0), frame_labels(tiny_store[0], tiny_store.classes)
    assert got["valid"].tolist() == [30] * 3 and (got["labels"][:, 30:] == IGNORE).all()
    assert np.array_equal(got["labels"][0, :30].numpy(), truth)
    double = ClipLoader(tiny_store, [0], frames=100, batch=1, window=50, labels=True).batch(0)
    assert double["valid"].tolist() == [60] and np.array_equal(double["labels"][0, :60:2].numpy(), truth)
    inside = ClipLoader(tiny_store, [5], frames=50, batch=1, window=50).batch(0)
    assert inside["valid"].tolist() == [50] and "labels" not in inside


def test_padded_clips_are_raw_frames(tiny_store):
    loader = ClipLoader(tiny_store, range(6), frames=70, batch=6, pad=True, labels=True, seed=1)
    starts = set()
    for step in range(20):
        got, (clips, start, _) = loader.batch(step), loader.draw(step)
        assert sorted(clips.tolist()) == list(range(6))
        starts.add(int(start[clips == 5][0]))
        for x, i, valid, s, y in zip(got["x"], got["index"].tolist(), got["valid"].tolist(), start, got["labels"]):
            frames = torch.from_numpy(tiny_store[i].xyz).permute(3, 0, 2, 1)[:, s:s + 70]
            assert valid == min(70, 30 + 20 * i) and torch.equal(x[:, :valid], frames[:, :valid]) and (x[:, valid:] == frames[:, valid - 1:valid]).all()
            assert (y[valid:] == IGNORE).all() and np.array_equal(y[:valid], tiny_store.frame_labels(i)[s:s + valid])
    assert len(starts) > 10 and min(starts) >= 0 and max(starts) <= 60


def test_prefetch_is_the_batches_in_order(tiny_store):
    loader = ClipLoader(tiny_store, range(6), frames=32, batch=4)
    got = list(loader.prefetch(3, 9, 1, 2))
    assert len(got) == 6 and all(torch.equal(g["x"], loader.batch(s, 1, 2)["x"]) for s, g in enumerate(got, 3))
    some = loader.prefetch(0, 1000)
    next(some)
    some.close()
    assert list(loader.prefetch(5, 5)) == []
    with pytest.raises(ParameterError):
        next(loader.prefetch(0, 3, 0, 3))


@pytest.mark.parametrize(
    "wrong",
    [dict(clips=[]), dict(batch=0), dict(frames=0), dict(crop=(0, 1)), dict(crop=(0.9, 0.5)), dict(window=-3), dict(crop=(0.5, 1.5))],
)
def test_impossible_loaders(tiny_store, wrong):
    with pytest.raises(ParameterError) as e:
        ClipLoader(tiny_store, **({"clips": [0], "frames": 8, "batch": 2} | wrong))
    assert e.value.remedy


def work(loader, step):
    return float(loader.batch(step)["x"].double().sum())


def test_a_loader_goes_to_workers(tiny_store):
    loader = ClipLoader(tiny_store, range(6), frames=32, batch=4)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.starmap(work, [(loader, s) for s in range(4)]) == [work(loader, s) for s in range(4)]


def test_the_set_is_not_copied(tmp_path):
    from conftest import make_clip

    from skelnb.data.store import SkeletonStore

    store = SkeletonStore.write(tmp_path / "s", (make_clip(str(i), T=2000, seed=i) for i in range(10)))
    tracemalloc.start()
    loader = ClipLoader(SkeletonStore.open(store.path), range(10), frames=32, batch=4, window=32)
    for step in range(5):
        loader.batch(step)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < store.frames.nbytes / 10  # 6 MB on disk
