"""Clips around annotated actions: against a plain loop, frame by frame, and what cannot be built."""

import numpy as np
import pytest
import torch
from conftest import make_clip
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.data.clip import BACKGROUND
from skelnb.data.seg2clip import SegmentLoader, clip_rows, instances, plan_clips
from skelnb.data.store import SkeletonStore
from skelnb.data.windows import IGNORE
from skelnb.errors import DataError, ParameterError
from skelnb.evaluation.detection import DetectionConfig, detect
from skelnb.methods.usdrl import Usdrl, UsdrlPreset


def one_clip(xyz, labels, start, end, label, draws, F, official):
    "A clip frame by frame. xyz (T, M, V, C), labels (T,) -> (F, M, V, C), (F,)"
    T, (a, b, c, d) = len(xyz), draws
    behind_and_front = int(F * (0.5 + 0.1 * a))
    A, front = F - behind_and_front, int(F * 0.5 * b)
    centre = (start + end) // 2
    if end - start > A + 10:
        lefts = list(range(start, int(centre - A * 0.5 - 1)))
        rights = list(range(int(centre + A * 0.5 + 1), end))
        part = xyz[lefts[int(c * len(lefts))]:rights[int(d * len(rights))]]
    else:
        part = xyz if official else xyz[start:end]
    flat = torch.from_numpy(part.reshape(len(part), -1).T[None].astype(np.float64))
    action = torch.nn.functional.interpolate(flat, size=A, mode="linear", align_corners=False)[0].T.numpy().reshape(A, *xyz.shape[1:])
    before = [max(0, i) for i in range(start - front, start)]
    after = [min(T - 1, i) for i in range(end, end + behind_and_front - front)]
    return np.concatenate([xyz[before], action, xyz[after]]), np.concatenate([labels[before], np.full(A, label), labels[after]])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    "Takes with short and long actions, at the very ends too, two of them back to back."
    plans = [[(0, 20, "wave"), (20, 90, "punch"), (100, 135, "wave")], [(30, 120, "punch")], [(3, 9, "wave"), (40, 41, "punch")]]
    clips = [make_clip(f"take_{i}", 140 - 10 * i, 2, i, segments=plan, subject=f"s{i}") for i, plan in enumerate(plans)]
    return SkeletonStore.write(tmp_path_factory.mktemp("seg2clip") / "store", clips)


@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("frames", [64, 20])
def test_batches_are_those_of_a_plain_loop(store, frames, official):
    loader = SegmentLoader(store, [0, 1, 2], frames=frames, batch=8, seed=3, official=official)
    for step in range(4):
        batch, (which, draws) = loader.batch(step), loader.draw(step)
        for n in range(8):
            clip, start, end, label = (int(column[which[n]]) for column in loader.found)
            x, y = one_clip(store[clip].xyz, store.frame_labels(clip), start, end, label, draws[:, n], frames, official)
            np.testing.assert_allclose(batch["x"][n].permute(1, 3, 2, 0).numpy(), x, atol=2e-5)
            assert batch["labels"][n].tolist() == y.tolist() and batch["index"][n] == clip
        assert batch["x"].shape == (8, 3, frames, 25, 2) and batch["valid"].tolist() == [frames] * 8


def test_golden_shares():
    "With 64 frames: 26 to 32 of action, at most 31 before it, at least one behind."
    n = 50_000
    draws = np.random.default_rng(1).random((4, n))
    plan = plan_clips(np.full(n, 500), np.full(n, 700), np.full(n, 900), draws)
    behind = 64 - plan.front - plan.action
    assert (plan.action.min(), plan.action.max()) == (26, 32) and (plan.front.min(), plan.front.max()) == (0, 31) and behind.min() >= 1
    assert plan.front.mean() == pytest.approx(15.5, abs=0.1) and plan.action.mean() == pytest.approx(29.3, abs=0.1)
    edges = plan_clips(np.full(2, 500), np.full(2, 700), np.full(2, 900), np.array([[0.0, 1 - 1e-9]] * 4))
    assert edges.action.tolist() == [32, 26] and edges.front.tolist() == [0, 31]
    assert edges.left.tolist() == [500, 585] and (edges.left + edges.length).tolist() == [617, 699]


def test_ten_frames_more_than_its_part_and_an_action_is_cut():
    start, end = np.full(2, 100), np.array([142, 143])  # A = 32
    plan = plan_clips(start, end, np.full(2, 500), np.full((4, 2), 0.0))
    assert plan.length[0] == 42 and plan.length[1] == 138 - 100 and plan.left.tolist() == [100, 100]
    assert plan_clips(start, end, np.full(2, 500), np.full((4, 2), 0.0), official=True).length.tolist() == [500, 38]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(0, 200), st.integers(0, 200), st.sampled_from([8, 32, 64]), st.integers(0, 10**6), st.booleans())
