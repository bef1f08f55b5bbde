"""The two protocols of temporal action segmentation: labels of units, the linear probe, fine-tuning, and the way back to takes."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import make_clip
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.data.store import SkeletonStore
from skelnb.data.synthetic import synthesize_untrimmed
from skelnb.data.windows import IGNORE
from skelnb.errors import DataError
from skelnb.evaluation.features import RawCoordinates, Windows, cut, extract
from skelnb.evaluation.segmentation import (
    FinetuneConfig,
    LinearConfig,
    LinearProbe,
    Segmenter,
    finetune,
    pool_joints,
    predict,
    predict_linear,
    score,
    to_takes,
    train_linear,
    unit_labels,
    window_labels,
)
from skelnb.methods.lode import Lode, LodePreset
from skelnb.training.schedule import parameter_groups
from skelnb.transforms.draws import Draws

# ---- labels -------------------------------------------------------------------------------------------------------------------------


def test_unit_labels_goldens():
    for frames, label in (([1, 1, 2, 1], 1), ([1, 1, 2, 2], 2), ([2, 2, 1, 1], 1), ([1, 2, 1, 2], 1), ([1, 2, 3, 4], 3), ([3, 2, 2, 3], 2),
                          ([1, 1, IGNORE, IGNORE], IGNORE), ([1, 1, 1, IGNORE], 1), ([0, 5, 5, 5], 5)):
        assert unit_labels(np.array(frames), 4).tolist() == [label], frames
    assert unit_labels(np.arange(6), 1).tolist() == list(range(6)) and unit_labels(np.array([[7, 7, 7, 1, 1, 1]]), 3).tolist() == [[7, 1]]


@given(st.integers(1, 6), st.lists(st.integers(0, 3), min_size=1, max_size=24))
def test_a_units_label_is_one_of_its_most_frequent(unit, frames):
    frames = np.array(frames[:len(frames) // unit * unit] or [0] * unit)
    for piece, got in zip(frames.reshape(-1, unit), unit_labels(frames, unit)):
        votes = np.bincount(piece, minlength=4)
        assert votes[got] == votes.max()
        if votes[piece[unit // 2]] == votes.max():
            assert got == piece[unit // 2]


@settings(max_examples=25)
@given(st.integers(1, 8), st.data())
def test_window_labels_equal_a_loop(tiny_store, units, data):
    size = 4 * units
    w = cut(tiny_store, [3, 0, 5], size, data.draw(st.integers(1, size)), 4)
    naive = np.full((len(w), size), IGNORE)
    for row, (c, s) in enumerate(zip(w.clip, w.start)):
        label = tiny_store.frame_labels(int(c))
        for t in range(size):
            if s + t < len(label):
                naive[row, t] = label[s + t]
    assert (window_labels(tiny_store, w) == unit_labels(naive, 4)).all()


def test_units_beyond_the_end_are_ignored(tiny_store):
    y = window_labels(tiny_store, cut(tiny_store, [0], 40, 40, 4))  # 30 frames
    assert y.shape == (1, 10) and (y[0, :7] >= 0).all() and (y[0, 7:] == IGNORE).all()  # unit 7: two frames, and two beyond


# ---- the linear probe ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [0, 1, 3, 12])
def test_context_is_a_linear_layer_on_units_side_by_side(context):
    torch.manual_seed(0)
    n, u, d, k, width = 3, 10, 5, 4, 2 * context + 1
    probe, f = LinearProbe(d, k, context).double(), torch.randn(n, u, d, dtype=torch.float64)
    rows = f.flatten(0, 1)
    z = ((rows - rows.mean(0)) / (rows.var(0, unbiased=False) + 1e-6).sqrt()).view(n, u, d)
    side = torch.cat([F.pad(z, (0, 0, context, context))[:, o:o + u] for o in range(width)], -1)
    weight = probe.linear.weight.view(width, k, d).transpose(0, 1).reshape(k, width * d)
    torch.testing.assert_close(probe.train()(f), side @ weight.T + probe.bias)
    assert probe(f).shape == (n, u, k) and len(list(probe.norm.parameters())) == 0


def separable(seed=0, windows=40, units=6, noise=0.3):
    "Features (W, U, 2, 4) whose class is told by joint 1 alone; every fifth unit is ignored."
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, (windows, units))
    f = rng.normal(0, noise, (windows, units, 2, 4))
    f[..., 1, :3] += np.eye(3)[y]
    y[rng.random(y.shape) < 0.2] = IGNORE
    return f.astype(np.float16), y


def test_the_probe_learns_and_a_seed_repeats_it():
    f, y = separable()
    config = LinearConfig(epochs=30, batch=16, lr=0.1)
    probes = [train_linear(f, y, 3, LinearConfig(**{**vars(config), "seed": s})) for s in (0, 0, 1)]
    state = torch.get_rng_state()
    train_linear(f, y, 3, LinearConfig(epochs=2, dropout=0.5))
    assert torch.equal(state, torch.get_rng_state()), "the global generator was moved"
    assert all(torch.equal(a, b) for a, b in zip(probes[0].state_dict().values(), probes[1].state_dict().values()))
    assert not torch.equal(probes[0].linear.weight, probes[2].linear.weight)
    g, z = separable(1)
    right = (probes[0](pool_joints(g)).argmax(-1).numpy() == z)[z != IGNORE].mean()
    assert right > 0.9 and not probes[0].training


def test_ignored_units_teach_nothing():
    f, y = separable()
    f[y == IGNORE] = 0  # BatchNorm sees them, the loss does not
    wrong = np.where(y == IGNORE, IGNORE, y)
    batch = LinearConfig(epochs=3, batch=1000, lr=0.1)
    a = train_linear(f, wrong, 3, batch)
    y[0] = IGNORE
    b = train_linear(f, y, 3, batch)
    assert not torch.equal(a.linear.weight, b.linear.weight)
    nothing = train_linear(f, np.full_like(y, IGNORE), 3, batch)
    start = train_linear(f, y, 3, LinearConfig(epochs=0, batch=1000))
    assert torch.equal(nothing.linear.weight, start.linear.weight), "windows without any label moved the weights"


def test_joints_side_by_side_or_averaged():
    f, y = separable()
    assert pool_joints(f).shape == (40, 6, 8) and pool_joints(f, "mean").shape == (40, 6, 4)
    torch.testing.assert_close(pool_joints(f)[..., 4:], torch.from_numpy(f[..., 1, :]).float())
    probe = train_linear(f, y, 3, LinearConfig(epochs=1, joints="mean"))
    w = Windows(np.arange(40), np.zeros(40, int), 24, 4, {c: 24 for c in range(40)})
    assert predict_linear(probe, f, w, "mean")[3].shape == (24, 3)


# ---- back to takes ------------------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.integers(1, 6), st.data())
def test_takes_are_the_mean_over_windows(tiny_store, units, data):
    size = 4 * units
    w = cut(tiny_store, [2, 0], size, data.draw(st.integers(1, size)), 4)
    p = np.random.default_rng(0).dirichlet(np.ones(3), (len(w), units)).astype(np.float32)
    takes = to_takes(p, w)
    assert list(takes) == [2, 0]
    for c, got in takes.items():
        want, seen = np.zeros((w.lengths[c], 3)), np.zeros((w.lengths[c], 1))
        for row in w.of(c):
            for t in range(size):
                if w.start[row] + t < w.lengths[c]:
                    want[w.start[row] + t] += p[row, t // 4]
                    seen[w.start[row] + t] += 1
        np.testing.assert_allclose(got, want / seen, atol=1e-6)


def test_the_whole_linear_protocol_beats_chance_on_unseen_takes(tmp_path):
    store = SkeletonStore.write(tmp_path / "takes", synthesize_untrimmed(14, actions=("wave", "kick", "squat"), seed=0))
    w = {k: cut(store, v, 32, 16, 4) for k, v in dict(train=range(10), test=range(10, 14)).items()}
    f = {k: extract(RawCoordinates(), store, v) for k, v in w.items()}
    probe = train_linear(f["train"], window_labels(store, w["train"]), len(store.classes), LinearConfig(epochs=15, batch=32, context=1))
    p = predict_linear(probe, f["test"], w["test"])
    truth = {c: store.frame_labels(c) for c in p}
    assert all(p[c].shape == (len(truth[c]), len(store.classes)) for c in truth)
    assert all(np.allclose(v.sum(1), 1, atol=1e-5) for v in p.values())
    often = max(np.mean(np.concatenate(list(truth.values())) == k) for k in range(len(store.classes)))
    assert score(p, truth)["acc"] > 100 * often + 10
    again = predict_linear(probe, f["test"], w["test"], batch=3)
    assert all(np.allclose(p[c], again[c], atol=1e-6) for c in p)


# ---- scores -------------------------------------------------------------------------------------------------------------------------

TRUTH = {7: np.repeat([0, 1, 0, 2], [5, 10, 4, 11]), 9: np.repeat([2, 1, 0], [8, 9, 3])}
MAPS = {f"map_{v}@{t}{tag}" for v in "av" for t in (0.1, 0.3, 0.5) for tag in ("", "_official")}


def test_a_perfect_prediction_scores_100_everywhere():
    result = score({c: np.eye(3)[y] for c, y in TRUTH.items()}, TRUTH)
    assert result.keys() == {"acc", "edit", "f1@10", "f1@25", "f1@50"} | MAPS and set(result.values()) == {100.0}
    assert set(score({c: np.eye(3)[y] for c, y in TRUTH.items()}, TRUTH, background=None).values()) == {100.0}


def test_background_everywhere_scores_its_share():
    result = score({c: np.eye(3)[np.zeros_like(y)] for c, y in TRUTH.items()}, TRUTH)
    assert result.pop("acc") == pytest.approx(100 * 12 / 50)
    assert set(result.values()) == {0.0}


def test_a_class_that_nobody_performs_does_not_count_in_the_corrected_mode():
    result = score({c: np.eye(4)[y] for c, y in TRUTH.items()}, TRUTH)
    assert result["map_a@0.5"] == 100 and result["map_v@0.5"] == 100


def test_a_late_prediction_is_judged_by_its_overlap():
    late = {c: np.eye(3)[np.roll(y, 2)] for c, y in TRUTH.items()}
    result = score(late, TRUTH)
    wrong = sum((np.roll(y, 2) != y).sum() for y in TRUTH.values())
    assert result["acc"] == pytest.approx(100 * (1 - wrong / 50)) and result["map_a@0.5"] <= result["map_a@0.1"]


def test_probabilities_that_are_not_numbers_are_refused():
    p = {c: np.eye(3)[y] for c, y in TRUTH.items()}
    p[9][4] = np.nan
    with pytest.raises(DataError, match="not finite"):
        score(p, TRUTH)


# ---- fine-tuning --------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(tiny_store):
    torch.manual_seed(0)
    method = Lode(LodePreset.named("tiny", frames=16, dim=16, mlp=32))
    before = copy.deepcopy(method.state_dict())
    config = FinetuneConfig(epochs=2, batch=8, warmup_epochs=1, hidden=12, lr=1e-2)
    models = [finetune(method, tiny_store, [0, 1, 3, 4], config, device="cpu") for _ in range(2)]
    assert all(torch.equal(v, method.state_dict()[k]) for k, v in before.items()), "the encoder that was given has changed"
    assert [b.rate for b in method.encoder.blocks] == [0, 0]
    return method, models


def test_fine_tuning_trains_a_copy_and_a_seed_repeats_it(tuned):
    method, (one, two) = tuned
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values()))
    moved = {k for k, w in one.encoder.named_parameters() if not torch.equal(w, method.encoder.get_parameter(k))}
    assert moved == {k for k, _ in one.encoder.named_parameters()}
    assert [b.rate for b in one.encoder.blocks] == pytest.approx([0, 0.3]) and not one.training


def test_a_fine_tuned_model_predicts_every_frame(tuned, tiny_store):
    model = tuned[1][0]
    p = predict(model, tiny_store, cut(tiny_store, [2, 5], 16, 8, 4), batch=3)
    assert {c: v.shape for c, v in p.items()} == {2: (70, 3), 5: (130, 3)} and all(np.allclose(v.sum(1), 1, atol=1e-5) for v in p.values())


def test_fine_tuning_resumes_in_its_folder(tiny_store, tmp_path):
    method = Lode(LodePreset.named("tiny", frames=16, dim=16, mlp=32))
    config = FinetuneConfig(epochs=1, batch=8, warmup_epochs=0, hidden=12)
    first = finetune(method, tiny_store, [3, 4], config, folder=tmp_path / "run", device="cpu")
    again = finetune(method, tiny_store, [3, 4], config, folder=tmp_path / "run", device="cpu")  # finished: read, not trained
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values()))


def segmenter(**changes):
    torch.manual_seed(0)
    p = LodePreset.named("tiny", frames=16, dim=16, mlp=32, depth=3)
    return Segmenter(Lode(p).encoder, 3, FinetuneConfig(hidden=12, **changes))


def test_layer_decay_groups():
    model = segmenter()
    scale = {id(w): g["lr_scale"] for g in parameter_groups(model, 0.05, 0.8) for w in g["params"]}
    assert len(scale) == len(list(model.parameters()))
    for name, w in model.named_parameters():
        block = name.split("blocks.")
        above = 3 - int(block[1][0]) if len(block) > 1 else 4 if "embedding" in name or "positions" in name else 0
        assert scale[id(w)] == pytest.approx(0.8 ** above), name
    decay = {id(w): g["weight_decay"] for g in parameter_groups(model, 0.05, 0.8) for w in g["params"]}
    assert all((decay[id(w)] == 0) == (w.ndim < 2) for w in model.parameters())


def test_frames_without_a_label_do_not_count():
    model = segmenter(dropout=0.0, drop_path=0.0).eval()
    x, y = torch.randn(4, 3, 16, 25, 1), torch.randint(0, 3, (4, 16))
    y[:, 8:] = IGNORE
    assert model.logits(x).shape == (4, 4, 3)
    model.config.rotation = 0.0
    part = model.losses({"x": x, "labels": y}, Draws(0))["loss"]
    logits = model.logits(x - x[:, :, :1, 1:2])[:, :2]  # the origin at the spine, the units that have a label
    want = F.cross_entropy(logits.flatten(0, 1), torch.as_tensor(unit_labels(y.numpy(), 4))[:, :2].flatten(), label_smoothing=0.1)
    torch.testing.assert_close(part, want)


def test_two_persons_are_averaged_before_the_head(tmp_path):
    model = segmenter().eval()
    store = SkeletonStore.write(tmp_path / "s", [make_clip("a", 32, 2, 0, segments=[(3, 20, "wave")])])
    w = cut(store, [0], 16, 16, 4)
    assert predict(model, store, w)[0].shape == (32, 3)
    x = torch.randn(2, 3, 16, 25, 1)
    with torch.no_grad():
        torch.testing.assert_close(model.logits(torch.cat([x, torch.zeros_like(x)], -1)), model.logits(x), rtol=1e-4, atol=1e-5)
