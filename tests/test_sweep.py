"""The sweep: every run a table names exists, jobs are shared and resumed, what is stale is said, pages load anywhere."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml
from helpers_browser import answer

import skelnb
from skelnb import settings
from skelnb.data.synthetic import make_store
from skelnb.errors import DataError, ParameterError
from skelnb.files import read_json, write_json
from skelnb.interface import sweep as module
from skelnb.interface.pages import cards, command, drawn, is_stale, leave, origins, remarks, results, shown_table, write_index, write_results
from skelnb.interface.sources import bare, code_of, rests_on
from skelnb.interface.sweep import (
    Job,
    Profile,
    Sweep,
    adopt,
    begin,
    capped,
    cells_of,
    code_for,
    graph,
    lease,
    load_profile,
    plan,
    pretraining,
    state,
    states,
    table_jobs,
)
from skelnb.interface.trials import METHODS, pretrain, trial
from skelnb.reporting.papers import Plan, all_tables

ROOT = Path(__file__).parents[1]
TABLE = """
paper: {paper}
number: Table I
title: An example
source: none
shows: What a test needs.
draw: ablation
defaults: {{pretrain: ntu60_xsub, data: ntu60_xsub}}
columns:
- {{key: linear, head: [linear], protocol: linear, metric: top1}}
- {{key: loss, head: [loss], protocol: pretraining, metric: loss, unit: ""}}
- {{key: rank, head: [rank], protocol: unsupervised, metric: acc}}
rows:
- {{name: another, paper: [70.0, null, null]}}
- {{name: untrained, ours: true, paper: [null, null, null], run: {{method: usdrl, encoder: random, columns: [linear]}}}}
- {{name: USDRL, ours: true, paper: [80.0, 1.0, 2.0], run: {{method: usdrl}}}}
- {{name: twice, ours: true, paper: [81.0, null, null], run: {{method: usdrl, stream: [joint, bone], columns: [linear]}}}}
"""
FIELDS = dict(dim=16, projection=16, projection_instance=16, frames=16, min_frames=12)
SMALL = dict(size="tiny", view="usdrl", at_most=dict(dim=16), fit=dict(steps=2, batch=4), overrides=FIELDS)


def make(folder, names=("usdrl",), **changes):
    (folder / "reports" / "tables").mkdir(parents=True)
    for paper in names:
        (folder / "reports" / "tables" / f"{paper}_table01.yaml").write_text(TABLE.format(paper=paper))
    store = dict(synthetic=dict(n=24, seed=1, noise=0.03, actions=("wave", "kick", "squat"), subjects=6, frames=(30, 40)))
    fields = dict(name="demo", mark="stand-in", clips=("logistic", "1-NN"), stores={"a": store}, data={"ntu60_xsub": dict(learn="a", trimmed="a")},
                  methods={"usdrl": SMALL}, protocols={"linear": dict(what="clips", read="logistic"), "pretraining": dict(what="pretraining")})
    lab = replace(settings.load(ROOT), root=folder, runs=folder / "runs", reports=folder / "reports")
    return Sweep(Profile(**fields | changes), lab)


def run_all(sweep, jobs):
    for run in sorted(jobs, key=lambda r: jobs[r]["kind"]):
        order = read_json(sweep.work / f"{run}.json")
        if order["kind"] == "pretrain":
            pretrain(order["settings"], order["store"], order["out"], device="cpu")
        else:
            trial(order["settings"], order["store"], order["source"], order["out"], "cpu")


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    "Two tables of the same rows, run."
    sweep = make(tmp_path_factory.mktemp("sweep"), ("lode", "usdrl"))
    made = graph(sweep)
    run_all(sweep, made["jobs"])
    return sweep, made


# ---- what tables ask for ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def every():
    return all_tables(ROOT / "reports" / "tables")


@pytest.mark.parametrize("profile", ["standin", "paper"])
def test_every_run_a_table_names_is_a_valid_parameter_set(profile, every):
    known = load_profile(profile, ROOT / "reports" / "profiles")
    for name, table in every.items():
        cells = [c for c in table.cells() if not c.skip and c.row.run.method]
        for row in {id(c.row): c.row for c in cells}.values():
            for stream in row.run.stream:
                p = pretraining(known, row.run, stream, 0)
                assert p.method == row.run.method and p.steps >= 1 and p.model, f"{name}, {row.label}"
        for cell in cells:
            assert {d for d in (cell.column.data, cell.pretrain) if d} <= known.data.keys() | {""}, f"{name}: {cell.column.data} is not in {profile}"


@pytest.mark.parametrize("profile", ["standin", "paper"])
def test_settings_of_every_protocol_hold(profile):
    known = load_profile(profile, ROOT / "reports" / "profiles")
    for name, entry in known.protocols.items():
        entry = module.protocol(known, name)
        if entry["what"] in ("pretraining", "clips", "probe"):
            continue
        for method in METHODS:
            row = Plan(method=method)
            fields = module._settings_of(known, entry, row, pretraining(known, row, "joint", 0))
            t = module.Trial("pretrained", pretraining(known, row, "joint", 0).to_dict(), entry["what"], **fields)
            assert entry["what"] != "frames" or t.detection.tious


def test_a_row_is_sized_and_capped():
    p = Profile(name="x", methods={"actclr": dict(size="tiny", at_most=dict(queue=256, top_k=32), fit=dict(steps=20, batch=4))})
    row = Plan(method="actclr", preset="cvpr", overrides=dict(queue=4096, anchor_eval=True), fit=dict(share=0.5, batch=8))
    made = pretraining(p, row, "bone", 3)
    assert (made.steps, made.batch, made.seed, made.preset) == (10, 8, 3, "tiny")
    assert made.model.queue == 256 and made.model.top_k == 32 and made.model.stream == "bone" and made.model.width == 4  # size, cap, stream
    assert made.model.form == "kl" and not made.model.adversarial  # the variant
    assert capped(p, row) == {"queue": 4096, "top_k": 8192}
    large = Profile(name="x", methods={"actclr": dict(preset="paper")})
    assert pretraining(large, row, "joint", 0).model.queue == 4096 and capped(large, row) == {}


def test_recordings_may_ask_for_other_settings():
    own = {"lode": dict(overrides=dict(joints=13), fit=dict(steps=7))}
    data = {"posetics": dict(learn="a", layout="lcrnet13", methods=own), "ntu60_xsub": dict(trimmed="a")}
    p = Profile(name="x", stores={"a": {}}, data=data, methods={"lode": dict(size="tiny", overrides=dict(frames=48), fit=dict(steps=20, batch=4))})
    made, usual = (pretraining(p, Plan(method="lode"), "joint", 0, learn=learn) for learn in ("posetics", "ntu60_xsub"))
    assert (made.model.joints, made.model.frames, made.steps, made.batch) == (13, 48, 7, 4) and (usual.model.joints, usual.steps) == (25, 20)
    assert pretraining(p, Plan(method="lode", overrides=dict(joints=17)), "joint", 0, learn="posetics").model.joints == 17  # a row decides
    sweep = Sweep(replace(p, apart=False))
    with pytest.raises(ParameterError, match="an encoder of posetics .lcrnet13. cannot read ntu60_xsub"):
        module._job(sweep, dict(what="clips"), Plan(method="lode"), "ntu60_xsub", "joint", "posetics", 0)


@pytest.mark.parametrize("wrong, message", [(dict(data={"ntu61": {}}), "ntu60"), (dict(methods={"usdrl": dict(sizes="tiny")}), "size"),
                                            (dict(methods={"usdrl": dict(size="tiny", fit=dict(stepps=3))}), "steps"),
                                            (dict(data={"ntu60_xsub": dict(learn="b")}), "store 'b'"), (dict(protocols={"lnear": {}}), "linear")])
def test_a_wrong_profile_is_told(wrong, message):
    with pytest.raises((ParameterError, TypeError), match=message):
        Profile(**dict(name="x", stores={"a": {}}) | wrong)


def test_who_is_scored_is_not_learnt_from(tmp_path):
    assert make(tmp_path).without("ntu60_xsub") == ("S03", "S06")


def test_a_part_of_a_split_becomes_a_store_without_labels(tmp_path):
    whole = make_store(tmp_path / "whole", 12, seed=1, subjects=6)
    part = module._part(whole, "split", "train", tmp_path)
    assert len(part) == len(whole.split("split", "train")) and part.classes == () or not part.classes
    lab = replace(settings.load(ROOT), data=tmp_path, runs=tmp_path / "runs")
    named = module._found(dict(path="whole", parts={"test": "asked"}), lab)
    assert named.split("benchmark", "asked").tolist() == whole.split("split", "test").tolist()
    assert not set(part.table.subject) & {"S03", "S06"} and module._part(whole, "split", "train", tmp_path).checksum == part.checksum


# ---- jobs, states --------------------------------------------------------------------------------------------------------------------


def test_tables_share_runs_and_protocols_share_trials(swept):
    sweep, made = swept
    assert made["tables"]["lode_table01"] == made["tables"]["usdrl_table01"]  # the same rows, the same folders
    assert sorted(j["kind"] for j in made["jobs"].values()) == ["pretrain"] * 2 + ["trial"] * 3
    needs = [j["needs"] for j in made["jobs"].values() if j["needs"]]
    assert len(needs) == 2 and all(n in made["jobs"] for (n,) in needs)
    before = {f: f.stat().st_mtime_ns for f in sweep.work.glob("*.json")}
    assert graph(sweep) == made and {f: f.stat().st_mtime_ns for f in sweep.work.glob("*.json")} == before  # nothing is touched


def test_a_table_says_its_seeds_and_rows_of_their_own_settings_have_the_first(tmp_path):
    sweep = make(tmp_path)
    file = tmp_path / "reports" / "tables" / "usdrl_table01.yaml"
    once = list(cells_of(sweep, "usdrl_table01"))
    file.write_text("seeds: [0, 1]\n" + file.read_text())
    table = Sweep(sweep.profile, sweep.lab).table("usdrl_table01")
    assert table.seeds_of(Plan(method="usdrl")) == (0, 1) and table.seeds_of(Plan(method="usdrl", overrides=dict(xc=False))) == (0,)
    assert len(list(cells_of(Sweep(sweep.profile, sweep.lab), "usdrl_table01"))) > len(once)
    assert all("\nseeds: [0" in f.read_text() for f in (ROOT / "reports" / "tables").glob("*.yaml"))


def test_a_changed_notebook_makes_a_run_stale_and_changed_prose_does_not(tmp_path):
    notebook, run = tmp_path / "n.ipynb", tmp_path / "run"
    cell = lambda kind, text: {"cell_type": kind, "source": [text]}
    notebook.write_text(json.dumps({"cells": [cell("code", "a = 1"), cell("markdown", "old")]}))
    old = code_of(notebook)
    assert state(run, old) == "missing"
    begin(run, old)
    write_json(run / "run.json", {})
    assert state(run, old) == "partial"
    write_json(run / "result.json", {})
    notebook.write_text(json.dumps({"cells": [cell("code", "a = 1"), cell("markdown", "new")]}))
    assert state(run, code_of(notebook)) == "done"
    notebook.write_text(json.dumps({"cells": [cell("code", "a = 2")]}))
    assert state(run, code_of(notebook)) == "stale"
    begin(run, code_of(notebook))
    assert state(run, code_of(notebook)) == "missing" and not (run / "result.json").exists()
    begin(run, whole := code_of(notebook, {"skelnb.methods.slim": "a"}))  # the sweep, before the notebook
    write_json(run / "result.json", {})
    begin(run, code_of(notebook))  # the notebook
    assert state(run, whole) == state(run, code_of(notebook)) == "done" and state(run, code_of(notebook, {"skelnb.methods.slim": "b"})) == "stale"


def test_words_are_no_code():
    plain = 'def f(x):\n    y = """a\n\n# text\n"""\n    return f"{x:#x} # {y}"'
    said = '"About."\n# %% cell\n\ndef f(x):  # a number\n    "What."\n    # why\n    y = """a\n\n# text\n"""\n\n    return f"{x:#x} # {y}"  # it\n'
    assert bare(said) == bare(plain) and bare(plain.replace("# text", "# more")) != bare(plain) != bare(plain.replace("    return", "        return"))


