"""AimCLR: the loss as it is written, the drop, student and teacher, the queue, the releases' weights, and one training on one and on two processes."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import Steps, run_ranks, same_weights
from torch import nn

from skelnb.backbones.agcn import AGCN
from skelnb.errors import CheckpointError, DataError, ParameterError
from skelnb.methods.aimclr import Aimclr, AimclrPreset, attention, attention_drop
from skelnb.methods.momentum import center_persons, load_release, to_release, whole_clips
from skelnb.objectives.processes import share_norms
from skelnb.training.checkpoint import load_weights
from skelnb.training.fit import FitConfig, fit
from skelnb.training.log import read_log
from skelnb.transforms.draws import Draws
from skelnb.transforms.streams import bone, motion

TOY = dict(frames=8, width=2, dim=12, projection=6, queue=20, momentum=0.9, dropout=0.0, queue_start="random")


def make(seed=0, **changes):
    torch.manual_seed(seed)
    return Aimclr(AimclrPreset.named("tiny", **TOY | changes)).train()


def batch(n=6, seed=0, rank=0, world=1):
    "Random walks of 16 frames, some of them shorter; every other clip has one person only."
    draws = Draws(seed, 0, rank, world)
    x = draws.randn(n, 3, 16, 25, 2).cumsum(2) * 0.1 + draws.randn(n, 3, 1, 25, 2)
    index = torch.arange(n) + rank * n
    x[index % 2 == 0, ..., 1] = 0
    return {"x": x, "valid": 12 + index % 5}


# ---- the loss -----------------------------------------------------------------------------------------------------------------------


def as_written(method, views, mining):
    "Loss of AimCLR's release, line by line, from logits of all keys."
    p, U = method.preset, method.bank.queue
    unit = lambda z: F.normalize(z, dim=1)
    q, k = unit(method.embed(views["query"])), method.key(views["key"])
    strong = [unit(z) for z in method.extreme(views["extreme"])]
    logits = [torch.cat([(z * k).sum(1, keepdim=True), z @ U.T], 1) / p.temperature for z in (q, *strong)]
    positive = torch.zeros_like(logits[0])
    positive[:, 0] = 1
    if mining:
        for one in logits:
            positive[:, 1:].scatter_(1, one[:, 1:].topk(1).indices, 1.0)
    first = -(logits[0].log_softmax(1) * positive).sum(1) / positive.sum(1)
    target = logits[0].detach().softmax(1)
    others = [-(target * one.log_softmax(1)).sum(1).mean() for one in logits[1:]]
    return first.mean() + (others[0] + others[1]) / 2


@pytest.mark.parametrize("mining", [False, True])
def test_loss_and_gradient_are_those_of_the_release(mining):
    method, b = make(), batch()
    method.progress = 0.6 if mining else 0.4
    terms, written = method(b, Draws(3)), as_written(method, method.views(b, Draws(3)), mining)
    assert terms["loss"].item() == pytest.approx(written.item(), rel=1e-5)
    weights = [dict(method.named_parameters())[n] for n in ("projector.0.weight", "encoder.blocks.9.temporal.weight", "encoder.norm.weight")]
    ours, theirs = torch.autograd.grad(terms["loss"], weights), torch.autograd.grad(written, weights)
    assert all(g.abs().sum() > 0 for g in ours)
    for a, c in zip(ours, theirs):
        torch.testing.assert_close(a, c, rtol=1e-3, atol=1e-6)


def test_mining_begins_where_the_preset_says():
    method, b = make(mine_from=0.5), batch()
    values = []
    for progress in (0.0, 0.49, 0.5, 0.9):
        method.progress = progress
        values.append(method(b, Draws(0))["info_nce"].item())
    assert values[0] == pytest.approx(values[1]) and values[2] == pytest.approx(values[3]) and values[1] != pytest.approx(values[2], rel=1e-4)


def test_the_drop():
    h = torch.randn(4, 5, 6, 7).relu()
    mean, var = h.mean((2, 3), keepdim=True), h.var((2, 3), keepdim=True)
    torch.testing.assert_close(attention(h), torch.sigmoid((h - mean) ** 2 / (4 * (var + 1e-4)) + 0.5))
    a = attention(h)
    joint = (a.mean((1, 2)) < 0.66).float()[:, None, None]
    single = (a < 0.66).float()
    expected = h * joint * joint.numel() / joint.sum() * single * single.numel() / single.sum()
    torch.testing.assert_close(attention_drop(h, 0.66), expected)
    assert 0 < joint.mean() < 1 and 0 < single.mean() < 1


def test_views_have_draws_of_their_own_and_streams_come_last():
    method, b = make(), batch()
    views = method.views(b, Draws(0, 5))
    assert set(views) == {"query", "key", "extreme"} and not torch.equal(views["query"], views["key"])
    assert all(torch.equal(v, method.views(b, Draws(0, 5))[k]) for k, v in views.items())
    halves = [method.views(batch(3, 0, r, 2), Draws(0, 5, r, 2)) for r in range(2)]
    assert all(torch.equal(torch.cat([h[k] for h in halves]), v) for k, v in views.items())
    for name, f in (("bone", bone), ("motion", motion)):
        assert all(torch.equal(f(views[k]), v) for k, v in make(stream=name).views(b, Draws(0, 5)).items())


def test_every_switch_changes_the_loss():
    b = batch()
    full = make()(b, Draws(0))["loss"].item()
    for changes in (dict(matching=0.0), dict(matching=0.2), dict(drop=False), dict(keep=0.65), dict(mine_from=0.0), dict(ordinary=(1, 2)), dict(extreme=(1,)),
                    dict(sigma=0.5), dict(bugs=True), dict(temperature=0.2), dict(center="none"), dict(center_joint=0), dict(same_start=False),
                    dict(queue=25), dict(pooling="mean_over_M"), dict(init="release"), dict(projection_norm=False), dict(queue_start="empty"),
                    dict(graph="textbook"), dict(teacher_train=False, buffers="copy")):
        assert make(**changes)(b, Draws(0))["loss"].item() != pytest.approx(full, rel=1e-5), changes
    assert set(Aimclr(AimclrPreset.named("skeletonclr", **TOY))(b, Draws(0))) == {"loss", "info_nce", "agreement"}
    late = make(mine_from=0.0)(b, Draws(0))["info_nce"].item()
    assert make(mine_from=0.0, neighbours=3)(b, Draws(0))["info_nce"].item() != pytest.approx(late)


# ---- student, teacher, queue --------------------------------------------------------------------------------------------------------


def test_the_gradient_reaches_the_student_only_and_the_teacher_follows():
    method = make()
    method(batch(), Draws(0))["loss"].backward()
    assert all(w.grad is not None for w in method.student.parameters())
    assert not any(w.requires_grad or w.grad is not None for w in method.teacher.parameters())
    before = copy.deepcopy(method.teacher.state_dict())
    with torch.no_grad():
        for w in method.student.parameters():
            w += 1
    method.after_step(Draws(0), 0.1)
    for name, w in method.teacher.named_parameters():
        torch.testing.assert_close(w, before[name] + 0.1, rtol=1e-4, atol=1e-5)


def test_where_the_teacher_starts_and_what_its_statistics_are():
    for same in (True, False):
        method = make(same_start=same)
        assert all(torch.equal(a, b) for a, b in zip(method.student.parameters(), method.teacher.parameters())) == same
    b = batch()
    for buffers, train in (("none", True), ("copy", True), ("average", False)):
        method = make(buffers=buffers, teacher_train=train)
        start = method.teacher["encoder"].norm.running_mean.clone()
        method(b, Draws(0))
        own = method.teacher["encoder"].norm.running_mean.clone()
        assert torch.equal(start, own) != train
        method.after_step(Draws(0), 0.1)
        now, students = method.teacher["encoder"].norm.running_mean, method.encoder.norm.running_mean
        expected = {"none": own, "copy": students, "average": 0.9 * own + 0.1 * students}[buffers]
        torch.testing.assert_close(now, expected)
    with pytest.raises(ParameterError, match="never change"):
        make(teacher_train=False)


def test_keys_enter_the_queue_with_the_step_and_wrap():
    method, b = make(), batch(8)
    random = method.bank.queue.clone()
    keys = []
    for step in range(3):
        a = method(b, Draws(0, step))["loss"]
        k = method.waiting.clone()
        method.waiting = None
        assert method(b, Draws(0, step))["loss"].item() == pytest.approx(a.item(), rel=1e-6)  # a loss changes no queue
        torch.testing.assert_close(method.waiting, k)
        keys.append(k)
        method.after_step(Draws(0, step), 0.1)
    torch.testing.assert_close(method.bank.queue[:4], keys[2][4:])
    torch.testing.assert_close(method.bank.queue[4:20], torch.cat([keys[0], keys[1], keys[2]])[4:20])
    assert (method.bank.pointer, method.bank.filled) == (4, 20) and not torch.equal(random, method.bank.queue)
    for part in (b, b):  # two parts of one step
        method(part, Draws(0, 9))
    assert len(method.waiting) == 16
    method.after_step(Draws(0), 0.1)
    method.eval()(b, Draws(0))
    with torch.no_grad():
        method.train()(b, Draws(0))
    assert method.waiting is None


def test_an_empty_queue_begins_with_the_first_keys():
    method, b = make(queue_start="empty"), batch(8)
    with torch.no_grad():
        assert not len(method.bank) and torch.isfinite(method(b, Draws(0))["loss"]) and len(method.bank) == 8


def test_another_encoder():
    torch.manual_seed(0)
    method = Aimclr(AimclrPreset.named("tiny", **TOY), encoder=AGCN(width=4))
    method(batch(), Draws(0))["loss"].backward()
    assert method.projector[0].weight.shape == (method.encoder.dim,) * 2
    assert all(w.grad is not None for w in method.student.parameters())


def test_init_from_another_method():
    a, b = make(0), make(1, queue=30)
    b.init_from(a)
    for branch in (b.student, b.teacher):
        assert same_weights(branch.state_dict(), a.student.state_dict())
    with pytest.raises(ParameterError, match="does not fit"):
        make(dim=16).init_from(a)


def test_bf16_is_close_to_float32():
    method, b = make(), batch(16)
    method.progress = 0.9
    mean_loss = lambda: sum(method(b, Draws(seed))["loss"] for seed in range(4)) / 4  # a single draw of this toy is up to 9 % off
    single = mean_loss().item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = mean_loss()
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(single, rel=0.05)
    assert all(torch.isfinite(w.grad).all() for w in method.student.parameters())


# ---- input and features -------------------------------------------------------------------------------------------------------------


def test_clips_are_whole_and_each_person_is_in_a_frame_of_its_own():
    x = batch()["x"]
    y = whole_clips(x[:1], 8, torch.tensor([16]))
    expected = F.interpolate(x[:1].permute(0, 1, 3, 4, 2).flatten(1, 3), 8, mode="linear").unflatten(1, (3, 25, 2)).permute(0, 1, 4, 2, 3)
    torch.testing.assert_close(y, expected)
    c = center_persons(x, 20)
    assert not c[:, :, :, 20].any() and not c[::2, ..., 1].any() and c[1, ..., 1].any()
    torch.testing.assert_close(center_persons(c, 20), c)


def test_features_of_any_length_do_not_see_where_a_person_stands():
    method, x = make().eval(), batch()["x"]
    f = method.features(x)
    assert f.clip.shape == (6, 12) and f.frames.shape == (6, 4, 12) and method.features(x[:, :, :9]).frames.shape == (6, 3, 12)
    there = (x != 0).any(3).any(1)[:, None, :, None]
    torch.testing.assert_close(method.features(torch.where(there, x + 5, 0)).clip, f.clip, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(make(stream="motion").eval().features(x).clip, f.clip, atol=1e-2)


def test_bad_input():
    for x in (torch.zeros(2, 2, 8, 25, 1), torch.zeros(2, 3, 8, 24, 1), torch.zeros(2, 3, 25, 8)):
        with pytest.raises(DataError, match="this Aimclr takes"):
            make()({"x": x}, Draws(0))
    for changes in (dict(temperature=0.0), dict(extreme=(10,)), dict(mine_from=2), dict(keep=1.0), dict(stream="bones"), dict(center_joint=25)):
        with pytest.raises(ParameterError):
            AimclrPreset.named("tiny", **changes)


# ---- the release --------------------------------------------------------------------------------------------------------------------


def test_weights_of_the_release():
    with torch.device("meta"):
        assert sum(w.numel() for w in Aimclr("release").student.parameters()) == 920_068
    a, b = make(0, same_start=False, projection_norm=False), make(1, projection_norm=False)
    a.bank.enqueue(torch.randn(7, 6))
    state = to_release(a)
    assert {"encoder_q.fc.0.weight", "encoder_k.data_bn.running_mean", "encoder_k.st_gcn_networks.4.residual.0.weight", "queue", "queue_ptr"} <= set(state)
    assert state["queue"].shape == (6, 20) and state["encoder_q.fc.2.weight"].shape == (6, 12, 1, 1)
    matrices = {f"module.{k}": v.flatten(1) if "fc" in k and v.ndim == 4 else v for k, v in state.items()}
    load_release(b, matrices)  # AimCLR's projector; ActCLR's has 1 x 1 convolutions
    assert same_weights({k: v for k, v in a.state_dict().items() if k != "bank.place"}, {k: v for k, v in b.state_dict().items() if k != "bank.place"})
    assert b.bank.pointer == 7
    load_release(b, {k.removeprefix("encoder_q."): v for k, v in state.items() if k.startswith("encoder_q.")})
    assert same_weights(b.teacher.state_dict(), b.student.state_dict())
    with pytest.raises(CheckpointError, match="projector does not fit"):
        load_release(b, {k: v for k, v in state.items() if "fc.2" not in k})
    with pytest.raises(CheckpointError):
        load_release(b, {k: v for k, v in state.items() if "networks.3" not in k})


# ---- training -----------------------------------------------------------------------------------------------------------------------


def train(folder, steps, stop=None, **changes):
    "Train the smallest AimCLR; importable, so that other processes can be asked to."
    torch.set_num_threads(1)
    config = FitConfig(steps=steps, batch=8, lr=0.002, optimizer="sgd", weight_decay=1e-4, log_every=1, checkpoint_every=2, device="cpu", precision="32-true")
    method = make(**changes)
    fit(method, Steps(batch, stop), config, folder, progress=False)
    return {"queue": method.bank.queue.tolist(), "norm": method.encoder.norm.running_var.tolist()}


def test_one_and_two_processes_train_the_same(tmp_path):
    settings = {"steps": 3, "mine_from": 1.0}  # whose neighbour is nearest is decided by a hair's breadth
    done = [run_ranks("test_aimclr:train", {"folder": str(tmp_path / str(n)), **settings}, n) for n in (1, 2)]
    logs = [read_log(tmp_path / str(n) / "metrics.jsonl").drop(columns="samples_per_second") for n in (1, 2)]
    names = ["loss", "info_nce", "extreme", "dropped", "agreement"]
    np.testing.assert_allclose(logs[1].iloc[0][names], logs[0].iloc[0][names], rtol=1e-4)
    np.testing.assert_allclose(logs[1]["loss"], logs[0]["loss"], rtol=5e-3)
    for key in ("queue", "norm"):
        np.testing.assert_allclose(done[1][key], done[0][key], rtol=2e-2, atol=2e-3)


def test_interrupted_and_resumed_equals_never_interrupted(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", 5, stop=4, dropout=0.3)
    for folder in ("cut", "whole"):
        train(tmp_path / folder, 5, dropout=0.3)
    a, b = (load_weights(Path(tmp_path) / folder / "checkpoint.safetensors").tensors for folder in ("cut", "whole"))
    assert same_weights(a, b)


def test_norms_are_torchs_on_one_process():
    x, plain = torch.randn(6, 4, 5, 3), nn.BatchNorm2d(4)
    shared = share_norms(nn.Sequential(nn.BatchNorm2d(4)))
    assert type(shared[0]) is not nn.BatchNorm2d and torch.equal(shared(x), plain(x)) and list(shared.state_dict())[0] == "0.weight"
