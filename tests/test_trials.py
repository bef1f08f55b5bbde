"""Trials: any method, nobody on both sides, nothing run twice, and a report from the small files alone."""

import json

import numpy as np
import pytest
import torch
from conftest import make_clip

from skelnb.data.store import SkeletonStore
from skelnb.data.synthetic import make_store
from skelnb.errors import CheckpointError, DataError, ParameterError, TrainingError
from skelnb.evaluation.bank import View
from skelnb.evaluation.protocols import Entrant, measure, measure_frames, raw_coordinates
from skelnb.interface import trials as module
from skelnb.interface.trials import (
    METHODS,
    READS,
    WEIGHTS,
    Pretraining,
    Trial,
    arrays_of,
    collect,
    entrants,
    identity,
    learnt,
    load_encoder,
    pretrain,
    run_of,
    scored_people,
    trial,
    trials,
)
from skelnb.reporting.runs import Run, run_folder

QUICK = dict(preset="tiny", steps=3, batch=4, overrides=dict(dim=16, projection=16, projection_instance=16, frames=16, min_frames=12))
PROTOCOLS = ("logistic", "1-NN", "retrieval", "10 % labels")
FRAMES = dict(what="frames", settings=dict(window=16, stride=16, overrides=dict(epochs=2)))


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    "Recordings to learn from, trimmed clips to recognise, takes to segment: partly of the same people."
    folder = tmp_path_factory.mktemp("trials")
    source = make_store(folder / "source", 14, untrimmed=True, seed=1, segments=(1, 2))
    clips = make_store(folder / "clips", 48, seed=2, actions=("wave", "kick", "squat"), frames=(30, 40))
    takes = make_store(folder / "takes", 12, untrimmed=True, seed=3, segments=(2, 2), actions=("wave", "kick"))
    return source, clips, takes


@pytest.fixture(scope="module")
def base(stores):
    return Pretraining.from_dict(QUICK | dict(without=scored_people({"clips": stores[1], "takes": stores[2]})))


@pytest.fixture(scope="module")
def ran(stores, base, tmp_path_factory):
    "A small table, run in this process."
    folder = tmp_path_factory.mktemp("runs")
    rows = entrants("USDRL", base, (0, 1), variants={"STTR": dict(encoder="sttr")}, protocols=PROTOCOLS)
    return folder, rows, trials(rows, stores[1], stores[0], folder, device="cpu")


def same_table(a, b):
    a, b = (m.table().drop(columns=["over", "selection"]).astype(float) for m in (a, b))
    np.testing.assert_allclose(a, b.loc[a.index], atol=1e-6)


# ---- settings -----------------------------------------------------------------------------------------------------------------------


def test_settings_survive_json_and_misspelt_ones_do_not(base):
    t = Trial(pretraining=base.to_dict(), **FRAMES)
    for value in (base, t):
        assert type(value).from_dict(json.loads(json.dumps(value.to_dict()))) == value
    for wrong in (dict(method="usdlr"), dict(preset="tinny"), dict(overrides=dict(dimm=3)), dict(stepps=3), dict(emphasis=0), dict(reads="window")):
        with pytest.raises(ParameterError):
            Pretraining.from_dict(QUICK | wrong)
    for wrong in (dict(settings=dict(windows=3)), dict(settings=dict(seg2clip="maybe", training="finetune", recipe="usdrl", readout="frames"))):
        with pytest.raises(ParameterError):
            Trial.from_dict(dict(what="frames") | wrong).detection  # noqa: B018
            module._loader(Trial.from_dict(dict(what="frames") | wrong), None, None)
    with pytest.raises(ParameterError):
        Trial(what="finetune", settings=dict(epoch=3))


def test_milestones_and_warm_up_are_shares():
    c = Pretraining(steps=40, warmup=0.1, schedule="steps", milestones=(0.5, 0.75), gamma=0.2).fit_config("cpu")
    assert (c.warmup, c.milestones, c.gamma, c.optimizer, c.device) == (4, (20, 30), 0.2, "adam", "cpu")


def test_what_makes_an_untrained_encoder_names_its_trial(base):
    longer = Pretraining.from_dict(base.to_dict() | dict(steps=9, lr=1.0, without=()))
    assert Trial("random", base.to_dict()) == Trial("random", longer.to_dict())
    assert Trial("random", base.to_dict()) != Trial("random", base.to_dict() | dict(seed=1))
    assert Trial("pretrained", base.to_dict()) != Trial("pretrained", longer.to_dict())
    assert Trial("raw", base.to_dict()).pretraining == {}
    torch.manual_seed(5)
    first = next(base.make().parameters())
    torch.manual_seed(6)
    assert torch.equal(first, next(base.make().parameters()))


