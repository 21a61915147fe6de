"""The site as MkDocs builds it: strictly, and with nothing that a reader's browser fetches elsewhere."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "object": "data"}
LINKED = {"stylesheet", "icon", "preload", "preconnect", "dns-prefetch", "modulepreload", "prefetch"}


class Fetches(HTMLParser):
    """What a browser fetches on its own when it shows the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag in FETCHED and FETCHED[tag] in given:
            self.found.append(given[FETCHED[tag]])
        if tag == "link" and LINKED & set(given.get("rel", "").split()):
            self.found.append(given.get("href", ""))
        self.found += re.findall(r"url\(([^)]+)\)", given.get("style", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def pages(site: Path) -> dict[str, str]:
    found = {str(path.relative_to(site)): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert len(found) > 40
    return found


def test_no_page_needs_another_host(site: Path) -> None:
    for name, page in pages(site).items():
        for address in Fetches(page).found:
            assert not re.match(r"(?i)([a-z]+:)?//", address), (name, address)
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"@import|url\(['\"]?(https?:)?//", text), style.name


def test_formulas_are_mathml(site: Path) -> None:
    found = pages(site)
    for path in (ROOT / "docs").rglob("*.md"):
        formulas = path.read_text(encoding="utf-8").count("```math")
        page = found[str(path.relative_to(ROOT / "docs").with_suffix(".html"))]
        assert page.count("<math") >= formulas, path
        assert "```math" not in page


def test_links_to_the_repositorys_documents_lead_to_pages(site: Path) -> None:
    found = pages(site)
    assert 'href="project/security.html"' in found["operations.html"]
    for name, page in found.items():
        if name == "404.html":
            continue  # served for any path, so that its links are from the root
        for target in re.findall(r'href="([^"#:?]+)["#?]', page):
            assert (site / name).parent.joinpath(target).resolve().exists(), (name, target)
