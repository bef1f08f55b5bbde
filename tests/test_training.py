"""The training loop: any number of processes, interrupted anywhere, in any precision, and stopped by a NaN."""

import os
import random
import signal
import time
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import torch
from forks import start
from helpers import Careful, Toy, ToyLoader, same_weights, train
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from skelnb.errors import CheckpointError, DiskError, ParameterError, TrainingError
from skelnb.files import read_json, write_json
from skelnb.methods.base import Preset
from skelnb.progress import MARK, Progress, bar_text
from skelnb.training.checkpoint import load_resume, load_weights, save_resume
from skelnb.training.fit import FitConfig, fit
from skelnb.training.launch import launch
from skelnb.training.log import JsonLog, read_log
from skelnb.training.schedule import cosine, layer_ids, parameter_groups, stepped
from skelnb.transforms.draws import Draws

CPU = dict(batch=8, lr=1e-2, log_every=1, checkpoint_every=3, device="cpu", precision="32-true")


def weights(folder):
    return load_weights(folder / "checkpoint.safetensors").tensors


def log_of(folder):
    return read_log(folder / "metrics.jsonl").drop(columns="samples_per_second")


# ---- processes ----------------------------------------------------------------------------------------------------------------------


def test_one_and_two_processes_train_the_same(tmp_path):
    runs = {n: [tmp_path / f"{n}-{name}" for name in ("1", "5", "sgd")] for n in (1, 2)}
    for n, folders in runs.items():
        result = launch("helpers:train_then_nan", {"folders": [str(f) for f in folders], "steps": [1, 5, 6]}, processes=n)  # `launch` itself, once
        assert result["done"] == [1, 5, 6] and "step 4: loss is nan, fill is nan" in result["error"]
    for one, two in zip(runs[1], runs[2]):
        assert same_weights(weights(one), weights(two), 1e-5)
        pd.testing.assert_frame_equal(log_of(one), log_of(two), rtol=1e-4)
        assert sorted(p.name for p in two.iterdir()) == ["checkpoint.safetensors", "fit.json", "metrics.jsonl"]


def test_processes_that_do_not_fit_are_refused(monkeypatch):
    with pytest.raises(ParameterError, match="devices = 2, but 1 process"):
        fit(Toy(), ToyLoader(), FitConfig(devices=2, **CPU))
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ParameterError, match="cannot be shared by 3"):
        fit(Toy(), ToyLoader(), FitConfig(**CPU))


# ---- resuming -----------------------------------------------------------------------------------------------------------------------


def start_and_kill(folder, steps, after):
    "Train in another process and kill it, without warning, once the log says that step `after` is done."
    process = start("helpers:train", {"folders": [str(folder)], "steps": [steps], "loader": {"wait": 0.02}, "seed": 1})
    while process.is_alive() and not (len(log := read_log(folder / "metrics.jsonl")) and log.step.max() >= after):
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "ended before it could be killed"


def test_killed_twice_and_resumed_equals_never_killed(tmp_path):
    steps, first, second = 60, random.randint(1, 25), random.randint(30, 55)
    for after in (first, second):
        start_and_kill(tmp_path / "killed", steps, after)
    train([tmp_path / "killed"], [steps], seed=1)
    train([tmp_path / "whole"], [steps], seed=1)
    assert same_weights(weights(tmp_path / "killed"), weights(tmp_path / "whole"), 0.0), f"killed after {first} and {second}"
    pd.testing.assert_frame_equal(log_of(tmp_path / "killed"), log_of(tmp_path / "whole"))
    assert [p.name for p in tmp_path.glob("killed/.*")] == [], "a killed writer left its temporary file"


def interrupted(tmp_path, **config):
    "A folder with a checkpoint at step 6 of 10, interrupted at step 8."

    class Cut(ToyLoader):
        def batch(self, step, rank=0, world=1):
            if step == 7:
                raise KeyboardInterrupt
            return super().batch(step, rank, world)

    torch.manual_seed(0)
    with pytest.raises(KeyboardInterrupt):
        fit(Toy(), Cut(), FitConfig(steps=10, **{**CPU, **config}), tmp_path / "run")
    return tmp_path / "run"


