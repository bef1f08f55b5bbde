"""A page in a headless browser, where there is one; and a JupyterLab of the tests' own, seen through it."""

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest


def browser():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def chromium():
    "The system's browser, driven by playwright (whose own is not fetched); without one of them the test is skipped."
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if browser() is None:
        pytest.skip("no chromium")
    with api.sync_playwright() as p:
        alone = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        started = p.chromium.launch(executable_path=browser(), args=["--no-sandbox", "--disable-gpu", alone])
        yield started
        started.close()


@contextmanager
def tab(browser, home, **options):
    "A tab with a memory of its own. `home`: how the addresses begin that it may ask for. At the end nothing may have gone wrong in it."
    context = browser.new_context(**options)
    context.set_default_timeout(60_000)  # a busy machine is no reason to fail
    page, wrong = context.new_page(), []
    allowed = (home, home.replace("http:", "ws:"), "data:", "blob:", "about:")
    page.on("request", lambda r: r.url.startswith(allowed) or wrong.append(f"asked for {r.url[:200]}"))
    page.on("websocket", lambda w: w.url.startswith(allowed) or wrong.append(f"asked for {w.url[:200]}"))
    page.on("requestfailed", lambda r: wrong.append(f"failed: {r.url[:200]}: {r.failure}"))
    page.on("response", lambda r: r.status < 400 or wrong.append(f"{r.status}: {r.url[:200]}"))
    page.on("console", lambda m: m.type == "error" and wrong.append(f"console: {m.text[:500]} ({m.location.get('url', '')[:100]})"))
    page.on("pageerror", lambda e: wrong.append(f"error: {e}"))
    yield page
    page.wait_for_timeout(50)  # what is on its way
    found = list(wrong)  # closing a tab aborts what it waits for
    context.close()
    assert not found, "\n".join(found)


def answer(page):
    "What the page's script has put into `window.answer`, as soon as it is there. Nothing is loaded from elsewhere, and nothing complains."
    with chromium() as started, tab(started, "about:") as shown:
        shown.set_content(page)
        return shown.wait_for_function("() => window.answer").json_value()


def plays(player):
    "Press play: the clock goes on and the picture changes; press again: it stands."
    player.scroll_into_view_if_needed()
    page, button, clock, canvas = player.page, player.locator("button.play"), player.locator("output"), player.locator(".view canvas").first
    state = lambda: [clock.inner_text(), canvas.evaluate("c => c.toDataURL()")]  # noqa: E731
    before = state()
    button.click()
    page.wait_for_function("([player, clock, picture]) => player.querySelector('output').textContent !== clock"
                           " && player.querySelector('.view canvas').toDataURL() !== picture", arg=[player.element_handle(), *before])
    button.evaluate("b => b.ariaLabel === 'pause' && b.click()")  # not at its end meanwhile
    after = state()
    page.wait_for_timeout(100)
    return state() == after


# Contrast of WCAG 2 between the colour of every piece of text and what is behind it, as the page shows them.
# Left out: figures, and with them the coloured pieces of a timeline (test_plots.py has their colours).
CONTRAST = """() => {
  const pen = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  const over = (colors) => {
    for (const c of colors) { pen.fillStyle = c; pen.fillRect(0, 0, 1, 1); }
    return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => rgb.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = new Map();
  for (let node; (node = texts.nextNode());) {
    const own = node.parentElement;
    if (!node.data.trim() || own.closest("svg, script, style, option, .skelnb-player .row") || !own.checkVisibility()) continue;
    const behind = [];
    for (let e = own; e; e = e.parentElement) behind.unshift(getComputedStyle(e).backgroundColor);
    const ink = getComputedStyle(own).color, [a, b] = [light(over(["Canvas", ...behind])), light(over(["Canvas", ...behind, ink]))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), key = `${own.localName}.${own.className} ${ink} on ${over(["Canvas", ...behind])}`;
    if (!found.has(key)) found.set(key, [ratio, node.data.trim().slice(0, 40)]);
  }
  return { page: over(["Canvas", getComputedStyle(document.documentElement).backgroundColor, getComputedStyle(document.body).backgroundColor]),
           low: [...found].filter(([, [ratio]]) => ratio < 4.5).map(([key, [ratio, text]]) => `${ratio.toFixed(2)} ${key}: ${text}`) };
}"""


def contrast(page):
    "How light the page is, 0 to 255, and every kind of text in it whose contrast is below 4.5."
    found = page.evaluate(CONTRAST)
    return sum(found["page"]) / 3, found["low"]


# ---- JupyterLab ----------------------------------------------------------------------------------------------------------------------------


def free_port():
    "Of this machine; nobody else has it yet."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextmanager
def jupyterlab(root, own):
    "A server whose files are `root`, on a free port of this machine; it writes only there and into `own`, and asks nobody for news. Its address."
    port = free_port()
    folders = {f"JUPYTER_{k}_DIR": k.lower() for k in ("CONFIG", "DATA", "RUNTIME")}
    folders |= {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces", "IPYTHONDIR": "ipython"}
    settings = own / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True, exist_ok=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    options = {"ServerApp.root_dir": root, "ServerApp.ip": "127.0.0.1", "ServerApp.port": port, "ServerApp.port_retries": 0, "IdentityProvider.token": "",
               "LabApp.expose_app_in_browser": True, "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate", "LabApp.extension_manager": "readonly"}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", *(f"--{k}={v}" for k, v in options.items())]
    with open(own / "log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **{k: str(own / v) for k, v in folders.items()}})
    url, patience = f"http://127.0.0.1:{port}", time.monotonic() + 120
    try:
        while True:
            try:
                urlopen(url + "/api").close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > patience:
                    raise RuntimeError((own / "log").read_text()[-3000:]) from None
                time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait()


def write_cells(file, sources):
    "A notebook of code cells, with the kernel that runs this."
    nbformat = pytest.importorskip("nbformat")
    cells = [nbformat.v4.new_code_cell(source, id=f"cell{i}") for i, source in enumerate(sources)]
    python = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": python}), file)


def run_notebook(page, url, path):
    "Open a notebook in JupyterLab and run all its cells: of each code cell, (its number, [kind of output, or what was said]). Its kernel ends with the tab."
    page.goto(f"{url}/lab/tree/{path}?reset")
    page.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'", timeout=120_000)
    page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")  # a promise, kept when the last cell is done
    return page.evaluate("""() => {
      const kind = (o) => o.ename ? `${o.ename}: ${o.evalue}` : o.name ? `${o.name}: ${[o.text].flat().join("")}` : o.output_type;
      const cells = jupyterapp.shell.currentWidget.content.model.sharedModel.cells.filter((c) => c.cell_type === "code");
      return cells.map((c) => [c.execution_count, c.outputs.map(kind)]);
    }""")


def end_kernel(page):
    page.evaluate("void jupyterapp.shell.currentWidget.sessionContext.shutdown()")  # not waited for


def copy_tutorials(root, to):
    "The tutorials in a project of their own, below `to`."
    (to / "nbs").mkdir(parents=True)
    shutil.copy(root / "settings.ini", to)
    return [Path(shutil.copy(n, to / "nbs")) for n in sorted((root / "nbs").glob("tutorial_*.ipynb"))]
