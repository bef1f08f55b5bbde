"""Fine-tuning: five recipes in steps, what is trained and how fast, who chooses, few labels, other skeletons, and what is refused."""

import copy

import numpy as np
import pytest
import torch
from helpers import run_ranks
from helpers_finetune import SHORT, small, tune
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import skelnb.evaluation.finetune as finetune
from skelnb.backbones.features import Features
from skelnb.backbones.vit import SkeletonViT
from skelnb.data.clip import Clip
from skelnb.data.labelled import add_labelled, draw_labelled, list_file
from skelnb.data.store import SkeletonStore
from skelnb.data.synthetic import make_store
from skelnb.data.windows import gather
from skelnb.errors import CheckpointError, DataError, ParameterError
from skelnb.evaluation.examples import Outcome
from skelnb.evaluation.features import RawCoordinates
from skelnb.evaluation.finetune import (
    ClipClassifier,
    FinetuneClips,
    LabelledClips,
    Task,
    Watched,
    class_scores,
    finetune_clips,
    middle,
    plan,
    semi_supervised,
    trainable_copy,
    turned,
    untrained,
)
from skelnb.methods.base import Method
from skelnb.methods.usdrl import Usdrl
from skelnb.topology import layouts, map_joints
from skelnb.training.fit import FitConfig, fit
from skelnb.training.schedule import layer_ids, parameter_groups
from skelnb.transforms.draws import Draws
from skelnb.transforms.temporal import center_crop_resize

ACTIONS = ("clap", "jump", "kick", "squat")
CONFIG = FinetuneClips(**SHORT)
PLAIN = dict(head="linear", readout="clip", layer_decay=None, dropout=0.0, smoothing=0.0, rotation=0.0, crop=(1.0, 1.0), keep=1.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("finetune") / "store", 48, actions=ACTIONS, subjects=6, frames=(20, 30))


def run(store, encoder=None, config=CONFIG, selection="last", **more):
    clips = {"train_clips": store.split("split", "train"), "test_clips": store.split("split", "test")} | more
    return finetune_clips(small() if encoder is None else encoder, store, config=config, selection=selection, device="cpu", **clips)


# ---- recipes ------------------------------------------------------------------------------------------------------------------------


def test_recipes_on_ntu60():
    "X-sub has 40,091 training clips; 400 are 1 % of it."
    mamp, actclr, usdrl, slim = (FinetuneClips.named(name) for name in ("mamp", "actclr", "usdrl_semi", "slim_semi"))
    p = plan(mamp, 40_091, "cpu")
    assert (p.steps, p.warmup, p.batch, p.lr, p.min_lr, p.layer_decay, p.betas) == (83_523, 4176, 48, 3e-4, 1e-5, 0.8, (0.9, 0.999))
    assert FinetuneClips.named("lode").to_dict() | {"batch": 48} == mamp.to_dict() == FinetuneClips().to_dict()
    p = plan(actclr, 40_091, "cpu")
    assert (p.steps, p.milestones, p.nesterov, p.weight_decay, p.decay_all) == (25_057, (3132, 9396, 15_661), True, 1e-4, True)
    assert [f"{p.rate(s):.0e}" for s in (0, 3131, 3132, 9396, 25_056)] == ["1e-01", "1e-01", "1e-02", "1e-03", "1e-04"]
    p = plan(usdrl, 400, "cpu")
    assert (p.steps, p.milestones, p.batch, p.nesterov, p.lr * usdrl.backbone) == (312, (156, 250), 128, False, pytest.approx(0.01))
    p = plan(slim, 400, "cpu")
    assert (p.steps, p.batch, p.rate(0), p.rate(10_000), p.lr * slim.backbone) == (20_000, 256, 1e-3, pytest.approx(5e-4), pytest.approx(1e-5))
    assert plan(slim, 53, "cpu").batch == 53, "fewer clips than a batch: all of them in every step"


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(list(FinetuneClips.presets())), st.integers(2, 5000), st.integers(0, 400))
def test_a_plan_keeps_its_shape(name, clips, steps):
    config = FinetuneClips.named(name, steps=steps)
    p = plan(config, clips, "cpu")
    assert p.steps == (steps or max(1, round(config.epochs * clips / p.batch))) and p.batch == min(config.batch, clips)
    assert all(abs(m / p.steps - e / config.epochs) <= 1 / p.steps for m, e in zip(p.milestones, config.milestones))
    assert abs(p.warmup / p.steps - config.warmup / config.epochs) <= 1 / p.steps


