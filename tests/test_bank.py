"""Clip features extracted once: what is shown, who is encoded, what is kept, and that none of it changes a number."""

import importlib
import json
import multiprocessing
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import make_clip
from helpers_bank import Conv, Linear, Together, fail, fail_at_once, largest, nan_when_high, shifted
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from skelnb.backbones.vit import SkeletonViT
from skelnb.data.recordings import read_set
from skelnb.data.store import SkeletonStore
from skelnb.errors import DataError, LayoutError, ParameterError, TrainingError
from skelnb.evaluation import bank as module
from skelnb.evaluation.bank import POOLINGS, READOUTS, FeatureBank, View, extract_bank
from skelnb.evaluation.features import RawCoordinates
from skelnb.methods.lode import Lode
from skelnb.methods.usdrl import Usdrl, UsdrlPreset
from skelnb.topology import map_joints
from skelnb.transforms.draws import Draws
from skelnb.transforms.spatial import random_rotation
from skelnb.transforms.streams import bone, motion
from skelnb.transforms.temporal import center_crop_resize

SHORT = View(frames=16)  # LoDE's, with fewer frames
USDRL = Usdrl(UsdrlPreset.named("tiny", persons=2))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    "Nine clips, three slots: one person, three, two, one in the second slot, one, nobody, two, one, one who leaves before the middle."
    people = [(0,), (0, 1, 2), (0, 1), (1,), (0,), (), (0, 2), (0,), (0,)]
    clips = []
    for i, there in enumerate(people):
        clip = make_clip(f"clip_{i}", 20 + 7 * i, 3, i, label="wave" if i % 3 else "punch", subject=f"s{i % 4}")
        clip.xyz[:, [m for m in range(3) if m not in there]] = 0
        clips.append(clip)
    clips[8].xyz[1:] = 0
    return SkeletonStore.write(tmp_path_factory.mktemp("crowd") / "store", clips, allow_empty_frames=True)


def vit(persons="present", frames=16, seed=0):
    torch.manual_seed(seed)
    return SkeletonViT(frames=frames, dim=16, depth=2, heads=2, mlp=32, persons=persons)


def everybody(encoder, store, view=SHORT, clips=None):
    "The encoder run on whole clips, all at once."
    encoder.eval()
    with torch.no_grad():
        x = view.derive(view.read(store, np.arange(len(store)) if clips is None else clips), store.layout)
        said = (encoder.features if hasattr(encoder, "features") else encoder)(x)
    encoder.train()
    return said


def close(a, b, **tolerance):
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), **({"rtol": 1e-4, "atol": 1e-5} | tolerance))


# ---- views --------------------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(1, 130), st.sampled_from([0.95, 0.9, 0.5, 1.0, 0.03]))
def test_the_middle_is_that_of_center_crop_resize(n, frames, part):
    lo, hi, w = View(frames=frames, part=part).index([n])
    theirs = center_crop_resize(torch.arange(n, dtype=torch.float64).view(1, 1, n, 1, 1), torch.tensor([n]), frames, part)
    np.testing.assert_allclose(((1 - w) * lo + w * hi)[0], theirs.flatten(), atol=1e-3)


