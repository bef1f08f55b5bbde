import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skelnb.errors import DataError, SkelnbError
from skelnb.reporting import html
from skelnb.reporting.html import clean_svg, hold_math, main, release_math, render, scroll_tables

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbconvert")
pytest.importorskip("latex2mathml")
v4 = nbformat.v4
DONE = {"input_path": "nbs/run_x.ipynb", "parameters": {"seed": 3}, "duration": 75.0, "end_time": "2025-01-31T10:20:30"}


def save(folder, *cells, papermill=DONE, name="x.ipynb"):
    nb = v4.new_notebook(cells=list(cells))
    if papermill is not None:
        nb.metadata["papermill"] = papermill
    nbformat.write(nb, folder / name)
    return folder / name


def code(source="1", *outputs, tags=(), **metadata):
    return v4.new_code_cell(source, outputs=list(outputs), metadata={"tags": list(tags), **metadata})


def shown(data, **metadata):
    return v4.new_output("display_data", data, metadata=metadata)


def page(folder, *cells, **kw):
    return render(save(folder, *cells, **kw)).read_text()


class Loads(HTMLParser):
    "What a browser would fetch for a page."

    def __init__(self, text):
        super().__init__()
        self.urls = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.urls += [v for k, v in attrs.items() if (k == "src" or tag == "link") and v and not v.startswith(("data:", "#"))]
        self.urls += re.findall(r"url\(\s*['\"]?(https?:[^)]+)", attrs.get("style") or "")


RUN = """
import numpy as np
from skelnb.reporting.plots import segmentation_timeline, use_style
from skelnb.reporting.player import Player
use_style()
names, truth = ["background", "wave"], np.repeat([0, 1], 30)
"""


def test_a_notebook_run_by_papermill(tmp_path):
    pm = pytest.importorskip("papermill")
    cells = [
        v4.new_markdown_cell("# A run\n\n> In short.\n\nIt minimises $\\mathcal{L}_r$:\n\n$$p_i = \\frac{\\sigma_i}{\\sum_j \\sigma_j}$$"),
        code("seed: int = 0  # random seed", tags=["parameters"]), code(RUN + "print('chat' + 'ter')"),
        code("segmentation_timeline(truth, {'late': np.roll(truth, 3)}, names)"),
        code("Player(np.random.default_rng(seed).normal(size=(60, 25, 3)), truth, classes=names, title='noise')"),
        code("import pandas as pd\npd.DataFrame({'acc': [71.2]}, index=['lode']).style.set_uuid('t').set_caption('Stand-in data')")]
    source = save(tmp_path, *cells, papermill=None)
    nb = nbformat.read(source, 4)
    nb.metadata["kernelspec"] = {"name": "python3", "display_name": "python3", "language": "python"}
    nbformat.write(nb, source)
    pm.execute_notebook(str(source), str(tmp_path / "out.ipynb"), parameters={"seed": 3}, progress_bar=False)
    text = render(tmp_path / "out.ipynb").read_text()
    assert Loads(text).urls == [] and "cdn" not in text and "mathjax" not in text.lower()
    assert "<title>A run</title>" in text and text.count("<math") == 2 and "chatter" not in text
    assert 'aria-label="Segmentation timeline. late: 90 % of frames right"' in text
    assert 'class="skelnb-player"' in text and 'aria-label="Stand-in data"' in text
    assert "seed = 3" in text and "UTC, in" in text and str(tmp_path) not in text and "banner" not in text.split("</style>", 1)[1]
    figures = sum(map(len, re.findall(r"<figure.*?</figure>|<div class=\"html\">.*?</div>\n", text, re.S)))
    assert len(text) - figures < 300_000


def test_failed_run(tmp_path):
    error = v4.new_output("error", ename="DataError", evalue="s1.npz: is <empty>\nmore", traceback=["\x1b[31mTraceback\x1b[0m"])
    mark = v4.new_markdown_cell("An Exception was encountered", metadata={"tags": ["papermill-error-cell-tag"]})
    cell = code("#| hide\nfails()", error)
    text = page(tmp_path, mark, v4.new_markdown_cell("# T"), cell)
    assert "This run failed." in text and "DataError: s1.npz: is &lt;empty&gt;" in text and "was encountered" not in text
    assert f'href="#{cell.id}"' in text and f'id="{cell.id}"' in text and "Traceback" in text and "\x1b" not in text
    assert "This run failed" not in page(tmp_path, code("fails()", error, tags=["raises-exception"]))


def test_killed_and_unrun(tmp_path):
    running = {k: v for k, v in DONE.items() if k not in ("end_time", "duration")}
    assert "This run did not finish." in page(tmp_path, code("1", shown({"text/plain": "1"})), papermill=running)
    assert "This run did not finish." in page(tmp_path, code("1"), papermill=DONE | {"end_time": None, "duration": None})
    assert "This notebook was not run." in page(tmp_path, code("1"), papermill=None)
    assert "by hand" in page(tmp_path, code("1", shown({"text/plain": "1"})), papermill=None)


