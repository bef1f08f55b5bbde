"""Windows over takes, and what an encoder says of them, kept on the disk."""

import numpy as np
import pytest
import torch
from conftest import make_clip
from hypothesis import given
from hypothesis import strategies as st

from skelnb.backbones.features import Features
from skelnb.data.store import SkeletonStore
from skelnb.data.windows import gather
from skelnb.errors import DataError
from skelnb.evaluation.features import RawCoordinates, cut, extract, ler_of
from skelnb.methods.lode import Lode


class Encoder(torch.nn.Module):
    "Tokens that are a function of the window alone; counts its calls, and raises at one of them."

    def __init__(self, fail_at=None, value=None):
        super().__init__()
        self.calls, self.fail_at, self.value = 0, fail_at, value

    def features(self, x):
        assert not torch.is_grad_enabled() and not self.training
        self.calls += 1
        if self.calls == self.fail_at:
            raise RuntimeError("the machine caught fire")
        tokens = x[..., 0].unflatten(2, (-1, 4)).permute(0, 2, 4, 3, 1).flatten(3)
        return Features.from_tokens(tokens if self.value is None else torch.full_like(tokens, self.value))


@pytest.fixture(scope="module")
def windows(tiny_store):
    return cut(tiny_store, range(len(tiny_store)), size=40, stride=24, unit=4)


# ---- windows ------------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 5), min_size=1, unique=True), st.integers(1, 12), st.data())
def test_every_frame_lies_in_a_window_of_its_take(tiny_store, clips, units, data):
    size = 4 * units
    stride = data.draw(st.integers(1, size))
    w = cut(tiny_store, clips, size, stride, 4)
    assert len(w) == len(w.clip) == len(w.start) and list(w.lengths) == clips
    for c in clips:
        n, starts = 30 + 20 * c, w.start[w.of(c)]
        assert w.lengths[c] == n and starts[-1] == max(n - size, 0)
        seen = np.zeros(max(n, size), int)
        for s in starts:
            seen[s:s + size] += 1
        assert seen.all() and (np.diff(starts) > 0).all() and (np.diff(starts) <= stride).all()


def test_takes_keep_their_order_and_no_takes_are_no_windows(tiny_store):
    w = cut(tiny_store, [4, 1], 40, 40, 4)
    assert w.clip.tolist() == [4, 4, 4, 1, 1] and w.start.tolist() == [0, 40, 70, 0, 10]
    assert len(cut(tiny_store, [], 40, 40, 4)) == 0
    with pytest.raises(DataError, match="42 frames does not divide into units of 4"):
        cut(tiny_store, [0], 42, 10, 4)


def test_a_short_take_is_continued_with_its_last_frame(tiny_store, windows):
    short = extract(Encoder(), tiny_store, windows)[windows.of(0)]  # 30 frames in a window of 40
    last = tiny_store[0].xyz[-1, 0]
    tail = short[0].reshape(10, 25, 4, 3).transpose(0, 2, 1, 3).reshape(40, 25, 3)[29:]
    np.testing.assert_allclose(tail, np.broadcast_to(last, tail.shape), atol=4e-3)


# ---- extraction ---------------------------------------------------------------------------------------------------------------------


def test_extraction_does_not_depend_on_the_batch(tiny_store, windows, tmp_path):
    torch.manual_seed(0)
    encoder = Lode("tiny")
    w = cut(tiny_store, [0, 1, 2], size=32, stride=16, unit=4)
    whole, parts = extract(encoder, tiny_store, w), extract(encoder, tiny_store, w, tmp_path / "f.npy", batch=3)
    assert isinstance(parts, np.memmap) and not parts.flags.writeable and parts.dtype == np.float16
    assert whole.shape == parts.shape == (len(w), 8, 25, 48)
    np.testing.assert_allclose(whole, parts, atol=4e-3)
    said = []
    exact = [extract(Encoder(), tiny_store, windows, batch=b, progress=lambda *n: said.append(n)) for b in (1, 7, 64)]
    assert (exact[0] == exact[1]).all() and (exact[0] == exact[2]).all()
    assert said[-1] == (len(windows), len(windows)) and said[0] == (1, len(windows))