def slim_frames(n, T=64):
    "SLiM's test frames in plain words."
    frames = list(range(n))
    if n < 64:
        frames, turn = [], 0
        while len(frames) < 150:
            frames += list(range(n))[:: -1 if turn % 2 else 1]
            turn += 1
    L = max(len(frames) - 2 * int(0.05 * len(frames) / 2 + 1e-9), 64)
    start = (len(frames) - L) // 2
    return [frames[start + i * L // T] for i in range(T)]


@given(st.lists(st.integers(1, 400), min_size=1, max_size=5))
def test_slim_takes_the_first_frame_of_each_bin(lengths):
    lo, hi, w = View.named("slim").index(lengths)
    assert not w.any() and np.array_equal(lo, hi) and lo.tolist() == [slim_frames(n) for n in lengths]


def test_bins_of_a_part_that_is_too_short_are_interpolated():
    bins, linear = View(frames=64, part=1, rule="bins").index([63, 64]), View(frames=64, part=1).index([63, 64])
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(bins, linear)) and bins[0][1].tolist() == linear[0][1].tolist() == [*range(64)]
    assert View(frames=3, part=1, rule="bins").index([11])[0].tolist() == [[0, 3, 7]]


@pytest.mark.parametrize("name", [*View.presets(), "slow"])
def test_views_by_loops(tiny_store, name):
    view = View(frames=200, part=0.5, shortest=25, fold=60) if name == "slow" else View.named(name)
    clips = [5, 0, 3, 0]
    x = view.read(tiny_store, clips)
    assert x.shape == (4, 3, view.frames, 25, 2) and x.dtype == torch.float32
    for row, clip in zip(x, clips):
        xyz = tiny_store[clip].xyz
        lo, hi, w = (a[0] for a in view.index([len(xyz)]))
        for t in range(view.frames):
            close(row[:, t].permute(2, 1, 0), (1 - w[t]) * xyz[lo[t]] + w[t] * xyz[hi[t]])


def test_named_views():
    assert View.named("mamp") == View.named("lode") == View() and View.named("actclr").index([50])[0].tolist() == [list(range(50))]
    assert View.named("usdrl").index([64])[0].tolist() == [list(range(64))] and View.named("mamp", frames=96).index([100])[0][0, 0] == 2
    assert View.from_dict(json.loads(json.dumps(View.named("slim", stream="bone").to_dict()))) == View.named("slim", stream="bone")
    for bad in (dict(frames=0), dict(part=0.0), dict(part=1.1), dict(persons=-1), dict(fold=-1), dict(shortest=0)):
        with pytest.raises(ParameterError, match="no view of a clip.*" + next(iter(bad))):
            View(**bad)
    for bad in (dict(rule="nearest"), dict(stream="bones")):
        with pytest.raises(ParameterError, match=next(iter(bad))):
            View(**bad)
    with pytest.raises(LayoutError, match="kinect_v2"):
        View(layout="kinect2")


def test_persons_are_filled_up_or_left_out(crowd):
    x = SHORT.read(crowd, [1, 6])
    assert torch.equal(View(frames=16, persons=2).read(crowd, [1, 6]), x[..., :2])
    more = View(frames=16, persons=5).read(crowd, [1, 6])
    assert torch.equal(more[..., :3], x) and more.shape[-1] == 5 and not more[..., 3:].any()


def test_first_the_layout_then_the_augmentation_then_the_stream(crowd):
    x, seen = SHORT.read(crowd, [1, 2]), []

    def change(y):
        seen.append(y)
        return y.roll(1, 2) * 2

    z = View(frames=16, layout="smpl22", stream="motion").derive(x, "kinect_v2", change)
    close(seen[0], map_joints(x, "kinect_v2", "smpl22")[0])
    close(z, motion(seen[0].roll(1, 2) * 2))
    close(View(frames=16, stream="bone").derive(x, crowd.layout), bone(x))
    close(View(frames=16, layout="smpl22", stream="bone").derive(x, "kinect_v2"), bone(seen[0], "smpl22"))
    assert SHORT.derive(x, crowd.layout) is x


# ---- persons ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", [vit("mean_over_M"), Conv().train()], ids=["vit", "conv"])
def test_the_mean_over_M_is_exact(crowd, encoder):
    if isinstance(encoder, Conv):
        encoder(SHORT.read(crowd, [0, 1, 2]))  # batch statistics that are not those of a fresh network
    bank = extract_bank(encoder, crowd, view=SHORT, readouts=["clip", "joints", "frames"], batch=4)
    whole = everybody(encoder, crowd)
    for name in bank.readouts:
        close(bank.pooled(name, "mean_over_M"), READOUTS[name](whole))
    assert not torch.allclose(bank.pooled("clip"), whole.clip, atol=1e-2)  # the empty ones count
    assert len(bank.index) == 11 and bank.empty["clip"].any()


@pytest.mark.parametrize("encoder", [vit(), Linear(), Lode("tiny")], ids=["vit", "linear", "lode"])
def test_the_mean_over_the_present_is_exact(crowd, encoder):
    view = View(frames=32) if isinstance(encoder, Lode) else SHORT
    bank = extract_bank(encoder, crowd, view=view, batch=4)
    close(bank.pooled(), everybody(encoder, crowd, view).clip)


def test_a_common_origin_is_kept(crowd):
    "LoDE moves the second person by the first one's origin, and so does the bank; each person on its own would be another clip."
    torch.manual_seed(0)
    lode, view = Lode("tiny"), View(frames=32)
    x = view.read(crowd, [2])
    bank = extract_bank(lode, crowd, clips=[2], view=view)
    alone = [extract_bank(lode, SkeletonStore.open(crowd.path), clips=[2], view=view).rows()]
    with torch.no_grad():
        second = lode.eval().features(x[..., 1:2]).clip
    assert np.array_equal(alone[0], bank.rows()) and not np.allclose(bank.rows()[1], second[0], atol=1e-2)


def pool_one(own, M, empty, persons):
    "The features `own` {person: (D,)} of one clip, in plain words."
    z, gap = list(own.values()), torch.zeros_like(empty)
    if persons == "sum":
        return sum(z, gap)
    if persons == "concat":
        return torch.cat([own.get(m, gap) for m in range(M)])
    if persons == "mean_over_M":
        return sum(own.get(m, empty) for m in range(M)) / M
    return empty if not z else z[0] if persons == "first" else sum(z) / len(z) if persons == "present" else torch.stack(z).amax(0)


@pytest.mark.parametrize("persons", POOLINGS)
def test_poolings_by_loops(crowd, persons, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 4)
    clips = [8, 5, 1, 3, 2, 6]
    bank = extract_bank(vit("mean_over_M"), crowd, clips=clips, view=SHORT, batch=2)
    of = {c: {int(m): torch.tensor(z) for (k, m), z in zip(bank.index, bank.rows()) if k == c} for c in clips}
    expected = torch.stack([pool_one(of[c], 3, torch.tensor(bank.empty["clip"]), persons) for c in clips])
    close(bank.pooled("clip", persons), expected)
    close(bank.pooled("clip", persons, clips=[6, 8, 3]), expected[[5, 0, 3]])
    assert bank.pooled("clip", persons, clips=[]).shape[0] == 0 and bank.pooled("clip", persons).dtype == torch.float32


def test_nobody_is_not_encoded(crowd):
    encoder = Linear()
    bank = extract_bank(encoder, crowd, view=SHORT, batch=3)
    rows = [s for s in encoder.seen if s[0] > 1 or s[-1] > 1]
    assert [s[0] for s in encoder.seen[-3:]] == [6, 2, 3] and all(s[-1] == 1 for s in encoder.seen[-3:]) and rows[0][-1] == 3  # the check
    assert bank.index.tolist() == [[0, 0], [1, 0], [1, 1], [1, 2], [2, 0], [2, 1], [3, 1], [4, 0], [6, 0], [6, 2], [7, 0]]  # 5: nobody; 8: cut off
    with pytest.raises(ParameterError, match="'together' is not possible here: persons were encoded one by one\n.*present"):
        bank.pooled("clip", "together")
    with pytest.raises(ParameterError, match="persons = 'all' is not possible\n"):
        bank.pooled("clip", "all")


def test_encoders_that_see_persons_together_get_whole_clips(crowd):
    for encoder, view in ((Together(3), SHORT), (RawCoordinates(), SHORT), (Together(2), View(frames=16, persons=2)), (USDRL, View(frames=32, persons=2))):
        bank = extract_bank(encoder, crowd, view=view, batch=4)
        close(bank.pooled(), everybody(encoder, crowd, view).clip)
        assert torch.equal(bank.pooled("clip", "together"), bank.pooled()) and bank.index.tolist() == [[i, -1] for i in range(9)]
        with pytest.raises(ParameterError, match="'present' is not possible here: persons were encoded together\n.*use one of together"):
            bank.pooled("clip", "present")


def test_an_encoder_that_says_it_looks_at_each_alone_but_does_not(crowd):
    class Liar(Linear):
        def features(self, x):
            return super().features(x - x.sum(-1, keepdim=True) * (x != 0))

    with pytest.raises(ParameterError, match="Liar does not look at each person alone.*\n.*persons_apart = False"):
        extract_bank(Liar(), crowd, view=SHORT)
    assert len(extract_bank(Liar(), crowd, view=SHORT, clips=[0, 3, 7]).index) == 3  # with one person each it does not matter


# ---- what may not change a number ---------------------------------------------------------------------------------------------------


def test_the_batch_and_the_order_of_clips_do_not_matter(crowd):
    encoder = vit("mean_over_M")
    whole, small = extract_bank(encoder, crowd, view=SHORT), extract_bank(encoder, crowd, view=SHORT, batch=1)
    close(whole.pooled(), small.pooled())
    mixed = extract_bank(encoder, crowd, clips=[7, 2, 4], view=SHORT)
    close(mixed.pooled(), whole.pooled()[[7, 2, 4]])
    assert mixed.clips.tolist() == [7, 2, 4] and mixed.index[:, 0].tolist() == [7, 2, 2, 4] and len(mixed) == 3


def test_the_encoder_is_given_back_as_it_was(crowd):
    encoder = Conv().train()
    encoder.norm2.eval()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    extract_bank(encoder, crowd, view=SHORT)
    assert encoder.training and encoder.norm.training and not encoder.norm2.training
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())  # batch statistics too
    with pytest.raises(ArithmeticError):
        extract_bank(broken := Linear(fault=fail).train(), crowd, view=SHORT, batch=1)
    assert broken.training and torch.is_grad_enabled()


