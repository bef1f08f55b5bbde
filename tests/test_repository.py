"""The notebooks are the source: exports agree, style counts hold, README and CI run the same commands."""
import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
RUNS = [p for p in NOTEBOOKS if p.name.startswith(("run_", "tutorial_"))]
FLOORS = ["errors settings files progress", "topology", "data", "transforms", "backbones", "objectives", "methods", "training", "evaluation",
          "reporting", "interface"]
RANK = {name: i for i, floor in enumerate(FLOORS) for name in floor.split()}
BY_HAND = {"__init__.py"}  # modules in skelnb/ that no notebook exports


def cells(path):
    return [dict(c, text="".join(c["source"])) for c in json.loads(path.read_text())["cells"]]


def exported(path):
    return [c for c in cells(path) if c["cell_type"] == "code" and re.search(r"^#\|\s*exports?\b", c["text"], re.M)]


def copy_sources(to):
    shutil.copytree(ROOT / "nbs", to / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    shutil.copy(ROOT / "pyproject.toml", to)
    (to / "skelnb").mkdir()
    shutil.copy(ROOT / "skelnb" / "__init__.py", to / "skelnb")


def tool(name):
    return str(Path(sys.executable).with_name(name))


def test_exports_agree_and_no_orphans(tmp_path):
    copy_sources(tmp_path)
    subprocess.run([tool("nbdev-export")], cwd=tmp_path, check=True)

    def read(base):
        return {p.relative_to(base).as_posix(): p.read_text() for p in (base / "skelnb").rglob("*.py")}

    fresh, committed = read(tmp_path), read(ROOT)
    assert sorted(fresh) == sorted(committed), "a module without its notebook, or a notebook never exported: run make prepare"
    assert [k for k in fresh if fresh[k] != committed[k]] == [], "notebook and module differ: run nbdev-export"


def test_notebooks_are_clean(tmp_path):
    copy_sources(tmp_path)
    subprocess.run([tool("nbdev-clean")], cwd=tmp_path, check=True)
    dirty = [p.relative_to(ROOT).as_posix() for p in NOTEBOOKS if (tmp_path / p.relative_to(ROOT)).read_text() != p.read_text()]
    assert dirty == [], "run nbdev-clean"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.relative_to(ROOT / "nbs").as_posix())
def test_style(path):
    assert path.stat().st_size < 300_000
    code = exported(path)
    prose = sum(len(c["text"].split()) for c in cells(path) if c["cell_type"] == "markdown")
    for c in code:
        lines = [line for line in c["text"].splitlines() if line.strip() and not line.startswith("#|")]
        assert len(lines) <= 60, f"an exported cell of {len(lines)} lines: {lines[0]}"
        try:
            ast.parse(c["text"])
        except SyntaxError as e:
            pytest.fail(f"cell {c['id']}, line {e.lineno}: {e.msg}")
    if path in RUNS:
        assert not code and not any(c.get("outputs") for c in cells(path)), "run notebooks and tutorials are committed without outputs and export nothing"
        assert any("parameters" in c["metadata"].get("tags", []) for c in cells(path))
    elif code:
        assert prose >= 150, "a notebook teaches: more prose"
        assert any(c.get("outputs") for c in cells(path)), "a notebook shows what it builds: execute it and commit the outputs"


def test_library_needs_no_notebook_tools():
    for p in (ROOT / "skelnb").rglob("*.py"):
        assert not re.search(r"^\s*(?:from|import)\s+(?:nbdev|fastcore|execnb)\b", p.read_text(), re.M), p


def test_imports_never_run_upwards():
    wrong = []
    for p in (ROOT / "skelnb").rglob("*.py"):
        parts = p.relative_to(ROOT / "skelnb").with_suffix("").parts
        for node in ast.walk(ast.parse(p.read_text())):
            if not isinstance(node, ast.ImportFrom):
                continue
            names = (node.module or "").split(".")
            target = [*parts[:len(parts) - node.level], *names] if node.level else names[1:] if names[0] == "skelnb" else []
            if target and RANK.get(target[0], -1) > RANK.get(parts[0], 99):
                wrong.append(f"{'/'.join(parts)} imports {'.'.join(target)}")
    assert wrong == []


def test_every_module_imports():
    modules = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in (ROOT / "skelnb").rglob("*.py") if p.name not in BY_HAND]
    code = "import importlib\nfor m in " + repr(sorted(modules)) + ": importlib.import_module(m)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")


def test_readme_commands_are_what_ci_runs():
    readme, ci, make = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text(), (ROOT / "Makefile").read_text()
    assert "make demo" in readme and "make test" in readme
    assert re.findall(r"^make .*$", ci, re.M) == ["make test"]
    command = "papermill nbs/run_lode.ipynb reports/quick/lode.ipynb"
    assert command in readme and command in make


def test_conda_and_pip_resolve_alike():
    text = (ROOT / "environment.yml").read_text()
    assert "-c constraints.txt" in text and "-e .[dev]" in text and "constraints.txt" in (ROOT / "Makefile").read_text()
    pins = (ROOT / "constraints.txt").read_text().lower()
    assert all("==" in line for line in pins.split()) and not re.search(r"^(nvidia|triton|cuda)", pins, re.M)


def test_nothing_of_a_machine_is_committed():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not files:
        pytest.skip("not a git checkout")
    for name in files:
        if (ROOT / name).suffix in {".png", ".svg", ".safetensors"} or not (ROOT / name).exists():
            continue
        text = (ROOT / name).read_text(errors="ignore")
        assert not re.search(r"/(?:home|root|work|Users|mnt|opt)/[A-Za-z]", text), f"{name} names a folder of one machine"