@pytest.mark.parametrize("reads", READS)
@pytest.mark.parametrize("method, overrides", [("usdrl", QUICK["overrides"]), ("lode", dict(frames=16)), ("snippet", dict(frames=16, width=4))])
def test_any_method_reads_clips_in_any_way(stores, tmp_path, method, overrides, reads):
    if method == "lode" and reads == "pieces":
        pytest.skip("LoDE does not look at `valid`")
    p = Pretraining(method=method, preset="tiny", overrides=overrides, steps=1, batch=4, reads=reads, length=24 if method == "usdrl" else 0)
    done = pretrain(p.to_dict(), str(stores[0].path), str(tmp_path), "cpu")
    assert done["run"].startswith(method) and np.isfinite(done["loss"])
    assert type(load_encoder(tmp_path / done["run"])) is METHODS[method][0]


# ---- who is where -------------------------------------------------------------------------------------------------------------------


def test_nobody_who_is_scored_is_learnt_from(stores, base):
    source, clips, takes = stores
    subject = source.table["subject"].to_numpy()
    tested = {str(s) for store in (clips, takes) for s in store.table["subject"].to_numpy()[store.split("split", "test")]}
    assert set(base.without) == tested and not set(subject[learnt(source, base)]) & tested and len(learnt(source, base))
    alone = Pretraining.from_dict(QUICK | dict(without=tuple(set(subject))))
    with pytest.raises(ParameterError, match="nobody is left"):
        learnt(source, alone)


def test_favoured_people_come_more_often(tmp_path):
    store = SkeletonStore.write(tmp_path / "s", [make_clip(f"c{i}", 40, seed=i, subject=s) for i, s in enumerate(["a", "b", "c", "a"])])
    p = Pretraining.from_dict(QUICK | dict(without=("c",), favoured=("a", "c"), emphasis=3))
    assert sorted(learnt(store, p)) == [0, 0, 0, 1, 3, 3, 3]


def test_held_out_training_people_are_a_split_of_their_own(tmp_path, base):
    store = make_store(tmp_path / "clips", 24, seed=5, actions=("wave", "kick"), frames=(30, 31))
    who, part = (store.table[c].to_numpy().astype(str) for c in ("subject", "split"))
    store.add_split("pilot", ["no" if s == "test" else "test" if w == "S02" else "train" for w, s in zip(who, part)])
    t = Trial("raw", protocols=("1-NN",), split="pilot")
    trial(t.to_dict(), str(store.path), str(store.path), str(tmp_path / "runs"), "cpu")
    clips = arrays_of(t, store, store, tmp_path / "runs")["clips"]
    assert set(who[clips]) == {"S02"} and not set(who[clips]) & set(who[store.split("split", "test")])


# ---- running ------------------------------------------------------------------------------------------------------------------------


def test_a_table_is_what_measure_gives(ran, stores):
    folder, rows, found = ran
    encoders = {"raw coordinates": raw_coordinates()}
    for name in ("random encoder", "USDRL"):
        made = [t.of.make() if name == "random encoder" else load_encoder(run_of(t.of, stores[0], folder)) for t in rows[name]]
        encoders[name] = Entrant(made, View.named("usdrl", frames=16))
    direct = measure(encoders, stores[1], PROTOCOLS, seeds=(0, 1))
    ours, theirs = found.table()["mean"], direct.table()["mean"]
    common = theirs.index
    assert len(common) == 12 and np.abs(ours[common] - theirs).max() < 1e-3
    assert found.features.loc["USDRL", "effective_rank"] == pytest.approx(direct.features.loc["USDRL", "effective_rank"], rel=1e-4)
    a, b = found.compare("USDRL", "raw coordinates", "retrieval"), direct.compare("USDRL", "raw coordinates", "retrieval")
    assert a.difference.estimate == pytest.approx(b.difference.estimate, abs=1e-5)


def test_a_report_needs_the_small_files_only(ran, stores, tmp_path, monkeypatch):
    folder, rows, found = ran
    for run in (p for p in folder.iterdir() if p.is_dir()):
        keep = tmp_path / run.name
        keep.mkdir()
        for name in ("run.json", "result.json", "metrics.jsonl", "predictions.npz"):
            if (run / name).exists():
                (keep / name).write_bytes((run / name).read_bytes())
    for name in ("pretrain", "trial"):
        monkeypatch.setattr(module, name, lambda **_: pytest.fail("run again"))
    same_table(trials(rows, stores[1], stores[0], tmp_path, device="cpu"), found)
    same_table(collect(rows, stores[1], stores[0], tmp_path), found)
    percent = Run.open(run_folder(tmp_path, **identity(rows["STTR"][0], stores[1], stores[0]))).result()["percent"]
    assert {q: found.table().loc[(q, "STTR"), "mean"] for q in PROTOCOLS} == pytest.approx(percent)
    kept = arrays_of(rows["USDRL"][0], stores[1], stores[0], tmp_path)
    assert kept["logistic.scores"].dtype == np.float16 and kept["correlation"].shape == (32, 32) and len(kept["singular"]) <= 32


