"""ActCLR and ActCLR+: map, blend and losses as they are written, two stages, the state of a run, and one training on one and on two processes."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import Steps, run_ranks, same_weights

from skelnb.errors import DataError, ParameterError
from skelnb.methods.actclr import CURRICULUM, Actclr, ActclrPreset, move_map, swap_statistics, to_steps, transfer_bones
from skelnb.methods.aimclr import Aimclr, AimclrPreset
from skelnb.methods.momentum import load_release, to_release
from skelnb.objectives.actionlet import gumbel_hide, hide, upsample_map
from skelnb.objectives.processes import gathered, process
from skelnb.topology import adjacency
from skelnb.training.checkpoint import load_weights
from skelnb.training.fit import FitConfig, fit
from skelnb.training.log import read_log
from skelnb.transforms.augment import actclr_steps, augment, partners, random_mix
from skelnb.transforms.draws import Draws
from skelnb.transforms.streams import bone, stream

TOY = dict(frames=12, width=2, dim=12, projection=6, queue=16, momentum=0.9, dropout=0.0, queue_start="random", prototypes=4, refresh=0.2, decoder=4,
           parts=(1, 2), blocks=(1, 2), late_blocks=(1, 1), first_stage=0.0)
CVPR = {k: v for k, v in ActclrPreset.presets()["cvpr"].items() if k != "top_k"} | dict(projection_norm=False, top_k=9)


def make(seed=0, **changes):
    torch.manual_seed(seed)
    return Actclr(ActclrPreset.named("tiny", **TOY | changes)).train()


def batch(n=6, seed=0, rank=0, world=1):
    "Random walks of 16 frames, some of them shorter; every other clip has one person only."
    draws = Draws(seed, 0, rank, world)
    x = draws.randn(n, 3, 16, 25, 2).cumsum(2) * 0.1 + draws.randn(n, 3, 1, 25, 2)
    index = torch.arange(n) + rank * n
    x[index % 2 == 0, ..., 1] = 0
    return {"x": x, "valid": 12 + index % 5}


def with_prototypes(method, seed=3):
    method.clusters.centroids.copy_(F.normalize(torch.randn(method.clusters.centroids.shape, generator=torch.Generator().manual_seed(seed)), dim=1))
    method.clusters.ready = True
    return method


# ---- as written ---------------------------------------------------------------------------------------------------------------------


def test_the_map_is_eqs_36_to_38():
    method = with_prototypes(make(projection_norm=False))
    x = method.clips(batch())
    method.mean.copy_(x.mean(0))
    b = method.anchor(x)
    A, noise, opened = method.locate(x, method.teacher, b, True)
    leaf = x.clone().requires_grad_()
    h = method.teacher["encoder"].forward_map(leaf).unflatten(0, (6, 2))
    there = (x != 0).any(3).any(2).any(1).float()
    pooled = (h.mean((3, 4)) * (there / there.sum(1, keepdim=True))[..., None]).sum(1)
    z = F.normalize(method.teacher["projector"](pooled), dim=1)
    score = (1 - z @ F.normalize(b, dim=0) + (z @ method.clusters.centroids.T).amax(1)).relu()
    delta, attack = torch.autograd.grad(score.sum(), [h, leaf])
    expected = ((delta.relu().mean((3, 4), keepdim=True) * h).sum(2)).relu()
    expected = (expected / expected.amax((1, 2, 3), keepdim=True) @ torch.as_tensor(adjacency("kinect_v2", "uniform")[0])).clamp(0, 1)
    torch.testing.assert_close(A, expected.detach(), rtol=1e-3, atol=1e-4)
    clear = (attack.abs() > 1e-7) & (there > 0)[:, None, None, None]
    torch.testing.assert_close(noise[clear], -0.01 * attack.sign()[clear])
    assert A.max() > 0.3 and opened == 1 and not noise[::2, ..., 1].any() and all(w.grad is None for w in method.parameters())


def soft(q, k, U):
    return -((F.normalize(k, dim=1) @ U.T / 0.04).softmax(1) * (F.normalize(q, dim=1) @ U.T / 0.1).log_softmax(1)).sum(1).mean()


def test_losses_are_eqs_44_to_50():
    method, b, d = with_prototypes(make(odds=(1.0, 0.0, 0.0))), batch(), Draws(7)
    x, U, p = method.clips(b), method.bank.queue, method.preset
    view = augment(x, d.child("key"), actclr_steps((), 0.01))
    method._look(x)
    anchor = method.anchor(view)  # from the running statistics before this step
    terms, k = method(b, d), method.key(view)
    views = method.shared(x, anchor, d)
    A = views.A.permute(0, 2, 3, 1)[:, None]
    assert terms["intra"].item() == pytest.approx(soft(method.embed(A * views.act + (1 - A) * views.non), k, U).item(), rel=1e-4)
    inter = d.child("inter")
    mix, other = random_mix(6, 12, inter, odds=(1.0, 0.0, 0.0), parts=(1, 2), blocks=(1, 2)), partners(6, inter)
    kept = mix.kept[:, None]
    whole = views.A.sum((1, 2, 3))
    a, c = (kept * views.A).sum((1, 2, 3)) / whole, ((1 - kept) * views.A[other]).sum((1, 2, 3)) / whole[other]
    target = (a[:, None] * k + c[:, None] * k[other]) / (a + c)[:, None]
    mixed = kept[..., None] * views.base + (1 - kept[..., None]) * views.base[other]
    assert 0 < kept.mean() < 1 and terms["inter"].item() == pytest.approx(soft(method.embed(mixed), target, U).item(), rel=1e-4)
    grid = to_steps(views.A, 3)
    mask = gumbel_hide(grid, d.child("sam"), p.hide_ratio, p.hide_tau)
    h = method.encoder.forward_map(hide(views.act, mask))
    seen = method.restore.decoder(h)[:, 0].unflatten(0, (6, 2))
    assert terms["sam_actionlet"].item() == pytest.approx((seen - grid).square().mean().item(), rel=1e-4)
    assert terms["sam"].item() == pytest.approx((terms["sam_actionlet"] + terms["sam_coordinates"]).item())
    assert terms["loss"].item() == pytest.approx(sum(terms[n].item() for n in ("intra", "inter", "sam")), rel=1e-5)


def test_the_first_papers_distillation_and_keys():
    method, b, d = make(**CVPR), batch(), Draws(7)
    terms = method(b, d)
    x, U = method.clips(b), method.bank.queue
    view = augment(x, d.child("key"), actclr_steps((), 0.01, release=True))
    anchor = method.anchor(view)
    k, views = method.keys(view, anchor), method.independent(x, anchor, d)
    A = views.A.permute(0, 2, 3, 1)[:, None]
    q = F.normalize(method.embed(A * views.act + (1 - A) * views.non), dim=1)
    teacher = k @ U.T
    teacher[teacher > 0.95] = -1
    teacher, index = teacher.topk(9)
    target = (teacher / 0.04).softmax(1)
    loss = (target * (target.log() - ((q @ U.T).gather(1, index) ** 2 / 0.1).log_softmax(1))).nan_to_num().sum(1).mean()
    assert terms["intra"].item() == pytest.approx(loss.item(), rel=1e-3) and {"swap", "inter"} <= set(terms) and "sam" not in terms
    h = method.teacher["encoder"].forward_map(view).unflatten(0, (6, 2))
    there = (view != 0).any(3).any(2).any(1).float()
    shares = there / there.sum(1, keepdim=True) if method.encoder.persons == "present" else torch.full_like(there, 0.5)
    weight = method._gradient(h, method.teacher, anchor, shares)[0] * shares[..., None, None]
    part = (h * weight[:, :, None]).sum((1, 3, 4)) / weight.sum((1, 2, 3))[:, None].clamp_min(1e-6)
    g = method.teacher["projector"]
    torch.testing.assert_close(k, F.normalize(g((h.mean((3, 4)) * shares[..., None]).sum(1)) + g(part), dim=1), rtol=1e-3, atol=1e-4)


def test_the_map_goes_where_the_body_goes():
    n, steps, d = 16, actclr_steps((1, 2, 3, 6)), Draws(2)
    A = torch.rand(n, 2, 12, 25)
    still = {k: v for k, v in steps.items() if k in ("crop", "flip", "time_flip")}
    clips = A.permute(0, 2, 3, 1)[:, None].expand(-1, 3, -1, -1, -1)
    moved = augment(clips, d, still)
    torch.testing.assert_close(move_map(A, d, steps).permute(0, 2, 3, 1), moved[:, 2])
    assert torch.equal(move_map(A, d, {}), A) and not torch.equal(moved, clips)
    torch.testing.assert_close(to_steps(A[:, :, :10], 3)[:, :, 2], A[:, :, 8:10].mean(2))


def test_maps_of_shared_views_were_moved_with_them():
    plain = dict(act=(1, 6), t_non=False, adversarial=False, skeleton_mask=False)
    method, d = make(**plain), Draws(5)
    x = method.clips(batch())
    marked = {k: v for k, v in actclr_steps((1, 6)).items() if k != "shear"}
    before = upsample_map(method.locate(x, method.teacher, torch.ones(6))[0], 12).permute(0, 2, 3, 1)[:, None]
    views = method.shared(x, torch.ones(6), d)
    torch.testing.assert_close(views.A.permute(0, 2, 3, 1), augment(before, d.child("act"), marked)[:, 0])
    assert not torch.allclose(views.A.permute(0, 2, 3, 1), before[:, 0], atol=1e-3)


def test_bones_of_the_partner():
    x = batch(4)["x"]
    y, other = transfer_bones(x, x.flip(0)), x.flip(0)

    def lengths(x):
        seen = (x != 0).any(1).any(2)
        return (bone(x).norm(dim=1) * seen[:, :, None]).sum((1, 3)) / seen.sum((1, 2))[:, None]

    ratio = lengths(other)[:, :20] / lengths(x)[:, :20]
    torch.testing.assert_close(lengths(y)[:, :20], lengths(x)[:, :20] * ratio.clamp(0.2, 5), rtol=1e-3, atol=1e-4)
    directions = F.cosine_similarity(bone(x), bone(y), dim=1)[:, :, :20, 0]
    torch.testing.assert_close(directions, torch.ones_like(directions), rtol=1e-3, atol=1e-3)


def by_hand(x, y, name):
    "The code's exchange of statistics, one clip and person at a time."
    out = x.clone()
    for n in range(len(x)):
        for m in range(x.shape[4]):
            a, b = x[n, ..., m], y[n, ..., m]  # (C, T, V)
            if not a.any() or not b.any():
                continue
            if name == "bone":
                out[n, ..., m] = a / a.norm(dim=0).clamp_min(1e-12) * b.norm(dim=0)
            else:
                out[n, ..., m] = (a - a.mean(2, keepdim=True)) / (a.std(1, keepdim=True) + 1e-3) * b.std(1, keepdim=True) + b.mean(2, keepdim=True)
    return out


@pytest.mark.parametrize("name", ["bone", "motion"])
def test_statistics_of_the_partner(name):
    x = stream(make(**CVPR).clips(batch(5)), name)
    y = x[torch.tensor([1, 3, 0, 2, 4])]
    torch.testing.assert_close(swap_statistics(x, y, name), by_hand(x, y, name), rtol=1e-4, atol=1e-5)
    assert x[1, ..., 1].any() and y[3, ..., 1].sum() == 0 and not swap_statistics(x, y, name)[0, ..., 1].any()
    assert torch.equal(swap_statistics(x, y, name)[3, ..., 1], x[3, ..., 1])  # its partner is alone
    with pytest.raises(ParameterError, match="transfer_bones"):
        swap_statistics(x, y, "joint")


def test_what_is_disguised():
    assert ActclrPreset.named("paper").disguise == "bones" and ActclrPreset.named("cvpr").disguise == "stream"
    for name, differs in (("joint", False), ("bone", True), ("motion", True)):
        seen = []
        for disguise in ("bones", "stream"):
            method = make(**CVPR | dict(stream=name, disguise=disguise))
            x = method.clips(batch())
            views = method.independent(x, torch.ones(6), Draws(0))
            seen.append(method.swapped(views, Draws(0)))
        assert torch.equal(*seen) != differs
    x, other = method.stream(views.base), method.partner(Draws(0).child("bones"), views.base)[0]
    mix = random_mix(6, 12, Draws(0), parts=(1, 2), blocks=(1, 2))
    changed = swap_statistics(x, method.stream(other), "motion")
    A = views.A_base.permute(0, 2, 3, 1)[:, None]
    torch.testing.assert_close(seen[1], A * changed + (1 - A) * mix(changed, method.partner(Draws(0), changed)[0]), rtol=1e-3, atol=1e-3)


def test_the_curriculum():
    assert ActclrPreset.named("paper").curriculum == () and ActclrPreset.named("cvpr").curriculum == CURRICULUM
    method = make(**CVPR | dict(curriculum=CURRICULUM, refresh=1 / 350))

    def ids(epoch, step=0, m=method, start=0.0):
        m.progress = start + (1 - start) * epoch / 350
        return [[k for k in c if k not in ("crop", "shear")] for c in m.chains(Draws(0, step)).values()]

    whole = [[*actclr_steps(i)][2:] for i in (method.preset.act, method.preset.non)]
    assert ids(0)[2:] == ids(99)[2:] == whole
    for first, last, n_act, n_non in ((100, 199, 3, 5), (200, 299, 1, 3)):
        drawn = [ids(e) for e in range(first, last + 1)]
        assert {(len(a), len(n)) for _, _, a, n in drawn} == {(n_act, n_non)}
        assert {k for d in drawn for k in d[2]} == {*whole[0]} and {k for d in drawn for k in d[3]} == {*whole[1]}  # everything has its turn
        assert ids(last, step=1) == ids(last, step=2) and [k for k in whole[1] if k in drawn[0][3]] == drawn[0][3]
    method.progress = 320 / 350
    assert not any(method.chains(Draws(0)).values())
    x = method.clips(batch())
    views = method.independent(x, torch.ones(6), Draws(0))
    assert all(torch.equal(v, x) for v in (views.act, views.non, views.base))
    late = make(**CVPR | dict(curriculum=CURRICULUM, first_stage=0.5))
    assert [len(c) for c in ids(99, m=late, start=0.5)[2:]] == [5, 7] and [len(c) for c in ids(100, m=late, start=0.5)[2:]] == [3, 5]
    plus = make(curriculum=((0.0, -1, -1),), adversarial=False, skeleton_mask=False)
    views = plus.shared(x, torch.ones(6), Draws(0))
    assert torch.equal(views.act, x) and torch.equal(views.non, x) and torch.isfinite(plus(batch(), Draws(0))["loss"])
    for wrong in (((0.5, 1, 1), (0.2, 1, 1)), ((0.5, -2, 1),), ((1.5, 1, 1),)):
        with pytest.raises(ParameterError, match="curriculum"):
            make(curriculum=wrong)


def test_shared_chains_differ_only_by_what_t_non_does():
    quiet = dict(t_non=False, adversarial=False, skeleton_mask=False)
    method = make(**quiet)
    x = method.clips(batch())
    method._look(x)
    views = method.shared(x, method.anchor(x), Draws(0))
    assert torch.equal(views.act, views.non) and not torch.equal(views.act, x)
    assert torch.equal(make(**quiet, t_act=False).shared(x, torch.ones(6), Draws(0)).act, x)
    assert not torch.equal(make(**quiet | dict(adversarial=True)).shared(x, torch.ones(6), Draws(0)).non, views.act)


# ---- switches, gradients ------------------------------------------------------------------------------------------------------------


ALONE = {"intra": dict(inter=0.0, sam=0.0), "inter": dict(intra=0.0, sam=0.0), "sam": dict(inter=0.0)}
SWITCHES = {
    "intra": [dict(swap=1.0), dict(anchor="batch"), dict(margin=-0.9), dict(map="cvpr"), dict(t_act=False), dict(t_non=False), dict(sigma_non=0.5),
              dict(adversarial=False), dict(epsilon=0.2), dict(adversarial_region="everywhere"), dict(skeleton_mask=False),
              dict(fill="zeros"), dict(fill="noise"), dict(mask_region="everywhere"), dict(late_from=0.0), dict(prototypes=0), dict(stream="bone")],
    "inter": [dict(odds=(0.0, 0.0, 1.0)), dict(relative=False), dict(exponential=0.1)],
    "sam": [dict(masking="mam"), dict(masking="random"), dict(hide_ratio=0.3), dict(hide_tau=0.05), dict(coordinates=0.0)],
}


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_changes_the_loss(name):
    def loss(**changes):
        method = make(**ALONE[name], **changes)
        with torch.no_grad():
            return (with_prototypes(method) if method.clusters else method)(b, Draws(0))["loss"].item()

    b = batch(4)
    full = loss()
    assert [changes for changes in SWITCHES[name] if loss(**changes) == pytest.approx(full, rel=1e-6)] == []


@pytest.mark.parametrize("changes", [{}, CVPR, dict(first_stage=1.0), dict(stream="motion", sam=0.0)], ids=["paper", "cvpr", "first stage", "motion"])
def test_gradients_reach_the_student_only(changes):
    method = make(**changes)
    method(batch(), Draws(0))["loss"].backward()
    assert [n for n, w in method.named_parameters() if (w.grad is None) != n.startswith("teacher")] == []


def test_bf16_is_finite_and_close():
    method, b = with_prototypes(make(adversarial=False)), batch(16)
    single = method(b, Draws(0))["loss"].item()
    with torch.autocast("cpu", torch.bfloat16):
        terms = method(b, Draws(0))
        attacked = make()(b, Draws(0))["loss"]
    terms["loss"].backward()
    assert terms["loss"].dtype == torch.float32 and terms["loss"].item() == pytest.approx(single, rel=0.1) and torch.isfinite(attacked)
    assert all(torch.isfinite(w.grad).all() for w in method.student.parameters())


# ---- the state of a run -------------------------------------------------------------------------------------------------------------


def test_the_mean_motion_is_that_of_all_clips_seen():
    method, seen = make(first_stage=1.0, matching=0.0), []
    for step in range(3):
        b = batch(6, step)
        seen.append(method.clips(b))
        method(b, Draws(0, step))
        if step < 2:  # two batches in the last step
            method.after_step(Draws(0, step), 0.0)
        else:
            again = batch(6, 9)
            seen.append(method.clips(again))
            method(again, Draws(0, step))
            method.after_step(Draws(0, step), 0.0)
    torch.testing.assert_close(method.mean, torch.cat(seen).mean(0), rtol=1e-4, atol=1e-5)
    assert method.seen == 24 and make(anchor="batch").mean.shape == (3, 12, 25, 2)
    given = make(anchor="given")
    with pytest.raises(ParameterError, match="set_mean first"):
        given(batch(), Draws(0))
    given.set_mean(method.mean[None, ..., :1])
    assert torch.isfinite(given(batch(), Draws(0))["loss"]) and not given.mean[..., 1].any()


def test_running_statistics_see_views_and_nothing_else():
    method, x = make(), make().clips(batch())
    method._look(x)
    before = {k: v.clone() for k, v in method.state_dict().items() if "running" in k or "num_batches" in k}
    b = method.anchor(x)
    method.locate(x, method.teacher, b, True)
    method.locate(x, method.student, b)
    assert same_weights(before, {k: v for k, v in method.state_dict().items() if k in before}) and method.teacher.training


def test_prototypes_come_when_the_queue_was_filled_twice():
    method, ready = make(), []
    for step in range(10):
        method.progress = step / 10
        method(batch(), Draws(0, step))
        method.after_step(Draws(0, step), (step + 1) / 10)
        ready.append(method.clusters.ready)
    assert ready == [False] * 5 + [True] * 5  # 36 keys of 16 after six steps; a refresh is due every second one
    torch.testing.assert_close(method.clusters.prototypes.norm(dim=1), torch.ones(4))


def test_two_stages():
    method = make(first_stage=0.5, mine_from=0.5)
    method.progress = 0.2
    assert method.mining_progress == 0.4 and "info_nce" in method(batch(), Draws(0))
    torch.manual_seed(0)
    plain = Aimclr(AimclrPreset.named("tiny", **{k: v for k, v in TOY.items() if k in AimclrPreset.named("tiny").to_dict()})).train()
    plain.load_state_dict(method.state_dict(), strict=False)
    assert plain(batch(), Draws(0))["loss"].item() == pytest.approx(method(batch(), Draws(0))["loss"].item(), rel=1e-5)
    method.progress = 0.5
    assert "intra" in method(batch(), Draws(0))


def test_start_from_aimclr_and_weights_of_the_release():
    first = Aimclr(AimclrPreset.named("tiny", **{k: v for k, v in TOY.items() if k in AimclrPreset.named("tiny").to_dict()}))
    for source in (first, first.state_dict()):
        method = make(1)
        method.init_from(source)
        assert same_weights(method.student.state_dict(), first.student.state_dict()) and same_weights(method.teacher.state_dict(), first.student.state_dict())
    a, b = (make(seed, projection_norm=False, same_start=False) for seed in (0, 1))
    load_release(b, to_release(a))
    for part in ("student", "teacher"):
        assert same_weights(getattr(a, part).state_dict(), getattr(b, part).state_dict())
    with torch.device("meta"):
        assert sum(w.numel() for w in Actclr("cvpr").student.parameters()) == 920_068


def test_bad_input():
    for changes in (dict(intra=0.0, inter=0.0), dict(prototypes=17), dict(first_stage=1.5), dict(refresh=0.0), dict(blocks=(1, 4)), dict(anchor_eval=False),
                    dict(chains="independent"), dict(act=(10,)), dict(masking="all"), dict(sam=-1.0)):
        with pytest.raises(ParameterError):
            make(**changes)
    with pytest.raises(DataError, match="2 persons"):
        make(persons=1)(batch(), Draws(0))
    with pytest.raises(DataError, match="this Actclr takes"):
        make()({"x": torch.zeros(2, 2, 8, 25, 1)}, Draws(0))


# ---- training -----------------------------------------------------------------------------------------------------------------------


def train(folder, steps, stop=None, **changes):
    "Train the smallest ActCLR through both stages; importable, so that other processes can be asked to."
    torch.set_num_threads(1)
    config = FitConfig(steps=steps, batch=8, lr=0.01, optimizer="sgd", weight_decay=1e-4, log_every=1, checkpoint_every=2, device="cpu", precision="32-true")
    method = make(**changes)
    fit(method, Steps(batch, stop), config, folder, progress=False)
    rank, world = process()
    x = method.clips(batch(8 // world, 99, rank, world))
    noise = gathered(method.train().locate(x, method.teacher, torch.arange(6.0), True)[1])
    queues = gathered(method.bank.queue[None])  # of all processes
    return {"queue": method.bank.queue.tolist(), "spread": (queues - queues[:1]).abs().max().item(), "mean": method.mean.flatten().tolist(),
            "keys": method.keys_seen.item(), "noise": noise.flatten().tolist()}


def test_one_and_two_processes_train_the_same(tmp_path):
    settings = {"steps": 3, "first_stage": 0.3}
    done = [run_ranks("test_actclr:train", {"folder": str(tmp_path / str(n)), **settings}, n) for n in (1, 2)]
    logs = [read_log(tmp_path / str(n) / "metrics.jsonl").drop(columns="samples_per_second") for n in (1, 2)]
    np.testing.assert_allclose(logs[1]["loss"][:2], logs[0]["loss"][:2], rtol=2e-3)
    np.testing.assert_allclose(logs[1].iloc[1][["intra", "inter", "sam"]], logs[0].iloc[1][["intra", "inter", "sam"]], rtol=5e-3)
    np.testing.assert_allclose(done[1]["mean"], done[0]["mean"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(done[1]["queue"][:8], done[0]["queue"][:8], atol=5e-3)
    assert done[1]["spread"] == 0, "queues of two processes differ"
    assert done[0]["keys"] == done[1]["keys"] == 24
    noise = [np.asarray(d["noise"]) for d in done]  # a sign that hangs on the last digit may turn
    assert {*np.unique(noise[0]).round(6)} == {-0.01, 0, 0.01} and np.mean((noise[0] == noise[1])[noise[0] != 0]) > 0.93


def test_interrupted_and_resumed_equals_never_interrupted(tmp_path):
    settings = dict(first_stage=0.3, dropout=0.3, queue=8)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", 5, stop=3, **settings)
    for folder in ("cut", "whole"):
        train(tmp_path / folder, 5, **settings)
    a, b = (load_weights(Path(tmp_path) / folder / "checkpoint.safetensors").tensors for folder in ("cut", "whole"))
    assert same_weights(a, b) and a["clusters.centroids"].any() and a["keys_seen"] == 40