def test_log_means_survive_an_interruption(tmp_path):
    folder = interrupted(tmp_path, log_every=5)  # the checkpoint at 6 holds the first step of the second window
    config = FitConfig(steps=10, **{**CPU, "log_every": 5})
    resumed = fit(Toy(), ToyLoader(), config, folder).log
    torch.manual_seed(0)
    whole = fit(Toy(), ToyLoader(), config).log
    assert list(whole.step) == [5, 10]
    pd.testing.assert_frame_equal(*(log.drop(columns="samples_per_second") for log in (resumed, whole)))


def test_another_training_is_refused_and_resume_false_starts_over(tmp_path):
    folder = interrupted(tmp_path)
    with pytest.raises(CheckpointError, match=r"lr: 0.01 there, 0.02 here; seed: 0 there, 5 here") as e:
        fit(Toy(), ToyLoader(), FitConfig(steps=10, **{**CPU, "lr": 0.02, "seed": 5}), folder)
    assert str(folder) in str(e.value) and "resume=False" in str(e.value)
    other = fit(Toy(), ToyLoader(), FitConfig(steps=4, **{**CPU, "lr": 0.02}), folder, resume=False)
    assert list(other.log.step) == [1, 2, 3, 4]
    more_often = FitConfig(steps=4, **{**CPU, "lr": 0.02, "log_every": 2, "checkpoint_every": 1})  # reporting may differ
    assert fit(Toy(), ToyLoader(nan_at=0), more_often, folder).step == 4  # and a finished folder touches no data


OTHERS = {"sgd": dict(optimizer="sgd", nesterov=True, schedule="steps", milestones=(4, 7), warmup=2, decay_all=True),
          "plain sgd": dict(optimizer="sgd", momentum=0.0, weight_decay=0.0),
          "adam": dict(optimizer="adam", betas=(0.9, 0.999), schedule="steps", milestones=(7,), gamma=0.5),
          "adamw": dict(weight_decay=0.04, weight_decay_end=0.2)}


@pytest.mark.parametrize("name", OTHERS)
def test_every_optimiser_resumes(tmp_path, name):
    folder, config = interrupted(tmp_path, **OTHERS[name], clip=0.1), FitConfig(steps=10, **CPU, **OTHERS[name], clip=0.1)
    resumed, whole = Toy(), None
    fit(resumed, ToyLoader(), config, folder)
    torch.manual_seed(0)
    fit(whole := Toy(), ToyLoader(), config)
    assert same_weights(resumed.state_dict(), whole.state_dict())


def test_a_folder_of_an_older_version_is_resumed(tmp_path):
    "Before there were other optimisers, fit.json and the optimiser's groups did not name them."
    folder, new = interrupted(tmp_path), {f for f in FitConfig().to_dict()} - set(OLD)
    write_json(folder / "fit.json", (old := read_json(folder / "fit.json")) | {"fit": {k: v for k, v in old["fit"].items() if k not in new}})
    state = load_resume(folder / "resume.pt")
    for group in state["optimizer"]["param_groups"]:
        del group["frozen_until"], group["clip_group"]
    save_resume(folder / "resume.pt", state)
    with pytest.raises(CheckpointError, match="optimizer: 'adamw' there, 'adam' here"):
        fit(Toy(), ToyLoader(), FitConfig(steps=10, **CPU, optimizer="adam"), folder)
    for method in (Toy(), Toy()):  # resumed, then finished
        fit(method, ToyLoader(), FitConfig(steps=10, **CPU), folder)
        torch.manual_seed(0)
        fit(whole := Toy(), ToyLoader(), FitConfig(steps=10, **CPU))
        assert same_weights(method.state_dict(), whole.state_dict())


OLD = ("steps batch lr min_lr warmup weight_decay betas layer_decay clip precision seed log_every checkpoint_every device devices").split()