def test_code_and_streams(tmp_path):
    noise, kept = v4.new_output("stream", text="noise"), v4.new_output("stream", text="kept")
    cells = [code("#| export\nvisible()", noise), code("#| hide\nsecret()", shown({"text/plain": "hidden"})),
             code("2", kept, tags=["show-stream"]), code("#| hide_input\nnotcode()", shown({"text/plain": "butthis"})),
             code("seed = 3", tags=["injected-parameters"]), code("lesson()", tags=["show-code"])]
    text = page(tmp_path, *cells)
    assert re.search(r'<details class="code" open(="")?>(?:(?!</details>).)*lesson', text, re.S) and text.count('class="code" open') == 1
    assert "visible" in text and "#| export" not in text and "noise" not in text and "kept" in text
    assert "secret" not in text and "hidden" not in text.split("</style>", 1)[1] and "notcode" not in text and "butthis" in text
    assert "<summary>parameters of this run</summary>" in text
    text = render(tmp_path / "x.ipynb", code=False).read_text()
    assert "<details" not in text and "butthis" in text


@pytest.mark.parametrize("cell, alt", [
    (code("#| fig-alt: 'own \"words\"'\n1", shown({"image/png": "AAAA"}, **{"image/png": {"alt": "plot's"}})), "own &quot;words&quot;"),
    (code("1", shown({"image/png": "AAAA"}), alt="of the cell"), "of the cell"),
    (code("1", shown({"image/png": "AAAA"}, **{"image/png": {"alt": "plot's"}})), "plot's"),
    (code("1", shown({"image/png": "AAAA"})), "Figure: Below")])
def test_every_figure_has_words(tmp_path, cell, alt):
    text = page(tmp_path, v4.new_markdown_cell("# Title\n\n## Below"), cell)
    found = re.search(r"<img alt=(?:\"([^\"]*)\"|'([^']*)')", text)
    assert (found[1] or found[2]).replace('"', "&quot;") == alt


def test_outputs_that_would_need_more_are_left_out(tmp_path):
    state = {"model_id": "1", "version_major": 2, "version_minor": 0}
    widget = shown({"application/vnd.jupyter.widget-view+json": state, "text/plain": "Widget()"})
    text = page(tmp_path, code("1", widget), code("2", shown({"application/javascript": "alert(1)"})))
    assert "Widget()" in text and "alert" not in text and "<script" not in text


def test_svg():
    body = '<metadata>http://x</metadata><g id="a"/><use xlink:href="#a" clip-path="url(#a)"/>'
    one = clean_svg(f'<?xml version="1.0"?>\n<!DOCTYPE svg>\n<svg>{body}</svg>', "A & B")
    own = re.search(r'id="(f\w+-)a"', one)[1]
    assert f'href="#{own}a"' in one and f"url(#{own}a)" in one and 'aria-label="A &amp; B"' in one and "http" not in one
    assert clean_svg('<svg><path d="M 1.23456 2.5 \nL 3.1 4"/><text>1.23456</text></svg>', "").count("1.23456") == 1


def test_tables_scroll():
    text = scroll_tables('<p>a</p><table border="1" class="dataframe"><caption>C &amp; <i>D</i></caption></table><table></table>')
    assert text.count('<div class="scroll"') == 2 and 'aria-label="C &amp; D"' in text and "border" not in text


@pytest.mark.parametrize("text", ["costs $5 and $6", r"\$x$", "`$x$`", "```\n$x$\n```", "``a ` $x$``", "$ x $", "a $ b"])
def test_no_math(text):
    assert hold_math(text) == text


@pytest.mark.parametrize("text, n", [
    ("$x$", 1), ("$x_1 * y_1 * z$ and $y$", 2), ("$$\na\n$$", 1), ("`c` $x$ `$y$`", 1), ("($n$)", 1), (r"$\$5$", 1)])
def test_math(text, n):
    out = release_math(hold_math(text))
    assert out.count("<math") == n and "skelnbtex" not in out


def test_unreadable_math_stays_text():
    assert release_math(hold_math(r"$\left( \frac{$ <")).count("<math") <= 1


@settings(deadline=None)
@given(st.text(alphabet="ab$`\\ \n*_{}^5", max_size=40))
def test_math_loses_no_text(text):
    held = hold_math(text)
    sign = {"block": "$$", "inline": "$"}
    back = re.sub(r"skelnbtex(block|inline)x([0-9a-f]+)x", lambda m: sign[m[1]] + bytes.fromhex(m[2]).decode() + sign[m[1]], held)
    assert back == text
    release_math(held)


def test_not_a_notebook(tmp_path, capsys):
    with pytest.raises(DataError, match="no such notebook"):
        render(tmp_path / "none.ipynb")
    for content in ("", "{", "[]", '{"cells": 3, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}', "\0\1"):
        (tmp_path / "bad.ipynb").write_text(content)
        with pytest.raises(DataError, match="is not a notebook"):
            render(tmp_path / "bad.ipynb")
    assert main([str(tmp_path / "bad.ipynb")]) == 1 and "bad.ipynb" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["bad.ipynb"]


def test_a_failed_rendering_leaves_the_old_page(tmp_path, monkeypatch):
    path = save(tmp_path, code("1", shown({"text/plain": "one"})))
    old = render(path).read_text()
    monkeypatch.setattr(html, "_provenance", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        render(path)
    assert path.with_suffix(".html").read_text() == old and len(list(tmp_path.iterdir())) == 2


def test_missing_tools_name_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nbconvert", None)
    with pytest.raises(SkelnbError, match=r"pip install 'skelnb\[notebooks\]'"):
        render(save(tmp_path, code("1", shown({"text/plain": "one"}))))


def test_command_line(tmp_path):
    save(tmp_path, v4.new_markdown_cell("# T"), code("visible()", shown({"text/plain": "one"})))
    command = [sys.executable, "-m", "skelnb.reporting.html", "--no-code", "x.ipynb"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "x.html\n" and done.returncode == 0, done.stderr
    assert "visible()" not in (tmp_path / "x.html").read_text()
