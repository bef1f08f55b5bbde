"""LoDE: sizes, every switch, the losses against a plain transcription, and training on one, two and interrupted processes."""

import random
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from forks import start
from helpers import run_ranks, same_weights

from skelnb.data.presets import PRESETS
from skelnb.errors import CheckpointError, DataError, ParameterError
from skelnb.methods.lode import Lode, LodePreset, choose_persons, draw_masks, frame_target, standardise
from skelnb.training.checkpoint import load_weights
from skelnb.training.fit import FitConfig, fit
from skelnb.training.log import read_log
from skelnb.transforms.draws import Draws

MICRO = dict(joints=7, frames=24, dim=16, depth=2, heads=2, mlp=32, decoder_depth=1, mask_ratio=0.8, codes_motion=8, codes_sequence=4,
             decode_tokens=0, w_regulariser=1.0, code_decay=0.95, code_restart=0.1)  # 42 units, 9 visible


def preset(**changes):
    return LodePreset(**{**MICRO, **changes})


def make(**changes):
    torch.manual_seed(0)
    return Lode(preset(**changes))


def clips(n=6, p=None, persons=1, seed=0, rank=0, world=1):
    "Random walks (n, C, T, V, M) around a point that is not the origin."
    p = p or preset()
    draws = Draws(seed, 0, rank, world).child("clips")
    start = 1 + draws.randn(n, p.channels, 1, p.joints, persons) * 0.3
    return start + draws.randn(n, p.channels, p.frames, p.joints, persons).cumsum(2) * 0.05


def trained(method, steps=2, persons=1):
    "A few steps of SGD by hand, so that code books are filled and have moved away from the data."
    for i in range(steps):
        method(clips(p=method.preset, persons=persons, seed=10 + i), Draws(1, i))["loss"].backward()
        with torch.no_grad():
            for w in method.parameters():
                if w.grad is not None:
                    w -= 0.01 * w.grad / w.grad.norm().clamp(min=1e-6)
                    w.grad = None
        method.after_step(Draws(1, i).child("after"), i / steps)
    return method


def trainable(method):
    return {k: w for k, w in method.named_parameters() if w.requires_grad}


def count(method):
    return sum(w.numel() for w in trainable(method).values())


# ---- sizes and targets --------------------------------------------------------------------------------------------------------------


def test_published_sizes():
    mamp = dict(motion=False, sequence=False, seq_cond=False, regulariser="none")
    sizes = [count(Lode(LodePreset.named("paper", **changes))) for changes in ({}, dict(joints=13, channels=2), mamp)]
    assert sizes == [8_920_332, 8_912_136, 8_789_004]


