"""Use: any recording through any encoder in windows, names from a few labels, similar moments, and errors that say what to do."""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_clip

import skelnb
from skelnb.backbones.features import Features
from skelnb.data.clip import Clip, orient
from skelnb.data.store import SkeletonStore
from skelnb.data.windows import stitch, window_starts
from skelnb.errors import CheckpointError, DataError, LayoutError, ParameterError
from skelnb.evaluation.features import cut, encode, extract, to_frames
from skelnb.interface import cli, commands, encoder, use
from skelnb.interface.contest import Contest, identity
from skelnb.interface.trials import METHODS, Pretraining, pretrain, run_of
from skelnb.methods.lode import Lode, LodePreset
from skelnb.reporting.runs import Run
from skelnb.topology import LAYOUTS, define_layout
from skelnb.training.checkpoint import FORMAT, save_weights


def make(name="lode", seed=0, **settings):
    kind, presets = METHODS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(presets.named("tiny", **settings)).eval()


@pytest.fixture
def enc():
    return encoder.Encoder(make(), "kinect_v2")


@pytest.fixture
def take():
    return make_clip("take", 100, seed=5)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_store):
    "A run folder as trials leave it, and one as the contest does, with weights nobody trained."
    base = tmp_path_factory.mktemp("runs")
    p = Pretraining("usdrl", "tiny", length=48, reads="windows")
    trial = Run.create(base, p.to_dict(), p.method, tiny_store.checksum)
    assert trial.folder == run_of(p, tiny_store, base)
    e = Contest(preset="tiny")
    contest = Run.create(base, **identity(e, tiny_store, tiny_store))
    for run, method in ((trial, make("usdrl")), (contest, Lode(LodePreset.named("tiny")))):
        save_weights(run.folder / "checkpoint.safetensors", method, {"method": method.name, "preset": method.preset.to_dict(), "step": 7})
        run.finish({"acc": 61.5, "seconds": 3.0})
    return trial.folder, contest.folder