@pytest.fixture
def another_library(tmp_path, monkeypatch):
    "A copy of the library, which counts as the one that runs; its folder."
    shutil.copytree(ROOT / "skelnb", tmp_path / "copy" / "skelnb", ignore=shutil.ignore_patterns("__pycache__", "template"))
    monkeypatch.setattr(skelnb, "__file__", str(tmp_path / "copy" / "skelnb" / "__init__.py"))
    return tmp_path / "copy" / "skelnb"


def test_a_changed_method_concerns_its_own_runs_only(another_library):
    def codes():
        jobs = {}
        for m in METHODS:
            of = dict(method=m, preset="tiny")
            jobs |= {m: Job("pretrain", of, "", ""), **{f"{m} {what}": Job("trial", dict(pretraining=of, what=what), "", "") for what in module.MEASURES}}
        jobs |= {"raw": Job("trial", dict(pretraining={}, what="frames"), "", "")}
        return {name: code_for(job, ROOT) for name, job in jobs.items()}

    seen = [codes()]

    def changed(name, before, after):
        "Which runs are stale after a change in a module."
        file = another_library / name
        assert before in file.read_text()
        file.write_text(file.read_text().replace(before, after))
        seen.append(codes())
        return {job for job, code in seen[-1].items() if code != seen[-2][job]}

    trials = lambda *methods: {f"{m} {what}" for m in methods for what in module.MEASURES} | {*methods}
    assert changed("methods/slim.py", "momentum: float = 0.994", "momentum: float = 0.99") == trials("slim")
    assert changed("methods/slim.py", "Every setting of SLiM", "All settings of SLiM") == set()  # a docstring
    assert changed("objectives/decorrelation.py", "import torch\n", "import torch\n\nEXTRA = 1\n") == trials("usdrl")  # below the method
    assert changed("methods/aimclr.py", "import torch\n", "import torch\n\nEXTRA = 1\n") == trials("aimclr", "actclr", "snippet")
    assert changed("evaluation/finetune.py", "import torch\n", "import torch\n\nEXTRA = 1\n") == {f"{m} finetune" for m in METHODS}
    assert changed("training/fit.py", "import torch\n", "import torch\n\nEXTRA = 1\n") == set()  # shared: kept by tests of equal results
    assert codes() == seen[-1] and rests_on(["__main__"]) == {}


