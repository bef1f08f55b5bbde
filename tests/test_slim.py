"""SLiM: the loss written out, what the teacher may and may not, hooks of training, one training on one and on two processes, interrupted and not."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import Steps, run_ranks, same_weights

from skelnb.errors import DataError, ParameterError
from skelnb.interface.trials import METHODS
from skelnb.methods import slim
from skelnb.methods.slim import ABLATIONS, PRESETS, Slim, SlimPreset, hidden_rows, pairs, recipe, spread, teacher_momentum, temperature, usage
from skelnb.objectives.prototypes import koleo, sinkhorn
from skelnb.training.checkpoint import load_weights
from skelnb.training.fit import FitConfig, fit
from skelnb.training.log import read_log
from skelnb.training.schedule import parameter_groups
from skelnb.transforms.draws import Draws
from skelnb.transforms.tubes import MASK_SPECS
from skelnb.transforms.views import SAA_SPECS, VIEW_SPECS

TOY = dict(frames=16, crops=((16, 0.35, 0.70, 1), (8, 0.15, 0.40, 2)), dim=16, depth=1, heads=2, mlp=16, prototypes=12, hidden=8, bottleneck=6)


def make(seed=0, **changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Slim(SlimPreset.named("tiny", **TOY | changes))


def batch(n=6, seed=0, rank=0, world=1):
    "Random walks of 30 frames, some of them shorter; every other clip has one person only."
    draws = Draws(seed, 0, rank, world)
    x = draws.randn(n, 3, 30, 25, 2).cumsum(2) * 0.1 + draws.randn(n, 3, 1, 25, 2)
    index = torch.arange(n) + rank * n
    x[index % 2 == 0, ..., 1] = 0
    return {"x": x, "valid": 20 + index % 5}


def count(module): return sum(p.numel() for p in module.parameters())


# ---- settings -----------------------------------------------------------------------------------------------------------------------


def test_sizes_and_settings_of_the_release():
    with torch.device("meta"):
        method = Slim("release")
        assert [count(m) for m in (method.encoder, method.cls_head, method.token_head)] == [6_368_768, 22_089_984, 22_089_984]
        assert count(method) == 2 * 50_548_736 and count(Slim("paper").encoder) == 6_333_184
    release, paper, default = (SlimPreset.named(name).to_dict() for name in ("release", "paper", "default"))
    assert {k for k in release if release[k] != default[k]} == {"shuffle", "bug_compat", "rotation"}
    assert {k for k in paper if paper[k] != release[k]} == {"ffn", "crops", "pairing", "global_mask", "local_mask", "mask_area", "global_prob", "local_prob",
                                                            "shuffle", "bone_groups", "bug_compat", "rotation", "noise", "koleo_on"}
    for name in ("default", "release", "paper"):  # the floor below knows the same
        p = SlimPreset.named(name)
        assert slim.mask_spec(p) == MASK_SPECS[name] and slim.saa(p) == SAA_SPECS[name]
        assert slim.view_spec(p) == VIEW_SPECS["paper" if name == "paper" else "release"]
    for name in PRESETS:
        assert SlimPreset.from_dict(SlimPreset.named(name).to_dict()) == SlimPreset.named(name)
    assert METHODS["slim"] == (Slim, SlimPreset)
    full, literal = recipe(), recipe("paper")
    assert (full["steps"], full["warmup"], round(full["lr"], 7), full["weight_decay_end"], full["clip"]) == (187_500, 25_000, 1.732e-4, 0.2, 3.0)
    assert (literal["steps"], literal["warmup"], literal["lr"]) == (7_800, 1_040, 2e-4) and FitConfig(**full).batch == 768


def test_what_cannot_work_is_refused():
    for changes in (dict(mfm=False, glcl="none"), dict(global_mask="none"), dict(global_prob=0.0), dict(frames=20), dict(crops=((12, 0.1, 0.2, 1),)),
                    dict(crops=((8, 0.5, 0.2, 1),)), dict(mask_high=1.0), dict(teacher_start=0.0), dict(momentum=1.1), dict(heads=16), dict(bone_groups=4)):
        with pytest.raises(ParameterError):
            make(**changes)
    with pytest.raises(ParameterError, match="no recipe"):
        recipe("mamp")
    for x in (torch.zeros(2, 2, 30, 25, 1), torch.zeros(2, 3, 30, 24, 1), torch.zeros(2, 3, 30, 25)):
        with pytest.raises(DataError, match="this SLiM takes"):
            make().views({"x": x}, Draws(0))


def test_schedules_and_hooks():
    p, method = SlimPreset.named("default"), make()
    assert [round(temperature(p, s), 4) for s in (0, 0.1, 0.2, 0.7)] == [0.04, 0.055, 0.07, 0.07]
    assert [round(teacher_momentum(p, s), 4) for s in (0, 0.5, 1)] == [0.994, 0.997, 1.0]
    groups = parameter_groups(method, 0.04, None, False, method.lr_scale, method.frozen_until, method.clip_group)
    of = {id(w): g for g in groups for w in g["params"]}
    about = {name: of[id(w)] for name, w in method.named_parameters() if w.requires_grad}
    assert {name for name, g in about.items() if g["lr_scale"] == 0.2} == {"encoder.tokens.embedding.proj.weight", "encoder.tokens.embedding.proj.bias"}
    assert {name for name, g in about.items() if g["frozen_until"]} == {f"{h}_head.{w}" for h in ("cls", "token") for w in ("direction", "gain")}
    assert {g["clip_group"] for g in groups} == {"encoder", "cls_head", "token_head"} and not any(name.startswith("teacher") for name in about)
    still = {name.split(".")[-1] for name, g in about.items() if not g["weight_decay"]}
    assert still == {"bias", "weight"} and all(about[f"encoder.tokens.{k}"]["weight_decay"] for k in ("cls", "position", "registers", "hidden"))


# ---- the loss -----------------------------------------------------------------------------------------------------------------------


def scores(head, z):
    b = F.normalize(head.mlp(z), dim=-1)
    return b @ (head.gain * F.normalize(head.direction, dim=-1)).T


def written_out(method, b, draws):
    "Eq. 4, 6 and 7 with every table of scores in full, loops over views and pairs."
    p, n = method.preset, len(b["x"])
    views, masks, local_masks = method.views(b, draws)
    t = temperature(p, method.progress)
    teacher = [method.teacher["encoder"].encode(x) for x in views.globals]
    student = [method.encoder.encode(x, m) for x, m in zip(views.globals, masks)]
    q = sinkhorn(torch.cat([scores(method.teacher["cls_head"], c) for c, _ in teacher]), t, p.sinkhorn).split(n)
    hidden = [m.flatten(1) for m in masks]
    q_tokens = iter(sinkhorn(torch.cat([scores(method.teacher["token_head"], z[h]) for (_, z), h in zip(teacher, hidden)]), t, p.sinkhorn))
    mfm = 0
    for (_, z), h in zip(student, hidden):
        for row, where in zip(z, h):
            terms = [-(next(q_tokens) * (scores(method.token_head, token) / 0.1).log_softmax(-1)).sum() for token in row[where]]
            mfm += sum(terms) / max(len(terms), 1) / (2 * n)
    pair = [(q[1 - g], student[g][0]) for g in (0, 1)]
    for frames, some in views.locals.items():
        for x, m, anchor in zip(some, local_masks[frames], views.anchors[frames]):
            cls = method.encoder.encode(x, m)[0]
            pair += [(q[g], cls) for g in (0, 1) if p.pairing == "all" or g == anchor]
    glcl = sum(-(a * (scores(method.cls_head, c) / 0.1).log_softmax(-1)).sum(1).mean() for a, c in pair) / len(pair)
    return mfm, glcl, sum(koleo(c) for c, _ in student)


@pytest.mark.parametrize("changes", [{}, dict(pairing="anchor", glcl="single", global_prob=1.0, local_prob=0.5)])
def test_the_loss_and_its_gradient_are_those_of_the_equations(changes):
    method, b = make(w_glcl=0.7, **changes), batch()
    with torch.no_grad():
        for w in method.parameters():
            w.add_(0.2 * torch.randn(w.shape, generator=torch.Generator().manual_seed(w.numel())))
    method.progress = 0.1
    terms = method(b, Draws(3))
    mfm, glcl, apart = written_out(method, b, Draws(3))
    for name, value in (("mfm", mfm), ("glcl", glcl), ("koleo", apart), ("loss", mfm + 0.7 * glcl + 0.1 * apart)):
        torch.testing.assert_close(terms[name], value, rtol=1e-4, atol=1e-5)
    weights = [w for w in method.parameters() if w.requires_grad]
    ours = torch.autograd.grad(terms["loss"], weights)
    theirs = torch.autograd.grad(mfm + 0.7 * glcl + 0.1 * apart, weights)
    for a, c in zip(ours, theirs):
        torch.testing.assert_close(a, c, rtol=1e-3, atol=1e-5)


def test_pairs_and_hidden_rows():
    targets, weights = pairs({32: (0, 1), 16: (0, 0, 1, 1), 8: (0, 1)}, 3)
    assert targets.shape == (30, 2) and weights.sum().item() == pytest.approx(1) and ((targets >= 0).sum(1) == torch.tensor([1] * 6 + [2] * 24)).all()
    targets, weights = pairs({32: (0, 0, 1)}, 2, "anchor")
    assert targets[:, 0].tolist() == [2, 3, 0, 1, 0, 1, 0, 1, 2, 3] and (targets[:, 1] == -1).all() and (weights == 0.1).all()
    mask = torch.rand(5, 2, 7, generator=torch.Generator().manual_seed(0)) < 0.4
    mask[1] = False
    index, weight = hidden_rows(mask)
    assert index.tolist() == [i for i, hid in enumerate(mask.flatten().tolist()) if hid]
    assert weight.sum().item() == pytest.approx(4 / 5) and weight[0].item() == pytest.approx(1 / 5 / mask[0].sum().item())
    assert len(hidden_rows(torch.zeros(2, 2, 7, dtype=torch.bool))[0]) == 0


def test_koleo_in_groups_and_usage_of_prototypes():
    z = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(spread(z), (koleo(z[0]) + koleo(z[1])) / 2)
    torch.testing.assert_close(spread(z, 3), torch.stack([koleo(part) for view in z for part in view.split(3)]).mean())
    even = torch.eye(8) * 100
    assert [round(v.item(), 3) for v in usage(even)] == [0, 8] and [round(v.item(), 3) for v in usage(even[:1].expand(8, 8))] == [0, 1]


def test_ablations_change_the_loss_and_need_no_idle_weights():
    b, losses = batch(3), {}
    changes = {f"{table}, {row}": changes for table, rows in ABLATIONS.items() for row, changes in rows.items() if changes}
    for name, change in (changes | {"all": {}, "other bones": dict(bug_compat=True, bone_groups=5), "local": dict(koleo_on="local")}).items():
        method = make(**change)
        terms = method(b, Draws(0))
        losses[name] = terms["loss"].item()
        assert ("mfm" in terms) == change.get("mfm", True) and ("glcl" in terms) == (change.get("glcl") != "none")
        if name[0] == "5":
            terms["loss"].backward()
            assert [n for n, w in method.named_parameters() if w.requires_grad and w.grad is None] == [], name
    assert len({round(v, 5) for v in losses.values()}) == len(losses) - 1  # GLCL alone is a row of Tables 5 and 6


# ---- student and teacher ------------------------------------------------------------------------------------------------------------


def test_the_teacher_gets_no_gradient_and_follows():
    method, b = make(momentum=0.9), batch()
    student = {k: v for k, v in method.state_dict().items() if not k.startswith("teacher.")}
    assert all(torch.equal(method.state_dict()[f"teacher.{k}"], v) for k, v in student.items())
    method(b, Draws(0))["loss"].backward()
    assert all(w.grad is None and not w.requires_grad for w in method.teacher.parameters())
    before = {k: v.clone() for k, v in method.state_dict().items()}
    with torch.no_grad():
        for w in method.parameters():
            if w.requires_grad:
                w.add_(torch.randn_like(w))
    method.progress = 0.5
    method.after_step(Draws(0), 0.6)
    after = method.state_dict()
    for k in student:
        torch.testing.assert_close(after[f"teacher.{k}"], 0.95 * before[f"teacher.{k}"] + 0.05 * after[k])


def test_hidden_tokens_do_not_leak_into_the_student():
    method, b = make(), batch()
    views, masks, local_masks = method.views(b, Draws(0))
    x, mask = views.globals[0], masks[0] | True & (torch.arange(25) % 2 == 0)
    other = torch.where(mask.repeat_interleave(8, 1)[:, None], torch.randn_like(x), x)
    for a, c in zip(method.encoder.encode(x, mask), method.encoder.encode(other, mask)):
        torch.testing.assert_close(a, c)
    assert all(m.flatten(1).any(1).all() for some in local_masks.values() for m in some)  # local views are all masked
    assert sum(m.flatten(1).any(1).sum() for m in masks) == 6  # half of the twelve global ones


def test_features_are_the_students_over_whole_clips():
    method, x = make().eval(), batch()["x"][:, :, :24]
    said = method.features(x)
    assert said.clip.shape == (6, 32) and said.frames.shape == (6, 3, 16) and said.tokens.shape == (6, 3, 25, 16)
    there = (x != 0).any(3).any(1)[:, None, :, None]
    torch.testing.assert_close(method.features(torch.where(there, x + 5, 0)).clip, said.clip, atol=1e-3, rtol=1e-3)
    assert make(clip="cls").features(x).clip.shape == (6, 16)


def test_bf16_is_finite_and_close():
    method, b = make(), batch(16)
    single = method(b, Draws(0))
    with torch.autocast("cpu", torch.bfloat16):
        low = method(b, Draws(0))
    low["loss"].backward()
    assert all(w.grad is None or w.grad.isfinite().all() for w in method.parameters())
    assert low["loss"].dtype == torch.float32 and low["loss"].item() == pytest.approx(single["loss"].item(), rel=0.05)


# ---- training -----------------------------------------------------------------------------------------------------------------------


def train(folder, steps, stop=None):
    "Train the smallest SLiM with all of its hooks; importable, so that other processes can be asked to."
    torch.set_num_threads(1)
    config = FitConfig(steps=steps, batch=8, lr=1e-3, warmup=1, weight_decay=0.04, weight_decay_end=0.2, clip=3.0, betas=(0.9, 0.999), log_every=1,
                       checkpoint_every=2, device="cpu", precision="32-true")
    return fit(make(koleo_group=4, frozen=0.3), Steps(batch, stop), config, folder, progress=False).step


def test_one_and_two_processes_train_the_same(tmp_path):
    for n in (1, 2):
        assert run_ranks("test_slim:train", {"folder": str(tmp_path / str(n)), "steps": 2}, n) == 2
    logs = [read_log(tmp_path / str(n) / "metrics.jsonl") for n in (1, 2)]
    for name in ("loss", "mfm", "glcl", "koleo", "grad_norm"):
        np.testing.assert_allclose(logs[1][name], logs[0][name], rtol=2e-3, err_msg=name)
    a, b = (load_weights(Path(tmp_path) / str(n) / "checkpoint.safetensors").tensors for n in (1, 2))
    assert same_weights(a, b, 2e-3)


def test_interrupted_and_resumed_equals_never_interrupted(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", 6, stop=5)
    for folder in ("cut", "whole"):
        assert train(tmp_path / folder, 6) == 6
    a, b = (load_weights(Path(tmp_path) / folder / "checkpoint.safetensors").tensors for folder in ("cut", "whole"))
    assert same_weights(a, b)