def test_impossible_recipes_are_refused():
    for wrong, message in ((dict(batch=0), "batch = 0"), (dict(backbone=-1), "backbone"), (dict(smoothing=1), "smoothing"), (dict(keep=0), "keep 0"),
                           (dict(warmup=101), "warmup 101"), (dict(milestones=(100,), schedule="steps"), "milestones"), (dict(rotation=-1), "rotation"),
                           (dict(head="mpl"), "did you mean 'mlp'"), (dict(rotation=(1, 2)), "rotation")):
        with pytest.raises(ParameterError, match=message):
            FinetuneClips(**wrong)
    with pytest.raises(DataError, match="1 clips to learn from"):
        plan(CONFIG, 1)
    assert plan(FinetuneClips(head="linear"), 1).batch == 1


# ---- what is trained, and how fast --------------------------------------------------------------------------------------------------


def test_layers_of_mamp():
    "Embeddings 0, block i -> i + 1, the rest 9; rates .8^(9 - id). The head: 6,400 -> 2,048 -> batch norm -> ReLU -> 60."
    model = ClipClassifier(SkeletonViT(dim=256 // 64, heads=2, mlp=8), torch.randn(2, 3, 120, 25, 1), 60, FinetuneClips(hidden=32))
    ids, seen = layer_ids(model), set()
    scales = {id(p): g["lr_scale"] for g in parameter_groups(model, 0.05, 0.8, lr_scale=model.lr_scale) for p in g["params"]}
    for name, p in model.named_parameters():
        block = name.split("blocks.")
        want = int(block[1][0]) + 1 if len(block) > 1 else 0 if "embedding" in name or "positions" in name else 9
        assert ids[name] == want and scales[id(p)] == pytest.approx(0.8 ** (9 - want)), name
        seen.add(want)
    assert seen == set(range(10)) and [type(m).__name__ for m in model.head] == ["Dropout", "Linear", "BatchNorm", "ReLU", "Linear"]
    assert model.head[1].in_features == 25 * 4 and model.head[0].p == 0.3 and [b.rate for b in model.encoder.blocks] == pytest.approx(np.linspace(0, 0.3, 8))


class Steps(ClipClassifier):
    "Remembers how far every parameter moved in the step, per unit of gradient."

    def losses(self, batch, draws):
        self.was = {k: p.detach().clone() for k, p in self.named_parameters()}
        return super().losses(batch, draws)

    def after_step(self, draws, progress):
        super().after_step(draws, progress)
        self.moved = {k: float((p - self.was[k]).norm() / p.grad.norm()) for k, p in self.named_parameters() if p.grad is not None and p.grad.norm() > 1e-6}


def one_step(store, config):
    "A step of plain SGD with a rate of 1."
    torch.manual_seed(0)
    task, clips = Task(store), store.split("split", "train")
    model = Steps(small(), middle(store, clips[:2], 16), len(store.classes), config)
    fit(model, LabelledClips(task, clips, config, 16, 8), FitConfig(steps=1, batch=8, lr=1, optimizer="sgd", momentum=0, weight_decay=0, schedule="steps",
                                                                   layer_decay=config.layer_decay, device="cpu", precision="32-true"), progress=False)
    return model


def test_updates_are_scaled_by_layer_and_by_part(store):
    model = one_step(store, CONFIG)
    ids = layer_ids(model)
    assert len(model.moved) > 20 and {ids[k] for k in model.moved} == {0, 1, 2, 3}
    for name, ratio in model.moved.items():
        assert ratio == pytest.approx(0.8 ** (3 - ids[name]), rel=1e-3), name
    model = one_step(store, FinetuneClips(**SHORT | dict(layer_decay=None, backbone=0.01)))
    for name, ratio in model.moved.items():
        assert ratio == pytest.approx(0.01 if name.startswith("encoder.") else 1.0, rel=2e-2), name


class Xor(nn.Module):
    "A clip's vector from one hidden layer; batch norm, and parameters that nothing depends on."

    frames = 4

    def __init__(self):
        super().__init__()
        self.hidden, self.norm = nn.Linear(6, 16), nn.BatchNorm1d(16)
        with torch.no_grad():
            self.hidden.weight[:, 1:] *= 0.02  # it sees little but the first joint
        self.idle, self.queue = nn.Linear(6, 1000), nn.Parameter(torch.zeros(3))

    def features(self, x):
        z = torch.relu(self.norm(self.hidden(x[..., :2, 0].mean(2).flatten(1))))
        return Features(z, z[:, None])


@pytest.fixture(scope="module")
def crossed(tmp_path_factory):
    "Two classes: the first two joints are moved along x in the same direction, or in opposite ones. No number alone tells them apart."
    rng, clips = np.random.default_rng(0), []
    for i in range(160):
        a, b = rng.choice([-1, 1], 2)
        xyz = rng.normal(0, 0.05, (5, 1, 25, 3))
        xyz[:, 0, 0, 0] += a
        xyz[:, 0, 1, 0] += b
        clips.append(Clip(xyz, 30, "kinect_v2", f"c{i:03d}", label="same" if a == b else "opposite", subject=f"p{i % 4}"))
    return SkeletonStore.write(tmp_path_factory.mktemp("crossed") / "store", clips, splits={"split": lambda c: "test" if c.subject == "p3" else "train"})


def test_a_trained_encoder_beats_its_frozen_self(crossed):
    torch.manual_seed(3)
    encoder, config = Xor(), FinetuneClips(**SHORT | PLAIN | dict(steps=60, batch=40, lr=0.1, weight_decay=0.0))
    tuned, model = run(crossed, encoder, config)
    frozen, still = run(crossed, encoder, FinetuneClips(**config.to_dict() | dict(backbone=0.0)))
    assert tuned.accuracy > 0.95 > 0.85 > frozen.accuracy, (tuned.accuracy, frozen.accuracy)
    assert model.encoder.idle is None and not model.encoder.queue.requires_grad and encoder.idle is not None
    assert all(torch.equal(v, encoder.state_dict()[k]) for k, v in still.encoder.state_dict().items()), "frozen includes batch norm's averages"
    assert not torch.equal(model.encoder.norm.running_mean, encoder.norm.running_mean)


def test_the_encoder_given_is_untouched(store):
    encoder = small().train()
    encoder.encoder.norm.requires_grad_(False)
    before, flags = copy.deepcopy(encoder.state_dict()), {k: p.requires_grad for k, p in encoder.named_parameters()}
    outcome, model = run(store, encoder)
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items()) and encoder.training and not model.training
    assert all(p.grad is None and p.requires_grad == flags[k] for k, p in encoder.named_parameters())
    moved = {k for k, p in model.encoder.named_parameters() if not torch.equal(p, encoder.get_parameter(k))}
    assert moved == {k for k, _ in model.encoder.named_parameters()} - {"encoder.norm.weight", "encoder.norm.bias"}, "what was frozen stays frozen"
    torch.testing.assert_close(model.features(x := torch.randn(2, 3, 16, 25, 1)).clip, model.encoder.features(x).clip)
    assert isinstance(outcome, Outcome) and outcome.scores.shape == (16, 4) and set(outcome.groups) == {"S03", "S06"}
    assert outcome.settings["protocol"] == "finetune" and outcome.settings["data"] == store.checksum and outcome.notes["steps"] == 8


def test_a_teacher_that_speaks_is_trained():
    class Taught(Method):
        def __init__(self):
            super().__init__()
            self.encoder, self.teacher = nn.Linear(3, 4), nn.Linear(3, 4).requires_grad_(False)
            self.predictor = nn.Linear(4, 4)

        def features(self, x):
            z = self.teacher(x.mean((2, 3, 4)))
            return Features(z, z[:, None])

    clone, width = trainable_copy(Taught(), torch.randn(2, 3, 4, 5, 1))
    assert clone.teacher.weight.requires_grad and clone.encoder is None and clone.predictor is None and width == 4


def test_rotations(store):
    x, config = torch.randn(400, 3, 2, 5, 1), FinetuneClips(rotation=(0.0, 3.0, 0.0), rotation_chance=0.5)
    y = turned(x, config, Draws(0))
    same = (y == x).flatten(1).all(1)
    assert 0.4 < same.float().mean() < 0.6 and torch.allclose(y[:, 1], x[:, 1]) and not torch.allclose(y[:, 0], x[:, 0])
    torch.testing.assert_close(y.norm(dim=1), x.norm(dim=1))
    assert turned(x, FinetuneClips(rotation=0.0), Draws(0)) is x
    model = one_step(store, CONFIG)  # a method that centres: turning before it is turning after it
    x = middle(store, np.arange(4), 16)
    from skelnb.transforms.spatial import center
    a, b = (turned(c, CONFIG, Draws(1)) for c in (x, center(x, 1, "first")))
    torch.testing.assert_close(model.features(a).clip, model.features(b).clip, rtol=1e-3, atol=1e-4)


# ---- clips --------------------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(0, 47), min_size=1, max_size=5), st.integers(1, 40), st.floats(0.3, 1))
def test_test_clips_are_those_of_mamp(store, clips, frames, keep):
    length = np.diff(store.offsets)[clips]
    padded = torch.zeros(len(clips), 3, max(length), 25, 1)
    for i, (c, n) in enumerate(zip(clips, length)):
        padded[i, :, :n] = gather(store, [c], [0], [n], n)[0]
    want = center_crop_resize(padded, torch.as_tensor(length), frames, keep)
    torch.testing.assert_close(middle(store, np.array(clips), frames, keep), want, rtol=1e-4, atol=1e-5)


def test_batches_carry_the_class(store):
    task, clips = Task(store), store.split("split", "train")
    loader = LabelledClips(task, clips, CONFIG, 16, 8)
    for batch in loader.prefetch(0, 3):
        assert batch["x"].shape == (8, 3, 16, 25, 1) and batch["label"].tolist() == store.labels[batch["index"]].tolist()
        assert set(batch["index"].tolist()) <= set(clips.tolist())


def test_scores_do_not_depend_on_the_batch(store):
    model, clips = one_step(store, CONFIG), np.arange(20)
    np.testing.assert_allclose(class_scores(model, store, clips, 16, 7), class_scores(model, store, clips, 16, 64), rtol=1e-4, atol=1e-5)


# ---- who chooses --------------------------------------------------------------------------------------------------------------------


def test_validation_holds_out_people_and_tests_once(store, monkeypatch):
    asked = []

    def spy(model, store, clips, frames, original=class_scores):
        asked.append(set(store.table.subject[clips]))
        return original(model, store, clips, frames)

    monkeypatch.setattr(finetune, "class_scores", spy)
    outcome, model = run(store, config=FinetuneClips(**SHORT | dict(epochs=4, lr=1e-2, held_out=0.25)), selection="validation")
    notes, tested = outcome.notes, {"S03", "S06"}
    assert asked.count(tested) == 1 and asked[-1] == tested and len(asked) == 5 and all(people == set(notes["held_out"]) for people in asked[:-1])
    assert len(notes["held_out"]) == 1 and notes["clips"] == 24 and notes["curve_on"] == "held-out people"
    steps, curve = zip(*notes["curve"])
    assert steps == (3, 6, 9, 12) and notes["chosen"] == steps[int(np.argmax(curve))]
    held = np.flatnonzero(store.table.subject == notes["held_out"][0])
    right = class_scores(model, store, held, 16).argmax(1) == store.labels[held]
    assert right.mean() == pytest.approx(max(curve)), "the model handed back is the chosen one"
    with pytest.raises(DataError, match="1 group"):
        run(store, selection="validation", train_clips=np.flatnonzero(store.table.subject == "S01"))


def test_the_earliest_of_the_best_is_kept(store):
    clips, said, seen = store.split("split", "train"), iter([0.5, 0.75, 0.75, 0.25]), []
    model = Watched(small(), middle(store, clips[:2], 16), 4, CONFIG)

    def judge(m):
        assert not m.training and not torch.is_grad_enabled()
        seen.append(copy.deepcopy({k: v for k, v in m.state_dict().items() if k.startswith(("encoder", "head"))}))
        return next(said)

    model.watch(judge, (2, 3, 5, 6))
    fit(model, LabelledClips(Task(store), clips, CONFIG, 16, 8), FitConfig(steps=6, batch=8, device="cpu", precision="32-true"), progress=False)
    assert model.curve.tolist() == [0.5, 0.75, 0.75, 0.25] and len(seen) == 4
    assert model.choose() == 1 and all(torch.equal(v, model.state_dict()[k]) for k, v in seen[1].items())
    assert any(not torch.equal(v, seen[1][k]) for k, v in seen[2].items())


def test_the_loss(store):
    model = ClipClassifier(small(), middle(store, np.arange(2), 16), 4, FinetuneClips(**SHORT | dict(rotation=0.0, smoothing=0.2))).eval()
    x, y = middle(store, np.arange(6), 16), torch.tensor([0, 1, 2, 3, 0, 1])
    logs = model.logits(x).log_softmax(1)
    soft = torch.full((6, 4), 0.05).scatter(1, y[:, None], 0.85)
    terms = model.losses({"x": x, "label": y}, Draws(0))
    torch.testing.assert_close(terms["loss"], -(soft * logs).sum(1).mean())
    assert float(terms["accuracy"]) == pytest.approx(float((logs.argmax(1) == y).float().mean()))


def test_looking_changes_nothing_and_best_test_says_so(store):
    config = FinetuneClips(**SHORT | dict(epochs=3, lr=3e-2, dropout=0.3))
    last, plain = run(store, config=config)
    best, model = run(store, config=config, selection="best_test")
    assert "curve" not in last.notes and best.notes["last"] == pytest.approx(last.accuracy) and best.selection == "best_test"
    assert best.notes["best"] == best.accuracy == pytest.approx(max(a for _, a in best.notes["curve"]))
    assert best.accuracy >= last.accuracy
    assert best.notes["curve_on"] == "test" and best.notes["chosen"] == next(s for s, a in best.notes["curve"] if a == max(a for _, a in best.notes["curve"]))
    again, other = run(store, config=config)
    assert np.array_equal(last.scores, again.scores), "a seed repeats it"
    with pytest.raises(ParameterError, match="selection = 'test'"):
        run(store, selection="test")


# ---- folders ------------------------------------------------------------------------------------------------------------------------


def test_interrupted_and_resumed_equals_never_interrupted(store, tmp_path, monkeypatch):
    config = FinetuneClips(**SHORT | dict(epochs=3, lr=3e-2, dropout=0.3, drop_path=0.3))
    whole, model = run(store, config=config, selection="best_test")
    with monkeypatch.context() as m:
        def cut(self, step, rank=0, world=1, original=LabelledClips.batch):
            if step == 9:
                raise KeyboardInterrupt
            return original(self, step, rank, world)

        m.setattr(LabelledClips, "batch", cut)
        with pytest.raises(KeyboardInterrupt):
            run(store, config=config, selection="best_test", folder=tmp_path / "run")
    resumed, again = run(store, config=config, selection="best_test", folder=tmp_path / "run")
    assert np.array_equal(whole.scores, resumed.scores) and whole.notes == resumed.notes
    monkeypatch.setattr(LabelledClips, "batch", None)  # a finished folder is read, not trained
    finished, _ = run(store, config=config, selection="best_test", folder=tmp_path / "run")
    assert np.array_equal(whole.scores, finished.scores) and whole.notes == finished.notes
    fewer = store.split("split", "train")[1:]
    for change, message in ((dict(encoder=small(1)), "start: "), (dict(train_clips=fewer), "clips: "), (dict(selection="last"), "selection: "),
                            (dict(config=FinetuneClips(**config.to_dict() | dict(lr=1e-3))), "lr: 0.03 there, 0.001 here")):
        with pytest.raises(CheckpointError, match=message):
            run(store, **dict(config=config, selection="best_test", folder=tmp_path / "run") | change)


def test_two_processes_are_one(store, tmp_path):
    one = tune(str(store.path), str(tmp_path / "one"))
    two = run_ranks("helpers_finetune:tune", {"path": str(store.path), "folder": str(tmp_path / "two")}, 2)
    np.testing.assert_allclose(one["scores"], two["scores"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(one["mean"], two["mean"], rtol=1e-3, atol=1e-5)
    close = {"loss", "train_accuracy"}
    assert {k: v for k, v in one["notes"].items() if k not in close} == {k: v for k, v in two["notes"].items() if k not in close}


def test_bf16_trains_and_answers_in_float32(store):
    exact, half = (run(store, config=FinetuneClips(**SHORT | dict(precision=p)))[0] for p in ("32-true", "bf16-mixed"))
    assert exact.scores.dtype == half.scores.dtype == np.float32 and not np.array_equal(exact.scores, half.scores)
    np.testing.assert_allclose(half.notes["loss"], exact.notes["loss"], rtol=0.05)


# ---- few labels ---------------------------------------------------------------------------------------------------------------------


def test_semi_supervised(store, tmp_path):
    config = FinetuneClips(**SHORT | dict(steps=3))
    done = semi_supervised(small(9), store, config, "split", fraction=0.25, seeds=(0, 1), scratch=True, folder=tmp_path / "runs", device="cpu")
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["pretrained_0", "pretrained_1", "scratch_0", "scratch_1"]
    for outcomes in done.values():
        assert [o.notes["list"]["seed"] for o in outcomes] == [0, 1] == [o.settings["seed"] for o in outcomes]
        assert all(o.notes["clips"] == 8 == o.notes["batch"] and o.notes["steps"] == 3 for o in outcomes), "32 training clips, a quarter of 8 of each class"
    a, b = done["pretrained"], done["scratch"]
    assert [o.settings["clips"] for o in a] == [o.settings["clips"] for o in b] and a[0].settings["clips"] != a[1].settings["clips"]
    assert a[0].settings["start"] == a[1].settings["start"] != b[0].settings["start"] != b[1].settings["start"]
    encoder = RawCoordinates(4)
    with pytest.raises(ParameterError, match="RawCoordinates cannot be made again"):
        semi_supervised(encoder, store, config, "split", fraction=0.25, scratch=True, device="cpu")


def test_a_published_list(tmp_path):
    own = make_store(tmp_path / "own", 24, actions=ACTIONS[:2], subjects=3, frames=(20, 24))
    name = add_labelled(own, "split", "train", 0.25, seed=4)
    config = FinetuneClips(**SHORT | dict(steps=1))
    for source in (name, list_file(own, name), draw_labelled(own, "split", "train", 0.25, 4)):
        outcome, _ = run(own, config=config, labelled=source)
        assert outcome.notes["clips"] == 4
    done = semi_supervised(small(), own, config, "split", lists=[name], device="cpu")
    assert len(done["pretrained"]) == 1 and done["pretrained"][0].notes["list"] == name
    with pytest.raises(DataError, match=r"1 labelled clips are not training clips"):
        run(own, labelled=own.split("split", "test")[:1])


def test_a_class_without_labels(store):
    train = store.split("split", "train")
    outcome, model = run(store, labelled=train[store.labels[train] != 2])
    assert outcome.notes["absent"] == [store.classes[2]] and outcome.scores.shape == (16, 4) and np.isfinite(outcome.scores).all()
    assert (outcome.truth == 2).any() and outcome.per_class().loc[store.classes[2], "clips"] > 0


def test_untrained_is_seeded_and_other():
    method, state = small(5), torch.get_rng_state()
    a, b, c = untrained(method), untrained(method), untrained(method, 1)
    assert torch.equal(state, torch.get_rng_state())
    w, x, y, z = (m.encoder.embedding.proj.weight for m in (method, a, b, c))
    assert torch.equal(x, y) and not torch.equal(x, z) and not torch.equal(w, x)


# ---- other data, other skeletons ----------------------------------------------------------------------------------------------------


def in_layout(store, path, name, channels=3):
    clips = (Clip(map_joints(c.xyz[..., :channels], "kinect_v2", name)[0], c.fps, name, c.name, label=c.label, subject=c.subject,
                  units="m" if channels == 3 else "px") for c in store)
    return SkeletonStore.write(path, clips, splits={"split": store.table["split"]})


@pytest.fixture(scope="module")
def older(store, tmp_path_factory):
    return in_layout(store, tmp_path_factory.mktemp("older") / "store", "kinect_v1")


def test_kinect_v2_encoder_on_kinect_v1_clips(older):
    outcome, model = run(older, layout="kinect_v2")
    x = torch.cat([middle(older, np.arange(3), 16), torch.zeros(3, 3, 16, 20, 1)], -1)
    want = map_joints(x.permute(0, 4, 2, 3, 1), "kinect_v1", "kinect_v2")[0].permute(0, 4, 2, 3, 1)
    torch.testing.assert_close(model.mapped(x), want, rtol=1e-5, atol=1e-6)
    assert not model.mapped(x)[..., 1].any() and model.mapped(x).shape == (3, 3, 16, 25, 2)
    assert {"thumb_left", "hand_tip_right", "neck"} <= set(outcome.notes["imputed"]) and outcome.settings["layout"] == "kinect_v2"
    assert "joints" not in model.state_dict() and outcome.scores.shape == (16, 4)
    named, model = run(older, Usdrl("tiny"), FinetuneClips(**SHORT | PLAIN | dict(steps=1)))  # its preset names its layout
    assert named.notes["imputed"] == outcome.notes["imputed"] and model.joints.shape == (25, 20)


def test_what_does_not_fit_is_said_before_training(store, older, tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "fit", None)
    flat = in_layout(store, tmp_path / "flat", "h36m17", 2)
    one, still = store.split("split", "train"), RawCoordinates(4)
    wrong = store.labels.copy()
    wrong[one[3]] = 4

    class Silent(Xor):
        @torch.no_grad()
        def features(self, x):
            return super().features(x)

    for error, message, target, more in (
        (ParameterError, r"takes 25 joints, layout kinect_v1 has 20\n.*layout='kinect_v2'", older, {}),
        (ParameterError, "takes 25 joints, layout kinect_v1 has 20", older, dict(layout="kinect_v1")),
        (ParameterError, "2 coordinates, the encoder takes 3\n.*do not mix", flat, dict(layout="kinect_v2")),
        (ParameterError, "cannot be rotated", flat, dict(encoder=still, config=FinetuneClips(**SHORT | dict(frames=16)))),
        (DataError, r"class 4 is not one of 0..3", store, dict(labels=wrong)),
        (DataError, r"labels have shape \(3,\) for 48 clips", store, dict(labels=[0, 1, 2])),
        (DataError, r"class 3 is not one of 0..2", store, dict(classes=ACTIONS[:3])),
        (DataError, "1 clips are in training and test", store, dict(test_clips=one[:1])),
        (DataError, r"clips 0..48 to learn from, of a store of 48", store, dict(train_clips=[0, 48])),
        (DataError, "no clips to test", store, dict(test_clips=[])),
        (ParameterError, "gives no tokens\n.*readout = clip", store, dict(encoder=Xor())),
        (ParameterError, "no blocks that could be skipped", store, dict(encoder=still, config=FinetuneClips(frames=16, layer_decay=None))),
        (ParameterError, "how many frames", store, dict(encoder=still, config=FinetuneClips(**SHORT))),
        (ParameterError, "gives no gradient", store, dict(encoder=Silent(), config=FinetuneClips(**SHORT | dict(readout="clip")))),
    ):
        with pytest.raises(error, match=message):
            run(target, **more)
    assert "h36m17" in layouts()


def test_raw_coordinates_and_merged_classes(store):
    "The recipe works on anything with features; classes may be merged."
    config = FinetuneClips(**SHORT | PLAIN | dict(frames=16, steps=2))
    halves = np.array([0, 0, 1, 1])[store.labels]
    outcome, model = run(store, RawCoordinates(4), config, labels=halves, classes=("up", "down"))
    assert outcome.classes == ("up", "down") and outcome.scores.shape == (16, 2) and model.head[-1].in_features == 12
    bare, _ = run(store, SkeletonViT(frames=16, dim=8, depth=1, heads=2, mlp=8))
    assert bare.scores.shape == (16, 4)
