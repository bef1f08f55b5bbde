"""The tutorials in JupyterLab, as their readers meet them: every cell ends, nothing complains, nothing is fetched from elsewhere, and the player plays."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers_browser import chromium, copy_tutorials, end_kernel, jupyterlab, plays, run_notebook, tab, write_cells

papermill = pytest.importorskip("papermill")
pytest.importorskip("jupyterlab")
from papermill.iorw import load_notebook_node, write_ipynb  # noqa: E402
from papermill.parameterize import parameterize_notebook  # noqa: E402

ROOT = Path(__file__).parents[1]
SMALL = {  # what is short is run as it is; test_run_notebooks.py has all of them at their defaults
    "tutorial_compare": {"steps": 2},
    "tutorial_own_method": {"steps": 6},
    "tutorial_protocols": {"steps": 2, "tolerance": 0.01, "tune_steps": 1, "share": 0.01, "share_slim": 0.0005, "probe_epochs": 1},
    "tutorial_scale_out": {"steps": 12},
    "tutorial_your_recording": {"steps": 2},
}
SCREEN = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    "The tutorials in a project of their own, with small parameters as papermill would put them in."
    folder = tmp_path_factory.mktemp("lab") / "project"
    for file in copy_tutorials(ROOT, folder):
        if file.stem in SMALL:
            write_ipynb(parameterize_notebook(load_notebook_node(str(file)), SMALL[file.stem]), str(file))
    return folder


@pytest.fixture(scope="module")
def lab(project):
    with chromium() as browser, jupyterlab(project, project.parent) as url:
        yield browser, url


def opened(lab, **options):
    browser, url = lab
    return tab(browser, url, viewport=SCREEN, **options)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [p.stem for p in sorted((ROOT / "nbs").glob("tutorial_*.ipynb"))])
def test_a_tutorial_runs_and_its_player_plays(name, lab):
    with opened(lab) as page:
        cells = run_notebook(page, lab[1], f"nbs/{name}.ipynb")
        assert [n for n, _ in cells] == list(range(1, len(cells) + 1)), "cells that did not run"
        wrong = {kind for _, kinds in cells for kind in kinds} - {"display_data", "execute_result"}
        assert not wrong, "an error, or something on stderr"
        assert plays(page.locator(".skelnb-player").first)
        end_kernel(page)


WIDGET = ["""from skelnb.data.synthetic import synthesize
from skelnb.reporting.widget import follow, player_widget

w = player_widget(synthesize(2, actions=("bow", "kick"), frames=(60, 80), seed=2))
follow(w, lambda player, frame: f"<b class='said'>{player.title} | {frame}</b>")""", "w.frame = 12"]


def test_the_widget_and_python_agree(lab, project):
    pytest.importorskip("anywidget")
    write_cells(project / "widget.ipynb", WIDGET)
    with opened(lab) as page:
        assert run_notebook(page, lab[1], "widget.ipynb") == [[1, ["execute_result"]], [2, []]]
        said, player = page.locator(".said"), page.locator(".skelnb-player")
        said.get_by_text("bow | 12").wait_for()  # Python told the page
        assert player.evaluate("p => p.skelnb.frame()") == 12
        assert plays(player)  # and the page tells Python, which draws
        shown = player.evaluate("p => p.skelnb.frame()")
        assert shown > 12
        said.get_by_text(f"bow | {shown}").wait_for()
        page.get_by_label("clip", exact=True).select_option(index=1)
        said.get_by_text("kick | 0").wait_for()
        assert "kick" in player.locator(".view b").inner_text()
        picture = "p => p.querySelector('.view canvas').toDataURL()"
        light = player.evaluate(picture)
        page.evaluate("jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' })")
        page.wait_for_function("() => document.querySelector('.skelnb-player').style.colorScheme === 'dark'")
        page.wait_for_function(f"([player, light]) => ({picture})(player) !== light", arg=[player.element_handle(), light])  # lines of another colour
        end_kernel(page)


@pytest.mark.skipif(shutil.which("make") is None, reason="no make")
def test_make_lab_opens_a_tutorial():
    shown = subprocess.run(["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    command = re.search(r"^\.venv/bin/jupyter lab .*=/lab/tree/(\S+\.ipynb)$", shown, re.M)
    assert (ROOT / command[1]).is_file()