def test_weights_that_were_left_out_are_trained_again_for_a_new_trial(ran, stores, base, tmp_path):
    done = pretrain(base.to_dict(), str(stores[0].path), str(tmp_path), "cpu")
    first = load_encoder(tmp_path / done["run"]).state_dict()
    (tmp_path / done["run"] / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="has no weights.*\n?.*trained again"):
        load_encoder(tmp_path / done["run"])
    trials({"one": [Trial(pretraining=base.to_dict(), protocols=("1-NN",))]}, stores[1], stores[0], tmp_path, device="cpu")
    again = load_encoder(tmp_path / done["run"]).state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert pretrain(base.to_dict(), str(stores[0].path), str(tmp_path), "cpu") == done


def test_other_settings_or_data_are_another_run(ran, stores, base):
    source, clips, takes = stores
    def name(t, store, source): return run_folder("", **identity(t, store, source)).name
    t = Trial(pretraining=base.to_dict())
    assert run_of(base, source, "") != run_of(base, takes, "") != run_of(Pretraining.from_dict(base.to_dict() | dict(seed=7)), takes, "")
    assert len({name(t, clips, source), name(t, takes, source), name(t, clips, takes), name(Trial(pretraining=base.to_dict(), seed=1), clips, source)}) == 4
    raw = Trial("raw")
    assert name(raw, clips, source) == name(raw, clips, takes)  # raw coordinates have learnt from nothing


def test_an_unfinished_table_is_said(stores, base, tmp_path):
    with pytest.raises(DataError):
        collect({"raw": [Trial("raw")]}, stores[1], stores[0], tmp_path)
    with pytest.raises((CheckpointError, DataError)):
        trial(Trial(pretraining=base.to_dict()).to_dict(), str(stores[1].path), str(stores[0].path), str(tmp_path), "cpu")


def test_frames_are_what_measure_frames_gives(ran, stores, base):
    folder, source, takes = ran[0], stores[0], stores[2]
    rows = entrants("USDRL", base, (0,), **FRAMES)
    found = trials(rows, takes, source, folder, device="cpu")
    encoder = load_encoder(run_of(base, source, folder))
    direct = measure_frames({"USDRL": encoder}, takes, rows["USDRL"][0].detection, seeds=(0,))
    assert list(found.outcomes) == ["raw coordinates", "random encoder", "USDRL"]
    ours, theirs = (m.outcomes["USDRL"][0].probabilities for m in (found, direct))
    assert all(np.abs(ours[v] - theirs[v]).max() < 1e-3 for v in theirs) and found.table().index.equals(direct.table().index)
    assert found.compare("USDRL", "raw coordinates").items == len(takes.split("split", "test"))
    tuned = Trial(pretraining=base.to_dict(), what="frames", settings=dict(
        window=16, stride=16, training="finetune", recipe="usdrl", readout="frames", seg2clip="yes", overrides=dict(epochs=1, milestones=(), batch=8)))
    assert np.isfinite(trials({"tuned": [tuned]}, takes, source, folder, device="cpu").table()["tuned"]).all()


def test_fine_tuning_on_few_labels(ran, stores, base):
    rows = entrants("USDRL", base, (0,), what="finetune", settings=dict(fraction=0.2, epochs=1, milestones=()))
    table = trials(rows, stores[1], stores[0], ran[0], device="cpu").table()
    assert set(table.index) == {("20 % fine-tuned", "random encoder"), ("20 % fine-tuned", "USDRL")} and table["mean"].between(0, 100).all()


def test_processes_of_their_own_and_errors_with_a_name(ran, stores):
    rows = {"fine": [Trial("raw", protocols=("1-NN",), seed=3)], "odd": [Trial("raw", protocols=("2-NN",))]}
    with pytest.raises(TrainingError, match="1 of 2 jobs failed: trial of odd, seed 0.*\n?.*no protocol is called"):
        trials(rows, stores[1], stores[0], ran[0], workers=2, device="cpu")
    assert len(collect({"fine": rows["fine"]}, stores[1], stores[0], ran[0]).table()) == 1


def test_persons_are_pooled_as_the_encoder_pools_them():
    "SLiM's linear protocol adds them up (specification slim_snippet, A4)."
    for method, persons in (("slim", "sum"), ("lode", None), ("aimclr", None)):
        t = Trial("random", dict(method=method, preset="tiny"))
        assert module._input(t, t.of.make()).persons == persons
