"""USDRL: sizes, the loss of three grains, streams that are used, and one training on one and on two processes."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import run_ranks, same_weights
from test_decorrelation import as_written

from skelnb.errors import CheckpointError, DataError, ParameterError
from skelnb.methods.usdrl import GRAINS, Projector, Usdrl, UsdrlPreset, load_release, one_view, to_release
from skelnb.training.checkpoint import load_weights
from skelnb.training.fit import FitConfig, fit
from skelnb.training.log import read_log
from skelnb.transforms.draws import Draws
from skelnb.transforms.streams import bone, motion

TOY = dict(frames=8, min_frames=6, dim=16, projection=12, projection_instance=20, persons=2, drop_path=0.0)


def make(seed=0, **changes):
    torch.manual_seed(seed)
    return Usdrl(UsdrlPreset.named("tiny", **TOY | changes))


def batch(n=6, seed=0, rank=0, world=1):
    "Random walks of 12 frames, some of them shorter; every other clip has one person only."
    draws = Draws(seed, 0, rank, world)
    x = draws.randn(n, 3, 12, 25, 2).cumsum(2) * 0.1 + draws.randn(n, 3, 1, 25, 2)
    index = torch.arange(n) + rank * n
    x[index % 2 == 0, ..., 1] = 0
    return {"x": x, "valid": 8 + index % 5}


def test_parameters_are_those_of_the_paper():
    count = lambda m: sum(p.numel() for p in m.parameters())
    with torch.device("meta"):
        method = Usdrl("release")
        assert count(method) == 94_931_160 and count(method.encoder) == 57_137_368
        assert [count(method.projectors[g]) for g in GRAINS] == [16_793_600, 10_500_096, 10_500_096]
        assert count(Usdrl(UsdrlPreset.named("release", encoder="sttr"))) == 65_507_328
        assert count(Usdrl(UsdrlPreset.named("paper")).encoder) < 57_137_368  # a channel-wise convolution is smaller


def test_the_loss_is_eq_7():
    method, b = make(), batch()
    terms, z = method(b, Draws(3)), method.project(method.views(b, Draws(3)))
    direct = {grain: as_written(z[grain].detach(), method.preset.weights)["loss"].item() for grain in GRAINS}
    for grain, value in direct.items():
        assert terms[grain].item() == pytest.approx(value, rel=1e-4)
    assert terms["loss"].item() == pytest.approx(direct["instance"] + 0.5 * (direct["temporal"] + direct["spatial"]), rel=1e-4)
    assert 1 <= terms["rank"] <= 6


def test_views_share_the_encoder_and_have_batch_norms_of_their_own():
    method, b = make(), batch()
    views = method.views(b, Draws(0))
    together = method.project(views)["spatial"]
    one_by_one = torch.stack([method.project(v[None])["spatial"][0] for v in views])
    torch.testing.assert_close(together, one_by_one, rtol=1e-4, atol=1e-5)
    projector, y = Projector(5, 4, 3), torch.randn(8, 5)
    plain = torch.cat([torch.nn.Sequential(*projector)(half) for half in y.chunk(2)])
    torch.testing.assert_close(projector(y, 2).flatten(0, 1), plain)


def test_a_view_is_a_crop_then_corrupted_or_sheared():
    p, b = UsdrlPreset.named("tiny", **TOY), batch(64)
    plain = one_view(b["x"], b["valid"], UsdrlPreset.named("tiny", **TOY, p_corrupt=1.0, corrupted=0), Draws(1))
    view = one_view(b["x"], b["valid"], p, Draws(1))
    kept = (view == plain).all(1).all(1).all(2).sum(1)  # joints that are as they were
    assert set(kept.tolist()) <= {0, 10} and 16 < (kept == 10).sum() < 48


def test_a_short_clip_is_shown_whole():
    p = UsdrlPreset.named("tiny", **TOY | dict(min_frames=12), p_corrupt=1.0, corrupted=0)
    x = batch(16)["x"]
    whole = F.interpolate(x.permute(0, 1, 3, 4, 2).flatten(1, 3), 8, mode="linear").unflatten(1, (3, 25, 2)).permute(0, 1, 4, 2, 3)
    torch.testing.assert_close(one_view(x, torch.full((16,), 12), p, Draws(1)), whole, atol=1e-5, rtol=1e-5)


def test_views_differ_from_each_other_and_are_the_same_again():
    method, b = make(), batch()
    a = method.views(b, Draws(0, 5))
    assert torch.equal(a, method.views(b, Draws(0, 5))) and not torch.equal(a, method.views(b, Draws(0, 6)))
    assert all(not torch.equal(a[i], a[j]) for i in range(4) for j in range(i))
    halves = [method.views(batch(3, 0, r, 2), Draws(0, 5, r, 2)) for r in range(2)]
    assert torch.equal(torch.cat(halves, 1), a)


@pytest.mark.parametrize("name", ["bone", "motion"])
def test_streams_are_really_used(name):
    joint, other, b = make(), make(stream=name), batch()
    views = {"bone": bone, "motion": motion}[name](joint.views(b, Draws(0)).flatten(0, 1))
    assert torch.equal(other.views(b, Draws(0)).flatten(0, 1), views)
    x = b["x"][:, :, :8]
    other.load_state_dict(joint.state_dict())
    assert not torch.allclose(joint.eval().features(x).clip, other.eval().features(x).clip, atol=1e-3)


def test_features_centre_and_do_not_augment():
    method, x = make().eval(), batch()["x"][:, :, :8]
    f = method.features(x)
    assert f.clip.shape == (6, 32) and f.frames.shape == (6, 8, 32)
    there = (x != 0).any(3).any(1)[:, None, :, None]
    torch.testing.assert_close(method.features(torch.where(there, x + 5, 0)).clip, f.clip, atol=1e-3, rtol=1e-3)
    assert method.persons_apart is False


def test_switches_of_table_5():
    b, full = batch(), make()(batch(), Draws(0))
    weights = {name: UsdrlPreset.named("tiny", **{name: False}).weights for name in ("vac", "xc")}
    assert (weights["vac"].variance, weights["vac"].covariance, weights["vac"].cross) == (0, 0, 5e-6)
    assert (weights["xc"].invariance, weights["xc"].cross, weights["xc"].variance) == (0, 0, 5)
    assert set(make(multi_grained=False)(b, Draws(0))) == set(full) - {"temporal", "spatial"}
    for changes in (dict(vac=False), dict(xc=False), dict(multi_grained=False), dict(encoder="sttr"), dict(form="paper"), dict(tau=0.1), dict(views=3)):
        assert make(**changes)(b, Draws(0))["loss"].item() != pytest.approx(full["loss"].item(), rel=1e-4), changes


def test_gradients_reach_every_weight():
    for changes in ({}, dict(encoder="sttr"), dict(multi_grained=False), dict(form="paper", shift="paper", fuse="sum", conv="depthwise", kernel=3)):
        method = make(**changes)
        method(batch(), Draws(0))["loss"].backward()
        assert [n for n, p in method.named_parameters() if p.grad is None] == []


def test_bf16_is_close_to_float32():
    method, b = make(), batch(16)
    single = method(b, Draws(0))
    with torch.autocast("cpu", torch.bfloat16):
        low = method(b, Draws(0))
    assert low["loss"].dtype == torch.float32 and low["loss"].item() == pytest.approx(single["loss"].item(), rel=0.05)


def test_weights_of_the_release():
    a, b = make(0), make(1)
    state = to_release(a)
    assert {"backbone.t_tr1.DSA.attn.out_proj.bias", "i_proj.4.running_var", "s_proj.6.weight"} <= set(state)
    load_release(b, {f"module.{k}": v for k, v in state.items()})
    assert same_weights(a.state_dict(), b.state_dict())
    load_release(make(2, multi_grained=False), state)
    with pytest.raises(CheckpointError, match="t_proj does not fit"):
        load_release(b, {k: v for k, v in state.items() if not k.startswith("t_proj")})


def test_bad_input():
    method = make()
    for x in (torch.zeros(2, 2, 8, 25, 1), torch.zeros(2, 3, 8, 24, 1), torch.zeros(2, 3, 8, 25, 3)):
        with pytest.raises(DataError, match="this USDRL takes"):
            method({"x": x}, Draws(0))
    for changes in (dict(views=1), dict(vac=False, xc=False), dict(crop_low=0.0), dict(corrupted=26), dict(stream="bones"), dict(encoder="vit")):
        with pytest.raises(ParameterError):
            UsdrlPreset.named("tiny", **changes)


# ---- training -----------------------------------------------------------------------------------------------------------------------


class Walks:
    "Random walks that are a function of the step."

    def batch(self, step, rank=0, world=1):
        return batch(8 // world, step, rank, world)


def train(folder, steps, stop=None, **changes):
    "Train the smallest USDRL as the release does; importable, so that other processes can be asked to."
    torch.set_num_threads(1)
    config = FitConfig(steps=steps, batch=8, lr=1e-3, optimizer="adam", weight_decay=1e-5, schedule="steps", milestones=(2,), log_every=1, checkpoint_every=2,
                       device="cpu", precision="32-true")
    loader = Walks() if stop is None else Stops(stop)
    return fit(make(**changes), loader, config, folder, progress=False).step


class Stops(Walks):
    def __init__(self, at):
        self.at = at

    def batch(self, step, rank=0, world=1):
        if step == self.at:
            raise KeyboardInterrupt
        return super().batch(step, rank, world)


def test_one_and_two_processes_train_the_same(tmp_path):
    for n in (1, 2):
        assert run_ranks("test_usdrl:train", {"folder": str(tmp_path / str(n)), "steps": 3}, n) == 3
    logs = [read_log(tmp_path / str(n) / "metrics.jsonl").drop(columns="samples_per_second") for n in (1, 2)]
    names = ["loss", *GRAINS, "similarity", "invariance", "variance", "cross"]
    np.testing.assert_allclose(logs[1].iloc[0][names], logs[0].iloc[0][names], rtol=1e-4)
    np.testing.assert_allclose(logs[1]["loss"], logs[0]["loss"], rtol=5e-3)


def test_interrupted_and_resumed_equals_never_interrupted(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", 6, stop=5)
    for folder in ("cut", "whole"):
        assert train(tmp_path / folder, 6) == 6
    a, b = (load_weights(Path(tmp_path) / folder / "checkpoint.safetensors").tensors for folder in ("cut", "whole"))
    assert same_weights(a, b)