def test_a_finished_folder_gives_its_weights(tmp_path):
    torch.manual_seed(1)
    method, fresh = Toy(), Toy()
    fit(method, ToyLoader(), FitConfig(steps=4, **CPU), tmp_path / "run")
    fit(fresh, ToyLoader(), FitConfig(steps=4, **CPU), tmp_path / "run")
    assert same_weights(method.state_dict(), fresh.state_dict()) and not fresh.training


def test_a_damaged_resume_file_says_so(tmp_path):
    folder = interrupted(tmp_path)
    (folder / "resume.pt").write_bytes((folder / "resume.pt").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="resume.pt.*damaged"):
        fit(Toy(), ToyLoader(), FitConfig(steps=10, **CPU), folder)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    folder, writes = tmp_path / "run", []

    def fsync(fd, original=os.fsync):
        writes.append(fd)
        if len(writes) > 3:  # fit.json, then resume and weights of step 3
            raise OSError(28, "No space left on device")
        original(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(DiskError, match="no space left.*\n.*free some space"):
        fit(Toy(), ToyLoader(), FitConfig(steps=10, **CPU), folder)
    monkeypatch.undo()
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint.safetensors", "fit.json", "metrics.jsonl", "resume.pt"]
    assert load_resume(folder / "resume.pt")["step"] == load_weights(folder / "checkpoint.safetensors", Toy()).meta["step"] == 3
    assert fit(Toy(), ToyLoader(), FitConfig(steps=10, **CPU), folder).step == 10


# ---- numbers ------------------------------------------------------------------------------------------------------------------------


def test_bf16_is_close_to_float32():
    logs = {}
    for precision in ("32-true", "bf16-mixed"):
        torch.manual_seed(0)
        method = Toy()
        logs[precision] = fit(method, ToyLoader(), FitConfig(steps=3, **{**CPU, "precision": precision})).log
        assert all(p.dtype == torch.float32 for p in method.parameters())
    np.testing.assert_allclose(logs["bf16-mixed"].loss, logs["32-true"].loss, rtol=2e-2)
    assert (logs["bf16-mixed"].loss != logs["32-true"].loss).any(), "bf16 was not used"


def test_mixed_precision_does_not_round_the_input():
    seen = []

    class Look(Toy):
        def losses(self, batch, draws):
            seen.append(batch["x"].dtype)
            return super().losses(batch, draws)

    fit(Look(), ToyLoader(), FitConfig(steps=1, **{**CPU, "precision": "bf16-mixed"}))
    assert seen == [torch.float32]
    with pytest.raises(ParameterError, match="16-mixed"):
        fit(Toy(), ToyLoader(), FitConfig(steps=1, **{**CPU, "precision": "16-mixed"}))


def test_nan_stops_before_the_weights_are_spoilt(tmp_path):
    method = Toy()
    with pytest.raises(TrainingError, match=r"step 6: loss is nan, fill is nan.*last finite values were: loss \d.*\n.*lower lr"):
        fit(method, ToyLoader(nan_at=5), FitConfig(steps=10, **CPU), tmp_path / "run")
    assert all(v.isfinite().all() for v in method.state_dict().values()) and method.seen == 5
    assert load_resume(tmp_path / "run" / "resume.pt")["step"] == 3


def test_an_infinite_gradient_is_named():
    class Steep(Toy):
        def losses(self, batch, draws):
            terms = super().losses(batch, draws)
            return {**terms, "loss": terms["loss"] + (self.head.bias - self.head.bias.detach()).square().sum().sqrt()}  # d sqrt(0) = inf

    with pytest.raises(TrainingError, match="step 1: grad_norm is nan"):
        fit(Steep(), ToyLoader(), FitConfig(steps=3, **CPU))


def test_what_the_method_is_told():
    told = []

    class Listen(Toy):
        def losses(self, batch, draws):
            told.append((self.progress, draws.step))
            return super().losses(batch, draws)

        def after_step(self, draws, progress):
            assert not torch.is_grad_enabled()
            told.append((progress, draws.step))

    fit(Listen(), ToyLoader(), FitConfig(steps=2, **CPU))
    assert told == [(0.0, 0), (0.5, 0), (0.5, 1), (1.0, 1)]


def test_the_global_generator_is_left_alone():
    method, state = Toy(dropout=0.5), torch.get_rng_state()
    fit(method, ToyLoader(), FitConfig(steps=2, **CPU))
    assert torch.equal(state, torch.get_rng_state())


def test_wrong_batch_is_refused_and_prefetch_is_used_and_closed():
    with pytest.raises(TrainingError, match="gives 8 clips a step, the settings say batch = 16"):
        fit(Toy(), ToyLoader(8), FitConfig(steps=2, **{**CPU, "batch": 16}))
    closed = []

    class Ahead(ToyLoader):
        def prefetch(self, start, stop, rank, world):
            try:
                for s in range(start, stop):
                    yield self.batch(s, rank, world)
            finally:
                closed.append((start, stop))

    with pytest.raises(TrainingError):
        fit(Toy(), Ahead(nan_at=2), FitConfig(steps=5, **CPU))
    assert closed == [(0, 5)]


def test_clipping_scales_the_gradient_but_logs_its_true_norm():
    norms, moments = [], []
    for clip in (0.0, 1e-3):
        torch.manual_seed(0)
        method, seen = Toy(), []
        method.after_step = lambda draws, progress, m=method, seen=seen: seen.append(
            torch.stack([p.grad.norm() for p in m.parameters() if p.requires_grad]).norm().item())
        norms.append(fit(method, ToyLoader(), FitConfig(steps=1, **CPU, clip=clip)).log.grad_norm[0])
        moments.append(seen[0])
    assert norms[0] == norms[1] == pytest.approx(moments[0]) and moments[1] == pytest.approx(1e-3, rel=1e-3)


def test_impossible_settings_are_refused():
    for wrong in (dict(lr=1e-3, min_lr=1e-2), dict(steps=5, warmup=6), dict(log_every=0), dict(precision="fp8"), dict(betas=[0.9])):
        with pytest.raises(ParameterError):
            FitConfig(**wrong)


# ---- optimisers ---------------------------------------------------------------------------------------------------------------------


def by_hand(optimizer, steps, rate, clip=None, toy=Toy):
    "A plain PyTorch loop over the same batches and draws; `optimizer` is made from the parameters, `rate(step)` is the learning rate."
    torch.manual_seed(0)
    method = toy()
    named = dict(method.named_parameters())
    opt = optimizer({k: p for k, p in named.items() if p.requires_grad})
    for step in range(steps):
        draws = Draws(0, step)
        for group in opt.param_groups:
            group["lr"] = rate(step) * group.get("share", 1)
        opt.zero_grad()
        method(ToyLoader().batch(step), draws)["loss"].backward()
        if clip:
            clip(method)
        opt.step()
        with torch.no_grad():
            method.after_step(draws.child("after_step"), (step + 1) / steps)
    return method.state_dict()


def fitted(toy=Toy, **config):
    torch.manual_seed(0)
    method = toy()
    fit(method, ToyLoader(), FitConfig(**{**CPU, "steps": 8, **config}))
    return method.state_dict()


def decayed(named, share):
    return [{"params": [p for p in named.values() if (p.ndim > 1) == thick], "weight_decay": share * thick} for thick in (True, False)]


def test_optimisers_are_those_of_pytorch():
    adamw = by_hand(lambda p: torch.optim.AdamW(decayed(p, 0.05), lr=1e-2, betas=(0.9, 0.95)), 8, lambda s: cosine(s, 8, 0, 1e-2))
    assert same_weights(fitted(), adamw, 1e-7)
    adam = by_hand(lambda p: torch.optim.Adam(p.values(), lr=1e-2, weight_decay=0.1), 8, lambda s: 1e-2 * 0.1 ** (s >= 5))
    settings = dict(weight_decay=0.1, decay_all=True, betas=(0.9, 0.999), schedule="steps", milestones=(5,))
    assert same_weights(fitted(optimizer="adam", **settings), adam, 1e-6)
    assert not same_weights(fitted(optimizer="adamw", **settings), adam, 1e-4), "adam's decay is not adamw's"
    sgd = by_hand(lambda p: torch.optim.SGD(p.values(), lr=1, momentum=0.9, weight_decay=1e-3, nesterov=True), 8, lambda s: 0.1 * 0.5 ** ((s >= 2) + (s >= 4)))
    settings = dict(optimizer="sgd", lr=0.1, nesterov=True, weight_decay=1e-3, schedule="steps", milestones=(2, 4), gamma=0.5)
    assert same_weights(fitted(**settings, decay_all=True), sgd, 1e-6)
    assert not same_weights(fitted(**settings, decay_all=True, momentum=0.8), sgd, 1e-4) and not same_weights(fitted(**settings), sgd, 1e-6)


def test_hooks_reach_the_single_parameter():
    def groups(named):
        slow = [p for k, p in named.items() if k.startswith("encoder.1")]
        late, rest = [p for k, p in named.items() if k.startswith("head")], [p for k, p in named.items() if not k.startswith(("head", "encoder.1"))]
        return torch.optim.SGD([{"params": slow, "share": 0.1}, {"params": late, "share": 0}, {"params": rest}], lr=1, momentum=0.9)

    def clip(method):
        for part in (method.encoder, method.head):
            torch.nn.utils.clip_grad_norm_(part.parameters(), 0.05)

    def first_half(toy):
        "Half of a training, so that the head still stands still."
        torch.manual_seed(0)
        method, seen = toy(), []
        method.register_buffer("kept", torch.zeros(1))
        method.after_step = lambda draws, progress, after=method.after_step: (after(draws, progress / 2), seen.append(
            {k: v.clone() for k, v in method.state_dict().items() if k != "kept"}) if progress == 0.5 else None)
        result = fit(method, ToyLoader(), FitConfig(**CPU, steps=12, optimizer="sgd", schedule="steps", weight_decay=0, clip=0.05))
        return seen[0], method, result.log

    half, method, log = first_half(Careful)

    class Half(Careful):
        def after_step(self, draws, progress):
            super().after_step(draws, progress / 4)

    assert same_weights(half, by_hand(groups, 6, lambda s: 1e-2, clip, Half), 1e-6)
    assert (half["head.weight"] != method.head.weight).any(), "it never began"
    assert log.lr.tolist() == [1e-2] * 12


def test_parts_are_clipped_apart():
    norms = []

    class Look(Careful):
        def after_step(self, draws, progress):
            norms.extend(torch.stack([p.grad.norm() for p in part.parameters()]).norm().item() for part in (self.encoder, self.head))

    log = fit(Look(), ToyLoader(), FitConfig(**CPU, steps=1, clip=1e-3)).log
    assert norms == pytest.approx([1e-3, 1e-3], rel=1e-3) and log.grad_norm[0] > 1e-2
    fit(Look(), ToyLoader(), FitConfig(**CPU, steps=1, clip=0))
    assert np.hypot(*norms[2:]) == pytest.approx(log.grad_norm[0], abs=2)  # another draw of the weights, but not clipped
    assert min(norms[2:]) > 1e-2


@pytest.mark.parametrize("name", OTHERS)
def test_16_mixed_unscales_clips_and_steps(monkeypatch, name):
    "float16 is refused on the CPU, but works well enough there to see that scaling, clipping and each optimiser go together."
    monkeypatch.setattr("skelnb.training.fit.precision_on", lambda device, name: name)
    monkeypatch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=1024.0))  # no step is skipped
    ends, logs = [], []
    for precision in ("32-true", "16-mixed"):
        torch.manual_seed(0)
        method = Careful()
        start = nn.utils.parameters_to_vector(method.parameters()).detach()
        logs.append(fit(method, ToyLoader(), FitConfig(**CPU | OTHERS[name] | dict(steps=10, clip=0.02, precision=precision))).log)
        ends.append(nn.utils.parameters_to_vector(method.parameters()).detach() - start)
    np.testing.assert_allclose(logs[0].grad_norm, logs[1].grad_norm, rtol=0.02)
    assert (logs[0].loss != logs[1].loss).any(), "float16 was not used"
    assert (ends[0] - ends[1]).norm() < 0.15 * ends[0].norm(), "not the same path"


