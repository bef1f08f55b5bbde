import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skelnb.errors import DataError, ParameterError
from skelnb.reporting import runs as module
from skelnb.reporting.runs import Run, check_params, data_checksum, provenance, runs


def notebook(declared, injected=""):
    space = {}
    exec("import math\n_before = set(globals())", space)
    exec(declared, space)
    exec(injected, space)
    return space, check_params(space, space["_before"])


def test_declared_and_injected():
    space, params = notebook("seed: int = 0\nlr: float = 1e-3\nimport json", "lr = '1e-4'\n_i1 = 'IPython'\nACTIONS = ('wave',)")
    assert params == {"seed": 0, "lr": 1e-4} and space["lr"] == 1e-4


@pytest.mark.parametrize("kind, given, want", [
    ("int", "12", 12), ("int", "1e3", 1000), ("float", 2, 2.0), ("float", "1e-3", 1e-3), ("bool", "False", False),
    ("str", "x", "x"), ("int | None", "None", None), ("int | None", 3, 3), ("list[int]", "1, 2", [1, 2]),
    ("list[str]", "['a','b']", ["a", "b"]), ("list[float]", [1, "2e0"], [1.0, 2.0]), ("list[int] | None", "[3]", [3]),
    ("list[int] | None", None, None), ("tuple[int, ...]", "1,2", (1, 2))])
def test_values_become_what_was_declared(kind, given, want):
    _, params = notebook(f"x: {kind} = {want!r}", f"x = {given!r}")
    assert params["x"] == want and type(params["x"]) is type(want)


@pytest.mark.parametrize("kind, given", [
    ("int", 7.5), ("int", True), ("float", "fast"), ("bool", 2), ("str", 7), ("list[int]", [1, "x"]), ("int", None)])
def test_ill_typed(kind, given):
    with pytest.raises(ParameterError) as e:
        notebook(f"x: {kind} = 0", f"x = {given!r}")
    assert "parameter x = " in str(e.value)


def test_text_parameter_names_the_remedy():
    with pytest.raises(ParameterError, match="papermill -r name"):
        notebook("name: str = 'a'", "name = 7")


def test_unknown_names():
    with pytest.raises(ParameterError, match="no such parameter: sed\n.*did you mean seed"):
        notebook("seed: int = 0", "sed = 1")
    with pytest.raises(ParameterError, match="no such parameter: zzz"):
        notebook("seed: int = 0", "zzz = [1]")


def test_annotations_as_text():
    _, params = notebook("from __future__ import annotations\nx: list[int] = [0]", "x = '4'")
    assert params == {"x": [4]}


VALUES = st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(), st.booleans(), st.lists(st.integers()))


@given(st.dictionaries(st.text(min_size=1), VALUES, max_size=5))
def test_same_settings_same_folder(tmp_path_factory, settings):
    base = tmp_path_factory.mktemp("runs")
    a = Run.create(base, settings)
    b = Run.create(base, dict(reversed(settings.items())))
    assert a.folder == b.folder and len(list(base.iterdir())) == 1


def test_settings_of_any_type(tmp_path):
    a = Run.create(tmp_path, {"sizes": (1, 2), "where": Path("a"), "lr": np.float32(0.5), "n": np.int64(3), "grid": np.arange(2)})
    b = Run.create(tmp_path, {"sizes": [1, 2], "where": "a", "lr": 0.5, "n": 3, "grid": [0, 1]})
    assert a.folder == b.folder
    assert Run.create(tmp_path, {"seed": 1}).folder != Run.create(tmp_path, {"seed": 2}).folder
    assert Run.create(tmp_path, {"seed": 1}, data="a").folder != Run.create(tmp_path, {"seed": 1}, data="b").folder
    assert Run.create(tmp_path, {}, kind="usdrl").folder.name.startswith("usdrl-")
    with pytest.raises(ParameterError, match="finite"):
        Run.create(tmp_path, {"lr": float("nan")})


