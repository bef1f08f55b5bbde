"""The pages that come with the repository, opened as files, without a network, in light and in dark."""

from pathlib import Path

import pytest
from helpers_browser import chromium, contrast, plays, tab

ROOT = Path(__file__).parents[1]
MADE_HERE = {"quick", "docs", "runs"}  # not committed
PAGES = sorted(p for p in (ROOT / "reports").rglob("*.html") if not MADE_HERE & {*p.relative_to(ROOT / "reports").parts})


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
            grounds[scheme], low = contrast(seen)
            assert low == [], f"hard to read in {scheme}"
            for player in seen.locator(".skelnb-player").all()[:1]:
                assert plays(player)
    assert grounds["light"] > 200 > 60 > grounds["dark"]