def test_weight_decay_may_rise():
    class Idle(Toy):
        def losses(self, batch, draws):
            return {"loss": sum(p.sum() for p in self.parameters()) * 0.0}

    torch.manual_seed(0)
    method = Idle()
    before = {k: p.clone() for k, p in method.named_parameters()}
    fit(method, ToyLoader(), FitConfig(**CPU | {"lr": 0.1}, steps=4, schedule="steps", weight_decay=0.04, weight_decay_end=0.2))
    shrunk = np.prod([1 - 0.1 * cosine(s, 4, 0, 0.04, 0.2) for s in range(4)])
    assert [cosine(s, 4, 0, 0.04, 0.2) for s in (0, 4)] == pytest.approx([0.04, 0.2])
    for name, p in method.named_parameters():
        want = before[name] * (shrunk if p.ndim > 1 and p.requires_grad else 1)
        torch.testing.assert_close(p.detach(), want.detach() if p.requires_grad else p.detach())


def test_settings_that_would_be_ignored_are_refused():
    for wrong, message in (
        (dict(milestones=(5,)), "with a cosine"), (dict(schedule="steps", min_lr=1e-5), "min_lr belongs to the cosine"),
        (dict(schedule="steps", milestones=(9, 5)), "ascend"), (dict(schedule="steps", milestones=(1000,)), "training of 1000 steps"),
        (dict(schedule="steps", milestones=(0, 5)), "between 0 and steps"), (dict(nesterov=True), "nesterov without momentum"),
        (dict(optimizer="sgd", momentum=0, nesterov=True), "nesterov without momentum"), (dict(optimizer="adamm"), "did you mean 'adam'"),
        (dict(weight_decay=0, weight_decay_end=0.2), "rises from 0"),
    ):
        with pytest.raises(ParameterError, match=message):
            FitConfig(**wrong)


