"""The run and tutorial notebooks as a user meets them: papermill at their defaults, then a page; and what is said of a parameter that does not exist."""

import ast
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("papermill")
from skelnb.reporting.html import render  # noqa: E402
from skelnb.reporting.runs import runs  # noqa: E402

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(p for kind in ("run", "tutorial") for p in (ROOT / "nbs").glob(f"{kind}_*.ipynb"))


def papermill(notebook, out, **params):
    "Run a notebook as the README says, its runs and stores beside `out`."
    command = [str(Path(sys.executable).with_name("papermill")), str(notebook.relative_to(ROOT)), str(out), "--no-progress-bar"]
    for name, value in {"out": out.parent / "work", **params}.items():
        command += ["-p", name, str(value)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def code_cells(path):
    cells = json.loads(path.read_text())["cells"]
    return [c for c in cells if c["cell_type"] == "code" and "papermill-error-cell-tag" not in c["metadata"].get("tags", [])]


class Page(HTMLParser):
    "What a browser would fetch for a page, and how often each element occurs."

    def __init__(self, text):
        super().__init__()
        self.urls, self.count = [], {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.count[tag] = self.count.get(tag, 0) + 1
        self.urls += [v for k, v in attrs.items() if (k == "src" or tag == "link") and v and not v.startswith(("data:", "#"))]
        self.urls += re.findall(r"url\(\s*['\"]?((?:https?:)?//[^)]+)", attrs.get("style") or "")


def listing():
    "Where a run would leave something in the working tree. (Names with a dot in front are those of tools: other tests run at the same time.)"
    return sorted(p for folder in ("", "nbs", "runs") for p in (ROOT / folder).glob("[!.]*"))


def test_there_are_run_notebooks():
    assert {p.stem.split("_")[0] for p in NOTEBOOKS} == {"run", "tutorial"}, "nbs/run_*.ipynb and nbs/tutorial_*.ipynb"


@pytest.mark.timeout(1200)  # 26 to 72 s of CPU time; on a very busy machine one took eight minutes
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_run_at_its_defaults_becomes_a_report(notebook, tmp_path):
    before = listing()
    done = papermill(notebook, tmp_path / "report.ipynb")
    assert done.returncode == 0, done.stderr[-3000:]
    assert listing() == before, "a run left something in the working tree"
    text = render(tmp_path / "report.ipynb").read_text()
    page = Page(text)
    assert page.urls == [] and not re.search(r"@import|cdn\.|mathjax", text, re.I)
    assert "This run" not in re.sub(r"<(script|style).*?</\1>", "", text, flags=re.S), "a banner of failure"
    assert page.count["table"] >= 1 and page.count["svg"] + page.count.get("img", 0) >= 4 and "canvas" in text
    apart = r"<svg\b.*?</svg>|<script\b.*?</script>|<pre\b.*?</pre>|data:image/[^\"')]+"  # figures, and the code
    assert len(re.sub(apart, "", text, flags=re.S)) < 300_000
    made = runs(tmp_path / "work")
    assert len(made) and made.done.all()


@pytest.mark.parametrize("params, message", [({"stepps": 3}, r"no such parameter: stepps\n.*did you mean steps for stepps\?"),
                                             ({"steps": "abc"}, r"parameter steps = 'abc' is not int")], ids=["misspelt", "ill-typed"])
def test_a_wrong_parameter_stops_in_the_first_cells(params, message, tmp_path):
    done = papermill(ROOT / "nbs/run_lode.ipynb", tmp_path / "report.ipynb", **params)
    assert done.returncode != 0 and re.search(message, done.stderr), done.stderr[-3000:]
    ran = [c["execution_count"] is not None for c in code_cells(tmp_path / "report.ipynb")]
    assert 1 <= sum(ran) <= 4 and not any(ran[sum(ran):]) and not (tmp_path / "work").exists()
    text = render(tmp_path / "report.ipynb").read_text()
    assert "This run failed." in text and "ParameterError" in text


@pytest.mark.parametrize("notebook", [*NOTEBOOKS, ROOT / "nbs/table.ipynb"], ids=lambda p: p.stem)
def test_parameters_are_checked_before_anything_else(notebook):
    "So that the one above holds for all of them."
    before, parameters, check = code_cells(notebook)[:3]
    source = ["".join(c["source"]).strip() for c in (before, parameters, check)]
    assert source[0] == "from skelnb.reporting.runs import check_params\n\n_before = set(globals())" and source[2] == "p = check_params(globals(), _before)"
    assert "parameters" in parameters["metadata"]["tags"]
    lines = source[1].splitlines()
    for node in ast.parse(source[1]).body:
        assert isinstance(node, ast.AnnAssign) and "  # " in lines[node.end_lineno - 1], "a parameter has a type and a comment"
