"""A contest is fair: nobody is on both sides, no run is repeated, and how sure a number is can be told."""

import json

import numpy as np
import pytest
from conftest import make_clip

from skelnb.data.store import SkeletonStore
from skelnb.data.synthetic import make_store
from skelnb.errors import ParameterError, TrainingError
from skelnb.interface import contest as module
from skelnb.interface.contest import CONTESTANTS, Contest, bootstrap, contest, contestant, entries, people, pretraining_clips, right_frames
from skelnb.reporting.runs import Run

QUICK = dict(preset="tiny", steps=2, batch=4, probe_epochs=3, stride=32)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    "Recordings to learn from, unlabelled, and takes to segment: partly of the same people."
    folder = tmp_path_factory.mktemp("contest")
    pretrain = make_store(folder / "pretrain", 14, untrimmed=True, seed=1, segments=(1, 2))
    takes = make_store(folder / "takes", 12, untrimmed=True, seed=2, segments=(2, 3), actions=("wave", "kick", "squat"))
    return pretrain, takes


def subjects(store, clips):
    return set(store.table["subject"].to_numpy()[clips])


# ---- who is where -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [(), ("S01",), ("S02", "S05")])
def test_nobody_is_on_both_sides(stores, held):
    pretrain, takes = stores
    train, test = people(takes, held)
    learnt = pretraining_clips(pretrain, takes, held)
    assert not set(train) & set(test) and not subjects(takes, train) & subjects(takes, test)
    assert not subjects(pretrain, learnt) & (subjects(takes, test) | set(held))
    assert subjects(takes, test) == (set(held) or {"S03", "S06", "S09", "S12"})
    assert len(learnt) == len(set(learnt)) and len(train)


def test_the_test_people_are_neither_probed_nor_scored_while_settings_are_chosen(stores):
    takes = stores[1]
    train, scored = people(takes, ("S01",))
    assert not subjects(takes, people(takes)[1]) & (subjects(takes, train) | subjects(takes, scored))


def test_nothing_is_learnt_from_the_test_people_while_settings_are_chosen(stores):
    pretrain, takes = stores
    official = subjects(takes, people(takes)[1])
    assert not official & subjects(pretrain, pretraining_clips(pretrain, takes, ("S01",)))


def test_emphasis_repeats_the_takes_own_people(tmp_path, stores):
    takes = stores[1]
    clips = [make_clip(f"c{i}", 40, seed=i, subject=s) for i, s in enumerate(["S01", "else", "S03", "S02", "S01"])]
    pretrain = SkeletonStore.write(tmp_path / "pretrain", clips)
    assert sorted(pretraining_clips(pretrain, takes)) == [0, 1, 3, 4]
    assert sorted(pretraining_clips(pretrain, takes, (), 3)) == [0, 0, 0, 1, 3, 3, 3, 4, 4, 4]
    held = pretraining_clips(pretrain, takes, ("S01",), 2)
    assert sorted(held[held != 2]) == [1, 3, 3]


def test_people_who_are_not_there_are_refused(stores, tmp_path):
    with pytest.raises(ParameterError, match="S03.*no training people.*\n?.*S01, S02"):
        people(stores[1], ("S03",))  # a test person
    with pytest.raises(ParameterError, match="nobody"):
        people(stores[1], ("nobody",))
    everyone = tuple(subjects(stores[1], people(stores[1])[0]))
    with pytest.raises(ParameterError, match="0 recordings to train on"):
        people(stores[1], everyone)


# ---- settings -----------------------------------------------------------------------------------------------------------------------


def test_settings_survive_json_and_misspelt_ones_do_not():
    e = Contest(hold_out=("S01",), overrides=dict(vq=False), **QUICK)
    assert Contest.from_dict(json.loads(json.dumps(e.to_dict()))) == e
    assert e.lode.vq is False and e.probe.epochs == 3 and e.probe.seed == e.seed
    with pytest.raises(ParameterError, match="stride"):
        Contest.from_dict({"strid": 3})
    with pytest.raises(ParameterError, match="w_regulariser"):
        Contest(overrides=dict(w_regularizer=1)).lode  # noqa: B018


def test_entries_differ_in_what_they_are_named_for():
    rows = {e.contestant: e for e in entries(CONTESTANTS, [3], weight=0.25, **QUICK)}
    assert list(rows) == list(CONTESTANTS) and {e.seed for e in rows.values()} == {3}
    terms = {n: (e.lode.frame, e.lode.motion, e.lode.sequence, e.lode.regulariser) for n, e in rows.items() if e.encoder == "lode"}
    full, frame = (True, True, True), (True, False, False)
    assert terms == {"frame scale": (*frame, "none"), "frame scale + LERR": (*frame, "ler"), "LERR alone": (False, False, False, "ler"),
                     "LoDE without LERR": (*full, "none"), "LoDE": (*full, "ler")}
    assert rows["LoDE"].lode.w_regulariser == 0.25
    common = entries(["LoDE", "LERR alone"], [0, 1], overrides=dict(vq=False), **QUICK)
    assert [(e.contestant, e.seed, e.lode.vq) for e in common] == [(n, s, False) for n in ("LoDE", "LERR alone") for s in (0, 1)]
    assert CONTESTANTS["LoDE"] == {}
    with pytest.raises(ParameterError, match="LODE.*\n?.*LoDE without LERR"):
        entries(["LODE"], [0])