def test_extraction_says_what_the_encoder_says(tiny_store, windows):
    torch.manual_seed(0)
    encoder = Lode("tiny").eval()
    w = cut(tiny_store, [4], size=32, stride=16, unit=4)  # two persons
    x = gather(tiny_store, w.clip, w.start, np.full(len(w), 32), 32)
    with torch.no_grad():
        np.testing.assert_allclose(extract(encoder, tiny_store, w), encoder.features(x).tokens.numpy(), atol=4e-3)


def test_a_failed_extraction_leaves_nothing(tiny_store, windows, tmp_path):
    with pytest.raises(RuntimeError, match="fire"):
        extract(Encoder(fail_at=3), tiny_store, windows, tmp_path / "f.npy", batch=4)
    assert list(tmp_path.iterdir()) == []
    before = extract(Encoder(), tiny_store, windows, tmp_path / "f.npy").copy()
    with pytest.raises(RuntimeError):
        extract(Encoder(fail_at=2, value=1.0), tiny_store, windows, tmp_path / "f.npy", batch=4)
    assert [p.name for p in tmp_path.iterdir()] == ["f.npy"] and (np.load(tmp_path / "f.npy") == before).all()


def test_nothing_to_encode(tiny_store):
    with pytest.raises(DataError, match="no windows to encode.*\n?.*split is empty"):
        extract(Encoder(), tiny_store, cut(tiny_store, [], 40, 40, 4))


def test_raw_coordinates(tiny_store):
    raw = RawCoordinates(unit=4, joint=1, mode="frame")
    x = gather(tiny_store, np.array([0, 4]), np.array([0, 10]), np.array([24, 24]), 24)
    f = raw.features(x)
    assert f.tokens.shape == (2, 6, 25, 12) and not f.tokens[0, :, 1].any()  # the origin, in every frame
    torch.testing.assert_close(f.clip, f.tokens.mean((1, 2)))
    alone = raw.features(x[:1, ..., :1])  # take 0 has no second person
    torch.testing.assert_close(f.tokens[:1], alone.tokens)
    frames = f.tokens.unflatten(-1, (4, 3))[1].permute(0, 2, 1, 3).flatten(0, 1)  # (T, V, C): the mean of two persons
    both = x[1].permute(3, 1, 2, 0)  # (M, T, V, C)
    torch.testing.assert_close(frames, (both - both[:1, :, 1:2]).mean(0))


# ---- the rank -----------------------------------------------------------------------------------------------------------------------


def test_ler_bounds_and_goldens():
    rng = np.random.default_rng(0)
    few, many = rng.normal(size=(5, 2, 3, 20)), rng.normal(size=(5, 10, 9, 20))
    assert 1 <= ler_of(few) <= 6 and 10 < ler_of(many) <= 20
    assert ler_of(np.ones((3, 4, 5, 6), np.float16)) == pytest.approx(1)
    assert ler_of(np.eye(6, dtype=np.float16).reshape(1, 2, 3, 6)) == pytest.approx(6)
    assert ler_of(np.zeros((3, 4, 5, 6))) == 1


def test_ler_looks_at_evenly_spaced_windows():
    f = np.concatenate([np.broadcast_to(np.ones(6), (50, 2, 3, 6)), np.broadcast_to(np.eye(6).reshape(2, 3, 6), (50, 2, 3, 6))])
    assert ler_of(f, limit=4) == ler_of(f, limit=1000) == pytest.approx(3.5)


def test_features_that_are_not_numbers_are_not_hidden(tiny_store, windows):
    assert np.isnan(ler_of(extract(Encoder(value=np.nan), tiny_store, windows)))


def test_a_person_who_comes_later_is_seen(tmp_path):
    clip = make_clip("late", 32, 2, 0)
    clip.xyz[:16, 1] = 0
    store = SkeletonStore.write(tmp_path / "store", [clip])
    w = cut(store, [0], 16, 16, 4)
    f = extract(RawCoordinates(mode="none"), store, w).reshape(2, 4, 25, 4, 3).transpose(0, 1, 3, 2, 4).reshape(32, 25, 3)
    np.testing.assert_allclose(f[:16], clip.xyz[:16, 0], atol=4e-3)
    np.testing.assert_allclose(f[16:], clip.xyz[16:].mean(1), atol=4e-3)