# ---- schedule, log, presets ---------------------------------------------------------------------------------------------------------


def test_cosine_goldens():
    assert [cosine(s, 10, 2, 1.0, 0.2) for s in (0, 1, 2, 6, 10)] == pytest.approx([0, 0.5, 1, 0.6, 0.2])
    assert cosine(0, 10, 0, 1.0) == 1.0 and cosine(5, 5, 5, 1.0) == 1.0


@given(st.lists(st.integers(1, 30), max_size=4), st.floats(0.1, 0.9))
def test_steps_are_those_of_pytorch(milestones, gamma):
    milestones = sorted(milestones)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.5)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma)
    for step in range(32):
        assert stepped(step, milestones, gamma, 0.5) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert [stepped(s, (3,), 0.1, 1.0, 2) for s in range(4)] == pytest.approx([0, 0.5, 1, 0.1])


def test_layer_decay_of_the_real_encoder():
    from skelnb.backbones.vit import SkeletonViT

    encoder = SkeletonViT(joints=5, frames=8, unit=4, dim=16, depth=3, heads=2, mlp=32)
    ids = layer_ids(encoder)
    assert {k.split(".")[1]: v for k, v in ids.items() if k.startswith("blocks.")} == {"0": 1, "1": 2, "2": 3}
    assert sorted(set(ids.values())) == [0, 1, 2, 3, 4]
    norm = [v for k, v in ids.items() if "blocks" not in k and v == 4]
    assert len(norm) == 2, "only the final norm comes after the blocks"
    groups = parameter_groups(encoder, 0.05, 0.8)
    assert {round(g["lr_scale"], 6) for g in groups} == {round(0.8**k, 6) for k in range(5)}
    with pytest.raises(ParameterError, match="one stack of blocks"):
        layer_ids(nn.ModuleDict({"a": encoder, "b": SkeletonViT(joints=5, frames=8, unit=4, dim=16, depth=1, heads=2, mlp=32)}))


