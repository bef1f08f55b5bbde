"""The pages that come with the repository, opened as files, without a network, in light and in dark."""

from pathlib import Path

import pytest
from helpers_browser import chromium, contrast, plays, tab

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "reports"
NOT_COMMITTED = {"quick", "docs", "runs"}
FOLDERS = sorted({p.parent for p in REPORTS.rglob("*.html") if not NOT_COMMITTED & {*p.relative_to(REPORTS).parts}})


@pytest.fixture(scope="module")
def started():
    with chromium() as browser:
        yield browser


def some(folder, n=12):
    "Its pages; of very many that are alike, some from the first to the last, and the index."
    pages = sorted(folder.glob("*.html"), key=lambda p: (p.name != "index.html", p.name))
    return pages if len(pages) <= n else [pages[i * (len(pages) - 1) // (n - 1)] for i in range(n)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_pages_open_offline(folder, scheme, started):
    with tab(started, folder.as_uri(), color_scheme=scheme, offline=True) as page:
        for file in some(folder):
            page.goto(file.as_uri())
            ground, low = contrast(page)
            assert ground > 200 if scheme == "light" else ground < 60, file.name
            assert low == [], f"{file.name}: hard to read"
            for player in page.locator(".skelnb-player").all()[:1]:
                assert plays(player), file.name
