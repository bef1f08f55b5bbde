"""The pictures of the README, taken as the tests see the pages: `make shots`, minutes."""

import tempfile
from io import BytesIO
from pathlib import Path

from helpers_browser import chromium, copy_tutorials, end_kernel, jupyterlab, run_notebook, tab, write_cells
from PIL import Image

ROOT = Path(__file__).parents[1]
OUT = ROOT / "reports" / "shots"
SHARP = 1.5  # pixels of a picture for each of the page
WIDGET = [
    """from skelnb.data.synthetic import synthesize
from skelnb.reporting.plots import PALETTE, Plot, use_style
from skelnb.reporting.widget import follow, player_widget
from skelnb.topology import layout

use_style()
clips = synthesize(6, actions=("throw", "kick", "bow"), frames=(90, 120), seed=3)
w = player_widget(clips, trails=["hand_right"], height=360)
w.clip = [c.label for c in clips].index("throw")
hand = layout("kinect_v2").joints.index("hand_right")""",
    """def height_of_hand(player, frame):
    fig = Plot(3.7, 4.2, f"height of the right hand, frame {frame}")
    ax = fig.subplots()
    t = [i / player.fps for i in range(len(player.clip))]
    y = player.clip.xyz[:, 0, hand, 1]
    ax.plot(t, y, color=PALETTE[0])
    ax.axvline(frame / player.fps, color=PALETTE[3])
    ax.set(xlabel="seconds", ylabel="metres", title=f"right hand, {player.clip.label}")
    return fig

follow(w, height_of_hand)""",
]


def keep(name, *shots):
    "Pictures side by side, with few colours, as a small PNG."
    images = [Image.open(BytesIO(shot)).convert("RGB") for shot in shots]
    both = Image.new("RGB", (sum(i.width for i in images), images[0].height))
    for i, image in enumerate(images):
        both.paste(image, (i * images[0].width, 0))
    OUT.mkdir(exist_ok=True)
    both.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(OUT / name, optimize=True)
    print(f"{(OUT / name).relative_to(ROOT)}: {both.width} x {both.height}, {(OUT / name).stat().st_size / 1e3:.0f} KB")


def top(page, selector, room, n=0):
    "Bring the n-th of these to the top of its page or notebook, with some room above it."
    page.locator(selector).nth(n).evaluate("""(e, room) => {
        let box = e.parentElement;
        while (box && !(box.scrollHeight > box.clientHeight && /auto|scroll/.test(getComputedStyle(box).overflowY))) box = box.parentElement;
        (box || window).scrollBy(0, e.getBoundingClientRect().top - (box ? box.getBoundingClientRect().top : 0) - room);
    }""", room)
    page.wait_for_timeout(500)


def seek(page, seconds, n=0):
    page.locator(".skelnb-player input").nth(n).evaluate("(slider, t) => { slider.value = t; slider.oninput(); }", seconds)
    page.wait_for_timeout(500)


def lab_shots(browser, folder):
    project = folder / "project"
    copy_tutorials(ROOT, project)
    look = project / "look_closer.ipynb"
    write_cells(look, WIDGET)
    screen = {"viewport": {"width": 1280, "height": 920}, "device_scale_factor": SHARP}
    with jupyterlab(project, folder) as url:
        with tab(browser, url, **screen) as page:
            run_notebook(page, url, "nbs/tutorial_your_recording.ipynb")
            seek(page, 5.2, -1)
            top(page, ".skelnb-player", 352, -1)
            keep("lab.png", page.screenshot())
            end_kernel(page)
        with tab(browser, url, **screen) as page:
            run_notebook(page, url, look.name)
            page.evaluate("jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' })")
            page.wait_for_timeout(1000)
            seek(page, 1.2)
            page.wait_for_timeout(1500)  # until the plot has followed
            top(page, ".skelnb-player", 330)
            keep("widget.png", page.screenshot())
            end_kernel(page)


def report_shots(browser):
    page_of = ROOT / "reports" / "open" / "lode_precog.html"
    shots = []
    for scheme in ("light", "dark"):
        with tab(browser, page_of.as_uri(), color_scheme=scheme, offline=True, viewport={"width": 820, "height": 800}, device_scale_factor=SHARP) as page:
            page.goto(page_of.as_uri())
            seek(page, 4.75)
            top(page, ".skelnb-player", 330)
            shots.append(page.screenshot())
    keep("report.png", *shots)


if __name__ == "__main__":
    with chromium() as started, tempfile.TemporaryDirectory() as temporary:
        report_shots(started)
        lab_shots(started, Path(temporary))