def test_precision_and_dtype(crowd):
    encoder = vit()
    exact = extract_bank(encoder, crowd, view=SHORT)
    mixed, half = extract_bank(encoder, crowd, view=SHORT, precision="bf16-mixed"), extract_bank(encoder, crowd, view=SHORT, dtype="float16")
    assert half.rows().dtype == np.float16 and half.pooled().dtype == torch.float32
    close(half.pooled(), exact.pooled(), atol=4e-3)
    assert not np.array_equal(mixed.rows(), exact.rows())
    close(mixed.pooled(), exact.pooled(), atol=0.1, rtol=0.1)


def test_copies(crowd):
    encoder, draw = vit(), partial(random_rotation, limit=1.0)
    bank = extract_bank(encoder, crowd, view=View(frames=16, stream="motion"), copies=3, augment=shifted, batch=4, seed=5)
    plain = extract_bank(encoder, crowd, view=View(frames=16, stream="motion"))
    close(bank.pooled(), plain.pooled())
    close(bank.pooled(copy=1), plain.pooled(), atol=1e-4)  # a shift does not change the motion: the stream comes after the augmentation
    turned = extract_bank(encoder, crowd, view=SHORT, copies=3, augment=draw, batch=4, seed=5)
    for number, part in enumerate(([0, 1, 2, 3], [4, 5, 6, 7], [8])):
        for copy in (1, 2):
            with torch.no_grad():
                x = draw(SHORT.read(crowd, part), Draws(5, number, name=f"copy {copy}"))
                close(turned.pooled(copy=copy, clips=part), encoder.eval()(x).clip)
    plain = extract_bank(encoder, crowd, view=SHORT)
    close(turned.pooled(), plain.pooled())
    first = extract_bank(encoder, crowd, view=SHORT, copies=1, augment=draw, augment_first=True, batch=4, seed=5)
    again = extract_bank(encoder, crowd, view=SHORT, copies=3, augment=draw, batch=4, seed=5)
    other = extract_bank(encoder, crowd, view=SHORT, copies=2, augment=draw, batch=4, seed=6)
    assert not np.allclose(first.rows(), plain.rows()) and np.array_equal(again.rows(copy=2), turned.rows(copy=2))
    assert not np.allclose(other.rows(copy=1), turned.rows(copy=1)) and not np.allclose(turned.rows(copy=1), turned.rows(copy=2))
    with pytest.raises(ParameterError, match="copy 3 of 3"):
        turned.pooled(copy=3)


