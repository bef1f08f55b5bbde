"""The documentation: every notebook has a page, every link leads somewhere, and nothing comes from the network."""

import json
import re
from pathlib import Path

import pytest
from helpers_browser import chromium, contrast, tab

pytest.importorskip("nbconvert")
from skelnb.errors import DataError  # noqa: E402
from skelnb.reporting.docs import anchor_headings, build_docs, find_pages, link_names, link_targets, names_of, search_entries  # noqa: E402

ROOT = Path(__file__).parents[1]
SHOWN = ["objectives/rank.html", "data/store.html", "run_slim.html"]


@pytest.fixture(scope="module")
def pages():
    return find_pages(ROOT / "nbs")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return build_docs(ROOT, tmp_path_factory.mktemp("docs"), only=SHOWN).parent


def test_every_notebook_has_a_page_of_its_own(pages):
    assert len({p.url for p in pages}) == len(pages) == len([f for f in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in f.parts])
    assert all(p.title for p in pages) and all(p.about for p in pages if p.module)


def test_every_public_name_is_listed_once_and_with_what_it_does(pages):
    names = [n for p in pages for n in names_of(p, ROOT / "skelnb")]
    public = [(n.module, n.name) for n in names if n.public]
    assert len(public) == len(set(public)) > 800
    silent = [n.name for n in names if n.public and "." not in n.name and not n.about and n.signature != "(p, n, k)"]
    assert not silent, "public names without a docstring (but the synthetic actions, which are called what they are)"


def test_every_link_leads_somewhere(site, pages):
    known = {p.url for p in pages} | {"index.html", "api.html", "docs.css", "docs.js", "search.js"}
    for page in sorted(site.rglob("*.html")):
        text = page.read_text()
        for target, anchor in re.findall(r"(?:href|src)=\"([^\":#?]*)(#[^\"]*)?\"", text):
            place = (page.parent / target).resolve() if target else page
            url = place.relative_to(site.resolve()).as_posix()
            assert url in known, f"{page.name} links to {target}"
            if anchor and url in SHOWN:
                assert f'id="{anchor[1:]}"' in (site / url).read_text(), f"{page.name} links to {url}{anchor}"


def test_nothing_comes_from_the_network(site):
    for page in sorted({*site.rglob("*.*")} - {site / "search.js"}):
        text = page.read_text()
        assert not re.search(r"(src|href)=\"(https?:)?//[^\"]*\.(js|css|woff2?|png)|@import|cdn\.|mathjax", text, re.I)


def test_pages_open_offline_and_the_search_finds(site):
    with chromium() as browser:
        for scheme in ("light", "dark"):
            with tab(browser, site.as_uri(), color_scheme=scheme, offline=True) as page:
                page.goto((site / "index.html").as_uri())
                low = contrast(page)[1]
                page.locator("nav.menu input").fill("effective_rank")
                page.locator('#found a[href="objectives/rank.html#effective_rank"]').click()
                page.wait_for_url("**/rank.html#effective_rank")
                assert low + contrast(page)[1] == [], f"hard to read in {scheme}"


def test_search_entries_point_at_anchors(site, pages):
    entries = json.loads((site / "search.js").read_text().removeprefix("const SEARCH = ").removesuffix(";\n"))
    assert ["effective_rank", "skelnb.objectives.rank"] in [e[:2] for e in entries]
    for _, _, url, _ in entries:
        page, _, anchor = url.partition("#")
        if page in SHOWN[:2] and anchor:
            assert f'id="{anchor}"' in (site / page).read_text(), url
    only = next(p for p in pages if p.url == "objectives/rank.html")
    assert all("$" not in text for *_, text in search_entries(only))


def test_code_becomes_a_link_only_where_it_means_one_thing(pages):
    targets = link_targets(pages, [n for p in pages for n in names_of(p, ROOT / "skelnb")])
    assert "present" not in targets or targets["present"].endswith("#present")
    html = "<h2><code>SkeletonStore</code></h2><pre><code>SkeletonStore</code></pre><p><code>SkeletonStore</code> <code>no such</code></p>"
    linked = link_names(html, "index.html", targets)
    assert linked.count("<a ") == 1 and linked.endswith("<code>no such</code></p>")
    assert link_names("<code>SkeletonStore</code>", "data/deep/x.html", targets).count("../../data/store.html#skeletonstore") == 1
    assert anchor_headings("<h2>What is <em>there</em>?</h2>") == '<h2 id="what-is-there">What is <em>there</em>?</h2>'


def test_a_folder_without_notebooks_is_named(tmp_path):
    with pytest.raises(DataError, match="holds no notebooks"):
        find_pages(tmp_path)
