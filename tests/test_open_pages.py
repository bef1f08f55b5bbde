"""The pages that come with the repository, opened as files, without a network, in light and in dark."""

from pathlib import Path

import pytest
from helpers_browser import chromium, plays, tab

ROOT = Path(__file__).parents[1]
MADE_HERE = {"quick", "docs", "runs"}  # not committed
PAGES = sorted(p for p in (ROOT / "reports").rglob("*.html") if not MADE_HERE & {*p.relative_to(ROOT / "reports").parts})
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


@pytest.fixture(scope="module")
def started():
    with chromium() as browser:
        yield browser


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT / "reports").with_suffix("").as_posix())
def test_a_page_opens_offline_in_light_and_dark(page, started):
    grounds = {}
    for scheme in ("light", "dark"):
        with tab(started, page.as_uri(), color_scheme=scheme, offline=True) as seen:
            seen.goto(page.as_uri())
            found = seen.evaluate(CONTRAST)
            grounds[scheme] = sum(found["page"]) / 3
            assert found["low"] == [], f"hard to read in {scheme}"
            for player in seen.locator(".skelnb-player").all()[:1]:
                assert plays(player)
    assert grounds["light"] > 200 > 60 > grounds["dark"]