# ---- running ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ran(stores, tmp_path_factory):
    "One run of each kind of encoder, in this process."
    folder, (pretrain, takes) = tmp_path_factory.mktemp("runs"), stores
    rows = entries(["raw coordinates", "random encoder", "LoDE", "LERR alone"], [0], **QUICK)
    return folder, rows, [contestant(e.to_dict(), str(pretrain.path), str(takes.path), str(folder), "cpu") for e in rows]


def test_a_run_leaves_all_that_a_table_needs(ran, stores):
    folder, rows, results = ran
    assert len({r["run"] for r in results}) == len(rows) == len([p for p in folder.iterdir() if p.is_dir()])
    for e, r in zip(rows, results):
        run = Run.open(folder / r["run"])
        assert run.done and run.settings["contestant"] == e.contestant and r["run"].startswith(e.encoder)
        assert 0 <= r["acc"] <= 100 and 1 <= r["ler"] <= 200
        assert (run.folder / "checkpoint.safetensors").exists() == (e.encoder == "lode")
        right = right_frames(run.folder, stores[1])
        test = people(stores[1])[1]
        assert sorted(right) == sorted(test) and all(len(right[c]) == np.diff(stores[1].offsets)[c] for c in right)
        assert 100 * np.concatenate(list(right.values())).mean() == pytest.approx(r["acc"], abs=0.2)  # stored as float16: ties may fall
    assert "perplexity_motion" in results[2] and "perplexity_motion" not in results[3]


def test_what_was_run_is_found_not_repeated(ran, stores, monkeypatch):
    folder, rows, results = ran
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    monkeypatch.setattr(module, "make_encoder", lambda *_: pytest.fail("trained again"))
    for e, r in zip(rows, results):
        assert contestant(e.to_dict(), *(str(s.path) for s in stores), str(folder), "cpu") == r
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_other_settings_or_data_are_another_run(ran, stores, tmp_path, monkeypatch):
    folder, rows, results = ran
    started = []
    monkeypatch.setattr(module, "make_encoder", lambda e, *_: started.append(e) or pytest.skip.Exception)
    takes = SkeletonStore.write(tmp_path / "takes", (stores[1][i] for i in range(len(stores[1]) - 1)),
                                splits={"split": lambda c: "test" if c.subject == "S03" else "train"})
    for e, store in ((Contest.from_dict({**rows[2].to_dict(), "lr": 2e-3}), stores[1]), (rows[2], takes)):
        with pytest.raises(Exception):  # noqa: B017 (the encoder above is none)
            contestant(e.to_dict(), str(stores[0].path), str(store.path), str(folder), "cpu")
    assert len(started) == 2


def test_an_interrupted_run_goes_on_to_the_same_scores(ran, stores, tmp_path, monkeypatch):
    _, rows, results = ran
    paths = [str(s.path) for s in stores]
    with monkeypatch.context() as m:
        m.setattr(module, "train_linear", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            contestant(rows[2].to_dict(), *paths, str(tmp_path), "cpu")
    assert not Run.open(next(tmp_path.iterdir())).done
    again = contestant(rows[2].to_dict(), *paths, str(tmp_path), "cpu")
    same = {k: v for k, v in again.items() if k != "seconds"}
    assert same == {k: v for k, v in results[2].items() if k != "seconds"}


def test_a_contest_in_processes_of_its_own(ran, stores):
    folder, rows, results = ran
    rows = [rows[0], Contest.from_dict({**rows[0].to_dict(), "context": 1, "contestant": "raw, context"})]
    table = contest(rows, *stores, folder, workers=2, device="cpu")
    assert table.contestant.tolist() == ["raw coordinates", "raw, context"] and table.acc[0] == results[0]["acc"]
    with pytest.raises(TrainingError, match="broken, seed 0.*hold_out names"):
        contest([Contest.from_dict({**rows[0].to_dict(), "contestant": "broken", "hold_out": ["nobody"]})], *stores, folder, device="cpu")


# ---- how sure -----------------------------------------------------------------------------------------------------------------------


def some_frames(p, seed, takes=30):
    rng = np.random.default_rng(seed)
    return {c: rng.random(50 + 5 * c) < p for c in range(takes)}


def test_the_interval_holds_the_estimate():
    right = [some_frames(0.7, s) for s in range(3)]
    mean, low, high = bootstrap(right)
    pooled = np.mean([np.concatenate(list(r.values())).mean() for r in right])
    assert mean == pytest.approx(100 * pooled) and low < mean < high and 0 < high - low < 6
    assert bootstrap(right) == (mean, low, high) != bootstrap(right, seed=1)
    assert bootstrap([{0: np.ones(5, bool), 1: np.ones(3, bool)}]) == (100, 100, 100)
    one = bootstrap([{4: np.array([True, False])}])
    assert one == (50, 50, 50)


def test_a_paired_difference_is_less_noisy_than_either():
    a = [some_frames(0.7, 0)]
    assert bootstrap(a, a) == (0, 0, 0)
    better = [{c: r | (np.arange(len(r)) % 10 == 0) for c, r in a[0].items()}]
    d, low, high = bootstrap(better, a)
    _, alow, ahigh = bootstrap(a)
    assert 0 < low < d < high and high - low < ahigh - alow
    minus = bootstrap(a, better)
    assert minus == pytest.approx((-d, -high, -low), abs=0.05)  # other draws
    shuffled = [dict(reversed(better[0].items()))]
    assert bootstrap(shuffled, a)[0] == pytest.approx(d)