def test_changed_code_reruns_what_depends_on_it_and_adopted_runs_are_left(swept, another_library):
    sweep, made = swept
    files = lambda: {f.stem: f.stat().st_mtime_ns for f in sweep.work.glob("*.json")}
    assert adopt(sweep) == 5
    graph(sweep)
    before, stamps = files(), {f.stem for f in sweep.work.glob("*.done")}
    assert stamps == {*made["jobs"]} and {*states(sweep, table_jobs(sweep, "lode_table01")).values()} == {"done"}
    other = another_library / "methods" / "slim.py"
    other.write_text(other.read_text() + "EXTRA = 1\n")
    graph(sweep)
    assert files() == before  # another method
    mine = another_library / "methods" / "usdrl.py"
    mine.write_text(mine.read_text() + "EXTRA = 1\n")
    graph(sweep)
    assert all(files()[run] > before[run] for run in made["jobs"]) and not [*sweep.work.glob("*.done")]
    frame = results(sweep, "lode_table01")
    assert (frame.state == "stale").sum() == 4 and "code that has changed" in remarks(sweep, sweep.table("lode_table01"), frame)
    assert adopt(sweep) == 5 and len(graph(sweep)["jobs"]) == len([*sweep.work.glob("*.done")]) == 5
    assert all((sweep.work / f"{run}.done").stat().st_mtime_ns >= (sweep.work / f"{run}.json").stat().st_mtime_ns for run in made["jobs"])
    for run in made["jobs"]:
        (sweep.runs / run / "made.json").unlink()