# ---- readouts -----------------------------------------------------------------------------------------------------------------------


def test_readouts(crowd):
    encoder = vit()
    bank = extract_bank(encoder, crowd, clips=[0, 4], view=SHORT, readouts=[*READOUTS])
    f = everybody(encoder, crowd, clips=[0, 4])
    said = {"clip": f.clip, "max": f.frames.amax(1), "concat": torch.cat([f.clip, f.frames.amax(1)], 1), "joints": f.tokens.mean(1).flatten(1),
            "frames": f.frames.flatten(1)}
    assert bank.readouts == {"clip": 16, "max": 16, "concat": 32, "joints": 400, "frames": 64}
    for name, expected in said.items():
        close(bank.pooled(name), expected)
    own = extract_bank(encoder, crowd, clips=[0, 4], view=SHORT, readouts={"top": largest, "clip": READOUTS["clip"]})
    close(own.pooled("top"), f.tokens.flatten(1, 2).amax(1))
    assert list(own.readouts) == ["top", "clip"] and "top 16, clip 16" in repr(own)
    with pytest.raises(ParameterError, match="no readout 'tip'.*\n.*did you mean 'top'"):
        own.pooled("tip")


def test_readouts_that_are_none(crowd):
    def growing(f):
        return f.clip[:, : 3 if len(f.clip) == 1 else 4]

    for readouts, said in (({"all": lambda f: f.frames}, r"'all' gives \(1, 1[0-9], 5\)"), ({"few": lambda f: f.clip[:0]}, r"gives \(0, 5\)"),
                           ({"none": lambda f: None}, "gives NoneType"), ({"grows": growing}, r"gives \(11, 4\) instead of \(11, 3\)")):
        with pytest.raises(ParameterError, match=said):
            extract_bank(Linear(), crowd, view=SHORT, readouts=readouts)
    for readouts, said in (("clips", "did you mean 'clip'"), ({"a/b": largest}, "names are letters"), ({"index": largest}, "index"), ([], "no readouts")):
        with pytest.raises(ParameterError, match=said):
            extract_bank(Linear(), crowd, view=SHORT, readouts=readouts)
    with pytest.raises(ParameterError, match="gives no tokens"):
        extract_bank(Together(3), crowd, view=SHORT, readouts=["joints"])