# ---- encoding ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_says_the_mean_of_its_windows(name):
    method = make(name)
    enc = encoder.Encoder(method, "kinect_v2", window=40)
    clip = make_clip("two", 95, 2, seed=3)
    said = enc(clip, stride=13, batch=3)
    starts = window_starts(95, 40, 13)
    x = torch.from_numpy(np.stack([clip.xyz[s:s + 40] for s in starts])).permute(0, 4, 1, 3, 2)
    at = np.clip((np.arange(enc.frames) + 0.5) * 40 / enc.frames - 0.5, 0, 39)  # half-pixel resampling, written out
    lo, w = at.astype(int), torch.tensor(at - at.astype(int), dtype=torch.float32)[:, None, None]
    x = x[:, :, lo] * (1 - w) + x[:, :, np.minimum(lo + 1, 39)] * w
    x = x[..., :1] if name == "usdrl" else x  # made for one person
    with torch.no_grad():
        plain = method.features(x)
    np.testing.assert_allclose(said.windows, plain.clip, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(said.frames, stitch(to_frames(plain.frames, 40), starts, 95), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(said.clip, plain.clip.mean(0), rtol=1e-3, atol=1e-4)
    assert said.observed is None and (said.starts == starts).all()


def test_tensors_are_features_and_the_batch_does_not_matter(enc, take):
    x = torch.randn(2, 3, 32, 25, 1)
    assert isinstance(enc(x), Features) and torch.equal(enc(x).clip, enc.method.features(x).clip)
    np.testing.assert_allclose(enc(take, batch=1).frames, enc(take, batch=50).frames, atol=1e-5)


def test_other_skeleton_other_vertical_other_rate(enc, take):
    mapped = take.to("coco17")
    there = enc(mapped)
    np.testing.assert_allclose(there.frames, enc(mapped.to("kinect_v2")).frames, atol=1e-4)
    assert there.observed.sum() == 12 and (enc.observed(mapped) == there.observed).all()
    for up in ("z", "-y", "x", "-z"):
        np.testing.assert_allclose(enc(orient(take, up)).frames, enc(take).frames, rtol=1e-3, atol=1e-3)
    fast = encoder.Encoder(enc.method, "kinect_v2", fps=30)
    twice = Clip(np.repeat(take.xyz, 2, 0), 60, take.layout, "twice")
    assert fast(twice).size == 64 and enc(twice).size == 32
    a, b = fast(twice).frames[::2], enc(take).frames
    assert np.abs(a - b).mean() < 0.5 * np.abs(enc(twice).frames[::2] - b).mean()


def test_short_clips(enc):
    short = make_clip("brief", 20)
    with pytest.raises(DataError, match=r"clip 'brief': has 20 frames, a window 32\n.*pad.*window=20"):
        enc(short)
    padded = Clip(np.concatenate([short.xyz, np.repeat(short.xyz[-1:], 12, 0)]), 30, short.layout, "padded")
    np.testing.assert_allclose(enc(short, short="pad").windows, enc(padded).windows, atol=1e-5)
    assert enc(short, window=20).windows.shape == (1, 48) and enc(short, window=20).frames.shape == (20, 48)
    with pytest.raises(ParameterError, match="short"):
        enc(short, short="stretch")


def test_what_cannot_be_read_is_refused(enc, take, monkeypatch):
    with pytest.raises(DataError, match="'take': has 2 coordinates, the encoder takes 3"):
        enc(Clip(take.xyz[..., :2], 30, take.layout, "take"))
    with pytest.raises(DataError, match="units 'px'"):
        enc(Clip(take.xyz, 30, take.layout, "take", units="px"))
    monkeypatch.setitem(LAYOUTS, "glove", define_layout("glove", "wrist_left thumb_left", (-1, 0)))
    with pytest.raises(LayoutError, match="'take': joint 'spine_base' of kinect_v2 can be neither copied nor imputed from glove"):
        enc(Clip(take.xyz[:, :, :2], 30, "glove", "take"))
    with pytest.raises(ParameterError, match="a str is no recording"):
        enc("take.csv")
    with pytest.raises(DataError, match="NaN"):
        enc(Clip(take.xyz * np.nan, 30, take.layout, "take"))
    with pytest.raises(ParameterError, match="batch = 0"):
        enc(take, batch=0)


def test_a_store_is_no_clip_and_a_path_no_encoder(enc, take, tiny_store):
    for attempt in (lambda: enc(tiny_store), lambda: use.segment(tiny_store, enc.fit(tiny_store, epochs=1))):
        with pytest.raises(ParameterError, match=r"a store of 6 recordings, and this is about one\n.*store\[0\]"):
            attempt()
    for wrong in ("runs/lode", take):
        with pytest.raises(ParameterError, match=f"a {type(wrong).__name__} is no encoder\n.*skelnb.load"):
            use.segment(take, wrong)
    for options in ({"smoothing": -1}, {"shortest": 0}):
        with pytest.raises(ParameterError, match="smoothing from 0"):
            use.segment(take, enc, **options)
    with pytest.raises(ParameterError, match="no page of a Clip"):
        use.page_parts(take)


def test_what_cannot_be_fitted_is_refused(enc, take, tiny_store):
    for clips in ([6], [-1], ["take_0"], [True, False]):
        with pytest.raises(ParameterError, match="by their numbers, 0 to 5"):
            enc.fit(tiny_store, clips)
    with pytest.raises(ParameterError, match="'epoch'.*\n.*did you mean 'epochs'"):
        enc.fit(tiny_store, epoch=3)
    with pytest.raises(ParameterError, match="a str is no recording\n.*SkeletonStore.open"):
        enc.fit("a/store")
    lost = Clip(np.where(np.arange(100)[:, None, None, None] == 7, np.nan, take.xyz), 30, take.layout, "lost", segments=[(0, 9, "wave")])
    with pytest.raises(DataError, match=r"^clip 'lost', frame 7"):  # not the folder in which clips become a store
        enc.fit([lost])


def test_tables(enc, take):
    said = enc(take)
    for rows, n in (("windows", len(said.windows)), ("frames", 100), ("clip", 1)):
        table = said.table(rows)
        assert len(table) == n and list(table.columns[:6]) == ["name", "start", "end", "start_s", "end_s", "z0"] and table.end.max() == 100
    assert said.table("frames").end_s.iloc[-1] == pytest.approx(100 / 30) and "100 frames" in repr(said)
    with pytest.raises(ParameterError, match="did you mean 'frames'"):
        said.table("frame")


# ---- loading and saving --------------------------------------------------------------------------------------------------------------------


def test_runs_of_trials_and_of_the_contest(runs):
    trial, contest = (skelnb.load(r) for r in runs)
    assert (trial.method.name, trial.window, trial.frames, trial.layout) == ("usdrl", 48, 32, "kinect_v2")
    assert (contest.method.name, contest.window, contest.layout) == ("lode", 32, "kinect_v2")
    assert trial.fps is None is contest.fps  # these checkpoints, as older ones, do not say
    assert trial.about["metrics"] == {"acc": 61.5} and trial.about["run"] == runs[0].name and trial.about["data"]
    assert all(torch.equal(a, b) for a, b in zip(skelnb.load(runs[1] / "checkpoint.safetensors").parameters(), contest.parameters()))


def test_a_trained_run_names_its_skeleton_and_frame_rate(tmp_path, tiny_store):
    clips = [Clip((c := tiny_store[i].to("coco17")).xyz, 25, c.layout, c.name) for i in range(3)]
    store = SkeletonStore.write(tmp_path / "store", clips)
    p = Pretraining("lode", "tiny", {"joints": 17, "center_joint": 0}, steps=2, batch=2)
    run = tmp_path / "runs" / pretrain(p.to_dict(), str(store.path), str(tmp_path / "runs"))["run"]
    assert run == run_of(p, store, tmp_path / "runs")
    enc, bare = skelnb.load(run), tmp_path / "bare.safetensors"
    assert (enc.layout, enc.fps, enc.window) == ("coco17", 25, 32) and enc.about["run"] == run.name
    bare.write_bytes((run / "checkpoint.safetensors").read_bytes())
    assert skelnb.load(bare).layout == "coco17" and skelnb.load(bare, fps=50).fps == 50
    assert enc(Clip(clips[1].xyz, 50, "coco17", "fast"), short="pad").size == 64


def test_saved_and_loaded(runs, tmp_path, tiny_store, take):
    enc = skelnb.load(runs[0], fps=25).fit(tiny_store, epochs=3)
    again = skelnb.load(enc.save(tmp_path / "kept", licence="mit"))
    assert (again.window, again.fps, again.head.classes, again.about["licence"]) == (48, 25, tiny_store.classes, "mit")
    assert np.array_equal(again(take).frames, enc(take).frames) and np.array_equal(use.segment(take, again).probabilities, use.segment(take, enc).probabilities)
    card = (tmp_path / "kept" / "README.md").read_text()
    facts = ("license: mit", "library_name: skelnb", runs[0].name, tiny_store.checksum, "| acc | 61.5 |", "background, punch, wave", "48 frames at 25")
    assert [f for f in facts if f not in card] == []
    other = encoder.Encoder(make("usdrl", 1), "kinect_v2")
    other.save(tmp_path / "other")
    (tmp_path / "other" / "head.safetensors").write_bytes((tmp_path / "kept" / "head.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="fitted on other weights"):
        skelnb.load(tmp_path / "other")


def test_load_says_what_is_wrong(runs, tmp_path):
    def refused(match, path, **options):
        with pytest.raises(CheckpointError, match=match) as e:
            skelnb.load(path, **options)
        assert e.value.remedy

    refused("no such run or file\n.*did you mean lode-", runs[1].with_name(runs[1].name[:-1]))
    refused("folder of 2 runs", runs[0].parent)
    refused("checkpoint of method 'lode', wanted is 'usdrl'", runs[1], method="usdrl")
    measured = Run.create(tmp_path, {"what": "clips"}, "clips")
    measured.finish({"percent": {}, "pretraining": runs[0].name})
    refused(f"has no weights\n.*is in {runs[0].name}", measured.folder)
    meta = {"method": "lode", "preset": LodePreset.named("tiny").to_dict()}
    preset = meta["preset"]
    for changes, match in (({"method": "gait"}, "method 'gait', which is not known here"), ({"skelnb_format": FORMAT + 1}, "cannot read it yet"),
                           ({"preset": preset | {"wings": 2}}, "'wings'.*written by skelnb"), ({"preset": preset | {"joints": 17}}, "does not fit")):
        save_weights(tmp_path / "w.safetensors", make(), meta | changes)
        refused(match, tmp_path / "w.safetensors")
    save_weights(tmp_path / "w.safetensors", make("lode", joints=17), meta | {"preset": LodePreset.named("tiny", joints=17).to_dict()})
    refused("which skeleton its 17 joints are", tmp_path / "w.safetensors")
    assert skelnb.load(tmp_path / "w.safetensors", layout="coco17").layout == "coco17"
    with pytest.raises(LayoutError, match="kinect_v2 has 25 joints, the encoder takes 17"):
        skelnb.load(tmp_path / "w.safetensors", layout="kinect_v2")
    refused("was trained on kinect_v2, not body25", runs[0], layout="body25")
    for options in ({"window": -3}, {"fps": -1}, {"fps": "30"}, {"device": "gpu"}):
        with pytest.raises(ParameterError, match=str(*options.values())):
            skelnb.load(runs[1], **options)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "checkpoint.safetensors").write_bytes((runs[1] / "checkpoint.safetensors").read_bytes())
    (tmp_path / "odd" / "run.json").write_text('{"settings": null}')
    with pytest.raises(DataError, match="run.json: is no description of a run"):
        skelnb.load(tmp_path / "odd")
    (tmp_path / "w.safetensors").write_bytes(b"torn")
    refused("damaged", tmp_path / "w.safetensors")


# ---- naming --------------------------------------------------------------------------------------------------------------------------------


def labelled(n=4, T=120):
    "Takes in which the left hand is raised, or not: anything can learn that."
    clips = []
    for i in range(n):
        c = make_clip(f"t{i}", T, seed=i)
        up = slice(30 + 5 * i, 80)
        c.xyz[up, :, 5:8, 1] += 1.5
        clips.append(Clip(c.xyz, 30, c.layout, c.name, segments=[(up.start, up.stop, "raised")]))
    return clips


def test_names_come_from_a_few_clips(enc):
    clips = labelled()
    with pytest.raises(ParameterError, match=r"'t3': the encoder has no head.*\n.*enc.fit\(store\)"):
        use.segment(clips[3], enc)
    with pytest.raises(DataError, match="none of 1 recordings has a label"):
        enc.fit([make_clip()])
    said = use.segment(clips[3], enc.fit(clips[:3], stride=4), stride=4)
    assert said.classes == ("background", "raised") and said.probabilities.shape == (120, 2) and np.allclose(said.probabilities.sum(1), 1, atol=1e-5)
    assert (said.labels == [45 <= t < 80 for t in range(120)]).mean() > 0.85
    assert list(said) == said.segments and all(s.label == "raised" for s in said) and said[0] == said.segments[0]
    assert list(said.table().columns) == ["name", "label", "start", "end", "start_s", "end_s", "probability"]
    assert all(s.end - s.start >= 25 for s in use.segment(clips[3], enc, shortest=25)) and "segments" in repr(said)


def test_a_segmentation_is_the_mean_of_its_windows(enc, tiny_store):
    enc.fit(tiny_store, [2, 3], epochs=5)
    clip, store = tiny_store[5], tiny_store
    windows = cut(store, [5], 32, 16)
    said = encode(enc.method, next(windows.batches(store, 99))[1])
    with torch.no_grad():
        plain = stitch(enc.head(said, 32), windows.start, len(clip))
    np.testing.assert_allclose(use.segment(clip, enc, batch=2).probabilities, plain, atol=1e-5)
    rough, smooth = (np.abs(np.diff(use.segment(clip, enc, smoothing=k).probabilities, axis=0)).max() for k in (0, 5))
    assert smooth < rough / 2


def test_fitting_again_reads_what_was_kept(enc, tiny_store, tmp_path, monkeypatch):
    enc.fit(tiny_store, cache=tmp_path, epochs=2)
    first = use.segment(tiny_store[5], enc).probabilities
    monkeypatch.setattr(encoder, "extract", None)
    monkeypatch.setattr("skelnb.evaluation.features.extract", None)
    assert np.array_equal(use.segment(tiny_store[5], enc.fit(tiny_store, cache=tmp_path, epochs=2)).probabilities, first)


def test_memory_does_not_grow_with_the_take(enc, monkeypatch):
    enc.fit(labelled(2), epochs=1)
    sizes, old = [], use.Encoder.stream

    def spy(self, source, windows, batch=32):
        for rows, said in old(self, source, windows, batch):
            sizes.append(said.clip.shape[0])
            yield rows, said

    monkeypatch.setattr(use.Encoder, "stream", spy)
    long = make_clip("long", 3000)
    said = use.segment(long, enc, batch=8)
    assert max(sizes) == 8 and len(sizes) == 24 and len(said.probabilities) == 3000


# ---- searching -----------------------------------------------------------------------------------------------------------------------------


def test_find_is_cosine_search_written_out(enc, tiny_store):
    clip = use.part_of(tiny_store[4], 10, 42)
    found = use.find(clip, tiny_store, enc, k=3, readout="clip")
    others = [0, 1, 2, 3, 5]
    windows = cut(tiny_store, others, 32, 8)
    z = torch.from_numpy(extract(enc.method, tiny_store, windows, what="clip").astype(np.float32))
    with torch.no_grad():
        q = enc.method.features(torch.tensor(clip.xyz).permute(3, 0, 2, 1)[None]).clip
    cosine = torch.nn.functional.cosine_similarity(z - z.mean(0), q - z.mean(0))
    best = int(cosine.argmax())
    first = found.moments.iloc[0]
    assert (first.recording, first.start) == (windows.clip[best], windows.start[best]) and first.similarity == pytest.approx(float(cosine[best]), abs=1e-3)
    assert tiny_store.name(4) not in set(found.table().name) and len(found) == 3 and found.moments.similarity.is_monotonic_decreasing


@pytest.mark.parametrize("with_encoder", [True, False])
@pytest.mark.parametrize("span", [(5, 30), (20, 52), (8, 100)])
def test_a_moment_finds_itself(enc, tiny_store, with_encoder, span):
    part = use.part_of(tiny_store[5], *span)
    found = use.find(part, tiny_store, enc if with_encoder else None, clips=range(6), stride=1, k=2)
    first = found.moments.iloc[0]
    assert (first.recording, first.start) == (5, span[0]) and first.similarity > 0.99
    assert abs(first.end - span[1]) < 3 and len(found[0]) == first.end - first.start
    assert len(found) < 2 or found.moments.similarity[1] < first.similarity


def test_a_long_query_is_compared_at_even_steps(enc, tiny_store, monkeypatch):
    monkeypatch.setattr(use, "nms", lambda start, *rest, **more: np.arange(len(start)))
    found = use.find(use.part_of(tiny_store[5], 7, 67), tiny_store, enc, clips=range(6), stride=7, k=50)
    m = found.moments
    assert (m.recording[0], m.start[0]) == (5, 7) and m.similarity[0] > 0.99
    assert set(m.end - m.start) == {4 * 7 + 32} and set(m.start % 7) == {0} and (np.diff(tiny_store.offsets)[m.recording] >= m.end).all()


def test_moments_do_not_overlap_and_have_labels(enc, tiny_store, tmp_path):
    part = use.part_of(tiny_store[3], 0, 20)
    found = use.find(part, tiny_store, enc, k=20, index=tmp_path)
    for _, group in found.moments.groupby("recording"):
        rows = group.sort_values("start")
        overlap = (rows.end.shift() - rows.start).fillna(0)
        assert (overlap <= 0.41 * 20).all()
    m = found.moments.iloc[0]
    labels = np.array(tiny_store.classes)[tiny_store.frame_labels(int(m.recording))[int(m.start):int(m.end)]]
    assert found.table().label[0] in pd.Series(labels).mode().tolist()
    assert use.find(part, tiny_store, enc, k=20, index=tmp_path).moments.equals(found.moments) and list(tmp_path.glob("*.npy"))


def test_find_refuses(enc, tiny_store):
    with pytest.raises(DataError, match="no recording is as long as the query's"):
        use.find(make_clip("long", 400), tiny_store, enc)
    with pytest.raises(DataError, match="no recording is chosen"):
        use.find(make_clip("q"), tiny_store, enc, clips=[])

    alone = use.part_of(tiny_store[5], 0, 30)
    for match, error, options in (("k = 0", ParameterError, {"k": 0}), ("'token'.*\n.*did you mean 'tokens'", ParameterError, {"readout": "token"}),
                                  ("a str is no encoder", ParameterError, {"encoder": "runs/x"})):
        with pytest.raises(error, match=match):
            use.find(alone, tiny_store, **{"encoder": enc, **options})
    with pytest.raises(ParameterError, match="a store of 6 recordings"):
        use.find(tiny_store, tiny_store, enc)
    with pytest.raises(DataError, match="holds no recording but 'take_0'"):
        use.find(tiny_store[0], encoder.Take(tiny_store[0]), enc)

    class Empty(SkeletonStore):
        def __init__(self): self.path = "nowhere"
        def __len__(self): return 0

    for attempt in (lambda s: use.find(make_clip("q"), s, enc), lambda s: enc.fit(s)):
        with pytest.raises(DataError, match="nowhere: holds no recording"):
            attempt(Empty())


# ---- files, pages, commands ----------------------------------------------------------------------------------------------------------------


def test_tables_are_written(tmp_path):
    table = pd.DataFrame({"name": ["ä, b", "c"], "start": [1, 2], "value": [1 / 3, np.nan]})
    for kind, read in (("csv", pd.read_csv), ("json", pd.read_json)):
        back = read(use.write_table(table, tmp_path / f"t.{kind}"))
        assert back.name.tolist() == ["ä, b", "c"] and back.value[0] == pytest.approx(1 / 3, abs=1e-6) and np.isnan(back.value[1])
    pytest.importorskip("pyarrow")
    assert pd.read_parquet(use.write_table(table, tmp_path / "t.parquet")).equals(table)
    with pytest.raises(ParameterError, match="'.xlsx'"):
        use.write_table(table, tmp_path / "t.xlsx")
    assert len(list(tmp_path.iterdir())) == 3


def test_pages_need_nothing_else(enc, tiny_store, tmp_path):
    enc.fit(tiny_store, epochs=2)
    clip = make_clip("<b>&", 60)
    said = use.segment(clip.to("coco17"), enc)
    texts = [use.write_page(r, tmp_path / "p.html").read_text() for r in (said, use.find(clip, tiny_store, enc, k=2), enc(clip), [said, said])]
    shown = [re.sub(r"<script.*?</script>", "", t, flags=re.S) for t in texts]
    assert all("&lt;b&gt;&amp;" in t and "<b>" not in t and "</b>" not in t for t in shown)
    assert not any(re.search(r'(src|href)="http|url\(http|@import', t) for t in texts)
    assert "13 of 25 joints were not measured" in texts[0] and texts[3].count("skelnb-player") > texts[0].count("skelnb-player")
    assert "punch" in use.Segmentation(clip, np.eye(3, dtype=np.float32)[np.arange(60) % 3], tiny_store.classes, 0)._repr_html_()


def test_query_and_moments_share_a_clock(tiny_store, tmp_path):
    query = use.part_of(tiny_store[5], 20, 45)
    found = use.find(query, tiny_store, k=7)
    data = json.loads(re.search(r'"application/json">(.*?)</script>', use.write_page(found, tmp_path / "p.html").read_text(), re.S)[1])
    titles = [c["title"] for c in data["clips"]]
    assert len(found) == 7 and titles[0] == "asked for" and len(titles) == 6 and data["loop"]
    assert titles[1] == f"1. {found.table().label[0]}, {found.moments.similarity[0]:.2f}" and data["seconds"] == pytest.approx(25 / 30, abs=0.04)
    assert np.array_equal(found.player(2).clips[2][1].xyz, found[1].xyz)


def test_the_same_words_on_the_command_line(runs, tiny_store, tmp_path, capsys):
    def said(line, status=0):
        assert cli.main([str(word) for word in line]) == status
        captured = capsys.readouterr()
        return captured.out if status == 0 else captured.err

    store, out = tiny_store.path, tmp_path / "out.csv"
    said(["embed", store, runs[1], "--out", out, "--clip", "take_5", "--rows", "frames"])
    assert len(pd.read_csv(out)) == 130
    assert "no head" in said(["segment", store, runs[1], "--short", "pad"], 2)
    kept = tmp_path / "kept"
    said(["segment", store, runs[1], "--labelled", store, "--part", "part=train", "--save", kept, "--short", "pad", "--out", tmp_path / "s.json"])
    assert {row["name"] for row in json.loads((tmp_path / "s.json").read_text())} <= {f"take_{i}" for i in range(6)}
    assert "punch" in said(["segment", store, kept, "--clip", "4", "--page", tmp_path / "page.html"]) and (tmp_path / "page.html").exists()
    assert len(said(["find", store, store, "--clip", "take_3", "--start", 5, "--end", 40, "--k", 2]).splitlines()) == 3
    assert "6 recordings, and the query is one" in said(["find", store, store], 2)
    assert "did you mean 'take_5'" in said(["embed", store, runs[1], "--clip", "take_9"], 2)
    assert "frames 80 to 20 of 130" in said(["find", store, store, "--clip", "take_5", "--start", 80, "--end", 20], 2)
    assert "read without options such as colour" in said(["embed", store, runs[1], "colour=red"], 2)
    assert commands.embed(store, runs[1], clip="take_5", rows="clip").splitlines()[1].split()[1] == "take_5"


def imported_with(start):
    "Modules that are imported with one of skelnb: those that statements at the top of it name, and of it in turn."
    found, todo = set(), [start]
    while todo:
        module = todo.pop()
        file = Path(skelnb.__file__).parents[1] / (module.replace(".", "/") + ".py")
        if module in found or not file.is_file():
            found.add(module)
            continue
        found.add(module)
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ImportFrom):
                base = ".".join([*(module.split(".")[: -node.level] if node.level else []), *filter(None, [node.module])])
                todo += [base, *(f"{base}.{a.name}" for a in node.names)]
            elif isinstance(node, ast.Import):
                todo += [a.name for a in node.names]
    return found


def test_loading_an_encoder_imports_little():
    found = imported_with("skelnb.interface.encoder")
    assert {"torch", "pandas", "skelnb.methods.slim", "skelnb.training.fit"} <= found  # the walk goes somewhere
    slow = ("lightning", "joblib", "sklearn", "scipy", "matplotlib", "skelnb.evaluation.detection", "skelnb.interface.trials", "skelnb.reporting")
    assert [m for m in sorted(found) if m.startswith(slow)] == []  # together they take longer than PyTorch


def test_names_of_the_package():
    assert skelnb.load is encoder.load and skelnb.segment is use.segment and skelnb.find is use.find
    assert {"load", "embed", "segment", "find", "convert_official"} <= set(dir(skelnb))


def test_a_real_take(recordings, enc):
    from skelnb.data.recordings import read_set

    clips = [c for c, _ in zip(read_set(recordings / "skeletons", "precog"), range(3))]
    said = use.segment(clips[2], enc.fit(clips[:2], epochs=20, stride=8), short="pad")
    assert len(said.probabilities) == len(clips[2]) and set(said.classes) >= {"background"} and np.isfinite(enc(clips[2]).frames).all()
