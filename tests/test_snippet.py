"""Skeleton snippets: windows, what is real, all losses as they are written, two queues, padding, the state of a run, one and two processes."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import Steps, run_ranks, same_weights
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.backbones.fusion import masked
from skelnb.errors import DataError, ParameterError
from skelnb.methods.aimclr import Aimclr, AimclrPreset
from skelnb.methods.snippet import Snippet, SnippetPreset, Window, play_backwards, pool_steps, real_snippets, window_frames
from skelnb.training.checkpoint import load_weights
from skelnb.training.fit import FitConfig, fit
from skelnb.training.log import read_log
from skelnb.transforms.draws import Draws
from skelnb.transforms.temporal import frames_at

TOY = dict(frames=32, width=4, projection=6, queue=16, momentum=0.9, queue_start="random", dropout=0.0)
RVTCLR = dict(base="rvtclr", frames=64)
RELEASE = {k: v for k, v in SnippetPreset.presets()["release"].items() if k != "bins"} | dict(RVTCLR, bins=3, projection_norm=False, pooling="mean_over_M")
BASES = {"skeletonclr": {}, "aimclr": dict(base="aimclr"), "rvtclr": RVTCLR}


def make(seed=0, **changes):
    torch.manual_seed(seed)
    return Snippet(SnippetPreset.named("tiny", **TOY | changes)).train()


def batch(n=6, seed=0, rank=0, world=1, frames=72):
    "Random walks of 14 to 59 frames, each followed by noise; every other clip has one person only."
    draws = Draws(seed, 0, rank, world)
    x = draws.randn(n, 3, frames, 25, 2).cumsum(2) * 0.1 + draws.randn(n, 3, 1, 25, 2)
    index = torch.arange(n) + rank * n
    x[index % 2 == 0, ..., 1] = 0
    return {"x": x, "valid": 14 + 9 * (index % 6)}


def unit(z):
    return F.normalize(z.float(), dim=-1)


# ---- windows ------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(1, 40), st.integers(0, 99))
def test_a_window_is_a_piece_of_the_mirrored_clip(lengths, frames, seed):
    index, real = window_frames(torch.tensor(lengths), frames, Draws(seed))
    for row, n, r in zip(index.tolist(), lengths, real.tolist()):
        more, clip = n // 6, list(range(n))
        mirrored = clip[:more][::-1] + clip + clip[n - more:][::-1]
        pieces = [mirrored[s:s + r] for s in range(len(mirrored) - r + 1)]
        assert r == min(n, frames) and row[:r] in pieces and set(row[r:]) <= {row[r - 1]}


def test_windows_go_everywhere_and_may_be_shared():
    index, _ = window_frames(torch.full((4000,), 20), 10, Draws(0))
    starts = torch.where(index[:, 1] > index[:, 0], index[:, 0], -1 - index[:, 0])
    assert starts.min() == -3 and starts.max() == 13 and index.unique().tolist() == list(range(20))
    b = batch()
    b["x"] = torch.tensor([1.0, 0, 0])[None, :, None, None, None] * (1 + torch.arange(72)[:, None, None]).expand_as(b["x"])  # a shear leaves this
    for windows, same in (("shared", True), ("independent", False)):
        query, key = (make(windows=windows, center="none").views(b, Draws(0))[name] for name in ("query", "key"))
        assert torch.equal(query.valid, b["valid"].clamp_max(32)) and torch.allclose(query.x[:, 0], key.x[:, 0]) == same
        for x, n in zip(key.x, key.valid):
            assert not x[:, n:].any() and set(x[0, :n, 0, 0].diff().round(decimals=3).tolist()) <= {-1, 0, 1}


@pytest.mark.parametrize("base", ["aimclr", "rvtclr"])
def test_two_processes_see_what_one_sees(base):
    method = make(**BASES[base])
    whole = method.views(batch(6), Draws(3))
    halves = [method.views(batch(3, rank=rank, world=2), Draws(3, rank=rank, world=2)) for rank in (0, 1)]
    for name, w in whole.items():
        assert all(torch.allclose(a, torch.cat(b), atol=1e-6) for a, b in zip(w, zip(*(h[name] for h in halves))))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 80), st.integers(1, 80), st.sampled_from([4, 8]), st.sampled_from([0, 3]))
def test_a_snippet_is_real_where_half_of_it_is(valid, frames, unit, bins):
    valid = min(valid, frames)
    share = torch.tensor([np.mean([t < valid for t in range(a, min(a + unit, frames))]) for a in range(0, frames, unit)])
    steps = len(share)
    parts = [share[b * steps // bins:-(-(b + 1) * steps // bins)].mean() for b in range(bins)] if bins else share
    assert real_snippets(torch.tensor([valid]), frames, unit, bins)[0].tolist() == [i == 0 or float(s) >= 0.5 - 1e-7 for i, s in enumerate(parts)]


def test_steps_are_pooled_where_they_are_real():
    h, there = torch.randn(2, 7, 3), torch.arange(7) < torch.tensor([[7], [4]])
    pooled = pool_steps(h, there, 3)
    torch.testing.assert_close(pooled[0], F.adaptive_avg_pool1d(h[0].T, 3).T)
    torch.testing.assert_close(pooled[1], torch.stack([h[1, :3].mean(0), h[1, 2:4].mean(0), torch.zeros(3)]))
    assert pool_steps(h, there, 0) is h and pool_steps(h, there, 7) is h


def test_backwards_within_the_clip():
    x = torch.arange(8.0)[None, None, :, None, None].expand(2, 1, 8, 1, 1)
    y = play_backwards(x, Draws(0), torch.tensor([8, 5]), p=1.0)[:, 0, :, 0, 0]
    assert y.tolist() == [[7, 6, 5, 4, 3, 2, 1, 0], [4, 3, 2, 1, 0, 0, 0, 0]]
    assert torch.equal(play_backwards(x, Draws(0), torch.tensor([8, 5]), p=0.0)[0], x[0])


def test_half_of_the_batch_is_fast_and_the_other_key_is_not():
    method, b = make(**RVTCLR, strong=(), center="none"), batch(8)
    method.window = lambda batch, ids, draws, place: Window(batch["x"][:, :, :64], batch["valid"].clamp_max(64))
    views, x = method.views(b, Draws(3)), b["x"]
    fast = torch.tensor([torch.equal(q, c[:, :64:2]) for q, c in zip(views["query"].x, x)])
    for i in range(8):
        slow, quick = x[i, :, :32], x[i, :, :64:2]
        assert torch.equal(views["query"].x[i], quick if fast[i] else slow) and torch.equal(views["other"].x[i], slow if fast[i] else quick)
        assert views["query"].valid[i] == (-(-min(b["valid"][i], 64) // 2) if fast[i] else min(b["valid"][i], 32))
    assert fast.sum() == 4 and torch.equal(views["key"].x, views["query"].x) and views["whole"].x.shape[2] == 64


# ---- losses as written --------------------------------------------------------------------------------------------------------------


def snippet_loss(p, k, h, h_key, real, real_key, bank, cosine, neighbours):
    "One snippet after the other."
    losses = []
    for i in range(len(p)):
        for s in range(p.shape[1]):
            a, b = (unit(h[i, s]), unit(h_key[i])) if cosine else (h[i, s], h_key[i])
            best = (b @ a).masked_fill(~real_key[i], -torch.inf).argmax()
            logits = torch.cat([(unit(p[i, s]) @ unit(k[i, best]))[None], bank @ unit(p[i, s])]) / 0.07
            right = [0, *(1 + logits[1:].topk(neighbours).indices).tolist()] if neighbours else [0]
            if real[i, s]:
                losses.append(-logits.log_softmax(0)[right].mean())
    return torch.stack(losses).mean()


def maps(encoder, w, mask):
    if not mask:
        return encoder.forward_map(w.x)
    with masked(encoder, w.valid, w.x.shape[-1]):
        return encoder.forward_map(w.x)


@pytest.mark.parametrize("progress", [0.0, 0.9], ids=["warm", "mining"])
@pytest.mark.parametrize("base, changes", [("skeletonclr", {}), ("aimclr", dict(match="raw")), ("skeletonclr", dict(bins=3, snippet_neighbours=2))])
def test_snippets_of_whole_persons_by_loops(base, changes, progress):
    method, b, d = make(**BASES[base], **changes), batch(), Draws(5)
    method.progress = progress
    terms, views = method(b, d), method.views(b, d)
    p, h, real = method.preset, {}, {}
    for name, branch in (("query", method.student), ("key", method.teacher)):
        w = views[name]
        there = (w.x != 0).any(3).any(2).any(1).float()  # (N, M)
        steps = (maps(branch["encoder"], w, True).mean(3).unflatten(0, (6, 2)) * (there / there.sum(1, keepdim=True))[..., None, None]).sum(1).mT
        real[name] = real_snippets(w.valid, 32, 8, p.bins)
        standing = torch.arange(4) * 8 < w.valid[:, None]
        h[name] = steps if not p.bins else pool_steps(steps, standing, 3)
    assert real["key"].sum() < real["key"].numel()
    heads = [branch["snippet_head"](z.flatten(0, 1)).unflatten(0, z.shape[:2]) for branch, z in ((method.student, h["query"]), (method.teacher, h["key"]))]
    loss = snippet_loss(*heads, *h.values(), *real.values(), method.snippet_bank.queue, p.match == "cosine", p.snippet_neighbours * (progress > 0.5))
    assert terms["snippets"].item() == pytest.approx(loss.item(), rel=2e-4)
    others = sum(terms[n].item() * (1 if n == "info_nce" else p.matching) for n in ("info_nce", "extreme", "dropped") if n in terms)
    assert terms["loss"].item() == pytest.approx(others + 1.5 * loss.item(), rel=1e-4)
    keys = unit((heads[1] * real["key"][..., None]).sum(1))
    method.after_step(d, progress)
    torch.testing.assert_close(method.snippet_bank.queue[:6], keys, rtol=1e-3, atol=1e-4)


def rvtclr(method, views, mining):
    "The base as its authors write it: logits, labels, masks of positives; no padding is known."
    n, m, tau, student, teacher = 6, 2, 0.07, method.student, method.teacher
    U, T = method.bank.queue, method.preset.temperature
    assert T == tau
    whole = lambda h: h.mean((2, 3)).view(n, m, -1).mean(1)
    h, dc = student["encoder"].forward_map(views["query"].x), student["encoder"].forward_map(views["whole"].x)
    hk, ho = (teacher["encoder"].forward_map(views[name].x) for name in ("key", "other"))
    q, k, o = unit(student["projector"](whole(h))), unit(teacher["projector"](whole(hk))), unit(teacher["projector"](whole(ho)))
    qm, km, om = unit(student["tempo_head"](whole(h))), unit(teacher["tempo_head"](whole(hk))), unit(teacher["tempo_head"](whole(ho)))
    R, body = student["relation"], method.encoder.layout.parts
    parts = torch.stack([dc[..., list(joints)].mean(3) for joints in body.values()], 3)  # (n m, D, T, 5)
    parts = R.squeeze(parts.movedim(1, -1)).movedim(-1, 1)
    mean = parts.mean(3).mT
    f = torch.softmax(R.theta(mean) @ R.phi(mean).mT, -1)
    y = torch.stack([f @ R.g(parts[..., i].mT) for i in range(5)], 1)  # (n m, 5, T, D / 2)
    related = parts + R.norm(R.out(y).reshape(-1, parts.shape[1])).view(*y.shape[:3], -1).permute(0, 3, 2, 1)
    z = unit(student["relation_head"](whole(related)))
    own, other, part = ((a * b).sum(1, keepdim=True) for a, b in ((q, k), (q, o), (z, k)))
    neg, neg_part = q @ U.T / tau, z @ U.T / tau
    positives = torch.zeros(n, 1 + len(U))
    positives[:, 0] = 1
    if mining:
        positives[:, 1:].scatter_(1, neg.topk(1).indices, 1.0).scatter_(1, neg_part.topk(1).indices, 1.0)
    nce = lambda positive: -((torch.cat([positive / tau, neg], 1).log_softmax(1) * positives).sum(1) / positives.sum(1)).mean()
    scale = 1 if method.preset.dc_unscaled and not mining else tau
    target = torch.cat([own / tau, neg], 1).softmax(1).detach()
    terms = {"info_nce": nce(own), "other_tempo": nce(other), "tempo": (1 - ((qm * km).sum(1) - (qm * om).sum(1)) / tau).relu().mean(),
             "parts": -(torch.cat([part / scale, neg_part], 1).softmax(1).log() * target).sum(1).mean()}
    return terms, h, ho, o


@pytest.mark.parametrize("progress", [0.0, 0.9], ids=["warm", "mining"])
def test_the_release_as_it_is_written(progress):
    method, b, d = make(**RELEASE), batch(), Draws(5)
    method.progress = progress
    terms, views = method(b, d), method.views(b, d)
    expected, h, ho, o = rvtclr(method, views, progress > 0.5)
    pool = lambda h: F.adaptive_avg_pool1d(h.mean(3), 3).mT  # a row for each person, present or not
    rows, keys = pool(h), pool(ho)
    assert rows.shape == (12, 3, 16)
    head = lambda branch, z: branch["snippet_head"](z.flatten(0, 1)).unflatten(0, z.shape[:2])
    p, k, every = head(method.student, rows), head(method.teacher, keys), torch.ones(12, 3, dtype=torch.bool)
    expected["snippets"] = snippet_loss(p, k, rows, keys, every, every, method.snippet_bank.queue, False, 5 * (progress > 0.5))
    assert {n: terms[n].item() for n in expected} == pytest.approx({n: v.item() for n, v in expected.items()}, rel=2e-4)
    assert terms["loss"].item() == pytest.approx(sum(v.item() for v in expected.values()) + 0.5 * expected["snippets"].item(), rel=1e-4)
    terms["loss"].backward()
    expected["snippets"] = 1.5 * expected["snippets"]
    weights = list(method.student.parameters())
    for ours, theirs in zip(weights, torch.autograd.grad(sum(expected.values()), weights)):
        torch.testing.assert_close(ours.grad, theirs, rtol=2e-2, atol=2e-4)
    method.after_step(d, progress)
    torch.testing.assert_close(method.bank.queue[:6], o.detach(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(method.snippet_bank.queue[:12], unit(k.mean(1)).detach(), rtol=1e-3, atol=1e-4)


def test_it_is_an_addition():
    "Clips as long as a view: the base's terms are those of AimCLR's own class."
    shared = dict(backbone="stgcn", base="aimclr", mine_from=0.0)
    method = make(**shared, width=16, snippets=False)
    fields = {k: v for k, v in method.preset.to_dict().items() if k in AimclrPreset.named("tiny").to_dict()}
    plain = Aimclr(AimclrPreset.from_dict(fields | dict(width=4))).train()
    plain.load_state_dict(method.state_dict())
    b = {"x": batch()["x"][:, :, :32]}
    views = method.views(b, Draws(0))
    ours, _, query, _ = method.one_tempo(views)
    theirs, keys = plain.contrast({name: w.x for name, w in views.items()})
    assert {k: v.item() for k, v in ours.items()} == pytest.approx({k: v.item() for k, v in theirs.items()}, rel=1e-4)
    more = make(**shared, width=16)
    assert set(more(b, Draws(0))) == set(theirs) | {"snippets"} and query.real.all() and "snippet_head" not in method.student
    assert sum(w.numel() for w in more.student.parameters()) - sum(w.numel() for w in method.student.parameters()) == 64 * 65 + 65 * 6


SWITCHES = [dict(weight=1.0), dict(match="raw"), dict(bins=2), dict(rows="person"), dict(mask_padding=False), dict(windows="shared"), dict(ordinary=(3,)),
            dict(stream="motion"), dict(backbone="unik"), dict(backbone="stgcn"), dict(base="aimclr"), RVTCLR]


def test_every_switch_changes_the_loss():
    b, seen = batch(), []
    with torch.no_grad():
        for changes in ({}, *SWITCHES, RVTCLR | dict(tempo=3), RVTCLR | dict(strong=()), RVTCLR | dict(dc_unscaled=True), dict(progress=0.9)):
            method = make(**{k: v for k, v in changes.items() if k != "progress"})
            method.progress = changes.get("progress", 0.0)
            seen.append(method(b, Draws(0))["loss"].item())
    assert len(set(np.round(seen, 5))) == len(seen)


# ---- sizes, queues, gradients -------------------------------------------------------------------------------------------------------


def count(module):
    return sum(w.numel() for w in module.parameters())


def test_parameters_of_the_release():
    with torch.device("meta"):
        release, paper = Snippet("release"), Snippet("paper")
        light = Snippet(SnippetPreset.named("paper", base="skeletonclr", backbone="stgcn"))
    sizes = {name: count(module) for name, module in release.student.items()}
    mlp, layer = 256 * 257 + 256 * 128 + 128, 256 * 128 + 128
    assert mlp == sizes["snippet_head"] == sizes["relation_head"] and sizes["projector"] == sizes["tempo_head"] == layer
    assert sizes["relation"] == 2 * 256 * 128 + 3 * layer + 128 * 256 + 256 + 512 and sizes["encoder"] + 100 == 3_458_178
    branch = sum(sizes.values()) + 100 + 150  # norms that the release has and goes around
    assert branch == 3_919_256 == count(release.teacher) + 250 and 2 * branch + 128 * 128 == 7_854_896  # and a matrix of a loss that is not used
    assert count(paper.student) == count(release.student) and count(light.encoder) == 821_380 and light.encoder.dim == 256
    assert release.unit == 8 and light.unit == 4 and release.snippet_bank.queue.shape == release.bank.queue.shape == (32768, 128)


@pytest.mark.parametrize("frozen", [False, True])
def test_both_queues_move_on_unless_frozen(frozen):
    method, keys = make(frozen_queue2=frozen), []
    start = method.snippet_bank.queue.clone()
    assert not torch.equal(start, method.bank.queue)
    for step in range(3):
        first = method(batch(6, step), Draws(0, step))["loss"].item()
        assert method(batch(6, step), Draws(0, step))["loss"].item() == pytest.approx(first, rel=1e-6)  # asked twice, changes nothing
        method.snippets_waiting, method.waiting = method.snippets_waiting[:6], method.waiting[:6]
        keys.append(method.snippets_waiting.clone())
        method.after_step(Draws(0, step), 0.1)
    bank = method.snippet_bank
    assert method.bank.pointer == 2 and bank.pointer == (0 if frozen else 2) and bank.filled == (6 if frozen else 16)
    if frozen:
        torch.testing.assert_close(bank.queue[:6], keys[-1])
        assert torch.equal(bank.queue[6:], start[6:])
    else:
        torch.testing.assert_close(bank.queue, torch.cat([keys[2][4:], keys[0][2:], keys[1], keys[2][:4]])[:16])


def test_queues_that_start_empty():
    method = make(queue_start="empty")
    assert torch.isfinite(method(batch(), Draws(0))["loss"]) and len(method.bank) == len(method.snippet_bank) == 6
    method.eval()
    with torch.no_grad():
        method(batch(6, 1), Draws(1))
    assert len(method.snippet_bank) == 6 and len(method.snippets_waiting) == 6  # outside training nothing is remembered


@pytest.mark.parametrize("base", BASES)
def test_gradients_reach_the_student_only(base):
    method = make(**BASES[base])
    terms = method(batch(), Draws(0))
    terms["snippets"].backward(retain_graph=True)
    reached = {n.split(".")[0] for n, w in method.named_parameters() if w.grad is not None and w.grad.abs().sum() > 0}
    assert reached == {"encoder", "snippet_head"}
    terms["loss"].backward()
    assert [n for n, w in method.named_parameters() if (w.grad is None) != n.startswith("teacher")] == []


def test_bf16_is_finite_and_close():
    method, b = make(**RVTCLR), batch(8)
    single = method(b, Draws(0))["loss"].item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(b, Draws(0))["loss"]
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(single, rel=0.1)
    assert all(torch.isfinite(w.grad).all() for w in method.student.parameters())


# ---- padding ------------------------------------------------------------------------------------------------------------------------


def trained(**changes):
    "Norms that have seen data."
    method = make(**changes)
    with torch.no_grad():
        for step in range(3):
            method(batch(6, step), Draws(0, step))
    return method.eval()


@pytest.mark.parametrize("backbone, changes", [("agcn", {}), ("unik", dict(stream="motion")), ("stgcn", dict(pooling="mean_over_M"))])
def test_frames_do_not_see_what_pads_them(backbone, changes):
    method, b = trained(backbone=backbone, **changes), batch(3)
    with torch.no_grad():
        together = method.frame_features(b["x"], b["valid"])
        for i, n in enumerate(b["valid"].tolist()):
            alone = method.frame_features(b["x"][i:i + 1, :, :n])
            torch.testing.assert_close(together.frames[i, :n], alone.frames[0], rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(together.clip[i], alone.clip[0], rtol=1e-3, atol=1e-4)
            assert alone.frames.shape == (1, n, 16) and not together.frames[i, n:].any() and alone.frames.std() > 1e-2
        assert not torch.allclose(method.frame_features(b["x"]).frames[0, :14], together.frames[0, :14], atol=1e-2)


@pytest.mark.parametrize("masks", [True, False])
def test_snippets_and_losses_do_not_see_it_either(masks):
    method, b = trained(mask_padding=masks), batch()
    other = {"x": torch.where((torch.arange(72) < b["valid"][:, None])[:, None, :, None, None], b["x"], 9.0), "valid": b["valid"]}
    with torch.no_grad():
        assert method(b, Draws(0))["loss"].item() == method(other, Draws(0))["loss"].item()
        x = frames_at(b["x"], torch.arange(24).expand(6, -1))
        short = Window(x, torch.full((6,), 24))
        long = Window(F.pad(x, (0, 0, 0, 0, 0, 16)), short.valid)
        a, c = (method.look(method.student, w) for w in (short, long))
        same = torch.allclose(a.snippets, c.snippets[:, :3], rtol=1e-3, atol=1e-4) and torch.allclose(a.clip, c.clip, rtol=1e-3, atol=1e-4)
        assert same == masks and c.real.sum(1).tolist() == [3 if masks else 5] * 6


def test_features_of_steps_are_those_of_other_methods():
    method, x = trained(), batch()["x"]
    with torch.no_grad():
        said = method.features(x)
        assert said.frames.shape == (6, 9, 16) and torch.equal(said.frames, method.encoder(method.prepare(x)).frames)


def test_bad_input():
    for changes in (dict(weight=0.0), dict(width=6), dict(frames=12), dict(base="rvtclr", frames=24), dict(base="rvtclr", tempo=1), dict(ordinary=(8,)),
                    dict(strong=(10,)), dict(match="dot"), dict(snippet_neighbours=-1), dict(backbone="vit")):
        with pytest.raises(ParameterError):
            make(**changes)
    with pytest.raises(DataError, match="this Snippet takes"):
        make()({"x": torch.zeros(2, 2, 40, 25, 1)}, Draws(0))
    assert SnippetPreset.named("tiny", base="skeletonclr", neighbours=3, matching=1.0) == SnippetPreset.named("tiny")


# ---- training -----------------------------------------------------------------------------------------------------------------------


def train(folder, steps, stop=None, **changes):
    "Train the smallest of them; importable, so that other processes can be asked to."
    torch.set_num_threads(1)
    config = FitConfig(steps=steps, batch=8, lr=0.002, optimizer="sgd", weight_decay=1e-4, log_every=1, checkpoint_every=2, device="cpu", precision="32-true")
    method = make(**changes)
    fit(method, Steps(batch, stop), config, folder, progress=False)
    return {"queue": method.bank.queue.tolist(), "snippets": method.snippet_bank.queue.tolist(), "weight": method.snippet_head[2].weight.tolist(),
            "norm": method.encoder.blocks[9].norm.running_var.tolist()}


def test_one_and_two_processes_train_the_same(tmp_path):
    settings = {"steps": 1, "mine_from": 1.0}  # whose neighbour is nearest is decided by a hair's breadth
    done = [run_ranks("test_snippet:train", {"folder": str(tmp_path / str(n)), **settings}, n) for n in (1, 2)]
    logs = [read_log(tmp_path / str(n) / "metrics.jsonl").drop(columns="samples_per_second") for n in (1, 2)]
    names = ["loss", "info_nce", "snippets", "agreement"]
    np.testing.assert_allclose(logs[1].iloc[0][names], logs[0].iloc[0][names], rtol=1e-3)
    for key in ("queue", "snippets", "norm", "weight"):
        np.testing.assert_allclose(done[1][key], done[0][key], rtol=1e-3, atol=2e-3)


def test_interrupted_and_resumed_equals_never_interrupted(tmp_path):
    settings = dict(base="aimclr", mine_from=0.3, queue=8)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", 5, stop=3, **settings)
    for folder in ("cut", "whole"):
        train(tmp_path / folder, 5, **settings)
    a, b = (load_weights(Path(tmp_path) / folder / "checkpoint.safetensors").tensors for folder in ("cut", "whole"))
    assert same_weights(a, b) and a["snippet_bank.place"].tolist() == [0, 8]