# ---- on the disk --------------------------------------------------------------------------------------------------------------------


def counted(encoder, function, *more, **options):
    "How many rows the encoder was shown meanwhile."
    encoder.seen.clear()
    result = function(encoder, *more, **options)
    return result, sum(s[0] for s in encoder.seen)


def test_the_same_again_is_found_and_something_else_is_refused(crowd, tmp_path):
    encoder, options = Linear(), dict(view=SHORT, readouts=["clip", "max"], copies=2, augment=shifted, batch=4)
    bank, rows = counted(encoder, extract_bank, crowd, tmp_path / "bank", **options)
    names = ["bank.json", "clip.1.npy", "clip.empty.npy", "clip.npy", "clips.npy", "index.npy", "max.1.npy", "max.empty.npy", "max.npy"]
    assert sorted(p.name for p in (tmp_path / "bank").iterdir()) == names and [p.name for p in tmp_path.iterdir()] == ["bank"]
    assert rows == 22 + 1 + 3 + 1 and isinstance(bank.rows(), np.memmap) and not bank.rows().flags.writeable
    in_memory = extract_bank(encoder, crowd, **options)
    for name in ("clip", "max"):
        for copy in (0, 1):
            assert np.array_equal(bank.rows(name, copy), in_memory.rows(name, copy))
    again, rows = counted(encoder, extract_bank, SkeletonStore.open(crowd.path), tmp_path / "bank", **options)
    assert rows == 0 and torch.equal(again.pooled("max"), bank.pooled("max")) and repr(again) == repr(bank) and bank.copies == 2
    other = Linear()
    other.map.weight.data[0, 0] += 1e-3
    for encoder_, changed, key in ((other, {}, "encoder"), (encoder, dict(view=View(frames=16, part=0.9)), "view"), (encoder, dict(clips=[1, 2]), "clips"),
                                   (encoder, dict(readouts="clip"), "readouts"), (encoder, dict(seed=1), "augment"), (encoder, dict(batch=3), "augment"),
                                   (encoder, dict(precision="bf16-mixed"), "precision"), (encoder, dict(dtype="float16"), "dtype")):
        with pytest.raises(DataError, match=rf"holds features of something else: .*{key}.* differ.*\n.*replace=True"):
            extract_bank(encoder_, crowd, tmp_path / "bank", **(options | changed))
    replaced = extract_bank(other, crowd, tmp_path / "bank", **options, replace=True)
    assert not np.array_equal(replaced.rows(), in_memory.rows())
    plain = dict(view=SHORT, batch=4)
    extract_bank(encoder, crowd, tmp_path / "plain", **plain)
    assert counted(encoder, extract_bank, crowd, tmp_path / "plain", **(plain | dict(batch=2)))[1] == 0  # no chance: the batch is no part of it


def test_an_interrupted_extraction_goes_on(crowd, tmp_path):
    encoder, options = Linear(fault=fail), dict(view=SHORT, batch=1)
    with pytest.raises(ArithmeticError, match="fire"):
        extract_bank(encoder, crowd, tmp_path / "bank", **options)
    (parts,) = tmp_path.iterdir()
    assert parts.name.startswith(".bank.") and [p.name for p in parts.iterdir()] == ["00000000-00000001.npz"]
    (tmp_path / ".bank.0123.parts").mkdir()  # nobody went on with this one
    encoder.fault = None  # which is no part of its weights and settings
    bank, rows = counted(encoder, extract_bank, crowd, tmp_path / "bank", **options)
    assert rows == 5 + 11 - 1 - 3 and [p.name for p in tmp_path.iterdir()] == ["bank"]
    assert np.array_equal(bank.rows(), extract_bank(Linear(), crowd, **options).rows())