def test_a_failed_job_is_tried_again(swept):
    sweep, made = swept
    stamp = sweep.work / f"{min(made['jobs'])}.done"
    newer = lambda: stamp.with_suffix(".json").stat().st_mtime_ns > stamp.stat().st_mtime_ns
    write_json(stamp, {"ok": True, "seconds": 1})
    graph(sweep)
    assert stamp.exists() and not newer()
    write_json(stamp, {"ok": False, "error": "E"})
    os.utime(stamp, (time.time() - 9,) * 2)
    graph(sweep)
    assert stamp.exists() and newer()  # Snakemake makes it again; until then the page knows why it failed
    stamp.unlink()


def test_gpus_are_lent_one_to_each_and_given_back(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    seen = []

    def work():
        with lease(1, ["4", "7"], tmp_path) as mine:
            seen.extend(mine)

    with lease(1, ["4", "7"], tmp_path) as one, lease(1, ["4", "7"], tmp_path) as other:
        assert (one, other, os.environ["CUDA_VISIBLE_DEVICES"]) == (["4"], ["7"], "7")
        waiting = threading.Thread(target=work)
        waiting.start()
        time.sleep(0.3)
        assert seen == []
    waiting.join(60)
    assert seen == ["4"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with lease(2, ["4", "7"], tmp_path) as both:
        assert both == ["4", "7"] and os.environ["CUDA_VISIBLE_DEVICES"] == "4,7"
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    with pytest.raises(ParameterError, match="3 GPUs"), lease(3, ["4", "7"], tmp_path):
        pass
    with lease(1, [], tmp_path) as none:
        assert none == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
def test_two_users_share_the_gpus_of_a_machine():
    "Locks that one has made hold for the other, who may not write them."
    public = Path(tempfile.mkdtemp())  # tmp_path belongs to one alone
    public.chmod(0o1777)
    try:
        with lease(1, ["4", "7"], public) as one:
            assert one == ["4"]
            os.seteuid(65534)
            with lease(1, ["4", "7"], public) as other:
                assert other == ["7"]
        with lease(2, ["4", "7"], public) as both:
            assert both == ["4", "7"]
        assert {f.name: f.stat().st_uid for f in public.iterdir()} == {"skelnb-gpu-4.lock": 0, "skelnb-gpu-7.lock": 65534}
    finally:
        os.seteuid(0)
        shutil.rmtree(public)


# ---- results and pages ---------------------------------------------------------------------------------------------------------------


def test_numbers_are_those_of_the_runs(swept):
    sweep, made = swept
    frame = results(sweep, "usdrl_table01")
    cell = lambda row, column: frame[(frame.row == row) & (frame.column == column)].iloc[0]
    assert frame.state.value_counts().to_dict() == {"measured": 4, "printed": 7, "cannot": 1}
    one = cell("USDRL", "linear")
    assert one.value == pytest.approx(read_json(sweep.runs / one.runs / "result.json")["percent"]["logistic"], abs=1e-3) and one.low <= one.value <= one.high
    assert one.labels == 16 and one.batch == 4 and one.seeds == 1 and one.selection == "last step" and one.paper == 80 and one.code
    log = cell("USDRL", "loss")
    assert log.value == pytest.approx(read_json(sweep.runs / log.runs / "result.json")["loss"])
    assert f"<em>twice</em>: <code>{cell('twice', 'linear').runs.split()[0]}</code>" in cards(sweep, frame)
    assert len(cell("twice", "linear").runs.split()) == 2 and "unsupervised" in cell("USDRL", "rank").why


EVENTS = """
paper: lode
number: Table II
title: Events
source: none
shows: What a test needs.
defaults: {data: pku1_xsub, protocol: detection_linear}
columns:
- {key: det, head: [mAP], metric: map_a@0.1}
rows:
- {name: raw coordinates, ours: true, paper: [50.0], run: {encoder: raw}}
"""


def test_numbers_of_events_come_with_an_interval_over_people(tmp_path):
    takes = dict(synthetic=dict(n=12, seed=2, untrimmed=True, segments=(2, 2), actions=("wave", "kick"), subjects=6))
    entry = dict(what="frames", read="{metric} activity official", preset="lode", settings=dict(decoders=["activity"], tious=[0.1], overrides=dict(epochs=3)))
    sweep = make(tmp_path, (), stores={"b": takes}, data={"pku1_xsub": dict(untrimmed="b")}, protocols={"detection_linear": entry})
    (tmp_path / "reports" / "tables" / "lode_table02.yaml").write_text(EVENTS)
    run_all(sweep, graph(sweep)["jobs"])
    one = results(sweep, "lode_table02").iloc[0]
    assert one.value == pytest.approx(read_json(sweep.runs / one.runs / "result.json")["percent"]["map_a@0.1 activity official"])
    assert one.state == "measured" and one.low <= one.high and one.over == "2 people" and one.labels == 8


def test_stand_in_data_is_unmistakable_and_has_no_colours(swept):
    sweep, _ = swept
    table, frame = sweep.table("usdrl_table01"), results(sweep, "usdrl_table01")
    page = shown_table(sweep, table, frame).to_html()
    assert "STAND-IN DATA" in page and page.count("here, stand-in") == 3 and "rgba(" not in page
    real = make_real(sweep)
    page = shown_table(real, table, frame).to_html()
    assert "stand-in" not in page.lower() and "rgba(" in page
    assert drawn(sweep, table, frame).alt and len(origins(sweep, table, frame)) == 3


def make_real(sweep):
    real = object.__new__(Sweep)
    real.__dict__ = sweep.__dict__ | {"profile": replace(sweep.profile, mark="")}
    return real


def test_missing_numbers_name_their_command_and_old_pages_are_stale(swept, tmp_path):
    sweep, made = swept
    leave(sweep, "usdrl_table01", results(sweep, "usdrl_table01"))
    assert not is_stale(sweep, "usdrl_table01")
    one = next(r for r in made["jobs"] if r.startswith("clips-"))
    shutil.move(sweep.runs / one, tmp_path / one)
    try:
        frame = results(sweep, "usdrl_table01")
        assert (frame.state == "missing").sum() == 1 and is_stale(sweep, "usdrl_table01")
        assert command(sweep, "usdrl_table01") in remarks(sweep, sweep.table("usdrl_table01"), frame)
        write_json(sweep.work / f"{one}.done", {"ok": False, "error": "TrainingError: diverged"})
        assert "diverged" in remarks(sweep, sweep.table("usdrl_table01"), results(sweep, "usdrl_table01"))
    finally:
        shutil.move(tmp_path / one, sweep.runs / one)
        (sweep.work / f"{one}.done").unlink(missing_ok=True)


def test_the_index_has_no_broken_links_and_results_hold_every_number(swept):
    sweep, _ = swept
    for name in sweep.tables:
        leave(sweep, name, results(sweep, name))
        (sweep.pages / f"{name}.html").write_text("<html></html>")
    whole = pd.read_parquet(write_results(sweep.lab.reports))
    assert len(whole) == 24 and whole.value.notna().sum() == 8 and set(whole.table) == set(sweep.tables)
    index = write_index(sweep)
    assert check_links(index)
    assert "stand-in data" in index.read_text() and "4 of 5 numbers" in index.read_text()


def check_links(page):
    links = re.findall(r'(?:href|src)="([^"#]+)', page.read_text())
    gone = [link for link in links if not re.match(r"data:|mailto:", link) and (re.match(r"https?:|//", link) or not (page.parent / link).exists())]
    assert gone == [], f"{page.name} links to what is not there"
    return links


def test_committed_pages_are_whole(every):
    "No link leads nowhere, from the index or from any page; every table has its page, and every cell of it is in results.parquet."
    reports = ROOT / "reports"
    if not (reports / "index.html").exists():
        pytest.skip("no index yet")
    for page in (reports / "index.html", *(reports / "standin").rglob("*.html")):
        check_links(page)
    whole = pd.read_parquet(reports / "results.parquet").query("profile == 'standin'")
    assert whole.groupby("table").size().to_dict() == {name: len(t.rows) * len(t.columns) for name, t in every.items()}
    assert {f.stem for f in (reports / "standin").glob("*.html")} == {*every} and not whole.state.isin(["missing", "failed"]).any()


def test_the_index_loads_offline_without_a_complaint(swept):
    sweep, _ = swept
    count = "<script>window.answer = document.querySelectorAll('.card').length</script>"
    assert answer(write_index(sweep).read_text() + count) == 2


# ---- the plan ------------------------------------------------------------------------------------------------------------------------


def test_a_plan_says_what_is_there_and_what_it_costs(swept, monkeypatch):
    sweep, _ = swept
    monkeypatch.setattr(module, "Sweep", lambda profile: sweep)
    said = plan("usdrl_table01", "demo")
    assert "pre-trainings  2, of which 2 done" in said and "trials         3, of which 3 done" in said
    assert re.search(r"usdrl +2 runs, +16 clips at [\d,]+ a second \(from logs\)", said) and "does not measure 'unsupervised'" in said


def test_a_plan_needs_no_recordings(tmp_path):
    (tmp_path / "reports" / "tables").mkdir(parents=True)
    shutil.copy(ROOT / "reports" / "tables" / "lode_table05.yaml", tmp_path / "reports" / "tables")
    shutil.copytree(ROOT / "reports" / "profiles", tmp_path / "reports" / "profiles")
    (tmp_path / "settings.ini").write_text("[paths]\ndata = data\n")
    sweep = Sweep("paper", settings.load(tmp_path))
    pre, tri, why = module._planned(sweep, ["lode_table05"])
    assert pre and tri and len(why) == 4 and all("posetics" in w for w in why)  # its 13 joints are not PKU's
    with pytest.raises(DataError, match="prepare"):
        sweep.store(next(iter(sweep.profile.stores)))


# ---- Snakemake -----------------------------------------------------------------------------------------------------------------------

STUB = """
import os, pathlib, sys, time
job = pathlib.Path(sys.argv[1])
with open(job.parent / "ran", "a") as f: f.write(job.stem + "\\n")
if job.stem == "b-2" and not (job.parent / "free").exists():
    time.sleep(60)
job.with_suffix(".done").write_text("ok")
"""


@pytest.mark.timeout(120)
def test_a_killed_sweep_goes_on(tmp_path):
    "Two jobs, killed in the second: asked again, the first is not repeated. A job whose file is written again, since its code changed, then runs again alone."
    pytest.importorskip("snakemake")
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "stub.py").write_text(STUB)
    for run in ("a-1", "b-2"):
        (work / f"{run}.json").write_text("{}")
    jobs = {"a-1": {"kind": "pretrain", "needs": []}, "b-2": {"kind": "trial", "needs": ["a-1"]}}
    write_json(tmp_path / "graph.json", {"jobs": jobs, "tables": {}, "work": "work", "pages": "pages", "reports": "reports"})
    call = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "reports" / "Snakefile"), "-d", str(tmp_path), "-c2", "--quiet", "all", "--rerun-incomplete",
            "--rerun-triggers", "mtime", "input", "--nolock", "--config", "graph=graph.json", f"job={sys.executable} stub.py", "--", "work/b-2.done"]
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    ran = lambda: (work / "ran").read_text().split() if (work / "ran").exists() else []
    process = subprocess.Popen(call, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        end = time.time() + 120
        while "b-2" not in ran() and process.poll() is None and time.time() < end:
            time.sleep(0.05)
        assert ran() == ["a-1", "b-2"], process.poll() and process.stderr.read()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    (work / "free").touch()
    done = subprocess.run(call, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ran() == ["a-1", "b-2", "b-2"] and (work / "b-2.done").exists()
    now = time.time()
    for age, files in ((90, work.glob("*.json")), (60, [work / "a-1.done"]), (30, [work / "b-2.done"])):
        for file in files:
            os.utime(file, (now - age,) * 2)
    (work / "a-1.json").touch()  # as after a git checkout
    (work / "b-2.json").write_text("{ }")
    assert subprocess.run(call, env=env, capture_output=True).returncode == 0
    assert ran() == ["a-1", "b-2", "b-2", "b-2"]


def test_a_cluster_would_be_asked_for_what_each_job_needs(tmp_path):
    "A dry run with the profile for SLURM: nothing is submitted, and the executor's plugin has accepted all options."
    pytest.importorskip("snakemake_executor_plugin_slurm")
    folder = ROOT / "reports" / "profiles" / "slurm"
    said = yaml.safe_load((folder / "config.yaml").read_text())
    assert said["executor"] == "slurm" and "code" not in said["rerun-triggers"] and said["rerun-incomplete"]
    jobs = {"a-1": {"kind": "pretrain", "needs": []}, "b-2": {"kind": "trial", "needs": ["a-1"]}}
    write_json(tmp_path / "graph.json", {"jobs": jobs, "tables": {}, "work": "work", "pages": "pages", "reports": "reports"})
    for run in jobs:
        write_json(tmp_path / "work" / f"{run}.json", {})
    call = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "reports" / "Snakefile"), "-d", str(tmp_path), "--profile", str(folder), "--dry-run",
            "--config", "graph=graph.json", "devices=4", "--", "work/b-2.done"]
    done = subprocess.run(call, env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    asked = re.findall(r"wildcards: run=(\S+)\n +resources: (.*)", done.stdout + done.stderr)
    assert [run for run, _ in asked] == ["a-1", "b-2"] and not [*tmp_path.glob("work/*.done")]
    for (_, resources), wanted in zip(asked, (["runtime=2880", "gpu=4"], ["runtime=360", "gpu=1"])):
        assert {*wanted, "slurm_partition=gpu", "mem_mb=4000", "cpus_per_task=8"} <= {*resources.split(", ")}


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
@pytest.mark.parametrize("asked, cores, gpus", [("", "-c2", None), ("GPUS=4", "-c4", "gpu=4"), ("CORES=8 GPUS=2", "-c8", "gpu=2")])
def test_as_many_jobs_at_a_time_as_there_are_places(asked, cores, gpus):
    "On processors every core has its job; GPUS limits them to one per GPU, and gives each GPU one."
    clean = {k: v for k, v in os.environ.items() if k not in ("CORES", "GPUS", "MAKEFLAGS")}
    said = subprocess.run(["make", "-n", "tables", *asked.split()], cwd=ROOT, capture_output=True, text=True, check=True, env=clean).stdout.split()
    assert cores in said and (said[said.index("--resources") + 1] if "--resources" in said else None) == gpus


@pytest.mark.timeout(600)
def test_two_processes_train_together_from_the_run_notebook(tmp_path):
    "papermill, from whose kernel torchrun starts two processes; the run is the one that a single process would make."
    small, people = tmp_path / "settings.yaml", make_store(tmp_path / "people", 8, seed=1, frames=(30, 40))
    fields = dict(method="usdrl", preset="tiny", steps=2, batch=4, length=24, overrides=FIELDS | dict(projection=16))
    small.write_text(yaml.safe_dump({"settings": fields, "store": str(people.path)}))
    call = [sys.executable, "-m", "papermill", "nbs/run_pretrain.ipynb", str(tmp_path / "report.ipynb"), "--no-progress-bar"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    call += ["-f", str(small), "-p", "devices", "2", "-p", "out", str(tmp_path / "work")]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    run, = (tmp_path / "work").glob("usdrl-*")
    assert read_json(run / "result.json")["step"] == 2 and "devices" not in read_json(run / "run.json")["settings"]
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