def test_visible_units():
    shapes = {}
    for unit in (2, 4, 6):
        p = LodePreset.named("paper", unit=unit)
        visible, hidden, at = draw_masks(2, 1, 120 // unit * 25, p, Draws(0))
        shapes[unit] = visible.shape[1]
        assert at is hidden and visible.shape[1] + hidden.shape[1] == 3000 // unit
    assert shapes == {2: 150, 4: 75, 6: 50}


def test_target_goldens():
    x = torch.tensor([0.0, 1, 3, 6, 10, 15, 21, 28]).reshape(1, 1, 8, 1)
    plain = frame_target(x, LodePreset(joints=1, channels=1, frames=8, norm_target=False))
    assert plain.tolist() == [[[1, 2, 3, 4], [5, 6, 7, 0]]]
    golden = [[[-1.161895, -0.387298, 0.387298, 1.161895], [0.160817, 0.482451, 0.804084, -1.447352]]]
    torch.testing.assert_close(frame_target(x, LodePreset(joints=1, channels=1, frames=8)), torch.tensor(golden), rtol=0, atol=1e-5)
    where = frame_target(x, LodePreset(joints=1, channels=1, frames=8, norm_target=False, target="position"))
    assert where.tolist() == [[[0, 1, 3, 6], [10, 15, 21, 28]]]


def test_a_unit_that_stands_still_has_a_finite_target():
    assert standardise(torch.full((2, 12), 0.5)).tolist() == [[0.0] * 12] * 2


# ---- switches -----------------------------------------------------------------------------------------------------------------------

F = dict(motion=False, sequence=False, regulariser="none")
SWITCHES = [  # what a switch is compared with, the switch, what must differ: terms, parameters or gradients
    ({**F, "seq_cond": False}, {**F}, "parameters"),
    ({**F}, {**F, "motion": True}, "terms"),
    ({**F}, {**F, "sequence": True}, "terms"),
    ({**F, "sequence": True}, {**F, "motion": True, "sequence": True}, "terms"),
    ({}, dict(regulariser="none"), "terms"),
    ({}, dict(frame=False, motion=False, sequence=False), "terms"),
    ({}, dict(regulariser="mom"), "terms"),
    ({}, dict(vq=False), "terms"),
    ({}, dict(seq_cond=False), "parameters"),
    ({}, dict(unit=2), "parameters"),
    ({}, dict(unit=6), "parameters"),
    ({}, dict(mask_ratio=0.7), "gradients"),
    ({}, dict(w_frame=0.5), "gradients"),
    ({}, dict(w_motion=0.5), "gradients"),
    ({}, dict(w_sequence=0.5), "gradients"),
    ({}, dict(w_regulariser=0.5), "gradients"),
    ({}, dict(teacher="ema", momentum=0.9), "gradients"),
    ({}, dict(projector="mlp"), "parameters"),
    ({}, dict(projector_on="student"), "gradients"),
    ({}, dict(loss_on="all"), "gradients"),
    ({}, dict(target="position"), "gradients"),
    ({}, dict(norm_target=False), "gradients"),
    ({}, dict(decode_tokens=5), "gradients"),
    ({}, dict(persons="all"), "gradients"),
    (dict(persons="all"), dict(persons="nonempty"), "gradients"),
    ({}, dict(reduction="sum"), "gradients"),
    ({}, dict(code_metric="cosine"), "terms"),
    ({}, dict(codes_motion=16), "terms"),
    ({}, dict(codes_sequence=8), "terms"),
    ({}, dict(code_decay=0.5), "gradients"),
    (dict(code_decay=0.5), dict(code_decay=0.5, code_restart=0.99), "gradients"),
    ({}, dict(rotation=0.0), "gradients"),
    ({}, dict(center="frame"), "gradients"),
    ({}, dict(center="none"), "gradients"),
    ({}, dict(center_joint=0), "gradients"),
]


def run_switch(changes):
    "Terms, parameter shapes and gradients of a model that has taken two steps, on clips of which half have a second person."
    method = trained(make(**changes), 3, persons=2)
    x = clips(p=method.preset, persons=2)
    x[::2, ..., 1] = 0
    out = method(x, Draws(0, 5))
    out["loss"].backward()
    gradients = {k: w.grad for k, w in trainable(method).items()}
    assert [k for k, g in gradients.items() if g is None] == [], "a parameter takes no part"
    assert [k for k, g in gradients.items() if not g.isfinite().all()] == []
    assert [k for k, g in gradients.items() if not g.abs().max() > 0] == []
    return out, {k: g.shape for k, g in gradients.items()}, gradients


@pytest.fixture(scope="module")
def switched():
    made = {}
    return lambda changes: made.setdefault(repr(changes), run_switch(changes))


def switch_name(v):
    return v if isinstance(v, str) else ",".join(f"{k}={w}" for k, w in v.items()) or "all"


@pytest.mark.parametrize("base, changes, what", SWITCHES, ids=switch_name)
def test_every_switch_changes_something_and_leaves_no_parameter_unused(base, changes, what, switched):
    (terms, shapes, grads), (terms2, shapes2, grads2) = switched(base), switched(changes)
    if what == "parameters":
        assert shapes != shapes2
    elif what == "terms":
        assert terms.keys() != terms2.keys() or any(not torch.equal(terms[k], terms2[k]) for k in terms)
    else:
        assert shapes == shapes2
    assert not torch.equal(terms["loss"], terms2["loss"])
    if shapes == shapes2:
        assert max((grads[k] - grads2[k]).abs().max() for k in grads) > 1e-7


def test_terms_of_the_ablations():
    wanted = {"F": ({**F, "seq_cond": False}, {"frame"}), "F+M": ({**F, "motion": True}, {"frame", "motion"}),
              "F+S": ({**F, "sequence": True}, {"frame", "sequence"}),
              "F+M+S": (dict(regulariser="none"), {"frame", "motion", "sequence"}),
              "LERR alone": (dict(frame=False, motion=False, sequence=False), {"regulariser"}),
              "all": ({}, {"frame", "motion", "sequence", "regulariser"})}
    for name, (changes, terms) in wanted.items():
        method = make(**changes)
        out = method(clips(), Draws(0))
        assert {k for k in out if "perplexity" not in k} - {"loss", "ler"} == terms, name
        total = sum(getattr(method.preset, f"w_{k}") * out[k] for k in terms)
        torch.testing.assert_close(out["loss"], total), name
    assert count(make(frame=False, motion=False, sequence=False)) == count(make().encoder)


def test_the_preset_names_its_preprocessing():
    assert PRESETS[LodePreset.named("paper").data].name == "lode" and "data" not in LodePreset().to_dict()


def test_presets_that_cannot_work_are_refused():
    for wrong, message in ((dict(unit=5), "do not divide into units of 5"), (dict(regulariser="lerr"), "regulariser"),
                           (dict(frame=False, motion=False, sequence=False, regulariser="none"), "no objective")):
        with pytest.raises(ParameterError, match=message):
            preset(**wrong)


# ---- the losses, written out --------------------------------------------------------------------------------------------------------


def cosine(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return 1 - (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def nearest(vectors, codes):
    return np.stack([codes[((codes - v) ** 2).sum(1).argmin()] for v in vectors])


def written_out(method, x, draws):
    "Eq. 10 to 13 with loops, float64 and a full decoding, from the method's own encoder and decoder."
    p, L = method.preset, method.length
    rows, _, possible = method.views(x, draws)
    visible, hidden, at = draw_masks(*possible, L, p, draws.child("masks"))
    tokens = method.encoder.embed(rows)
    z = method.encoder.encode(torch.stack([t[v] for t, v in zip(tokens, visible)]))
    s = method.project(z.mean(1))
    decoded = method.decoder(z, visible, s if p.seq_cond else None)  # all L places
    if p.decode_tokens:  # places that are not asked for are no context either
        few = method.decoder(z, visible, s if p.seq_cond else None, at)
        for i, places in enumerate(at.tolist()):
            for j, k in enumerate(places):
                decoded[i, k] = few[i, j]
    full = method.encoder.encode(tokens)
    summary = full.mean(1) if p.projector_on == "student" else method.project(full.mean(1))
    guess, motion, z, s, full, summary = (t.detach().numpy() for t in (
        method.to_frame(decoded), method.to_motion(decoded), z, s, full, summary))
    frame, unit_terms = [], []
    for i in range(len(rows)):
        y = full[i] if not p.vq else nearest(full[i], method.teacher.vq_motion.codebook.numpy())
        for k in (range(L) if p.loss_on == "all" else at[i].tolist()):
            t, v = divmod(k, p.joints)
            unit = []
            for f in range(t * p.unit, (t + 1) * p.unit):
                for c in range(p.channels):
                    here = rows[i, c, f, v].item()
                    after = rows[i, c, f + 1, v].item() if f + 1 < p.frames else here
                    unit.append(here if p.target == "position" else after - here)
            unit = np.array(unit)
            if p.norm_target:
                unit = (unit - unit.mean()) / np.sqrt(unit.var(ddof=1) + 1e-6)
            frame.append(((guess[i, k] - unit) ** 2).mean())
            unit_terms.append(cosine(motion[i, k], y[k]))
    target = summary if not p.vq else nearest(summary, method.teacher.vq_sequence.codebook.numpy())
    ranks = []
    for m in z:
        sigma = np.linalg.svd(m, compute_uv=False)
        q = sigma / sigma.sum()
        ranks.append(np.exp(-(q * np.log(q)).sum()))
    regulariser = (1 / np.array(ranks)).mean() if p.reduction == "mean" else (1 / np.array(ranks)).sum()
    terms = {"frame": np.mean(frame), "motion": np.mean(unit_terms), "sequence": cosine(s, target).mean(), "regulariser": regulariser}
    total = sum(getattr(p, f"w_{k}") * v for k, v in terms.items())
    return {**terms, "loss": total, "ler": np.mean(ranks)}


@pytest.mark.parametrize("changes", [{}, dict(vq=False, seq_cond=False), dict(loss_on="all", target="position", reduction="sum"),
                                     dict(decode_tokens=7, projector="mlp", projector_on="student"), dict(unit=2, norm_target=False)],
                         ids=["default", "plain", "all", "few", "unit2"])
def test_losses_are_the_papers(changes):
    method = trained(make(**changes)).eval().double()
    for book in method.teacher.books().values():
        book.float()  # code books are float32 whatever the precision
    x, draws = clips(4, method.preset), Draws(3, 7)
    with torch.no_grad():
        out, wanted = method(x.double(), draws), written_out(method, x.double(), draws)
    for k, v in wanted.items():
        assert out[k].item() == pytest.approx(v, rel=1e-6, abs=3e-7), k


def test_every_hidden_unit_is_decoded_equally_often():
    p, seen, times = preset(decode_tokens=8), torch.zeros(2, 42), 3000
    for i in range(times):
        visible, hidden, at = draw_masks(2, 1, 42, p, Draws(0, i))
        assert at.shape == (2, 8) and all(len(set(a)) == 8 and set(a) <= set(h) for a, h in zip(at.tolist(), hidden.tolist()))
        seen.scatter_add_(1, at, torch.ones(2, 8))
    assert (seen / times - 8 / 42).abs().max() < 0.04
    everything = draw_masks(2, 1, 42, preset(decode_tokens=33), Draws(0))
    assert everything[1] is everything[2] and draw_masks(2, 1, 42, preset(loss_on="all"), Draws(0))[2] is None


def test_decoding_a_part_estimates_the_whole():
    "What is not decoded is no context of the decoder either, so that the mean over draws is close, but not the same."
    full, few = trained(make()).eval(), trained(make(decode_tokens=16)).eval()
    few.load_state_dict(full.state_dict())
    x, draws = clips(4).repeat(8, 1, 1, 1, 1), [Draws(0, i) for i in range(20)]
    with torch.no_grad():
        means = {m: np.mean([[o["frame"], o["motion"]] for o in (m(x, d) for d in draws)], 0) for m in (full, few)}
    np.testing.assert_allclose(means[full], means[few], rtol=0.02)


def test_no_gradient_reaches_the_teacher_or_the_code_books():
    method = make(teacher="ema")
    out = method(clips(), Draws(0))
    out["loss"].backward()
    assert all(w.grad is None and not w.requires_grad for w in method.teacher.parameters())
    assert all(not b.requires_grad for b in method.buffers())
    siamese = trained(make(w_frame=0, w_regulariser=0))
    x, draws = clips(), Draws(0)
    siamese(x, draws)["loss"].backward()
    live = {k: w.grad.clone() for k, w in trainable(siamese).items()}
    siamese.zero_grad()
    held = siamese.teacher.forward
    with torch.no_grad():
        rows, *_ = siamese.views(x, draws)
        fixed = [t.clone() for t in held(rows, siamese.encoder.embed(rows), siamese.encoder, siamese.project)]
    siamese.teacher.forward = lambda *_: fixed  # constants in place of the teacher
    siamese(x, draws)["loss"].backward()
    assert all(torch.equal(live[k], w.grad) for k, w in trainable(siamese).items())


def test_the_slow_copy_moves_by_its_momentum():
    method = make(teacher="ema", momentum=0.9)
    copy = method.teacher.copy
    for w in [*method.encoder.parameters(), *method.project.parameters()]:
        w.data += 1
    before = [w.clone() for w in copy.parameters()]
    method.after_step(Draws(0), 0.5)
    fast = [*method.encoder.parameters(), *method.project.parameters()]
    assert len(before) == len(fast) == len(list(copy.parameters()))
    for old, new, w in zip(before, copy.parameters(), fast):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * w, rtol=1e-6, atol=1e-7)
    assert {k.split(".")[0] for k in copy.state_dict()} == {"encoder", "project"}


# ---- input --------------------------------------------------------------------------------------------------------------------------


def test_wrong_shapes_are_named():
    method = make()
    for wrong in ((2, 3, 24, 25, 1), (2, 3, 60, 7, 1), (2, 2, 24, 7, 1), (3, 24, 7, 1)):
        for call in (lambda x: method(x, Draws(0)), method.features):
            with pytest.raises(DataError, match=re.escape(f"{wrong}; this LoDE takes (N, 3, 24, 7, M)")):
                call(torch.ones(wrong))


def test_a_batch_may_be_a_dictionary():
    method = make()
    a, b = method(clips(), Draws(0)), method({"x": clips(), "index": None}, Draws(0))
    assert torch.equal(a["loss"], b["loss"])


def test_persons():
    x = clips(3, persons=2)
    x[1, ..., 1] = 0
    assert torch.equal(choose_persons(x, "first")[0], x[..., 0]) and len(choose_persons(x, "all")[0]) == 6
    rows, which = choose_persons(x, "nonempty")
    assert which.tolist() == [0, 1, 2, 4, 5] and torch.equal(rows[1], x[0, ..., 1]) and torch.equal(rows[2], x[1, ..., 0])


def test_empty_persons_take_no_part():
    method = trained(make(persons="nonempty"), persons=1).eval()
    x = clips(5)
    with torch.no_grad():
        outs = [method(torch.cat([x, x.new_zeros(*x.shape[:4], m)], -1), Draws(0, 2)) for m in (0, 1, 3)]
    for out in outs[1:]:
        for k, v in outs[0].items():
            torch.testing.assert_close(out[k], v, rtol=1e-5, atol=1e-6)


def test_features_ignore_an_absent_person_and_where_the_clip_stands():
    method, x = make().eval(), clips(4)
    with torch.no_grad():
        alone = method.features(x)
        for same in (torch.cat([x, torch.zeros_like(x)], -1), x + torch.tensor([3.0, -2, 5]).view(1, 3, 1, 1, 1)):
            torch.testing.assert_close(method.features(same).tokens, alone.tokens, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(method.features(torch.cat([x, x.flip(2)], -1)).tokens, alone.tokens, atol=1e-3)
    assert alone.tokens.shape == (4, 6, 7, 16)


# ---- training -----------------------------------------------------------------------------------------------------------------------


class Walks:
    "Random walks that are a function of the step; `wait` makes reading slow."

    def __init__(self, p, batch, wait=0.0):
        self.p, self.size, self.wait = p, batch, wait

    def batch(self, step, rank=0, world=1):
        time.sleep(self.wait)
        return {"x": clips(self.size // world, self.p, seed=step, rank=rank, world=world)}


def train(folder, steps, changes=None, wait=0.0, **config):
    "Train the smallest LoDE in a folder; importable, so that other processes can be asked to."
    torch.set_num_threads(1)
    method = make(**(changes or {}))
    settings = dict(steps=steps, batch=8, lr=3e-3, log_every=1, checkpoint_every=4, device="cpu", precision="32-true") | config
    return fit(method, Walks(method.preset, 8, wait), FitConfig(**settings), folder, progress=False).step


def train_all(jobs):
    return [train(**job) for job in jobs]


def weights(folder):
    return load_weights(Path(folder) / "checkpoint.safetensors").tensors


def log_of(folder):
    return read_log(Path(folder) / "metrics.jsonl").drop(columns="samples_per_second")


def test_one_and_two_processes_train_the_same(tmp_path):
    kinds = {"siamese": dict(decode_tokens=9), "ema": dict(teacher="ema", momentum=0.9, code_metric="cosine", persons="all")}
    cases = {f"{k}-{s}": dict(steps=s, changes=c) for k, c in kinds.items() for s in (1, 3)}
    runs = {n: {k: {"folder": str(tmp_path / f"{n}-{k}"), **case} for k, case in cases.items()} for n in (1, 2)}
    for n, jobs in runs.items():
        assert run_ranks("test_lode:train_all", {"jobs": list(jobs.values())}, n) == [1, 3, 1, 3]
    for name in runs[1]:
        one, two = (weights(runs[n][name]["folder"]) for n in (1, 2))
        for state in (one, two):
            for k in state:  # softmax does not see what is added to every key: that third has no gradient but rounding, of which Adam
                if k.endswith("qkv.bias"):  # makes whole steps
                    state[k] = state[k].view(3, -1)[[0, 2]]
        sums = {k: v for k, v in one.items() if k.endswith("sums")}
        assert sums and same_weights(sums, {k: two[k] for k in sums}, 1e-3), name
        rest = one.keys() - sums.keys()
        assert same_weights({k: one[k] for k in rest}, {k: two[k] for k in rest}, 1e-4), name
        a, b = (log_of(runs[n][name]["folder"]) for n in (1, 2))
        np.testing.assert_allclose(a, b, rtol=1e-3)
        np.testing.assert_allclose(a.iloc[0], b.iloc[0], rtol=1e-5)


def test_killed_and_resumed_equals_never_killed(tmp_path):
    steps, after, killed = 24, random.randint(1, 18), tmp_path / "killed"
    changes = dict(teacher="ema", code_decay=0.9)
    process = start("test_lode:train", {"folder": str(killed), "steps": steps, "changes": changes, "wait": 0.02})
    while process.is_alive() and not (len(log := read_log(killed / "metrics.jsonl")) and log.step.max() >= after):
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "ended before it could be killed"
    for folder in (killed, tmp_path / "whole"):
        assert train(folder, steps, changes) == steps
    assert same_weights(weights(killed), weights(tmp_path / "whole"), 0.0), f"killed after step {after}"
    assert log_of(killed).equals(log_of(tmp_path / "whole"))


def test_bf16_is_close_to_float32(tmp_path):
    for precision in ("32-true", "bf16-mixed"):
        train(tmp_path / precision, 2, precision=precision)
    a, b = (log_of(tmp_path / precision) for precision in ("32-true", "bf16-mixed"))
    for k in ("frame", "motion", "sequence", "ler"):
        np.testing.assert_allclose(a[k], b[k], rtol=0.05, atol=0.02, err_msg=k)
    assert (a.frame != b.frame).all(), "bf16 was not used"
    assert all(v.dtype != torch.bfloat16 for v in weights(tmp_path / "bf16-mixed").values())


def test_checkpoints_go_only_where_they_belong(tmp_path):
    from helpers import Toy

    train(tmp_path, 1)
    file = tmp_path / "checkpoint.safetensors"
    again = Lode(LodePreset.from_dict(load_weights(file).meta["preset"]))
    load_weights(file, again)
    again.eval()(clips(), Draws(0))  # code books came along
    with pytest.raises(CheckpointError, match="method 'lode', wanted is 'toy'"):
        load_weights(file, Toy())
    for changes, message in ((dict(dim=32), "dim = 16 in the file, 32 here"), (dict(vq=False), "unexpected.*vq = True in the file, False"),
                             (dict(teacher="ema"), "missing"), (dict(unit=2), "unit = 4 in the file, 2 here")):
        with pytest.raises(CheckpointError, match="(?s)" + message):
            load_weights(file, make(**changes))
    with pytest.raises(CheckpointError, match="w_regulariser: 1.0 there, 0.5 here"):
        train(tmp_path, 1, dict(w_regulariser=0.5))