def test_parts_are_written_every_few_seconds(crowd, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "EVERY", 0.0)
    options, written, write = dict(view=SHORT, batch=2), [], module._write

    def spy(task, facts, empty, pieces, *more):
        written.extend(p.name for p in pieces)
        return write(task, facts, empty, pieces, *more)

    monkeypatch.setattr(module, "_write", spy)
    bank = extract_bank(Linear(), crowd, tmp_path / "bank", **options)
    assert written == [f"{k:08d}-{k:08d}.npz" for k in range(5)]
    assert np.array_equal(bank.rows(), extract_bank(Linear(), crowd, **options).rows())


def test_two_jobs_make_the_same_bank(crowd, tmp_path, monkeypatch):
    "The slower one opens what the faster one wrote; if that is something else, it says so."
    options, run = dict(view=SHORT, batch=4), module._run
    for name, other in (("same", {}), ("else", dict(dtype="float16"))):
        def overtaken(*args, name=name, other=other):
            monkeypatch.setattr(module, "_run", run)
            pieces = run(*args)
            extract_bank(Linear(), crowd, tmp_path / name, **options, **other)
            return pieces

        monkeypatch.setattr(module, "_run", overtaken)
        if other:
            with pytest.raises(DataError, match="something else: dtype differs"):
                extract_bank(Linear(), crowd, tmp_path / name, **options)
        else:
            assert len(extract_bank(Linear(), crowd, tmp_path / name, **options)) == 9


def test_a_damaged_bank(crowd, tmp_path):
    folder = tmp_path / "bank"
    with pytest.raises(DataError, match="no feature bank.*\n.*extract_bank"):
        FeatureBank.open(folder)
    extract_bank(Linear(), crowd, folder, view=SHORT)
    whole = (folder / "clip.npy").read_bytes()
    for damage, said in ((whole[:-8], "cannot be read"), (b"", "cannot be read")):
        (folder / "clip.npy").write_bytes(damage)
        with pytest.raises(DataError, match=said + r"[^\n]*\n.*extract again"):
            FeatureBank.open(folder)
    np.save(folder / "clip.npy", np.zeros((3, 5), np.float32))
    with pytest.raises(DataError, match=r"clip.npy: has shape \(3, 5\) instead of \(11, 5\)"):
        FeatureBank.open(folder)
    (folder / "clip.npy").unlink()
    with pytest.raises(DataError, match="clip.npy"):
        FeatureBank.open(folder)
    facts = json.loads((folder / "bank.json").read_text())
    (folder / "bank.json").write_text(json.dumps(facts | {"version": 99}))
    with pytest.raises(DataError, match="version 99"):
        FeatureBank.open(folder)
    assert len(extract_bank(Linear(), crowd, folder, view=SHORT, replace=True)) == 9  # whatever is there
    (folder / "bank.json").unlink()
    with pytest.raises(DataError, match="no feature bank"):  # unless it is no bank: somebody's thesis
        extract_bank(Linear(), crowd, folder, view=SHORT, replace=True)
    assert (folder / "clip.npy").exists()


# ---- several processes --------------------------------------------------------------------------------------------------------------


def shards_of(lengths, batch, processes, missing=None):
    "Batches for each process, and their frames."
    store = SimpleNamespace(offsets=np.concatenate([[0], np.cumsum(lengths)]))
    task = module._Task(store, np.arange(len(lengths)), SHORT, {}, batch, "32-true", "float32", 1, None, False, 0, True)
    shards = module._shards(task, range(len(task)) if missing is None else sorted(k % len(task) for k in missing), processes)
    return shards, [[sum(lengths[c] for c in task.part(k)) for k in shard] for shard in shards]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(1, 7), st.integers(1, 9), st.data())