def test_frozen_parameters_are_in_no_group():
    method = Toy()
    grouped = {id(p) for g in parameter_groups(method) for p in g["params"]}
    assert grouped == {id(p) for n, p in method.named_parameters() if not n.startswith("teacher")}


@given(st.lists(st.floats(allow_nan=True), max_size=8), st.integers(0, 9), st.text(max_size=12))
def test_a_log_survives_anything(tmp_path_factory, losses, step, torn):
    log = JsonLog(tmp_path_factory.mktemp("log") / "metrics.jsonl")
    for i, loss in enumerate(losses):
        log.write({"step": i, "loss": loss})
    if losses:
        with open(log.path, "a", encoding="utf-8") as f:
            f.write('{"step": 99' + torn.replace("\n", " ").replace("}", ""))
    assert len(read_log(log.path)) == len(losses)
    log.truncate(step)
    log.write({"step": 100})
    assert list(read_log(log.path).step) == [*range(min(len(losses), step + 1)), 100]


def test_progress_is_silent_in_a_log_file_and_counts_from_where_it_resumed(monkeypatch, capsys):
    Progress(3, "x").update(3)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("SKELNB_PROGRESS", "parent")
    bar = Progress(100, "x", done=50, every=0)
    bar.started -= 10
    bar.update(75, "loss 1")
    assert capsys.readouterr().out == MARK + '[75, 100, "x \\u00b7 75/100 \\u00b7 loss 1 \\u00b7 0:10, 0:10 left"]\n'
    assert bar_text("x", 1, 2, spent=3700, left=59.9) == "x · 1/2 · 1:01:40, 0:59 left"