def test_a_clip_stays_in_its_recording_and_its_action_in_the_action(length, before, after, frames, seed, official):
    one = lambda v: np.array([v])
    start, end, n = one(before), one(before + length), one(before + length + after)
    plan = plan_clips(start, end, n, np.random.default_rng(seed).random((4, 1)), frames, official)
    lo, hi, w, inside = clip_rows(plan, start, end, n, frames)
    assert 0 <= lo.min() and hi.max() < n and (hi - lo >= 0).all() and ((w >= 0) & (w < 1)).all() and inside.sum() == plan.action
    cut = length > plan.action + 10
    if cut or not official:
        assert (lo[inside] >= start).all() and (hi[inside] < end).all()
    else:
        assert plan.left == 0 and plan.length == n
    if cut:
        middle = (start + end) // 2
        assert plan.left < middle - plan.action // 2 and plan.left + plan.length > middle + plan.action // 2
    outside = ~inside
    assert not w[outside].any() and ((lo < start) | (lo >= end) | (lo == 0) | (lo == n - 1))[outside].all()


def test_each_instance_once_in_an_epoch_and_one_process_sees_what_many_do(store):
    loader = SegmentLoader(store, [0, 1, 2], batch=3, seed=1)
    assert loader.epoch == 2 and sorted(np.concatenate([loader.draw(s)[0] for s in (4, 5)])) == list(range(6))
    assert sorted(np.concatenate([loader.draw(s)[0] for s in (0, 1)])) == list(range(6))
    whole, parts = loader.batch(7), [loader.batch(7, rank, 3) for rank in range(3)]
    assert all(torch.equal(whole[k], torch.cat([p[k] for p in parts])) for k in whole)
    assert all(torch.equal(a["x"], loader.batch(i)["x"]) for i, a in enumerate(loader.prefetch(0, 3)))
    assert not torch.equal(whole["x"], SegmentLoader(store, [0, 1, 2], batch=3, seed=2).batch(7)["x"])
    with pytest.raises(ParameterError, match="batch of 3 cannot be shared by 2"):
        loader.batch(0, 0, 2)


def test_the_bug_changes_short_actions_only(store):
    found = instances(store, [0, 1, 2])
    long = found.end - found.start > 42
    fair, wrong = (SegmentLoader(store, [0, 1, 2], batch=6, official=o).batch(0) for o in (False, True))
    which = SegmentLoader(store, [0, 1, 2], batch=6).draw(0)[0]
    same = (fair["x"] == wrong["x"]).flatten(1).all(1).numpy()
    assert same.tolist() == long[which].tolist() and long.sum() == 2
    assert torch.equal(fair["labels"], wrong["labels"])


def test_what_cannot_be_built_is_said(tmp_path):
    idle = [make_clip("busy", 60, segments=[(5, 30, "wave")]), make_clip("idle", 60, segments=[(0, 60, BACKGROUND)])]
    store = SkeletonStore.write(tmp_path / "idle", idle)
    assert len(instances(store, [0]).clip) == 1
    with pytest.raises(DataError, match="recording 'idle': shows no action"):
        SegmentLoader(store, [0, 1], batch=2)
    full = SkeletonStore.write(tmp_path / "full", [make_clip("a", 60, segments=[(0, 60, "wave")])], classes=("wave",))
    with pytest.raises(DataError, match="no class 'background'"):
        SegmentLoader(full, [0], batch=2)
    for wrong in (dict(frames=4), dict(batch=0)):
        with pytest.raises(ParameterError):
            SegmentLoader(store, [0], **{"batch": 2, **wrong})


def test_unannotated_surroundings_do_not_count(store):
    labels = SegmentLoader(store, [0, 1, 2], batch=6).batch(0)["labels"]
    assert ((labels >= 0) | (labels == IGNORE)).all() and set(labels.unique().tolist()) <= {0, 1, 2, IGNORE}


def test_detection_takes_it_as_its_training_material(store):
    method = Usdrl(UsdrlPreset.named("tiny", frames=16, min_frames=8, persons=2))
    loader = SegmentLoader(store, [0, 1], frames=16, batch=4)
    config = dict(benchmark="pku", window=16, stride=16, readout="frames", recipe="usdrl", training="finetune",
                  overrides=dict(epochs=1, milestones=(), batch=4))
    said = detect(method, store, [0, 1], [2], DetectionConfig.from_dict(config), loader=loader)
    assert said.probabilities["take_2"].shape == (120, 3)