def test_a_run_from_start_to_end(tmp_path):
    run = Run.create(tmp_path, {"seed": 7, "lr": 1e-3}, data="abc")
    info = json.loads((run.folder / "run.json").read_text())
    assert info["seed"] == 7 and info["data"] == "abc" and set(info) >= {"commit", "dirty", "versions", "started", "code", "settings"}
    assert not run.done
    with pytest.raises(DataError, match="no result yet"):
        run.result()
    Run.create(tmp_path, {"seed": 7, "lr": 1e-3}, data="abc")  # interrupted, started again
    assert len(json.loads((run.folder / "run.json").read_text())["resumed"]) == 1
    run.finish({"acc": np.float32(0.5)}, {"labels": np.arange(4), "scores": [[0.1, 0.9]]})
    before = (run.folder / "run.json").read_bytes()
    again = Run.create(tmp_path, {"seed": 7, "lr": 1e-3}, data="abc")
    assert again.done and again.result() == {"acc": 0.5} and (run.folder / "run.json").read_bytes() == before
    assert again.predictions()["labels"].tolist() == [0, 1, 2, 3]
    assert not [p for p in run.folder.iterdir() if p.name.startswith(".")]


def test_refusals(tmp_path):
    run = Run.create(tmp_path, {"seed": 1})
    with pytest.raises(DataError, match="no readable predictions"):
        run.predictions()
    with pytest.raises(ParameterError, match="ragged"):
        run.finish({"acc": 1.0}, {"labels": np.array([[1], [1, 2]], dtype=object)})
    with pytest.raises(ParameterError, match="finite"):
        run.finish({"acc": float("nan")})
    assert not run.done and [p.name for p in run.folder.iterdir()] == ["run.json"]
    info = json.loads((run.folder / "run.json").read_text())
    (run.folder / "run.json").write_text(json.dumps(info | {"settings": {"seed": 2}}))
    with pytest.raises(DataError, match="edited"):
        Run.create(tmp_path, {"seed": 1})
    (run.folder / "run.json").write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        runs(tmp_path)


def test_table(tmp_path):
    assert len(runs(tmp_path)) == 0
    Run.create(tmp_path, {"seed": 0, "fit": {"lr": 0.1}}).finish({"acc": 0.5, "f1": {"10": 0.4}})
    Run.create(tmp_path, {"seed": 1, "fit": {"lr": 0.1}})
    (tmp_path / "notes").mkdir()
    table = runs(tmp_path).sort_values("seed")
    assert table["fit.lr"].tolist() == [0.1, 0.1] and table.done.tolist() == [True, False]
    assert table["result.f1.10"].iloc[0] == 0.4 and np.isnan(table["result.acc"].iloc[1])


def test_checksum(tmp_path, monkeypatch):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a").write_bytes(b"one")
    first = data_checksum(tmp_path / "s")
    (tmp_path / "s" / "a").write_bytes(b"two")
    assert data_checksum(tmp_path / "s") != first and data_checksum(tmp_path / "s" / "a") == data_checksum(tmp_path / "s" / "a")
    monkeypatch.setattr(module, "WHOLE", 1000)
    monkeypatch.setattr(module, "BLOCK", 10)
    big = bytearray(2000)
    (tmp_path / "big").write_bytes(big)
    a = data_checksum(tmp_path / "big")
    big[-1] = 1
    (tmp_path / "big").write_bytes(big)
    assert data_checksum(tmp_path / "big") != a
    with pytest.raises(DataError, match="no such file"):
        data_checksum(tmp_path / "none")


def test_provenance_outside_git(tmp_path, monkeypatch):
    got = provenance()
    assert len(got["code"]) == 10 and got["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    (tmp_path / "site" / "skelnb").mkdir(parents=True)
    (tmp_path / "site" / "skelnb" / "__init__.py").write_text("")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)  # somebody else's repository around an installed package
    monkeypatch.setattr(module.skelnb, "__file__", str(tmp_path / "site" / "skelnb" / "__init__.py"))
    assert provenance()["commit"] is None and provenance()["dirty"] is None


def test_rendered_reports_do_not_make_the_code_another(tmp_path, monkeypatch):
    files = ["skelnb/__init__.py", "reports/tables/t.yaml", "reports/standin/t.html", "reports/index.html", "reports/open/a.ipynb", "reports/results.parquet"]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(module.skelnb, "__file__", str(tmp_path / "skelnb" / "__init__.py"))
    assert provenance()["dirty"] is False and len(provenance()["commit"]) == 40
    for file in files[2:]:
        (tmp_path / file).write_text("rendered anew")
    (tmp_path / "reports/index.html").unlink()
    assert provenance()["dirty"] is False
    for file in files[:2]:
        (tmp_path / file).write_text("changed")
        assert provenance()["dirty"] is True, file
        (tmp_path / file).write_text("")