@dataclass
class Settings(Preset):
    width: int = 8
    rate: float = 1e-3
    flag: bool = True
    betas: tuple[float, float] = (0.9, 0.99)
    limit: float | None = None
    mode: Literal["fast", "slow"] = "fast"

    @classmethod
    def presets(cls):
        return {"paper": {}, "tiny": {"width": 2}}

    def check(self):
        if self.width < 1:
            raise ParameterError("too narrow")


def test_presets_convert_and_refuse():
    made = Settings.named("tiny", rate="1e-2", flag="false", betas=[0.5, "0.6"], limit="none", width="4")
    assert made == Settings(4, 0.01, False, (0.5, 0.6), None, "fast") == Settings.from_dict(made.to_dict())
    assert Settings.named("tiny").width == 2
    for wrong, message in (
        (dict(name="papper"), "did you mean 'paper'"), (dict(name="tiny", widht=3), "did you mean 'width'"),
        (dict(name="tiny", width=0.5), "width = 0.5 is not int"), (dict(name="tiny", flag=1), "flag = 1 is not bool"),
        (dict(name="tiny", mode="slwo"), "did you mean 'slow'"), (dict(name="tiny", betas=0.9), "betas = 0.9 is not tuple"),
        (dict(name="tiny", rate=None), "rate = None is not float"), (dict(name="tiny", width=0), "too narrow"),
        (dict(name="tiny", width=True), "width = True is not int"), (dict(name="tiny", width="inf"), "width = 'inf' is not int"),
    ):
        with pytest.raises(ParameterError, match=message):
            Settings.named(**wrong)


@given(st.integers(), st.floats(allow_nan=False), st.booleans())
def test_a_preset_survives_text(width, rate, flag):
    made = Settings(abs(width) + 1, rate, flag)
    assert Settings(**{k: str(v) for k, v in made.to_dict().items() if k in ("width", "rate", "flag")}) == made