def test_shards_are_contiguous_and_fair(lengths, batch, processes, data):
    missing = sorted(data.draw(st.sets(st.integers(0, -(-len(lengths) // batch) - 1), min_size=1)))
    shards, frames = shards_of(lengths, batch, processes, missing)
    assert sum(shards, []) == missing and len(shards) <= processes and all(type(k) is int for shard in shards for k in shard)
    assert max(map(sum, frames)) <= sum(map(sum, frames)) / processes + max(map(max, frames))


def test_shards_are_of_equal_numbers_of_frames_not_clips():
    assert shards_of([100] * 4 + [1] * 100, 1, 2)[0] == [[0, 1], [*range(2, 104)]]


def test_processes_give_the_same_to_the_bit(crowd, tmp_path):
    options = dict(view=SHORT, batch=2, copies=2, augment=shifted, readouts={"clip": READOUTS["clip"], "top": largest})
    alone = extract_bank(vit(), crowd, **options)
    shared = extract_bank(vit(), crowd, tmp_path / "bank", **options, processes=2)
    assert [p.name for p in tmp_path.iterdir()] == ["bank"] and np.array_equal(shared.index, alone.index)
    for name in ("clip", "top"):
        for copy in (0, 1):
            assert np.array_equal(shared.rows(name, copy), alone.rows(name, copy))


def in_a_child(encoder, store, parts):
    "What a process would do with both batches, and what the parent makes of it; without the process."
    task = module._task(encoder, store, None, SHORT, None, 2, "32-true", "float32", torch.device("cpu"), 1, None, False, 0)
    receive, send = multiprocessing.Pipe(duplex=False)
    module._child(module._orders(task, encoder), ({"clip": 5}, [0, 1], torch.device("cpu"), parts, 1), send)
    module._answer(None, receive)


def test_what_goes_wrong_in_a_process(tmp_path):
    clips = [make_clip(f"clip_{i}", 20, 1, i) for i in range(4)]
    clips[2].xyz[:] += 100
    store = SkeletonStore.write(tmp_path / "store", clips)
    in_a_child(Linear(), store, tmp_path / "parts")
    assert [p.name for p in (tmp_path / "parts").iterdir()] == ["00000000-00000001.npz"]
    with pytest.raises(DataError, match=r"clip 'clip_2' \(number 2\): readout 'clip' is not finite"):
        in_a_child(Linear(fault=nan_when_high), store, tmp_path / "parts")
    with pytest.raises(TrainingError, match="(?s)Traceback.*the machine caught fire.*processes=1"):
        in_a_child(Linear(fault=fail_at_once), store, tmp_path / "parts")
    with pytest.raises(ParameterError, match="another process cannot make sense of it.*\n.*define the encoder's class in a module"):
        in_a_child(Forgotten(), store, tmp_path / "parts")
    receive, send = multiprocessing.Pipe(duplex=False)
    send.close()
    with pytest.raises(TrainingError, match="ended with status -9 and gave no answer\n.*smaller batch.*__main__.*processes=1"):
        module._answer(SimpleNamespace(exitcode=-9), receive)


class Forgotten(Linear):
    "Can be pickled, but not be made again, like a class that only the parent knows."

    def __reduce__(self):
        return importlib.import_module, ("no_such_module",)


def test_what_cannot_be_sent_to_another_process(crowd):
    class Local(Linear):
        pass

    for encoder, more, said in ((Local(), {}, "the encoder Local"), (Linear(), dict(readouts={"half": lambda f: f.clip / 2}), "readout 'half'"),
                                (Linear(), dict(augment=lambda x, draws: x, copies=2), "augment")):
        with pytest.raises(ParameterError, match=said + " cannot be sent to another process.*(\n.*)*use processes=1"):
            extract_bank(encoder, crowd, view=SHORT, batch=2, processes=2, **more)


# ---- examples -----------------------------------------------------------------------------------------------------------------------


def test_examples(crowd, tiny_store):
    bank = extract_bank(vit(), crowd, view=SHORT)
    ex = bank.examples(crowd, persons="sum", clips=[7, 0, 2])
    assert ex.clips.tolist() == [7, 0, 2] and ex.groups.tolist() == ["s3", "s0", "s2"] and ex.data == crowd.checksum
    assert [ex.classes[y] for y in ex.y] == ["wave", "punch", "wave"] and torch.equal(ex.x, bank.pooled("clip", "sum")[[7, 0, 2]])
    assert bank.examples(crowd, groups="").groups.tolist() == list(range(9)) and len(bank.examples(crowd)) == 9
    assert bank.examples(crowd, groups="camera").groups.tolist() == list(range(9))  # nobody noted the camera
    with pytest.raises(DataError, match="features of another store\n.*extract again"):
        bank.examples(tiny_store)
    with pytest.raises(DataError, match=r"clip 'take_0' \(number 0\): has no label\n.*labelled"):
        extract_bank(vit(), tiny_store, view=SHORT).examples(tiny_store)
    with pytest.raises(ParameterError, match="no column 'subjects'.*\n.*did you mean 'subject'"):
        bank.examples(crowd, groups="subjects")
    with pytest.raises(ParameterError, match="1 of 2 clips are not in this bank, such as 5"):
        extract_bank(vit(), crowd, clips=[3, 4], view=SHORT).examples(crowd, clips=[4, 5])


def test_impossible_requests(crowd):
    for more, said in (
        (dict(clips=[0, 9]), "clips 0..9 of a store of 9"), (dict(clips=[-1]), "clips -1..-1"), (dict(clips=[]), "of a store of 9"),
        (dict(clips=[0.5]), "clips 0.5..0.5"), (dict(clips=[1, 1]), "a clip occurs twice"), (dict(dtype="float64"), "dtype = 'float64'"),
        (dict(batch=0), "batch = 0"), (dict(copies=2), "copies without an augmentation"), (dict(processes=0), "processes = 0"),
        (dict(precision="bf16"), "did you mean 'bf16-mixed'"), (dict(precision="16-mixed"), "does not exist on the CPU"),
        (dict(device="gpu"), "device = .gpu. is unknown"),
        (dict(view="slimm"), "did you mean 'slim'"), (dict(view="mamp"), r"\(C, T, V\) = \(3, 120, 25\) for an encoder made for \(3, 16, 25\)"),
        (dict(view=View(frames=16, layout="smpl22")), r"\(3, 16, 22\)"),
    ):
        with pytest.raises(ParameterError, match=said):
            extract_bank(vit(), crowd, **(dict(view=SHORT) | more))
    with pytest.raises(ParameterError, match=r"Conv cannot read clips of \(C, T, V, M\) = \(3, 16, 22, 3\): .*\n.*the view"):
        extract_bank(Conv(), crowd, view=View(frames=16, layout="smpl22"))
    with pytest.raises(ParameterError, match="the encoder is a function"):
        extract_bank(lambda x: x, crowd)
    with pytest.raises(ParameterError, match="not Features"):
        extract_bank(nn.Flatten(), crowd)


def test_features_that_are_not_finite_name_the_clip(tmp_path):
    clips = [make_clip(f"clip_{i}", 20, 2, i) for i in range(4)]
    clips[2].xyz[:] += 100
    store = SkeletonStore.write(tmp_path / "store", clips)
    with pytest.raises(DataError, match=r"clip 'clip_2' \(number 2\): readout 'clip' is not finite\n.*float32"):
        extract_bank(Linear(fault=nan_when_high), store, tmp_path / "bank", view=SHORT, batch=3)
    assert not (tmp_path / "bank").exists()
    large = {"large": lambda f: f.clip * 3000}
    with pytest.raises(DataError, match="clip 'clip_2' .*: readout 'large' is not finite"):
        extract_bank(Linear(), store, view=SHORT, dtype="float16", readouts=large)
    assert np.isfinite(extract_bank(Linear(), store, view=SHORT, readouts=large).rows("large")).all()


# ---- real recordings ----------------------------------------------------------------------------------------------------------------


def test_real_recordings(recordings, tmp_path):
    store = SkeletonStore.write(tmp_path / "hdm05", read_set(recordings / "skeletons", "hdm05"))
    torch.manual_seed(0)
    bank = extract_bank(Lode("tiny"), store, tmp_path / "bank", view=View(frames=32), readouts=["clip", "joints"], batch=48)
    ex = bank.examples(store, "joints")
    assert ex.x.shape == (288, 25 * 48) and len(ex.classes) == 11 and len(set(ex.groups)) == 5
    z = nn.functional.normalize(ex.x - ex.x.mean(0))
    nearest = (z @ z.T).masked_fill(torch.from_numpy(ex.groups[:, None] == ex.groups), -2).argmax(1).numpy()  # among the other people's clips
    assert (ex.y[nearest] == ex.y).mean() > 0.5  # chance: 0.09
    some = np.array([5, 100, 250])
    with torch.no_grad():
        torch.manual_seed(0)
        close(bank.pooled(clips=some), Lode("tiny").eval().features(View(frames=32).read(store, some)).clip)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu(crowd):
    here, there = (extract_bank(vit("mean_over_M"), crowd, view=SHORT, device=d) for d in ("cpu", "cuda"))
    close(here.pooled("clip", "mean_over_M"), there.pooled("clip", "mean_over_M"), atol=1e-3, rtol=1e-3)
    assert next(vit().parameters()).device.type == "cpu"
